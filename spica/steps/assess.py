"""Verify and assess incoming exposures, a batch in one job."""

from __future__ import annotations

from spica.model.errors import DataError
from spica.model.image import ImageState
from spica.model.job import JobKind, Reason
from spica.model.product import ImageStateRecord, Role
from spica.steps.base import Step, StepContext
from spica.steps.quality import assess_exposure
from spica.steps.verify import registry_of, verify_exposure


def run(context: StepContext) -> None:
    """Verify every file of the request, then measure, weigh, draw and grade what is an exposure of the sky."""
    registry = registry_of(context)
    given = context.of_role(Role.EXPOSURE)
    for i, one in enumerate(given):
        context.progress(i, len(given), one.file.name)
        verified = verify_exposure(context, one, registry)
        if verified is None:
            continue
        try:
            assess_exposure(context, verified)
        except DataError as error:
            reason = Reason("quality", str(error))
            context.record(ImageStateRecord(verified.item, ImageState.FAILED, (reason,)))
            context.left_out(verified.item, reason)
            continue
        context.used(verified.item, verified.warnings[0] if verified.warnings else None)
    context.progress(len(given), len(given), "")


NATIVE = Step(kind=JobKind.ASSESS, run=run)

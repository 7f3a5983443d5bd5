"""Verify and assess incoming exposures, a batch in one job."""

from __future__ import annotations

from spica.model.errors import DataError
from spica.model.image import ImageState
from spica.model.job import JobKind, Reason
from spica.model.product import ImageStateRecord, Role
from spica.steps.base import Step, StepContext
from spica.steps.prepare import MasterShelf, prepare_exposure
from spica.steps.quality import assess_exposure
from spica.steps.verify import Verified, registry_of, verify_exposure


def run(context: StepContext) -> None:
    """Verify every file of the request; prepare, measure, weigh, draw and grade what is an exposure of the sky."""
    registry = registry_of(context)
    given = context.of_role(Role.EXPOSURE)
    with MasterShelf() as shelf:
        for i, one in enumerate(given):
            context.progress(i, len(given), one.file.name)
            verified = verify_exposure(context, one, registry)
            if verified is not None:
                _assess(context, verified, shelf)
    context.progress(len(given), len(given), "")


def _assess(context: StepContext, verified: Verified, shelf: MasterShelf) -> None:
    """Assess one exposure; one that cannot be prepared or measured is left out with its reason."""
    code = "prepare"
    try:
        prepared = prepare_exposure(context, verified, shelf)
        code = "quality"
        assess_exposure(context, prepared)
    except DataError as error:
        reason = Reason(code, str(error))
        context.record(ImageStateRecord(verified.item, ImageState.FAILED, (reason,)))
        context.left_out(verified.item, reason)
        return
    context.used(verified.item, verified.warnings[0] if verified.warnings else None)


NATIVE = Step(kind=JobKind.ASSESS, run=run)

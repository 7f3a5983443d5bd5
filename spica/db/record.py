"""Writes the records of a result: one recording function a type, in the harvest's transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from spica.db import calibration, catalogue, delivery, grade, image, product, quality, solution
from spica.db.context import HarvestContext
from spica.model.harvest import Record
from spica.model.image import ExposureRecord

RECORDERS: dict[str, Callable[[Session, Any, HarvestContext], None]] = {
    "exposure": image.record_exposure,
    "quality": quality.record_quality,
    "grade": grade.record_grade,
    "solution": solution.record_solution,
    "stack": product.record_stack,
    "catalogue": catalogue.record_catalogue,
    "delivery": delivery.record_delivery,
    "image_state": image.record_state,
    "master": calibration.record_master,
    "calibration_use": calibration.record_use,
}
ORDER = tuple(RECORDERS)


def record_all(session: Session, records: list[Record], context: HarvestContext) -> None:
    """Write records in the order of `RECORDERS`, whatever order the step gave them; exposures in one batch."""
    image.record_exposures(session, [r for r in records if isinstance(r, ExposureRecord)], context)
    others = [r for r in records if not isinstance(r, ExposureRecord)]
    for record in sorted(others, key=lambda r: ORDER.index(r.type)):
        RECORDERS[record.type](session, record, context)

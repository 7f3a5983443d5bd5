"""Records of a result by their `type`: what the harvest knows how to write."""

from __future__ import annotations

from typing import Any

from spica.model.calibration import CalibrationUse, MasterRecord
from spica.model.errors import DataError
from spica.model.grade import GradeRecord
from spica.model.image import ExposureRecord
from spica.model.product import CatalogueRecord, DeliveryRecord, ImageStateRecord, StackRecord
from spica.model.quality import QualityRecord
from spica.model.record import from_json
from spica.model.solution import SolutionRecord

Record = (
    ExposureRecord
    | QualityRecord
    | GradeRecord
    | SolutionRecord
    | StackRecord
    | CatalogueRecord
    | DeliveryRecord
    | ImageStateRecord
    | MasterRecord
    | CalibrationUse
)

RECORDS: dict[str, type[Record]] = {
    "exposure": ExposureRecord,
    "quality": QualityRecord,
    "grade": GradeRecord,
    "solution": SolutionRecord,
    "stack": StackRecord,
    "catalogue": CatalogueRecord,
    "delivery": DeliveryRecord,
    "image_state": ImageStateRecord,
    "master": MasterRecord,
    "calibration_use": CalibrationUse,
}


def read_record(data: dict[str, Any]) -> Record:
    """Return the typed record of one entry of `Result.records`."""
    kind = data.get("type")
    if kind not in RECORDS:
        raise DataError(f"result holds a record of unknown type {kind!r}; it was written by another version of Spica")
    return from_json(RECORDS[kind], data, str(kind))

"""Quality rows: every assessment is kept, a pointer names the one that counts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import notify
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import QualityRow
from spica.model.image import ImageKind, ImageState
from spica.model.quality import DetectorMeasures, QualityRecord

SELECTABLE = ("seeing_arcsec", "ellipticity", "background_adu", "noise_adu", "n_stars")
SOLVED = ("limiting_mag", "zero_point_mag", "skyprobe_mag")


def record_quality(session: Session, record: QualityRecord, context: HarvestContext) -> None:
    """Keep one assessment with those of its detectors, and make it the one that counts.

    The zero point of an exposure's assessment counts only until a solution has given one.
    """
    image_id = context.need_image(record.item)
    whole = _row(image_id, context.attempt_id, record.measures, None)
    session.add(whole)
    session.flush()
    session.add_all(_row(image_id, context.attempt_id, d, whole.id) for d in record.detectors)
    values: dict[str, Any] = {name: getattr(record.measures, name) for name in SELECTABLE}
    image = session.get_one(ImageRow, image_id)
    if image.solution_id is None:
        values |= {
            name: getattr(record.measures, name) for name in SOLVED if getattr(record.measures, name) is not None
        }
    session.execute(update(MeasureRow).where(MeasureRow.image_id == image_id).values(**values))
    image.quality_id = whole.id
    if image.kind is ImageKind.EXPOSURE and image.state is ImageState.REGISTERED:
        image.state = ImageState.ASSESSED
    session.flush()
    notify(session, f"image:{image_id}")


def _row(image_id: int, attempt_id: int, measures: DetectorMeasures, parent_id: int | None) -> QualityRow:
    values = asdict(measures)
    return QualityRow(
        image_id=image_id, attempt_id=attempt_id, parent_id=parent_id, number=values.pop("detector"), **values
    )


def detector_quality(session: Session, quality_id: int) -> list[QualityRow]:
    """Return the rows of the detectors within one assessment, by number."""
    query = select(QualityRow).where(QualityRow.parent_id == quality_id).order_by(QualityRow.number)
    return list(session.scalars(query))

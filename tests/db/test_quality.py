"""Assessments are history; the pointer and the narrow row of selectable measures follow the newest."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.quality import detector_quality, record_quality
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import QualityRow
from spica.model.image import ImageState
from spica.model.quality import DetectorMeasures, QualityRecord


def test_the_newest_assessment_counts_and_the_old_ones_stay(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    first = session.get_one(ImageRow, image_id).quality_id
    whole = DetectorMeasures(None, seeing_arcsec=1.4, n_stars=12)
    parts = (DetectorMeasures(1, seeing_arcsec=1.5), DetectorMeasures(0, seeing_arcsec=1.3))
    record_quality(session, QualityRecord(f"image:{image_id}", whole, parts), context)
    image = session.get_one(ImageRow, image_id, populate_existing=True)
    measure = session.get_one(MeasureRow, image_id, populate_existing=True)
    assert image.quality_id > first
    assert image.state is ImageState.ASSESSED
    assert (measure.seeing_arcsec, measure.n_stars, measure.ellipticity) == (1.4, 12, None)
    assert [(d.number, d.seeing_arcsec) for d in detector_quality(session, image.quality_id)] == [(0, 1.3), (1, 1.5)]
    wholes = select(func.count()).select_from(QualityRow).where(QualityRow.parent_id.is_(None))
    assert session.scalar(wholes) == 2


def test_an_assessment_does_not_undo_what_a_solution_measured(world: Any, session: Session) -> None:
    from spica.db.solution import record_solution
    from spica.model.solution import SolutionRecord, SolvedImage

    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    solved = SolvedImage(f"image:{image_id}", 150.0, 2.0, 30, 5.0, 6.0, 3.0, 0.0, 9.0, 25.5, 0.01, 25.4, 0.2, 0.01, 30)
    record_solution(session, SolutionRecord("sky", 30, 5.0, 6.0, 0.01, 0.02, "AB", "r", (solved,)), context)
    measures = DetectorMeasures(None, seeing_arcsec=0.9, zero_point_mag=20.0, limiting_mag=1.0)
    record_quality(session, QualityRecord(f"image:{image_id}", measures, ()), context)
    row = session.get_one(MeasureRow, image_id, populate_existing=True)
    assert (row.zero_point_mag, row.skyprobe_mag, row.seeing_arcsec) == (25.5, 0.2, 0.9)
    assert session.get_one(ImageRow, image_id).state is ImageState.CALIBRATED

"""Solutions: zero points and footprints of exposures where the solution holds; history where it does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.solution import record_solution
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow
from spica.db.tables.quality import SolutionImageRow, SolutionRow
from spica.model.image import ImageState, PositionSource
from spica.model.job import Reason
from spica.model.solution import SolutionRecord, SolvedDetector, SolvedImage

POLYGON = ((150.0, 2.0), (150.1, 2.0), (150.1, 2.1), (150.0, 2.1))


def _record(image_id: int, problems: tuple[Reason, ...] = (), zero_point: float | None = 25.5) -> SolutionRecord:
    detectors = (SolvedDetector(0, POLYGON, 0.3),)
    solved = SolvedImage(
        f"image:{image_id}",
        150.05,
        2.05,
        30,
        5.0,
        6.0,
        3.0,
        0.01,
        9.0,
        zero_point,
        0.01,
        25.4,
        0.2,
        0.01,
        30,
        detectors,
    )
    return SolutionRecord("sky", 30, 5.0, 6.0, 0.01, 0.02, "AB" if zero_point else None, "r", (solved,), problems)


def test_a_solution_that_holds_calibrates(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    record_solution(session, _record(image_id), context)
    session.expire_all()
    image, measure = session.get_one(ImageRow, image_id), session.get_one(MeasureRow, image_id)
    assert (image.state, image.mag_system) == (ImageState.CALIBRATED, "AB")
    assert (image.ra_deg, image.dec_deg, image.position_source) == (150.05, 2.05, PositionSource.SOLUTION)
    assert (measure.zero_point_mag, measure.skyprobe_mag) == (25.5, 0.2)
    # 5 sigma in 2 arcsec is 100 ADU in 90 s in this world.
    assert measure.limiting_mag == pytest.approx(25.5 - 2.5 * math.log10(100.0 / 90.0), abs=1e-9)
    detector = session.scalars(select(DetectorRow)).one()
    assert list(zip(detector.polygon_ra_deg, detector.polygon_dec_deg, strict=True)) == list(POLYGON)
    assert image.solution_id == session.scalars(select(SolutionRow.id)).one()


def test_a_solution_with_problems_is_kept_but_changes_nothing(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    record_solution(session, _record(image_id, (Reason("rms", "too large"),)), context)
    session.expire_all()
    image = session.get_one(ImageRow, image_id)
    assert (image.state, image.solution_id, image.ra_deg) == (ImageState.ASSESSED, None, 150.0)
    assert session.get_one(MeasureRow, image_id).zero_point_mag is None
    assert session.scalars(select(SolutionRow.holds)).one() is False
    assert session.scalar(select(func.count()).select_from(SolutionImageRow)) == 1


def test_a_relative_solution_gives_no_zero_point(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    record_solution(session, _record(image_id, zero_point=None), context)
    session.expire_all()
    assert session.get_one(MeasureRow, image_id).zero_point_mag is None
    assert session.get_one(ImageRow, image_id).mag_system is None

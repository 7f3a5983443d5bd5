"""Image rows: the same content is registered once, names are kept apart, states and footprints are replaced."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.image import find_image, near_names, plan_image, record_exposure, record_state, replace_footprint
from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, ImageReasonRow, ImageRow, MeasureRow
from spica.model.association import Mode
from spica.model.image import ExposureRecord, FileKind, FrameType, ImageKind, ImageState, PositionSource
from spica.model.job import Reason
from spica.model.product import ImageStateRecord


def _count(session: Session, table: Any) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


def test_the_same_content_again_changes_nothing(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    row = session.get_one(ImageRow, image_id)
    again = dataclasses.replace(context, images={})
    record = ExposureRecord(f"file:{row.file_id}", "other", ImageState.REJECTED, (Reason("x", "y"),), object="M31")
    record_exposure(session, record, again)
    session.refresh(row)
    assert again.images == {f"file:{row.file_id}": image_id}
    assert (row.name, row.object, row.state) == ("exp1", "D2", ImageState.ASSESSED)
    assert [_count(session, t) for t in (ImageRow, DetectorRow, MeasureRow, ImageReasonRow)] == [1, 1, 1, 0]


def test_one_name_for_two_contents_is_kept_apart(world: Any, session: Session) -> None:
    context = world.attempt(session)
    first, second = (session.get_one(ImageRow, world.exposure(session, context, "exp1")) for _ in range(2))
    sha256 = session.scalars(select(FileRow.sha256).where(FileRow.id == second.file_id)).one()
    assert (first.name, second.name) == ("exp1", f"exp1~{sha256[:8]}")
    assert find_image(session, "exp1") is first
    assert find_image(session, str(second.id)) is second
    assert find_image(session, "9" * 30) is None
    assert near_names(session, "exp") == [first.name, second.name]


def test_a_name_made_of_digits_goes_before_an_id(world: Any, session: Session) -> None:
    context = world.attempt(session)
    first = world.exposure(session, context, "exp1")
    second = world.exposure(session, context, str(first))
    found = find_image(session, str(first))
    assert found is not None
    assert found.id == second


def test_a_file_without_an_image_becomes_ignored(world: Any, session: Session) -> None:
    context = world.attempt(session)
    ref = world.file(session, name="notes.txt")
    record_exposure(session, ExposureRecord(f"file:{ref.id}", "notes", None, (Reason("no_image", "text"),)), context)
    assert session.get_one(FileRow, ref.id).kind is FileKind.IGNORED
    assert _count(session, ImageRow) == 0


def test_a_calibration_frame_is_no_science(world: Any, session: Session) -> None:
    context = world.attempt(session)
    ref = world.file(session, name="flat.fits")
    flat = ExposureRecord(f"file:{ref.id}", "flat", ImageState.REGISTERED, frame_type=FrameType.FLAT)
    record_exposure(session, flat, context)
    assert session.get_one(FileRow, ref.id).kind is FileKind.CALIBRATION
    assert session.scalars(select(ImageRow.frame_type)).one() is FrameType.FLAT


def test_reasons_are_replaced_with_the_state(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    for code in ("one", "two"):
        reason = Reason(code, f"because {code}", 1.5, "1.2")
        record_state(session, ImageStateRecord(f"image:{image_id}", ImageState.FAILED, (reason,)), context)
    rows = session.scalars(select(ImageReasonRow)).all()
    assert [(r.code, r.text, r.value, r.limit, r.image_id) for r in rows] == [
        ("two", "because two", "1.5", "1.2", image_id)
    ]
    assert session.get_one(ImageRow, image_id, populate_existing=True).state is ImageState.FAILED


def test_a_better_footprint_takes_the_place_of_the_header(world: Any, session: Session) -> None:
    image_id = world.exposure(session, world.attempt(session), "exp1")
    polygon = [(359.9, 1.0), (0.1, 1.0), (0.1, 1.2), (359.9, 1.2)]
    before = session.get_one(ImageRow, image_id).healpix
    replace_footprint(session, image_id, {0: polygon}, (0.0, 1.1), PositionSource.SOLUTION)
    row = session.get_one(ImageRow, image_id, populate_existing=True)
    assert (row.ra_deg, row.dec_deg, row.position_source) == (0.0, 1.1, PositionSource.SOLUTION)
    assert row.healpix != before
    detector = session.scalars(select(DetectorRow)).one()
    assert list(zip(detector.polygon_ra_deg, detector.polygon_dec_deg, strict=True)) == polygon


def test_a_planned_stack_takes_what_its_members_share(world: Any, session: Session) -> None:
    from spica.db.plan import add_plan

    context = world.attempt(session)
    a = world.exposure(session, context, "a", at=(359.99, 10.0), night="2026-09-06")
    b = world.exposure(session, context, "b", at=(0.01, 10.0), night="2026-09-07")
    plan_id = add_plan(session, mode=Mode.SURVEY, label="D2_r")
    made = plan_image(
        session, kind=ImageKind.STACK, name="D2_r", mode=Mode.SURVEY, plan_id=plan_id, like=[a, b], centre_deg=None
    )
    row = session.get_one(ImageRow, made)
    assert (row.state, row.object, row.filter, row.run, row.night) == (ImageState.PLANNED, "D2", "r", "26BS01", None)
    assert row.exptime_s == 180.0
    assert min(row.ra_deg, 360 - row.ra_deg) == pytest.approx(0.0, abs=1e-9)
    assert row.dec_deg == pytest.approx(10.0, abs=1e-5)

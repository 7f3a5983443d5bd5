"""Image rows: the same content is registered once, names are kept apart, states and footprints are replaced."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.context import PlacedProduct
from spica.db.image import (
    find_image,
    near_names,
    plan_image,
    record_exposure,
    record_exposures,
    record_state,
    replace_footprint,
)
from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, HeaderRow, ImageReasonRow, ImageRow, MeasureRow, SkyRangeRow
from spica.model.association import Mode
from spica.model.errors import DataError
from spica.model.image import (
    DetectorRecord,
    ExposureRecord,
    FileKind,
    FrameType,
    ImageKind,
    ImageState,
    PositionSource,
)
from spica.model.job import Reason
from spica.model.product import ImageStateRecord, Role


def _count(session: Session, table: Any) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


def _facts(session: Session, image_id: int) -> tuple[Any, ...]:
    row = session.get_one(ImageRow, image_id)
    session.refresh(row)
    ranges = session.scalars(select(SkyRangeRow.low).where(SkyRangeRow.image_id == image_id)).all()
    return row.name, row.object, row.state, row.ra_deg, row.position_source, row.plan_id, sorted(ranges)


def test_known_content_is_no_second_image_and_its_facts_are_brought_up_to_date(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    again = dataclasses.replace(context, images={})
    item = f"file:{session.get_one(ImageRow, image_id).file_id}"
    record = ExposureRecord(item, "other", ImageState.REJECTED, (Reason("x", "y"),), object="M31")
    for _ in range(2):
        record_exposure(session, record, again)
        assert again.images == {item: image_id}
        assert _facts(session, image_id)[:3] == ("exp1", "M31", ImageState.REJECTED)
        assert [_count(session, t) for t in (ImageRow, DetectorRow, MeasureRow, ImageReasonRow)] == [1, 0, 1, 1]


def test_a_rejected_exposure_becomes_one_when_a_profile_reads_it(world: Any, session: Session) -> None:
    context = world.attempt(session)
    good = _exposures(world, session, ["exp1"])[0]
    missing = ExposureRecord(good.item, "exp1", ImageState.REJECTED, (Reason("missing_object", "no object"),))
    record_exposure(session, missing, context)
    image_id = context.need_image(good.item)
    record_exposure(session, good, context)
    before = _facts(session, image_id)
    assert before[2] is ImageState.REGISTERED
    assert before[6]
    assert _count(session, ImageReasonRow) == 0
    assert _count(session, DetectorRow) == len(good.detectors)
    record_exposure(session, good, context)
    assert _facts(session, image_id) == before


def test_a_solved_position_stays_when_an_exposure_is_assessed_again(world: Any, session: Session) -> None:
    context = world.attempt(session)
    record = _exposures(world, session, ["exp1"])[0]
    record_exposure(session, record, context)
    image_id = context.need_image(record.item)
    better = {d.index: [(10.0, 1.0), (10.1, 1.0), (10.1, 1.1)] for d in record.detectors}
    replace_footprint(session, image_id, better, (10.05, 1.05), PositionSource.SOLUTION)
    session.get_one(ImageRow, image_id).state = ImageState.CALIBRATED
    session.flush()
    before = _facts(session, image_id)
    record_exposure(session, dataclasses.replace(record, object="other object"), context)
    after = _facts(session, image_id)
    assert after[1] == "other object"
    assert (before[0], *before[2:]) == (after[0], *after[2:])
    rows = session.scalars(select(DetectorRow).where(DetectorRow.image_id == image_id)).all()
    assert {tuple(d.polygon_ra_deg or ()) for d in rows} == {(10.0, 10.1, 10.1)}


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


def _exposures(world: Any, session: Session, names: list[str]) -> list[ExposureRecord]:
    """Return one record a name; fields of two detectors, each at a place of its own."""
    records = []
    for k, name in enumerate(names):
        ra = (359.9 + 0.3 * k) % 360.0
        corners = [((ra + x) % 360.0, 5.0 + y) for x, y in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.1), (0.0, 0.1))]
        detectors = tuple(
            DetectorRecord(i, i + 1, f"ccd{i:02d}", 400, 300, gain, None, 6e4, 0.9, tuple(corners) if i == 0 else None)
            for i, gain in enumerate((1.5, None))
        )
        item = f"file:{world.file(session, name=f'{name}.fits').id}"
        facts = {"object": "M 31", "filter": "r", "night": "2026-09-06", "mjd": 61290.0 + k, "exptime_s": 30.0}
        records.append(
            ExposureRecord(item, name, ImageState.REGISTERED, ra_deg=ra, dec_deg=5.0, detectors=detectors, **facts)
        )
    return records


def _all_rows(session: Session) -> list[tuple[object, ...]]:
    """Return what the tables hold of images, by name, without surrogate keys and times."""
    rows: list[tuple[object, ...]] = []
    for table in (ImageRow, DetectorRow, MeasureRow, SkyRangeRow, HeaderRow, ImageReasonRow):
        keys = [c for c in table.__table__.columns if c.name not in {"id", "image_id", "file_id", "created_at", "at"}]
        name = ImageRow.name if table is not ImageRow else ImageRow.id - ImageRow.id
        query = select(name, *keys)
        if table is not ImageRow:
            query = query.join(ImageRow, ImageRow.id == table.__table__.c.image_id)
        rows += [(table.__tablename__, *row) for row in session.execute(query)]
    return sorted(rows, key=repr)


def test_a_batch_writes_what_one_by_one_writes(world: Any, make_database: Any, tmp_path: Path) -> None:
    """Rejected and calibration frames, files without an image and packed headers among them."""
    found = []
    for batched in (True, False):
        with make_database().begin() as session:
            context = world.attempt(session)
            records = _exposures(world, session, ["a", "b", "c", "d", "e"])
            records[1] = dataclasses.replace(
                records[1], state=ImageState.REJECTED, reasons=(Reason("bad", "text", 1.5, 2), Reason("worse", "t"))
            )
            records[2] = dataclasses.replace(records[2], frame_type=FrameType.FLAT, ra_deg=None, dec_deg=None)
            records[3] = dataclasses.replace(records[3], state=None)
            products = []
            for r in records[:3]:
                path = tmp_path / f"{r.name}.headers"
                path.write_bytes(b"SPH" + r.name.encode())
                products.append(PlacedProduct(Role.HEADERS, r.item, None, 1, path))
            context = dataclasses.replace(context, products=tuple(products))
            if batched:
                record_exposures(session, records, context)
            else:
                for r in records:
                    record_exposure(session, r, context)
            kinds = session.scalars(select(FileRow.kind).order_by(FileRow.id)).all()
            found.append((_all_rows(session), kinds, sorted(context.images)))
            assert len(context.images) == 4
    assert found[0] == found[1]
    counts = Counter(row[0] for row in found[0][0])
    assert counts["sky_range"] > 4
    assert (counts["image"], counts["detector"], counts["measure"]) == (4, 8, 4)
    assert (counts["header"], counts["image_reason"]) == (3, 2)
    assert found[0][1][2:4] == [FileKind.CALIBRATION, FileKind.IGNORED]


def test_within_a_batch_names_are_kept_apart_and_contents_known(world: Any, session: Session) -> None:
    """Two contents of one name, one content twice, one that was known before: four records, three images."""
    context = world.attempt(session)
    known = world.exposure(session, context, "x")
    one, two = _exposures(world, session, ["x", "y"])
    two = dataclasses.replace(two, name="y")
    three = dataclasses.replace(_exposures(world, session, ["z"])[0], name="y")
    old = dataclasses.replace(one, item=f"file:{session.get_one(ImageRow, known).file_id}", name="other")
    again = dataclasses.replace(two, name="twice")
    fresh = dataclasses.replace(context, images={})
    record_exposures(session, [one, two, three, old, again], fresh)
    names = {item: session.get_one(ImageRow, i).name for item, i in fresh.images.items()}
    assert len(set(fresh.images.values())) == 4
    assert names[old.item] == "x"
    assert names[two.item] == "y"
    assert names[one.item].startswith("x~")
    assert names[three.item].startswith("y~")
    assert _count(session, ImageRow) == 4
    record_exposures(session, [], fresh)
    assert _count(session, ImageRow) == 4


def test_a_batch_takes_few_statements(world: Any, session: Session, counted: Any) -> None:
    """Twenty exposures take no more statements than five."""
    context = world.attempt(session)
    counts = []
    for n in (5, 20):
        records = _exposures(world, session, [f"n{n}x{k}" for k in range(n)])
        with counted() as seen:
            record_exposures(session, records, context)
        counts.append(len(seen))
    assert counts[0] == counts[1] <= 10


def test_an_exposure_of_a_file_that_is_not_known_is_refused(world: Any, session: Session) -> None:
    context = world.attempt(session)
    with pytest.raises(DataError, match="ingest the file again"):
        record_exposure(session, ExposureRecord("file:987654", "ghost", ImageState.REGISTERED), context)

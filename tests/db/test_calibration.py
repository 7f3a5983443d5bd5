"""Master calibrations in the database: which one an exposure gets, what is registered, what was used."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from spica.db.calibration import (
    find_masters,
    has_masters,
    known_masters,
    list_masters,
    masters_of,
    masters_of_images,
    record_master,
    record_use,
    register_master,
    withdraw_master,
)
from spica.db.context import PlacedProduct
from spica.db.product import record_product
from spica.db.tables.calibration import CalibrationRow, CalibrationUseRow
from spica.db.tables.file import FileRow
from spica.model.calibration import CalibrationUse, MasterKind, MasterRecord, Validity, Wanted
from spica.model.errors import DataError, UsageError
from spica.model.image import FileKind
from spica.model.job import ProductRef
from spica.model.product import Role

WANTED = Wanted("cam", "r", "26BS01", "2026-09-06", 61290.3, 90.0)
FLAT, DARK, BIAS, BAD = MasterKind.FLAT, MasterKind.DARK, MasterKind.BIAS, MasterKind.BAD_PIXELS


def _add(world: Any, session: Any, kind: MasterKind = FLAT, **more: Any) -> int:
    """Register a master of a new file; what is not said of its validity is that of `WANTED` without run and nights."""
    how = {k: more.pop(k) for k in ("mjd", "exptime_s", "n_inputs", "product_hash", "attempt_id") if k in more}
    validity = Validity(**({"instrument": "cam", "filter": "r"} | more))
    return register_master(session, world.file(session, FileKind.PRODUCT).id, kind, validity, **how)


def _found(session: Any, kind: MasterKind = FLAT, **more: Any) -> int | None:
    master = find_masters(session, dataclasses.replace(WANTED, **more)).get(kind)
    return None if master is None else master.id


def test_the_own_run_counts_before_any_run(world: Any, session: Any) -> None:
    own = _add(world, session, run="26BS01", mjd=60000.0)
    any_run = _add(world, session, mjd=WANTED.mjd)
    _add(world, session, run="26AS01", mjd=WANTED.mjd)
    assert _found(session) == own
    assert _found(session, run="24BS09") == any_run
    assert _found(session, run=None) == any_run


@pytest.mark.parametrize(
    ("master", "wanted"),
    [
        ({}, {"instrument": "camera"}),
        ({}, {"filter": "i"}),
        ({}, {"filter": None}),
        ({"run": "26BS01"}, {"run": "26BS02"}),
        ({"run": "26BS01"}, {"run": None}),
        ({"first_night": "2026-09-07"}, {}),
        ({"last_night": "2026-09-05"}, {}),
        ({"first_night": "2026-09-01", "last_night": "2026-09-05"}, {}),
        ({"first_night": "2026-09-01"}, {"night": None}),
        ({"last_night": "2026-09-30"}, {"night": None}),
    ],
)
def test_a_master_of_something_else_never_serves(world: Any, session: Any, master: Any, wanted: Any) -> None:
    _add(world, session, **master)
    assert _found(session, **wanted) is None


def test_both_nights_are_included_and_open_ends_hold(world: Any, session: Any) -> None:
    one = _add(world, session, first_night="2026-09-06", last_night="2026-09-06")
    assert _found(session) == one
    assert _found(session, night="2026-09-07") is None
    later = _add(world, session, first_night="2026-09-07")
    assert _found(session, night="2030-01-01") == later
    (listed, _) = list_masters(session)
    assert (listed.validity.first_night, listed.validity.last_night) == ("2026-09-06", "2026-09-06")


def test_bias_dark_and_bad_pixels_hold_for_all_filters(world: Any, session: Any) -> None:
    ids = {kind: _add(world, session, kind) for kind in (BIAS, DARK, BAD)}
    flat = _add(world, session)
    assert {k: m.id for k, m in find_masters(session, dataclasses.replace(WANTED, filter="z")).items()} == ids
    assert {k: m.id for k, m in find_masters(session, WANTED).items()} == ids | {FLAT: flat}
    assert {m.validity.filter for m in list_masters(session) if m.kind is not FLAT} == {None}


def test_the_nearest_in_time_counts_and_of_equal_ones_the_newer(world: Any, session: Any) -> None:
    ids = [_add(world, session, mjd=mjd) for mjd in (61280.0, 61289.0, 61295.0, 61295.0)]
    timeless = _add(world, session)
    assert _found(session) == ids[1]
    assert _found(session, mjd=61294.0) == ids[3]
    assert _found(session, mjd=61000.0) == ids[0]
    withdraw_master(session, ids[0])
    assert _found(session, mjd=61000.0) == ids[1]
    for i in ids[1:]:
        withdraw_master(session, i)
    assert _found(session) == timeless


def test_darks_of_the_nearest_exposure_time_count(world: Any, session: Any) -> None:
    ids = {s: _add(world, session, DARK, exptime_s=s, mjd=61290.0 - s) for s in (10.0, 60.0, 300.0)}
    near = _add(world, session, DARK, exptime_s=300.0, mjd=WANTED.mjd)
    assert _found(session, DARK) == ids[60.0]
    assert _found(session, DARK, exptime_s=12.0) == ids[10.0]
    assert _found(session, DARK, exptime_s=500.0) == near


MASTERS = st.lists(
    st.tuples(
        st.sampled_from(("cam", "other")),
        st.sampled_from(("r", "i")),
        st.sampled_from((None, "26BS01", "26BS02")),
        st.sampled_from((None, "2026-09-05", "2026-09-06", "2026-09-07")),
        st.sampled_from((None, 61280.0, 61290.0, 61291.0)),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None, database=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(MASTERS)
def test_of_any_set_the_best_that_fits_is_found(world: Any, rows: list[Any]) -> None:
    with world.database.begin() as session:
        made = {}
        for camera, filter_name, run, night, mjd, used in rows:
            i = _add(
                world, session, instrument=camera, filter=filter_name, run=run, first_night=night, last_night=night,
                mjd=mjd,
            )  # fmt: skip
            made[i] = (camera, filter_name, run, night, mjd)
            if not used:
                withdraw_master(session, i)
                made.pop(i)
        fitting = {
            i: (run is None, 1e9 if mjd is None else abs(mjd - WANTED.mjd), -i)
            for i, (camera, filter_name, run, night, mjd) in made.items()
            if camera == "cam" and filter_name == "r" and run in (None, "26BS01") and night in (None, "2026-09-06")
        }
        assert _found(session) == (min(fitting, key=lambda i: fitting[i]) if fitting else None)
        session.rollback()


def test_withdrawn_masters_are_used_no_more_but_stay(world: Any, session: Any) -> None:
    assert not has_masters(session)
    one = _add(world, session, product_hash="a" * 64)
    assert has_masters(session)
    assert {h: m.id for h, m in known_masters(session, ["a" * 64, "b" * 64]).items()} == {"a" * 64: one}
    assert withdraw_master(session, one).id == one
    assert (_found(session), has_masters(session), known_masters(session, ["a" * 64])) == (None, False, {})
    assert list_masters(session) == []
    (kept,) = list_masters(session, withdrawn=True)
    assert (kept.id, kept.withdrawn) == (one, True)
    for again in (one, 999):
        with pytest.raises(UsageError, match="spica calibration list"):
            withdraw_master(session, again)


def test_registering_again_changes_what_it_holds_for(world: Any, session: Any) -> None:
    ref = world.file(session, FileKind.EXPOSURE)
    one = register_master(session, ref.id, FLAT, Validity("cam", "r", "26BS01"), mjd=1.0, n_inputs=7)
    withdraw_master(session, one)
    assert register_master(session, ref.id, FLAT, Validity("cam", "i"), mjd=61290.0) == one
    assert (_found(session), _found(session, filter="i")) == (None, one)
    (master,) = list_masters(session)
    assert (master.validity.run, master.mjd, master.n_inputs, master.file) == (None, 61290.0, 0, ref)
    assert session.get_one(FileRow, ref.id).kind is FileKind.CALIBRATION
    # The same file may be another kind of master too.
    assert register_master(session, ref.id, BAD, Validity("cam")) != one
    assert session.scalar(select(func.count()).select_from(CalibrationRow)) == 2


@pytest.mark.parametrize(
    ("kind", "validity", "words"),
    [
        (FLAT, Validity("cam"), "--filter"),
        (MasterKind.FRINGE, Validity("cam", ""), "--filter"),
        (BIAS, Validity("cam", first_night="2026-09-07", last_night="2026-09-06"), "exchange them"),
        (BIAS, Validity("cam", first_night="7 September"), "write it as"),
    ],
)
def test_what_holds_for_nothing_is_refused(world: Any, session: Any, kind: Any, validity: Any, words: str) -> None:
    ref = world.file(session)
    with pytest.raises(UsageError, match=words):
        register_master(session, ref.id, kind, validity)
    assert list_masters(session, withdrawn=True) == []


def test_a_master_that_a_job_made_is_registered_with_its_attempt(world: Any, session: Any, tmp_path: Any) -> None:
    context = world.attempt(session, "master")
    ref = world.file(session, FileKind.PRODUCT, "flat_cam_r.fits")
    placed = PlacedProduct("flat", None, None, ref.id, tmp_path / ref.name, ref.name)
    context = dataclasses.replace(context, products=(placed,))
    record = MasterRecord(ref.name, FLAT, Validity("cam", "r", "26BS01"), 61290.0, None, 5, "a" * 64)
    record_master(session, record, context)
    record_master(session, record, context)
    (master,) = list_masters(session)
    assert (master.kind, master.file, master.n_inputs, master.product_hash) == (FLAT, ref, 5, "a" * 64)
    (row,) = session.scalars(select(CalibrationRow)).all()
    assert row.attempt_id == context.attempt_id
    assert session.get_one(FileRow, ref.id).kind is FileKind.PRODUCT
    with pytest.raises(DataError, match="none of its products"):
        record_master(session, dataclasses.replace(record, product="other.fits"), context)


def _assess(world: Any, session: Any, image: int | None, *uses: tuple[int, bool, float | None]) -> tuple[int, Any]:
    """Assess an exposure (a new one where there is none), which uses masters by number."""
    context = world.attempt(session)
    if image is None:
        image = world.exposure(session, context, f"exp{world.count}")
    else:
        made = world.file(session, FileKind.PRODUCT)
        product = ProductRef(Role.FACTS, made.name, made.sha256, made.size, made.name, item=f"image:{image}")
        record_product(session, product, made.id, context)
    masters = {m.id: m for m in list_masters(session, withdrawn=True)}
    for number, corrected, scale in uses:
        m = masters[number]
        record_use(session, CalibrationUse(f"image:{image}", m.kind, m.file.sha256, corrected, scale), context)
    return image, context


def test_the_latest_assessment_says_which_masters_were_used(world: Any, session: Any) -> None:
    flat, bias = _add(world, session), _add(world, session, BIAS)
    fringe = _add(world, session, MasterKind.FRINGE)
    image, _ = _assess(world, session, None, (flat, False, None))
    other, _ = _assess(world, session, None, (bias, True, None))
    assert [(m.id, u.corrected) for m, u in masters_of(session, image)] == [(flat, False)]
    _assess(world, session, image, (flat, True, None), (fringe, True, 12.5), (bias, True, None))
    found = {m.id: (u.corrected, u.scale) for m, u in masters_of(session, image)}
    assert found == {bias: (True, None), flat: (True, None), fringe: (True, 12.5)}
    both = masters_of_images(session, [image, other, 999])
    assert {i: {m.id for m, _ in rows} for i, rows in both.items()} == {image: set(found), other: {bias}}
    _assess(world, session, image)
    assert masters_of(session, image) == [], "the latest assessment used none"
    assert session.scalar(select(func.count()).select_from(CalibrationUseRow)) == 5


def test_a_use_is_kept_once_and_of_a_withdrawn_master_too(world: Any, session: Any) -> None:
    flat = _add(world, session)
    withdraw_master(session, flat)
    image, context = _assess(world, session, None, (flat, False, None))
    (master,) = list_masters(session, withdrawn=True)
    record_use(session, CalibrationUse(f"image:{image}", FLAT, master.file.sha256, True), context)
    ((_, use),) = masters_of(session, image)
    session.refresh(use)
    assert use.corrected
    with pytest.raises(DataError, match="no bias with sha256"):
        record_use(session, CalibrationUse(f"image:{image}", BIAS, master.file.sha256, True), context)

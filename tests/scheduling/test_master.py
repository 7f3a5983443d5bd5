"""Masters: raw frames are grouped and planned once, given files registered, exposures get theirs as inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlalchemy import select, text

from spica.db.calibration import find_masters, list_masters, record_use, register_master, withdraw_master
from spica.db.image import record_exposure
from spica.db.product import record_product
from spica.db.tables.calibration import CalibrationRow
from spica.db.tables.job import JobEdgeRow, JobRow, PlanRow
from spica.files.header import HeaderCards, make_cards
from spica.instruments.registry import load_instruments
from spica.model.association import Mode
from spica.model.calibration import CalibrationUse, MasterKind, Validity, Wanted
from spica.model.errors import DataError, NothingToDoError, RecipeError, UsageError
from spica.model.image import DetectorRecord, ExposureRecord, FileKind, FrameType, ImageState
from spica.model.job import ProductRef, Request, item_of_file
from spica.model.product import Role
from spica.model.recipe import read_recipe
from spica.model.record import from_json
from spica.scheduling.given import Given, add_masters
from spica.scheduling.master import MasterWish, attach_masters, find_groups, make_masters

RECIPE = read_recipe([], [])
BIAS, DARK, FLAT, FRINGE = MasterKind.BIAS, MasterKind.DARK, MasterKind.FLAT, MasterKind.FRINGE
ALL = MasterWish((BIAS, DARK, FLAT))


def _product(world: Any, session: Any, context: Any, image_id: int, role: Role) -> None:
    made = world.file(session, FileKind.PRODUCT)
    ref = ProductRef(role.value, made.name, made.sha256, made.size, made.name, item=f"image:{image_id}")
    record_product(session, ref, made.id, context)


def _frames(world: Any, frame_type: str, n: int = 3, detectors: int = 1, **facts: Any) -> list[int]:
    """Register raw frames as their verification does; return their ids."""
    ids = []
    with world.database.begin() as session:
        context = world.attempt(session)
        for _ in range(n):
            ref = world.file(session)
            sheets = tuple(DetectorRecord(i, i + 1, f"CCD{i}", 100, 100) for i in range(detectors))
            told = {"instrument": "cam", "filter": "r", "run": "26BS01", "night": "2026-09-06", "mjd": 61290.3}
            told |= {"exptime_s": {"bias": 0.0, "dark": 120.0}.get(frame_type, 5.0)} | facts
            record = ExposureRecord(
                f"file:{ref.id}", f"f{ref.id}", ImageState.REGISTERED, frame_type=FrameType(frame_type),
                detectors=sheets, **told,
            )  # fmt: skip
            record_exposure(session, record, context)
            ids.append(context.need_image(record.item))
            _product(world, session, context, ids[-1], Role.FACTS)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    return ids


def _names(world: Any, wish: MasterWish, kind: MasterKind) -> dict[str, int]:
    with world.database.read() as session:
        groups = find_groups(session, wish, kind)
    names = {g.name: len(g.frames) for g in groups}
    assert len(names) == len(groups)
    return names


def _make(world: Any, wish: MasterWish = ALL, *settings: str, **more: Any) -> Any:
    return make_masters(world.database, wish, read_recipe([], list(settings)), **more)


def _requests(world: Any, jobs: list[int]) -> list[Request]:
    with world.database.read() as session:
        texts = [session.get_one(JobRow, j).request for j in jobs]
    return [from_json(Request, json.loads(t), "request") for t in texts]


def _harvest(world: Any, jobs: list[int]) -> dict[str, int]:
    """Register what jobs would make and end them; return the masters by name."""
    made = {}
    with world.database.begin() as session:
        for request in _requests(world, jobs):
            facts = request.facts
            kind, validity = MasterKind(facts["kind"]), from_json(Validity, facts["validity"], "validity")
            ref = world.file(session, FileKind.PRODUCT, f"{facts['name']}.fits")
            made[str(facts["name"])] = register_master(
                session, ref.id, kind, validity, mjd=61290.3, product_hash=str(facts["key"]))  # fmt: skip
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    return made


# Groups ---------------------------------------------------------------------------------------------------------------


def test_frames_are_grouped_by_what_makes_them_alike(world: Any) -> None:
    _frames(world, "bias", 4)
    _frames(world, "bias", 2, run="26BS02")
    _frames(world, "bias", 2, instrument="other", filter="i")
    _frames(world, "dark", 3)
    _frames(world, "dark", 2, exptime_s=300.0, filter="i")
    _frames(world, "flat", 3, filter="r", exptime_s=3.0)
    _frames(world, "flat", 2, filter="r", exptime_s=8.0)
    _frames(world, "flat", 3, filter="i", night="2026-09-07")
    _frames(world, "science", 3)
    _frames(world, "other", 3)
    assert _names(world, ALL, BIAS) == {"bias_cam_26BS01": 4, "bias_cam_26BS02": 2, "bias_other_26BS01": 2}
    assert _names(world, ALL, DARK) == {"dark_cam_120s_26BS01": 3, "dark_cam_300s_26BS01": 2}
    assert _names(world, ALL, FLAT) == {"flat_cam_r_26BS01": 5, "flat_cam_i_26BS01": 3}


def test_one_a_night_where_that_is_asked_for(world: Any) -> None:
    _frames(world, "flat", 3)
    _frames(world, "flat", 4, night="2026-09-07")
    wish = MasterWish((FLAT,), by_night=True)
    assert _names(world, wish, FLAT) == {"flat_cam_r_26BS01_2026-09-06": 3, "flat_cam_r_26BS01_2026-09-07": 4}


@pytest.mark.parametrize(
    ("bounds", "n"),
    [({}, 9), ({"instrument": "cam"}, 6), ({"run": "26BS02"}, 3), ({"night": "2026-09-09"}, 3), ({"filter": "i"}, 3)],
)
def test_bounds_of_a_wish_hold(world: Any, bounds: dict[str, str], n: int) -> None:
    _frames(world, "flat", 3, night="2026-09-09")
    _frames(world, "flat", 3, filter="i", run="26BS02")
    _frames(world, "flat", 3, instrument="other")
    assert sum(_names(world, MasterWish((FLAT,), **bounds), FLAT).values()) == n


def test_a_night_that_is_no_date_is_told(world: Any) -> None:
    _frames(world, "flat")
    with pytest.raises(UsageError, match="write it as"):
        _make(world, MasterWish((FLAT,), night="yesterday"))


def test_frames_of_other_detectors_are_groups_of_their_own(world: Any) -> None:
    _frames(world, "bias", 3)
    _frames(world, "bias", 3, detectors=2)
    done = _make(world)
    assert [len(g.frames) for g in done.groups] == [3, 3]
    keys = [r.facts["key"] for r in _requests(world, done.jobs)]
    assert len(set(keys)) == 2
    _harvest(world, done.jobs)
    assert (_make(world).groups, len(_make(world).known)) == ([], 2)


def test_rejected_frames_are_not_combined(world: Any) -> None:
    ids = _frames(world, "bias", 4)
    with world.database.begin() as session:
        session.execute(text(f"UPDATE image SET state = 'rejected' WHERE id = {ids[0]}"))
    assert _names(world, ALL, BIAS) == {"bias_cam_26BS01": 3}


def test_fringes_are_made_of_science_frames_before_their_fringes_went(world: Any) -> None:
    ids = []
    with world.database.begin() as session:
        context = world.attempt(session)
        ids = [world.exposure(session, context, f"exp{i}", filter="z", instrument="cam") for i in range(3)]
        bare = world.exposure(session, context, "green", filter="g", instrument="cam", bare=True)
        for image_id in ids:
            _product(world, session, context, image_id, Role.DETRENDED)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    wish = MasterWish((FRINGE,), filter="z")
    with world.database.read() as session:
        (before,) = find_groups(session, wish, FRINGE)
    assert bare not in [f.image_id for f in before.frames]
    assert all(set(f.files) == {"exposure", "facts", "weight"} for f in before.frames)
    with world.database.begin() as session:
        ref = world.file(session, FileKind.PRODUCT)
        register_master(session, ref.id, FRINGE, Validity("cam", "z"))
        context = world.attempt(session)
        for image_id in ids:
            for role in (Role.FACTS, Role.WEIGHT, Role.DETRENDED):
                _product(world, session, context, image_id, role)
            record_use(session, CalibrationUse(f"image:{image_id}", FRINGE, ref.sha256, True, 3.0), context)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    with world.database.read() as session:
        (after,) = find_groups(session, wish, FRINGE)
    assert after == before, "what has no fringes any more is no source of fringes"


def test_pixels_and_facts_are_of_one_attempt(world: Any) -> None:
    with world.database.begin() as session:
        context = world.attempt(session)
        image_id = world.exposure(session, context, "exp", instrument="cam")
        _product(world, session, context, image_id, Role.DETRENDED)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
        context = world.attempt(session)
        _product(world, session, context, image_id, Role.FACTS)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    with world.database.read() as session:
        ((frame,),) = (g.frames for g in find_groups(session, MasterWish((FRINGE,)), FRINGE))
    assert frame.files["exposure"].name == "exp.fits", "the newest facts describe the file as it came"
    assert "weight" not in frame.files


# Plans ----------------------------------------------------------------------------------------------------------------


def test_biases_come_before_darks_and_both_before_flats(world: Any) -> None:
    for kind in ("flat", "bias", "dark"):
        _frames(world, kind)
    done = _make(world)
    assert [g.kind for g in done.groups] == [BIAS, DARK, FLAT]
    with world.database.read() as session:
        rows = session.execute(select(JobEdgeRow.parent_id, JobEdgeRow.child_id)).all()
        (plan,) = session.scalars(select(PlanRow).where(PlanRow.mode == Mode.MASTER)).all()
        states = [session.get_one(JobRow, j).state.value for j in done.jobs]
        assert {session.get_one(JobRow, j).plan_id for j in done.jobs} == {plan.id}
    bias, dark, flat = done.jobs
    assert {tuple(r) for r in rows} == {(bias, dark), (bias, flat), (dark, flat)}
    assert states == ["READY", "WAITING", "WAITING"]
    requests = _requests(world, done.jobs)
    made = [{(i.role, i.job) for i in r.inputs if i.job is not None} for r in requests]
    assert made == [set(), {("bias", bias)}, {("bias", bias), ("dark", dark)}]
    for request, group in zip(requests, done.groups, strict=True):
        given = [i for i in request.inputs if i.role == "exposure"]
        assert [i.item for i in given] == [f"image:{f.image_id}" for f in group.frames]
        assert len([i for i in request.inputs if i.role == "facts"]) == len(given)
        assert request.min_inputs == RECIPE.master.min_frames
        assert request.facts["validity"]["instrument"] == "cam"


def test_groups_that_are_too_small_are_named_and_not_planned(world: Any) -> None:
    _frames(world, "bias", 2)
    _frames(world, "flat", 3)
    done = _make(world)
    assert ([g.name for g in done.small], [g.kind for g in done.groups]) == (["bias_cam_26BS01"], [FLAT])
    (request,) = _requests(world, done.jobs)
    assert {i.role for i in request.inputs} == {"exposure", "facts"}
    assert [g.kind for g in _make(world, ALL, "master.min_frames=2").groups] == [BIAS, FLAT]


def test_nothing_is_done_twice_and_a_new_frame_makes_a_new_master(world: Any) -> None:
    _frames(world, "bias")
    _frames(world, "flat")
    first = _make(world)
    again = _make(world)
    assert (again.groups, again.jobs, [g.kind for g in again.known]) == ([], [], [BIAS, FLAT]), "being made already"
    masters = _harvest(world, first.jobs)
    again = _make(world)
    assert (again.groups, again.jobs, [g.kind for g in again.known]) == ([], [], [BIAS, FLAT])
    _frames(world, "flat", 1)
    third = _make(world)
    assert ([g.kind for g in third.groups], [g.kind for g in third.known]) == ([FLAT], [BIAS])
    (request,) = _requests(world, third.jobs)
    with world.database.read() as session:
        files = {m.id: m.file for m in list_masters(session)}
    assert [i.file for i in request.inputs if i.role == "bias"] == [files[masters["bias_cam_26BS01"]]]
    assert len([i for i in request.inputs if i.role == "exposure"]) == 4
    other = _make(world, MasterWish((BIAS,)), "master.clip_sigma=5")
    assert [g.kind for g in other.groups] == [BIAS]
    same = _make(world, MasterWish((BIAS,)), "stack.combine=median")
    assert [g.kind for g in same.known] == [BIAS], "what the recipe says of stacks is nothing to masters"


def test_a_flat_is_made_anew_when_its_bias_is_another(world: Any) -> None:
    _frames(world, "flat")
    first = _make(world)
    _harvest(world, first.jobs)
    assert [g.kind for g in _make(world).known] == [FLAT]
    with world.database.begin() as session:
        ref = world.file(session, FileKind.CALIBRATION, "bias.fits")
        register_master(session, ref.id, BIAS, Validity("cam"))
    second = _make(world)
    assert [g.kind for g in second.groups] == [FLAT]
    (request,) = _requests(world, second.jobs)
    assert [i.file.name for i in request.inputs if i.role == "bias"] == ["bias.fits"]
    _harvest(world, second.jobs)
    assert [g.kind for g in _make(world).known] == [FLAT]


def test_a_withdrawn_master_may_be_made_again(world: Any) -> None:
    _frames(world, "bias")
    masters = _harvest(world, _make(world).jobs)
    with world.database.begin() as session:
        withdraw_master(session, masters["bias_cam_26BS01"])
    done = _make(world)
    assert ([g.kind for g in done.groups], len(done.jobs)) == ([BIAS], 1)


def test_a_master_that_failed_may_be_made_again(world: Any) -> None:
    _frames(world, "bias")
    _frames(world, "flat")
    first = _make(world)
    with world.database.begin() as session:
        session.execute(text(f"UPDATE job SET state = 'FAILED' WHERE id = {first.jobs[0]}"))
        session.execute(text(f"UPDATE job SET state = 'PRUNED' WHERE id = {first.jobs[1]}"))
    again = _make(world)
    assert ([g.kind for g in again.groups], len(again.jobs)) == ([BIAS, FLAT], 2)


def test_what_a_new_flat_needs_is_planned_with_it(world: Any) -> None:
    """A flat asked for while its bias is being made never goes without it."""
    _frames(world, "bias")
    _frames(world, "flat")
    _make(world, MasterWish((BIAS,)))
    done = _make(world)
    assert [g.kind for g in done.groups] == [BIAS, FLAT]
    flat = _requests(world, done.jobs)[1]
    assert [(i.role, i.job) for i in flat.inputs if i.job is not None] == [("bias", done.jobs[0])]


def test_each_night_gets_the_bias_of_its_own(world: Any) -> None:
    for night in ("2026-09-06", "2026-09-07"):
        _frames(world, "bias", night=night)
        _frames(world, "flat", night=night)
    done = _make(world, MasterWish((BIAS, FLAT), by_night=True))
    requests = _requests(world, done.jobs)
    assert [g.night for g in done.groups] == ["2026-09-06", "2026-09-07"] * 2
    assert [[i.job for i in r.inputs if i.role == "bias"] for r in requests[2:]] == [[j] for j in done.jobs[:2]]


def test_the_dark_of_the_nearest_time_corrects_a_flat(world: Any) -> None:
    for seconds in (10.0, 60.0, 1000.0):
        _frames(world, "dark", exptime_s=seconds)
    _frames(world, "flat", exptime_s=80.0)
    done = _make(world, MasterWish((DARK, FLAT)))
    by_time = {g.exptime_s: j for g, j in zip(done.groups, done.jobs, strict=True) if g.kind is DARK}
    assert [i.job for i in _requests(world, done.jobs)[-1].inputs if i.role == "dark"] == [by_time[60.0]]


def test_masters_of_other_runs_and_cameras_correct_nothing(world: Any) -> None:
    _frames(world, "bias", run="26BS02")
    _frames(world, "bias", instrument="other")
    _frames(world, "flat")
    done = _make(world)
    assert [[i.role for i in r.inputs if i.job is not None] for r in _requests(world, done.jobs)] == [[], [], []]


def test_a_dry_run_records_nothing_and_tells_what_is_known(world: Any) -> None:
    _frames(world, "bias")
    done = _make(world, dry_run=True)
    assert ([g.kind for g in done.groups], done.jobs) == ([BIAS], [])
    with world.database.read() as session:
        assert session.scalars(select(PlanRow).where(PlanRow.mode == Mode.MASTER)).all() == []
    _harvest(world, _make(world).jobs)
    done = _make(world, dry_run=True)
    assert (done.groups, [g.kind for g in done.known]) == ([], [BIAS])


def test_without_frames_there_is_nothing_to_do(world: Any) -> None:
    _frames(world, "science")
    with pytest.raises(NothingToDoError, match="no raw frames for bias dark flat"):
        _make(world)


# Masters that are given -----------------------------------------------------------------------------------------------

PROFILE = """
name = "cam"
telescope = "1 m"
title = "a camera of a test"
pixel_scale_arcsec = 0.3
[recognise]
all = [{ keyword = "INSTRUME", equals = "CAM" }]
[[frames]]
type = "flat"
all = [{ keyword = "OBSTYPE", equals = "FLAT" }]
[observatory]
longitude.value = -155.4681
latitude.value = 19.8252
[facts]
object.keywords = ["OBJECT"]
exptime = { keywords = ["EXPTIME"], unit = "s" }
filter.keywords = ["FILTER"]
run.keywords = ["RUNID"]
ra = { keywords = ["RA"], unit = "deg" }
dec = { keywords = ["DEC"], unit = "deg" }
[time]
sources = [{ form = "mjd", keywords = ["MJD-OBS"] }]
"""


@pytest.fixture
def profiled(world: Any) -> Any:
    """Return a world whose workspace knows the camera `cam`."""
    folder = world.workspace.instruments_folder
    folder.mkdir(exist_ok=True)
    (folder / "cam.toml").write_text(PROFILE)
    return world


def _master_file(folder: Path, name: str = "flat.fits", **cards: Any) -> Path:
    path = folder / name
    units = [fits.PrimaryHDU(header=fits.Header(cards)), fits.ImageHDU(np.ones((20, 30), "f4"), name="CCD00")]
    fits.HDUList(units).writeto(path)
    return path


WHOLE = {"INSTRUME": "CAM", "OBSTYPE": "FLAT", "EXPTIME": 3.0, "FILTER": "r", "RUNID": "26BS01", "MJD-OBS": 61290.2}


def test_a_header_that_says_enough_is_enough(profiled: Any, tmp_path: Path) -> None:
    path = _master_file(tmp_path, **WHOLE)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    ((at, number),) = add_masters(profiled.database, profiled.workspace, [path], Given(FLAT))
    with profiled.database.read() as session:
        (master,) = list_masters(session)
    assert (at, number, master.file.name) == (path, master.id, "flat.fits")
    assert master.validity == Validity("cam", "r", "26BS01")
    assert master.mjd == pytest.approx(61290.2 + 1.5 / 86400)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    again = add_masters(
        profiled.database, profiled.workspace, [path], Given(FLAT, any_run=True, first_night="2026-09-01")
    )
    assert again == [(path, number)]
    with profiled.database.read() as session:
        (master,) = list_masters(session)
    assert master.validity == Validity("cam", "r", None, "2026-09-01")


def test_what_a_person_says_counts_before_the_header(profiled: Any, tmp_path: Path) -> None:
    path = _master_file(tmp_path, **WHOLE)
    given = Given(FLAT, "megaprime", "i", "26BS09", last_night="2026-10-01")
    add_masters(profiled.database, profiled.workspace, [path], given)
    with profiled.database.read() as session:
        assert list_masters(session)[0].validity == Validity("megaprime", "i", "26BS09", None, "2026-10-01")


@pytest.mark.parametrize(
    ("cards", "given", "words"),
    [
        ({}, Given(FLAT, filter="r"), "flat.fits does not say its camera; say --instrument"),
        ({"INSTRUME": "UNHEARD"}, Given(BIAS), "say --instrument"),
        ({"INSTRUME": "CAM"}, Given(FLAT), "flat.fits does not say its filter.*--filter"),
        ({"INSTRUME": "CAM"}, Given(BIAS, first_night="last week"), "write it as"),
    ],
)
def test_a_header_that_does_not_say_enough_is_told(
    profiled: Any, tmp_path: Path, cards: Any, given: Given, words: str
) -> None:
    path = _master_file(tmp_path, **cards)
    with pytest.raises(UsageError, match=words):
        add_masters(profiled.database, profiled.workspace, [path], given)
    with profiled.database.read() as session:
        assert list_masters(session) == []


def test_a_master_without_time_is_known_by_its_camera(profiled: Any, tmp_path: Path) -> None:
    path = _master_file(tmp_path, INSTRUME="CAM")
    add_masters(profiled.database, profiled.workspace, [path], Given(BIAS))
    with profiled.database.read() as session:
        (master,) = list_masters(session)
    assert (master.validity, master.mjd) == (Validity("cam"), None)


def test_a_camera_without_profile_and_a_file_that_is_none_are_told(profiled: Any, tmp_path: Path) -> None:
    path = _master_file(tmp_path, **WHOLE)
    with pytest.raises(RecipeError, match="no profile is called 'megapirme'"):
        add_masters(profiled.database, profiled.workspace, [path], Given(FLAT, "megapirme"))
    notes = tmp_path / "notes.txt"
    notes.write_text("clouds\n")
    with pytest.raises(DataError, match=r"notes\.txt"):
        add_masters(profiled.database, profiled.workspace, [path, notes], Given(FLAT))
    with profiled.database.read() as session:
        assert session.scalars(select(CalibrationRow)).all() == [], "all or nothing"


# Exposures get theirs -------------------------------------------------------------------------------------------------


def _headers(**more: Any) -> tuple[HeaderCards, ...]:
    facts = {"INSTRUME": "CAM", "OBJECT": "D2", "EXPTIME": 90.0, "FILTER": "r", "RUNID": "26BS01", "MJD-OBS": 61290.3,
             "RA": 150.0, "DEC": 2.0} | more  # fmt: skip
    primary = make_cards([("SIMPLE", True, ""), *((k, v, "") for k, v in facts.items() if v is not None)])
    image = make_cards([("XTENSION", "IMAGE", ""), ("BITPIX", 16, ""), ("NAXIS", 2, ""), ("NAXIS1", 30, ""),
                        ("NAXIS2", 20, ""), ("EXTNAME", "CCD00", "")])  # fmt: skip
    return primary, image


def test_exposures_get_their_masters_as_inputs(profiled: Any) -> None:
    registry = load_instruments(profiled.workspace.instruments_folder)
    exposures = {
        1: (_headers(), "one.fits"),
        2: (_headers(FILTER="i"), "two.fits"),
        3: (_headers(OBSTYPE="FLAT"), "flat.fits"),
        4: (_headers(**{"MJD-OBS": None}), "timeless.fits"),
        5: (_headers(INSTRUME="OTHER"), "other.fits"),
        6: ((), "empty.fits"),
    }
    with profiled.database.begin() as session:
        assert attach_masters(session, registry, ((n, *given) for n, given in exposures.items())) == {}
        refs = {k: profiled.file(session, FileKind.CALIBRATION) for k in (BIAS, FLAT)}
        register_master(session, refs[BIAS].id, BIAS, Validity("cam"))
        register_master(session, refs[FLAT].id, FLAT, Validity("cam", "r", "26BS01"))
        found = attach_masters(session, registry, ((n, *given) for n, given in exposures.items()))
        wanted = Wanted("cam", "r", "26BS01", "2026-09-06", 61290.3, 90.0)
        assert {k: m.file for k, m in find_masters(session, wanted).items()} == refs
    told = {n: [(i.role, i.item, i.file) for i in inputs] for n, inputs in found.items()}
    assert told[1] == [("bias", item_of_file(1), refs[BIAS]), ("flat", item_of_file(1), refs[FLAT])]
    assert told[2] == [("bias", item_of_file(2), refs[BIAS])]
    assert {n for n in told if told[n]} == {1, 2}

"""Known exposures are assessed again: which ones, with today's profiles, masters and maps, and never twice at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select, text

from spica.db.calibration import register_master
from spica.db.image import set_state
from spica.db.tables.image import HeaderRow
from spica.db.tables.job import JobRow, OutcomeRow, PlanRow
from spica.files.header import make_cards, pack_headers
from spica.model.association import Mode
from spica.model.calibration import MasterKind, Validity
from spica.model.errors import NothingToDoError, UsageError
from spica.model.grade import Grade
from spica.model.image import FileKind, ImageState
from spica.model.job import Input, JobKind, Outcome, Request, item_of_file
from spica.model.recipe import read_recipe
from spica.model.record import canonical, from_json
from spica.scheduling.reassess import AgainWish, reassess

RECIPE = read_recipe([], ["quality.detrend=true", "resources.batch=2"])


@pytest.fixture
def exposures(world: Any) -> dict[str, int]:
    """Return the ids of four exposures: two good ones, one graded D, one rejected."""
    with world.database.begin() as session:
        context = world.attempt(session)
        ids = {n: world.exposure(session, context, n) for n in ("one", "two")}
        ids["poor"] = world.exposure(session, context, "poor", grade=Grade.D, filter="i")
        ids["unknown"] = world.exposure(session, context, "unknown")
        set_state(session, ids["unknown"], ImageState.REJECTED)
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    return ids


def _again(world: Any, **wish: Any) -> Any:
    return reassess(world.database, world.workspace, AgainWish(**wish), RECIPE)


def _requests(world: Any, jobs: list[int]) -> list[Request]:
    with world.database.read() as session:
        rows = [session.get_one(JobRow, j) for j in jobs]
        assert {r.kind for r in rows} == {JobKind.ASSESS}
        return [from_json(Request, json.loads(r.request), "request") for r in rows]


def test_names_and_ids_say_which(world: Any, exposures: dict[str, int]) -> None:
    done = _again(world, names=("two", str(exposures["poor"])))
    assert (done.names, done.waiting, len(done.jobs)) == (["two", "poor"], [], 1)
    (request,) = _requests(world, done.jobs)
    assert [i.file.name for i in request.inputs] == ["two.fits", "poor.fits"]
    assert request.recipe["quality"]["detrend"] is True
    assert "profiles" in request.facts
    with world.database.read() as session:
        plan = session.get_one(PlanRow, done.plan_id)
    assert (plan.mode, plan.label) == (Mode.INGEST, "assess 2 exposures again")


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ({"rule": "filter = 'r'"}, ["one", "two", "unknown"]),
        ({"rule": "grade = D"}, ["poor"]),
        ({"rejected": True}, ["unknown"]),
        ({"rejected": True, "rule": "filter = 'r'"}, ["unknown"]),
        ({"names": ("one", "poor"), "rule": "filter = 'i'"}, ["poor"]),
    ],
)
def test_bounds_hold_together(world: Any, exposures: dict[str, int], wish: dict[str, Any], names: list[str]) -> None:
    assert _again(world, **wish).names == names


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({}, UsageError, "--rule, or --rejected"),
        ({"names": ("ones",)}, UsageError, "'ones'; near: one"),
        ({"names": ("999999999999999999999",)}, UsageError, "no exposure is called"),
        ({"rule": "filter = 'z'"}, NothingToDoError, "no exposure fits"),
        ({"rejected": True, "rule": "filter = 'i'"}, NothingToDoError, "no exposure fits"),
    ],
)
def test_what_fits_nothing_is_told(world: Any, exposures: Any, wish: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        _again(world, **wish)
    with world.database.read() as session:
        assert session.scalars(select(PlanRow)).all() == []


def test_who_waits_in_a_job_is_not_planned_again(world: Any, exposures: dict[str, int]) -> None:
    first = _again(world, names=("one",))
    done = _again(world, names=("one", "two"))
    assert (done.waiting, done.names, len(done.jobs)) == (["one"], ["two"], 1)
    none = _again(world, names=("one", "two"))
    assert (none.waiting, none.names, none.jobs, none.plan_id) == (["one", "two"], [], [], None)
    with world.database.begin() as session:
        session.execute(text(f"UPDATE job SET state = 'SUCCEEDED' WHERE id = {first.jobs[0]}"))
    assert _again(world, names=("one",)).names == ["one"]


def test_batches_are_as_the_recipe_says(world: Any, exposures: dict[str, int]) -> None:
    done = _again(world, names=tuple(exposures))
    assert [len(r.inputs) for r in _requests(world, done.jobs)] == [2, 2]


def test_masters_of_today_and_maps_of_before_go_along(world: Any, exposures: dict[str, int]) -> None:
    folder = world.workspace.instruments_folder
    folder.mkdir(exist_ok=True)
    (folder / "cam.toml").write_text(
        'name = "cam"\ntelescope = "1 m"\ntitle = "t"\npixel_scale_arcsec = 0.3\n'
        '[recognise]\nall = [{ keyword = "INSTRUME", equals = "CAM" }]\n'
        '[facts]\nobject.keywords = ["OBJECT"]\nexptime = { keywords = ["EXPTIME"], unit = "s" }\n'
        'filter.keywords = ["FILTER"]\nra = { keywords = ["RA"], unit = "deg" }\ndec = { keywords = ["DEC"], '
        'unit = "deg" }\n[time]\nsources = [{ form = "mjd", keywords = ["MJD-OBS"] }]\n'
    )
    facts = [("SIMPLE", True), ("INSTRUME", "CAM"), ("OBJECT", "D2"), ("EXPTIME", 90.0), ("FILTER", "r")]
    facts += [("MJD-OBS", 61290.3), ("RA", 150.0), ("DEC", 2.0)]
    image = [("XTENSION", "IMAGE"), ("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", 30), ("NAXIS2", 20), ("EXTNAME", "A")]
    headers = tuple(make_cards([(k, v, "") for k, v in cards]) for cards in (facts, image))
    with world.database.begin() as session:
        session.add(HeaderRow(image_id=exposures["one"], cards=pack_headers(headers)))
        flat = world.file(session, FileKind.CALIBRATION, "flat.fits")
        register_master(session, flat.id, MasterKind.FLAT, Validity("cam", "r"))
        # The job that assessed the exposure had a weight map of it; a later one had another.
        (file_id,) = session.execute(text("SELECT file_id FROM image WHERE name = 'one'")).scalars()
        item = item_of_file(file_id)
        for n in range(2):
            weight = world.file(session, FileKind.CALIBRATION, f"weight{n}.fits")
            context = world.attempt(session)
            inputs = (Input("exposure", item, weight), Input("weight_map", item, weight), Input("bias", item, weight))
            request = Request("assess", "native", {}, "0" * 64, inputs)
            session.get_one(JobRow, context.job_id).request = canonical(request)
            session.add(OutcomeRow(attempt_id=context.attempt_id, file_id=file_id, outcome=Outcome.USED))
            session.flush()
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    (request,) = _requests(world, _again(world, names=("one", "two")).jobs)
    assert [(i.role, i.file.name) for i in request.inputs] == [
        ("exposure", "one.fits"), ("flat", "flat.fits"), ("weight_map", "weight1.fits"), ("exposure", "two.fits"),
    ]  # fmt: skip
    assert {i.item for i in request.inputs if i.role != "exposure"} == {item}
    assert list(request.facts["profiles"]) == ["cam.toml"]

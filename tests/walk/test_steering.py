"""Two nodes that a person steers: work is done where it was sent; a drained node begins none until it is resumed."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from spica.db.job import need_job
from spica.db.node import list_nodes, need_node
from spica.db.node_wait import explain_wait
from spica.db.placement_choice import EVERY, move_group
from spica.db.tables.file import NodeRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.steps.simulate import SurveyParameters, simulate_survey

pytestmark = pytest.mark.walk

PARAMETERS = SurveyParameters(
    n_objects=1,
    filters=("g", "r"),
    n_exposures=2,
    n_x=1,
    n_y=1,
    detector_pix=(256, 256),
    stars_per_arcmin2=28.0,
    galaxies_per_arcmin2=2.0,
    n_cloudy=0,
    n_defocused=0,
    n_trailed=0,
    n_truncated=0,
    n_missing_keyword=0,
    seed=11,
)
POLLS_S = 2.5
"""A daemon asks for work every second: in this time it has asked twice."""


@pytest.fixture
def steered(make_walk: Any, short_place: Path, tmp_path: Path) -> Iterator[Any]:
    """Return a walk on an empty workspace; its exposures lie beside it, in `sky`."""
    truth = simulate_survey(tmp_path / "sky", PARAMETERS, truth_folder=tmp_path / "truth")
    walk = make_walk(short_place / "steered", truth)
    yield walk
    walk.close()
    shutil.rmtree(walk.folder, ignore_errors=True)


def test_a_person_steers_two_nodes(steered: Any, tmp_path: Path) -> None:
    walk, sky = steered, tmp_path / "sky"
    first = walk.workspace.node
    other = ("--slots", "1", "--node", "second", "--data", str(tmp_path / "second"))
    walk.start("--slots", "1")
    daemon = walk.start(*other)
    _wait(walk, lambda: _takers(walk) == {first, "second"})
    run = walk.truth.exposures[0].plan.run_id

    # what a person chose is obeyed, the narrowest line counts
    with walk.database.begin() as session:
        move_group(session, EVERY, EVERY, need_node(session, first).id)
    assert "0 waiting jobs go there" in walk.spica("nodes", "--place", run, "r", "second").out
    early = _take_in(walk, sky, 0, "--wait")
    assert _ran(walk, early) == {"g": {first}, "r": {"second"}}

    # its host dies and is mended: it is drained, and its exposures, chosen to go there, wait
    token = _token(walk)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    late = _take_in(walk, sky, 1)
    told = walk.spica("nodes", "--drain", "second", "--why", "its fan is mended", "--json").json
    walk.start(*other)
    _wait(walk, lambda: _token(walk) != token and _state(walk, late["g"]) == "SUCCEEDED")
    time.sleep(POLLS_S)
    assert _ran(walk, late) == {"g": {first}}, "the drained node begins nothing, the other goes on"
    assert _state(walk, late["r"]) == "READY"
    (mine,) = [n for n in told if n["name"] == "second"]
    assert (mine["drained_why"], mine["drained_by"]) == ("its fan is mended", None)
    assert [(p["run"], p["filter"], p["chosen"]) for p in mine["placements"]] == [(run, "r", True)]
    assert "second is resumed" in _words(walk, late["r"])

    # and goes on where it is resumed, there and nowhere else
    assert walk.spica("nodes", "--resume", "second").out == "node second takes jobs again\n"
    _wait(walk, lambda: _state(walk, late["r"]) == "SUCCEEDED")
    assert _ran(walk, late) == {"g": {first}, "r": {"second"}}
    assert walk.rows(select(AttemptRow.number).where(AttemptRow.number > 1)) == []


def _take_in(walk: Any, sky: Path, number: int, *options: str) -> dict[str, int]:
    """Take in one exposure of each filter; return the jobs by filter."""
    names = {}
    for filter_name in ("g", "r"):
        plans = [e.plan for e in walk.truth.exposures if e.plan.filter_name == filter_name]
        names[plans[number].name] = filter_name
        shutil.move(sky / f"{plans[number].name}.fits", walk.folder / "incoming")
    said = walk.spica("ingest", *options, "--json").json
    rows = walk.rows(select(JobRow.label, JobRow.id).where(JobRow.id.in_(said["jobs"])))
    jobs = {names[label.removesuffix(".fits")]: job for label, job in rows}
    assert set(jobs) == {"g", "r"}, rows
    return jobs


def _ran(walk: Any, jobs: dict[str, int]) -> dict[str, set[str]]:
    """Return the nodes that began the jobs of each filter."""
    query = select(AttemptRow.job_id, NodeRow.name).join(NodeRow, NodeRow.id == AttemptRow.node_id)
    rows = walk.rows(query.where(AttemptRow.job_id.in_(jobs.values())))
    return {f: {node for job, node in rows if job == mine} for f, mine in jobs.items() if mine in dict(rows)}


def _state(walk: Any, job: int) -> str:
    ((state,),) = walk.rows(select(JobRow.state).where(JobRow.id == job))
    return str(state)


def _words(walk: Any, job: int) -> str:
    with walk.database.read() as session:
        wait = explain_wait(session, need_job(session, job))
        return "" if wait is None else wait.words


def _takers(walk: Any) -> set[str]:
    with walk.database.read() as session:
        return {n.name for n in list_nodes(session) if n.takes_jobs}


def _token(walk: Any) -> str | None:
    """Return what the second node's daemon asks of others: a new daemon that beats tells a new one."""
    with walk.database.read() as session:
        return need_node(session, "second").token


def _wait(walk: Any, true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, walk.log() + walk.errors()
        time.sleep(0.05)

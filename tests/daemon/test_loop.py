"""The daemon as a real process on a real database: chains, orders, kills, two nodes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select, text

from spica.db import job as jobs
from spica.db.node import find_node, know_node
from spica.db.tables.file import ContentRow, FileRow, LocationRow
from spica.db.tables.job import AttemptRow
from spica.db.tables.product import ProductRow
from spica.files.jobfolder import attempt_folder, job_folder
from spica.model.job import AttemptState, EdgeKind, Input, JobState
from spica.model.node import NodeState
from spica_daemon.claim import more_wait
from spica_daemon.executors.warm import WarmStarter
from spica_daemon.seat import POINTS

NEEDS, AFTER = EdgeKind.NEEDS, EdgeKind.AFTER
S, A = JobState, AttemptState


def chain(bench: Any, **more: Any) -> list[int]:
    """Create three jobs, each reading what the one before made."""
    first = bench.add(text="one", **more)
    second = bench.add((first, NEEDS), inputs=(Input("table", job=first, product="measures"),), text="two")
    third = bench.add((second, NEEDS), inputs=(Input("table", job=second, product="measures"),), text="three")
    return [first, second, third]


def made(bench: Any) -> list[tuple[int, str, int]]:
    """Return what all products are: job, hash of the content, size."""
    query = select(ProductRow.job_id, FileRow.sha256, FileRow.size).join(FileRow, FileRow.id == ProductRow.file_id)
    with bench.database.read() as session:
        return [tuple(row) for row in session.execute(query.order_by(ProductRow.id))]


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def folder_of(bench: Any, job_id: int, number: int = 1) -> Path:
    return attempt_folder(bench.workspace.roots["jobs"], job_id, number)


def test_a_chain_of_jobs_runs_to_its_end(bench: Any) -> None:
    ids = chain(bench)
    bench.drain()
    assert [bench.state(j) for j in ids] == [S.SUCCEEDED] * 3
    assert bench.arrows(ids[1]) == ["create", "release", "claim", "succeed"]
    products = made(bench)
    assert [p[0] for p in products] == ids
    data = bench.workspace.roots["data"]
    assert files_below(data) == {
        f"products/test/{n}-{s[:8]}.json" for n, (_, s, _) in zip(("one", "two", "three"), products, strict=True)
    }
    (attempt,) = bench.attempts(ids[0])
    assert (attempt.state, attempt.exit_code) == (A.SUCCEEDED, 0)
    assert f"step of job {ids[0]} attempt 1" in attempt.log_tail
    with bench.database.read() as session:
        contents = session.scalars(select(ContentRow.content).order_by(ContentRow.file_id)).all()
        assert json.loads(contents[0])[0] == "one"
        assert find_node(session, "n1").state is NodeState.STOPPED


def test_the_step_gets_a_clean_environment_and_a_checked_copy(bench: Any) -> None:
    job_id = bench.add()
    home = job_folder(bench.workspace.roots["jobs"], job_id)
    home.mkdir(parents=True)
    (home / "run.sh").write_text("exit 7\n")
    bench.drain()
    assert bench.state(job_id) is S.SUCCEEDED
    seen = json.loads((folder_of(bench, job_id) / "environment.json").read_text())
    assert not [name for name in seen if name.startswith(("PG", "SPICA_")) and name != "SPICA_PYTHON"]
    assert seen["TMPDIR"] == str(folder_of(bench, job_id) / "tmp")
    assert not Path(seen["TMPDIR"]).exists()
    assert {"PATH", "HOME", "LANG", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"} <= set(seen)


def test_a_script_changed_in_the_database_is_not_run(bench: Any) -> None:
    job_id = bench.add()
    with bench.database.begin() as session:
        session.execute(text("UPDATE job SET script = script || 'touch harm'"))
    bench.drain()
    assert bench.state(job_id) is S.FAILED
    assert not (folder_of(bench, job_id) / "harm").exists()
    with bench.database.read() as session:
        job = jobs.need_job(session, job_id)
        assert (job.error_kind, "changed after it was planned" in job.error_text) == ("conflict", True)


ENDS: list[tuple[dict[str, Any], JobState, str | None, int]] = [
    ({"exit": 20, "failure": "data"}, S.FAILED, "data", 1),
    ({"exit": 21}, S.FAILED, "recipe", 1),
    ({"exit": 1}, S.FAILED, "bug", 1),
    ({"exit": 75, "until": 1}, S.SUCCEEDED, None, 2),
    ({"exit": 75, "tries": 2}, S.FAILED, "transient", 2),
    ({"signal": int(signal.SIGKILL), "until": 1}, S.SUCCEEDED, None, 2),
    ({"signal": int(signal.SIGSEGV)}, S.FAILED, "signal", 1),
    ({"flaw": "none"}, S.FAILED, "no_result", 1),
    ({"flaw": "hash"}, S.FAILED, "no_result", 1),
    ({"flaw": "size"}, S.FAILED, "no_result", 1),
    ({"flaw": "missing"}, S.FAILED, "no_result", 1),
    ({"flaw": "torn"}, S.FAILED, "no_result", 1),
    ({"flaw": "fence"}, S.FAILED, "no_result", 1),
    ({"sleep_s": 60, "time_limit_s": 1}, S.FAILED, "time_limit", 1),
    ({"records": [{"type": "tale"}]}, S.FAILED, "data", 1),
]


def test_how_a_step_ends_decides_about_its_job(bench: Any) -> None:
    trios = []
    for facts, *_ in ENDS:
        job_id = bench.add(**facts)
        trios.append((job_id, bench.add((job_id, NEEDS)), bench.add((job_id, AFTER))))
    bench.drain(slots=4)
    products = [p[0] for p in made(bench)]
    for (facts, state, kind, attempts), (job_id, below, after) in zip(ENDS, trios, strict=True):
        with bench.database.read() as session:
            job = jobs.need_job(session, job_id)
        assert (job.state, job.error_kind, len(bench.attempts(job_id))) == (state, kind, attempts), facts
        assert bench.state(below) is (S.SUCCEEDED if state is S.SUCCEEDED else S.PRUNED), facts
        assert bench.state(after) is S.SUCCEEDED, facts
        assert products.count(job_id) == (state is S.SUCCEEDED), facts


def test_a_step_that_takes_too_much_memory_gets_more_the_next_time(bench: Any) -> None:
    job_id = bench.add(allocate_mb=120, sleep_s=1.5, memory_mb=60, memory_cap_mb=400)
    bench.drain()
    first, *others = bench.attempts(job_id)
    assert (first.state, first.error_kind, first.memory_mb) == (A.ABORTED, "out_of_memory", 60)
    assert first.peak_memory_mb > 60
    assert [a.memory_mb for a in others] == [120, 240]
    assert bench.state(job_id) is S.SUCCEEDED


def test_cancel_ends_the_whole_group_at_once(bench: Any) -> None:
    job_id = bench.add(child=True, sleep_s=600)
    below = bench.add((job_id, NEEDS))
    daemon = bench.start(drain=True)
    note = folder_of(bench, job_id) / "child"
    bench.wait(lambda: note.exists() and note.read_text() != "")
    child = psutil.Process(int(note.read_text()))
    with bench.database.begin() as session:
        jobs.cancel(session, job_id, why="wrong field")
    assert daemon.wait(60) == 0
    assert [bench.state(j) for j in (job_id, below)] == [S.CANCELLED, S.PRUNED]
    assert bench.attempts(job_id)[0].state is A.ABORTED
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_more_waits_while_a_job_of_our_own_steps_that_this_node_may_run_has_not_begun(bench: Any) -> None:
    one, two = know_of(bench, "n1"), know_of(bench, "n2")
    first = bench.add()
    later = bench.add((first, NEEDS), node_id=one)
    assert not more_wait(bench.database, one)
    with bench.database.begin() as session:
        session.execute(text("UPDATE job SET engine = 'native' WHERE id = :id"), {"id": later})
    assert bench.state(later) is S.WAITING
    assert [more_wait(bench.database, node) for node in (one, two)] == [True, False]
    with bench.database.begin() as session:
        jobs.cancel(session, later)
    assert not more_wait(bench.database, one)


# Kills


@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_killed_anywhere_leaves_nothing_lost_and_nothing_doubled(bench: Any, point: str) -> None:
    gate = bench.workspace.folder / "gate"
    ids = chain(bench, gate=str(gate))
    if point != "during_step":
        gate.touch()
    assert bench.start(drain=True, kill_at=point).wait(60) == -signal.SIGKILL
    daemon = bench.start(drain=True)
    if point == "during_step":
        bench.wait(lambda: "adopt" in bench.arrows(ids[0]))
        gate.touch()
    assert daemon.wait(60) == 0
    assert [bench.state(j) for j in ids] == [S.SUCCEEDED] * 3
    products = made(bench)
    assert [p[0] for p in products] == ids
    expected = [("one", []), ("two", [products[0][1]]), ("three", [products[1][1]])]
    data = bench.workspace.roots["data"]
    found = {p.name.split("-")[0]: json.loads(p.read_text()) for p in data.rglob("*.json")}
    assert found == {name: [name, seen] for name, seen in expected}
    assert len(files_below(data)) == 3
    for job_id in ids:
        states = [a.state for a in bench.attempts(job_id)]
        assert states.count(A.SUCCEEDED) == 1
        assert bench.arrows(job_id).count("succeed") == 1
        assert len(states) == (2 if point == "after_claim" and job_id == ids[0] else 1)
    assert ("adopt" in bench.arrows(ids[0])) == (point == "during_step")


def test_every_step_killed_once_still_ends_in_the_undisturbed_state(bench: Any) -> None:
    ids = chain(bench, first_only_s=60)
    daemon = bench.start(drain=True)
    note = folder_of(bench, ids[0]) / "environment.json"
    bench.wait(note.exists)
    os.killpg(int((folder_of(bench, ids[0]) / "process").read_text()), signal.SIGKILL)
    assert daemon.wait(60) == 0
    assert [bench.state(j) for j in ids] == [S.SUCCEEDED] * 3
    first, second = bench.attempts(ids[0])
    assert (first.state, first.exit_code, first.error_kind) == (A.ABORTED, -9, "killed")
    assert second.state is A.SUCCEEDED
    assert [p[0] for p in made(bench)] == ids


def test_daemon_and_step_killed_together_are_tried_again(bench: Any) -> None:
    (job_id, *_) = chain(bench, first_only_s=60)
    daemon = bench.start(drain=True)
    bench.wait((folder_of(bench, job_id) / "environment.json").exists)
    daemon.kill()
    daemon.wait()
    os.killpg(int((folder_of(bench, job_id) / "process").read_text()), signal.SIGKILL)
    bench.drain()
    assert bench.state(job_id) is S.SUCCEEDED
    assert [a.error_kind for a in bench.attempts(job_id)] == ["lost", None]


def test_a_step_outlives_a_stopped_daemon_and_is_adopted_with_its_limits(bench: Any) -> None:
    gate = bench.workspace.folder / "gate"
    job_id = bench.add(gate=str(gate))
    daemon = bench.start()
    bench.wait((folder_of(bench, job_id) / "environment.json").exists)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(60) == 0
    assert bench.state(job_id) is S.RUNNING
    with bench.database.read() as session:
        lease_s = session.scalar(select(func.extract("epoch", AttemptRow.lease_until - func.now())))
    assert lease_s > 300
    adopting = bench.start(drain=True)
    bench.wait(lambda: "adopt" in bench.arrows(job_id))
    gate.touch()
    assert adopting.wait(60) == 0
    assert bench.arrows(job_id) == ["create", "claim", "adopt", "succeed"]


def test_a_draining_daemon_told_to_stop_finishes_what_runs(bench: Any) -> None:
    gate = bench.workspace.folder / "gate"
    job_id = bench.add(gate=str(gate))
    later = bench.add((job_id, NEEDS))
    daemon = bench.start(drain=True)
    bench.wait((folder_of(bench, job_id) / "environment.json").exists)
    daemon.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    gate.touch()
    assert daemon.wait(60) == 0
    assert [bench.state(j) for j in (job_id, later)] == [S.SUCCEEDED, S.READY]


def test_a_late_result_is_kept_and_noted_but_never_placed(bench: Any) -> None:
    job_id = bench.add(text="late")
    with bench.database.begin() as session:
        claimed = jobs.claim(session, know_node(session, "n1"), 60.0)
    from spica_daemon.attempt import Attempt, Site
    from spica_daemon.runner import Orders

    site = Site(bench.database, bench.workspace, know_of(bench), 1, 0.5, 0.0, None, WarmStarter())
    attempt = Attempt(site, claimed, Orders())
    process = attempt._begin()
    assert process.wait(10.0)
    with bench.database.begin() as session:
        jobs.lose(session, claimed.attempt_id, "silent")
    attempt._watch(process)
    assert (folder_of(bench, job_id) / "result.json").exists()
    assert made(bench) == []
    assert "a result came after its lease had ended" in bench.attempts(job_id)[0].error_text
    bench.drain()
    assert bench.state(job_id) is S.SUCCEEDED
    assert [p[0] for p in made(bench)] == [job_id]


def know_of(bench: Any, name: str = "n1") -> int:
    with bench.database.begin() as session:
        return know_node(session, name)


def test_a_second_daemon_of_the_same_node_is_refused(bench: Any) -> None:
    gate = bench.workspace.folder / "gate"
    job_id = bench.add(gate=str(gate))
    first = bench.start(drain=True)
    bench.wait((folder_of(bench, job_id) / "environment.json").exists)
    assert bench.start().wait(60) == 1
    assert "runs already" in bench.words()
    gate.touch()
    assert first.wait(60) == 0


# Two nodes


def test_two_nodes_share_the_work_and_fetch_what_lies_on_the_other(bench: Any, tmp_path: Path) -> None:
    one, two = know_of(bench, "n1"), know_of(bench, "n2")
    first = bench.add(text="one", node_id=one)
    second = bench.add((first, NEEDS), inputs=(Input("t", job=first, product="measures"),), text="two", node_id=two)
    third = bench.add((second, NEEDS), inputs=(Input("t", job=second, product="measures"),), text="three", node_id=one)
    daemons = [bench.start(), bench.start("n2", tmp_path / "two")]
    bench.wait(lambda: bench.state(third) is S.SUCCEEDED)
    for daemon in daemons:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(60) == 0
    assert [bench.attempts(j)[0].node_id for j in (first, second, third)] == [one, two, one]
    digests = [p[1] for p in made(bench)]
    assert files_below(tmp_path / "two") == {
        f"copies/{digests[0][:2]}/one-{digests[0][:8]}.json",
        f"products/test/two-{digests[1][:8]}.json",
    }
    with bench.database.read() as session:
        nodes = session.scalars(
            select(LocationRow.node_id).join(FileRow).where(FileRow.sha256 == digests[0]).order_by(LocationRow.id)
        ).all()
    assert nodes == [one, two]


def test_what_a_silent_node_left_is_done_by_another(bench: Any, tmp_path: Path) -> None:
    job_id = bench.add(first_only_s=60)
    bench.workspace.as_node("n2", tmp_path / "two")
    dying = bench.start("n2", tmp_path / "two", pulse={"every_s": 0.2, "lease_s": 1.0})
    bench.wait((folder_of(bench, job_id) / "environment.json").exists)
    dying.kill()
    dying.wait()
    other = bench.start()
    bench.wait(lambda: bench.state(job_id) is S.SUCCEEDED)
    other.send_signal(signal.SIGTERM)
    assert other.wait(60) == 0
    assert [a.state for a in bench.attempts(job_id)] == [A.LOST, A.SUCCEEDED]

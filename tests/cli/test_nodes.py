"""`spica nodes` where it steers: drained for a reason, resumed, groups placed and forgotten, waiting jobs moved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spica.cli import main as door
from spica.db import job as jobs
from spica.db.node import Beat, beat, know_node, need_node
from spica.db.person import read_audit
from spica.model.errors import TransientError
from spica.model.job import Request


@pytest.fixture
def two(database: Any) -> tuple[int, int]:
    """Return two nodes that live."""
    with database.begin() as session:
        for name in ("n1", "n2"):
            beat(session, know_node(session, name), Beat(2, 0, disk_free_bytes=10**12))
        return know_node(session, "n1"), know_node(session, "n2")


@pytest.fixture
def nodes(capfd: pytest.CaptureFixture[str], workspace: Any, two: tuple[int, int]) -> Any:
    """Return a runner of `spica nodes` that gives exit code, output and errors."""

    def go(*words: str, verb: str = "nodes") -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            door.main(["--workspace", str(workspace.folder), verb, *words])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return go


def entries(nodes: Any, *words: str) -> dict[str, Any]:
    code, out, err = nodes(*words, "--json")
    assert (code, err) == (0, "")
    return {n["name"]: n for n in json.loads(out)}


def bound_job(database: Any, node_id: int) -> int:
    with database.begin() as session:
        (job,) = jobs.reserve_job_ids(session, 1)
        request = Request("assess", "native", {}, "0" * 64, facts={"group": ["26A", "r"]})
        new = jobs.NewJob(job, "assess", "native", request, "#!/bin/sh\n", node_id=node_id)
        jobs.create_jobs(session, None, [new])
    return job


def bound(database: Any, job: int) -> int | None:
    with database.read() as session:
        return jobs.need_job(session, job).node_id


def test_a_node_is_drained_and_resumed(nodes: Any, database: Any) -> None:
    code, out, err = nodes("--drain", "n2", "--why", "its fan is loud")
    assert (code, err) == (0, "")
    assert out == "node n2 is drained: it takes no new jobs until spica nodes --resume n2\n"
    listed = nodes()[1]
    assert "by the command line since " in listed
    assert "its fan is loud" in listed
    found = entries(nodes)
    assert (found["n2"]["drained_by"], found["n2"]["drained_why"]) == (None, "its fan is loud")
    assert found["n2"]["drained_at"].startswith("20")
    assert found["n1"]["drained_at"] is None
    assert nodes("--resume", "n2")[1] == "node n2 takes jobs again\n"
    assert nodes("--resume", "n2")[1] == "node n2 was not drained\n"
    assert entries(nodes, "--drain", "n1", "--why", "x")["n1"]["drained_why"] == "x", "JSON tells how it stands then"
    with database.read() as session:
        assert [a.verb for a in read_audit(session)[:3]] == ["drain", "resume", "drain"]


def test_running_jobs_are_told(nodes: Any, database: Any, two: tuple[int, int]) -> None:
    with database.begin() as session:
        beat(session, two[1], Beat(2, 2))
    assert nodes("--drain", "n2", "--why", "x")[1].endswith("--resume n2; 2 jobs still run there\n")


def test_groups_are_placed_listed_and_forgotten(nodes: Any, database: Any, two: tuple[int, int]) -> None:
    job = bound_job(database, two[0])
    told = nodes("--place", "26A", "r", "n2")[1]
    assert told == "run 26A, filter r goes to n2; 1 waiting job goes there now\n"
    assert bound(database, job) == two[1]
    assert nodes("--place", "every", "z", "n2")[1].startswith("run every, filter z goes to n2; 0 waiting jobs go")
    places = entries(nodes)["n2"]["placements"]
    assert [(p["run"], p["filter"], p["chosen"], p["person"]) for p in places] == [
        ("26A", "r", True, None),
        ("every", "z", True, None),
    ]
    listed = nodes()[1].partition("where exposures go")[2].split()
    assert listed[:5] == ["run", "filter", "node", "chosen", "since"]
    assert " ".join(listed[5:11]).startswith("26A r n2 by command line")
    assert nodes("--place-auto", "every", "z")[1] == "run every, filter z: is placed anew when the next comes\n"
    assert nodes("--place-auto", "every", "z")[1] == "run every, filter z: was on no record\n"
    assert [p["filter"] for p in entries(nodes)["n2"]["placements"]] == ["r"]


def test_waiting_jobs_are_moved(nodes: Any, database: Any, two: tuple[int, int]) -> None:
    job = bound_job(database, two[0])
    assert nodes("--move", "n1", "n2")[1] == "1 waiting job goes to n2 now\n"
    assert bound(database, job) == two[1]
    assert nodes("--move", "n2", "any")[1] == "1 waiting job goes to any node now\n"
    assert bound(database, job) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--drain", "n2"), "add --why TEXT"),
        (("--drain", "n2", "--why", "  "), "add --why TEXT"),
        (("--drain", "n9", "--why", "x"), "no node is called 'n9'; see spica nodes"),
        (("--resume", "n9"), "no node is called 'n9'; see spica nodes"),
        (("--why", "x"), "give it with --drain NODE"),
        (("--resume", "n2", "--why", "x"), "give it with --drain NODE"),
        (("--resume", "n1", "--place-auto", "a", "b"), "--resume and --place-auto are two acts"),
        (("--place", "a", "b", "n9"), "no node is called 'n9'; see spica nodes"),
        (("--move", "any", "n1"), "no node is called 'any'; see spica nodes"),
    ],
)
def test_words_that_do_not_fit_are_one_line(nodes: Any, words: tuple[str, ...], told: str) -> None:
    code, out, err = nodes(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_nothing_is_sent_to_a_drained_node(nodes: Any) -> None:
    nodes("--drain", "n2", "--why", "its fan is loud")
    for words in (("--place", "26A", "r", "n2"), ("--move", "n1", "n2")):
        code, _, err = nodes(*words)
        assert code == 2
        assert "node n2 is drained (its fan is loud); resume it, or choose another node" in err


def test_a_command_that_waits_says_that_all_is_drained(nodes: Any, workspace: Any, database: Any) -> None:
    from spica.cli.wait import wait_for

    for name in ("n1", "n2"):
        nodes("--drain", name, "--why", "power")
    with database.read() as session:
        job = bound_job(database, need_node(session, "n1").id)
    with pytest.raises(TransientError, match=r"wait: node n1 is drained by .*: power; run: spica nodes --resume n1"):
        wait_for(workspace, database, [job], "x")

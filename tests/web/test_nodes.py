"""The page of the nodes where it steers: drained and resumed with a reason, told wherever something waits for that."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import update

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.node import Beat, beat, know_node, need_node
from spica.db.person import read_audit
from spica.db.tables.job import JobRow
from spica.model.job import Request


@pytest.fixture
def second(database: Database, survey: Any) -> int:
    """Return a second node of the survey that lives; the first lives too."""
    with database.begin() as session:
        for name in ("n1", "n2"):
            beat(session, know_node(session, name), Beat(2, 0, disk_free_bytes=10**12))
        return know_node(session, "n2")


def row_of(page: str, name: str) -> str:
    found = re.search(rf'<tr id="node-{name}">.*?</tr>', page, re.S)
    assert found is not None
    return found[0]


def bound_job(database: Database, node_id: int) -> int:
    with database.begin() as session:
        (job,) = jobs.reserve_job_ids(session, 1)
        request = Request("assess", "native", {}, "0" * 64)
        jobs.create_jobs(session, None, [jobs.NewJob(job, "assess", "native", request, "#!/bin/sh\n", "x")])
        session.execute(update(JobRow).where(JobRow.id == job).values(node_id=node_id))
    return job


def test_an_operator_drains_and_resumes(database: Database, survey: Any, visitor: Any, second: int) -> None:
    client = visitor.become(survey.tokens["oscar"])
    why = "<b>its disk is swapped</b>"
    reply = client.post(f"/nodes/{second}/drain", data={"why": why})
    assert (reply.status_code, reply.headers["location"]) == (303, "/nodes")
    page = client.get("/nodes").text
    row = row_of(page, "n2")
    assert "&lt;b&gt;its disk is swapped&lt;/b&gt;" in row
    assert why not in page
    assert re.search(r"drained</span>.*oscar, \d{4}-\d\d-\d\d \d\d:\d\d", row, re.S)
    assert f'action="/nodes/{second}/resume"' in row
    assert f'action="/nodes/{second}/drain"' not in row
    assert "<b>1</b> drained" in page
    targets = re.search(r'<form method="post" action="/nodes/place" class="jobacts pad">.*?</form>', page, re.S)
    assert targets is not None
    assert f'<option value="{second}"' not in targets[0], "nothing can be sent to it"
    assert client.post("/nodes/place", data={"run": "x", "filter": "r", "node": second}).status_code == 400
    assert client.post(f"/nodes/{second}/resume").status_code == 303
    row = row_of(client.get("/nodes").text, "n2")
    assert f'action="/nodes/{second}/drain"' in row
    assert "disk is swapped" not in row
    with database.read() as session:
        said = [(a.person, a.verb, a.subject, a.detail) for a in read_audit(session)[:2]]
    assert said == [
        ("oscar", "resume", f"node:{second}", "n2"),
        ("oscar", "drain", f"node:{second}", f"n2: {why}"),
    ]


def test_who_may_only_read_sees_why_and_no_button(survey: Any, visitor: Any, second: int) -> None:
    visitor.become(survey.tokens["oscar"]).post(f"/nodes/{second}/drain", data={"why": "its fan is loud"})
    client = visitor.become(survey.tokens["greta"])
    page = client.get("/nodes").text
    assert "its fan is loud" in row_of(page, "n2")
    assert "drained" not in row_of(page, "n1")
    assert "/drain" not in page
    assert "/resume" not in page
    for act in ("drain", "resume"):
        assert client.post(f"/nodes/{second}/{act}", data={"why": "x"}).status_code == 403


def test_other_sites_drain_nothing(database: Database, survey: Any, visitor: Any, second: int) -> None:
    client = visitor.become(survey.tokens["oscar"])
    reply = client.post(f"/nodes/{second}/drain", data={"why": "x"}, headers={"origin": "https://evil.example"})
    assert reply.status_code == 403
    with database.read() as session:
        assert need_node(session, "n2").drain is None


@pytest.mark.parametrize(
    ("address", "data", "status"),
    [
        ("/nodes/{}/drain", {}, 400),
        ("/nodes/{}/drain", {"why": " \n\0"}, 400),
        ("/nodes/{}/drain", {"why": "x" * 1001}, 400),
        ("/nodes/999999/drain", {"why": "x"}, 400),
        ("/nodes/999999/resume", {}, 400),
    ],
)
def test_what_is_no_drain_is_refused(
    database: Database, survey: Any, visitor: Any, second: int, address: str, data: dict[str, str], status: int
) -> None:
    client = visitor.become(survey.tokens["oscar"])
    assert client.post(address.format(second), data=data).status_code == status
    with database.read() as session:
        assert need_node(session, "n2").drain is None


def test_what_waits_for_a_drained_node_is_told_and_may_be_moved(
    database: Database, survey: Any, visitor: Any, second: int
) -> None:
    client = visitor.become(survey.tokens["oscar"])
    job = bound_job(database, second)
    assert "waits for node" not in client.get("/nodes").text
    assert "Only node n2 may run it: its run and filter go there." in client.get(f"/jobs/{job}").text
    client.post(f"/nodes/{second}/drain", data={"why": "its fan is loud"})
    page = client.get("/nodes").text
    assert re.search(
        r"1 job waits for node n2, which is drained by oscar since [-\d]+ [:\d]+ UTC: its fan is loud", page
    )
    assert f'action="/nodes/{second}/move"' in page
    told = client.get(f"/jobs/{job}").text
    assert re.search(r"That node is drained by oscar since [-\d]+ [:\d]+ UTC: its fan is loud\. The job waits", told)
    assert client.post(f"/nodes/{second}/move", data={"to": ""}).headers["location"] == "/nodes?moved=1"
    assert "is drained" not in client.get(f"/jobs/{job}").text


def test_a_cluster_that_takes_nothing_says_so(survey: Any, visitor: Any, second: int) -> None:
    client = visitor.become(survey.tokens["oscar"])
    for node in (1, second):
        assert "Every node that is alive is drained" not in client.get("/nodes").text
        client.post(f"/nodes/{node}/drain", data={"why": "power"})
    assert "Every node that is alive is drained: jobs wait until one is resumed." in client.get("/nodes").text


def test_programs_read_who_and_why(survey: Any, visitor: Any, second: int) -> None:
    client = visitor.become(survey.tokens["oscar"])
    client.post("/nodes/place", data={"run": "06BQ12", "filter": "", "node": second})
    client.post(f"/nodes/{second}/drain", data={"why": "its fan is loud"})
    nodes = {n["name"]: n for n in client.get("/api/nodes").json()}
    first, other = nodes["n1"], nodes["n2"]
    assert (first["drained_at"], first["drained_by"], first["drained_why"], first["placements"]) == (*[None] * 3, [])
    assert (other["drained_by"], other["drained_why"]) == ("oscar", "its fan is loud")
    (place,) = other["placements"]
    assert {k: v for k, v in place.items() if k != "since"} == {
        "run": "06BQ12",
        "filter": "every",
        "chosen": True,
        "person": "oscar",
    }
    assert "oscar,its fan is loud" in client.get("/nodes?format=csv").text

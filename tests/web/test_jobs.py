"""The rooms of the people who run the cluster: lists, causes and cures, orders for many, other recipes, nodes."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.job import need_job
from spica.db.job.many import order_jobs
from spica.db.node import Beat, beat, know_node
from spica.db.pages.failure import read_causes
from spica.db.pages.job import JobBounds, slice_jobs
from spica.db.tables.file import PlacementRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow
from spica.db.tables.person import AuditRow
from spica.files.workspace import Workspace
from spica.model.job import EdgeKind, JobState, Request
from spica.model.recipe import Recipe
from spica.model.record import to_json
from spica_web.draw.graph import FOLD_FROM, GraphNode, draw_graph, fold_graph
from spica_web.nights import last_night, span_at
from spica_web.query import PAGE_SIZE

LONGITUDE_DEG = -155.4681


def ids_of(page: str) -> list[int]:
    return [int(i) for i in re.findall(r'<tr data-job="(\d+)"', page)]


def state_of(database: Database, job: int) -> JobState:
    with database.read() as session:
        return need_job(session, job).state


def failed_for_disk(survey: Any) -> list[int]:
    return [survey.jobs["running"] - i for i in (3, 2, 1)]


def add_jobs(database: Database, n: int, kind: str = "assess", plan: int | None = None) -> list[int]:
    request = Request(kind, "native", to_json(Recipe()), "0" * 64)
    with database.begin() as session:
        ids = jobs.reserve_job_ids(session, n)
        jobs.create_jobs(session, plan, [jobs.NewJob(i, kind, "native", request, "#!/bin/sh\n", "x") for i in ids])
    return ids


# Lists ----------------------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_by_number(database: Database, survey: Any, visitor: Any) -> None:
    """Every job once, newest first, forwards and backwards, although new ones come in between."""
    made = add_jobs(database, 230)
    client = visitor.become(survey.tokens["vera"])
    address, seen, pages = "/jobs", list[int](), 0
    while address:
        page = client.get(address).text
        seen += ids_of(page)
        pages += 1
        add_jobs(database, 1)
        older = re.search(r'data-key="next" href="([^"]+)"', page)
        address = older[1].replace("&amp;", "&") if older else ""
    with database.read() as session:
        every = list(session.scalars(select(JobRow.id).where(JobRow.id <= made[-1]).order_by(JobRow.id.desc())))
    assert seen == every
    assert pages == -(-len(every) // PAGE_SIZE)
    newer = re.search(r'data-key="previous" href="([^"]+)"', page)
    assert newer is not None
    before = ids_of(client.get(newer[1].replace("&amp;", "&")).text)
    assert before == every[every.index(ids_of(page)[0]) - PAGE_SIZE : every.index(ids_of(page)[0])]


@pytest.mark.parametrize(
    ("words", "kinds", "states"),
    [
        ("state=PRUNED", {"stack", "quality", "catalogue", "deliver"}, {"PRUNED"}),
        ("kind=assess&state=FAILED", {"assess"}, {"FAILED"}),
        ("error=data", {"astrometry"}, {"FAILED"}),
        ("node=n1&kind=stack", {"stack"}, {"SUCCEEDED"}),
        ("kind=astrometry", {"astrometry"}, {"SUCCEEDED", "FAILED"}),
    ],
)
def test_filters_hold_together(survey: Any, visitor: Any, words: str, kinds: set[str], states: set[str]) -> None:
    page = visitor.become(survey.tokens["vera"]).get(f"/jobs?{words}").text
    found = re.findall(r'data-state="(\w+)".*?<a href="/jobs/\d+">(\w+) \d+</a>', page)
    assert ({k for _, k in found}, {s for s, _ in found}) == (kinds, states)


def test_a_node_a_night_and_a_plan_bound_the_list(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    assert ids_of(client.get("/jobs?node=ocs2").text) == []
    assert "No job fits" in client.get("/jobs?node=ocs2").text
    old = survey.jobs["solved"]
    with database.begin() as session:
        session.execute(text("UPDATE job SET ended_at = '2006-12-13 22:01+00' WHERE id = :i"), {"i": old})
    # noon at 155.47 degrees west is 22:22 UTC
    assert ids_of(client.get("/jobs?night=2006-12-12").text) == [old]
    assert ids_of(client.get("/jobs?night=2006-12-13").text) == []
    plan = ids_of(client.get(f"/jobs?plan={survey.plan}").text)
    assert len(plan) == 5
    assert set(plan) == {survey.jobs["solved"] + i for i in range(5)}
    for nonsense in ("state=NO", "plan=x", "night=2006-13-99", "before=-4", "plan=99999999999999999999999"):
        assert client.get(f"/jobs?{nonsense}").status_code == 200


def test_a_slice_reads_neither_scripts_nor_requests(database: Database, survey: Any, counted: Any) -> None:
    with counted() as seen, database.read() as session:
        assert len(slice_jobs(session, JobBounds(), 5).lines) == 5
    (statement,) = [s for s in seen if "FROM job" in s]
    assert "job.script" not in statement
    assert "job.request" not in statement
    assert "OFFSET" not in statement


def test_counts_of_states_and_rows_come_in_one_answer(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    ready, held = survey.jobs["ready"], survey.jobs["held"]
    reply = client.get(f"/jobs/rows?ids={ready},{held},9999999,x,-1")
    assert ids_of(reply.text) == [ready, held]
    counts = json.loads(reply.headers["x-job-counts"])
    with database.read() as session:
        truth: dict[str, int] = {}
        for state in session.scalars(select(JobRow.state)):
            truth[state.value] = truth.get(state.value, 0) + 1
    assert {k: v for k, v in counts.items() if v} == truth
    assert json.loads(client.get(f"/jobs/rows?ids=&plan={survey.plan}").headers["x-job-counts"]) == {"SUCCEEDED": 5}


# Causes and cures -----------------------------------------------------------------------------------------------------


def test_the_errors_of_a_night_with_cure_and_trend(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    night = date(2006, 12, 13)
    start, _ = span_at(night, LONGITUDE_DEG)
    disk, few = failed_for_disk(survey), survey.jobs["failed"]
    when = {
        disk[0]: start + timedelta(minutes=1),
        disk[1]: start + timedelta(hours=23),
        disk[2]: start - timedelta(hours=1),
    }
    when[few] = start + timedelta(days=1)
    with database.begin() as session:
        for job, at in when.items():
            session.execute(update(JobRow).where(JobRow.id == job).values(ended_at=at))
    with database.read() as session:
        (cause,) = read_causes(session, start, start + timedelta(days=1))
    assert (cause.n, cause.jobs, cause.kind, cause.step) == (2, (disk[1], disk[0]), "transient", "assess")
    assert (cause.first, cause.last) == (when[disk[0]], when[disk[1]])
    assert [(s.node, s.n) for s in cause.nodes] == [("n1", 2)]
    assert cause.trend == (0, 0, 0, 0, 0, 1, 2)
    page = client.get(f"/jobs/errors?night={night}").text
    assert "no space left on" in page
    assert "hold what waits, mend it, then retry" in page
    assert "too few reference stars" not in page
    reply = client.post(
        "/jobs/orders", data={"act": "retry", "cause": cause.key, "night": str(night), "back": "/jobs/errors"}
    )
    assert reply.headers["location"] == "/jobs/errors?ordered=2&refused=0&more=0"
    assert [state_of(database, j).value for j in disk] == ["READY", "READY", "FAILED"]
    assert "2 jobs follow the order" in client.get(reply.headers["location"]).text


def test_a_night_without_failures_leads_on(survey: Any, visitor: Any) -> None:
    page = visitor.become(survey.tokens["vera"]).get("/jobs/errors?night=1999-01-01").text
    assert "No job failed in this night" in page
    assert "/jobs/errors?night=1998-12-31" in page
    assert 'name="cause"' not in page


def test_attempts_that_were_tried_again_are_told(database: Database, survey: Any, visitor: Any) -> None:
    with database.begin() as session:
        (live,) = jobs.live_attempts(session, know_node(session, "n1"))
        end = jobs.AttemptEnd(75, 3.0, None, "transient", "the archive is away; wait")
        jobs.requeue(session, live.attempt_id, live.fence, end, backoff_s=600.0)
    night = last_night(datetime.now(UTC), LONGITUDE_DEG)
    client = visitor.become(survey.tokens["vera"])
    text_of = [client.get(f"/jobs/errors?night={night + timedelta(days=d)}").text for d in (0, 1)]
    assert sum("the archive is away" in t for t in text_of) == 1


def test_last_night_is_the_one_people_mean() -> None:
    hawaii = -155.0
    noon = datetime(2026, 3, 2, 22, 20, tzinfo=UTC)  # local noon of 2 March
    assert last_night(noon - timedelta(hours=3), hawaii) == date(2026, 3, 1)
    assert last_night(noon + timedelta(hours=5), hawaii) == date(2026, 3, 1)
    assert last_night(noon + timedelta(hours=7), hawaii) == date(2026, 3, 2)
    start, end = span_at(date(2026, 3, 2), hawaii)
    assert (start, end - start) == (noon, timedelta(days=1))


def test_a_retry_with_more_memory_or_time(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    job = failed_for_disk(survey)[0]
    with database.begin() as session:
        changes = {"error_kind": "out_of_memory", "memory_mb": 800, "memory_cap_mb": 1000, "time_limit_s": 60}
        session.execute(update(JobRow).where(JobRow.id == job).values(**changes))
        had = session.scalars(text("SELECT max(memory_mb) FROM attempt WHERE job_id = :j"), {"j": job}).one()
    assert "Retry with twice the memory" in client.get(f"/jobs/{job}").text
    assert client.post(f"/jobs/{job}/retry_memory").status_code == 303
    with database.begin() as session:
        row = need_job(session, job)
        more = 2 * max(800, had)
        assert (row.state, row.memory_mb, row.memory_cap_mb) == (JobState.READY, more, max(more, 1000))
        jobs.cancel(session, job)
    assert client.post(f"/jobs/{job}/retry_time").status_code == 303
    assert client.post(f"/jobs/{job}/retry_memory").status_code == 409  # it does not stand still any more
    with database.read() as session:
        row = need_job(session, job)
        assert (row.time_limit_s, row.memory_mb) == (120, more)


# Orders for many ------------------------------------------------------------------------------------------------------


def test_marked_jobs_are_ordered_together_with_a_reason(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    made = add_jobs(database, 4)
    running = survey.jobs["running"]
    data = {"act": "hold", "why": "the disk is full", "job": [*made[:3], running], "back": "/jobs?kind=assess"}
    reply = client.post("/jobs/orders", data=data)
    assert reply.headers["location"] == "/jobs?kind=assess&ordered=3&refused=1&more=0"
    assert [state_of(database, j).value for j in made] == ["HELD", "HELD", "HELD", "READY"]
    assert "the disk is full" in client.get(f"/jobs/{made[0]}").text
    with database.read() as session:
        told = set(session.scalars(select(AuditRow.subject).where(AuditRow.verb == "hold")))
    assert told >= {f"job:{j}" for j in made[:3]}
    assert f"job:{running}" not in told
    for act, reached in (("unhold", "READY"), ("cancel", "CANCELLED"), ("retry", "READY")):
        client.post("/jobs/orders", data={"act": act, "job": made[:2]})
        assert {state_of(database, j).value for j in made[:2]} == {reached}


def test_orders_for_a_plan_and_for_what_waits_of_a_kind(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    with database.read() as session:
        plan = need_job(session, survey.jobs["failed"]).plan_id
    assert client.post("/jobs/orders", data={"act": "retry", "plan": plan}).status_code == 303
    with database.read() as session:
        states = sorted(s.value for s in session.scalars(select(JobRow.state).where(JobRow.plan_id == plan)))
    assert states == ["READY", "WAITING", "WAITING", "WAITING", "WAITING"]
    made = add_jobs(database, 2, "master")
    client.post("/jobs/orders", data={"act": "hold_rest", "kind": "master", "cause": "x" * 32})
    assert {state_of(database, j) for j in made} == {JobState.HELD}
    assert state_of(database, survey.jobs["ready"]) is JobState.READY


@pytest.mark.parametrize(
    "data",
    [{"act": "retry"}, {"act": "explode", "job": [1]}, {"act": "hold", "kind": "assess"}, {"job": [1]},
     {"act": "retry", "job": list(range(1, 600))}],
)  # fmt: skip
def test_an_order_for_nobody_or_for_too_many_is_refused(survey: Any, visitor: Any, data: dict[str, Any]) -> None:
    assert visitor.become(survey.tokens["oscar"]).post("/jobs/orders", data=data).status_code == 400


def test_orders_lead_back_to_this_server_only(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    data = {"act": "hold", "job": [survey.jobs["ready"]], "back": "//evil.example/x"}
    assert client.post("/jobs/orders", data=data).headers["location"].startswith("/?ordered=")


@pytest.mark.parametrize("address", ["/jobs/orders", "/nodes/place", "/nodes/forget", "/nodes/1/move"])
def test_graders_order_nothing(survey: Any, visitor: Any, address: str) -> None:
    client = visitor.become(survey.tokens["greta"])
    assert client.post(address, data={"act": "hold", "job": [1], "node": 1}).status_code == 403
    page = client.get("/jobs").text
    assert 'name="act"' not in page


def test_a_thousand_orders_at_once_are_refused_by_the_house(database: Database) -> None:
    from spica.model.errors import UsageError

    with database.begin() as session, pytest.raises(UsageError, match="order them in parts"):
        order_jobs(session, range(1, 502), "hold")


# Another recipe -------------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_shown_where_it_was_written(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    reply = client.post(f"/plans/{survey.plan}/again", data={"recipe": "same", "settings": "stack.combin = 'median'"})
    assert reply.status_code == 400
    assert "did you mean &#39;combine&#39;" in reply.text
    assert 'aria-invalid="true"' in reply.text
    assert "stack.combin = &#39;median&#39;" in reply.text  # what was written is not lost
    assert client.post(f"/plans/{survey.plan}/again", data={"recipe": "../../etc/passwd"}).status_code == 400


def test_an_assessment_is_looked_at_then_done_again(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    image = survey.exposures[0]
    data = {"recipe": "default", "settings": "quality.threshold_sigma = 3\n\n"}
    look = client.post(f"/images/{image}/again", data=data | {"dry": "true"}).text
    assert "quality.threshold_sigma" in look
    assert "1 parameter changed" in look
    with database.read() as session:
        before = session.scalars(select(PlanRow.id)).all()
    reply = client.post(f"/images/{image}/again", data=data | {"dry": "false"})
    plan = int(reply.headers["location"].rpartition("/")[2])
    assert plan not in before
    with database.read() as session:
        (job,) = session.scalars(select(JobRow).where(JobRow.plan_id == plan)).all()
        name = session.get_one(ImageRow, image).name
    assert job.label.startswith(name)
    assert json.loads(job.request)["recipe"]["quality"]["threshold_sigma"] == 3.0
    waits = client.post(f"/jobs/{job.id}/again", data=data | {"dry": "false"})
    assert waits.status_code == 409
    assert "wait in a job already" in waits.text


def test_jobs_that_assess_nothing_point_to_their_plan(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    assert f"/plans/{survey.plan}/again" in client.get(f"/jobs/{survey.jobs['solved']}").text
    reply = client.get(f"/jobs/{survey.jobs['solved']}/again")
    assert reply.status_code == 400
    assert f"plan {survey.plan} again" in reply.text
    for address in ("/jobs/99999/again", "/plans/99999/again", "/images/99999/again"):
        assert client.get(address).status_code == 404


# The graph ------------------------------------------------------------------------------------------------------------


def ensemble(n: int) -> tuple[list[GraphNode], list[tuple[int, int, str]]]:
    """Return n assessments, then solve, stack and judge."""
    kinds = ["assess"] * n + ["astrometry", "stack", "quality"]
    nodes = [GraphNode(i + 1, k, "FAILED" if i == 3 else "SUCCEEDED", "") for i, k in enumerate(kinds)]
    edges = [(i + 1, n + 1, "after") for i in range(n)] + [(n + 1, n + 2, "needs"), (n + 2, n + 3, "needs")]
    return nodes, edges


@pytest.mark.parametrize("n", [60, 497])
def test_many_alike_share_a_box(n: int) -> None:
    boxes, between = fold_graph(*ensemble(n))
    assert [(b.id, len(b.jobs), b.depth) for b in boxes] == [(1, n, 0), (n + 1, 1, 1), (n + 2, 1, 2), (n + 3, 1, 3)]
    assert between == [(1, n + 1, "after"), (n + 1, n + 2, "needs"), (n + 2, n + 3, "needs")]
    assert boxes[0].state == "FAILED"
    drawn = str(draw_graph(*ensemble(n), plan_id=7))
    assert f"{n} × assess" in drawn
    assert 'href="/jobs?plan=7&amp;kind=assess"' in drawn
    assert f"{n - 1} succeeded, 1 failed" in drawn


def test_a_few_stay_apart() -> None:
    boxes, _ = fold_graph(*ensemble(FOLD_FROM - 1))
    assert len(boxes) == FOLD_FROM - 1 + 3


# Nodes ----------------------------------------------------------------------------------------------------------------


def test_what_waits_for_a_silent_node_is_told_and_moved(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    (job,) = add_jobs(database, 1)
    with database.begin() as session:
        dead, good = know_node(session, "ocs2"), know_node(session, "n1")
        beat(session, dead, Beat(2, 0, disk_free_bytes=10**12))
        session.execute(update(JobRow).where(JobRow.id == job).values(node_id=dead))
    assert "wait for node" not in client.get("/nodes").text
    with database.begin() as session:
        session.execute(text("UPDATE node SET seen_at = clock_timestamp() - interval '601 s' WHERE name = 'ocs2'"))
    page = client.get("/nodes").text
    assert "1 job waits for node ocs2, which is silent" in page
    assert f'action="/nodes/{dead}/move"' in page
    assert 'name="to"' not in visitor.become(survey.tokens["vera"]).get("/nodes").text
    client = visitor.become(survey.tokens["oscar"])
    assert client.post(f"/nodes/{dead}/move", data={"to": good}).headers["location"] == "/nodes?moved=1"
    with database.read() as session:
        assert need_job(session, job).node_id == good
    assert "Only node" in client.get(f"/jobs/{job}").text
    assert client.post(f"/nodes/{good}/move", data={"to": ""}).status_code == 303
    with database.read() as session:
        assert need_job(session, job).node_id is None


def test_a_person_chooses_where_a_group_goes(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    with database.read() as session:
        n1 = session.scalars(text("SELECT id FROM node WHERE name = 'n1'")).one()
    assert "Nothing is placed yet" in client.get("/nodes").text
    assert client.post("/nodes/place", data={"run": "06BQ12", "filter": "r", "node": n1}).status_code == 303
    page = client.get("/nodes").text
    row = re.search(r"<tr><td>06BQ12</td>.*?</tr>", page, re.S)
    assert row is not None
    assert ">6<" in row[0].replace(" ", "")  # six exposures of that run and filter
    assert "by oscar" in row[0]
    assert client.post("/nodes/place", data={"node": 9999}).status_code == 400
    assert client.post("/nodes/forget", data={"run": "06BQ12", "filter": "r"}).status_code == 303
    with database.read() as session:
        assert session.scalars(select(PlacementRow)).all() == []


def test_nodes_tell_what_they_hold_and_suffered(survey: Any, visitor: Any) -> None:
    page = visitor.become(survey.tokens["vera"]).get("/nodes").text
    assert re.search(r'id="node-n1".*?(\d+) files', page, re.S)
    assert re.search(r'id="node-n1".*transient', page, re.S)


def test_edges_fold_by_kind() -> None:
    """Assessments that feed different steps do not share a box."""
    nodes = [GraphNode(i, "assess", "READY", "") for i in range(1, 21)]
    nodes += [GraphNode(21, "stack", "WAITING", ""), GraphNode(22, "master", "WAITING", "")]
    edges = [(i, 21 if i <= 10 else 22, EdgeKind.NEEDS.value) for i in range(1, 21)]
    boxes, _ = fold_graph(nodes, edges)
    assert [len(b.jobs) for b in boxes] == [10, 10, 1, 1]


def test_the_workspace_recipes_are_offered(survey: Any, visitor: Any, workspace: Workspace) -> None:
    (workspace.recipes_folder / "deep.toml").write_text("[stack]\ncombine = 'median'\n")
    page = visitor.become(survey.tokens["oscar"]).get(f"/plans/{survey.plan}/again").text
    assert re.findall(r'<option value="(\w+)"', page) == ["same", "default", "deep"]

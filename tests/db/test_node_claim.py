"""What a drained node may claim: nothing, from the moment at which the drain is on record; and what its jobs say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.node import Beat, beat, drain_node, know_node, resume_node, stop_node
from spica.db.node_wait import explain_wait
from spica.model.job import JobState, Request

SOON_S = 0.4
"""So long a thread that must wait is seen to wait."""


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    """Return a thread that acts beside the test."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def node(session: Session, name: str) -> int:
    """Return a node that lives."""
    node_id = know_node(session, name)
    beat(session, node_id, Beat(2, 0, disk_free_bytes=10**12))
    return node_id


def ready(session: Session, node_id: int | None = None) -> int:
    """Make a job that is ready, for a node or for any."""
    (job_id,) = jobs.reserve_job_ids(session, 1)
    request = Request("assess", "native", {}, "0" * 64)
    jobs.create_jobs(session, None, [jobs.NewJob(job_id, "assess", "native", request, "#!/bin/sh\n", node_id=node_id)])
    return job_id


def claimed(session: Session, node_id: int) -> int | None:
    found = jobs.claim(session, node_id, 60.0)
    return None if found is None else found.job_id


def said(session: Session, job_id: int) -> str:
    wait = explain_wait(session, jobs.need_job(session, job_id))
    return "" if wait is None else wait.words


def test_a_drained_node_claims_nothing_and_loses_nothing(session: Session) -> None:
    a, b = node(session, "a"), node(session, "b")
    running = ready(session, b)
    assert claimed(session, b) == running
    own, free, later = ready(session, b), ready(session), ready(session, b)
    assert jobs.pending_work(session, b, 0.0).ready == 3
    drain_node(session, b, "its disk is swapped")
    assert claimed(session, b) is None
    assert jobs.pending_work(session, b, 0.0).ready == 0, "a draining daemon of a drained node may leave"
    assert [claimed(session, a), claimed(session, a)] == [free, None], "the other goes on, with what any may take"
    (attempt,) = jobs.live_attempts(session, b)
    assert attempt.attempt_id in jobs.renew_leases(session, b, [attempt.attempt_id], 60.0).live
    jobs.succeed(session, attempt.attempt_id, attempt.fence, jobs.AttemptEnd(0))
    assert jobs.need_job(session, running).state is JobState.SUCCEEDED, "what runs there ends well"
    assert claimed(session, b) is None
    resume_node(session, b)
    assert [claimed(session, b), claimed(session, b)] == [own, later]


def test_an_attempt_that_is_given_back_waits_for_its_drained_node(session: Session) -> None:
    b = node(session, "b")
    job = ready(session, b)
    found = jobs.claim(session, b, 60.0)
    assert found is not None
    drain_node(session, b, "x")
    assert jobs.requeue(session, found.attempt_id, found.fence, jobs.AttemptEnd(75), backoff_s=0.0) is JobState.READY
    assert claimed(session, b) is None
    resume_node(session, b)
    assert claimed(session, b) == job


def _claim(database: Database, node_id: int) -> int | None:
    with database.begin() as session:
        return claimed(session, node_id)


def _drain(database: Database, node_id: int) -> None:
    with database.begin() as session:
        drain_node(session, node_id, "now")


def waits(future: Future[object]) -> bool:
    try:
        future.result(SOON_S)
    except NotYetError:
        return True
    return False


def test_a_claim_waits_for_a_drain_under_way_and_obeys_it(database: Database, beside: ThreadPoolExecutor) -> None:
    with database.begin() as session:
        b = node(session, "b")
        job = ready(session)
    with database.begin() as session:
        drain_node(session, b, "now")
        claim = beside.submit(_claim, database, b)
        assert waits(claim)
    assert claim.result(20) is None
    with database.begin() as session:
        resume_node(session, b)
        assert claimed(session, b) == job


def test_a_drain_waits_for_a_claim_under_way(database: Database, beside: ThreadPoolExecutor) -> None:
    """Once a drain is on record, no attempt appears that was not there before."""
    with database.begin() as session:
        b = node(session, "b")
        first, second = ready(session), ready(session)
    with database.begin() as session:
        assert claimed(session, b) == first
        drain = beside.submit(_drain, database, b)
        assert waits(drain)
    drain.result(20)
    assert _claim(database, b) is None
    with database.read() as session:
        assert [jobs.need_job(session, j).state for j in (first, second)] == [JobState.RUNNING, JobState.READY]


def test_a_claim_does_not_wait_for_another_claim_or_node(database: Database, beside: ThreadPoolExecutor) -> None:
    with database.begin() as session:
        a, b = node(session, "a"), node(session, "b")
        made = [ready(session) for _ in range(3)]
    with database.begin() as session:
        assert claimed(session, b) == made[0]
        assert beside.submit(_claim, database, b).result(20) == made[1]
        drain_node(session, b, "now")
        assert beside.submit(_claim, database, a).result(20) == made[2]


def test_a_job_says_for_which_node_it_waits(session: Session) -> None:
    a, b = node(session, "a"), node(session, "b")
    bound, free = ready(session, b), ready(session)
    assert said(session, bound) == "Only node b may run it: its run and filter go there."
    assert said(session, free) == ""
    drain_node(session, b, "its disk is swapped")
    words = said(session, bound)
    assert "That node is drained by the command line since " in words
    assert "UTC: its disk is swapped. The job waits until b is resumed (spica nodes --resume b)" in words
    assert said(session, free) == ""
    drain_node(session, a, "power")
    assert said(session, free).startswith("Every node that works is drained: a by the command line since ")
    jobs.hold(session, bound)
    jobs.hold(session, free)
    assert "is drained" in said(session, bound)
    assert said(session, free) == "", "a person holds it"
    resume_node(session, b)
    stop_node(session, b)
    assert "That node has stopped. The job waits until its daemon is started" in said(session, bound)
    beat(session, b, Beat(2, 0))
    session.execute(text("UPDATE node SET seen_at = clock_timestamp() - interval '40 s' WHERE name = 'b'"))
    assert "That node is silent." in said(session, bound)
    beat(session, b, Beat(2, 0))
    jobs.unhold(session, bound)
    assert claimed(session, b) == bound
    assert said(session, bound) == ""

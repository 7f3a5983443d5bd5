"""Arrows of jobs: a random walk against a plain model, and what two transactions at once may do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.job import AttemptEnd, Claimed, FencedError, NewJob
from spica.db.node import know_node
from spica.db.tables.job import AttemptRow, JobEventRow, JobRow
from spica.model.errors import ConflictError, SpicaError
from spica.model.job import (
    ARROWS,
    DEAD,
    ENDED,
    LIVE_ATTEMPTS,
    Arrow,
    AttemptState,
    EdgeKind,
    FileRef,
    Input,
    JobState,
    Request,
)
from spica.model.record import canonical

NEEDS, AFTER = EdgeKind.NEEDS, EdgeKind.AFTER
S = JobState


def new_job(job_id: int, parents: dict[int, EdgeKind] | None = None, **more: object) -> NewJob:
    request = Request(kind="test", engine="test", recipe={}, recipe_sha256="0" * 64)
    values: dict[str, object] = {"tries": 2, "memory_mb": 100, "memory_cap_mb": 200} | more
    return NewJob(job_id, "test", "test", request, "#!/bin/sh\n", "a job", parents or {}, **values)  # type: ignore[arg-type]


def make(session: Session, *parents: dict[int, EdgeKind], **more: object) -> list[int]:
    """Create one job for each table of parents; the tables name earlier jobs of this call by index."""
    ids = jobs.reserve_job_ids(session, len(parents))
    batch = [new_job(i, {ids[p]: k for p, k in table.items()}, **more) for i, table in zip(ids, parents, strict=True)]
    return jobs.create_jobs(session, None, batch)


def state(session: Session, job_id: int) -> JobState:
    return jobs.need_job(session, job_id).state


def claim(session: Session, lease_s: float = 60.0) -> Claimed:
    found = jobs.claim(session, know_node(session, "n1"), lease_s)
    assert found is not None
    return found


# The walk -------------------------------------------------------------------------------------------------------------


@dataclass
class Twin:
    """A job as plain Python knows it."""

    parents: dict[int, EdgeKind]
    state: JobState
    attempts: int = 0
    tries_from: int = 0
    memory_mb: int = 100
    asked: bool = False
    live: Claimed | None = None
    events: list[tuple[Arrow, JobState | None, JobState]] = field(default_factory=list)


class World:
    """All jobs as plain Python knows them: the meaning of the arrows without a database."""

    def __init__(self) -> None:
        self.jobs: dict[int, Twin] = {}

    def move(self, job_id: int, arrow: Arrow, target: JobState) -> None:
        twin = self.jobs[job_id]
        assert twin.state in ARROWS[arrow].sources
        assert target in ARROWS[arrow].targets
        twin.events.append((arrow, twin.state, target))
        twin.state = target

    def dead_parent(self, job_id: int) -> bool:
        parents = self.jobs[job_id].parents
        return any(k is NEEDS and self.jobs[p].state in DEAD for p, k in parents.items())

    def free(self, job_id: int) -> bool:
        parents = self.jobs[job_id].parents
        return all(
            self.jobs[p].state is S.SUCCEEDED if k is NEEDS else self.jobs[p].state in ENDED for p, k in parents.items()
        )

    def rest(self, job_id: int) -> JobState:
        return S.READY if self.free(job_id) else S.WAITING

    def after_end(self) -> None:
        """Prune and release until nothing moves any more."""
        for job_id in sorted(self.jobs):
            twin = self.jobs[job_id]
            if self.dead_parent(job_id) and twin.state in ARROWS[Arrow.PRUNE].sources:
                self.move(job_id, Arrow.PRUNE, S.PRUNED)
            elif twin.state is S.WAITING and self.free(job_id):
                self.move(job_id, Arrow.RELEASE, S.READY)

    def again(self, job_id: int, *, double: bool = False) -> None:
        twin = self.jobs[job_id]
        capped = double and twin.memory_mb >= 200
        if twin.asked and not capped:
            self.move(job_id, Arrow.CANCEL, S.CANCELLED)
        elif capped or twin.attempts - twin.tries_from >= 2:
            self.move(job_id, Arrow.FAIL, S.FAILED)
        else:
            self.move(job_id, Arrow.REQUEUE, S.READY)
            twin.memory_mb = min(2 * twin.memory_mb, 200) if double else twin.memory_mb
        twin.live = None
        self.after_end()

    def resubmit(self, job_id: int) -> None:
        self.revive(job_id)
        reached = {job_id}
        for child in sorted(self.jobs):
            twin = self.jobs[child]
            below = any(k is NEEDS and p in reached for p, k in twin.parents.items())
            if below:
                reached.add(child)
            if below and twin.state is S.PRUNED and not self.dead_parent(child):
                self.revive(child)

    def revive(self, job_id: int) -> None:
        self.move(job_id, Arrow.RESUBMIT, self.rest(job_id))
        twin = self.jobs[job_id]
        twin.tries_from, twin.asked = twin.attempts, False


class Walk(RuleBasedStateMachine):
    """Random arrows on a small graph, in PostgreSQL and in the model."""

    database: Database

    @initialize(
        tables=st.tuples(
            *[st.dictionaries(st.integers(0, i), st.sampled_from([NEEDS, NEEDS, AFTER]), max_size=2) for i in range(5)]
        )
    )
    def begin(self, tables: tuple[dict[int, EdgeKind], ...]) -> None:
        self.world = World()
        with self.database.begin() as session:
            session.execute(text("TRUNCATE job, job_edge, job_event, attempt RESTART IDENTITY CASCADE"))
            self.node_id = know_node(session, "n1")
            self.ids = jobs.reserve_job_ids(session, len(tables) + 1)
            batch = []
            for i, table in enumerate([{}, *tables]):
                parents = {self.ids[p]: k for p, k in table.items()}
                self.world.jobs[self.ids[i]] = Twin(parents, S.WAITING)
                twin = self.world.jobs[self.ids[i]]
                twin.state = self.world.rest(self.ids[i])
                twin.events.append((Arrow.CREATE, None, twin.state))
                batch.append(new_job(self.ids[i], parents))
            jobs.create_jobs(session, None, batch)

    def pick(self, index: int) -> tuple[int, Twin]:
        job_id = self.ids[index % len(self.ids)]
        return job_id, self.world.jobs[job_id]

    def draw(self, legal: bool, do: Callable[[Session], object], then: Callable[[], None]) -> None:
        """Do it in the database; refused exactly where the model says it is illegal."""
        if legal:
            with self.database.begin() as session:
                do(session)
            then()
        else:
            with pytest.raises(ConflictError), self.database.begin() as session:
                do(session)

    @rule()
    def claim(self) -> None:
        ready = sorted(j for j, twin in self.world.jobs.items() if twin.state is S.READY)
        with self.database.begin() as session:
            claimed = jobs.claim(session, self.node_id, 60.0)
        assert (claimed.job_id if claimed else None) == (ready[0] if ready else None)
        if claimed:
            twin = self.world.jobs[claimed.job_id]
            self.world.move(claimed.job_id, Arrow.CLAIM, S.RUNNING)
            twin.attempts += 1
            twin.live = claimed
            assert (claimed.number, claimed.memory_mb) == (twin.attempts, twin.memory_mb)

    @rule(
        index=st.integers(0, 6), how=st.sampled_from(["succeed", "fail", "requeue", "memory", "lose", "abort", "adopt"])
    )
    def end(self, index: int, how: str) -> None:
        job_id, twin = self.pick(index)
        mark = twin.live or Claimed(job_id, 10**9, 1, 1, None, "", "", "", "", "", 1, 1)
        a, f, end = mark.attempt_id, mark.fence, AttemptEnd()
        acts: dict[str, tuple[Callable[[Session], object], Callable[[], None]]] = {
            "succeed": (lambda s: jobs.succeed(s, a, f, end), lambda: self.ended(job_id, Arrow.SUCCEED, S.SUCCEEDED)),
            "fail": (lambda s: jobs.fail(s, a, f, end), lambda: self.ended(job_id, Arrow.FAIL, S.FAILED)),
            "requeue": (lambda s: jobs.requeue(s, a, f, end, backoff_s=0.0), lambda: self.world.again(job_id)),
            "memory": (
                lambda s: jobs.requeue(s, a, f, end, out_of_memory=True, backoff_s=0.0),
                lambda: self.world.again(job_id, double=True),
            ),
            "lose": (lambda s: jobs.lose(s, a, "gone"), lambda: self.world.again(job_id)),
            "abort": (lambda s: jobs.abort(s, a, f, end, backoff_s=0.0), lambda: self.world.again(job_id)),
            "adopt": (
                lambda s: jobs.adopt(s, a, f, 60.0),
                lambda: self.world.move(job_id, Arrow.ADOPT, S.RUNNING),
            ),
        }
        self.draw(twin.live is not None, *acts[how])

    def ended(self, job_id: int, arrow: Arrow, target: JobState) -> None:
        self.world.move(job_id, arrow, target)
        self.world.jobs[job_id].live = None
        self.world.after_end()

    @rule(index=st.integers(0, 6))
    def hold(self, index: int) -> None:
        job_id, twin = self.pick(index)
        legal = twin.state in ARROWS[Arrow.HOLD].sources
        self.draw(legal, lambda s: jobs.hold(s, job_id), lambda: self.world.move(job_id, Arrow.HOLD, S.HELD))

    @rule(index=st.integers(0, 6))
    def unhold(self, index: int) -> None:
        job_id, twin = self.pick(index)
        self.draw(
            twin.state is S.HELD,
            lambda s: jobs.unhold(s, job_id),
            lambda: self.world.move(job_id, Arrow.UNHOLD, self.world.rest(job_id)),
        )

    @rule(index=st.integers(0, 6))
    def cancel(self, index: int) -> None:
        job_id, twin = self.pick(index)

        def then() -> None:
            if twin.state is not S.RUNNING:
                self.ended(job_id, Arrow.CANCEL, S.CANCELLED)
            elif not twin.asked:
                self.world.move(job_id, Arrow.CANCEL_REQUEST, S.RUNNING)
                twin.asked = True

        self.draw(twin.state in ARROWS[Arrow.CANCEL].sources, lambda s: jobs.cancel(s, job_id), then)

    @rule(index=st.integers(0, 6), dead=st.booleans())
    def resubmit(self, index: int, dead: bool) -> None:
        job_id, twin = self.pick(index)
        ended = [j for j in self.ids if self.world.jobs[j].state in ARROWS[Arrow.RESUBMIT].sources]
        if dead and ended:
            job_id = ended[index % len(ended)]
            twin = self.world.jobs[job_id]
        legal = twin.state in ARROWS[Arrow.RESUBMIT].sources and not self.world.dead_parent(job_id)
        self.draw(legal, lambda s: jobs.resubmit(s, job_id), lambda: self.world.resubmit(job_id))

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "ids"):
            return
        with self.database.read() as session:
            rows = {r.id: r for r in session.scalars(select(JobRow))}
            events: dict[int, list[tuple[Arrow, JobState | None, JobState]]] = {i: [] for i in rows}
            for e in session.scalars(select(JobEventRow).order_by(JobEventRow.id)):
                events[e.job_id].append((e.arrow, e.from_state, e.to_state))
            attempts: dict[int, list[AttemptState]] = {i: [] for i in rows}
            for a in session.scalars(select(AttemptRow).order_by(AttemptRow.id)):
                attempts[a.job_id].append(a.state)
        for job_id, twin in self.world.jobs.items():
            row = rows[job_id]
            assert row.state is twin.state
            assert events[job_id] == twin.events
            assert len(attempts[job_id]) == twin.attempts
            assert sum(a in LIVE_ATTEMPTS for a in attempts[job_id]) == (twin.state is S.RUNNING)
            assert (row.ended_at is not None) == (twin.state in ENDED)
            assert (row.pruned_by_id is not None) == (twin.state is S.PRUNED)
            assert (row.cancel_requested_at is not None) == twin.asked


def test_random_walks_follow_the_table_of_arrows(database: Database) -> None:
    machine = type("BoundWalk", (Walk,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )


# Two at once ----------------------------------------------------------------------------------------------------------


def at_once(*acts: Callable[[], object]) -> list[SpicaError]:
    """Run all at the same moment; return what they raised."""
    barrier = threading.Barrier(len(acts))
    errors: list[SpicaError] = []

    def run(act: Callable[[], object]) -> None:
        barrier.wait()
        try:
            act()
        except SpicaError as trouble:
            errors.append(trouble)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return errors


def running(database: Database, *tables: dict[int, EdgeKind], n: int) -> tuple[list[int], list[Claimed]]:
    """Create jobs and claim the first n."""
    with database.begin() as session:
        ids = make(session, *tables)
    claimed = []
    for _ in range(n):
        with database.begin() as session:
            claimed.append(claim(session))
    return ids, claimed


@contextlib.contextmanager
def slow_commit(database: Database) -> Iterator[Session]:
    """Give a session whose commit comes late, so that the other transaction meets its locks."""
    with database.begin() as session:
        yield session
        time.sleep(0.05)


def finish(database: Database, c: Claimed, well: bool) -> None:
    with slow_commit(database) as session:
        act = jobs.succeed if well else jobs.fail
        act(session, c.attempt_id, c.fence, AttemptEnd(error_kind=None if well else "data"))


@pytest.mark.parametrize("kind", [NEEDS, AFTER])
@pytest.mark.parametrize("repeat", range(3))
def test_two_parents_ending_at_once_release_the_child_exactly_once(
    database: Database, kind: EdgeKind, repeat: int
) -> None:
    ids, (one, other) = running(database, {}, {}, {0: kind, 1: kind}, n=2)
    assert at_once(lambda: finish(database, one, True), lambda: finish(database, other, True)) == []
    with database.read() as session:
        assert state(session, ids[2]) is S.READY
        assert [e.arrow for e in jobs.events_of_job(session, ids[2])] == [Arrow.CREATE, Arrow.RELEASE]


def test_parents_that_fail_at_once_prune_the_child_once_and_release_what_comes_after(database: Database) -> None:
    ids, (one, other) = running(database, {}, {}, {0: NEEDS, 1: NEEDS}, {2: AFTER}, n=2)
    assert at_once(lambda: finish(database, one, False), lambda: finish(database, other, False)) == []
    with database.read() as session:
        assert [state(session, i) for i in ids[2:]] == [S.PRUNED, S.READY]
        assert [e.arrow for e in jobs.events_of_job(session, ids[2])] == [Arrow.CREATE, Arrow.PRUNE]


def test_a_child_created_while_its_parent_ends_does_not_wait_for_ever(database: Database) -> None:
    ids, (parent,) = running(database, {}, n=1)

    def create() -> None:
        with slow_commit(database) as session:
            child = jobs.reserve_job_ids(session, 1)[0]
            jobs.create_jobs(session, None, [new_job(child, {ids[0]: NEEDS})])

    assert at_once(create, lambda: finish(database, parent, True)) == []
    with database.read() as session:
        assert session.scalars(select(JobRow.state).where(JobRow.id > ids[0])).all() == [S.READY]


def test_many_claims_at_once_get_each_job_once(database: Database) -> None:
    with database.begin() as session:
        ids = make(session, *[{}] * 12)
        know_node(session, "n1")
    got: list[int] = []

    def take() -> None:
        for _ in range(4):
            with slow_commit(database) as session:
                found = jobs.claim(session, know_node(session, "n1"), 60.0)
            if found is not None:
                got.append(found.job_id)

    assert at_once(*[take] * 4) == []
    assert sorted(got) == ids


def test_the_database_itself_refuses_two_live_attempts(session: Session) -> None:
    make(session, {})
    c = claim(session)
    node_id = know_node(session, "n1")
    second = insert(AttemptRow).values(
        job_id=c.job_id, number=2, node_id=node_id, state=AttemptState.RUNNING, memory_mb=1, lease_until=text("now()")
    )
    with pytest.raises(IntegrityError, match="uq_attempt_live"):
        session.execute(second)
    session.rollback()


# Claiming and trying again --------------------------------------------------------------------------------------------


def test_claims_go_by_priority_then_id_and_by_node(session: Session) -> None:
    other = know_node(session, "n2")
    elsewhere = make(session, {}, node_id=other, priority=9)
    low, high = make(session, {}), make(session, {}, priority=5)
    assert [claim(session).job_id for _ in range(2)] == high + low
    assert jobs.claim(session, know_node(session, "n1"), 60.0) is None
    found = jobs.claim(session, other, 60.0)
    assert found is not None
    assert found.job_id == elsewhere[0]


def test_a_job_that_waits_for_memory_is_passed_over(session: Session) -> None:
    big, small = make(session, {}, memory_mb=900), make(session, {}, memory_mb=100)
    found = jobs.claim(session, know_node(session, "n1"), 60.0, memory_mb=500)
    assert found is not None
    assert found.job_id == small[0]
    assert claim(session).job_id == big[0]


def test_backoff_doubles_and_holds_the_job_back(session: Session) -> None:
    (job_id,) = make(session, {}, tries=5)
    for expected_s in (8.0, 16.0, 32.0):
        c = claim(session)
        assert jobs.requeue(session, c.attempt_id, c.fence, AttemptEnd(), backoff_s=8.0) is S.READY
        assert jobs.claim(session, know_node(session, "n1"), 60.0) is None
        soonest_s = jobs.pending_work(session, know_node(session, "n1"), 0.0).soonest_s
        assert soonest_s == pytest.approx(expected_s, abs=2.0)
        session.execute(update(JobRow).where(JobRow.id == job_id).values(not_before=None))


def test_memory_doubles_to_the_cap_and_then_the_job_fails(session: Session) -> None:
    (job_id,) = make(session, {}, tries=9, memory_mb=100, memory_cap_mb=300)
    given = []
    for _ in range(3):
        c = claim(session)
        given.append(c.memory_mb)
        jobs.requeue(session, c.attempt_id, c.fence, AttemptEnd(), out_of_memory=True, backoff_s=0.0)
    assert given == [100, 200, 300]
    job = jobs.need_job(session, job_id)
    assert job.state is S.FAILED
    assert "300 MB was not enough" in str(job.error_text)


def test_an_old_fence_moves_nothing(session: Session) -> None:
    (job_id,) = make(session, {})
    old = claim(session)
    jobs.lose(session, old.attempt_id, "gone")
    new = claim(session)
    assert new.fence > old.fence
    for act in (jobs.succeed, jobs.fail, jobs.abort, jobs.requeue):
        with pytest.raises(FencedError):
            act(session, old.attempt_id, old.fence, AttemptEnd())
    with pytest.raises(FencedError):
        jobs.succeed(session, new.attempt_id, old.fence, AttemptEnd())
    with pytest.raises(FencedError):
        jobs.mark_started(session, old.attempt_id, old.fence, 1, 1.0)
    assert state(session, job_id) is S.RUNNING
    jobs.note_late_result(session, old.attempt_id, "late")
    jobs.note_late_result(session, new.attempt_id, "late")
    assert [a.error_text for a in jobs.attempts_of_job(session, job_id)] == ["gone; late", None]


def test_leases_are_renewed_and_the_reaper_takes_only_the_expired(database: Database) -> None:
    with database.begin() as session:
        make(session, {}, {})
        node_id = know_node(session, "n1")
        alive, silent = claim(session, -1.0), claim(session, -1.0)
        lease = jobs.renew_leases(session, node_id, [alive.attempt_id, 10**9], 60.0)
        assert lease.live == {alive.attempt_id}
        assert lease.cancel == frozenset()
    with database.begin() as session:
        assert jobs.reap(session) == (silent.job_id, S.READY)
        assert jobs.reap(session) is None
        assert [a.state for a in jobs.attempts_of_job(session, silent.job_id)] == [AttemptState.LOST]


def test_cancel_of_a_running_job_reaches_its_node_and_ends_with_the_lease(session: Session) -> None:
    ids = make(session, {}, {0: NEEDS})
    c = claim(session, -1.0)
    assert jobs.cancel(session, ids[0], why="wrong field") is S.RUNNING
    assert jobs.renew_leases(session, know_node(session, "n1"), [c.attempt_id], -1.0).cancel == {c.attempt_id}
    assert jobs.reap(session) == (ids[0], S.CANCELLED)
    assert [state(session, i) for i in ids] == [S.CANCELLED, S.PRUNED]
    assert [e.why for e in jobs.events_of_job(session, ids[0])][2] == "wrong field"


def test_a_revived_job_leaves_descendants_of_another_dead_parent_pruned(session: Session) -> None:
    a, b, child, grandchild = make(session, {}, {}, {0: NEEDS, 1: NEEDS}, {2: NEEDS})
    jobs.cancel(session, a)
    jobs.cancel(session, b)
    assert jobs.resubmit(session, a) == [a]
    assert jobs.need_job(session, child).pruned_by_id == b
    with pytest.raises(ConflictError, match=f"retry job {b}"):
        jobs.resubmit(session, child)
    assert jobs.resubmit(session, b) == [b, child, grandchild]
    assert [state(session, i) for i in (a, b, child, grandchild)] == [S.READY, S.READY, S.WAITING, S.WAITING]
    assert [e.cause_job_id for e in jobs.events_of_job(session, grandchild)][-1] == b


def test_edges_lead_forward_and_to_living_parents(session: Session) -> None:
    (dead,) = make(session, {})
    jobs.cancel(session, dead)
    ids = jobs.reserve_job_ids(session, 2)
    with pytest.raises(ValueError, match="no lower id"):
        jobs.create_jobs(session, None, [new_job(ids[0], {ids[1]: NEEDS}), new_job(ids[1])])
    with pytest.raises(ConflictError, match="CANCELLED"):
        jobs.create_jobs(session, None, [new_job(ids[0], {dead: NEEDS})])
    with pytest.raises(ConflictError, match="no job 999"):
        jobs.create_jobs(session, None, [new_job(ids[1] + 10**4, {999: AFTER})])
    jobs.create_jobs(session, None, [new_job(ids[0], {dead: AFTER})])
    assert state(session, ids[0]) is S.READY


def test_inputs_of_live_jobs_are_known_by_item(session: Session) -> None:
    job_id = jobs.reserve_job_ids(session, 1)[0]
    file = FileRef(3, "0" * 64, "a.fits", 1)
    request = Request("test", "test", {}, "0" * 64, (Input("exposure", "file:3", file),))
    jobs.create_jobs(session, None, [NewJob(job_id, "test", "test", request, "")])
    assert jobs.need_job(session, job_id).request == canonical(request)
    assert jobs.need_job(session, job_id).request_sha256 == request.sha256()
    assert jobs.live_inputs(session, "test") == {"file:3"}
    assert jobs.live_inputs(session, "other") == frozenset()
    jobs.cancel(session, job_id)
    assert jobs.live_inputs(session, "test") == frozenset()


def test_every_arrow_notifies_those_who_listen(database: Database) -> None:
    with database.listen() as listener:
        with database.begin() as session:
            (job_id,) = make(session, {})
        assert listener.wait(5.0) == [f"job:{job_id}"]

"""Attempts: claimed with a fence and a lease, adopted, and ended; only the newest fence of a job moves it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, insert, literal, or_, select, text, update
from sqlalchemy.orm import Session

from spica.db.engine import notify
from spica.db.job.move import Cause, Locked, draw, lock_job, record_event, settle
from spica.db.tables.file import NodeRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.model.errors import ConflictError
from spica.model.job import LIVE_ATTEMPTS, Arrow, AttemptState, JobState

BACKOFF_S = 2.0
BACKOFF_CAP_S = 300.0


class FencedError(ConflictError):
    """This attempt no longer counts: its lease ended and another took its place; its files stay where they are."""


@dataclass(frozen=True)
class Claimed:
    """A job and the attempt at it that a node has claimed, adopted or left behind."""

    job_id: int
    attempt_id: int
    number: int
    fence: int
    plan_id: int | None
    kind: str
    request: str
    request_sha256: str
    script: str
    script_sha256: str
    time_limit_s: int
    memory_mb: int
    state: AttemptState = AttemptState.SUBMITTED
    pid: int | None = None
    pid_started: float | None = None


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended, as the daemon saw and judged it. `exit_code` negative is a signal, None unknown.

    `killed`: its processes were ended from outside, so the attempt counts as ABORTED, not FAILED.
    """

    exit_code: int | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    error_kind: str | None = None
    error_text: str | None = None
    log_tail: str | None = None
    log_file_id: int | None = None
    result_sha256: str | None = None
    killed: bool = False


@dataclass(frozen=True)
class Lease:
    """What a renewal found: the attempts that still count, and those whose jobs a person wants ended."""

    live: frozenset[int]
    cancel: frozenset[int]


@dataclass(frozen=True)
class _Held:
    """An attempt whose job is locked by this transaction."""

    job: Locked
    attempt_id: int
    number: int
    memory_mb: int

    @property
    def try_number(self) -> int:
        return self.number - self.job.tries_from

    @property
    def spent(self) -> bool:
        return self.try_number >= self.job.tries


def after_s(seconds: float) -> ColumnElement[object]:
    """Return the instant some seconds from now by the database's clock."""
    return func.clock_timestamp() + literal(timedelta(seconds=seconds))


def claim(session: Session, node_id: int, lease_s: float, memory_mb: int | None = None) -> Claimed | None:
    """Claim the first ready job that the node may run, by priority and id; None where there is none.

    Jobs that another transaction is claiming are passed over. A drained node gets none: the statement shares the row
    of the node, so that it waits for a drain that is under way, and a drain for it. `memory_mb`: ask only for jobs that
    need no more.
    """
    taking = (NodeRow.id == node_id, NodeRow.drained_at.is_(None))
    query = (
        select(JobRow.id)
        .join(NodeRow, and_(*taking))
        .where(
            select(NodeRow.id).where(*taking).correlate(None).exists(),  # looked up once, before any job
            JobRow.state == JobState.READY,
            or_(JobRow.node_id.is_(None), JobRow.node_id == node_id),
            or_(JobRow.not_before.is_(None), JobRow.not_before <= func.clock_timestamp()),
        )
        .order_by(JobRow.priority.desc(), JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True, of=JobRow)
        .suffix_with(text("FOR SHARE OF node"))
    )
    if memory_mb is not None:
        query = query.where(JobRow.memory_mb <= memory_mb)
    job_id = session.scalar(query)
    if job_id is None:
        return None
    job = lock_job(session, job_id)
    number = select(func.coalesce(func.max(AttemptRow.number), 0) + 1).where(AttemptRow.job_id == job_id)
    attempt_id = session.execute(
        insert(AttemptRow)
        .values(
            job_id=job_id,
            number=number.scalar_subquery(),
            node_id=node_id,
            state=AttemptState.SUBMITTED,
            lease_until=after_s(lease_s),
            memory_mb=job.memory_mb,
        )
        .returning(AttemptRow.id)
    ).scalar_one()
    draw(session, job, Arrow.CLAIM, JobState.RUNNING, Cause(attempt_id=attempt_id), not_before=None)
    return read_claimed(session, AttemptRow.id == attempt_id)[0]


def read_claimed(session: Session, condition: ColumnElement[bool]) -> list[Claimed]:
    """Return attempts with their jobs, by attempt."""
    query = (
        select(
            AttemptRow.job_id,
            AttemptRow.id.label("attempt_id"),
            AttemptRow.number,
            AttemptRow.fence,
            JobRow.plan_id,
            JobRow.kind,
            JobRow.request,
            JobRow.request_sha256,
            JobRow.script,
            JobRow.script_sha256,
            JobRow.time_limit_s,
            AttemptRow.memory_mb,
            AttemptRow.state,
            AttemptRow.pid,
            AttemptRow.pid_started,
        )
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(condition)
        .order_by(AttemptRow.id)
    )
    return [Claimed(**row._mapping) for row in session.execute(query)]


def _hold(session: Session, attempt_id: int, fence: int | None) -> _Held:
    """Lock the job of a live attempt; FencedError where the attempt ended or bears another fence."""
    job_id = session.scalar(select(AttemptRow.job_id).where(AttemptRow.id == attempt_id))
    if job_id is None:
        raise FencedError(f"there is no attempt {attempt_id}; its job is gone")
    job = lock_job(session, job_id)
    row = session.execute(
        select(AttemptRow.number, AttemptRow.memory_mb, AttemptRow.fence, AttemptRow.state)
        .where(AttemptRow.id == attempt_id)
        .with_for_update(key_share=True)
    ).one()
    number, memory_mb, found, state = row
    if state not in LIVE_ATTEMPTS or (fence is not None and found != fence) or job.state is not JobState.RUNNING:
        raise FencedError(
            f"attempt {number} of job {job_id} is {state.value} and no longer counts; see spica log {job_id}"
        )
    return _Held(job, attempt_id, number, memory_mb)


def mark_started(session: Session, attempt_id: int, fence: int, pid: int, pid_started: float) -> None:
    """Write down the process of an attempt. `pid_started` in seconds since the epoch. FencedError where it ended."""
    found = session.execute(
        update(AttemptRow)
        .where(AttemptRow.id == attempt_id, AttemptRow.fence == fence, AttemptRow.state.in_(LIVE_ATTEMPTS))
        .values(state=AttemptState.RUNNING, pid=pid, pid_started=pid_started)
        .returning(AttemptRow.id)
    ).all()
    if not found:
        raise FencedError(f"attempt {attempt_id} no longer counts; its lease ended before it began")


def renew_leases(session: Session, node_id: int, attempt_ids: Iterable[int], lease_s: float) -> Lease:
    """Renew the leases of a node's attempts by the database's clock; those missing from `live` are fenced off."""
    wanted = sorted(set(attempt_ids))
    if not wanted:
        return Lease(frozenset(), frozenset())
    rows = session.execute(
        update(AttemptRow)
        .where(AttemptRow.id.in_(wanted), AttemptRow.node_id == node_id, AttemptRow.state.in_(LIVE_ATTEMPTS))
        .values(lease_until=after_s(lease_s))
        .returning(AttemptRow.id, AttemptRow.job_id)
        .execution_options(synchronize_session=False)
    ).all()
    asked = select(JobRow.id).where(JobRow.id.in_([j for _, j in rows]), JobRow.cancel_requested_at.is_not(None))
    jobs = set(session.scalars(asked)) if rows else set()
    return Lease(frozenset(a for a, _ in rows), frozenset(a for a, j in rows if j in jobs))


def adopt(session: Session, attempt_id: int, fence: int, lease_s: float) -> None:
    """Take over a running attempt after a restart of the daemon. FencedError where it no longer counts."""
    held = _hold(session, attempt_id, fence)
    session.execute(update(AttemptRow).where(AttemptRow.id == attempt_id).values(lease_until=after_s(lease_s)))
    why = "a restarted daemon found its process alive"
    record_event(session, held.job.id, Arrow.ADOPT, JobState.RUNNING, JobState.RUNNING, Cause(None, why, attempt_id))


def succeed(session: Session, attempt_id: int, fence: int, end: AttemptEnd) -> None:
    """End an attempt and its job well, and release the children. FencedError where the attempt no longer counts."""
    held = _hold(session, attempt_id, fence)
    _end_attempt(session, held, AttemptState.SUCCEEDED, end)
    _end_job(session, held, Arrow.SUCCEED, JobState.SUCCEEDED, end)


def fail(session: Session, attempt_id: int, fence: int, end: AttemptEnd) -> JobState:
    """End an attempt and its job for good; descendants that need it are pruned. FencedError as in `succeed`."""
    held = _hold(session, attempt_id, fence)
    _end_attempt(session, held, AttemptState.ABORTED if end.killed else AttemptState.FAILED, end)
    _end_job(session, held, Arrow.FAIL, JobState.FAILED, end)
    return JobState.FAILED


def abort(session: Session, attempt_id: int, fence: int, end: AttemptEnd, *, backoff_s: float = BACKOFF_S) -> JobState:
    """End a job whose cancelling was asked for, its processes being gone; FencedError as in `succeed`.

    Where nobody asked, the attempt is ABORTED and the job tried again.
    """
    held = _hold(session, attempt_id, fence)
    _end_attempt(session, held, AttemptState.ABORTED, end)
    return _try_again(session, held, end, backoff_s)


def requeue(
    session: Session,
    attempt_id: int,
    fence: int,
    end: AttemptEnd,
    *,
    out_of_memory: bool = False,
    backoff_s: float = BACKOFF_S,
) -> JobState:
    """End an attempt so that its job is tried again; return the state its job has reached.

    The job is not claimed before `backoff_s` doubled with every try (300 s at most). After `out_of_memory` the next
    attempt gets twice the memory, up to the job's cap. Where the tries are spent, or the cap was not enough, the job is
    FAILED; where a person wants it ended, CANCELLED. FencedError as in `succeed`.
    """
    held = _hold(session, attempt_id, fence)
    _end_attempt(session, held, AttemptState.ABORTED if end.killed else AttemptState.FAILED, end)
    if out_of_memory and held.memory_mb >= held.job.memory_cap_mb:
        return _give_up(session, held, end, f"the cap of {held.job.memory_cap_mb} MB was not enough")
    return _try_again(session, held, end, backoff_s, double=out_of_memory)


def lose(session: Session, attempt_id: int, why: str, *, backoff_s: float = 0.0) -> JobState:
    """End an attempt of which nothing is left to wait for; its job is tried again, or ends as in `requeue`."""
    held = _hold(session, attempt_id, None)
    end = AttemptEnd(error_kind="lost", error_text=why)
    _end_attempt(session, held, AttemptState.LOST, end)
    return _try_again(session, held, end, backoff_s)


def reap(session: Session) -> tuple[int, JobState] | None:
    """Lose one attempt of any node whose lease has ended; return its job and where that went, or None."""
    query = (
        select(AttemptRow.id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state.in_(LIVE_ATTEMPTS), AttemptRow.lease_until < func.clock_timestamp())
        .order_by(JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True, of=JobRow)
    )
    attempt_id = session.scalar(query)
    if attempt_id is None:
        return None
    still = session.execute(
        select(AttemptRow.job_id)
        .where(
            AttemptRow.id == attempt_id,
            AttemptRow.state.in_(LIVE_ATTEMPTS),
            AttemptRow.lease_until < func.clock_timestamp(),
        )
        .with_for_update(key_share=True)
    ).scalar()
    if still is None:
        return None
    return still, lose(session, attempt_id, "its node did not renew the lease", backoff_s=BACKOFF_S)


def note_late_result(session: Session, attempt_id: int, why: str) -> None:
    """Write down with a fenced attempt that its result came late and lies unused in its folder."""
    text = func.concat_ws("; ", AttemptRow.error_text, why)
    job_id = session.execute(
        update(AttemptRow)
        .where(AttemptRow.id == attempt_id, AttemptRow.state == AttemptState.LOST)
        .values(error_text=text)
        .returning(AttemptRow.job_id)
        .execution_options(synchronize_session=False)
    ).scalar()
    if job_id is not None:
        notify(session, f"job:{job_id}")


def _end_attempt(session: Session, held: _Held, state: AttemptState, end: AttemptEnd) -> None:
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.id == held.attempt_id)
        .values(
            state=state,
            ended_at=func.clock_timestamp(),
            exit_code=end.exit_code,
            seconds=end.seconds,
            peak_memory_mb=end.peak_memory_mb,
            error_kind=end.error_kind,
            error_text=end.error_text,
            log_tail=end.log_tail,
            log_file_id=end.log_file_id,
            result_sha256=end.result_sha256,
        )
    )


def _end_job(session: Session, held: _Held, arrow: Arrow, target: JobState, end: AttemptEnd) -> None:
    cause = Cause(why=end.error_text, attempt_id=held.attempt_id)
    draw(session, held.job, arrow, target, cause, error_kind=end.error_kind, error_text=end.error_text)
    settle(session, held.job.id, target, Cause())


def _give_up(session: Session, held: _Held, end: AttemptEnd, why: str) -> JobState:
    text = "; ".join(words for words in (end.error_text, why) if words)
    cause = Cause(why=text, attempt_id=held.attempt_id)
    draw(session, held.job, Arrow.FAIL, JobState.FAILED, cause, error_kind=end.error_kind, error_text=text)
    settle(session, held.job.id, JobState.FAILED, Cause())
    return JobState.FAILED


def _try_again(session: Session, held: _Held, end: AttemptEnd, backoff_s: float, double: bool = False) -> JobState:
    job, cause = held.job, Cause(why=end.error_text, attempt_id=held.attempt_id)
    if job.cancel_requested:
        draw(session, job, Arrow.CANCEL, JobState.CANCELLED, cause, error_kind="cancelled", error_text=end.error_text)
        settle(session, job.id, JobState.CANCELLED, Cause())
        return JobState.CANCELLED
    if held.spent:
        return _give_up(session, held, end, f"{job.tries} tries are spent; look at the log, then spica retry {job.id}")
    delay_s = min(backoff_s * 2.0 ** (held.try_number - 1), BACKOFF_CAP_S)
    memory_mb = min(2 * held.memory_mb, job.memory_cap_mb) if double else job.memory_mb
    not_before = after_s(delay_s) if delay_s > 0 else None
    draw(session, job, Arrow.REQUEUE, JobState.READY, cause, not_before=not_before, memory_mb=memory_mb)
    return JobState.READY

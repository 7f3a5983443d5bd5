"""Jobs as the pages show them: lines of lists, and one with its attempts, events, edges, outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, aliased

from spica.db.pages.image import OutcomeEntry, read_outcomes
from spica.db.tables.file import NodeRow
from spica.db.tables.job import AttemptRow, JobEdgeRow, JobEventRow, JobRow, OutcomeRow
from spica.db.tables.person import PersonRow
from spica.model.job import LIVE_ATTEMPTS, JobState


@dataclass(frozen=True)
class JobLine:
    """One job of a list, with its last attempt; neither script nor request is read for it."""

    id: int
    kind: str
    label: str
    state: JobState
    engine: str
    plan: int | None
    image: int | None
    error_kind: str | None
    error: str | None
    ended_at: datetime | None
    not_before: datetime | None
    waits_for: str | None
    attempts: int
    node: str | None
    seconds: float | None
    exit_code: int | None


@dataclass(frozen=True)
class JobBounds:
    """What a list of jobs is narrowed to; None does not narrow. `ended` is a span [from, to)."""

    state: JobState | None = None
    kind: str | None = None
    node: str | None = None
    plan: int | None = None
    ended: tuple[datetime, datetime] | None = None
    error: str | None = None

    @property
    def only_state(self) -> bool:
        """Whether nothing but perhaps the state narrows."""
        return (self.kind, self.node, self.plan, self.ended, self.error) == (None, None, None, None, None)

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions of a statement."""
        given = {JobRow.state: self.state, JobRow.kind: self.kind, JobRow.plan_id: self.plan}
        found: list[ColumnElement[bool]] = [column == value for column, value in given.items() if value is not None]
        if self.error is not None:
            found.append(JobRow.error_kind == self.error)
        if self.ended is not None:
            found += [JobRow.ended_at >= self.ended[0], JobRow.ended_at < self.ended[1]]
        if self.node is not None:
            node = select(NodeRow.id).where(NodeRow.name == self.node).scalar_subquery()
            found.append(JobRow.id.in_(select(AttemptRow.job_id).where(AttemptRow.node_id == node)))
        return found


@dataclass(frozen=True)
class JobSlice:
    """Some lines of a list, newest first, and whether there are newer and older ones beside them."""

    lines: list[JobLine]
    newer: bool
    older: bool


def slice_jobs(
    session: Session, bounds: JobBounds, size: int, before: int | None = None, after: int | None = None
) -> JobSlice:
    """Return the jobs next to a key: those older than `before`, or newer than `after`; one statement.

    The key is the id, so that a page far back costs no more than the first one, and new jobs move nothing.
    """
    where = bounds.conditions()
    upward = after is not None and before is None
    if before is not None:
        where.append(JobRow.id < before)
    elif after is not None:
        where.append(JobRow.id > after)
    lines = _lines(session, where, size + 1, upward)
    more, lines = len(lines) > size, lines[:size]
    if upward:
        return JobSlice(lines[::-1], more, True)
    return JobSlice(lines, before is not None, more)


def lines_of(session: Session, ids: Sequence[int]) -> list[JobLine]:
    """Return lines of some jobs, newest first: one statement."""
    return _lines(session, [JobRow.id.in_(ids)], len(ids), False) if ids else []


def lines_of_plan(session: Session, plan_id: int, limit: int) -> list[JobLine]:
    """Return the jobs of a plan by id: one statement."""
    return _lines(session, [JobRow.plan_id == plan_id], limit, True)


def _lines(session: Session, where: Sequence[ColumnElement[bool]], limit: int, upward: bool) -> list[JobLine]:
    last = select(func.max(AttemptRow.id)).where(AttemptRow.job_id == JobRow.id).correlate(JobRow).scalar_subquery()
    wanted = aliased(NodeRow)
    query = (
        select(
            JobRow.id,
            JobRow.kind,
            JobRow.label,
            JobRow.state,
            JobRow.engine,
            JobRow.plan_id,
            JobRow.image_id,
            JobRow.error_kind,
            JobRow.error_text,
            JobRow.ended_at,
            JobRow.not_before,
            wanted.name,
            func.coalesce(AttemptRow.number, 0),
            NodeRow.name,
            AttemptRow.seconds,
            AttemptRow.exit_code,
        )
        .outerjoin(AttemptRow, AttemptRow.id == last)
        .outerjoin(NodeRow, NodeRow.id == AttemptRow.node_id)
        .outerjoin(wanted, wanted.id == JobRow.node_id)
        .where(*where)
        .order_by(JobRow.id if upward else JobRow.id.desc())
        .limit(limit)
    )
    return [JobLine(*tuple(row)) for row in session.execute(query)]


@dataclass(frozen=True)
class AttemptEntry:
    """One attempt with the name of its node."""

    row: AttemptRow
    node: str


def read_attempts(session: Session, job_id: int) -> list[AttemptEntry]:
    """Return the attempts at a job, newest first: one statement."""
    query = (
        select(AttemptRow, NodeRow.name)
        .join(NodeRow, NodeRow.id == AttemptRow.node_id)
        .where(AttemptRow.job_id == job_id)
        .order_by(AttemptRow.number.desc())
    )
    return [AttemptEntry(a, node) for a, node in session.execute(query)]


@dataclass(frozen=True)
class EventEntry:
    """One arrow that a job followed, with the name of who drew it."""

    row: JobEventRow
    person: str | None
    attempt: int | None


def read_events(session: Session, job_id: int, limit: int = 200) -> list[EventEntry]:
    """Return the events of a job, newest first: one statement."""
    query = (
        select(JobEventRow, PersonRow.name, AttemptRow.number)
        .outerjoin(PersonRow, PersonRow.id == JobEventRow.person_id)
        .outerjoin(AttemptRow, AttemptRow.id == JobEventRow.attempt_id)
        .where(JobEventRow.job_id == job_id)
        .order_by(JobEventRow.id.desc())
        .limit(limit)
    )
    return [EventEntry(*row) for row in session.execute(query)]


@dataclass(frozen=True)
class Relative:
    """A job at the other end of an edge."""

    id: int
    kind: str
    label: str
    state: str
    edge: str
    parent: bool


def read_relatives(session: Session, job_id: int, limit: int = 200) -> list[Relative]:
    """Return the parents and children of a job: one statement."""
    other = aliased(JobRow)
    as_parent = (JobEdgeRow.child_id == job_id) & (other.id == JobEdgeRow.parent_id)
    as_child = (JobEdgeRow.parent_id == job_id) & (other.id == JobEdgeRow.child_id)
    query = (
        select(other.id, other.kind, other.label, other.state, JobEdgeRow.kind, JobEdgeRow.child_id == job_id)
        .join(JobEdgeRow, or_(as_parent, as_child))
        .order_by(other.id)
        .limit(limit)
    )
    return [Relative(i, k, label, s.value, e.value, p) for i, k, label, s, e, p in session.execute(query)]


def job_outcomes(session: Session, job_id: int) -> list[OutcomeEntry]:
    """Return what became of the items of a job, the newest attempt first."""
    attempts = select(AttemptRow.id).where(AttemptRow.job_id == job_id)
    return read_outcomes(session, OutcomeRow.attempt_id.in_(attempts))


@dataclass(frozen=True)
class LogPlace:
    """Where the log of an attempt is: the node that writes it, the central copy, or its last lines."""

    number: int
    node: str
    live: bool
    log_file_id: int | None
    tail: str | None


def find_log(session: Session, job_id: int, number: int | None = None) -> LogPlace | None:
    """Return where the log of an attempt (the newest where `number` is None) is; None where there is none."""
    query = (
        select(AttemptRow, NodeRow.name)
        .join(NodeRow, NodeRow.id == AttemptRow.node_id)
        .where(AttemptRow.job_id == job_id)
        .order_by(AttemptRow.number.desc())
        .limit(1)
    )
    if number is not None:
        query = query.where(AttemptRow.number == number)
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    a, node = row
    return LogPlace(a.number, node, a.ended_at is None, a.log_file_id, a.log_tail)


def count_list(session: Session, plan_id: int | None = None, kind: str | None = None) -> dict[str, int]:
    """Return jobs by state, of one plan or kind where they are given: one statement."""
    query = select(JobRow.state, func.count()).group_by(JobRow.state)
    if plan_id is not None:
        query = query.where(JobRow.plan_id == plan_id)
    if kind is not None:
        query = query.where(JobRow.kind == kind)
    return {s.value: n for s, n in session.execute(query)}


@dataclass(frozen=True)
class LiveAttempt:
    """An attempt that runs now, with the time since its start, s."""

    job_id: int
    kind: str
    label: str
    node_id: int
    number: int
    seconds: float


def read_live(session: Session, limit: int = 500) -> list[LiveAttempt]:
    """Return the attempts that run, oldest first: one statement."""
    age = func.extract("epoch", func.now() - AttemptRow.started_at)
    query = (
        select(JobRow.id, JobRow.kind, JobRow.label, AttemptRow.node_id, AttemptRow.number, age)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state.in_(LIVE_ATTEMPTS))
        .order_by(AttemptRow.id)
        .limit(limit)
    )
    return [LiveAttempt(i, k, label, node, n, float(s)) for i, k, label, node, n, s in session.execute(query)]

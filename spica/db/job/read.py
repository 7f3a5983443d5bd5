"""Reading jobs: rows, attempts, events, edges, and what is left to do for a node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from spica.db.job.attempt import Claimed, after_s, read_claimed
from spica.db.tables.file import NodeRow
from spica.db.tables.job import AttemptRow, JobEdgeRow, JobEventRow, JobRow
from spica.model.errors import UsageError
from spica.model.job import ENDED, LIVE_ATTEMPTS, JobState

_LIVE_JOBS = tuple(s for s in JobState if s not in ENDED)


@dataclass(frozen=True)
class Pending:
    """What a node could still wait for: ready jobs (now or soon), attempts of others whose lease ended, next start.

    For a drained node no job is ready.
    `soonest_s` is the time until the first job that is ready but not yet due, None where there is none.
    """

    ready: int
    expired: int
    soonest_s: float | None


def read_job(session: Session, job_id: int) -> JobRow | None:
    """Return a job by id, or None."""
    return session.scalar(select(JobRow).where(JobRow.id == job_id).execution_options(populate_existing=True))


def need_job(session: Session, job_id: int) -> JobRow:
    """Return a job by id; UsageError where there is none."""
    job = read_job(session, job_id)
    if job is None:
        raise UsageError(f"there is no job {job_id}; see spica jobs")
    return job


def attempts_of_job(session: Session, job_id: int) -> Sequence[AttemptRow]:
    """Return the attempts at a job, oldest first."""
    query = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def events_of_job(session: Session, job_id: int) -> Sequence[JobEventRow]:
    """Return the events of a job, oldest first."""
    return session.scalars(select(JobEventRow).where(JobEventRow.job_id == job_id).order_by(JobEventRow.id)).all()


def edges_of_job(session: Session, job_id: int) -> Sequence[JobEdgeRow]:
    """Return the edges of a job, those to its parents and those to its children, by parent and child."""
    query = select(JobEdgeRow).where(or_(JobEdgeRow.parent_id == job_id, JobEdgeRow.child_id == job_id))
    return session.scalars(query.order_by(JobEdgeRow.parent_id, JobEdgeRow.child_id)).all()


def live_attempts(session: Session, node_id: int) -> list[Claimed]:
    """Return the attempts of a node that have not ended."""
    return read_claimed(session, AttemptRow.state.in_(LIVE_ATTEMPTS) & (AttemptRow.node_id == node_id))


def live_inputs(session: Session, kind: str) -> frozenset[str]:
    """Return the items (`file:3`, `image:17`) that jobs of a kind which have not ended take in."""
    query = select(JobRow.request).where(JobRow.state.in_(_LIVE_JOBS), JobRow.kind == kind)
    requests = (json.loads(text) for text in session.scalars(query))
    return frozenset(given["item"] for request in requests for given in request["inputs"] if given["item"])


def pending_work(session: Session, node_id: int, within_s: float) -> Pending:
    """Count what the node could run now or within some seconds, and the attempts of others that wait to be reaped."""
    takes = select(NodeRow.id).where(NodeRow.id == node_id, NodeRow.drained_at.is_(None)).exists()
    mine = (takes, JobRow.state == JobState.READY, or_(JobRow.node_id.is_(None), JobRow.node_id == node_id))
    due = or_(JobRow.not_before.is_(None), JobRow.not_before <= after_s(within_s))
    ready = session.scalar(select(func.count()).select_from(JobRow).where(*mine, due))
    expired = session.scalar(
        select(func.count())
        .select_from(AttemptRow)
        .where(AttemptRow.state.in_(LIVE_ATTEMPTS), AttemptRow.lease_until < func.clock_timestamp())
    )
    wait = func.extract("epoch", func.min(JobRow.not_before) - func.clock_timestamp())
    soonest = session.scalar(select(wait).where(*mine, JobRow.not_before > func.clock_timestamp()))
    return Pending(ready or 0, expired or 0, None if soonest is None else max(float(soonest), 0.0))

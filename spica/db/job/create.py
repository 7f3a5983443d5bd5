"""Creating jobs: ids first, since scripts and requests speak of them, then rows and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from spica.db.job.move import Cause, Parent, judge, record_event
from spica.db.tables.job import JobEdgeRow, JobRow
from spica.model.errors import ConflictError
from spica.model.job import Arrow, EdgeKind, JobState, Request
from spica.model.record import canonical


@dataclass(frozen=True)
class NewJob:
    """A job to create under a reserved id; `parents` are older jobs or others of the batch, each with its edge.

    `memory_mb` is what it may take at first, `memory_cap_mb` the most after doubling; `tries` counts attempts.
    """

    id: int
    kind: str
    engine: str
    request: Request
    script: str
    label: str = ""
    parents: Mapping[int, EdgeKind] = field(default_factory=dict)
    image_id: int | None = None
    priority: int = 0
    node_id: int | None = None
    time_limit_s: int = 3600
    memory_mb: int = 2048
    memory_cap_mb: int = 8192
    tries: int = 3
    supersedes_id: int | None = None


def reserve_job_ids(session: Session, n: int) -> list[int]:
    """Return n fresh job ids in ascending order; unused ones are simply skipped."""
    query = text("SELECT nextval(pg_get_serial_sequence('job', 'id')) FROM generate_series(1, :n)")
    return sorted(session.scalars(query, {"n": n}))


def create_jobs(
    session: Session,
    plan_id: int | None,
    jobs: Sequence[NewJob],
    *,
    person_id: int | None = None,
    why: str | None = None,
) -> list[int]:
    """Create jobs with their edges; each begins WAITING, or READY where its parents have ended already.

    Raises
    ------
    ValueError
        Where an edge does not lead from a lower id to a higher one.
    ConflictError
        Where a parent does not exist, or a needed one is dead.
    """
    for job in jobs:
        _check_edges(job)
    states = _parent_states(session, jobs)
    cause = Cause(person_id, why)
    ordered = sorted(jobs, key=lambda j: j.id)
    for job in ordered:
        states[job.id] = _start_state(job, states)
    if ordered:
        session.execute(insert(JobRow), [_row(job, plan_id, states[job.id]) for job in ordered])
    edges = [edge for job in ordered for edge in _edges(job)]
    if edges:
        session.execute(insert(JobEdgeRow), edges)
    for job in ordered:
        record_event(session, job.id, Arrow.CREATE, None, states[job.id], cause)
    return [job.id for job in jobs]


def _check_edges(job: NewJob) -> None:
    if any(parent >= job.id for parent in job.parents):
        raise ValueError(f"a parent of job {job.id} has no lower id; create parents before their children")


def _parent_states(session: Session, jobs: Sequence[NewJob]) -> dict[int, JobState]:
    """Read the states of parents outside the batch, and keep them from moving until this transaction ends."""
    own = {job.id for job in jobs}
    outside = sorted({p for job in jobs for p in job.parents} - own)
    query = select(JobRow.id, JobRow.state).where(JobRow.id.in_(outside)).order_by(JobRow.id).with_for_update(read=True)
    states: dict[int, JobState] = {row.id: row.state for row in session.execute(query)} if outside else {}
    missing = [p for p in outside if p not in states]
    if missing:
        raise ConflictError(f"there is no job {missing[0]} to wait for; plan again")
    return states


def _start_state(job: NewJob, states: dict[int, JobState]) -> JobState:
    verdict = judge([Parent(p, kind, states[p]) for p, kind in job.parents.items()])
    if verdict.dead is not None:
        raise ConflictError(
            f"job {verdict.dead}, which is needed, is {states[verdict.dead].value}; retry that one, or plan again"
        )
    return verdict.waits_in


def _row(job: NewJob, plan_id: int | None, state: JobState) -> dict[str, object]:
    request = canonical(job.request)
    return {
        "id": job.id,
        "plan_id": plan_id,
        "kind": job.kind,
        "engine": job.engine,
        "label": job.label,
        "image_id": job.image_id,
        "state": state,
        "priority": job.priority,
        "node_id": job.node_id,
        "request": request,
        "request_sha256": sha256(request.encode()).hexdigest(),
        "script": job.script,
        "script_sha256": sha256(job.script.encode()).hexdigest(),
        "time_limit_s": job.time_limit_s,
        "memory_mb": job.memory_mb,
        "memory_cap_mb": max(job.memory_cap_mb, job.memory_mb),
        "tries": job.tries,
        "supersedes_id": job.supersedes_id,
    }


def _edges(job: NewJob) -> list[dict[str, object]]:
    return [{"parent_id": p, "child_id": job.id, "kind": kind} for p, kind in job.parents.items()]

"""Moving jobs: the lock, the guard, the row, the event and the notice of one arrow, and what an end does to others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, func, literal, select, update
from sqlalchemy.orm import Session

from spica.db.engine import notify
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobEdgeRow, JobEventRow, JobRow
from spica.model.errors import ConflictError
from spica.model.image import ImageKind, ImageState
from spica.model.job import ARROWS, DEAD, ENDED, Arrow, EdgeKind, JobState


@dataclass(frozen=True)
class Locked:
    """What is known of a job row while this transaction holds its lock."""

    id: int
    state: JobState
    tries: int
    tries_from: int
    memory_mb: int
    memory_cap_mb: int
    cancel_requested: bool


@dataclass(frozen=True)
class Cause:
    """Why an arrow is drawn: the person, the words, the attempt, the other job."""

    person_id: int | None = None
    why: str | None = None
    attempt_id: int | None = None
    job_id: int | None = None


@dataclass(frozen=True)
class Parent:
    """One parent of a job as its child sees it."""

    id: int
    kind: EdgeKind
    state: JobState


@dataclass(frozen=True)
class Verdict:
    """What the parents say of a child: the first needed one that is dead, and whether nothing is awaited any more."""

    dead: int | None
    free: bool

    @property
    def waits_in(self) -> JobState:
        """State of a child that is neither held nor pruned."""
        return JobState.READY if self.free else JobState.WAITING


def judge(parents: Sequence[Parent]) -> Verdict:
    """Say what the states of the parents mean for their child: needed ones must succeed, the others must end."""
    dead = [p.id for p in parents if p.kind is EdgeKind.NEEDS and p.state in DEAD]
    awaited = [p for p in parents if not (p.state is JobState.SUCCEEDED or (_is_after(p) and p.state in ENDED))]
    return Verdict(min(dead, default=None), not awaited)


def _is_after(parent: Parent) -> bool:
    return parent.kind is EdgeKind.AFTER


def lock_jobs(session: Session, job_ids: Iterable[int]) -> dict[int, Locked]:
    """Lock job rows in the order of their ids and return them as they are now."""
    query = (
        select(
            JobRow.id,
            JobRow.state,
            JobRow.tries,
            JobRow.tries_from,
            JobRow.memory_mb,
            JobRow.memory_cap_mb,
            JobRow.cancel_requested_at.is_not(None),
        )
        .where(JobRow.id.in_(sorted(set(job_ids))))
        .order_by(JobRow.id)
        .with_for_update(key_share=True)
    )
    return {row[0]: Locked(*row) for row in session.execute(query)}


def lock_job(session: Session, job_id: int) -> Locked:
    """Lock one job.

    Raises
    ------
    ConflictError
        Where there is no such job.
    """
    found = lock_jobs(session, [job_id])
    if job_id not in found:
        raise ConflictError(f"there is no job {job_id}; see spica jobs")
    return found[job_id]


def draw(session: Session, job: Locked, arrow: Arrow, target: JobState, cause: Cause, **values: Any) -> None:
    """Move a locked job along an arrow: row, event and notice.

    Raises
    ------
    ConflictError
        Where the table of arrows does not lead from the job's state to the target.
    """
    rule = ARROWS[arrow]
    if job.state not in rule.sources or target not in rule.targets:
        raise refusal(job, arrow)
    ended = func.clock_timestamp() if target in ENDED else None
    moved = session.execute(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.state == job.state)
        .values(state=target, ended_at=ended, **values)
        .returning(JobRow.id)
    ).all()
    if len(moved) != 1:
        raise ConflictError(f"job {job.id} has moved meanwhile; look at it and ask again")
    record_event(session, job.id, arrow, job.state, target, cause)
    _follow(session, job.id, target)


FOLLOWING: dict[JobState, tuple[tuple[ImageState, ...], ImageState]] = {
    JobState.RUNNING: ((ImageState.PLANNED, ImageState.FAILED), ImageState.RUNNING),
    JobState.FAILED: ((ImageState.PLANNED, ImageState.RUNNING), ImageState.FAILED),
    JobState.CANCELLED: ((ImageState.PLANNED, ImageState.RUNNING), ImageState.FAILED),
    JobState.PRUNED: ((ImageState.PLANNED, ImageState.RUNNING), ImageState.FAILED),
    JobState.READY: ((ImageState.FAILED,), ImageState.PLANNED),
    JobState.WAITING: ((ImageState.FAILED,), ImageState.PLANNED),
}
"""States of a stack or calibrated copy that follow its jobs until it is made: from which, to which."""


def _follow(session: Session, job_id: int, target: JobState) -> None:
    """Let the image that a job makes follow it; one that was made stays so."""
    if target not in FOLLOWING:
        return
    sources, state = FOLLOWING[target]
    made_by = select(JobRow.image_id).where(JobRow.id == job_id).scalar_subquery()
    moved = session.scalars(
        update(ImageRow)
        .where(ImageRow.id == made_by, ImageRow.kind != ImageKind.EXPOSURE, ImageRow.state.in_(sources))
        .values(state=state)
        .returning(ImageRow.id)
        .execution_options(synchronize_session=False)
    )
    for image_id in moved.all():
        notify(session, f"image:{image_id}")


def refusal(job: Locked, arrow: Arrow) -> ConflictError:
    """Return the error for an arrow that does not leave the job's state."""
    sources = ", ".join(sorted(s.value for s in ARROWS[arrow].sources))
    words = arrow.value.replace("_", " ")
    return ConflictError(
        f"job {job.id} is {job.state.value}; the arrow {words} leaves {sources} only; see spica jobs",
        job=job.id,
        state=job.state,
    )


def record_event(
    session: Session, job_id: int, arrow: Arrow, source: JobState | None, target: JobState, cause: Cause
) -> None:
    """Write the event of an arrow and notify those who listen."""
    session.add(
        JobEventRow(
            job_id=job_id,
            arrow=arrow,
            from_state=source,
            to_state=target,
            attempt_id=cause.attempt_id,
            person_id=cause.person_id,
            cause_job_id=cause.job_id,
            why=cause.why,
        )
    )
    session.flush()
    notify(session, f"job:{job_id}")


def parents_of(session: Session, job_ids: Iterable[int]) -> dict[int, list[Parent]]:
    """Return the parents of each job with their states now, by id; jobs without parents have an empty list."""
    query = (
        select(JobEdgeRow.child_id, JobRow.id, JobEdgeRow.kind, JobRow.state)
        .join(JobRow, JobRow.id == JobEdgeRow.parent_id)
        .where(JobEdgeRow.child_id.in_(sorted(set(job_ids))))
        .order_by(JobEdgeRow.child_id, JobRow.id)
    )
    parents: dict[int, list[Parent]] = defaultdict(list)
    for child, parent, kind, state in session.execute(query):
        parents[child].append(Parent(parent, kind, state))
    return parents


def settle(session: Session, root: int, root_state: JobState, cause: Cause) -> None:
    """Let the end of a job reach the others: prune all who need it where it is dead, release those who wait no more.

    The job has been moved already in this transaction.
    """
    jobs = lock_closure(session, root, through_needs=root_state in DEAD, also_after=True)
    parents = parents_of(session, jobs)
    states: dict[int, JobState] = {}
    for job_id in sorted(jobs):
        verdict = judge(_with_states(parents[job_id], states))
        job = jobs[job_id]
        if verdict.dead is not None and job.state in ARROWS[Arrow.PRUNE].sources:
            because = Cause(cause.person_id, f"job {verdict.dead} did not succeed", cause.attempt_id, root)
            draw(session, job, Arrow.PRUNE, JobState.PRUNED, because, pruned_by_id=verdict.dead)
            states[job_id] = JobState.PRUNED
        elif verdict.free and verdict.dead is None and job.state is JobState.WAITING:
            draw(session, job, Arrow.RELEASE, JobState.READY, Cause(job_id=root))
            states[job_id] = JobState.READY


def _with_states(parents: Sequence[Parent], newer: Mapping[int, JobState]) -> list[Parent]:
    return [Parent(p.id, p.kind, newer.get(p.id, p.state)) for p in parents]


def lock_closure(session: Session, root: int, *, through_needs: bool, also_after: bool) -> dict[int, Locked]:
    """Lock the jobs that the end or the revival of a job may move, until no new one appears.

    Parameters
    ----------
    through_needs : whether all descendants by `needs` are reached, or the children alone.
    also_after : whether the children by `after` of all reached are wanted too.
    """
    locked: dict[int, Locked] = {}
    while True:
        wanted = _affected(session, root, through_needs, also_after)
        if wanted <= locked.keys():
            return {job_id: locked[job_id] for job_id in wanted}
        locked.update(lock_jobs(session, wanted - locked.keys()))


def _affected(session: Session, root: int, through_needs: bool, also_after: bool) -> set[int]:
    reach = select(literal(root, BigInteger).label("id")).cte("reach", recursive=True)
    if through_needs:
        further = select(JobEdgeRow.child_id).join(reach, JobEdgeRow.parent_id == reach.c.id)
        reach = reach.union(further.where(JobEdgeRow.kind == EdgeKind.NEEDS))
    children = select(JobEdgeRow.child_id).join(reach, JobEdgeRow.parent_id == reach.c.id)
    if not also_after:
        children = children.where(JobEdgeRow.kind == EdgeKind.NEEDS)
    return set(session.scalars(children))


def assign_node(session: Session, job_ids: Sequence[int], node_id: int | None) -> list[int]:
    """Bind jobs to a node, or to none; return those that were bound to another, by id. No arrow is followed."""
    moved = (
        update(JobRow)
        .where(JobRow.id.in_(job_ids), JobRow.node_id.is_distinct_from(node_id))
        .values(node_id=node_id)
        .returning(JobRow.id)
    )
    found = sorted(session.scalars(moved, execution_options={"synchronize_session": False})) if job_ids else []
    for job_id in found:
        notify(session, f"job:{job_id}")
    return found

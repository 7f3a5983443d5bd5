"""What people order: hold, unhold, cancel, resubmit."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from spica.db.job.move import Cause, Locked, draw, judge, lock_closure, lock_job, parents_of, record_event, settle
from spica.db.tables.job import AttemptRow, JobRow
from spica.model.errors import ConflictError
from spica.model.job import ENDED, Arrow, JobState


def hold(session: Session, job_id: int, *, person_id: int | None = None, why: str | None = None) -> None:
    """Keep a job that waits or is ready from being claimed. ConflictError where it is in another state."""
    draw(session, lock_job(session, job_id), Arrow.HOLD, JobState.HELD, Cause(person_id, why))


def unhold(session: Session, job_id: int, *, person_id: int | None = None, why: str | None = None) -> JobState:
    """Let a held job go on, to where its parents allow; return its state. ConflictError where it is not held."""
    job = lock_job(session, job_id)
    verdict = judge(parents_of(session, [job_id]).get(job_id, []))
    cause = Cause(person_id, why)
    if verdict.dead is None:
        draw(session, job, Arrow.UNHOLD, verdict.waits_in, cause)
        return verdict.waits_in
    draw(session, job, Arrow.UNHOLD, JobState.PRUNED, cause, pruned_by_id=verdict.dead)
    settle(session, job_id, JobState.PRUNED, cause)
    return JobState.PRUNED


def cancel(session: Session, job_id: int, *, person_id: int | None = None, why: str | None = None) -> JobState:
    """End a job that a person no longer wants; return its state.

    A job that runs stays RUNNING with the request written down: its daemon ends the processes and draws the arrow.
    Asking again changes nothing. ConflictError where the job has ended.
    """
    job = lock_job(session, job_id)
    cause = Cause(person_id, why)
    if job.state is JobState.RUNNING:
        if not job.cancel_requested:
            _request_cancel(session, job, cause)
        return JobState.RUNNING
    draw(session, job, Arrow.CANCEL, JobState.CANCELLED, cause, error_kind="cancelled", error_text=why)
    settle(session, job_id, JobState.CANCELLED, cause)
    return JobState.CANCELLED


def _request_cancel(session: Session, job: Locked, cause: Cause) -> None:
    draw_nowhere = update(JobRow).where(JobRow.id == job.id, JobRow.state == JobState.RUNNING)
    session.execute(draw_nowhere.values(cancel_requested_at=func.clock_timestamp()))
    record_event(session, job.id, Arrow.CANCEL_REQUEST, job.state, JobState.RUNNING, cause)


def resubmit(session: Session, job_id: int, *, person_id: int | None = None, why: str | None = None) -> list[int]:
    """Try a dead job again with fresh tries, and revive what was pruned because of it; return the ids moved.

    A descendant stays PRUNED while another job that it needs is dead.

    Raises
    ------
    ConflictError
        Where the job is not FAILED, CANCELLED or PRUNED, or a job that it needs is dead itself.
    """
    job = lock_job(session, job_id)
    verdict = judge(parents_of(session, [job_id]).get(job_id, []))
    if verdict.dead is not None and job.state in ENDED - {JobState.SUCCEEDED}:
        raise ConflictError(f"job {job_id} needs job {verdict.dead}, which did not succeed; retry job {verdict.dead}")
    _revive(session, job, verdict.waits_in, Cause(person_id, why))
    revived = [job_id]
    below = lock_closure(session, job_id, through_needs=True, also_after=False)
    for child_id in sorted(below):
        child = below[child_id]
        if child.state is not JobState.PRUNED:
            continue
        verdict = judge(parents_of(session, [child_id])[child_id])
        if verdict.dead is None:
            _revive(session, child, verdict.waits_in, Cause(person_id, why, job_id=job_id))
            revived.append(child_id)
        else:
            session.execute(update(JobRow).where(JobRow.id == child_id).values(pruned_by_id=verdict.dead))
    return revived


def _revive(session: Session, job: Locked, target: JobState, cause: Cause) -> None:
    made = select(func.coalesce(func.max(AttemptRow.number), 0)).where(AttemptRow.job_id == job.id).scalar_subquery()
    draw(
        session,
        job,
        Arrow.RESUBMIT,
        target,
        cause,
        tries_from=made,
        not_before=None,
        cancel_requested_at=None,
        pruned_by_id=None,
        error_kind=None,
        error_text=None,
    )

"""Orders for many jobs at once, and retries that are given more memory or time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from spica.db.job.move import lock_job
from spica.db.job.order import cancel, hold, resubmit, unhold
from spica.db.tables.job import AttemptRow, JobRow
from spica.model.errors import ConflictError, UsageError
from spica.model.job import ARROWS, Arrow, JobState

MAX_ORDERS = 500
"""So many jobs are ordered in one transaction; who wants more orders again."""
_COUNT_CAP = 2**31 - 1


def retry_with_memory(
    session: Session, job_id: int, *, person_id: int | None = None, why: str | None = None
) -> list[int]:
    """Retry a dead job with twice the memory its last attempt had, its cap raised to that; see `resubmit`."""
    job = lock_job(session, job_id)
    last = select(AttemptRow.memory_mb).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number.desc()).limit(1)
    had = func.greatest(JobRow.memory_mb, func.coalesce(last.scalar_subquery(), 0))
    _give(session, job.id, JobRow.memory_mb, had)
    cap = func.greatest(JobRow.memory_cap_mb, JobRow.memory_mb)
    session.execute(update(JobRow).where(JobRow.id == job_id).values(memory_cap_mb=cap), execution_options=_PLAIN)
    return resubmit(session, job_id, person_id=person_id, why=why)


def retry_with_time(
    session: Session, job_id: int, *, person_id: int | None = None, why: str | None = None
) -> list[int]:
    """Retry a dead job with twice the time limit; see `resubmit`."""
    job = lock_job(session, job_id)
    _give(session, job.id, JobRow.time_limit_s, JobRow.time_limit_s)
    return resubmit(session, job_id, person_id=person_id, why=why)


_PLAIN = {"synchronize_session": False}


def _give(session: Session, job_id: int, column: InstrumentedAttribute[int], had: Any) -> None:
    """Double a limit of a job that may be resubmitted; another is left as it is and refused by `resubmit`."""
    dead = JobRow.state.in_(ARROWS[Arrow.RESUBMIT].sources)
    more = func.least(had, _COUNT_CAP // 2) * 2
    session.execute(
        update(JobRow).where(JobRow.id == job_id, dead).values({column: more}),
        execution_options=_PLAIN,
    )


Order = Callable[..., object]
ORDERS: dict[str, Order] = {
    "retry": resubmit,
    "retry_memory": retry_with_memory,
    "retry_time": retry_with_time,
    "hold": hold,
    "unhold": unhold,
    "cancel": cancel,
}
"""What a person may order of one job or of many."""
SOURCES: dict[str, frozenset[JobState]] = {
    **dict.fromkeys(("retry", "retry_memory", "retry_time"), ARROWS[Arrow.RESUBMIT].sources),
    "hold": ARROWS[Arrow.HOLD].sources,
    "unhold": ARROWS[Arrow.UNHOLD].sources,
    "cancel": ARROWS[Arrow.CANCEL].sources,
}
"""The states in which an order can be carried out."""


@dataclass(frozen=True)
class Ordered:
    """What came of an order for many: jobs that followed it, and those that were in another state."""

    done: tuple[int, ...]
    refused: tuple[int, ...]


def order_jobs(
    session: Session, job_ids: Iterable[int], act: str, *, person_id: int | None = None, why: str | None = None
) -> Ordered:
    """Order many jobs in one transaction, by id; those in another state, or that need a dead one, are passed over.

    A child that a retried parent revived is passed over too: it follows already.

    Raises
    ------
    UsageError
        Where the act is unknown, or there are more jobs than `MAX_ORDERS`.
    """
    wanted = sorted(set(job_ids))
    if act not in ORDERS:
        raise UsageError(f"{act!r} is no order; one of {' '.join(ORDERS)}")
    if len(wanted) > MAX_ORDERS:
        raise UsageError(f"{len(wanted)} jobs are more than the {MAX_ORDERS} of one order; order them in parts")
    done, refused = [], []
    for job_id in wanted:
        try:
            with session.begin_nested():
                ORDERS[act](session, job_id, person_id=person_id, why=why)
        except ConflictError:
            refused.append(job_id)
        else:
            done.append(job_id)
    return Ordered(tuple(done), tuple(refused))

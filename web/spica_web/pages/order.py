"""What people order of jobs: one, those chosen by hand, all of a plan, all of a cause, all that wait of a kind."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.job import read_job
from spica.db.job.many import MAX_ORDERS, ORDERS, SOURCES, order_jobs
from spica.db.pages.failure import jobs_of_cause
from spica.db.person import Person, audit
from spica.db.tables.job import JobRow
from spica.model.errors import UsageError
from spica.model.job import JobState
from spica_web.deps import Operator, Site, site_of
from spica_web.errors import MissingError
from spica_web.nights import night_span, read_night
from spica_web.session import safe_next

router = APIRouter()
Act = Literal["retry", "retry_memory", "retry_time", "hold", "unhold", "cancel"]
MORE = ("retry_memory", "retry_time")
"""Acts that are offered where they cure; every other one wherever the state allows it."""
HOLD_REST = "hold_rest"
Why = Annotated[str, Form(max_length=1000)]


def need_job(session: Session, job_id: int) -> JobRow:
    """Return a job; MissingError where there is none."""
    job = read_job(session, job_id) if 0 < job_id < 2**62 else None
    if job is None:
        raise MissingError(f"there is no job {job_id}; see the list of jobs")
    return job


def possible_acts(job: JobRow) -> tuple[str, ...]:
    """Return what a person may order now; more memory or time where a cure says so."""
    asked = job.state is JobState.RUNNING and job.cancel_requested_at is not None
    return tuple(
        a for a, states in SOURCES.items() if job.state in states and a not in MORE and not (a == "cancel" and asked)
    )


def plain_why(why: str) -> str | None:
    """Return a reason without what no text may hold; None where it is empty."""
    return why.strip().replace("\0", "") or None


def act_on_job(session: Session, person: Person, job_id: int, act: Act, why: str | None) -> None:
    """Do what a person orders, and record it."""
    need_job(session, job_id)
    ORDERS[act](session, job_id, person_id=person.id, why=why)
    audit(session, person.id, act, f"job:{job_id}", why)


@router.post("/jobs/{job_id}/{act}")
def order_job(request: Request, person: Operator, job_id: int, act: Act, why: Why = "") -> Response:
    """Retry (as it was, with more memory or time), hold, let go or cancel a job."""
    with site_of(request).database.begin() as session:
        act_on_job(session, person, job_id, act, plain_why(why))
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@router.post("/jobs/retry")
def retry_jobs(request: Request, person: Operator, job: Annotated[list[int], Form(max_length=200)]) -> Response:
    """Retry several failed jobs at once: those of one cause."""
    with site_of(request).database.begin() as session:
        for job_id in job:
            need_job(session, job_id)
        _order(session, person, job, "retry", "retried with others that failed for the same cause")
    return RedirectResponse("/jobs", status_code=303)


@router.post("/jobs/orders")
def order_many(
    request: Request,
    person: Operator,
    act: Annotated[Literal["retry", "retry_memory", "retry_time", "hold", "unhold", "cancel", "hold_rest"], Form()],
    why: Why = "",
    job: Annotated[list[int] | None, Form(max_length=MAX_ORDERS)] = None,
    plan: Annotated[int | None, Form(ge=1, le=2**62)] = None,
    cause: Annotated[str, Form(max_length=32)] = "",
    kind: Annotated[str, Form(max_length=100)] = "",
    night: Annotated[str, Form(max_length=10)] = "",
    back: Annotated[str, Form(max_length=2000)] = "/jobs",
) -> Response:
    """Order the jobs given; or those of a plan, of a cause, or that wait of a kind; `MAX_ORDERS` at once."""
    site = site_of(request)
    with site.database.begin() as session:
        given = sorted(set(job or []))
        more = 0
        if not given:
            found = _wanted(site, session, act, plan, cause, kind, read_night(night))
            given, more = found[:MAX_ORDERS], max(0, len(found) - MAX_ORDERS)
        done, refused = _order(session, person, given, "hold" if act == HOLD_REST else act, plain_why(why))
    told = urlencode({"ordered": done, "refused": refused, "more": more})
    address = safe_next(back)
    return RedirectResponse(f"{address}{'&' if '?' in address else '?'}{told}", status_code=303)


def _order(session: Session, person: Person, ids: list[int], act: str, why: str | None) -> tuple[int, int]:
    ordered = order_jobs(session, ids, act, person_id=person.id, why=why)
    for job_id in ordered.done:
        audit(session, person.id, act, f"job:{job_id}", why)
    return len(ordered.done), len(ordered.refused)


def _wanted(
    site: Site, session: Session, act: str, plan: int | None, cause: str, kind: str, night: date | None
) -> list[int]:
    """Return the jobs that an order without numbers means, one more than may be ordered at once at most."""
    limit = MAX_ORDERS + 1
    if cause and act != HOLD_REST:
        start, end = night_span(site, session, night) if night is not None else (None, None)
        return jobs_of_cause(session, cause, limit, start, end)
    states = SOURCES["hold" if act == HOLD_REST else act]
    query = select(JobRow.id).where(JobRow.state.in_(states)).order_by(JobRow.id).limit(limit)
    if plan is not None:
        return list(session.scalars(query.where(JobRow.plan_id == plan)))
    if kind and act == HOLD_REST:
        return list(session.scalars(query.where(JobRow.kind == kind)))
    raise UsageError("no job is chosen; mark some in the list, then order again")

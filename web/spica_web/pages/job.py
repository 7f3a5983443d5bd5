"""Jobs: the list by state and cause, and one with its attempts, history and log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from spica.db.job import cancel, hold, read_job, resubmit, unhold
from spica.db.overview import list_jobs
from spica.db.pages.image import OutcomeEntry
from spica.db.pages.job import (
    AttemptEntry,
    EventEntry,
    Relative,
    count_list,
    find_log,
    job_outcomes,
    read_attempts,
    read_events,
    read_relatives,
)
from spica.db.pages.survey import ErrorGroup, read_errors
from spica.db.person import Person, audit
from spica.db.tables.job import JobRow
from spica.model.job import ARROWS, Arrow, JobState
from spica.model.overview import JobEntry
from spica_web.deps import Operator, Viewer, site_of
from spica_web.errors import MissingError
from spica_web.joblog import read_log
from spica_web.query import PAGE_SIZE, Paging, choice, read_page
from spica_web.render import Page, render

router = APIRouter()
Act = Literal["retry", "hold", "unhold", "cancel"]
_ACTS: dict[str, Callable[..., object]] = {"retry": resubmit, "hold": hold, "unhold": unhold, "cancel": cancel}
_NEEDS = {
    "retry": ARROWS[Arrow.RESUBMIT].sources,
    "hold": ARROWS[Arrow.HOLD].sources,
    "unhold": ARROWS[Arrow.UNHOLD].sources,
    "cancel": ARROWS[Arrow.CANCEL].sources,
}
CURES = {
    "data": "look at the exposures named below; a rule can leave them out, then retry",
    "recipe": "correct the recipe, then plan again: spica schedule … --recipe FILE",
    "conflict": "the world moved: retry, or plan again",
    "transient": "something outside is away: mend it, then retry",
    "bug": "report it with the log; retry once the cause is mended",
    "cancelled": "a person ended it; retry if it is wanted after all",
}


@dataclass(frozen=True)
class JobsPage(Page):
    """The list of jobs, and failures by cause."""

    template: ClassVar[str] = "jobs.html"
    title: str
    nav: str
    rows: list[JobEntry]
    counts: dict[str, int]
    states: tuple[str, ...]
    state: str
    plan: int | None
    errors: list[ErrorGroup]
    cures: dict[str, str]
    paging: Paging


@dataclass(frozen=True)
class JobPage(Page):
    """One job."""

    template: ClassVar[str] = "job.html"
    title: str
    nav: str
    job: JobRow
    entry: JobEntry
    cure: str
    attempts: list[AttemptEntry]
    events: list[EventEntry]
    outcomes: list[OutcomeEntry]
    relatives: list[Relative]
    acts: tuple[str, ...]


@router.get("/jobs", response_class=HTMLResponse)
def jobs_page(request: Request, person: Viewer, state: str = "", plan: int | None = None) -> HTMLResponse:
    """Show jobs, newest first."""
    site, page = site_of(request), read_page(request.query_params)
    where: list[ColumnElement[bool]] = [] if plan is None else [JobRow.plan_id == plan]
    wanted = choice(JobState, state)
    if wanted is not None:
        where.append(JobRow.state == wanted)
    with site.read() as session:
        counts = count_list(session, plan)
        skip = (page - 1) * PAGE_SIZE
        rows = list_jobs(session, site.workspace, where, newest_first=True, limit=PAGE_SIZE, offset=skip)
        errors = read_errors(session, 12) if state in ("", "FAILED") and plan is None else []
    total = counts.get(state, 0) if wanted is not None else sum(counts.values())
    states = tuple(s.value for s in JobState)
    paging = Paging(page, PAGE_SIZE, total)
    return render(request, JobsPage("Jobs", "jobs", rows, counts, states, state, plan, errors, CURES, paging))


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(request: Request, person: Viewer, job_id: int) -> HTMLResponse:
    """Show one job."""
    site = site_of(request)
    with site.read() as session:
        job = need_job(session, job_id)
        page = JobPage(
            title=f"Job {job_id}",
            nav="jobs",
            job=job,
            entry=list_jobs(session, site.workspace, [JobRow.id == job_id])[0],
            cure=CURES.get(job.error_kind or "", ""),
            attempts=read_attempts(session, job_id),
            events=read_events(session, job_id),
            outcomes=job_outcomes(session, job_id),
            relatives=read_relatives(session, job_id),
            acts=possible_acts(job),
        )
    return render(request, page)


def need_job(session: Session, job_id: int) -> JobRow:
    """Return a job; MissingError where there is none."""
    job = read_job(session, job_id) if 0 < job_id < 2**62 else None
    if job is None:
        raise MissingError(f"there is no job {job_id}; see the list of jobs")
    return job


def possible_acts(job: JobRow) -> tuple[str, ...]:
    """Return what a person may order now."""
    asked = job.state is JobState.RUNNING and job.cancel_requested_at is not None
    return tuple(a for a, states in _NEEDS.items() if job.state in states and not (a == "cancel" and asked))


def act_on_job(session: Session, person: Person, job_id: int, act: Act, why: str | None) -> None:
    """Do what a person orders, and record it."""
    need_job(session, job_id)
    _ACTS[act](session, job_id, person_id=person.id, why=why)
    audit(session, person.id, act, f"job:{job_id}", why)


@router.post("/jobs/{job_id}/{act}")
def order_job(
    request: Request, person: Operator, job_id: int, act: Act, why: Annotated[str, Form(max_length=1000)] = ""
) -> Response:
    """Retry, hold, let go or cancel a job."""
    with site_of(request).database.begin() as session:
        act_on_job(session, person, job_id, act, why.strip().replace("\0", "") or None)
    return RedirectResponse(f"/jobs/{job_id}", status_code=303)


@router.post("/jobs/retry")
def retry_jobs(request: Request, person: Operator, job: Annotated[list[int], Form(max_length=200)]) -> Response:
    """Retry several failed jobs at once: those of one cause."""
    with site_of(request).database.begin() as session:
        for job_id in sorted(set(job)):
            found = need_job(session, job_id)
            if found.state in ARROWS[Arrow.RESUBMIT].sources:
                act_on_job(session, person, job_id, "retry", "retried with others that failed for the same cause")
    return RedirectResponse("/jobs", status_code=303)


@router.get("/jobs/{job_id}/log", response_class=PlainTextResponse)
def job_log(
    request: Request, person: Viewer, job_id: int, attempt: int | None = None, start: int = 0
) -> PlainTextResponse:
    """Return the log of an attempt from a byte on, and in `X-Log-Next` where to go on; `X-Log-Live` says whether to."""
    site = site_of(request)
    with site.read() as session:
        need_job(session, job_id)
        place = find_log(session, job_id, attempt)
        chunk = read_log(session, site.workspace, job_id, place, max(0, min(start, 2**50)))
    headers = {"X-Log-Next": str(chunk.next), "X-Log-Live": "1" if chunk.live else "0", "X-Log-Source": chunk.source}
    return PlainTextResponse(chunk.text, headers=headers)

"""Jobs: the list by state and cause, and one with its attempts, history and log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from sqlalchemy.orm import Session

from spica.db.node import list_nodes
from spica.db.node_wait import NodeWait, explain_wait
from spica.db.overview import list_jobs
from spica.db.pages.failure import Cause, newest_causes
from spica.db.pages.image import OutcomeEntry
from spica.db.pages.job import (
    AttemptEntry,
    EventEntry,
    JobBounds,
    JobLine,
    Relative,
    count_list,
    find_log,
    job_outcomes,
    lines_of,
    read_attempts,
    read_events,
    read_relatives,
    slice_jobs,
)
from spica.db.tables.job import JobRow
from spica.model.cures import CURES, Cure, cure_of
from spica.model.errors import TransientError
from spica.model.job import JobKind, JobState
from spica.model.overview import JobEntry
from spica_web.deps import Site, Viewer, site_of
from spica_web.joblog import read_log
from spica_web.nights import night_span, read_night
from spica_web.pages.failure import CuredCause, cured, ordered_words
from spica_web.pages.order import Act, act_on_job, need_job, possible_acts
from spica_web.query import PAGE_SIZE, choice
from spica_web.render import Page, environment, render
from spica_web.tables import table_response, wanted_form
from spica_web.tables_of import JOBS, job_rows

__all__ = ["Act", "act_on_job", "need_job", "possible_acts", "router"]

router = APIRouter()
MAX_ROWS = 200


@dataclass(frozen=True)
class JobQuery:
    """What a list of jobs shows, as its address says; empty words do not narrow it."""

    state: str = ""
    kind: str = ""
    node: str = ""
    night: str = ""
    error: str = ""
    plan: int | None = None

    @property
    def narrow(self) -> bool:
        """Whether anything but the state narrows the list."""
        return any((self.kind, self.node, self.night, self.error, self.plan))

    def link(self, **changes: str | int | None) -> str:
        """Return the address of the list after some changes."""
        values = {"state": self.state, "kind": self.kind, "node": self.node, "night": self.night}
        values |= {"error": self.error, "plan": str(self.plan or "")} | {k: str(v or "") for k, v in changes.items()}
        kept = {k: v for k, v in values.items() if v}
        return f"/jobs?{urlencode(kept)}" if kept else "/jobs"


@dataclass(frozen=True)
class JobsPage(Page):
    """The list of jobs, and failures by cause."""

    template: ClassVar[str] = "jobs.html"
    title: str
    nav: str
    rows: list[JobLine]
    counts: dict[str, int]
    states: tuple[str, ...]
    kinds: tuple[str, ...]
    nodes: tuple[str, ...]
    errors: tuple[str, ...]
    query: JobQuery
    causes: list[CuredCause]
    newer: str
    older: str
    first: bool
    back: str
    said: str


@dataclass(frozen=True)
class JobPage(Page):
    """One job."""

    template: ClassVar[str] = "job.html"
    title: str
    nav: str
    job: JobRow
    entry: JobEntry
    cure: Cure | None
    attempts: list[AttemptEntry]
    events: list[EventEntry]
    outcomes: list[OutcomeEntry]
    relatives: list[Relative]
    acts: tuple[str, ...]
    again: str
    wait: NodeWait | None


def read_job_query(words: Mapping[str, str]) -> JobQuery:
    """Return the query of an address; words that mean nothing are dropped."""

    def word(name: str) -> str:
        return words.get(name, "").strip()[:100].replace("\0", "")

    plan = words.get("plan", "")
    state = choice(JobState, word("state"))
    night = read_night(word("night"))
    return JobQuery(
        state.value if state is not None else "",
        word("kind"),
        word("node"),
        night.isoformat() if night is not None else "",
        word("error"),
        int(plan) if plan.isascii() and plan.isdigit() and 0 < len(plan) < 19 else None,
    )


def bounds_of(site: Site, session: Session, query: JobQuery) -> JobBounds:
    """Return what a query narrows the jobs to."""
    return JobBounds(
        JobState(query.state) if query.state else None,
        query.kind or None,
        query.node or None,
        query.plan,
        night_span(site, session, date.fromisoformat(query.night)) if query.night else None,
        query.error or None,
    )


def count_jobs(site: Site, session: Session, plan: int | None) -> dict[str, int]:
    """Return the jobs by state: of all from the snapshot (counted in the database while that is read), or of a plan."""
    if plan is None:
        with contextlib.suppress(TransientError):
            return {state.value: n for state, n in site.snapshot().jobs.counts().items() if n}
    return count_list(session, plan)


@router.get("/jobs", response_class=HTMLResponse)
def jobs_page(request: Request, person: Viewer, before: int | None = None, after: int | None = None) -> Response:
    """Show jobs, newest first: those beside a number, so that a page far back costs no more than the first."""
    site, query = site_of(request), read_job_query(request.query_params)
    before, after, form = _key(before), _key(after), wanted_form(request)
    with site.read() as session:
        if form is not None:
            return table_response(request, JOBS, form, job_rows(site, bounds_of(site, session, query).conditions()))
        counts = count_jobs(site, session, query.plan)
        found = slice_jobs(session, bounds_of(site, session, query), PAGE_SIZE, before, after)
        asks = query.state in ("", "FAILED") and not query.narrow and before is None and after is None
        causes = _causes(site, session) if asks and counts.get("FAILED") else []
        nodes = tuple(n.name for n in list_nodes(session))
    page = JobsPage(
        title="Jobs",
        nav="jobs",
        rows=found.lines,
        counts=counts,
        states=tuple(s.value for s in JobState),
        kinds=_with(tuple(k.value for k in JobKind), query.kind),
        nodes=_with(nodes, query.node),
        errors=_with(tuple(CURES), query.error),
        query=query,
        causes=cured(causes),
        newer=query.link(after=found.lines[0].id) if found.newer and found.lines else "",
        older=query.link(before=found.lines[-1].id) if found.older and found.lines else "",
        first=before is None and after is None,
        back=query.link(),
        said=ordered_words(request),
    )
    return render(request, page)


def _causes(site: Site, session: Session) -> list[Cause]:
    """Return why the newest jobs failed; kept until a job's state changes."""
    try:
        snapshot = site.snapshot()
    except TransientError:
        return newest_causes(session)
    return snapshot.cache.get("causes", (snapshot.jobs.state,), lambda: newest_causes(session))


def _key(number: int | None) -> int | None:
    return number if number is not None and 0 <= number < 2**62 else None


def _with(words: tuple[str, ...], own: str) -> tuple[str, ...]:
    return (*words, own) if own and own not in words else words


@router.get("/jobs/rows", response_class=HTMLResponse)
def rows_fragment(request: Request, person: Viewer, ids: str = "", plan: int | None = None) -> HTMLResponse:
    """Return the rows of some jobs as a fragment of a table, and in `X-Job-Counts` the jobs by state."""
    site = site_of(request)
    numbers = [int(i) for i in ids.split(",")[:MAX_ROWS] if i.isascii() and i.isdigit() and len(i) < 19]
    with site.read() as session:
        lines = lines_of(session, numbers)
        counts = count_jobs(site, session, _key(plan))
    parts = environment().get_template("parts/jobs.html").module
    text = "".join(str(parts.row(line)) for line in lines)  # type: ignore[attr-defined]
    return HTMLResponse(f"<table>{text}</table>", headers={"X-Job-Counts": json.dumps(counts)})


@router.get("/jobs/{job_id}", response_class=HTMLResponse)
def job_page(request: Request, person: Viewer, job_id: int) -> HTMLResponse:
    """Show one job."""
    site = site_of(request)
    with site.read() as session:
        job = need_job(session, job_id)
        attempts = read_attempts(session, job_id)
        cure = cure_of(job.error_kind, attempts[0].row.exit_code if attempts else None) if job.error_text else None
        page = JobPage(
            title=f"Job {job_id}",
            nav="jobs",
            job=job,
            entry=list_jobs(session, site.workspace, [JobRow.id == job_id])[0],
            cure=cure,
            attempts=attempts,
            events=read_events(session, job_id),
            outcomes=job_outcomes(session, job_id),
            relatives=read_relatives(session, job_id),
            acts=_acts(job, cure),
            again=again_address(job),
            wait=explain_wait(session, job),
        )
    return render(request, page)


def _acts(job: JobRow, cure: Cure | None) -> tuple[str, ...]:
    """Return what may be ordered now, what cures before the rest."""
    acts = possible_acts(job)
    more = tuple(a.value for a in cure.acts if a.value in ("retry_memory", "retry_time")) if cure else ()
    return more + acts if "retry" in acts else acts


def again_address(job: JobRow) -> str:
    """Return the page where a job is done again with another recipe, empty where it cannot be."""
    if job.kind == JobKind.ASSESS:
        return f"/jobs/{job.id}/again"
    return f"/plans/{job.plan_id}/again" if job.plan_id is not None and job.kind != JobKind.MASTER else ""


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

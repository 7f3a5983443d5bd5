"""Jobs as JSON, and what people order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from spica.db.overview import list_jobs
from spica.db.pages.job import count_list
from spica.db.tables.job import JobRow
from spica.model.job import JobState
from spica.model.overview import JobEntry
from spica_web.api.answer import Limit, Offset, answer
from spica_web.deps import Operator, Site, Viewer, site_of
from spica_web.pages.job import Act, act_on_job, need_job

router = APIRouter(prefix="/api", tags=["jobs"])


class Order(BaseModel):
    """Why something is ordered; kept in the job's history."""

    why: str | None = Field(None, max_length=1000)


@router.get("/jobs", response_model=list[JobEntry])
def jobs(
    request: Request,
    person: Viewer,
    state: JobState | None = None,
    plan: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Limit = 200,
    offset: Offset = 0,
) -> JSONResponse:
    """List jobs by id."""
    site = site_of(request)
    where: list[ColumnElement[bool]] = [] if plan is None else [JobRow.plan_id == plan]
    where += [] if state is None else [JobRow.state == state]
    with site.read() as session:
        counts = count_list(session, plan)
        rows = list_jobs(session, site.workspace, where, limit=limit, offset=offset)
    total = sum(counts.values()) if state is None else counts.get(state.value, 0)
    return answer(rows, total)


@router.get("/jobs/{job_id}", response_model=JobEntry)
def job_by_id(request: Request, person: Viewer, job_id: int) -> JSONResponse:
    """Return one job."""
    site = site_of(request)
    with site.read() as session:
        return answer(_entry(session, site, job_id))


@router.post("/jobs/{job_id}/{act}", response_model=JobEntry)
def order_job(request: Request, person: Operator, job_id: int, act: Act, order: Order | None = None) -> JSONResponse:
    """Retry, hold, unhold or cancel a job; return it as it is then."""
    site = site_of(request)
    why = None if order is None or order.why is None else order.why.strip().replace("\0", "") or None
    with site.database.begin() as session:
        act_on_job(session, person, job_id, act, why)
    with site.read() as session:
        return answer(_entry(session, site, job_id))


def _entry(session: Session, site: Site, job_id: int) -> JobEntry:
    need_job(session, job_id)
    return list_jobs(session, site.workspace, [JobRow.id == job_id])[0]

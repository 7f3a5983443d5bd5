"""What failed in a night, grouped by cause: how many, since when, where, the nights before, and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from spica.db.pages.failure import Cause, TriedAgain, read_causes, read_tried_again
from spica.model.cures import Cure, cure_of
from spica_web.deps import Viewer, site_of
from spica_web.nights import last_night, read_night, span_at, survey_longitude_deg
from spica_web.render import Page, render

router = APIRouter()


@dataclass(frozen=True)
class CuredCause:
    """A cause with what helps against it."""

    cause: Cause
    cure: Cure


@dataclass(frozen=True)
class ErrorsPage(Page):
    """The failures of one night."""

    template: ClassVar[str] = "errors.html"
    title: str
    nav: str
    night: date
    before: date
    after: date
    start: datetime
    end: datetime
    causes: list[CuredCause]
    total: int
    tried: list[TriedAgain]
    back: str
    said: str


def cured(causes: list[Cause]) -> list[CuredCause]:
    """Return causes with their cures."""
    return [CuredCause(c, cure_of(c.kind, c.exit_code)) for c in causes]


def ordered_words(request: Request) -> str:
    """Return what became of an order that led back here, empty where none did."""
    words = {k: request.query_params.get(k, "") for k in ("ordered", "refused", "more")}
    n = {k: int(v) if v.isascii() and v.isdigit() and len(v) < 7 else 0 for k, v in words.items()}
    if not words["ordered"].isdigit():
        return ""
    said = f"{n['ordered']} {'job follows' if n['ordered'] == 1 else 'jobs follow'} the order"
    said += (
        f", {n['refused']} passed over: in another state by now, or they need a job that died" if n["refused"] else ""
    )
    return said + (", more remain: order again" if n["more"] else "") + "."


@router.get("/jobs/errors", response_class=HTMLResponse)
def errors_page(request: Request, person: Viewer, night: str = "") -> HTMLResponse:
    """Show why jobs failed in a night, last night where none is named."""
    site = site_of(request)
    with site.read() as session:
        longitude_deg = survey_longitude_deg(site, session)
        wanted = read_night(night) or last_night(datetime.now(UTC), longitude_deg)
        start, end = span_at(wanted, longitude_deg)
        causes = read_causes(session, start, end)
        page = ErrorsPage(
            title=f"Errors of the night {wanted}",
            nav="jobs",
            night=wanted,
            before=wanted - timedelta(days=1),
            after=wanted + timedelta(days=1),
            start=start,
            end=end,
            causes=cured(causes),
            total=sum(c.n for c in causes),
            tried=read_tried_again(session, start, end),
            back=f"/jobs/errors?night={wanted}",
            said=ordered_words(request),
        )
    return render(request, page)

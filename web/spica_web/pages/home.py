"""The survey at a glance, and the find box."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from spica.db.overview import list_nodes, list_stacks
from spica.db.pages.survey import (
    ErrorGroup,
    FieldEntry,
    Flow,
    JobCounts,
    count_jobs,
    read_errors,
    read_fields,
    read_flow,
    read_sky,
    search,
)
from spica.db.tables.image import ImageRow
from spica.model.overview import NodeEntry, StackEntry
from spica_web.deps import Visitor, site_of
from spica_web.draw.sky import SkyChart, draw_sky
from spica_web.public import is_guest
from spica_web.render import Page, render

router = APIRouter()
_PAIR = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)[\s,]+([+-]?[0-9]{1,2}(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class HomePage(Page):
    """Flow, sky, fields, trouble, nodes."""

    template: ClassVar[str] = "home.html"
    title: str
    nav: str
    flow: Flow
    fields: list[FieldEntry]
    errors: list[ErrorGroup]
    jobs: JobCounts
    nodes: list[NodeEntry]
    stacks: list[StackEntry]
    sky: list[SkyChart]
    folder: str


@dataclass(frozen=True)
class FindPage(Page):
    """What the find box found where it found several things."""

    template: ClassVar[str] = "find.html"
    title: str
    nav: str
    words: str
    found: list[tuple[int, str, str]]


@router.get("/", response_class=HTMLResponse)
def home_page(request: Request, person: Visitor, token: str | None = None) -> Response:
    """Show the survey at a glance."""
    if token is not None:
        return RedirectResponse(f"/login?token={quote(token[:200], safe='')}", status_code=303)
    site = site_of(request)
    with site.read() as session:
        page = HomePage(
            title=site.workspace.survey,
            nav="home",
            flow=read_flow(session),
            fields=read_fields(session),
            errors=[] if is_guest(person) else read_errors(session, 6),
            jobs=count_jobs(session),
            nodes=[] if is_guest(person) else list_nodes(session),
            stacks=list_stacks(session, site.workspace, order=[ImageRow.id.desc()], limit=6),
            sky=draw_sky(read_sky(session)),
            folder="" if is_guest(person) else str(site.workspace.folder),
        )
    return render(request, page)


@router.get("/find", response_class=HTMLResponse)
def find_page(request: Request, person: Visitor, q: str = "") -> Response:
    """Go to what some words name: a job, coordinates, an image; or list what begins like them."""
    words = q.strip()[:200].replace("\0", "")
    job = re.fullmatch(r"(?:job|#)\s*([0-9]{1,15})", words, re.IGNORECASE)
    if job:
        return RedirectResponse(f"/jobs/{job[1]}", status_code=303)
    place = _PAIR.fullmatch(words)
    if place:
        rule = f"within({place[1]}, {place[2].lstrip('+')}, 1)"
        return RedirectResponse(f"/exposures?rule={quote(rule)}", status_code=303)
    found: list[tuple[int, str, str]] = []
    if words:
        with site_of(request).read() as session:
            found = search(session, words)
    if len(found) == 1 or (found and found[0][1] == words):
        return RedirectResponse(address_of_image(found[0][0], found[0][2]), status_code=303)
    return render(request, FindPage(f"Find {words}", "", words, found))


def address_of_image(image_id: int, kind: str) -> str:
    """Return the page of an image of a kind."""
    return f"/images/{image_id}" if kind == "exposure" else f"/stacks/{image_id}"

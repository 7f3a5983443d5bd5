"""The survey at a glance, and the find box."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from markupsafe import Markup

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
from spica.db.person import spend_login_token
from spica.db.tables.image import ImageRow
from spica.model.overview import NodeEntry, StackEntry
from spica_web.deps import Viewer, site_of
from spica_web.draw.sky import draw_sky
from spica_web.errors import LoginError
from spica_web.render import Page, render
from spica_web.session import MAX_TOKEN, set_cookie

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
    sky: Markup
    folder: str


@dataclass(frozen=True)
class FindPage(Page):
    """What the find box found where it found several things."""

    template: ClassVar[str] = "find.html"
    title: str
    nav: str
    words: str
    found: list[tuple[int, str, str]]


@router.get("/enter", response_class=HTMLResponse)
def enter_page(request: Request, person: Viewer) -> Response:
    """Go to the survey page."""
    return RedirectResponse("/", status_code=303)

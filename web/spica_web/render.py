"""Pages: a dataclass of what a template shows, and Jinja2 with escaping always on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from spica import __version__
from spica.db.person import Person
from spica.model.person import PersonRole
from spica_web import words
from spica_web.public import without_places

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "templates"
STATIC = HERE / "static"
THEMES = ("dark", "light", "system")
THEME_COOKIE = "spica-theme"


@dataclass(frozen=True)
class Page:
    """What a template shows: its fields are the template's words. `nav` names the room in the bar."""

    template: ClassVar[str]
    title: str
    nav: str


@dataclass(frozen=True)
class Chrome:
    """What stands around every page; `guest`: a visitor without a name looks at a public survey."""

    survey: str
    version: str
    theme: str
    person: Person | None
    guest: bool
    path: str

    def may(self, role: str) -> bool:
        """Whether who asks has this role or a higher one."""
        return self.person is not None and self.person.role.may(PersonRole(role))


@functools.cache
def environment() -> Environment:
    """Return the templates with filters for values."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.filters |= words.FILTERS
    made.globals["asset"] = asset
    return made


@functools.cache
def asset(name: str) -> str:
    """Return the address of a static file; it changes with the content, so that browsers may keep it."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]}"


def render(request: Request, page: Page, status: int = 200) -> HTMLResponse:
    """Return a page as HTML."""
    return HTMLResponse(render_text(request, page), status_code=status)


def render_text(request: Request, page: Page) -> str:
    """Return the text of a page."""
    values = {f.name: getattr(page, f.name) for f in dataclasses.fields(page)}
    text = environment().get_template(page.template).render(chrome=chrome_of(request), **values)
    return without_places(request.app.state.site.workspace, text) if is_guest_of(request) else text


def is_guest_of(request: Request) -> bool:
    """Whether a visitor without a name asks, of a survey that is public there."""
    site = getattr(request.app.state, "site", None)
    return getattr(request.state, "person", None) is None and site is not None and bool(site.is_public(request))


def chrome_of(request: Request) -> Chrome:
    """Return what stands around a page for who asks."""
    theme = request.cookies.get(THEME_COOKIE, THEMES[0])
    site = getattr(request.app.state, "site", None)
    return Chrome(
        survey=site.workspace.survey if site is not None else "",
        version=__version__,
        theme=theme if theme in THEMES else THEMES[0],
        person=getattr(request.state, "person", None),
        guest=is_guest_of(request),
        path=request.url.path,
    )

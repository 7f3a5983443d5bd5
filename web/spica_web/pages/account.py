"""One's own account: password, sessions, and tokens for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from spica.db.person import (
    Person,
    SessionEntry,
    audit,
    end_sessions,
    list_sessions,
    make_api_token,
    make_session,
    set_password,
)
from spica.model.errors import UsageError
from spica_web.deps import Myself, entered_of, site_of
from spica_web.pages.login import try_password
from spica_web.pages.person import end_one_of
from spica_web.render import Page, render
from spica_web.session import browser_of, clear_cookie, set_cookie

router = APIRouter()
MAX_DAYS = 3650


@dataclass(frozen=True)
class AccountPage(Page):
    """What a person keeps alone; `made` is a token that is shown this once; `now` the session that asks."""

    template: ClassVar[str] = "account.html"
    title: str
    nav: str
    person: Person
    sessions: tuple[SessionEntry, ...]
    tokens: tuple[SessionEntry, ...]
    now: int
    made: str
    said: str
    fault: str
    address: str


def _page(
    request: Request, person: Person, *, made: str = "", said: str = "", fault: str = "", status: int = 200
) -> HTMLResponse:
    with site_of(request).read() as session:
        sessions, tokens = (list_sessions(session, person.id, kind) for kind in ("session", "api"))
    now = entered_of(request).session_id
    address = str(request.base_url)
    page = AccountPage("Your account", "account", person, sessions, tokens, now, made, said, fault, address)
    return render(request, page, status=status)


@router.get("/account", response_class=HTMLResponse)
def account_page(request: Request, person: Myself, said: str = "") -> HTMLResponse:
    """Show one's own account."""
    words = {"password": "your password is changed; all other sessions and all tokens have ended"}
    return _page(request, person, said=words.get(said, ""))


@router.post("/account/password")
def change_own_password(
    request: Request,
    person: Myself,
    password: Annotated[str, Form(max_length=1024)],
    again: Annotated[str, Form(max_length=1024)],
    old: Annotated[str, Form(max_length=1024)] = "",
) -> Response:
    """Change one's own password, the old one being right; other sessions and tokens end."""
    site = site_of(request)
    if password != again:
        return _page(request, person, fault="the two new passwords differ; type the same twice", status=400)
    if person.has_password:
        tried = try_password(site, request, person.name, old)
        if tried.person is None:
            fault = tried.fault if tried.wait_s else "the old password does not fit; try again, or ask an admin"
            return _page(request, person, fault=fault, status=429 if tried.wait_s else 403)
    try:
        with site.database.begin() as session:
            set_password(session, person.id, password)
            token = make_session(session, person.id, label=browser_of(request))
            audit(session, person.id, "set_password", f"person:{person.id}")
    except UsageError as trouble:
        return _page(request, person, fault=str(trouble), status=400)
    response = RedirectResponse("/account?said=password", status_code=303)
    set_cookie(response, request, site.cookie, token)
    return response


@router.post("/account/tokens", response_class=HTMLResponse)
def make_token(
    request: Request,
    person: Myself,
    label: Annotated[str, Form(max_length=100)],
    days: Annotated[int, Form(ge=1, le=MAX_DAYS)] = 90,
) -> HTMLResponse:
    """Make a token for programs with one's own role; it is shown this once."""
    what = label.strip().replace("\0", "")
    if not what:
        raise UsageError("a token needs a word for what it is; write one")
    with site_of(request).database.begin() as session:
        made = make_api_token(session, person.id, days * 86400.0, what)
        audit(session, person.id, "make_token", f"person:{person.id}", f"{what}, {days} d")
    return _page(request, person, made=made)


@router.post("/account/sessions/{session_id}/end")
def end_own(request: Request, person: Myself, session_id: int) -> Response:
    """End one of one's own sessions, or revoke one of one's tokens."""
    with site_of(request).database.begin() as session:
        end_one_of(session, person, person.id, session_id)
    return RedirectResponse("/account", status_code=303)


@router.post("/account/sign-out")
def sign_out_everywhere(request: Request, person: Myself) -> Response:
    """End all of one's own sessions, this one too; tokens for programs stay."""
    site = site_of(request)
    with site.database.begin() as session:
        ended = end_sessions(session, person.id, ("login", "session"))
        audit(session, person.id, "end_sessions", f"person:{person.id}", str(ended))
    response = RedirectResponse("/login", status_code=303)
    clear_cookie(response, site.cookie)
    return response

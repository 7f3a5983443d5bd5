"""Entering and leaving; and whether the server lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from spica.db.person import audit, check_password, end_session, make_session, spend_login_token
from spica_web.deps import Viewer, site_of
from spica_web.errors import ThrottledError
from spica_web.render import Page, render
from spica_web.session import MAX_TOKEN, clear_cookie, safe_next, set_cookie, token_of

router = APIRouter()


@dataclass(frozen=True)
class LoginPage(Page):
    """The form of name and password."""

    template: ClassVar[str] = "login.html"
    title: str
    nav: str
    next: str
    fault: str
    name: str


@router.get("/login", response_class=HTMLResponse)
def login_page(request: Request, next: str = "/", token: str | None = None) -> Response:
    """Show the form, or spend the one-time token of the printed address."""
    if token is None:
        return render(request, LoginPage("Log in", "", safe_next(next), "", ""))
    site = site_of(request)
    with site.database.begin() as session:
        opened = spend_login_token(session, token) if len(token) <= MAX_TOKEN else None
    if opened is None:
        fault = "this address was used already or is over; start spica web again for a new one, or log in here"
        return render(request, LoginPage("Log in", "", "/", fault, ""), status=401)
    response = RedirectResponse(safe_next(next), status_code=303)
    set_cookie(response, request, site.cookie, opened)
    return response


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1024)],
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Check name and password; six failures a minute by name or address are enough."""
    site = site_of(request)
    keys = (f"name:{name}", f"from:{request.client.host if request.client else ''}")
    if not site.throttle.is_open(*keys):
        raise ThrottledError
    with site.throttle.working, site.database.begin() as session:
        person = check_password(session, name, password)
        token = None if person is None else make_session(session, person.id)
        if person is not None:
            audit(session, person.id, "login", f"person:{person.id}")
    if token is None:
        site.throttle.note(*keys)
        fault = "name and password do not fit; try again, or ask an admin for a new password"
        return render(request, LoginPage("Log in", "", safe_next(next), fault, name), status=401)
    response = RedirectResponse(safe_next(next), status_code=303)
    set_cookie(response, request, site.cookie, token)
    return response


@router.post("/logout")
def log_out(request: Request, person: Viewer) -> Response:
    """End this session."""
    site = site_of(request)
    token = token_of(request, site.cookie)
    if token is not None:
        with site.database.begin() as session:
            end_session(session, token)
            audit(session, person.id, "logout", f"person:{person.id}")
    response = RedirectResponse("/login", status_code=303)
    clear_cookie(response, site.cookie)
    return response


@router.get("/healthz", response_class=PlainTextResponse)
def health(request: Request) -> PlainTextResponse:
    """Say that the server and its database answer."""
    with site_of(request).read() as session:
        session.connection()
    return PlainTextResponse("ok\n")

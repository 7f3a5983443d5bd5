"""Entering and leaving; and whether the server lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from spica.db.person import Person, audit, check_password, end_session, make_session, spend_login_token
from spica.db.throttle import begin_try, end_try
from spica_web.deps import Site, Viewer, entered_of, site_of
from spica_web.render import Page, render
from spica_web.session import MAX_TOKEN, browser_of, clear_cookie, safe_next, set_cookie
from spica_web.words import seconds

router = APIRouter()
BUSY_S = 10.0


@dataclass(frozen=True)
class LoginPage(Page):
    """The form of name and password."""

    template: ClassVar[str] = "login.html"
    title: str
    nav: str
    next: str
    fault: str
    name: str


@dataclass(frozen=True)
class Tried:
    """What a name and a password gave: a person, or how long to wait before the next try, or neither."""

    person: Person | None
    wait_s: int = 0

    @property
    def fault(self) -> str:
        """What to tell who tried in vain."""
        if self.wait_s:
            return f"too many tries, wait {seconds(self.wait_s) if self.wait_s > 60 else f'{self.wait_s} s'}"
        return "name and password do not fit; try again, or ask an admin for a new password"


def try_password(site: Site, request: Request, name: str, password: str) -> Tried:
    """Look whether a name and a password fit, unless name or address failed too often just before."""
    address = request.client.host if request.client else ""
    known = name.replace("\0", "")
    with site.database.begin() as session:
        wait_s = begin_try(session, known, address)
    if wait_s:
        return Tried(None, wait_s)
    if not site.looking.acquire(timeout=BUSY_S):
        return Tried(None, round(BUSY_S))
    try:
        with site.database.begin() as session:
            person = check_password(session, known, password)
            if person is not None:
                end_try(session, known, address)
    finally:
        site.looking.release()
    return Tried(person)


@router.get("/login", response_class=HTMLResponse)
def login_page(request: Request, next: str = "/", token: str | None = None) -> Response:
    """Show the form, or spend the one-time token of the printed address, whatever was tried before."""
    if token is None:
        return render(request, LoginPage("Log in", "", safe_next(next), "", ""))
    site = site_of(request)
    opened = None
    if len(token) <= MAX_TOKEN:
        with site.database.begin() as session:
            opened = spend_login_token(session, token, label=browser_of(request))
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
    """Check name and password, each try after some in vain later than the one before."""
    site = site_of(request)
    tried = try_password(site, request, name.strip(), password)
    if tried.person is None:
        page = LoginPage("Log in", "", safe_next(next), tried.fault, name)
        response: Response = render(request, page, status=429 if tried.wait_s else 401)
        if tried.wait_s:
            response.headers["Retry-After"] = str(tried.wait_s)
        return response
    with site.database.begin() as session:
        token = make_session(session, tried.person.id, label=browser_of(request))
        audit(session, tried.person.id, "login", f"person:{tried.person.id}")
    response = RedirectResponse(safe_next(next), status_code=303)
    set_cookie(response, request, site.cookie, token)
    return response


@router.post("/logout")
def log_out(request: Request, person: Viewer) -> Response:
    """End this session; a token for programs is not ended by it but revoked."""
    site = site_of(request)
    token = request.cookies.get(site.cookie)
    if token is not None and entered_of(request).kind == "session":
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

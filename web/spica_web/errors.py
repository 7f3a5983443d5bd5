"""What goes wrong, told to a person as a page or to a program as JSON: what happened and what to do."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from spica.model.errors import SpicaError, UsageError
from spica_web.public import without_places
from spica_web.render import Page, is_guest_of, render

log = logging.getLogger("spica_web")

STATUS = {"data": 422, "recipe": 400, "conflict": 409, "transient": 503, "nothing": 404, "usage": 400, "bug": 500}
TITLES = {
    400: "That cannot be done so",
    401: "Who are you?",
    403: "Not with your role",
    404: "Nothing here",
    405: "Not in this way",
    409: "The world has moved",
    413: "Too large",
    422: "These data cannot be used",
    429: "Too many tries",
    500: "Spica made a mistake",
    503: "Something is away",
}


class MissingError(UsageError):
    """There is no such thing; look at the lists."""

    status = 404


class LoginError(UsageError):
    """You are not logged in, or your session is over; open the address that spica web printed, or log in."""

    status = 401


class ForbiddenError(UsageError):
    """Your role does not allow this; ask an admin."""

    status = 403


@dataclass(frozen=True)
class ErrorPage(Page):
    """Cause and cure of one error."""

    template: ClassVar[str] = "error.html"
    title: str
    nav: str
    status: int
    cause: str
    cure: str
    kind: str


@dataclass(frozen=True)
class BouncePage(Page):
    """A page that asks for itself again from here, so that the strict cookie comes along."""

    template: ClassVar[str] = "bounce.html"
    title: str
    nav: str
    address: str


def add_handlers(app: FastAPI) -> None:
    """Let every error of the application end in a page or JSON."""
    app.add_exception_handler(SpicaError, _told)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)


def status_of(error: SpicaError) -> int:
    """Return the HTTP status of an error."""
    return int(getattr(error, "status", STATUS.get(error.kind, 500)))


def wants_json(request: Request) -> bool:
    """Whether the answer goes to a program."""
    if request.url.path.startswith("/api/"):
        return True
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def split_cure(text: str) -> tuple[str, str]:
    """Split a message into what happened and, behind the last semicolon, what to do."""
    cause, mark, cure = text.rpartition("; ")
    return (cause, cure) if mark else (text, "")


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, SpicaError)
    status = status_of(error)
    if status >= 500:
        log.warning("%s %s: %s", request.method, request.url.path, error)
    if status == 401 and not wants_json(request):
        return _ask_to_enter(request)
    values = {k: v for k, v in error.values.items() if isinstance(v, str | int | float | None)}
    return answer(request, status, str(error), error.kind, values)


def _ask_to_enter(request: Request) -> Response:
    """Send a visitor to the login page; one who came by a link from elsewhere first comes again without it."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        return render(request, BouncePage("Spica", "", here))
    token = request.query_params.get("token")
    if token is not None and request.url.path == "/":
        return RedirectResponse(f"/login?token={quote(token[:200], safe='')}", status_code=303)
    back = f"?next={quote(here, safe='')}" if request.method == "GET" and here != "/" else ""
    return RedirectResponse(f"/login{back}", status_code=303)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {
        404: f"there is no page {request.url.path}; start from the survey page",
        405: f"{request.method} is not known at {request.url.path}; use the pages' own buttons",
    }
    return answer(request, error.status_code, words.get(error.status_code, str(error.detail)), "usage")


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:]) or "request"
    said = str(first.get("msg", "will not do"))
    if where.endswith("_id"):
        return answer(request, 404, f"there is no page {request.url.path}; ids are whole numbers", "usage")
    return answer(request, 400, f"{where}: {said[:1].lower()}{said[1:]}; correct it and try again", "usage")


def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s", request.method, request.url.path, exc_info=error)
    text = f"{type(error).__name__} in {request.method} {request.url.path}; report it with the log of spica web"
    return answer(request, 500, text, "bug")


def answer(
    request: Request, status: int, text: str, kind: str, values: Mapping[str, object] | None = None
) -> JSONResponse | HTMLResponse:
    """Return an error as JSON or as a page."""
    if is_guest_of(request):
        workspace = request.app.state.site.workspace
        text = without_places(workspace, text)
        values = {k: without_places(workspace, v) if isinstance(v, str) else v for k, v in (values or {}).items()}
    if wants_json(request):
        return JSONResponse({"error": {"kind": kind, "message": text, **(values or {})}}, status_code=status)
    cause, cure = split_cure(text)
    page = ErrorPage(TITLES.get(status, "That did not work"), "", status, cause, cure, kind)
    return render(request, page, status=status)

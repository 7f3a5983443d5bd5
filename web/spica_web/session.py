"""Sessions: the cookie, the tokens for programs, the one-time token of the printed address."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import Response

from spica.db.engine import Database
from spica.db.person import (
    Kind,
    Person,
    find_person,
    forget_old_sessions,
    has_password_person,
    know_person,
    make_login_token,
)
from spica.db.throttle import forget_old_tries
from spica.files.workspace import Workspace
from spica.model.person import PersonRole
from spica_web.guard import host_name, is_loopback

LOCAL = "local"
MAX_TOKEN = 200
COOKIE_LIFE_S = 14 * 86400


def cookie_name(workspace: Workspace) -> str:
    """Return the name of the session cookie of a survey: cookies know no ports."""
    return "spica-" + hashlib.sha256(os.fsencode(workspace.folder)).hexdigest()[:8]


@dataclass(frozen=True)
class Shown:
    """The token that a request shows, None where it shows none, and what kind of token it must be."""

    token: str | None
    kind: Kind


def shown_token(request: Request, cookie: str) -> Shown:
    """Return the token of a request: of a program as bearer, else of a browser as cookie, never the one as the other.

    A request that speaks of a bearer is never let in by its cookie: it has not to say where it comes from.
    """
    name, _, word = request.headers.get("authorization", "").partition(" ")
    kind: Kind = "api" if name.lower() == "bearer" else "session"
    token = word.strip() if kind == "api" else request.cookies.get(cookie)
    return Shown(token if token and len(token) <= MAX_TOKEN else None, kind)


def browser_of(request: Request) -> str:
    """Return browser and system in two words, for the list of sessions."""
    said = request.headers.get("user-agent", "")[:400]
    programs = (
        ("Firefox", "Firefox"),
        ("Edg", "Edge"),
        ("OPR", "Opera"),
        ("[A-Za-z]*Chrom(?:e|ium)", "Chrome"),
        ("Safari", "Safari"),
    )
    systems = (
        ("Android", "Android"),
        ("iPhone|iPad", "iOS"),
        ("Mac OS X", "macOS"),
        ("Windows", "Windows"),
        ("Linux|X11", "Linux"),
    )
    program = next((word for mark, word in programs if re.search(rf"\b{mark}/", said)), "")
    system = next((word for mark, word in systems if re.search(mark, said)), "")
    return " on ".join(word for word in (program or "a browser", system) if word)


def set_cookie(response: Response, request: Request, cookie: str, token: str) -> None:
    """Hand a session token to the browser: no script reads it, no other site sends it."""
    secure = request.url.scheme == "https"
    response.set_cookie(cookie, token, max_age=COOKIE_LIFE_S, path="/", secure=secure, httponly=True, samesite="strict")


def clear_cookie(response: Response, cookie: str) -> None:
    """Take the session token from the browser."""
    response.delete_cookie(cookie, path="/", httponly=True, samesite="strict")


def safe_next(address: str | None) -> str:
    """Return a path of this server to go to after the login, `/` for anything else."""
    plain = address or "/"
    bad = not plain.startswith("/") or plain.startswith(("//", "/\\", "/login", "/logout"))
    return "/" if bad or any(ord(c) < 33 for c in plain) or len(plain) > 2000 else plain


def make_entry(database: Database) -> str | None:
    """Return a one-time token of the local person, made as admin where there is none; None where it is shut out."""
    with database.begin() as session:
        forget_old_sessions(session)
        forget_old_tries(session)
        person_id = know_person(session, LOCAL, PersonRole.ADMIN)
        person: Person | None = find_person(session, LOCAL)
        if person is None or person.disabled_at is not None:
            return None
        return make_login_token(session, person_id)


def may_listen(database: Database, host: str) -> bool:
    """Whether the pages may be shown on this address: beyond loopback only once somebody has a password."""
    if is_loopback(host_name(host) or host):
        return True
    with database.read() as session:
        return has_password_person(session)

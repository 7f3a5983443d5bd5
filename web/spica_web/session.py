"""Sessions: the cookie, the one-time token of the printed address, and the brake on guessing."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.responses import Response

from spica.db.engine import Database
from spica.db.person import (
    Person,
    find_person,
    forget_old_sessions,
    has_password_person,
    know_person,
    make_login_token,
)
from spica.files.workspace import Workspace
from spica.model.person import PersonRole
from spica_web.guard import host_name, is_loopback

LOCAL = "local"
MAX_TOKEN = 200
COOKIE_LIFE_S = 14 * 86400


def cookie_name(workspace: Workspace) -> str:
    """Return the name of the session cookie of a survey: cookies know no ports."""
    return "spica-" + hashlib.sha256(os.fsencode(workspace.folder)).hexdigest()[:8]


def token_of(request: Request, cookie: str) -> str | None:
    """Return the session token of a request: a bearer token, else the cookie."""
    kind, _, word = request.headers.get("authorization", "").partition(" ")
    token = word.strip() if kind.lower() == "bearer" else request.cookies.get(cookie)
    return token if token and len(token) <= MAX_TOKEN else None


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


@dataclass
class Throttle:
    """Failed logins of the last minute, by name and by address; kept in this process only."""

    most: int = 6
    within_s: float = 60.0
    _failed: dict[str, deque[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    working: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(2))

    def is_open(self, *keys: str) -> bool:
        """Whether another try is allowed."""
        now = time.monotonic()
        with self._lock:
            return all(len(self._recent(key, now)) < self.most for key in keys)

    def note(self, *keys: str) -> None:
        """Record a failed try."""
        now = time.monotonic()
        with self._lock:
            if len(self._failed) > 10_000:
                self._failed = {k: d for k, d in self._failed.items() if d and now - d[-1] < self.within_s}
            for key in keys:
                self._recent(key, now).append(now)

    def _recent(self, key: str, now: float) -> deque[float]:
        found = self._failed.setdefault(key, deque(maxlen=self.most))
        while found and now - found[0] > self.within_s:
            found.popleft()
        return found

"""The gate before everything: names this server answers to, origins that may change things, sizes, times, headers."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64 * 1024
BODY_LIMIT_S = 20.0
ONCE = frozenset({"host", "origin", "authorization", "content-length"})
"""Headers that decide who may do what: of two, the gate might read one and the pages the other."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
PAGE_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", PAGE_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Hosts:
    """Names under which this server may be asked; an address of numbers is allowed beyond loopback (no rebinding)."""

    names: frozenset[str]
    any_address: bool = False

    def allow(self, host: str) -> bool:
        """Whether a Host header names this server."""
        name = host_name(host)
        if name in self.names:
            return True
        return self.any_address and _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this host only."""
    if host in LOOPBACK_NAMES:
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def hosts_for(host: str, further: Iterable[str] = ()) -> Hosts:
    """Return the names of a server that listens on `host`."""
    names = {*LOOPBACK_NAMES, host.lower(), *(f.lower() for f in further)}
    if is_loopback(host):
        return Hosts(frozenset(names))
    names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Hosts(frozenset(names), any_address=True)


def host_name(host: str) -> str:
    """Return the name of a Host header without its port, in lower case; empty where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware: refuses foreign hosts and origins and long bodies, and puts the headers of safety on answers."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        """Stand before an application."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        twice = False
        for name, value in ((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]):
            twice = twice or (name in ONCE and name in headers)
            headers[name] = value
        refused = (400, "a header of the request came twice; send it once") if twice else None
        refused = refused or self._refusal(scope["method"], headers)
        guarded = _with_headers(send)
        if refused is not None:
            await _refuse(guarded, *refused)
            return
        body = _Body(receive, guarded)
        with contextlib.suppress(_BodyError):
            await self._app(scope, body.receive, body.send)
        if body.fault is not None and not body.begun:
            await _refuse(guarded, body.fault.status, str(body.fault))

    def _refusal(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._hosts.allow(host):
            return 400, "this server does not answer to that host name; use the address that spica web printed"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return 413, f"a request may hold {MAX_BODY_BYTES} bytes; send less"
        if method not in SAFE_METHODS and not _is_own_origin(headers, host):
            return 403, "this request came from another site or without its origin; use the pages themselves"
        return None


def _is_own_origin(headers: dict[str, str], host: str) -> bool:
    """Whether a changing request came from our own pages, or from a program that shows a token instead of a cookie.

    No other site can make a browser send a bearer token, and where one is shown the cookie is not looked at.
    """
    if headers.get("authorization", "").lower().startswith("bearer "):
        return True
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


class _BodyError(Exception):
    """The body was too long or too slow."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Body:
    """The body of one request: counted, and waited for so long; what is said of a fault is unsaid."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._size, self._whole = 0, False
        self.fault: _BodyError | None = None
        self.begun = False

    async def receive(self) -> Message:
        """Give the next piece."""
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), BODY_LIMIT_S)
        except TimeoutError:
            self.fault = _BodyError(408, "the request came too slowly; try again")
            raise self.fault from None
        self._size += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._size > MAX_BODY_BYTES:
            self.fault = _BodyError(413, f"a request may hold {MAX_BODY_BYTES} bytes; send less")
            raise self.fault
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application says, unless its body was at fault before it said anything."""
        if self.fault is None or self.begun:
            self.begun = True
            await self._send(message)


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            known = {k.lower() for k, _ in given}
            message = {**message, "headers": given + [h for h in HEADERS if h[0] not in known]}
        await send(message)

    return guarded


async def _refuse(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

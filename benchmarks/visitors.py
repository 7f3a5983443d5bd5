"""Visitors of the pages: keep-alive connections that ask, read to the end, and think for a while."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer: status, body, and how long it took from the first byte sent to the last byte read, s."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass
class Tally:
    """What was measured, by name of the page: seconds and bytes of each answer, and answers that were no success."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sizes: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def percentile(self, name: str, share: float) -> float:
        """Return a percentile of the times of a page, ms."""
        times = sorted(self.seconds[name])
        return 1000.0 * times[min(len(times) - 1, int(share * len(times)))]


class Visitor:
    """One person with a session and a connection."""

    def __init__(self, host: str, port: int, cookie: str, seed: int, tally: Tally) -> None:
        """Nobody is asked yet."""
        self.host, self.port, self.cookie, self.tally = host, port, cookie, tally
        self.rng = random.Random(seed)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def get(self, name: str, path: str) -> Reply:
        """Ask for a page and note its time under a name."""
        return await self._ask(name, "GET", path, None)

    async def post(self, name: str, path: str, body: Any) -> Reply:
        """Send JSON and note the time of the answer under a name."""
        return await self._ask(name, "POST", path, json.dumps(body).encode())

    async def _ask(self, name: str, method: str, path: str, body: bytes | None) -> Reply:
        origin = f"http://{self.host}:{self.port}"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", f"Cookie: {self.cookie}"]
        lines += [f"Origin: {origin}", "Accept: text/html,application/json"]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        text = ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")
        fresh = self._writer is None
        begun = time.perf_counter()
        try:
            status, content, close = await self._send(text)
        except (asyncio.IncompleteReadError, ConnectionError):  # the server let an idle connection go
            if fresh:
                raise
            self._reader = self._writer = None
            status, content, close = await self._send(text)
        seconds = time.perf_counter() - begun
        if close:
            self._reader = self._writer = None
        self.tally.seconds[name].append(seconds)
        self.tally.sizes[name] = max(self.tally.sizes.get(name, 0), len(content))
        if not 200 <= status < 400:
            self.tally.failed.append(f"{status} {method} {path}: {content[:200]!r}")
        return Reply(status, content, seconds)

    async def _send(self, text: bytes) -> tuple[int, bytes, bool]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        assert self._reader is not None
        self._writer.write(text)
        return await _read(self._reader)


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Return status, body, and whether the server closes the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
    close = headers.get("connection", "").lower() == "close"
    if headers.get("transfer-encoding", "") == "chunked":
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readline()
        return status, b"".join(parts), close
    length = int(headers.get("content-length", "0"))
    return status, await reader.readexactly(length) if length else b"", close


Habit = Callable[[Visitor], Awaitable[None]]


async def visit(visitors: Sequence[Visitor], habits: Sequence[Habit], seconds: float, think_s: float) -> None:
    """Let all visitors follow their habits, drawn evenly, with thought between (0.5 to 1.5 of `think_s`)."""
    end = time.monotonic() + seconds

    async def one(visitor: Visitor) -> None:
        await asyncio.sleep(visitor.rng.uniform(0, think_s))
        while time.monotonic() < end:
            await visitor.rng.choice(habits)(visitor)
            await asyncio.sleep(think_s * visitor.rng.uniform(0.5, 1.5))

    await asyncio.gather(*(one(v) for v in visitors))

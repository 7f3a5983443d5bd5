"""Server-sent events: one connection listens to the database, every open page hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator

from spica.db.engine import Database, Listener
from spica.model.errors import SpicaError, TransientError

log = logging.getLogger("spica_web")

MAX_LISTENERS = 100
QUEUE_LENGTH = 256
BEAT_S = 15.0
LIFE_S = 600.0
RETRY_S = 2.0
RESYNC = "resync"
_PAYLOAD = re.compile(r"(job|image|node|plan|rule|mark|claim):[0-9]{1,18}|resync")


class EventHub:
    """Hears notifications in a thread and hands them to the queues of the pages that are open."""

    def __init__(self, database: Database, hears: Callable[[list[str]], None] | None = None) -> None:
        """Prepare; nothing listens yet. `hears` is told every notification, in the thread that listens."""
        self._database = database
        self._hears = hears
        self._queues: set[asyncio.Queue[str]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._listener: Listener | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen; notifications are handed over on this loop."""
        self._loop = loop
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="spica-web-listen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self._listener is not None:
            self._listener.wake()
        if self._thread is not None:
            self._thread.join(5.0)

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[asyncio.Queue[str]]:
        """Give a queue of payloads; TransientError where too many pages are open."""
        if len(self._queues) >= MAX_LISTENERS:
            raise TransientError(f"{MAX_LISTENERS} pages listen already; close some")
        queue: asyncio.Queue[str] = asyncio.Queue(QUEUE_LENGTH)
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._listen()
            except SpicaError as trouble:
                log.warning("listening to the database broke off: %s", trouble)
                self._over.wait(RETRY_S)

    def _listen(self) -> None:
        with self._database.listen() as listener:
            self._listener = listener  # before the look whether all is over: who ends this looks the other way round
            self._heard([RESYNC])
            while not self._over.is_set():
                told = listener.wait(5.0)
                if told:
                    self._heard(told)

    def _heard(self, payloads: list[str]) -> None:
        if self._hears is not None:
            self._hears(payloads)
        known = [p for p in payloads if _PAYLOAD.fullmatch(p)]
        if known:
            self._hand_over(known)

    def _hand_over(self, payloads: list[str]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop was closed in between: the server is ending
                self._loop.call_soon_threadsafe(self._put, payloads)

    def _put(self, payloads: list[str]) -> None:
        for queue in self._queues:
            for payload in payloads:
                if queue.full():
                    while not queue.empty():
                        queue.get_nowait()
                    queue.put_nowait(RESYNC)
                else:
                    queue.put_nowait(payload)


async def stream_events(hub: EventHub, life_s: float = LIFE_S) -> AsyncIterator[bytes]:
    """Yield events as a browser reads them; ends after a while, and the browser asks again with its session."""
    end = asyncio.get_running_loop().time() + life_s
    with hub.subscribe() as queue:
        yield b"retry: 3000\n\n"
        while (left := end - asyncio.get_running_loop().time()) > 0:
            try:
                payload = await asyncio.wait_for(queue.get(), min(BEAT_S, left))
            except TimeoutError:
                yield b": still here\n\n"
                continue
            yield f"event: change\ndata: {payload}\n\n".encode()

"""The daemon: one loop that claims, a thread an attempt, a heartbeat, a listener, and a file service.

Signals. SIGTERM or SIGINT: no new job is claimed. A draining daemon waits for its running steps; any other leaves
them running (each is a session of its own), prolongs their leases by `LEAVE_LEASE_S`, and the next daemon of this node
adopts them. A second signal makes a draining daemon leave in the same way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from spica.db.engine import Database
from spica.db.file import find_file, locations
from spica.db.job import Claimed, pending_work, renew_leases
from spica.db.node import Beat, know_node, stop_node
from spica.files.workspace import Workspace
from spica.model.errors import TransientError
from spica.model.node import LocationState, NodeState
from spica_daemon.attempt import Attempt, Render, Site
from spica_daemon.claim import claim_next, look_through, more_wait, reap_all
from spica_daemon.executors.local import StepProcess
from spica_daemon.executors.warm import WarmStarter
from spica_daemon.heartbeat import Heartbeat, Pulse
from spica_daemon.runner import Orders
from spica_daemon.serve import FileService

LEAVE_LEASE_S = 600.0
DRAIN_PATIENCE_S = 15.0


@dataclass(frozen=True)
class Options:
    """How a daemon behaves. `slots` 0: one a core; `serve` None: no file service; times in seconds."""

    slots: int = 0
    drain: bool = False
    pulse: Pulse = field(default_factory=Pulse)
    poll_s: float = 1.0
    grace_s: float = 10.0
    backoff_s: float = 2.0
    serve: tuple[str, int] | None = ("127.0.0.1", 0)
    address: str | None = None
    patience_s: float = DRAIN_PATIENCE_S


class Daemon:
    """Runs the jobs of one node until it is told to stop, or, draining, until nothing is left."""

    def __init__(self, database: Database, workspace: Workspace, options: Options, render: Render | None) -> None:
        """Prepare; `run` begins. `render` renders scripts again for comparison, None trusts their hashes."""
        self._database = database
        self._workspace = workspace
        self._options = options
        self._slots = options.slots or workspace.slots or os.cpu_count() or 1
        workspace.save_roots()
        self._wake = threading.Event()
        self._signals = 0
        self._running: dict[int, tuple[Attempt, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._reaped_at = 0.0
        with database.begin() as session:
            self._node_id = know_node(session, workspace.node, socket.gethostname())
        self._token = secrets.token_urlsafe(32)
        threads = max((os.cpu_count() or 1) // self._slots, 1)
        warm = WarmStarter(more_wait=lambda: more_wait(database, self._node_id))
        self._site = Site(database, workspace, self._node_id, threads, options.grace_s, options.backoff_s, render, warm)
        state = NodeState.DRAINING if options.drain else NodeState.ACTIVE
        self._heart = Heartbeat(
            database.url,
            self._node_id,
            self._orders,
            workspace.roots["data"],
            options.pulse,
            Beat(slots=self._slots, busy=0, state=state, token=self._token if options.serve else None),
        )

    def run(self) -> None:
        """Work until stopped or drained.

        Raises
        ------
        TransientError
            Where the port of the file service is taken, or the database is away at the start.
        """
        service = self._start_service()
        listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        try:
            self._recover()
            self._heart.start()
            listener.start()
            self._loop()
        finally:
            self._leave()
            if service is not None:
                service.close()

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Handle a signal: stop claiming; see the module."""
        self._signals += 1
        self._wake.set()

    def install_signals(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def _loop(self) -> None:
        while True:
            self._wake.clear()
            self._forget_ended()
            if self._is_over():
                return
            try:
                self._fill_slots()
                self._reap()
                if self._options.drain and not self._running and self._is_drained():
                    return
            except TransientError:
                self._wake.wait(self._options.poll_s)
                continue
            self._wake.wait(self._options.poll_s)

    def _is_over(self) -> bool:
        if self._signals == 0:
            return False
        return not self._options.drain or self._signals > 1 or not self._running

    def _fill_slots(self) -> None:
        while self._signals == 0 and len(self._running) < self._slots:
            claimed = claim_next(self._database, self._node_id, self._options.pulse.lease_s)
            if claimed is None:
                return
            self._launch(claimed, lambda attempt: attempt.live())

    def _recover(self) -> None:
        for claimed, process in look_through(self._site, self._options.pulse.lease_s):
            if process is None:
                self._launch(claimed, lambda attempt: attempt.clean_up())
            else:
                self._launch(claimed, _taking_over(process))

    def _launch(self, claimed: Claimed, live: Callable[[Attempt], None]) -> None:
        attempt = Attempt(self._site, claimed, Orders())
        thread = threading.Thread(target=self._thread, args=(attempt, live), name=f"job-{claimed.job_id}", daemon=True)
        with self._lock:
            self._running[claimed.attempt_id] = (attempt, thread)
        thread.start()

    def _thread(self, attempt: Attempt, live: Callable[[Attempt], None]) -> None:
        try:
            live(attempt)
        finally:
            self._wake.set()

    def _forget_ended(self) -> None:
        with self._lock:
            for attempt_id in [a for a, (_, thread) in self._running.items() if not thread.is_alive()]:
                del self._running[attempt_id]

    def _orders(self) -> dict[int, Orders]:
        with self._lock:
            return {attempt_id: attempt.orders for attempt_id, (attempt, _) in self._running.items()}

    def _reap(self) -> None:
        """Lose attempts of silent nodes, once our own beats have been through long enough to judge others."""
        now, every_s = time.monotonic(), self._options.pulse.every_s
        if self._heart.healthy_s >= 2 * every_s and now - self._reaped_at >= every_s:
            self._reaped_at = now
            if reap_all(self._database):
                self._wake.set()

    def _is_drained(self) -> bool:
        with self._database.begin() as session:
            left = pending_work(session, self._node_id, self._options.patience_s)
        return left.ready == 0 and left.expired == 0

    def _listen(self) -> None:
        while True:
            try:
                with self._database.listen() as listener:
                    while True:
                        for payload in listener.wait(self._options.poll_s):
                            self._heard(payload)
            except TransientError:
                time.sleep(self._options.poll_s)

    def _heard(self, payload: str) -> None:
        noun, _, number = payload.partition(":")
        if noun != "job":
            return
        with self._lock:
            ours = any(str(attempt.claimed.job_id) == number for attempt, _ in self._running.values())
        if ours:
            self._heart.kick()
        self._wake.set()

    def _start_service(self) -> FileService | None:
        if self._options.serve is None:
            return None
        service = FileService(self._lookup, self._token, *self._options.serve)
        service.start()
        self._heart.address = self._options.address or f"{self._options.serve[0]}:{service.port}"
        return service

    def _lookup(self, sha256: str) -> Path | None:
        """Return where a content lies on this node, for the file service."""
        with self._database.begin() as session:
            file = find_file(session, sha256)
            places = locations(session, file.id) if file is not None else ()
        for place in places:
            if place.node_id == self._node_id and place.state is LocationState.PRESENT:
                path = self._workspace.place(place.root, place.relative_path)
                if path.is_file():
                    return path
        return None

    def _leave(self) -> None:
        """Leave running steps to the next daemon, and say that this one has ended."""
        with self._lock:
            left = dict(self._running)
        for attempt, _ in left.values():
            attempt.orders.leave.set()
        for _, thread in left.values():
            thread.join(timeout=30.0)
        self._site.warm.close()
        self._heart.close()
        with contextlib.suppress(TransientError), self._database.begin() as session:
            renew_leases(session, self._node_id, left, LEAVE_LEASE_S)
            stop_node(session, self._node_id)


def _taking_over(process: StepProcess) -> Callable[[Attempt], None]:
    return lambda attempt: attempt.take_over(process)

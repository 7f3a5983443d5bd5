"""Keeps the newest snapshot: hears what changed, reads it again, and waits for the acts of this very process.

Freshness. Notifications arrive in the order of commits. Whoever acted in this process (`touch`, or any transaction of
this `Database` that commits) sees the own act: the next `now` sends a notification of its own, a barrier, and when it
is heard, all that was committed before it has been heard too. Other processes' changes show within `LAG_S` or so.

Safety. Where the listener broke off (`resync`) and every `RELOAD_S`, all is read again in the background. Images,
grades and jobs newer than the newest known are found at every refresh. While nothing changes, a barrier now and then
confirms that the listener lives, and only then does `taken_at` advance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from spica.db.engine import CHANNEL, Database, explain
from spica.db.snapshot.columns import Snapshot
from spica.db.snapshot.load import load_snapshot
from spica.db.snapshot.refresh import Changes, refresh_snapshot
from spica.model.errors import SpicaError, TransientError

log = logging.getLogger("spica")

RESYNC = "resync"
LAG_S = 0.25
"""Changes of others are gathered this long before they are read."""
CONFIRM_S = 5.0
RELOAD_S = 600.0
RETRY_S = 2.0
FIRST_WAIT_S = 3.0
"""The first question waits this long for the first snapshot."""
LISTEN_WAIT_S = 2.0
"""The first snapshot waits this long for the listener, so that it need not be read twice."""
_PAYLOAD = re.compile(r"(image|job):([0-9]{1,18})")
_BARRIER = re.compile(r"barrier:([0-9a-f]{8})-([0-9]{1,18})")
READING = "the survey is being read; try again in a moment"


class SnapshotKeeper:
    """The snapshot of one database; threads may share it.

    One that was not started reads everything anew at each question: right, and quick where there is little.
    """

    def __init__(self, database: Database) -> None:
        """Prepare; nothing is read yet."""
        self._database = database
        self._token = secrets.token_hex(4)
        self._state = threading.Condition()
        self._fold_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._pending = Changes()
        self._replay: Changes | None = None
        self._loads_asked = 0
        self._loads_begun = 0
        self._loads_done = 0
        self._connected = False
        self._barrier_sent = 0
        self._barrier_heard = 0
        self._acts = 0
        self._acts_seen = 0
        self._folded_at = 0.0
        self._asked = False
        self._over = False
        self._thread: threading.Thread | None = None

    # What others call -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read and to follow, in a thread; whoever listens to the database must call `note`."""
        if self.running:
            return
        self._over = False
        event.listen(self._database.engine, "commit", self._committed)
        self._thread = threading.Thread(target=self._run, name="spica-snapshot", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._state:
            self._over = True
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join(5.0)
            self._thread = None
            event.remove(self._database.engine, "commit", self._committed)

    @property
    def running(self) -> bool:
        """Whether the thread follows the database."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def _reload(self) -> bool:
        return self._loads_begun < self._loads_asked

    @property
    def ready(self) -> bool:
        """Whether the first snapshot has been read."""
        return self._snapshot is not None

    def note(self, payloads: list[str]) -> None:
        """Take up notifications as they were heard; `resync` says that some may have been missed."""
        heard = Changes()
        with self._state:
            for payload in payloads:
                if payload == RESYNC:
                    self._loads_asked += self._snapshot is not None or self._replay is not None
                    self._connected = True
                elif found := _PAYLOAD.fullmatch(payload):
                    (heard.images if found[1] == "image" else heard.jobs).add(int(found[2]))
                elif (barrier := _BARRIER.fullmatch(payload)) and barrier[1] == self._token:
                    self._barrier_heard = max(self._barrier_heard, int(barrier[2]))
            self._pending.add(heard)
            if self._replay is not None:
                self._replay.add(heard)
            self._state.notify_all()

    def touch(self) -> None:
        """Say that this process has changed the database: the next `now` shows it."""
        with self._state:
            self._acts += 1

    def now(self, max_wait_s: float = 0.5) -> Snapshot:
        """Return the newest snapshot; acts of this process that were committed before are in it.

        Where they do not come within `max_wait_s`, the snapshot is older and its `taken_at` says so.

        Raises
        ------
        TransientError
            During the first load.
        """
        if not self.running:
            return self._read_alone()
        self._asked = True
        end = time.monotonic() + max_wait_s
        self._wait_first(max(max_wait_s, FIRST_WAIT_S))
        with contextlib.suppress(SpicaError):  # the older one says its age; the thread tries again and says why
            moment = self._sync(end) if self._acts != self._acts_seen else None
            if moment is not None and self._loads_done < self._loads_asked:
                self._wait_loaded(end)
            if moment is not None or (self._pending and time.monotonic() - self._folded_at > LAG_S):
                self._fold(end, moment)
        assert self._snapshot is not None
        return self._snapshot

    # Reading ----------------------------------------------------------------------------------------------------------

    def _read_alone(self) -> Snapshot:
        with self._fold_lock, self._database.read() as session:
            old = self._snapshot
            self._snapshot = load_snapshot(session, 1 if old is None else old.version + 1)
            return self._snapshot

    def _wait_first(self, limit_s: float) -> None:
        with self._state:
            if not self._state.wait_for(lambda: self._snapshot is not None or self._over, limit_s) or self._over:
                raise TransientError(READING)

    def _wait_loaded(self, end: float) -> None:
        """Wait until a reading of everything that was asked for is done."""
        with self._state:
            asked = self._loads_asked
            self._state.wait_for(lambda: self._loads_done >= asked, max(0.0, end - time.monotonic()))

    def _sync(self, end: float) -> datetime | None:
        """Wait until all that was committed before has been heard; return a moment before that, None: not in time."""
        with self._held(self._sync_lock, end) as got:
            target = self._acts
            if not got:
                return None
            if self._acts_seen == target:
                return self._snapshot.taken_at if self._snapshot is not None else None
            moment = self._send_barrier(end)
            if moment is not None:
                self._acts_seen = target
            return moment

    def _send_barrier(self, end: float) -> datetime | None:
        """Send a notification and wait until it is heard; return the database's time before it, None: not in time."""
        with self._state:
            self._barrier_sent += 1
            number = self._barrier_sent
        statement = (
            "SET LOCAL synchronous_commit TO off;"
            f" SELECT pg_notify('{CHANNEL}', 'barrier:{self._token}-{number}'), now()"
        )
        try:
            moment = self._said(statement)
        except (psycopg.Error, SQLAlchemyError) as trouble:
            raise explain(trouble, self._database.place) or trouble from trouble
        with self._state:
            heard = self._state.wait_for(lambda: self._barrier_heard >= number, max(0.0, end - time.monotonic()))
        return moment if heard else None

    def _said(self, statement: str) -> datetime:
        """Send a notification beside the transactions that count as acts; return the database's time before it."""
        raw = self._database.engine.raw_connection()
        try:
            cursor: Any = raw.cursor()
            cursor.execute(statement)
            cursor.nextset()
            moment: datetime = cursor.fetchone()[1]
            raw.commit()
        finally:
            raw.close()
        return moment.astimezone(UTC)

    def _fold(self, end: float, moment: datetime | None = None) -> None:
        """Read again what is known to have changed; `moment`: all that was committed before has been heard."""
        with self._held(self._fold_lock, end) as got:
            if not got or self._snapshot is None:
                return
            if not self._pending and (moment is None or moment <= self._snapshot.taken_at):
                return
            changes = self._take()
            try:
                made = self._refreshed(self._snapshot, changes)
            except BaseException:
                self._give_back(changes)
                raise
            if made is None:
                self._give_back(changes)
                self._ask_reload()
            else:
                self._publish(made)

    def _refreshed(self, old: Snapshot, changes: Changes) -> Snapshot | None:
        with self._database.read() as session:
            return refresh_snapshot(session, old, changes)

    def _load(self) -> None:
        """Read everything; what is heard meanwhile is read again before the new snapshot serves."""
        with self._state:
            begun = self._loads_begun = self._loads_asked
            self._replay = Changes()
            old = self._snapshot
        try:
            with self._database.read() as session:
                made: Snapshot | None = load_snapshot(session, 1, None if old is None else old.cache)
        except BaseException:
            with self._state:
                self._replay, self._loads_begun = None, begun - 1
            raise
        with self._fold_lock:
            with self._state:
                replay, self._replay = self._replay or Changes(), None
            newest = self._snapshot
            assert made is not None
            made = self._refreshed(made, replay) if replay else made
            if made is None:
                self._ask_reload()
                return
            self._loads_done = begun
            self._publish(dataclasses.replace(made, version=1 if newest is None else newest.version + 1))

    # Small pieces -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _held(self, lock: threading.Lock, end: float) -> Iterator[bool]:
        got = lock.acquire(timeout=max(0.0, end - time.monotonic()))
        try:
            yield got
        finally:
            if got:
                lock.release()

    def _take(self) -> Changes:
        with self._state:
            taken, self._pending = self._pending, Changes()
            return taken

    def _give_back(self, changes: Changes) -> None:
        with self._state:
            self._pending.add(changes)

    def _ask_reload(self) -> None:
        with self._state:
            self._loads_asked += 1
            self._state.notify_all()

    def _publish(self, made: Snapshot) -> None:
        with self._state:
            self._snapshot = made
            self._folded_at = time.monotonic()
            self._state.notify_all()

    def _committed(self, _connection: object) -> None:
        self.touch()

    # The thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._state:
            self._state.wait_for(lambda: self._connected or self._over, LISTEN_WAIT_S)
        loaded_at = -RELOAD_S
        while not self._over:
            try:
                if self._snapshot is None or self._reload or time.monotonic() - loaded_at > RELOAD_S:
                    self._load()
                    loaded_at = time.monotonic()
                self._follow()
            except SpicaError as trouble:
                log.warning("the survey could not be read again: %s", trouble)
                self._pause(RETRY_S)

    def _follow(self) -> None:
        """Wait for changes and fold them in; where there are none for a while, confirm that none was missed."""
        with self._state:
            told = self._state.wait_for(lambda: self._pending or self._reload or self._over, CONFIRM_S)
        if self._reload or self._over:
            return
        if told:
            self._pause(LAG_S)
            self._fold(time.monotonic() + FIRST_WAIT_S)
        elif self._asked and self._connected:
            self._asked = False
            acts = self._acts
            moment = self._send_barrier(time.monotonic() + RETRY_S)
            if moment is not None:
                self._acts_seen = max(self._acts_seen, acts)
                self._fold(time.monotonic() + FIRST_WAIT_S, moment)

    def _pause(self, seconds: float) -> None:
        with self._state:
            self._state.wait_for(lambda: self._over, seconds)

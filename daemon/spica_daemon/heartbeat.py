"""The heartbeat: leases and the node's row, in a thread and on a connection of its own, by the database's clock."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from spica.db.engine import Database
from spica.db.job import renew_leases
from spica.db.node import Beat, beat
from spica.model.errors import TransientError
from spica_daemon.runner import Orders

Running = Callable[[], dict[int, Orders]]


@dataclass(frozen=True)
class Pulse:
    """How often and how long: `every_s` between beats, `lease_s` from each beat."""

    every_s: float = 5.0
    lease_s: float = 60.0


class Heartbeat:
    """Renews the leases of running attempts, tells them of orders, and says that the node lives.

    Parameters
    ----------
    url : of the database; the heartbeat opens its own connection.
    running : returns the orders of all running attempts by attempt id; called from the heartbeat's thread.
    data : folder whose free disk is told.
    says : what every beat says of the node; `address` may be set later.
    """

    def __init__(self, url: str, node_id: int, running: Running, data: Path, pulse: Pulse, says: Beat) -> None:
        """Prepare; `start` begins."""
        self._database = Database(url)
        self._node_id = node_id
        self._running = running
        self._data = data
        self._pulse = pulse
        self._kick = threading.Event()
        self._stop = threading.Event()
        self._healthy_since: float | None = None
        self._says = says
        self.address: str | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def kick(self) -> None:
        """Beat at once: a person may have asked for something."""
        self._kick.set()

    @property
    def healthy_s(self) -> float:
        """Seconds for which every beat has reached the database; 0 where the last did not."""
        since = self._healthy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Stop beating."""
        self._stop.set()
        self._kick.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)
        self._database.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._kick.clear()
            try:
                self._beat()
                self._healthy_since = self._healthy_since or time.monotonic()
            except (TransientError, OSError):
                self._healthy_since = None
            self._kick.wait(self._pulse.every_s)

    def _beat(self) -> None:
        orders = self._running()
        with self._database.begin() as session:
            lease = renew_leases(session, self._node_id, orders, self._pulse.lease_s)
        with self._database.begin() as session:
            beat(session, self._node_id, self._say(len(orders)))
        for attempt_id, order in orders.items():
            if attempt_id not in lease.live:
                order.fenced.set()
            elif attempt_id in lease.cancel:
                order.cancel.set()

    def _say(self, busy: int) -> Beat:
        free = shutil.disk_usage(self._data).free
        return replace(
            self._says, busy=busy, address=self.address, disk_free_bytes=free, load=round(os.getloadavg()[0], 2)
        )

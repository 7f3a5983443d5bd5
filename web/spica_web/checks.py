"""Checks of delivered files: read one delivery at a time beside the pages, and recorded when they end."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from spica.db.delivery import record_check
from spica.db.engine import Database
from spica.db.person import audit
from spica.model.errors import ConflictError, SpicaError
from spica.scheduling.delivered import DeliveredFolder, check_delivered

log = logging.getLogger("spica_web")
MAX_WAITING = 50


class DeliveryChecks:
    """Deliveries that are being read, by id; a server that ends forgets them, and they are asked for again."""

    def __init__(self, database: Database) -> None:
        """Begin with none."""
        self._database = database
        self._going: set[int] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="spica-web-check")

    def going(self) -> frozenset[int]:
        """Return the deliveries that are being read or wait for it."""
        with self._lock:
            return frozenset(self._going)

    def begin(self, folder: DeliveredFolder, person_id: int) -> None:
        """Read a delivery soon; ConflictError where it is being read, or too many wait."""
        with self._lock:
            if folder.delivery_id in self._going:
                raise ConflictError(f"{folder.path.name} is being checked already; its page shows when it is done")
            if len(self._going) >= MAX_WAITING:
                raise ConflictError(f"{MAX_WAITING} checks wait already; try again when some have ended")
            self._going.add(folder.delivery_id)
        self._pool.submit(self._check, folder, person_id)

    def stop(self) -> None:
        """Take no more; the one that is being read is read to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _check(self, folder: DeliveredFolder, person_id: int) -> None:
        try:
            problems = check_delivered(folder)
            with self._database.begin() as session:
                state = record_check(session, folder.delivery_id, problems)
                audit(session, person_id, "checked", f"delivery:{folder.delivery_id}", state.value)
        except (SpicaError, OSError) as trouble:
            log.warning("delivery %s could not be checked: %s", folder.delivery_id, trouble)
        finally:
            with self._lock:
                self._going.discard(folder.delivery_id)

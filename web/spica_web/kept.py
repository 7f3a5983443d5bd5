"""Values that many requests share: made once for a version of the survey, by one thread, while the others go on."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from spica.model.errors import SpicaError

V = TypeVar("V")
log = logging.getLogger("spica_web")

CHEAP_S = 0.01
"""What costs less is made anew for each version."""
REST = 50.0
"""What costs more rests for so many times its cost: one core is never busy with it for more than a twentieth."""
MAX_VALUES = 200


@dataclass
class _Value:
    version: Hashable
    value: Any
    made_at: float
    cost_s: float
    lock: threading.Lock


class Shelf:
    """Values by name. Threads may share it; at most `MAX_VALUES` are kept, those used last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty; `clock` gives seconds."""
        self._clock = clock
        self._values: OrderedDict[Hashable, _Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: Hashable, version: Hashable, make: Callable[[], V], rest: float = REST) -> V:
        """Return the value of a version.

        A value that was dear to make may be of an older version: the older one is given at once while a thread makes
        the new one, which it does not before the old one has rested for `rest` times its cost. The request may have
        ended by then: what `make` uses must not belong to it.
        """
        with self._lock:
            held = self._values.setdefault(name, _Value(None, None, -1.0, 0.0, threading.Lock()))
            self._values.move_to_end(name)
            while len(self._values) > MAX_VALUES:
                self._values.popitem(last=False)
        if held.made_at < 0 or (held.version != version and held.cost_s < CHEAP_S):
            with held.lock:
                if held.made_at < 0 or held.version != version:
                    self._make(held, version, make)
        elif held.version != version and self._clock() - held.made_at > rest * held.cost_s:
            self._renew(held, version, make)
        value: V = held.value
        return value

    def _renew(self, held: _Value, version: Hashable, make: Callable[[], V]) -> None:
        if not held.lock.acquire(blocking=False):
            return

        def work() -> None:
            try:
                self._make(held, version, make)
            except SpicaError as trouble:  # the old value stays; the next request tries again
                log.warning("a shared value could not be made anew: %s", trouble)
            finally:
                held.lock.release()

        threading.Thread(target=work, name="spica-web-shelf", daemon=True).start()

    def _make(self, held: _Value, version: Hashable, make: Callable[[], V]) -> None:
        start = self._clock()
        value = make()
        end = self._clock()
        held.value, held.cost_s, held.made_at, held.version = value, end - start, end, version


_MADE = threading.Lock()


def shelf_of(request: Request) -> Shelf:
    """Return the shelf of the application that a request came to."""
    state = request.app.state
    with _MADE:
        if not hasattr(state, "shelf"):
            state.shelf = Shelf()
    shelf: Shelf = state.shelf
    return shelf

"""Watches one process: its limits, orders from people, the fence, and the daemon's own leaving."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from spica_daemon.exits import Ended, Killed

TICK_S = 0.25
MEMORY_EVERY_S = 0.5
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


class Watched(Protocol):
    """A process as the runner sees it."""

    started: float

    def wait(self, timeout_s: float) -> bool:
        """Return whether it has ended within the time."""

    def kill(self, number: signal.Signals) -> None:
        """Signal the whole group."""

    def memory_mb(self) -> float:
        """Return the resident memory of the group."""

    def close(self) -> int | None:
        """Clean up and return the exit code."""


@dataclass(frozen=True)
class Limits:
    """What a process may take; `grace_s` lies between SIGTERM and SIGKILL."""

    time_s: float
    memory_mb: float
    grace_s: float = 10.0


@dataclass
class Orders:
    """What others tell the thread that watches: end it, it no longer counts, leave it running."""

    cancel: threading.Event = field(default_factory=threading.Event)
    fenced: threading.Event = field(default_factory=threading.Event)
    leave: threading.Event = field(default_factory=threading.Event)


def step_environment(source: Mapping[str, str], cache: Path, attempt: Path, threads: int) -> dict[str, str]:
    """Return the clean environment of a step: nothing of the database and no secret passes."""
    kept = {name: source[name] for name in PASSED_ON if name in source}
    kept.setdefault("PATH", os.defpath)
    kept.setdefault("HOME", str(attempt))
    kept.setdefault("LANG", "C.UTF-8")
    number = str(max(threads, 1))
    counts = {"OMP_NUM_THREADS": number, "NUMBA_NUM_THREADS": number, "OMP_WAIT_POLICY": "PASSIVE"}
    counts |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # small matrices: more threads only wait
    return {
        **kept,
        **counts,
        "TMPDIR": str(attempt / "tmp"),
        "SPICA_PYTHON": sys.executable,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONUNBUFFERED": "1",
    }


def supervise(process: Watched, limits: Limits, orders: Orders) -> Ended | None:
    """Watch a process until it ends; None where the daemon leaves and it runs on."""
    peak_mb, look_at = 0.0, 0.0
    while not process.wait(TICK_S if peak_mb else 0.02):
        if orders.leave.is_set():
            return None
        now = time.monotonic()
        if now >= look_at:
            peak_mb, look_at = max(peak_mb, process.memory_mb()), now + MEMORY_EVERY_S
        killed = _breach(process, limits, orders, peak_mb)
        if killed is not None:
            _end(process, limits.grace_s if killed is not Killed.MEMORY else 0.0)
            return _seen(process, killed, peak_mb)
    return _seen(process, None, peak_mb)


def _breach(process: Watched, limits: Limits, orders: Orders, peak_mb: float) -> Killed | None:
    if orders.fenced.is_set():
        return Killed.FENCED
    if orders.cancel.is_set():
        return Killed.CANCEL
    if peak_mb > limits.memory_mb:
        return Killed.MEMORY
    if time.time() - process.started > limits.time_s:
        return Killed.TIME
    return None


def _end(process: Watched, grace_s: float) -> None:
    if grace_s > 0:
        process.kill(signal.SIGTERM)
        if process.wait(grace_s):
            return
    process.kill(signal.SIGKILL)
    process.wait(grace_s + 5.0)


def _seen(process: Watched, killed: Killed | None, peak_mb: float) -> Ended:
    seconds = max(time.time() - process.started, 0.0)
    return Ended(process.close(), killed, seconds, peak_mb or None)

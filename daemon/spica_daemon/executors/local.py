"""Processes on this machine: each attempt is a session of its own, which outlives the daemon."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROCESS_FILE = "process"
SAME_START_S = 2.0
CODE_LIMIT_S = 5.0
_MEGABYTE = 1024.0 * 1024.0
# The shell writes its number before it becomes the script, so that a daemon killed at that moment finds it again.
_LAUNCH = 'echo $$ >"$1/process" && exec sh "$0" "$1"'


@dataclass
class FarChild:
    """A process that another one began for us and tells us about: its number when it has begun, its code when it ended.

    Both events are set, and the number stays 0 or the code None, where the one that should tell is gone.
    """

    reap: Callable[[], None]
    pid: int = 0
    returncode: int | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> int | None:
        """Return the exit code, None where nobody can tell; its number may go to another process from now on."""
        self.ended.wait(CODE_LIMIT_S)
        self.reap()
        return self.returncode


@dataclass
class StepProcess:
    """The leader of an attempt's session: started by this daemon, or found alive after a restart."""

    pid: int
    started: float
    child: subprocess.Popen[bytes] | FarChild | None = None
    _pidfd: int | None = field(default=None, repr=False)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the leader has ended (a zombie has), at most so long; return whether it has."""
        if self._pidfd is None:
            self._pidfd = _open_pidfd(self.pid)
        if self._pidfd is None:
            return self._poll(timeout_s)
        ready, _, _ = select.select([self._pidfd], [], [], max(timeout_s, 0.0))
        return bool(ready)

    def _poll(self, timeout_s: float) -> bool:
        """Look again and again where the kernel has no pidfd; a process that is gone has ended."""
        until = time.monotonic() + timeout_s
        while is_alive(self.pid, self.started):
            if time.monotonic() >= until:
                return False
            time.sleep(min(0.02, max(timeout_s, 0.0)))
        return True

    def close(self) -> int | None:
        """End whatever is left of the session, reap the leader, return its exit code (None: it was not our child)."""
        self.kill(signal.SIGKILL)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        return None if self.child is None else self.child.wait()

    def forget(self) -> None:
        """Let it run on, for the next daemon to adopt."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self.child is not None:
            self.child.returncode = 0  # keeps subprocess from warning about a child that still runs

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to every process of the session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        for pid in _session(self.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def memory_mb(self) -> float:
        """Return the resident memory of the whole session in MB; pages shared by its processes count for each."""
        total = 0
        for pid in _session(self.pid):
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_info().rss
        return total / _MEGABYTE


def start_process(script: Path, folder: Path, environment: Mapping[str, str]) -> StepProcess:
    """Start `sh run.sh FOLDER` in a session of its own, its output going to `log.txt` there."""
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            ["/bin/sh", "-c", _LAUNCH, str(script), str(folder)],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return StepProcess(child.pid, start_of(child.pid) or time.time(), child)


def find_process(pid: int | None, started: float | None, folder: Path) -> StepProcess | None:
    """Return the living process of an attempt: by number and start as recorded, else by the file it wrote itself."""
    if pid is not None and started is not None:
        return StepProcess(pid, started) if is_alive(pid, started) else None
    try:
        written = int((folder / PROCESS_FILE).read_text())
    except (OSError, ValueError):
        return None
    begun = start_of(written)
    if begun is None or not is_alive(written, begun) or not _is_in(written, folder):
        return None
    return StepProcess(written, begun)


def is_alive(pid: int, started: float) -> bool:
    """Tell whether this very process lives; a zombie does not, and neither does another one of the same number."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) <= SAME_START_S
        return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def start_of(pid: int) -> float | None:
    """Return when a process began, s since the epoch; None where there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _is_in(pid: int, folder: Path) -> bool:
    try:
        return Path(psutil.Process(pid).cwd()).is_relative_to(folder.resolve()) and os.getsid(pid) == pid
    except (psutil.Error, OSError):
        return False


def _session(leader: int) -> list[int]:
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                members.append(pid)
    return members


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where there is none to be had."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None

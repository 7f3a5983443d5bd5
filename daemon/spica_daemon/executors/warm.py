"""Attempts begun by a process that is warm: it forks, so that a step starts in milliseconds and not in a second.

A single attempt begins by its script, for the warm process costs as much; where more jobs wait, and at the latest with
the second attempt, it is started, and the attempt waits until it is ready, no longer than an import of its own would
take. Where it is gone attempts begin by their script as ever. Only scripts that do nothing but call the step's runner
are begun so; the exit code comes from the warm process, and is unknown (as of an adopted process) where that is gone.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from spica_daemon.executors.local import FarChild, StepProcess, find_process, start_of

COMMAND = ("-m", "spica.steps.starter")
COLD_STARTS = 1
"""Attempts that begin by their script before the warm process is worth its start, where no more jobs are known."""
READY_LIMIT_S = 20.0
"""How long an attempt waits for the warm process before it begins by its script."""
SETTLE_S = 0.5
"""How long a step that began unheard may take until its number lies in its folder."""
OWN = ("TMPDIR",)
"""Words of an attempt's environment that differ from attempt to attempt."""


class WarmStarter:
    """The warm process of one daemon; threads may share it."""

    def __init__(self, cold_starts: int = COLD_STARTS, more_wait: Callable[[], bool] = lambda: False) -> None:
        """Nothing runs yet; the process begins after so many cold starts, or at once where `more_wait` says so."""
        self._cold_starts = cold_starts
        self._more_wait = more_wait
        self._asked = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._ready = threading.Event()
        self._children: dict[int, FarChild] = {}
        self._number = 0
        self._lock = threading.Lock()

    def start(self, folder: Path, environment: Mapping[str, str]) -> StepProcess | None:
        """Begin the attempt of a folder; None where it must begin by its script."""
        with self._lock:
            process = self._warm_process(environment)
        if process is None or not self._ready.wait(READY_LIMIT_S):
            return None
        with self._lock:
            self._number += 1
            number = self._number
            child = self._children[number] = FarChild(lambda: self._reap(process, number))
            if not self._order(process, {"number": number, "folder": str(folder), "environment": dict(environment)}):
                del self._children[number]
                return None
        child.begun.wait()  # an answer, or the end of the warm process
        if not child.pid:
            time.sleep(SETTLE_S)
            return find_process(None, None, folder)
        return StepProcess(child.pid, start_of(child.pid) or time.time(), child)

    def close(self) -> None:
        """End the warm process; steps that it began run on."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            self._drop(process)

    def _warm_process(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        """Return the process where it is ready and has this environment; start it where it is time to."""
        common = {k: v for k, v in environment.items() if k not in OWN}
        if self._process is not None and self._process.poll() is not None:
            self._process, self._asked = None, 0
        if self._process is None:
            self._asked += 1
            if self._asked <= self._cold_starts and not self._more_wait():
                return None
            self._process = self._begin(common)
        return self._process if common == self._environment else None

    def _begin(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        self._ready.clear()
        self._environment = environment
        process = subprocess.Popen(
            [sys.executable, *COMMAND],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(process,), name="warm-steps", daemon=True).start()
        return process

    def _reap(self, process: subprocess.Popen[bytes], number: int) -> None:
        """Let the number of a process that has ended go; harmless where the warm process is gone."""
        with self._lock:
            self._order(process, {"reap": number})

    def _order(self, process: subprocess.Popen[bytes], words: dict[str, object]) -> bool:
        assert process.stdin is not None
        try:
            process.stdin.write((json.dumps(words) + "\n").encode())
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return False
        return True

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Hear what the warm process says until it ends; then nobody waits for it any more."""
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told.get("ready"):
                self._ready.set()
                continue
            child = self._children.get(told["number"])
            if child is None:
                continue
            if "pid" in told:
                child.pid = told["pid"]
                child.begun.set()
            else:
                child.returncode = told["code"]
                child.ended.set()
                self._children.pop(told["number"], None)
        self._ready.set()  # who waits for it begins by the script: its pipe is closed
        with self._lock:
            left = list(self._children.values())
            self._children.clear()
        for child in left:
            child.begun.set()
            child.ended.set()

    def _drop(self, process: subprocess.Popen[bytes]) -> None:
        """Close the pipe to a warm process, at which it ends, and reap it."""
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)

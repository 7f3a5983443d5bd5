"""Steps begun by fork from a process that has imported what they need: `python -m spica.steps.starter`.

Importing numpy, scipy, astropy, numba and sep takes a second of processor time, as long as many steps work. This
process does it once. It reads orders as lines of JSON, `{"number": 1, "folder": DIR, "environment": {...}}`, and
answers with lines: `{"ready": true}` first, then `{"number": 1, "pid": 4711}` when the step has begun and
`{"number": 1, "code": 0}` when it has ended (negative: the signal). Until `{"reap": 1}` comes its process number is
kept from others. The child is the leader of a session of its own, as a script's shell would be, and outlives this
process, which ends with its standard input.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spica.algorithms.background import measure_background
from spica.model.errors import RecipeError
from spica.steps.base import STEP_GROUP

LOG, PROCESS = "log.txt", "process"
NATIVE = "spica.steps."
FURTHER = ("spica.plots", "matplotlib.figure", "matplotlib.backends.backend_agg")
MAX_LINE = 1 << 20


def import_steps() -> None:
    """Import the steps that Spica brings, and what draws their plots."""
    for point in entry_points(group=STEP_GROUP):
        if point.module.startswith(NATIVE):
            point.load()
    for name in FURTHER:
        importlib.import_module(name)


def set_up_kernels() -> None:
    """Run one kernel and look for picture formats: what numba and PIL set up at first use costs each process 0.3 s.

    The kernel is one that starts no threads, for those would not live on in a child.
    """
    measure_background(np.zeros((64, 64), np.float32), None, 32)
    Image.preinit()


def serve() -> int:
    """Begin steps until the standard input ends; in a child: run the step and return its exit code."""
    import_steps()
    set_up_kernels()
    gc.collect()
    gc.freeze()  # what the children share stays shared
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    _say({"ready": True})
    running: dict[int, int] = {}
    ended: dict[int, int] = {}
    waiting = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _tell_ended(running, ended)
        if 0 not in ready:
            continue
        read = os.read(0, 65536)
        if not read or len(waiting) > MAX_LINE:
            return 0
        *lines, waiting = (waiting + read).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "reap" in order:
                _reap(ended.pop(order["reap"], None))
                continue
            pid = os.fork()
            if pid == 0:
                return _be_step(Path(order["folder"]), order["environment"], (wake, woken))
            running[order["number"]] = pid
            _say({"number": order["number"], "pid": pid})


def _tell_ended(running: dict[int, int], ended: dict[int, int]) -> None:
    """Tell how children have ended; they stay zombies, so that nobody else gets their process numbers."""
    for number, pid in list(running.items()):
        seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if seen is not None:
            ended[number] = running.pop(number)
            _say({"number": number, "code": seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status})


def _reap(pid: int | None) -> None:
    if pid is not None:
        os.waitpid(pid, 0)


def _say(words: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (json.dumps(words) + "\n").encode())


def _be_step(folder: Path, environment: dict[str, str], pipes: tuple[int, int]) -> int:
    """Become the leader of a session in the attempt's folder, and run the step there."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for pipe in pipes:
        os.close(pipe)
    os.chdir(folder)
    Path(PROCESS).write_text(f"{os.getpid()}\n")
    log = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    from spica.steps.__main__ import main

    return main(["run", "--attempt", str(folder)])


if __name__ == "__main__":
    try:
        code = serve()
    except RecipeError as trouble:
        sys.stderr.write(f"{trouble}\n")
        code = 1
    raise SystemExit(code)

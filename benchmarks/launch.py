"""Runs commands, some at a time, and tells what each cost: a JSON plan on standard input, costs on standard output.

It is started as a process of its own that imports next to nothing: Linux counts the memory of the process that forks
into the peak of the one that it starts, so a large parent would hide the memory of a small child.
"""

import json
import os
import sys
import time
from typing import Any


def start(command: dict[str, Any]) -> int:
    """Start one command of the plan, its output to its log; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(command["folder"])
        os.execvpe(command["arguments"][0], command["arguments"], command["environment"])
    except OSError as error:
        os.write(2, f"{command['arguments'][0]}: {error}\n".encode())
    os._exit(127)


def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Run all commands, `slots` at a time; return wall seconds of all, and code, CPU seconds and peak MB of each."""
    waiting = list(enumerate(plan["commands"]))
    running: dict[int, tuple[int, float]] = {}
    costs: list[dict[str, float]] = [{}] * len(waiting)
    begun = time.monotonic()
    while waiting or running:
        while waiting and len(running) < plan["slots"]:
            index, command = waiting.pop(0)
            running[start(command)] = index, time.monotonic()
        pid, status, usage = os.wait4(-1, 0)
        index, started = running.pop(pid)
        costs[index] = {
            "code": os.waitstatus_to_exitcode(status),
            "wall_s": time.monotonic() - started,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024.0,
        }
    return {"wall_s": time.monotonic() - begun, "costs": costs}


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)

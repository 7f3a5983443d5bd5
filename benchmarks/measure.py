"""What a stage costs: wall seconds, CPU seconds of all its processes, peak memory of its largest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Command:
    """One process to run: its arguments, the folder it runs in, and variables on top of ours."""

    arguments: Sequence[str]
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """Cost of a stage; `peak_mb` is the resident memory of its largest process at its highest."""

    wall_s: float
    cpu_s: float
    peak_mb: float

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of two stages one after the other."""
        return Cost(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, max(self.peak_mb, other.peak_mb))


def total(costs: Sequence[Cost]) -> Cost:
    """Return the cost of stages one after the other."""
    return sum(costs, Cost(0.0, 0.0, 0.0))


def cheapest(costs: Sequence[Cost]) -> Cost:
    """Return the least seconds and the highest memory of repeated runs; other work on the machine only adds."""
    return Cost(min(c.wall_s for c in costs), min(c.cpu_s for c in costs), max(c.peak_mb for c in costs))


def run_stage(commands: Sequence[Command], slots: int = 1) -> Cost:
    """Run commands, `slots` at a time, and return what they cost together.

    Raises
    ------
    RuntimeError : a command failed; the message holds the end of its log.
    """
    plan = {
        "slots": slots,
        "commands": [
            {
                "arguments": [str(a) for a in c.arguments],
                "folder": str(c.folder),
                "log": str(c.log),
                "environment": {**os.environ, **c.environment},
            }
            for c in commands
        ],
    }
    launched = subprocess.run(
        [sys.executable, "-I", "-S", str(LAUNCHER)], input=json.dumps(plan), capture_output=True, text=True, check=True
    )
    told = json.loads(launched.stdout)
    for command, cost in zip(commands, told["costs"], strict=True):
        if cost["code"] != 0:
            end = command.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(map(str, command.arguments[:3]))} ended with {cost['code']}:\n{end}")
    cpu, peak = sum(c["cpu_s"] for c in told["costs"]), max(c["peak_mb"] for c in told["costs"])
    return Cost(told["wall_s"], cpu, peak)

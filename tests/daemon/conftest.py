"""Jobs of a test step, and daemons as real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.job import NewJob
from spica.files.workspace import Workspace
from spica.model.job import EdgeKind, Input, JobState, Request

HERE = Path(__file__).resolve().parent
SCRIPT = f"""#!/bin/sh
set -eu
cd "$1"
exec "$SPICA_PYTHON" -S -E {HERE / "step.py"} "$1"
"""

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["spica_daemon.loop", "spica_daemon.claim", "spica.db.engine"])


class Launched:
    """A daemon as a process of its own, forked from one that has imported what it needs: that costs a second each."""

    def __init__(self, orders: dict[str, Any]) -> None:
        """Begin at once."""
        words = (str(HERE / "launch.py"), {"ORDERS": json.dumps(orders)}, "__main__")
        self._process = FORKING.Process(target=runpy.run_path, args=words)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for its end and return the exit code."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        assert code is not None, f"the daemon does not end within {timeout_s} s"
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the daemon alone."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()


@dataclass
class Bench:
    """A workspace on a real database, the jobs of the test step, and daemons as processes."""

    database: Database
    workspace: Workspace
    processes: list[Launched] = field(default_factory=list)

    def add(
        self, *parents: tuple[int, EdgeKind], inputs: tuple[Input, ...] = (), script: str = SCRIPT, **more: Any
    ) -> int:
        """Create one job; what is no field of a job becomes its facts."""
        with self.database.begin() as session:
            return self.add_in(session, *parents, inputs=inputs, script=script, **more)

    def add_in(
        self,
        session: Session,
        *parents: tuple[int, EdgeKind],
        inputs: tuple[Input, ...] = (),
        script: str = SCRIPT,
        **more: Any,
    ) -> int:
        own = {k: more.pop(k) for k in list(more) if k in NewJob.__dataclass_fields__}
        request = Request("test", "test", {}, "0" * 64, inputs=inputs, facts=more)
        job_id = jobs.reserve_job_ids(session, 1)[0]
        values = {"memory_mb": 500, "memory_cap_mb": 1000} | own
        new = NewJob(job_id, "test", "test", request, script, "a test", dict(parents), **values)
        return jobs.create_jobs(session, None, [new])[0]

    def start(self, node: str = "", data: Path | None = None, kill_at: str | None = None, **options: Any) -> Launched:
        """Start a daemon; its words go to a file of the workspace."""
        environment = {k: v for k, v in os.environ.items() if k != "SPICA_KILL_AT"}
        if kill_at is not None:
            environment["SPICA_KILL_AT"] = kill_at
        environment["SPICA_SECRET"] = "hidden"
        orders = {"workspace": str(self.workspace.folder), "node": node, "data": str(data or ""), "options": options}
        process = Launched(orders | {"environment": environment, "log": str(self.workspace.folder / "daemon.log")})
        self.processes.append(process)
        return process

    def drain(self, timeout_s: float = 60.0, **options: Any) -> None:
        """Run a draining daemon to its end."""
        process = self.start(drain=True, **options)
        assert process.wait(timeout_s) == 0, self.words()

    def words(self) -> str:
        return (self.workspace.folder / "daemon.log").read_text()

    def state(self, job_id: int) -> JobState:
        with self.database.read() as session:
            return jobs.need_job(session, job_id).state

    def attempts(self, job_id: int) -> list[Any]:
        with self.database.read() as session:
            return list(jobs.attempts_of_job(session, job_id))

    def arrows(self, job_id: int) -> list[str]:
        with self.database.read() as session:
            return [e.arrow.value for e in jobs.events_of_job(session, job_id)]

    def wait(self, true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something is true."""
        until = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < until, self.words()
            time.sleep(0.02)


@pytest.fixture
def bench(database: Database, workspace: Workspace) -> Iterator[Bench]:
    """Return a bench whose daemons and steps are gone when the test ends."""
    made = Bench(database, workspace)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    for note in made.workspace.roots["jobs"].glob("*/*/*/attempt-*/process"):
        try:
            os.killpg(int(note.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            continue

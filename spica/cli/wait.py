"""Follows the jobs of a command with a progress bar; lends a draining daemon where none is alive."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spica.model.job import ENDED, JobState

if TYPE_CHECKING:
    from spica.db.engine import Database
    from spica.files.workspace import Workspace

POLL_S = 0.2
Progress = Callable[..., None]
"""Called with done, total and words."""


def wait_for(
    workspace: Workspace, database: Database, job_ids: Sequence[int], title: str, *, strict: bool = False
) -> int:
    """Wait until all jobs ended; return how many FAILED (or were pruned because of that)."""
    if not job_ids:
        return 0
    with _some_daemon(workspace, database) as daemon, progress_bar(title) as advance:
        while True:
            states = _states(database, job_ids)
            ended = sum(s in ENDED for s in states.values())
            advance(ended, len(job_ids), f"{sum(s is JobState.RUNNING for s in states.values())} running")
            if ended == len(job_ids):
                break
            if daemon is not None and daemon.poll() is not None and _states(database, job_ids) == states:
                _say_left(daemon, states)
            time.sleep(POLL_S)
    return sum(s in (JobState.FAILED, JobState.PRUNED) for s in states.values())


def _say_left(daemon: subprocess.Popen[bytes], states: dict[int, JobState]) -> None:
    """Stop waiting: the lent daemon ended, and jobs are left that nobody will run."""
    from spica.model.errors import TransientError

    numbers = " ".join(str(i) for i, s in states.items() if s not in ENDED)
    raise TransientError(
        f"the daemon ended ({daemon.returncode}) before jobs {numbers[:80]} did; "
        "see daemon.log and spica jobs, then run: spica daemon --drain"
    )


def _states(database: Database, job_ids: Sequence[int]) -> dict[int, JobState]:
    from sqlalchemy import select

    from spica.db.tables.job import JobRow

    with database.read() as session:
        rows = session.execute(select(JobRow.id, JobRow.state).where(JobRow.id.in_(job_ids)))
        return {row.id: row.state for row in rows}


@contextmanager
def _some_daemon(workspace: Workspace, database: Database) -> Iterator[subprocess.Popen[bytes] | None]:
    """Lend a draining daemon while nobody works; end it after. TransientError where all that could work is drained."""
    from spica.db.overview import list_nodes
    from spica.model.errors import TransientError

    with database.read() as session:
        nodes = list_nodes(session)
    alive = [n for n in nodes if n.alive]
    able = alive or [n for n in nodes if n.name == workspace.node]
    if able and not any(n.drained is None for n in able):
        said = f"node {able[0].name} is drained {able[0].drained}"
        raise TransientError(f"the jobs are on record and wait: {said}; run: spica nodes --resume {able[0].name}")
    if alive:
        yield None
        return
    daemon = start_daemon(workspace, "--drain")
    try:
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)


def start_daemon(workspace: Workspace, *options: str) -> subprocess.Popen[bytes]:
    """Start a daemon of this workspace as a process of its own; its words go to `daemon.log`."""
    log = (workspace.folder / "daemon.log").open("ab")
    command = [sys.executable, "-m", "spica_daemon", "--workspace", str(workspace.folder), *options]
    return subprocess.Popen(
        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ)
    )


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Show a bar on standard error where that is a terminal, else one line at the end; yields the callback."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    console = Console(stderr=True)
    started, last = time.monotonic(), [0]

    def advance(done: int, total: int, words: str = "") -> None:
        last[0] = total
        bar.update(task, completed=done, total=total, words=words[:40])

    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, words="")
        yield advance
    if not console.is_terminal:
        sys.stderr.write(f"{title}: {last[0]} done in {time.monotonic() - started:.1f} s\n")

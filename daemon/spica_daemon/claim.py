"""Claims jobs for the free slots of this node, and looks through what an earlier daemon left."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from sqlalchemy import exists, or_, select

from spica.db.engine import Database
from spica.db.job import Claimed, FencedError, adopt, claim, live_attempts, reap
from spica.db.tables.job import JobRow
from spica.files.workspace import Workspace
from spica.model.errors import ConflictError, TransientError
from spica.model.job import JobState
from spica_daemon.attempt import Site, find_left_behind
from spica_daemon.executors.local import StepProcess
from spica_daemon.seat import pass_point

NATIVE = "native"
"""The engine whose scripts do nothing but call our own steps."""


def claim_next(database: Database, node_id: int, lease_s: float) -> Claimed | None:
    """Claim one job in a transaction of its own; None where there is none for this node."""
    pass_point("before_claim")
    with database.begin() as session:
        claimed = claim(session, node_id, lease_s)
    if claimed is not None:
        pass_point("after_claim")
    return claimed


def more_wait(database: Database, node_id: int) -> bool:
    """Return whether jobs of our own steps wait that this node may run now or later; False while nobody can tell."""
    mine = or_(JobRow.node_id.is_(None), JobRow.node_id == node_id)
    waiting = JobRow.state.in_((JobState.WAITING, JobState.READY))
    try:
        with database.read() as session:
            return bool(session.scalar(select(exists().where(waiting, mine, JobRow.engine == NATIVE))))
    except TransientError:
        return False


def look_through(site: Site, lease_s: float) -> list[tuple[Claimed, StepProcess | None]]:
    """Return what an earlier daemon of this node left: attempts, each with its process where that lives (adopted)."""
    with site.database.begin() as session:
        attempts = live_attempts(session, site.node_id)
    found = []
    for attempt in attempts:
        process = find_left_behind(site, attempt)
        if process is not None:
            with contextlib.suppress(FencedError), site.database.begin() as session:
                adopt(session, attempt.attempt_id, attempt.fence, lease_s)
        found.append((attempt, process))
    return found


def reap_all(database: Database) -> int:
    """Lose the attempts of silent nodes, one transaction each; return how many."""
    count = 0
    while True:
        with database.begin() as session:
            if reap(session) is None:
                return count
        count += 1


@contextlib.contextmanager
def sole_daemon(workspace: Workspace) -> Iterator[None]:
    """Hold the name of this node on this host; the kernel gives it back however the daemon ends.

    Raises
    ------
    ConflictError
        Where another daemon of this node runs already.
    """
    folder = workspace.folder / "nodes"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f".daemon-{workspace.node}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError(
                f"a daemon of node {workspace.node} runs already; stop it, or give this one another --node and --data"
            ) from None
        yield
    finally:
        os.close(descriptor)

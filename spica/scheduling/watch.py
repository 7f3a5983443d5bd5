"""Watches folders for new files: by scanning, a file is taken in once it has stopped growing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from spica.db.engine import Database
from spica.files.workspace import Workspace
from spica.model.recipe import Recipe
from spica.scheduling.intake import IntakeReport, find_files, take_in

EVERY_S = 2.0
Stamp = tuple[int, int]


def settled(paths: Sequence[Path], before: dict[Path, Stamp], taken: dict[Path, Stamp]) -> list[Path]:
    """Return files whose size and time have not changed since the last look and that were not taken in so.

    `before` is brought up to this look.
    """
    ready = []
    for path in find_files(paths):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        stamp = (status.st_size, status.st_mtime_ns)
        if before.get(path) == stamp and taken.get(path) != stamp:
            ready.append(path)
        before[path] = stamp
    return ready


def watch_folders(
    database: Database,
    workspace: Workspace,
    paths: Sequence[Path],
    recipe: Recipe,
    say: Callable[[IntakeReport], None],
    rounds: int | None = None,
) -> None:
    """Take in what arrives, for ever or for a number of rounds; daemons do the rest."""
    before: dict[Path, Stamp] = {}
    taken: dict[Path, Stamp] = {}
    while rounds is None or rounds > 0:
        ready = settled(paths, before, taken)
        if ready:
            report = take_in(database, workspace, ready, recipe)
            taken |= {path: before[path] for path in ready}
            if report.new:
                say(report)
        rounds = None if rounds is None else rounds - 1
        if rounds != 0:
            time.sleep(EVERY_S)

"""Watches folders for new files: told by the system (inotify), with a slow scan beside it; else by scanning alone."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from spica.db.engine import Database
from spica.files.workspace import Workspace
from spica.model.errors import TransientError
from spica.model.recipe import Recipe
from spica.scheduling.intake import IntakeReport, find_files, is_finished_name, take_files
from spica.scheduling.settle import SETTLE_S, Stamp, has_writer, is_young, stamp_of

EVERY_S = 2.0
"""Time between two scans where nobody tells of changes."""
SAFETY_S = 30.0
"""Time between two scans where the system tells: it forgets when its queue overflows."""
TICK_S, IDLE_S = 0.1, 1.0
BURST_S = 0.3
GRACE_S = 0.25
"""So long a closed file must stand still: some programs close and open it again."""
_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "ramfs", "overlay", "zfs", "f2fs", "jfs", "bcachefs", "vfat"}
)
_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

Hear = Callable[[IntakeReport], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class News:
    """What the system tells: a file changed, or was closed after writing (or renamed here); a folder appeared."""

    path: Path
    closed: bool = False
    is_folder: bool = False


class _Teller(FileSystemEventHandler):
    """Puts what the system tells into a queue."""

    def __init__(self, news: queue.SimpleQueue[News]) -> None:
        self.news = news

    def on_any_event(self, event: FileSystemEvent) -> None:
        moved = event.event_type == "moved"
        path = Path(os.fsdecode(event.dest_path if moved else event.src_path))
        self.news.put(News(path, moved or event.event_type == "closed", event.is_directory))


@dataclass
class _Candidate:
    """A file that may be taken in: how it looked last, since when it looks so, whether it was said to be closed."""

    stamp: Stamp
    since_s: float
    closed: bool


@dataclass
class Inbox:
    """Knows which files of the folders are new or changed, and which of them have come to rest."""

    folders: tuple[Path, ...]
    settle_s: float = SETTLE_S
    candidates: dict[Path, _Candidate] = field(default_factory=dict)
    taken: dict[Path, Stamp] = field(default_factory=dict)

    def notice(self, path: Path, now_s: float, closed: bool = False) -> None:
        """Look at a file; forget it where it is gone or was taken in as it is."""
        try:
            stamp = stamp_of(path)
        except OSError:
            self.candidates.pop(path, None)
            return
        if self.taken.get(path) == stamp:
            self.candidates.pop(path, None)
            return
        known = self.candidates.get(path)
        if known is None or known.stamp != stamp:
            since_s = now_s if known is not None or is_young(stamp, self.settle_s) else now_s - self.settle_s
            self.candidates[path] = _Candidate(stamp, since_s, closed)
        elif closed:
            known.closed = True

    def hear(self, news: News, now_s: float) -> None:
        """Take note of what the system tells."""
        if news.is_folder:
            self.scan(now_s, [news.path])
        elif self._is_wanted(news.path):
            self.notice(news.path, now_s, news.closed)

    def scan(self, now_s: float, paths: Sequence[Path] = ()) -> None:
        """Look at every file; TransientError where a folder cannot be listed."""
        for path in find_files([p for p in paths or self.folders if p.exists()]):
            if self._is_wanted(path):
                self.notice(path, now_s)

    def _is_wanted(self, path: Path) -> bool:
        """Tell whether a path lies in the folders, not below a hidden one, and bears a finished name."""
        for folder in self.folders:
            if path == folder:
                return True
            if path.is_relative_to(folder):
                *above, name = path.relative_to(folder).parts
                return is_finished_name(name) and not any(part.startswith(".") for part in above)
        return False

    def ready(self, now_s: float) -> list[Path]:
        """Return files that came to rest: closed after writing, or unchanged for the settle time, and not held open.

        Empty files wait for the settle time: some cameras make the file first.
        """
        found = []
        for path in sorted(self.candidates):
            self.notice(path, now_s)
            seen = self.candidates.get(path)
            if seen is None:
                continue
            writer = has_writer(path)
            rest_s = now_s - seen.since_s
            closed = (seen.closed or writer is False) and seen.stamp[1] > 0
            if not writer and (rest_s >= self.settle_s or (closed and rest_s >= GRACE_S)):
                found.append(path)
        return found

    def settle(self, paths: Iterable[Path], stamps: dict[Path, Stamp], report: IntakeReport) -> None:
        """Put away what was taken in (or cannot be read); what was still written stays a candidate."""
        for path in paths:
            seen = self.candidates.pop(path, None)
            if path in report.busy and seen is not None:
                self.candidates[path] = _Candidate(stamps[path], time.monotonic(), False)
            else:
                self.taken[path] = stamps[path]


def is_remote(path: Path) -> bool:
    """Tell whether a folder may change without this host's knowledge: it lies on no known local file system."""
    mounts = [m for m in psutil.disk_partitions(all=True) if path.is_relative_to(m.mountpoint)]
    best = max(mounts, key=lambda m: len(m.mountpoint), default=None)
    return best is not None and best.fstype not in _LOCAL


def start_observer(folders: Sequence[Path], news: queue.SimpleQueue[News], say: Say) -> BaseObserver | None:
    """Ask the system to tell of changes below the folders; None, and a line, where it cannot."""
    observer = Observer()
    try:
        for folder in folders:
            is_tree = folder.is_dir()
            place = folder if is_tree else folder.parent
            observer.schedule(_Teller(news), str(place), recursive=is_tree, event_filter=_EVENTS)
        observer.start()
    except OSError as error:
        say(f"folders are scanned every {EVERY_S:g} s, the system does not tell of changes ({error.strerror or error})")
        observer.unschedule_all()
        return None
    return observer


def watch_folders(
    database: Database,
    workspace: Workspace,
    paths: Sequence[Path],
    recipe: Recipe,
    hear: Hear,
    say: Say = lambda text: None,
    *,
    events: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Take in what arrives until told to stop; daemons do the rest.

    Parameters
    ----------
    hear : callable
        Is given the report of every batch.
    say : callable
        Is given a line where something of the watching itself is worth knowing.
    events : bool
        Whether the system is asked; False scans only.
    stop : callable
        Asked between two looks.
    """
    folders = tuple(path.absolute() for path in paths)
    find_files(folders)
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    observer = start_observer(folders, news, say) if events else None
    told = observer is not None and not any(is_remote(folder) for folder in folders)
    inbox = Inbox(folders)
    next_scan_s = 0.0
    try:
        while not stop():
            now_s = time.monotonic()
            if now_s >= next_scan_s:
                _scan(inbox, now_s, say)
                next_scan_s = now_s + (SAFETY_S if told else EVERY_S)
            _take(database, workspace, recipe, inbox, hear)
            _listen(inbox, news, TICK_S if inbox.candidates else IDLE_S)
    finally:
        if observer is not None:
            observer.stop()
            observer.join(5.0)


def _scan(inbox: Inbox, now_s: float, say: Say) -> None:
    """Look at every file; a folder that vanishes meanwhile or cannot be listed waits for the next scan."""
    try:
        inbox.scan(now_s)
    except TransientError as trouble:
        say(str(trouble))


def _listen(inbox: Inbox, news: queue.SimpleQueue[News], tick_s: float) -> None:
    """Wait for news, then gather what comes in one burst."""
    until_s = time.monotonic() + tick_s
    heard = False
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            one = news.get(timeout=0.05 if heard else left_s)
        except queue.Empty:
            break
        if not heard:
            heard, until_s = True, time.monotonic() + BURST_S
        try:
            inbox.hear(one, time.monotonic())
        except TransientError:
            continue  # a folder that is gone again


def _take(database: Database, workspace: Workspace, recipe: Recipe, inbox: Inbox, hear: Hear) -> None:
    """Take in what came to rest; a file that vanished meanwhile is forgotten."""
    ready = inbox.ready(time.monotonic())
    if not ready:
        return
    stamps = {path: inbox.candidates[path].stamp for path in ready}
    report = take_files(database, workspace, ready, recipe, patience_s=0.0)
    report.unreadable = [(p, why) for p, why in report.unreadable if p.exists() and p not in report.busy]
    inbox.settle(ready, stamps, report)
    if report.new or report.known or report.unreadable:
        hear(report)

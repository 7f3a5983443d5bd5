"""The watch: when a file is whole, what the system tells, and what is found without it; writers are processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from spica.db.tables.file import FileRow
from spica.db.tables.job import JobRow
from spica.files.checksum import sha256_file
from spica.model.errors import TransientError
from spica.model.recipe import read_recipe
from spica.scheduling import settle, watch
from spica.scheduling.intake import IntakeReport, find_files, take_files, take_in
from spica.scheduling.settle import StillWrittenError, has_writer, hash_whole
from spica.scheduling.watch import Inbox, News, watch_folders

RECIPE = read_recipe([], [])
TRICKLE = """
import sys, time
with open(sys.argv[1], "wb", buffering=0) as stream:
    for i in range(int(sys.argv[2])):
        stream.write(b"%06d" % i * 100)
        time.sleep(0.1)
"""


def trickle(path: Path, tenths: int) -> subprocess.Popen[bytes]:
    """Start a process that writes a file bit by bit."""
    process = subprocess.Popen([sys.executable, "-c", TRICKLE, str(path), str(tenths)])
    until = time.monotonic() + 10.0
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return process


def older(path: Path, seconds: float) -> Path:
    """Set the time of change back."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


class TestSettle:
    """Whether a file is being written at this moment."""

    def test_a_writer_is_seen_and_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "a.fits"
        writer = trickle(path, 8)
        assert has_writer(path) is True
        with pytest.raises(StillWrittenError):
            hash_whole(path)
        writer.wait(10)
        assert has_writer(path) is False
        assert hash_whole(path).sha256 == sha256_file(path)
        assert has_writer(tmp_path / "none") is None

    def test_content_that_changes_while_it_is_read_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = older(_write(tmp_path / "a.fits", b"half"), 60)

        def hash_slowly(given: Path) -> str:
            digest = sha256_file(given)
            with given.open("ab") as stream:
                stream.write(b" and half")
            return digest

        monkeypatch.setattr(settle, "sha256_file", hash_slowly)
        with pytest.raises(StillWrittenError):
            hash_whole(path)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.fits")
        with pytest.raises(OSError, match="no regular file"):
            hash_whole(tmp_path / "pipe.fits")


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class TestInbox:
    """Which files have come to rest; the clock is an argument."""

    def test_a_closed_file_is_ready_soon_an_open_one_never(self, tmp_path: Path) -> None:
        inbox = Inbox((tmp_path,))
        path = _write(tmp_path / "a.fits", b"x")
        inbox.hear(News(path, closed=True), 100.0)
        assert inbox.ready(100.1) == []
        assert inbox.ready(100.3) == [path]
        with path.open("ab"):
            assert inbox.ready(200.0) == []

    def test_without_leases_a_file_rests_for_the_settle_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "has_writer", lambda path: None)
        inbox = Inbox((tmp_path,))
        path = _write(tmp_path / "a.fits", b"x")
        inbox.scan(100.0)
        assert inbox.ready(102.9) == []
        path.write_bytes(b"xy")
        assert inbox.ready(103.1) == []
        assert inbox.ready(105.9) == []
        assert inbox.ready(106.2) == [path]

    def test_old_files_are_ready_at_once_and_empty_ones_late(self, tmp_path: Path) -> None:
        inbox = Inbox((tmp_path,))
        old = older(_write(tmp_path / "old.fits", b"x"), 60)
        empty = _write(tmp_path / "empty.fits", b"")
        inbox.scan(100.0)
        inbox.hear(News(empty, closed=True), 100.0)
        assert inbox.ready(100.5) == [old]
        assert inbox.ready(103.5) == [empty, old]

    def test_what_was_taken_comes_again_only_when_it_changed(self, tmp_path: Path) -> None:
        inbox = Inbox((tmp_path,))
        path = older(_write(tmp_path / "a.fits", b"x"), 60)
        inbox.scan(100.0)
        (ready,) = inbox.ready(100.0)
        inbox.settle([ready], {path: inbox.candidates[path].stamp}, IntakeReport(new=[path]))
        inbox.scan(130.0)
        assert inbox.ready(140.0) == []
        path.write_bytes(b"longer")
        inbox.scan(150.0)
        assert inbox.ready(160.0) == [path]

    def test_what_is_hidden_unfinished_elsewhere_or_gone_is_passed_over(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        (folder / ".trash").mkdir(parents=True)
        inbox = Inbox((folder,))
        for name in (".a.fits", "b.fits.part", "c.tmp", "d~", ".trash/e.fits", "../f.fits"):
            path = _write(folder / name, b"x")
            inbox.hear(News(Path(os.path.abspath(path)), closed=True), 100.0)
        gone = folder / "gone.fits"
        inbox.hear(News(gone, closed=True), 100.0)
        inbox.hear(News(folder / "nowhere", is_folder=True), 100.0)
        assert inbox.ready(200.0) == []


@dataclass
class Watched:
    """A running watch: what it said, and the rows it made."""

    database: Any
    folder: Path
    reports: list[IntakeReport] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def files(self) -> list[tuple[str, str]]:
        """Return name and hash of the content recorded."""
        with self.database.read() as session:
            return [(n, s) for n, s in session.execute(select(FileRow.name, FileRow.sha256).order_by(FileRow.id))]

    def jobs(self) -> int:
        """Return how many jobs were planned."""
        with self.database.read() as session:
            return int(session.scalar(select(func.count()).select_from(JobRow)) or 0)

    def wait(self, n_jobs: int, timeout_s: float = 10.0) -> float:
        """Wait for jobs; return the seconds it took."""
        start = time.monotonic()
        while self.jobs() < n_jobs:
            assert time.monotonic() - start < timeout_s, (self.reports, self.said)
            time.sleep(0.02)
        return time.monotonic() - start


@pytest.fixture
def watching(database: Any, workspace: Any) -> Callable[..., Any]:
    """Return a context that watches the incoming folder in a thread."""

    @contextmanager
    def run(**options: Any) -> Iterator[Watched]:
        watched = Watched(database, workspace.roots["incoming"])
        stop = threading.Event()
        thread = threading.Thread(
            target=watch_folders,
            args=(database, workspace, [watched.folder], RECIPE, watched.reports.append, watched.said.append),
            kwargs={"stop": stop.is_set, **options},
        )
        thread.start()
        time.sleep(0.3)
        try:
            yield watched
        finally:
            stop.set()
            thread.join(15)
        assert not thread.is_alive()

    return run


def test_a_file_that_grows_while_watched_is_one_job_of_its_final_content(watching: Any) -> None:
    with watching() as watched:
        path = watched.folder / "slow.fits"
        writer = trickle(path, 30)
        while writer.poll() is None:
            assert watched.jobs() == 0
            time.sleep(0.2)
        latency_s = watched.wait(1)
        time.sleep(1.0)
        assert watched.files() == [("slow.fits", sha256_file(path))]
        assert watched.jobs() == 1
        assert latency_s < 5.0  # 0.3 s where nothing else runs


def test_a_renamed_file_a_new_folder_and_files_that_vanish(watching: Any) -> None:
    with watching() as watched:
        part = _write(watched.folder / "a.fits.part", b"whole")
        time.sleep(0.5)
        assert watched.jobs() == 0
        part.rename(watched.folder / "a.fits")
        assert watched.wait(1) < 5.0
        night = watched.folder / "night2" / "r"
        night.mkdir(parents=True)
        _write(night / "b.fits", b"in a new folder")
        assert watched.wait(2) < 5.0
        time.sleep(0.5)
        _write(night / "c.fits", b"in a folder that is no longer new")
        assert watched.wait(3) < 5.0
        for i in range(20):
            _write(watched.folder / f"gone{i}.fits", b"%d" % i).unlink()
        for path in (night / "b.fits", night / "c.fits"):
            path.unlink()
        night.rmdir()
        (watched.folder / "a.fits").rename(watched.folder / "copy.fits")
        time.sleep(1.2)
        assert watched.jobs() == 3
        assert watched.said == []
        assert watched.reports[-1].known_as == {watched.folder / "copy.fits": "a.fits"}


def test_a_burst_is_few_plans_and_every_file_is_taken_once(watching: Any) -> None:
    with watching() as watched:
        for i in range(60):
            _write(watched.folder / f"b{i}.fits", b"burst %d" % i)
        watched.wait(15)  # four files a job
        time.sleep(0.5)
        assert sorted(n for n, _ in watched.files()) == sorted(f"b{i}.fits" for i in range(60))
        assert sum(len(r.new) for r in watched.reports) == 60
        assert len(watched.reports) <= 8


def test_scanning_alone_finds_the_same(watching: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.2)
    monkeypatch.setattr(watch, "IDLE_S", 0.1)
    with watching(events=False) as watched:
        writer = trickle(watched.folder / "slow.fits", 8)
        (watched.folder / "sub").mkdir()
        _write(watched.folder / "sub" / "b.fits", b"b")
        watched.wait(1)
        assert [n for n, _ in watched.files()] == ["b.fits"]
        writer.wait(10)
        watched.wait(2)
        assert watched.files()[1] == ("slow.fits", sha256_file(watched.folder / "slow.fits"))


def test_where_the_system_does_not_tell_it_is_said_and_scanned(watching: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(watch.Observer):  # type: ignore[misc,valid-type]
        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watch, "Observer", Refusing)
    monkeypatch.setattr(watch, "EVERY_S", 0.2)
    monkeypatch.setattr(watch, "IDLE_S", 0.1)
    with watching() as watched:
        _write(watched.folder / "a.fits", b"a")
        watched.wait(1)
        assert "inotify watch limit reached" in watched.said[0]


def test_a_folder_that_is_none_is_refused_at_the_start(database: Any, workspace: Any, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="does not exist"):
        watch_folders(database, workspace, [tmp_path / "nowhere"], RECIPE, lambda report: None)


def test_network_folders_are_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not watch.is_remote(tmp_path)
    here = [type("Mount", (), {"mountpoint": str(tmp_path), "fstype": "nfs4"})()]
    monkeypatch.setattr(watch.psutil, "disk_partitions", lambda all: here)
    assert watch.is_remote(tmp_path / "in")


class TestPlainIngest:
    """Without `--watch` a file that grows is waited for, within bounds."""

    def test_its_final_content_is_taken(self, database: Any, workspace: Any) -> None:
        path = workspace.roots["incoming"] / "slow.fits"
        writer = trickle(path, 10)
        report = take_in(database, workspace, [path], RECIPE)
        assert writer.wait(10) == 0
        assert (len(report.new), report.busy, report.unreadable) == (1, [], [])
        with database.read() as session:
            assert session.scalars(select(FileRow.sha256)).all() == [sha256_file(path)]

    def test_patience_ends_and_the_others_are_taken(self, database: Any, workspace: Any) -> None:
        folder = workspace.roots["incoming"]
        _write(folder / "whole.fits", b"whole")
        writer = trickle(folder / "slow.fits", 25)
        report = take_files(database, workspace, find_files([folder]), RECIPE, patience_s=0.3)
        assert writer.poll() is None
        assert [p.name for p in report.new] == ["whole.fits"]
        assert [(p.name, why) for p, why in report.unreadable] == [
            ("slow.fits", "is still being written; ingest it again when it is whole")
        ]
        writer.wait(10)
        again = take_in(database, workspace, [folder], RECIPE)
        assert [p.name for p in again.new] == ["slow.fits"]

    def test_odd_names_and_odd_files(self, database: Any, workspace: Any) -> None:
        folder = workspace.roots["incoming"]
        names = [
            b"new\nline.fits",
            b"quo'te\".fits",
            "\u03b1\u2728.fits".encode(),
            b"-rf.fits",
            b"a" * 250,
            b"\xff.fits",
        ]
        for i, name in enumerate(names):
            _write(folder / os.fsdecode(name), b"%d" % i)
        os.mkfifo(folder / "pipe.fits")
        report = take_in(database, workspace, [folder, folder / "pipe.fits"], RECIPE)
        assert len(report.new) == 5
        said = {p.name: why for p, why in report.unreadable}
        assert "not UTF-8" in said[os.fsdecode(b"\xff.fits")]
        assert "no regular file" in said["pipe.fits"]
        with pytest.raises(TransientError, match="does not exist") as caught:
            find_files([folder / ("../" * 1400 + "x\ny.fits")])
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)

    def test_known_content_says_its_name(self, database: Any, workspace: Any) -> None:
        folder = workspace.roots["incoming"]
        _write(folder / "a.fits", b"one")
        _write(folder / "b.fits", b"one")
        report = take_in(database, workspace, [folder], RECIPE)
        assert report.known_as == {folder / "b.fits": "a.fits"}
        _write(folder / "c.fits", b"one")
        again = take_in(database, workspace, [folder], RECIPE)
        assert again.known_as == {folder / "b.fits": "a.fits", folder / "c.fits": "a.fits"}

"""A tiny simulated survey through real processes on a real embedded PostgreSQL: one template, one copy a test."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spica.cli.main import main as spica_main
from spica.db.engine import Database, open_database
from spica.files.checksum import sha256_file
from spica.files.workspace import Workspace, read_workspace
from spica.steps.simulate import SurveyParameters, SurveyTruth, read_truth, simulate_survey

PARAMETERS = SurveyParameters(
    n_objects=1,
    filters=("g", "r"),
    n_exposures=3,
    n_x=2,
    n_y=1,
    detector_pix=(320, 320),
    stars_per_arcmin2=28.0,
    galaxies_per_arcmin2=4.0,
    seeing_arcsec=(0.7, 0.9),
    pointing_error_arcsec=8.0,
    n_cloudy=0,
    n_defocused=0,
    n_trailed=0,
    n_truncated=1,
    n_missing_keyword=1,
    seed=7,
)
SPICA = [sys.executable, "-m", "spica.cli.main"]


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return standard output, all of it, as one JSON value."""
        return json.loads(self.out)


@dataclass
class Walk:
    """One workspace; daemons on it and their steps are processes, commands run in this process."""

    folder: Path
    truth: SurveyTruth
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _database: Database | None = None

    @property
    def workspace(self) -> Workspace:
        """Return the workspace as its own node sees it now."""
        return read_workspace(self.folder)

    @property
    def database(self) -> Database:
        """Return the database; opening it keeps the embedded server alive between the commands of a test."""
        if self._database is None:
            self._database = open_database(self.workspace)
        return self._database

    def spica(self, *words: str | Path, code: int | None = 0) -> Said:
        """Run one command to its end as the door does; by default it must exit 0."""
        with contextlib.chdir(self.folder):
            said = _run_command("--workspace", self.folder, *words)
        assert "Traceback" not in said.err, said.err
        if code is not None:
            assert said.code == code, f"spica {' '.join(map(str, words))}: {said}\n{self.errors()}"
        return said

    def errors(self) -> str:
        """Return what failed jobs of the workspace said, for messages of asserts."""
        from sqlalchemy import select

        from spica.db.tables.job import JobRow

        with self.database.read() as session:
            rows = session.execute(select(JobRow.id, JobRow.kind, JobRow.error_text).where(JobRow.error_text != ""))
            return "\n".join(f"job {i} {kind}: {error}" for i, kind, error in rows)

    def start(self, *options: str, kill_at: str | None = None) -> subprocess.Popen[bytes]:
        """Start a daemon as a process of its own."""
        env = _environment() | ({"SPICA_KILL_AT": kill_at} if kill_at else {})
        with (self.folder / "daemon.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "spica_daemon", "--workspace", str(self.folder), *options],
                env=env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.processes.append(process)
        return process

    def drain(self, *options: str, kill_at: str | None = None, timeout_s: float = 120.0) -> int:
        """Run a draining daemon to its end and return its exit code."""
        return self.start("--drain", *options, kill_at=kill_at).wait(timeout_s)

    def rows(self, query: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        with self.database.read() as session:
            return [tuple(row) for row in session.execute(query)]

    def incoming(self) -> dict[str, tuple[str, int]]:
        """Return hash and time of change of every incoming file."""
        return fingerprints(self.folder / "incoming")

    def log(self) -> str:
        """Return what the daemons said."""
        path = self.folder / "daemon.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End daemons and steps that this test started, and let the server go."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for note in (self.folder / "jobs").glob("*/*/*/attempt-*/process"):
            with contextlib.suppress(ProcessLookupError, ValueError, OSError):
                os.killpg(int(note.read_text()), signal.SIGKILL)
        if self._database is not None:
            self._database.close()
            self._database = None


def _run_command(*words: str | Path) -> Said:
    """Run the command line from its door to its exit, in this process: importing it anew costs a second each time."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("NO_COLOR", "1")
        with pytest.raises(SystemExit) as ended:
            spica_main([str(word) for word in words])
    return Said(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def _environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SPICA_KILL")}
    return env | {"NO_COLOR": "1"}


def fingerprints(folder: Path) -> dict[str, tuple[str, int]]:
    """Return hash and time of change of every file of a folder."""
    return {p.name: (sha256_file(p), p.stat().st_mtime_ns) for p in sorted(folder.iterdir()) if p.is_file()}


def _wait_for_stop(folder: Path) -> None:
    """Wait until the server of a workspace has ended: only then its files may be copied."""
    until = time.monotonic() + 30.0
    while list(folder.glob("db/**/postmaster.pid")):
        assert time.monotonic() < until, f"the server of {folder} does not end"
        time.sleep(0.05)


@dataclass(frozen=True)
class Template:
    """A workspace whose exposures are assessed, at rest; what its ingest said; its incoming files before that."""

    folder: Path
    truth_folder: Path
    ingest: Said
    before: dict[str, tuple[str, int]]


@pytest.fixture(scope="session")
def short_place() -> Iterator[Path]:
    """Return a folder with a short path below which workspaces are made."""
    folder = Path(tempfile.mkdtemp(prefix="spw-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def make_walk() -> Callable[[Path, SurveyTruth], Walk]:
    """Return a maker of walks on new, empty workspaces; whoever makes one closes it."""

    def make(folder: Path, truth: SurveyTruth) -> Walk:
        assert _run_command("init", folder).code == 0
        return Walk(folder, truth)

    return make


@pytest.fixture(scope="session")
def template() -> Iterator[Template]:
    """Return a workspace made by `init`, `reference add` and `ingest --wait`, at rest; all workers share one."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    place = Path(tempfile.gettempdir()) / f"spt-{run[:12]}"
    with _in_use(place):
        told = json.loads((place / "told.json").read_text())
        before = {name: (sha256, changed_ns) for name, (sha256, changed_ns) in told["before"].items()}
        yield Template(place / "template", place / "truth", Said(**told["ingest"]), before)


@contextlib.contextmanager
def _in_use(place: Path) -> Iterator[None]:
    """Make a template where nobody has, share its lock while it is used, and take it away where nobody else does."""
    while True:
        lock = os.open(place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _make_alone(lock, place)
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for who makes it
            if os.fstat(lock).st_nlink and (place / "told.json").exists():
                yield
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place, ignore_errors=True)
                    place.with_suffix(".lock").unlink()
                return
        finally:
            os.close(lock)


def _make_alone(lock: int, place: Path) -> None:
    """Make the template, unless it is there or another process is at it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if os.fstat(lock).st_nlink and not (place / "told.json").exists():
        shutil.rmtree(place, ignore_errors=True)
        _make_template(place)


def _make_template(place: Path) -> None:
    place.mkdir(mode=0o711)
    truth = simulate_survey(place / "sky", PARAMETERS, truth_folder=place / "truth")
    walk = Walk(place / "template", truth)
    words = [*SPICA, "init", str(walk.folder)]  # the one command of these walks that is a process of its own
    subprocess.run(words, check=True, capture_output=True, env=_environment(), timeout=60)
    for path in sorted((place / "sky").glob("*.fits")):
        shutil.move(path, walk.folder / "incoming" / path.name)
    (walk.folder / "incoming" / "notes.txt").write_text("clouds after midnight\n")
    before = fingerprints(walk.folder / "incoming")
    walk.spica("reference", "add", truth.reference_path, "--name", "sky")
    said = walk.spica("ingest", "--wait", "--json")
    walk.close()
    _wait_for_stop(walk.folder)
    (place / "told.json").write_text(json.dumps({"ingest": asdict(said), "before": before}))


@pytest.fixture(scope="session")
def copy_template(template: Template, short_place: Path) -> Callable[[], Walk]:
    """Return a maker of copies of the template; whoever makes one ends it with `end`."""

    def make() -> Walk:
        folder = Path(tempfile.mkdtemp(prefix="w", dir=short_place))
        shutil.rmtree(folder)
        subprocess.run(["cp", "-a", str(template.folder), str(folder)], check=True)
        for note in (folder / "nodes").glob("*.json"):
            note.unlink()
        return Walk(folder, read_truth(template.truth_folder))

    return make


@pytest.fixture
def walk(copy_template: Callable[[], Walk]) -> Iterator[Walk]:
    """Return one copy of the template, for one test."""
    walk = copy_template()
    yield walk
    walk.close()
    shutil.rmtree(walk.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def shared_walk(copy_template: Callable[[], Walk]) -> Iterator[Walk]:
    """Return one copy of the template, for the tests of one module."""
    walk = copy_template()
    yield walk
    walk.close()
    shutil.rmtree(walk.folder, ignore_errors=True)

"""Fixtures for every floor: the real test data, and the rule that a missing tool is a failure where all is required."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import psycopg
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.context import HarvestContext
from spica.db.embedded import EmbeddedServer, start_server
from spica.db.engine import Database
from spica.db.file import know_file, know_location
from spica.db.grade import record_grade
from spica.db.image import record_exposure
from spica.db.node import know_node
from spica.db.product import record_product
from spica.db.quality import record_quality
from spica.db.schema import migrate
from spica.files.workspace import Workspace, init_workspace, kernel_cache, read_workspace
from spica.model.grade import Grade, GradeRecord
from spica.model.image import DetectorRecord, ExposureRecord, FileKind, ImageState
from spica.model.job import FileRef, ProductRef, Request
from spica.model.product import Role
from spica.model.quality import DetectorMeasures, QualityRecord

ROOT = Path(__file__).resolve().parent.parent

numba.config.CACHE_DIR = str(kernel_cache(ROOT / ".kernels"))  # what `spica warm` compiled serves the tests too


def _data_folder() -> Path:
    """Folder of real exposures: `SPICA_TEST_DATA`, else `shared/data` beside the checkout."""
    named = os.environ.get("SPICA_TEST_DATA")
    return Path(named) if named else ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real exposures; skipped where it is absent, a failure where all is required."""
    folder = _data_folder()
    if not folder.is_dir():
        _missing(f"no test data at {folder}; set SPICA_TEST_DATA")
    return folder


def _missing(reason: str) -> None:
    if os.environ.get("SPICA_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):  # type: ignore[no-untyped-def]
    """Turn a skip into a failure where `SPICA_REQUIRE_ALL=1`: a complete run leaves nothing out."""
    outcome = yield
    report = outcome.get_result()
    if os.environ.get("SPICA_REQUIRE_ALL") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where everything is required: {report.longrepr}"


# Real PostgreSQL: one server a test process, one migrated template, one fresh copy a test ----------------------------


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """Return a folder with a short path that any user of this host may enter: what the server of a root needs."""
    folder = Path(tempfile.mkdtemp(prefix="spica-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def database_server(short_folder: Path) -> Iterator[EmbeddedServer]:
    """Return a running server of this test process, without fsync."""
    server = start_server(short_folder / "db", short_folder / "run" / "s", fsync=False, grace_s=0.1)
    yield server
    server.stop()


def _sql(server: EmbeddedServer, statement: str) -> None:
    with psycopg.connect(server.url_of("postgres").replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def database_template(database_server: EmbeddedServer) -> str:
    """Return the name of a migrated database without rows."""
    _sql(database_server, "CREATE DATABASE spica_template TEMPLATE template0")
    with Database(database_server.url_of("spica_template")) as database:
        migrate(database)
    return "spica_template"


@pytest.fixture
def make_database(database_server: EmbeddedServer, database_template: str) -> Iterator[Callable[..., Database]]:
    """Return a maker of migrated databases, empty or copies of a template; they are dropped after the test."""
    with contextlib.ExitStack() as stack:

        def make(template: str = database_template) -> Database:
            name = f"test_{uuid.uuid4().hex[:12]}"
            _sql(database_server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
            stack.callback(_sql, database_server, f"DROP DATABASE {name} WITH (FORCE)")
            return stack.enter_context(Database(database_server.url_of(name)))

        yield make


@pytest.fixture
def database(make_database: Callable[..., Database]) -> Database:
    """Return a migrated database without rows, of this test alone."""
    return make_database()


@pytest.fixture(scope="session")
def make_template(database_server: EmbeddedServer, database_template: str) -> Callable[[str], str]:
    """Return a maker of templates: empty databases that are filled once and copied often; it gives their URL."""

    def make(name: str) -> str:
        _sql(database_server, f"CREATE DATABASE {name} TEMPLATE {database_template} STRATEGY FILE_COPY")
        return database_server.url_of(name)

    return make


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """Return a session in a transaction of `database`, committed when the test ends well."""
    with database.begin() as session:
        yield session


@pytest.fixture
def workspace(database: Database, tmp_path: Path) -> Workspace:
    """Return a new workspace on `database`: its `spica.toml` names the URL, so that processes of a test use it too."""
    made = init_workspace(tmp_path / "survey")
    config = made.folder / "spica.toml"
    config.write_text(f'database = "{database.url}"\nnode = "n1"\n' + config.read_text())
    return read_workspace(made.folder)


# A small world of rows: what the harvest of assessments leaves, without pixels ----------------------------------------


@dataclass
class World:
    """A database with a plan, a job and an attempt to which records may be attached; no pixels behind it."""

    database: Database
    workspace: Workspace
    count: int = 0

    def attempt(self, session: Session, kind: str = "assess", plan_id: int | None = None) -> HarvestContext:
        """Make a job with a running attempt; return the context of its harvest."""
        request = Request(kind, "native", {}, "0" * 64)
        (job_id,) = jobs.reserve_job_ids(session, 1)
        jobs.create_jobs(session, plan_id, [jobs.NewJob(job_id, kind, "native", request, "#!/bin/sh\n", kind)])
        node_id = know_node(session, self.workspace.node)
        claimed = jobs.claim(session, node_id, 60.0)
        assert claimed is not None
        assert claimed.job_id == job_id, "claim what was made before first"
        return HarvestContext(claimed.attempt_id, job_id, plan_id, node_id)

    def file(self, session: Session, kind: FileKind = FileKind.EXPOSURE, name: str | None = None) -> FileRef:
        """Make a file row of content of its own, lying in the data root."""
        self.count += 1
        name = name or f"file{self.count}.fits"
        sha256 = hashlib.sha256(f"content {self.count}".encode()).hexdigest()
        file_id = know_file(session, sha256, 2880, kind, name)
        know_location(session, file_id, know_node(session, self.workspace.node), "data", f"some/{sha256[:8]}-{name}")
        return FileRef(file_id, sha256, name, 2880)

    def exposure(
        self,
        session: Session,
        context: HarvestContext,
        name: str,
        *,
        at: tuple[float, float] = (150.0, 2.0),
        **more: Any,
    ) -> int:
        """Register, measure and grade one exposure of one detector of 0.1 degree; return its image id."""
        measures = {"seeing_arcsec": 0.8, "ellipticity": 0.05, "background_adu": 300.0, "n_stars": 90}
        measures = {k: more.pop(k, v) for k, v in measures.items()}
        grade, bare = more.pop("grade", Grade.A), more.pop("bare", False)
        ref = self.file(session, name=f"{name}.fits")
        item = f"file:{ref.id}"
        ra, dec = at
        corners = tuple((ra + x, dec + y) for x, y in ((-0.05, -0.05), (0.05, -0.05), (0.05, 0.05), (-0.05, 0.05)))
        facts = {"object": "D2", "filter": "r", "instrument": "spicasim", "run": "26BS01", "night": "2026-09-06"}
        facts |= {"exptime_s": 90.0, "mjd": 61290.3, "airmass": 1.2, "ra_deg": ra, "dec_deg": dec}
        record = ExposureRecord(
            item, name, ImageState.REGISTERED,
            detectors=(DetectorRecord(0, 1, "CCD00", 1200, 1200, 1.5, 4.0, 60000.0, 0.3, corners),),
            **(facts | more),
        )  # fmt: skip
        record_exposure(session, record, context)
        image_id = context.need_image(item)
        whole = DetectorMeasures(None, noise_adu=9.0, limiting_flux_adu=100.0, **measures)
        record_quality(session, QualityRecord(item, whole, (dataclasses.replace(whole, detector=0),)), context)
        record_grade(session, GradeRecord(item, grade), context)
        for role in () if bare else (Role.FACTS, Role.CATALOGUE, Role.WEIGHT):
            made = self.file(session, FileKind.PRODUCT, f"{name}.{role.value}")
            product = ProductRef(role.value, made.name, made.sha256, made.size, made.name, item=item)
            record_product(session, product, made.id, context)
        return image_id


@pytest.fixture
def world(database: Database, workspace: Workspace) -> World:
    """Return an empty world."""
    return World(database, workspace)


Counted = Callable[[], contextlib.AbstractContextManager[list[str]]]


@pytest.fixture
def counted() -> Counted:
    """Return what collects the statements sent within a block by any engine, those of background threads left out."""

    @contextlib.contextmanager
    def collect() -> Iterator[list[str]]:
        seen: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if not threading.current_thread().name.startswith("spica-"):
                seen.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(Engine, "before_cursor_execute", note)

    return collect


FIRST = (
    "walk",
    "test_wheel.py",
    "daemon",
    "benchmarks",
    "test_astromatic.py",
    "test_queue_browser.py",
    "test_browser.py",
    "web",
)
"""What lasts longest begins first, so that the last process to end does not work alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; each stays in one process (`--dist loadfile`), which builds its fixtures once."""

    def place(item: pytest.Item) -> int:
        names = (item.path.parent.name, item.path.name)
        return next((i for i, first in enumerate(FIRST) if first in names), len(FIRST))

    items.sort(key=place)

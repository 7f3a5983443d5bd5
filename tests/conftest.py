"""Fixtures every floor may use: the real test data, and the rule that a missing tool is a failure where all is required."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.orm import Session

from spica.db.embedded import EmbeddedServer, start_server
from spica.db.engine import Database
from spica.db.schema import migrate
from spica.files.workspace import Workspace, init_workspace, read_workspace

ROOT = Path(__file__).resolve().parent.parent


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
def make_database(database_server: EmbeddedServer, database_template: str) -> Iterator[Callable[[], Database]]:
    """Return a maker of migrated, empty databases; they are dropped after the test."""
    with contextlib.ExitStack() as stack:

        def make() -> Database:
            name = f"test_{uuid.uuid4().hex[:12]}"
            _sql(database_server, f"CREATE DATABASE {name} TEMPLATE {database_template} STRATEGY FILE_COPY")
            stack.callback(_sql, database_server, f"DROP DATABASE {name} WITH (FORCE)")
            return stack.enter_context(Database(database_server.url_of(name)))

        yield make


@pytest.fixture
def database(make_database: Callable[[], Database]) -> Database:
    """Return a migrated database without rows, of this test alone."""
    return make_database()


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

"""Transactions, reading, listening, a server elsewhere, and errors a person can act on."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from spica.db.embedded import start_server
from spica.db.engine import Database, SchemaError, explain, notify, open_database
from spica.db.placement import Owner, run_as, system_user, wheel_binaries
from spica.db.schema import migrate
from spica.files.workspace import init_workspace, read_workspace
from spica.model.errors import DataError, RecipeError, TransientError

from .conftest import wait_until


def count(database: Database) -> int:
    """Count the settings."""
    with database.read() as session:
        return int(session.execute(text("SELECT count(*) FROM setting")).scalar_one())


def leave_with_an_error(database: Database, statement: str) -> None:
    """Run a statement in a transaction that then fails."""
    with database.begin() as session:
        session.execute(text(statement))
        raise KeyError(statement)


def test_begin_commits_all_or_nothing(database: Database) -> None:
    """A block that ends well is committed, one that raises leaves nothing, and its error comes through as it is."""
    with database.begin() as session:
        session.execute(text("INSERT INTO setting (name, value) VALUES ('a', '1')"))
    with pytest.raises(KeyError):
        leave_with_an_error(database, "INSERT INTO setting (name, value) VALUES ('b', '1')")
    assert count(database) == 1
    with pytest.raises(IntegrityError), database.begin() as session:
        session.execute(text("INSERT INTO setting (name, value) VALUES ('c', '1'), ('a', '2')"))
    assert count(database) == 1


def test_read_cannot_write_and_sees_one_moment(database: Database) -> None:
    """A read-only session refuses to write, sees no later commit, and leaves the pool's connection as it was."""
    with pytest.raises(DBAPIError, match="read-only"), database.read() as session:
        session.execute(text("INSERT INTO setting (name, value) VALUES ('a', '1')"))
    with database.read() as reading:
        before = reading.execute(text("SELECT count(*) FROM setting")).scalar_one()
        with database.begin() as session:
            session.execute(text("INSERT INTO setting (name, value) VALUES ('a', '1')"))
        assert reading.execute(text("SELECT count(*) FROM setting")).scalar_one() == before == 0
    for number in range(8):
        with database.begin() as session:
            session.execute(text("INSERT INTO setting (name, value) VALUES (:n, '1')"), {"n": str(number)})
    assert count(database) == 9


def test_read_ends_a_long_question(database: Database) -> None:
    """The time limit holds for this reading only."""
    with pytest.raises(TransientError, match="took too long"), database.read(timeout_s=0.05) as session:
        session.execute(text("SELECT pg_sleep(5)"))
    with database.read() as session:
        assert session.execute(text("SELECT pg_sleep(0.1), current_setting('statement_timeout')")).one()[1] == "0"


def test_sessions_speak_utc(database: Database) -> None:
    """Every session's zone is UTC, whatever the process's is."""
    with database.begin() as session:
        zone, at = session.execute(text("SELECT current_setting('TimeZone'), now()")).one()
    assert zone == "UTC"
    assert at.utcoffset().total_seconds() == 0


def test_listen_hears_what_is_committed(database: Database) -> None:
    """A notification comes with the commit, not before, and none of a transaction that was rolled back."""
    with database.listen() as listener, database.listen(["other"]) as deaf:
        with database.begin() as session:
            notify(session, "job:17")
            assert listener.wait(0.1) == []
        assert listener.wait(5.0) == ["job:17"]
        with pytest.raises(KeyError):
            leave_with_an_error(database, "SELECT pg_notify('spica', 'job:18')")
        with database.begin() as session:
            notify(session, "image:3")
        assert next(iter(listener)) == "image:3"
        assert deaf.wait(0.05) == []
        start = time.monotonic()
        assert listener.wait(0.2) == []
        assert time.monotonic() - start >= 0.19


def test_a_listener_is_woken_by_another_thread(database: Database) -> None:
    with database.listen() as listener:
        start = time.monotonic()
        threading.Timer(0.1, listener.wake).start()
        assert listener.wait(60.0) == []
        assert 0.09 <= time.monotonic() - start < 30.0
        with database.begin() as session:
            notify(session, "image:3")
        heard: list[str] = []
        while not heard and time.monotonic() - start < 60.0:
            heard = listener.wait(0.1)  # no wait any more: what comes is heard all the same
        assert heard == ["image:3"]
    listener.wake()


def test_listener_of_a_lost_server(database: Database) -> None:
    """Where the connection is cut the listener says so."""
    with database.listen() as listener:
        with database.begin() as session:
            session.execute(text("SELECT pg_terminate_backend(:p)"), {"p": listener._connection.info.backend_pid})
        with pytest.raises(TransientError, match="try again"):
            next(iter(listener))


def test_cut_connections_are_replaced(database: Database) -> None:
    """A connection that died in the pool is not handed out."""
    count(database)
    with psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert count(database) == 0


def test_threads_share_a_database(database: Database) -> None:
    """Twelve threads at once, more than the pool's resting size, all write."""

    def write(number: int) -> None:
        with database.begin() as session:
            session.execute(text("INSERT INTO setting (name, value) VALUES (:n, 'x')"), {"n": str(number)})
            time.sleep(0.05)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database) == 12


def test_embedded_server_killed_under_an_open_database(short_folder: Path) -> None:
    """A long-lived process, as a daemon, goes on after kill -9 of the server; what it committed is there."""
    server = start_server(short_folder / "k" / "db", short_folder / "krun" / "s", grace_s=0.0)
    with Database(server.url, server) as database:
        with database.begin() as session:
            session.execute(text("CREATE TABLE t AS SELECT 42 AS n"))
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: server.pid is None)
        with database.begin() as session:
            assert session.execute(text("SELECT n FROM t")).scalar_one() == 42
        server.stop()


def test_open_database_embedded(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace without a URL: PostgreSQL of its own, migrated by hand, opened again by a second hold."""
    monkeypatch.setenv("SPICA_RUNTIME", str(short_folder))
    workspace = init_workspace(short_folder / "w")
    assert workspace.fsync
    with (
        pytest.raises(TransientError) if False else pytest.raises(Exception, match="no tables yet; run: spica migrate")
    ):
        open_database(workspace)
    with open_database(workspace, check_schema=False) as database:
        migrate(database)
        with open_database(workspace) as again:
            assert count(again) == 0
            assert again.url == database.url


# A server elsewhere ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def far_server(short_folder: Path) -> Iterator[str]:
    """Return the URL of a second PostgreSQL, started by hand: TCP, password by SCRAM, not Spica's launcher."""
    binaries = next(iter(wheel_binaries().values()))
    owner = system_user() if os.geteuid() == 0 else Owner(os.getuid(), os.getgid(), "me")
    folder = short_folder / "far"
    folder.mkdir()
    os.chown(folder, owner.uid, owner.gid)
    password = secrets.token_hex(8)
    (folder / "pw").write_text(password)
    os.chown(folder / "pw", owner.uid, owner.gid)
    words = [
        "-D",
        str(folder / "d"),
        "-U",
        "astronomer",
        "--auth=scram-sha-256",
        f"--pwfile={folder / 'pw'}",
        "--no-sync",
    ]
    made = run_as(owner, [str(binaries / "initdb"), *words])
    assert made.returncode == 0, made.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"user": owner.uid, "group": owner.gid, "extra_groups": []} if owner.switch else {}
    settings = [
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"port={port}",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
    ]
    command = [str(binaries / "postgres"), "-D", str(folder / "d"), *settings, "-c", "timezone=Asia/Tokyo"]
    process = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    url = f"postgresql://astronomer:{password}@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            return False
        return True

    assert wait_until(answers)
    yield url
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_server_from_spica_toml(far_server: str, tmp_path: Path) -> None:
    """A URL in `spica.toml` is used, with its password; no embedded server is made; all of it works there."""
    with psycopg.connect(far_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE survey TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
    url = far_server.replace("/postgres", "/survey")
    folder = init_workspace(tmp_path / "w").folder
    config = folder / "spica.toml"
    config.write_text(f'database = "{url}"\n' + config.read_text())
    workspace = read_workspace(folder)
    with open_database(workspace, check_schema=False) as database:
        migrate(database)
        password = url.split(":")[2].split("@")[0]
        assert password in database.url
        assert password not in database.place
    with open_database(workspace) as database, database.listen() as listener:
        with database.begin() as session:
            assert session.execute(text("SHOW TimeZone")).scalar_one() == "UTC"
            notify(session, "node:1")
        assert listener.wait(5.0) == ["node:1"]
        assert count(database) == 0
    assert not (folder / "db" / "data").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url.replace("astronomer:", "astronomer:x"), "refuses this password; correct `database`"),
        (lambda url: url.replace("astronomer:", "nobody:"), "refuses this password; correct `database`"),
        (
            lambda url: url.replace("/postgres", "/nowhere", 1) if False else url.rsplit("/", 1)[0] + "/nowhere",
            "createdb",
        ),
        (lambda url: url.rsplit(":", 1)[0] + ":1/postgres", "is away .* try again later"),
        (lambda url: url.replace("127.0.0.1", "no-such-host.invalid"), "is away .* try again later"),
    ],
)
def test_away_and_refused(far_server: str, change: Callable[[str], str], words: str) -> None:
    """Each way not to get in has its line: what happened, where without the password, and what to do."""
    url = change(far_server)
    with Database(url) as database:
        for ask in (database.begin, database.read):
            with pytest.raises(TransientError, match=words) as caught, ask() as session:
                session.execute(text("SELECT 1"))
            assert "\n" not in str(caught.value)
            assert caught.value.door_code == 5
            assert url.split(":")[2].split("@")[0] not in str(caught.value)
        with pytest.raises(TransientError, match=words):
            database.listen()


def test_database_of_another_encoding(far_server: str) -> None:
    """A database in SQL_ASCII is refused with the command that makes a right one."""
    with Database(far_server) as database, pytest.raises(SchemaError, match=r"encoding SQL_ASCII; .* createdb"):
        migrate(database)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://u@h/d", "no url", ""])
def test_other_databases_are_refused(url: str) -> None:
    """PostgreSQL only; the message shows how to write it."""
    with pytest.raises(RecipeError, match=r"postgresql\+psycopg://user"):
        Database(url)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("53100", "no disk space"),
        ("53300", "no connection left"),
        ("57P01", "going down or starting"),
        ("40001", "try again"),
        ("42P01", "run: spica migrate"),
        ("42501", "grant the right"),
    ],
)
def test_states_of_the_server(database: Database, state: str, words: str) -> None:
    """Errors raised by a real server with these codes come out as lines with a cure."""
    raising = text(f"DO $$ BEGIN RAISE EXCEPTION 'told so' USING ERRCODE = '{state}'; END $$")
    with pytest.raises(Exception, match=words) as caught, database.begin() as session:
        session.execute(raising)
    assert getattr(caught.value, "door_code", None) == 5


def test_bugs_are_not_dressed_up(database: Database) -> None:
    """A wrong statement is a bug and comes out whole."""
    with pytest.raises(DBAPIError, match="syntax error") as caught, database.begin() as session:
        session.execute(text("SELEKT 1"))
    assert explain(caught.value, "x") is None


@pytest.mark.parametrize(
    ("value", "told"), [(10**30, "a number is beyond"), ("a\0b", "holds a NUL character")], ids=["number", "NUL"]
)
def test_a_value_that_cannot_be_kept_is_told(database: Database, value: object, told: str) -> None:
    kind = "BIGINT" if isinstance(value, int) else "TEXT"
    with pytest.raises(DataError, match=told), database.read() as session:
        session.execute(text(f"SELECT CAST(:value AS {kind})"), {"value": value})
    assert count(database) == 0

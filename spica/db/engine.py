"""The door to PostgreSQL: sessions, transactions, notifications, and errors a person can act on."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import sql
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from spica.db.embedded import EmbeddedServer, start_server
from spica.model.errors import ConflictError, DataError, RecipeError, SpicaError, TransientError

if TYPE_CHECKING:
    from spica.files.workspace import Workspace

CHANNEL = "spica"
CONNECT_LIMIT_S = 10
READING = ("default_transaction_read_only=on", "default_transaction_isolation=repeatable\\ read")
"""Settings of connections that read; a blank in a value is escaped as the server's command line wants it."""
POOL_SIZE = 5
POOL_OVERFLOW = 10
POOL_WAIT_S = 30


class SchemaError(ConflictError):
    """The database's schema does not fit this version of Spica; run: spica migrate."""

    door_code = 5


class Database:
    """One survey's database: an engine with a modest pool; threads may share it."""

    def __init__(self, url: str | URL, server: EmbeddedServer | None = None) -> None:
        """Prepare connections to a URL; nothing is opened yet. `server` is the hold on the embedded server, if any."""
        self._url = _checked_url(url)
        self._server = server
        self._engine = _make_engine(self._url)
        self._readers: dict[float | None, Engine] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """SQLAlchemy URL with its password: give it to processes, never to people (see `place`)."""
        return self._url.render_as_string(hide_password=False)

    @property
    def place(self) -> str:
        """Where the database is, without a password: for people."""
        return self._url.render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy engine; for migrations and tests."""
        return self._engine

    @contextlib.contextmanager
    def begin(self) -> Iterator[Session]:
        """Give a session in one transaction: committed when the block ends, rolled back when it raises."""
        with self._translated():
            self._reach()
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session

    @contextlib.contextmanager
    def read(self, timeout_s: float | None = None) -> Iterator[Session]:
        """Give a session that can only read, of one moment; statements end after `timeout_s` where it is given.

        Raises TransientError where a statement took longer.
        """
        with self._translated():
            self._reach()
            with self._reader(timeout_s).connect() as connection:
                with Session(connection, expire_on_commit=False) as session:
                    yield session
                connection.rollback()

    def _reader(self, timeout_s: float | None) -> Engine:
        """Return the connections that read with this limit: told once, they need not be told at each use."""
        with self._lock:
            if timeout_s not in self._readers:
                words = READING if timeout_s is None else (*READING, f"statement_timeout={round(timeout_s * 1000)}")
                self._readers[timeout_s] = _make_engine(self._url, words)
            return self._readers[timeout_s]

    def listen(self, channels: Sequence[str] = (CHANNEL,)) -> Listener:
        """Return an open listener; notifications sent from now on are heard."""
        with self._translated():
            self._reach()
            return Listener(self._url, channels)

    def close(self) -> None:
        """Close all connections, and give up the embedded server."""
        for engine in (self._engine, *self._readers.values()):
            engine.dispose()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Database:
        """Return itself; closed at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()

    def _reach(self) -> None:
        """Revive an embedded server that was killed."""
        if self._server is not None and self._server.pid is None:
            self._server.revive()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, psycopg.Error, PoolTimeoutError) as trouble:
            told = explain(trouble, self.place)
            if told is None:
                raise
            raise told from trouble


def _make_engine(url: URL, words: Sequence[str] = ()) -> Engine:
    """Return an engine whose connections have these settings of the server, beside those that all have."""
    settings = " ".join(f"-c {word}" for word in ("timezone=UTC", "client_min_messages=warning", *words))
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_WAIT_S,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_LIMIT_S,
            "options": settings,
            "client_encoding": "utf8",
            "application_name": "spica",
        },
    )


class Listener:
    """Notifications of the database, on a connection of its own; iterate it, or `wait` for what has come."""

    def __init__(self, url: URL, channels: Sequence[str]) -> None:
        """Connect and listen; use `Database.listen`."""
        self._place = url.render_as_string(hide_password=True)
        self._connection = psycopg.connect(conninfo_of(url), autocommit=True, connect_timeout=CONNECT_LIMIT_S)
        for channel in channels:
            self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self._woken, self._waker = socket.socketpair()
        self._poll = select.poll()
        for readable in (self._connection, self._woken):
            self._poll.register(readable, select.POLLIN)

    def wait(self, timeout_s: float) -> list[str]:
        """Return the payloads that come within the time, as soon as there is one; empty when it is over, or woken.

        Raises TransientError where the database goes away.
        """
        try:
            return self._come() or (self._come() if self._poll.poll(1000.0 * timeout_s) else [])
        except psycopg.Error as trouble:
            told = explain(trouble, self._place)
            raise (told or TransientError(f"the database at {self._place} went away; try again later")) from trouble

    def _come(self) -> list[str]:
        return [n.payload for n in self._connection.notifies(timeout=0)]

    def wake(self) -> None:
        """End the wait of another thread, and every later one."""
        with contextlib.suppress(OSError):  # closed already
            self._waker.send(b".")

    def __iter__(self) -> Iterator[str]:
        """Yield payloads as they come, without end."""
        while not self._connection.closed:
            yield from self.wait(1.0)

    def fileno(self) -> int:
        """Return the socket, for select or an event loop."""
        return self._connection.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._connection.close()
        self._woken.close()
        self._waker.close()

    def __enter__(self) -> Listener:
        """Return itself; closed at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()


def open_database(workspace: Workspace, *, check_schema: bool = True) -> Database:
    """Open the database of a workspace; the embedded server is started or joined where no other is configured.

    Raises
    ------
    TransientError
        Where the database is away.
    SchemaError
        Where `check_schema` is set and the schema is missing, older or newer.
    """
    if workspace.database_url is not None:
        database = Database(workspace.database_url)
    else:
        server = start_server(workspace.folder / "db", workspace.runtime_folder, fsync=workspace.fsync)
        database = Database(server.url, server)
    try:
        if check_schema:
            from spica.db.schema import check_revision  # noqa: PLC0415  schema imports this module

            check_revision(database)
    except BaseException:
        database.close()
        raise
    return database


def notify(session: Session, payload: str, channel: str = CHANNEL) -> None:
    """Tell listeners, when the transaction commits, that something changed: `job:17`, `image:3`, `node:1`."""
    session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


def copy_rows(session: Session, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write many new rows by COPY within the session's transaction, which is several times faster than INSERT.

    What the session still holds back is written first. Values go as PostgreSQL reads them: enums by their value.
    """
    session.flush()
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def conninfo_of(url: URL) -> str:
    """Return the connection text of libpq for a SQLAlchemy URL."""
    plain: dict[str, str | int | None] = {
        "host": url.host, "port": url.port, "user": url.username, "password": url.password, "dbname": url.database,
    }  # fmt: skip
    words: dict[str, str | int | None] = {k: v for k, v in plain.items() if v is not None}
    for name, value in url.query.items():
        words[name] = value if isinstance(value, str) else ",".join(value)
    words.setdefault("options", "-c timezone=UTC")
    words.setdefault("client_encoding", "utf8")
    return psycopg.conninfo.make_conninfo("", **words)


def _checked_url(url: str | URL) -> URL:
    try:
        made = make_url(url)
    except (ValueError, ArgumentError) as trouble:
        raise RecipeError("database is no URL; write postgresql+psycopg://user:password@host/name") from trouble
    if made.drivername == "postgresql":
        made = made.set(drivername="postgresql+psycopg")
    if made.drivername != "postgresql+psycopg":
        raise RecipeError(
            f"database is a {made.drivername} URL; Spica needs postgresql+psycopg://user:password@host/name"
        )
    return made


def explain(trouble: BaseException, place: str) -> SpicaError | None:
    """Return what an error of the database means to a person; None where it is a bug and must be seen as it is."""
    if isinstance(trouble, PoolTimeoutError):
        return TransientError(
            f"all {POOL_SIZE + POOL_OVERFLOW} connections of this process to the database are busy; try again later"
        )
    origin = trouble.orig if isinstance(trouble, DBAPIError) else trouble
    code = getattr(origin, "sqlstate", None) or ""
    words = " ".join(str(origin).split())
    connecting = not code or code in ("28P01", "28000", "3D000")
    for sign, told in _CONNECT.items():
        if connecting and re.search(sign, words):
            return TransientError(told.format(place=place))
    for sign, told in _VALUES.items():
        if code == sign or (not code and sign in words):
            return DataError(told)
    for start, told in _STATES.items():
        if code.startswith(start):
            kind = SchemaError if start == "42P01" else TransientError
            return kind(told.format(place=place))
    lost = isinstance(trouble, DBAPIError) and trouble.connection_invalidated
    if lost or (not code and isinstance(trouble, OperationalError | InterfaceError | psycopg.OperationalError)):
        short = words.split("connection failed:")[-1].strip()[:200]
        return TransientError(f"the database at {place} is away ({short}); start it or try again later")
    return None


_CORRECT = "correct `database` in spica.toml"
_CONNECT = {
    "password authentication failed": f"the database at {{place}} refuses this password; {_CORRECT}",
    "no password supplied": "the database at {place} asks for a password; give it in `database` in spica.toml",
    "Peer authentication failed": "the database at {place} belongs to another user of this host; run this as that user",
    "no pg_hba.conf entry": "the database at {place} does not admit this host and user; its pg_hba.conf must name them",
    'role "[^"]*" does not exist': f"the database at {{place}} does not know this user; {_CORRECT} or create the role",
    'database "[^"]*" does not exist': f"there is no such database at {{place}}; create it (createdb) or {_CORRECT}",
}
_VALUES = {
    "22003": "a number is beyond what the database can hold; give a smaller one",
    "22021": "a text holds a character that the database cannot keep; leave it out",
    "cannot contain NUL": "a text holds a NUL character, which the database cannot keep; leave it out",
}
"""What is wrong with a value that somebody gave, by state or by the words of the driver."""
_STATES = {
    "28": f"the database at {{place}} refuses this user; {_CORRECT}",
    "3D000": f"there is no such database at {{place}}; create it (createdb) or {_CORRECT}",
    "42501": "this user may not do that in the database at {place}; grant the right or make it owner of its tables",
    "42P01": "a table is missing in the database at {place}; run: spica migrate",
    "40001": "another process changed the same rows of the database; try again",
    "40P01": "another process changed the same rows of the database; try again",
    "55P03": "rows of the database are held by another process; try again",
    "57014": "the question to the database took too long; narrow it, or try again later",
    "57P": "the database at {place} is going down or starting; try again in a moment",
    "53100": "no disk space is left for the database at {place}; free some and try again",
    "53300": "the database at {place} has no connection left; stop other programs or raise max_connections",
    "53": "the database at {place} is out of memory or disk; free some and try again",
    "58": "the system of the database at {place} failed; see its log and try again",
    "08": "the connection to the database at {place} broke; try again",
}

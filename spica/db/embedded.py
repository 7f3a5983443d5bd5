"""The embedded PostgreSQL: a real server from a wheel's binaries, started with the first command, gone after the last.

Several commands share one server. Whoever opens the database holds `users.lock` shared; the kernel drops the lock with
the process, however it ends, and a small keeper (`spica.db.keeper`) then stops the server. Starting, repairing and
stopping happen under one `start.lock`.

Who may enter: the server listens on no network address, only on a UNIX socket in a folder of its owner (0700). It asks
the kernel who calls (`peer`), and `pg_ident.conf` admits the owner and root; so there is no password to keep or leak.
Whose it is and where it lies is told by `spica.db.placement`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg

from spica.db import keeper
from spica.db.placement import (
    LOG,
    PORT,
    Place,
    explain_failure,
    find_binaries,
    find_place,
    major,
    prepare_sockets,
    run_as,
    socket_folder,
    user_name,
)
from spica.model.errors import SpicaError, TransientError

DATABASE = "spica"
ROLE = "spica"
START_LIMIT_S = 120.0
DETACH_LIMIT_S = 15.0
LOG_LIMIT_BYTES = 16 * 1024 * 1024


class EmbeddedServer:
    """One user's hold on the embedded server; the server runs at least as long as it is not closed."""

    def __init__(self, place: Place, users: int, fsync: bool, grace_s: float, binaries: Path | None) -> None:
        """Use `start_server`; it registers the user and starts what must run."""
        self.place = place
        self._users: int | None = users
        self._fsync = fsync
        self._grace_s = grace_s
        self._binaries = binaries

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the survey's database; it holds no secret."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of another database of the same server."""
        sockets = socket_folder(self.place) or self.place.sockets
        return f"postgresql+psycopg://{ROLE}@/{database}?host={quote(str(sockets), safe='/')}&port={PORT}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None where it does not run now."""
        return keeper.postmaster_pid(str(self.place.data))

    def revive(self) -> None:
        """Start server and keeper again where one of them was killed."""
        with _start_lock(self.place):
            _run(self.place, self._fsync, self._grace_s, self._binaries)

    def close(self) -> None:
        """Give up the hold; the keeper stops the server when nobody holds it for a while."""
        if self._users is None:
            return
        with contextlib.suppress(SpicaError, OSError), _start_lock(self.place):
            _ensure_keeper(self.place, self._grace_s)
        os.close(self._users)
        self._users = None

    def stop(self) -> None:
        """Give up the hold and stop the server at once where nobody else holds it; for tests and maintenance."""
        if self._users is None:
            return
        with _start_lock(self.place):
            if keeper.try_lock(self._users):
                keeper.stop_postmaster(str(self.place.data))
        self.close()


def start_server(
    home: Path, runtime: Path, *, fsync: bool = True, grace_s: float = 2.0, binaries: Path | None = None
) -> EmbeddedServer:
    """Start the server of a workspace, or join the one that runs.

    Parameters
    ----------
    home : Path
        The workspace's `db` folder; made where it is missing.
    runtime : Path
        Short folder for the socket; made, and must belong to nobody else.
    fsync : bool
        False gives up safety against a power cut; for tests only.
    grace_s : float
        The server stops this long after its last user has ended, s.
    binaries : Path, optional
        Folder `bin` of PostgreSQL; by default that of the wheel.

    Raises
    ------
    TransientError
        Where the server cannot be started; one line that names the folder and the cure.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        place = find_place(home.resolve(), runtime)
        with _start_lock(place):
            users = _open_lock(place, keeper.USERS_LOCK)
            try:
                _join(place, users)
                _run(place, fsync, grace_s, binaries)
            except BaseException:
                os.close(users)
                raise
    except OSError as trouble:
        raise explain_failure(str(trouble), home) from trouble
    return EmbeddedServer(place, users, fsync, grace_s, binaries)


# Locks ----------------------------------------------------------------------------------------------------------------


def _open_lock(place: Place, name: str) -> int:
    path = place.home / name
    try:
        descriptor = keeper.open_lock(str(path))
    except PermissionError as trouble:
        owner = user_name(place.home.stat().st_uid)
        raise TransientError(f"the database in {place.home} belongs to {owner}; run this as {owner}") from trouble
    if os.geteuid() == 0 and os.fstat(descriptor).st_uid != place.owner.uid:
        os.fchown(descriptor, place.owner.uid, place.owner.gid)
    return descriptor


@contextlib.contextmanager
def _start_lock(place: Place) -> Iterator[None]:
    descriptor = _open_lock(place, keeper.START_LOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _join(place: Place, users: int) -> None:
    """Register as a user; a server that another host runs on the same folder cannot be shared."""
    note = place.home / "host"
    here = socket.gethostname()
    there = note.read_text().strip() if note.exists() else here
    if not keeper.try_lock(users) and there != here:
        raise TransientError(
            f"the database in {place.home} runs on {there} now; run this there, "
            f'or give both hosts a server by database = "postgresql+psycopg://..." in spica.toml'
        )
    if there != here or not note.exists():
        note.write_text(here + "\n")
    fcntl.flock(users, fcntl.LOCK_SH)


# Running --------------------------------------------------------------------------------------------------------------


def _run(place: Place, fsync: bool, grace_s: float, binaries: Path | None) -> None:
    """See that keeper and server run; the keeper first, so that it cleans up after whoever is killed in between."""
    _ensure_keeper(place, grace_s)
    if keeper.postmaster_pid(str(place.data)) is not None and _wait_ready(place):
        return
    folder = find_binaries(place, binaries)
    prepare_sockets(place)
    if not (place.data / "PG_VERSION").exists():
        _make_cluster(place, folder, fsync)
    _write_ident(place)
    end = time.monotonic() + DETACH_LIMIT_S
    while said := _start_once(place, folder, fsync):
        if "pre-existing shared memory" not in said or time.monotonic() > end:
            raise explain_failure(said, place.data)
        time.sleep(0.1)  # processes of a killed server are gone from the list a moment before their memory is
    _ensure_database(place)


def _start_once(place: Place, binaries: Path, fsync: bool) -> str:
    """Start the server and wait for it; empty where it takes connections, else what its log says."""
    _clean_after_crash(place)
    log = place.data / LOG
    before = log.stat().st_size if log.exists() else 0
    _launch(place, binaries, fsync)
    return "" if _wait_ready(place) else _log_after(log, before)


def _keeper_command(*words: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(keeper.__file__).resolve()), *words]


def _ensure_keeper(place: Place, grace_s: float) -> None:
    descriptor = _open_lock(place, keeper.KEEPER_LOCK)
    try:
        free = keeper.try_lock(descriptor)
    finally:
        os.close(descriptor)
    if free:
        words = [str(place.home), str(place.data), str(place.sockets), str(grace_s)]
        subprocess.run(_keeper_command("keep", *words), check=True, stdin=subprocess.DEVNULL, cwd="/", env={})


def _make_cluster(place: Place, binaries: Path, fsync: bool) -> None:
    """Make the cluster beside its place and rename it when it is whole."""
    fresh = place.data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if place.owner.switch:
        os.chown(fresh, place.owner.uid, place.owner.gid)
    builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    locale = builtin if major(binaries) >= 17 else ["--locale=C.UTF-8", "--lc-messages=C"]
    command = [str(binaries / "initdb"), "-D", str(fresh), "-U", ROLE, "--encoding=UTF8", "--auth=reject", *locale]
    done = run_as(place.owner, [*command, "--data-checksums", *([] if fsync else ["--no-sync"])])
    if done.returncode != 0:
        shutil.rmtree(fresh, ignore_errors=True)
        raise explain_failure(done.stderr, place.data)
    (fresh / "pg_hba.conf").write_text(
        "# spica: the kernel says who calls; see pg_ident.conf\nlocal all all peer map=spica\n"
    )
    fresh.rename(place.data)


def _write_ident(place: Place) -> None:
    names = sorted({"root", place.owner.name})
    lines = "".join(f'spica "{name}" {ROLE}\n' for name in names)
    path = place.data / "pg_ident.conf"
    if not path.exists() or path.read_text() != lines:
        path.write_text(lines)
        if place.owner.switch:
            os.chown(path, place.owner.uid, place.owner.gid)


def _clean_after_crash(place: Place) -> None:
    """Remove what a killed server left: its processes of this cluster, then the pid file (its pid may live on)."""
    end = time.monotonic() + 20.0
    orphans = _orphans(place)
    while orphans and time.monotonic() < end:
        number = signal.SIGQUIT if time.monotonic() < end - 10 else signal.SIGKILL
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.05)
        orphans = _orphans(place)
    if orphans:
        raise TransientError(
            f"processes {orphans} of a killed server on {place.data} do not end; end them and try again"
        )
    (place.data / "postmaster.pid").unlink(missing_ok=True)
    log = place.data / LOG
    if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_name(LOG + ".old"))


def _orphans(place: Place) -> list[int]:
    import psutil  # noqa: PLC0415  only whoever starts the server pays for it

    title = f"postgres: {place.cluster}:"
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        newborn = keeper.is_postmaster(command, str(place.data))  # forked, and orphaned before it took its title
        if (newborn or " ".join(command).startswith(title)) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def _launch(place: Place, binaries: Path, fsync: bool) -> None:
    """Start the server in a session of its own, child of nobody here; return once it lives or has ended."""
    settings = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": f'"{place.sockets}"',
        "unix_socket_permissions": "0700",
        "cluster_name": place.cluster,
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        "log_destination": "stderr",
        "jit": "off",
    }
    if not fsync:
        settings |= {"fsync": "off", "full_page_writes": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = [str(binaries / "postgres"), "-D", str(place.data), *options]
    words = ["launch", str(place.owner.uid), str(place.owner.gid), str(place.data / LOG), *command]
    env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "TZ": "UTC"}
    done = subprocess.run(
        _keeper_command(*words), capture_output=True, text=True, cwd="/", env=env, check=True, stdin=subprocess.DEVNULL
    )
    launched = int(done.stdout)
    while keeper.is_alive(launched) and keeper.postmaster_pid(str(place.data)) is None:
        time.sleep(0.005)


def _wait_ready(place: Place) -> bool:
    """Wait until the server takes connections (a crashed one first recovers); False where it ended instead."""
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if keeper.postmaster_pid(str(place.data)) is None:
            return False
        if keeper.read_postmaster(str(place.data))[7:8] == ["ready"]:
            return True
        time.sleep(0.01)
    raise TransientError(f"the server of {place.data} is not ready after {START_LIMIT_S:.0f} s; see {place.data / LOG}")


def _ensure_database(place: Place) -> None:
    conninfo = psycopg.conninfo.make_conninfo(
        host=str(place.sockets), port=PORT, user=ROLE, dbname="postgres", connect_timeout=20
    )
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
    except psycopg.Error as trouble:
        raise explain_failure(str(trouble), place.data) from trouble


# Errors ---------------------------------------------------------------------------------------------------------------


def _log_after(log: Path, offset: int) -> str:
    """Return what was written to the log since, at most its last 4000 bytes; never empty."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(offset, os.fstat(stream.fileno()).st_size - 4000))
            return stream.read().decode(errors="replace") or "it said nothing"
    except OSError as trouble:
        return f"its log cannot be read ({trouble.strerror})"

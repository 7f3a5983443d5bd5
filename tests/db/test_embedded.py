"""The embedded server: shared, repaired after every kind of kill, gone after its last user, closed to others."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from spica.db import keeper, placement
from spica.db.embedded import EmbeddedServer, start_server
from spica.model.errors import TransientError

from .conftest import Runner, User, make_runner, processes_below, wait_until

Use = Callable[..., User]


def keeper_pid(place: Path) -> int:
    """Return the pid of the keeper of a folder."""
    (pid,) = [p for p in processes_below(place) if "keeper.py" in " ".join(psutil.Process(p).cmdline())]
    return pid


def keepers(place: Path) -> list[int]:
    """Return the pids of all keepers of a folder."""
    return [p for p in processes_below(place) if "keeper.py" in " ".join(keeper.command_of(p))]


def test_first_use_makes_it_last_use_ends_it(use: Use, place: Path, runner: Runner) -> None:
    """One process: made, right settings, on a private socket only, and nothing is left behind."""
    user = use()
    pid = user.server_pid()
    owner = psutil.Process(pid).username()
    assert owner == ("spica-postgres" if runner.name == "root" else runner.name)
    assert psutil.Process(pid).net_connections(kind="inet") == []
    asked = "SELECT current_setting('TimeZone'), getdatabaseencoding(), current_setting('listen_addresses')"
    assert user.ask(asked) == "[('UTC', 'UTF8', '')]"
    assert user.ask("SELECT upper('é') = 'É', 'a' < 'B' COLLATE \"default\"") == "[(True, False)]"
    assert user.ask("SELECT usename, current_database() FROM pg_stat_activity WHERE pid = pg_backend_pid()") == (
        "[('spica', 'spica')]"
    )
    assert stat.S_IMODE((place / "db" / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "run" / "s").stat().st_mode) == 0o700
    user.end()
    assert wait_until(lambda: not processes_below(place))
    assert not (place / "run" / "s").exists()
    assert not (place / "db" / "data" / "postmaster.pid").exists()


def test_fsync_is_on_unless_a_test_asks(place: Path, runner: Runner) -> None:
    """The default keeps data through a power cut; only the flag of tests turns that off."""
    code = (
        "import sys, psycopg; from pathlib import Path; from spica.db.embedded import start_server\n"
        "for kind, words in ((1, {}), (2, {'fsync': False})):\n"
        "    server = start_server(Path(sys.argv[1], f'db{kind}'), Path(sys.argv[1], f'run{kind}', 's'), **words)\n"
        "    with psycopg.connect(server.url.replace('+psycopg', '')) as c:\n"
        "        print(c.execute('SHOW fsync').fetchone()[0], c.execute('SHOW full_page_writes').fetchone()[0])\n"
        "    server.stop()\n"
    )
    done = runner.run(code, str(place))
    assert done.stdout.split() == ["on", "on", "off", "off"], done.stderr


def test_four_processes_at_once_share_one_server(use: Use, place: Path) -> None:
    """Whoever is first makes it; all see the same server and each other's rows; one keeper."""
    users = [use() for _ in range(4)]
    pids = {user.server_pid() for user in users}
    assert len(pids) == 1
    users[0].ask("CREATE TABLE t (n int)")
    for number, user in enumerate(users):
        user.ask(f"INSERT INTO t VALUES ({number})")
    assert users[3].ask("SELECT array_agg(n ORDER BY n) FROM t") == "[([0, 1, 2, 3],)]"
    assert len(keepers(place)) == 1


def test_killed_user_ends_server_but_not_under_another(use: Use, place: Path) -> None:
    """kill -9 of one of two users changes nothing for the other; after the second the server goes."""
    first, second = use(), use()
    pid = first.server_pid()
    assert second.server_pid() == pid
    first.kill()
    time.sleep(0.6)  # three times the grace
    assert second.ask("SELECT 1") == "[(1,)]"
    second.kill()
    assert wait_until(lambda: not processes_below(place))


def test_killed_server_is_recovered_with_its_data(use: Use, place: Path) -> None:
    """kill -9 of the postmaster: the next user starts a new one, and what was committed is there."""
    user = use()
    pid = user.server_pid()
    user.ask("CREATE TABLE t AS SELECT generate_series(1, 5000) AS n")
    user.ask("CHECKPOINT")
    user.ask("INSERT INTO t VALUES (-7)")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not keeper.command_of(pid))
    later = use()
    assert later.server_pid() != pid
    assert later.ask("SELECT count(*), min(n) FROM t") == "[(5001, -7)]"
    assert user.ask("SELECT count(*) FROM t") == "[(5001,)]"
    user.end()
    later.end()
    assert wait_until(lambda: not processes_below(place))


def test_killed_server_and_keeper_and_user(use: Use, place: Path) -> None:
    """All three killed at once, as by an out-of-memory night: the next command works and cleans up."""
    user = use()
    pid = user.server_pid()
    user.ask("CREATE TABLE t AS SELECT 1 AS n")
    os.kill(keeper_pid(place), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    user.kill()
    later = use()
    later.server_pid()
    assert later.ask("SELECT n FROM t") == "[(1,)]"
    later.end()
    assert wait_until(lambda: not processes_below(place))


def test_killed_keeper_is_replaced(use: Use, place: Path) -> None:
    """The next user brings a new keeper to the same server, and the end is as clean as ever."""
    user = use()
    pid = user.server_pid()
    old = keeper_pid(place)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not keeper.command_of(old))
    later = use()
    assert later.server_pid() == pid
    assert keeper_pid(place) != old
    user.kill()
    later.kill()
    assert wait_until(lambda: not processes_below(place))


def test_busy_backends_of_a_killed_server_do_not_block(use: Use, place: Path) -> None:
    """A backend that computes on after the postmaster's death would hold the shared memory: it is ended first."""
    user, busy = use(), use()
    pid = user.server_pid()
    busy.server_pid()
    assert busy.process.stdin is not None
    busy.process.stdin.write("SELECT count(*) FROM generate_series(1, 2000000000)\n")
    busy.process.stdin.flush()
    time.sleep(0.5)
    backend = [c for c in psutil.Process(pid).children() if "SELECT" in " ".join(c.cmdline())]
    assert backend, "the busy backend was not found, the test shows nothing"
    os.kill(pid, signal.SIGKILL)
    later = use()
    assert later.server_pid() != pid
    assert later.ask("SELECT 1") == "[(1,)]"
    assert wait_until(lambda: not keeper.command_of(backend[0].pid))


@pytest.mark.parametrize("pid_of", ["another program", "a zombie"])
def test_stale_pid_file(use: Use, place: Path, runner: Runner, pid_of: str) -> None:
    """A pid that lives on as another program of the same user, or as a zombie, is no server; nor is a stale socket."""
    user = use()
    user.server_pid()
    user.end()
    assert wait_until(lambda: not processes_below(place))
    other = runner.start("import time; time.sleep(60)" if pid_of == "another program" else "pass")
    if pid_of == "a zombie":
        assert wait_until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE)
    data = place / "db" / "data"
    lines = [str(other.pid), str(data), str(int(time.time())), "5432", str(place / "run" / "s"), "", "1 2", "ready"]
    (data / "postmaster.pid").write_text("\n".join(lines) + "\n")
    owner = data.stat()
    os.chown(data / "postmaster.pid", owner.st_uid, owner.st_gid)
    later = use()
    assert later.server_pid() != other.pid
    assert later.ask("SELECT 1") == "[(1,)]"
    alive = other.poll() is None
    other.kill()
    other.communicate()
    assert alive == (pid_of == "another program"), "the other program must not be touched"


def test_starters_race_with_the_keeper(place: Path, runner: Runner) -> None:
    """Many short commands with no grace at all: each works, however its start meets the keeper's stop."""
    code = (
        "import sys, psycopg; from pathlib import Path; from spica.db.embedded import start_server\n"
        "for i in range(8):\n"
        "    server = start_server(Path(sys.argv[1], 'db'), Path(sys.argv[1], 'run', 's'), fsync=False, grace_s=0.0)\n"
        "    with psycopg.connect(server.url.replace('+psycopg', '')) as c:\n"
        "        assert c.execute('SELECT 1').fetchone() == (1,)\n"
        "    server.close()\n"
    )
    runs = [runner.start(code, str(place)) for _ in range(2)]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert wait_until(lambda: not processes_below(place))


def test_odd_folder_names(runner: Runner, place: Path) -> None:
    """No shell stands between: quotes, blanks, dollars, back-ticks and accents in the workspace's path do no harm."""
    odd = place / "a 'b\" $HOME `id` é %"
    code = (
        "import sys, psycopg; from pathlib import Path; from spica.db.embedded import start_server\n"
        "server = start_server(Path(sys.argv[1]), Path(sys.argv[2]), fsync=False, grace_s=0.0)\n"
        "print(psycopg.connect(server.url.replace('+psycopg', '')).execute('SELECT 42').fetchone()[0])\n"
    )
    done = runner.run(code, str(odd / "db"), str(place / "run it" / "s"))
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr
    assert wait_until(lambda: not processes_below(place))


@pytest.mark.usefixtures("as_root")
def test_others_may_not_enter(use: Use, place: Path, runner: Runner) -> None:
    """Another user of the host gets neither to the socket nor to the data, and reads one clear line."""
    use().server_pid()
    stranger = make_runner("daemon")
    code = "import sys, psycopg; psycopg.connect(host=sys.argv[1], user='spica', dbname='spica')"
    done = stranger.run(code, str(place / "run" / "s"))
    assert done.returncode != 0
    assert "ermission denied" in done.stderr
    done = stranger.run(f"{STARTED_BY_OTHER}", str(place / "db"), str(place / "run" / "s"))
    owner = "root" if runner.name == "root" else "nobody"
    assert re.search(rf"belongs to ({owner}|spica-postgres); run this as", done.stdout), done.stdout + done.stderr


STARTED_BY_OTHER = """
import sys
from pathlib import Path
from spica.db.embedded import start_server
from spica.model.errors import TransientError
try:
    start_server(Path(sys.argv[1]), Path(sys.argv[2]))
except TransientError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ('initdb: error: could not write file "x": No space left on device', "free some"),
        ('FATAL:  could not open file "x": Read-only file system', "make it writable"),
        ('initdb: error: could not change permissions of "x": Permission denied', "change its owner"),
        ("LOG: x\nFATAL:  something else\nHINT: y", "FATAL:  something else; see"),
        ("", "it said nothing"),
    ],
)
def test_failures_are_one_line_with_a_cure(said: str, words: str) -> None:
    """What PostgreSQL says becomes one line that names the folder and what to do."""
    told = str(placement.explain_failure(said, Path("/w/db/data")))
    assert words in told
    assert "/w/db/data" in told
    assert "\n" not in told


def test_read_only_folder(runner: Runner, place: Path) -> None:
    """A folder that cannot be written: one line; root is tried on a place where even root cannot write."""
    folder = Path("/proc/spica") if runner.name == "root" else place
    place.chmod(0o555)
    done = runner.run(STARTED_BY_OTHER, str(folder / "db"), str(place / "run" / "s"))
    assert len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    assert str(folder) in done.stdout


@pytest.fixture
def here() -> Iterator[Path]:
    """Return a short folder of this process's own user, for tests within this process."""
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/sp-XXXXXX"], text=True).strip())
    folder.chmod(0o755)
    yield folder
    assert wait_until(lambda: not processes_below(folder)), "processes were left behind"
    shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, **options: object) -> EmbeddedServer:
    """Start a server of a folder in this process."""
    return start_server(folder / "db", folder / "run" / "s", fsync=False, grace_s=0.0, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_root")
def test_full_disk(here: Path) -> None:
    """A file system that is full gives one line, and no half-made cluster is left."""
    (here / "db").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=755", "tmpfs", str(here / "db")], check=True)
    try:
        with pytest.raises(TransientError, match=r"no disk space is left .* free some"):
            start(here)
        assert not (here / "db" / "data").exists()
        assert not (here / "db" / "data.new").exists()
        assert wait_until(lambda: not processes_below(here))
    finally:
        subprocess.run(["umount", str(here / "db")], check=True)


def test_cluster_of_another_version(here: Path) -> None:
    """A cluster of an older bundled version is served by its binaries; of an unknown one it is refused."""
    binaries = placement.wheel_binaries()
    old = min(binaries)
    server = start(here, binaries=binaries[old])
    server.stop()
    server = start(here)
    with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
        assert connection.info.server_version // 10000 == old
    server.stop()
    (here / "db" / "data" / "PG_VERSION").write_text("13\n")
    with pytest.raises(TransientError, match="made by PostgreSQL 13 and this Spica brings 18 or 16; dump it"):
        start(here)


def test_socket_path_too_long(here: Path) -> None:
    """The system takes 107 bytes; more is refused before anything starts, with the cure."""
    with pytest.raises(TransientError, match="too long; set SPICA_RUNTIME"):
        start_server(here / "db", here / ("r" * 90) / "s", fsync=False, grace_s=0.0)


def test_runtime_folder_of_somebody_else(here: Path) -> None:
    """A folder or link that somebody put there first is not trusted."""
    (here / "mine").mkdir()
    (here / "run").symlink_to(here / "mine")
    with pytest.raises(TransientError, match="belongs to somebody else; set SPICA_RUNTIME"):
        start(here)


def test_held_by_another_host(here: Path) -> None:
    """Two hosts cannot share one embedded server: the second is told where it runs."""
    server = start(here)
    (here / "db" / "host").write_text("elsewhere\n")
    with pytest.raises(TransientError, match="runs on elsewhere now"):
        start(here)
    server.stop()
    start(here).stop()  # nobody holds it: taken over
    assert (here / "db" / "host").read_text().strip() == os.uname().nodename


def test_revive_in_the_same_process(here: Path) -> None:
    """The holder itself can bring its killed server back."""
    server = start(here)
    old = server.pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    assert wait_until(lambda: server.pid is None)
    server.revive()
    assert server.pid not in (None, old)
    server.stop()


def test_close_replaces_a_killed_keeper(here: Path) -> None:
    """A user that ends well sees to it that somebody stops the server."""
    server = start(here)
    os.kill(keeper_pid(here), signal.SIGKILL)
    assert wait_until(lambda: not keepers(here))
    server.close()
    server.close()  # twice is no error
    assert wait_until(lambda: not processes_below(here))


def test_keeper_is_small(here: Path) -> None:
    """It stays for hours on a busy node: below 20 MB, and no processor time while it waits."""
    server = start(here)
    process = psutil.Process(keeper_pid(here))
    assert process.memory_info().rss < 20e6
    assert sum(process.cpu_times()[:2]) < 0.2
    server.stop()


def test_keeper_as_a_module(here: Path) -> None:
    """`python -m spica.db.keeper` is the same program; where a keeper is, a second leaves at once."""
    (here / "db").mkdir()
    lock = keeper.open_lock(str(here / "db" / keeper.KEEPER_LOCK))
    fcntl.flock(lock, fcntl.LOCK_EX)
    words = [str(here / "db"), str(here / "db" / "data"), str(here / "s"), "0"]
    done = subprocess.run([sys.executable, "-m", "spica.db.keeper", "keep", *words], check=False, timeout=20)
    assert done.returncode == 0
    assert processes_below(here) == []
    os.close(lock)


def test_alive_is_neither_zombie_nor_gone() -> None:
    """A process lives until it ends, also while nobody has asked for its exit code."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert keeper.is_alive(child.pid)
    child.kill()
    assert wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert not keeper.is_alive(child.pid)
    child.communicate()
    assert not keeper.is_alive(child.pid)


def test_alive_without_a_command_line() -> None:
    """Within exec a process shows an empty command line; it lives all the same, and its start is waited for."""
    child = subprocess.Popen([""], executable="/bin/cat", stdin=subprocess.PIPE)
    assert wait_until(lambda: keeper.command_of(child.pid) == [])
    assert keeper.is_alive(child.pid)
    child.communicate()


# Root ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_root")
def test_root_below_a_closed_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the system user cannot go, the data lie elsewhere; it is said once, and no folder is opened for it."""
    closed = here / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(placement, "SYSTEM_FOLDER", here / "system")
    options = {"fsync": False, "grace_s": 0.0}
    server = start_server(closed / "w" / "db", here / "run" / "s", **options)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"the database is kept in {here / 'system'}" in told
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert server.place.data.is_relative_to(here / "system")
    server.stop()
    again = start_server(closed / "w" / "db", here / "run" / "s", **options)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    assert again.place.data == server.place.data
    again.stop()
    shutil.copytree(closed / "w", closed / "copy")
    with pytest.raises(TransientError, match="is a copy of"):
        start_server(closed / "copy" / "db", here / "run" / "s", **options)  # type: ignore[arg-type]
    shutil.rmtree(closed / "w")
    moved = start_server(closed / "copy" / "db", here / "run" / "s", **options)  # type: ignore[arg-type]
    assert moved.place.data == server.place.data
    pid = moved.pid
    assert pid is not None
    shutil.rmtree(closed / "copy")
    moved.close()
    assert wait_until(lambda: keeper.command_of(pid) == []), "the server of a deleted workspace ends too"
    assert moved.place.data.is_dir(), "its data are not the keeper's to delete"


@pytest.mark.usefixtures("as_root")
def test_root_with_closed_binaries(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Binaries that the system user cannot run are copied once, complete, readable, and not writable by others."""
    source = next(iter(placement.wheel_binaries().values()))
    closed = here / "closed"
    closed.mkdir(mode=0o700)
    package = source.parents[1]
    shutil.copytree(source.parent, closed / package.name / source.parent.name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    binaries = closed.joinpath(*source.parts[-3:])
    monkeypatch.setattr(placement, "SYSTEM_FOLDER", here / "system")
    server = start(here, binaries=binaries)
    assert "PostgreSQL is copied to" in capsys.readouterr().err
    assert str(here / "system") in keeper.command_of(server.pid or 0)[0]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert [p for p in (here / "system").rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o022] == []
    server.stop()
    start(here, binaries=binaries).stop()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("as_root")
def test_root_opens_a_users_workspace() -> None:
    """Root may look into a user's survey; the server stays the user's, who can use it afterwards."""
    runner = make_runner("nobody")
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/sp-XXXXXX"], text=True).strip())
    try:
        os.chown(folder, runner.options["user"], runner.options["group"])  # type: ignore[call-overload]
        code = STARTED_BY_OTHER + "print('opened')"
        words = (str(folder / "db"), str(folder / "run" / "s"))
        assert runner.run(code, *words).stdout == "opened\n"
        assert wait_until(lambda: not processes_below(folder))
        server = start_server(folder / "db", folder / "rootrun" / "s", grace_s=0.0)
        assert psutil.Process(server.pid).username() == "nobody"
        second = runner.run(code, *words)
        assert second.stdout == "opened\n", second.stderr
        server.stop()
        assert wait_until(lambda: not processes_below(folder))
        assert runner.run(code, *words).stdout == "opened\n"
        assert wait_until(lambda: not processes_below(folder))
    finally:
        shutil.rmtree(folder)

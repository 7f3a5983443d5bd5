"""Processes that use an embedded server, as this user and, where the tests are root's, as an ordinary one."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
WHO = ["root", "nobody"] if IS_ROOT else [pwd.getpwuid(os.geteuid()).pw_name]
USER_CODE = """
import sys
from pathlib import Path
import psycopg
from spica.db.embedded import start_server
server = start_server(Path(sys.argv[1]), Path(sys.argv[2]), fsync=False, grace_s=float(sys.argv[3]))
print(server.pid, flush=True)
for line in sys.stdin:
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(line)
        print(cursor.fetchall() if cursor.description else "done", flush=True)
"""


@dataclass
class Runner:
    """Who runs a process of a test, and with which Python."""

    name: str
    python: str
    options: dict[str, object]

    def run(self, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a piece of Python to its end."""
        return subprocess.run(
            [self.python, "-c", code, *words], capture_output=True, text=True, cwd="/", timeout=120, check=False,
            **self.options,  # type: ignore[call-overload]
        )  # fmt: skip

    def start(self, code: str, *words: str) -> subprocess.Popen[str]:
        """Start a piece of Python that is talked to."""
        return subprocess.Popen(
            [self.python, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd="/", **self.options,  # type: ignore[call-overload]
        )  # fmt: skip


class User:
    """A process that holds the embedded server and asks it what it is told to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Keep the process; nothing is waited for."""
        self.process = process

    def server_pid(self) -> int:
        """Wait for the server; return its pid."""
        line = self._line()
        if not line:
            raise AssertionError(f"no server: {self.process.communicate()[1][-2000:]}")
        return int(line)

    def ask(self, statement: str) -> str:
        """Run one statement, return its rows as text."""
        assert self.process.stdin is not None
        self.process.stdin.write(statement + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it with kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


@pytest.fixture(params=WHO)
def runner(request: pytest.FixtureRequest) -> Runner:
    """Return who runs the processes of a test."""
    return make_runner(request.param)


def make_runner(name: str) -> Runner:
    """Return a runner for a user; another user needs a Python that it may run."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(p for p in sys.path if p.endswith("-packages"))])}
    if name == pwd.getpwuid(os.geteuid()).pw_name:
        return Runner(name, sys.executable, {"env": env})
    entry = pwd.getpwnam(name)
    options: dict[str, object] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "env": env}
    version = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        found = Runner(name, python, options)
        with contextlib.suppress(OSError):
            if found.run("import psycopg, spica.db.embedded").returncode == 0:
                return found
    raise AssertionError(f"no {version} that {name} may run; install one in /usr/bin")


@pytest.fixture
def as_root() -> None:
    """Say that a test acts as root or as several users; skipped for others, a failure where all is required."""
    if not IS_ROOT:
        pytest.skip("only root can act as another user; run the tests as root as well")


@pytest.fixture
def place(runner: Runner) -> Iterator[Path]:
    """Return a folder of the runner's own with a short path; what still runs below it afterwards is ended."""
    folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
    folder.chmod(0o755)
    if "user" in runner.options:
        os.chown(folder, runner.options["user"], runner.options["group"])  # type: ignore[call-overload]
    yield folder
    for pid in processes_below(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def use(runner: Runner, place: Path) -> Iterator[Callable[..., User]]:
    """Return a maker of processes that use the server of `place`; they are ended after the test."""
    made: list[User] = []

    def start(grace_s: float = 0.2) -> User:
        user = User(runner.start(USER_CODE, str(place / "db"), str(place / "run" / "s"), str(grace_s)))
        made.append(user)
        return user

    yield start
    for user in made:
        user.kill()
        for stream in (user.process.stdin, user.process.stdout, user.process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]


def processes_below(folder: Path) -> list[int]:
    """Return the living keepers and servers of a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        names_it = any(str(folder) in word for word in words[1:])
        if names_it and ("keeper.py" in " ".join(words) or words[0].endswith("postgres")):
            found.append(process.pid)
    return found


def wait_until(check: Callable[[], object], limit_s: float = 15.0) -> bool:
    """Wait until a check holds; False where it does not in time."""
    end = time.monotonic() + limit_s
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True

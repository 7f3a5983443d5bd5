"""SHA-256 of files, and placing files so that a reader sees the whole file or none."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from spica.model.errors import ConflictError, DataError

_CHUNK = 4 * 1024 * 1024
_HASH_CHUNK = 256 * 1024
"""Small enough that what was read is hashed from the cache of the processor."""
_FICLONE = 0x40049409

PathLike = str | os.PathLike[str]


def sha256_file(path: PathLike, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal; `progress` is called with the bytes read so far.

    Raises DataError where the file cannot be read.
    """
    digest = hashlib.sha256()
    done, room = 0, memoryview(bytearray(_HASH_CHUNK))
    try:
        with open(path, "rb", buffering=0) as stream:
            while count := stream.readinto(room):
                digest.update(room[:count])
                done += count
                if progress is not None:
                    progress(done)
    except OSError as trouble:
        raise DataError(f"{path} cannot be read ({trouble.strerror}); check that it is there") from trouble
    return digest.hexdigest()


def verify_sha256(path: PathLike, expected: str) -> None:
    """Raise DataError where the file does not have the expected SHA-256."""
    found = sha256_file(path)
    if found != expected.strip().lower():
        raise DataError(
            f"{path} has sha256 {found[:12]}..., expected {expected[:12]}...; copy it again from its source",
            found=found,
            expected=expected,
        )


def sync_folder(folder: PathLike) -> None:
    """Make the entries of a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: PathLike) -> None:
    """Make the content of a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    """Return a fresh temporary name in the same folder; long names are cut to what a file system takes."""
    return path.with_name(f".{path.name[:180]}.{secrets.token_hex(6)}.tmp")


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; renamed over it, synced, when the block ends well, else removed.

    Folders above are made. The temporary keeps no suffix of the target.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_atomic(path: PathLike, content: bytes) -> None:
    """Write a file that is whole or not there, replacing an older one."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def copy_file(source: PathLike, target: PathLike) -> None:
    """Copy a file atomically and synced, sharing its blocks where the file system can; an older target is replaced.

    Raises DataError where the source cannot be read.
    """
    with atomic_path(target) as temporary:
        _copy_bytes(Path(source), temporary)


def _copy_bytes(source: Path, target: Path) -> None:
    try:
        reading = source.open("rb")
    except OSError as trouble:
        raise DataError(f"{source} cannot be read ({trouble.strerror}); check that it is there") from trouble
    with reading, target.open("xb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _FICLONE, reading.fileno())
        except OSError:
            shutil.copyfileobj(reading, writing, _CHUNK)


def place_file(source: PathLike, target: PathLike, link: bool = True) -> None:
    """Put a file at its place without ever overwriting another one.

    Parameters
    ----------
    source, target : path
        Where the content is, and where it shall be; folders above the target are made.
    link : bool
        Whether a hard link may be made (own products); False always copies (files of users).

    Raises
    ------
    ConflictError
        Where the target exists with other content. Equal content is left as it is.
    DataError
        Where the source cannot be read.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise DataError(f"{source} is not there or no regular file; make it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    if _is_placed(source, target):
        return
    sync_file(source)
    if not (link and _try_link(source.resolve(), target)):
        temporary = _beside(target)
        try:
            _copy_bytes(source, temporary)
            sync_file(temporary)
            if not _try_link(temporary, target) and not _is_placed(source, target):
                _rename_new(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    if not _is_placed(source, target):
        raise ConflictError(f"{target} vanished while it was placed; try again")
    sync_folder(target.parent)


def _rename_new(temporary: Path, target: Path) -> None:
    """Rename where the file system has no hard links: reserve the name first, so that nothing is overwritten."""
    with target.open("xb"):
        pass
    os.replace(temporary, target)


def _try_link(source: Path, target: Path) -> bool:
    """Hard link; False where the file system cannot or the target has appeared meanwhile."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _is_placed(source: Path, target: Path) -> bool:
    """Whether the target exists with the source's content; ConflictError where it has other content."""
    if not os.path.lexists(target):
        return False
    if target.is_file() and (os.path.samefile(source, target) or _same_content(source, target)):
        return True
    raise ConflictError(f"{target} exists with other content; move it away or choose another name")


def _same_content(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(_CHUNK):
            if chunk != second.read(len(chunk)):
                return False
    return True

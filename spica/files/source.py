"""Bytes of a file read forward: plain or compressed, bounded before memory is taken, never waiting on a pipe."""

from __future__ import annotations

import bz2
import gzip
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spica.files.header import BLOCK_LENGTH
from spica.files.lzw import LzwReader
from spica.model.errors import DataError

CHUNK_BYTES = 360 * BLOCK_LENGTH
_AHEAD_BYTES = 64 * 1024
FREE_BYTES, MAX_EXPANSION = 1024**3, 200
"""A packed file that unpacks to more than the first may not be more than so many times smaller than what it holds."""


@dataclass(frozen=True)
class FileLimits:
    """What a FITS file may claim before it is refused.

    Parameters
    ----------
    max_hdus : int
        Header units of one file.
    max_pixels : int
        Pixels (table bytes) of one header unit, unpacked.
    max_unpacked_bytes : int
        Bytes of the whole file once gzip or bzip2 is undone.
    max_header_bytes : int
        Bytes of all headers of the file together.
    """

    max_hdus: int = 1000
    max_pixels: int = 4_000_000_000
    max_unpacked_bytes: int = 64 * 1024**3
    max_header_bytes: int = 64 * 1024**2


class StructureError(DataError):
    """The file breaks the FITS structure; fetch it again or repair it at its source."""

    def __init__(self, code: str, text: str, value: float | str | None = None, limit: float | None = None) -> None:
        """Keep the code of the problem, and the value that broke a limit."""
        super().__init__(text, code=code, value=value, limit=limit)
        self.code, self.text, self.value, self.limit = code, text, value, limit


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def shown_name(path: Path) -> str:
    """Return a file's name as one line of at most 100 printable characters."""
    name = "".join(letter if letter.isprintable() else "?" for letter in path.name)
    return name if len(name) <= 100 else f"{name[:60]}...{name[-37:]}"


class ByteSource:
    """Forward reader of a plain, gzip, bzip2 or LZW file that stops at a limit of unpacked bytes."""

    def __init__(self, path: str | os.PathLike[str], max_unpacked_bytes: int) -> None:
        """Open the file; DataError where it is no regular readable file."""
        self.path = Path(path)
        self.limit = max_unpacked_bytes
        self.position = 0
        try:
            self._raw = open(self.path, "rb", buffering=_AHEAD_BYTES, opener=_open_at_once)  # noqa: SIM115
        except (OSError, ValueError) as trouble:
            why = trouble.strerror if isinstance(trouble, OSError) else trouble
            raise DataError(f"{shown_name(self.path)} cannot be read ({why}); check that it is there") from trouble
        status = os.fstat(self._raw.fileno())
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self._raw.close()
            raise DataError(f"{shown_name(self.path)} is no regular file; give a FITS file")
        magic = self._raw.read(3)
        self._raw.seek(0)
        self._file: IO[bytes] = self._raw
        self.compression = ""
        if magic[:2] == b"\x1f\x8b":
            self.compression, self._file = "gzip", gzip.GzipFile(fileobj=self._raw)  # type: ignore[assignment]
        elif magic == b"BZh":
            self.compression, self._file = "bzip2", bz2.BZ2File(self._raw)
        elif magic[:2] == b"\x1f\x9d":
            self.compression, self._file = "compress", LzwReader(self._raw)  # type: ignore[assignment]

    def __enter__(self) -> ByteSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not self._raw:
            self._file.close()
        self._raw.close()

    def read(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end; StructureError where unpacking fails or passes the limit."""
        parts: list[bytes] = []
        missing = count
        while missing > 0:
            try:
                part = self._file.read(min(missing, CHUNK_BYTES))
            except (EOFError, OSError, zlib.error, ValueError) as trouble:
                raise StructureError(
                    "damaged_compression",
                    f"the {self.compression or 'file'} stream breaks after {self.position:,} bytes ({trouble}); "
                    "fetch the file again",
                    self.position,
                ) from trouble
            if not part:
                break
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
            if self.position > FREE_BYTES and self.compression:
                self._check_expansion()
            if self.position > self.limit:
                raise StructureError(
                    "too_large",
                    f"the file unpacks to more than {self.limit:,} bytes; raise max_unpacked_bytes if it is genuine",
                    self.position,
                    self.limit,
                )
        return b"".join(parts)

    def _check_expansion(self) -> None:
        packed = self._raw.tell()
        if self.position > MAX_EXPANSION * packed:
            raise StructureError(
                "too_large",
                f"{packed:,} bytes of {self.compression} unpack to more than {self.position:,}, as no exposure does; "
                "if the file is genuine, unpack it yourself and give the plain file",
                self.position,
                MAX_EXPANSION * packed,
            )

    def skip(self, count: int) -> int:
        """Move forward and return the bytes really passed (a seek on plain files)."""
        if self._file is self._raw:
            passed = max(0, min(count, self.size - self.position))
            self._raw.seek(passed, os.SEEK_CUR)
            self.position += passed
            return passed
        passed = 0
        while passed < count:
            part = self.read(min(CHUNK_BYTES, count - passed))
            if not part:
                break
            passed += len(part)
        return passed

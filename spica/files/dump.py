"""Headers printed as text, one card a line: what archives and colleagues send in place of a file."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from spica.files.header import CARD_LENGTH, HeaderCards
from spica.model.errors import DataError

MAX_DUMP_BYTES = 64 * 1024 * 1024
_STARTS = ("SIMPLE  =", "XTENSION=")


def read_header_dump(path: str | os.PathLike[str]) -> tuple[HeaderCards, ...]:
    """Return the headers of a text dump (plain or gzip); a unit begins at SIMPLE or XTENSION.

    Lines before the first unit, blank lines, END and rules such as `--- HDU 1 ---` are passed over; cards are filled up
    to 80 characters. Raises DataError where the text holds no header or is larger than 64 MiB.
    """
    headers: list[list[str]] = []
    for line in _text(Path(path)).splitlines():
        if line.startswith(_STARTS):
            headers.append([])
        if not headers or not line.strip() or line.rstrip() == "END" or line.startswith("---"):
            continue
        headers[-1].append(line[:CARD_LENGTH].ljust(CARD_LENGTH))
    if not headers:
        raise DataError(
            f"{Path(path).name} holds no header: no line begins with SIMPLE or XTENSION; give a dump of one"
        )
    return tuple(HeaderCards(tuple(cards)) for cards in headers)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
            stream.seek(0)
            with gzip.GzipFile(fileobj=stream) if packed else stream as unpacked:
                raw = unpacked.read(MAX_DUMP_BYTES + 1)
    except (OSError, EOFError, zlib.error) as trouble:
        raise DataError(f"{path.name} cannot be read ({trouble}); check that it is there and whole") from trouble
    if len(raw) > MAX_DUMP_BYTES:
        raise DataError(f"{path.name} holds more than {MAX_DUMP_BYTES:,} bytes; give the header alone")
    return raw.decode("latin-1").replace("\r\n", "\n")

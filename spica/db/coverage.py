"""The sky that images cover, from the ranges of their footprints, in bounded memory."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy.orm import Session

from spica.files.moc import Moc, join_mocs, make_moc

PART_BYTES = 32 * 2**20
"""Ranges are joined to the coverage whenever so many bytes have come."""
_LINE = np.dtype([("fields", ">i2"), ("n1", ">i4"), ("low", ">i8"), ("n2", ">i4"), ("high", ">i8")])
_HEAD = 19
"""Bytes before the first row of a binary COPY that has no extension."""

_EXPOSURES = sql.SQL(
    "SELECT r.low, r.high FROM sky_range r JOIN image i ON i.id = r.image_id"
    " WHERE i.kind = 'exposure' AND i.frame_type = 'science' AND i.state <> 'rejected' AND i.quality_id IS NOT NULL"
)
_STACKS = sql.SQL(
    "SELECT r.low, r.high FROM sky_range r JOIN image i ON i.id = r.image_id"
    " WHERE i.kind = 'stack' AND i.state = 'delivered'"
)


def read_coverage(session: Session, filter_name: str | None, order: int, *, stacks: bool = False) -> Moc:
    """Return what the usable exposures, or the delivered stacks, of a filter cover; None: of all filters.

    Ranges come by binary COPY and are joined part by part.

    Raises
    ------
    DataError
        As `make_moc`.
    """
    query: sql.Composable = _STACKS if stacks else _EXPOSURES
    if filter_name is not None:
        query = sql.Composed([query, sql.SQL(" AND i.filter = {}").format(sql.Literal(filter_name))])
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
    connection = cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
    whole = make_moc([], order)
    rest = b""
    skip = _HEAD
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        held: list[bytes] = []
        size = 0
        for block in copy:
            data = bytes(block)
            if skip:
                data, skip = data[skip:], max(0, skip - len(data))
            held.append(data)
            size += len(data)
            if size >= PART_BYTES:
                ranges, rest = _ranges(rest + b"".join(held))
                whole, held, size = join_mocs([whole, make_moc(ranges, order)]), [], 0
        ranges, _ = _ranges(rest + b"".join(held))
    return join_mocs([whole, make_moc(ranges, order)])


def _ranges(data: bytes) -> tuple[NDArray[np.int64], bytes]:
    """Return the whole rows of a binary COPY, and the bytes that are left; the end mark is no row."""
    n = len(data) // _LINE.itemsize
    lines = np.frombuffer(data, dtype=_LINE, count=n)
    rows = lines[lines["fields"] == 2]
    found = np.column_stack([rows["low"], rows["high"]]).astype(np.int64)
    return found, data[n * _LINE.itemsize :]

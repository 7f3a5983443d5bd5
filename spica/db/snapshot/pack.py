"""Many rows of PostgreSQL as arrays: the server packs each column into one binary value, numpy reads it as it is.

Rows never become Python objects. Values are fixed in width (`int8send` and its like, big-endian, NULL replaced by the
sentinel of the column); texts come as their bytes one after another, with their lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import psycopg
from psycopg import sql
from sqlalchemy.orm import Session

from spica.db.snapshot.columns import Array

_SENDERS = {"i2": "int2send", "i4": "int4send", "i8": "int8send", "f4": "float4send", "f8": "float8send"}
_TYPES = {"i2": "int2", "i4": "int4", "i8": "int8", "f4": "float4", "f8": "float8"}
TEXT = "text"


@dataclass(frozen=True)
class Packed:
    """One column: its expression (never NULL), how it is sent (`i2 i4 i8 f4 f8 text`), the dtype it is kept in."""

    name: str
    expression: str
    sent: str
    kept: Any


def connection_of(session: Session) -> psycopg.Connection[Any]:
    """Return the connection of a session's transaction."""
    return cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)


def read_packed(
    connection: psycopg.Connection[Any], columns: Sequence[Packed], source: str, values: Mapping[str, Any]
) -> dict[str, Array]:
    """Return columns of a source of rows as arrays of one length, texts as lists in object arrays.

    Parameters
    ----------
    source : str
        What follows FROM, with WHERE and ORDER BY; rows arrive in its order. Fixed text of this package.
    values : mapping
        Bound values of `source`.
    """
    inner = ", ".join(f'({c.expression})::{_TYPES.get(c.sent, TEXT)} AS "{c.name}"' for c in columns)
    outer = ", ".join(_aggregates(c) for c in columns)
    statement = f"SELECT count(*), {outer} FROM (SELECT {inner} FROM {source}) packed"  # noqa: S608  all fixed text
    with connection.cursor(binary=True) as cursor:
        row = cursor.execute(sql.SQL(cast("Any", statement)), values, prepare=False).fetchone()
    assert row is not None
    return _unpacked(columns, int(row[0]), list(row[1:]))


def _aggregates(column: Packed) -> str:
    if column.sent == TEXT:
        bytes_of = f"convert_to(\"{column.name}\", 'UTF8')"
        return f"string_agg(int4send(octet_length({bytes_of})), ''::bytea), string_agg({bytes_of}, ''::bytea)"
    return f"string_agg({_SENDERS[column.sent]}(\"{column.name}\"), ''::bytea)"


def _unpacked(columns: Sequence[Packed], n: int, parts: list[bytes | None]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    parts.reverse()
    for column in columns:
        raw = parts.pop() or b""
        if column.sent == TEXT:
            found[column.name] = _texts(np.frombuffer(raw, dtype=">i4"), parts.pop() or b"", column.kept)
        else:
            found[column.name] = np.frombuffer(raw, dtype=">" + column.sent).astype(column.kept)
        if len(found[column.name]) != n:
            raise ValueError(f"column {column.name} came with {len(found[column.name])} of {n} rows")
    return found


def _texts(lengths: Array, raw: bytes, kept: Any) -> Array:
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    starts = [0, *ends[:-1]] if ends else []
    if raw.isascii():
        text = raw.decode("ascii")
        texts = [text[a:b] for a, b in zip(starts, ends, strict=True)]
    else:
        texts = [raw[a:b].decode("utf-8") for a, b in zip(starts, ends, strict=True)]
    made = np.empty(len(texts), dtype=kept)
    made[:] = texts
    return made


def codes_of(cases: Sequence[str], expression: str, first: int = 0, unknown: int = -1) -> str:
    """Return an expression that gives the place of an enum's value in its list, counted from `first`."""
    whens = " ".join(f"WHEN '{word}' THEN {first + k}" for k, word in enumerate(cases))
    return f"CASE {expression} {whens} ELSE {unknown} END"

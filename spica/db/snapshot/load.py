"""The first snapshot: all images, jobs and grades of one moment, read in blocks of ids that bound the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from numpy.dtypes import StringDType
from psycopg import sql
from sqlalchemy.orm import Session

from spica.db.snapshot.columns import (
    FRAMES,
    GRADES,
    JOB_STATES,
    KINDS,
    SOURCES,
    STATES,
    UNKNOWN_DAY,
    WORD_NAMES,
    Array,
    Cache,
    GradeColumns,
    ImageColumns,
    JobColumns,
    Rows,
    Snapshot,
    frozen,
    roomy,
    rows_of,
)
from spica.db.snapshot.pack import TEXT, Packed, codes_of, connection_of, read_packed
from spica.db.snapshot.standing import Standing, standing_of

BLOCK_ROWS = 250_000

_NUMBERS = {
    "exptime": "i.exptime_s", "airmass": "i.airmass", "mjd": "i.mjd", "ra": "i.ra_deg", "dec": "i.dec_deg",
    "radius": "i.radius_deg", "seeing": "m.seeing_arcsec", "ellipticity": "m.ellipticity",
    "background": "m.background_adu", "noise": "m.noise_adu", "limiting_mag": "m.limiting_mag",
    "zero_point": "m.zero_point_mag", "n_stars": "m.n_stars::float8", "skyprobe": "m.skyprobe_mag",
}  # fmt: skip
WORDS = {
    "object": "object_key", "filter": "filter", "run": "run", "instrument": "instrument", "object_name": "object",
}  # fmt: skip
"""Column of `image` of each column of words."""

IMAGE_PACKED = (
    Packed("id", "i.id", "i8", np.int64),
    Packed("kind", codes_of(KINDS, "i.kind"), "i2", np.int8),
    Packed("state", codes_of(STATES, "i.state"), "i2", np.int8),
    Packed("frame", codes_of(FRAMES, "i.frame_type"), "i2", np.int8),
    Packed("usable", "CASE WHEN i.state <> 'rejected' AND i.quality_id IS NOT NULL THEN 1 ELSE 0 END", "i2", np.bool_),
    Packed("night", f"COALESCE(i.night - DATE '1970-01-01', {UNKNOWN_DAY})", "i4", np.int32),
    Packed("grade", codes_of(GRADES, "m.grade", 1, 0), "i2", np.int8),
    Packed("grade_source", codes_of(SOURCES, "m.grade_source", 1, 0), "i2", np.int8),
    Packed("solved", "CASE WHEN i.solution_id IS NULL THEN 0 ELSE 1 END", "i2", np.bool_),
    Packed("name", "i.name", TEXT, StringDType()),
    *(Packed(name, f"COALESCE({column}, 'NaN')", "f8", np.float64) for name, column in _NUMBERS.items()),
)
GRADE_PACKED = (
    Packed("id", "g.id", "i8", np.int64),
    Packed("image", "g.image_id", "i8", np.int64),
    Packed("source", codes_of(SOURCES, "g.source", 1, 0), "i2", np.int8),
    Packed("grade", codes_of(GRADES, "g.grade", 1, 0), "i2", np.int8),
    Packed("person", "COALESCE(g.person_id, 0)", "i4", np.int32),
    Packed("created", "extract(epoch FROM g.created_at)", "f8", np.float64),
    Packed("withdrawn", "CASE WHEN g.withdrawn_at IS NULL THEN 0 ELSE 1 END", "i2", np.bool_),
    Packed("blind", "CASE WHEN g.blind THEN 1 ELSE 0 END", "i2", np.bool_),
    Packed("seconds", "COALESCE(g.seconds, 'NaN')", "f4", np.float32),
)
JOB_PACKED = (
    Packed("id", "j.id", "i8", np.int64),
    Packed("state", codes_of(JOB_STATES, "j.state"), "i2", np.int8),
    Packed("plan", "COALESCE(j.plan_id, -1)", "i8", np.int64),
)


def load_snapshot(session: Session, version: int = 1, cache: Cache | None = None) -> Snapshot:
    """Read everything in the moment of a session of `Database.read`; a second per 200,000 rows or so."""
    connection = connection_of(session)
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    taken_at = read_now(connection)
    images, grades = _load_images(connection), _load_grades(connection)
    grades["row"] = filled(rows_of(images["id"], grades["image"]), np.int32)
    words = images.pop("words")
    add_standing(images, standing_of(grades, len(images["id"])))
    images["stacked"] = _stacked(connection, images["id"])
    columns = ImageColumns(
        **{name: frozen(array) for name, array in images.items()},
        words=words,
        codes={name: {w: k for k, w in enumerate(known)} for name, known in words.items()},
        tags=read_tags(connection, images["id"]),
    )
    made = GradeColumns(**{name: frozen(array) for name, array in grades.items()})
    return Snapshot(taken_at, version, columns, _load_jobs(connection), made, cache or Cache())


def read_now(connection: psycopg.Connection[Any]) -> datetime:
    """Return the start of the transaction: what was committed before it is seen."""
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now.astimezone(UTC)


def filled(values: Array, dtype: Any) -> Array:
    """Return values in an array with room behind it."""
    made = roomy(len(values), dtype)
    made[:] = values
    return made


def add_standing(images: dict[str, Array], standing: Standing) -> None:
    """Add the columns that grades make."""
    for name in ("machine", "n_graders", "split"):
        values = getattr(standing, name)
        images[name] = filled(values, values.dtype)


# Blocks ---------------------------------------------------------------------------------------------------------------


def _blocks(connection: psycopg.Connection[Any], table: str) -> Iterator[tuple[int, int]]:
    """Yield ranges of ids (first exclusive, last inclusive) of about `BLOCK_ROWS` rows, from the index alone."""
    low = -(2**62)
    query = sql.SQL("SELECT id FROM {} WHERE id > %s ORDER BY id OFFSET %s LIMIT 1").format(sql.Identifier(table))
    while True:
        row = connection.execute(query, (low, BLOCK_ROWS - 1)).fetchone()
        high = 2**62 if row is None else row[0]
        yield low, high
        if row is None:
            return
        low = high


def _load(
    connection: psycopg.Connection[Any],
    table: str,
    columns: Sequence[Packed],
    source: str,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Array]:
    """Read a whole table, block by block, into arrays with room behind them."""
    blocks = [
        read_packed(connection, columns, source, {**(values or {}), "low": low, "high": high})
        for low, high in _blocks(connection, table)
    ]
    made: dict[str, Array] = {}
    n = sum(len(b["id"]) for b in blocks)
    for column in columns:
        whole, at = roomy(n, column.kept), 0
        for block in blocks:
            part = block.pop(column.name)
            whole[at : at + len(part)] = part
            at += len(part)
        made[column.name] = whole
    return made


_IMAGES = (
    "(SELECT * FROM image WHERE id > %(low)s AND id <= %(high)s) i"
    " LEFT JOIN (SELECT * FROM measure WHERE image_id > %(low)s AND image_id <= %(high)s) m ON m.image_id = i.id"
)


def _load_images(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    words = {name: _distinct(connection, "image", column) for name, column in WORDS.items()}
    coded = tuple(Packed(name, f"COALESCE(w_{name}.code, 0) - 1", "i4", np.int32) for name in WORD_NAMES)
    joins = "".join(
        f" LEFT JOIN unnest(%({name})s::text[]) WITH ORDINALITY AS w_{name}(word, code) ON w_{name}.word = i.{column}"
        for name, column in WORDS.items()
    )
    source = f"{_IMAGES}{joins} ORDER BY i.id"
    found: dict[str, Any] = _load(
        connection, "image", (*IMAGE_PACKED, *coded), source, {n: list(w) for n, w in words.items()}
    )
    found["words"] = words
    return found


def _load_grades(connection: psycopg.Connection[Any]) -> dict[str, Array]:
    return _load(connection, "grade", GRADE_PACKED, "grade g WHERE g.id > %(low)s AND g.id <= %(high)s ORDER BY g.id")


def _load_jobs(connection: psycopg.Connection[Any]) -> JobColumns:
    words = _distinct(connection, "job", "kind")
    columns = (*JOB_PACKED, Packed("kind", "w.code - 1", "i2", np.int16))
    source = (
        "job j JOIN unnest(%(kinds)s::text[]) WITH ORDINALITY AS w(word, code) ON w.word = j.kind"
        " WHERE j.id > %(low)s AND j.id <= %(high)s ORDER BY j.id"
    )
    found = _load(connection, "job", columns, source, {"kinds": list(words)})
    tally = tuple(np.bincount(found["state"], minlength=len(JOB_STATES)).tolist())
    return JobColumns(**{name: frozen(array) for name, array in found.items()}, words=words, tally=tally)


def _distinct(connection: psycopg.Connection[Any], table: str, column: str) -> tuple[str, ...]:
    """Return the words of a column in order of their code points."""
    query = sql.SQL("SELECT DISTINCT {0} FROM {1} WHERE {0} IS NOT NULL").format(
        sql.Identifier(column), sql.Identifier(table)
    )
    rows = connection.execute(query).fetchall()
    return tuple(sorted(row[0] for row in rows))


# What stands beside the rows ------------------------------------------------------------------------------------------

_STACKED = (
    "(SELECT image_id, count(*) AS n FROM stack_input"
    " WHERE outcome IN ('used', 'used_with_warning'){where} GROUP BY image_id) s ORDER BY s.image_id"
)
_STACKED_PACKED = (Packed("image", "s.image_id", "i8", np.int64), Packed("n", "s.n", "i4", np.int32))


def _stacked(connection: psycopg.Connection[Any], ids: Array) -> Array:
    found = read_packed(connection, _STACKED_PACKED, _STACKED.format(where=""), {})
    made = roomy(len(ids), np.int32)
    made[:] = 0
    made[rows_of(ids, found["image"])] = found["n"]
    return made


def read_stacked(connection: psycopg.Connection[Any], ids: list[int]) -> dict[int, int]:
    """Return how many stacks each of some images entered, 0 left out."""
    where = " AND image_id = ANY(%(ids)s)"
    found = read_packed(connection, _STACKED_PACKED, _STACKED.format(where=where), {"ids": ids})
    return dict(zip(found["image"].tolist(), found["n"].tolist(), strict=True))


def read_tags(connection: psycopg.Connection[Any], ids: Array) -> dict[str, Rows]:
    """Return the rows of each tag, ascending."""
    words = _distinct(connection, "tag", "name")
    source = (
        "tag t JOIN unnest(%(words)s::text[]) WITH ORDINALITY AS w(word, code) ON w.word = t.name"
        " ORDER BY w.code, t.image_id"
    )
    columns = (Packed("code", "w.code - 1", "i4", np.int32), Packed("image", "t.image_id", "i8", np.int64))
    found = read_packed(connection, columns, source, {"words": list(words)})
    rows = rows_of(ids, found["image"])
    bounds = np.searchsorted(found["code"], np.arange(len(words) + 1))
    return {word: rows[bounds[k] : bounds[k + 1]] for k, word in enumerate(words)}

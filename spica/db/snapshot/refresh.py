"""A newer snapshot from an older one: only rows that changed are read, only columns that changed are copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg
from psycopg import sql
from sqlalchemy.orm import Session

from spica.db.snapshot.columns import (
    GRADE_NAMES,
    IMAGE_NAMES,
    JOB_STATES,
    WORD_NAMES,
    Array,
    GradeColumns,
    ImageColumns,
    JobColumns,
    Rows,
    Snapshot,
    changed_at,
    extended,
    frozen,
    roomy,
    rows_of,
)
from spica.db.snapshot.load import (
    GRADE_PACKED,
    IMAGE_PACKED,
    JOB_PACKED,
    WORDS,
    read_now,
    read_stacked,
)
from spica.db.snapshot.pack import TEXT, Packed, connection_of, read_packed
from spica.db.snapshot.standing import standing_of

MOST_ROWS = 100_000
"""More changes than this are read faster with everything else."""

_IMAGES = (
    "(SELECT * FROM image WHERE id = ANY(%(ids)s)) i"
    " LEFT JOIN (SELECT * FROM measure WHERE image_id = ANY(%(ids)s)) m ON m.image_id = i.id ORDER BY i.id"
)
_IMAGE_PACKED = (
    *IMAGE_PACKED,
    *(Packed(name, f"COALESCE('=' || i.{WORDS[name]}, '')", TEXT, np.object_) for name in WORD_NAMES),
)
_JOB_PACKED = (*JOB_PACKED, Packed("kind", "j.kind", TEXT, np.object_))


@dataclass
class Changes:
    """Ids of what changed."""

    images: set[int] = field(default_factory=set)
    jobs: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Return whether anything did."""
        return bool(self.images or self.jobs)

    def add(self, other: Changes) -> None:
        """Take up what another knows."""
        self.images |= other.images
        self.jobs |= other.jobs


def refresh_snapshot(session: Session, old: Snapshot, changes: Changes) -> Snapshot | None:
    """Return the snapshot with some images and jobs read again; None where all must be read again.

    Images, grades and jobs that are newer than the newest known are found without being named. All must be read again
    where an image is gone, or where very much changed. The version rises only where something did.
    """
    connection = connection_of(session)
    taken_at = read_now(connection)
    image_ids = changes.images | _newer(connection, "image", "id", old.images.id)
    image_ids |= _newer(connection, "grade", "image_id", old.grades.id)
    job_ids = changes.jobs | _newer(connection, "job", "id", old.jobs.id)
    if len(image_ids) + len(job_ids) > MOST_ROWS:
        return None
    images, grades = old.images, old.grades
    if image_ids:
        found = _read_images(connection, old, sorted(image_ids))
        if found is None:
            return None
        images, grades = found
    jobs = _read_jobs(connection, old.jobs, sorted(job_ids)) if job_ids else old.jobs
    changed = images is not old.images or grades is not old.grades or jobs is not old.jobs
    return dataclasses.replace(
        old, taken_at=taken_at, version=old.version + changed, images=images, grades=grades, jobs=jobs
    )


def _newer(connection: psycopg.Connection[Any], table: str, column: str, known: Array) -> set[int]:
    query = sql.SQL("SELECT {} FROM {} WHERE id > %s ORDER BY id LIMIT %s").format(
        sql.Identifier(column), sql.Identifier(table)
    )
    last = int(known[-1]) if len(known) else -(2**62)
    rows = connection.execute(query, (last, MOST_ROWS + 1)).fetchall()
    return {int(row[0]) for row in rows}


# Images and their grades ----------------------------------------------------------------------------------------------


def _read_images(
    connection: psycopg.Connection[Any], old: Snapshot, ids: list[int]
) -> tuple[ImageColumns, GradeColumns] | None:
    """Return images and grades with some images read again; None where one of them is gone."""
    values = read_packed(connection, _IMAGE_PACKED, _IMAGES, {"ids": ids})
    if len(values["id"]) < np.count_nonzero(old.images.row_of(ids) >= 0):
        return None
    if np.any((old.images.row_of(ids) >= 0) & (rows_of(values["id"], ids) < 0)):
        return None
    source = "grade g WHERE g.image_id = ANY(%(ids)s) ORDER BY g.id"
    graded = read_packed(connection, GRADE_PACKED, source, {"ids": ids})
    standing = standing_of({**graded, "row": rows_of(values["id"], graded["image"])}, len(values["id"]))
    values |= {"machine": standing.machine, "n_graders": standing.n_graders, "split": standing.split}
    stacked = read_stacked(connection, ids)
    values["stacked"] = np.array([stacked.get(i, 0) for i in values["id"].tolist()], dtype=np.int32)
    codes, words = dict(old.images.codes), dict(old.images.words)
    for name in WORD_NAMES:
        values[name], words[name], codes[name] = _coded(values[name], words[name], codes[name])
    columns = {name: getattr(old.images, name) for name in IMAGE_NAMES}
    merged = merge_rows(columns, values)
    tags = _tagged(connection, old.images, merged, values["id"])
    if all(merged[name] is columns[name] for name in merged) and tags is old.images.tags:
        images = old.images
    else:
        images = ImageColumns(**merged, words=words, codes=codes, tags=tags)
    return images, _regraded(old, images, graded)


def _coded(
    texts: Array, words: tuple[str, ...], codes: Mapping[str, int]
) -> tuple[Array, tuple[str, ...], Mapping[str, int]]:
    """Return the codes of words that come as `=word`, empty for unknown; new words get the next codes."""
    fresh = sorted({text[1:] for text in texts if text and text[1:] not in codes})
    if fresh:
        words = (*words, *fresh)
        codes = {word: code for code, word in enumerate(words)}
    found = [codes[text[1:]] if text else -1 for text in texts]
    return np.array(found, dtype=np.int32), words, codes


def merge_rows(columns: Mapping[str, Array], values: Mapping[str, Array]) -> dict[str, Array]:
    """Return columns (ascending `id` among them) with rows of `values` put in their places, new ones among them."""
    ids = values["id"]
    rows = rows_of(columns["id"], ids)
    known, fresh = rows >= 0, rows < 0
    merged = {name: changed_at(array, rows[known], values[name][known]) for name, array in columns.items()}
    if not fresh.any():
        return merged
    if not len(columns["id"]) or ids[fresh][0] > columns["id"][-1]:
        return {name: extended(array, values[name][fresh]) for name, array in merged.items()}
    at = np.searchsorted(columns["id"], ids[fresh])
    return {name: _inserted(array, at, values[name][fresh]) for name, array in merged.items()}


def _inserted(array: Array, at: Rows, values: Array) -> Array:
    """Return an array with values before some of its rows: transactions may end in another order than they began."""
    whole = roomy(len(array) + len(values), array.dtype)
    new = at + np.arange(len(at))
    stays = np.ones(len(whole), dtype=bool)
    stays[new] = False
    whole[stays] = array
    whole[new] = values
    return frozen(whole)


def _tagged(
    connection: psycopg.Connection[Any], old: ImageColumns, merged: Mapping[str, Array], ids: Array
) -> Mapping[str, Rows]:
    """Return the rows of each tag, those of some images read again."""
    found = connection.execute(
        "SELECT name, array_agg(image_id) FROM tag WHERE image_id = ANY(%s) GROUP BY name", (ids.tolist(),)
    ).fetchall()
    now = {name: rows_of(merged["id"], sorted(of)) for name, of in found}
    asked = rows_of(merged["id"], ids)
    shifted = len(merged["id"]) != len(old.id) and not np.array_equal(merged["id"][: len(old.id)], old.id)
    places = rows_of(merged["id"], old.id) if shifted else None
    tags: dict[str, Rows] = {}
    for name in {**old.tags, **now}:
        before = old.tags.get(name, np.empty(0, dtype=np.int64))
        before = before if places is None else places[before]
        fresh = now.get(name, np.empty(0, dtype=np.int64))
        gone = before[rows_of(before, asked)[rows_of(before, asked) >= 0]]
        after = before if np.array_equal(gone, fresh) else np.union1d(np.setdiff1d(before, gone), fresh)
        if len(after):
            tags[name] = after
    same = tags.keys() == old.tags.keys() and all(tags[name] is old.tags[name] for name in tags)
    return old.tags if same else tags


def _regraded(old: Snapshot, images: ImageColumns, graded: dict[str, Array]) -> GradeColumns:
    """Return the grades with those of some images read again."""
    columns = {name: getattr(old.grades, name) for name in GRADE_NAMES}
    if len(images) != len(old.images) and not np.array_equal(images.id[: len(old.images)], old.images.id):
        columns["row"] = frozen(rows_of(images.id, old.grades.image).astype(np.int32))
    graded["row"] = rows_of(images.id, graded["image"]).astype(np.int32)
    merged = merge_rows(columns, graded)
    unchanged = all(merged[name] is getattr(old.grades, name) for name in merged)
    return old.grades if unchanged else GradeColumns(**merged)


# Jobs -----------------------------------------------------------------------------------------------------------------


def _read_jobs(connection: psycopg.Connection[Any], old: JobColumns, ids: list[int]) -> JobColumns:
    source = "job j WHERE j.id = ANY(%(ids)s) ORDER BY j.id"
    values = read_packed(connection, _JOB_PACKED, source, {"ids": ids})
    words = (*old.words, *sorted(set(values["kind"].tolist()) - set(old.words)))
    values["kind"] = np.array([words.index(word) for word in values["kind"]], dtype=np.int16)
    columns = {name: getattr(old, name) for name in ("id", "state", "kind", "plan")}
    rows = old.row_of(values["id"])
    tally = np.array(old.tally) + _tally(values["state"]) - _tally(old.state[rows[rows >= 0]])
    merged = merge_rows(columns, values)
    if all(merged[name] is columns[name] for name in merged):
        return old
    return JobColumns(**merged, words=words, tally=tuple(tally.tolist()))


def _tally(states: Iterable[Any]) -> Array:
    return np.bincount(np.asarray(states, dtype=np.int64), minlength=len(JOB_STATES))

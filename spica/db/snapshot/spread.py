"""How columns are spread and in which order rows stand: for distributions, pages of lists, and neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.db.snapshot.columns import WORD_NAMES, Array, Mask, Rows, Snapshot

FEW_ROWS = 50_000
"""So many rows are ordered by looking at their values."""


@dataclass(frozen=True)
class Spread:
    """Counts of `n` known values in equal bins from `low` to `high` (both belong to a bin), and three percentiles.

    `below` and `above` count what lies outside. Without known values the bounds and percentiles are NaN.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    n: int
    median: float
    p01: float
    p99: float
    below: int = 0
    above: int = 0


def spread(
    snapshot: Snapshot,
    mask: Mask | Rows | None,
    field: str,
    bins: int = 32,
    low: float | None = None,
    high: float | None = None,
) -> Spread:
    """Return how a column of numbers is spread over some images (mask or rows; None: all).

    Bounds that are not given are the percentiles 1 and 99. Percentiles are interpolated between neighbours.
    """
    column = snapshot.images.column(field)
    values = np.asarray(column if mask is None else column[mask], dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Spread(np.nan, np.nan, (0,) * bins, 0, np.nan, np.nan, np.nan)
    p01, median, p99 = (float(p) for p in np.percentile(values, (1.0, 50.0, 99.0), overwrite_input=True))
    low, high = p01 if low is None else low, p99 if high is None else high
    counts, below, above = binned(values, low, high, bins)
    return Spread(low, high, counts, len(values), median, p01, p99, below, above)


def binned(values: Array, low: float, high: float, bins: int) -> tuple[tuple[int, ...], int, int]:
    """Return counts in equal bins from low to high, and how many lie below and above."""
    below, above = int(np.count_nonzero(values < low)), int(np.count_nonzero(values > high))
    if not high > low:
        return (len(values) - below - above, *(0,) * (bins - 1)), below, above
    inside = values[(values >= low) & (values <= high)]
    at = np.minimum(((inside - low) * (bins / (high - low))).astype(np.int64), bins - 1)
    return tuple(np.bincount(at, minlength=bins).tolist()), below, above


@dataclass(frozen=True)
class Ranking:
    """Known values of a column, ascending, and the place of every row among them.

    Made once for a column, it tells how any rows are spread without sorting or looking at values again.
    """

    values: Array
    """Shape (m,)."""
    place: NDArray[np.int32]
    """Shape (n,); -1: the value of the row is unknown."""

    def places(self, rows: Rows) -> Rows:
        """Return the places of those rows whose values are known, ascending; shape (k,)."""
        marked = np.zeros(len(self.values) + 1, dtype=np.bool_)
        marked[self.place[rows]] = True  # the last is where unknown ones go
        return np.flatnonzero(marked[:-1])


def ranking(snapshot: Snapshot, field: str) -> Ranking:
    """Return the ranking of a column of numbers over all images; kept until the column changes."""
    column = snapshot.images.column(field)

    def compute() -> Ranking:
        known = np.flatnonzero(np.isfinite(column))
        rows = known[np.argsort(column[known], kind="stable")]
        place = np.full(len(column), -1, dtype=np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        return Ranking(column[rows].astype(np.float64), place)

    return snapshot.cache.get(("ranking", field), (column,), compute)


# Order ----------------------------------------------------------------------------------------------------------------


def ordered(snapshot: Snapshot, rows: Rows, sort: str, offset: int, limit: int) -> Rows:
    """Return one page of rows in an order: `seeing`, `-seeing`, ...; unknown last either way, equal ones by id.

    `sort` empty or unheard of, or `id`: by id. `rows` ascend. The cost is that of finding two values, not of sorting;
    of a measure, over much of the survey, that of walking along an order that was made once.
    """
    name, down = sort.removeprefix("-"), sort.startswith("-")
    if len(rows) > FEW_ROWS and _is_measure(snapshot, name):
        return _walked(_order(snapshot, name, down), rows, offset, limit)
    keys = sort_keys(snapshot, name, down, rows)
    if keys is None:
        found = rows[::-1] if name == "id" and down else rows
        return found[offset : offset + limit]
    end = min(offset + limit, len(rows))
    if offset >= end:
        return rows[:0]
    edges = np.partition(keys, sorted({offset, end - 1}))  # NaN sorts last
    first, last = edges[offset], edges[end - 1]
    if np.isnan(first):
        unknown = rows[np.isnan(keys)]
        skip = offset - (len(rows) - len(unknown))
        return unknown[skip : skip + end - offset]
    around = (keys >= first) if np.isnan(last) else (keys >= first) & (keys <= last)
    if np.isnan(last):
        around |= np.isnan(keys)
    near = np.flatnonzero(around)
    near = near[np.argsort(keys[near], kind="stable")]
    skip = offset - int(np.count_nonzero(keys < first))
    return rows[near[skip : skip + end - offset]]


def _is_measure(snapshot: Snapshot, name: str) -> bool:
    column = getattr(snapshot.images, name, None) if name in snapshot.images.__dataclass_fields__ else None
    return isinstance(column, np.ndarray) and column.dtype.kind == "f"


def _order(snapshot: Snapshot, name: str, down: bool) -> NDArray[np.int32]:
    """Return all rows in the order of a measure, unknown last, equal ones by id; kept until the column changes."""
    column = snapshot.images.column(name)

    def compute() -> NDArray[np.int32]:
        return np.argsort(-column if down else column, kind="stable").astype(np.int32)

    return snapshot.cache.get(("order", name, down), (column,), compute)


def _walked(order: NDArray[np.int32], rows: Rows, offset: int, limit: int) -> Rows:
    """Return a page of some rows by walking along the order of all."""
    wanted = np.zeros(len(order), dtype=np.bool_)
    wanted[rows] = True
    found: list[Rows] = []
    n, start, step = 0, 0, 2 * (offset + limit)
    while n < offset + limit and start < len(order):
        part = order[start : start + step]
        part = part[wanted[part]]
        found.append(part.astype(np.int64))
        n, start, step = n + len(part), start + step, 2 * step
    return np.concatenate(found)[offset : offset + limit] if found else rows[:0]


@dataclass(frozen=True)
class RowPlace:
    """Where a row stands in an order: rows before and after it, its position from 1, the length of the list."""

    previous: int | None
    next: int | None
    position: int
    total: int


def row_place(snapshot: Snapshot, rows: Rows, sort: str, row: int) -> RowPlace | None:
    """Return the place of a row among ascending rows in an order as `ordered` has it; None where it is not in them."""
    at = int(np.searchsorted(rows, row))
    if at >= len(rows) or rows[at] != row:
        return None
    name, down = sort.removeprefix("-"), sort.startswith("-")
    keys = sort_keys(snapshot, name, down, rows)
    if keys is None:
        index = len(rows) - 1 - at if name == "id" and down else at
        around = ordered(snapshot, rows, sort, max(0, index - 1), 3 if index else 2)
        before = int(around[0]) if index else None
        after = int(around[-1]) if index < len(rows) - 1 else None
        return RowPlace(before, after, index + 1, len(rows))
    keys = np.where(np.isnan(keys), np.inf, keys)
    own = keys[at]
    index = int(np.count_nonzero(keys < own)) + int(np.count_nonzero(keys[:at] == own))
    return RowPlace(_before(rows, keys, at), _after(rows, keys, at), index + 1, len(rows))


def _before(rows: Rows, keys: Array, at: int) -> int | None:
    equal = np.flatnonzero(keys[:at] == keys[at])
    if len(equal):
        return int(rows[equal[-1]])
    smaller = np.where(keys < keys[at], keys, -np.inf)
    if not np.any(keys < keys[at]):
        return None
    return int(rows[np.flatnonzero((smaller == smaller.max()) & (keys < keys[at]))[-1]])


def _after(rows: Rows, keys: Array, at: int) -> int | None:
    equal = np.flatnonzero(keys[at + 1 :] == keys[at])
    if len(equal):
        return int(rows[at + 1 + equal[0]])
    greater = keys > keys[at]
    if not greater.any():
        return None
    return int(rows[np.flatnonzero(greater & (keys == keys[greater].min()))[0]])


def sort_keys(snapshot: Snapshot, name: str, down: bool, rows: Rows) -> Array | None:
    """Return a number for each row that ascends in the order, NaN for unknown; None for the order of ids."""
    images = snapshot.images
    if name in ("", "id", "tag"):
        return None
    if name == "name":
        keys = _name_ranks(snapshot)[rows].astype(np.float64)
    elif name in WORD_NAMES:
        column = "object_name" if name == "object" else name
        ranks = _word_ranks(snapshot, column)
        keys = ranks[getattr(images, column)[rows]]
    elif name == "night":
        keys = images.night[rows].astype(np.float64)
        keys[keys == np.iinfo(np.int32).min] = np.nan
    elif name == "date" or name in images.__dataclass_fields__:
        keys = images.column(name)[rows].astype(np.float64)
        if name in ("grade", "grade_source", "machine"):
            keys[keys == 0] = np.nan
    else:
        return None
    return -keys if down else keys


def _word_ranks(snapshot: Snapshot, column: str) -> Array:
    """Return the place of each code among its words by code point; NaN for code -1, read from the end."""
    words = snapshot.images.words[column]
    ranks = np.full(len(words) + 1, np.nan)
    ranks[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    return ranks


def _name_ranks(snapshot: Snapshot) -> Array:
    names = snapshot.images.name

    def compute() -> Array:
        ranks = np.empty(len(names), dtype=np.int32)
        ranks[np.argsort(names, kind="stable")] = np.arange(len(names), dtype=np.int32)
        return ranks

    return snapshot.cache.get("name ranks", (names,), compute)

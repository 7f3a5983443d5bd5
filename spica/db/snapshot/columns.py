"""The columns of the snapshot: numpy arrays of one length a table, unknown as NaN, -1 or 0, words as codes."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.model.grade import Grade, GradeSource
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.job import JobState

Array = NDArray[Any]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
T = TypeVar("T")

KINDS, STATES, FRAMES = tuple(ImageKind), tuple(ImageState), tuple(FrameType)
JOB_STATES, GRADES, SOURCES = tuple(JobState), tuple(Grade), tuple(GradeSource)
UNKNOWN_DAY = int(np.iinfo(np.int32).min)
"""An unknown night."""
DAY_ZERO = date(1970, 1, 1)
BEYOND = 1 << 63

WORD_NAMES = ("object", "filter", "run", "instrument", "object_name")
"""Columns of words, as codes."""


@dataclass(frozen=True)
class ImageColumns:
    """All images, rows by ascending id.

    Parameters
    ----------
    id : int64
    kind, state, frame : int8
        Index in `list(ImageKind)`, `list(ImageState)`, `list(FrameType)`.
    usable : bool
        Not rejected, and its quality is known: what any rule may take.
    object, filter, run, instrument, object_name : int32
        Index in `words[name]`, -1 unknown. `object` is the key that groups, `object_name` the object as shown.
    night : int32
        Days since 1970-01-01, `UNKNOWN_DAY` unknown.
    exptime, seeing, ... radius : float64
        Units as in `spica.model.selection.FIELDS`; NaN unknown. `radius` in degrees.
    grade : int8
        The grade that counts: 0 none, 1 to 4 = A to D.
    grade_source : int8
        0 none, 1 machine, 2 human.
    machine : int8
        Newest machine grade that stands, 0 none.
    n_graders : int16
        People with a standing grade (the command line counts as one).
    split : bool
        The newest standing grades of its people differ.
    solved : bool
        It has a solution that counts.
    stacked : int32
        Stacks it entered.
    name : StringDType
    words, codes
        Words of each coded column by code, and codes by word; words are never taken away.
    tags
        Sorted rows (int64) of each tag.
    """

    id: NDArray[np.int64]
    kind: NDArray[np.int8]
    state: NDArray[np.int8]
    frame: NDArray[np.int8]
    usable: Mask
    object: NDArray[np.int32]
    filter: NDArray[np.int32]
    run: NDArray[np.int32]
    instrument: NDArray[np.int32]
    object_name: NDArray[np.int32]
    night: NDArray[np.int32]
    exptime: NDArray[np.float64]
    seeing: NDArray[np.float64]
    airmass: NDArray[np.float64]
    ellipticity: NDArray[np.float64]
    background: NDArray[np.float64]
    noise: NDArray[np.float64]
    limiting_mag: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    n_stars: NDArray[np.float64]
    skyprobe: NDArray[np.float64]
    mjd: NDArray[np.float64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    radius: NDArray[np.float64]
    grade: NDArray[np.int8]
    grade_source: NDArray[np.int8]
    machine: NDArray[np.int8]
    n_graders: NDArray[np.int16]
    split: Mask
    solved: Mask
    stacked: NDArray[np.int32]
    name: Array
    words: Mapping[str, tuple[str, ...]]
    codes: Mapping[str, Mapping[str, int]]
    tags: Mapping[str, Rows]

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.id)

    def row_of(self, ids: ArrayLike) -> Rows:
        """Return the rows of ids, -1 where there is none."""
        return rows_of(self.id, ids)

    def column(self, name: str) -> Array:
        """Return the array of a rule's field or of a column.

        Numbers are float64 with NaN, words int32 codes with -1, `night` int32 days, `date` the whole MJD as float64.

        Raises
        ------
        KeyError
            For `tag` and for names that there are not.
        """
        if name == "date":
            return np.floor(self.mjd)
        if name not in COLUMN_NAMES:
            raise KeyError(name)
        found: Array = getattr(self, name)
        return found

    def code(self, column: str, word: str) -> int:
        """Return the code of a word in a column, -2 where no image has it (-1 is the code of unknown)."""
        return self.codes[column].get(word, -2)

    def word(self, column: str, row: int) -> str | None:
        """Return the word of one row of a coded column, None where it is unknown."""
        code = int(getattr(self, column)[row])
        return None if code < 0 else self.words[column][code]

    def day(self, row: int) -> date | None:
        """Return the night of a row."""
        days = int(self.night[row])
        return None if days == UNKNOWN_DAY else date.fromordinal(DAY_ZERO.toordinal() + days)


IMAGE_NAMES = tuple(f.name for f in dataclasses.fields(ImageColumns) if f.name not in ("words", "codes", "tags"))
COLUMN_NAMES = frozenset(IMAGE_NAMES)


@dataclass(frozen=True)
class JobColumns:
    """All jobs, rows by ascending id: state (index in `list(JobState)`), kind (code in `words`), plan (-1 none)."""

    id: NDArray[np.int64]
    state: NDArray[np.int8]
    kind: NDArray[np.int16]
    plan: NDArray[np.int64]
    words: tuple[str, ...]
    tally: tuple[int, ...]

    def __len__(self) -> int:
        """Return how many jobs there are."""
        return len(self.id)

    def row_of(self, ids: ArrayLike) -> Rows:
        """Return the rows of ids, -1 where there is none."""
        return rows_of(self.id, ids)

    def counts(self) -> dict[JobState, int]:
        """Return how many jobs stand in each state, without looking at the rows."""
        return dict(zip(JOB_STATES, self.tally, strict=True))


@dataclass(frozen=True)
class GradeColumns:
    """All grades, rows by ascending id.

    `image` is the image's id, `row` its row in `ImageColumns`; `source` 1 machine, 2 human; `grade` 1 to 4 = A to D;
    `person` 0 none (machine or command line); `created` s since 1970 UTC; `seconds` NaN where not given in the queue.
    """

    id: NDArray[np.int64]
    image: NDArray[np.int64]
    row: NDArray[np.int32]
    source: NDArray[np.int8]
    grade: NDArray[np.int8]
    person: NDArray[np.int32]
    created: NDArray[np.float64]
    withdrawn: Mask
    blind: Mask
    seconds: NDArray[np.float32]

    def __len__(self) -> int:
        """Return how many grades there are."""
        return len(self.id)


GRADE_NAMES = tuple(f.name for f in dataclasses.fields(GradeColumns))


class Cache:
    """What was computed from columns, kept as long as those very arrays serve; threads may share it.

    A new version of the snapshot shares the arrays that did not change, so what was computed from them still holds.
    """

    def __init__(self, limit: int = 1000) -> None:
        """Keep at most `limit` results."""
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, tuple[tuple[weakref.ref[Array], ...], Any]] = OrderedDict()
        self._busy: dict[Any, threading.Lock] = {}

    def get(self, key: Any, sources: Sequence[Array], compute: Callable[[], T]) -> T:
        """Return what was kept under a key for these arrays, else compute and keep it; one thread does, others wait."""
        with self._lock:
            found = self._find(key, sources)
            busy = self._busy.setdefault(key, threading.Lock())
        if found is None:
            with busy:
                with self._lock:
                    found = self._find(key, sources)
                if found is None:
                    found = (compute(),)
                    self._keep(key, sources, found[0])
        made: T = found[0]
        return made

    def _find(self, key: Any, sources: Sequence[Array]) -> tuple[Any] | None:
        found = self._kept.get(key)
        if found is None or not _are(found[0], sources):
            return None
        self._kept.move_to_end(key)
        return (found[1],)

    def _keep(self, key: Any, sources: Sequence[Array], made: Any) -> None:
        with self._lock:
            self._kept[key] = (tuple(weakref.ref(a) for a in sources), made)
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                dropped, _ = self._kept.popitem(last=False)
                self._busy.pop(dropped, None)


def _are(kept: Sequence[weakref.ref[Array]], sources: Sequence[Array]) -> bool:
    return len(kept) == len(sources) and all(ref() is array for ref, array in zip(kept, sources, strict=True))


@dataclass(frozen=True)
class Snapshot:
    """All images, jobs and grades as they were at one moment of the database.

    `taken_at` is a moment (UTC, the database's clock) whose state the columns show or surpass; `version` counts
    changes. A cache for pages, never the truth: acts judge again by SQL.
    """

    taken_at: datetime
    version: int
    images: ImageColumns
    jobs: JobColumns
    grades: GradeColumns
    cache: Cache = field(default_factory=Cache, compare=False, repr=False)

    @property
    def age_s(self) -> float:
        """Seconds since it was refreshed, by this host's clock; never negative."""
        return max(0.0, (datetime.now(UTC) - self.taken_at).total_seconds())


def rows_of(sorted_ids: NDArray[np.int64], ids: ArrayLike) -> Rows:
    """Return where ids stand in ascending ids, -1 where they do not; numbers beyond 64 bits stand nowhere."""
    if isinstance(ids, list | tuple):
        ids = [i if -BEYOND < i < BEYOND else -1 for i in ids]
    wanted = np.atleast_1d(np.asarray(ids, dtype=np.int64))
    if not len(sorted_ids):
        return np.full(wanted.shape, -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(sorted_ids, wanted), len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == wanted, at, -1).astype(np.int64)


# Arrays that grow -----------------------------------------------------------------------------------------------------


def frozen(array: Array) -> Array:
    """Return a view that cannot be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def roomy(n: int, dtype: Any) -> Array:
    """Return the writable first n places of an array that has room for more behind them."""
    return np.empty(n + n // 32 + 256, dtype=dtype)[:n]


def changed_at(array: Array, rows: Rows, values: Array) -> Array:
    """Return an array with new values in some rows: the very same where nothing differs, else a copy."""
    if not len(rows) or _same(array[rows], values):
        return array
    copy = roomy(len(array), array.dtype)
    copy[:] = array
    copy[rows] = values
    return frozen(copy)


def _same(old: Array, new: Array) -> bool:
    return bool(np.array_equal(old, new, equal_nan=old.dtype.kind == "f"))


def extended(array: Array, values: Array) -> Array:
    """Return an array with values behind: in the room behind it where there is some, else a copy.

    Only the newest version of a column may be extended: older versions share the memory but end before it.
    """
    n, more = len(array), len(values)
    if not more:
        return array
    backing = array.base
    if not isinstance(backing, np.ndarray) or len(backing) < n + more:
        whole = roomy(n + more, array.dtype)
        whole[:n] = array
        whole[n:] = values
        return frozen(whole)
    backing[n : n + more] = values
    return frozen(backing[: n + more])

"""Nights, runs and objects of the survey: counted over the snapshot; the gaps in the numbers of a night's exposures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Text, any_, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.pages.tally import (
    EXPOSURE,
    MADE,
    STACK,
    Tally,
    code_of_day,
    day_of,
    is_exposure,
    known,
    tally,
    word_of,
)
from spica.db.snapshot.columns import GRADES, STATES, UNKNOWN_DAY, ImageColumns
from spica.db.tables.image import ImageRow
from spica.db.tables.product import StackInputRow
from spica.model.job import Outcome

MAX_GAP = 200
"""Numbers missing in a row beyond which a name bears no running number."""
MAX_ASKED = 4000
MAX_NAME, MAX_DIGITS, MAX_TAIL = 120, 9, 8
"""Characters of a name that are looked at, digits of its running number, and characters behind that."""

Rows = NDArray[np.int64]
Letters = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class FilterCount:
    """Exposures in one filter; None: unknown."""

    filter: str | None
    n: int


@dataclass(frozen=True)
class NightEntry:
    """One night; numbers as in `Tally`."""

    night: date
    n: int
    filters: tuple[FilterCount, ...]
    grades: Letters
    exptime_s: float
    seeing_arcsec: float | None
    limiting_mag: float | None
    stacked: int
    rejected: int


@dataclass(frozen=True)
class RunEntry:
    """One observing run; numbers as in `Tally`."""

    run: str
    first_night: date | None
    last_night: date | None
    nights: int
    n: int
    filters: tuple[FilterCount, ...]
    grades: Letters
    exptime_s: float
    seeing_arcsec: float | None
    limiting_mag: float | None
    stacked: int
    rejected: int


@dataclass(frozen=True)
class ObjectEntry:
    """One object in one filter; numbers as in `Tally`, `stacks` that were made of it."""

    object: str | None
    filter: str | None
    n: int
    grades: Letters
    exptime_s: float
    seeing_arcsec: float | None
    limiting_mag: float | None
    depth_mag: float | None
    stacked: int
    stacks: int
    rejected: int
    ra_deg: float | None
    dec_deg: float | None


@dataclass(frozen=True)
class NightExposure:
    """One exposure on the time line of a night; unknown is None."""

    id: int
    name: str
    object: str | None
    filter: str | None
    mjd: float | None
    exptime_s: float | None
    seeing_arcsec: float | None
    airmass: float | None
    limiting_mag: float | None
    grade: str | None
    grade_source: str | None
    state: str
    stacked: int

    @property
    def ut(self) -> str:
        """Time of its middle, UTC, as 03:12:07; a dash where unknown."""
        if self.mjd is None:
            return "–"
        second = round(self.mjd % 1.0 * 86400.0) % 86400
        return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


@dataclass(frozen=True)
class Gap:
    """Running numbers that no exposure bears: the first name, the last, how many."""

    first: str
    last: str
    n: int

    @property
    def words(self) -> str:
        """The names: one, or from one to another."""
        return self.first if self.n == 1 else f"{self.first} to {self.last}"


def list_nights(images: ImageColumns) -> list[NightEntry]:
    """Return all nights, newest first."""
    rows = np.flatnonzero(is_exposure(images) & (images.night != UNKNOWN_DAY))
    night = images.night[rows]
    filters = _filters(images, rows, night)
    found = [
        NightEntry(
            day, t.n, filters[t.key[0]], t.grades, t.exptime_s, t.seeing_arcsec, t.limiting_mag, t.stacked, t.rejected
        )
        for t in tally(images, rows, [night])
        if (day := day_of(t.key[0])) is not None
    ]
    return sorted(found, key=lambda e: e.night, reverse=True)


def list_runs(images: ImageColumns) -> list[RunEntry]:
    """Return all runs, newest first."""
    rows = np.flatnonzero(is_exposure(images) & (images.run >= 0))
    run = images.run[rows]
    filters, nights = _filters(images, rows, run), _nights(run, images.night[rows])
    words = images.words["run"]
    found = []
    for t in tally(images, rows, [run]):
        days = nights.get(t.key[0], [])
        found.append(
            RunEntry(
                words[t.key[0]], days[0] if days else None, days[-1] if days else None, len(days), t.n,
                filters[t.key[0]], t.grades, t.exptime_s, t.seeing_arcsec, t.limiting_mag, t.stacked, t.rejected,
            )
        )  # fmt: skip
    return sorted(found, key=lambda e: (e.last_night or date.min, e.run), reverse=True)


def list_objects(images: ImageColumns) -> list[ObjectEntry]:
    """Return all objects by filter, those with most exposures first."""
    rows = np.flatnonzero(is_exposure(images))
    groups = tally(images, rows, [images.object[rows], images.filter[rows]])
    stacks = _stacks(images)
    found = [_object(images, t, stacks) for t in groups]
    total: dict[str, int] = defaultdict(int)
    for entry in found:
        total[entry.object or ""] += entry.n
    return sorted(found, key=lambda e: (e.object is None, -total[e.object or ""], e.object or "", -e.n))


def _object(images: ImageColumns, t: Tally, stacks: Mapping[tuple[int, int], int]) -> ObjectEntry:
    shown = word_of(images.words["object_name"], int(images.object_name[t.first])) if t.key[0] >= 0 else None
    return ObjectEntry(
        shown, word_of(images.words["filter"], t.key[1]), t.n, t.grades, t.exptime_s, t.seeing_arcsec, t.limiting_mag,
        t.depth_mag, t.stacked, stacks.get((t.key[0], t.key[1]), 0), t.rejected, t.ra_deg, t.dec_deg,
    )  # fmt: skip


def _stacks(images: ImageColumns) -> dict[tuple[int, int], int]:
    found: dict[tuple[int, int], int] = defaultdict(int)
    rows = np.flatnonzero((images.kind == STACK) & np.isin(images.state, MADE))
    for object_code, filter_code in zip(images.object[rows].tolist(), images.filter[rows].tolist(), strict=True):
        found[object_code, filter_code] += 1
    return found


def _filters(images: ImageColumns, rows: Rows, group: NDArray[Any]) -> dict[int, tuple[FilterCount, ...]]:
    """Return the exposures by filter of each group, most first."""
    width = max(1, len(images.words["filter"])) + 1
    pairs, counts = np.unique(group.astype(np.int64) * width + images.filter[rows] + 1, return_counts=True)
    found: dict[int, list[FilterCount]] = defaultdict(list)
    for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True):
        found[pair // width].append(FilterCount(word_of(images.words["filter"], pair % width - 1), n))
    return {g: tuple(sorted(f, key=lambda c: (-c.n, c.filter or ""))) for g, f in found.items()}


def _nights(group: NDArray[Any], night: NDArray[Any]) -> dict[int, list[date]]:
    """Return the nights of each group, in order."""
    pairs = np.unique(np.column_stack([group, night]).astype(np.int64), axis=0)
    found: dict[int, list[date]] = defaultdict(list)
    for code, day in pairs.tolist():
        known_day = day_of(day)
        if known_day is not None:
            found[code].append(known_day)
    return found


def night_rows(images: ImageColumns, night: date) -> Rows:
    """Return the rows of the exposures of a night, of whatever frame, by time; those without time by id, last."""
    rows = np.flatnonzero((images.kind == EXPOSURE) & (images.night == code_of_day(night)))
    order = np.lexsort((images.id[rows], images.mjd[rows]))
    found: Rows = rows[order]
    return found


def read_night(images: ImageColumns, rows: Rows) -> list[NightExposure]:
    """Return the exposures of rows as the time line shows them."""
    sources = (None, "machine", "human")
    return [
        NightExposure(
            int(images.id[r]), str(images.name[r]), images.word("object_name", r), images.word("filter", r),
            known(images.mjd[r]), known(images.exptime[r]), known(images.seeing[r]), known(images.airmass[r]),
            known(images.limiting_mag[r]), GRADES[g - 1].value if (g := int(images.grade[r])) else None,
            sources[int(images.grade_source[r])], STATES[int(images.state[r])].value, int(images.stacked[r]),
        )
        for r in rows.tolist()
    ]  # fmt: skip


# Gaps -----------------------------------------------------------------------------------------------------------------


def missing_names(names: Sequence[str]) -> list[list[list[str]]]:
    """Return what is missing between running numbers of names.

    Names count as numbered alike where what stands before the last number (of nine digits at most) is the same; what
    stands behind (eight characters at most) may differ: 744123p is an exposure, 744124b a bias of the same counter. A
    list a gap, of the numbers in it, of the names that each could have. Nothing where the numbers do not run: a gap of
    more than 200, or more gaps than half of the names.
    """
    plain = [n.partition("~")[0][:MAX_NAME] for n in names]
    if not any(plain):
        return []
    letters = np.array(plain, dtype=np.str_)
    codes = letters.view(np.uint32).reshape(len(plain), -1)
    place = np.arange(codes.shape[1])
    digit = (codes >= ord("0")) & (codes <= ord("9"))
    last = codes.shape[1] - 1 - np.argmax(digit[:, ::-1], axis=1)
    before = ~digit & (place < last[:, None])
    start = np.where(before.any(axis=1), codes.shape[1] - np.argmax(before[:, ::-1], axis=1), 0)
    start = np.maximum(start, last - MAX_DIGITS + 1)
    numbered = digit.any(axis=1) & (np.strings.str_len(letters) - last - 1 <= MAX_TAIL)
    of_number = (place >= start[:, None]) & (place <= last[:, None])
    values = np.where(of_number, codes.astype(np.int64) - ord("0"), 0) * 10 ** np.clip(last[:, None] - place, 0, 9)
    heads = np.where(place < start[:, None], codes, 0).astype(np.uint32).view(letters.dtype).ravel()
    _, series = np.unique(heads, return_inverse=True)
    gaps: list[list[list[str]]] = []
    for one in range(int(series.max()) + 1):
        rows = np.flatnonzero(numbered & (series == one))
        if len(rows):
            gaps += _gaps_of([plain[r] for r in rows], values.sum(axis=1)[rows], start[rows], last[rows])
    return gaps


def _gaps_of(names: Sequence[str], numbers: Rows, start: Rows, last: Rows) -> list[list[list[str]]]:
    """Return the gaps between names that begin alike; `start` and `last` are where each one's number stands."""
    found, first = np.unique(numbers, return_index=True)
    steps = np.diff(found) - 1
    if np.any(steps > MAX_GAP) or np.count_nonzero(steps > 0) > len(found) // 2 + 1:
        return []
    if not np.any(steps > 0):
        return []
    tails = list(dict.fromkeys(n[end + 1 :] for n, end in zip(names, last.tolist(), strict=True)))[:6]
    gaps = []
    for i in np.flatnonzero(steps > 0).tolist():
        low, row = int(found[i]), int(first[i])
        head, width, tail = names[row][: start[row]], int(last[row] - start[row] + 1), names[row][last[row] + 1 :]
        own = [tail, *(t for t in tails if t != tail)]
        gaps.append([[f"{head}{n:0{width}d}{t}" for t in own] for n in range(low + 1, int(found[i + 1]))])
    return gaps


def find_gaps(session: Session, names_of: Mapping[date, Sequence[str]]) -> dict[date, list[Gap]]:
    """Return the gaps of nights by the names of their exposures: one statement, by the index of names.

    A number that an image of another night bears is no gap.
    """
    missing = {night: missing_names(names) for night, names in names_of.items()}
    asked = list({name for gaps in missing.values() for gap in gaps for names in gap for name in names})[:MAX_ASKED]
    there = _known_names(session, asked) if asked else set()
    return {night: [g for gap in gaps for g in _left(gap, there)] for night, gaps in missing.items()}


def _known_names(session: Session, names: Sequence[str]) -> set[str]:
    query = select(ImageRow.name).where(ImageRow.name == any_(literal(list(names), ARRAY(Text))))
    return set(session.scalars(query))


def _left(gap: Sequence[Sequence[str]], there: set[str]) -> list[Gap]:
    """Return the parts of a gap that no image fills."""
    found: list[Gap] = []
    run: list[str] = []
    for names in [*gap, []]:
        if names and not there.intersection(names):
            run.append(names[0])
        elif run:
            found.append(Gap(run[0], run[-1], len(run)))
            run = []
    return found


def count_stacks(session: Session, image_ids: Sequence[int]) -> int:
    """Return how many stacks exposures entered: one statement, by the index of inputs."""
    taken = StackInputRow.outcome.in_((Outcome.USED, Outcome.USED_WITH_WARNING))
    ids = literal([int(i) for i in image_ids], ARRAY(BigInteger))
    query = select(func.count(StackInputRow.stack_id.distinct())).where(StackInputRow.image_id == any_(ids), taken)
    return session.scalar(query) or 0

"""Lists of images as the pages show them: what narrows them, where one stands in them, how measures are spread."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Select,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.snapshot import KINDS, UNKNOWN_DAY, ImageColumns, Snapshot, Spread, spread
from spica.db.tables.image import ImageReasonRow, ImageRow, MeasureRow
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageKind, ImageState

Condition = ColumnElement[bool]
MEASURES = (
    "seeing_arcsec",
    "ellipticity",
    "background_adu",
    "noise_adu",
    "limiting_mag",
    "n_stars",
    "zero_point_mag",
    "skyprobe_mag",
)
FIELD_OF = {
    "seeing_arcsec": "seeing",
    "ellipticity": "ellipticity",
    "background_adu": "background",
    "noise_adu": "noise",
    "limiting_mag": "limiting_mag",
    "n_stars": "n_stars",
    "zero_point_mag": "zero_point",
    "skyprobe_mag": "skyprobe",
}
"""Column of the snapshot of each measure."""
BINS = 32
MAX_OBJECTS, MAX_NIGHTS = 500, 400
MAX_SPAN_DAYS = 400_000
MAX_PAIRS = 4_000_000
EPOCH = date(1970, 1, 1).toordinal()


class ImageLine(NamedTuple):
    """One exposure as the list shows it; `reason` says why it is rejected or failed."""

    id: int
    name: str
    object: str | None
    filter: str | None
    night: date | None
    exptime_s: float | None
    airmass: float | None
    seeing_arcsec: float | None
    ellipticity: float | None
    background_adu: float | None
    limiting_mag: float | None
    zero_point_mag: float | None
    skyprobe_mag: float | None
    n_stars: int | None
    grade: Grade | None
    grade_source: GradeSource | None
    state: ImageState
    reason: str
    reason_code: str


@functools.cache
def _lines_said() -> Select[*tuple[Any, ...]]:
    i, m = ImageRow, MeasureRow
    return (
        select(
            *(i.id, i.name, i.object, i.filter, i.night, i.exptime_s, i.airmass, m.seeing_arcsec, m.ellipticity),
            *(m.background_adu, m.limiting_mag, m.zero_point_mag, m.skyprobe_mag, m.n_stars, m.grade, m.grade_source),
            i.state,
        )
        .outerjoin(m, m.image_id == i.id)
        .where(i.id == any_(bindparam("ids", type_=ARRAY(BigInteger))))
    )


def read_lines(session: Session, ids: Sequence[int]) -> list[ImageLine]:
    """Return exposures as the tables hold them now, in the order of their ids given: two statements."""
    rows = {row[0]: row for row in session.execute(_lines_said(), {"ids": list(ids)})} if ids else {}
    told = _reasons(session, list(rows))
    return [ImageLine._make((*rows[k], *told.get(k, ("", "")))) for k in ids if k in rows]


@functools.cache
def _reasons_said() -> Select[int, str, str]:
    r, ids = ImageReasonRow, bindparam("ids", type_=ARRAY(BigInteger))
    return select(r.image_id, r.text, r.code).where(r.image_id == any_(ids)).order_by(r.id)


def _reasons(session: Session, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Return the reasons of images in words, and the code of the first."""
    found: dict[int, tuple[str, str]] = {}
    for image_id, words, code in session.execute(_reasons_said(), {"ids": list(ids)}) if ids else ():
        before = found.get(image_id)
        found[image_id] = (words, code) if before is None else (f"{before[0]}; {words}", before[1])
    return found


@dataclass(frozen=True)
class Facets:
    """What the lists can be narrowed to; beside each word how many images have it, where that was counted."""

    objects: tuple[str, ...]
    filters: tuple[str, ...]
    nights: tuple[date, ...]
    n_objects: tuple[int, ...] = ()
    n_filters: tuple[int, ...] = ()
    n_nights: tuple[int, ...] = ()


def facets(snapshot: Snapshot) -> Facets:
    """Return the objects, filters and newest nights of exposures, with counts, without looking at the database."""
    images = snapshot.images
    sources = (images.kind, images.object, images.object_name, images.filter, images.night)

    def compute() -> Facets:
        mask = images.kind == KINDS.index(ImageKind.EXPOSURE)
        objects = _shown_objects(images, mask)[:MAX_OBJECTS]
        filters = sorted(_counted(images.filter[mask], images.words["filter"]))
        days = images.night[mask & (images.night != UNKNOWN_DAY)]
        first = int(days.min()) if len(days) else 0
        numbers = np.bincount(days - first) if len(days) and int(days.max()) - first < MAX_SPAN_DAYS else ()
        nights = [(date.fromordinal(EPOCH + first + k), int(n)) for k, n in enumerate(numbers) if n][::-1][:MAX_NIGHTS]
        return Facets(
            tuple(word for word, _ in objects),
            tuple(word for word, _ in filters),
            tuple(night for night, _ in nights),
            tuple(n for _, n in objects),
            tuple(n for _, n in filters),
            tuple(n for _, n in nights),
        )

    return snapshot.cache.get("facets", sources, compute)


def stack_filters(snapshot: Snapshot, kind: ImageKind) -> tuple[str, ...]:
    """Return the filters of stacks or calibrated copies, without looking at the database."""
    images = snapshot.images

    def compute() -> tuple[str, ...]:
        codes = np.unique(images.filter[images.kind == KINDS.index(kind)])
        return tuple(sorted(images.words["filter"][c] for c in codes.tolist() if c >= 0))

    return snapshot.cache.get(("filters", kind), (images.kind, images.filter), compute)


def _counted(codes: NDArray[np.int32], words: Sequence[str]) -> list[tuple[str, int]]:
    counts = np.bincount(codes[codes >= 0], minlength=len(words))
    return [(word, int(n)) for word, n in zip(words, counts, strict=True) if n]


def _shown_objects(images: ImageColumns, mask: NDArray[np.bool_]) -> list[tuple[str, int]]:
    """Return each object once, by its most frequent spelling, with the images of all spellings, in order."""
    keys, shown = images.object[mask], images.object_name[mask]
    known = (keys >= 0) & (shown >= 0)
    width = len(images.words["object_name"]) or 1
    pairs = keys[known].astype(np.int64) * width + shown[known]
    if len(images.words["object"]) * width <= MAX_PAIRS:
        counts = np.bincount(pairs)
        found = np.flatnonzero(counts)
        numbers = counts[found]
    else:
        found, numbers = np.unique(pairs, return_counts=True)
    best: dict[int, tuple[int, str]] = {}
    total: dict[int, int] = defaultdict(int)
    for pair, n in zip(found.tolist(), numbers.tolist(), strict=True):
        key, word = pair // width, images.words["object_name"][pair % width]
        total[key] += n
        best[key] = max(best.get(key, (0, "")), (n, word))
    return sorted(((word, total[key]) for key, (_, word) in best.items()), key=lambda o: (o[0].casefold(), o[0]))


def read_facets(session: Session) -> Facets:
    """Return the objects, filters and newest nights of exposures: one statement."""
    of = ImageRow.kind == ImageKind.EXPOSURE

    def part(word: str, shown: Any) -> Select[Any]:
        return select(literal(word), shown).where(of, shown.is_not(None)).distinct()

    night = func.to_char(ImageRow.night, "YYYY-MM-DD")
    query = union_all(part("object", ImageRow.object), part("filter", ImageRow.filter), part("night", night))
    found: dict[str, list[str]] = defaultdict(list)
    for word, value in session.execute(query):
        found[word].append(value)
    nights = sorted((date.fromisoformat(n) for n in found["night"]), reverse=True)
    objects = sorted(found["object"], key=str.casefold)
    return Facets(tuple(objects[:500]), tuple(sorted(found["filter"])), tuple(nights[:400]))


def count_images(session: Session, where: Sequence[Condition], kind: ImageKind) -> tuple[int, int]:
    """Return how many images of a kind meet the conditions, and how many there are: one statement."""
    met = func.count().filter(and_(True, *where))
    query = (
        select(met, func.count())
        .select_from(ImageRow)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == kind)
    )
    n, total = session.execute(query).one()
    return n, total


@dataclass(frozen=True)
class Place:
    """Where an image stands in a list: its neighbours, its position from 1, and the length of the list."""

    previous: int | None
    next: int | None
    position: int
    total: int


@dataclass(frozen=True)
class Distribution:
    """How one measure is spread over the survey: counts between `low` and `high` (percentiles 1 and 99).

    Counts have one bin below and one above; `below` is the fraction of images with a smaller value than this one.
    """

    measure: str
    low: float
    high: float
    n: int
    counts: tuple[int, ...]
    below: float | None


def distributions(snapshot: Snapshot, image_id: int) -> dict[str, Distribution]:
    """Return the spread of each measure over the images of the same kind and filter as an image.

    A measure that fewer than three images know, or that has one value for all, is left out. Bins are counted once for
    as long as the columns stay the same; `below` is counted for the image.
    """
    images = snapshot.images
    (row,) = images.row_of([image_id]).tolist()
    if row < 0:
        return {}
    kind, code = int(images.kind[row]), int(images.filter[row])
    mask = _alike(snapshot, kind, code)
    found = {}
    for measure, field in FIELD_OF.items():
        column = images.column(field)
        part = _spread_of(snapshot, mask, (kind, code), field)
        if part.n < 3 or not part.high > part.low:
            continue
        own, below = column[row], None
        if not np.isnan(own):
            below = int(np.searchsorted(_ordered(snapshot, mask, (kind, code), field), own)) / part.n
        counts = (part.below, *part.counts, part.above)
        found[measure] = Distribution(measure, part.low, part.high, part.n, counts, below)
    return found


def _alike(snapshot: Snapshot, kind: int, code: int) -> NDArray[np.bool_]:
    kinds, filters = snapshot.images.kind, snapshot.images.filter

    def compute() -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = (kinds == kind) & (filters == code)
        return mask

    return snapshot.cache.get(("alike", kind, code), (kinds, filters), compute)


def _ordered(snapshot: Snapshot, mask: NDArray[np.bool_], alike: tuple[int, int], field: str) -> NDArray[np.float64]:
    """Return the known values of a measure of images that are alike, ascending."""
    column = snapshot.images.column(field)

    def compute() -> NDArray[np.float64]:
        values = np.sort(column[mask].astype(np.float64))
        return values[: np.count_nonzero(~np.isnan(values))]

    return snapshot.cache.get(
        ("ordered", alike, field), (snapshot.images.kind, snapshot.images.filter, column), compute
    )


def _spread_of(snapshot: Snapshot, mask: NDArray[np.bool_], alike: tuple[int, int], field: str) -> Spread:
    images = snapshot.images
    sources = (images.kind, images.filter, images.column(field))
    return snapshot.cache.get(("spread", alike, field), sources, lambda: spread(snapshot, mask, field, BINS))


def read_distributions(session: Session, image: ImageRow) -> dict[str, Distribution]:
    """Return the spread of each measure over the images of the same kind and filter: one statement.

    A measure that fewer than three images know is left out.
    """
    base = (
        select(ImageRow.id, *(getattr(MeasureRow, name) for name in MEASURES))
        .join(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == image.kind, ImageRow.filter.is_not_distinct_from(image.filter))
        .cte("base")
    )
    parts = [
        select(base.c.id, literal(name).label("name"), cast(base.c[name], Float).label("value")).where(
            base.c[name].is_not(None)
        )
        for name in MEASURES
    ]
    long = union_all(*parts).cte("long")
    own = select(long.c.name, long.c.value).where(long.c.id == image.id).subquery("own")
    bounds = (
        select(
            long.c.name,
            func.percentile_cont(0.01).within_group(long.c.value).label("low"),
            func.percentile_cont(0.99).within_group(long.c.value).label("high"),
            func.count().label("n"),
            (func.count().filter(long.c.value < own.c.value) / cast(func.count(), Float)).label("below"),
        )
        .outerjoin(own, own.c.name == long.c.name)
        .group_by(long.c.name, own.c.value)
        .subquery("bounds")
    )
    bin_of = func.width_bucket(long.c.value, bounds.c.low, bounds.c.high, BINS).label("bin")
    query = (
        select(long.c.name, bounds.c.low, bounds.c.high, bounds.c.n, bounds.c.below, bin_of, func.count())
        .join(bounds, bounds.c.name == long.c.name)
        .where(bounds.c.high > bounds.c.low, bounds.c.n >= 3)
        .group_by(long.c.name, bounds.c.low, bounds.c.high, bounds.c.n, bounds.c.below, bin_of)
    )
    return _gathered([tuple(r) for r in session.execute(query)])


def _gathered(rows: list[tuple[Any, ...]]) -> dict[str, Distribution]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * (BINS + 2))
    heads: dict[str, tuple[float, float, int, float | None]] = {}
    for name, low, high, n, below, number, count in rows:
        counts[name][min(int(number), BINS + 1)] += count
        heads[name] = (low, high, n, below)
    return {
        name: Distribution(name, low, high, n, tuple(counts[name]), below)
        for name, (low, high, n, below) in heads.items()
    }

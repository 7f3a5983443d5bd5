"""The survey at a glance: the flow of exposures, what is late, what failed, and what lies on the sky.

Counts come from the snapshot; the statements here use indexes and have limits, so that none walks a whole table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Text, exists, func, select
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.orm import Session

from spica.db.pages.tally import EXPOSURE, REJECTED, STACK, code_of_day, day_of, is_exposure, word_of
from spica.db.snapshot.columns import STATES, UNKNOWN_DAY, ImageColumns, JobColumns
from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow
from spica.db.tables.job import JobRow
from spica.model.grade import Grade
from spica.model.image import FileKind
from spica.model.job import JobState

MAX_SHAPES = 600
MAX_CORNERS_ROWS = 12_000
MAX_FAILED = 2000
"""Newest failed jobs that are grouped by cause."""
HUMAN = 2

Polygon = tuple[tuple[float, float], ...]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class FlowCounts:
    """How many exposures have come how far.

    `disagree`: a person's grade counts and the machine's differs. `split`: people's grades differ.
    """

    arrived: int
    rejected: int
    verified: int
    assessed: int
    graded: int
    by_hand: int
    disagree: int
    split: int
    stacked: int


@dataclass(frozen=True)
class Flow:
    """The flow of the whole survey and of its last night, and its stacks by state."""

    total: FlowCounts
    tonight: FlowCounts
    night: date | None
    stacks: dict[str, int]

    @property
    def made(self) -> int:
        """Stacks whose pixels exist."""
        return self.stacks.get("made", 0) + self.stacks.get("delivered", 0)


@dataclass(frozen=True)
class ErrorGroup:
    """Failed jobs that failed for one cause; `text` is that of the newest of them, `jobs` its first ids."""

    kind: str | None
    text: str | None
    n: int
    jobs: tuple[int, ...]
    step: str


@dataclass(frozen=True)
class SkyShape:
    """One image on the sky: its centre in degrees, and the polygons of its detectors where they were asked for."""

    id: int
    name: str
    object: str | None
    kind: str
    state: str
    grade: str | None
    ra_deg: float
    dec_deg: float
    radius_deg: float | None
    polygons: tuple[Polygon, ...]


def read_flow(images: ImageColumns) -> Flow:
    """Return the counts of the flow."""
    whole = images.kind == EXPOSURE
    nights = images.night[whole]
    nights = nights[nights != UNKNOWN_DAY]
    newest = int(nights.max()) if len(nights) else UNKNOWN_DAY
    tonight = whole & (images.night == newest) if len(nights) else np.zeros(len(images), dtype=np.bool_)
    states = np.bincount(images.state[images.kind == STACK], minlength=len(STATES))
    stacks = {state.value: int(n) for state, n in zip(STATES, states, strict=True) if n}
    return Flow(_counts(images, whole), _counts(images, tonight), day_of(newest), stacks)


def _counts(images: ImageColumns, among: Mask) -> FlowCounts:
    """Return the counts of some exposures."""
    rows = np.flatnonzero(among)
    rejected = images.state[rows] == REJECTED
    grade, machine = images.grade[rows], images.machine[rows]
    by_hand = ~rejected & (images.grade_source[rows] == HUMAN)
    flags = (
        rejected,
        ~rejected,
        images.usable[rows],
        ~rejected & (grade > 0),
        by_hand,
        by_hand & (machine > 0) & (machine != grade),
        ~rejected & images.split[rows],
        images.stacked[rows] > 0,
    )
    return FlowCounts(len(rows), *(int(np.count_nonzero(f)) for f in flags))


@dataclass(frozen=True)
class Waiting:
    """Files of exposures that are not verified yet, and since how many seconds the first of them waits."""

    n: int
    oldest_s: float | None


def read_waiting(session: Session) -> Waiting:
    """Return the files that wait to be verified: one statement, which compares all files with all images.

    Dear on a large survey: keep its answer.
    """
    image = exists().where(ImageRow.file_id == FileRow.id)
    age = func.extract("epoch", func.now() - func.min(FileRow.created_at))
    query = select(func.count(), age).where(FileRow.kind == FileKind.EXPOSURE, ~image)
    n, oldest = session.execute(query).one()
    return Waiting(n, None if oldest is None else float(oldest))


@dataclass(frozen=True)
class Short:
    """An object and filter of which a night brought fewer exposures than its other nights do (their median)."""

    object: str
    filter: str | None
    n: int
    usual: int


def short_fields(images: ImageColumns, night: date, least: int = 3) -> list[Short]:
    """Return objects and filters of a night with less than half of their usual exposures, most missing first.

    Usual is the median over the other nights on which they were observed, of which there must be `least`.
    """
    code = code_of_day(night)
    mask = is_exposure(images) & (images.object >= 0) & (images.night != UNKNOWN_DAY)
    tonight = np.unique(np.column_stack([images.object, images.filter])[mask & (images.night == code)], axis=0)
    mask &= np.isin(images.object, tonight[:, 0]) if len(tonight) else False
    rows = np.flatnonzero(mask)
    width = len(images.words["filter"]) + 1
    pairs = images.object[rows].astype(np.int64) * width + images.filter[rows] + 1
    first = int(images.night[rows].min()) if len(rows) else 0
    days = images.night[rows].astype(np.int64) - first
    span = int(days.max(initial=0)) + 1
    seen, at, counts = np.unique(pairs * span + days, return_index=True, return_counts=True)
    pair_of, day_of = seen // span, seen % span + first
    wanted = tonight[:, 0].astype(np.int64) * width + tonight[:, 1] + 1 if len(tonight) else np.empty(0, np.int64)
    found = []
    for pair, low, high in zip(
        wanted.tolist(), np.searchsorted(pair_of, wanted), np.searchsorted(pair_of, wanted, "right"), strict=True
    ):
        here = day_of[low:high] == code
        others, n = counts[low:high][~here], int(counts[low:high][here].sum())
        usual = int(np.median(others)) if len(others) >= least else 0
        if n * 2 < usual:
            name = word_of(images.words["object_name"], int(images.object_name[rows[at[high - 1]]]))
            found.append(Short(name or "", word_of(images.words["filter"], pair % width - 1), n, usual))
    return sorted(found, key=lambda f: f.n - f.usual)


def read_errors(session: Session, limit: int = 20) -> list[ErrorGroup]:
    """Return failed jobs grouped by cause, the most frequent first; numbers in the text do not part groups.

    Of the newest 2000 failed jobs, by the index of states.
    """
    failed = (
        select(JobRow.id, JobRow.kind, JobRow.error_kind, JobRow.error_text)
        .where(JobRow.state == JobState.FAILED)
        .order_by(JobRow.id.desc())
        .limit(MAX_FAILED)
        .subquery()
    ).c
    plain = func.regexp_replace(func.coalesce(failed.error_text, ""), r"[0-9]+(\.[0-9]+)?", "#", "g")
    cause = func.left(plain, 300)
    ids = func.array_agg(aggregate_order_by(failed.id, failed.id.desc()), type_=ARRAY(BigInteger))
    texts = func.array_agg(aggregate_order_by(failed.error_text, failed.id.desc()), type_=ARRAY(Text))
    n = func.count()
    query = (
        select(failed.error_kind, texts[1], n, ids[1:50], failed.kind)
        .group_by(failed.error_kind, failed.kind, cause)
        .order_by(n.desc(), func.max(failed.id).desc())
        .limit(limit)
    )
    return [
        ErrorGroup(kind, text, count, tuple(jobs), step) for kind, text, count, jobs, step in session.execute(query)
    ]


def _shape(i: ImageRow, grade: Grade | None, polygons: tuple[Polygon, ...]) -> SkyShape:
    assert i.ra_deg is not None
    assert i.dec_deg is not None
    letter = grade.value if grade else None
    return SkyShape(
        i.id, i.name, i.object, i.kind.value, i.state.value, letter, i.ra_deg, i.dec_deg, i.radius_deg, polygons
    )


def _polygons(session: Session, ids: list[int]) -> dict[int, tuple[Polygon, ...]]:
    query = (
        select(DetectorRow.image_id, DetectorRow.polygon_ra_deg, DetectorRow.polygon_dec_deg)
        .where(DetectorRow.image_id.in_(ids), DetectorRow.polygon_ra_deg.is_not(None))
        .order_by(DetectorRow.image_id.desc(), DetectorRow.number)
        .limit(MAX_CORNERS_ROWS)
    )
    found: dict[int, list[Polygon]] = defaultdict(list)
    for image_id, ra, dec in session.execute(query) if ids else ():
        if ra and dec and len(ra) == len(dec):
            found[image_id].append(tuple(zip(ra, dec, strict=True)))
    return {i: tuple(p) for i, p in found.items()}


def read_shapes(session: Session, ids: Sequence[int]) -> list[SkyShape]:
    """Return images by id as the sky map draws them, with the polygons of their detectors: two statements."""
    wanted = [int(i) for i in ids][:MAX_SHAPES]
    query = (
        select(ImageRow, MeasureRow.grade)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.id.in_(wanted), ImageRow.ra_deg.is_not(None), ImageRow.dec_deg.is_not(None))
    )
    rows = [(i, g) for i, g in session.execute(query)] if wanted else []
    polygons = _polygons(session, [i.id for i, _ in rows])
    shapes = [_shape(i, g, polygons.get(i.id, ())) for i, g in rows]
    return sorted(shapes, key=lambda s: (s.kind == "stack", s.id))


@dataclass(frozen=True)
class JobCounts:
    """Jobs by state, and how long the oldest ready one has waited, s."""

    states: dict[str, int]
    oldest_ready_s: float | None


def count_jobs(session: Session, jobs: JobColumns) -> JobCounts:
    """Return jobs by state, of the snapshot, and the wait of the ready job of lowest number: one statement."""
    age = func.extract("epoch", func.now() - JobRow.created_at)
    query = select(age).where(JobRow.state == JobState.READY).order_by(JobRow.id).limit(1)
    oldest = session.scalar(query)
    states = {state.value: n for state, n in jobs.counts().items() if n}
    return JobCounts(states, None if oldest is None else float(oldest))

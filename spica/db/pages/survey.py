"""The survey at a glance: the flow of exposures, fields, what failed, and what lies on the sky."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Integer, Text, case, cast, exists, func, select
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.orm import Session

from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow
from spica.db.tables.job import JobRow
from spica.db.tables.product import StackInputRow
from spica.model.grade import Grade, GradeSource
from spica.model.image import FileKind, FrameType, ImageKind, ImageState
from spica.model.job import JobState, Outcome

TAKEN = (Outcome.USED, Outcome.USED_WITH_WARNING)
MAX_SHAPES = 600
MAX_CORNERS_ROWS = 12_000

Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class FlowCounts:
    """How many exposures have come how far; `waiting` are files that were not verified yet."""

    arrived: int
    rejected: int
    verified: int
    assessed: int
    graded: int
    by_hand: int
    disagree: int
    stacked: int


@dataclass(frozen=True)
class Flow:
    """The flow of the whole survey and of its last night, and its stacks by state."""

    total: FlowCounts
    tonight: FlowCounts
    night: date | None
    waiting: int
    stacks: dict[str, int]

    @property
    def made(self) -> int:
        """Stacks whose pixels exist."""
        return self.stacks.get("made", 0) + self.stacks.get("delivered", 0)


@dataclass(frozen=True)
class FieldEntry:
    """Exposures of one object in one filter: how many, how long, how good. Unknown is None."""

    object: str | None
    filter: str | None
    n: int
    exptime_s: float | None
    seeing_arcsec: float | None
    limiting_mag: float | None
    grades: tuple[int, int, int, int, int]
    stacks: int


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


def read_flow(session: Session) -> Flow:
    """Return the counts of the flow: three statements."""
    newest = select(func.max(ImageRow.night)).where(ImageRow.kind == ImageKind.EXPOSURE).scalar_subquery()
    tonight = ImageRow.night == newest
    whole = [c.label(f"t{i}") for i, c in enumerate(_counts(ImageRow.id.is_not(None)))]
    night = [c.label(f"n{i}") for i, c in enumerate(_counts(tonight))]
    query = (
        select(newest, *whole, *night)
        .select_from(ImageRow)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == ImageKind.EXPOSURE)
    )
    row = tuple(session.execute(query).one())
    image = exists().where(ImageRow.file_id == FileRow.id)
    waiting = select(func.count()).select_from(FileRow).where(FileRow.kind == FileKind.EXPOSURE, ~image)
    states = session.execute(
        select(ImageRow.state, func.count()).where(ImageRow.kind == ImageKind.STACK).group_by(ImageRow.state)
    )
    n = session.scalar(waiting) or 0
    stacks = {state.value: count for state, count in states}
    size = len(whole)
    return Flow(FlowCounts(*row[1 : 1 + size]), FlowCounts(*row[1 + size :]), row[0], n, stacks)


def _counts(among: ColumnElement[bool]) -> list[ColumnElement[int]]:
    """Return the aggregates of `FlowCounts` over the images of a condition."""
    rejected = ImageRow.state == ImageState.REJECTED
    by_hand = MeasureRow.grade_source == GradeSource.HUMAN
    used = exists().where(StackInputRow.image_id == ImageRow.id, StackInputRow.outcome.in_(TAKEN))
    conditions = (
        among,
        among & rejected,
        among & ~rejected,
        among & ~rejected & ImageRow.quality_id.is_not(None),
        among & ~rejected & ImageRow.grade_id.is_not(None),
        among & ~rejected & by_hand,
        among & ~rejected & by_hand & _machine_differs(),
        among & used,
    )
    return [func.count().filter(c) for c in conditions]


def _machine_differs() -> ColumnElement[bool]:
    from spica.db.tables.quality import GradeRow  # noqa: PLC0415  only here

    newest = (
        select(GradeRow.grade)
        .where(GradeRow.image_id == ImageRow.id, GradeRow.source == GradeSource.MACHINE)
        .order_by(GradeRow.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    differs: ColumnElement[bool] = newest != MeasureRow.grade
    return differs


def read_fields(session: Session, limit: int = 40) -> list[FieldEntry]:
    """Return objects and filters with most exposures first: one statement."""
    graded = [func.count().filter(MeasureRow.grade == g) for g in Grade]
    ungraded = func.count().filter(MeasureRow.grade.is_(None))
    n = func.count()
    stack = ImageRow.__table__.alias("stack")
    stacks = (
        select(func.count())
        .select_from(stack)
        .where(
            stack.c.kind == ImageKind.STACK,
            stack.c.state.in_((ImageState.MADE, ImageState.DELIVERED)),
            stack.c.object_key.is_not_distinct_from(ImageRow.object_key),
            stack.c.filter.is_not_distinct_from(ImageRow.filter),
        )
        .scalar_subquery()
    )
    query = (
        select(
            func.min(ImageRow.object),
            ImageRow.filter,
            n,
            func.sum(ImageRow.exptime_s),
            func.percentile_cont(0.5).within_group(MeasureRow.seeing_arcsec),
            func.percentile_cont(0.5).within_group(MeasureRow.limiting_mag),
            *graded,
            ungraded,
            stacks,
        )
        .select_from(ImageRow)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(
            ImageRow.kind == ImageKind.EXPOSURE,
            ImageRow.frame_type == FrameType.SCIENCE,
            ImageRow.state != ImageState.REJECTED,
        )
        .group_by(ImageRow.object_key, ImageRow.filter)
        .order_by(n.desc(), ImageRow.object_key, ImageRow.filter)
        .limit(limit)
    )
    rows = [tuple(r) for r in session.execute(query)]
    return [FieldEntry(r[0], r[1], r[2], r[3], r[4], r[5], (r[6], r[7], r[8], r[9], r[10]), r[11]) for r in rows]


def read_errors(session: Session, limit: int = 20) -> list[ErrorGroup]:
    """Return failed jobs grouped by cause, the most frequent first; numbers in the text do not part groups."""
    plain = func.regexp_replace(func.coalesce(JobRow.error_text, ""), r"[0-9]+(\.[0-9]+)?", "#", "g")
    cause = func.left(plain, 300)
    ids = func.array_agg(aggregate_order_by(JobRow.id, JobRow.id.desc()), type_=ARRAY(BigInteger))
    texts = func.array_agg(aggregate_order_by(JobRow.error_text, JobRow.id.desc()), type_=ARRAY(Text))
    n = func.count()
    query = (
        select(JobRow.error_kind, texts[1], n, ids[1:50], JobRow.kind)
        .where(JobRow.state == JobState.FAILED)
        .group_by(JobRow.error_kind, JobRow.kind, cause)
        .order_by(n.desc(), func.max(JobRow.id).desc())
        .limit(limit)
    )
    return [
        ErrorGroup(kind, text, count, tuple(jobs), step) for kind, text, count, jobs, step in session.execute(query)
    ]


def read_sky(session: Session, limit: int = MAX_SHAPES) -> list[SkyShape]:
    """Return the newest images that have a place, stacks last so that they are drawn on top: two statements."""
    wanted = (ImageKind.EXPOSURE, ImageKind.STACK)
    query = (
        select(ImageRow, MeasureRow.grade)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(
            ImageRow.kind.in_(wanted),
            ImageRow.frame_type == FrameType.SCIENCE,
            ImageRow.ra_deg.is_not(None),
            ImageRow.dec_deg.is_not(None),
            ImageRow.state.not_in((ImageState.REJECTED, ImageState.SUPERSEDED)),
        )
        .order_by(ImageRow.id.desc())
        .limit(limit)
    )
    rows = [(i, g) for i, g in session.execute(query)]
    polygons = _polygons(session, [i.id for i, _ in rows])
    shapes = [_shape(i, g, polygons.get(i.id, ())) for i, g in rows]
    return sorted(shapes, key=lambda s: (s.kind == "stack", s.id))


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


@dataclass(frozen=True)
class JobCounts:
    """Jobs by state, and how long the oldest ready one has waited, s."""

    states: dict[str, int]
    oldest_ready_s: float | None


def count_jobs(session: Session) -> JobCounts:
    """Return jobs by state: one statement."""
    age = func.extract("epoch", func.now() - func.min(JobRow.created_at))
    ready = case((JobRow.state == JobState.READY, cast(age, Integer)), else_=None)
    rows: list[Any] = list(session.execute(select(JobRow.state, func.count(), ready).group_by(JobRow.state)))
    oldest = next((float(a) for s, _, a in rows if s is JobState.READY and a is not None), None)
    return JobCounts({s.value: n for s, n, _ in rows}, oldest)


def search(session: Session, words: str, limit: int = 12) -> list[tuple[int, str, str]]:
    """Return (id, name, kind) of images whose name or object begins with some words, exact names first."""
    pattern = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    like = ImageRow.name.ilike(pattern, escape="\\") | ImageRow.object.ilike(pattern, escape="\\")
    query = (
        select(ImageRow.id, ImageRow.name, cast(ImageRow.kind, Text))
        .where(like)
        .order_by(ImageRow.name != words, ImageRow.name)
        .limit(limit)
    )
    return [(i, n, k) for i, n, k in session.execute(query)]

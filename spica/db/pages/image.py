"""One image and lists of images, as the pages show them."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, and_, cast, func, literal, select, union_all
from sqlalchemy.orm import Session, aliased

from spica.db.grade import grade_history
from spica.db.tables.file import ContentRow, FileRow, LocationRow, NodeRow
from spica.db.tables.image import DetectorRow, HeaderRow, ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.job import AttemptRow, JobRow, OutcomeRow, PlanRow, SelectionMemberRow
from spica.db.tables.person import PersonRow
from spica.db.tables.product import ProductRow, StackInputRow
from spica.db.tables.quality import GradeReasonRow, GradeRow, QualityRow, SolutionImageRow
from spica.model.image import ImageKind

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
BINS = 32


@dataclass(frozen=True)
class Facets:
    """What the lists can be narrowed to."""

    objects: tuple[str, ...]
    filters: tuple[str, ...]
    nights: tuple[date, ...]


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


def first_ids(session: Session, where: Sequence[Condition], limit: int) -> list[int]:
    """Return the first ids of exposures that meet the conditions: one statement."""
    query = (
        select(ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == ImageKind.EXPOSURE, *where)
    )
    return list(session.scalars(query.order_by(ImageRow.id).limit(limit)))


def sum_exptime(session: Session, where: Sequence[Condition]) -> float:
    """Return the exposure time of the exposures that meet the conditions, s: one statement."""
    query = (
        select(func.coalesce(func.sum(ImageRow.exptime_s), 0.0))
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == ImageKind.EXPOSURE, *where)
    )
    return float(session.scalar(query) or 0.0)


@dataclass(frozen=True)
class Place:
    """Where an image stands in a list: its neighbours, its position from 1, and the length of the list."""

    previous: int | None
    next: int | None
    position: int
    total: int


def find_place(
    session: Session, image_id: int, where: Sequence[Condition], order: Sequence[Any], kind: ImageKind
) -> Place | None:
    """Return the place of an image in a list, None where it is not in it: one statement."""
    window: Any = {"order_by": [*order, ImageRow.id]}
    listed = (
        select(
            ImageRow.id.label("id"),
            func.lag(ImageRow.id).over(**window).label("before"),
            func.lead(ImageRow.id).over(**window).label("after"),
            func.row_number().over(**window).label("position"),
            func.count().over().label("total"),
        )
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == kind, *where)
        .subquery()
    )
    row = session.execute(
        select(listed.c.before, listed.c.after, listed.c.position, listed.c.total).where(listed.c.id == image_id)
    ).one_or_none()
    return None if row is None else Place(*row)


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


@dataclass(frozen=True)
class DetectorEntry:
    """A detector with its measures in the assessment that counts, None where there is none."""

    row: DetectorRow
    quality: QualityRow | None


def read_detectors(session: Session, image: ImageRow) -> list[DetectorEntry]:
    """Return the detectors of an image: one statement."""
    of = (QualityRow.parent_id == image.quality_id) & (QualityRow.number == DetectorRow.number)
    query = (
        select(DetectorRow, QualityRow)
        .outerjoin(QualityRow, of)
        .where(DetectorRow.image_id == image.id)
        .order_by(DetectorRow.number)
    )
    return [DetectorEntry(d, q) for d, q in session.execute(query)]


@dataclass(frozen=True)
class GradeEntry:
    """One grade of the history with who gave it and the machine's reasons."""

    row: GradeRow
    person: str | None
    reasons: tuple[GradeReasonRow, ...]


def read_grades(session: Session, image_id: int) -> list[GradeEntry]:
    """Return the grades of an image, newest first: three statements."""
    history = grade_history(session, image_id)
    ids = {g.person_id for g, _ in history if g.person_id is not None}
    names: dict[int, str] = {}
    if ids:
        rows = session.execute(select(PersonRow.id, PersonRow.name).where(PersonRow.id.in_(ids)))
        names = {row.id: row.name for row in rows}
    return [GradeEntry(g, names.get(g.person_id or 0), tuple(reasons)) for g, reasons in history]


@dataclass(frozen=True)
class ProductEntry:
    """A product of an image with its file; `media_type` is that of its central copy, None where it has none."""

    id: int
    role: str
    name: str
    number: int | None
    file_id: int
    size: int
    sha256: str
    job_id: int
    attempt_id: int
    created_at: datetime
    media_type: str | None
    nodes: tuple[str, ...]


def read_products(session: Session, image_id: int) -> list[ProductEntry]:
    """Return the products of an image, newest attempt first: one statement."""
    return _products(session, ProductRow.image_id == image_id)


def read_products_of_plan(session: Session, plan_id: int) -> list[ProductEntry]:
    """Return the products that the jobs of a plan made, newest attempt first: one statement."""
    jobs = select(JobRow.id).where(JobRow.plan_id == plan_id)
    return _products(session, ProductRow.job_id.in_(jobs))


def _products(session: Session, where: Condition) -> list[ProductEntry]:
    nodes = (
        select(func.array_agg(NodeRow.name))
        .join(LocationRow, LocationRow.node_id == NodeRow.id)
        .where(LocationRow.file_id == FileRow.id)
        .scalar_subquery()
    )
    query = (
        select(ProductRow, FileRow.size, FileRow.sha256, ContentRow.media_type, nodes)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .outerjoin(ContentRow, ContentRow.file_id == FileRow.id)
        .where(where)
        .order_by(ProductRow.attempt_id.desc(), ProductRow.role, ProductRow.number, ProductRow.id)
        .limit(2000)
    )
    return [
        ProductEntry(
            p.id,
            p.role,
            p.name,
            p.number,
            p.file_id,
            size,
            sha256,
            p.job_id,
            p.attempt_id,
            p.created_at,
            media,
            tuple(sorted(set(places or ()))),
        )
        for p, size, sha256, media, places in session.execute(query)
    ]


@dataclass(frozen=True)
class StackUse:
    """One stack whose plan judged an exposure: taken or not, the clause and what became of it."""

    plan_id: int
    plan: str
    chosen: bool
    clause: str | None
    value: str | None
    stack_id: int | None
    stack: str | None
    stack_state: str | None
    outcome: str | None
    text: str | None
    weight_fraction: float | None
    flux_scale: float | None


def read_uses(session: Session, image_id: int, limit: int = 100) -> list[StackUse]:
    """Return the plans that judged an exposure, newest first: one statement."""
    stack, entry = aliased(ImageRow), aliased(StackInputRow)
    query = (
        select(
            PlanRow.id,
            PlanRow.label,
            SelectionMemberRow.chosen,
            SelectionMemberRow.clause,
            SelectionMemberRow.value,
            stack.id,
            stack.name,
            stack.state,
            entry.outcome,
            entry.text,
            entry.weight_fraction,
            entry.flux_scale,
        )
        .join(SelectionMemberRow, SelectionMemberRow.selection_id == PlanRow.selection_id)
        .outerjoin(stack, (stack.plan_id == PlanRow.id) & (stack.kind != ImageKind.EXPOSURE))
        .outerjoin(entry, (entry.stack_id == stack.id) & (entry.image_id == SelectionMemberRow.image_id))
        .where(SelectionMemberRow.image_id == image_id)
        .order_by(PlanRow.id.desc())
        .limit(limit)
    )
    return [
        StackUse(p, label, chosen, clause, value, s, name, _word(state), _word(outcome), why, weight, scale)
        for p, label, chosen, clause, value, s, name, state, outcome, why, weight, scale in session.execute(query)
    ]


def _word(value: enum.StrEnum | None) -> str | None:
    return None if value is None else value.value


@dataclass(frozen=True)
class OutcomeEntry:
    """What became of an image, a file or a detector in one attempt of one job."""

    job_id: int
    kind: str
    attempt: int
    image_id: int | None
    name: str | None
    number: int | None
    outcome: str
    code: str | None
    text: str | None
    value: str | None
    limit: str | None


def read_outcomes(session: Session, where: Condition, limit: int = 500) -> list[OutcomeEntry]:
    """Return outcomes with their jobs, newest first: one statement."""
    query = (
        select(JobRow.id, JobRow.kind, AttemptRow.number, OutcomeRow, ImageRow.name, FileRow.name)
        .join(AttemptRow, AttemptRow.id == OutcomeRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .outerjoin(ImageRow, ImageRow.id == OutcomeRow.image_id)
        .outerjoin(FileRow, FileRow.id == OutcomeRow.file_id)
        .where(where)
        .order_by(AttemptRow.id.desc(), OutcomeRow.id)
        .limit(limit)
    )
    return [
        OutcomeEntry(
            job, kind, n, o.image_id, image or file, o.number, o.outcome.value, o.code, o.text, o.value, o.limit
        )
        for job, kind, n, o, image, file in session.execute(query)
    ]


def image_outcomes(session: Session, image_id: int) -> list[OutcomeEntry]:
    """Return what became of an image in the jobs that took it up."""
    return read_outcomes(session, OutcomeRow.image_id == image_id, 200)


@dataclass(frozen=True)
class FileEntry:
    """A file of an image and where it lies."""

    id: int
    name: str
    size: int
    sha256: str
    places: tuple[tuple[str, str, str, str], ...]


def read_file_entry(session: Session, file_id: int | None) -> FileEntry | None:
    """Return a file with its places as (node, root, path, state): one statement."""
    if file_id is None:
        return None
    query = (
        select(FileRow, NodeRow.name, LocationRow)
        .outerjoin(LocationRow, LocationRow.file_id == FileRow.id)
        .outerjoin(NodeRow, NodeRow.id == LocationRow.node_id)
        .where(FileRow.id == file_id)
        .order_by(LocationRow.id)
    )
    rows = [(f, node, place) for f, node, place in session.execute(query)]
    if not rows:
        return None
    file = rows[0][0]
    places = tuple((node, p.root, p.relative_path, p.state.value) for _, node, p in rows if p is not None)
    return FileEntry(file.id, file.name, file.size, file.sha256, places)


def read_header(session: Session, image_id: int) -> bytes | None:
    """Return the packed headers of an image, None where none were kept."""
    return session.scalar(select(HeaderRow.cards).where(HeaderRow.image_id == image_id))


def read_solved(session: Session, image: ImageRow) -> SolutionImageRow | None:
    """Return what the solution that counts says of an exposure."""
    if image.solution_id is None:
        return None
    query = select(SolutionImageRow).where(
        SolutionImageRow.solution_id == image.solution_id, SolutionImageRow.image_id == image.id
    )
    return session.scalar(query)


def read_reasons(session: Session, image_id: int) -> list[ImageReasonRow]:
    """Return why an image is in its state."""
    query = select(ImageReasonRow).where(ImageReasonRow.image_id == image_id).order_by(ImageReasonRow.id)
    return list(session.scalars(query))

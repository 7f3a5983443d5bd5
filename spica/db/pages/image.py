"""One image and lists of images, as the pages show them.

The statements of a page are built once and cached; only their parameters change.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, select
from sqlalchemy.orm import Session

from spica.db.grade import grade_history
from spica.db.tables.file import ContentRow, FileRow, LocationRow, NodeRow
from spica.db.tables.image import DetectorRow, HeaderRow, ImageReasonRow, ImageRow
from spica.db.tables.job import AttemptRow, JobRow, OutcomeRow
from spica.db.tables.person import PersonRow
from spica.db.tables.product import ProductRow
from spica.db.tables.quality import GradeReasonRow, GradeRow, QualityRow, SolutionImageRow

Condition = ColumnElement[bool]


@dataclass(frozen=True)
class DetectorEntry:
    """A detector with its measures in the assessment that counts, None where there is none."""

    row: DetectorRow
    quality: QualityRow | None


@functools.cache
def _detectors_said() -> Select[DetectorRow, QualityRow]:
    of = (QualityRow.parent_id == bindparam("quality")) & (QualityRow.number == DetectorRow.number)
    return (
        select(DetectorRow, QualityRow)
        .outerjoin(QualityRow, of)
        .where(DetectorRow.image_id == bindparam("image"))
        .order_by(DetectorRow.number)
    )


def read_detectors(session: Session, image: ImageRow) -> list[DetectorEntry]:
    """Return the detectors of an image: one statement."""
    rows = session.execute(_detectors_said(), {"image": image.id, "quality": image.quality_id})
    return [DetectorEntry(d, q) for d, q in rows]


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
    return _products(session, _products_said(of_plan=False), image_id)


def read_products_of_plan(session: Session, plan_id: int) -> list[ProductEntry]:
    """Return the products that the jobs of a plan made, newest attempt first: one statement."""
    return _products(session, _products_said(of_plan=True), plan_id)


@functools.cache
def _products_said(*, of_plan: bool) -> Select[*tuple[Any, ...]]:
    jobs = select(JobRow.id).where(JobRow.plan_id == bindparam("of"))
    where = ProductRow.job_id.in_(jobs) if of_plan else ProductRow.image_id == bindparam("of")
    nodes = (
        select(func.array_agg(NodeRow.name))
        .join(LocationRow, LocationRow.node_id == NodeRow.id)
        .where(LocationRow.file_id == FileRow.id)
        .scalar_subquery()
    )
    return (
        select(ProductRow, FileRow.size, FileRow.sha256, ContentRow.media_type, nodes)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .outerjoin(ContentRow, ContentRow.file_id == FileRow.id)
        .where(where)
        .order_by(ProductRow.attempt_id.desc(), ProductRow.role, ProductRow.number, ProductRow.id)
        .limit(2000)
    )


def _products(session: Session, query: Select[*tuple[Any, ...]], of: int) -> list[ProductEntry]:
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
        for p, size, sha256, media, places in session.execute(query, {"of": of})
    ]


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
    return _told(session.execute(_outcomes_said(where, limit)))


def _outcomes_said(where: Condition, limit: int) -> Select[*tuple[Any, ...]]:
    return (
        select(JobRow.id, JobRow.kind, AttemptRow.number, OutcomeRow, ImageRow.name, FileRow.name)
        .join(AttemptRow, AttemptRow.id == OutcomeRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .outerjoin(ImageRow, ImageRow.id == OutcomeRow.image_id)
        .outerjoin(FileRow, FileRow.id == OutcomeRow.file_id)
        .where(where)
        .order_by(AttemptRow.id.desc(), OutcomeRow.id)
        .limit(limit)
    )


def _told(rows: Any) -> list[OutcomeEntry]:
    return [
        OutcomeEntry(
            job, kind, n, o.image_id, image or file, o.number, o.outcome.value, o.code, o.text, o.value, o.limit
        )
        for job, kind, n, o, image, file in rows
    ]


@functools.cache
def _image_outcomes_said() -> Select[*tuple[Any, ...]]:
    return _outcomes_said(OutcomeRow.image_id == bindparam("image"), 200)


def image_outcomes(session: Session, image_id: int) -> list[OutcomeEntry]:
    """Return what became of an image in the jobs that took it up."""
    return _told(session.execute(_image_outcomes_said(), {"image": image_id}))


@dataclass(frozen=True)
class FileEntry:
    """A file of an image and where it lies."""

    id: int
    name: str
    size: int
    sha256: str
    places: tuple[tuple[str, str, str, str], ...]


@functools.cache
def _file_said() -> Select[FileRow, str, LocationRow]:
    return (
        select(FileRow, NodeRow.name, LocationRow)
        .outerjoin(LocationRow, LocationRow.file_id == FileRow.id)
        .outerjoin(NodeRow, NodeRow.id == LocationRow.node_id)
        .where(FileRow.id == bindparam("file"))
        .order_by(LocationRow.id)
    )


def read_file_entry(session: Session, file_id: int | None) -> FileEntry | None:
    """Return a file with its places as (node, root, path, state): one statement."""
    if file_id is None:
        return None
    rows = [(f, node, place) for f, node, place in session.execute(_file_said(), {"file": file_id})]
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


@functools.cache
def _reasons_said() -> Select[ImageReasonRow]:
    return select(ImageReasonRow).where(ImageReasonRow.image_id == bindparam("image")).order_by(ImageReasonRow.id)


def read_reasons(session: Session, image_id: int) -> list[ImageReasonRow]:
    """Return why an image is in its state."""
    return list(session.scalars(_reasons_said(), {"image": image_id}))

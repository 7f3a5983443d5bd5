"""What the grading room shows of an image, read for a batch at once: seven statements however many images.

Each statement is built once: to build one takes as long as PostgreSQL needs to answer it.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from sqlalchemy import BigInteger, Select, any_, bindparam, func, lateral, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from spica.db.tables.file import ContentRow
from spica.db.tables.image import ImageRow, MeasureRow, TagRow
from spica.db.tables.mark import MarkRow
from spica.db.tables.person import PersonRow
from spica.db.tables.product import ProductRow
from spica.db.tables.quality import GradeReasonRow, GradeRow
from spica.model.grade import Grade, GradeSource
from spica.model.image import FrameType, ImageState

PICTURES = ("image/png", "image/jpeg")
SHOWN = ("mosaic", "preview", "plot")
MAX_PRODUCTS = 4000


@dataclass(frozen=True)
class Picture:
    """A picture among the products: its file and name."""

    file_id: int
    name: str


@dataclass(frozen=True)
class MachineSaid:
    """The machine's newest proposal and why; no reasons: every measure is within the limits of A."""

    grade: Grade
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class GradeSaid:
    """One grade of the history; `person` None: the machine or the command line; `at` ISO 8601, UTC."""

    id: int
    source: GradeSource
    grade: Grade
    person: str | None
    mine: bool
    comment: str | None
    at: str
    withdrawn: bool


@dataclass(frozen=True)
class Measures:
    """The measures that count, None where unknown."""

    seeing_arcsec: float | None
    ellipticity: float | None
    limiting_mag: float | None
    zero_point_mag: float | None
    skyprobe_mag: float | None
    background_adu: float | None
    noise_adu: float | None
    n_stars: int | None


@dataclass(frozen=True)
class PreviousExposure:
    """The exposure of the same field and filter before this one, to blink with."""

    id: int
    name: str
    mosaic: Picture | None
    preview: Picture | None


@dataclass(frozen=True)
class QueueItem:
    """One image of the queue.

    Where `blind` is set no grade of anybody and nothing of the machine is in it. `known` is the person's newest grade
    of the image, withdrawn or not, 0 where there is none; `own` the newest that stands.
    """

    id: int
    name: str
    object: str | None
    filter: str | None
    instrument: str | None
    exptime_s: float | None
    airmass: float | None
    run: str | None
    night: str | None
    mjd: float | None
    state: ImageState
    n_detectors: int
    measures: Measures
    blind: bool
    known: int
    own: GradeSaid | None
    machine: MachineSaid | None
    history: tuple[GradeSaid, ...]
    mosaic: Picture | None
    preview: Picture | None
    plots: tuple[Picture, ...]
    tags: tuple[str, ...]
    n_marks: int
    previous: PreviousExposure | None


@dataclass(frozen=True)
class _Pictures:
    mosaic: Picture | None = None
    preview: Picture | None = None
    plots: tuple[Picture, ...] = ()


def read_items(session: Session, image_ids: Sequence[int], person_id: int, *, blind: bool = False) -> list[QueueItem]:
    """Return images as a person sees them in the queue, in the order asked; ids that are none are left out.

    `blind`: hide the grades of others and the machine's, of every image that this person never graded.
    """
    ids = list(dict.fromkeys(image_ids))
    images = _images(session, ids)
    grades, reasons = _grades(session, ids), _machine_reasons(session, ids)
    tags, marks, previous = _tags(session, ids), _marks(session, ids), _previous(session, ids)
    pictures = _pictures(session, [*ids, *(p[0] for p in previous.values())])
    found = []
    for image_id in ids:
        if image_id not in images:
            continue
        said = [_said(row, name, person_id) for row, name in grades.get(image_id, ())]
        own = [g for g in said if g.mine]
        hidden = blind and not own
        before, shown = previous.get(image_id), pictures.get(image_id, _Pictures())
        found.append(
            QueueItem(
                **_facts(images[image_id]),
                blind=hidden,
                known=own[0].id if own else 0,
                own=next((g for g in own if not g.withdrawn), None),
                machine=None if hidden else _machine(said, reasons),
                history=() if hidden else tuple(said),
                mosaic=shown.mosaic,
                preview=shown.preview,
                plots=shown.plots,
                tags=tuple(tags.get(image_id, ())),
                n_marks=marks.get(image_id, 0),
                previous=None if before is None else _before(*before, pictures.get(before[0], _Pictures())),
            )
        )
    return found


def _ids() -> Any:
    """Return the ids that a statement is about: any of its parameter `ids`."""
    return any_(bindparam("ids", type_=ARRAY(BigInteger)))


@functools.cache
def _images_said() -> Select[ImageRow, MeasureRow]:
    query = select(ImageRow, MeasureRow).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
    return query.where(ImageRow.id == _ids())


def _images(session: Session, ids: list[int]) -> dict[int, tuple[ImageRow, MeasureRow | None]]:
    return {image.id: (image, measure) for image, measure in session.execute(_images_said(), {"ids": ids})}


def _facts(found: tuple[ImageRow, MeasureRow | None]) -> dict[str, Any]:
    image, measure = found
    names = ("id", "name", "object", "filter", "instrument", "exptime_s", "airmass", "run", "mjd", "state")
    facts = {name: getattr(image, name) for name in names}
    values = {name: getattr(measure, name, None) for name in Measures.__dataclass_fields__}
    night = None if image.night is None else image.night.isoformat()
    return facts | {"night": night, "n_detectors": image.n_detectors, "measures": Measures(**values)}


@functools.cache
def _grades_said() -> Select[GradeRow, str]:
    return (
        select(GradeRow, PersonRow.name)
        .outerjoin(PersonRow, PersonRow.id == GradeRow.person_id)
        .where(GradeRow.image_id == _ids())
        .order_by(GradeRow.id.desc())
    )


def _grades(session: Session, ids: list[int]) -> dict[int, list[tuple[GradeRow, str | None]]]:
    """Return the grades of each image with names of people, newest first."""
    found: dict[int, list[tuple[GradeRow, str | None]]] = defaultdict(list)
    for row, name in session.execute(_grades_said(), {"ids": ids}):
        found[row.image_id].append((row, name))
    return found


def _said(row: GradeRow, name: str | None, person_id: int) -> GradeSaid:
    mine = row.source is GradeSource.HUMAN and row.person_id == person_id
    gone = row.withdrawn_at is not None
    at = row.created_at.astimezone(UTC).isoformat(timespec="seconds")
    return GradeSaid(row.id, row.source, row.grade, name, mine, row.comment, at, gone)


@functools.cache
def _reasons_said() -> Select[int, str]:
    return (
        select(GradeReasonRow.grade_id, GradeReasonRow.text)
        .join(GradeRow, GradeRow.id == GradeReasonRow.grade_id)
        .where(GradeRow.image_id == _ids(), GradeRow.source == GradeSource.MACHINE)
        .order_by(GradeReasonRow.id)
    )


def _machine_reasons(session: Session, ids: list[int]) -> dict[int, list[str]]:
    """Return the reasons of the machine's grades by grade."""
    found: dict[int, list[str]] = defaultdict(list)
    for grade_id, said in session.execute(_reasons_said(), {"ids": ids}):
        found[grade_id].append(said)
    return found


def _machine(said: list[GradeSaid], reasons: dict[int, list[str]]) -> MachineSaid | None:
    newest = next((g for g in said if g.source is GradeSource.MACHINE and not g.withdrawn), None)
    return None if newest is None else MachineSaid(newest.grade, tuple(reasons.get(newest.id, ())))


@functools.cache
def _tags_said() -> Select[int, str]:
    return select(TagRow.image_id, TagRow.name).where(TagRow.image_id == _ids()).order_by(TagRow.name)


def _tags(session: Session, ids: list[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for image_id, name in session.execute(_tags_said(), {"ids": ids}):
        found[image_id].append(name)
    return found


@functools.cache
def _marks_said() -> Select[int, int]:
    return (
        select(MarkRow.image_id, func.count())
        .where(MarkRow.image_id == _ids(), MarkRow.withdrawn_at.is_(None))
        .group_by(MarkRow.image_id)
    )


def _marks(session: Session, ids: list[int]) -> dict[int, int]:
    return {row[0]: row[1] for row in session.execute(_marks_said(), {"ids": ids})}


@functools.cache
def _previous_said() -> Select[int, int, str]:
    other = aliased(ImageRow)
    before = lateral(
        select(other.id, other.name)
        .where(
            other.kind == ImageRow.kind,
            other.object_key == ImageRow.object_key,
            other.instrument == ImageRow.instrument,
            other.filter == ImageRow.filter,
            other.frame_type == FrameType.SCIENCE,
            other.state != ImageState.REJECTED,
            other.mjd < ImageRow.mjd,
        )
        .order_by(other.mjd.desc(), other.id.desc())
        .limit(1)
        .correlate(ImageRow)
    ).alias("before")
    return select(ImageRow.id, before.c.id, before.c.name).join(before, true()).where(ImageRow.id == _ids())


def _previous(session: Session, ids: list[int]) -> dict[int, tuple[int, str]]:
    """Return id and name of the exposure before each, of the same field, instrument and filter."""
    return {image_id: (found, name) for image_id, found, name in session.execute(_previous_said(), {"ids": ids})}


@functools.cache
def _pictures_said() -> Select[int | None, str, int, int, int, str]:
    return (
        select(
            ProductRow.image_id,
            ProductRow.role,
            ProductRow.job_id,
            ProductRow.attempt_id,
            ProductRow.file_id,
            ProductRow.name,
        )
        .join(ContentRow, ContentRow.file_id == ProductRow.file_id)
        .where(ProductRow.image_id == _ids(), ProductRow.role.in_(SHOWN), ContentRow.media_type.in_(PICTURES))
        .order_by(ProductRow.attempt_id.desc(), ProductRow.id)
        .limit(MAX_PRODUCTS)
    )


def _pictures(session: Session, ids: list[int]) -> dict[int, _Pictures]:
    """Return the pictures of images: newest mosaic and preview, and the plots of the newest attempt of each job."""
    single: dict[tuple[int, str], Picture] = {}
    plots: dict[int, list[Picture]] = defaultdict(list)
    newest: dict[tuple[int, int], int] = {}
    rows: Any = session.execute(_pictures_said(), {"ids": ids})
    for image_id, role, job, attempt, file_id, name in rows:
        picture = Picture(file_id, name)
        if role == "plot":
            if newest.setdefault((image_id, job), attempt) == attempt:
                plots[image_id].append(picture)
        else:
            single.setdefault((image_id, role), picture)
    return {i: _Pictures(single.get((i, "mosaic")), single.get((i, "preview")), tuple(plots[i])) for i in ids}


def _before(image_id: int, name: str, pictures: _Pictures) -> PreviousExposure:
    return PreviousExposure(image_id, name, pictures.mosaic, pictures.preview)

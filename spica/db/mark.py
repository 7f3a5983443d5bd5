"""Marks of people on images: drawn, listed, taken back; rows stay, so that the lineage of every stack can be told."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session, aliased

from spica.db.engine import notify
from spica.db.tables.image import DetectorRow, ImageRow
from spica.db.tables.mark import MarkRegionRow, MarkRow
from spica.db.tables.person import PersonRow
from spica.model.errors import ConflictError, UsageError
from spica.model.mark import MAX_COMMENT, MarkRegion, PlannedMark, check_region, meets_detector

MAX_MARKS = 500
"""Standing marks of one image; who needs more grades it D."""
MAX_REGIONS = 200

_DRAWER, _TAKER = aliased(PersonRow), aliased(PersonRow)


@dataclass(frozen=True)
class MarkEntry:
    """One mark as people see it: who drew it and when, who took it back and when, and its parts on the detectors."""

    id: int
    image_id: int
    comment: str | None
    person_id: int | None
    person: str | None
    created_at: datetime
    withdrawn_at: datetime | None
    withdrawn_by: str | None
    regions: tuple[MarkRegion, ...]

    @property
    def shape(self) -> str:
        """What was drawn."""
        return self.regions[0].shape.value if self.regions else ""

    @property
    def detectors(self) -> tuple[int, ...]:
        """Detectors that it touches."""
        return tuple(sorted({r.detector for r in self.regions}))


def add_mark(
    session: Session,
    image_id: int,
    regions: Sequence[MarkRegion],
    *,
    person_id: int | None = None,
    comment: str | None = None,
) -> int:
    """Keep a mark on an image; return its id.

    Raises
    ------
    UsageError
        No region, too many, one that cannot be drawn or that lies beside its detector; a comment that is too long.
    ConflictError
        The image has as many standing marks as it may have.
    """
    session.get_one(ImageRow, image_id, with_for_update=True)
    if not 1 <= len(regions) <= MAX_REGIONS:
        raise UsageError(f"a mark lies on 1 to {MAX_REGIONS} detectors; draw it on the picture, not beside it")
    rows = session.execute(
        select(DetectorRow.number, DetectorRow.n_x, DetectorRow.n_y).where(DetectorRow.image_id == image_id)
    )
    sizes = {number: (n_x, n_y) for number, n_x, n_y in rows}
    for region in regions:
        check_region(region)
        if region.detector not in sizes or not meets_detector(region, *sizes[region.detector]):
            raise UsageError(f"the mark does not meet detector {region.detector}; draw it on the picture")
    said = (comment or "").replace("\0", "").strip() or None
    if said is not None and len(said) > MAX_COMMENT:
        raise UsageError(f"a comment has at most {MAX_COMMENT} characters; shorten it")
    standing = select(func.count()).where(MarkRow.image_id == image_id, MarkRow.withdrawn_at.is_(None))
    if (session.scalar(standing) or 0) >= MAX_MARKS:
        raise ConflictError(f"this image has {MAX_MARKS} marks already; take some back, or grade it D")
    row = MarkRow(image_id=image_id, comment=said, person_id=person_id)
    session.add(row)
    session.flush()
    session.add_all(
        MarkRegionRow(
            mark_id=row.id,
            number=r.detector,
            shape=r.shape,
            x_pix=list(r.x_pix),
            y_pix=list(r.y_pix),
            radius_pix=r.radius_pix,
        )
        for r in regions
    )
    session.flush()
    _tell(session, image_id)
    return row.id


def withdraw_mark(session: Session, mark_id: int, person_id: int | None, *, of_anyone: bool = False) -> int:
    """Take back a standing mark, one's own or, where `of_anyone`, anybody's; return the image's id.

    Raises
    ------
    ConflictError
        There is no such standing mark, or it is another person's.
    """
    row = session.get(MarkRow, mark_id, with_for_update=True) if 0 < mark_id < 2**62 else None
    if row is None or row.withdrawn_at is not None:
        raise ConflictError(f"mark {mark_id} does not stand any more; reload the page")
    if not of_anyone and row.person_id != person_id:
        raise ConflictError(f"mark {mark_id} is another person's; ask them or an operator to take it back")
    row.withdrawn_at = session.scalars(select(func.now())).one()
    row.withdrawn_by_id = person_id
    session.flush()
    _tell(session, row.image_id)
    return row.image_id


def _tell(session: Session, image_id: int) -> None:
    notify(session, f"image:{image_id}")
    notify(session, f"mark:{image_id}")


@functools.cache
def _marks_said(*, standing_only: bool) -> Select[MarkRow, str, str]:
    query = (
        select(MarkRow, _DRAWER.name, _TAKER.name)
        .outerjoin(_DRAWER, _DRAWER.id == MarkRow.person_id)
        .outerjoin(_TAKER, _TAKER.id == MarkRow.withdrawn_by_id)
        .where(MarkRow.image_id == bindparam("image"))
        .order_by(MarkRow.id)
    )
    return query.where(MarkRow.withdrawn_at.is_(None)) if standing_only else query


def marks_of(session: Session, image_id: int, *, standing_only: bool = True) -> list[MarkEntry]:
    """Return the marks of an image in the order they were drawn: two statements."""
    query = _marks_said(standing_only=standing_only)
    rows = [(m, who, taken) for m, who, taken in session.execute(query, {"image": image_id})]
    regions = _regions(session, [m.id for m, _, _ in rows])
    return [
        MarkEntry(
            m.id,
            m.image_id,
            m.comment,
            m.person_id,
            who,
            m.created_at,
            m.withdrawn_at,
            taken,
            tuple(regions.get(m.id, ())),
        )
        for m, who, taken in rows
    ]


def marks_of_images(session: Session, image_ids: Sequence[int]) -> dict[int, tuple[PlannedMark, ...]]:
    """Return the standing marks of images as plans freeze them, by image, in the order of their numbers."""
    query = (
        select(MarkRow.image_id, MarkRow.id)
        .where(MarkRow.image_id.in_(image_ids), MarkRow.withdrawn_at.is_(None))
        .order_by(MarkRow.id)
    )
    rows = [(image, mark) for image, mark in session.execute(query)] if image_ids else []
    regions = _regions(session, [mark for _, mark in rows])
    found: dict[int, tuple[PlannedMark, ...]] = {}
    for image, mark in rows:
        found[image] = (*found.get(image, ()), PlannedMark(mark, tuple(regions.get(mark, ()))))
    return found


def _regions(session: Session, mark_ids: Sequence[int]) -> dict[int, list[MarkRegion]]:
    found: dict[int, list[MarkRegion]] = {}
    query = select(MarkRegionRow).where(MarkRegionRow.mark_id.in_(mark_ids)).order_by(MarkRegionRow.id)
    for r in session.scalars(query) if mark_ids else ():
        region = MarkRegion(r.number, r.shape, tuple(r.x_pix), tuple(r.y_pix), r.radius_pix)
        found.setdefault(r.mark_id, []).append(region)
    return found

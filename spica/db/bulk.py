"""One grade for all images that a rule takes: looked at before, given in one transaction, taken back as one act."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import BigInteger, ColumnElement, Select, case, func, insert, literal, select, update
from sqlalchemy.orm import Session

from spica.db.engine import notify
from spica.db.grade import RESYNC, locked, point_all, share_counting
from spica.db.person import audit
from spica.db.selection import compile_rule
from spica.db.snapshot import Snapshot, taken
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.person import PersonRow
from spica.db.tables.quality import BulkGradeRow, GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.selection import Rule, format_rule

Condition = ColumnElement[bool]
FIRST = 12
MASK = 0x7FFF_FFFF
PRIME = 2_147_483_629
STRIDE = 40_503
"""Constants of the check sums of a set of images, by SQL and by columns."""


class BulkTarget(enum.StrEnum):
    """Which of the images of a rule are graded."""

    UNGRADED = "ungraded"
    ALL = "all"


@dataclass(frozen=True)
class BulkWish:
    """What to grade: the exposures of a rule and of further conditions; `target` UNGRADED: those no person graded."""

    rule: Rule
    target: BulkTarget = BulkTarget.UNGRADED
    conditions: Sequence[Condition] = ()


@dataclass(frozen=True)
class GradeShare:
    """How many images have one grade now; both None: no grade."""

    grade: Grade | None
    source: GradeSource | None
    n: int


@dataclass(frozen=True)
class BulkPreview:
    """What one grade for a rule would reach.

    `others`: images with a standing grade of somebody else; `token` names this very set of images with the grades that
    count now, and changes with any of them.
    """

    n: int
    shares: tuple[GradeShare, ...]
    others: int
    first_ids: tuple[int, ...]
    token: str


@dataclass(frozen=True)
class BulkEntry:
    """A former act."""

    id: int
    rule: str
    grade: Grade
    comment: str | None
    n_images: int
    person_id: int | None
    person: str | None
    created_at: datetime
    withdrawn_at: datetime | None


def preview_bulk(session: Session, wish: BulkWish, person_id: int | None) -> BulkPreview:
    """Judge all exposures by SQL and return what a grade for them would reach; nothing is changed."""
    shares, token = _tally(session, _members(wish))
    other = (
        select(GradeRow.id)
        .where(GradeRow.image_id == ImageRow.id, GradeRow.source == GradeSource.HUMAN)
        .where(GradeRow.withdrawn_at.is_(None), GradeRow.person_id.is_distinct_from(person_id))
    )
    others = session.scalar(_members(wish, func.count()).where(other.exists())) or 0
    first = tuple(session.scalars(_members(wish).order_by(ImageRow.id).limit(FIRST)))
    return BulkPreview(sum(s.n for s in shares), shares, others, first, token)


def preview_from(snapshot: Snapshot, rule: Rule, target: BulkTarget, person_id: int | None) -> BulkPreview:
    """Return what a grade for a rule would reach, from the snapshot: as `preview_bulk` says of the same moment."""
    images, grades = snapshot.images, snapshot.grades
    chosen = taken(snapshot, rule)
    human = images.grade_source == 2
    if target is BulkTarget.UNGRADED:
        chosen &= ~human
    by_other = grades.person > 0 if person_id is None else grades.person != person_id
    standing = (grades.source == 2) & ~grades.withdrawn & by_other & (grades.row >= 0)
    touched = np.zeros(len(images), dtype=bool)
    touched[grades.row[standing]] = True
    rows = np.flatnonzero(chosen)
    code = 2 * images.grade[rows].astype(np.int64) + human[rows]
    low = images.id[rows] & MASK
    mixed = (low * low + code * STRIDE) % PRIME
    counts = np.bincount(code, minlength=10)
    letters = [(g, 2 * (i + 1)) for i, g in enumerate(Grade)]
    shares = [GradeShare(g, s, int(counts[c + k])) for g, c in letters for k, s in enumerate(GradeSource)]
    shares.append(GradeShare(None, None, int(counts[0])))
    first = tuple(int(i) for i in images.id[rows[:FIRST]])
    token = token_of(len(rows), int(low.sum()), int(mixed.sum()))
    return BulkPreview(len(rows), tuple(s for s in shares if s.n), int(touched[rows].sum()), first, token)


def grade_rule(
    session: Session, wish: BulkWish, grade: Grade, comment: str | None, person_id: int | None, token: str
) -> int:
    """Give one grade to all that the wish takes at this moment; return the id of the act.

    A bounded number of statements, however many images: they are locked by id, judged again, graded, and pointed anew.

    Raises
    ------
    ConflictError
        The images or their grades are not those of the preview that gave `token`; or there are none.
    """
    share_counting(session)
    session.execute(select(func.count()).select_from(locked(_members(wish)).subquery()))
    values = {"rule": format_rule(wish.rule), "grade": grade, "comment": comment, "person_id": person_id}
    bulk_id = session.scalars(insert(BulkGradeRow).values(n_images=0, **values).returning(BulkGradeRow.id)).one()
    given = {"source": GradeSource.HUMAN, "grade": grade, "person_id": person_id, "comment": comment}
    columns = [ImageRow.id, ImageRow.quality_id, *(_typed(name, value) for name, value in given.items())]
    rows = _members(wish, *columns, literal(bulk_id, BigInteger())).order_by(ImageRow.id)
    session.execute(insert(GradeRow).from_select(["image_id", "quality_id", *given, "bulk_id"], rows))
    inserted = select(GradeRow.image_id).where(GradeRow.bulk_id == bulk_id)
    shares, found = _tally(session, inserted)
    n = sum(s.n for s in shares)
    if n == 0 or found != token:
        was = token.partition(".")[0]
        raise ConflictError(
            f"the rule took {was} images when you looked and {n} now, or their grades changed; look again, then grade",
            n=n,
        )
    session.execute(update(BulkGradeRow).where(BulkGradeRow.id == bulk_id).values(n_images=n))
    point_all(session, inserted)
    audit(session, person_id, "bulk_grade", f"bulk:{bulk_id}", f"{grade.value} for {n}: {values['rule']}")
    notify(session, RESYNC)
    return bulk_id


def undo_bulk(session: Session, bulk_id: int, person_id: int | None, *, anyone: bool = False) -> int:
    """Take back all grades of an act that still stand; return how many.

    Raises
    ------
    ConflictError
        There is no such act, it was taken back before, or it is another person's and `anyone` is not set.
    """
    share_counting(session)
    row = session.get(BulkGradeRow, bulk_id, with_for_update=True)
    if row is None or row.withdrawn_at is not None:
        raise ConflictError(f"act {bulk_id} cannot be taken back; it does not stand any more: reload the page")
    if row.person_id != person_id and not anyone:
        raise ConflictError(f"act {bulk_id} is another person's; ask an admin to take it back")
    of_act = select(GradeRow.image_id).where(GradeRow.bulk_id == bulk_id)
    session.execute(select(func.count()).select_from(locked(of_act).subquery()))
    standing = update(GradeRow).where(GradeRow.bulk_id == bulk_id, GradeRow.withdrawn_at.is_(None))
    n_taken = int(getattr(session.execute(standing.values(withdrawn_at=func.now())), "rowcount", 0))
    row.withdrawn_at = session.scalars(select(func.now())).one()
    session.flush()
    point_all(session, of_act)
    audit(session, person_id, "undo_bulk_grade", f"bulk:{bulk_id}", f"{n_taken} of {row.n_images} grades taken back")
    notify(session, RESYNC)
    return n_taken


def list_bulk(session: Session, limit: int, offset: int = 0) -> tuple[list[BulkEntry], int]:
    """Return former acts, newest first, and how many there are."""
    columns: list[Any] = [
        getattr(BulkGradeRow, name) for name in ("id", "rule", "grade", "comment", "n_images", "person_id")
    ]
    columns += [PersonRow.name, BulkGradeRow.created_at, BulkGradeRow.withdrawn_at]
    query = (
        select(*columns)
        .outerjoin(PersonRow, PersonRow.id == BulkGradeRow.person_id)
        .order_by(BulkGradeRow.id.desc())
        .limit(limit)
        .offset(offset)
    )
    total = session.scalar(select(func.count()).select_from(BulkGradeRow)) or 0
    return [BulkEntry(*row) for row in session.execute(query)], total


def token_of(n: int, plain: int, mixed: int) -> str:
    """Return the name of a set of images: how many, the sum of ids, a sum of ids mixed with grades."""
    return f"{n}.{plain:x}.{mixed:x}"


def _members(wish: BulkWish, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Select from the images that a wish takes: science exposures, not rejected, with quality, as plans judge them."""
    found = select(*(columns or (ImageRow.id,))).select_from(ImageRow)
    found = found.outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
    found = found.where(ImageRow.kind == ImageKind.EXPOSURE, ImageRow.frame_type == FrameType.SCIENCE)
    found = found.where(ImageRow.state != ImageState.REJECTED, ImageRow.quality_id.is_not(None))
    found = found.where(compile_rule(wish.rule), *wish.conditions).correlate(None)
    if wish.target is BulkTarget.UNGRADED:
        found = found.where(MeasureRow.grade_source.is_distinct_from(GradeSource.HUMAN))
    return found


def _typed(name: str, value: Any) -> ColumnElement[Any]:
    return literal(value, GradeRow.__table__.c[name].type)


def _tally(session: Session, images: Select[*tuple[Any, ...]]) -> tuple[tuple[GradeShare, ...], str]:
    """Return how many images have which grade that counts, and the name of the set; one statement."""
    ids = images.subquery("members")
    code: ColumnElement[Any] = case(*((MeasureRow.grade == g, 2 * (i + 1)) for i, g in enumerate(Grade)), else_=0)
    code = code + case((MeasureRow.grade_source == GradeSource.HUMAN, 1), else_=0)
    low = ids.c[0].op("&")(literal(MASK, BigInteger()))
    mixed = (low * low + code * STRIDE) % literal(PRIME, BigInteger())
    query = (
        select(MeasureRow.grade, MeasureRow.grade_source, func.count(), func.sum(low), func.sum(mixed))
        .select_from(ids)
        .outerjoin(MeasureRow, MeasureRow.image_id == ids.c[0])
        .group_by(MeasureRow.grade, MeasureRow.grade_source)
        .order_by(MeasureRow.grade.asc().nulls_last(), MeasureRow.grade_source)
    )
    rows = session.execute(query).all()
    token = token_of(*(int(sum(row[i] for row in rows)) for i in (2, 3, 4)))
    return tuple(GradeShare(row[0], row[1], row[2]) for row in rows), token

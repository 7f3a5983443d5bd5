"""Grades: machine and human rows apart, never overwritten; one pointer names the grade that counts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import notify
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import GradeReasonRow, GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeRecord, GradeSource
from spica.model.job import Reason


def record_grade(session: Session, record: GradeRecord, context: HarvestContext) -> None:
    """Keep the machine's grade of an attempt."""
    image_id = context.need_image(record.item)
    add_grade(
        session, image_id, GradeSource.MACHINE, record.grade, reasons=record.reasons, attempt_id=context.attempt_id
    )


def add_grade(
    session: Session,
    image_id: int,
    source: GradeSource,
    grade: Grade,
    *,
    person_id: int | None = None,
    comment: str | None = None,
    reasons: Sequence[Reason] = (),
    attempt_id: int | None = None,
) -> int:
    """Add one grade, let the pointer follow, and return the grade's id; it judges the quality that counts now."""
    image = session.get_one(ImageRow, image_id, with_for_update=True)
    row = GradeRow(
        image_id=image_id,
        source=source,
        grade=grade,
        person_id=person_id,
        comment=comment,
        quality_id=image.quality_id,
        attempt_id=attempt_id,
    )
    session.add(row)
    session.flush()
    session.add_all(
        GradeReasonRow(
            grade_id=row.id,
            code=r.code,
            text=r.text,
            value=None if r.value is None else str(r.value),
            limit=None if r.limit is None else str(r.limit),
        )
        for r in reasons
    )
    point(session, image_id)
    return row.id


def withdraw_grade(session: Session, grade_id: int, person_id: int | None) -> int:
    """Take back a human grade of the same person (anyone's where `person_id` is None); return the image's id."""
    row = session.get(GradeRow, grade_id, with_for_update=True)
    if row is None or row.source is not GradeSource.HUMAN or row.withdrawn_at is not None:
        raise ConflictError(f"grade {grade_id} cannot be taken back; it is no standing human grade: reload the page")
    if person_id is not None and row.person_id != person_id:
        raise ConflictError(f"grade {grade_id} is another person's; give your own grade instead")
    row.withdrawn_at = session.scalars(select(func.now())).one()
    session.flush()
    point(session, row.image_id)
    return row.image_id


def point(session: Session, image_id: int) -> None:
    """Let the image point to the grade that counts: latest standing human, else latest machine, else none."""
    human_first = case((GradeRow.source == GradeSource.HUMAN, 0), else_=1)
    query = (
        select(GradeRow)
        .where(GradeRow.image_id == image_id, GradeRow.withdrawn_at.is_(None))
        .order_by(human_first, GradeRow.id.desc())
        .limit(1)
    )
    row = session.scalar(query)
    session.execute(update(ImageRow).where(ImageRow.id == image_id).values(grade_id=row.id if row else None))
    values = {"grade": row.grade if row else None, "grade_source": row.source if row else None}
    session.execute(update(MeasureRow).where(MeasureRow.image_id == image_id).values(**values))
    notify(session, f"image:{image_id}")


def grade_history(session: Session, image_id: int) -> list[tuple[GradeRow, list[GradeReasonRow]]]:
    """Return all grades of an image with their reasons, newest first."""
    grades = session.scalars(select(GradeRow).where(GradeRow.image_id == image_id).order_by(GradeRow.id.desc())).all()
    ids = [g.id for g in grades]
    reasons = session.scalars(
        select(GradeReasonRow).where(GradeReasonRow.grade_id.in_(ids)).order_by(GradeReasonRow.id)
    )
    by_grade: dict[int, list[GradeReasonRow]] = {i: [] for i in ids}
    for reason in reasons:
        by_grade[reason.grade_id].append(reason)
    return [(g, by_grade[g.id]) for g in grades]

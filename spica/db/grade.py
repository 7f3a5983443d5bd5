"""Grades: machine and human rows apart, never overwritten; one pointer names the grade that counts.

Which human grade counts is a setting of the survey: the latest that stands, or the worst of the graders' own newest.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, Update, bindparam, case, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import notify
from spica.db.person import audit
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.person import SettingRow
from spica.db.tables.quality import GradeReasonRow, GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeRecord, GradeSource
from spica.model.job import Reason

SETTING = "grade.counts"
RESYNC = "resync"
"""Payload of a notification that says: much has changed, read everything again."""
_LOCK = 0x5370_6963_6101
"""Advisory lock: held shared by who gives or takes back human grades, alone by who changes what counts."""


class Counting(enum.StrEnum):
    """Which of several people's standing grades counts."""

    LATEST = "latest"
    WORST = "worst"


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
    blind: bool = False,
    seconds: float | None = None,
    bulk_id: int | None = None,
) -> int:
    """Add one grade, let the pointer follow, and return the grade's id; it judges the quality that counts now.

    `blind`: given without seeing other grades; `seconds`: how long the image stood before the grader.
    """
    if source is GradeSource.HUMAN:
        share_counting(session)
    image = session.get_one(ImageRow, image_id, with_for_update=True)
    row = GradeRow(
        image_id=image_id,
        source=source,
        grade=grade,
        person_id=person_id,
        comment=comment,
        quality_id=image.quality_id,
        attempt_id=attempt_id,
        blind=blind,
        seconds=seconds,
        bulk_id=bulk_id,
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
    share_counting(session)
    image_id = session.scalar(select(GradeRow.image_id).where(GradeRow.id == grade_id))
    if image_id is not None:
        session.execute(select(ImageRow.id).where(ImageRow.id == image_id).with_for_update())
    row = session.get(GradeRow, grade_id, with_for_update=True)
    if row is None or row.source is not GradeSource.HUMAN or row.withdrawn_at is not None:
        raise ConflictError(f"grade {grade_id} cannot be taken back; it is no standing human grade: reload the page")
    if person_id is not None and row.person_id != person_id:
        raise ConflictError(f"grade {grade_id} is another person's; give your own grade instead")
    row.withdrawn_at = session.scalars(select(func.now())).one()
    session.flush()
    point(session, row.image_id)
    return row.image_id


@functools.cache
def _history_said() -> tuple[Select[GradeRow], Select[GradeReasonRow]]:
    """Return the statements of the grades of the `image`, and of their reasons."""
    grades = select(GradeRow).where(GradeRow.image_id == bindparam("image")).order_by(GradeRow.id.desc())
    reasons = select(GradeReasonRow).join(GradeRow, GradeRow.id == GradeReasonRow.grade_id)
    return grades, reasons.where(GradeRow.image_id == bindparam("image")).order_by(GradeReasonRow.id)


def grade_history(session: Session, image_id: int) -> list[tuple[GradeRow, list[GradeReasonRow]]]:
    """Return all grades of an image with their reasons, newest first."""
    of, why = _history_said()
    grades = session.scalars(of, {"image": image_id}).all()
    by_grade: dict[int, list[GradeReasonRow]] = {g.id: [] for g in grades}
    for reason in session.scalars(why, {"image": image_id}) if grades else ():
        by_grade.setdefault(reason.grade_id, []).append(reason)
    return [(g, by_grade[g.id]) for g in grades]


# The grade that counts ------------------------------------------------------------------------------------------------


def read_counting(session: Session) -> Counting:
    """Return which human grade counts in this survey; the latest where nobody has said."""
    word = session.scalar(select(SettingRow.value).where(SettingRow.name == SETTING))
    return Counting.LATEST if word is None else Counting(word)


def share_counting(session: Session) -> None:
    """Keep what counts from being changed until the transaction ends; call it before images are locked."""
    session.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _LOCK})


def counting_grades(images: Select[*tuple[Any, ...]], counting: Counting) -> Select[*tuple[Any, ...]]:
    """Return the statement of the grade that counts, one row an image that was ever graded: image, id, letter, source.

    The last three are NULL where no grade stands. A human grade goes before the machine's. `worst`: of each grader the
    own newest that stands (all of the command line are one grader), of those the worst letter, of equals the newest.
    """
    gone = GradeRow.withdrawn_at.is_not(None)
    columns = (GradeRow.image_id, GradeRow.id, GradeRow.grade, GradeRow.source, gone.label("gone"))
    rows = select(*columns).where(GradeRow.image_id.in_(images))
    if counting is Counting.WORST:
        who = (GradeRow.image_id, GradeRow.source, func.coalesce(GradeRow.person_id, 0))
        turn = func.row_number().over(partition_by=who, order_by=(gone, GradeRow.id.desc()))
        own = rows.add_columns(turn.label("turn")).subquery("own")
        rows = select(own).where(own.c.turn == 1)
    row = rows.subquery("stands")
    order = [row.c.gone, case((row.c.source == GradeSource.HUMAN, 0), else_=1)]
    order += [row.c.grade.desc()] if counting is Counting.WORST else []
    place = func.row_number().over(partition_by=row.c.image_id, order_by=(*order, row.c.id.desc()))
    ranked = select(row, place.label("place")).subquery("ranked")
    kept = (case((~ranked.c.gone, ranked.c[name])).label(name) for name in ("id", "grade", "source"))
    return select(ranked.c.image_id, *kept).where(ranked.c.place == 1)


@functools.cache
def _counting_said(counting: Counting) -> Select[*tuple[Any, ...]]:
    """Return the statement of the grade that counts of one image, the parameter `image`."""
    return counting_grades(select(ImageRow.id).where(ImageRow.id == bindparam("image")), counting)


def point(session: Session, image_id: int) -> None:
    """Let the image point to the grade that counts, and tell listeners; the image is locked by who calls."""
    row = session.execute(_counting_said(read_counting(session)), {"image": image_id}).one_or_none()
    session.execute(update(ImageRow).where(ImageRow.id == image_id).values(grade_id=row.id if row else None))
    values = {"grade": row.grade if row else None, "grade_source": row.source if row else None}
    session.execute(update(MeasureRow).where(MeasureRow.image_id == image_id).values(**values))
    notify(session, f"image:{image_id}")


def point_all(session: Session, images: Select[*tuple[Any, ...]]) -> int:
    """Let many images point to the grade that counts, by one statement; return how many changed.

    `images` selects the ids of images that were graded at some time; they are locked by who calls. Nothing is joined
    but by primary key, so that no stale statistics of the tables can lead the planner astray.
    """
    return _moved(session, counting_grades(images, read_counting(session)))


def _moved(session: Session, goal: Select[*tuple[Any, ...]]) -> int:
    to = goal.cte("goal")
    moved = (
        update(ImageRow)
        .where(ImageRow.id == to.c.image_id, ImageRow.grade_id.is_distinct_from(to.c.id))
        .values(grade_id=to.c.id)
        .returning(ImageRow.id.label("image_id"), to.c.grade, to.c.source)
        .cte("moved")
    )
    repeat: Update = (
        update(MeasureRow)
        .where(MeasureRow.image_id == moved.c.image_id)
        .values(grade=moved.c.grade, grade_source=moved.c.source)
        .returning(MeasureRow.image_id)
    )
    done = repeat.cte("done")
    counted = select(func.count(moved.c.image_id), select(func.count(done.c.image_id)).scalar_subquery())
    return int(session.execute(counted.select_from(moved)).one()[0])


def set_counting(session: Session, word: Counting, person_id: int | None) -> int:
    """Change which human grade counts and let all images that several people graded follow; return how many changed.

    Grades given in the meantime wait for the end of the transaction. No row of a grade is touched: going back to the
    other way gives back each pointer. `person_id` None: the command line.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    before = read_counting(session)
    if before is word:
        return 0
    known = insert(SettingRow).values(name=SETTING, value=word.value)
    session.execute(
        known.on_conflict_do_update(
            index_elements=[SettingRow.name], set_={"value": word.value, "version": SettingRow.version + 1}
        )
    )
    grader = func.coalesce(GradeRow.person_id, 0)
    several = (
        select(GradeRow.image_id)
        .where(GradeRow.source == GradeSource.HUMAN, GradeRow.withdrawn_at.is_(None))
        .group_by(GradeRow.image_id)
        .having(func.min(grader) != func.max(grader))
    )
    session.execute(select(func.count()).select_from(locked(several).subquery()))
    changed = point_all(session, several)
    audit(session, person_id, "set_counting", "survey:grades", f"{before.value} to {word.value}; {changed} changed")
    notify(session, RESYNC)
    return changed


def locked(images: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Return the statement that locks images by ascending id, so that two such acts never wait for each other."""
    return select(ImageRow.id).where(ImageRow.id.in_(images)).order_by(ImageRow.id).with_for_update()

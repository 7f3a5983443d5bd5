"""Grades given in the queue: once each, however often the request comes; a claim ends with its grade."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from spica.db.grade import add_grade, withdraw_grade
from spica.db.queue.claim import claim_images, end_claim
from spica.db.tables.image import ImageRow
from spica.db.tables.quality import GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageState


@dataclass(frozen=True)
class Given:
    """A grade that stands; `repeated` where an earlier request had given it, `blind` as it is kept."""

    grade_id: int
    image: str
    repeated: bool
    blind: bool


def give_grade(
    session: Session,
    person_id: int,
    image_id: int,
    grade: Grade,
    *,
    comment: str | None = None,
    seconds: float | None = None,
    blind: bool = False,
    known: int = 0,
) -> Given:
    """Give an image a grade, once.

    A request that is repeated because its answer was lost finds the grade of the first and adds none: the same person
    gave the same letter and comment later than `known`, and it stands. A grade is blind only where the person never
    graded the image before: what the first grade revealed is known from then on.

    Parameters
    ----------
    seconds : how long the image stood before the grader, s.
    blind : whether the grades of others and the machine's were hidden.
    known : id of the person's newest grade of the image, withdrawn or not, when the image was shown; 0 where none.

    Raises
    ------
    ConflictError
        There is no such image, or it is rejected, or has no pixels yet.
    """
    image = session.get(ImageRow, image_id, with_for_update=True)
    if image is None or image.state is ImageState.REJECTED or image.file_id is None:
        raise ConflictError(f"image {image_id} cannot be graded any more: it is gone or rejected; go on with the next")
    before = _own(session, image_id, person_id)
    for own in before:
        if own.id > known and own.withdrawn_at is None and (own.grade, own.comment) == (grade, comment):
            end_claim(session, image_id)
            return Given(own.id, image.name, True, own.blind)
    unseen = blind and not before
    row = add_grade(
        session, image_id, GradeSource.HUMAN, grade, person_id=person_id, comment=comment, blind=unseen, seconds=seconds
    )
    end_claim(session, image_id)
    return Given(row, image.name, False, unseen)


@dataclass(frozen=True)
class TakenBack:
    """An image whose grade was taken back; `repeated` where it had been already."""

    image_id: int
    repeated: bool


def take_back(session: Session, person_id: int, grade_id: int) -> TakenBack:
    """Take back a grade of one's own and hold its image again where nobody else does; twice is once.

    Raises
    ------
    ConflictError
        The grade is another person's, the machine's, or there is none.
    """
    row = session.get(GradeRow, grade_id)
    if row is not None and row.person_id == person_id and row.withdrawn_at is not None:
        return TakenBack(row.image_id, True)
    image_id = withdraw_grade(session, grade_id, person_id)
    claim_images(session, person_id, [image_id], 1)
    return TakenBack(image_id, False)


@functools.cache
def _own_said() -> Select[GradeRow]:
    own = (GradeRow.image_id == bindparam("image"), GradeRow.person_id == bindparam("person"))
    return select(GradeRow).where(*own, GradeRow.source == GradeSource.HUMAN).order_by(GradeRow.id.desc())


def _own(session: Session, image_id: int, person_id: int) -> list[GradeRow]:
    """Return the grades that a person ever gave an image, newest first."""
    return list(session.scalars(_own_said(), {"image": image_id, "person": person_id}))

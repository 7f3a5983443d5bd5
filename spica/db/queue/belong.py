"""Which images belong in a queue of a person, as conditions of SQL: the truth that every claim is judged by."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass
from datetime import date

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import aliased

from spica.db.selection import compile_rule
from spica.db.tables.image import ImageRow
from spica.db.tables.quality import GradeRow
from spica.model.grade import GradeSource
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.selection import Rule

Condition = ColumnElement[bool]


class QueueKind(enum.StrEnum):
    """What makes an image wait."""

    UNGRADED = "ungraded"
    """Nobody's grade stands."""
    SECOND = "second"
    """Others' grades stand, none of mine: a second, blind opinion."""
    DISAGREE = "disagree"
    """Standing grades of people differ, or people and the machine do, and I have not had the last word."""
    ALL = "all"
    """Every exposure that can be graded."""


class QueueOrder(enum.StrEnum):
    """What comes first."""

    OLDEST = "oldest"
    WORST = "worst"


@dataclass(frozen=True)
class QueueBounds:
    """What a queue is narrowed to; None does not narrow."""

    rule: Rule | None = None
    object_key: str | None = None
    filter: str | None = None
    night: date | None = None

    def conditions(self) -> list[Condition]:
        """Return the conditions for statements over `image` LEFT JOIN `measure`."""
        found: list[Condition] = [] if self.rule is None else [compile_rule(self.rule)]
        if self.object_key is not None:
            found.append(ImageRow.object_key == self.object_key)
        if self.filter is not None:
            found.append(ImageRow.filter == self.filter)
        if self.night is not None:
            found.append(ImageRow.night == self.night)
        return found


def gradable() -> list[Condition]:
    """Return what every image of every queue is: a science exposure of known quality that was not rejected."""
    return [
        ImageRow.kind == ImageKind.EXPOSURE,
        ImageRow.frame_type == FrameType.SCIENCE,
        ImageRow.state != ImageState.REJECTED,
        ImageRow.quality_id.is_not(None),
    ]


def belongs(kind: QueueKind, person_id: int) -> list[Condition]:
    """Return the conditions under which an image belongs in a person's queue, over `image` LEFT JOIN `measure`."""
    found = gradable()
    if kind is QueueKind.UNGRADED:
        found.append(~_human())
    elif kind is QueueKind.SECOND:
        found += [_human(others=person_id), ~_human(mine=person_id)]
    elif kind is QueueKind.DISAGREE:
        found += [differs(), ~_last_word(person_id)]
    return found


@functools.cache
def _grade(turn: int) -> type[GradeRow]:
    """Return the table of grades under another name; to make one costs more than all else of a statement."""
    return aliased(GradeRow, name=f"grade_{turn}")


def _human(mine: int | None = None, others: int | None = None) -> Condition:
    """Whether a human grade stands: anybody's, one person's, or one of somebody else."""
    row = _grade(1)
    query = select(row.id).where(
        row.image_id == ImageRow.id, row.source == GradeSource.HUMAN, row.withdrawn_at.is_(None)
    )
    if mine is not None:
        query = query.where(row.person_id == mine)
    if others is not None:
        query = query.where(row.person_id.is_distinct_from(others))
    return exists(query.correlate(ImageRow))


def differs() -> Condition:
    """Whether the newest standing grades of people differ, or any of them from the newest of the machine.

    A human grade without a person (the command line's) counts as that of one person more.
    """
    row, newest = _grade(1), _grade(2)
    ids = (
        select(func.max(row.id))
        .where(row.image_id == ImageRow.id, row.withdrawn_at.is_(None))
        .group_by(row.source, row.person_id)
        .correlate(ImageRow)
    )
    several = func.count(newest.grade.distinct()) > 1
    letters = select(several & func.bool_or(newest.source == GradeSource.HUMAN)).where(newest.id.in_(ids))
    return func.coalesce(letters.correlate(ImageRow).scalar_subquery(), False)


def _last_word(person_id: int) -> Condition:
    """Whether nobody has said another letter after this person's newest standing grade."""
    mine, later, newer = _grade(1), _grade(2), _grade(3)
    own = and_(mine.image_id == ImageRow.id, mine.person_id == person_id, mine.withdrawn_at.is_(None))
    again = exists(
        select(newer.id).where(
            newer.image_id == mine.image_id,
            newer.person_id == person_id,
            newer.withdrawn_at.is_(None),
            newer.id > mine.id,
        )
    )
    other = or_(later.person_id.is_distinct_from(person_id), later.source == GradeSource.MACHINE)
    against = exists(
        select(later.id).where(
            later.image_id == mine.image_id,
            later.withdrawn_at.is_(None),
            later.id > mine.id,
            later.grade != mine.grade,
            other,
        )
    )
    return exists(select(mine.id).where(own, ~again, ~against).correlate(ImageRow))

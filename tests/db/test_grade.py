"""Grades are history; the pointer is the latest standing human one, else the latest machine one, else none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.grade import add_grade, grade_history, withdraw_grade
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.job import Reason

STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(list(GradeSource)), st.sampled_from(list(Grade))),
        st.tuples(st.just("withdraw"), st.integers(0, 9)),
    ),
    max_size=9,
)


def test_the_grade_that_counts(world: Any, session: Session) -> None:
    context = world.attempt(session)
    number = iter(range(1000))

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def walk(steps: list[tuple[Any, Any]]) -> None:
        image_id = world.exposure(session, context, f"exp{next(number)}")
        told = [(session.get_one(ImageRow, image_id).grade_id, GradeSource.MACHINE, Grade.A, False)]
        for what, value in steps:
            if what == "withdraw":
                standing = [i for i, t in enumerate(told) if t[1] is GradeSource.HUMAN and not t[3]]
                if standing:
                    i = standing[value % len(standing)]
                    assert withdraw_grade(session, told[i][0], None) == image_id
                    told[i] = (*told[i][:3], True)
            else:
                told.append((add_grade(session, image_id, what, value), what, value, False))
            humans = [t for t in told if t[1] is GradeSource.HUMAN and not t[3]]
            expected = (humans or [t for t in told if t[1] is GradeSource.MACHINE])[-1]
            image = session.get_one(ImageRow, image_id, populate_existing=True)
            measure = session.get_one(MeasureRow, image_id, populate_existing=True)
            assert (image.grade_id, measure.grade_source, measure.grade) == expected[:3]
        kept = session.scalar(select(func.count()).select_from(GradeRow).where(GradeRow.image_id == image_id))
        assert kept == len(told), "a grade is never overwritten"

    walk()


def test_only_a_standing_human_grade_of_ones_own_can_be_taken_back(world: Any, session: Session) -> None:
    from spica.db.person import add_person
    from spica.model.person import PersonRole

    image_id = world.exposure(session, world.attempt(session), "exp1")
    ann, bob = (add_person(session, n, PersonRole.GRADER, None) for n in ("ann", "bob"))
    machine = session.get_one(ImageRow, image_id).grade_id
    human = add_grade(session, image_id, GradeSource.HUMAN, Grade.C, person_id=ann, comment="trailed")
    with pytest.raises(ConflictError, match="another person's"):
        withdraw_grade(session, human, bob)
    with pytest.raises(ConflictError, match="no standing human grade"):
        withdraw_grade(session, machine, None)
    withdraw_grade(session, human, ann)
    with pytest.raises(ConflictError, match="no standing human grade"):
        withdraw_grade(session, human, ann)


def test_history_is_newest_first_with_its_reasons(world: Any, session: Session) -> None:
    image_id = world.exposure(session, world.attempt(session), "exp1")
    add_grade(session, image_id, GradeSource.MACHINE, Grade.D, reasons=[Reason("seeing", "seeing is 2.1", 2.1, 1.5)])
    (newest, reasons), (oldest, none) = grade_history(session, image_id)
    assert (newest.grade, oldest.grade, none) == (Grade.D, Grade.A, [])
    assert [(r.code, r.value, r.limit) for r in reasons] == [("seeing", "2.1", "1.5")]
    assert newest.quality_id == session.get_one(ImageRow, image_id).quality_id

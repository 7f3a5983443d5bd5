"""Grades are history; the pointer is the human grade that the survey's setting names, else the latest machine one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.grade import Counting, add_grade, grade_history, read_counting, set_counting, withdraw_grade
from spica.db.person import add_person, read_audit
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.person import SettingRow
from spica.db.tables.quality import GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.job import Reason
from spica.model.person import PersonRole

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("machine"), st.sampled_from(list(Grade)), st.just(0)),
        st.tuples(st.just("human"), st.sampled_from(list(Grade)), st.integers(0, 3)),
        st.tuples(st.just("human"), st.sampled_from(list(Grade)), st.integers(0, 3)),
        st.tuples(st.just("withdraw"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("counts"), st.sampled_from(list(Counting)), st.just(0)),
    ),
    max_size=12,
)


def counting_grade(told: list[dict[str, Any]], counting: Counting) -> dict[str, Any] | None:
    """Return the grade that counts of one image's grades, oldest first, as a person would find it."""
    humans = [t for t in told if t["who"] != "machine" and not t["withdrawn"]]
    if not humans:
        return next((t for t in reversed(told) if t["who"] == "machine"), None)
    if counting is Counting.LATEST:
        return humans[-1]
    newest = {t["who"]: t for t in humans}
    return max(newest.values(), key=lambda t: (t["grade"], t["id"]))


def test_the_grade_that_counts(world: Any, session: Session) -> None:
    """Whatever is given, taken back or set in whatever order, the pointer is what a person would find."""
    context = world.attempt(session)
    people = [None, *(add_person(session, n, PersonRole.GRADER, None) for n in ("ann", "bob", "cid"))]
    number = iter(range(1000))

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def walk(steps: list[tuple[str, Any, int]]) -> None:
        set_counting(session, Counting.LATEST, None)
        image_id = world.exposure(session, context, f"exp{next(number)}")
        first = session.get_one(ImageRow, image_id).grade_id
        told = [{"id": first, "who": "machine", "grade": Grade.A, "withdrawn": False}]
        for what, value, who in steps:
            if what == "counts":
                set_counting(session, value, None)
            elif what == "withdraw":
                standing = [t for t in told if t["who"] != "machine" and not t["withdrawn"]]
                if standing:
                    chosen = standing[value % len(standing)]
                    assert withdraw_grade(session, chosen["id"], None) == image_id
                    chosen["withdrawn"] = True
            else:
                source, person = GradeSource(what), people[who] if what == "human" else None
                grade_id = add_grade(session, image_id, source, value, person_id=person)
                told.append(
                    {"id": grade_id, "who": what if what == "machine" else person, "grade": value, "withdrawn": False}
                )
            expected = counting_grade(told, read_counting(session))
            assert expected is not None
            image = session.get_one(ImageRow, image_id, populate_existing=True)
            measure = session.get_one(MeasureRow, image_id, populate_existing=True)
            source = GradeSource.MACHINE if expected["who"] == "machine" else GradeSource.HUMAN
            found = (image.grade_id, measure.grade, measure.grade_source)
            assert found == (expected["id"], expected["grade"], source)
        kept = session.scalar(select(func.count()).select_from(GradeRow).where(GradeRow.image_id == image_id))
        assert kept == len(told), "a grade is never overwritten"

    walk()


def test_a_change_of_what_counts_moves_only_what_several_graded(world: Any, session: Session) -> None:
    context = world.attempt(session)
    ann, bob = (add_person(session, n, PersonRole.GRADER, None) for n in ("ann", "bob"))
    one, two, same, shell = (world.exposure(session, context, n) for n in ("one", "two", "same", "shell"))
    add_grade(session, one, GradeSource.HUMAN, Grade.D, person_id=ann)
    add_grade(session, one, GradeSource.HUMAN, Grade.B, person_id=ann)
    worst = add_grade(session, two, GradeSource.HUMAN, Grade.D, person_id=ann)
    latest = add_grade(session, two, GradeSource.HUMAN, Grade.B, person_id=bob)
    add_grade(session, same, GradeSource.HUMAN, Grade.C, person_id=ann)
    newest = add_grade(session, same, GradeSource.HUMAN, Grade.C, person_id=bob)
    of_shell = add_grade(session, shell, GradeSource.HUMAN, Grade.C)
    add_grade(session, shell, GradeSource.HUMAN, Grade.A, person_id=ann)

    def pointers() -> list[int | None]:
        return [session.get_one(ImageRow, i, populate_existing=True).grade_id for i in (two, same, shell)]

    before = pointers()
    assert before[:2] == [latest, newest]
    assert set_counting(session, Counting.WORST, ann) == 2
    assert pointers() == [worst, newest, of_shell]
    assert session.get_one(MeasureRow, one, populate_existing=True).grade is Grade.B, "one person, own newest"
    assert set_counting(session, Counting.WORST, ann) == 0, "it is so already"
    assert set_counting(session, Counting.LATEST, ann) == 2
    assert pointers() == before
    assert session.get_one(SettingRow, "grade.counts", populate_existing=True).version == 2
    said = [(a.person, a.verb, a.detail) for a in read_audit(session, "survey:grades")]
    assert said[0] == ("ann", "set_counting", "worst to latest; 2 changed")
    assert len(said) == 2


def test_a_grade_given_during_the_change_follows_it(world: Any, database: Database) -> None:
    """A grader waits for the change of what counts, and is judged by the new way."""
    with database.begin() as session:
        image_id = world.exposure(session, world.attempt(session), "exp1")
        ann = add_person(session, "ann", PersonRole.GRADER, None)
        worst = add_grade(session, image_id, GradeSource.HUMAN, Grade.D)
    begun = threading.Event()

    def give() -> None:
        with database.begin() as other:
            begun.set()
            add_grade(other, image_id, GradeSource.HUMAN, Grade.A, person_id=ann)

    thread = threading.Thread(target=give)
    with database.begin() as session:
        set_counting(session, Counting.WORST, None)
        thread.start()
        assert begun.wait(10.0)
        thread.join(0.3)
        assert thread.is_alive(), "it waits"
    thread.join(10.0)
    with database.read() as session:
        assert session.get_one(ImageRow, image_id).grade_id == worst
        assert session.scalar(select(func.count()).select_from(GradeRow)) == 3


def test_a_change_tells_listeners_to_read_again(world: Any, database: Database) -> None:
    with database.listen() as listener:
        with database.begin() as session:
            set_counting(session, Counting.WORST, None)
        assert listener.wait(5.0) == ["resync"]


def test_how_a_grade_was_given_is_kept(world: Any, session: Session) -> None:
    image_id = world.exposure(session, world.attempt(session), "exp1")
    grade_id = add_grade(session, image_id, GradeSource.HUMAN, Grade.C, blind=True, seconds=7.5)
    row = session.get_one(GradeRow, grade_id, populate_existing=True)
    assert (row.blind, row.seconds, row.bulk_id) == (True, 7.5, None)


def test_only_a_standing_human_grade_of_ones_own_can_be_taken_back(world: Any, session: Session) -> None:
    image_id = world.exposure(session, world.attempt(session), "exp1")
    ann, bob = (add_person(session, n, PersonRole.GRADER, None) for n in ("ann", "bob"))
    machine = session.get_one(ImageRow, image_id).grade_id
    human = add_grade(session, image_id, GradeSource.HUMAN, Grade.C, person_id=ann, comment="trailed")
    with pytest.raises(ConflictError, match="another person's"):
        withdraw_grade(session, human, bob)
    with pytest.raises(ConflictError, match="no standing human grade"):
        withdraw_grade(session, machine, None)
    with pytest.raises(ConflictError, match="no standing human grade"):
        withdraw_grade(session, 10**9, None)
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

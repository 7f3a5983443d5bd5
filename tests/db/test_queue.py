"""Queues: what belongs in them, that two graders never get the same image, and that a grade is given once."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.grade import add_grade, withdraw_grade
from spica.db.person import add_person
from spica.db.queue import (
    QueueBounds,
    QueueKind,
    QueueOrder,
    belongs,
    claim_images,
    claimed_by,
    give_grade,
    gradable,
    read_items,
    read_saved_rules,
    release_claims,
    renew_claims,
    take_back,
    view_queue,
)
from spica.db.snapshot import load_snapshot
from spica.db.tables.image import ImageRow, MeasureRow, TagRow
from spica.db.tables.mark import MarkRow
from spica.db.tables.quality import GradeRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageState
from spica.model.person import PersonRole
from spica.model.selection import parse_rule

HUMAN, MACHINE = GradeSource.HUMAN, GradeSource.MACHINE


@pytest.fixture
def people(session: Session) -> tuple[int, int]:
    """Return two graders."""
    return add_person(session, "ann", PersonRole.GRADER), add_person(session, "bob", PersonRole.GRADER)


def waiting(session: Session, kind: QueueKind, person: int, bounds: QueueBounds | None = None) -> list[int]:
    """Return the ids in a queue by the conditions that claims are judged by."""
    where = [*belongs(kind, person), *(bounds or QueueBounds()).conditions()]
    query = select(ImageRow.id).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id).where(*where)
    return list(session.scalars(query.order_by(ImageRow.id)))


def test_what_belongs_in_which_queue(world: Any, session: Session, people: tuple[int, int]) -> None:
    ann, bob = people
    context = world.attempt(session)
    fresh, agreed, against, split, rejected = (world.exposure(session, context, f"e{i}") for i in range(5))
    session.get_one(ImageRow, rejected).state = ImageState.REJECTED
    add_grade(session, agreed, HUMAN, Grade.A, person_id=bob)
    add_grade(session, against, HUMAN, Grade.C, person_id=bob)  # the machine said A
    add_grade(session, split, HUMAN, Grade.A, person_id=bob)
    add_grade(session, split, HUMAN, Grade.B, person_id=None)  # somebody at the command line
    session.flush()
    assert waiting(session, QueueKind.ALL, ann) == [fresh, agreed, against, split]
    assert waiting(session, QueueKind.UNGRADED, ann) == [fresh]
    assert waiting(session, QueueKind.SECOND, ann) == [agreed, against, split]
    assert waiting(session, QueueKind.SECOND, bob) == []
    assert waiting(session, QueueKind.DISAGREE, ann) == [against, split]
    assert waiting(session, QueueKind.DISAGREE, bob) == [split], "bob has said C after the machine's A"


def test_the_last_word_settles_a_disagreement_until_another_letter_is_said(
    world: Any, session: Session, people: tuple[int, int]
) -> None:
    ann, bob = people
    image = world.exposure(session, world.attempt(session), "e1")
    add_grade(session, image, HUMAN, Grade.C, person_id=bob)
    assert waiting(session, QueueKind.DISAGREE, ann) == [image]
    mine = add_grade(session, image, HUMAN, Grade.B, person_id=ann)
    assert waiting(session, QueueKind.DISAGREE, ann) == []
    assert waiting(session, QueueKind.DISAGREE, bob) == [image]
    add_grade(session, image, MACHINE, Grade.B)
    assert waiting(session, QueueKind.DISAGREE, ann) == [], "the same letter is no contradiction"
    add_grade(session, image, MACHINE, Grade.D)
    assert waiting(session, QueueKind.DISAGREE, ann) == [image]
    withdraw_grade(session, mine, ann)
    assert waiting(session, QueueKind.DISAGREE, ann) == [image]
    assert waiting(session, QueueKind.UNGRADED, ann) == []


def test_bounds_narrow_a_queue(world: Any, session: Session, people: tuple[int, int]) -> None:
    context = world.attempt(session)
    one = world.exposure(session, context, "e1", seeing_arcsec=0.6, filter="i", night="2026-09-07")
    two = world.exposure(session, context, "e2", seeing_arcsec=1.6)
    sharp, night = QueueBounds(parse_rule("seeing < 1")), QueueBounds(night=date(2026, 9, 7))
    blurred, field = QueueBounds(parse_rule("not seeing < 1")), QueueBounds(object_key="d2", filter="r")
    for image, bounds in ((one, (sharp, night, QueueBounds(filter="i"))), (two, (blurred, field))):
        for bound in bounds:
            assert waiting(session, QueueKind.ALL, people[0], bound) == [image], bound


def test_the_snapshot_counts_what_the_conditions_say(world: Any, database: Database) -> None:
    """Random histories of grades: for each queue of each person both give the same images; the order is by time."""
    rng = np.random.default_rng(11)
    with database.begin() as session:
        context = world.attempt(session)
        mjd = rng.permutation(24)
        ids = [world.exposure(session, context, f"e{i}", bare=True, mjd=61000.0 + mjd[i]) for i in range(24)]
        people = [add_person(session, name, PersonRole.GRADER) for name in ("ann", "bob")]
        for _ in range(70):
            who = [None, *people][rng.integers(0, 3)]
            letter = list(Grade)[rng.integers(0, 3)]
            source = MACHINE if rng.random() < 0.2 else HUMAN
            image = ids[rng.integers(0, 20)]
            given = add_grade(session, image, source, letter, person_id=None if source is MACHINE else who)
            if source is HUMAN and rng.random() < 0.25:
                withdraw_grade(session, given, None)
        session.get_one(ImageRow, ids[3]).state = ImageState.REJECTED
        session.get_one(ImageRow, ids[23]).quality_id = None
    since = datetime.now(UTC) - timedelta(hours=1)
    with database.read() as session:
        snapshot = load_snapshot(session)
        sizes = {}
        for person in people:
            for kind in QueueKind:
                view = view_queue(snapshot, QueueBounds(), kind, QueueOrder.OLDEST, person, since)
                assert sorted(view.waiting) == waiting(session, kind, person), (kind, person)
                assert list(view.waiting) == sorted(view.waiting, key=lambda i: mjd[ids.index(i)])
                sizes[kind, person] = len(view.waiting)
                assert view.total - view.done == len(view.waiting) or kind is QueueKind.ALL
                assert view.unready == 1
            mine = (GradeRow.person_id == person) & GradeRow.withdrawn_at.is_(None)
            assert view.today == session.scalar(select(func.count()).select_from(GradeRow).where(mine))
            worst = view_queue(snapshot, QueueBounds(), QueueKind.ALL, QueueOrder.WORST, person, since).waiting
            letters = snapshot.images.machine[snapshot.images.row_of(list(worst))]
            assert list(letters) == sorted(letters, reverse=True)
    assert min(sizes.values()) > 0, f"every queue holds something: {sizes}"
    assert len(set(sizes.values())) > 4, "the queues differ"


# Claims ---------------------------------------------------------------------------------------------------------------


def claim(session: Session, person: int, ids: list[int], n: int, kind: QueueKind = QueueKind.UNGRADED) -> list[int]:
    return claim_images(session, person, ids, n, where=belongs(kind, person))


def test_claims_keep_the_order_pass_by_what_others_hold_and_end_in_time(
    world: Any, session: Session, people: tuple[int, int]
) -> None:
    ann, bob = people
    context = world.attempt(session)
    ids = [world.exposure(session, context, f"e{i}") for i in range(6)]
    order = ids[::-1]
    assert claim(session, ann, order, 2) == order[:2]
    assert claim(session, bob, order, 2) == order[2:4]
    assert claim(session, ann, order, 2) == order[:2], "one's own come again"
    assert claim(session, bob, [999_999, *order], 9) == order[2:], "an unknown id is passed by"
    assert claimed_by(session, order[0]) == ann
    assert renew_claims(session, bob, order) == order[2:]
    session.execute(text("UPDATE grade_claim SET until = now() - interval '1 second' WHERE person_id = :p"), {"p": ann})
    assert claimed_by(session, order[0]) is None
    assert claim(session, bob, order, 1) == order[:1], "a claim that ran out is free"
    assert renew_claims(session, ann, order) == order[1:2]
    assert release_claims(session, bob, order[:1]) == 1
    assert release_claims(session, bob) == 4
    assert claim(session, ann, order, 9) == order


def test_a_claim_is_judged_at_the_moment_and_ends_with_the_grade(
    world: Any, session: Session, people: tuple[int, int]
) -> None:
    ann, bob = people
    context = world.attempt(session)
    ids = [world.exposure(session, context, f"e{i}") for i in range(3)]
    assert claim(session, ann, ids, 1) == ids[:1]
    give_grade(session, ann, ids[0], Grade.B, seconds=4.5)
    assert claimed_by(session, ids[0]) is None
    assert claim(session, bob, ids, 9) == ids[1:], "graded since the list of candidates was made"
    assert claim(session, bob, ids, 9, QueueKind.SECOND) == ids[:1]
    assert claim(session, ann, ids, 9, QueueKind.SECOND) == []


def test_two_graders_never_get_the_same_image(world: Any, database: Database) -> None:
    """Three threads drain one queue in small bites; every image goes to one of them, once, and none is left."""
    with database.begin() as session:
        context = world.attempt(session)
        ids = [world.exposure(session, context, f"e{i}", bare=True) for i in range(120)]
        persons = [add_person(session, name, PersonRole.GRADER) for name in ("ann", "bob", "cy")]
    got: dict[int, list[int]] = {p: [] for p in persons}
    faults: list[BaseException] = []
    start = threading.Barrier(len(persons))

    def work(person: int) -> None:
        try:
            start.wait()
            while True:
                with database.begin() as session:
                    mine = claim(session, person, [i for i in ids if i not in got[person]], 3)
                if not mine:
                    return
                got[person] += mine
                with database.begin() as session:
                    give_grade(session, person, mine[0], Grade.A)  # the claims of the others stay
        except BaseException as trouble:
            faults.append(trouble)
            raise

    threads = [threading.Thread(target=work, args=(p,)) for p in persons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []
    everything = [i for mine in got.values() for i in mine]
    assert sorted(everything) == ids
    assert all(len(mine) > 5 for mine in got.values()), "all three took part"


def test_claims_are_told(world: Any, database: Database) -> None:
    with database.begin() as session:
        image = world.exposure(session, world.attempt(session), "e1")
        ann = add_person(session, "ann", PersonRole.GRADER)
    with database.listen() as listener:
        with database.begin() as session:
            claim(session, ann, [image], 1)
        assert listener.wait(5.0) == [f"claim:{image}"]
        with database.begin() as session:
            release_claims(session, ann)
        assert listener.wait(5.0) == [f"claim:{image}"]


# Grades ---------------------------------------------------------------------------------------------------------------


def test_a_repeated_request_adds_no_second_grade(world: Any, session: Session, people: tuple[int, int]) -> None:
    ann, bob = people
    image = world.exposure(session, world.attempt(session), "e1")
    first = give_grade(session, ann, image, Grade.B, comment="trailed", seconds=7.0)
    assert not first.repeated
    again = give_grade(session, ann, image, Grade.B, comment="trailed", seconds=7.0)
    assert (again.grade_id, again.repeated) == (first.grade_id, True)
    other = give_grade(session, bob, image, Grade.B, comment="trailed")
    assert not other.repeated, "another person's grade is another grade"
    changed = give_grade(session, ann, image, Grade.C, known=first.grade_id)
    assert not changed.repeated
    late = give_grade(session, ann, image, Grade.B, comment="trailed", seconds=7.0)
    assert (late.grade_id, late.repeated) == (first.grade_id, True), "later grades in between change nothing"
    meant = give_grade(session, ann, image, Grade.C, known=changed.grade_id)
    assert not meant.repeated, "what was known already is no repetition"
    kept = session.scalar(select(func.count()).select_from(GradeRow).where(GradeRow.person_id == ann))
    assert kept == 3
    row = session.get_one(GradeRow, first.grade_id)
    assert (row.seconds, row.comment, row.blind) == (7.0, "trailed", False)


def test_undo_is_of_ones_own_and_once(world: Any, session: Session, people: tuple[int, int]) -> None:
    ann, bob = people
    image = world.exposure(session, world.attempt(session), "e1")
    given = give_grade(session, ann, image, Grade.B)
    with pytest.raises(ConflictError, match="another person's"):
        take_back(session, bob, given.grade_id)
    with pytest.raises(ConflictError, match="no standing human grade"):
        take_back(session, ann, 10**9)
    assert take_back(session, ann, given.grade_id).repeated is False
    assert claimed_by(session, image) == ann, "it is before the eyes again"
    assert take_back(session, ann, given.grade_id).repeated is True
    again = give_grade(session, ann, image, Grade.B)
    assert (again.repeated, again.grade_id > given.grade_id) == (False, True), "a withdrawn grade is not repeated"


def test_what_cannot_be_graded_says_so(world: Any, session: Session, people: tuple[int, int]) -> None:
    image = world.exposure(session, world.attempt(session), "e1")
    session.get_one(ImageRow, image).state = ImageState.REJECTED
    session.flush()
    for wrong in (image, 10**9):
        with pytest.raises(ConflictError, match="go on with the next"):
            give_grade(session, people[0], wrong, Grade.A)


# Items ----------------------------------------------------------------------------------------------------------------


def test_blind_hides_all_that_others_said_until_one_has_graded(
    world: Any, session: Session, people: tuple[int, int]
) -> None:
    ann, bob = people
    image = world.exposure(session, world.attempt(session), "e1", grade=Grade.D)
    add_grade(session, image, HUMAN, Grade.C, person_id=bob, comment="a secret word")
    (hidden,) = read_items(session, [image], ann, blind=True)
    assert (hidden.blind, hidden.machine, hidden.history, hidden.own, hidden.known) == (True, None, (), None, 0)
    assert "secret" not in repr(hidden)
    (seen,) = read_items(session, [image], ann)
    assert [g.person for g in seen.history] == ["bob", None]
    given = give_grade(session, ann, image, Grade.B, blind=True)
    assert given.blind
    (after,) = read_items(session, [image], ann, blind=True)
    assert (after.blind, after.own and after.own.grade, after.known) == (False, Grade.B, given.grade_id)
    assert after.machine is not None
    assert [g.comment for g in after.history if g.person == "bob"] == ["a secret word"]
    take_back(session, ann, given.grade_id)
    (again,) = read_items(session, [image], ann, blind=True)
    assert not again.blind, "what was seen is not hidden again"
    assert give_grade(session, ann, image, Grade.A, blind=True, known=again.known).blind is False


def test_items_of_a_batch_take_a_bounded_number_of_statements(
    world: Any, session: Session, people: tuple[int, int], counted: Any
) -> None:
    context = world.attempt(session)
    ids = [world.exposure(session, context, f"e{i}", mjd=61290.0 + i) for i in range(12)]
    session.add(TagRow(image_id=ids[1], name="halo"))
    session.add_all(MarkRow(image_id=ids[2]) for _ in range(2))
    session.add(MarkRow(image_id=ids[2], withdrawn_at=datetime.now(UTC)))
    session.flush()
    with counted() as seen:
        items = read_items(session, [*ids, 10**9], people[0])
    assert len(seen) <= 8, seen
    assert [i.id for i in items] == ids
    assert (items[1].tags, items[2].n_marks, items[0].n_marks) == (("halo",), 2, 0)
    assert [i.previous and i.previous.id for i in items] == [None, *ids[:-1]]
    assert (items[0].measures.seeing_arcsec, items[0].measures.n_stars) == (0.8, 90)
    assert items[0].night == "2026-09-06"


def test_saved_rules_are_those_in_use_with_their_newest_text(session: Session) -> None:
    kept, old = RuleRow(name="good r"), RuleRow(name="old", retired_at=datetime.now(UTC) - timedelta(1))
    session.add_all([kept, old])
    session.flush()
    for rule in (kept, old):
        session.add_all(
            RuleVersionRow(rule_id=rule.id, number=n, text=f"seeing < {n}", rule_sha256=str(n)) for n in (1, 2)
        )
    session.flush()
    assert [(r.name, r.text) for r in read_saved_rules(session)] == [("good r", "seeing < 2")]


def test_nothing_but_science_of_known_quality_is_gradable(world: Any, session: Session) -> None:
    context = world.attempt(session)
    good, without = world.exposure(session, context, "e1"), world.exposure(session, context, "e2")
    session.get_one(ImageRow, without).quality_id = None
    session.flush()
    assert list(session.scalars(select(ImageRow.id).where(*gradable()))) == [good]

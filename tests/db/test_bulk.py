"""One grade for a rule: it reaches what was looked at or nothing, and is taken back as one act."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from spica.db.bulk import BulkPreview, BulkTarget, BulkWish, grade_rule, list_bulk, preview_bulk, undo_bulk
from spica.db.grade import Counting, add_grade, set_counting
from spica.db.person import add_person, read_audit
from spica.db.tables.image import ImageRow, MeasureRow, TagRow
from spica.db.tables.quality import GradeRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageState
from spica.model.person import PersonRole
from spica.model.selection import parse_rule


def wish(target: BulkTarget = BulkTarget.ALL, rule: str = "seeing < 1.0", *conditions: Any) -> BulkWish:
    return BulkWish(parse_rule(rule), target, conditions)


def shares(preview: BulkPreview) -> list[tuple[str, str, int]]:
    return [(s.grade or "", s.source or "", s.n) for s in preview.shares]


def counting(session: Session, image_id: int) -> tuple[Any, ...]:
    """Return grade, source and id of the grade that counts, by both places that tell it."""
    image = session.get_one(ImageRow, image_id, populate_existing=True)
    measure = session.get_one(MeasureRow, image_id, populate_existing=True)
    row = None if image.grade_id is None else session.get_one(GradeRow, image.grade_id, populate_existing=True)
    assert (measure.grade, measure.grade_source) == ((row.grade, row.source) if row else (None, None))
    return (measure.grade, measure.grade_source, image.grade_id)


@pytest.fixture
def images(world: Any, session: Session) -> dict[str, int]:
    """Return exposures: three of good seeing, one of bad, one rejected."""
    context = world.attempt(session)
    made = {n: world.exposure(session, context, n) for n in ("one", "two", "three")}
    made["bad"] = world.exposure(session, context, "bad", seeing_arcsec=1.8)
    made["rejected"] = world.exposure(session, context, "rejected")
    session.get_one(ImageRow, made["rejected"]).state = ImageState.REJECTED
    session.flush()
    return made


@pytest.fixture
def people(session: Session) -> dict[str, int]:
    return {n: add_person(session, n, PersonRole.OPERATOR, None) for n in ("ann", "bob")}


def test_a_preview_says_what_would_be_reached(session: Session, images: Any, people: Any) -> None:
    add_grade(session, images["one"], GradeSource.HUMAN, Grade.C, person_id=people["bob"])
    add_grade(session, images["two"], GradeSource.HUMAN, Grade.B, person_id=people["ann"])
    everything = preview_bulk(session, wish(), people["ann"])
    assert (everything.n, everything.others) == (3, 1)
    assert shares(everything) == [("A", "machine", 1), ("B", "human", 1), ("C", "human", 1)]
    assert everything.first_ids == (images["one"], images["two"], images["three"])
    ungraded = preview_bulk(session, wish(BulkTarget.UNGRADED), people["ann"])
    assert (ungraded.n, ungraded.others, ungraded.first_ids) == (1, 0, (images["three"],))
    nobody = preview_bulk(session, wish(BulkTarget.ALL, "seeing < 0.1"), people["ann"])
    assert (nobody.n, nobody.shares, nobody.first_ids) == (0, (), ())
    narrow = preview_bulk(session, wish(BulkTarget.ALL, "seeing < 1.0", ImageRow.name == "two"), people["ann"])
    assert narrow.first_ids == (images["two"],)


def test_a_grade_for_a_rule_and_back(session: Session, images: Any, people: Any) -> None:
    before = {n: counting(session, i) for n, i in images.items()}
    mine = add_grade(session, images["one"], GradeSource.HUMAN, Grade.C, person_id=people["bob"])
    seen = preview_bulk(session, wish(), people["ann"])
    act = grade_rule(session, wish(), Grade.D, "dome closed", people["ann"], seen.token)
    for name in ("one", "two", "three"):
        letter, source, grade_id = counting(session, images[name])
        row = session.get_one(GradeRow, grade_id)
        assert (letter, source, row.bulk_id, row.person_id) == (Grade.D, GradeSource.HUMAN, act, people["ann"])
        assert (row.comment, row.quality_id) == ("dome closed", session.get_one(ImageRow, images[name]).quality_id)
    assert all(counting(session, images[n]) == before[n] for n in ("bad", "rejected"))
    (entry,), total = list_bulk(session, 10)
    assert (entry.id, entry.rule, entry.n_images, entry.person, entry.withdrawn_at, total) == (
        act, "seeing < 1", 3, "ann", None, 1,
    )  # fmt: skip
    assert undo_bulk(session, act, people["ann"]) == 3
    assert counting(session, images["one"]) == (Grade.C, GradeSource.HUMAN, mine)
    assert all(counting(session, images[n]) == before[n] for n in ("two", "three", "bad", "rejected"))
    assert session.scalar(select(func.count()).select_from(GradeRow)) == 5 + 1 + 3, "history stays"
    assert list_bulk(session, 10)[0][0].withdrawn_at is not None
    assert [a.verb for a in read_audit(session, f"bulk:{act}")] == ["undo_bulk_grade", "bulk_grade"]


def test_an_image_without_any_grade_is_without_again(session: Session, images: Any, people: Any) -> None:
    session.execute(text("UPDATE image SET grade_id = NULL WHERE id = :i"), {"i": images["two"]})
    session.execute(
        text("UPDATE measure SET grade = NULL, grade_source = NULL WHERE image_id = :i"), {"i": images["two"]}
    )
    session.execute(text("DELETE FROM grade WHERE image_id = :i"), {"i": images["two"]})
    seen = preview_bulk(session, wish(), None)
    assert ("", "", 1) in shares(seen)
    act = grade_rule(session, wish(), Grade.B, None, None, seen.token)
    assert counting(session, images["two"])[0] is Grade.B
    undo_bulk(session, act, None)
    assert counting(session, images["two"]) == (None, None, None)


@pytest.mark.parametrize("change", ["one more", "one less", "another", "regraded"])
def test_what_moved_since_the_preview_is_not_graded(
    session: Session, images: Any, people: Any, world: Any, change: str
) -> None:
    seen = preview_bulk(session, wish(), people["ann"])
    if change in ("one more", "another"):
        session.get_one(MeasureRow, images["bad"]).seeing_arcsec = 0.7
    if change in ("one less", "another"):
        session.get_one(MeasureRow, images["one"]).seeing_arcsec = 1.7
    if change == "regraded":
        add_grade(session, images["one"], GradeSource.MACHINE, Grade.B)
    session.flush()
    with pytest.raises(ConflictError, match="look again") as told, session.begin_nested():
        grade_rule(session, wish(), Grade.D, None, people["ann"], seen.token)
    assert told.value.values["n"] == {"one more": 4, "one less": 2, "another": 3, "regraded": 3}[change]
    assert session.scalar(select(func.count()).select_from(GradeRow).where(GradeRow.bulk_id.is_not(None))) == 0
    assert list_bulk(session, 10) == ([], 0)
    again = preview_bulk(session, wish(), people["ann"])
    assert again.token != seen.token
    grade_rule(session, wish(), Grade.D, None, people["ann"], again.token)


def test_nothing_is_no_act(session: Session, images: Any) -> None:
    nothing = wish(BulkTarget.ALL, "seeing < 0.1")
    with pytest.raises(ConflictError):
        grade_rule(session, nothing, Grade.D, None, None, preview_bulk(session, nothing, None).token)


def test_who_may_take_an_act_back(session: Session, images: Any, people: Any) -> None:
    act = grade_rule(session, wish(), Grade.B, None, people["ann"], preview_bulk(session, wish(), None).token)
    with pytest.raises(ConflictError, match="another person's"):
        undo_bulk(session, act, people["bob"])
    undo_bulk(session, act, people["bob"], anyone=True)
    with pytest.raises(ConflictError, match="does not stand any more"):
        undo_bulk(session, act, people["ann"])
    with pytest.raises(ConflictError, match="does not stand any more"):
        undo_bulk(session, act + 1, people["ann"])


def test_taking_back_spares_what_came_after(session: Session, images: Any, people: Any) -> None:
    act = grade_rule(session, wish(), Grade.D, None, people["ann"], preview_bulk(session, wish(), None).token)
    later = add_grade(session, images["one"], GradeSource.HUMAN, Grade.B, person_id=people["bob"])
    assert undo_bulk(session, act, people["ann"]) == 3
    assert counting(session, images["one"]) == (Grade.B, GradeSource.HUMAN, later)
    assert counting(session, images["two"])[1] is GradeSource.MACHINE


def test_where_the_worst_counts_a_better_grade_does_not_overrule(session: Session, images: Any, people: Any) -> None:
    worst = add_grade(session, images["one"], GradeSource.HUMAN, Grade.D, person_id=people["bob"])
    set_counting(session, Counting.WORST, None)
    act = grade_rule(session, wish(), Grade.A, None, people["ann"], preview_bulk(session, wish(), None).token)
    assert counting(session, images["one"]) == (Grade.D, GradeSource.HUMAN, worst)
    assert counting(session, images["two"])[:2] == (Grade.A, GradeSource.HUMAN)
    assert undo_bulk(session, act, people["ann"]) == 3


def test_rules_of_tags_are_judged_too(session: Session, images: Any, people: Any) -> None:
    session.add(TagRow(image_id=images["two"], name="moon"))
    session.flush()
    moon = wish(BulkTarget.ALL, 'tag = "moon"')
    seen = preview_bulk(session, moon, people["ann"])
    assert seen.first_ids == (images["two"],)
    grade_rule(session, moon, Grade.C, None, people["ann"], seen.token)
    assert [counting(session, images[n])[0] for n in ("one", "two", "three")] == [Grade.A, Grade.C, Grade.A]


def test_as_many_statements_for_many_images(world: Any, session: Session, counted: Any) -> None:
    """Two images or 400: as many statements, and one notification."""
    multiply(session, world, 400)
    spent = []
    for rule in ('name in ("base", "m1")', 'name like "*"'):
        chosen = wish(BulkTarget.ALL, rule)
        with counted() as statements:
            token = preview_bulk(session, chosen, None).token
            act = grade_rule(session, chosen, Grade.B, None, None, token)
            undo_bulk(session, act, None)
        spent.append(len(statements))
    assert spent[0] == spent[1] < 40
    assert list_bulk(session, 1)[0][0].n_images == 401


def multiply(session: Session, world: Any, n: int) -> None:
    """Add n images with measures and machine grades like one that exists."""
    first = world.exposure(session, world.attempt(session), "base")
    session.execute(
        text(
            """WITH made AS (INSERT INTO image (kind, state, name, frame_type, quality_id, n_detectors)
            SELECT kind, state, 'm' || k, frame_type, quality_id, 1 FROM image, generate_series(1, :n) k
            WHERE image.id = :i RETURNING id),
            judged AS (INSERT INTO grade (image_id, source, grade) SELECT id, 'machine', 'A' FROM made)
            INSERT INTO measure (image_id, seeing_arcsec, grade, grade_source)
            SELECT id, 0.8, 'A', 'machine' FROM made"""
        ),
        {"n": n, "i": first},
    )
    session.execute(
        text("UPDATE image SET grade_id = g.id FROM grade g WHERE g.image_id = image.id AND image.grade_id IS NULL")
    )

"""Figures of grading: as a person counts them on a few images, and as a slow walk counts them on many."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from spica.db.agreement import (
    Disagreement,
    Narrow,
    count_grades,
    count_nights,
    find_disagreements,
    measure_grading,
    read_names,
    read_standing,
)
from spica.db.bulk import BulkTarget, BulkWish, preview_bulk, preview_from
from spica.db.engine import Database
from spica.db.grade import Counting, add_grade, set_counting, withdraw_grade
from spica.db.person import add_person
from spica.db.snapshot import Snapshot, load_snapshot
from spica.db.tables.image import ImageRow
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageState
from spica.model.person import PersonRole
from spica.model.selection import parse_rule

LETTERS = "ABCD"


def look(database: Database) -> Snapshot:
    with database.read() as session:
        return load_snapshot(session)


@pytest.fixture
def people(database: Database) -> dict[str, int]:
    with database.begin() as session:
        return {n: add_person(session, n, PersonRole.GRADER, None) for n in ("ann", "bob", "cid")}


def fill(database: Database, world: Any, people: dict[str, int], n: int = 30) -> list[dict[str, Any]]:
    """Grade n images at random; return the standing human grades in the order in which they were given."""
    rng = np.random.default_rng(11)
    given: list[dict[str, Any]] = []
    with database.begin() as session:
        context = world.attempt(session)
        ids = [
            world.exposure(
                session, context, f"e{k}", seeing_arcsec=0.5 + 0.05 * k, filter="ri"[k % 2],
                night=f"2026-09-{k % 9 + 1:02d}", object="D2" if k % 3 else "D 4",
                grade=Grade(LETTERS[int(rng.integers(4))]),
            )
            for k in range(n)
        ]  # fmt: skip
        for _ in range(4 * n):
            image, letter = int(rng.choice(ids[: n - 4])), LETTERS[int(rng.integers(4))]
            who = [None, *people.values()][int(rng.integers(4))]
            blind, seconds = bool(rng.random() < 0.3), float(rng.integers(1, 20)) if rng.random() < 0.5 else None
            grade = add_grade(
                session, image, GradeSource.HUMAN, Grade(letter), person_id=who, blind=blind, seconds=seconds
            )
            given.append({"id": grade, "image": image, "who": who or 0, "grade": letter, "blind": blind, "s": seconds})
        for gone in rng.choice(len(given), 12, replace=False):
            withdraw_grade(session, given[gone]["id"], None)
            given[gone]["gone"] = True
        session.get_one(ImageRow, ids[-1]).state = ImageState.REJECTED
    return [g for g in given if "gone" not in g]


def test_figures_against_a_slow_walk(database: Database, world: Any, people: dict[str, int]) -> None:
    given = fill(database, world, people)
    snapshot = look(database)
    rows = Narrow().rows(snapshot)
    assert rows.sum() == 29, "the rejected one cannot be graded"
    figures = measure_grading(snapshot, rows)
    newest = {(g["image"], g["who"]): g for g in given}
    letter_of = {int(i): LETTERS[m - 1] for i, m in zip(snapshot.images.id, snapshot.images.machine, strict=True)}
    counts = {g["image"]: g["grade"] for g in given}
    for grader in figures.graders:
        own = {i: g["grade"] for (i, who), g in newest.items() if who == grader.person_id}
        acts = [g for g in given if g["who"] == grader.person_id]
        timed = [g["s"] for g in acts if g["s"] is not None]
        assert (grader.n_given, grader.n_images) == (len(acts), len(own))
        assert grader.seconds == pytest.approx(np.mean(timed))
        assert grader.machine.exact == pytest.approx(np.mean([g == letter_of[i] for i, g in own.items()]))
        assert grader.counts.exact == pytest.approx(np.mean([g == counts[i] for i, g in own.items()]))
        assert sum(grader.days) == len(acts)
    assert {g.person_id for g in figures.graders} == {0, *people.values()}
    expected: Counter[tuple[int, int, bool]] = Counter()
    same: Counter[tuple[int, int, bool]] = Counter()
    for (i, a), x in newest.items():
        for (j, b), y in newest.items():
            if i == j and a < b:
                key = (a, b, max(x, y, key=lambda g: g["id"])["blind"])
                expected[key] += 1
                same[key] += x["grade"] == y["grade"]
    assert {(p.first, p.second, p.blind): p.agreement.n for p in figures.pairs} == dict(expected)
    assert all(
        p.agreement.exact == pytest.approx(same[p.first, p.second, p.blind] / p.agreement.n) for p in figures.pairs
    )
    table = Counter((letter_of[i], g) for i, g in counts.items())
    assert {
        (m, h): n for m, r in zip(LETTERS, figures.table, strict=True) for h, n in zip(LETTERS, r, strict=True) if n
    } == table
    assert figures.days is not None
    assert sum(sum(r) for r in figures.days.rows) == len(given)


def test_counts_and_narrowing(database: Database, world: Any, people: dict[str, int]) -> None:
    given = fill(database, world, people)
    snapshot = look(database)
    whole = count_grades(snapshot, Narrow().rows(snapshot))
    standing = Counter({g["image"]: g["grade"] for g in given}.values())
    assert whole.human == tuple(standing[x] for x in LETTERS)
    assert (whole.total, whole.none, whole.n_machine) == (29, 0, 29 - whole.n_human)
    parts = [count_grades(snapshot, Narrow(filter=f).rows(snapshot)).total for f in "ri"]
    assert parts == [15, 14]
    assert count_grades(snapshot, Narrow(object="d4").rows(snapshot)).total == 10
    assert count_grades(snapshot, Narrow(night=date(2026, 9, 1)).rows(snapshot)).total == 4
    assert count_grades(snapshot, Narrow(run="none").rows(snapshot)).total == 0
    nights = count_nights(snapshot, Narrow().rows(snapshot))
    assert nights is not None
    assert (nights.start, nights.step_days, [sum(r) for r in nights.rows]) == (
        date(2026, 9, 1),
        1,
        [4, 4, 3, 3, 3, 3, 3, 3, 3],
    )
    assert tuple(sum(r[k] for r in nights.rows) for k in range(4)) == tuple(
        h + m for h, m in zip(whole.human, whole.machine, strict=True)
    )


def test_years_of_nights_come_in_bins(database: Database, world: Any) -> None:
    with database.begin() as session:
        context = world.attempt(session)
        for k, night in enumerate(("2003-02-01", "2003-02-02", "2009-01-30")):
            world.exposure(session, context, f"e{k}", night=night)
    snapshot = look(database)
    nights = count_nights(snapshot, Narrow().rows(snapshot))
    assert nights is not None
    assert nights.step_days == 28
    assert len(nights.rows) <= 100
    assert [sum(r) for r in nights.rows if sum(r)] == [2, 1]


def test_nothing_graded(database: Database) -> None:
    snapshot = look(database)
    figures = measure_grading(snapshot, Narrow().rows(snapshot))
    assert (figures.graders, figures.pairs, figures.days, figures.machine.n) == ((), (), None, 0)
    assert count_nights(snapshot, Narrow().rows(snapshot)) is None
    assert count_grades(snapshot, Narrow().rows(snapshot)).total == 0


def test_disagreements(database: Database, world: Any, people: dict[str, int]) -> None:
    given = fill(database, world, people)
    snapshot = look(database)
    rows, images = Narrow().rows(snapshot), snapshot.images
    counts = {g["image"]: g["grade"] for g in given}
    machine = {int(i): LETTERS[m - 1] for i, m in zip(images.id, images.machine, strict=True)}
    found = [int(images.id[r]) for r in find_disagreements(snapshot, rows, Disagreement.MACHINE)]
    apart = {i: abs(ord(g) - ord(machine[i])) for i, g in counts.items() if g != machine[i]}
    assert found == sorted(apart, key=lambda i: (-apart[i], -i))
    cell = find_disagreements(snapshot, rows, Disagreement.MACHINE, Grade.A, Grade.A)
    assert {int(images.id[r]) for r in cell} == {i for i, g in counts.items() if g == machine[i] == "A"}
    own: dict[int, set[str]] = {}
    for (image, _), g in {(g["image"], g["who"]): g["grade"] for g in given}.items():
        own.setdefault(image, set()).add(g)
    people_differ = {int(images.id[r]) for r in find_disagreements(snapshot, rows, Disagreement.PEOPLE)}
    assert people_differ == {i for i, letters in own.items() if len(letters) > 1}
    with database.read() as session:
        standing = read_standing(session, list(own))
        assert read_names(session)[0] == "command line"
    assert {i: {g.grade.value for g in s} for i, s in standing.items()} == own
    assert all([g.grade_id for g in s] == sorted((g.grade_id for g in s), reverse=True) for s in standing.values())


@pytest.mark.parametrize("counting", list(Counting))
def test_a_preview_by_columns_is_the_preview_by_sql(
    database: Database, world: Any, people: dict[str, int], counting: Counting
) -> None:
    """The token that a page shows opens the act that SQL judges."""
    fill(database, world, people)
    with database.begin() as session:
        set_counting(session, counting, None)
        session.execute(text("INSERT INTO tag (image_id, name) SELECT id, 'moon' FROM image WHERE id % 5 = 0"))
    snapshot = look(database)
    tokens = set()
    for rule in ("seeing < 1.2", "grade in (A, B)", 'tag = "moon" or filter = "i"', "skyprobe < 1", "not grade = D"):
        for target in BulkTarget:
            for person in (None, people["ann"]):
                with database.read() as session:
                    slow = preview_bulk(session, BulkWish(parse_rule(rule), target), person)
                assert preview_from(snapshot, parse_rule(rule), target, person) == slow, (rule, target, person)
                tokens.add(slow.token)
    assert len(tokens) > 4, "the sets differ, and so do their names"

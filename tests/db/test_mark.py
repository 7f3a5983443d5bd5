"""Marks as rows: drawn within bounds, listed, taken back by whom it may, told to those who wait."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import psycopg
import pytest

from spica.db.mark import add_mark, marks_of, marks_of_images, withdraw_mark
from spica.db.person import add_person
from spica.model.errors import ConflictError, UsageError
from spica.model.mark import MarkRegion, MarkShape
from spica.model.person import PersonRole

CIRCLE = MarkRegion(0, MarkShape.CIRCLE, (100.0,), (200.5,), 30.0)
TRIANGLE = MarkRegion(0, MarkShape.POLYGON, (1.0, 50.0, 20.0), (2.0, 2.0, 90.25))


@pytest.fixture
def image(world: Any) -> int:
    with world.database.begin() as session:
        return int(world.exposure(session, world.attempt(session), "one"))


def test_a_mark_comes_back_as_it_was_drawn(world: Any, image: int) -> None:
    with world.database.begin() as session:
        ada = add_person(session, "ada", PersonRole.GRADER)
        first = add_mark(session, image, [CIRCLE], person_id=ada, comment=" a ghost\0 ")
        second = add_mark(session, image, [TRIANGLE, CIRCLE])
    with world.database.read() as session:
        one, two = marks_of(session, image)
        assert (one.id, one.regions, one.comment, one.person, one.withdrawn_at) == (
            first, (CIRCLE,), "a ghost", "ada", None,
        )  # fmt: skip
        assert (two.regions, two.comment, two.person, two.shape, two.detectors) == (
            (TRIANGLE, CIRCLE), None, None, "polygon", (0,),
        )  # fmt: skip
        planned = marks_of_images(session, [image, image + 1])
    assert {i: [(m.id, m.regions) for m in marks] for i, marks in planned.items()} == {
        image: [(first, (CIRCLE,)), (second, (TRIANGLE, CIRCLE))]
    }


def test_what_is_taken_back_stands_no_more_but_is_told(world: Any, image: int) -> None:
    with world.database.begin() as session:
        ada, bob = (add_person(session, n, PersonRole.GRADER) for n in ("ada", "bob"))
        mark = add_mark(session, image, [CIRCLE], person_id=ada)
        with pytest.raises(ConflictError, match="another person's"):
            withdraw_mark(session, mark, bob)
        assert withdraw_mark(session, mark, ada) == image
        with pytest.raises(ConflictError, match="does not stand"):
            withdraw_mark(session, mark, ada)
        other = add_mark(session, image, [TRIANGLE], person_id=ada)
        assert withdraw_mark(session, other, bob, of_anyone=True) == image
        assert marks_of(session, image) == []
        assert marks_of_images(session, [image]) == {}
        history = marks_of(session, image, standing_only=False)
    assert [(m.id, m.withdrawn_by) for m in history] == [(mark, "ada"), (other, "bob")]


@pytest.mark.parametrize(
    "region",
    [
        dataclasses.replace(CIRCLE, detector=7),
        dataclasses.replace(CIRCLE, x_pix=(-31.0,)),
        dataclasses.replace(CIRCLE, y_pix=(1231.0,)),
        dataclasses.replace(CIRCLE, radius_pix=None),
        dataclasses.replace(CIRCLE, radius_pix=0.0),
        dataclasses.replace(CIRCLE, radius_pix=math.inf),
        dataclasses.replace(CIRCLE, x_pix=(math.nan,)),
        dataclasses.replace(CIRCLE, x_pix=(1.0, 2.0), y_pix=(1.0, 2.0)),
        dataclasses.replace(TRIANGLE, x_pix=(1.0, 2.0)),
        dataclasses.replace(TRIANGLE, x_pix=(1.0, 2.0), y_pix=(1.0, 2.0)),
        dataclasses.replace(TRIANGLE, x_pix=(1e7, 1.0, 2.0)),
        dataclasses.replace(TRIANGLE, radius_pix=3.0),
        MarkRegion(0, MarkShape.POLYGON, tuple(float(i % 90) for i in range(1001)), (5.0,) * 1001),
    ],
)
def test_what_cannot_be_drawn_is_refused(world: Any, image: int, region: MarkRegion) -> None:
    with world.database.begin() as session, pytest.raises(UsageError, match="; draw it"):
        add_mark(session, image, [region])
    with world.database.read() as session:
        assert marks_of(session, image, standing_only=False) == []


def test_one_that_lies_partly_beside_the_detector_is_kept(world: Any, image: int) -> None:
    with world.database.begin() as session:
        assert add_mark(session, image, [dataclasses.replace(CIRCLE, x_pix=(-29.0,))])
        with pytest.raises(UsageError, match="1 to 200"):
            add_mark(session, image, [])
        with pytest.raises(UsageError, match="shorten"):
            add_mark(session, image, [CIRCLE], comment="x" * 2001)


def test_there_is_an_end_to_marks(world: Any, image: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spica.db.mark.MAX_MARKS", 2)
    with world.database.begin() as session:
        first = add_mark(session, image, [CIRCLE])
        add_mark(session, image, [CIRCLE])
        with pytest.raises(ConflictError, match="has 2 marks"):
            add_mark(session, image, [CIRCLE])
        withdraw_mark(session, first, None)
        add_mark(session, image, [CIRCLE])


def test_those_who_wait_are_told(world: Any, image: int) -> None:
    with psycopg.connect(world.database.url.replace("+psycopg", ""), autocommit=True) as listener:
        listener.execute("LISTEN spica")
        with world.database.begin() as session:
            mark = add_mark(session, image, [CIRCLE])
        with world.database.begin() as session:
            withdraw_mark(session, mark, None)
        told = [n.payload for n in listener.notifies(timeout=5, stop_after=4)]
    assert told == [f"image:{image}", f"mark:{image}"] * 2

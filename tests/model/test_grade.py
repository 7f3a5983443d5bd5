"""Machine grades by limits: the worst band counts, the unknown costs one grade, and reasons name the limit broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spica.model.grade import COMMENTS, Grade, GradeLimits, GradeRecord, grade_by_limits
from spica.model.record import from_json, to_json

SEEING = GradeLimits("seeing_arcsec", 0.8, 1.0, 1.4)
STARS = GradeLimits("n_stars", 100, 50, 20, high=False)


@pytest.mark.parametrize(
    ("seeing", "grade", "broken"),
    [(0.5, "A", None), (0.8, "A", None), (0.81, "B", 0.8), (1.0, "B", 0.8), (1.4, "C", 1.0), (1.41, "D", 1.4)],
)
def test_bands_of_a_measure_where_high_is_bad(seeing: float, grade: str, broken: float | None) -> None:
    found = grade_by_limits({"seeing_arcsec": seeing}, (SEEING,))
    assert found.grade is Grade(grade)
    assert [(r.code, r.value, r.limit) for r in found.reasons] == (
        [] if broken is None else [("seeing_arcsec_high", seeing, broken)]
    )


@pytest.mark.parametrize(("stars", "grade"), [(100, "A"), (99, "B"), (50, "B"), (49, "C"), (20, "C"), (19, "D")])
def test_bands_of_a_measure_where_low_is_bad(stars: int, grade: str) -> None:
    found = grade_by_limits({"n_stars": stars}, (STARS,))
    assert found.grade is Grade(grade)
    assert all(r.code == "n_stars_low" and "<" in r.text for r in found.reasons)


def test_the_worst_band_counts_and_every_break_is_a_reason() -> None:
    found = grade_by_limits({"seeing_arcsec": 1.2, "n_stars": 60}, (SEEING, STARS))
    assert found.grade is Grade.C
    assert [r.text for r in found.reasons] == ["seeing_arcsec 1.2 > 1: C", "n_stars 60 < 100: B"]


def test_unknown_is_b_at_best_and_says_so() -> None:
    found = grade_by_limits({"n_stars": None}, (SEEING, STARS))
    assert found.grade is Grade.B
    assert [r.text for r in found.reasons] == ["seeing_arcsec unknown", "n_stars unknown"]
    assert grade_by_limits({"seeing_arcsec": 3.0}, (SEEING, STARS)).grade is Grade.D


def test_limits_that_are_not_given_do_not_count() -> None:
    only_c = GradeLimits("seeing_arcsec", None, None, 1.4)
    assert grade_by_limits({"seeing_arcsec": 1.5}, (only_c,)).grade is Grade.D
    assert grade_by_limits({"seeing_arcsec": 99.0}, (GradeLimits("seeing_arcsec", None, None, None),)).grade is Grade.A
    assert grade_by_limits({}, ()) == grade_by_limits({"seeing_arcsec": 9.0}, ())


@given(st.floats(0, 3), st.floats(0, 3), st.integers(0, 200))
def test_worse_seeing_never_gives_a_better_grade(one: float, other: float, stars: int) -> None:
    better, worse = sorted((one, other))
    first = grade_by_limits({"seeing_arcsec": better, "n_stars": stars}, (SEEING, STARS))
    second = grade_by_limits({"seeing_arcsec": worse, "n_stars": stars}, (SEEING, STARS))
    assert first.grade <= second.grade


@given(st.permutations([SEEING, STARS, GradeLimits("airmass", 1.2, 1.5, 2.0)]), st.floats(0.5, 2.5))
def test_the_order_of_limits_changes_no_grade(limits: list[GradeLimits], airmass: float) -> None:
    measures = {"seeing_arcsec": 0.9, "n_stars": 70, "airmass": airmass}
    found = grade_by_limits(measures, tuple(limits))
    again = grade_by_limits(measures, tuple(reversed(limits)))
    assert found.grade is again.grade
    assert set(found.reasons) == set(again.reasons)


def test_records_through_json_and_back() -> None:
    found = grade_by_limits({"seeing_arcsec": 1.2}, (SEEING,))
    record = GradeRecord("image:7", found.grade, found.reasons)
    assert from_json(GradeRecord, to_json(record)) == record


def test_letters_order_from_best_to_worst_and_comments_are_distinct() -> None:
    assert sorted(Grade) == [Grade.A, Grade.B, Grade.C, Grade.D]
    assert len(set(COMMENTS)) == len(COMMENTS) == 15

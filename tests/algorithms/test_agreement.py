"""Agreement of judges: worked tables, identities, and a slow count of one thing after the other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from spica.algorithms.agreement import count_classes, judge_tables, measure_agreement, newest_rows, pair_tables


def test_two_classes_worked_by_hand() -> None:
    """Two readers of 50 proposals: p_o = 35/50, p_e = 0.5 0.6 + 0.5 0.4 = 0.5, kappa = 0.2 / 0.5."""
    found = measure_agreement([[20, 5], [10, 15]])
    assert (found.n, found.exact) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4, abs=1e-12)
    assert found.weighted_kappa == pytest.approx(0.4, abs=1e-12), "two classes: one weight"


def test_three_classes_worked_by_hand() -> None:
    """Fleiss's 100 diagnoses: p_o = 0.89, p_e = 0.8 0.8 + 0.1 0.05 + 0.1 0.15 = 0.66.

    Quadratic: observed (1 (1 + 5 + 1) + 4 4) / 100 = 0.23; by chance 1 (0.04 + 0.08 + 0.015 + 0.005) + 4 (0.12 + 0.08)
    = 0.94.
    """
    found = measure_agreement([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    assert found.exact == pytest.approx(0.89)
    assert found.within_one == pytest.approx(0.96)
    assert found.kappa == pytest.approx((0.89 - 0.66) / (1 - 0.66), abs=1e-12)
    assert found.weighted_kappa == pytest.approx(1 - 0.23 / 0.94, abs=1e-12)


def test_limits_of_kappa() -> None:
    always = measure_agreement(np.diag([3, 1, 4, 1]))
    assert (always.exact, always.within_one, always.kappa, always.weighted_kappa) == (1.0, 1.0, 1.0, 1.0)
    by_chance = measure_agreement(np.outer([1, 2, 3, 4], [4, 3, 2, 1]))
    assert by_chance.kappa == pytest.approx(0.0, abs=1e-12)
    assert by_chance.weighted_kappa == pytest.approx(0.0, abs=1e-12)
    reversed_order = measure_agreement(np.fliplr(np.diag([5, 5, 5, 5])))
    assert reversed_order.weighted_kappa == pytest.approx(-1.0), "opposite order is as bad as can be"
    one_class = measure_agreement([[7, 0], [0, 0]])
    assert (one_class.exact, math.isnan(one_class.kappa), math.isnan(one_class.weighted_kappa)) == (1.0, True, True)
    nothing = measure_agreement(np.zeros((4, 4)))
    assert nothing.n == 0
    assert math.isnan(nothing.exact)
    assert math.isnan(nothing.kappa)


def test_weighted_kappa_is_the_concordance_of_ranks() -> None:
    """Fleiss and Cohen 1973: with quadratic weights kappa is 2 cov / (var + var + (difference of means)^2)."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        first = rng.integers(0, 4, 300)
        second = np.clip(first + rng.integers(-1, 2, 300), 0, 3)
        found = measure_agreement(count_classes(first, second)).weighted_kappa
        spread = first.var() + second.var() + (first.mean() - second.mean()) ** 2
        assert found == pytest.approx(2 * np.cov(first, second, bias=True)[0, 1] / spread, abs=1e-12)


def slow_kappa(first: NDArray[np.int64], second: NDArray[np.int64], power: int) -> float:
    """One minus observed over expected disagreement, over all pairs of things: no table, no shares."""

    def differ(a: int, b: int) -> float:
        return float(abs(a - b)) ** power if a != b else 0.0

    seen = sum(differ(a, b) for a, b in zip(first, second, strict=True)) / len(first)
    by_chance = sum(differ(a, b) for a, b in itertools.product(first, second)) / len(first) ** 2
    return 1.0 - seen / by_chance


def test_kappas_against_a_slow_count_and_symmetry() -> None:
    rng = np.random.default_rng(6)
    for n in (5, 40, 90):
        first, second = rng.choice(4, n, p=[0.5, 0.3, 0.1, 0.1]), rng.integers(0, 4, n)
        found = measure_agreement(count_classes(first, second))
        assert found.kappa == pytest.approx(slow_kappa(first, second, 0), abs=1e-12)
        assert found.weighted_kappa == pytest.approx(slow_kappa(first, second, 2), abs=1e-12)
        other = measure_agreement(count_classes(second, first))
        assert other.kappa == pytest.approx(found.kappa, abs=1e-12)
        assert other.weighted_kappa == pytest.approx(found.weighted_kappa, abs=1e-12)


def test_classes_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        count_classes([0, 4], [0, 0])
    with pytest.raises(ValueError, match="0 to 3"):
        count_classes([0], [-1])
    with pytest.raises(ValueError, match="one length"):
        count_classes([0, 1], [0])
    with pytest.raises(ValueError, match="square"):
        measure_agreement([[1, 2, 3], [4, 5, 6]])


def test_pairs_against_a_slow_count() -> None:
    """Newest judgements, pairs, blind ones apart: as a walk over all rows finds them."""
    rng = np.random.default_rng(7)
    n = 900
    thing, judge, given = rng.integers(0, 120, n), rng.integers(0, 6, n), rng.integers(0, 4, n)
    blind = rng.random(n) < 0.3
    newest: dict[tuple[int, int], int] = {}
    for row in range(n):
        newest[int(thing[row]), int(judge[row])] = row
    rows = newest_rows(thing, judge)
    assert list(rows) == [newest[k] for k in sorted(newest)]
    expected: dict[tuple[int, int, bool], NDArray[np.int64]] = {}
    for (t1, j1), r1 in newest.items():
        for (t2, j2), r2 in newest.items():
            if t1 == t2 and j1 < j2:
                table = expected.setdefault((j1, j2, bool(blind[max(r1, r2)])), np.zeros((4, 4), dtype=np.int64))
                table[given[r1], given[r2]] += 1
    found = pair_tables(thing[rows], judge[rows], given[rows], rows, blind[rows])
    keys = list(zip(found.first.tolist(), found.second.tolist(), found.blind.tolist(), strict=True))
    assert keys == sorted(expected)
    assert all(np.array_equal(found.tables[i], expected[key]) for i, key in enumerate(keys))
    assert found.tables.sum() > 500


def test_no_pairs() -> None:
    empty = pair_tables([], [], [], [], [])
    assert (len(empty.first), empty.tables.shape) == (0, (0, 4, 4))
    assert len(newest_rows([], [])) == 0
    alone = pair_tables([1, 2, 3], [0, 1, 0], [1, 1, 1], [0, 1, 2], [False] * 3)
    assert len(alone.first) == 0


def test_judges_against_a_reference() -> None:
    tables = judge_tables([0, 2, 2, 0, 2], [1, 3, 3, 0, 0], [1, 2, 2, -1, 0], 3)
    assert tables.shape == (3, 4, 4)
    assert tables[0].sum() == 1, "an unknown reference is not counted"
    assert tables[1].sum() == 0
    assert (tables[0, 1, 1], tables[2, 2, 3], tables[2, 0, 0]) == (1, 2, 1)

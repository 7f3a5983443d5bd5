"""How far judges agree who put the same things into ordered classes: shares, Cohen's kappa, quadratic weighted kappa.

Classes are whole numbers 0 to k - 1 in their order (grades A to D are 0 to 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree over `n` things.

    Parameters
    ----------
    n : things that both judged.
    exact : share put into the same class, NaN where `n` is 0.
    within_one : share put into the same or a neighbouring class, NaN where `n` is 0.
    kappa : Cohen's kappa: 1 always the same, 0 as often as by chance; NaN where chance alone explains all (both put
        everything into one and the same class) or `n` is 0.
    weighted_kappa : the same with a disagreement weighing as the square of the distance of the classes.
    """

    n: int
    exact: float
    within_one: float
    kappa: float
    weighted_kappa: float


@dataclass(frozen=True)
class PairTables:
    """What pairs of judges said of the things that both judged.

    Parameters
    ----------
    first, second : int64[m]
        The judges, first < second.
    blind : bool[m]
        Whether the table is of things whose later judgement was given blind: it cannot have followed the earlier one.
    tables : int64[m, k, k]
        Things by the class that the first judge and the second judge gave.
    """

    first: Ints
    second: Ints
    blind: Bools
    tables: Ints


def count_classes(first: ArrayLike, second: ArrayLike, n_classes: int = 4) -> Ints:
    """Return how many things got class i of the first judge and class j of the second.

    Parameters
    ----------
    first, second : int[n]
        Classes, 0 to `n_classes` - 1.

    Returns
    -------
    int64[n_classes, n_classes]

    Raises
    ------
    ValueError
        Lengths differ, or a class is outside.
    """
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"classes must be two lists of one length, not {a.shape} and {b.shape}")
    if a.size and not (min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) < n_classes):
        raise ValueError(f"classes must be 0 to {n_classes - 1}")
    return np.bincount(a * n_classes + b, minlength=n_classes**2).reshape(n_classes, n_classes)


def measure_agreement(table: ArrayLike) -> Agreement:
    """Measure how far two judges agree, from the table of their classes.

    kappa = (p_o - p_e) / (1 - p_e), p_o = sum_i p_ii, p_e = sum_i p_i. p_.i (Cohen 1960, Educ. Psychol. Meas. 20, 37).
    weighted = 1 - sum_ij w_ij p_ij / sum_ij w_ij p_i. p_.j with w_ij = (i - j)^2 (Cohen 1968, Psychol. Bull. 70, 213);
    the weights' scale falls out. With w_ij = 1 for i != j the second is the first.

    Parameters
    ----------
    table : int[k, k]
        Things by class of the first judge (rows) and of the second (columns).
    """
    counts = np.asarray(table, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"the table must be square, not {counts.shape}")
    n = counts.sum()
    if n == 0:
        return Agreement(0, math.nan, math.nan, math.nan, math.nan)
    share = counts / n
    chance = np.outer(share.sum(axis=1), share.sum(axis=0))
    order = np.arange(len(counts))
    distance = np.abs(order[:, None] - order[None, :])
    return Agreement(
        int(n),
        float(np.trace(share)),
        float(share[distance <= 1].sum()),
        _kappa(share, chance, (distance > 0).astype(np.float64)),
        _kappa(share, chance, distance.astype(np.float64) ** 2),
    )


def _kappa(share: NDArray[np.float64], chance: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    expected = float((weight * chance).sum())
    return 1.0 - float((weight * share).sum()) / expected if expected > 0.0 else math.nan


def newest_rows(thing: ArrayLike, judge: ArrayLike) -> Ints:
    """Return the row of the newest judgement of each judge on each thing.

    Parameters
    ----------
    thing, judge : int[n]
        Not negative; rows stand in the order in which they were given.

    Returns
    -------
    int64[m]
        Rows by thing, then judge.
    """
    things, judges = np.asarray(thing, dtype=np.int64), np.asarray(judge, dtype=np.int64)
    if not things.size:
        return np.empty(0, dtype=np.int64)
    key = things * (int(judges.max()) + 1) + judges
    order = np.argsort(key, kind="stable")
    sorted_key = key[order]
    last = np.append(sorted_key[1:] != sorted_key[:-1], True)
    return order[last]


def pair_tables(
    thing: ArrayLike, judge: ArrayLike, given: ArrayLike, order: ArrayLike, blind: ArrayLike, n_classes: int = 4
) -> PairTables:
    """Count what each pair of judges said of the things that both judged, blind judgements apart.

    Parameters
    ----------
    thing, judge, given : int[n]
        One judgement a thing and judge, sorted by thing, then judge (see `newest_rows`); `given` is the class.
    order : int[n]
        Larger is later.
    blind : bool[n]
        Given without seeing other judgements.

    Returns
    -------
    PairTables
        Only pairs with something in common, by first, second, blind.
    """
    things, judges = np.asarray(thing, dtype=np.int64), np.asarray(judge, dtype=np.int64)
    classes, when, alone = np.asarray(given, dtype=np.int64), np.asarray(order), np.asarray(blind, dtype=bool)
    n_judges = int(judges.max()) + 1 if judges.size else 0
    codes = []
    shift = 1
    while shift < things.size:
        left = np.flatnonzero(things[shift:] == things[:-shift])
        if not left.size:
            break
        right = left + shift
        later_blind = np.where(when[right] > when[left], alone[right], alone[left])
        pair = (judges[left] * n_judges + judges[right]) * 2 + later_blind
        codes.append((pair * n_classes + classes[left]) * n_classes + classes[right])
        shift += 1
    found, counts = np.unique(np.concatenate(codes) if codes else np.empty(0, dtype=np.int64), return_counts=True)
    pairs, at = np.unique(found // n_classes**2, return_inverse=True)
    tables = np.zeros((len(pairs), n_classes**2), dtype=np.int64)
    tables[at, found % n_classes**2] = counts
    both = pairs // 2
    return PairTables(
        both // max(n_judges, 1),
        both % max(n_judges, 1),
        (pairs % 2).astype(bool),
        tables.reshape(-1, n_classes, n_classes),
    )


def judge_tables(judge: ArrayLike, given: ArrayLike, reference: ArrayLike, n_judges: int, n_classes: int = 4) -> Ints:
    """Count what each judge gave against a reference.

    Parameters
    ----------
    judge, given : int[n]
        Judge 0 to `n_judges` - 1, and the class given.
    reference : int[n]
        Class of the reference, negative where it is unknown: not counted.

    Returns
    -------
    int64[n_judges, n_classes, n_classes]
        By judge, class of the reference, class given.
    """
    judges, classes, truth = (np.asarray(a, dtype=np.int64) for a in (judge, given, reference))
    known = truth >= 0
    code = (judges[known] * n_classes + truth[known]) * n_classes + classes[known]
    return np.bincount(code, minlength=n_judges * n_classes**2).reshape(n_judges, n_classes, n_classes)

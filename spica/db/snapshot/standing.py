"""What the grades of an image say together: its newest machine grade, how many people graded it, whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.db.snapshot.columns import SOURCES, Array, Mask
from spica.model.grade import GradeSource

_MACHINE = SOURCES.index(GradeSource.MACHINE) + 1
_HUMAN = SOURCES.index(GradeSource.HUMAN) + 1


@dataclass(frozen=True)
class Standing:
    """By row of images: `machine` 0 none or 1 to 4, `n_graders` people with a standing grade, `split` they differ."""

    machine: NDArray[np.int8]
    n_graders: NDArray[np.int16]
    split: Mask


def standing_of(grades: Mapping[str, Array], n: int) -> Standing:
    """Return what grades (columns by name, by ascending id, `row` below n) make of n images.

    Of each person only the newest standing grade counts; withdrawn grades never do.
    """
    stands = ~grades["withdrawn"] & (grades["row"] >= 0)
    machine = np.zeros(n, dtype=np.int8)
    of_machine = np.flatnonzero(stands & (grades["source"] == _MACHINE))
    machine[grades["row"][of_machine]] = grades["grade"][of_machine]  # by ascending id: the last one stays
    human = np.flatnonzero(stands & (grades["source"] == _HUMAN))
    rows, people, letters = (grades[name][human] for name in ("row", "person", "grade"))
    order = np.lexsort((human, people, rows))
    rows, people, letters = rows[order], people[order], letters[order]
    newest = np.ones(len(rows), dtype=bool)
    newest[:-1] = (rows[1:] != rows[:-1]) | (people[1:] != people[:-1])
    rows, letters = rows[newest], letters[newest]
    n_graders = np.minimum(np.bincount(rows, minlength=n), np.iinfo(np.int16).max).astype(np.int16)
    split = np.zeros(n, dtype=bool)
    differs = (rows[1:] == rows[:-1]) & (letters[1:] != letters[:-1])
    split[rows[1:][differs]] = True
    return Standing(machine, n_graders, split)

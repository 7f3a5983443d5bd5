"""Exposures counted by group over the columns of the snapshot: how many, how long, how good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spica.db.snapshot.columns import (
    DAY_ZERO,
    FRAMES,
    GRADES,
    KINDS,
    STATES,
    UNKNOWN_DAY,
    ImageColumns,
)
from spica.model.grade import Grade
from spica.model.image import FrameType, ImageKind, ImageState

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

EXPOSURE, STACK = KINDS.index(ImageKind.EXPOSURE), KINDS.index(ImageKind.STACK)
SCIENCE = FRAMES.index(FrameType.SCIENCE)
REJECTED, FAILED = STATES.index(ImageState.REJECTED), STATES.index(ImageState.FAILED)
MADE = tuple(STATES.index(s) for s in (ImageState.MADE, ImageState.DELIVERED))
POOR = 1 + GRADES.index(Grade.D)
REFERENCE_MAG = 25.0


@dataclass(frozen=True)
class Tally:
    """Exposures of one group.

    `key` are the codes that make the group, `first` the row of its first exposure. `grades` counts A, B, C, D, none.
    Exposure time and medians are those of the exposures that are not rejected, None where unknown.
    `depth_mag` is `summed_depth` of its usable exposures whose grade is not D.
    """

    key: tuple[int, ...]
    first: int
    n: int
    rejected: int
    stacked: int
    grades: tuple[int, int, int, int, int]
    exptime_s: float
    seeing_arcsec: float | None
    limiting_mag: float | None
    depth_mag: float | None
    ra_deg: float | None
    dec_deg: float | None


def is_exposure(images: ImageColumns) -> Mask:
    """Return which images are science exposures."""
    mask: Mask = (images.kind == EXPOSURE) & (images.frame == SCIENCE)
    return mask


def is_lost(images: ImageColumns) -> Mask:
    """Return which images are rejected or failed."""
    mask: Mask = (images.state == REJECTED) | (images.state == FAILED)
    return mask


def depth_weight(images: ImageColumns, rows: Rows) -> Array:
    """Return 10^(0.8 (m - 25)) of rows with limiting magnitude m; 0 where unknown, not usable or of grade D.

    Own derivation: a stack weighted by inverse variance has 1/sigma^2 = sum 1/sigma_i^2, and sigma_i is proportional
    to 10^(-0.4 m_i), so that m = 1.25 log10 sum 10^(0.8 m_i).
    """
    m = images.limiting_mag[rows]
    taken = np.isfinite(m) & images.usable[rows] & (images.grade[rows] != POOR)
    return np.where(taken, 10.0 ** (0.8 * (np.where(taken, m, REFERENCE_MAG) - REFERENCE_MAG)), 0.0)


def summed_depth(weight: float) -> float | None:
    """Return the magnitude of a sum of `depth_weight`, 1.25 log10 sum 10^(0.8 m); None where the sum is 0."""
    return REFERENCE_MAG + 1.25 * math.log10(weight) if weight > 0 else None


def tally(images: ImageColumns, rows: Rows, codes: Sequence[Array]) -> list[Tally]:
    """Count rows by group: the codes (one array a word, each as long as `rows`) that are equal."""
    if not len(rows):
        return []
    first, group = _grouped(codes)
    m = len(first)
    good = ~is_lost(images)[rows]
    graded = np.where(images.grade[rows] == 0, 4, images.grade[rows].astype(np.int64) - 1)
    letters = np.bincount(group * 5 + graded, minlength=5 * m).reshape(m, 5)
    count = np.bincount(group, minlength=m)
    lost = np.bincount(group[~good], minlength=m)
    stacked = np.bincount(group[images.stacked[rows] > 0], minlength=m)
    time = np.nan_to_num(images.exptime[rows])
    exptime = np.bincount(group[good], weights=time[good], minlength=m)
    seeing = medians(group[good], images.seeing[rows][good], m)
    limit = medians(group[good], images.limiting_mag[rows][good], m)
    depth = np.bincount(group, weights=depth_weight(images, rows), minlength=m)
    middle = _middles(group, images.ra[rows], images.dec[rows], m)
    return [
        Tally(
            tuple(int(c[first[i]]) for c in codes), int(rows[first[i]]), int(count[i]), int(lost[i]), int(stacked[i]),
            (int(letters[i, 0]), int(letters[i, 1]), int(letters[i, 2]), int(letters[i, 3]), int(letters[i, 4])),
            float(exptime[i]), known(seeing[i]), known(limit[i]), summed_depth(float(depth[i])),
            known(middle[i, 0]), known(middle[i, 1]),
        )
        for i in range(m)
    ]  # fmt: skip


def _grouped(codes: Sequence[Array]) -> tuple[Rows, Rows]:
    """Return the first place of each group and the group of each place."""
    combined = np.zeros(len(codes[0]), dtype=np.int64)
    for code in codes:
        low = int(code.min())
        combined = combined * (int(code.max()) - low + 1) + (code.astype(np.int64) - low)
        if int(combined.max()) > 2**31:
            combined = np.unique(combined, return_inverse=True)[1].astype(np.int64)
    _, first, group = np.unique(combined, return_index=True, return_inverse=True)
    return first.astype(np.int64), group.astype(np.int64)


def medians(group: Rows, values: Array, m: int) -> Array:
    """Return the median of the finite values of each of m groups, NaN where there are none."""
    known_values = np.isfinite(values)
    group, values = group[known_values], values[known_values]
    order = np.lexsort((values, group))
    values = values[order]
    count = np.bincount(group, minlength=m)
    end = np.cumsum(count)
    start = end - count
    found = np.full(m, np.nan)
    some = count > 0
    low, high = (start + (count - 1) // 2)[some], (start + count // 2)[some]
    found[some] = 0.5 * (values[low] + values[high])
    return found


def _middles(group: Rows, ra_deg: Array, dec_deg: Array, m: int) -> Array:
    """Return the mean direction (right ascension, declination, degrees) of each group, NaN where unknown."""
    placed = np.isfinite(ra_deg) & np.isfinite(dec_deg)
    a, d, g = np.radians(ra_deg[placed]), np.radians(dec_deg[placed]), group[placed]
    x = np.bincount(g, weights=np.cos(d) * np.cos(a), minlength=m)
    y = np.bincount(g, weights=np.cos(d) * np.sin(a), minlength=m)
    z = np.bincount(g, weights=np.sin(d), minlength=m)
    found = np.column_stack([np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))])
    found[np.hypot(np.hypot(x, y), z) < 1e-9] = np.nan
    return found


def known(value: float) -> float | None:
    """Return a number, None for NaN."""
    return float(value) if math.isfinite(value) else None


def day_of(code: int) -> date | None:
    """Return the night of a code, None where unknown."""
    return None if code == UNKNOWN_DAY else date.fromordinal(DAY_ZERO.toordinal() + code)


def code_of_day(night: date) -> int:
    """Return the code of a night."""
    return night.toordinal() - DAY_ZERO.toordinal()


def word_of(words: Sequence[str], code: int) -> str | None:
    """Return the word of a code, None where unknown."""
    return words[code] if 0 <= code < len(words) else None

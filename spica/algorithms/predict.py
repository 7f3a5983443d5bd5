"""What a stack will be like, from the measures of the exposures chosen for it, before anything is computed.

The combination weights each exposure by its inverse variance in the stack's flux unit, w = 1 / (noise * flux_scale)^2
(`spica.algorithms.stack`). The 5 sigma flux in an aperture of n pixels is f = 5 * sqrt(n) * noise * flux_scale, so that
w is proportional to f^-2 = 10^(0.8 m) with m the limiting magnitude of the exposure: one measure gives the weight, the
depth and the seeing of the stack (own derivation; for images limited by the noise of the sky).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_TABLE = 4_000_000
"""Combinations of codes that are counted in a table; more are sorted."""
_DEPTH_ZERO_MAG = 25.0  # keeps 10^(0.8 m) near 1; any value gives the same answer


@dataclass(frozen=True)
class Prediction:
    """Stacks as they are predicted, one value a group.

    Attributes
    ----------
    n : ndarray of int
        Exposures.
    exptime_s : ndarray of float
        Sum of the known exposure times, s.
    seeing_arcsec : ndarray of float
        FWHM of the stars, arcsec; NaN where no exposure knows its seeing.
    limiting_mag : ndarray of float
        5 sigma in an aperture of 2 arcsec diameter, mag; NaN where no exposure knows its own. Exposures that do not
        know it add nothing, so that it is then too bright rather than too faint.
    n_seeing, n_depth : ndarray of int
        Exposures that know seeing and limiting magnitude.
    """

    n: Ints
    exptime_s: Floats
    seeing_arcsec: Floats
    limiting_mag: Floats
    n_seeing: Ints
    n_depth: Ints


@dataclass(frozen=True)
class Groups:
    """Rows of equal codes: `label` (n,) counts groups from 0 (-1: some code is unknown), `first` is a row of each."""

    label: Ints
    first: Ints

    @property
    def n(self) -> int:
        """How many groups there are."""
        return int(self.first.size)


def group_codes(*codes: ArrayLike) -> Groups:
    """Group rows by several columns of codes (0 and up; negative is unknown), as survey mode does before overlaps.

    Parameters
    ----------
    codes : array_like of int, shape (n,)
        Object, camera, filter of each row. Fields of one object that do not touch become stacks of their own later, so
        that the number of groups is the least number of stacks.

    Raises
    ------
    ValueError
        No column is given, or the columns differ in length.
    """
    columns = [np.asarray(c, dtype=np.int64) for c in codes]
    if not columns or any(c.shape != columns[0].shape or c.ndim != 1 for c in columns):
        raise ValueError("give at least one column, and all of one length")
    known = np.logical_and.reduce([c >= 0 for c in columns])
    sizes = [int(c.max(initial=-1)) + 1 for c in columns]
    total = float(np.prod([float(s) for s in sizes]))
    key = np.zeros(columns[0].shape, dtype=np.int64)
    if total > 2.0**62:
        raise ValueError("the codes are too large to be combined; number them from 0")
    for column, size in zip(columns, sizes, strict=True):
        key = key * size + column
    rows = np.flatnonzero(known)
    label = np.full(key.shape, -1, dtype=np.int64)
    if total <= MAX_TABLE:
        first = np.full(max(int(total), 1), -1, dtype=np.int64)
        first[key[rows[::-1]]] = rows[::-1]
        used = np.flatnonzero(first >= 0)
        number = np.full(first.size, -1, dtype=np.int64)
        number[used] = np.arange(used.size)
        label[rows] = number[key[rows]]
        return Groups(label, first[used])
    _, index, inverse = np.unique(key[rows], return_index=True, return_inverse=True)
    label[rows] = inverse
    return Groups(label, rows[index])


def predict_stacks(
    label: ArrayLike, n_groups: int, exptime_s: ArrayLike, seeing_arcsec: ArrayLike, limiting_mag: ArrayLike
) -> Prediction:
    """Predict exposure time, seeing and depth of stacks.

    Depth: inverse variances add, so m = 1.25 log10(sum 10^(0.8 m_i)). Seeing: the second moments of the point spread
    functions add with the weights, so FWHM^2 = sum(w_i FWHM_i^2) / sum(w_i), w_i = 10^(0.8 m_i); the core of a mixture
    of different widths is a little sharper than its second moment says, so this errs to the wide side (own derivation).
    The weight of an exposure without limiting magnitude is its exposure time, times the mean weight of a second in its
    group: the variance of the sky in flux per second goes as 1 / time.

    Parameters
    ----------
    label : array_like of int, shape (n,)
        Group of each exposure, from 0; negative ones belong to no group.
    n_groups : int
        Number of groups.
    exptime_s, seeing_arcsec, limiting_mag : array_like of float, shape (n,)
        Measures in s, arcsec, mag; NaN unknown.

    Raises
    ------
    ValueError
        The columns differ in length, or a label is not below `n_groups`.
    """
    group = np.asarray(label, dtype=np.int64)
    exptime, seeing, depth = (np.asarray(v, dtype=np.float64) for v in (exptime_s, seeing_arcsec, limiting_mag))
    if not group.shape == exptime.shape == seeing.shape == depth.shape:
        raise ValueError("labels and measures differ in length; give one of each for every exposure")
    if group.size and int(group.max()) >= n_groups:
        raise ValueError(f"label {int(group.max())} is not below the number of groups, {n_groups}")
    if not (group >= 0).all():
        inside = group >= 0
        group, exptime, seeing, depth = group[inside], exptime[inside], seeing[inside], depth[inside]
    exptime = np.where(np.isfinite(exptime), exptime, 0.0)
    has_depth, has_seeing = np.isfinite(depth), np.isfinite(seeing)
    power = np.where(has_depth, _weight(depth), 0.0)
    powers = _sum_over(group, power, n_groups)
    weight = power if has_depth.all() else _timed_weight(group, power, powers, exptime, has_depth)
    square = _sum_over(group, np.where(has_seeing, weight * seeing**2, 0.0), n_groups)
    total = _sum_over(group, np.where(has_seeing, weight, 0.0), n_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.where(powers > 0, _DEPTH_ZERO_MAG + 1.25 * np.log10(powers), np.nan)
        width = np.where(total > 0, np.sqrt(square / total), np.nan)
    return Prediction(
        n=np.bincount(group, minlength=n_groups),
        exptime_s=_sum_over(group, exptime, n_groups),
        seeing_arcsec=width,
        limiting_mag=magnitude,
        n_seeing=np.bincount(group[has_seeing], minlength=n_groups),
        n_depth=np.bincount(group[has_depth], minlength=n_groups),
    )


def predict_stack(exptime_s: ArrayLike, seeing_arcsec: ArrayLike, limiting_mag: ArrayLike) -> Prediction:
    """Predict one stack of all exposures given; see `predict_stacks`. Every field has one value."""
    exptime = np.asarray(exptime_s, dtype=np.float64)
    return predict_stacks(np.zeros(exptime.shape, dtype=np.int64), 1, exptime, seeing_arcsec, limiting_mag)


def _weight(limiting_mag: Floats) -> Floats:
    """Return 10^(0.8 m), scaled; NaN stays."""
    scaled: Floats = np.exp((0.8 * np.log(10.0)) * (limiting_mag - _DEPTH_ZERO_MAG))
    return scaled


def _timed_weight(
    group: Ints, power: Floats, powers: Floats, exptime_s: Floats, has_depth: NDArray[np.bool_]
) -> Floats:
    """Return weights in which exposures without limiting magnitude count by their time."""
    seconds = _sum_over(group, np.where(has_depth, exptime_s, 0.0), powers.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        a_second = np.where(seconds > 0, powers / seconds, 1.0)
    timed = np.where(exptime_s > 0, exptime_s, 1.0) * a_second[group]
    found: Floats = np.where(has_depth, power, timed)
    return found


def _sum_over(group: Ints, values: Floats, n_groups: int) -> Floats:
    return np.bincount(group, weights=values, minlength=n_groups).astype(np.float64)

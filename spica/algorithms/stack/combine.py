"""Combination of a cube (n, rows, nx) and its weights; columns are worked on in blocks, as vectors, block by thread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter

Cube = NDArray[np.float32]

_BLOCK = 64
_MEDIAN_EFFICIENCY = np.array([1.0, 1.0, 1.0, 0.7427, 0.8382, 0.6968, 0.7755, 0.6788, 0.7424, 0.6689, 0.7229])

Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16], NDArray[np.float64]]
"""Image, weight, number used, and tally (3, n, nx): weight used, pixels used, pixels rejected by layer and column."""


@dataclass(frozen=True)
class Clipping:
    """When `clipped` rejects a value (after Gruen, Seitz & Bernstein 2014, PASP 126, 158).

    Input i is rejected where |v_i - m| > kappa sqrt(1 / w_i + pi / (2 sum w)) + amp_fraction_i max(|m|), m being the
    (lower) median of the inputs, so that one input always stays, and the maximum that of the 5 x 5 pixels around. The
    first term is noise; the second lets stars be sharper or wider than the median, in cores as in wings.

    Attributes
    ----------
    kappa : float
        Number of sigma.
    amp_fraction : float
        Share of the local median flux by which values may differ.
    neighbourhood_pix : int
        Half width of the box of the maximum.
    min_inputs : int
        Pixels with fewer valid inputs are not clipped.
    """

    kappa: float = 4.0
    amp_fraction: float = 0.3
    neighbourhood_pix: int = 2
    min_inputs: int = 3

    def __post_init__(self) -> None:
        if not (self.kappa > 0 and self.amp_fraction >= 0 and self.neighbourhood_pix >= 0 and self.min_inputs >= 2):
            raise ValueError(f"{self} is not usable: give kappa > 0, amp_fraction >= 0 and min_inputs >= 2")


DEFAULT_CLIPPING = Clipping()


@dataclass(frozen=True, eq=False)
class Combined:
    """Combination of a cube.

    Attributes
    ----------
    image, weight : ndarray of float32, shape (rows, nx)
        Combined flux and its inverse variance; 0 where there is no data.
    n_used : ndarray of uint16, shape (rows, nx)
        Number of inputs used per pixel: the coverage (exposure-time map in units of one exposure).
    weight_by_input : ndarray of float64, shape (n,)
        Sum of the weights with which each input was used.
    n_used_by_input, n_rejected_by_input : ndarray of int64, shape (n,)
        Pixels used and rejected of each input.
    """

    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    n_used: NDArray[np.uint16]
    weight_by_input: NDArray[np.float64]
    n_used_by_input: NDArray[np.int64]
    n_rejected_by_input: NDArray[np.int64]


def combine_weighted(cube: Cube, weight: Cube) -> Combined:
    """Weighted mean: sum(w v) / sum(w), weight sum(w); the smallest variance of all linear combinations.

    `cube` and `weight` have shape (n, rows, nx); values with weight 0 are not looked at.
    """
    return _combined(weighted_planes(*_checked(cube, weight)))


def combine_clipped(
    cube: Cube, weight: Cube, clipping: Clipping = DEFAULT_CLIPPING, amp_fraction: ArrayLike | None = None
) -> Combined:
    """Weighted mean of the values that `clipping` does not reject.

    Parameters
    ----------
    cube, weight : ndarray of float32, shape (n, rows, nx)
    clipping : Clipping
    amp_fraction : array, shape (n,), optional
        Per input in place of `clipping.amp_fraction`; see `amp_fractions`.
    """
    cube, weight = _checked(cube, weight)
    amp = np.full(len(cube), clipping.amp_fraction) if amp_fraction is None else np.asarray(amp_fraction, float)
    by_column = np.broadcast_to(amp[:, None], (len(cube), cube.shape[2]))
    return _combined(clipped_planes(cube, weight, clipping, by_column, 0, cube.shape[1]))


def combine_median(cube: Cube, weight: Cube) -> Combined:
    """Median of the inputs with weight > 0 (each counts once; the mean of the middle two for an even number).

    Its weight is e(n) (sum sqrt(w))^2 / n with e(n) the efficiency of the median of n normal values (1 for n <= 2,
    towards 2 / pi): the variance of the median of values with densities f_i at their centre is n / (4 (sum f_i)^2).
    """
    return _combined(median_planes(*_checked(cube, weight)))


def combine_sum(cube: Cube, weight: Cube) -> Combined:
    """Sum of the valid values; weight 1 / sum(1 / w)."""
    return _combined(sum_planes(*_checked(cube, weight)))


def _combined(planes: Planes) -> Combined:
    image, weight, used, tally = planes
    sums = tally.sum(axis=2)
    return Combined(image, weight, used, sums[0], np.rint(sums[1]).astype(np.int64), np.rint(sums[2]).astype(np.int64))


def _checked(cube: Cube, weight: Cube) -> tuple[Cube, Cube]:
    if cube.ndim != 3 or cube.shape != weight.shape or cube.shape[0] > np.iinfo(np.uint16).max:
        raise ValueError(f"cube {cube.shape} and weight {weight.shape}: give two cubes (n, rows, nx) of one shape")
    return np.ascontiguousarray(cube, np.float32), np.ascontiguousarray(weight, np.float32)


def _outputs(cube: Cube, rows: int) -> Planes:
    n, _, nx = cube.shape
    shape = (rows, nx)
    return np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint16), np.zeros((3, n, nx))


def weighted_planes(cube: Cube, weight: Cube) -> Planes:
    planes, none = _outputs(cube, cube.shape[1]), np.zeros((1, 1), np.float32)
    _mean_rows(cube, weight, none, none, none, np.inf, 1 << 30, 0, *planes)
    return planes


def clipped_planes(
    cube: Cube, weight: Cube, clipping: Clipping, amp_fraction: NDArray[np.float64], first: int, last: int
) -> Planes:
    """Rows first .. last of the cube; the others only serve as neighbours."""
    median = np.zeros(cube.shape[1:], np.float32)
    _median_rows(cube, weight, _sorting_network(len(cube)), True, median)
    peak = maximum_filter(np.abs(median), size=2 * clipping.neighbourhood_pix + 1, mode="nearest")
    planes, amp = _outputs(cube, last - first), np.ascontiguousarray(amp_fraction, np.float32)
    _mean_rows(cube, weight, median, peak, amp, clipping.kappa, clipping.min_inputs, first, *planes)
    return planes


def median_planes(cube: Cube, weight: Cube) -> Planes:
    planes = _outputs(cube, cube.shape[1])
    image, root, used, tally = planes
    _median_rows(cube, weight, _sorting_network(len(cube)), False, image)
    _sum_rows(cube, weight, True, np.zeros_like(image), root, used, tally)
    n = used.astype(np.int64)
    efficiency = _median_efficiency(len(cube))[n] / np.maximum(n, 1)
    return image, (efficiency * np.square(root, dtype=np.float64)).astype(np.float32), used, tally


def sum_planes(cube: Cube, weight: Cube) -> Planes:
    planes = _outputs(cube, cube.shape[1])
    _sum_rows(cube, weight, False, *planes)
    return planes


def _median_efficiency(n_max: int) -> NDArray[np.float64]:
    """Efficiency of the median of 0 .. n_max normal values: exact order statistics to 10, then the fit 2/pi + c/n."""
    n = np.arange(max(n_max, 10) + 1)
    efficiency = 2.0 / math.pi + np.where(n % 2 == 0, 0.87, 0.29) / np.maximum(n, 1)
    efficiency[:11] = _MEDIAN_EFFICIENCY
    return efficiency


@lru_cache(maxsize=64)
def _sorting_network(n: int) -> NDArray[np.int64]:
    """Compare-exchange pairs of Batcher's odd-even merge sort for n values (Batcher 1968), shape (m, 2)."""
    pairs = []
    size = 1 << max(0, (n - 1).bit_length())
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p) and i + j + k < n:
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


@njit(parallel=True, nogil=True, cache=True)
def _median_rows(cube, weight, pairs, lower_only, median):  # type: ignore[no-untyped-def]
    """Median (or lower median) over inputs with weight > 0; 0 without any. Blocks of columns are sorted together."""
    n, ny, nx = cube.shape
    for block in prange((nx + _BLOCK - 1) // _BLOCK):
        x0 = block * _BLOCK
        width = min(_BLOCK, nx - x0)
        sort, valid = np.zeros((n, _BLOCK), np.float32), np.zeros(_BLOCK, np.int32)
        for y in range(ny):
            valid[:] = 0
            for k in range(n):
                v, w, line = cube[k, y, x0 : x0 + width], weight[k, y, x0 : x0 + width], sort[k]
                for i in range(width):
                    line[i] = v[i] if w[i] > 0.0 else np.float32(np.inf)
                    valid[i] += 1 if w[i] > 0.0 else 0
            for p in range(pairs.shape[0]):
                low, high = sort[pairs[p, 0]], sort[pairs[p, 1]]
                for i in range(_BLOCK):
                    a, b = low[i], high[i]
                    low[i] = a if a < b else b
                    high[i] = b if a < b else a
            for i in range(width):
                if valid[i] > 0:
                    middle = sort[(valid[i] - 1) // 2, i]
                    other = middle if lower_only else sort[valid[i] // 2, i]
                    median[y, x0 + i] = (middle + other) * np.float32(0.5)


@njit(nogil=True, cache=True)
def _clip_line(value, weight, level, share, reach, noise, kappa, use, lost):  # type: ignore[no-untyped-def]
    """Set `use` to the weight, or to 0 where `Clipping` rejects the value, and count that in `lost`."""
    for i in range(value.size):
        w = np.float64(weight[i])
        excess = max(abs(value[i] - level[i]) - share[i] * reach[i], 0.0)
        out = excess * excess * w > kappa * kappa * (1.0 + w * noise[i])
        lost[i] += 1.0 if out else 0.0
        use[i] = 0.0 if out else w


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def _mean_rows(  # type: ignore[no-untyped-def]
    cube, weight, median, peak, amp, kappa, min_inputs, first, image, total, used, tally
):
    """Weighted mean of rows `first` ..; with finite kappa less the values `Clipping` rejects."""
    n, _, nx = cube.shape
    clip = kappa < np.inf
    for block in prange((nx + _BLOCK - 1) // _BLOCK):
        x0, width = block * _BLOCK, min(_BLOCK, nx - block * _BLOCK)
        flux, norm, count = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
        noise, level, reach, use = np.empty(_BLOCK), np.zeros(_BLOCK), np.zeros(_BLOCK), np.zeros(_BLOCK)
        for row in range(image.shape[0]):
            y = row + first
            flux[:], norm[:], count[:], noise[:] = 0.0, 0.0, 0.0, np.inf
            if clip:
                for k in range(n):
                    line_w = weight[k, y, x0 : x0 + width]
                    for i in range(width):
                        norm[i] += line_w[i]
                        count[i] += 1.0 if line_w[i] > 0.0 else 0.0
                for i in range(width):
                    noise[i] = 0.5 * np.pi / norm[i] if count[i] >= min_inputs else np.inf
                    level[i], reach[i] = median[y, x0 + i], peak[y, x0 + i]
                norm[:], count[:] = 0.0, 0.0
            for k in range(n):
                line_v, line_w = cube[k, y, x0 : x0 + width], weight[k, y, x0 : x0 + width]
                gave, kept, lost = (
                    tally[0, k, x0 : x0 + width],
                    tally[1, k, x0 : x0 + width],
                    tally[2, k, x0 : x0 + width],
                )
                if clip:
                    _clip_line(line_v, line_w, level, amp[k, x0 : x0 + width], reach, noise, kappa, use, lost)
                else:
                    for i in range(width):
                        use[i] = line_w[i]
                for i in range(width):
                    w, good = use[i], use[i] > 0.0
                    flux[i] += w * line_v[i] if good else 0.0
                    norm[i] += w if good else 0.0
                    count[i] += 1.0 if good else 0.0
                    gave[i] += w if good else 0.0
                    kept[i] += 1.0 if good else 0.0
            for i in range(width):
                image[row, x0 + i] = flux[i] / norm[i] if norm[i] > 0.0 else 0.0
                total[row, x0 + i], used[row, x0 + i] = norm[i], count[i]


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def _sum_rows(cube, weight, roots, image, total, used, tally):  # type: ignore[no-untyped-def]
    """Sum of valid values; `total` is sum(sqrt(w)) with `roots`, else 1 / sum(1 / w)."""
    n, ny, nx = cube.shape
    for block in prange((nx + _BLOCK - 1) // _BLOCK):
        x0, width = block * _BLOCK, min(_BLOCK, nx - block * _BLOCK)
        flux, spread, count = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
        for y in range(ny):
            flux[:], spread[:], count[:] = 0.0, 0.0, 0.0
            for k in range(n):
                line_v, line_w = cube[k, y, x0 : x0 + width], weight[k, y, x0 : x0 + width]
                gave, kept = tally[0, k, x0 : x0 + width], tally[1, k, x0 : x0 + width]
                for i in range(width):
                    w = np.float64(line_w[i])
                    good = w > 0.0
                    flux[i] += line_v[i] if good else 0.0
                    spread[i] += (np.sqrt(w) if roots else 1.0 / w) if good else 0.0
                    count[i] += 1.0 if good else 0.0
                    gave[i] += w if good else 0.0
                    kept[i] += 1.0 if good else 0.0
            for i in range(width):
                inverse = 1.0 / spread[i] if spread[i] > 0.0 else 0.0
                image[y, x0 + i], used[y, x0 + i] = flux[i], count[i]
                total[y, x0 + i] = spread[i] if roots else inverse

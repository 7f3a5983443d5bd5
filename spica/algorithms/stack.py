"""Combination of resampled images, strip by strip, in bounded memory.

A strip is a cube (n, rows, nx) of image values and one of weights (1 / variance in output flux units, 0 = no data).
Pixels without data are 0 with weight 0 in every output. Inputs that do not overlap along x share one layer of the cube:
the cube of a mosaic is as deep as the pixels are covered, not as there are detectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import maximum_filter

from spica.algorithms.frame import Frame
from spica.algorithms.resample import AreaScaling, Background, KernelName, PixelMap, Pixels, input_window, resample

Method = Literal["weighted", "median", "clipped", "sum"]
Cube = NDArray[np.float32]

DEFAULT_MEMORY_LIMIT_BYTES = 1 << 30
_BLOCK = 64  # columns worked on together, as vectors
_MIN_ROWS = 8
_BYTES_PER_INPUT_PIXEL = 28  # native copy, weight, sky, padded planes, flags and their temporaries
_MEDIAN_EFFICIENCY = np.array([1.0, 1.0, 1.0, 0.7427, 0.8382, 0.6968, 0.7755, 0.6788, 0.7424, 0.6689, 0.7229])


class MemoryLimitError(ValueError):
    """The smallest strip needs more memory than allowed (attributes `needed_bytes`, `limit_bytes`)."""

    def __init__(self, needed_bytes: int, limit_bytes: int) -> None:
        self.needed_bytes, self.limit_bytes = needed_bytes, limit_bytes
        super().__init__(
            f"a strip of {_MIN_ROWS} rows needs {needed_bytes} bytes, the limit is {limit_bytes}: "
            "raise the memory limit, or stack fewer images or a narrower frame"
        )


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


@dataclass(frozen=True, eq=False)
class StackInput:
    """One image to be combined; `data`, `weight`, `flux_scale`, `background` as in `resample.resample`.

    `seeing_arcsec` (FWHM, NaN = unknown) widens the tolerance of `clipped`, see `amp_fractions`.
    """

    data: Pixels
    weight: Pixels | None
    pixel_map: PixelMap
    flux_scale: float = 1.0
    background: Background | None = None
    seeing_arcsec: float = math.nan


@dataclass(frozen=True, eq=False)
class StackStrip:
    """Finished rows of the frame: arrays as in `Combined`, the tallies with one entry per input."""

    rows: slice
    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    n_used: NDArray[np.uint16]
    weight_by_input: NDArray[np.float64]
    n_used_by_input: NDArray[np.int64]
    n_rejected_by_input: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contributions:
    """What each input gave to the stack.

    Attributes
    ----------
    weight_fraction : ndarray of float64, shape (n,)
        Share of all weight used; sums to 1 (0 where nothing was used).
    clipped_fraction : ndarray of float64, shape (n,)
        Rejected / (used + rejected) pixels; NaN for an input without pixels in the frame.
    n_used : ndarray of int64, shape (n,)
        Pixels used.
    """

    weight_fraction: NDArray[np.float64]
    clipped_fraction: NDArray[np.float64]
    n_used: NDArray[np.int64]


def combine_weighted(cube: Cube, weight: Cube) -> Combined:
    """Weighted mean: sum(w v) / sum(w), weight sum(w); the smallest variance of all linear combinations.

    `cube` and `weight` have shape (n, rows, nx); values with weight 0 are not looked at.
    """
    return _combined(_weighted_planes(*_checked(cube, weight)))


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
    return _combined(_clipped_planes(cube, weight, clipping, by_column, 0, cube.shape[1]))


def combine_median(cube: Cube, weight: Cube) -> Combined:
    """Median of the inputs with weight > 0 (each counts once; the mean of the middle two for an even number).

    Its weight is e(n) (sum sqrt(w))^2 / n with e(n) the efficiency of the median of n normal values (1 for n <= 2,
    towards 2 / pi): the variance of the median of values with densities f_i at their centre is n / (4 (sum f_i)^2).
    """
    return _combined(_median_planes(*_checked(cube, weight)))


def combine_sum(cube: Cube, weight: Cube) -> Combined:
    """Sum of the valid values; weight 1 / sum(1 / w)."""
    return _combined(_sum_planes(*_checked(cube, weight)))


def amp_fractions(seeing_arcsec: ArrayLike, clipping: Clipping = DEFAULT_CLIPPING) -> NDArray[np.float64]:
    """Return the amplitude tolerance of each input for stars of its seeing.

    A star of the same flux peaks higher by the square of the ratio of widths; against the widest input the excess is
    (F_max / F_i)^2 - 1 of the peak, the largest any reference made of these inputs can show. It is added to
    `clipping.amp_fraction` (own derivation). Unknown seeing (NaN) adds nothing.
    """
    seeing = np.asarray(seeing_arcsec, float)
    known = np.isfinite(seeing) & (seeing > 0)
    extra = np.zeros(seeing.shape)
    if known.any():
        extra[known] = np.square(seeing[known].max() / seeing[known]) - 1.0
    return clipping.amp_fraction + extra


def measure_weight_factor(data: ArrayLike, weight: ArrayLike) -> float:
    """Return the factor that makes a relative weight map 1 / variance.

    The scatter of differences of neighbours along x, in units of their expected sigma, is 1 for true weights; it is
    taken from the median absolute value, so sources and sky do not matter. Rows are thinned to about four million
    pixels. NaN where fewer than 100 pairs of good pixels exist. Noise must be uncorrelated (input images).
    """
    values, weights = np.asarray(data), np.asarray(weight)
    if values.ndim != 2 or values.shape != weights.shape:
        raise ValueError(f"image {values.shape} and weight {weights.shape} differ: give maps of one image")
    thin = max(1, values.size // 4_000_000)
    v, w = values[::thin].astype(np.float64), weights[::thin].astype(np.float64)
    good = np.isfinite(v) & np.isfinite(w) & (w > 0)
    pair = good[:, 1:] & good[:, :-1]
    if np.count_nonzero(pair) < 100:
        return math.nan
    difference = np.abs(v[:, 1:][pair] - v[:, :-1][pair])
    sigma = 1.482602 * float(np.median(difference / np.sqrt(1 / w[:, 1:][pair] + 1 / w[:, :-1][pair])))
    return 1.0 / sigma**2 if sigma > 0 else math.nan


def effective_gain(weight_fraction: ArrayLike, gain: ArrayLike, flux_scale: ArrayLike) -> float:
    """Return the gain of the weighted mean, electrons per output ADU: 1 / sum(f_i^2 s_i / g_i).

    A source of m output ADU is m / s_i ADU in input i and has there the variance m / (s_i g_i); in the mean
    sum(f_i s_i x_i) it has m sum(f_i^2 s_i / g_i) (own derivation; holds where all inputs overlap).
    """
    f, g, s = (np.asarray(a, float) for a in (weight_fraction, gain, flux_scale))
    return 1.0 / float(np.sum(f**2 * s / g))


def strip_rows(shape: tuple[int, int], n_inputs: int, memory_limit_bytes: int) -> list[slice]:
    """Cut the rows of a frame into strips of equal height whose cubes and outputs fit the limit.

    `n_inputs` is the depth of the cube. Raises `MemoryLimitError` where less than 8 rows fit.
    """
    ny, nx = shape
    height = min(ny, memory_limit_bytes // _bytes_per_row(nx, n_inputs))
    if height < min(_MIN_ROWS, ny):
        raise MemoryLimitError(min(_MIN_ROWS, ny) * _bytes_per_row(nx, n_inputs), memory_limit_bytes)
    return [slice(y, min(ny, y + height)) for y in range(0, ny, height)]


def combine_frames(
    inputs: Sequence[StackInput],
    frame: Frame,
    method: Method = "clipped",
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
    *,
    clipping: Clipping = DEFAULT_CLIPPING,
    kernel: KernelName = "lanczos3",
    area_scaling: AreaScaling = "variable",
) -> Iterator[StackStrip]:
    """Resample and combine all inputs, yielding finished strips from the first row to the last.

    Parameters
    ----------
    inputs : sequence of StackInput
    frame : Frame
        Grid of every `pixel_map`.
    method : str
        `weighted`, `median`, `clipped` or `sum`.
    memory_limit_bytes : int
        Bound for cubes, outputs and the parts of inputs held at a time (not for the inputs themselves where they are
        plain arrays). An input rotated by 45 degrees is held as a whole, since every strip crosses it.
    clipping, kernel, area_scaling
        See `Clipping` and `resample.resample`.

    Raises
    ------
    MemoryLimitError
        The smallest strip does not fit.
    ValueError
        Unknown method, or an input mapped to another frame.
    """
    if method not in {"weighted", "median", "clipped", "sum"}:
        raise ValueError(f"no method {method!r}: choose weighted, median, clipped or sum")
    for k, item in enumerate(inputs):
        if item.pixel_map.frame_shape != frame.shape:
            raise ValueError(f"input {k} is mapped to a frame {item.pixel_map.frame_shape}, not {frame.shape}: map it anew")
    halo = clipping.neighbourhood_pix if method == "clipped" else 0
    amp = amp_fractions([item.seeing_arcsec for item in inputs], clipping)
    for rows in _strips(inputs, frame.shape, halo, memory_limit_bytes):
        wide = slice(max(0, rows.start - halo), min(frame.shape[0], rows.stop + halo))
        owner = _pack(inputs, wide, frame.shape[1])
        cube = np.zeros((len(owner), wide.stop - wide.start, frame.shape[1]), np.float32)
        weight = np.zeros_like(cube)
        for k, item in enumerate(inputs):
            layer = np.flatnonzero((owner == k).any(axis=1))
            if layer.size:
                plane = cube[layer[0]], weight[layer[0]]
                options = {"flux_scale": item.flux_scale, "background": item.background, "kernel": kernel}
                resample(item.data, item.weight, item.pixel_map, wide, **options, area_scaling=area_scaling, out=plane)  # type: ignore[arg-type]
        yield _combine_strip(cube, weight, owner, rows, rows.start - wide.start, method, clipping, amp)


def sum_contributions(strips: Iterable[StackStrip]) -> Contributions:
    """Return the contributions of each input over strips (their pixels are not kept)."""
    weight, used, rejected = 0.0, 0, 0
    for strip in strips:
        weight = weight + strip.weight_by_input  # type: ignore[assignment]
        used = used + strip.n_used_by_input  # type: ignore[assignment]
        rejected = rejected + strip.n_rejected_by_input  # type: ignore[assignment]
    sums, n_used, n_rejected = np.atleast_1d(weight), np.atleast_1d(used), np.atleast_1d(rejected)
    seen = n_used + n_rejected
    clipped = np.full(seen.shape, np.nan)
    np.divide(n_rejected, seen, out=clipped, where=seen > 0)
    return Contributions(sums / max(float(sums.sum()), np.finfo(float).tiny), clipped, n_used)


_Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint16], NDArray[np.float64]]
"""Image, weight, number used, and tally (3, n, nx): weight used, pixels used, pixels rejected by layer and column."""


def _combined(planes: _Planes) -> Combined:
    image, weight, used, tally = planes
    sums = tally.sum(axis=2)
    return Combined(image, weight, used, sums[0], np.rint(sums[1]).astype(np.int64), np.rint(sums[2]).astype(np.int64))


def _checked(cube: Cube, weight: Cube) -> tuple[Cube, Cube]:
    if cube.ndim != 3 or cube.shape != weight.shape or cube.shape[0] > np.iinfo(np.uint16).max:
        raise ValueError(f"cube {cube.shape} and weight {weight.shape}: give two cubes (n, rows, nx) of one shape")
    return np.ascontiguousarray(cube, np.float32), np.ascontiguousarray(weight, np.float32)


def _outputs(cube: Cube, rows: int) -> _Planes:
    n, _, nx = cube.shape
    shape = (rows, nx)
    return np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint16), np.zeros((3, n, nx))


def _weighted_planes(cube: Cube, weight: Cube) -> _Planes:
    planes, none = _outputs(cube, cube.shape[1]), np.zeros((1, 1), np.float32)
    _mean_rows(cube, weight, none, none, none, np.inf, 1 << 30, 0, *planes)
    return planes


def _clipped_planes(
    cube: Cube, weight: Cube, clipping: Clipping, amp_fraction: NDArray[np.float64], first: int, last: int
) -> _Planes:
    """Rows first .. last of the cube; the others only serve as neighbours."""
    median = np.zeros(cube.shape[1:], np.float32)
    _median_rows(cube, weight, _sorting_network(len(cube)), True, median)
    peak = maximum_filter(np.abs(median), size=2 * clipping.neighbourhood_pix + 1, mode="nearest")
    planes, amp = _outputs(cube, last - first), np.ascontiguousarray(amp_fraction, np.float32)
    _mean_rows(cube, weight, median, peak, amp, clipping.kappa, clipping.min_inputs, first, *planes)
    return planes


def _median_planes(cube: Cube, weight: Cube) -> _Planes:
    planes = _outputs(cube, cube.shape[1])
    image, root, used, tally = planes
    _median_rows(cube, weight, _sorting_network(len(cube)), False, image)
    _sum_rows(cube, weight, True, np.zeros_like(image), root, used, tally)
    n = used.astype(np.int64)
    efficiency = _median_efficiency(len(cube))[n] / np.maximum(n, 1)
    return image, (efficiency * np.square(root, dtype=np.float64)).astype(np.float32), used, tally


def _sum_planes(cube: Cube, weight: Cube) -> _Planes:
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
                gave, kept, lost = tally[0, k, x0 : x0 + width], tally[1, k, x0 : x0 + width], tally[2, k, x0 : x0 + width]
                if clip:
                    share = amp[k, x0 : x0 + width]
                    for i in range(width):
                        w = np.float64(line_w[i])
                        excess = max(abs(line_v[i] - level[i]) - share[i] * reach[i], 0.0)
                        out = excess * excess * w > kappa * kappa * (1.0 + w * noise[i])
                        lost[i] += 1.0 if out else 0.0
                        use[i] = 0.0 if out else w
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


def _combine_strip(
    cube: Cube,
    weight: Cube,
    owner: NDArray[np.int64],
    rows: slice,
    first: int,
    method: Method,
    clipping: Clipping,
    amp: NDArray[np.float64],
) -> StackStrip:
    """Combine a strip whose own rows start at `first` of the cube, and give the tallies back to the inputs."""
    if method == "clipped":
        by_column = np.where(owner >= 0, amp[owner], 0.0) if amp.size else np.zeros(owner.shape)
        planes = _clipped_planes(cube, weight, clipping, by_column, first, first + rows.stop - rows.start)
    else:
        planes = {"weighted": _weighted_planes, "median": _median_planes, "sum": _sum_planes}[method](cube, weight)
    image, total, used, tally = planes
    taken = owner >= 0
    sums = [np.bincount(owner[taken], part[taken], minlength=len(amp)) for part in tally]
    return StackStrip(
        rows, image, total, used, sums[0], np.rint(sums[1]).astype(np.int64), np.rint(sums[2]).astype(np.int64)
    )


def _pack(inputs: Sequence[StackInput], rows: slice, nx: int) -> NDArray[np.int64]:
    """Input of each layer and column, -1 for none: inputs that touch the rows, as few layers as overlaps allow."""
    touching = []
    for k, item in enumerate(inputs):
        y0, y1, x0, x1 = item.pixel_map.box
        if not item.pixel_map.is_empty and y0 < rows.stop and y1 > rows.start:
            touching.append((x0, x1, k))
    ends: list[int] = []
    places = []
    for x0, x1, k in sorted(touching):
        layer = next((i for i, end in enumerate(ends) if end <= x0), len(ends))
        ends[layer : layer + 1] = [x1]
        places.append((layer, x0, x1, k))
    owner = np.full((len(ends), nx), -1, np.int64)
    for layer, x0, x1, k in places:
        owner[layer, x0:x1] = k
    return owner


def _bytes_per_row(nx: int, n_inputs: int) -> int:
    """Cube and weight, outputs, median and maximum of a row."""
    return nx * (8 * n_inputs + 32)


def _strips(inputs: Sequence[StackInput], shape: tuple[int, int], halo: int, limit: int) -> list[slice]:
    """Highest strips whose cube, outputs and widest part of an input fit the limit."""
    depth = len(_pack(inputs, slice(0, shape[0]), shape[1]))
    tally = 24 * depth * shape[1]
    height = shape[0]
    while True:
        needed = tally + _bytes_per_row(shape[1], depth) * min(shape[0], height + 2 * halo)
        strips = [slice(y, min(shape[0], y + height)) for y in range(0, shape[0], height)]
        if needed <= limit:
            needed += max((_input_bytes(item.pixel_map, s, halo) for item in inputs for s in strips), default=0)
        if needed <= limit:
            return strips
        if height <= _MIN_ROWS:
            raise MemoryLimitError(needed, limit)
        height = max(_MIN_ROWS, min(height // 2 + 1, height - 1))


def _input_bytes(pixel_map: PixelMap, rows: slice, halo: int) -> int:
    window_y, window_x = input_window(pixel_map, slice(max(0, rows.start - halo), rows.stop + halo))
    return _BYTES_PER_INPUT_PIXEL * (window_y.stop - window_y.start) * (window_x.stop - window_x.start)

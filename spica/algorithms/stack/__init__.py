"""Combination of resampled images, strip by strip, in bounded memory.

A strip is a cube (n, rows, nx) of image values and one of weights (1 / variance in output flux units, 0 = no data).
Pixels without data are 0 with weight 0 in every output. Inputs that do not overlap along x share one layer of the cube:
the cube of a mosaic is as deep as the pixels are covered, not as there are detectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.frame import Frame
from spica.algorithms.resample import AreaScaling, Background, KernelName, PixelMap, Pixels, input_window, resample
from spica.algorithms.stack.combine import (
    DEFAULT_CLIPPING,
    Clipping,
    Combined,
    Cube,
    clipped_planes,
    combine_clipped,
    combine_median,
    combine_sum,
    combine_weighted,
    median_planes,
    sum_planes,
    weighted_planes,
)

__all__ = [
    "DEFAULT_CLIPPING",
    "DEFAULT_MEMORY_LIMIT_BYTES",
    "Clipping",
    "Combined",
    "Contributions",
    "MemoryLimitError",
    "StackInput",
    "StackStrip",
    "amp_fractions",
    "combine_clipped",
    "combine_frames",
    "combine_median",
    "combine_sum",
    "combine_weighted",
    "effective_gain",
    "measure_weight_factor",
    "strip_rows",
    "sum_contributions",
]

Method = Literal["weighted", "median", "clipped", "sum"]

DEFAULT_MEMORY_LIMIT_BYTES = 1 << 30
_MIN_ROWS = 8
_BYTES_PER_INPUT_PIXEL = 28  # native copy, weight, sky, padded planes, flags and their temporaries


class MemoryLimitError(ValueError):
    """The smallest strip needs more memory than allowed (attributes `needed_bytes`, `limit_bytes`)."""

    def __init__(self, needed_bytes: int, limit_bytes: int) -> None:
        self.needed_bytes, self.limit_bytes = needed_bytes, limit_bytes
        super().__init__(
            f"a strip of {_MIN_ROWS} rows needs {needed_bytes} bytes, the limit is {limit_bytes}: "
            "raise the memory limit, or stack fewer images or a narrower frame"
        )


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


def amp_fractions(seeing_arcsec: ArrayLike, clipping: Clipping = DEFAULT_CLIPPING) -> NDArray[np.float64]:
    """Return the amplitude tolerance of each input for stars of its seeing.

    A star of the same flux peaks higher by the square of the ratio of widths. Against any reference made of these
    inputs the peak of input i is too high by at most (F_max / F_i)^2 - 1 and too low by at most 1 - (F_min / F_i)^2 of
    the reference's; the larger is added to `clipping.amp_fraction` (own derivation). Unknown seeing (NaN) adds nothing.
    """
    seeing = np.asarray(seeing_arcsec, float)
    known = np.isfinite(seeing) & (seeing > 0)
    extra = np.zeros(seeing.shape)
    if known.any():
        widths = seeing[known]
        high, low = np.square(widths.max() / widths) - 1.0, 1.0 - np.square(widths.min() / widths)
        extra[known] = np.maximum(high, low)
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

    Notes
    -----
    `clipped` needs the `seeing_arcsec` of every input: without it stars sharper or wider than the median by more than
    `clipping.amp_fraction` of their peak lose their cores (tens of mmag between 0.6 and 1.2 arcsec).
    """
    if method not in {"weighted", "median", "clipped", "sum"}:
        raise ValueError(f"no method {method!r}: choose weighted, median, clipped or sum")
    for k, item in enumerate(inputs):
        if item.pixel_map.frame_shape != frame.shape:
            raise ValueError(
                f"input {k} is mapped to a frame {item.pixel_map.frame_shape}, not {frame.shape}: map it anew"
            )
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
        planes = clipped_planes(cube, weight, clipping, by_column, first, first + rows.stop - rows.start)
    else:
        planes = {"weighted": weighted_planes, "median": median_planes, "sum": sum_planes}[method](cube, weight)
    image, total, used, tally = planes
    taken = owner >= 0
    sums = [np.bincount(owner[taken], part[taken], minlength=len(amp)).astype(np.float64) for part in tally]
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

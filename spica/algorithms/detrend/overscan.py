"""The electronic zero level of a frame and its read noise, from the strip that no light reached."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d, median_filter

from spica.algorithms.robust import clipped_statistics, mad_rms, native_image

OverscanMethod = Literal["constant", "lines", "polynomial"]

_LINE_KAPPA = 6.0  # a line is replaced beyond so many rms of all lines about their running median
_TREND_DEGREE = 5
_FIT_KAPPA = 4.0
_MIN_PIXELS = 4


@dataclass(frozen=True, eq=False)
class Overscan:
    """Zero level of a frame.

    Attributes
    ----------
    level : ndarray of float32, shape (n,)
        ADU, one value a row (`axis` 1) or a column (`axis` 0) of the frame.
    axis : int
        Axis that the strip was averaged over.
    read_noise_adu : float
        Rms of the pixels of the strip about the mean of their line; NaN where no line has two pixels.
    error_adu : float
        Standard error of `level` from the read noise alone.
    n_replaced : int
        Lines without a pixel, or lifted as a whole (a star that bleeds across the strip), whose level was taken from
        their neighbours.
    """

    level: NDArray[np.float32]
    axis: int
    read_noise_adu: float
    error_adu: float
    n_replaced: int


def measure_overscan(
    strip: ArrayLike,
    axis: int = 1,
    method: OverscanMethod = "lines",
    *,
    smooth_lines: float = 0.0,
    degree: int = 3,
    kappa: float = 4.0,
    window_lines: int = 201,
) -> Overscan:
    """Return the zero level along an overscan strip.

    The level of a line is the mean of its pixels within `kappa` read noises of their median: unlike the median
    itself it is not bound to half integers of the converter. Lines that depart by 6 rms from the running median of
    `window_lines`, plain and about a clipped polynomial, take the latter instead, so a bleeding star may cover almost
    half a window; at the ends it shrinks, and the first ramp of a readout stays. Own derivation.

    Parameters
    ----------
    strip : array_like, shape (ny, nx)
        Overscan pixels in ADU, without the columns next to the data that hold deferred charge; NaN = unusable.
    axis : int
        Axis to average over: 1 for a strip left or right of the data (a level per row), 0 for one above or below.
    method : str
        `constant`: one level; `lines`: one per line; `polynomial`: a Legendre polynomial over the lines, clipped.
    smooth_lines : float
        Sigma of the Gaussian that smooths `lines`, in lines; 0 = none. The linear trend is kept.
    degree : int
        Of the polynomial.

    Raises
    ------
    ValueError
        Unknown method or axis, or no usable pixel.
    """
    if axis not in {0, 1} or method not in {"constant", "lines", "polynomial"}:
        raise ValueError(f"axis {axis!r}, method {method!r}: give axis 0 or 1 and constant, lines or polynomial")
    image = native_image(strip)
    values = np.ascontiguousarray(image if axis == 1 else image.T, dtype=np.float64)
    if np.count_nonzero(np.isfinite(values)) < _MIN_PIXELS:
        raise ValueError(f"strip of shape {image.shape} has no usable pixel; check the overscan section of the profile")
    mean, count, squares = _line_means(values, kappa)
    level, good = _replace_lines(mean, count, _read_noise(squares, count), window_lines)
    noise = _read_noise(squares[good], count[good])
    n_pixels = max(float(count[good].sum()), 1.0)
    if method == "constant":
        level[:] = clipped_statistics(level[good], _FIT_KAPPA).mean
        error = noise / math.sqrt(n_pixels)
    elif method == "polynomial":
        level = _fit_lines(level, good, degree)
        error = noise * math.sqrt(min(degree + 1, level.size) / n_pixels)
    else:
        share = min(1.0, 1.0 / (2.0 * math.sqrt(math.pi) * smooth_lines)) if smooth_lines > 0 else 1.0
        level = _smooth_lines(level, smooth_lines)
        error = noise * math.sqrt(share / max(float(np.median(count)), 1.0))
    return Overscan(level.astype(np.float32), axis, noise, error, int(np.count_nonzero(~good)))


def subtract_overscan(data: ArrayLike, overscan: Overscan, out: NDArray[np.float32] | None = None) -> NDArray:
    """Return the data less the level of each row or column, float32; `out` may be the data themselves.

    Raises
    ------
    ValueError
        When the level is not as long as the data are high (axis 1) or wide (axis 0).
    """
    image = np.asarray(data)
    check_length(overscan, image.shape)
    if out is None:
        out = np.empty(image.shape, np.float32)
    level = overscan.level[:, None] if overscan.axis == 1 else overscan.level[None, :]
    np.subtract(image, level, out=out, dtype=np.float32, casting="unsafe")
    return out


def check_length(overscan: Overscan, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the level fits a frame of this shape."""
    if len(shape) != 2 or overscan.level.size != shape[1 - overscan.axis]:
        raise ValueError(
            f"overscan of {overscan.level.size} lines (axis {overscan.axis}) on data of shape {shape}; "
            "cut strip and data to the same lines"
        )


def _line_means(values: NDArray, kappa: float) -> tuple[NDArray, NDArray, NDArray]:
    """Clipped mean, number of pixels (NaN and 0 without any) and sum of the squared residuals of each line."""
    finite = np.isfinite(values)
    seen = finite.any(axis=1)
    level = np.full(len(values), np.nan)
    level[seen] = np.nanmedian(values[seen], axis=1)
    residual = values - level[:, None]
    noise = clipped_statistics(residual[finite], kappa).rms
    count, squares = finite.sum(axis=1), np.zeros(len(values))
    for _ in range(3):
        keep = finite & (np.abs(residual) <= kappa * noise)
        lost = seen & ~keep.any(axis=1)  # the median of an even line may lie between its pixels
        keep[lost] = finite[lost]
        count = keep.sum(axis=1)
        shift = np.divide(np.where(keep, residual, 0.0).sum(axis=1), count, out=np.zeros(len(values)), where=seen)
        level, residual = level + shift, residual - shift[:, None]
        squares = np.where(keep, np.square(residual), 0.0).sum(axis=1)
        noise = _read_noise(squares[~lost], count[~lost])
        if not noise > 0:
            break
    return level, count, squares


def _read_noise(squares: NDArray, count: NDArray) -> float:
    """Rms of the pixels about the means of their lines; NaN where no line has two."""
    freedom = int(np.maximum(count - 1, 0).sum())
    return math.sqrt(float(squares.sum()) / freedom) if freedom > 0 else math.nan


def _replace_lines(mean: NDArray, count: NDArray, noise: float, window: int) -> tuple[NDArray, NDArray[np.bool_]]:
    """Level with outlying lines replaced, and which lines were kept.

    A line is an outlier where it departs from the running median of the levels, which follows steps, and from that
    about a smooth trend, which follows the crest of a drift; the latter takes its place.
    """
    place, seen = np.arange(mean.size), np.isfinite(mean)
    level = np.interp(place, place[seen], mean[seen])
    expected = noise / math.sqrt(max(float(np.median(count[seen])), 1.0)) if noise > 0 else 0.0
    trend = _fit_lines(level, seen, _TREND_DEGREE)
    about_trend = trend + _running_median(level - trend, window // 2)
    good = np.zeros(mean.size, dtype=np.bool_)
    for running in (_running_median(level, window // 2), about_trend):
        offset = level - running
        good |= seen & (np.abs(offset) <= _LINE_KAPPA * max(mad_rms(offset[seen]), expected))
    if not good.any():
        good = seen
    return np.where(good, level, about_trend), good


def _running_median(level: NDArray, half: int) -> NDArray:
    """Median over up to `half` lines on both sides, fewer towards the ends: exact for whatever rises or falls."""
    running = np.asarray(median_filter(level, size=2 * half + 1, mode="nearest"))
    last = level.size - 1
    for line in {*range(min(half, last + 1)), *range(max(0, last + 1 - half), last + 1)}:
        reach = min(line, last - line, half)
        running[line] = np.median(level[line - reach : line + reach + 1])
    return running


def _fit_lines(level: NDArray, good: NDArray, degree: int) -> NDArray:
    """Clipped least-squares fit of a Legendre polynomial to the good lines."""
    place = np.linspace(-1.0, 1.0, level.size)
    fitted = level
    kept = good
    for _ in range(5):
        coefficients = legendre.legfit(place[kept], level[kept], min(degree, int(kept.sum()) - 1))
        fitted = legendre.legval(place, coefficients)
        residual = np.abs(level - fitted)
        inside = good & (residual <= _FIT_KAPPA * max(mad_rms((level - fitted)[kept]), np.finfo(float).tiny))
        if inside.sum() <= degree + 1 or (inside == kept).all():
            break
        kept = inside
    return np.asarray(fitted)


def _smooth_lines(level: NDArray, sigma: float) -> NDArray:
    """Gaussian smoothing about the straight line through the levels, so that the ends are not flattened."""
    if not sigma > 0 or level.size < 3:
        return level
    place = np.linspace(-1.0, 1.0, level.size)
    trend = legendre.legval(place, legendre.legfit(place, level, 1))
    return np.asarray(trend + gaussian_filter1d(level - trend, sigma, mode="nearest"))

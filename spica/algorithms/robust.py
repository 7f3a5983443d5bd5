"""Robust statistics and the one door by which images enter the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAD_TO_RMS = 1.4826022185056018  # 1 / Phi^-1(3/4): rms of a Gaussian per median absolute deviation
SKEWED = 0.3  # beyond |mean - median| / rms the mode formula no longer holds (Bertin & Arnouts 1996, section 3)


@dataclass(frozen=True, slots=True)
class ClippedStatistics:
    """Statistics after iterative clipping; NaN where no finite value was given.

    Attributes
    ----------
    mean, median, rms : float
        Of the kept values, in the unit of the input; rms about the mean, not corrected for the clipped tails.
    n_used : int
        Number of kept values.
    """

    mean: float
    median: float
    rms: float
    n_used: int


def native_image(data: ArrayLike) -> NDArray[np.float32]:
    """Return an image as C-contiguous native float32; the input itself where it is that already.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Any real dtype, byte order and stride.

    Raises
    ------
    ValueError
        When the array is not two-dimensional or has no pixel.
    """
    image = np.asarray(data)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"an image needs two axes and a pixel, got shape {image.shape}; pass one detector's array")
    return np.ascontiguousarray(image, dtype=np.float32)


def bad_mask(data: NDArray[np.float32], *masks: NDArray | None) -> NDArray[np.bool_]:
    """Return True where a pixel is not finite or any of the given masks (None allowed) is non-zero.

    Raises
    ------
    ValueError
        When a mask has another shape than the image.
    """
    bad = ~np.isfinite(data)
    for mask in masks:
        if mask is None:
            continue
        if mask.shape != data.shape:
            raise ValueError(f"mask of shape {mask.shape} on image of shape {data.shape}; cut both to one frame")
        bad |= mask if mask.dtype == np.bool_ else mask != 0
    return bad


def clipped_statistics(values: ArrayLike, kappa: float = 3.0, max_iterations: int = 10) -> ClippedStatistics:
    """Return mean, median and rms after clipping at kappa rms about the median until nothing changes.

    The first rms is the MAD estimate, so that one far value cannot hide itself. NaN and infinities are left out.

    Raises
    ------
    ValueError
        When kappa is not positive.
    """
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}; usual values are 2.5 to 5")
    kept = _finite(values)
    if kept.size == 0:
        return ClippedStatistics(np.nan, np.nan, np.nan, 0)
    median = float(np.median(kept))
    rms = MAD_TO_RMS * float(np.median(np.abs(kept - median)))
    if rms == 0.0:
        rms = float(kept.std())
    for _ in range(max_iterations):
        inside = np.abs(kept - median) <= kappa * rms
        if inside.all() or not inside.any():
            break
        kept = kept[inside]
        median, rms = float(np.median(kept)), float(kept.std())
    return ClippedStatistics(float(kept.mean()), median, float(kept.std()), int(kept.size))


def mad_rms(values: ArrayLike) -> float:
    """Return 1.4826 times the median absolute deviation of the finite values; NaN where there is none."""
    kept = _finite(values)
    if kept.size == 0:
        return float("nan")
    return MAD_TO_RMS * float(np.median(np.abs(kept - np.median(kept))))


def weighted_median(values: ArrayLike, weights: ArrayLike) -> float:
    """Return the value that halves the total weight (mean of both neighbours at an exact half).

    Pairs with a NaN value or a weight that is not positive are left out; NaN where nothing is left.
    """
    value = np.asarray(values, dtype=np.float64).ravel()
    weight = np.asarray(weights, dtype=np.float64).ravel()
    good = np.isfinite(value) & (weight > 0)
    if not good.any():
        return float("nan")
    order = np.argsort(value[good], kind="stable")
    value, cumulated = value[good][order], np.cumsum(weight[good][order])
    half = 0.5 * cumulated[-1]
    lower = int(np.searchsorted(cumulated, half * (1 - 1e-12)))
    upper = min(int(np.searchsorted(cumulated, half * (1 + 1e-12), side="right")), value.size - 1)
    return float(0.5 * (value[lower] + value[max(upper, lower)]))


def mode_estimate(mean: float, median: float, rms: float) -> float:
    """Return 2.5 median - 1.5 mean, or the median where the distribution is too skewed for it.

    Source: Bertin & Arnouts (1996), section 3, for clipped distributions: mode = 2.5 median - 1.5 mean, while
    |mean - median| < 0.3 rms.
    """
    if rms > 0 and abs(mean - median) < SKEWED * rms:
        return 2.5 * median - 1.5 * mean
    return median


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]

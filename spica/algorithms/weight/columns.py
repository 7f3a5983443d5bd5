"""Hot, dark and dead columns of one exposure."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.robust import mad_rms, native_image

_COLUMN_CLIP = 3.0  # a pixel counts for at most so many rms in the mean of a column
_COLUMN_NEIGHBOURS = 8
_MIN_ROWS = 192  # in a lower image one bright star fills a good part of a column


def find_bad_columns(
    data: ArrayLike,
    noise: float | NDArray,
    *,
    mask: NDArray | None = None,
    sigma: float = 8.0,
    min_offset_sigma: float = 0.3,
    segment_pix: int = 128,
    min_segments: int = 3,
) -> NDArray[np.bool_]:
    """Return True on the columns, or parts of columns, that are hot, dark or dead in one exposure.

    In segments of rows each column gets the mean of (data / noise) clipped at 3: stars, however bright, move it little.
    It is bad where it departs from the median of the columns around it by `sigma` of the scatter of all columns and by
    `min_offset_sigma` of the pixel noise, or where its pixels hardly vary, over `min_segments` segments on end (or all,
    of fewer); smaller offsets are found along the whole column. Own derivation.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Image with the background subtracted.
    noise : float or ndarray
        Rms of the sky; a map is used by its median.
    mask : ndarray, optional
        Non-zero pixels are not looked at.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        All False for images lower than 192 rows, in which stars and columns cannot be told apart.
    """
    image = native_image(data)
    ny, nx = image.shape
    scale = float(np.median(noise)) if np.ndim(noise) else float(noise)
    out = np.zeros((ny, nx), dtype=bool)
    if not scale > 0 or nx < 4 * _COLUMN_NEIGHBOURS or ny < _MIN_ROWS:
        return out
    skip = np.zeros((1, 1), dtype=bool) if mask is None else np.asarray(mask) != 0
    n_segments = max(1, ny // segment_pix)
    edges = np.linspace(0, ny, n_segments + 1).astype(np.int64)
    mean, spread, count = _column_scores(image, skip, np.float32(1.0 / scale), edges)
    offset = mean - _running_median(mean)
    typical = np.median(spread[count > 0]) if (count > 0).any() else 1.0
    bad = np.zeros(mean.shape, dtype=bool)
    for k in range(n_segments):
        seen = count[k] >= 8
        if seen.sum() < 4 * _COLUMN_NEIGHBOURS:
            continue
        scatter = max(mad_rms(offset[k][seen]), typical / math.sqrt(edges[k + 1] - edges[k]))
        high = np.abs(offset[k]) > max(sigma * scatter, min_offset_sigma)
        bad[k] = seen & (high | (spread[k] < 0.2 * typical))
    bad |= _bad_along_whole(offset, count, sigma, min_offset_sigma)
    return _paint_runs(out, bad, edges, min(min_segments, n_segments))


def _bad_along_whole(offset: NDArray, count: NDArray, sigma: float, min_offset: float) -> NDArray[np.bool_]:
    """Columns whose median offset over all segments stands out; finds offsets too small for single segments."""
    seen = (count >= 8).all(axis=0)
    if seen.sum() < 4 * _COLUMN_NEIGHBOURS:
        return np.zeros(offset.shape, dtype=bool)
    middle = np.median(offset, axis=0)
    high = seen & (np.abs(middle) > max(sigma * mad_rms(middle[seen]), min_offset))
    high &= np.percentile(offset * np.sign(middle), 10, axis=0) > 0.3 * np.abs(middle)  # and does not start half way
    return np.broadcast_to(high, offset.shape)


def _running_median(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over the columns within eight of each, without itself and its two neighbours."""
    n = _COLUMN_NEIGHBOURS
    padded = np.pad(mean, ((0, 0), (n, n)), mode="reflect")
    shifts = [k for k in range(-n, n + 1) if abs(k) > 1]
    return np.asarray(np.median([padded[:, n + k : n + k + mean.shape[1]] for k in shifts], axis=0))


def _paint_runs(out: NDArray, bad: NDArray, edges: NDArray, needed: int) -> NDArray[np.bool_]:
    """Mark runs of bad segments along a column that are long enough."""
    for column in np.flatnonzero(bad.any(axis=0)):
        change = np.flatnonzero(np.diff(np.concatenate([[0], bad[:, column].astype(np.int8), [0]])))
        for first, last in zip(change[::2], change[1::2], strict=True):
            if last - first >= needed:
                out[edges[first] : edges[last], column] = True
    return out


@njit(cache=True, nogil=True)
def _column_scores(image, skip, inverse, edges):  # type: ignore[no-untyped-def]
    """Clipped mean and rms of every column in every segment, and the number of pixels."""
    n, nx = edges.size - 1, image.shape[1]
    total, squares, count = np.zeros((n, nx)), np.zeros((n, nx)), np.zeros((n, nx), dtype=np.int64)
    for k in range(n):
        for y in range(edges[k], edges[k + 1]):
            for x in range(nx):
                value = image[y, x] * inverse
                if np.isnan(value) or (skip.shape[0] > 1 and skip[y, x]):
                    continue
                value = min(max(value, -_COLUMN_CLIP), _COLUMN_CLIP)
                total[k, x] += value
                squares[k, x] += value * value
                count[k, x] += 1
        for x in range(nx):
            m = max(count[k, x], 1)
            total[k, x] /= m
            squares[k, x] = np.sqrt(max(squares[k, x] / m - total[k, x] ** 2, 0.0))
    return total, squares, count

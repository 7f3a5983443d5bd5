"""Clipped weighted means of a cube (n, rows, nx), tile by tile; the rule is that of `combine_bias`."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spica.algorithms.robust import MAD_TO_RMS

TILE_ROWS = 32
"""Rows of a tile: its pixels share one typical noise, so strips are whole tiles."""
_BLOCK = 64
_MAX_ROUNDS = 5
_MIN_OWN = 5  # values from which the scatter of a single pixel means something


def order_tables(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected distance of the quartile values of m normal values (Blom 1958), and median of chi2_{m-1} / (m - 1)."""
    quartiles, chi2 = np.full(n + 1, np.inf), np.ones(n + 1)
    for m in range(2, n + 1):
        if m >= _MIN_OWN:
            quartiles[m] = 2.0 * NormalDist().inv_cdf((m - m // 4 - 0.375) / (m + 0.25))
        chi2[m] = MAD_TO_RMS**-2.0 if m == 2 else (1.0 - 2.0 / (9.0 * (m - 1))) ** 3
    return quartiles, chi2


@njit(cache=True, nogil=True, error_model="numpy")
def combine_tiles(cube, noise, kappa, quartiles, chi2, mean, error, n_used, tally):  # type: ignore[no-untyped-def]
    """Combine a strip tile by tile."""
    n, ny, nx = cube.shape
    sort, work, loose = np.empty((n, _BLOCK), np.float32), np.empty((5, _BLOCK)), np.empty(_BLOCK)
    median_noise = 0.5 * np.pi / np.mean(1.0 / noise) ** 2  # square, of one value: of m it is an m-th of that
    centre, limit, typical = np.empty(_BLOCK, np.float32), np.empty(_BLOCK), np.empty(TILE_ROWS * _BLOCK)
    for y0 in range(0, ny, TILE_ROWS):
        for x0 in range(0, nx, _BLOCK):
            y1, x1 = min(ny, y0 + TILE_ROWS), min(nx, x0 + _BLOCK)
            pooled = _pooled_noise(cube, y0, y1, x0, x1, noise, chi2, work, typical)
            for y in range(y0, y1):
                _sort_line(cube, y, x0, x1, sort)
                _first_limits(sort, x1 - x0, pooled, kappa, quartiles, median_noise, centre, limit, loose)
                _mean_line(cube, y, x0, x1, noise, pooled, kappa, centre, limit, loose, work, error)
                weight, total, count = work[0], work[1], work[4]
                for x in range(x1 - x0):
                    good = count[x] > 0.0
                    mean[y, x0 + x] = centre[x] + total[x] / weight[x] if good else np.nan
                    error[y, x0 + x] = error[y, x0 + x] if good else np.nan
                    n_used[y, x0 + x] = np.uint16(count[x])
                if _any_lost(sort, count, x1 - x0):
                    _tally_line(cube, y, x0, x1, noise, centre, limit, loose, tally)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_line(line, centre, limit, loose, r, work):  # type: ignore[no-untyped-def]
    """Add the values of one frame within the limits to the sums: weight, first and second moment, largest, number.

    Limits and the largest are squares of distances in units of noise, `loose` the square of the centre's.
    """
    weight, total, square, worst, count = work[0], work[1], work[2], work[3], work[4]
    w = 1.0 / (r * r)
    for x in range(line.size):
        departure = np.float64(line[x]) - np.float64(centre[x])
        distance = departure * departure / (r * r + loose[x])
        keep = (distance <= limit[x]) & (distance < np.inf)
        value = departure if keep else 0.0
        size = distance if keep else 0.0
        use = w if keep else 0.0
        weight[x] += use
        total[x] += use * value
        square[x] += use * value * value
        worst[x] = size if size > worst[x] else worst[x]
        count[x] += 1.0 if keep else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _pooled_noise(cube, y0, y1, x0, x1, noise, chi2, work, typical):  # type: ignore[no-untyped-def]
    """Typical noise of a value of relative noise 1: median of the sample variances of the pixels; NaN without pairs.

    Every second row is looked at.
    """
    zero, loose, limit, found = np.zeros(_BLOCK, np.float32), np.zeros(_BLOCK), np.full(_BLOCK, np.inf), 0
    for y in range(y0, y1, 2):
        first = cube[0, y, x0:x1]
        for x in range(x1 - x0):
            zero[x] = first[x] if first[x] - first[x] == np.float32(0.0) else np.float32(0.0)
        work[:] = 0.0
        for k in range(cube.shape[0]):
            _add_line(cube[k, y, x0:x1], zero, limit, loose, noise[k], work)
        for x in range(x1 - x0):
            count = int(work[4, x])
            if count > 1:
                scatter = (work[2, x] - work[1, x] * work[1, x] / work[0, x]) / (count - 1)
                typical[found] = max(scatter, 0.0) / chi2[count]
                found += 1
    if found == 0:
        return np.nan
    middle = np.median(typical[:found])
    return np.sqrt(middle if middle > 0.0 else np.mean(typical[:found]))


@njit(cache=True, nogil=True)
def _sort_line(cube, y, x0, x1, sort):  # type: ignore[no-untyped-def]
    """Sort the values of each column by exchanges of whole lines; what is not finite comes last, as infinity."""
    for k in range(cube.shape[0]):
        new, source = sort[k], cube[k, y, x0:x1]
        new[:] = np.float32(np.inf)
        for x in range(source.size):
            new[x] = source[x] if source[x] - source[x] == np.float32(0.0) else np.float32(np.inf)
        for j in range(k, 0, -1):
            low, high = sort[j - 1], sort[j]
            for x in range(_BLOCK):
                a, b = low[x], high[x]
                low[x] = a if a < b else b
                high[x] = b if a < b else a


@njit(cache=True, nogil=True, error_model="numpy")
def _first_limits(sort, width, pooled, kappa, quartiles, median_noise, centre, limit, loose):  # type: ignore[no-untyped-def]
    """Median of each column, and how far from it values of relative noise 1 may lie."""
    for x in range(width):
        m = sort.shape[0]
        while m > 0 and sort[m - 1, x] == np.inf:
            m -= 1
        centre[x], limit[x], loose[x] = 0.0, np.inf, median_noise / max(m, 1)
        if m == 0:
            continue
        low, high = sort[(m - 1) // 2, x], sort[m // 2, x]
        centre[x] = low if high - low > kappa * np.sqrt(2.0) * pooled else low + (high - low) * np.float32(0.5)
        own = (sort[m - 1 - m // 4, x] - sort[m // 4, x]) / quartiles[m]
        wide = kappa * (own if own > pooled else pooled)
        limit[x] = np.inf if np.isnan(wide) else wide * wide


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_line(cube, y, x0, x1, noise, pooled, kappa, centre, limit, loose, work, error):  # type: ignore[no-untyped-def]
    """Sums of the values within the limits, which are narrowed to the scatter of what is kept, and the errors."""
    weight, total, square, worst, count = work[0], work[1], work[2], work[3], work[4]
    for turn in range(_MAX_ROUNDS):
        work[:] = 0.0
        for k in range(cube.shape[0]):
            _add_line(cube[k, y, x0:x1], centre, limit, loose, noise[k], work)
        again = False
        for x in range(x1 - x0):
            scatter = (square[x] - total[x] * total[x] / weight[x]) / (count[x] - 1.0) if count[x] > 1.0 else 0.0
            own = np.sqrt(max(scatter, 0.0))
            error[y, x0 + x] = (own if count[x] > 1.0 else pooled) / np.sqrt(weight[x])
            narrow = kappa * (own if own > pooled and count[x] >= _MIN_OWN else pooled)
            narrow *= narrow
            if worst[x] > narrow and turn < _MAX_ROUNDS - 1:
                limit[x], again = narrow, True
        if not again:
            break


@njit(cache=True, nogil=True)
def _any_lost(sort, count, width):  # type: ignore[no-untyped-def]
    """Whether a column has more finite values than were used."""
    for x in range(width):
        used = int(count[x])
        if used < sort.shape[0] and sort[used, x] < np.inf:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _tally_line(cube, y, x0, x1, noise, centre, limit, loose, tally):  # type: ignore[no-untyped-def]
    """Count the values of each frame that were clipped."""
    for k in range(cube.shape[0]):
        line, lost = cube[k, y, x0:x1], 0
        for x in range(line.size):
            departure = np.float64(line[x]) - np.float64(centre[x])
            size = departure * departure / (noise[k] * noise[k] + loose[x])
            lost += 1 if (size > limit[x]) & (size < np.inf) else 0
        tally[k] += lost

"""Satellite trails in one exposure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.robust import bad_mask, mad_rms, native_image
from spica.algorithms.weight.maps import saturation_mask

_TRAIL_BINS = 256  # longer side of the binned image
_TRAIL_SEGMENTS = 32
_TRAIL_PROFILE_PIX = 48  # half width of the profile across a trail
_TRAIL_CANDIDATES = 8
_MAX_RIDGE_PIX = 20  # at a quarter of the peak; wider are steps of the sky, overscans, haloes
_PROFILE_CLIP = 300.0  # high: a spike must show how it falls away from its star
_EVEN = 0.3  # least ratio of the faintest to the brightest quarter of a trail
_AXIS_DEG = 0.5  # lines this close to rows and columns are readout effects, not trails


@dataclass(frozen=True, slots=True)
class Trail:
    """A straight bright line.

    Attributes
    ----------
    x0, y0, x1, y1 : float
        Its ends in pixels.
    width_pix : float
        Full width that was masked.
    snr : float
        Of the median flux across the line over its segments.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    width_pix: float
    snr: float


def detect_trails(
    data: ArrayLike,
    noise: float | NDArray,
    *,
    mask: NDArray | None = None,
    saturated: NDArray | None = None,
    threshold_sigma: float = 8.0,
    min_filled: float = 0.75,
    max_trails: int = 5,
) -> tuple[NDArray[np.bool_], tuple[Trail, ...]]:
    """Detect the trails of satellites and aeroplanes that cross one exposure.

    A Radon transform of the binned image, each bin clipped so that a star counts no more than a stretch of trail,
    proposes lines; a line is a trail only when its profile stands out in most of its segments and evenly along it,
    which chains of stars, haloes and diffraction spikes do not. Lines along rows and columns belong to the readout. Own
    derivation.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Image with the background subtracted.
    noise : float or ndarray
        Rms of the sky; a map is used by its median.
    mask, saturated : ndarray, optional
        Non-zero pixels are left out; so are the columns that bleed from saturated pixels.
    threshold_sigma : float
        Least significance of the line, in the transform and in its profile.
    min_filled : float
        Share of segments in which the line must be seen.
    max_trails : int
        At most so many.

    Returns
    -------
    mask : ndarray of bool, shape (ny, nx)
    trails : tuple of Trail
    """
    image = native_image(data)
    ny, nx = image.shape
    scale = float(np.median(noise)) if np.ndim(noise) else float(noise)
    out = np.zeros((ny, nx), dtype=bool)
    if not scale > 0 or min(ny, nx) < 64:
        return out, ()
    bad = bad_mask(image, mask)
    if saturated is not None:
        bad |= _bleeding(np.asarray(saturated) != 0)
    size = max(1, math.ceil(max(ny, nx) / _TRAIL_BINS))
    binned, usable = _bin_significance(image, bad, np.float32(1.0 / scale), size)
    binned -= np.median(binned[usable]) if usable.any() else 0.0
    spread = mad_rms(binned[usable]) if usable.any() else 0.0
    if not spread > 0:
        return out, ()
    binned = np.where(usable, np.clip(binned / spread, -3.0, 4.0), 0.0)
    angles = np.arange(0.0, 180.0, 0.4)
    angles = np.radians(angles[np.minimum(angles % 90.0, 90.0 - angles % 90.0) > _AXIS_DEG])
    trails: list[Trail] = []
    score = _line_scores(binned, usable, angles)
    for _ in range(_TRAIL_CANDIDATES):
        line = _best_line(score, angles, 0.65 * threshold_sigma)
        if line is None or len(trails) == max_trails:
            break
        angle, bins = line
        trail = _judge(image, bad, scale, angle, size * (bins + 0.5) - 0.5, 2 * size, threshold_sigma, min_filled)
        if trail is None:
            _suppress(score, angles, angle, bins)
            continue
        trails.append(trail)
        _paint(out, trail)
        _blank(binned, usable, angle, bins, 2.0 + trail.width_pix / size)
        score = _line_scores(binned, usable, angles)
    return out, tuple(trails)


def _bleeding(saturated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Saturated pixels with eight around, and whole columns that hold more than twenty of them."""
    grown = saturation_mask(saturated, 0.5, 8)
    grown[:, np.convolve(saturated.sum(axis=0) > 20, np.ones(7), mode="same") > 0] = True
    return grown


@njit(cache=True, nogil=True)
def _bin_significance(image, bad, inverse, size):  # type: ignore[no-untyped-def]
    """Sum over size x size bins of data / noise, clipped at 10 a pixel, per root of the number of good pixels."""
    ny, nx = image.shape[0] // size, image.shape[1] // size
    out, usable = np.zeros((ny, nx)), np.zeros((ny, nx), dtype=np.bool_)
    for y in range(ny):
        for x in range(nx):
            total, n = 0.0, 0
            for j in range(y * size, (y + 1) * size):
                for i in range(x * size, (x + 1) * size):
                    if not bad[j, i]:
                        total += min(max(image[j, i] * inverse, -5.0), 10.0)
                        n += 1
            if 2 * n >= size * size:
                out[y, x], usable[y, x] = total / np.sqrt(n), True
    return out, usable


def _line_scores(binned: NDArray, usable: NDArray, angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Significance of every line, shape (n_angles, 2 reach + 1), in units of the scatter of all lines (at least 1)."""
    reach = math.ceil(math.hypot(*binned.shape))
    total, count = _radon(binned, usable, np.cos(angles), np.sin(angles), reach)
    long = count > 0.25 * max(binned.shape)
    if not long.any():
        return np.zeros(total.shape)
    score = np.where(long, total / np.sqrt(np.maximum(count, 1)), 0.0)
    centre, spread = float(np.median(score[long])), mad_rms(score[long])
    return np.where(long, (score - centre) / max(spread, 1.0), 0.0)


def _best_line(score: NDArray, angles: NDArray[np.float64], threshold: float) -> tuple[float, float] | None:
    """Normal angle (radians) and distance (bins, from the centre of the first) of the best line, if it passes."""
    best = np.unravel_index(int(np.argmax(score)), score.shape)
    if score[best] < threshold:
        return None
    return float(angles[best[0]]), float(int(best[1]) - score.shape[1] // 2)


def _suppress(score: NDArray, angles: NDArray[np.float64], angle: float, bins: float) -> None:
    """Take the lines like a rejected one out of the scores."""
    near = np.abs(np.sin(angles - angle)) < math.radians(3.0)
    distance = np.abs(np.arange(score.shape[1]) - score.shape[1] // 2)
    score[np.ix_(near, np.abs(distance - abs(bins)) < 8)] = 0.0


@njit(cache=True, nogil=True)
def _radon(binned, usable, cosines, sines, reach):  # type: ignore[no-untyped-def]
    """Sums and counts over lines x cos + y sin = distance, distance from -reach to reach."""
    n = cosines.size
    total, count = np.zeros((n, 2 * reach + 1)), np.zeros((n, 2 * reach + 1))
    for k in range(n):
        for y in range(binned.shape[0]):
            base = y * sines[k] + reach + 0.5
            for x in range(binned.shape[1]):
                if usable[y, x]:
                    i = int(base + x * cosines[k])
                    total[k, i] += binned[y, x]
                    count[k, i] += 1.0
    return total, count


@njit(cache=True, nogil=True)
def _blank(binned, usable, angle, distance, half):  # type: ignore[no-untyped-def]
    """Take a band about a line out of further searching."""
    for y in range(binned.shape[0]):
        for x in range(binned.shape[1]):
            if abs(x * np.cos(angle) + y * np.sin(angle) - distance) <= half:
                usable[y, x] = False


def _chord(shape: tuple[int, int], angle: float, distance: float) -> tuple[float, float] | None:
    """Range of the position t along the line (distance (cos, sin) + t (-sin, cos)) inside the image."""
    low, high = -np.inf, np.inf
    for start, slope, size in (
        (distance * math.cos(angle), -math.sin(angle), shape[1]),
        (distance * math.sin(angle), math.cos(angle), shape[0]),
    ):
        if abs(slope) < 1e-12:
            continue
        a, b = sorted(((-0.5 - start) / slope, (size - 0.5 - start) / slope))
        low, high = max(low, a), min(high, b)
    return (low, high) if high - low > 1.0 else None


def _judge(
    image: NDArray[np.float32],
    bad: NDArray[np.bool_],
    scale: float,
    angle: float,
    distance: float,
    slack: float,
    threshold: float,
    min_filled: float,
) -> Trail | None:
    """Refine a line at full resolution and return it as a trail when it is seen evenly in most of its segments."""
    best: tuple[float, float, float] | None = None
    for turn in np.radians(np.arange(-0.5, 0.51, 0.1)):
        profile = _line_profile(image, bad, scale, angle, distance, turn)
        if profile is None:
            continue
        across = _medians(profile)
        smooth = np.convolve(np.nan_to_num(across), np.ones(5) / 5, mode="same")
        window = int(slack) + 8
        middle = smooth[_TRAIL_PROFILE_PIX - window : _TRAIL_PROFILE_PIX + window + 1]
        peak = float(middle.max())
        if best is None or peak > best[0]:
            best = (peak, float(turn), float(np.argmax(middle) - window))
    if best is None:
        return None
    profile = _line_profile(image, bad, scale, angle, distance, best[1])
    return (
        None
        if profile is None
        else _trail_from(profile, image.shape, angle, distance, *best[1:], threshold, min_filled)
    )


def _line_profile(
    image: NDArray[np.float32], bad: NDArray[np.bool_], scale: float, angle: float, distance: float, turn: float
) -> NDArray[np.float64] | None:
    """Median-like means of data / noise across the line turned about its middle, shape (segments, profile)."""
    chord = _chord(image.shape, angle, distance)
    if chord is None:
        return None
    return np.asarray(
        _sample_profile(image, bad, 1.0 / scale, angle, distance, turn, chord[0], chord[1], _TRAIL_PROFILE_PIX)
    )


@njit(cache=True, nogil=True)
def _sample_profile(image, bad, inverse, angle, distance, turn, low, high, half):  # type: ignore[no-untyped-def]
    """Nearest-pixel means over segments along the line, for offsets -half to half across it; NaN where unseen."""
    middle = 0.5 * (low + high)
    xm = distance * np.cos(angle) - middle * np.sin(angle)
    ym = distance * np.sin(angle) + middle * np.cos(angle)
    ux, uy = -np.sin(angle + turn), np.cos(angle + turn)
    vx, vy = np.cos(angle + turn), np.sin(angle + turn)
    total, count = np.zeros((_TRAIL_SEGMENTS, 2 * half + 1)), np.zeros((_TRAIL_SEGMENTS, 2 * half + 1))
    steps = int(high - low)
    for s in range(steps):
        t = low - middle + s + 0.5
        k = s * _TRAIL_SEGMENTS // steps
        for d in range(-half, half + 1):
            x, y = int(np.floor(xm + t * ux + d * vx + 0.5)), int(np.floor(ym + t * uy + d * vy + 0.5))
            if 0 <= x < image.shape[1] and 0 <= y < image.shape[0] and not bad[y, x]:
                total[k, d + half] += min(max(image[y, x] * inverse, -5.0), _PROFILE_CLIP)
                count[k, d + half] += 1.0
    for k in range(_TRAIL_SEGMENTS):
        for d in range(2 * half + 1):
            total[k, d] = total[k, d] / count[k, d] if count[k, d] >= 1.0 else np.nan
    return total


@njit(cache=True, nogil=True)
def _medians(profile):  # type: ignore[no-untyped-def]
    """Median of the finite values of each column; NaN where there is none."""
    out = np.full(profile.shape[1], np.nan)
    for i in range(profile.shape[1]):
        column = profile[:, i]
        column = column[np.isfinite(column)]
        if column.size > 0:
            out[i] = np.median(column)
    return out


def _means(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the finite values of each row; NaN where there is none."""
    seen = np.isfinite(profile)
    count = seen.sum(axis=1)
    total = np.where(seen, profile, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _trail_from(
    profile: NDArray[np.float64],
    shape: tuple[int, int],
    angle: float,
    distance: float,
    turn: float,
    shift: float,
    threshold: float,
    min_filled: float,
) -> Trail | None:
    """Test the profile of a line: seen in most segments, even along its quarters, narrow."""
    chord = _chord(shape, angle, distance)
    across = _medians(profile)
    sides = np.concatenate([across[: _TRAIL_PROFILE_PIX // 2], across[-_TRAIL_PROFILE_PIX // 2 :]])
    sides, peak_at = sides[np.isfinite(sides)], int(_TRAIL_PROFILE_PIX + shift)
    top = np.nan_to_num(across[max(peak_at - 2, 0) : peak_at + 3], nan=-np.inf)
    if chord is None or sides.size < 8 or top.size == 0:
        return None
    level = float(np.median(sides))
    peak = float(top.max()) - level
    if not 0.0 < peak < np.inf:
        return None
    above = across - level > max(0.25 * peak, 2.0 * mad_rms(sides))
    first, last = _run_around(above, peak_at)
    if last - first >= _MAX_RIDGE_PIX:
        return None
    centre_flux = _means(profile[:, first : last + 1]) - _medians(np.ascontiguousarray(profile.T))
    seen = np.isfinite(centre_flux)
    per_segment = 1.0 / math.sqrt((chord[1] - chord[0]) / _TRAIL_SEGMENTS * (last - first + 1))
    error = max(mad_rms(centre_flux[seen]), per_segment) if seen.any() else np.inf
    snr = float(np.median(centre_flux[seen]) / error * math.sqrt(seen.sum())) if seen.any() else 0.0
    quarters = [
        float(np.median(part[np.isfinite(part)])) for part in np.array_split(centre_flux, 4) if np.isfinite(part).any()
    ]
    filled = float(np.mean(centre_flux[seen] > 2.0 * per_segment)) if seen.any() else 0.0
    even = len(quarters) > 1 and min(quarters) > _EVEN * max(quarters)
    if snr < threshold or filled < min_filled or not even or seen.sum() < 0.5 * _TRAIL_SEGMENTS:
        return None
    middle, length = 0.5 * (chord[0] + chord[1]), chord[1] - chord[0]
    centre = 0.5 * (first + last) - _TRAIL_PROFILE_PIX
    xm = distance * math.cos(angle) - middle * math.sin(angle) + centre * math.cos(angle + turn)
    ym = distance * math.sin(angle) + middle * math.cos(angle) + centre * math.sin(angle + turn)
    dx, dy = -math.sin(angle + turn) * length / 2, math.cos(angle + turn) * length / 2
    width = 2.0 * (last - first + 1) + 2.0
    return Trail(xm - dx, ym - dy, xm + dx, ym + dy, width, snr)


def _run_around(above: NDArray[np.bool_], start: int) -> tuple[int, int]:
    """First and last index of the run of True values that holds the start."""
    first = last = min(max(start, 0), above.size - 1)
    while first > 0 and above[first - 1]:
        first -= 1
    while last < above.size - 1 and above[last + 1]:
        last += 1
    return first, last


def _paint(out: NDArray[np.bool_], trail: Trail) -> None:
    """Mark the band of a trail."""
    length = math.hypot(trail.x1 - trail.x0, trail.y1 - trail.y0)
    nx, ny = (trail.y0 - trail.y1) / length, (trail.x1 - trail.x0) / length
    _paint_band(out, nx, ny, nx * trail.x0 + ny * trail.y0, 0.5 * trail.width_pix)


@njit(cache=True, nogil=True)
def _paint_band(out, normal_x, normal_y, distance, half):  # type: ignore[no-untyped-def]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            if abs(x * normal_x + y * normal_y - distance) <= half:
                out[y, x] = True

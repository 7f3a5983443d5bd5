"""Measures of one source at a time: Kron and circular apertures, half-light radius, windowed position, width.

Follows the definitions of SExtractor 2.25 (Bertin & Arnouts 1996; its manual, chapters on photometry and on windowed
positions): pixels that are bad or belong to another source are replaced by their mirror image about the source (0 where
that is unusable too). All kernels release the GIL and write only to their own output.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spica.algorithms.robust import mad_rms

KRON_SIGMAS = 6.0  # extent, in ellipse units, over which the first moment is taken
CROWDED_FRACTION = 0.1
FLAG_CROWDED, FLAG_BLENDED, FLAG_SATURATED, FLAG_TRUNCATED, FLAG_APERTURE_CUT = 1, 2, 4, 8, 16
_GROWTH_STEPS = 64
_GROWTH_SAMPLING, _APERTURE_SAMPLING, _WINDOW_SAMPLING = 5, 5, 11
_WINDOW_SIGMAS, _WINDOW_ITERATIONS, _WINDOW_STEP_PIX = 4.0, 16, 1e-4
_PIXEL_VARIANCE = 1.0 / 12.0  # of a position inside its pixel; SExtractor adds it to the errors of windowed positions
_HALF_LIGHT_TO_SIGMA, _MIN_HALF_LIGHT_PIX = 2.0 / 2.35, 0.5

# columns of the table that measure_sources fills
KRON, FLUX, FLUX_ERR, HALF_LIGHT, X_WIN, Y_WIN, ERR_X2, ERR_Y2, ERR_XY, SNR_WIN, FWHM, FLAGS, N_COLUMNS = range(13)


@njit(cache=True, nogil=True)
def _mirrored(data, bad, segments, ident, x, y, centre_x, centre_y):  # type: ignore[no-untyped-def]
    """Value of a pixel for one source and whether it had to be replaced."""
    if not bad[y, x] and (segments[y, x] == 0 or segments[y, x] == ident):
        return data[y, x], False
    x2, y2 = math.floor(2.0 * centre_x + 0.49999 - x), math.floor(2.0 * centre_y + 0.49999 - y)
    inside = 0 <= x2 < data.shape[1] and 0 <= y2 < data.shape[0]
    if inside and not bad[y2, x2] and (segments[y2, x2] == 0 or segments[y2, x2] == ident):
        return data[y2, x2], True
    return np.float32(0.0), True


@njit(cache=True, nogil=True)
def _variance(noise, inverse_gain, value, y, x):  # type: ignore[no-untyped-def]
    """Sky variance (noise map, or one value in a 1x1 map) plus photon noise of the source."""
    sigma = noise[y, x] if noise.shape[0] > 1 else noise[0, 0]
    return sigma * sigma + max(value, 0.0) * inverse_gain


@njit(cache=True, nogil=True)
def _inside_fraction(dx, dy, radius, n):  # type: ignore[no-untyped-def]
    """Share of a pixel, by n x n points, within the radius."""
    inside, step = 0, 1.0 / n
    for j in range(n):
        ry2 = (dy + (j + 0.5) * step - 0.5) ** 2
        for i in range(n):
            if ry2 + (dx + (i + 0.5) * step - 0.5) ** 2 < radius * radius:
                inside += 1
    return inside * step * step


@njit(cache=True, nogil=True)
def _box(centre, half, size):  # type: ignore[no-untyped-def]
    """First and last-plus-one index within half of the centre, cut to the image, and whether it was cut."""
    first, last = math.floor(centre - half + 0.499999), math.floor(centre + half + 1.499999)
    return max(first, 0), min(last, size), first < 0 or last > size


@njit(cache=True, nogil=True)
def _kron_radius(data, bad, segments, ident, x0, y0, cxx, cyy, cxy, minimum, factor):  # type: ignore[no-untyped-def]
    """Kron factor in ellipse units, the share of the area lost to others, and whether the image cuts it."""
    half_x = KRON_SIGMAS / math.sqrt(max(cxx - cxy * cxy / (4.0 * cyy), 1e-6))
    half_y = KRON_SIGMAS / math.sqrt(max(cyy - cxy * cxy / (4.0 * cxx), 1e-6))
    xa, xb, cut_x = _box(x0, half_x, data.shape[1])
    ya, yb, cut_y = _box(y0, half_y, data.shape[0])
    moment, total, area, lost = 0.0, 0.0, 0, 0
    for y in range(ya, yb):
        dy = y - y0
        for x in range(xa, xb):
            dx = x - x0
            r2 = cxx * dx * dx + cyy * dy * dy + cxy * dx * dy
            if r2 > KRON_SIGMAS * KRON_SIGMAS:
                continue
            area += 1
            if bad[y, x] or (segments[y, x] != 0 and segments[y, x] != ident):
                lost += 1
                continue
            moment += math.sqrt(r2) * data[y, x]
            total += data[y, x]
    kron = factor * moment / total if moment > 0.0 and total > 0.0 else minimum
    return max(kron, minimum), lost / max(area, 1), cut_x or cut_y


@njit(cache=True, nogil=True)
def _ellipse_flux(data, bad, segments, ident, x0, y0, cxx, cyy, cxy, scale, noise, inverse_gain):  # type: ignore[no-untyped-def]
    """Flux in an ellipse by whole pixels, its error, share of replaced pixels, and whether the image cuts it."""
    half_x = scale / math.sqrt(max(cxx - cxy * cxy / (4.0 * cyy), 1e-6))
    half_y = scale / math.sqrt(max(cyy - cxy * cxy / (4.0 * cxx), 1e-6))
    xa, xb, cut_x = _box(x0, half_x, data.shape[1])
    ya, yb, cut_y = _box(y0, half_y, data.shape[0])
    flux, variance, area, lost = 0.0, 0.0, 0, 0
    for y in range(ya, yb):
        dy = y - y0
        for x in range(xa, xb):
            dx = x - x0
            if cxx * dx * dx + cyy * dy * dy + cxy * dx * dy > scale * scale:
                continue
            value, replaced = _mirrored(data, bad, segments, ident, x, y, x0, y0)
            area += 1
            lost += replaced
            flux += value
            variance += _variance(noise, inverse_gain, value, y, x)
    return flux, math.sqrt(variance), lost / max(area, 1), cut_x or cut_y


@njit(cache=True, nogil=True)
def _circle_flux(data, bad, segments, ident, x0, y0, radius, noise, inverse_gain):  # type: ignore[no-untyped-def]
    """Flux in a circle (5 x 5 points in pixels on the rim), its error, share of replaced pixels, whether cut."""
    xa, xb, cut_x = _box(x0, radius + 0.5, data.shape[1])
    ya, yb, cut_y = _box(y0, radius + 0.5, data.shape[0])
    inner, outer = max(radius - 0.75, 0.0) ** 2, (radius + 0.75) ** 2
    flux, variance, area, lost = 0.0, 0.0, 0.0, 0.0
    for y in range(ya, yb):
        for x in range(xa, xb):
            r2 = (x - x0) ** 2 + (y - y0) ** 2
            if r2 > outer:
                continue
            share = 1.0 if r2 < inner else _inside_fraction(x - x0, y - y0, radius, _APERTURE_SAMPLING)
            if share == 0.0:
                continue
            value, replaced = _mirrored(data, bad, segments, ident, x, y, x0, y0)
            area += share
            lost += share * replaced
            flux += share * value
            variance += share * _variance(noise, inverse_gain, value, y, x)
    return flux, math.sqrt(variance), lost / max(area, 1e-9), cut_x or cut_y


@njit(cache=True, nogil=True)
def _fill_growth(data, bad, segments, ident, x0, y0, density, reach, growth):  # type: ignore[no-untyped-def]
    """Light in rings of width 1 / density out to `reach`, pixels split into 5 x 5."""
    growth[:] = 0.0
    xa, xb, _ = _box(x0, reach + 0.5, data.shape[1])
    ya, yb, _ = _box(y0, reach + 0.5, data.shape[0])
    step = 1.0 / _GROWTH_SAMPLING
    for y in range(ya, yb):
        for x in range(xa, xb):
            if (x - x0) ** 2 + (y - y0) ** 2 > (reach + 0.75) ** 2:
                continue
            part = _mirrored(data, bad, segments, ident, x, y, x0, y0)[0] * step * step
            for j in range(_GROWTH_SAMPLING):
                ry2 = (y - y0 + (j + 0.5) * step - 0.5) ** 2
                for i in range(_GROWTH_SAMPLING):
                    k = int(math.sqrt(ry2 + (x - x0 + (i + 0.5) * step - 0.5) ** 2) * density)
                    if k < _GROWTH_STEPS:
                        growth[k] += part


@njit(cache=True, nogil=True)
def _half_light_radius(data, bad, segments, ident, x0, y0, limit, flux, growth):  # type: ignore[no-untyped-def]
    """Radius of half the flux on a growth curve of 64 steps out to the limit; its inner half first, mostly enough."""
    if flux <= 0.0 or limit <= 0.0:
        return 0.0
    density, half = _GROWTH_STEPS / limit, 0.5 * flux
    for steps in (_GROWTH_STEPS // 2, _GROWTH_STEPS):
        _fill_growth(data, bad, segments, ident, x0, y0, density, steps / density, growth)
        total = 0.0
        for k in range(steps):
            if total + growth[k] >= half:
                return (k + (half - total) / growth[k]) / density
            total += growth[k]
    return limit


@njit(cache=True, nogil=True)
def _window_sums(data, bad, segments, ident, x0, y0, sigma, noise, inverse_gain, sums):  # type: ignore[no-untyped-def]
    """Gaussian-windowed sums about a centre: flux, its variance, first moments, and their variances."""
    radius = _WINDOW_SIGMAS * sigma
    xa, xb, _ = _box(x0, radius + 0.5, data.shape[1])
    ya, yb, _ = _box(y0, radius + 0.5, data.shape[0])
    inner, outer = max(radius - 0.75, 0.0) ** 2, (radius + 0.75) ** 2
    sums[:] = 0.0
    for y in range(ya, yb):
        dy = y - y0
        for x in range(xa, xb):
            dx = x - x0
            r2 = dx * dx + dy * dy
            if r2 > outer:
                continue
            weight = math.exp(-0.5 * r2 / (sigma * sigma))
            if r2 > inner:
                weight *= _inside_fraction(dx, dy, radius, _WINDOW_SAMPLING)
            value, _ = _mirrored(data, bad, segments, ident, x, y, x0, y0)
            variance = weight * weight * _variance(noise, inverse_gain, value, y, x)
            sums[0] += weight * value
            sums[1] += variance
            sums[2] += weight * value * dx
            sums[3] += weight * value * dy
            sums[4] += variance * (dx * dx + _PIXEL_VARIANCE)
            sums[5] += variance * (dy * dy + _PIXEL_VARIANCE)
            sums[6] += variance * dx * dy


@njit(cache=True, nogil=True)
def _windowed_position(data, bad, segments, ident, x0, y0, half_light, noise, inverse_gain, sums, out):  # type: ignore[no-untyped-def]
    """Fill position, covariance 4 sum w^2 s^2 dx dy / (sum w I)^2 and S/N of the Gaussian window."""
    sigma = _HALF_LIGHT_TO_SIGMA * max(half_light, _MIN_HALF_LIGHT_PIX)
    x, y, converging = x0, y0, False
    for _ in range(_WINDOW_ITERATIONS):
        _window_sums(data, bad, segments, ident, x, y, sigma, noise, inverse_gain, sums)
        converging = sums[0] > 0.0
        if not converging:
            break
        step_x, step_y = 2.0 * sums[2] / sums[0], 2.0 * sums[3] / sums[0]
        x, y = x + step_x, y + step_y
        if step_x * step_x + step_y * step_y < _WINDOW_STEP_PIX * _WINDOW_STEP_PIX:
            break
        converging = abs(x - x0) < 4.0 * sigma and abs(y - y0) < 4.0 * sigma
        if not converging:
            break
    if not converging:
        out[X_WIN], out[Y_WIN] = x0, y0
        out[ERR_X2] = out[ERR_Y2] = out[ERR_XY] = np.nan
        out[SNR_WIN] = 0.0
        return
    out[X_WIN], out[Y_WIN] = x, y
    norm = 4.0 / (sums[0] * sums[0])
    out[ERR_X2], out[ERR_Y2], out[ERR_XY] = norm * sums[4], norm * sums[5], norm * sums[6]
    out[SNR_WIN] = sums[0] / math.sqrt(sums[1]) if sums[1] > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _profile_fwhm(data, bad, segments, ident, box, x0, y0, peak):  # type: ignore[no-untyped-def]
    """FWHM of the Gaussian through the source's core: ln I = c - k r^2 over its pixels above a fifth of the peak.

    Own derivation: an error dI is an error dI / I in ln I, so least squares weighs with I^2; FWHM = 2 sqrt(ln 2 / k).
    NaN where fewer than four pixels stand above the limit or the profile does not fall.
    """
    w, wr, wrr, wl, wrl, n = 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for y in range(box[2], box[3] + 1):
        for x in range(box[0], box[1] + 1):
            value = data[y, x]
            if segments[y, x] != ident or bad[y, x] or value <= 0.2 * peak or value <= 0.0:
                continue
            r2, log, weight = (x - x0) ** 2 + (y - y0) ** 2, math.log(value), float(value) * value
            w += weight
            wr += weight * r2
            wrr += weight * r2 * r2
            wl += weight * log
            wrl += weight * r2 * log
            n += 1
    determinant = w * wrr - wr * wr
    if n < 4 or determinant <= 0.0:
        return np.nan
    slope = -(w * wrl - wr * wl) / determinant
    return 2.0 * math.sqrt(math.log(2.0) / slope) if slope > 0.0 else np.nan


@njit(cache=True, nogil=True)
def measure_sources(data, bad, segments, shapes, boxes, radii, noise, inverse_gain, kron_factor, kron_minimum):  # type: ignore[no-untyped-def]
    """Measure every source; source k owns the pixels where segments == k + 1.

    Parameters
    ----------
    data : float32 (ny, nx), sky subtracted; bad : bool (ny, nx); segments : int32 (ny, nx)
    shapes : float64 (n, 7), x, y, cxx, cyy, cxy, semi-major axis, peak
    boxes : int64 (n, 4), x_min, x_max, y_min, y_max, inclusive
    radii : float64 (n_apertures,), pixels
    noise : float32 (ny, nx) or (1, 1); inverse_gain : ADU per electron, 0 without photon noise

    Returns
    -------
    table : float64 (n, N_COLUMNS), apertures : float64 (n, n_apertures, 2) flux and error
    """
    n = shapes.shape[0]
    table, apertures = np.empty((n, N_COLUMNS)), np.empty((n, radii.size, 2))
    growth, sums = np.empty(_GROWTH_STEPS), np.empty(7)
    for k in range(n):
        x0, y0, cxx, cyy, cxy, a, peak = shapes[k]
        ident, out = k + 1, table[k]
        kron, lost, cut_kron = _kron_radius(
            data, bad, segments, ident, x0, y0, cxx, cyy, cxy, kron_minimum, kron_factor
        )
        flux, error, replaced, cut = _ellipse_flux(
            data, bad, segments, ident, x0, y0, cxx, cyy, cxy, kron, noise, inverse_gain
        )
        cut = cut or cut_kron
        out[KRON], out[FLUX], out[FLUX_ERR] = kron, flux, error
        flags = FLAG_CROWDED if max(lost, replaced) > CROWDED_FRACTION else 0
        for i in range(radii.size):
            value, deviation, _, aperture_cut = _circle_flux(
                data, bad, segments, ident, x0, y0, radii[i], noise, inverse_gain
            )
            apertures[k, i, 0], apertures[k, i, 1] = value, deviation
            cut = cut or aperture_cut
        out[FLAGS] = flags + (FLAG_APERTURE_CUT if cut else 0)
        out[HALF_LIGHT] = _half_light_radius(data, bad, segments, ident, x0, y0, kron * a, flux, growth)
        _windowed_position(data, bad, segments, ident, x0, y0, out[HALF_LIGHT], noise, inverse_gain, sums, out)
        out[FWHM] = _profile_fwhm(data, bad, segments, ident, boxes[k], out[X_WIN], out[Y_WIN], peak)
    return table, apertures


@njit(cache=True, nogil=True)
def _empty_sums(data, bad, x, y, radius, wanted):  # type: ignore[no-untyped-def]
    """Sums in the first `wanted` circles that hold no bad pixel."""
    sums, n = np.empty(wanted), 0
    reach = math.ceil(radius + 0.5)
    for k in range(x.size):
        if n == wanted:
            break
        total, clean = 0.0, True
        xc, yc = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        for j in range(max(yc - reach, 0), min(yc + reach + 1, data.shape[0])):
            for i in range(max(xc - reach, 0), min(xc + reach + 1, data.shape[1])):
                share = _inside_fraction(i - x[k], j - y[k], radius, _APERTURE_SAMPLING)
                if share > 0.0:
                    clean = clean and not bad[j, i]
                    total += share * data[j, i]
        if clean:
            sums[n] = total
            n += 1
    return sums[:n]


def aperture_noise(
    data: NDArray[np.float32], mask: NDArray[np.bool_], diameter_pix: float, n: int, rng: np.random.Generator
) -> float:
    """Return the rms of the flux in empty apertures, the true noise where resampling has correlated the pixels.

    Parameters
    ----------
    data : ndarray of float32, shape (ny, nx)
        Image with the sky subtracted.
    mask : ndarray of bool, shape (ny, nx)
        True on sources and bad pixels; no aperture touches one.
    diameter_pix : float
        Diameter of the apertures.
    n : int
        Number of apertures wanted; up to twenty times as many places are tried.
    rng : numpy.random.Generator
        Chooses the places.

    Returns
    -------
    float
        1.4826 MAD of the sums in ADU; NaN where fewer than ten apertures found room.
    """
    radius = 0.5 * diameter_pix
    ny, nx = data.shape
    if not diameter_pix > 0 or n < 1:
        raise ValueError(f"diameter_pix={diameter_pix} and n={n} must be positive; 2 arcsec and 1000 are usual")
    if min(nx, ny) <= 2 * radius + 2:
        return float("nan")
    x = rng.uniform(radius + 0.5, nx - 1.5 - radius, 20 * n)
    y = rng.uniform(radius + 0.5, ny - 1.5 - radius, 20 * n)
    sums = _empty_sums(data, mask, x, y, radius, n)
    return mad_rms(sums) if sums.size >= 10 else float("nan")

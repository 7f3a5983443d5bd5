"""Cosmic rays in one exposure, after the Laplacian edge test of van Dokkum (2001, PASP 113, 1420).

The same two tests (edge significance, edge against fine structure), but lazily: medians and fine structure are made
only at pixels whose edge passes. Later passes look only around what was found, with it replaced by medians. No parallel
loops: detectors run in threads of their own, and the loops release the GIL.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.robust import bad_mask, native_image

_SATURATED_GROUP = 5  # saturated pixels within 5 x 5 that make a bright star or its bleeding, no cosmic ray
_GROW_FRACTION = 0.3  # of sigma, for neighbours of a found pixel
_STAR_MARGIN = 1.4  # on the edge contrast of the sharpest star


def detect_cosmics(
    data: ArrayLike,
    noise: float | NDArray,
    *,
    sigma: float = 5.0,
    contrast: float = 5.0,
    psf_fwhm_pix: float | None = None,
    saturation_adu: float | None = None,
    mask: NDArray | None = None,
    gain_e_per_adu: float | None = None,
    background_adu: float = 0.0,
    passes: int = 3,
) -> NDArray[np.bool_]:
    """Return True on the pixels hit by cosmic rays.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Image in ADU, best with the background subtracted; NaN counts as masked.
    noise : float or ndarray, shape (ny, nx)
        Rms of the sky in ADU.
    sigma : float
        Least significance of the edge.
    contrast : float
        Least ratio of edge to fine structure (both in units of noise); lower finds more and eats sharp stars.
    psf_fwhm_pix : float, optional
        FWHM of stars. The contrast is raised to 1.4 times that of the sharpest star of this width in any place on the
        pixel grid, so that undersampled stars survive; 2 is safe for any image sampled no worse.
    saturation_adu : float, optional
        Level with background from which pixels are saturated; groups of five and more are left to the saturation mask.
    mask : ndarray, optional
        Non-zero pixels are never marked and stand for nothing in the medians.
    gain_e_per_adu : float, optional
        Adds the photon noise of what lies under the pixel (5 x 5 median).
    background_adu : float
        What was subtracted from the data.
    passes : int
        At most so many; hits wider than two pixels need two or three.

    Raises
    ------
    ValueError
        When shapes do not agree or sigma, contrast or passes is not positive.
    """
    image = native_image(data)
    if not (sigma > 0 and contrast > 0 and passes > 0):
        raise ValueError(f"sigma={sigma}, contrast={contrast}, passes={passes} must be positive; 5, 5 and 3 are usual")
    noise_map = np.atleast_2d(np.asarray(noise, dtype=np.float32))
    if noise_map.shape not in {(1, 1), image.shape}:
        raise ValueError(f"noise of shape {noise_map.shape} on image of shape {image.shape}; give one value or a map")
    bad = bad_mask(image, mask)
    ceiling = np.inf if saturation_adu is None else saturation_adu - background_adu
    if psf_fwhm_pix is not None and psf_fwhm_pix > 0:
        contrast = max(contrast, _STAR_MARGIN * star_contrast(psf_fwhm_pix))
    clean = image.copy()
    if bad.any():
        _fill_bad(image, clean, bad)
    inverse_gain = 1.0 / gain_e_per_adu if gain_e_per_adu else 0.0
    return np.asarray(
        _find(image, clean, bad, np.ascontiguousarray(noise_map), sigma, contrast, ceiling, inverse_gain, passes)
    )


def star_contrast(fwhm_pix: float) -> float:
    """Return the largest ratio of Laplacian edge to fine structure of a star, over all places on the pixel grid.

    The star is a Gaussian integrated over pixels, the sharpest profile an optical system of this FWHM gives. Own
    derivation.
    """
    width = fwhm_pix / 2.3548200450309493
    from scipy.special import erf

    edges = np.arange(-8, 9) - 0.5
    largest = 0.0
    for shift_y in np.linspace(0.0, 0.5, 6):
        for shift_x in np.linspace(0.0, shift_y, 3):
            row = np.diff(erf((edges - shift_y) / (np.sqrt(2.0) * width)))
            column = np.diff(erf((edges - shift_x) / (np.sqrt(2.0) * width)))
            largest = max(largest, _contrast_at_peak(np.outer(row, column).astype(np.float32)))
    return largest


@njit(cache=True, nogil=True)
def _contrast_at_peak(stamp):  # type: ignore[no-untyped-def]
    """Largest L / (2 F) over the bright pixels of a noiseless star."""
    best, peak = 0.0, stamp.max()
    buffers = np.empty(9, dtype=np.float32), np.empty(49, dtype=np.float32)
    for y in range(5, stamp.shape[0] - 5):
        for x in range(5, stamp.shape[1] - 5):
            if stamp[y, x] < 0.2 * peak:
                continue
            fine = _fine_structure(stamp, y, x, buffers[0], buffers[1])
            edge = 0.5 * _laplacian(stamp, y, x)
            best = max(best, edge / max(fine, 1e-6 * peak))
    return best


@njit(cache=True, nogil=True)
def _laplacian(image, y, x):  # type: ignore[no-untyped-def]
    """Mean over the four quarters of a pixel of the positive part of 4 p minus its neighbours when split in 2 x 2."""
    ny, nx = image.shape
    p = 2.0 * image[y, x]
    up, down = image[max(y - 1, 0), x], image[min(y + 1, ny - 1), x]
    left, right = image[y, max(x - 1, 0)], image[y, min(x + 1, nx - 1)]
    total = max(p - up - left, 0.0) + max(p - up - right, 0.0)
    return 0.25 * (total + max(p - down - left, 0.0) + max(p - down - right, 0.0))


@njit(cache=True, nogil=True)
def _median(values, n):  # type: ignore[no-untyped-def]
    """Median (upper of two) by partial insertion sort of the first n values, in place."""
    for i in range(1, n):
        value, j = values[i], i - 1
        while j >= 0 and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value
    return values[n // 2]


@njit(cache=True, nogil=True)
def _local_median(image, y, x, half, buffer):  # type: ignore[no-untyped-def]
    """Median of a square, cut at the borders of the image."""
    n = 0
    for j in range(max(y - half, 0), min(y + half + 1, image.shape[0])):
        for i in range(max(x - half, 0), min(x + half + 1, image.shape[1])):
            buffer[n] = image[j, i]
            n += 1
    return _median(buffer, n)


@njit(cache=True, nogil=True)
def _fine_structure(image, y, x, nine, many):  # type: ignore[no-untyped-def]
    """3 x 3 median minus the 7 x 7 median of 3 x 3 medians."""
    n = 0
    for j in range(max(y - 3, 0), min(y + 4, image.shape[0])):
        for i in range(max(x - 3, 0), min(x + 4, image.shape[1])):
            many[n] = _local_median(image, j, i, 1, nine)
            n += 1
    return _local_median(image, y, x, 1, nine) - _median(many, n)


@njit(cache=True, nogil=True)
def _local_noise(image, noise, inverse_gain, y, x, buffer):  # type: ignore[no-untyped-def]
    """Sky noise and photon noise of the 5 x 5 median."""
    sky = noise[y, x] if noise.shape[0] > 1 else noise[0, 0]
    if inverse_gain == 0.0:
        return max(sky, 1e-30)
    return max(np.sqrt(sky * sky + max(_local_median(image, y, x, 2, buffer), 0.0) * inverse_gain), 1e-30)


@njit(cache=True, nogil=True)
def _saturated_group(image, ceiling, y, x):  # type: ignore[no-untyped-def]
    n = 0
    for j in range(max(y - 2, 0), min(y + 3, image.shape[0])):
        for i in range(max(x - 2, 0), min(x + 3, image.shape[1])):
            n += image[j, i] >= ceiling
    return n >= _SATURATED_GROUP


@njit(cache=True, nogil=True)
def _significance(image, scale, y, x, buffer):  # type: ignore[no-untyped-def]
    """Edge over twice the noise, less its 5 x 5 median, which takes out what is smooth in it."""
    n = 0
    for j in range(max(y - 2, 0), min(y + 3, image.shape[0])):
        for i in range(max(x - 2, 0), min(x + 3, image.shape[1])):
            buffer[n] = _laplacian(image, j, i)
            n += 1
    return (_laplacian(image, y, x) - _median(buffer, n)) / (2.0 * scale)


@njit(cache=True, nogil=True)
def _is_hit(image, noise, inverse_gain, sigma, contrast, y, x, nine, many):  # type: ignore[no-untyped-def]
    """Both tests of van Dokkum at one pixel."""
    scale = _local_noise(image, noise, inverse_gain, y, x, many)
    significance = _significance(image, scale, y, x, many)
    if significance <= sigma:
        return False
    fine = max(_fine_structure(image, y, x, nine, many) / scale, 0.01)
    return significance > contrast * fine


@njit(cache=True, nogil=True)
def _find(image, clean, bad, noise, sigma, contrast, ceiling, inverse_gain, passes):  # type: ignore[no-untyped-def]
    """First pass over all pixels, later ones over the surroundings of the last hits."""
    ny, nx = image.shape
    found = np.zeros((ny, nx), dtype=np.bool_)
    nine, many = np.empty(9, dtype=np.float32), np.empty(49, dtype=np.float32)
    hits_y, hits_x = _first_pass(image, clean, bad, noise, sigma, contrast, ceiling, inverse_gain, found)
    for _ in range(passes):
        if hits_y.size == 0:
            break
        hits_y, hits_x = _grow(clean, bad, noise, inverse_gain, sigma, found, hits_y, hits_x, nine, many)
        _replace(image, clean, bad, found, hits_y, hits_x, many)
        next_y, next_x, n = np.empty(25 * hits_y.size, np.int64), np.empty(25 * hits_y.size, np.int64), 0
        for k in range(hits_y.size):
            for y in range(max(hits_y[k] - 2, 0), min(hits_y[k] + 3, ny)):
                for x in range(max(hits_x[k] - 2, 0), min(hits_x[k] + 3, nx)):
                    if found[y, x] or bad[y, x]:
                        continue
                    if _is_hit(clean, noise, inverse_gain, sigma, contrast, y, x, nine, many):
                        found[y, x] = True
                        next_y[n], next_x[n] = y, x
                        n += 1
        hits_y, hits_x = next_y[:n].copy(), next_x[:n].copy()
    return found


@njit(cache=True, nogil=True)
def _first_pass(image, clean, bad, noise, sigma, contrast, ceiling, inverse_gain, found):  # type: ignore[no-untyped-def]
    """Mark the hits of the whole image; return their places."""
    ny, nx = clean.shape
    nine, many = np.empty(9, dtype=np.float32), np.empty(49, dtype=np.float32)
    rows, columns, n = np.empty(1024, np.int64), np.empty(1024, np.int64), 0
    for y in range(ny):
        for x in range(nx):
            sky = noise[y, x] if noise.shape[0] > 1 else noise[0, 0]
            if clean[y, x] <= sigma * sky or bad[y, x] or _laplacian(clean, y, x) <= 2.0 * sigma * sky:
                continue
            if _saturated_group(image, ceiling, y, x):
                continue
            if _is_hit(clean, noise, inverse_gain, sigma, contrast, y, x, nine, many):
                if n == rows.size:
                    rows, columns = np.concatenate((rows, rows)), np.concatenate((columns, columns))
                found[y, x] = True
                rows[n], columns[n] = y, x
                n += 1
    return rows[:n].copy(), columns[:n].copy()


@njit(cache=True, nogil=True)
def _grow(clean, bad, noise, inverse_gain, sigma, found, hits_y, hits_x, nine, many):  # type: ignore[no-untyped-def]
    """Add the eight neighbours of hits whose own edge is above the lower limit; return all hits."""
    ny, nx = clean.shape
    rows, columns, n = np.empty(9 * hits_y.size, np.int64), np.empty(9 * hits_y.size, np.int64), 0
    for k in range(hits_y.size):
        rows[n], columns[n] = hits_y[k], hits_x[k]
        n += 1
        for y in range(max(hits_y[k] - 1, 0), min(hits_y[k] + 2, ny)):
            for x in range(max(hits_x[k] - 1, 0), min(hits_x[k] + 2, nx)):
                if found[y, x] or bad[y, x]:
                    continue
                scale = _local_noise(clean, noise, inverse_gain, y, x, many)
                if _significance(clean, scale, y, x, many) > _GROW_FRACTION * sigma:
                    found[y, x] = True
                    rows[n], columns[n] = y, x
                    n += 1
    return rows[:n].copy(), columns[:n].copy()


@njit(cache=True, nogil=True)
def _fill_bad(image, clean, bad):  # type: ignore[no-untyped-def]
    """Put the median of the good pixels within 5 x 5 in place of bad ones: a hole must not make an edge around it."""
    buffer = np.empty(25, dtype=np.float32)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if not bad[row, column]:
                continue
            n = 0
            for y in range(max(row - 2, 0), min(row + 3, image.shape[0])):
                for x in range(max(column - 2, 0), min(column + 3, image.shape[1])):
                    if not bad[y, x]:
                        buffer[n] = image[y, x]
                        n += 1
            clean[row, column] = _median(buffer, n) if n > 0 else np.float32(0.0)


@njit(cache=True, nogil=True)
def _replace(image, clean, bad, found, hits_y, hits_x, buffer):  # type: ignore[no-untyped-def]
    """Put the median of the untouched pixels within 5 x 5 in place of each hit."""
    for k in range(hits_y.size):
        n = 0
        for y in range(max(hits_y[k] - 2, 0), min(hits_y[k] + 3, image.shape[0])):
            for x in range(max(hits_x[k] - 2, 0), min(hits_x[k] + 3, image.shape[1])):
                if not found[y, x] and not bad[y, x]:
                    buffer[n] = image[y, x]
                    n += 1
        clean[hits_y[k], hits_x[k]] = _median(buffer, n) if n > 0 else np.float32(0.0)

"""Kernels that fit an elliptical Moffat to stars, in numba; see `spica.algorithms.psf`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MIN_BETA, _MAX_BETA = 1.2, 12.0
MAX_STAMP_HALF_PIX = 40
_N_PARAMETERS = 8  # amplitude, x, y, q_xx, q_yy, q_xy, sky, ln beta
_ITERATIONS = 40
_INTEGRATED_PIX = 6.0  # above this FWHM a pixel's integral differs from its centre by less than 0.7 % in FWHM


@njit(cache=True, nogil=True)
def fit_stars(  # type: ignore[no-untyped-def]
    chosen, beta, image, bad, sigma, positions, half, half_light, ceiling, inverse_gain, model_error, integrated
):
    """Fit every star; columns: the eight parameters with beta itself, 1 when converged, reduced chi^2."""
    out = np.zeros((chosen.size, _N_PARAMETERS + 2))
    size = (2 * half + 1) ** 2
    pixels = np.empty((size, 4))  # dx, dy, value, variance
    for k in range(chosen.size):
        star = chosen[k]
        n = _stamp(image, bad, sigma, positions, star, half, ceiling, inverse_gain, model_error, pixels)
        if n < 20:
            continue
        _fit_moffat(pixels[:n], half_light, beta, integrated, out[k])
        out[k, 1] += math.floor(positions[star, 0] + 0.5)
        out[k, 2] += math.floor(positions[star, 1] + 0.5)
    return out


@njit(cache=True, nogil=True)
def _stamp(image, bad, sigma, positions, star, half, ceiling, inverse_gain, model_error, pixels):  # type: ignore[no-untyped-def]
    """Usable pixels of a star: in the circle, not bad, not saturated, and not nearer to a neighbour of note."""
    xs, ys, flux = positions[star]
    xc, yc = math.floor(xs + 0.5), math.floor(ys + 0.5)
    near = np.empty(positions.shape[0], dtype=np.int64)
    n_near = 0
    for j in range(positions.shape[0]):
        close = abs(positions[j, 0] - xs) < 2 * half and abs(positions[j, 1] - ys) < 2 * half
        if j != star and close and positions[j, 2] > 0.003 * flux:
            near[n_near] = j
            n_near += 1
    n = 0
    for y in range(max(yc - half, 0), min(yc + half + 1, image.shape[0])):
        for x in range(max(xc - half, 0), min(xc + half + 1, image.shape[1])):
            r2 = (x - xs) ** 2 + (y - ys) ** 2
            value = image[y, x]
            if r2 > (half + 0.5) ** 2 or bad[y, x] or value >= ceiling:
                continue
            mine = True
            for i in range(n_near):
                j = near[i]
                mine = mine and (x - positions[j, 0]) ** 2 + (y - positions[j, 1]) ** 2 > r2
            if not mine:
                continue
            s = sigma[y, x] if sigma.shape[0] > 1 else sigma[0, 0]
            pixels[n, 0], pixels[n, 1], pixels[n, 2] = x - xc, y - yc, value
            pixels[n, 3] = s * s + max(value, 0.0) * inverse_gain + (model_error * value) ** 2
            if pixels[n, 3] > 0.0 and pixels[n, 3] < np.inf:
                n += 1
    return n


@njit(cache=True, nogil=True)
def _moffat(p, dx, dy, width, integrated, slope):  # type: ignore[no-untyped-def]
    """Value of the model in a pixel and, in `slope`, its derivatives by the eight parameters.

    I = A (1 + q_xx x^2 + 2 q_xy x y + q_yy y^2)^-beta + sky; the integral over a pixel by 2 x 2 Gauss-Legendre points.
    """
    slope[:] = 0.0
    beta = math.exp(p[7])
    x0, y0 = dx - p[1], dy - p[2]
    split = integrated and width < _INTEGRATED_PIX and x0 * x0 + y0 * y0 < (1.5 * width) ** 2
    n_points, offset = (2, 0.28867513459481287) if split else (1, 0.0)
    share, value = 1.0 / (n_points * n_points), 0.0
    for j in range(n_points):
        y = y0 + (2 * j - 1) * offset
        for i in range(n_points):
            x = x0 + (2 * i - 1) * offset
            u = 1.0 + p[3] * x * x + 2.0 * p[5] * x * y + p[4] * y * y
            log_u = math.log(u)
            shape = share * math.exp(-beta * log_u)
            steep = beta * p[0] * shape / u
            value += p[0] * shape
            slope[0] += shape
            slope[1] += steep * 2.0 * (p[3] * x + p[5] * y)
            slope[2] += steep * 2.0 * (p[4] * y + p[5] * x)
            slope[3] -= steep * x * x
            slope[4] -= steep * y * y
            slope[5] -= steep * 2.0 * x * y
            slope[7] -= p[0] * shape * log_u * beta
    slope[6] = 1.0
    return value + p[6]


@njit(cache=True, nogil=True)
def _normal_equations(pixels, p, width, integrated, matrix, vector, slope):  # type: ignore[no-untyped-def]
    """Fill J^T W J and J^T W r; return chi^2."""
    matrix[:] = 0.0
    vector[:] = 0.0
    chi2 = 0.0
    for k in range(pixels.shape[0]):
        residual = pixels[k, 2] - _moffat(p, pixels[k, 0], pixels[k, 1], width, integrated, slope)
        weight = 1.0 / pixels[k, 3]
        chi2 += weight * residual * residual
        for i in range(_N_PARAMETERS):
            vector[i] += weight * residual * slope[i]
            for j in range(i + 1):
                matrix[i, j] += weight * slope[i] * slope[j]
    for i in range(_N_PARAMETERS):
        for j in range(i):
            matrix[j, i] = matrix[i, j]
    return chi2


@njit(cache=True, nogil=True)
def _fit_moffat(pixels, half_light, beta, integrated, out):  # type: ignore[no-untyped-def]
    """Levenberg-Marquardt from a round start; beta 0 leaves the exponent free."""
    p, trial = np.zeros(_N_PARAMETERS), np.zeros(_N_PARAMETERS)
    matrix, vector, slope = np.empty((_N_PARAMETERS, _N_PARAMETERS)), np.empty(_N_PARAMETERS), np.empty(_N_PARAMETERS)
    p[0] = pixels[:, 2].max()
    start_beta = beta if beta > 0.0 else 3.0
    p[7] = math.log(start_beta)
    alpha = max(half_light, 0.8) / math.sqrt(2.0 ** (1.0 / (start_beta - 1.0)) - 1.0)
    p[3] = p[4] = 1.0 / (alpha * alpha)
    damping, width = 1e-2, 2.0 * half_light
    chi2 = _normal_equations(pixels, p, width, integrated, matrix, vector, slope)
    converged = False
    for _ in range(_ITERATIONS):
        damped = matrix.copy()
        for i in range(_N_PARAMETERS):
            damped[i, i] = damped[i, i] * (1.0 + damping) + 1e-30
        if beta > 0.0:
            damped[7, :] = 0.0
            damped[:, 7] = 0.0
            damped[7, 7], vector[7] = 1.0, 0.0
        scale = 1.0 / np.sqrt(np.diag(damped))
        step = scale * np.linalg.solve(damped * scale.reshape(-1, 1) * scale, scale * vector)
        trial[:] = p + step
        trial[7] = min(max(trial[7], math.log(MIN_BETA)), math.log(_MAX_BETA))
        sound = trial[3] > 0.0 and trial[4] > 0.0 and trial[3] * trial[4] > trial[5] ** 2 and trial[0] > 0.0
        new = np.inf
        if sound:
            new = _normal_equations(pixels, trial, width, integrated, matrix, vector, slope)
        if new <= chi2:
            converged = chi2 - new < 1e-4 * chi2 + 1e-9
            p[:], chi2, damping = trial, new, max(damping * 0.2, 1e-7)
            if converged:
                break
        else:
            damping *= 8.0
            _normal_equations(pixels, p, width, integrated, matrix, vector, slope)
            if damping > 1e8:
                break
    inside = abs(p[1]) < 2.0 * half_light + 1.0 and abs(p[2]) < 2.0 * half_light + 1.0
    out[:_N_PARAMETERS] = p
    out[7] = math.exp(p[7])
    out[8] = 1.0 if (converged or damping < 1e8) and inside and np.isfinite(chi2) else 0.0
    out[9] = chi2 / max(pixels.shape[0] - _N_PARAMETERS, 1)

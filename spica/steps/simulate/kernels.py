"""Compiled loops of the renderer; each releases the GIL and adds into an image it is given.

Images are float32 `[y, x]`, positions 0-based pixels. The order of sources is the order of addition, so that the same
sources give the same bits whatever runs beside.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.float32]
Floats: TypeAlias = NDArray[np.float64]

# Gauss-Legendre nodes and weights on [-1/2, 1/2], row k holds the rule of k + 1 points.
NODES = np.zeros((6, 6))
WEIGHTS = np.zeros((6, 6))
for _k in range(6):
    _node, _weight = np.polynomial.legendre.leggauss(_k + 1)
    NODES[_k, : _k + 1] = 0.5 * _node
    WEIGHTS[_k, : _k + 1] = 0.5 * _weight


@njit(nogil=True, cache=True)
def _moffat_pixel(dx, dy, cxx, cxy, cyy, beta, order, nodes, weights):  # type: ignore[no-untyped-def]
    total = 0.0
    for j in range(order):
        v = dy + nodes[order - 1, j]
        row = 0.0
        for i in range(order):
            u = dx + nodes[order - 1, i]
            base = 1.0 + cxx * u * u + cxy * u * v + cyy * v * v
            value = 1.0 / (base * base * base) if beta == 3.0 else base**-beta
            row += weights[order - 1, i] * value
        total += weights[order - 1, j] * row
    return total


@njit(nogil=True, cache=True)
def add_moffats(image, x, y, flux, radius, alpha, beta, shape, core_order, nodes, weights):  # type: ignore[no-untyped-def]
    """Add Moffat stars integrated over pixels by Gauss-Legendre quadrature.

    Parameters
    ----------
    image : float32 (ny, nx), changed in place.
    x, y, flux, radius : float64 (n,): centre (pix), total analytical flux, radius (pix) out to which light is added.
    alpha, beta : Moffat scale (pix, geometric mean of the axes) and exponent.
    shape : (cxx, cxy, cyy) of the quadratic form q = cxx u^2 + cxy u v + cyy v^2 in (1 + q)^-beta, pix^-2.
    core_order : quadrature points per axis within 4 alpha (2 beyond that, 1 beyond 9 alpha).
    nodes, weights : `NODES`, `WEIGHTS`.
    """
    ny, nx = image.shape
    cxx, cxy, cyy = shape
    near, far = 16.0 * alpha * alpha, 81.0 * alpha * alpha
    for k in range(x.size):
        reach = radius[k]
        peak = flux[k] * (beta - 1.0) / (math.pi * alpha * alpha)
        y0, y1 = max(0, math.ceil(y[k] - reach)), min(ny - 1, math.floor(y[k] + reach))
        for j in range(y0, y1 + 1):
            dy = j - y[k]
            half = math.sqrt(max(reach * reach - dy * dy, 0.0))
            x0, x1 = max(0, math.ceil(x[k] - half)), min(nx - 1, math.floor(x[k] + half))
            for i in range(x0, x1 + 1):
                dx = i - x[k]
                r2 = dx * dx + dy * dy
                order = core_order if r2 < near else (2 if r2 < far else 1)
                image[j, i] += peak * _moffat_pixel(dx, dy, cxx, cxy, cyy, beta, order, nodes, weights)


@njit(nogil=True, cache=True)
def add_gaussians(image, x, y, flux, vxx, vxy, vyy):  # type: ignore[no-untyped-def]
    """Add elliptical Gaussians, each out to 5 sigma of its own ellipse.

    Parameters
    ----------
    image : float32 (ny, nx), changed in place.
    x, y, flux : float64 (n,): centre (pix) and total flux.
    vxx, vxy, vyy : float64 (n,): covariance in pix^2, the pixel's own 1/12 included by the caller.

    Along a row the values follow g(i+1) = g(i) r(i), r(i+1) = r(i) exp(-a): one exponential a row, not a pixel.
    """
    ny, nx = image.shape
    for k in range(x.size):
        det = vxx[k] * vyy[k] - vxy[k] * vxy[k]
        a, b, c = vyy[k] / det, -vxy[k] / det, vxx[k] / det
        peak = flux[k] / (2.0 * math.pi * math.sqrt(det))
        reach = 5.0 * math.sqrt(vyy[k])
        y0, y1 = max(0, math.ceil(y[k] - reach)), min(ny - 1, math.floor(y[k] + reach))
        step = math.exp(-a)
        for j in range(y0, y1 + 1):
            dy = j - y[k]
            middle = x[k] - b * dy / a
            room = (25.0 - (c - b * b / a) * dy * dy) / a
            if room <= 0.0:
                continue
            half = math.sqrt(room)
            x0, x1 = max(0, math.ceil(middle - half)), min(nx - 1, math.floor(middle + half))
            dx = x0 - x[k]
            value = peak * math.exp(-0.5 * (a * dx * dx + 2.0 * b * dx * dy + c * dy * dy))
            ratio = math.exp(-0.5 * a - a * dx - b * dy)
            for i in range(x0, x1 + 1):
                image[j, i] += value
                value *= ratio
                ratio *= step


@njit(nogil=True, cache=True)
def add_trail(image, x0, y0, cos_a, sin_a, per_pixel, alpha, beta):  # type: ignore[no-untyped-def]
    """Add a straight trail through (x0, y0) whose profile across is a Moffat integrated along the line.

    The line integral of a Moffat is again a Moffat-like law of exponent beta - 1/2 (own derivation: integrate
    (1 + (s^2 + t^2) / alpha^2)^-beta over t), here scaled so that one pixel of length carries `per_pixel`.
    Returns a mask of pixels that got more than 1 % of the trail's crest.
    """
    ny, nx = image.shape
    mask = np.zeros((ny, nx), dtype=np.bool_)
    norm = math.exp(math.lgamma(beta - 0.5) - math.lgamma(beta - 1.0)) / (math.sqrt(math.pi) * alpha)
    for j in range(ny):
        for i in range(nx):
            s = -(i - x0) * sin_a + (j - y0) * cos_a
            if abs(s) < 25.0 * alpha:
                share = (1.0 + (s / alpha) ** 2) ** (0.5 - beta)
                image[j, i] += per_pixel * norm * share
                mask[j, i] = share > 0.01
    return mask


@njit(nogil=True, cache=True)
def add_tracks(charge, mask, x, y, angle, length, density):  # type: ignore[no-untyped-def]
    """Add cosmic-ray tracks: sharp lines of charge, walked in steps of 0.1 pixel.

    Parameters
    ----------
    charge : float32 (ny, nx) electrons, changed in place; mask : bool (ny, nx), set where a track passed.
    x, y, angle, length, density : float64 (n,): start (pix), direction (rad), length (pix), electrons per pixel length.
    """
    ny, nx = charge.shape
    for k in range(x.size):
        n = max(1, int(length[k] * 10.0))
        for t in range(n):
            i = math.floor(x[k] + 0.1 * t * math.cos(angle[k]) + 0.5)
            j = math.floor(y[k] + 0.1 * t * math.sin(angle[k]) + 0.5)
            if 0 <= i < nx and 0 <= j < ny:
                charge[j, i] += density[k] * max(length[k], 1.0) / n
                mask[j, i] = True


@njit(nogil=True, cache=True)
def draw_photons(mean, normal, shift):  # type: ignore[no-untyped-def]
    """Turn mean electrons into noisy ones in place, for means above 50: a normal with the Poisson's third moment.

    x = m + sqrt(m) z + (z^2 - 1) / 6, rounded (the first Cornish-Fisher term): mean and skewness of the Poisson law,
    variance larger by 1/18 + 1/12 of an electron squared, 0.3 % at m = 50. Lower means are left to the caller.
    """
    ny, nx = mean.shape
    for j in range(ny):
        for i in range(nx):
            m = mean[j, i] + shift
            if m > 50.0:
                z = normal[j, i]
                mean[j, i] = max(0.0, math.floor(m + math.sqrt(m) * z + (z * z - 1.0) / 6.0 + 0.5))


@njit(nogil=True, cache=True)
def digitise(electrons, normal, read_noise, gain, bias, saturation, out):  # type: ignore[no-untyped-def]
    """Add read noise, divide by the gain, add the bias, round and clip to [0, saturation] into uint16 `out`."""
    ny, nx = electrons.shape
    for j in range(ny):
        for i in range(nx):
            value = (electrons[j, i] + read_noise * normal[j, i]) / gain + bias
            out[j, i] = np.uint16(min(max(math.floor(value + 0.5), 0.0), saturation))


@njit(nogil=True, cache=True)
def bleed_columns(electrons, full_well):  # type: ignore[no-untyped-def]
    """Let charge above the full well run up and down its column, in place; what leaves the detector is lost."""
    ny, nx = electrons.shape
    for i in range(nx):
        for j in range(ny):
            excess = electrons[j, i] - full_well
            if excess <= 0.0:
                continue
            electrons[j, i] = full_well
            for sign in (-1, 1):
                left = 0.5 * excess
                t = j + sign
                while left > 0.0 and 0 <= t < ny:
                    room = full_well - electrons[t, i]
                    if room > 0.0:
                        moved = min(room, left)
                        electrons[t, i] += moved
                        left -= moved
                    t += sign

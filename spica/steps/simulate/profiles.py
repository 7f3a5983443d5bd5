"""Light profiles as sums of Gaussians: Moffat, exponential and de Vaucouleurs, each of total flux 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianSum:
    """A round profile as a sum of Gaussians.

    Attributes
    ----------
    fraction : float64 (k,), share of the total flux, sums to 1.
    sigma : float64 (k,), in units of the profile's own scale (Moffat: alpha; galaxies: half-light radius).
    """

    fraction: Floats
    sigma: Floats


def moffat_alpha(fwhm: float, beta: float) -> float:
    """Return the scale alpha of I(r) = (beta - 1) / (pi alpha^2) (1 + r^2 / alpha^2)^-beta from its FWHM.

    Source: Moffat 1969, A&A 3, 455: alpha = FWHM / (2 sqrt(2^(1/beta) - 1)).
    """
    return fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))


def moffat_lost_fraction(radius: float, alpha: float, beta: float) -> float:
    """Return the share of a Moffat's total flux outside a radius: (1 + r^2 / alpha^2)^(1 - beta)."""
    return (1.0 + (radius / alpha) ** 2) ** (1.0 - beta)


def _fit_gaussians(radius: Floats, intensity: Floats, sigma: Floats) -> GaussianSum:
    """Fit non-negative Gaussians to a profile, weighted to even relative error per ring of light."""
    weight = radius * np.sqrt(intensity / np.max(intensity)) / (radius + 0.3) / np.maximum(intensity, 1e-12)
    basis = np.exp(-0.5 * (radius[:, None] / sigma) ** 2) / (2.0 * math.pi * sigma**2)
    amount, _ = nnls(basis * weight[:, None], intensity * weight)
    kept = amount > 1e-4 * amount.sum()
    return GaussianSum(amount[kept] / amount[kept].sum(), sigma[kept])


@lru_cache(maxsize=32)
def moffat_gaussians(beta: float) -> GaussianSum:
    """Return a Moffat profile (scale alpha = 1) as Gaussians, good to about 1 % of the peak."""
    radius = np.geomspace(0.02, 9.0, 120)
    intensity = (beta - 1.0) / math.pi * (1.0 + radius**2) ** -beta
    return _fit_gaussians(radius, intensity, np.geomspace(0.3, 5.0, 6))


@lru_cache(maxsize=1)
def exponential_gaussians() -> GaussianSum:
    """Return I(r) = exp(-1.67835 r / r_half) as Gaussians (Sersic 1968, n = 1)."""
    radius = np.geomspace(0.02, 5.0, 120)
    return _fit_gaussians(radius, np.exp(-1.67835 * radius), np.geomspace(0.08, 1.6, 6))


@lru_cache(maxsize=1)
def de_vaucouleurs_gaussians() -> GaussianSum:
    """Return I(r) = exp(-7.66925 ((r / r_half)^(1/4) - 1)) as Gaussians, cut at 6 half-light radii.

    Source: de Vaucouleurs 1948, Ann. d'Astrophys. 11, 247. The flux beyond the cut is left out and the rest
    scaled to 1, so that half of the light lies within a slightly smaller radius than nominal.
    """
    radius = np.geomspace(0.01, 6.0, 160)
    return _fit_gaussians(radius, np.exp(-7.66925 * (radius**0.25 - 1.0)), np.geomspace(0.03, 3.0, 8))

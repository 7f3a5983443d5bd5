"""The simulated sky: stars and galaxies with positions, motions, shapes and a magnitude in each filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spica.model.errors import RecipeError
from spica.reference.catalogue import separation_deg
from spica.steps.simulate.plan import find_filter, offset_position

Floats: TypeAlias = NDArray[np.float64]

MAX_SOURCES = 5_000_000


@dataclass(frozen=True)
class SkyModel:
    """Every source of the simulated sky, arrays of one length n.

    Attributes
    ----------
    ids : int64, unique.
    ra_deg, dec_deg : float64, positions at `epoch_yr`.
    pm_ra_masyr, pm_dec_masyr : float64 proper motions (RA times cos dec); 0 for galaxies.
    epoch_yr : Julian epoch of the positions.
    is_star : bool.
    half_light_arcsec : float64 half-light radius along the major axis before the seeing; 0 for stars.
    axis_ratio, position_angle_deg : float64, b/a and angle of the major axis, north through east; 1 and 0 for stars.
    is_de_vaucouleurs : bool, r^(1/4) profile where true, exponential else; False for stars.
    mags : filter -> float64 AB magnitudes.
    """

    ids: NDArray[np.int64]
    ra_deg: Floats
    dec_deg: Floats
    pm_ra_masyr: Floats
    pm_dec_masyr: Floats
    epoch_yr: float
    is_star: NDArray[np.bool_]
    half_light_arcsec: Floats
    axis_ratio: Floats
    position_angle_deg: Floats
    is_de_vaucouleurs: NDArray[np.bool_]
    mags: Mapping[str, Floats]

    def __len__(self) -> int:
        """Return the number of sources."""
        return len(self.ids)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> SkyModel:
        """Return the sources of an index or mask, in its order."""
        return SkyModel(
            self.ids[index],
            self.ra_deg[index],
            self.dec_deg[index],
            self.pm_ra_masyr[index],
            self.pm_dec_masyr[index],
            self.epoch_yr,
            self.is_star[index],
            self.half_light_arcsec[index],
            self.axis_ratio[index],
            self.position_angle_deg[index],
            self.is_de_vaucouleurs[index],
            {name: values[index] for name, values in self.mags.items()},
        )

    def positions_at(self, epoch_yr: float) -> tuple[Floats, Floats]:
        """Return (ra_deg, dec_deg) moved to an epoch; linear in time, good for decades away from the poles."""
        years = epoch_yr - self.epoch_yr
        dec = self.dec_deg + self.pm_dec_masyr * years / 3.6e6
        ra = self.ra_deg + self.pm_ra_masyr * years / 3.6e6 / np.maximum(np.cos(np.radians(self.dec_deg)), 1e-9)
        return ra % 360.0, dec

    def within(self, ra_deg: float, dec_deg: float, radius_deg: float) -> SkyModel:
        """Return the sources of a cone."""
        return self.take(separation_deg(self.ra_deg, self.dec_deg, ra_deg, dec_deg) <= radius_deg)


def draw_magnitudes(n: int, bright: float, faint: float, slope: float, rng: np.random.Generator) -> Floats:
    """Draw `n` magnitudes whose number per magnitude grows as 10^(slope m) between two limits.

    Source: inverse of the integrated law (own derivation): with q = 10^(slope m),
    q = q1 + u (q2 - q1), u uniform in [0, 1).
    """
    if slope == 0:
        return rng.uniform(bright, faint, n)
    low, high = 1.0, 10.0 ** (slope * (faint - bright))
    return bright + np.log10(low + rng.random(n) * (high - low)) / slope


def draw_sky(
    ra_deg: float,
    dec_deg: float,
    radius_arcsec: float,
    filters: Sequence[str],
    rng: np.random.Generator,
    *,
    stars_per_arcmin2: float = 15.0,
    galaxies_per_arcmin2: float = 8.0,
    star_mags: tuple[float, float] = (14.5, 23.5),
    galaxy_mags: tuple[float, float] = (17.0, 24.0),
    star_slope: float = 0.17,
    galaxy_slope: float = 0.38,
    proper_motion_masyr: float = 3.0,
    epoch_yr: float = 2026.5,
    first_id: int = 1,
) -> SkyModel:
    """Draw stars and galaxies uniformly over a square of half side `radius_arcsec` around a position.

    Parameters
    ----------
    ra_deg, dec_deg : centre.
    radius_arcsec : half side of the square in the tangent plane.
    filters : canonical filter names to give magnitudes in.
    rng : source of randomness.
    stars_per_arcmin2, galaxies_per_arcmin2 : surface densities.
    star_mags, galaxy_mags : (bright, faint) limits in r.
    star_slope, galaxy_slope : d log10 N / dm.
    proper_motion_masyr : rms per axis of the stars; 0 nails them to the sky.
    epoch_yr, first_id : epoch of the positions; number of the first source.

    Raises
    ------
    RecipeError : too many sources, an unknown filter.
    """
    area = (2.0 * radius_arcsec / 60.0) ** 2
    expected = area * (stars_per_arcmin2 + galaxies_per_arcmin2)
    if not 0 <= expected <= MAX_SOURCES:
        raise RecipeError(f"the field would hold {expected:.0f} sources, at most {MAX_SOURCES}; lower density or size")
    n_stars, n_galaxies = int(rng.poisson(area * stars_per_arcmin2)), int(rng.poisson(area * galaxies_per_arcmin2))
    n = n_stars + n_galaxies
    is_star = np.arange(n) < n_stars
    east, north = rng.uniform(-radius_arcsec, radius_arcsec, (2, n))
    places = [offset_position(ra_deg, dec_deg, float(e), float(m)) for e, m in zip(east, north, strict=True)]
    ra, dec = np.array(places, dtype=np.float64).reshape(n, 2).T
    motion = np.where(is_star, rng.normal(0.0, 1.0, (2, n)) * proper_motion_masyr, 0.0)
    r_mag = np.concatenate(
        [
            draw_magnitudes(n_stars, *star_mags, star_slope, rng),
            draw_magnitudes(n_galaxies, *galaxy_mags, galaxy_slope, rng),
        ]
    )
    colour = np.where(is_star, rng.gamma(4.0, 0.2, n), rng.normal(0.75, 0.3, n))
    colour = np.clip(colour, -0.3, 2.0)
    size = 1.1 * 10.0 ** (-0.13 * (r_mag - 20.0)) * rng.lognormal(0.0, 0.35, n)
    size = np.where(is_star, 0.0, np.clip(size, 0.15, 4.0))
    ratio = np.where(is_star, 1.0, rng.uniform(0.3, 1.0, n))
    angle = np.where(is_star, 0.0, rng.uniform(0.0, 180.0, n))
    bulge = ~is_star & (rng.random(n) < 0.3)
    mags = {name: r_mag + find_filter(name).colour_slope * colour for name in filters}
    ids = np.arange(first_id, first_id + n, dtype=np.int64)
    return SkyModel(ids, ra, dec, motion[0], motion[1], epoch_yr, is_star, size, ratio, angle, bulge, mags)


def join_skies(parts: Sequence[SkyModel]) -> SkyModel:
    """Join skies of one epoch and one set of filters into one.

    Raises
    ------
    ValueError : nothing to join, or epochs differ.
    """
    if not parts or len({part.epoch_yr for part in parts}) != 1:
        raise ValueError("join_skies needs skies of one epoch; draw them with the same epoch_yr")
    return SkyModel(
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.ra_deg for p in parts]),
        np.concatenate([p.dec_deg for p in parts]),
        np.concatenate([p.pm_ra_masyr for p in parts]),
        np.concatenate([p.pm_dec_masyr for p in parts]),
        parts[0].epoch_yr,
        np.concatenate([p.is_star for p in parts]),
        np.concatenate([p.half_light_arcsec for p in parts]),
        np.concatenate([p.axis_ratio for p in parts]),
        np.concatenate([p.position_angle_deg for p in parts]),
        np.concatenate([p.is_de_vaucouleurs for p in parts]),
        {name: np.concatenate([p.mags[name] for p in parts]) for name in parts[0].mags},
    )

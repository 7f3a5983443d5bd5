"""Zero points of the ensemble from the stars that the astrometric solution has in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry import AstrometrySolution, pixel_to_sky
from spica.algorithms.astrometry.associate import associate_stars
from spica.algorithms.photometry import PhotometryParameters, ZeroPointSolution, solve_zero_points
from spica.algorithms.skymap import unit_vectors
from spica.reference.catalogue import ReferenceCatalogue
from spica.steps.astrometry.given import Given
from spica.steps.base import StepContext

SEEING_APERTURES = 3.0
"""The aperture of the zero points holds at least so many FWHM."""
FIELD_APERTURE_ARCSEC = 3.7
MIN_RADIUS_ARCSEC = 0.5


@dataclass(frozen=True)
class Photometry:
    """Zero points with what they were measured in; exposures are in the order given."""

    solution: ZeroPointSolution
    aperture_arcsec: float | None
    band: str | None
    mag_system: str | None


def solve_photometry(
    context: StepContext,
    given: list[Given],
    astrometry: AstrometrySolution,
    catalogue: ReferenceCatalogue | None,
    band: str | None,
) -> Photometry:
    """Solve relative and, where a reference has the band, absolute zero points of the solved exposures."""
    recipe = context.recipe.photometry
    vectors, exposure, rows = _sky_positions(given, astrometry)
    usable = np.concatenate([g.clean() for g in given])[rows]
    radius = _radius_arcsec(given)
    known = np.zeros((0, 3)) if catalogue is None else unit_vectors(catalogue.ra_deg, catalogue.dec_deg)
    stars = associate_stars(vectors, exposure, known, np.radians(radius / 3600.0))
    aperture, flux, error = _fluxes(context, given)
    mag, mag_error = _reference_mags(catalogue, band, stars.reference, recipe.offset_mag)
    if mag is not None and np.count_nonzero(np.isfinite(mag[_seen(stars.star, usable)])) < recipe.min_reference:
        mag, mag_error = None, None  # too few for an absolute zero point: it is relative
    nominal = given[0].sheet.nominal_zero_point_mag
    solution = solve_zero_points(
        flux[rows],
        error[rows],
        np.array([max(float(g.sheet.exposure.exptime_s or 0.0), 1e-3) for g in given]),
        exposure,
        stars.star,
        usable=usable,
        reference_mag=mag,
        reference_error_mag=mag_error,
        parameters=PhotometryParameters(
            target_zero_point_mag=context.recipe.stack.zero_point_mag,
            nominal_zero_point_mag=float("nan") if nominal is None else nominal,
            clip_sigma=recipe.clip_sigma,
            max_error_mag=1.0857 / recipe.min_snr,
        ),
    )
    own = catalogue.mag_system if catalogue is not None else None
    system = (recipe.target_system or own) if solution.is_absolute else None
    return Photometry(solution, aperture, band if solution.is_absolute else None, system or None)


def _seen(star: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the stars that have a usable detection, each once; -1 is none."""
    found = np.unique(star[usable])
    return found[found >= 0]


def _sky_positions(
    given: list[Given], astrometry: AstrometrySolution
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return unit vectors, exposure and row of every source, by the solution."""
    vectors, exposures, rows = [], [], []
    offset = 0
    for i, g in enumerate(given):
        for d in range(len(g.sheet.detectors)):
            here = np.flatnonzero(g.detector == d)
            solution = astrometry.detector_solution(g.item, d)
            ra, dec = pixel_to_sky(solution, g.sources["x_win"][here], g.sources["y_win"][here])
            good = np.isfinite(ra) & np.isfinite(dec)
            vectors.append(unit_vectors(ra[good], dec[good]))
            rows.append(offset + here[good])
            exposures.append(np.full(int(good.sum()), i, np.int64))
        offset += len(g.sources)
    return np.concatenate(vectors), np.concatenate(exposures), np.concatenate(rows)


def _radius_arcsec(given: list[Given]) -> float:
    scale = float(np.median([d.pixel_scale_arcsec or 0.3 for g in given for d in g.sheet.detectors]))
    return max(MIN_RADIUS_ARCSEC, 1.0 * scale)


def _fluxes(context: StepContext, given: list[Given]) -> tuple[float | None, NDArray[np.float64], NDArray[np.float64]]:
    """Return the aperture (None: Kron) and the fluxes of all sources in it."""
    tables = [g.sources for g in given]
    wanted = context.recipe.photometry.aperture_arcsec
    if wanted <= 0:
        fwhm = np.concatenate([t["fwhm_pix"][g.clean()] for g, t in zip(given, tables, strict=True)])
        scale = given[0].sheet.detectors[0].pixel_scale_arcsec or 1.0
        seeing = float(np.nanmedian(fwhm)) * scale if fwhm.size else 1.0
        wanted = max(FIELD_APERTURE_ARCSEC, SEEING_APERTURES * seeing)
    sizes = np.array(given[0].apertures_arcsec)
    has_apertures = all(
        "flux_aper" in (t.dtype.names or ()) and t["flux_aper"].shape[1:] == sizes.shape for t in tables
    )
    if not has_apertures:
        return (
            None,
            np.concatenate([t["flux_auto"] for t in tables]),
            np.concatenate([t["fluxerr_auto"] for t in tables]),
        )
    large = np.flatnonzero(sizes >= wanted * 0.999)
    index = int(large[0]) if large.size else len(sizes) - 1
    flux = np.concatenate([t["flux_aper"][:, index] for t in tables]).astype(float)
    error = np.concatenate([t["fluxerr_aper"][:, index] for t in tables]).astype(float)
    return float(sizes[index]), flux, error


def _reference_mags(
    catalogue: ReferenceCatalogue | None, band: str | None, rows: NDArray[np.int64], offset_mag: float
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return magnitude and error for each star, NaN where the reference has none; None without a band."""
    if band is None or catalogue is None:
        return None, None
    mag, error = catalogue.band(band)
    known = rows >= 0
    take = np.where(known, rows, 0)
    if not len(mag):
        return None, None
    return np.where(known, mag[take] + offset_mag, np.nan), np.where(known, error[take], np.nan)

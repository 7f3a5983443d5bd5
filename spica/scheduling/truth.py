"""Stacks of a simulated survey against its truth: seeing, zero point, positions, depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from spica.algorithms.neighbours import match_nearest
from spica.algorithms.skymap import tangent_project
from spica.files.catalogue import read_catalogue
from spica.steps.simulate import ExposureTruth, SurveyTruth

ISOLATION_ARCSEC = 6.0
MATCH_ARCSEC = 1.0
BRIGHT_MAG, FAINT_MAG = 16.5, 20.0
FIELD_APERTURE = 2
"""Place of the 3.7 arcsec aperture among those of the catalogue."""
LIMIT_SIGMA, LIMIT_APERTURE_ARCSEC = 5.0, 2.0


@dataclass(frozen=True)
class Comparison:
    """One stack against truth; NaN where there is nothing to compare.

    Of isolated stars of 16.5 to 20 mag: `zero_point_offset_mag` is the median of measured minus true magnitudes
    (MAG_APER 3.7 arcsec), `mag_rms` their scatter about it, `position_rms_mas` the rms per axis without any correction.
    """

    name: str
    n_inputs: int
    n_stars: int
    seeing_arcsec: float
    true_seeing_arcsec: float
    zero_point_offset_mag: float
    mag_rms: float
    position_rms_mas: float
    position_offset_mas: float
    limiting_mag: float
    true_limiting_mag: float


def compare_stack(
    name: str,
    catalogue_path: Path,
    truth: SurveyTruth,
    inputs: dict[str, tuple[float, float]],
    seeing_arcsec: float | None,
    limiting_mag: float | None,
) -> Comparison:
    """Compare one stack with truth; `inputs` gives for each exposure's name its share of weight and its flux scale."""
    exposures = [(truth.exposure(n), share, scale) for n, (share, scale) in inputs.items()]
    table = read_catalogue(catalogue_path)
    filter_name = exposures[0][0].plan.filter_name
    epoch = float(np.average([e.plan.epoch_yr for e, _, _ in exposures], weights=[s for _, s, _ in exposures]))
    d_ra, d_dec, d_mag = star_residuals(table, truth, filter_name, epoch)
    rms = float(np.sqrt(0.5 * (clipped_rms(d_ra) ** 2 + clipped_rms(d_dec) ** 2)))
    return Comparison(
        name=name,
        n_inputs=len(inputs),
        n_stars=len(d_mag),
        seeing_arcsec=_number(seeing_arcsec),
        true_seeing_arcsec=true_seeing(exposures),
        zero_point_offset_mag=float(np.median(d_mag)) if len(d_mag) else math.nan,
        mag_rms=clipped_rms(d_mag - np.median(d_mag)) if len(d_mag) else math.nan,
        position_rms_mas=rms,
        position_offset_mas=float(np.hypot(np.median(d_ra), np.median(d_dec))) if len(d_ra) else math.nan,
        limiting_mag=_number(limiting_mag),
        true_limiting_mag=true_limit(exposures, truth),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def star_residuals(
    table: NDArray[np.void], truth: SurveyTruth, filter_name: str, epoch_yr: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return east and north residuals (mas) and magnitude residuals of isolated, unflagged stars of 16.5 to 20 mag."""
    ra, dec = truth.sky.positions_at(epoch_yr)
    mag = truth.sky.mags[filter_name]
    wanted = truth.sky.is_star & (mag >= BRIGHT_MAG) & (mag <= FAINT_MAG) & isolated(ra, dec, mag)
    clean = table[(table["FLAGS"] == 0)]
    found = match_nearest(ra[wanted], dec[wanted], clean["ALPHAWIN_J2000"], clean["DELTAWIN_J2000"], MATCH_ARCSEC)
    t_ra, t_dec, t_mag = ra[wanted][found.index1], dec[wanted][found.index1], mag[wanted][found.index1]
    m = clean[found.index2]
    d_ra = (m["ALPHAWIN_J2000"] - t_ra + 180.0) % 360.0 - 180.0
    return (
        d_ra * np.cos(np.radians(t_dec)) * 3.6e6,
        (m["DELTAWIN_J2000"] - t_dec) * 3.6e6,
        m["MAG_APER"][:, FIELD_APERTURE].astype(float) - t_mag,
    )


def isolated(ra: NDArray[np.float64], dec: NDArray[np.float64], mag: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which objects have no neighbour within 6 arcsec that is brighter than 4 mag fainter than they are."""
    xi, eta = tangent_project(ra, dec, float(ra[0]), float(dec[0]))
    good = np.isfinite(xi) & np.isfinite(eta)
    points = np.column_stack([np.where(good, xi, 1e6 + np.arange(len(ra))), np.where(good, eta, 1e6)]) * 3600.0
    tree = cKDTree(points)
    pairs = tree.query_pairs(ISOLATION_ARCSEC, output_type="ndarray")
    alone = np.ones(len(ra), bool)
    for a, b in ((0, 1), (1, 0)):
        alone[pairs[mag[pairs[:, b]] < mag[pairs[:, a]] + 4.0, a]] = False
    return alone


def clipped_rms(values: NDArray[np.float64], kappa: float = 4.0) -> float:
    """Return the rms about zero after clipping at 4 robust sigma."""
    if not len(values):
        return math.nan
    scale = 1.4826 * float(np.median(np.abs(values))) or 1e-9
    kept = values[np.abs(values) < kappa * scale]
    return float(np.sqrt(np.mean(kept**2)))


def true_seeing(exposures: list[tuple[ExposureTruth, float, float]]) -> float:
    """Return the FWHM (arcsec) of the sum of the inputs' true Moffat profiles, each with its share of the weight."""
    shares = np.array([s for _, s, _ in exposures])
    beta = np.array([e.plan.moffat_beta for e, _, _ in exposures])
    fwhm = np.array([e.plan.seeing_arcsec for e, _, _ in exposures])
    alpha = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0))
    peak = shares * (beta - 1.0) / alpha**2

    def excess(radius: float) -> float:
        return float(np.sum(peak * (1.0 + (radius / alpha) ** 2) ** -beta) - 0.5 * np.sum(peak))

    return 2.0 * float(brentq(excess, 0.0, 2.0 * float(fwhm.max())))


def true_limit(exposures: list[tuple[ExposureTruth, float, float]], truth: SurveyTruth) -> float:
    """Return the 5 sigma limit in an aperture of 2 arcsec that the true sky, read noise and attenuation allow, mag."""
    camera = truth.camera
    gain = float(np.mean(camera.gain_e_per_adu)) if camera.gain_e_per_adu else 1.5
    inverse = 0.0
    for e, _, _ in exposures:
        variance = e.sky_adu / gain + (camera.read_noise_e / gain) ** 2
        scale = 10 ** (-0.4 * (e.zero_point_mag - 30.0)) / e.plan.exptime_s
        inverse += 1.0 / (variance * scale**2)
    n_pix = math.pi * (0.5 * LIMIT_APERTURE_ARCSEC / camera.pixel_scale_arcsec) ** 2
    return 30.0 - 2.5 * math.log10(LIMIT_SIGMA * math.sqrt(n_pix / inverse))

"""Real catalogues without pixels: a MegaCam CCD against SDSS, an LCO exposure against its reference magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.stats import sigma_clip
from numpy.typing import NDArray

from spica.algorithms.astrometry import (
    AstrometryParameters,
    AstrometrySolution,
    DetectorLayout,
    Ensemble,
    ExposureSources,
    InstrumentLayout,
    ReferenceStars,
    judge_solution,
    pixel_to_sky,
    solve_astrometry,
)
from spica.algorithms.match import NoMatchError, match_pattern
from spica.algorithms.photometry import PhotometryParameters, ZeroPointSolution, solve_zero_points
from spica.algorithms.skymap import tangent_project

Floats = NDArray[np.float64]
POINTING = (215.59, 53.07)
SCALE = 0.185


@dataclass(frozen=True)
class Matched:
    """CCD 0 of MegaCam 695833: sources, SDSS, and which belong together within 0.6 arcsec by the solution."""

    x: Floats
    y: Floats
    flux: Floats
    sdss: Any
    solution: AstrometrySolution
    near: NDArray[np.bool_]
    row: NDArray[np.int64]
    gap_arcsec: Floats

    def magnitudes(self, band: str) -> tuple[Floats, Floats]:
        """Return SDSS magnitudes and errors of the matched sources."""
        rows = self.row[self.near]
        return self.sdss[f"{band}mag"].astype(float)[rows], self.sdss[f"{band}mag_err"].astype(float)[rows]


def _read(test_data: Path) -> tuple[Floats, Floats, Floats, Any]:
    folder = test_data / "megacam_d3_catalogue"
    seen = fits.getdata(folder / "v695833-e0-c000.xy.fits.gz", 1)
    x, y, flux = (np.array(seen[c], dtype=float) for c in ("Centroid_x", "Centroid_y", "base_PsfFlux_instFlux"))
    return x, y, flux, fits.getdata(folder / "refcat_sdss_d3.fits.gz", 1)


def _solve(x: Floats, y: Floats, flux: Floats, ra: Floats, dec: Floats, mag: Floats, **choices: Any) -> Any:
    layout = DetectorLayout(2048, 4612, 1023.5, 2305.5, np.diag([-SCALE / 3600.0, SCALE / 3600.0]))
    unknown, usable = np.full(x.size, np.nan), np.ones(x.size, dtype=bool)
    exposure = ExposureSources("695833", "megacam", *POINTING, np.nan, np.zeros(x.size, dtype=np.int64), x, y, unknown,
                               flux, np.sqrt(np.abs(flux)), usable)  # fmt: skip
    reference = ReferenceStars(ra, dec, np.full(ra.size, np.nan), mag, name="SDSS")
    ensemble = Ensemble((InstrumentLayout("megacam", (layout,)),), (exposure,))
    return solve_astrometry(ensemble, reference, AstrometryParameters(search_radius_arcsec=900.0, **choices))


@pytest.fixture(scope="module")
def matched(test_data: Path) -> Matched:
    """Solve the CCD from its pointing and its scale alone."""
    x, y, flux, sdss = _read(test_data)
    ra, dec = sdss["RA"].astype(float), sdss["DEC"].astype(float)
    solution = _solve(x, y, flux, ra, dec, sdss["imag"].astype(float))
    place = SkyCoord(*pixel_to_sky(solution.detectors[0], x, y), unit="deg")
    row, gap, _ = place.match_to_catalog_sky(SkyCoord(ra, dec, unit="deg"))
    return Matched(x, y, flux, sdss, solution, gap.arcsec < 0.6, row.astype(np.int64), gap.arcsec)


def test_megacam_ccd_is_found_in_a_square_degree(test_data: Path) -> None:
    """The pattern alone: any rotation, both parities, 15 arcmin around the pointing, 15,083 SDSS objects."""
    x, y, flux, sdss = _read(test_data)
    xi, eta = (np.asarray(v) * 3600.0 for v in tangent_project(sdss["RA"], sdss["DEC"], *POINTING))
    found = match_pattern(x, y, flux, xi, eta, sdss["imag"], scale_arcsec_per_pix=SCALE, search_radius_arcsec=900.0)
    assert (found.parity, found.n_matched > 100) == (-1, True)
    assert found.false_alarm_probability < 1e-30
    assert found.scale_arcsec_per_pix == pytest.approx(0.1846, abs=0.001)
    mirrored = np.max(x) - x
    again = match_pattern(mirrored, y, flux, xi, eta, sdss["imag"], scale_arcsec_per_pix=SCALE,
                          search_radius_arcsec=900.0)  # fmt: skip
    assert again.parity == 1
    shuffled = np.random.default_rng(5).permutation(x.size)
    with pytest.raises(NoMatchError, match="does not match"):
        match_pattern(x, y[shuffled], flux, xi, eta, sdss["imag"], scale_arcsec_per_pix=SCALE,
                      search_radius_arcsec=900.0)  # fmt: skip


def test_megacam_ccd_is_solved_to_the_errors_of_sdss(matched: Matched) -> None:
    assert matched.x.size == 337
    assert matched.near.sum() >= 270
    # three SDSS objects are the nearest of two sources: close pairs that SDSS does not split
    assert len(set(matched.row[matched.near])) >= matched.near.sum() - 3
    assert np.sqrt(np.mean(matched.gap_arcsec[matched.near] ** 2)) <= 0.185
    assert matched.solution.exposures[0].pixel_scale_arcsec == pytest.approx(0.1846, abs=0.0005)
    assert all(verdict.passed for verdict in judge_solution(matched.solution))


def test_a_cubic_of_ones_own_agrees(matched: Matched) -> None:
    """Independent: numpy's least squares of the matched pairs, cubic on the tangent plane, without any clipping."""
    near = matched.near
    xi, eta = (np.asarray(v) * 3600.0 for v in tangent_project(
        matched.sdss["RA"][matched.row[near]], matched.sdss["DEC"][matched.row[near]], *POINTING))  # fmt: skip
    u, v = (matched.x[near] - 1023.5) / 2048, (matched.y[near] - 2305.5) / 2048
    design = np.stack([u**i * v**j for i in range(4) for j in range(4 - i)], axis=1)
    left = [axis - design @ np.linalg.lstsq(design, axis, rcond=None)[0] for axis in (xi, eta)]
    own = float(np.sqrt(np.mean(left[0] ** 2 + left[1] ** 2)))
    spica = float(np.sqrt(np.mean(matched.gap_arcsec[near] ** 2)))
    # least squares of just these pairs is the least there is; weights and clipping cost some per cent of the rms
    assert own <= spica < 1.05 * own


def _zero_point(flux: Floats, mag: Floats, error: Floats, flux_error: Floats | None = None) -> ZeroPointSolution:
    number = np.arange(flux.size)
    given = np.where(flux > 0, 0.01 * np.abs(flux), 1.0) if flux_error is None else flux_error
    rules = PhotometryParameters(max_error_mag=0.05)
    return solve_zero_points(flux, given, [1.0], np.zeros(flux.size, dtype=np.int64), number, reference_mag=mag,
                             reference_error_mag=error, parameters=rules)  # fmt: skip


def test_megacam_zero_point_is_that_of_i(matched: Matched) -> None:
    """31.22 +- 0.25 in i. PSF fluxes of galaxies are too faint; stars rule below 20 mag, where SDSS is good as well."""
    flux = matched.flux[matched.near]
    bright = (matched.magnitudes("i")[0] < 20.0) & (flux > 0)
    found = {}
    for band in "ugriz":
        mag, error = matched.magnitudes(band)
        known = bright & np.isfinite(mag)
        found[band] = _zero_point(flux[known], mag[known], error[known])
    assert bright.sum() > 50
    zero_point = float(found["i"].zero_point_mag[0])
    assert zero_point == pytest.approx(31.22, abs=0.25)
    mag = matched.magnitudes("i")[0][bright]
    robust = float(np.median(mag + 2.5 * np.log10(flux[bright])))
    assert zero_point == pytest.approx(robust, abs=0.06)
    spread = {band: one.reference_extra_mag for band, one in found.items()}
    assert min(spread, key=lambda band: spread[band]) == "i", spread
    assert found["i"].zero_point_error_mag[0] < 0.1
    # a third of these are galaxies, up to 2 mag off: they are clipped, not averaged in
    assert 0.5 < found["i"].reference_used.mean() < 0.75


@dataclass(frozen=True)
class Exposure:
    """The LCO exposure's good stars: fluxes in its widest aperture, reference magnitudes in i, colours r - i."""

    flux: Floats
    flux_error: Floats
    mag: Floats
    error: Floats
    colour: Floats


@pytest.fixture(scope="module")
def lco(test_data: Path) -> Exposure:
    """Return stars between 13 and 18 mag without flags."""
    name = "cpt1m012-fa06-20200113-0102-matched-cat.fits.gz"
    table = fits.getdata(test_data / "lco_catalogues" / name, 1)
    good = (table["flag"] == 0) & (table["fluxaper6"] > 0) & (table["imag"] > 13) & (table["imag"] < 18)
    good &= (table["imagerr"] > 0) & np.isfinite(table["rmag"]) & (np.abs(table["rmag"] - table["imag"]) < 2)
    columns = ("fluxaper6", "fluxerr6", "imag", "imagerr")
    flux, flux_error, mag, error = (np.array(table[c][good], dtype=float) for c in columns)
    return Exposure(flux, flux_error, mag, error, np.array(table["rmag"] - table["imag"], dtype=float)[good])


def test_lco_zero_point_against_an_estimate_of_astropy(lco: Exposure) -> None:
    """The filter is i by its scatter: there the zero point depends on colour by hundredths only."""
    found = _zero_point(lco.flux, lco.mag, lco.error, lco.flux_error)
    single = lco.mag + 2.5 * np.log10(lco.flux)
    kept = sigma_clip(single, sigma=3.0, maxiters=None, cenfunc="median", stdfunc="mad_std", masked=True)
    assert lco.flux.size > 1000
    zero_point = float(found.zero_point_mag[0])
    # the error of the mean is 0.5 mmag; mean and median of a skew distribution differ by a tenth of its width
    assert zero_point == pytest.approx(float(np.ma.median(kept)), abs=0.004)
    assert found.zero_point_error_mag[0] == pytest.approx(0.0006, abs=0.0003)
    spread = 1.4826 * float(np.median(np.abs(single - np.median(single))))
    assert 0.015 < spread < 0.03
    used = found.reference_used
    assert used.mean() > 0.85
    assert float(np.std(found.reference_residual_mag[used])) < 1.3 * spread
    # of every other half: the same zero point within its error
    halves = [_zero_point(*(a[k::2] for a in (lco.flux, lco.mag, lco.error, lco.flux_error))) for k in (0, 1)]
    apart = abs(float(halves[0].zero_point_mag[0] - halves[1].zero_point_mag[0]))
    assert apart < 4 * np.hypot(halves[0].zero_point_error_mag[0], halves[1].zero_point_error_mag[0])


def test_lco_scatter_without_colour(lco: Exposure) -> None:
    """Residuals of the zero point against r - i: a slope of hundredths, and 15 to 20 mmag of scatter about it."""
    found = _zero_point(lco.flux, lco.mag, lco.error, lco.flux_error)
    residual = -2.5 * np.log10(lco.flux) + float(found.zero_point_mag[0]) - lco.mag
    kept = ~np.ma.getmaskarray(sigma_clip(residual, sigma=4.0, stdfunc="mad_std"))
    slope, level = np.polyfit(lco.colour[kept], residual[kept], 1)
    free = residual - np.polyval((slope, level), lco.colour)
    assert abs(slope) < 0.1
    free_mad = 1.4826 * float(np.median(np.abs(free[kept] - np.median(free[kept]))))
    mad = 1.4826 * float(np.median(np.abs(residual[kept] - np.median(residual[kept]))))
    assert 0.010 < free_mad <= mad < 0.03
    # Spica's own figure of the reference's scatter: what it adds to the errors given, and those, make the same
    total = np.hypot(found.reference_extra_mag, np.median(np.hypot(lco.error, 1.0857 * lco.flux_error / lco.flux)))
    assert total == pytest.approx(mad, rel=0.25)


def test_lco_other_bands_scatter_more(test_data: Path) -> None:
    name = "cpt1m012-fa06-20200113-0102-matched-cat.fits.gz"
    table = fits.getdata(test_data / "lco_catalogues" / name, 1)
    good = (table["flag"] == 0) & (table["fluxaper6"] > 0) & (table["imag"] > 13) & (table["imag"] < 18)
    spread = {}
    for band in "gri":
        known = good & np.isfinite(table[f"{band}mag"]) & (table[f"{band}magerr"] > 0)
        columns = ("fluxaper6", f"{band}mag", f"{band}magerr", "fluxerr6")
        found = _zero_point(*(np.array(table[c][known], dtype=float) for c in columns))
        spread[band] = found.total_reference_rms_mag
    assert spread["i"] < 0.7 * spread["r"] < spread["g"]

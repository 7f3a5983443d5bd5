"""What the solution reads: facts, catalogues and the reference, as the kernels want them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry import DetectorLayout, Ensemble, ExposureSources, InstrumentLayout, ReferenceStars
from spica.algorithms.skymap import tangent_project
from spica.files.catalogue import from_sextractor
from spica.files.header import HeaderCards
from spica.files.ldac import read_ldac
from spica.files.wcs import read_wcs, sky_of_pixels
from spica.model.errors import DataError
from spica.model.job import Reason
from spica.model.product import Role
from spica.reference.catalogue import ReferenceCatalogue
from spica.reference.reading import read_reference
from spica.steps.base import StepContext
from spica.steps.facts import FactsSheet, detection_apertures, read_sheet

BAD_FLAGS = 2 | 4 | 8 | 16
"""Blended, saturated, truncated, incomplete aperture: not used in a solution where there are enough others."""
CUT_FLAGS = 8 | 16
"""Truncated, incomplete aperture: never used."""
MJD_J2000, YEAR_DAYS = 51544.5, 365.25


@dataclass(frozen=True)
class Given:
    """One exposure as it enters: its sheet and the sources of all detectors in one table."""

    item: str
    sheet: FactsSheet
    detector: NDArray[np.int64]
    sources: NDArray[np.void]
    apertures_arcsec: tuple[float, ...]

    @property
    def name(self) -> str:
        """Return the exposure's name for people."""
        return self.sheet.exposure.name

    def clean(self, bad_flags: int = BAD_FLAGS) -> NDArray[np.bool_]:
        """Tell which sources bear none of the flags, and have a position and a flux."""
        good = (self.sources["flags"] & bad_flags) == 0
        return good & np.isfinite(self.sources["x_win"]) & (self.sources["flux_auto"] > 0)


def epoch_of(mjd: float | None) -> float:
    """Return the Julian year of a date, NaN where unknown."""
    return float("nan") if mjd is None else 2000.0 + (mjd - MJD_J2000) / YEAR_DAYS


def read_given(context: StepContext) -> list[Given]:
    """Read every exposure with facts and catalogue; one without pointing or scale is left out with its reason."""
    found = []
    for item in context.items(Role.FACTS):
        sheet = read_sheet(context.path_of(Role.FACTS, item))
        catalogues = read_ldac(context.path_of(Role.CATALOGUE, item))
        problem = _problem(sheet, len(catalogues))
        if problem is not None:
            context.left_out(item, problem)
            continue
        found.append(_gather(item, sheet, [(c.header, from_sextractor(c.table)) for c in catalogues]))
    return found


def _problem(sheet: FactsSheet, n_catalogues: int) -> Reason | None:
    e = sheet.exposure
    if e.ra_deg is None or e.dec_deg is None:
        return Reason("no_pointing", "the header gives no pointing; add ra and dec to the instrument's profile")
    if n_catalogues != len(sheet.detectors):
        text = "the catalogue holds another number of detectors; assess the exposure again"
        return Reason("detectors", text, n_catalogues, len(sheet.detectors))
    if any(not d.wcs_cards for d in sheet.detectors):
        return Reason("no_scale", "a detector has no pixel scale; add pixel_scale to the instrument's profile")
    return None


def _gather(item: str, sheet: FactsSheet, parts: list[tuple[HeaderCards, NDArray[np.void]]]) -> Given:
    detector = np.concatenate([np.full(len(t), i, np.int64) for i, (_, t) in enumerate(parts)])
    table = np.concatenate([t for _, t in parts])
    return Given(item, sheet, detector, table, detection_apertures(sheet.detectors[0].pixel_scale_arcsec or 1.0))


def build_ensemble(given: list[Given], min_snr: float, *, lenient: bool = False) -> Ensemble:
    """Return the ensemble; exposures of one camera with the same detectors share a layout.

    Patterns are matched with blended and saturated sources too. `lenient` lets them into the solution as well: with
    coarse pixels and a bright reference there are few others.
    """
    layouts: dict[str, InstrumentLayout] = {}
    exposures = []
    for g in given:
        name = _configuration(g.sheet)
        if name not in layouts:
            layouts[name] = InstrumentLayout(name, tuple(_layout(g.sheet, i) for i in range(len(g.sheet.detectors))))
        exposures.append(_sources(g, name, min_snr, lenient))
    return Ensemble(tuple(layouts.values()), tuple(exposures))


def _configuration(sheet: FactsSheet) -> str:
    sizes = ",".join(f"{d.name}:{d.n_x}x{d.n_y}" for d in sheet.detectors)
    return f"{sheet.exposure.instrument} {sizes}"


def _layout(sheet: FactsSheet, index: int) -> DetectorLayout:
    """Return the nominal place of a detector: its WCS, linearised at the centre, on the pointing's tangent plane."""
    d, e = sheet.detectors[index], sheet.exposure
    assert e.ra_deg is not None
    assert e.dec_deg is not None
    wcs = read_wcs(d.cards)
    x, y = 0.5 * (d.n_x - 1), 0.5 * (d.n_y - 1)
    ra, dec = sky_of_pixels(wcs, [x, x + 1, x], [y, y, y + 1])
    xi, eta = tangent_project(ra, dec, e.ra_deg, e.dec_deg)
    cd = np.array([[xi[1] - xi[0], xi[2] - xi[0]], [eta[1] - eta[0], eta[2] - eta[0]]])
    crpix = np.array([x, y]) - np.linalg.solve(cd, [xi[0], eta[0]])
    return DetectorLayout(d.n_x, d.n_y, float(crpix[0]), float(crpix[1]), cd)


def _sources(g: Given, configuration: str, min_snr: float, lenient: bool) -> ExposureSources:
    e, t = g.sheet.exposure, g.sources
    error = np.sqrt(np.maximum(0.5 * (t["errx2_win"] + t["erry2_win"]), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        strong = t["flux_auto"] / t["fluxerr_auto"] >= min_snr
    return ExposureSources(
        name=g.item,
        instrument=configuration,
        ra_deg=float(e.ra_deg or 0.0),
        dec_deg=float(e.dec_deg or 0.0),
        epoch_year=epoch_of(e.mjd),
        detector=g.detector,
        x_pix=t["x_win"].astype(float),
        y_pix=t["y_win"].astype(float),
        error_pix=np.where(error > 0, error, np.nan),
        flux_adu=t["flux_auto"].astype(float),
        flux_error_adu=t["fluxerr_auto"].astype(float),
        usable=g.clean(CUT_FLAGS if lenient else BAD_FLAGS) & strong,
        matchable=g.clean(CUT_FLAGS) & strong,
    )


def read_reference_stars(
    context: StepContext, given: list[Given]
) -> tuple[ReferenceCatalogue, ReferenceStars, str | None]:
    """Return the reference catalogue, the same as the astrometry's kernel wants it, and the photometric band."""
    paths = context.of_role(Role.REFERENCE)
    if len(paths) != 1:
        raise DataError("the job has no reference catalogue; add one with: spica reference add FILE, and plan again")
    catalogue = read_reference(paths[0].path)
    epochs = [epoch_of(g.sheet.exposure.mjd) for g in given]
    epoch = float(np.nanmedian(epochs))
    if context.recipe.astrometry.proper_motion:
        catalogue = catalogue.at_epoch(epoch)
    band = choose_band(context, given, catalogue)
    errors = 0.5 * (catalogue.err_ra_mas + catalogue.err_dec_mas)
    stars = ReferenceStars(
        ra_deg=catalogue.ra_deg,
        dec_deg=catalogue.dec_deg,
        error_mas=errors,
        mag=_any_mag(catalogue, band),
        epoch_year=epoch,
        pm_ra_masyr=np.nan_to_num(catalogue.pm_ra_masyr) if context.recipe.astrometry.proper_motion else None,
        pm_dec_masyr=np.nan_to_num(catalogue.pm_dec_masyr) if context.recipe.astrometry.proper_motion else None,
        name=catalogue.source,
    )
    return catalogue, stars, band


def find_reference_stars(
    context: StepContext, given: list[Given]
) -> tuple[ReferenceCatalogue | None, ReferenceStars, str | None]:
    """Return the same where the job has a reference; else None, no stars and no band: headers do without."""
    if context.of_role(Role.REFERENCE):
        return read_reference_stars(context, given)
    nothing = np.zeros(0)
    return None, ReferenceStars(nothing, nothing, nothing, nothing, name="none"), None


def choose_band(context: StepContext, given: list[Given], catalogue: ReferenceCatalogue) -> str | None:
    """Return the reference band that calibrates: the recipe's, the profile's, the filter's own; None: there is none."""
    sheet = given[0].sheet
    wanted = (context.recipe.photometry.band, sheet.reference_band, sheet.exposure.filter)
    by_key = {b.casefold(): b for b in catalogue.bands}
    return next((by_key[w.casefold()] for w in wanted if w and w.casefold() in by_key), None)


def _any_mag(catalogue: ReferenceCatalogue, band: str | None) -> NDArray[np.float64]:
    """Return magnitudes that order the stars by brightness: of the band, else of the first band there is."""
    names = [band] if band is not None else list(catalogue.bands[:1])
    if not names:
        return np.full(catalogue.ra_deg.shape, 15.0)
    mag = catalogue.mags[names[0]]
    return np.where(np.isfinite(mag), mag, np.nanmax(mag) if np.isfinite(mag).any() else 15.0)

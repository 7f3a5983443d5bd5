"""Quality of an image: of every detector of an exposure, and of a stack by the same code."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from spica.algorithms.quality import (
    STACK_PARAMETERS,
    DetectorQuality,
    ExposureQuality,
    QualityParameters,
    aggregate_quality,
    assess_detector,
)
from spica.algorithms.weight import saturation_mask
from spica.files.catalogue import to_sextractor
from spica.files.checksum import write_atomic
from spica.files.header import HeaderCards, make_cards
from spica.files.ldac import LdacCatalogue, write_ldac
from spica.files.mef import ImageToWrite, open_mef, write_mef
from spica.files.preview import reduce_blocks, row_strips
from spica.files.wcs import read_wcs
from spica.model.errors import DataError
from spica.model.grade import GradeRecord, grade_by_limits
from spica.model.job import JobKind
from spica.model.product import Role
from spica.model.quality import DetectorMeasures, QualityRecord
from spica.model.record import canonical
from spica.plots.quality import DetectorPanel, draw_quality
from spica.steps.base import Step, StepContext
from spica.steps.facts import DetectorSheet, FactsSheet, detection_apertures
from spica.steps.made import MadeStack, read_made
from spica.steps.picture import add_pictures, geometry_of, plan_mosaic
from spica.steps.pixels import LazyPixels, open_exposure, pack_weight
from spica.steps.prepare import Prepared, Weighting, open_weighting
from spica.steps.verify import Verified


def parameters_of(context: StepContext, sheet: FactsSheet) -> QualityParameters:
    """Return the kernel's parameters from the frozen recipe and the pixel scale."""
    r = context.recipe.quality
    return QualityParameters(
        apertures_arcsec=detection_apertures(sheet.detectors[0].pixel_scale_arcsec or 1.0),
        mesh_pix=r.mesh_pix,
        threshold_sigma=r.threshold_sigma,
        min_area_pix=r.min_area_pix,
        star_min_snr=r.star_sigma,
        psf_max_stars=r.max_stars,
        cosmics=r.cosmics,
        cosmic_sigma=r.cosmic_sigma,
        trails=r.trails,
        bad_columns=r.bad_columns,
    )


def assess_exposure(context: StepContext, prepared: Prepared) -> None:
    """Measure all detectors of one exposure; write weight, catalogue, preview and plots; record measures and grade."""
    verified, raw = prepared.verified, prepared.raw
    sheet = verified.sheet
    parameters, mosaic = parameters_of(context, sheet), plan_mosaic(sheet)
    with (
        open_exposure(verified.path, sheet) as detectors,
        open_weighting(context, verified.item, raw.path, raw.sheet, prepared.masters) as weighting,
        ThreadPoolExecutor(context.recipe.resources.threads) as pool,
    ):
        orders = range(len(detectors))
        found = list(pool.map(lambda i: _assess(detectors[i], weighting(i), sheet, parameters, mosaic.factor), orders))
    assessed = [quality for quality, _ in found]
    noise = [q.noise_adu for q in assessed if math.isfinite(q.noise_adu)]
    picture = mosaic.join([r for _, r in found], float(np.median(noise)) if noise else math.nan)
    add_pictures(context, verified.stem, verified.item, picture)
    write_exposure_products(context, verified, assessed)
    record_exposure_quality(context, verified, assessed)


def _assess(
    pixels: LazyPixels, given: Weighting, sheet: FactsSheet, parameters: QualityParameters, factor: int
) -> tuple[DetectorQuality, NDArray[np.float32]]:
    """Return the quality of a detector and its picture, reduced by a factor."""
    d, exposure = pixels.sheet, sheet.exposure
    assert d is not None
    if not d.pixel_scale_arcsec:
        raise DataError(f"detector {d.name} has no pixel scale; add pixel_scale to the instrument's profile")
    data = pixels.whole()
    quality = assess_detector(
        data,
        exptime_s=max(float(exposure.exptime_s or 0.0), 1e-3),
        gain_e_per_adu=d.gain_e_per_adu,
        read_noise_e=d.read_noise_e,
        saturation_adu=d.saturation_adu,
        pixel_scale_arcsec=d.pixel_scale_arcsec,
        bad_pixels=given.bad_pixels,
        flat=given.flat,
        weight=given.weight,
        zero_point_mag=sheet.nominal_zero_point_mag,
        parameters=parameters,
    )
    if given.weight is not None:
        quality = _as_exposure(quality, data, d.saturation_adu, parameters)
    return quality, reduce_blocks(row_strips(data, factor), factor)


def _as_exposure(
    quality: DetectorQuality, data: NDArray[np.float32], saturation_adu: float | None, p: QualityParameters
) -> DetectorQuality:
    """Return a quality whose weight began as a given map with the weight of an exposure.

    Cosmic rays, trails and bad columns are 0 in it already; saturated pixels become so, and the median 1.
    """
    weight = quality.weight
    if saturation_adu is not None:
        weight[saturation_mask(data, saturation_adu, p.saturation_grow_pix)] = 0.0
    used = weight[weight > 0]
    if used.size:
        weight /= np.float32(np.median(used[:: max(1, used.size // 500_000)]))
    return replace(quality, weight=weight, masked_fraction=float(1.0 - used.size / weight.size))


def write_exposure_products(context: StepContext, verified: Verified, assessed: Sequence[DetectorQuality]) -> None:
    """Write weight map, catalogue and plots of one exposure."""
    item, sheet = verified.item, verified.sheet
    weight = context.folder / f"{verified.stem}.weight.fits.fz"
    maps = [
        ImageToWrite(pack_weight(q.weight), d.cards, d.name) for q, d in zip(assessed, sheet.detectors, strict=True)
    ]
    write_mef(weight, maps, compress=True)
    context.add_product(Role.WEIGHT, weight, item=item)
    catalogue = context.folder / f"{verified.stem}.ldac"
    write_ldac(catalogue, [_ldac(q, d, sheet) for q, d in zip(assessed, sheet.detectors, strict=True)])
    context.add_product(Role.CATALOGUE, catalogue, item=item)
    if context.recipe.quality.plots:
        plot = context.folder / f"{verified.stem}.quality.png"
        panels = [
            make_panel(
                q,
                d.pixel_scale_arcsec or 1.0,
                g.centre_arcsec(sheet.exposure.ra_deg, sheet.exposure.dec_deg),
                _instrumental_zero(sheet),
            )
            for q, d, g in zip(assessed, sheet.detectors, geometry_of(sheet).detectors, strict=True)
        ]
        draw_quality(plot, panels, verified.name, _mag_label(sheet.nominal_zero_point_mag))
        context.add_product(Role.PLOT, plot, item=item)


def _instrumental_zero(sheet: FactsSheet) -> float:
    """Return the nominal magnitude of 1 ADU in this exposure, 0 where the profile has no zero point."""
    if sheet.nominal_zero_point_mag is None or not sheet.exposure.exptime_s:
        return 0.0
    return sheet.nominal_zero_point_mag + 2.5 * math.log10(sheet.exposure.exptime_s)


def _mag_label(zero_point: float | None) -> str:
    return "instrumental mag" if zero_point is None else "mag (nominal zero point)"


def _ldac(q: DetectorQuality, d: DetectorSheet, sheet: FactsSheet) -> LdacCatalogue:
    """Return the catalogue of one detector: magnitudes of 1 ADU = 0, its header the WCS and facts of the exposure."""
    table = to_sextractor(q.sources)
    e = sheet.exposure
    facts = make_cards(
        [
            ("NAXIS", 2, "image"),
            ("NAXIS1", d.n_x, "columns"),
            ("NAXIS2", d.n_y, "rows"),
            ("EXTNAME", d.name, "detector"),
            ("OBJECT", e.object, ""),
            ("FILTER", e.filter, ""),
            ("INSTRUME", e.instrument, ""),
            ("EXPTIME", e.exptime_s, "[s]"),
            ("MJD-OBS", e.mjd, "middle of the exposure [day]"),
            ("AIRMASS", e.airmass, ""),
            ("GAIN", d.gain_e_per_adu, "[electron/ADU]"),
            ("SATURATE", d.saturation_adu, "[ADU]"),
        ]
    )
    return LdacCatalogue(facts.with_cards(d.cards.cards), table.table, table.columns)


def make_panel(
    q: DetectorQuality, scale_arcsec: float, place_arcsec: tuple[float, float], zero_point_mag: float = 0.0
) -> DetectorPanel:
    """Return what the plots show of one detector; `zero_point_mag` is the magnitude of 1 ADU."""
    ny, nx = q.background.shape
    x0, y0 = place_arcsec[0] - 0.5 * nx * scale_arcsec, place_arcsec[1] - 0.5 * ny * scale_arcsec
    stars = q.psf.stars
    flux = q.sources["flux_auto"]
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = np.where(flux > 0, zero_point_mag - 2.5 * np.log10(np.where(flux > 0, flux, 1.0)), np.nan)
    return DetectorPanel(
        star_x_arcsec=x0 + stars["x"] * scale_arcsec,
        star_y_arcsec=y0 + stars["y"] * scale_arcsec,
        star_fwhm_arcsec=stars["fwhm_pix"] * scale_arcsec,
        star_ellipticity=stars["ellipticity"],
        star_theta_deg=stars["theta_deg"],
        mag=mag,
        radius_arcsec=q.sources["flux_radius"] * scale_arcsec,
        is_star=q.sources["star"],
        background_adu=q.background.mesh_level,
        extent_arcsec=(x0, x0 + nx * scale_arcsec, y0, y0 + ny * scale_arcsec),
    )


def known(value: Any) -> float | None:
    """Return a finite number, or None."""
    return None if value is None or not math.isfinite(value) else float(value)


def measures_of(
    q: DetectorQuality | ExposureQuality, detector: int | None, zero_point_mag: float | None
) -> DetectorMeasures:
    """Return the record of one detector's or of all detectors' measures."""
    return DetectorMeasures(
        detector=detector,
        seeing_arcsec=known(q.seeing_arcsec),
        fwhm_pix=known(q.fwhm_pix),
        ellipticity=known(q.ellipticity),
        position_angle_deg=known(q.position_angle_deg),
        moffat_beta=known(q.moffat_beta),
        psf_chi2=known(q.psf_chi2),
        background_adu=known(q.background_adu),
        noise_adu=known(q.noise_adu),
        limiting_mag=known(q.limiting_mag),
        limiting_flux_adu=known(q.limiting_flux_adu),
        n_sources=q.n_sources,
        n_stars=q.n_stars,
        saturated_fraction=known(q.saturated_fraction),
        cosmic_fraction=known(q.cosmic_fraction),
        masked_fraction=known(q.masked_fraction),
        n_trails=q.n_trails,
        zero_point_mag=zero_point_mag,
    )


def record_exposure_quality(context: StepContext, verified: Verified, assessed: Sequence[DetectorQuality]) -> None:
    """Record measures and the machine's grade of one exposure; a nominal zero point is no measured one."""
    whole = measures_of(aggregate_quality(assessed), None, None)
    parts = tuple(measures_of(q, d.index, None) for q, d in zip(assessed, verified.sheet.detectors, strict=True))
    context.record(QualityRecord(verified.item, whole, parts))
    grade = grade_by_limits(
        {limit.measure: getattr(whole, limit.measure) for limit in verified.sheet.grade_limits},
        verified.sheet.grade_limits,
    )
    context.record(GradeRecord(verified.item, grade.grade, grade.reasons))


# Stacks ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StackPixels:
    """A stack with its weight and header."""

    data: np.ndarray
    weight: np.ndarray
    cards: HeaderCards
    wcs: WCS


def read_stack(context: StepContext) -> tuple[StackPixels, MadeStack]:
    """Read the stack of this job, its weight, and what the stack step said of it."""
    made = read_made(context.path_of(Role.MEASURES))
    with_image = open_mef(context.path_of(Role.STACK))
    with_weight = open_mef(context.path_of(Role.WEIGHT))
    try:
        image = with_image.images[0]
        pixels = StackPixels(
            with_image.read_pixels(image),
            with_weight.read_pixels(with_weight.images[0]),
            image.header,
            read_wcs(image.header),
        )
    finally:
        with_image.close()
        with_weight.close()
    return pixels, made


def run_stack(context: StepContext) -> None:
    """Judge a stack by the same code as an exposure, its noise measured in empty apertures."""
    item = context.subject()
    stack, made = read_stack(context)
    q = assess_detector(
        stack.data,
        exptime_s=1.0,
        gain_e_per_adu=made.gain_e_per_adu,
        read_noise_e=None,
        saturation_adu=made.saturation_adu,
        pixel_scale_arcsec=made.pixel_scale_arcsec,
        weight=stack.weight,
        zero_point_mag=made.zero_point_mag,
        parameters=STACK_PARAMETERS,
        rng=np.random.default_rng(1),
    )
    measures = measures_of(q, None, made.zero_point_mag)
    context.record(QualityRecord(item, measures, (measures_of(q, 0, made.zero_point_mag),)))
    grade = grade_by_limits(
        {limit.measure: getattr(measures, limit.measure) for limit in made.grade_limits}, made.grade_limits
    )
    context.record(GradeRecord(item, grade.grade, grade.reasons))
    plot = context.folder / f"{made.name}.quality.png"
    zero_point = made.zero_point_mag
    panel = make_panel(q, made.pixel_scale_arcsec, (0.0, 0.0), zero_point or 0.0)
    draw_quality(
        plot, [panel], made.name, "instrumental mag" if zero_point is None else f"mag ({made.record.mag_system})"
    )
    context.add_product(Role.PLOT, plot, item=item)
    summary = context.folder / f"{made.name}.quality.json"
    write_atomic(summary, json.dumps(json.loads(canonical({"measures": measures, "grade": grade})), indent=1).encode())
    context.add_product(Role.QUALITY, summary, item=item)
    context.used(item)


STACK = Step(kind=JobKind.QUALITY, run=run_stack)

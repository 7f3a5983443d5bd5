"""Solves the ensemble, judges the solution by its content, writes `.head` files, plots and the record."""

from __future__ import annotations

import math

import numpy as np

from spica.algorithms.astrometry import (
    AstrometryParameters,
    AstrometrySolution,
    ExposureMeasures,
    JudgementLimits,
    Pairs,
    ReferenceStars,
    Verdict,
    judge_solution,
    solve_astrometry,
    tpv_cards,
)
from spica.algorithms.skymap import tangent_project
from spica.files.checksum import write_atomic
from spica.files.head import HeadFacts, head_cards, write_head
from spica.files.header import HeaderCards, make_cards
from spica.files.slug import slug
from spica.files.wcs import footprint_polygon, pixel_scale_arcsec, read_wcs
from spica.model.errors import DataError
from spica.model.job import JobKind, Reason
from spica.model.product import Role
from spica.model.record import canonical
from spica.model.solution import SolutionRecord, SolvedDetector, SolvedImage
from spica.plots.solution import ResidualPanel, ZeroPointPanel, draw_solution
from spica.steps.astrometry.given import (
    Given,
    build_ensemble,
    find_reference_stars,
    read_given,
    read_reference_stars,
)
from spica.steps.astrometry.header import take_positions
from spica.steps.astrometry.zero_points import Photometry, solve_photometry
from spica.steps.base import Step, StepContext

MAX_ROUNDS = 3
FLOOR_PIX = 0.01
"""Windowed centroids are not trusted beyond a hundredth of a pixel."""


def run(context: StepContext) -> None:
    """Solve positions, or take those of the headers, then zero points; what the content does not support fails."""
    given = read_given(context)
    if not given:
        raise DataError("no exposure has a catalogue that can be solved; see the outcomes")
    context.progress(0, 3, "read catalogues")
    if context.recipe.astrometry.source == "header":
        catalogue, stars, band = find_reference_stars(context, given)
        parameters = _parameters(context, given)
        solved, astrometry, warnings = take_positions(context, given, stars, parameters, _limits(context))
    else:
        catalogue, stars, band = read_reference_stars(context, given)
        solved, astrometry, warnings = solve_positions(context, given, stars)
    context.progress(1, 3, "positions solved")
    photometry = solve_photometry(context, solved, astrometry, catalogue, band)
    context.progress(2, 3, "zero points solved")
    kept = judge_zero_points(context, solved, photometry)
    record = make_record(context, solved, kept, astrometry, photometry, warnings)
    write_products(context, solved, kept, astrometry, photometry, record)
    context.progress(3, 3, "done")


def solve_positions(
    context: StepContext, given: list[Given], stars: ReferenceStars
) -> tuple[list[Given], AstrometrySolution, tuple[Reason, ...]]:
    """Solve; leave out exposures that fail their own checks and solve the rest again."""
    for _ in range(MAX_ROUNDS):
        solution = _solve(context, given, stars)
        verdicts = judge_solution(solution, _limits(context))
        solved = {m.exposure for m in solution.exposures}
        failed = {v.exposure: v for v in reversed(verdicts) if not v.passed and v.exposure is not None}
        whole = [v for v in verdicts if not v.passed and v.exposure is None]
        if not solved or (whole and not failed):
            _leave_unsolved(context, solution)
            raise DataError(_sentence(whole[0] if whole else verdicts[0], stars.name))
        if not failed:
            _leave_unsolved(context, solution)
            return [g for g in given if g.item in solved], solution, _warnings(solution)
        for item, verdict in failed.items():
            context.left_out(str(item), Reason(verdict.code, verdict.text, verdict.value, verdict.limit))
        given = [g for g in given if g.item not in failed]
        if not given:
            raise DataError(_sentence(next(iter(failed.values())), stars.name))
    raise DataError("the solution does not settle: every round leaves out more exposures; look at their outcomes")


def _solve(context: StepContext, given: list[Given], stars: ReferenceStars) -> AstrometrySolution:
    """Solve with clean sources; where an exposure has too few reference stars, with blended and saturated ones too."""
    parameters, min_snr = _parameters(context, given), context.recipe.astrometry.detection_sigma
    least = parameters.min_stars_per_exposure
    try:
        strict = solve_astrometry(build_ensemble(given, min_snr), stars, parameters)
        if _standing(strict, least) == (len(given), len(given)):
            return strict
        lenient = solve_astrometry(build_ensemble(given, min_snr, lenient=True), stars, parameters)
    except np.linalg.LinAlgError as error:
        text = "the solution is singular: too few stars tie the exposures; lower [astrometry] detection_sigma or degree"
        raise DataError(text) from error
    return lenient if _standing(lenient, least) > _standing(strict, least) else strict


def _standing(solution: AstrometrySolution, least: int) -> tuple[int, int]:
    """Return how many exposures are solved, and how many of them hold to enough reference stars of their own."""
    return len(solution.exposures), sum(m.n_reference >= least for m in solution.exposures)


def _parameters(context: StepContext, given: list[Given]) -> AstrometryParameters:
    recipe = context.recipe.astrometry
    radius = recipe.search_radius_arcmin or max(g.sheet.search_radius_arcmin for g in given)
    return AstrometryParameters(
        degree=recipe.distortion_degree,
        share_distortion=recipe.share_distortion,
        search_radius_arcsec=60.0 * radius,
        min_snr=recipe.detection_sigma,
        position_floor_mas=max(recipe.position_floor_mas, FLOOR_PIX * 1e3 * _pixel_scale(given)),
        min_stars_per_exposure=recipe.min_reference,
    )


def _pixel_scale(given: list[Given]) -> float:
    return float(np.median([d.pixel_scale_arcsec or 0.3 for g in given for d in g.sheet.detectors]))


def _limits(context: StepContext) -> JudgementLimits:
    recipe = context.recipe.astrometry
    if recipe.max_reference_rms_arcsec > 0:
        rms = recipe.max_reference_rms_arcsec
        return JudgementLimits(
            min_reference_stars=recipe.min_reference, max_reference_rms_arcsec=rms, max_reference_rms_pix=0.0
        )
    return JudgementLimits(min_reference_stars=recipe.min_reference)


def _sentence(verdict: Verdict, reference: str) -> str:
    """Return a verdict as the one line of a failure."""
    if verdict.code in ("reference_mismatch", "no_exposure"):
        return verdict.text
    what = f"{verdict.text} is {verdict.value:.4g}, limit {verdict.limit:.4g}"
    return (
        f"the solution against {reference} does not hold: {what}; take another reference catalogue or look at the plots"
    )


def _leave_unsolved(context: StepContext, solution: AstrometrySolution) -> None:
    for o in solution.exposure_outcomes:
        if o.outcome == "left_out":
            context.left_out(o.exposure, Reason(o.code, o.reason, _finite(o.value), _finite(o.limit)))


def _warnings(solution: AstrometrySolution) -> tuple[Reason, ...]:
    text = "too few stars for the distortion asked for; a lower degree was fitted"
    return tuple(
        Reason("degree_fallback", f"detector {f.detector}: {text}", f.degree) for f in solution.degree_fallbacks
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def judge_zero_points(context: StepContext, solved: list[Given], photometry: Photometry) -> list[int]:
    """Return the indices of exposures with a usable zero point; the others are left out with their reason."""
    solution = photometry.solution
    outcomes = {o.exposure: o for o in solution.outcomes}
    limit = context.recipe.photometry.max_skyprobe_mag
    kept = []
    for i, g in enumerate(solved):
        o, attenuation = outcomes.get(i), float(solution.skyprobe_mag[i])
        if not math.isfinite(solution.flux_scale[i]):
            reason = (o.code, o.reason, _finite(o.value), _finite(o.limit)) if o else ("no_zero_point", "no zero point")
            context.left_out(g.item, Reason(*reason))
        elif math.isfinite(attenuation) and attenuation > limit:
            context.left_out(g.item, Reason("attenuated", "attenuated beyond the recipe's limit", attenuation, limit))
        else:
            warned = o is not None and o.outcome == "used_with_warning"
            context.used(g.item, Reason(o.code, o.reason, _finite(o.value), _finite(o.limit)) if o and warned else None)
            kept.append(i)
    if not kept:
        raise DataError("no exposure has a zero point; look at the reference band and the outcomes")
    return kept


def make_record(
    context: StepContext,
    solved: list[Given],
    kept: list[int],
    astrometry: AstrometrySolution,
    photometry: Photometry,
    warnings: tuple[Reason, ...],
) -> SolutionRecord:
    """Return what the harvest records."""
    measures = {m.exposure: m for m in astrometry.exposures}
    z = photometry.solution
    return SolutionRecord(
        reference_name=astrometry.reference_name,
        n_reference=astrometry.n_reference,
        internal_mas=_finite(astrometry.internal_rms_mas),
        reference_mas=_finite(astrometry.reference_rms_mas),
        internal_mag=_finite(z.total_internal_rms_mag),
        reference_mag=_finite(z.total_reference_rms_mag),
        mag_system=(photometry.mag_system or "unknown") if z.is_absolute else None,
        mag_band=photometry.band,
        aperture_arcsec=photometry.aperture_arcsec,
        images=tuple(_solved_image(solved[i], measures[solved[i].item], astrometry, photometry, i) for i in kept),
        warnings=warnings,
    )


def detector_cards(astrometry: AstrometrySolution, item: str, index: int) -> HeaderCards:
    """Return the TPV cards of one detector."""
    return make_cards([(k, v, "") for k, v in tpv_cards(astrometry.detector_solution(item, index))])


def _solved_image(
    g: Given, m: ExposureMeasures, astrometry: AstrometrySolution, photometry: Photometry, i: int
) -> SolvedImage:
    z = photometry.solution
    detectors = []
    for index, d in enumerate(g.sheet.detectors):
        wcs = read_wcs(detector_cards(astrometry, g.item, index))
        polygon = footprint_polygon(wcs, (d.n_y, d.n_x))
        corners = tuple((float(ra), float(dec)) for ra, dec in polygon)
        detectors.append(SolvedDetector(d.index, corners, pixel_scale_arcsec(wcs)))
    return SolvedImage(
        item=g.item,
        ra_deg=float(m.ra_deg),
        dec_deg=float(m.dec_deg),
        n_reference=int(m.n_reference),
        internal_mas=_finite(m.internal_rms_mas),
        reference_mas=_finite(m.reference_rms_mas),
        pointing_offset_arcsec=float(m.pointing_offset_arcsec),
        rotation_deg=float(m.rotation_deg),
        contrast=_finite(m.contrast),
        zero_point_mag=_finite(float(z.zero_point_mag[i])) if z.is_absolute else None,
        zero_point_error_mag=_finite(float(z.zero_point_error_mag[i])),
        relative_zero_point_mag=_finite(float(z.relative_zero_point_mag[i])),
        skyprobe_mag=_finite(float(z.skyprobe_mag[i])),
        flux_scale=float(z.flux_scale[i]),
        n_photometric=int(z.n_stars[i]),
        detectors=tuple(detectors),
    )


def write_products(
    context: StepContext,
    solved: list[Given],
    kept: list[int],
    astrometry: AstrometrySolution,
    photometry: Photometry,
    record: SolutionRecord,
) -> None:
    """Write one `.head` an exposure, the residual plots and the solution as JSON."""
    images = {s.item: s for s in record.images}
    for i in kept:
        g = solved[i]
        path = context.folder / f"{slug(g.name)}-{g.item.replace(':', '')}.head"
        write_head(path, [_head(astrometry, record, images[g.item], n) for n in range(len(g.sheet.detectors))])
        context.add_product(Role.HEAD, path, item=g.item, small=False)
    plot = context.folder / "solution.png"
    names = {g.item: g.name for g in solved}
    draw_solution(
        plot,
        _panel(astrometry, astrometry.reference_pairs),
        _panel(astrometry, astrometry.internal_pairs),
        [_zero_point_panel(s, names[s.item]) for s in record.images],
        context.request.label,
    )
    context.add_product(Role.PLOT, plot)
    context.record(record)
    measures = context.folder / "solution.json"
    write_atomic(measures, canonical(record).encode())
    context.add_product(Role.MEASURES, measures)


def _zero_point_panel(s: SolvedImage, name: str) -> ZeroPointPanel:
    values = (s.zero_point_mag, s.zero_point_error_mag, s.skyprobe_mag)
    return ZeroPointPanel(name, *(math.nan if v is None else v for v in values))


def _head(astrometry: AstrometrySolution, record: SolutionRecord, solved: SolvedImage, index: int) -> HeaderCards:
    facts = HeadFacts(
        flux_scale=solved.flux_scale,
        zero_point_mag=solved.zero_point_mag,
        internal_rms_deg=_pair_deg(solved.internal_mas),
        reference_rms_deg=_pair_deg(solved.reference_mas),
        internal_rms_mag=record.internal_mag,
        reference_rms_mag=record.reference_mag,
    )
    return head_cards(detector_cards(astrometry, solved.item, index), facts)


def _pair_deg(value_mas: float | None) -> tuple[float, float] | None:
    return None if value_mas is None else (value_mas / 3.6e6, value_mas / 3.6e6)


def _panel(astrometry: AstrometrySolution, pairs: Pairs) -> ResidualPanel:
    good = pairs.used
    ra, dec = pairs.ra_deg[good], pairs.dec_deg[good]
    x, y = (np.empty(0), np.empty(0))
    if ra.size:
        centre = astrometry.exposures[0]
        x, y = tangent_project(ra, dec, centre.ra_deg, centre.dec_deg)
    return ResidualPanel(pairs.d_ra_mas[good], pairs.d_dec_mas[good], x, y)


NATIVE = Step(kind=JobKind.ASTROMETRY, run=run)

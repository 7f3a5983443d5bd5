"""Solve positions by SCAMP and zero points by our own code on its positions; judged by content, as our own solution."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry import (
    AstrometrySolution,
    DetectorSolution,
    ExposureOutcome,
    JudgementLimits,
    ReferenceStars,
    Verdict,
    judge_solution,
)
from spica.astromatic.measures import MeasureRules, measure_solution
from spica.astromatic.solve import (
    AGAIN_STEM,
    REFINE_STEM,
    STEM,
    DetectorInput,
    ExposureInput,
    Search,
    SolveRules,
    exposure_stem,
    found_plots,
    read_solutions,
    scamp_lines,
    write_exposures,
    write_scamp_config,
)
from spica.astromatic.solve import REFERENCE_FILE as REFERENCE
from spica.astromatic.tools import SCAMP, check_exit, find_tool
from spica.astromatic.verdict import NO_MATCH, FieldVerdict, judge_fields
from spica.astromatic.votable import read_report
from spica.files.checksum import write_atomic
from spica.model.errors import DataError
from spica.model.job import JobKind, Reason, Request
from spica.model.product import Role
from spica.reference.catalogue import ReferenceCatalogue, separation_deg
from spica.steps.astromatic.carry import Plane, add_report, hand_over, take_over, time_limit_s
from spica.steps.astrometry.given import CUT_FLAGS, Given, build_ensemble, read_given, read_reference_stars
from spica.steps.astrometry.solve import FLOOR_PIX, judge_zero_points, make_record, write_products
from spica.steps.astrometry.zero_points import solve_photometry
from spica.steps.base import Step, StepContext, recipe_of

STARS_PER_TERM = 3
"""Clean sources a detector needs for each term of the distortion, or flagged ones enter too."""


def prepare(context: StepContext) -> None:
    """Write catalogues with clean headers, the part of the reference that can matter, and the configuration."""
    find_tool(SCAMP)
    given = read_given(context)
    if not given:
        raise DataError("no exposure has a catalogue that can be solved; see the outcomes")
    catalogue, _, band = read_reference_stars(context, given)
    radius = search_radius_arcmin(context, given)
    given, near = with_reference(context, given, catalogue, radius)
    folder = context.work("")
    catalogue.take(near).to_ldac(folder / REFERENCE, band)
    names = [e.instrument for e in build_ensemble(given, context.recipe.astrometry.detection_sigma).exposures]
    groups = sorted(set(names))
    write_exposures(folder, [_input(g, groups.index(n) + 1) for g, n in zip(given, names, strict=True)])
    scale = float(np.median([d.pixel_scale_arcsec or 0.3 for g in given for d in g.sheet.detectors]))
    floor_arcsec = max(context.recipe.astrometry.position_floor_mas / 1000.0, FLOOR_PIX * scale)
    search = Search(radius, scale, floor_arcsec, needs_flagged(context, given))
    write_scamp_config(folder, search, context.recipe.quality.plots)
    hand_over(context, tuple(Plane(str(i), g.item, 0) for i, g in enumerate(given)))


def needs_flagged(context: StepContext, given: list[Given]) -> bool:
    """Tell whether an exposure has so few clean sources that blended and saturated ones must enter the fit."""
    degree = context.recipe.astrometry.distortion_degree
    least = STARS_PER_TERM * (degree + 1) * (degree + 2) // 2
    return any(int(g.clean().sum()) < least * len(g.sheet.detectors) for g in given)


def search_radius_arcmin(context: StepContext, given: list[Given]) -> float:
    """Return how far pointings may be wrong: by the recipe, else the largest of the instruments."""
    return context.recipe.astrometry.search_radius_arcmin or max(g.sheet.search_radius_arcmin for g in given)


def with_reference(
    context: StepContext, given: list[Given], catalogue: ReferenceCatalogue, radius_arcmin: float
) -> tuple[list[Given], NDArray[np.bool_]]:
    """Leave out exposures without reference stars in reach, on which SCAMP waits for ever; mark the stars in reach."""
    least = context.recipe.astrometry.min_reference
    near = np.zeros(len(catalogue), bool)
    kept = []
    for g in given:
        e = g.sheet.exposure
        assert e.ra_deg is not None
        assert e.dec_deg is not None
        reach = _half_size_deg(g) + radius_arcmin / 60.0
        mine = separation_deg(catalogue.ra_deg, catalogue.dec_deg, e.ra_deg, e.dec_deg) <= reach
        if int(mine.sum()) < least:
            text = f"{NO_MATCH}: too few of its stars lie in the field; take another reference catalogue"
            context.left_out(g.item, Reason("no_match", text, int(mine.sum()), least))
            continue
        near |= mine
        kept.append(g)
    if not kept:
        raise DataError(
            f"{NO_MATCH} ({catalogue.source}: no exposure of {len(given)} has {least} of its stars in the field); take "
            "another reference catalogue or correct the pointing"
        )
    return kept, near


def _half_size_deg(g: Given) -> float:
    """Return the largest distance of a footprint's corner from the pointing, degrees."""
    e = g.sheet.exposure
    corners = np.array([c for d in e.detectors for c in (d.polygon_deg or ())], float).reshape(-1, 2)
    if not corners.size:
        sides = [math.hypot(d.n_x, d.n_y) * (d.pixel_scale_arcsec or 1.0) / 3600.0 for d in g.sheet.detectors]
        return sum(sides)
    return float(separation_deg(corners[:, 0], corners[:, 1], e.ra_deg or 0.0, e.dec_deg or 0.0).max())


def _input(g: Given, group: int) -> ExposureInput:
    e, usable = g.sheet.exposure, g.clean(CUT_FLAGS)
    detectors = tuple(
        DetectorInput(d.n_x, d.n_y, d.cards, g.sources[usable & (g.detector == i)])
        for i, d in enumerate(g.sheet.detectors)
    )
    return ExposureInput(group, e.exptime_s, e.airmass, e.mjd, detectors)


def tool_lines(request: Request) -> tuple[str, ...]:
    """Return the lines that solve."""
    recipe = recipe_of(request)
    a = recipe.astrometry
    rules = SolveRules(
        degree=a.distortion_degree,
        share_distortion=a.share_distortion,
        match_radius_arcsec=a.match_radius_arcsec,
        min_snr=a.detection_sigma,
        min_reference=a.min_reference,
        threads=recipe.resources.threads,
    )
    return scamp_lines(rules, time_limit_s(request))


def finish(context: StepContext) -> None:
    """Judge SCAMP's solution, solve the zero points on it, and write products and record as our own step does."""
    given = read_given(context)
    planes = take_over(context)
    by_item = {g.item: g for g in given}
    given = [by_item[p.item] for p in planes]
    folder = context.work("")
    for stem in (STEM, AGAIN_STEM, REFINE_STEM):
        check_exit(SCAMP, folder, stem, f"{len(given)} exposures")
    fields = read_verdicts(context, len(given))
    catalogue, stars, band = read_reference_stars(context, given)
    solved, astrometry = judge_positions(context, given, stars, fields)
    photometry = solve_photometry(context, solved, astrometry, catalogue, band)
    kept = judge_zero_points(context, solved, photometry)
    record = make_record(context, solved, kept, astrometry, photometry, ())
    write_products(context, solved, kept, astrometry, photometry, record)
    _add_products(context)


def read_verdicts(context: StepContext, n_exposures: int) -> tuple[FieldVerdict, ...]:
    """Return what SCAMP says of every exposure: of those it was run again for, the later word."""
    folder, least = context.work(""), context.recipe.astrometry.min_reference
    names = [f"{exposure_stem(i)}.ldac" for i in range(n_exposures)]
    first = judge_fields(read_report(folder / f"{STEM}.xml", "scamp"), names, least)
    again = folder / f"{AGAIN_STEM}.xml"
    if not again.exists():
        return first
    kept = [n for n, v in zip(names, first, strict=True) if v.reason is None]
    later = dict(zip(kept, judge_fields(read_report(again, "scamp"), kept, least), strict=True))
    return tuple(later.get(n, v) for n, v in zip(names, first, strict=True))


def judge_positions(
    context: StepContext, given: list[Given], stars: ReferenceStars, fields: tuple[FieldVerdict, ...]
) -> tuple[list[Given], AstrometrySolution]:
    """Return the exposures whose positions hold and the solution measured over them; the others are left out.

    Raises
    ------
    DataError
        None holds, or those that do hold do not agree with each other or the reference.
    """
    recipe = context.recipe.astrometry
    ensemble = build_ensemble(given, recipe.detection_sigma, lenient=needs_flagged(context, given))
    configuration = {e.name: e.instrument for e in ensemble.exposures}
    failures = {g.item: _outcome(g.item, f.reason) for g, f in zip(given, fields, strict=True) if f.reason is not None}
    detectors = _read_heads(context, given, configuration, failures)
    rules = MeasureRules(recipe.match_radius_arcsec, recipe.position_floor_mas)
    solution = measure_solution(ensemble, stars, detectors, failures, rules)
    verdicts = judge_solution(solution, limits_of(context))
    for v in reversed(verdicts):
        if not v.passed and v.exposure is not None:
            failures[v.exposure] = ExposureOutcome(v.exposure, "left_out", v.code, v.text, v.value, v.limit)
    if failures:
        solution = measure_solution(ensemble, stars, detectors, failures, rules)
        verdicts = judge_solution(solution, limits_of(context))
    for o in solution.exposure_outcomes:
        if o.outcome == "left_out":
            context.left_out(o.exposure, Reason(o.code, o.reason, _finite(o.value), _finite(o.limit)))
    whole = [v for v in verdicts if not v.passed and v.exposure is None]
    if whole:
        raise DataError(_sentence(context, whole[0], stars.name, fields, given))
    alive = {m.exposure for m in solution.exposures}
    return [g for g in given if g.item in alive], solution


def _read_heads(
    context: StepContext, given: list[Given], configuration: dict[str, str], failures: dict[str, ExposureOutcome]
) -> dict[str, tuple[DetectorSolution, ...]]:
    """Return the solutions of exposures that did not fail; one whose `.head` cannot be used fails with that cause."""
    found = {}
    for i, g in enumerate(given):
        if g.item in failures:
            continue
        shapes = [(d.n_y, d.n_x) for d in g.sheet.detectors]
        path = context.work(f"{exposure_stem(i)}.head")
        try:
            found[g.item] = read_solutions(path, g.item, configuration[g.item], shapes)
        except DataError as error:
            failures[g.item] = _outcome(g.item, Reason("no_solution", str(error)))
    return found


def limits_of(context: StepContext) -> JudgementLimits:
    """Return the limits by which our own solutions are judged."""
    recipe = context.recipe.astrometry
    if recipe.max_reference_rms_arcsec > 0:
        rms = recipe.max_reference_rms_arcsec
        return JudgementLimits(
            min_reference_stars=recipe.min_reference, max_reference_rms_arcsec=rms, max_reference_rms_pix=0.0
        )
    return JudgementLimits(min_reference_stars=recipe.min_reference)


def _outcome(item: str, reason: Reason) -> ExposureOutcome:
    value, limit = (float(v) if isinstance(v, int | float) else math.nan for v in (reason.value, reason.limit))
    return ExposureOutcome(item, "left_out", reason.code, reason.text, value, limit)


def _sentence(
    context: StepContext, verdict: Verdict, reference: str, fields: tuple[FieldVerdict, ...], given: list[Given]
) -> str:
    """Return a verdict as the one line of a failure."""
    if verdict.code == "reference_mismatch":
        best = max(range(len(given)), key=lambda i: np.nan_to_num(fields[i].xy_contrast))
        return (
            f"{NO_MATCH} ({reference}: none of {len(given)} exposures; best, {given[best].name}, has contrast "
            f"{fields[best].xy_contrast:.2g}); take another reference catalogue or correct the pointing"
        )
    if verdict.code == "no_exposure":
        causes = sorted({o.reason.text for o in context.outcomes if o.reason is not None})
        return f"scamp solved none of {len(given)} exposures: {'; '.join(causes[:3])}"
    what = f"{verdict.text} is {verdict.value:.4g}, limit {verdict.limit:.4g}"
    return (
        f"the solution against {reference} does not hold: {what}; take another reference catalogue or look at the plots"
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _add_products(context: StepContext) -> None:
    """Announce SCAMP's own plots and report."""
    folder = context.work("")
    for plot in found_plots(folder):
        target = context.folder / plot.name
        write_atomic(target, plot.read_bytes())
        context.add_product(Role.PLOT, target)
    for stem in (STEM, AGAIN_STEM, REFINE_STEM):
        if (folder / f"{stem}.xml").exists():
            add_report(context, folder / f"{stem}.xml", f"{stem}.xml")


STEP = Step(kind=JobKind.ASTROMETRY, prepare=prepare, tool_lines=tool_lines, finish=finish)

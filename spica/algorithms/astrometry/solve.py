"""The joint solution: associate, step, clip, and again with a smaller radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spica.algorithms.astrometry.associate import Stars, associate_stars
from spica.algorithms.astrometry.ensemble import (
    AstrometryParameters,
    AstrometrySolution,
    DegreeFallback,
    Ensemble,
    ExposureOutcome,
    ReferenceStars,
)
from spica.algorithms.astrometry.measures import Solved, summarise
from spica.algorithms.astrometry.model import (
    Chip,
    Observations,
    State,
    build_chips,
    build_observations,
    chip_key,
    focal_positions,
    nominal_state,
    observations_to_match,
    sky_vectors,
)
from spica.algorithms.astrometry.normal import (
    FreeParameters,
    ReferencePlaces,
    Weights,
    gauss_newton_step,
    star_residuals,
)
from spica.algorithms.astrometry.start import Start, absorb_start, find_start
from spica.algorithms.astrometry.tpv import MAX_DEGREE
from spica.algorithms.skymap import ARCSEC_PER_RAD, tangent_basis, unit_vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RAYLEIGH_MEDIAN = float(np.sqrt(2.0 * np.log(2.0)))
MAS_PER_RAD = 1000.0 * ARCSEC_PER_RAD
MIN_AFFINE, MIN_SIMILARITY = 12, 6
CLIP_PASSES = 6


@dataclass(frozen=True)
class Scales:
    """How the given errors are corrected: factor on centroids, addition in quadrature (rad) on reference stars."""

    factor: float
    extra_rad: float


@dataclass(frozen=True)
class Problem:
    ensemble: Ensemble
    chips: list[Chip]
    observations: Observations
    places: ReferencePlaces
    chip_group: Ints
    exposure_group: Ints
    parameters: AstrometryParameters


def solve_astrometry(
    ensemble: Ensemble, reference: ReferenceStars, parameters: AstrometryParameters | None = None
) -> AstrometrySolution:
    """Solve pointings, attitudes and distortions of an ensemble against a reference catalogue and itself.

    Every detection and every reference star is a measurement of a star whose position is unknown; star positions are
    eliminated, so overlaps between exposures and the reference are weighed by their errors alone. An exposure
    whose pattern does not match is left out with its reason, the others go on. With no exposure left the solution
    is empty and `judge_solution` says that the reference catalogue does not match.

    Raises
    ------
    ValueError
        Arguments that contradict each other: no exposure, twice the same name, an unknown layout, a wrong choice.
    """
    choices = parameters or AstrometryParameters()
    _check(ensemble, reference, choices)
    problem = set_up(ensemble, reference, choices)
    nominal = nominal_state(ensemble, problem.chips, choices.degree)
    seen = observations_to_match(ensemble, problem.chips, choices, problem.observations)
    start = find_start(ensemble, problem.chips, seen, nominal, problem.places.vectors, reference,
                       choices)  # fmt: skip
    names = [exposure.name for exposure in ensemble.exposures]
    state = absorb_start(start.state, start.matches, problem.exposure_group, problem.chip_group, names,
                         similarity=choices.exposure_transform == "similarity")  # fmt: skip
    solved = _iterate(problem, start, state)
    return summarise(solved, reference)


def _check(ensemble: Ensemble, reference: ReferenceStars, choices: AstrometryParameters) -> None:
    names = [exposure.name for exposure in ensemble.exposures]
    if not names or len(set(names)) != len(names):
        raise ValueError("an ensemble needs at least one exposure and distinct names; correct the list")
    if not 1 <= choices.degree <= MAX_DEGREE:
        raise ValueError(f"degree must lie in 1..{MAX_DEGREE}, not {choices.degree}")
    if choices.exposure_transform not in ("affine", "similarity"):
        raise ValueError(f"exposure_transform is 'affine' or 'similarity', not {choices.exposure_transform!r}")
    if choices.start not in ("pattern", "header"):
        raise ValueError(f"start is 'pattern' or 'header', not {choices.start!r}")
    for one in ensemble.exposures:
        if not (np.isfinite(one.ra_deg) and -90.0 <= one.dec_deg <= 90.0):
            raise ValueError(f"exposure {one.name} has no pointing; give RA and Dec in degrees")
        columns = [one.detector, one.x_pix, one.y_pix, one.error_pix, one.flux_adu, one.flux_error_adu, one.usable]
        columns += [] if one.matchable is None else [one.matchable]
        if len({np.shape(column) for column in columns}) != 1:
            raise ValueError(f"the columns of exposure {one.name} differ in length; pass one value per source")
    columns_ref = (reference.ra_deg, reference.dec_deg, reference.error_mas, reference.mag)
    if len({np.shape(column) for column in columns_ref}) != 1:
        raise ValueError("the columns of the reference differ in length; pass one value per star")


def set_up(ensemble: Ensemble, reference: ReferenceStars, choices: AstrometryParameters) -> Problem:
    chips, where = build_chips(ensemble, choices)
    observations = build_observations(ensemble, chips, where, choices)
    keys = sorted({key for key, _ in where})
    chip_group = np.zeros(len(chips), dtype=np.int64)
    for (key, _), chip in where.items():
        chip_group[chip] = keys.index(key)
    exposure_group = np.array([keys.index(chip_key(ensemble, i, choices)) for i in range(len(ensemble.exposures))])
    return Problem(
        ensemble, chips, observations, _places(ensemble, reference, choices), chip_group, exposure_group, choices
    )


def _places(ensemble: Ensemble, reference: ReferenceStars, choices: AstrometryParameters) -> ReferencePlaces:
    """Bring the reference to the median date of the exposures; stars without motion count as at rest."""
    vectors = unit_vectors(reference.ra_deg, reference.dec_deg)
    bad = ~np.all(np.isfinite(vectors), axis=1)
    vectors[bad] = 0.0
    error = np.where(reference.error_mas > 0.0, reference.error_mas, choices.default_reference_error_mas)
    sigma = np.hypot(error, choices.reference_floor_mas) / MAS_PER_RAD
    motion = np.zeros((vectors.shape[0], 2))
    dates = np.array([exposure.epoch_year for exposure in ensemble.exposures])
    lag = np.zeros(dates.size)
    if np.isfinite(reference.epoch_year) and reference.pm_ra_masyr is not None and reference.pm_dec_masyr is not None:
        motion = np.nan_to_num(np.stack([reference.pm_ra_masyr, reference.pm_dec_masyr], axis=1)) / MAS_PER_RAD
        middle = _common_epoch(ensemble, reference)
        lag = np.where(np.isfinite(dates), dates - middle, 0.0)
        basis = tangent_basis(np.nan_to_num(reference.ra_deg), np.nan_to_num(reference.dec_deg))
        vectors = vectors + np.einsum("ni,nij->nj", motion * (middle - reference.epoch_year), basis[:, :2])
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(length > 0.0, length, 1.0)
    vectors[bad] = 0.0
    return ReferencePlaces(vectors, sigma, motion, lag)


def _common_epoch(ensemble: Ensemble, reference: ReferenceStars) -> float:
    dates = np.array([exposure.epoch_year for exposure in ensemble.exposures])
    dates = dates[np.isfinite(dates)]
    return float(np.median(dates)) if dates.size else reference.epoch_year


def _iterate(problem: Problem, start: Start, state: State) -> Solved:
    """Alternate association, steps and clipping; the radius follows the scatter."""
    choices, observations = problem.parameters, problem.observations
    alive = np.array([one is not None for one in start.matches])
    radius, smallest = _radii(problem, start)
    scales, failures = Scales(1.0, 0.0), list(start.failures)
    count = len(alive)
    free = FreeParameters(np.zeros(count, dtype=np.int64), np.full(len(problem.chips), -1), problem.chip_group,
                          problem.exposure_group)  # fmt: skip
    stars = Stars(np.full(observations.exposure.size, -1, dtype=np.int64), np.zeros(0, dtype=np.int64))
    weights = Weights(np.zeros(observations.exposure.size), np.zeros(0))
    for turn in range(choices.n_associations):
        if not alive.any():
            break
        stars = associate(problem, state, alive, radius)
        alive = _drop_unlinked(problem, stars, alive, failures)
        weights = weigh(problem, stars, alive, scales)
        for _ in range(choices.n_steps):
            free = _free(problem, stars, weights, alive)
            state = gauss_newton_step(observations, state, stars, _with_lever(stars, weights), problem.places, free)
            scales = rescale(problem, state, stars, weights, scales)
            weights = clip_detections(problem, state, stars, weigh(problem, stars, alive, scales))
        spread = _median_gap(problem, state, stars, weights)
        if turn < choices.n_associations - 1:
            radius = float(np.clip(8.0 * spread, max(0.4 * radius, smallest), radius))
    fallbacks = _fallbacks(problem, free, alive, _stars_per_chip(problem, stars, weights))
    return Solved(
        problem.ensemble, problem.chips, observations, problem.places, choices, start, state, stars, weights, free,
        tuple(bool(one) for one in alive), tuple(failures), fallbacks,
        scales.factor, scales.extra_rad, radius, problem.chip_group, problem.exposure_group,
    )  # fmt: skip


def _radii(problem: Problem, start: Start) -> tuple[float, float]:
    """Return first and smallest association radius, rad.

    The first covers detectors away from their nominal places (`layout_error_pix`) and the match's own tolerance,
    but no more than a fifth of the distance between neighbouring sources, where most pairs are still right.
    """
    choices, observations = problem.parameters, problem.observations
    pixel = float(np.median([chip.scale_rad for chip in problem.chips]))
    tolerance = [one.tolerance_arcsec for one in start.matches if one is not None]
    own = 1.5 * max(tolerance, default=0.0) / ARCSEC_PER_RAD
    spacing = [
        problem.chips[chip].scale_rad
        * np.sqrt(problem.chips[chip].layout.width_pix * problem.chips[chip].layout.height_pix / (stop - first))
        for _, chip, first, stop in observations.blocks
    ]
    wide = min(choices.layout_error_pix * pixel, 0.2 * float(np.median(spacing)) if spacing else np.inf)
    smallest = choices.min_match_radius_pix * pixel
    limit = max(choices.max_match_radius_arcsec / ARCSEC_PER_RAD, smallest)
    return float(np.clip(max(own, wide), smallest, limit)), smallest


def associate(problem: Problem, state: State, alive: Bools, radius: float) -> Stars:
    observations = problem.observations
    vectors, _ = sky_vectors(observations, state, focal_positions(observations, state.polynomial))
    rows = np.flatnonzero(alive[observations.exposure])
    known = np.flatnonzero(np.linalg.norm(problem.places.vectors, axis=1) > 0.5)
    found = associate_stars(vectors[rows], observations.exposure[rows], problem.places.vectors[known], radius)
    star = np.full(observations.exposure.size, -1, dtype=np.int64)
    star[rows] = found.star
    reference = np.where(found.reference >= 0, known[np.maximum(found.reference, 0)] if known.size else -1, -1)
    return Stars(star, reference.astype(np.int64))


def _drop_unlinked(problem: Problem, stars: Stars, alive: Bools, failures: list[ExposureOutcome | None]) -> Bools:
    """Leave out exposures with too few linked stars, or with no chain of stars to the reference."""
    observations, choices = problem.observations, problem.parameters
    count = alive.size
    linked = np.bincount(observations.exposure[stars.star >= 0], minlength=count)
    rows = np.flatnonzero(stars.star >= 0)
    n_nodes = count + 1 + stars.reference.size
    held = np.flatnonzero(stars.reference >= 0)
    ends = np.concatenate([observations.exposure[rows], np.full(held.size, count)])
    others = np.concatenate([stars.star[rows], held]) + count + 1
    graph = coo_array((np.ones(ends.size, dtype=np.int8), (ends, others)), shape=(n_nodes, n_nodes))
    label = connected_components(graph, directed=False)[1]
    kept = alive.copy()
    for index in np.flatnonzero(alive):
        name = problem.ensemble.exposures[index].name
        if linked[index] < choices.min_stars_per_exposure:
            failures[index] = ExposureOutcome(
                name, "left_out", "too_few_stars", "too few stars in common with the reference or other exposures; "
                "lower min_snr or take a deeper reference catalogue", float(linked[index]),
                float(choices.min_stars_per_exposure))  # fmt: skip
            kept[index] = False
        elif label[index] != label[count]:
            failures[index] = ExposureOutcome(
                name, "left_out", "not_linked", "no chain of common stars leads to the reference catalogue; take a "
                "deeper reference or add exposures between", 0.0, 1.0)  # fmt: skip
            kept[index] = False
    return kept


def weigh(problem: Problem, stars: Stars, alive: Bools, scales: Scales) -> Weights:
    """Inverse variances of everything that constrains: stars with at least two measurements."""
    observations = problem.observations
    member = (stars.star >= 0) & alive[observations.exposure]
    detection = np.where(member, 1.0 / (observations.sigma_rad * scales.factor) ** 2, 0.0)
    sigma = problem.places.sigma_rad[np.maximum(stars.reference, 0)] if problem.places.sigma_rad.size else np.ones(
        stars.reference.size)  # fmt: skip
    reference = np.where(stars.reference >= 0, 1.0 / (sigma**2 + scales.extra_rad**2), 0.0)
    return _only_linked(stars, Weights(detection, reference))


def _with_lever(stars: Stars, weights: Weights) -> Weights:
    """Count a reference star once for each detection of its star, as pairs of detection and reference do.

    Overlaps tell next to nothing of scale, shear and quadratic terms of the whole sky: with an affine map for every
    exposure the focal plane takes them up, and only the curvature of the sphere (some 1e-4 of them) is left. There a
    systematic error of a hundredth of a pixel is a warp of a hundred pixels, which the many detections would push
    through against few reference stars with large errors (own derivation).
    """
    rows = (stars.star >= 0) & (weights.detection > 0.0)
    number = np.bincount(stars.star[rows], minlength=stars.reference.size)
    return Weights(weights.detection, weights.reference * np.maximum(number, 1))


def _only_linked(stars: Stars, weights: Weights) -> Weights:
    count = stars.reference.size
    rows = stars.star >= 0
    number = np.bincount(stars.star[rows], weights.detection[rows] > 0.0, minlength=count) + (weights.reference > 0.0)
    fine = number >= 2
    detection = np.where(rows & fine[np.where(rows, stars.star, 0)] if count else False, weights.detection, 0.0)
    return Weights(detection, np.where(fine, weights.reference, 0.0))


def _free(problem: Problem, stars: Stars, weights: Weights, alive: Bools) -> FreeParameters:
    """Choose what the number of stars allows: degree of each chip, kind of each exposure."""
    observations, choices = problem.observations, problem.parameters
    used = weights.detection > 0.0
    by_chip = _stars_per_chip(problem, stars, weights)
    degree = np.full(len(problem.chips), -1)
    for order in range(choices.degree + 1):
        degree[by_chip >= choices.min_stars_per_term * (order + 1) * (order + 2) / 2] = order
    by_exposure = np.bincount(observations.exposure[used], minlength=alive.size)
    most = 6 if choices.exposure_transform == "affine" else 4
    kind = np.where(by_exposure >= MIN_AFFINE, most, np.where(by_exposure >= MIN_SIMILARITY, 4, 2))
    return FreeParameters(np.where(alive, kind, 0), degree, problem.chip_group, problem.exposure_group)


def _stars_per_chip(problem: Problem, stars: Stars, weights: Weights) -> Ints:
    """Return how many different stars constrain each chip; a star on two exposures of a chip counts once."""
    used = np.flatnonzero(weights.detection > 0.0)
    each = np.unique(problem.observations.chip[used] * (stars.reference.size + 1) + stars.star[used])
    return np.bincount(each // (stars.reference.size + 1), minlength=len(problem.chips)).astype(np.int64)


def _gaps(problem: Problem, state: State, stars: Stars, weights: Weights) -> tuple[Floats, Floats, Bools]:
    """Return normalised residuals of detections and of reference stars, and where the former mean something."""
    residuals, _, _ = star_residuals(problem.observations, state, stars, weights, problem.places)
    rows = (weights.detection > 0.0) & (stars.star >= 0)
    share = np.zeros(rows.size)
    share[rows] = 1.0 - weights.detection[rows] / residuals.total[stars.star[rows]]
    gap = np.full(rows.size, np.nan)
    length = np.hypot(residuals.detection[rows, 0], residuals.detection[rows, 1])
    gap[rows] = length * np.sqrt(weights.detection[rows] / np.maximum(share[rows], 1e-6))
    held = weights.reference > 0.0
    rest = np.full(held.size, np.nan)
    left = 1.0 - weights.reference[held] / residuals.total[held]
    size = np.hypot(residuals.reference[held, 0], residuals.reference[held, 1])
    rest[held] = size * np.sqrt(weights.reference[held] / np.maximum(left, 1e-6))
    return gap, rest, rows


def clip_detections(problem: Problem, state: State, stars: Stars, weights: Weights) -> Weights:
    """Give no weight to measurements far from their star, the worst of each star first."""
    for _ in range(CLIP_PASSES):
        gap, rest, rows = _gaps(problem, state, stars, weights)
        if not rows.any():
            return weights
        limit = problem.parameters.clip_sigma * max(1.0, float(np.median(gap[rows])) / RAYLEIGH_MEDIAN)
        worst = np.where(np.isfinite(rest), rest, 0.0)
        np.maximum.at(worst, stars.star[rows], gap[rows])
        bad = np.zeros(rows.size, dtype=bool)
        bad[rows] = (gap[rows] > limit) & (gap[rows] >= 0.7 * worst[stars.star[rows]])
        bad_reference = np.nan_to_num(rest) > np.maximum(limit, 0.7 * worst)
        if not bad.any() and not bad_reference.any():
            return weights
        weights = _only_linked(
            stars, Weights(np.where(bad, 0.0, weights.detection), np.where(bad_reference, 0.0, weights.reference))
        )
    return weights


def rescale(problem: Problem, state: State, stars: Stars, weights: Weights, scales: Scales) -> Scales:
    """Estimate from medians how far the given errors are too small: internally first, then the reference's part."""
    count = stars.reference.size
    alone = Weights(weights.detection, np.zeros(count))
    residuals, _, _ = star_residuals(problem.observations, state, stars, alone, problem.places)
    rows = np.flatnonzero((weights.detection > 0.0) & (stars.star >= 0))
    number = np.bincount(stars.star[rows], minlength=count)
    share = 1.0 - weights.detection[rows] / np.maximum(residuals.total[stars.star[rows]], 1e-300)
    several = (number[stars.star[rows]] >= 2) & (share > 1e-6)
    factor = scales.factor
    if int(several.sum()) >= 20:
        chosen = rows[several]
        size = np.hypot(residuals.detection[chosen, 0], residuals.detection[chosen, 1])
        gap = size * np.sqrt(weights.detection[chosen] / share[several])
        factor = max(1.0, scales.factor * float(np.median(gap)) / RAYLEIGH_MEDIAN)
    held = np.flatnonzero((weights.reference > 0.0) & (number > 0))
    extra = scales.extra_rad
    if held.size >= 6:
        size = np.hypot(residuals.reference[held, 0], residuals.reference[held, 1])
        internal = (factor / scales.factor) ** 2 / residuals.total[held]
        expected = internal + problem.places.sigma_rad[stars.reference[held]] ** 2
        excess = (float(np.median(size / np.sqrt(expected))) / RAYLEIGH_MEDIAN) ** 2 - 1.0
        significant = excess > 5.0 / np.sqrt(held.size)
        extra = float(np.sqrt(excess * np.median(expected))) if significant else 0.0
    return Scales(factor, extra)


def _median_gap(problem: Problem, state: State, stars: Stars, weights: Weights) -> float:
    """Return the median distance of detections from their star, from reference stars where there are some."""
    residuals, _, _ = star_residuals(problem.observations, state, stars, weights, problem.places)
    rows = (weights.detection > 0.0) & (stars.star >= 0)
    gap = residuals.detection[rows]
    held = stars.reference[stars.star[rows]] >= 0
    apart = gap - np.where(held[:, None], np.nan_to_num(residuals.reference[stars.star[rows]]), 0.0)
    return float(np.median(np.hypot(apart[:, 0], apart[:, 1]))) if rows.any() else 0.0


def _fallbacks(problem: Problem, free: FreeParameters, alive: Bools, number: Ints) -> tuple[DegreeFallback, ...]:
    living = set(problem.exposure_group[alive].tolist())
    return tuple(
        DegreeFallback(chip.instrument, chip.detector, int(free.chip_degree[k]), int(number[k]))
        for k, chip in enumerate(problem.chips)
        if problem.chip_group[k] in living and free.chip_degree[k] < problem.parameters.degree
    )

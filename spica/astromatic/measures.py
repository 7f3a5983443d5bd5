"""What a solution made elsewhere is worth: its positions against the reference and each other, measured as our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry import (
    AstrometrySolution,
    DetectorSolution,
    Ensemble,
    ExposureMeasures,
    ExposureOutcome,
    ExposureSources,
    InstrumentLayout,
    Pairs,
    ReferenceStars,
    pixel_to_sky,
)
from spica.algorithms.astrometry.associate import Stars, associate_stars
from spica.algorithms.match import MatchParameters, NoMatchError, PatternMatch, verify_pattern
from spica.algorithms.skymap import (
    ARCSEC_PER_RAD,
    angular_separation,
    sky_angles,
    tangent_deproject,
    tangent_project,
    unit_vectors,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAS_PER_DEG = 3.6e6
CLIP_SIGMA, CLIP_PASSES = 4.0, 6
RAYLEIGH_MEDIAN = float(np.sqrt(2.0 * np.log(2.0)))
ENOUGH_PAIRS = 10


@dataclass(frozen=True)
class MeasureRules:
    """How a solution is measured: radius of association, floor of errors, S/N of the figures."""

    match_radius_arcsec: float
    position_floor_mas: float
    high_snr: float = 50.0


@dataclass(frozen=True)
class _Detections:
    """All usable detections of solved exposures, one row each."""

    exposure: Ints
    detector: Ints
    source: Ints
    x_pix: Floats
    y_pix: Floats
    ra_deg: Floats
    dec_deg: Floats
    sigma_mas: Floats
    snr: Floats


def measure_solution(
    ensemble: Ensemble,
    reference: ReferenceStars,
    detectors: Mapping[str, tuple[DetectorSolution, ...]],
    failures: Mapping[str, ExposureOutcome],
    rules: MeasureRules,
) -> AstrometrySolution:
    """Measure a solution: verify every exposure's pattern, associate, clip, and tell the residuals.

    Parameters
    ----------
    ensemble, reference
        What was solved; the reference at the epoch of the exposures.
    detectors
        Solutions by exposure, in the order of its detectors.
    failures
        Exposures that are left out already.

    Returns
    -------
    AstrometrySolution
        As `solve_astrometry` gives it; `chi2` is NaN with 0 degrees of freedom: who made the solution weighed it.
    """
    lost = dict(failures)
    matches: dict[str, PatternMatch] = {}
    for one in ensemble.exposures:
        if one.name in lost:
            continue
        found = _verify(one, detectors[one.name], reference, rules)
        if isinstance(found, PatternMatch):
            matches[one.name] = found
        else:
            lost[one.name] = found
    seen = _detections(ensemble, detectors, matches, rules)
    radius = rules.match_radius_arcsec / ARCSEC_PER_RAD
    stars = associate_stars(
        unit_vectors(seen.ra_deg, seen.dec_deg),
        seen.exposure,
        unit_vectors(reference.ra_deg, reference.dec_deg),
        radius,
    )
    to_reference = _reference_pairs(seen, stars, reference)
    internal = _internal_pairs(seen, stars)
    measures = tuple(
        _exposure_measures(i, one, ensemble, detectors[one.name], matches[one.name], to_reference, internal, rules)
        for i, one in enumerate(ensemble.exposures)
        if one.name in matches
    )
    internal_2, reference_2 = rms_of(internal, rules.high_snr), rms_of(to_reference, rules.high_snr)
    return AstrometrySolution(
        detectors=tuple(d for one in ensemble.exposures if one.name in matches for d in detectors[one.name]),
        exposures=measures,
        exposure_outcomes=tuple(
            lost.get(one.name) or ExposureOutcome(one.name, "used", "used", "solved", float("nan"), float("nan"))
            for one in ensemble.exposures
        ),
        degree_fallbacks=(),
        reference_pairs=to_reference,
        internal_pairs=internal,
        internal_rms_mas=_mean_axis(internal_2),
        internal_rms_mas_2=internal_2,
        reference_rms_mas=_mean_axis(reference_2),
        reference_rms_mas_2=reference_2,
        n_reference=int(to_reference.used.sum()),
        n_internal=int(internal.used.sum()),
        n_clipped=int((~to_reference.used).sum() + (~internal.used).sum()),
        chi2=float("nan"),
        n_degrees=0,
        internal_error_factor=1.0,
        reference_extra_mas=0.0,
        match_radius_arcsec=rules.match_radius_arcsec,
        epoch_year=reference.epoch_year,
        reference_name=reference.name,
    )


def _sky(one: ExposureSources, solutions: tuple[DetectorSolution, ...], rows: Ints) -> tuple[Floats, Floats]:
    ra, dec = np.full(rows.size, np.nan), np.full(rows.size, np.nan)
    for d, solution in enumerate(solutions):
        here = one.detector[rows] == d
        ra[here], dec[here] = pixel_to_sky(solution, one.x_pix[rows[here]], one.y_pix[rows[here]])
    return ra, dec


def _scale_arcsec(solution: DetectorSolution) -> float:
    return float(np.sqrt(abs(np.linalg.det(solution.cd_deg_per_pix)))) * 3600.0


def _verify(
    one: ExposureSources, solutions: tuple[DetectorSolution, ...], reference: ReferenceStars, rules: MeasureRules
) -> PatternMatch | ExposureOutcome:
    """Judge an exposure's positions by the coincidences with the reference, as our own start from a header does."""
    rows = np.flatnonzero(one.usable)
    ra, dec = _sky(one, solutions, rows)
    x, y = tangent_project(ra, dec, one.ra_deg, one.dec_deg)
    near = angular_separation(reference.ra_deg, reference.dec_deg, one.ra_deg, one.dec_deg) < 60.0
    xi, eta = tangent_project(reference.ra_deg[near], reference.dec_deg[near], one.ra_deg, one.dec_deg)
    pixel = float(np.median([_scale_arcsec(s) for s in solutions]))
    choices = MatchParameters()
    try:
        return verify_pattern(
            3600.0 * x, 3600.0 * y, one.flux_adu[rows], 3600.0 * xi, 3600.0 * eta, reference.mag[near],
            matrix=np.eye(2), offset=np.zeros(2), start_tolerance_arcsec=max(rules.match_radius_arcsec, 2.0 * pixel),
            parameters=MatchParameters(min_tolerance_pix=choices.min_tolerance_pix * pixel,
                                       max_tolerance_pix=choices.max_tolerance_pix * pixel),
        )  # fmt: skip
    except NoMatchError as failure:
        few = str(failure).startswith("too few")
        code, value = ("too_few_stars", failure.n_expected) if few else ("no_match", failure.false_alarm_probability)
        limit = choices.min_matched if few else choices.max_false_alarm
        return ExposureOutcome(one.name, "left_out", code, str(failure), float(value), float(limit))


def _detections(
    ensemble: Ensemble,
    detectors: Mapping[str, tuple[DetectorSolution, ...]],
    matches: Mapping[str, PatternMatch],
    rules: MeasureRules,
) -> _Detections:
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for i, one in enumerate(ensemble.exposures):
        if one.name not in matches:
            continue
        rows = np.flatnonzero(one.usable)
        ra, dec = _sky(one, detectors[one.name], rows)
        scale = np.array([_scale_arcsec(s) * 1000.0 for s in detectors[one.name]])[one.detector[rows]]
        error = np.nan_to_num(one.error_pix[rows], nan=0.1) * scale
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = one.flux_adu[rows] / one.flux_error_adu[rows]
        sigma = np.hypot(error, rules.position_floor_mas)
        part = (np.full(rows.size, i), one.detector[rows], rows, one.x_pix[rows], one.y_pix[rows], ra, dec, sigma, snr)
        good = np.isfinite(ra) & np.isfinite(dec)
        parts.append(tuple(column[good] for column in part))
    if not parts:
        none, nothing = np.zeros(0, np.int64), np.zeros(0)
        return _Detections(none, none, none, nothing, nothing, nothing, nothing, nothing, nothing)
    columns = [np.concatenate([p[k] for p in parts]) for k in range(len(parts[0]))]
    whole, real = [c.astype(np.int64) for c in columns[:3]], [c.astype(np.float64) for c in columns[3:]]
    return _Detections(whole[0], whole[1], whole[2], real[0], real[1], real[2], real[3], real[4], real[5])


def _reference_pairs(seen: _Detections, stars: Stars, reference: ReferenceStars) -> Pairs:
    """Return detection minus reference star, clipped."""
    rows = np.flatnonzero(stars.star >= 0)
    rows = rows[stars.reference[stars.star[rows]] >= 0]
    partner = stars.reference[stars.star[rows]]
    gap = _gap(seen, rows, reference.ra_deg[partner], reference.dec_deg[partner])
    return _pairs(seen, rows, partner, gap, _clip(gap))


def _internal_pairs(seen: _Detections, stars: Stars) -> Pairs:
    """Return detections minus the weighted mean of their star's, stretched by 1 / sqrt(1 - share in the mean).

    Clipped detections leave the mean and the clipping is done again.
    """
    count = stars.reference.size
    rows = np.flatnonzero(stars.star >= 0)
    star, weight = stars.star[rows], 1.0 / seen.sigma_mas[rows] ** 2
    vectors = unit_vectors(seen.ra_deg[rows], seen.dec_deg[rows])
    used = np.ones(rows.size, bool)
    gap = np.zeros((rows.size, 2))
    linked = used
    for _ in range(CLIP_PASSES):
        linked = (np.bincount(star[used], minlength=count) >= 2)[star] if rows.size else used
        heavy = np.bincount(star, weight * used, minlength=count)
        mean = np.stack([np.bincount(star, weight * used * vectors[:, k], minlength=count) for k in range(3)], axis=1)
        ra, dec = sky_angles(np.where(heavy[:, None] > 0, mean, [1.0, 0.0, 0.0]))
        share = np.where(used, weight / np.where(heavy > 0, heavy, 1.0)[star], 0.0) if rows.size else weight
        gap = _gap(seen, rows, ra[star], dec[star]) / np.sqrt(np.maximum(1.0 - share, 0.02))[:, None]
        kept = linked.copy()
        kept[linked] = _clip(gap[linked])
        if np.array_equal(kept, used & linked):
            break
        used = kept
    return _pairs(seen, rows[linked], star[linked], gap[linked], (used & linked)[linked])


def _gap(seen: _Detections, rows: Ints, ra_deg: Floats, dec_deg: Floats) -> Floats:
    """Return offsets of detections from positions, along RA and Dec, mas."""
    east, north = _offsets(seen.ra_deg[rows], seen.dec_deg[rows], ra_deg, dec_deg)
    return np.stack([east, north], axis=1)


def _offsets(ra: Floats, dec: Floats, ra0: Floats, dec0: Floats) -> tuple[Floats, Floats]:
    """Return tangent-plane offsets in mas, each point about its own centre (gnomonic projection, first order exact)."""
    d_ra = np.radians((ra - ra0 + 180.0) % 360.0 - 180.0)
    d, d0 = np.radians(dec), np.radians(dec0)
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(d_ra)
    east = np.cos(d) * np.sin(d_ra) / depth
    north = (np.sin(d - d0) + 2.0 * np.sin(d0) * np.cos(d) * np.sin(0.5 * d_ra) ** 2) / depth
    return np.degrees(east) * MAS_PER_DEG, np.degrees(north) * MAS_PER_DEG


def _clip(gap: Floats) -> Bools:
    """Tell which offsets lie within a few sigma; the scatter per axis is that of a Rayleigh median, then the rms."""
    size = np.hypot(gap[:, 0], gap[:, 1])
    used = np.isfinite(size)
    if not used.any():
        return used
    sigma = float(np.median(size[used])) / RAYLEIGH_MEDIAN
    for _ in range(CLIP_PASSES):
        kept = np.isfinite(size) & (size <= np.sqrt(2.0) * CLIP_SIGMA * max(sigma, 1e-9))
        if np.array_equal(kept, used) or not kept.any():
            break
        used = kept
        sigma = float(np.sqrt(np.mean(size[used] ** 2) / 2.0))
    return used


def _pairs(seen: _Detections, rows: Ints, partner: Ints, gap: Floats, used: Bools) -> Pairs:
    return Pairs(
        exposure=seen.exposure[rows],
        detector=seen.detector[rows],
        source=seen.source[rows],
        partner=partner,
        x_pix=seen.x_pix[rows],
        y_pix=seen.y_pix[rows],
        ra_deg=seen.ra_deg[rows],
        dec_deg=seen.dec_deg[rows],
        d_ra_mas=gap[:, 0],
        d_dec_mas=gap[:, 1],
        snr=seen.snr[rows],
        used=used,
    )


def rms_of(pairs: Pairs, high_snr: float, exposure: int | None = None) -> tuple[float, float]:
    """Return the rms per axis (RA, Dec), mas, of used pairs of high S/N (of all used where those are few)."""
    mine = pairs.used if exposure is None else pairs.used & (pairs.exposure == exposure)
    chosen = mine & (pairs.snr > high_snr)
    if int(chosen.sum()) < ENOUGH_PAIRS:
        chosen = mine
    if not chosen.any():
        return float("nan"), float("nan")
    return float(np.sqrt(np.mean(pairs.d_ra_mas[chosen] ** 2))), float(np.sqrt(np.mean(pairs.d_dec_mas[chosen] ** 2)))


def _mean_axis(axes: tuple[float, float]) -> float:
    return float(np.sqrt((axes[0] ** 2 + axes[1] ** 2) / 2.0))


def _affine(
    one: ExposureSources, layout: InstrumentLayout, solutions: tuple[DetectorSolution, ...]
) -> tuple[Floats, Floats]:
    """Return the linear map from the nominal focal plane to the sky's tangent plane at the pointing, and its shift."""
    nominal, found = [], []
    for place, solution in zip(layout.detectors, solutions, strict=True):
        grid = np.meshgrid(np.linspace(0, place.width_pix - 1, 5), np.linspace(0, place.height_pix - 1, 5))
        x, y = (axis.ravel() for axis in grid)
        nominal.append(np.stack([x - place.crpix_x_pix, y - place.crpix_y_pix], axis=1) @ place.cd_deg_per_pix.T)
        ra, dec = pixel_to_sky(solution, x, y)
        found.append(np.stack(tangent_project(ra, dec, one.ra_deg, one.dec_deg), axis=1))
    plane = np.concatenate(nominal)
    design = np.column_stack([np.ones(len(plane)), plane])
    terms = np.linalg.lstsq(design, np.concatenate(found), rcond=None)[0]
    return terms[1:].T, terms[0]


def _exposure_measures(
    index: int,
    one: ExposureSources,
    ensemble: Ensemble,
    solutions: tuple[DetectorSolution, ...],
    match: PatternMatch,
    to_reference: Pairs,
    internal: Pairs,
    rules: MeasureRules,
) -> ExposureMeasures:
    layout = next(i for i in ensemble.instruments if i.name == one.instrument)
    total, shift = _affine(one, layout, solutions)
    ra, dec = tangent_deproject(shift[0], shift[1], one.ra_deg, one.dec_deg)
    singular = np.linalg.svd(total, compute_uv=False)
    scale = float(np.sqrt(singular[0] * singular[1]))
    nominal = [float(np.sqrt(abs(np.linalg.det(d.cd_deg_per_pix)))) * 3600.0 for d in layout.detectors]
    return ExposureMeasures(
        exposure=one.name,
        n_sources=int(np.count_nonzero(one.usable)),
        n_reference=int(np.count_nonzero(to_reference.used & (to_reference.exposure == index))),
        n_internal=int(np.count_nonzero(internal.used & (internal.exposure == index))),
        n_matched=match.n_matched,
        n_expected=match.n_expected,
        contrast=match.contrast,
        false_alarm_probability=match.false_alarm_probability,
        ra_deg=float(ra),
        dec_deg=float(dec),
        pointing_offset_arcsec=float(angular_separation(ra, dec, one.ra_deg, one.dec_deg)) * 3600.0,
        pixel_scale_arcsec=float(np.median(nominal)) * scale,
        scale_change=scale - 1.0,
        rotation_deg=float(np.degrees(np.arctan2(total[0, 1], total[1, 1]))),
        shear=float(singular[0] / singular[1] - 1.0),
        parity=1 if np.linalg.det(total) > 0.0 else -1,
        reference_rms_mas=_mean_axis(rms_of(to_reference, rules.high_snr, index)),
        internal_rms_mas=_mean_axis(rms_of(internal, rules.high_snr, index)),
        tied_by_overlaps=False,
    )

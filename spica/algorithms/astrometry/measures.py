"""From the last state to figures, residual tables and one WCS per exposure and detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry.associate import Stars
from spica.algorithms.astrometry.ensemble import (
    AstrometryParameters,
    AstrometrySolution,
    DegreeFallback,
    Ensemble,
    ExposureMeasures,
    ExposureOutcome,
    Pairs,
    ReferenceStars,
)
from spica.algorithms.astrometry.model import Chip, Observations, State, polynomial_terms
from spica.algorithms.astrometry.normal import FreeParameters, ReferencePlaces, Residuals, Weights, star_residuals
from spica.algorithms.astrometry.start import Start
from spica.algorithms.astrometry.tpv import DetectorSolution, linear_and_polynomial
from spica.algorithms.skymap import ARCSEC_PER_RAD, angular_separation, sky_angles

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAS_PER_RAD = 1000.0 * ARCSEC_PER_RAD
ENOUGH_PAIRS = 10


@dataclass(frozen=True)
class Solved:
    """Everything the iteration leaves behind."""

    ensemble: Ensemble
    chips: list[Chip]
    observations: Observations
    places: ReferencePlaces
    parameters: AstrometryParameters
    start: Start
    state: State
    stars: Stars
    weights: Weights
    free: FreeParameters
    alive: tuple[bool, ...]
    failures: tuple[ExposureOutcome | None, ...]
    fallbacks: tuple[DegreeFallback, ...]
    factor: float
    extra_rad: float
    radius_rad: float
    chip_group: Ints
    exposure_group: Ints


def summarise(solved: Solved, reference: ReferenceStars) -> AstrometrySolution:
    """Assemble the solution's tables and figures."""
    residuals, _, _ = star_residuals(solved.observations, solved.state, solved.stars, solved.weights, solved.places)
    to_reference = _reference_pairs(solved, residuals)
    internal = _internal_pairs(solved, residuals)
    polynomial = _with_kept_chips(solved)
    chi2, n_degrees = _chi2(solved, residuals)
    internal_2 = _rms(internal, solved.parameters.high_snr)
    reference_2 = _rms(to_reference, solved.parameters.high_snr)
    measures = tuple(
        _exposure_measures(solved, index, polynomial, to_reference, internal)
        for index in np.flatnonzero(solved.alive).tolist()
    )
    clipped = (solved.stars.star >= 0) & (solved.weights.detection <= 0.0)
    return AstrometrySolution(
        detectors=_detector_solutions(solved, polynomial),
        exposures=measures,
        exposure_outcomes=_outcomes(solved, {m.exposure: m for m in measures}),
        degree_fallbacks=solved.fallbacks,
        reference_pairs=to_reference,
        internal_pairs=internal,
        internal_rms_mas=_mean_axis(internal_2),
        internal_rms_mas_2=internal_2,
        reference_rms_mas=_mean_axis(reference_2),
        reference_rms_mas_2=reference_2,
        n_reference=int(to_reference.used.sum()),
        n_internal=int(internal.used.sum()),
        n_clipped=int(clipped.sum()),
        chi2=chi2,
        n_degrees=n_degrees,
        internal_error_factor=solved.factor,
        reference_extra_mas=solved.extra_rad * MAS_PER_RAD,
        match_radius_arcsec=solved.radius_rad * ARCSEC_PER_RAD,
        epoch_year=_epoch(solved.ensemble, reference),
        reference_name=reference.name,
    )


def _epoch(ensemble: Ensemble, reference: ReferenceStars) -> float:
    dates = np.array([exposure.epoch_year for exposure in ensemble.exposures])
    if reference.pm_ra_masyr is None or not np.isfinite(reference.epoch_year):
        return float("nan")
    return float(np.median(dates[np.isfinite(dates)])) if np.isfinite(dates).any() else reference.epoch_year


def _table(solved: Solved, rows: Ints, partner: Ints, gap: Floats, basis: Floats, place: Floats, used: Bools) -> Pairs:
    observations = solved.observations
    flat = np.concatenate([place, np.ones((rows.size, 1))], axis=1)
    ra, dec = sky_angles(np.einsum("ni,nij->nj", flat, basis))
    chip = np.array([chip.detector for chip in solved.chips], dtype=np.int64)
    return Pairs(
        exposure=observations.exposure[rows],
        detector=chip[observations.chip[rows]] if rows.size else np.zeros(0, dtype=np.int64),
        source=observations.source[rows],
        partner=partner,
        x_pix=observations.x_pix[rows],
        y_pix=observations.y_pix[rows],
        ra_deg=np.asarray(ra),
        dec_deg=np.asarray(dec),
        d_ra_mas=gap[:, 0] * MAS_PER_RAD,
        d_dec_mas=gap[:, 1] * MAS_PER_RAD,
        snr=observations.snr[rows],
        used=used,
    )


def _reference_pairs(solved: Solved, residuals: Residuals) -> Pairs:
    stars, weights = solved.stars, solved.weights
    rows = np.flatnonzero(stars.star >= 0)
    rows = rows[stars.reference[stars.star[rows]] >= 0]
    star = stars.star[rows]
    place = residuals.detection[rows]
    used = (weights.detection[rows] > 0.0) & (weights.reference[star] > 0.0)
    gap = place - residuals.reference[star]
    return _table(solved, rows, stars.reference[star], gap, residuals.basis[star], place, used)


def _internal_pairs(solved: Solved, residuals: Residuals) -> Pairs:
    """Detections of stars seen at least twice about the weighted mean of the used ones.

    A used detection's residual is divided by sqrt(1 - w / W), its share in the mean, so that its scatter is that
    of a single detection.
    """
    stars, weight = solved.stars, solved.weights.detection
    count = stars.reference.size
    rows = np.flatnonzero(stars.star >= 0)
    total = np.bincount(stars.star[rows], weight[rows] > 0.0, minlength=count).astype(np.int64)
    rows = rows[total[stars.star[rows]] >= 2]
    star, place = stars.star[rows], residuals.detection[rows]
    heavy = np.bincount(star, weight[rows], minlength=count)
    mean: Floats = np.stack([np.bincount(star, weight[rows] * place[:, k], minlength=count) for k in (0, 1)], axis=1)
    mean = mean / np.where(heavy > 0.0, heavy, 1.0)[:, None]
    share = 1.0 - weight[rows] / np.where(heavy > 0.0, heavy, 1.0)[star]
    used = weight[rows] > 0.0
    gap = place - mean[star]
    stretch = np.where(used, 1.0 / np.sqrt(np.maximum(share, 0.02)), 1.0)
    return _table(solved, rows, star, gap * stretch[:, None], residuals.basis[star], place, used)


def _rms(pairs: Pairs, high_snr: float) -> tuple[float, float]:
    chosen = pairs.used & (pairs.snr > high_snr)
    if int(chosen.sum()) < ENOUGH_PAIRS:
        chosen = pairs.used
    if not chosen.any():
        return float("nan"), float("nan")
    return float(np.sqrt(np.mean(pairs.d_ra_mas[chosen] ** 2))), float(np.sqrt(np.mean(pairs.d_dec_mas[chosen] ** 2)))


def _mean_axis(axes: tuple[float, float]) -> float:
    return float(np.sqrt((axes[0] ** 2 + axes[1] ** 2) / 2.0))


def _chi2(solved: Solved, residuals: Residuals) -> tuple[float, int]:
    rows = solved.weights.detection > 0.0
    held = solved.weights.reference > 0.0
    chi2 = float((solved.weights.detection[rows, None] * residuals.detection[rows] ** 2).sum())
    chi2 += float((solved.weights.reference[held, None] * residuals.reference[held] ** 2).sum())
    n_stars = int(np.count_nonzero(residuals.total > 0.0))
    degrees = solved.free.chip_degree[solved.free.chip_degree >= 0]
    n_free = int(solved.free.exposure.sum()) + int(((degrees + 1) * (degrees + 2)).sum())
    n_free -= 6 * int(np.unique(solved.free.exposure_group[solved.free.exposure > 0]).size)
    return chi2, max(2 * (int(rows.sum()) + int(held.sum()) - n_stars) - n_free, 0)


def _with_kept_chips(solved: Solved) -> Floats:
    """Carry chips without stars along with their instrument: the affine map nominal -> solved of the other chips."""
    polynomial = solved.state.polynomial.copy()
    for group in np.unique(solved.chip_group):
        members = np.flatnonzero(solved.chip_group == group)
        kept = members[solved.free.chip_degree[members] < 0]
        done = members[solved.free.chip_degree[members] >= 0]
        if kept.size == 0 or done.size == 0:
            continue
        nominal, found = _corner_map(solved, done, polynomial)
        design = np.column_stack([np.ones(nominal.shape[0]), nominal])
        affine = np.linalg.lstsq(design, found, rcond=None)[0]
        for chip in kept:
            polynomial[chip] = 0.0
            polynomial[chip, :3] = solved.chips[chip].nominal @ affine[1:]
            polynomial[chip, 0] += affine[0]
    return polynomial


def _corner_map(solved: Solved, chips: Ints, polynomial: Floats) -> tuple[Floats, Floats]:
    """Return nominal and solved focal positions (n, 2) of a 5 x 5 grid on each chip."""
    nominal, found = [], []
    for chip in chips:
        layout = solved.chips[chip].layout
        x, y = (
            a.ravel()
            for a in np.meshgrid(np.linspace(0, layout.width_pix - 1, 5), np.linspace(0, layout.height_pix - 1, 5))
        )
        of = np.full(x.size, chip, dtype=np.int64)
        terms = polynomial_terms(solved.chips, of, x, y, solved.parameters.degree)
        nominal.append(terms[:, :3] @ solved.chips[chip].nominal)
        found.append(terms @ polynomial[chip])
    return np.concatenate(nominal), np.concatenate(found)


def _detector_solutions(solved: Solved, polynomial: Floats) -> tuple[DetectorSolution, ...]:
    found = []
    for index in np.flatnonzero(solved.alive):
        exposure = solved.ensemble.exposures[index]
        ra, dec = sky_angles(solved.state.basis[index, 2])
        if solved.state.basis[index, 2, 2] in (1.0, -1.0):
            ra = np.degrees(np.arctan2(-solved.state.basis[index, 0, 0], solved.state.basis[index, 0, 1])) % 360.0
        for number in np.flatnonzero(solved.chip_group == solved.exposure_group[index]):
            chip = solved.chips[number]
            terms = np.degrees(polynomial[number] @ solved.state.attitude[index].T)
            cd, crpix, pv1, pv2 = linear_and_polynomial(
                terms, solved.parameters.degree, chip.centre, chip.half_size_pix
            )
            found.append(
                DetectorSolution(
                    exposure.name, exposure.instrument, chip.detector, chip.layout.width_pix, chip.layout.height_pix,
                    float(ra), float(dec), crpix[0], crpix[1], cd, pv1, pv2,
                )
            )  # fmt: skip
    return tuple(found)


def _exposure_measures(
    solved: Solved, index: int, polynomial: Floats, to_reference: Pairs, internal: Pairs
) -> ExposureMeasures:
    exposure, match = solved.ensemble.exposures[index], solved.start.matches[index]
    chips = np.flatnonzero(solved.chip_group == solved.exposure_group[index])
    nominal, focal = _corner_map(solved, chips, polynomial)
    design = np.column_stack([np.ones(nominal.shape[0]), nominal])
    total = np.linalg.lstsq(design, focal @ solved.state.attitude[index].T, rcond=None)[0][1:].T
    singular = np.linalg.svd(total, compute_uv=False)
    scale = float(np.sqrt(singular[0] * singular[1]))
    parity = 1 if np.linalg.det(total) > 0.0 else -1
    ra, dec = sky_angles(solved.state.basis[index, 2])
    mine, ours = to_reference.exposure == index, internal.exposure == index
    pixel = float(np.median([solved.chips[chip].scale_rad for chip in chips])) * ARCSEC_PER_RAD
    return ExposureMeasures(
        exposure=exposure.name,
        n_sources=int(np.count_nonzero(solved.observations.exposure == index)),
        n_reference=int(np.count_nonzero(to_reference.used[mine])),
        n_internal=int(np.count_nonzero(internal.used[ours])),
        n_matched=match.n_matched if match else 0,
        n_expected=match.n_expected if match else 0,
        contrast=match.contrast if match else 0.0,
        false_alarm_probability=match.false_alarm_probability if match else 1.0,
        ra_deg=float(ra),
        dec_deg=float(dec),
        pointing_offset_arcsec=float(angular_separation(ra, dec, exposure.ra_deg, exposure.dec_deg)) * 3600.0,
        pixel_scale_arcsec=pixel * scale,
        scale_change=scale - 1.0,
        rotation_deg=float(np.degrees(np.arctan2(total[0, 1], total[1, 1]))),
        shear=float(singular[0] / singular[1] - 1.0),
        parity=parity,
        reference_rms_mas=_mean_axis(_rms(_select(to_reference, mine), solved.parameters.high_snr)),
        internal_rms_mas=_mean_axis(_rms(_select(internal, ours), solved.parameters.high_snr)),
        tied_by_overlaps=solved.start.tied[index],
    )


def _select(pairs: Pairs, rows: Bools) -> Pairs:
    return Pairs(*(getattr(pairs, name)[rows] for name in Pairs.__dataclass_fields__))


def _outcomes(solved: Solved, measures: dict[str, ExposureMeasures]) -> tuple[ExposureOutcome, ...]:
    outcomes = []
    fallen = {(one.instrument, one.detector) for one in solved.fallbacks}
    for index, exposure in enumerate(solved.ensemble.exposures):
        failure = solved.failures[index]
        if failure is not None:
            outcomes.append(failure)
            continue
        seen, least = measures[exposure.name], float(solved.parameters.min_stars_per_exposure)
        if seen.tied_by_overlaps:
            text = "placed by overlaps with other exposures: too few reference stars matched"
            outcomes.append(ExposureOutcome(exposure.name, "used_with_warning", "tied_by_overlaps", text,
                                            float(seen.n_reference), least))  # fmt: skip
        elif any(one[0] == exposure.instrument for one in fallen):
            text = "too few stars for the degree asked on some detectors; a lower degree was used"
            outcomes.append(ExposureOutcome(exposure.name, "used_with_warning", "degree_lowered", text,
                                            float(min(one.degree for one in solved.fallbacks)),
                                            float(solved.parameters.degree)))  # fmt: skip
        else:
            outcomes.append(ExposureOutcome(exposure.name, "used", "used", "solved", float(seen.n_reference), least))
    return tuple(outcomes)

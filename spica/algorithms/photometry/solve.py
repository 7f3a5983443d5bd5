"""The zero point solution: gather, fit, clip, summarise."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from spica.algorithms.photometry.fit import (
    Photometry,
    ZeroPointFit,
    clip_outliers,
    error_scales,
    fit_zero_points,
    fresh_weights,
    still_used,
    sum_of_stars,
    variable_stars,
)
from spica.algorithms.photometry.solution import PhotometryParameters, ZeroPointOutcome, ZeroPointSolution

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAG_PER_RELATIVE_ERROR = 2.5 / float(np.log(10.0))
MAX_UNKNOWNS = 6000


def solve_zero_points(
    flux_adu: ArrayLike,
    flux_error_adu: ArrayLike,
    exptime_s: ArrayLike,
    exposure: ArrayLike,
    star: ArrayLike,
    *,
    detector: ArrayLike | None = None,
    usable: ArrayLike | None = None,
    airmass: ArrayLike | None = None,
    reference_mag: ArrayLike | None = None,
    reference_error_mag: ArrayLike | None = None,
    n_detectors: int | None = None,
    parameters: PhotometryParameters | None = None,
) -> ZeroPointSolution:
    """Solve the zero points of an ensemble.

    Parameters
    ----------
    flux_adu, flux_error_adu, exposure, star, detector, usable : (N,) one element a detection. `exposure` and `star`
        index the arrays below; a star of -1 is ignored. `usable` False for saturated or flagged detections.
    exptime_s, airmass : (E,) per exposure, seconds; a NaN airmass counts as 1.
    reference_mag, reference_error_mag : (S,) per star, NaN unknown. None: relative zero points only; a single exposure
        without is at relative zero point 0.

    Raises
    ------
    ValueError
        Lengths or indices that contradict each other, or an exposure time that is not positive.
    """
    rules = parameters or PhotometryParameters()
    data = _gather(flux_adu, flux_error_adu, exptime_s, exposure, star, detector, usable, airmass, reference_mag,
                   reference_error_mag, n_detectors, rules)  # fmt: skip
    weights = fresh_weights(data, 1.0, 0.0)
    variable = np.zeros(data.reference.size, dtype=bool)
    factor, extra = 1.0, 0.0
    fit = fit_zero_points(data, weights.detection, weights.reference, rules)
    for turn in range(rules.n_clips):
        before = (factor, extra)
        factor, extra = error_scales(data, fit, weights.detection, weights.reference, factor, extra)
        fresh = fresh_weights(data, factor, extra)
        if (factor, extra) != before:  # residuals share out between detections and reference by the weights of the fit
            weights = still_used(fresh, weights)
            fit = fit_zero_points(data, weights.detection, weights.reference, rules)
        if turn >= 2:
            variable = variable_stars(data, fit, fresh.detection, rules)
        kept = clip_outliers(data, fit, fresh, weights, variable, rules)
        same = np.array_equal(kept.detection, weights.detection) and np.array_equal(kept.reference, weights.reference)
        weights = kept
        fit = fit_zero_points(data, weights.detection, weights.reference, rules)
        if same and turn > 2:
            break
    weight, reference_weight = weights.detection, weights.reference
    return _summarise(data, fit, weight, reference_weight, variable, (factor, extra), np.asarray(exptime_s), rules)


def _gather(
    flux_adu: ArrayLike, flux_error_adu: ArrayLike, exptime_s: ArrayLike, exposure: ArrayLike, star: ArrayLike,
    detector: ArrayLike | None, usable: ArrayLike | None, airmass: ArrayLike | None, reference_mag: ArrayLike | None,
    reference_error_mag: ArrayLike | None, n_detectors: int | None, rules: PhotometryParameters,
) -> Photometry:  # fmt: skip
    flux, error = np.asarray(flux_adu, dtype=np.float64), np.asarray(flux_error_adu, dtype=np.float64)
    time = np.asarray(exptime_s, dtype=np.float64)
    of, which = np.asarray(exposure, dtype=np.int64), np.asarray(star, dtype=np.int64)
    chip = np.zeros(flux.size, dtype=np.int64) if detector is None else np.asarray(detector, dtype=np.int64)
    allowed = np.ones(flux.size, dtype=bool) if usable is None else np.asarray(usable, dtype=bool)
    if len({a.shape for a in (flux, error, of, which, chip, allowed)}) != 1:
        raise ValueError("the columns of the detections differ in length; pass one value per detection")
    if time.size == 0 or not np.all(time > 0.0):
        raise ValueError("every exposure needs a positive exposure time; correct or leave out those without")
    if of.size and (of.min() < 0 or of.max() >= time.size or chip.min() < 0):
        raise ValueError("an exposure or detector index lies outside its list; correct the indices")
    chips = max(int(chip.max()) + 1 if chip.size else 1, n_detectors or 1)
    if time.size + chips > MAX_UNKNOWNS:
        raise ValueError(f"{time.size + chips} unknowns exceed {MAX_UNKNOWNS}; split the ensemble into groups")
    n_stars = max(int(which.max()) + 1, 1) if which.size else 0
    reference = _padded(reference_mag, n_stars)
    given = _padded(reference_error_mag, reference.size)
    with np.errstate(all="ignore"):
        magnitude_error = MAG_PER_RELATIVE_ERROR * error / flux
        mag = -2.5 * np.log10(flux / time[of])
    air = np.ones(time.size) if airmass is None else np.asarray(airmass, dtype=np.float64)
    mag = mag - rules.extinction_mag_per_airmass * (np.where(np.isfinite(air), air, 1.0)[of] - 1.0)
    good = (
        allowed & (which >= 0) & np.isfinite(mag) & (magnitude_error > 0.0) & (magnitude_error <= rules.max_error_mag)
    )
    variance = np.where(good, magnitude_error**2 + rules.error_floor_mag**2, 1.0)
    given = np.where(given > 0.0, given, rules.default_reference_error_mag)
    return Photometry(
        np.where(good, mag, 0.0), variance, of, chip, np.maximum(which, 0), time.size, chips, reference,
        given**2 + rules.reference_error_floor_mag**2, good,
        _star_groups(of[good], which[good], time.size, reference.size),
    )  # fmt: skip


def _star_groups(exposure: Ints, star: Ints, n_exposures: int, n_stars: int) -> Ints:
    """Return the linked group of each star, -1 without a detection."""
    size = n_exposures + n_stars
    graph = coo_array((np.ones(star.size), (exposure, star + n_exposures)), shape=(size, size))
    label = connected_components(graph, directed=False)[1][n_exposures:].astype(np.int64)
    return np.where(np.bincount(star, minlength=n_stars) > 0, label, -1)


def _padded(values: ArrayLike | None, count: int) -> Floats:
    """Return a column of at least `count` stars, NaN where unknown."""
    column = np.zeros(0) if values is None else np.asarray(values, dtype=np.float64).ravel()
    return np.concatenate([column, np.full(max(count - column.size, 0), np.nan)])


def _groups(data: Photometry, weight: Floats, reference_weight: Floats) -> tuple[Ints, Bools]:
    """Return each exposure's linked group (-1 without stars) and whether a reference holds it."""
    rows = np.flatnonzero(weight > 0.0)
    size = data.n_exposures + data.reference.size
    ends = (data.exposure[rows], data.star[rows] + data.n_exposures)
    label = connected_components(coo_array((np.ones(rows.size), ends), shape=(size, size)), directed=False)[1]
    mine = label[: data.n_exposures]
    held = np.isin(mine, label[data.n_exposures :][reference_weight > 0.0])
    seen = np.bincount(data.exposure[rows], minlength=data.n_exposures) > 0
    group = np.full(data.n_exposures, -1, dtype=np.int64)
    for number, one in enumerate(dict.fromkeys(mine[seen].tolist())):
        group[(mine == one) & seen] = number
    return group, held & seen


def _summarise(
    data: Photometry, fit: ZeroPointFit, weight: Floats, reference_weight: Floats, variable: Bools,
    scales: tuple[float, float], exptime_s: Floats, rules: PhotometryParameters,
) -> ZeroPointSolution:  # fmt: skip
    group, held = _groups(data, weight, reference_weight)
    zero = fit.unknowns[: data.n_exposures]
    offset = fit.unknowns[data.n_exposures :]
    if rules.solve_detector_offsets:
        seen = np.bincount(data.detector[weight > 0.0], minlength=data.n_detectors) > 0
        middle = float(offset[seen].mean()) if seen.any() else 0.0
        zero, offset = zero + middle, np.where(seen, offset - middle, 0.0)
    linked = _linked_stars(data, weight)
    number = np.bincount(data.exposure[linked], minlength=data.n_exposures)
    anchored = np.bincount(data.exposure[(weight > 0.0) & (reference_weight > 0.0)[data.star]],
                           minlength=data.n_exposures)  # fmt: skip
    relative = np.full(data.n_exposures, np.nan)
    for one in range(int(group.max()) + 1 if group.size else 0):
        relative[group == one] = zero[group == one] - zero[group == one].mean()
    is_absolute = bool(np.any(reference_weight > 0.0))
    if data.n_exposures == 1 and not is_absolute:  # an exposure alone is its own group, with stars or without
        group, relative = np.zeros(1, dtype=np.int64), np.zeros(1)
    outcomes = tuple(_outcome(k, group, held, number + anchored, is_absolute, rules) for k in range(data.n_exposures))
    good = np.array([one.outcome != "left_out" for one in outcomes])
    absolute = np.where(held & good, zero, np.nan)
    relative = np.where((group >= 0) & (good | ~held), relative, np.nan)
    level = absolute if is_absolute else relative + rules.target_zero_point_mag
    scale = 10.0 ** (0.4 * (rules.target_zero_point_mag - level)) / np.asarray(exptime_s, dtype=np.float64)
    internal = _spread_of(np.where(linked, fit.residual, np.nan), data.exposure, data.n_exposures)
    tied = (weight > 0.0) & (reference_weight > 0.0)[data.star]
    to_reference = fit.residual + fit.reference_residual[data.star]
    return ZeroPointSolution(
        zero_point_mag=absolute,
        zero_point_error_mag=np.where(np.isfinite(absolute), fit.error[: data.n_exposures], np.nan),
        relative_zero_point_mag=relative,
        flux_scale=np.where(good, scale, np.nan),
        skyprobe_mag=_skyprobe(absolute if is_absolute else relative, is_absolute, rules),
        detector_offset_mag=offset,
        internal_rms_mag=internal[0],
        reference_rms_mag=_spread_of(np.where(tied, to_reference, np.nan), data.exposure, data.n_exposures)[0],
        n_stars=np.bincount(data.exposure[weight > 0.0], minlength=data.n_exposures).astype(np.int64),
        n_reference=anchored.astype(np.int64),
        total_internal_rms_mag=_rms(fit.residual[linked]),
        total_reference_rms_mag=_rms(to_reference[tied]),
        group=group,
        outcomes=outcomes,
        star_mag=np.where(fit.star_weight > 0.0, fit.star, np.nan),
        star_variable=variable,
        residual_mag=np.where(data.usable & (fit.star_weight > 0.0)[data.star], fit.residual, np.nan),
        used=weight > 0.0,
        reference_residual_mag=np.where(fit.star_weight > 0.0, fit.reference_residual, np.nan),
        reference_used=(reference_weight > 0.0) & (sum_of_stars(data, weight) > 0.0),
        error_factor=scales[0],
        reference_extra_mag=scales[1],
        is_absolute=is_absolute,
    )


def _linked_stars(data: Photometry, weight: Floats) -> Bools:
    """Tell detections of stars that at least two detections with weight share."""
    number = np.bincount(data.star[weight > 0.0], minlength=data.reference.size)
    linked: Bools = (weight > 0.0) & (number >= 2)[data.star] if number.size else weight > 0.0
    return linked


def _spread_of(values: Floats, index: Ints, count: int) -> tuple[Floats, Ints]:
    rows = np.isfinite(values)
    number = np.bincount(index[rows], minlength=count)
    total = np.bincount(index[rows], values[rows] ** 2, minlength=count)
    return np.where(number > 0, np.sqrt(total / np.maximum(number, 1)), np.nan), number.astype(np.int64)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else float("nan")


def _skyprobe(level: Floats, is_absolute: bool, rules: PhotometryParameters) -> Floats:
    known = level[np.isfinite(level)]
    nominal = rules.nominal_zero_point_mag if is_absolute else float("nan")
    if not np.isfinite(nominal):
        nominal = float(np.percentile(known, rules.envelope_percentile)) if known.size else float("nan")
    return nominal - level


def _outcome(
    index: int, group: Ints, held: Bools, number: Ints, is_absolute: bool, rules: PhotometryParameters
) -> ZeroPointOutcome:
    count, least = float(number[index]), float(rules.min_stars)
    if len(group) == 1 and not is_absolute:
        reason = "no reference magnitudes and no other exposure: its own fluxes are the scale"
        return ZeroPointOutcome(index, "used_with_warning", "relative_only", reason, count, least)
    if group[index] < 0 or count < least:
        reason = "too few unsaturated stars in common with other exposures or the reference; lower the limits of use"
        return ZeroPointOutcome(index, "left_out", "too_few_stars", reason, count, least)
    if is_absolute and not held[index]:
        reason = "no chain of common stars leads to a reference magnitude; only the relative zero point is known"
        return ZeroPointOutcome(index, "left_out", "not_linked", reason, 0.0, 1.0)
    if not is_absolute:
        reason = "no reference magnitudes: zero point relative to the mean of its group"
        return ZeroPointOutcome(index, "used_with_warning", "relative_only", reason, count, least)
    return ZeroPointOutcome(index, "used", "used", "solved", count, least)

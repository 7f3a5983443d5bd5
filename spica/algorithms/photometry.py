"""Photometric zero points of an ensemble: relative from common stars, absolute from reference magnitudes, in one solve.

A star of magnitude m on exposure e and detector d has m = -2.5 log10(flux / exptime) + zp_e + c_d - k (X_e - X_0).
Star magnitudes are unknown and eliminated: with weights w they take the optimum of their detections and of the
reference, which leaves normal equations of the size of the exposures (the same algebra as `astrometry`; own
derivation after the global photometric solutions of SCAMP and ubercal, Padmanabhan et al. 2008, ApJ 674, 1217).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAG_PER_RELATIVE_ERROR = 2.5 / float(np.log(10.0))
NORMAL_MEDIAN = 0.6744897501960817
MAX_UNKNOWNS = 6000


@dataclass(frozen=True)
class PhotometryParameters:
    """Choices of the zero point solution.

    `extinction_mag_per_airmass` 0 leaves extinction inside each zero point (then `airmass` has no effect).
    `nominal_zero_point_mag` NaN measures SkyProbe against the upper envelope of the ensemble: the
    `envelope_percentile` of its zero points. `max_error_mag` leaves out faint detections.
    """

    target_zero_point_mag: float = 30.0
    nominal_zero_point_mag: float = float("nan")
    envelope_percentile: float = 90.0
    solve_detector_offsets: bool = False
    extinction_mag_per_airmass: float = 0.0
    error_floor_mag: float = 0.005
    reference_error_floor_mag: float = 0.01
    default_reference_error_mag: float = 0.05
    max_error_mag: float = 0.1
    clip_sigma: float = 3.5
    n_clips: int = 12
    variable_sigma: float = 5.0
    min_stars: int = 3


@dataclass(frozen=True)
class ZeroPointOutcome:
    """What became of an exposure: `used`, `used_with_warning` or `left_out`; code, reason, figure and limit."""

    exposure: int
    outcome: str
    code: str
    reason: str
    value: float
    limit: float


@dataclass(frozen=True)
class ZeroPointSolution:
    """Zero points per exposure (E,), mag of 1 ADU/s; NaN where left out.

    Attributes
    ----------
    zero_point_mag, zero_point_error_mag : absolute where a reference holds the exposure's group, else NaN.
    relative_zero_point_mag : zero point minus the mean of its linked group; known without a reference too.
    flux_scale : factor that brings ADU of the exposure to ADU per second at the target zero point. With an absolute
        zero point; from relative zero points (the group's mean is the target) when the ensemble has no reference.
    skyprobe_mag : attenuation, nominal minus found zero point, positive under cloud.
    detector_offset_mag : (D,) added to magnitudes of a detector, mean 0; 0 unless solved.
    internal_rms_mag, reference_rms_mag, n_stars, n_reference : per exposure; `total_*` of the ensemble.
    group : (E,) linked group of each exposure, -1 without stars; `outcomes` one per exposure.
    star_mag (S,) calibrated magnitude (relative without reference), NaN unknown; `star_variable` left out as variable.
    residual_mag (N,) detection minus its star, NaN where not comparable; `used` (N,) whether it had weight.
    reference_residual_mag (S,) star minus reference; `reference_used` (S,).
    error_factor, reference_extra_mag : corrections of the given errors, as in the astrometric solution.
    """

    zero_point_mag: Floats
    zero_point_error_mag: Floats
    relative_zero_point_mag: Floats
    flux_scale: Floats
    skyprobe_mag: Floats
    detector_offset_mag: Floats
    internal_rms_mag: Floats
    reference_rms_mag: Floats
    n_stars: Ints
    n_reference: Ints
    total_internal_rms_mag: float
    total_reference_rms_mag: float
    group: Ints
    outcomes: tuple[ZeroPointOutcome, ...]
    star_mag: Floats
    star_variable: Bools
    residual_mag: Floats
    used: Bools
    reference_residual_mag: Floats
    reference_used: Bools
    error_factor: float
    reference_extra_mag: float
    is_absolute: bool


@dataclass(frozen=True)
class _Data:
    """Instrumental magnitudes and variances of usable detections, and of each star's reference (NaN without)."""

    mag: Floats
    variance: Floats
    exposure: Ints
    detector: Ints
    star: Ints
    n_exposures: int
    n_detectors: int
    reference: Floats
    reference_variance: Floats
    usable: Bools


@dataclass(frozen=True)
class _Weights:
    detection: Floats
    reference: Floats


@dataclass(frozen=True)
class _Fit:
    unknowns: Floats
    error: Floats
    star: Floats
    star_weight: Floats
    residual: Floats
    reference_residual: Floats


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
    reference_mag, reference_error_mag : (S,) per star, NaN unknown. None: relative zero points only.

    Raises
    ------
    ValueError
        Lengths or indices that contradict each other, or an exposure time that is not positive.
    """
    rules = parameters or PhotometryParameters()
    data = _gather(flux_adu, flux_error_adu, exptime_s, exposure, star, detector, usable, airmass, reference_mag,
                   reference_error_mag, n_detectors, rules)  # fmt: skip
    weights = _weights(data, 1.0, 0.0)
    variable = np.zeros(data.reference.size, dtype=bool)
    factor, extra = 1.0, 0.0
    fit = _fit(data, weights.detection, weights.reference, rules)
    for turn in range(rules.n_clips):
        factor, extra = _error_scales(data, fit, weights.detection, weights.reference, factor, extra)
        fresh = _weights(data, factor, extra)
        if turn >= 2:
            variable = _variable_stars(data, fit, fresh.detection, rules)
        kept = _clip(data, fit, fresh, weights, variable, rules)
        same = np.array_equal(kept.detection, weights.detection) and np.array_equal(kept.reference, weights.reference)
        weights = kept
        fit = _fit(data, weights.detection, weights.reference, rules)
        if same and turn > 2:
            break
    weight, reference_weight = weights.detection, weights.reference
    return _summarise(data, fit, weight, reference_weight, variable, (factor, extra), np.asarray(exptime_s), rules)


def _gather(
    flux_adu: ArrayLike, flux_error_adu: ArrayLike, exptime_s: ArrayLike, exposure: ArrayLike, star: ArrayLike,
    detector: ArrayLike | None, usable: ArrayLike | None, airmass: ArrayLike | None, reference_mag: ArrayLike | None,
    reference_error_mag: ArrayLike | None, n_detectors: int | None, rules: PhotometryParameters,
) -> _Data:  # fmt: skip
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
    n_stars = int(which.max()) + 1 if which.size and which.max() >= 0 else 0
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
    return _Data(
        np.where(good, mag, 0.0), variance, of, chip, np.maximum(which, 0), time.size, chips, reference,
        given**2 + rules.reference_error_floor_mag**2, good,
    )  # fmt: skip


def _padded(values: ArrayLike | None, count: int) -> Floats:
    """Return a column of at least `count` stars, NaN where unknown."""
    column = np.zeros(0) if values is None else np.asarray(values, dtype=np.float64).ravel()
    return np.concatenate([column, np.full(max(count - column.size, 0), np.nan)])


def _weights(data: _Data, factor: float, extra: float) -> _Weights:
    known = np.isfinite(data.reference)
    weight = np.where(data.usable, 1.0 / (data.variance * factor**2), 0.0)
    return _Weights(weight, np.where(known, 1.0 / (data.reference_variance + extra**2), 0.0))


def _sum(data: _Data, values: Floats) -> Floats:
    return np.bincount(data.star, values, minlength=data.reference.size).astype(np.float64)


def _fit(data: _Data, weight: Floats, reference_weight: Floats, rules: PhotometryParameters) -> _Fit:
    """Solve exposures' zero points and detector offsets with star magnitudes eliminated.

    The eigenvectors without information are the free levels of groups without a reference; the pseudo-inverse gives
    them mean 0.
    """
    n_stars, size = data.reference.size, data.n_exposures + data.n_detectors
    total = _sum(data, weight) + reference_weight
    inverse = np.where(total > 0.0, 1.0 / np.where(total > 0.0, total, 1.0), 0.0)
    reference = np.where(reference_weight > 0.0, data.reference, 0.0)
    mean = (_sum(data, weight * data.mag) + reference_weight * reference) * inverse
    rows = np.flatnonzero(weight > 0.0)
    columns = [data.exposure[rows]]
    if rules.solve_detector_offsets:
        columns.append(data.n_exposures + data.detector[rows])
    design = csr_array(
        (np.ones(rows.size * len(columns)), (np.tile(np.arange(rows.size), len(columns)), np.concatenate(columns))),
        shape=(rows.size, size),
    )
    heavy = design.multiply(weight[rows, None]).tocsr()
    of_star = csr_array((np.ones(rows.size), (data.star[rows], np.arange(rows.size))), shape=(n_stars, rows.size))
    sums = of_star @ heavy
    normal = (design.T @ heavy).toarray() - (sums.T @ sums.multiply(inverse[:, None])).toarray()
    gap = data.mag[rows] - mean[data.star[rows]]
    unknowns, error = _pseudo_solve(normal, -(heavy.T @ gap))
    level = unknowns[: data.n_exposures][data.exposure] + unknowns[data.n_exposures :][data.detector]
    calibrated = data.mag + level
    star = (_sum(data, weight * calibrated) + reference_weight * reference) * inverse
    residual = calibrated - star[data.star]
    return _Fit(unknowns, error, star, total, residual, star - data.reference)


def _pseudo_solve(normal: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Solve by eigenvectors, those without information (free levels) left at 0; return values and 1 sigma."""
    values, vectors = eigh((normal + normal.T) / 2.0)
    known = values > 1e-10 * max(float(values[-1]), 1e-300)
    inverse = np.where(known, 1.0 / np.where(known, values, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ right)), np.sqrt((vectors**2) @ inverse)


def _internal(data: _Data, weight: Floats, fit: _Fit) -> tuple[Floats, Floats, Floats]:
    """Return per star the mean of its detections and its weight, per detection its normalised gap to it (or NaN)."""
    total = _sum(data, weight)
    level = fit.residual + fit.star[data.star]
    mean = _sum(data, weight * level) / np.where(total > 0.0, total, 1.0)
    share = 1.0 - weight / np.where(total > 0.0, total, 1.0)[data.star]
    rows = (weight > 0.0) & (share > 1e-9)
    gap = np.full(weight.size, np.nan)
    gap[rows] = (level - mean[data.star])[rows] * np.sqrt(weight[rows] / share[rows])
    return mean, total, gap


def _error_scales(
    data: _Data, fit: _Fit, weight: Floats, reference_weight: Floats, factor: float, extra: float
) -> tuple[float, float]:
    """Estimate from medians how far the given errors are too small; needs 20 detections and 6 reference stars."""
    mean, total, gap = _internal(data, weight, fit)
    rows = np.isfinite(gap)
    if int(rows.sum()) >= 20:
        factor = max(1.0, factor * float(np.median(np.abs(gap[rows]))) / NORMAL_MEDIAN)
    held = (reference_weight > 0.0) & (total > 0.0)
    if int(held.sum()) >= 6:
        expected = 1.0 / total[held] + data.reference_variance[held]
        apart = np.abs(mean[held] - data.reference[held]) / np.sqrt(expected)
        excess = (float(np.median(apart)) / NORMAL_MEDIAN) ** 2 - 1.0
        extra = float(np.sqrt(excess * np.median(expected))) if excess > 5.0 / np.sqrt(held.sum()) else 0.0
    return factor, extra


def _variable_stars(data: _Data, fit: _Fit, fresh: Floats, rules: PhotometryParameters) -> Bools:
    """Tell stars whose detections, at least four, scatter more than their errors allow.

    The median distance from the star's median counts, clipped detections included: single outliers do not make a
    star variable.
    """
    level = fit.residual + fit.star[data.star]
    middle, number = _median_of_stars(data, level, fresh > 0.0)
    gap = np.abs(level - middle[data.star]) * np.sqrt(fresh)
    typical, _ = _median_of_stars(data, gap, fresh > 0.0)
    return (number >= 4) & (np.nan_to_num(typical) > rules.variable_sigma * NORMAL_MEDIAN)


def _median_of_stars(data: _Data, values: Floats, chosen: Bools) -> tuple[Floats, Ints]:
    """Return the median of every star's chosen values (NaN without) and their number."""
    rows = np.flatnonzero(chosen)
    order = rows[np.lexsort((values[rows], data.star[rows]))]
    number = np.bincount(data.star[rows], minlength=data.reference.size)
    first = np.cumsum(number) - number
    seen = np.flatnonzero(number > 0)
    median = np.full(number.size, np.nan)
    low, high = first[seen] + (number[seen] - 1) // 2, first[seen] + number[seen] // 2
    median[seen] = (values[order][low] + values[order][high]) / 2.0
    return median, number.astype(np.int64)


def _clip(
    data: _Data, fit: _Fit, fresh: _Weights, used: _Weights, variable: Bools, rules: PhotometryParameters
) -> _Weights:
    """Return fresh weights without variable stars and without what lies far from its star.

    Of the measurements in use only the worst of a star go, since they pull the others away; those out already stay
    out until they agree again.
    """
    gap = np.abs(fit.residual) * np.sqrt(fresh.detection / _rest(used.detection, fit.star_weight[data.star]))
    apart = np.where(fresh.reference > 0.0, np.abs(fit.reference_residual), 0.0)
    apart = apart * np.sqrt(fresh.reference / _rest(used.reference, fit.star_weight))
    worst = np.where(used.reference > 0.0, apart, 0.0)
    np.maximum.at(worst, data.star, np.where(used.detection > 0.0, gap, 0.0))
    bad = (gap > rules.clip_sigma) & ((used.detection <= 0.0) | (gap >= 0.7 * worst[data.star]))
    bad_reference = (apart > rules.clip_sigma) & ((used.reference <= 0.0) | (apart >= 0.7 * worst))
    return _Weights(
        np.where(bad | variable[data.star], 0.0, fresh.detection),
        np.where(bad_reference | variable, 0.0, fresh.reference),
    )


def _rest(own: Floats, total: Floats) -> Floats:
    """Return 1 - own / total, the share of a star's weight that is not the measurement's own, at least 1e-6."""
    return np.maximum(1.0 - own / np.where(total > 0.0, total, 1.0), 1e-6)


def _groups(data: _Data, weight: Floats, reference_weight: Floats) -> tuple[Ints, Bools]:
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
    data: _Data, fit: _Fit, weight: Floats, reference_weight: Floats, variable: Bools, scales: tuple[float, float],
    exptime_s: Floats, rules: PhotometryParameters,
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
        reference_used=(reference_weight > 0.0) & (_sum(data, weight) > 0.0),
        error_factor=scales[0],
        reference_extra_mag=scales[1],
        is_absolute=is_absolute,
    )


def _linked_stars(data: _Data, weight: Floats) -> Bools:
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

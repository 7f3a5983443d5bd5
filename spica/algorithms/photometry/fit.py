"""The normal equations of the zero points, star magnitudes eliminated, and robust weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_array

from spica.algorithms.photometry.solution import PhotometryParameters

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NORMAL_MEDIAN = 0.6744897501960817


@dataclass(frozen=True)
class Photometry:
    """Instrumental magnitudes and variances of usable detections, and of each star's reference (NaN without).

    `group` (S,) numbers the stars that chains of usable detections link; -1 for stars without one.
    """

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
    group: Ints


@dataclass(frozen=True)
class StarWeights:
    detection: Floats
    reference: Floats


@dataclass(frozen=True)
class ZeroPointFit:
    unknowns: Floats
    error: Floats
    star: Floats
    star_weight: Floats
    residual: Floats
    reference_residual: Floats


def fresh_weights(data: Photometry, factor: float, extra: float) -> StarWeights:
    known = np.isfinite(data.reference)
    weight = np.where(data.usable, 1.0 / (data.variance * factor**2), 0.0)
    return StarWeights(weight, np.where(known, 1.0 / (data.reference_variance + extra**2), 0.0))


def still_used(fresh: StarWeights, used: StarWeights) -> StarWeights:
    """Return fresh weights of what is in use."""
    detection = np.where(used.detection > 0.0, fresh.detection, 0.0)
    return StarWeights(detection, np.where(used.reference > 0.0, fresh.reference, 0.0))


def sum_of_stars(data: Photometry, values: Floats) -> Floats:
    return np.bincount(data.star, values, minlength=data.reference.size).astype(np.float64)


def fit_zero_points(
    data: Photometry, weight: Floats, reference_weight: Floats, rules: PhotometryParameters
) -> ZeroPointFit:
    """Solve exposures' zero points and detector offsets with star magnitudes eliminated.

    The eigenvectors without information are the free levels of groups without a reference; the pseudo-inverse gives
    them mean 0.
    """
    n_stars, size = data.reference.size, data.n_exposures + data.n_detectors
    total = sum_of_stars(data, weight) + reference_weight
    inverse = np.where(total > 0.0, 1.0 / np.where(total > 0.0, total, 1.0), 0.0)
    reference = np.where(reference_weight > 0.0, data.reference, 0.0)
    mean = (sum_of_stars(data, weight * data.mag) + reference_weight * reference) * inverse
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
    star = (sum_of_stars(data, weight * calibrated) + reference_weight * reference) * inverse
    residual = calibrated - star[data.star]
    return ZeroPointFit(unknowns, error, star, total, residual, star - data.reference)


def _pseudo_solve(normal: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Solve by eigenvectors, those without information (free levels) left at 0; return values and 1 sigma."""
    values, vectors = eigh((normal + normal.T) / 2.0)
    known = values > 1e-10 * max(float(values[-1]), 1e-300)
    inverse = np.where(known, 1.0 / np.where(known, values, 1.0), 0.0)
    return vectors @ (inverse * (vectors.T @ right)), np.sqrt((vectors**2) @ inverse)


def _internal(data: Photometry, weight: Floats, fit: ZeroPointFit) -> tuple[Floats, Floats, Floats]:
    """Return per star the mean of its detections and its weight, per detection its normalised gap to it (or NaN)."""
    total = sum_of_stars(data, weight)
    level = fit.residual + fit.star[data.star]
    mean = sum_of_stars(data, weight * level) / np.where(total > 0.0, total, 1.0)
    share = 1.0 - weight / np.where(total > 0.0, total, 1.0)[data.star]
    rows = (weight > 0.0) & (share > 1e-9)
    gap = np.full(weight.size, np.nan)
    gap[rows] = (level - mean[data.star])[rows] * np.sqrt(weight[rows] / share[rows])
    return mean, total, gap


def error_scales(
    data: Photometry, fit: ZeroPointFit, weight: Floats, reference_weight: Floats, factor: float, extra: float
) -> tuple[float, float]:
    """Estimate from medians how far the given errors are too small; needs 20 detections and 6 reference stars."""
    _, total, gap = _internal(data, weight, fit)
    rows = np.isfinite(gap)
    if int(rows.sum()) >= 20:
        factor = max(1.0, factor * float(np.median(np.abs(gap[rows]))) / NORMAL_MEDIAN)
    held = (reference_weight > 0.0) & (total > 0.0)
    if int(held.sum()) >= 6:
        expected = 1.0 / total[held] + data.reference_variance[held]
        apart = np.abs(_reference_gaps(data, fit, weight)[held]) / np.sqrt(expected)
        excess = (float(np.median(apart)) / NORMAL_MEDIAN) ** 2 - 1.0
        extra = float(np.sqrt(excess * np.median(expected))) if excess > 5.0 / np.sqrt(held.sum()) else 0.0
    return factor, extra


def _reference_gaps(data: Photometry, fit: ZeroPointFit, weight: Floats) -> Floats:
    """Return each star's mean of detections minus its reference, about the median of its group; NaN without both.

    The fitted level is a mean, which a third of galaxies or wrong counterparts draws away; the median stays. All stars
    with a reference count, clipped ones too: what is an outlier must not depend on what was one before.
    """
    mean, total, _ = _internal(data, weight, fit)
    gap = np.where((total > 0.0) & np.isfinite(data.reference), mean - data.reference, np.nan)
    for number in np.unique(data.group[np.isfinite(gap)]):
        members = data.group == number
        gap[members] -= np.nanmedian(gap[members])
    return gap


def variable_stars(data: Photometry, fit: ZeroPointFit, fresh: Floats, rules: PhotometryParameters) -> Bools:
    """Tell stars whose detections, at least four, scatter more than their errors allow.

    The median distance from the star's median counts, clipped detections included: single outliers do not make a
    star variable.
    """
    level = fit.residual + fit.star[data.star]
    middle, number = _median_of_stars(data, level, fresh > 0.0)
    gap = np.abs(level - middle[data.star]) * np.sqrt(fresh)
    typical, _ = _median_of_stars(data, gap, fresh > 0.0)
    return (number >= 4) & (np.nan_to_num(typical) > rules.variable_sigma * NORMAL_MEDIAN)


def _median_of_stars(data: Photometry, values: Floats, chosen: Bools) -> tuple[Floats, Ints]:
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


def clip_outliers(
    data: Photometry,
    fit: ZeroPointFit,
    fresh: StarWeights,
    used: StarWeights,
    variable: Bools,
    rules: PhotometryParameters,
) -> StarWeights:
    """Return fresh weights without variable stars and without what lies far from its star.

    Of the measurements in use only the worst of a star go, since they pull the others away; those out already stay
    out until they agree again. Where a star has one detection alone, its reference goes.
    """
    gap = np.abs(fit.residual) * np.sqrt(fresh.detection / _rest(used.detection, fit.star_weight[data.star]))
    gap = np.where(sum_of_stars(data, (fresh.detection > 0.0).astype(float))[data.star] > 1.0, gap, 0.0)
    total = sum_of_stars(data, used.detection)
    known = (fresh.reference > 0.0) & (total > 0.0)
    spread = np.sqrt(1.0 / np.where(known, total, 1.0) + 1.0 / np.where(known, fresh.reference, 1.0))
    apart = np.where(known, np.abs(_reference_gaps(data, fit, used.detection)) / spread, 0.0)
    worst = np.where(used.reference > 0.0, apart, 0.0)
    np.maximum.at(worst, data.star, np.where(used.detection > 0.0, gap, 0.0))
    bad = (gap > rules.clip_sigma) & ((used.detection <= 0.0) | (gap >= 0.7 * worst[data.star]))
    bad_reference = (apart > rules.clip_sigma) & ((used.reference <= 0.0) | (apart >= 0.7 * worst))
    return StarWeights(
        np.where(bad | variable[data.star], 0.0, fresh.detection),
        np.where(bad_reference | variable, 0.0, fresh.reference),
    )


def _rest(own: Floats, total: Floats) -> Floats:
    """Return 1 - own / total, the share of a star's weight that is not the measurement's own, at least 1e-6."""
    return np.maximum(1.0 - own / np.where(total > 0.0, total, 1.0), 1e-6)

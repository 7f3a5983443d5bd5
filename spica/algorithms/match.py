"""Match the pattern of detections of an exposure with reference stars when pointing, rotation and parity are unknown.

Method (own derivation). The scale is known to a few per cent, so for each trial parity, scale and rotation the only
unknown left is a shift: every (detection, reference) pair votes for one, in cells as wide as the step of the trials
moves a star at the edge of the field. Right pairs pile up in one cell, chance pairs spread over all. The best piles
are refined by nearest neighbours in shrinking radii, and the one least likely to be chance is judged by the binomial
probability of so many coincidences times the number of trials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CELL_OF_DIAGONAL = 0.008
FREE_MATCHES = 3
MAX_CELLS_PER_AXIS = 6000


class NoMatchError(ValueError):
    """No transformation explains the detections by the reference stars; holds the figures of the best attempt."""

    def __init__(self, cause: str, n_matched: int, n_expected: int, contrast: float, false_alarm: float) -> None:
        self.n_matched = n_matched
        self.n_expected = n_expected
        self.contrast = contrast
        self.false_alarm_probability = false_alarm
        super().__init__(
            f"{cause} ({n_matched} stars coincide of {n_expected} in the field, contrast {contrast:.2f}, "
            f"probability by chance {false_alarm:.1e}); check pointing, scale and search radius, or take another "
            f"reference catalogue"
        )


@dataclass(frozen=True)
class MatchParameters:
    """How to search for a pattern.

    `brightest` lists how many detections vote, tried in turn; `reference_excess` times as many reference stars per
    field area vote with them. `max_false_alarm` bounds the accepted probability that the match is chance.
    """

    brightest: tuple[int, ...] = (30, 60, 120)
    reference_excess: float = 1.5
    n_candidates: int = 24
    n_verify: int = 600
    min_tolerance_pix: float = 1.0
    max_tolerance_pix: float = 4.0
    min_matched: int = 6
    max_false_alarm: float = 1e-6
    max_shear: float = 0.05
    max_reference: int = 20000


@dataclass(frozen=True)
class PatternMatch:
    """A verified transformation: (xi, eta) in arcsec = `matrix` @ (x, y) + `offset`.

    Attributes
    ----------
    matrix : (2, 2) arcsec per pixel;  offset : (2,) arcsec;  parity : sign of the determinant.
    n_matched : coincidences within `tolerance_arcsec`;  n_expected : reference stars inside the field that
        could have matched;  n_chance : coincidences expected of unrelated lists.
    contrast : (n_matched - n_chance) / sqrt(n_chance + 1).
    false_alarm_probability : chance of such a match anywhere in the searched space.
    rms_arcsec : residual per axis after the affine fit.
    pairs : (n_matched, 2) index of detection and of reference star in the lists given.
    """

    matrix: Floats
    offset: Floats
    parity: int
    n_matched: int
    n_expected: int
    n_chance: float
    contrast: float
    false_alarm_probability: float
    rms_arcsec: float
    tolerance_arcsec: float
    scale_arcsec_per_pix: float
    position_angle_deg: float
    pairs: Ints


@dataclass(frozen=True)
class _Lists:
    """Finite detections and reference stars (index into the given lists) with their order of merit."""

    xy: Floats
    xy_index: Ints
    sky: Floats
    sky_index: Ints
    low: Floats
    high: Floats
    scale: float


@dataclass(frozen=True)
class _Trial:
    matrix: Floats
    offset: Floats


def match_pattern(
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    ref_xi_arcsec: ArrayLike,
    ref_eta_arcsec: ArrayLike,
    ref_mag: ArrayLike,
    *,
    scale_arcsec_per_pix: float,
    scale_tolerance: float = 0.02,
    position_angle_deg: float | None = None,
    position_angle_tolerance_deg: float = 5.0,
    parity: int | None = None,
    search_radius_arcsec: float = 1800.0,
    origin_pix: tuple[float, float] | None = None,
    parameters: MatchParameters | None = None,
) -> PatternMatch:
    """Find the transformation from detector plane to tangent plane and prove that it is not chance.

    Parameters
    ----------
    x, y, flux : detections of one exposure in a common frame, pixels (or arcsec with a scale of 1); flux in any unit,
        larger is brighter. Non-finite rows are ignored.
    ref_xi_arcsec, ref_eta_arcsec, ref_mag : reference stars on the plane tangent at the believed pointing; a NaN
        magnitude counts as faintest.
    position_angle_deg : direction of +y from north through east (for either parity); None searches the full circle.
    parity : sign of the determinant: -1 for the usual sky image (east to the left), +1 mirrored, None for both.
    search_radius_arcsec : how far the pointing may be off.
    origin_pix : where the believed pointing falls in the frame; None for the middle of the detections.

    Raises
    ------
    NoMatchError
        Nothing found, or the best is likely chance: the reference catalogue does not match.
    """
    _check_arguments(scale_arcsec_per_pix, scale_tolerance, search_radius_arcsec, parity)
    rules = parameters or MatchParameters()
    lists = _prepare(x, y, flux, ref_xi_arcsec, ref_eta_arcsec, ref_mag, scale_arcsec_per_pix)
    origin = (lists.low + lists.high) / 2.0 if origin_pix is None else np.asarray(origin_pix, dtype=np.float64)
    lists = _within_reach(lists, origin, search_radius_arcsec, scale_tolerance)
    if min(lists.xy.shape[0], lists.sky.shape[0]) < rules.min_matched:
        raise NoMatchError("too few stars for a pattern", 0, min(len(lists.xy), len(lists.sky)), 0.0, 1.0)
    best: PatternMatch | None = None
    for count in rules.brightest:
        grid = _trial_grid(lists, scale_tolerance, position_angle_deg, position_angle_tolerance_deg, parity)
        trials, n_trials = _vote(lists, grid, origin, search_radius_arcsec, count, rules)
        found = _best_verified(lists, trials, n_trials, rules, parity, scale_tolerance)
        if found is not None and (best is None or found.false_alarm_probability < best.false_alarm_probability):
            best = found
        if best is not None and _accepted(best, rules):
            return best
        if count >= lists.xy.shape[0]:
            break
    if best is None:
        raise NoMatchError("reference catalogue does not match", 0, 0, 0.0, 1.0)
    raise NoMatchError(
        "reference catalogue does not match",
        best.n_matched,
        best.n_expected,
        best.contrast,
        best.false_alarm_probability,
    )


def verify_pattern(
    x: ArrayLike,
    y: ArrayLike,
    flux: ArrayLike,
    ref_xi_arcsec: ArrayLike,
    ref_eta_arcsec: ArrayLike,
    ref_mag: ArrayLike,
    *,
    matrix: Floats,
    offset: Floats,
    start_tolerance_arcsec: float,
    parameters: MatchParameters | None = None,
) -> PatternMatch:
    """Refine and judge a transformation that is believed already (a header WCS), without a search.

    Raises
    ------
    NoMatchError
        The coincidences within the tolerance are likely chance.
    """
    rules = parameters or MatchParameters()
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    lists = _prepare(x, y, flux, ref_xi_arcsec, ref_eta_arcsec, ref_mag, scale)
    if min(lists.xy.shape[0], lists.sky.shape[0]) < rules.min_matched:
        raise NoMatchError("too few stars for a pattern", 0, min(len(lists.xy), len(lists.sky)), 0.0, 1.0)
    trial = _Trial(np.asarray(matrix, dtype=np.float64), np.asarray(offset, dtype=np.float64))
    found = _refine(lists, trial, start_tolerance_arcsec, 100.0, rules)
    if found is None or not _accepted(found, rules):
        seen = found or PatternMatch(trial.matrix, trial.offset, 1, 0, 0, 0.0, 0.0, 1.0, np.nan, np.nan, scale, 0.0,
                                     np.zeros((0, 2), dtype=np.int64))  # fmt: skip
        raise NoMatchError(
            "reference catalogue does not match",
            seen.n_matched,
            seen.n_expected,
            seen.contrast,
            seen.false_alarm_probability,
        )
    return found


def _check_arguments(scale: float, tolerance: float, radius: float, parity: int | None) -> None:
    if not (np.isfinite(scale) and scale > 0.0):
        raise ValueError(f"scale_arcsec_per_pix must be positive, not {scale}; give the instrument's pixel scale")
    if not 0.0 <= tolerance < 0.5:
        raise ValueError(f"scale_tolerance must lie in [0, 0.5), not {tolerance}")
    if not (np.isfinite(radius) and radius > 0.0):
        raise ValueError(f"search_radius_arcsec must be positive, not {radius}")
    if parity not in (None, 1, -1):
        raise ValueError(f"parity must be +1, -1 or None, not {parity}")


def _prepare(
    x: ArrayLike, y: ArrayLike, flux: ArrayLike, xi: ArrayLike, eta: ArrayLike, mag: ArrayLike, scale: float
) -> _Lists:
    """Drop what is not finite and sort both lists by brightness, spread evenly over the frame."""
    xy = np.column_stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
    sky = np.column_stack([np.ravel(xi), np.ravel(eta)]).astype(np.float64)
    light = np.asarray(flux, dtype=np.float64).ravel()
    magnitude = np.asarray(mag, dtype=np.float64).ravel()
    if xy.shape[0] != light.size or sky.shape[0] != magnitude.size:
        raise ValueError("positions and fluxes must have the same length; pass one flux or magnitude per position")
    xy_index = np.flatnonzero(np.all(np.isfinite(xy), axis=1) & np.isfinite(light))
    sky_index = np.flatnonzero(np.all(np.isfinite(sky), axis=1))
    if xy_index.size == 0 or sky_index.size == 0:
        raise NoMatchError("too few stars for a pattern", 0, min(xy_index.size, sky_index.size), 0.0, 1.0)
    low, high = xy[xy_index].min(axis=0), xy[xy_index].max(axis=0)
    cell = float(np.linalg.norm(high - low)) / 6.0
    xy_index = xy_index[_spread_order(xy[xy_index], -light[xy_index], cell)]
    faintness = np.where(np.isfinite(magnitude), magnitude, np.inf)[sky_index]
    sky_index = sky_index[_spread_order(sky[sky_index], faintness, cell * scale)]
    return _Lists(xy[xy_index], xy_index, sky[sky_index], sky_index, low, high, scale)


def _spread_order(points: Floats, faintness: Floats, cell: float) -> Ints:
    """Return an order that takes the brightest of every cell first, then the second brightest of every cell."""
    which = np.floor((points - points.min(axis=0)) / max(cell, 1e-9)).astype(np.int64)
    label = which[:, 0] * (int(which[:, 1].max()) + 1) + which[:, 1]
    order = np.lexsort((points[:, 1], points[:, 0], faintness, label))
    grouped = label[order]
    start = np.r_[0, np.flatnonzero(np.diff(grouped)) + 1]
    rank = np.empty(order.size, dtype=np.int64)
    rank[order] = np.arange(order.size) - np.repeat(start, np.diff(np.r_[start, order.size]))
    result: Ints = np.lexsort((points[:, 1], points[:, 0], faintness, rank)).astype(np.int64)
    return result


def _within_reach(lists: _Lists, origin: Floats, radius: float, scale_tolerance: float) -> _Lists:
    """Keep the reference stars that some allowed pointing brings into the field."""
    corners = np.array([[lists.low[0], lists.low[1]], [lists.low[0], lists.high[1]],
                        [lists.high[0], lists.low[1]], [lists.high[0], lists.high[1]]])  # fmt: skip
    reach = float(np.linalg.norm(corners - origin, axis=1).max()) * lists.scale * (1.0 + scale_tolerance) + radius
    near = np.hypot(lists.sky[:, 0], lists.sky[:, 1]) <= reach
    return _Lists(lists.xy, lists.xy_index, lists.sky[near], lists.sky_index[near], lists.low, lists.high, lists.scale)


def _trial_grid(
    lists: _Lists, scale_tolerance: float, angle_deg: float | None, angle_tolerance_deg: float, parity: int | None
) -> Floats:
    """Return trial matrices (n, 2, 2): parities, scales, rotations in steps of one cell at the edge of the field."""
    step = 2.0 * CELL_OF_DIAGONAL
    n_scale = 2 * int(np.ceil(max(scale_tolerance - step / 2.0, 0.0) / step)) + 1
    scales = 1.0 + np.linspace(-1.0, 1.0, n_scale) * scale_tolerance * (n_scale > 1)
    if angle_deg is None:
        angles = np.arange(0.0, 2.0 * np.pi, step)
    else:
        width = np.radians(max(angle_tolerance_deg, 0.0))
        n_angle = min(2 * int(np.ceil(width / step)) + 1, int(2.0 * np.pi / step) + 1)
        angles = np.radians(angle_deg) + np.linspace(-width, width, n_angle)
    parities = (1.0, -1.0) if parity is None else (float(parity),)
    sign, scale, angle = (a.ravel() for a in np.meshgrid(parities, scales, angles, indexing="ij"))
    sine, cosine = np.sin(angle), np.cos(angle)
    matrix = np.stack([sign * cosine, sine, -sign * sine, cosine], axis=-1).reshape(-1, 2, 2)
    return matrix * (lists.scale * scale)[:, None, None]


def _vote(
    lists: _Lists, grid: Floats, origin: Floats, radius: float, count: int, rules: MatchParameters
) -> tuple[list[_Trial], float]:
    """Return the best shift of every trial, best first, and the number of independent trials of the search."""
    extent = (lists.high - lists.low) * lists.scale
    cell = max(CELL_OF_DIAGONAL * float(np.linalg.norm(extent)), 2.0 * radius / MAX_CELLS_PER_AXIS)
    xy = lists.xy[:count] - origin
    span = np.ptp(lists.sky, axis=0)
    fields = float(max(span[0], extent[0]) * max(span[1], extent[1]) / max(extent[0] * extent[1], 1e-9))
    n_reference = int(min(rules.reference_excess * xy.shape[0] * fields, rules.max_reference)) + 1
    score, shift = _count_votes(xy, lists.sky[:n_reference], grid, cell, radius)
    order = np.lexsort((np.arange(score.size), -score))[: rules.n_candidates]
    trials = [_Trial(grid[k], shift[k] - grid[k] @ origin) for k in order if score[k] >= 3]
    return trials, max(grid.shape[0] * np.pi * (radius / cell) ** 2, 1.0)


@njit(cache=True)
def _count_votes(xy, sky, grid, cell, radius):  # type: ignore[no-untyped-def] # pragma: no cover
    """For every trial matrix count pairs by shift in overlapping boxes of 2 x 2 cells; return best count and shift."""
    n_side = int(2.0 * radius / cell) + 4
    votes = np.zeros((n_side, n_side), dtype=np.int32)
    score = np.zeros(grid.shape[0], dtype=np.int64)
    shift = np.zeros((grid.shape[0], 2))
    touched = np.empty((xy.shape[0] * sky.shape[0], 2), dtype=np.int32)
    for k in range(grid.shape[0]):
        n_touched = 0
        for i in range(xy.shape[0]):
            px = grid[k, 0, 0] * xy[i, 0] + grid[k, 0, 1] * xy[i, 1]
            py = grid[k, 1, 0] * xy[i, 0] + grid[k, 1, 1] * xy[i, 1]
            for j in range(sky.shape[0]):
                dx, dy = sky[j, 0] - px, sky[j, 1] - py
                if dx * dx + dy * dy > radius * radius:
                    continue
                cx, cy = int((dx + radius) / cell), int((dy + radius) / cell)
                touched[n_touched, 0], touched[n_touched, 1] = cx, cy
                n_touched += 1
                for a in range(2):
                    for b in range(2):
                        votes[cx + a, cy + b] += 1
                        if votes[cx + a, cy + b] > score[k]:
                            score[k] = votes[cx + a, cy + b]
                            shift[k, 0] = (cx + a) * cell - radius
                            shift[k, 1] = (cy + b) * cell - radius
        for t in range(n_touched):
            cx, cy = touched[t, 0], touched[t, 1]
            for a in range(2):
                for b in range(2):
                    votes[cx + a, cy + b] = 0
    return score, shift


def _best_verified(
    lists: _Lists, trials: list[_Trial], n_trials: float, rules: MatchParameters, parity: int | None, tolerance: float
) -> PatternMatch | None:
    """Refine candidates and return the one least likely to be chance; stops at the first beyond doubt."""
    start = 1.5 * CELL_OF_DIAGONAL * float(np.linalg.norm(lists.high - lists.low)) * lists.scale
    best: PatternMatch | None = None
    for trial in trials:
        found = _refine(lists, trial, start, n_trials, rules)
        if found is None or (parity is not None and found.parity != parity):
            continue
        if abs(found.scale_arcsec_per_pix / lists.scale - 1.0) > tolerance + 0.005:
            continue
        if best is None or found.false_alarm_probability < best.false_alarm_probability:
            best = found
        if best.false_alarm_probability < min(1e-4 * rules.max_false_alarm, 1e-12) and _accepted(best, rules):
            break
    return best


def _accepted(found: PatternMatch, rules: MatchParameters) -> bool:
    return found.n_matched >= rules.min_matched and found.false_alarm_probability <= rules.max_false_alarm


def _refine(
    lists: _Lists, trial: _Trial, start_arcsec: float, n_trials: float, rules: MatchParameters
) -> PatternMatch | None:
    """Alternate nearest neighbours and least squares while the radius shrinks to a few times the scatter."""
    matrix, offset = trial.matrix, trial.offset
    floor, ceiling = rules.min_tolerance_pix * lists.scale, rules.max_tolerance_pix * lists.scale
    radius = max(start_arcsec, floor)
    xy = lists.xy[: rules.n_verify]
    pairs, rms = np.zeros((0, 2), dtype=np.int64), np.nan
    for step in range(12):
        sky = _reference_in_field(lists, matrix, offset)[: rules.n_verify]
        pairs = _mutual_pairs(xy @ matrix.T + offset, lists.sky[sky], radius)
        pairs[:, 1] = sky[pairs[:, 1]]
        if pairs.shape[0] < 4:
            return None
        affine = step >= 3 and pairs.shape[0] >= 8
        fit = _fit_linear(xy[pairs[:, 0]], lists.sky[pairs[:, 1]], affine, np.sign(np.linalg.det(matrix)))
        if fit is None:
            return None
        matrix, offset = fit
        gap = xy[pairs[:, 0]] @ matrix.T + offset - lists.sky[pairs[:, 1]]
        rms = float(np.sqrt(np.mean(gap**2)))
        scatter = 1.2 * float(np.median(np.hypot(gap[:, 0], gap[:, 1])))
        shrunk = max(floor, min(0.7 * radius, 3.5 * scatter) if step < 8 else min(radius, 3.5 * scatter, ceiling))
        if step > 8 and shrunk == radius:
            break
        radius = shrunk
    return _judge_pairs(lists, matrix, offset, pairs, radius, rms, n_trials, rules)


def _reference_in_field(lists: _Lists, matrix: Floats, offset: Floats) -> Ints:
    """Return the reference stars that fall on the frame, brightest of each cell first."""
    frame = (lists.sky - offset) @ np.linalg.inv(matrix).T
    margin = 0.01 * (lists.high - lists.low)
    inside = np.all((frame >= lists.low - margin) & (frame <= lists.high + margin), axis=1)
    return np.flatnonzero(inside)


def _mutual_pairs(first: Floats, second: Floats, radius: float) -> Ints:
    if first.shape[0] == 0 or second.shape[0] == 0:
        return np.zeros((0, 2), dtype=np.int64)
    gap, to_second = cKDTree(second).query(first)
    to_first = cKDTree(first).query(second)[1]
    mutual = np.flatnonzero((to_first[to_second] == np.arange(first.shape[0])) & (gap <= radius))
    return np.column_stack([mutual, to_second[mutual]]).astype(np.int64)


def _fit_linear(xy: Floats, sky: Floats, affine: bool, parity: float) -> tuple[Floats, Floats] | None:
    """Least squares for an affine map, or a similarity of given parity; None where the points are degenerate."""
    centre_xy, centre_sky = xy.mean(axis=0), sky.mean(axis=0)
    p, q = xy - centre_xy, sky - centre_sky
    moment = p.T @ p
    if np.linalg.det(moment) <= 1e-9 * float(np.trace(moment)) ** 2:
        return None
    if affine:
        matrix = np.linalg.solve(moment, p.T @ q).T
    else:
        mirrored = p * np.array([parity, 1.0])
        norm = float((p**2).sum())
        a = float((mirrored * q).sum()) / norm
        b = float((mirrored[:, 0] * q[:, 1] - mirrored[:, 1] * q[:, 0]).sum()) / norm
        matrix = np.array([[a, -b], [b, a]]) @ np.diag([parity, 1.0])
    if np.linalg.det(matrix) == 0.0:
        return None
    return matrix, centre_sky - matrix @ centre_xy


def _judge_pairs(
    lists: _Lists, matrix: Floats, offset: Floats, pairs: Ints, radius: float, rms: float, n_trials: float,
    rules: MatchParameters,
) -> PatternMatch | None:  # fmt: skip
    """Compute the probability of the coincidences and of a shape that no camera has."""
    singular = np.linalg.svd(matrix, compute_uv=False)
    if singular[0] / singular[1] - 1.0 > rules.max_shear:
        return None
    n_detections = min(lists.xy.shape[0], rules.n_verify)
    n_field = min(_reference_in_field(lists, matrix, offset).size, rules.n_verify)
    area = float(np.prod(lists.high - lists.low)) * abs(float(np.linalg.det(matrix)))
    chance = 1.0 - np.exp(-n_detections * np.pi * radius**2 / max(area, 1e-9))
    n_trialled = min(n_field, n_detections)
    surplus = pairs.shape[0] - FREE_MATCHES
    false_alarm = float(min(binom.sf(surplus - 1, max(n_field, 1), chance) * n_trials, 1.0)) if surplus > 0 else 1.0
    n_chance = float(n_field * chance)
    parity = 1 if np.linalg.det(matrix) > 0 else -1
    return PatternMatch(
        matrix=matrix,
        offset=offset,
        parity=parity,
        n_matched=int(pairs.shape[0]),
        n_expected=int(n_trialled),
        n_chance=n_chance,
        contrast=float((pairs.shape[0] - n_chance) / np.sqrt(n_chance + 1.0)),
        false_alarm_probability=false_alarm,
        rms_arcsec=rms,
        tolerance_arcsec=float(radius),
        scale_arcsec_per_pix=float(np.sqrt(singular[0] * singular[1])),
        position_angle_deg=float(np.degrees(np.arctan2(matrix[0, 1], matrix[1, 1]))),
        pairs=np.column_stack([lists.xy_index[pairs[:, 0]], lists.sky_index[pairs[:, 1]]]),
    )

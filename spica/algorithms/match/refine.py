"""Refinement of a candidate transformation, and the probability that it is chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import bdtrc

from spica.algorithms.match.lists import MatchParameters, PatternMatch, StarLists
from spica.algorithms.match.vote import Trial

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FREE_MATCHES = 3


def refine_trial(
    lists: StarLists, trial: Trial, start_arcsec: float, n_trials: float, rules: MatchParameters
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


def _reference_in_field(lists: StarLists, matrix: Floats, offset: Floats) -> Ints:
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
    lists: StarLists, matrix: Floats, offset: Floats, pairs: Ints, radius: float, rms: float, n_trials: float,
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
    false_alarm = float(min(bdtrc(surplus - 1, max(n_field, 1), chance) * n_trials, 1.0)) if surplus > 0 else 1.0
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


def is_accepted(found: PatternMatch, rules: MatchParameters) -> bool:
    return found.n_matched >= rules.min_matched and found.false_alarm_probability <= rules.max_false_alarm

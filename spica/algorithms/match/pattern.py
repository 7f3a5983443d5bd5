"""Search for a pattern, and verification of one that is believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.match.lists import (
    MatchParameters,
    NoMatchError,
    PatternMatch,
    StarLists,
    prepare_lists,
    within_reach,
)
from spica.algorithms.match.refine import is_accepted, refine_trial
from spica.algorithms.match.vote import CELL_OF_DIAGONAL, Trial, trial_grid, vote

Floats = NDArray[np.float64]


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
    lists = prepare_lists(x, y, flux, ref_xi_arcsec, ref_eta_arcsec, ref_mag, scale_arcsec_per_pix)
    origin = (lists.low + lists.high) / 2.0 if origin_pix is None else np.asarray(origin_pix, dtype=np.float64)
    lists = within_reach(lists, origin, search_radius_arcsec, scale_tolerance)
    if min(lists.xy.shape[0], lists.sky.shape[0]) < rules.min_matched:
        raise NoMatchError("too few stars for a pattern", 0, min(len(lists.xy), len(lists.sky)), 0.0, 1.0)
    best: PatternMatch | None = None
    for count in rules.brightest:
        grid = trial_grid(lists, scale_tolerance, position_angle_deg, position_angle_tolerance_deg, parity)
        trials, n_trials = vote(lists, grid, origin, search_radius_arcsec, count, rules)
        found = _best_verified(lists, trials, n_trials, rules, parity, scale_tolerance)
        if found is not None and (best is None or found.false_alarm_probability < best.false_alarm_probability):
            best = found
        if best is not None and is_accepted(best, rules):
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
    lists = prepare_lists(x, y, flux, ref_xi_arcsec, ref_eta_arcsec, ref_mag, scale)
    if min(lists.xy.shape[0], lists.sky.shape[0]) < rules.min_matched:
        raise NoMatchError("too few stars for a pattern", 0, min(len(lists.xy), len(lists.sky)), 0.0, 1.0)
    trial = Trial(np.asarray(matrix, dtype=np.float64), np.asarray(offset, dtype=np.float64))
    found = refine_trial(lists, trial, start_tolerance_arcsec, 100.0, rules)
    if found is None or not is_accepted(found, rules):
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


def _best_verified(
    lists: StarLists, trials: list[Trial], n_trials: float, rules: MatchParameters, parity: int | None, tolerance: float
) -> PatternMatch | None:
    """Refine candidates and return the one least likely to be chance; stops at the first beyond doubt."""
    start = 1.5 * CELL_OF_DIAGONAL * float(np.linalg.norm(lists.high - lists.low)) * lists.scale
    best: PatternMatch | None = None
    for trial in trials:
        found = refine_trial(lists, trial, start, n_trials, rules)
        if found is None or (parity is not None and found.parity != parity):
            continue
        if abs(found.scale_arcsec_per_pix / lists.scale - 1.0) > tolerance + 0.005:
            continue
        if best is None or found.false_alarm_probability < best.false_alarm_probability:
            best = found
        if best.false_alarm_probability < min(1e-4 * rules.max_false_alarm, 1e-12) and is_accepted(best, rules):
            break
    return best

"""What a pattern match takes and gives, and the two lists of stars in their order of merit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
class StarLists:
    """Finite detections and reference stars (index into the given lists) with their order of merit."""

    xy: Floats
    xy_index: Ints
    sky: Floats
    sky_index: Ints
    low: Floats
    high: Floats
    scale: float


def prepare_lists(
    x: ArrayLike, y: ArrayLike, flux: ArrayLike, xi: ArrayLike, eta: ArrayLike, mag: ArrayLike, scale: float
) -> StarLists:
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
    return StarLists(xy[xy_index], xy_index, sky[sky_index], sky_index, low, high, scale)


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


def within_reach(lists: StarLists, origin: Floats, radius: float, scale_tolerance: float) -> StarLists:
    """Keep the reference stars that some allowed pointing brings into the field."""
    corners = np.array([[lists.low[0], lists.low[1]], [lists.low[0], lists.high[1]],
                        [lists.high[0], lists.low[1]], [lists.high[0], lists.high[1]]])  # fmt: skip
    reach = float(np.linalg.norm(corners - origin, axis=1).max()) * lists.scale * (1.0 + scale_tolerance) + radius
    near = np.hypot(lists.sky[:, 0], lists.sky[:, 1]) <= reach
    return StarLists(
        lists.xy, lists.xy_index, lists.sky[near], lists.sky_index[near], lists.low, lists.high, lists.scale
    )

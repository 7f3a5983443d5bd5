"""Trials of parity, scale and rotation, and the votes of pairs for a shift."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spica.algorithms.match.lists import MatchParameters, StarLists

Floats = NDArray[np.float64]

CELL_OF_DIAGONAL = 0.008
MAX_CELLS_PER_AXIS = 6000


@dataclass(frozen=True)
class Trial:
    matrix: Floats
    offset: Floats


def trial_grid(
    lists: StarLists, scale_tolerance: float, angle_deg: float | None, angle_tolerance_deg: float, parity: int | None
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


def vote(
    lists: StarLists, grid: Floats, origin: Floats, radius: float, count: int, rules: MatchParameters
) -> tuple[list[Trial], float]:
    """Return the best shift of every trial, best first, and the number of independent trials of the search."""
    extent = (lists.high - lists.low) * lists.scale
    cell = max(CELL_OF_DIAGONAL * float(np.linalg.norm(extent)), 2.0 * radius / MAX_CELLS_PER_AXIS)
    xy = lists.xy[:count] - origin
    span = np.ptp(lists.sky, axis=0)
    fields = float(max(span[0], extent[0]) * max(span[1], extent[1]) / max(extent[0] * extent[1], 1e-9))
    n_reference = int(min(rules.reference_excess * xy.shape[0] * fields, rules.max_reference)) + 1
    score, shift = _count_votes(xy, lists.sky[:n_reference], grid, cell, radius)
    order = np.lexsort((np.arange(score.size), -score))[: rules.n_candidates]
    trials = [Trial(grid[k], shift[k] - grid[k] @ origin) for k in order if score[k] >= 3]
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

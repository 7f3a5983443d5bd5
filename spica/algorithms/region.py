"""Regions on a pixel grid: circles and polygons as masks of the pixels whose centres lie inside.

A mask covers the region's bounding box within the image alone, so that many small regions of a large detector cost
little memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RegionMask:
    """Pixels inside a region: `mask` (bool, True inside) is the part of an image that begins at row y0, column x0."""

    y0: int
    x0: int
    mask: NDArray[np.bool_]

    @property
    def n_pixels(self) -> int:
        """Number of pixels inside."""
        return int(self.mask.sum())

    def clear(self, window: NDArray[np.float32], top: int, left: int) -> None:
        """Set pixels inside the region to 0, in place; `window` begins at row `top`, column `left` of the image."""
        y0, x0 = max(self.y0, top), max(self.x0, left)
        y1 = min(self.y0 + self.mask.shape[0], top + window.shape[0])
        x1 = min(self.x0 + self.mask.shape[1], left + window.shape[1])
        if y1 <= y0 or x1 <= x0:
            return
        inside = self.mask[y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]
        window[y0 - top : y1 - top, x0 - left : x1 - left][inside] = 0


def rasterise_circle(x_pix: float, y_pix: float, radius_pix: float, shape: tuple[int, int]) -> RegionMask | None:
    """Return the pixels whose centres are at most `radius_pix` from (x_pix, y_pix).

    Parameters
    ----------
    x_pix, y_pix, radius_pix : float
        Centre and radius, pixels from 0.
    shape : tuple of int
        (ny, nx) of the image.

    Returns
    -------
    RegionMask or None
        None where no pixel of the image lies inside.

    Raises
    ------
    ValueError
        A value is not finite, or the radius is not above 0.
    """
    if not (math.isfinite(x_pix) and math.isfinite(y_pix) and math.isfinite(radius_pix) and radius_pix > 0):
        raise ValueError(f"circle {x_pix} {y_pix} {radius_pix}: give finite pixels and a radius above 0")
    box = _box(x_pix - radius_pix, x_pix + radius_pix, y_pix - radius_pix, y_pix + radius_pix, shape)
    if box is None:
        return None
    x0, x1, y0, y1 = box
    dy = np.arange(y0, y1, dtype=np.float64)[:, None] - y_pix
    dx = np.arange(x0, x1, dtype=np.float64)[None, :] - x_pix
    return _found(y0, x0, dy * dy + dx * dx <= radius_pix * radius_pix)


def rasterise_polygon(x_pix: Sequence[float], y_pix: Sequence[float], shape: tuple[int, int]) -> RegionMask | None:
    """Return the pixels whose centres lie inside a polygon, by the even-odd rule.

    Edges are half open (a centre on a left or lower edge is inside, on a right or upper edge it is not), so polygons
    that share an edge share no pixel and leave none out. For each edge and row the column of the crossing is found,
    and every column from there on changes sides (own derivation of the scan line rule).

    Parameters
    ----------
    x_pix, y_pix : sequence of float
        Corners in order, three or more, pixels from 0; the last is joined to the first.
    shape : tuple of int
        (ny, nx) of the image.

    Returns
    -------
    RegionMask or None
        None where no pixel of the image lies inside.

    Raises
    ------
    ValueError
        Fewer than three corners, as many y as x missing, or a value that is not finite.
    """
    x, y = np.asarray(x_pix, np.float64), np.asarray(y_pix, np.float64)
    if x.ndim != 1 or x.shape != y.shape or x.size < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("polygon: give three finite corners or more, as many y as x")
    box = _box(float(x.min()), float(x.max()), float(y.min()), float(y.max()), shape)
    if box is None:
        return None
    x0, x1, y0, y1 = box
    flips = np.zeros((y1 - y0, x1 - x0 + 1), np.bool_)
    for i in range(x.size):
        j = (i + 1) % x.size
        _cross(flips, (x[i], y[i], x[j], y[j]), x0, y0)
    return _found(y0, x0, np.logical_xor.accumulate(flips, axis=1)[:, :-1])


def _cross(flips: NDArray[np.bool_], edge: tuple[float, float, float, float], x0: int, y0: int) -> None:
    """Note in every row where an edge is crossed: from that column on, pixels change sides."""
    xa, ya, xb, yb = edge
    if ya == yb:
        return
    if ya > yb:
        xa, ya, xb, yb = xb, yb, xa, ya
    first, last = max(math.ceil(ya), y0), min(math.ceil(yb), y0 + flips.shape[0])
    if last <= first:
        return
    rows = np.arange(first, last)
    crossing = xa + (rows - ya) * ((xb - xa) / (yb - ya))
    columns = np.clip(np.ceil(crossing) - x0, 0, flips.shape[1] - 1).astype(np.int64)
    flips[rows - y0, columns] ^= True


def _box(
    x_low: float, x_high: float, y_low: float, y_high: float, shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return the pixels (x0, x1, y0, y1) of an image whose centres may lie between the bounds; None: none does."""
    ny, nx = shape
    x0, x1 = math.ceil(max(x_low, 0.0)), math.floor(min(x_high, nx - 1.0)) + 1
    y0, y1 = math.ceil(max(y_low, 0.0)), math.floor(min(y_high, ny - 1.0)) + 1
    return (x0, x1, y0, y1) if x1 > x0 and y1 > y0 else None


def _found(y0: int, x0: int, mask: NDArray[np.bool_]) -> RegionMask | None:
    return RegionMask(y0, x0, mask) if mask.any() else None

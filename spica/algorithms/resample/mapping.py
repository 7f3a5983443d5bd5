"""Where the pixels of a frame come from in an input image: a grid of exact positions, as fine as needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.frame import Frame

SkyFunction = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

DEFAULT_TOLERANCE_PIX = 0.001
_FIRST_STEP, _LAST_STEP = 32, 2
_MARGIN = 9  # kernel half width 3, rounding 1, reach of the replacement of bad pixels 5


class MappingError(ValueError):
    """The pixel mapping cannot be followed to the tolerance asked for."""


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Where frame pixels come from in one input image.

    Attributes
    ----------
    frame_shape, input_shape : tuple of int
        (ny, nx) of the frame and of the input.
    box : tuple of int
        (y0, y1, x0, x1): half-open part of the frame the input may touch; all zero where it touches none.
    step_pix : int
        Distance of the nodes, frame pixels; node (j, i) is frame pixel (y0 + j step, x0 + i step).
    x_pix, y_pix : ndarray of float64, shape (nj, ni)
        0-based input pixel of each node; NaN where the sky position has none.
    area_ratio : ndarray of float64, shape (nj, ni)
        J, input pixels per frame pixel, at each node.
    area_at_center : float
        J at the centre of the input.
    error_pix : float
        Measured error of the same interpolation on a grid twice as coarse: an upper bound for this one.
    """

    frame_shape: tuple[int, int]
    input_shape: tuple[int, int]
    box: tuple[int, int, int, int]
    step_pix: int
    x_pix: NDArray[np.float64]
    y_pix: NDArray[np.float64]
    area_ratio: NDArray[np.float64]
    area_at_center: float
    error_pix: float

    @property
    def is_empty(self) -> bool:
        """True where the input does not touch the frame."""
        return self.box[1] <= self.box[0] or self.box[3] <= self.box[2]

    def evaluate(self, x_pix: ArrayLike, y_pix: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the interpolated input pixels of frame pixels inside the box (NaN outside it)."""
        x, y = np.broadcast_arrays(np.asarray(x_pix, float), np.asarray(y_pix, float))
        y0, y1, x0, x1 = self.box
        inside = (x >= x0) & (x <= x1 - 1) & (y >= y0) & (y <= y1 - 1)
        if self.is_empty or not inside.any():
            return np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        u, v = np.where(inside, (x - x0) / self.step_pix, 0.0), np.where(inside, (y - y0) / self.step_pix, 0.0)
        i, j = np.minimum(u.astype(int), self.x_pix.shape[1] - 2), np.minimum(v.astype(int), self.x_pix.shape[0] - 2)
        s, t = u - i, v - j
        values = [
            (n[j, i] * (1 - s) + n[j, i + 1] * s) * (1 - t) + (n[j + 1, i] * (1 - s) + n[j + 1, i + 1] * s) * t
            for n in (self.x_pix, self.y_pix)
        ]
        return np.where(inside, values[0], np.nan), np.where(inside, values[1], np.nan)


def pixel_map_from_wcs(
    wcs: WCS, input_shape: tuple[int, int], frame: Frame, tolerance_pix: float = DEFAULT_TOLERANCE_PIX
) -> PixelMap:
    """Return the `PixelMap` of an image with an astropy WCS (TAN, TPV, SIP, ...); see `build_pixel_map`."""
    if wcs.sip is not None or wcs.cpdis1 is not None or wcs.cpdis2 is not None:

        def sky_to_pixel(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[Any, Any]:
            return tuple(wcs.all_world2pix(ra, dec, 0, tolerance=1e-5, quiet=True))
    else:

        def sky_to_pixel(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[Any, Any]:
            return tuple(wcs.wcs_world2pix(ra, dec, 0))

    def pixel_to_sky(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Any, Any]:
        return tuple(wcs.all_pix2world(x, y, 0))

    return build_pixel_map(sky_to_pixel, pixel_to_sky, input_shape, frame, tolerance_pix)


def build_pixel_map(
    sky_to_pixel: SkyFunction,
    pixel_to_sky: SkyFunction,
    input_shape: tuple[int, int],
    frame: Frame,
    tolerance_pix: float = DEFAULT_TOLERANCE_PIX,
) -> PixelMap:
    """Build the mapping from frame pixels to input pixels.

    Parameters
    ----------
    sky_to_pixel, pixel_to_sky : callables
        Between (ra, dec) in degrees and 0-based input pixels, on 1-D float64 arrays; NaN where undefined.
    input_shape : tuple of int
        (ny, nx) of the input.
    frame : Frame
        Output grid.
    tolerance_pix : float
        Largest error of the interpolated mapping, input pixels.

    Raises
    ------
    MappingError
        The tolerance is not met with nodes 2 pixels apart, or the WCS is singular.
    """
    box = _touched_box(pixel_to_sky, input_shape, frame)
    area = _area_at_center(sky_to_pixel, pixel_to_sky, input_shape, frame)
    none = np.zeros((0, 0))
    if box[1] <= box[0] or box[3] <= box[2]:
        return PixelMap(frame.shape, input_shape, (0, 0, 0, 0), _FIRST_STEP, none, none, none, abs(area), 0.0)
    step = _FIRST_STEP
    while True:
        x, y = _nodes(sky_to_pixel, frame, box, step)
        error = _coarse_error(x, y, input_shape)
        if error < tolerance_pix:
            break
        step //= 2
        if step < _LAST_STEP:
            raise MappingError(
                f"the pixel mapping bends by {error:.3g} pixels within 4 pixels, more than {tolerance_pix:g}: "
                "the distortion of this image is not usable; solve its astrometry again or leave it out"
            )
    dxy, dxx = np.gradient(x, step, edge_order=2)
    dyy, dyx = np.gradient(y, step, edge_order=2)
    ratio = dxx * dyy - dxy * dyx
    reference = area if math.isfinite(area) else float(np.nanmedian(ratio))
    folded = ~((ratio / reference > 0.25) & (ratio / reference < 4.0))
    x[folded & np.isfinite(ratio)] = np.nan
    return PixelMap(frame.shape, input_shape, box, step, x, y, np.abs(ratio), abs(reference), error)


def input_window(pixel_map: PixelMap, rows: slice | None = None) -> tuple[slice, slice]:
    """Return the rows and columns of the input that the given frame rows are made from (empty slices for none)."""
    first, last = row_range(pixel_map, rows)
    y0, y1 = max(first, pixel_map.box[0]), min(last, pixel_map.box[1])
    if pixel_map.is_empty or y1 <= y0:
        return slice(0, 0), slice(0, 0)
    step = pixel_map.step_pix
    inner = np.arange(pixel_map.box[0], pixel_map.box[1] + step, step)
    cuts = np.concatenate([[y0], inner[(inner > y0) & (inner < y1 - 1)], [y1 - 1]])
    v = (cuts - pixel_map.box[0]) / step
    j = np.minimum(v.astype(int), pixel_map.x_pix.shape[0] - 2)
    t = (v - j)[:, None]
    ny, nx = pixel_map.input_shape
    low, high = [], []
    for n in (pixel_map.y_pix, pixel_map.x_pix):
        lines = n[j] * (1 - t) + n[j + 1] * t
        cells = np.stack([lines[:-1, :-1], lines[:-1, 1:], lines[1:, :-1], lines[1:, 1:]])
        low.append(cells.min(axis=0))
        high.append(cells.max(axis=0))
    slack = 1.0 + math.sqrt(pixel_map.area_at_center)
    meets = (low[0] < ny + slack) & (high[0] > -slack) & (low[1] < nx + slack) & (high[1] > -slack)
    if not meets.any():
        return slice(0, 0), slice(0, 0)
    margin = _MARGIN + math.ceil(slack)
    windows = []
    for lo, hi, n_in in zip(low, high, (ny, nx), strict=True):
        start = max(0, math.floor(lo[meets].min()) - margin)
        windows.append(slice(start, max(start, min(n_in, math.ceil(hi[meets].max()) + margin + 1))))
    return windows[0], windows[1]


def input_rows(pixel_map: PixelMap, rows: slice | None = None) -> slice:
    """Return the input rows that the given frame rows are made from (an empty slice for none)."""
    return input_window(pixel_map, rows)[0]


def row_range(pixel_map: PixelMap, rows: slice | None) -> tuple[int, int]:
    """Return first and last (exclusive) frame row of a slice; None is all rows."""
    first, last, step = (rows or slice(None)).indices(pixel_map.frame_shape[0])
    if step != 1:
        raise ValueError(f"rows {rows} have a step: give a plain slice of frame rows")
    return first, max(first, last)


def _touched_box(pixel_to_sky: SkyFunction, input_shape: tuple[int, int], frame: Frame) -> tuple[int, int, int, int]:
    ny, nx = input_shape
    along_x, along_y = np.linspace(-0.5, nx - 0.5, 65), np.linspace(-0.5, ny - 0.5, 65)
    low, high_x, high_y = np.full(65, -0.5), np.full(65, nx - 0.5), np.full(65, ny - 0.5)
    border_x = np.concatenate([along_x, high_x, along_x, low])
    border_y = np.concatenate([low, along_y, high_y, along_y])
    x, y = frame.sky_to_pixel(*pixel_to_sky(border_x, border_y))
    if not np.isfinite(x + y).any():
        return (0, 0, 0, 0)
    y0, y1 = max(0, math.floor(np.nanmin(y)) - 2), min(frame.shape[0], math.ceil(np.nanmax(y)) + 3)
    x0, x1 = max(0, math.floor(np.nanmin(x)) - 2), min(frame.shape[1], math.ceil(np.nanmax(x)) + 3)
    return (y0, y1, x0, x1)


def _area_at_center(
    sky_to_pixel: SkyFunction, pixel_to_sky: SkyFunction, input_shape: tuple[int, int], frame: Frame
) -> float:
    """Signed J at the centre of the input by central differences over 2 frame pixels; NaN on the far hemisphere."""
    center = np.array([(input_shape[1] - 1) / 2]), np.array([(input_shape[0] - 1) / 2])
    x, y = (float(c[0]) for c in frame.sky_to_pixel(*pixel_to_sky(*center)))
    if not (math.isfinite(x) and math.isfinite(y)):
        return math.nan
    u, v = sky_to_pixel(*frame.pixel_to_sky(x + np.array([1.0, -1, 0, 0]), y + np.array([0.0, 0, 1, -1])))
    area = float((u[0] - u[1]) * (v[2] - v[3]) - (u[2] - u[3]) * (v[0] - v[1])) / 4.0
    if not math.isfinite(area) or area == 0.0:
        raise MappingError(
            "the WCS of this image is singular at its centre: solve its astrometry again or leave it out"
        )
    return area


def _nodes(
    sky_to_pixel: SkyFunction, frame: Frame, box: tuple[int, int, int, int], step: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Input pixels on a grid that covers the box, an odd number of nodes a side (so that every second is a grid)."""
    y0, y1, x0, x1 = box
    nj, ni = (2 * max(1, math.ceil((hi - lo) / (2 * step))) + 1 for lo, hi in ((y0, y1), (x0, x1)))
    gx, gy = np.meshgrid(x0 + step * np.arange(ni, dtype=float), y0 + step * np.arange(nj, dtype=float))
    x, y = sky_to_pixel(*frame.pixel_to_sky(gx.ravel(), gy.ravel()))
    x, y = np.array(x, float).reshape(nj, ni), np.array(y, float).reshape(nj, ni)
    lost = ~(np.isfinite(x) & np.isfinite(y))
    x[lost] = y[lost] = np.nan
    return x, y


def _coarse_error(x: NDArray[np.float64], y: NDArray[np.float64], input_shape: tuple[int, int]) -> float:
    """Largest distance between nodes and their bilinear prediction from every second node, near the input."""
    miss = np.zeros(x.shape)
    for n in (x, y):
        guess = n.copy()
        guess[1::2, ::2] = (n[:-1:2, ::2] + n[2::2, ::2]) / 2
        guess[:, 1::2] = (guess[:, :-1:2] + guess[:, 2::2]) / 2
        miss = np.hypot(miss, guess - n)
    reach_y, reach_x = (float(np.nanmax(np.abs(np.diff(n, axis=a)), initial=0.0)) for n, a in ((y, 0), (x, 1)))
    reach = min(2 * max(reach_x, reach_y), float(max(input_shape)))
    near = (x > -reach) & (x < input_shape[1] + reach) & (y > -reach) & (y < input_shape[0] + reach)
    used = miss[near & np.isfinite(miss)]
    return float(used.max()) if used.size else 0.0

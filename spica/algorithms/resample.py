"""Resampling of an image and its weight map onto a frame, in one pass and strip by strip.

**Mapping.** A `PixelMap` holds, on a coarse grid of frame pixels, the input pixel they come from; between the nodes it
is bilinear. The grid is refined until the error measured at cell centres and edge centres is below a tolerance.

**Flux.** An output pixel is the interpolated input value times `flux_scale` times an area factor. With `area_scaling =
"variable"` that factor is the local number of input pixels per output pixel, J = |d(x, y) input / d(x, y) output|, so
the flux of every source, summed in ADU, is the same before and after, whatever the change of scale or the distortion
(SWarp's VARIABLE). `"fixed"` takes J at the centre of the input for the whole image (SWarp's FIXED: for images whose
flat field has already absorbed the variation of pixel area); `"none"` takes 1 (surface brightness per pixel is kept).

**Weight.** The weight is 1 / variance per input pixel, 0 = unusable. The output weight is the bilinear interpolation of
the input weight times J / (flux_scale * area factor)^2. It states the noise at low spatial frequency, which decides the
error of a flux summed over an aperture: A input pixels of variance v hold the variance A v, and so must the A / J output
pixels, each scaled by (flux_scale * area factor). Interpolation correlates neighbours, so the scatter of single output
pixels is smaller than the weight says, that of sums is as it says (own derivation; where J = 1 this is SWarp's rule).

**Bad pixels** (weight 0, negative or not finite; value not finite) never enter. They are first replaced by a local
estimate from good neighbours (cubic across single pixels and columns, mean of the rim for larger holes), so the kernel
stays whole and its gain for constants is exactly 1. Where bad pixels carry more than `MAX_BAD_POWER` of the kernel's
power (sum of squares), the output has weight 0 and value 0. What remains of a wrong estimate is at most
sqrt(MAX_BAD_POWER) of the difference between the estimate and the sky. Pixels outside the image count as bad, and no
position outside the centres of the outermost pixels is used: there is no extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from astropy.wcs import WCS
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.frame import Frame

KernelName = Literal["lanczos3", "lanczos2", "bilinear", "nearest"]
AreaScaling = Literal["variable", "fixed", "none"]
SkyFunction = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

MAX_BAD_POWER = 0.05
"""Largest share of the kernel's power that may rest on replaced pixels."""
DEFAULT_TOLERANCE_PIX = 0.001
_PHASES = 2048  # kernel table entries per pixel: position rounded to 1/4096 pixel
_TAPS = 8  # six used, two zeros: one vector
_FIRST_STEP, _LAST_STEP = 32, 2
_PAD, _PAD_RIGHT = 4, 8  # bad pixels around the buffer, so that no window leaves it
_FILL_ROUNDS = 4
_MARGIN = 9  # kernel half width 3, rounding 1, reach of the replacement 5
_EDGE_PIX = 1e-3  # numerical slack of "inside the image"


class MappingError(ValueError):
    """The pixel mapping cannot be followed to the tolerance asked for."""


class Pixels(Protocol):
    """What is read of an image: its shape, and rows by slice (an array, a memory map, a section of a file)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, key: Any, /) -> Any: ...


Background = float | NDArray[Any] | Callable[[slice], ArrayLike]
"""Sky in input ADU: one value, an image of the input's shape, or a function of a slice of input rows."""


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
            return tuple(wcs.all_world2pix(ra, dec, 0, tolerance=1e-5, quiet=True))  # type: ignore[return-value]
    else:

        def sky_to_pixel(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[Any, Any]:
            return tuple(wcs.wcs_world2pix(ra, dec, 0))  # type: ignore[return-value]

    def pixel_to_sky(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Any, Any]:
        return tuple(wcs.all_pix2world(x, y, 0))  # type: ignore[return-value]

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
    first, last = _row_range(pixel_map, rows)
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


def resample(
    data: Pixels,
    weight: Pixels | None,
    pixel_map: PixelMap,
    rows: slice | None = None,
    *,
    flux_scale: float = 1.0,
    background: Background | None = None,
    kernel: KernelName = "lanczos3",
    area_scaling: AreaScaling = "variable",
    oversampling: int = 0,
    out: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Resample image and weight onto rows of the frame.

    Parameters
    ----------
    data : array-like, shape (ny, nx)
        Any number type and byte order, ADU; only the rows of `input_rows` are read. Not finite = bad.
    weight : array-like, shape (ny, nx), or None
        1 / variance, ADU^-2; 0 = unusable. None takes 1 everywhere.
    pixel_map : PixelMap
    rows : slice, optional
        Frame rows to make; None makes all.
    flux_scale : float
        Factor that brings this input's flux to that of the stack.
    background : float, array of the input's shape, or callable of an input row slice, optional
        Sky to subtract, input ADU.
    kernel : str
        `lanczos3`, `lanczos2`, `bilinear` or `nearest`.
    area_scaling : str
        `variable`, `fixed` or `none`; see the module.
    oversampling : int
        Samples per output pixel and axis, averaged; 0 takes one per input pixel (1 up to a scale ratio of 1.5).
    out : pair of float32 arrays, shape (n_rows, frame nx), optional
        Written where the input gives a value, else left as they are; None makes new ones filled with 0.

    Returns
    -------
    image, weight : ndarray of float32, shape (n_rows, frame nx)
        ADU times `flux_scale`, and its inverse variance; both 0 where there is no data.

    Raises
    ------
    ValueError
        Shapes do not fit, or a number is out of range.
    """
    first, last = _row_range(pixel_map, rows)
    shape = (last - first, pixel_map.frame_shape[1])
    image, weight_out = out if out is not None else (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    _check_arguments(data, weight, pixel_map, flux_scale, oversampling, image, weight_out, shape)
    table, fixed = _kernel_table(kernel), _fixed_area(area_scaling, pixel_map)
    window_y, window_x = input_window(pixel_map, rows)
    if window_y.stop <= window_y.start or window_x.stop <= window_x.start:
        return image, weight_out
    values = _native(data, window_y, window_x)
    weights = None if weight is None else _native(weight, window_y, window_x)
    sky = _sky_strip(background, window_y, window_x, values.shape, pixel_map.input_shape)
    planes = _padded(values, weights, sky)
    n_sub = oversampling if oversampling > 0 else max(1, int(math.sqrt(pixel_map.area_at_center) + 0.5))
    y0, y1, x0, x1 = pixel_map.box
    integers = np.array(
        [first, y0, y1, x0, x1, pixel_map.step_pix, window_y.start, window_x.start, n_sub],
        np.int64,
    )
    nodes = (pixel_map.x_pix, pixel_map.y_pix, pixel_map.area_ratio)
    _resample_rows(*planes, table.reshape(-1), *nodes, integers, float(flux_scale), fixed, image, weight_out)
    return image, weight_out


def _check_arguments(
    data: Pixels,
    weight: Pixels | None,
    pixel_map: PixelMap,
    flux_scale: float,
    oversampling: int,
    image: NDArray[np.float32],
    weight_out: NDArray[np.float32],
    shape: tuple[int, int],
) -> None:
    for name, plane in (("image", data), ("weight map", weight)):
        if plane is not None and tuple(plane.shape) != tuple(pixel_map.input_shape):
            raise ValueError(
                f"the {name} has shape {tuple(plane.shape)}, its mapping {pixel_map.input_shape}: "
                "give the weight map and WCS that belong to this image"
            )
    if not (math.isfinite(flux_scale) and flux_scale > 0):
        raise ValueError(f"flux scale {flux_scale} is not usable: give a positive number or leave the image out")
    if oversampling < 0:
        raise ValueError(f"oversampling {oversampling} is negative: give 0 (automatic) or a number of samples")
    for plane in (image, weight_out):
        if plane.shape != shape or plane.dtype != np.float32 or not plane.flags.c_contiguous:
            raise ValueError(f"the output must be contiguous float32 of shape {shape}: give such arrays or none")


def _fixed_area(area_scaling: str, pixel_map: PixelMap) -> float:
    """Area factor of the whole image; 0 stands for the local one."""
    factors = {"variable": 0.0, "fixed": pixel_map.area_at_center, "none": 1.0}
    if area_scaling not in factors:
        raise ValueError(f"no area scaling {area_scaling!r}: choose variable, fixed or none")
    return factors[area_scaling]


def _row_range(pixel_map: PixelMap, rows: slice | None) -> tuple[int, int]:
    first, last, step = (rows or slice(None)).indices(pixel_map.frame_shape[0])
    if step != 1:
        raise ValueError(f"rows {rows} have a step: give a plain slice of frame rows")
    return first, max(first, last)


def _touched_box(
    pixel_to_sky: SkyFunction, input_shape: tuple[int, int], frame: Frame
) -> tuple[int, int, int, int]:
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
        raise MappingError("the WCS of this image is singular at its centre: solve its astrometry again or leave it out")
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


def _native(plane: Pixels, rows: slice, columns: slice) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.asarray(plane[rows])[:, columns], dtype=np.float32)


def _sky_strip(
    background: Background | None, rows: slice, columns: slice, shape: tuple[int, ...], input_shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Background of the window; one value is a (1, 1) array."""
    if background is None:
        return np.zeros((1, 1), np.float32)
    if callable(background):
        strip = np.asarray(background(rows))[:, columns]
    elif np.ndim(background) == 0:
        return np.full((1, 1), background, np.float32)
    elif np.shape(background) == tuple(input_shape):
        strip = np.asarray(background)[rows, columns]  # type: ignore[index]
    else:
        raise ValueError(f"the background has shape {np.shape(background)}: give it in the image's {input_shape}")
    if strip.shape != shape:
        raise ValueError(f"the background gave shape {strip.shape} for {shape}: give full input rows")
    return np.ascontiguousarray(strip, np.float32)


def _padded(
    values: NDArray[np.float32], weights: NDArray[np.float32] | None, sky: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]:
    """Image less sky (flat), weight (flat), state (0 good) and "bad pixel in the window" (flat), all with a bad rim."""
    shape = (values.shape[0] + 2 * _PAD, values.shape[1] + _PAD + _PAD_RIGHT)
    buffer, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    state = np.full(shape, 255, np.uint8)
    _load(values, weights if weights is not None else np.ones((1, 1), np.float32), sky, buffer, weight, state)
    bad = state != 0
    places, near = np.flatnonzero(bad), _near_bad(bad)
    for turn in range(1, _FILL_ROUNDS + 1):
        _fill_round(buffer, state, places, turn)
    return buffer.reshape(-1), weight.reshape(-1), state, near.reshape(-1)


@njit(parallel=True, nogil=True, cache=True)
def _load(values, weights, sky, buffer, weight, state):  # type: ignore[no-untyped-def]
    """Copy into the padded planes; `weights` and `sky` may be (1, 1)."""
    ny, nx = values.shape
    flat_sky, flat_weight = sky.size == 1, weights.size == 1
    for y in prange(ny):
        for x in range(nx):
            v = values[y, x] - (sky[0, 0] if flat_sky else sky[y, x])
            w = weights[0, 0] if flat_weight else weights[y, x]
            good = (w > 0.0) & (w < np.inf) & (abs(v) < np.inf)
            buffer[y + _PAD, x + _PAD] = v if good else np.float32(0.0)
            weight[y + _PAD, x + _PAD] = w if good else np.float32(0.0)
            state[y + _PAD, x + _PAD] = 0 if good else 255


@njit(parallel=True, nogil=True, cache=True)
def _fill_round(buffer, state, bad, turn):  # type: ignore[no-untyped-def]
    """Estimate bad pixels from pixels good or filled in earlier rounds: across (round 1), from the rim (later)."""
    ny, nx = buffer.shape
    for k in prange(bad.size):
        y, x = bad[k] // nx, bad[k] % nx
        if state[y, x] != 255 or y < 1 or x < 1 or y > ny - 2 or x > nx - 2:
            continue
        total, count = 0.0, 0
        if turn == 1:
            for dy, dx in ((0, 1), (1, 0)):
                if state[y - dy, x - dx] == 0 and state[y + dy, x + dx] == 0:
                    pair = np.float64(buffer[y - dy, x - dx]) + buffer[y + dy, x + dx]
                    far = y >= 2 and x >= 2 and y < ny - 2 and x < nx - 2
                    if far and state[y - 2 * dy, x - 2 * dx] == 0 and state[y + 2 * dy, x + 2 * dx] == 0:
                        outer = np.float64(buffer[y - 2 * dy, x - 2 * dx]) + buffer[y + 2 * dy, x + 2 * dx]
                        total += (4.0 * pair - outer) / 6.0
                    else:
                        total += pair / 2.0
                    count += 1
        else:
            for v in range(y - 1, y + 2):
                for u in range(x - 1, x + 2):
                    if state[v, u] < turn:
                        total += buffer[v, u]
                        count += 1
        if count > 0:
            buffer[y, x] = total / count
            state[y, x] = turn


def _near_bad(bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True at (y, x) where the window of rows y - 2 .. y + 3 and columns x - 2 .. x + 3 holds a bad pixel."""
    near = np.ones(bad.shape, np.bool_)
    two = bad[:, :-1] | bad[:, 1:]
    six = (two[:, :-4] | two[:, 2:-2]) | two[:, 4:]
    two = six[:-1] | six[1:]
    near[2:-3, 2:-3] = (two[:-4] | two[2:-2]) | two[4:]
    return near


def _kernel_table(kernel: str) -> NDArray[np.float32]:
    """Six taps (at -2 .. 3) and two zeros for each of the phases 0, 1/2048 .. 1; each row sums to 1."""
    phase = np.arange(_PHASES + 1) / _PHASES
    d = phase[:, None] - np.arange(-2, 4)[None, :]
    if kernel in {"lanczos3", "lanczos2"}:
        n = 3 if kernel == "lanczos3" else 2
        taps = np.where(np.abs(d) < n, np.sinc(d) * np.sinc(d / n), 0.0)
        taps[np.abs(d - np.round(d)).max(axis=1) == 0.0] = 0.0
        taps[d == 0.0] = 1.0
    elif kernel == "bilinear":
        taps = np.maximum(0.0, 1.0 - np.abs(d))
    elif kernel == "nearest":
        taps = ((d >= -0.5) & (d < 0.5)).astype(float)
    else:
        raise ValueError(f"no kernel {kernel!r}: choose lanczos3, lanczos2, bilinear or nearest")
    table = np.zeros((_PHASES + 1, _TAPS), np.float32)
    table[:, :6] = taps / taps.sum(axis=1, keepdims=True)
    return table


@intrinsic
def _window_sum(typingctx, buffer, start, stride, table, phase_x, phase_y):  # type: ignore[no-untyped-def]
    """Sum of a six-row window of `buffer` weighted with two table rows, as eight-wide vectors.

    Plain loops over six taps are not vectorised by the compiler; written as six fused multiply-adds of eight columns
    and one horizontal sum they run 2.5 times as fast. All indices are in elements of flat float32 arrays.
    """
    signature = types.float32(buffer, start, stride, table, phase_x, phase_y)

    def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
        vector, i32 = ir.VectorType(ir.FloatType(), _TAPS), ir.IntType(32)
        undefined = ir.Constant(vector, ir.Undefined)
        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), "llvm.fmuladd.v8f32"
        )

        def pick(source, lanes):  # type: ignore[no-untyped-def]
            return builder.shuffle_vector(source, undefined, ir.Constant(ir.VectorType(i32, _TAPS), lanes))

        def load(pointer, offset):  # type: ignore[no-untyped-def]
            place = builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())
            return builder.load(place, align=4)

        pixels = context.make_array(sig.args[0])(context, builder, args[0]).data
        taps = context.make_array(sig.args[3])(context, builder, args[3]).data
        taps_y, offset = load(taps, args[5]), args[1]
        columns = ir.Constant(vector, [0.0] * _TAPS)
        for j in range(6):
            columns = builder.call(fused, [pick(taps_y, [j] * _TAPS), load(pixels, offset), columns])
            offset = builder.add(offset, args[2])
        total = builder.fmul(columns, load(taps, args[4]))
        for shift in (4, 2, 1):
            total = builder.fadd(total, pick(total, [(i + shift) % _TAPS for i in range(_TAPS)]))
        return builder.extract_element(total, ir.Constant(i32, 0))

    return signature, generate


@njit(nogil=True, cache=True)
def _bad_power(state, table, start, phase_x, phase_y):  # type: ignore[no-untyped-def]
    """Share of the kernel's power on bad pixels of the window whose first pixel is `start`."""
    bad, total = 0.0, 0.0
    for j in range(6):
        for i in range(6):
            power = (table[phase_y + j] * table[phase_x + i]) ** 2
            total += power
            if state[start // state.shape[1] + j, start % state.shape[1] + i] != 0:
                bad += power
    return bad / total


@njit(nogil=True, cache=True, error_model="numpy")
def _line(nodes, j, i, step, t):  # type: ignore[no-untyped-def]
    """Value at the left side of a cell, t pixels below its first node, and slope along x."""
    left = nodes[j, i] + (nodes[j + 1, i] - nodes[j, i]) * (t / step)
    right = nodes[j, i + 1] + (nodes[j + 1, i + 1] - nodes[j, i + 1]) * (t / step)
    return left, (right - left) / step


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _locate(n, x, slope_x, y, slope_y, limits, stride, place, phase, part, inside):  # type: ignore[no-untyped-def]
    """Window start, table rows and fractions for n positions along a line of the padded planes, as vectors."""
    x_low, x_high, y_low, y_high = limits[0], limits[1], limits[2], limits[3]
    for k in range(n):
        u, v = x + slope_x * k, y + slope_y * k
        ok = (u >= x_low) & (u <= x_high) & (v >= y_low) & (v <= y_high)
        u, v = u if ok else x_high, v if ok else y_high
        iu, iv = int(u), int(v)
        fu, fv = u - iu, v - iv
        place[k] = (iv - 2) * stride + iu - 2
        phase[0, k], phase[1, k] = _TAPS * int(fu * _PHASES + 0.5), _TAPS * int(fv * _PHASES + 0.5)
        part[0, k], part[1, k] = fu, fv
        inside[k] = ok


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _gather(n, planes, state, stride, place, phase, part, inside, sums):  # type: ignore[no-untyped-def]
    """Add value, weight and number of samples at n located positions to the rows of `sums`."""
    buffer, weight, near, table = planes
    corner = 2 * stride + 2
    for k in range(n):
        start = place[k]
        value = _window_sum(buffer, start, stride, table, phase[0, k], phase[1, k])
        at, fu, fv = start + corner, part[0, k], part[1, k]
        top = weight[at] + (weight[at + 1] - weight[at]) * fu
        bottom = weight[at + stride] + (weight[at + stride + 1] - weight[at + stride]) * fu
        level = top + (bottom - top) * fv
        good = inside[k] and level > 0.0
        if near[at] and good:
            good = _bad_power(state, table, start, phase[0, k], phase[1, k]) <= MAX_BAD_POWER
        if good:
            sums[0, k] += value
            sums[1, k] += level
            sums[2, k] += np.float32(1.0)


@njit(parallel=True, nogil=True, cache=True, error_model="numpy")
def _resample_rows(  # type: ignore[no-untyped-def]
    buffer, weight, state, near, table, node_x, node_y, node_j, integers, flux_scale, fixed_area, image, weight_out
):
    """Fill image and weight rows; `integers` as packed by `resample`, `fixed_area` 0 takes the local J."""
    first, y0, y1, x0, x1, step = integers[0], integers[1], integers[2], integers[3], integers[4], integers[5]
    shift_y, shift_x, n_sub = _PAD - integers[6], _PAD - integers[7], integers[8]
    stride, pitch = state.shape[1], 1.0 / integers[8]
    x_high, y_high = state.shape[1] - _PAD_RIGHT - 1.0 + _EDGE_PIX, state.shape[0] - _PAD - 1.0 + _EDGE_PIX
    limits, planes = (_PAD - _EDGE_PIX, x_high, _PAD - _EDGE_PIX, y_high), (buffer, weight, near, table)
    for row in prange(max(first, y0), min(first + image.shape[0], y1)):
        place, phase = np.empty(step, np.int64), np.empty((2, step), np.int64)
        part, inside = np.empty((2, step), np.float32), np.empty(step, np.bool_)
        sums = np.empty((3, step), np.float32)
        j = (row - y0) // step
        for i in range((x1 - x0 + step - 1) // step):
            column, t0 = x0 + i * step, row - y0 - j * step
            n = min(step, x1 - column)
            area, slope_area = _line(node_j, j, i, step, t0)
            sums[:] = 0.0
            for line in range(n_sub):
                t = t0 + (line + 0.5) * pitch - 0.5
                x, slope_x = _line(node_x, j, i, step, t)
                y, slope_y = _line(node_y, j, i, step, t)
                if not np.isfinite(x + y + slope_x + slope_y + area + slope_area):
                    continue
                for dot in range(n_sub):
                    s = (dot + 0.5) * pitch - 0.5
                    u, v = x + shift_x + slope_x * s, y + shift_y + slope_y * s
                    _locate(n, u, slope_x, v, slope_y, limits, stride, place, phase, part, inside)
                    _gather(n, planes, state, stride, place, phase, part, inside, sums)
            for k in range(n):
                if 2.0 * sums[2, k] >= n_sub * n_sub:
                    local = area + slope_area * k
                    factor = flux_scale * (local if fixed_area == 0.0 else fixed_area)
                    image[row - first, column + k] = sums[0, k] / sums[2, k] * factor
                    weight_out[row - first, column + k] = sums[1, k] * pitch * pitch * local / (factor * factor)

"""Resampling of an image and its weight map onto a frame, in one pass and strip by strip.

**Mapping.** A `PixelMap` holds, on a coarse grid of frame pixels, the input pixel they come from; between the nodes it
is bilinear. The grid is refined until the error measured at cell centres and edge centres is below a tolerance.

**Flux.** An output pixel is the interpolated input value times `flux_scale` times an area factor. With `area_scaling =
"variable"` that factor is the local number of input pixels per output pixel, J = |d(x, y) input / d(x, y) output|, so
the flux of every source, summed in ADU, is the same before and after, whatever the change of scale or the distortion
(SWarp's VARIABLE). `"fixed"` takes J at the centre of the input for the whole image (SWarp's FIXED: for images whose
flat field has already absorbed the variation of pixel area); `"none"` takes 1 (surface brightness per pixel is kept).

**Weight.** The weight is 1 / variance per input pixel, 0 = unusable. The output weight is the bilinear interpolation
of the input weight times J / (flux_scale * area factor)^2. It states the noise at low spatial frequency, which decides
the error of a flux summed over an aperture: A input pixels of variance v hold the variance A v, and so must the A / J
output pixels, each scaled by (flux_scale * area factor). Interpolation correlates neighbours, so single output pixels
scatter less than the weight says, sums as it says (own derivation; where J = 1 this is SWarp's rule).

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
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.resample.kernel import MAX_BAD_POWER, kernel_table, padded_planes, resample_rows
from spica.algorithms.resample.mapping import (
    DEFAULT_TOLERANCE_PIX,
    MappingError,
    PixelMap,
    SkyFunction,
    build_pixel_map,
    input_rows,
    input_window,
    pixel_map_from_wcs,
    row_range,
)

__all__ = [
    "DEFAULT_TOLERANCE_PIX",
    "MAX_BAD_POWER",
    "AreaScaling",
    "Background",
    "KernelName",
    "MappingError",
    "PixelMap",
    "Pixels",
    "SkyFunction",
    "build_pixel_map",
    "input_rows",
    "input_window",
    "pixel_map_from_wcs",
    "resample",
]

KernelName = Literal["lanczos3", "lanczos2", "bilinear", "nearest"]
AreaScaling = Literal["variable", "fixed", "none"]


class Pixels(Protocol):
    """What is read of an image: its shape, and rows by slice (an array, a memory map, a section of a file)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, key: Any, /) -> Any: ...


Background = float | NDArray[Any] | Callable[[slice], ArrayLike]
"""Sky in input ADU: one value, an image of the input's shape, or a function of a slice of input rows."""


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
    first, last = row_range(pixel_map, rows)
    shape = (last - first, pixel_map.frame_shape[1])
    image, weight_out = out if out is not None else (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    _check_arguments(data, weight, pixel_map, flux_scale, oversampling, image, weight_out, shape)
    table, fixed = kernel_table(kernel), _fixed_area(area_scaling, pixel_map)
    window_y, window_x = input_window(pixel_map, rows)
    if window_y.stop <= window_y.start or window_x.stop <= window_x.start:
        return image, weight_out
    values = _native(data, window_y, window_x)
    weights = None if weight is None else _native(weight, window_y, window_x)
    sky = _sky_strip(background, window_y, window_x, values.shape, pixel_map.input_shape)
    planes = padded_planes(values, weights, sky)
    n_sub = oversampling if oversampling > 0 else max(1, int(math.sqrt(pixel_map.area_at_center) + 0.5))
    y0, y1, x0, x1 = pixel_map.box
    integers = np.array(
        [first, y0, y1, x0, x1, pixel_map.step_pix, window_y.start, window_x.start, n_sub],
        np.int64,
    )
    nodes = (pixel_map.x_pix, pixel_map.y_pix, pixel_map.area_ratio)
    resample_rows(*planes, table.reshape(-1), *nodes, integers, float(flux_scale), fixed, image, weight_out)
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
        strip = np.asarray(background)[rows, columns]
    else:
        raise ValueError(f"the background has shape {np.shape(background)}: give it in the image's {input_shape}")
    if strip.shape != shape:
        raise ValueError(f"the background gave shape {strip.shape} for {shape}: give full input rows")
    return np.ascontiguousarray(strip, np.float32)

"""One pass over the pixels: overscan, bias, dark and flat; the noise that is left; and the pixels to leave out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.detrend.overscan import Overscan, check_length
from spica.algorithms.robust import mad_rms, native_image

STRIP_ROWS = 128
_BANDS, _BAND_ROWS = 8, 8  # what is read of a frame for a median
_NO_MAP = np.zeros((0, 0), np.float32)
_NO_MASK = np.zeros((0, 0), np.bool_)
_NO_LEVEL = np.zeros(0, np.float32)
_MESH_PIX = 32
_SEGMENT_ROWS = 256


class Rows(Protocol):
    """A frame that gives its rows when asked: an array, or pixels that are still in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (ny, nx)."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Return the rows of a slice as an array (rows, nx)."""
        ...


@dataclass(frozen=True, eq=False)
class Detrended:
    """A detrended frame.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        ADU of a pixel of mean sensitivity; NaN = unusable.
    n_bad : int
        Unusable pixels for whatever reason; those of the next two are among them.
    n_masked : int
        In `bad_pixels`.
    n_low_flat : int
        Not masked, with a flat that is NaN or below `min_flat` of its median.
    """

    data: NDArray[np.float32]
    n_bad: int
    n_masked: int
    n_low_flat: int


def read_rows(source: Rows, rows: slice) -> NDArray[np.float32]:
    """Return rows of a frame as C-contiguous native float32, without a copy where they are that already."""
    return np.ascontiguousarray(source[rows], dtype=np.float32)


def detrend_image(
    data: Rows,
    *,
    overscan: Overscan | None = None,
    bias: Rows | None = None,
    dark: Rows | None = None,
    exptime_s: float | None = None,
    flat: Rows | None = None,
    bad_pixels: Rows | None = None,
    min_flat: float = 0.1,
    flat_level: float | None = None,
    out: NDArray[np.float32] | None = None,
) -> Detrended:
    """Return (data - overscan - bias - exptime_s dark) / flat, NaN where a pixel is unusable.

    Saturated pixels must be known before: the level of saturation is not constant after the flat.

    Parameters
    ----------
    data : array or Rows, shape (ny, nx)
        Raw counts in ADU of any real type.
    overscan : Overscan, optional
        Level of the frame; the bias must have been made of frames without it.
    bias : array or Rows, optional
        Master bias in ADU.
    dark : array or Rows, optional
        Master dark in ADU per second, less bias.
    exptime_s : float, optional
        Time in which the dark current ran; needed with `dark`.
    flat : array or Rows, optional
        Relative sensitivity, about 1.
    bad_pixels : array or Rows, optional
        Non-zero where unusable.
    min_flat : float
        Least usable flat in units of `flat_level`.
    flat_level : float, optional
        Median of the flat; measured on 64 of its rows where it is not given.
    out : ndarray of float32, shape (ny, nx), optional
        Takes the result; may be `data`.

    Raises
    ------
    ValueError
        When a frame has another shape than the data, or `dark` comes without a time.
    """
    shape = _common_shape(data, bias=bias, dark=dark, flat=flat, bad_pixels=bad_pixels, out=out)
    if dark is not None and not (exptime_s is not None and exptime_s >= 0):
        raise ValueError(f"a dark needs the exposure time, got {exptime_s}; give exptime_s in seconds, 0 or more")
    if overscan is not None:
        check_length(overscan, shape)
    result = np.empty(shape, np.float32) if out is None else out
    threshold = 0.0
    if flat is not None:
        threshold = min_flat * (sampled_median(flat) if flat_level is None else flat_level)
    counts = np.zeros(3, np.int64)
    for top in range(0, shape[0], STRIP_ROWS):
        rows = slice(top, min(shape[0], top + STRIP_ROWS))
        level = _NO_LEVEL if overscan is None else overscan.level
        correct_rows(
            read_rows(data, rows),
            level[rows] if overscan is not None and overscan.axis == 1 else level,
            overscan is not None and overscan.axis == 0,
            _NO_MAP if bias is None else read_rows(bias, rows),
            _NO_MAP if dark is None else read_rows(dark, rows),
            np.float32(exptime_s or 0.0),
            _NO_MAP if flat is None else read_rows(flat, rows),
            np.float32(threshold),
            mask_rows(bad_pixels, rows),
            np.float32(1.0),
            result[rows],
            counts,
        )
    return Detrended(result, *(int(count) for count in counts))


def mask_rows(mask: Rows | None, rows: slice) -> NDArray[np.bool_]:
    """Return rows of a mask as C-contiguous bool (True = unusable), an array without rows where there is none."""
    if mask is None:
        return _NO_MASK
    part = np.asarray(mask[rows])
    return np.ascontiguousarray(part if part.dtype == np.bool_ else part != 0)


def spread_bands(top: int, bottom: int) -> list[slice]:
    """Return up to eight bands of eight rows that are spread evenly over the rows top .. bottom."""
    if bottom - top <= _BANDS * _BAND_ROWS:
        return [slice(top, bottom)]
    starts = np.linspace(top, bottom - _BAND_ROWS, _BANDS).astype(int)
    return [slice(int(start), int(start) + _BAND_ROWS) for start in starts]


def sampled_median(frame: Rows) -> float:
    """Return the median of the finite positive pixels of some rows spread over the frame; NaN without any."""
    values = np.concatenate([read_rows(frame, rows).ravel() for rows in spread_bands(0, frame.shape[0])])
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.median(values)) if values.size else math.nan


def propagate_variance(
    data: ArrayLike,
    *,
    gain_e_per_adu: float,
    read_noise_e: float,
    dark: ArrayLike | None = None,
    exptime_s: float = 0.0,
    flat: ArrayLike | None = None,
    bias_sigma: ArrayLike | float = 0.0,
    dark_sigma: ArrayLike | float = 0.0,
    flat_sigma: ArrayLike | float = 0.0,
    overscan_error_adu: float = 0.0,
) -> NDArray[np.float32]:
    """Return the variance of a detrended frame, ADU^2, NaN where the frame or a master is.

    With d the detrended frame, f the flat, D the dark, t the time, g the gain, r the read noise and s the errors:
    v = (max(d f + t D, 0) / g + (r / g)^2 + s_bias^2 + s_overscan^2 + (t s_dark)^2) / f^2 + (d s_flat / f)^2.
    The first term is the photon noise of what was in the pixel, dark current included, and is itself noisy as the data
    are: for weights give a smooth `data` (the background). First-order propagation, own derivation. Errors of masters
    are shared by all frames that used them: they do not fall in a stack.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Detrended frame in ADU.
    dark, flat : array_like, optional
        As in `detrend_image`.
    bias_sigma, dark_sigma, flat_sigma : array_like or float
        Standard errors of the masters (`MasterFrame.sigma`).

    Raises
    ------
    ValueError
        When the gain is not positive, or a map has another shape.
    """
    if not gain_e_per_adu > 0:
        raise ValueError(f"gain {gain_e_per_adu}; give electrons per ADU, above 0")
    image = native_image(data)
    maps = [np.asarray(m, np.float32) for m in (0.0 if dark is None else dark, 1.0 if flat is None else flat)]
    maps += [np.asarray(m, np.float32) for m in (bias_sigma, dark_sigma, flat_sigma)]
    for array in maps:
        if array.ndim and array.shape != image.shape:
            raise ValueError(f"map of shape {array.shape} for data of shape {image.shape}; cut both to one frame")
    out = np.empty(image.shape, np.float32)
    fixed = np.float32((read_noise_e / gain_e_per_adu) ** 2 + overscan_error_adu**2)
    time, inverse_gain = np.float32(exptime_s), np.float32(1.0 / gain_e_per_adu)
    for top in range(0, len(image), STRIP_ROWS):
        rows = slice(top, top + STRIP_ROWS)
        d, (current, f, s_bias, s_dark, s_flat) = image[rows], (m[rows] if m.ndim else m for m in maps)
        photons = np.maximum(d * f + time * current, np.float32(0.0)) * inverse_gain
        usable = np.where(f > 0, f, np.float32(np.nan))
        out[rows] = (photons + fixed + s_bias**2 + (time * s_dark) ** 2 + (d * s_flat) ** 2) / usable**2
    return out


def find_bad_pixels(
    flat: ArrayLike,
    dark: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    scatter: ArrayLike | None = None,
    *,
    sigma: float = 8.0,
    min_departure: float = 0.1,
    response_bounds: tuple[float, float] = (0.5, 1.5),
    min_flat: float = 0.1,
    min_dark_adu_per_s: float = 0.0,
    column_fraction: float = 0.5,
) -> NDArray[np.bool_]:
    """Return True on dead, low, hot and noisy pixels and columns of masters.

    Each master is compared with its smooth self (medians of 32 x 32 pixels, bilinear). Bad are pixels without a value;
    a flat below `min_flat` of its median; a response flat / smooth outside `response_bounds`, or off 1 by
    `min_departure` and `sigma` robust rms; a dark above its smooth self by `sigma` rms and `min_dark_adu_per_s`; a bias
    off by `sigma` rms; a scatter above by `sigma` rms and a factor 2. Columns pass the same tests with the median of
    256 rows and the rms of such medians; where `column_fraction` of 256 pixels of a column is bad, all are. Own
    derivation.

    Parameters
    ----------
    flat : array_like, shape (ny, nx)
        Master flat.
    dark, bias : array_like, optional
        Master dark in ADU per second, master bias in ADU.
    scatter : array_like, optional
        Rms over frames of each pixel of bias or dark (`MasterFrame.scatter`).

    Raises
    ------
    ValueError
        When the masters differ in shape.
    """
    image = native_image(flat)
    response, smooth = _relative(image)
    bad = ~np.isfinite(image) | ~(image > min_flat * np.nanmedian(smooth))
    response = np.divide(response, smooth, out=response, where=smooth > 0)
    bad |= (response < response_bounds[0] - 1.0) | (response > response_bounds[1] - 1.0)
    bad |= _outliers(response, sigma, min_departure, two_sided=True)
    tests = ((dark, min_dark_adu_per_s, False), (bias, 0.0, True), (scatter, math.nan, False))
    for master, least, two_sided in tests:
        if master is None:
            continue
        other = native_image(master)
        if other.shape != image.shape:
            raise ValueError(f"master of shape {other.shape} beside a flat of {image.shape}; cut both to one frame")
        residual, smooth = _relative(other)
        bad |= ~np.isfinite(other)
        bad |= _outliers(residual, sigma, float(np.median(smooth)) if math.isnan(least) else least, two_sided)
    for top in range(0, len(bad), _SEGMENT_ROWS):
        part = bad[top : top + _SEGMENT_ROWS]
        part |= part.mean(axis=0) >= column_fraction
    return bad


def _outliers(residual: NDArray, sigma: float, least: float, two_sided: bool) -> NDArray[np.bool_]:
    """Pixels, and columns in segments of rows, that stand out by `sigma` robust rms and by `least`."""
    size = np.abs(residual) if two_sided else residual
    thin = residual.ravel()[:: max(1, residual.size // 500_000) | 1]
    out: NDArray[np.bool_] = size > max(sigma * mad_rms(thin), least)
    for top, middle in zip(
        range(0, len(residual), _SEGMENT_ROWS), _cell_medians(residual, _SEGMENT_ROWS, 1, 1), strict=True
    ):
        if len(residual) - top >= _MESH_PIX:
            height = np.abs(middle) if two_sided else middle
            out[top : top + _SEGMENT_ROWS] |= height > max(sigma * mad_rms(middle), least)
    return out


def _relative(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Image less its smooth self, and that: bilinear between the medians of a mesh, global median in empty cells."""
    mesh = _cell_medians(image, _MESH_PIX, _MESH_PIX, 2)
    seen = np.isfinite(mesh)
    mesh[~seen] = np.median(mesh[seen]) if seen.any() else 0.0
    across, along = (_interpolation(length, cells) for length, cells in zip(image.shape, mesh.shape, strict=True))
    smooth = (across @ mesh) @ along.T
    return image - smooth, smooth


def _interpolation(length: int, cells: int) -> NDArray[np.float32]:
    """Matrix (length, cells) of linear interpolation between centres of cells, and on to the rim."""
    edges = np.minimum(np.arange(cells + 1) * _MESH_PIX, length)
    centres = 0.5 * (edges[1:] + edges[:-1] - 1)
    matrix = np.zeros((length, cells), np.float32)
    if cells == 1:
        return matrix + np.float32(1.0)
    place = np.arange(length)
    left = np.clip(np.searchsorted(centres, place) - 1, 0, cells - 2)
    share = (place - centres[left]) / (centres[left + 1] - centres[left])
    matrix[place, left], matrix[place, left + 1] = 1.0 - share, share
    return matrix


def _common_shape(data: Rows, **frames: Rows | None) -> tuple[int, int]:
    if len(data.shape) != 2 or 0 in data.shape:
        raise ValueError(f"an image needs two axes and a pixel, got shape {data.shape}; pass one detector's array")
    for name, frame in frames.items():
        if frame is not None and tuple(frame.shape) != tuple(data.shape):
            raise ValueError(f"{name} of shape {frame.shape} for data of shape {data.shape}; cut both to one frame")
    return int(data.shape[0]), int(data.shape[1])


@njit(cache=True, nogil=True)
def _cell_medians(image, rows, columns, step):  # type: ignore[no-untyped-def]
    """Median of the finite pixels of each cell, NaN without any; of each row every `step`-th pixel is looked at."""
    ny, nx = image.shape
    out = np.full(((ny + rows - 1) // rows, (nx + columns - 1) // columns), np.nan, np.float32)
    values = np.empty(rows * columns, np.float32)
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            n = 0
            for y in range(j * rows, min(ny, j * rows + rows)):
                for x in range(i * columns + y % step, min(nx, i * columns + columns), step):
                    if np.isfinite(image[y, x]):
                        values[n] = image[y, x]
                        n += 1
            if n > 0:
                out[j, i] = np.median(values[:n])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def correct_rows(  # type: ignore[no-untyped-def]
    raw, level, level_by_column, bias, dark, time, flat, threshold, bad, factor, out, counts
):
    """Write factor (raw - level - bias - time dark) / flat; add unusable, masked and low-flat pixels to `counts`.

    Maps without rows are left out. A row stays in the nearest cache through all steps.
    """
    ny, nx = raw.shape
    line, nan = np.empty(nx, np.float32), np.float32(np.nan)
    for y in range(ny):
        source, target = raw[y], out[y]
        zero = level[y] if level.size and not level_by_column else np.float32(0.0)
        for x in range(nx):
            line[x] = (source[x] - zero) * factor if not bias.size else (source[x] - zero - bias[y, x]) * factor
        if level_by_column:
            for x in range(nx):
                line[x] -= level[x] * factor
        if dark.size:
            current, scale = dark[y], time * factor
            for x in range(nx):
                line[x] -= scale * current[x]
        n_masked, n_low, n_bad = 0, 0, 0
        if bad.size:
            hidden = bad[y]
            for x in range(nx):
                n_masked += 1 if hidden[x] else 0
                line[x] = nan if hidden[x] else line[x]
        if flat.size:
            response = flat[y]
            for x in range(nx):
                low = not (response[x] >= threshold and response[x] > np.float32(0.0))
                n_low += 1 if low and not (bad.size and bad[y, x]) else 0
                line[x] = nan if low else line[x] / response[x]
        for x in range(nx):
            usable = line[x] - line[x] == np.float32(0.0)
            n_bad += 0 if usable else 1
            target[x] = line[x] if usable else nan
        counts[0] += n_bad
        counts[1] += n_masked
        counts[2] += n_low

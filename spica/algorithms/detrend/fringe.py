"""Fringes of the night sky: how strong a known pattern is in a frame, and the frame without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.robust import clipped_statistics, mad_rms, native_image

_MIN_BINS = 30
_MIN_BLOCKS = 8
_Plane = NDArray[np.float64]


class FringeError(ValueError):
    """The pattern cannot be measured in this frame."""


@dataclass(frozen=True, slots=True)
class FringeScale:
    """Strength of a fringe pattern in a frame.

    Attributes
    ----------
    scale, error : float
        Factor of the pattern and its standard error, in units of the data per unit of the pattern. The error is the
        larger of the formal one and that of the scatter between blocks, which knows of sources left unmasked.
    rms : float
        Of the residuals of one bin, units of the data.
    n_bins : int
        Bins used.
    """

    scale: float
    error: float
    rms: float
    n_bins: int


def measure_fringe_scale(
    data: ArrayLike,
    pattern: ArrayLike,
    background: ArrayLike | float | None = None,
    mask: NDArray | None = None,
    *,
    bin_pix: int = 4,
    block_pix: int = 256,
    kappa: float = 3.0,
) -> FringeScale:
    """Return the amplitude of a fringe pattern in a frame.

    Bins of good pixels of frame and pattern are fitted by data - background = scale pattern + (a plane in each block),
    clipped at `kappa` rms of the residuals. The planes take up the sky, so `background` may be left out; one that is
    given must not follow the fringes (a mesh not much wider than they are takes part of them away, and the scale comes
    out low). The error compares the blocks (delete-one jackknife). Own derivation.

    Parameters
    ----------
    data, pattern : array_like, shape (ny, nx)
        Detrended frame, and the pattern with zero median; NaN = unusable in either.
    background : array_like or float, optional
        Smooth sky.
    mask : ndarray, optional
        Non-zero pixels (sources, saturated) are not looked at.
    bin_pix : int
        Side of the bins: some fraction of the width of a fringe.
    block_pix : int
        Side of the blocks: some fringes wide.

    Raises
    ------
    FringeError
        Fewer than 30 usable bins, or a pattern that is flat there.
    ValueError
        When the arrays differ in shape.
    """
    image, fringe = native_image(data), native_image(pattern)
    sky = native_image(background) if background is not None and np.ndim(background) else np.zeros((0, 0), np.float32)
    hidden = np.zeros((0, 0), np.bool_) if mask is None else np.ascontiguousarray(np.asarray(mask) != 0)
    for array in (fringe, sky, hidden):
        if array.size and array.shape != image.shape:
            raise ValueError(f"map of shape {array.shape} for data of shape {image.shape}; cut both to one frame")
    if bin_pix < 1 or block_pix < 4 * bin_pix:
        raise ValueError(f"bins of {bin_pix} and blocks of {block_pix} pixels; blocks must be four bins wide or more")
    sums = _bin_pair(image, fringe, sky, hidden, bin_pix)
    if background is not None and not np.ndim(background):
        sums[1] -= float(np.asarray(background)) * sums[0]
    y, x, weight, place = _blocked(sums, bin_pix, block_pix // bin_pix)
    return _fit(y, x, weight, place, kappa)


def subtract_fringe(
    data: ArrayLike, pattern: ArrayLike, scale: float, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return data - scale pattern, float32, NaN where the pattern is unknown; `out` may be the data themselves.

    Raises
    ------
    ValueError
        When the shapes differ or the scale is not finite.
    """
    image, fringe = native_image(data), native_image(pattern)
    if image.shape != fringe.shape or not math.isfinite(scale):
        raise ValueError(
            f"scale {scale}, pattern {fringe.shape}, data {image.shape}; give one frame and a finite scale"
        )
    result = np.empty(image.shape, np.float32) if out is None else out
    factor = np.float32(scale)
    for top in range(0, len(image), 32):  # strips that stay in the processor's cache
        rows = slice(top, top + 32)
        np.subtract(image[rows], factor * fringe[rows], out=result[rows])
    return result


def _blocked(sums: _Plane, bin_pix: int, side: int) -> tuple[_Plane, _Plane, _Plane, _Plane]:
    """Means of data and pattern and weights of bins, shape (blocks, side^2), and the planes (side^2, 3) of a block."""
    count, total, fringe = sums
    ny, nx = (side * math.ceil(length / side) for length in count.shape)
    pad = ((0, ny - count.shape[0]), (0, nx - count.shape[1]))
    good = count >= 0.5 * bin_pix**2

    def cut(plane: _Plane) -> _Plane:
        blocks = np.pad(plane, pad).reshape(ny // side, side, nx // side, side)
        return blocks.transpose(0, 2, 1, 3).reshape(-1, side * side)

    mean = [np.divide(part, count, out=np.zeros_like(part), where=good) for part in (total, fringe)]
    row, column = np.mgrid[0:side, 0:side].reshape(2, -1) / max(side - 1, 1) - 0.5
    return cut(mean[0]), cut(mean[1]), cut(np.where(good, count, 0.0)), np.stack([np.ones(side * side), row, column], 1)


def _fit(y: _Plane, x: _Plane, weight: _Plane, place: _Plane, kappa: float) -> FringeScale:
    """Fit scale and planes, clipping from the full set anew in each round; then the errors."""
    used = _first_clip(y, weight, kappa)
    kept = weight * used
    scale, rms = 0.0, math.nan
    for _ in range(20):
        u, v = _less_plane(y, kept, place), _less_plane(x, kept, place)
        power = float((kept * v * v).sum())
        if np.count_nonzero(kept) < _MIN_BINS or not power > 0:
            raise FringeError(
                f"{np.count_nonzero(kept)} usable bins, power of the pattern {power:.3g}: mask less, or use no pattern"
            )
        scale = float((kept * u * v).sum()) / power
        residual = u - scale * v
        rms = mad_rms(residual[kept > 0])
        inside = (weight > 0) & (np.abs(residual) <= kappa * rms)
        if rms == 0.0 or (inside == used).all():
            break
        used, kept = inside, weight * inside
    residual *= kept > 0
    blocks = np.stack([(kept * v * v).sum(axis=1), (kept * u * v).sum(axis=1)])
    n_bins = int(np.count_nonzero(kept))
    formal = math.sqrt(float((kept * residual**2).sum()) / max(n_bins - 1, 1) / power)
    return FringeScale(scale, max(formal, _jackknife_error(*blocks)), rms, n_bins)


def _first_clip(y: _Plane, weight: _Plane, kappa: float) -> NDArray[np.bool_]:
    """Bins within kappa rms of the clipped median of their block."""
    used = weight > 0
    for k in np.flatnonzero(used.any(axis=1)):
        sky = clipped_statistics(y[k][used[k]], kappa)
        used[k] &= np.abs(y[k] - sky.median) <= max(kappa * sky.rms, np.finfo(float).tiny)
    return used


def _less_plane(values: _Plane, weight: _Plane, place: _Plane) -> _Plane:
    """Values less the weighted plane of their block."""
    normal = np.einsum("bm,mi,mj->bij", weight, place, place, optimize=True)
    normal += np.eye(3) * (1e-9 * weight.sum(axis=1)[:, None, None] + np.finfo(float).tiny)
    right = (weight * values) @ place
    return np.asarray(values - np.linalg.solve(normal, right[:, :, None])[:, :, 0] @ place.T)


def _jackknife_error(power: _Plane, product: _Plane) -> float:
    """Standard error of sum(product) / sum(power) from leaving out one block at a time; 0 for few blocks."""
    n = int(np.count_nonzero(power))
    if n < _MIN_BLOCKS:
        return 0.0
    left = (product.sum() - product) / (power.sum() - power)
    return math.sqrt((n - 1) / n * float(np.square(left - left[power > 0].mean())[power > 0].sum()))


@njit(cache=True, nogil=True)
def _bin_pair(image, fringe, sky, hidden, size):  # type: ignore[no-untyped-def]
    """Number of good pixels, sum of data less sky, and sum of the pattern, of bins of size x size pixels."""
    ny, nx = image.shape
    out = np.zeros((3, (ny + size - 1) // size, (nx + size - 1) // size))
    for y in range(ny):
        count, total, pattern = out[0, y // size], out[1, y // size], out[2, y // size]
        for x in range(nx):
            value = image[y, x] - sky[y, x] if sky.size else image[y, x]
            wave = fringe[y, x]
            if np.isfinite(value) and np.isfinite(wave) and not (hidden.size and hidden[y, x]):
                count[x // size] += 1.0
                total[x // size] += value
                pattern[x // size] += wave
    return out

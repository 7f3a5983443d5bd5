"""Relative inverse variance of every pixel, and the mask of saturation."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.robust import native_image


def make_weight(
    shape: tuple[int, int],
    *,
    noise_map: float | NDArray,
    flat: NDArray | None = None,
    bad_pixels: NDArray | None = None,
    saturated: NDArray | None = None,
    cosmic: NDArray | None = None,
    masks: tuple[NDArray, ...] = (),
    edge_pix: int = 0,
    min_flat: float = 0.1,
) -> NDArray[np.float32]:
    """Return the relative inverse variance of every pixel, 0 where unusable.

    weight = (1 / noise)^2 x (flat / median flat)^2, scaled to a median of 1 over the usable pixels; the second factor
    only where a flat is given: it is for noise that was measured on a coarse mesh, blind to the sensitivity of single
    pixels. Photon noise of the sky alone would ask for the first power of the flat; read noise and the pixels that a
    flat lifts most ask for the second, which also keeps vignetted corners from being trusted too much.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    noise_map : float or ndarray, shape (ny, nx)
        Rms of the sky.
    flat : ndarray, optional
        Relative sensitivity that the image was divided by; below `min_flat` of its median, or NaN, it is unusable.
    bad_pixels, saturated, cosmic, masks : ndarray, optional
        Non-zero where unusable.
    edge_pix : int
        Rim that is set to 0.

    Raises
    ------
    ValueError
        When a map has another shape.
    """
    ny, nx = shape
    for array in (noise_map, flat, bad_pixels, saturated, cosmic, *masks):
        if array is not None and np.ndim(array) and np.shape(array) != tuple(shape):
            raise ValueError(f"map of shape {np.shape(array)} for a weight of shape {shape}; cut both to one frame")
    noise = np.broadcast_to(np.asarray(noise_map, dtype=np.float32), shape)
    good = (noise > 0) & np.isfinite(noise)
    for mask in (bad_pixels, saturated, cosmic, *masks):
        if mask is not None:
            good &= mask == 0
    relative = np.divide(1.0, noise, out=np.zeros(shape, dtype=np.float32), where=good)
    if flat is not None:
        response = np.asarray(flat, dtype=np.float32)
        positive = response[np.isfinite(response) & (response > 0)]
        level = float(np.median(positive)) if positive.size else 1.0
        usable = np.isfinite(response) & (response > min_flat * level)
        relative *= np.where(usable, response, np.float32(0.0))
    if edge_pix > 0:
        relative[:edge_pix], relative[ny - edge_pix :] = 0.0, 0.0
        relative[:, :edge_pix], relative[:, nx - edge_pix :] = 0.0, 0.0
    weight: NDArray[np.float32] = relative * relative
    used = weight[weight > 0]
    if used.size:
        weight /= np.float32(np.median(used[:: max(1, used.size // 500_000)]))
    return weight


def saturation_mask(data: ArrayLike, saturation_adu: float, grow: int = 1) -> NDArray[np.bool_]:
    """Return True on pixels at or above saturation and within a square of `grow` pixels around them; NaN is False."""
    return np.asarray(_grown(native_image(data), np.float32(saturation_adu), int(grow)))


@njit(cache=True, nogil=True)
def _grown(image, level, grow):  # type: ignore[no-untyped-def]
    ny, nx = image.shape
    out = np.zeros((ny, nx), dtype=np.bool_)
    for y in range(ny):
        for x in range(nx):
            if image[y, x] >= level:
                out[max(y - grow, 0) : min(y + grow + 1, ny), max(x - grow, 0) : min(x + grow + 1, nx)] = True
    return out

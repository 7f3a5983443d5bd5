"""Small grey pictures of large images: block means, mosaics by layout, an asinh stretch; bounded memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from spica.files.checksum import write_atomic

_STRIP_PIXELS = 8 * 1024 * 1024
_SAMPLE = 60_000


@dataclass(frozen=True)
class Tile:
    """One detector's reduced image and the 0-based position (x, y) of its first pixel in the mosaic, in full pixels."""

    reduced: np.ndarray
    x_pix: int
    y_pix: int


def binning_for(shape: tuple[int, int], max_size_pix: int) -> int:
    """Return the smallest whole factor that brings both sides to `max_size_pix` or less."""
    if max_size_pix < 1:
        raise ValueError("a picture needs at least one pixel; give max_size_pix 1 or more")
    return max(1, -(-max(shape) // max_size_pix))


def row_strips(data: np.ndarray, factor: int = 1) -> Iterator[np.ndarray]:
    """Yield an image (also a memory map) in strips of whole block rows, bounded in size."""
    step = max(1, _STRIP_PIXELS // max(1, data.shape[1]) // factor) * factor
    for start in range(0, data.shape[0], step):
        yield data[start : start + step]


def reduce_blocks(strips: Iterable[np.ndarray], factor: int) -> np.ndarray:
    """Return block means of an image given as strips of rows, float32 [ceil(ny/f), ceil(nx/f)].

    Pixels that are not finite are left out of the mean; a block of them alone is NaN. Edge blocks hold fewer pixels.
    Every strip but the last must have a multiple of `factor` rows, else ValueError.
    """
    parts: list[np.ndarray] = []
    open_end = False
    for strip in strips:
        if open_end:
            raise ValueError(f"strips must have a multiple of {factor} rows; cut the image anew")
        open_end = strip.shape[0] % factor != 0
        values = np.asarray(strip, dtype=np.float32)
        good = np.isfinite(values)
        if good.all() and values.shape[0] % factor == 0:
            parts.append(_whole_blocks(values, factor))
            continue
        rows = np.arange(0, values.shape[0], factor)
        columns = np.arange(0, values.shape[1], factor)
        total = np.add.reduceat(np.where(good, values, np.float32(0)), rows, axis=0, dtype=np.float64)
        count = np.add.reduceat(good, rows, axis=0, dtype=np.int64)
        total = np.add.reduceat(total, columns, axis=1)
        count = np.add.reduceat(count, columns, axis=1)
        mean = np.full(total.shape, np.nan, np.float32)
        np.divide(total, count, out=mean, where=count > 0, casting="same_kind")
        parts.append(mean)
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _whole_blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """Return block means of finite pixels whose rows are a multiple of the factor."""
    ny, nx = values.shape
    whole = nx // factor * factor
    by_row = values.reshape(ny // factor, factor, nx).sum(axis=1, dtype=np.float64)
    mean = by_row[:, :whole].reshape(ny // factor, whole // factor, factor).sum(axis=2) / factor**2
    if whole < nx:
        rest = by_row[:, whole:].sum(axis=1, keepdims=True) / (factor * (nx - whole))
        mean = np.concatenate([mean, rest], axis=1)
    return mean.astype(np.float32)


def mosaic_tiles(tiles: Sequence[Tile], factor: int, max_size_pix: int) -> np.ndarray:
    """Place reduced detectors by their layout positions on one grid, NaN between; the larger index wins on overlaps.

    Raises ValueError where the layout spreads over more than `max_size_pix` reduced pixels a side.
    """
    x0, y0 = min(tile.x_pix for tile in tiles), min(tile.y_pix for tile in tiles)
    places = [(round((tile.x_pix - x0) / factor), round((tile.y_pix - y0) / factor)) for tile in tiles]
    nx = max(x + tile.reduced.shape[1] for (x, _), tile in zip(places, tiles, strict=True))
    ny = max(y + tile.reduced.shape[0] for (_, y), tile in zip(places, tiles, strict=True))
    if max(nx, ny) > max_size_pix + 2:
        raise ValueError(f"the mosaic has {nx} x {ny} reduced pixels, more than {max_size_pix}; bin more")
    out = np.full((ny, nx), np.nan, np.float32)
    for (x, y), tile in zip(places, tiles, strict=True):
        ys, xs = tile.reduced.shape
        out[y : y + ys, x : x + xs] = tile.reduced
    return out


def zscale_limits(values: np.ndarray, contrast: float = 0.25) -> tuple[float, float]:
    """Return display limits by the zscale rule of IRAF: the slope of the sorted, clipped sample around its median.

    The sorted sample is fitted by a line with 2.5 sigma clipping; the limits are median -+ slope / contrast * half the
    sample, cut to the range of the data (after the IRAF help page of `display`). (0, 1) where nothing is finite.
    """
    flat = values.ravel()
    sample = np.sort(flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64))
    sample = sample[np.isfinite(sample)]
    n = sample.size
    if n == 0:
        return 0.0, 1.0
    low, high, middle = float(sample[0]), float(sample[-1]), float(sample[n // 2])
    x = np.arange(n) - n / 2.0
    keep = np.ones(n, bool)
    slope = 0.0
    for _ in range(5):
        if keep.sum() < max(5, n // 2):
            return low, high if high > low else low + 1.0
        slope, offset = np.polyfit(x[keep], sample[keep], 1)
        residual = sample - (slope * x + offset)
        spread = float(residual[keep].std())
        keep = np.abs(residual) <= 2.5 * spread if spread > 0 else keep
    half = slope / contrast * n / 2.0
    first, last = max(low, middle - half), min(high, middle + half)
    return (first, last) if last > first else (low, high if high > low else low + 1.0)


def stretch_asinh(values: np.ndarray, low: float, high: float, softening: float = 0.1) -> np.ndarray:
    """Return uint8 grey levels 255 asinh(t / s) / asinh(1 / s) of t = (v - low) / (high - low) in 0..1; NaN is 0."""
    t = np.clip(
        (np.nan_to_num(values, nan=low, posinf=high, neginf=low).astype(np.float64) - low) / (high - low), 0.0, 1.0
    )
    return np.rint(255.0 * np.arcsinh(t / softening) / np.arcsinh(1.0 / softening)).astype(np.uint8)


def make_preview(
    data: np.ndarray | Sequence[Tile],
    max_size_pix: int = 1024,
    factor: int | None = None,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return a grey picture, uint8 [y, x], y upwards as in the image (turn it for a screen: `write_png` does).

    Parameters
    ----------
    data : ndarray or sequence of Tile
        An image (a memory map stays on disk), or detectors reduced by `reduce_blocks` with their mosaic positions.
    max_size_pix : int
        Longest side of the picture.
    factor : int, optional
        Binning of the tiles (needed with tiles); of an image chosen from `max_size_pix` where absent.
    limits : (float, float), optional
        Black and white; by zscale with the upper limit widened fourfold for the asinh where absent.
    """
    if isinstance(data, np.ndarray):
        shape = (int(data.shape[0]), int(data.shape[1]))
        chosen = factor or binning_for(shape, max_size_pix)
        reduced = reduce_blocks(row_strips(data, chosen), chosen)
    else:
        if factor is None:
            raise ValueError("tiles need the factor they were reduced by; give factor")
        reduced = mosaic_tiles(data, factor, max_size_pix)
    low, high = limits or zscale_limits(reduced)
    if limits is None:
        high = low + 4.0 * (high - low)
    return stretch_asinh(reduced, low, high)


def png_bytes(picture: np.ndarray) -> bytes:
    """Return a uint8 picture [y, x] or [y, x, 3] as PNG with y upwards."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture[::-1])).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def write_png(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write a picture as PNG, y upwards, atomically."""
    write_atomic(path, png_bytes(picture))

"""Multi-order coverage maps (IVOA MOC 2.0, space): ranges of HEALPix cells, written as FITS, JSON and ASCII."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from spica.model.errors import DataError

MAX_ORDER = 29
AREA_OF_SPHERE_DEG2 = 41252.96124941927

Ranges = NDArray[np.int64]


@dataclass(frozen=True)
class Moc:
    """Coverage of the sky: ranges (int64 [n, 2], first cell and the one after the last) of cells of order 29, nested.

    Ranges ascend and do not touch. `order` is the finest order of its cells: all bounds are multiples of 4^(29-order).
    """

    ranges: Ranges
    order: int = MAX_ORDER

    @property
    def area_deg2(self) -> float:
        """Area covered."""
        cells = float(np.sum(self.ranges[:, 1] - self.ranges[:, 0], dtype=np.float64))
        return AREA_OF_SPHERE_DEG2 * cells / (12.0 * 4.0**MAX_ORDER)

    def cells(self) -> dict[int, NDArray[np.int64]]:
        """Return the fewest whole cells that make the coverage: pixels by order, ascending; empty orders left out."""
        found: dict[int, NDArray[np.int64]] = {}
        rest = self.ranges
        for order in range(self.order + 1):
            if not len(rest):
                break
            size = np.int64(1) << np.int64(2 * (MAX_ORDER - order))
            low, high = -(-rest[:, 0] // size), rest[:, 1] // size
            whole = high > low
            if not whole.any():
                continue
            count = (high - low)[whole]
            starts = np.repeat(low[whole] - np.concatenate([[0], np.cumsum(count)[:-1]]), count)
            found[order] = starts + np.arange(int(count.sum()), dtype=np.int64)
            before = np.column_stack([rest[whole, 0], low[whole] * size])
            after = np.column_stack([high[whole] * size, rest[whole, 1]])
            left = np.concatenate([rest[~whole], before, after])
            left = left[left[:, 1] > left[:, 0]]
            rest = left[np.argsort(left[:, 0])]
        return found


def make_moc(ranges: ArrayLike, order: int = MAX_ORDER) -> Moc:
    """Return the union of ranges of cells of order 29; every cell of `order` that is touched belongs to it.

    Raises
    ------
    DataError
        Ranges that are none, or an order beyond 0..29.
    """
    if not 0 <= order <= MAX_ORDER:
        raise DataError(f"a coverage map has orders 0 to {MAX_ORDER}, not {order}; give one of those")
    given = np.asarray(ranges, dtype=np.int64).reshape(-1, 2)
    if len(given) and (given[:, 0].min() < 0 or given[:, 1].max() > 12 << 2 * MAX_ORDER):
        raise DataError("a range lies outside the sphere; write the footprints of the images anew")
    size = np.int64(1) << np.int64(2 * (MAX_ORDER - order))
    low, high = given[:, 0] // size * size, -(-given[:, 1] // size) * size
    return Moc(_union(low[high > low], high[high > low]), order)


def join_mocs(maps: Iterable[Moc]) -> Moc:
    """Return the union of coverage maps; its order is the finest of theirs."""
    parts = list(maps)
    ranges = np.concatenate([m.ranges for m in parts]) if parts else np.empty((0, 2), dtype=np.int64)
    return Moc(_union(ranges[:, 0], ranges[:, 1]), max((m.order for m in parts), default=MAX_ORDER))


def _union(low: NDArray[np.int64], high: NDArray[np.int64]) -> Ranges:
    """Return ranges sorted, joined where they meet."""
    if not len(low):
        return np.empty((0, 2), dtype=np.int64)
    order = np.argsort(low, kind="stable")
    low, high = low[order], np.maximum.accumulate(high[order])
    opens = np.concatenate([[True], low[1:] > high[:-1]])
    last = np.concatenate([np.flatnonzero(opens)[1:] - 1, [len(low) - 1]])
    return np.column_stack([low[opens], high[last]])


def moc_text(moc: Moc) -> str:
    """Return the ASCII form: `5/10-12 20 6/84`; the finest order ends it where it has no cell."""
    parts = [f"{order}/{' '.join(_spans(pixels))}" for order, pixels in moc.cells().items()]
    if not parts or not parts[-1].startswith(f"{moc.order}/"):
        parts.append(f"{moc.order}/")
    return " ".join(parts) + "\n"


def _spans(pixels: NDArray[np.int64]) -> list[str]:
    breaks = np.flatnonzero(np.diff(pixels) > 1)
    first = pixels[np.concatenate([[0], breaks + 1])]
    last = pixels[np.concatenate([breaks, [len(pixels) - 1]])]
    return [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(first.tolist(), last.tolist(), strict=True)]


def moc_json(moc: Moc) -> str:
    """Return the JSON form: lists of pixels by order; the finest order is there even where it has no cell."""
    cells = {str(order): pixels.tolist() for order, pixels in moc.cells().items()}
    return json.dumps(cells | ({} if str(moc.order) in cells else {str(moc.order): []}), separators=(",", ":")) + "\n"


def moc_fits(moc: Moc) -> bytes:
    """Return the FITS form: one table of NUNIQ numbers, 4^(order+1) + pixel, which readers of MOC 1 and 2 know."""
    numbers = [pixels + (np.int64(4) << np.int64(2 * order)) for order, pixels in moc.cells().items()]
    values = np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64)
    table = fits.BinTableHDU.from_columns([fits.Column(name="UNIQ", format="K", array=values)])
    cards = (
        ("MOCVERS", "2.0", "version of the standard"),
        ("MOCDIM", "SPACE", "dimension"),
        ("ORDERING", "NUNIQ", "numbering of cells"),
        ("COORDSYS", "C", "ICRS"),
        ("MOCORD_S", moc.order, "finest order"),
        ("MOCORDER", moc.order, "finest order, as version 1 has it"),
        ("PIXTYPE", "HEALPIX", "cells"),
        ("MOCTOOL", "Spica", "made by"),
    )
    for keyword, value, comment in cards:
        table.header[keyword] = (value, comment)
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    return stream.getvalue()

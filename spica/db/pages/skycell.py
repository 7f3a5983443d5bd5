"""Coverage and depth of the survey in HEALPix cells, counted over the snapshot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import hpgeom
import numpy as np
from numpy.typing import NDArray

from spica.algorithms.skymap import angular_separation
from spica.db.pages.tally import REFERENCE_MAG, depth_weight, is_exposure
from spica.db.snapshot.columns import ImageColumns
from spica.model.association import Circle

KEY_ORDER = 14
"""Order of the keys of centres: cells of 13 arcsec."""
WIDEST_ORDER, FINEST_ORDER = 3, 13
MAX_POINTINGS = 20_000
"""Pointings that are laid on cells one by one; more take coarser cells."""
MAX_CELLS = 60_000
EQUAL_AREA = 0.8
"""A square within a circle of radius 1 has the area of a circle of this radius, sqrt(2 / pi)."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SkyCells:
    """Cells with exposures: HEALPix nested pixels of an order, ascending.

    `n` exposures, their time in s, depth in mag (1.25 log10 sum 10^(0.8 m), NaN unknown), best seeing in arcsec (NaN).
    An exposure lies on the cells whose centre is within the circle that has the area of its square footprint.
    """

    order: int
    pixel: Ints
    n: Ints
    exptime_s: Floats
    depth_mag: Floats
    seeing_arcsec: Floats

    def __len__(self) -> int:
        """Return how many cells there are."""
        return len(self.pixel)


def centre_cells(images: ImageColumns) -> Ints:
    """Return the cell (order 14, nested) of the centre of each image, -1 where it has no place."""
    placed = np.isfinite(images.ra) & np.isfinite(images.dec)
    keys = np.full(len(images), -1, dtype=np.int64)
    keys[placed] = hpgeom.angle_to_pixel(1 << KEY_ORDER, images.ra[placed] % 360.0, images.dec[placed], nest=True)
    return keys


def shown_rows(images: ImageColumns, filter_name: str | None, circle: Circle | None = None) -> Ints:
    """Return the rows of usable science exposures that have a place, of a filter, near a circle."""
    mask = is_exposure(images) & images.usable & np.isfinite(images.ra) & np.isfinite(images.dec)
    if filter_name is not None:
        mask &= images.filter == images.code("filter", filter_name)
    rows = np.flatnonzero(mask)
    if circle is None or circle.radius_deg >= 180.0:
        return rows
    near = np.abs(images.dec[rows] - circle.dec_deg) <= circle.radius_deg + 6.0
    rows = rows[near]
    apart = angular_separation(images.ra[rows], images.dec[rows], circle.ra_deg, circle.dec_deg)
    return rows[apart <= circle.radius_deg + np.nan_to_num(images.radius[rows])]


def sky_cells(images: ImageColumns, keys: Ints, rows: Ints, order: int) -> SkyCells:
    """Lay exposures on cells of an order, or of a coarser one where there are too many; `keys` are `centre_cells`."""
    order = min(max(order, WIDEST_ORDER), FINEST_ORDER)
    while True:
        pointings = _pointings(images, keys, rows, order)
        if len(pointings.key) <= MAX_POINTINGS or order == WIDEST_ORDER or pointings.narrow:
            cells = _laid(pointings, order)
            if len(cells) <= MAX_CELLS or order == WIDEST_ORDER:
                return cells
        order -= 1


@dataclass(frozen=True)
class _Pointings:
    """Exposures summed by place (cell two orders finer) and radius; `narrow`: all lie within one cell each."""

    fine: int
    key: Ints
    radius_deg: Floats
    n: Ints
    exptime_s: Floats
    weight: Floats
    seeing_arcsec: Floats
    narrow: bool


def _pointings(images: ImageColumns, keys: Ints, rows: Ints, order: int) -> _Pointings:
    fine = min(order + 2, KEY_ORDER)
    size = cell_size(order)
    radius = np.minimum(np.nan_to_num(images.radius[rows]) * EQUAL_AREA, 20.0)
    step = np.minimum(np.rint(4.0 * radius / size), 255).astype(np.int64)
    step[step < 3] = 0  # within its own cell
    narrow = not bool(step.any())
    at = keys[rows] >> 2 * (KEY_ORDER - (order if narrow else fine))
    groups, inverse = np.unique(at * 256 + step, return_inverse=True)
    m = len(groups)
    seeing = np.full(m, np.inf)
    np.fmin.at(seeing, inverse, images.seeing[rows])
    return _Pointings(
        order if narrow else fine,
        groups >> 8,
        (groups & 255) * size / 4.0,
        np.bincount(inverse, minlength=m).astype(np.int64),
        np.bincount(inverse, weights=np.nan_to_num(images.exptime[rows]), minlength=m).astype(np.float64),
        np.bincount(inverse, weights=depth_weight(images, rows), minlength=m).astype(np.float64),
        seeing,
        narrow,
    )


def _laid(given: _Pointings, order: int) -> SkyCells:
    if given.narrow:
        pixel, source = given.key, np.arange(len(given.key))
    else:
        ra, dec = hpgeom.pixel_to_angle(1 << given.fine, given.key, nest=True)
        own = given.key >> 2 * (given.fine - order)
        parts = [
            _disk(order, float(a), float(d), float(r), int(o))
            for a, d, r, o in zip(ra, dec, given.radius_deg, own, strict=True)
        ]
        source = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        pixel = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    cells, at = np.unique(pixel, return_inverse=True)
    m = len(cells)
    weight = np.bincount(at, weights=given.weight[source], minlength=m)
    seeing = np.full(m, np.inf)
    np.fmin.at(seeing, at, given.seeing_arcsec[source])
    with np.errstate(divide="ignore"):
        depth = REFERENCE_MAG + 1.25 * np.log10(weight)
    return SkyCells(
        order,
        cells.astype(np.int64),
        np.rint(np.bincount(at, weights=given.n[source], minlength=m)).astype(np.int64),
        np.bincount(at, weights=given.exptime_s[source], minlength=m).astype(np.float64),
        np.where(weight > 0, depth, np.nan),
        np.where(np.isfinite(seeing), seeing, np.nan),
    )


def _disk(order: int, ra: float, dec: float, radius: float, own: int) -> Ints:
    if radius == 0.0:
        return np.array([own], dtype=np.int64)
    found = np.asarray(hpgeom.query_circle(1 << order, ra, dec, radius, nest=True), dtype=np.int64)
    return found if own in found else np.append(found, own)


def cell_size(order: int) -> float:
    """Return the side of a square with the area of a cell, degrees."""
    return math.degrees(math.sqrt(4.0 * math.pi / (12.0 * 4.0**order)))


def order_of_view(radius_deg: float) -> int:
    """Return the order at which a view of a radius is about 200 cells wide."""
    wanted = max(radius_deg, 0.01) * 2.0 / 200.0
    return min(FINEST_ORDER, max(WIDEST_ORDER, round(math.log2(cell_size(0) / wanted))))


def cells_json(cells: SkyCells) -> dict[str, Any]:
    """Return cells as compact lists: pixels, numbers, times in s, depths and seeing rounded, None where unknown."""
    return {
        "order": cells.order,
        "pixel": cells.pixel.tolist(),
        "n": cells.n.tolist(),
        "time": np.rint(cells.exptime_s).astype(np.int64).tolist(),
        "depth": _rounded(cells.depth_mag),
        "seeing": _rounded(cells.seeing_arcsec),
    }


def _rounded(values: Floats) -> list[float | None]:
    return [None if math.isnan(v) else v for v in np.round(values, 3).tolist()]

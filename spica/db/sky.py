"""Places on the sky: HEALPix keys of centres, cells that cover footprints, images that meet a circle.

Keys are order 29, nested, always by `hpgeom` (two libraries may differ at pixel edges). What covers a footprint is kept
as ranges of keys, each of them one whole HEALPix cell of some order: two cells overlap only where one holds the other,
so an index on `low` finds both cases. The ranges are a coarse answer; the exact polygons confirm every hit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import hpgeom
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    TableValuedAlias,
    and_,
    any_,
    column,
    delete,
    false,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy import update as update_rows
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.algorithms.skymap import angular_separation, polygon_meets_circle, sky_angles, unit_vectors
from spica.db.engine import copy_rows
from spica.db.tables.image import DetectorRow, ImageRow, SkyRangeRow
from spica.model.association import Circle
from spica.model.errors import DataError
from spica.model.image import ImageKind

ORDER = 29
MAX_RANGES = 64
FINEST = 18
"""Finest order of a covering cell; 0.8 arcsec."""

Polygon = Sequence[tuple[float, float]]
Ranges = list[tuple[int, int]]
Ints = NDArray[np.int64]


def centre_keys(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Ints:
    """Return the HEALPix keys (order 29, nested, int64) of directions in degrees; any turn of RA will do.

    Raises
    ------
    DataError
        A direction that is not finite, or a declination beyond the poles.
    """
    ra = np.atleast_1d(np.asarray(ra_deg, dtype=np.float64))
    dec = np.atleast_1d(np.asarray(dec_deg, dtype=np.float64))
    if not (np.all(np.isfinite(ra)) and np.all(np.abs(dec) <= 90.0)):
        raise DataError("a position is not finite or beyond the poles; look at the coordinates in the header")
    keys: Ints = np.asarray(hpgeom.angle_to_pixel(1 << ORDER, _turned(ra), dec, nest=True), dtype=np.int64)
    return keys


def centre_key(ra_deg: float, dec_deg: float) -> int:
    """Return the HEALPix key (order 29, nested) of one direction in degrees; errors as `centre_keys`."""
    return int(centre_keys(ra_deg, dec_deg)[0])


def _turned(ra_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    turned = np.mod(ra_deg, 360.0)
    return np.where(turned >= 360.0, 0.0, turned)


def covering_ranges(shape: Circle | Sequence[Polygon]) -> Ranges:
    """Return at most 64 ranges [low, high) of order-29 keys that cover a circle, or the union of polygons.

    Each range is one HEALPix cell; the order is the finest that keeps within the count. A polygon that is not convex,
    or has no area, is covered by the circle around it. Sorted, apart from each other.

    Raises
    ------
    DataError
        No polygon, fewer than three corners, or coordinates that are no directions.
    """
    shapes: list[Circle | Polygon] = [shape] if isinstance(shape, Circle) else list(shape)
    for one in shapes:
        _check(one)
    order = _first_order(_around(shapes))
    while True:
        found = np.unique(np.concatenate([_cells(one, order) for one in shapes]))
        cells = _merged(found, order)
        if len(cells) <= MAX_RANGES or order == 0:
            return sorted((pixel << 2 * (ORDER - o), (pixel + 1) << 2 * (ORDER - o)) for o, pixel in cells)
        order -= 1


def _check(shape: Circle | Polygon) -> None:
    if isinstance(shape, Circle):
        fine = math.isfinite(shape.ra_deg) and abs(shape.dec_deg) <= 90.0 and 0.0 <= shape.radius_deg <= 180.0
        if not fine:
            raise DataError("a circle is no circle on the sky; give right ascension, declination and radius in degrees")
        return
    corners = np.asarray(shape, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2:
        raise DataError("a footprint has fewer than three corners; look at the coordinates in the header")
    if not (np.all(np.isfinite(corners)) and np.all(np.abs(corners[:, 1]) <= 90.0)):
        raise DataError("a footprint has corners that are no directions; look at the coordinates in the header")


def _around(shapes: Sequence[Circle | Polygon]) -> Circle:
    """Return a circle that holds all shapes."""
    if len(shapes) == 1 and isinstance(shapes[0], Circle):
        return shapes[0]
    corners = np.concatenate([np.asarray(s, dtype=np.float64) for s in shapes if not isinstance(s, Circle)])
    mean = unit_vectors(corners[:, 0], corners[:, 1]).mean(axis=0)
    if float(np.linalg.norm(mean)) < 1e-9:
        return Circle(0.0, 0.0, 180.0)
    ra, dec = sky_angles(mean / np.linalg.norm(mean))
    radius = float(np.max(angular_separation(ra, dec, corners[:, 0], corners[:, 1])))
    return Circle(float(ra), float(dec), radius)


def _first_order(circle: Circle) -> int:
    """Return the order at which the circle's area holds about four cells for each range allowed."""
    area = 2.0 * math.pi * (1.0 - math.cos(math.radians(circle.radius_deg)))
    if area <= 0.0:
        return FINEST
    cells = 4 * MAX_RANGES * 4.0 * math.pi / (12.0 * area)
    return min(FINEST, max(0, math.floor(math.log(cells, 4))))


def _cells(shape: Circle | Polygon, order: int) -> Ints:
    """Return the pixels of one order that a shape touches (a few more may come)."""
    if isinstance(shape, Circle):
        return _circle_cells(shape, order)
    corners = np.asarray(shape, dtype=np.float64)
    try:
        found = hpgeom.query_polygon(1 << order, _turned(corners[:, 0]), corners[:, 1], inclusive=True, nest=True)
    except (RuntimeError, ValueError):  # not convex, or without area
        return _circle_cells(_around([shape]), order)
    return np.asarray(found, dtype=np.int64)


def _circle_cells(circle: Circle, order: int) -> Ints:
    ra = float(_turned(np.asarray(circle.ra_deg)))
    radius = min(180.0, max(circle.radius_deg, 1e-7))
    found = hpgeom.query_circle(1 << order, ra, circle.dec_deg, radius, inclusive=True, nest=True)
    return np.asarray(found, dtype=np.int64)


def _merged(pixels: Ints, order: int) -> list[tuple[int, int]]:
    """Return (order, pixel) cells: four brothers become their parent, as often as it goes."""
    cells: list[tuple[int, int]] = []
    while True:
        parents, counts = np.unique(pixels >> 2, return_counts=True)
        whole = parents[counts == 4] if order > 0 else parents[:0]
        alone = pixels[~np.isin(pixels >> 2, whole)] if order > 0 else pixels
        cells += [(order, int(p)) for p in alone]
        if whole.size == 0:
            return cells
        pixels, order = whole, order - 1


def copy_ranges(session: Session, ranges: Mapping[int, Ranges]) -> None:
    """Write the ranges (`covering_ranges`) of new images, which have none yet, by image id."""
    rows = [(image_id, low, high) for image_id, found in ranges.items() for low, high in found]
    if rows:
        copy_rows(session, SkyRangeRow.__tablename__, ("image_id", "low", "high"), rows)


def write_footprint(session: Session, image_id: int, polygons: Sequence[Polygon]) -> None:
    """Replace the ranges that cover an image by those of these polygons, and its radius around its centre.

    No polygons leave none. The radius stays unknown where the image's centre is.

    Raises
    ------
    DataError
        As `covering_ranges`.
    """
    ranges = covering_ranges(polygons) if polygons else []
    session.execute(delete(SkyRangeRow).where(SkyRangeRow.image_id == image_id))
    copy_ranges(session, {image_id: ranges})
    ra, dec = session.execute(select(ImageRow.ra_deg, ImageRow.dec_deg).where(ImageRow.id == image_id)).one()
    radius = None if ra is None or dec is None or not polygons else radius_around(ra, dec, polygons)
    session.execute(update_rows(ImageRow).where(ImageRow.id == image_id).values(radius_deg=radius))


def radius_around(ra_deg: float, dec_deg: float, polygons: Iterable[Polygon]) -> float:
    """Return the radius in degrees of the circle around a direction that holds all polygons."""
    corners = np.concatenate([np.asarray(p, dtype=np.float64) for p in polygons])
    return float(np.max(angular_separation(ra_deg, dec_deg, corners[:, 0], corners[:, 1])))


def images_in_circle(session: Session, circle: Circle, kind: ImageKind = ImageKind.EXPOSURE) -> list[int]:
    """Return the ids of images of a kind whose footprint and a circle share a point, in order.

    An image without footprint is never found.
    """
    near = _near(covering_ranges(circle)).subquery()
    query = (
        select(ImageRow.id, ImageRow.ra_deg, ImageRow.dec_deg, ImageRow.radius_deg)
        .where(ImageRow.kind == kind, ImageRow.id.in_(select(near.c.image_id)))
        .order_by(ImageRow.id)
    )
    found, open_ids = [], []
    for image_id, ra, dec, radius in session.execute(query):
        if ra is None or dec is None or radius is None:
            open_ids.append(image_id)
            continue
        distance = float(angular_separation(ra, dec, circle.ra_deg, circle.dec_deg))
        if distance + radius <= circle.radius_deg:
            found.append(image_id)
        elif distance <= circle.radius_deg + radius + 1e-9:
            open_ids.append(image_id)
    return sorted(found + _confirmed(session, open_ids, circle))


def images_near(session: Session, circle: Circle, kind: ImageKind, limit: int) -> list[int]:
    """Return the ids of the newest images of a kind whose covering cells meet a circle, ascending: one statement.

    The coarse answer of the index: a few more than `images_in_circle` finds.
    """
    near = _near(covering_ranges(circle)).subquery()
    query = (
        select(ImageRow.id)
        .where(ImageRow.kind == kind, ImageRow.id.in_(select(near.c.image_id)))
        .order_by(ImageRow.id.desc())
        .limit(limit)
    )
    return sorted(session.scalars(query))


def _near(ranges: Ranges) -> CompoundSelect[Any]:
    """Return the statement for images with a cell inside one of the ranges, or around one."""
    outer = sorted({((low >> s) << s, low) for low, high in ranges for s in _shifts(high - low)})
    around = _pairs([o[0] for o in outer], [o[1] for o in outer], "around")
    within = select(SkyRangeRow.image_id).where(in_ranges(SkyRangeRow.low, ranges))
    holding = select(SkyRangeRow.image_id).where(SkyRangeRow.low == around.c.a, SkyRangeRow.high > around.c.b)
    return within.union(holding)


def in_ranges(key: Any, ranges: Ranges) -> ColumnElement[bool]:
    """Return the condition that a key lies in one of some ranges; neighbours are joined.

    The bounds stand in the statement's text: only then does the planner know how few rows they are, and takes an index.
    """
    joined: Ranges = []
    for low, high in ranges:
        if joined and joined[-1][1] == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    padded = joined + [(0, 0)] * ((1 << max(0, len(joined) - 1).bit_length()) - len(joined))  # few shapes of statement
    return or_(false(), *(and_(key >= _number(low), key < _number(high)) for low, high in padded))


def _number(value: int) -> BindParameter[int]:
    return literal(value, BigInteger, literal_execute=True)


def _shifts(size: int) -> range:
    """Return the shifts that give the first key of each cell around a cell of this size."""
    return range(size.bit_length() - 1, 2 * ORDER + 1, 2)


def _pairs(first: list[int], second: list[int], name: str) -> TableValuedAlias:
    """Return a table (a, b) of numbers within a statement."""
    keys = ARRAY(BigInteger)
    table = func.unnest(literal(first, keys), literal(second, keys))
    return table.table_valued(column("a", BigInteger), column("b", BigInteger), name=name).render_derived()


def _confirmed(session: Session, image_ids: list[int], circle: Circle) -> list[int]:
    """Return those images one of whose polygons meets the circle."""
    if not image_ids:
        return []
    wanted = any_(literal(image_ids, ARRAY(BigInteger)))
    query = select(DetectorRow.image_id, DetectorRow.polygon_ra_deg, DetectorRow.polygon_dec_deg).where(
        DetectorRow.image_id == wanted, DetectorRow.polygon_ra_deg.is_not(None)
    )
    met: set[int] = set()
    for image_id, ra, dec in session.execute(query):
        if ra and dec and image_id not in met and footprint_meets([list(zip(ra, dec, strict=True))], circle):
            met.add(image_id)
    return sorted(met)


def footprint_meets(polygons: Iterable[Polygon], circle: Circle) -> bool:
    """Tell whether one of the polygons and a circle share a point; a polygon without area meets nothing."""
    for polygon in polygons:
        try:
            if polygon_meets_circle(np.asarray(polygon), circle.ra_deg, circle.dec_deg, circle.radius_deg):
                return True
        except ValueError:
            continue
    return False

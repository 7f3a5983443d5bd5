"""Where the detectors of an image stand in one picture, and regions of it in the pixels of each detector.

Pixels of the mosaic are full pixels, y upwards, (0, 0) the centre of the pixel at its lower left. A detector lies with
its axes along those of the mosaic; what the sky adds of rotation and distortion between detectors is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spica.algorithms.skymap import tangent_project
from spica.files.header import HeaderCards
from spica.files.wcs import read_wcs, sky_of_pixels
from spica.model.errors import DataError
from spica.model.mark import MarkRegion, MarkShape
from spica.model.record import from_json

MAX_SIDE_PIX = 400_000
"""A mosaic of more pixels a side comes of headers that are wrong: then the detectors stand in rows."""
MAX_DETECTORS = 1000
MAX_CORNERS = 1000
_GAP_PIX = 32


@dataclass(frozen=True)
class DetectorGeometry:
    """What a facts sheet says of a detector's place: its unit and size, pixel scale, WCS cards, part of the unit.

    `raw`: its unit is no image of the sky yet, overscan, amplifiers or planes are still in it.
    """

    index: int
    hdu: int
    name: str
    n_x: int
    n_y: int
    pixel_scale_arcsec: float | None
    wcs_cards: tuple[str, ...]
    x_start: int = 0
    y_start: int = 0
    raw: bool = False

    def centre_arcsec(self, ra_deg: float | None, dec_deg: float | None) -> tuple[float, float]:
        """Return its centre on the tangent plane of a pointing, arcsec, axes as its pixels; 0 where it is unknown."""
        if not self.wcs_cards or ra_deg is None or dec_deg is None:
            return 0.0, 0.0
        wcs = read_wcs(HeaderCards(self.wcs_cards))
        ra, dec = sky_of_pixels(wcs, 0.5 * (self.n_x - 1), 0.5 * (self.n_y - 1))
        xi, eta = tangent_project(ra, dec, ra_deg, dec_deg)
        cd = np.asarray(wcs.pixel_scale_matrix)
        rotation = np.linalg.inv(cd / math.sqrt(abs(np.linalg.det(cd))))
        x, y = rotation @ (float(xi) * 3600.0, float(eta) * 3600.0)
        return float(x), float(y)


@dataclass(frozen=True)
class DetectorPlace:
    """A detector in the mosaic: the mosaic's pixel (x, y) of its first pixel, and its size."""

    number: int
    name: str
    x: int
    y: int
    n_x: int
    n_y: int


@dataclass(frozen=True)
class MosaicLayout:
    """Size of the picture of an image in full pixels, and where its detectors stand in it."""

    width: int
    height: int
    places: tuple[DetectorPlace, ...]

    def place(self, number: int) -> DetectorPlace:
        """Return a detector's place; DataError where there is no such detector."""
        found = next((p for p in self.places if p.number == number), None)
        if found is None:
            raise DataError(f"the image has no detector {number}; its detectors are {self._numbers()}")
        return found

    def _numbers(self) -> str:
        return " ".join(str(p.number) for p in self.places[:100])


@dataclass(frozen=True)
class MosaicRegion:
    """A circle (one centre and a radius) or polygon (three corners or more) in pixels of the mosaic."""

    shape: MarkShape
    x_pix: tuple[float, ...]
    y_pix: tuple[float, ...]
    radius_pix: float | None = None


@dataclass(frozen=True)
class ImageGeometry:
    """The detectors of an exposure and its pointing, as its facts sheet says."""

    detectors: tuple[DetectorGeometry, ...]
    ra_deg: float | None
    dec_deg: float | None

    def layout(self) -> MosaicLayout:
        """Return where the detectors stand."""
        return plan_layout(self.detectors, self.ra_deg, self.dec_deg)


def single_layout(n_x: int, n_y: int, name: str = "") -> MosaicLayout:
    """Return the layout of an image of one detector, such as a stack."""
    return MosaicLayout(n_x, n_y, (DetectorPlace(0, name, 0, 0, n_x, n_y),))


def plan_layout(detectors: Sequence[DetectorGeometry], ra_deg: float | None, dec_deg: float | None) -> MosaicLayout:
    """Place the detectors of an exposure in one picture by their WCS.

    Where several have none, or their headers spread them over more than `MAX_SIDE_PIX`, they stand in rows instead.
    """
    if not 0 < len(detectors) <= MAX_DETECTORS:
        raise DataError(f"{len(detectors)} detectors make no mosaic; 1 to {MAX_DETECTORS} do")
    corners = []
    for d in detectors:
        x, y = d.centre_arcsec(ra_deg, dec_deg)
        scale = d.pixel_scale_arcsec or 1.0
        corners.append((x / scale - 0.5 * d.n_x, y / scale - 0.5 * d.n_y))
    finite = all(math.isfinite(v) for corner in corners for v in corner)
    if finite and (len(detectors) == 1 or all(d.wcs_cards for d in detectors)):
        layout = _arranged(detectors, corners)
        if max(layout.width, layout.height) <= MAX_SIDE_PIX:
            return layout
    return _in_rows(detectors)


def _arranged(detectors: Sequence[DetectorGeometry], corners: Sequence[tuple[float, float]]) -> MosaicLayout:
    left, bottom = min(c[0] for c in corners), min(c[1] for c in corners)
    places = tuple(
        DetectorPlace(d.index, d.name, round(x - left), round(y - bottom), d.n_x, d.n_y)
        for (x, y), d in zip(corners, detectors, strict=True)
    )
    return MosaicLayout(max(p.x + p.n_x for p in places), max(p.y + p.n_y for p in places), places)


def _in_rows(detectors: Sequence[DetectorGeometry]) -> MosaicLayout:
    across = math.ceil(math.sqrt(len(detectors)))
    step_x, step_y = (max(d.n_x for d in detectors) + _GAP_PIX, max(d.n_y for d in detectors) + _GAP_PIX)
    corners = [(float(i % across * step_x), float(i // across * step_y)) for i in range(len(detectors))]
    return _arranged(detectors, corners)


def read_geometry(facts: bytes) -> ImageGeometry:
    """Read the geometry from the text of a facts sheet, the `facts` product of an exposure.

    Raises DataError where it is not one, or states sizes that no detector has.
    """
    try:
        sheet = json.loads(facts)
        exposure, given = sheet["exposure"], sheet["detectors"]
        detectors = tuple(_detector(d) for d in given)
        ra, dec = exposure.get("ra_deg"), exposure.get("dec_deg")
        pointing = (None, None) if ra is None or dec is None else (float(ra), float(dec))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as trouble:
        raise DataError("the facts of the image cannot be read; assess it again") from trouble
    return ImageGeometry(detectors, *pointing)


def _detector(sheet: dict[str, Any]) -> DetectorGeometry:
    names = ("index", "hdu", "name", "n_x", "n_y", "pixel_scale_arcsec", "wcs_cards")
    part = sheet.get("data") or {}
    start = {name: part.get(name, 0) for name in ("x_start", "y_start")}
    raw = bool(sheet.get("overscan") or sheet.get("amplifiers") or sheet.get("planes"))
    found = from_json(DetectorGeometry, {name: sheet[name] for name in names} | start | {"raw": raw}, "detector")
    sizes = 0 < found.n_x <= MAX_SIDE_PIX and 0 < found.n_y <= MAX_SIDE_PIX
    if not sizes or min(found.index, found.hdu, found.x_start, found.y_start) < 0:
        raise DataError(f"a detector of {found.n_x} x {found.n_y} pixels cannot be; assess the image again")
    return found


# Regions --------------------------------------------------------------------------------------------------------------


def check_region(region: MosaicRegion | MarkRegion) -> None:
    """Raise DataError where a region is no circle and no polygon."""
    numbers = (*region.x_pix, *region.y_pix, *(() if region.radius_pix is None else (region.radius_pix,)))
    if len(region.x_pix) != len(region.y_pix) or not all(math.isfinite(v) and abs(v) < 1e9 for v in numbers):
        raise DataError("a region needs as many finite x as y; draw it again")
    if region.shape is MarkShape.CIRCLE:
        if len(region.x_pix) != 1 or region.radius_pix is None or region.radius_pix <= 0:
            raise DataError("a circle needs one centre and a radius above 0; draw it again")
    elif not 3 <= len(region.x_pix) <= MAX_CORNERS or region.radius_pix is not None:
        raise DataError(f"a polygon needs 3 to {MAX_CORNERS} corners and no radius; draw it again")


def to_detectors(layout: MosaicLayout, region: MosaicRegion) -> list[MarkRegion]:
    """Return a region of the mosaic as regions of the detectors it touches, in their pixels, in the layout's order.

    A circle stays whole on each detector that it touches; a polygon is cut at the outer edges of the pixels (where it
    is not convex its parts on a detector may hang together along the edge; the area is that of the parts).
    """
    check_region(region)
    found = []
    for place in layout.places:
        x = tuple(float(v - place.x) for v in region.x_pix)
        y = tuple(float(v - place.y) for v in region.y_pix)
        if region.shape is MarkShape.CIRCLE:
            assert region.radius_pix is not None
            if _distance(x[0], place.n_x) ** 2 + _distance(y[0], place.n_y) ** 2 < region.radius_pix**2:
                found.append(MarkRegion(place.number, MarkShape.CIRCLE, x, y, float(region.radius_pix)))
            continue
        corners = clip_polygon(list(zip(x, y, strict=True)), (-0.5, place.n_x - 0.5, -0.5, place.n_y - 0.5))
        if len(corners) >= 3 and abs(polygon_area(corners)) > 1e-9:
            x, y = zip(*corners, strict=True)
            found.append(MarkRegion(place.number, MarkShape.POLYGON, x, y))
    return found


def to_mosaic(layout: MosaicLayout, region: MarkRegion) -> MosaicRegion:
    """Return a region of a detector in pixels of the mosaic; DataError where the image has no such detector."""
    check_region(region)
    place = layout.place(region.detector)
    x, y = tuple(v + place.x for v in region.x_pix), tuple(v + place.y for v in region.y_pix)
    return MosaicRegion(region.shape, x, y, region.radius_pix)


def _distance(value: float, length: int) -> float:
    """Return how far a coordinate lies outside the pixels 0..length - 1."""
    return max(-0.5 - value, value - (length - 0.5), 0.0)


Corner = tuple[float, float]


def polygon_area(corners: Sequence[Corner]) -> float:
    """Return the area of a polygon, above 0 where it runs from x to y (shoelace formula)."""
    x, y = (np.array(v) for v in zip(*corners, strict=True))
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def clip_polygon(corners: Sequence[Corner], box: tuple[float, float, float, float]) -> list[Corner]:
    """Return the part of a polygon within (x0, x1, y0, y1): one edge after another (Sutherland and Hodgman 1974)."""
    kept = list(corners)
    for axis, limit, sign in ((0, box[0], 1.0), (0, box[1], -1.0), (1, box[2], 1.0), (1, box[3], -1.0)):
        given, kept = kept, []
        for i, here in enumerate(given):
            before = given[i - 1]
            inside, came = sign * (here[axis] - limit), sign * (before[axis] - limit)
            if (inside >= 0) != (came >= 0):
                kept.append(_crossing(before, here, came / (came - inside), axis, limit))
            if inside >= 0:
                kept.append(here)
    return kept


def _crossing(a: Corner, b: Corner, t: float, axis: int, limit: float) -> Corner:
    """Return the point between two corners that lies on an edge, exactly on it."""
    x, y = a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])
    return (limit, y) if axis == 0 else (x, limit)

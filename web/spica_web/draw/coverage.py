"""Where on the sky a rule takes exposures and where it leaves them out: HEALPix cells of their centres.

A field is drawn in the tangent plane around its middle, a wide survey on the whole sky in Hammer's equal-area
projection (Snyder 1987, USGS PP 1395, page 182: x = 2 sqrt2 cos(d) sin(a/2) / z, y = sqrt2 sin(d) / z,
z = sqrt(1 + cos(d) cos(a/2))); north up, east left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import hpgeom
import numpy as np
from numpy.typing import NDArray

from spica.db.snapshot import Snapshot
from spica_web.tally import Split, candidate_sources

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Project = Callable[[Floats, Floats], tuple[Floats, Floats]]

FINEST = 12
COARSEST = 2
WIDE = 4
MAX_CELLS = 600
NARROW_DEG = 40.0
WIDTH, HEIGHT, MARGIN = 480.0, 260.0, 18.0
STEPS_DEG = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class Cell:
    """One cell: its centre (degrees), exposures in and out, exposure time in (s), and its outline as an SVG path."""

    ra_deg: float
    dec_deg: float
    n_in: int
    n_out: int
    exptime_s: float
    path: str


@dataclass(frozen=True)
class Label:
    """A coordinate written on the map."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Coverage:
    """A map: size in its own units, cells of one HEALPix order (`size_deg` across), grid lines and labels."""

    width: float
    height: float
    order: int
    size_deg: float
    cells: tuple[Cell, ...]
    grid: str
    labels: tuple[Label, ...]
    unplaced: int


def draw_coverage(snapshot: Snapshot, split: Split) -> Coverage | None:
    """Return the map of the candidates and of those in; None where no centre is known.

    The order is the finest with at most 600 cells that are not much smaller than an exposure.
    """
    images = snapshot.images
    pixels = snapshot.cache.get("rules.healpix", (images.ra, images.dec), lambda: _pixels(images.ra, images.dec))
    sources = candidate_sources(snapshot, images.ra, images.dec, images.radius)
    key = ("rules.cells", split.bounds)
    cells = snapshot.cache.get(key, sources, lambda: _cells(pixels[split.candidates], images.radius[split.candidates]))
    if not cells.ids.size:
        return None
    inside = split.taken[pixels[split.taken] >= 0]
    within = _places(cells, pixels[inside])
    n_in = np.bincount(within, minlength=cells.ids.size)
    exptime = np.bincount(within, np.nan_to_num(images.exptime[inside]), cells.ids.size).astype(np.float64)
    plot = snapshot.cache.get(("rules.plot", split.bounds), sources, lambda: _plot(cells))
    drawn = (
        Cell(place[0], place[1], n, total - n, round(seconds, 1), path)
        for place, n, total, seconds, path in zip(
            plot.places, n_in.tolist(), cells.total.tolist(), exptime.tolist(), plot.paths, strict=True
        )
    )
    size_deg = round(_size_deg(cells.order), 4)
    return Coverage(WIDTH, HEIGHT, cells.order, size_deg, tuple(drawn), plot.grid, plot.labels, cells.unplaced)


def _places(cells: _Cells, pixels: Ints) -> Ints:
    """Return which of the cells each pixel lies in: by a table where that is small, else by search."""
    coarse = pixels >> 2 * (FINEST - cells.order)
    if cells.order > 8:
        return np.searchsorted(cells.ids, coarse)
    table = np.zeros(12 * 4**cells.order, dtype=np.int64)
    table[cells.ids] = np.arange(cells.ids.size)
    found: Ints = table[coarse]
    return found


@dataclass(frozen=True)
class _Cells:
    """HEALPix pixels (nested) that hold candidates, and how many; `unplaced` have no known centre."""

    order: int
    ids: Ints
    total: Ints
    unplaced: int


def _cells(pixels: Ints, radius_deg: Floats) -> _Cells:
    placed = pixels[pixels >= 0]
    unplaced = int(pixels.size - placed.size)
    if not placed.size:
        return _Cells(COARSEST, placed, placed, unplaced)
    known = radius_deg[np.isfinite(radius_deg)][:20_000]
    order = _order(placed, float(np.median(known)) if known.size else 0.1)
    ids, total = _counted(placed, order)
    if order > WIDE and _reach(*hpgeom.pixel_to_angle(2**order, ids)) >= NARROW_DEG:
        order = WIDE
        ids, total = _counted(placed, order)
    return _Cells(order, ids, total, unplaced)


def _pixels(ra: Floats, dec: Floats) -> Ints:
    """Return the HEALPix pixel (nested, order 12) of each centre, -1 where it is unknown."""
    found = np.full(ra.shape, -1, dtype=np.int64)
    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90.0)
    found[known] = hpgeom.angle_to_pixel(2**FINEST, ra[known] % 360.0, dec[known])
    return found


def _counted(pixels: Ints, order: int) -> tuple[Ints, Ints]:
    """Return the pixels of an order that occur, ascending, and how often: by a table where it is small, else sorted."""
    coarse = pixels >> 2 * (FINEST - order)
    if order <= 8:
        counts = np.bincount(coarse, minlength=12 * 4**order)
        ids = np.flatnonzero(counts)
        return ids, counts[ids]
    ids, counts = np.unique(coarse, return_counts=True)
    return ids, counts


def _order(pixels: Ints, radius_deg: float) -> int:
    order = COARSEST
    for finer in range(COARSEST + 1, FINEST):
        if _size_deg(finer) < 0.4 * radius_deg or _counted(pixels, finer)[0].size > MAX_CELLS:
            break
        order = finer
    return order


def _size_deg(order: int) -> float:
    return math.degrees(math.sqrt(4.0 * math.pi / (12 * 4**order)))


@dataclass(frozen=True)
class _Plot:
    """What of the map depends on the candidates alone: centre and outline of each cell, lines and their labels."""

    places: tuple[tuple[float, float], ...]
    paths: tuple[str, ...]
    grid: str
    labels: tuple[Label, ...]


def _plot(cells: _Cells) -> _Plot:
    order, ids = cells.order, cells.ids
    ra, dec = hpgeom.pixel_to_angle(2**order, ids)
    edge_ra, edge_dec = hpgeom.boundaries(2**order, ids, 1 if order > 4 else 2)
    middle = _middle(ra, dec)
    reach = _reach(ra, dec) + _size_deg(order)
    narrow = reach < NARROW_DEG
    project = _tangent(*middle, reach) if narrow else _hammer
    x, y = project(_near(edge_ra, ra[:, None]), edge_dec)
    paths = (
        "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(xs, ys, strict=True)) + "Z"
        for xs, ys in zip(x, y, strict=True)
    )
    places = zip(np.round(ra, 4).tolist(), np.round(dec, 4).tolist(), strict=True)
    return _Plot(tuple(places), tuple(paths), *_grid(project, middle if narrow else None, reach))


def _reach(ra: Floats, dec: Floats) -> float:
    """Return the largest distance from the middle, degrees."""
    return float(_distance_deg(ra, dec, *_middle(ra, dec)).max())


def _near(ra: Floats, centre: Floats) -> Floats:
    """Return right ascensions within 180 degrees of a centre, so that no outline runs round the sky."""
    found: Floats = centre + (ra - centre + 180.0) % 360.0 - 180.0
    return found


def _middle(ra: Floats, dec: Floats) -> tuple[float, float]:
    a, d = np.radians(ra), np.radians(dec)
    x, y, z = (np.cos(d) * np.cos(a)).mean(), (np.cos(d) * np.sin(a)).mean(), np.sin(d).mean()
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def _distance_deg(ra: Floats, dec: Floats, ra0: float, dec0: float) -> Floats:
    d, d0 = np.radians(dec), math.radians(dec0)
    half = np.sin((d - d0) / 2) ** 2 + np.cos(d) * math.cos(d0) * np.sin(np.radians(ra - ra0) / 2) ** 2
    found: Floats = np.degrees(2.0 * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0))))
    return found


def _tangent(ra0: float, dec0: float, reach_deg: float) -> Project:
    """Return the projection on the tangent plane, scaled so that a circle of the reach fits."""
    half = min(WIDTH, HEIGHT) / 2 - MARGIN
    scale = half / math.tan(math.radians(min(reach_deg, 80.0)))
    d0 = math.radians(dec0)

    def project(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
        a, d = np.radians(ra - ra0), np.radians(dec)
        cos_c = np.maximum(math.sin(d0) * np.sin(d) + math.cos(d0) * np.cos(d) * np.cos(a), 0.05)
        x = np.cos(d) * np.sin(a) / cos_c
        y = (math.cos(d0) * np.sin(d) - math.sin(d0) * np.cos(d) * np.cos(a)) / cos_c
        return WIDTH / 2 - scale * x, HEIGHT / 2 - scale * y

    return project


def _hammer(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """Project the whole sky, right ascension 180 in the middle as on the sky map; outlines near the rim stay inside."""
    a, d = np.radians(np.clip(_signed(ra - 180.0), -180.0, 180.0)), np.radians(dec)
    z = np.sqrt(1.0 + np.cos(d) * np.cos(a / 2))
    scale = min((WIDTH / 2 - MARGIN) / (2 * math.sqrt(2)), (HEIGHT / 2 - MARGIN) / math.sqrt(2))
    x = 2 * math.sqrt(2) * np.cos(d) * np.sin(a / 2) / z
    return WIDTH / 2 - scale * x, HEIGHT / 2 - scale * (math.sqrt(2) * np.sin(d) / z)


def _signed(ra: Floats) -> Floats:
    """Return right ascensions within -180 to 180, a row of them (one outline) on the side of its first."""
    if ra.ndim < 2:
        found: Floats = (ra + 180.0) % 360.0 - 180.0
        return found
    centre = ra.mean(axis=-1, keepdims=True)
    near: Floats = ra - centre + (centre + 180.0) % 360.0 - 180.0
    return near


def _grid(project: Project, middle: tuple[float, float] | None, reach_deg: float) -> tuple[str, tuple[Label, ...]]:
    """Return lines of right ascension and declination as one path, with labels."""
    if middle is None:
        ras, decs = [0.001, 60.0, 120.0, 180.0, 240.0, 300.0, 359.999], [-60.0, -30.0, 0.0, 30.0, 60.0]
        span_ra, span_dec = (0.001, 359.999), (-90.0, 90.0)
    else:
        ra0, dec0 = middle
        low, high = max(-89.0, dec0 - 1.3 * reach_deg), min(89.0, dec0 + 1.3 * reach_deg)
        wide = min(180.0, 2.4 * reach_deg / max(0.05, math.cos(math.radians(max(abs(low), abs(high))))))
        ras, decs = _steps(ra0 - wide, ra0 + wide, 6), _steps(low, high, 5)
        span_ra, span_dec = (ra0 - wide, ra0 + wide), (low, high)
    parts, labels = [], []
    along = np.linspace(0.0, 1.0, 41)
    for ra in ras:
        x, y = project(np.full(41, ra), span_dec[0] + along * (span_dec[1] - span_dec[0]))
        parts.append(_line(x, y))
        if 24 < x[20] < WIDTH - 24 and (middle is not None or 1.0 < ra < 359.0):
            at = 20 if middle is None else int(np.argmin(np.abs(y - (HEIGHT - 6))))
            labels.append(Label(round(float(x[at]), 1), HEIGHT - 4 if middle else HEIGHT / 2 + 11, f"{ra % 360.0:g}°"))
    for dec in decs:
        x, y = project(span_ra[0] + along * (span_ra[1] - span_ra[0]), np.full(41, dec))
        parts.append(_line(x, y))
        inside = np.flatnonzero((x > 4) & (x < WIDTH - 4))
        if inside.size and 10 < y[inside[-1]] < HEIGHT - 14:
            labels.append(Label(4.0, round(float(y[inside[-1]]) - 3, 1), f"{dec:+g}°".replace("-", "\u2212")))
    return "".join(parts), tuple(labels)


def _line(x: Floats, y: Floats) -> str:
    kept = [(a, b) for a, b in zip(x, y, strict=True) if -200 < a < WIDTH + 200 and -200 < b < HEIGHT + 200]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in kept) if len(kept) > 1 else ""


def _steps(low: float, high: float, most: int) -> list[float]:
    step = next((s for s in STEPS_DEG if (high - low) / s <= most), 30.0)
    first = math.ceil(low / step)
    return [round(k * step, 6) for k in range(first, math.floor(high / step) + 1)]

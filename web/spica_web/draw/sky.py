"""The sky plot: footprints of exposures and stacks, north up and east left, as inline SVG.

A survey within 40 degrees is drawn in the tangent plane around its middle (gnomonic projection), a wider one on the
whole sky (Mollweide's equal-area projection, by Newton's method; Snyder 1987, USGS PP 1395, equations 31-1 to 31-4).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from spica.db.pages.survey import Polygon, SkyShape

WIDTH = 640.0
HEIGHT = 400.0
MARGIN = 34.0
WIDE_DEG = 40.0
STEPS_DEG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

Point = tuple[float, float]


def draw_sky(shapes: Sequence[SkyShape]) -> Markup:
    """Return the plot as SVG; empty where nothing has a place."""
    if not shapes:
        return Markup("")
    centre = _middle([(s.ra_deg, s.dec_deg) for s in shapes])
    if centre is None or max(_distance(centre, (s.ra_deg, s.dec_deg)) for s in shapes) > WIDE_DEG / 2.0:
        return _all_sky(shapes)
    return _zoomed(shapes, centre)


def _middle(places: Sequence[Point]) -> Point | None:
    """Return the mean direction in degrees, None where there is no middle."""
    x = y = z = 0.0
    for ra, dec in places:
        a, d = math.radians(ra), math.radians(dec)
        x, y, z = x + math.cos(d) * math.cos(a), y + math.cos(d) * math.sin(a), z + math.sin(d)
    if math.hypot(x, y, z) < 0.05 * len(places):
        return None
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def _distance(one: Point, other: Point) -> float:
    d1, d2 = math.radians(one[1]), math.radians(other[1])
    h = math.sin((d1 - d2) / 2) ** 2 + math.cos(d1) * math.cos(d2) * math.sin(math.radians(one[0] - other[0]) / 2) ** 2
    return math.degrees(2.0 * math.asin(min(1.0, math.sqrt(h))))


@dataclass(frozen=True)
class Tangent:
    """The tangent plane around a centre, scaled to the plot; x grows to the west."""

    centre: Point
    scale: float = 1.0
    shift: Point = (0.0, 0.0)

    def plane(self, place: Point) -> Point | None:
        """Return the position in the plane in degrees (east left), None behind the plane."""
        a = math.radians(place[0] - self.centre[0])
        d, d0 = math.radians(place[1]), math.radians(self.centre[1])
        cos_c = math.sin(d0) * math.sin(d) + math.cos(d0) * math.cos(d) * math.cos(a)
        if cos_c < 0.1:
            return None
        x = math.cos(d) * math.sin(a) / cos_c
        y = (math.cos(d0) * math.sin(d) - math.sin(d0) * math.cos(d) * math.cos(a)) / cos_c
        return -math.degrees(x), -math.degrees(y)

    def point(self, place: Point) -> Point | None:
        """Return the position on the plot."""
        at = self.plane(place)
        return None if at is None else (at[0] * self.scale + self.shift[0], at[1] * self.scale + self.shift[1])

    def inverse(self, x: float, y: float) -> Point:
        """Return the direction (RA in -180..180 around the centre's, declination) of a position on the plot."""
        px, py = -math.radians((x - self.shift[0]) / self.scale), -math.radians((y - self.shift[1]) / self.scale)
        d0 = math.radians(self.centre[1])
        rho = math.hypot(px, py)
        if rho == 0:
            return self.centre
        c = math.atan(rho)
        dec = math.asin(math.cos(c) * math.sin(d0) + py * math.sin(c) * math.cos(d0) / rho)
        ra = math.atan2(px * math.sin(c), rho * math.cos(d0) * math.cos(c) - py * math.sin(d0) * math.sin(c))
        return self.centre[0] + math.degrees(ra), math.degrees(dec)


def _zoomed(shapes: Sequence[SkyShape], centre: Point) -> Markup:
    raw = Tangent(centre)
    corners = [p for s in shapes for place in _corners(s) if (p := raw.plane(place)) is not None]
    x0, x1 = min(p[0] for p in corners), max(p[0] for p in corners)
    y0, y1 = min(p[1] for p in corners), max(p[1] for p in corners)
    wide, high = max(x1 - x0, 0.02), max(y1 - y0, 0.02)
    scale = 0.92 * min((WIDTH - 2 * MARGIN) / wide, (HEIGHT - 2 * MARGIN) / high)
    shift = (WIDTH / 2 - scale * (x0 + x1) / 2, HEIGHT / 2 - scale * (y0 + y1) / 2)
    to = Tangent(centre, scale, shift)
    body = _grid(to) + "".join(_outline(s, to) for s in shapes)
    return _svg(body, "footprints of exposures and stacks, north up, east left")


def _corners(s: SkyShape) -> list[Point]:
    if s.polygons:
        return [p for polygon in s.polygons for p in polygon]
    r = min(s.radius_deg or 0.05, 5.0)
    wide = r / max(0.05, math.cos(math.radians(s.dec_deg)))
    return [(s.ra_deg + i * wide, max(-90.0, min(90.0, s.dec_deg + j * r))) for i in (-1, 1) for j in (-1, 1)]


def _outline(s: SkyShape, to: Tangent) -> str:
    marks = []
    for polygon in s.polygons:
        points = [p for place in polygon if (p := to.point(place)) is not None]
        if len(points) == len(polygon):
            marks.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    middle = to.point((s.ra_deg, s.dec_deg))
    if marks:
        drawn = f'<path d="{"".join(marks)}"/>'
    elif middle is not None:
        r = max(3.0, (s.radius_deg or 0.0) * to.scale)
        drawn = f'<circle cx="{middle[0]:.1f}" cy="{middle[1]:.1f}" r="{r:.1f}"/>'
    else:
        return ""
    return _link(s, drawn)


def _link(s: SkyShape, drawn: str) -> str:
    room = "stacks" if s.kind == "stack" else "images"
    words = f"{s.name}{f', grade {s.grade}' if s.grade else ''}, {s.state}"
    return f'<a class="{s.kind} g{s.grade or "N"}" href="/{room}/{s.id}"><title>{escape(words)}</title>{drawn}</a>'


def _grid(to: Tangent) -> str:
    """Return lines of right ascension and declination with their labels in degrees."""
    height_deg = HEIGHT / to.scale
    step = next((s for s in STEPS_DEG if height_deg / s <= 5.5), STEPS_DEG[-1])
    ra0 = to.centre[0]
    around = [to.inverse(x, y) for x in (0.0, WIDTH / 2, WIDTH) for y in (0.0, HEIGHT / 2, HEIGHT)]
    decs = [d for _, d in around]
    cos_d = max(0.05, math.cos(math.radians(max(abs(d) for d in decs))))
    ra_step = next((s for s in STEPS_DEG if s >= step / cos_d * 0.99), STEPS_DEG[-1])
    parts = []
    low, high = max(-90.0, min(decs)), min(90.0, max(decs))
    for dec in _multiples(low, high, step):
        line = [to.point((ra0 + (i - 20) * WIDTH / to.scale / cos_d / 30, dec)) for i in range(41)]
        parts.append(_line(line) + _label(to, line, f"{_degrees(dec, step)}°", vertical=True))
    ras = [r for r, _ in around]
    for ra in _multiples(max(min(ras), ra0 - 180), min(max(ras), ra0 + 180), ra_step):
        line = [to.point((ra, max(-90.0, min(90.0, low + (high - low) * i / 30)))) for i in range(-2, 33)]
        parts.append(_line(line) + _label(to, line, f"{_degrees(ra % 360.0, ra_step)}°", vertical=False))
    frame = '<text class="axis" x="6" y="14">dec</text>'
    frame += f'<text class="axis end" x="{WIDTH - 6:.0f}" y="{HEIGHT - 8:.0f}">RA</text>'
    return f'<g class="grid">{"".join(parts)}{frame}</g>'


def _degrees(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "−")


def _multiples(low: float, high: float, step: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 6) for k in range(first, min(first + 60, math.floor(high / step + 1e-9) + 1))]


def _line(points: Sequence[Point | None]) -> str:
    known = [p for p in points if p is not None and -WIDTH < p[0] < 2 * WIDTH and -HEIGHT < p[1] < 2 * HEIGHT]
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in known)}"/>' if len(known) > 1 else ""


def _label(to: Tangent, line: Sequence[Point | None], words: str, *, vertical: bool) -> str:
    """Return a label where a line meets the left edge (declination) or the lower edge (right ascension)."""
    for one, other in itertools.pairwise(line):
        if one is None or other is None:
            continue
        axis, edge = (0, 6.0) if vertical else (1, HEIGHT - 22.0)
        low, high = sorted((one[axis], other[axis]))
        if low <= edge < high:
            t = (edge - one[axis]) / (other[axis] - one[axis])
            x, y = one[0] + t * (other[0] - one[0]), one[1] + t * (other[1] - one[1])
            inside = 22 < y < HEIGHT - 30 if vertical else 60 < x < WIDTH - 30
            if not inside:
                return ""
            place = f'x="6" y="{y - 3:.1f}"' if vertical else f'class="mid" x="{x:.1f}" y="{HEIGHT - 8:.1f}"'
            return f"<text {place}>{words}</text>"
    return ""


def mollweide(lon_deg: float, lat_deg: float) -> Point:
    """Return the position on the whole sky, in units of the plot; longitude grows to the left, 0 in the middle."""
    phi = math.radians(lat_deg)
    theta = phi
    for _ in range(30):
        slope = 2.0 + 2.0 * math.cos(2.0 * theta)
        if abs(slope) < 1e-9:
            break
        step = (2.0 * theta + math.sin(2.0 * theta) - math.pi * math.sin(phi)) / slope
        theta -= step
        if abs(step) < 1e-9:
            break
    r = min((WIDTH - 2 * MARGIN) / 4.0, (HEIGHT - 2 * MARGIN) / 2.0)
    x = 2.0 / math.pi * math.radians(lon_deg) * math.cos(theta)
    return WIDTH / 2 - r * x, HEIGHT / 2 - r * math.sin(theta)


def _all_sky(shapes: Sequence[SkyShape]) -> Markup:
    parts = []
    for lat in range(-60, 61, 30):
        parts.append(_line([mollweide(lon, lat) for lon in range(-180, 181, 10)]))
    for lon in range(-180, 181, 60):
        parts.append(_line([mollweide(lon, lat) for lat in range(-90, 91, 5)]))
        if abs(lon) < 180:
            x, y = mollweide(lon, 0)
            parts.append(f'<text class="mid" x="{x:.1f}" y="{y - 3:.1f}">{(lon + 180) % 360}°</text>')
    for lat in (-60, -30, 30, 60):
        x, y = mollweide(180, lat)
        parts.append(f'<text class="end" x="{x - 4:.1f}" y="{y:.1f}">{str(lat).replace("-", "−")}°</text>')
    dots = []
    for s in shapes:
        x, y = mollweide((s.ra_deg + 0.0) % 360.0 - 180.0, s.dec_deg)
        r = 5.0 if s.kind == "stack" else 3.5
        dots.append(_link(s, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'))
    return _svg(f'<g class="grid">{"".join(parts)}</g>{"".join(dots)}', "the whole sky, RA 180° in the middle")


def _svg(body: str, words: str) -> Markup:
    return Markup(  # noqa: S704  names are escaped where they are written
        f'<svg class="sky" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{words}">{body}</svg>'
    )


__all__ = ["Polygon", "draw_sky", "mollweide"]

"""The sky plot: footprints of exposures and stacks, north up and east left, as inline SVG.

Each field is drawn in the tangent plane around its middle (gnomonic projection); a survey of several also on the whole
sky (Mollweide's equal-area projection, by Newton's method; Snyder 1987, USGS PP 1395, equations 31-1 to 31-4).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from spica.db.pages.survey import SkyShape

MARGIN = 26.0
CLUSTER_DEG = 3.0
MAX_CHARTS = 7
MANY = 15
STEPS_DEG = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Size of a plot, in its own units."""

    width: float
    height: float


LARGE = Frame(640.0, 400.0)
SMALL = Frame(320.0, 240.0)


@dataclass(frozen=True)
class SkyChart:
    """One plot with its title: a field, or the whole sky."""

    title: str
    note: str
    svg: Markup


def draw_sky(shapes: Sequence[SkyShape]) -> list[SkyChart]:
    """Return the plots of a survey: one where all lies in one field, else the whole sky and the fields with most."""
    fields = sorted(_clusters(shapes), key=len, reverse=True)
    if not fields:
        return []
    if len(fields) == 1:
        return [_field_chart(fields[0], LARGE)]
    whole = SkyChart("Whole sky", f"{len(fields)} fields", _all_sky(shapes, SMALL))
    return [whole, *(_field_chart(f, SMALL) for f in fields[:MAX_CHARTS])]


def _clusters(shapes: Sequence[SkyShape]) -> list[list[SkyShape]]:
    """Part images into fields: each joins the first field whose first image is near."""
    fields: list[list[SkyShape]] = []
    for s in shapes:
        for field in fields:
            if _distance((field[0].ra_deg, field[0].dec_deg), (s.ra_deg, s.dec_deg)) < CLUSTER_DEG:
                field.append(s)
                break
        else:
            fields.append([s])
    return fields


def _field_chart(shapes: Sequence[SkyShape], frame: Frame) -> SkyChart:
    names = Counter(s.object for s in shapes if s.object)
    title = ", ".join(name for name, _ in names.most_common(2)) or "no object"
    stacks = sum(s.kind == "stack" for s in shapes)
    note = f"{len(shapes) - stacks} exposures" + (f", {stacks} stack{'s' if stacks > 1 else ''}" if stacks else "")
    centre = _middle([(s.ra_deg, s.dec_deg) for s in shapes])
    assert centre is not None  # a field is narrow
    return SkyChart(title, note, _zoomed(shapes, centre, frame))


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
    frame: Frame
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


def _zoomed(shapes: Sequence[SkyShape], centre: Point, frame: Frame) -> Markup:
    raw = Tangent(centre, frame)
    corners = [p for s in shapes for place in _corners(s) if (p := raw.plane(place)) is not None]
    x0, x1 = min(p[0] for p in corners), max(p[0] for p in corners)
    y0, y1 = min(p[1] for p in corners), max(p[1] for p in corners)
    wide, high = max(x1 - x0, 0.02), max(y1 - y0, 0.02)
    scale = 0.92 * min((frame.width - 2 * MARGIN) / wide, (frame.height - 2 * MARGIN) / high)
    shift = (frame.width / 2 - scale * (x0 + x1) / 2, frame.height / 2 - scale * (y0 + y1) / 2)
    to = Tangent(centre, frame, scale, shift)
    body = _grid(to) + "".join(_outline(s, to) for s in shapes)
    return _svg(frame, body, "footprints of exposures and stacks, north up, east left", many=len(shapes) > MANY)


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
    width, height = to.frame.width, to.frame.height
    height_deg = height / to.scale
    step = next((s for s in STEPS_DEG if height_deg / s <= 4.5), STEPS_DEG[-1])
    ra0 = to.centre[0]
    around = [to.inverse(x, y) for x in (0.0, width / 2, width) for y in (0.0, height / 2, height)]
    decs = [d for _, d in around]
    cos_d = max(0.05, math.cos(math.radians(max(abs(d) for d in decs))))
    wide_deg = width / to.scale / cos_d
    ra_step = next((s for s in STEPS_DEG if wide_deg / s <= 6.5), STEPS_DEG[-1])
    parts = []
    low, high = max(-90.0, min(decs)), min(90.0, max(decs))
    for dec in _multiples(low, high, step):
        line = [to.point((ra0 + (i - 20) * width / to.scale / cos_d / 30, dec)) for i in range(41)]
        parts.append(_line(line, to.frame) + _label(to, line, f"{_degrees(dec, step)}°", vertical=True))
    ras = [r for r, _ in around]
    for ra in _multiples(max(min(ras), ra0 - 180), min(max(ras), ra0 + 180), ra_step):
        line = [to.point((ra, max(-90.0, min(90.0, low + (high - low) * i / 30)))) for i in range(-2, 33)]
        parts.append(_line(line, to.frame) + _label(to, line, f"{_degrees(ra % 360.0, ra_step)}°", vertical=False))
    frame = '<text class="axis" x="6" y="14">dec</text>'
    frame += f'<text class="axis end" x="{width - 6:.0f}" y="{height - 8:.0f}">RA</text>'
    return f'<g class="grid">{"".join(parts)}{frame}</g>'


def _degrees(value: float, step: float) -> str:
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "−")


def _multiples(low: float, high: float, step: float) -> list[float]:
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 6) for k in range(first, min(first + 60, math.floor(high / step + 1e-9) + 1))]


def _line(points: Sequence[Point | None], frame: Frame) -> str:
    known = [p for p in points if p is not None and _is_near(p, frame)]
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in known)}"/>' if len(known) > 1 else ""


def _is_near(p: Point, frame: Frame) -> bool:
    return -frame.width < p[0] < 2 * frame.width and -frame.height < p[1] < 2 * frame.height


def _label(to: Tangent, line: Sequence[Point | None], words: str, *, vertical: bool) -> str:
    """Return a label where a line meets the left edge (declination) or the lower edge (right ascension)."""
    for one, other in itertools.pairwise(line):
        if one is None or other is None:
            continue
        axis, edge = (0, 6.0) if vertical else (1, to.frame.height - 22.0)
        low, high = sorted((one[axis], other[axis]))
        if low <= edge < high:
            t = (edge - one[axis]) / (other[axis] - one[axis])
            x, y = one[0] + t * (other[0] - one[0]), one[1] + t * (other[1] - one[1])
            inside = 22 < y < to.frame.height - 30 if vertical else 60 < x < to.frame.width - 30
            if not inside:
                return ""
            place = f'x="6" y="{y - 3:.1f}"' if vertical else f'class="mid" x="{x:.1f}" y="{to.frame.height - 8:.1f}"'
            return f"<text {place}>{words}</text>"
    return ""


def mollweide(lon_deg: float, lat_deg: float) -> Point:
    """Return (x, y) of Mollweide's projection for a sphere of radius 1: x within 2 sqrt 2, y within sqrt 2."""
    phi = math.radians(lat_deg)
    theta = phi
    for _ in range(50):
        slope = 2.0 + 2.0 * math.cos(2.0 * theta)
        if abs(slope) < 1e-9:
            break
        step = (2.0 * theta + math.sin(2.0 * theta) - math.pi * math.sin(phi)) / slope
        theta -= step
        if abs(step) < 1e-10:
            break
    root = math.sqrt(2.0)
    return 2.0 * root / math.pi * math.radians(lon_deg) * math.cos(theta), root * math.sin(theta)


def _all_sky(shapes: Sequence[SkyShape], frame: Frame) -> Markup:
    r = min((frame.width - MARGIN) / (4.0 * math.sqrt(2.0)), (frame.height - MARGIN) / (2.0 * math.sqrt(2.0)))

    def at(lon: float, lat: float) -> Point:
        x, y = mollweide(lon, lat)
        return frame.width / 2 - r * x, frame.height / 2 - r * y

    parts = [_line([at(lon, lat) for lon in range(-180, 181, 10)], frame) for lat in range(-60, 61, 30)]
    parts += [_line([at(lon, lat) for lat in range(-90, 91, 5)], frame) for lon in range(-180, 181, 60)]
    for lon in range(-120, 121, 60):
        x, y = at(lon, 0)
        parts.append(f'<text class="mid" x="{x:.1f}" y="{y - 3:.1f}">{(lon + 180) % 360}°</text>')
    dots = []
    for s in shapes:
        x, y = at(s.ra_deg % 360.0 - 180.0, s.dec_deg)
        dots.append(_link(s, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5.0 if s.kind == "stack" else 3.0}"/>'))
    body = f'<g class="grid">{"".join(parts)}</g>{"".join(dots)}'
    return _svg(frame, body, "the whole sky, right ascension 180 degrees in the middle, east left")


def _svg(frame: Frame, body: str, words: str, *, many: bool = False) -> Markup:
    box = f"0 0 {frame.width:.0f} {frame.height:.0f}"
    return Markup(  # noqa: S704  names are escaped where they are written
        f'<svg class="sky{" many" if many else ""}" viewBox="{box}" role="img" aria-label="{words}">{body}</svg>'
    )

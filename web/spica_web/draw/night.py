"""The time line of a night as inline SVG: exposures by UT in the colour of their filter, seeing, grades, idle time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

from spica.db.pages.night import Gap, NightExposure

WIDTH, HEIGHT = 1200.0, 236.0
LEFT, RIGHT = 44.0, 12.0
BARS, BAR_HEIGHT = 26.0, 30.0
GRADES = 66.0
TOP, BOTTOM = 92.0, 206.0
IDLE_MIN = 15.0
BANDS = ("u", "g", "r", "i", "z", "y", "j", "h", "k")
MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
STEPS_H = (0.25, 0.5, 1.0, 2.0, 3.0, 6.0)


@dataclass(frozen=True)
class FilterKey:
    """A filter of the drawing, its class, and how many exposures it has there."""

    filter: str
    css: str
    n: int


@dataclass(frozen=True)
class NightChart:
    """The drawing, its filters, and how long nothing was exposed, minutes."""

    svg: Markup
    filters: list[FilterKey]
    idle_min: float


@dataclass(frozen=True)
class _Scale:
    """From time to x, from seeing to y."""

    start: float
    end: float
    top_arcsec: float

    def x(self, mjd: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (mjd - self.start) / (self.end - self.start)

    def y(self, seeing: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * min(seeing, self.top_arcsec) / self.top_arcsec


def draw_night(exposures: Sequence[NightExposure], gaps: Sequence[Gap]) -> NightChart | None:
    """Return the time line; None where no exposure has a time."""
    timed = [e for e in exposures if e.mjd is not None]
    if not timed:
        return None
    scale = _scale(timed)
    idle = _idle(timed)
    body = _hours(scale) + _seeing_axis(scale) + "".join(_idle_mark(a, b, scale) for a, b in idle)
    body += "".join(_bar(e, scale) for e in timed) + _curve(timed, idle, scale) + _missing(timed, gaps, scale)
    words = f"time line of {len(timed)} exposures: bars by filter, grades, seeing"
    svg = f'<svg class="nightline" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{words}">{body}</svg>'
    minutes = sum(b - a for a, b in idle) * 1440.0
    return NightChart(Markup(svg), _filters(timed), minutes)  # noqa: S704  texts are escaped where they are written


def _scale(timed: Sequence[NightExposure]) -> _Scale:
    start, end = min(_span(e)[0] for e in timed), max(_span(e)[1] for e in timed)
    room = max(0.01 * (end - start), 2.0 / 1440.0)
    seeing = sorted(e.seeing_arcsec for e in timed if e.seeing_arcsec is not None)
    top = seeing[min(len(seeing) - 1, int(0.98 * len(seeing)))] if seeing else 1.0
    return _Scale(start - room, end + room, max(0.5, math.ceil(2.4 * top) / 2.0))


def _span(e: NightExposure) -> tuple[float, float]:
    assert e.mjd is not None
    half = max(0.0, e.exptime_s or 0.0) / 86400.0 / 2.0
    return e.mjd - half, e.mjd + half


def filter_class(name: str | None) -> str:
    """Return the class of a filter's colour: by the letter of its band."""
    band = (name or "")[:1].lower()
    return f"f-{band}" if band in BANDS else "f-o"


def _filters(timed: Sequence[NightExposure]) -> list[FilterKey]:
    counts: dict[str, int] = {}
    for e in timed:
        counts[e.filter or "unknown"] = counts.get(e.filter or "unknown", 0) + 1
    order = sorted(counts, key=lambda f: (BANDS.index(f[:1].lower()) if f[:1].lower() in BANDS else 99, f))
    return [FilterKey(f, filter_class(f), counts[f]) for f in order]


def _idle(timed: Sequence[NightExposure]) -> list[tuple[float, float]]:
    """Return the times longer than 15 minutes in which no shutter was open."""
    spans = sorted(_span(e) for e in timed)
    found, until = [], spans[0][1]
    for low, high in spans[1:]:
        if (low - until) * 1440.0 > IDLE_MIN:
            found.append((until, low))
        until = max(until, high)
    return found


def _idle_mark(low: float, high: float, scale: _Scale) -> str:
    x0, x1 = scale.x(low), scale.x(high)
    minutes = round((high - low) * 1440.0)
    words = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
    label = f'<text class="mid" x="{(x0 + x1) / 2:.1f}" y="{BARS + 19:.0f}">{words}</text>' if x1 - x0 > 48 else ""
    shape = f'<rect class="idle" x="{x0:.1f}" y="{BARS:.0f}" width="{x1 - x0:.1f}" height="{BOTTOM - BARS:.0f}"/>'
    return f"<g><title>nothing exposed for {words}</title>{shape}{label}</g>"


def _hours(scale: _Scale) -> str:
    hours = (scale.end - scale.start) * 24.0
    step = next((s for s in STEPS_H if hours / s <= 14), 12.0) / 24.0
    parts = []
    for k in range(math.ceil(scale.start / step), math.floor(scale.end / step) + 1):
        x = scale.x(k * step)
        moment = MJD_ZERO + timedelta(minutes=round(k * step * 1440.0))
        parts.append(f'<line class="hour" x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{BOTTOM:.0f}"/>')
        parts.append(f'<text class="mid" x="{x:.1f}" y="12">{moment:%H:%M}</text>')
    return "".join(parts) + '<text x="4" y="12">UT</text>'


def _seeing_axis(scale: _Scale) -> str:
    parts = []
    step = 0.5 if scale.top_arcsec <= 2.5 else math.ceil(scale.top_arcsec / 4.0)
    k = 0
    while k * step <= scale.top_arcsec + 1e-9:
        y = scale.y(k * step)
        parts.append(f'<line class="tick" x1="{LEFT:.0f}" x2="{WIDTH - RIGHT:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6:.0f}" y="{y + 4:.1f}">{k * step:.1f}</text>')
        k += 1
    words = f'<text x="4" y="{HEIGHT - 8:.0f}">seeing, arcsec</text>'
    return "".join(parts) + words


def _bar(e: NightExposure, scale: _Scale) -> str:
    low, high = _span(e)
    x, wide = scale.x(low), max(1.5, scale.x(high) - scale.x(low) - 0.5)
    lost = " lost" if e.state in ("rejected", "failed") else ""
    place = f'x="{x:.1f}" y="{BARS:.0f}" width="{wide:.1f}" height="{BAR_HEIGHT:.0f}"'
    bar = f'<rect class="{filter_class(e.filter)}{lost}" {place}/>'
    grade = e.grade or "N"
    hand = " hand" if e.grade_source == "human" else ""
    mark = f'<rect class="mark g{grade}{hand}" x="{x:.1f}" y="{GRADES:.0f}" width="{wide:.1f}" height="6"/>'
    seeing = "" if e.seeing_arcsec is None else f", seeing {e.seeing_arcsec:.2f} arcsec"
    words = f"{e.name} {e.object or ''} {e.filter or ''}{seeing}, grade {e.grade or 'none'}, {e.state}"
    return f'<a href="/images/{e.id}"><title>{escape(words)}</title>{bar}{mark}{_dot(e, scale)}</a>'


def _dot(e: NightExposure, scale: _Scale) -> str:
    if e.seeing_arcsec is None or e.mjd is None:
        return ""
    x, y = scale.x(e.mjd), scale.y(e.seeing_arcsec)
    return f'<circle class="{filter_class(e.filter)}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _curve(timed: Sequence[NightExposure], idle: Sequence[tuple[float, float]], scale: _Scale) -> str:
    """Return the running median of five seeing values, broken where nothing was exposed."""
    parts: list[list[tuple[float, float]]] = [[] for _ in range(len(idle) + 1)]
    for e in timed:
        if e.mjd is not None and e.seeing_arcsec is not None:
            parts[sum(e.mjd > low for low, _ in idle)].append((e.mjd, e.seeing_arcsec))
    lines = []
    for known in parts:
        middles = [(known[i][0], sorted(s for _, s in known[i - 2 : i + 3])[2]) for i in range(2, len(known) - 2)]
        points = " ".join(f"{scale.x(t):.1f},{scale.y(s):.1f}" for t, s in middles)
        lines.append(f'<polyline class="curve" points="{points}"/>' if len(middles) > 1 else "")
    return "".join(lines)


def _missing(timed: Sequence[NightExposure], gaps: Sequence[Gap], scale: _Scale) -> str:
    """Return a mark where names are missing: behind the last exposure whose name comes before them."""
    parts = []
    for gap in gaps:
        before = [e for e in timed if e.name < gap.first and e.mjd is not None]
        if before:
            x = scale.x(_span(max(before, key=lambda e: e.name))[1])
            words = escape(f"missing: {gap.words}")
            parts.append(f'<path class="gap" d="M{x:.1f} {BARS - 6:.0f}l-4 -6h8z"><title>{words}</title></path>')
    return "".join(parts)

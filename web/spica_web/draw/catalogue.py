"""Plots of a catalogue as inline SVG: number counts, and half-light radius against magnitude."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from spica.db.pages.catalogue import MAG_CELLS, MAG_STEP, SIZE_CELLS, MagBin, SizePlane

WIDTH, HEIGHT = 560.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 40.0
SHADES = 6
"""Steps of the density: classes d1 (few) to d6 (most)."""


@dataclass(frozen=True)
class Axis:
    """One axis: its ends in values and in the drawing's units."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Return where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def steps(self, most: int = 8) -> list[float]:
        """Return round values along the axis."""
        raw = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def draw_counts(bins: Sequence[MagBin]) -> Markup | None:
    """Return sources per half magnitude on a logarithmic axis, all and those without a flag; None without sources."""
    if not bins:
        return None
    x = Axis(bins[0].mag, bins[-1].mag + MAG_STEP, LEFT, WIDTH - RIGHT)
    top = max(1, math.ceil(math.log10(max(b.n for b in bins)) + 0.05))
    y = Axis(0.0, float(top), HEIGHT - BOTTOM, TOP)
    body = "".join(_bar(b.mag, b.n, "all", x, y) + _bar(b.mag, b.n_clean, "clean", x, y) for b in bins)
    powers = [(float(k), f"{10**k:,}".replace(",", " ")) for k in range(top + 1)]
    axes = _x_axis(x, "MAG_AUTO, mag") + _y_axis(y, powers, f"sources per {MAG_STEP:g} mag")
    return _svg(axes + body, f"number counts of {sum(b.n for b in bins)} sources")


def _bar(mag: float, n: int, word: str, x: Axis, y: Axis) -> str:
    if n < 1:
        return ""
    left, right, top = x.place(mag), x.place(mag + MAG_STEP), y.place(max(math.log10(n), 0.03))
    return (
        f'<rect class="{word}" x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(0.5, right - left - 1):.1f}" '
        f'height="{y.start - top:.1f}"><title>{mag:g} to {mag + MAG_STEP:g} mag: {n} {_words(word)}</title></rect>'
    )


def _words(word: str) -> str:
    return "sources" if word == "all" else "without a flag"


def draw_size_plane(plane: SizePlane | None) -> Markup | None:
    """Return the density of sources over magnitude and half-light radius; None where there is none."""
    if plane is None:
        return None
    x = Axis(*plane.mag, LEFT, WIDTH - RIGHT)
    y = Axis(*plane.radius_pix, HEIGHT - BOTTOM, TOP)
    most = math.log1p(max((c.n for c in plane.cells), default=1))
    width, height = (x.end - x.start) / MAG_CELLS, (y.start - y.end) / SIZE_CELLS
    paths: dict[int, list[str]] = {}
    for c in plane.cells:
        shade = 1 + min(SHADES - 1, int(SHADES * math.log1p(c.n) / (most + 1e-9)))
        left, top = x.place(c.mag), y.place(c.radius_pix) - height
        paths.setdefault(shade, []).append(f"M{left:.1f} {top:.1f}h{width:.2f}v{height:.2f}h-{width:.2f}z")
    body = "".join(f'<path class="d{shade}" d="{"".join(d)}"/>' for shade, d in sorted(paths.items()))
    axes = _x_axis(x, "MAG_AUTO, mag") + _y_axis(y, [(v, f"{v:g}") for v in y.steps(6)], "half-light radius, pixel")
    return _svg(axes + body, "half-light radius against magnitude; stars form the level line")


def _x_axis(x: Axis, words: str) -> str:
    ticks = "".join(
        f'<line x1="{x.place(v):.1f}" x2="{x.place(v):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="mid" x="{x.place(v):.1f}" y="{HEIGHT - BOTTOM + 16}">{v:g}</text>'
        for v in x.steps()
    )
    return (
        f'<g class="axis">{ticks}<text class="mid" x="{(x.start + x.end) / 2:.0f}" y="{HEIGHT - 6}">{words}</text></g>'
    )


def _y_axis(y: Axis, ticks: Sequence[tuple[float, str]], words: str) -> str:
    place: Callable[[float], float] = y.place
    lines = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place(v):.1f}" y2="{place(v):.1f}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{place(v) + 4:.1f}">{text}</text>'
        for v, text in ticks
    )
    middle = (y.start + y.end) / 2
    turned = f'<text class="mid" transform="translate(12 {middle:.0f}) rotate(-90)">{words}</text>'
    return f'<g class="axis">{lines}{turned}</g>'


def _svg(body: str, words: str) -> Markup:
    """Return a drawing; it holds numbers and our own words alone."""
    box = f'<svg class="chart" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">'
    return Markup(f"{box}{body}</svg>")  # noqa: S704  numbers and our own words alone

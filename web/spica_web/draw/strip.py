"""The strip of a measure: its distribution in the survey, this value as a tick, the limits of the grades as ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from spica.db.pages.listing import Distribution

WIDTH = 160.0
HEIGHT = 24.0
FLOOR = 19.0


@dataclass(frozen=True)
class Limits:
    """Limits of one measure for grades A, B, C; `high` True where large values are bad."""

    a: float | None
    b: float | None
    c: float | None
    high: bool


def draw_strip(spread: Distribution | None, value: float | None, limits: Limits | None = None) -> Markup:
    """Return the strip as SVG; empty where the survey does not know the measure."""
    if spread is None:
        return Markup("")
    low, high = _range(spread, value)
    parts = [_ranges(limits, low, high), _bars(spread, low, high)]
    if value is not None and math.isfinite(value):
        x = _x(value, low, high)
        parts.append(f'<path class="tick" d="M{x:.1f} 1V{FLOOR + 3:.0f}"/>')
    body = "".join(parts)
    return Markup(  # noqa: S704  numbers and constant words only
        f'<svg class="strip" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" width="{WIDTH:.0f}" height="{HEIGHT:.0f}" '
        f'aria-hidden="true">{body}</svg>'
    )


def _range(spread: Distribution, value: float | None) -> tuple[float, float]:
    """Return the range drawn: the bulk of the survey, widened to hold this value (by the bulk's width at most)."""
    low, high = spread.low, spread.high
    span = high - low
    if value is not None and math.isfinite(value):
        low, high = max(low - span, min(low, value)), min(high + span, max(high, value))
    pad = 0.03 * (high - low)
    return low - pad, high + pad


def _x(value: float, low: float, high: float) -> float:
    return 1.5 + (WIDTH - 3.0) * min(1.0, max(0.0, (value - low) / (high - low)))


def _bars(spread: Distribution, low: float, high: float) -> str:
    inner = spread.counts[1:-1]
    highest = max(inner) or 1
    step = (spread.high - spread.low) / len(inner)
    parts = []
    for i, count in enumerate(inner):
        if count:
            x0, x1 = _x(spread.low + i * step, low, high), _x(spread.low + (i + 1) * step, low, high)
            h = max(1.5, (FLOOR - 2.0) * math.sqrt(count / highest))
            parts.append(f"M{x0:.1f} {FLOOR:.1f}V{FLOOR - h:.1f}H{max(x1 - 0.6, x0 + 0.6):.1f}V{FLOOR:.1f}Z")
    return f'<path class="bars" d="{"".join(parts)}"/>'


def _ranges(limits: Limits | None, low: float, high: float) -> str:
    """Return coloured ranges of the grades below the bars."""
    if limits is None:
        return f'<rect class="rule" x="1.5" y="{FLOOR + 1}" width="{WIDTH - 3}" height="1"/>'
    steps = [(letter, bound) for letter, bound in zip("ABC", (limits.a, limits.b, limits.c), strict=True)]
    known = [(letter, bound) for letter, bound in steps if bound is not None]
    edges = [low, *(b for _, b in known), high] if limits.high else [high, *(b for _, b in known), low]
    letters = [letter for letter, _ in known] + ["D"]
    parts = []
    for letter, start, end in zip(letters, edges[:-1], edges[1:], strict=True):
        x0, x1 = sorted((_x(start, low, high), _x(end, low, high)))
        if x1 - x0 > 0.05:
            parts.append(
                f'<rect class="band g{letter}" x="{x0:.1f}" y="{FLOOR + 1}" width="{x1 - x0:.1f}" height="3"/>'
            )
    return "".join(parts)

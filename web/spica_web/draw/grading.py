"""Charts of grading: a ring of letters, bars in time, the matrix of two judges; inline SVG without words of people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta

from markupsafe import Markup

from spica.db.agreement import Bins

LETTERS = "ABCD"
RING = 52.0
HOLE = 34.0
WIDTH = 720.0
HEIGHT = 148.0
LEFT, RIGHT, TOP, FLOOR = 44.0, 8.0, 8.0, 124.0
MIN_TICK = 78.0
LANE_W, LANE_H = 180.0, 22.0


def draw_ring(counts: Sequence[int], kinds: Sequence[str], label: str) -> Markup:
    """Return a ring with a piece for each count and the sum in the middle; `kinds` are the classes of the pieces."""
    total = sum(counts)
    pieces, turn = [], 0.0
    for count, kind in zip(counts, kinds, strict=True):
        if count:
            share = count / total
            pieces.append(f'<path class="{kind}" d="{_piece(turn, turn + share)}"/>')
            turn += share
    if not total:
        pieces.append(f'<path class="gN" d="{_piece(0.0, 1.0)}"/>')
    said = ", ".join(f"{kind.removeprefix('g')} {count}" for kind, count in zip(kinds, counts, strict=True))
    return Markup(  # noqa: S704  numbers and constant words only
        f'<svg class="ring" viewBox="-56 -56 112 112" width="112" height="112" role="img" aria-label="{label}: {said}">'
        f'{"".join(pieces)}<text y="6">{_short(total)}</text></svg>'
    )


def _piece(start: float, end: float) -> str:
    """Return a piece of the ring between two turns (0 to 1, from above, clockwise)."""
    if end - start > 0.9999:
        return _piece(start, start + 0.5) + _piece(start + 0.5, start + 1.0)
    a, b = (2.0 * math.pi * (t - 0.25) for t in (start, end))
    large = int(end - start > 0.5)
    (x0, y0), (x1, y1) = ((math.cos(t), math.sin(t)) for t in (a, b))
    return (
        f"M{RING * x0:.2f} {RING * y0:.2f}A{RING} {RING} 0 {large} 1 {RING * x1:.2f} {RING * y1:.2f}"
        f"L{HOLE * x1:.2f} {HOLE * y1:.2f}A{HOLE} {HOLE} 0 {large} 0 {HOLE * x0:.2f} {HOLE * y0:.2f}Z"
    )


def draw_bars(bins: Bins, kinds: Sequence[str], label: str) -> Markup:
    """Return bars in time, one a bin, its kinds upon each other; `kinds` are their classes from below."""
    highest = _round_up(bins.highest)
    step = (WIDTH - LEFT - RIGHT) / len(bins.rows)
    parts = [_grid(highest)]
    for k, row in enumerate(bins.rows):
        x, y = LEFT + k * step, FLOOR
        width = max(step - 1.0, 0.6) if step < 12 else min(step - 3.0, 40.0)
        said = " · ".join(
            f"{kind.removeprefix('g').replace('N', 'none')} {n}" for kind, n in zip(kinds, row, strict=True) if n
        )
        bars = []
        for kind, n in zip(kinds, row, strict=True):
            h = (FLOOR - TOP) * n / highest
            y -= h
            if n:
                bars.append(f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{h:.2f}"/>')
        if bars:
            parts.append(f"<g><title>{_when(bins, k)}: {said}</title>{''.join(bars)}</g>")
    parts.append(_dates(bins, step))
    return Markup(  # noqa: S704  numbers, dates and constant words only
        f'<svg class="bars" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def draw_lane(counts: Sequence[int]) -> Markup:
    """Return the small bars of one grader in time."""
    if not any(counts):
        return Markup("")
    step, highest = LANE_W / len(counts), max(counts)
    width = max(min(step - 0.5, 16.0), 0.8)
    bars = "".join(
        f"M{k * step:.1f} {LANE_H:.0f}v-{max(1.5, (LANE_H - 2) * n / highest):.1f}h{width:.1f}V{LANE_H:.0f}z"
        for k, n in enumerate(counts)
        if n
    )
    return Markup(  # noqa: S704  numbers only
        f'<svg class="lane" viewBox="0 0 {LANE_W:.0f} {LANE_H:.0f}" width="{LANE_W:.0f}" height="{LANE_H:.0f}" '
        f'aria-hidden="true"><path d="{bars}"/></svg>'
    )


def _grid(highest: int) -> str:
    lines = []
    for part in (0.0, 0.5, 1.0):
        y = FLOOR - (FLOOR - TOP) * part
        lines.append(f'<path class="grid" d="M{LEFT:.0f} {y:.1f}H{WIDTH - RIGHT:.0f}"/>')
        if part != 0.5 or highest % 2 == 0:
            lines.append(f'<text class="end" x="{LEFT - 6:.0f}" y="{y + 4:.1f}">{_short(round(highest * part))}</text>')
    return "".join(lines)


def _dates(bins: Bins, step: float) -> str:
    """Write dates below the bars, as many as fit."""
    every = max(1, math.ceil(MIN_TICK / step))
    found = []
    for k in range(0, len(bins.rows), every):
        x = LEFT + k * step
        if x + MIN_TICK <= WIDTH + 8:
            found.append(f'<path class="grid" d="M{x:.1f} {FLOOR:.0f}v4"/>')
            found.append(f'<text x="{x:.1f}" y="{HEIGHT - 8:.0f}">{_begin(bins, k).isoformat()}</text>')
    return "".join(found)


def _begin(bins: Bins, k: int) -> date:
    return bins.start + timedelta(days=k * bins.step_days)


def _when(bins: Bins, k: int) -> str:
    begin = _begin(bins, k)
    if bins.step_days == 1:
        return begin.isoformat()
    return f"{begin.isoformat()} to {(begin + timedelta(days=bins.step_days - 1)).isoformat()}"


def _round_up(value: int) -> int:
    """Return the next number of 1, 2, 4, 5 times a power of ten."""
    size = 10 ** max(0, math.floor(math.log10(max(value, 1))))
    return next(int(m * size) for m in (1, 2, 4, 5, 10) if m * size >= value)


def _short(value: int) -> str:
    """Return a number in a few letters: 940, 12.3k, 1.2M."""
    if value < 10_000:
        return str(value)
    return f"{value / 1000:.3g}k" if value < 999_500 else f"{value / 1e6:.3g}M"

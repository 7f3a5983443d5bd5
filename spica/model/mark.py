"""Marks: what a person drew on an image so that no stack uses the pixels there."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from spica.model.errors import UsageError

MAX_CORNERS = 1000
MAX_COMMENT = 2000
LIMIT_PIX = 1e6
"""Coordinates and radii of marks lie within so many pixels of the origin."""


class MarkShape(enum.StrEnum):
    """What was drawn."""

    CIRCLE = "circle"
    POLYGON = "polygon"


@dataclass(frozen=True)
class MarkRegion:
    """A circle (one centre and a radius) or polygon (three corners or more) on one detector, in its pixels from 0."""

    detector: int
    shape: MarkShape
    x_pix: tuple[float, ...]
    y_pix: tuple[float, ...]
    radius_pix: float | None = None


@dataclass(frozen=True)
class PlannedMark:
    """A standing mark as a plan freezes it: its number, and its parts on the detectors."""

    id: int
    regions: tuple[MarkRegion, ...]


def check_region(region: MarkRegion) -> None:
    """Raise where a region is no circle or polygon that can be drawn.

    Raises
    ------
    UsageError
        Values that are not finite or too large, too few or too many corners, a radius where there is none or none
        where there is one.
    """
    values = (*region.x_pix, *region.y_pix, *(() if region.radius_pix is None else (region.radius_pix,)))
    if len(region.x_pix) != len(region.y_pix):
        raise UsageError("a mark has as many columns as rows; draw it again")
    if not all(math.isfinite(v) and abs(v) <= LIMIT_PIX for v in values):
        raise UsageError(f"a mark lies within {LIMIT_PIX:.0f} pixels of the origin; draw it again")
    if region.shape is MarkShape.CIRCLE:
        if len(region.x_pix) != 1 or region.radius_pix is None or region.radius_pix <= 0:
            raise UsageError("a circle has one centre and a radius above 0; draw it again")
    elif not 3 <= len(region.x_pix) <= MAX_CORNERS or region.radius_pix is not None:
        raise UsageError(f"a polygon has 3 to {MAX_CORNERS} corners and no radius; draw it again")


def meets_detector(region: MarkRegion, n_x: int, n_y: int) -> bool:
    """Whether the box around a region meets the pixels of a detector of so many columns and rows."""
    r = region.radius_pix or 0.0
    x_low, x_high = min(region.x_pix) - r, max(region.x_pix) + r
    y_low, y_high = min(region.y_pix) - r, max(region.y_pix) + r
    return x_high >= -0.5 and y_high >= -0.5 and x_low <= n_x - 0.5 and y_low <= n_y - 0.5


def describe_marks(ids: Sequence[int]) -> str:
    """Return marks by number, in words: `mark 3`, `marks 3 and 7`, `12 marks (3 7 8 ...)`."""
    numbers = [str(i) for i in ids]
    if len(numbers) == 1:
        return f"mark {numbers[0]}"
    if len(numbers) == 2:
        return f"marks {numbers[0]} and {numbers[1]}"
    more = " ..." if len(numbers) > 20 else ""
    return f"{len(numbers)} marks ({' '.join(numbers[:20])}{more})"

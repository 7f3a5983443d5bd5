"""Marks: what a person drew on an image so that no stack uses the pixels there."""

from __future__ import annotations

import enum
from dataclasses import dataclass


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

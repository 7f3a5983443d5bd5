"""Rules that speak of a place on the sky, answered from the index of centres instead of by a walk over all images."""

from __future__ import annotations

import math
from typing import Any

import hpgeom
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from spica.db.selection import Condition, compile_rule
from spica.db.sky import ORDER, in_ranges
from spica.db.tables.image import ImageRow, MeasureRow
from spica.model.image import ImageKind
from spica.model.selection import And, Lists, Rule, Within
from spica.model.selection.evaluate import NO_LISTS

WIDE_DEG = 30.0
"""Circles beyond this hold so much of the sky that the index does not help."""
CELLS_ACROSS = 6
"""Cells (58.6 degrees / 2^order wide) across the circle: few ranges, and not much more than the circle."""


def top_circles(rule: Rule) -> list[Within]:
    """Return the circles that each image of a rule must lie in: those of its outermost conjunction."""
    parts = rule.rules if isinstance(rule, And) else (rule,)
    found: list[Within] = []
    for part in parts:
        found += [part] if isinstance(part, Within) else top_circles(part) if isinstance(part, And) else []
    return found


def centred_in(circle: Within) -> Condition:
    """Return the condition that an image's centre may lie in a circle, by the index of centres (a few more may)."""
    radius = max(circle.radius_deg, 1e-6)
    order = min(ORDER, max(0, math.floor(math.log2(CELLS_ACROSS * 58.6 / radius / 2.0))))
    found = hpgeom.query_circle(
        1 << order, circle.ra_deg % 360.0, circle.dec_deg, radius, inclusive=True, nest=True, return_pixel_ranges=True
    )
    shift = 2 * (ORDER - order)
    return in_ranges(ImageRow.healpix, [(int(low) << shift, int(high) << shift) for low, high in found])


def compile_near(rule: Rule, lists: Lists = NO_LISTS) -> Condition:
    """Return a rule as `compile_rule` does, with its outermost circle answered by the index of centres.

    Where the condition of `compile_rule` is true, so is this one, and no other row is taken.

    Raises
    ------
    RecipeError
        As `compile_rule`.
    """
    condition = compile_rule(rule, lists)
    circles = [c for c in top_circles(rule) if c.radius_deg <= WIDE_DEG]
    if not circles:
        return condition
    narrowest = min(circles, key=lambda c: c.radius_deg)
    return centred_in(narrowest) & condition


def ids_in_cone(
    session: Session, rule: Rule, kind: ImageKind = ImageKind.EXPOSURE, limit: int | None = None
) -> list[int]:
    """Return the ids of images of a kind for which a rule is true, ascending: one statement.

    Raises
    ------
    RecipeError
        As `compile_rule`.
    """
    query: Select[Any] = (
        select(ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == kind, compile_near(rule))
        .order_by(ImageRow.id)
        .limit(limit)
    )
    return list(session.scalars(query))

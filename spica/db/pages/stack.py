"""One stack as its page shows it: inputs, solution, what was left out, catalogue."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.pages.survey import Polygon, SkyShape
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow
from spica.db.tables.job import PlanRow, SelectionMemberRow
from spica.db.tables.product import DeliveryRow, SourceRow, StackInputRow, StackRow
from spica.db.tables.quality import SolutionImageRow, SolutionRow
from spica.model.image import ImageKind

MAX_FOOTPRINTS = 400
MAX_OUTLINES = 4000


@dataclass(frozen=True)
class InputEntry:
    """One exposure of a stack: what became of it, what it gave, what the solution says of it, and how good it is."""

    image_id: int
    name: str
    night: str | None
    exptime_s: float | None
    seeing_arcsec: float | None
    grade: str | None
    grade_source: str | None
    outcome: str | None
    text: str | None
    weight_fraction: float | None
    clipped_fraction: float | None
    flux_scale: float | None
    solved: SolutionImageRow | None


@dataclass(frozen=True)
class WhyNot:
    """One candidate that the rule left out, with the clause and the value it saw."""

    image_id: int
    name: str
    night: str | None
    seeing_arcsec: float | None
    grade: str | None
    grade_source: str | None
    clause: str | None
    value: str | None


def newest_solution(session: Session, plan_id: int | None) -> SolutionRow | None:
    """Return the newest solution of a plan."""
    if plan_id is None:
        return None
    return session.scalar(
        select(SolutionRow).where(SolutionRow.plan_id == plan_id).order_by(SolutionRow.id.desc()).limit(1)
    )


@functools.cache
def _inputs_said() -> Select[ImageRow, MeasureRow, StackInputRow, SolutionImageRow]:
    of = (SolutionImageRow.image_id == ImageRow.id) & (SolutionImageRow.solution_id == bindparam("solution"))
    return (
        select(ImageRow, MeasureRow, StackInputRow, SolutionImageRow)
        .join(StackInputRow, StackInputRow.image_id == ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .outerjoin(SolutionImageRow, of)
        .where(StackInputRow.stack_id == bindparam("stack"))
        .order_by(StackInputRow.weight_fraction.desc().nulls_last(), ImageRow.id)
    )


def read_inputs(session: Session, stack_id: int, solution_id: int | None) -> list[InputEntry]:
    """Return the planned inputs of a stack, the used ones first, by weight: one statement."""
    rows = session.execute(_inputs_said(), {"stack": stack_id, "solution": solution_id})
    return [
        InputEntry(
            i.id,
            i.name,
            i.night.isoformat() if i.night else None,
            i.exptime_s,
            m.seeing_arcsec if m else None,
            m.grade.value if m and m.grade else None,
            m.grade_source.value if m and m.grade_source else None,
            s.outcome.value if s.outcome else None,
            s.text,
            s.weight_fraction,
            s.clipped_fraction,
            s.flux_scale,
            solved,
        )
        for i, m, s, solved in rows
    ]


@functools.cache
def _why_not_said() -> Select[*tuple[Any, ...]]:
    return (
        select(ImageRow, MeasureRow, SelectionMemberRow.clause, SelectionMemberRow.value)
        .join(SelectionMemberRow, SelectionMemberRow.image_id == ImageRow.id)
        .join(PlanRow, PlanRow.selection_id == SelectionMemberRow.selection_id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(PlanRow.id == bindparam("plan"), SelectionMemberRow.chosen.is_(False))
        .order_by(ImageRow.id)
        .limit(bindparam("most"))
    )


def read_why_not(session: Session, plan_id: int | None, limit: int = 500) -> list[WhyNot]:
    """Return the candidates that the selection of a plan left out, by id: one statement."""
    if plan_id is None:
        return []
    rows = session.execute(_why_not_said(), {"plan": plan_id, "most": limit})
    return [
        WhyNot(
            i.id,
            i.name,
            i.night.isoformat() if i.night else None,
            m.seeing_arcsec if m else None,
            m.grade.value if m and m.grade else None,
            m.grade_source.value if m and m.grade_source else None,
            clause,
            value,
        )
        for i, m, clause, value in rows
    ]


@functools.cache
def _footprints_said() -> Select[*tuple[Any, ...]]:
    shown = ImageRow.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
    return (
        select(ImageRow, MeasureRow.grade, DetectorRow.polygon_ra_deg, DetectorRow.polygon_dec_deg)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .outerjoin(DetectorRow, DetectorRow.image_id == ImageRow.id)
        .where(shown, ImageRow.ra_deg.is_not(None))
        .order_by(ImageRow.id == bindparam("stack"), ImageRow.id, DetectorRow.number)
    )


def read_footprints(session: Session, stack: ImageRow, ids: Sequence[int]) -> list[SkyShape]:
    """Return where the inputs of a stack lie on the sky, and the stack itself last: one statement.

    Of more than `MAX_OUTLINES` detectors the exposures beyond are drawn by their circle alone.
    """
    asked = {"ids": [stack.id, *ids[:MAX_FOOTPRINTS]], "stack": stack.id}
    images: dict[int, tuple[ImageRow, str | None]] = {}
    outlines: dict[int, list[Polygon]] = defaultdict(list)
    drawn = 0
    for image, grade, ra, dec in session.execute(_footprints_said(), asked):
        images[image.id] = (image, grade.value if grade else None)
        if ra and dec and len(ra) == len(dec) and (drawn < MAX_OUTLINES or image.id == stack.id):
            outlines[image.id].append(tuple(zip(ra, dec, strict=True)))
            drawn += 1
    return [_shape(image, grade, tuple(outlines[image.id])) for image, grade in images.values()]


def _shape(i: ImageRow, grade: str | None, polygons: tuple[Polygon, ...]) -> SkyShape:
    ra, dec = i.ra_deg or 0.0, i.dec_deg or 0.0  # the statement lets no image without a place through
    return SkyShape(i.id, i.name, i.object, i.kind.value, i.state.value, grade, ra, dec, i.radius_deg, polygons)


def count_sources(session: Session, image_id: int) -> int:
    """Return how many sources the catalogue of a stack holds."""
    return session.scalar(select(func.count()).select_from(SourceRow).where(SourceRow.image_id == image_id)) or 0


@functools.cache
def _stack_said() -> Select[ImageRow, StackRow, MeasureRow]:
    return (
        select(ImageRow, StackRow, MeasureRow)
        .join(StackRow, StackRow.image_id == ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.id == bindparam("stack"))
    )


def read_stack_row(session: Session, image_id: int) -> tuple[ImageRow, StackRow, MeasureRow | None] | None:
    """Return the rows of a stack or calibrated copy."""
    row = session.execute(_stack_said(), {"stack": image_id}).one_or_none()
    return None if row is None else (row[0], row[1], row[2])


def read_deliveries(session: Session, image_id: int) -> list[DeliveryRow]:
    """Return the deliveries of a stack, newest first."""
    return list(
        session.scalars(select(DeliveryRow).where(DeliveryRow.image_id == image_id).order_by(DeliveryRow.id.desc()))
    )


def count_stacks(session: Session, kind: ImageKind, where: Sequence[ColumnElement[bool]] = ()) -> dict[str, int]:
    """Return stacks or calibrated copies that meet some conditions by state: one statement."""
    query = select(ImageRow.state, func.count()).where(ImageRow.kind == kind, *where).group_by(ImageRow.state)
    if where:
        query = query.outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
    return {state.value: n for state, n in session.execute(query)}


def stack_ids(
    session: Session, kind: ImageKind, where: Sequence[ColumnElement[bool]], order: Sequence[Any]
) -> list[int]:
    """Return the ids of the stacks or calibrated copies that meet some conditions, in an order: one statement."""
    query = (
        select(ImageRow.id)
        .join(StackRow, StackRow.image_id == ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == kind, *where)
    )
    return list(session.scalars(query.order_by(*order, ImageRow.id)))

"""Plans as the pages show them: lists with the states of their jobs, and one plan with its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.job import JobEdgeRow, JobRow, PlanRow, RecipeRow, SelectionMemberRow, SelectionRow
from spica.db.tables.person import PersonRow
from spica.model.image import ImageKind


@dataclass(frozen=True)
class PlanEntry:
    """One plan of the list: its product where it has one, and its jobs by state."""

    id: int
    label: str
    mode: str
    filter: str | None
    created_at: datetime
    abandoned: bool
    person: str | None
    stack_id: int | None
    stack: str | None
    stack_state: str | None
    chosen: int
    left_out: int
    jobs: dict[str, int]


def plan_ids(session: Session, limit: int | None = None, offset: int = 0) -> list[int]:
    """Return the ids of plans, newest first: one statement."""
    return list(session.scalars(select(PlanRow.id).order_by(PlanRow.id.desc()).limit(limit).offset(offset)))


def count_plans(session: Session) -> int:
    """Return how many plans there are: one statement."""
    return session.scalar(select(func.count()).select_from(PlanRow)) or 0


def list_plans(session: Session, ids: Sequence[int]) -> list[PlanEntry]:
    """Return plans of ids, newest first: three statements."""
    stack = aliased(ImageRow)
    product = (
        select(func.min(stack.id))
        .where(stack.plan_id == PlanRow.id, stack.kind != ImageKind.EXPOSURE)
        .correlate(PlanRow)
        .scalar_subquery()
    )
    made = aliased(ImageRow)
    query = (
        select(PlanRow, PersonRow.name, made.id, made.name, made.state)
        .outerjoin(PersonRow, PersonRow.id == PlanRow.person_id)
        .outerjoin(made, made.id == product)
        .where(PlanRow.id.in_(ids))
        .order_by(PlanRow.id.desc())
    )
    rows = session.execute(query).all()
    counted = _count_members(session, [r[0].selection_id for r in rows if r[0].selection_id is not None])
    states = jobs_by_state(session, [r[0].id for r in rows])
    return [
        PlanEntry(
            p.id,
            p.label,
            p.mode.value,
            p.filter,
            p.created_at,
            p.abandoned,
            person,
            stack_id,
            name,
            state.value if state else None,
            *counted.get(p.selection_id or 0, (0, 0)),
            states.get(p.id, {}),
        )
        for p, person, stack_id, name, state in rows
    ]


def _count_members(session: Session, selections: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return how many candidates of each selection were chosen and left out."""
    m = SelectionMemberRow
    query = (
        select(m.selection_id, func.count().filter(m.chosen), func.count().filter(~m.chosen))
        .where(m.selection_id.in_(selections))
        .group_by(m.selection_id)
    )
    return {selection: (chosen, left) for selection, chosen, left in session.execute(query)} if selections else {}


def jobs_by_state(session: Session, plan_ids: list[int]) -> dict[int, dict[str, int]]:
    """Return the jobs of plans by state."""
    query = (
        select(JobRow.plan_id, JobRow.state, func.count())
        .where(JobRow.plan_id.in_(plan_ids))
        .group_by(JobRow.plan_id, JobRow.state)
    )
    found: dict[int, dict[str, int]] = {}
    for plan_id, state, n in session.execute(query) if plan_ids else ():
        if plan_id is not None:
            found.setdefault(plan_id, {})[state.value] = n
    return found


@dataclass(frozen=True)
class PlanFacts:
    """One plan with its recipe, rule and person."""

    plan: PlanRow
    recipe: RecipeRow | None
    selection: SelectionRow | None
    person: str | None


def read_plan(session: Session, plan_id: int) -> PlanFacts | None:
    """Return a plan, None where there is none: one statement."""
    query = (
        select(PlanRow, RecipeRow, SelectionRow, PersonRow.name)
        .outerjoin(RecipeRow, RecipeRow.id == PlanRow.recipe_id)
        .outerjoin(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .outerjoin(PersonRow, PersonRow.id == PlanRow.person_id)
        .where(PlanRow.id == plan_id)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else PlanFacts(*row)


@dataclass(frozen=True)
class MemberEntry:
    """One candidate of a plan's selection; `stale`: its quality or grade is no longer the one judged."""

    image_id: int
    name: str
    night: str | None
    seeing_arcsec: float | None
    grade: str | None
    grade_source: str | None
    chosen: bool
    clause: str | None
    value: str | None
    stale: bool


def read_members(session: Session, selection_id: int | None, limit: int = 2000) -> list[MemberEntry]:
    """Return the candidates of a selection, the chosen first: one statement."""
    if selection_id is None:
        return []
    query = (
        select(ImageRow, MeasureRow, SelectionMemberRow)
        .join(SelectionMemberRow, SelectionMemberRow.image_id == ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(SelectionMemberRow.selection_id == selection_id)
        .order_by(SelectionMemberRow.chosen.desc(), ImageRow.id)
        .limit(limit)
    )
    return [
        MemberEntry(
            i.id,
            i.name,
            i.night.isoformat() if i.night else None,
            m.seeing_arcsec if m else None,
            m.grade.value if m and m.grade else None,
            m.grade_source.value if m and m.grade_source else None,
            s.chosen,
            s.clause,
            s.value,
            s.grade_id != i.grade_id or s.quality_id != i.quality_id,
        )
        for i, m, s in session.execute(query)
    ]


def read_edges(session: Session, plan_id: int) -> list[tuple[int, int, str]]:
    """Return the edges between jobs of a plan as (parent, child, kind)."""
    jobs = select(JobRow.id).where(JobRow.plan_id == plan_id)
    query = (
        select(JobEdgeRow.parent_id, JobEdgeRow.child_id, JobEdgeRow.kind)
        .where(JobEdgeRow.child_id.in_(jobs))
        .order_by(JobEdgeRow.parent_id, JobEdgeRow.child_id)
    )
    return [(p, c, k.value) for p, c, k in session.execute(query)]


def read_results(session: Session, plan_id: int) -> list[ImageRow]:
    """Return the stack and the calibrated copies of a plan."""
    query = select(ImageRow).where(ImageRow.plan_id == plan_id, ImageRow.kind != ImageKind.EXPOSURE)
    return list(session.scalars(query.order_by(ImageRow.id).limit(500)))

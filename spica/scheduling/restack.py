"""A stack made again: what its plan asked for, judged as things stand today, in a plan that replaces the old one."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.plan import know_recipe, product_of, standing_plan
from spica.db.selection import Judged, association_filter, judge, record_selection
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow, SelectionMemberRow, SelectionRow
from spica.db.tables.product import StackInputRow, StackRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.files.workspace import Workspace
from spica.model.association import Association, Circle, Mode
from spica.model.errors import ConflictError, NothingToDoError, UsageError
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.job import JobKind, Request, item_id
from spica.model.recipe import Recipe
from spica.model.record import from_json
from spica.model.selection import Candidate, list_names, parse_rule
from spica.scheduling.field import find_reference
from spica.scheduling.group import Grouping
from spica.scheduling.plan import product_hash
from spica.scheduling.select import (
    Planned,
    Scheduled,
    group_wish,
    judged_for,
    label_of,
    plan_association,
    read_members,
    told_out,
    told_ungrouped,
    with_products,
)
from spica.scheduling.wish import Wish
from spica.steps.base import recipe_of

MADE_OR_DEAD = (ImageState.MADE, ImageState.DELIVERED, ImageState.FAILED)
OWN_CLAUSES = frozenset({"state != rejected", "quality is known"})
"""Clauses that are judged before any rule."""


@dataclass(frozen=True)
class PlannedStack:
    """A stack with what its plan asked for; `members` were planned, `marks` by member are those it heeds.

    The rule of `wish` is the newest version where a saved rule, not put away, was used; `rule` is the one used then.
    """

    stack: ImageRow
    plan: PlanRow
    wish: Wish
    recipe: Recipe
    rule: str
    members: frozenset[int]
    marks: dict[int, frozenset[int]]


@dataclass(frozen=True)
class Today:
    """A stack's candidates as they stand now: its association (None: nobody passes), who is in, who is out and why."""

    association: Association | None
    chosen: tuple[Candidate, ...]
    left_out: tuple[dict[str, Any], ...]
    judged: Judged


def read_planned(session: Session, stack_id: int, person_id: int | None = None) -> PlannedStack:
    """Return what the plan of a stack or calibrated copy asked for: six statements.

    Raises
    ------
    UsageError
        There is no such stack, or it was planned without a rule.
    """
    stack = session.get(ImageRow, stack_id) if 0 < stack_id < 2**62 else None
    if stack is None or stack.kind is ImageKind.EXPOSURE or stack.plan_id is None:
        raise UsageError(f"there is no stack {stack_id}; see: spica stacks")
    plan = session.get_one(PlanRow, stack.plan_id)
    selection = session.get(SelectionRow, plan.selection_id) if plan.selection_id is not None else None
    recipe = session.get(RecipeRow, plan.recipe_id) if plan.recipe_id is not None else None
    if selection is None or recipe is None:
        raise UsageError(f"{stack.name} was planned without a rule or recipe; plan it by: spica schedule")
    requests = _requests(session, plan.id)
    version_id, rule = _newest_rule(session, selection)
    inputs = frozenset(session.scalars(select(StackInputRow.image_id).where(StackInputRow.stack_id == stack_id)))
    named = requests[JobKind.ASTROMETRY].facts.get("names") if JobKind.ASTROMETRY in requests else None
    members = frozenset(item_id(str(i))[1] for i in named) if isinstance(named, dict) else inputs
    single = plan.mode is Mode.SINGLE
    wish = Wish(
        mode=plan.mode,
        rule=rule,
        object_key=None if single else plan.object_key or None,
        filter=plan.filter,
        circle=_circle(plan),
        lists=_lists(session, rule, selection.id),
        targets=frozenset(str(i) for i in inputs) if single else None,
        person_id=person_id,
        rule_version_id=version_id,
    )
    frozen = recipe_of(Request("", "", json.loads(recipe.parameters), recipe.sha256))
    return PlannedStack(stack, plan, wish, frozen, selection.rule, members, _marks(requests))


def _requests(session: Session, plan_id: int) -> dict[str, Request]:
    """Return the requests of a plan's solution and stack by kind, the newest of each."""
    query = (
        select(JobRow.kind, JobRow.request)
        .where(JobRow.plan_id == plan_id, JobRow.kind.in_((JobKind.ASTROMETRY, JobKind.STACK)))
        .order_by(JobRow.id)
    )
    return {kind: from_json(Request, json.loads(text), "request") for kind, text in session.execute(query)}


def _marks(requests: dict[str, Request]) -> dict[int, frozenset[int]]:
    told = requests[JobKind.STACK].facts.get("marks") if JobKind.STACK in requests else None
    if not isinstance(told, dict):
        return {}
    return {item_id(str(item))[1]: frozenset(int(m["id"]) for m in marks) for item, marks in told.items()}


def _newest_rule(session: Session, selection: SelectionRow) -> tuple[int | None, str]:
    """Return the newest version of the saved rule that was used, and its text; the text used where it was none."""
    if selection.rule_version_id is None:
        return None, selection.rule
    of = select(RuleVersionRow.rule_id).where(RuleVersionRow.id == selection.rule_version_id).scalar_subquery()
    query = (
        select(RuleVersionRow)
        .join(RuleRow, RuleRow.id == RuleVersionRow.rule_id)
        .where(RuleVersionRow.rule_id == of, RuleRow.retired_at.is_(None))
        .order_by(RuleVersionRow.number.desc())
        .limit(1)
    )
    row = session.scalar(query)
    return (selection.rule_version_id, selection.rule) if row is None else (row.id, row.text)


def _circle(plan: PlanRow) -> Circle | None:
    if plan.ra_deg is None or plan.dec_deg is None or plan.radius_deg is None:
        return None
    return Circle(plan.ra_deg, plan.dec_deg, plan.radius_deg)


def _lists(session: Session, rule: str, selection_id: int) -> dict[str, frozenset[str]]:
    """Return the names on the lists that a rule asks for, as far as the old selection tells.

    Who was chosen was on the list, and who was left out by another clause than the list's.
    """
    names = list_names(parse_rule(rule))
    if not names:
        return {}
    query = (
        select(ImageRow.name, SelectionMemberRow.chosen, SelectionMemberRow.clause)
        .join(ImageRow, ImageRow.id == SelectionMemberRow.image_id)
        .where(SelectionMemberRow.selection_id == selection_id)
    )
    listed = frozenset(
        name
        for name, chosen, clause in session.execute(query)
        if chosen or (clause is not None and clause not in OWN_CLAUSES and "list(" not in clause)
    )
    return dict.fromkeys(names, listed)


def judge_today(session: Session, planned: PlannedStack) -> Today:
    """Judge the candidates of a stack's association as they stand now, and group them as its plan did.

    Of several groups the one that shares most members with the old stack is its own.
    """
    wish = planned.wish
    circle = wish.circle if wish.mode is not Mode.SINGLE else _around(session, wish)
    bounds = association_filter(
        session,
        object_key=wish.object_key,
        instrument=planned.plan.instrument,
        filter_name=wish.filter,
        circle=circle,
    )
    judged = judge(
        session, parse_rule(wish.rule), [*bounds, ImageRow.frame_type == FrameType.SCIENCE], lists=wish.lists
    )
    ready, unready = with_products(session, judged.chosen)
    grouping = group_wish(wish, planned.recipe, ready)
    association = _its_own(grouping, planned.members)
    out = [*told_out(judged), *unready, *(told_ungrouped(u) for u in grouping.left_out)]
    inside = set(association.image_ids) if association is not None else set()
    chosen = tuple(c for c in ready if c.image_id in inside)
    known = {o["id"] for o in out} | inside
    out += [
        {"id": c.image_id, "name": c.name, "clause": "another group: its footprint does not connect", "value": ""}
        for c in ready
        if c.image_id not in known
    ]
    return Today(association, chosen, tuple(out), judged)


def _around(session: Session, wish: Wish) -> Circle | None:
    """Return a circle that holds the exposure of a calibrated copy: whoever overlaps it meets the circle."""
    target = session.get(ImageRow, int(next(iter(wish.targets or {"0"}))))
    if target is None or target.ra_deg is None or target.dec_deg is None:
        return None
    return Circle(target.ra_deg, target.dec_deg, max(target.radius_deg or 0.0, 1e-6))


def _its_own(grouping: Grouping, members: Collection[int]) -> Association | None:
    shared = [(len(set(members) & set(a.image_ids)), a) for a in grouping.associations]
    most = max((n for n, _ in shared), default=0)
    return next((a for n, a in shared if n == most), None) if most else None


def restack(
    database: Database,
    workspace: Workspace,
    stack_id: int,
    *,
    person_id: int | None = None,
    dry_run: bool = False,
) -> Scheduled:
    """Plan a stack again: same mode, bounds, group and recipe, the newest version of its rule; it replaces the old one.

    Where nothing would differ the standing plan is told as known. A dry run records nothing.

    Raises
    ------
    ConflictError
        The stack is not made yet, or a newer one stands in its place.
    NothingToDoError
        None of its exposures passes the rule any more.
    UsageError
        There is no such stack.
    """
    with database.read() as session:
        planned = read_planned(session, stack_id, person_id)
        _check_standing(session, planned.stack)
        today = judge_today(session, planned)
        if today.association is None:
            raise NothingToDoError(_nobody(planned, today))
        label = label_of(today.association, {c.image_id: c for c in today.chosen})
        done = Scheduled(chosen=list(today.chosen), left_out=list(today.left_out))
        if dry_run:
            _foretell(session, planned, today.association, label, done)
            return done
    place = find_reference(workspace, planned.recipe, list(today.chosen))
    with database.begin() as session:
        _check_standing(session, session.get_one(ImageRow, stack_id, with_for_update=True))
        members = read_members(session, today.association)
        key = product_hash(today.association, members, planned.recipe)
        standing = standing_plan(session, key)
        if standing is not None:
            done.known.append(_known(session, standing.id, label, today.association))
            return done
        recipe_id = know_recipe(session, planned.recipe)
        selection_id = record_selection(
            session, judged_for(today.judged, today.association), person_id, planned.wish.rule_version_id
        )
        done.plans.append(
            plan_association(
                session, workspace, planned.wish, planned.recipe, recipe_id, selection_id, today.association, label,
                members, place, key, planned.plan.id,
            )
        )  # fmt: skip
    return done


def _check_standing(session: Session, stack: ImageRow) -> None:
    newer = session.scalar(select(StackRow.superseded_by_id).where(StackRow.image_id == stack.id))
    if stack.state is ImageState.SUPERSEDED or newer is not None:
        raise ConflictError(f"{stack.name} is superseded by stack {newer}; plan that one again")
    if stack.state not in MADE_OR_DEAD:
        raise ConflictError(f"{stack.name} is {stack.state.value}; wait for its jobs, or cancel them")


def _foretell(session: Session, planned: PlannedStack, association: Association, label: str, done: Scheduled) -> None:
    """Say what planning would do, by rows as they are."""
    key = product_hash(association, read_members(session, association), planned.recipe)
    standing = session.scalar(
        select(PlanRow.id).where(PlanRow.product_hash == key, PlanRow.abandoned.is_(False)).limit(1)
    )
    failed = planned.stack.state is ImageState.FAILED and standing == planned.plan.id
    if standing is None or failed:
        done.plans.append(Planned(label, association.image_ids))
    else:
        done.known.append(_known(session, standing, label, association))


def _known(session: Session, plan_id: int, label: str, association: Association) -> Planned:
    product = product_of(session, plan_id)
    return Planned(label, association.image_ids, plan_id, product.id if product is not None else None)


def _nobody(planned: PlannedStack, today: Today) -> str:
    out = {int(o["id"]): o for o in today.left_out}
    first = next((out[i] for i in sorted(planned.members) if i in out), None)
    why = f" ({first['name']}: {first['clause']}, {first['value']})" if first is not None else ""
    return (
        f"none of the {len(planned.members)} exposures of {planned.stack.name} passes its rule any more{why}; widen it"
    )

"""What the plans of stacks asked for, and what that gives as things stand today: many stacks in a few statements."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, any_, literal, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from spica.db.selection import Judged, judge_candidates, select_candidates
from spica.db.sky import images_in_circle
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow, SelectionMemberRow, SelectionRow
from spica.db.tables.product import StackInputRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.association import Association, Circle, Mode
from spica.model.errors import UsageError
from spica.model.image import FrameType, ImageKind
from spica.model.job import JobKind, Request, item_id
from spica.model.recipe import Recipe
from spica.model.record import from_json
from spica.model.selection import Candidate, list_names, parse_rule
from spica.scheduling.group import Grouping
from spica.scheduling.select import group_wish, told_out, told_ungrouped, with_products
from spica.scheduling.wish import Wish
from spica.steps.base import recipe_of

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
    """Return what the plan of a stack or calibrated copy asked for; see `read_plans`.

    Raises
    ------
    UsageError
        There is no such stack, or it was planned without a rule.
    """
    found = read_plans(session, [stack_id], person_id) if 0 < stack_id < 2**62 else {}
    if stack_id in found:
        return found[stack_id]
    stack = session.get(ImageRow, stack_id) if 0 < stack_id < 2**62 else None
    if stack is None or stack.kind is ImageKind.EXPOSURE or stack.plan_id is None:
        raise UsageError(f"there is no stack {stack_id}; see: spica stacks")
    raise UsageError(f"{stack.name} was planned without a rule or recipe; plan it by: spica schedule")


def read_plans(session: Session, stack_ids: Sequence[int], person_id: int | None = None) -> dict[int, PlannedStack]:
    """Return what the plans of stacks and calibrated copies asked for: five statements, however many stacks.

    What is no stack, or was planned without a rule, is not among them.
    """
    query = (
        select(ImageRow, PlanRow, SelectionRow, RecipeRow)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .join(RecipeRow, RecipeRow.id == PlanRow.recipe_id)
        .where(ImageRow.id.in_(stack_ids), ImageRow.kind != ImageKind.EXPOSURE)
    )
    rows = [(i, p, s, r) for i, p, s, r in session.execute(query)]
    facts = _facts(session, [plan.id for _, plan, _, _ in rows])
    versions = _newest_rules(session, [s.rule_version_id for _, _, s, _ in rows if s.rule_version_id is not None])
    inputs = _inputs(session, [stack.id for stack, _, _, _ in rows])
    rules = {s.id: versions.get(s.rule_version_id or 0, (s.rule_version_id, s.rule)) for _, _, s, _ in rows}
    lists = _lists(session, {s: list_names(parse_rule(rule)) for s, (_, rule) in rules.items()})
    found = {}
    for stack, plan, selection, recipe in rows:
        version_id, rule = rules[selection.id]
        given = inputs[stack.id]
        single = plan.mode is Mode.SINGLE
        wish = Wish(
            mode=plan.mode,
            rule=rule,
            object_key=None if single else plan.object_key or None,
            filter=plan.filter,
            circle=_circle(plan),
            lists=lists.get(selection.id, {}),
            targets=frozenset(str(i) for i in given) if single else None,
            person_id=person_id,
            rule_version_id=version_id,
        )
        told = facts.get(plan.id, {})
        frozen = recipe_of(Request("", "", json.loads(recipe.parameters), recipe.sha256))
        members = _named(told.get(JobKind.ASTROMETRY, {}), given)
        marks = _marks(told.get(JobKind.STACK, {}))
        found[stack.id] = PlannedStack(stack, plan, wish, frozen, selection.rule, members, marks)
    return found


def _facts(session: Session, plan_ids: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
    """Return what the requests of solution and stack say beyond their files, by plan and kind, the newest of each."""
    query = (
        select(JobRow.plan_id, JobRow.kind, JobRow.request)
        .where(JobRow.plan_id.in_(plan_ids), JobRow.kind.in_((JobKind.ASTROMETRY, JobKind.STACK)))
        .order_by(JobRow.id)
    )
    found: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for plan_id, kind, text in session.execute(query) if plan_ids else ():
        if plan_id is not None:
            found[plan_id][kind] = from_json(Request, json.loads(text), "request").facts
    return found


def _inputs(session: Session, stack_ids: Sequence[int]) -> dict[int, frozenset[int]]:
    query = select(StackInputRow.stack_id, StackInputRow.image_id).where(StackInputRow.stack_id.in_(stack_ids))
    found: dict[int, set[int]] = defaultdict(set)
    for stack_id, image_id in session.execute(query) if stack_ids else ():
        found[stack_id].add(image_id)
    return {i: frozenset(found[i]) for i in stack_ids}


def _named(facts: dict[str, Any], inputs: frozenset[int]) -> frozenset[int]:
    """Return the exposures that a solution was asked for; the inputs of the stack where it does not say."""
    named = facts.get("names")
    return frozenset(item_id(str(i))[1] for i in named) if isinstance(named, dict) else inputs


def _marks(facts: dict[str, Any]) -> dict[int, frozenset[int]]:
    told = facts.get("marks")
    if not isinstance(told, dict):
        return {}
    return {item_id(str(item))[1]: frozenset(int(m["id"]) for m in marks) for item, marks in told.items()}


def _newest_rules(session: Session, version_ids: Sequence[int]) -> dict[int, tuple[int | None, str]]:
    """Return id and text of the newest version of the saved rules that were used, those put away left out."""
    if not version_ids:
        return {}
    newest = aliased(RuleVersionRow)
    query = (
        select(RuleVersionRow.id, newest.id, newest.text)
        .join(RuleRow, RuleRow.id == RuleVersionRow.rule_id)
        .join(newest, newest.rule_id == RuleRow.id)
        .where(RuleVersionRow.id.in_(version_ids), RuleRow.retired_at.is_(None))
        .order_by(newest.number)
    )
    return {used: (version_id, text) for used, version_id, text in session.execute(query)}


def _circle(plan: PlanRow) -> Circle | None:
    if plan.ra_deg is None or plan.dec_deg is None or plan.radius_deg is None:
        return None
    return Circle(plan.ra_deg, plan.dec_deg, plan.radius_deg)


def _lists(session: Session, names: dict[int, Collection[str]]) -> dict[int, dict[str, frozenset[str]]]:
    """Return the names on the lists that rules ask for, as far as the old selections tell; `names` by selection.

    Who was chosen was on the list, and who was left out by another clause than the list's.
    """
    asked = [s for s, of in names.items() if of]
    query = (
        select(SelectionMemberRow.selection_id, ImageRow.name, SelectionMemberRow.chosen, SelectionMemberRow.clause)
        .join(ImageRow, ImageRow.id == SelectionMemberRow.image_id)
        .where(SelectionMemberRow.selection_id.in_(asked))
    )
    listed: dict[int, set[str]] = defaultdict(set)
    for selection_id, name, chosen, clause in session.execute(query) if asked else ():
        if chosen or (clause is not None and clause not in OWN_CLAUSES and "list(" not in clause):
            listed[selection_id].add(name)
    return {s: dict.fromkeys(names[s], frozenset(listed[s])) for s in asked}


def judge_today(session: Session, planned: PlannedStack) -> Today:
    """Judge the candidates of a stack's association as they stand now; see `judge_all`."""
    return judge_all(session, [planned])[planned.stack.id]


def judge_all(session: Session, planned: Sequence[PlannedStack]) -> dict[int, Today]:
    """Judge the candidates of stacks as they stand now, and group them as their plans did.

    Of several groups the one that shares most members with the old stack is its own. Seven statements, however many
    stacks; three more for each that was planned by a circle, or for one exposure.
    """
    bounds = {p.stack.id: _bounds_of(session, p) for p in planned}
    wanted = [b.condition() for b in bounds.values()]
    found = select_candidates(session, [or_(*wanted), ImageRow.frame_type == FrameType.SCIENCE], footprints=False)
    judged = {
        p.stack.id: judge_candidates(
            parse_rule(p.wish.rule), [c for c in found if bounds[p.stack.id].hold(c)], p.wish.lists
        )
        for p in planned
    }
    chosen = {c.image_id: c for of in judged.values() for c in of.chosen}
    among = ImageRow.id == any_(literal(sorted(chosen), ARRAY(BigInteger)))
    drawn = {c.image_id: c for c in select_candidates(session, [among])} if chosen else {}
    ready, unready = with_products(session, [drawn[i] for i in sorted(chosen) if i in drawn])
    known, why = {c.image_id for c in ready}, {o["id"]: o for o in unready}
    return {p.stack.id: _today(p, judged[p.stack.id], drawn, known, why) for p in planned}


def _today(
    planned: PlannedStack,
    judged: Judged,
    drawn: Mapping[int, Candidate],
    known: Collection[int],
    why: Mapping[int, dict[str, Any]],
) -> Today:
    """Group those of a stack's candidates that pass its rule; `known` are assessed, `why` tells of those that are not.

    `drawn` are all candidates that pass some rule, with their footprints.
    """
    own = Judged(judged.rule, tuple(drawn[c.image_id] for c in judged.chosen if c.image_id in drawn), judged.left_out)
    ready = [c for c in own.chosen if c.image_id in known]
    grouping = group_wish(planned.wish, planned.recipe, ready)
    association = _its_own(grouping, planned.members)
    unready = [why[c.image_id] for c in own.chosen if c.image_id in why]
    out = [*told_out(own), *unready, *(told_ungrouped(u) for u in grouping.left_out)]
    inside = set(association.image_ids) if association is not None else set()
    told = {o["id"] for o in out} | inside
    out += [
        {"id": c.image_id, "name": c.name, "clause": "another group: its footprint does not connect", "value": ""}
        for c in ready
        if c.image_id not in told
    ]
    return Today(association, tuple(c for c in ready if c.image_id in inside), tuple(out), own)


@dataclass(frozen=True)
class _Bounds:
    """What bounds the candidates of one association, for a statement and for rows at hand; None does not bound."""

    object_key: str | None
    instrument: str | None
    filter: str | None
    inside: frozenset[int] | None

    def condition(self) -> ColumnElement[bool]:
        given = {
            ImageRow.object_key: self.object_key,
            ImageRow.instrument: self.instrument,
            ImageRow.filter: self.filter,
        }
        parts: list[ColumnElement[bool]] = [column == value for column, value in given.items() if value is not None]
        if self.inside is not None:
            parts.append(ImageRow.id == any_(literal(sorted(self.inside), ARRAY(BigInteger))))
        return and_(true(), *parts)

    def hold(self, c: Candidate) -> bool:
        given = ((self.object_key, c.object_key), (self.instrument, c.instrument), (self.filter, c.filter))
        alike = all(wanted is None or wanted == value for wanted, value in given)
        return alike and (self.inside is None or c.image_id in self.inside)


def _bounds_of(session: Session, planned: PlannedStack) -> _Bounds:
    wish = planned.wish
    circle = wish.circle if wish.mode is not Mode.SINGLE else _around(session, wish)
    inside = None if circle is None else frozenset(images_in_circle(session, circle))
    return _Bounds(wish.object_key, planned.plan.instrument, wish.filter, inside)


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

"""Stacks that are no longer what would be made today, as far as rows tell without judging each anew."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Select,
    TableValuedAlias,
    bindparam,
    case,
    column,
    false,
    func,
    literal,
    select,
    true,
    union,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from spica.db.selection import compile_rule
from spica.db.sky import ORDER, covering_ranges
from spica.db.tables.image import ImageRow, MeasureRow, SkyRangeRow
from spica.db.tables.job import PlanRow, SelectionMemberRow, SelectionRow
from spica.db.tables.mark import MarkRow
from spica.db.tables.product import StackInputRow
from spica.db.tables.quality import GradeRow, QualityRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.association import Circle, Mode
from spica.model.errors import RecipeError
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.selection import list_names, parse_rule

STACKS = (ImageKind.STACK, ImageKind.CALIBRATED)
STANDING = (ImageState.MADE, ImageState.DELIVERED)
COMING = (ImageState.PLANNED, ImageState.RUNNING)
MAX_CIRCLES = 2000
"""Stacks of circles, the newest, that are asked for new exposures; older ones are judged where they are looked at."""
MAX_RULES = 60
"""Different rules that are asked of new exposures; of further ones each new exposure counts as a change."""
Passes = Mapping[str, ColumnElement[bool]]
"""Conditions of rules on `ImageRow` and `MeasureRow`, by the rule's hash."""
OLD, NEW = aliased(GradeRow), aliased(GradeRow)
_MOMENT = func.max(QualityRow.created_at)
CANDIDATE = aliased(ImageRow)


@dataclass(frozen=True)
class StaleCandidate:
    """A stack that has most likely become stale: when the newest change was, and the plan that makes it again.

    `differs`: made today it would be another stack, as far as rows tell; else its exposures were judged again, and it
    would be the same. `again_id` is None where no plan that makes it again is under way.
    """

    stack_id: int
    changed_at: datetime
    differs: bool
    again_id: int | None


def stale_stacks(session: Session, ids: Sequence[int]) -> set[int]:
    """Return the stacks that rows say are stale: one statement.

    A judged quality or grade is no longer the one that counts; an input was marked, or a mark taken back, since; the
    saved rule has a newer version. Today's members of the rule are not evaluated here: `spica.scheduling.stale` does
    that for the stacks that somebody looks at, with the reasons in words.
    """
    if not ids:
        return set()
    return set(session.scalars(_statement(), {"ids": list(ids)}))


@functools.cache
def _statement() -> CompoundSelect[int]:
    """Return the statement, made once: it takes longer to write than to run."""
    ids: BindParameter[Any] = bindparam("ids", expanding=True)
    among = ImageRow.id.in_(ids)
    parts = [part.with_only_columns(ImageRow.id) for part in (_judged(), _marked(), _ruled())]
    return union(*(part.where(among) for part in parts))


def _judged() -> Select[int, datetime]:
    """Return stacks with a candidate whose judged grade or quality is not the one that counts, and since when."""
    return (
        select(ImageRow.id, PlanRow.created_at)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(SelectionMemberRow, SelectionMemberRow.selection_id == PlanRow.selection_id)
        .join(CANDIDATE, CANDIDATE.id == SelectionMemberRow.image_id)
        .where(
            _concerns(CANDIDATE),
            SelectionMemberRow.grade_id.is_distinct_from(CANDIDATE.grade_id)
            | SelectionMemberRow.quality_id.is_distinct_from(CANDIDATE.quality_id),
        )
    )


def _concerns(candidate: type[ImageRow]) -> ColumnElement[bool]:
    """Tell whether a candidate is an input of the stack, or of its object and filter: a selection makes many stacks."""
    given = select(StackInputRow.image_id).where(
        StackInputRow.stack_id == ImageRow.id, StackInputRow.image_id == candidate.id
    )
    same = (candidate.object_key == ImageRow.object_key) & (candidate.filter == ImageRow.filter)
    return same | given.correlate(ImageRow, candidate).exists()


def _marked() -> Select[Any]:
    """Return stacks of which an input got a mark that stands, or lost one that stood, since the plan."""
    drawn = (MarkRow.created_at > PlanRow.created_at) & MarkRow.withdrawn_at.is_(None)
    gone = (MarkRow.created_at <= PlanRow.created_at) & (MarkRow.withdrawn_at > PlanRow.created_at)
    return (
        select(ImageRow.id, func.greatest(MarkRow.created_at, MarkRow.withdrawn_at))
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(StackInputRow, StackInputRow.stack_id == ImageRow.id)
        .join(MarkRow, MarkRow.image_id == StackInputRow.image_id)
        .where(ImageRow.kind == ImageKind.STACK, drawn | gone)
    )


def _ruled() -> Select[int, datetime]:
    """Return stacks whose saved rule, not put away, says something else in its newest version."""
    used, newest = aliased(RuleVersionRow), aliased(RuleVersionRow)
    last = select(func.max(RuleVersionRow.number)).where(RuleVersionRow.rule_id == RuleRow.id)
    return (
        select(ImageRow.id, newest.created_at)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .join(used, used.id == SelectionRow.rule_version_id)
        .join(RuleRow, RuleRow.id == used.rule_id)
        .join(newest, (newest.rule_id == RuleRow.id) & (newest.number == last.correlate(RuleRow).scalar_subquery()))
        .where(RuleRow.retired_at.is_(None), newest.rule_sha256 != used.rule_sha256)
    )


# All of a survey ------------------------------------------------------------------------------------------------------


def stale_candidates(session: Session) -> list[StaleCandidate]:
    """Return the standing stacks that rows say are stale, or that a new exposure would join; the newest change first.

    Five statements at most, however many stacks. A new exposure counts where it passes the rule; whether its footprint
    connects, only judging the stack anew tells. Exposures beside a calibrated copy are looked for under its object.
    """
    standing = _standing()
    stacks = session.execute(select(standing)).all()
    if not stacks:
        return []
    passes = _passes({s.rule_sha256: s.rule for s in stacks})
    found: dict[int, tuple[datetime, bool]] = {}
    changes = [(i, at, differs) for i, at, differs in session.execute(_changes(standing, passes))]
    changes += [(i, at, True) for i, at in _joined(session, [s for s in stacks if s.mode is not Mode.AREA], passes)]
    changes += [(i, at, True) for i, at in _near(session, standing, stacks, passes)]
    for stack_id, at, differs in changes:
        known = found.get(stack_id, (at, False))
        found[stack_id] = (max(at, known[0]), differs or known[1])
    again = _again(session) if found else {}
    rows = [StaleCandidate(i, at, differs, again.get(i)) for i, (at, differs) in found.items()]
    return sorted(rows, key=lambda c: (c.changed_at, c.stack_id), reverse=True)


@functools.cache
def _standing() -> CTE:
    """Return the stacks that stand with what planned them, and the newest quality that they were judged by."""
    stack = aliased(ImageRow)
    last = select(SelectionMemberRow.selection_id, func.max(SelectionMemberRow.quality_id).label("quality_id"))
    newest = last.group_by(SelectionMemberRow.selection_id).subquery()
    return (
        select(
            stack.id,
            stack.object_key.label("own_key"),
            stack.filter.label("own_filter"),
            PlanRow.created_at.label("planned_at"),
            PlanRow.mode,
            PlanRow.object_key,
            PlanRow.instrument,
            PlanRow.filter,
            PlanRow.ra_deg,
            PlanRow.dec_deg,
            PlanRow.radius_deg,
            PlanRow.selection_id,
            SelectionRow.rule,
            SelectionRow.rule_sha256,
            func.coalesce(newest.c.quality_id, 0).label("last_quality_id"),
        )
        .join(PlanRow, PlanRow.id == stack.plan_id)
        .join(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .outerjoin(newest, newest.c.selection_id == PlanRow.selection_id)
        .where(stack.kind.in_(STACKS), stack.state.in_(STANDING))
        .cte("standing")
    )


def _changes(standing: CTE, passes: Passes) -> Select[Any]:
    """Return the statement for stacks: newest change of what was judged, and whether one makes it another stack."""
    own = ImageRow.id.in_(select(standing.c.id))
    marked, ruled = (part.where(own).add_columns(true()) for part in (_marked(), _ruled()))
    stack_id, at, differs = union_all(_judged_again(standing, passes), marked, ruled).subquery().c
    return select(stack_id, func.max(at), func.bool_or(differs)).group_by(stack_id)


def _judged_again(standing: CTE, passes: Passes) -> Select[Any]:
    """Return stacks with a candidate of which another grade or quality counts than was judged; see `_judged`.

    It is another stack where the candidate passes the rule now and did not, or the other way round, or where an input
    was measured anew.
    """
    member = SelectionMemberRow
    given = select(StackInputRow.image_id).where(
        StackInputRow.stack_id == standing.c.id, StackInputRow.image_id == ImageRow.id
    )
    inside = given.correlate(standing, ImageRow).exists()
    measured = member.quality_id.is_distinct_from(ImageRow.quality_id)
    usable = (ImageRow.state != ImageState.REJECTED) & ImageRow.quality_id.is_not(None)
    turned = _passed(standing.c.rule_sha256, passes, member.chosen.is_distinct_from(true()), lambda rule: usable & rule)
    at = func.greatest(
        standing.c.planned_at,
        case((OLD.id.is_distinct_from(NEW.id), func.greatest(NEW.created_at, OLD.withdrawn_at))),
        case((measured, QualityRow.created_at)),
    )
    query: Select[Any] = select(standing.c.id, at, turned.is_distinct_from(member.chosen) | (measured & inside))
    return (
        query.select_from(standing)
        .join(member, member.selection_id == standing.c.selection_id)
        .join(ImageRow, ImageRow.id == member.image_id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .outerjoin(OLD, OLD.id == member.grade_id)
        .outerjoin(NEW, NEW.id == ImageRow.grade_id)
        .outerjoin(QualityRow, QualityRow.id == ImageRow.quality_id)
        .where(
            member.grade_id.is_distinct_from(ImageRow.grade_id) | measured,
            ((ImageRow.object_key == standing.c.own_key) & (ImageRow.filter == standing.c.own_filter)) | inside,
        )
    )


def _passed(
    sha: ColumnElement[str], passes: Passes, unknown: ColumnElement[bool], when: Callable[[ColumnElement[bool]], Any]
) -> ColumnElement[bool]:
    """Return whether a candidate passes the rule of a hash beside it; `unknown` where that rule is not at hand."""
    cases = [(sha == one, when(rule)) for one, rule in passes.items()]
    return case(*cases, else_=unknown) if cases else unknown


def _joined(session: Session, stacks: Sequence[Any], passes: Passes) -> Iterator[tuple[int, datetime]]:
    """Yield stacks of whose object, camera and filter an exposure was assessed since that passes their rule.

    Exposures are counted once by group and rule, however many stacks the group has: one statement.
    """
    if not stacks:
        return
    of = (ImageRow.object_key, ImageRow.instrument, ImageRow.filter)
    rules = [*passes.values(), true()]
    newest = [column.filter(rule) for rule in rules for column in (func.max(QualityRow.id), _MOMENT)]
    since = min(s.last_quality_id for s in stacks)
    chosen: Any = select(*of, *newest)
    query = _assessed(chosen).where(QualityRow.id > since).group_by(*of)
    groups = {tuple(row[:3]): row[3:] for row in session.execute(query)}
    place = {sha: 2 * i for i, sha in enumerate(passes)}
    for s in stacks:
        group = groups.get((s.object_key, s.instrument, s.filter))
        at = place.get(s.rule_sha256, 2 * len(passes))
        if group is not None and (group[at] or 0) > s.last_quality_id:
            yield s.id, group[at + 1]


def _assessed(query: Select[Any]) -> Select[Any]:
    """Return a statement over usable exposures with the quality that counts and their measures."""
    return (
        query.select_from(QualityRow)
        .join(ImageRow, (ImageRow.id == QualityRow.image_id) & (ImageRow.quality_id == QualityRow.id))
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(
            QualityRow.parent_id.is_(None),
            ImageRow.kind == ImageKind.EXPOSURE,
            ImageRow.frame_type == FrameType.SCIENCE,
            ImageRow.state != ImageState.REJECTED,
        )
    )


def _passes(rules: Mapping[str, str]) -> dict[str, ColumnElement[bool]]:
    """Return the conditions of rules by their hash; those that ask for a list are not among them."""
    found: dict[str, ColumnElement[bool]] = {}
    for sha, text in sorted(rules.items())[:MAX_RULES]:
        try:
            rule = parse_rule(text)
        except RecipeError:
            continue
        if not list_names(rule):
            found[sha] = func.coalesce(compile_rule(rule), false())
    return found


def _near(session: Session, standing: CTE, stacks: Sequence[Any], passes: Passes) -> Iterator[tuple[int, datetime]]:
    """Yield stacks of circles with new exposures whose covering cells meet those of the circle: one statement."""
    newest = sorted((s for s in stacks if s.mode is Mode.AREA and s.radius_deg is not None), key=lambda s: -s.id)
    circles = {s.id: Circle(s.ra_deg, s.dec_deg, s.radius_deg) for s in newest[:MAX_CIRCLES]}
    if not circles:
        return
    cells, around = _cells(circles)
    within = select(cells.c.a.label("stack_id"), SkyRangeRow.image_id).join(
        SkyRangeRow, (SkyRangeRow.low >= cells.c.b) & (SkyRangeRow.low < cells.c.c)
    )
    holding = select(around.c.a, SkyRangeRow.image_id).join(
        SkyRangeRow, (SkyRangeRow.low == around.c.b) & (SkyRangeRow.high > around.c.c)
    )
    near = union(within, holding).subquery()
    judged = select(SelectionMemberRow.image_id).where(
        SelectionMemberRow.selection_id == standing.c.selection_id, SelectionMemberRow.image_id == ImageRow.id
    )
    query = _assessed(select(standing.c.id, _MOMENT)).join(near, near.c.image_id == ImageRow.id)
    query = query.join(standing, near.c.stack_id == standing.c.id).where(
        func.coalesce(ImageRow.instrument == standing.c.instrument, true()),
        func.coalesce(ImageRow.filter == standing.c.filter, true()),
        QualityRow.id > standing.c.last_quality_id,
        _passed(standing.c.rule_sha256, passes, true(), lambda rule: rule),
        ~judged.exists(),
    )
    yield from session.execute(query.group_by(standing.c.id)).all()


def _cells(circles: Mapping[int, Circle]) -> tuple[TableValuedAlias, TableValuedAlias]:
    """Return as tables the cells of circles (stack, low, high), and the cells around each (stack, low, low within)."""
    cells, around = [], set()
    for stack_id, circle in circles.items():
        for low, high in _ranges(circle):
            cells.append((stack_id, low, high))
            shifts = range((high - low).bit_length() - 1, 2 * ORDER + 1, 2)
            around |= {(stack_id, (low >> s) << s, low) for s in shifts}
    return _table(cells, "cell"), _table(sorted(around), "around")


def _table(rows: Sequence[tuple[int, int, int]], name: str) -> TableValuedAlias:
    keys = ARRAY(BigInteger)
    table = func.unnest(*(literal([row[i] for row in rows], keys) for i in range(3)))
    return table.table_valued(*(column(n, BigInteger) for n in "abc"), name=name).render_derived()


@functools.lru_cache(maxsize=MAX_CIRCLES)
def _ranges(circle: Circle) -> tuple[tuple[int, int], ...]:
    return tuple(covering_ranges(circle))


def _again(session: Session) -> dict[int, int]:
    """Return the newest plan under way that makes a stack again, by the stack's id."""
    coming, newer = aliased(ImageRow), aliased(PlanRow)
    query = (
        select(ImageRow.id, func.max(newer.id))
        .select_from(coming)
        .join(newer, newer.id == coming.plan_id)
        .join(ImageRow, ImageRow.plan_id == newer.supersedes_id)
        .where(
            coming.kind.in_(STACKS),
            coming.state.in_(COMING),
            newer.abandoned.is_(False),
            ImageRow.kind.in_(STACKS),
        )
        .group_by(ImageRow.id)
    )
    return dict(session.execute(query).all())

"""Why a stack is stale: what has changed since it was planned, in words, one reason a change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session, aliased

from spica.db.mark import marks_of_images
from spica.db.tables.image import ImageRow
from spica.db.tables.job import SelectionMemberRow
from spica.db.tables.quality import GradeRow, QualityRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.files.workspace import Workspace
from spica.model.association import Mode
from spica.model.errors import UsageError
from spica.model.mark import describe_marks
from spica.model.selection import format_rule, parse_rule
from spica.scheduling.today import PlannedStack, Today, judge_all, read_plans

MAX_REASONS = 300


@dataclass(frozen=True)
class StaleReason:
    """One change since a stack was planned.

    `code` is `rule`, `joins`, `leaves`, `grade`, `quality`, `mark_added` or `mark_withdrawn`; `image_id` is the
    exposure it concerns (None: the whole stack); `old` and `new` are what was judged then and what stands now.
    """

    code: str
    text: str
    image_id: int | None = None
    old: str = ""
    new: str = ""


@dataclass(frozen=True)
class StaleStack:
    """A stack that would be another one if it were made today.

    `gained` and `lost` are the exposures (id and name) that would join and leave; `n_members` those planned then.
    """

    id: int
    name: str
    kind: str
    object: str | None
    filter: str | None
    state: str
    plan_id: int
    n_members: int
    reasons: tuple[StaleReason, ...]
    gained: tuple[tuple[int, str], ...]
    lost: tuple[tuple[int, str], ...]


def stale_reasons(session: Session, workspace: Workspace, stack_id: int) -> list[StaleReason]:
    """Return what would be different if a stack were planned today, at most 300 reasons; none: it is not stale.

    About fifteen statements, whatever the number of exposures.

    Raises
    ------
    UsageError
        There is no such stack.
    """
    found = judge_stale(session, [stack_id]) if 0 < stack_id < 2**62 else {}
    if stack_id not in found and session.get(ImageRow, stack_id) is None:
        raise UsageError(f"there is no stack {stack_id}; see: spica stacks")
    return list(found[stack_id].reasons) if stack_id in found else []


def judge_stale(session: Session, stack_ids: Sequence[int]) -> dict[int, StaleStack]:
    """Judge stacks as things stand today, in the order given; one without reasons is not stale. See `judge_each`."""
    return {i: one.stale for i, one in judge_each(session, stack_ids).items()}


@dataclass(frozen=True)
class JudgedStack:
    """A stack as it was planned, as it would be today, and what lies between."""

    planned: PlannedStack
    today: Today
    stale: StaleStack


def judge_each(session: Session, stack_ids: Sequence[int]) -> dict[int, JudgedStack]:
    """Judge stacks as things stand today, in the order given.

    What is no stack, or was planned without a rule, is not among them. About twenty statements, however many stacks;
    three more for each that was planned by a circle, or for one exposure.
    """
    plans = read_plans(session, stack_ids)
    planned = [plans[i] for i in dict.fromkeys(stack_ids) if i in plans]
    if not planned:
        return {}
    today = judge_all(session, planned)
    facts = _read_facts(session, planned, today)
    return {p.stack.id: JudgedStack(p, today[p.stack.id], _stale(p, today[p.stack.id], facts)) for p in planned}


@dataclass(frozen=True)
class _Facts:
    """What the reasons of several stacks are told from: rows as they were judged, and as they are."""

    versions: Mapping[int, tuple[str, int]]
    names: Mapping[int, str]
    before: Mapping[tuple[int, int], SelectionMemberRow]
    changed: Mapping[int, Sequence[_Changed]]
    standing: Mapping[int, frozenset[int]]


@dataclass(frozen=True)
class _Changed:
    """A candidate of which another grade or quality counts than was judged."""

    image_id: int
    name: str
    object_key: str | None
    filter: str | None
    grade: GradeRow | None
    grade_now: GradeRow | None
    quality: QualityRow | None
    quality_now: QualityRow | None


def _read_facts(session: Session, planned: Sequence[PlannedStack], today: Mapping[int, Today]) -> _Facts:
    members = sorted({i for p in planned for i in p.members})
    standing = {i: frozenset(m.id for m in marks) for i, marks in marks_of_images(session, members).items()}
    versions = [p.wish.rule_version_id for p in planned if p.wish.rule_version_id and p.rule != _spelled(p)]
    return _Facts(
        _versions(session, versions),
        dict(_names(session, members)),
        _judged_before(session, planned, today),
        _changed(session, planned),
        standing,
    )


def _stale(planned: PlannedStack, today: Today, facts: _Facts) -> StaleStack:
    now = {c.image_id: c.name for c in today.chosen}
    gone = sorted(planned.members - now.keys())
    reasons = [
        *_rule(planned, facts),
        *_members(planned, today, facts),
        *_judged(planned, today, facts),
        *(_marks(planned, facts) if planned.plan.mode is not Mode.SINGLE else ()),
    ]
    stack = planned.stack
    return StaleStack(
        stack.id,
        stack.name,
        stack.kind.value,
        stack.object,
        stack.filter,
        stack.state.value,
        planned.plan.id,
        len(planned.members),
        tuple(reasons[:MAX_REASONS]),
        tuple((i, now[i]) for i in sorted(now.keys() - planned.members)),
        tuple((i, facts.names.get(i, str(i))) for i in gone),
    )


def _spelled(planned: PlannedStack) -> str:
    return format_rule(parse_rule(planned.wish.rule))


def _versions(session: Session, version_ids: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Return name and number of versions of saved rules."""
    query = (
        select(RuleVersionRow.id, RuleRow.name, RuleVersionRow.number)
        .join(RuleRow, RuleVersionRow.rule_id == RuleRow.id)
        .where(RuleVersionRow.id.in_(version_ids))
    )
    return {i: (name, number) for i, name, number in session.execute(query)} if version_ids else {}


def _judged_before(
    session: Session, planned: Sequence[PlannedStack], today: Mapping[int, Today]
) -> dict[tuple[int, int], SelectionMemberRow]:
    """Return how those who would join were judged then, by stack and exposure."""
    joining = {p.stack.id: {c.image_id for c in today[p.stack.id].chosen} - p.members for p in planned}
    wanted = [(p.plan.selection_id, i) for p in planned for i in sorted(joining[p.stack.id])]
    pairs = tuple_(SelectionMemberRow.selection_id, SelectionMemberRow.image_id).in_(wanted)
    rows = session.scalars(select(SelectionMemberRow).where(pairs)) if wanted else ()
    found = {(m.selection_id, m.image_id): m for m in rows}
    return {
        (p.stack.id, i): found[p.plan.selection_id or 0, i]
        for p in planned
        for i in joining[p.stack.id]
        if (p.plan.selection_id, i) in found
    }


def _changed(session: Session, planned: Sequence[PlannedStack]) -> dict[int, list[_Changed]]:
    """Return whose judged grade or quality is no longer the one that counts, by selection."""
    old_grade, new_grade = aliased(GradeRow), aliased(GradeRow)
    old_quality, new_quality = aliased(QualityRow), aliased(QualityRow)
    among = sorted({i for p in planned for i in p.members})
    of = sorted({(p.stack.object_key or "", p.stack.filter or "") for p in planned})
    query = (
        select(
            SelectionMemberRow.selection_id, ImageRow.id, ImageRow.name, ImageRow.object_key, ImageRow.filter,
            old_grade, new_grade, old_quality, new_quality,
        )
        .join(SelectionMemberRow, SelectionMemberRow.image_id == ImageRow.id)
        .outerjoin(old_grade, old_grade.id == SelectionMemberRow.grade_id)
        .outerjoin(new_grade, new_grade.id == ImageRow.grade_id)
        .outerjoin(old_quality, old_quality.id == SelectionMemberRow.quality_id)
        .outerjoin(new_quality, new_quality.id == ImageRow.quality_id)
        .where(
            SelectionMemberRow.selection_id.in_({p.plan.selection_id for p in planned}),
            tuple_(ImageRow.object_key, ImageRow.filter).in_(of) | ImageRow.id.in_(among),
            SelectionMemberRow.grade_id.is_distinct_from(ImageRow.grade_id)
            | SelectionMemberRow.quality_id.is_distinct_from(ImageRow.quality_id),
        )
        .order_by(ImageRow.id)
        .limit(MAX_REASONS * len(planned))
    )  # fmt: skip
    found: dict[int, list[_Changed]] = defaultdict(list)
    for selection_id, *values in session.execute(query).all():
        found[selection_id].append(_Changed(*values))  # type: ignore[arg-type]
    return found


def _rule(planned: PlannedStack, facts: _Facts) -> Iterator[StaleReason]:
    old, new = planned.rule, _spelled(planned)
    if old != new:
        name, number = facts.versions[planned.wish.rule_version_id or 0]
        yield StaleReason("rule", f"rule {name} has version {number} since: {new}; it was {old}", None, old, new)


def _members(planned: PlannedStack, today: Today, facts: _Facts) -> Iterator[StaleReason]:
    """Tell who would leave and who would join."""
    now = {c.image_id: c.name for c in today.chosen}
    out = {int(o["id"]): o for o in today.left_out}
    for image_id in sorted(planned.members - now.keys()):
        o = out.get(image_id)
        why = f"{o['clause']}" + (f" ({o['value']})" if o["value"] else "") if o else "it is no candidate any more"
        name = facts.names.get(image_id, image_id)
        yield StaleReason("leaves", f"{name} would not be in it: {why}", image_id, "in", why)
    for image_id in sorted(now.keys() - planned.members):
        m = facts.before.get((planned.stack.id, image_id))
        if m is None:
            was = "it was not there when this was planned"
        elif m.chosen:
            was = "it belonged to another group"
        else:
            was = f"it was out by {m.clause} ({m.value})"
        yield StaleReason("joins", f"{now[image_id]} would be in it now; {was}", image_id, was, "in")


def _names(session: Session, ids: list[int]) -> list[tuple[int, str]]:
    query = select(ImageRow.id, ImageRow.name).where(ImageRow.id.in_(ids))
    return [(i, name) for i, name in session.execute(query)] if ids else []


def _judged(planned: PlannedStack, today: Today, facts: _Facts) -> Iterator[StaleReason]:
    """Tell whose judged grade or quality is no longer the one that counts."""
    inside = {c.image_id for c in today.chosen} | planned.members
    own = (planned.stack.object_key, planned.stack.filter)
    for c in facts.changed.get(planned.plan.selection_id or 0, ()):
        if c.image_id not in planned.members and (None in own or (c.object_key, c.filter) != own):
            continue
        stays = "" if c.image_id in inside else "; it stays out"
        if _id(c.grade) != _id(c.grade_now):
            yield _grade(c.image_id, c.name, c.grade, c.grade_now, stays)
        if _id(c.quality) != _id(c.quality_now):
            yield _quality(c.image_id, c.name, c.quality, c.quality_now, stays)


def _id(row: GradeRow | QualityRow | None) -> int | None:
    return None if row is None else row.id


def _grade(image_id: int, name: str, old: GradeRow | None, new: GradeRow | None, stays: str) -> StaleReason:
    was, now = (g.grade.value if g else "none" for g in (old, new))
    if was != now:
        text = f"grade of {name} changed from {was} to {now} after this stack"
    else:
        by = "a person" if new and new.source.value == "human" else "the machine"
        text = f"grade of {name} was given again by {by}: still {now}"
    return StaleReason("grade", text + stays, image_id, was, now)


def _quality(image_id: int, name: str, old: QualityRow | None, new: QualityRow | None, stays: str) -> StaleReason:
    was, now = (f"{q.seeing_arcsec:.2f}" if q and q.seeing_arcsec is not None else "unknown" for q in (old, new))
    seen = f"seeing {now} arcsec" + ("" if was == now else f", it was {was}")
    return StaleReason("quality", f"{name} was assessed again after this stack: {seen}{stays}", image_id, was, now)


def _marks(planned: PlannedStack, facts: _Facts) -> Iterator[StaleReason]:
    for image_id in sorted(planned.members):
        now, was = facts.standing.get(image_id, frozenset()), planned.marks.get(image_id, frozenset())
        added, gone = sorted(now - was), sorted(was - now)
        told = (" ".join(map(str, sorted(was))), " ".join(map(str, sorted(now))))
        name = facts.names.get(image_id, image_id)
        if added:
            text = f"{describe_marks(added)} drawn on {name} after this stack"
            yield StaleReason("mark_added", text, image_id, *told)
        if gone:
            text = f"{describe_marks(gone)} on {name}, heeded by this stack, taken back"
            yield StaleReason("mark_withdrawn", text, image_id, *told)

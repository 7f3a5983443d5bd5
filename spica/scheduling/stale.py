"""Why a stack is stale: what has changed since it was planned, in words, one reason a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
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
from spica.scheduling.restack import PlannedStack, Today, judge_today, read_planned

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


def stale_reasons(session: Session, workspace: Workspace, stack_id: int) -> list[StaleReason]:
    """Return what would be different if a stack were planned today, at most 300 reasons; none: it is not stale.

    About fifteen statements, whatever the number of exposures.

    Raises
    ------
    UsageError
        There is no such stack.
    """
    try:
        planned = read_planned(session, stack_id)
    except UsageError:
        if session.get(ImageRow, stack_id) is None:
            raise
        return []
    today = judge_today(session, planned)
    reasons = [
        *_rule(session, planned),
        *_members(session, planned, today),
        *_judged(session, planned, today),
        *(_marks(session, planned) if planned.plan.mode is not Mode.SINGLE else ()),
    ]
    return reasons[:MAX_REASONS]


def _rule(session: Session, planned: PlannedStack) -> Iterator[StaleReason]:
    old, new = planned.rule, format_rule(parse_rule(planned.wish.rule))
    if old == new:
        return
    query = (
        select(RuleRow.name, RuleVersionRow.number)
        .join(RuleVersionRow, RuleVersionRow.rule_id == RuleRow.id)
        .where(RuleVersionRow.id == planned.wish.rule_version_id)
    )
    name, number = session.execute(query).one()
    yield StaleReason("rule", f"rule {name} has version {number} since: {new}; it was {old}", None, old, new)


def _members(session: Session, planned: PlannedStack, today: Today) -> Iterator[StaleReason]:
    """Tell who would leave and who would join."""
    now = {c.image_id: c.name for c in today.chosen}
    out = {int(o["id"]): o for o in today.left_out}
    gone = sorted(planned.members - now.keys())
    names = dict(_names(session, gone))
    for image_id in gone:
        o = out.get(image_id)
        why = f"{o['clause']}" + (f" ({o['value']})" if o["value"] else "") if o else "it is no candidate any more"
        yield StaleReason("leaves", f"{names.get(image_id, image_id)} would not be in it: {why}", image_id, "in", why)
    before = {
        m.image_id: m
        for m in session.scalars(
            select(SelectionMemberRow).where(
                SelectionMemberRow.selection_id == planned.plan.selection_id,
                SelectionMemberRow.image_id.in_(sorted(now.keys() - planned.members)),
            )
        )
    }
    for image_id in sorted(now.keys() - planned.members):
        m = before.get(image_id)
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


def _judged(session: Session, planned: PlannedStack, today: Today) -> Iterator[StaleReason]:
    """Tell whose judged grade or quality is no longer the one that counts."""
    old_grade, new_grade = aliased(GradeRow), aliased(GradeRow)
    old_quality, new_quality = aliased(QualityRow), aliased(QualityRow)
    same = (ImageRow.object_key == planned.stack.object_key) & (ImageRow.filter == planned.stack.filter)
    query = (
        select(ImageRow.id, ImageRow.name, old_grade, new_grade, old_quality, new_quality)
        .join(SelectionMemberRow, SelectionMemberRow.image_id == ImageRow.id)
        .outerjoin(old_grade, old_grade.id == SelectionMemberRow.grade_id)
        .outerjoin(new_grade, new_grade.id == ImageRow.grade_id)
        .outerjoin(old_quality, old_quality.id == SelectionMemberRow.quality_id)
        .outerjoin(new_quality, new_quality.id == ImageRow.quality_id)
        .where(
            SelectionMemberRow.selection_id == planned.plan.selection_id,
            same | ImageRow.id.in_(sorted(planned.members)),
            SelectionMemberRow.grade_id.is_distinct_from(ImageRow.grade_id)
            | SelectionMemberRow.quality_id.is_distinct_from(ImageRow.quality_id),
        )
        .order_by(ImageRow.id)
        .limit(MAX_REASONS)
    )
    inside = {c.image_id for c in today.chosen}
    for image_id, name, grade, grade_now, quality, quality_now in session.execute(query):
        stays = "" if image_id in inside or image_id in planned.members else "; it stays out"
        if (grade.id if grade else None) != (grade_now.id if grade_now else None):
            yield _grade(image_id, name, grade, grade_now, stays)
        if (quality.id if quality else None) != (quality_now.id if quality_now else None):
            yield _quality(image_id, name, quality, quality_now, stays)


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


def _marks(session: Session, planned: PlannedStack) -> Iterator[StaleReason]:
    standing = {
        i: frozenset(m.id for m in marks) for i, marks in marks_of_images(session, sorted(planned.members)).items()
    }
    changed = [i for i in sorted(planned.members) if standing.get(i, frozenset()) != planned.marks.get(i, frozenset())]
    names = dict(_names(session, changed))
    for image_id in changed:
        now, was = standing.get(image_id, frozenset()), planned.marks.get(image_id, frozenset())
        added, gone = sorted(now - was), sorted(was - now)
        told = (" ".join(map(str, sorted(was))), " ".join(map(str, sorted(now))))
        if added:
            text = f"{describe_marks(added)} drawn on {names[image_id]} after this stack"
            yield StaleReason("mark_added", text, image_id, *told)
        if gone:
            text = f"{describe_marks(gone)} on {names[image_id]}, heeded by this stack, taken back"
            yield StaleReason("mark_withdrawn", text, image_id, *told)

"""Stacks that are no longer what would be made today, as far as rows tell without judging anew."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, CompoundSelect, Select, bindparam, func, select, union
from sqlalchemy.orm import Session, aliased

from spica.db.tables.image import ImageRow
from spica.db.tables.job import PlanRow, SelectionMemberRow, SelectionRow
from spica.db.tables.mark import MarkRow
from spica.db.tables.product import StackInputRow
from spica.db.tables.rule import RuleRow, RuleVersionRow
from spica.model.image import ImageKind


def stale_stacks(session: Session, ids: Sequence[int]) -> set[int]:
    """Return the stacks that rows say are stale: one statement.

    A judged quality or grade is no longer the one that counts; an input was marked, or a mark taken back, since; the
    saved rule has a newer version. Today's members of the rule are not evaluated here: `spica.scheduling.restack` does
    that for one stack, with the reasons in words.
    """
    if not ids:
        return set()
    return set(session.scalars(_statement(), {"ids": list(ids)}))


@functools.cache
def _statement() -> CompoundSelect[int]:
    """Return the statement, made once: it takes longer to write than to run."""
    ids: BindParameter[Any] = bindparam("ids", expanding=True)
    return union(_judged(ids), _marked(ids), _ruled(ids))


def _judged(ids: BindParameter[Any]) -> Select[int]:
    candidate = aliased(ImageRow)
    return (
        select(ImageRow.id)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(SelectionMemberRow, SelectionMemberRow.selection_id == PlanRow.selection_id)
        .join(candidate, candidate.id == SelectionMemberRow.image_id)
        .where(
            ImageRow.id.in_(ids),
            _concerns(candidate),
            SelectionMemberRow.grade_id.is_distinct_from(candidate.grade_id)
            | SelectionMemberRow.quality_id.is_distinct_from(candidate.quality_id),
        )
    )


def _concerns(candidate: type[ImageRow]) -> ColumnElement[bool]:
    """Tell whether a candidate is an input of the stack, or of its object and filter: a selection makes many stacks."""
    given = select(StackInputRow.image_id).where(
        StackInputRow.stack_id == ImageRow.id, StackInputRow.image_id == candidate.id
    )
    same = (candidate.object_key == ImageRow.object_key) & (candidate.filter == ImageRow.filter)
    return given.correlate(ImageRow, candidate).exists() | same


def _marked(ids: BindParameter[Any]) -> Select[int]:
    """Return stacks of which an input got a mark that stands, or lost one that stood, since the plan."""
    drawn = (MarkRow.created_at > PlanRow.created_at) & MarkRow.withdrawn_at.is_(None)
    gone = (MarkRow.created_at <= PlanRow.created_at) & (MarkRow.withdrawn_at > PlanRow.created_at)
    return (
        select(ImageRow.id)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(StackInputRow, StackInputRow.stack_id == ImageRow.id)
        .join(MarkRow, MarkRow.image_id == StackInputRow.image_id)
        .where(ImageRow.id.in_(ids), ImageRow.kind == ImageKind.STACK, drawn | gone)
    )


def _ruled(ids: BindParameter[Any]) -> Select[int]:
    """Return stacks whose saved rule, not put away, says something else in its newest version."""
    used, newest = aliased(RuleVersionRow), aliased(RuleVersionRow)
    last = select(func.max(RuleVersionRow.number)).where(RuleVersionRow.rule_id == RuleRow.id)
    return (
        select(ImageRow.id)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .join(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .join(used, used.id == SelectionRow.rule_version_id)
        .join(RuleRow, RuleRow.id == used.rule_id)
        .join(newest, (newest.rule_id == RuleRow.id) & (newest.number == last.correlate(RuleRow).scalar_subquery()))
        .where(ImageRow.id.in_(ids), RuleRow.retired_at.is_(None), newest.rule_sha256 != used.rule_sha256)
    )

"""Why an image is, or is not, in a stack: the clause of the rule, the outcome of the steps."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Select, bindparam, select
from sqlalchemy.orm import Session

from spica.db.tables.image import ImageRow
from spica.db.tables.job import PlanRow, SelectionMemberRow, SelectionRow
from spica.db.tables.product import StackInputRow
from spica.model.association import Mode
from spica.model.image import ImageKind
from spica.model.job import Outcome


@dataclass(frozen=True)
class Why:
    """One answer: the stack and its state, whether the image is in it, and what decided; its share of the weight."""

    image: str
    stack: str
    stack_id: int
    used: bool
    clause: str | None
    value: str | None
    sentence: str
    state: str = ""
    weight_fraction: float | None = None
    image_id: int = 0

    @property
    def pending(self) -> bool:
        """Whether it was chosen for a stack that is not made yet."""
        return not self.used and self.clause is None and self.state in ("planned", "running")

    @property
    def words(self) -> str:
        """What decided, without the name of the image."""
        return self.sentence.partition(": ")[2]


def why_image(session: Session, image_id: int, stack_id: int | None = None, limit: int | None = None) -> list[Why]:
    """Return an answer for every stack (or the one named) of whose selection or inputs the image was a candidate.

    With a `limit` the newest so many, newest first; else all, by id.
    """
    image = session.get_one(ImageRow, image_id)
    asked = {"image": image_id, "stack": stack_id, "object": image.object_key, "filter": image.filter}
    query = _asked_said(of_one=stack_id is not None, newest_first=limit is not None).limit(limit)
    return [
        _answer(image, stack, member, given, rule, _differences(image, stack, mode))
        for stack, member, given, rule, mode in session.execute(query, asked)
    ]


@functools.cache
def _asked_said(*, of_one: bool, newest_first: bool) -> Select[*tuple[Any, ...]]:
    """Return the stacks that concern an `image`, or the one named, with what their plans say of it."""
    image_id: BindParameter[int] = bindparam("image")
    given = (StackInputRow.stack_id == ImageRow.id) & (StackInputRow.image_id == image_id)
    member = (SelectionMemberRow.selection_id == PlanRow.selection_id) & (SelectionMemberRow.image_id == image_id)
    same = (ImageRow.object_key == bindparam("object")) & (ImageRow.filter == bindparam("filter"))
    concerned = SelectionMemberRow.image_id.is_not(None) & (same | StackInputRow.image_id.is_not(None))
    return (
        select(ImageRow, SelectionMemberRow, StackInputRow, SelectionRow.rule, PlanRow.mode)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .outerjoin(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .outerjoin(SelectionMemberRow, member)
        .outerjoin(StackInputRow, given)
        .where(ImageRow.kind != ImageKind.EXPOSURE, ImageRow.id == bindparam("stack") if of_one else concerned)
        .order_by(ImageRow.id.desc() if newest_first else ImageRow.id)
    )


def _differences(image: ImageRow, stack: ImageRow, mode: Mode) -> str:
    """Return by what an image can belong to no stack like this one, in words; empty where by nothing."""
    pairs = [("filter", image.filter, stack.filter), ("camera", image.instrument, stack.instrument)]
    if mode is not Mode.AREA:
        pairs.append(("object", image.object_key, stack.object_key))
    return " and ".join(noun for noun, here, there in pairs if here != there)


def _answer(
    image: ImageRow,
    stack: ImageRow,
    member: SelectionMemberRow | None,
    given: StackInputRow | None,
    rule: str | None,
    differences: str,
) -> Why:
    used, clause, value, words = _judge(stack, member, given, rule, differences)
    sentence = f"{image.name} is {'' if used else 'not '}in {stack.name}: {words}"
    share = None if given is None else given.weight_fraction
    return Why(image.name, stack.name, stack.id, used, clause, value, sentence, stack.state.value, share, image.id)


def _judge(
    stack: ImageRow,
    member: SelectionMemberRow | None,
    given: StackInputRow | None,
    rule: str | None,
    differences: str,
) -> tuple[bool, str | None, str | None, str]:
    if given is not None:
        if given.outcome is Outcome.LEFT_OUT:
            return False, given.code, None, f"chosen by the rule, left out by a step: {given.text}"
        if given.outcome is None:
            return False, None, None, f"chosen by the rule; the stack is {stack.state.value}"
        share = "" if given.weight_fraction is None else f", {100 * given.weight_fraction:.1f} % of the weight"
        return True, None, None, f"chosen by {rule}{share}"
    if member is None:
        why = f"it has another {differences}" if differences else "it was not there, or outside, when this was planned"
        return False, None, None, f"it was no candidate: {why}"
    if not member.chosen:
        return False, member.clause, member.value, f"{member.clause} ({member.value})"
    return False, None, None, "the rule holds, but it belongs to another group: its footprint does not connect"

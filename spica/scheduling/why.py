"""Why an image is, or is not, in a stack: the clause of the rule, the outcome of the steps."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
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
    query = (
        select(ImageRow, SelectionMemberRow, StackInputRow, SelectionRow.rule, PlanRow.mode)
        .join(PlanRow, PlanRow.id == ImageRow.plan_id)
        .outerjoin(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .outerjoin(
            SelectionMemberRow,
            (SelectionMemberRow.selection_id == PlanRow.selection_id) & (SelectionMemberRow.image_id == image_id),
        )
        .outerjoin(StackInputRow, (StackInputRow.stack_id == ImageRow.id) & (StackInputRow.image_id == image_id))
        .where(ImageRow.kind != ImageKind.EXPOSURE, _concerned(image, stack_id))
        .order_by(ImageRow.id if limit is None else ImageRow.id.desc())
        .limit(limit)
    )
    return [
        _answer(image, stack, member, given, rule, _differences(image, stack, mode))
        for stack, member, given, rule, mode in session.execute(query)
    ]


def _differences(image: ImageRow, stack: ImageRow, mode: Mode) -> str:
    """Return by what an image can belong to no stack like this one, in words; empty where by nothing."""
    pairs = [("filter", image.filter, stack.filter), ("camera", image.instrument, stack.instrument)]
    if mode is not Mode.AREA:
        pairs.append(("object", image.object_key, stack.object_key))
    return " and ".join(noun for noun, here, there in pairs if here != there)


def _concerned(image: ImageRow, stack_id: int | None):  # type: ignore[no-untyped-def]
    if stack_id is not None:
        return ImageRow.id == stack_id
    same = (ImageRow.object_key == image.object_key) & (ImageRow.filter == image.filter)
    return SelectionMemberRow.image_id.is_not(None) & (same | StackInputRow.image_id.is_not(None))


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

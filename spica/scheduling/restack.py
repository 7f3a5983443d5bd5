"""A stack made again: what its plan asked for, judged as things stand today, in a plan that replaces the old one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.person import audit
from spica.db.plan import know_recipe, product_of, standing_plan
from spica.db.selection import record_selection
from spica.db.tables.image import ImageRow
from spica.db.tables.job import PlanRow
from spica.db.tables.product import StackRow
from spica.files.workspace import Workspace
from spica.model.association import Association
from spica.model.errors import ConflictError, NothingToDoError, SpicaError, UsageError
from spica.model.image import ImageState
from spica.scheduling.field import find_reference
from spica.scheduling.plan import Member, product_hash
from spica.scheduling.select import Planned, Scheduled, judged_for, label_of, plan_association, read_members
from spica.scheduling.stale import JudgedStack, StaleStack, judge_each
from spica.scheduling.today import PlannedStack, Today, judge_today, read_planned

Outcome = Literal["planned", "known", "refused"]
MADE_OR_DEAD = (ImageState.MADE, ImageState.DELIVERED, ImageState.FAILED)


@dataclass(frozen=True)
class Restacked:
    """What came, or would come, of planning one stack again.

    `planned`: a plan replaces the old one (`plan_id`, `image_id` and `jobs` once it is made); `known`: that plan stands
    already; `refused`: it cannot be, and `why` says so (`kind`: class of the error). `stale` is what changed; None: it
    is no stack, or none that was planned by a rule.
    """

    stack_id: int
    name: str
    outcome: Outcome
    stale: StaleStack | None = None
    label: str = ""
    members: tuple[int, ...] = ()
    plan_id: int | None = None
    image_id: int | None = None
    jobs: tuple[int, ...] = ()
    why: str = ""
    kind: str = ""

    @property
    def sentence(self) -> str:
        """The outcome for people."""
        if self.outcome == "refused":
            return self.why
        if self.outcome == "known":
            return f"plan {self.plan_id} makes or made what it would be today; nothing is done twice"
        told = [plural(len(self.members), "exposure")]
        if self.stale is not None:
            gained, lost = len(self.stale.gained), len(self.stale.lost)
            told += [f"{gained} {'joins' if gained == 1 else 'join'}"] if gained else []
            told += [f"{lost} {'leaves' if lost == 1 else 'leave'}"] if lost else []
        if self.plan_id is None:
            return f"would be planned as {self.label}: {', '.join(told)}"
        return f"planned as {self.label}: {', '.join(told)}; plan {self.plan_id}, {plural(len(self.jobs), 'job')}"


def plural(n: int, one: str) -> str:
    """Return a number with its noun."""
    return f"{n} {one}" if n == 1 else f"{n} {one}s"


def foretell_each(session: Session, stack_ids: Sequence[int]) -> list[Restacked]:
    """Return what planning each of some stacks again would do, in the order given: nothing is recorded.

    About forty statements, however many stacks; three more for each that was planned by a circle or for one exposure.
    """
    judged = judge_each(session, stack_ids)
    superseded = select(StackRow.image_id, StackRow.superseded_by_id).where(StackRow.image_id.in_(stack_ids))
    newer = dict(session.execute(superseded).all())
    groups = {i: one.today.association for i, one in judged.items()}
    members = _members_of([a for a in groups.values() if a is not None], session)
    keys = {
        i: product_hash(a, tuple(members[m] for m in a.image_ids), judged[i].planned.recipe)
        for i, a in groups.items()
        if a is not None
    }
    query = select(PlanRow.product_hash, PlanRow.id).where(
        PlanRow.product_hash.in_(keys.values()), PlanRow.abandoned.is_(False)
    )
    standing = {key: plan_id for key, plan_id in session.execute(query) if key is not None} if keys else {}
    found = []
    for i in dict.fromkeys(stack_ids):
        if i in judged:
            found.append(_foretold(judged[i], newer.get(i), standing.get(keys.get(i, ""))))
        else:
            found.append(Restacked(i, str(i), "refused", why=_NO_RULE, kind=UsageError.kind))
    return found


_NO_RULE = "it is no stack that was planned by a rule; plan it by: spica schedule"


def _members_of(associations: Sequence[Association], session: Session) -> dict[int, Member]:
    """Return the exposures of several associations as their jobs would read them, by id."""
    ids = sorted({i for a in associations for i in a.image_ids})
    return {m.image_id: m for m in read_members(session, replace(associations[0], image_ids=tuple(ids)))} if ids else {}


def _foretold(judged: JudgedStack, newer: int | None, standing: int | None) -> Restacked:
    planned, association = judged.planned, judged.today.association
    stack, stale = planned.stack, judged.stale
    try:
        _check_state(stack, newer)
        if association is None:
            raise NothingToDoError(_nobody(planned, judged.today))
    except (ConflictError, NothingToDoError) as trouble:
        return Restacked(stack.id, stack.name, "refused", stale, why=str(trouble), kind=trouble.kind)
    label = label_of(association, {c.image_id: c for c in judged.today.chosen})
    if standing is None or (stack.state is ImageState.FAILED and standing == planned.plan.id):
        return Restacked(stack.id, stack.name, "planned", stale, label, association.image_ids)
    return Restacked(stack.id, stack.name, "known", stale, label, association.image_ids, standing)


def restack_each(
    database: Database, workspace: Workspace, stack_ids: Sequence[int], *, person_id: int | None = None
) -> Iterator[Restacked]:
    """Plan stacks again, in the order given, one transaction a stack: what is refused keeps no other one back."""
    for stack_id in dict.fromkeys(stack_ids):
        with database.read() as session:
            (told,) = foretell_each(session, [stack_id])
        if told.outcome == "planned":
            try:
                done = restack(database, workspace, stack_id, person_id=person_id)
            except SpicaError as trouble:
                told = replace(told, outcome="refused", why=str(trouble), kind=trouble.kind)
            else:
                told = _recorded(told, done)
        yield told


def _recorded(told: Restacked, done: Scheduled) -> Restacked:
    made = (done.plans or done.known)[0]
    return replace(
        told,
        outcome="planned" if done.plans else "known",
        label=made.label,
        members=made.members,
        plan_id=made.plan,
        image_id=made.image,
        jobs=made.jobs,
    )


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
        audit(session, person_id, "restack", f"image:{stack_id}", f"plan {done.plans[0].plan}")
    return done


def _check_standing(session: Session, stack: ImageRow) -> None:
    _check_state(stack, session.scalar(select(StackRow.superseded_by_id).where(StackRow.image_id == stack.id)))


def _check_state(stack: ImageRow, newer: int | None) -> None:
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

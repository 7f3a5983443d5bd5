"""Recipes and plans: what was decided, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.person import audit
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow, SelectionRow
from spica.db.tables.product import StackInputRow
from spica.model.association import Association, Circle, Mode
from spica.model.image import ImageKind, ImageState
from spica.model.job import DEAD, ENDED
from spica.model.recipe import Recipe
from spica.model.record import canonical

MADE = (ImageState.MADE, ImageState.DELIVERED)


@dataclass(frozen=True)
class Candidate:
    """What a plan pins of one exposure: the content, and the quality and solution that were judged."""

    image_id: int
    sha256: str
    quality_id: int | None


def know_recipe(session: Session, recipe: Recipe) -> int:
    """Return the id of a frozen recipe, kept once by its hash."""
    statement = insert(RecipeRow).values(sha256=recipe.sha256(), name=recipe.name, parameters=canonical(recipe))
    session.execute(statement.on_conflict_do_nothing(index_elements=[RecipeRow.sha256]))
    return session.scalars(select(RecipeRow.id).where(RecipeRow.sha256 == recipe.sha256())).one()


def add_plan(
    session: Session,
    *,
    mode: Mode,
    label: str,
    association: Association | None = None,
    circle: Circle | None = None,
    recipe_id: int | None = None,
    selection_id: int | None = None,
    product_hash: str | None = None,
    supersedes_id: int | None = None,
    person_id: int | None = None,
) -> int:
    """Add one plan, put it on record, and return its id."""
    row = PlanRow(
        mode=mode,
        label=label,
        object_key=association.object_key if association else None,
        instrument=association.instrument if association else None,
        filter=association.filter if association else None,
        ra_deg=circle.ra_deg if circle else None,
        dec_deg=circle.dec_deg if circle else None,
        radius_deg=circle.radius_deg if circle else None,
        recipe_id=recipe_id,
        selection_id=selection_id,
        product_hash=product_hash,
        supersedes_id=supersedes_id,
        person_id=person_id,
    )
    session.add(row)
    session.flush()
    audit(session, person_id, "plan", f"plan:{row.id}", mode.value)
    return row.id


def pinned(session: Session, image_ids: Sequence[int]) -> list[Candidate]:
    """Return content and quality of exposures, by image id."""
    query = (
        select(ImageRow.id, FileRow.sha256, ImageRow.quality_id)
        .join(FileRow, FileRow.id == ImageRow.file_id)
        .where(ImageRow.id.in_(image_ids))
        .order_by(ImageRow.id)
    )
    return [Candidate(i, s, q) for i, s, q in session.execute(query)]


def standing_plan(session: Session, product_hash: str) -> PlanRow | None:
    """Return the plan that makes or made this very product; one whose jobs died no longer stands."""
    query = select(PlanRow).where(PlanRow.product_hash == product_hash, PlanRow.abandoned.is_(False)).with_for_update()
    plan = session.scalar(query)
    if plan is None:
        return None
    states = set(session.scalars(select(JobRow.state).where(JobRow.plan_id == plan.id)))
    if states <= ENDED and states & DEAD:
        session.execute(update(PlanRow).where(PlanRow.id == plan.id).values(abandoned=True))
        return None
    return plan


def product_of(session: Session, plan_id: int) -> ImageRow | None:
    """Return the stack or calibrated copy of a plan."""
    query = select(ImageRow).where(ImageRow.plan_id == plan_id, ImageRow.kind != ImageKind.EXPOSURE)
    return session.scalar(query.order_by(ImageRow.id).limit(1))


def replaced_plan(
    session: Session, association: Association, rule_sha256: str, recipe_id: int, supersedable: Sequence[int]
) -> PlanRow | None:
    """Return the newest plan that a new one of the same association, rule and recipe would replace.

    It must have made its product from at least one of the given exposures: two fields of one name stay apart.
    """
    stack = select(ImageRow.id).where(ImageRow.plan_id == PlanRow.id, ImageRow.state.in_(MADE))
    shared = select(StackInputRow.image_id).where(
        StackInputRow.stack_id.in_(stack), StackInputRow.image_id.in_(supersedable)
    )
    query = (
        select(PlanRow)
        .join(SelectionRow, SelectionRow.id == PlanRow.selection_id)
        .where(
            PlanRow.mode == association.mode,
            PlanRow.object_key == association.object_key,
            PlanRow.instrument == association.instrument,
            PlanRow.filter == association.filter,
            PlanRow.recipe_id == recipe_id,
            SelectionRow.rule_sha256 == rule_sha256,
            PlanRow.abandoned.is_(False),
            shared.exists(),
        )
    )
    if association.circle is not None:
        c = association.circle
        query = query.where(
            PlanRow.ra_deg == c.ra_deg, PlanRow.dec_deg == c.dec_deg, PlanRow.radius_deg == c.radius_deg
        )
    return session.scalar(query.order_by(PlanRow.id.desc()).limit(1))

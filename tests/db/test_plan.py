"""Plans: recipes once by hash, nothing made twice, dead plans stand no longer, what a new plan replaces."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from spica.db.plan import add_plan, know_recipe, pinned, standing_plan
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow
from spica.model.association import Mode
from spica.model.job import JobState
from spica.model.recipe import read_recipe


def test_a_recipe_is_kept_once_by_its_parameters(session: Session) -> None:
    first = know_recipe(session, read_recipe([], []))
    assert know_recipe(session, read_recipe([], ["stack.combine=clipped"])) == first
    assert know_recipe(session, read_recipe([], ["stack.combine=median"])) != first
    assert session.scalar(select(func.count()).select_from(RecipeRow)) == 2


def test_a_plan_stands_until_its_jobs_died(world: Any, session: Session) -> None:
    plan_id = add_plan(session, mode=Mode.SURVEY, label="D2_r", product_hash="f" * 64)
    context = world.attempt(session, plan_id=plan_id)
    assert standing_plan(session, "0" * 64) is None
    standing = standing_plan(session, "f" * 64)
    assert standing is not None
    assert standing.id == plan_id
    session.execute(update(JobRow).where(JobRow.id == context.job_id).values(state=JobState.SUCCEEDED))
    assert standing_plan(session, "f" * 64) is not None
    session.execute(update(JobRow).where(JobRow.id == context.job_id).values(state=JobState.FAILED))
    assert standing_plan(session, "f" * 64) is None
    assert session.get_one(PlanRow, plan_id, populate_existing=True).abandoned


def test_what_a_plan_pins_is_the_content_and_the_quality_judged(world: Any, session: Session) -> None:
    context = world.attempt(session)
    ids = [world.exposure(session, context, n) for n in ("b", "a")]
    found = pinned(session, ids[::-1])
    assert [c.image_id for c in found] == sorted(ids)
    assert [c.quality_id for c in found] == [session.get_one(ImageRow, i).quality_id for i in sorted(ids)]
    assert len({c.sha256 for c in found}) == 2

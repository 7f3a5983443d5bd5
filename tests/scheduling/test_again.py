"""Another recipe for the same exposures: a plan of its own that may replace the old one; nothing twice, dry runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from spica.db import job as jobs
from spica.db.image import set_state
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, SelectionMemberRow
from spica.model.association import Circle, Mode
from spica.model.errors import DataError, RecipeError, UsageError
from spica.model.image import ImageState
from spica.model.job import Input, JobKind, Request
from spica.model.recipe import Recipe, read_recipe
from spica.model.record import from_json
from spica.scheduling.again import (
    plan_again,
    read_frozen,
    read_named_recipe,
    recipe_changes,
    recipe_names,
)
from spica.scheduling.reassess import reassess_job
from spica.scheduling.select import schedule
from spica.scheduling.wish import Wish

RECIPE = read_recipe([], [])
MEDIAN = read_recipe([], ["stack.combine=median"])


def fill(world: Any, n: int = 3) -> list[int]:
    with world.database.begin() as session:
        context = world.attempt(session)
        ids = [world.exposure(session, context, f"exp{i}", at=(150.0 + 0.02 * i, 2.0)) for i in range(n)]
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    return ids


def first_plan(world: Any, wish: Wish | None = None) -> Any:
    (planned,) = schedule(world.database, world.workspace, wish or Wish(Mode.SURVEY), RECIPE).plans
    return planned


def again(world: Any, plan: int, recipe: Recipe = MEDIAN, **more: Any) -> Any:
    return plan_again(world.database, world.workspace, plan, recipe, **more)


def requests(world: Any, plan: int) -> dict[str, Request]:
    with world.database.read() as session:
        rows = session.execute(select(JobRow.kind, JobRow.request).where(JobRow.plan_id == plan)).all()
    return {kind: from_json(Request, json.loads(said), "request") for kind, said in rows}


def made(world: Any, image: int) -> None:
    with world.database.begin() as session:
        session.execute(update(ImageRow).where(ImageRow.id == image).values(state=ImageState.MADE))


def test_the_same_exposures_with_another_recipe(field_world: Any) -> None:
    ids = fill(field_world)
    old = first_plan(field_world)
    with field_world.database.begin() as session:  # the rule would take less today
        session.execute(text("UPDATE measure SET grade = 'D' WHERE image_id = :i"), {"i": ids[0]})
    made(field_world, old.image)
    new = again(field_world, old.plan)
    assert [c.image_id for c in new.members] == ids
    assert [(c.name, c.old, c.new) for c in new.changes] == [("stack.combine", "clipped", "median")]
    before, after = requests(field_world, old.plan), requests(field_world, new.plan)
    for kind in ("astrometry", "stack"):
        assert before[kind].inputs[:3] == after[kind].inputs[:3]
    assert after["stack"].recipe["stack"]["combine"] == "median"
    assert before["stack"].recipe["stack"]["combine"] == "clipped"
    with field_world.database.read() as session:
        plan = session.get_one(PlanRow, new.plan)
        image = session.get_one(ImageRow, new.image)
        chosen = session.scalars(
            select(SelectionMemberRow.image_id).where(
                SelectionMemberRow.selection_id == plan.selection_id, SelectionMemberRow.chosen
            )
        ).all()
    assert (plan.supersedes_id, new.replaces) == (old.plan, old.label)
    assert image.name.startswith(f"{old.label}~")
    assert sorted(chosen) == ids
    assert new.kinds == ("astrometry", "stack", "quality", "catalogue", "deliver") == tuple(after)


def test_a_product_that_was_not_made_or_shall_stay_is_not_superseded(field_world: Any) -> None:
    fill(field_world)
    old = first_plan(field_world)
    unmade = again(field_world, old.plan)
    assert unmade.replaces is None
    made(field_world, old.image)
    beside = again(field_world, old.plan, read_recipe([], ["stack.combine=weighted"]), replace=False)
    with field_world.database.read() as session:
        found = [session.get_one(PlanRow, p.plan).supersedes_id for p in (unmade, beside)]
    assert found == [None, None]


def test_a_dry_run_records_nothing(field_world: Any) -> None:
    fill(field_world)
    old = first_plan(field_world)

    def count() -> list[int]:
        with field_world.database.read() as session:
            return [session.scalar(select(func.count()).select_from(t)) for t in (JobRow, PlanRow, ImageRow)]

    before = count()
    dry = again(field_world, old.plan, dry_run=True)
    assert (dry.plan, dry.jobs, len(dry.members), dry.kinds[0]) == (None, (), 3, "astrometry")
    assert count() == before


def test_nothing_is_made_twice(field_world: Any) -> None:
    fill(field_world)
    old = first_plan(field_world)
    assert again(field_world, old.plan, RECIPE).known == old.plan
    new = again(field_world, old.plan)
    for dry in (True, False):
        twice = again(field_world, new.plan, dry_run=dry)
        assert (twice.known, twice.plan) == (new.plan, None)
    with field_world.database.begin() as session:
        for job in new.jobs[:1]:
            jobs.cancel(session, job)
    third = again(field_world, old.plan)  # its jobs are dead: it may be planned again
    assert third.plan not in (None, new.plan)


def test_single_and_area_keep_target_and_circle(field_world: Any) -> None:
    ids = fill(field_world)
    wish = Wish(Mode.SINGLE, targets=frozenset({"exp1"}))
    single = again(field_world, first_plan(field_world, wish).plan, read_recipe([], ["photometry.clip_sigma=2.5"]))
    (target,) = {i.item for i in requests(field_world, single.plan)["calibrate"].inputs if i.file is not None}
    assert target == f"image:{ids[1]}"
    assert single.kinds == ("astrometry", "calibrate", "deliver")
    circle = Circle(150.02, 2.0, 0.2)
    area = again(field_world, first_plan(field_world, Wish(Mode.AREA, circle=circle)).plan)
    assert requests(field_world, area.plan)["stack"].facts["circle"] == [150.02, 2.0, 0.2]


def test_what_cannot_be_planned_again_says_why(field_world: Any) -> None:
    ids = fill(field_world)
    old = first_plan(field_world)
    with pytest.raises(UsageError, match="no plan 9999"):
        again(field_world, 9999)
    with field_world.database.begin() as session:
        set_state(session, ids[1], ImageState.REJECTED)
    with pytest.raises(DataError, match="exp1 cannot be used"):
        again(field_world, old.plan)


# Recipes by name ------------------------------------------------------------------------------------------------------


def test_recipes_are_found_by_name_and_never_by_path(workspace: Any, tmp_path: Any) -> None:
    (workspace.recipes_folder / "deep.toml").write_text("[stack]\ncombine = 'median'\n")
    (workspace.recipes_folder / "default.toml").write_text("[stack]\nclip_sigma = 5.0\n")
    (tmp_path / "else.toml").write_text("[stack]\ncombine = 'weighted'\n")
    assert recipe_names(workspace) == ("default", "deep")
    deep = read_named_recipe(workspace, "deep", ["stack.clip_fraction=0.1"])
    assert (deep.stack.combine, deep.stack.clip_sigma, deep.stack.clip_fraction) == ("median", 5.0, 0.1)
    for name in (str(tmp_path / "else.toml"), "../else", "deep.toml", "", "same"):
        with pytest.raises(RecipeError, match="there is no recipe"):
            read_named_recipe(workspace, name, [])


@pytest.mark.parametrize(
    ("setting", "word"),
    [("stack.combin=median", "combine"), ("stack.combine=mode", "median"), ("stack.clip_sigma=1", "out of bounds"),
     ("stack.clip_sigma", "section.key=value"), ("stak.combine=median", "stack")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["default", "same"])
def test_a_wrong_setting_names_its_word(workspace: Any, name: str, setting: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        read_named_recipe(workspace, name, [setting], MEDIAN)


def test_the_same_recipe_with_settings_over_it(workspace: Any) -> None:
    recipe = read_named_recipe(workspace, "same", ["stack.kernel=nearest"], MEDIAN)
    assert [(c.name, c.new) for c in recipe_changes(MEDIAN, recipe)] == [("stack.kernel", "nearest")]
    assert recipe.stack.combine == "median"


def test_a_frozen_recipe_is_read_back_whole() -> None:
    from spica.model.record import canonical

    recipe = read_recipe([], ["stack.combine=median", "catalogue.apertures_arcsec=[1.5, 3.0]"])
    assert read_frozen(canonical(recipe)) == recipe


# Assessments ----------------------------------------------------------------------------------------------------------


def test_a_failed_assessment_is_done_again_with_another_recipe(world: Any) -> None:
    """Also a file that never became an image; its maps go with it, and it is not planned while it waits."""
    with world.database.begin() as session:
        ref, weight = world.file(session, name="a.fits"), world.file(session, name="a.weight.fits")
        item = f"file:{ref.id}"
        given = (Input("exposure", item, ref), Input("weight_map", item, weight))
        (job_id,) = jobs.reserve_job_ids(session, 1)
        request = Request("assess", "native", {}, "0" * 64, inputs=given)
        jobs.create_jobs(session, None, [jobs.NewJob(job_id, "assess", "native", request, "#!/bin/sh\n")])
    recipe = read_recipe([], ["quality.threshold_sigma=3"])
    busy = reassess_job(world.database, world.workspace, job_id, recipe)
    assert (busy.plan_id, busy.waiting) == (None, ["a.fits"])
    with world.database.begin() as session:
        session.execute(text("UPDATE job SET state = 'FAILED'"))
    done = reassess_job(world.database, world.workspace, job_id, recipe)
    with world.database.read() as session:
        (new,) = session.scalars(select(JobRow).where(JobRow.id.in_(done.jobs))).all()
    said = from_json(Request, json.loads(new.request), "request")
    assert said.inputs == given
    assert said.recipe["quality"]["threshold_sigma"] == 3.0
    assert new.kind == JobKind.ASSESS
    with pytest.raises(UsageError, match="assesses no exposure"):
        reassess_job(world.database, world.workspace, 9999, recipe)

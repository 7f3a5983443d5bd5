"""Stale stacks and their re-stack: each change since the plan is told in words, and one plan answers them all."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from spica.db.grade import add_grade, withdraw_grade
from spica.db.mark import add_mark, withdraw_mark
from spica.db.quality import record_quality
from spica.db.rule import save_rule
from spica.db.stale import stale_stacks
from spica.db.tables.job import JobRow, PlanRow, SelectionRow
from spica.model.association import Circle, Mode
from spica.model.errors import ConflictError, NothingToDoError, UsageError
from spica.model.grade import Grade, GradeSource
from spica.model.mark import MarkRegion, MarkShape
from spica.model.quality import DetectorMeasures, QualityRecord
from spica.model.recipe import read_recipe
from spica.scheduling.restack import restack
from spica.scheduling.select import schedule
from spica.scheduling.stale import stale_reasons
from spica.scheduling.wish import Wish

CIRCLE = MarkRegion(0, MarkShape.CIRCLE, (100.0,), (200.0,), 30.0)
RECIPE = read_recipe([], ["stack.combine=median"])


class Made:
    """Three exposures stacked, one left out, one of another group; the stack counts as made."""

    def __init__(self, world: Any, wish: Wish | None = None) -> None:
        self.world, self.database = world, world.database
        with world.database.begin() as session:
            self.context = world.attempt(session)
            self.ids = [world.exposure(session, self.context, n) for n in ("a", "b", "c")]
            self.bad = world.exposure(session, self.context, "bad", grade=Grade.D)
            self.far = world.exposure(session, self.context, "far", at=(150.3, 2.3))
        done = schedule(world.database, world.workspace, wish or Wish(Mode.SURVEY), RECIPE)
        self.planned = next(p for p in done.plans if self.ids[0] in p.members)
        self.stack = self.planned.image
        self.finish(self.stack)

    def finish(self, stack: Any) -> None:
        with self.database.begin() as session:
            session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
            session.execute(text("UPDATE image SET state = 'made' WHERE id = :i"), {"i": stack})

    def reasons(self) -> list[Any]:
        with self.database.read() as session:
            found = stale_reasons(session, self.world.workspace, self.stack)
            assert bool(stale_stacks(session, [self.stack])) == any(r.code not in ("joins", "leaves") for r in found), (
                "the list of stacks agrees, but for what only judging anew can tell"
            )
            return found

    def again(self, **more: Any) -> Any:
        return restack(self.database, self.world.workspace, self.stack, **more)


@pytest.fixture
def made(field_world: Any) -> Made:
    return Made(field_world)


def grade(made: Made, image: int, letter: Grade) -> int:
    with made.database.begin() as session:
        return add_grade(session, image, GradeSource.HUMAN, letter)


def test_a_fresh_stack_is_not_stale_and_is_not_made_twice(made: Made) -> None:
    assert made.reasons() == []
    for dry in (True, False):
        done = made.again(dry_run=dry)
        assert done.plans == []
        assert [(k.plan, k.image) for k in done.known] == [(made.planned.plan, made.stack)]


def test_a_grade_that_changed_is_told_and_who_leaves(made: Made) -> None:
    given = grade(made, made.ids[1], Grade.D)
    reasons = {r.code: r for r in made.reasons()}
    assert reasons.keys() == {"grade", "leaves"}
    assert reasons["grade"].text == "grade of b changed from A to D after this stack"
    assert (reasons["grade"].image_id, reasons["grade"].old, reasons["grade"].new) == (made.ids[1], "A", "D")
    assert reasons["leaves"].text == "b would not be in it: grade in (A, B, C) (D)"
    done = made.again(person_id=None)
    (plan,) = done.plans
    assert plan.members == (made.ids[0], made.ids[2])
    with made.database.begin() as session:
        row = session.get_one(PlanRow, plan.plan)
        assert row.supersedes_id == made.planned.plan
        old = session.get_one(PlanRow, made.planned.plan)
        assert (row.mode, row.object_key, row.filter, row.recipe_id) == (
            old.mode, old.object_key, old.filter, old.recipe_id,
        )  # fmt: skip
        withdraw_grade(session, given, None)
    assert made.reasons() == [], "the judged row counts again"


def test_one_that_passes_now_joins_and_one_of_another_group_does_not(made: Made) -> None:
    grade(made, made.bad, Grade.B)
    grade(made, made.far, Grade.B)
    reasons = made.reasons()
    assert {(r.code, r.image_id) for r in reasons} == {
        ("joins", made.bad), ("grade", made.bad), ("grade", made.far),
    }  # fmt: skip
    joins = next(r for r in reasons if r.code == "joins")
    assert joins.text == "bad would be in it now; it was out by grade in (A, B, C) (D)"
    assert next(r for r in reasons if r.image_id == made.far).text.endswith("; it stays out")
    (plan,) = made.again().plans
    assert plan.members == (*made.ids, made.bad)


def test_a_new_exposure_joins(made: Made) -> None:
    with made.database.begin() as session:
        new = made.world.exposure(session, made.context, "new", at=(150.01, 2.01))
        made.world.exposure(session, made.context, "other filter", filter="g")
    (reason,) = made.reasons()
    assert (reason.code, reason.image_id) == ("joins", new)
    assert "was not there when this was planned" in reason.text
    assert set(made.again().plans[0].members) == {*made.ids, new}


def test_a_new_assessment_is_told(made: Made) -> None:
    with made.database.begin() as session:
        measures = DetectorMeasures(None, seeing_arcsec=1.1, ellipticity=0.05, background_adu=300.0, n_stars=90)
        made.context.images[f"image:{made.ids[0]}"] = made.ids[0]
        record_quality(session, QualityRecord(f"image:{made.ids[0]}", measures, ()), made.context)
    (reason,) = made.reasons()
    assert reason.code == "quality"
    assert reason.text == "a was assessed again after this stack: seeing 1.10 arcsec, it was 0.80"


def test_a_mark_makes_another_stack_and_taking_it_back_the_old_one(made: Made) -> None:
    with made.database.begin() as session:
        mark = add_mark(session, made.ids[0], [CIRCLE])
        add_mark(session, made.far, [CIRCLE])
    (reason,) = made.reasons()
    assert (reason.code, reason.image_id, reason.new) == ("mark_added", made.ids[0], str(mark))
    assert reason.text == f"mark {mark} drawn on a after this stack"
    assert [p.members for p in made.again(dry_run=True).plans] == [tuple(made.ids)]
    (plan,) = made.again().plans
    with made.database.read() as session:
        requests = dict(session.execute(select(JobRow.kind, JobRow.request).where(JobRow.plan_id == plan.plan)).all())
    assert f'"marks":{{"image:{made.ids[0]}":[{{"id":{mark},"regions":[{{"detector":0,' in requests["stack"]
    made.finish(plan.image)
    with made.database.begin() as session:
        withdraw_mark(session, mark, None)
    assert made.reasons() == [], "the first stack is what would be made today"
    assert [k.plan for k in made.again().known] == [made.planned.plan]
    with made.database.read() as session:
        (gone,) = stale_reasons(session, made.world.workspace, plan.image)
        assert gone.text == f"mark {mark} on a, heeded by this stack, taken back"
        assert stale_stacks(session, [made.stack, plan.image]) == {plan.image}


def test_two_clicks_make_one_plan(made: Made) -> None:
    grade(made, made.ids[1], Grade.D)
    first, second = made.again(), made.again()
    assert len(first.plans) == 1
    assert second.plans == []
    assert second.known[0].plan == first.plans[0].plan


def test_a_dry_run_records_nothing(made: Made) -> None:
    grade(made, made.ids[1], Grade.D)
    with made.database.read() as session:
        before = session.execute(text("SELECT count(*), max(id) FROM plan")).one()
    done = made.again(dry_run=True)
    assert [(p.plan, p.members) for p in done.plans] == [(None, (made.ids[0], made.ids[2]))]
    assert [(o["name"], o["clause"], o["value"]) for o in done.left_out if o["id"] == made.ids[1]] == [
        ("b", "grade in (A, B, C)", "D")
    ]
    with made.database.read() as session:
        assert session.execute(text("SELECT count(*), max(id) FROM plan")).one() == before


def test_the_newest_version_of_a_saved_rule_is_used(field_world: Any) -> None:
    with field_world.database.begin() as session:
        first = save_rule(session, "deep", "grade in (A, B)", None)
    made = Made(field_world, Wish(Mode.SURVEY, "grade in (A, B)", rule_version_id=first.version_id))
    assert made.reasons() == []
    with field_world.database.begin() as session:
        second = save_rule(session, "deep", 'grade in (A, B) and not name = "c"', None)
    reasons = {r.code: r for r in made.reasons()}
    assert reasons.keys() == {"rule", "leaves"}
    assert reasons["rule"].text.startswith("rule deep has version 2 since")
    (plan,) = made.again().plans
    assert plan.members == tuple(made.ids[:2])
    with field_world.database.read() as session:
        row = session.get_one(PlanRow, plan.plan)
        assert row.supersedes_id == made.planned.plan
        selection = session.get_one(SelectionRow, row.selection_id)
        assert selection.rule_version_id == second.version_id


def test_the_circle_of_an_area_is_kept(field_world: Any) -> None:
    made = Made(field_world, Wish(Mode.AREA, circle=Circle(150.0, 2.0, 0.04), filter="r"))
    assert made.reasons() == []
    with field_world.database.begin() as session:
        field_world.exposure(session, made.context, "beside", at=(150.2, 2.2))
        near = field_world.exposure(session, made.context, "near", at=(150.02, 2.0), object="other")
    assert [(r.code, r.image_id) for r in made.reasons()] == [("joins", near)]
    (plan,) = made.again().plans
    with field_world.database.read() as session:
        row = session.get_one(PlanRow, plan.plan)
        assert (row.ra_deg, row.dec_deg, row.radius_deg) == (150.0, 2.0, 0.04)


def test_a_listed_selection_keeps_its_list(field_world: Any) -> None:
    rule = 'image in list("listed") and grade in (A, B, C)'
    lists = {"listed": frozenset({"a", "b", "bad"})}
    made = Made(field_world, Wish(Mode.SURVEY, rule, lists=lists))
    assert made.planned.members == tuple(made.ids[:2])
    assert made.reasons() == []
    grade(made, made.bad, Grade.A)
    assert {(r.code, r.image_id) for r in made.reasons()} == {("joins", made.bad), ("grade", made.bad)}
    assert made.again().plans[0].members == (*made.ids[:2], made.bad)


def test_a_calibrated_copy_is_made_again(field_world: Any) -> None:
    made = Made(field_world, Wish(Mode.SINGLE, targets=frozenset({"a"})))
    assert made.reasons() == []
    with field_world.database.begin() as session:
        add_mark(session, made.ids[0], [CIRCLE])
    assert made.reasons() == [], "calibrated copies heed no marks"
    with field_world.database.begin() as session:
        new = field_world.exposure(session, made.context, "new", at=(150.01, 2.01))
    assert [(r.code, r.image_id) for r in made.reasons()] == [("joins", new)]
    (plan,) = made.again().plans
    assert set(plan.members) == {*made.ids, made.bad, new} - {made.bad}


def test_what_cannot_be_stacked_again_says_why(made: Made) -> None:
    with pytest.raises(UsageError, match="there is no stack"):
        restack(made.database, made.world.workspace, made.ids[0])
    with made.database.begin() as session:
        session.execute(text("UPDATE image SET state = 'running' WHERE id = :i"), {"i": made.stack})
    with pytest.raises(ConflictError, match="wait for its jobs"):
        made.again()
    made.finish(made.stack)
    for image in made.ids:
        grade(made, image, Grade.D)
    with pytest.raises(NothingToDoError, match=r"none of the 3 exposures .* \(a: grade in"):
        made.again(dry_run=True)
    with made.database.begin() as session:
        session.execute(text("UPDATE image SET state = 'superseded' WHERE id = :i"), {"i": made.stack})
    with pytest.raises(ConflictError, match="superseded"):
        made.again()

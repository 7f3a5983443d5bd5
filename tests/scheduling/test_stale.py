"""Many stacks at once: the cheap look finds what has changed, exact judgement agrees, each is planned by itself."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from spica.db.grade import add_grade, withdraw_grade
from spica.db.mark import add_mark, withdraw_mark
from spica.db.quality import record_quality
from spica.db.rule import save_rule
from spica.db.stale import StaleCandidate, stale_candidates
from spica.db.tables.job import PlanRow
from spica.db.tables.person import AuditRow
from spica.model.association import Circle, Mode
from spica.model.grade import Grade, GradeSource
from spica.model.mark import MarkRegion, MarkShape
from spica.model.quality import DetectorMeasures, QualityRecord
from spica.model.recipe import Recipe
from spica.scheduling.restack import foretell_each, restack_each
from spica.scheduling.select import schedule
from spica.scheduling.stale import judge_stale, stale_reasons
from spica.scheduling.wish import Wish

CIRCLE = MarkRegion(0, MarkShape.CIRCLE, (100.0,), (200.0,), 30.0)


class Survey:
    """Two objects with three exposures each, one of them bad; their stacks count as made."""

    def __init__(self, world: Any, wish: Wish | None = None) -> None:
        self.world, self.database = world, world.database
        self.ids: dict[str, int] = {}
        with world.database.begin() as session:
            self.context = world.attempt(session)
        for name in ("a1", "a2", "b1", "b2"):
            self.expose(name)
        self.expose("a3", grade=Grade.D)
        done = schedule(world.database, world.workspace, wish or Wish(Mode.SURVEY), Recipe())
        self.finish()
        self.stacks = {"a" if self.ids["a1"] in p.members else "b": int(p.image or 0) for p in done.plans}

    def expose(self, name: str, **more: Any) -> int:
        place = (150.0, 2.0) if name.startswith("a") else (150.4, 2.4)
        words = {"at": place, "object": f"field {name[0]}"} | more
        with self.database.begin() as session:
            self.ids[name] = self.world.exposure(session, self.context, name, **words)
        return self.ids[name]

    def finish(self) -> None:
        with self.database.begin() as session:
            session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
            session.execute(text("UPDATE image SET state = 'made' WHERE kind <> 'exposure' AND state = 'planned'"))

    def grade(self, name: str, letter: Grade) -> int:
        with self.database.begin() as session:
            return int(add_grade(session, self.ids[name], GradeSource.HUMAN, letter))

    def found(self) -> list[StaleCandidate]:
        """Look cheaply, and see that judging exactly finds reasons for the same stacks."""
        with self.database.read() as session:
            found = stale_candidates(session)
            exact = judge_stale(session, sorted(self.stacks.values()))
        assert found == sorted(found, key=lambda c: (c.changed_at, c.stack_id), reverse=True)
        assert {c.stack_id for c in found} == {i for i, one in exact.items() if one.reasons}
        return found

    def differing(self) -> list[int]:
        return [c.stack_id for c in self.found() if c.differs]


@pytest.fixture
def survey(field_world: Any) -> Survey:
    return Survey(field_world)


def test_each_kind_of_change_makes_a_candidate_and_taking_it_back_none(survey: Survey) -> None:
    a, b = survey.stacks["a"], survey.stacks["b"]
    assert survey.found() == []
    given = survey.grade("a1", Grade.D)
    assert survey.differing() == [a]
    survey.grade("b1", Grade.D)
    assert survey.differing() == [b, a], "the newest change first"
    with survey.database.begin() as session:
        withdraw_grade(session, given, None)
    assert survey.differing() == [b]
    with survey.database.begin() as session:
        mark = add_mark(session, survey.ids["a1"], [CIRCLE])
    assert survey.differing() == [a, b]
    with survey.database.begin() as session:
        withdraw_mark(session, mark, None)
    assert survey.differing() == [b]
    with survey.database.begin() as session:
        measures = DetectorMeasures(None, seeing_arcsec=1.1, ellipticity=0.05, background_adu=300.0, n_stars=90)
        survey.context.images["image:2"] = survey.ids["a2"]
        record_quality(session, QualityRecord("image:2", measures, ()), survey.context)
    assert survey.differing() == [a, b]


def test_another_letter_that_the_rule_takes_makes_the_same_stack(survey: Survey) -> None:
    survey.grade("a1", Grade.B)
    assert [(c.stack_id, c.differs) for c in survey.found()] == [(survey.stacks["a"], False)]
    with survey.database.read() as session:
        (told,) = foretell_each(session, [survey.stacks["a"]])
    assert told.outcome == "known", "what the cheap look says is what planning would do"


def test_only_a_new_exposure_that_passes_and_belongs_to_it_counts(survey: Survey) -> None:
    survey.expose("a4", grade=Grade.D)
    survey.expose("a5", filter="g")
    survey.expose("c1", at=(150.2, 2.2))
    assert survey.found() == []
    survey.expose("a6")
    assert survey.differing() == [survey.stacks["a"]]
    survey.grade("a4", Grade.A)
    with survey.database.read() as session:
        gained = judge_stale(session, [survey.stacks["a"]])[survey.stacks["a"]].gained
    assert gained == ((survey.ids["a4"], "a4"), (survey.ids["a6"], "a6"))


def test_a_rule_of_a_list_counts_every_new_exposure(field_world: Any) -> None:
    wish = Wish(Mode.SURVEY, 'image in list("listed")', lists={"listed": frozenset({"a1", "a2"})})
    survey = Survey(field_world, wish)
    survey.expose("a4")
    with survey.database.read() as session:
        assert [c.stack_id for c in stale_candidates(session)] == [survey.stacks["a"]]
        assert judge_stale(session, [survey.stacks["a"]])[survey.stacks["a"]].reasons == ()


def test_a_newer_version_of_the_rule_counts_until_it_is_put_away(field_world: Any) -> None:
    with field_world.database.begin() as session:
        first = save_rule(session, "deep", "grade in (A, B)", None)
    survey = Survey(field_world, Wish(Mode.SURVEY, "grade in (A, B)", rule_version_id=first.version_id))
    assert survey.found() == []
    with field_world.database.begin() as session:
        save_rule(session, "deep", "grade = A", None)
    assert sorted(survey.differing()) == sorted(survey.stacks.values())
    with field_world.database.begin() as session:
        session.execute(text("UPDATE rule SET retired_at = now()"))
    assert survey.found() == []


def test_the_circle_of_an_area_is_looked_up(field_world: Any) -> None:
    survey = Survey(field_world, Wish(Mode.AREA, circle=Circle(150.0, 2.0, 0.04), filter="r"))
    survey.expose("b9")
    assert survey.found() == []
    survey.expose("a9", object="another name")
    assert survey.differing() == [survey.stacks["a"]]


def test_many_are_judged_in_as_many_statements_as_one(survey: Survey, counted: Any) -> None:
    for name in ("a1", "b1"):
        survey.grade(name, Grade.D)
    spent = []
    with survey.database.read() as session:
        for ids in ([survey.stacks["a"]], sorted(survey.stacks.values())):
            with counted() as seen:
                told = foretell_each(session, ids)
            assert [one.outcome for one in told] == ["planned"] * len(ids)
            assert [one.stack_id for one in told] == ids
            spent.append(len(seen))
        for stack in survey.stacks.values():
            assert stale_reasons(session, survey.world.workspace, stack) == list(
                judge_stale(session, sorted(survey.stacks.values()))[stack].reasons
            )
        with counted() as looked:
            stale_candidates(session)
    assert spent[1] <= spent[0] <= 40
    assert 1 < len(looked) <= 5


def test_what_is_refused_keeps_no_other_one_back(survey: Survey) -> None:
    for name in ("a1", "b1", "b2"):
        survey.grade(name, Grade.D)
    a, b = survey.stacks["a"], survey.stacks["b"]
    done = list(restack_each(survey.database, survey.world.workspace, [b, survey.ids["a1"], a, a]))
    assert [(one.stack_id, one.outcome, one.kind) for one in done] == [
        (b, "refused", "nothing"), (survey.ids["a1"], "refused", "usage"), (a, "planned", ""),
    ]  # fmt: skip
    assert "none of the 2 exposures" in done[0].sentence
    assert done[2].sentence.startswith("planned as field_a_r")
    assert "1 exposure, 1 leaves; plan" in done[2].sentence
    with survey.database.read() as session:
        plan = session.scalars(select(PlanRow).order_by(PlanRow.id.desc())).first()
        acts = session.scalars(select(AuditRow).where(AuditRow.verb == "restack")).all()
        again = {c.stack_id: c.again_id for c in stale_candidates(session)}
    assert plan is not None
    assert done[2].plan_id == plan.id
    assert [act.detail for act in acts] == [f"plan {plan.id}"]
    assert again == {a: plan.id, b: None}
    (known,) = restack_each(survey.database, survey.world.workspace, [a])
    assert (known.outcome, known.plan_id) == ("known", plan.id)
    survey.finish()
    with survey.database.begin() as session:
        session.execute(text("UPDATE image SET state = 'superseded' WHERE id = :a"), {"a": a})
    with survey.database.read() as session:
        assert [c.stack_id for c in stale_candidates(session)] == [b], "the new stack stands and is fresh"

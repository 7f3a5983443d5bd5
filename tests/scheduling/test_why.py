"""Why an image is, or is not, in a stack: every answer names what decided."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from spica.db import job as jobs
from spica.db.context import HarvestContext
from spica.db.product import record_outcomes
from spica.model.association import Mode
from spica.model.grade import Grade
from spica.model.job import ItemOutcome, Outcome, Reason
from spica.model.recipe import read_recipe
from spica.scheduling.select import schedule
from spica.scheduling.why import why_image
from spica.scheduling.wish import Wish


def test_every_answer(field_world: Any) -> None:
    world = field_world
    with world.database.begin() as session:
        context = world.attempt(session)
        used = world.exposure(session, context, "used")
        dropped = world.exposure(session, context, "dropped")
        bad = world.exposure(session, context, "bad", grade=Grade.D)
        far = world.exposure(session, context, "far", at=(150.3, 2.3))
        other = world.exposure(session, context, "other", filter="g")
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
    done = schedule(world.database, world.workspace, Wish(Mode.SURVEY), read_recipe([], []))
    near = next(p for p in done.plans if used in p.members)
    assert set(near.members) == {used, dropped}
    with world.database.begin() as session:
        session.execute(
            text("UPDATE job SET state = 'SUCCEEDED' WHERE kind <> 'stack' OR plan_id <> :p"), {"p": near.plan}
        )
        session.execute(text("UPDATE job SET state = 'READY' WHERE kind = 'stack' AND plan_id = :p"), {"p": near.plan})
        claimed = jobs.claim(session, context.node_id, 60.0)
        assert claimed is not None
        harvest = HarvestContext(claimed.attempt_id, claimed.job_id, near.plan, context.node_id)
        cloud = Reason("attenuated", "attenuated beyond the recipe's limit", 3.4, 3.0)
        outcomes = [
            ItemOutcome(f"image:{used}", Outcome.USED),
            ItemOutcome(f"image:{dropped}", Outcome.LEFT_OUT, None, cloud),
        ]
        record_outcomes(session, outcomes, harvest)
    with world.database.read() as session:
        (answer,) = why_image(session, used, near.image)
        assert answer.used
        assert answer.sentence.startswith(f"used is in {near.label}: chosen by grade in (A, B, C)")
        (answer,) = why_image(session, dropped, near.image)
        assert (answer.used, answer.clause) == (False, "attenuated")
        assert "attenuated beyond the recipe's limit" in answer.sentence
        (answer,) = why_image(session, bad, near.image)
        assert (answer.used, answer.clause, answer.value) == (False, "grade in (A, B, C)", "D")
        (answer,) = why_image(session, far, near.image)
        assert not answer.used
        assert "another group" in answer.sentence
        (answer,) = why_image(session, other, near.image)
        assert not answer.used
        assert "another filter" in answer.sentence
        assert {a.stack_id for a in why_image(session, used)} == {
            near.image,
            next(p.image for p in done.plans if far in p.members),
        }

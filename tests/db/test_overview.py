"""Listings take a bounded number of statements, however many rows; unknown is None; staleness is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from spica.db.grade import add_grade
from spica.db.overview import count_states, list_images, list_jobs, list_nodes, list_stacks
from spica.db.selection import judge, record_selection
from spica.db.tables.job import JobRow
from spica.model.association import Association, Mode
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageKind
from spica.model.selection import parse_rule


def _plan_stack(session: Session, ids: list[int], name: str) -> int:
    from spica.db.image import plan_image
    from spica.db.plan import add_plan

    judged = judge(session, parse_rule("grade in (A, B)"), [])
    association = Association(Mode.SURVEY, "d2", "spicasim", "r", tuple(ids))
    plan_id = add_plan(
        session, mode=Mode.SURVEY, label=name, association=association, selection_id=record_selection(session, judged)
    )
    return plan_image(
        session, kind=ImageKind.STACK, name=name, mode=Mode.SURVEY, plan_id=plan_id, like=ids, centre_deg=(150.0, 2.0)
    )


@pytest.mark.parametrize(
    ("listing", "budget"),
    [(list_images, 3), (list_stacks, 5), (list_jobs, 1)],
    ids=["images", "stacks", "jobs"],
)
def test_statements_do_not_grow_with_rows(
    world: Any, session: Session, listing: Callable[..., list[Any]], budget: int, counted: Any
) -> None:
    context = world.attempt(session)
    counts = []
    for round_ in range(2):
        for i in range(3 + 20 * round_):
            image_id = world.exposure(session, context, f"exp{round_}_{i}")
            _plan_stack(session, [image_id], f"stack{round_}_{i}")
        session.flush()
        session.expire_all()
        with counted() as said:
            rows = listing(session, world.workspace)
        counts.append(len(said))
        assert listing is list_jobs or len(rows) == (3 if round_ == 0 else 26)
    assert counts[1] == counts[0] <= budget


def test_entries_say_what_is_known(world: Any, session: Session) -> None:
    context = world.attempt(session)
    world.exposure(session, context, "exp1", object=None, filter=None, run=None, night=None)
    (entry,) = list_images(session, world.workspace)
    assert (entry.object, entry.filter, entry.run, entry.night) == (None, None, None, None)
    assert (entry.seeing_arcsec, entry.zero_point_mag, entry.grade, entry.grade_source) == (0.8, None, "A", "machine")
    assert entry.path == str(next(iter(world.workspace.roots["data"].parents)) / "data" / entry.path.split("/data/")[1])
    assert list_images(session, world.workspace, kind=ImageKind.STACK) == []


def test_a_stack_is_stale_when_a_judged_grade_no_longer_counts(world: Any, session: Session) -> None:
    context = world.attempt(session)
    ids = [world.exposure(session, context, f"exp{i}") for i in range(2)]
    _plan_stack(session, ids, "D2_r")
    assert [s.stale for s in list_stacks(session, world.workspace)] == [False]
    add_grade(session, ids[0], GradeSource.HUMAN, Grade.D)
    assert [s.stale for s in list_stacks(session, world.workspace)] == [True]


def test_a_stack_is_not_stale_by_an_image_of_another_field(world: Any, session: Session) -> None:
    """A selection may judge candidates of many stacks; the grade of one that was never in this stack is no matter."""
    context = world.attempt(session)
    mine = world.exposure(session, context, "mine")
    other = world.exposure(session, context, "other", object="M31", at=(10.7, 41.3), filter="g")
    _plan_stack(session, [mine], "D2_r")
    add_grade(session, other, GradeSource.HUMAN, Grade.D)
    assert [s.stale for s in list_stacks(session, world.workspace)] == [False]


def test_counts_and_jobs_and_nodes(world: Any, session: Session) -> None:
    context = world.attempt(session)
    world.exposure(session, context, "exp1")
    assert count_states(session)["exposure"] == {"assessed": 1}
    assert count_states(session)["job"] == {"RUNNING": 1}
    (job,) = list_jobs(session, world.workspace, [JobRow.id == context.job_id])
    assert (job.attempts, job.node, job.exit_code, job.error) == (1, world.workspace.node, None, None)
    assert job.script.endswith(f"{context.job_id:06d}/run.sh")
    (node,) = list_nodes(session)
    assert (node.name, node.alive) == (world.workspace.node, False)

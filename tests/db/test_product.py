"""Products and outcomes: the newest counts, left out stays left out, stacks are filled and superseded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.image import plan_image
from spica.db.plan import add_plan
from spica.db.product import current_products, products_of_image, record_outcomes, record_product, record_stack
from spica.db.tables.image import DetectorRow, ImageRow
from spica.db.tables.job import OutcomeRow
from spica.db.tables.product import StackInputRow, StackRow
from spica.model.association import Mode
from spica.model.image import FileKind, ImageKind, ImageState
from spica.model.job import ItemOutcome, Outcome, ProductRef, Reason
from spica.model.product import Contribution, StackRecord
from spica.model.solution import SolvedDetector

POLYGON = ((149.9, 1.9), (150.1, 1.9), (150.1, 2.1), (149.9, 2.1))


def _stack(
    world: Any, session: Session, supersedes: int | None = None, name: str = "D2_r"
) -> tuple[Any, int, list[int]]:
    first = world.attempt(session)
    ids = [world.exposure(session, first, f"{name}_{i}") for i in range(2)]
    plan_id = add_plan(session, mode=Mode.SURVEY, label=name, supersedes_id=supersedes)
    stack_id = plan_image(
        session, kind=ImageKind.STACK, name=name, mode=Mode.SURVEY, plan_id=plan_id, like=ids, centre_deg=(150.0, 2.0)
    )
    return world.attempt(session, "stack", plan_id), stack_id, ids


def _record(stack_id: int, ids: list[int]) -> StackRecord:
    given = tuple(Contribution(f"image:{i}", 0.5, 0.01, 0.02, 90.0) for i in ids)
    return StackRecord(
        f"image:{stack_id}", "stack", 2, 180.0, 61290.3, 700, 650, 0.3, 150.0, 2.0, 30.0, "AB", "r", 3.0, 5e4, given,
        (SolvedDetector(0, POLYGON, 0.3),), "clipped",
    )  # fmt: skip


def test_a_planned_stack_is_filled(world: Any, session: Session) -> None:
    context, stack_id, ids = _stack(world, session)
    record_stack(session, _record(stack_id, ids), context)
    session.expire_all()
    image, stack = session.get_one(ImageRow, stack_id), session.get_one(StackRow, stack_id)
    assert (image.state, image.exptime_s, image.mag_system, image.n_detectors) == (ImageState.MADE, 180.0, "AB", 1)
    assert (stack.n_inputs, stack.n_x, stack.n_y, stack.zero_point_mag) == (2, 700, 650, 30.0)
    rows = session.scalars(select(StackInputRow).where(StackInputRow.stack_id == stack_id)).all()
    assert {(r.image_id, r.weight_fraction, r.flux_scale) for r in rows} == {(i, 0.5, 0.02) for i in ids}
    detector = session.scalars(select(DetectorRow).where(DetectorRow.image_id == stack_id)).one()
    assert list(zip(detector.polygon_ra_deg, detector.polygon_dec_deg, strict=True)) == list(POLYGON)


def test_the_product_of_the_plan_replaced_is_superseded(world: Any, session: Session) -> None:
    context, old, ids = _stack(world, session)
    record_stack(session, _record(old, ids), context)
    newer, new, more = _stack(world, session, supersedes=context.plan_id, name="D2_r_new")
    session.expire_all()
    assert session.get_one(ImageRow, old).state is ImageState.MADE, "planned is not made"
    record_stack(session, _record(new, more), newer)
    session.expire_all()
    assert session.get_one(ImageRow, old).state is ImageState.SUPERSEDED
    assert session.get_one(StackRow, old).superseded_by_id == new
    assert session.get_one(ImageRow, new).state is ImageState.MADE


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_input_left_out_by_one_step_stays_left_out(world: Any, session: Session, order: tuple[int, int]) -> None:
    context, _, (one, two) = _stack(world, session)
    outcomes = [
        ItemOutcome(f"image:{one}", Outcome.LEFT_OUT, None, Reason("cloud", "too cloudy", 3.5, 3.0)),
        ItemOutcome(f"image:{one}", Outcome.USED),
    ]
    dead = ItemOutcome(f"image:{two}", Outcome.LEFT_OUT, 0, Reason("dead", "a dead detector"))
    record_outcomes(session, [ItemOutcome(f"image:{two}", Outcome.USED), dead], context)
    record_outcomes(session, [outcomes[order[0]]], context)
    record_outcomes(session, [outcomes[order[1]]], context)
    rows = {r.image_id: r for r in session.scalars(select(StackInputRow).execution_options(populate_existing=True))}
    assert (rows[one].outcome, rows[one].code) == (Outcome.LEFT_OUT, "cloud")
    assert (rows[two].outcome, rows[two].code) == (Outcome.USED, None), "a detector left out leaves the exposure in"
    kept = session.scalars(select(OutcomeRow).where(OutcomeRow.code == "cloud")).one()
    assert (kept.value, kept.limit, kept.image_id) == ("3.5", "3.0", one)


def test_the_newest_product_of_a_role_counts(world: Any, session: Session) -> None:
    first = world.attempt(session)
    image_id = world.exposure(session, first, "exp1")
    old = current_products(session, [image_id], ["facts", "catalogue", "plot"])
    assert {role for _, role in old} == {"facts", "catalogue"}
    second = dataclasses.replace(world.attempt(session), images={})
    made = world.file(session, FileKind.PRODUCT, "new.facts")
    ref = ProductRef("facts", made.name, made.sha256, made.size, made.name, item=f"image:{image_id}")
    record_product(session, ref, made.id, second)
    new = current_products(session, [image_id], ["facts", "catalogue"])
    assert new[image_id, "facts"].id == made.id
    assert new[image_id, "catalogue"].id == old[image_id, "catalogue"].id
    assert products_of_image(session, image_id, "facts")[0][1].id == made.id

"""Deliveries: verified when the harvest has placed them, then sent and accepted."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from spica.db.delivery import accept_delivery, delivery_of, record_check, record_delivery
from spica.db.tables.image import ImageRow
from spica.model.errors import ConflictError
from spica.model.image import ImageState
from spica.model.product import DeliveryRecord, DeliveryState


def test_the_newest_delivery_counts_and_moves_on(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    assert delivery_of(session, image_id) is None
    for folder in ("first", "second"):
        record_delivery(
            session, DeliveryRecord(f"image:{image_id}", folder, "a" * 64, ()), world.attempt(session, "deliver")
        )
    session.flush()
    newest = delivery_of(session, image_id)
    assert newest is not None
    assert (newest.folder, newest.state, newest.node_id) == ("second", DeliveryState.VERIFIED, context.node_id)
    assert session.get_one(ImageRow, image_id, populate_existing=True).state is ImageState.DELIVERED
    accept_delivery(session, newest.id)
    session.refresh(newest)
    assert newest.state is DeliveryState.ACCEPTED
    assert newest.checked_at is not None


def test_a_check_says_what_is_wrong_and_takes_it_back(world: Any, session: Session) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    record_delivery(session, DeliveryRecord(f"image:{image_id}", "f", "a" * 64, ()), world.attempt(session, "deliver"))
    session.flush()
    delivery = delivery_of(session, image_id)
    assert delivery is not None
    first = delivery.checked_at
    assert record_check(session, delivery.id, [f"file{i} is missing" for i in range(7)]) is DeliveryState.DAMAGED
    assert delivery.fault == "file0 is missing; file1 is missing; file2 is missing; file3 is missing; " + (
        "file4 is missing; and 2 more"
    )
    with pytest.raises(ConflictError, match="is damaged"):
        accept_delivery(session, delivery.id)
    assert record_check(session, delivery.id, []) is DeliveryState.VERIFIED
    assert delivery.fault is None
    assert first is not None
    assert delivery.checked_at is not None
    assert delivery.checked_at > first
    accept_delivery(session, delivery.id)
    assert record_check(session, delivery.id, []) is DeliveryState.ACCEPTED  # what the archive took stays taken

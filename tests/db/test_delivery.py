"""Deliveries: verified when the harvest has placed them, then sent and accepted."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from spica.db.delivery import delivery_of, record_delivery, set_delivery_state
from spica.db.tables.image import ImageRow
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
    set_delivery_state(session, newest.id, DeliveryState.ACCEPTED)
    session.refresh(newest)
    assert newest.state is DeliveryState.ACCEPTED
    assert newest.checked_at is not None

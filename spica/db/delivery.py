"""Deliveries: prepared, sent, verified, accepted."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.image import set_state
from spica.db.tables.product import DeliveryRow
from spica.model.image import ImageState
from spica.model.product import DeliveryRecord, DeliveryState


def record_delivery(session: Session, record: DeliveryRecord, context: HarvestContext) -> None:
    """Keep a delivery whose files the harvest has placed and verified."""
    image_id = context.need_image(record.item)
    session.add(
        DeliveryRow(
            image_id=image_id,
            attempt_id=context.attempt_id,
            node_id=context.node_id,
            folder=record.folder,
            manifest_sha256=record.manifest_sha256,
            state=DeliveryState.VERIFIED,
            checked_at=func.now(),
        )
    )
    set_state(session, image_id, ImageState.DELIVERED)


def delivery_of(session: Session, image_id: int) -> DeliveryRow | None:
    """Return the newest delivery of an image."""
    query = select(DeliveryRow).where(DeliveryRow.image_id == image_id).order_by(DeliveryRow.id.desc()).limit(1)
    return session.scalar(query)


def set_delivery_state(session: Session, delivery_id: int, state: DeliveryState) -> None:
    """Move a delivery on, at the database's clock."""
    session.execute(update(DeliveryRow).where(DeliveryRow.id == delivery_id).values(state=state, checked_at=func.now()))

"""Deliveries: prepared, sent, verified, accepted."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import notify
from spica.db.image import set_state
from spica.db.tables.file import NodeRow
from spica.db.tables.product import DeliveryRow
from spica.model.errors import ConflictError
from spica.model.image import ImageState
from spica.model.product import DeliveryRecord, DeliveryState

SHOWN_PROBLEMS = 5


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


def need_delivery(session: Session, delivery_id: int) -> tuple[DeliveryRow, str]:
    """Return a delivery, locked, and the name of the node that keeps it; ConflictError where there is none."""
    row = session.get(DeliveryRow, delivery_id, with_for_update=True)
    if row is None:
        raise ConflictError(f"there is no delivery {delivery_id}; reload the page of the stack")
    return row, session.scalars(select(NodeRow.name).where(NodeRow.id == row.node_id)).one()


def record_check(session: Session, delivery_id: int, problems: Sequence[str]) -> DeliveryState:
    """Keep what a check of the delivered files found: damaged with the first problems, or whole again.

    An accepted delivery that is whole stays accepted.
    """
    row, _ = need_delivery(session, delivery_id)
    if problems:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        row.state, row.fault = DeliveryState.DAMAGED, "; ".join(problems[:SHOWN_PROBLEMS]) + more
    else:
        row.fault = None
        if row.state is not DeliveryState.ACCEPTED:
            row.state = DeliveryState.VERIFIED
    row.checked_at = session.scalars(select(func.clock_timestamp())).one()
    notify(session, f"image:{row.image_id}")
    return row.state


def accept_delivery(session: Session, delivery_id: int) -> DeliveryRow:
    """Say that the archive took a delivery; ConflictError where its last check did not find it whole."""
    row, _ = need_delivery(session, delivery_id)
    if row.state is DeliveryState.DAMAGED:
        raise ConflictError(f"the delivery in {row.folder} is damaged; mend its files and check it again first")
    row.state = DeliveryState.ACCEPTED
    notify(session, f"image:{row.image_id}")
    return row

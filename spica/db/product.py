"""Products of attempts, and the stacks and calibrated copies among them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import notify
from spica.db.image import replace_footprint
from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, ImageRow, MeasureRow
from spica.db.tables.job import OutcomeRow, PlanRow
from spica.db.tables.product import ProductRow, StackInputRow, StackRow
from spica.model.image import ImageKind, ImageState, PositionSource
from spica.model.job import ItemOutcome, Outcome, ProductRef, item_id
from spica.model.product import Role, StackRecord


def record_product(session: Session, product: ProductRef, file_id: int, context: HarvestContext) -> None:
    """Keep one product row of an attempt; its file was placed before."""
    session.add(
        ProductRow(
            job_id=context.job_id,
            attempt_id=context.attempt_id,
            role=product.role,
            name=product.name,
            image_id=context.image_of(product.item),
            number=product.detector,
            file_id=file_id,
        )
    )


def record_outcomes(session: Session, outcomes: Sequence[ItemOutcome], context: HarvestContext) -> None:
    """Keep what became of every item of an attempt, and of the planned inputs of the stack it makes."""
    for o in outcomes:
        image_id = context.image_of(o.item)
        noun, number = item_id(o.item)
        r = o.reason
        session.add(
            OutcomeRow(
                attempt_id=context.attempt_id,
                image_id=image_id,
                file_id=number if noun == "file" else None,
                number=o.detector,
                outcome=o.outcome,
                code=r.code if r else None,
                text=r.text if r else None,
                value=None if r is None or r.value is None else str(r.value),
                limit=None if r is None or r.limit is None else str(r.limit),
            )
        )
        if o.detector is None and image_id is not None and context.plan_id is not None:
            _note_input(session, context.plan_id, image_id, o)


def _note_input(session: Session, plan_id: int, image_id: int, o: ItemOutcome) -> None:
    stacks = select(ImageRow.id).where(ImageRow.plan_id == plan_id, ImageRow.kind != ImageKind.EXPOSURE)
    values = {
        "outcome": o.outcome,
        "code": o.reason.code if o.reason else None,
        "text": o.reason.text if o.reason else None,
    }
    matches = (StackInputRow.stack_id.in_(stacks), StackInputRow.image_id == image_id)
    still_in = StackInputRow.outcome.is_distinct_from(Outcome.LEFT_OUT)
    session.execute(update(StackInputRow).where(*matches, still_in).values(**values))
    notify(session, f"image:{image_id}")


def record_stack(session: Session, record: StackRecord, context: HarvestContext) -> None:
    """Fill the planned row of a stack or calibrated copy with what was made."""
    image_id = context.need_image(record.item)
    image = session.get_one(ImageRow, image_id)
    made = context.product(Role.STACK, record.item) or context.product(Role.CALIBRATED, record.item)
    image.state = ImageState.MADE
    image.file_id = made.file_id if made else image.file_id
    image.exptime_s, image.mjd = record.exptime_s, record.mjd
    image.mag_system = record.mag_system
    image.n_detectors = len(record.footprint)
    _fill_stack(session.get_one(StackRow, image_id), record, context.attempt_id)
    _fill_detectors(session, image_id, record)
    for c in record.contributions:
        session.execute(
            update(StackInputRow)
            .where(StackInputRow.stack_id == image_id, StackInputRow.image_id == context.need_image(c.item))
            .values(weight_fraction=c.weight_fraction, clipped_fraction=c.clipped_fraction, flux_scale=c.flux_scale)
        )
    session.execute(
        update(MeasureRow).where(MeasureRow.image_id == image_id).values(zero_point_mag=record.zero_point_mag)
    )
    _supersede(session, image)
    notify(session, f"image:{image_id}")


def _fill_stack(row: StackRow, record: StackRecord, attempt_id: int) -> None:
    row.attempt_id = attempt_id
    row.n_inputs = record.n_inputs
    row.n_x, row.n_y = record.n_x, record.n_y
    row.pixel_scale_arcsec = record.pixel_scale_arcsec
    row.zero_point_mag = record.zero_point_mag
    row.mag_band = record.mag_band
    row.gain_e_per_adu = record.gain_e_per_adu
    row.saturation_adu = record.saturation_adu
    row.combine = record.combine


def _fill_detectors(session: Session, image_id: int, record: StackRecord) -> None:
    known = set(session.scalars(select(DetectorRow.number).where(DetectorRow.image_id == image_id)))
    for d in record.footprint:
        if d.detector not in known:
            session.add(
                DetectorRow(
                    image_id=image_id,
                    number=d.detector,
                    hdu=d.detector,
                    name=str(d.detector),
                    n_x=record.n_x,
                    n_y=record.n_y,
                    pixel_scale_arcsec=d.pixel_scale_arcsec,
                    gain_e_per_adu=record.gain_e_per_adu,
                    saturation_adu=record.saturation_adu,
                )
            )
    session.flush()
    polygons = {d.detector: d.polygon_deg for d in record.footprint}
    replace_footprint(session, image_id, polygons, (record.ra_deg, record.dec_deg), PositionSource.SOLUTION)


def _supersede(session: Session, image: ImageRow) -> None:
    """Mark the product of the plan that this plan replaces, where it says so."""
    older_plan = session.scalar(select(PlanRow.supersedes_id).where(PlanRow.id == image.plan_id))
    if older_plan is None:
        return
    older = session.scalars(select(ImageRow).where(ImageRow.plan_id == older_plan, ImageRow.kind == image.kind)).all()
    for row in older:
        row.state = ImageState.SUPERSEDED
        session.execute(update(StackRow).where(StackRow.image_id == row.id).values(superseded_by_id=image.id))
        notify(session, f"image:{row.id}")


def products_of_image(session: Session, image_id: int, role: str | None = None) -> list[tuple[ProductRow, FileRow]]:
    """Return the products of an image with their files, newest attempt first, then by role and detector."""
    query = select(ProductRow, FileRow).join(FileRow, FileRow.id == ProductRow.file_id)
    query = query.where(ProductRow.image_id == image_id)
    if role is not None:
        query = query.where(ProductRow.role == role)
    ordered = query.order_by(ProductRow.attempt_id.desc(), ProductRow.role, ProductRow.number, ProductRow.id)
    return [(p, f) for p, f in session.execute(ordered)]


def current_products(
    session: Session, image_ids: Sequence[int], roles: Sequence[str]
) -> dict[tuple[int, str], FileRow]:
    """Return for each image and role the file of the newest attempt that made one."""
    query = (
        select(ProductRow.image_id, ProductRow.role, FileRow)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .where(ProductRow.image_id.in_(image_ids), ProductRow.role.in_(roles))
        .order_by(ProductRow.attempt_id, ProductRow.id)
    )
    return {(image_id, role): file for image_id, role, file in session.execute(query) if image_id is not None}

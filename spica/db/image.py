"""Image rows: exposures registered by verification, stacks planned, states and reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TypeVar

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.sky import centre_key, write_footprint
from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, HeaderRow, ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.product import StackInputRow, StackRow
from spica.model.association import Mode
from spica.model.image import (
    DetectorRecord,
    ExposureRecord,
    FileKind,
    FrameType,
    ImageKind,
    ImageState,
    PositionSource,
    normalise_object,
)
from spica.model.job import Reason, item_id
from spica.model.product import ImageStateRecord, Role

T = TypeVar("T")
Polygon = Sequence[tuple[float, float]]


def record_exposure(session: Session, record: ExposureRecord, context: HarvestContext) -> None:
    """Register one exposure as verification described it; the same content again changes nothing.

    A record without state is a file that holds no image: its file row becomes `ignored`.
    """
    file_id = item_id(record.item)[1]
    known = session.scalar(select(ImageRow.id).where(ImageRow.file_id == file_id))
    if known is not None:
        context.images[record.item] = known
        return
    if record.state is None:
        session.execute(update(FileRow).where(FileRow.id == file_id).values(kind=FileKind.IGNORED))
        return
    row = _exposure_row(session, record, file_id, context.plan_id)
    session.add(row)
    session.flush()
    context.images[record.item] = row.id
    session.add(MeasureRow(image_id=row.id))
    _write_detectors(session, row, record.detectors)
    _write_headers(session, row.id, record.item, context)
    write_reasons(session, row.id, record.reasons, context.attempt_id)
    if record.frame_type is not FrameType.SCIENCE:
        session.execute(update(FileRow).where(FileRow.id == file_id).values(kind=FileKind.CALIBRATION))


def _exposure_row(session: Session, record: ExposureRecord, file_id: int, plan_id: int | None) -> ImageRow:
    sha256 = session.scalars(select(FileRow.sha256).where(FileRow.id == file_id)).one()
    assert record.state is not None
    return ImageRow(
        kind=ImageKind.EXPOSURE,
        state=record.state,
        name=free_name(session, record.name, sha256),
        file_id=file_id,
        plan_id=plan_id,
        frame_type=record.frame_type,
        instrument=record.instrument,
        telescope=record.telescope,
        object=record.object,
        object_raw=record.object_raw,
        object_key=normalise_object(record.object) if record.object else None,
        filter=record.filter,
        filter_raw=record.filter_raw,
        run=record.run,
        night=date.fromisoformat(record.night) if record.night else None,
        exptime_s=record.exptime_s,
        mjd=record.mjd,
        airmass=record.airmass,
        ra_deg=record.ra_deg,
        dec_deg=record.dec_deg,
        healpix=_key(record.ra_deg, record.dec_deg),
        position_source=record.position_source,
        n_detectors=len(record.detectors),
    )


def _key(ra_deg: float | None, dec_deg: float | None) -> int | None:
    return None if ra_deg is None or dec_deg is None else centre_key(ra_deg, dec_deg)


def free_name(session: Session, name: str, sha256: str) -> str:
    """Return the name, or `name~<sha8>` where another image bears it."""
    taken = session.scalar(select(ImageRow.id).where(ImageRow.name == name))
    return name if taken is None else f"{name}~{sha256[:8]}"


def _write_detectors(session: Session, row: ImageRow, detectors: Sequence[DetectorRecord]) -> None:
    for d in detectors:
        polygon = d.polygon_deg or ()
        session.add(
            DetectorRow(
                image_id=row.id,
                number=d.index,
                hdu=d.hdu,
                name=d.name,
                n_x=d.n_x,
                n_y=d.n_y,
                gain_e_per_adu=d.gain_e_per_adu,
                read_noise_e=d.read_noise_e,
                saturation_adu=d.saturation_adu,
                pixel_scale_arcsec=d.pixel_scale_arcsec,
                polygon_ra_deg=[p[0] for p in polygon] or None,
                polygon_dec_deg=[p[1] for p in polygon] or None,
            )
        )
    session.flush()
    polygons = [d.polygon_deg for d in detectors if d.polygon_deg]
    if polygons:
        write_footprint(session, row.id, polygons)


def _write_headers(session: Session, image_id: int, item: str, context: HarvestContext) -> None:
    packed = context.product(Role.HEADERS, item)
    if packed is not None:
        session.add(HeaderRow(image_id=image_id, cards=packed.path.read_bytes()))


def write_reasons(session: Session, image_id: int, reasons: Sequence[Reason], attempt_id: int | None) -> None:
    """Replace the reasons of an image's state."""
    session.execute(delete(ImageReasonRow).where(ImageReasonRow.image_id == image_id))
    session.add_all(
        ImageReasonRow(
            image_id=image_id,
            attempt_id=attempt_id,
            code=r.code,
            text=r.text,
            value=None if r.value is None else str(r.value),
            limit=None if r.limit is None else str(r.limit),
        )
        for r in reasons
    )
    session.flush()


def set_state(session: Session, image_id: int, state: ImageState) -> None:
    """Move an image to a state."""
    session.execute(update(ImageRow).where(ImageRow.id == image_id).values(state=state))


def record_state(session: Session, record: ImageStateRecord, context: HarvestContext) -> None:
    """Write an image's new state with its reasons."""
    image_id = context.need_image(record.item)
    set_state(session, image_id, ImageState(record.state))
    write_reasons(session, image_id, record.reasons, context.attempt_id)


def replace_footprint(
    session: Session,
    image_id: int,
    polygons: Mapping[int, Polygon],
    centre_deg: tuple[float, float],
    source: PositionSource,
) -> None:
    """Put better polygons by detector number and a better centre in the place of the old ones."""
    for number, polygon in polygons.items():
        session.execute(
            update(DetectorRow)
            .where(DetectorRow.image_id == image_id, DetectorRow.number == number)
            .values(polygon_ra_deg=[p[0] for p in polygon], polygon_dec_deg=[p[1] for p in polygon])
        )
    ra, dec = centre_deg
    session.execute(
        update(ImageRow)
        .where(ImageRow.id == image_id)
        .values(ra_deg=ra, dec_deg=dec, healpix=centre_key(ra, dec), position_source=source)
    )
    write_footprint(session, image_id, [tuple(p) for p in polygons.values()])


def plan_image(
    session: Session,
    *,
    kind: ImageKind,
    name: str,
    mode: Mode,
    plan_id: int,
    like: Sequence[int],
    centre_deg: tuple[float, float] | None,
) -> int:
    """Make the row of a stack or calibrated copy that a plan will make, with its inputs; return its id."""
    members = session.scalars(select(ImageRow).where(ImageRow.id.in_(like)).order_by(ImageRow.id)).all()
    first = members[0]
    ra, dec = centre_deg or _mean_centre([(m.ra_deg, m.dec_deg) for m in members])
    row = ImageRow(
        kind=kind,
        state=ImageState.PLANNED,
        name=name,
        plan_id=plan_id,
        instrument=first.instrument,
        telescope=first.telescope,
        object=first.object,
        object_raw=first.object_raw,
        object_key=first.object_key,
        filter=first.filter,
        filter_raw=first.filter_raw,
        run=_common([m.run for m in members]),
        night=_common([m.night for m in members]),
        exptime_s=sum(m.exptime_s or 0.0 for m in members),
        mjd=_mean([m.mjd for m in members]),
        airmass=_mean([m.airmass for m in members]),
        ra_deg=ra,
        dec_deg=dec,
        healpix=_key(ra, dec),
        n_detectors=1,
    )
    session.add(row)
    session.flush()
    session.add(MeasureRow(image_id=row.id))
    session.add(StackRow(image_id=row.id, mode=mode))
    session.add_all(StackInputRow(stack_id=row.id, image_id=m.id) for m in members)
    session.flush()
    return row.id


def _common(values: Sequence[T | None]) -> T | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _mean_centre(centres: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    """Mean direction of centres in degrees (vectors, so that RA 0 and the poles do no harm)."""
    known = [(math.radians(r), math.radians(d)) for r, d in centres if r is not None and d is not None]
    if not known:
        return None, None
    x = sum(math.cos(d) * math.cos(r) for r, d in known)
    y = sum(math.cos(d) * math.sin(r) for r, d in known)
    z = sum(math.sin(d) for _, d in known)
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def find_image(session: Session, name_or_id: str) -> ImageRow | None:
    """Return an image by name, else by id; None where there is neither."""
    row = session.scalar(select(ImageRow).where(ImageRow.name == name_or_id))
    if row is None and name_or_id.isascii() and name_or_id.isdigit() and len(name_or_id) < 19:
        row = session.get(ImageRow, int(name_or_id))
    return row


def near_names(session: Session, name: str, limit: int = 3) -> list[str]:
    """Return names that begin like the given one, for messages."""
    stem = func.left(ImageRow.name, max(3, len(name) // 2))
    query = select(ImageRow.name).where(stem == name[: max(3, len(name) // 2)]).order_by(ImageRow.name).limit(limit)
    return list(session.scalars(query))

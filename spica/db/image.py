"""Image rows: exposures registered by verification, stacks planned, states and reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TypeVar

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import CHANNEL, copy_rows, notify
from spica.db.sky import centre_key, copy_ranges, covering_ranges, radius_around, write_footprint
from spica.db.tables.file import FileRow
from spica.db.tables.image import DetectorRow, HeaderRow, ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.product import StackInputRow, StackRow
from spica.model.association import Mode
from spica.model.errors import DataError
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
    """Register one exposure as verification described it; see `record_exposures`."""
    record_exposures(session, [record], context)


def record_exposures(session: Session, records: Sequence[ExposureRecord], context: HarvestContext) -> None:
    """Register exposures as verification described them; of known content the facts are brought up to date.

    The same record again changes nothing. A record without state is a file that holds no image: its file row becomes
    `ignored`. All new ones take ten statements together, however many there are.
    """
    if not records:
        return
    by_file: dict[int, ExposureRecord] = {}
    for record in records:
        by_file.setdefault(item_id(record.item)[1], record)
    ids = _known_images(session, list(by_file))
    new = {f: r for f, r in by_file.items() if f not in ids}
    _set_kind(session, [f for f, r in new.items() if r.state is None], FileKind.IGNORED)
    fresh = {f: r for f, r in new.items() if r.state is not None}
    if fresh:
        made = _insert_images(session, fresh, context.plan_id)
        ids |= made
        images = {made[f]: r for f, r in fresh.items()}
        copy_rows(session, MeasureRow.__tablename__, ("image_id",), [(i,) for i in images])
        _copy_detectors(session, images)
        _copy_headers(session, images, context)
        _add_reasons(session, {i: r.reasons for i, r in images.items()}, context.attempt_id)
        frames = [f for f, r in fresh.items() if r.frame_type is not FrameType.SCIENCE]
        _set_kind(session, frames, FileKind.CALIBRATION)
    known = {ids[f]: r for f, r in by_file.items() if f not in new and r.state is not None}
    if known:
        _refresh_images(session, known, context)
    _tell(session, sorted(ids.values()))
    for record in records:
        image_id = ids.get(item_id(record.item)[1])
        if image_id is not None:
            context.images[record.item] = image_id


def _tell(session: Session, image_ids: list[int]) -> None:
    """Notify of images, all in one statement."""
    if image_ids:
        told = text("SELECT pg_notify(:channel, 'image:' || i) FROM unnest(CAST(:ids AS bigint[])) AS i")
        session.execute(told, {"channel": CHANNEL, "ids": image_ids})


PLACE = frozenset({"ra_deg", "dec_deg", "radius_deg", "healpix", "position_source"})
IDENTITY = frozenset({"kind", "state", "name", "file_id", "plan_id"})


def _refresh_images(session: Session, records: Mapping[int, ExposureRecord], context: HarvestContext) -> None:
    """Bring facts, detectors, headers and reasons of known exposures up to date; a solved position stays."""
    for row in list(session.scalars(select(ImageRow).where(ImageRow.id.in_(list(records))).order_by(ImageRow.id))):
        record = records[row.id]
        solved = row.position_source is PositionSource.SOLUTION and row.n_detectors == len(record.detectors)
        kept = IDENTITY | PLACE if solved else IDENTITY
        for name, value in _exposure_values(record, row.file_id or 0, row.name, row.plan_id).items():
            if name not in kept:
                setattr(row, name, value)
        if record.state is ImageState.REJECTED or row.state is not ImageState.CALIBRATED:
            row.state = record.state or row.state
        session.flush()
        write_reasons(session, row.id, record.reasons, context.attempt_id)
        _refresh_detectors(session, row.id, record, solved)
        session.execute(delete(HeaderRow).where(HeaderRow.image_id == row.id))
        _copy_headers(session, {row.id: record}, context)
        science = record.frame_type is FrameType.SCIENCE
        _set_kind(session, [row.file_id or 0], FileKind.EXPOSURE if science else FileKind.CALIBRATION)


def _refresh_detectors(session: Session, image_id: int, record: ExposureRecord, solved: bool) -> None:
    """Replace the detectors of an exposure; those of a solved one keep their polygons."""
    query = select(DetectorRow).where(DetectorRow.image_id == image_id)
    old = {d.number: (d.polygon_ra_deg or [], d.polygon_dec_deg or []) for d in session.scalars(query)}
    detectors = record.detectors
    if solved:
        detectors = tuple(
            replace(d, polygon_deg=tuple(zip(*old[d.index], strict=True)) or None) if d.index in old else d
            for d in detectors
        )
    session.execute(delete(DetectorRow).where(DetectorRow.image_id == image_id))
    session.expire_all()
    _copy_detectors(session, {image_id: replace(record, detectors=detectors)})
    if not solved:
        write_footprint(session, image_id, [d.polygon_deg for d in detectors if d.polygon_deg])


def _known_images(session: Session, file_ids: list[int]) -> dict[int, int]:
    """Return the image ids of those files that have one already."""
    query = select(ImageRow.file_id, ImageRow.id).where(ImageRow.file_id.in_(file_ids))
    return {file_id: image_id for file_id, image_id in session.execute(query) if file_id is not None}


def _set_kind(session: Session, file_ids: list[int], kind: FileKind) -> None:
    if file_ids:
        session.execute(update(FileRow).where(FileRow.id.in_(file_ids)).values(kind=kind))


def _insert_images(session: Session, records: Mapping[int, ExposureRecord], plan_id: int | None) -> dict[int, int]:
    """Insert the root rows and the ranges of their footprints; return image ids by file id."""
    query = select(FileRow.id, FileRow.sha256).where(FileRow.id.in_(list(records)))
    hashes = {row.id: row.sha256 for row in session.execute(query)}
    taken = set(session.scalars(select(ImageRow.name).where(ImageRow.name.in_({r.name for r in records.values()}))))
    rows = []
    for file_id, record in records.items():
        if file_id not in hashes:
            raise DataError(f"{record.item} is no file of this survey; ingest the file again")
        name = f"{record.name}~{hashes[file_id][:8]}" if record.name in taken else record.name
        taken.add(name)
        rows.append(_exposure_values(record, file_id, name, plan_id))
    wish = insert(ImageRow).returning(ImageRow.file_id, ImageRow.id)
    made = {file_id: image_id for file_id, image_id in session.execute(wish, rows) if file_id is not None}
    polygons = {f: [d.polygon_deg for d in r.detectors if d.polygon_deg] for f, r in records.items()}
    copy_ranges(session, {made[f]: covering_ranges(p) for f, p in polygons.items() if p})
    return made


def _exposure_values(record: ExposureRecord, file_id: int, name: str, plan_id: int | None) -> dict[str, object]:
    """Return the columns of an exposure's root row."""
    polygons = [d.polygon_deg for d in record.detectors if d.polygon_deg]
    ra, dec = record.ra_deg, record.dec_deg
    return {
        "kind": ImageKind.EXPOSURE,
        "state": record.state,
        "name": name,
        "file_id": file_id,
        "plan_id": plan_id,
        "frame_type": record.frame_type,
        "instrument": record.instrument,
        "telescope": record.telescope,
        "object": record.object,
        "object_raw": record.object_raw,
        "object_key": normalise_object(record.object) if record.object else None,
        "filter": record.filter,
        "filter_raw": record.filter_raw,
        "run": record.run,
        "night": date.fromisoformat(record.night) if record.night else None,
        "exptime_s": record.exptime_s,
        "mjd": record.mjd,
        "airmass": record.airmass,
        "ra_deg": ra,
        "dec_deg": dec,
        "radius_deg": None if ra is None or dec is None or not polygons else radius_around(ra, dec, polygons),
        "healpix": _key(ra, dec),
        "position_source": record.position_source,
        "n_detectors": len(record.detectors),
    }


def _key(ra_deg: float | None, dec_deg: float | None) -> int | None:
    return None if ra_deg is None or dec_deg is None else centre_key(ra_deg, dec_deg)


def free_name(session: Session, name: str, sha256: str) -> str:
    """Return the name, or `name~<sha8>` where another image bears it."""
    taken = session.scalar(select(ImageRow.id).where(ImageRow.name == name))
    return name if taken is None else f"{name}~{sha256[:8]}"


_DETECTOR_COLUMNS = (
    *("image_id", "number", "hdu", "name", "n_x", "n_y", "gain_e_per_adu", "read_noise_e", "saturation_adu"),
    *("pixel_scale_arcsec", "polygon_ra_deg", "polygon_dec_deg"),
)


def _copy_detectors(session: Session, images: Mapping[int, ExposureRecord]) -> None:
    copy_rows(
        session,
        DetectorRow.__tablename__,
        _DETECTOR_COLUMNS,
        (_detector_values(image_id, d) for image_id, record in images.items() for d in record.detectors),
    )


def _detector_values(image_id: int, d: DetectorRecord) -> tuple[object, ...]:
    polygon = d.polygon_deg or ()
    return (
        *(image_id, d.index, d.hdu, d.name, d.n_x, d.n_y, d.gain_e_per_adu, d.read_noise_e, d.saturation_adu),
        *(d.pixel_scale_arcsec, [p[0] for p in polygon] or None, [p[1] for p in polygon] or None),
    )


def _copy_headers(session: Session, images: Mapping[int, ExposureRecord], context: HarvestContext) -> None:
    """Write the packed headers that the step left as products."""
    packed = {p.item: p.path for p in reversed(context.products) if p.role == Role.HEADERS}
    rows = ((i, packed[r.item].read_bytes()) for i, r in images.items() if r.item in packed)
    copy_rows(session, HeaderRow.__tablename__, ("image_id", "cards"), rows)


def write_reasons(session: Session, image_id: int, reasons: Sequence[Reason], attempt_id: int | None) -> None:
    """Replace the reasons of an image's state."""
    session.execute(delete(ImageReasonRow).where(ImageReasonRow.image_id == image_id))
    _add_reasons(session, {image_id: reasons}, attempt_id)


def _add_reasons(session: Session, reasons: Mapping[int, Sequence[Reason]], attempt_id: int | None) -> None:
    """Add reasons by image."""
    session.add_all(
        ImageReasonRow(
            image_id=image_id,
            attempt_id=attempt_id,
            code=r.code,
            text=r.text,
            value=None if r.value is None else str(r.value),
            limit=None if r.limit is None else str(r.limit),
        )
        for image_id, given in reasons.items()
        for r in given
    )
    session.flush()


def set_state(session: Session, image_id: int, state: ImageState) -> None:
    """Move an image to a state."""
    session.execute(update(ImageRow).where(ImageRow.id == image_id).values(state=state))
    notify(session, f"image:{image_id}")


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
    notify(session, f"image:{image_id}")


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
    notify(session, f"image:{row.id}")
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
    stem = name[: max(3, len(name) // 2)].lower()
    begins = func.lower(ImageRow.name).startswith(stem, autoescape=True)
    return list(session.scalars(select(ImageRow.name).where(begins).order_by(ImageRow.name).limit(limit)))

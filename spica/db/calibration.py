"""Master calibrations: registered with what they hold for, found for an exposure, and the book of their use."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import BigInteger, Select, any_, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.file import set_kind
from spica.db.tables.calibration import CalibrationRow, CalibrationUseRow
from spica.db.tables.file import FileRow
from spica.db.tables.product import ProductRow
from spica.model.calibration import CalibrationUse, MasterKind, MasterRecord, Validity, Wanted
from spica.model.errors import DataError, UsageError
from spica.model.image import FileKind
from spica.model.job import FileRef
from spica.model.product import Role

BY_FILTER = (MasterKind.FLAT, MasterKind.FRINGE)
"""Kinds that depend on the filter."""


@dataclass(frozen=True)
class Master:
    """A registered master and its file."""

    id: int
    kind: MasterKind
    file: FileRef
    validity: Validity
    mjd: float | None
    exptime_s: float | None
    n_inputs: int
    withdrawn: bool
    product_hash: str | None = None


def register_master(
    session: Session,
    file_id: int,
    kind: MasterKind,
    validity: Validity,
    *,
    mjd: float | None = None,
    exptime_s: float | None = None,
    n_inputs: int = 0,
    attempt_id: int | None = None,
    product_hash: str | None = None,
) -> int:
    """Register a master and return its id; the same file and kind again changes what it holds for, and revives it.

    Raises UsageError where a flat or a fringe pattern names no filter, or the first night is after the last.
    """
    if kind in BY_FILTER and not validity.filter:
        raise UsageError(f"a {kind.value} holds for one filter; say --filter")
    first, last = read_night(validity.first_night), read_night(validity.last_night)
    if first is not None and last is not None and first > last:
        raise UsageError(f"the first night {first} is after the last {last}; exchange them")
    values = {
        "instrument": validity.instrument,
        "filter": validity.filter if kind in BY_FILTER else None,
        "run": validity.run,
        "first_night": first,
        "last_night": last,
        "mjd": mjd,
        "exptime_s": exptime_s,
        "n_inputs": n_inputs,
        "attempt_id": attempt_id,
        "product_hash": product_hash,
        "withdrawn_at": None,
    }
    wish = insert(CalibrationRow).values(file_id=file_id, kind=kind, **values)
    master_id = session.execute(
        wish.on_conflict_do_update(index_elements=["file_id", "kind"], set_=values).returning(CalibrationRow.id)
    ).scalar_one()
    if attempt_id is None:
        set_kind(session, file_id, FileKind.CALIBRATION)
    return master_id


def read_night(text: str | None) -> date | None:
    """Return a night written as an ISO date, None where none is given; UsageError where it is no date."""
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as trouble:
        raise UsageError(f"{text!r} is no night; write it as 2026-11-21") from trouble


def record_master(session: Session, record: MasterRecord, context: HarvestContext) -> None:
    """Register a master that an attempt made."""
    made = next((p for p in context.products if p.name == record.product), None)
    if made is None:
        raise DataError(f"result speaks of the master {record.product}, which is none of its products; make it again")
    register_master(
        session,
        made.file_id,
        record.kind,
        record.validity,
        mjd=record.mjd,
        exptime_s=record.exptime_s,
        n_inputs=record.n_inputs,
        attempt_id=context.attempt_id,
        product_hash=record.product_hash,
    )


def record_use(session: Session, record: CalibrationUse, context: HarvestContext) -> None:
    """Keep that an exposure was corrected with, or weighted by, a master."""
    query = (
        select(CalibrationRow.id)
        .join(FileRow, FileRow.id == CalibrationRow.file_id)
        .where(FileRow.sha256 == record.sha256, CalibrationRow.kind == record.kind)
    )
    master_id = session.scalar(query)
    if master_id is None:
        raise DataError(f"no {record.kind.value} with sha256 {record.sha256[:8]} is registered; register it again")
    values = {"corrected": record.corrected, "scale": record.scale}
    wish = insert(CalibrationUseRow).values(
        image_id=context.need_image(record.item), attempt_id=context.attempt_id, calibration_id=master_id, **values
    )
    session.execute(
        wish.on_conflict_do_update(index_elements=["image_id", "attempt_id", "calibration_id"], set_=values)
    )


def has_masters(session: Session) -> bool:
    """Whether any master is in force."""
    return session.scalar(select(CalibrationRow.id).where(CalibrationRow.withdrawn_at.is_(None)).limit(1)) is not None


def known_masters(session: Session, product_hashes: Iterable[str]) -> dict[str, Master]:
    """Return masters in use that were made of the frames and recipes of these hashes; of several the newest."""
    query = _masters().where(
        CalibrationRow.product_hash.in_(list(product_hashes)), CalibrationRow.withdrawn_at.is_(None)
    )
    rows = session.execute(query.order_by(CalibrationRow.id))
    return {row.product_hash: _master(row, file) for row, file in rows if row.product_hash is not None}


def find_masters(session: Session, wanted: Wanted) -> dict[MasterKind, Master]:
    """Return the masters that an exposure gets, one of a kind.

    A master fits where its camera is the exposure's, its run, filter and nights are the exposure's or not stated: what
    an exposure does not know of itself, a master must not state. Of several the one of the exposure's own run counts
    before one for any run, then for darks the nearer exposure time, then the nearer in time, then the newer.
    """
    return choose_masters(masters_of_cameras(session, [wanted.instrument]), wanted)


def masters_of_cameras(session: Session, instruments: Iterable[str]) -> list[Master]:
    """Return the masters in use that hold for these cameras, by id: one statement."""
    query = _masters().where(
        CalibrationRow.withdrawn_at.is_(None), CalibrationRow.instrument.in_(sorted(set(instruments)))
    )
    return [_master(row, file) for row, file in session.execute(query.order_by(CalibrationRow.id))]


def choose_masters(masters: Iterable[Master], wanted: Wanted) -> dict[MasterKind, Master]:
    """Return of the masters in hand those that an exposure gets, one of a kind, as `find_masters` says."""
    found: dict[MasterKind, Master] = {}
    for master in sorted((m for m in masters if _holds(m.validity, wanted)), key=lambda m: _distance(m, wanted)):
        found.setdefault(master.kind, master)
    return found


def _holds(validity: Validity, wanted: Wanted) -> bool:
    """Whether a master holds for an exposure; nights are ISO dates, whose order is that of their text."""
    if validity.instrument != wanted.instrument:
        return False
    if any(own not in {None, asked} for own, asked in ((validity.run, wanted.run), (validity.filter, wanted.filter))):
        return False
    if wanted.night is None:
        return validity.first_night is None and validity.last_night is None
    return (validity.first_night or wanted.night) <= wanted.night <= (validity.last_night or wanted.night)


def _distance(master: Master, wanted: Wanted) -> tuple[bool, float, float, int]:
    days = abs(master.mjd - wanted.mjd) if master.mjd is not None and wanted.mjd is not None else math.inf
    ratio = 0.0
    if master.kind is MasterKind.DARK and master.exptime_s and wanted.exptime_s:
        ratio = abs(math.log(master.exptime_s / wanted.exptime_s))
    return master.validity.run is None, round(ratio, 2), days, -master.id


def list_masters(session: Session, *, withdrawn: bool = False) -> list[Master]:
    """Return all masters by id, those withdrawn only where asked for."""
    query = _masters().order_by(CalibrationRow.id)
    if not withdrawn:
        query = query.where(CalibrationRow.withdrawn_at.is_(None))
    return [_master(r, f) for r, f in session.execute(query)]


def masters_of(session: Session, image_id: int) -> list[tuple[Master, CalibrationUseRow]]:
    """Return the masters that the latest assessment of an exposure used, with how."""
    return masters_of_images(session, [image_id]).get(image_id, [])


@functools.cache
def _used_said() -> Select[CalibrationRow, FileRow, CalibrationUseRow]:
    images = any_(bindparam("images", type_=ARRAY(BigInteger)))
    latest = (
        select(ProductRow.image_id, func.max(ProductRow.attempt_id).label("attempt_id"))
        .where(ProductRow.image_id == images, ProductRow.role == Role.FACTS.value)
        .group_by(ProductRow.image_id)
        .subquery()
    )
    return (
        select(CalibrationRow, FileRow, CalibrationUseRow)
        .join(FileRow, FileRow.id == CalibrationRow.file_id)
        .join(CalibrationUseRow, CalibrationUseRow.calibration_id == CalibrationRow.id)
        .join(latest, latest.c.image_id == CalibrationUseRow.image_id)
        .where(CalibrationUseRow.attempt_id == latest.c.attempt_id)
        .order_by(CalibrationUseRow.image_id, CalibrationRow.kind, CalibrationRow.id)
    )


def masters_of_images(session: Session, image_ids: Sequence[int]) -> dict[int, list[tuple[Master, CalibrationUseRow]]]:
    """Return the masters of `masters_of` by image, for those that used any: one statement.

    The latest assessment is the one whose facts sheet counts; where it used none, what an older one used is past.
    """
    found: dict[int, list[tuple[Master, CalibrationUseRow]]] = {}
    for row, file, use in session.execute(_used_said(), {"images": list(image_ids)}):
        found.setdefault(use.image_id, []).append((_master(row, file), use))
    return found


def withdraw_master(session: Session, master_id: int) -> Master:
    """Take a master out of use; its rows and file stay. UsageError where there is none, or it is withdrawn already."""
    query = _masters().where(CalibrationRow.id == master_id)
    row = session.execute(query).one_or_none()
    if row is None or row[0].withdrawn_at is not None:
        raise UsageError(f"there is no master {master_id} in use; see: spica calibration list")
    session.execute(
        update(CalibrationRow).where(CalibrationRow.id == master_id).values(withdrawn_at=func.clock_timestamp())
    )
    return _master(*row)


def _masters() -> Select[CalibrationRow, FileRow]:
    return select(CalibrationRow, FileRow).join(FileRow, FileRow.id == CalibrationRow.file_id)


def _master(row: CalibrationRow, file: FileRow) -> Master:
    return Master(
        row.id,
        row.kind,
        FileRef(file.id, file.sha256, file.name, file.size),
        Validity(
            row.instrument,
            row.filter,
            row.run,
            row.first_night.isoformat() if row.first_night else None,
            row.last_night.isoformat() if row.last_night else None,
        ),
        row.mjd,
        row.exptime_s,
        row.n_inputs,
        row.withdrawn_at is not None,
        row.product_hash,
    )

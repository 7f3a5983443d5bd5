"""Harvest: what an attempt left behind becomes rows, in one transaction with the arrow of its job.

One idempotent function keyed by attempt and fence. Files are placed first, under names their content decides; then one
transaction writes files, records, products and outcomes, ends the attempt and releases the children. Killed before the
commit nothing has happened; after it, everything has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext, PlacedProduct
from spica.db.engine import Database
from spica.db.file import MAX_CONTENT_BYTES, know_file, know_location, store_content
from spica.db.job import AttemptEnd, Claimed, abort, fail, requeue, succeed
from spica.db.product import record_outcomes, record_product
from spica.db.record import record_all
from spica.db.tables.image import ImageRow
from spica.files.jobfolder import LOG, RESULT, read_result
from spica.files.workspace import Workspace
from spica.model.errors import DataError
from spica.model.harvest import Record, read_record
from spica.model.image import ExposureRecord, FileKind
from spica.model.job import JobState, Result, item_id
from spica.model.product import DeliveryRecord
from spica_daemon.exits import Action, Decision, Ended
from spica_daemon.place import (
    Placed,
    PlacedExposure,
    check_products,
    place_deliveries,
    place_exposures,
    place_products,
)
from spica_daemon.seat import pass_point

TAIL_BYTES = 4000
LOG_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Left:
    """What an attempt left in its folder: its result where that is whole and its own, else what is wrong with it."""

    result: Result | None
    flaw: str | None


@dataclass(frozen=True)
class Field:
    """Where and for whom is harvested."""

    database: Database
    workspace: Workspace
    node_id: int
    claimed: Claimed
    folder: Path
    backoff_s: float


@dataclass(frozen=True)
class _Log:
    tail: str | None
    whole: bytes | None


def read_left(folder: Path, claimed: Claimed) -> Left:
    """Read and check the result of an attempt: whole, of this job, attempt and fence, all products as announced."""
    try:
        result = read_result(folder)
    except DataError as trouble:
        return Left(None, f"its result is not whole ({trouble})")
    if result is None:
        return Left(None, None)
    if (result.job, result.attempt, result.fence) != (claimed.job_id, claimed.number, str(claimed.fence)):
        return Left(None, "its result is of another attempt")
    flaw = check_products(folder, result) if result.done else None
    return Left(None if flaw else result, flaw)


def harvest(field: Field, ended: Ended, decision: Decision, result: Result | None) -> JobState:
    """Carry out a decision about an attempt that has ended; return the state its job has reached.

    Raises
    ------
    FencedError
        Where the attempt no longer counts; nothing was written.
    TransientError
        Where disk or database are away; do it again.
    DataError, ConflictError
        Where the result cannot be recorded as it is.
    """
    if decision.action is Action.SUCCEED and result is not None:
        return _harvest_success(field, ended, result)
    return _harvest_failure(field, ended, decision, result)


def _harvest_success(field: Field, ended: Ended, result: Result) -> JobState:
    records = [read_record(r) for r in result.records]
    exposures = [r for r in records if isinstance(r, ExposureRecord)]
    instruments = _instruments(field.database, records, result)
    place_deliveries(field.workspace, field.folder, [r for r in records if isinstance(r, DeliveryRecord)])
    products = place_products(field.workspace, field.folder, field.claimed.kind, result.products, instruments)
    placed = place_exposures(field.workspace, field.folder, exposures)
    log = _read_log(field.folder)
    with field.database.begin() as session:
        context = _context(session, field, result, _file_rows(session, field.node_id, products))
        _exposure_rows(session, field.node_id, placed)
        record_all(session, records, context)
        for p, row in zip(products, context.products, strict=True):
            record_product(session, p.product, row.file_id, context)
        record_outcomes(session, result.outcomes, context)
        end = _end(session, field, ended, log, Decision(Action.SUCCEED), result)
        succeed(session, field.claimed.attempt_id, field.claimed.fence, end)
        pass_point("harvest_before_commit")
    pass_point("harvest_after_commit")
    return JobState.SUCCEEDED


def _harvest_failure(field: Field, ended: Ended, decision: Decision, result: Result | None) -> JobState:
    log = _read_log(field.folder)
    with field.database.begin() as session:
        if result is not None:
            record_outcomes(session, result.outcomes, _context(session, field, result, ()))
        end = _end(session, field, ended, log, decision, result)
        state = _failure_arrow(decision)(session, field, end, decision)
        pass_point("harvest_before_commit")
    pass_point("harvest_after_commit")
    return state


def _failure_arrow(decision: Decision) -> Callable[[Session, Field, AttemptEnd, Decision], JobState]:
    arrows = {Action.ABORT: _abort, Action.REQUEUE: _requeue, Action.FAIL: _fail}
    return arrows[decision.action]


def _abort(session: Session, field: Field, end: AttemptEnd, decision: Decision) -> JobState:
    return abort(session, field.claimed.attempt_id, field.claimed.fence, end)


def _fail(session: Session, field: Field, end: AttemptEnd, decision: Decision) -> JobState:
    return fail(session, field.claimed.attempt_id, field.claimed.fence, end)


def _requeue(session: Session, field: Field, end: AttemptEnd, decision: Decision) -> JobState:
    claimed, double = field.claimed, decision.out_of_memory
    return requeue(session, claimed.attempt_id, claimed.fence, end, out_of_memory=double, backoff_s=field.backoff_s)


def _instruments(database: Database, records: Sequence[Record], result: Result) -> dict[str, str]:
    """Return the instrument of each item that has products: from the records of this result, else from its image."""
    known = {r.item: r.instrument for r in records if isinstance(r, ExposureRecord) and r.instrument}
    items = {p.item for p in result.products if p.item is not None} - known.keys()
    numbers = {item_id(item)[1]: item for item in items if item_id(item)[0] == "image"}
    if numbers:
        with database.read() as session:
            query = select(ImageRow.id, ImageRow.instrument).where(ImageRow.id.in_(sorted(numbers)))
            known |= {numbers[i]: name for i, name in session.execute(query) if name}
    return known


def _context(session: Session, field: Field, result: Result, products: tuple[PlacedProduct, ...]) -> HarvestContext:
    """Return what the recording functions need; items that are files bring the images they have become already."""
    spoken = {o.item for o in result.outcomes} | {p.item for p in result.products if p.item is not None}
    files = {item_id(item)[1]: item for item in spoken if item_id(item)[0] == "file"}
    images: dict[str, int] = {}
    if files:
        query = select(ImageRow.file_id, ImageRow.id).where(ImageRow.file_id.in_(sorted(files)))
        images = {files[f]: i for f, i in session.execute(query) if f is not None}
    claimed = field.claimed
    return HarvestContext(claimed.attempt_id, claimed.job_id, claimed.plan_id, field.node_id, products, images)


def _file_rows(session: Session, node_id: int, products: Sequence[Placed]) -> tuple[PlacedProduct, ...]:
    """Know the files of products, in the order of their hashes, so that harvests at once do not block each other."""
    rows: dict[int, PlacedProduct] = {}
    for i, placed in sorted(enumerate(products), key=lambda entry: entry[1].product.sha256):
        p = placed.product
        file_id = know_file(session, p.sha256, p.size, FileKind.PRODUCT, p.name)
        know_location(session, file_id, node_id, placed.root, placed.relative)
        if p.small and p.size <= MAX_CONTENT_BYTES:
            store_content(session, file_id, p.media_type, placed.path.read_bytes())
        rows[i] = PlacedProduct(p.role, p.item, p.detector, file_id, placed.path, p.name)
    return tuple(rows[i] for i in range(len(products)))


def _exposure_rows(session: Session, node_id: int, placed: Sequence[PlacedExposure]) -> None:
    for exposure in placed:
        know_location(session, exposure.file.id, node_id, "data", exposure.relative)


def _end(
    session: Session, field: Field, ended: Ended, log: _Log, decision: Decision, result: Result | None
) -> AttemptEnd:
    digest = hashlib.sha256((field.folder / RESULT).read_bytes()).hexdigest() if result is not None else None
    peak_mb = (result.peak_memory_mb if result is not None else None) or ended.peak_memory_mb
    return AttemptEnd(
        exit_code=ended.exit_code if ended.exit_code is not None else (result.exit_code if result else None),
        seconds=ended.seconds if ended.seconds is not None else (result.seconds if result else None),
        peak_memory_mb=peak_mb,
        error_kind=decision.kind,
        error_text=decision.text,
        log_tail=log.tail,
        log_file_id=_log_row(session, field, log),
        result_sha256=digest,
        killed=decision.killed,
    )


def _read_log(folder: Path) -> _Log:
    """Return the last lines of the log as text, and the whole of it where that is not too long to keep."""
    try:
        with (folder / LOG).open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(size - TAIL_BYTES, 0))
            tail = stream.read()
            stream.seek(0)
            whole = stream.read() if size <= LOG_BYTES else None
    except OSError:
        return _Log(None, None)
    text = tail.decode("utf-8", "replace").replace("\0", "?")
    return _Log(text[text.find("\n") + 1 :] if size > TAIL_BYTES else text, whole)


def _log_row(session: Session, field: Field, log: _Log) -> int | None:
    if not log.whole:
        return None
    path = field.folder / LOG
    file_id = know_file(session, hashlib.sha256(log.whole).hexdigest(), len(log.whole), FileKind.PRODUCT, LOG)
    relative = path.relative_to(field.workspace.roots["jobs"]).as_posix()
    know_location(session, file_id, field.node_id, "jobs", relative)
    store_content(session, file_id, "text/plain", log.whole)
    return file_id

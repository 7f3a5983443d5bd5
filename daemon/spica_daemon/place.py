"""Puts the files of an attempt where they stay: before the transaction, under names that their content decides.

Doing it again is harmless: the same content has the same name, and what a killed daemon placed is found there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spica.files.checksum import place_file, sync_folder, verify_sha256
from spica.files.jobfolder import read_inputs
from spica.files.workspace import Workspace, place_below
from spica.model.errors import ConflictError, DataError, TransientError, UsageError
from spica.model.image import ExposureRecord
from spica.model.job import FileRef, ProductRef, Result
from spica.model.product import DeliveryRecord, Role
from spica_daemon.naming import exposure_place, product_place

OUTGOING = "outgoing"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskError(TransientError):
    """The disk is full or refuses; mend it, the job is tried again."""


@dataclass(frozen=True)
class Placed:
    """A product at its place: root, path below it, and the path on this node."""

    product: ProductRef
    root: str
    relative: str
    path: Path


@dataclass(frozen=True)
class PlacedExposure:
    """An exposure at its place."""

    file: FileRef
    relative: str


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn errors of the disk into those of Spica: a full or failing disk can be mended, the result is kept.

    Raises
    ------
    DiskError
        Where the disk is full or refuses.
    """
    try:
        yield
    except OSError as trouble:
        words = "the disk is full" if trouble.errno in _FULL else f"the disk refuses ({trouble.strerror})"
        raise DiskError(f"{words} at {trouble.filename}; free some space, the job is tried again") from trouble


def place_products(
    workspace: Workspace, attempt: Path, kind: str, products: Sequence[ProductRef], instruments: Mapping[str, str]
) -> tuple[Placed, ...]:
    """Link or copy the products of an attempt to their places below `data`; delivered files lie in `outgoing` already.

    Parameters
    ----------
    kind : kind of the job. instruments : instrument by item, where known.

    Raises
    ------
    DiskError
        Where the disk is full or refuses.
    ConflictError
        Where another content lies at the place.
    """
    placed = []
    with disk_errors():
        for p in products:
            if p.role == Role.DELIVERED:
                relative = PurePosixPath(p.path).relative_to(OUTGOING).as_posix()
                placed.append(Placed(p, OUTGOING, relative, workspace.place(OUTGOING, relative)))
                continue
            source = place_below(attempt, p.path)
            relative = product_place(instruments.get(p.item or ""), kind, p.name, p.sha256)
            target = workspace.place("data", relative)
            place_file(source, target)
            placed.append(Placed(p, "data", relative, target))
    return tuple(placed)


def place_exposures(
    workspace: Workspace, attempt: Path, records: Sequence[ExposureRecord]
) -> tuple[PlacedExposure, ...]:
    """Copy (or link, or leave: as the workspace says) each registered exposure to its place below `data`."""
    kept = {r.item: r for r in records if r.state is not None}
    if workspace.place_mode == "leave" or not kept:
        return ()
    placed = []
    data = workspace.roots["data"].resolve()
    with disk_errors():
        for given in read_inputs(attempt).inputs:
            record = kept.get(given.item or "")
            source = Path(given.path)
            if record is None or given.role != Role.EXPOSURE:
                continue
            relative = exposure_place(record.instrument, record.run, record.filter, given.file.name, given.file.sha256)
            if not source.resolve().is_relative_to(data):
                place_file(source, workspace.place("data", relative), link=workspace.place_mode == "link")
                placed.append(PlacedExposure(given.file, relative))
    return tuple(placed)


def place_deliveries(workspace: Workspace, attempt: Path, records: Sequence[DeliveryRecord]) -> None:
    """Place prepared deliveries below the root `outgoing`: a folder is there whole and verified, or not at all.

    Raises
    ------
    DataError
        Where a file is missing or has other bytes than announced.
    ConflictError
        Where the folder exists with other content.
    DiskError
        Where the disk is full or refuses.
    """
    for record in records:
        source = place_below(attempt / OUTGOING, record.folder)
        target = workspace.place(OUTGOING, record.folder)
        with disk_errors():
            if not target.is_dir():
                _place_folder(source, target, record)
            _verify_folder(target, record)


def _place_folder(source: Path, target: Path, record: DeliveryRecord) -> None:
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        for f in record.files:
            place_file(place_below(source, f.path), place_below(part, f.path))
        try:
            os.rename(part, target)
        except OSError as trouble:
            if trouble.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync_folder(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _verify_folder(target: Path, record: DeliveryRecord) -> None:
    for f in record.files:
        try:
            verify_sha256(place_below(target, f.path), f.sha256)
        except DataError as trouble:
            raise ConflictError(
                f"{target} exists with other content ({f.path}); move it away, then retry the job"
            ) from trouble


def check_products(attempt: Path, result: Result) -> str | None:
    """Return what is wrong with the products of a result, or None: each must be there, below, with size and content."""
    for p in result.products:
        try:
            path = place_below(attempt, p.path)
            if path.is_symlink() or not path.is_file():
                return f"product {p.path} is not there"
            if path.stat().st_size != p.size:
                return f"product {p.path} has {path.stat().st_size} bytes, {p.size} were announced"
            verify_sha256(path, p.sha256)
        except (DataError, UsageError, OSError) as trouble:
            return f"product {p.path}: {trouble}"
    return None

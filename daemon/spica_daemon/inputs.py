"""Resolves the inputs of a request to files on this node, fetching from other nodes what lies only there."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.file import Location, know_location, locations_of, lose_location
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import AttemptRow, JobRow, OutcomeRow
from spica.db.tables.product import ProductRow
from spica.files.workspace import Workspace
from spica.model.errors import DataError, SpicaError, TransientError
from spica.model.job import (
    AttemptState,
    FileRef,
    Input,
    ItemOutcome,
    JobState,
    Outcome,
    Reason,
    Request,
    ResolvedInput,
    item_id,
    item_of_image,
)
from spica.model.node import LocationState
from spica.model.record import from_json
from spica_daemon.naming import copy_place

_CHUNK = 1024 * 1024
_CONNECT_S = 10.0
_LEFT = (Outcome.LEFT_OUT, Outcome.IGNORED)


@dataclass(frozen=True)
class Wanted:
    """A file that an input stands for, before it has a path."""

    role: str
    item: str | None
    detector: int | None
    file: FileRef


@dataclass(frozen=True)
class Resolution:
    """What `inputs.json` says: files with their paths, and items that another job left out."""

    inputs: tuple[ResolvedInput, ...]
    left_out: tuple[ItemOutcome, ...]


def resolve_inputs(database: Database, workspace: Workspace, node_id: int, request: Request) -> Resolution:
    """Find every input of a request, and have it on this node.

    Raises
    ------
    TransientError
        Where a file lies on no node that can be reached now.
    DataError
        Where the request names a job that does not exist.
    """
    with database.begin() as session:
        wanted, left_out = want_inputs(session, request)
        places = locations_of(session, {w.file.id for w in wanted})
    paths: dict[int, Path] = {}
    for w in wanted:
        if w.file.id not in paths:
            paths[w.file.id] = _have(database, workspace, node_id, w.file, places.get(w.file.id, ()))
    inputs = tuple(ResolvedInput(w.role, w.item, w.detector, w.file, str(paths[w.file.id])) for w in wanted)
    return Resolution(inputs, tuple(left_out))


def want_inputs(session: Session, request: Request) -> tuple[list[Wanted], list[ItemOutcome]]:
    """Return the files that a request's inputs stand for, in its order, and the items left out upstream."""
    wanted: list[Wanted] = []
    left_out: dict[tuple[str, int | None], ItemOutcome] = {}
    for given in request.inputs:
        if given.file is not None:
            wanted.append(Wanted(given.role, given.item, None, given.file))
            continue
        made, missing = _of_job(session, given)
        wanted += made
        left_out.update({(o.item, o.detector): o for o in missing})
    return list(dict.fromkeys(wanted)), list(left_out.values())


def _of_job(session: Session, given: Input) -> tuple[list[Wanted], list[ItemOutcome]]:
    job = session.execute(
        select(JobRow.id, JobRow.kind, JobRow.state, JobRow.error_text, JobRow.request).where(JobRow.id == given.job)
    ).one_or_none()
    if job is None:
        raise DataError(f"the request names job {given.job}, which does not exist; plan again")
    if job.state is not JobState.SUCCEEDED:
        words = f"job {job.id} ({job.kind}) is {job.state.value}" + (f": {job.error_text}" if job.error_text else "")
        reason = Reason("upstream_failed", words)
        return [], [ItemOutcome(item, Outcome.LEFT_OUT, None, reason) for item in _items(given, job.request)]
    attempt_id = session.scalars(
        select(AttemptRow.id).where(AttemptRow.job_id == job.id, AttemptRow.state == AttemptState.SUCCEEDED)
    ).one()
    left = _left_out(session, attempt_id, given.item)
    gone = {(o.item, o.detector) for o in left}
    made = [
        w
        for w in _products(session, attempt_id, given)
        if (w.item, None) not in gone and (w.item, w.detector) not in gone
    ]
    return made, left


def _items(given: Input, request: str) -> Iterator[str]:
    """Yield the items that the products of a failed job would have had."""
    if given.item is not None:
        yield given.item
        return
    upstream = from_json(Request, json.loads(request), "request")
    yield from dict.fromkeys(i.item for i in upstream.inputs if i.item is not None)


def _left_out(session: Session, attempt_id: int, item: str | None) -> list[ItemOutcome]:
    rows = session.scalars(
        select(OutcomeRow)
        .where(OutcomeRow.attempt_id == attempt_id, OutcomeRow.outcome.in_(_LEFT))
        .order_by(OutcomeRow.id)
    )
    found = []
    for row in rows:
        name = item_of_image(row.image_id) if row.image_id is not None else f"file:{row.file_id}"
        if item in (None, name):
            reason = Reason(row.code, row.text or "", row.value, row.limit) if row.code else None
            found.append(ItemOutcome(name, row.outcome, row.number, reason))
    return found


def _products(session: Session, attempt_id: int, given: Input) -> list[Wanted]:
    query = (
        select(ProductRow.image_id, ProductRow.number, FileRow.id, FileRow.sha256, ProductRow.name, FileRow.size)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .where(ProductRow.attempt_id == attempt_id, ProductRow.role == given.product)
        .order_by(ProductRow.id)
    )
    if given.item is not None:
        query = query.where(ProductRow.image_id == _image_of(session, given.item))
    return [
        Wanted(
            given.role, None if image is None else item_of_image(image), number, FileRef(file_id, sha256, name, size)
        )
        for image, number, file_id, sha256, name, size in session.execute(query)
    ]


def _image_of(session: Session, item: str) -> int | None:
    noun, number = item_id(item)
    return number if noun == "image" else session.scalar(select(ImageRow.id).where(ImageRow.file_id == number))


def _have(database: Database, workspace: Workspace, node_id: int, file: FileRef, places: Sequence[Location]) -> Path:
    """Return the path of a file on this node: where it lies, or where it was fetched to."""
    for place in places:
        if place.node_id != node_id:
            continue
        path = _own_path(workspace, file, place)
        if path is not None:
            return path
        if place.state is LocationState.PRESENT:
            with database.begin() as session:
                lose_location(session, place.id)
    relative = copy_place(file.name, file.sha256)
    target = workspace.place("data", relative)
    troubles = []
    for place in places:
        if place.node_id != node_id and place.state is LocationState.PRESENT:
            try:
                fetch(workspace, place, file, target)
            except (SpicaError, OSError, http.client.HTTPException) as trouble:
                troubles.append(f"{place.node}: {trouble}")
                continue
            with database.begin() as session:
                know_location(session, file.id, node_id, "data", relative)
            return target
    why = "; ".join(troubles) or "no node is known to have it"
    raise TransientError(f"{file.name} ({file.sha256[:8]}) cannot be had now ({why}); start the daemon of its node")


def _own_path(workspace: Workspace, file: FileRef, place: Location) -> Path | None:
    try:
        path = workspace.place(place.root, place.relative_path)
        return path if path.stat().st_size == file.size else None
    except (SpicaError, OSError):
        return None


def fetch(workspace: Workspace, place: Location, file: FileRef, target: Path) -> None:
    """Fetch a file from another node: by the roots of a node on this host, else by its file service.

    The content is hashed while it is written beside the target, which appears only when whole.

    Raises
    ------
    TransientError
        Where the node is silent or has no such file.
    DataError
        Where it gives other bytes.
    """
    roots = workspace.peer_roots(place.node)
    near = roots[place.root] / place.relative_path if roots and place.root in roots else None
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        if near is not None and near.is_file():
            with near.open("rb") as source:
                _pour(source, part, file)
        else:
            _download(place, part, file)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _download(place: Location, part: Path, file: FileRef) -> None:
    if place.address is None or place.token is None:
        raise TransientError(f"node {place.node} serves no files; start its daemon")
    connection = http.client.HTTPConnection(place.address, timeout=_CONNECT_S)
    try:
        connection.request("GET", f"/files/{file.sha256}", headers={"Authorization": f"Bearer {place.token}"})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise TransientError(f"node {place.node} answers {answer.status} for this file; look at its daemon")
        _pour(answer, part, file)
    finally:
        connection.close()


def _pour(source: BinaryIO | http.client.HTTPResponse, part: Path, file: FileRef) -> None:
    """Write a stream to a file; DataError where it is longer than announced or other bytes."""
    digest, left = hashlib.sha256(), file.size
    with part.open("xb") as out:
        while left >= 0 and (chunk := source.read(min(_CHUNK, left + 1))):
            digest.update(chunk)
            left -= len(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    if left != 0 or digest.hexdigest() != file.sha256:
        raise DataError(f"{file.name} came with other bytes than it should have; check the disk of its node")

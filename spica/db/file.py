"""Files by content, where they lie, and the content of small ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import Select, delete, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.tables.file import ContentRow, FileRow, LocationRow, NodeRow
from spica.model.errors import ConflictError, DataError, UsageError
from spica.model.image import FileKind
from spica.model.job import FileRef
from spica.model.node import LocationState

MAX_CONTENT_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class File:
    """A file by its content."""

    id: int
    sha256: str
    size: int
    kind: FileKind
    name: str
    created_at: datetime

    @property
    def ref(self) -> FileRef:
        """The same as requests and results name it."""
        return FileRef(self.id, self.sha256, self.name, self.size)


@dataclass(frozen=True)
class Location:
    """One place where a file lies, with what another node needs to fetch it from there."""

    id: int
    file_id: int
    node_id: int
    node: str
    host: str | None
    address: str | None
    token: str | None = field(repr=False)
    root: str
    relative_path: str
    state: LocationState
    seen_at: datetime


@dataclass(frozen=True)
class Content:
    """Content of a small product."""

    file_id: int
    media_type: str
    content: bytes = field(repr=False)


def know_file(session: Session, sha256: str, size: int, kind: FileKind, name: str) -> int:
    """Return the id of a content, recorded where it is new; of a known one kind and name stay.

    Raises
    ------
    UsageError
        Where `sha256` is no hash, or `name` is a path.
    ConflictError
        Where the same hash is known with another size.
    """
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise UsageError(f"{sha256!r} is no SHA-256 in lower-case hexadecimal; hash the file again")
    if not name or "/" in name or "\0" in name:
        raise UsageError(f"{name!r} is no file name; give the last part of the path")
    wish = insert(FileRow).values(sha256=sha256, size=size, kind=kind, name=name)
    made = session.execute(wish.on_conflict_do_nothing(index_elements=["sha256"]).returning(FileRow.id)).scalar()
    if made is not None:
        return made
    file_id, known = session.execute(select(FileRow.id, FileRow.size).where(FileRow.sha256 == sha256)).one()
    if known != size:
        raise ConflictError(f"{name} has {size} bytes, the same hash is known with {known}; hash the file again")
    return file_id


def set_kind(session: Session, file_id: int, kind: FileKind) -> None:
    """Say what a file turned out to hold."""
    session.execute(update(FileRow).where(FileRow.id == file_id).values(kind=kind))


def find_file(session: Session, sha256: str) -> File | None:
    """Return the file of a hash; None where it is not known."""
    row = session.execute(_files().where(FileRow.sha256 == sha256)).one_or_none()
    return None if row is None else File(**row._asdict())


def read_file(session: Session, file_id: int) -> File:
    """Return a file by its id; UsageError where there is none."""
    row = session.execute(_files().where(FileRow.id == file_id)).one_or_none()
    if row is None:
        raise UsageError(f"there is no file {file_id}; see: spica images")
    return File(**row._asdict())


def read_files(session: Session, file_ids: Iterable[int]) -> dict[int, File]:
    """Return the files of many ids, by id; unknown ids are left out."""
    rows = session.execute(_files().where(FileRow.id.in_(list(file_ids)))).all()
    return {row.id: File(**row._asdict()) for row in rows}


def known_hashes(session: Session, hashes: Sequence[str]) -> frozenset[str]:
    """Return which of the hashes are known."""
    found = session.execute(select(FileRow.sha256).where(FileRow.sha256 == func.any(list(hashes)))).scalars()
    return frozenset(found)


def know_location(session: Session, file_id: int, node_id: int, root: str, relative_path: str) -> int:
    """Record that a file lies at a place now, and return the location's id; what lay there before is forgotten there.

    Raises UsageError where the path is absolute or leaves its root.
    """
    path = PurePosixPath(relative_path)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UsageError(
            f"{relative_path!r} is no path below the root {root}; give one without .. and without / before"
        )
    wish = insert(LocationRow).values(file_id=file_id, node_id=node_id, root=root, relative_path=str(path))
    now = {"file_id": file_id, "state": LocationState.PRESENT, "seen_at": func.clock_timestamp()}
    place = ["node_id", "root", "relative_path"]
    return session.execute(
        wish.on_conflict_do_update(index_elements=place, set_=now).returning(LocationRow.id)
    ).scalar_one()


def lose_location(session: Session, location_id: int) -> None:
    """Record that a file does not lie there any more."""
    session.execute(update(LocationRow).where(LocationRow.id == location_id).values(state=LocationState.MISSING))


def forget_location(session: Session, location_id: int) -> None:
    """Remove a location whose file Spica itself deleted."""
    session.execute(delete(LocationRow).where(LocationRow.id == location_id))


def locations(session: Session, file_id: int) -> tuple[Location, ...]:
    """Return where a file lies: those present first, each kind by id."""
    return locations_of(session, [file_id]).get(file_id, ())


def locations_of(session: Session, file_ids: Iterable[int]) -> dict[int, tuple[Location, ...]]:
    """Return where many files lie, by file id; files without a location are left out."""
    rows = session.execute(
        _locations()
        .where(LocationRow.file_id.in_(list(file_ids)))
        .order_by(LocationRow.state != LocationState.PRESENT, LocationRow.id)
    ).all()
    found: dict[int, list[Location]] = {}
    for row in rows:
        found.setdefault(row.file_id, []).append(Location(**row._asdict()))
    return {file_id: tuple(places) for file_id, places in found.items()}


def file_at(session: Session, node_id: int, root: str, relative_path: str) -> File | None:
    """Return the file that was last seen at a place; None where none was, or it is missing."""
    row = session.execute(
        _files()
        .join(LocationRow, LocationRow.file_id == FileRow.id)
        .where(
            LocationRow.node_id == node_id,
            LocationRow.root == root,
            LocationRow.relative_path == relative_path,
            LocationRow.state == LocationState.PRESENT,
        )
    ).one_or_none()
    return None if row is None else File(**row._asdict())


def store_content(session: Session, file_id: int, media_type: str, content: bytes) -> None:
    """Keep the content of a small product centrally; the same file again changes nothing.

    Raises DataError where it has more than `MAX_CONTENT_BYTES`.
    """
    if len(content) > MAX_CONTENT_BYTES:
        raise DataError(
            f"content of file {file_id} has {len(content)} bytes, more than {MAX_CONTENT_BYTES}; keep it as a file only"
        )
    wish = insert(ContentRow).values(file_id=file_id, media_type=media_type, content=content)
    session.execute(wish.on_conflict_do_nothing(index_elements=["file_id"]))


def read_content(session: Session, file_id: int) -> Content | None:
    """Return the centrally kept content of a file; None where it lies on its node only."""
    row = session.execute(
        select(ContentRow.file_id, ContentRow.media_type, ContentRow.content).where(ContentRow.file_id == file_id)
    ).one_or_none()
    return None if row is None else Content(**row._asdict())


def has_content(session: Session, file_id: int) -> bool:
    """Whether the content of a file is kept centrally."""
    return bool(session.execute(select(exists().where(ContentRow.file_id == file_id))).scalar_one())


def _files() -> Select[*tuple[Any, ...]]:
    return select(FileRow.id, FileRow.sha256, FileRow.size, FileRow.kind, FileRow.name, FileRow.created_at)


def _locations() -> Select[*tuple[Any, ...]]:
    return select(
        LocationRow.id,
        LocationRow.file_id,
        LocationRow.node_id,
        NodeRow.name.label("node"),
        NodeRow.host,
        NodeRow.address,
        NodeRow.token,
        LocationRow.root,
        LocationRow.relative_path,
        LocationRow.state,
        LocationRow.seen_at,
    ).join(NodeRow, NodeRow.id == LocationRow.node_id)

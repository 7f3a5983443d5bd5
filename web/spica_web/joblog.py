"""The log of an attempt: from the node's own file while it grows, else the central copy, else its last lines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from spica.db.file import read_content
from spica.db.pages.job import LogPlace
from spica.files.jobfolder import LOG, attempt_folder
from spica.files.workspace import Workspace

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class LogChunk:
    """A piece of a log: its text, the byte to go on from, whether more may come, and where it was read."""

    text: str
    next: int
    live: bool
    source: str


def read_log(session: Session, workspace: Workspace, job_id: int, place: LogPlace | None, start: int) -> LogChunk:
    """Return the log of an attempt from a byte on, at most `CHUNK_BYTES` of it."""
    if place is None:
        return LogChunk("", 0, False, "none")
    path = log_path(workspace, job_id, place)
    data = None if path is None else _read_file(path, start)
    if data is not None:
        live = place.live or len(data) == CHUNK_BYTES
        return LogChunk(_decode(data), start + len(data), live, "file")
    content = None if place.log_file_id is None else read_content(session, place.log_file_id)
    if content is not None:
        piece = content.content[start : start + CHUNK_BYTES]
        return LogChunk(_decode(piece), start + len(piece), start + len(piece) < len(content.content), "copy")
    tail = (place.tail or "").encode()[start:]
    return LogChunk(_decode(tail), start + len(tail), place.live, "tail")


def log_path(workspace: Workspace, job_id: int, place: LogPlace) -> Path | None:
    """Return where the log lies if its node shares this host or disk."""
    roots = workspace.roots if place.node == workspace.node else workspace.peer_roots(place.node) or {}
    jobs = roots.get("jobs")
    return None if jobs is None else attempt_folder(jobs, job_id, place.number) / LOG


def _read_file(path: Path, start: int) -> bytes | None:
    """Read a piece of a plain file; None where there is none. A link is not followed: steps write that folder."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as stream:
        stream.seek(start)
        return stream.read(CHUNK_BYTES)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\0", "?")

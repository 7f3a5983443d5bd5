"""Files by id: small ones from the database, large ones from a folder of this host; never by a path."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from spica.db.file import File, Location, locations, read_content, read_file
from spica.files.workspace import Workspace, place_below
from spica.model.errors import UsageError
from spica.model.node import LocationState
from spica_web.deps import Visitor, site_of
from spica_web.errors import LoginError, MissingError
from spica_web.public import PICTURES, is_guest

router = APIRouter()
SHOWN = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/svg+xml",
        "text/plain",
        "text/html",
        "application/json",
        "application/xml",
        "text/xml",
    }
)
"""Media types a browser may show; all others are saved to disk."""
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
OCTETS = "application/octet-stream"


@router.get("/files/{file_id}/{name}")
def send_file(request: Request, person: Visitor, file_id: int, name: str) -> Response:
    """Send a file by its id; the name is for people and not looked at. Visitors without a name get pictures alone."""
    site = site_of(request)
    with site.read() as session:
        try:
            file = read_file(session, file_id if 0 < file_id < 2**62 else 0)
        except UsageError:
            if is_guest(person):
                raise LoginError from None
            raise MissingError(f"there is no file {file_id}; start from the page of its image") from None
        content = read_content(session, file_id)
        places = () if content is not None else locations(session, file_id)
    if is_guest(person) and (content is None or content.media_type not in PICTURES):
        raise LoginError
    if content is not None:
        media = content.media_type if content.media_type in SHOWN else OCTETS
        if request.headers.get("if-none-match") == f'"{file.sha256}"':
            return Response(status_code=304, headers=_headers(file, media))
        return Response(content.content, media_type=_with_charset(media), headers=_headers(file, media))
    path = find_path(site.workspace, places, file.size)
    if path is None:
        raise MissingError(_absent(file, places))
    return FileResponse(path, media_type=OCTETS, headers=_headers(file, OCTETS))


def _headers(file: File, media: str) -> dict[str, str]:
    how = "inline" if media in SHOWN else "attachment"
    return {
        "Content-Security-Policy": SANDBOX,
        "Content-Disposition": f"{how}; filename*=utf-8''{quote(file.name, safe='')}",
        "ETag": f'"{file.sha256}"',
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def _with_charset(media: str) -> str:
    return f"{media}; charset=utf-8" if media.startswith("text/") or media.endswith(("json", "xml")) else media


def find_path(workspace: Workspace, places: tuple[Location, ...], size: int) -> Path | None:
    """Return where a file lies on this host with its right size: a plain file below a known root, None elsewhere."""
    for place in places:
        if place.state is not LocationState.PRESENT:
            continue
        own = place.node == workspace.node
        roots = workspace.roots if own else workspace.peer_roots(place.node) or {}
        if place.root not in roots:
            continue
        try:
            path = place_below(roots[place.root], place.relative_path)
            found = os.stat(path)
        except (UsageError, OSError):
            continue
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            return path
    return None


def _absent(file: File, places: tuple[Location, ...]) -> str:
    nodes = sorted({p.node for p in places})
    if not nodes:
        return f"{file.name} lies on no node any more; make it again by retrying its job"
    return f"{file.name} lies on {', '.join(nodes)}, which this host cannot reach; fetch it there"

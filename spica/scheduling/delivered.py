"""Deliveries looked at again: whether each file that a manifest names still lies there with its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from spica.db.delivery import need_delivery
from spica.files.checksum import sha256_file
from spica.files.manifest import check_files, read_manifest
from spica.files.workspace import Workspace, place_below
from spica.model.errors import DataError, TransientError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class DeliveredFolder:
    """Where a delivery lies as this host sees it, and the hash of its manifest."""

    delivery_id: int
    image_id: int
    path: Path
    manifest_sha256: str


def find_delivered(session: Session, workspace: Workspace, delivery_id: int) -> DeliveredFolder:
    """Return the folder of a delivery; TransientError where this host cannot reach the node that keeps it."""
    row, node = need_delivery(session, delivery_id)
    roots = workspace.roots if node == workspace.node else workspace.peer_roots(node) or {}
    if "outgoing" not in roots:
        raise TransientError(
            f"{row.folder} lies on {node}, which this host cannot reach; run there: spica reproduce {MANIFEST}"
        )
    return DeliveredFolder(row.id, row.image_id, place_below(roots["outgoing"], row.folder), row.manifest_sha256)


def check_delivered(folder: DeliveredFolder) -> tuple[str, ...]:
    """Read every delivered file and return what is wrong, one line each; nothing where all is whole.

    The manifest itself must have the hash that was recorded when it was delivered.
    """
    manifest = folder.path / MANIFEST
    if not manifest.is_file():
        return (f"{MANIFEST} is missing; deliver the stack again",)
    if sha256_file(manifest) != folder.manifest_sha256:
        return (f"{MANIFEST} is not the one that was delivered; deliver the stack again",)
    try:
        return check_files(read_manifest(manifest), folder.path)
    except DataError as trouble:
        return (str(trouble),)

"""Removes what ended attempts left on this node: scratch, and products whose placed copies are recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.tables.file import NodeRow
from spica.db.tables.job import AttemptRow
from spica.files.jobfolder import attempt_folder
from spica.files.workspace import Workspace
from spica.model.job import LIVE_ATTEMPTS

KEPT = frozenset({"inputs.json", "log.txt", "result.json"})


def clean_attempts(session: Session, workspace: Workspace, *, really: bool) -> tuple[int, int]:
    """Empty the folders of this node's ended attempts except their log, inputs and result; return folders and bytes."""
    query = (
        select(AttemptRow.job_id, AttemptRow.number)
        .join(NodeRow, NodeRow.id == AttemptRow.node_id)
        .where(NodeRow.name == workspace.node, AttemptRow.state.not_in(LIVE_ATTEMPTS))
    )
    folders, size = 0, 0
    for job_id, number in session.execute(query):
        folder = attempt_folder(workspace.roots["jobs"], job_id, number)
        scratch = [p for p in folder.iterdir() if p.name not in KEPT] if folder.is_dir() else []
        if scratch:
            folders += 1
            size += sum(_size(p) for p in scratch)
            for path in scratch if really else ():
                _remove(path)
    return folders, size


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())
    return path.lstat().st_size


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

"""Examines the surroundings: folders, disk, database, reference catalogues, profiles, outside tools, nodes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from spica.db.engine import open_database
from spica.db.overview import list_nodes
from spica.files.workspace import Workspace
from spica.instruments.registry import load_instruments
from spica.model.errors import SpicaError
from spica.reference.store import ReferenceStore

TOOLS = ("source-extractor", "scamp", "SWarp")
LOW_DISK_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One examination: its name, whether it holds, and a line that says what to do where it does not."""

    name: str
    holds: bool
    text: str


def examine(workspace: Workspace) -> Iterator[Check]:
    """Yield the checks in the order a person would mend them."""
    for name, root in workspace.roots.items():
        yield _folder(name, root)
    free = shutil.disk_usage(workspace.folder).free
    yield Check("disk", free > LOW_DISK_BYTES, f"{free / 1e9:.1f} GB free")
    yield _guarded("database", lambda: _database(workspace))
    yield _guarded("reference", lambda: _reference(workspace))
    yield _guarded("profiles", lambda: _profiles(workspace))
    for tool in TOOLS:
        path = shutil.which(tool)
        yield Check(tool, True, path or "not installed; only the astromatic engine needs it")


def _folder(name: str, root: object) -> Check:
    path = str(root)
    if not os.path.isdir(path):
        return Check(name, False, f"{path} is missing; make it or correct [roots] in spica.toml")
    writable = os.access(path, os.W_OK)
    return Check(
        name, writable or name == "incoming", path if writable else f"{path} is read-only; mend its permissions"
    )


def _guarded(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except SpicaError as error:
        return Check(name, False, str(error))


def _database(workspace: Workspace) -> str:
    database = open_database(workspace)
    try:
        with database.read() as session:
            alive = [n.name for n in list_nodes(session) if n.alive]
    finally:
        database.close()
    return f"schema up to date; nodes alive: {' '.join(alive) or 'none'}"


def _reference(workspace: Workspace) -> str:
    names = [k.name for k in ReferenceStore(workspace.reference_folder).list()]
    return " ".join(names) or "none; add one with: spica reference add FILE"


def _profiles(workspace: Workspace) -> str:
    return " ".join(i.name for i in load_instruments(workspace.instruments_folder).instruments)

"""Intake: finds incoming files, skips known content, plans the jobs that verify and assess them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.file import know_file, know_location
from spica.db.job import live_inputs
from spica.db.node import know_node
from spica.db.plan import add_plan, know_recipe
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import AttemptRow, OutcomeRow
from spica.files.checksum import sha256_file
from spica.files.workspace import Workspace
from spica.model.association import Mode
from spica.model.errors import TransientError
from spica.model.image import FileKind
from spica.model.job import AttemptState, FileRef, Input, JobKind, item_of_file
from spica.model.product import Role
from spica.model.recipe import Recipe
from spica.scheduling.submit import Draft, submit_jobs

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Found:
    """One incoming file with its content's hash."""

    path: Path
    sha256: str
    size: int


@dataclass
class IntakeReport:
    """What became of each path: jobs planned, content known before, files that could not be read."""

    plan_id: int | None = None
    jobs: list[int] = field(default_factory=list)
    new: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return regular files at or below the paths, hidden ones and unfinished copies left aside, sorted.

    Raises
    ------
    TransientError
        Where a path does not exist or a folder cannot be listed.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise TransientError(f"{path} does not exist; name an existing file or folder")
        if path.is_dir():
            found.update(_below(path))
        else:
            found.add(path.absolute())
    return sorted(found)


def _below(folder: Path) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise TransientError(f"{error.filename} cannot be listed ({error.strerror}); mend its permissions")

    for base, folders, names in os.walk(folder.absolute(), onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            if not name.startswith(".") and not name.endswith((".part", ".tmp", "~")):
                path = Path(base) / name
                if path.is_file():
                    yield path


def hash_files(paths: Sequence[Path], report: IntakeReport, progress: Progress) -> list[Found]:
    """Hash every file; the unreadable are noted in the report."""
    found = []
    for i, path in enumerate(paths):
        progress(i, len(paths), path.name)
        try:
            found.append(Found(path, sha256_file(path), path.stat().st_size))
        except OSError as error:
            report.unreadable.append((path, error.strerror or str(error)))
    progress(len(paths), len(paths), "")
    return found


def take_in(
    database: Database,
    workspace: Workspace,
    paths: Sequence[Path],
    recipe: Recipe,
    progress: Progress = lambda done, total, words: None,
) -> IntakeReport:
    """Register new content and plan its assessment; one transaction for all rows and jobs."""
    report = IntakeReport()
    workspace.save_roots()
    found = hash_files(find_files(paths), report, progress)
    with database.begin() as session:
        node_id = know_node(session, workspace.node)
        fresh: dict[str, tuple[FileRef, Found]] = {}
        refs = [_know(session, f, workspace, node_id) for f in found]
        known = known_files(session, {r.id for r in refs})
        for f, ref in zip(found, refs, strict=True):
            if f.sha256 in fresh or ref.id in known:
                report.known.append(f.path)
            else:
                report.new.append(f.path)
                fresh[f.sha256] = (ref, f)
        if fresh:
            report.plan_id, report.jobs = _plan(session, workspace, [ref for ref, _ in fresh.values()], recipe)
    return report


def _know(session: Session, f: Found, workspace: Workspace, node_id: int) -> FileRef:
    file_id = know_file(session, f.sha256, f.size, FileKind.EXPOSURE, f.path.name)
    root, relative = workspace.locate(f.path)
    know_location(session, file_id, node_id, root, relative)
    return FileRef(file_id, f.sha256, f.path.name, f.size)


def known_files(session: Session, file_ids: Collection[int]) -> set[int]:
    """Return those files whose content has an image, was judged, is no exposure, or waits in a job already."""
    judged = (
        select(OutcomeRow.file_id)
        .join(AttemptRow, AttemptRow.id == OutcomeRow.attempt_id)
        .where(OutcomeRow.file_id.in_(file_ids), AttemptRow.state == AttemptState.SUCCEEDED)
    )
    other = select(FileRow.id).where(FileRow.id.in_(file_ids), FileRow.kind != FileKind.EXPOSURE)
    images = select(ImageRow.file_id).where(ImageRow.file_id.in_(file_ids))
    known = {i for query in (judged, other, images) for i in session.scalars(query) if i is not None}
    waiting = live_inputs(session, JobKind.ASSESS)
    return known | {i for i in file_ids if item_of_file(i) in waiting}


def _plan(session: Session, workspace: Workspace, refs: Sequence[FileRef], recipe: Recipe) -> tuple[int, list[int]]:
    plan_id = add_plan(
        session, mode=Mode.INGEST, label=f"intake of {len(refs)} files", recipe_id=know_recipe(session, recipe)
    )
    size = recipe.resources.batch
    facts = intake_facts(workspace)
    drafts = [_draft(refs[i : i + size], recipe, facts) for i in range(0, len(refs), size)]
    return plan_id, submit_jobs(session, plan_id, drafts)


def _draft(refs: Sequence[FileRef], recipe: Recipe, facts: dict[str, object]) -> Draft:
    label = refs[0].name if len(refs) == 1 else f"{refs[0].name} and {len(refs) - 1} more"
    return Draft(
        kind=JobKind.ASSESS,
        engine=recipe.engine.quality,
        label=label,
        recipe=recipe,
        files=tuple(Input(Role.EXPOSURE, item_of_file(r.id), r) for r in refs),
        facts=facts,
        min_inputs=0,
    )


def intake_facts(workspace: Workspace) -> dict[str, object]:
    """Return what verification must know of this workspace: its own instrument profiles, frozen with the job."""
    folder = workspace.instruments_folder
    profiles = {p.name: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.toml"))} if folder.is_dir() else {}
    return {"profiles": profiles, "aliases": dict(workspace.object_aliases)}

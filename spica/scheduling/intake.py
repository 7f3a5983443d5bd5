"""Intake: finds incoming files, skips known content, plans the jobs that verify and assess them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.file import know_file, know_location
from spica.db.job import live_inputs
from spica.db.node import know_node
from spica.db.placement_choice import EVERY, GROUP, Group, choose_nodes, knows_several
from spica.db.plan import add_plan, know_recipe
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import AttemptRow, OutcomeRow
from spica.files.header import HeaderCards
from spica.files.scan import read_headers
from spica.files.slug import short_name
from spica.files.workspace import Workspace
from spica.instruments.registry import Registry, load_instruments, translate
from spica.model.association import Mode
from spica.model.errors import DataError, TransientError
from spica.model.image import FileKind, ImageState
from spica.model.job import AttemptState, FileRef, Input, JobKind, item_of_file
from spica.model.product import Role
from spica.model.recipe import Recipe
from spica.scheduling.companions import Pair, find_pairs
from spica.scheduling.master import attach_masters
from spica.scheduling.settle import StillWrittenError, hash_whole
from spica.scheduling.submit import Draft, submit_jobs

Progress = Callable[[int, int, str], None]

PATIENCE_S = 10.0
"""So long an ingest waits for files that are still being written."""
_UNFINISHED = (".part", ".tmp", ".partial", ".filepart", ".crdownload", "~")


@dataclass(frozen=True)
class Found:
    """One incoming file with its content's hash."""

    path: Path
    sha256: str
    size: int


@dataclass
class IntakeReport:
    """What became of each path: jobs planned, content known before (and as what), files that could not be read and why.

    `known_as` names only content that came under another name than before, `refused` what was rejected when it came;
    `busy` are files still being written. `maps` are weight, error and data-quality maps that go with their images;
    `late` are maps, each with its image, that came after it (or without it) and stay files of their own.
    """

    plan_id: int | None = None
    jobs: list[int] = field(default_factory=list)
    new: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    known_as: dict[Path, str] = field(default_factory=dict)
    refused: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    busy: list[Path] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    late: list[tuple[Path, Path]] = field(default_factory=list)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return regular files at or below the paths, hidden ones and unfinished copies left aside, sorted.

    Raises
    ------
    TransientError
        Where a path does not exist or a folder cannot be listed.
    """
    found: set[Path] = set()
    for path in paths:
        if not os.path.exists(path):
            raise TransientError(f"{shown_path(path)} does not exist; name an existing file or folder")
        if path.is_dir():
            found.update(_below(path))
        else:
            found.add(path.absolute())
    return sorted(found)


def shown_path(path: Path) -> str:
    """Return a path as one line of at most 300 printable characters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(path))
    return text if len(text) <= 300 else f"{text[:150]}...{text[-147:]}"


def is_finished_name(name: str) -> bool:
    """Tell the name of a file to be taken in from those of hidden files and unfinished copies."""
    return not name.startswith(".") and not name.endswith(_UNFINISHED)


def _below(folder: Path) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise TransientError(f"{error.filename} cannot be listed ({error.strerror}); mend its permissions")

    for base, folders, names in os.walk(folder.absolute(), onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            if is_finished_name(name):
                path = Path(base) / name
                if path.is_file():
                    yield path


def hash_files(
    paths: Sequence[Path], report: IntakeReport, progress: Progress, patience_s: float = PATIENCE_S
) -> list[Found]:
    """Hash every file; those still being written are waited for, together no longer than told.

    The unreadable and those that did not come to rest are noted in the report.
    """
    found: list[Found] = []
    waiting, until, busy = list(paths), 0.0, list[Path]()
    while waiting:
        busy = []
        for path in waiting:
            progress(len(found), len(paths), path.name)
            try:
                found.append(_hashed(path))
            except StillWrittenError:
                busy.append(path)
            except OSError as error:
                report.unreadable.append((path, f"cannot be read ({error.strerror or error}); mend its permissions"))
            except DataError as error:
                report.unreadable.append((path, str(error).removeprefix(f"{path} ")))
        until = until or time.monotonic() + patience_s
        waiting = busy if time.monotonic() < until else []
        if waiting:
            time.sleep(0.1)
    report.busy = busy
    for path in busy:
        report.unreadable.append((path, "is still being written; ingest it again when it is whole"))
    progress(len(paths), len(paths), "")
    return sorted(found, key=lambda one: one.path)


def _hashed(path: Path) -> Found:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError("has a name that is not UTF-8; rename it and ingest it again") from error
    content = hash_whole(path)
    return Found(path, content.sha256, content.size)


def take_in(
    database: Database,
    workspace: Workspace,
    paths: Sequence[Path],
    recipe: Recipe,
    progress: Progress = lambda done, total, words: None,
) -> IntakeReport:
    """Register new content at or below the paths and plan its assessment; one transaction for all rows and jobs."""
    return take_files(database, workspace, find_files(paths), recipe, progress)


def take_files(
    database: Database,
    workspace: Workspace,
    files: Sequence[Path],
    recipe: Recipe,
    progress: Progress = lambda done, total, words: None,
    patience_s: float = PATIENCE_S,
) -> IntakeReport:
    """Register the new content of files and plan its assessment; one transaction for all rows and jobs.

    Maps beside new images go with them as inputs of their assessment and are no exposures of their own.
    """
    report = IntakeReport()
    workspace.save_roots()
    registry = load_instruments(workspace.instruments_folder)
    pairs = find_pairs(files, registry.instruments)
    given = set(files)
    coming = {p.map for p in pairs if p.image in given} - {p.image for p in pairs}
    found = hash_files(sorted(given | coming), report, progress, patience_s)
    images, maps = [f for f in found if f.path not in coming], [f for f in found if f.path in coming]
    with database.begin() as session:
        node_id = know_node(session, workspace.node)
        several = knows_several(session)
        fresh = _register(session, workspace, node_id, images, report)
        going = _attach(session, workspace, node_id, maps, pairs, fresh, report)
        own = [f for f in maps if f.path in given and f.path not in report.maps]
        fresh |= _register(session, workspace, node_id, own, report)
        new = set(report.new)
        report.late = [(p.map, p.image) for p in pairs if p.map in new]
        if fresh:
            refs = [ref for ref, _ in fresh.values()]
            for file_id, masters in _masters(session, registry, fresh).items():
                going.setdefault(file_id, []).extend(masters)
            recipe_id, label = know_recipe(session, recipe), f"intake of {len(refs)} files"
            report.plan_id = add_plan(session, mode=Mode.INGEST, label=label, recipe_id=recipe_id)
            placed = place_files(session, registry, fresh) if several else {}
            report.jobs = plan_assessments(session, workspace, report.plan_id, refs, recipe, going, placed)
    return report


Fresh = dict[str, tuple[FileRef, Found]]
"""New content by its hash: the file row, and where it was found."""


def _register(
    session: Session, workspace: Workspace, node_id: int, found: Sequence[Found], report: IntakeReport
) -> Fresh:
    """Know the files; return the new content and note in the report what is new and what was known."""
    fresh: Fresh = {}
    refs = [_know(session, f, workspace, node_id, FileKind.EXPOSURE) for f in found]
    known = known_files(session, {r.id for r in refs})
    names, refused = _known_names(session, known), _refused(session, known)
    for f, ref in zip(found, refs, strict=True):
        if f.sha256 in fresh or ref.id in known:
            report.known.append(f.path)
            report.refused += [f.path] if ref.id in refused else []
            name = names[ref.id] if ref.id in known else fresh[f.sha256][1].path.name
            if short_name(name) != short_name(f.path.name):
                report.known_as[f.path] = name
        else:
            report.new.append(f.path)
            fresh[f.sha256] = (ref, f)
    return fresh


def _attach(
    session: Session,
    workspace: Workspace,
    node_id: int,
    maps: Sequence[Found],
    pairs: Sequence[Pair],
    fresh: Fresh,
    report: IntakeReport,
) -> dict[int, list[Input]]:
    """Know the maps of new images; return them as inputs by the image's file."""
    images = {f.path: ref for ref, f in fresh.values()}
    found = {f.path: f for f in maps}
    refs: dict[Path, FileRef] = {}
    going: dict[int, list[Input]] = {}
    for pair in pairs:
        if pair.image in images and pair.map in found:
            if pair.map not in refs:
                refs[pair.map] = _know(session, found[pair.map], workspace, node_id, FileKind.CALIBRATION)
            image = images[pair.image]
            going.setdefault(image.id, []).append(Input(pair.role, item_of_file(image.id), refs[pair.map]))
    report.maps = list(refs)
    return going


def _masters(session: Session, registry: Registry, fresh: Fresh) -> dict[int, list[Input]]:
    """Return the masters of new exposures; headers are read only where there are masters at all."""

    def exposures() -> Iterator[tuple[int, Sequence[HeaderCards], str]]:
        for ref, found in fresh.values():
            try:
                headers = read_headers(found.path)
            except DataError:
                continue
            yield ref.id, headers, found.path.name

    return attach_masters(session, registry, exposures())


@dataclass(frozen=True)
class Placed:
    """Where an incoming exposure goes: its group by run and filter, and the node of that."""

    group: Group
    node_id: int


def place_files(session: Session, registry: Registry, fresh: Fresh) -> dict[int, Placed]:
    """Return group and node of new exposures by the number of the file: run and filter as their headers say.

    What cannot be read or translated is placed nowhere: any node assesses it and says why. Headers alone are read.
    """
    groups: dict[int, Group] = {}
    for ref, found in fresh.values():
        with contextlib.suppress(DataError):
            headers = read_headers(found.path)
            facts = translate(registry.recognise(headers, found.path.name), headers, found.path.name)
            groups[ref.id] = Group(facts.run or EVERY, facts.filter or EVERY)
    nodes = choose_nodes(session, list(groups.values()))
    return {i: Placed(g, node) for (i, g), node in zip(groups.items(), nodes, strict=True) if node is not None}


def _known_names(session: Session, file_ids: Collection[int]) -> dict[int, str]:
    """Return by what name known content goes: that under which it came first."""
    rows = session.execute(select(FileRow.id, FileRow.name).where(FileRow.id.in_(file_ids)))
    return {row[0]: row[1] for row in rows}


def _refused(session: Session, file_ids: Collection[int]) -> set[int]:
    """Return which known files were rejected."""
    query = select(ImageRow.file_id).where(ImageRow.file_id.in_(file_ids), ImageRow.state == ImageState.REJECTED)
    return {i for i in session.scalars(query) if i is not None}


def _know(session: Session, f: Found, workspace: Workspace, node_id: int, kind: FileKind) -> FileRef:
    file_id = know_file(session, f.sha256, f.size, kind, f.path.name)
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


def plan_assessments(
    session: Session,
    workspace: Workspace,
    plan_id: int,
    refs: Sequence[FileRef],
    recipe: Recipe,
    going: Mapping[int, Sequence[Input]],
    placed: Mapping[int, Placed] | None = None,
) -> list[int]:
    """Record the jobs that assess files, a batch in each.

    `going` are maps and masters, `placed` the group and node of those that have one, by the number of the file. A job
    holds files of one group only, so that it runs on the node of the group and can be moved with it.
    """
    size = recipe.resources.batch
    facts = intake_facts(workspace)
    groups: dict[Placed | None, list[FileRef]] = {}
    for ref in refs:
        groups.setdefault((placed or {}).get(ref.id), []).append(ref)
    drafts = [
        _draft(same[i : i + size], recipe, facts, going, place)
        for place, same in groups.items()
        for i in range(0, len(same), size)
    ]
    return submit_jobs(session, plan_id, drafts)


def _draft(
    refs: Sequence[FileRef],
    recipe: Recipe,
    facts: dict[str, object],
    going: Mapping[int, Sequence[Input]],
    place: Placed | None,
) -> Draft:
    label = refs[0].name if len(refs) == 1 else f"{refs[0].name} and {len(refs) - 1} more"
    return Draft(
        kind=JobKind.ASSESS,
        engine=recipe.engine.quality,
        label=label,
        recipe=recipe,
        files=tuple(i for r in refs for i in (Input(Role.EXPOSURE, item_of_file(r.id), r), *going.get(r.id, ()))),
        facts=facts if place is None else facts | {GROUP: [place.group.run, place.group.filter]},
        min_inputs=0,
        node_id=None if place is None else place.node_id,
    )


def intake_facts(workspace: Workspace) -> dict[str, object]:
    """Return what verification must know of this workspace: its own instrument profiles, frozen with the job."""
    folder = workspace.instruments_folder
    profiles = {p.name: p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.toml"))} if folder.is_dir() else {}
    return {"profiles": profiles, "aliases": dict(workspace.object_aliases), "limits": asdict(workspace.limits)}

"""Listings for the command line, the pages and the API: a bounded number of statements each, ordered by id."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from spica.db.node import list_nodes as read_nodes
from spica.db.placement_choice import list_placements
from spica.db.stale import stale_stacks
from spica.db.tables.file import LocationRow, NodeRow
from spica.db.tables.image import ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.db.tables.product import DeliveryRow, ProductRow, StackRow
from spica.db.tables.quality import SolutionRow
from spica.files.jobfolder import attempt_folder, job_folder
from spica.files.workspace import Workspace
from spica.model.image import ImageKind
from spica.model.job import Reason
from spica.model.node import LocationState
from spica.model.overview import (
    AstrometrySummary,
    ImageEntry,
    JobEntry,
    NodeEntry,
    PhotometrySummary,
    PlacementEntry,
    StackEntry,
)
from spica.model.product import Role

SOLUTION = aliased(SolutionRow)


class Paths:
    """Absolute paths of files as this node sees them; None where they lie elsewhere only."""

    def __init__(self, session: Session, workspace: Workspace, file_ids: Sequence[int | None]) -> None:
        """Look up the locations of all files in one statement."""
        wanted = sorted({f for f in file_ids if f is not None})
        query = (
            select(LocationRow.file_id, NodeRow.name, LocationRow.root, LocationRow.relative_path)
            .join(NodeRow, NodeRow.id == LocationRow.node_id)
            .where(LocationRow.file_id.in_(wanted), LocationRow.state == LocationState.PRESENT)
            .order_by(LocationRow.root.desc(), LocationRow.id.desc())
        )
        self._by_file: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
        for file_id, node, root, relative in session.execute(query) if wanted else ():
            self._by_file[file_id].append((node, root, relative))
        self._workspace = workspace

    def of(self, file_id: int | None) -> str | None:
        """Return one absolute path, the data root before others, this node before its neighbours."""
        places = self._by_file.get(file_id or 0, [])
        for node, root, relative in sorted(places, key=lambda p: (p[0] != self._workspace.node, p[1] != "data")):
            base = self._root(node, root)
            if base is not None:
                return str(base / relative)
        return None

    def _root(self, node: str, root: str) -> Path | None:
        if node == self._workspace.node:
            return self._workspace.roots.get(root)
        return (self._workspace.peer_roots(node) or {}).get(root)


def image_query(kind: ImageKind | None = ImageKind.EXPOSURE) -> Select[ImageRow, MeasureRow]:
    """Return the statement over images with their measures, for filters, order and limits to be added."""
    query = select(ImageRow, MeasureRow).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
    return query if kind is None else query.where(ImageRow.kind == kind)


def list_images(
    session: Session,
    workspace: Workspace,
    where: Sequence[ColumnElement[bool]] = (),
    *,
    kind: ImageKind | None = ImageKind.EXPOSURE,
    order: Sequence[Any] = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[ImageEntry]:
    """Return images as the JSON contract has them: three statements, however many rows."""
    query = image_query(kind).where(*where).order_by(*order, ImageRow.id).limit(limit).offset(offset)
    rows = [(i, m) for i, m in session.execute(query)]
    reasons = _reasons(session, [i.id for i, _ in rows])
    paths = Paths(session, workspace, [i.file_id for i, _ in rows])
    return [_image_entry(i, m, reasons[i.id], paths) for i, m in rows]


def _reasons(session: Session, ids: Sequence[int]) -> dict[int, list[Reason]]:
    found: dict[int, list[Reason]] = defaultdict(list)
    query = select(ImageReasonRow).where(ImageReasonRow.image_id.in_(ids)).order_by(ImageReasonRow.id)
    for row in session.scalars(query) if ids else ():
        found[row.image_id].append(Reason(row.code, row.text, row.value, row.limit))
    return found


def _image_entry(i: ImageRow, m: MeasureRow | None, reasons: Sequence[Reason], paths: Paths) -> ImageEntry:
    return ImageEntry(
        id=i.id,
        name=i.name,
        kind=i.kind.value,
        instrument=i.instrument,
        object=i.object,
        filter=i.filter,
        filter_raw=i.filter_raw,
        run=i.run,
        night=i.night.isoformat() if i.night else None,
        exptime_s=i.exptime_s,
        mjd=i.mjd,
        airmass=i.airmass,
        ra_deg=i.ra_deg,
        dec_deg=i.dec_deg,
        n_detectors=i.n_detectors,
        seeing_arcsec=m.seeing_arcsec if m else None,
        ellipticity=m.ellipticity if m else None,
        background_adu=m.background_adu if m else None,
        noise_adu=m.noise_adu if m else None,
        limiting_mag=m.limiting_mag if m else None,
        n_stars=m.n_stars if m else None,
        zero_point_mag=m.zero_point_mag if m else None,
        mag_system=i.mag_system,
        skyprobe_mag=m.skyprobe_mag if m else None,
        grade=m.grade.value if m and m.grade else None,
        grade_source=m.grade_source.value if m and m.grade_source else None,
        state=i.state.value,
        reason=tuple(reasons),
        path=paths.of(i.file_id),
        position_source=i.position_source.value if i.position_source else None,
        frame_type=i.frame_type.value,
    )


@functools.cache
def _stacks_said() -> Select[ImageRow, MeasureRow, StackRow, SolutionRow]:
    """Return the statement of stacks, without bounds; to build it takes as long as to answer it."""
    newest = select(func.max(SolutionRow.id)).where(SolutionRow.plan_id == ImageRow.plan_id)
    return (
        select(ImageRow, MeasureRow, StackRow, SOLUTION)
        .join(StackRow, StackRow.image_id == ImageRow.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .outerjoin(SOLUTION, SOLUTION.id == newest.correlate(ImageRow).scalar_subquery())
    )


def list_stacks(
    session: Session,
    workspace: Workspace,
    where: Sequence[ColumnElement[bool]] = (),
    *,
    order: Sequence[Any] = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[StackEntry]:
    """Return stacks and calibrated copies as the JSON contract has them."""
    query = _stacks_said().where(*where).order_by(*order, ImageRow.id).limit(limit).offset(offset)
    rows = [(i, m, s, solved) for i, m, s, solved in session.execute(query)]
    ids = [i.id for i, _, _, _ in rows]
    files = _stack_files(session, ids)
    paths = Paths(session, workspace, [i.file_id for i, _, _, _ in rows] + list(files.values()))
    delivered = _delivered(session, workspace, ids)
    stale = stale_stacks(session, ids)
    return [_stack_entry(i, m, s, solved, files, paths, delivered.get(i.id), i.id in stale) for i, m, s, solved in rows]


def _ids() -> Any:
    return any_(bindparam("ids", type_=ARRAY(BigInteger)))


@functools.cache
def _stack_files_said() -> Select[int | None, str, int]:
    return (
        select(ProductRow.image_id, ProductRow.role, ProductRow.file_id)
        .where(ProductRow.image_id == _ids(), ProductRow.role.in_((Role.WEIGHT, Role.CATALOGUE)))
        .order_by(ProductRow.id)
    )


def _stack_files(session: Session, ids: Sequence[int]) -> dict[tuple[int, str], int]:
    rows = session.execute(_stack_files_said(), {"ids": list(ids)}) if ids else ()
    return {(i, role): f for i, role, f in rows if i is not None}


@functools.cache
def _delivered_said() -> Select[int, str, str]:
    return (
        select(DeliveryRow.image_id, NodeRow.name, DeliveryRow.folder)
        .join(NodeRow, NodeRow.id == DeliveryRow.node_id)
        .where(DeliveryRow.image_id == _ids())
        .order_by(DeliveryRow.id)
    )


def _delivered(session: Session, workspace: Workspace, ids: Sequence[int]) -> dict[int, str]:
    found = {}
    for image_id, node, folder in session.execute(_delivered_said(), {"ids": list(ids)}) if ids else ():
        roots = workspace.roots if node == workspace.node else workspace.peer_roots(node) or {}
        if "outgoing" in roots:
            found[image_id] = str(roots["outgoing"] / folder)
    return found


def _stack_entry(
    i: ImageRow,
    m: MeasureRow | None,
    s: StackRow,
    solution: SolutionRow | None,
    files: dict[tuple[int, str], int],
    paths: Paths,
    delivered: str | None,
    stale: bool,
) -> StackEntry:
    return StackEntry(
        id=i.id,
        name=i.name,
        kind=i.kind.value,
        mode=s.mode.value,
        object=i.object,
        filter=i.filter,
        path=paths.of(i.file_id),
        weight_path=paths.of(files.get((i.id, Role.WEIGHT.value))),
        catalogue_path=paths.of(files.get((i.id, Role.CATALOGUE.value))),
        n_inputs=s.n_inputs,
        exptime_s=i.exptime_s,
        seeing_arcsec=m.seeing_arcsec if m else None,
        limiting_mag=m.limiting_mag if m else None,
        zero_point_mag=s.zero_point_mag,
        mag_system=i.mag_system,
        astrometry=AstrometrySummary(
            solution.internal_mas if solution else None,
            solution.reference_mas if solution else None,
            solution.n_reference if solution else None,
        ),
        photometry=PhotometrySummary(
            solution.internal_mag if solution else None, solution.reference_mag if solution else None
        ),
        grade=m.grade.value if m and m.grade else None,
        grade_source=m.grade_source.value if m and m.grade_source else None,
        state=i.state.value,
        delivered_path=delivered,
        stale=stale,
        plan=i.plan_id,
        ra_deg=i.ra_deg,
        dec_deg=i.dec_deg,
    )


def list_jobs(
    session: Session,
    workspace: Workspace,
    where: Sequence[ColumnElement[bool]] = (),
    *,
    newest_first: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> list[JobEntry]:
    """Return jobs as the JSON contract has them, each with its last attempt."""
    last = select(func.max(AttemptRow.id)).where(AttemptRow.job_id == JobRow.id).correlate(JobRow).scalar_subquery()
    query = (
        select(JobRow, AttemptRow, NodeRow.name)
        .outerjoin(AttemptRow, AttemptRow.id == last)
        .outerjoin(NodeRow, NodeRow.id == AttemptRow.node_id)
        .where(*where)
        .order_by(JobRow.id.desc() if newest_first else JobRow.id)
        .limit(limit)
        .offset(offset)
    )
    return [_job_entry(j, a, node, workspace) for j, a, node in session.execute(query)]


def _job_entry(j: JobRow, a: AttemptRow | None, node: str | None, workspace: Workspace) -> JobEntry:
    roots = workspace.roots if node in (None, workspace.node) else workspace.peer_roots(node or "") or {}
    jobs = roots.get("jobs", workspace.roots["jobs"])
    return JobEntry(
        id=j.id,
        kind=j.kind,
        state=j.state.value,
        attempts=a.number if a else 0,
        node=node,
        exit_code=a.exit_code if a else None,
        error=j.error_text,
        script=str(job_folder(jobs, j.id) / "run.sh"),
        log=str(attempt_folder(jobs, j.id, a.number) / "log.txt") if a else None,
        seconds=a.seconds if a else None,
        plan=j.plan_id,
        label=j.label,
        engine=j.engine,
        error_kind=j.error_kind,
        image=j.image_id,
    )


def list_nodes(session: Session, *, placed: bool = False) -> list[NodeEntry]:
    """Return nodes as the JSON contract has them; alive by the database's clock.

    `placed`: with the groups that go to each, by one statement more; else `placements` is empty.
    """
    going: dict[int, list[PlacementEntry]] = defaultdict(list)
    for p in list_placements(session, None) if placed else ():
        entry = PlacementEntry(p.run or "every", p.filter or "every", p.chosen, p.person, p.created_at.isoformat())
        going[p.node_id].append(entry)
    return [
        NodeEntry(
            id=n.id,
            name=n.name,
            host=n.host,
            state=n.state.value,
            alive=n.alive,
            slots=n.slots,
            busy=n.busy,
            seen_at=n.seen_at.isoformat() if n.seen_at else None,
            disk_free_bytes=n.disk_free_bytes,
            load=n.load,
            drained_at=n.drain.at.isoformat() if n.drain else None,
            drained_by=n.drain.person if n.drain else None,
            drained_why=n.drain.why if n.drain else None,
            placements=tuple(sorted(going[n.id], key=lambda p: (p.run, p.filter))),
        )
        for n in read_nodes(session)
    ]


def count_states(session: Session) -> dict[str, dict[str, int]]:
    """Return how many images (by kind) and jobs stand in each state."""
    counts: dict[str, dict[str, int]] = {"exposure": {}, "stack": {}, "calibrated": {}, "job": {}}
    for kind, state, n in session.execute(
        select(ImageRow.kind, ImageRow.state, func.count()).group_by(ImageRow.kind, ImageRow.state)
    ):
        counts[kind.value][state.value] = n
    for job_state, n in session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)):
        counts["job"][job_state.value] = n
    return counts

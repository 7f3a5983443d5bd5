"""Assesses known exposures again, by today's profiles, masters and recipe; what was recorded before stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.image import near_names
from spica.db.job import live_inputs
from spica.db.plan import add_plan, know_recipe
from spica.db.selection import compile_rule
from spica.db.tables.file import FileRow
from spica.db.tables.image import HeaderRow, ImageRow, MeasureRow
from spica.db.tables.job import AttemptRow, JobRow, OutcomeRow
from spica.files.header import unpack_headers
from spica.files.workspace import Workspace
from spica.instruments.registry import Registry, load_instruments
from spica.model.association import Mode
from spica.model.errors import NothingToDoError, UsageError
from spica.model.image import ImageKind, ImageState
from spica.model.job import FileRef, Input, JobKind, Request, item_of_file
from spica.model.product import MAP_ROLES, Role
from spica.model.recipe import Recipe
from spica.model.record import from_json
from spica.model.selection import parse_rule
from spica.scheduling.intake import plan_assessments
from spica.scheduling.master import attach_masters

ALL = (ImageState.REGISTERED, ImageState.ASSESSED, ImageState.CALIBRATED, ImageState.FAILED, ImageState.REJECTED)


@dataclass(frozen=True)
class AgainWish:
    """Which exposures: names or ids, a rule, those that were rejected or failed; all bounds hold together."""

    names: tuple[str, ...] = ()
    rule: str | None = None
    rejected: bool = False


@dataclass
class Reassessed:
    """What was planned, and exposures that wait in a job already."""

    plan_id: int | None = None
    jobs: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def reassess(
    database: Database, workspace: Workspace, wish: AgainWish, recipe: Recipe, person_id: int | None = None
) -> Reassessed:
    """Plan the assessment of known exposures anew.

    Raises
    ------
    UsageError
        Where neither names, rule nor `rejected` bound the wish, or a name is unknown.
    NothingToDoError
        Where no exposure fits.
    """
    if not (wish.names or wish.rule or wish.rejected):
        raise UsageError("say which: names of images, --rule, or --rejected")
    registry = load_instruments(workspace.instruments_folder)
    done = Reassessed()
    with database.begin() as session:
        rows = _rows(session, wish)
        waiting = live_inputs(session, JobKind.ASSESS)
        ready = []
        for image, file in rows:
            busy = item_of_file(file.id) in waiting
            (done.waiting if busy else done.names).append(image.name)
            if not busy:
                ready.append((image, file))
        if not rows:
            raise NothingToDoError("no exposure fits; see: spica images")
        if ready:
            _plan(session, workspace, registry, ready, recipe, done, person_id)
    return done


def reassess_job(
    database: Database, workspace: Workspace, job_id: int, recipe: Recipe, person_id: int | None = None
) -> Reassessed:
    """Plan the assessment of the exposures of one job anew, also of those that it did not get to register.

    Raises
    ------
    UsageError
        Where there is no such job, or it assesses nothing.
    """
    registry = load_instruments(workspace.instruments_folder)
    done = Reassessed()
    with database.begin() as session:
        job = session.get(JobRow, job_id)
        if job is None or job.kind != JobKind.ASSESS:
            raise UsageError(f"job {job_id} assesses no exposure; plan its association again instead")
        request = from_json(Request, json.loads(job.request), "request")
        waiting = live_inputs(session, JobKind.ASSESS)
        given = {i.file.id: i for i in request.inputs if i.role == Role.EXPOSURE and i.file is not None}
        refs = [i.file for i in given.values() if i.file is not None and item_of_file(i.file.id) not in waiting]
        done.waiting = [i.file.name for i in given.values() if i.file is not None and i.file not in refs]
        if not refs:
            return done
        going = _inputs_of(session, registry, refs, request)
        done.names = [r.name for r in refs]
        label = f"assess {len(refs)} exposures of job {job_id} again"
        recipe_id = know_recipe(session, recipe)
        done.plan_id = add_plan(session, mode=Mode.INGEST, label=label, recipe_id=recipe_id, person_id=person_id)
        done.jobs = plan_assessments(session, workspace, done.plan_id, refs, recipe, going)
    return done


def _inputs_of(
    session: Session, registry: Registry, refs: Sequence[FileRef], request: Request
) -> dict[int, list[Input]]:
    """Return the maps that went with files in a request, and the masters that count today by their kept headers."""
    query = (
        select(ImageRow.file_id, HeaderRow.cards, ImageRow.name)
        .join(HeaderRow, HeaderRow.image_id == ImageRow.id)
        .where(ImageRow.file_id.in_([r.id for r in refs]))
    )
    headers = [(i, unpack_headers(cards), name) for i, cards, name in session.execute(query) if i is not None]
    going = attach_masters(session, registry, headers)
    kept = {i for i, _, _ in headers}
    for ref in refs:
        item = item_of_file(ref.id)
        with_it = [i for i in request.inputs if i.item == item and i.role != Role.EXPOSURE]
        wanted = [i for i in with_it if i.role in MAP_ROLES.values() or ref.id not in kept]
        going.setdefault(ref.id, []).extend(wanted)
    return going


def _rows(session: Session, wish: AgainWish) -> list[tuple[ImageRow, FileRow]]:
    query = (
        select(ImageRow, FileRow)
        .join(FileRow, FileRow.id == ImageRow.file_id)
        .join(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == ImageKind.EXPOSURE, ImageRow.state.in_(ALL))
        .order_by(ImageRow.id)
    )
    if wish.names:
        ids = [int(n) for n in wish.names if n.isdecimal() and len(n) < 19]
        query = query.where(or_(ImageRow.name.in_(wish.names), ImageRow.id.in_(ids)))
    if wish.rule is not None:
        query = query.where(compile_rule(parse_rule(wish.rule)))
    if wish.rejected:
        query = query.where(ImageRow.state.in_((ImageState.REJECTED, ImageState.FAILED)))
    rows = [(image, file) for image, file in session.execute(query)]
    _check_names(session, wish, rows)
    return rows


def _check_names(session: Session, wish: AgainWish, rows: Sequence[tuple[ImageRow, FileRow]]) -> None:
    """Raise where a name is no exposure's; those that the other bounds shut out are not missed."""
    found = {image.name for image, _ in rows} | {str(image.id) for image, _ in rows}
    for name in wish.names:
        if name in found or wish.rule is not None or wish.rejected:
            continue
        near = " ".join(near_names(session, name))
        raise UsageError(f"no exposure is called {name!r}" + (f"; near: {near}" if near else "; see: spica images"))


def _plan(
    session: Session,
    workspace: Workspace,
    registry: Registry,
    rows: Sequence[tuple[ImageRow, FileRow]],
    recipe: Recipe,
    done: Reassessed,
    person_id: int | None,
) -> None:
    refs = [FileRef(f.id, f.sha256, f.name, f.size) for _, f in rows]
    query = select(HeaderRow.image_id, HeaderRow.cards).where(HeaderRow.image_id.in_([image.id for image, _ in rows]))
    cards = {row.image_id: row.cards for row in session.execute(query)}
    headers = ((f.id, unpack_headers(cards[image.id]), f.name) for image, f in rows if image.id in cards)
    going = attach_masters(session, registry, headers)
    for file_id, maps in _maps(session, refs).items():
        going.setdefault(file_id, []).extend(maps)
    label = f"assess {len(refs)} exposures again"
    recipe_id = know_recipe(session, recipe)
    done.plan_id = add_plan(session, mode=Mode.INGEST, label=label, recipe_id=recipe_id, person_id=person_id)
    done.jobs = plan_assessments(session, workspace, done.plan_id, refs, recipe, going)


def _maps(session: Session, refs: Sequence[FileRef]) -> dict[int, list[Input]]:
    """Return the maps that went with each file when it was assessed last."""
    query = (
        select(OutcomeRow.file_id, JobRow.request)
        .join(AttemptRow, AttemptRow.id == OutcomeRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(OutcomeRow.file_id.in_([r.id for r in refs]), JobRow.kind == JobKind.ASSESS)
        .order_by(AttemptRow.id)
    )
    found: dict[int, list[Input]] = {}
    for file_id, text in session.execute(query):
        if file_id is None:
            continue
        request = from_json(Request, json.loads(text), "request")
        item = item_of_file(file_id)
        found[file_id] = [i for i in request.inputs if i.item == item and i.role in MAP_ROLES.values()]
    return found

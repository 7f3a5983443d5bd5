"""Master calibrations: given ones are registered, raw frames are grouped and their combination planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from spica.db.calibration import BY_FILTER, Master, find_masters, has_masters, known_masters, register_master
from spica.db.engine import Database
from spica.db.file import know_file, know_location
from spica.db.node import know_node
from spica.db.plan import add_plan, know_recipe, standing_plan
from spica.db.product import current_products
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.files.checksum import sha256_file
from spica.files.header import HeaderCards
from spica.files.scan import read_headers
from spica.files.slug import slug
from spica.files.workspace import Workspace
from spica.instruments.facts import ExposureFacts
from spica.instruments.registry import Registry, load_instruments, translate
from spica.model.association import Mode
from spica.model.calibration import MasterKind, Validity, Wanted
from spica.model.errors import DataError, NothingToDoError, UsageError
from spica.model.image import FileKind, FrameType, ImageKind, ImageState
from spica.model.job import FileRef, Input, JobKind, item_of_file, item_of_image
from spica.model.product import Role
from spica.model.recipe import Recipe
from spica.model.record import canonical_sha256, to_json
from spica.scheduling.submit import Draft, Upstream, submit_jobs

FRAME_OF = {MasterKind.BIAS: FrameType.BIAS, MasterKind.DARK: FrameType.DARK, MasterKind.FLAT: FrameType.FLAT}
"""Raw frames that each kind is made of; fringe patterns are made of science frames."""
CORRECTED_BY = {
    MasterKind.BIAS: (),
    MasterKind.DARK: (MasterKind.BIAS,),
    MasterKind.FLAT: (MasterKind.BIAS, MasterKind.DARK),
    MasterKind.FRINGE: (),
}
"""Masters that the frames of each kind are corrected with first, so the order in which they are made."""


@dataclass(frozen=True)
class MasterWish:
    """Which masters to make: kinds, bounds of the raw frames, and whether one a run or one a night."""

    kinds: tuple[MasterKind, ...]
    instrument: str | None = None
    filter: str | None = None
    run: str | None = None
    night: str | None = None
    by_night: bool = False


@dataclass(frozen=True)
class Frame:
    """One raw frame with its files by role."""

    image_id: int
    mjd: float | None
    files: dict[str, FileRef]


@dataclass(frozen=True)
class FrameGroup:
    """Raw frames that make one master."""

    kind: MasterKind
    instrument: str
    filter: str | None
    run: str | None
    night: str | None
    exptime_s: float | None
    frames: tuple[Frame, ...]

    @property
    def name(self) -> str:
        """Return the slug of the master: kind, camera, filter, exposure time, run, night."""
        seconds = f"{self.exptime_s:g}s" if self.exptime_s is not None else None
        words = (self.kind.value, self.instrument, self.filter, seconds, self.run, self.night)
        return "_".join(slug(word) for word in words if word)


@dataclass
class MastersPlanned:
    """What was planned, what stands already, and groups that are too small."""

    groups: list[FrameGroup] = field(default_factory=list)
    jobs: list[int] = field(default_factory=list)
    known: list[FrameGroup] = field(default_factory=list)
    small: list[FrameGroup] = field(default_factory=list)


def wanted_of(facts: ExposureFacts) -> Wanted:
    """Return what an exposure asks of its masters."""
    return Wanted(facts.instrument, facts.filter, facts.run, facts.night, facts.mjd, facts.exptime_s)


def master_inputs(masters: dict[MasterKind, Master], item: str | None) -> tuple[Input, ...]:
    """Return masters as inputs of a job: the role of each is its kind."""
    return tuple(Input(kind.value, item, master.file) for kind, master in sorted(masters.items()))


def attach_masters(
    session: Session, registry: Registry, exposures: Mapping[int, tuple[Sequence[HeaderCards], str]]
) -> dict[int, list[Input]]:
    """Return the masters that exposures get, as inputs of their assessment by the number of their file.

    `exposures` gives headers and name of each file. What cannot be translated gets none: its assessment says why.
    """
    if not has_masters(session):
        return {}
    found: dict[int, list[Input]] = {}
    for file_id, (headers, name) in exposures.items():
        try:
            facts = translate(registry.recognise(headers, name), headers, name)
        except DataError:
            continue
        if facts.frame_type == "science":
            masters = find_masters(session, wanted_of(facts))
            found[file_id] = list(master_inputs(masters, item_of_file(file_id)))
    return found


# Masters that come as they are ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What a person says of master files; None: as the header says."""

    kind: MasterKind
    instrument: str | None = None
    filter: str | None = None
    run: str | None = None
    any_run: bool = False
    first_night: str | None = None
    last_night: str | None = None


def add_masters(
    database: Database, workspace: Workspace, paths: Sequence[Path], given: Given
) -> list[tuple[Path, int]]:
    """Register master files where they lie; return each with its number.

    Raises
    ------
    DataError
        Where a file is no FITS image.
    UsageError
        Where neither the header nor the person says the camera, or the filter of a flat.
    """
    registry = load_instruments(workspace.instruments_folder)
    described = []
    for path in paths:
        headers = read_headers(path)
        instrument = registry.recognise(headers, path.name)
        try:
            facts = translate(instrument, headers, path.name)
        except DataError:
            facts = None
        described.append((path, sha256_file(path), _validity(path, given, facts), facts.mjd if facts else None))
    workspace.save_roots()
    added = []
    with database.begin() as session:
        node_id = know_node(session, workspace.node)
        for path, sha256, validity, mjd in described:
            file_id = know_file(session, sha256, path.stat().st_size, FileKind.CALIBRATION, path.name)
            root, relative = workspace.locate(path.absolute())
            know_location(session, file_id, node_id, root, relative)
            added.append((path, register_master(session, file_id, given.kind, validity, mjd=mjd)))
    return added


def _validity(path: Path, given: Given, facts: ExposureFacts | None) -> Validity:
    instrument = given.instrument or (facts.instrument if facts else None)
    if instrument is None:
        raise UsageError(f"{path.name} does not say its camera; say --instrument (see: spica camera list)")
    return Validity(
        instrument=instrument,
        filter=given.filter or (facts.filter if facts and facts.filter != "none" else None),
        run=None if given.any_run else given.run or (facts.run if facts else None),
        first_night=given.first_night,
        last_night=given.last_night,
    )


# Masters made of raw frames -------------------------------------------------------------------------------------------


def make_masters(database: Database, wish: MasterWish, recipe: Recipe, *, dry_run: bool = False) -> MastersPlanned:
    """Group the raw frames in hand and plan one job a group: biases, then darks, then flats, each after those it needs.

    Raises
    ------
    NothingToDoError
        Where no raw frame fits the wish.
    """
    planned = MastersPlanned()
    with database.begin() as session:
        groups = [g for kind in FRAME_ORDER if kind in wish.kinds for g in find_groups(session, wish, kind)]
        if not groups:
            words = " ".join(kind.value for kind in wish.kinds)
            raise NothingToDoError(f"no raw frames for {words}; ingest some first (see: spica images --json)")
        for group in groups:
            enough = len(group.frames) >= recipe.master.min_frames
            (planned.groups if enough else planned.small).append(group)
        if not dry_run:
            _submit(session, planned, recipe)
    return planned


FRAME_ORDER = (MasterKind.BIAS, MasterKind.DARK, MasterKind.FLAT, MasterKind.FRINGE)


def find_groups(session: Session, wish: MasterWish, kind: MasterKind) -> list[FrameGroup]:
    """Return the groups of raw frames of one kind: alike in camera, run, filter (flats), exposure time (darks)."""
    rows = list(session.execute(_frames(wish, kind)))
    roles = [Role.FACTS.value, Role.WEIGHT.value, Role.DETRENDED.value]
    files = current_products(session, [image.id for image, _ in rows], roles)
    groups: dict[tuple[str | float | None, ...], list[Frame]] = {}
    for image, pixels in rows:
        given = {r: _ref(files[image.id, r]) for r in roles if (image.id, r) in files}
        if Role.FACTS.value not in given:
            continue
        given.setdefault(Role.DETRENDED.value, _ref(pixels))
        given[Role.EXPOSURE.value] = given.pop(Role.DETRENDED.value)
        key = (
            image.instrument,
            image.filter if kind in BY_FILTER else None,
            image.run,
            str(image.night) if wish.by_night else None,
            round(image.exptime_s or 0.0, 1) if kind is MasterKind.DARK else None,
            image.n_detectors,
        )
        groups.setdefault(key, []).append(Frame(image.id, image.mjd, given))
    return [_group(kind, key, tuple(frames)) for key, frames in sorted(groups.items(), key=lambda g: str(g[0]))]


def _group(kind: MasterKind, key: tuple[str | float | None, ...], frames: tuple[Frame, ...]) -> FrameGroup:
    instrument, filter_name, run, night, exptime, _ = key
    texts = [None if word is None else str(word) for word in (filter_name, run, night)]
    seconds = float(exptime) if exptime is not None else None
    return FrameGroup(kind, str(instrument), texts[0], texts[1], texts[2], seconds, frames)


def _frames(wish: MasterWish, kind: MasterKind) -> Select[ImageRow, FileRow]:
    """Return the statement over raw frames of a kind within the bounds of a wish."""
    query = (
        select(ImageRow, FileRow)
        .join(FileRow, FileRow.id == ImageRow.file_id)
        .where(ImageRow.kind == ImageKind.EXPOSURE, ImageRow.instrument.is_not(None))
        .order_by(ImageRow.mjd, ImageRow.id)
    )
    if kind is MasterKind.FRINGE:
        query = query.where(ImageRow.frame_type == FrameType.SCIENCE, ImageRow.quality_id.is_not(None))
    else:
        query = query.where(ImageRow.frame_type == FRAME_OF[kind], ImageRow.state == ImageState.REGISTERED)
    bounds = {ImageRow.instrument: wish.instrument, ImageRow.run: wish.run, ImageRow.night: wish.night}
    if kind in BY_FILTER:
        bounds[ImageRow.filter] = wish.filter
    for column, value in bounds.items():
        if value is not None:
            query = query.where(column == value)
    return query


def _ref(file: FileRow) -> FileRef:
    return FileRef(file.id, file.sha256, file.name, file.size)


def _submit(session: Session, planned: MastersPlanned, recipe: Recipe) -> None:
    """Record one plan for all groups whose very master is not there already; edges follow what corrects what."""
    keys = {g.name: _key(g, recipe) for g in planned.groups}
    made = known_masters(session, keys.values())
    planned.known = [g for g in planned.groups if keys[g.name] in made]
    planned.groups = [g for g in planned.groups if keys[g.name] not in made]
    if not planned.groups:
        return
    whole = canonical_sha256([keys[g.name] for g in planned.groups])
    if standing_plan(session, whole) is not None:
        planned.known, planned.groups = [*planned.known, *planned.groups], []
        return
    drafts: list[Draft] = []
    for i, group in enumerate(planned.groups):
        drafts.append(_draft(session, group, planned.groups[:i], recipe, keys[group.name]))
    label = f"{len(drafts)} masters of {', '.join(sorted({g.instrument for g in planned.groups}))}"
    plan_id = add_plan(
        session, mode=Mode.MASTER, label=label, recipe_id=know_recipe(session, recipe), product_hash=whole
    )
    planned.jobs = submit_jobs(session, plan_id, drafts)


def _key(group: FrameGroup, recipe: Recipe) -> str:
    """Return what makes a master this very one: its frames and what the recipe says of combining."""
    frames = sorted(f.files[Role.EXPOSURE.value].sha256 for f in group.frames)
    return canonical_sha256({"name": group.name, "frames": frames, "recipe": to_json(recipe.master)})


def _draft(session: Session, group: FrameGroup, before: Sequence[FrameGroup], recipe: Recipe, key: str) -> Draft:
    """Return the job of one group; what corrects its frames is made by an earlier job, else registered already."""
    files = tuple(
        Input(role, item_of_image(f.image_id), f.files[role])
        for f in group.frames
        for role in (Role.EXPOSURE.value, Role.FACTS.value, Role.WEIGHT.value)
        if role in f.files
    )
    upstream: dict[MasterKind, Upstream] = {}
    for i, other in enumerate(before):
        if other.kind in CORRECTED_BY[group.kind] and _serves(other, group):
            upstream[other.kind] = Upstream(other.kind.value, i, other.kind.value)
    wanted = Wanted(group.instrument, group.filter, group.run, group.night, _mean_mjd(group), group.exptime_s)
    known = find_masters(session, wanted)
    given = {k: m for k, m in known.items() if k in CORRECTED_BY[group.kind] and k not in upstream}
    return Draft(
        kind=JobKind.MASTER,
        engine="native",
        label=f"master {group.name} of {len(group.frames)} frames",
        recipe=recipe,
        files=files + master_inputs(given, None),
        upstream=tuple(upstream.values()),
        needs=tuple(u.draft for u in upstream.values()),
        facts={
            "name": group.name,
            "kind": group.kind.value,
            "key": key,
            "validity": to_json(Validity(group.instrument, group.filter, group.run)),
        },
        min_inputs=recipe.master.min_frames,
    )


def _serves(master: FrameGroup, group: FrameGroup) -> bool:
    """Whether a master that is being made corrects the frames of another group."""
    alike = (master.instrument, master.run) == (group.instrument, group.run)
    return alike and (master.night is None or group.night is None or master.night == group.night)


def _mean_mjd(group: FrameGroup) -> float | None:
    known = [f.mjd for f in group.frames if f.mjd is not None]
    return sum(known) / len(known) if known else None

"""Master calibrations: given to exposures as inputs; raw frames are grouped and their combination planned."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from spica.db.calibration import (
    BY_FILTER,
    Master,
    choose_masters,
    find_masters,
    has_masters,
    known_masters,
    masters_of_cameras,
    read_night,
)
from spica.db.engine import Database
from spica.db.plan import add_plan, know_recipe
from spica.db.tables.calibration import CalibrationRow, CalibrationUseRow
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow
from spica.db.tables.product import ProductRow
from spica.files.header import HeaderCards
from spica.files.slug import slug
from spica.instruments.facts import ExposureFacts
from spica.instruments.registry import Registry, translate
from spica.model.association import Mode
from spica.model.calibration import MasterKind, Validity, Wanted
from spica.model.errors import DataError, NothingToDoError
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.job import ENDED, FileRef, Input, JobKind, item_of_file, item_of_image
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
    exptime_s: float | None
    night: str | None
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

    @property
    def wanted(self) -> Wanted:
        """Return what these frames ask of the masters that correct them; a night only where all are of that one."""
        nights = {f.night for f in self.frames}
        night = nights.pop() if len(nights) == 1 else None
        mjd, exptime = (_mean(v) for v in ([f.mjd for f in self.frames], [f.exptime_s for f in self.frames]))
        return Wanted(self.instrument, self.filter, self.run, night, mjd, exptime)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class _Work:
    """A group with the hash of its master, groups by place that correct its frames, and masters that do so already."""

    group: FrameGroup
    key: str
    by_group: dict[MasterKind, int]
    by_master: dict[MasterKind, Master]


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
    session: Session, registry: Registry, exposures: Iterable[tuple[int, Sequence[HeaderCards], str]]
) -> dict[int, list[Input]]:
    """Return the masters that exposures get, as inputs of their assessment by the number of their file.

    `exposures` yields number, headers and name of each file; nothing is drawn from it where there are no masters. What
    cannot be translated gets none: its assessment says why. Two statements, however many exposures there are.
    """
    if not has_masters(session):
        return {}
    wanted: dict[int, Wanted] = {}
    for file_id, headers, name in exposures:
        with contextlib.suppress(DataError):
            facts = translate(registry.recognise(headers, name), headers, name)
            if facts.frame_type == "science":
                wanted[file_id] = wanted_of(facts)
    masters = masters_of_cameras(session, [w.instrument for w in wanted.values()])
    return {i: list(master_inputs(choose_masters(masters, w), item_of_file(i))) for i, w in wanted.items()}


# Masters made of raw frames -------------------------------------------------------------------------------------------


def make_masters(database: Database, wish: MasterWish, recipe: Recipe, *, dry_run: bool = False) -> MastersPlanned:
    """Group the raw frames in hand and plan one job a group: biases, then darks, then flats, each after those it needs.

    A group whose very master is in use, or is being made, is not planned again: the same frames, the same recipe, the
    same masters before it. A dry run records nothing.

    Raises
    ------
    NothingToDoError
        Where no raw frame fits the wish.
    """
    planned = MastersPlanned()
    with database.begin() as session:
        session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        groups = [g for kind in FRAME_ORDER if kind in wish.kinds for g in find_groups(session, wish, kind)]
        if not groups:
            words = " ".join(kind.value for kind in wish.kinds)
            raise NothingToDoError(f"no raw frames for {words}; ingest some first (see: spica images --json)")
        for group in groups:
            enough = len(group.frames) >= recipe.master.min_frames
            (planned.groups if enough else planned.small).append(group)
        works = _works(session, planned.groups, recipe)
        registered = known_masters(session, [w.key for w in works])
        making = _to_make(session, works, registered)
        planned.known = [w.group for i, w in enumerate(works) if i not in making]
        planned.groups = [works[i].group for i in making]
        if making and not dry_run:
            planned.jobs = _submit(session, works, making, registered, recipe)
    return planned


_LOCK = 0x6D617374
"""Two people who make masters at the same time do so one after the other."""
FRAME_ORDER = (MasterKind.BIAS, MasterKind.DARK, MasterKind.FLAT, MasterKind.FRINGE)


def find_groups(session: Session, wish: MasterWish, kind: MasterKind) -> list[FrameGroup]:
    """Return the groups of raw frames of one kind: alike in camera, run, filter (flats), exposure time (darks)."""
    rows = list(session.execute(_frames(wish, kind)))
    files = _files(session, [image.id for image, _ in rows])
    groups: dict[tuple[str | float | None, ...], list[Frame]] = {}
    for image, pixels in rows:
        given = dict(files.get(image.id, {}))
        if Role.FACTS.value not in given:
            continue
        given[Role.EXPOSURE.value] = given.pop(Role.DETRENDED.value, _ref(pixels))
        key = (
            image.instrument,
            image.filter if kind in BY_FILTER else None,
            image.run,
            str(image.night) if wish.by_night else None,
            round(image.exptime_s or 0.0, 1) if kind is MasterKind.DARK else None,
            image.n_detectors,
        )
        groups.setdefault(key, []).append(
            Frame(image.id, image.mjd, image.exptime_s, str(image.night) if image.night else None, given)
        )
    return [_group(kind, key, tuple(frames)) for key, frames in sorted(groups.items(), key=lambda g: str(g[0]))]


def _files(session: Session, image_ids: Sequence[int]) -> dict[int, dict[str, FileRef]]:
    """Return facts, weight and detrended pixels of frames, all of the newest attempt that did not remove fringes."""
    defringed = select(CalibrationUseRow.attempt_id).where(
        CalibrationUseRow.image_id == ProductRow.image_id,
        CalibrationUseRow.attempt_id == ProductRow.attempt_id,
        CalibrationUseRow.calibration_id == CalibrationRow.id,
        CalibrationUseRow.corrected,
        CalibrationRow.kind == MasterKind.FRINGE,
    )
    roles = (Role.FACTS.value, Role.WEIGHT.value, Role.DETRENDED.value)
    query = (
        select(ProductRow.image_id, ProductRow.attempt_id, ProductRow.role, FileRow)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .where(ProductRow.image_id.in_(image_ids), ProductRow.role.in_(roles), ~defringed.exists())
        .order_by(ProductRow.attempt_id, ProductRow.id)
    )
    found: dict[int, tuple[int, dict[str, FileRef]]] = {}
    for image_id, attempt_id, role, file in session.execute(query):
        if image_id is not None:
            if found.get(image_id, (0, {}))[0] != attempt_id:
                found[image_id] = (attempt_id, {})
            found[image_id][1][role] = _ref(file)
    return {image_id: files for image_id, (_, files) in found.items()}


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
    bounds = {ImageRow.instrument: wish.instrument, ImageRow.run: wish.run}
    if kind in BY_FILTER:
        bounds[ImageRow.filter] = wish.filter
    for column, value in bounds.items():
        if value is not None:
            query = query.where(column == value)
    return query if wish.night is None else query.where(ImageRow.night == read_night(wish.night))


def _ref(file: FileRow) -> FileRef:
    return FileRef(file.id, file.sha256, file.name, file.size)


def _works(session: Session, groups: Sequence[FrameGroup], recipe: Recipe) -> list[_Work]:
    """Return for each group what corrects its frames: the master of an earlier group, else one that is in use."""
    works: list[_Work] = []
    for group in groups:
        by_group: dict[MasterKind, int] = {}
        for kind in CORRECTED_BY[group.kind]:
            serving = [i for i, w in enumerate(works) if w.group.kind is kind and _serves(w.group, group)]
            if serving:
                by_group[kind] = min(serving, key=lambda i: _distance(works[i].group, group))
        registered = find_masters(session, group.wanted)
        by_master = {k: m for k, m in registered.items() if k in CORRECTED_BY[group.kind] and k not in by_group}
        before = [works[i].key for i in by_group.values()]
        before += [m.product_hash or m.file.sha256 for m in by_master.values()]
        works.append(_Work(group, _key(group, before, recipe), by_group, by_master))
    return works


def _distance(master: FrameGroup, group: FrameGroup) -> float:
    """Return how far the exposure time of a master's frames is from that of a group: the log of their ratio."""
    one, other = master.wanted.exptime_s, group.wanted.exptime_s
    return abs(math.log(one / other)) if one and other else math.inf


def _to_make(session: Session, works: Sequence[_Work], registered: Mapping[str, Master]) -> list[int]:
    """Return the places of what is neither in use nor being made, with what these need from jobs still running."""
    coming = _coming(session)
    making = {i for i, w in enumerate(works) if w.key not in registered and w.key not in coming}
    for i in reversed(range(len(works))):
        if i in making:
            making |= {j for j in works[i].by_group.values() if works[j].key not in registered}
    return sorted(making)


def _coming(session: Session) -> frozenset[str]:
    """Return the hashes of masters that jobs which have not ended will make."""
    query = select(JobRow.request).where(JobRow.kind == JobKind.MASTER, JobRow.state.not_in(ENDED))
    return frozenset(str(json.loads(text)["facts"].get("key")) for text in session.scalars(query))


def _submit(
    session: Session, works: Sequence[_Work], making: Sequence[int], registered: Mapping[str, Master], recipe: Recipe
) -> list[int]:
    """Record one plan for all masters to be made; edges follow what corrects what."""
    drafts = [_draft(works, i, {j: n for n, j in enumerate(making)}, registered, recipe) for i in making]
    label = f"{len(drafts)} masters of {', '.join(sorted({works[i].group.instrument for i in making}))}"
    plan_id = add_plan(session, mode=Mode.MASTER, label=label, recipe_id=know_recipe(session, recipe))
    return submit_jobs(session, plan_id, drafts)


def _key(group: FrameGroup, before: Sequence[str], recipe: Recipe) -> str:
    """Return what makes a master this very one: its frames, what corrects them, what the recipe says of combining."""
    frames = sorted(f.files[Role.EXPOSURE.value].sha256 for f in group.frames)
    facts = {"name": group.name, "frames": frames, "before": sorted(before), "recipe": to_json(recipe.master)}
    return canonical_sha256(facts)


def _draft(
    works: Sequence[_Work], index: int, places: Mapping[int, int], registered: Mapping[str, Master], recipe: Recipe
) -> Draft:
    """Return the job of one group; what corrects its frames is made by an earlier job, else registered already."""
    work = works[index]
    group = work.group
    files = tuple(
        Input(role, item_of_image(f.image_id), f.files[role])
        for f in group.frames
        for role in (Role.EXPOSURE.value, Role.FACTS.value, Role.WEIGHT.value)
        if role in f.files
    )
    made = {kind: places[j] for kind, j in work.by_group.items() if j in places}
    upstream = tuple(Upstream(kind.value, place, kind.value) for kind, place in made.items())
    given = work.by_master | {k: registered[works[j].key] for k, j in work.by_group.items() if k not in made}
    return Draft(
        kind=JobKind.MASTER,
        engine="native",
        label=f"master {group.name} of {len(group.frames)} frames",
        recipe=recipe,
        files=files + master_inputs(given, None),
        upstream=upstream,
        needs=tuple(u.draft for u in upstream),
        facts={
            "name": group.name,
            "kind": group.kind.value,
            "key": work.key,
            "validity": to_json(Validity(group.instrument, group.filter, group.run)),
        },
        min_inputs=recipe.master.min_frames,
    )


def _serves(master: FrameGroup, group: FrameGroup) -> bool:
    """Whether a master that is being made corrects the frames of another group."""
    alike = (master.instrument, master.run) == (group.instrument, group.run)
    return alike and (master.night is None or group.night is None or master.night == group.night)

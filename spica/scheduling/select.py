"""From a wish to jobs: judge candidates by rule, group them by mode, plan each association once, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.calibration import Master, masters_of_images
from spica.db.engine import Database
from spica.db.image import free_name, near_names, plan_image
from spica.db.mark import marks_of_images
from spica.db.plan import add_plan, know_recipe, pinned, product_of, replaced_plan, standing_plan
from spica.db.product import current_products
from spica.db.selection import Judged, association_filter, judge, record_selection
from spica.db.tables.calibration import CalibrationUseRow
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.product import ProductRow
from spica.files.slug import slug
from spica.files.workspace import Workspace
from spica.model.association import Association, Circle, Mode, Split
from spica.model.errors import NothingToDoError
from spica.model.image import FrameType, ImageKind
from spica.model.job import FileRef
from spica.model.product import Role
from spica.model.recipe import Recipe
from spica.model.selection import Candidate, parse_rule, rule_sha256
from spica.scheduling.field import Field, find_reference
from spica.scheduling.group import Grouping, Ungrouped, group_area, group_single, group_survey, members_of
from spica.scheduling.plan import Member, UsedMaster, draft_jobs, product_hash
from spica.scheduling.submit import submit_jobs
from spica.scheduling.wish import Wish

NEEDED = (Role.FACTS.value, Role.CATALOGUE.value)


@dataclass(frozen=True)
class Planned:
    """One association that was (or, in a dry run, would be) planned."""

    label: str
    members: tuple[int, ...]
    plan: int | None = None
    image: int | None = None
    jobs: tuple[int, ...] = ()


@dataclass
class Scheduled:
    """What came of a wish: plans made, plans that stand already, candidates in and out."""

    plans: list[Planned] = field(default_factory=list)
    known: list[Planned] = field(default_factory=list)
    chosen: list[Candidate] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)

    @property
    def jobs(self) -> list[int]:
        """Return all jobs made."""
        return [j for p in self.plans for j in p.jobs]

    def summary(self) -> dict[str, Any]:
        """Return the JSON contract of `schedule`: plans, known, in, out."""
        return {
            "plans": [
                {"plan": p.plan, "name": p.label, "image": p.image, "jobs": p.jobs, "in": p.members} for p in self.plans
            ],
            "known": [{"plan": p.plan, "name": p.label, "image": p.image} for p in self.known],
            "in": [{"id": c.image_id, "name": c.name} for c in self.chosen],
            "out": self.left_out,
        }

    def lines(self, dry_run: bool) -> list[str]:
        """Return the same for people."""
        verb = "would plan" if dry_run else "planned"
        lines = [f"{len(self.chosen)} exposures in, {len(self.left_out)} out"]
        lines += [f"  out {o['name']}: {o['clause']} ({o['value']})" for o in self.left_out]
        lines += [f"{verb} {p.label}: {len(p.members)} exposures" + _numbers(p) for p in self.plans]
        lines += [f"{p.label} is planned or made already (plan {p.plan}); nothing is done twice" for p in self.known]
        return lines


def _numbers(p: Planned) -> str:
    return f", plan {p.plan}, jobs {p.jobs[0]}-{p.jobs[-1]}" if p.jobs else ""


def schedule(
    database: Database, workspace: Workspace, wish: Wish, recipe: Recipe, *, dry_run: bool = False
) -> Scheduled:
    """Judge, group and plan. A dry run records nothing.

    Raises
    ------
    NothingToDoError
        Where no exposure passes the rule; the message says what kept most of them out.
    """
    with database.read() as session:
        judged = judge(session, parse_rule(wish.rule), _bounds(session, wish), lists=wish.lists)
        ready, unready = with_products(session, judged.chosen)
    done = Scheduled(chosen=ready, left_out=told_out(judged) + unready)
    grouping = group_wish(wish, recipe, ready)
    done.left_out += [told_ungrouped(u) for u in grouping.left_out]
    if not grouping.associations:
        raise NothingToDoError(_why_nothing(database, done, wish))
    labels = [label_of(a, {c.image_id: c for c in ready}) for a in grouping.associations]
    if dry_run:
        done.plans = [Planned(label, a.image_ids) for label, a in zip(labels, grouping.associations, strict=True)]
        return done
    fields = [
        find_reference(workspace, recipe, [c for c in ready if c.image_id in set(a.image_ids)])
        for a in grouping.associations
    ]
    with database.begin() as session:
        _record(
            session,
            workspace,
            wish,
            recipe,
            judged,
            list(zip(grouping.associations, labels, fields, strict=True)),
            done,
        )
    return done


def _bounds(session: Session, wish: Wish) -> list[Any]:
    bounds: list[Any] = association_filter(
        session, object_key=wish.object_key, filter_name=wish.filter, circle=wish.circle
    )
    return [*bounds, ImageRow.frame_type == FrameType.SCIENCE]


def with_products(session: Session, chosen: Sequence[Candidate]) -> tuple[list[Candidate], list[dict[str, Any]]]:
    """Part the chosen into those with facts and catalogue, and those whose assessment is missing."""
    files = current_products(session, [c.image_id for c in chosen], NEEDED)
    ready = [c for c in chosen if all((c.image_id, role) in files for role in NEEDED)]
    missing = [c for c in chosen if c not in ready]
    return ready, [
        {"id": c.image_id, "name": c.name, "clause": "not assessed", "value": c.state.value} for c in missing
    ]


def told_out(judged: Judged) -> list[dict[str, Any]]:
    return [
        {"id": o.candidate.image_id, "name": o.candidate.name, "clause": o.clause.text, "value": o.clause.value}
        for o in judged.left_out
    ]


def told_ungrouped(u: Ungrouped) -> dict[str, Any]:
    return {"id": u.image_id, "name": u.name, "clause": u.reason.text, "value": u.reason.value}


def group_wish(wish: Wish, recipe: Recipe, chosen: Sequence[Candidate]) -> Grouping:
    members, unfit = members_of(chosen)
    split = Split(recipe.stack.split)
    if wish.mode is Mode.SURVEY:
        grouping = group_survey(members, split)
    elif wish.mode is Mode.AREA:
        assert wish.circle is not None
        grouping = group_area(members, wish.circle, split)
    else:
        listed = wish.targets
        targets = {c.image_id for c in chosen if listed is None or c.name in listed or str(c.image_id) in listed}
        grouping = group_single(targets, members)
    return Grouping(grouping.associations, (*unfit, *grouping.left_out))


def _why_nothing(database: Database, done: Scheduled, wish: Wish) -> str:
    """Return what kept the candidates out, commonest clause first, and what to do."""
    if not done.left_out:
        with database.read() as session:
            total = session.scalar(
                select(func.count()).select_from(ImageRow).where(ImageRow.kind == ImageKind.EXPOSURE)
            )
            near = near_names(session, next(iter(wish.targets))) if wish.targets else []
        if near:
            return f"no exposure is called so; near: {' '.join(near)}"
        return f"nothing to plan: none of {total} exposures is a candidate; spica ingest some, or widen the bounds"
    causes: dict[str, int] = {}
    for o in done.left_out:
        causes[str(o["clause"])] = causes.get(str(o["clause"]), 0) + 1
    worst = sorted(causes.items(), key=lambda c: -c[1])[:3]
    words = "; ".join(f"{n} by {clause}" for clause, n in worst)
    return f"nothing to plan: all {len(done.left_out)} candidates are out ({words}); widen the rule or see --dry-run"


def label_of(association: Association, candidates: dict[int, Candidate]) -> str:
    """Return the name of the product of an association: a slug that says object or place, filter and group."""
    first = candidates[association.image_ids[0]]
    if association.mode is Mode.SINGLE:
        return slug(f"{candidates[association.target_id or association.image_ids[0]].name}_cal")
    if association.circle is not None:
        words = [f"area_{sexagesimal(association.circle)}"]
    else:
        words = [slug(first.object or association.object_key)]
    words.append(slug(association.filter))
    if association.group:
        words.append(f"f{association.group}")
    words += [slug(w) for w in (association.run, association.night) if w]
    return "_".join(words)


def sexagesimal(circle: Circle) -> str:
    """Return the centre as HHMMSS+DDMMSS, cut, not rounded."""
    seconds = int(circle.ra_deg * 240.0 + 1e-6)
    arcsec = int(abs(circle.dec_deg) * 3600.0 + 1e-6)
    sign = "-" if circle.dec_deg < 0 else "+"
    ra = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    return f"{ra}{sign}{arcsec // 3600:02d}{arcsec // 60 % 60:02d}{arcsec % 60:02d}"


def _record(
    session: Session,
    workspace: Workspace,
    wish: Wish,
    recipe: Recipe,
    judged: Judged,
    found: list[tuple[Association, str, Field]],
    done: Scheduled,
) -> None:
    recipe_id = know_recipe(session, recipe)
    for association, label, place in found:
        members = read_members(session, association)
        key = product_hash(association, members, recipe)
        standing = standing_plan(session, key)
        if standing is not None:
            product = product_of(session, standing.id)
            done.known.append(
                Planned(label, association.image_ids, standing.id, product.id if product is not None else None)
            )
            continue
        selection_id = record_selection(session, judged_for(judged, association), wish.person_id, wish.rule_version_id)
        done.plans.append(
            plan_association(
                session, workspace, wish, recipe, recipe_id, selection_id, association, label, members, place, key
            )
        )


def judged_for(judged: Judged, association: Association) -> Judged:
    """Return the candidates of one association: its members, and those of its camera, filter and object."""
    members = set(association.image_ids)

    def concerns(c: Candidate) -> bool:
        alike = (c.instrument, c.filter) == (association.instrument, association.filter)
        return c.image_id in members or (alike and association.object_key in ("", c.object_key))

    return Judged(
        judged.rule,
        tuple(c for c in judged.chosen if concerns(c)),
        tuple(o for o in judged.left_out if concerns(o.candidate)),
    )


def plan_association(
    session: Session,
    workspace: Workspace,
    wish: Wish,
    recipe: Recipe,
    recipe_id: int,
    selection_id: int,
    association: Association,
    label: str,
    members: tuple[Member, ...],
    place: Field,
    key: str,
    replaces_id: int | None = None,
) -> Planned:
    """Record plan, product and jobs of one association; `replaces_id` names the plan whose product gives way to it.

    Without one it is the newest of the same association, rule and recipe.
    """
    if replaces_id is None:
        older = replaced_plan(
            session, association, rule_sha256(parse_rule(wish.rule)), recipe_id, association.image_ids
        )
        replaces_id = older.id if older is not None else None
    plan_id = add_plan(
        session,
        mode=association.mode,
        label=label,
        association=association,
        circle=association.circle,
        recipe_id=recipe_id,
        selection_id=selection_id,
        product_hash=key,
        supersedes_id=replaces_id,
        person_id=wish.person_id,
    )
    name = free_name(session, label, key)
    single = association.mode is Mode.SINGLE
    image_id = plan_image(
        session,
        kind=ImageKind.CALIBRATED if single else ImageKind.STACK,
        name=name,
        mode=association.mode,
        plan_id=plan_id,
        like=[association.target_id] if single and association.target_id else list(association.image_ids),
        centre_deg=(place.ra_deg, place.dec_deg),
    )
    reference = place.know(session, workspace)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    jobs = submit_jobs(session, plan_id, draft_jobs(association, members, reference, recipe, image_id, name, now))
    return Planned(name, association.image_ids, plan_id, image_id, tuple(jobs))


ROLES = (Role.FACTS, Role.CATALOGUE, Role.WEIGHT)


def read_members(session: Session, association: Association) -> tuple[Member, ...]:
    """Return the exposures of an association with the files that its jobs read, and their standing marks.

    The pixels of a raw exposure are read from the detrended file that its assessment made.
    """
    ids = list(association.image_ids)
    detrended = _detrended(session, ids)
    files = current_products(session, ids, [r.value for r in ROLES])
    rows = {i.id: (i, f) for i, f in session.execute(_pixels(ids))}
    seeing = dict(_seeing(session, ids))
    masters = masters_of_images(session, ids)
    marks = marks_of_images(session, ids)
    members = []
    for candidate in pinned(session, ids):
        image, pixels = rows[candidate.image_id]
        given = {Role.EXPOSURE.value: _ref(detrended.get(image.id, pixels))}
        given |= {r.value: _ref(files[image.id, r.value]) for r in ROLES if (image.id, r.value) in files}
        members.append(
            Member(
                image.id,
                image.name,
                candidate.sha256,
                candidate.quality_id,
                seeing.get(image.id),
                given,
                tuple(_used(master, use) for master, use in masters.get(image.id, [])),
                marks.get(image.id, ()),
            )
        )
    return tuple(members)


def _used(master: Master, use: CalibrationUseRow) -> UsedMaster:
    return UsedMaster(master.kind.value, master.file.name, master.file.sha256, use.corrected, use.scale)


def _detrended(session: Session, ids: Sequence[int]) -> dict[int, FileRow]:
    """Return the detrended files of images, each of the attempt whose facts sheet counts: the sheet describes it."""
    query = (
        select(ProductRow.image_id, ProductRow.attempt_id, ProductRow.role, FileRow)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .where(ProductRow.image_id.in_(ids), ProductRow.role.in_((Role.FACTS.value, Role.DETRENDED.value)))
        .order_by(ProductRow.attempt_id)
    )
    rows = [(i, attempt, role, file) for i, attempt, role, file in session.execute(query) if i is not None]
    newest = {i: attempt for i, attempt, role, _ in rows if role == Role.FACTS}
    return {i: file for i, attempt, role, file in rows if role == Role.DETRENDED and attempt == newest.get(i)}


def _pixels(ids: Sequence[int]) -> Any:
    return select(ImageRow, FileRow).join(FileRow, FileRow.id == ImageRow.file_id).where(ImageRow.id.in_(ids))


def _seeing(session: Session, ids: Sequence[int]) -> list[tuple[int, float | None]]:
    query = select(MeasureRow.image_id, MeasureRow.seeing_arcsec).where(MeasureRow.image_id.in_(ids))
    return [(i, s) for i, s in session.execute(query)]


def _ref(file: FileRow) -> FileRef:
    return FileRef(file.id, file.sha256, file.name, file.size)

"""Plans an association again with another recipe: the same exposures in the same mode, a product of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.image import free_name, plan_image
from spica.db.plan import MADE, add_plan, know_recipe, product_of, standing_plan
from spica.db.product import current_products
from spica.db.selection import Judged, LeftOut, record_selection, select_candidates
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow, SelectionMemberRow, SelectionRow
from spica.files.workspace import Workspace
from spica.model.association import Association, Circle, Mode
from spica.model.errors import ConflictError, DataError, RecipeError, UsageError
from spica.model.image import ImageKind
from spica.model.job import DEAD, ENDED, JobKind, Request, item_id
from spica.model.recipe import Recipe, build_recipe, read_recipe
from spica.model.record import from_json, to_json
from spica.model.selection import Candidate, Clause, parse_rule
from spica.scheduling.field import find_reference
from spica.scheduling.plan import draft_jobs, product_hash
from spica.scheduling.select import NEEDED, read_members
from spica.scheduling.submit import submit_jobs

SHIPPED = "default"
SAME = "same"
"""The recipe that the plan or job had."""


def recipe_names(workspace: Workspace) -> tuple[str, ...]:
    """Return the names of the recipes that may be chosen: the shipped default and the workspace's own files."""
    folder = workspace.recipes_folder
    own = {p.stem for p in folder.glob("*.toml")} if folder.is_dir() else set()
    return (SHIPPED, *sorted(own - {SHIPPED}))


def read_named_recipe(workspace: Workspace, name: str, settings: Sequence[str], same: Recipe | None = None) -> Recipe:
    """Return a recipe by name with settings `section.key=value` over it; `same` is the recipe of that name.

    The workspace's `default.toml` lies below every other, as at the command line. A name is never a path.

    Raises
    ------
    RecipeError
        Where there is no recipe of that name, or a setting is wrong; it names the word.
    """
    if name == SAME and same is not None:
        over = read_recipe([], list(settings))
        return _with_settings(same, over, settings)
    if name not in recipe_names(workspace):
        known = " ".join(recipe_names(workspace))
        raise RecipeError(f"there is no recipe {name[:80]!r}; known: {known}", word=name)
    default = workspace.recipes_folder / f"{SHIPPED}.toml"
    layers = [default] if default.is_file() else []
    if name != SHIPPED:
        layers.append(workspace.recipes_folder / f"{name}.toml")
    return read_recipe(layers, list(settings))


def _with_settings(recipe: Recipe, over: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with the values that settings named, as `over` read and checked them."""
    made = recipe
    for setting in settings:
        section, _, key = setting.partition("=")[0].strip().partition(".")
        value = getattr(getattr(over, section), key)
        made = dataclasses.replace(made, **{section: dataclasses.replace(getattr(made, section), **{key: value})})
    return made


def read_frozen(parameters: str) -> Recipe:
    """Return a recipe as it was frozen with a plan or job; RecipeError where this version does not know it any more."""
    tables: dict[str, Any] = json.loads(parameters)
    name = str(tables.pop("name", SHIPPED))
    return build_recipe(name, tables)


@dataclass(frozen=True)
class Change:
    """A parameter that differs between two recipes."""

    name: str
    old: str
    new: str


def recipe_changes(old: Recipe, new: Recipe) -> tuple[Change, ...]:
    """Return the parameters that differ, in the order of the recipe."""
    before, after = to_json(old), to_json(new)
    return tuple(
        Change(f"{section}.{key}", _spell(before[section][key]), _spell(value))
        for section, table in after.items()
        if isinstance(table, dict)
        for key, value in table.items()
        if before[section][key] != value
    )


def _spell(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


@dataclass(frozen=True)
class AgainPlanned:
    """What planning again made, or in a dry run would make; `known`: the plan that makes this very product already.

    `replaces` is the product that will be superseded, `old` what the new one stands beside.
    """

    label: str
    mode: Mode
    members: tuple[Candidate, ...]
    kinds: tuple[str, ...]
    changes: tuple[Change, ...]
    replaces: str | None
    plan: int | None = None
    image: int | None = None
    jobs: tuple[int, ...] = ()
    known: int | None = None


@dataclass(frozen=True)
class _Old:
    """The plan that is done again, with what its jobs say of it."""

    plan: PlanRow
    association: Association
    recipe: Recipe
    product: ImageRow | None
    selection: SelectionRow | None


def plan_again(
    database: Database,
    workspace: Workspace,
    plan_id: int,
    recipe: Recipe,
    *,
    replace: bool = True,
    person_id: int | None = None,
    dry_run: bool = False,
) -> AgainPlanned:
    """Plan the association of a plan with another recipe. A dry run records nothing.

    Parameters
    ----------
    replace : whether the new product supersedes the old one once it is made; False: both stand side by side.

    Raises
    ------
    UsageError
        Where there is no such plan, or it holds no association (files taken in, masters).
    DataError
        Where an exposure of it was rejected since, or its products are gone.
    """
    with database.read() as session:
        old = _read_old(session, plan_id)
        candidates = _candidates(session, old)
        _check_products(session, candidates)
    planned = _plain(old, candidates, recipe, replace)
    with database.read() as session:
        members = read_members(session, old.association)
        key = product_hash(old.association, members, recipe)
        planned = dataclasses.replace(planned, known=_known(session, key))
    if dry_run or planned.known is not None:
        return planned
    place = find_reference(workspace, recipe, candidates)
    with database.begin() as session:
        members = read_members(session, old.association)
        key = product_hash(old.association, members, recipe)
        standing = standing_plan(session, key)
        if standing is not None:
            return dataclasses.replace(planned, known=standing.id)
        new_id = add_plan(
            session,
            mode=old.association.mode,
            label=old.plan.label,
            association=old.association,
            circle=old.association.circle,
            recipe_id=know_recipe(session, recipe),
            selection_id=_record_selection(session, old, candidates, person_id),
            product_hash=key,
            supersedes_id=plan_id if planned.replaces else None,
            person_id=person_id,
        )
        name = _free_name(session, old.plan.label, key, new_id)
        image_id = _plan_image(session, old, new_id, name, (place.ra_deg, place.dec_deg))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        reference = place.know(session, workspace)
        drafts = draft_jobs(old.association, members, reference, recipe, image_id, name, now)
        jobs = submit_jobs(session, new_id, drafts)
    return dataclasses.replace(planned, label=name, plan=new_id, image=image_id, jobs=tuple(jobs))


def _plain(old: _Old, candidates: tuple[Candidate, ...], recipe: Recipe, replace: bool) -> AgainPlanned:
    made = old.product if old.product is not None and old.product.state in MADE else None
    kinds = [JobKind.ASTROMETRY]
    if old.association.mode is Mode.SINGLE:
        kinds.append(JobKind.CALIBRATE)
    else:
        kinds += [JobKind.STACK, JobKind.QUALITY, *([JobKind.CATALOGUE] if recipe.catalogue.make else [])]
    kinds += [JobKind.DELIVER] if recipe.deliver.make else []
    return AgainPlanned(
        label=old.plan.label,
        mode=old.association.mode,
        members=candidates,
        kinds=tuple(k.value for k in kinds),
        changes=recipe_changes(old.recipe, recipe),
        replaces=made.name if made is not None and replace else None,
    )


def _known(session: Session, key: str) -> int | None:
    """Return the plan that makes or made this very product; read only, so that a dry run changes nothing."""
    query = select(PlanRow.id).where(PlanRow.product_hash == key, PlanRow.abandoned.is_(False))
    plan_id = session.scalar(query)
    if plan_id is None:
        return None
    states = set(session.scalars(select(JobRow.state).where(JobRow.plan_id == plan_id)))
    return None if states <= ENDED and states & DEAD else plan_id


def _read_old(session: Session, plan_id: int) -> _Old:
    plan = session.get(PlanRow, plan_id)
    if plan is None:
        raise UsageError(f"there is no plan {plan_id}; see the list of plans")
    if plan.mode not in (Mode.SINGLE, Mode.SURVEY, Mode.AREA):
        raise UsageError(f"plan {plan_id} holds no association; assess its exposures again by their jobs or pages")
    requests = {
        kind: from_json(Request, json.loads(text), "request")
        for kind, text in session.execute(
            select(JobRow.kind, JobRow.request).where(
                JobRow.plan_id == plan_id, JobRow.kind.in_((JobKind.ASTROMETRY, JobKind.CALIBRATE))
            )
        )
    }
    if JobKind.ASTROMETRY not in requests:
        raise UsageError(f"plan {plan_id} has no astrometry job, so its exposures are not known; plan by a rule")
    ids = _images_of(requests[JobKind.ASTROMETRY])
    if not ids:
        raise UsageError(f"the astrometry job of plan {plan_id} names no exposures; plan by a rule")
    target = _images_of(requests[JobKind.CALIBRATE]) if JobKind.CALIBRATE in requests else ()
    frozen = None if plan.recipe_id is None else session.get(RecipeRow, plan.recipe_id)
    selection = None if plan.selection_id is None else session.get(SelectionRow, plan.selection_id)
    association = Association(
        plan.mode,
        plan.object_key or "",
        plan.instrument or "",
        plan.filter or "",
        ids,
        circle=_circle(plan),
        target_id=target[0] if target else None,
    )
    recipe = Recipe() if frozen is None else read_frozen(frozen.parameters)
    return _Old(plan, association, recipe, product_of(session, plan_id), selection)


def _circle(plan: PlanRow) -> Circle | None:
    if plan.ra_deg is None or plan.dec_deg is None or plan.radius_deg is None:
        return None
    return Circle(plan.ra_deg, plan.dec_deg, plan.radius_deg)


def _images_of(request: Request) -> tuple[int, ...]:
    """Return the images whose files a request reads, by id."""
    named = (item_id(i.item) for i in request.inputs if i.item is not None)
    return tuple(sorted({number for noun, number in named if noun == "image"}))


def _candidates(session: Session, old: _Old) -> tuple[Candidate, ...]:
    found = tuple(select_candidates(session, [ImageRow.id.in_(old.association.image_ids)]))
    gone = [c.name for c in found if c.quality_id is None or c.state.value == "rejected"]
    if gone or len(found) != len(old.association.image_ids):
        words = " ".join(gone[:5]) or "an exposure"
        raise DataError(f"{words} cannot be used any more; plan by the rule instead")
    return found


def _check_products(session: Session, candidates: tuple[Candidate, ...]) -> None:
    files = current_products(session, [c.image_id for c in candidates], NEEDED)
    bare = [c.name for c in candidates if any((c.image_id, role) not in files for role in NEEDED)]
    if bare:
        raise DataError(f"{' '.join(bare[:5])} has no catalogue any more; assess it again first")


def _record_selection(
    session: Session, old: _Old, candidates: tuple[Candidate, ...], person_id: int | None
) -> int | None:
    """Keep the same choice with the rows that count today; None where the old plan judged nothing."""
    if old.selection is None:
        return None
    query = select(SelectionMemberRow).where(
        SelectionMemberRow.selection_id == old.selection.id,
        SelectionMemberRow.image_id.not_in(old.association.image_ids),
    )
    rows = {r.image_id: r for r in session.scalars(query)}
    others = select_candidates(session, [ImageRow.id.in_(rows)], footprints=False) if rows else []
    chosen = [*candidates, *(c for c in others if rows[c.image_id].chosen)]
    left_out = [
        LeftOut(c, Clause(rows[c.image_id].clause or "", rows[c.image_id].value or "", False, ""))
        for c in others
        if not rows[c.image_id].chosen
    ]
    judged = Judged(parse_rule(old.selection.rule), tuple(sorted(chosen, key=lambda c: c.image_id)), tuple(left_out))
    return record_selection(session, judged, person_id)


def _free_name(session: Session, label: str, key: str, plan_id: int) -> str:
    """Return a name that no image bears: what died under its hash keeps its name, the next bears its plan too."""
    name = free_name(session, label, key)
    taken = session.scalar(select(ImageRow.id).where(ImageRow.name == name))
    return name if taken is None else f"{name}.{plan_id}"


def _plan_image(session: Session, old: _Old, plan_id: int, name: str, centre_deg: tuple[float, float]) -> int:
    single = old.association.mode is Mode.SINGLE
    target = old.association.target_id
    if single and target is None:
        raise ConflictError(f"plan {old.plan.id} does not say which exposure it calibrates; plan by a rule")
    return plan_image(
        session,
        kind=ImageKind.CALIBRATED if single else ImageKind.STACK,
        name=name,
        mode=old.association.mode,
        plan_id=plan_id,
        like=[target] if target is not None else list(old.association.image_ids),
        centre_deg=centre_deg,
    )

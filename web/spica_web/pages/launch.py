"""From the rule room to jobs: any mode, shown before it is run, with a recipe of the workspace and settings over it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.algorithms.frame import FrameTooLargeError, choose_frame, frame_for_circle
from spica.db.rule import version_by_id
from spica.db.tables.image import DetectorRow
from spica.files.workspace import Workspace
from spica.model.association import Association, Circle, Mode
from spica.model.errors import RecipeError, UsageError
from spica.model.recipe import Recipe, read_recipe
from spica.model.selection import DEFAULT_RULE, Candidate, list_names, parse_list, parse_rule, rule_sha256
from spica.model.selection.rule import quoted
from spica.scheduling.plan import Member, draft_jobs
from spica.scheduling.select import Planned, Scheduled, schedule
from spica.scheduling.wish import Wish, wish_of
from spica_web.deps import Operator, Site, site_of
from spica_web.render import Page, render
from spica_web.tally import Bounds, candidate_mask, whole_of

router = APIRouter()
MAX_CANDIDATES = 50_000
"""More candidates are planned on the command line: each is judged with its footprint."""
MAX_FRAMES = 20
MAX_OUT = 500
MAX_SETTINGS = 100
Word = Annotated[str, Form(max_length=500)]


@dataclass(frozen=True)
class Order:
    """What a person ordered, as the words of the form: shown, and sent again when it is run."""

    rule: str
    mode: str = "survey"
    object: str = ""
    filter: str = ""
    night: str = ""
    ra: str = ""
    dec: str = ""
    radius: str = ""
    images: str = ""
    recipe: str = ""
    settings: str = ""
    version: str = ""

    @property
    def words(self) -> dict[str, str]:
        """Words that say something, for hidden fields."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v}

    @property
    def judged_rule(self) -> str:
        """The rule that is judged: that of the person, with the night it is bounded by."""
        if not self.night:
            return self.rule
        return f"night = {quoted(self.night)}" + (f" and ({self.rule})" if self.rule else f" and {DEFAULT_RULE}")


@dataclass(frozen=True)
class Shown:
    """One product as it is, or would be, planned: what it is made of, and what it will be like (None unknown)."""

    label: str
    plan: int | None
    image: int | None
    n: int
    n_jobs: int
    exptime_s: float
    seeing_arcsec: float | None
    limiting_mag: float | None
    frame: str
    too_large: bool


@dataclass(frozen=True)
class PlannedPage(Page):
    """What planning by a rule made, or would make; `jobs` counts the jobs by kind."""

    template: ClassVar[str] = "planned.html"
    title: str
    nav: str
    order: Order
    recipe: Recipe
    changed: list[tuple[str, str]]
    made: list[Shown]
    known: list[Planned]
    taken: int
    left_out: list[dict[str, object]]
    n_out: int
    jobs: list[tuple[str, int]]
    version: str
    dry: bool


@router.post("/rules/plan", response_class=HTMLResponse)
def plan_by_rule(
    request: Request,
    person: Operator,
    rule: Annotated[str, Form(max_length=10_000)],
    mode: Annotated[Literal["survey", "single", "area"], Form()] = "survey",
    object: Word = "",
    filter: Annotated[str, Form(max_length=100)] = "",
    night: Annotated[str, Form(max_length=10)] = "",
    ra: Annotated[str, Form(max_length=40)] = "",
    dec: Annotated[str, Form(max_length=40)] = "",
    radius: Annotated[str, Form(max_length=40)] = "",
    images: Annotated[str, Form(max_length=60_000)] = "",
    recipe: Annotated[str, Form(max_length=200)] = "",
    settings: Annotated[str, Form(max_length=10_000)] = "",
    version: Annotated[str, Form(max_length=12)] = "",
    dry: Annotated[bool, Form()] = False,
) -> Response:
    """Plan stacks (or calibrated copies) of what a rule takes; or show what would be planned."""
    site = site_of(request)
    order = Order(rule.strip(), mode, object, filter, night, ra, dec, radius, images, recipe, settings, version)
    chosen = read_recipes(site.workspace, recipe, settings)
    wish = wish_for(site, order)
    _need_few(site, wish, order)
    with site.read() as session:
        wish, label = _with_version(session, wish, order)
    wish = dataclasses.replace(wish, person_id=person.id)
    done = schedule(site.database, site.workspace, wish, chosen, dry_run=dry)
    if not dry and len(done.plans) == 1 and not done.known:
        return RedirectResponse(f"/plans/{done.plans[0].plan}", status_code=303)
    with site.read() as session:
        made = shown_plans(session, done, wish, chosen)
    kinds = job_kinds(wish.mode, chosen)
    page = PlannedPage(
        title="What would be planned" if dry else "Planned",
        nav="rules",
        order=order,
        recipe=chosen,
        changed=changed_parameters(chosen),
        made=made,
        known=done.known,
        taken=len(done.chosen),
        left_out=done.left_out[:MAX_OUT],
        n_out=len(done.left_out),
        jobs=sorted(Counter(kinds * len(done.plans)).items(), key=lambda j: kinds.index(j[0])),
        version=label,
        dry=dry,
    )
    return render(request, page)


def wish_for(site: Site, order: Order) -> Wish:
    """Return what the planner is asked for.

    Raises
    ------
    UsageError
        The rule asks for a file's list, a number is none, or the circle is not whole.
    """
    rule = order.judged_rule
    if order.rule and list_names(parse_rule(order.rule)):
        raise UsageError("lists lie in files of the command line's host; paste the names into the box of the list")
    names = parse_list(order.images)
    area = order.mode == Mode.AREA
    return wish_of(
        order.mode,
        rule or None,
        order.object or None,
        order.filter or None,
        ra=_number("ra", order.ra) if area else None,
        dec=_number("dec", order.dec) if area else None,
        radius=_number("radius", order.radius) if area else None,
        aliases=site.workspace.object_aliases,
        images=names or None,
    )


def _number(name: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} {text[:40]!r} is no number; write degrees, for example 270.1")
    return value


def _need_few(site: Site, wish: Wish, order: Order) -> None:
    """Refuse what would judge too many footprints for one request."""
    if wish.circle is not None:
        return
    bounds = Bounds(order.object, order.filter)
    n = int(np.count_nonzero(candidate_mask(site.snapshot(), bounds, site.workspace.object_aliases)))
    if n > MAX_CANDIDATES:
        raise UsageError(
            f"{n} candidates are more than a page plans at once ({MAX_CANDIDATES}); choose an object or a filter, "
            "or use spica schedule"
        )


def _with_version(session: Session, wish: Wish, order: Order) -> tuple[Wish, str]:
    """Name the saved version that the rule is, where it still reads so."""
    version = version_by_id(session, int(order.version)) if order.version.isdigit() else None
    if version is None or not order.rule or rule_sha256(parse_rule(order.rule)) != version.rule_sha256:
        return wish, ""
    return dataclasses.replace(wish, rule_version_id=version.id), version.label


# Recipes --------------------------------------------------------------------------------------------------------------


def recipe_names(workspace: Workspace) -> tuple[str, ...]:
    """Return the names of the workspace's recipes but `default`, which lies under each of them."""
    return tuple(sorted(p.stem for p in workspace.recipes_folder.glob("*.toml") if p.stem != "default"))


def read_recipes(workspace: Workspace, name: str = "", settings: str = "") -> Recipe:
    """Return a recipe: shipped defaults, the workspace's `default.toml`, a recipe of it, then settings line by line.

    Raises
    ------
    RecipeError
        There is no such recipe, or a setting is none; the message names the word.
    """
    default = workspace.recipes_folder / "default.toml"
    layers: list[Path] = [default] if default.is_file() else []
    if name:
        if name not in recipe_names(workspace):
            raise RecipeError(f"the workspace has no recipe {name!r}; choose one of the list")
        layers.append(workspace.recipes_folder / f"{name}.toml")
    lines = [line.strip() for line in settings.splitlines() if line.strip() and not line.strip().startswith("#")]
    if len(lines) > MAX_SETTINGS:
        raise UsageError(f"{len(lines)} settings are more than {MAX_SETTINGS}; write a recipe in the workspace")
    return read_recipe(layers, lines)


def changed_parameters(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the parameters that differ from the shipped defaults, as `section.key` and value."""
    shipped, found = Recipe(), []
    for section in (f.name for f in dataclasses.fields(Recipe) if f.name != "name"):
        ours, theirs = getattr(recipe, section), getattr(shipped, section)
        for f in dataclasses.fields(ours):
            value = getattr(ours, f.name)
            if value != getattr(theirs, f.name):
                found.append((f"{section}.{f.name}", str(value).lower() if isinstance(value, bool) else str(value)))
    return found


# What would come of it ------------------------------------------------------------------------------------------------


def job_kinds(mode: Mode, recipe: Recipe) -> list[str]:
    """Return the kinds of the jobs of one association, as the planner drafts them, in the order of their edges."""
    association = Association(mode, "", "", "", (0,), target_id=0)
    return [d.kind for d in draft_jobs(association, (Member(0, "", "", None),), None, recipe, 0, "")]


def shown_plans(session: Session, done: Scheduled, wish: Wish, recipe: Recipe) -> list[Shown]:
    """Return each plan with what it will be like; of the first, how large their frames are."""
    by_id = {c.image_id: c for c in done.chosen}
    members = [[by_id[i] for i in p.members if i in by_id] for p in done.plans]
    scales = _scales(session, [m[0].image_id for m in members[:MAX_FRAMES] if m])
    n_jobs = len(job_kinds(wish.mode, recipe))
    return [
        _shown(plan, inside, n_jobs, wish, recipe, scales if k < MAX_FRAMES else {})
        for k, (plan, inside) in enumerate(zip(done.plans, members, strict=True))
    ]


def _scales(session: Session, image_ids: list[int]) -> dict[int, float]:
    """Return the median pixel scale of exposures, arcsec."""
    scale = func.percentile_cont(0.5).within_group(DetectorRow.pixel_scale_arcsec)
    query = select(DetectorRow.image_id, scale).where(DetectorRow.image_id.in_(image_ids))
    query = query.where(DetectorRow.pixel_scale_arcsec > 0).group_by(DetectorRow.image_id)
    return {i: float(s) for i, s in session.execute(query)} if image_ids else {}


def _shown(
    plan: Planned, members: list[Candidate], n_jobs: int, wish: Wish, recipe: Recipe, scales: dict[int, float]
) -> Shown:
    columns = [
        np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        for values in (
            [c.exptime_s for c in members],
            [c.seeing_arcsec for c in members],
            [c.limiting_mag for c in members],
        )
    ]
    whole = whole_of(*columns)
    scale = recipe.stack.pixel_scale_arcsec or (scales.get(members[0].image_id) if members else None)
    frame, too_large = "", False
    if wish.mode is not Mode.SINGLE and scale:
        frame, too_large = _frame(members, wish.circle, scale, recipe.stack.max_frame_px)
    return Shown(
        label=plan.label,
        plan=plan.plan,
        image=plan.image,
        n=len(plan.members),
        n_jobs=len(plan.jobs) or n_jobs,
        exptime_s=whole.exptime_s,
        seeing_arcsec=whole.seeing_arcsec,
        limiting_mag=whole.limiting_mag,
        frame=frame,
        too_large=too_large,
    )


def _frame(members: list[Candidate], circle: Circle | None, scale_arcsec: float, limit: int) -> tuple[str, bool]:
    """Return the size of the frame in words, and whether the recipe refuses it."""
    polygons = [np.asarray(p, dtype=np.float64) for c in members for p in c.polygons_deg if len(p) > 2]
    try:
        if circle is not None:
            made = frame_for_circle(circle.ra_deg, circle.dec_deg, circle.radius_deg, scale_arcsec, limit)
        elif polygons:
            made = choose_frame(polygons, scale_arcsec, max_pixels=limit)
        else:
            return "", False
    except FrameTooLargeError as error:
        return f"{error.nx} × {error.ny}", True
    except ValueError:  # footprints that no tangent plane holds; the job will say so
        return "", False
    ny, nx = made.shape
    return f"{nx} × {ny}", False

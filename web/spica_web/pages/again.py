"""The same exposures with another recipe: of a plan, of one job that assesses, of one exposure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from spica.db.person import audit
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow, PlanRow, RecipeRow
from spica.model.errors import ConflictError, RecipeError, SpicaError, UsageError
from spica.model.image import ImageKind
from spica.model.job import JobKind
from spica.model.recipe import Recipe
from spica.scheduling.again import (
    SAME,
    AgainPlanned,
    Change,
    plan_again,
    read_frozen,
    read_named_recipe,
    recipe_changes,
    recipe_names,
)
from spica.scheduling.reassess import AgainWish, Reassessed, reassess, reassess_job
from spica_web.deps import Operator, Site, site_of
from spica_web.errors import MissingError, status_of
from spica_web.render import Page, render

router = APIRouter()
MAX_SETTINGS = 100


@dataclass(frozen=True)
class AgainPage(Page):
    """The form of another recipe, what is wrong with it, or what it would make."""

    template: ClassVar[str] = "again.html"
    title: str
    nav: str
    address: str
    up: str
    what: str
    names: tuple[str, ...]
    chosen: str
    settings: str
    replace: bool
    fault: str
    word: str
    changes: tuple[Change, ...]
    preview: AgainPlanned | None
    ready: bool
    is_plan: bool


@dataclass(frozen=True)
class _Subject:
    """What is done again: where, in words, and with which recipe it was done."""

    address: str
    up: str
    what: str
    nav: str
    recipe: Recipe | None
    is_plan: bool = False


@dataclass(frozen=True)
class Wanted:
    """The form: name of a recipe, settings a line each, whether the old product is replaced, whether to look first."""

    recipe: str
    settings: str
    replace: bool
    dry: bool

    @property
    def lines(self) -> list[str]:
        """The settings without empty lines."""
        return [line.strip() for line in self.settings.replace("\0", "").splitlines() if line.strip()]


def wanted_form(
    recipe: Annotated[str, Form(max_length=100)] = SAME,
    settings: Annotated[str, Form(max_length=10_000)] = "",
    replace: Annotated[bool, Form()] = False,
    dry: Annotated[bool, Form()] = False,
) -> Wanted:
    """Return the form of a request."""
    return Wanted(recipe, settings, replace, dry)


WantedForm = Annotated[Wanted, Depends(wanted_form)]


def _page(
    request: Request, subject: _Subject, wanted: Wanted, trouble: SpicaError | None = None, **shown: object
) -> HTMLResponse:
    names = recipe_names(site_of(request).workspace)
    values: dict[str, object] = {"changes": (), "preview": None, "ready": False} | shown
    page = AgainPage(
        title=f"{subject.what} again",
        nav=subject.nav,
        address=subject.address,
        up=subject.up,
        what=subject.what,
        names=(SAME, *names) if subject.recipe is not None else names,
        chosen=wanted.recipe,
        settings=wanted.settings,
        replace=wanted.replace,
        fault="" if trouble is None else str(trouble),
        word="" if trouble is None else str(trouble.values.get("word", "")),
        is_plan=subject.is_plan,
        **values,  # type: ignore[arg-type]
    )
    return render(request, page, status=200 if trouble is None else status_of(trouble))


def _recipe(site: Site, subject: _Subject, wanted: Wanted) -> Recipe:
    if len(wanted.lines) > MAX_SETTINGS:
        raise RecipeError(f"more than {MAX_SETTINGS} settings; put them into a recipe file of the workspace")
    return read_named_recipe(site.workspace, wanted.recipe, wanted.lines, subject.recipe)


def _frozen(session: Session, recipe_id: int | None) -> Recipe | None:
    row = None if recipe_id is None else session.get(RecipeRow, recipe_id)
    return None if row is None else read_frozen(row.parameters)


# Plans ----------------------------------------------------------------------------------------------------------------


def _plan_subject(site: Site, plan_id: int) -> _Subject:
    with site.read() as session:
        plan = session.get(PlanRow, plan_id) if 0 < plan_id < 2**62 else None
        if plan is None:
            raise MissingError(f"there is no plan {plan_id}; see the list of plans")
        recipe = _frozen(session, plan.recipe_id)
        return _Subject(f"/plans/{plan_id}/again", f"/plans/{plan_id}", f"Plan {plan_id}", "plans", recipe, True)


@router.get("/plans/{plan_id}/again", response_class=HTMLResponse)
def plan_form(request: Request, person: Operator, plan_id: int) -> HTMLResponse:
    """Ask with which recipe a plan is done again."""
    subject = _plan_subject(site_of(request), plan_id)
    return _page(request, subject, Wanted(SAME if subject.recipe else "default", "", True, True))


@router.post("/plans/{plan_id}/again", response_class=HTMLResponse)
def plan_it_again(request: Request, person: Operator, plan_id: int, wanted: WantedForm) -> Response:
    """Plan the exposures of a plan with another recipe, or show what would be planned."""
    site = site_of(request)
    subject = _plan_subject(site, plan_id)
    try:
        recipe = _recipe(site, subject, wanted)
        planned = plan_again(
            site.database,
            site.workspace,
            plan_id,
            recipe,
            replace=wanted.replace,
            person_id=person.id,
            dry_run=wanted.dry,
        )
    except SpicaError as trouble:
        return _page(request, subject, wanted, trouble)
    if planned.plan is not None:
        with site.database.begin() as session:
            audit(session, person.id, "again", f"plan:{plan_id}", f"as plan {planned.plan}")
        return RedirectResponse(f"/plans/{planned.plan}", status_code=303)
    return _page(request, subject, wanted, preview=planned, changes=planned.changes, ready=planned.known is None)


# Assessments ----------------------------------------------------------------------------------------------------------

Do = Callable[[Recipe], Reassessed]


def _assess(request: Request, subject: _Subject, wanted: Wanted, do: Do, done: tuple[int, str]) -> Response:
    """Assess again, or show what the recipe changes; `done` is who, and what goes on record."""
    site = site_of(request)
    try:
        recipe = _recipe(site, subject, wanted)
        changes = recipe_changes(subject.recipe or Recipe(), recipe)
        if wanted.dry:
            return _page(request, subject, wanted, changes=changes, ready=True)
        made = do(recipe)
        if made.plan_id is None:
            raise ConflictError("its exposures wait in a job already; look at that, then ask again")
    except SpicaError as trouble:
        return _page(request, subject, wanted, trouble)
    with site.database.begin() as session:
        audit(session, done[0], "again", done[1], f"as plan {made.plan_id}")
    return RedirectResponse(f"/plans/{made.plan_id}", status_code=303)


def _job_subject(site: Site, job_id: int) -> _Subject:
    with site.read() as session:
        job = session.get(JobRow, job_id) if 0 < job_id < 2**62 else None
        if job is None:
            raise MissingError(f"there is no job {job_id}; see the list of jobs")
        if job.kind != JobKind.ASSESS:
            words = f"job {job_id} assesses no exposure"
            raise UsageError(f"{words}; do its plan {job.plan_id} again" if job.plan_id else f"{words}; plan by a rule")
        tables = json.loads(job.request).get("recipe") or {}
        recipe = read_frozen(json.dumps(tables))
    return _Subject(f"/jobs/{job_id}/again", f"/jobs/{job_id}", f"Job {job_id}", "jobs", recipe)


@router.get("/jobs/{job_id}/again", response_class=HTMLResponse)
def job_form(request: Request, person: Operator, job_id: int) -> HTMLResponse:
    """Ask with which recipe the exposures of a job are assessed again."""
    return _page(request, _job_subject(site_of(request), job_id), Wanted(SAME, "", True, True))


@router.post("/jobs/{job_id}/again", response_class=HTMLResponse)
def assess_job_again(request: Request, person: Operator, job_id: int, wanted: WantedForm) -> Response:
    """Assess the exposures of a job with another recipe."""
    site = site_of(request)

    def do(recipe: Recipe) -> Reassessed:
        return reassess_job(site.database, site.workspace, job_id, recipe, person.id)

    return _assess(request, _job_subject(site, job_id), wanted, do, (person.id, f"job:{job_id}"))


def _image_subject(site: Site, image_id: int) -> _Subject:
    with site.read() as session:
        image = session.get(ImageRow, image_id) if 0 < image_id < 2**62 else None
        if image is None or image.kind is not ImageKind.EXPOSURE:
            raise MissingError(f"there is no exposure {image_id}; see the list of exposures")
        return _Subject(f"/images/{image_id}/again", f"/images/{image_id}", image.name, "exposures", None)


@router.get("/images/{image_id}/again", response_class=HTMLResponse)
def image_form(request: Request, person: Operator, image_id: int) -> HTMLResponse:
    """Ask with which recipe an exposure is assessed again."""
    return _page(request, _image_subject(site_of(request), image_id), Wanted("default", "", True, True))


@router.post("/images/{image_id}/again", response_class=HTMLResponse)
def assess_image_again(request: Request, person: Operator, image_id: int, wanted: WantedForm) -> Response:
    """Assess one exposure with another recipe."""
    site = site_of(request)

    def do(recipe: Recipe) -> Reassessed:
        return reassess(site.database, site.workspace, AgainWish(names=(str(image_id),)), recipe, person.id)

    return _assess(request, _image_subject(site, image_id), wanted, do, (person.id, f"image:{image_id}"))

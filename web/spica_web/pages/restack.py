"""A stack planned again with one click: what would change, and the plan that replaces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from spica.db.tables.image import ImageRow
from spica.model.errors import ConflictError, NothingToDoError
from spica.scheduling.restack import restack
from spica.scheduling.select import Planned
from spica.scheduling.stale import StaleReason, stale_reasons
from spica_web.deps import Operator, Site, Viewer, site_of
from spica_web.errors import MissingError
from spica_web.render import Page, render

router = APIRouter()
MAX_SHOWN = 500


@dataclass(frozen=True)
class RestackPage(Page):
    """What planning a stack again would do; `refused` says why it cannot be done now."""

    template: ClassVar[str] = "restack.html"
    title: str
    nav: str
    image: ImageRow
    reasons: list[StaleReason]
    refused: str
    plan: Planned | None
    known: Planned | None
    members: list[tuple[int, str]]
    left_out: list[dict[str, Any]]
    n_out: int


@dataclass(frozen=True)
class StalePart(Page):
    """What has changed since a stack was planned: a part of its page, read when the page stands."""

    template: ClassVar[str] = "stale.html"
    title: str
    nav: str
    stack_id: int
    reasons: list[StaleReason]


@router.get("/stacks/{image_id}/stale", response_class=HTMLResponse)
def stale_part(request: Request, person: Viewer, image_id: int) -> HTMLResponse:
    """Judge a stack's rule today, and show what would differ."""
    site = site_of(request)
    need_stack(site, image_id)
    with site.read() as session:
        reasons = stale_reasons(session, site.workspace, image_id)
    return render(request, StalePart("Stale", "stacks", image_id, reasons))


def need_stack(site: Site, image_id: int) -> None:
    """Raise MissingError where there is no stack of this id."""
    with site.read() as session:
        image = session.get(ImageRow, image_id) if 0 < image_id < 2**62 else None
        if image is None or image.plan_id is None or image.kind.value == "exposure":
            raise MissingError(f"there is no stack {image_id}; see the list of stacks")


def read_restack(site: Site, image_id: int) -> RestackPage:
    """Return what a re-stack would do."""
    need_stack(site, image_id)
    plan = known = None
    members: list[tuple[int, str]] = []
    left_out: list[dict[str, Any]] = []
    refused = ""
    try:
        done = restack(site.database, site.workspace, image_id, dry_run=True)
    except (ConflictError, NothingToDoError) as trouble:
        refused = str(trouble)
    else:
        plan, known = (next(iter(found), None) for found in (done.plans, done.known))
        members, left_out = [(c.image_id, c.name) for c in done.chosen], done.left_out
    with site.read() as session:
        image = session.get_one(ImageRow, image_id)
        reasons = stale_reasons(session, site.workspace, image_id)
    title = f"{image.name} again"
    return RestackPage(
        title, "stacks", image, reasons, refused, plan, known, members, left_out[:MAX_SHOWN], len(left_out)
    )


@router.get("/stacks/{image_id}/restack", response_class=HTMLResponse)
def restack_page(request: Request, person: Operator, image_id: int) -> HTMLResponse:
    """Show what planning a stack again would change."""
    return render(request, read_restack(site_of(request), image_id))


@router.post("/stacks/{image_id}/restack", response_class=HTMLResponse)
def plan_again(request: Request, person: Operator, image_id: int, dry: Annotated[bool, Form()] = False) -> Response:
    """Plan a stack again, in place of the one that stands; or (`dry`) show what that would do."""
    site = site_of(request)
    if dry:
        return render(request, read_restack(site, image_id))
    need_stack(site, image_id)
    done = restack(site.database, site.workspace, image_id, person_id=person.id)
    found = (done.plans or done.known)[0]
    return RedirectResponse(f"/plans/{found.plan}", status_code=303)

"""Plans: the list, and one with its members, recipe and jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from spica.db.overview import list_jobs
from spica.db.pages.image import ProductEntry, read_products_of_plan
from spica.db.pages.plan import (
    MemberEntry,
    PlanEntry,
    PlanFacts,
    list_plans,
    read_edges,
    read_members,
    read_plan,
    read_results,
)
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow
from spica.model.overview import JobEntry
from spica.model.recipe import Recipe
from spica.model.record import to_json
from spica_web.deps import Viewer, site_of
from spica_web.draw.graph import GraphNode, draw_graph
from spica_web.errors import MissingError
from spica_web.query import PAGE_SIZE, Paging, read_page
from spica_web.render import Page, render

router = APIRouter()
MAX_JOBS = 500


@dataclass(frozen=True)
class PlansPage(Page):
    """The list of plans."""

    template: ClassVar[str] = "plans.html"
    title: str
    nav: str
    rows: list[PlanEntry]
    paging: Paging


@dataclass(frozen=True)
class RecipeLine:
    """One parameter of a frozen recipe; `changed`: not the default of this version."""

    section: str
    name: str
    value: str
    changed: bool


@dataclass(frozen=True)
class PlanPage(Page):
    """One plan."""

    template: ClassVar[str] = "plan.html"
    title: str
    nav: str
    facts: PlanFacts
    recipe: list[RecipeLine]
    members: list[MemberEntry]
    chosen: int
    jobs: list[JobEntry]
    graph: Markup
    results: list[ImageRow]
    reports: list[ProductEntry]


@router.get("/plans", response_class=HTMLResponse)
def plans_page(request: Request, person: Viewer) -> HTMLResponse:
    """Show plans, newest first."""
    page = read_page(request.query_params)
    with site_of(request).read() as session:
        rows, total = list_plans(session, PAGE_SIZE, (page - 1) * PAGE_SIZE)
    return render(request, PlansPage("Plans", "plans", rows, Paging(page, PAGE_SIZE, total)))


@router.get("/plans/{plan_id}", response_class=HTMLResponse)
def plan_page(request: Request, person: Viewer, plan_id: int) -> HTMLResponse:
    """Show one plan."""
    site = site_of(request)
    with site.read() as session:
        facts = read_plan(session, plan_id) if plan_id < 2**62 else None
        if facts is None:
            raise MissingError(f"there is no plan {plan_id}; see the list of plans")
        members = read_members(session, facts.plan.selection_id)
        jobs = list_jobs(session, site.workspace, [JobRow.plan_id == plan_id], limit=MAX_JOBS)
        page = PlanPage(
            title=f"Plan {plan_id}",
            nav="plans",
            facts=facts,
            recipe=recipe_lines(facts.recipe.parameters if facts.recipe else None),
            members=members,
            chosen=sum(m.chosen for m in members),
            jobs=jobs,
            graph=draw_graph(
                [GraphNode(j.id, j.kind, j.state, j.error or j.label) for j in jobs], read_edges(session, plan_id)
            ),
            results=read_results(session, plan_id),
            reports=[p for p in read_products_of_plan(session, plan_id) if p.role in ("report", "manifest")],
        )
    return render(request, page)


def recipe_lines(parameters: str | None) -> list[RecipeLine]:
    """Return the parameters of a frozen recipe, those that differ from the defaults marked."""
    if parameters is None:
        return []
    default: dict[str, Any] = to_json(Recipe())
    lines = []
    for section, table in json.loads(parameters).items():
        if isinstance(table, dict):
            known = default.get(section, {})
            lines += [RecipeLine(section, k, _spell(v), known.get(k) != v) for k, v in table.items()]
    return sorted(lines, key=lambda line: (line.section, line.name))


def _spell(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)

"""Plans: the list, and one with its members, recipe and jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup
from sqlalchemy.orm import Session

from spica.db.job.many import SOURCES
from spica.db.pages.image import ProductEntry, read_products_of_plan
from spica.db.pages.job import JobLine, count_list, lines_of_plan
from spica.db.pages.plan import (
    MemberEntry,
    PlanEntry,
    PlanFacts,
    count_plans,
    list_plans,
    plan_ids,
    read_edges,
    read_members,
    read_plan,
    read_results,
)
from spica.db.tables.image import ImageRow
from spica.model.association import Mode
from spica.model.recipe import Recipe
from spica.model.record import to_json
from spica_web.deps import Viewer, site_of
from spica_web.draw.graph import GraphNode, draw_graph
from spica_web.errors import MissingError
from spica_web.pages.failure import ordered_words
from spica_web.query import PAGE_SIZE, Paging, read_page
from spica_web.render import Page, render
from spica_web.tables import rows_by_ids, table_response, wanted_form
from spica_web.tables_of import PLANS

router = APIRouter()
MAX_JOBS = 500
ASSOCIATED = (Mode.SINGLE, Mode.SURVEY, Mode.AREA)
"""Plans that hold an association, which another recipe may do again."""


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
    jobs: list[JobLine]
    counts: dict[str, int]
    bulk: tuple[str, ...]
    graph: Markup
    again: str
    said: str
    more: int
    results: list[ImageRow]
    reports: list[ProductEntry]


@router.get("/plans", response_class=HTMLResponse)
def plans_page(request: Request, person: Viewer) -> Response:
    """Show plans, newest first."""
    page, site, form = read_page(request.query_params), site_of(request), wanted_form(request)
    with site.read() as session:
        if form is not None:
            ids = plan_ids(session)
            return table_response(request, PLANS, form, rows_by_ids(site, ids, list_plans), len(ids))
        rows = list_plans(session, plan_ids(session, PAGE_SIZE, (page - 1) * PAGE_SIZE))
        total = count_plans(session)
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
        jobs = lines_of_plan(session, plan_id, MAX_JOBS)
        counts = count_list(session, plan_id)
        page = PlanPage(
            title=f"Plan {plan_id}",
            nav="plans",
            facts=facts,
            recipe=recipe_lines(facts.recipe.parameters if facts.recipe else None),
            members=members,
            chosen=sum(m.chosen for m in members),
            jobs=jobs,
            counts=counts,
            bulk=tuple(a for a in ("retry", "hold", "unhold", "cancel") if any(counts.get(s) for s in SOURCES[a])),
            graph=graph_of(session, plan_id, jobs),
            again=f"/plans/{plan_id}/again" if facts.plan.mode in ASSOCIATED else "",
            said=ordered_words(request),
            more=max(0, sum(counts.values()) - len(jobs)),
            results=read_results(session, plan_id),
            reports=[p for p in read_products_of_plan(session, plan_id) if p.role in ("report", "manifest")],
        )
    return render(request, page)


def graph_of(session: Session, plan_id: int, jobs: list[JobLine]) -> Markup:
    """Return the graph of a plan's jobs."""
    nodes = [GraphNode(j.id, j.kind, j.state.value, j.error or j.label) for j in jobs]
    return draw_graph(nodes, read_edges(session, plan_id), plan_id)


@router.get("/plans/{plan_id}/graph", response_class=HTMLResponse)
def plan_graph(request: Request, person: Viewer, plan_id: int) -> HTMLResponse:
    """Return the graph of a plan's jobs alone, for a page that is open."""
    with site_of(request).read() as session:
        jobs = lines_of_plan(session, plan_id, MAX_JOBS) if 0 < plan_id < 2**62 else []
        return HTMLResponse(graph_of(session, plan_id, jobs))


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

"""Stacks: the list, and one with its solution, inputs, catalogue and delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from spica.db.catalogue import sources_of
from spica.db.overview import list_stacks
from spica.db.pages.image import (
    FileEntry,
    GradeEntry,
    ProductEntry,
    read_file_entry,
    read_grades,
    read_products,
    read_products_of_plan,
    read_reasons,
)
from spica.db.pages.listing import read_distributions
from spica.db.pages.stack import (
    InputEntry,
    WhyNot,
    count_sources,
    count_stacks,
    newest_solution,
    read_deliveries,
    read_inputs,
    read_stack_row,
    read_why_not,
)
from spica.db.person import Person
from spica.db.tables.image import ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.product import DeliveryRow, SourceRow, StackRow
from spica.db.tables.quality import GradeRow, SolutionRow
from spica.model.grade import COMMENTS
from spica.model.image import ImageKind, ImageState
from spica.model.overview import StackEntry
from spica_web.deps import Site, Visitor, site_of
from spica_web.errors import MissingError
from spica_web.pages.image import machine_grade, own_grade, plots_of, preview_of, standing_grade
from spica_web.pages.measures import MeasureLine, measure_lines
from spica_web.public import is_guest, shown_grades, shown_stack
from spica_web.query import PAGE_SIZE, Paging, read_page
from spica_web.render import Page, render

router = APIRouter()
STATES = (
    ImageState.PLANNED,
    ImageState.RUNNING,
    ImageState.MADE,
    ImageState.DELIVERED,
    ImageState.FAILED,
    ImageState.SUPERSEDED,
)
BRIGHTEST = 100


@dataclass(frozen=True)
class StacksPage(Page):
    """The list of stacks or of calibrated copies."""

    template: ClassVar[str] = "stacks.html"
    title: str
    nav: str
    rows: list[StackEntry]
    counts: dict[str, int]
    states: tuple[str, ...]
    state: str
    kind: str
    paging: Paging


@dataclass(frozen=True)
class StackPage(Page):
    """One stack or calibrated copy."""

    template: ClassVar[str] = "stack.html"
    title: str
    nav: str
    image: ImageRow
    stack: StackRow
    entry: StackEntry
    measure: MeasureRow | None
    lines: list[MeasureLine]
    reasons: list[ImageReasonRow]
    preview: ProductEntry | None
    plots: list[ProductEntry]
    products: list[ProductEntry]
    solution: SolutionRow | None
    inputs: list[InputEntry]
    why_not: list[WhyNot]
    n_sources: int
    sources: Sequence[SourceRow]
    catalogue: ProductEntry | None
    deliveries: list[DeliveryRow]
    manifest: list[ProductEntry]
    grades: list[GradeEntry]
    machine: GradeEntry | None
    standing: GradeRow | None
    own_grade: int | None
    comments: tuple[str, ...]
    file: FileEntry | None


@router.get("/stacks", response_class=HTMLResponse)
def stacks_page(request: Request, person: Visitor, state: str = "", kind: str = "stack") -> HTMLResponse:
    """Show stacks, newest first."""
    site, page = site_of(request), read_page(request.query_params)
    wanted = ImageKind.CALIBRATED if kind == "calibrated" else ImageKind.STACK
    where: list[ColumnElement[bool]] = [ImageRow.kind == wanted]
    if state in [s.value for s in STATES]:
        where.append(ImageRow.state == ImageState(state))
    with site.read() as session:
        counts = count_stacks(session, wanted)
        skip = (page - 1) * PAGE_SIZE
        rows = list_stacks(session, site.workspace, where, order=[ImageRow.id.desc()], limit=PAGE_SIZE, offset=skip)
    total = counts.get(state, 0) if len(where) > 1 else sum(counts.values())
    states = tuple(s.value for s in STATES)
    title = "Stacks" if wanted is ImageKind.STACK else "Calibrated copies"
    paging = Paging(page, PAGE_SIZE, total)
    return render(request, StacksPage(title, "stacks", rows, counts, states, state, wanted.value, paging))


@router.get("/stacks/{image_id}", response_class=HTMLResponse)
def stack_page(request: Request, person: Visitor, image_id: int) -> Response:
    """Show one stack or calibrated copy."""
    site = site_of(request)
    with site.read() as session:
        found = read_stack_row(session, image_id) if image_id < 2**62 else None
        if found is None:
            if 0 < image_id < 2**62 and session.get(ImageRow, image_id) is not None:
                return RedirectResponse(f"/images/{image_id}", status_code=303)
            raise MissingError(f"there is no stack {image_id}; see the list of stacks")
        page = _read_page(session, site, person, *found)
    return render(request, page)


def _read_page(
    session: Session, site: Site, person: Person, image: ImageRow, stack: StackRow, measure: MeasureRow | None
) -> StackPage:
    solution = newest_solution(session, image.plan_id)
    products = read_products(session, image.id)
    of_plan = read_products_of_plan(session, image.plan_id) if image.plan_id is not None else []
    grades = shown_grades(person, read_grades(session, image.id))
    own = {p.id for p in products}
    plots = plots_of([p for p in of_plan if p.id in own or p.role == "plot"])
    return StackPage(
        title=image.name,
        nav="stacks",
        image=image,
        stack=stack,
        entry=shown_stack(person, list_stacks(session, site.workspace, [ImageRow.id == image.id])[0]),
        measure=measure,
        lines=measure_lines(measure, read_distributions(session, image), {}),
        reasons=read_reasons(session, image.id),
        preview=preview_of(products),
        plots=_unique(plots or plots_of(products)),
        products=products,
        solution=solution,
        inputs=read_inputs(session, image.id, solution.id if solution else None),
        why_not=read_why_not(session, image.plan_id),
        n_sources=count_sources(session, image.id),
        sources=sources_of(session, image.id, BRIGHTEST),
        catalogue=next((p for p in products if p.role == "catalogue"), None),
        deliveries=[] if is_guest(person) else read_deliveries(session, image.id),
        manifest=[p for p in products if p.role in ("manifest", "report", "delivered")],
        grades=grades,
        machine=machine_grade(grades),
        standing=standing_grade(grades, image),
        own_grade=own_grade(grades, person),
        comments=COMMENTS,
        file=None if is_guest(person) else read_file_entry(session, image.file_id),
    )


def _unique(products: list[ProductEntry]) -> list[ProductEntry]:
    """Return products, each content once."""
    return list({p.file_id: p for p in products}.values())

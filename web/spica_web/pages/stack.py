"""Stacks: the list, and one with its solution, inputs, catalogue and delivery."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from spica.db.file import read_content
from spica.db.overview import list_stacks
from spica.db.pages.catalogue import SourceBounds, list_sources
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
from spica.db.pages.listing import distributions, stack_filters
from spica.db.pages.stack import (
    InputEntry,
    WhyNot,
    count_sources,
    count_stacks,
    newest_solution,
    read_deliveries,
    read_footprints,
    read_inputs,
    read_stack_row,
    read_why_not,
    stack_ids,
)
from spica.db.person import Person
from spica.db.tables.image import ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.product import DeliveryRow, SourceRow, StackRow
from spica.db.tables.quality import GradeRow, SolutionRow
from spica.files.manifest import Manifest, manifest_from_json
from spica.model.errors import DataError
from spica.model.grade import COMMENTS, Grade
from spica.model.image import ImageKind, ImageState, normalise_object
from spica.model.overview import StackEntry
from spica.scheduling.why import Why, why_image
from spica_web.deps import Site, Visitor, site_of
from spica_web.draw.sky import SkyChart, draw_sky
from spica_web.errors import MissingError
from spica_web.pages.delivery import checks_of
from spica_web.pages.image import (
    PICTURES,
    TagsPanel,
    machine_grade,
    own_grade,
    plots_of,
    preview_of,
    read_tags,
    standing_grade,
)
from spica_web.pages.measures import MeasureLine, measure_lines
from spica_web.pages.stale import count_stale
from spica_web.public import is_guest, shown_grades, shown_stack
from spica_web.query import PAGE_SIZE, Paging, choice, read_page
from spica_web.render import Page, render
from spica_web.tables import table_response, wanted_form
from spica_web.tables_of import STACKS, stack_rows

router = APIRouter()
STATES = (
    ImageState.PLANNED,
    ImageState.RUNNING,
    ImageState.MADE,
    ImageState.DELIVERED,
    ImageState.FAILED,
    ImageState.SUPERSEDED,
)
BRIGHTEST = 40


@dataclass(frozen=True)
class Head:
    """A heading of the list: the word that orders by it (none: it does not), what it says and means."""

    sort: str
    text: str
    title: str = ""
    number: bool = False
    wide: bool = False


HEADS = (
    Head("name", "name"),
    Head("grade", "grade"),
    Head("", "mode"),
    Head("object", "object"),
    Head("filter", "filter"),
    Head("inputs", "inputs", number=True),
    Head("time", "time", number=True),
    Head("seeing", "seeing arcsec", number=True),
    Head("depth", "depth mag", number=True),
    Head("", "zero point mag", number=True, wide=True),
    Head("", "system", wide=True),
    Head("", "internal mas", "rms per axis between exposures", number=True, wide=True),
    Head("", "reference mas", "rms per axis to the reference", number=True, wide=True),
    Head("state", "state"),
)
SORTS: dict[str, Any] = {
    "name": ImageRow.name,
    "grade": MeasureRow.grade,
    "object": ImageRow.object,
    "filter": ImageRow.filter,
    "inputs": StackRow.n_inputs,
    "time": ImageRow.exptime_s,
    "seeing": MeasureRow.seeing_arcsec,
    "depth": MeasureRow.limiting_mag,
    "state": ImageRow.state,
}


@dataclass(frozen=True)
class StackQuery:
    """What a list of stacks shows: the words of the address."""

    kind: str = "stack"
    state: str = ""
    object: str = ""
    filter: str = ""
    grade: str = ""
    sort: str = ""

    @property
    def wanted(self) -> ImageKind:
        """Stacks or calibrated copies."""
        return ImageKind.CALIBRATED if self.kind == "calibrated" else ImageKind.STACK

    @property
    def active(self) -> bool:
        """Whether anything but the state narrows the list."""
        return any((self.object, self.filter, self.grade))

    def link(self, **changes: Any) -> str:
        """Return the query string after some changes."""
        values = dataclasses.asdict(self) | changes
        kept = {k: v for k, v in values.items() if v not in ("", None) and (k, v) != ("kind", "stack")}
        return f"?{urlencode(kept)}" if kept else "?"

    def sorted_by(self, column: str) -> str:
        """Return the query string of a click on a heading: ascending, then descending, then none."""
        return self.link(sort={column: f"-{column}", f"-{column}": ""}.get(self.sort, column))

    def direction(self, column: str) -> str:
        """Return `ascending`, `descending` or nothing for a heading."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "") if column else ""

    def conditions(self, aliases: dict[str, str]) -> list[ColumnElement[bool]]:
        """Return what narrows the list, the kind and the state aside."""
        found: list[ColumnElement[bool]] = []
        if self.object:
            found.append(ImageRow.object_key == normalise_object(self.object, aliases))
        if self.filter:
            found.append(ImageRow.filter == self.filter)
        letter = choice(Grade, self.grade)
        if letter is not None:
            found.append(MeasureRow.grade == letter)
        return found

    def order(self) -> list[Any]:
        """Return the order, unknown values last; the newest first where none is asked for."""
        name, down = self.sort.removeprefix("-"), self.sort.startswith("-")
        if name not in SORTS:
            return [ImageRow.id.desc()]
        return [SORTS[name].desc().nulls_last() if down else SORTS[name].asc().nulls_last()]


def read_stack_query(words: Mapping[str, str]) -> StackQuery:
    """Return the query of an address; words that mean nothing are dropped."""
    given = {f.name: words.get(f.name, "").strip()[:500].replace("\0", "") for f in dataclasses.fields(StackQuery)}
    given["kind"] = "calibrated" if given["kind"] == "calibrated" else "stack"
    given["state"] = given["state"] if given["state"] in {s.value for s in STATES} else ""
    return StackQuery(**given)


@dataclass(frozen=True)
class StacksPage(Page):
    """The list of stacks or of calibrated copies."""

    template: ClassVar[str] = "stacks.html"
    title: str
    nav: str
    rows: list[StackEntry]
    counts: dict[str, int]
    states: tuple[str, ...]
    query: StackQuery
    filters: tuple[str, ...]
    heads: tuple[Head, ...]
    paging: Paging
    n_stale: int


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
    sources: list[SourceRow]
    catalogue: ProductEntry | None
    deliveries: list[DeliveryRow]
    manifest: list[ProductEntry]
    described: Manifest | None
    checking: frozenset[int]
    mosaic: ProductEntry | None
    coverage: list[SkyChart]
    tags: TagsPanel
    asked: str
    answers: list[Why]
    grades: list[GradeEntry]
    machine: GradeEntry | None
    standing: GradeRow | None
    own_grade: int | None
    comments: tuple[str, ...]
    file: FileEntry | None


@router.get("/stacks", response_class=HTMLResponse)
def stacks_page(request: Request, person: Visitor) -> Response:
    """Show stacks, newest first where no column orders them."""
    form = wanted_form(request)
    site, page, query = site_of(request), read_page(request.query_params), read_stack_query(request.query_params)
    where = query.conditions(site.workspace.object_aliases)
    with site.read() as session:
        counts = count_stacks(session, query.wanted, where)
        shown = [*where, ImageRow.state == ImageState(query.state)] if query.state else where
        if form is not None:
            ids = stack_ids(session, query.wanted, shown, query.order())
            return table_response(request, STACKS, form, stack_rows(site, person, ids), len(ids))
        rows = list_stacks(
            session,
            site.workspace,
            [ImageRow.kind == query.wanted, *shown],
            order=query.order(),
            limit=PAGE_SIZE,
            offset=(page - 1) * PAGE_SIZE,
        )
    filters = stack_filters(site.snapshot(), query.wanted)
    total = counts.get(query.state, 0) if query.state else sum(counts.values())
    states = tuple(s.value for s in STATES)
    title = "Stacks" if query.wanted is ImageKind.STACK else "Calibrated copies"
    paging = Paging(page, PAGE_SIZE, total)
    n_stale = 0 if is_guest(person) else count_stale(request)
    return render(request, StacksPage(title, "stacks", rows, counts, states, query, filters, HEADS, paging, n_stale))


@router.get("/stacks/{image_id}", response_class=HTMLResponse)
def stack_page(request: Request, person: Visitor, image_id: int, why: str = "") -> Response:
    """Show one stack or calibrated copy; `why` asks about one exposure by its name or number."""
    site = site_of(request)
    with site.read() as session:
        found = read_stack_row(session, image_id) if image_id < 2**62 else None
        if found is None:
            if 0 < image_id < 2**62 and session.get(ImageRow, image_id) is not None:
                return RedirectResponse(f"/images/{image_id}", status_code=303)
            raise MissingError(f"there is no stack {image_id}; see the list of stacks")
        page = _read_page(
            session, site, person, checks_of(request).going(), why.strip()[:200].replace("\0", ""), *found
        )
    return render(request, page)


def _read_page(
    session: Session,
    site: Site,
    person: Person,
    checking: frozenset[int],
    asked: str,
    image: ImageRow,
    stack: StackRow,
    measure: MeasureRow | None,
) -> StackPage:
    solution = newest_solution(session, image.plan_id)
    products = read_products(session, image.id)
    of_plan = read_products_of_plan(session, image.plan_id) if image.plan_id is not None else []
    grades = shown_grades(person, read_grades(session, image.id))
    own = {p.id for p in products}
    inputs = read_inputs(session, image.id, solution.id if solution else None)
    manifest = [p for p in products if p.role in ("manifest", "report", "delivered")]
    plots = plots_of([p for p in of_plan if p.id in own or p.role == "plot"])
    return StackPage(
        title=image.name,
        nav="stacks",
        image=image,
        stack=stack,
        entry=shown_stack(person, list_stacks(session, site.workspace, [ImageRow.id == image.id])[0]),
        measure=measure,
        lines=measure_lines(measure, distributions(site.snapshot(), image.id), {}),
        reasons=read_reasons(session, image.id),
        preview=preview_of(products),
        plots=_unique(plots or plots_of(products)),
        products=products,
        solution=solution,
        inputs=inputs,
        why_not=read_why_not(session, image.plan_id),
        n_sources=count_sources(session, image.id),
        sources=list_sources(session, image.id, SourceBounds(), "mag_auto", BRIGHTEST),
        catalogue=next((p for p in products if p.role == "catalogue"), None),
        deliveries=[] if is_guest(person) else read_deliveries(session, image.id),
        manifest=manifest,
        described=None if is_guest(person) else read_described(session, manifest),
        checking=checking,
        mosaic=next((p for p in products if p.role == "mosaic" and p.media_type in PICTURES), None),
        tags=read_tags(session, image.id, person),
        asked=asked,
        answers=_answers(session, image.id, asked),
        coverage=draw_sky(read_footprints(session, image, [i.image_id for i in inputs])),
        grades=grades,
        machine=machine_grade(grades),
        standing=standing_grade(grades, image),
        own_grade=own_grade(grades, person),
        comments=COMMENTS,
        file=None if is_guest(person) else read_file_entry(session, image.file_id),
    )


def _answers(session: Session, stack_id: int, asked: str) -> list[Why]:
    """Return why an exposure is, or is not, in a stack; empty where none is called so."""
    if not asked:
        return []
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else 0
    same = (ImageRow.name == asked) | (ImageRow.id == number)
    found = session.scalar(select(ImageRow.id).where(same, ImageRow.kind == ImageKind.EXPOSURE).limit(1))
    return [] if found is None else why_image(session, found, stack_id)


def read_described(session: Session, products: list[ProductEntry]) -> Manifest | None:
    """Return what the newest manifest in JSON says; None where there is none that can be read."""
    newest = next((p for p in products if p.name.endswith("manifest.json")), None)
    content = read_content(session, newest.file_id) if newest is not None else None
    if content is None:
        return None
    try:
        return manifest_from_json(content.content)
    except DataError:
        return None


def _unique(products: list[ProductEntry]) -> list[ProductEntry]:
    """Return products, each content once."""
    return list({p.file_id: p for p in products}.values())

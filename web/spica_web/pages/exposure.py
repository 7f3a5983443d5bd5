"""The list of exposures: narrowed by rule and words, ordered, paged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from spica.db.overview import list_images
from spica.db.pages.listing import Facets, count_images, read_facets
from spica.model.errors import RecipeError
from spica.model.image import ImageKind, ImageState
from spica.model.overview import ImageEntry
from spica.model.selection import FIELDS, Field
from spica_web.deps import Visitor, site_of
from spica_web.query import PAGE_SIZE, ImageQuery, Paging, RuleFault, fault_of, read_query
from spica_web.render import Page, render

router = APIRouter()


@dataclass(frozen=True)
class Column:
    """A column of the list: the word that orders it, its heading, unit, meaning; `wide`: hidden on small screens."""

    sort: str
    head: str
    unit: str
    text: str
    number: bool = True
    wide: bool = False


def _column(name: str, head: str, unit: str = "", *, number: bool = True, wide: bool = False) -> Column:
    return Column(name, head, unit, FIELDS[name].text, number, wide)


COLUMNS = (
    _column("object", "object", number=False),
    _column("filter", "filter", number=False),
    _column("night", "night", number=False),
    _column("exptime", "exposure", "s", wide=True),
    _column("airmass", "airmass", wide=True),
    _column("seeing", "seeing", "arcsec"),
    _column("ellipticity", "ellipticity"),
    _column("background", "background", "ADU", wide=True),
    _column("limiting_mag", "depth", "mag"),
    _column("zero_point", "zero point", "mag", wide=True),
    _column("skyprobe", "SkyProbe", "mag", wide=True),
    _column("n_stars", "stars", wide=True),
)
STATES = (ImageState.REGISTERED, ImageState.ASSESSED, ImageState.CALIBRATED, ImageState.REJECTED, ImageState.FAILED)


@dataclass(frozen=True)
class ExposuresPage(Page):
    """The list, what narrows it, and where it stands."""

    template: ClassVar[str] = "exposures.html"
    title: str
    nav: str
    query: ImageQuery
    facets: Facets
    states: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: list[ImageEntry]
    paging: Paging
    all: int
    fault: RuleFault | None
    fields: tuple[Field, ...]


@router.get("/exposures", response_class=HTMLResponse)
def exposures_page(request: Request, person: Visitor) -> HTMLResponse:
    """Show exposures; a rule that cannot be read is marked under the word and the list stays empty."""
    site, query, fault = site_of(request), read_query(request.query_params), None
    rows: list[ImageEntry] = []
    try:
        where = query.conditions(site.workspace.object_aliases)
    except RecipeError as trouble:
        where, fault = [], fault_of(query.rule, trouble)
    with site.read() as session:
        facets = read_facets(session)
        n, total = count_images(session, where, ImageKind.EXPOSURE)
        paging = Paging(query.page, PAGE_SIZE, 0 if fault else n)
        if fault is None:
            skip = (query.page - 1) * PAGE_SIZE
            rows = list_images(session, site.workspace, where, order=query.order(), limit=PAGE_SIZE, offset=skip)
    states = tuple(s.value for s in STATES)
    fields = tuple(FIELDS.values())
    page = ExposuresPage("Exposures", "exposures", query, facets, states, COLUMNS, rows, paging, total, fault, fields)
    return render(request, page)

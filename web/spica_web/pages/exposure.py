"""The list of exposures: narrowed by rule and words, ordered, paged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from spica.db.pages.listing import Facets, ImageLine, facets, read_lines
from spica.db.snapshot import KINDS, Snapshot, ordered
from spica.model.errors import RecipeError
from spica.model.image import ImageKind, ImageState
from spica.model.selection import FIELDS, Field
from spica_web.deps import Visitor, site_of
from spica_web.query import PAGE_SIZE, ImageQuery, Paging, RuleFault, fault_of, read_query
from spica_web.render import Page, render
from spica_web.tables import check_length, table_response, wanted_form
from spica_web.tables_of import EXPOSURES, exposure_rows

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
    """The list, what narrows it, and where it stands; `age_s` is how long ago it was counted."""

    template: ClassVar[str] = "exposures.html"
    title: str
    nav: str
    query: ImageQuery
    facets: Facets
    states: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: list[ImageLine]
    paging: Paging
    all: int
    age_s: float
    fault: RuleFault | None
    fields: tuple[Field, ...]


@router.get("/exposures", response_class=HTMLResponse)
def exposures_page(request: Request, person: Visitor) -> Response:
    """Show exposures; a rule that cannot be read is marked under the word and the list stays empty."""
    site, query, fault, form = site_of(request), read_query(request.query_params), None, wanted_form(request)
    snapshot = site.snapshot()
    found = np.empty(0, dtype=np.int64)
    try:
        found = query.rows(snapshot, site.workspace.object_aliases)
    except RecipeError as trouble:
        if form is not None:
            raise
        fault = fault_of(query.rule, trouble)
    if form is not None:
        check_length(len(found))
        ids = snapshot.images.id[ordered(snapshot, found, query.sort, 0, len(found))].tolist()
        return table_response(request, EXPOSURES, form, exposure_rows(site, person, ids), len(ids))
    shown = ordered(snapshot, found, query.sort, (query.page - 1) * PAGE_SIZE, PAGE_SIZE)
    with site.read() as session:
        rows = read_lines(session, snapshot.images.id[shown].tolist())
    page = ExposuresPage(
        title="Exposures",
        nav="exposures",
        query=query,
        facets=facets(snapshot),
        states=tuple(s.value for s in STATES),
        columns=COLUMNS,
        rows=rows,
        paging=Paging(query.page, PAGE_SIZE, len(found)),
        all=_all(snapshot),
        age_s=snapshot.age_s,
        fault=fault,
        fields=tuple(FIELDS.values()),
    )
    return render(request, page)


def _all(snapshot: Snapshot) -> int:
    kind = snapshot.images.kind

    def compute() -> int:
        return int(np.count_nonzero(kind == KINDS.index(ImageKind.EXPOSURE)))

    return snapshot.cache.get("n exposures", (kind,), compute)

"""The catalogue of a stack: a table with order and bounds, number counts, sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from markupsafe import Markup

from spica.db.pages.catalogue import (
    SORTS,
    SourceBounds,
    count_magnitudes,
    count_matching,
    list_sources,
    read_size_plane,
)
from spica.db.pages.stack import read_stack_row
from spica.db.tables.image import ImageRow
from spica.db.tables.product import SourceRow, StackRow
from spica_web.deps import Visitor, site_of
from spica_web.draw.catalogue import draw_counts, draw_size_plane
from spica_web.errors import MissingError
from spica_web.query import Paging, read_page
from spica_web.render import Page, render
from spica_web.tables import table_response, wanted_form
from spica_web.tables_of import SOURCES, source_rows

router = APIRouter()
ROWS = 200
HEADS = {
    "number": ("number", "number in the catalogue", 0),
    "ra_deg": ("RA °", "windowed right ascension, degree", 6),
    "dec_deg": ("Dec °", "windowed declination, degree", 6),
    "mag_auto": ("MAG_AUTO", "Kron-like magnitude, mag", 3),
    "magerr_auto": ("error", "error of MAG_AUTO, mag", 4),
    "fwhm_pix": ("FWHM pix", "FWHM, pixel", 2),
    "flux_radius_pix": ("r½ pix", "half-light radius, pixel", 2),
    "elongation": ("elongation", "a/b", 2),
    "flags": ("flags", "SExtractor's extraction flags", 0),
}
"""Heading, meaning and digits of each column that orders the table."""


@dataclass(frozen=True)
class SourceQuery:
    """The words of the address; texts as they were written."""

    sort: str = "mag_auto"
    mag_min: str = ""
    mag_max: str = ""
    fwhm_max: str = ""
    elongation_max: str = ""
    number: str = ""
    clean: str = ""

    def bounds(self) -> SourceBounds:
        """Return what the words narrow; words that are no numbers do not."""
        whole = self.number if self.number.isascii() and self.number.isdigit() and len(self.number) < 10 else ""
        return SourceBounds(
            _number(self.mag_min),
            _number(self.mag_max),
            _number(self.fwhm_max),
            _number(self.elongation_max),
            self.clean == "1",
            int(whole) if whole else None,
        )

    @property
    def active(self) -> bool:
        """Whether anything narrows the table."""
        return self.bounds() != SourceBounds()

    def link(self, **changes: object) -> str:
        """Return the query string after some changes."""
        values = dataclasses.asdict(self) | changes
        kept = {k: v for k, v in values.items() if v not in ("", None) and (k, v) not in (("sort", "mag_auto"),)}
        return f"?{urlencode(kept)}" if kept else "?"

    def sorted_by(self, column: str) -> str:
        """Return the query string of a click on a heading: ascending, then descending."""
        return self.link(sort=f"-{column}" if self.sort == column else column)

    def direction(self, column: str) -> str:
        """Return `ascending`, `descending` or nothing for a heading."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "")


@dataclass(frozen=True)
class CataloguePage(Page):
    """One page of the table with the plots of the whole catalogue."""

    template: ClassVar[str] = "catalogue.html"
    title: str
    nav: str
    image: ImageRow
    stack: StackRow
    query: SourceQuery
    heads: dict[str, tuple[str, str, int]]
    rows: list[SourceRow]
    total: int
    paging: Paging
    counts: Markup | None
    plane: Markup | None


def read_source_query(words: Mapping[str, str]) -> SourceQuery:
    """Return the query of an address; unknown words are dropped."""
    names = [f.name for f in dataclasses.fields(SourceQuery) if f.name != "sort"]
    sort = words.get("sort", "")
    return SourceQuery(
        sort if sort.removeprefix("-") in SORTS else "mag_auto", *(words.get(n, "").strip()[:30] for n in names)
    )


@router.get("/stacks/{image_id}/catalogue", response_class=HTMLResponse)
def catalogue_page(request: Request, person: Visitor, image_id: int) -> Response:
    """Show the sources of a stack."""
    query, page = read_source_query(request.query_params), read_page(request.query_params)
    bounds, site, form = query.bounds(), site_of(request), wanted_form(request)
    with site.read() as session:
        found = read_stack_row(session, image_id) if 0 < image_id < 2**62 else None
        if found is None:
            raise MissingError(f"there is no stack {image_id}; see the list of stacks")
        n, total = count_matching(session, image_id, bounds)
        if form is not None:
            return table_response(request, SOURCES, form, source_rows(site, image_id, bounds.conditions()), n)
        rows = list_sources(session, image_id, bounds, query.sort, ROWS, (page - 1) * ROWS)
        first = page == 1
        counts = draw_counts(count_magnitudes(session, image_id)) if first else None
        plane = draw_size_plane(read_size_plane(session, image_id)) if first else None
    image, stack, _ = found
    shown = CataloguePage(
        f"Catalogue of {image.name}",
        "stacks",
        image,
        stack,
        query,
        HEADS,
        rows,
        total,
        Paging(page, ROWS, n),
        counts,
        plane,
    )
    return render(request, shown)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

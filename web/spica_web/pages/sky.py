"""The sky map: coverage and depth of the survey by filter, as cells and outlines; coverage maps for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from spica.algorithms.skymap import angular_separation
from spica.db.coverage import read_coverage
from spica.db.pages.night import ObjectEntry, list_objects
from spica.db.pages.skycell import (
    FINEST_ORDER,
    WIDEST_ORDER,
    cells_json,
    centre_cells,
    order_of_view,
    shown_rows,
    sky_cells,
)
from spica.db.pages.survey import MAX_SHAPES, SkyShape, read_shapes
from spica.db.pages.tally import STACK, is_exposure
from spica.db.snapshot import STATES, ImageColumns, Snapshot
from spica.files.moc import Moc, moc_fits, moc_json, moc_text
from spica.model.association import Circle
from spica.model.image import ImageState
from spica_web.deps import Visitor, site_of
from spica_web.kept import Shelf, shelf_of
from spica_web.render import Page, render

router = APIRouter()
MOC_LIMIT_S = 300.0
MOC_REST = 60.0
MAX_OUTLINES = 250
"""More images in view than this are shown as cells alone."""
MAX_FIELDS = 60
WHATS = {
    "depth": ("depth", "mag", "expected 5 sigma depth of all usable exposures together"),
    "n": ("exposures", "", "usable exposures"),
    "time": ("time", "s", "exposure time, summed"),
    "seeing": ("best seeing", "arcsec", "FWHM of stars of the sharpest exposure"),
}
GONE = tuple(STATES.index(s) for s in (ImageState.REJECTED, ImageState.SUPERSEDED, ImageState.FAILED))

Ra = Annotated[float, Query(ge=-360.0, le=720.0, allow_inf_nan=False, description="centre, degree")]
Dec = Annotated[float, Query(ge=-90.0, le=90.0, allow_inf_nan=False, description="centre, degree")]
Radius = Annotated[float, Query(gt=0.0, le=180.0, allow_inf_nan=False, description="radius, degree")]
FilterName = Annotated[str, Query(max_length=200, description="canonical filter; empty: all")]


@dataclass(frozen=True)
class What:
    """A quantity that the map can show."""

    key: str
    label: str
    unit: str
    text: str


@dataclass(frozen=True)
class SkyPage(Page):
    """The map: filter, quantity and view; the fields to go to."""

    template: ClassVar[str] = "sky.html"
    title: str
    nav: str
    filters: list[str]
    filter: str
    whats: tuple[What, ...]
    what: str
    ra: float | None
    dec: float | None
    fov: float | None
    fields: list[ObjectEntry]
    n: int
    age_s: float


@router.get("/sky", response_class=HTMLResponse)
def sky_page(
    request: Request,
    person: Visitor,
    filter: FilterName = "",
    what: str = "depth",
    ra: Ra | None = None,
    dec: Dec | None = None,
    fov: Annotated[float | None, Query(gt=0.0, le=360.0, allow_inf_nan=False)] = None,
) -> HTMLResponse:
    """Show coverage and depth; the whole sky, or a view of `fov` degrees around a place."""
    snapshot, shelf = site_of(request).snapshot(), shelf_of(request)
    images = snapshot.images
    entries = shelf.get("objects", snapshot.version, lambda: list_objects(images))
    placed = [e for e in entries if e.ra_deg is not None and (not filter or e.filter == filter)]
    n = shelf.get(("usable", filter), snapshot.version, lambda: len(shown_rows(images, filter or None)))
    page = SkyPage(
        title="Sky",
        nav="home",
        filters=_filters(shelf, snapshot),
        filter=filter,
        whats=tuple(What(key, *words) for key, words in WHATS.items()),
        what=what if what in WHATS else "depth",
        ra=None if ra is None or dec is None else ra % 360.0,
        dec=None if ra is None else dec,
        fov=fov,
        fields=placed[:MAX_FIELDS],
        n=n,
        age_s=snapshot.age_s,
    )
    return render(request, page)


def _filters(shelf: Shelf, snapshot: Snapshot) -> list[str]:
    """Return the filters of exposures."""
    images = snapshot.images

    def make() -> list[str]:
        codes = np.unique(images.filter[is_exposure(images)])
        return sorted(images.words["filter"][c] for c in codes.tolist() if c >= 0)

    return shelf.get("filters", snapshot.version, make)


@router.get("/sky/cells.json", response_class=JSONResponse)
def cells(
    request: Request,
    person: Visitor,
    filter: FilterName = "",
    order: Annotated[int, Query(ge=0, le=FINEST_ORDER, description="HEALPix order; 0: by the radius")] = 0,
    ra: Ra = 0.0,
    dec: Dec = 0.0,
    radius: Radius = 180.0,
) -> Response:
    """Return the cells with exposures around a place: `order`, `pixel` (nested), `n`, `time`, `depth`, `seeing`."""
    snapshot, shelf = site_of(request).snapshot(), shelf_of(request)
    images = snapshot.images
    wanted = min(max(order or order_of_view(radius), WIDEST_ORDER), FINEST_ORDER)
    view = (round(ra % 360.0, 2), round(dec, 2), round(radius, 2))

    def make() -> bytes:
        keys = snapshot.cache.get("centre_cells", (images.ra, images.dec), lambda: centre_cells(images))
        rows = shown_rows(images, filter or None, Circle(view[0], view[1], max(view[2], 0.01)))
        found = cells_json(sky_cells(images, keys, rows, wanted))
        return bytes(JSONResponse(found | {"exposures": len(rows)}).body)

    body = shelf.get(("cells", filter, wanted, view), snapshot.version, make)
    return Response(body, media_type="application/json", headers={"Cache-Control": "private, max-age=5"})


@router.get("/sky/shapes.json", response_class=JSONResponse)
def shapes(
    request: Request, person: Visitor, ra: Ra, dec: Dec, radius: Radius, filter: FilterName = ""
) -> JSONResponse:
    """Return the outlines of the images in view: exposures of a filter and stacks; none where there are too many."""
    site = site_of(request)
    images = site.snapshot().images
    ids = images_in_view(images, filter or None, Circle(ra % 360.0, dec, radius))
    found: list[SkyShape] = []
    if len(ids) <= MAX_OUTLINES:
        with site.read() as session:
            found = read_shapes(session, ids)
    return JSONResponse({"n": len(ids), "shapes": [_outline(s) for s in found]})


def images_in_view(images: ImageColumns, filter_name: str | None, circle: Circle) -> list[int]:
    """Return the ids of usable exposures and of standing stacks near a circle, at most `MAX_SHAPES` or too many."""
    rows = shown_rows(images, filter_name, circle)
    mask = (images.kind == STACK) & ~np.isin(images.state, GONE) & np.isfinite(images.ra) & np.isfinite(images.dec)
    if filter_name is not None:
        mask &= images.filter == images.code("filter", filter_name)
    stacks = np.flatnonzero(mask)
    apart = angular_separation(images.ra[stacks], images.dec[stacks], circle.ra_deg, circle.dec_deg)
    stacks = stacks[apart <= circle.radius_deg + np.nan_to_num(images.radius[stacks])]
    return [int(i) for i in images.id[np.concatenate([rows, stacks])[:MAX_SHAPES]]]


def _outline(shape: SkyShape) -> dict[str, Any]:
    return {
        "id": shape.id,
        "name": shape.name,
        "kind": shape.kind,
        "grade": shape.grade,
        "state": shape.state,
        "polygons": [[round(v, 6) for corner in polygon for v in corner] for polygon in shape.polygons],
        "ra": shape.ra_deg,
        "dec": shape.dec_deg,
        "radius": shape.radius_deg,
    }


@router.get("/sky/moc")
def coverage_map(
    request: Request,
    person: Visitor,
    filter: FilterName = "",
    of: Annotated[
        Literal["exposures", "stacks"], Query(description="usable exposures, or delivered stacks")
    ] = "exposures",
    order: Annotated[int, Query(ge=0, le=18, description="finest order")] = 12,
    format: Annotated[Literal["fits", "json", "text"], Query(description="FITS table, JSON or ASCII")] = "fits",
) -> Response:
    """Return what footprints cover, as a multi-order coverage map (IVOA MOC 2.0)."""
    site, shelf = site_of(request), shelf_of(request)

    def make() -> Moc:
        with site.database.read(MOC_LIMIT_S) as session:
            return read_coverage(session, filter or None, order, stacks=of == "stacks")

    moc = shelf.get(("moc", filter, of, order), site.snapshot().version, make, rest=MOC_REST)
    stem = "".join(c for c in f"{of}-{filter or 'all'}" if c.isascii() and (c.isalnum() or c in "-_."))[:60]
    kinds = {
        "fits": ("application/fits", "fits"),
        "json": ("application/json", "json"),
        "text": ("text/plain; charset=utf-8", "txt"),
    }
    media, ending = kinds[format]
    content = moc_fits(moc) if format == "fits" else (moc_json(moc) if format == "json" else moc_text(moc)).encode()
    headers = {
        "Content-Disposition": f'attachment; filename="moc-{stem}.{ending}"',
        "X-Content-Type-Options": "nosniff",
        "X-Area-Deg2": f"{moc.area_deg2:.6f}",
    }
    return Response(content, media_type=media, headers=headers)

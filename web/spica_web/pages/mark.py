"""Marks on images: drawn in pixels of the mosaic, listed, exported as DS9 regions, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from spica.db.file import read_content
from spica.db.mark import MarkEntry, add_mark, marks_of, withdraw_mark
from spica.db.pages.view import read_view
from spica.db.person import Person, audit
from spica.db.tables.image import ImageRow
from spica.files.header import HeaderCards
from spica.files.mosaic import DetectorGeometry, MosaicLayout, MosaicRegion, read_geometry, to_detectors, to_mosaic
from spica.files.regions import Region, format_regions, read_regions
from spica.files.slug import slug
from spica.files.wcs import pixel_scale_arcsec, read_wcs, sky_of_pixels
from spica.model.errors import DataError, UsageError
from spica.model.image import ImageKind
from spica.model.mark import MarkRegion, MarkShape, meets_detector
from spica.model.person import PersonRole
from spica_web.api.answer import answer
from spica_web.deps import Grader, Viewer, site_of
from spica_web.pages.image import need_image
from spica_web.pages.view import mosaics_of

router = APIRouter()
MOST_CORNERS = 200
MAX_IMPORT = 60_000


class NewMark(BaseModel):
    """A circle or polygon in full pixels of the mosaic, from its lower left, y upwards; and what is wrong there."""

    shape: MarkShape
    x_pix: list[float] = Field(min_length=1, max_length=MOST_CORNERS)
    y_pix: list[float] = Field(min_length=1, max_length=MOST_CORNERS)
    radius_pix: float | None = None
    comment: str | None = Field(None, max_length=2000)


@dataclass(frozen=True)
class ShownMark:
    """A part of a standing mark in pixels of the mosaic, as the viewer draws it."""

    id: int
    shape: str
    x_pix: tuple[float, ...]
    y_pix: tuple[float, ...]
    radius_pix: float | None
    detector: int
    comment: str | None
    person: str | None


def need_layout(request: Request, session: Session, image: ImageRow) -> MosaicLayout:
    """Return where the detectors of an image stand in its mosaic.

    Raises
    ------
    DataError
        Nothing was made of the image yet.
    """
    layout = mosaics_of(request).read_layout(session, image)
    if layout is None:
        raise DataError(f"{image.name} has no mosaic yet; assess it first")
    return layout


def need_exposure(session: Session, image_id: int) -> ImageRow:
    """Return an exposure; stacks are not marked, their exposures are."""
    image, _ = need_image(session, image_id)
    if image.kind is not ImageKind.EXPOSURE:
        raise UsageError(f"{image.name} is no exposure; mark the exposures that it was made of")
    return image


def shown_marks(layout: MosaicLayout, marks: list[MarkEntry]) -> list[ShownMark]:
    """Return marks in pixels of the mosaic; parts on detectors that the image has no more are left out."""
    numbers = {p.number for p in layout.places}
    found = []
    for m in marks:
        for region in m.regions:
            if region.detector in numbers:
                r = to_mosaic(layout, region)
                found.append(
                    ShownMark(m.id, r.shape.value, r.x_pix, r.y_pix, r.radius_pix, region.detector, m.comment, m.person)
                )
    return found


@router.get("/images/{image_id}/marks.json", response_model=list[ShownMark])
def list_marks(request: Request, person: Viewer, image_id: int) -> JSONResponse:
    """Give the standing marks of an image in pixels of its mosaic."""
    with site_of(request).read() as session:
        image, _ = need_image(session, image_id)
        marks = marks_of(session, image_id)
        layout = mosaics_of(request).read_layout(session, image) if marks else None
    return answer(shown_marks(layout, marks) if layout is not None else [])


@router.post("/api/images/{image_id}/marks", response_model=list[ShownMark], tags=["marks"])
def draw_mark(request: Request, person: Grader, image_id: int, given: NewMark) -> JSONResponse:
    """Mark a region of an exposure (by id), so that the next stack gives its pixels no weight; return all its marks."""
    with site_of(request).database.begin() as session:
        image = need_exposure(session, image_id)
        layout = need_layout(request, session, image)
        region = MosaicRegion(given.shape, tuple(given.x_pix), tuple(given.y_pix), given.radius_pix)
        mark = add_mark(session, image_id, to_detectors(layout, region), person_id=person.id, comment=given.comment)
        audit(session, person.id, "mark", f"image:{image_id}", f"mark {mark} {given.comment or ''}".strip())
        return answer(shown_marks(layout, marks_of(session, image_id)))


def _withdraw(session: Session, person: Person, mark_id: int) -> int:
    of_anyone = person.role.may(PersonRole.OPERATOR)
    image_id = withdraw_mark(session, mark_id, person.id, of_anyone=of_anyone)
    audit(session, person.id, "withdraw_mark", f"image:{image_id}", f"mark {mark_id}")
    return image_id


@router.post("/marks/{mark_id}/withdraw")
def take_mark_back(request: Request, person: Grader, mark_id: int) -> Response:
    """Take back an own mark; operators anybody's."""
    with site_of(request).database.begin() as session:
        image_id = _withdraw(session, person, mark_id)
    return RedirectResponse(f"/images/{image_id}#marks", status_code=303)


@router.post("/api/marks/{mark_id}/withdraw", response_model=list[ShownMark], tags=["marks"])
def take_back(request: Request, person: Grader, mark_id: int) -> JSONResponse:
    """Take back an own mark, operators anybody's; return those that stand on its image."""
    with site_of(request).database.begin() as session:
        image_id = _withdraw(session, person, mark_id)
        image, _ = need_image(session, image_id)
        return answer(shown_marks(need_layout(request, session, image), marks_of(session, image_id)))


# DS9 regions ----------------------------------------------------------------------------------------------------------


def read_detectors_of(session: Session, image: ImageRow) -> dict[int, DetectorGeometry]:
    """Return the geometry of an exposure's detectors by number.

    Raises
    ------
    DataError
        It was not assessed yet.
    """
    facts = read_view(session, image).facts
    content = read_content(session, facts.id) if facts is not None else None
    if content is None:
        raise DataError(f"{image.name} has no facts yet; assess it first")
    return {d.index: d for d in read_geometry(content.content).detectors}


@router.get("/images/{image_id}/marks.reg")
def export_marks(
    request: Request,
    person: Viewer,
    image_id: int,
    coords: Literal["sky", "image"] = "sky",
    detector: int | None = None,
) -> Response:
    """Send the standing marks as a region file of DS9, on the sky or in pixels of one unit.

    On the sky they stand by the header's own WCS, so that DS9 draws them on the same pixels of the file. Pixels are
    asked for by `coords=image&detector=3`.
    """
    with site_of(request).read() as session:
        image = need_exposure(session, image_id)
        marks = marks_of(session, image_id)
        geometry = read_detectors_of(session, image) if marks else {}
    if coords == "image" and detector is None:
        raise UsageError("pixels are those of one detector; add &detector=NUMBER, or ask for coords=sky")
    regions = []
    for m in marks:
        for region in m.regions:
            place = geometry.get(region.detector)
            if place is not None and detector in (None, region.detector):
                regions.append(_exported(m, region, place, coords))
    text = format_regions(regions, f"marks on {image.name}, {len(marks)} standing")
    name = f"{slug(image.name)}{'' if detector is None else f'.{detector:02d}'}.reg"
    return PlainTextResponse(text, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _exported(mark: MarkEntry, region: MarkRegion, place: DetectorGeometry, coords: str) -> Region:
    said = " ".join(w for w in (f"mark {mark.id}", mark.comment) if w)
    if coords == "image":
        x = tuple(v + place.x_start for v in region.x_pix)
        y = tuple(v + place.y_start for v in region.y_pix)
        return Region(region.shape, x, y, region.radius_pix, False, said)
    if not place.wcs_cards:
        raise UsageError(f"detector {place.name} has no WCS; ask for coords=image&detector={place.index}")
    wcs = read_wcs(HeaderCards(place.wcs_cards))
    ra, dec = (tuple(float(v) for v in values) for values in sky_of_pixels(wcs, region.x_pix, region.y_pix))
    scale_deg = pixel_scale_arcsec(wcs) / 3600.0
    radius = None if region.radius_pix is None else region.radius_pix * scale_deg
    return Region(region.shape, ra, dec, radius, True, said)


@router.post("/images/{image_id}/marks.reg")
def import_marks(
    request: Request,
    person: Grader,
    image_id: int,
    regions: Annotated[str, Form(max_length=MAX_IMPORT)],
    detector: Annotated[int | None, Form()] = None,
) -> Response:
    """Mark every region of a region file of DS9; those in pixels lie on the detector that is named."""
    given = read_regions(regions)
    if not given:
        raise UsageError("the region file holds no circle, polygon or box; draw some and save it again")
    with site_of(request).database.begin() as session:
        image = need_exposure(session, image_id)
        geometry = read_detectors_of(session, image)
        for region in given:
            parts = _imported(region, geometry, detector)
            add_mark(session, image_id, parts, person_id=person.id, comment=region.text or None)
        audit(session, person.id, "mark", f"image:{image_id}", f"{len(given)} regions of a file")
    return RedirectResponse(f"/images/{image_id}#marks", status_code=303)


def _imported(region: Region, geometry: dict[int, DetectorGeometry], detector: int | None) -> list[MarkRegion]:
    """Return a region in pixels of the detectors that it meets."""
    if not region.sky:
        if detector is None or detector not in geometry:
            numbers = " ".join(str(n) for n in sorted(geometry)[:100])
            raise UsageError(f"regions in pixels lie on one detector; name it: {numbers}")
        place = geometry[detector]
        x = tuple(v - place.x_start for v in region.x)
        y = tuple(v - place.y_start for v in region.y)
        return [MarkRegion(detector, region.shape, x, y, region.radius)]
    found = []
    for number, place in geometry.items():
        part = _on_detector(region, number, place)
        if part is not None and meets_detector(part, place.n_x, place.n_y):
            found.append(part)
    if not found:
        raise UsageError("a region of the file lies on no detector; look at its coordinates")
    return found


def _on_detector(region: Region, number: int, place: DetectorGeometry) -> MarkRegion | None:
    if not place.wcs_cards:
        return None
    wcs = read_wcs(HeaderCards(place.wcs_cards))
    pixels = wcs.all_world2pix(np.asarray(region.x), np.asarray(region.y), 0, quiet=True)
    x, y = (tuple(float(v) for v in values) for values in pixels)
    if not all(abs(v) < 1e6 for v in (*x, *y)):  # NaN too: the other side of the sky
        return None
    radius = None if region.radius is None else region.radius * 3600.0 / pixel_scale_arcsec(wcs)
    return MarkRegion(number, region.shape, x, y, radius)

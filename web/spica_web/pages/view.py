"""The deep-zoom viewer's data: what an image's picture is, tiles of its pixels, sources and masks on it."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from PIL import Image

from spica.db.file import locations
from spica.db.pages.view import ViewFile, brightest_sources
from spica.files.compand import FIRST, HIGH, LOW, NO_PIXEL, SOFTENING, compand, grey_jpeg
from spica.files.ldac import read_ldac
from spica.files.mosaic import DetectorPlace
from spica.files.pyramid import LIMITS, TILE_PIX, ImagePixels, read_tile
from spica.model.errors import DataError
from spica.model.image import ImageKind
from spica_web.deps import Site, Viewer, Visitor, site_of
from spica_web.errors import MissingError
from spica_web.pages.file import find_path
from spica_web.pages.image import need_image
from spica_web.pages.mosaic import Mosaics, MosaicView, SkyPlane
from spica_web.public import is_guest

router = APIRouter()
KEEP = {"Cache-Control": "private, max-age=31536000, immutable"}
MAX_SOURCES = 5000
MAX_CATALOGUE_BYTES = 256 * 2**20
STAR_WIDTH = 0.2
"""A source counts as a star where its width is within this share of that of the detector's stars, and no flag is up."""


def mosaics_of(request: Request) -> Mosaics:
    """Return what this server keeps to draw tiles."""
    state = request.app.state
    found: Mosaics | None = getattr(state, "mosaics", None)
    if found is None:
        found = state.mosaics = Mosaics()
    return found


def read_mosaic_view(site: Site, mosaics: Mosaics, image_id: int, key: str = "") -> MosaicView:
    """Return what is known of an image's picture, without a statement where its key is known here.

    Raises MissingError where there is no such image.
    """
    kept = mosaics.views.find((image_id, key)) if key else None
    if kept is not None:
        return kept
    with site.read() as session:
        image, _ = need_image(session, image_id)
        return mosaics.read(session, site.workspace, image)


# What it is -----------------------------------------------------------------------------------------------------------


@router.get("/images/{image_id}/view")
def view_image(request: Request, person: Visitor, image_id: int) -> JSONResponse:
    """Say how an image is shown: size, detectors, companding, sky, and the addresses of its parts."""
    view = read_mosaic_view(site_of(request), mosaics_of(request), image_id)
    return JSONResponse(describe_view(view, guest=is_guest(person)))


def describe_view(view: MosaicView, guest: bool) -> dict[str, Any]:
    """Return a view as the viewer's script reads it; visitors are not told names of files."""
    layout, start = view.layout, f"/images/{view.image_id}"
    shown = view.mosaic or view.preview
    sharp = view.pixels is not None
    reason = "the full pixels are not on this host" if guest and view.reason else view.reason
    return {
        "image": view.image_id,
        "name": view.name,
        "kind": view.kind,
        "key": view.key,
        "width": layout.width if layout else 0,
        "height": layout.height if layout else 0,
        "tile": TILE_PIX,
        "levels": view.levels,
        "picture": None if shown is None else {"url": file_url(shown), "factor": _factor(view)},
        "companding": _companding(view),
        "detectors": [_detector(p, view.sky) for p in layout.places] if layout else [],
        "sky": _sky(view),
        "blink": view.blink,
        "available": sharp,
        "reason": reason,
        "cure": view.cure,
        "urls": {
            "tiles": f"{start}/tiles/{{level}}/{{x}}/{{y}}?v={view.key}" if sharp else None,
            "masks": f"{start}/masks/{{level}}/{{x}}/{{y}}?v={view.key}" if view.weight and not guest else None,
            "sources": None if view.catalogue is None or guest else f"{start}/sources.json?v={_catalogue_key(view)}",
            "marks": None if guest else f"{start}/marks.json",
        },
    }


def file_url(file: ViewFile) -> str:
    """Return the address of a picture; the name in it is for people and always plain."""
    return f"/files/{file.id}/picture.{'jpg' if file.media_type == 'image/jpeg' else 'png'}"


def _catalogue_key(view: MosaicView) -> str:
    return f"{view.key}-{view.catalogue.sha256[:16]}" if view.catalogue is not None else view.key


def _factor(view: MosaicView) -> int | None:
    return None if view.picture is None else view.picture.factor


def _companding(view: MosaicView) -> dict[str, float] | None:
    if view.picture is None:
        return None
    given = {"softening": SOFTENING, "low": LOW, "high": HIGH, "first": FIRST, "no_pixel": NO_PIXEL}
    return {"level": view.companding.level, "sigma": view.companding.sigma, **given}


def _detector(place: DetectorPlace, sky: SkyPlane | None) -> dict[str, Any]:
    plane = sky.planes.get(place.number) if sky is not None else None
    told = {name: getattr(place, name) for name in ("number", "name", "x", "y", "n_x", "n_y")}
    return {**told, "sky": plane}


def _sky(view: MosaicView) -> dict[str, Any] | None:
    """Return tangent point, pixel scale, and the directions of north and east in the mosaic, y upwards."""
    if view.sky is None or view.layout is None:
        return None
    middle = view.sky.planes[sorted(view.sky.planes)[len(view.sky.planes) // 2]]
    slopes = np.array([[middle[1], middle[2]], [middle[4], middle[5]]])
    area = float(abs(np.linalg.det(slopes)))
    if not area > 0:
        return None
    to_pixels = np.linalg.inv(slopes)
    east, north = (to_pixels[:, i] / math.hypot(*to_pixels[:, i]) for i in range(2))
    return {
        "ra_deg": view.sky.ra_deg,
        "dec_deg": view.sky.dec_deg,
        "scale_arcsec": math.sqrt(area) * 3600.0,
        "north": [float(v) for v in north],
        "east": [float(v) for v in east],
        "north_deg": math.degrees(math.atan2(float(north[1]), float(north[0]))),
    }


# Tiles ----------------------------------------------------------------------------------------------------------------


@router.get("/images/{image_id}/tiles/{level}/{x}/{y}")
async def send_tile(
    request: Request, person: Visitor, image_id: int, level: int, x: int, y: int, v: str = ""
) -> Response:
    """Send a tile of the pixels, companded as the mosaic is; counted from the lower left, its rows from the top."""
    mosaics = mosaics_of(request)
    view = await run_in_threadpool(read_mosaic_view, site_of(request), mosaics, image_id, v)
    image = _need(view, view.pixels, level, x, y, f"{view.reason}; {view.cure}")

    def draw() -> bytes:
        c = view.companding
        return grey_jpeg(compand(read_tile(mosaics.store, image, level, x, y), c.level, c.sigma))

    content = await anyio.to_thread.run_sync(draw, limiter=mosaics.drawing)
    return Response(content, media_type="image/jpeg", headers=KEEP if v == view.key else None)


@router.get("/images/{image_id}/masks/{level}/{x}/{y}")
async def send_mask(
    request: Request, person: Viewer, image_id: int, level: int, x: int, y: int, v: str = ""
) -> Response:
    """Send a tile of what the weight map masks: white, opaque where all of a pixel is masked."""
    mosaics = mosaics_of(request)
    view = await run_in_threadpool(read_mosaic_view, site_of(request), mosaics, image_id, v)
    image = _need(view, view.weight, level, x, y, "no weight map of it is on this host; assess it again")

    def draw() -> bytes:
        share = np.nan_to_num(read_tile(mosaics.store, image, level, x, y))[::-1]
        white = np.full(share.shape, 255, np.uint8)
        stream = io.BytesIO()
        Image.fromarray(np.dstack([white, np.rint(share * 255.0).astype(np.uint8)])).save(stream, format="PNG")
        return stream.getvalue()

    content = await anyio.to_thread.run_sync(draw, limiter=mosaics.drawing)
    return Response(content, media_type="image/png", headers=KEEP if v == view.key else None)


def _need(view: MosaicView, image: ImagePixels | None, level: int, x: int, y: int, why: str) -> ImagePixels:
    """Return the file of a tile that exists; MissingError where there is none."""
    if image is None or view.layout is None:
        raise MissingError(f"{view.name} has no such tiles: {why}")
    side = TILE_PIX << level if 0 <= level <= view.levels else 0
    if not side or not (0 <= x * side < view.layout.width and 0 <= y * side < view.layout.height):
        raise MissingError(f"{view.name} has no tile {level}/{x}/{y}; its levels are 0 to {view.levels}")
    return image


# Sources --------------------------------------------------------------------------------------------------------------


@router.get("/images/{image_id}/sources.json")
def send_sources(request: Request, person: Viewer, image_id: int, v: str = "") -> Response:
    """Send the brightest sources: x, y in pixels of the mosaic, magnitude (null unknown), and whether it is a star."""
    site, mosaics = site_of(request), mosaics_of(request)
    view = read_mosaic_view(site, mosaics, image_id)
    if view.catalogue is None or view.layout is None:
        raise MissingError(f"no catalogue of {view.name} was made; run its catalogue job")
    content = mosaics.sources.get(_catalogue_key(view), lambda: _sources(site, view))
    return Response(content, media_type="application/json", headers=KEEP if v == _catalogue_key(view) else None)


def _sources(site: Site, view: MosaicView) -> bytes:
    assert view.catalogue is not None
    assert view.layout is not None
    with site.read() as session:
        rows = brightest_sources(session, view.image_id, MAX_SOURCES) if view.kind == ImageKind.STACK else []
        places = locations(session, view.catalogue.id)
    widths = {d.number: d.fwhm_pix for d in view.detectors}
    if rows:
        table = np.array(
            [(r.x_pix, r.y_pix, _or_nan(r.mag), _or_nan(r.fwhm_pix), float(r.flags)) for r in rows], np.float64
        )
        return _told(np.column_stack([table[:, :3], _is_star(table[:, 3], table[:, 4], widths.get(0))]))
    path = find_path(site.workspace, places, view.catalogue.size)
    if path is None:
        raise MissingError(f"{view.catalogue.name} is not on a disk of this host; fetch it here")
    if view.catalogue.size > MAX_CATALOGUE_BYTES:
        raise DataError(f"{view.catalogue.name} is too large to draw; look at it with a tool for tables")
    catalogues = read_ldac(path, LIMITS)
    if len(catalogues) != len(view.layout.places):
        raise DataError(f"{view.catalogue.name} has {len(catalogues)} tables for {len(view.layout.places)} detectors")
    return _told(
        np.concatenate(
            [
                _placed(catalogue.table, place, widths.get(place.number))
                for catalogue, place in zip(catalogues, view.layout.places, strict=True)
            ]
        )
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _is_star(fwhm: np.ndarray, flags: np.ndarray, width: float | None) -> np.ndarray:
    if width is None or not width > 0:
        return np.zeros(len(fwhm))
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(fwhm / width - 1.0) < STAR_WIDTH) & (flags == 0), np.float64)


def _placed(table: np.ndarray, place: DetectorPlace, width: float | None) -> np.ndarray:
    """Return x, y, magnitude and star flag of a detector's catalogue, float64 (n, 4)."""

    def column(*names: str) -> np.ndarray:
        for name in names:
            if name in (table.dtype.names or ()) and table[name].ndim == 1 and table[name].dtype.kind in "fiu":
                return table[name].astype(np.float64)
        return np.full(len(table), np.nan)

    x, y = column("XWIN_IMAGE", "X_IMAGE") - 1.0 + place.x, column("YWIN_IMAGE", "Y_IMAGE") - 1.0 + place.y
    mag = column("MAG_AUTO")
    mag[~(np.abs(mag) < 90.0)] = np.nan
    return np.column_stack([x, y, mag, _is_star(column("FWHM_IMAGE"), column("FLAGS"), width)])


def _told(table: np.ndarray) -> bytes:
    """Return the brightest as JSON, column by column."""
    table = table[np.isfinite(table[:, :2]).all(axis=1)]
    table = table[np.argsort(table[:, 2], kind="stable")][:MAX_SOURCES]  # unknown magnitudes come last
    told = {
        "n": len(table),
        "x": [round(float(v), 2) for v in table[:, 0]],
        "y": [round(float(v), 2) for v in table[:, 1]],
        "mag": [round(float(v), 3) if math.isfinite(v) else None for v in table[:, 2]],
        "star": [int(v) for v in table[:, 3]],
    }
    return json.dumps(told, separators=(",", ":")).encode()

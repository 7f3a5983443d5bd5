"""Images as mosaics: layout, companded picture, and where the pixels lie on this host; what tiles are drawn from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from spica.algorithms.skymap import tangent_project
from spica.db.file import locations, read_content
from spica.db.pages.view import ViewDetector, ViewFile, ViewRows, read_view
from spica.db.tables.image import ImageRow
from spica.files.compand import Companding, MosaicPicture, read_mosaic_facts
from spica.files.mosaic import DetectorGeometry, ImageGeometry, MosaicLayout, plan_layout, read_geometry, single_layout
from spica.files.pyramid import DetectorPixels, ImagePixels, Kept, PixelStore, Reading, levels_for
from spica.files.workspace import Workspace
from spica.model.errors import DataError
from spica.model.image import ImageKind
from spica_web.pages.file import find_path

DRAWING = 3
"""Tiles drawn in one moment: they have threads of their own, so that no page waits behind them."""


@dataclass(frozen=True)
class SkyPlane:
    """From pixels to the sky: the plane tangent at a point, and by detector xi, eta (degree) as linear in x, y.

    Fitted to the corners: between them the distortion is left out, arcseconds at the edge of a wide field.
    """

    ra_deg: float
    dec_deg: float
    planes: dict[int, tuple[float, float, float, float, float, float]]


@dataclass(frozen=True)
class MosaicView:
    """What is known of an image's picture; `key` changes with its content. None: not known, or not there.

    `reason` and `cure` say why there are no full pixels, where `pixels` is None.
    """

    image_id: int
    name: str
    kind: str
    key: str
    layout: MosaicLayout | None
    picture: MosaicPicture | None
    mosaic: ViewFile | None
    preview: ViewFile | None
    catalogue: ViewFile | None
    detectors: tuple[ViewDetector, ...]
    sky: SkyPlane | None
    blink: int | None
    pixels: ImagePixels | None = None
    weight: ImagePixels | None = None
    reason: str = ""
    cure: str = ""

    @property
    def levels(self) -> int:
        """Coarsest level of its tiles."""
        if self.layout is None or self.picture is None:
            return 0
        return levels_for(self.layout.width, self.layout.height, self.picture.factor)

    @property
    def companding(self) -> Companding:
        """How its pixels are companded; DataError where it has no mosaic."""
        if self.picture is None:
            raise DataError(f"no mosaic of {self.name} was made; assess it again")
        return self.picture.companding


def _one(_: object) -> int:
    return 1


@dataclass
class Mosaics:
    """What the server keeps to draw tiles: decoded pixels, layouts and pictures by content, views by their key."""

    store: PixelStore = field(default_factory=PixelStore)
    geometries: Kept[str, ImageGeometry] = field(default_factory=lambda: Kept(256, _one))
    layouts: Kept[str, MosaicLayout] = field(default_factory=lambda: Kept(256, _one))
    pictures: Kept[str, MosaicPicture] = field(default_factory=lambda: Kept(2048, _one))
    views: Kept[tuple[int, str], MosaicView] = field(default_factory=lambda: Kept(1024, _one))
    sources: Kept[str, bytes] = field(default_factory=lambda: Kept(32 * 2**20, len))
    drawing: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(DRAWING))

    def read_layout(self, session: Session, image: ImageRow) -> MosaicLayout | None:
        """Return where an image's detectors stand in its mosaic; None where that is unknown (nothing was made yet)."""
        return self._layout(session, read_view(session, image))

    def read(self, session: Session, workspace: Workspace, image: ImageRow) -> MosaicView:
        """Return what is known of an image's picture."""
        rows = read_view(session, image)
        layout, picture = self._layout(session, rows), self._picture(session, rows.mosaic)
        if picture is not None and layout is not None and not _same_size(picture, layout):
            layout = None
        view = MosaicView(
            image_id=image.id,
            name=image.name,
            kind=image.kind.value,
            key=_key(rows),
            layout=layout,
            picture=picture,
            mosaic=rows.mosaic if picture is not None else None,
            preview=rows.preview,
            catalogue=rows.catalogue,
            detectors=rows.detectors,
            sky=fit_sky(rows.detectors, image.ra_deg, image.dec_deg),
            blink=rows.blink,
        )
        view = self._with_pixels(session, workspace, rows, view)
        if view.pixels is not None:
            self.views.get((view.image_id, view.key), lambda: view)
        return view

    def _geometry(self, session: Session, file: ViewFile) -> ImageGeometry | None:
        def make() -> ImageGeometry:
            content = read_content(session, file.id)
            return read_geometry(b"" if content is None else content.content)

        try:
            return self.geometries.get(file.sha256, make)
        except DataError:
            return None

    def _layout(self, session: Session, rows: ViewRows) -> MosaicLayout | None:
        if rows.image.kind is ImageKind.STACK:
            return single_layout(rows.n_x, rows.n_y) if rows.n_x and rows.n_y else None
        facts = rows.facts
        geometry = self._geometry(session, facts) if facts is not None else None
        if geometry is not None and facts is not None:
            return self.layouts.get(facts.sha256, geometry.layout)
        known = [DetectorGeometry(d.number, 0, d.name, d.n_x, d.n_y, None, ()) for d in rows.detectors]
        return plan_layout(known, None, None) if known else None

    def _picture(self, session: Session, file: ViewFile | None) -> MosaicPicture | None:
        def make() -> MosaicPicture:
            content = read_content(session, file.id) if file is not None else None
            return read_mosaic_facts(b"" if content is None else content.content)

        try:
            return None if file is None else self.pictures.get(file.sha256, make)
        except DataError:
            return None

    def _with_pixels(self, session: Session, workspace: Workspace, rows: ViewRows, view: MosaicView) -> MosaicView:
        """Add the files, or say why they cannot be shown."""
        if view.picture is None:
            return replace(view, reason="no mosaic was made of this image", cure="run its job again to have one made")
        parts = self._parts(session, rows, view.layout)
        if view.layout is None or parts is None or rows.pixels is None:
            why = "the facts of this image do not belong to its picture, or its pixels were not detrended"
            return replace(view, reason=why, cure="assess it again")
        found = _on_disk(session, workspace, rows.pixels)
        if found is None:
            why = f"{rows.pixels.name} is not on a disk of this host"
            return replace(view, reason=why, cure="open the pages of the node that keeps it, or fetch it here")
        reading = Reading.STACK if rows.image.kind is ImageKind.STACK else Reading.VALUES
        pixels = ImagePixels(found, rows.pixels.sha256, parts, reading)
        map_path = _on_disk(session, workspace, rows.weight) if rows.weight is not None else None
        if map_path is None or rows.weight is None:
            return replace(view, pixels=pixels)
        first = 0 if rows.image.kind is ImageKind.STACK else 1
        maps = tuple(DetectorPixels(p.place, first + i) for i, p in enumerate(parts))
        return replace(view, pixels=pixels, weight=ImagePixels(map_path, rows.weight.sha256, maps, Reading.WEIGHT))

    def _parts(
        self, session: Session, rows: ViewRows, layout: MosaicLayout | None
    ) -> tuple[DetectorPixels, ...] | None:
        """Return where the pixels of each detector begin; None where that is unknown."""
        if layout is None:
            return None
        if rows.image.kind is ImageKind.STACK:
            return (DetectorPixels(layout.places[0], 0),)
        geometry = self._geometry(session, rows.facts) if rows.facts is not None else None
        if geometry is None:
            return None
        both = list(zip(layout.places, geometry.detectors, strict=True))
        if rows.image.kind is ImageKind.CALIBRATED:
            return tuple(DetectorPixels(place, i) for i, (place, _) in enumerate(both, 1))
        if any(d.raw for _, d in both):
            return None
        return tuple(DetectorPixels(place, d.hdu, d.x_start, d.y_start) for place, d in both)


def _same_size(picture: MosaicPicture, layout: MosaicLayout) -> bool:
    return (picture.width, picture.height) == (layout.width, layout.height)


def _key(rows: ViewRows) -> str:
    files = (rows.mosaic, rows.facts, rows.pixels, rows.weight)
    words = ":".join("" if f is None else f.sha256 for f in files)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _on_disk(session: Session, workspace: Workspace, file: ViewFile) -> Any:
    return find_path(workspace, locations(session, file.id), file.size)


def fit_sky(detectors: tuple[ViewDetector, ...], ra_deg: float | None, dec_deg: float | None) -> SkyPlane | None:
    """Return how pixels lie on the sky by the corners of the detectors; None where no corner is known."""
    known = [d for d in detectors if len(d.ra_deg) >= 4 and len(d.ra_deg) % 4 == 0 and len(d.dec_deg) == len(d.ra_deg)]
    if not known or ra_deg is None or dec_deg is None:
        return None
    corners = [[axis[i * len(axis) // 4] for i in range(4)] for d in known for axis in (d.ra_deg, d.dec_deg)]
    sky: NDArray[np.float64] = np.array(corners, np.float64).reshape(len(known), 2, 4)
    planes = {}
    for d, xi, eta in zip(known, *tangent_project(sky[:, 0], sky[:, 1], ra_deg, dec_deg), strict=True):
        numbers = (*_linear(xi, d.n_x, d.n_y), *_linear(eta, d.n_x, d.n_y))
        if np.isfinite(numbers).all():
            planes[d.number] = numbers
    return SkyPlane(ra_deg, dec_deg, planes) if planes else None


def _linear(values: NDArray[np.float64], n_x: int, n_y: int) -> tuple[float, float, float]:
    """Return value at pixel (0, 0) and slopes along x and y, of values at the outer corners in order of the pixels."""
    along_x = (values[1] - values[0] + values[2] - values[3]) / (2.0 * n_x)
    along_y = (values[3] - values[0] + values[2] - values[1]) / (2.0 * n_y)
    zero = values.mean() - along_x * 0.5 * (n_x - 1) - along_y * 0.5 * (n_y - 1)
    return float(zero), float(along_x), float(along_y)

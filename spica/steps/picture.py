"""Pictures of images: where detectors stand, the preview, and the mosaic whose stretch is chosen in the browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.files.compand import make_mosaic, measure_noise, write_mosaic
from spica.files.mosaic import DetectorGeometry, ImageGeometry, MosaicLayout
from spica.files.preview import Tile, binning_for, make_preview, mosaic_tiles, reduce_blocks, row_strips, write_png
from spica.model.product import Role
from spica.steps.base import StepContext
from spica.steps.facts import FactsSheet, Section
from spica.steps.pixels import LazyPixels

PREVIEW_PIX = 1100
STACK_PREVIEW_PIX = 1024


@dataclass(frozen=True)
class Picture:
    """A reduced image, float32 [y, x], y upwards, NaN where there is no pixel: block means of `factor` full pixels.

    `size` is (width, height) in full pixels, `noise_adu` the noise of one of them, NaN unknown.
    """

    reduced: NDArray[np.float32]
    factor: int
    size: tuple[int, int]
    noise_adu: float


def geometry_of(sheet: FactsSheet) -> ImageGeometry:
    """Return what a facts sheet says of the detectors' places."""
    parts = [(d, d.data or Section(0, d.n_x, 0, d.n_y)) for d in sheet.detectors]
    detectors = tuple(
        DetectorGeometry(
            d.index, d.hdu, d.name, d.n_x, d.n_y, d.pixel_scale_arcsec, d.wcs_cards, part.x_start, part.y_start
        )
        for d, part in parts
    )
    return ImageGeometry(detectors, sheet.exposure.ra_deg, sheet.exposure.dec_deg)


@dataclass(frozen=True)
class Mosaic:
    """Where the detectors stand in the picture of an exposure, and how much smaller its pictures are."""

    layout: MosaicLayout
    factor: int

    def join(self, reduced: Sequence[NDArray[np.float32]], noise_adu: float) -> Picture:
        """Return the reduced detectors in one picture."""
        tiles = [Tile(r, place.x, place.y) for r, place in zip(reduced, self.layout.places, strict=True)]
        size = (self.layout.width, self.layout.height)
        return Picture(mosaic_tiles(tiles, self.factor, PREVIEW_PIX), self.factor, size, noise_adu)


def plan_mosaic(sheet: FactsSheet) -> Mosaic:
    """Place the detectors of an exposure in one picture."""
    layout = geometry_of(sheet).layout()
    return Mosaic(layout, binning_for((layout.height, layout.width), PREVIEW_PIX))


def draw_exposure(detectors: Sequence[LazyPixels], sheet: FactsSheet) -> Picture:
    """Return the picture of an exposure, read from its file, its noise measured on a sample of each detector."""
    mosaic = plan_mosaic(sheet)
    reduced, noise = [], []
    for pixels in detectors:
        data = pixels.whole()
        reduced.append(reduce_blocks(row_strips(data, mosaic.factor), mosaic.factor))
        noise.append(measure_noise(data))
    known = [n for n in noise if math.isfinite(n)]
    return mosaic.join(reduced, float(np.median(known)) if known else math.nan)


def draw_stack(image: NDArray[np.float32], weight: NDArray[np.float32]) -> Picture:
    """Return the picture of a stack, without the pixels that have no weight."""
    factor = binning_for((image.shape[0], image.shape[1]), STACK_PREVIEW_PIX)
    data = np.where(weight > 0, image, np.float32(np.nan))
    reduced = reduce_blocks(row_strips(data, factor), factor)
    return Picture(reduced, factor, (image.shape[1], image.shape[0]), measure_noise(data))


def add_pictures(context: StepContext, stem: str, item: str, picture: Picture) -> None:
    """Write preview and mosaic of an image as products."""
    preview, mosaic = context.folder / f"{stem}.preview.png", context.folder / f"{stem}.mosaic.jpg"
    write_png(preview, make_preview(picture.reduced, max(picture.reduced.shape)))
    context.add_product(Role.PREVIEW, preview, item=item)
    write_mosaic(mosaic, make_mosaic(picture.reduced, picture.factor, picture.size, picture.noise_adu))
    context.add_product(Role.MOSAIC, mosaic, item=item)

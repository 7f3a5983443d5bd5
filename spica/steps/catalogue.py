"""Catalogue of a stack: sources with SExtractor's names, positions on the sky, magnitudes; FITS_LDAC."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.background import measure_background
from spica.algorithms.detect import detect_sources
from spica.algorithms.robust import bad_mask
from spica.files.catalogue import to_sextractor
from spica.files.ldac import LdacCatalogue, write_ldac
from spica.model.errors import DataError
from spica.model.job import JobKind
from spica.model.product import CatalogueRecord, Role
from spica.steps.base import Step, StepContext
from spica.steps.made import MadeStack
from spica.steps.quality import StackPixels, read_stack


def run(context: StepContext) -> None:
    """Detect and measure the sources of a stack and write them as FITS_LDAC."""
    stack, made = read_stack(context)
    sources = detect(context, stack, made)
    if not len(sources):
        raise DataError("no source lies above the threshold; lower [catalogue] threshold_sigma or look at the stack")
    write_catalogue(context, stack, made, sources)


def detect(context: StepContext, stack: StackPixels, made: MadeStack) -> NDArray[np.void]:
    """Return the sources of a stack; the noise of each pixel comes from its weight, scaled to the measured noise."""
    recipe = context.recipe.catalogue
    unusable = bad_mask(stack.data, ~(stack.weight > 0))
    background = measure_background(stack.data, unusable, recipe.mesh_pix)
    good = stack.weight > 0
    relative = np.where(good, 1.0 / np.sqrt(np.where(good, stack.weight, 1.0)), 0.0).astype(np.float32)
    ratio = (background.noise_map() / np.where(good, relative, 1.0))[good]
    noise = relative * np.float32(np.median(ratio))
    level = background.level_map()
    return detect_sources(
        stack.data - level,
        noise,
        mask=unusable,
        threshold_sigma=recipe.threshold_sigma,
        min_area_pix=recipe.min_area_pix,
        apertures_pix=tuple(a / made.pixel_scale_arcsec for a in recipe.apertures_arcsec),
        gain_e_per_adu=made.gain_e_per_adu,
        saturation_adu=made.saturation_adu,
        background_adu=level,
    )


def write_catalogue(context: StepContext, stack: StackPixels, made: MadeStack, sources: NDArray[np.void]) -> None:
    """Write the catalogue and record it for the copy into the database."""
    ra, dec = stack.wcs.all_pix2world(sources["x_win"], sources["y_win"], 0)
    zero_point = made.zero_point_mag if made.zero_point_mag is not None else 0.0
    table = to_sextractor(sources, zero_point, np.asarray(ra), np.asarray(dec))
    path = context.folder / f"{made.name}.ldac"
    write_ldac(path, [LdacCatalogue(stack.cards, table.table, table.columns)])
    item = context.subject()
    context.add_product(Role.CATALOGUE, path, item=item)
    context.record(CatalogueRecord(item, len(sources)))
    context.used(item)


NATIVE = Step(kind=JobKind.CATALOGUE, run=run)

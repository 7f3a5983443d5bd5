"""Assess with source-extractor: all measures by our own code, the catalogue by the tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.quality import QualityParameters
from spica.algorithms.weight import saturation_mask
from spica.astromatic.extract import Extraction, extract_lines, read_sources, write_image_inputs, write_list
from spica.astromatic.tools import SOURCE_EXTRACTOR, find_tool
from spica.files.catalogue import to_sextractor
from spica.files.ldac import LdacCatalogue, read_ldac, write_ldac
from spica.model.errors import DataError
from spica.model.image import ImageState
from spica.model.job import JobKind, Reason, Request
from spica.model.product import ImageStateRecord, Role
from spica.steps import assess as native
from spica.steps.astromatic.carry import Plane, add_report, delete_images, hand_over, take_over, time_limit_s
from spica.steps.base import Step, StepContext, recipe_of
from spica.steps.facts import FactsSheet, detection_apertures, read_sheet
from spica.steps.pixels import LazyPixels, open_exposure, open_weight

ENOUGH_SOURCES = 5
"""Where our own detection found so many on a detector and source-extractor none, its extraction failed."""
KEPT_ROLES = (Role.HEADERS, Role.FACTS, Role.DETRENDED)
KEPT_RECORDS = ("exposure", "calibration_use")


def prepare(context: StepContext) -> None:
    """Verify and assess every file by our own code, then write clean images and weights for source-extractor."""
    find_tool(SOURCE_EXTRACTOR)
    native.run(context)
    planes: list[Plane] = []
    for item in [p.item for p in context.products if p.role == Role.CATALOGUE and p.item]:
        sheet = read_sheet(_product(context, Role.FACTS, item))
        with (
            open_exposure(_pixels(context, item), sheet) as images,
            open_weight(_product(context, Role.WEIGHT, item)) as weights,
        ):
            for image, weight in zip(images, weights, strict=True):
                number = f"{len(planes) + 1:05d}"
                planes.append(Plane(number, item, image.sheet.index if image.sheet else 0))
                _write_inputs(context, number, sheet, image, weight)
    write_list(context.work(""), [p.number for p in planes])
    hand_over(context, tuple(planes))


def _product(context: StepContext, role: Role, item: str) -> Path:
    return context.folder / next(p.path for p in context.products if p.role == role and p.item == item)


def _pixels(context: StepContext, item: str) -> Path:
    """Return the file that the facts sheet of an item describes: the detrended one where there is one."""
    made = [p.path for p in context.products if p.role == Role.DETRENDED and p.item == item]
    return context.folder / made[0] if made else context.path_of(Role.EXPOSURE, item)


def _write_inputs(context: StepContext, number: str, sheet: FactsSheet, image: LazyPixels, weight: LazyPixels) -> None:
    d = image.sheet
    assert d is not None
    data = image.whole()
    scale = sheet.detectors[0].pixel_scale_arcsec or 1.0
    write_image_inputs(
        context.work(""),
        number,
        data,
        with_saturated(data, weight.whole(), d.saturation_adu),
        d.gain_e_per_adu,
        d.saturation_adu,
        [a / (d.pixel_scale_arcsec or scale) for a in detection_apertures(scale)],
    )


def with_saturated(
    data: NDArray[np.float32], weight: NDArray[np.float32], saturation_adu: float | None
) -> NDArray[np.float32]:
    """Return the weight with saturated pixels in: they are cores of stars, which must be found to be flagged."""
    if saturation_adu is None:
        return weight
    saturated = saturation_mask(data, saturation_adu, QualityParameters().saturation_grow_pix)
    return np.where(saturated & (weight <= 0), np.float32(1.0), weight)


def tool_lines(request: Request) -> tuple[str, ...]:
    """Return the lines that extract every image."""
    quality = recipe_of(request).quality
    rules = Extraction(quality.threshold_sigma, quality.min_area_pix, quality.mesh_pix)
    return extract_lines(rules, time_limit_s(request))


def finish(context: StepContext) -> None:
    """Judge what source-extractor found and put its catalogues in the place of our own."""
    planes = take_over(context)
    for item in dict.fromkeys(p.item for p in planes):
        mine = [p for p in planes if p.item == item]
        try:
            replace_catalogue(context, item, mine)
        except DataError as error:
            _leave_out(context, item, Reason("extraction", str(error)))
    delete_images(context.work(""), "image-*.fits")


def replace_catalogue(context: StepContext, item: str, planes: list[Plane]) -> None:
    """Write source-extractor's sources of one exposure under our own catalogue's name, headers and columns."""
    path = _product(context, Role.CATALOGUE, item)
    sheet = read_sheet(_product(context, Role.FACTS, item))
    n_apertures = len(detection_apertures(sheet.detectors[0].pixel_scale_arcsec or 1.0))
    made = []
    for own, plane, detector in zip(read_ldac(path), planes, sheet.detectors, strict=True):
        what = f"detector {detector.name} of {sheet.exposure.name}"
        sources = read_sources(context.work(""), plane.number, n_apertures, what)
        if not len(sources) and len(own.table) >= ENOUGH_SOURCES:
            raise DataError(
                f"source-extractor found no source on {what} where our own detection found {len(own.table)}; look at "
                "its report and the weight map"
            )
        table = to_sextractor(sources)
        made.append(LdacCatalogue(own.header, table.table, table.columns))
    write_ldac(path, made)
    context.products[:] = [p for p in context.products if (p.role, p.item) != (Role.CATALOGUE, item)]
    context.add_product(Role.CATALOGUE, path, item=item)
    for plane in planes:
        name = f"{path.stem}.{plane.detector:02d}.extractor.xml"
        add_report(context, context.work(f"extract-{plane.number}.xml"), name, item)


def _leave_out(context: StepContext, item: str, reason: Reason) -> None:
    """Leave an exposure out as our own assessment does: registered, its state failed, nothing measured."""
    context.products[:] = [p for p in context.products if p.item != item or p.role in KEPT_ROLES]
    context.records[:] = [r for r in context.records if r.get("item") != item or r.get("type") in KEPT_RECORDS]
    context.outcomes[:] = [o for o in context.outcomes if o.item != item]
    context.record(ImageStateRecord(item, ImageState.FAILED, (reason,)))
    context.left_out(item, reason)


STEP = Step(kind=JobKind.ASSESS, prepare=prepare, tool_lines=tool_lines, finish=finish)

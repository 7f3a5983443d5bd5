"""Catalogue of a stack by source-extractor."""

from __future__ import annotations

from spica.astromatic.extract import Extraction, extract_lines, read_sources, write_image_inputs, write_list
from spica.astromatic.tools import SOURCE_EXTRACTOR, find_tool
from spica.model.errors import DataError
from spica.model.job import JobKind, Request
from spica.steps.astromatic.carry import add_report, delete_images, time_limit_s
from spica.steps.base import Step, StepContext, recipe_of
from spica.steps.catalogue import write_catalogue
from spica.steps.quality import read_stack

NUMBER = "00001"


def prepare(context: StepContext) -> None:
    """Write the stack and its weight for source-extractor, with nothing but gain and saturation in the header."""
    find_tool(SOURCE_EXTRACTOR)
    stack, made = read_stack(context)
    apertures = [a / made.pixel_scale_arcsec for a in context.recipe.catalogue.apertures_arcsec]
    folder = context.work("")
    write_image_inputs(folder, NUMBER, stack.data, stack.weight, made.gain_e_per_adu, made.saturation_adu, apertures)
    write_list(folder, [NUMBER])


def tool_lines(request: Request) -> tuple[str, ...]:
    """Return the lines that extract the stack."""
    c = recipe_of(request).catalogue
    return extract_lines(Extraction(c.threshold_sigma, c.min_area_pix, c.mesh_pix), time_limit_s(request))


def finish(context: StepContext) -> None:
    """Judge the catalogue and write it as our own is written."""
    stack, made = read_stack(context)
    folder = context.work("")
    sources = read_sources(folder, NUMBER, len(context.recipe.catalogue.apertures_arcsec), made.name)
    if not len(sources):
        raise DataError("no source lies above the threshold; lower [catalogue] threshold_sigma or look at the stack")
    write_catalogue(context, stack, made, sources)
    add_report(context, folder / f"extract-{NUMBER}.xml", f"{made.name}.extractor.xml", context.subject())
    delete_images(folder, "image-*.fits")


STEP = Step(kind=JobKind.CATALOGUE, prepare=prepare, tool_lines=tool_lines, finish=finish)

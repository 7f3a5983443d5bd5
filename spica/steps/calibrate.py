"""Single mode: one exposure calibrated for itself; header, weight, catalogue and a calibrated copy, no stack."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from spica.files.catalogue import from_sextractor, to_sextractor
from spica.files.head import read_head
from spica.files.header import HeaderCards, make_cards
from spica.files.ldac import LdacCatalogue, read_ldac, write_ldac
from spica.files.mef import ImageToWrite, write_mef
from spica.files.slug import slug
from spica.files.wcs import pixel_scale_arcsec, read_wcs
from spica.model.errors import DataError
from spica.model.job import JobKind
from spica.model.product import Contribution, Role, StackRecord
from spica.model.solution import SolutionRecord, SolvedImage
from spica.steps.base import Step, StepContext
from spica.steps.facts import FactsSheet, read_sheet
from spica.steps.made import MadeStack, write_made
from spica.steps.member import read_solution
from spica.steps.picture import add_pictures, draw_exposure
from spica.steps.pixels import open_exposure


def run(context: StepContext) -> None:
    """Write the calibrated copy of one exposure with its weight, catalogue and external header."""
    target = context.items(Role.EXPOSURE)[0]
    solution = read_solution(context)
    solved = next((s for s in solution.images if s.item == target), None)
    if solved is None:
        raise DataError("the solution left this exposure out; see its outcome in the astrometry job")
    sheet = read_sheet(context.path_of(Role.FACTS, target))
    name = slug(str(context.request.facts.get("name") or sheet.exposure.name))
    heads = read_head(context.path_of(Role.HEAD, target))
    _write_pixels(context, name, target, sheet, heads, solution, solved)
    _write_companions(context, name, target, sheet, heads, solved)
    record = _record(context, target, sheet, heads, solution, solved)
    made = MadeStack(
        name=name,
        record=record,
        grade_limits=sheet.grade_limits,
        filter=sheet.exposure.filter or "",
        object=sheet.exposure.object or "",
        instrument=sheet.exposure.instrument or "",
    )
    measures = context.folder / f"{name}.measures.json"
    write_made(measures, made)
    context.add_product(Role.MEASURES, measures, item=context.subject())
    context.record(record)
    context.used(target)


def _facts(sheet: FactsSheet, solution: SolutionRecord, solved: SolvedImage) -> HeaderCards:
    e = sheet.exposure
    exptime = float(e.exptime_s or 1.0)
    absolute = solved.zero_point_mag
    zero_point = None if absolute is None else absolute + 2.5 * float(np.log10(exptime))
    return make_cards(
        [
            ("OBJECT", e.object, "object"),
            ("FILTER", e.filter, "filter"),
            ("INSTRUME", e.instrument, "instrument"),
            ("TELESCOP", e.telescope, "telescope"),
            ("EXPTIME", e.exptime_s, "[s]"),
            ("MJD-OBS", e.mjd, "[day] middle of the exposure, UTC"),
            ("AIRMASS", e.airmass, ""),
            ("MAGZEROP", zero_point, "[mag] magnitude of 1 ADU in this image"),
            ("MAGZPSEC", absolute, "[mag] magnitude of 1 ADU/s"),
            ("MAGSYS", solution.mag_system, "magnitude system"),
            ("MAGBAND", solution.mag_band, "band of the reference"),
            ("SKYPROBE", solved.skyprobe_mag, "[mag] attenuation of the sky"),
            ("FLXSCALE", solved.flux_scale, "ADU to ADU/s at the stacks' zero point"),
        ]
    )


def _write_pixels(
    context: StepContext,
    name: str,
    target: str,
    sheet: FactsSheet,
    heads: tuple[HeaderCards, ...],
    solution: SolutionRecord,
    solved: SolvedImage,
) -> None:
    """Write the pixels as they are, the header with the solved WCS and zero point."""
    facts = _facts(sheet, solution, solved)
    item = context.subject()
    with open_exposure(context.path_of(Role.EXPOSURE, target), sheet) as detectors:
        images = [
            ImageToWrite(p.whole(), HeaderCards((*facts.cards, *head.cards)), d.name)
            for p, head, d in zip(detectors, heads, sheet.detectors, strict=True)
        ]
        path = context.folder / f"{name}.fits"
        write_mef(path, images, facts)
        picture = draw_exposure(detectors, sheet)
    context.add_product(Role.CALIBRATED, path, item=item)
    add_pictures(context, name, item, picture)


def _write_companions(
    context: StepContext,
    name: str,
    target: str,
    sheet: FactsSheet,
    heads: tuple[HeaderCards, ...],
    solved: SolvedImage,
) -> None:
    """Write weight, external header, and the catalogue with positions on the sky and magnitudes."""
    item = context.subject()
    given = context.of_role(Role.WEIGHT, target)
    if given:
        weight = context.folder / f"{name}.weight.fits.fz"
        shutil.copyfile(given[0].path, weight)
        context.add_product(Role.WEIGHT, weight, item=item)
    head = context.folder / f"{name}.head"
    shutil.copyfile(context.path_of(Role.HEAD, target), head)
    context.add_product(Role.HEAD, head, item=item, small=False)
    catalogue = context.folder / f"{name}.ldac"
    _write_catalogue(context.path_of(Role.CATALOGUE, target), catalogue, sheet, heads, solved)
    context.add_product(Role.CATALOGUE, catalogue, item=item)


def _write_catalogue(
    source: Path, target: Path, sheet: FactsSheet, heads: tuple[HeaderCards, ...], solved: SolvedImage
) -> None:
    exptime = float(sheet.exposure.exptime_s or 1.0)
    zero_point = solved.zero_point_mag if solved.zero_point_mag is not None else 0.0
    zero_point += 2.5 * float(np.log10(exptime))
    parts = []
    for old, head in zip(read_ldac(source), heads, strict=True):
        table = from_sextractor(old.table)
        ra, dec = read_wcs(head).all_pix2world(table["x_win"], table["y_win"], 0)
        new = to_sextractor(table, zero_point, np.asarray(ra), np.asarray(dec))
        parts.append(LdacCatalogue(old.header.with_cards(head.cards), new.table, new.columns))
    write_ldac(target, parts)


def _record(
    context: StepContext,
    target: str,
    sheet: FactsSheet,
    heads: tuple[HeaderCards, ...],
    solution: SolutionRecord,
    solved: SolvedImage,
) -> StackRecord:
    e, first = sheet.exposure, sheet.detectors[0]
    exptime = float(e.exptime_s or 1.0)
    absolute = solved.zero_point_mag
    return StackRecord(
        item=context.subject(),
        kind="calibrated",
        n_inputs=1,
        exptime_s=exptime,
        mjd=float(e.mjd or 0.0),
        n_x=first.n_x,
        n_y=first.n_y,
        pixel_scale_arcsec=float(np.median([pixel_scale_arcsec(read_wcs(h)) for h in heads])),
        ra_deg=solved.ra_deg,
        dec_deg=solved.dec_deg,
        zero_point_mag=None if absolute is None else absolute + 2.5 * float(np.log10(exptime)),
        mag_system=solution.mag_system,
        mag_band=solution.mag_band,
        gain_e_per_adu=first.gain_e_per_adu,
        saturation_adu=first.saturation_adu,
        contributions=(Contribution(target, 1.0, 0.0, solved.flux_scale, exptime),),
        footprint=solved.detectors,
        combine="none",
    )


NATIVE = Step(kind=JobKind.CALIBRATE, run=run)

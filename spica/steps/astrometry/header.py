"""Positions that the headers of calibrated exposures state: carried into our own form, and judged from content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from spica.algorithms.astrometry import (
    AstrometryParameters,
    AstrometrySolution,
    DetectorLayout,
    JudgementLimits,
    ReferenceStars,
    tpv_cards,
)
from spica.algorithms.astrometry.agreement import (
    Agreement,
    Dissent,
    Offset,
    SourceList,
    compare_lists,
    judge_offsets,
)
from spica.algorithms.astrometry.header import StatedExposure, fit_stated, measure_stated
from spica.algorithms.skymap import angular_separation
from spica.files.header import HeaderCards, make_cards
from spica.files.wcs import footprint_polygon, read_wcs, sky_of_pixels
from spica.model.errors import DataError
from spica.model.job import Reason
from spica.steps.astrometry.given import Given, build_ensemble
from spica.steps.base import StepContext

Floats = NDArray[np.float64]

MAX_CARRY_PIX = 0.01
"""What is written stands no further than this from the header's WCS anywhere on a detector."""
REACH_ARCSEC, REACH_PIX = 10.0, 20.0
"""Offsets between exposures are looked for within the larger."""
ENOUGH = 5
RAYLEIGH_MEDIAN = float(np.sqrt(2.0 * np.log(2.0)))
CURE = "solve it instead: --set astrometry.source=solve"


@dataclass(frozen=True)
class Tolerance:
    """Limits in arcsec: of offset and rms per axis between exposures, and of offset and rms to the reference."""

    pixel_arcsec: float
    between_arcsec: float
    reference_arcsec: float


def take_positions(
    context: StepContext,
    given: list[Given],
    stars: ReferenceStars,
    parameters: AstrometryParameters,
    limits: JudgementLimits,
) -> tuple[list[Given], AstrometrySolution, tuple[Reason, ...]]:
    """Take the WCS of the headers as the solution; leave out what has none or contradicts the others.

    Raises
    ------
    DataError
        No exposure has a usable WCS, or the headers disagree with each other or the reference and none can be told
        right.
    """
    given, stated = read_stated(context, given)
    tolerance = _tolerance(context, given, limits)
    given, agreement = _outvote(context, given, stars, tolerance)
    widest = max((o.size_arcsec for o in agreement.offsets if o.agrees(tolerance.reference_arcsec)), default=0.0)
    radius = 2.0 * tolerance.pixel_arcsec + widest
    given, solution = _settle(context, given, stated, stars, parameters, tolerance, radius)
    _judge_reference(solution, tolerance, stars.name)
    return given, solution, _warnings(given, agreement, len(stars.ra_deg))


def read_stated(context: StepContext, given: list[Given]) -> tuple[list[Given], dict[str, StatedExposure]]:
    """Return the exposures whose headers' WCS can be taken, and these; the others are left out with their reason."""
    stated: dict[str, StatedExposure] = {}
    for g in given:
        found = _take(g)
        if isinstance(found, Reason):
            context.left_out(g.item, found)
        else:
            stated[g.item] = found
    if not stated:
        causes = sorted({o.reason.text for o in context.outcomes if o.reason is not None})
        raise DataError(f"no header of {len(given)} exposures holds a WCS that can be taken: {'; '.join(causes[:2])}")
    return [g for g in given if g.item in stated], stated


def _take(g: Given) -> StatedExposure | Reason:
    bare = [d.name for d in g.sheet.detectors if not d.has_header_wcs]
    if bare:
        text = f"the header holds no usable WCS of detector {bare[0]}; {CURE}"
        return Reason("no_header_wcs", text, len(bare), 0)
    old = next((word for d in g.sheet.detectors if (word := _old_frame(d.cards)) is not None), None)
    if old is not None:
        return Reason("old_equinox", f"the header's WCS is of {old}, not of J2000 or ICRS; {CURE}", old)
    wcs = tuple(read_wcs(d.cards) for d in g.sheet.detectors)
    layouts = tuple(DetectorLayout(d.n_x, d.n_y, 0.0, 0.0, np.eye(2)) for d in g.sheet.detectors)
    try:
        stated = fit_stated(tuple(partial(sky_of_pixels, w) for w in wcs), layouts, _tangents(wcs))
    except ValueError as error:
        return Reason("no_header_wcs", str(error))
    if not stated.error_pix <= MAX_CARRY_PIX:
        text = f"the header's WCS bends more than TPV of degree 4 can hold, worst in pixels; {CURE}"
        return Reason("wcs_not_held", text, round(stated.error_pix, 4), MAX_CARRY_PIX)
    return stated


def _old_frame(cards: HeaderCards) -> str | None:
    """Return the words for a frame that is not that of today, else None; FK5 of 2000 is ICRS to 0.03 arcsec.

    EPOCH is the equinox of very old headers; in newer ones it is a date, and says nothing.
    """
    frame = str(cards.get("RADESYS") or cards.get("RADECSYS") or "").strip().upper()
    equinox = cards.get("EQUINOX")
    if equinox is None and cards.get("EPOCH") in (1950, 1950.0):
        equinox = 1950.0
    moved = isinstance(equinox, int | float) and abs(float(equinox) - 2000.0) > 1e-3
    if frame.startswith("FK4") or (moved and frame != "ICRS"):
        return f"{frame or 'equinox'} {equinox or ''}".strip()
    return None


def _tangents(wcs: tuple[WCS, ...]) -> tuple[tuple[float, float], ...]:
    """Return the reference points of tangent planes, each once; a mosaic of one plane has one."""
    flat = [w for w in wcs if str(w.wcs.ctype[0])[4:8] == "-TAN" or "TPV" in str(w.wcs.ctype[0])]
    points = [(float(w.wcs.crval[w.wcs.lng]) % 360.0, float(w.wcs.crval[w.wcs.lat])) for w in flat]
    return tuple(dict.fromkeys(points)) if len(set(points)) == 1 else ()


def _tolerance(context: StepContext, given: list[Given], limits: JudgementLimits) -> Tolerance:
    pixel = float(np.median([d.pixel_scale_arcsec or 0.3 for g in given for d in g.sheet.detectors]))
    reference = float(np.nanmax([limits.max_reference_rms_arcsec, limits.max_reference_rms_pix * pixel]))
    return Tolerance(pixel, context.recipe.astrometry.header_tolerance_pix * pixel, reference)


def _outvote(
    context: StepContext,
    given: list[Given],
    stars: ReferenceStars,
    tolerance: Tolerance,
) -> tuple[list[Given], Agreement]:
    """Lay every exposure over its neighbours and the reference; leave out those that the others outvote."""
    lists = [_source_list(context, g) for g in given]
    if len(stars.ra_deg):
        lists.append(SourceList(stars.name, stars.ra_deg, stars.dec_deg, -stars.mag, is_reference=True))
    pixel = tolerance.pixel_arcsec
    reach = max(REACH_ARCSEC, REACH_PIX * pixel)
    offsets = compare_lists(lists, reach, pixel)
    limits = [tolerance.reference_arcsec if lists[o.second].is_reference else tolerance.between_arcsec for o in offsets]
    agreement = judge_offsets(lists, offsets, limits)
    names = [g.name for g in given] + [stars.name] * (len(lists) - len(given))
    by_offset = dict(zip(offsets, limits, strict=True))
    for dissent in agreement.dissents:
        context.left_out(given[dissent.index].item, _dissent(dissent, names, reach, by_offset[dissent.offset]))
    lost = {d.index for d in agreement.dissents}
    if len(lost) == len(given):
        first = agreement.dissents[0]
        raise DataError(
            f"the headers contradict the reference {stars.name}: {_words(first.offset, names, reach)}, limit "
            f"{by_offset[first.offset]:.2f} arcsec; take another reference ([astrometry] reference) or {CURE}"
        )
    if agreement.tie is not None:
        raise DataError(
            f"the headers disagree: {_words(agreement.tie, names, reach)}, limit {by_offset[agreement.tie]:.2f} arcsec,"
            f" and neither can be told right; leave one out, add a reference, or {CURE}"
        )
    return [g for i, g in enumerate(given) if i not in lost], agreement


def _source_list(context: StepContext, g: Given) -> SourceList:
    """Return the sources of an exposure on the sky as its header says; blended and saturated ones serve too."""
    sources = build_ensemble([g], context.recipe.astrometry.detection_sigma).exposures[0]
    chosen = sources.usable if sources.matchable is None else sources.matchable
    ra, dec = np.full(chosen.size, np.nan), np.full(chosen.size, np.nan)
    polygons = []
    for i, d in enumerate(g.sheet.detectors):
        wcs = read_wcs(d.cards)
        here = chosen & (sources.detector == i)
        ra[here], dec[here] = sky_of_pixels(wcs, sources.x_pix[here], sources.y_pix[here])
        polygons.append(footprint_polygon(wcs, (d.n_y, d.n_x)))
    return SourceList(g.item, ra[chosen], dec[chosen], sources.flux_adu[chosen], tuple(polygons))


def _words(offset: Offset, names: list[str], reach_arcsec: float) -> str:
    first, second = names[offset.first], names[offset.second]
    if np.isfinite(offset.size_arcsec):
        return f"sources of {first} lie {offset.size_arcsec:.2f} arcsec from those of {second}"
    return f"sources of {first} lie nowhere within {reach_arcsec:.0f} arcsec of those of {second}"


def _dissent(dissent: Dissent, names: list[str], reach_arcsec: float, limit_arcsec: float) -> Reason:
    o = dissent.offset
    value = o.size_arcsec if np.isfinite(o.size_arcsec) else reach_arcsec
    text = f"its header is outvoted: {_words(o, names, reach_arcsec)}; {CURE}"
    return Reason("header_disagrees", text, round(float(value), 3), round(limit_arcsec, 3))


def _settle(
    context: StepContext,
    given: list[Given],
    stated: Mapping[str, StatedExposure],
    stars: ReferenceStars,
    parameters: AstrometryParameters,
    tolerance: Tolerance,
    radius_arcsec: float,
) -> tuple[list[Given], AstrometrySolution]:
    """Measure; leave out the exposure whose sources scatter most about those of the others while one does too much."""
    limit_mas = 1000.0 * tolerance.between_arcsec
    while True:
        ensemble = build_ensemble(given, parameters.min_snr)
        solution = measure_stated(ensemble, stated, stars, parameters, radius_arcsec)
        scatter = _scatter_mas(solution, len(given))
        if not np.any(scatter > limit_mas):
            break
        worst = given[int(np.nanargmax(scatter))]
        value = float(np.nanmax(scatter))
        if int(np.isfinite(scatter).sum()) < 3:
            raise DataError(
                f"the headers disagree: sources of {worst.name} scatter by {value:.0f} mas per axis about those of the "
                f"others, limit {limit_mas:.0f} mas; {CURE}"
            )
        text = f"its sources scatter about those of the other exposures, mas per axis; {CURE}"
        context.left_out(worst.item, Reason("header_disagrees", text, round(value, 1), round(limit_mas, 1)))
        given = [g for g in given if g is not worst]
    _check_written(given, solution)
    return given, solution


def _scatter_mas(solution: AstrometrySolution, n_exposures: int) -> Floats:
    """Return the scatter per axis of each exposure about the others, by the median: few faint sources do not decide.

    NaN where an exposure has fewer than `ENOUGH` sources in common with others. Of sources with S/N above 50 where
    there are enough. A header that is turned or stretched moves most of its sources.
    """
    pairs = solution.internal_pairs
    size = np.hypot(pairs.d_ra_mas, pairs.d_dec_mas)
    found = np.full(n_exposures, np.nan)
    for index in range(n_exposures):
        mine = (pairs.exposure == index) & np.isfinite(size)
        bright = mine & (pairs.snr > 50.0)
        rows = bright if int(bright.sum()) >= ENOUGH else mine
        if int(rows.sum()) >= ENOUGH:
            found[index] = float(np.median(size[rows])) / RAYLEIGH_MEDIAN
    return found


def _check_written(given: list[Given], solution: AstrometrySolution) -> None:
    """Read what will be written as any reader does and hold it to the header's WCS."""
    for g in given:
        for i, d in enumerate(g.sheet.detectors):
            cards: HeaderCards = make_cards([(k, v, "") for k, v in tpv_cards(solution.detector_solution(g.item, i))])
            grid = np.meshgrid(np.linspace(-0.5, d.n_x - 0.5, 7), np.linspace(-0.5, d.n_y - 0.5, 7))
            x, y = (axis.ravel() for axis in grid)
            ours, theirs = sky_of_pixels(read_wcs(cards), x, y), sky_of_pixels(read_wcs(d.cards), x, y)
            miss = float(np.max(angular_separation(*ours, *theirs))) * 3600.0 / (d.pixel_scale_arcsec or 1.0)
            if not miss <= MAX_CARRY_PIX:
                raise DataError(
                    f"the written WCS of {g.name} detector {d.name} stands {miss:.3g} pixels from its header's; {CURE}"
                )


def _judge_reference(solution: AstrometrySolution, tolerance: Tolerance, reference: str) -> None:
    rms = solution.reference_rms_mas / 1000.0
    if rms > tolerance.reference_arcsec:
        raise DataError(
            f"the headers contradict the reference {reference}: rms {rms:.3g} arcsec per axis, limit "
            f"{tolerance.reference_arcsec:.3g}; take another reference ([astrometry] reference) or {CURE}"
        )


def _warnings(given: list[Given], agreement: Agreement, n_stars: int) -> tuple[Reason, ...]:
    """Say that nothing was solved, and which headers could not be held against anything."""
    alone = [g.name for g in given if g.item not in agreement.checked]
    said = [Reason("header_wcs", "positions are those of the headers; nothing was solved", len(given))]
    if alone:
        what = "other exposures" if n_stars == 0 else "other exposures and the reference"
        text = f"too few sources in common with {what} to check the header of {', '.join(alone[:3])}"
        said.append(Reason("unchecked", text, len(alone)))
    return tuple(said)

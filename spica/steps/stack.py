"""Combine the exposures of an association: frame, resampling, combination, in strips that bound the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from spica import __version__
from spica.algorithms.background import measure_background
from spica.algorithms.frame import Frame, FrameTooLargeError, choose_frame, frame_for_circle
from spica.algorithms.region import RegionMask
from spica.algorithms.resample import KernelName, pixel_map_from_wcs
from spica.algorithms.stack import (
    Clipping,
    Contributions,
    Method,
    StackInput,
    StackStrip,
    combine_frames,
    effective_gain,
    sum_contributions,
)
from spica.files.header import HeaderCards, make_cards
from spica.files.mef import write_image
from spica.files.slug import slug
from spica.files.wcs import footprint_polygon, pixel_scale_arcsec, wcs_cards
from spica.model.errors import DataError, RecipeError
from spica.model.grade import GradeLimits
from spica.model.job import JobKind, Reason
from spica.model.product import Contribution, Role, StackRecord
from spica.model.solution import SolutionRecord, SolvedDetector
from spica.steps.base import Step, StepContext
from spica.steps.made import MadeStack, write_made
from spica.steps.member import Member, find_members, read_solution
from spica.steps.picture import add_pictures, draw_stack
from spica.steps.pixels import EvenWeight, LazyPixels, open_exposure, open_weight


@dataclass(frozen=True)
class Plane:
    """One detector as an input of the combination, and the member it belongs to."""

    member: int
    given: StackInput
    gain_e_per_adu: float | None
    saturation_adu: float | None


def run(context: StepContext) -> None:
    """Combine all members into one stack with its weight map."""
    solution = read_solution(context)
    members = find_members(context, solution)
    frame = choose_grid(context, members)
    name = slug(str(context.request.facts.get("name") or "stack"))
    with ExitStack() as stack:
        planes = stack.enter_context(open_planes(context, members, frame))
        image, weight, contributions = combine(context, planes, frame)
    finish_stack(context, name, solution, members, planes, frame, image, weight, contributions)


def choose_grid(context: StepContext, members: Sequence[Member]) -> Frame:
    """Return the output grid: the circle's box, or the footprint of all members."""
    recipe = context.recipe.stack
    scales = [pixel_scale_arcsec(w) for m in members for w in m.wcs]
    scale = recipe.pixel_scale_arcsec or float(np.median(scales))
    circle = context.request.facts.get("circle")
    try:
        if isinstance(circle, list):
            ra, dec, radius = (float(v) for v in circle)
            return frame_for_circle(ra, dec, radius, scale, recipe.max_frame_px)
        polygons = [
            footprint_polygon(w, (d.n_y, d.n_x), 4)
            for m in members
            for w, d in zip(m.wcs, m.sheet.detectors, strict=True)
        ]
        return choose_frame(polygons, scale, max_pixels=recipe.max_frame_px)
    except FrameTooLargeError as error:
        raise RecipeError(f"{error} (recipe [stack] max_frame_px)") from error


@contextmanager
def open_planes(context: StepContext, members: Sequence[Member], frame: Frame) -> Iterator[list[Plane]]:
    """Open every detector of every member that meets the frame, its background measured and its weight scaled.

    Marks take effect in the weight alone: the background is that of all pixels, so that no other pixel changes.
    """
    with ExitStack() as stack:
        planes: list[Plane] = []
        for i, member in enumerate(members):
            context.progress(i, 2 * len(members), f"background {member.sheet.exposure.name}")
            images = stack.enter_context(open_exposure(member.path, member.sheet))
            weights: Sequence[LazyPixels | None] = (
                stack.enter_context(open_weight(member.weight_path)) if member.weight_path else [None] * len(images)
            )
            for image, weight, wcs in zip(images, weights, member.wcs, strict=True):
                plane = _plane(context, i, member, image, weight, wcs, frame)
                if plane is not None:
                    planes.append(plane)
        yield planes


def _plane(
    context: StepContext,
    index: int,
    member: Member,
    image: LazyPixels,
    weight: LazyPixels | None,
    wcs: WCS,
    frame: Frame,
) -> Plane | None:
    sheet = image.sheet
    assert sheet is not None
    pixel_map = pixel_map_from_wcs(wcs, image.shape, frame)
    if pixel_map.is_empty:
        return None
    mask = None if weight is None else weight.whole() <= 0
    background = measure_background(image.whole(), mask, context.recipe.stack.background_mesh_pix)
    if not math.isfinite(background.noise_adu) or background.noise_adu <= 0:
        reason = Reason("no_background", "no usable pixels to measure the background")
        context.left_out(member.item, reason, sheet.index)
        return None
    variance = background.noise_adu**2
    given = StackInput(
        data=image,
        weight=_absolute(image, weight, variance, member.masks.get(sheet.index, ())),
        pixel_map=pixel_map,
        flux_scale=member.flux_scale,
        background=background.level_map if context.recipe.stack.subtract_background else None,
        seeing_arcsec=_seeing(context, member.item),
    )
    return Plane(index, given, sheet.gain_e_per_adu, sheet.saturation_adu)


def _absolute(
    image: LazyPixels, weight: LazyPixels | None, variance: float, masks: tuple[RegionMask, ...]
) -> LazyPixels | EvenWeight:
    """Return weights as inverse variance in ADU^-2, 0 inside marks."""
    if weight is None:
        return EvenWeight(image.shape, 1.0 / variance, masks)
    return replace(weight, factor=weight.factor / variance, marks=masks)


def _seeing(context: StepContext, item: str) -> float:
    """Return the seeing that was judged when this was planned, NaN unknown."""
    seeing = context.request.facts.get("seeing_arcsec")
    value = seeing.get(item) if isinstance(seeing, dict) else None
    return float(value) if value else math.nan


def combine(
    context: StepContext, planes: Sequence[Plane], frame: Frame
) -> tuple[NDArray[np.float32], NDArray[np.float32], Contributions]:
    """Resample and combine strip by strip."""
    recipe = context.recipe.stack
    if not planes:
        raise DataError("no exposure meets the frame; look at the circle and the footprints")
    image, weight = np.zeros(frame.shape, np.float32), np.zeros(frame.shape, np.float32)
    limit = recipe.memory_mb * 1024 * 1024
    clipping = Clipping(kappa=recipe.clip_sigma, amp_fraction=recipe.clip_fraction)
    strips = combine_frames(
        [p.given for p in planes],
        frame,
        cast(Method, recipe.combine),
        limit,
        clipping=clipping,
        kernel=cast(KernelName, recipe.kernel),
    )

    def kept() -> Iterator[StackStrip]:
        for strip in strips:
            image[strip.rows], weight[strip.rows] = strip.image, strip.weight
            context.progress(frame.shape[0] + strip.rows.stop, 2 * frame.shape[0], "combine")
            yield strip

    contributions = sum_contributions(kept())
    if not (weight > 0).any():
        raise DataError("the stack holds no pixel with weight; look at the footprints and weight maps")
    return image, weight, contributions


def finish_stack(
    context: StepContext,
    name: str,
    solution: SolutionRecord,
    members: Sequence[Member],
    planes: Sequence[Plane],
    frame: Frame,
    image: NDArray[np.float32],
    weight: NDArray[np.float32],
    contributions: Contributions,
) -> None:
    """Write stack, weight and preview; record what was made."""
    record = stack_record(context, solution, members, planes, frame, contributions)
    cards = stack_header(context, name, solution, members, frame.to_wcs(), record)
    path, weight_path = context.folder / f"{name}.fits", context.folder / f"{name}.weight.fits"
    write_image(path, image, cards)
    write_image(weight_path, weight, cards)
    item = context.subject()
    context.add_product(Role.STACK, path, item=item)
    context.add_product(Role.WEIGHT, weight_path, item=item)
    add_pictures(context, name, item, draw_stack(image, weight))
    write_measures(context, name, members, record)


def write_measures(context: StepContext, name: str, members: Sequence[Member], record: StackRecord) -> None:
    """Record a stack and tell the next steps of it."""
    e = members[0].sheet.exposure
    made = MadeStack(
        name=name,
        record=record,
        grade_limits=stack_limits(members[0].sheet.grade_limits),
        filter=e.filter or "",
        object=e.object or "",
        instrument=e.instrument or "",
    )
    measures = context.folder / f"{name}.measures.json"
    write_made(measures, made)
    context.add_product(Role.MEASURES, measures, item=context.subject())
    context.record(record)


def stack_limits(limits: Sequence[GradeLimits]) -> tuple[GradeLimits, ...]:
    """Return the limits that hold for stacks too: those of shape and number, not those of the sky's level."""
    return tuple(limit for limit in limits if limit.measure in ("seeing_arcsec", "ellipticity", "n_stars"))


def stack_record(
    context: StepContext,
    solution: SolutionRecord,
    members: Sequence[Member],
    planes: Sequence[Plane],
    frame: Frame,
    contributions: Contributions,
) -> StackRecord:
    """Return what the harvest records of a stack."""
    owner = np.array([p.member for p in planes])
    shares = np.bincount(owner, contributions.weight_fraction, len(members))
    clipped = [_mean(contributions.clipped_fraction[owner == i]) for i in range(len(members))]
    scales = np.array([members[p.member].flux_scale for p in planes])
    gains = np.array([p.gain_e_per_adu or np.nan for p in planes])
    exposures = [m.sheet.exposure for m in members]
    ny, nx = frame.shape
    given = tuple(
        Contribution(
            m.item,
            float(shares[i]),
            clipped[i],
            m.flux_scale,
            float(m.sheet.exposure.exptime_s or 0.0),
            marks=m.marks,
        )
        for i, m in enumerate(members)
    )
    absolute = solution.mag_system is not None
    corners = tuple((float(ra), float(dec)) for ra, dec in frame.corners())
    ra, dec = frame.pixel_to_sky(0.5 * (nx - 1), 0.5 * (ny - 1))
    return StackRecord(
        item=context.subject(),
        kind="stack",
        n_inputs=int((shares > 0).sum()),
        exptime_s=float(sum(e.exptime_s or 0.0 for e in exposures)),
        mjd=float(np.average([e.mjd or 0.0 for e in exposures], weights=np.maximum(shares, 1e-9))),
        n_x=nx,
        n_y=ny,
        pixel_scale_arcsec=frame.pixel_scale_arcsec,
        ra_deg=float(ra),
        dec_deg=float(dec),
        zero_point_mag=context.recipe.stack.zero_point_mag if absolute else None,
        mag_system=solution.mag_system,
        mag_band=solution.mag_band,
        gain_e_per_adu=_gain(contributions, gains, scales),
        saturation_adu=_saturation(planes, scales),
        contributions=given,
        footprint=(SolvedDetector(0, corners, frame.pixel_scale_arcsec),),
        combine=context.recipe.stack.combine,
    )


def _mean(values: NDArray[np.float64]) -> float:
    good = values[np.isfinite(values)]
    return float(good.mean()) if good.size else 0.0


def _gain(contributions: Contributions, gains: NDArray[np.float64], scales: NDArray[np.float64]) -> float | None:
    """Return the effective gain of the weighted mean, None where a gain is unknown."""
    if not np.isfinite(gains).all():
        return None
    return float(effective_gain(contributions.weight_fraction, gains, scales))


def _saturation(planes: Sequence[Plane], scales: NDArray[np.float64]) -> float | None:
    levels = [p.saturation_adu * s for p, s in zip(planes, scales, strict=True) if p.saturation_adu]
    return float(min(levels)) if levels else None


def stack_header(
    context: StepContext,
    name: str,
    solution: SolutionRecord,
    members: Sequence[Member],
    wcs: WCS,
    record: StackRecord,
) -> HeaderCards:
    """Return the header of a stack: facts, calibration, provenance."""
    e = members[0].sheet.exposure
    facts = make_cards(
        [
            ("OBJECT", e.object, "object"),
            ("FILTER", e.filter, "filter"),
            ("INSTRUME", e.instrument, "instrument"),
            ("TELESCOP", e.telescope, "telescope"),
            ("EXPTIME", record.exptime_s, "[s] sum over inputs"),
            ("MJD-OBS", record.mjd, "[day] weighted mean of mid-exposures, UTC"),
            ("NCOMBINE", record.n_inputs, "exposures combined"),
            ("COMBINE", record.combine, "how pixels were combined"),
            ("BUNIT", "adu", "effective exposure of 1 s"),
            ("MAGZEROP", record.zero_point_mag, "[mag] magnitude of 1 ADU"),
            ("MAGSYS", record.mag_system, "magnitude system"),
            ("MAGBAND", record.mag_band, "band of the reference"),
            ("MAGAPER", solution.aperture_arcsec, "[arcsec] diameter in which magnitudes are the reference's"),
            ("GAIN", record.gain_e_per_adu, "[electron/ADU] effective"),
            ("SATURATE", record.saturation_adu, "[ADU] lowest of the inputs"),
            ("SOFTWARE", f"Spica {__version__}", "made by"),
            ("STACKID", name, "name of the stack"),
            ("SPICAJOB", context.inputs.job, "job that made it"),
            ("RECIPE", context.request.recipe_sha256[:16], "hash of the recipe, first 16"),
        ]
    )
    lineage = make_cards(
        [
            triple
            for i, (m, c) in enumerate(zip(members, record.contributions, strict=True), 1)
            for triple in (
                (f"INP{i:05d}", m.sheet.exposure.name, "input"),
                (f"WGT{i:05d}", round(c.weight_fraction, 6), "its share of the weight"),
                (f"FSC{i:05d}", m.flux_scale, "its flux scale"),
                *([(f"MRK{i:05d}", " ".join(map(str, m.marks))[:60], "marks honoured")] if m.marks else ()),
            )
        ]
    )
    return HeaderCards((*wcs_cards(wcs).cards, *facts.cards, *lineage.cards))


NATIVE = Step(kind=JobKind.STACK, run=run)

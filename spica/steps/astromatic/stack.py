"""Stack by SWarp: the members, the frame, the record and the files are those of our own step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.stack import Contributions
from spica.astromatic.resample import (
    LIST_FILE,
    STEM,
    XML_FILE,
    CombineRules,
    PlaneInput,
    count_clipped,
    delete_planes,
    plane_weights,
    read_stack,
    swarp_line,
    write_frame,
    write_plane,
)
from spica.astromatic.tools import SWARP, check_exit, find_line, find_tool
from spica.astromatic.verdict import judge_swarp
from spica.astromatic.votable import read_report
from spica.files.head import read_head
from spica.files.slug import slug
from spica.files.wcs import wcs_cards, wcs_keyword_cards
from spica.model.errors import DataError
from spica.model.job import JobKind, Request
from spica.model.product import Role
from spica.steps import stack as native
from spica.steps.astromatic.carry import Plane, add_report, hand_over, take_over, time_limit_s
from spica.steps.base import Step, StepContext, recipe_of
from spica.steps.member import find_members, read_solution


def prepare(context: StepContext) -> None:
    """Choose members and frame, measure the noise of every detector, and write clean planes, weights and headers."""
    find_tool(SWARP)
    solution = read_solution(context)
    members = find_members(context, solution)
    frame = native.choose_grid(context, members)
    folder = context.work("")
    carried: list[Plane] = []
    with native.open_planes(context, members, frame) as planes:
        if not planes:
            raise DataError("no exposure meets the frame; look at the circle and the footprints")
        for i, plane in enumerate(planes):
            member = members[plane.member]
            image = plane.given.data
            sheet = getattr(image, "sheet", None)
            assert sheet is not None
            order = [d.index for d in member.sheet.detectors].index(sheet.index)
            head = read_head(context.path_of(Role.HEAD, member.item))[order]
            given = PlaneInput(
                data=_rows(image, sheet.n_y),
                weight=_rows(plane.given.weight, sheet.n_y),
                wcs=wcs_keyword_cards(head),
                flux_scale=member.flux_scale,
                gain_e_per_adu=plane.gain_e_per_adu,
                saturation_adu=plane.saturation_adu,
            )
            write_plane(folder, i, given)
            levels = (plane.gain_e_per_adu, plane.saturation_adu)
            carried.append(Plane(str(i), member.item, sheet.index, plane.member, member.flux_scale, *levels))
            context.progress(len(planes) + i, 2 * len(planes), "write planes")
    write_frame(folder, wcs_cards(frame.to_wcs()), frame.shape, len(carried))
    hand_over(context, tuple(carried))


def _rows(pixels: Any, n_y: int) -> NDArray[np.float32]:
    """Return all rows of lazy or plain pixels."""
    return np.asarray(pixels[0:n_y], np.float32)


def tool_lines(request: Request) -> tuple[str, ...]:
    """Return the lines that resample and combine."""
    recipe = recipe_of(request)
    s = recipe.stack
    rules = CombineRules(
        combine=s.combine,
        kernel=s.kernel,
        subtract_background=s.subtract_background,
        background_mesh_pix=s.background_mesh_pix,
        clip_sigma=s.clip_sigma,
        clip_fraction=s.clip_fraction,
        memory_mb=s.memory_mb,
        threads=recipe.resources.threads,
    )
    return find_line(SWARP), swarp_line(rules, time_limit_s(request))


def finish(context: StepContext) -> None:
    """Judge what SWarp made, share out its weight, and write stack, weight, preview and record as our own step does."""
    solution = read_solution(context)
    members = find_members(context, solution)
    frame = native.choose_grid(context, members)
    planes = take_over(context)
    folder = context.work("")
    check_exit(SWARP, folder, STEM, f"the {len(planes)} images of {LIST_FILE}")
    for warning in judge_swarp(read_report(folder / XML_FILE, "SWarp"), len(planes)):
        print(f"SWarp warns: {warning}")
    image, weight = read_stack(folder, frame.shape)
    name = slug(str(context.request.facts.get("name") or "stack"))
    own = cast(Sequence[native.Plane], planes)  # the record reads member, gain and saturation alone
    native.finish_stack(context, name, solution, members, own, frame, image, weight, contributions(context, planes))
    add_report(context, folder / XML_FILE, f"{name}.swarp.xml", context.subject())
    delete_planes(folder)


def contributions(context: StepContext, planes: Sequence[Plane]) -> Contributions:
    """Return what each plane gave: its share of the weight, and the part of its pixels that was clipped.

    SWarp scales fluxes when it combines: a resampled weight counts as w / flux_scale^2.
    """
    folder = context.work("")
    sums, seen = plane_weights(folder, len(planes))
    sums = sums / np.array([p.flux_scale for p in planes]) ** 2
    if not sums.sum() > 0:
        raise DataError("SWarp resampled nothing into the frame; look at the footprints and weight maps")
    clipped = count_clipped(folder, len(planes))
    share = np.full(len(planes), np.nan)
    np.divide(clipped, seen, out=share, where=seen > 0)
    return Contributions(sums / sums.sum(), share, seen - clipped)


STEP = Step(kind=JobKind.STACK, prepare=prepare, tool_lines=tool_lines, finish=finish)

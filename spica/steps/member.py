"""Exposures of a stack: those that were solved and are clear enough, with what people marked on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from astropy.wcs import WCS

from spica.algorithms.region import RegionMask
from spica.files.head import read_head
from spica.files.wcs import read_wcs
from spica.model.errors import DataError
from spica.model.job import ItemOutcome, Outcome, Reason
from spica.model.mark import PlannedMark, describe_marks
from spica.model.product import Role
from spica.model.record import from_json
from spica.model.solution import SolutionRecord, SolvedImage
from spica.steps.base import StepContext
from spica.steps.facts import FactsSheet, read_sheet
from spica.steps.pixels import rasterise_marks


@dataclass(frozen=True)
class Member:
    """One solved exposure that enters the stack; `masks`: by detector, where its marks leave no weight."""

    item: str
    path: Path
    weight_path: Path | None
    sheet: FactsSheet
    solved: SolvedImage
    wcs: tuple[WCS, ...]
    flux_scale: float
    marks: tuple[int, ...] = ()
    masks: Mapping[int, tuple[RegionMask, ...]] = field(default_factory=dict)


def read_solution(context: StepContext) -> SolutionRecord:
    """Return the solution of the ensemble."""
    path = context.path_of(Role.MEASURES)
    return from_json(SolutionRecord, json.loads(path.read_text(encoding="utf-8")), path.name)


def find_members(context: StepContext, solution: SolutionRecord) -> list[Member]:
    """Return the exposures that are solved and clear enough; the others are left out with their reason."""
    solved = {s.item: s for s in solution.images}
    told = {o.item for o in context.inputs.left_out}
    members = []
    for item in context.items(Role.EXPOSURE):
        heads = context.of_role(Role.HEAD, item)
        if item not in solved or not heads:
            if item not in told:
                context.left_out(item, Reason("not_solved", "the solution left it out"))
            continue
        limit = context.recipe.stack.exclude_trailing_mag
        attenuation = solved[item].skyprobe_mag
        if limit and attenuation is not None and attenuation > limit:
            context.left_out(item, Reason("attenuated", "attenuated beyond the recipe's limit", attenuation, limit))
            continue
        member = _member(context, item, solved[item], Path(heads[0].path))
        members.append(member)
        context.used(item)
        _tell_marks(context, member)
    if not members:
        raise DataError("no exposure is left to combine; see the outcomes of the solution")
    return members


def _member(context: StepContext, item: str, solved: SolvedImage, head: Path) -> Member:
    sheet = read_sheet(context.path_of(Role.FACTS, item))
    weights = context.of_role(Role.WEIGHT, item)
    marks = read_marks(context, item)
    shapes = {d.index: (d.n_y, d.n_x) for d in sheet.detectors}
    return Member(
        item=item,
        path=context.path_of(Role.EXPOSURE, item),
        weight_path=Path(weights[0].path) if weights and context.recipe.stack.use_weight else None,
        sheet=sheet,
        solved=solved,
        wcs=tuple(read_wcs(cards) for cards in read_head(head)),
        flux_scale=solved.flux_scale,
        marks=tuple(sorted(m.id for m in marks)),
        masks=rasterise_marks([r for m in marks for r in m.regions], shapes),
    )


def read_marks(context: StepContext, item: str) -> tuple[PlannedMark, ...]:
    """Return the marks of an exposure as the plan froze them."""
    told = context.request.facts.get("marks")
    given = told.get(item, ()) if isinstance(told, dict) else ()
    return tuple(from_json(PlannedMark, mark, f"marks of {item}") for mark in given)


def _tell_marks(context: StepContext, member: Member) -> None:
    """Say of each detector of an exposure how many of its pixels marks keep out."""
    for detector, masks in sorted(member.masks.items()):
        n = sum(m.n_pixels for m in masks)
        words = f"{describe_marks(member.marks)} of people: {n} pixels of this detector are kept out"
        outcome = ItemOutcome(member.item, Outcome.USED_WITH_WARNING, detector, Reason("marked", words, n))
        context.outcomes.append(outcome)

"""Turns one association into the drafts of its jobs: solve, combine, judge, catalogue, deliver."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from spica import __version__
from spica.model.association import Association, Mode
from spica.model.image import ImageKind
from spica.model.job import FileRef, Input, JobKind, item_of_image
from spica.model.mark import PlannedMark
from spica.model.product import Role
from spica.model.recipe import Recipe
from spica.model.record import canonical_sha256, to_json
from spica.scheduling.submit import Draft, Upstream


@dataclass(frozen=True)
class UsedMaster:
    """A master that an exposure was corrected with, or weighted by; `scale`: amplitude of a fringe pattern."""

    kind: str
    name: str
    sha256: str
    corrected: bool
    scale: float | None = None


@dataclass(frozen=True)
class Member:
    """One exposure of a plan: its files by role, the hash and quality that were judged, and its standing marks."""

    image_id: int
    name: str
    sha256: str
    quality_id: int | None
    seeing_arcsec: float | None = None
    files: dict[str, FileRef] = field(default_factory=dict)
    masters: tuple[UsedMaster, ...] = ()
    marks: tuple[PlannedMark, ...] = ()


def product_hash(association: Association, members: tuple[Member, ...], recipe: Recipe) -> str:
    """Return what makes nothing twice: inputs, quality judged, marks, recipe, engines, version, frame asked for.

    Without marks there is no word of them: taking a mark back gives the old hash back. Calibrated copies heed none.
    """
    said: dict[str, object] = {
        "mode": association.mode,
        "circle": association.circle,
        "target": association.target_id,
        "inputs": sorted((m.sha256, m.quality_id or 0) for m in members),
        "recipe": recipe.sha256(),
        "version": __version__,
    }
    marked = sorted((m.sha256, sorted(to_json(m.marks), key=lambda mark: int(mark["id"]))) for m in members if m.marks)
    if marked and association.mode is not Mode.SINGLE:
        said["marks"] = marked
    return canonical_sha256(said)


def draft_jobs(
    association: Association,
    members: tuple[Member, ...],
    reference: FileRef | None,
    recipe: Recipe,
    product_id: int,
    label: str,
    planned_utc: str = "",
) -> list[Draft]:
    """Return the jobs of one association in the order of their edges.

    `planned_utc` dates the delivery: whatever attempt makes it, its bytes are the same.
    survey and area: astrometry -> stack -> quality, catalogue -> deliver. single: astrometry -> calibrate -> deliver.
    """
    drafts = [_astrometry(association, members, reference, recipe, product_id, label)]
    if association.mode is Mode.SINGLE:
        drafts.append(_calibrate(association, members, recipe, product_id, label))
        made = [1]
    else:
        drafts.append(_stack(association, members, recipe, product_id, label))
        drafts.append(_quality(recipe, product_id, label))
        made = [1, 2]
        if recipe.catalogue.make:
            drafts.append(_catalogue(recipe, product_id, label))
            made.append(3)
    if recipe.deliver.make:
        drafts.append(_deliver(association, members, made, recipe, product_id, label, planned_utc))
    return drafts


def _given(member: Member, *roles: str) -> tuple[Input, ...]:
    item = item_of_image(member.image_id)
    return tuple(Input(r, item, member.files[r]) for r in roles if r in member.files)


def _astrometry(
    association: Association,
    members: tuple[Member, ...],
    reference: FileRef | None,
    recipe: Recipe,
    product_id: int,
    label: str,
) -> Draft:
    files = tuple(i for m in members for i in _given(m, Role.FACTS, Role.CATALOGUE))
    if reference is not None:
        files += (Input(Role.REFERENCE, None, reference),)
    return Draft(
        kind=JobKind.ASTROMETRY,
        engine="native" if recipe.astrometry.source == "header" else recipe.engine.astrometry,
        label=f"solve {label}",
        recipe=recipe,
        files=files,
        subject_id=product_id,
        facts={"names": {item_of_image(m.image_id): m.name for m in members}, "filter": association.filter},
    )


def _stack(association: Association, members: tuple[Member, ...], recipe: Recipe, product_id: int, label: str) -> Draft:
    circle = association.circle
    marks = {item_of_image(m.image_id): to_json(m.marks) for m in members if m.marks}
    facts: dict[str, object] = {
        "name": label,
        "names": {item_of_image(m.image_id): m.name for m in members},
        "seeing_arcsec": {item_of_image(m.image_id): m.seeing_arcsec for m in members},
        "circle": None if circle is None else [circle.ra_deg, circle.dec_deg, circle.radius_deg],
    }
    return Draft(
        kind=JobKind.STACK,
        engine=recipe.engine.stack,
        label=f"stack {label}",
        recipe=recipe,
        files=tuple(i for m in members for i in _given(m, Role.EXPOSURE, Role.FACTS, Role.WEIGHT)),
        upstream=(Upstream(Role.HEAD, 0, Role.HEAD), Upstream(Role.MEASURES, 0, Role.MEASURES)),
        needs=(0,),
        subject_id=product_id,
        min_inputs=recipe.stack.min_inputs,
        facts=facts | {"marks": marks} if marks else facts,
    )


def _calibrate(
    association: Association, members: tuple[Member, ...], recipe: Recipe, product_id: int, label: str
) -> Draft:
    target = next(m for m in members if m.image_id == association.target_id)
    item = item_of_image(target.image_id)
    return Draft(
        kind=JobKind.CALIBRATE,
        engine="native",
        label=f"calibrate {label}",
        recipe=recipe,
        files=_given(target, Role.EXPOSURE, Role.FACTS, Role.WEIGHT, Role.CATALOGUE),
        upstream=(Upstream(Role.HEAD, 0, Role.HEAD, item), Upstream(Role.MEASURES, 0, Role.MEASURES)),
        needs=(0,),
        subject_id=product_id,
        facts={"name": label, "names": {item_of_image(target.image_id): target.name}},
    )


def _quality(recipe: Recipe, product_id: int, label: str) -> Draft:
    return Draft(
        kind=JobKind.QUALITY,
        engine=recipe.engine.quality,
        label=f"judge {label}",
        recipe=recipe,
        upstream=tuple(Upstream(r, 1, r, item_of_image(product_id)) for r in (Role.STACK, Role.WEIGHT, Role.MEASURES)),
        needs=(1,),
        subject_id=product_id,
    )


def _catalogue(recipe: Recipe, product_id: int, label: str) -> Draft:
    item = item_of_image(product_id)
    return Draft(
        kind=JobKind.CATALOGUE,
        engine=recipe.engine.catalogue,
        label=f"catalogue {label}",
        recipe=recipe,
        upstream=tuple(Upstream(r, 1, r, item) for r in (Role.STACK, Role.WEIGHT, Role.MEASURES)),
        needs=(1,),
        subject_id=product_id,
    )


def _deliver(
    association: Association,
    members: tuple[Member, ...],
    made: list[int],
    recipe: Recipe,
    product_id: int,
    label: str,
    planned_utc: str,
) -> Draft:
    item = item_of_image(product_id)
    kind = ImageKind.CALIBRATED if association.mode is Mode.SINGLE else ImageKind.STACK
    wanted = {
        1: (Role.STACK, Role.CALIBRATED, Role.WEIGHT, Role.CATALOGUE, Role.HEAD, Role.MEASURES, Role.PREVIEW),
        2: (Role.PLOT, Role.QUALITY),
        3: (Role.CATALOGUE, Role.PLOT),
    }
    upstream = (
        *(Upstream(r, i, r, item) for i in made for r in wanted[i]),
        Upstream(Role.PLOT, 0, Role.PLOT),
        Upstream(Role.SOLUTION, 0, Role.MEASURES),
    )
    return Draft(
        kind=JobKind.DELIVER,
        engine="native",
        label=f"deliver {label}",
        recipe=recipe,
        upstream=upstream,
        needs=(0, *made),
        subject_id=product_id,
        facts={
            "name": label,
            "kind": kind.value,
            "planned_utc": planned_utc,
            "mode": association.mode.value,
            "inputs": [_told(m) for m in members],
        },
        min_inputs=0,
    )


def _told(member: Member) -> dict[str, object]:
    """Return what the manifest says of an exposure: its item, name, hash, and the masters it was made with."""
    said: dict[str, object] = {
        "item": item_of_image(member.image_id),
        "name": member.name,
        "sha256": member.sha256,
    }
    return said | {"masters": [asdict(m) for m in member.masters]} if member.masters else said

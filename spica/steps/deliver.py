"""Delivery: products under their names in one folder, with a manifest in XML and JSON, checksums and a quality page."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spica import __version__
from spica.files.checksum import sha256_file, write_atomic
from spica.files.manifest import Fact, LineageStep, Manifest, ManifestFile, ManifestItem, describe_file, write_manifest
from spica.files.slug import slug
from spica.model.job import ItemOutcome, JobKind, Outcome, ResolvedInput
from spica.model.product import DeliveredFile, DeliveryRecord, Role, StackRecord
from spica.model.record import from_json, to_json
from spica.model.solution import SolutionRecord
from spica.plots.sheet import SheetFacts, draw_sheet
from spica.steps.base import Step, StepContext
from spica.steps.made import MadeStack, read_made

UNITS = {
    "_e_per_adu": "electron/ADU",
    "_s": "s",
    "_deg": "deg",
    "_arcsec": "arcsec",
    "_mas": "mas",
    "_mag": "mag",
    "_adu": "ADU",
    "_pix": "pixel",
}
"""Unit by the end of a measure's name; the longest comes first."""


def run(context: StepContext) -> None:
    """Copy the products of the plan into one folder and describe them."""
    made = read_made(context.path_of(Role.MEASURES, context.subject()))
    solution = _solution(context)
    folder = context.folder / "outgoing" / slug(made.name)
    folder.mkdir(parents=True, exist_ok=True)
    files = [_deliver(folder, given, given.file.name) for given in _wanted(context)]
    quality = _quality(context)
    files += _pages(context, folder, made, solution, quality)
    manifest = _manifest(context, made, solution, quality, tuple(files))
    xml, as_json = write_manifest(folder, manifest)
    sums = folder / "SHA256SUMS"
    listed = [*files, describe_file(xml, Role.MANIFEST), describe_file(as_json, Role.MANIFEST)]
    write_atomic(sums, "".join(f"{f.sha256}  {f.name}\n" for f in listed).encode())
    _record(context, folder, as_json)


def _wanted(context: StepContext) -> list[ResolvedInput]:
    """Return the inputs that are delivered; the measures travel inside the manifest."""
    inside = (Role.MEASURES, Role.SOLUTION, Role.QUALITY)
    return [i for i in context.inputs.inputs if i.role not in inside]


def _solution(context: StepContext) -> SolutionRecord:
    path = context.path_of(Role.SOLUTION)
    return from_json(SolutionRecord, json.loads(path.read_text(encoding="utf-8")), path.name)


def _quality(context: StepContext) -> dict[str, Any]:
    given = context.of_role(Role.QUALITY)
    data = json.loads(Path(given[0].path).read_text(encoding="utf-8")) if given else {}
    return data if isinstance(data, dict) else {}


def _deliver(folder: Path, given: ResolvedInput, name: str) -> ManifestFile:
    """Copy one product under its own name and return its line in the manifest."""
    target = folder / slug(name, max_length=120)
    with target.open("wb") as out, Path(given.path).open("rb") as source:
        shutil.copyfileobj(source, out, 1 << 20)
    return describe_file(target, given.role)


def _pages(
    context: StepContext, folder: Path, made: MadeStack, solution: SolutionRecord, quality: dict[str, Any]
) -> list[ManifestFile]:
    """Write the quality page of the delivery as PNG and PDF."""
    previews = context.of_role(Role.PREVIEW)
    facts = SheetFacts(
        title=made.name,
        lines=tuple((f.name, f"{f.value}", f.unit) for f in _facts(made, solution, quality) if f.value is not None),
        inputs=tuple(
            (_names(context).get(c.item, c.item), c.weight_fraction, c.clipped_fraction)
            for c in made.record.contributions
        ),
        preview=Path(previews[0].path) if previews else None,
    )
    suffixes = (".png", ".pdf") if context.recipe.deliver.pdf else (".png",)
    pages = []
    for suffix in suffixes:
        page = folder / f"{slug(made.name)}.sheet{suffix}"
        draw_sheet(page, facts)
        pages.append(describe_file(page, Role.REPORT))
    return pages


def _names(context: StepContext) -> dict[str, str]:
    inputs = context.request.facts.get("inputs")
    return {str(i["item"]): str(i["name"]) for i in inputs} if isinstance(inputs, list) else {}


def _fact(name: str, value: Any) -> Fact:
    unit = next((u for suffix, u in UNITS.items() if name.endswith(suffix)), "")
    return Fact(name, round(value, 6) if isinstance(value, float) else value, unit)


def _facts(made: MadeStack, solution: SolutionRecord, quality: dict[str, Any]) -> tuple[Fact, ...]:
    record = {k: v for k, v in to_json(made.record).items() if k not in ("contributions", "footprint", "type", "item")}
    of_solution = {
        k: getattr(solution, k)
        for k in ("reference_name", "n_reference", "internal_mas", "reference_mas", "internal_mag", "reference_mag")
    }
    of_quality = {k: v for k, v in (quality.get("measures") or {}).items() if k not in record and k != "detector"}
    grade = (quality.get("grade") or {}).get("grade")
    named = {"object": made.object, "filter": made.filter, "instrument": made.instrument}
    return tuple(
        _fact(k, v) for k, v in {**named, **record, **of_solution, **of_quality, "machine_grade": grade}.items()
    )


def _manifest(
    context: StepContext,
    made: MadeStack,
    solution: SolutionRecord,
    quality: dict[str, Any],
    files: tuple[ManifestFile, ...],
) -> Manifest:
    inputs, left_out = _items(context, made.record)
    return Manifest(
        name=made.name,
        kind=made.record.kind,
        created_utc=str(context.request.facts.get("planned_utc") or ""),
        facts=_facts(made, solution, quality),
        inputs=inputs,
        left_out=left_out,
        files=files,
        lineage=_lineage(context),
    )


def _items(context: StepContext, record: StackRecord) -> tuple[tuple[ManifestItem, ...], tuple[ManifestItem, ...]]:
    """Return what entered the product and what was planned but left out, with the reason where it is known here.

    Masters that exposures were corrected with or weighted by come after the exposures.
    """
    given = context.request.facts.get("inputs")
    shares = {c.item: c for c in record.contributions}
    reasons = {o.item: o for o in context.inputs.left_out}
    used: list[ManifestItem] = []
    left: list[ManifestItem] = []
    entered: list[dict[str, Any]] = []
    for entry in given if isinstance(given, list) else []:
        item, name, sha256 = str(entry["item"]), str(entry["name"]), str(entry["sha256"])
        share = shares.get(item)
        if share is not None:
            facts: tuple[Fact, ...] = (
                Fact("weight_fraction", share.weight_fraction),
                Fact("flux_scale", share.flux_scale),
            )
            facts += _of_marks(share.marks)
            used.append(ManifestItem(name, Role.EXPOSURE, sha256, "", facts + _of_masters(entry)))
            entered.append(entry)
        elif record.kind == "stack":
            left.append(ManifestItem(name, Role.EXPOSURE, sha256, _why(reasons.get(item))))
        else:
            used.append(ManifestItem(name, Role.EXPOSURE, sha256, "", _of_masters(entry)))
            entered.append(entry)
    return (*used, *_masters(entered)), tuple(left)


def _of_marks(marks: Sequence[int]) -> tuple[Fact, ...]:
    """Return for an exposure how many marks of people kept pixels of it out of the stack, and their numbers."""
    return (Fact("n_marks", len(marks)), Fact("marks", " ".join(map(str, marks)))) if marks else ()


def _of_masters(entry: dict[str, Any]) -> tuple[Fact, ...]:
    """Return for an exposure the hash of each master, under `<kind>_corrected` or `<kind>_weighted`."""
    facts = []
    for m in entry.get("masters") or ():
        facts.append(Fact(f"{m['kind']}_{'corrected' if m['corrected'] else 'weighted'}", str(m["sha256"])))
        if m.get("scale") is not None:
            facts.append(Fact(f"{m['kind']}_scale", float(m["scale"]), "ADU"))
    return tuple(facts)


def _masters(entries: Sequence[dict[str, Any]]) -> tuple[ManifestItem, ...]:
    """Return the masters of exposures, each once, with the number of exposures that name it."""
    seen = [(str(m["kind"]), str(m["name"]), str(m["sha256"])) for e in entries for m in e.get("masters") or ()]
    return tuple(
        ManifestItem(name, kind, sha256, "", (Fact("n_exposures", n),))
        for (kind, name, sha256), n in sorted(Counter(seen).items())
    )


def _why(outcome: ItemOutcome | None) -> str:
    if outcome is None or outcome.reason is None:
        return "left out by a step; see its outcomes"
    return outcome.reason.text


def _lineage(context: StepContext) -> tuple[LineageStep, ...]:
    jobs = sorted({i.job for i in context.request.inputs if i.job is not None})
    sha256 = context.request.recipe_sha256
    before = tuple(LineageStep("upstream", job, "", __version__, sha256) for job in jobs)
    return (*before, LineageStep(context.request.kind, context.inputs.job, context.request.engine, __version__, sha256))


def _record(context: StepContext, folder: Path, manifest: Path) -> None:
    """Announce the delivered files; the harvest places them below the outgoing root and checks them there."""
    item = context.subject()
    delivered = []
    for path in sorted(folder.iterdir()):
        delivered.append(DeliveredFile(path.relative_to(folder).as_posix(), sha256_file(path), path.stat().st_size))
        small = path.suffix in (".xml", ".json", ".pdf", ".png")
        context.add_product(Role.DELIVERED, path, item=item, small=small)
    context.record(DeliveryRecord(item, folder.name, sha256_file(manifest), tuple(delivered)))
    context.outcomes.append(ItemOutcome(item, Outcome.USED))


NATIVE = Step(kind=JobKind.DELIVER, run=run)

"""Verification of incoming files: structure, headers, facts; every file ends in a recorded outcome."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from spica.files.checksum import write_atomic
from spica.files.header import HeaderCards, pack_headers
from spica.files.slug import short_name, slug
from spica.files.verify import FileReport, verify_file
from spica.files.wcs import WcsError
from spica.instruments.registry import Registry, load_instruments
from spica.instruments.translate import translate
from spica.model.errors import DataError
from spica.model.image import ExposureRecord, FrameType, ImageState, normalise_object
from spica.model.job import Reason, ResolvedInput
from spica.model.product import Role
from spica.steps.base import StepContext
from spica.steps.facts import FactsSheet, make_sheet, write_sheet


@dataclass
class Verified:
    """One incoming file that holds an exposure of the sky, ready to be assessed."""

    item: str
    name: str
    path: Path
    stem: str
    sheet: FactsSheet
    warnings: tuple[Reason, ...] = field(default=())


def registry_of(context: StepContext) -> Registry:
    """Return the shipped profiles with those of the workspace, which came frozen with the request."""
    profiles = context.request.facts.get("profiles") or {}
    with tempfile.TemporaryDirectory(prefix="spica-profiles-") as folder:
        for name, text in profiles.items():
            (Path(folder) / f"{slug(str(name).removesuffix('.toml'))}.toml").write_text(str(text), encoding="utf-8")
        return load_instruments(folder)


def verify_exposure(context: StepContext, given: ResolvedInput, registry: Registry) -> Verified | None:
    """Verify one file, write its facts and headers, and record it; None where nothing is to be assessed."""
    item, path = str(given.item), Path(given.path)
    name = slug(short_name(given.file.name))
    report = verify_file(path)
    if report.kind != "image" and not _is_broken(report, given.file.name):
        reason = Reason("no_image", f"{given.file.name} holds no image ({report.kind})")
        context.record(ExposureRecord(item, name, None, (reason,)))
        context.ignored(item, reason)
        return None
    problems = tuple(Reason(p.code, p.text, p.value, p.limit) for p in report.problems)
    if problems:
        _reject(context, item, name, problems)
        return None
    try:
        sheet = _translate(item, name, report.headers, registry, given.file.name)
    except (DataError, WcsError) as error:
        _reject(context, item, name, (Reason(_code(error), str(error)),), report.headers)
        return None
    return _register(context, item, name, path, _with_alias(context, sheet), report)


def _is_broken(report: FileReport, file_name: str) -> bool:
    """Tell a damaged FITS file, which is rejected, from a file of another kind, which is ignored."""
    claims = Path(file_name).name.lower().removesuffix(".gz").removesuffix(".bz2").removesuffix(".fz")
    return bool(report.problems) and claims.endswith((".fits", ".fit", ".fts"))


def _code(error: Exception) -> str:
    fact = getattr(error, "fact", None)
    return f"missing_{slug(str(fact))}" if fact else "header"


def _reject(
    context: StepContext,
    item: str,
    name: str,
    reasons: tuple[Reason, ...],
    headers: tuple[HeaderCards, ...] = (),
) -> None:
    if headers:
        _write_headers(context, item, name, headers)
    context.record(ExposureRecord(item, name, ImageState.REJECTED, reasons))
    context.left_out(item, reasons[0])


def _translate(
    item: str, name: str, headers: tuple[HeaderCards, ...], registry: Registry, file_name: str
) -> FactsSheet:
    instrument = registry.recognise(headers, file_name)
    return make_sheet(item, name, translate(instrument, headers, file_name), instrument)


def _with_alias(context: StepContext, sheet: FactsSheet) -> FactsSheet:
    """Name the object as the survey's alias table does; the header's own spelling stays in `object_raw`."""
    aliases = context.request.facts.get("aliases")
    if not isinstance(aliases, dict) or not sheet.exposure.object:
        return sheet
    table = {normalise_object(str(spelling)): str(name) for spelling, name in aliases.items()}
    name = table.get(normalise_object(sheet.exposure.object), sheet.exposure.object)
    return replace(sheet, exposure=replace(sheet.exposure, object=name))


def _register(
    context: StepContext, item: str, name: str, path: Path, sheet: FactsSheet, report: FileReport
) -> Verified | None:
    stem = f"{name}-{item.replace(':', '')}"
    _write_headers(context, item, name, report.headers)
    facts = context.folder / f"{stem}.facts.json"
    write_sheet(facts, sheet)
    context.add_product(Role.FACTS, facts, item=item)
    context.record(sheet.exposure)
    warnings = tuple(Reason(p.code, p.text, p.value, p.limit) for p in report.warnings)
    if sheet.exposure.frame_type is not FrameType.SCIENCE:
        frame = sheet.exposure.frame_type.value
        context.ignored(item, Reason("calibration_frame", f"{frame} frame: registered, not assessed as science"))
        return None
    return Verified(item, name, path, stem, sheet, warnings)


def _write_headers(context: StepContext, item: str, name: str, headers: tuple[HeaderCards, ...]) -> None:
    path = context.folder / f"{name}-{item.replace(':', '')}.headers"
    write_atomic(path, pack_headers(headers))
    context.add_product(Role.HEADERS, path, item=item, small=False)

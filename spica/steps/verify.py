"""Verification of incoming files: structure, headers, facts; every file ends in a recorded outcome."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from spica.files.checksum import write_atomic
from spica.files.header import HeaderCards, pack_headers
from spica.files.slug import short_name, slug
from spica.files.verify import CHECKSUM_CODES, FileLimits, FileReport, Problem, verify_file
from spica.files.wcs import WcsError, place_on_sky, wcs_keyword_cards
from spica.instruments.base import Instrument
from spica.instruments.lookup import meets
from spica.instruments.registry import Registry, load_instruments
from spica.instruments.translate import translate
from spica.model.errors import DataError
from spica.model.image import ExposureRecord, FrameType, ImageState, normalise_object
from spica.model.job import Reason, ResolvedInput
from spica.model.product import Role
from spica.steps.base import StepContext
from spica.steps.facts import DetectorSheet, FactsSheet, make_sheet, write_sheet


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
    report = verify_file(path, limits_of(context), sums="warn")
    instrument = registry.recognise(report.headers, given.file.name) if report.kind == "image" else None
    problems, warnings = judge_checksums(report, checksum_rule(context, instrument))
    if problems:
        _reject(context, item, name, tuple(_reason(p) for p in problems))
        return None
    if instrument is None:
        told = "".join(f"; {w.text}" for w in warnings)
        _ignore(context, item, name, "no_image", f"{given.file.name} holds no image, it is {report.what}{told}")
        return None
    for rule in instrument.ignored:
        if not rule.conditions.is_empty and meets(rule.conditions, report.headers, given.file.name):
            _ignore(context, item, name, "no_exposure", f"{given.file.name} is no exposure, it is {rule.what}")
            return None
    try:
        sheet = make_sheet(item, name, translate(instrument, report.headers, given.file.name), instrument)
    except (DataError, WcsError) as error:
        _reject(context, item, name, (Reason(_code(error), str(error)),), report.headers)
        return None
    reasons = (*judge_wcs(report.headers, sheet, instrument), *(_reason(p) for p in warnings))
    return _register(context, item, name, path, _with_alias(context, sheet), report, _in_one_line(reasons))


def _ignore(context: StepContext, item: str, name: str, code: str, text: str) -> None:
    """Record that a file is none of those that are taken in, and what it is."""
    cure = "; as a reference: spica reference add" if "catalogue of sources" in text else ""
    reason = Reason(code, f"{text}; it is passed over{cure}")
    context.record(ExposureRecord(item, name, None, (reason,)))
    context.ignored(item, reason)


def _in_one_line(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Fold several warnings into one: the code and number of the first, the sentences of all."""
    if len(reasons) < 2:
        return reasons
    return (Reason(reasons[0].code, "; ".join(r.text for r in reasons), reasons[0].value, reasons[0].limit),)


def limits_of(context: StepContext) -> FileLimits:
    """Return what a file may claim, as the workspace says; it came frozen with the request."""
    limits = context.request.facts.get("limits")
    return FileLimits(**{str(k): int(v) for k, v in limits.items()}) if isinstance(limits, dict) else FileLimits()


def checksum_rule(context: StepContext, instrument: Instrument | None) -> str:
    """Return `require`, `warn` or `ignore`: the recipe's word, else that of the instrument's profile."""
    said = context.recipe.verify.checksums
    if said != "profile":
        return said
    return "require" if instrument is None else instrument.checksums


def judge_checksums(report: FileReport, rule: str) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return problems and warnings of a report made with `sums="warn"`, checksums judged by the rule."""
    sums = tuple(w for w in report.warnings if w.code in CHECKSUM_CODES)
    others = tuple(w for w in report.warnings if w.code not in CHECKSUM_CODES)
    if rule == "require":
        return (*report.problems, *sums), others
    return report.problems, ((*sums, *others) if rule == "warn" else others)


def judge_wcs(headers: tuple[HeaderCards, ...], sheet: FactsSheet, instrument: Instrument) -> tuple[Reason, ...]:
    """Return one warning `bad_wcs` where detectors state celestial coordinates that cannot be used; value: how many."""
    if not instrument.detectors.use_wcs:
        return ()
    found = []
    for detector in sheet.detectors:
        cards = wcs_keyword_cards(headers[detector.hdu])
        if detector.has_header_wcs or not _states_sky(cards):
            continue
        trouble = _trouble_of_wcs(cards, detector)
        if trouble:
            found.append(f"detector {detector.name}: {trouble}")
    if not found:
        return ()
    more = f" (and {len(found) - 1} more detectors)" if len(found) > 1 else ""
    return (Reason("bad_wcs", f"{found[0]}{more}; the pointing serves instead", len(found)),)


def _states_sky(cards: HeaderCards) -> bool:
    return any(str(cards.get(f"CTYPE{axis}") or "").strip().upper()[:2] in {"RA", "DE"} for axis in (1, 2))


def _trouble_of_wcs(cards: HeaderCards, detector: DetectorSheet) -> str:
    """Return why a WCS did not serve; nothing where the detector's read-outs are turned against its unit's pixels."""
    missing = [k for k in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2") if cards.get(k) is None]
    if missing:
        return f"the header's WCS lacks {' '.join(missing)}"
    try:
        place = place_on_sky(cards, (detector.n_y, detector.n_x))
    except WcsError as error:
        return str(error).partition(";")[0]
    if detector.amplifiers or detector.pixel_scale_arcsec is None:
        return ""
    (x, y), stated = place.sides_arcsec, detector.pixel_scale_arcsec
    return f"pixels of {x:.4g} by {y:.4g} arcsec in the header's WCS do not fit the camera's of {stated:.4g}"


def _code(error: Exception) -> str:
    fact = getattr(error, "fact", None)
    return f"missing_{slug(str(fact))}" if fact else "header"


def _reason(problem: Problem) -> Reason:
    return Reason(problem.code, problem.text, problem.value, problem.limit)


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


def _with_alias(context: StepContext, sheet: FactsSheet) -> FactsSheet:
    """Name the object as the survey's alias table does; the header's own spelling stays in `object_raw`."""
    aliases = context.request.facts.get("aliases")
    if not isinstance(aliases, dict) or not sheet.exposure.object:
        return sheet
    table = {normalise_object(str(spelling)): str(name) for spelling, name in aliases.items()}
    name = table.get(normalise_object(sheet.exposure.object), sheet.exposure.object)
    return replace(sheet, exposure=replace(sheet.exposure, object=name))


def _register(
    context: StepContext,
    item: str,
    name: str,
    path: Path,
    sheet: FactsSheet,
    report: FileReport,
    warnings: tuple[Reason, ...],
) -> Verified | None:
    stem = f"{name}-{item.replace(':', '')}"
    _write_headers(context, item, name, report.headers)
    facts = context.folder / f"{stem}.facts.json"
    write_sheet(facts, sheet)
    context.add_product(Role.FACTS, facts, item=item)
    context.record(sheet.exposure)
    if sheet.exposure.frame_type is not FrameType.SCIENCE:
        frame = sheet.exposure.frame_type.value
        context.ignored(item, Reason("calibration_frame", f"{frame} frame: registered, not assessed as science"))
        return None
    return Verified(item, name, path, stem, sheet, warnings)


def _write_headers(context: StepContext, item: str, name: str, headers: tuple[HeaderCards, ...]) -> None:
    path = context.folder / f"{name}-{item.replace(':', '')}.headers"
    write_atomic(path, pack_headers(headers))
    context.add_product(Role.HEADERS, path, item=item, small=False)

"""Cameras: list the profiles, show what one makes of a file, begin a new one."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spica.cli.door import print_json, say, workspace_of
from spica.model.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spica.files.header import HeaderCards
    from spica.instruments.facts import DetectorFacts, ExposureFacts
    from spica.instruments.registry import Registry

SHOWN_DETECTORS = 4


@click.group("camera")
def camera_command() -> None:
    """Cameras that Spica knows, and what it makes of a header; a new one needs a TOML file, no code."""


def _registry(ctx: click.Context) -> Registry:
    from spica.instruments.registry import load_instruments

    try:
        folder: Path | None = workspace_of(ctx).instruments_folder
    except UsageError:
        folder = None
    return load_instruments(folder)


def _read(file: Path) -> tuple[HeaderCards, ...]:
    """Return the headers of a FITS file, or of a text dump of them; what is wrong with a file is said."""
    from spica.files.dump import read_header_dump
    from spica.files.verify import verify_file

    report = verify_file(file)
    if report.kind == "text":
        return read_header_dump(file)
    for problem in report.problems:
        say(f"{problem.code}: {problem.text}")
    if not report.headers:
        raise DataError(f"{file.name} holds no header; give a FITS file, or a header printed as text")
    return report.headers


@camera_command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, and nothing else.")
@click.pass_context
def camera_list(ctx: click.Context, as_json: bool) -> None:
    """List the profiles in the order in which they are tried."""
    instruments = _registry(ctx).instruments
    if as_json:
        print_json([{"name": i.name, "title": i.title, "telescope": i.telescope} for i in instruments])
        return
    for i in instruments:
        say(f"{i.name:<18} {i.title}")


@camera_command.command("explain")
@click.argument("files", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True)
@click.option("--profile", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Try this TOML file.")
@click.pass_context
def camera_explain(ctx: click.Context, files: tuple[Path, ...], profile: Path | None) -> int:
    """Show for each of FILES (FITS, or a header printed as text) which profile reads it, and who said each fact.

    Below stands what ingest would record of it, and what a profile should not leave so (CHECK). Exit 3 where a fact
    is MISSING.

    \b
    For example:
      spica camera explain 744123p.fits.fz
      spica camera explain --profile mycam.toml header.txt
    """
    from spica.instruments.facts import MissingFactError
    from spica.instruments.profile import read_profile
    from spica.instruments.translate import explain, translate

    registry, missing = _registry(ctx), 0
    for file in files:
        headers = _read(file)
        name = file.name.removesuffix(".gz").removesuffix(".header")
        instrument = read_profile(profile) if profile else registry.recognise(headers, name)
        say(f"{file.name} is read by the profile {instrument.name} ({instrument.title})")
        for fact in explain(instrument, headers, name):
            missing += fact.required and fact.value is None
            value = fact.value if fact.value is not None else "MISSING" if fact.required else "-"
            tried = " ".join(fact.candidates) or "the profile names no keyword"
            said = fact.who_said or (tried if fact.value is not None else f"looked for {tried}")
            say(f"  {fact.fact:<24} {value:<32} {said}")
        try:
            told = translate(instrument, headers, name)
        except MissingFactError as error:
            missing += 1
            say(f"ingest would reject it: {error}")
            continue
        for line in (*_recorded(told), *_doubts(told, headers)):
            say(line)
    return 3 if missing else 0


def _recorded(told: ExposureFacts) -> Iterator[str]:
    """Yield what ingest records of an exposure."""
    yield f"ingest would record: {told.frame_type} {told.object!r}, filter {told.filter}, {told.exptime_s:.6g} s"
    yield f"  night {told.night}, run {told.run}, from {_date(told.mjd_start)} UTC, middle {_date(told.mjd)}"
    if told.ra_deg is not None and told.dec_deg is not None:
        yield f"  pointing {told.ra_deg:.5f} {told.dec_deg:+.5f} degrees"
    for detector in told.detectors[:SHOWN_DETECTORS]:
        yield f"  {_detector(detector)}"
    if len(told.detectors) > SHOWN_DETECTORS:
        yield f"  and {len(told.detectors) - SHOWN_DETECTORS} more detectors"


def _date(mjd: float) -> str:
    from datetime import datetime, timedelta

    return (datetime(1858, 11, 17) + timedelta(seconds=round(mjd * 86400.0))).isoformat()


def _detector(d: DetectorFacts) -> str:
    """Return a line about a detector."""
    from spica.instruments.base import MAP_KINDS

    amplifiers = f"{len(d.amplifiers)} amplifiers" if d.amplifiers else ""
    overscans = sum(a.overscan_section is not None for a in d.amplifiers) + (d.overscan_section is not None)
    parts = (
        f"{d.name}: {d.shape[1]} x {d.shape[0]} pixels",
        "of unknown size" if d.pixel_scale_arcsec is None else f"of {d.pixel_scale_arcsec:.4g} arcsec",
        {"header_wcs": "by the header's WCS", "pointing": "by the pointing"}.get(d.position_source or "", "nowhere"),
        amplifiers,
        f"{overscans} overscans" if overscans else "",
        "cube: " + d.planes if d.planes else "",
        *(f"{kind} map" for kind in MAP_KINDS if any(m.kind == kind for m in d.maps)),
    )
    return ", ".join(part for part in parts if part)


def _doubts(told: ExposureFacts, headers: tuple[HeaderCards, ...]) -> Iterator[str]:
    """Yield what ingest would take, but a profile should say."""
    detectors = told.detectors
    if told.who_said.get("longitude") == "assumed 0":
        yield "  CHECK: no longitude: the night is that of Greenwich; put it under [observatory]"
    if len({d.name for d in detectors}) < len(detectors):
        yield "  CHECK: detectors of one name: are they amplifiers (detectors.amplifiers)? else name another keyword"
    unassembled = [d for d in detectors if any(a.target_section is None for a in d.amplifiers)]
    if unassembled:
        yield f"  CHECK: {unassembled[0].name} cannot be put together: an amplifier lacks its target_section"
    if any(d.planes == "refuse" and _n_planes(headers[d.hdu]) > 1 for d in detectors):
        yield "  CHECK: cubes are refused; say detectors.planes = first, mean or sum"
    for fact in ("gain_e_per_adu", "read_noise_e", "saturation_adu"):
        silent = [d for d in detectors if getattr(d, fact) is None]
        if silent:
            yield f"  CHECK: {silent[0].name} has no {fact.rpartition('_')[0].removesuffix('_e_per')}; see [detectors]"


def _n_planes(header: HeaderCards) -> int:
    from spica.files.scan import image_shape

    return prod((image_shape(header) or ())[:-2])


@camera_command.command("new")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="", help="Name of the camera; by default what INSTRUME says.")
def camera_new(file: Path, name: str) -> None:
    """Print a first profile for the camera that wrote FILE; MISSING marks what it cannot find, CHECK what is doubtful.

    \b
    For example:
      spica camera new night1/0001.fits > instruments/mycam.toml
      spica camera explain --profile instruments/mycam.toml night1/*.fits
    """
    from spica.instruments.hints import image_units
    from spica.instruments.registry import load_instruments
    from spica.instruments.starter import starter_profile

    headers = _read(file)
    if not image_units(headers):
        raise DataError(f"{file.name} holds no image; give a raw or detrended exposure of that camera")
    generic = load_instruments(None).get("generic")  # not the workspace's: `> instruments/...` has made an empty one
    click.echo(starter_profile(generic, headers, name), nl=False)

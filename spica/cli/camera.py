"""Cameras: list the profiles, show what one makes of a file, begin a new one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from spica.cli.door import print_json, say, workspace_of
from spica.model.errors import DataError, UsageError

if TYPE_CHECKING:
    from spica.files.header import HeaderCards
    from spica.instruments.registry import Registry


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

    \b
    For example:
      spica camera explain 744123p.fits.fz
      spica camera explain --profile mycam.toml header.txt
    """
    from spica.instruments.profile import read_profile
    from spica.instruments.translate import explain

    registry, missing = _registry(ctx), 0
    for file in files:
        headers = _read(file)
        name = file.name.removesuffix(".gz").removesuffix(".header")
        instrument = read_profile(profile) if profile else registry.recognise(headers, name)
        say(f"{file.name} is read by the profile {instrument.name} ({instrument.title})")
        for fact in explain(instrument, headers, name):
            missing += fact.required and fact.value is None
            value = fact.value if fact.value is not None else "MISSING" if fact.required else "-"
            say(f"  {fact.fact:<24} {value:<32} {fact.who_said or 'looked for ' + ' '.join(fact.candidates)}")
    return 3 if missing else 0


@camera_command.command("new")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", default="", help="Name of the camera; by default what INSTRUME says.")
@click.pass_context
def camera_new(ctx: click.Context, file: Path, name: str) -> None:
    """Print a first profile for the camera that wrote FILE; what it cannot find is marked MISSING.

    \b
    For example:
      spica camera new night1/0001.fits > instruments/mycam.toml
      spica camera explain night1/*.fits
    """
    from spica.instruments.starter import starter_profile

    click.echo(starter_profile(_registry(ctx).get("generic"), _read(file), name), nl=False)

"""Master calibrations: add, list, make, withdraw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spica.cli.door import format_options, open_survey, print_json, print_rows, say
from spica.cli.run import read_recipes, recipe_options
from spica.cli.wait import wait_for

if TYPE_CHECKING:
    from spica.db.calibration import Master
    from spica.scheduling.master import MastersPlanned

KINDS = ("bias", "dark", "flat", "fringe", "bad_pixels")
MADE = ("bias", "dark", "flat", "fringe")
COLUMNS = (
    ("id", "id"),
    ("kind", "kind"),
    ("instrument", "instrument"),
    ("filter", "filter"),
    ("run", "run"),
    ("first_night", "from"),
    ("last_night", "to"),
    ("exptime_s", "exp s"),
    ("n_inputs", "frames"),
    ("state", "state"),
    ("name", "name"),
)


@dataclass(frozen=True)
class MasterEntry:
    """A master as it is listed."""

    id: int
    kind: str
    instrument: str
    filter: str | None
    run: str | None
    first_night: str | None
    last_night: str | None
    mjd: float | None
    exptime_s: float | None
    n_inputs: int
    state: str
    name: str
    sha256: str


def _entry(master: Master) -> MasterEntry:
    v = master.validity
    return MasterEntry(
        master.id,
        master.kind.value,
        v.instrument,
        v.filter,
        v.run,
        v.first_night,
        v.last_night,
        master.mjd,
        master.exptime_s,
        master.n_inputs,
        "withdrawn" if master.withdrawn else "in use",
        master.file.name,
        master.file.sha256,
    )


@click.group("calibration")
def calibration_command() -> None:
    """Master calibrations: flats, darks, biases, fringe patterns, bad-pixel maps.

    An exposure gets the masters of its camera, run and filter that are nearest in time. They set its weight; with
    `--set quality.detrend=true` raw frames are corrected with them.
    """


@calibration_command.command("add")
@click.argument("files", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True)
@click.option("--kind", type=click.Choice(KINDS), required=True, help="What the masters correct.")
@click.option("--instrument", help="Camera they hold for; by default as the header says.")
@click.option("--filter", "filter_name", help="Filter they hold for; by default as the header says.")
@click.option("--run", help="Run they hold for; by default as the header says.")
@click.option("--any-run", is_flag=True, help="They hold for all runs.")
@click.option("--from", "first_night", metavar="NIGHT", help="First night they hold for, as 2026-11-21.")
@click.option("--to", "last_night", metavar="NIGHT", help="Last night they hold for.")
@click.pass_context
def calibration_add(
    ctx: click.Context,
    files: tuple[Path, ...],
    kind: str,
    instrument: str | None,
    filter_name: str | None,
    run: str | None,
    any_run: bool,
    first_night: str | None,
    last_night: str | None,
) -> None:
    """Register master FILES where they lie; they are read, never changed.

    \b
    For example:
      spica calibration add 11Bm04.flat.z.fits.fz --kind flat
      spica calibration add mask.fits --kind bad_pixels --instrument megaprime --any-run
    """
    from spica.db.person import audit
    from spica.model.calibration import MasterKind
    from spica.scheduling.given import Given, add_masters

    given = Given(MasterKind(kind), instrument, filter_name, run, any_run, first_night, last_night)
    with open_survey(ctx) as (workspace, database):
        for path, number in add_masters(database, workspace, files, given):
            with database.begin() as session:
                audit(session, None, "add calibration", f"calibration:{number}", kind)
            say(f"{path.name} is {kind} {number}")


@calibration_command.command("list")
@click.option("--all", "withdrawn", is_flag=True, help="Withdrawn ones too.")
@format_options
@click.pass_context
def calibration_list(ctx: click.Context, withdrawn: bool, as_json: bool, as_csv: bool) -> None:
    """List the masters."""
    from spica.db.calibration import list_masters

    with open_survey(ctx) as (_, database), database.read() as session:
        rows = [_entry(m) for m in list_masters(session, withdrawn=withdrawn)]
    empty = "no masters; add some with: spica calibration add FILE --kind flat, or make them of raw frames"
    print_rows(rows, COLUMNS, as_json, as_csv, empty)


@calibration_command.command("make")
@click.argument("kinds", type=click.Choice(MADE), nargs=-1)
@click.option("--instrument", help="Only frames of this camera.")
@click.option("--filter", "filter_name", help="Only frames of this filter (flats, fringes).")
@click.option("--run", help="Only frames of this run.")
@click.option("--night", metavar="NIGHT", help="Only frames of this night, as 2026-11-21.")
@click.option("--by-night", is_flag=True, help="One master a night; by default one a run.")
@click.option("--dry-run", is_flag=True, help="Show what would be combined; record nothing.")
@click.option("--wait", is_flag=True, help="Wait for the jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@recipe_options
@click.pass_context
def calibration_make(
    ctx: click.Context,
    kinds: tuple[str, ...],
    instrument: str | None,
    filter_name: str | None,
    run: str | None,
    night: str | None,
    by_night: bool,
    dry_run: bool,
    wait: bool,
    as_json: bool,
    recipe_name: str | None,
    settings: tuple[str, ...],
) -> int:
    """Combine raw calibration frames to masters of KINDS; by default bias, dark and flat, each after what it needs.

    \b
    For example:
      spica calibration make --dry-run
      spica calibration make flat --run 16AQ11 --filter r --wait
    """
    from spica.model.calibration import MasterKind
    from spica.scheduling.master import MasterWish, make_masters

    wanted = tuple(MasterKind(k) for k in kinds or ("bias", "dark", "flat"))
    wish = MasterWish(wanted, instrument, filter_name, run, night, by_night)
    with open_survey(ctx) as (workspace, database):
        recipe = read_recipes(workspace, recipe_name, settings)
        planned = make_masters(database, wish, recipe, dry_run=dry_run)
        if not as_json:
            _show(planned, dry_run, recipe.master.min_frames)
        failed = wait_for(workspace, database, planned.jobs, "masters") if wait else 0
        if as_json:
            print_json(
                {
                    "masters": [{"name": g.name, "kind": g.kind, "n_frames": len(g.frames)} for g in planned.groups],
                    "known": [g.name for g in planned.known],
                    "small": [{"name": g.name, "n_frames": len(g.frames)} for g in planned.small],
                    "jobs": planned.jobs,
                    "failed": failed,
                }
            )
        return 3 if failed else 0 if planned.groups or planned.known else 4


def _show(planned: MastersPlanned, dry_run: bool, least: int) -> None:
    verb = "would combine" if dry_run else "combines"
    for group in planned.groups:
        say(f"{group.name}: {verb} {len(group.frames)} frames")
    for group in planned.known:
        say(f"{group.name} is made of these {len(group.frames)} frames already; nothing is done twice")
    for group in planned.small:
        say(f"{group.name}: only {len(group.frames)} frames, {least} are needed; see --set master.min_frames=N")


@calibration_command.command("withdraw")
@click.argument("number", type=int)
@click.pass_context
def calibration_withdraw(ctx: click.Context, number: int) -> None:
    """Take master NUMBER out of use; its rows and file stay."""
    from spica.db.calibration import withdraw_master
    from spica.db.person import audit

    with open_survey(ctx) as (_, database), database.begin() as session:
        master = withdraw_master(session, number)
        audit(session, None, "withdraw calibration", f"calibration:{number}", master.kind.value)
        say(f"{master.file.name} ({master.kind.value}) is used no more")

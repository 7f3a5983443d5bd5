"""Verbs for a first look: simulate, demo, warm."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spica.cli.wait import progress_bar, wait_for

if TYPE_CHECKING:
    from spica.db.engine import Database
    from spica.files.workspace import Workspace
    from spica.model.recipe import Recipe
    from spica.scheduling.select import Scheduled
    from spica.steps.simulate import SurveyParameters, SurveyTruth


@click.command("simulate")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--objects", type=click.IntRange(1, 100), default=2, show_default=True, help="Fields.")
@click.option("--filters", default="g,r", show_default=True, help="Filters, by commas.")
@click.option(
    "--exposures", type=click.IntRange(1, 1000), default=6, show_default=True, help="Of each field and filter."
)
@click.option(
    "--detector", type=click.IntRange(64, 16384), default=512, show_default=True, help="Side of a detector, pixels."
)
@click.option("--grid", type=click.IntRange(1, 16), default=2, show_default=True, help="Detectors along a side.")
@click.option("--stars", type=float, default=15.0, show_default=True, help="Stars an arcmin².")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same bytes.")
@click.option("--clean", is_flag=True, help="No cloudy, defocused, trailed, truncated or headerless exposure.")
def simulate_command(
    folder: Path,
    objects: int,
    filters: str,
    exposures: int,
    detector: int,
    grid: int,
    stars: float,
    seed: int,
    clean: bool,
) -> None:
    """Write exposures of a simulated camera to FOLDER, with their truth and a reference catalogue in FOLDER/truth."""
    from spica.steps.simulate import SurveyParameters, simulate_survey

    bad = 0 if clean else 1
    parameters = SurveyParameters(
        n_objects=objects,
        filters=tuple(f.strip() for f in filters.split(",")),
        n_exposures=exposures,
        n_x=grid,
        n_y=grid,
        detector_pix=(detector, detector),
        stars_per_arcmin2=stars,
        seed=seed,
        n_cloudy=bad,
        n_defocused=bad,
        n_trailed=bad,
        n_truncated=bad,
        n_missing_keyword=bad,
    )
    with progress_bar("simulate") as advance:
        truth = simulate_survey(folder, parameters, progress=advance)
    click.echo(f"{len(truth.exposures)} exposures in {folder}; reference: spica reference add {truth.reference_path}")


@click.command("warm")
def warm_command() -> None:
    """Compile the numeric kernels once, so that the first exposure does not wait for it."""
    from spica.files.workspace import kernel_cache

    os.environ["NUMBA_CACHE_DIR"] = str(kernel_cache(Path("cache").absolute()))
    from spica.steps.warm import warm_kernels

    started = time.monotonic()
    warm_kernels()
    click.echo(f"kernels compiled in {time.monotonic() - started:.1f} s")


@click.command("demo")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"))
@click.option("--headless", is_flag=True, help="End after the table instead of serving the web page.")
@click.option("--quick", is_flag=True, help="One field, one filter, four exposures.")
@click.option("--objects", type=click.IntRange(1, 20), help="Fields.  [default: 2; with --quick 1]")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the simulation.")
@click.option("--port", type=int, help="Port of the web page.")
@click.pass_context
def demo_command(
    ctx: click.Context, folder: Path, headless: bool, quick: bool, objects: int | None, seed: int, port: int | None
) -> int:
    """Simulate a survey, run everything on it, and open the web page.

    With --quick the survey is small, yet has every step, mode and mishap.
    """
    from spica.db.engine import open_database
    from spica.db.schema import migrate

    started = time.monotonic()
    workspace, truth = _prepare(folder, _parameters(quick, objects, seed))
    database = open_database(workspace, check_schema=False)
    try:
        migrate(database)
        failed = _run_survey(workspace, database, truth)
        _print_table(workspace, database, truth)
        click.echo(f"done in {time.monotonic() - started:.0f} s; workspace {workspace.folder}")
    finally:
        database.close()
    if headless or os.environ.get("HEADLESS") == "1":
        return 3 if failed else 0
    ctx.find_root().obj = workspace.folder
    from spica.cli.run import web_command

    code: int = ctx.invoke(web_command, host=None, port=port)
    return code


def _parameters(quick: bool, objects: int | None, seed: int) -> SurveyParameters:
    """Return what the demo simulates: the default survey of two fields, or the smallest that has all its mishaps."""
    from spica.steps.simulate import SurveyParameters

    if not quick:
        return SurveyParameters(n_objects=objects or 2, seed=seed)
    return SurveyParameters(n_objects=objects or 1, filters=("r",), n_exposures=4, seed=seed)


def _prepare(folder: Path, parameters: SurveyParameters) -> tuple[Workspace, SurveyTruth]:
    """Make a fresh workspace and a simulated survey in its incoming folder."""
    from spica.files.workspace import init_workspace
    from spica.model.errors import ConflictError
    from spica.reference.store import ReferenceStore
    from spica.steps.simulate import simulate_survey

    if folder.exists() and any(folder.iterdir()):
        if not (folder / "demo.txt").is_file():
            raise ConflictError(f"{folder} holds files that are no demo; name another folder")
        shutil.rmtree(folder)
    workspace = init_workspace(folder)
    (workspace.folder / "demo.txt").write_text("made by spica demo; removed by the next one\n", encoding="utf-8")
    with progress_bar("simulate a survey") as advance:
        truth = simulate_survey(
            workspace.roots["incoming"],
            parameters,
            truth_folder=workspace.folder / "truth",
            progress=advance,
        )
    ReferenceStore(workspace.reference_folder).add(truth.reference_path, "gaia-like")
    return workspace, truth


def _run_survey(workspace: Workspace, database: Database, truth: SurveyTruth) -> int:
    """Ingest everything; then survey, area and single mode; return how many jobs failed."""
    from spica.model.recipe import read_recipe
    from spica.scheduling.intake import take_in

    recipe = read_recipe([], [])
    with progress_bar("read incoming files") as advance:
        report = take_in(database, workspace, [workspace.roots["incoming"]], recipe, advance)
    failed = wait_for(workspace, database, report.jobs, "verify and assess")
    first = next(e.plan for e in truth.exposures if e.plan.defocus_arcsec == 0)  # one out of focus is refused
    plans = _schedule_all(database, workspace, recipe, first.ra_deg, first.dec_deg, first.filter_name, first.name)
    jobs = [j for p in plans for j in p.jobs]
    return failed + wait_for(workspace, database, jobs, "solve, stack, judge, deliver")


def _schedule_all(
    database: Database, workspace: Workspace, recipe: Recipe, ra: float, dec: float, filter_name: str, name: str
) -> list[Scheduled]:
    """Plan survey mode, area mode on a small circle, and single mode on one exposure."""
    from spica.model.association import Circle, Mode
    from spica.scheduling.select import schedule
    from spica.scheduling.wish import Wish

    wishes = (
        Wish(Mode.SURVEY),
        Wish(Mode.AREA, filter=filter_name, circle=Circle(ra, dec, 0.015)),
        Wish(Mode.SINGLE, targets=frozenset({name})),
    )
    done = []
    for wish in wishes:
        plan = schedule(database, workspace, wish, recipe)
        for line in plan.lines(dry_run=False):
            click.echo(line)
        done.append(plan)
    return done


def _print_table(workspace: Workspace, database: Database, truth: SurveyTruth) -> None:
    """Print each stack with measured against true seeing, zero point, position error and depth."""
    from rich.console import Console
    from rich.table import Table

    from spica.scheduling.truth import Comparison

    table = Table(title="stacks against the truth of the simulation", header_style="bold")
    columns = ("stack", "n", "stars", 'seeing " / true', "zero point off (mmag)", "mag rms (mmag)")
    for heading in (*columns, "position rms (mas)", "5 sigma depth / true"):
        table.add_column(heading, justify="left" if heading == "stack" else "right")
    rows: list[Comparison] = compare_all(workspace, database, truth)
    for c in rows:
        table.add_row(
            c.name,
            str(c.n_inputs),
            str(c.n_stars),
            f"{c.seeing_arcsec:.3f} / {c.true_seeing_arcsec:.3f}",
            f"{1000 * c.zero_point_offset_mag:+.1f}",
            f"{1000 * c.mag_rms:.1f}",
            f"{c.position_rms_mas:.1f}",
            f"{c.limiting_mag:.2f} / {c.true_limiting_mag:.2f}",
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    if not rows:
        sys.stderr.write("no stack was made; see spica jobs\n")


def compare_all(workspace: Workspace, database: Database, truth: SurveyTruth) -> list[Any]:
    """Return the comparison of every stack that was made from simulated exposures."""
    from sqlalchemy import select

    from spica.db.overview import list_stacks
    from spica.db.tables.image import ImageRow
    from spica.db.tables.product import StackInputRow
    from spica.scheduling.truth import compare_stack

    rows = []
    with database.read() as session:
        for stack in list_stacks(session, workspace):
            given = session.execute(
                select(ImageRow.name, StackInputRow.weight_fraction, StackInputRow.flux_scale)
                .join(StackInputRow, StackInputRow.image_id == ImageRow.id)
                .where(StackInputRow.stack_id == stack.id, StackInputRow.weight_fraction > 0)
            )
            inputs = {n: (float(w or 0.0), float(f or 1.0)) for n, w, f in given}
            if stack.kind == "stack" and stack.catalogue_path and inputs:
                path = Path(stack.catalogue_path)
                rows.append(compare_stack(stack.name, path, truth, inputs, stack.seeing_arcsec, stack.limiting_mag))
    return rows

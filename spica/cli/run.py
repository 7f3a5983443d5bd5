"""Verbs that set work going: ingest, schedule, daemon, web."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spica.cli.door import open_survey, plain, print_json, say, workspace_of
from spica.cli.wait import progress_bar, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spica.db.engine import Database
    from spica.files.workspace import Workspace
    from spica.model.overview import ImageEntry
    from spica.model.recipe import Recipe
    from spica.scheduling.intake import IntakeReport
    from spica.scheduling.select import Scheduled

KNOWN_LINES = 20
RECIPE_OPTIONS = (
    click.option("--recipe", "recipe_name", help="Name of a recipe of the workspace, or a TOML file."),
    click.option(
        "--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Set one parameter; repeatable."
    ),
)


def recipe_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add `--recipe` and `--set`."""
    for option in RECIPE_OPTIONS:
        command = option(command)
    return command


def read_recipes(workspace: Workspace, name: str | None, settings: tuple[str, ...]) -> Recipe:
    """Layer the workspace's `default.toml`, the named recipe and the settings over the shipped defaults."""
    from spica.model.recipe import read_recipe

    layers = []
    default = workspace.recipes_folder / "default.toml"
    if default.is_file():
        layers.append(default)
    if name is not None:
        path = Path(name)
        layers.append(path if path.suffix == ".toml" else workspace.recipes_folder / f"{name}.toml")
    return read_recipe(layers, list(settings))


@click.command("ingest")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1)
@click.option("--wait", is_flag=True, help="Wait until every file has ended in a recorded outcome.")
@click.option("--watch", is_flag=True, help="Go on looking for new files until Ctrl-C.")
@click.option("--strict", is_flag=True, help="Exit 3 where a file was rejected.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@recipe_options
@click.pass_context
def ingest_command(
    ctx: click.Context,
    paths: tuple[Path, ...],
    wait: bool,
    watch: bool,
    strict: bool,
    as_json: bool,
    recipe_name: str | None,
    settings: tuple[str, ...],
) -> int:
    """Take in files and folders: verify, register and assess every exposure. By default the incoming folder.

    \b
    For example:
      spica ingest --wait
      spica ingest /data/tonight --watch
    """
    from spica.scheduling.intake import take_in

    with open_survey(ctx) as (workspace, database):
        recipe = read_recipes(workspace, recipe_name, settings)
        wanted = paths or (workspace.roots["incoming"],)
        if watch:
            return _watch(workspace, database, wanted, recipe)
        with progress_bar("read incoming files") as advance:
            report = take_in(database, workspace, wanted, recipe, advance)
        failed = wait_for(workspace, database, report.jobs, "verify and assess") if wait else 0
        return _end_ingest(workspace, database, report, wait, failed, strict, as_json)


def _watch(workspace: Workspace, database: Database, paths: tuple[Path, ...], recipe: Recipe) -> int:
    """Watch until Ctrl-C (or SIGTERM); a line a batch, and a closing line of counts."""
    from spica.scheduling.watch import watch_folders

    counts = {"new": 0, "known": 0, "unreadable": 0, "jobs": 0}

    def hear(report: IntakeReport) -> None:
        for noun in counts:
            counts[noun] += len(getattr(report, noun))
        if report.new:
            click.echo(f"{len(report.new)} new files in plan {report.plan_id}, jobs {len(report.jobs)}")
        _say_known(report)
        _say_refused(report)
        _say_late(report)
        _say_unreadable(report)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    click.echo(plain(f"watching {', '.join(map(str, paths))}; Ctrl-C ends it"))
    with contextlib.suppress(KeyboardInterrupt):
        watch_folders(database, workspace, paths, recipe, hear, say)
    click.echo(
        f"watch ended: {counts['new']} new files in {counts['jobs']} jobs, {counts['known']} known already, "
        f"{counts['unreadable']} not read"
    )
    return 0


def _say_known(report: IntakeReport) -> None:
    """Say which content came under another name than before."""
    for path, name in list(report.known_as.items())[:KNOWN_LINES]:
        click.echo(plain(f"  {path.name} is known as {name}"))
    if len(report.known_as) > KNOWN_LINES:
        click.echo(f"  and {len(report.known_as) - KNOWN_LINES} more are known by other names")


def _counts(report: IntakeReport) -> str:
    """Return how many files were new, known, and maps of the new."""
    maps = len(report.maps)
    going = ", 1 map goes with its image" if maps == 1 else f", {maps} maps go with their images" if maps else ""
    return f"{len(report.new)} new files, {len(report.known)} known already{going}"


def _say_refused(report: IntakeReport) -> None:
    """Say how many known files were rejected when they came, and what to do."""
    if report.refused:
        n = len(report.refused)
        click.echo(
            f"  {n} of them {'was' if n == 1 else 'were'} rejected before; to judge again: "
            "spica reassess --rejected --wait"
        )


def _say_rejected(rejected: Sequence[ImageEntry]) -> None:
    """Say a line for each rejected file, then once each the lines that a profile lacks, and how to go on."""
    lacking: dict[str, None] = {}
    for image in rejected:
        texts = []
        for reason in image.reason:
            line, _, lines = reason.text.partition("\n")
            texts.append(line.removesuffix(", for example:"))
            lacking |= {lines: None} if lines else {}
        say(f"  {image.name}: {'; '.join(texts)}")
    for lines in lacking:
        say("lines for the profile, for example:\n" + "\n".join(f"    {line}" for line in lines.split("\n")))
    if rejected:
        say("once the cause is mended: spica reassess --rejected --wait")


def _say_late(report: IntakeReport) -> None:
    """Say which maps came without their image and stay files of their own."""
    for path, image in report.late[:KNOWN_LINES]:
        click.echo(plain(f"  {path.name} is a map of {image.name}, which did not come with it; it stays a file"))
    if len(report.late) > KNOWN_LINES:
        click.echo(f"  and {len(report.late) - KNOWN_LINES} more maps came without their images")


def _say_unreadable(report: IntakeReport) -> None:
    """Say on standard error which files could not be read, and what to do."""
    from spica.scheduling.intake import shown_path

    for path, why in report.unreadable:
        sys.stderr.write(f"spica: {shown_path(path)} {why}\n")


def _end_ingest(
    workspace: Workspace,
    database: Database,
    report: IntakeReport,
    waited: bool,
    failed: int,
    strict: bool,
    as_json: bool,
) -> int:
    """Say what became of the files and choose the exit code."""
    from spica.db.overview import list_images
    from spica.db.tables.image import ImageRow

    images = []
    if waited and report.plan_id is not None:
        with database.read() as session:
            images = list_images(session, workspace, [ImageRow.plan_id == report.plan_id])
    rejected = [i for i in images if i.state == "rejected"]
    if as_json:
        print_json(
            {
                "plan": report.plan_id,
                "jobs": report.jobs,
                "known": len(report.known),
                "known_as": {str(path): name for path, name in report.known_as.items()},
                "maps": len(report.maps),
                "images": images,
                "failed": failed,
            }
        )
    else:
        click.echo(_counts(report))
        _say_known(report)
        _say_refused(report)
        _say_late(report)
        if waited:
            click.echo(f"{len(images) - len(rejected)} exposures registered, {len(rejected)} rejected")
        _say_rejected(rejected)
    _say_unreadable(report)
    if report.unreadable:
        return 5
    return 3 if failed or (strict and rejected) else 0 if report.new or report.known else 4


@click.command("schedule")
@click.argument("mode", type=click.Choice(["single", "survey", "area"]))
@click.option("--rule", help="Selection rule, or @NAME of a saved one; by default: grade in (A, B, C).")
@click.option("--object", "object_name", help="Only this object.")
@click.option("--filter", "filter_name", help="Only this filter.")
@click.option("--ra", type=float, help="Centre of the circle, degrees (area).")
@click.option("--dec", type=float, help="Centre of the circle, degrees (area).")
@click.option("--radius", type=float, help="Radius of the circle, degrees (area).")
@click.option(
    "--images", "images_file", type=click.Path(path_type=Path, dir_okay=False), help="File of image names, one a line."
)
@click.option("--dry-run", is_flag=True, help="Show what is in and what is out with the clause; record nothing.")
@click.option("--wait", is_flag=True, help="Wait for the jobs.")
@click.option("--strict", is_flag=True, help="Exit 3 where a candidate was left out by the steps.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@recipe_options
@click.pass_context
def schedule_command(ctx: click.Context, /, wait: bool, dry_run: bool, as_json: bool, **words: Any) -> int:
    """Choose exposures by rule, group them by MODE, and plan what solves, stacks, judges and delivers them.

    \b
    For example:
      spica schedule survey --rule 'seeing < 1.0 and grade in (A, B)' --dry-run
      spica schedule area --ra 36.5 --dec -4.5 --radius 0.2 --filter r --wait
      spica schedule single --images wanted.txt --set stack.combine=median
      spica schedule survey --rule '@good seeing' --dry-run
      spica schedule survey --rule '@good seeing:2'

    @NAME is the newest version of a rule saved on the page Rules, @NAME:2 its second; the plan keeps which.
    """
    from spica.scheduling.select import schedule
    from spica.scheduling.wish import wish_of

    with open_survey(ctx) as (workspace, database):
        name, settings = words.pop("recipe_name"), words.pop("settings")
        strict = bool(words.pop("strict"))
        recipe = read_recipes(workspace, name, settings)
        words["rule"], version_id = _saved_rule(database, words["rule"])
        wish = replace(wish_of(**words, aliases=workspace.object_aliases), rule_version_id=version_id)
        done = schedule(database, workspace, wish, recipe, dry_run=dry_run)
        if not as_json or dry_run:
            _show_schedule(done, as_json, dry_run)
        failed = wait_for(workspace, database, done.jobs, f"{wish.mode.value} mode") if wait else 0
        if as_json and not dry_run:
            print_json({**done.summary(), "failed": failed})
        return 3 if failed or (strict and done.left_out) else 0 if done.plans or done.known or dry_run else 4


def _saved_rule(database: Database, rule: str | None) -> tuple[str | None, int | None]:
    """Return the text of a rule, and of which saved version: of `@NAME` that version's, else the rule itself."""
    if rule is None or not rule.strip().startswith("@"):
        return rule, None
    from spica.db.rule import find_rule

    with database.read() as session:
        version = find_rule(session, rule.strip()[1:])
    return version.text, version.id


def _show_schedule(done: Scheduled, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json(done.summary())
        return
    for line in done.lines(dry_run):
        say(line)


@click.command("daemon", context_settings={"ignore_unknown_options": True})
@click.option("--drain", is_flag=True, help="End when no job is left.")
@click.option("--slots", type=int, help="Jobs at once; by default of spica.toml.")
@click.option("--executor", type=click.Choice(["local"]), default="local", show_default=True, help="How jobs are run.")
@click.option("--node", help="Name of this node; by default of spica.toml.")
@click.option("--data", type=click.Path(path_type=Path), help="Data root of this node; by default of spica.toml.")
@click.option("--serve", help="HOST:PORT where other nodes fetch files, or off; by default loopback, any port.")
@click.option("--address", help="HOST:PORT under which other nodes reach that service.")
@click.pass_context
def daemon_command(
    ctx: click.Context,
    drain: bool,
    slots: int | None,
    executor: str,
    node: str | None,
    data: Path | None,
    serve: str | None,
    address: str | None,
) -> int:
    """Run the jobs of this workspace on this node until stopped."""
    workspace = workspace_of(ctx)
    words = ["--workspace", str(workspace.folder), "--executor", executor]
    words += ["--drain"] if drain else []
    words += ["--slots", str(slots)] if slots is not None else []
    words += ["--node", node] if node else []
    words += ["--data", str(data)] if data else []
    words += ["--serve", serve] if serve else []
    words += ["--address", address] if address else []
    return _become("spica_daemon", words)


@click.command("web")
@click.option("--host", help="Address to listen on; beyond loopback only once a person with a password exists.")
@click.option("--port", type=int, help="Port; by default of spica.toml.")
@click.pass_context
def web_command(ctx: click.Context, host: str | None, port: int | None) -> int:
    """Serve the web pages; prints the address with a one-time token."""
    words = ["--workspace", str(workspace_of(ctx).folder)]
    words += ["--host", host] if host else []
    words += ["--port", str(port)] if port is not None else []
    return _become("spica_web", words)


def _become(module: str, words: list[str]) -> int:
    """Run another door as a process; Ctrl-C reaches it too."""
    process = subprocess.Popen([sys.executable, "-m", module, *words], env=dict(os.environ))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue

"""Verbs that list: status, images, stacks, jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from spica.cli.door import format_options, open_survey, print_json, print_rows

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

IMAGE_COLUMNS = (
    ("id", "id"),
    ("name", "name"),
    ("object", "object"),
    ("filter", "filter"),
    ("night", "night"),
    ("exptime_s", "exp s"),
    ("seeing_arcsec", 'seeing "'),
    ("ellipticity", "ell"),
    ("limiting_mag", "limit mag"),
    ("skyprobe_mag", "skyprobe"),
    ("grade", "grade"),
    ("state", "state"),
    ("reason", "reason"),
)
STACK_COLUMNS = (
    ("id", "id"),
    ("name", "name"),
    ("mode", "mode"),
    ("filter", "filter"),
    ("n_inputs", "n"),
    ("exptime_s", "exp s"),
    ("seeing_arcsec", 'seeing "'),
    ("limiting_mag", "limit mag"),
    ("zero_point_mag", "zp mag"),
    ("grade", "grade"),
    ("state", "state"),
    ("stale", "stale"),
)
JOB_COLUMNS = (
    ("id", "id"),
    ("kind", "kind"),
    ("state", "state"),
    ("attempts", "tries"),
    ("node", "node"),
    ("seconds", "s"),
    ("label", "what"),
    ("error", "error"),
)


def _rule_condition(rule: str | None) -> list[ColumnElement[bool]]:
    if rule is None:
        return []
    from spica.db.selection import compile_rule
    from spica.model.selection import parse_rule

    return [compile_rule(parse_rule(rule))]


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Say how the survey stands: images, stacks and jobs by state, nodes alive."""
    from spica.db.overview import count_states, list_nodes

    with open_survey(ctx) as (workspace, database), database.read() as session:
        counts = count_states(session)
        nodes = [n.name for n in list_nodes(session) if n.alive]
    if as_json:
        print_json({"survey": workspace.survey, "workspace": str(workspace.folder), "nodes_alive": nodes, **counts})
        return
    click.echo(f"{workspace.survey} at {workspace.folder}")
    for noun, states in counts.items():
        words = "  ".join(f"{state} {n}" for state, n in sorted(states.items())) or "none"
        click.echo(f"{noun:<11} {words}")
    click.echo(f"{'nodes alive':<11} {' '.join(nodes) or 'none; start one with: spica daemon'}")


@click.command("images")
@click.option("--rule", help="Only images for which this rule is true.")
@click.option(
    "--kind",
    type=click.Choice(["exposure", "stack", "calibrated", "all"]),
    default="exposure",
    show_default=True,
    help="What to list.",
)
@format_options
@click.pass_context
def images_command(ctx: click.Context, rule: str | None, kind: str, as_json: bool, as_csv: bool) -> None:
    """List exposures with their measures, grade, state and reasons.

    \b
    For example:
      spica images --rule 'filter = "r" and seeing < 0.8' --json
    """
    from spica.db.overview import list_images
    from spica.model.image import ImageKind

    with open_survey(ctx) as (workspace, database), database.read() as session:
        wanted = None if kind == "all" else ImageKind(kind)
        rows = list_images(session, workspace, _rule_condition(rule), kind=wanted)
    print_rows(rows, IMAGE_COLUMNS, as_json, as_csv, "no images; take some in with: spica ingest PATH --wait")


@click.command("stacks")
@click.option("--rule", help="Only stacks for which this rule is true.")
@format_options
@click.pass_context
def stacks_command(ctx: click.Context, rule: str | None, as_json: bool, as_csv: bool) -> None:
    """List stacks and calibrated copies."""
    from spica.db.overview import list_stacks

    with open_survey(ctx) as (workspace, database), database.read() as session:
        rows = list_stacks(session, workspace, _rule_condition(rule))
    print_rows(rows, STACK_COLUMNS, as_json, as_csv, "no stacks; plan one with: spica schedule survey --wait")


@click.command("jobs")
@click.option("--state", help="Only jobs in this state.")
@click.option("--plan", type=int, help="Only jobs of this plan.")
@format_options
@click.pass_context
def jobs_command(ctx: click.Context, state: str | None, plan: int | None, as_json: bool, as_csv: bool) -> None:
    """List jobs with their last attempt."""
    from spica.db.overview import list_jobs
    from spica.db.tables.job import JobRow
    from spica.model.errors import UsageError
    from spica.model.job import JobState

    where: list[Any] = [] if plan is None else [JobRow.plan_id == plan]
    if state is not None:
        if state.upper() not in JobState.__members__:
            raise UsageError(f"no job state is called {state!r}; one of {' '.join(JobState)}")
        where.append(JobRow.state == JobState(state.upper()))
    with open_survey(ctx) as (workspace, database), database.read() as session:
        rows = list_jobs(session, workspace, where)
    print_rows(rows, JOB_COLUMNS, as_json, as_csv, "no jobs; spica ingest and spica schedule make some")

"""Verbs that explain: why, log, report, reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spica.cli.door import open_survey, print_json, say
from spica.model.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from spica.db.tables.image import ImageRow


def need_image(session: Session, name: str) -> ImageRow:
    """Return an image by name or id; a usage error names the nearest."""
    from spica.db.image import find_image, near_names

    row = find_image(session, name)
    if row is None:
        near = near_names(session, name)
        cure = f"near: {' '.join(near)}" if near else "see spica images and spica stacks"
        raise UsageError(f"no image is called {name!r}; {cure}")
    return row


@click.command("why")
@click.argument("image")
@click.argument("stack", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, and nothing else.")
@click.pass_context
def why_command(ctx: click.Context, image: str, stack: str | None, as_json: bool) -> None:
    """Say why IMAGE is, or is not, in STACK; without STACK for every stack it was a candidate of.

    \b
    For example:
      spica why 744123p D1_r
    """
    from spica.scheduling.why import why_image

    with open_survey(ctx) as (_, database), database.read() as session:
        row = need_image(session, image)
        wanted = need_image(session, stack).id if stack else None
        answers = why_image(session, row.id, wanted)
    if as_json:
        print_json(answers)
        return
    if not answers:
        state = row.state.value
        click.echo(f"{row.name} ({state}) was no candidate of {stack or 'any stack'}; see spica images")
    for a in answers:
        say(a.sentence)


@click.command("log")
@click.argument("job", type=int)
@click.option("--attempt", type=int, help="Attempt; by default the last.")
@click.pass_context
def log_command(ctx: click.Context, job: int, attempt: int | None) -> None:
    """Print the log of JOB."""
    from spica.db.file import read_content
    from spica.db.job import attempts_of_job, need_job
    from spica.files.jobfolder import attempt_folder

    with open_survey(ctx) as (workspace, database), database.read() as session:
        need_job(session, job)
        attempts = attempts_of_job(session, job)
        chosen = [a for a in attempts if attempt in (None, a.number)]
        if not chosen:
            raise UsageError(f"job {job} has {len(attempts)} attempts; see spica jobs")
        last = chosen[-1]
        path = attempt_folder(workspace.roots["jobs"], job, last.number) / "log.txt"
        content = read_content(session, last.log_file_id) if last.log_file_id else None
        if path.is_file():
            sys.stdout.write(path.read_text(encoding="utf-8", errors="replace"))
        elif content is not None:
            sys.stdout.write(content.content.decode("utf-8", "replace"))
        else:
            sys.stdout.write(f"{last.log_tail or ''}\n")


@click.command("report")
@click.argument("what")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write HTML here instead.")
@click.pass_context
def report_command(ctx: click.Context, what: str, as_json: bool, output: Path | None) -> None:
    """Report on a plan (its number) or a night (YYYY-MM-DD): what was chosen, left out and why, and made."""
    from spica.scheduling.report import night_report, plan_report, report_html, report_lines

    with open_survey(ctx) as (workspace, database), database.read() as session:
        if what.isdigit():
            report = plan_report(session, workspace, int(what))
        else:
            report = night_report(session, workspace, what)
    if as_json:
        print_json(report)
    elif output is not None:
        output.write_text(report_html(report), encoding="utf-8")
        click.echo(f"written to {output}")
    else:
        for line in report_lines(report):
            say(line)


@click.command("reproduce")
@click.argument("manifest", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@click.pass_context
def reproduce_command(ctx: click.Context, manifest: Path, as_json: bool) -> int:
    """Check what a delivered MANIFEST rests on: files whole, inputs at hand, versions the same."""
    from spica.scheduling.reproduce import check_manifest

    with open_survey(ctx) as (_, database), database.read() as session:
        checks = check_manifest(session, manifest)
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            click.echo(f"{'ok     ' if check.holds else 'CHANGED'} {check.text}")
    return 0 if all(c.holds for c in checks) else 3

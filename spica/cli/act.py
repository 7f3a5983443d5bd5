"""Verbs by which a person decides: grade, regrade, retry, hold, unhold, cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from spica.cli.door import open_survey, say
from spica.cli.run import read_recipes, recipe_options

if TYPE_CHECKING:
    pass


@click.command("grade")
@click.argument("image", required=False)
@click.argument("letter", type=click.Choice(["A", "B", "C", "D"], case_sensitive=False), required=False)
@click.option("--comment", help="What you saw.")
@click.option("--explain", is_flag=True, help="Print the history and the machine's reasons.")
@click.option(
    "--counts",
    type=click.Choice(["latest", "worst"]),
    help="For the whole survey: which of several people's grades counts, the latest or the worst.",
)
@click.pass_context
def grade_command(
    ctx: click.Context, image: str | None, letter: str | None, comment: str | None, explain: bool, counts: str | None
) -> None:
    """Give IMAGE (name or id) a grade A, B, C or D; history is kept.

    \b
    For example:
      spica grade 744123p C --comment 'guiding lost'
      spica grade 744123p --explain
      spica grade --counts worst                    one grader who saw a fault is enough
    """
    from spica.cli.explain import need_image
    from spica.db.grade import add_grade, grade_history
    from spica.db.person import audit
    from spica.model.errors import UsageError
    from spica.model.grade import Grade, GradeSource

    if counts is not None and (image is not None or comment is not None or explain):
        raise UsageError("--counts is about the whole survey; give it alone")
    if counts is not None:
        _set_counting(ctx, counts)
        return
    if image is None or (letter is None and not explain):
        raise UsageError("no grade given; say IMAGE and A, B, C or D, or --explain")
    with open_survey(ctx) as (_, database):
        if letter is not None:
            with database.begin() as session:
                row = need_image(session, image)
                add_grade(session, row.id, GradeSource.HUMAN, Grade(letter.upper()), comment=comment)
                audit(session, None, "grade", f"image:{row.id}", f"{letter.upper()} {comment or ''}".strip())
                click.echo(f"{row.name} has grade {letter.upper()}")
        if explain:
            with database.read() as session:
                for grade, reasons in grade_history(session, need_image(session, image).id):
                    taken = " (taken back)" if grade.withdrawn_at else ""
                    said = f": {grade.comment}" if grade.comment else ""
                    say(f"{grade.created_at:%Y-%m-%d %H:%M} {grade.source.value} {grade.grade.value}{said}{taken}")
                    for reason in reasons:
                        say(f"    {reason.text}")


def _set_counting(ctx: click.Context, word: str) -> None:
    """Change which of several people's grades counts."""
    from spica.db.grade import Counting, set_counting

    with open_survey(ctx) as (_, database), database.begin() as session:
        changed = set_counting(session, Counting(word), None)
    click.echo(f"the {word} grade of several people counts; {changed} images changed grade")


@click.command("regrade")
@click.option("--rule", help="Only images for which this rule is true; by default all that were assessed.")
@click.pass_context
def regrade_command(ctx: click.Context, rule: str | None) -> None:
    """Let the machine grade again by today's limits; human grades stand."""
    from spica.db.person import audit
    from spica.scheduling.regrade import regrade

    with open_survey(ctx) as (workspace, database), database.begin() as session:
        changed, total = regrade(session, workspace, rule)
        audit(session, None, "regrade", "survey:all", f"{changed} of {total} changed; {rule or 'no rule'}")
    click.echo(f"{total} images judged again, {changed} machine grades changed")


def _on_jobs(
    ctx: click.Context, jobs: tuple[int, ...], words: tuple[str, str], why: str | None, act: Callable[..., Any]
) -> None:
    """Do something to jobs; `words`: the verb of the record, and how it is told."""
    from spica.db.person import audit

    verb, told = words

    with open_survey(ctx) as (_, database):
        for job in jobs:
            with database.begin() as session:
                answer = act(session, job, why=why)
                audit(session, None, verb, f"job:{job}", why)
            reached = f" {answer}" if answer is not None and not isinstance(answer, list) else ""
            more = (
                f", with {len(answer) - 1} that waited for it" if isinstance(answer, list) and len(answer) > 1 else ""
            )
            click.echo(f"job {job}: {told}{reached}{more}")


@click.command("reassess")
@click.argument("images", nargs=-1)
@click.option("--rule", help="Only exposures for which this rule is true.")
@click.option("--rejected", is_flag=True, help="Only exposures that were rejected or failed.")
@click.option("--wait", is_flag=True, help="Wait for the jobs.")
@recipe_options
@click.pass_context
def reassess_command(
    ctx: click.Context,
    images: tuple[str, ...],
    rule: str | None,
    rejected: bool,
    wait: bool,
    recipe_name: str | None,
    settings: tuple[str, ...],
) -> int:
    """Assess known IMAGES (names or ids) again, by today's profiles, masters and recipe; history is kept.

    \b
    For example:
      spica reassess --rejected --wait              after a camera's profile was added
      spica reassess --rule 'run = "16AQ11"' --set quality.detrend=true
    """
    from spica.cli.wait import wait_for
    from spica.scheduling.reassess import AgainWish, reassess

    with open_survey(ctx) as (workspace, database):
        recipe = read_recipes(workspace, recipe_name, settings)
        done = reassess(database, workspace, AgainWish(images, rule, rejected), recipe)
        if done.waiting:
            say(f"{len(done.waiting)} exposures wait in a job already")
        if done.jobs:
            say(f"plan {done.plan_id} assesses {len(done.names)} exposures again in {len(done.jobs)} jobs")
        failed = wait_for(workspace, database, done.jobs, "assess again") if wait else 0
    return 3 if failed else 0


@click.command("retry")
@click.argument("jobs", type=int, nargs=-1, required=True)
@click.option("--why", help="Kept in the job's history.")
@click.pass_context
def retry_command(ctx: click.Context, jobs: tuple[int, ...], why: str | None) -> None:
    """Submit failed, cancelled or pruned JOBS again, and with each all that was pruned because of it."""
    from spica.db.job import resubmit

    _on_jobs(ctx, jobs, ("retry", "resubmitted"), why, resubmit)


@click.command("hold")
@click.argument("jobs", type=int, nargs=-1, required=True)
@click.option("--why", help="Kept in the job's history.")
@click.pass_context
def hold_command(ctx: click.Context, jobs: tuple[int, ...], why: str | None) -> None:
    """Hold waiting JOBS back until `spica unhold`."""
    from spica.db.job import hold

    _on_jobs(ctx, jobs, ("hold", "held"), why, hold)


@click.command("unhold")
@click.argument("jobs", type=int, nargs=-1, required=True)
@click.option("--why", help="Kept in the job's history.")
@click.pass_context
def unhold_command(ctx: click.Context, jobs: tuple[int, ...], why: str | None) -> None:
    """Let held JOBS go on."""
    from spica.db.job import unhold

    _on_jobs(ctx, jobs, ("unhold", "let go:"), why, unhold)


@click.command("cancel")
@click.argument("jobs", type=int, nargs=-1, required=True)
@click.option("--why", help="Kept in the job's history.")
@click.pass_context
def cancel_command(ctx: click.Context, jobs: tuple[int, ...], why: str | None) -> None:
    """Cancel JOBS; running ones are ended with all their processes."""
    from spica.db.job import cancel

    _on_jobs(ctx, jobs, ("cancel", "cancelled:"), why, cancel)

"""The verb that plans stacks again: by name, or all that are stale."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from spica.cli.door import open_survey, print_json, say
from spica.cli.wait import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from spica.db.engine import Database
    from spica.files.workspace import Workspace
    from spica.scheduling.restack import Restacked

PART = 20
"""Stacks judged at a time."""
SHOWN_REASONS = 8


@click.command("restack")
@click.argument("stacks", nargs=-1)
@click.option("--stale", is_flag=True, help="All stacks that are stale and not planned again yet.")
@click.option("--dry-run", is_flag=True, help="Show the reasons, who joins and who leaves; record nothing.")
@click.option("--wait", is_flag=True, help="Wait for the jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else.")
@click.pass_context
def restack_command(
    ctx: click.Context, stacks: tuple[str, ...], stale: bool, dry_run: bool, wait: bool, as_json: bool
) -> int:
    """Plan STACKS (names or ids) again: same group and recipe, today's grades, measures, marks and rule.

    \b
    For example:
      spica restack D1_r --dry-run
      spica restack --stale --wait

    Nothing is made twice: a stack that would be the same today keeps its plan.
    """
    from spica.model.errors import UsageError

    if bool(stacks) == stale:
        raise UsageError("say which: names of stacks, or --stale for all that are; see: spica stacks")
    with open_survey(ctx) as (workspace, database):
        ids = _stale_ids(database) if stale else _ids_of(database, stacks)
        found = []
        for one in _plan(database, workspace, ids, stale, dry_run):
            found.append(one)
            if not as_json:
                _show(one)
        jobs = [j for one in found for j in one.jobs]
        failed = wait_for(workspace, database, jobs, "stack again") if wait else 0
    if as_json:
        print_json(_record(found, dry_run, failed))
    elif found:
        say(_sum(found, dry_run))
    if not found:
        sys.stderr.write("spica: no stack is stale: each would be the same if it were made today; see: spica stacks\n")
    return _code(found, failed)


def _ids_of(database: Database, names: Sequence[str]) -> list[int]:
    """Return the stacks of names, by id; a name that is none ends the command before anything is planned."""
    from spica.cli.explain import need_image
    from spica.model.errors import UsageError
    from spica.model.image import ImageKind

    with database.read() as session:
        rows = [need_image(session, name) for name in names]
    wrong = next((row.name for row in rows if row.kind is ImageKind.EXPOSURE), None)
    if wrong is not None:
        raise UsageError(f"{wrong} is an exposure, not a stack; to assess it again: spica reassess {wrong}")
    return sorted({row.id for row in rows})


def _stale_ids(database: Database) -> list[int]:
    from spica.db.stale import stale_candidates

    with database.read() as session:
        return sorted(c.stack_id for c in stale_candidates(session) if c.differs and c.again_id is None)


def _plan(
    database: Database, workspace: Workspace, ids: Sequence[int], stale: bool, dry_run: bool
) -> Iterator[Restacked]:
    """Plan stacks, or foretell it; of those that may be stale only those that are."""
    from spica.scheduling.restack import foretell_each, restack_each

    for start in range(0, len(ids), PART):
        part = ids[start : start + PART]
        if not stale and not dry_run:
            yield from restack_each(database, workspace, part)
            continue
        with database.read() as session:
            told = [one for one in foretell_each(session, part) if not stale or (one.stale and one.stale.reasons)]
        yield from told if dry_run else restack_each(database, workspace, [one.stack_id for one in told])


def _show(one: Restacked) -> None:
    """Say what came of a stack, and what changed since it was planned."""
    say(f"{one.name}: {one.sentence}")
    reasons = one.stale.reasons if one.stale else ()
    for reason in reasons[:SHOWN_REASONS]:
        say(f"    {reason.text}")
    if len(reasons) > SHOWN_REASONS:
        say(f"    and {len(reasons) - SHOWN_REASONS} more changes")


def _sum(found: Sequence[Restacked], dry_run: bool) -> str:
    counts = {word: sum(one.outcome == word for one in found) for word in ("planned", "known", "refused")}
    planned = "would be planned" if dry_run else "planned"
    return f"{counts['planned']} {planned} again, {counts['known']} stand already, {counts['refused']} refused"


def _record(found: Sequence[Restacked], dry_run: bool, failed: int) -> dict[str, Any]:
    """Return the JSON contract of `restack`, stacks by id; `plan` and `image` are null where nothing was planned."""
    return {
        "dry_run": dry_run,
        "stacks": [
            {
                "id": one.stack_id,
                "name": one.name,
                "outcome": one.outcome,
                "text": one.sentence,
                "reasons": one.stale.reasons if one.stale else (),
                "gained": [{"id": i, "name": name} for i, name in (one.stale.gained if one.stale else ())],
                "lost": [{"id": i, "name": name} for i, name in (one.stale.lost if one.stale else ())],
                "plan": one.plan_id,
                "image": one.image_id,
                "jobs": one.jobs,
            }
            for one in found
        ],
        "failed": failed,
    }


def _code(found: Sequence[Restacked], failed: int) -> int:
    """Return 3 where a job failed or a stack could not be planned for now, 4 where nothing is left to plan."""
    kinds = {one.kind for one in found if one.outcome == "refused"}
    if failed or kinds - {"nothing", "usage"}:
        return 3
    return 0 if any(one.outcome != "refused" for one in found) else 4

"""The verb `nodes`: lists the nodes and which exposures go to them, and steers both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from spica.cli.door import format_options, open_survey, print_rows, say
from spica.model.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from spica.model.overview import NodeEntry

EVERY = "every"
ANY = "any"
NODE_COLUMNS = (
    ("id", "id"),
    ("name", "name"),
    ("host", "host"),
    ("state", "state"),
    ("alive", "alive"),
    ("busy", "busy"),
    ("slots", "slots"),
    ("seen_at", "seen"),
    ("drained", "drained"),
)
GROUP_COLUMNS = (("run", "run"), ("filter", "filter"), ("node", "node"), ("chosen", "chosen"), ("since", "since"))


@dataclass(frozen=True)
class GroupLine:
    """Where a run and filter goes, as it is printed."""

    run: str
    filter: str
    node: str
    chosen: str
    since: str


@click.command("nodes")
@click.option("--drain", metavar="NODE", help="Let NODE take no new jobs until it is resumed; running jobs end.")
@click.option("--why", metavar="TEXT", help="Why it is drained: shown to all, kept in the record.")
@click.option("--resume", metavar="NODE", help="Let a drained NODE take jobs again.")
@click.option(
    "--place",
    nargs=3,
    metavar="RUN FILTER NODE",
    help="Let the exposures of a run and filter ('every': of every one) go to NODE, with what waits to be assessed.",
)
@click.option(
    "--place-auto", nargs=2, metavar="RUN FILTER", help="Forget where they go: the next are placed anew, by free disk."
)
@click.option(
    "--move", nargs=2, metavar="FROM TO", help="Let what waits for node FROM go to node TO, or 'any'; files follow."
)
@format_options
@click.pass_context
def nodes_command(ctx: click.Context, /, as_json: bool, as_csv: bool, why: str | None, **wish: Any) -> None:
    """List nodes with their last heartbeat and what goes to them; drain and resume them, and say what goes there.

    \b
    For example:
      spica nodes --drain n2 --why 'disk is swapped'
      spica nodes --resume n2
      spica nodes --place 16AQ11 r n2
      spica nodes --place every z n2               the narrowest line counts
      spica nodes --place-auto 16AQ11 r
      spica nodes --move n2 n1
    """
    from spica.db.overview import list_nodes

    asked = [name for name, value in wish.items() if value is not None]
    if len(asked) > 1:
        raise UsageError(f"--{asked[0]} and --{asked[1]} are two acts; give one at a time".replace("_", "-"))
    if why is not None and asked != ["drain"]:
        raise UsageError("--why says why a node is drained; give it with --drain NODE")
    with open_survey(ctx) as (_, database):
        if asked:
            with database.begin() as session:
                told = ACTS[asked[0]](session, wish[asked[0]], why)
            if not (as_json or as_csv):
                say(told)
                return
        with database.read() as session:
            rows = list_nodes(session, placed=True)
    print_rows(rows, NODE_COLUMNS, as_json, as_csv, "no nodes; start one with: spica daemon")
    if not (as_json or as_csv):
        _show_groups(rows)


def _show_groups(nodes: list[NodeEntry]) -> None:
    lines = [
        GroupLine(p.run, p.filter, n.name, f"by {p.person or 'command line'}" if p.chosen else "by free disk", p.since)
        for n in nodes
        for p in n.placements
    ]
    if lines:
        click.echo("\nwhere exposures go")
        print_rows(sorted(lines, key=lambda g: (g.run, g.filter)), GROUP_COLUMNS, False, False, "")


def _drain(session: Session, name: str, why: str | None) -> str:
    from spica.db.node import drain_node, need_node

    node = need_node(session, name)
    if not (why or "").strip():
        raise UsageError(f"--drain {name} needs a reason that others can read; add --why TEXT")
    drain_node(session, node.id, why or "")
    runs = f"; {_jobs(node.busy)} still {'runs' if node.busy == 1 else 'run'} there" if node.busy else ""
    return f"node {name} is drained: it takes no new jobs until spica nodes --resume {name}{runs}"


def _resume(session: Session, name: str, why: str | None) -> str:
    from spica.db.node import need_node, resume_node

    resumed = resume_node(session, need_node(session, name).id)
    return f"node {name} takes jobs again" if resumed else f"node {name} was not drained"


def _place(session: Session, words: tuple[str, str, str], why: str | None) -> str:
    from spica.db.node import need_node
    from spica.db.placement_choice import move_group

    run, filter_name, name = words
    moved = move_group(session, _group(run), _group(filter_name), need_node(session, name).id)
    return f"{_spoken(run, filter_name)} goes to {name}; {_waiting(len(moved.jobs))} there now"


def _place_auto(session: Session, words: tuple[str, str], why: str | None) -> str:
    from spica.db.placement_choice import forget_group

    known = forget_group(session, _group(words[0]), _group(words[1]))
    return f"{_spoken(*words)}: {'is placed anew when the next comes' if known else 'was on no record'}"


def _move(session: Session, words: tuple[str, str], why: str | None) -> str:
    from spica.db.node import find_node, need_node
    from spica.db.placement_choice import move_waiting

    source, target = words
    free = target == ANY and find_node(session, target) is None
    to_id = None if free else need_node(session, target).id
    moved = move_waiting(session, need_node(session, source).id, to_id)
    return f"{_waiting(len(moved.jobs))} to {'any node' if free else target} now"


ACTS: dict[str, Callable[[Session, Any, str | None], str]] = {
    "drain": _drain,
    "resume": _resume,
    "place": _place,
    "place_auto": _place_auto,
    "move": _move,
}


def _group(word: str) -> str:
    """Return a run or filter as the table of placements has it."""
    return "" if word == EVERY else word.strip()


def _spoken(run: str, filter_name: str) -> str:
    return f"run {run.strip() or EVERY}, filter {filter_name.strip() or EVERY}"


def _jobs(n: int) -> str:
    return f"{n} {'job' if n == 1 else 'jobs'}"


def _waiting(n: int) -> str:
    return f"{n} waiting {'job goes' if n == 1 else 'jobs go'}"

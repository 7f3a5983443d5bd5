"""What commands share at the door: the workspace, the database, and one way to print."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from spica.model.record import to_json

if TYPE_CHECKING:
    from spica.db.engine import Database
    from spica.files.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@contextmanager
def open_survey(ctx: click.Context) -> Iterator[tuple[Workspace, Database]]:
    """Open the workspace of this command and its database; both are let go at the end."""
    from spica.db.engine import open_database

    workspace = workspace_of(ctx)
    database = open_database(workspace)
    try:
        yield workspace, database
    finally:
        database.close()


def workspace_of(ctx: click.Context) -> Workspace:
    """Return the workspace that this command is about."""
    from spica.files.workspace import find_workspace

    explicit: Path | None = ctx.find_root().obj
    return find_workspace(explicit)


def format_options(command: F) -> F:
    """Add `--json` and `--csv`."""
    command = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON array or object, and nothing else.")(
        command
    )


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    sys.stdout.write(json.dumps(to_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def print_csv(rows: Sequence[Any]) -> None:
    """Print dataclass rows as CSV; cells that a spreadsheet would run are guarded by an apostrophe."""
    if not rows:
        return
    text = io.StringIO()
    names = [f.name for f in dataclasses.fields(rows[0])]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        plain = to_json(row)
        writer.writerow([guard(plain[n]) for n in names])
    sys.stdout.write(text.getvalue())


def guard(cell: Any) -> Any:
    """Return a CSV cell that no spreadsheet takes for a formula."""
    if isinstance(cell, dict | list):
        return json.dumps(cell, ensure_ascii=False)
    if isinstance(cell, str) and cell.startswith(FORMULA):
        return "'" + cell
    return cell


def print_rows(
    rows: Sequence[Any], columns: Sequence[tuple[str, str]], as_json: bool, as_csv: bool, empty: str
) -> None:
    """Print rows as JSON, CSV or a table of (field, heading) columns; `empty` says what to do where there are none."""
    if as_json:
        print_json(list(rows))
    elif as_csv:
        print_csv(rows)
    elif not rows:
        sys.stderr.write(empty + "\n")
    else:
        _print_table(rows, columns)


def _print_table(rows: Sequence[Any], columns: Sequence[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for _, heading in columns:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(getattr(row, name))) for name, _ in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.2f}"
    if isinstance(value, tuple):
        return plain("; ".join(getattr(v, "text", str(v)).partition("\n")[0] for v in value))
    return plain(str(value))


def say(text: str) -> None:
    """Print lines that may hold header text."""
    click.echo("\n".join(plain(line) for line in text.split("\n")))


def plain(text: str) -> str:
    """Return header text for a terminal: what would move its cursor or colour it becomes a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)

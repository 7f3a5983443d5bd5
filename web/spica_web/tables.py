"""Lists as tables for programs: the same address as CSV, VOTable or JSON, streamed row by row.

A page asks `wanted_form(request)` and answers `table_response(...)` where it is not None. Rows come from an iterator,
so that no answer holds more than one part of a list in memory.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from typing import Any, Generic, Literal, TypeVar
from xml.sax.saxutils import escape, quoteattr

from fastapi import Request
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from spica import __version__
from spica.model.errors import RecipeError
from spica.model.record import to_json
from spica_web.deps import Site, site_of
from spica_web.public import without_places
from spica_web.render import is_guest_of

T = TypeVar("T")
Form = Literal["csv", "votable", "json"]
Kind = Literal["text", "int", "float", "bool"]

MAX_ROWS = 1_000_000
"""Rows of one answer at most; longer lists are refused with what to do."""
PART = 5000
"""Rows that are read, and written, at a time."""
MEDIA: dict[Form, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "votable": "application/x-votable+xml; charset=utf-8",
    "json": "application/json",
}
ENDINGS: dict[Form, str] = {"csv": "csv", "votable": "vot", "json": "json"}
ACCEPTED: dict[str, Form] = {
    "text/csv": "csv",
    "application/x-votable+xml": "votable",
    "application/json": "json",
}
_PLAIN_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DATATYPES: dict[Kind, str] = {
    "text": 'datatype="unicodeChar" arraysize="*"',
    "int": 'datatype="long"',
    "float": 'datatype="double"',
    "bool": 'datatype="boolean"',
}


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column: its JSON name, kind, unit (VOUnits; empty: none), UCD 1+, meaning, and how a row gives its value."""

    name: str
    kind: Kind
    text: str
    get: Callable[[T], Any]
    unit: str = ""
    ucd: str = ""


@dataclass(frozen=True)
class Table(Generic[T]):
    """A list: the stem of its file's name, what it holds, its columns.

    `record` gives a row's JSON object where it is richer than the columns (nested, lists); None: the columns.
    """

    name: str
    text: str
    columns: tuple[Column[T], ...]
    record: Callable[[T], Any] | None = None


def wanted_form(request: Request) -> Form | None:
    """Return the form that a request asks for by `?format=` or its Accept header, None for the page.

    Raises
    ------
    RecipeError
        `format` names none.
    """
    named = request.query_params.get("format", "").lower()
    if named in ENDINGS:
        return named
    if named not in ("", "html"):
        raise RecipeError(f"there is no format {named[:40]!r}; write format=csv, format=votable or format=json")
    accepted = request.headers.get("accept", "").lower()
    if named == "html" or "text/html" in accepted:
        return None
    kinds = [part.partition(";")[0].strip() for part in accepted.split(",")]
    return next((ACCEPTED[k] for k in kinds if k in ACCEPTED), None)


def check_length(total: int) -> None:
    """Refuse a list that is too long for one answer.

    Raises
    ------
    RecipeError
        More than `MAX_ROWS` rows.
    """
    if total > MAX_ROWS:
        raise RecipeError(
            f"this list has {total:,} rows, one table holds {MAX_ROWS:,} at most; narrow it, for instance by night"
        )


def table_response(
    request: Request, table: Table[T], form: Form, rows: Iterable[T], total: int | None = None
) -> StreamingResponse:
    """Return rows as a file in a form; `total` is their number where it is known.

    Visitors without a name are told no folder of any node.

    Raises
    ------
    RecipeError
        More than `MAX_ROWS` rows.
    """
    if total is not None:
        check_length(total)
    workspace = site_of(request).workspace if is_guest_of(request) else None
    parts = write_table(table, form, rows)
    shown = parts if workspace is None else (without_places(workspace, part) for part in parts)
    headers = {
        "Content-Disposition": f'attachment; filename="{table.name}.{ENDINGS[form]}"',
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept, Cookie",
    }
    if total is not None:
        headers["X-Total-Count"] = str(total)
    return StreamingResponse(shown, media_type=MEDIA[form], headers=headers)


def write_table(table: Table[T], form: Form, rows: Iterable[T]) -> Iterator[str]:
    """Yield the text of a table part by part; rows beyond `MAX_ROWS` are not read."""
    bounded = islice(rows, MAX_ROWS)
    if form == "csv":
        return _csv(table, bounded)
    return _votable(table, bounded) if form == "votable" else _json(table, bounded)


def _parts(rows: Iterator[T]) -> Iterator[list[T]]:
    while part := list(islice(rows, PART)):
        yield part


# CSV ------------------------------------------------------------------------------------------------------------------


def _csv(table: Table[T], rows: Iterator[T]) -> Iterator[str]:
    yield ",".join(c.name for c in table.columns) + "\n"
    getters = [c.get for c in table.columns]
    for part in _parts(rows):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([guarded(plain(get(row))) for get in getters] for row in part)
        yield text.getvalue()


def plain(value: Any) -> str:
    """Return a value as text: unknown is empty, numbers by their shortest exact spelling, times by ISO 8601."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else ""
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return " ".join(plain(v) or "NaN" for v in value)
    return str(value)


def guarded(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; plain numbers stay numbers."""
    if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell and not _PLAIN_NUMBER.fullmatch(cell):
        return "'" + cell
    return cell


# VOTable --------------------------------------------------------------------------------------------------------------


def _votable(table: Table[T], rows: Iterator[T]) -> Iterator[str]:
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">\n'
        f'<INFO name="made_by" value="Spica {__version__}"/>\n'
        '<COOSYS ID="icrs" system="ICRS"/>\n'
        '<RESOURCE type="results">\n<INFO name="QUERY_STATUS" value="OK"/>\n'
        f"<TABLE name={quoteattr(table.name)}>\n<DESCRIPTION>{escape(table.text)}</DESCRIPTION>\n"
    )
    yield "".join(map(_field, table.columns)) + "<DATA><TABLEDATA>\n"
    getters = [(c.get, c.kind) for c in table.columns]
    for part in _parts(rows):
        lines = ("".join(f"<TD>{_xml(get(row), kind)}</TD>" for get, kind in getters) for row in part)
        yield "".join(f"<TR>{line}</TR>\n" for line in lines)
    yield "</TABLEDATA></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


def _field(column: Column[Any]) -> str:
    unit = f" unit={quoteattr(column.unit)}" if column.unit else ""
    ucd = f" ucd={quoteattr(column.ucd)}" if column.ucd else ""
    ref = ' ref="icrs"' if column.ucd.startswith("pos.eq.") else ""
    head = f"<FIELD name={quoteattr(column.name)} {_DATATYPES[column.kind]}{unit}{ucd}{ref}>"
    return f"{head}<DESCRIPTION>{escape(column.text)}</DESCRIPTION></FIELD>\n"


def _xml(value: Any, kind: Kind) -> str:
    text = plain(value)
    if kind == "float" and not text:
        return "NaN"
    return escape(_NOT_XML.sub("\ufffd", text)) if kind == "text" else text


# JSON -----------------------------------------------------------------------------------------------------------------


def _json(table: Table[T], rows: Iterator[T]) -> Iterator[str]:
    record = table.record or _record_of(table.columns)
    lead = "[\n"
    for part in _parts(rows):
        yield lead + ",\n".join(json.dumps(to_json(record(row)), ensure_ascii=False) for row in part)
        lead = ",\n"
    yield "[]\n" if lead == "[\n" else "\n]\n"


def _record_of(columns: Sequence[Column[T]]) -> Callable[[T], Any]:
    def record(row: T) -> dict[str, Any]:
        return {c.name: _json_value(c.get(row)) for c in columns}

    return record


def _json_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date | datetime) else value


# Rows from the database -----------------------------------------------------------------------------------------------


def rows_by_ids(site: Site, ids: Sequence[int], read: Callable[[Session, list[int]], Sequence[T]]) -> Iterator[T]:
    """Yield the rows of ids in their order; each part is read in a short transaction of its own.

    `read` returns the rows of some ids, in any order, each with an attribute `id`; ids without a row are left out.
    """
    for start in range(0, len(ids), PART):
        wanted = [int(i) for i in ids[start : start + PART]]
        with site.read() as session:
            found = {row.id: row for row in read(session, wanted)}  # type: ignore[attr-defined]
        yield from (found[i] for i in wanted if i in found)


def rows_by_key(
    site: Site, read: Callable[[Session, Any, int], Sequence[T]], key: Callable[[T], Any], first: Any = None
) -> Iterator[T]:
    """Yield all rows of a list that is ordered by a unique key; each part is read in a short transaction of its own.

    `read` returns the rows after a key (`first`: from the beginning), so many at most.
    """
    after = first
    while True:
        with site.read() as session:
            part = read(session, after, PART)
        yield from part
        if len(part) < PART:
            return
        after = key(part[-1])

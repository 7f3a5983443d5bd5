"""The record of what was done: who, what, to which thing, when; as a page, as CSV, as JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from spica.db.pages.audit import COMMAND_LINE, AuditFilter, AuditLine, audit_nouns, audit_verbs, read_audit_page
from spica.db.person import Person, list_persons
from spica.model.person import PersonRole
from spica_web.deps import Operator, site_of
from spica_web.query import PAGE_SIZE, Paging, read_page
from spica_web.render import Page, render

router = APIRouter()
MAX_LINES = 5000
"""Acts of one CSV or JSON answer; `page` goes on, `X-Total-Count` says how many there are."""
COLUMNS = ("id", "at", "person", "verb", "thing", "name", "detail")
ROOMS = {"image": "images", "job": "jobs", "plan": "plans", "person": "people"}


@dataclass(frozen=True)
class AuditQuery:
    """What the address narrows the record to."""

    person: str
    verb: str
    thing: str

    def link(self, **changes: Any) -> str:
        """Return the address after some changes."""
        values = {**dataclasses.asdict(self), **changes}
        kept = {k: v for k, v in values.items() if v not in ("", None)}
        return f"/audit?{urlencode(kept)}" if kept else "/audit"

    @property
    def active(self) -> bool:
        """Whether anything narrows the record."""
        return bool(self.person or self.verb or self.thing)


@dataclass(frozen=True)
class AuditPage(Page):
    """The record; `people` is empty for who sees own acts only."""

    template: ClassVar[str] = "audit.html"
    title: str
    nav: str
    query: AuditQuery
    people: tuple[str, ...]
    command_line: str
    verbs: list[str]
    nouns: list[str]
    rows: list[AuditLine]
    links: dict[int, str]
    paging: Paging


@router.get("/audit")
def audit_page(
    request: Request,
    person: Operator,
    format: Annotated[Literal["html", "csv", "json"], Query(description="page, table or records")] = "html",
) -> Response:
    """Show the record: to admins all of it, to operators their own acts."""
    query, page = _read_query(request.query_params), read_page(request.query_params)
    everything = person.role.may(PersonRole.ADMIN)
    wanted = AuditFilter(query.person, query.verb, query.thing, None if everything else person.id)
    size = PAGE_SIZE if format == "html" else MAX_LINES
    with site_of(request).read() as session:
        rows, total = read_audit_page(session, wanted, size, (page - 1) * size)
        if format == "json":
            return JSONResponse([_record(line) for line in rows], headers={"X-Total-Count": str(total)})
        if format == "csv":
            return _as_csv(rows, total)
        people = tuple(p.name for p in list_persons(session)) if everything else ()
        verbs, nouns = audit_verbs(session), audit_nouns(session)
    paging = Paging(page, size, total)
    return render(
        request,
        AuditPage("Audit", "audit", query, people, COMMAND_LINE, verbs, nouns, rows, links_of(rows, person), paging),
    )


def _read_query(words: Mapping[str, str]) -> AuditQuery:
    return AuditQuery(*(words.get(name, "").strip()[:200].replace("\0", "") for name in ("person", "verb", "thing")))


def links_of(rows: list[AuditLine], person: Person) -> dict[int, str]:
    """Return the pages of the things that were changed, by act; only those that who asks may see."""
    return {line.id: link for line in rows if (link := _link(line, person))}


def _link(line: AuditLine, person: Person) -> str | None:
    """Return the page of the thing that was changed; None where it has none, or none for who asks."""
    room = ROOMS.get(line.noun)
    if room is None or not line.thing_id.isdigit() or (room == "people" and not person.role.may(PersonRole.ADMIN)):
        return None
    return f"/{room}/{line.thing_id}"


def _record(line: AuditLine) -> dict[str, Any]:
    thing = f"{line.noun}:{line.thing_id}"
    values = (line.id, line.at.isoformat(), line.person, line.verb, thing, line.thing_name, line.detail)
    return dict(zip(COLUMNS, values, strict=True))


def _as_csv(rows: list[AuditLine], total: int) -> Response:
    """Return acts as a table; a cell that a spreadsheet would take for a formula is quoted."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in rows:
        cells = ("" if value is None else str(value) for value in _record(line).values())
        writer.writerow("'" + cell if cell[:1] in "=+-@\t\r" and cell else cell for cell in cells)
    headers = {"X-Total-Count": str(total), "Content-Disposition": 'attachment; filename="audit.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)

"""The report of grades by rule, night and run: as a page to print, as CSV, as JSON; streamed, however long."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from spica.db.agreement import GradeCounts, count_grades
from spica.db.pages.gradebook import ReportLine, read_report
from spica.db.snapshot import ordered, taken
from spica.model.errors import RecipeError
from spica.model.selection import parse_rule
from spica_web.deps import Site, Viewer, site_of
from spica_web.gradebook import GradesFacets, GradesQuery, facets_of, read_grades_query
from spica_web.query import Paging, RuleFault, fault_of, read_page
from spica_web.render import Page, render

router = APIRouter()
LINES = 200
CHUNK = 500
COLUMNS = (
    *("id", "name", "object", "filter", "run", "night", "exptime_s", "airmass", "seeing_arcsec", "ellipticity"),
    *("background_adu", "limiting_mag", "n_stars", "skyprobe_mag", "grade", "grade_source", "graded_by", "graded_at"),
    *("comment", "machine", "reasons", "grades"),
)
FORMULA = "=+-@\t\r"


@dataclass(frozen=True)
class ReportPage(Page):
    """The report; `rule` stands beside what narrows it."""

    template: ClassVar[str] = "grades_report.html"
    title: str
    nav: str
    query: GradesQuery
    rule: str
    fault: RuleFault | None
    facets: GradesFacets
    age_s: float
    counts: GradeCounts
    lines: list[ReportLine]
    paging: Paging


@router.get("/grades/report", response_model=None)
def report_page(
    request: Request,
    person: Viewer,
    rule: str = "",
    format: Annotated[Literal["html", "csv", "json"], Query(description="page, table or records")] = "html",
) -> Response:
    """Show exposures with their grades, graders, comments and dates, in the order of the sky."""
    site, query, page = site_of(request), read_grades_query(request.query_params), read_page(request.query_params)
    snapshot = site.snapshot()
    text = rule.strip().replace("\0", "")[:10_000]
    rows, fault = query.narrow(site.workspace.object_aliases).rows(snapshot), None
    try:
        rows = rows & taken(snapshot, parse_rule(text) if text else None)
    except RecipeError as trouble:
        if format != "html":
            raise
        rows, fault = rows & False, fault_of(text, trouble)
    chosen, total = rows.nonzero()[0], int(rows.sum())
    if format != "html":
        ids = [int(i) for i in snapshot.images.id[ordered(snapshot, chosen, "mjd", 0, total)]] if total else []
        return _streamed(site, ids, format)
    shown = ordered(snapshot, chosen, "mjd", (page - 1) * LINES, LINES)
    with site.read() as session:
        lines = read_report(session, [int(i) for i in snapshot.images.id[shown]])
    return render(
        request,
        ReportPage(
            title="Report of grades",
            nav="grade",
            query=query,
            rule=text,
            fault=fault,
            facets=facets_of(snapshot),
            age_s=snapshot.age_s,
            counts=count_grades(snapshot, rows),
            lines=lines,
            paging=Paging(page, LINES, total),
        ),
    )


def _streamed(site: Site, ids: Sequence[int], form: str) -> Response:
    kind = "text/csv; charset=utf-8" if form == "csv" else "application/json"
    parts = _as_csv(site, ids) if form == "csv" else _as_json(site, ids)
    headers = {"X-Total-Count": str(len(ids)), "Content-Disposition": f'attachment; filename="grades.{form}"'}
    return StreamingResponse(parts, media_type=kind, headers=headers)


def _chunks(site: Site, ids: Sequence[int]) -> Iterator[list[ReportLine]]:
    """Read the report some lines at a time, each in a transaction of its own: no reader holds the database long."""
    for start in range(0, len(ids), CHUNK):
        with site.read() as session:
            lines = read_report(session, ids[start : start + CHUNK])
        yield lines


def record_of(line: ReportLine) -> dict[str, Any]:
    """Return a line as programs read it; unknown is None."""
    found: dict[str, Any] = {name: getattr(line, name) for name in COLUMNS}
    found["night"] = None if line.night is None else line.night.isoformat()
    found["graded_at"] = None if line.graded_at is None else line.graded_at.isoformat()
    found["reasons"] = list(line.reasons)
    found["grades"] = [
        {
            "grade": g.grade.value,
            "person": g.person,
            "at": g.created_at.isoformat(),
            "comment": g.comment,
            "blind": g.blind,
        }
        for g in line.grades
    ]
    return found


def _as_json(site: Site, ids: Sequence[int]) -> Iterator[str]:
    yield "["
    first = True
    for lines in _chunks(site, ids):
        text = ",\n".join(json.dumps(record_of(line), ensure_ascii=False) for line in lines)
        yield text if first or not text else f",\n{text}"
        first = first and not text
    yield "]\n"


def _as_csv(site: Site, ids: Sequence[int]) -> Iterator[str]:
    """Yield the table; a cell that a spreadsheet would take for a formula is quoted."""
    yield ",".join(COLUMNS) + "\n"
    for lines in _chunks(site, ids):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for line in lines:
            writer.writerow([_cell(value) for value in record_of(line).values()])
        yield text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        words = (
            f"{v['person'] or 'command line'} {v['grade']}{' blind' if v['blind'] else ''}"
            if isinstance(v, dict)
            else v
            for v in value
        )
        value = "; ".join(words)
    if isinstance(value, str) and value and value[0] in FORMULA:
        return "'" + value
    return "" if value is None else value

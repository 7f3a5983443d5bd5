"""Grades of the survey: how far it is, who grades and agrees with whom, where not, and which grade counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from markupsafe import Markup

from spica.db.agreement import (
    Disagreement,
    GradeCounts,
    GradingFigures,
    StandingGrade,
    count_grades,
    find_disagreements,
    read_names,
    read_standing,
)
from spica.db.grade import Counting, read_counting, set_counting
from spica.db.snapshot import Snapshot, exposures
from spica.model.errors import UsageError
from spica.model.grade import Grade
from spica_web.deps import Operator, Viewer, site_of
from spica_web.draw.grading import draw_bars, draw_lane, draw_ring
from spica_web.gradebook import GradesFacets, GradesQuery, facets_of, figures_of, read_grades_query
from spica_web.pages import gradebulk, gradereport
from spica_web.query import PAGE_SIZE, Paging, choice, read_page
from spica_web.render import Page, render

router = APIRouter()
LETTER_KINDS = ("gA", "gB", "gC", "gD")


@dataclass(frozen=True)
class GradesPage(Page):
    """The overview; `n_split` exposures would be graded otherwise if another grade counted."""

    template: ClassVar[str] = "grades.html"
    title: str
    nav: str
    query: GradesQuery
    facets: GradesFacets
    age_s: float
    figures_age_s: float
    counts: GradeCounts
    rings: tuple[Markup, Markup]
    figures: GradingFigures
    names: dict[int, str]
    lanes: dict[int, Markup]
    days: Markup
    nights: Markup
    counting: str
    n_split: int
    changed: int | None


@router.get("/grades", response_class=HTMLResponse)
def grades_page(request: Request, person: Viewer) -> HTMLResponse:
    """Show how far grading is, by whom, and who agrees with whom."""
    site, query = site_of(request), read_grades_query(request.query_params)
    with site.read() as session:
        names, counting = read_names(session), read_counting(session)
    snapshot = site.snapshot()
    narrow = query.narrow(site.workspace.object_aliases)
    rows = narrow.rows(snapshot)
    measured = figures_of(site.database, snapshot, narrow)
    counts, figures, nights = count_grades(snapshot, rows), measured.figures, measured.nights
    rings = (
        draw_ring(counts.human, LETTER_KINDS, "graded by people"),
        draw_ring(counts.machine, LETTER_KINDS, "graded by the machine alone"),
    )
    changed = request.query_params.get("changed", "")
    days = figures.days
    return render(
        request,
        GradesPage(
            title="Grades",
            nav="grade",
            query=query,
            facets=facets_of(snapshot),
            age_s=snapshot.age_s,
            figures_age_s=max(0.0, (snapshot.taken_at - figures.taken_at).total_seconds()) + snapshot.age_s,
            counts=counts,
            rings=rings,
            figures=figures,
            names=names,
            lanes={g.person_id: draw_lane(g.days) for g in figures.graders},
            days=draw_bars(days, LETTER_KINDS, "grades given, in time") if days else Markup(""),
            nights=draw_bars(nights, (*LETTER_KINDS, "gN"), "exposures by night") if nights else Markup(""),
            counting=counting.value,
            n_split=int((snapshot.images.split & exposures(snapshot)).sum()),
            changed=int(changed) if changed.isascii() and changed.isdigit() and len(changed) < 10 else None,
        ),
    )


@router.post("/grades/counts")
def change_counting(
    request: Request,
    person: Operator,
    counts: Annotated[Counting, Form()],
    confirm: Annotated[bool, Form()] = False,
) -> Response:
    """Change which of several people's grades counts, for the whole survey."""
    if not confirm:
        raise UsageError("nothing was changed; tick that the grades of the whole survey may change, then try again")
    with site_of(request).database.begin() as session:
        changed = set_counting(session, counts, person.id)
    return RedirectResponse(f"/grades?changed={changed}", status_code=303)


# Disagreements --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DisagreementLine:
    """An exposure on which there is disagreement."""

    id: int
    name: str
    object: str | None
    filter: str | None
    night: date | None
    grade: str
    machine: str
    grades: tuple[StandingGrade, ...]
    newest_at: datetime | None


@dataclass(frozen=True)
class DisagreementsPage(Page):
    """Where people and machine, or people among each other, disagree."""

    template: ClassVar[str] = "grades_disagreements.html"
    title: str
    nav: str
    query: GradesQuery
    facets: GradesFacets
    age_s: float
    kind: str
    machine: str
    human: str
    lines: list[DisagreementLine]
    totals: dict[str, int]
    paging: Paging
    queue: str


@router.get("/grades/disagreements", response_class=HTMLResponse)
def disagreements_page(
    request: Request, person: Viewer, kind: str = "machine", machine: str = "", human: str = ""
) -> HTMLResponse:
    """List the exposures on which grades differ, the farthest apart first."""
    site, query, page = site_of(request), read_grades_query(request.query_params), read_page(request.query_params)
    wanted = choice(Disagreement, kind) or Disagreement.MACHINE
    letters = choice(Grade, machine), choice(Grade, human)
    snapshot = site.snapshot()
    rows = query.narrow(site.workspace.object_aliases).rows(snapshot)
    found = {k: find_disagreements(snapshot, rows, k, *letters) for k in Disagreement}
    shown = found[wanted][(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    ids = [int(i) for i in snapshot.images.id[shown]]
    with site.read() as session:
        standing = read_standing(session, ids)
    return render(
        request,
        DisagreementsPage(
            title="Disagreements",
            nav="grade",
            query=query,
            facets=facets_of(snapshot),
            age_s=snapshot.age_s,
            kind=wanted.value,
            machine=letters[0] or "",
            human=letters[1] or "",
            lines=[_line(snapshot, int(r), standing[i]) for r, i in zip(shown, ids, strict=True)],
            totals={k.value: len(v) for k, v in found.items()},
            paging=Paging(page, PAGE_SIZE, len(found[wanted])),
            queue=queue_link(query),
        ),
    )


def _line(snapshot: Snapshot, row: int, standing: list[StandingGrade]) -> DisagreementLine:
    images, letters = snapshot.images, ("", *(g.value for g in Grade))
    return DisagreementLine(
        int(images.id[row]),
        str(images.name[row]),
        images.word("object_name", row),
        images.word("filter", row),
        images.day(row),
        letters[images.grade[row]],
        letters[images.machine[row]],
        tuple(standing),
        standing[0].created_at if standing else None,
    )


def queue_link(query: GradesQuery) -> str:
    """Return the address of the queue of what people or machine dispute, narrowed as here."""
    words = {"kind": "disagree", "object": query.object, "filter": query.filter, "night": query.night}
    if query.run and not set(query.run) & set('"\\'):
        words["rule"] = f'run = "{query.run}"'
    return f"/grade?{urlencode({k: v for k, v in words.items() if v})}"


router.include_router(gradebulk.router)
router.include_router(gradereport.router)

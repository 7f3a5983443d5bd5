"""One grade for all exposures of a rule: written, looked at, given, taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from spica.db.bulk import (
    BulkEntry,
    BulkPreview,
    BulkTarget,
    BulkWish,
    grade_rule,
    list_bulk,
    preview_from,
    undo_bulk,
)
from spica.db.grade import read_counting
from spica.db.snapshot import Snapshot
from spica.model.errors import ConflictError, RecipeError
from spica.model.grade import COMMENTS, Grade
from spica.model.person import PersonRole
from spica.model.selection import parse_rule
from spica_web.deps import Operator, site_of
from spica_web.query import Paging, RuleFault, choice, fault_of, read_page
from spica_web.render import Page, render

router = APIRouter()
ACTS = 20
MAX_RULE = 10_000


@dataclass(frozen=True)
class BulkForm:
    """What was written into the form."""

    rule: str
    grade: str
    comment: str
    target: str

    @property
    def link(self) -> str:
        """Return the address that shows the preview."""
        words = {"rule": self.rule, "grade": self.grade, "comment": self.comment, "target": self.target}
        return f"/grades/bulk?{urlencode({k: v for k, v in words.items() if v})}"


@dataclass(frozen=True)
class BulkPage(Page):
    """The form, the preview where a rule is written, and the former acts; `moved`: how many it was before."""

    template: ClassVar[str] = "grades_bulk.html"
    title: str
    nav: str
    form: BulkForm
    fault: RuleFault | None
    preview: BulkPreview | None
    names: tuple[tuple[int, str], ...]
    age_s: float
    counting: str
    comments: tuple[str, ...]
    moved: str
    done: BulkEntry | None
    acts: list[BulkEntry]
    may_undo: frozenset[int]
    paging: Paging


@router.get("/grades/bulk", response_class=HTMLResponse)
def bulk_page(
    request: Request,
    person: Operator,
    rule: str = "",
    grade: str = "",
    comment: str = "",
    target: str = "ungraded",
    moved: str = "",
    done: str = "",
) -> HTMLResponse:
    """Show what one grade for a rule would reach, and what was done so before."""
    site, page = site_of(request), read_page(request.query_params)
    form = _form(rule, grade, comment, target)
    snapshot = site.snapshot()
    preview, fault = None, None
    if form.rule:
        try:
            preview = preview_from(snapshot, parse_rule(form.rule), BulkTarget(form.target), person.id)
        except RecipeError as trouble:
            fault = fault_of(form.rule, trouble)
    with site.read() as session:
        acts, total = list_bulk(session, ACTS, (page - 1) * ACTS)
        counting = read_counting(session)
    everyones = person.role.may(PersonRole.ADMIN)
    return render(
        request,
        BulkPage(
            title="Grade at once",
            nav="grade",
            form=form,
            fault=fault,
            preview=preview,
            names=_names(snapshot, preview),
            age_s=snapshot.age_s,
            counting=counting.value,
            comments=COMMENTS,
            moved=moved if moved.isascii() and moved.isdigit() and len(moved) < 10 else "",
            done=next((a for a in acts if str(a.id) == done and a.withdrawn_at is None), None),
            acts=acts,
            may_undo=frozenset(
                a.id for a in acts if a.withdrawn_at is None and (everyones or a.person_id == person.id)
            ),
            paging=Paging(page, ACTS, total),
        ),
    )


def _form(rule: str, grade: str, comment: str, target: str) -> BulkForm:
    """Return the form with words that mean something only."""
    letter, reach = choice(Grade, grade), choice(BulkTarget, target) or BulkTarget.UNGRADED
    said = comment.strip().replace("\0", "")[:2000]
    return BulkForm(rule.strip().replace("\0", "")[:MAX_RULE], letter or "", said, reach.value)


def _names(snapshot: Snapshot, preview: BulkPreview | None) -> tuple[tuple[int, str], ...]:
    if preview is None:
        return ()
    rows = snapshot.images.row_of(preview.first_ids)
    return tuple((i, str(snapshot.images.name[r])) for i, r in zip(preview.first_ids, rows, strict=True) if r >= 0)


@router.post("/grades/bulk")
def grade_at_once(
    request: Request,
    person: Operator,
    rule: Annotated[str, Form(max_length=MAX_RULE)],
    grade: Annotated[Grade, Form()],
    token: Annotated[str, Form(max_length=100)],
    target: Annotated[BulkTarget, Form()] = BulkTarget.UNGRADED,
    comment: Annotated[str, Form(max_length=2000)] = "",
) -> Response:
    """Give one grade to what the preview showed; where it has changed since, show it anew."""
    form = _form(rule, grade.value, comment, target.value)
    wish = BulkWish(parse_rule(form.rule), target)
    try:
        with site_of(request).database.begin() as session:
            act = grade_rule(session, wish, grade, form.comment or None, person.id, token)
    except ConflictError:
        before = token.partition(".")[0]
        return RedirectResponse(f"{form.link}&{urlencode({'moved': before})}", status_code=303)
    return RedirectResponse(f"/grades/bulk?done={act}", status_code=303)


@router.post("/grades/bulk/{bulk_id}/undo")
def take_bulk_back(request: Request, person: Operator, bulk_id: int) -> Response:
    """Take back all grades of one act: the own ones, an admin anybody's."""
    if not 0 < bulk_id < 2**62:
        raise ConflictError(f"act {bulk_id} cannot be taken back; it does not stand any more: reload the page")
    with site_of(request).database.begin() as session:
        undo_bulk(session, bulk_id, person.id, anyone=person.role.may(PersonRole.ADMIN))
    return RedirectResponse("/grades/bulk", status_code=303)

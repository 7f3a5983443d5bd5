"""The rule room: a rule as text, what it takes, and why it leaves out the rest."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import ColumnElement, and_, func, not_
from sqlalchemy.orm import Session

from spica.db.overview import list_images
from spica.db.pages.listing import Facets, count_images, first_ids, read_facets, sum_exptime
from spica.db.selection import Judged, compile_rule, judge
from spica.db.tables.image import ImageRow
from spica.files.workspace import Workspace
from spica.model.association import Mode
from spica.model.errors import RecipeError, UsageError
from spica.model.image import FrameType, ImageKind, ImageState, normalise_object
from spica.model.overview import ImageEntry
from spica.model.recipe import Recipe, read_recipe
from spica.model.selection import DEFAULT_RULE, FIELDS, Field, Rule, format_rule, list_names, parse_rule
from spica.scheduling.select import Scheduled, schedule
from spica.scheduling.wish import Wish
from spica_web.deps import Operator, Visitor, site_of
from spica_web.query import ImageQuery, RuleFault, fault_of, read_query
from spica_web.render import Page, render

router = APIRouter()
MAX_SHOWN = 300
EXAMPLES = (
    'grade in (A, B) and seeing < 0.9 and filter = "r"',
    'object = "M31" and skyprobe is known and skyprobe < 0.1',
    "within(270.1, -24.5, 0.5) and exptime >= 60",
    'night between "2006-09-01" and "2006-09-30" and not grade = D',
)


@dataclass(frozen=True)
class OutEntry:
    """A candidate left out: the clause, what it saw, and in words."""

    id: int
    name: str
    object: str | None
    filter: str | None
    grade: str | None
    clause: str
    value: str
    sentence: str


@dataclass(frozen=True)
class RulesPage(Page):
    """What a rule takes and leaves out."""

    template: ClassVar[str] = "rules.html"
    title: str
    nav: str
    query: ImageQuery
    facets: Facets
    fault: RuleFault | None
    spelled: str
    candidates: int
    taken: int
    exptime_s: float
    chosen: list[ImageEntry]
    left_out: list[OutEntry]
    clauses: list[tuple[str, int]]
    out: int
    command: str
    fields: tuple[Field, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class _Split:
    candidates: int
    taken: int
    exptime_s: float
    chosen: list[ImageEntry]
    left_out: list[OutEntry]
    clauses: list[tuple[str, int]]


NOTHING = _Split(0, 0, 0.0, [], [], [])


@router.get("/rules", response_class=HTMLResponse)
def rules_page(request: Request, person: Visitor) -> HTMLResponse:
    """Judge all candidates by the rule of the address, or show what a rule may say."""
    site, query = site_of(request), read_query(request.query_params)
    fault, rule, split = None, None, NOTHING
    try:
        rule = parse_rule(query.rule) if query.rule else None
        bounds = [] if rule is None else _bounds(query, site.workspace.object_aliases)
    except RecipeError as trouble:
        fault = fault_of(query.rule, trouble)
    with site.read() as session:
        facets = read_facets(session)
        if rule is not None and fault is None:
            split = _judge(session, request, rule, bounds)
    page = RulesPage(
        title="Rules",
        nav="rules",
        query=query,
        facets=facets,
        fault=fault,
        spelled="" if rule is None or fault else format_rule(rule),
        candidates=split.candidates,
        taken=split.taken,
        exptime_s=split.exptime_s,
        chosen=split.chosen,
        left_out=split.left_out,
        clauses=split.clauses,
        out=split.candidates - split.taken,
        command=command_line(query),
        fields=tuple(FIELDS.values()),
        examples=(DEFAULT_RULE, *EXAMPLES),
    )
    return render(request, page)


def _bounds(query: ImageQuery, aliases: dict[str, str]) -> list[ColumnElement[bool]]:
    """Return the conditions that bound the candidates: everything but the rule itself."""
    return ImageQuery(object=query.object, filter=query.filter, night=query.night).conditions(aliases)


def _judge(session: Session, request: Request, rule: Rule, bounds: list[ColumnElement[bool]]) -> _Split:
    """Return who is in and who is out: counts by SQL, the reasons of the first left out by the evaluator."""
    able = [*bounds, ImageRow.frame_type == FrameType.SCIENCE]
    usable = [ImageRow.state != ImageState.REJECTED, ImageRow.quality_id.is_not(None)]
    fits = compile_rule(rule)
    taken, _ = count_images(session, [*able, *usable, fits], ImageKind.EXPOSURE)
    candidates, _ = count_images(session, able, ImageKind.EXPOSURE)
    workspace = request.app.state.site.workspace
    chosen = list_images(session, workspace, [*able, *usable, fits], limit=MAX_SHOWN)
    out = [*able, not_(func.coalesce(and_(*usable, fits), False))]
    judged = judge(session, rule, [ImageRow.id.in_(first_ids(session, out, MAX_SHOWN))], footprints=False)
    clauses = Counter(o.clause.text for o in judged.left_out)
    exptime_s = sum_exptime(session, [*able, *usable, fits])
    return _Split(candidates, taken, exptime_s, chosen, _left_out(judged), clauses.most_common())


def _left_out(judged: Judged) -> list[OutEntry]:
    return [
        OutEntry(
            o.candidate.image_id,
            o.candidate.name,
            o.candidate.object,
            o.candidate.filter,
            o.candidate.grade.value if o.candidate.grade else None,
            o.clause.text,
            o.clause.value,
            o.clause.sentence,
        )
        for o in judged.left_out
    ]


def command_line(query: ImageQuery) -> str:
    """Return the command that plans stacks by this rule."""
    words = ["spica", "schedule", "survey", "--rule", query.rule or DEFAULT_RULE]
    words += ["--object", query.object] if query.object else []
    words += ["--filter", query.filter] if query.filter else []
    return shlex.join(words)


# Planning -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedPage(Page):
    """What planning by a rule made, or would make."""

    template: ClassVar[str] = "planned.html"
    title: str
    nav: str
    rule: str
    mode: str
    object: str
    filter: str
    done: Scheduled
    dry: bool


@router.post("/rules/plan", response_class=HTMLResponse)
def plan_by_rule(
    request: Request,
    person: Operator,
    rule: Annotated[str, Form(max_length=10_000)],
    mode: Annotated[Literal["survey", "single"], Form()] = "survey",
    object: Annotated[str, Form(max_length=500)] = "",
    filter: Annotated[str, Form(max_length=100)] = "",
    dry: Annotated[bool, Form()] = False,
) -> Response:
    """Plan stacks (or calibrated copies) of what a rule takes; or show what would be planned."""
    site = site_of(request)
    if list_names(parse_rule(rule)):
        raise UsageError("lists lie in files of the command line's host; use spica schedule --images FILE there")
    wish = Wish(
        mode=Mode(mode),
        rule=rule,
        object_key=normalise_object(object, site.workspace.object_aliases) if object else None,
        filter=filter or None,
        person_id=person.id,
    )
    done = schedule(site.database, site.workspace, wish, own_recipe(site.workspace), dry_run=dry)
    if not dry and len(done.plans) == 1 and not done.known:
        return RedirectResponse(f"/plans/{done.plans[0].plan}", status_code=303)
    title = "What would be planned" if dry else "Planned"
    return render(request, PlannedPage(title, "rules", rule, mode, object, filter, done, dry))


def own_recipe(workspace: Workspace) -> Recipe:
    """Return the recipe of the workspace: its `default.toml` over the shipped defaults."""
    default = workspace.recipes_folder / "default.toml"
    return read_recipe([default] if default.is_file() else [], [])

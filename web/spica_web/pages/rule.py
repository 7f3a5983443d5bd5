"""The rule room: a rule as text, what it takes, why it leaves out the rest, what would come of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from spica.db.overview import list_images
from spica.db.person import Person
from spica.db.rule import RuleEntry, RuleVersion, list_rules, read_version
from spica.db.selection import compile_rule, judge
from spica.db.snapshot import FailedClause, Snapshot, failed_clauses, ordered
from spica.db.tables.image import ImageRow
from spica.model.errors import RecipeError
from spica.model.image import ImageState
from spica.model.overview import ImageEntry
from spica.model.selection import DEFAULT_RULE, FIELDS, Field, Rule, format_rule, parse_rule, rule_sha256
from spica.model.selection.shipped import ShippedRule, shipped_rules
from spica_web.deps import Site, Visitor, site_of
from spica_web.pages import launch, saved
from spica_web.pages.launch import recipe_names
from spica_web.public import is_guest
from spica_web.query import ImageQuery, Paging, RuleFault, fault_of, read_page, read_query
from spica_web.render import Page, render
from spica_web.tally import Bounds, Choices, Split, Tally, choices, part, tally

router = APIRouter()
router.include_router(saved.router)
router.include_router(launch.router)

PAGE_ROWS = 100
MAX_CLAUSES = 40
_SAVED = re.compile(r"([0-9]{1,9}):([0-9]{1,6})")
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
    """What a rule takes and leaves out, the stacks it would make, and the rules that are saved.

    `saved` is the version that the text came from, `changed` whether it reads otherwise by now.
    """

    template: ClassVar[str] = "rules.html"
    title: str
    nav: str
    query: ImageQuery
    facets: Choices
    fault: RuleFault | None
    spelled: str
    found: Tally | None
    chosen: list[ImageEntry]
    left_out: list[OutEntry]
    clauses: list[FailedClause]
    pages_in: Paging
    pages_out: Paging
    command: str
    fields: tuple[Field, ...]
    examples: tuple[str, ...]
    shipped: tuple[ShippedRule, ...]
    rules: list[RuleEntry]
    saved: RuleVersion | None
    changed: bool
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class _Judged:
    found: Tally | None
    chosen: list[ImageEntry]
    left_out: list[OutEntry]
    clauses: list[FailedClause]
    pages_in: Paging
    pages_out: Paging


NOTHING = _Judged(None, [], [], [], Paging(1, PAGE_ROWS, 0), Paging(1, PAGE_ROWS, 0))


@router.get("/rules", response_class=HTMLResponse)
def rules_page(request: Request, person: Visitor) -> HTMLResponse:
    """Judge all candidates by the rule of the address, or show what a rule may say."""
    site, words = site_of(request), request.query_params
    query, snapshot = read_query(words), site.snapshot()
    fault, rule, split = None, None, None
    try:
        rule = parse_rule(query.rule) if query.rule else None
        split = None if rule is None else part(snapshot, rule, bounds_of(query), site.workspace.object_aliases)
    except RecipeError as trouble:
        fault = fault_of(query.rule, trouble)
    with site.read() as session:
        judged = NOTHING
        if rule is not None and split is not None:
            judged = _judge(session, site, snapshot, rule, split, query, words)
        version = _saved_version(session, words.get("saved", ""), person)
        rules = [] if is_guest(person) else list_rules(session)
    page = RulesPage(
        title="Rules",
        nav="rules",
        query=query,
        facets=choices(snapshot),
        fault=fault,
        spelled="" if rule is None or fault else format_rule(rule),
        found=judged.found,
        chosen=judged.chosen,
        left_out=judged.left_out,
        clauses=judged.clauses,
        pages_in=judged.pages_in,
        pages_out=judged.pages_out,
        command=command_line(query, version),
        fields=tuple(FIELDS.values()),
        examples=(DEFAULT_RULE, *EXAMPLES),
        shipped=shipped_rules(),
        rules=rules,
        saved=version,
        changed=version is not None and (rule is None or rule_sha256(rule) != version.rule_sha256),
        recipes=recipe_names(site.workspace),
    )
    return render(request, page)


def bounds_of(query: ImageQuery) -> Bounds:
    """Return what bounds the candidates: everything but the rule itself."""
    return Bounds(query.object, query.filter, query.night)


def _saved_version(session: Session, words: str, person: Person) -> RuleVersion | None:
    match = _SAVED.fullmatch(words)
    if match is None or is_guest(person):
        return None
    return read_version(session, int(match[1]), int(match[2]))


def _judge(
    session: Session,
    site: Site,
    snapshot: Snapshot,
    rule: Rule,
    split: Split,
    query: ImageQuery,
    words: Mapping[str, str],
) -> _Judged:
    """Count from the snapshot; judge the rows that are shown once more by the database."""
    pages_in = Paging(read_page({"page": words.get("in", "1")}), PAGE_ROWS, int(split.taken.size))
    pages_out = Paging(read_page({"page": words.get("out", "1")}), PAGE_ROWS, int(split.out.size))
    taken = ordered(snapshot, split.taken, query.sort, (pages_in.page - 1) * PAGE_ROWS, PAGE_ROWS)
    out = split.out[(pages_out.page - 1) * PAGE_ROWS :][:PAGE_ROWS]
    ids = snapshot.images.id[taken].tolist()
    usable = [ImageRow.state != ImageState.REJECTED, ImageRow.quality_id.is_not(None)]
    where = [ImageRow.id.in_(ids), *usable, compile_rule(rule)]
    place = {i: n for n, i in enumerate(ids)}
    chosen = sorted(list_images(session, site.workspace, where), key=lambda i: place[i.id]) if ids else []
    left_out = _left_out(session, rule, snapshot.images.id[out])
    clauses = failed_clauses(snapshot, rule, split.out, usable=True)[:MAX_CLAUSES]
    return _Judged(tally(snapshot, split), chosen, left_out, clauses, pages_in, pages_out)


def _left_out(session: Session, rule: Rule, ids: np.ndarray) -> list[OutEntry]:
    if not ids.size:
        return []
    judged = judge(session, rule, [ImageRow.id.in_(ids.tolist())], footprints=False)
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


def command_line(query: ImageQuery, version: RuleVersion | None = None) -> str:
    """Return the command that plans stacks by this rule, by its name where it is a saved one unchanged."""
    rule = query.rule or DEFAULT_RULE
    if version is not None and query.rule == version.text:
        rule = f"@{version.label}"
    words = ["spica", "schedule", "survey", "--rule", rule]
    words += ["--object", query.object] if query.object else []
    words += ["--filter", query.filter] if query.filter else []
    return shlex.join(words)

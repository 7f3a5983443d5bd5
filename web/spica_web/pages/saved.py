"""Saved rules: a page each with its versions, two of them compared, saving, renaming, putting away."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from spica.db.person import Person
from spica.db.rule import (
    RuleEntry,
    RuleVersion,
    list_rules,
    read_rule,
    read_version,
    rename_rule,
    retire_rule,
    rule_versions,
    save_rule,
)
from spica.db.selection import judge
from spica.db.snapshot import Snapshot
from spica.db.tables.image import ImageRow
from spica.model.errors import UsageError
from spica.model.person import PersonRole
from spica.model.selection import Rule, parse_rule
from spica_web.deps import Grader, Viewer, site_of
from spica_web.errors import MissingError
from spica_web.render import Page, render
from spica_web.tally import Bounds, Choices, Group, choices, part, whole_of

router = APIRouter()
MAX_SHOWN = 200
_SIDE = re.compile(r"([0-9]{1,9})(?::([0-9]{1,6}))?")


@dataclass(frozen=True)
class RulePage(Page):
    """One saved rule with all its versions."""

    template: ClassVar[str] = "rule.html"
    title: str
    nav: str
    rule: RuleEntry
    versions: list[RuleVersion]
    others: list[RuleEntry]
    mine: bool


@router.get("/rules/{rule_id:int}", response_class=HTMLResponse)
def rule_page(request: Request, person: Viewer, rule_id: int) -> HTMLResponse:
    """Show a saved rule."""
    with site_of(request).read() as session:
        rule = read_rule(session, rule_id)
        if rule is None:
            raise MissingError(f"there is no rule {rule_id}; look at the list of rules")
        versions = rule_versions(session, rule_id)
        others = [r for r in list_rules(session) if r.id != rule_id]
    page = RulePage(rule.name, "rules", rule, versions, others, _may_change(person, rule))
    return render(request, page)


def _may_change(person: Person, rule: RuleEntry) -> bool:
    own = rule.owner_id == person.id and person.role.may(PersonRole.GRADER)
    return own or person.role.may(PersonRole.OPERATOR)


# Acts -----------------------------------------------------------------------------------------------------------------


@router.post("/rules/save")
def save(
    request: Request,
    person: Grader,
    rule: Annotated[str, Form(max_length=10_000)],
    name: Annotated[str, Form(max_length=500)],
    note: Annotated[str, Form(max_length=4000)] = "",
) -> RedirectResponse:
    """Save a rule under a name: a new rule, or the next version of a known one; go on with it in the room."""
    with site_of(request).database.begin() as session:
        kept = save_rule(session, name, rule, person.id, note)
    words = {"rule": rule, "saved": f"{kept.rule_id}:{kept.number}"}
    return RedirectResponse(f"/rules?{urlencode(words)}", status_code=303)


@router.post("/rules/{rule_id:int}/rename")
def rename(
    request: Request, person: Grader, rule_id: int, name: Annotated[str, Form(max_length=500)]
) -> RedirectResponse:
    """Give a rule another name."""
    with site_of(request).database.begin() as session:
        rename_rule(session, rule_id, name, person.id)
    return RedirectResponse(f"/rules/{rule_id}", status_code=303)


@router.post("/rules/{rule_id:int}/retire")
def retire(request: Request, person: Grader, rule_id: int, back: Annotated[bool, Form()] = False) -> RedirectResponse:
    """Put a rule away, or take it out again."""
    with site_of(request).database.begin() as session:
        retire_rule(session, rule_id, person.id, back=back)
    return RedirectResponse(f"/rules/{rule_id}", status_code=303)


# Two of them ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One of two rules compared: its name, its text, its address, and what it takes."""

    name: str
    link: str
    text: str
    whole: Group


@dataclass(frozen=True)
class Changed:
    """An exposure that one rule takes and the other does not: the clause of the other that keeps it out."""

    id: int
    name: str
    object: str | None
    filter: str | None
    clause: str
    value: str


@dataclass(frozen=True)
class RuleDiffPage(Page):
    """What the second of two rules gains and loses against the first."""

    template: ClassVar[str] = "rulediff.html"
    title: str
    nav: str
    a: Side
    b: Side
    words: dict[str, str]
    facets: Choices
    both: int
    n_gained: int
    n_lost: int
    gained: list[Changed]
    lost: list[Changed]
    age_s: float


@router.get("/rules/compare", response_class=HTMLResponse)
def compare(
    request: Request,
    person: Viewer,
    a: Annotated[str, Query(max_length=20)],
    b: Annotated[str, Query(max_length=20)] = "",
    rule: Annotated[str, Query(max_length=10_000)] = "",
    object: Annotated[str, Query(max_length=500)] = "",
    filter: Annotated[str, Query(max_length=100)] = "",
) -> HTMLResponse:
    """Compare two saved versions (`ID:NUMBER`, or `ID` for the newest), or one with a rule as text."""
    site = site_of(request)
    snapshot, bounds, aliases = site.snapshot(), Bounds(object, filter), site.workspace.object_aliases
    with site.read() as session:
        first = _side(session, a)
        second = _side(session, b) if b else ("this text", f"/rules?{urlencode({'rule': rule})}", rule)
        rules = parse_rule(first[2]), parse_rule(second[2])
        rows = [part(snapshot, r, bounds, aliases).taken for r in rules]
        gained, lost = np.setdiff1d(rows[1], rows[0], True), np.setdiff1d(rows[0], rows[1], True)
        page = RuleDiffPage(
            title=f"{first[0]} and {second[0]}",
            nav="rules",
            a=Side(*first, _whole(snapshot, rows[0])),
            b=Side(*second, _whole(snapshot, rows[1])),
            words={"a": a, "b": b, "rule": rule, "object": object, "filter": filter},
            facets=choices(snapshot),
            both=int(rows[0].size - lost.size),
            n_gained=int(gained.size),
            n_lost=int(lost.size),
            gained=_changed(session, snapshot, gained, rules[0]),
            lost=_changed(session, snapshot, lost, rules[1]),
            age_s=snapshot.age_s,
        )
    return render(request, page)


def _side(session: Session, words: str) -> tuple[str, str, str]:
    """Return name, address and text of a version."""
    match = _SIDE.fullmatch(words)
    if match is None:
        raise UsageError(f"{words!r} names no version of a rule; write for example 3:2, the second of rule 3")
    found = read_version(session, int(match[1]), int(match[2]) if match[2] else None)
    if found is None:
        raise MissingError(f"there is no version {words}; look at the page of the rule")
    return f"{found.name}, version {found.number}", f"/rules/{found.rule_id}", found.text


def _whole(snapshot: Snapshot, rows: NDArray[np.int64]) -> Group:
    images = snapshot.images
    return whole_of(images.exptime[rows], images.seeing[rows], images.limiting_mag[rows])


def _changed(session: Session, snapshot: Snapshot, rows: NDArray[np.int64], other: Rule) -> list[Changed]:
    """Return the first of some rows with the clause of the rule that does not take them, judged by the database."""
    ids = snapshot.images.id[rows[:MAX_SHOWN]].tolist()
    if not ids:
        return []
    judged = judge(session, other, [ImageRow.id.in_(ids)], footprints=False)
    return [
        Changed(
            o.candidate.image_id,
            o.candidate.name,
            o.candidate.object,
            o.candidate.filter,
            o.clause.text,
            o.clause.value,
        )
        for o in judged.left_out
    ]

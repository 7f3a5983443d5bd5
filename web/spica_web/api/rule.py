"""Rules while they are written: read, counted, completed, and how what they take is spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from spica.db.snapshot import FailedClause, failed_clauses, judge_rows
from spica.db.snapshot.columns import KINDS
from spica.model.errors import RecipeError
from spica.model.image import ImageKind
from spica.model.selection import Rule, RuleError, format_rule, parse_rule
from spica.model.selection.complete import Completion, complete_rule
from spica_web.api.answer import answer
from spica_web.deps import Visitor, site_of
from spica_web.draw.coverage import Coverage, draw_coverage
from spica_web.tally import Bounds, FieldSpread, Tally, known_words, part, spreads, tally

router = APIRouter(prefix="/api", tags=["rules"])
MAX_CLAUSES = 40
RuleText = Annotated[str, Query(max_length=10_000, description="text of the rule")]
ObjectWord = Annotated[str, Query(max_length=500, description="only this object")]
FilterWord = Annotated[str, Query(max_length=100, description="only this filter")]
NightWord = Annotated[str, Query(max_length=10, description="only this night, YYYY-MM-DD")]


@dataclass(frozen=True)
class RuleCheck:
    """Whether a rule can be read, its one spelling, how many exposures it takes of how many; else where it is wrong."""

    ok: bool
    spelled: str | None
    taken: int | None
    total: int | None
    message: str | None = None
    column: int | None = None
    word: str | None = None
    suggestion: str | None = None


@dataclass(frozen=True)
class RulePreview:
    """A rule as `RuleCheck` says, and what it takes: counts, exposure time, predicted stacks; of the snapshot."""

    ok: bool
    spelled: str | None
    found: Tally | None
    message: str | None = None
    column: int | None = None
    word: str | None = None
    suggestion: str | None = None


@dataclass(frozen=True)
class RuleSpreads:
    """How fields are spread with the rule's cuts, which clauses fail, and where on the sky; `ok` False: a fault."""

    ok: bool
    fields: tuple[FieldSpread, ...] = ()
    clauses: tuple[FailedClause, ...] = ()
    coverage: Coverage | None = None


@router.get("/rules/check", response_model=RuleCheck)
def check(request: Request, person: Visitor, rule: RuleText) -> JSONResponse:
    """Read a rule and count what it takes of all exposures, whether they can be used or not."""
    try:
        parsed = parse_rule(rule)
        snapshot = site_of(request).snapshot()
        truth = judge_rows(snapshot, parsed)
    except RecipeError as fault:
        return answer(RuleCheck(False, None, None, None, *_told(fault)))
    exposures = snapshot.images.kind == KINDS.index(ImageKind.EXPOSURE)
    taken = int(np.count_nonzero(exposures & (truth == 1)))
    return answer(RuleCheck(True, format_rule(parsed), taken, int(np.count_nonzero(exposures))))


def _told(fault: RecipeError) -> tuple[str, int | None, str | None, str | None]:
    """Return message, column from 1, word and suggestion of a fault."""
    if isinstance(fault, RuleError):
        return str(fault), fault.column, fault.word, fault.suggestion
    return str(fault), None, None, None


def _parsed(rule: str) -> Rule:
    return parse_rule(rule.strip("\0"))


@router.get("/rules/preview", response_model=RulePreview)
def preview(
    request: Request,
    person: Visitor,
    rule: RuleText = "",
    object: ObjectWord = "",
    filter: FilterWord = "",
    night: NightWord = "",
) -> JSONResponse:
    """Count what a rule takes of the candidates, and predict its stacks."""
    site = site_of(request)
    try:
        parsed, snapshot = _parsed(rule), site.snapshot()
        split = part(snapshot, parsed, Bounds(object, filter, night), site.workspace.object_aliases)
    except RecipeError as fault:
        return answer(RulePreview(False, None, None, *_told(fault)))
    return answer(RulePreview(True, format_rule(parsed), tally(snapshot, split)))


@router.get("/rules/spreads", response_model=RuleSpreads)
def rule_spreads(
    request: Request,
    person: Visitor,
    rule: RuleText = "",
    object: ObjectWord = "",
    filter: FilterWord = "",
    night: NightWord = "",
) -> JSONResponse:
    """Return distributions with the rule's cuts, counts by failing clause, and the coverage of the sky."""
    site = site_of(request)
    try:
        parsed, snapshot = _parsed(rule), site.snapshot()
        split = part(snapshot, parsed, Bounds(object, filter, night), site.workspace.object_aliases)
    except RecipeError:
        return answer(RuleSpreads(False))
    clauses = failed_clauses(snapshot, parsed, split.out, usable=True)[:MAX_CLAUSES]
    fields = tuple(spreads(snapshot, parsed, split))
    return answer(RuleSpreads(True, fields, tuple(clauses), draw_coverage(snapshot, split)))


@router.get("/rules/complete", response_model=Completion)
def complete(
    request: Request,
    person: Visitor,
    rule: RuleText = "",
    at: Annotated[int | None, Query(ge=0, le=10_000, description="cursor, from 0; by default the end")] = None,
) -> JSONResponse:
    """Return what may stand at the cursor of a rule, with what each word means."""
    return answer(complete_rule(rule, at, known_words(site_of(request).snapshot())))

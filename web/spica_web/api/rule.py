"""Rules checked while they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from spica.db.pages.listing import count_images
from spica.db.selection import compile_rule
from spica.model.errors import RecipeError
from spica.model.image import ImageKind
from spica.model.selection import RuleError, format_rule, parse_rule
from spica_web.api.answer import answer
from spica_web.deps import Visitor, site_of

router = APIRouter(prefix="/api", tags=["rules"])


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


@router.get("/rules/check", response_model=RuleCheck)
def check(
    request: Request, person: Visitor, rule: Annotated[str, Query(max_length=10_000, description="text of the rule")]
) -> JSONResponse:
    """Read a rule and count what it takes."""
    try:
        parsed = parse_rule(rule)
        where = [compile_rule(parsed)]
    except RuleError as fault:
        return answer(RuleCheck(False, None, None, None, str(fault), fault.column, fault.word, fault.suggestion))
    except RecipeError as fault:
        return answer(RuleCheck(False, None, None, None, str(fault)))
    with site_of(request).read() as session:
        taken, total = count_images(session, where, ImageKind.EXPOSURE)
    return answer(RuleCheck(True, format_rule(parsed), taken, total))

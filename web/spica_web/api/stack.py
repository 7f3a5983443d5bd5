"""Stacks as JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from spica.db.cone import compile_near
from spica.db.overview import list_stacks
from spica.db.pages.listing import count_images
from spica.db.tables.image import ImageRow
from spica.model.image import ImageKind
from spica.model.overview import StackEntry
from spica.model.selection import parse_rule
from spica_web.api.answer import Limit, Offset, answer_to
from spica_web.api.image import Rule, need_image
from spica_web.deps import Visitor, site_of
from spica_web.errors import MissingError
from spica_web.public import shown_stack

router = APIRouter(prefix="/api", tags=["stacks"])


@router.get("/stacks", response_model=list[StackEntry])
def stacks(
    request: Request, person: Visitor, rule: Rule = None, limit: Limit = 200, offset: Offset = 0
) -> JSONResponse:
    """List stacks and calibrated copies, those for which the rule is true, by id."""
    site = site_of(request)
    where = [compile_near(parse_rule(rule))] if rule else []
    with site.read() as session:
        total = sum(count_images(session, where, k)[0] for k in (ImageKind.STACK, ImageKind.CALIBRATED))
        rows = list_stacks(session, site.workspace, where, limit=limit, offset=offset)
    return answer_to(person, site.workspace, [shown_stack(person, row) for row in rows], total)


@router.get("/stacks/{stack}", response_model=StackEntry)
def stack_by_name(request: Request, person: Visitor, stack: str) -> JSONResponse:
    """Return one stack or calibrated copy by name or id."""
    site = site_of(request)
    with site.read() as session:
        row = need_image(session, stack)
        found = list_stacks(session, site.workspace, [ImageRow.id == row.id])
    if not found:
        raise MissingError(f"{row.name} is an exposure; see /api/images/{row.id}")
    return answer_to(person, site.workspace, shown_stack(person, found[0]))

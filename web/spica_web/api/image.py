"""Images as JSON."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from spica.db.cone import compile_near
from spica.db.image import find_image, near_names
from spica.db.overview import list_images
from spica.db.pages.listing import count_images
from spica.db.tables.image import ImageRow
from spica.model.image import ImageKind
from spica.model.overview import ImageEntry
from spica.model.selection import parse_rule
from spica_web.api.answer import Limit, Offset, answer_to
from spica_web.deps import Visitor, site_of
from spica_web.errors import MissingError
from spica_web.public import shown_image

router = APIRouter(prefix="/api", tags=["images"])
Rule = Annotated[str | None, Query(max_length=10_000, description="selection rule")]


@router.get("/images", response_model=list[ImageEntry])
def images(
    request: Request,
    person: Visitor,
    rule: Rule = None,
    kind: ImageKind = ImageKind.EXPOSURE,
    limit: Limit = 200,
    offset: Offset = 0,
) -> JSONResponse:
    """List images of a kind, those for which the rule is true, by id."""
    site = site_of(request)
    where = [compile_near(parse_rule(rule))] if rule else []
    with site.read() as session:
        total, _ = count_images(session, where, kind)
        rows = list_images(session, site.workspace, where, kind=kind, limit=limit, offset=offset)
    return answer_to(person, site.workspace, [shown_image(person, row) for row in rows], total)


@router.get("/images/{image}", response_model=ImageEntry)
def image_by_name(request: Request, person: Visitor, image: str) -> JSONResponse:
    """Return one image by name or id."""
    site = site_of(request)
    with site.read() as session:
        row = need_image(session, image)
        found = list_images(session, site.workspace, [ImageRow.id == row.id], kind=None)
    return answer_to(person, site.workspace, shown_image(person, found[0]))


def need_image(session: Session, image: str) -> ImageRow:
    """Return an image by name or id; MissingError, with names like it, where there is none."""
    plain = image.replace("\0", "")
    row = find_image(session, plain)
    if row is None:
        near = ", ".join(near_names(session, plain))
        hint = f"did you mean {near}?" if near else "see /api/images"
        raise MissingError(f"there is no image {plain!r}; {hint}")
    return row

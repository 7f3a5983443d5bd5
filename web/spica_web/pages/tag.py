"""Tags: put on and taken off one image, put on all that a rule takes, listed with their colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.person import audit
from spica.db.selection import compile_rule
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tag import COLOURS, TagEntry, check_word, list_tags, set_colour, tag_images, untag_images
from spica.model.errors import UsageError
from spica.model.image import ImageKind
from spica.model.selection import format_rule, list_names, parse_rule
from spica_web.deps import Grader, Visitor, site_of
from spica_web.pages.image import need_image
from spica_web.render import Page, render

router = APIRouter()
MOST_TAGGED = 200_000
Word = Annotated[str, Form(max_length=200)]


@dataclass(frozen=True)
class TagsPage(Page):
    """All tags; `rule`, `name` and `count` of a tag that is about to be put on what a rule takes (None: nothing is)."""

    template: ClassVar[str] = "tags.html"
    title: str
    nav: str
    tags: list[TagEntry]
    colours: tuple[str, ...]
    rule: str
    name: str
    count: int | None
    most: int


@router.get("/tags", response_class=HTMLResponse)
def tags_page(request: Request, person: Visitor, rule: str = "", name: str = "") -> HTMLResponse:
    """Show the tags with the number of images that bear them."""
    with site_of(request).read() as session:
        tags = list_tags(session)
    page = TagsPage("Tags", "exposures", tags, COLOURS, rule[:10_000], name[:40], None, MOST_TAGGED)
    return render(request, page)


@router.post("/tags/colour")
def colour_tag(request: Request, person: Grader, name: Word, colour: Word) -> Response:
    """Choose the colour of a tag."""
    with site_of(request).database.begin() as session:
        set_colour(session, name, colour)
        audit(session, person.id, "colour_tag", "tag:0", f"{name} {colour}")
    return RedirectResponse("/tags", status_code=303)


@router.post("/tags/apply", response_class=HTMLResponse)
def apply_tag(
    request: Request,
    person: Grader,
    rule: Annotated[str, Form(max_length=10_000)],
    name: Word,
    sure: Annotated[bool, Form()] = False,
) -> Response:
    """Say on how many exposures a rule would put a tag; with `sure` put it on them."""
    site, word, read = site_of(request), check_word(name), parse_rule(rule)
    if list_names(read):
        raise UsageError("lists lie in files of the command line's host; write a rule without list()")
    where = (ImageRow.kind == ImageKind.EXPOSURE, compile_rule(read))
    joined = select(ImageRow.id).outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id).where(*where)
    if not sure:
        with site.read() as session:
            count = session.scalar(select(func.count()).select_from(joined.subquery())) or 0
            tags = list_tags(session)
        page = TagsPage("Tags", "exposures", tags, COLOURS, format_rule(read), word, count, MOST_TAGGED)
        return render(request, page)
    with site.database.begin() as session:
        ids = list(session.scalars(joined.order_by(ImageRow.id).limit(MOST_TAGGED + 1)))
        if len(ids) > MOST_TAGGED:
            raise UsageError(f"the rule takes more than {MOST_TAGGED} exposures; narrow it")
        made = tag_images(session, ids, word, person.id)
        audit(session, person.id, "tag", "tag:0", f"{word} on {made} by {format_rule(read)}"[:2000])
    return RedirectResponse("/tags", status_code=303)


@router.post("/images/{image_id}/tags")
def tag_image(request: Request, person: Grader, image_id: int, name: Word) -> Response:
    """Put a tag on an image."""
    with site_of(request).database.begin() as session:
        room = _room(session, image_id)
        if tag_images(session, [image_id], name, person.id):
            audit(session, person.id, "tag", f"image:{image_id}", check_word(name))
    return RedirectResponse(f"/{room}/{image_id}#tags", status_code=303)


@router.post("/images/{image_id}/tags/remove")
def untag_image(request: Request, person: Grader, image_id: int, name: Word) -> Response:
    """Take a tag off an image."""
    with site_of(request).database.begin() as session:
        room = _room(session, image_id)
        if untag_images(session, [image_id], name):
            audit(session, person.id, "untag", f"image:{image_id}", name)
    return RedirectResponse(f"/{room}/{image_id}#tags", status_code=303)


def _room(session: Session, image_id: int) -> str:
    image, _ = need_image(session, image_id)
    return "images" if image.kind is ImageKind.EXPOSURE else "stacks"

"""One exposure: its picture, measures, grade, and all that was decided about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.calibration import Master, masters_of
from spica.db.grade import add_grade, withdraw_grade
from spica.db.mark import MarkEntry, marks_of
from spica.db.pages.image import (
    DetectorEntry,
    FileEntry,
    GradeEntry,
    OutcomeEntry,
    ProductEntry,
    image_outcomes,
    read_detectors,
    read_file_entry,
    read_grades,
    read_header,
    read_products,
    read_reasons,
    read_solved,
)
from spica.db.pages.listing import Place, distributions
from spica.db.person import Person, audit
from spica.db.snapshot import Snapshot
from spica.db.tables.calibration import CalibrationUseRow
from spica.db.tables.image import ImageReasonRow, ImageRow, MeasureRow
from spica.db.tables.quality import GradeRow, SolutionImageRow
from spica.db.tag import TagEntry, known_tags, tags_of
from spica.files.header import Card, unpack_headers
from spica.model.errors import ConflictError, RecipeError, TransientError
from spica.model.grade import COMMENTS, Grade, GradeSource
from spica.model.image import ImageKind
from spica.model.person import PersonRole
from spica.scheduling.why import Why, why_image
from spica_web.deps import Grader, Site, Viewer, Visitor, site_of
from spica_web.errors import MissingError
from spica_web.pages.measures import MeasureLine, grade_limits, measure_lines
from spica_web.public import is_guest, shown_grades
from spica_web.query import ImageQuery, place_in, read_query
from spica_web.render import Page, render

router = APIRouter()
PICTURES = ("image/png", "image/jpeg")
MAX_STACKS = 60


@dataclass(frozen=True)
class TagsPanel:
    """The tags of an image, and words to offer."""

    image_id: int
    tags: list[TagEntry]
    known: list[TagEntry]


@dataclass(frozen=True)
class MarksPanel:
    """The marks of an image, and who looks: `may_any` takes back others' too; `drawable`: there is a picture."""

    image_id: int
    marks: list[MarkEntry]
    person_id: int
    may_any: bool
    drawable: bool


@dataclass(frozen=True)
class ImagePage(Page):
    """An exposure within its list."""

    template: ClassVar[str] = "image.html"
    title: str
    nav: str
    image: ImageRow
    measure: MeasureRow | None
    lines: list[MeasureLine]
    reasons: list[ImageReasonRow]
    preview: ProductEntry | None
    mosaic: ProductEntry | None
    plots: list[ProductEntry]
    products: list[ProductEntry]
    detectors: list[DetectorEntry]
    grades: list[GradeEntry]
    machine: GradeEntry | None
    standing: GradeRow | None
    own_grade: int | None
    comments: tuple[str, ...]
    marks: MarksPanel
    tags: TagsPanel
    why: list[Why]
    asked: str
    answers: list[Why]
    outcomes: list[OutcomeEntry]
    file: FileEntry | None
    solved: SolutionImageRow | None
    masters: list[tuple[Master, CalibrationUseRow]]
    place: Place | None
    query: ImageQuery
    graded: tuple[int, str] | None


@router.get("/images/{image_id}", response_class=HTMLResponse)
def image_page(request: Request, person: Visitor, image_id: int) -> Response:
    """Show an exposure; stacks and calibrated copies have pages of their own."""
    site, query = site_of(request), read_query(request.query_params)
    with site.read() as session:
        image, measure = need_image(session, image_id)
        if image.kind is not ImageKind.EXPOSURE:
            return RedirectResponse(f"/stacks/{image_id}", status_code=303)
        words = request.query_params
        page = _read_page(session, site, person, image, measure, query, words.get("graded"), words.get("why", ""))
    return render(request, page)


def _read_page(
    session: Session,
    site: Site,
    person: Person,
    image: ImageRow,
    measure: MeasureRow | None,
    query: ImageQuery,
    graded: str | None,
    asked: str,
) -> ImagePage:
    snapshot = columns_of(site)
    limits = grade_limits(site.instruments, image.instrument, image.filter)
    products = read_products(session, image.id)
    grades = shown_grades(person, read_grades(session, image.id))
    return ImagePage(
        title=image.name,
        nav="exposures",
        image=image,
        measure=measure,
        lines=measure_lines(measure, {} if snapshot is None else distributions(snapshot, image.id), limits),
        reasons=read_reasons(session, image.id),
        preview=preview_of(products),
        mosaic=mosaic_of(products),
        plots=plots_of(products),
        products=products,
        detectors=read_detectors(session, image),
        grades=grades,
        machine=machine_grade(grades),
        standing=standing_grade(grades, image),
        own_grade=own_grade(grades, person),
        comments=COMMENTS,
        marks=read_marks(session, image, person, drawable=preview_of(products) is not None),
        tags=read_tags(session, image.id, person),
        why=why_image(session, image.id, limit=MAX_STACKS),
        asked=asked.strip()[:200],
        answers=_answers(session, image, asked.strip()[:200]),
        outcomes=image_outcomes(session, image.id),
        file=None if is_guest(person) else read_file_entry(session, image.file_id),
        solved=read_solved(session, image),
        masters=masters_of(session, image.id),
        place=place_of(site, snapshot, image.id, query),
        query=query,
        graded=_graded(session, graded),
    )


def need_image(session: Session, image_id: int) -> tuple[ImageRow, MeasureRow | None]:
    """Return an image with its measures; MissingError where there is none."""
    image = session.get(ImageRow, image_id) if 0 < image_id < 2**62 else None
    if image is None:
        raise MissingError(f"there is no image {image_id}; see the list of exposures")
    return image, session.get(MeasureRow, image_id)


def preview_of(products: list[ProductEntry]) -> ProductEntry | None:
    """Return the newest picture of the whole image."""
    return next((p for p in products if p.role == "preview" and p.media_type in PICTURES), None)


def mosaic_of(products: list[ProductEntry]) -> ProductEntry | None:
    """Return the newest mosaic that the viewer can stretch."""
    return next((p for p in products if p.role == "mosaic" and p.media_type == "image/jpeg"), None)


def read_marks(session: Session, image: ImageRow, person: Person, *, drawable: bool) -> MarksPanel:
    """Return the marks of an image as a person sees them; visitors without a name see none."""
    marks = [] if is_guest(person) else marks_of(session, image.id)
    return MarksPanel(image.id, marks, person.id, person.role.may(PersonRole.OPERATOR), drawable)


def read_tags(session: Session, image_id: int, person: Person) -> TagsPanel:
    """Return the tags of an image, and the words that are offered to those who may tag."""
    offered = known_tags(session) if person.role.may(PersonRole.GRADER) else []
    return TagsPanel(image_id, tags_of(session, image_id), offered)


def _answers(session: Session, image: ImageRow, asked: str) -> list[Why]:
    """Return why an image is, or is not, in the stack that is asked for by name or number; empty where none is so."""
    if not asked:
        return []
    number = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else 0
    same = (ImageRow.name == asked) | (ImageRow.id == number)
    found = session.scalar(select(ImageRow.id).where(same, ImageRow.kind != ImageKind.EXPOSURE).limit(1))
    return [] if found is None else why_image(session, image.id, found)


def plots_of(products: list[ProductEntry]) -> list[ProductEntry]:
    """Return the plots of the newest attempt of each job that drew some."""
    newest: dict[int, int] = {}
    for p in products:
        newest.setdefault(p.job_id, p.attempt_id)
    return [p for p in products if p.role == "plot" and p.media_type in PICTURES and newest[p.job_id] == p.attempt_id]


def machine_grade(grades: list[GradeEntry]) -> GradeEntry | None:
    """Return the newest grade of the machine."""
    return next((g for g in grades if g.row.source is GradeSource.MACHINE), None)


def standing_grade(grades: list[GradeEntry], image: ImageRow) -> GradeRow | None:
    """Return the grade that counts."""
    return next((g.row for g in grades if g.row.id == image.grade_id), None)


def own_grade(grades: list[GradeEntry], person: Person) -> int | None:
    """Return the newest standing grade that this person gave."""
    mine = (g.row.id for g in grades if g.row.person_id == person.id and g.row.withdrawn_at is None)
    return next(mine, None)


def columns_of(site: Site) -> Snapshot | None:
    """Return all images as columns; None while they are first read, so that a page comes without them."""
    try:
        return site.snapshot()
    except TransientError:
        return None


def place_of(site: Site, snapshot: Snapshot | None, image_id: int, query: ImageQuery) -> Place | None:
    """Return where an exposure stands in the list it was opened from; None where that is not known."""
    if snapshot is None:
        return None
    try:
        return place_in(snapshot, query, image_id, site.workspace.object_aliases)
    except RecipeError:
        return None


def _graded(session: Session, word: str | None) -> tuple[int, str] | None:
    """Return the image that was graded just before, for the offer to take it back."""
    if word is None or not (word.isascii() and word.isdigit() and len(word) < 19):
        return None
    image = session.get(ImageRow, int(word))
    return None if image is None else (image.id, image.name)


# Grading --------------------------------------------------------------------------------------------------------------


@router.post("/images/{image_id}/grade")
def grade_image(
    request: Request,
    person: Grader,
    image_id: int,
    grade: Annotated[Grade, Form()],
    comment: Annotated[str, Form(max_length=2000)] = "",
    stay: Annotated[bool, Form()] = False,
) -> Response:
    """Give a grade and move on to the next of the list."""
    site, query = site_of(request), read_query(request.query_params)
    place = None if stay else place_of(site, columns_of(site), image_id, query)
    with site.database.begin() as session:
        image, _ = need_image(session, image_id)
        said = comment.strip().replace("\0", "") or None
        add_grade(session, image_id, GradeSource.HUMAN, grade, person_id=person.id, comment=said)
        audit(session, person.id, "grade", f"image:{image_id}", f"{grade.value} {said or ''}".strip())
        kind = image.kind
    if kind is not ImageKind.EXPOSURE:
        return RedirectResponse(f"/stacks/{image_id}", status_code=303)
    onward = place.next if place is not None and place.next is not None else image_id
    link = query.link(page=1)
    flash = f"{'&' if link else '?'}graded={image_id}"
    return RedirectResponse(f"/images/{onward}{link}{flash}", status_code=303)


@router.post("/images/{image_id}/withdraw")
def take_back(request: Request, person: Grader, image_id: int) -> Response:
    """Take back the newest standing grade that this person gave an image."""
    site, query = site_of(request), read_query(request.query_params)
    with site.database.begin() as session:
        image, _ = need_image(session, image_id)
        mine = own_grade(read_grades(session, image_id), person)
        if mine is None:
            raise ConflictError(f"you have no standing grade on {image.name}; reload the page")
        withdraw_grade(session, mine, person.id)
        audit(session, person.id, "withdraw_grade", f"image:{image_id}", str(mine))
        room = "images" if image.kind is ImageKind.EXPOSURE else "stacks"
    return RedirectResponse(f"/{room}/{image_id}{query.link(page=1)}", status_code=303)


# Header ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeaderPage(Page):
    """The cards of one header unit."""

    template: ClassVar[str] = "header.html"
    title: str
    nav: str
    image: ImageRow
    units: list[str]
    unit: int
    cards: list[Card]


@router.get("/images/{image_id}/header", response_class=HTMLResponse)
def header_page(request: Request, person: Viewer, image_id: int, unit: int = 0) -> HTMLResponse:
    """Show the header of one unit of an exposure's file, card by card."""
    with site_of(request).read() as session:
        image, _ = need_image(session, image_id)
        packed = read_header(session, image_id)
    if packed is None:
        raise MissingError(f"no header of {image.name} was kept; look at its file")
    headers = unpack_headers(packed)
    if not 0 <= unit < len(headers):
        raise MissingError(f"{image.name} has units 0 to {len(headers) - 1}; choose one of them")
    units = [f"{i} {h.get('EXTNAME') or ''}".strip() for i, h in enumerate(headers)]
    cards = [c for c in headers[unit].parsed() if c.keyword or c.comment or c.value]
    return render(request, HeaderPage(f"Header of {image.name}", "exposures", image, units, unit, cards))

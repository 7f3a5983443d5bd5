"""The grading room: its page, and the acts of its script as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.person import Person, audit
from spica.db.queue import (
    QueueItem,
    QueueKind,
    QueueOrder,
    SavedRule,
    belongs,
    claim_images,
    claimed_by,
    give_grade,
    gradable,
    read_items,
    read_saved_rules,
    release_claims,
    renew_claims,
    take_back,
)
from spica.db.tables.image import ImageRow
from spica.db.tables.person import PersonRow
from spica.model.errors import RecipeError
from spica.model.grade import COMMENTS, Grade
from spica.model.record import to_json
from spica_web.deps import Grader, Site, site_of
from spica_web.errors import MissingError
from spica_web.pages.measures import KINDS, grade_limits
from spica_web.query import RuleFault, fault_of
from spica_web.queueview import Choices, MeasureSpread, QueueWords, bounds_of, choices_of, spreads_of, view_of
from spica_web.render import Page, render
from spica_web.words import plain

router = APIRouter()
KIND_WORDS = {
    QueueKind.UNGRADED: "ungraded",
    QueueKind.SECOND: "second opinion, blind",
    QueueKind.DISAGREE: "grades differ",
    QueueKind.ALL: "all",
}
ORDER_WORDS = {QueueOrder.OLDEST: "oldest first", QueueOrder.WORST: "worst first"}
NIGHT = timedelta(hours=12)
"""How far back the pace of a grader is counted: the night that is going on."""
MAX_HELD = 200
Id = Annotated[int, Field(ge=1, lt=2**62)]


@dataclass(frozen=True)
class MeasureHead:
    """A row of the measures: its name, label, unit, decimals and meaning."""

    name: str
    label: str
    unit: str
    digits: int
    text: str


HEADS = tuple(MeasureHead(name, k.label, k.unit, k.digits, k.text) for name, k in KINDS.items())


@dataclass(frozen=True)
class QueuePage(Page):
    """The room; what it shows comes by the script."""

    template: ClassVar[str] = "queue.html"
    title: str
    nav: str
    words: QueueWords
    first: int | None
    choices: Choices
    kinds: dict[QueueKind, str]
    orders: dict[QueueOrder, str]
    saved: list[SavedRule]
    fault: RuleFault | None
    heads: tuple[MeasureHead, ...]
    comments: tuple[str, ...]


@router.get("/grade", response_class=HTMLResponse)
def queue_page(request: Request, person: Grader) -> HTMLResponse:
    """Show the grading room of one queue; a rule that cannot be read is marked, and no queue begins."""
    site, asked = site_of(request), request.query_params
    words, fault = read_words(asked), None
    try:
        bounds_of(site, words)
    except RecipeError as trouble:
        fault = fault_of(words.rule, trouble)
    number = asked.get("image", "")
    first = int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None
    with site.read() as session:
        saved = read_saved_rules(session)
    page = QueuePage(
        "Grade", "grade", words, first, choices_of(site), KIND_WORDS, ORDER_WORDS, saved, fault, HEADS, COMMENTS
    )
    return render(request, page)


def read_words(asked: Mapping[str, str]) -> QueueWords:
    """Return the queue that an address names; words that mean nothing are dropped."""
    texts = {name: asked.get(name, "").strip().replace("\0", "") for name in ("rule", "object", "filter", "night")}
    kind, order = asked.get("kind", ""), asked.get("order", "")
    return QueueWords(
        **{name: text[: 10_000 if name == "rule" else 200] for name, text in texts.items()},
        kind=QueueKind(kind) if kind in set(QueueKind) else QueueKind.UNGRADED,
        order=QueueOrder(order) if order in set(QueueOrder) else QueueOrder.OLDEST,
    )


# What the script asks ------------------------------------------------------------------------------------------------


class Asked(BaseModel):
    """The body of a request; unknown words are refused."""

    model_config = ConfigDict(extra="forbid")


class NextWanted(Asked):
    """Images wanted of a queue.

    `have`: ids that the room knows and does not want again; `hold`: those whose claims go on; `first`: an image to
    begin with, whether it waits or not; `spreads`: filters whose distributions the room knows.
    """

    queue: QueueWords = QueueWords()
    n: int = Field(12, ge=0, le=24)
    have: list[Id] = Field(default_factory=list, max_length=4000)
    hold: list[Id] = Field(default_factory=list, max_length=MAX_HELD)
    first: Id | None = None
    spreads: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=200)


class GradeWanted(Asked):
    """A grade given in the room; `known` makes a repeated request harmless (see `give_grade`)."""

    image_id: Id
    grade: Grade
    comment: str | None = Field(None, max_length=2000)
    seconds: float | None = Field(None, ge=0.0, le=3600.0)
    blind: bool = False
    known: int = Field(0, ge=0, lt=2**62)
    kind: QueueKind = QueueKind.UNGRADED


class UndoWanted(Asked):
    """A grade to take back."""

    grade_id: Id


class ReleaseWanted(Asked):
    """Images that the room lets go; none named: all."""

    ids: list[Id] | None = Field(None, max_length=MAX_HELD)


@dataclass(frozen=True)
class Progress:
    """How far a queue has come, and the pace of this person tonight."""

    done: int
    total: int
    disagree: int
    unready: int
    today: int
    mean_seconds: float | None


@dataclass(frozen=True)
class BandLimits:
    """Limits of a measure for grades A, B, C; `high` True where large values are bad."""

    a: float | None
    b: float | None
    c: float | None
    high: bool


@dataclass(frozen=True)
class NextGiven:
    """Images of the queue, claimed; `held` of those asked to hold; `limits` by instrument and filter."""

    items: list[QueueItem]
    held: list[int]
    progress: Progress
    refused: str | None
    spreads: dict[str, dict[str, MeasureSpread]]
    limits: dict[str, dict[str, BandLimits]]


@dataclass(frozen=True)
class GradeGiven:
    """A grade that stands, and its image with all that may be seen now."""

    grade_id: int
    repeated: bool
    blind: bool
    item: QueueItem


@dataclass(frozen=True)
class UndoGiven:
    """An image whose grade was taken back."""

    item: QueueItem


@dataclass(frozen=True)
class ReleaseGiven:
    """How many images were let go."""

    released: int


@router.post("/api/queue/next", response_model=NextGiven, tags=["grades"])
def next_images(request: Request, person: Grader, wanted: NextWanted) -> JSONResponse:
    """Claim the next images of a queue for this person, hold others for longer, and tell how far the queue has come."""
    site, words = site_of(request), wanted.queue
    bounds, blind = bounds_of(site, words), words.kind is QueueKind.SECOND
    view = view_of(site, words, person.id, datetime.now(UTC) - NIGHT)
    known = {*wanted.have, *wanted.hold}
    ids = [i for i in view.waiting if i not in known]
    refused = None
    with site.database.begin() as session:
        held = renew_claims(session, person.id, wanted.hold)
        got: list[int] = []
        if wanted.first is not None:
            got = claim_images(session, person.id, [wanted.first], 1, where=gradable())
            refused = None if got else _refusal(session, wanted.first)
        where = [*belongs(words.kind, person.id), *bounds.conditions()]
        got += claim_images(session, person.id, [i for i in ids if i not in got], wanted.n - len(got), where=where)
    with site.read() as session:
        items = [_spoken(i) for i in read_items(session, got, person.id, blind=blind)]
    spreads = spreads_of(site, {i.filter for i in items} - set(wanted.spreads))
    progress = Progress(view.done, view.total, view.disagree, view.unready, view.today, view.mean_seconds)
    given = NextGiven(items, held, progress, refused, spreads, limits_of(site, items))
    return JSONResponse(to_json(given))


@router.post("/api/queue/grade", response_model=GradeGiven, tags=["grades"])
def grade_one(request: Request, person: Grader, wanted: GradeWanted) -> JSONResponse:
    """Give an image of the queue a grade, once however often it is asked; its claim ends."""
    site = site_of(request)
    said = (wanted.comment or "").strip().replace("\0", "") or None
    blind = wanted.blind and wanted.kind is QueueKind.SECOND
    with site.database.begin() as session:
        given = give_grade(
            session,
            person.id,
            wanted.image_id,
            wanted.grade,
            comment=said,
            seconds=wanted.seconds,
            blind=blind,
            known=wanted.known,
        )
        if not given.repeated:
            audit(session, person.id, "grade", f"image:{wanted.image_id}", f"{wanted.grade.value} {said or ''}".strip())
    item = _item(site, person, wanted.image_id)
    return JSONResponse(to_json(GradeGiven(given.grade_id, given.repeated, given.blind, item)))


@router.post("/api/queue/undo", response_model=UndoGiven, tags=["grades"])
def undo_grade(request: Request, person: Grader, wanted: UndoWanted) -> JSONResponse:
    """Take back a grade of one's own and hold its image again."""
    site = site_of(request)
    with site.database.begin() as session:
        taken = take_back(session, person.id, wanted.grade_id)
        if not taken.repeated:
            audit(session, person.id, "withdraw_grade", f"image:{taken.image_id}", str(wanted.grade_id))
    return JSONResponse(to_json(UndoGiven(_item(site, person, taken.image_id))))


@router.post("/api/queue/release", response_model=ReleaseGiven, tags=["grades"])
def release_images(request: Request, person: Grader, wanted: ReleaseWanted) -> JSONResponse:
    """Let images go, so that others get them at once."""
    with site_of(request).database.begin() as session:
        released = release_claims(session, person.id, wanted.ids)
    return JSONResponse(to_json(ReleaseGiven(released)))


def _item(site: Site, person: Person, image_id: int) -> QueueItem:
    """Return an image that this person has graded, so that nothing of it is hidden."""
    with site.read() as session:
        found = read_items(session, [image_id], person.id)
    if not found:
        raise MissingError(f"there is no image {image_id}; go on with the next")
    return _spoken(found[0])


def _spoken(item: QueueItem) -> QueueItem:
    """Return an item with the machine's reasons as people say them."""
    if item.machine is None:
        return item
    reasons = tuple(plain(r) for r in item.machine.reasons)
    return dataclasses.replace(item, machine=dataclasses.replace(item.machine, reasons=reasons))


def _refusal(session: Session, image_id: int) -> str:
    """Return why an image that was asked for cannot be had."""
    name = session.scalar(select(ImageRow.name).where(ImageRow.id == image_id))
    if name is None:
        return f"there is no image {image_id}; the queue begins with its first"
    holder = claimed_by(session, image_id)
    if holder is not None:
        who = session.scalar(select(PersonRow.name).where(PersonRow.id == holder))
        return f"{who} has {name} before the eyes; the queue begins with the next"
    return f"{name} cannot be graded: it is no science exposure of known quality; the queue begins with the next"


def limits_of(site: Site, items: Sequence[QueueItem]) -> dict[str, dict[str, BandLimits]]:
    """Return the limits of grades for the cameras and filters of items.

    Those of blind items are left out: measures within limits would tell the machine's grade.
    """
    found: dict[str, dict[str, BandLimits]] = {}
    for item in items:
        key = f"{item.instrument} {item.filter}"
        if not item.blind and key not in found:
            limits: dict[str, Any] = grade_limits(site.instruments, item.instrument, item.filter)
            found[key] = {name: BandLimits(v.a, v.b, v.c, v.high) for name, v in limits.items()}
    return found

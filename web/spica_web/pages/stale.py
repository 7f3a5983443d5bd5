"""All stacks that are stale, each with its reasons; those marked are planned again, after a look at what would come."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import Field

from spica.db.stale import StaleCandidate, stale_candidates
from spica.model.errors import SpicaError, UsageError
from spica.scheduling.restack import Restacked, foretell_each, restack_each
from spica_web.deps import Operator, Site, Viewer, site_of
from spica_web.kept import shelf_of
from spica_web.render import Page, render
from spica_web.tables import table_response, wanted_form
from spica_web.tables_of import STALE, StaleEntry

router = APIRouter()
PAGE = 20
"""Stacks on a page: each is judged anew when it is shown."""
MAX_PLANS = 100
"""Stacks that are planned again at once."""
LIST_QUICK_S, COUNT_QUICK_S = 0.5, 0.1
LIST_REST, COUNT_REST = 4.0, 40.0
COUNT_WAIT_S = 0.25
LOOK_LIMIT_S = 120.0
log = logging.getLogger("spica_web")
Show = Literal["", "again", "same"]
StackId = Annotated[int, Field(ge=1, lt=2**62)]


@dataclass(frozen=True)
class StaleRow:
    """A stack of the list: what would come of planning it again, since when, and the plan under way."""

    one: Restacked
    changed_at: datetime
    again_id: int | None


@dataclass(frozen=True)
class StaleQuery:
    """What the list shows: the words of the address. `before` is the key of the last row of the page before."""

    show: Show = ""
    before: str = ""

    def link(self, **changes: str) -> str:
        """Return the address after some changes; a change of anything but the place begins at the newest."""
        values = {"show": self.show, "before": ""} | changes
        kept = {k: v for k, v in values.items() if v}
        return f"/stacks/stale?{urlencode(kept)}" if kept else "/stacks/stale"


@dataclass(frozen=True)
class StalePage(Page):
    """The list; `fresh` were looked at and would be the same today, so that they are not shown."""

    template: ClassVar[str] = "stalestacks.html"
    title: str
    nav: str
    query: StaleQuery
    rows: list[StaleRow]
    counts: dict[str, int]
    fresh: int
    older: str
    newest: str


@dataclass(frozen=True)
class StalePlansPage(Page):
    """What planning some stacks again would do (`dry`), or did: a line a stack."""

    template: ClassVar[str] = "stalerestack.html"
    title: str
    nav: str
    rows: list[Restacked]
    dry: bool


def known_stale(request: Request, quick_s: float = LIST_QUICK_S, rest: float = LIST_REST) -> list[StaleCandidate]:
    """Return the candidates of the survey, the newest change first.

    Where the last look took less than `quick_s` they are looked up for this request; on a larger survey they are a
    moment old, and are looked up again after `rest` times what it cost.
    """
    state, database = request.app.state, site_of(request).database

    def make() -> list[StaleCandidate]:
        start = time.monotonic()
        with database.read(LOOK_LIMIT_S) as session:
            found = stale_candidates(session)
        state.stale_cost_s = time.monotonic() - start
        return found

    if getattr(state, "stale_cost_s", 0.0) < quick_s:
        return make()
    return shelf_of(request).get("stale", time.monotonic_ns(), make, rest=rest)


def count_stale(request: Request) -> int:
    """Return how many stacks wait to be planned again: stale, and no plan under way.

    0 where a large survey was not looked through yet: the page that asks does not wait for that.
    """
    found: list[int] = []

    def look() -> None:
        try:
            found.append(len(_shown(known_stale(request, COUNT_QUICK_S, COUNT_REST), "")))
        except SpicaError as trouble:  # the next page asks again
            log.warning("stale stacks could not be counted: %s", trouble)

    looking = threading.Thread(target=look, name="spica-web-stale", daemon=True)
    looking.start()
    looking.join(COUNT_WAIT_S)
    return found[0] if found else 0


def _shown(known: Sequence[StaleCandidate], show: Show) -> list[StaleCandidate]:
    """Return those of a tab: to be planned, planned again, or judged again with the same stack to come."""
    return [c for c in known if _tab(c) == show]


def _tab(candidate: StaleCandidate) -> Show:
    return "again" if candidate.again_id is not None else "" if candidate.differs else "same"


def _key(candidate: StaleCandidate) -> str:
    return f"{round(candidate.changed_at.timestamp() * 1e6)}-{candidate.stack_id}"


def _after(found: Sequence[StaleCandidate], before: str) -> Sequence[StaleCandidate]:
    """Return the rows after a key; all of them where it is none."""
    moment, _, number = before.partition("-")
    if not all(w.isascii() and w.isdigit() and len(w) < 19 for w in (moment, number)):
        return found
    place = (-int(moment), -int(number))
    keys = [(-round(c.changed_at.timestamp() * 1e6), -c.stack_id) for c in found]
    return found[bisect_right(keys, place) :]


@router.get("/stacks/stale", response_class=HTMLResponse)
def stale_page(request: Request, person: Viewer) -> Response:
    """List the stacks that are stale, the newest change first."""
    site, form = site_of(request), wanted_form(request)
    word = request.query_params.get("show", "")
    show: Show = word if word in get_args(Show) else ""  # type: ignore[assignment]
    query = StaleQuery(show, request.query_params.get("before", "")[:60])
    known = known_stale(request)
    found = _shown(known, query.show)
    if form is not None:
        return table_response(request, STALE, form, stale_entries(site, found))
    counts = {tab: len(_shown(known, tab)) for tab in get_args(Show)}
    left = _after(found, query.before)
    rows = _rows(site, left[:PAGE])
    shown = [row for row in rows if row.one.stale is not None and row.one.stale.reasons]
    older = query.link(before=_key(left[PAGE - 1])) if len(left) > PAGE else ""
    newest = query.link() if query.before else ""
    fresh = len(rows) - len(shown)
    return render(request, StalePage("Stale stacks", "stacks", query, shown, counts, fresh, older, newest))


def _rows(site: Site, found: Sequence[StaleCandidate]) -> list[StaleRow]:
    """Judge stacks as things stand now."""
    with site.read() as session:
        told = foretell_each(session, [c.stack_id for c in found])
    return [StaleRow(one, c.changed_at, c.again_id) for one, c in zip(told, found, strict=True)]


def stale_entries(site: Site, found: Sequence[StaleCandidate]) -> Iterator[StaleEntry]:
    """Yield the records of a list, judged part by part; those that would be the same today are left out."""
    for start in range(0, len(found), PAGE):
        for row in _rows(site, found[start : start + PAGE]):
            stale = row.one.stale
            if stale is None or not stale.reasons:
                continue
            yield StaleEntry(
                id=stale.id,
                name=stale.name,
                kind=stale.kind,
                object=stale.object,
                filter=stale.filter,
                state=stale.state,
                plan=stale.plan_id,
                changed_at=row.changed_at.astimezone(UTC).isoformat(),
                outcome="again" if row.again_id is not None else row.one.outcome,
                again=row.again_id,
                gained=tuple(name for _, name in stale.gained),
                lost=tuple(name for _, name in stale.lost),
                reasons=stale.reasons,
            )


@router.post("/stacks/stale", response_class=HTMLResponse)
def plan_stale(
    request: Request,
    person: Operator,
    stack: Annotated[list[StackId] | None, Form(max_length=MAX_PLANS)] = None,
    dry: Annotated[bool, Form()] = True,
) -> HTMLResponse:
    """Show what planning the marked stacks again would do; or do it, one transaction a stack."""
    site = site_of(request)
    if not stack:
        raise UsageError("no stack is marked; mark some in the list of stale stacks, then plan")
    wanted = list(dict.fromkeys(stack))
    if dry:
        with site.read() as session:
            told = foretell_each(session, wanted)
    else:
        told = list(restack_each(site.database, site.workspace, wanted, person_id=person.id))
    return render(request, StalePlansPage("Stale stacks again", "stacks", told, dry))

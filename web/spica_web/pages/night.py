"""Nights, runs and objects: what the survey brought when, and of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from spica.db.pages.night import (
    Gap,
    NightEntry,
    NightExposure,
    ObjectEntry,
    RunEntry,
    count_stacks,
    find_gaps,
    list_nights,
    list_objects,
    list_runs,
    night_rows,
    read_night,
)
from spica.db.pages.survey import Short, short_fields
from spica.db.snapshot import Snapshot
from spica_web.deps import Site, Visitor, site_of
from spica_web.draw.night import NightChart, draw_night
from spica_web.errors import MissingError
from spica_web.kept import Shelf, shelf_of
from spica_web.query import Paging, read_page
from spica_web.render import Page, render
from spica_web.tables import table_response, wanted_form
from spica_web.tables_of import EXPOSURES, NIGHTS, OBJECTS, RUNS, exposure_rows

router = APIRouter()
PAGE = 60
MAX_LISTED = 1500
NIGHT_SORTS = ("night", "n", "exptime_s", "seeing_arcsec", "limiting_mag", "stacked", "rejected")
RUN_SORTS = ("run", "first_night", "nights", "n", "exptime_s", "seeing_arcsec", "limiting_mag", "stacked", "rejected")
OBJECT_SORTS = (
    *("object", "filter", "n", "exptime_s", "seeing_arcsec", "limiting_mag", "depth_mag", "stacked", "stacks"),
    "rejected",
)


@dataclass(frozen=True)
class ListQuery:
    """What the address says of a list: words to narrow it, the column that orders it (- before it: downwards)."""

    path: str
    words: str
    filter: str
    sort: str

    def link(self, **changes: Any) -> str:
        """Return the address after some changes."""
        values = {"q": self.words, "filter": self.filter, "sort": self.sort, **changes}
        kept = {k: v for k, v in values.items() if v not in ("", None, 1)}
        return f"{self.path}?{urlencode(kept)}" if kept else self.path

    def sorted_by(self, column: str) -> str:
        """Return the address of a click on a heading: ascending, then descending, then none."""
        turn = {column: f"-{column}", f"-{column}": ""}
        return self.link(sort=turn.get(self.sort, column))

    def direction(self, column: str) -> str:
        """Return `ascending`, `descending` or nothing for a heading."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "")


@dataclass(frozen=True)
class NightsPage(Page):
    """All nights."""

    template: ClassVar[str] = "nights.html"
    title: str
    nav: str
    query: ListQuery
    rows: list[NightEntry]
    missing: dict[date, int]
    paging: Paging
    age_s: float


@dataclass(frozen=True)
class RunsPage(Page):
    """All runs."""

    template: ClassVar[str] = "runs.html"
    title: str
    nav: str
    query: ListQuery
    rows: list[RunEntry]
    paging: Paging
    age_s: float


@dataclass(frozen=True)
class ObjectsPage(Page):
    """All objects by filter."""

    template: ClassVar[str] = "objects.html"
    title: str
    nav: str
    query: ListQuery
    rows: list[ObjectEntry]
    paging: Paging
    age_s: float


@dataclass(frozen=True)
class NightPage(Page):
    """One night: its numbers, its time line, its exposures, what is missing."""

    template: ClassVar[str] = "night.html"
    title: str
    nav: str
    night: date
    entry: NightEntry
    chart: NightChart | None
    exposures: list[NightExposure]
    n: int
    stacks: int
    gaps: list[Gap]
    short: list[Short]
    before: date | None
    after: date | None
    age_s: float


def read_list_query(path: str, words: Mapping[str, str], sorts: Sequence[str]) -> ListQuery:
    """Return what an address says; words that mean nothing are dropped."""
    sort = words.get("sort", "")
    cleaned = {name: words.get(name, "").strip()[:200].replace("\0", "") for name in ("q", "filter")}
    return ListQuery(path, cleaned["q"], cleaned["filter"], sort if sort.removeprefix("-") in sorts else "")


def put_in_order(rows: Sequence[Any], sort: str) -> list[Any]:
    """Return rows by an attribute, unknown last whichever way it goes; as they are without a word."""
    name, down = sort.removeprefix("-"), sort.startswith("-")
    if not name:
        return list(rows)
    known = [r for r in rows if getattr(r, name) is not None]
    return sorted(known, key=lambda r: getattr(r, name), reverse=down) + [r for r in rows if getattr(r, name) is None]


def _paged(rows: Sequence[Any], page: int) -> tuple[list[Any], Paging]:
    paging = Paging(min(page, max(1, -(-len(rows) // PAGE))), PAGE, len(rows))
    start = (paging.page - 1) * PAGE
    return list(rows[start : start + PAGE]), paging


@router.get("/nights", response_class=HTMLResponse)
def nights_page(request: Request, person: Visitor) -> Response:
    """Show nights, newest first."""
    site, shelf = site_of(request), shelf_of(request)
    snapshot, query = site.snapshot(), read_list_query("/nights", request.query_params, NIGHT_SORTS)
    entries = [e for e in nights_of(shelf, snapshot) if e.night.isoformat().startswith(query.words)]
    if query.filter:
        entries = [e for e in entries if any(f.filter == query.filter for f in e.filters)]
    rows = put_in_order(entries, query.sort)
    form = wanted_form(request)
    if form is not None:
        return table_response(request, NIGHTS, form, rows, len(rows))
    shown, paging = _paged(rows, read_page(request.query_params))
    missing = _missing(site, shelf, snapshot, [e.night for e in shown])
    return render(request, NightsPage("Nights", "home", query, shown, missing, paging, snapshot.age_s))


def nights_of(shelf: Shelf, snapshot: Snapshot) -> list[NightEntry]:
    """Return all nights, newest first."""
    images = snapshot.images
    return shelf.get("nights", snapshot.version, lambda: list_nights(images))


def _missing(site: Site, shelf: Shelf, snapshot: Snapshot, nights: Sequence[date]) -> dict[date, int]:
    """Return how many running numbers each night lacks."""

    images = snapshot.images

    def make() -> dict[date, int]:
        names = {n: _names(snapshot, n) for n in nights}
        with site.read() as session:
            return {n: sum(g.n for g in gaps) for n, gaps in find_gaps(session, names).items()}

    return snapshot.cache.get(("missing", tuple(nights)), (images.name, images.night), make)


def _names(snapshot: Snapshot, night: date) -> list[str]:
    return [str(n) for n in snapshot.images.name[night_rows(snapshot.images, night)].tolist()]


@router.get("/nights/{night}", response_class=HTMLResponse)
def night_page(request: Request, person: Visitor, night: str) -> Response:
    """Show one night; as a table its exposures."""
    site, shelf = site_of(request), shelf_of(request)
    snapshot = site.snapshot()
    entries = nights_of(shelf, snapshot)
    at = next((i for i, e in enumerate(entries) if e.night.isoformat() == night), None)
    if at is None:
        raise MissingError(f"there are no exposures of the night {night[:40]!r}; see /nights")
    entry, images = entries[at], snapshot.images
    rows = night_rows(images, entry.night)
    form = wanted_form(request)
    if form is not None:
        ids = images.id[rows]
        return table_response(request, EXPOSURES, form, exposure_rows(site, person, ids.tolist()), len(ids))
    exposures = read_night(images, rows[:MAX_LISTED])
    with site.read() as session:
        gaps = find_gaps(session, {entry.night: _names(snapshot, entry.night)})[entry.night]
        stacks = count_stacks(session, images.id[rows].tolist())
    page = NightPage(
        title=f"Night {night}",
        nav="home",
        night=entry.night,
        entry=entry,
        chart=draw_night(exposures, gaps),
        exposures=exposures,
        n=len(rows),
        stacks=stacks,
        gaps=gaps,
        short=shelf.get(("short", night), snapshot.version, lambda: short_fields(images, entry.night)),
        before=entries[at + 1].night if at + 1 < len(entries) else None,
        after=entries[at - 1].night if at else None,
        age_s=snapshot.age_s,
    )
    return render(request, page)


@router.get("/runs", response_class=HTMLResponse)
def runs_page(request: Request, person: Visitor) -> Response:
    """Show observing runs, newest first."""
    snapshot, query = site_of(request).snapshot(), read_list_query("/runs", request.query_params, RUN_SORTS)
    images = snapshot.images
    entries = shelf_of(request).get("runs", snapshot.version, lambda: list_runs(images))
    wanted = query.words.casefold()
    rows = put_in_order([e for e in entries if wanted in e.run.casefold()], query.sort)
    form = wanted_form(request)
    if form is not None:
        return table_response(request, RUNS, form, rows, len(rows))
    shown, paging = _paged(rows, read_page(request.query_params))
    return render(request, RunsPage("Runs", "home", query, shown, paging, snapshot.age_s))


@router.get("/objects", response_class=HTMLResponse)
def objects_page(request: Request, person: Visitor) -> Response:
    """Show objects by filter, those with most exposures first."""
    snapshot, query = site_of(request).snapshot(), read_list_query("/objects", request.query_params, OBJECT_SORTS)
    images = snapshot.images
    entries = shelf_of(request).get("objects", snapshot.version, lambda: list_objects(images))
    wanted = query.words.casefold()
    kept = [e for e in entries if wanted in (e.object or "").casefold() and query.filter in ("", e.filter)]
    rows = put_in_order(kept, query.sort)
    form = wanted_form(request)
    if form is not None:
        return table_response(request, OBJECTS, form, rows, len(rows))
    shown, paging = _paged(rows, read_page(request.query_params))
    return render(request, ObjectsPage("Objects", "home", query, shown, paging, snapshot.age_s))

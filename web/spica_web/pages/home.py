"""The survey at a glance: the flow of exposures, what is late, what failed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import ClassVar
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from spica.db.overview import list_nodes, list_stacks
from spica.db.pages.night import Gap, ObjectEntry, find_gaps, list_objects, night_rows
from spica.db.pages.skycell import shown_rows
from spica.db.pages.survey import (
    ErrorGroup,
    Flow,
    JobCounts,
    Short,
    Waiting,
    count_jobs,
    read_errors,
    read_flow,
    read_shapes,
    read_waiting,
    short_fields,
)
from spica.db.pages.tally import STACK
from spica.db.snapshot import Snapshot
from spica.db.snapshot.columns import STATES, ImageColumns
from spica.db.tables.image import ImageRow
from spica.model.image import ImageState
from spica.model.overview import NodeEntry, StackEntry
from spica_web.deps import Site, Visitor, site_of
from spica_web.draw.sky import SkyChart, draw_sky
from spica_web.kept import Shelf, shelf_of
from spica_web.pages.stale import count_stale
from spica_web.public import is_guest
from spica_web.render import Page, render
from spica_web.words import seconds

router = APIRouter()
LATE_S = 1800.0
READY_LATE_S = 600.0
MAX_DRAWN = 150
"""A survey with more images is drawn as a map of cells."""
SHOWN_FIELDS = 20


@dataclass(frozen=True)
class Late:
    """Something that is behind or missing: how many, what, where it is listed, and what to do."""

    n: int
    text: str
    link: str
    todo: str


@dataclass(frozen=True)
class HomePage(Page):
    """Flow, trouble, sky, fields, nodes."""

    template: ClassVar[str] = "home.html"
    title: str
    nav: str
    flow: Flow
    waiting: Waiting
    late: list[Late]
    fields: list[ObjectEntry]
    more_fields: int
    errors: list[ErrorGroup]
    jobs: JobCounts
    nodes: list[NodeEntry]
    stacks: list[StackEntry]
    sky: list[SkyChart]
    mapped: bool
    age_s: float
    folder: str


@router.get("/", response_class=HTMLResponse)
def home_page(request: Request, person: Visitor, token: str | None = None) -> Response:
    """Show the survey at a glance."""
    if token is not None:
        return RedirectResponse(f"/login?token={quote(token[:200], safe='')}", status_code=303)
    site, shelf, guest = site_of(request), shelf_of(request), is_guest(person)
    snapshot = site.snapshot()
    images, version = snapshot.images, snapshot.version
    flow = shelf.get("flow", version, lambda: read_flow(images))
    fields = shelf.get("objects", version, lambda: list_objects(images))
    drawn = shelf.get("drawn", version, lambda: drawn_ids(images))
    waiting = _waiting(site, shelf)
    with site.read() as session:
        nodes = [] if guest else list_nodes(session)
        jobs = count_jobs(session, snapshot.jobs)
        page = HomePage(
            title=site.workspace.survey,
            nav="home",
            flow=flow,
            waiting=waiting,
            late=[]
            if guest
            else [*_late(session, shelf, snapshot, flow, waiting, jobs, nodes), *_late_stacks(count_stale(request))],
            fields=fields[:SHOWN_FIELDS],
            more_fields=max(0, len(fields) - SHOWN_FIELDS),
            errors=[] if guest else read_errors(session, 6),
            jobs=jobs,
            nodes=nodes,
            stacks=list_stacks(session, site.workspace, order=[ImageRow.id.desc()], limit=6),
            sky=[] if drawn is None else _drawn(site, shelf, version, drawn),
            mapped=drawn is None,
            age_s=snapshot.age_s,
            folder="" if guest else str(site.workspace.folder),
        )
    return render(request, page)


def _waiting(site: Site, shelf: Shelf) -> Waiting:
    """Return the files that wait; dear on a large survey, so that it rests for sixty times its cost."""

    def make() -> Waiting:
        with site.read() as session:
            return read_waiting(session)

    return shelf.get("waiting", time.monotonic_ns(), make, rest=60.0)


def drawn_ids(images: ImageColumns) -> list[int] | None:
    """Return the images whose outlines the page draws; None where they are too many."""
    rows = shown_rows(images, None)
    if len(rows) > MAX_DRAWN:
        return None
    gone = [STATES.index(s) for s in (ImageState.REJECTED, ImageState.SUPERSEDED)]
    stacks = [r for r in range(len(images)) if images.kind[r] == STACK and images.state[r] not in gone]
    return sorted([*images.id[rows].tolist(), *images.id[stacks].tolist()]) if len(stacks) <= MAX_DRAWN else None


def _drawn(site: Site, shelf: Shelf, version: int, ids: Sequence[int]) -> list[SkyChart]:
    """Return the plots; a thread may make them after the request has ended, so that it needs a session of its own."""

    def make() -> list[SkyChart]:
        with site.read() as session:
            return draw_sky(read_shapes(session, ids))

    return shelf.get("charts", version, make)


def _late(
    session: Session,
    shelf: Shelf,
    snapshot: Snapshot,
    flow: Flow,
    waiting: Waiting,
    jobs: JobCounts,
    nodes: Sequence[NodeEntry],
) -> list[Late]:
    """Return what is behind or missing, the most pressing first."""
    found = _late_work(waiting, jobs, nodes, flow)
    if flow.night is not None:
        night = flow.night
        images, cache = snapshot.images, snapshot.cache
        gaps = cache.get(("gaps", night), (images.name, images.night), lambda: _gaps(session, snapshot, night))
        known = (images.object, images.filter, images.night)
        short = cache.get(("short", night), known, lambda: short_fields(images, night))
        found += _late_night(night, gaps, short)
    return found


def _gaps(session: Session, snapshot: Snapshot, night: date) -> list[Gap]:
    images = snapshot.images
    names = [str(n) for n in images.name[night_rows(images, night)].tolist()]
    return find_gaps(session, {night: names})[night]


def _late_work(waiting: Waiting, jobs: JobCounts, nodes: Sequence[NodeEntry], flow: Flow) -> list[Late]:
    found = []
    start = _how_to_begin(nodes)
    silent = [n.name for n in nodes if not n.alive and n.state != "stopped"]
    if silent:
        what = f"{'node is' if len(silent) == 1 else 'nodes are'} silent: {', '.join(silent[:4])}"
        found.append(Late(len(silent), what, "/nodes", "look whether the host is up; its jobs go on elsewhere"))
    if waiting.n and (waiting.oldest_s or 0.0) > LATE_S:
        what = f"arrived, not verified; the first {seconds(waiting.oldest_s)} ago"
        found.append(Late(waiting.n, what, "/jobs?state=READY", start))
    if (jobs.oldest_ready_s or 0.0) > READY_LATE_S:
        n = jobs.states.get("READY", 0)
        what = f"{'job waits' if n == 1 else 'jobs wait'}, the oldest for {seconds(jobs.oldest_ready_s)}"
        found.append(Late(n, what, "/jobs?state=READY", start))
    unmeasured = flow.tonight.verified - flow.tonight.assessed
    if unmeasured > 0 and flow.night is not None:
        link = f"/exposures?night={flow.night}&state=registered"
        found.append(Late(unmeasured, "of the last night without quality", link, "run their assess jobs again"))
    return found


def _how_to_begin(nodes: Sequence[NodeEntry]) -> str:
    """Return what lets waiting jobs begin."""
    if any(n.takes_jobs for n in nodes):
        return "look at the running jobs, or add slots"
    drained = next((n.name for n in nodes if n.alive), None)
    return "start a daemon: spica daemon" if drained is None else f"resume a node: {drained} is drained"


def _late_stacks(n: int) -> list[Late]:
    """Return the stacks that would be others if they were made today."""
    what = f"{'stack is' if n == 1 else 'stacks are'} stale: grades, measures, marks or rules changed since"
    return [Late(n, what, "/stacks/stale", "look at what changed, and plan them again")] if n else []


def _late_night(night: date, gaps: Sequence[Gap], short: Sequence[Short]) -> list[Late]:
    found = []
    missing = sum(g.n for g in gaps)
    if missing:
        names = ", ".join(g.words for g in gaps[:3]) + (" …" if len(gaps) > 3 else "")
        todo = "fetch the files, then: spica ingest PATH"
        found.append(Late(missing, f"missing in the numbers of {night}: {names}", f"/nights/{night}#gaps", todo))
    for one in list(short)[:3]:
        link = f"/exposures?night={night}&object={quote(one.object)}&filter={quote(one.filter or '')}"
        what = f"of usually {one.usual} exposures of {one.object} in {one.filter or 'an unknown filter'} on {night}"
        found.append(Late(one.n, what, link, "observe the rest, or look for files that did not arrive"))
    return found

"""The find box: names, objects, places, jobs, plans, rules, tags, nights, runs; one hit is gone to at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from spica.db.pages.find import (
    AtPoint,
    FoundGroup,
    FoundImage,
    at_point,
    find_exact,
    find_ids,
    find_inside,
    find_job,
    find_nights,
    find_nodes,
    find_objects,
    find_plan,
    find_plans,
    find_prefix,
    find_rules,
    find_runs,
    find_tags,
    index_names,
)
from spica.db.person import Person
from spica.db.snapshot import Snapshot
from spica.model.image import ImageKind, normalise_object
from spica.model.record import to_json
from spica.model.selection.rule import quoted
from spica_web.deps import Visitor, site_of
from spica_web.place import Place, read_place
from spica_web.public import is_guest
from spica_web.render import Page, render

router = APIRouter()
SHOWN = 20
SUGGESTED = 5
AROUND_DEG = 1.0
_NUMBERED = re.compile(r"(job|plan|#)\s*([0-9]{1,15})", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}(?:-[0-9]{0,2}){1,2}")


@dataclass(frozen=True)
class Hit:
    """One thing that was found: where its page is, what it is called, what else there is to say."""

    link: str
    text: str
    note: str


@dataclass(frozen=True)
class HitGroup:
    """Things of one kind: the first of them, how many, whether that is exact, and where all are listed."""

    title: str
    n: int
    exact: bool
    hits: list[Hit]
    more: str


@dataclass(frozen=True)
class FindAnswer:
    """What some words name; `goes` is where the find box leads, None where it lists."""

    words: str
    goes: str | None
    groups: list[HitGroup]


@dataclass(frozen=True)
class FindPage(Page):
    """What was found, by kind."""

    template: ClassVar[str] = "find.html"
    title: str
    nav: str
    words: str
    place: Place | None
    around: str
    groups: list[HitGroup]


@router.get("/find", response_class=HTMLResponse)
def find_page(request: Request, person: Visitor, q: str = "") -> Response:
    """Go to what some words name, or list what they may name."""
    words = _cleaned(q)
    found = look_for(request, person, words, SHOWN)
    if found.goes is not None:
        return RedirectResponse(found.goes, status_code=303)
    place = read_place(words)
    around = "" if place is None else _within(place, place.radius_deg or AROUND_DEG)
    return render(request, FindPage(f"Find {words}", "", words, place, around, found.groups))


@router.get("/api/find", response_model=FindAnswer, tags=["find"])
def find_some(
    request: Request,
    person: Visitor,
    q: Annotated[str, Query(max_length=200, description="words of the find box")] = "",
) -> JSONResponse:
    """Return the first things that some words may name, for suggestions while they are written."""
    found = look_for(request, person, _cleaned(q), SUGGESTED)
    return JSONResponse(to_json(found), headers={"Cache-Control": "private, max-age=5"})


def _cleaned(words: str) -> str:
    return " ".join(words[:200].replace("\0", "").split())


def look_for(request: Request, person: Person, words: str, limit: int) -> FindAnswer:
    """Return what words name: at most a dozen statements, each by an index or over a small table."""
    site = site_of(request)
    if not words:
        return FindAnswer(words, None, [])
    numbered, place = _NUMBERED.fullmatch(words), read_place(words)
    snapshot = site.snapshot()
    with site.read() as session:
        if numbered and not is_guest(person):
            groups = _numbered(session, numbered[1].lower(), int(numbered[2]))
            goes = groups[0].hits[0].link if groups else None
            return FindAnswer(words, goes, groups)
        if place is not None:
            groups = _at_place(session, place, limit)
        else:
            aliases = site.workspace.object_aliases
            groups = _named(session, snapshot, words, normalise_object(words, aliases), limit)
            groups += [] if is_guest(person) else _kept(session, words, limit)
    groups = [g for g in groups if g.n]
    return FindAnswer(words, _goes(words, groups), groups)


def _goes(words: str, groups: list[HitGroup]) -> str | None:
    """Return where to go: to the image of that very name, or to the one thing that was found."""
    images = next((g.hits for g in groups if g.title == "Names"), [])
    if images and images[0].text == words:
        return images[0].link
    if len(groups) == 1 and groups[0].n == 1 and groups[0].exact:
        return groups[0].hits[0].link
    return None


def _numbered(session: Session, noun: str, number: int) -> list[HitGroup]:
    if noun == "plan":
        plan = find_plan(session, number)
        return (
            [HitGroup("Plans", 1, True, [Hit(f"/plans/{plan.id}", f"plan {plan.id}", plan.name)], "")] if plan else []
        )
    job = find_job(session, number)
    return [HitGroup("Jobs", 1, True, [Hit(f"/jobs/{job.id}", f"job {job.id}", job.name)], "")] if job else []


def _at_place(session: Session, place: Place, limit: int) -> list[HitGroup]:
    rooms = (("Exposures here", ImageKind.EXPOSURE), ("Stacks here", ImageKind.STACK))
    found = [(title, at_point(session, place.ra_deg, place.dec_deg, kind, limit)) for title, kind in rooms]
    return [_place_group(title, part, place) for title, part in found]


def _place_group(title: str, part: AtPoint, place: Place) -> HitGroup:
    more = (
        _within(place, place.radius_deg or AROUND_DEG) if title.startswith("Exp") and part.n > len(part.images) else ""
    )
    return HitGroup(title, part.n, part.exact, [_hit(i) for i in part.images], more)


def _within(place: Place, radius_deg: float) -> str:
    rule = f"within({place.ra_deg:.6g}, {place.dec_deg:.6g}, {radius_deg:.4g})"
    return _list_of(rule)


def _list_of(rule: str) -> str:
    return f"/exposures?rule={quote(rule)}"


def _named(session: Session, snapshot: Snapshot, words: str, key: str, limit: int) -> list[HitGroup]:
    images = snapshot.images
    groups = [_images(session, snapshot, words, limit)]
    objects = find_objects(images, key, limit)
    groups.append(_words("Objects", objects, lambda w: f"/exposures?object={quote(w)}"))
    groups.append(_words("Tags", find_tags(images, words, limit), lambda w: _list_of(f"tag = {quoted(w)}")))
    groups.append(_words("Runs", find_runs(images, words, limit), lambda w: _list_of(f"run = {quoted(w)}")))
    if _DATE.fullmatch(words):
        groups.append(_words("Nights", find_nights(images, words, limit), lambda w: f"/nights/{w}"))
    return groups


def _images(session: Session, snapshot: Snapshot, words: str, limit: int) -> HitGroup:
    """Return images by name: that very name, then those that begin so, then those that contain the words."""
    found = {i.id: i for i in (*find_exact(session, words), *find_prefix(session, words, limit + 1))}
    if len(found) <= limit and len(words) > 1:
        images = snapshot.images
        index = snapshot.cache.get("names", (images.name,), lambda: index_names(images))
        rows = find_inside(index, words, limit + 1)
        inside = [int(i) for i in images.id[rows] if int(i) not in found]
        found |= {i.id: i for i in (find_ids(session, inside) if inside else [])}
    shown = list(found.values())[:limit]
    more = _list_of(f"name like {quoted(f'*{words}*')}") if len(found) > limit else ""
    return HitGroup("Names", len(shown), len(found) <= limit, [_hit(i) for i in shown], more)


def _words(title: str, found: list[FoundGroup], link: Callable[[str], str]) -> HitGroup:
    return HitGroup(title, len(found), True, [Hit(link(g.word), g.word, f"{g.n} exposures") for g in found], "")


def _kept(session: Session, words: str, limit: int) -> list[HitGroup]:
    rules = [Hit(f"/rules/{r.id}", r.name, "rule") for r in find_rules(session, words, limit)]
    plans = [Hit(f"/plans/{p.id}", p.name, f"plan {p.id}") for p in find_plans(session, words, limit)]
    nodes = [Hit("/nodes", n.name, "node") for n in find_nodes(session, words, limit)]
    jobs = []
    if words.isascii() and words.isdigit() and len(words) < 16:
        job = find_job(session, int(words))
        jobs = [Hit(f"/jobs/{job.id}", f"job {job.id}", job.name)] if job else []
    parts = (("Rules", rules), ("Plans", plans), ("Nodes", nodes), ("Jobs", jobs))
    return [HitGroup(title, len(hits), True, hits, "") for title, hits in parts]


def _hit(image: FoundImage) -> Hit:
    facts = [image.object, image.filter, image.state if image.kind == "exposure" else f"{image.kind}, {image.state}"]
    return Hit(address_of_image(image.id, image.kind), image.name, " · ".join(f for f in facts if f))


def address_of_image(image_id: int, kind: str) -> str:
    """Return the page of an image of a kind."""
    return f"/images/{image_id}" if kind == "exposure" else f"/stacks/{image_id}"

"""Pages: each renders with rows and without any, uses what its dataclass holds, and asks a bounded number of times."""

from __future__ import annotations

import dataclasses
import inspect
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI, Request
from jinja2 import meta, nodes
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.person import add_person, make_session
from spica.model.person import PersonRole
from spica_web import pages
from spica_web.api import schema
from spica_web.errors import BouncePage, ErrorPage
from spica_web.kept import Shelf
from spica_web.render import STATIC, TEMPLATES, Page, environment

BUDGETS = {
    "/": 20,
    "/exposures": 9,
    "/exposures?rule=seeing+%3C+0.9&sort=-seeing&page=1": 9,
    "/images/{exposure}": 20,
    "/images/{exposure}?rule=seeing+is+known&graded={exposure}": 20,
    "/images/{exposure}/header": 6,
    "/rules": 5,
    "/rules?rule=grade+in+(A,B)+and+seeing+%3C+0.9": 16,
    "/stacks": 11,
    "/stacks?state=delivered": 11,
    "/stacks?kind=calibrated": 11,
    "/stacks/{stack}": 27,
    "/stacks/{planned}": 27,
    "/plans": 9,
    "/plans/{plan}": 10,
    "/jobs": 7,
    "/jobs?state=FAILED": 7,
    "/jobs/{failed}": 11,
    "/jobs/{running}": 11,
    "/jobs/{held}": 11,
    "/nodes": 10,
    "/sky": 5,
    "/nights": 6,
    "/nights/2006-12-12": 8,
    "/runs": 4,
    "/objects": 5,
    "/tags": 5,
    "/grade": 6,
    "/grades": 14,
    "/grades/disagreements": 14,
    "/grades/bulk": 14,
    "/grades/report": 14,
    "/jobs/errors": 10,
    "/plans/{plan}/again": 12,
    "/stacks/{stack}/catalogue": 8,
    "/stacks/stale": 46,
    "/stacks/stale?show=same": 46,
    "/stacks/stale?format=json": 46,
    "/stacks/{stack}/stale": 20,
    "/stacks/{stack}/restack": 44,
    "/exposures?format=csv": 12,
    "/stacks?format=votable": 16,
    "/jobs?format=json": 8,
    "/stacks/{stack}/catalogue?format=csv": 10,
    "/people": 6,
    "/find?q=7441": 14,
    "/api": 4,
    "/api/images": 9,
    "/api/stacks": 13,
    "/api/jobs": 6,
    "/api/nodes": 5,
    "/api/status": 7,
}
"""Statements a request may send at most, those of the session (2) and of time limits (1 each) among them."""


class Strict(HTMLParser):
    """Sees that tags close in order, and collects what the policy of the pages forbids."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "option", "path", "rect", "circle", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        words = dict(attrs)
        self.links += [words["href"] or ""] if tag == "a" and "href" in words else []
        self.faults += [f"{tag} {name}" for name in words if name == "style" or name.startswith("on")]
        if tag in ("style", "base", "iframe", "object", "embed") or (tag == "script" and not words.get("src")):
            self.faults.append(tag)
        for name in ("src", "href", "action", "formaction"):
            address = words.get(name) or ""
            if address.startswith(("http:", "https:", "//", "javascript:", "data:")):
                self.faults.append(f"{tag} {name}={address}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


def parsed(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.faults == []
    assert parser.open == []
    return parser


def test_pages_with_rows_keep_their_budget(survey: Any, visitor: Any, counted: Any) -> None:
    client = visitor.become(survey.tokens["ada"])
    ids = {"exposure": survey.exposures[0], "stack": survey.stack, "planned": survey.planned, "plan": survey.plan}
    spent = {}
    for pattern, budget in BUDGETS.items():
        with counted() as statements:
            reply = client.get(pattern.format(**ids, **survey.jobs))
        assert reply.status_code == 200, (pattern, reply.text[-500:])
        assert len(statements) <= budget, (pattern, len(statements), statements)
        spent[pattern] = len(statements)
        if reply.headers["content-type"].startswith("text/html"):
            parsed(reply.text)
    assert spent["/images/{exposure}"] > 8  # the counter counts


def test_shared_values_outlive_the_request_that_asks_first(
    survey: Any, visitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes them may run in a thread later: it holds neither the session of a request nor the request."""
    asked: list[Any] = []
    plain = Shelf.get

    def look(self: Shelf, name: Any, version: Any, make: Any, *rest: Any, **more: Any) -> Any:
        held = inspect.getclosurevars(make).nonlocals.items()
        asked.append((name, [k for k, v in held if isinstance(v, Session | Request)]))
        return plain(self, name, version, make, *rest, **more)

    monkeypatch.setattr(Shelf, "get", look)
    client = visitor.become(survey.tokens["ada"])
    for address in (
        "/",
        "/sky",
        "/sky/cells.json",
        "/nights",
        "/nights/2006-12-12",
        "/runs",
        "/objects",
        "/stacks/stale",
    ):
        assert client.get(address).status_code == 200, address
    assert len({name for name, _ in asked}) > 6
    assert [a for a in asked if a[1]] == []


def test_more_rows_ask_no_more_often(survey: Any, visitor: Any, counted: Any) -> None:
    """One exposure or ten on the list: as many statements, once the cache of the survey has come to rest."""
    client = visitor.become(survey.tokens["vera"])

    def fewest(rule: str, n_rows: int) -> int:
        spent = []
        for _ in range(4):
            with counted() as seen:
                text = client.get("/exposures", params={"rule": rule}).text
            spent.append(len(seen))
        assert len(set(re.findall(r'href="(/images/\d+)', text))) == n_rows
        return min(spent)

    assert fewest('name = "744100p"', 1) == fewest('name like "*"', 10) > 0


def test_pages_without_rows_say_what_to_do(database: Database, visitor: Any) -> None:
    with database.begin() as session:
        token = make_session(session, add_person(session, "ada", PersonRole.ADMIN))
    client = visitor.become(token)
    cures = {
        "/": "spica ingest PATH",
        "/exposures": "spica ingest PATH",
        "/exposures?rule=seeing+%3C+1": "show all",
        "/rules": "grade in (A, B, C)",
        "/rules?rule=seeing+%3C+1": "spica ingest PATH",
        "/stacks": "spica schedule survey",
        "/stacks?kind=calibrated": "spica schedule single",
        "/stacks/stale": "No stack is stale",
        "/plans": "spica schedule survey",
        "/jobs": "spica daemon",
        "/jobs?state=FAILED": "Show all",
        "/nodes": "spica daemon",
        "/people": "may enter",
        "/find?q=nothing": "Nothing begins with",
    }
    for address, cure in cures.items():
        reply = client.get(address)
        assert reply.status_code == 200
        parsed(reply.text)
        assert cure in reply.text, address


@pytest.mark.parametrize(
    "address",
    [
        "/images/9",
        "/stacks/9",
        "/plans/9",
        "/jobs/9",
        "/files/9/x",
        "/images/9/header",
        "/images/x",
        "/nowhere",
        "/images/99999999999999999999999",
    ],
)
def test_unknown_ids_are_404_with_a_way_on(survey: Any, visitor: Any, address: str) -> None:
    reply = visitor.become(survey.tokens["vera"]).get(
        address.replace("9", "99999", 1) if address.endswith("9") else address.replace("/9/", "/99999/")
    )
    assert reply.status_code == 404
    assert "What to do" in reply.text
    as_json = visitor.client.get(address.replace("/9", "/99999"), headers={"accept": "application/json"})
    assert as_json.status_code == 404
    assert as_json.json()["error"]["message"]


# Contracts of the templates -------------------------------------------------------------------------------------------


def all_pages() -> list[type[Page]]:
    """Return every page class of the application."""
    found: list[type[Page]] = [ErrorPage, BouncePage, schema.ApiPage]
    for module in vars(pages).values():
        found += (
            [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Page) and c is not Page]
            if hasattr(module, "router")
            else []
        )
    return sorted(set(found), key=lambda c: c.__name__)


def words_of(template: str) -> set[str]:
    """Return the words that a template asks its context for."""
    tree = environment().parse((TEMPLATES / template).read_text())
    own = {name.name for assign in tree.find_all(nodes.Assign) for name in assign.target.find_all(nodes.Name)}
    own |= {assign.target.name for assign in tree.find_all(nodes.Assign) if isinstance(assign.target, nodes.Name)}
    return set(meta.find_undeclared_variables(tree)) - own


GIVEN = {"chrome", "ui", "asset"}
BASE = {"title", "nav"}


@pytest.mark.parametrize("page", all_pages(), ids=lambda p: p.__name__)
def test_a_template_uses_what_its_page_holds(page: type[Page]) -> None:
    fields = {f.name for f in dataclasses.fields(page)}
    used = words_of(page.template) - GIVEN
    assert used <= fields, "asked for, not given"
    assert fields - BASE <= used, "given, not used"


def test_every_template_has_a_page() -> None:
    served = {p.template for p in all_pages()} | {"base.html", "ui.html"}
    assert served == {p.name for p in TEMPLATES.glob("*.html")}
    assert words_of("base.html") - GIVEN == BASE


def test_nothing_comes_from_elsewhere() -> None:
    """Style sheet and script name no other host."""
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), path.name


# Lists ----------------------------------------------------------------------------------------------------------------


def names(text: str) -> list[str]:
    return re.findall(r'href="/images/\d+[^"]*">(\w+)</a>', text)


def test_the_list_sorts_filters_and_keeps_its_state_in_the_address(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    down = client.get("/exposures?sort=-name&object=IC+1396&filter=r").text
    found = names(down)
    assert found == sorted(found, reverse=True)
    assert found == ["744106p", "744103p", "744100p"]
    assert "/images/" in down
    assert "sort=-name" in re.search(r'href="/images/\d+(\?[^"]*)"', down)[1]  # type: ignore[index]
    assert names(client.get("/exposures?state=rejected").text) == ["744099p"]
    assert names(client.get("/exposures?grade=human").text) == []
    assert names(client.get("/exposures?night=2006-12-13&sort=name").text) == ["744101p", "744105p"]


def test_a_rule_fault_stands_under_its_word(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    for room in ("/exposures", "/rules"):
        text = client.get(room, params={"rule": "grade = A and seing < 0.9"}).text
        assert '<div class="fault" role="alert">grade = A and <mark>seing</mark> &lt; 0.9</div>' in text
        assert "seeing" in text.split("faultword")[1][:200]


def test_hostile_words_are_shown_as_words(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    word = "<script>alert(1)</script>"
    client.post(f"/images/{survey.exposures[0]}/grade", data={"grade": "B", "comment": word, "stay": "true"})
    for address in (
        f"/images/{survey.exposures[0]}",
        f"/exposures?rule={word}",
        f"/rules?rule={word}",
        f"/find?q={word}",
        f"/exposures?object={word}&sort={word}",
    ):
        reply = client.get(address)
        assert word not in reply.text
        parsed(reply.text)


def test_the_image_page_knows_its_neighbours_in_the_list(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    ids = survey.exposures
    text = client.get(f"/images/{ids[3]}?object=IC+1396&filter=r&sort=name").text
    assert re.search(rf'data-key="previous" href="/images/{ids[0]}\?', text)
    assert re.search(rf'data-key="next" href="/images/{ids[6]}\?', text)
    assert "2 of 3" in text
    assert 'data-key="previous"' not in client.get(f"/images/{ids[0]}?object=IC+1396&filter=r&sort=name").text


def test_rules_part_in_and_out_as_the_planner_does(database: Database, survey: Any, visitor: Any) -> None:
    from spica.db.selection import judge
    from spica.model.selection import parse_rule

    rule = "grade in (A, B) and seeing < 1.0"
    with database.read() as session:
        judged = judge(session, parse_rule(rule), footprints=False)
    text = visitor.become(survey.tokens["vera"]).get("/rules", params={"rule": rule}).text
    taken = int(re.search(r'<span class="fig">(\d+)</span> in', text)[1])  # type: ignore[index]
    out = int(re.search(r'<span class="fig">(\d+)</span> out', text)[1])  # type: ignore[index]
    assert (taken, out) == (len(judged.chosen), len(judged.left_out))
    for left in judged.left_out:
        assert left.candidate.name in text


def test_find_goes_where_the_words_point(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    goes = {
        "744101p": f"/images/{survey.exposures[1]}",
        "job 3": "/jobs/3",
        "IC1396-r-1": f"/stacks/{survey.stack}",
    }
    for words, address in goes.items():
        reply = client.get("/find", params={"q": words})
        assert (reply.status_code, reply.headers["location"]) == (303, address)
    for words in ("7441", "324.75 57.49", "21:39:00 +57:29:24"):  # several things: grouped on a page
        reply = client.get("/find", params={"q": words})
        assert reply.status_code == 200
        assert f"/images/{survey.exposures[0]}" in reply.text or f"/stacks/{survey.stack}" in reply.text, words


def test_every_link_of_every_page_leads_somewhere(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["ada"])
    rooms = [
        "/",
        "/exposures",
        f"/images/{survey.exposures[0]}",
        f"/stacks/{survey.stack}",
        f"/plans/{survey.plan}",
        f"/jobs/{survey.jobs['failed']}",
        "/stacks/stale",
        *("/jobs", "/jobs/errors", "/nodes", "/rules", "/sky", "/nights", "/nights/2006-12-12", "/runs", "/objects"),
        *("/grade", "/grades", "/grades/disagreements", "/grades/bulk", "/tags", f"/stacks/{survey.stack}/catalogue"),
    ]
    seen: set[str] = set()
    for room in rooms:
        for link in parsed(client.get(room).text).links:
            plain = link.replace("&amp;", "&")
            if plain.startswith("/") and plain not in seen and len(seen) < 260:
                seen.add(plain)
                assert client.get(plain).status_code in (200, 303), (room, plain)
    assert len(seen) > 150


def test_the_app_has_no_page_of_another_maker(app: FastAPI, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["ada"])
    for address in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(address).status_code == 404

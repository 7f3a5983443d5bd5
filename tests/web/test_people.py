"""People at the pages: accounts, tokens, the record of what was done, and what visitors without a name see."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from spica.db import password as passwords
from spica.db.engine import Database
from spica.db.file import store_content
from spica.db.person import (
    add_person,
    audit,
    find_entry,
    find_person,
    find_session,
    make_api_token,
    make_session,
    read_audit,
    set_password,
)
from spica.files.workspace import Workspace, read_workspace
from spica.model.errors import RecipeError
from spica.model.person import PersonRole
from spica_web.api.schema import api_routes
from spica_web.app import make_app
from spica_web.deps import need_of
from spica_web.guard import hosts_for
from spica_web.public import without_places

CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
GOOD = "correct horse"


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests short: hashes are cheap, and say so."""
    cheap = passwords.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "HASHER", cheap)
    monkeypatch.setitem(passwords.NOBODY, passwords.ARGON2, cheap.hash("nobody at all"))


@dataclasses.dataclass
class Crew:
    """People and their session tokens, by name."""

    people: dict[str, int] = dataclasses.field(default_factory=dict)
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)


@pytest.fixture
def crew(database: Database) -> Crew:
    """Return one person of each role, each with a session, of a survey without exposures."""
    made = Crew()
    with database.begin() as session:
        for name, role in zip(("vera", "greta", "oscar", "ada"), PersonRole, strict=True):
            made.people[name] = add_person(session, name, role)
            made.tokens[name] = make_session(session, made.people[name])
    return made


def acts_of(database: Database) -> list[tuple[str | None, str, str]]:
    with database.read() as session:
        return [(a.person, a.verb, a.subject) for a in read_audit(session)]


# Accounts -------------------------------------------------------------------------------------------------------------


def test_one_changes_the_own_password_with_the_old_one(database: Database, crew: Crew, visitor: Any) -> None:
    greta = crew.people["greta"]
    with database.begin() as session:
        set_password(session, greta, GOOD)
        token, other = make_session(session, greta), make_session(session, greta)
        program = make_api_token(session, greta)
    client = visitor.become(token)
    assert 'name="old"' in client.get("/account").text
    new = {"password": "battery staple", "again": "battery staple"}
    for wrong in ({**new, "old": "wrong guess"}, new, {**new, "old": GOOD, "again": "else"}):
        assert client.post("/account/password", data=wrong).status_code in (400, 403)
    short = client.post("/account/password", data={"old": GOOD, "password": "short", "again": "short"})
    assert (short.status_code, "8 to 1024 characters" in short.text) == (400, True)
    reply = client.post("/account/password", data={**new, "old": GOOD})
    assert reply.status_code == 303
    assert client.get(reply.headers["location"]).status_code == 200  # by the new session in the cookie
    with database.read() as session:
        assert [find_session(session, t) for t in (token, other, program)] == [None, None, None]
    client.cookies.clear()
    assert client.post("/login", data={"name": "greta", "password": GOOD}).status_code == 401
    assert client.post("/login", data={"name": "greta", "password": "battery staple"}).status_code == 303


def test_sessions_are_listed_and_ended(database: Database, crew: Crew, visitor: Any) -> None:
    with database.begin() as session:
        tokens = [make_session(session, crew.people["oscar"], label=f"Browser{i} on Linux") for i in range(3)]
        found = find_entry(session, tokens[0])
        strange = find_entry(session, crew.tokens["ada"])
    assert found is not None
    assert strange is not None
    client = visitor.become(tokens[1])
    page = client.get("/account").text
    assert all(f"Browser{i} on Linux" in page for i in range(3))
    assert "this one" in page
    assert client.post(f"/account/sessions/{found.session_id}/end").status_code == 303
    assert client.post(f"/account/sessions/{strange.session_id}/end").status_code == 404  # another's
    with database.read() as session:
        assert find_session(session, tokens[0]) is None
        assert find_session(session, crew.tokens["ada"]) is not None
    assert client.post("/account/sign-out").headers["location"] == "/login"
    with database.read() as session:
        assert [find_session(session, t) for t in (*tokens, crew.tokens["oscar"])] == [None] * 4


def test_admins_end_the_sessions_of_others(database: Database, crew: Crew, visitor: Any) -> None:
    vera = crew.people["vera"]
    with database.begin() as session:
        program = make_api_token(session, vera, label="report")
        entered = find_entry(session, program)
    assert entered is not None
    client = visitor.become(crew.tokens["ada"])
    assert "report" in client.get(f"/people/{vera}").text
    assert client.post(f"/people/{vera}/sign-out").status_code == 303
    with database.read() as session:
        assert find_session(session, crew.tokens["vera"]) is None
        assert find_session(session, program) is not None
    assert client.post(f"/people/{vera}/sessions/{entered.session_id}/end").status_code == 303
    with database.read() as session:
        assert find_session(session, program) is None
    assert ("ada", "revoke_token", f"person:{vera}") in acts_of(database)


def test_two_admins_may_part_and_the_last_may_not(database: Database, crew: Crew, visitor: Any) -> None:
    client, ada, oscar = visitor.become(crew.tokens["ada"]), crew.people["ada"], crew.people["oscar"]
    assert client.post(f"/people/{oscar}/role", data={"role": "admin"}).status_code == 303
    assert client.post(f"/people/{oscar}/disable").status_code == 303
    reply = client.post(f"/people/{ada}/role", data={"role": "viewer"})
    assert reply.status_code == 409
    assert "only admin" in reply.text
    assert client.post(f"/people/{oscar}/enable").status_code == 303
    assert client.post(f"/people/{ada}/role", data={"role": "viewer"}).status_code == 303
    assert client.get("/people").status_code == 403


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_a_token_is_made_shown_once_used_and_revoked(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    made = client.post("/account/tokens", data={"label": "nightly <b>", "days": "7"}).text
    found = re.search(r'<code class="token">([\w-]{40,})</code>', made)
    assert found is not None
    again = client.get("/account").text
    assert found[1] not in again
    assert "nightly &lt;b&gt;" in again
    assert "never" in again
    bearer = {"authorization": f"Bearer {found[1]}", "accept": "application/json", "origin": "http://evil.example"}
    client.cookies.clear()
    grade = f"/api/images/{survey.exposures[0]}/grade"
    assert client.post(grade, json={"grade": "C"}, headers=bearer).status_code == 200  # no cookie: no origin asked
    assert client.post(f"/api/jobs/{survey.jobs['ready']}/hold", headers=bearer).status_code == 403  # a grader's role
    for act in ("/account/tokens", "/account/sign-out", "/account/password"):
        words = {"label": "x", "password": "battery staple", "again": "battery staple"}
        assert client.post(act, data=words, headers=bearer).status_code == 403, act  # a token makes no tokens
    client.cookies.set(visitor.site.cookie, found[1])
    assert client.get("/account").status_code == 303  # and is no cookie
    client.cookies.clear()
    cookie = {**bearer, "authorization": f"Bearer {survey.tokens['greta']}"}
    assert client.post(grade, json={"grade": "D"}, headers=cookie).status_code == 401  # nor a cookie a token
    assert ("greta", "make_token", f"person:{survey.people['greta']}") in acts_of(database)
    client = visitor.become(survey.tokens["greta"])
    token_id = re.search(r"/account/sessions/(\d+)/end\"><button class=\"danger\"", client.get("/account").text)
    assert token_id is not None
    assert client.post(f"/account/sessions/{token_id[1]}/end").status_code == 303
    assert client.post(grade, json={"grade": "B"}, headers=bearer).status_code == 401


def test_a_cookie_is_never_used_beside_a_bearer(survey: Any, client: TestClient, site: Any) -> None:
    """What skips the check of the origin must not enter by the cookie that a browser adds by itself."""
    address = f"/images/{survey.exposures[0]}/grade"
    for bearer in ("Bearer wrong", "bearer ", "BEARER  "):
        headers = {"cookie": f"{site.cookie}={survey.tokens['ada']}", "authorization": bearer}
        assert client.post(address, data={"grade": "D"}, headers=headers).status_code in (303, 401, 403), bearer
        assert "/login" in client.post(address, data={"grade": "D"}, headers=headers).headers.get("location", "/login")
    twice = [("cookie", f"{site.cookie}={survey.tokens['ada']}"), ("authorization", "x"), ("authorization", "Bearer x")]
    assert client.post(address, data={"grade": "D"}, headers=twice).status_code == 400


def test_tokens_end_with_their_person_and_time(database: Database, crew: Crew, visitor: Any) -> None:
    with database.begin() as session:
        live = make_api_token(session, crew.people["vera"])
        over = make_api_token(session, crew.people["vera"], life_s=-1.0)
    client = visitor.client

    def reach(token: str) -> int:
        return int(client.get("/api/status", headers={"authorization": f"Bearer {token}"}).status_code)

    assert (reach(live), reach(over)) == (200, 401)
    with database.read() as session:
        seen = session.execute(text("SELECT count(*) FROM session WHERE kind = 'api' AND seen_at IS NOT NULL"))
        assert seen.scalar_one() == 1
    visitor.become(crew.tokens["ada"]).post(f"/people/{crew.people['vera']}/disable")
    client.cookies.clear()
    assert reach(live) == 401


# Audit ----------------------------------------------------------------------------------------------------------------


def deeds(survey: Any) -> dict[str, tuple[str, dict[str, Any], str, str]]:
    """Return for each changing route who may do it, what is sent, its address, and the verb it leaves."""
    image, vera = survey.exposures[0], survey.people["vera"]
    ready, failed, person = survey.jobs["ready"], survey.jobs["running"] - 1, f"/people/{vera}"
    words = {"password": "battery staple", "again": "battery staple"}
    return {
        "/images/{image_id}/grade": ("oscar", {"data": {"grade": "C"}}, f"/images/{image}/grade", "grade"),
        "/images/{image_id}/withdraw": ("oscar", {}, f"/images/{image}/withdraw", "withdraw_grade"),
        "/api/images/{image}/grade": ("oscar", {"json": {"grade": "B"}}, f"/api/images/{image}/grade", "grade"),
        "/api/images/{image}/withdraw": ("oscar", {}, f"/api/images/{image}/withdraw", "withdraw_grade"),
        "/jobs/{job_id}/{act}": ("oscar", {"data": {"why": "x"}}, f"/jobs/{ready}/hold", "hold"),
        "/api/jobs/{job_id}/{act}": ("oscar", {}, f"/api/jobs/{ready}/unhold", "unhold"),
        "/api/queue/grade": (
            "greta",
            {"json": {"image_id": image, "grade": "A", "seconds": 2.5}},
            "/api/queue/grade",
            "grade",
        ),
        "/images/{image_id}/tags": ("greta", {"data": {"name": "haze"}}, f"/images/{image}/tags", "tag"),
        "/images/{image_id}/tags/remove": (
            "greta",
            {"data": {"name": "haze"}},
            f"/images/{image}/tags/remove",
            "untag",
        ),
        "/tags/apply": (
            "greta",
            {"data": {"name": "deep", "rule": "seeing > 0", "sure": "true"}},
            "/tags/apply",
            "tag",
        ),
        "/tags/colour": ("greta", {"data": {"name": "deep", "colour": "teal"}}, "/tags/colour", "colour_tag"),
        "/rules/save": ("greta", {"data": {"name": "good", "rule": "seeing < 2"}}, "/rules/save", "save_rule"),
        "/rules/{rule_id:int}/rename": ("greta", {"data": {"name": "better"}}, "/rules/1/rename", "rename_rule"),
        "/rules/{rule_id:int}/retire": ("greta", {}, "/rules/1/retire", "retire_rule"),
        "/grades/counts": (
            "oscar",
            {"data": {"counts": "worst", "confirm": "true"}},
            "/grades/counts",
            "set_counting",
        ),
        "/jobs/orders": ("oscar", {"data": {"act": "cancel", "job": [str(ready)]}}, "/jobs/orders", "cancel"),
        "/nodes/place": ("oscar", {"data": {"run": "06BQ12", "filter": "r", "node": "1"}}, "/nodes/place", "place"),
        "/nodes/forget": ("oscar", {"data": {"run": "06BQ12", "filter": "r"}}, "/nodes/forget", "unplace"),
        "/nodes/{node_id}/drain": ("oscar", {"data": {"why": "its fan is loud"}}, "/nodes/1/drain", "drain"),
        "/nodes/{node_id}/resume": ("oscar", {}, "/nodes/1/resume", "resume"),
        "/deliveries/{delivery_id}/accept": ("oscar", {}, "/deliveries/1/accept", "accept"),
        "/jobs/retry": ("oscar", {"data": {"job": [str(failed)]}}, "/jobs/retry", "retry"),
        "/people": ("ada", {"data": {"name": "bob", "role": "viewer", **words}}, "/people", "add_person"),
        "/people/{person_id}/role": ("ada", {"data": {"role": "grader"}}, f"{person}/role", "set_role"),
        "/people/{person_id}/sessions/{session_id}/end": ("ada", {}, f"{person}/sessions/SESSION/end", "end_session"),
        "/people/{person_id}/sign-out": ("ada", {}, f"{person}/sign-out", "end_sessions"),
        "/people/{person_id}/password": ("ada", {"data": words}, f"{person}/password", "set_password"),
        "/people/{person_id}/disable": ("ada", {}, f"{person}/disable", "disable_person"),
        "/people/{person_id}/enable": ("ada", {}, f"{person}/enable", "enable_person"),
        "/account/tokens": ("greta", {"data": {"label": "x"}}, "/account/tokens", "make_token"),
        "/account/sessions/{session_id}/end": ("greta", {}, "/account/sessions/OWN/end", "end_session"),
        "/account/password": ("oscar", {"data": words}, "/account/password", "set_password"),
        "/account/sign-out": ("greta", {}, "/account/sign-out", "end_sessions"),
        "/logout": ("ada", {}, "/logout", "logout"),
    }


ELSEWHERE = {
    "/login",  # the login below
    *("/rules/plan", "/stacks/{image_id}/restack", "/plans/{plan_id}/again"),  # a plan is recorded with its row
    "/stacks/stale",  # test_stale.py
    *("/jobs/{job_id}/again", "/images/{image_id}/again"),  # test_jobs.py
    *("/api/images/{image_id}/marks", "/images/{image_id}/marks.reg"),  # test_marks.py
    *("/marks/{mark_id}/withdraw", "/api/marks/{mark_id}/withdraw"),
    *("/grades/bulk", "/grades/bulk/{bulk_id}/undo"),  # tests/db/test_bulk.py
    "/api/queue/undo",  # test_queue.py
    "/deliveries/{delivery_id}/check",  # test_stack.py
    "/nodes/{node_id}/move",  # tests/db/test_placement_choice.py
}
QUIET = {"/api/queue/next", "/api/queue/release"}  # what is held before somebody's eyes is no change of the survey


def test_every_changing_route_leaves_a_record(app: FastAPI, database: Database, survey: Any, visitor: Any) -> None:
    todo = deeds(survey)
    routes = {r.path for r in api_routes(app.routes) if r.methods & CHANGING}
    assert set(todo) == routes - ELSEWHERE - QUIET
    with database.begin() as session:
        other = find_entry(session, make_session(session, survey.people["vera"]))
        own = find_entry(session, make_session(session, survey.people["greta"]))
    assert other is not None
    assert own is not None
    for path, (who, sent, address, verb) in todo.items():
        client = visitor.become(survey.tokens[who])
        before = acts_of(database)
        place = address.replace("SESSION", str(other.session_id)).replace("OWN", str(own.session_id))
        reply = client.post(place, **sent)
        assert reply.status_code in (200, 303), (path, reply.status_code, reply.text[-500:])
        fresh = acts_of(database)[: len(acts_of(database)) - len(before)]
        assert [(a[0], a[1]) for a in fresh] == [(who, verb)], path
        assert re.fullmatch(r"(image|job|person|tag|rule|node|delivery):\d+|survey:grades", fresh[0][2]), path


def test_a_login_is_on_record(database: Database, crew: Crew, visitor: Any) -> None:
    with database.begin() as session:
        set_password(session, crew.people["greta"], GOOD)
    visitor.client.headers["origin"] = "http://testserver"
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    reply = visitor.client.post("/login", data={"name": "greta", "password": GOOD}, headers={"user-agent": agent})
    assert reply.status_code == 303
    assert acts_of(database)[0] == ("greta", "login", f"person:{crew.people['greta']}")
    assert "Firefox on Linux" in visitor.client.get("/account").text


def test_the_record_is_narrowed_paged_and_told_as_csv_and_json(database: Database, survey: Any, visitor: Any) -> None:
    with database.begin() as session:
        session.execute(text("DELETE FROM audit"))
        for i in range(120):
            audit(session, survey.people["greta"], "grade", f"image:{survey.exposures[i % 3]}", f"B {i}")
        audit(session, survey.people["oscar"], "hold", f"job:{survey.jobs['ready']}", '=cmd|" /C calc"!A0')
        audit(session, None, "add person", f"person:{survey.people['vera']}", "viewer")
    client = visitor.become(survey.tokens["ada"])
    page = client.get("/audit").text
    assert "<b>122</b>" in page
    assert f'<a href="/images/{survey.exposures[2]}">744102p</a>' in page
    assert f'<a href="/people/{survey.people["vera"]}">vera</a>' in page
    assert "/audit?page=2" in page

    def told(**words: Any) -> list[dict[str, Any]]:
        reply = client.get("/audit", params={**words, "format": "json"})
        assert int(reply.headers["x-total-count"]) == len(reply.json())
        return list(reply.json())

    assert len(told()) == 122
    assert len(told(person="greta", thing=f"image:{survey.exposures[1]}")) == 40
    assert [r["verb"] for r in told(person="-")] == ["add_person"]
    assert [r["thing"] for r in told(verb="hold")] == [f"job:{survey.jobs['ready']}"]
    assert len(told(thing="job")) == 1
    assert told(thing="jo") == told(person="nobody") == told(thing="image:%") == []
    (row,) = csv.DictReader(io.StringIO(client.get("/audit?verb=hold&format=csv").text))
    assert row["detail"] == '\'=cmd|" /C calc"!A0'
    assert row["person"] == "oscar"
    assert client.get("/audit?format=xml").status_code == 400
    assert client.get("/audit?page=2&thing=%00").status_code == 200
    client = visitor.become(survey.tokens["oscar"])
    assert [r["verb"] for r in told()] == ["hold"]  # operators see their own
    assert told(person="greta") == []
    assert visitor.become(survey.tokens["greta"]).get("/audit").status_code == 403


# Visitors without a name ----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(workspace: Workspace, database: Database) -> Iterator[Callable[..., TestClient]]:
    """Return a maker of clients without a session, at a survey that is public at some host names."""
    clients: list[TestClient] = []

    def make(*hosts: str) -> TestClient:
        public = dataclasses.replace(workspace, web_public=hosts)
        made = TestClient(
            make_app(public, database, hosts_for("127.0.0.1", ["testserver"])),
            follow_redirects=False,
            headers={"accept": "text/html"},
        )
        clients.append(made.__enter__())
        return made

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def filled(path: str, survey: Any) -> str:
    values = {
        "image_id": survey.stack if path.startswith("/stacks") else survey.exposures[0],
        "image": survey.exposures[0],
        "stack": survey.stack,
        "file_id": survey.png,
        "name": "x.png",
        "job_id": survey.jobs["failed"],
        "person_id": survey.people["vera"],
        "plan_id": survey.plan,
        "night": "2006-12-12",
        "rule_id:int": 1,
        "node_id": 1,
        "bulk_id": 1,
        "mark_id": 1,
        "delivery_id": 1,
    }
    for name, value in values.items():
        path = path.replace("{" + name + "}", str(value))
    return path


WORDS = {
    "/rules": {"rule": "seeing > 0"},
    "/api/rules/check": {"rule": "seeing > 0"},
    "/api/rules/preview": {"rule": "seeing > 0"},
    "/api/rules/spreads": {"rule": "seeing > 0"},
    "/api/rules/complete": {"text": "see"},
    "/api/find": {"q": "7441"},
    "/sky/shapes.json": {"ra": "324", "dec": "57", "radius": "3"},
}
TILES = "/images/{image_id}/tiles/{level}/{x}/{y}"  # there are no pixels in the sample: test_view.py


def test_visitors_see_what_is_public_and_nothing_else(
    database: Database, survey: Any, opened: Any, workspace: Workspace
) -> None:
    with database.begin() as session:
        image = survey.exposures[0]
        session.execute(
            text("INSERT INTO image_reason (image_id, code, text) VALUES (:i, 'disk', :t)"),
            {"i": image, "t": f"{workspace.roots['data']}/spicasim/x.fits cannot be read; see {workspace.folder}."},
        )
    client = opened("*")
    visitors_post = {"origin": "http://testserver"}
    names = ("vera", "greta", "oscar", "ada", str(workspace.folder), *map(str, workspace.roots.values()))
    for route in api_routes(client.app.routes):
        need = next((n for d in route.dependant.dependencies if (n := need_of(d.call)) is not None), None)
        address = filled(route.path, survey)
        if need is None:
            continue
        if route.methods & CHANGING:
            assert client.post(address, headers=visitors_post).status_code in (303, 401), address
            continue
        if route.path == TILES:
            continue
        reply = client.get(address, params=WORDS.get(route.path, {}))
        if not need.public:
            assert reply.status_code == (401 if address.startswith("/api/") else 303), address
            continue
        assert reply.status_code == 200, address
        if reply.headers["content-type"].startswith(("text/", "application/json")):
            found = [n for n in names if re.search(rf"(?<![\w]){re.escape(n)}(?!\w)", reply.text)]
            assert found == [], (address, found)
    page = client.get(f"/images/{survey.exposures[0]}").text
    assert "cannot be read" in page
    assert "Log in" in page
    for secret in (
        "/jobs",
        "/plans/",
        "/nodes",
        "/people",
        "/audit",
        "/images/1/header",
        'method="post"',
        "File and lineage",
    ):
        assert secret not in page, secret
    rows = client.get("/api/stacks").json()
    assert {(r["path"], r["weight_path"], r["delivered_path"]) for r in rows} == {(None, None, None)}


def test_visitors_get_pictures_and_no_other_file(database: Database, survey: Any, opened: Any) -> None:
    client = opened("*")
    assert client.get(f"/files/{survey.png}/x").headers["content-type"] == "image/png"
    assert client.get(f"/files/{survey.fits}/x").status_code == 303
    with database.begin() as session:
        store_content(session, survey.fits, "text/plain", b"a log")
    assert client.get(f"/files/{survey.fits}/x").status_code == 303
    assert client.get("/files/999999/x").status_code == 303
    for address in ("/exposures", "/rules", "/api/images", "/api/rules/check"):
        reply = client.get(address, params={"rule": 'image in list("/etc/passwd")'})
        assert reply.status_code in (200, 400), address
        assert "root:" not in reply.text, address


def test_who_graded_is_told_to_people_only(database: Database, survey: Any, opened: Any, visitor: Any) -> None:
    address = f"/images/{survey.exposures[0]}"
    visitor.become(survey.tokens["greta"]).post(f"{address}/grade", data={"grade": "C", "comment": "thin cloud"})
    page = opened("*").get(address).text
    assert "greta" not in page
    assert "thin cloud" in page
    assert "a person" in page
    assert "greta" in visitor.become(survey.tokens["vera"]).get(address).text


def test_public_holds_at_the_hosts_that_are_named(crew: Crew, opened: Any, client: TestClient) -> None:
    assert client.get("/stacks").status_code == 303  # not public at all
    named = opened("sky.example")
    assert named.get("/stacks").status_code == 303
    assert named.get("/stacks", headers={"host": "sky.example"}).status_code == 200
    assert named.get("/stacks", headers={"host": "evil.example"}).status_code == 400


def test_people_are_people_where_visitors_may_look(database: Database, survey: Any, opened: Any, site: Any) -> None:
    client = opened("*")
    client.cookies.set(site.cookie, survey.tokens["greta"])
    assert f"/images/{survey.exposures[0]}/grade" in client.get(f"/images/{survey.exposures[0]}").text
    assert client.get("/jobs").status_code == 200
    away = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    client.cookies.clear()
    assert 'http-equiv="refresh"' in client.get("/stacks", headers=away).text  # the strict cookie stayed behind
    assert client.get("/api/status", headers={"authorization": "Bearer over"}).status_code == 401


def test_folders_of_nodes_are_taken_out_of_words(workspace: Workspace) -> None:
    data, other = workspace.roots["data"], f"{workspace.folder}x"
    said = without_places(workspace, f'no space on {data}. See <a href="/stacks/3">x</a> {data}/a/b.fits, {other}')
    assert said == f'no space on …. See <a href="/stacks/3">x</a> …, {other}'


def test_the_local_person_sets_a_first_password(database: Database, crew: Crew, visitor: Any) -> None:
    """Who entered by the printed address has no old password to tell."""
    client = visitor.become(crew.tokens["ada"])
    assert 'name="old"' not in client.get("/account").text
    new = {"password": GOOD, "again": GOOD}
    assert client.post("/account/password", data=new).status_code == 303
    with database.read() as session:
        ada = find_person(session, "ada")
    assert ada is not None
    assert ada.has_password


@pytest.mark.parametrize(
    ("said", "hosts"),
    [("false", ()), ("true", ("*",)), ('["Sky.example"]', ("sky.example",)), ("[]", ())],
)
def test_the_setting_says_where_visitors_may_look(tmp_path: Path, said: str, hosts: tuple[str, ...]) -> None:
    (tmp_path / "spica.toml").write_text(f'survey = "s"\n[web]\npublic = {said}\n')
    assert read_workspace(tmp_path).web_public == hosts


@pytest.mark.parametrize("said", ['"yes"', "1", "[1]", '[""]'])
def test_a_setting_that_will_not_do_is_named(tmp_path: Path, said: str) -> None:
    (tmp_path / "spica.toml").write_text(f'survey = "s"\n[web]\npublic = {said}\n')
    with pytest.raises(RecipeError, match=r"web\.public must be true, false or a list of host names"):
        read_workspace(tmp_path)

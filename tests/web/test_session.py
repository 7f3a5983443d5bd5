"""Who may enter and do what: every route asks for a role, and every change is refused to strangers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount

from spica.db.engine import Database
from spica.db.person import add_person, disable_person, find_person, make_api_token, set_password
from spica.db.throttle import FREE_BY_NAME
from spica.model.person import PersonRole
from spica_web.api.schema import api_routes
from spica_web.deps import Need, Site, need_of
from spica_web.guard import MAX_BODY_BYTES, hosts_for, is_loopback
from spica_web.session import LOCAL, make_entry, may_listen, safe_next

OPEN = {("GET", "/login"), ("POST", "/login"), ("GET", "/healthz")}
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
LEAST = {
    "/logout": PersonRole.VIEWER,
    "/images": PersonRole.GRADER,
    "/api/images": PersonRole.GRADER,
    "/jobs": PersonRole.OPERATOR,
    "/api/jobs": PersonRole.OPERATOR,
    "/rules/save": PersonRole.GRADER,
    "/rules/{rule_id:int}": PersonRole.GRADER,
    "/rules/plan": PersonRole.OPERATOR,
    "/images/{image_id}/again": PersonRole.OPERATOR,
    "/marks": PersonRole.GRADER,
    "/api/marks": PersonRole.GRADER,
    "/tags": PersonRole.GRADER,
    "/api/queue": PersonRole.GRADER,
    "/grades": PersonRole.OPERATOR,
    "/stacks": PersonRole.OPERATOR,
    "/deliveries": PersonRole.OPERATOR,
    "/plans": PersonRole.OPERATOR,
    "/nodes": PersonRole.OPERATOR,
    "/people": PersonRole.ADMIN,
    "/account": PersonRole.VIEWER,
}
PUBLIC = {
    *("/", "/find", "/exposures", "/images/{image_id}", "/rules", "/stacks", "/stacks/{image_id}"),
    *("/files/{file_id}/{name}", "/api/status", "/api/images", "/api/images/{image}", "/api/stacks"),
    *("/api/stacks/{stack}", "/api/rules/check", "/api/rules/preview", "/api/rules/spreads", "/api/rules/complete"),
    *("/api/find", "/sky", "/sky/cells.json", "/sky/shapes.json", "/sky/moc", "/nights", "/nights/{night}", "/runs"),
    *("/objects", "/tags", "/stacks/{image_id}/catalogue", "/images/{image_id}/view"),
    "/images/{image_id}/tiles/{level}/{x}/{y}",
}
ORIGIN = "http://testserver"


def role_needed(route: APIRoute) -> PersonRole | None:
    """Return the role that a route requires by its dependencies."""
    need = whole_need(route)
    return None if need is None else need.role


def whole_need(route: APIRoute) -> Need | None:
    """Return all that a route requires of who asks."""
    return next((n for d in route.dependant.dependencies if (n := need_of(d.call)) is not None), None)


def changing(app: FastAPI) -> Iterator[tuple[str, str, APIRoute]]:
    for route in api_routes(app.routes):
        for method in route.methods & set(CHANGING):
            yield method, route.path, route


def test_every_route_requires_a_role(app: FastAPI) -> None:
    routes = api_routes(app.routes)
    assert len(routes) > 40
    bare = {(m, r.path) for r in routes if role_needed(r) is None for m in r.methods}
    assert bare == OPEN
    public = {(m, r.path) for r in routes if (n := whole_need(r)) is not None and n.public for m in r.methods}
    assert public == {("GET", path) for path in PUBLIC}
    mounts = [r.path for r in app.routes if isinstance(r, Mount)]
    assert mounts == ["/static"]


def test_changing_routes_require_the_role_of_their_noun(app: FastAPI) -> None:
    seen = set()
    for method, path, route in changing(app):
        if (method, path) in OPEN:
            continue
        noun = next(n for n in sorted(LEAST, key=len, reverse=True) if path.startswith(n))
        assert role_needed(route) is LEAST[noun], path
        seen.add(noun)
        need = whole_need(route)
        assert need is not None
        assert need.browser is (noun in ("/people", "/account")), path  # rights are given away by people, not programs
    assert seen == set(LEAST)
    assert role_needed(next(r for r in api_routes(app.routes) if r.path == "/people")) is PersonRole.ADMIN


def filled(path: str, survey: Any) -> str:
    values = {
        "image_id": survey.exposures[0],
        "image": survey.exposures[0],
        "job_id": survey.jobs["ready"],
        "act": "hold",
        "person_id": survey.people["vera"],
        "session_id": 1,
        "rule_id:int": 1,
        "mark_id": 1,
        "bulk_id": 1,
        "delivery_id": 1,
        "plan_id": survey.plan,
        "node_id": 1,
        "night": "2006-12-12",
        "level": 0,
        "x": 0,
        "y": 0,
        "file_id": survey.png,
        "name": "x",
        "stack": survey.stack,
    }
    if path.startswith(("/stacks", "/api/stacks")):
        values["image_id"] = survey.stack
    for name, value in values.items():
        path = path.replace("{" + name + "}", str(value))
    assert "{" not in path, path
    return path


def test_every_change_is_refused_to_strangers(
    app: FastAPI, database: Database, survey: Any, client: Any, site: Site
) -> None:
    from sqlalchemy import text

    def state() -> list[tuple[Any, ...]]:
        with database.read() as session:
            return [
                tuple(session.execute(text(f"SELECT {words} ORDER BY 1")).all())
                for words in ("* FROM grade", "* FROM job", "* FROM person", "* FROM audit", "id, kind FROM session")
            ]

    before = state()
    for method, path, route in changing(app):
        if (method, path) in OPEN:
            continue
        address = filled(path, survey)
        admin = {"cookie": f"{site.cookie}={survey.tokens['ada']}"}
        viewer = {"cookie": f"{site.cookie}={survey.tokens['vera']}"}
        assert client.request(method, address, headers={"origin": ORIGIN}).status_code in (303, 401), address
        if role_needed(route) is not PersonRole.VIEWER:
            assert client.request(method, address, headers={**viewer, "origin": ORIGIN}).status_code == 403, address
        for origin in ("http://evil.example", "http://testserver:81", "null", "https://testserver.evil.example", ""):
            assert client.request(method, address, headers={**admin, "origin": origin}).status_code == 403, (
                address,
                origin,
            )
        assert client.request(method, address, headers=admin).status_code == 403, address  # no origin at all
        wrong = {**admin, "origin": "http://evil.example", "host": "evil.example"}
        assert client.request(method, address, headers=wrong).status_code == 400, address
    assert state() == before


def test_reading_needs_a_session_and_the_right_host(survey: Any, client: Any, app: FastAPI) -> None:
    for route in api_routes(app.routes):
        if "GET" not in route.methods or ("GET", route.path) in OPEN:
            continue
        address = filled(route.path, survey)
        reply = client.get(address)
        expected = 401 if route.path.startswith("/api/") else 303
        assert reply.status_code == expected, address
        if expected == 303:
            assert reply.headers["location"].startswith("/login"), address
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/healthz").text == "ok\n"
    assert client.get("/static/spica.css").status_code == 200


def test_people_pages_are_for_admins(survey: Any, visitor: Any) -> None:
    assert visitor.become(survey.tokens["oscar"]).get("/people").status_code == 403
    assert visitor.become(survey.tokens["ada"]).get("/people").status_code == 200


def test_the_printed_address_opens_once(database: Database, client: Any, site: Site) -> None:
    token = make_entry(database)
    first = client.get(f"/?token={token}")
    assert (first.status_code, first.headers["location"]) == (303, f"/login?token={token}")
    second = client.get(first.headers["location"])
    assert (second.status_code, second.headers["location"]) == (303, "/")
    cookie = second.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert site.cookie in second.headers["set-cookie"]
    assert client.get("/").status_code == 200
    with database.read() as session:
        local = find_person(session, LOCAL)
    assert local is not None
    assert local.role is PersonRole.ADMIN
    client.cookies.clear()
    again = client.get(f"/login?token={token}")
    assert again.status_code == 401
    assert "set-cookie" not in again.headers
    assert make_entry(database) != token


def test_a_local_person_who_was_shut_out_stays_out(database: Database) -> None:
    make_entry(database)
    with database.begin() as session:
        local = find_person(session, LOCAL)
        assert local is not None
        add_person(session, "ada", PersonRole.ADMIN)
        disable_person(session, local.id)
    assert make_entry(database) is None


def test_a_password_opens_and_guesses_are_braked(database: Database, client: Any, site: Site) -> None:
    with database.begin() as session:
        add_person(session, "ada", PersonRole.ADMIN, "correct horse")
    client.headers["origin"] = ORIGIN
    good = {"name": "ada", "password": "correct horse", "next": "/jobs?state=FAILED"}
    reply = client.post("/login", data=good)
    assert (reply.status_code, reply.headers["location"]) == (303, "/jobs?state=FAILED")
    assert client.post("/logout").headers["location"] == "/login"
    client.cookies.clear()
    assert client.get("/").status_code == 303
    for _ in range(FREE_BY_NAME + 1):
        assert client.post("/login", data={"name": "ada", "password": "wrong guess"}).status_code == 401
    braked = client.post("/login", data=good)
    assert braked.status_code == 429
    assert re.search(r"Too many tries, wait [45] s\.", braked.text)
    assert braked.headers["retry-after"] in ("4", "5")
    assert client.get(f"/login?token={make_entry(database)}").status_code == 303  # the printed address is not braked
    assert client.post("/login", data=good, headers={"origin": "http://evil.example"}).status_code == 403


def test_a_link_from_elsewhere_comes_again_from_here(client: Any, survey: Any) -> None:
    """A strict cookie does not come with a navigation from another site: the page asks for itself once more."""
    reply = client.get("/exposures?rule=seeing+%3C+1", headers={"sec-fetch-site": "cross-site"})
    assert reply.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/exposures?rule=seeing+%3C+1">' in reply.text


@pytest.mark.parametrize(
    "address",
    ["//evil.example", "/\\evil.example", "http://evil.example", "/login", "", "/a\nb", "javascript:alert(1)"],
)
def test_only_own_paths_follow_a_login(address: str) -> None:
    assert safe_next(address) == "/"
    assert safe_next("/jobs?state=FAILED") == "/jobs?state=FAILED"


def test_headers_of_safety_stand_on_everything(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    for address in ("/", "/static/spica.js", "/api/status", "/nowhere", "/login"):
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe-inline" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"


def test_long_bodies_are_refused(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    address = f"/images/{survey.exposures[0]}/grade"
    body = b"grade=A&comment=" + b"x" * MAX_BODY_BYTES
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post(address, content=body, headers=form).status_code == 413
    chunks = (body[i : i + 4096] for i in range(0, len(body), 4096))  # without a length
    assert client.post(address, content=chunks, headers=form).status_code == 413


def test_a_bearer_token_needs_no_origin(database: Database, survey: Any, client: Any) -> None:
    with database.begin() as session:
        token = make_api_token(session, survey.people["greta"])
    headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
    reply = client.post(f"/api/images/{survey.exposures[0]}/grade", json={"grade": "C"}, headers=headers)
    assert reply.status_code == 200
    assert reply.json()["grade"] == "C"


def test_beyond_loopback_only_with_a_password(database: Database) -> None:
    assert may_listen(database, "127.0.0.1")
    assert not may_listen(database, "0.0.0.0")
    with database.begin() as session:
        ada = add_person(session, "ada", PersonRole.ADMIN, "correct horse")
    assert may_listen(database, "0.0.0.0")
    with database.begin() as session:
        set_password(session, ada, None)
    assert not may_listen(database, "0.0.0.0")


def test_hosts() -> None:
    local, wide = hosts_for("127.0.0.1"), hosts_for("0.0.0.0", ["Telescope.example"])
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "x")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert local.allow("localhost:8765")
    assert local.allow("[::1]:9000")
    assert not local.allow("10.0.0.1:8765")
    assert not local.allow("evil.example")
    assert not local.allow("localhost@evil.example")
    assert wide.allow("10.0.0.1:8765")
    assert wide.allow("telescope.example")
    assert not wide.allow("evil.example")
    assert not wide.allow("")

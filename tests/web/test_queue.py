"""The grading room's page and acts: who may, what a claim and a grade give, that blind is blind and once is once."""

from __future__ import annotations

import re
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import func, select

from spica.db.engine import Database
from spica.db.grade import add_grade
from spica.db.person import add_person, make_session, read_audit
from spica.db.queue import claim_images, claimed_by
from spica.db.tables.quality import GradeClaimRow, GradeRow
from spica.model.grade import COMMENTS, Grade, GradeSource
from spica.model.person import PersonRole
from spica_web.render import STATIC

JSON = {"accept": "application/json"}


def ask(client: TestClient, path: str, **body: Any) -> Any:
    """Post a request that must do; return what is said."""
    reply = client.post(f"/api/queue/{path}", json=body, headers=JSON)
    assert reply.status_code == 200, reply.text
    return reply.json()


def named(said: Any) -> list[int]:
    return [i["id"] for i in said["items"]]


def grades_of(database: Database, image: int, person: int) -> list[GradeRow]:
    with database.read() as session:
        query = select(GradeRow).where(GradeRow.image_id == image, GradeRow.person_id == person).order_by(GradeRow.id)
        return list(session.scalars(query))


def test_the_room_is_for_graders(survey: Any, visitor: Any) -> None:
    acts = {"next": {}, "grade": {"image_id": 1, "grade": "A"}, "undo": {"grade_id": 1}, "release": {}}
    client = visitor.become(survey.tokens["vera"])
    assert client.get("/grade").status_code == 403
    for path, body in acts.items():
        assert client.post(f"/api/queue/{path}", json=body, headers=JSON).status_code == 403
    client.cookies.clear()
    for path, body in acts.items():
        assert client.post(f"/api/queue/{path}", json=body, headers=JSON).status_code == 401
    client = visitor.become(survey.tokens["greta"])
    client.headers["origin"] = "http://elsewhere.example"
    for path, body in acts.items():
        assert client.post(f"/api/queue/{path}", json=body, headers=JSON).status_code == 403


def test_the_page_names_its_queue_and_is_light(survey: Any, visitor: Any, database: Database) -> None:
    client = visitor.become(survey.tokens["greta"])
    words = {"rule": 'seeing < 1.2 and object = "IC 1396"', "kind": "second", "order": "worst", "filter": "r"}
    text = client.get("/grade", params={**words, "image": "5", "night": "x" * 300}).text
    queue = re.search(r'data-queue="([^"]*)"', text)
    assert queue is not None
    assert "&#34;kind&#34;:&#34;second&#34;" in queue[1]
    assert "IC 1396" in queue[1]
    assert 'data-first="5"' in text
    assert '<option value="worst" selected>' in text
    assert all(c in text.replace("&gt;", ">") for c in COMMENTS)
    assert "<option>NGC 6822</option>" in text
    assert " style=" not in text
    files = re.findall(r"/static/([\w.]+)\?", text)
    assert {"queue.js", "queue.css", "outbox.js", "queuepaint.js", "viewer.js"} <= set(files)
    assert len(text.encode()) + sum((STATIC / f).stat().st_size for f in set(files)) < 300_000


def test_a_rule_that_cannot_be_read_begins_no_queue(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    text = client.get("/grade", params={"rule": "seing < 1"}).text
    assert '<mark>seing</mark>' in text  # fmt: skip
    assert "data-room" not in text
    reply = client.post("/api/queue/next", json={"queue": {"rule": "seing < 1"}}, headers=JSON)
    assert reply.status_code == 400
    assert "seeing" in reply.json()["error"]["message"]


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("next", {"n": 25}),
    ("next", {"have": [0]}),
    ("next", {"have": [1] * 4001}),
    ("next", {"queue": {"kind": "any"}}),
    ("next", {"queue": {"colour": "red"}}),
    ("next", {"word": 1}),
    ("grade", {"image_id": 1, "grade": "E"}),
    ("grade", {"image_id": 2**63, "grade": "A"}),
    ("grade", {"image_id": 1, "grade": "A", "comment": "x" * 2001}),
    ("grade", {"image_id": 1, "grade": "A", "seconds": -1}),
    ("undo", {"grade_id": -1}),
    ("release", {"ids": [1] * 201}),
]


def test_bodies_are_bounded(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    for path, body in WRONG:
        reply = client.post(f"/api/queue/{path}", json=body, headers=JSON)
        assert reply.status_code in (400, 404), (path, body)
        assert reply.json()["error"]["message"]


def test_two_people_get_different_images_and_all_are_shared_out(survey: Any, visitor: Any) -> None:
    greta = ask(visitor.become(survey.tokens["greta"]), "next", n=4)
    oscar = ask(visitor.become(survey.tokens["oscar"]), "next", n=24)
    assert len(named(greta)) == 4
    assert sorted(named(greta) + named(oscar)) == sorted(survey.exposures)
    assert survey.rejected not in named(oscar)
    again = ask(visitor.become(survey.tokens["greta"]), "next", n=4, have=named(greta), hold=named(greta))
    assert (named(again), again["held"]) == ([], named(greta))
    ask(visitor.become(survey.tokens["oscar"]), "release", ids=named(oscar)[:2])
    later = ask(visitor.become(survey.tokens["greta"]), "next", n=4, have=named(greta))
    assert sorted(named(later)) == sorted(named(oscar)[:2])


def test_an_item_holds_what_the_room_shows(survey: Any, visitor: Any) -> None:
    said = ask(visitor.become(survey.tokens["greta"]), "next", n=9)
    times = [i["mjd"] for i in said["items"]]
    assert times == sorted(times), "oldest first"
    item = said["items"][-1]
    assert item["preview"]["name"].endswith(".png")
    assert item["plots"]
    assert item["machine"]["grade"] in "ABCD"
    assert item["measures"]["seeing_arcsec"] > 0
    assert set(said["spreads"]) == {"r", "i"}
    spread = said["spreads"]["r"]["seeing_arcsec"]
    assert (sum(spread["counts"]) <= spread["n"] <= 9, spread["low"] < spread["high"]) == (True, True)
    assert said["limits"][f"{item['instrument']} {item['filter']}"]["seeing_arcsec"]["high"] is True
    known = ask(visitor.client, "next", n=1, spreads=["r", "i"])
    assert known["spreads"] == {}
    reasons = [r for i in said["items"] for r in i["machine"]["reasons"]]
    assert any("arcsec" in r for r in reasons), "as people say it"


def test_the_worst_come_first_where_asked(survey: Any, visitor: Any) -> None:
    said = ask(visitor.become(survey.tokens["greta"]), "next", n=9, queue={"order": "worst"})
    letters = [i["machine"]["grade"] for i in said["items"]]
    assert letters == sorted(letters, reverse=True)
    assert len(set(letters)) > 1


def test_a_grade_is_given_once_and_counts(survey: Any, visitor: Any, database: Database) -> None:
    client = visitor.become(survey.tokens["greta"])
    first = ask(client, "next", n=3)
    image = named(first)[0]
    assert (first["progress"]["done"], first["progress"]["total"]) == (0, 9)
    body = {"image_id": image, "grade": "C", "comment": " trailed ", "seconds": 6.5}
    given = ask(client, "grade", **body)
    again = ask(client, "grade", **body)
    assert (given["repeated"], again["repeated"], again["grade_id"]) == (False, True, given["grade_id"])
    (row,) = grades_of(database, image, survey.people["greta"])
    assert (row.grade, row.comment, row.seconds, row.blind) == (Grade.C, "trailed", 6.5, False)
    assert given["item"]["own"]["grade"] == "C"
    with database.read() as session:
        assert claimed_by(session, image) is None
        acts = [a for a in read_audit(session, f"image:{image}") if a.verb == "grade"]
    assert [a.detail for a in acts] == ["C trailed"]
    after = ask(client, "next", n=0)
    assert (after["progress"]["done"], after["progress"]["total"], after["progress"]["today"]) == (1, 9, 1)
    assert after["progress"]["mean_seconds"] == 6.5


def test_undo_takes_back_ones_own_alone(survey: Any, visitor: Any, database: Database) -> None:
    client = visitor.become(survey.tokens["greta"])
    image = named(ask(client, "next", n=1))[0]
    given = ask(client, "grade", image_id=image, grade="B")
    other = visitor.become(survey.tokens["oscar"])
    refused = other.post("/api/queue/undo", json={"grade_id": given["grade_id"]}, headers=JSON)
    assert refused.status_code == 409
    assert "another person" in refused.json()["error"]["message"]
    client = visitor.become(survey.tokens["greta"])
    taken = ask(client, "undo", grade_id=given["grade_id"])
    assert (taken["item"]["own"], taken["item"]["known"]) == (None, given["grade_id"])
    assert ask(client, "undo", grade_id=given["grade_id"])["item"]["own"] is None, "twice is once"
    with database.read() as session:
        assert claimed_by(session, image) == survey.people["greta"]
        verbs = [a.verb for a in read_audit(session, f"image:{image}")]
    assert sorted(verbs) == ["grade", "withdraw_grade"]
    anew = ask(client, "grade", image_id=image, grade="B", known=given["grade_id"])
    assert (anew["repeated"], len(grades_of(database, image, survey.people["greta"]))) == (False, 2)


def test_a_second_opinion_is_blind_until_it_is_given(survey: Any, visitor: Any, database: Database) -> None:
    image, plain = survey.exposures[:2]
    with database.begin() as session:
        add_grade(
            session, image, GradeSource.HUMAN, Grade.D, person_id=survey.people["oscar"], comment="a telling word"
        )
    client = visitor.become(survey.tokens["greta"])
    said = ask(client, "next", n=9, queue={"kind": "second"})
    assert named(said) == [image]
    assert said["progress"]["total"] == 1
    reply = client.post("/api/queue/next", json={"n": 9, "queue": {"kind": "second"}}, headers=JSON).text
    assert "telling" not in reply
    assert "oscar" not in reply
    assert said["limits"] == {}, "limits would tell the machine's grade"
    (item,) = said["items"]
    assert (item["blind"], item["machine"], item["history"], item["own"]) == (True, None, [], None)
    given = ask(client, "grade", image_id=image, grade="B", blind=True, kind="second")
    assert given["blind"]
    assert given["item"]["machine"] is not None
    assert "a telling word" in [g["comment"] for g in given["item"]["history"]]
    (row,) = grades_of(database, image, survey.people["greta"])
    assert row.blind
    assert named(ask(client, "next", n=9, queue={"kind": "second"})) == []
    open_grade = ask(client, "grade", image_id=plain, grade="B", blind=True, kind="ungraded")
    assert open_grade["blind"] is False, "a queue that shows grades gives no blind ones"
    differ = ask(client, "next", n=0, queue={"kind": "disagree"})["progress"]
    assert differ["disagree"] >= 1


def test_the_queue_begins_with_the_image_asked_for(survey: Any, visitor: Any, database: Database) -> None:
    wanted = survey.exposures[5]
    client = visitor.become(survey.tokens["greta"])
    said = ask(client, "next", n=3, first=wanted)
    assert (named(said)[0], len(set(named(said))), said["refused"]) == (wanted, 3, None)
    held = ask(visitor.become(survey.tokens["oscar"]), "next", n=2, first=wanted)
    assert "greta has" in held["refused"]
    assert wanted not in named(held)
    for image, why in ((survey.rejected, "cannot be graded"), (10**9, "there is no image")):
        refused = ask(visitor.client, "next", n=1, first=image)
        assert why in refused["refused"]
        assert len(named(refused)) == 1


def test_a_claim_lost_to_others_is_told(survey: Any, visitor: Any, database: Database) -> None:
    client = visitor.become(survey.tokens["greta"])
    mine = named(ask(client, "next", n=2))
    with database.begin() as session:
        session.get_one(GradeClaimRow, mine[0]).until = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, 1)
    with database.begin() as session:
        assert claim_images(session, survey.people["oscar"], mine, 2) == mine[:1]
    assert ask(client, "next", n=0, hold=mine)["held"] == mine[1:]


def test_an_empty_queue_says_what_waits(visitor: Any, database: Database) -> None:
    with database.begin() as session:
        token = make_session(session, add_person(session, "gil", PersonRole.GRADER))
    client = visitor.become(token)
    assert client.get("/grade").status_code == 200
    said = ask(client, "next", n=5)
    assert (said["items"], said["progress"]["total"], said["progress"]["mean_seconds"]) == ([], 0, None)


def test_requests_send_a_bounded_number_of_statements(survey: Any, visitor: Any, counted: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    with counted() as seen:
        ask(client, "next", n=9)
    assert 10 <= len(seen) <= 20, seen
    with counted() as seen:
        ask(client, "grade", image_id=survey.exposures[0], grade="A")
    assert len(seen) <= 30, seen

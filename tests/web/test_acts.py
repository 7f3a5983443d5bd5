"""What people do by the pages: grade and take back, order jobs, manage people, read files and logs, hear events."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from spica.db.engine import Database, notify
from spica.db.file import know_file, store_content
from spica.db.job import need_job
from spica.db.pages.listing import read_distributions
from spica.db.person import find_person, read_audit
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import GradeRow
from spica.files.workspace import Workspace
from spica.model.image import FileKind
from spica.model.job import JobState
from spica.model.overview import ImageEntry, JobEntry, NodeEntry, StackEntry
from spica.reference import ReferenceStore, make_catalogue
from spica_web.events import EventHub, stream_events


def grade_of(database: Database, image: int) -> tuple[str | None, str | None]:
    with database.read() as session:
        row = session.get_one(MeasureRow, image)
        return (row.grade.value if row.grade else None, row.grade_source.value if row.grade_source else None)


def test_a_grade_moves_on_and_is_taken_back(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    first, second = survey.exposures[0], survey.exposures[3]
    before = grade_of(database, first)
    reply = client.post(f"/images/{first}/grade?object=IC+1396&filter=r", data={"grade": "D", "comment": "Defocus?"})
    assert reply.status_code == 303
    assert reply.headers["location"] == f"/images/{second}?object=IC+1396&filter=r&graded={first}"
    assert grade_of(database, first) == ("D", "human")
    text = client.get(f"/images/{first}").text
    assert "Defocus?" in text
    assert "greta" in text
    assert client.post(f"/images/{first}/withdraw").status_code == 303
    assert grade_of(database, first) == before
    assert "taken back" in client.get(f"/images/{first}").text
    assert client.post(f"/images/{first}/withdraw").status_code == 409
    with database.read() as session:
        assert [a.verb for a in read_audit(session, f"image:{first}")] == ["withdraw_grade", "grade"]
        kept = session.scalars(select(GradeRow).where(GradeRow.image_id == first)).all()
    assert len(kept) == 2  # nothing is overwritten


def test_another_persons_grade_is_not_taken_back(database: Database, survey: Any, visitor: Any) -> None:
    image = survey.exposures[1]
    visitor.become(survey.tokens["greta"]).post(f"/images/{image}/grade", data={"grade": "C"})
    assert visitor.become(survey.tokens["oscar"]).post(f"/images/{image}/withdraw").status_code == 409
    assert grade_of(database, image) == ("C", "human")


def test_no_grade_but_the_four(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    for word in ("E", "a", "", "A B"):
        reply = client.post(f"/images/{survey.exposures[0]}/grade", data={"grade": word})
        assert reply.status_code == 400
        assert "grade" in reply.text
    assert client.post("/images/99999/grade", data={"grade": "A"}).status_code == 404


def test_jobs_are_held_let_go_cancelled_and_retried(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    job = survey.jobs["ready"]

    def state() -> JobState:
        with database.read() as session:
            return need_job(session, job).state

    for act, reached in (("hold", "HELD"), ("unhold", "READY"), ("cancel", "CANCELLED"), ("retry", "READY")):
        assert client.post(f"/jobs/{job}/{act}", data={"why": f"to {act}"}).status_code == 303
        assert state() is JobState(reached)
    assert client.post(f"/jobs/{job}/unhold").status_code == 409
    assert client.post(f"/jobs/{job}/explode").status_code == 400
    text = client.get(f"/jobs/{job}").text
    assert all(f"to {act}" in text for act in ("hold", "unhold", "cancel", "retry"))
    assert "oscar" in text


def test_one_button_retries_a_whole_cause(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    text = client.get("/jobs?state=FAILED").text
    assert ">Retry 3<" in text  # three disks were full; the numbers in the message do not part them
    failed = [survey.jobs["running"] - i for i in (1, 2, 3)]
    assert client.post("/jobs/retry", data={"job": [str(j) for j in failed]}).status_code == 303
    with database.read() as session:
        assert {need_job(session, j).state for j in failed} == {JobState.READY}


def test_the_log_is_followed_from_a_byte_on(survey: Any, visitor: Any, workspace: Workspace) -> None:
    client = visitor.become(survey.tokens["vera"])
    address = f"/jobs/{survey.jobs['running']}/log"
    whole = client.get(address)
    assert whole.text.startswith("read 744700p.fits.fz\nprogress 0/36")
    assert whole.headers["x-log-live"] == "1"
    end = int(whole.headers["x-log-next"])
    assert end == len(whole.content)
    assert client.get(f"{address}?start={end}").text == ""
    log = next(workspace.roots["jobs"].glob(f"*/*/{survey.jobs['running']:06d}/attempt-1/log.txt"))
    with log.open("a") as stream:
        stream.write("more\n")
    assert client.get(f"{address}?start={end}").text == "more\n"
    ended = client.get(f"/jobs/{survey.jobs['failed']}/log")
    assert ended.headers["x-log-live"] == "0"
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert "root:" not in client.get(address).text  # a step cannot make the pages read another file


def test_pruned_log_falls_back_to_the_tail(survey: Any, visitor: Any, workspace: Workspace) -> None:
    next(workspace.roots["jobs"].glob(f"*/*/{survey.jobs['failed']:06d}/attempt-1/log.txt")).unlink()
    reply = visitor.become(survey.tokens["vera"]).get(f"/jobs/{survey.jobs['failed']}/log")
    assert reply.text == "match 744103p: 3 of 6\n"
    assert reply.headers["x-log-source"] == "tail"


def test_a_rule_is_planned(survey: Any, visitor: Any, workspace: Workspace) -> None:
    client = visitor.become(survey.tokens["oscar"])
    words = {"rule": "grade in (A, B, C, D)", "object": "IC 1396", "filter": "i"}
    dry = client.post("/rules/plan", data={**words, "dry": "true"})
    assert dry.status_code == 200
    assert "What would be planned" in dry.text
    bare = client.post("/rules/plan", data={**words, "dry": "false"})
    assert bare.status_code == 503
    assert "spica reference add FILE" in bare.text
    rng = np.random.default_rng(1)
    ra, dec = 324.75 + rng.uniform(-1, 1, 900), 57.49 + rng.uniform(-0.5, 0.5, 900)
    stars = make_catalogue(
        ra, dec, err_ra_mas=0.5, err_dec_mas=0.5, mags={"g": rng.uniform(12, 20, 900)}, source="patch"
    )
    ReferenceStore(workspace.reference_folder).keep(stars, "patch")
    made = client.post("/rules/plan", data={**words, "dry": "false"})
    assert made.status_code == 303
    assert made.headers["location"].startswith("/plans/")
    text = client.get(made.headers["location"]).text
    assert "oscar" in text
    assert "astrometry" in text
    again = client.post("/rules/plan", data=words)
    assert "nothing is done twice" in again.text
    nothing = client.post("/rules/plan", data={"rule": "seeing < 0.01"})
    assert nothing.status_code == 404


def test_a_rule_of_the_pages_reads_no_file(survey: Any, visitor: Any) -> None:
    reply = visitor.become(survey.tokens["oscar"]).post("/rules/plan", data={"rule": 'image in list("/etc/passwd")'})
    assert reply.status_code == 400
    assert "root" not in reply.text


# Files ----------------------------------------------------------------------------------------------------------------


def test_small_products_come_from_the_database_and_large_ones_from_disk(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    picture = client.get(f"/files/{survey.png}/x.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert (
        client.get(f"/files/{survey.png}/x.png", headers={"if-none-match": picture.headers["etag"]}).status_code == 304
    )
    fits = client.get(f"/files/{survey.fits}/any-name")
    assert fits.content.startswith(b"W" * 100)
    assert fits.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in fits.headers["content-security-policy"]
    part = client.get(f"/files/{survey.fits}/x", headers={"range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, b"W" * 10)


@pytest.mark.parametrize(
    ("media", "shown"),
    [
        ("text/html", "inline"),
        ("image/svg+xml", "inline"),
        ("application/pdf", "attachment"),
        ("application/x-sh", "attachment"),
    ],
)
def test_products_are_sandboxed(database: Database, survey: Any, visitor: Any, media: str, shown: str) -> None:
    with database.begin() as session:
        made = know_file(session, "ab" * 32, 25, FileKind.PRODUCT, 'a"\r\nx: <b>.html')
        store_content(session, made, media, b"<script>alert(1)</script>")
    reply = visitor.become(survey.tokens["vera"]).get(f"/files/{made}/x")
    assert reply.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-disposition"].startswith(shown)
    assert "x" not in reply.headers  # the name is no header


def test_a_file_elsewhere_says_where(survey: Any, visitor: Any, workspace: Workspace) -> None:
    for path in workspace.roots["data"].rglob("*.weight.fits.fz"):
        path.unlink()
    reply = visitor.become(survey.tokens["vera"]).get(f"/files/{survey.fits}/x")
    assert reply.status_code == 404
    assert "n1" in reply.text


# People ---------------------------------------------------------------------------------------------------------------


def test_admins_keep_people(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["ada"])
    new = {"name": "bob", "role": "grader", "password": "correct horse"}
    assert client.post("/people", data=new).status_code == 303
    assert client.post("/people", data=new).status_code == 409
    assert client.post("/people", data={**new, "name": "eve", "password": "short"}).status_code == 400
    with database.read() as session:
        bob = find_person(session, "bob")
    assert bob is not None
    assert bob.has_password
    assert client.post(f"/people/{bob.id}/role", data={"role": "operator"}).status_code == 303
    assert client.post(f"/people/{bob.id}/disable").status_code == 303
    with database.read() as session:
        bob = find_person(session, "bob")
    assert bob is not None
    assert (bob.role.value, bob.disabled_at is not None) == ("operator", True)
    assert client.post(f"/people/{bob.id}/enable").status_code == 303
    ada = survey.people["ada"]
    assert client.post(f"/people/{ada}/disable").status_code == 409
    assert client.post(f"/people/{ada}/role", data={"role": "viewer"}).status_code == 409  # the only admin
    assert client.post("/people/9999/disable").status_code == 404


# API ------------------------------------------------------------------------------------------------------------------


def keys(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}


def test_the_api_speaks_the_contract(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    for address, cls, one in (
        ("images", ImageEntry, survey.exposures[0]),
        ("stacks", StackEntry, survey.stack),
        ("jobs", JobEntry, 1),
        ("nodes", NodeEntry, None),
    ):
        rows = client.get(f"/api/{address}").json()
        assert rows, address
        assert all(set(r) == keys(cls) for r in rows)
        assert [r["id"] for r in rows] == sorted(r["id"] for r in rows)
        if one is not None:
            assert set(client.get(f"/api/{address}/{one}").json()) == keys(cls)
    assert client.get("/api/images/744101p").json()["id"] == survey.exposures[1]
    missing = client.get("/api/images/744999p")
    assert missing.status_code == 404
    assert "did you mean" in missing.json()["error"]["message"]
    status = client.get("/api/status").json()
    assert status["exposure"] == {"assessed": 3, "calibrated": 0, "rejected": 1} | status["exposure"]
    assert sum(status["exposure"].values()) == 10


def test_the_api_pages_and_bounds(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    reply = client.get("/api/images?limit=2&offset=1")
    assert [r["id"] for r in reply.json()] == survey.exposures[1:3]
    assert reply.headers["x-total-count"] == "10"
    assert client.get("/api/images?limit=100000").status_code == 400
    assert client.get("/api/images?rule=seing<1").json()["error"]["word"] == "seing"
    assert client.get("/api/jobs?state=NONSENSE").status_code == 400
    assert {r["state"] for r in client.get("/api/jobs?state=PRUNED").json()} == {"PRUNED"}


def test_rules_are_checked_while_written(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    good = client.get("/api/rules/check", params={"rule": "name like '7441*'"}).json()
    assert (good["ok"], good["taken"], good["total"]) == (True, 9, 10)
    bad = client.get("/api/rules/check", params={"rule": "grade = A and seing < 1"}).json()
    assert (bad["ok"], bad["column"], bad["word"], bad["suggestion"]) == (False, 15, "seing", "seeing")


def test_programs_grade_and_order(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    graded = client.post("/api/images/744102p/grade", json={"grade": "B", "comment": "fine"}).json()
    assert (graded["grade"], graded["grade_source"]) == ("B", "human")
    assert client.post("/api/images/744102p/withdraw").json()["grade_source"] == "machine"
    held = client.post(f"/api/jobs/{survey.jobs['ready']}/hold", json={"why": "later"}).json()
    assert held["state"] == "HELD"
    assert client.post(f"/api/jobs/{survey.jobs['ready']}/hold").status_code == 409
    assert client.post("/api/images/744102p/grade", json={"grade": "X"}).status_code == 400


def test_openapi_describes_all_and_fits_the_contract(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    told = client.get("/api/openapi.json").json()
    assert {"/api/images", "/api/stacks/{stack}", "/api/jobs/{job_id}/{act}", "/api/status"} <= set(told["paths"])
    assert set(told["components"]["schemas"]["ImageEntry"]["properties"]) == keys(ImageEntry)
    json.dumps(told)
    assert "seeing_arcsec" in client.get("/api").text


# Live -----------------------------------------------------------------------------------------------------------------


def test_changes_reach_open_pages(database: Database) -> None:
    async def listen() -> list[bytes]:
        hub = EventHub(database)
        hub.start(asyncio.get_running_loop())
        heard = []
        try:
            stream = stream_events(hub, life_s=20.0)
            heard.append(await anext(stream))
            while not any(b"resync" in h for h in heard):  # the listener stands
                heard.append(await asyncio.wait_for(anext(stream), 10.0))

            def change() -> None:
                with database.begin() as session:
                    for payload in ("job:17", "evil\n\nevent: x", "image:3"):
                        notify(session, payload)

            await asyncio.to_thread(change)
            while not any(b"image:3" in h for h in heard):
                heard.append(await asyncio.wait_for(anext(stream), 10.0))
            await stream.aclose()  # type: ignore[attr-defined]
        finally:
            await asyncio.to_thread(hub.stop)
        return heard

    heard = asyncio.run(listen())
    assert b"event: change\ndata: job:17\n\n" in heard
    assert b"event: change\ndata: image:3\n\n" in heard
    assert not any(b"evil" in h for h in heard)


def test_a_slow_page_is_told_to_look_again(database: Database) -> None:
    async def flood() -> list[str]:
        hub = EventHub(database)
        with hub.subscribe() as queue:
            for i in range(1000):
                hub._put([f"job:{i}"])
            found = []
            while not queue.empty():
                found.append(queue.get_nowait())
        return found

    found = asyncio.run(flood())
    assert len(found) <= 256
    assert "resync" in found
    assert found[-1] == "job:999"


def test_distributions_count_every_known_value(database: Database, survey: Any) -> None:
    with database.read() as session:
        image = session.get_one(ImageRow, survey.exposures[0])
        found = read_distributions(session, image)
        same = (
            select(MeasureRow)
            .join(ImageRow, ImageRow.id == MeasureRow.image_id)
            .where(ImageRow.filter == "r", ImageRow.kind == image.kind)
        )
        rows = session.scalars(same).all()
        own = session.get_one(MeasureRow, image.id)
    for name in ("seeing_arcsec", "ellipticity", "n_stars"):
        values = [getattr(r, name) for r in rows if getattr(r, name) is not None]
        spread = found[name]
        assert spread.n == len(values) == sum(spread.counts)
        assert spread.low >= min(values)
        assert spread.high <= max(values)
        assert spread.below == pytest.approx(sum(v < getattr(own, name) for v in values) / len(values))

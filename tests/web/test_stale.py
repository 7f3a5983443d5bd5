"""The list of stale stacks: each with its reasons, few statements, planned again after a look; and as a table."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select, text

from spica.db.grade import add_grade, withdraw_grade
from spica.db.stale import stale_candidates
from spica.db.tables.job import PlanRow
from spica.db.tables.person import AuditRow
from spica.model.association import Mode
from spica.model.grade import Grade, GradeSource
from spica.model.recipe import Recipe
from spica.reference.catalogue import make_catalogue, write_reference
from spica.reference.store import ReferenceStore
from spica.scheduling.select import schedule
from spica.scheduling.wish import Wish
from spica_web.pages import stale

STRICT = "grade in (A, B, C)"


@pytest.fixture
def planned(database: Any, workspace: Any, survey: Any, tmp_path: Path) -> list[int]:
    """Plan the three associations of the sample for good, and let their stacks count as made; return the stacks."""
    rng = np.random.default_rng(3)
    ra = np.concatenate([rng.uniform(324.2, 325.3, 900), rng.uniform(295.7, 296.8, 900)])
    dec = np.concatenate([rng.uniform(56.9, 58.1, 900), rng.uniform(-15.4, -14.2, 900)])
    stars = make_catalogue(
        ra, dec, err_ra_mas=1.0, err_dec_mas=1.0, epoch_yr=2016.0, mags={"r": rng.uniform(14, 20, 1800)},
        mag_errors={"r": 0.01}, mag_system="AB", source="stars",
    )  # fmt: skip
    ReferenceStore(workspace.reference_folder).add(write_reference(tmp_path / "stars.fits", stars), "stars")
    with database.begin() as session:
        session.execute(text("UPDATE image SET state = 'failed' WHERE kind = 'stack'"))
    done = schedule(database, workspace, Wish(Mode.SURVEY, "grade in (A, B, C, D)"), Recipe())
    stacks = [p.image for p in done.plans if p.image is not None]
    make(database)
    return sorted(stacks)


def make(database: Any) -> None:
    """Let everything that is planned count as made."""
    with database.begin() as session:
        session.execute(text("UPDATE job SET state = 'SUCCEEDED'"))
        session.execute(text("UPDATE image SET state = 'made' WHERE kind = 'stack' AND state = 'planned'"))


def exposure_of(database: Any, stack: int, n: int = 0) -> tuple[int, str]:
    """Return id and name of an exposure of a stack."""
    query = "SELECT i.id, i.name FROM stack_input s JOIN image i ON i.id = s.image_id WHERE s.stack_id = :s ORDER BY 1"
    with database.read() as session:
        rows = session.execute(text(query), {"s": stack}).all()
    return int(rows[n][0]), str(rows[n][1])


def spoil(database: Any, image: int, letter: Grade = Grade.D) -> int:
    with database.begin() as session:
        return int(add_grade(session, image, GradeSource.HUMAN, letter))


def rule_out(database: Any, stacks: list[int]) -> None:
    """Let the stacks be planned by a rule that leaves grade D out: no exposure of the sample has one by hand."""
    with database.begin() as session:
        session.execute(text("UPDATE selection SET rule = :r, rule_sha256 = :h"), {"r": STRICT, "h": "s" * 64})
        session.execute(text("UPDATE measure SET grade = 'A'"))


def listed(reply: Any) -> list[int]:
    return [int(i) for i in re.findall(r'<a href="/stacks/(\d+)">', reply.text)]


def test_an_empty_list_says_what_it_means(planned: list[int], survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    reply = client.get("/stacks/stale")
    assert reply.status_code == 200
    assert "No stack is stale" in reply.text
    assert "would be the same if it were made today" in reply.text
    assert "being made again" in client.get("/stacks/stale?show=again").text
    assert client.get("/stacks/stale?show=x&before=y").status_code == 200
    assert "/stacks/stale" in client.get("/stacks").text
    assert "stale: grades" not in client.get("/").text


def test_each_is_listed_with_its_reasons_the_newest_change_first(
    database: Any, planned: list[int], survey: Any, visitor: Any
) -> None:
    rule_out(database, planned)
    client = visitor.become(survey.tokens["oscar"])
    (first, name), (second, other) = (exposure_of(database, s) for s in planned[:2])
    spoil(database, first)
    assert listed(client.get("/stacks/stale")) == planned[:1]
    given = spoil(database, second)
    reply = client.get("/stacks/stale")
    assert listed(reply) == [planned[1], planned[0]]
    for one in (name, other):
        assert f"{one} would not be in it: grade in (A, B, C) (D)" in reply.text
        assert re.search(
            rf'<a href="/images/\d+">grade of {one} changed from \w+ to D after this stack</a>', reply.text
        )
    assert reply.text.count('<b class="leaves">−1</b>') == 2
    assert "2</span><p>stacks are stale" in client.get("/").text
    assert '<b class="warn">2</b>' in client.get("/stacks").text
    with database.begin() as session:
        withdraw_grade(session, given, None)
    assert listed(client.get("/stacks/stale")) == planned[:1]


def test_the_same_letter_again_is_no_reason_to_stack_again(
    database: Any, planned: list[int], survey: Any, visitor: Any
) -> None:
    client = visitor.become(survey.tokens["oscar"])
    spoil(database, exposure_of(database, planned[0])[0], Grade.C)  # the rule takes every letter
    assert listed(client.get("/stacks/stale")) == []
    reply = client.get("/stacks/stale?show=same")
    assert listed(reply) == planned[:1]
    assert "the same stack" in reply.text
    assert 'name="stack"' not in reply.text


def test_what_is_marked_is_foretold_then_planned_each_by_itself(
    database: Any, planned: list[int], survey: Any, visitor: Any
) -> None:
    rule_out(database, planned)
    lost = [exposure_of(database, s) for s in planned]
    for image, _ in lost:
        spoil(database, image)
    with database.begin() as session:  # the last one loses everybody
        for n in range(3):
            add_grade(session, exposure_of(database, planned[2], n)[0], GradeSource.HUMAN, Grade.D)
    words = {"stack": [str(i) for i in planned]}
    assert visitor.become(survey.tokens["greta"]).post("/stacks/stale", data=words).status_code == 403
    client = visitor.become(survey.tokens["oscar"])
    assert client.post("/stacks/stale", data=words, headers={"origin": "http://elsewhere"}).status_code == 403
    plans = count_plans(database)
    dry = client.post("/stacks/stale", data=words)
    assert count_plans(database) == plans, "nothing is recorded by looking"
    assert dry.text.count('data-outcome="planned"') == 2
    assert "Plan and run 2" in dry.text
    assert "none of the 3 exposures" in dry.text.lower()
    for _, name in lost[:2]:
        assert f">{name}</a>" in dry.text
    assert f'name="stack" value="{planned[2]}"' not in dry.text, "who cannot be planned is not sent on"
    done = client.post("/stacks/stale", data={**words, "dry": "false"})
    assert done.text.count('data-outcome="planned"') == 2
    assert done.text.count('data-outcome="refused"') == 1
    assert count_plans(database) == plans + 2
    with database.read() as session:
        acts = session.execute(select(AuditRow.person_id, AuditRow.subject).where(AuditRow.verb == "restack")).all()
    assert sorted(tuple(act) for act in acts) == sorted((survey.people["oscar"], f"image:{i}") for i in planned[:2])
    again = client.get("/stacks/stale?show=again")
    assert sorted(listed(again)) == planned[:2]
    assert listed(client.get("/stacks/stale")) == planned[2:]
    second = client.post("/stacks/stale", data={**words, "dry": "false"})
    assert second.text.count('data-outcome="known"') == 2
    assert count_plans(database) == plans + 2, "nothing is planned twice"
    make(database)
    with database.begin() as session:
        session.execute(text("UPDATE image SET state = 'superseded' WHERE id = ANY(:i)"), {"i": planned[:2]})
    assert listed(client.get("/stacks/stale?show=again")) == []


def count_plans(database: Any) -> int:
    with database.read() as session:
        return len(session.scalars(select(PlanRow.id)).all())


def test_ids_that_are_no_stacks_and_no_marks_are_told(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    none = client.post("/stacks/stale", data={})
    assert none.status_code == 400
    assert "o stack is marked" in none.text
    for wrong in (survey.exposures[0], 999_999):
        reply = client.post("/stacks/stale", data={"stack": [str(wrong)], "dry": "false"})
        assert (reply.status_code, reply.text.count('data-outcome="refused"')) == (200, 1)
    for bad in ("0", "-1", "x", str(2**62)):
        assert client.post("/stacks/stale", data={"stack": bad}).status_code == 400
    assert client.post("/stacks/stale", data={"stack": [str(i) for i in range(1, 102)]}).status_code == 400


def test_a_page_sends_few_statements_however_many_stacks_it_shows(
    database: Any, planned: list[int], survey: Any, visitor: Any, counted: Any
) -> None:
    rule_out(database, planned)
    client = visitor.become(survey.tokens["oscar"])

    def fewest(n: int) -> int:
        spent = []
        for _ in range(3):
            with counted() as seen:
                assert len(listed(client.get("/stacks/stale"))) == n
            spent.append(len(seen))
        return min(spent)

    spoil(database, exposure_of(database, planned[0])[0])
    one = fewest(1)
    for stack in planned[1:]:
        spoil(database, exposure_of(database, stack)[0])
    assert 10 < fewest(3) <= one <= 46


def test_the_list_goes_on_where_the_page_ended(
    database: Any, planned: list[int], survey: Any, visitor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale, "PAGE", 2)
    rule_out(database, planned)
    for stack in planned:
        spoil(database, exposure_of(database, stack)[0])
    client = visitor.become(survey.tokens["vera"])
    first = client.get("/stacks/stale")
    assert listed(first) == [planned[2], planned[1]]
    (older,) = re.findall(r'data-key="next" href="([^"]+)"', first.text)
    spoil(database, exposure_of(database, planned[2], 1)[0])  # what changes meanwhile moves no row onto the next page
    rest = client.get(older.replace("&amp;", "&"))
    assert listed(rest) == planned[:1]
    assert 'name="stack"' not in rest.text, "a viewer marks nothing"
    table = list(csv.DictReader(io.StringIO(client.get("/stacks/stale?format=csv").text)))
    assert sorted(int(row["id"]) for row in table) == planned


def test_the_list_is_a_table_by_the_same_address(database: Any, planned: list[int], survey: Any, visitor: Any) -> None:
    rule_out(database, planned)
    image, name = exposure_of(database, planned[0])
    spoil(database, image)
    client = visitor.become(survey.tokens["vera"])
    (row,) = csv.DictReader(io.StringIO(client.get("/stacks/stale?format=csv").text))
    assert (int(row["id"]), row["outcome"], row["lost"], row["gained"], row["again"]) == (
        planned[0], "planned", name, "", "",
    )  # fmt: skip
    assert f"grade of {name} changed" in row["reasons"]
    (record,) = json.loads(client.get("/stacks/stale?format=json").text)
    assert {r["code"] for r in record["reasons"]} == {"grade", "leaves"}
    assert {r["image_id"] for r in record["reasons"]} == {image}
    tree = fromstring(client.get("/stacks/stale?format=votable").text)
    assert len(tree.findall(".//{*}TR")) == 1
    assert json.loads(client.get("/stacks/stale?format=json&show=again").text) == []


# In a browser ---------------------------------------------------------------------------------------------------------


def test_stacks_are_marked_and_planned_in_the_browser(
    database: Any, planned: list[int], server: str, page: Page
) -> None:
    rule_out(database, planned)
    for stack in planned:
        spoil(database, exposure_of(database, stack)[0])
    page.goto(server.split("/?", maxsplit=1)[0] + "/stacks/stale")
    button = page.locator("button[data-plan]")
    expect(button).to_be_disabled()
    page.locator("[data-mark-all]").check()
    expect(button).to_have_text("Plan the re-stack of 3")
    page.locator(".pick input[name=stack]").first.uncheck()
    expect(button).to_have_text("Plan the re-stack of 2")
    page.set_viewport_size({"width": 800, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    button.click()
    expect(page.locator('tr[data-outcome="planned"]')).to_have_count(2)
    page.get_by_role("button", name="Plan and run 2").click()
    expect(page.get_by_role("status")).to_contain_text("2 stacks planned again")
    with database.read() as session:
        assert len([c for c in stale_candidates(session) if c.again_id is not None]) == 2

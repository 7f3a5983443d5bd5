"""Pages of grades: figures that a person can check, what counts, one grade for a rule, the report."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jinja2 import meta, nodes
from sqlalchemy import func, select

from spica.db.agreement import Narrow
from spica.db.engine import Database
from spica.db.grade import Counting, add_grade, read_counting
from spica.db.person import add_person, make_session, read_audit
from spica.db.snapshot import load_snapshot
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import BulkGradeRow, GradeRow
from spica.model.grade import Grade, GradeSource
from spica.model.person import PersonRole
from spica_web import gradebook
from spica_web.draw.grading import draw_bars, draw_lane, draw_ring
from spica_web.gradebook import GradesQuery
from spica_web.pages import gradebulk, gradereport, grades
from spica_web.render import TEMPLATES, environment

PAGES = ("/grades", "/grades/disagreements", "/grades/disagreements?kind=people", "/grades/report", "/grades/bulk")


class Strict(HTMLParser):
    """Sees that tags close in order, that no style or script stands in the page, and collects the text."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "option", "path", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        words = dict(attrs)
        self.faults += [f"{tag} {name}" for name in words if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and not words.get("src")):
            self.faults.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.faults.append(f"</{tag}>")


def page(client: TestClient, address: str) -> str:
    """Return the text of a page, words apart by one space, after looking that it is sound."""
    reply = client.get(address)
    assert reply.status_code == 200, (address, reply.status_code, reply.text[-600:])
    parser = Strict()
    parser.feed(reply.text)
    assert (parser.faults, parser.open) == ([], []), address
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", reply.text))


def shown(client: TestClient, address: str, part: str) -> str:
    """Return the inside of the section whose heading holds these words."""
    text = client.get(address).text
    found = [s for s in re.findall(r"<section.*?</section>", text, re.S) if f"<h2>{part}" in s]
    assert len(found) == 1, (address, part)
    return re.sub(r"\s+", " ", re.sub(r"<title>.*?</title>|<[^>]+>", " ", found[0]))


@pytest.fixture
def graded(database: Database, survey: Any) -> list[int]:
    """Let two people grade five exposures by hand and the command line one; return the ids of all nine."""
    ids: list[int] = survey.exposures
    given = [  # exposure, who, letter, blind
        (0, "greta", "A", False),
        (0, "oscar", "D", True),
        (1, "greta", "B", False),
        (1, "oscar", "B", False),
        (2, "greta", "C", False),
        (3, "oscar", "C", False),
        (3, "oscar", "A", False),
        (4, None, "D", False),
    ]
    with database.begin() as session:
        for at, who, letter, blind in given:
            person = None if who is None else survey.people[who]
            said = "=trail" if at == 2 else None
            add_grade(
                session,
                ids[at],
                GradeSource.HUMAN,
                Grade(letter),
                person_id=person,
                comment=said,
                blind=blind,
                seconds=4.0,
            )
    return ids


def now(database: Database, image_id: int) -> tuple[Any, Any]:
    with database.read() as session:
        row = session.get_one(MeasureRow, image_id)
        return row.grade, row.grade_source


def test_pages_are_sound_and_ask_a_bounded_number_of_times(
    graded: Any, survey: Any, visitor: Any, counted: Any
) -> None:
    client = visitor.become(survey.tokens["ada"])
    client.get("/grades")
    spent = {}
    for address in (*PAGES, "/grades/bulk?rule=seeing+%3C+9&grade=B&target=all", "/grades/report?format=csv"):
        if "csv" not in address:
            page(client, address)
        with counted() as statements:
            assert client.get(address).status_code == 200
        spent[address] = len([s for s in statements if "pg_notify" not in s])
    assert max(spent.values()) <= 14, spent
    assert min(spent.values()) >= 2  # the counter counts: who asks, and what for


def test_the_overview_counts_as_a_person_does(database: Database, graded: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    text = page(client, "/grades")
    assert "5 of 9 by people" in text
    assert "4 that no person has seen" in text
    graders = shown(client, "/grades", "Graders")
    assert re.search(r"oscar 4 3 4\.0 s", graders), "four given, of three exposures"
    assert re.search(r"greta 3 3 4\.0 s", graders)
    assert re.search(r"command line 1 1 4\.0 s", graders)
    pairs = shown(client, "/grades", "Pairs of graders")
    assert re.search(r"greta oscar 1 100 % 100 %", pairs), "the one not blind"
    assert re.search(r"greta oscar blind 1 0 % 0 %", pairs)
    matrix = shown(client, "/grades", "People against the machine")
    assert "5 exposures" in matrix
    narrowed = page(client, "/grades?filter=i")
    assert "2 of 3 by people" in narrowed
    assert "No exposure that can be graded is of these words" in page(client, "/grades?filter=nothing")


def test_an_own_act_is_seen_at_once(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    assert "0 of 9 by people" in page(client, "/grades")
    client.post(f"/images/{survey.exposures[0]}/grade", data={"grade": "C"})
    assert "1 of 9 by people" in page(client, "/grades")
    assert re.search(r"greta 1 1", shown(client, "/grades", "Graders"))


def test_empty_pages_say_what_to_do(database: Database, visitor: Any) -> None:
    with database.begin() as session:
        token = make_session(session, add_person(session, "ada", PersonRole.ADMIN))
    client = visitor.become(token)
    assert "spica ingest PATH" in page(client, "/grades")
    assert "grading room" in page(client, "/grades/disagreements")
    assert "No two people disagree" in page(client, "/grades/disagreements?kind=people")
    assert "spica ingest PATH" in page(client, "/grades/report")
    assert "Write a rule above" in page(client, "/grades/bulk")
    assert client.get("/grades/report?format=json").json() == []
    assert client.get("/grades/report?format=csv").text.count("\n") == 1


def test_roles(survey: Any, client: TestClient, visitor: Any) -> None:
    assert client.get("/grades").status_code == 303, "strangers are asked to enter"
    for name, status in (("vera", 200), ("oscar", 200)):
        entered = visitor.become(survey.tokens[name])
        assert [entered.get(a).status_code for a in PAGES[:4]] == [status] * 4
    viewer = visitor.become(survey.tokens["greta"])
    assert viewer.get("/grades/bulk").status_code == 403
    assert viewer.post("/grades/counts", data={"counts": "worst", "confirm": "true"}).status_code == 403
    assert viewer.post("/grades/bulk", data={"rule": "seeing < 9", "grade": "D", "token": "9"}).status_code == 403
    assert viewer.post("/grades/bulk/1/undo").status_code == 403
    assert "Change what counts" not in viewer.get("/grades").text


def test_what_counts_is_changed_by_an_operator_who_says_so_twice(
    database: Database, graded: Any, survey: Any, visitor: Any
) -> None:
    client = visitor.become(survey.tokens["oscar"])
    assert now(database, graded[3])[0] is Grade.A
    assert now(database, graded[0])[0] is Grade.D
    with database.begin() as session:
        add_grade(session, graded[0], GradeSource.HUMAN, Grade.A, person_id=survey.people["greta"])
    assert now(database, graded[0])[0] is Grade.A
    refused = client.post("/grades/counts", data={"counts": "worst"})
    assert refused.status_code == 400
    assert "tick" in refused.text
    reply = client.post("/grades/counts", data={"counts": "worst", "confirm": "true"})
    assert reply.headers["location"] == "/grades?changed=1"
    assert "Now the worst counts; 1 exposure changed grade" in page(client, "/grades?changed=1")
    assert now(database, graded[0])[0] is Grade.D
    with database.read() as session:
        assert read_counting(session) is Counting.WORST
        assert [a.person for a in read_audit(session, "survey:grades")] == ["oscar"]
    assert client.post("/grades/counts", data={"counts": "best", "confirm": "true"}).status_code == 400


def test_disagreements_lead_to_their_exposures(database: Database, graded: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    people = client.get("/grades/disagreements?kind=people").text
    assert re.findall(r'<td><a href="/images/(\d+)">', people) == [str(graded[0])]
    with database.read() as session:
        query = select(MeasureRow.image_id, MeasureRow.grade, GradeRow.grade).join(
            GradeRow, (GradeRow.image_id == MeasureRow.image_id) & (GradeRow.source == GradeSource.MACHINE)
        )
        human = query.where(MeasureRow.grade_source == GradeSource.HUMAN, MeasureRow.grade != GradeRow.grade)
        apart = {i: abs(ord(h) - ord(m)) for i, h, m in session.execute(human) if i in graded}
    found = [int(i) for i in re.findall(r'<td><a href="/images/(\d+)">', client.get("/grades/disagreements").text)]
    assert set(found) == set(apart)
    assert [apart[i] for i in found] == sorted(apart.values(), reverse=True), "the farthest apart first"
    for machine in "ABCD":
        for letter in "ABCD":
            link = f"/grades/disagreements?machine={machine}&human={letter}"
            cell = re.search(rf'machine {machine}, people {letter}: (\d+)"', client.get("/grades").text)
            n = int(cell[1]) if cell else 0
            assert client.get(link).text.count('<td><a href="/images/') == n, link
    assert (
        "/grade?kind=disagree&amp;object=IC+1396"
        in visitor.become(survey.tokens["greta"]).get("/grades/disagreements?object=IC+1396").text
    )


def preview(client: TestClient, **words: str) -> dict[str, str]:
    """Return the hidden fields of the form that the preview offers."""
    text = client.get("/grades/bulk", params=words).text
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))


def test_one_grade_for_a_rule(database: Database, graded: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    rule = 'filter = "r"'
    text = page(client, f"/grades/bulk?rule={rule}&grade=D&target=all&comment=moon")
    assert "6 exposures would get" in text
    assert "2 exposures have a standing grade of somebody else" in text
    assert "3 exposures would get" in page(client, f"/grades/bulk?rule={rule}&grade=D")
    fields = preview(client, rule=rule, grade="D", target="all", comment="moon")
    fields["rule"] = rule
    reply = client.post("/grades/bulk", data=fields)
    act = reply.headers["location"].removeprefix("/grades/bulk?done=")
    assert act.isdigit()
    assert "6 exposures now have your grade D" in page(client, reply.headers["location"])
    red = [i for k, i in enumerate(graded) if k % 3 != 1]
    assert {now(database, i) for i in red} == {(Grade.D, GradeSource.HUMAN)}
    assert now(database, graded[1])[0] is Grade.B
    admin = visitor.become(survey.tokens["ada"])
    assert f"/grades/bulk/{act}/undo" in admin.get("/grades/bulk").text
    assert admin.post(f"/grades/bulk/{act}/undo").status_code == 303
    assert now(database, graded[2])[0] is Grade.C
    assert admin.post(f"/grades/bulk/{act}/undo").status_code == 409
    assert "taken back" in page(admin, "/grades/bulk")


def test_only_the_own_act_is_taken_back_by_an_operator(database: Database, survey: Any, visitor: Any) -> None:
    admin = visitor.become(survey.tokens["ada"])
    fields = {**preview(admin, rule="seeing < 9", grade="B"), "rule": "seeing < 9"}
    act = admin.post("/grades/bulk", data=fields).headers["location"].rpartition("=")[2]
    operator = visitor.become(survey.tokens["oscar"])
    assert f"/grades/bulk/{act}/undo" not in operator.get("/grades/bulk").text
    assert operator.post(f"/grades/bulk/{act}/undo").status_code == 409
    assert now(database, survey.exposures[0]) == (Grade.B, GradeSource.HUMAN)


def test_what_changed_since_the_preview_is_shown_anew(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    fields = {**preview(client, rule="seeing < 9", grade="D"), "rule": "seeing < 9"}
    with database.begin() as session:
        add_grade(session, survey.exposures[0], GradeSource.HUMAN, Grade.A)
    reply = client.post("/grades/bulk", data=fields)
    assert reply.status_code == 303
    assert reply.headers["location"].endswith("moved=9")
    text = page(client, reply.headers["location"])
    assert "took 9 exposures then, and 8 now" in text
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(BulkGradeRow)) == 0
    again = {**preview(client, rule="seeing < 9", grade="D"), "rule": "seeing < 9"}
    assert "done=" in client.post("/grades/bulk", data=again).headers["location"]
    assert now(database, survey.exposures[0])[0] is Grade.A
    assert now(database, survey.exposures[1])[0] is Grade.D


def test_a_rule_that_cannot_be_read_is_marked(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    for address in ("/grades/bulk?rule=seing+%3C+1", "/grades/report?rule=seing+%3C+1"):
        text = client.get(address).text
        assert "<mark>seing</mark>" in text, address
    assert client.get("/grades/report?rule=seing+%3C+1&format=csv").status_code == 400
    assert client.post("/grades/bulk", data={"rule": "seing < 1", "grade": "A", "token": "1"}).status_code == 400


def test_the_report_tells_who_said_what(graded: Any, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    records = {r["id"]: r for r in client.get("/grades/report?format=json").json()}
    assert set(records) == set(graded)
    first = records[graded[0]]
    assert (first["grade"], first["grade_source"], first["graded_by"]) == ("D", "human", "oscar")
    assert [(g["person"], g["grade"], g["blind"]) for g in first["grades"]] == [
        ("oscar", "D", True),
        ("greta", "A", False),
    ]
    assert records[graded[4]]["graded_by"] == "command line"
    assert records[graded[5]]["grade_source"] == "machine"
    assert records[graded[5]]["machine"] == records[graded[5]]["grade"]
    reply = client.get("/grades/report?format=csv&rule=grade+=+%22C%22")
    table = list(csv.DictReader(io.StringIO(reply.text)))
    assert int(reply.headers["x-total-count"]) == len(table)
    (line,) = [row for row in table if row["id"] == str(graded[2])]
    assert line["comment"] == "'=trail", "no spreadsheet takes it for a formula"
    assert line["grades"] == "greta C"
    text = page(client, "/grades/report?night=2006-12-12")
    assert "3 exposures" in text
    assert "744100p" in text
    assert "744101p" not in text


def test_the_report_is_in_the_order_of_the_sky_and_streamed_in_pieces(
    graded: Any, survey: Any, visitor: Any, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    client = visitor.become(survey.tokens["vera"])
    with database.read() as session:
        expected = list(session.scalars(select(ImageRow.id).where(ImageRow.id.in_(graded)).order_by(ImageRow.mjd)))
    whole = client.get("/grades/report?format=json")
    assert [r["id"] for r in whole.json()] == expected
    monkeypatch.setattr(gradereport, "CHUNK", 2)
    pieces = client.get("/grades/report?format=json")
    assert pieces.json() == whole.json()
    assert client.get("/grades/report?format=csv").text.count("\n") == 10
    monkeypatch.setattr(gradereport, "LINES", 4)
    pages = [
        re.findall(r'<td><a href="/images/(\d+)">', client.get(f"/grades/report?page={k}").text) for k in (1, 2, 3)
    ]
    assert [int(i) for p in pages for i in p] == expected
    assert "beyond the end" in client.get("/grades/report?page=4").text


@pytest.mark.parametrize(
    "kind", [grades.GradesPage, grades.DisagreementsPage, gradebulk.BulkPage, gradereport.ReportPage]
)
def test_a_template_uses_what_its_page_holds(kind: Any) -> None:
    tree = environment().parse((TEMPLATES / kind.template).read_text(encoding="utf-8"))
    own = {name.name for assign in tree.find_all(nodes.Assign) for name in assign.find_all(nodes.Name)}
    used = meta.find_undeclared_variables(tree) - {"chrome", "asset", "ui"}
    fields = {f.name for f in dataclasses.fields(kind)}
    assert used - own <= fields, "asked for, not given"
    assert fields - {"title", "nav"} <= used, "given, not used"


def test_drawings() -> None:
    from datetime import date

    from spica.db.agreement import Bins

    ring = str(draw_ring((3, 1, 0, 0), ("gA", "gB", "gC", "gD"), "x"))
    assert ring.count("<path") == 2
    assert 'aria-label="x: A 3, B 1, C 0, D 0"' in ring
    assert str(draw_ring((0, 0), ("gA", "gB"), "x")).count("gN") == 1
    bars = str(draw_bars(Bins(date(2026, 1, 1), 7, ((2, 1), (0, 0), (0, 4))), ("gA", "gB"), "x"))
    assert bars.count("<rect") == 3
    heights = [float(h) for h in re.findall(r'<rect[^>]*height="([\d.]+)"', bars)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.02)
    assert heights[2] == pytest.approx(4 * heights[1], abs=0.02)
    assert "2026-01-15 to 2026-01-21: B 4" in bars
    assert str(draw_lane((0, 0))) == ""
    assert str(draw_lane((1, 0, 2))).count("h") >= 2


def test_dear_figures_are_measured_aside(
    database: Database, graded: Any, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where measuring takes long the last figures serve at once, and newer ones follow."""
    keeper, narrow = gradebook.FigureKeeper(), Narrow()
    with database.read() as session:
        old = load_snapshot(session, 1)
    first = keeper.get(old, narrow)
    assert first.figures.machine.n == 5
    monkeypatch.setattr(gradebook, "CHEAP_S", 0.0)
    monkeypatch.setattr(gradebook, "REST", 0.0)
    with database.begin() as session:
        add_grade(session, graded[7], GradeSource.HUMAN, Grade.B)
    with database.read() as session:
        new = load_snapshot(session, 2)
    assert keeper.get(new, narrow) is first
    end = time.monotonic() + 20.0
    while keeper.get(new, narrow) is first and time.monotonic() < end:
        time.sleep(0.01)
    assert keeper.get(new, narrow).figures.machine.n == 6
    assert keeper.get(old, narrow).figures.machine.n == 6, "never back to what was older"


def test_addresses() -> None:
    query = GradesQuery(object="IC 1396", run='a"b')
    assert query.link(page=2) == "?object=IC+1396&run=a%22b&page=2"
    assert grades.queue_link(query) == "/grade?kind=disagree&object=IC+1396", "a quote cannot stand in a rule"
    assert grades.queue_link(GradesQuery(run="06BQ12")) == "/grade?kind=disagree&rule=run+%3D+%2206BQ12%22"
    assert query.narrow({}).object == "ic1396"
    assert GradesQuery(night="yesterday").narrow({}).night is None

"""The rule room: counts of the snapshot are the database's, previews, versions, comparison, plans before they run."""

from __future__ import annotations

import html
import math
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from sqlalchemy import insert, select

from spica.db.engine import Database
from spica.db.rule import list_rules, save_rule
from spica.db.selection import judge
from spica.db.snapshot import Snapshot, load_snapshot
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.job import SelectionRow
from spica.files.workspace import Workspace
from spica.model.recipe import Recipe
from spica.model.selection import parse_rule
from spica.reference.catalogue import make_catalogue
from spica.reference.store import ReferenceStore
from spica_web.draw.coverage import HEIGHT, MAX_CELLS, WIDTH, draw_coverage
from spica_web.pages.launch import Order, changed_parameters, job_kinds, read_recipes
from spica_web.tally import Bounds, cuts_of, part, spreads, tally

RULES = ("seeing < 1.0", "grade in (A, B) and seeing < 1.0", "skyprobe < 0.1", "not airmass < 1.3 or seeing is unknown")


def scattered(database: Database, n: int, wide: bool) -> None:
    """Add n exposures over one field, or over the whole sky."""
    rng = np.random.default_rng(4)
    with database.begin() as session:
        like = session.scalars(select(ImageRow).where(ImageRow.quality_id.is_not(None)).limit(1)).one()
        session.execute(insert(ImageRow), [{
            "id": 50_000 + k, "kind": like.kind, "state": like.state, "name": f"90{k:04d}p", "instrument": "spicasim",
            "object": f"W{k % 5}", "object_key": f"w{k % 5}", "filter": "r", "night": like.night, "exptime_s": 100.0,
            "ra_deg": (rng.uniform(0, 360) if wide else rng.normal(0, 0.6)) % 360.0,
            "dec_deg": math.degrees(math.asin(rng.uniform(-1, 1))) if wide else rng.normal(2, 0.6),
            "radius_deg": 0.5, "quality_id": like.quality_id,
        } for k in range(n)])  # fmt: skip
        session.execute(insert(MeasureRow), [{
            "image_id": 50_000 + k, "seeing_arcsec": float(rng.uniform(0.5, 1.5)), "limiting_mag": 24.0, "airmass": 1.2,
        } for k in range(n)])  # fmt: skip


# Counting -------------------------------------------------------------------------------------------------------------


def test_the_snapshot_counts_as_the_planner_judges(database: Database, survey: Any) -> None:
    with database.read() as session:
        snapshot = load_snapshot(session)
        rules = [parse_rule(r) for r in RULES]
        judged_by = [judge(session, rule, footprints=False) for rule in rules]
    for parsed, judged in zip(rules, judged_by, strict=True):
        split = part(snapshot, parsed, Bounds())
        assert snapshot.images.id[split.taken].tolist() == [c.image_id for c in judged.chosen]
        assert snapshot.images.id[split.out].tolist() == [o.candidate.image_id for o in judged.left_out]
        found = tally(snapshot, split)
        assert found.exptime_s == sum(c.exptime_s or 0.0 for c in judged.chosen)
        assert found.n_groups == len({(c.object_key, c.instrument, c.filter) for c in judged.chosen})
        assert sum(g.n for g in found.groups) == found.taken
    check_bounds(snapshot, survey)
    check_spreads(snapshot)


def check_bounds(snapshot: Snapshot, survey: Any) -> None:
    """Bounds narrow the candidates."""
    everything = parse_rule("seeing is known or seeing is unknown")
    one = part(snapshot, everything, Bounds("ic_1396", "r"))
    assert snapshot.images.id[one.candidates].tolist() == survey.exposures[0::3]
    night = part(snapshot, everything, Bounds(night="2006-12-13"))
    assert 0 < night.candidates.size < 9
    assert part(snapshot, everything, Bounds("no such")).candidates.size == 0


def check_spreads(snapshot: Snapshot) -> None:
    """Spreads hold every candidate, and the cuts of the rule."""
    rule = parse_rule("seeing < 1.0 and ellipticity between 0.01 and 0.06 and airmass in (1.2, 1.3)")
    split = part(snapshot, rule, Bounds())
    found = {f.field: f for f in spreads(snapshot, rule, split)}
    assert {"seeing", "ellipticity", "airmass", "limiting_mag", "background"} <= set(found)
    assert [(c.operator, c.value) for c in found["ellipticity"].cuts] == [(">=", 0.01), ("<=", 0.06)]
    assert [c.value for c in cuts_of(rule)["airmass"]] == [1.2, 1.3]
    seeing = snapshot.images.seeing[split.candidates]
    assert found["seeing"].median == pytest.approx(np.sort(seeing[np.isfinite(seeing)])[4])
    for f in found.values():
        assert f.low < f.high
        assert 7 <= sum(f.candidates) <= 9  # the percentiles may leave one at either end
        assert all(t <= c for t, c in zip(f.taken, f.candidates, strict=True))
        assert sum(f.taken) <= split.taken.size


@pytest.mark.parametrize("wide", [False, True])
def test_coverage_counts_each_exposure_once_within_the_map(database: Database, survey: Any, wide: bool) -> None:
    scattered(database, 900, wide)
    rule = parse_rule("seeing < 1.0")
    with database.read() as session:
        snapshot = load_snapshot(session)
    split = part(snapshot, rule, Bounds("W1"))
    found = draw_coverage(snapshot, split)
    assert found is not None
    assert sum(c.n_in for c in found.cells) == split.taken.size
    assert sum(c.n_out for c in found.cells) == split.out.size
    assert sum(c.exptime_s for c in found.cells) == pytest.approx(100.0 * split.taken.size)
    assert len(found.cells) <= MAX_CELLS
    for cell in found.cells:
        numbers = [float(v) for v in re.findall(r"-?[0-9.]+", cell.path)]
        assert all(-6 <= x <= WIDTH + 6 for x in numbers[0::2]), cell
        assert all(-6 <= y <= HEIGHT + 6 for y in numbers[1::2]), cell
        assert max(numbers[0::2]) - min(numbers[0::2]) < WIDTH / 4  # no cell runs round the sky
    assert (found.size_deg > 3) is wide


# The programs' side ---------------------------------------------------------------------------------------------------


def test_preview_and_spreads(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    words = {"rule": "SEEING<1.0 and grade in (A,B)", "object": "IC 1396"}
    found = client.get("/api/rules/preview", params=words).json()
    assert (found["ok"], found["spelled"]) == (True, "seeing < 1 and grade in (A, B)")
    assert found["found"]["candidates"] == 6
    assert found["found"]["largest"]["object"] == "IC 1396"
    told = client.get("/api/rules/spreads", params=words).json()
    assert told["ok"]
    assert {"seeing", "airmass"} <= {f["field"] for f in told["fields"]}
    assert sum(c["n"] for c in told["clauses"]) == 6 - found["found"]["taken"]
    assert told["coverage"]["cells"]
    bad = client.get("/api/rules/preview", params={"rule": "grade = A and seing < 1"}).json()
    assert (bad["ok"], bad["column"], bad["word"], bad["suggestion"]) == (False, 15, "seing", "seeing")
    assert client.get("/api/rules/spreads", params={"rule": "seing < 1"}).json()["ok"] is False
    assert client.get("/api/rules/preview").json()["ok"] is False
    listed = client.get("/api/rules/preview", params={"rule": 'image in list("/etc/passwd")'}).json()
    assert listed["ok"] is False
    assert "root" not in str(listed)


def test_completion_knows_the_survey(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    found = client.get("/api/rules/complete", params={"rule": 'object = "'}).json()
    assert {'"IC 1396"', '"NGC 6822"'} == {s["text"] for s in found["suggestions"]}
    middle = client.get("/api/rules/complete", params={"rule": "se and grade = A", "at": 2}).json()
    assert middle["suggestions"][0]["text"] == "seeing"
    assert (middle["start"], middle["end"]) == (0, 2)


# Saved rules ----------------------------------------------------------------------------------------------------------


def test_a_rule_is_saved_in_versions(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["greta"])
    words = {"rule": "seeing < 0.9", "name": "good seeing", "note": "to begin"}
    reply = client.post("/rules/save", data=words)
    assert reply.status_code == 303
    there = parse_qs(urlsplit(reply.headers["location"]).query)
    assert there == {"rule": ["seeing < 0.9"], "saved": ["1:1"]}
    page = client.get(reply.headers["location"]).text
    assert "version 1" in page
    assert "--rule &#39;@good seeing:1&#39;" in page
    client.post("/rules/save", data={**words, "rule": "seeing < 0.8", "note": "sharper"})
    changed = client.get("/rules", params={"rule": "seeing < 0.7", "saved": "1:2"}).text
    assert "changed since" in changed
    assert "Save version 3" in changed
    own = client.get("/rules/1").text
    assert "sharper" in own
    assert "to begin" in own
    assert "/rules/compare?a=1:1&amp;b=1:2" in own
    assert "Rename" in own
    assert client.post("/rules/1/rename", data={"name": "sharp"}).status_code == 303
    assert client.post("/rules/1/retire").status_code == 303
    with database.read() as session:
        assert [r.name for r in list_rules(session, retired=True)] == ["sharp"]
    assert client.post("/rules/1/retire", data={"back": "true"}).status_code == 303
    with database.read() as session:
        assert [(r.name, r.newest.number) for r in list_rules(session)] == [("sharp", 2)]


def test_who_may_save(database: Database, survey: Any, visitor: Any) -> None:
    words = {"rule": "seeing < 0.9", "name": "mine"}
    assert visitor.become(survey.tokens["vera"]).post("/rules/save", data=words).status_code == 403
    assert visitor.become(survey.tokens["greta"]).post("/rules/save", data=words).status_code == 303
    assert (
        visitor.become(survey.tokens["oscar"]).post("/rules/save", data={**words, "rule": "seeing < 1"}).status_code
        == 303
    )
    with database.begin() as session:
        save_rule(session, "of ada", "seeing < 2", survey.people["ada"])
    client = visitor.become(survey.tokens["greta"])
    assert client.post("/rules/save", data={**words, "name": "of ada"}).status_code == 400
    assert client.post("/rules/2/retire").status_code == 400
    assert "Rename" not in client.get("/rules/2").text
    assert client.post("/rules/save", data={**words, "rule": "seing < 1"}).status_code == 400
    assert client.get("/rules/99").status_code == 404


def test_two_versions_are_compared(database: Database, survey: Any, visitor: Any) -> None:
    with database.begin() as session:
        seeing = sorted(
            (s, i)
            for i, s in session.execute(select(MeasureRow.image_id, MeasureRow.seeing_arcsec))
            if s is not None and i in survey.exposures
        )
        low, high = seeing[2][0], seeing[6][0]
        save_rule(session, "cut", f"seeing <= {low!r}", None)
        save_rule(session, "cut", f"seeing <= {high!r} and seeing > {seeing[0][0]!r}", None)
    client = visitor.become(survey.tokens["vera"])
    text = client.get("/rules/compare", params={"a": "1:1", "b": "1:2"}).text
    for words in ("2 in both", "4 gained", "1 lost"):
        assert words in text
    gained = text.partition("<h2>Gained</h2>")[2].partition("<h2>Lost</h2>")
    ids = [{int(i) for i in re.findall(r"/images/(\d+)", part)} for part in (gained[0], gained[2])]
    assert ids == [{i for _, i in seeing[3:7]}, {seeing[0][1]}]
    assert html.escape(f"seeing > {seeing[0][0]!r}") in gained[2]  # the clause that keeps it out now
    same = client.get("/rules/compare", params={"a": "1:2", "rule": "seeing < 0"}).text
    assert "6 lost" in same
    assert client.get("/rules/compare", params={"a": "x"}).status_code == 400
    assert client.get("/rules/compare", params={"a": "1:7", "b": "1"}).status_code == 404


# Planning -------------------------------------------------------------------------------------------------------------


def keep_stars(workspace: Workspace) -> None:
    rng = np.random.default_rng(1)
    ra, dec = 324.75 + rng.uniform(-1, 1, 900), 57.49 + rng.uniform(-0.5, 0.5, 900)
    mags = {"g": rng.uniform(12, 20, 900)}
    stars = make_catalogue(ra, dec, err_ra_mas=0.5, err_dec_mas=0.5, mags=mags, source="patch")
    ReferenceStore(workspace.reference_folder).keep(stars, "patch")


def test_the_plan_is_shown_and_then_run_by_its_version(
    database: Database, survey: Any, visitor: Any, workspace: Workspace
) -> None:
    keep_stars(workspace)
    with database.begin() as session:
        version = save_rule(session, "all", "grade in (A, B, C, D)", None)
    (workspace.recipes_folder / "fast.toml").write_text("[stack]\ncombine = 'median'\n")
    client = visitor.become(survey.tokens["oscar"])
    words = {
        "rule": "grade in (A,B,C,D)",
        "object": "IC 1396",
        "filter": "i",
        "recipe": "fast",
        "settings": "deliver.make=false\n# no catalogue\ncatalogue.make=false",
        "version": str(version.version_id),
    }
    shown = client.post("/rules/plan", data={**words, "dry": "true"}).text
    assert "saved as all:1" in shown
    assert "stack.combine" in shown
    assert "1 astrometry, 1 stack, 1 quality" in shown
    assert re.search(r"\d{4} × \d{4}", shown)  # the frame
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', shown))
    again = {k: html.unescape(v) for k, v in fields.items()}
    assert again == {**words, "mode": "survey"}
    made = client.post("/rules/plan", data=again)
    assert made.status_code == 303
    with database.read() as session:
        assert session.scalars(select(SelectionRow.rule_version_id).order_by(SelectionRow.id.desc())).first() == (
            version.version_id
        )
    assert client.get("/rules/1").text.count("1 plan") == 1


def test_modes_and_bounds_of_a_plan(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["oscar"])
    every = {"rule": "grade in (A, B, C, D)", "dry": "true"}
    area = client.post("/rules/plan", data={**every, "mode": "area", "ra": "324.75", "dec": "57.49", "radius": "0.05"})
    assert area.text.count("area_") >= 2
    assert "NGC" not in area.text.partition("<h2>Recipe")[0]
    assert client.post("/rules/plan", data={**every, "mode": "area", "ra": "1"}).status_code == 400
    assert client.post("/rules/plan", data={**every, "mode": "area", "ra": "x"}).status_code == 400
    single = client.post("/rules/plan", data={**every, "mode": "single", "images": "744100p\n744103p.fits.fz"}).text
    assert "2 plans" in single
    assert "744103p_cal" in single
    listed = client.post("/rules/plan", data={**every, "images": "744100p"}).text
    assert "1 in," in listed
    night = client.post("/rules/plan", data={**every, "night": "2006-12-13"}).text
    assert re.search(r"\b3 in,", night) or re.search(r"\b2 in,", night)
    large = client.post("/rules/plan", data={**every, "settings": "stack.pixel_scale_arcsec=0.001"}).text
    assert "refused" in large
    for settings in ("stack.combne=median", "nonsense"):
        assert client.post("/rules/plan", data={**every, "settings": settings}).status_code == 400
    assert client.post("/rules/plan", data={**every, "recipe": "../../etc/passwd"}).status_code == 400
    assert visitor.become(survey.tokens["greta"]).post("/rules/plan", data=every).status_code == 403


def test_a_changed_rule_is_no_saved_version(database: Database, survey: Any, visitor: Any) -> None:
    with database.begin() as session:
        version = save_rule(session, "all", "grade in (A, B)", None)
    words = {"rule": "grade in (A, B, C, D)", "version": str(version.version_id), "dry": "true"}
    assert "saved as" not in visitor.become(survey.tokens["oscar"]).post("/rules/plan", data=words).text


def test_recipes_and_jobs_as_the_planner_has_them(workspace: Workspace) -> None:
    recipe = read_recipes(workspace, "", "stack.min_inputs = 4\n\n")
    assert changed_parameters(recipe) == [("stack.min_inputs", "4")]
    assert changed_parameters(Recipe()) == []
    from spica.model.association import Mode

    assert job_kinds(Mode.SINGLE, recipe) == ["astrometry", "calibrate", "deliver"]
    assert job_kinds(Mode.SURVEY, recipe) == ["astrometry", "stack", "quality", "catalogue", "deliver"]
    assert Order("a = 1 or b = 2", night="2006-12-13").judged_rule == 'night = "2006-12-13" and (a = 1 or b = 2)'


# The page -------------------------------------------------------------------------------------------------------------


def test_lists_are_paged_and_sorted(database: Database, survey: Any, visitor: Any) -> None:
    scattered(database, 230, wide=False)
    client = visitor.become(survey.tokens["vera"])
    rule = {"rule": "seeing < 1.5 and object like 'w*'", "object": "W1"}
    text = client.get("/rules", params={**rule, "sort": "-seeing"}).text
    values = [float(v) for v in re.findall(r'<td class="n">(\d\.\d\d)</td><td class="n">24', text)]
    assert len(values) == 46
    assert values == sorted(values, reverse=True)
    whole = {"rule": "name like '90*'"}
    first, last = client.get("/rules", params=whole).text, client.get("/rules", params={**whole, "in": "3"}).text
    assert "1 to 100 of 230" in first
    assert "201 to 230 of 230" in last
    assert "900229p" in last
    assert "900229p" not in first


def test_visitors_see_no_saved_rules(database: Database, survey: Any, visitor: Any) -> None:
    with database.begin() as session:
        save_rule(session, "greta's own", "seeing < 0.9", survey.people["greta"])
    client = visitor.become(survey.tokens["vera"])
    assert "greta" in client.get("/rules").text
    assert 'action="/rules/save"' not in client.get("/rules", params={"rule": "seeing < 1"}).text
    assert 'action="/rules/plan"' not in client.get("/rules", params={"rule": "seeing < 1"}).text

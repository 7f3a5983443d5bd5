"""The grading room in Chromium: a night by keyboard, two people at once, the network gone, and how quick it is."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from spica.db.engine import Database
from spica.db.tables.quality import GradeRow
from spica.model.grade import COMMENTS, GradeSource

QUICK_MS = 100.0
NAME = ".side .facts .name"

pytestmark = pytest.mark.browser


Enter = Callable[..., Page]
CAUSED = r"Failed to load resource: (net::|.*409 \(Conflict\))"
"""What the tests of a lost network and of a refused grade cause themselves."""


@pytest.fixture
def enter(enter: Enter) -> Enter:
    """Return what opens the room as a person."""

    def open_room(name: str, address: str = "/grade", theme: str = "dark") -> Page:
        return enter(name, address, theme, CAUSED)

    return open_room


def ready(page: Page) -> None:
    """Wait until an image stands there and the next ones are decoded."""
    expect(page.locator(NAME)).to_be_visible()
    page.wait_for_timeout(400)


def painted(page: Page, n: int) -> list[float]:
    """Wait until so many next images were painted; return the time of each since its key, ms."""
    for _ in range(200):
        steps: list[float] = page.evaluate("performance.getEntriesByName('spica-next-image').map((m) => m.duration)")
        if len(steps) >= n:
            return steps
        page.wait_for_timeout(20)
    raise AssertionError(f"{len(steps)} of {n} images were painted")


def saved(page: Page) -> None:
    """Wait until every act has reached the survey."""
    expect(page.locator("[data-room]")).to_have_attribute("data-pending", "0", timeout=20000)


def standing(database: Database) -> list[tuple[int, str, str | None, int | None]]:
    """Return the standing human grades as image, letter, comment, person."""
    with database.read() as session:
        query = select(GradeRow).where(GradeRow.source == GradeSource.HUMAN, GradeRow.withdrawn_at.is_(None))
        return [
            (g.image_id, g.grade.value, g.comment, g.person_id) for g in session.scalars(query.order_by(GradeRow.id))
        ]


def shown(page: Page) -> str:
    return page.locator(NAME).inner_text()


def test_a_night_by_keyboard(enter: Enter, survey: Any, database: Database, record_property: Any) -> None:
    page = enter("greta")
    ready(page)
    expect(page.locator("[data-done]")).to_have_text("0 of 9")
    seen = []
    for letter in "abcdbaab":
        seen.append(shown(page))
        page.keyboard.press(letter)
        expect(page.locator(NAME)).not_to_have_text(seen[-1])
        painted(page, len(seen))
    assert len(set(seen)) == 8
    expect(page.locator("[data-done]")).to_have_text("8 of 9")
    saved(page)
    assert [g[1] for g in standing(database)] == list("ABCDBAAB")
    steps = painted(page, 8)
    record_property("next_image_ms", [round(s, 1) for s in steps])
    print(f"key to painted: median {statistics.median(steps):.1f} ms, all {[round(s) for s in steps]}")
    assert statistics.median(steps) < QUICK_MS
    last = shown(page)
    page.keyboard.press("z")  # back to the eighth
    expect(page.locator(NAME)).to_have_text(seen[-1])
    saved(page)
    assert len(standing(database)) == 7
    expect(page.locator(".side .history")).to_contain_text("taken back")
    page.keyboard.press("/")
    page.keyboard.type("abcd columns")  # letters in a box are letters
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    page.keyboard.press("c")
    expect(page.locator(NAME)).to_have_text(last)
    saved(page)
    assert standing(database)[-1][1:3] == ("C", f"abcd columns; {COMMENTS[0]}")
    page.keyboard.press("k")
    expect(page.locator(NAME)).to_have_text(seen[-1])
    expect(page.locator("[data-grade=C]")).to_have_class(re.compile("now"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("d")
    expect(page.locator(".ending h2")).to_have_text("The end of this queue")
    expect(page.locator(".ending .backs li")).to_have_count(9)
    saved(page)
    with database.read() as session:
        times = list(session.scalars(select(GradeRow.seconds).where(GradeRow.source == GradeSource.HUMAN)))
    assert all(t is not None and 0 <= t < 60 for t in times)
    page.locator(".ending .backs button").last.click()
    expect(page.locator(NAME)).to_have_text(seen[0])
    saved(page)
    assert len(standing(database)) == 8


def test_everything_by_mouse(enter: Enter, survey: Any, database: Database) -> None:
    page = enter("greta", "/grade?object=IC+1396&filter=r")
    ready(page)
    first = shown(page)
    page.locator("[data-act=skip]").click()
    expect(page.locator(NAME)).not_to_have_text(first)
    second = shown(page)
    expect(page.locator("[data-act=blink]")).to_be_enabled()
    expect(page.locator("[data-act=detectors]")).to_have_attribute("aria-pressed", "false")
    page.locator("[data-act=detectors]").click()
    expect(page.locator("[data-act=detectors]")).to_have_attribute("aria-pressed", "true")
    page.locator("[data-act=blink]").click()
    expect(page.locator("[data-act=blink]")).to_have_attribute("aria-pressed", "true", timeout=20000)
    page.keyboard.press(" ")
    expect(page.locator("[data-act=blink]")).to_have_attribute("aria-pressed", "false")
    page.locator(".classic summary").click()
    page.locator("[data-classic]").nth(10).click()
    page.locator("[data-grade=C]").click()
    third = shown(page)
    assert third not in (first, second)
    page.locator("[data-grade=A]").click()
    expect(page.locator(NAME)).to_have_text(first)  # what was put off comes at the end
    page.locator(".film button").first.click()
    expect(page.locator(NAME)).to_have_text(second)
    saved(page)
    expect(page.locator(".side .history")).to_contain_text(COMMENTS[10])
    page.locator(".thumb").first.click()
    expect(page.locator("#plot img")).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("[data-act=keys]").click()
    expect(page.locator("#queue-keys")).to_be_visible()
    page.keyboard.press("a")  # not while the keys are shown
    page.keyboard.press("Escape")
    assert [g[1] for g in standing(database)] == ["C", "A"]
    page.get_by_label("filter").select_option("i")
    expect(page).to_have_url(re.compile("filter=i"))
    expect(page.locator("[data-done]")).to_have_text("0 of 3")


def test_two_people_never_see_the_same_image(enter: Enter, survey: Any, database: Database) -> None:
    greta, oscar = enter("greta"), enter("oscar")
    # the batch of the first holds all nine; what she skips away from is still hers
    expect(greta.locator(NAME)).to_be_visible()
    expect(oscar.locator(".ending h2")).to_have_text("No ungraded exposures match.")
    greta.keyboard.press("a")
    saved(greta)
    greta.goto("about:blank")  # she leaves: her images are let go
    oscar.locator("[data-again]").click()
    expect(oscar.locator(NAME)).to_be_visible()
    for _ in range(8):
        before = int(oscar.locator("[data-room]").get_attribute("data-given") or 0)
        oscar.keyboard.press("b")
        expect(oscar.locator("[data-room]")).to_have_attribute("data-given", str(before + 1))
    saved(oscar)
    images = [g[0] for g in standing(database)]
    assert len(images) == len(set(images)) == 9
    assert {g[3] for g in standing(database)} == {survey.people["greta"], survey.people["oscar"]}


def test_without_network_no_grade_is_lost_or_doubled(enter: Enter, survey: Any, database: Database) -> None:
    page = enter("greta")
    ready(page)
    # the answer to the first is lost on its way back: the survey has it, the room does not know
    page.route("**/api/queue/grade", lambda route: (route.fetch(), route.abort()), times=1)
    page.keyboard.press("b")
    page.wait_for_timeout(300)
    page.context.set_offline(True)
    for letter in "cda":
        page.keyboard.press(letter)
    expect(page.locator("[data-unsaved]")).to_contain_text("4 grades not saved yet")
    page.keyboard.press("z")  # the last was never sent: it is simply dropped
    expect(page.locator("[data-unsaved]")).to_contain_text("3 grades not saved yet")
    page.keyboard.press("b")
    page.context.set_offline(False)
    saved(page)
    expect(page.locator("[data-unsaved]")).to_have_text("")
    found = standing(database)
    assert [g[1] for g in found] == ["B", "C", "D", "B"]
    assert len({g[0] for g in found}) == 4


def test_grades_outlive_the_page_and_a_refused_one_brings_its_image_back(
    enter: Enter, survey: Any, database: Database
) -> None:
    page = enter("greta")
    ready(page)
    page.on("dialog", lambda dialog: dialog.accept())
    page.route("**/api/queue/grade", lambda route: route.abort())
    for letter in "bc":
        page.keyboard.press(letter)
    expect(page.locator("[data-unsaved]")).to_contain_text("2 grades not saved yet")
    page.unroute("**/api/queue/grade")
    page.reload()
    expect(page.locator(NAME)).to_be_visible()
    saved(page)
    assert [g[1] for g in standing(database)] == ["B", "C"]
    assert page.evaluate("Object.keys(localStorage).filter((k) => k.startsWith('spica-outbox')).length") == 0
    first = shown(page)
    answer = {"error": {"kind": "conflict", "message": "it was rejected; go on with the next"}}
    page.route("**/api/queue/grade", lambda route: route.fulfill(status=409, json=answer), times=1)
    page.keyboard.press("d")
    expect(page.locator("[data-message]")).to_contain_text(f"{first}: it was rejected")
    expect(page.locator(NAME)).to_have_text(first)
    assert [g[1] for g in standing(database)] == ["B", "C"]


def test_a_blind_opinion_shows_nothing_before_and_all_after(enter: Enter, survey: Any, database: Database) -> None:
    oscar = enter("oscar")
    ready(oscar)
    name = shown(oscar)
    oscar.keyboard.press("d")
    saved(oscar)
    greta = enter("greta", "/grade?kind=second")
    expect(greta.locator(NAME)).to_have_text(name)
    expect(greta.locator(".verdict")).to_contain_text("Blind")
    expect(greta.locator(".side .history")).to_have_text("Hidden until you have graded.")
    assert greta.locator(".strip .band").count() == 0
    assert "oscar" not in greta.content()
    greta.keyboard.press("b")
    expect(greta.locator("[data-last]")).to_contain_text("oscar D")


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_room_fits_the_screen(enter: Enter, survey: Any, theme: str) -> None:
    folder = os.environ.get("SPICA_PICTURES")
    page = enter("greta", theme=theme)
    for size in ((1440, 900), (800, 1000)):
        page.set_viewport_size({"width": size[0], "height": size[1]})
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        box = page.locator(".stage > .viewer").bounding_box()
        assert box is not None
        for letter in "bc":
            page.keyboard.press(letter)
        page.wait_for_timeout(100)
        assert page.locator(".stage > .viewer").bounding_box() == box, "nothing jumps"
        for letter in "ABCD":
            button = page.locator(f"[data-grade={letter}]").bounding_box()
            assert button is not None
            assert button["y"] + button["height"] <= size[1], "grades are given without scrolling"
        if size[0] == 1440:
            assert page.evaluate(CHROME) < 0.15 * size[0] * size[1]
        low = [f for f in page.evaluate(CONTRAST) if f["ratio"] < 4.5]
        assert low == [], low[:5]
        if folder:
            page.screenshot(path=f"{folder}/queue-{size[0]}-{theme}.png")


CHROME = """[".bar", ".topline", ".tools", ".viewer-bar"].reduce((sum, name) => {
  const r = document.querySelector(name).getBoundingClientRect(); return sum + r.width * r.height; }, 0)"""
CONTRAST = """() => {
  const linear = (x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const v = c.map(linear);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const parse = (t) => { const m = t.match(/[\\d.]+/g).map(Number);
    return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3); };
  const ground = (n) => { for (let e = n; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
  const out = [];
  for (const n of document.querySelectorAll("main *")) {
    if (n.closest("svg, dialog, select, .viewer, .withdrawn, .sr") || !n.offsetParent) continue;
    if (![...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(n).color)), b = light(ground(n));
    out.push({ text: n.textContent.trim().slice(0, 30), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
  }
  return out;
}"""

"""The pages in a real browser, from a real server process: enter, look, grade by key, take back, hold, follow a log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.job import need_job
from spica.files.workspace import Workspace
from spica.model.job import JobState

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("SPICA_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

pytestmark = pytest.mark.browser


@pytest.fixture
def server(workspace: Workspace, survey: Any) -> Iterator[str]:
    """Return the address that a server process prints, with its one-time token."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
    words = [sys.executable, "-m", "spica_web", "--workspace", str(workspace.folder), "--port", "0"]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{20,}", line), line
    yield line
    process.terminate()
    assert process.wait(15) is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """Return a page that has entered by the printed address; a fault of script or policy fails the test."""
    faults: list[str] = []
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    opened.goto(server)
    expect(opened).to_have_url(re.compile(r"^http://127\.0\.0\.1:\d+/$"))
    yield opened
    context.close()
    assert faults == []


def test_a_night_of_grading(page: Page, survey: Any) -> None:
    expect(page.get_by_role("heading", name="Graded")).to_be_visible()
    page.get_by_role("link", name="Exposures").click()
    page.locator("input[name=rule]").fill('object = "IC 1396" and filter = "r"')
    page.keyboard.press("Enter")
    expect(page.locator(".count b")).to_have_text("3")
    page.locator("h1").click()
    page.keyboard.press("j")
    expect(page.locator("tr.at")).to_contain_text("744100p")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("744100p")
    picture = page.locator("[data-picture] img")
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") > 50
    page.keyboard.press("b")
    expect(page.locator("h1")).to_have_text("744103p")  # one key, one act, and on to the next
    expect(page.locator(".flash")).to_contain_text("744100p is graded")
    expect(page).not_to_have_url(re.compile("graded="))
    page.keyboard.press("k")
    expect(page.locator("h1")).to_have_text("744100p")
    newest = page.locator(".history li").first
    expect(newest).to_contain_text("local")
    expect(newest.locator(".grade.human.B")).to_be_visible()
    page.keyboard.press("z")
    expect(page.locator(".history li").first).to_contain_text("taken back")
    expect(page.locator(".verdict .grade.machine")).to_be_visible()


def test_a_comment_is_written_without_grading(page: Page, survey: Any) -> None:
    address = page.url
    page.goto(f"{address}images/{survey.exposures[2]}")
    page.keyboard.press("/")
    page.keyboard.type("abcd bad columns")  # letters in a box are letters
    expect(page.locator("h1")).to_have_text("744102p")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator(".flash")).to_contain_text("744102p is graded")
    page.goto(f"{address}images/{survey.exposures[2]}")
    expect(page.locator(".history li").first).to_contain_text("abcd bad columns")
    expect(page.locator(".history li").first.locator(".grade")).to_have_text("C")


def test_a_job_is_held_and_the_page_hears_of_changes(page: Page, survey: Any, database: Database) -> None:
    job = survey.jobs["ready"]
    page.goto(f"{page.url}jobs/{job}")
    page.locator("input[name=why]").fill("wait for the flat")
    page.get_by_role("button", name="Hold", exact=True).click()
    expect(page.locator(".head .state")).to_have_text("held")
    expect(page.locator(".history")).to_contain_text("wait for the flat")
    with database.read() as session:
        assert need_job(session, job).state is JobState.HELD
    with database.begin() as session:  # somebody else lets it go
        jobs.unhold(session, job, why="the flat is there")
    expect(page.locator(".head .state")).to_have_text("ready", timeout=15000)


def test_a_log_grows_on_the_page(page: Page, survey: Any, workspace: Workspace) -> None:
    page.goto(f"{page.url}jobs/{survey.jobs['running']}")
    expect(page.locator("pre.log").first).to_contain_text("progress 19/36")
    log = next(workspace.roots["jobs"].glob(f"*/*/{survey.jobs['running']:06d}/attempt-1/log.txt"))
    with log.open("a") as stream:
        stream.write("progress 36/36 <b>done</b>\n")
    expect(page.locator("pre.log").first).to_contain_text("progress 36/36 <b>done</b>", timeout=15000)


def test_a_rule_is_checked_while_it_is_written(page: Page, survey: Any) -> None:
    page.goto(f"{page.url}rules")
    page.locator("textarea").type("seing < 1")
    expect(page.locator("#check")).to_contain_text("seeing")
    page.locator("textarea").fill('name like "7441*"')
    expect(page.locator("#check")).to_have_text("9 of 10 exposures")
    page.keyboard.press("Enter")
    expect(page.locator(".tally")).to_contain_text("in")


@pytest.mark.parametrize("width", [800, 1440])
def test_no_page_is_wider_than_the_screen(page: Page, survey: Any, width: int) -> None:
    start = page.url
    page.set_viewport_size({"width": width, "height": 900})
    rooms = [
        "",
        "exposures",
        f"images/{survey.exposures[0]}",
        "rules?rule=seeing+%3C+0.9",
        "stacks",
        f"stacks/{survey.stack}",
    ]
    rooms += ["plans", f"plans/{survey.plan}", "jobs", f"jobs/{survey.jobs['failed']}", "nodes", "people", "api"]
    for room in rooms:
        page.goto(start + room)
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, (room, over)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_words_stand_out_from_their_ground(page: Page, survey: Any, theme: str) -> None:
    """Contrast of every text on the image page and the jobs page, by WCAG's formula (AA: 4.5)."""
    start = page.url
    page.context.add_cookies([{"name": "spica-theme", "value": theme, "url": start}])
    for room in ("", "jobs", f"images/{survey.exposures[0]}"):
        page.goto(start + room)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        found = page.evaluate(CONTRAST)
        assert len(found) > 20
        low = [f for f in found if f["ratio"] < 4.5]
        assert low == [], low[:5]


CONTRAST = """() => {
  const linear = (x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const v = c.map(linear);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const parse = (t) => { const m = t.match(/[\\d.]+/g).map(Number);
    return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3); };
  const ground = (n) => { for (let e = n; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
  const out = [];
  for (const n of document.querySelectorAll("body *")) {
    if (n.closest("svg, dialog, select, .withdrawn") || !n.offsetParent) continue;
    if (![...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(n).color)), b = light(ground(n));
    out.push({ text: n.textContent.trim().slice(0, 30), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
  }
  return out;
}"""

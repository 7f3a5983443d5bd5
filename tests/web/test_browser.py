"""The pages in a real browser, from a real server process: enter, look, grade by key, take back, hold, follow a log."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.grade import add_grade
from spica.db.job import need_job
from spica.db.tag import tag_images
from spica.files.workspace import Workspace
from spica.model.grade import Grade, GradeSource
from spica.model.job import JobState
from spica_web.session import cookie_name

from .browser import picture_stands

pytestmark = pytest.mark.browser


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
    expect(page.locator("[data-viewer] canvas")).to_be_visible()
    picture_stands(page)
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
    box = page.locator("textarea[name=rule]")
    box.type("seing < 1")
    expect(page.locator("[data-fault]")).to_contain_text("seeing")
    page.keyboard.press("Escape")
    box.fill('name like "7441*"')
    expect(page.locator("#check")).to_have_text("9 of 10 exposures")
    page.get_by_role("button", name="Judge").click()
    expect(page.locator("[data-live=figures] .fig").first).to_have_text("9")


def test_a_change_from_outside_leaves_what_one_does_in_peace(page: Page, survey: Any, database: Database) -> None:
    """The picture, words that are not sent yet and the scroll stay; what changed is shown all the same."""
    image = survey.exposures[1]
    page.set_viewport_size({"width": 1440, "height": 600})
    page.goto(f"{page.url}images/{image}")
    picture_stands(page)
    page.evaluate("window.kept = document.querySelector('[data-viewer]').viewer.canvas")
    page.locator("[data-mark-comment]").fill("not sent yet")
    page.locator("#why summary, #tags h2").first.click()
    page.evaluate("scrollTo(0, 150)")
    top = page.locator("[data-mark-comment]").bounding_box()
    with database.begin() as session:
        add_grade(
            session,
            image,
            GradeSource.HUMAN,
            Grade.D,
            person_id=survey.people["greta"],
            comment="from another room",
        )
        tag_images(session, [image], "ghost", survey.people["greta"])
    expect(page.locator(".history li").first).to_contain_text("from another room", timeout=15000)
    expect(page.locator("#tags .chip")).to_have_text("ghost")
    expect(page.locator("[data-mark-comment]")).to_have_value("not sent yet")
    assert page.evaluate("window.kept.isConnected")
    now = page.locator("[data-mark-comment]").bounding_box()
    assert top is not None
    assert now is not None
    assert abs(now["y"] - top["y"]) < 6  # what grew above it did not push it away


@pytest.mark.parametrize("role", ["admin", "viewer"])
def test_every_page_fits_reads_well_and_stands_still(page: Page, survey: Any, workspace: Workspace, role: str) -> None:
    """One load each: width at 1440 and 800, contrast (WCAG AA, 4.5) in both themes, names, jumps while it loads."""
    start = page.url
    page.add_init_script(JUMPS)
    if role == "admin":
        _liven(page, start, survey)
    else:
        page.context.add_cookies([{"name": cookie_name(workspace), "value": survey.tokens["vera"], "url": start}])
    found: list[tuple[str, str, Any]] = []
    addresses = [a for a in _addresses(survey) if role == "admin" or a in READ_BY_ALL]
    for address in addresses:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(start + address)
        page.wait_for_timeout(120)
        found += [(address, what, said) for what, said in page.evaluate(LOOK)]
        jumped = page.evaluate("window.jumped")
        if jumped > JUMP_MOST:
            found.append((address, "jumps", jumped))
        page.set_viewport_size({"width": 800, "height": 1000})
        found += [(address, "too wide at 800", over) for over in [page.evaluate(OVER)] if over > 0]
    assert len(addresses) >= (40 if role == "admin" else 5)
    assert not found, "\n".join(map(str, found))


def test_keys_reach_everything_and_are_told(page: Page, survey: Any) -> None:
    """Every stop of the tab key shows that it is there; the list of keys names those of the page, and no others."""
    start = page.url
    for address in ("", "exposures", f"images/{survey.exposures[0]}", "jobs", "rules?rule=seeing+%3C+0.9", "grades"):
        page.goto(start + address)
        seen = []
        for _ in range(18):
            page.keyboard.press("Tab")
            seen.append(page.evaluate(FOCUS))
        assert all(seen), (address, seen)
    told = {
        "exposures": ({"J", "K", "Enter", "/"}, {"A", "S"}),
        f"images/{survey.exposures[0]}": ({"A", "Z", "S", "F", "M", "O", "G", "R", "P", "space", "U"}, {"Enter"}),
        f"stacks/{survey.stack}": ({"A", "S", "F", "U"}, {"Enter", "R"}),
        f"jobs/{survey.jobs['failed']}": ({"U", "/"}, {"A", "J", "S"}),
    }
    for address, (there, absent) in told.items():
        page.goto(start + address)
        page.locator("h1").click()
        page.keyboard.press("?")
        expect(page.locator("#keys")).to_be_visible()
        keys = set(page.locator("#keys dl > div:visible kbd, #keys dl > div:not([hidden]) kbd").all_inner_texts())
        assert there <= keys, (address, keys)
        assert not keys & absent, (address, keys)
    page.goto(f"{start}images/{survey.exposures[0]}")
    picture_stands(page)
    page.locator("h1").click()
    before = page.locator(".viewer [data-act=masks]").count(), page.locator(".viewer [data-act=stretch]").inner_text()
    page.keyboard.press("g")
    expect(page.locator(".viewer [data-act=marks]")).to_have_attribute("aria-pressed", "false")
    assert before[0] == 1


READ_BY_ALL = ("", "sky", "nights", "runs", "objects", "exposures", "grades", "stacks", "jobs", "nodes", "account")
"""Pages walked as somebody who may only look: other buttons, other sentences."""
JUMP_MOST = 0.05
"""Most of the cumulative layout shift while a page loads (web-vitals calls 0.1 good)."""


def _addresses(survey: Any) -> list[str]:
    """Return every page of the application, filled; those with nothing to show; and one that is not there."""
    image, stack, jobs_ = survey.exposures[0], survey.stack, survey.jobs
    rule = "seeing+%3C+0.9"
    return [
        *("", "sky", "nights", "nights/2006-12-12", "runs", "objects", "exposures", "exposures?rule=seing", "tags"),
        *(f"images/{image}", f"images/{image}?why=IC1396-r-1", f"images/{image}/header", f"images/{image}/again"),
        *(f"images/{survey.rejected}", "grade", f"grade?image={image}", "grade?rule=name+%3D+%22none%22"),
        *("grades", "grades?run=none", "grades/disagreements", "grades/disagreements?kind=people", "grades/report"),
        *("grades/bulk", f"grades/bulk?rule={rule}&grade=D&target=all", f"grades/report?rule={rule}"),
        *("rules", f"rules?rule={rule}", "rules?rule=seing+%3C+1", "rules/1", "rules/compare?a=1:1&b=1:2"),
        *("stacks", "stacks?kind=calibrated", f"stacks/{stack}", f"stacks/{survey.planned}"),
        *(f"stacks/{stack}/catalogue", f"stacks/{stack}/catalogue?mag_max=1", f"stacks/{stack}/restack"),
        *("plans", f"plans/{survey.plan}", f"plans/{survey.plan}/again", "jobs", "jobs?state=FAILED", "jobs/errors"),
        *(f"jobs/{jobs_[name]}" for name in ("failed", "running", "held", "delivered")),
        *("nodes", "find", "find?q=7441", "find?q=nothing+at+all", "find?q=324.75+57.49"),
        *("people", f"people/{survey.people['greta']}", "account", "audit", "audit?verb=none", "api", "login"),
    ]


def _liven(page: Page, start: str, survey: Any) -> None:
    """Do by forms what makes pages of saved rules, tags, marks and grades at once worth looking at."""
    ask = page.context.request

    def post(address: str, **words: str | float | bool) -> None:
        answer = ask.post(start + address, form=words, headers={"origin": start.rstrip("/")})
        assert answer.ok, (address, answer.status, answer.text())

    for rule in ("seeing < 0.9", "seeing < 1.0 and ellipticity < 0.06"):
        post("rules/save", rule=rule, name="best seeing", note="of the first nights")
    post("tags/apply", rule="seeing > 0", name="ghost", sure="true")
    post("tags/colour", name="ghost", colour="amber")
    for image, grade in zip(survey.exposures[:4], "ABCD", strict=True):
        post(f"images/{image}/grade", grade=grade, comment="a trail crosses it")
    preview = ask.get(f"{start}grades/bulk?rule=seeing+%3E+0.9&grade=C&target=ungraded").text()
    token = re.search(r'name="token" value="([^"]+)"', preview)
    if token:
        post("grades/bulk", rule="seeing > 0.9", grade="C", target="ungraded", token=token[1], comment="bad seeing")


OVER = "document.documentElement.scrollWidth - innerWidth"

JUMPS = """window.jumped = 0;
const add = (e) => { if (!e.hadRecentInput) window.jumped += e.value; };
new PerformanceObserver((list) => list.getEntries().forEach(add))
  .observe({ type: "layout-shift", buffered: true });"""

FOCUS = """() => { const n = document.activeElement;
  if (!n || n === document.body) return true;  // beyond the last
  const s = getComputedStyle(n);
  return n.matches(":focus-visible") && s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1; }"""

LOOK = """() => {
  const found = [];
  const over = document.documentElement.scrollWidth - innerWidth;
  if (over > 0) found.push(["too wide at 1440", over]);
  const headings = [...document.querySelectorAll("h1")].length;
  if (headings !== 1) found.push(["headings of first order", headings]);
  const ids = [...document.querySelectorAll("[id]")].map((n) => n.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => found.push(["id twice", id]));
  for (const n of document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a[href], summary")) {
    const named = n.getAttribute("aria-label") || n.title || n.textContent.trim() || (n.labels && n.labels.length)
      || n.querySelector("img[alt]:not([alt=''])");
    if (!named) found.push(["without a name", n.outerHTML.slice(0, 90)]);
  }
  document.querySelectorAll("img:not([alt])").forEach((n) => found.push(["without words", n.src]));
  for (const n of document.querySelectorAll("main table")) {
    const low = [...n.querySelectorAll("tbody tr")].find((r) => r.offsetHeight && r.offsetHeight < 27);
    if (low) found.push(["row lower than 28 px", low.textContent.trim().slice(0, 40)]);
  }
  const linear = (x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const v = c.map(linear); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const parse = (t) => { const m = t.match(/[\\d.]+/g).map(Number), scale = t.startsWith("color(") ? 255 : 1;
    return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3).map((x) => x * scale); };
  const ground = (n) => { for (let e = n; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
  const kept = document.documentElement.dataset.theme;
  for (const theme of ["dark", "light"]) {
    document.documentElement.dataset.theme = theme;
    let n_read = 0;
    for (const n of document.querySelectorAll("body *")) {
      if (n.closest("svg, dialog, select, .withdrawn, :disabled") || !n.offsetParent) continue;
      if (![...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim())) continue;
      const ink = parse(getComputedStyle(n).color);
      if (!ink) continue;
      n_read += 1;
      const a = light(ink), b = light(ground(n)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const said = `${ratio.toFixed(2)} ${n.tagName}.${n.className} ${n.textContent.trim().slice(0, 30)}`;
      if (ratio < 4.5) found.push([`contrast, ${theme}`, said]);
    }
    if (n_read < 6) found.push([`words, ${theme}`, n_read]);
  }
  document.documentElement.dataset.theme = kept;
  return found;
}"""

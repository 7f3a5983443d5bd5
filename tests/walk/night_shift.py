"""One night of an operator in Chromium, from the login to a re-stack; on the way the pictures of the guide.

    python -m tests.walk.night_shift --workspace DIR --pictures docs/pictures

does it on a survey made by `spica demo DIR --headless`. Every step waits for what the pages say, and nothing else; a
fault of a script or of the pages' policy ends the night.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("SPICA_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDE, NARROW = (1440, 900), (800, 1000)
PICTURES = {
    "survey.png": WIDE,
    "grading.jpg": WIDE,
    "grading-narrow.jpg": NARROW,
    "grades.png": WIDE,
    "bulk.png": WIDE,
    "marks.jpg": WIDE,
    "rules.png": WIDE,
    "completion.png": WIDE,
    "plan.png": WIDE,
    "jobs.png": WIDE,
    "stack.jpg": WIDE,
    "why.png": WIDE,
    "stale.jpg": WIDE,
    "stack-narrow.jpg": NARROW,
    "sky.png": WIDE,
    "nodes.png": WIDE,
}
"""The pictures of the guide, each with the size of its window, pixel."""
MAX_PICTURE_BYTES = 150_000
NAME, PASSWORD = "olga", "over the dome at night"
STEP_MS = 20_000
JOBS_MS = 240_000
RULE_NAME = "round and high"
QUIET = """() => { const box = document.querySelector(".viewer"), v = box && box.viewer;
  return [...document.images].every((i) => i.complete || i.loading === "lazy")
    && (!box || (v && v.shown && !v.wanted.length && !v.shown.pending.size && !v.frame)); }"""


@dataclass(frozen=True)
class Orders:
    """What the operator of this night does; rules are in words of the survey.

    The stack is made of what `rule` and its second clause take: `word`, the beginning of a field's name that the page
    completes, and `rest`, what follows it. `missing` is left out by that clause; `marked` and `spoiled` are in.
    """

    queue: str
    n_grades: int
    bulk: str
    rule: str
    word: str
    rest: str
    marked: str
    spoiled: str
    missing: str


@dataclass
class Told:
    """What the pages said: numbers that the database must know too."""

    graded: list[tuple[str, str]] = field(default_factory=list)
    commented: str = ""
    withdrawn: str = ""
    n_bulk: int = 0
    n_first: int = 0
    n_second: int = 0
    plan: int = 0
    stack: int = 0
    clause: str = ""
    again: int = 0


def enter_operator(folder: Path) -> None:
    """Let the operator of the night into a survey, with a password."""
    from spica.db.engine import open_database
    from spica.db.person import add_person, find_person, set_password
    from spica.files.workspace import read_workspace
    from spica.model.person import PersonRole

    with open_database(read_workspace(folder)) as database, database.begin() as session:
        known = find_person(session, NAME)
        if known is None:
            add_person(session, NAME, PersonRole.OPERATOR, PASSWORD)
        else:
            set_password(session, known.id, PASSWORD)


@contextmanager
def serve_pages(folder: Path) -> Iterator[str]:
    """Serve the pages of a survey from a process of its own; the address, without the token it prints."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
    words = [sys.executable, "-m", "spica_web", "--workspace", str(folder), "--port", "0"]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/\?token=[\w-]{20,}", line)
        assert found, line
        yield found[1]
    finally:
        process.terminate()
        process.wait(15)
        process.stdout.close()


@contextmanager
def open_page() -> Iterator[Page]:
    """Open Chromium; what its console calls an error, a fault of policy too, is raised at the end."""
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        context = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]})
        context.set_default_timeout(STEP_MS)
        expect.set_options(timeout=STEP_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
        page.on("console", lambda said: faults.append(f"{page.url}: {said.text}") if said.type == "error" else None)
        page.on("dialog", lambda dialog: dialog.accept())
        yield page
        browser.close()
    assert faults == [], faults


@contextmanager
def drain_jobs(folder: Path) -> Iterator[None]:
    """Run a daemon until no job is left; what ends badly is told with its last words."""
    words = [sys.executable, "-m", "spica_daemon", "--workspace", str(folder), "--drain"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "daemon")])
    log = folder / "night_shift.log"
    with log.open("wb") as said:
        process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=said, stderr=said)
        try:
            yield
            assert process.wait(JOBS_MS / 1000) == 0, log.read_text()[-2000:]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def write_picture(content: bytes, path: Path) -> None:
    """Write a PNG as a picture of the guide: few colours, or JPEG, and small."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    for step in range(5):
        if path.suffix == ".png":
            image.quantize(256 >> step, dither=Image.Dither.NONE).save(path, optimize=True)
        else:
            image.save(path, quality=86 - 8 * step, optimize=True, progressive=True)
        if path.stat().st_size < MAX_PICTURE_BYTES:
            return
    raise AssertionError(f"{path.name} has {path.stat().st_size} bytes; {MAX_PICTURE_BYTES} are the most")


class NightShift:
    """An operator at the pages of a survey; `told` fills while the night goes on."""

    def __init__(self, page: Page, address: str, folder: Path, orders: Orders, pictures: Path | None = None) -> None:
        self.page, self.address, self.folder = page, address, folder
        self.orders, self.pictures = orders, pictures
        self.told = Told()
        self.taken: list[str] = []

    def run(self) -> Told:
        """Do the whole night, and return what the pages said."""
        self.log_in()
        self.grade()
        self.grade_at_once()
        self.mark()
        self.write_rule()
        self.launch()
        self.follow()
        self.ask_why()
        self.plan_again()
        self.look_around()
        assert sorted(self.taken) == sorted(PICTURES), "every picture has its station, and each is taken once"
        return self.told

    # Small acts ------------------------------------------------------------------------------------------------------

    def go(self, path: str) -> None:
        """Open a page of the survey."""
        reply = self.page.goto(self.address + path)
        assert reply is not None
        assert reply.ok, (path, reply.status)

    def find(self, name: str) -> int:
        """Find an image by the box that is on every page; return its number."""
        self.page.locator("input.find").fill(name)
        self.page.locator("#suggest a", has_text=name).first.click()
        expect(self.page.locator("h1")).to_have_text(name)
        found = re.search(r"/images/(\d+)", self.page.url)
        assert found, self.page.url
        return int(found[1])

    def station(self, name: str, at: Locator | None = None) -> None:
        """Take a picture, with a part of the page in its upper half where one is named; nothing is wider than it."""
        page, size = self.page, PICTURES[name]
        self.taken.append(name)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, f"{name} is too wide"
        if self.pictures is not None:
            page.mouse.move(2, size[1] - 2)
            if at is not None:
                at.evaluate("node => scrollTo(0, node.getBoundingClientRect().top + scrollY - 80)")
            self.wait_for(QUIET)
            write_picture(page.screenshot(animations="disabled"), self.pictures / name)
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})

    def wait_for(self, words: str) -> None:
        """Wait until a script says yes; asked from outside, since the pages let no text be run within."""
        for _ in range(STEP_MS // 50):
            if self.page.evaluate(words):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"{self.page.url} does not come to rest")

    # The evening -----------------------------------------------------------------------------------------------------

    def log_in(self) -> None:
        """Enter by name and password, and see what came in."""
        page = self.page
        self.go("/grade")
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        page.get_by_label("Name").fill(NAME)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{self.address}/grade")
        expect(page.locator(".menu summary", has_text=NAME)).to_be_visible()
        self.go("/")
        expect(page.locator(".flow li")).to_have_count(6)
        assert int(re.sub(r"\D", "", page.locator(".flow .fig").nth(2).inner_text())) >= self.orders.n_grades
        self.station("survey.png")

    def grade(self) -> None:
        """Grade by keyboard what a rule queues, by the letter that the page proposes; say a word; take one back."""
        page, orders, told = self.page, self.orders, self.told
        self.go("/grade")
        page.get_by_label("rule").fill(orders.queue)
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("rule="))
        expect(page.locator("[data-facts] .name")).to_be_visible()
        page.locator("[data-stage]").click(position={"x": 20, "y": 200})
        tally = page.locator("[data-done]").inner_text()
        assert tally.startswith("0 of "), tally
        for n in range(orders.n_grades):
            name, letter = self._given()
            if n == 2:
                page.keyboard.press("/")
                page.keyboard.type("abcd in words, and a trail")  # letters in a box are letters
                page.keyboard.press("Enter")
                told.commented = name
            page.keyboard.press(letter.lower())
            expect(page.locator("[data-facts] .name")).not_to_have_text(name)
            expect(page.locator("[data-done]")).to_have_text(f"{n + 1}{tally[1:]}")
            if n == 4:
                self._take_back(name, letter)
            if n == 5:
                self.station("grading.jpg")
                self.station("grading-narrow.jpg")
            told.graded.append((name, letter))
        self._saved()
        self.go("/grades")
        expect(page.locator(".head .count")).to_contain_text(f"{orders.n_grades} of ")
        self.station("grades.png")

    def _given(self) -> tuple[str, str]:
        """Return the name on the page, and the letter that the machine proposes."""
        name = self.page.locator("[data-facts] .name").inner_text()
        letter = self.page.locator("[data-verdict] .why b").inner_text()
        assert letter in "ABCD", (name, letter)
        return name, letter

    def _saved(self) -> None:
        expect(self.page.locator("[data-room]")).to_have_attribute("data-pending", "0")

    def _take_back(self, name: str, letter: str) -> None:
        """Take the last grade back, and give it again."""
        page = self.page
        self._saved()
        page.keyboard.press("z")
        expect(page.locator("[data-facts] .name")).to_have_text(name)
        self._saved()
        expect(page.locator("[data-history]")).to_contain_text("taken back")
        page.keyboard.press(letter.lower())
        expect(page.locator("[data-facts] .name")).not_to_have_text(name)
        self.told.withdrawn = name

    def grade_at_once(self) -> None:
        """Give one grade to all that nobody has graded, after a look at it; then take the whole act back."""
        page = self.page
        self.go("/grades/bulk")
        page.locator("#bulk-rule").fill(self.orders.bulk)
        page.get_by_role("radio", name="C").check()
        page.get_by_label("Comment").fill("thin cloud after three")
        page.locator(".ruleroom button").click()
        give = page.locator("form[data-ask] button", has_text=re.compile(r"^Give C to \d+ exposures?$"))
        self.told.n_bulk = int(re.sub(r"\D", "", give.inner_text()))
        expect(page.locator(".tally .fig")).to_have_text(str(self.told.n_bulk))
        self.station("bulk.png")
        give.click()
        expect(page.locator(".flash b")).to_have_text(re.compile(rf"^{self.told.n_bulk} exposures?$"))
        page.locator(".flash form button").click()
        expect(page.locator(".acts-before tbody tr").first).to_contain_text("taken back")
        expect(page.locator(".flash")).to_have_count(0)

    def mark(self) -> None:
        """Draw a circle on a picture, by mouse."""
        page = self.page
        self.find(self.orders.marked)
        self.wait_for(QUIET)
        page.get_by_label("comment of the mark").fill("a ghost of a bright star")
        page.locator("[data-draw=circle]").click()
        expect(page.locator("[data-draw=circle]")).to_have_attribute("aria-pressed", "true")
        box = page.locator("[data-viewer] canvas").first.bounding_box()
        assert box is not None
        x, y = box["x"] + 0.4 * box["width"], box["y"] + 0.62 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 12, y, steps=2)
        page.mouse.move(x + 20, y + 14)
        page.mouse.up()
        mark = page.locator(".markslist li")
        expect(mark).to_have_count(1)
        expect(mark).to_contain_text(f"{NAME} circle on detector")
        expect(mark).to_contain_text("a ghost of a bright star")
        self.station("marks.jpg")

    # Rules and stacks ------------------------------------------------------------------------------------------------

    def write_rule(self) -> None:
        """Write a rule, save it, tighten it by a word that the page completes, save that as its second version."""
        page, orders, told = self.page, self.orders, self.told
        self.go("/rules")
        box, check = page.locator("textarea[name=rule]"), page.locator("#check")
        box.click()
        page.keyboard.type(orders.rule)
        page.keyboard.press("Escape")
        expect(check).to_have_text(re.compile(r"^\d+ of \d+ exposures$"))
        page.locator("#ruleform button.primary").click()
        expect(page.locator(".spread").first).to_be_visible()
        told.n_first = self._taken()
        page.locator("#save input[name=name]").fill(RULE_NAME)
        page.locator("#save button").click()
        expect(page.locator(".head")).to_contain_text(f"from {RULE_NAME}, version 1")
        expect(page.locator(".spread").first).to_be_visible()
        self.station("rules.png")
        box.press("Control+End")
        page.keyboard.type(f" and {orders.word}")
        expect(page.locator("#words [role=option]").first).to_be_visible()
        self.station("completion.png")
        page.keyboard.press("Tab")
        expect(box).to_have_value(re.compile(rf" and {orders.word}\w+ $"))
        page.keyboard.type(orders.rest)
        page.keyboard.press("Escape")
        expect(check).not_to_have_text(re.compile(f"^{told.n_first} of "))  # no button was pressed
        expect(page.locator("[data-live=figures] .fig").first).not_to_have_text(str(told.n_first))
        told.n_second = self._taken()
        expect(page.locator("[data-live=lists]")).to_contain_text(orders.missing)
        page.locator("#save input[name=note]").fill("no trailed ones")
        page.locator("#save button").click()
        expect(page.locator(".head")).to_contain_text("version 2")

    def _taken(self) -> int:
        """Return how many exposures the page counts as taken, in both places where it says so."""
        n = int(self.page.locator("[data-live=figures] .fig").first.inner_text())
        expect(self.page.locator("#check")).to_have_text(re.compile(rf"^{n} of "))
        return n

    def launch(self) -> None:
        """See the plan of the rule, then order it."""
        page, told = self.page, self.told
        expect(page.locator("form.launch [name=version]")).to_be_attached()
        page.locator("form.launch button.primary").click()
        expect(page.locator("h1")).to_have_text("What would be planned")
        expect(page.locator(".head")).to_contain_text(f"{told.n_second} in, ")
        expect(page.locator(".head")).to_contain_text(f"saved as {RULE_NAME}:2")
        expect(page.locator("main")).to_contain_text(self.orders.missing)
        self.station("plan.png")
        page.locator("form[action='/rules/plan'] button.primary").click()
        expect(page.locator("h1")).to_have_text(re.compile(r"^Plan \d+$"))
        told.plan = int(page.url.rpartition("/")[2])

    def follow(self) -> None:
        """Watch the jobs of the plan, and the node, while a daemon runs them; open the stack they made."""
        page, told = self.page, self.told
        jobs = page.locator("tr[data-job]")
        waiting = page.locator("tr[data-state=READY], tr[data-state=WAITING]")
        expect(waiting).to_have_count(jobs.count())
        assert jobs.count() >= 4
        with drain_jobs(self.folder):
            expect(page.locator("tr[data-state=RUNNING]").first).to_be_visible(timeout=JOBS_MS)
            expect(page.locator("[data-job-graph]")).to_contain_text("running")
            self.go("/nodes")
            expect(page.locator(".head .count b")).to_have_text("1")
            expect(page.locator("table.nodes")).to_contain_text("ends when idle")
            self.station("nodes.png")
            self.go(f"/plans/{told.plan}")
            self.station("jobs.png")
            expect(page.locator("tr[data-state=SUCCEEDED]")).to_have_count(jobs.count(), timeout=JOBS_MS)
        page.locator("a[href^='/stacks/']").last.click()
        expect(page.locator(".head .state").first).to_have_text("delivered")
        told.stack = int(re.sub(r"\D", "", page.url.rpartition("/")[2]))
        expect(page.locator("#inputs .note")).to_have_text(f"{told.n_second} exposures")
        expect(page.locator("#inputs")).to_contain_text(self.orders.marked)
        expect(page.locator("#delivery")).to_contain_text("verified")
        expect(page.locator("#stale")).not_to_contain_text("judged again today")
        self.station("stack.jpg")
        self.station("stack-narrow.jpg")

    def ask_why(self) -> None:
        """Ask why an exposure is not in the stack: on the page of the stack, and on its own."""
        page, told, missing = self.page, self.told, self.orders.missing
        page.locator("#why input[name=why]").fill(missing)
        page.keyboard.press("Enter")
        answer = page.locator("#why .answer")
        expect(answer).to_contain_text(missing)
        told.clause = page.locator("#why tr", has_text=missing).locator("code").inner_text()
        expect(answer).to_contain_text(told.clause)
        self.station("why.png", page.locator("#inputs"))
        answer.get_by_role("link", name=missing).click()
        expect(page.locator("h1")).to_have_text(missing)
        page.locator("#why input[name=why]").fill(str(told.stack))
        page.keyboard.press("Enter")
        expect(page.locator("#why .answer")).to_contain_text(told.clause)
        row = page.locator("table.why tr", has=page.locator(f"a[href='/stacks/{told.stack}']"))
        expect(row).to_contain_text("out")
        expect(row).to_contain_text(told.clause, ignore_case=True)

    def plan_again(self) -> None:
        """Grade an exposure of the stack down; see that the stack is stale; order it again with one click."""
        page, told, spoiled = self.page, self.told, self.orders.spoiled
        self.find(spoiled)
        page.locator("h1").click()
        page.keyboard.press("d")
        expect(page.locator(".flash, .history .human.D").first).to_be_visible()
        self.go(f"/stacks/{told.stack}")
        stale = page.locator("#stale .stale, .stale").first
        expect(stale).to_contain_text(f"{spoiled} changed from")
        expect(stale).to_contain_text("to D after this stack")
        self.station("stale.jpg")
        stale.locator("form button").click()
        expect(page.locator("h1")).to_have_text(re.compile(r"^Plan \d+$"))
        told.again = int(page.url.rpartition("/")[2])
        expect(page.locator("main")).to_contain_text(f"supersedes that of plan {told.plan}")
        expect(page.locator("tr.off", has_text=spoiled)).to_contain_text("out")

    def look_around(self) -> None:
        """Look at the sky of the survey, and leave."""
        page = self.page
        self.go("/sky")
        expect(page.locator("[data-sky] canvas").first).to_be_visible()
        page.locator("a[data-sky-go]").first.click()
        expect(page).to_have_url(re.compile(r"fov=3"))
        for _ in range(3):
            page.locator("[data-sky-act=in]").click()
        self.station("sky.png")
        page.locator(".menu summary", has_text=NAME).click()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def work(folder: Path, orders: Orders, pictures: Path | None = None) -> Told:
    """Do a night on a survey."""
    enter_operator(folder)
    with serve_pages(folder) as address, open_page() as page:
        return NightShift(page, address, folder, orders, pictures).run()


SIMULATED = Orders(
    queue='object = "D4"',
    n_grades=11,
    bulk='night = "2026-09-07"',
    rule='object = "D1" and filter = "r" and grade in (A, B)',
    word="elli",
    rest="< 0.04",
    marked="sim01009o",
    spoiled="sim01021o",
    missing="sim01017o",
)
"""A night on the survey that `spica demo` simulates."""


def main() -> None:
    """Do a night on a simulated survey, and write the pictures of the guide."""
    parser = argparse.ArgumentParser(description="Writes the pictures of the guide from a survey of spica demo.")
    parser.add_argument("--workspace", type=Path, required=True, help="folder that spica demo DIR --headless made")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the pictures")
    given = parser.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    told = work(given.workspace.resolve(), SIMULATED, given.pictures)
    print(f"{len(PICTURES)} pictures in {given.pictures}; stack {told.stack} of {told.n_second} exposures delivered")


if __name__ == "__main__":
    main()

"""Marks in a real browser: drawn by keys alone and by pointer, kept where they were seen, taken back by keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from spica.db.engine import Database
from spica.db.mark import MarkEntry, add_mark, marks_of
from spica.db.tables.quality import GradeRow
from spica.files.workspace import Workspace
from spica.model.grade import GradeSource
from spica.model.mark import MarkRegion, MarkShape

from .browser import picture_stands
from .test_view import N_X, corner, show_exposure

pytestmark = pytest.mark.browser

STEP, FINE, RADIUS, GROW = 10.0, 1.0, 40.0, 1.1
"""What a key does, in pixels of the screen; and the factor of the radius."""
VIEWER = "document.querySelector('[data-viewer]').viewer"
INK = (
    f"([x, y]) => {{ const v = {VIEWER}, c = v.canvas, r = devicePixelRatio; v.paint();"
    " const sx = c.clientWidth / 2 + (x - v.view.x) * v.view.scale;"
    " const sy = c.clientHeight / 2 - (y - v.view.y) * v.view.scale;"
    " return [...v.ink.getImageData(Math.round(sx * r) + 10 * r, Math.round(sy * r), 1, 1).data]; }"
)
"""Gives the colour ten pixels to the right of a pixel of the mosaic."""


@pytest.fixture
def image(database: Database, workspace: Workspace, survey: Any) -> int:
    """Return an exposure with real files."""
    with database.begin() as session:
        return show_exposure(session, workspace, survey.exposures[0]).image


@pytest.fixture
def page(image: int, enter: Callable[..., Page]) -> Page:
    """Return its page, as a grader sees it, when the picture stands."""
    opened = enter("greta", f"/images/{image}")
    picture_stands(opened)
    return opened


def view(page: Page) -> tuple[float, float, float]:
    """Return the pixel of the mosaic in the middle of the view, and the pixels of the screen per pixel of it."""
    found = page.evaluate(f"() => {{ const v = {VIEWER}.view; return [v.x, v.y, v.scale]; }}")
    return found[0], found[1], found[2]


def press(page: Page, words: str) -> None:
    for word in words.split():
        page.keyboard.press(word)


def kept(database: Database, image: int) -> list[MarkEntry]:
    with database.read() as session:
        return marks_of(session, image)


def in_mosaic(mark: MarkEntry) -> list[np.ndarray]:
    """Return the points of each part of a mark in pixels of the mosaic, an array [n, 2]."""
    return [np.column_stack([r.x_pix, r.y_pix]) + corner(r.detector) for r in mark.regions]


def test_a_circle_is_drawn_by_keys(page: Page, image: int, database: Database) -> None:
    page.locator("[data-mark-comment]").fill("a ghost")
    page.keyboard.press("Escape")  # out of the box
    press(page, "r")
    x, y, scale = view(page)
    expect(page.locator("[data-mark-note]")).to_contain_text("Enter keeps it")
    expect(page.locator("[data-draw=circle]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".viewer-canvas")).to_be_focused()
    assert page.evaluate(INK, [x, y]) == [0xFF, 0xD7, 0x6A, 0xFF]  # a bar of the cross, 10 pixels to the right
    press(page, "ArrowRight ArrowRight ArrowRight ArrowUp Shift+ArrowDown Shift+ArrowLeft + + + -")
    press(page, "a b j c")  # nothing is graded, and nothing left, while one draws
    x, y = x + (3 * STEP - FINE) / scale, y + (STEP - FINE) / scale
    assert page.evaluate(INK, [x, y]) == [0xFF, 0xD7, 0x6A, 0xFF]
    press(page, "Enter")
    expect(page.locator("[data-mark-note]")).to_contain_text("Marked")
    expect(page.locator(".markslist li")).to_contain_text("a ghost")
    expect(page.locator("[data-draw=circle]")).to_be_focused()
    (mark,) = kept(database, image)
    assert (mark.shape, mark.person, mark.comment) == ("circle", "greta", "a ghost")
    assert len(mark.detectors) > 1  # over the gaps in the middle
    for points in in_mosaic(mark):
        assert points == pytest.approx(np.array([[x, y]]), abs=0.01)
    assert [r.radius_pix for r in mark.regions] == pytest.approx([RADIUS * GROW**2 / scale] * len(mark.regions))
    with database.read() as session:
        assert list(session.scalars(select(GradeRow).where(GradeRow.source == GradeSource.HUMAN))) == []
    press(page, "b")  # now it is a grade again
    expect(page.locator(".flash")).to_contain_text("is graded")


@pytest.mark.parametrize("end", ["Enter", "c"])
def test_a_polygon_is_drawn_by_keys(page: Page, image: int, database: Database, end: str) -> None:
    page.locator("[data-draw=polygon]").focus()
    press(page, "Enter")
    expect(page.locator("[data-mark-note]")).to_contain_text("sets a corner")
    x, y, scale = view(page)
    press(page, " ".join(["ArrowLeft"] * 8 + ["ArrowDown"] * 6) + " Space ArrowRight c")
    expect(page.locator("[data-mark-note]")).to_have_text("1 corner; three at least.")
    press(page, "ArrowRight ArrowRight Space ArrowDown ArrowDown Enter Backspace")
    expect(page.locator("[data-mark-note]")).to_have_text("2 corners; three at least.")
    press(page, "ArrowUp ArrowUp ArrowUp ArrowUp ArrowUp Shift+ArrowLeft Enter Space")
    expect(page.locator("[data-mark-note]")).to_have_text("3 corners; C closes.")
    press(page, end)
    expect(page.locator("[data-mark-note]")).to_contain_text("Marked")
    expect(page.locator("[data-draw=polygon]")).to_be_focused()
    (mark,) = kept(database, image)
    steps = np.array([(-8 * STEP, -6 * STEP), (-5 * STEP, -6 * STEP), (-5 * STEP - FINE, -3 * STEP)])
    for points in in_mosaic(mark):
        assert points == pytest.approx(np.array([x, y]) + steps / scale, abs=0.01)


def test_escape_leaves_and_nothing_is_kept(page: Page, image: int, database: Database) -> None:
    for key, shape in (("r", "circle"), ("p", "polygon")):
        press(page, f"{key} ArrowLeft Space ArrowUp Escape" if key == "p" else f"{key} ArrowLeft Escape")
        expect(page.locator("[data-mark-note]")).to_have_text("Nothing was marked.")
        expect(page.locator(f"[data-draw={shape}]")).to_have_attribute("aria-pressed", "false")
        expect(page.locator(f"[data-draw={shape}]")).to_be_focused()
        assert page.evaluate(f"[{VIEWER}.mode, {VIEWER}.draft]") == [None, None]
    assert kept(database, image) == []


def test_the_view_follows_the_cross_and_steps_are_of_the_screen(page: Page, image: int, database: Database) -> None:
    press(page, "+ + + + r")
    x, _, scale = view(page)
    assert scale > 2.0
    press(page, " ".join(["ArrowUp"] * 16 + ["ArrowRight"] * 60))  # off the gap between detectors
    moved, _, _ = view(page)
    assert moved > x + 10.0  # the cross has left what was seen first
    press(page, "Enter")
    expect(page.locator("[data-mark-note]")).to_contain_text("Marked")
    (mark,) = kept(database, image)
    (points,) = in_mosaic(mark)
    assert points[0, 0] == pytest.approx(x + 60 * STEP / scale, abs=0.01)
    page.keyboard.press("r")
    press(page, " ".join(["ArrowLeft"] * 8))
    assert page.evaluate(f"{VIEWER}.draft.x_pix[0]") == pytest.approx(view(page)[0] - 8 * STEP / scale, abs=0.01)


def test_a_circle_is_drawn_by_pointer(page: Page, image: int, database: Database) -> None:
    page.locator("[data-draw=circle]").click()
    expect(page.locator("[data-mark-note]")).to_contain_text("Press in the middle")
    assert page.evaluate(f"{VIEWER}.draft") is None
    x, y, scale = view(page)
    box = page.locator(".viewer-canvas").bounding_box()
    assert box is not None
    sx, sy = box["x"] + box["width"] / 2 - 100, box["y"] + box["height"] / 2 + 80
    page.mouse.move(sx, sy)
    page.mouse.down()
    page.mouse.move(sx + 30, sy + 40, steps=3)
    page.mouse.up()
    expect(page.locator("[data-mark-note]")).to_contain_text("Marked")
    (mark,) = kept(database, image)
    (points,) = in_mosaic(mark)
    assert points == pytest.approx(np.array([[x - 100 / scale, y - 80 / scale]]), abs=1.01 / scale)
    assert mark.regions[0].radius_pix == pytest.approx(50 / scale, abs=0.01)


def test_marks_are_taken_back_by_keys(enter: Callable[..., Page], survey: Any, image: int, database: Database) -> None:
    with database.begin() as session:
        for x in (50.0, 150.0, 250.0):
            region = MarkRegion(0, MarkShape.CIRCLE, (x,), (N_X / 4,), 12.0)
            add_mark(session, image, [region], person_id=survey.people["greta"])
    page = enter("greta", f"/images/{image}")
    picture_stands(page)
    buttons = page.locator(".markslist button")
    expect(buttons).to_have_count(3)
    page.locator("[data-mark-comment]").focus()
    press(page, "Tab")  # past the comment come the marks in their order; the link of the header stands before
    expect(buttons.first).to_be_focused()
    press(page, "Tab Enter")
    expect(buttons).to_have_count(2)
    expect(page.locator("[data-mark-note]")).to_contain_text("Removed")
    expect(buttons.nth(1)).to_be_focused()  # the third, which has moved up
    assert [m.regions[0].x_pix[0] for m in kept(database, image)] == [50.0, 250.0]
    press(page, "Space")
    expect(buttons).to_have_count(1)
    expect(buttons.first).to_be_focused()
    press(page, "Enter")
    expect(page.locator("#marks")).to_contain_text("No marks")
    expect(page.locator("[data-draw=circle]")).to_be_focused()
    assert kept(database, image) == []

"""The viewer in a real browser: it shows at once, zooms to full pixels, stretches, draws regions, and blinks."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from spica.db.engine import Database
from spica.files.workspace import Workspace

from .browser import until
from .test_view import Shown, show_exposure, sky_at

pytestmark = pytest.mark.browser


@pytest.fixture
def shown(database: Database, workspace: Workspace, survey: Any) -> list[Shown]:
    """Return two exposures with real files, the second blinks with the first."""
    with database.begin() as session:
        return [show_exposure(session, workspace, survey.exposures[i], first=100 * i) for i in (0, 3)]


@pytest.fixture
def page(shown: list[Shown], page: Page) -> Page:
    """Return a page with a viewer in it."""
    page.evaluate(START, [s.image for s in shown])
    until(page, "window.box && window.box.viewer && window.box.viewer.shown")
    return page


START = """async ([first, second]) => {
  const main = document.querySelector("main");
  main.replaceChildren();
  const link = document.createElement("link");
  link.rel = "stylesheet"; link.href = "/static/viewer.css";
  const loaded = new Promise((done) => link.addEventListener("load", done));
  document.head.append(link);
  await loaded;
  const box = document.createElement("div");
  box.style.width = "900px"; box.style.height = "700px";
  box.dataset.viewer = ""; box.dataset.image = first; box.dataset.blink = second; box.dataset.keys = "";
  window.box = box; window.told = [];
  for (const name of ["shape", "shown", "cursor"])
    box.addEventListener(name, (e) => window.told.push([name, e.detail]));
  main.append(box);
  const script = document.createElement("script");
  script.src = "/static/viewer.js";
  document.head.append(script);
}"""

GREYS = """() => { const c = box.viewer.canvas, d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  let lit = 0, sum = 0, n = 0;
  for (let i = 0; i < d.length; i += 4) if (d[i + 3]) { n += 1; sum += d[i]; lit += d[i] > 200 ? 1 : 0; }
  return { n, mean: sum / n, lit }; }"""

SETTLED = """(level) => { const v = box.viewer;
  return v.level === level && !v.wanted.length && !v.shown.pending.size && !v.frame; }"""


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Return where a pixel of the mosaic lies on the screen."""
    found = page.evaluate(
        """([x, y]) => { const v = box.viewer, b = v.canvas.getBoundingClientRect();
        return [b.left + b.width / 2 + (x - v.view.x) * v.view.scale,
                b.top + b.height / 2 - (y - v.view.y) * v.view.scale]; }""",
        [x, y],
    )
    return found[0], found[1]


def told(page: Page, name: str) -> Any:
    """Return what the newest event of a name said."""
    return page.evaluate("(name) => (window.told.findLast((t) => t[0] === name) || [0, null])[1]", name)


def test_it_shows_zooms_and_stretches(page: Page, shown: list[Shown]) -> None:
    whole = page.evaluate(GREYS)
    assert whole["n"] > 300_000
    assert 5 < whole["mean"] < 200
    assert page.evaluate("box.viewer.note.textContent") == ""
    names = page.evaluate("[...box.querySelectorAll('button')].map((b) => b.textContent && b.title && b.type)")
    assert set(names) == {"button"}
    page.keyboard.press("f")  # full pixels
    until(page, SETTLED, 0)
    assert page.evaluate("box.viewer.view.scale * devicePixelRatio") == 1
    assert page.evaluate("box.viewer.shown.tiles.size") >= 6
    before = page.evaluate(GREYS)
    page.keyboard.press("s")
    until(page, "box.viewer.stretch.kind === 'linear' && !box.viewer.frame")
    after = page.evaluate(GREYS)
    assert abs(after["mean"] - before["mean"]) > 10  # the same tiles in other colours
    page.evaluate("box.viewer.setStretch({ invert: true })")
    until(page, "!box.viewer.frame")
    turned = page.evaluate(GREYS)
    assert turned["mean"] == pytest.approx(255 - after["mean"], abs=6)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_wheel_keeps_the_pixel_under_the_cursor(page: Page) -> None:
    sx, sy = (round(v) for v in at(page, 200.0, 150.0))
    under = """([sx, sy]) => { const b = box.viewer.canvas.getBoundingClientRect();
        const m = box.viewer.toMosaic(sx - b.left, sy - b.top); return [m.x, m.y]; }"""
    spot = page.evaluate(under, [sx, sy])
    page.mouse.move(sx, sy)
    for _ in range(6):
        page.mouse.wheel(0, -200)
    until(page, "box.viewer.view.scale > 8 && !box.viewer.frame")
    assert np.allclose(at(page, *spot), (sx, sy), atol=0.1)
    page.mouse.down()
    page.mouse.move(sx + 90, sy - 40)
    page.mouse.up()
    assert np.allclose(at(page, *spot), (sx + 90, sy - 40), atol=0.1)
    page.evaluate("box.viewer.canvas.focus()")
    page.keyboard.press("ArrowLeft")
    assert np.allclose(at(page, *spot), (sx + 150, sy - 40), atol=0.1)
    page.keyboard.press("0")
    assert page.evaluate("box.viewer.fitted")


def test_a_pixel_is_read_with_its_detector_place_and_value(page: Page, shown: list[Shown]) -> None:
    page.evaluate("box.viewer.zoomTo(4, 500, 100)")
    until(page, SETTLED, 0)
    truth = shown[0].pixels
    for x, y in [(500, 100), (520, 88), (460, 120)]:
        page.mouse.move(*at(page, x, y))
        said = told(page, "cursor")
        assert (round(said["x"]), round(said["y"]), said["detector"]) == (x, y, 1)
        assert said["value"] == pytest.approx(truth[y, x], abs=0.3 * abs(truth[y, x] - 310) + 6)
        ra, dec = sky_at(x - 430, y, 1)
        assert abs(said["dec"] - dec) * 3600 < 0.5
        assert abs(said["ra"] - ra) * 3600 * np.cos(np.radians(dec)) < 0.5
    expect(page.locator(".viewer-readout")).to_contain_text("ADU")
    page.mouse.move(*at(page, 415, 100))
    assert told(page, "cursor")["detector"] is None


def test_regions_are_drawn_in_pixels_of_the_mosaic(page: Page) -> None:
    page.evaluate("box.viewer.zoomTo(2, 300, 200)")
    page.evaluate("box.viewer.draw('circle')")
    page.mouse.move(*at(page, 290.0, 210.0))
    page.mouse.down()
    page.mouse.move(*at(page, 300.0, 210.0), steps=3)
    page.mouse.move(*at(page, 320.0, 250.0))
    page.mouse.up()
    said = told(page, "shape")
    assert said["shape"] == "circle"
    assert (said["x_pix"][0], said["y_pix"][0]) == pytest.approx((290.0, 210.0), abs=0.51)
    assert said["radius_pix"] == pytest.approx(50.0, abs=0.51)
    page.evaluate("box.viewer.draw('polygon')")
    corners = [(250.0, 150.0), (350.0, 160.0), (330.0, 240.0)]
    for corner in corners:
        page.mouse.click(*at(page, *corner))
        page.wait_for_timeout(30)
    page.keyboard.press("Enter")
    said = told(page, "shape")
    assert said["shape"] == "polygon"
    assert np.allclose(np.column_stack([said["x_pix"], said["y_pix"]]), corners, atol=0.51)
    count = page.evaluate("window.told.filter((t) => t[0] === 'shape').length")
    page.evaluate("box.viewer.draw('circle')")
    page.keyboard.press("Escape")
    assert page.evaluate("[box.viewer.mode, window.told.filter((t) => t[0] === 'shape').length]") == [None, count]


def test_it_blinks_and_a_prefetched_image_is_there_at_once(page: Page, shown: list[Shown]) -> None:
    first, second = (s.image for s in shown)
    page.keyboard.press(" ")
    until(page, "box.viewer.other && box.viewer.swapped")
    expect(page.locator(".viewer-badge")).to_have_text(re.compile("^7441"))
    one = page.evaluate("() => new Promise((done) => requestAnimationFrame(() => done(box.viewer.canvas.toDataURL())))")
    until(page, "!box.viewer.swapped")
    two = page.evaluate("() => new Promise((done) => requestAnimationFrame(() => done(box.viewer.canvas.toDataURL())))")
    assert one != two
    page.keyboard.press(" ")
    until(page, "!box.viewer.other && !box.viewer.blinking")
    page.evaluate("(id) => box.viewer.prefetch(id)", second)
    spent = []
    for image in (second, first, second, first, second):
        page.evaluate("(id) => box.viewer.show(id)", image)
        said = told(page, "shown")
        assert said["image"] == image
        spent.append(said["ms"])
    assert sorted(spent)[2] < 50, spent


def test_overlays_are_drawn(page: Page) -> None:
    bare = page.evaluate("box.viewer.canvas.toDataURL()")
    seen = {bare}
    for name in ("sources", "masks", "detectors", "compass"):
        page.locator(f"[data-act={name}]").click()
        until(page, "!box.viewer.frame && !box.viewer.shown.pending.size")
        page.wait_for_timeout(150)
        seen.add(page.evaluate("box.viewer.canvas.toDataURL()"))
    assert len(seen) == 5

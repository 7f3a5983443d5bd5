"""The rule room in a real browser: faults under the word, words that fit, live counts, versions, comparison, plans."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser


@pytest.fixture
def page(page: Page) -> Page:
    """Return the rule room."""
    page.goto(page.url + "rules")
    return page


def test_a_rule_is_written_judged_saved_and_compared(page: Page, survey: Any) -> None:
    start, box, popup = page.url, page.locator("textarea[name=rule]"), page.locator("#words")
    box.click()
    page.keyboard.press("Control+Space")
    expect(popup.get_by_role("option").first).to_have_text(re.compile("^seeing"))
    expect(box).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(popup).to_be_hidden()
    page.keyboard.type("gra")
    expect(popup.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(box).to_have_value("grade ")
    expect(popup.get_by_role("option").first).to_have_text(re.compile("^=is"))  # the operators come at once
    page.keyboard.press("ArrowDown")
    expect(box).to_have_attribute("aria-activedescendant", "word0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(box).to_have_value("grade in ")
    page.keyboard.type("(A, B, C, D) and seing < 5")
    expect(page.locator(".ink mark")).to_have_text("seing")
    expect(page.locator("[data-fault]")).to_contain_text("did you mean 'seeing'?")
    page.get_by_role("button", name="Write seeing").click()
    expect(box).to_have_value("grade in (A, B, C, D) and seeing < 5")
    expect(page.locator("#check")).to_have_text("9 of 10 exposures")
    expect(page.locator(".ink mark")).to_have_count(0)
    page.get_by_role("button", name="Judge").click()
    expect(page.locator(".tally")).to_be_visible()
    expect(page.locator(".spread")).to_have_count(4)
    expect(page.locator(".skymap path.cell").first).to_be_attached()
    page.locator("#save input[name=name]").fill("all of it")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".head")).to_contain_text("from all of it, version 1")
    box.press("Control+End")
    page.keyboard.type(" and airmass < 1.3")
    expect(page.locator("[data-live=figures] .fig").first).not_to_have_text("9")  # no button pressed
    expect(page).to_have_url(re.compile("airmass"))
    taken = int(page.locator("[data-live=figures] .fig").first.inner_text())
    expect(page.locator("[data-live=lists] td a", has_text="7441")).to_have_count(9)
    page.locator("#save input[name=note]").fill("lower")
    page.locator("#save button").click()
    expect(page.locator(".head")).to_contain_text("version 2")
    page.goto(f"{start}/1")
    page.get_by_role("link", name="against version 1").click()
    expect(page.locator(".head")).to_contain_text(f"{9 - taken} lost")
    expect(page.get_by_text("Nothing is gained.")).to_be_visible()


def test_a_plan_is_shown_and_nothing_is_too_wide(page: Page, survey: Any) -> None:
    start = page.url
    page.goto(f"{start}?rule=grade+in+(A,B,C,D)")
    expect(page.locator("[data-area]").first).to_be_hidden()
    page.locator("[data-mode]").select_option("area")
    page.locator("input[name=ra]").fill("324.75")
    page.locator("input[name=dec]").fill("57.49")
    page.locator("input[name=radius]").fill("0.05")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.locator("h1")).to_have_text("What would be planned")
    expect(page.locator("main")).to_contain_text("2 plans, 10 jobs")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    for width in (800, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{start}?rule=grade+in+(A,B)+and+seeing+%3C+1")
        expect(page.locator(".spread").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

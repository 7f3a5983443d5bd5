"""Plans: what makes nothing twice, and the jobs of each mode with their edges."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spica.model.association import Association, Circle, Mode
from spica.model.job import FileRef
from spica.model.recipe import read_recipe
from spica.scheduling.plan import Member, draft_jobs, product_hash

RECIPE = read_recipe([], [])
SURVEY = Association(Mode.SURVEY, "d1", "spicasim", "r", (1, 2, 3))


def _member(i: int, **more: Any) -> Member:
    ref = FileRef(i, f"{i:064x}", f"exp{i}.fits", 10)
    files = dict.fromkeys(("exposure", "facts", "catalogue", "weight"), ref)
    return dataclasses.replace(Member(i, f"exp{i}", f"{i:064x}", 10 + i, 0.8, files), **more)


MEMBERS = tuple(_member(i) for i in (1, 2, 3))


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(st.permutations(MEMBERS))
def test_order_makes_no_other_product(members: list[Member]) -> None:
    assert product_hash(SURVEY, tuple(members), RECIPE) == product_hash(SURVEY, MEMBERS, RECIPE)


@pytest.mark.parametrize(
    ("association", "members", "settings_"),
    [
        (SURVEY, MEMBERS[:2], []),
        (SURVEY, (*MEMBERS[:2], _member(4)), []),
        (SURVEY, (*MEMBERS[:2], _member(3, sha256="f" * 64)), []),
        (SURVEY, (*MEMBERS[:2], _member(3, quality_id=99)), []),
        (SURVEY, (*MEMBERS[:2], _member(3, quality_id=None)), []),
        (SURVEY, MEMBERS, ["stack.combine=median"]),
        (SURVEY, MEMBERS, ["engine.stack=astromatic"]),
        (dataclasses.replace(SURVEY, mode=Mode.AREA, circle=Circle(1.0, 2.0, 0.1)), MEMBERS, []),
        (dataclasses.replace(SURVEY, mode=Mode.SINGLE, target_id=1), MEMBERS, []),
    ],
)
def test_anything_that_matters_makes_another(association: Any, members: Any, settings_: list[str]) -> None:
    other = product_hash(association, members, read_recipe([], settings_))
    assert other != product_hash(SURVEY, MEMBERS, RECIPE)


def test_the_frame_asked_for_matters() -> None:
    hashes = {
        product_hash(dataclasses.replace(SURVEY, mode=Mode.AREA, circle=c), MEMBERS, RECIPE)
        for c in (Circle(1.0, 2.0, 0.1), Circle(1.0, 2.0, 0.2), Circle(1.1, 2.0, 0.1))
    }
    assert len(hashes) == 3
    singles = {
        product_hash(dataclasses.replace(SURVEY, mode=Mode.SINGLE, target_id=t), MEMBERS, RECIPE) for t in (1, 2)
    }
    assert len(singles) == 2


def test_the_name_of_a_recipe_does_not_matter() -> None:
    named = dataclasses.replace(RECIPE, name="mine")
    assert product_hash(SURVEY, MEMBERS, named) == product_hash(SURVEY, MEMBERS, RECIPE)


def _edges(drafts: list[Any]) -> dict[str, set[str]]:
    return {d.kind: {drafts[i].kind for i in d.needs} for d in drafts}


def test_survey_mode_has_five_jobs_and_their_edges() -> None:
    reference = FileRef(9, "9" * 64, "stars.fits", 10)
    drafts = draft_jobs(SURVEY, MEMBERS, reference, RECIPE, 77, "D1_r")
    assert _edges(drafts) == {
        "astrometry": set(),
        "stack": {"astrometry"},
        "quality": {"stack"},
        "catalogue": {"stack"},
        "deliver": {"astrometry", "stack", "quality", "catalogue"},
    }
    assert {d.subject_id for d in drafts} == {77}
    roles = [(i.role, i.item) for i in drafts[0].files]
    assert roles.count(("reference", None)) == 1
    assert {item for role, item in roles if role == "catalogue"} == {"image:1", "image:2", "image:3"}
    assert all(u.draft < n for n, d in enumerate(drafts) for u in d.upstream), "a job reads only what was made before"
    assert all(u.draft in d.needs for d in drafts for u in d.upstream), "what a job reads it needs"


def test_single_mode_solves_all_and_calibrates_one() -> None:
    single = dataclasses.replace(SURVEY, mode=Mode.SINGLE, target_id=2)
    drafts = draft_jobs(single, MEMBERS, None, RECIPE, 77, "exp2_cal")
    assert _edges(drafts) == {
        "astrometry": set(),
        "calibrate": {"astrometry"},
        "deliver": {"astrometry", "calibrate"},
    }
    assert {i.item for i in drafts[1].files} == {"image:2"}
    assert {i.item for i in drafts[0].files} == {"image:1", "image:2", "image:3"}


def test_switches_leave_jobs_out() -> None:
    recipe = read_recipe([], ["catalogue.make=false", "deliver.make=false", "stack.min_inputs=3"])
    drafts = draft_jobs(SURVEY, MEMBERS, None, recipe, 77, "D1_r")
    assert [d.kind for d in drafts] == ["astrometry", "stack", "quality"]
    assert drafts[1].min_inputs == 3


def test_no_tool_solves_what_the_headers_state() -> None:
    engines = ["engine.astrometry=astromatic", "engine.stack=astromatic"]
    for source, solver in (("solve", "astromatic"), ("header", "native")):
        recipe = read_recipe([], [*engines, f"astrometry.source={source}"])
        drafts = draft_jobs(SURVEY, MEMBERS, None, recipe, 9, "d1_r")
        by_kind = {d.kind: d.engine for d in drafts}
        assert (by_kind["astrometry"], by_kind["stack"]) == (solver, "astromatic")
        assert all(i.role != "reference" for i in drafts[0].files)

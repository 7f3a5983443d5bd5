"""Dry runs, empty selections, bad rules, area and single mode, grades: by real processes on one workspace."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from sqlalchemy import func, select

from spica.db.tables.job import JobRow, PlanRow, SelectionRow
from spica.files.head import read_head
from spica.files.manifest import check_files, read_manifest
from spica.files.wcs import read_wcs

pytestmark = pytest.mark.walk

LEAN = ("--set", "deliver.pdf=false", "--set", "quality.plots=false")


def _planned(walk: Any) -> tuple[int, ...]:
    return tuple(walk.rows(select(func.count()).select_from(t))[0][0] for t in (JobRow, PlanRow, SelectionRow))


def _good(walk: Any, band: str) -> list[Any]:
    plans = [e.plan for e in walk.truth.exposures]
    return [p for p in plans if p.filter_name == band and p.truncated_fraction is None and p.missing_keyword is None]


def _wcs(header: Any) -> WCS:
    with warnings.catch_warnings(action="ignore"):
        return WCS(header)


def test_a_dry_run_tells_the_clause_and_records_nothing(shared_walk: Any) -> None:
    walk = shared_walk
    seeing = {p.name: p.seeing_arcsec for p in _good(walk, "r")}
    images = {i["name"]: i for i in walk.spica("images", "--json").json}
    limit = sorted(images[n]["seeing_arcsec"] for n in seeing)[1] + 1e-4
    before = _planned(walk)
    rule = f"seeing < {limit} and grade in (A, B, C, D)"
    said = walk.spica("schedule", "survey", "--filter", "r", "--rule", rule, "--dry-run", "--json").json
    assert _planned(walk) == before
    assert len(said["in"]) == 2
    out = {o["name"]: o for o in said["out"]}
    (name,) = set(seeing) - {i["name"] for i in said["in"]}
    assert "seeing" in out[name]["clause"]
    assert float(out[name]["value"]) == pytest.approx(images[name]["seeing_arcsec"], rel=1e-3)


def test_an_empty_selection_is_exit_4(shared_walk: Any) -> None:
    before = _planned(shared_walk)
    said = shared_walk.spica("schedule", "survey", "--rule", "seeing < 0.01", code=4)
    assert "seeing" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert said.out == ""
    assert _planned(shared_walk) == before


def test_a_bad_rule_is_exit_2_with_the_column_and_the_word(shared_walk: Any) -> None:
    said = shared_walk.spica("schedule", "survey", "--rule", "seeing < 1 and seing < 2", code=2)
    assert said.out == ""
    assert "column 16" in said.err
    assert "'seing'" in said.err


def test_a_missing_folder_is_exit_5(shared_walk: Any) -> None:
    said = shared_walk.spica("ingest", shared_walk.folder / "nowhere", code=5)
    assert "nowhere does not exist" in said.err


def test_a_failed_job_is_exit_3_and_says_why(shared_walk: Any) -> None:
    said = shared_walk.spica(
        "schedule", "survey", "--filter", "g", "--set", "stack.max_frame_px=10000", *LEAN, "--wait", "--json", code=3
    ).json
    (plan,) = said["plans"]
    jobs = {j["kind"]: j for j in shared_walk.spica("jobs", "--plan", str(plan["plan"]), "--json").json}
    assert (jobs["astrometry"]["state"], jobs["stack"]["state"]) == ("SUCCEEDED", "FAILED")
    assert {jobs[k]["state"] for k in ("quality", "catalogue", "deliver")} == {"PRUNED"}
    assert jobs["stack"]["exit_code"] == 21
    assert "max_frame" in jobs["stack"]["error"] or "pixels" in jobs["stack"]["error"]
    (stack,) = [s for s in shared_walk.spica("stacks", "--json").json if s["id"] == plan["image"]]
    assert (stack["state"], stack["path"], stack["delivered_path"]) == ("failed", None, None)


def test_area_mode_makes_the_box_of_the_circle(shared_walk: Any) -> None:
    walk = shared_walk
    centre = _good(walk, "r")[0]
    ra, dec, radius = centre.ra_deg, centre.dec_deg, 0.006
    circle = ("--ra", str(ra), "--dec", str(dec), "--radius", str(radius))
    dry = walk.spica("schedule", "area", *circle, "--filter", "r", "--dry-run", "--json").json
    assert {i["name"] for i in dry["in"]} == {p.name for p in _good(walk, "r")}
    said = walk.spica("schedule", "area", *circle, "--filter", "r", *LEAN, "--wait", "--json").json
    assert said["failed"] == 0
    (stack,) = [s for s in walk.spica("stacks", "--json").json if s["id"] == said["plans"][0]["image"]]
    assert (stack["mode"], stack["n_inputs"]) == ("area", 3)
    header = fits.getheader(stack["path"])
    side = 2 * radius * 3600.0 / 0.3
    assert header["NAXIS1"] == pytest.approx(side, abs=3)
    assert header["NAXIS2"] == pytest.approx(side, abs=3)
    x, y = _wcs(header).all_world2pix(ra, dec, 0)
    assert (float(x), float(y)) == pytest.approx(((header["NAXIS1"] - 1) / 2, (header["NAXIS2"] - 1) / 2), abs=1.0)
    far = walk.spica("schedule", "area", "--ra", str(ra), "--dec", str(dec + 3), "--radius", "0.01", code=4)
    assert "candidate" in far.err


def test_single_mode_calibrates_one_exposure_with_all_that_overlap(shared_walk: Any) -> None:
    walk = shared_walk
    target = _good(walk, "r")[1]
    names = walk.folder / "wanted.txt"
    names.write_text(f"{target.name}\n")
    said = walk.spica("schedule", "single", "--images", names, *LEAN, "--wait", "--json").json
    assert said["failed"] == 0
    (plan,) = said["plans"]
    assert len(plan["jobs"]) == 3
    (made,) = [s for s in walk.spica("stacks", "--json").json if s["id"] == plan["image"]]
    assert (made["kind"], made["state"], made["mode"]) == ("calibrated", "delivered", "single")
    truth = walk.truth.exposure(target.name)
    with fits.open(made["path"]) as hdus:
        images = [h for h in hdus if h.data is not None]
        assert len(images) == 2
        with fits.open(walk.folder / "incoming" / f"{target.name}.fits") as raw:
            for new, old in zip(images, [h for h in raw if h.data is not None], strict=True):
                np.testing.assert_array_equal(new.data, old.data)
        assert hdus[0].header["MAGZPSEC"] == pytest.approx(truth.zero_point_mag - 0.03, abs=0.03)
        zero_point = truth.zero_point_mag - 0.03 + 2.5 * math.log10(target.exptime_s)
        assert hdus[0].header["MAGZEROP"] == pytest.approx(zero_point, abs=0.03)
        solved = _wcs(images[0].header)
    folder = Path(made["delivered_path"])
    manifest = read_manifest(folder / "manifest.json")
    assert check_files(manifest, folder) == ()
    roles = {f.role: folder / f.name for f in manifest.files}
    assert {"calibrated", "weight", "catalogue", "head"} <= set(roles)
    head = read_head(roles["head"])
    assert len(head) == 2
    here = read_wcs(head[0]).all_pix2world(100.0, 50.0, 0)
    there = solved.all_pix2world(100.0, 50.0, 0)
    np.testing.assert_allclose(here, there, atol=1e-8)


def test_grades_of_people_count_and_regrade_leaves_them(walk: Any) -> None:
    name = _good(walk, "r")[0].name
    machine = next(i["grade"] for i in walk.spica("images", "--json").json if i["name"] == name)
    walk.spica("grade", name, "D", "--comment", "guiding lost")
    image = next(i for i in walk.spica("images", "--json").json if i["name"] == name)
    assert (image["grade"], image["grade_source"]) == ("D", "human")
    explained = walk.spica("grade", name, "--explain").out.splitlines()
    assert "human D: guiding lost" in explained[0]
    assert any(f"machine {machine}" in line for line in explained)
    said = walk.spica("regrade").out
    assert "6 images judged again, 0 machine grades changed" in said
    dry = walk.spica("schedule", "survey", "--filter", "r", "--dry-run", "--json").json
    assert [(o["value"]) for o in dry["out"] if o["name"] == name] == ["D"]

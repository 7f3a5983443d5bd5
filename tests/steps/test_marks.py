"""Marks in the stack: an exposure gives nothing inside its mark, everything else stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import binary_dilation, binary_erosion

from spica.algorithms.frame import frame_for_circle
from spica.files.checksum import sha256_file
from spica.files.head import read_head
from spica.files.jobfolder import read_result, write_inputs, write_job
from spica.files.manifest import read_manifest
from spica.files.wcs import read_wcs
from spica.model.job import FileRef, Input, Inputs, Request, ResolvedInput
from spica.model.recipe import read_recipe
from spica.model.record import canonical, to_json
from spica.scheduling.script import render_script

WEIGHTED = "stack.combine=weighted"
SQUARE = np.ones((3, 3), bool)
KERNEL_PIX = 4
"""Reach of the resampling kernel (Lanczos-3), rounded up."""


def pixels(path: Any) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.asarray(next(h for h in hdus if h.data is not None).data)


@pytest.fixture(scope="module")
def star(chain: Any, lonely_stars: Any) -> dict[str, Any]:
    """Return a star on one detector of the first exposure: its place on the sky and in pixels, and a mark on it."""
    ra, dec, _ = lonely_stars(19.5)
    heads = read_head(chain.solved.path("head", "image:1"))
    for detector, head in enumerate(heads):
        x, y = read_wcs(head).all_world2pix(ra, dec, 0)
        for i in np.flatnonzero((x > 60) & (x < 320) & (y > 60) & (y < 320)):
            regions = [
                {
                    "detector": detector,
                    "shape": "circle",
                    "x_pix": [float(x[i])],
                    "y_pix": [float(y[i])],
                    "radius_pix": 14.0,
                }
            ]
            circle = [float(ra[i]), float(dec[i]), 0.004]
            return {"marks": [{"id": 5, "regions": regions}], "circle": circle, "detector": detector}
    raise AssertionError("no star of the sample lies well inside a detector")


def inside(chain: Any, star: dict[str, Any]) -> np.ndarray:
    """Return which pixels of the small frame lie inside the mark, by astropy's WCS alone."""
    region = star["marks"][0]["regions"][0]
    scale = chain.stacked.record("stack")["pixel_scale_arcsec"]
    frame = frame_for_circle(*star["circle"], scale, 10**8)
    yy, xx = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]]
    ra, dec = frame.to_wcs().all_pix2world(xx, yy, 0)
    head = read_head(chain.solved.path("head", "image:1"))[star["detector"]]
    x, y = read_wcs(head).all_world2pix(ra, dec, 0)
    return np.hypot(x - region["x_pix"][0], y - region["y_pix"][0]) <= region["radius_pix"]


@pytest.fixture(scope="module")
def runs(chain: Any, step_bench: Any, star: dict[str, Any]) -> dict[str, Any]:
    """Return stacks of one small frame: all three exposures, the first marked, the first not there at all."""
    scale = f"stack.pixel_scale_arcsec={chain.stacked.record('stack')['pixel_scale_arcsec']!r}"
    facts = {**chain.stack_facts, "circle": star["circle"]}
    marked = {**facts, "marks": {"image:1": star["marks"]}}

    def run(items: tuple[str, ...], facts: dict[str, Any], *more: str) -> Any:
        ran = step_bench.run("stack", chain.stack_inputs(items), WEIGHTED, scale, *more, facts=facts, subject="image:9")
        assert ran.code == 0, ran.result.failure
        return ran

    items = chain.items
    return {
        "plain": run(items, facts),
        "marked": run(items, marked),
        "without": run(items[1:], facts),
        "marked even": run(items, marked, "stack.use_weight=false"),
        "without even": run(items[1:], facts, "stack.use_weight=false"),
    }


def test_inside_the_mark_the_exposure_is_not_there(chain: Any, star: dict[str, Any], runs: dict[str, Any]) -> None:
    core = binary_erosion(inside(chain, star), SQUARE, iterations=KERNEL_PIX)
    assert core.sum() > 100
    for role in ("stack", "weight"):
        plain, marked, without = (pixels(runs[k].path(role)) for k in ("plain", "marked", "without"))
        np.testing.assert_array_equal(marked[core], without[core])
        assert (plain[core] != marked[core]).mean() > 0.9, "the exposure gave something there before"


def test_outside_the_mark_not_a_bit_changes(chain: Any, star: dict[str, Any], runs: dict[str, Any]) -> None:
    far = ~binary_dilation(inside(chain, star), SQUARE, iterations=KERNEL_PIX)
    assert far.sum() > 1000
    for role in ("stack", "weight"):
        plain, marked = (pixels(runs[k].path(role)) for k in ("plain", "marked"))
        np.testing.assert_array_equal(marked[far], plain[far])


def test_the_weight_is_lower_by_the_share_of_the_exposure(
    chain: Any, star: dict[str, Any], runs: dict[str, Any]
) -> None:
    """Weights add: what is missing inside the mark is the weight of the first exposure, as it is beside the mark."""
    core = binary_erosion(inside(chain, star), SQUARE, iterations=KERNEL_PIX)
    ring = binary_dilation(inside(chain, star), SQUARE, iterations=12) & ~binary_dilation(
        inside(chain, star), SQUARE, iterations=6
    )
    plain, marked, without = (pixels(runs[k].path("weight")) for k in ("plain", "marked", "without"))
    lost = np.median((plain - marked)[core])
    its_own = np.median((plain - without)[ring])
    assert lost == pytest.approx(its_own, rel=0.03)
    assert lost > 0


def test_a_mark_works_without_weight_maps_too(chain: Any, star: dict[str, Any], runs: dict[str, Any]) -> None:
    core = binary_erosion(inside(chain, star), SQUARE, iterations=KERNEL_PIX)
    marked, without = (pixels(runs[f"{k} even"].path("weight")) for k in ("marked", "without"))
    np.testing.assert_array_equal(marked[core], without[core])
    assert (marked[~binary_dilation(inside(chain, star), SQUARE, iterations=KERNEL_PIX)] > without.max()).mean() > 0.5


def test_the_stack_names_its_marks(star: dict[str, Any], runs: dict[str, Any]) -> None:
    marked, plain = runs["marked"], runs["plain"]
    assert [c["marks"] for c in marked.record("stack")["contributions"]] == [[5], [], []]
    (told,) = [o for o in marked.result.outcomes if o.detector is not None]
    assert (told.item, told.detector, told.outcome.value) == ("image:1", star["detector"], "used_with_warning")
    assert told.reason.code == "marked"
    assert "mark 5" in told.reason.text
    assert abs(told.reason.value - np.pi * 14.0**2) < 60
    assert {o.outcome.value for o in marked.whole().values()} == {"used"}
    assert fits.getheader(marked.path("stack"), 0)["MRK00001"] == "5"
    assert not [o for o in plain.result.outcomes if o.detector is not None]
    assert "MRK00001" not in fits.getheader(plain.path("stack"), 0)


def test_the_manifest_names_them_too(chain: Any, step_bench: Any, runs: dict[str, Any]) -> None:
    inputs = [(r, "image:9", runs["marked"].path(r)) for r in ("stack", "weight", "measures")]
    inputs.append(("solution", None, chain.solved.path("measures")))
    names = [{"item": i, "name": chain.name(i), "sha256": i[-1] * 64} for i in chain.items]
    facts = {"name": "tiny_r", "kind": "stack", "mode": "survey", "inputs": names}
    ran = step_bench.run("deliver", inputs, "deliver.pdf=false", subject="image:9", facts=facts, min_inputs=0)
    assert ran.code == 0, ran.result.failure
    manifest = read_manifest(ran.folder / "outgoing" / "tiny_r" / "manifest.xml")
    told = [{f.name: f.value for f in item.facts if "marks" in f.name} for item in manifest.inputs]
    assert told == [{"n_marks": 1, "marks": "5"}, {}, {}]


def test_a_mark_that_cannot_be_drawn_is_a_clear_line(chain: Any, step_bench: Any, star: dict[str, Any]) -> None:
    bad = {"detector": 0, "shape": "polygon", "x_pix": [1.0, 2.0], "y_pix": [1.0, 2.0], "radius_pix": None}
    facts = {**chain.stack_facts, "marks": {"image:1": [{"id": 5, "regions": [bad]}]}}
    ran = step_bench.run("stack", chain.stack_inputs(), facts=facts, subject="image:9")
    assert ran.code == 20
    assert "take it back" in ran.result.failure.text


def swarp(folder: Any, chain: Any, items: tuple[str, ...], facts: dict[str, Any], scale: str) -> Any:
    """Run the stack job of the real tools by its own script; return attempt and result."""
    recipe = read_recipe([], ["engine.stack=astromatic", WEIGHTED, scale])
    given = chain.stack_inputs(items)
    refs = [(r, i, FileRef(n, sha256_file(p), p.name, p.stat().st_size), p) for n, (r, i, p) in enumerate(given, 1)]
    request = Request(
        "stack", "astromatic", to_json(recipe), recipe.sha256(), tuple(Input(r, i, f) for r, i, f, _ in refs),
        "image:9", "stack of a test", facts,
    )  # fmt: skip
    attempt = folder / "attempt-1"
    attempt.mkdir(parents=True)
    write_job(folder, render_script("stack", request), canonical(request))
    write_inputs(attempt, Inputs(7, 1, "7-1", tuple(ResolvedInput(r, i, None, f, str(p)) for r, i, f, p in refs)))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "SPICA_PYTHON": sys.executable, "LANG": "C.UTF-8"}
    environment |= {k: v for k, v in os.environ.items() if k in ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")}
    done = subprocess.run(
        ["/bin/sh", str(folder / "run.sh"), str(attempt)], env=environment, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return attempt, read_result(attempt)


def test_swarp_heeds_marks_too(chain: Any, star: dict[str, Any], tmp_path: Any) -> None:
    """Inside the mark SWarp's stack of three is that of two; outside no weight changes.

    SWarp measures the background itself, from pixels with weight: the sky of the detector may move by little of its
    noise where a part of it is marked.
    """
    scale = f"stack.pixel_scale_arcsec={chain.stacked.record('stack')['pixel_scale_arcsec']!r}"
    facts = {**chain.stack_facts, "circle": star["circle"]}
    wanted = {
        "plain": (chain.items, facts),
        "marked": (chain.items, {**facts, "marks": {"image:1": star["marks"]}}),
        "without": (chain.items[1:], facts),
    }
    made = {}
    for name, (items, told) in wanted.items():
        attempt, result = swarp(tmp_path / name, chain, items, told, scale)
        made[name] = {r: pixels(attempt / p.path) for p in result.products for r in (p.role,) if r in "stack weight"}
        if name == "marked":
            (record,) = [r for r in result.records if r["type"] == "stack"]
            assert [c["marks"] for c in record["contributions"]] == [[5], [], []]
    core = binary_erosion(inside(chain, star), SQUARE, iterations=KERNEL_PIX)
    far = ~binary_dilation(inside(chain, star), SQUARE, iterations=KERNEL_PIX)
    for role in ("stack", "weight"):
        np.testing.assert_allclose(made["marked"][role][core], made["without"][role][core], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(made["marked"]["weight"][far], made["plain"]["weight"][far])
    moved = np.abs(made["marked"]["stack"] - made["plain"]["stack"]) * np.sqrt(made["plain"]["weight"])
    assert moved[far].max() < 0.05
    assert (made["plain"]["weight"][core] > 1.2 * made["marked"]["weight"][core]).all()

"""The engine of the real tools against our own on the same exposures, by the scripts that a node runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from spica.files.checksum import sha256_file
from spica.files.head import read_head
from spica.files.jobfolder import read_result, write_inputs, write_job
from spica.files.ldac import LdacCatalogue, read_ldac, write_ldac
from spica.files.mef import open_mef
from spica.files.wcs import read_wcs
from spica.model.harvest import read_record
from spica.model.job import FileRef, Input, Inputs, Outcome, Request, ResolvedInput
from spica.model.recipe import read_recipe
from spica.model.record import canonical, to_json
from spica.reference import read_reference
from spica.reference.catalogue import write_reference
from spica.scheduling.script import render_script
from spica.steps.__main__ import main
from spica.steps.simulate import SurveyParameters, camera_to_sky, simulate_survey

SURVEY = SurveyParameters(
    n_objects=1, filters=("r",), n_exposures=3, detector_pix=(300, 340), seed=11, stars_per_arcmin2=60.0,
    galaxies_per_arcmin2=4.0, n_cloudy=0, n_defocused=0, n_trailed=0, n_truncated=0, n_missing_keyword=0,
)  # fmt: skip
FILES = [f"file:{i}" for i in (1, 2, 3)]
IMAGES = [f"image:{i}" for i in (1, 2, 3)]
MADE = "image:9"


class Job:
    """One attempt by hand: its folder, its result, its products by role and item."""

    def __init__(self, folder, kind, engine, given, facts=None, path=None, python=sys.executable):
        recipe = read_recipe([], ["quality.trails=false"])
        refs = [(r, i, FileRef(n, sha256_file(p), p.name, p.stat().st_size), p) for n, (r, i, p) in enumerate(given, 1)]
        request = Request(
            kind=kind, engine=engine, recipe=to_json(recipe), recipe_sha256=recipe.sha256(), subject=MADE,
            inputs=tuple(Input(r, i, f) for r, i, f, _ in refs), label=f"{kind} of it", facts=facts or {},
        )  # fmt: skip
        self.attempt = folder / "attempt-1"
        self.attempt.mkdir(parents=True)
        self.script = render_script(kind, request)
        write_job(folder, self.script, canonical(request))
        write_inputs(
            self.attempt, Inputs(7, 1, "7-1", tuple(ResolvedInput(r, i, None, f, str(p)) for r, i, f, p in refs))
        )
        if engine == "native":
            with warnings.catch_warnings():  # as in a process of its own
                warnings.simplefilter("ignore")
                self.code, self.log = main(["run", "--attempt", str(self.attempt)]), ""
        else:
            environment = {
                "PATH": path or os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8",
                "SPICA_PYTHON": str(python), "NUMBA_NUM_THREADS": "2", "MPLCONFIGDIR": str(folder),
                **{k: v for k, v in os.environ.items() if k == "NUMBA_CACHE_DIR"},
            }  # fmt: skip
            done = subprocess.run(
                ["/bin/sh", str(folder / "run.sh"), str(self.attempt)], env=environment, capture_output=True,
                text=True, timeout=200, check=False,
            )  # fmt: skip
            self.code, self.log = done.returncode, done.stdout + done.stderr
        self.result = read_result(self.attempt)

    def product(self, role, item=None):
        found = [p for p in self.result.products if p.role == role and p.item == item]
        assert len(found) >= 1, f"no {role} of {item}: {self.log[-2000:]}"
        path = self.attempt / found[0].path
        assert sha256_file(path) == found[0].sha256
        return path

    def roles(self):
        return sorted({(p.role, p.item) for p in self.result.products if p.role != "tool_xml"}, key=str)

    def record(self, kind):
        return next(read_record(r) for r in self.result.records if r["type"] == kind)


class Chain:
    """The simulated survey, and every job by both engines once."""

    def __init__(self, folder: Path, python: Path):
        self.folder, self.python = folder, python
        self.truth = simulate_survey(folder / "sim", SURVEY)
        self.exposures = [folder / "sim" / e.file_name for e in self.truth.exposures]
        _pollute(self.exposures[1])
        self.exposures[2] = _compress(self.exposures[2])
        files = [("exposure", i, p) for i, p in zip(FILES, self.exposures, strict=True)]
        # the assessment by an interpreter of its own, what follows by one that has imported the steps already
        self.assess = {e: Job(folder / f"a-{e}", "assess", e, files) for e in ("native", "astromatic")}
        self.solve = {
            e: self.job(f"s-{e}", "astrometry", e, self.catalogues(e, self.truth.reference_path))
            for e in ("native", "astromatic")
        }
        one = [
            given
            for file, image, path in zip(FILES, IMAGES, self.exposures, strict=True)
            for given in (
                ("exposure", image, path),
                ("facts", image, self.assess["native"].product("facts", file)),
                ("weight", image, self.assess["native"].product("weight", file)),
                ("head", image, self.solve["native"].product("head", image)),
            )
        ]
        one.append(("measures", None, self.solve["native"].product("measures")))
        self.stack = {e: self.job(f"k-{e}", "stack", e, one, {"name": "D1-r"}) for e in ("native", "astromatic")}
        two = [(r, MADE, self.stack["native"].product(r, MADE)) for r in ("stack", "weight", "measures")]
        self.catalogue = {e: self.job(f"c-{e}", "catalogue", e, two) for e in ("native", "astromatic")}

    def job(self, name, kind, engine, given, facts=None, path=None):
        return Job(self.folder / name, kind, engine, given, facts, path, self.python)

    def catalogues(self, engine, reference):
        job = self.assess[engine]
        given = [
            (r, image, job.product(r, file))
            for file, image in zip(FILES, IMAGES, strict=True)
            for r in ("facts", "catalogue")
        ]
        return [*given, ("reference", None, reference)]


def _pollute(path):
    """Add keywords that other software leaves behind and that the tools would obey."""
    with fits.open(path, mode="update") as hdus:
        for hdu in hdus[1:]:
            hdu.header["FLXSCALE"] = 7.0
            hdu.header["PHOT_C"], hdu.header["PHOT_K"] = 31.0, -0.5
            hdu.header["BACKMEAN"], hdu.header["EXPTIME"], hdu.header["FILTER"] = 1e9, 1e-3, "x; reboot"
            hdu.add_checksum()


def _compress(path):
    """Write a tile-compressed copy with 16-bit unsigned integers."""
    target = path.with_suffix(".fits.fz")
    with fits.open(path) as hdus:
        units = [hdus[0].copy()]
        units += [fits.CompImageHDU(h.data, h.header, name=h.name, compression_type="RICE_1") for h in hdus[1:]]
        fits.HDUList(units).writeto(target, checksum=True)
    return target


@pytest.fixture(scope="module")
def warm_python(tmp_path_factory):
    """Return what scripts may call as Python: importing the steps anew costs a second, twice a script."""
    folder, place = tmp_path_factory.mktemp("python"), Path(tempfile.mkdtemp(prefix="spp-", dir="/tmp"))
    words = [sys.executable, str(Path(__file__).with_name("warm_python.py"))]
    server = subprocess.Popen([*words, "serve", str(place / "s")])
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {words[0]} -S -E {words[1]} call {place / "s"} "$@"\n')
    python.chmod(0o755)
    until = time.monotonic() + 60.0
    while not (place / "s").exists():
        assert server.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    yield python
    server.kill()
    server.wait()
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def chain(tmp_path_factory, warm_python):
    """Everything once for all tests of this module."""
    return Chain(tmp_path_factory.mktemp("astromatic"), warm_python)


def _matched(first, second, radius_pix=0.7):
    """Rows of the first table and of the second at the same place."""
    gap, index = cKDTree(np.c_[second["XWIN_IMAGE"], second["YWIN_IMAGE"]]).query(
        np.c_[first["XWIN_IMAGE"], first["YWIN_IMAGE"]], distance_upper_bound=radius_pix
    )
    return first[np.isfinite(gap)], second[index[np.isfinite(gap)]]


def test_results_have_the_shape_of_our_own(chain):
    """Same products by role and item, same records with the same keys, same outcomes; the tools' reports come along."""
    for jobs in (chain.assess, chain.solve, chain.stack, chain.catalogue):
        own, other = jobs["native"], jobs["astromatic"]
        assert (own.code, other.code) == (0, 0), other.log[-3000:]
        assert other.roles() == own.roles()
        assert [(r["type"], sorted(r)) for r in other.result.records] == [
            (r["type"], sorted(r)) for r in own.result.records
        ]
        assert other.result.outcomes == own.result.outcomes
        assert any(p.role == "tool_xml" for p in other.result.products)
        assert not list((other.attempt / "work").glob("image-*.fits")) + list((other.attempt / "work").glob("plane-*"))


def test_scripts_are_readable_and_hold_no_header_text(chain):
    """The tools' own command lines stand there; nothing of the exposures does, and any shell parses it."""
    for jobs, word in (
        (chain.assess, "-DETECT_THRESH 1.5"), (chain.solve, "-MOSAIC_TYPE FIX_FOCALPLANE"),
        (chain.stack, "-COMBINE_TYPE CLIPPED"), (chain.catalogue, "-BACK_SIZE 128"),
    ):  # fmt: skip
        script = jobs["astromatic"].script
        assert word in script
        assert "reboot" not in script
        body = "\n".join(line for line in script.splitlines() if not line.startswith("#"))
        assert "sim01" not in body
        subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=True)


def test_assess_differs_in_the_extraction_alone(chain):
    """Measures, weights and grades are our own; sources and fluxes of the tool agree with ours, columns and all."""
    own, other = chain.assess["native"], chain.assess["astromatic"]
    assert own.result.records == other.result.records
    for file in FILES:
        with open_mef(own.product("weight", file)) as a, open_mef(other.product("weight", file)) as b:
            assert all((a.read_pixels(i) == b.read_pixels(j)).all() for i, j in zip(a.images, b.images, strict=True))
        ours, theirs = read_ldac(own.product("catalogue", file)), read_ldac(other.product("catalogue", file))
        for a, b in zip(ours, theirs, strict=True):
            assert a.header.cards == b.header.cards
            assert (a.table.dtype, a.columns) == (b.table.dtype, b.columns)
            first, second = _matched(a.table, b.table)
            assert len(first) > 0.93 * max(len(a.table), len(b.table))
            good = (first["SNR_WIN"] > 30) & (first["FLAGS"] == 0) & (second["FLAGS"] == 0)
            assert good.sum() > 10
            assert np.median(np.abs(second["FLUX_AUTO"] / first["FLUX_AUTO"] - 1)[good]) < 0.003
            assert np.median(np.abs(second["FLUX_APER"] / first["FLUX_APER"] - 1)[good], axis=0).max() < 0.01
            assert np.median(np.abs(second["XWIN_IMAGE"] - first["XWIN_IMAGE"])[good]) < 0.005
            assert abs(int((b.table["FLAGS"] & 4 > 0).sum()) - int((a.table["FLAGS"] & 4 > 0).sum())) <= 2


def test_positions_and_zero_points_agree(chain):
    """Both solutions lie within some mas of each other and of the truth, and their zero points within 3 mmag.

    27 reference stars a detector leave 3 to 8 mas in a cubic; the header's own WCS is wrong by 8 to 18 arcsec.
    """
    x, y = np.meshgrid(np.linspace(25, 315, 7), np.linspace(25, 275, 7))
    for image, exposure in zip(IMAGES, chain.truth.exposures, strict=True):
        heads = {e: read_head(chain.solve[e].product("head", image)) for e in chain.solve}
        for d in range(4):
            sky = {e: read_wcs(heads[e][d]).all_pix2world(x, y, 0) for e in heads}
            sky["truth"] = camera_to_sky(exposure.plan, chain.truth.camera, d, x, y)
            for a, b in (("native", "astromatic"), ("truth", "astromatic")):
                east = (sky[a][0] - sky[b][0]) * np.cos(np.radians(sky[a][1])) * 3.6e6
                north = (sky[a][1] - sky[b][1]) * 3.6e6
                assert np.sqrt(np.mean(east**2 + north**2) / 2) < 12.0, (image, d, a, b)
    own, other = (chain.solve[e].record("solution") for e in ("native", "astromatic"))
    assert (own.mag_system, own.mag_band, own.reference_name) == (
        other.mag_system,
        other.mag_band,
        other.reference_name,
    )
    assert other.reference_mas < 15 > other.internal_mas
    for a, b in zip(own.images, other.images, strict=True):
        assert b.zero_point_mag == pytest.approx(a.zero_point_mag, abs=0.003)
        assert b.flux_scale == pytest.approx(a.flux_scale, rel=0.003)
        assert b.n_reference > 0.8 * a.n_reference
        assert b.pointing_offset_arcsec == pytest.approx(a.pointing_offset_arcsec, abs=0.2)
        assert b.rotation_deg == pytest.approx(a.rotation_deg, abs=0.01)
        for p, q in zip(a.detectors, b.detectors, strict=True):
            assert q.pixel_scale_arcsec == pytest.approx(p.pixel_scale_arcsec, rel=1e-3)


def test_stacks_agree_pixel_by_pixel(chain):
    """The same frame, the same flux of stars within 1 %, the same weight, no stray scale of a header."""
    data = {}
    for e, job in chain.stack.items():
        with open_mef(job.product("stack", MADE)) as image, open_mef(job.product("weight", MADE)) as weight:
            data[e] = (image.read_pixels(image.images[0]), weight.read_pixels(weight.images[0]), image.images[0].header)
    (a, wa, ha), (b, wb, hb) = data["native"], data["astromatic"]
    assert a.shape == b.shape
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2", "PC1_1", "MAGZEROP", "GAIN", "NCOMBINE", "EXPTIME"):
        assert hb[key] == pytest.approx(ha[key], rel=5e-3 if key == "GAIN" else 1e-12), key
    both = (wa > 0) & (wb > 0)
    assert both.sum() > 0.97 * max((wa > 0).sum(), (wb > 0).sum())
    assert np.median(wb[both] / wa[both]) == pytest.approx(1.0, abs=0.03)
    noise = np.median(wa[both]) ** -0.5
    assert abs(np.median((b - a)[both])) < 0.1 * noise
    table = read_ldac(chain.catalogue["native"].product("catalogue", MADE))[0].table
    table = table[(table["SNR_WIN"] > 60) & (table["FLAGS"] == 0)]
    ratios = []
    for row in table:
        x, y = round(row["XWIN_IMAGE"] - 1), round(row["YWIN_IMAGE"] - 1)
        box = np.s_[y - 6 : y + 7, x - 6 : x + 7]
        if both[box].all() and both[box].size == 169:
            ratios.append(b[box].sum() / a[box].sum())
    assert len(ratios) >= 8
    assert np.median(ratios) == pytest.approx(1.0, abs=0.004)
    assert np.percentile(np.abs(np.array(ratios) - 1), 70) < 0.01
    own, other = (chain.stack[e].record("stack") for e in ("native", "astromatic"))
    assert (own.n_inputs, other.n_inputs) == (3, 3)
    assert sum(c.weight_fraction for c in other.contributions) == pytest.approx(1.0)
    for p, q in zip(own.contributions, other.contributions, strict=True):
        assert q.weight_fraction == pytest.approx(p.weight_fraction, rel=0.03)
        assert 0 <= q.clipped_fraction < 0.01


def test_catalogues_of_a_stack_agree(chain):
    """The same columns, sources, magnitudes and sky positions."""
    a, b = (read_ldac(chain.catalogue[e].product("catalogue", MADE))[0] for e in ("native", "astromatic"))
    assert (a.table.dtype, a.columns) == (b.table.dtype, b.columns)
    first, second = _matched(a.table, b.table)
    assert len(first) > 0.9 * max(len(a.table), len(b.table))
    good = (first["SNR_WIN"] > 40) & (first["FLAGS"] == 0) & (second["FLAGS"] == 0)
    assert good.sum() > 10
    assert np.median(np.abs(second["MAG_AUTO"] - first["MAG_AUTO"])[good]) < 0.01
    assert np.median(np.abs(second["MAG_APER"] - first["MAG_APER"])[good], axis=0).max() < 0.01
    assert np.median(np.abs(second["ALPHAWIN_J2000"] - first["ALPHAWIN_J2000"])[good]) * 3.6e6 < 3.0
    assert chain.catalogue["astromatic"].record("catalogue").n_sources == len(b.table)


def _other_reference(chain, name, east_deg, shuffle_deg):
    """A reference catalogue of the same stars moved, each by itself or all together."""
    right, rng = read_reference(chain.truth.reference_path), np.random.default_rng(3)
    n = len(right)
    moved = replace(
        right,
        ra_deg=(right.ra_deg + east_deg + rng.uniform(-shuffle_deg, shuffle_deg, n)) % 360.0,
        dec_deg=right.dec_deg + rng.uniform(-shuffle_deg, shuffle_deg, n),
    )
    return write_reference(chain.folder / name, moved)


def test_a_wrong_reference_fails_with_that_cause_in_both_engines(chain):
    """SCAMP itself ends with 0 on shuffled stars, and waits for ever on stars elsewhere."""
    wrong = _other_reference(chain, "wrong.fits", 0.0, 0.02)
    far = _other_reference(chain, "far.fits", 20.0, 0.0)
    for engine, reference in (("native", wrong), ("astromatic", wrong), ("astromatic", far)):
        given = [g for g in chain.catalogues("native", reference) if g[1] in (None, "image:1")]
        job = chain.job(f"w-{engine}-{reference.stem}", "astrometry", engine, given)
        assert job.code == 20, job.log[-2000:]
        assert job.result.failure.kind == "data"
        assert job.result.failure.text.startswith("reference catalogue does not match (spicasim: n")
        assert {o.item: (o.outcome, o.reason.code) for o in job.result.outcomes} == {
            "image:1": (Outcome.LEFT_OUT, "no_match")
        }
        assert not job.result.products
        assert not job.result.records


def test_one_exposure_that_does_not_match_is_left_out_alone(chain):
    """Sources of another sky in one exposure: that one is left out with the cause, the others are solved."""
    given = chain.catalogues("native", chain.truth.reference_path)
    rng = np.random.default_rng(4)
    strange = chain.folder / "strange.ldac"
    scrambled = []
    for one in read_ldac(next(p for r, i, p in given if (r, i) == ("catalogue", "image:2"))):
        table = one.table.copy()
        table["XWIN_IMAGE"], table["YWIN_IMAGE"] = rng.uniform(5, 335, len(table)), rng.uniform(5, 295, len(table))
        scrambled.append(LdacCatalogue(one.header, table, one.columns))
    write_ldac(strange, scrambled)
    given = [(r, i, strange if (r, i) == ("catalogue", "image:2") else p) for r, i, p in given]
    job = chain.job("strange", "astrometry", "astromatic", given)
    assert job.code == 0, job.log[-2000:]
    outcomes = {o.item: o for o in job.result.outcomes}
    assert outcomes["image:2"].outcome is Outcome.LEFT_OUT
    assert outcomes["image:2"].reason.code == "no_match"
    assert "reference catalogue does not match" in outcomes["image:2"].reason.text
    assert [i.item for i in job.record("solution").images] == ["image:1", "image:3"]
    assert {p.item for p in job.result.products if p.role == "head"} == {"image:1", "image:3"}
    assert job.record("solution").reference_mas < 20


def test_a_missing_and_a_killed_tool_say_so(chain, tmp_path):
    """Not installed: exit 75 and what to install; killed from outside: exit 75, to be tried again."""
    given = chain.catalogues("native", chain.truth.reference_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    job = chain.job("missing", "astrometry", "astromatic", given, path=str(empty))
    assert (job.code, job.result.failure.kind) == (75, "transient")
    assert job.result.failure.text == (
        "scamp is not installed on this node; apt-get install scamp or use the native engine"
    )
    fake = tmp_path / "bin" / "scamp"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    fake.chmod(0o755)
    job = chain.job("killed", "astrometry", "astromatic", given, path=f"{fake.parent}:/usr/bin:/bin")
    assert (job.code, job.result.failure.kind) == (75, "transient")
    assert "scamp on 3 exposures was ended by signal 9" in job.result.failure.text


def test_an_extraction_that_finds_nothing_leaves_that_exposure_out(chain, tmp_path):
    """A tool that ends with 0 and gives an empty catalogue: registered, failed, left out; no weight stays behind."""
    extractor = tmp_path / "bin" / "source-extractor"
    extractor.parent.mkdir()
    real = "/usr/bin/source-extractor"
    extractor.write_text(f'#!/bin/sh\nexec {real} "$@" -DETECT_THRESH 1e9 -ANALYSIS_THRESH 1e9\n')
    extractor.chmod(0o755)
    given = [("exposure", "file:1", chain.exposures[0])]
    job = chain.job("nothing", "assess", "astromatic", given, path=f"{extractor.parent}:/usr/bin:/bin")
    assert job.code == 20
    (outcome,) = job.result.outcomes
    assert (outcome.outcome, outcome.reason.code) == (Outcome.LEFT_OUT, "extraction")
    assert "found no source on detector CCD00" in outcome.reason.text
    assert json.loads((job.attempt / "result.json").read_text())["failure"]["text"].startswith("0 of 1 inputs")

"""Raw frames by real processes: two amplifiers, overscan, a map beside each, from incoming to a true stack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlalchemy import select

from spica.db.tables.file import FileRow
from spica.db.tables.product import ProductRow
from spica.files.checksum import sha256_file
from spica.files.manifest import read_manifest
from spica.scheduling.truth import compare_stack
from spica.steps.simulate import SurveyParameters, SurveyTruth, simulate_survey

pytestmark = pytest.mark.walk

SIDE, STRIP = 320, 20
GAINS, LEVELS = (1.2, 1.8), (900.0, 1500.0)
HOLE = (slice(60, 70), slice(200, 212))
PROFILE = """
name = "rawsim"
telescope = "Simulated 1 m"
title = "two read-outs a detector, not processed"
pixel_scale_arcsec = 0.3
dq_bits = 2

[recognise]
all = [{ keyword = "INSTRUME", equals = "RAWSIM" }]

[observatory]
longitude.value = -155.4681
latitude.value = 19.8252

[facts]
object.keywords = ["OBJECT"]
exptime = { keywords = ["EXPTIME"], unit = "s" }
filter.keywords = ["FILTER"]
ra = { keywords = ["RA"], unit = "deg" }
dec = { keywords = ["DEC"], unit = "deg" }
airmass.keywords = ["AIRMASS"]
run.keywords = ["RUNID"]

[time]
sources = [{ form = "mjd", keywords = ["MJD-OBS"] }]

[detectors]
name = { keywords = ["EXTNAME"], where = "hdu" }
saturation.keywords = ["SATURATE"]

[[detectors.readouts]]
data_section = { keywords = ["DSECA"], where = "hdu" }
overscan_section = { keywords = ["BSECA"], where = "hdu" }
gain = { keywords = ["GAINA"], where = "hdu" }

[[detectors.readouts]]
data_section = { keywords = ["DSECB"], where = "hdu" }
overscan_section = { keywords = ["BSECB"], where = "hdu" }
gain = { keywords = ["GAINB"], where = "hdu" }

[[companions]]
kind = "dq"
image = "^([^.]+)[.]fits$"
file = "\\\\1.flags.fits"
"""


def _raw_frame(source: Path, target: Path, rng: np.random.Generator) -> None:
    """Turn a simulated exposure into what two amplifiers read: gains, levels that drift, overscan at both sides."""
    half = SIDE // 2
    with fits.open(source) as sky:
        for hdu in sky:
            for keyword in ("CHECKSUM", "DATASUM", "DETSEC", "DATASEC", "GAIN", "RDNOISE"):
                hdu.header.remove(keyword, ignore_missing=True)
        sky[0].header["INSTRUME"] = "RAWSIM"
        units = [fits.PrimaryHDU(header=sky[0].header)]
        for hdu in sky[1:]:
            light = hdu.data.astype(float)
            parts = []
            for a, columns in enumerate((slice(0, half), slice(half, SIDE))):
                level = (LEVELS[a] + 12.0 * np.arange(SIDE) / SIDE)[:, None]
                data = light[:, columns] * np.mean(GAINS) / GAINS[a] + level
                strip = level + rng.normal(0.0, 3.0, (SIDE, STRIP))
                parts += [strip, data] if a == 0 else [data, strip]
            pixels = np.clip(np.rint(np.hstack(parts)), 0, 65535).astype(np.uint16)
            header = hdu.header.copy()
            for keyword in ("BZERO", "BSCALE"):
                header.remove(keyword, ignore_missing=True)
            header["CRPIX1"] += STRIP
            header["SATURATE"] = 60000.0
            header["BSECA"], header["DSECA"] = f"[1:{STRIP},1:{SIDE}]", f"[{STRIP + 1}:{STRIP + half},1:{SIDE}]"
            header["DSECB"] = f"[{STRIP + half + 1}:{STRIP + SIDE},1:{SIDE}]"
            header["BSECB"] = f"[{STRIP + SIDE + 1}:{2 * STRIP + SIDE},1:{SIDE}]"
            header["GAINA"], header["GAINB"] = GAINS
            units.append(fits.ImageHDU(pixels, header))
        fits.HDUList(units).writeto(target)
        flags = np.zeros((SIDE, SIDE), np.int16)
        flags[HOLE] = 2
        flags[0:5] = 1  # a bit that does no harm
        maps = [fits.ImageHDU(flags, name=h.name) for h in sky[1:]]
        fits.HDUList([fits.PrimaryHDU(), *maps]).writeto(target.with_suffix(".flags.fits"))


@dataclass
class Night:
    """A workspace in which raw frames were taken in and stacked, and what the commands said."""

    walk: Any
    truth: SurveyTruth
    ingest: Any
    schedule: Any
    stack: dict[str, Any]
    raw: dict[str, str]


@pytest.fixture(scope="module")
def night(short_place: Path, make_walk: Callable[[Path, SurveyTruth], Any]) -> Iterator[Night]:
    parameters = SurveyParameters(
        n_objects=1, filters=("r",), n_exposures=2, n_x=2, n_y=1, detector_pix=(SIDE, SIDE), stars_per_arcmin2=28.0,
        galaxies_per_arcmin2=4.0, seeing_arcsec=(0.7, 0.9), pointing_error_arcsec=8.0, n_cloudy=0, n_defocused=0,
        n_trailed=0, n_truncated=0, n_missing_keyword=0, seed=17,
    )  # fmt: skip
    truth = simulate_survey(short_place / "raw-sky", parameters, truth_folder=short_place / "raw-truth")
    folder = short_place / "raw"
    walk = make_walk(folder, truth)
    (folder / "instruments" / "rawsim.toml").write_text(PROFILE)
    rng = np.random.default_rng(3)
    for source in sorted((short_place / "raw-sky").glob("*.fits")):
        _raw_frame(source, folder / "incoming" / source.name, rng)
    raw = {p.stem: sha256_file(p) for p in (folder / "incoming").glob("*.fits") if ".flags" not in p.name}
    try:
        walk.spica("reference", "add", truth.reference_path, "--name", "sky")
        ingest = walk.spica("ingest", "--wait", "--set", "quality.plots=false")
        said = walk.spica("schedule", "survey", "--wait", "--json", "--set", "deliver.pdf=false").json
        (stack,) = walk.spica("stacks", "--json").json
        yield Night(walk, truth, ingest, said, stack, raw)
    finally:
        walk.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_maps_go_with_their_frames(night: Night) -> None:
    assert "2 new files" in night.ingest.out
    assert "2 maps go with their images" in night.ingest.out
    images = night.walk.spica("images", "--json").json
    assert sorted(i["name"] for i in images) == sorted(night.raw)
    assert {i["state"] for i in images} <= {"assessed", "calibrated"}
    assert {i["instrument"] for i in images} == {"rawsim"}


def test_the_stack_of_raw_frames_agrees_with_the_truth(night: Night) -> None:
    assert (night.stack["n_inputs"], night.stack["state"]) == (2, "delivered")
    inputs = dict.fromkeys(night.raw, (0.5, 1.0))
    found = compare_stack(
        night.stack["name"], Path(night.stack["catalogue_path"]), night.truth, inputs, night.stack["seeing_arcsec"],
        night.stack["limiting_mag"],
    )  # fmt: skip
    assert found.n_stars > 5
    # A gain that is not made equal would split the stars of the two amplifiers by 0.4 mag.
    assert abs(found.zero_point_offset_mag) < 0.03
    assert found.mag_rms < 0.05
    assert found.position_rms_mas < 60


def test_stacks_read_the_detrended_pixels_and_manifests_name_the_raw_ones(night: Night) -> None:
    query = select(ProductRow.role, FileRow.sha256).join(FileRow, FileRow.id == ProductRow.file_id)
    rows = night.walk.rows(query.where(ProductRow.role == "detrended"))
    detrended = {sha256 for _, sha256 in rows}
    assert len(detrended) == 2
    jobs = {j["kind"]: j for j in night.walk.spica("jobs", "--json").json}
    attempt = Path(jobs["stack"]["log"]).parent
    inputs = json.loads((attempt / "inputs.json").read_text())["inputs"]
    assert {i["file"]["sha256"] for i in inputs if i["role"] == "exposure"} == detrended
    delivered = Path(night.stack["delivered_path"])
    (manifest,) = delivered.glob("*.json")
    assert {i.sha256 for i in read_manifest(manifest).inputs} == set(night.raw.values())
    said = night.walk.spica("reproduce", manifest)
    assert "is at hand" in said.out


def test_flagged_pixels_weigh_nothing(night: Night) -> None:
    query = select(ProductRow.role, FileRow.sha256).join(FileRow, FileRow.id == ProductRow.file_id)
    wanted = {sha256 for _, sha256 in night.walk.rows(query.where(ProductRow.role == "weight"))}
    weights = [p for p in (night.walk.folder / "data").rglob("*.fz") if sha256_file(p) in wanted]
    assert len(weights) == 2
    for path in weights:
        with fits.open(path) as hdus:
            for hdu in hdus[1:]:
                assert (hdu.data[HOLE] == 0).all()
                assert (hdu.data[0:5] > 0).mean() > 0.9

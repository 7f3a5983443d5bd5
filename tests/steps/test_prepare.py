"""Raw pixels become sky images: laws on simulated raw frames, truth on real ones, maps and masters put to use."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from spica.files.checksum import sha256_file
from spica.files.jobfolder import read_result, write_inputs, write_job
from spica.files.ldac import read_ldac
from spica.files.mef import open_mef
from spica.instruments.registry import load_instruments
from spica.instruments.translate import translate
from spica.model.calibration import MasterKind
from spica.model.job import FileRef, Input, Inputs, Request, ResolvedInput
from spica.model.recipe import read_recipe
from spica.model.record import canonical, to_json
from spica.scheduling.script import render_script
from spica.steps.facts import FactsSheet, make_sheet, read_sheet
from spica.steps.pixels import open_exposure, open_weight
from spica.steps.prepare import assemble_detector, read_master, read_raw
from spica.steps.simulate import SurveyParameters, simulate_survey

SIDE, STRIP, EXPTIME_S = 320, 24, 90.0
GAINS, MEAN_GAIN, LEVELS = (1.3, 1.7), 1.5, (1000.0, 1400.0)
READ_NOISE_ADU = 3.0

COMMON = """
telescope = "raw 1 m"
title = "raw frames of a simulated camera"
pixel_scale_arcsec = 0.3
priority = 50
[observatory]
longitude.value = -155.4681
latitude.value = 19.8252
[facts]
object.keywords = ["OBJECT"]
exptime = { keywords = ["EXPTIME"], unit = "s" }
filter.keywords = ["FILTER"]
ra = { keywords = ["RA"], unit = "deg" }
dec = { keywords = ["DEC"], unit = "deg" }
[time]
sources = [{ form = "mjd", keywords = ["MJD-OBS"] }]
"""
PROFILES = {
    "ampsim": 'name = "ampsim"'
    + COMMON
    + """
[recognise]
all = [{ keyword = "INSTRUME", equals = "AMPSIM" }]
[detectors]
amplifiers = "assemble"
group = { keywords = ["CCDNAME"], where = "hdu" }
gain = { keywords = ["GAIN"], where = "hdu" }
saturation.keywords = ["SATURATE"]
data_section = { keywords = ["DATASEC"], where = "hdu" }
overscan_section = { keywords = ["BIASSEC"], where = "hdu" }
target_section = { keywords = ["DETSEC"], where = "hdu" }
""",
    "readsim": 'name = "readsim"'
    + COMMON
    + """
[recognise]
all = [{ keyword = "INSTRUME", equals = "READSIM" }]
[detectors]
name = { keywords = ["EXTNAME"], where = "hdu" }
saturation.keywords = ["SATURATE"]
planes = "sum"
[[detectors.readouts]]
data_section = { keywords = ["DSECA"], where = "hdu" }
overscan_section = { keywords = ["BSECA"], where = "hdu" }
gain = { keywords = ["GAINA"], where = "hdu" }
read_noise = { keywords = ["RDNA"], where = "hdu" }
[[detectors.readouts]]
data_section = { keywords = ["DSECB"], where = "hdu" }
overscan_section = { keywords = ["BSECB"], where = "hdu" }
gain = { keywords = ["GAINB"], where = "hdu" }
read_noise = { keywords = ["RDNB"], where = "hdu" }
""",
}


@dataclass
class Camera:
    """One simulated exposure, and what a raw camera would have made of it."""

    folder: Path
    sky: Path
    truth: list[np.ndarray]
    flat: list[np.ndarray]
    dark: list[np.ndarray]
    bias: list[np.ndarray]
    rng: np.random.Generator

    def counts(self, k: int, detrend: bool) -> np.ndarray:
        """Return what falls on detector k in ADU of its mean gain, before the amplifiers."""
        if not detrend:
            return self.truth[k]
        return self.truth[k] * self.flat[k] + EXPTIME_S * self.dark[k]

    def halves(self, k: int, detrend: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return data and overscan of the left and right amplifier, in the order of columns on the chip."""
        out = []
        for a, columns in enumerate((slice(0, SIDE // 2), slice(SIDE // 2, SIDE))):
            drift = LEVELS[a] + 20.0 * np.sin(np.arange(SIDE) / 200.0)
            data = self.counts(k, detrend)[:, columns] * (MEAN_GAIN / GAINS[a]) + drift[:, None]
            if detrend:
                data = data + self.bias[k][:, columns]
            strip = drift[:, None] + self.rng.normal(0.0, READ_NOISE_ADU, (SIDE, STRIP))
            out.append((np.clip(np.rint(data), 0, 65535), np.clip(np.rint(strip), 0, 65535)))
        return out

    def write_amplifiers(self, path: Path, detrend: bool = False) -> Path:
        """Write amplifiers as extensions; the right one is read from the right, its overscan behind it."""
        with fits.open(self.sky) as sky:
            units = [fits.PrimaryHDU(header=_renamed(sky[0].header, "AMPSIM"))]
            for k, hdu in enumerate(sky[1:]):
                for a, (data, strip) in enumerate(self.halves(k, detrend)):
                    pixels = np.hstack([data if a == 0 else data[:, ::-1], strip])
                    unit = fits.ImageHDU(pixels.astype(np.uint16), _bare(hdu.header) if a == 0 else None)
                    half = SIDE // 2
                    unit.header["EXTNAME"] = f"AMP{k}{a}"
                    unit.header["CCDNAME"] = f"CCD{k:02d}"
                    unit.header["GAIN"] = GAINS[a]
                    unit.header["SATURATE"] = 60000.0
                    unit.header["DATASEC"] = f"[1:{half},1:{SIDE}]"
                    unit.header["BIASSEC"] = f"[{half + 1}:{half + STRIP},1:{SIDE}]"
                    unit.header["DETSEC"] = f"[1:{half},1:{SIDE}]" if a == 0 else f"[{SIDE}:{half + 1},1:{SIDE}]"
                    units.append(unit)
            fits.HDUList(units).writeto(path)
        return path

    def raw_unit(self, k: int, detrend: bool = False) -> np.ndarray:
        """Return one unit as it is read through both amplifiers: overscan, data, data, overscan."""
        (left, left_strip), (right, right_strip) = self.halves(k, detrend)
        return np.hstack([left_strip, left, right, right_strip])

    def write_readouts(self, path: Path, detrend: bool = False, planes: int = 0) -> Path:
        """Write one unit a detector with both amplifiers in it; with `planes` a cube of equal parts of the light."""
        with fits.open(self.sky) as sky:
            units = [fits.PrimaryHDU(header=_renamed(sky[0].header, "READSIM"))]
            for k, hdu in enumerate(sky[1:]):
                pixels = self.raw_unit(k, detrend)
                if planes:
                    pixels = np.stack([pixels] * planes)
                unit = fits.ImageHDU(pixels.astype(np.uint16), _bare(hdu.header))
                half, shift = SIDE // 2, STRIP
                unit.header["EXTNAME"] = f"CCD{k:02d}"
                unit.header["CRPIX1"] += shift
                unit.header["SATURATE"] = 60000.0
                for letter, a, first in (("A", 0, shift), ("B", 1, shift + half)):
                    strip = 0 if a == 0 else shift + SIDE
                    unit.header[f"DSEC{letter}"] = f"[{first + 1}:{first + half},1:{SIDE}]"
                    unit.header[f"BSEC{letter}"] = f"[{strip + 1}:{strip + STRIP},1:{SIDE}]"
                    unit.header[f"GAIN{letter}"], unit.header[f"RDN{letter}"] = GAINS[a], 4.5
                units.append(unit)
            fits.HDUList(units).writeto(path)
        return path

    def write_master(self, path: Path, images: list[np.ndarray], names: bool = True, **cards: Any) -> Path:
        """Write a master of one extension a detector."""
        units = [fits.PrimaryHDU()]
        for k, image in enumerate(images):
            unit = fits.ImageHDU(image.astype(np.float32), name=f"CCD{k:02d}" if names else "")
            unit.header.update(cards)
            units.append(unit)
        fits.HDUList(units).writeto(path)
        return path


def _renamed(header: fits.Header, camera: str) -> fits.Header:
    header = _bare(header)
    header["INSTRUME"] = camera
    return header


def _bare(header: fits.Header) -> fits.Header:
    header = header.copy()
    for keyword in ("CHECKSUM", "DATASUM", "BZERO", "BSCALE", "GAIN", "SATURATE", "DETSEC", "DATASEC", "RDNOISE"):
        header.remove(keyword, ignore_missing=True)
    return header


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Camera:
    folder = tmp_path_factory.mktemp("rawsim")
    parameters = SurveyParameters(
        n_objects=1, filters=("r",), n_exposures=1, n_x=2, n_y=1, detector_pix=(SIDE, SIDE), stars_per_arcmin2=22.0,
        galaxies_per_arcmin2=3.0, seeing_arcsec=(0.8, 0.8), n_cloudy=0, n_defocused=0, n_trailed=0, n_truncated=0,
        n_missing_keyword=0, seed=21,
    )  # fmt: skip
    simulate_survey(folder / "sky", parameters, truth_folder=folder / "truth")
    (sky,) = sorted((folder / "sky").glob("*.fits"))
    with fits.open(sky) as hdus:
        assert hdus[0].header["EXPTIME"] == EXPTIME_S
        truth = [h.data.astype(float) for h in hdus[1:]]
    rng = np.random.default_rng(5)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    flat = [(1.0 - 0.25 * (x**2 + y**2)) * rng.normal(1.0, 0.01, (SIDE, SIDE)) for _ in truth]
    flat[1] = 0.9 * flat[1]
    middle = np.median([np.median(f) for f in flat])
    dark = [rng.uniform(0.3, 0.5, (SIDE, SIDE)) for _ in truth]
    bias = [8.0 * np.sin(x * 9 + k) for k in range(len(truth))]
    return Camera(folder, sky, truth, [f / middle for f in flat], dark, bias, rng)


def profiles() -> dict[str, Any]:
    return {"profiles": {f"{name}.toml": text for name, text in PROFILES.items()}}


def sheet_of(path: Path, folder: Path | None = None) -> FactsSheet:
    """Return the facts sheet of a file by the shipped profiles and those of a folder."""
    registry = load_instruments(folder)
    with open_mef(path) as mef:
        instrument = registry.recognise(mef.headers, path.name)
        return make_sheet("file:1", path.stem, translate(instrument, mef.headers, path.name), instrument)


def read_all(path: Path, sheet: FactsSheet) -> list[np.ndarray]:
    with open_exposure(path, sheet) as detectors:
        return [d.whole() for d in detectors]


def weights_of(path: Path) -> list[np.ndarray]:
    with open_weight(path) as maps:
        return [m.whole() for m in maps]


# Laws on simulated raw frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["amplifiers", "readouts"])
def test_a_raw_exposure_comes_back_as_it_fell_on_the_chip(camera: Any, step_bench: Any, layout: str) -> None:
    path = getattr(camera, f"write_{layout}")(camera.folder / f"{layout}.fits")
    ran = step_bench.run("assess", [("exposure", "file:1", path)], facts=profiles())
    assert ran.code == 0, ran.result.failure
    sheet = read_sheet(ran.path("facts"))
    assert [(d.name, d.hdu, d.is_raw, d.data) for d in sheet.detectors] == [
        ("CCD00", 1, False, None), ("CCD01", 2, False, None)]  # fmt: skip
    made = read_all(ran.path("detrended"), sheet)
    for image, truth in zip(made, camera.truth, strict=True):
        # Rounding of the converter times the gain ratio, and the level of a line from 24 pixels of noise 3.
        noise = np.hypot(0.29 * 1.14, READ_NOISE_ADU / np.sqrt(STRIP) * 1.14)
        fine = truth < 40000
        assert np.std((image - truth)[fine]) < 1.15 * noise
        assert abs(np.mean((image - truth)[fine])) < 0.1
    for d in sheet.detectors:
        assert d.gain_e_per_adu == pytest.approx(MEAN_GAIN)
        expected = 4.5 if layout == "readouts" else READ_NOISE_ADU * MEAN_GAIN
        assert d.read_noise_e == pytest.approx(expected, rel=0.05)
        lowest = min((60000 - level) * g / MEAN_GAIN for level, g in zip(LEVELS, GAINS, strict=True))
        assert d.saturation_adu == pytest.approx(lowest, rel=0.001)
    record = ran.record("quality")["measures"]
    assert record["n_stars"] > 10
    assert record["background_adu"] == pytest.approx(np.median(camera.truth[0]), rel=0.03)


def test_the_file_is_whole_fits_that_says_what_was_done(camera: Any, step_bench: Any) -> None:
    path = camera.write_amplifiers(camera.folder / "said.fits")
    ran = step_bench.run("assess", [("exposure", "file:1", path)], facts=profiles())
    with fits.open(ran.path("detrended"), checksum=True) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "CCD00", "CCD01"]
        assert [h.verify_checksum() for h in hdus] == [1, 1, 1]
        assert hdus[0].header["RAWFILE"] == "said.fits"
        assert len(hdus[0].header["RAWSHA"]) == 64
        header = hdus[1].header
        assert hdus[1].data.dtype == np.dtype(">f4")
        assert (header["OVSLEV1"], header["OVSLEV2"]) == pytest.approx(LEVELS, abs=20)
        assert (header["AMPGAI1"], header["AMPGAI2"]) == GAINS
        assert "2 amplifiers assembled" in str(header["HISTORY"])
        assert header["CTYPE1"].startswith("RA---")
    kept = ran.record("exposure")
    assert [d["gain_e_per_adu"] for d in kept["detectors"]] == [MEAN_GAIN, MEAN_GAIN]


def _masters(camera: Any, folder: Path, **how: Any) -> list[tuple[str, str, Path]]:
    folder.mkdir()
    masters = {
        "bias": camera.write_master(folder / "bias.fits", camera.bias, **how),
        "dark": camera.write_master(folder / "dark.fits", [d * 300 for d in camera.dark], EXPTIME=300.0, **how),
        "flat": camera.write_master(folder / "flat.fits", [f * 21000 for f in camera.flat], **how),
    }
    bad = [np.zeros((SIDE, SIDE)) for _ in camera.truth]
    bad[0][40:60, 100] = 1
    masters["bad_pixels"] = camera.write_master(folder / "bad.fits", bad, **how)
    return [(kind, "file:1", path) for kind, path in masters.items()]


def test_masters_give_back_the_light_that_fell(camera: Any, step_bench: Any) -> None:
    path = camera.write_readouts(camera.folder / "dirty.fits", detrend=True)
    masters = _masters(camera, camera.folder / "masters", names=False)
    # The bias pattern stands in raw ADU of each amplifier, its master at the mean gain.
    half = SIDE // 2
    scaled = [np.hstack([b[:, :half] * GAINS[0], b[:, half:] * GAINS[1]]) / MEAN_GAIN for b in camera.bias]
    masters[0] = ("bias", "file:1", camera.write_master(camera.folder / "bias.fits", scaled))
    ran = step_bench.run("assess", [("exposure", "file:1", path), *masters], "quality.detrend=true", facts=profiles())
    assert ran.code == 0, ran.result.failure
    assert ran.whole()["file:1"].outcome.value == "used"
    sheet = read_sheet(ran.path("facts"))
    made = read_all(ran.path("detrended"), sheet)
    for k, (image, truth) in enumerate(zip(made, camera.truth, strict=True)):
        fine = (truth < 40000) & np.isfinite(image)
        noise = np.hypot(0.29, READ_NOISE_ADU / np.sqrt(STRIP)) * 1.14 / camera.flat[k].min()
        scale = np.median(image[fine] / truth[fine])
        # The level of a flat that comes in counts is the median of some of its rows.
        assert scale == pytest.approx(1.0, abs=0.01)
        assert np.std((image / scale - truth)[fine]) < noise
        assert abs(np.mean((image / scale - truth)[fine])) < 0.3
    hidden = np.isnan(made[0])
    assert hidden[40:60, 100].all()
    assert hidden.sum() == 20
    assert (weights_of(ran.path("weight"))[0][hidden] == 0).all()
    uses = {r["kind"]: r for r in ran.result.records if r["type"] == "calibration_use"}
    assert {k: r["corrected"] for k, r in uses.items()} == dict.fromkeys(("bias", "dark", "flat", "bad_pixels"), True)
    with fits.open(ran.path("detrended")) as hdus:
        assert uses["flat"]["sha256"][:8] in hdus[1].header["FLATMAST"]
        assert "flat.fits" in hdus[1].header["FLATMAST"]


def test_without_detrending_flat_and_bad_pixels_only_weigh(camera: Any, step_bench: Any) -> None:
    masters = _masters(camera, camera.folder / "weighing")
    masters[2] = ("flat", "file:1", camera.write_master(camera.folder / "steep.fits", [f**4 for f in camera.flat]))
    sky = camera.sky
    ran = step_bench.run("assess", [("exposure", "file:1", sky), *masters])
    plain = step_bench.run("assess", [("exposure", "file:1", sky)])
    assert not [p for p in ran.result.products if p.role == "detrended"], "nothing is to be done to its pixels"
    uses = {r["kind"]: r["corrected"] for r in ran.result.records if r["type"] == "calibration_use"}
    assert uses == {"flat": False, "bad_pixels": False}
    weight, before = weights_of(ran.path("weight"))[0], weights_of(plain.path("weight"))[0]
    assert (weight[40:60, 100] == 0).all()
    assert (before[40:60, 100] > 0).any()
    good = (weight > 0) & (before > 0)
    ratio = weight[good] / before[good]
    expected = camera.flat[0][good] ** 8
    # Both weights are stored in steps of a thousandth of their median.
    assert np.corrcoef(ratio, expected)[0, 1] > 0.99


def test_a_master_of_the_raw_shape_is_cut_and_its_amplifiers_assembled(camera: Any, step_bench: Any) -> None:
    path = camera.write_readouts(camera.folder / "cut.fits", detrend=True)
    half = SIDE // 2
    raw_bias = []
    for b in camera.bias:  # as an observatory gives it: raw ADU, its own levels and overscans
        strips = [np.full((SIDE, STRIP), level) for level in LEVELS]
        raw_bias.append(np.hstack([strips[0], b[:, :half] + LEVELS[0], b[:, half:] + LEVELS[1], strips[1]]))
    bias = camera.write_master(camera.folder / "raw-bias.fits", raw_bias)
    inputs = [("exposure", "file:1", path), ("bias", "file:1", bias)]
    ran = step_bench.run("assess", inputs, "quality.detrend=true", facts=profiles())
    assert ran.whole()["file:1"].outcome.value == "used", ran.whole()
    made = read_all(ran.path("detrended"), read_sheet(ran.path("facts")))
    for k, image in enumerate(made):
        expected = camera.counts(k, True)
        fine = expected < 40000
        assert abs(np.mean((image - expected)[fine])) < 0.1
        assert np.std((image - expected)[fine]) < 1.15 * np.hypot(0.29, READ_NOISE_ADU / np.sqrt(STRIP)) * 1.14


def test_a_master_of_another_shape_leaves_the_exposure_out_and_names_both(camera: Any, step_bench: Any) -> None:
    path = camera.write_readouts(camera.folder / "misfit.fits")
    flat = camera.write_master(camera.folder / "small.fits", [f[:100, :90] for f in camera.flat])
    inputs = [("exposure", "file:1", path), ("exposure", "file:2", camera.sky), ("flat", "file:1", flat)]
    ran = step_bench.run("assess", inputs, "quality.detrend=true", facts=profiles())
    outcomes = ran.whole()
    assert outcomes["file:2"].outcome.value == "used"
    assert outcomes["file:1"].reason.code == "prepare"
    text = outcomes["file:1"].reason.text
    assert "90 x 100" in text
    assert f"{SIDE} x {SIDE}" in text
    assert "\n" not in text
    assert not [p for p in ran.result.products if p.role == "detrended"]


def test_the_planes_of_a_cube_add_up(camera: Any, step_bench: Any) -> None:
    path = camera.write_readouts(camera.folder / "cube.fits", planes=3)
    ran = step_bench.run("assess", [("exposure", "file:1", path)], facts=profiles())
    sheet = read_sheet(ran.path("facts"))
    image = read_all(ran.path("detrended"), sheet)[0]
    fine = camera.truth[0] < 40000
    assert np.median(image[fine] / camera.truth[0][fine]) == pytest.approx(3.0, abs=0.01)
    assert sheet.detectors[0].read_noise_e == pytest.approx(4.5 * np.sqrt(3))
    assert sheet.detectors[0].gain_e_per_adu == pytest.approx(MEAN_GAIN)
    assert sheet.detectors[0].saturation_adu == pytest.approx(3 * (60000 - LEVELS[0]) * GAINS[0] / MEAN_GAIN, rel=1e-3)


def test_saturated_pixels_stay_saturated_after_the_flat(camera: Any, step_bench: Any) -> None:
    full = camera.folder / "full.fits"
    with fits.open(camera.write_readouts(camera.folder / "unsaturated.fits")) as hdus:
        hdus[1].data[100:104, STRIP + 80 : STRIP + 84] = 60000
        hdus.writeto(full)
    flat = camera.write_master(camera.folder / "bright.fits", [np.full((SIDE, SIDE), f) for f in (2.0, 1.0)])
    inputs = [("exposure", "file:1", full), ("flat", "file:1", flat)]
    ran = step_bench.run("assess", inputs, "quality.detrend=true", facts=profiles())
    sheet = read_sheet(ran.path("facts"))
    image = read_all(ran.path("detrended"), sheet)[0]
    assert (image[100:104, 80:84] >= sheet.detectors[0].saturation_adu - 0.01).all()
    assert ran.record("quality")["detectors"][0]["saturated_fraction"] > 0


def test_frames_and_masters_read_for_other_masters_are_scaled_alike(camera: Any, tmp_path: Path) -> None:
    path = camera.write_readouts(tmp_path / "frame.fits")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "readsim.toml").write_text(PROFILES["readsim"])
    sheet = sheet_of(path, tmp_path / "p")
    pixels = read_raw(path, sheet, 1)
    assert pixels.shape == (SIDE, SIDE)
    assert np.median(pixels - camera.truth[1]) == pytest.approx(0.0, abs=0.2)
    dark = camera.write_master(tmp_path / "d.fits", [d * 60 for d in camera.dark], EXPTIME=60.0)
    np.testing.assert_allclose(read_master(dark, MasterKind.DARK, sheet.detectors[1]), camera.dark[1], rtol=1e-6)
    flat = camera.write_master(tmp_path / "f.fits", [f * 7 for f in camera.flat])
    found = read_master(flat, MasterKind.FLAT, sheet.detectors[1])
    assert np.median(found / camera.flat[1]) == pytest.approx(1.0, rel=0.01)


def test_processed_images_stay_as_they_are(camera: Any, step_bench: Any) -> None:
    ran = step_bench.run("assess", [("exposure", "file:1", camera.sky)])
    assert {p.role for p in ran.result.products} == {
        "headers", "facts", "weight", "catalogue", "preview", "mosaic", "plot"}  # fmt: skip


def test_fringes_are_measured_and_taken_out(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    pattern = [np.sin((x + 2 * y) / 9.0 + k) for k in range(2)]
    fringed = tmp_path / "fringed.fits"
    with fits.open(camera.sky) as hdus:
        for k, hdu in enumerate(hdus[1:]):
            hdu.data = (hdu.data + 40.0 * pattern[k]).astype(np.float32)
        for hdu in hdus:
            for keyword in ("CHECKSUM", "DATASUM", "BZERO", "BSCALE"):
                hdu.header.remove(keyword, ignore_missing=True)
        hdus.writeto(fringed)
    master = camera.write_master(tmp_path / "fringe.fits", pattern)
    inputs = [("exposure", "file:1", fringed), ("fringe", "file:1", master)]
    ran = step_bench.run("assess", inputs, "quality.detrend=true")
    (use,) = [r for r in ran.result.records if r["type"] == "calibration_use"]
    assert (use["kind"], use["corrected"]) == ("fringe", True)
    assert use["scale"] == pytest.approx(40.0, rel=0.03)
    for image, truth in zip(read_all(ran.path("detrended"), read_sheet(ran.path("facts"))), camera.truth, strict=True):
        assert np.std(image - truth) < 1.5  # of fringes with an rms of 28
    with fits.open(ran.path("detrended")) as hdus:
        assert hdus[1].header["FRNGSCAL"] == pytest.approx(40.0, rel=0.04)
        assert "fringes subtracted: fringe.fits" in str(hdus[1].header["HISTORY"])


def test_a_master_with_one_extension_an_amplifier_is_assembled(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    path = camera.write_amplifiers(tmp_path / "raw.fits")
    units = [fits.PrimaryHDU()]
    half = SIDE // 2
    for k in range(2):
        for a in range(2):
            flat = camera.flat[k][:, :half] if a == 0 else camera.flat[k][:, half:][:, ::-1]
            units.append(
                fits.ImageHDU(np.hstack([flat, np.zeros((SIDE, STRIP))]).astype(np.float32), name=f"AMP{k}{a}")
            )
    order = [0, 4, 1, 3, 2]  # the units are found by their names
    fits.HDUList([units[i] for i in order]).writeto(tmp_path / "flat.fits")
    inputs = [("exposure", "file:1", path), ("flat", "file:1", tmp_path / "flat.fits")]
    ran = step_bench.run("assess", inputs, "quality.detrend=true", facts=profiles())
    assert ran.whole()["file:1"].outcome.value == "used", ran.whole()
    made = read_all(ran.path("detrended"), read_sheet(ran.path("facts")))
    for image, truth, flat in zip(made, camera.truth, camera.flat, strict=True):
        fine = truth < 40000
        np.testing.assert_allclose(np.median((image * flat / truth)[fine]), 1.0, atol=0.01)
        assert np.std((image * flat / truth)[fine]) < 0.01


def test_amplifiers_that_lie_far_apart_take_no_memory(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "hostile.fits"
    with fits.open(camera.write_amplifiers(tmp_path / "raw.fits")) as hdus:
        far = 10_000_000
        hdus[2].header["DETSEC"] = f"[{far + SIDE // 2 - 1}:{far},{far + 1}:{far + SIDE}]"
        hdus.writeto(path)
    ran = step_bench.run("assess", [("exposure", "file:1", path)], facts=profiles(), min_inputs=0)
    reason = ran.whole()["file:1"].reason
    assert reason.code == "prepare"
    assert "target_section" in reason.text


@pytest.mark.parametrize(("copies", "n", "words"), [(2, 2, "give one"), (1, 1, "no extension for detector CCD00")])
def test_masters_that_do_not_fit_are_told(
    camera: Any, step_bench: Any, tmp_path: Path, copies: int, n: int, words: str
) -> None:
    flats = [camera.write_master(tmp_path / f"f{i}.fits", camera.flat[:n], names=n == 2) for i in range(copies)]
    inputs = [("exposure", "file:1", camera.sky), *(("flat", "file:1", f) for f in flats)]
    ran = step_bench.run("assess", inputs, min_inputs=0)
    assert words in ran.whole()["file:1"].reason.text
    assert [r["state"] for r in ran.result.records if r["type"] == "image_state"] == ["failed"]


# Maps beside an image -------------------------------------------------------------------------------------------------


def test_companion_maps_are_the_weight_and_holes_are_added(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    shape = (SIDE, SIDE)
    ramp = np.linspace(0.5, 2.0, SIDE)[None, :] * np.ones(shape)
    ramp[:, 10:14] = 0.0
    ramp[3, 3] = np.nan
    dq = [np.zeros(shape), np.zeros(shape)]
    dq[1][200:210, 50] = 4
    weight = camera.write_master(tmp_path / "w.fits", [ramp, ramp])
    flags = camera.write_master(tmp_path / "d.fits", dq)
    spoiled = tmp_path / "spoiled.fits"
    with fits.open(camera.sky) as hdus:
        level = float(hdus[1].header.get("SATURATE", 60000))
        hdus[1].data[150:153, 150:153] = min(int(level) + 1000, 65535)
        for hdu in hdus:
            hdu.header.remove("CHECKSUM", ignore_missing=True)
            hdu.header.remove("DATASUM", ignore_missing=True)
        hdus.writeto(spoiled)
    inputs = [("exposure", "file:1", spoiled), ("weight_map", "file:1", weight), ("dq_map", "file:1", flags)]
    ran = step_bench.run("assess", inputs)
    plain = step_bench.run("assess", [("exposure", "file:1", spoiled)])
    assert ran.whole()["file:1"].outcome.value == "used"
    made, own = weights_of(ran.path("weight")), weights_of(plain.path("weight"))
    assert (made[0][:, 10:14] == 0).all()
    assert made[0][3, 3] == 0
    assert (made[1][200:210, 50] == 0).all()
    assert (made[0][150:153, 150:153] == 0).all(), "saturated pixels are masked on top"
    both = (made[0] > 0) & (ramp > 0)
    ratio = made[0][both] / ramp[both]
    assert ratio.std() / ratio.mean() < 0.002
    assert np.median(made[0][made[0] > 0]) == pytest.approx(1.0, abs=0.002)
    # What our own weight masks (cosmic rays, bad columns, saturation) is masked here too, up to the changed noise.
    masked = (own[0] == 0) & (ramp > 0)
    assert masked.sum() > 0
    assert (made[0][masked] == 0).mean() > 0.8


def test_a_map_of_another_shape_leaves_the_exposure_out(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    weight = camera.write_master(tmp_path / "w.fits", [np.ones((50, 60))] * 2)
    ran = step_bench.run("assess", [("exposure", "file:1", camera.sky), ("weight_map", "file:1", weight)], min_inputs=0)
    text = ran.whole()["file:1"].reason.text
    assert "60 x 50" in text
    assert f"{SIDE} x {SIDE}" in text


def test_an_error_map_counts_as_the_inverse_of_its_square(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    error = np.linspace(5.0, 9.0, SIDE)[:, None] * np.ones((SIDE, SIDE))
    path = camera.write_master(tmp_path / "e.fits", [error, error], names=False)
    ran = step_bench.run("assess", [("exposure", "file:1", camera.sky), ("error_map", "file:1", path)])
    made = weights_of(ran.path("weight"))[0]
    ratio = (made * error**2)[made > 0]
    assert ratio.std() / ratio.mean() < 0.002


# Real frames ----------------------------------------------------------------------------------------------------------


def _independent(path: Path) -> np.ndarray:
    """Assemble the Sinistro frame by hand: what its header says of four amplifiers, numpy and astropy alone."""
    out = np.full((1024, 1024), np.nan)
    places = {1: (512, 0, True, False), 2: (0, 0, False, False), 3: (0, 512, False, True), 4: (512, 512, True, True)}
    with fits.open(path) as hdus:
        mean = np.mean([hdus[i].header["GAIN"] for i in places])
        for i, (y, x, up, left) in places.items():
            raw = hdus[i].data.astype(float)
            data = raw[:512, :512] - np.mean(raw[:512, 519:540], axis=1, keepdims=True)
            data = data[::-1] if up else data
            data = data[:, ::-1] if left else data
            out[y : y + 512, x : x + 512] = data * hdus[i].header["GAIN"] / mean
    return out


def test_a_sinistro_frame_is_assembled_as_by_hand(test_data: Path, step_bench: Any) -> None:
    path = test_data / "lco_sinistro_raw_mef" / "mef_raw_test_frame.fits.gz"
    ran = step_bench.run("assess", [("exposure", "file:1", path)], "quality.plots=false")
    assert ran.whole()["file:1"].outcome.value in ("used", "used_with_warning"), ran.whole()
    sheet = read_sheet(ran.path("facts"))
    (image,) = read_all(ran.path("detrended"), sheet)
    by_hand = _independent(path)
    # The clipped mean of 21 overscan pixels of noise 1.2 differs from their plain mean by a fraction of its error.
    difference = image - by_hand
    calm = by_hand < 30000
    assert abs(np.median(difference)) < 0.05
    assert np.percentile(np.abs(difference[calm]), 99) < 0.6
    assert 200 < np.median(image) < 400, "the sky is left, the level of 2550 is gone"
    assert sheet.detectors[0].gain_e_per_adu == pytest.approx(6.295)
    # Rows of sky beside each seam: raw levels differ by up to 60 ADU, what is left is the error of the gains (2 %).
    sky = np.median(image)
    for a, b in ((image[:, 496:512], image[:, 512:528]), (image[496:512], image[512:528])):
        for half in (slice(0, 512), slice(512, 1024)):
            one, other = (np.median(s[half] if s.shape[0] == 1024 else s[:, half]) for s in (a, b))
            assert abs(one - other) < 0.03 * sky
    measures = ran.record("quality")["measures"]
    assert measures["n_stars"] > 100
    assert 1.0 < measures["seeing_arcsec"] < 4.0


def test_stars_cross_the_seams_of_a_sinistro_frame(test_data: Path) -> None:
    path = test_data / "lco_sinistro_raw_mef" / "mef_raw_test_frame.fits.gz"
    with open_mef(path) as mef:
        image = assemble_detector(mef, sheet_of(path).detectors[0]).data
    image = np.clip(image - np.median(image), -30, 2000)

    for picture in (image, image.T):  # a seam between columns 511 and 512, then the one between these rows
        for rows in (slice(0, 512), slice(512, 1024)):
            left, right = picture[rows, 511], picture[rows, 512]
            likeness = {k: np.corrcoef(left, np.roll(right, k))[0, 1] for k in range(-12, 13)}
            # The light of stars goes on across the seam: an amplifier that is turned, moved or swapped breaks it.
            assert max(likeness, key=lambda k: likeness[k]) == 0
            assert likeness[0] > 0.25
            assert max(abs(likeness[k]) for k in (-12, 12)) < 0.5 * likeness[0]


def test_sixteen_amplifiers_of_latiss_find_their_places(test_data: Path, tmp_path: Path) -> None:
    (zero,) = sorted((test_data / "headers" / "latiss").glob("*ZERO_PIXELS.fits.gz"))
    path = tmp_path / "AT_O_20220208_000142-R00S00.fits"
    ny, nx = 4000, 4072
    place = np.arange(ny * nx, dtype=np.int32).reshape(ny, nx)  # each pixel says where it belongs
    with fits.open(zero) as hdus:
        units = [fits.PrimaryHDU(header=hdus[0].header)]
        for hdu in hdus[1:17]:
            x1, x2, y1, y2 = (int(n) for n in hdu.header["DETSEC"].strip("[]").replace(":", ",").split(","))
            part = place[min(y1, y2) - 1 : max(y1, y2), min(x1, x2) - 1 : max(x1, x2)]
            part = part[:: -1 if y1 > y2 else 1, :: -1 if x1 > x2 else 1]
            data = np.zeros((2048, 576), np.int32)
            data[: part.shape[0], 3 : 3 + part.shape[1]] = part  # the sensor has three columns of prescan
            header = fits.Header()
            header["EXTNAME"], header["DETSEC"] = hdu.name, hdu.header["DETSEC"]
            units.append(fits.ImageHDU(data, header))
        fits.HDUList(units).writeto(path)
    sheet = sheet_of(path)
    (detector,) = sheet.detectors
    assert (detector.n_y, detector.n_x, len(detector.amplifiers)) == (ny, nx, 16)
    with open_mef(path) as mef:
        raw = assemble_detector(mef, detector)
    assert [level.overscan_adu for level in raw.levels] == [0.0] * 16
    np.testing.assert_array_equal(raw.data, place.astype(np.float32))


def test_a_raw_hubble_frame_loses_its_overscan(test_data: Path) -> None:
    path = test_data / "hst_acs_hrc_47tuc" / "j8bt05njq_raw.fits.gz"
    (detector,) = sheet_of(path).detectors
    with open_mef(path) as mef:
        raw = assemble_detector(mef, detector)
    with fits.open(path) as hdus:
        pixels = hdus["SCI"].data.astype(float)
    by_hand = pixels[:1024, 19:1043] - np.median(pixels[:1024, 2:19])
    assert raw.data.shape == (1024, 1024)
    calm = by_hand < 60000
    # One level by hand, one a line in the product: they differ by the noise of a line, and of the physical strip used.
    assert np.median((raw.data - by_hand)[calm]) == pytest.approx(0.0, abs=1.5)
    assert np.std((raw.data - by_hand)[calm]) < 1.5
    # The instrument's handbook gives 4.7 electrons.
    assert raw.read_noise_e == pytest.approx(4.7, rel=0.2)


def test_error_and_quality_maps_of_a_hubble_frame_are_used(test_data: Path, step_bench: Any) -> None:
    path = test_data / "hst_acs_hrc_47tuc" / "j8bt06nyq_flt.fits.gz"
    settings = ("quality.plots=false", "quality.cosmics=false", "quality.threshold_sigma=30", "quality.max_stars=20")
    ran = step_bench.run("assess", [("exposure", "file:1", path)], *settings)
    assert ran.whole()["file:1"].outcome.value in ("used", "used_with_warning"), ran.whole()
    assert not [p for p in ran.result.products if p.role == "detrended"]
    sheet = read_sheet(ran.path("facts"))
    assert {m.kind for m in sheet.detectors[0].maps} == {"error", "dq"}
    (weight,) = weights_of(ran.path("weight"))
    with fits.open(path) as hdus:
        error, flags = hdus["ERR"].data.astype(float), hdus["DQ"].data.astype(int)
    hit = (flags & sheet.dq_bits) != 0
    assert hit.sum() > 100
    assert (weight[hit] == 0).all()
    assert (weight[error <= 0] == 0).all()
    used = (weight > 0.05) & (weight < 30)
    ratio = weight[used] * error[used] ** 2
    # Stored in steps of a thousandth of the median weight.
    assert ratio.std() / ratio.mean() < 0.01
    assert used.mean() > 0.5


def test_weight_and_quality_files_beside_decam_images_are_used(test_data: Path, step_bench: Any) -> None:
    image = next((test_data / "decam_cutouts_gaia").glob("testcase9/images/**/c4d_141029_043225_ooi_g_ls9.N26.fits.gz"))
    weight, flags = (image.with_name(image.name.replace("_ooi_", f"_{kind}_")) for kind in ("oow", "ood"))
    inputs = [("exposure", "file:1", image), ("weight_map", "file:1", weight), ("dq_map", "file:1", flags)]
    ran = step_bench.run("assess", inputs, "quality.plots=false")
    assert ran.whole()["file:1"].outcome.value in ("used", "used_with_warning"), ran.whole()
    (made,) = weights_of(ran.path("weight"))
    given, bits = fits.getdata(weight).astype(float), fits.getdata(flags).astype(int)
    unusable = (given <= 0) | (bits != 0)
    assert unusable.any()
    assert (made[unusable] == 0).all()
    used = made > 0
    ratio = made[used] / given[used]
    assert ratio.std() / ratio.mean() < 0.01


def test_source_extractor_reads_the_prepared_pixels(camera: Any, step_bench: Any, tmp_path: Path) -> None:
    path = camera.write_amplifiers(camera.folder / "tool.fits")
    ours = step_bench.run("assess", [("exposure", "file:1", path)], facts=profiles())
    job = tmp_path / "job"
    attempt = job / "attempt-1"
    attempt.mkdir(parents=True)
    given = FileRef(1, sha256_file(path), path.name, path.stat().st_size)
    recipe = read_recipe([], [])
    request = Request(
        "assess",
        "astromatic",
        to_json(recipe),
        recipe.sha256(),
        (Input("exposure", "file:1", given),),
        facts=profiles(),
    )
    write_job(job, render_script("assess", request), canonical(request))
    write_inputs(attempt, Inputs(1, 1, "1", (ResolvedInput("exposure", "file:1", None, given, str(path)),)))
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "NUMBA_CACHE_DIR")}
    environment = kept | {"HOME": str(tmp_path), "SPICA_PYTHON": sys.executable, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        ["/bin/sh", str(job / "run.sh"), str(attempt)], env=environment, capture_output=True, check=False, timeout=100
    )
    result = read_result(attempt)
    assert result is not None
    assert result.done, (result.failure, done.stderr[-2000:])
    paths = {p.role: attempt / p.path for p in result.products}
    assert sha256_file(paths["detrended"]) == sha256_file(ours.path("detrended"))
    for theirs, own in zip(read_ldac(paths["catalogue"]), read_ldac(ours.path("catalogue")), strict=True):
        bright = own.table[own.table["FLUX_AUTO"] > 5000]
        assert len(bright) > 3
        near = [np.hypot(theirs.table["XWIN_IMAGE"] - s["XWIN_IMAGE"], theirs.table["YWIN_IMAGE"] - s["YWIN_IMAGE"])
                for s in bright]  # fmt: skip
        found = np.array([d.min() < 0.5 for d in near])
        assert found.mean() > 0.8
        flux = np.array([theirs.table["FLUX_AUTO"][d.argmin()] for d in near])
        assert np.median((flux / bright["FLUX_AUTO"])[found]) == pytest.approx(1.0, abs=0.03)

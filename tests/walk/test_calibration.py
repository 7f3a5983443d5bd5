"""A night with its calibration frames by real processes: masters are made, exposures corrected and stacked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlalchemy import func, select

from spica.db.tables.calibration import CalibrationRow, CalibrationUseRow
from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.db.tables.product import ProductRow
from spica.files.checksum import sha256_file
from spica.files.manifest import read_manifest
from spica.steps.simulate import SurveyParameters, SurveyTruth, simulate_survey

pytestmark = pytest.mark.walk

SIDE, STRIP = 256, 20
GAINS, MEAN_GAIN, LEVELS = (1.2, 1.8), 1.5, (900.0, 1500.0)
DARK_S, FLAT_S = 120.0, 4.0
PROFILE = """
name = "nightsim"
telescope = "Simulated 1 m"
title = "two read-outs a detector, with calibration frames"
pixel_scale_arcsec = 0.3

[recognise]
all = [{ keyword = "INSTRUME", equals = "NIGHTSIM" }]

[[frames]]
type = "bias"
all = [{ keyword = "OBSTYPE", equals = "BIAS" }]
[[frames]]
type = "dark"
all = [{ keyword = "OBSTYPE", equals = "DARK" }]
[[frames]]
type = "flat"
all = [{ keyword = "OBSTYPE", equals = "FLAT" }]

[observatory]
longitude.value = -155.4681
latitude.value = 19.8252

[facts]
object.keywords = ["OBJECT"]
exptime = { keywords = ["SHUTTIME"], unit = "s" }
filter.keywords = ["BANDNAME"]
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
"""


@dataclass
class Camera:
    """What each of two detectors adds and lets through, in ADU at the mean gain."""

    rng: np.random.Generator
    bias: list[np.ndarray] = field(default_factory=list)
    dark: list[np.ndarray] = field(default_factory=list)
    flat: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
        for k in range(2):
            self.bias.append(10.0 * np.sin(5 * x + k))
            self.dark.append(0.4 + 0.2 * y)
            self.flat.append((1.0 - 0.2 * (x**2 + y**2)) * (1.0, 0.8)[k] * self.rng.normal(1.0, 0.01, (SIDE, SIDE)))

    def write(self, path: Path, header: fits.Header, headers: list[fits.Header], seen: list[np.ndarray]) -> None:
        """Write what two amplifiers read of the detectors, which hold `seen` in ADU less bias and level."""
        half, units = SIDE // 2, [fits.PrimaryHDU(header=header)]
        for k, (own, image) in enumerate(zip(headers, seen, strict=True)):
            parts = []
            for a, columns in enumerate((slice(0, half), slice(half, SIDE))):
                level = LEVELS[a] + self.rng.normal(0.0, 4.0) + (12.0 * np.arange(SIDE) / SIDE)[:, None]
                data = (image + self.bias[k])[:, columns] * MEAN_GAIN / GAINS[a] + level
                strip = level + self.rng.normal(0.0, 3.0, (SIDE, STRIP))
                parts += [strip, data] if a == 0 else [data, strip]
            unit = fits.ImageHDU(np.clip(np.rint(np.hstack(parts)), 0, 65535).astype(np.uint16), own)
            unit.header["EXTNAME"], unit.header["SATURATE"] = f"CCD{k:02d}", 60000.0
            unit.header["BSECA"] = f"[1:{STRIP},1:{SIDE}]"
            unit.header["DSECA"] = f"[{STRIP + 1}:{STRIP + half},1:{SIDE}]"
            unit.header["DSECB"] = f"[{STRIP + half + 1}:{STRIP + SIDE},1:{SIDE}]"
            unit.header["BSECB"] = f"[{STRIP + SIDE + 1}:{2 * STRIP + SIDE},1:{SIDE}]"
            unit.header["GAINA"], unit.header["GAINB"] = GAINS
            units.append(unit)
        fits.HDUList(units).writeto(path)

    def calibrate(self, path: Path, kind: str, time: float, light: float, like: fits.Header) -> None:
        """Write a calibration frame with photon and read noise, of the run and night of `like`."""
        header = fits.Header({"INSTRUME": "NIGHTSIM", "OBSTYPE": kind.upper(), "SHUTTIME": time})
        header.update({"BANDNAME": like["BANDNAME"], "RUNID": like["RUNID"], "MJD-OBS": like["MJD-OBS"] - 0.05})
        seen = []
        for k in range(2):
            counts = self.rng.poisson(MEAN_GAIN * (light * self.flat[k] + time * self.dark[k])) / MEAN_GAIN
            seen.append(counts + self.rng.normal(0.0, 3.0, counts.shape))
        self.write(path, header, [fits.Header(), fits.Header()], seen)

    def expose(self, source: Path, path: Path) -> list[np.ndarray]:
        """Turn a simulated exposure into what this camera reads; return what fell on it."""
        with fits.open(source) as sky:
            for hdu in sky:
                for word in ("CHECKSUM", "DATASUM", "DETSEC", "DATASEC", "GAIN", "RDNOISE", "BZERO", "BSCALE"):
                    hdu.header.remove(word, ignore_missing=True)
            header = sky[0].header.copy()
            header["INSTRUME"], header["OBSTYPE"] = "NIGHTSIM", "OBJECT"
            header["BANDNAME"], header["SHUTTIME"] = header.pop("FILTER"), header.pop("EXPTIME")
            truth, seen, headers = [], [], []
            for k, hdu in enumerate(sky[1:]):
                truth.append(hdu.data.astype(float))
                seen.append(truth[-1] * self.flat[k] + header["SHUTTIME"] * self.dark[k])
                own = hdu.header.copy()
                for word in ("BZERO", "BSCALE"):
                    own.remove(word, ignore_missing=True)
                own["CRPIX1"] += STRIP
                headers.append(own)
        self.write(path, header, headers, seen)
        return truth


@dataclass
class Night:
    """A workspace that took in a night with its calibration frames, and what the commands said on the way.

    No header says the exposure time by a usual name: before the camera has a profile all is rejected.
    """

    walk: Any
    camera: Camera
    truth: dict[str, list[np.ndarray]]
    calibrations: dict[str, str]
    said: dict[str, Any]


@pytest.fixture(scope="module")
def night(short_place: Path, make_walk: Callable[[Path, SurveyTruth], Any]) -> Iterator[Night]:
    parameters = SurveyParameters(
        n_objects=1, filters=("r",), n_exposures=2, n_x=2, n_y=1, detector_pix=(SIDE, SIDE), stars_per_arcmin2=34.0,
        galaxies_per_arcmin2=4.0, seeing_arcsec=(0.7, 0.9), pointing_error_arcsec=6.0, n_cloudy=0, n_defocused=0,
        n_trailed=0, n_truncated=0, n_missing_keyword=0, seed=19,
    )  # fmt: skip
    sky = simulate_survey(short_place / "night-sky", parameters, truth_folder=short_place / "night-truth")
    folder = short_place / "night"
    walk = make_walk(folder, sky)
    incoming, profile = folder / "incoming", folder / "instruments" / "nightsim.toml"
    camera = Camera(np.random.default_rng(4))
    truth, said = {}, {}
    sources = sorted((short_place / "night-sky").glob("*.fits"))
    for source in sources:
        truth[source.stem] = camera.expose(source, incoming / source.name)
    like = fits.getheader(incoming / sources[0].name)
    for i in range(3):
        camera.calibrate(incoming / f"bias{i}.fits", "bias", 0.0, 0.0, like)
        camera.calibrate(incoming / f"dark{i}.fits", "dark", DARK_S, 0.0, like)
        camera.calibrate(incoming / f"flat{i}.fits", "flat", FLAT_S, 14000.0 + 2000.0 * i, like)
    calibrations = {p.stem: sha256_file(p) for p in incoming.glob("*.fits") if p.stem not in truth}
    try:
        walk.spica("reference", "add", sky.reference_path, "--name", "sky")
        plain = ("--set", "quality.plots=false", "--set", "resources.batch=12")
        images = select(ImageRow.name, ImageRow.state, ImageRow.instrument, ImageRow.frame_type, ImageRow.grade_id)
        walk.spica("ingest", "--wait", *plain)
        said["unknown"] = walk.rows(images)
        profile.write_text(PROFILE)
        walk.spica("reassess", "--rejected", "--wait", *plain)
        said["images"] = walk.rows(images)
        said["uncorrected"] = walk.rows(select(CalibrationUseRow.image_id))
        said["make"] = walk.spica("calibration", "make", "--wait", "--json").json
        said["twice"] = walk.spica("calibration", "make")
        said["list"] = walk.spica("calibration", "list", "--json").json
        science = f"name in ({', '.join(repr(name) for name in truth)})"
        walk.spica("reassess", "--rule", science, "--set", "quality.detrend=true", "--wait", *plain)
        wanted = ("--set", "deliver.pdf=false", "--set", "catalogue.make=false")
        said["schedule"] = walk.spica("schedule", "survey", "--wait", "--json", *wanted).json
        (said["stack"],) = walk.spica("stacks", "--json").json
        yield Night(walk, camera, truth, calibrations, said)
    finally:
        walk.close()
        shutil.rmtree(folder, ignore_errors=True)


def _files(night: Night, role: str) -> dict[str, Path]:
    """Return the newest product of a role of each science exposure, by its name."""
    query = (
        select(ImageRow.name, FileRow.sha256)
        .join(ProductRow, ProductRow.image_id == ImageRow.id)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .where(ProductRow.role == role)
        .order_by(ProductRow.attempt_id)
    )
    wanted = dict(night.walk.rows(query))
    places = {sha256_file(p): p for p in (night.walk.folder / "data").rglob("*.fits*") if p.is_file()}
    return {name: places[sha256] for name, sha256 in wanted.items() if name in night.truth}


def test_a_profile_makes_exposures_of_what_was_rejected(night: Night) -> None:
    assert {state.value for _, state, *_ in night.said["unknown"]} == {"rejected"}
    after = {name: (state.value, camera) for name, state, camera, *_ in night.said["images"]}
    assert {after[name] for name in night.truth} == {("assessed", "nightsim")}
    assert len(after) == len(night.said["unknown"])


def test_calibration_frames_are_registered_and_never_chosen(night: Night) -> None:
    frames = {row[0]: row[1:] for row in night.said["images"] if row[0] in night.calibrations}
    assert {name: kind.value for name, (_, _, kind, _) in frames.items()} == {
        name: name.rstrip("012") for name in night.calibrations
    }
    assert {(state.value, camera, grade) for state, camera, _, grade in frames.values()} == {
        ("registered", "nightsim", None)
    }
    query = select(FileRow.kind).where(FileRow.sha256.in_(night.calibrations.values()))
    assert {k.value for (k,) in night.walk.rows(query)} == {"calibration"}
    assert {i["name"] for i in night.said["schedule"]["in"]} == set(night.truth)
    assert night.said["schedule"]["out"] == []


def test_masters_are_made_once_and_listed(night: Night) -> None:
    made = night.said["make"]
    assert [(m["kind"], m["n_frames"]) for m in made["masters"]] == [("bias", 3), ("dark", 3), ("flat", 3)]
    assert (made["failed"], made["small"], len(made["jobs"])) == (0, [], 3)
    assert night.said["twice"].out.count("nothing is done twice") == 3
    listed = {m["kind"]: m for m in night.said["list"]}
    assert len(listed) == len(night.said["list"]) == 4
    assert {m["state"] for m in listed.values()} == {"in use"}
    assert listed["dark"]["exptime_s"] == DARK_S
    assert {k: m["filter"] for k, m in listed.items()} == {"bias": None, "dark": None, "bad_pixels": None, "flat": "r"}
    query = select(CalibrationRow.kind, AttemptRow.number, JobRow.kind).join_from(
        CalibrationRow, AttemptRow, AttemptRow.id == CalibrationRow.attempt_id
    ).join(JobRow, JobRow.id == AttemptRow.job_id)  # fmt: skip
    assert sorted((k.value, n, job) for k, n, job in night.walk.rows(query)) == [
        (k, 1, "master") for k in ("bad_pixels", "bias", "dark", "flat")
    ]


def test_detrended_pixels_are_the_light_that_fell(night: Night) -> None:
    made = _files(night, "detrended")
    assert set(made) == set(night.truth)
    for name, path in made.items():
        with fits.open(path) as hdus:
            images = [h.data.astype(float) for h in hdus[1:]]
            header = hdus[1].header
        assert {"BIASMAST", "DARKMAST", "FLATMAST", "BPIXMAST"} <= set(header)
        scales = []
        for image, truth in zip(images, night.truth[name], strict=True):
            fine = np.isfinite(image) & (truth < 30000)
            assert fine.mean() > 0.97
            scales.append(float(np.median(image[fine] / truth[fine])))
            # The noise of masters of three frames: bias and dark 2 ADU each, the flat 0.5 % of the sky.
            sky = np.median(truth)
            dim = fine & (truth < 1.2 * sky)
            assert np.std((image / scales[-1] - truth)[dim]) < 1.5 * np.hypot(3.0, 0.006 * sky) / 0.6
        # One flat for both detectors: what one lacks in sensitivity is made up, the level is common.
        assert scales[0] == pytest.approx(scales[1], rel=0.003)


def test_who_used_which_master_is_kept(night: Night) -> None:
    assert night.said["uncorrected"] == []
    query = (
        select(ImageRow.name, CalibrationRow.kind, CalibrationUseRow.corrected, FileRow.sha256)
        .join_from(CalibrationUseRow, ImageRow, ImageRow.id == CalibrationUseRow.image_id)
        .join(CalibrationRow, CalibrationRow.id == CalibrationUseRow.calibration_id)
        .join(FileRow, FileRow.id == CalibrationRow.file_id)
    )
    listed = {(m["kind"], True, m["sha256"]) for m in night.said["list"]}
    rows = night.walk.rows(query)
    for name in night.truth:
        assert {(k.value, corrected, sha256) for n, k, corrected, sha256 in rows if n == name} >= listed
    assert {n for n, *_ in rows} == set(night.truth)


def test_the_stack_is_of_detrended_pixels_and_its_manifest_names_the_masters(night: Night) -> None:
    stack = night.said["stack"]
    assert (stack["n_inputs"], stack["state"]) == (2, "delivered")
    with fits.open(next(Path(stack["delivered_path"]).glob("*.fits*"))) as hdus:
        assert any(h.data is not None for h in hdus)
    folder = Path(stack["delivered_path"])
    manifest = read_manifest(folder / "manifest.json")
    assert manifest == read_manifest(folder / "manifest.xml")
    roles = {i.sha256: i.role for i in manifest.inputs}
    assert {s for s, r in roles.items() if r != "exposure"} == {m["sha256"] for m in night.said["list"]}
    for item in manifest.inputs[:2]:
        facts = {f.name: f.value for f in item.facts}
        assert {facts[f"{m['kind']}_corrected"] for m in night.said["list"]} == {
            m["sha256"] for m in night.said["list"]
        }


def test_a_given_flat_weighs_what_is_processed_already(night: Night) -> None:
    walk = night.walk
    ramp = np.linspace(0.5, 1.5, SIDE)[None, :] * np.ones((SIDE, SIDE))
    flat = walk.folder / "user_flat.fits"
    units = [fits.PrimaryHDU(), *(fits.ImageHDU(ramp.astype("f4"), name=f"CCD{k:02d}") for k in range(2))]
    fits.HDUList(units).writeto(flat)
    made = next(m["id"] for m in night.said["list"] if m["kind"] == "flat")
    walk.spica("calibration", "withdraw", made)
    words = ("--kind", "flat", "--instrument", "nightsim", "--filter", "r")
    assert "user_flat.fits is flat" in walk.spica("calibration", "add", flat, *words).out
    name = sorted(night.truth)[0]
    walk.spica("reassess", name, "--wait", "--set", "quality.plots=false")
    query = (
        select(CalibrationRow.kind, CalibrationUseRow.corrected, FileRow.sha256)
        .join_from(CalibrationUseRow, CalibrationRow, CalibrationRow.id == CalibrationUseRow.calibration_id)
        .join(FileRow, FileRow.id == CalibrationRow.file_id)
        .where(CalibrationUseRow.attempt_id == select(func.max(CalibrationUseRow.attempt_id)).scalar_subquery())
    )
    used = {kind.value: (corrected, sha256) for kind, corrected, sha256 in walk.rows(query)}
    assert set(used) == {"flat", "bad_pixels"}
    assert used["flat"] == (False, sha256_file(flat))
    with fits.open(_files(night, "weight")[name]) as hdus:
        weights = [h.data.astype(float) for h in hdus if h.data is not None]
    for weight in weights:
        left, right = (np.median(w[w > 0]) for w in (weight[:, 20:60], weight[:, -60:-20]))
        assert right > 1.5 * left
    with fits.open(_files(night, "detrended")[name]) as hdus:
        image = hdus[1].data.astype(float)
    raw = night.truth[name][0] * night.camera.flat[0] + 90.0 * night.camera.dark[0] + night.camera.bias[0]
    assert abs(np.median(image - raw)) < 2.0, "pixels are read out, no more"

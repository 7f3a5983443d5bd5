"""Masters of simulated raw frames agree with what the frames were made of; frames that do not fit are named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from spica.files.mef import open_mef
from spica.instruments.registry import load_instruments
from spica.instruments.translate import translate
from spica.model.calibration import MasterKind
from spica.steps import master as step
from spica.steps.facts import make_sheet, read_sheet, write_sheet
from spica.steps.prepare import read_master

SHAPE, STRIP = (160, 192), 24
GAINS, MEAN_GAIN, LEVELS = (1.2, 1.8), 1.5, (900.0, 1500.0)
NOISE = 3.0
TIMES = {"bias": 0.0, "dark": 120.0, "flat": 4.0, "object": 90.0}
PROFILE = """
name = "mastersim"
telescope = "raw 1 m"
title = "raw frames of a simulated camera"
pixel_scale_arcsec = 0.3
priority = 50
[recognise]
all = [{ keyword = "INSTRUME", equals = "MASTERSIM" }]
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
exptime = { keywords = ["EXPTIME"], unit = "s" }
filter.keywords = ["FILTER"]
run.keywords = ["RUNID"]
ra = { keywords = ["RA"], unit = "deg" }
dec = { keywords = ["DEC"], unit = "deg" }
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
    """Two detectors of two amplifiers: what each adds and lets through, in ADU at the mean gain."""

    folder: Path
    rng: np.random.Generator
    bias: list[np.ndarray]
    dark: list[np.ndarray]
    flat: list[np.ndarray]
    count: int = 0

    def expose(self, kind: str, light: float | list[np.ndarray], mjd: float = 61290.2, **how: Any) -> Path:
        """Write one raw frame with photon and read noise; `light` in ADU before the flat."""
        self.count += 1
        path = self.folder / how.pop("name", f"{kind}{self.count}.fits")
        n, offset = how.pop("n", 2), how.pop("offset", 0.0)
        time = how.pop("time", TIMES[kind])
        header = fits.Header({"INSTRUME": "MASTERSIM", "OBSTYPE": kind.upper(), "OBJECT": kind, "EXPTIME": time,
                              "FILTER": "r", "RUNID": "26BS01", "MJD-OBS": mjd, "RA": 150.0, "DEC": 2.0,
                              "SATURATE": 60000.0} | how)  # fmt: skip
        units = [fits.PrimaryHDU(header=header)]
        for k in range(n):
            falls = (light[k] if isinstance(light, list) else light) * self.flat[k]
            electrons = MEAN_GAIN * (falls + time * self.dark[k])
            seen = self.rng.poisson(electrons) / MEAN_GAIN + self.bias[k] + offset
            units.append(self._unit(seen, f"CCD{k:02d}"))
        fits.HDUList(units).writeto(path)
        return path

    def _unit(self, seen: np.ndarray, name: str) -> fits.ImageHDU:
        """Read a detector out through both amplifiers, overscan at both sides."""
        ny, nx = seen.shape
        half, parts = nx // 2, []
        for a, columns in enumerate((slice(0, half), slice(half, nx))):
            level = LEVELS[a] + self.rng.normal(0.0, 5.0) + 0.1 * np.arange(ny)[:, None]
            data = seen[:, columns] * (MEAN_GAIN / GAINS[a]) + level
            strip = np.broadcast_to(level, (ny, STRIP))
            both = [p + self.rng.normal(0.0, NOISE, p.shape) for p in (strip, data)]
            parts += both if a == 0 else both[::-1]
        unit = fits.ImageHDU(np.clip(np.rint(np.hstack(parts)), 0, 65535).astype(np.uint16), name=name)
        unit.header["BSECA"], unit.header["DSECA"] = f"[1:{STRIP},1:{ny}]", f"[{STRIP + 1}:{STRIP + half},1:{ny}]"
        unit.header["DSECB"] = f"[{STRIP + half + 1}:{STRIP + nx},1:{ny}]"
        unit.header["BSECB"] = f"[{STRIP + nx + 1}:{2 * STRIP + nx},1:{ny}]"
        unit.header["GAINA"], unit.header["GAINB"] = GAINS
        return unit

    def inputs(self, paths: list[Path]) -> list[tuple[str, str, Path]]:
        """Return frames and their facts sheets as inputs of a job."""
        profiles = self.folder / "profiles"
        profiles.mkdir(exist_ok=True)
        (profiles / "mastersim.toml").write_text(PROFILE)
        registry = load_instruments(profiles)
        rows = []
        for i, path in enumerate(paths, 1):
            with open_mef(path) as mef:
                instrument = registry.recognise(mef.headers, path.name)
                sheet = make_sheet(f"image:{i}", path.stem, translate(instrument, mef.headers, path.name), instrument)
            facts = path.with_suffix(".facts.json")
            write_sheet(facts, sheet)
            rows += [("exposure", f"image:{i}", path), ("facts", f"image:{i}", facts)]
        return rows


def _camera(folder: Path, shape: tuple[int, int], seed: int) -> Camera:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    flat = [(1.0 - 0.2 * (x**2 + y**2)) * rng.normal(1.0, 0.01, shape) for _ in range(2)]
    flat[1] = 0.7 * flat[1]
    dark = [np.full(shape, 0.4) + 0.1 * y for _ in range(2)]
    bias = [10.0 * np.sin(x * 5 + k) for k in range(2)]
    return Camera(folder, rng, bias, dark, flat)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Camera:
    made = _camera(tmp_path_factory.mktemp("mastersim"), SHAPE, 3)
    made.flat[0][40, 50] = made.flat[0][41, 60] = 0.02  # dead
    made.flat[1][100:103, 20] = 0.3
    made.dark[0][70, 80] = made.dark[1][20, 30] = 60.0  # hot
    return made


DEAD = {0: [(40, 50), (41, 60)], 1: [(100, 20), (101, 20), (102, 20)]}
HOT = {0: [(70, 80)], 1: [(20, 30)]}


def facts_of(kind: str, **more: Any) -> dict[str, Any]:
    validity = {"instrument": "mastersim", "filter": "r", "run": "26BS01", "first_night": None, "last_night": None}
    return {"name": f"{kind}_mastersim_r", "kind": kind, "key": f"{kind}-key", "validity": validity} | more


def make(bench: Any, camera: Camera, kind: str, paths: list[Path], *settings: str, **more: Any) -> Any:
    """Run the step on frames; `masters` are those that correct them, by kind."""
    masters = [(k, None, p) for k, p in more.pop("masters", {}).items()]
    inputs = [*camera.inputs(paths), *masters]
    return bench.run("master", inputs, *settings, facts=facts_of(kind), min_inputs=more.pop("min_inputs", 3))


@dataclass
class Masters:
    """The three masters of one camera, each corrected with those before."""

    bias: Any
    dark: Any
    flat: Any
    n_flats: int = 5

    @property
    def before(self) -> dict[str, Path]:
        return {"bias": self.bias.path("bias"), "dark": self.dark.path("dark")}


@pytest.fixture(scope="module")
def masters(camera: Camera, step_bench: Any) -> Masters:
    bias = make(step_bench, camera, "bias", [camera.expose("bias", 0.0, 61290.0 + i / 100) for i in range(7)])
    assert bias.code == 0, bias.result.failure
    before = {"bias": bias.path("bias")}
    dark = make(step_bench, camera, "dark", [camera.expose("dark", 0.0) for _ in range(7)], masters=before)
    assert dark.code == 0, dark.result.failure
    before["dark"] = dark.path("dark")
    paths = [camera.expose("flat", level) for level in (9000.0, 12000.0, 15000.0, 18000.0, 21000.0)]
    flat = make(step_bench, camera, "flat", paths, masters=before)
    assert flat.code == 0, flat.result.failure
    return Masters(bias, dark, flat)


def planes(path: Path) -> list[np.ndarray]:
    with fits.open(path) as hdus:
        return [h.data.astype(float) for h in hdus[1:]]


def amplifier_noise() -> float:
    """Return the noise of a raw pixel at the mean gain: read noise and rounding, the level of its line, gains."""
    return float(np.sqrt(NOISE**2 + 1 / 12 + NOISE**2 / STRIP) * np.sqrt(np.mean(np.square(GAINS))) / MEAN_GAIN)


# Truth ----------------------------------------------------------------------------------------------------------------


def test_the_bias_is_what_the_electronics_add(camera: Camera, masters: Masters) -> None:
    for made, truth in zip(planes(masters.bias.path("bias")), camera.bias, strict=True):
        noise = amplifier_noise() / np.sqrt(7)
        assert np.std(made - truth) == pytest.approx(noise, rel=0.08)
        assert abs(np.mean(made - truth)) < 0.15  # the level of a line from 24 pixels, over 160 lines of two amplifiers


def test_the_dark_is_counts_per_second(camera: Camera, masters: Masters) -> None:
    for k, (made, truth) in enumerate(zip(planes(masters.dark.path("dark")), camera.dark, strict=True)):
        calm = np.ones(SHAPE, bool)
        for y, x in HOT[k]:
            calm[y, x] = False
            assert made[y, x] == pytest.approx(truth[y, x], rel=0.03)
        shot = np.sqrt(0.4 / MEAN_GAIN * 120.0) / 120.0
        frame = np.hypot(amplifier_noise() / 120.0, shot)
        assert np.std((made - truth)[calm]) == pytest.approx(
            np.hypot(frame, amplifier_noise() / 120.0) / np.sqrt(7), rel=0.1
        )
        assert abs(np.mean((made - truth)[calm])) < 0.3 / 120.0


def test_the_flat_keeps_how_sensitive_each_detector_is(camera: Camera, masters: Masters) -> None:
    made = planes(masters.flat.path("flat"))
    levels = [np.median(f) for f in camera.flat]
    scales = [np.median(m / f) for m, f in zip(made, camera.flat, strict=True)]
    assert scales[0] == pytest.approx(scales[1], rel=2e-3)
    assert np.median(made[1]) / np.median(made[0]) == pytest.approx(levels[1] / levels[0], rel=2e-3)
    assert np.median(made) == pytest.approx(1.0, abs=0.2)
    total = 9000.0 + 12000.0 + 15000.0 + 18000.0 + 21000.0
    for k, (flat, truth) in enumerate(zip(made, camera.flat, strict=True)):
        ratio = flat / scales[k] / truth
        calm = np.ones(SHAPE, bool)
        for y, x in [*DEAD[k], *HOT[k]]:
            calm[y, x] = False
        photon = 1.0 / np.sqrt(MEAN_GAIN * total * np.median(truth))
        assert np.std(ratio[calm]) == pytest.approx(photon, rel=0.15)


def test_dead_and_hot_pixels_are_in_the_map_and_few_others(camera: Camera, masters: Masters) -> None:
    path = masters.flat.path("bad_pixels")
    assert path.name == "bad_pixels_mastersim_r.fits.fz"
    with fits.open(path) as hdus:
        maps = [h.data for h in hdus if h.data is not None]
    assert len(maps) == 2
    for k, bad in enumerate(maps):
        planted = [*DEAD[k], *HOT[k]]
        assert all(bad[y, x] for y, x in planted)
        assert np.count_nonzero(bad) <= len(planted) + 3


def test_headers_and_records_say_what_was_made(masters: Masters) -> None:
    for kind, ran, n in (("bias", masters.bias, 7), ("dark", masters.dark, 7), ("flat", masters.flat, 5)):
        with fits.open(ran.path(kind), checksum=True) as hdus:
            assert [h.name for h in hdus] == ["PRIMARY", "CCD00", "CCD01"]
            header = hdus[0].header
            assert (header["OBSTYPE"], header["INSTRUME"]) == (f"MASTER {kind.upper()}", "mastersim")
            assert (header["NCOMBINE"], header["FRAMETIM"], header["RUNID"]) == (n, TIMES[kind], "26BS01")
            lines = list(header["HISTORY"])
            assert sum(line.startswith("frame ") for line in lines) == n
            assert hdus[1].header["GAIN"] == MEAN_GAIN
            assert hdus[1].header["MEDIAN"] == pytest.approx(np.median(hdus[1].data), rel=1e-5)
            assert "EXPTIME" not in header, "a dark is per second already"
            corrected = {line.split()[2] for line in lines if line.startswith("corrected by")}
        assert corrected == {"bias": set(), "dark": {"bias_mastersim_r.fits"}}.get(
            kind, {"bias_mastersim_r.fits", "dark_mastersim_r.fits"}
        )
        records = {r["kind"]: r for r in ran.result.records}
        assert set(records) == ({kind} if kind != "flat" else {"flat", "bad_pixels"})
        record = records[kind]
        assert (record["product"], record["n_inputs"]) == (f"{kind}_mastersim_r.fits", n)
        assert record["product_hash"] == f"{kind}-key"
        assert record["exptime_s"] == (120.0 if kind == "dark" else None)
        assert record["validity"]["run"] == "26BS01"
        assert {o.outcome.value for o in ran.whole().values()} == {"used"}
        assert len(ran.whole()) == n
    half = 0.5 * TIMES["bias"] / 86400.0
    assert masters.bias.result.records[0]["mjd"] == pytest.approx(61290.03 + half, abs=1e-6)
    assert {r["kind"]: r["product_hash"] for r in masters.flat.result.records}["bad_pixels"] is None


def test_the_masters_are_read_as_masters(camera: Camera, masters: Masters) -> None:
    """What the step writes is what an exposure is corrected with: nothing is scaled twice."""
    facts = next(path for role, _, path in camera.inputs([camera.expose("flat", 100.0)]) if role == "facts")
    sheet = read_sheet(facts).detectors[1]
    dark = read_master(masters.dark.path("dark"), MasterKind.DARK, sheet)
    assert np.median(dark) == pytest.approx(0.4, abs=0.01)
    flat = read_master(masters.flat.path("flat"), MasterKind.FLAT, sheet)
    own = planes(masters.flat.path("flat"))
    level = float(np.median([np.median(p) for p in own]))
    np.testing.assert_allclose(flat, own[1] / (level if abs(level - 1) > 0.02 else 1.0), rtol=0.01)


def test_the_order_of_frames_changes_nothing(camera: Camera, step_bench: Any, masters: Masters) -> None:
    paths = [camera.expose("bias", 0.0) for _ in range(3)]
    one = make(step_bench, camera, "bias", paths)
    other = make(step_bench, camera, "bias", paths[::-1])
    for a, b in zip(planes(one.path("bias")), planes(other.path("bias")), strict=True):
        np.testing.assert_array_equal(a, b)


# Frames that do not fit -----------------------------------------------------------------------------------------------


def test_a_frame_of_another_level_is_left_out_with_its_name(camera: Camera, step_bench: Any, masters: Masters) -> None:
    good = [camera.expose("bias", 0.0) for _ in range(3)]
    odd = camera.expose("bias", 0.0, offset=40.0, name="lamp_on.fits")
    ran = make(step_bench, camera, "bias", [*good[:2], odd, good[2]])
    assert ran.code == 0
    outcomes = ran.whole()
    assert [o.outcome.value for o in outcomes.values()] == ["used", "used", "left_out", "used"]
    reason = outcomes["image:3"].reason
    assert reason.code == "level"
    assert "lamp_on.fits" in reason.text
    assert "level" in reason.text
    assert ran.result.records[0]["n_inputs"] == 3
    for made, truth in zip(planes(ran.path("bias")), camera.bias, strict=True):
        assert abs(np.mean(made - truth)) < 0.3


def test_flats_too_dark_or_too_bright_are_left_out(camera: Camera, step_bench: Any, masters: Masters) -> None:
    levels = (12000.0, 200.0, 13000.0, 55000.0, 14000.0)
    paths = [camera.expose("flat", level) for level in levels]
    ran = make(step_bench, camera, "flat", paths, masters=masters.before)
    assert ran.code == 0, ran.result.failure
    outcomes = [o.outcome.value for o in ran.whole().values()]
    assert outcomes[0::2] == ["used"] * 3
    assert outcomes[1] == "left_out"
    # The insensitive detector stays below the limit in the bright frame: it is used there, and not in the other.
    assert outcomes[3] == "used_with_warning"
    parts = [(o.item, o.detector) for o in ran.result.outcomes if o.detector is not None]
    assert parts == [("image:4", 0)]
    assert paths[3].name in ran.whole()["image:4"].reason.text
    with fits.open(ran.path("flat")) as hdus:
        assert hdus[0].header["NCOMBINE"] == 4
    made = planes(ran.path("flat"))
    ratio = [np.median(m / f) for m, f in zip(made, camera.flat, strict=True)]
    assert ratio[0] == pytest.approx(ratio[1], rel=4e-3)


def test_frames_of_another_shape_are_left_out(camera: Camera, step_bench: Any, masters: Masters) -> None:
    good = [camera.expose("bias", 0.0) for _ in range(3)]
    lone = camera.expose("bias", 0.0, n=1, name="half.fits")
    ran = make(step_bench, camera, "bias", [lone, *good])
    reason = ran.whole()["image:1"].reason
    assert (reason.code, ran.code) == ("other_detectors", 0)
    assert "half.fits" in reason.text
    assert "1 (CCD00" in reason.text
    assert "2 (CCD00" in reason.text


def test_too_few_frames_make_no_master(camera: Camera, step_bench: Any, masters: Masters) -> None:
    paths = [*(camera.expose("flat", 12000.0) for _ in range(2)), camera.expose("flat", 90.0, name="dusk.fits")]
    ran = make(step_bench, camera, "flat", paths, masters=masters.before)
    assert (ran.code, ran.result.products, ran.result.records) == (20, (), ())
    text = ran.result.failure.text
    assert "2 of 3" in text
    assert "dusk.fits" in text
    assert list((ran.folder / "work").iterdir()) == []
    ran = make(step_bench, camera, "flat", [camera.expose("flat", 50.0) for _ in range(3)], masters=masters.before)
    assert "0 of 3" in ran.result.failure.text
    assert {o.outcome.value for o in ran.whole().values()} == {"left_out"}


def test_darks_without_a_time_are_left_out(camera: Camera, step_bench: Any, masters: Masters) -> None:
    paths = [*(camera.expose("dark", 0.0) for _ in range(3)), camera.expose("dark", 0.0, time=0.0, name="nought.fits")]
    ran = make(step_bench, camera, "dark", paths, masters={"bias": masters.bias.path("bias")})
    assert ran.code == 0, ran.result.failure
    assert ran.whole()["image:4"].reason.code == "no_time"
    assert ran.result.records[0]["exptime_s"] == 120.0
    none = make(step_bench, camera, "dark", [camera.expose("dark", 0.0, time=0.0) for _ in range(3)])
    assert none.code == 20
    assert "above 0" in none.result.failure.text


def test_a_dead_detector_does_not_take_the_others_along(
    camera: Camera, step_bench: Any, masters: Masters, tmp_path: Path
) -> None:
    broken = Camera(tmp_path, camera.rng, camera.bias, camera.dark, [camera.flat[0], camera.flat[1] * 0.0])
    paths = [broken.expose("flat", 12000.0) for _ in range(3)]
    ran = make(step_bench, broken, "flat", paths, masters=masters.before)
    assert ran.code == 0, ran.result.failure
    assert {o.outcome.value for o in ran.whole().values()} == {"used"}
    alive, dead = planes(ran.path("flat"))
    calm = alive > 0.5
    assert np.std((alive / np.median(alive) / camera.flat[0] * np.median(camera.flat[0]))[calm]) < 0.02
    assert np.isnan(dead).all()
    with fits.open(ran.path("bad_pixels")) as hdus:
        assert [int(h.data.sum()) for h in hdus if h.data is not None][1] == SHAPE[0] * SHAPE[1]


def test_a_master_of_another_camera_is_told(camera: Camera, step_bench: Any, masters: Masters, tmp_path: Path) -> None:
    wrong = tmp_path / "small.fits"
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(np.zeros((8, 9), "f4")) for _ in range(2))]).writeto(wrong)
    paths = [camera.expose("dark", 0.0) for _ in range(3)]
    ran = make(step_bench, camera, "dark", paths, masters={"bias": wrong})
    assert ran.code == 20
    assert "small.fits" in ran.result.failure.text
    assert "9 x 8" in ran.result.failure.text


# Memory and scratch ---------------------------------------------------------------------------------------------------


def test_frames_are_read_from_scratch_files_that_go_away(
    camera: Camera, step_bench: Any, masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = step.combine_bias

    def combine(frames: Any, **more: Any) -> Any:
        files = [Path(f.filename) for f in frames]
        assert all(isinstance(f, np.memmap) and not f.flags.writeable for f in frames)
        assert all(p.is_file() and p.parent.name == "work" for p in files)
        seen.append((len(list(files[0].parent.iterdir())), len(frames)))
        return real(frames, **more)

    monkeypatch.setattr(step, "combine_bias", combine)
    ran = make(step_bench, camera, "bias", [camera.expose("bias", 0.0) for _ in range(4)])
    assert ran.code == 0, ran.result.failure
    assert seen == [(4, 4), (4, 4)], "one detector lies there at a time"
    assert list((ran.folder / "work").iterdir()) == []


def test_what_a_failure_leaves_is_no_scratch_and_no_product(
    camera: Camera, step_bench: Any, masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, "combine_bias", fail)
    ran = make(step_bench, camera, "bias", [camera.expose("bias", 0.0) for _ in range(3)])
    assert (ran.code, ran.result.failure.kind, ran.result.products) == (75, "transient", ())
    assert list((ran.folder / "work").iterdir()) == []
    assert list(ran.folder.glob("*.fits*")) == []


# Fringes --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fringed(tmp_path_factory: pytest.TempPathFactory, step_bench: Any) -> tuple[Any, list[np.ndarray]]:
    """Return the fringe pattern of seven dithered science frames with stars, and the true pattern."""
    shape = (288, 288)
    camera = _camera(tmp_path_factory.mktemp("fringes"), shape, 11)
    camera.bias = [np.zeros(shape)] * 2
    camera.dark = [np.zeros(shape)] * 2
    camera.flat = [np.ones(shape)] * 2
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    pattern = [0.03 * np.sin(x / 9.0 + 3.0 * np.sin(y / 60.0) + k) for k in range(2)]
    paths = []
    for i in range(7):
        sky = 1500.0 + 200.0 * i
        light = [sky * (1.0 + p) for p in pattern]
        for k in range(2):
            for _ in range(40):
                cx, cy = camera.rng.uniform(0, 288, 2)
                flux, width = 10 ** camera.rng.uniform(2.5, 5.5), 1.6
                star = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
                light[k] = light[k] + flux / (2 * np.pi * width**2) * star
        paths.append(camera.expose("object", light, 61290.0 + i / 50))
    return make(step_bench, camera, "fringe", paths), pattern


def test_fringes_are_found_under_the_stars(fringed: Any) -> None:
    ran, pattern = fringed
    assert ran.code == 0, ran.result.failure
    assert {o.outcome.value for o in ran.whole().values()} == {"used"}
    for made, truth in zip(planes(ran.path("fringe")), pattern, strict=True):
        fine = np.isfinite(made)
        assert fine.mean() > 0.98
        slope = np.sum((made * truth)[fine]) / np.sum((truth**2)[fine])
        # The mesh of the sky, 256 pixels wide, takes a little of the pattern with it.
        assert slope == pytest.approx(1.0, abs=0.05)
        # Seven frames of mean sky 2100 ADU: 1 / sqrt(1.5 * 2100 * 7) from photons, read noise besides.
        photon = np.sqrt((1 + (amplifier_noise() * MEAN_GAIN) ** 2 / 3150) / (3150 * 7))
        rms = 1.4826 * np.median(np.abs((made - truth) - np.median((made - truth)[fine]))[fine])
        assert rms < 1.5 * photon
        assert np.percentile(np.abs(made - truth)[fine], 99.5) < 8 * photon, "no star is left in the pattern"
        assert abs(np.nanmedian(made)) < 1e-6


def test_a_fringe_pattern_says_its_filter(fringed: Any) -> None:
    ran, _ = fringed
    (record,) = ran.result.records
    assert (record["kind"], record["validity"]["filter"], record["n_inputs"]) == ("fringe", "r", 7)
    with fits.open(ran.path("fringe")) as hdus:
        assert hdus[0].header["FILTER"] == "r"

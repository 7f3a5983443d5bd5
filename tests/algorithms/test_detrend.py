"""Detrending: what was put into raw frames is taken out again, masters are as good as their number allows."""

from __future__ import annotations

import math
import warnings

import ccdproc
import numpy as np
import pytest
from astropy import units
from astropy.nddata import CCDData

from spica.algorithms.detrend import (
    MasterFrame,
    NoUsableFrameError,
    combine_bias,
    combine_dark,
    combine_flat,
    combine_fringe,
    detrend_image,
    find_bad_pixels,
    measure_fringe_scale,
    measure_levels,
    measure_overscan,
    mosaic_norm,
    propagate_variance,
    subtract_fringe,
    subtract_overscan,
)
from spica.algorithms.detrend.fringe import FringeError

GAIN, READ_NOISE_E = 1.6, 4.8  # e/ADU, e
READ_NOISE_ADU = READ_NOISE_E / GAIN
SHAPE = (320, 256)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


class Lazy:
    """A frame that is only ever read by rows, and remembers how many at a time."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.most = data, data.shape, 0

    def __getitem__(self, key: slice) -> np.ndarray:
        part = self.data[key]
        self.most = max(self.most, len(part))
        return part


class Camera:
    """A detector with structure in bias, dark current and sensitivity, and its raw frames."""

    def __init__(self, seed: int = 1, shape: tuple[int, int] = SHAPE) -> None:
        r, (y, x) = rng(seed), np.mgrid[: shape[0], : shape[1]]
        self.bias = 8.0 * np.sin(x / 9.0) + r.normal(0, 3, shape)
        self.dark = 0.05 + 0.02 * y / shape[0] + np.where(r.random(shape) < 0.003, 3.0, 0.0)
        self.flat = (1.0 - 0.2 * np.hypot(y / shape[0] - 0.5, x / shape[1] - 0.5)) * r.normal(1, 0.01, shape)
        self.flat /= np.median(self.flat)
        self.shape = shape

    def expose(self, r: np.random.Generator, light: np.ndarray | float, exptime_s: float) -> np.ndarray:
        """Light in ADU of a mean pixel; the dark current runs for the time."""
        electrons = r.poisson((light * self.flat + self.dark * exptime_s) * GAIN)
        return (electrons / GAIN + self.bias + r.normal(0, READ_NOISE_ADU, self.shape)).astype(np.float32)


# Overscan ------------------------------------------------------------------------------------------------------------


def overscan_strip(level: np.ndarray, seed: int = 5, width: int = 40) -> np.ndarray:
    strip = level[:, None] + rng(seed).normal(0, 3.0, (level.size, width))
    strip[rng(seed + 1).random(strip.shape) < 0.01] += 5000.0  # hot pixels
    return np.rint(strip).astype(np.uint16)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("method", ["lines", "polynomial"])
def test_an_overscan_ramp_is_recovered_with_hot_pixels_and_a_bleeding_star(axis: int, method: str) -> None:
    place = np.linspace(-1, 1, 1200)
    truth = 1000.3 + 12.0 * place + 3.0 * place**2
    strip = overscan_strip(truth)
    strip[500:570] = 40_000  # all columns of seventy rows
    strip[200:300, :12] += 20_000  # less than half of the columns of others
    found = measure_overscan(strip if axis == 1 else strip.T, axis, method)  # type: ignore[arg-type]
    clear = np.r_[0:490, 580:1200]
    departure = (found.level - truth)[clear]
    assert np.std(departure) < 1.15 * found.error_adu
    assert abs(departure.mean()) < 4 * found.error_adu if method == "polynomial" else abs(departure.mean()) < 0.06
    assert np.abs(found.level - truth)[490:580].max() < 2.5
    assert found.n_replaced >= 70
    assert found.read_noise_adu == pytest.approx(math.hypot(3.0, 1 / math.sqrt(12)), rel=0.02)  # and the rounding


def test_line_levels_follow_a_step_and_are_not_bound_to_whole_counts() -> None:
    truth = np.where(np.arange(900) < 433, 700.25, 712.75)
    found = measure_overscan(overscan_strip(truth), 1, "lines")
    assert abs(np.mean(found.level[:433]) - 700.25) < 5 * found.error_adu / math.sqrt(433)
    assert abs(np.mean(found.level[433:]) - 712.75) < 5 * found.error_adu / math.sqrt(467)
    assert found.n_replaced == 0


@pytest.mark.parametrize(("n", "period"), [(160, 250.0), (320, 377.0), (1024, 377.0)])
def test_the_crest_of_a_drift_is_no_outlier(n: int, period: float) -> None:
    truth = 700.0 + 15.0 * np.sin(2 * np.pi * np.arange(n) / period)
    found = measure_overscan(overscan_strip(truth))
    assert found.n_replaced == 0
    assert np.abs(found.level - truth).max() < 5 * found.error_adu


def test_the_ramp_at_the_start_of_a_readout_is_followed() -> None:
    truth = 700.0 + 80.0 * np.exp(-np.arange(900) / 15.0)
    found = measure_overscan(overscan_strip(truth))
    assert found.n_replaced == 0
    assert np.abs(found.level - truth).max() < 5 * found.error_adu


def test_smoothing_lowers_the_noise_as_promised_and_keeps_a_ramp() -> None:
    truth = 1000.0 + 500.0 * np.linspace(-1, 1, 2000)
    strip = overscan_strip(truth)
    rough, smooth = measure_overscan(strip), measure_overscan(strip, smooth_lines=8.0)
    assert np.std(rough.level - truth) == pytest.approx(rough.error_adu, rel=0.1)
    assert np.std(smooth.level - truth) == pytest.approx(smooth.error_adu, rel=0.3)  # some 70 independent lines
    assert smooth.error_adu < 0.2 * rough.error_adu
    assert np.abs(smooth.level - truth)[[0, -1]].max() < 5 * smooth.error_adu * math.sqrt(2)


def test_the_constant_level_is_that_of_all_pixels_and_subtraction_takes_it_off() -> None:
    found = measure_overscan(overscan_strip(np.full(1500, 321.4)), 1, "constant")
    assert np.unique(found.level).size == 1
    assert abs(found.level[0] - 321.4) < 5 * found.error_adu
    data = np.full((1500, 7), 400, ">i2")
    assert np.allclose(subtract_overscan(data, found), 400 - found.level[0], atol=1e-4)


def test_lines_without_pixels_take_their_neighbours_and_empty_strips_are_refused() -> None:
    strip = overscan_strip(np.full(300, 50.0)).astype(np.float32)
    strip[100:110] = np.nan
    found = measure_overscan(strip)
    assert np.abs(found.level[100:110] - 50).max() < 1
    assert found.n_replaced == 10
    with pytest.raises(ValueError, match="no usable pixel"):
        measure_overscan(np.full((10, 10), np.nan))
    with pytest.raises(ValueError, match="axis"):
        measure_overscan(strip, 2)
    with pytest.raises(ValueError, match="300 lines"):
        subtract_overscan(np.zeros((10, 300)), found)


@pytest.mark.parametrize("axis", [0, 1])
def test_overscan_agrees_with_ccdproc(axis: int) -> None:
    r = rng(3)
    strip = r.normal(900, 3, (SHAPE[0], 32)) if axis == 1 else r.normal(900, 3, (32, SHAPE[1]))
    data = r.normal(1500, 5, SHAPE)
    ours = subtract_overscan(data, measure_overscan(strip, axis))
    theirs = ccdproc.subtract_overscan(
        CCDData(data, unit="adu"), CCDData(strip, unit="adu"), overscan_axis=axis, median=True
    )
    # mean against median of 32 pixels: their difference has the rms sqrt(pi/2 - 1) sigma / sqrt(32)
    expected = math.sqrt(math.pi / 2 - 1) * 3 / math.sqrt(32)
    assert np.std(ours - theirs.data) == pytest.approx(expected, rel=0.2)


# One pass over the pixels --------------------------------------------------------------------------------------------


def test_a_flat_of_a_flat_is_one() -> None:
    flat = Camera().flat.astype(np.float32)
    result = detrend_image(flat, flat=flat)
    assert np.array_equal(result.data, np.ones(SHAPE, np.float32))
    assert result.n_bad == 0


@pytest.mark.parametrize("dtype", ["<u2", ">u2", ">i4", "<f4", ">f8"])
def test_detrending_is_its_formula_for_every_type_and_in_place(dtype: str) -> None:
    camera, raw = Camera(), rng(4).integers(100, 30_000, SHAPE).astype(dtype)
    strip = measure_overscan(rng(5).normal(300, 3, (SHAPE[0], 32)))
    bias, dark, flat = (a.astype(np.float32) for a in (camera.bias, camera.dark, camera.flat))
    expected = (raw.astype(float) - strip.level[:, None] - bias - 50.0 * dark) / flat
    result = detrend_image(raw, overscan=strip, bias=bias, dark=dark, exptime_s=50.0, flat=flat)
    assert np.allclose(result.data, expected, rtol=1e-5, atol=0.01)
    below = measure_overscan(rng(5).normal(300, 3, (32, SHAPE[1])), 0)
    expected = (raw.astype(float) - below.level - bias) / flat
    image = raw.astype(np.float32)
    again = detrend_image(image, overscan=below, bias=bias, flat=Lazy(flat), out=image)
    assert again.data is image
    assert np.allclose(image, expected, rtol=1e-5, atol=0.01)


def test_unusable_pixels_are_nan_and_counted() -> None:
    raw, flat, bad = np.full(SHAPE, 100.0, np.float32), np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.int16)
    bias = np.zeros(SHAPE, np.float32)
    flat[0, :5], flat[1, 0], flat[1, 1], bad[0, 4:8], raw[3, 3], bias[4, 4] = 0.09, np.nan, -1.0, 2, np.inf, np.nan
    result = detrend_image(raw, bias=bias, flat=3.0 * flat, bad_pixels=bad)
    expected = np.zeros(SHAPE, bool)
    expected[0, :8], expected[1, :2], expected[3, 3], expected[4, 4] = True, True, True, True
    assert np.array_equal(np.isnan(result.data), expected)
    assert (result.n_bad, result.n_masked, result.n_low_flat) == (12, 4, 6)
    assert np.isnan(detrend_image(raw, flat=flat, flat_level=20.0).data).all()


def test_what_does_not_fit_is_refused() -> None:
    raw = np.zeros(SHAPE, np.float32)
    with pytest.raises(ValueError, match="flat of shape"):
        detrend_image(raw, flat=raw[1:])
    with pytest.raises(ValueError, match="exposure time"):
        detrend_image(raw, dark=raw)
    with pytest.raises(ValueError, match="two axes"):
        detrend_image(np.zeros((2, 3, 4)))


def test_detrending_agrees_with_ccdproc() -> None:
    camera, raw = Camera(2), Camera(2).expose(rng(6), 3000.0, 120.0)
    ours = detrend_image(
        raw,
        bias=camera.bias.astype("f4"),
        dark=camera.dark.astype("f4"),
        exptime_s=120.0,
        flat=camera.flat.astype("f4"),
    )
    frame = ccdproc.subtract_bias(CCDData(raw.astype(float), unit="adu"), CCDData(camera.bias, unit="adu"))
    frame = ccdproc.subtract_dark(
        frame,
        CCDData(camera.dark * 60.0, unit="adu"),
        dark_exposure=60 * units.s,
        data_exposure=120 * units.s,
        scale=True,
    )
    frame = ccdproc.flat_correct(frame, CCDData(camera.flat, unit="adu"), norm_value=1.0)
    assert np.allclose(ours.data, frame.data, rtol=2e-6, atol=2e-3)  # float32 of numbers near 3000


def test_the_variance_is_that_of_simulated_frames() -> None:
    camera, n, time_s, light = Camera(7, (64, 64)), 400, 300.0, 250.0
    dark, flat = camera.dark.astype("f4"), camera.flat.astype("f4")
    errors = {"bias_sigma": 1.0, "dark_sigma": 0.008, "flat_sigma": 0.02}
    r, values = rng(8), []
    for _ in range(n):  # masters are drawn anew each time, so that their errors scatter too
        values.append(
            detrend_image(
                camera.expose(r, light, time_s),
                bias=(camera.bias + r.normal(0, 1.0, camera.shape)).astype("f4"),
                dark=(camera.dark + r.normal(0, 0.008, camera.shape)).astype("f4"),
                exptime_s=time_s,
                flat=(camera.flat + r.normal(0, 0.02, camera.shape)).astype("f4"),
            ).data
        )
    smooth = np.full(camera.shape, light, np.float32)
    told = propagate_variance(
        smooth, gain_e_per_adu=GAIN, read_noise_e=READ_NOISE_E, dark=dark, exptime_s=time_s, flat=flat, **errors
    )
    seen = np.var(values, axis=0, ddof=1)
    assert np.median(seen / told) == pytest.approx(1 - 2 / (9 * n) * 3, abs=0.01)
    assert np.std(seen / told) == pytest.approx(math.sqrt(2 / n), rel=0.1)  # pixel by pixel, hot ones too
    hot = camera.dark > 1
    assert np.mean((seen / told)[hot]) == pytest.approx(1, abs=5 * math.sqrt(2 / n / hot.sum()))
    d, f, t, g, rn = smooth, flat, time_s, GAIN, READ_NOISE_E
    printed = (np.maximum(d * f + t * dark, 0) / g + (rn / g) ** 2 + 1.0 + (t * 0.008) ** 2) / f**2 + (
        d * 0.02 / f
    ) ** 2
    assert np.allclose(told, printed, rtol=1e-5)
    assert np.isnan(propagate_variance(smooth, gain_e_per_adu=1, read_noise_e=1, flat=0 * flat)).all()


# Masters -------------------------------------------------------------------------------------------------------------


def normal_frames(seed: int, n: int, sigma: float = 5.0, shape: tuple[int, int] = SHAPE) -> list[np.ndarray]:
    return list(rng(seed).normal(100.0, sigma, (n, *shape)).astype(np.float32))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 24])
def test_the_noise_of_a_master_falls_as_the_root_of_the_number(n: int) -> None:
    master = combine_bias(normal_frames(n, n))
    scatter = float(np.std(master.data))
    assert scatter == pytest.approx(5 / math.sqrt(n), rel=0.045)  # the clipping at 3 sigma costs a little of few frames
    assert abs(np.mean(master.data) - 100) < 5 * scatter / math.sqrt(master.data.size) + 0.002 * 5
    assert math.sqrt(np.mean(np.square(master.sigma, dtype=float))) == pytest.approx(scatter, rel=0.05)
    assert np.mean(master.n_used) > 0.985 * n
    assert n * master.data.size - int(master.n_used.sum()) == int(master.n_clipped.sum())


@pytest.mark.parametrize("n", [4, 11])
def test_the_order_of_the_frames_and_the_memory_limit_change_nothing(n: int) -> None:
    frames = [100.0 + (1 + k) * (f - 100.0) / 4 for k, f in enumerate(normal_frames(1, n))]
    times, order = np.linspace(10, 40, n), rng(2).permutation(n)
    frames[1][50:60] += 900
    one = combine_dark(frames, times, max_offset_sigma=1e9)
    rows = [Lazy(frames[k]) for k in order]
    other = combine_dark(rows, times[order], max_offset_sigma=1e9, memory_limit_bytes=32 * SHAPE[1] * (4 * n + 24))
    assert np.array_equal(one.data, other.data)
    assert np.allclose(one.sigma, other.sigma, rtol=1e-5)
    assert np.array_equal(one.n_used, other.n_used)
    assert np.array_equal(one.n_clipped[order], other.n_clipped)
    assert max(frame.most for frame in rows) == 32
    with pytest.raises(ValueError, match="raise the limit"):
        combine_dark(rows, times[order], memory_limit_bytes=1000)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 12])
def test_cosmic_rays_in_darks_are_rejected(n: int) -> None:
    camera, r = Camera(3), rng(9)
    frames = [camera.expose(r, 0.0, 300.0) for _ in range(n)]
    hits = rng(10).integers(0, n, SHAPE)  # at most one hit a pixel
    hit = rng(11).random(SHAPE) < 0.02
    for k, frame in enumerate(frames):
        frame[hit & (hits == k)] += 400.0
    master = combine_dark(frames, np.full(n, 300.0), camera.bias)
    excess = (master.data - camera.dark) * 300.0
    calm = camera.dark < 1
    assert np.abs(np.mean(excess[hit & calm])) < 5 * READ_NOISE_ADU * 2.0 / math.sqrt(n * hit.sum()) + 0.15
    assert excess[hit & calm].max() < 9 * READ_NOISE_ADU * 1.6
    assert (master.n_used[hit & calm] <= n - 1).mean() > 0.999
    assert (master.n_used[~hit & calm] == n).mean() > 0.95
    hot = ~calm & ~hit
    assert np.mean(excess[hot]) == pytest.approx(0.0, abs=15.0)  # of 900 ADU, with a noise of 24 each


def test_darks_of_different_times_are_weighted_as_read_noise_asks() -> None:
    times = np.array([50.0, 400.0, 100.0, 200.0, 50.0, 50.0])
    frames = [f + t * 0.5 for f, t in zip(normal_frames(19, 6), times, strict=True)]
    master = combine_dark(frames, times, np.full(SHAPE, 100.0, np.float32))
    best = 5.0 / math.sqrt(np.square(times).sum())
    assert (
        best < np.std(master.data) < 1.12 * best
    )  # equal weights: 2.7 times; clipping about a noisy median costs some
    assert np.mean(master.data) == pytest.approx(0.5, abs=0.02 * best)
    assert master.levels == pytest.approx(np.full(6, 0.5), abs=0.01)


def test_unsteady_pixels_keep_their_values_from_five_frames_on() -> None:
    frames = np.stack(normal_frames(12, 15))
    frames[:, ::16, ::16] += rng(13).normal(0, 100, frames[:, ::16, ::16].shape)
    master = combine_bias(list(frames))
    loud = master.scatter[::16, ::16]
    assert np.median(loud) == pytest.approx(100, rel=0.1)
    assert master.n_used[::16, ::16].mean() > 14
    assert np.std(master.data[::16, ::16]) == pytest.approx(100 / math.sqrt(15), rel=0.2)


def test_clipping_agrees_with_ccdproc() -> None:
    frames = normal_frames(14, 12, shape=(96, 128))
    frames[3][20:24, 10:50] += 300.0
    frames[7][:, 99] -= 80.0
    ours = combine_bias(frames, kappa=4.0)
    combiner = ccdproc.Combiner([CCDData(f.astype(float), unit="adu") for f in frames])
    for _ in range(5):
        combiner.sigma_clipping(low_thresh=4, high_thresh=4, func=np.ma.median, dev_func=lambda a, **kw: 5.0)
    theirs = combiner.average_combine()
    # the same but for values within a few % of the limit, whose noise is known to ours from the frames alone
    same = np.abs(ours.data - theirs.data) < 1e-3
    assert same.mean() > 0.995
    assert (ours.n_used[20:24, 10:50] == 11).mean() > 0.99
    assert same[:, 99].mean() > 0.98


def test_frames_with_holes_or_offsets_are_left_out_with_a_reason() -> None:
    frames = normal_frames(15, 6)
    frames[2] = frames[2] + 60.0  # a lamp was on
    frames[4] = np.full(SHAPE, np.nan, np.float32)
    frames[0][5:9] = np.nan
    master = combine_bias(frames)
    assert [r.index for r in master.refused] == [2, 4]
    assert "off the median level" in master.refused[0].reason
    assert master.refused[1].reason == "no usable pixel"
    assert master.n_used[5:9].max() == 3
    assert np.isfinite(master.data).all()
    assert master.levels[2] == pytest.approx(160, abs=0.5)
    assert np.isnan(combine_bias([frames[0]]).data[5:9]).all()
    with pytest.raises(NoUsableFrameError) as caught:
        combine_bias([frames[4], frames[4]])
    assert len(caught.value.refused) == 2
    with pytest.raises(NoUsableFrameError, match="none was given"):
        combine_bias([])
    with pytest.raises(ValueError, match="cut all to one"):
        combine_bias([frames[0], frames[1][:50]])


def raw_flats(camera: Camera, levels: list[float], seed: int) -> list[np.ndarray]:
    """Twilight flats of different levels, each with stars elsewhere."""
    r, frames = rng(seed), []
    for level in levels:
        light = np.full(camera.shape, level)
        for y, x in zip(*r.integers(4, min(camera.shape) - 4, (2, 30)), strict=True):
            light[y - 2 : y + 3, x - 2 : x + 3] += level * r.uniform(0.1, 1.0)
        frames.append(camera.expose(r, light, 10.0))
    return frames


def test_raw_frames_and_their_masters_return_the_truth() -> None:
    camera, r = Camera(4), rng(16)
    bias = combine_bias([camera.expose(r, 0.0, 0.0) for _ in range(16)])
    dark = combine_dark(
        [camera.expose(r, 0.0, t) for t in (300, 300, 600, 600, 600)], [300, 300, 600, 600, 600], bias.data
    )
    levels = [9000.0, 14_000.0, 18_000.0, 22_000.0, 26_000.0, 30_000.0, 12_000.0, 20_000.0]
    flat = combine_flat(raw_flats(camera, levels, 17), bias.data, dark.data, np.full(8, 10.0))
    assert np.nanmedian(flat.data) == pytest.approx(1.0, abs=1e-6)
    pull = (flat.data / camera.flat - 1) / flat.sigma * flat.data
    assert np.median(np.abs(pull)) * 1.4826 == pytest.approx(1.0, abs=0.15)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    truth = 800.0 + 200.0 * np.sin(y / 30.0) * np.cos(x / 40.0)
    result = detrend_image(
        camera.expose(r, truth, 200.0), bias=bias.data, dark=dark.data, exptime_s=200.0, flat=flat.data
    )
    variance = propagate_variance(
        truth,
        gain_e_per_adu=GAIN,
        read_noise_e=READ_NOISE_E,
        dark=dark.data,
        exptime_s=200.0,
        flat=flat.data,
        bias_sigma=bias.sigma,
        dark_sigma=dark.sigma,
        flat_sigma=flat.sigma,
    )
    pull = (result.data - truth) / np.sqrt(variance)
    assert np.std(pull) == pytest.approx(1.0, abs=0.03)
    assert abs(np.mean(pull)) < 0.03
    untreated = (camera.expose(r, truth, 200.0) - truth) / np.sqrt(variance)
    assert np.std(untreated) > 1.5  # the test would see a step left out


def test_flats_out_of_bounds_are_refused_and_scaling_is_free_of_the_level() -> None:
    camera = Camera(5)
    levels = [300.0, 8000.0, 16_000.0, 24_000.0, 60_000.0]
    frames = raw_flats(camera, levels, 18)
    master = combine_flat(frames, camera.bias)
    assert [r.index for r in master.refused] == [0, 4]
    assert "outside 1000 .. 45000" in master.refused[0].reason
    assert master.n_clipped[[0, 4]].sum() == 0
    alone = combine_flat([frames[1] * 2 - camera.bias, frames[2] * 1.5 - camera.bias / 2, frames[3]], camera.bias)
    ratio = alone.data / master.data
    assert np.median(np.abs(ratio - 1)) < 0.002  # weights differ, the shape does not
    with pytest.raises(NoUsableFrameError):
        combine_flat(frames[:1], camera.bias)
    with pytest.raises(ValueError, match="exposure times"):
        combine_flat(frames, camera.bias, camera.dark)


def test_a_common_norm_keeps_the_relative_sensitivity_of_detectors() -> None:
    cameras, sensitivity = [Camera(s) for s in (21, 22, 23)], [0.8, 1.0, 1.3]
    levels = [10_000.0, 14_000.0, 20_000.0]
    frames = [
        raw_flats(c, [s * v for v in levels], 30 + i) for i, (c, s) in enumerate(zip(cameras, sensitivity, strict=True))
    ]
    norm = mosaic_norm([measure_levels(f, c.bias).level for f, c in zip(frames, cameras, strict=True)])
    masters = [combine_flat(f, c.bias, norm=norm) for f, c in zip(frames, cameras, strict=True)]
    medians = np.array([np.median(m.data) for m in masters])
    # levels are those of the centre, where each simulated detector is as much more sensitive than its median
    assert medians / medians[1] == pytest.approx(sensitivity, rel=0.005)
    centre = np.median(masters[1].data[80:240, 64:192])
    assert centre == pytest.approx(1.0, abs=0.005)
    assert mosaic_norm([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan]])[0] == 2.0
    with pytest.raises(ValueError, match="norm of shape"):
        combine_flat(frames[0], cameras[0].bias, norm=norm[:2])


# Fringes -------------------------------------------------------------------------------------------------------------


def fringe_pattern(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = np.sin((x + 30 * np.sin(y / 90.0)) / 7.0) * (1 + 0.3 * np.cos(y / 50.0))
    return ((wave - np.median(wave)) * 0.02).astype(np.float32)


def starry_sky(seed: int, shape: tuple[int, int], sky: float, n_stars: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected light, and a mask of the bright part of the brighter half of the stars."""
    r = rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    light, mask = sky * (1 + 0.02 * x / shape[1] + 0.03 * (y / shape[0]) ** 2), np.zeros(shape, bool)
    offset = np.arange(-12, 13)
    profile = (1 + (offset[:, None] ** 2 + offset**2) / 9.0) ** -2.5
    for k in range(n_stars):
        j, i = r.integers(13, shape[0] - 13), r.integers(13, shape[1] - 13)
        light[j - 12 : j + 13, i - 12 : i + 13] += sky * 10 ** r.uniform(-1.5, 1.0) * profile
        if k % 2:
            mask[j - 5 : j + 6, i - 5 : i + 6] = True
    return light, mask


def test_the_scale_of_a_fringe_is_recovered_within_its_error() -> None:
    shape, pulls = (512, 512), []
    pattern = fringe_pattern(shape)
    for seed in range(12):
        light, mask = starry_sky(seed, shape, 1500.0, 250)
        truth = 400.0 + 100.0 * seed
        data = rng(100 + seed).poisson(light + truth * pattern).astype(np.float32)
        data[40, :] = np.nan
        found = measure_fringe_scale(data, pattern, mask=mask, block_pix=128)
        pulls.append((found.scale - truth) / found.error)
        assert found.error < 40
    assert max(np.abs(pulls)) < 4
    assert 0.4 < np.std(pulls) < 1.6
    assert abs(np.mean(pulls)) < 1.2


def test_subtraction_takes_the_fringe_away_and_a_known_sky_may_be_given() -> None:
    shape = (512, 384)
    pattern = fringe_pattern(shape)
    light, mask = starry_sky(40, shape, 1500.0, 60)
    data = rng(41).poisson(light + 1500.0 * pattern).astype(np.float32)
    smooth, _ = starry_sky(40, shape, 1500.0, 0)
    found = measure_fringe_scale(data, pattern, smooth, mask)
    flat_sky = measure_fringe_scale(data, pattern, 1500.0, mask)
    assert found.scale == pytest.approx(flat_sky.scale, abs=0.1 * found.error)  # planes in blocks take the sky anyway
    clean = subtract_fringe(data, pattern, found.scale)
    left = measure_fringe_scale(clean, pattern, smooth, mask)
    assert abs(left.scale) < 0.2 * found.error
    assert abs(found.scale - 1500.0) < 4 * found.error
    assert subtract_fringe(data, pattern, 0.5, out=data) is data
    holed = pattern.copy()
    holed[3, 4] = np.nan
    assert np.isnan(subtract_fringe(clean, holed, 1.0)[3, 4])


def test_patterns_that_cannot_be_measured_are_refused() -> None:
    data = rng(42).normal(100, 5, (256, 256)).astype(np.float32)
    with pytest.raises(FringeError, match="power of the pattern"):
        measure_fringe_scale(data, np.zeros_like(data))
    with pytest.raises(FringeError, match="usable bins"):
        measure_fringe_scale(data, fringe_pattern(data.shape), mask=np.ones(data.shape))
    with pytest.raises(ValueError, match="cut both"):
        measure_fringe_scale(data, fringe_pattern((256, 128)))
    with pytest.raises(ValueError, match="finite scale"):
        subtract_fringe(data, data, math.nan)


def fringe_master(seed: int, n: int, shape: tuple[int, int]) -> MasterFrame:
    pattern, frames, masks = fringe_pattern(shape), [], []
    for k in range(n):
        light, mask = starry_sky(seed + k, shape, 1500.0, 30)
        smooth, _ = starry_sky(seed + k, shape, 1500.0, 0)
        data = rng(seed + 500 + k).poisson(light + smooth * pattern)
        frames.append((data / smooth - 1 + 0.003 * k).astype(np.float32))
        masks.append(mask)
    masks[0][:, :3] = masks[1][:, :3] = masks[2][:, :3] = True
    return combine_fringe(frames, masks, min_used=n - 2)


def test_a_fringe_pattern_is_combined_free_of_stars() -> None:
    shape, n = (320, 320), 9
    master, pattern = fringe_master(60, n, shape), fringe_pattern(shape)
    assert np.isnan(master.data[:, :3]).all()
    residual = (master.data - pattern)[:, 3:]
    good = np.isfinite(residual)
    assert good.mean() > 0.8
    photon = 1 / math.sqrt(1500.0 * n)
    assert np.median(np.abs(residual[good])) * 1.4826 == pytest.approx(photon, rel=0.15)
    assert np.nanmedian(master.data) == pytest.approx(0.0, abs=1e-6)
    slope = np.sum(residual[good] * pattern[:, 3:][good]) / np.sum(pattern[:, 3:][good] ** 2)
    assert abs(slope) < 0.02


# Bad pixels ----------------------------------------------------------------------------------------------------------


def test_planted_bad_pixels_and_columns_are_found_and_few_others() -> None:
    r, shape = rng(70), (600, 500)
    y, x = np.mgrid[: shape[0], : shape[1]]
    flat = (1 - 0.5 * (np.hypot(y - 300, x - 250) / 390) ** 2) * r.normal(1, 0.01, shape)
    dark, bias, scatter = r.normal(0.02, 0.004, shape), r.normal(0, 1, shape), r.normal(3, 0.3, shape)
    planted = np.zeros(shape, bool)
    for master, place, value in (
        (flat, (slice(10, 12), slice(10, 12)), 0.02),  # dead
        (flat, (100, 200), 0.6),  # low
        (flat, (100, 210), np.nan),
        (dark, (50, slice(60, 64)), 0.5),  # hot
        (scatter, (400, slice(300, 303)), 30.0),  # noisy
        (bias, (222, 333), -40.0),
    ):
        master[place] = value
        planted[place] = True
    dark[:, 77] += 0.008  # two sigma in each pixel of a column, nothing to see in single ones
    flat[300:, 411] *= 0.85
    planted[:, 77] = True
    planted[300:, 411] = True
    found = find_bad_pixels(flat, dark, bias, scatter)
    assert (found & planted).sum() > 0.97 * planted.sum()
    assert found[planted & ~np.isin(x, (77, 411))].all()
    assert found[:, 77].all()
    assert (found & ~planted & (x != 411)).sum() == 0
    assert not find_bad_pixels(flat, dark, bias, scatter, min_dark_adu_per_s=0.1)[:, 77].any()
    only_flat = find_bad_pixels(flat)
    assert only_flat[11, 11]
    assert not only_flat[50, 60:64].any()
    with pytest.raises(ValueError, match="beside a flat"):
        find_bad_pixels(flat, dark[1:])


def test_a_faint_rim_is_not_bad_but_a_dark_corner_is() -> None:
    y, x = np.mgrid[:400, :400]
    flat = np.exp(-((np.hypot(y, x) / 400.0) ** 2) * 1.5) * rng(71).normal(1, 0.005, (400, 400))
    found = find_bad_pixels(flat)
    level = np.median(flat)
    assert found[flat < 0.095 * level].all()
    assert not found[flat > 0.12 * level].any()


def test_no_warning_escapes() -> None:
    frames = normal_frames(80, 3)
    for frame in frames:
        frame[:40, :80] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        master = combine_bias(frames)
        find_bad_pixels(master.data + 1, master.data, scatter=master.scatter)
        detrend_image(frames[0], bias=master.data, flat=master.data)
    assert np.isnan(master.data[:40, :80]).all()
    assert (master.n_used[:40, :80] == 0).all()

"""Laws of combination, and the real SWarp as independent truth of the whole chain on distorted images."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from spica.algorithms.frame import Frame
from spica.algorithms.resample import pixel_map_from_wcs
from spica.algorithms.stack import (
    Clipping,
    MemoryLimitError,
    StackInput,
    StackStrip,
    amp_fractions,
    combine_clipped,
    combine_frames,
    combine_median,
    combine_sum,
    combine_weighted,
    effective_gain,
    measure_weight_factor,
    strip_rows,
    sum_contributions,
)

COMBINE = [combine_weighted, combine_median, combine_clipped, combine_sum]
SCALE = 0.2


def _cube(n: int, sigma: np.ndarray | float, seed: int = 1, shape: tuple[int, int] = (120, 150)) -> tuple:
    rng = np.random.default_rng(seed)
    sigma = np.broadcast_to(np.asarray(sigma, float), (n,))[:, None, None]
    cube = (rng.normal(0, 1, (n, *shape)) * sigma).astype(np.float32)
    return cube, np.broadcast_to(1 / sigma**2, cube.shape).astype(np.float32)


def _stars(shape: tuple[int, int], xy: np.ndarray, flux: np.ndarray, fwhm_pix: float) -> np.ndarray:
    """Gaussian stars at (n, 2) positions."""
    image, s2 = np.zeros(shape), (fwhm_pix / 2.3548) ** 2
    for (x, y), f in zip(xy, flux, strict=True):
        x0, y0 = int(x), int(y)
        rows, columns = slice(max(0, y0 - 25), y0 + 26), slice(max(0, x0 - 25), x0 + 26)
        v, u = np.mgrid[rows, columns] if rows.stop <= shape[0] and columns.stop <= shape[1] else (None, None)
        if v is not None:
            image[rows, columns] += f / (2 * math.pi * s2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 2 / s2)
    return image


def _aperture(image: np.ndarray, xy: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([image[(x - u) ** 2 + (y - v) ** 2 < radius**2].sum(dtype=float) for u, v in xy])


@pytest.mark.parametrize("n", [2, 4, 16])
def test_noise_of_the_mean_falls_as_one_over_n(n: int) -> None:
    result = combine_weighted(*_cube(n, 3.0))
    assert result.image.var() * n / 9 == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(result.weight, n / 9, rtol=1e-5)
    assert (result.n_used == n).all()


def test_inverse_variance_weights_are_optimal() -> None:
    sigma = np.array([1.0, 2.0, 3.0, 0.5, 8.0])
    cube, weight = _cube(5, sigma)
    best = combine_weighted(cube, weight).image.var()
    assert best == pytest.approx(1 / (1 / sigma**2).sum(), rel=0.05)
    rng = np.random.default_rng(2)
    for scalar in [np.ones(5), 1 / sigma, *rng.uniform(0.01, 1, (10, 5))]:
        other = np.broadcast_to(scalar[:, None, None], cube.shape).astype(np.float32)
        assert combine_weighted(cube, other).image.var() > best


@pytest.mark.parametrize("combine", COMBINE)
def test_permuting_inputs_changes_nothing(combine) -> None:
    cube, weight = _cube(7, np.arange(1.0, 8.0))
    weight[np.random.default_rng(3).random(cube.shape) < 0.2] = 0
    cube[2, 50:60, 50:60] += 500
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    first, second = combine(cube, weight), combine(cube[order], weight[order])
    np.testing.assert_allclose(first.image, second.image, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first.weight, second.weight, rtol=1e-6)
    np.testing.assert_array_equal(first.n_used, second.n_used)
    np.testing.assert_array_equal(first.n_rejected_by_input[order], second.n_rejected_by_input)
    np.testing.assert_allclose(first.weight_by_input[order], second.weight_by_input, rtol=1e-9)


@pytest.mark.parametrize("combine", COMBINE)
def test_values_of_weight_zero_never_matter(combine) -> None:
    cube, weight = _cube(6, 2.0)
    rng = np.random.default_rng(4)
    weight[rng.random(cube.shape) < 0.4] = 0
    weight[:, 10:20, 30:40] = 0
    expected = combine(cube, weight)
    for filler in (np.nan, np.inf, -1e30):
        got = combine(np.where(weight > 0, cube, np.float32(filler)), weight)
        np.testing.assert_array_equal(got.image, expected.image)
        np.testing.assert_array_equal(got.weight, expected.weight)
    assert expected.n_used.sum() + expected.n_rejected_by_input.sum() == np.count_nonzero(weight)
    assert not expected.image[10:20, 30:40].any()
    assert not expected.weight[10:20, 30:40].any()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 40])
def test_median_is_that_of_numpy_and_its_weight_is_its_noise(n: int) -> None:
    cube, weight = _cube(n, 2.0, seed=n)
    whole = combine_median(cube, weight)
    np.testing.assert_allclose(whole.image, np.median(cube, axis=0), atol=1e-6)
    assert whole.image.var() * whole.weight.mean() == pytest.approx(1.0, abs=0.06)
    weight[np.random.default_rng(n).random(cube.shape) < 0.3] = 0
    expected = np.ma.median(np.ma.array(cube, mask=weight == 0), axis=0).filled(0)
    np.testing.assert_allclose(combine_median(cube, weight).image, expected, atol=1e-6)


def test_sum_and_its_weight() -> None:
    cube, weight = _cube(4, np.array([1.0, 2.0, 2.0, 4.0]))
    result = combine_sum(cube, weight)
    np.testing.assert_allclose(result.image, cube.sum(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.weight, 1 / 25, rtol=1e-5)


def test_clipping_leaves_clean_data_alone() -> None:
    cube, weight = _cube(8, 2.0, shape=(300, 300))
    result = combine_clipped(cube, weight)
    assert result.n_rejected_by_input.sum() / cube.size < 2e-4
    assert result.image.mean() == pytest.approx(0, abs=5 * 2 / math.sqrt(cube.size))
    assert result.image.var() == pytest.approx(combine_weighted(cube, weight).image.var(), rel=2e-3)


@pytest.mark.parametrize("n", [3, 4, 8])
def test_clipping_removes_cosmic_rays_and_trails_from_the_right_input(n: int) -> None:
    clean, weight = _cube(n, 2.0, seed=5)
    cube = clean.copy()
    hits = np.random.default_rng(6).random(cube.shape[1:]) < 0.01
    hits[70] = False
    cube[1, hits] += 60
    cube[2, 70] += np.float32(40)
    result = combine_clipped(cube, weight)
    assert abs(result.image - combine_weighted(clean, weight).image).max() < 4 * 2
    assert result.image.mean() == pytest.approx(clean.mean(), abs=0.01)
    assert result.n_rejected_by_input[1] >= hits.sum()
    assert result.n_rejected_by_input[2] >= 150
    assert result.n_rejected_by_input[0] < 20
    dirty = combine_weighted(cube, weight).image
    assert abs(dirty - combine_weighted(clean, weight).image).max() > 10 / n * 4


def test_one_input_always_stays() -> None:
    cube = np.array([0.0, 0.0, 1000.0, 1000.0], np.float32)[:, None, None] * np.ones((4, 5, 5), np.float32)
    result = combine_clipped(cube, np.ones_like(cube), Clipping(amp_fraction=0.0))
    assert (result.n_used == 2).all()
    assert (result.image == 0).all()


def test_clipping_keeps_the_photometry_of_stars_under_varying_seeing() -> None:
    """Seeing from 0.6 to 1.2 arcsec, up to saturation: no star loses 2 mmag; without the tolerance they do."""
    seeing = np.array([0.6, 1.2, 0.7, 1.1, 0.8, 1.0, 0.9, 0.65])
    gx, gy = np.meshgrid(np.arange(40, 401, 40.0), np.arange(40, 401, 40.0))
    rng = np.random.default_rng(7)
    xy = np.stack([gx.ravel(), gy.ravel()], axis=1) + rng.uniform(0, 1, (gx.size, 2))
    flux = 10 ** rng.uniform(4, 6.2, len(xy))
    shape, sigma = (440, 440), 5.0
    noise, weight = _cube(8, sigma, shape=shape)
    cube = np.stack([_stars(shape, xy, flux, s / SCALE) for s in seeing]).astype(np.float32) + noise
    truth = _aperture(combine_weighted(cube, weight).image, xy, 15)

    def bias(amp: np.ndarray) -> np.ndarray:
        got = _aperture(combine_clipped(cube, weight, amp_fraction=amp).image, xy, 15)
        return 2.5 * np.log10(got / truth)

    known = bias(amp_fractions(seeing))
    assert np.abs(known[flux > 3e4]).max() < 2e-3
    assert np.abs(np.median(known)) < 2e-4
    assert np.abs(bias(np.zeros(8))).max() > 2e-2
    hit = cube.copy()
    hit[3, 60, 60] += 400.0
    assert combine_clipped(hit, weight, amp_fraction=amp_fractions(seeing)).n_rejected_by_input[3] >= 1
    np.testing.assert_allclose(amp_fractions([0.6, 1.2, np.nan]), [3.3, 1.05, 0.3])


def test_weight_factor_makes_weights_absolute() -> None:
    rng = np.random.default_rng(8)
    relative = rng.uniform(0.2, 1.0, (800, 900))
    data = rng.normal(1000, 1, relative.shape) * 1.0
    data = 1000 + (data - 1000) * 7.0 / np.sqrt(relative) + np.linspace(0, 300, 900)
    data[100:110, 100:110] += 5e4
    relative[:, 5] = 0
    data[:, 5] = np.nan
    assert measure_weight_factor(data, relative) == pytest.approx(1 / 49, rel=0.01)
    assert math.isnan(measure_weight_factor(data, relative * 0))
    with pytest.raises(ValueError, match="one image"):
        measure_weight_factor(data, relative[1:])


def test_effective_gain_states_the_poisson_noise() -> None:
    rng = np.random.default_rng(9)
    gain, scale, fraction, flux = np.array([1.5, 2.0]), np.array([1.0, 2.5]), np.array([0.6, 0.4]), 1000.0
    electrons = rng.poisson((flux / scale * gain)[:, None], (2, 200_000))
    mean = (fraction * scale / gain) @ electrons
    assert mean.mean() == pytest.approx(flux, rel=1e-3)
    assert flux / mean.var() == pytest.approx(effective_gain(fraction, gain, scale), rel=0.02)


def test_strips_cover_every_row_once_within_the_limit() -> None:
    strips = strip_rows((1000, 2000), 10, 20_000_000)
    assert [s.start for s in strips[1:]] == [s.stop for s in strips[:-1]]
    assert (strips[0].start, strips[-1].stop) == (0, 1000)
    assert (strips[0].stop - strips[0].start) * 2000 * 8 * 10 <= 20_000_000
    assert len(strip_rows((10, 10), 3, 1 << 20)) == 1
    with pytest.raises(MemoryLimitError, match="raise the memory limit") as caught:
        strip_rows((1000, 20000), 100, 10_000_000)
    assert caught.value.needed_bytes > caught.value.limit_bytes


def test_unusable_arguments_are_refused() -> None:
    cube, weight = _cube(3, 1.0)
    with pytest.raises(ValueError, match="two cubes"):
        combine_weighted(cube, weight[:2])
    with pytest.raises(ValueError, match="kappa"):
        Clipping(kappa=0)
    frame = _frame(100)
    with pytest.raises(ValueError, match="choose weighted"):
        list(combine_frames([], frame, "mode"))  # type: ignore[arg-type]
    item = StackInput(np.ones((50, 50)), None, pixel_map_from_wcs(_wcs(50, 0.0, (0, 0)), (50, 50), _frame(90)))
    with pytest.raises(ValueError, match="map it anew"):
        list(combine_frames([item], frame))


def _wcs(n: int, rotation_deg: float, shift_pix: tuple[float, float]) -> WCS:
    """TPV WCS of an n x n image, bent by some pixels at its rim."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [(n + 1) / 2 + shift_pix[0], (n + 1) / 2 + shift_pix[1]]
    c, s = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    wcs.wcs.cd = SCALE / 3600 * np.array([[-c, s], [s, c]])
    wcs.wcs.set_pv(
        [(1, 1, 1.0), (1, 4, 0.2), (1, 7, 4.0), (1, 9, 4.0), (2, 1, 1.0), (2, 5, -0.2), (2, 7, 4.0), (2, 9, 4.0)]
    )
    wcs.wcs.set()
    return wcs


def _frame(n: int) -> Frame:
    return Frame(150.0, 2.0, (n - 1) / 2, (n - 1) / 2, SCALE, (n, n))


class _Scene:
    """Five distorted exposures of one field: stars, noise, a bad column, flux scales, cosmic rays."""

    n = 600
    sigma = 8.0
    scales = (1.0, 1.2, 0.9, 1.05, 1.0)

    def __init__(self, cosmics: bool) -> None:
        rng = np.random.default_rng(10)
        self.frame = _frame(660)
        gx, gy = np.meshgrid(np.arange(90, 571, 60.0), np.arange(90, 571, 60.0))
        self.xy = np.stack([gx.ravel(), gy.ravel()], axis=1) + rng.uniform(-5, 5, (gx.size, 2))
        self.flux = 10 ** rng.uniform(5, 6, len(self.xy))
        sky = np.stack(self.frame.pixel_to_sky(*self.xy.T))
        turns = ((0.0, (0, 0)), (1.5, (7.3, -4.6)), (-2.0, (-9.8, 3.1)), (0.7, (4.4, 11.9)), (90.0, (-3.5, -8.2)))
        self.wcs, self.data, self.weight = [], [], []
        for (rotation, shift), scale in zip(turns, self.scales, strict=True):
            wcs = _wcs(self.n, rotation, shift)
            x, y = wcs.all_world2pix(*sky, 0)
            image = _stars((self.n, self.n), np.stack([x, y], axis=1), self.flux / scale, 4.2)
            image += rng.normal(0, self.sigma, image.shape)
            weight = np.full(image.shape, 1 / self.sigma**2)
            bad = int(rng.integers(20, self.n - 20))
            weight[:, bad], image[:, bad] = 0, 6e4
            if cosmics:
                image[rng.random(image.shape) < 3e-4] += 3000
            self.wcs.append(wcs)
            self.data.append(image.astype(np.float32))
            self.weight.append(weight.astype(np.float32))

    def inputs(self) -> list[StackInput]:
        maps = [pixel_map_from_wcs(w, (self.n, self.n), self.frame) for w in self.wcs]
        return [StackInput(*part) for part in zip(self.data, self.weight, maps, self.scales, strict=True)]

    def whole(self, method: str, limit: int = 1 << 30) -> tuple[np.ndarray, np.ndarray, list[StackStrip]]:
        strips = list(combine_frames(self.inputs(), self.frame, method, limit))  # type: ignore[arg-type]
        return np.concatenate([s.image for s in strips]), np.concatenate([s.weight for s in strips]), strips

    def swarp(self, folder: Path, method: str) -> tuple[np.ndarray, np.ndarray]:
        names = []
        for k, (wcs, data, weight) in enumerate(zip(self.wcs, self.data, self.weight, strict=True)):
            header = wcs.to_header()
            header["FLXSCALE"] = self.scales[k]
            fits.writeto(folder / f"e{k}.fits", data, header)
            fits.writeto(folder / f"e{k}.weight.fits", weight, header)
            names.append(f"e{k}.fits")
        header = self.frame.to_wcs().to_header()
        header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, self.frame.shape[1], self.frame.shape[0]
        (folder / "out.head").write_text("\n".join(str(card) for card in header.cards) + "\nEND\n")
        options = {
            "IMAGEOUT_NAME": "out.fits", "WEIGHTOUT_NAME": "out.weight.fits", "WEIGHT_TYPE": "MAP_WEIGHT",
            "RESCALE_WEIGHTS": "N", "COMBINE_TYPE": method, "SUBTRACT_BACK": "N", "RESAMPLING_TYPE": "LANCZOS3",
            "FSCALASTRO_TYPE": "VARIABLE", "WRITE_XML": "N", "VERBOSE_TYPE": "QUIET", "NTHREADS": "1",
        }  # fmt: skip
        arguments = [a for key, value in options.items() for a in (f"-{key}", value)]
        subprocess.run(["SWarp", *names, *arguments], cwd=folder, check=True, capture_output=True, timeout=120)
        return fits.getdata(folder / "out.fits").astype(float), fits.getdata(folder / "out.weight.fits").astype(float)


@pytest.mark.parametrize(("method", "cosmics"), [("WEIGHTED", False), ("CLIPPED", True)])
def test_stack_agrees_with_the_real_swarp(tmp_path: Path, method: str, cosmics: bool) -> None:
    scene = _Scene(cosmics)
    image, weight, _ = scene.whole(method.lower())
    truth, truth_weight = scene.swarp(tmp_path, method)
    full = (weight > 0.8 * np.median(weight[weight > 0])) & (
        truth_weight > 0.8 * np.median(truth_weight[truth_weight > 0])
    )
    assert full.sum() > 0.6 * 600**2
    sigma = 1 / np.sqrt(weight[full])
    assert np.median(np.abs(image - truth)[full] / sigma) < 0.05
    assert np.median(weight[full] / truth_weight[full]) == pytest.approx(1.0, abs=0.02)
    ours, theirs = _aperture(image, scene.xy, 12), _aperture(truth, scene.xy, 12)
    difference_mag = 2.5 * np.log10(ours / theirs)
    assert abs(np.median(difference_mag)) < 1e-3
    assert abs(2.5 * np.log10(np.median(ours / scene.flux))) < 2e-3
    assert np.std(2.5 * np.log10(ours / scene.flux)) <= np.std(2.5 * np.log10(theirs / scene.flux)) + 1e-3


@pytest.mark.parametrize("method", ["weighted", "median", "clipped", "sum"])
def test_strips_are_the_whole_bit_for_bit(method: str) -> None:
    scene = _Scene(True)
    image, weight, one = scene.whole(method)
    assert len(one) == 1
    parts_image, parts_weight, parts = scene.whole(method, 9_000_000)
    assert len(parts) > 5
    np.testing.assert_array_equal(parts_image, image)
    np.testing.assert_array_equal(parts_weight, weight)
    first, second = sum_contributions(one), sum_contributions(parts)
    np.testing.assert_array_equal(first.n_used, second.n_used)
    np.testing.assert_allclose(first.weight_fraction, second.weight_fraction, rtol=1e-9)
    np.testing.assert_array_equal(first.clipped_fraction, second.clipped_fraction)
    assert first.weight_fraction.sum() == pytest.approx(1.0)
    if method == "clipped":
        assert (first.clipped_fraction > 3e-4).all()
        assert (first.clipped_fraction < 2e-2).all()
    else:
        assert (first.clipped_fraction == 0).all()
    with pytest.raises(MemoryLimitError):
        scene.whole(method, 1_000_000)


def test_detectors_that_do_not_overlap_share_a_layer_without_change() -> None:
    """A mosaic of two detectors, doubled: the tallies go to the right inputs and the order does not matter."""
    frame = Frame(150.0, 2.0, 149.5, 59.5, SCALE, (120, 300))
    rng = np.random.default_rng(11)
    inputs = []
    for shift in (75.0, -75.0, 70.0, -71.0):
        pixel_map = pixel_map_from_wcs(_wcs(100, 0.0, (shift, 0.0)), (100, 100), frame)
        inputs.append(StackInput(rng.normal(0, 1, (100, 100)) + shift, np.full((100, 100), 1.0), pixel_map))
    (strip,) = combine_frames(inputs, frame, "weighted")
    assert strip.n_used.max() == 2
    alone = [next(combine_frames([item], frame, "weighted")) for item in inputs]
    norm = sum(a.weight.astype(float) for a in alone)
    mean = sum(a.weight.astype(float) * a.image for a in alone) / np.where(norm > 0, norm, 1)
    np.testing.assert_allclose(strip.image, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(strip.n_used_by_input, [a.n_used.sum() for a in alone])
    order = [2, 0, 3, 1]
    (other,) = combine_frames([inputs[k] for k in order], frame, "weighted")
    np.testing.assert_allclose(other.image, strip.image, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(other.n_used_by_input, strip.n_used_by_input[order])


def test_stack_of_nothing_is_empty() -> None:
    (strip,) = combine_frames([], _frame(60), "clipped")
    assert strip.image.shape == (60, 60)
    assert not strip.weight.any()
    assert sum_contributions([strip]).weight_fraction.size == 0

"""Laws of the resampler: flux, position, constants, noise, bad pixels; astropy.wcs is the truth of the mapping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.wcs import WCS

from spica.algorithms.frame import Frame
from spica.algorithms.resample import (
    MAX_BAD_POWER,
    MappingError,
    PixelMap,
    build_pixel_map,
    input_rows,
    input_window,
    pixel_map_from_wcs,
    resample,
)

SCALE = 0.2
N = 300


def _wcs(rotation_deg: float = 0.0, scale: float = SCALE, shift: tuple[float, float] = (0, 0), n: int = N) -> WCS:
    """TAN WCS centred on an n x n image; rotation 0 is the frame's own orientation."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [(n + 1) / 2 + shift[0], (n + 1) / 2 + shift[1]]
    c, s = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    wcs.wcs.set()
    return wcs


def _tpv(n: int, strength: float) -> WCS:
    """TPV WCS with quadratic and cubic terms; strength 1 bends by some pixels at the rim of a field of 0.11 deg."""
    wcs = _wcs(7.0, n=n)
    wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
    cubic, square = 0.5 * strength, 0.02 * strength
    terms = [
        (1, 4, square),
        (1, 5, -square),
        (1, 7, cubic),
        (1, 9, cubic),
        (2, 4, -square),
        (2, 7, cubic),
        (2, 9, cubic),
    ]
    wcs.wcs.set_pv([(1, 1, 1.0), (2, 1, 1.0), *terms])
    wcs.wcs.set()
    return wcs


def _frame(n: int = 360, scale: float = SCALE) -> Frame:
    return Frame(150.0, 2.0, (n - 1) / 2, (n - 1) / 2, scale, (n, n))


def _map(wcs: WCS, frame: Frame, n: int = N) -> PixelMap:
    return pixel_map_from_wcs(wcs, (n, n), frame)


def _star(n: int, x0: float, y0: float, fwhm: float, flux: float, moffat: bool) -> np.ndarray:
    y, x = np.mgrid[:n, :n].astype(float)
    r2 = (x - x0) ** 2 + (y - y0) ** 2
    if moffat:
        beta = 4.5
        a2 = (fwhm / 2) ** 2 / (2 ** (1 / beta) - 1)
        return flux * (beta - 1) / (math.pi * a2) * (1 + r2 / a2) ** -beta
    s2 = (fwhm / 2.3548) ** 2
    return flux / (2 * math.pi * s2) * np.exp(-r2 / 2 / s2)


def _centroid(image: np.ndarray, x0: float, y0: float, s: float) -> tuple[float, float]:
    """Centroid under a Gaussian window, iterated to its fixed point (unbiased for round profiles)."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    for _ in range(30):
        w = image * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 2 / s**2)
        x0, y0 = x0 + 2 * ((w * x).sum() / w.sum() - x0), y0 + 2 * ((w * y).sum() / w.sum() - y0)
    return x0, y0


@pytest.mark.parametrize("kernel", ["lanczos3", "lanczos2", "bilinear", "nearest"])
def test_identity_returns_the_input(kernel: str) -> None:
    rng = np.random.default_rng(1)
    data, weight = rng.normal(100, 10, (N, N)).astype(np.float32), rng.uniform(0.5, 2, (N, N)).astype(np.float32)
    weight[100:103, 50] = 0
    image, out = resample(data, weight, _map(_wcs(), _frame(N)), kernel=kernel)
    good = weight > 0
    np.testing.assert_allclose(image[good], data[good], rtol=2e-7)
    np.testing.assert_allclose(out, weight, rtol=1e-6)
    assert (image[~good] == 0).all()


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<i2", ">i2", "<u2", ">f8"])
def test_every_number_type_gives_the_same(dtype: str) -> None:
    values = np.random.default_rng(2).integers(0, 30000, (N, N))
    pixel_map = _map(_wcs(3.0), _frame())
    expected = resample(values.astype(np.float32), None, pixel_map)
    got = resample(values.astype(dtype), None, pixel_map)
    np.testing.assert_array_equal(got[0], expected[0])


@pytest.mark.parametrize("moffat", [False, True])
@pytest.mark.parametrize(("rotation", "ratio"), [(0, 1.0), (30, 1.0), (0, 0.7), (0, 1.4), (30, 1.4), (117, 0.85)])
def test_flux_of_sources_is_conserved(rotation: float, ratio: float, moffat: bool) -> None:
    n_out = round(360 / ratio)
    frame = _frame(n_out, SCALE * ratio)
    data = _star(N, 150.37, 148.81, 4.0, 1e5, moffat)
    image, _ = resample(data, None, _map(_wcs(rotation, shift=(0.3, 0.6)), frame), flux_scale=1.3)
    y, x = np.mgrid[:n_out, :n_out]
    for plane, total, side in ((data, 1e5, 1.0), (image, 1.3e5, ratio)):
        assert plane.sum(dtype=float) == pytest.approx(total, rel=1e-3), side
    near = np.hypot(x - (n_out - 1) / 2, y - (n_out - 1) / 2) < 40 / ratio
    assert image[near].sum(dtype=float) == pytest.approx(1.3 * data.sum(), rel=1e-3)


def test_flux_is_conserved_under_distortion_and_fixed_scaling_is_not() -> None:
    n, frame, wcs = 1000, _frame(1100), _tpv(1000, 20.0)
    pixel_map = pixel_map_from_wcs(wcs, (n, n), frame)
    assert np.nanmax(pixel_map.area_ratio) / np.nanmin(pixel_map.area_ratio) > 1.01
    data = np.zeros((n, n))
    data[820:880, 820:880] = _star(60, 29.6, 30.2, 4.0, 1e5, False)
    variable, _ = resample(data, None, pixel_map)
    fixed, _ = resample(data, None, pixel_map, area_scaling="fixed")
    none, _ = resample(data, None, pixel_map, area_scaling="none")
    assert variable.sum(dtype=float) == pytest.approx(1e5, rel=1e-3)
    assert abs(fixed.sum(dtype=float) / 1e5 - 1) > 5e-3
    np.testing.assert_allclose(fixed, none * pixel_map.area_at_center, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("moffat", [False, True])
@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, 0.8), (0.1, 0.37)])
def test_stars_stay_in_place(shift: tuple[float, float], moffat: bool) -> None:
    frame, wcs = _frame(), _wcs(30.0, shift=shift)
    data = _star(N, 151.2, 147.6, 4.0, 1e5, moffat)
    image, _ = resample(data, None, _map(wcs, frame))
    x, y = (float(v) for v in frame.sky_to_pixel(*wcs.all_pix2world(151.2, 147.6, 0)))
    got = _centroid(image, x + 0.2, y - 0.2, 2.0)
    assert math.hypot(got[0] - x, got[1] - y) < 1e-3


@pytest.mark.parametrize("kernel", ["lanczos3", "lanczos2", "bilinear", "nearest"])
def test_constants_stay_constant(kernel: str) -> None:
    data, weight = np.full((N, N), 1234.5, np.float32), np.full((N, N), 0.25, np.float32)
    weight[40:200, 77] = 0
    data[40:200, 77] = np.nan
    pixel_map = _map(_wcs(23.0, shift=(0.4, 0.1)), _frame())
    image, out = resample(data, weight, pixel_map, kernel=kernel, area_scaling="none")
    inside = out > 0
    assert inside.sum() > 0.95 * N * N
    np.testing.assert_allclose(image[inside], 1234.5, rtol=1e-6)
    flat = resample(data, np.full((N, N), 0.25), pixel_map, area_scaling="none")[1]
    whole = flat > 0.2499
    np.testing.assert_allclose(flat[whole], 0.25, rtol=1e-5)
    assert whole.sum() > 0.95 * N * N


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.4, 2.0, 3.1])
def test_weight_states_the_noise_of_apertures(ratio: float) -> None:
    """Sums over boxes of 20 x 20 input pixels scatter as the weight says (the formula of the module)."""
    n = 1200
    rng = np.random.default_rng(4)
    data = rng.normal(0, 3.0, (n, n)).astype(np.float32)
    frame = _frame(round(n / ratio), SCALE * ratio)
    pixel_map = pixel_map_from_wcs(_wcs(11.0, n=n), (n, n), frame)
    image, weight = resample(data, np.full((n, n), 1 / 9), pixel_map, flux_scale=2.0)
    side = max(8, round(20 / ratio))
    m = frame.shape[0] // side
    boxes = image[: m * side, : m * side].reshape(m, side, m, side)
    known = (weight[: m * side, : m * side].reshape(m, side, m, side) > 0).all(axis=(1, 3))
    sums = boxes.sum(axis=(1, 3), dtype=float)[known]
    expected = side**2 / float(np.median(weight[weight > 0]))
    error = 5 * math.sqrt(2 / sums.size)
    assert sums.var() / expected == pytest.approx(1.0, abs=error)


def test_aperture_noise_for_weight_formula_of_scales() -> None:
    pixel_map = _map(_wcs(), _frame(300, SCALE * 1.2))
    area = 1.44
    for mode, factor in (("variable", area), ("fixed", area), ("none", 1.0)):
        _, weight = resample(np.zeros((N, N)), np.full((N, N), 4.0), pixel_map, flux_scale=1.5, area_scaling=mode)
        assert weight[150, 150] == pytest.approx(4.0 * area / (1.5 * factor) ** 2, rel=1e-4)


@pytest.mark.parametrize("rotation", [0.0, 30.0])
def test_bad_pixels_never_leak(rotation: float) -> None:
    """Whatever stands in bad pixels, the output is bit for bit the same, and close to that without bad pixels."""
    rng = np.random.default_rng(5)
    truth = np.zeros((N, N))
    for x, y in rng.uniform(20, N - 20, (80, 2)):
        truth += _star(N, x, y, 4.0, 1e4, False)
    bad = rng.random((N, N)) < 0.01
    bad[:, 120] = True
    bad[200:240, 60:90] = True
    weight = np.where(bad, 0.0, 1.0)
    pixel_map = _map(_wcs(rotation, shift=(0.45, 0.3)), _frame())
    outputs = []
    for filler in (1e9, -1e9, np.nan, np.inf):
        outputs.append(resample(np.where(bad, filler, truth), weight, pixel_map))
        np.testing.assert_array_equal(outputs[0][0], outputs[-1][0])
        np.testing.assert_array_equal(outputs[0][1], outputs[-1][1])
    clean, clean_weight = resample(truth, None, pixel_map)
    image, out = outputs[0]
    assert (image[out == 0] == 0).all()
    both = (out > 0) & (clean_weight > 0)
    peak = 1e4 / (2 * math.pi * (4.0 / 2.3548) ** 2)
    assert np.abs(image - clean)[both].max() < math.sqrt(MAX_BAD_POWER) * 0.15 * peak
    assert np.abs(image - clean)[both].mean() < 1e-3 * peak
    assert 0.9 < both.sum() / (clean_weight > 0).sum() < 0.97


def test_bad_weights_are_bad_pixels() -> None:
    data = np.ones((N, N))
    pixel_map = _map(_wcs(), _frame(N))
    for value in (-1.0, np.nan, np.inf, 0.0):
        weight = np.ones((N, N))
        weight[80, 90] = value
        image, out = resample(data, weight, pixel_map)
        assert out[80, 90] == image[80, 90] == 0
        assert (out > 0).sum() == N * N - 1


def test_a_single_bad_pixel_biases_less_than_one_percent_of_a_peak() -> None:
    truth = _star(N, 150.2, 149.7, 4.0, 1e5, False)
    weight = np.ones((N, N))
    weight[150, 151] = 0
    for shift in ((0.0, 0.0), (0.2, 0.3), (0.5, 0.5), (0.75, 0.9)):
        pixel_map = _map(_wcs(shift=shift), _frame())
        clean, _ = resample(truth, None, pixel_map)
        image, out = resample(truth, weight, pixel_map)
        assert np.abs(image - clean)[out > 0].max() < 0.01 * clean.max()


def test_nothing_is_extrapolated() -> None:
    wcs, frame = _wcs(20.0, shift=(0.3, 0.2)), _frame(460)
    image, out = resample(np.ones((N, N)), None, _map(wcs, frame), area_scaling="none")
    y, x = np.mgrid[:460, :460]
    u, v = wcs.all_world2pix(*frame.pixel_to_sky(x, y), 0)
    assert not (out[(u < -0.01) | (v < -0.01) | (u > N - 0.99) | (v > N - 0.99)] > 0).any()
    assert (out[(u > 1.5) & (v > 1.5) & (u < N - 2.5) & (v < N - 2.5)] > 0).all()
    np.testing.assert_allclose(image[out > 0], 1.0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.02, 20.0])
def test_mapping_is_that_of_astropy(strength: float) -> None:
    n, frame = 2000, _frame(2100)
    wcs = _tpv(n, strength)
    pixel_map = pixel_map_from_wcs(wcs, (n, n), frame)
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0, n - 1, (2, 4000))
    fx, fy = frame.sky_to_pixel(*wcs.all_pix2world(x, y, 0))
    u, v = pixel_map.evaluate(fx, fy)
    inside = np.isfinite(u)
    assert inside.sum() > 3000
    error = np.hypot(u - x, v - y)[inside].max()
    assert error < 0.003
    assert error <= pixel_map.error_pix < 0.001
    assert pixel_map.step_pix == 32 if strength == 0.02 else pixel_map.step_pix < 32


def test_sip_is_followed() -> None:
    wcs = _wcs(5.0)
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], b[0, 2], b[1, 1] = 3e-5, -2e-5, 1e-5
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    from astropy.wcs import Sip

    wcs.sip = Sip(a, b, np.zeros((3, 3)), np.zeros((3, 3)), wcs.wcs.crpix)
    frame = _frame()
    x, y = np.random.default_rng(7).uniform(5, N - 5, (2, 500))
    u, v = _map(wcs, frame).evaluate(*frame.sky_to_pixel(*wcs.all_pix2world(x, y, 0)))
    assert np.hypot(u - x, v - y).max() < 0.003


def test_unusable_distortion_is_refused() -> None:
    frame = _frame()

    def forward(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return frame.pixel_to_sky(x, y)

    def rippled(ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = frame.sky_to_pixel(ra, dec)
        return x + 0.5 * np.sin(x * 2.1), y

    with pytest.raises(MappingError, match="astrometry again"):
        build_pixel_map(rippled, forward, (N, N), frame)
    with pytest.raises(MappingError, match="singular"):
        build_pixel_map(lambda ra, dec: (ra * 0, dec), forward, (N, N), frame)


def test_image_off_the_frame_gives_nothing() -> None:
    for ra in (151.0, 330.0):
        wcs = _wcs()
        wcs.wcs.crval = [ra, 2.0 if ra < 200 else -2.0]
        wcs.wcs.set()
        pixel_map = _map(wcs, _frame())
        assert pixel_map.is_empty
        image, weight = resample(np.ones((N, N)), None, pixel_map)
        assert not image.any()
        assert not weight.any()
        assert input_rows(pixel_map) == slice(0, 0)


@pytest.mark.parametrize(("rotation", "ratio"), [(0.3, 1.0), (33.0, 0.8), (90.0, 1.0), (180.0, 2.2)])
def test_strips_are_the_whole_bit_for_bit_and_touch_only_their_rows(rotation: float, ratio: float) -> None:
    rng = np.random.default_rng(8)
    data, weight = rng.normal(100, 5, (N, N)).astype(np.float32), rng.uniform(1, 2, (N, N)).astype(np.float32)
    weight[rng.random((N, N)) < 0.03] = 0
    weight[100:140, 30:90] = 0
    sky = np.linspace(90, 110, N * N).reshape(N, N)
    pixel_map = _map(_wcs(rotation), _frame(round(400 / ratio), SCALE * ratio))
    whole = resample(data, weight, pixel_map, background=sky)
    for start in range(0, pixel_map.frame_shape[0], 37):
        rows = slice(start, min(start + 37, pixel_map.frame_shape[0]))
        window = input_window(pixel_map, rows)
        assert window[0] == input_rows(pixel_map, rows)
        mask = np.full((N, N), 1e30)
        mask[window] = 0  # what lies outside the window must not matter
        part = resample(data + mask, weight, pixel_map, rows, background=lambda r: sky[r])
        np.testing.assert_array_equal(part[0], whole[0][rows])
        np.testing.assert_array_equal(part[1], whole[1][rows])
    narrow = input_rows(_map(_wcs(0.3), _frame(400)), slice(200, 210))
    assert narrow.stop - narrow.start < 40


def test_background_is_subtracted_in_every_form() -> None:
    rng = np.random.default_rng(9)
    data = rng.normal(500, 5, (N, N)).astype(np.float32)
    pixel_map = _map(_wcs(3.0), _frame())
    expected = resample(data - 500, None, pixel_map)[0]
    full = np.full((N, N), 500.0)
    for background in (500.0, full, lambda rows: full[rows]):
        np.testing.assert_allclose(resample(data, None, pixel_map, background=background)[0], expected, atol=1e-3)
    with pytest.raises(ValueError, match="background"):
        resample(data, None, pixel_map, background=np.ones((3, 3)))


def test_out_is_written_only_where_there_is_data() -> None:
    pixel_map = _map(_wcs(30.0), _frame())
    image, weight = resample(np.ones((N, N)), None, pixel_map)
    out = np.full(image.shape, 7, np.float32), np.full(image.shape, 8, np.float32)
    resample(np.ones((N, N)), None, pixel_map, out=out)
    np.testing.assert_array_equal(out[0], np.where(weight > 0, image, 7))
    np.testing.assert_array_equal(out[1], np.where(weight > 0, weight, 8))


def test_arguments_out_of_range_are_refused() -> None:
    pixel_map, data = _map(_wcs(), _frame()), np.ones((N, N))
    for call in (
        lambda: resample(data[1:], None, pixel_map),
        lambda: resample(data, data[1:], pixel_map),
        lambda: resample(data, None, pixel_map, flux_scale=math.nan),
        lambda: resample(data, None, pixel_map, oversampling=-1),
        lambda: resample(data, None, pixel_map, kernel="cubic"),
        lambda: resample(data, None, pixel_map, area_scaling="some"),
        lambda: resample(data, None, pixel_map, slice(0, 10, 2)),
        lambda: resample(data, None, pixel_map, out=(np.zeros((3, 3), np.float32),) * 2),
    ):
        with pytest.raises(ValueError, match=r"give|choose"):
            call()

"""The whole assessment of one detector, a stack and a mosaic, on an image whose truth is known."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spica.algorithms.aperture import aperture_noise
from spica.algorithms.quality import (
    STACK_PARAMETERS,
    DetectorQuality,
    QualityParameters,
    aggregate_quality,
    assess_detector,
)

SIZE, GAIN, SCALE, FWHM, SKY, SATURATION = 700, 1.5, 0.2, 4.0, 800.0, 50_000.0
FACTS = {
    "exptime_s": 100.0,
    "gain_e_per_adu": GAIN,
    "read_noise_e": 4.0,
    "saturation_adu": SATURATION,
    "pixel_scale_arcsec": SCALE,
}
NOISE = math.sqrt(SKY / GAIN + (4.0 / GAIN) ** 2)


def exposure(seed: int, n_stars: int = 150) -> np.ndarray:
    """Pixel-sampled Moffat stars on a flat sky, with photon and read noise."""
    rng = np.random.default_rng(seed)
    image = np.full((SIZE, SIZE), SKY)
    radius2 = FWHM**2 / (4 * (2 ** (1 / 3) - 1))
    y, x = np.ogrid[-40:41, -40:41]
    for _ in range(n_stars):
        xc, yc, flux = *rng.uniform(45, SIZE - 45, 2), 10 ** rng.uniform(3, 5.3)
        xi, yi = round(xc), round(yc)
        profile = (1 + ((x + xi - xc) ** 2 + (y + yi - yc) ** 2) / radius2) ** -3.0
        image[yi - 40 : yi + 41, xi - 40 : xi + 41] += flux * 2 / (np.pi * radius2) * profile
    return (rng.poisson(image * GAIN) / GAIN + rng.normal(0, 4.0 / GAIN, image.shape)).astype(np.float32)


def assess(image: np.ndarray, **options: object) -> DetectorQuality:
    return assess_detector(image, **{**FACTS, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def quality() -> DetectorQuality:
    image = exposure(1)
    image[100:104, 200] += 3000.0  # a cosmic ray
    image[:, 333] += 200.0  # a hot column
    image[500:503, 100:103] = 60_000.0  # saturated
    y, x = np.mgrid[:SIZE, :SIZE]
    image += (60.0 * np.exp(-0.5 * ((x * np.cos(0.6) + y * np.sin(0.6) - 500.0) / 1.5) ** 2)).astype(np.float32)
    return assess(image, zero_point_mag=26.0, parameters=QualityParameters(psf_pixel_integrated=False))


def test_measures_are_those_put_in(quality: DetectorQuality) -> None:
    assert quality.background_adu == pytest.approx(SKY, abs=1.0)
    assert quality.noise_adu == pytest.approx(NOISE, rel=0.02)
    assert quality.fwhm_pix == pytest.approx(FWHM, rel=0.02)
    assert quality.seeing_arcsec == pytest.approx(FWHM * SCALE, rel=0.02)
    assert quality.ellipticity < 0.01
    assert quality.moffat_beta == pytest.approx(3.0, rel=0.1)
    assert quality.psf_chi2 == pytest.approx(1.0, abs=0.15)
    assert 100 < quality.n_sources < 190
    assert 30 < quality.n_stars <= quality.sources["star"].sum()


def test_defects_are_found_and_weigh_nothing(quality: DetectorQuality) -> None:
    assert quality.cosmics[100:104, 200].all()
    assert quality.bad_columns[:, 333].all()
    assert quality.n_trails == len(quality.trails) == 1
    assert quality.weight[500:503, 100:103].max() == 0.0
    for mask in (quality.cosmics, quality.bad_columns, quality.trail_mask):
        assert not quality.weight[mask].any()
    assert quality.saturated_fraction == pytest.approx(25 / SIZE**2)
    assert quality.cosmic_fraction == pytest.approx(quality.cosmics.mean())
    assert quality.masked_fraction == pytest.approx(np.mean(quality.weight == 0))
    assert quality.cosmics.sum() < 60
    assert np.median(quality.weight[quality.weight > 0]) == pytest.approx(1.0, rel=1e-3)


def test_limits_as_printed(quality: DetectorQuality) -> None:
    radius = 1.0 / SCALE
    assert quality.limiting_flux_adu == pytest.approx(5 * quality.noise_adu * math.sqrt(math.pi) * radius)
    assert quality.limiting_mag == pytest.approx(26.0 - 2.5 * math.log10(quality.limiting_flux_adu / 100.0))
    assert assess(exposure(2)).limiting_mag is None


def test_the_limit_is_five_sigma_of_empty_apertures() -> None:
    image = np.random.default_rng(3).normal(SKY, NOISE, (SIZE, SIZE))
    measured = aperture_noise(
        (image - SKY).astype(np.float32), np.zeros(image.shape, dtype=bool), 10.0, 2000, np.random.default_rng(4)
    )
    assert assess(image).limiting_flux_adu == pytest.approx(5 * measured, rel=0.06)


def test_correlated_noise_is_seen_only_by_empty_apertures() -> None:
    rng = np.random.default_rng(5)
    white = rng.normal(0, 1.0, (SIZE + 1, SIZE + 1))
    smooth = (
        white[1:, 1:] + white[1:, :-1] + white[:-1, 1:] + white[:-1, :-1]
    ) / 2.0  # rms 1, summed flux noise doubled
    quality = assess(smooth, weight=np.ones(smooth.shape), parameters=STACK_PARAMETERS, rng=rng, saturation_adu=None)
    naive = 5 * quality.noise_adu * math.sqrt(math.pi) * 5.0
    assert quality.noise_adu == pytest.approx(1.0, rel=0.05)
    assert 1.7 < quality.limiting_flux_adu / naive < 2.1  # 2 but for the rim of the aperture


def test_the_depth_is_that_of_the_median_weight_though_empty_sky_lies_at_shallow_edges() -> None:
    """Two thirds are deep and crowded, the rest shallow (a quarter of the weight) and empty."""
    rng = np.random.default_rng(11)
    weight = np.ones((SIZE, SIZE))
    weight[: SIZE // 3] = 0.25
    image = rng.normal(0, 1.0, (SIZE, SIZE)) / np.sqrt(weight)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    for y0 in range(SIZE // 3 + 12, SIZE - 8, 22):
        for x0 in range(10, SIZE - 8, 22):
            image += 400.0 * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 4.0)
    found = assess(image, weight=weight, parameters=STACK_PARAMETERS, rng=rng, saturation_adu=None)
    expected = 5 * 1.0 * math.sqrt(math.pi) * 5.0
    assert found.limiting_flux_adu == pytest.approx(expected, rel=0.2)


def test_a_stack_keeps_its_weight_and_noise_follows_it() -> None:
    rng = np.random.default_rng(6)
    weight = np.ones((SIZE, SIZE), dtype=np.float32)
    weight[:, 350:], weight[:20] = 4.0, 0.0
    image = 10.0 * rng.normal(size=weight.shape) / np.sqrt(np.maximum(weight, 0.1))
    image[:20] = 1e5
    quality = assess(image, weight=weight, parameters=STACK_PARAMETERS, rng=rng, zero_point_mag=30.0)
    np.testing.assert_array_equal(quality.weight, weight)
    assert quality.n_trails == quality.cosmic_fraction == 0
    assert quality.n_sources < 12  # where the noise map is wrong by two, hundreds stand out
    assert quality.masked_fraction == pytest.approx(20 / SIZE)


def test_flat_and_bad_pixels_enter_the_weight() -> None:
    flat, bad = np.ones((SIZE, SIZE)), np.zeros((SIZE, SIZE), dtype=np.uint8)
    flat[:, :100], bad[300:310] = 0.5, 1
    weight = assess(exposure(7), flat=flat, bad_pixels=bad).weight
    assert not weight[300:310].any()
    ratio = np.median(weight[400:, :100]) / np.median(weight[400:, 200:])
    assert ratio == pytest.approx(0.25, rel=0.1)


def test_byte_order_changes_nothing_and_threads_do_not_mix() -> None:
    images = [exposure(8), exposure(9)]
    alone = [assess(image) for image in images]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(assess, [images[0].astype(">f4"), images[1], *images]))
    for k, found in enumerate(together):
        for name in found.sources.dtype.names or ():
            np.testing.assert_array_equal(found.sources[name], alone[k % 2].sources[name])
        np.testing.assert_array_equal(found.weight, alone[k % 2].weight)
        assert found.fwhm_pix == alone[k % 2].fwhm_pix


@pytest.mark.parametrize(
    "image",
    [
        np.full((80, 90), np.nan),
        np.zeros((50, 40)),
        np.full((200, 210), 9.0),
        np.full((100, 100), 60_000.0),
        np.ones((1, 1)),
    ],
    ids=["nan", "zero", "constant", "saturated", "pixel"],
)
def test_hopeless_images_are_measured_not_refused(image: np.ndarray) -> None:
    quality = assess(image, zero_point_mag=25.0)
    assert quality.n_sources == quality.n_stars == quality.n_trails == 0
    assert math.isnan(quality.seeing_arcsec)
    assert quality.weight.shape == image.shape
    if np.isnan(image).all():
        assert math.isnan(quality.background_adu)
        assert quality.limiting_mag is None
        assert quality.masked_fraction == 1.0


def test_what_cannot_be_used_is_refused() -> None:
    image = np.ones((10, 10))
    with pytest.raises(ValueError, match="correct the header"):
        assess(image, exptime_s=0.0)
    with pytest.raises(ValueError, match="default_rng"):
        assess(image, parameters=STACK_PARAMETERS)
    with pytest.raises(ValueError, match="at least one"):
        QualityParameters(apertures_arcsec=())
    with pytest.raises(ValueError, match="cut both"):
        assess(image, mask=np.zeros((3, 3)))


def test_aperture_noise_law_and_limits() -> None:
    rng = np.random.default_rng(10)
    image = rng.normal(0, 2.0, (400, 400)).astype(np.float32)
    free = np.zeros(image.shape, dtype=bool)
    for diameter in (4.0, 12.0):
        expected = 2.0 * math.sqrt(math.pi) * diameter / 2
        assert aperture_noise(image, free, diameter, 3000, rng) == pytest.approx(expected, rel=0.08)
    image[100:, :] = 1e6
    occupied = free.copy()
    occupied[100:] = True
    assert aperture_noise(image, occupied, 6.0, 300, rng) < 15.0
    assert math.isnan(aperture_noise(image, ~free, 6.0, 300, rng))
    assert math.isnan(aperture_noise(image[:5, :5], free[:5, :5], 6.0, 300, rng))


def test_a_mosaic_is_the_median_of_its_detectors(quality: DetectorQuality) -> None:
    detectors = [
        dataclasses.replace(quality, seeing_arcsec=s, limiting_mag=m, position_angle_deg=angle, ellipticity=0.1)
        for s, m, angle in (
            (0.6, 24.0, 89.0),
            (0.8, None, -89.0),
            (0.7, 25.0, 90.0),
            (float("nan"), None, float("nan")),
        )
    ]
    detectors[3] = dataclasses.replace(detectors[3], ellipticity=float("nan"))
    whole = aggregate_quality(detectors)
    assert whole.n_detectors == 4
    assert whole.seeing_arcsec == pytest.approx(0.7)
    assert whole.limiting_mag == pytest.approx(24.5)
    assert abs(whole.position_angle_deg) == pytest.approx(90.0, abs=0.01)
    assert whole.n_sources == 4 * quality.n_sources
    assert whole.masked_fraction == pytest.approx(quality.masked_fraction)
    assert aggregate_quality(detectors[::-1]) == whole
    with pytest.raises(ValueError, match="no detector"):
        aggregate_quality([])

"""Stars and the point spread function: simulated Moffat stars of known width, shape and exponent."""

from __future__ import annotations

import numpy as np
import pytest

from spica.algorithms.background import measure_background
from spica.algorithms.detect import detect_sources, source_dtype
from spica.algorithms.psf import PsfMeasures, measure_psf, select_stars

GAIN = 1.5


def simulate(
    size: int,
    n: int,
    fwhm: float,
    rng: np.random.Generator,
    beta: float = 3.0,
    ellipticity: float = 0.0,
    angle: float = 0.0,
) -> np.ndarray:
    """Sky of 1000 ADU and Moffat stars integrated over pixels by 5 x 5 points, with photon and read noise."""
    image = np.full((size, size), 1000.0)
    radius = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    major, minor = radius / np.sqrt(1 - ellipticity), radius * np.sqrt(1 - ellipticity)
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    half, points = int(8 * fwhm), (np.arange(5) + 0.5) / 5 - 0.5
    for _ in range(n):
        x, y, flux = *rng.uniform(0, size - 1, 2), 10 ** rng.uniform(3.3, 5.2)
        ys = np.arange(max(0, int(y) - half), min(size, int(y) + half))
        xs = np.arange(max(0, int(x) - half), min(size, int(x) + half))
        dy = (ys[:, None] + points).ravel()[:, None] - y
        dx = (xs[:, None] + points).ravel()[None] - x
        profile = (1 + ((dx * cosine + dy * sine) / major) ** 2 + ((dy * cosine - dx * sine) / minor) ** 2) ** -beta
        profile = profile.reshape(ys.size, 5, xs.size, 5).mean(axis=(1, 3))
        image[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] += flux * (beta - 1) / (np.pi * major * minor) * profile
    return (rng.poisson(image * GAIN) / GAIN + rng.normal(0, 3, image.shape)).astype(np.float32)


def measure(image: np.ndarray, **options: object) -> tuple[PsfMeasures, np.ndarray, np.ndarray]:
    background = measure_background(image)
    residual = image - background.level_map()
    sources = detect_sources(residual, background.noise_adu, gain_e_per_adu=GAIN)
    stars = select_stars(sources)
    psf = measure_psf(residual, background.noise_adu, sources, stars, gain_e_per_adu=GAIN, **options)  # type: ignore[arg-type]
    return psf, sources, stars


@pytest.mark.parametrize(
    ("fwhm", "beta", "ellipticity", "angle"),
    [
        (2.0, 3.0, 0.05, 20.0),
        (2.0, 3.0, 0.2, -60.0),
        (3.0, 2.5, 0.1, 80.0),
        (4.0, 3.5, 0.0, 0.0),
        (5.0, 3.0, 0.3, 10.0),
        (6.5, 4.0, 0.05, 45.0),
        (8.0, 3.0, 0.1, -30.0),
    ],
)
def test_width_shape_and_exponent_are_recovered(fwhm: float, beta: float, ellipticity: float, angle: float) -> None:
    rng = np.random.default_rng(int(10 * fwhm))
    psf, _, stars = measure(simulate(600, 90, fwhm, rng, beta, ellipticity, angle))
    assert psf.n_stars > 25
    assert stars.sum() >= psf.n_stars
    assert psf.fwhm_pix == pytest.approx(fwhm, rel=0.02)
    assert psf.ellipticity == pytest.approx(ellipticity, abs=0.01)
    assert psf.beta == pytest.approx(beta, rel=0.1)
    assert psf.chi2 == pytest.approx(1.0, abs=0.15)
    assert psf.fwhm_rms_pix < 0.05 * fwhm
    if ellipticity > 0.04:
        assert abs((psf.position_angle_deg - angle + 90) % 180 - 90) < 5.0
    assert psf.stars["fwhm_pix"].min() <= psf.fwhm_pix <= psf.stars["fwhm_pix"].max()


def test_without_pixel_integration_the_width_on_the_detector_is_given() -> None:
    image = simulate(500, 60, 2.0, np.random.default_rng(1))
    inner, outer = measure(image)[0].fwhm_pix, measure(image, pixel_integrated=False)[0].fwhm_pix
    assert 1.03 * inner < outer < 1.15 * inner  # 1/12 pix^2 on a variance of 0.72 adds 5.6 % to a Gaussian


def test_rotating_the_image_turns_the_angle_only() -> None:
    image = simulate(500, 60, 4.0, np.random.default_rng(2), ellipticity=0.2, angle=25.0)
    one, other = measure(image)[0], measure(np.ascontiguousarray(np.rot90(image)))[0]
    assert other.fwhm_pix == pytest.approx(one.fwhm_pix, rel=0.005)
    assert other.ellipticity == pytest.approx(one.ellipticity, abs=0.005)
    # rot90 of an array with y upwards turns counter-clockwise in (row, column), which is clockwise in (x, y)
    assert abs((other.position_angle_deg - one.position_angle_deg + 180) % 180 - 90) < 2.0


def test_galaxies_and_hot_pixels_are_no_stars() -> None:
    rng = np.random.default_rng(3)
    image = simulate(700, 60, 3.0, rng)
    y, x = np.mgrid[:700, :700]
    galaxies, hot = rng.uniform(30, 670, (60, 2)), rng.integers(10, 690, (60, 2))
    for xg, yg in galaxies:
        image += (10 ** rng.uniform(1.5, 2.7) * np.exp(-np.hypot(x - xg, (y - yg) / 0.7) / rng.uniform(2.5, 6))).astype(
            "f4"
        )
    image[hot[:, 1], hot[:, 0]] += 4000
    psf, sources, stars = measure(image)
    assert psf.fwhm_pix == pytest.approx(3.0, rel=0.03)
    selected = np.stack([sources["x"], sources["y"]], 1)[stars]
    for places, most in ((galaxies, 4), (hot, 2)):
        near = np.hypot(selected[:, None, 0] - places[:, 0], selected[:, None, 1] - places[:, 1]).min(axis=0) < 1.0
        assert near.sum() <= most


@pytest.mark.parametrize("n", [6, 10])
def test_few_stars_are_enough(n: int) -> None:
    psf, _, stars = measure(simulate(400, n, 3.5, np.random.default_rng(40 + n)))
    assert stars.sum() >= n // 2
    assert psf.fwhm_pix == pytest.approx(3.5, rel=0.05)  # three stars of S/N 30 and a free exponent: 3 % each


def test_crowded_field_is_recovered() -> None:
    psf, sources, stars = measure(simulate(600, 1500, 3.0, np.random.default_rng(5)))
    assert sources.size > 600
    assert stars.sum() > 100
    assert psf.fwhm_pix == pytest.approx(3.0, rel=0.03)


def test_saturated_cores_do_not_widen_the_stars() -> None:
    image = np.minimum(simulate(500, 60, 4.0, np.random.default_rng(6)), 3000.0)
    background = measure_background(image)
    residual = image - background.level_map()
    sources = detect_sources(
        residual, background.noise_adu, saturation_adu=2900.0, background_adu=background.level_adu, gain_e_per_adu=GAIN
    )
    every = np.ones(sources.size, dtype=bool) & (sources["snr_win"] > 30) & (sources["flags"] & 11 == 0)
    psf = measure_psf(
        residual,
        background.noise_adu,
        sources,
        every,
        saturation_adu=2900.0,
        background_adu=background.level_adu,
        gain_e_per_adu=GAIN,
    )
    assert psf.fwhm_pix == pytest.approx(4.0, rel=0.03)
    assert not (sources["flags"][select_stars(sources)] & 4).any()


def test_donuts_are_wide_or_a_bad_fit() -> None:
    rng = np.random.default_rng(7)
    image = np.full((500, 500), 1000.0)
    y, x = np.mgrid[:500, :500]
    for _ in range(25):
        xc, yc = rng.uniform(30, 470, 2)
        image += 10 ** rng.uniform(2, 3.5) * np.exp(-0.5 * ((np.hypot(x - xc, y - yc) - 9) / 2) ** 2)
    psf, _, _ = measure((rng.poisson(image * GAIN) / GAIN).astype(np.float32))
    assert psf.n_stars == 0 or psf.fwhm_pix > 12 or psf.chi2 > 5
    assert psf.n_stars > 0


def test_no_star_is_nan_not_a_failure() -> None:
    empty = np.empty(0, dtype=source_dtype(1))
    for noise in (1.0, 0.0):
        psf = measure_psf(np.zeros((50, 50)), noise, empty, select_stars(empty))
        assert psf.n_stars == 0
        assert np.isnan([psf.fwhm_pix, psf.ellipticity, psf.beta, psf.chi2, psf.position_angle_deg]).all()
        assert psf.stars.size == 0
    with pytest.raises(ValueError, match="same table"):
        measure_psf(np.zeros((50, 50)), 1.0, empty, np.ones(3, dtype=bool))


def test_a_mask_over_a_star_leaves_it_out() -> None:
    rng = np.random.default_rng(8)
    image = simulate(300, 12, 3.0, rng)
    background = measure_background(image)
    residual = image - background.level_map()
    sources = detect_sources(residual, background.noise_adu)
    stars = select_stars(sources)
    psf = measure_psf(residual, background.noise_adu, sources, stars, mask=np.ones(image.shape, dtype=bool))
    assert psf.n_stars == 0

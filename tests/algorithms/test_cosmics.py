"""Cosmic rays: completeness and false hits against the truth and against astroscrappy; stars stay whole."""

from __future__ import annotations

from dataclasses import dataclass

import astroscrappy
import numpy as np
import pytest

from spica.algorithms.background import measure_background
from spica.algorithms.cosmics import detect_cosmics, star_contrast

GAIN, READ_NOISE_E, SIZE = 1.5, 5.0, 800


@dataclass(frozen=True)
class Sky:
    """Image, pixels hit, rays (lists of pixels), and star positions."""

    image: np.ndarray
    hit: np.ndarray
    rays: list[np.ndarray]
    stars: np.ndarray


def simulate(fwhm: float, n_rays: int, seed: int, n_stars: int = 150, beta: float = 3.5) -> Sky:
    """Pixel-integrated Moffat stars, then straight rays of a few pixels on top."""
    rng = np.random.default_rng(seed)
    stars = rng.uniform(10, SIZE - 10, (n_stars, 2))
    image = np.full((SIZE, SIZE), 1000.0)
    radius2, half, points = fwhm**2 / (4 * (2 ** (1 / beta) - 1)), int(8 * fwhm), (np.arange(7) + 0.5) / 7 - 0.5
    for x, y in stars:
        ys = np.arange(max(0, int(y) - half), min(SIZE, int(y) + half))
        xs = np.arange(max(0, int(x) - half), min(SIZE, int(x) + half))
        dy, dx = (ys[:, None] + points).ravel()[:, None] - y, (xs[:, None] + points).ravel()[None] - x
        profile = ((1 + (dx**2 + dy**2) / radius2) ** -beta).reshape(ys.size, 7, xs.size, 7).mean(axis=(1, 3))
        flux = 10 ** rng.uniform(3, 5.5)
        image[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] += flux * (beta - 1) / (np.pi * radius2) * profile
    image = rng.poisson(image * GAIN) / GAIN + rng.normal(0, READ_NOISE_E / GAIN, image.shape)
    hit, rays = np.zeros(image.shape, dtype=bool), []
    for _ in range(n_rays):
        length, angle, charge = rng.exponential(4) + 1, rng.uniform(0, np.pi), 10 ** rng.uniform(2.3, 3.8)
        start, along = rng.uniform(30, SIZE - 30, 2), np.arange(0, length, 0.2)[:, None]
        ray = np.unique((start + along * [np.sin(angle), np.cos(angle)]).astype(int), axis=0)
        image[ray[:, 0], ray[:, 1]] += charge * rng.uniform(0.6, 1.4, len(ray))
        hit[ray[:, 0], ray[:, 1]] = True
        rays.append(ray)
    return Sky(image.astype(np.float32), hit, rays, stars)


def completeness(sky: Sky, found: np.ndarray) -> tuple[float, float, int, int]:
    """Share of pixels hit and of rays touched (0 of none), false pixels, stars with a false pixel in the core."""
    rays = sum(bool(found[ray[:, 0], ray[:, 1]].any()) for ray in sky.rays) / max(len(sky.rays), 1)
    false = found & ~sky.hit
    eaten = 0
    for x, y in np.rint(sky.stars).astype(int):
        box = np.s_[y - 1 : y + 2, x - 1 : x + 2]
        eaten += bool(false[box].any()) and not sky.hit[y - 3 : y + 4, x - 3 : x + 4].any()
    return float(found[sky.hit].sum()) / max(int(sky.hit.sum()), 1), rays, int(false.sum()), eaten


def detect(sky: Sky, **options: object) -> np.ndarray:
    background = measure_background(sky.image)
    residual = sky.image - background.level_map()
    return detect_cosmics(residual, background.noise_adu, gain_e_per_adu=GAIN, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0])
def test_as_complete_as_astroscrappy_with_no_more_false_pixels(fwhm: float) -> None:
    sky = simulate(fwhm, 250, seed=int(10 * fwhm))
    pixels, rays, false, eaten = completeness(sky, detect(sky))
    theirs, _ = astroscrappy.detect_cosmics(
        sky.image * GAIN, sigclip=5.0, sigfrac=0.3, objlim=5.0, gain=1.0, readnoise=READ_NOISE_E, satlevel=1e9, niter=1
    )
    their_pixels, their_rays, their_false, _ = completeness(sky, theirs)
    print(
        f"FWHM {fwhm}, ours / astroscrappy: pixels {pixels:.3f} / {their_pixels:.3f}, "
        f"rays {rays:.3f} / {their_rays:.3f}, false {false} / {their_false}"
    )
    assert pixels > 0.95
    assert pixels > their_pixels - 0.01
    assert rays > 0.985
    assert rays > their_rays - 0.01
    assert false < 1.1 * their_false + 5
    assert eaten == 0


@pytest.mark.parametrize("fwhm", [2.0, 2.4, 4.0])
@pytest.mark.parametrize("gain", [GAIN, None])
def test_star_cores_stay_unmasked(fwhm: float, gain: float | None) -> None:
    sky = simulate(fwhm, 0, seed=77, n_stars=400)
    residual = sky.image - np.float32(1000.0)
    found = detect_cosmics(residual, 26.0, gain_e_per_adu=gain, psf_fwhm_pix=fwhm)
    assert completeness(sky, found | False)[3] == 0
    assert found.sum() <= 4


def test_pure_noise_has_no_cosmics() -> None:
    noise = np.random.default_rng(1).normal(0, 3.0, (1000, 1000))
    assert detect_cosmics(noise, 3.0).sum() <= 3  # 10^6 pixels beyond 5 sigma of an edge: fewer than one on average


def test_wide_hits_need_more_than_one_pass() -> None:
    image = np.random.default_rng(2).normal(0, 3.0, (100, 100)).astype(np.float32)
    image[40:43, 50:53] += 2000.0
    once, often = detect_cosmics(image, 3.0, passes=1), detect_cosmics(image, 3.0, passes=3)
    assert often[40:43, 50:53].mean() == 1.0
    assert (once & ~often).sum() == 0


def test_sharper_stars_ask_for_more_contrast() -> None:
    contrasts = [star_contrast(fwhm) for fwhm in (1.2, 1.5, 1.8, 2.0, 2.5)]
    assert np.all(np.diff(contrasts) < 0)
    assert contrasts[-1] < 1.0


def test_masked_not_finite_and_saturated_groups_are_left_alone() -> None:
    image = np.random.default_rng(3).normal(0, 3.0, (120, 120)).astype(np.float32)
    image[20, 20] += 500.0
    image[60, 60] = np.nan
    image[80:100, 90:92] = 60_000.0
    mask = np.zeros(image.shape, dtype=bool)
    mask[20, 20] = True
    found = detect_cosmics(image, 3.0, mask=mask, saturation_adu=59_000.0)
    assert not found[20, 20]
    assert not found[60, 60]
    assert not found[82:98, 90:92].any()
    assert detect_cosmics(image, np.full(image.shape, 3.0))[20, 20]


def test_a_hole_in_a_star_makes_no_edge_around_it() -> None:
    y, x = np.mgrid[:81, :81]
    star = 20_000.0 * (1 + ((x - 40) ** 2 + (y - 40) ** 2) / 30.0) ** -2.0
    image = np.random.default_rng(4).normal(0, 3.0, star.shape) + star
    mask = np.zeros(image.shape, dtype=bool)
    mask[:, 37:44] = True
    assert not detect_cosmics(np.where(mask, np.nan, image), 3.0, gain_e_per_adu=2.0).any()
    assert not detect_cosmics(image, 3.0, mask=mask, gain_e_per_adu=2.0).any()


def test_byte_order_and_level_do_not_matter() -> None:
    sky = simulate(3.0, 60, seed=9)
    residual = sky.image - np.float32(1000)
    one = detect_cosmics(residual, 26.0)
    np.testing.assert_array_equal(one, detect_cosmics(residual.astype(">f4"), 26.0))
    np.testing.assert_array_equal(one, detect_cosmics(residual * 2, 52.0))
    with pytest.raises(ValueError, match="must be positive"):
        detect_cosmics(residual, 26.0, sigma=-1.0)
    with pytest.raises(ValueError, match="noise of shape"):
        detect_cosmics(residual, np.ones((2, 2)))

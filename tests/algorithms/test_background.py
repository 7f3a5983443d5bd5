"""Background: recovered truth, equality of strips, closeness to sep and survival of hard images."""

from __future__ import annotations

import numpy as np
import pytest
import sep

from spica.algorithms.background import measure_background


def sky(ny: int, nx: int, rng: np.random.Generator, n_stars: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sloping sky with noise of 10 and stars; also the truth."""
    y, x = np.mgrid[:ny, :nx]
    truth = 1000.0 + 0.02 * x + 25.0 * np.sin(y / 400.0)
    image = truth + rng.normal(0.0, 10.0, truth.shape)
    spot = np.exp(-((np.arange(-8, 9)[:, None] ** 2 + np.arange(-8, 9) ** 2) / 8.0))
    for _ in range(n_stars):
        yc, xc = rng.integers(8, ny - 8), rng.integers(8, nx - 8)
        image[yc - 8 : yc + 9, xc - 8 : xc + 9] += rng.exponential(800.0) * spot
    return image.astype(np.float32), truth


@pytest.fixture(scope="module")
def field() -> tuple[np.ndarray, np.ndarray]:
    return sky(700, 900, np.random.default_rng(5), n_stars=200)


def test_level_and_noise_are_recovered(field: tuple[np.ndarray, np.ndarray]) -> None:
    image, truth = field
    background = measure_background(image)
    error = background.level_map() - truth
    assert abs(error.mean()) < 0.3  # 3 % of the noise; wings of stars lift it a little
    assert error.std() < 0.8
    assert background.noise_adu == pytest.approx(10.0, rel=0.02)


@pytest.mark.parametrize("filter_meshes", [1, 3])
def test_maps_are_those_of_sep(field: tuple[np.ndarray, np.ndarray], filter_meshes: int) -> None:
    image, _ = field
    ours = measure_background(image, filter_meshes=filter_meshes)
    theirs = sep.Background(image, fw=filter_meshes, fh=filter_meshes)
    difference = ours.level_map() - theirs.back()
    # the mode of a cell scatters by 0.3; both read the same pixels, so only the width of histogram bins differs
    assert difference.std() < 0.1
    assert np.abs(difference).max() < 1.0
    assert ours.level_adu == pytest.approx(theirs.globalback, abs=0.1)
    assert ours.noise_adu == pytest.approx(theirs.globalrms, rel=0.005)
    assert (ours.noise_map() - theirs.rms()).std() < 0.1


def test_strips_equal_the_whole_map(field: tuple[np.ndarray, np.ndarray]) -> None:
    background = measure_background(field[0])
    whole, noise = background.level_map(), background.noise_map()
    for rows in (slice(0, 1), slice(123, 456), slice(690, 900), slice(-5, None)):
        np.testing.assert_array_equal(background.level_map(rows), whole[rows])
        np.testing.assert_array_equal(background.noise_map(rows), noise[rows])
    assert background.level_map(slice(10, 10)).shape == (0, 900)
    with pytest.raises(ValueError, match="step"):
        background.level_map(slice(0, 10, 2))


def test_offset_and_scale_carry_through(field: tuple[np.ndarray, np.ndarray]) -> None:
    image = field[0].astype(np.float64)
    one, other = measure_background(image), measure_background(3.0 * image + 500.0)
    assert other.level_adu == pytest.approx(3.0 * one.level_adu + 500.0, abs=0.05)
    assert other.noise_adu == pytest.approx(3.0 * one.noise_adu, rel=1e-3)


def test_byte_order_and_stride_do_not_matter(field: tuple[np.ndarray, np.ndarray]) -> None:
    image = field[0]
    wanted = measure_background(image).mesh_level
    np.testing.assert_array_equal(measure_background(image.astype(">f4")).mesh_level, wanted)
    np.testing.assert_array_equal(measure_background(np.asfortranarray(image)).mesh_level, wanted)


def test_masked_and_nan_pixels_do_not_count(field: tuple[np.ndarray, np.ndarray]) -> None:
    image, truth = field
    spoiled, mask = image.copy(), np.zeros(image.shape, dtype=np.uint8)
    spoiled[100:300, 200:420] = 1e6
    mask[100:300, 200:420] = 1
    spoiled[::7, ::5] = np.nan
    background = measure_background(spoiled, mask)
    assert np.abs(background.level_map() - truth).max() < 8.0  # inside the hole 200 pixels wide: carried over
    assert background.noise_adu == pytest.approx(10.0, rel=0.03)


def test_nothing_usable_is_nan() -> None:
    background = measure_background(np.ones((100, 130)), np.ones((100, 130), dtype=bool))
    assert np.isnan(background.level_adu)
    assert np.isnan(background.noise_adu)
    assert np.isnan(background.level_map()).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (40, 30), (65, 64), (128, 129)])
def test_constant_images_of_any_size(shape: tuple[int, int]) -> None:
    background = measure_background(np.full(shape, 123.5))
    assert background.level_adu == pytest.approx(123.5)
    assert background.noise_adu == 0.0
    level = background.level_map()
    assert level.shape == shape
    np.testing.assert_allclose(level, 123.5, rtol=1e-6)


def test_tiny_noisy_image_has_one_cell() -> None:
    image = np.random.default_rng(6).normal(10.0, 2.0, (30, 20))
    background = measure_background(image)
    assert background.mesh_level.shape == (1, 1)
    assert background.level_adu == pytest.approx(10.0, abs=0.5)
    assert background.noise_adu == pytest.approx(2.0, rel=0.15)


def test_unusable_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        measure_background(np.ones((9, 9)), mesh_pix=2)

"""Weights and masks: planted columns, saturation and trails are found, star fields raise no false trail."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spica.algorithms.weight import Trail, detect_trails, find_bad_columns, make_weight, saturation_mask

SIZE, NOISE = 1024, 20.0


def star_field(seed: int, n: int = 250) -> np.ndarray:
    """Sky-subtracted noise and stars."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, NOISE, (SIZE, SIZE))
    offset = np.arange(-20, 21)
    profile = (1 + (offset[:, None] ** 2 + offset**2) / 15.0) ** -3.0
    for x, y in rng.integers(20, SIZE - 21, (n, 2)):
        image[y - 20 : y + 21, x - 20 : x + 21] += 10 ** rng.uniform(2, 4.3) * profile
    return image.astype(np.float32)


def line(angle_deg: float, distance: float, width: float, peak: float) -> np.ndarray:
    """Gaussian ridge along x cos(angle) + y sin(angle) = distance."""
    y, x = np.mgrid[:SIZE, :SIZE]
    angle = np.radians(angle_deg)
    return peak * np.exp(-0.5 * ((x * np.cos(angle) + y * np.sin(angle) - distance) / width) ** 2)


def bright_star_field(seed: int) -> np.ndarray:
    """Stars that saturate, with haloes, four diffraction spikes and bleeding columns."""
    rng = np.random.default_rng(seed)
    image = star_field(seed).astype(np.float64)
    y, x = np.mgrid[:SIZE, :SIZE]
    for xc, yc in rng.uniform(150, SIZE - 150, (5, 2)):
        image += 5e5 * (1 + np.hypot(x - xc, y - yc) ** 2 / 6.0) ** -1.6
        for angle in np.radians([45.0, 135.0]):
            u = (x - xc) * np.cos(angle) + (y - yc) * np.sin(angle)
            v = (y - yc) * np.cos(angle) - (x - xc) * np.sin(angle)
            image += 3e3 * np.exp(-0.5 * (v / 1.2) ** 2) / (1 + (u / 60) ** 2)
        image[max(0, int(yc) - 250) : int(yc) + 250, int(xc) : int(xc) + 3] = 60_000
    return np.minimum(image, 60_000).astype(np.float32)


def distance_to(trail: Trail, x: float, y: float) -> float:
    length = math.hypot(trail.x1 - trail.x0, trail.y1 - trail.y0)
    return abs((trail.x1 - trail.x0) * (y - trail.y0) - (trail.y1 - trail.y0) * (x - trail.x0)) / length


@pytest.mark.parametrize(
    ("angle", "distance", "width", "peak"),
    [(30.0, 600.0, 1.5, 60.0), (120.0, 100.0, 3.0, 40.0), (75.0, 700.0, 1.0, 400.0), (3.0, 480.0, 2.0, 30.0)],
)
def test_a_planted_trail_is_found_where_it_is(angle: float, distance: float, width: float, peak: float) -> None:
    image = star_field(int(angle)) + line(angle, distance, width, peak)
    mask, trails = detect_trails(image, NOISE)
    assert len(trails) == 1
    assert trails[0].snr > 8
    a = np.radians(angle)
    truth = line(angle, distance, width, 1.0)
    assert mask[truth > 0.5].mean() > 0.99
    assert mask.mean() < 0.05
    for t in (-200.0, 0.0, 200.0):
        x, y = distance * np.cos(a) - t * np.sin(a), distance * np.sin(a) + t * np.cos(a)
        assert distance_to(trails[0], x, y) < 2.0


def test_two_trails_are_two() -> None:
    image = star_field(5) + line(30.0, 600.0, 2.0, 60.0) + line(120.0, 50.0, 2.0, 90.0)
    mask, trails = detect_trails(image, NOISE)
    assert len(trails) == 2
    assert mask[line(30.0, 600.0, 2.0, 1.0) > 0.5].mean() > 0.97
    assert mask[line(120.0, 50.0, 2.0, 1.0) > 0.5].mean() > 0.97


@pytest.mark.parametrize("seed", range(6))
def test_stars_alone_make_no_trail(seed: int) -> None:
    mask, trails = detect_trails(star_field(100 + seed, n=50 * 4**seed if seed < 4 else 250), NOISE)
    assert trails == ()
    assert not mask.any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("told", [True, False])
def test_spikes_haloes_and_bleeding_make_no_trail(seed: int, told: bool) -> None:
    image = bright_star_field(200 + seed)
    saturated = saturation_mask(image, 59_000.0) if told else None
    assert detect_trails(image, NOISE, saturated=saturated)[1] == ()


def test_a_trail_among_bright_stars_is_still_found() -> None:
    image = bright_star_field(300) + line(20.0, 500.0, 2.0, 100.0).astype(np.float32)
    trails = detect_trails(image, NOISE, saturated=saturation_mask(image, 59_000.0))[1]
    assert len(trails) == 1


def test_trails_of_unusable_images() -> None:
    for image, noise in ((np.full((200, 200), np.nan), 1.0), (np.zeros((200, 200)), 0.0), (np.zeros((30, 30)), 1.0)):
        mask, trails = detect_trails(image, noise)
        assert trails == ()
        assert mask.shape == image.shape
    masked = star_field(6) + line(30.0, 600.0, 2.0, 60.0)
    assert detect_trails(masked, NOISE, mask=np.ones(masked.shape, dtype=bool))[1] == ()


def test_bad_columns_are_found_and_good_ones_are_not() -> None:
    image = star_field(7)
    image[:, 200] += 0.6 * NOISE  # too little for one pixel, plain over the column
    image[300:, 500] += 3 * NOISE  # a trap half way up
    image[:, 700:702] = -200.0  # dead
    found = find_bad_columns(image, NOISE)
    assert found[:, [200, 700, 701]].all()
    assert found[400:, 500].all()
    assert not found[:250, 500].any()
    assert set(np.flatnonzero(found.any(axis=0))) == {200, 500, 700, 701}


@pytest.mark.parametrize("seed", range(4))
def test_star_fields_have_no_bad_column(seed: int) -> None:
    assert not find_bad_columns(star_field(seed, n=600), NOISE).any()
    assert not find_bad_columns(star_field(seed)[:200], np.full((200, SIZE), NOISE)).any()


def test_columns_of_masked_or_small_images() -> None:
    image = star_field(8)
    image[:, 300] += 200.0
    mask = np.zeros(image.shape, dtype=bool)
    mask[:, 300] = True
    assert not find_bad_columns(image, NOISE, mask=mask).any()
    assert not find_bad_columns(image[:, :20], NOISE).any()
    assert not find_bad_columns(np.full((100, 100), np.nan), NOISE).any()


def test_saturation_grows_by_the_square_asked_for() -> None:
    image = np.zeros((20, 30))
    image[0, 0] = image[10, 15] = 100.0
    image[5, 5] = np.nan
    assert saturation_mask(image, 100.0, grow=0).sum() == 2
    mask = saturation_mask(image, 100.0, grow=2)
    assert mask.sum() == 25 + 9
    assert mask[8:13, 13:18].all()
    assert not mask[5, 5]


def test_weight_is_the_relative_inverse_variance() -> None:
    noise = np.full((40, 50), 2.0)
    noise[:, 25:30] = 4.0
    noise[3, 3] = np.nan
    noise[3, 4] = 0.0
    bad, cosmic = np.zeros((40, 50), dtype=np.uint8), np.zeros((40, 50), dtype=bool)
    bad[10], cosmic[20, 20] = 1, True
    weight = make_weight((40, 50), noise_map=noise, bad_pixels=bad, cosmic=cosmic, edge_pix=1)
    assert weight.dtype == np.float32
    assert weight[15, 10] == pytest.approx(1.0)
    assert weight[15, 27] == pytest.approx(0.25)
    for unusable in ((3, 3), (3, 4), (10, 10), (20, 20), (0, 5), (39, 5), (5, 0), (5, 49)):
        assert weight[unusable] == 0.0
    np.testing.assert_allclose(
        make_weight((40, 50), noise_map=10 * noise), make_weight((40, 50), noise_map=noise), rtol=1e-6
    )


def test_flat_enters_squared_and_its_holes_are_unusable() -> None:
    flat = np.full((30, 30), 2.0)
    flat[0, 0], flat[1, 1], flat[2, 2], flat[3, 3] = 1.0, 0.01, np.nan, -1.0
    weight = make_weight((30, 30), noise_map=3.0, flat=flat)
    assert weight[10, 10] == pytest.approx(1.0)
    assert weight[0, 0] == pytest.approx(0.25)
    assert weight[1, 1] == weight[2, 2] == weight[3, 3] == 0.0
    assert not make_weight((5, 5), noise_map=0.0).any()
    with pytest.raises(ValueError, match="cut both"):
        make_weight((30, 31), noise_map=3.0, flat=flat)

"""Regions as masks: areas, shared edges, translations, and matplotlib's point-in-polygon as another truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path

from spica.algorithms.region import RegionMask, rasterise_circle, rasterise_polygon

SHAPE = (90, 120)


def whole(found: RegionMask | None, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Return a mask of the whole image."""
    full = np.zeros(shape, bool)
    if found is not None:
        ny, nx = found.mask.shape
        full[found.y0 : found.y0 + ny, found.x0 : found.x0 + nx] = found.mask
    return full


def star(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return corners around a point, in order of their angle: a polygon that does not cross itself."""
    angle = np.sort(rng.uniform(0, 2 * math.pi, n))
    r = rng.uniform(8, 40, n)
    return 60.3 + r * np.cos(angle), 45.7 + r * np.sin(angle)


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.floats(-20, 140), st.floats(-20, 110), st.floats(0.1, 60))
def test_a_circle_holds_the_pixels_within_its_radius(x: float, y: float, r: float) -> None:
    yy, xx = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    np.testing.assert_array_equal(whole(rasterise_circle(x, y, r, SHAPE)), np.hypot(xx - x, yy - y) <= r)


@pytest.mark.parametrize("r", [3.0, 11.5, 40.0])
def test_the_area_of_a_circle_is_pi_r2(r: float) -> None:
    """The count of lattice points in a circle differs from its area by less than the ring of pixels on its rim."""
    found = rasterise_circle(60.2, 44.9, r, SHAPE)
    assert found is not None
    assert abs(found.n_pixels - math.pi * r * r) < 2 * math.pi * r * 0.71


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(3, 24))
def test_a_polygon_holds_what_matplotlib_holds(seed: int, n: int) -> None:
    x, y = star(np.random.default_rng(seed), n)
    yy, xx = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    points = np.column_stack([xx.ravel(), yy.ravel()])
    truth = Path(np.column_stack([x, y])).contains_points(points).reshape(SHAPE)
    np.testing.assert_array_equal(whole(rasterise_polygon(x, y, SHAPE)), truth)


def test_the_area_of_a_polygon_is_the_shoelace_area() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        x, y = star(rng, 9)
        area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
        rim = np.hypot(np.diff(np.append(x, x[0])), np.diff(np.append(y, y[0]))).sum()
        found = rasterise_polygon(x, y, (200, 200))
        assert found is not None
        assert abs(found.n_pixels - area) < 0.71 * rim


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    """Corners lie on pixel centres, the worst case: a grid of triangles covers the square once."""
    seen = np.zeros((40, 40), int)
    for i in range(0, 40, 10):
        for j in range(0, 40, 10):
            for xs, ys in (
                ((j, j + 10, j), (i, i, i + 10)),
                ((j + 10, j + 10, j), (i, i + 10, i + 10)),
            ):
                seen += whole(rasterise_polygon(xs, ys, (40, 40)), (40, 40))
    np.testing.assert_array_equal(seen, 1)


def test_the_direction_and_first_corner_do_not_matter() -> None:
    x, y = star(np.random.default_rng(5), 11)
    one = whole(rasterise_polygon(x, y, SHAPE))
    np.testing.assert_array_equal(whole(rasterise_polygon(x[::-1], y[::-1], SHAPE)), one)
    np.testing.assert_array_equal(whole(rasterise_polygon(np.roll(x, 4), np.roll(y, 4), SHAPE)), one)


def test_moving_a_region_by_whole_pixels_moves_its_mask() -> None:
    x, y = star(np.random.default_rng(6), 8)
    a, b = rasterise_polygon(x, y, (300, 300)), rasterise_polygon(x + 70, y + 31, (300, 300))
    assert a is not None
    assert b is not None
    assert (b.y0 - a.y0, b.x0 - a.x0) == (31, 70)
    np.testing.assert_array_equal(a.mask, b.mask)


def test_a_region_far_larger_than_the_image_is_cut_to_it() -> None:
    found = rasterise_polygon([-1e9, 1e9, 1e9, -1e9], [-1e9, -1e9, 1e9, 1e9], SHAPE)
    assert found is not None
    assert found.mask.shape == SHAPE
    assert found.mask.all()


def test_a_region_outside_is_none() -> None:
    assert rasterise_circle(-50, 10, 20, SHAPE) is None
    assert rasterise_polygon([200, 220, 210], [5, 5, 20], SHAPE) is None
    assert rasterise_circle(10.5, 10.5, 0.3, SHAPE) is None, "between the centres"


@pytest.mark.parametrize(("x", "y"), [((1, 2), (1, 2)), ((1, 2, 3), (1, 2)), ((1, 2, math.nan), (1, 5, 2))])
def test_what_is_no_polygon_is_refused(x: tuple[float, ...], y: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="three finite corners"):
        rasterise_polygon(x, y, SHAPE)


@pytest.mark.parametrize("circle", [(1, 1, 0), (1, 1, -3), (math.inf, 1, 2), (1, math.nan, 2)])
def test_what_is_no_circle_is_refused(circle: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="radius above 0"):
        rasterise_circle(*circle, SHAPE)


def test_clearing_a_window_is_clearing_the_whole() -> None:
    found = rasterise_circle(30.4, 22.2, 13.0, SHAPE)
    assert found is not None
    full = np.ones(SHAPE, np.float32)
    found.clear(full, 0, 0)
    np.testing.assert_array_equal(full == 0, whole(found))
    for top, left in ((0, 0), (20, 10), (40, 50), (15, 25)):
        window = np.ones((18, 23), np.float32)
        found.clear(window, top, left)
        np.testing.assert_array_equal(window, full[top : top + 18, left : left + 23])

"""Laws of spherical geometry, with RA 0 and the poles among the ordinary cases; astropy as the independent truth."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord, search_around_sky
from astropy.wcs import WCS

from spica.algorithms.neighbours import match_nearest
from spica.algorithms.skymap import (
    angular_separation,
    polygon_contains,
    polygon_meets_circle,
    polygons_overlap,
    sky_centroid,
    tangent_deproject,
    tangent_project,
)

CENTRES = [(0.0, 0.0), (359.999, 12.0), (150.0, 89.9), (33.0, -90.0), (215.0, 53.0)]


def box(ra0: float, dec0: float, half_deg: float, *, at: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return a square drawn on the tangent plane of a field centre."""
    xi = np.array([-1, 1, 1, -1]) * half_deg + at[0]
    eta = np.array([-1, -1, 1, 1]) * half_deg + at[1]
    return np.column_stack(tangent_deproject(xi, eta, ra0, dec0))


@pytest.mark.parametrize("centre", CENTRES)
def test_projection_round_trip_and_astropy(centre):
    rng = np.random.default_rng(1)
    xi, eta = rng.uniform(-2, 2, (2, 200))
    ra, dec = tangent_deproject(xi, eta, *centre)
    back = tangent_project(ra, dec, *centre)
    np.testing.assert_allclose(back, (xi, eta), atol=1e-11)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [1, 1]
    wcs.wcs.cdelt = [1, 1]
    world = wcs.all_pix2world(xi, eta, 0)
    assert angular_separation(ra, dec, *world).max() < 1e-11


def test_projection_of_the_far_hemisphere_is_unknown():
    xi, eta = tangent_project([200.0, 10.0], [0.0, 0.0], 10.0, 0.0)
    assert np.isnan(xi[0])
    np.testing.assert_allclose((xi[1], eta[1]), 0.0, atol=1e-15)


def test_separation_is_exact_from_tiny_to_antipodal():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 50), rng.uniform(-90, 90, 50)
    assert angular_separation(ra, dec, ra, dec).max() == 0.0
    np.testing.assert_allclose(angular_separation(ra, dec, ra + 180, -dec), 180.0, atol=1e-7)
    tiny = 1e-9
    np.testing.assert_allclose(angular_separation(10.0, 0.0, 10.0 + tiny, 0.0), tiny, rtol=1e-5)


def test_centroid_over_ra_zero_and_pole_resists_outliers():
    assert sky_centroid([359.0, 1.0, 0.0], [10.0, 10.0, 10.0])[0] % 360 == pytest.approx(0.0, abs=1e-6)
    assert sky_centroid(np.arange(0, 360, 30), np.full(12, 89.0))[1] == pytest.approx(90.0, abs=1e-6)
    rng = np.random.default_rng(3)
    ra, dec = 359.9 + rng.normal(0, 0.05, 60), rng.normal(0, 0.05, 60)
    ra[:15], dec[:15] = 90.0, 40.0
    assert angular_separation(*sky_centroid(ra, dec), 359.9, 0.0) < 0.05
    with pytest.raises(ValueError, match="no finite position"):
        sky_centroid([np.nan], [0.0])


@pytest.mark.parametrize("centre", CENTRES)
def test_nearest_matches_recover_shuffled_pairs(centre):
    rng = np.random.default_rng(4)
    xi, eta = rng.uniform(-0.5, 0.5, (2, 300))
    ra, dec = tangent_deproject(xi, eta, *centre)
    order = rng.permutation(300)
    ra2, dec2 = tangent_deproject(xi[order] + 1e-5, eta[order], *centre)
    found = match_nearest(ra, dec, ra2, dec2, 0.1)
    assert found.index1.size == 300
    np.testing.assert_array_equal(order[found.index2], found.index1)
    np.testing.assert_allclose(found.separation_arcsec, 0.036, rtol=1e-3)
    assert match_nearest(ra, dec, ra2, dec2, 0.03).index1.size == 0


def test_nearest_matches_are_mutual_and_agree_with_astropy():
    rng = np.random.default_rng(5)
    one = rng.uniform(0, 0.02, (2, 80))
    two = rng.uniform(0, 0.02, (2, 90))
    found = match_nearest(*one, *two, 5.0)
    a, b = SkyCoord(*one, unit="deg"), SkyCoord(*two, unit="deg")
    i, j, separation, _ = search_around_sky(a, b, 5.0 / 3600 * a.ra.unit)
    grid = np.full((80, 90), np.inf)
    grid[i, j] = separation.arcsec
    expected = [(r, int(grid[r].argmin())) for r in range(80) if np.isfinite(grid[r].min())]
    expected = [(r, c) for r, c in expected if int(grid[:, c].argmin()) == r]
    assert list(zip(found.index1.tolist(), found.index2.tolist(), strict=True)) == expected
    assert match_nearest([np.nan], [0.0], [0.0], [0.0], 1.0).index1.size == 0


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("turn", [1, -1])
def test_polygon_contains(centre, turn):
    corners = box(*centre, 0.5)[::turn]
    xi, eta = np.array([0.0, 0.49, 0.51, 0.0]), np.array([0.0, -0.49, 0.0, -0.51])
    inside = polygon_contains(corners, *tangent_deproject(xi, eta, *centre))
    np.testing.assert_array_equal(inside, [True, True, False, False])
    assert not polygon_contains(corners, centre[0] + 180, -centre[1])


@pytest.mark.parametrize("centre", CENTRES)
def test_overlap_of_crossing_bars_touching_and_apart(centre):
    xi = np.array([-1.0, 1.0, 1.0, -1.0])
    eta = np.array([-0.1, -0.1, 0.1, 0.1])
    bar = np.column_stack(tangent_deproject(xi, eta, *centre))
    cross = np.column_stack(tangent_deproject(eta, xi, *centre))
    assert polygons_overlap(bar, cross)
    assert polygons_overlap(box(*centre, 0.5), box(*centre, 0.1))
    assert polygons_overlap(box(*centre, 0.5), box(*centre, 0.5, at=(0.99, 0.99)))
    assert not polygons_overlap(box(*centre, 0.5), box(*centre, 0.5, at=(1.01, 0.0)))


@pytest.mark.parametrize("centre", CENTRES)
def test_circle_meets_polygon_at_side_corner_and_inside(centre):
    corners = box(*centre, 0.5)
    assert polygon_meets_circle(corners, *centre, 0.01)
    beside = [float(v) for v in tangent_deproject(0.7, 0.0, *centre)]
    assert polygon_meets_circle(corners, *beside, 0.201)
    assert not polygon_meets_circle(corners, *beside, 0.199)
    corner = [float(v) for v in tangent_deproject(0.6, 0.6, *centre)]
    assert polygon_meets_circle(corners, *corner, 0.142)
    assert not polygon_meets_circle(corners, *corner, 0.141)
    assert polygon_meets_circle(corners, *beside, 5.0)


def test_degenerate_footprints_are_refused():
    with pytest.raises(ValueError, match="n >= 3"):
        polygon_contains([[0, 0], [1, 1]], 0, 0)
    with pytest.raises(ValueError, match="three distinct"):
        polygons_overlap([[0, 0], [0, 0], [1, 1]], box(0, 0, 1))

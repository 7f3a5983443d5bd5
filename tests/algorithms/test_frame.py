"""Laws of the output frame, with astropy.wcs as the independent truth of the projection."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from spica.algorithms.frame import Frame, FrameTooLargeError, choose_frame, frame_for_circle, frame_from_wcs


def _square(ra_deg: float, dec_deg: float, half_deg: float) -> np.ndarray:
    """Footprint of a square detector, through a gnomonic frame of its own."""
    n = 101
    return Frame(ra_deg, dec_deg, (n - 1) / 2, (n - 1) / 2, half_deg * 2 * 3600 / n, (n, n)).corners()


def _tpv(ra: float = 150.0, dec: float = 2.0, scale_deg: float = 0.2 / 3600) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], [250.0, 260.0]
    wcs.wcs.cd = scale_deg * np.array([[-0.96, 0.28], [0.28, 0.96]])
    wcs.wcs.set_pv([(1, 1, 1.0), (1, 4, 3e-3), (1, 7, 0.2), (2, 1, 1.0), (2, 5, -2e-3), (2, 7, 0.1)])
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    ("ra", "dec"), [(150.0, 2.0), (0.0, -45.0), (359.9999, 0.0), (12.0, 89.99), (77.0, -90.0), (5.0, 90.0)]
)
def test_projection_is_that_of_the_wcs(ra: float, dec: float) -> None:
    frame = Frame(ra, dec, 511.3, 260.7, 0.5, (700, 1000))
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-50, 1050, 300), rng.uniform(-50, 750, 300)
    sky_ra, sky_dec = frame.pixel_to_sky(x, y)
    wcs = frame.to_wcs()
    np.testing.assert_allclose(wcs.all_world2pix(sky_ra, sky_dec, 0), [x, y], atol=2e-6)
    np.testing.assert_allclose(frame.sky_to_pixel(sky_ra, sky_dec), [x, y], atol=2e-6)
    assert wcs.array_shape == (700, 1000)
    assert (sky_ra >= 0).all()
    assert (sky_ra < 360).all()


def test_north_is_up_and_east_is_left() -> None:
    frame = frame_for_circle(30.0, 10.0, 0.1, 1.0)
    x, y = frame.sky_to_pixel([30.0, 30.01, 30.0], [10.0, 10.0, 10.01])
    assert x[1] < x[0] - 30
    assert y[2] == pytest.approx(y[0] + 36.0, abs=1e-3)


def test_far_hemisphere_is_unknown() -> None:
    x, _ = frame_for_circle(30.0, 10.0, 0.1, 1.0).sky_to_pixel([210.0, 30.0], [-10.0, 10.0])
    assert np.isnan(x[0])
    assert np.isfinite(x[1])


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.0, 0.0), (0.001, 60.0), (200.0, 89.95), (10.0, -89.99)])
def test_chosen_frame_holds_every_footprint_and_no_more(ra: float, dec: float) -> None:
    shifts = [(-0.05, 0.02), (0.04, 0.03), (0.0, -0.05)]
    plane = Frame(ra, dec, 0.0, 0.0, 3600.0, (1, 1))  # one degree a pixel: shifts on the sky at any declination
    footprints = [_square(*(float(v) for v in plane.pixel_to_sky(dx, dy)), 0.1) for dx, dy in shifts]
    frame = choose_frame(footprints, 1.0)
    x, y = frame.sky_to_pixel(*np.concatenate(footprints).T)
    ny, nx = frame.shape
    assert x.min() >= -0.5
    assert y.min() >= -0.5
    assert x.max() <= nx - 0.5
    assert y.max() <= ny - 0.5
    assert np.ptp(x) > nx - 4
    assert np.ptp(y) > ny - 4


def test_chosen_scale_is_the_median_of_the_inputs() -> None:
    frame = choose_frame([_square(10, 10, 0.05)], input_scales_arcsec=[0.2, 0.3, 9.0])
    assert frame.pixel_scale_arcsec == 0.3
    assert frame.pixel_area_arcsec2 == pytest.approx(0.09)
    with pytest.raises(ValueError, match="pixel_scale_arcsec"):
        choose_frame([_square(10, 10, 0.05)])


def test_given_center_and_size_are_kept() -> None:
    frame = choose_frame([], 0.5, center_deg=(-0.25, 4.0), size_pix=(300, 200))
    assert frame.shape == (200, 300)
    assert (frame.ra0_deg, frame.dec0_deg) == (359.75, 4.0)
    np.testing.assert_allclose(frame.pixel_to_sky(149.5, 99.5), [359.75, 4.0], atol=1e-9)
    around = choose_frame([_square(10.0, 4.0, 0.05)], 1.0, center_deg=(10.1, 4.0))
    np.testing.assert_allclose(around.pixel_to_sky((around.shape[1] - 1) / 2, (around.shape[0] - 1) / 2), [10.1, 4.0])
    assert around.shape[1] > 700


def test_permuting_footprints_changes_nothing() -> None:
    footprints = [_square(10, 10, 0.05), _square(10.1, 10.05, 0.04), _square(9.9, 9.95, 0.06)]
    first, second = choose_frame(footprints, 0.5), choose_frame(footprints[::-1], 0.5)
    assert first.shape == second.shape
    assert first.ra0_deg == pytest.approx(second.ra0_deg, abs=1e-9)


def test_too_large_frame_is_refused_with_its_size() -> None:
    with pytest.raises(FrameTooLargeError, match="larger pixel scale") as caught:
        choose_frame([_square(10, 0, 0.1), _square(30, 0, 0.1)], 0.2, max_pixels=10**8)
    assert caught.value.nx * caught.value.ny > caught.value.limit == 10**8
    with pytest.raises(ValueError, match="too far apart"):
        choose_frame([_square(10, 0, 0.1), _square(185, 0, 0.1)], 0.2)
    with pytest.raises(FrameTooLargeError):
        frame_for_circle(0, 0, 10, 0.1, max_pixels=1000)


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (123.0, 89.9), (359.99, -30.0)])
def test_circle_touches_the_sides_of_its_box(ra: float, dec: float) -> None:
    frame = frame_for_circle(ra, dec, 0.2, 1.0)
    assert frame.shape == (1441, 1441)
    angle = np.linspace(0, 2 * np.pi, 400)
    plane = Frame(ra, dec, 0.0, 0.0, 3600.0, (1, 1))
    radius = np.degrees(np.tan(np.radians(0.2)))
    x, y = frame.sky_to_pixel(*plane.pixel_to_sky(radius * np.cos(angle), radius * np.sin(angle)))
    assert -0.5 <= x.min() < 0.6
    assert frame.shape[0] - 1.6 < y.max() <= frame.shape[0] - 0.5
    with pytest.raises(ValueError, match="radius"):
        frame_for_circle(ra, dec, -1.0, 1.0)


def test_reference_grid_is_identical_also_with_distortion() -> None:
    wcs = _tpv()
    frame = frame_from_wcs(wcs, (600, 500))
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 499, 50), rng.uniform(0, 599, 50)
    np.testing.assert_allclose(frame.pixel_to_sky(x, y), wcs.all_pix2world(x, y, 0), atol=1e-11)
    np.testing.assert_allclose(frame.sky_to_pixel(*frame.pixel_to_sky(x, y)), [x, y], atol=1e-6)
    np.testing.assert_allclose(frame.to_wcs().all_pix2world(x, y, 0), wcs.all_pix2world(x, y, 0), atol=1e-11)
    assert frame.pixel_scale_arcsec == pytest.approx(0.2, rel=5e-3)
    assert frame.shape == (600, 500)
    with pytest.raises(FrameTooLargeError):
        frame_from_wcs(wcs, (600, 500), max_pixels=299_999)


def test_unusable_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="pixel scale"):
        Frame(0, 0, 0, 0, 0.0, (1, 1))
    with pytest.raises(ValueError, match="finite"):
        Frame(float("nan"), 0, 0, 0, 1.0, (1, 1))
    with pytest.raises(ValueError, match="at least 1"):
        Frame(0, 0, 0, 0, 1.0, (0, 10))
    with pytest.raises(ValueError, match="not on the sky"):
        choose_frame([np.array([[10.0, np.nan], [1, 1], [2, 2]])], 1.0)

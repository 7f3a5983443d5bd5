"""Laws of the simulated camera: flux, place, noise, seeing, coordinates and sameness."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import sep

from spica.model.errors import RecipeError
from spica.steps.simulate import (
    CameraModel,
    ExposurePlan,
    SatelliteTrail,
    SkyModel,
    camera_to_sky,
    draw_sky,
    expected_sources,
    measure_sky_adu,
    render_detector,
    render_scene,
    sky_to_camera,
)
from spica.steps.simulate.profiles import (
    de_vaucouleurs_gaussians,
    exponential_gaussians,
    moffat_alpha,
    moffat_gaussians,
    moffat_lost_fraction,
)

PLAIN = CameraModel(n_x=1, n_y=1, detector_pix=(256, 256), n_bad_columns=0, hot_pixels_per_mpix=0.0)
PLAN = ExposurePlan("a", "D1", "r", 150.0, 2.0, cosmic_rate=0.0, sky_gradient=(0.0, 0.0))


def one_source(plan, camera, x, y, mag, is_star=True, bulge=False, size=1.0, ratio=0.6, angle=30.0):
    """A sky of a single source that falls on pixel (x, y) of detector 0."""
    ra, dec = camera_to_sky(plan, camera, 0, [x], [y])
    zero = np.zeros(1)
    shape = (zero, np.ones(1), zero) if is_star else (np.full(1, size), np.full(1, ratio), np.full(1, angle))
    return SkyModel(
        np.array([7]), ra, dec, zero, zero, plan.epoch_yr, np.array([is_star]), *shape,
        np.array([bulge]), {"r": np.full(1, float(mag))},
    )  # fmt: skip


def empty_sky():
    return one_source(PLAN, PLAIN, 1e3, 1e3, 40.0)


def moments(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    total = image.sum(dtype=float)
    return total, float((image * x).sum(dtype=float) / total), float((image * y).sum(dtype=float) / total)


@pytest.mark.parametrize("beta", [2.5, 3.0, 4.0])
@pytest.mark.parametrize("seeing", [0.45, 0.8])
@pytest.mark.parametrize("place", [(128.0, 127.0), (120.37, 131.81), (126.5, 126.5)])
def test_bright_star_has_its_flux_and_place(beta, seeing, place):
    """Within a radius the light is the analytical share to 1e-4, and the centroid is right to 1e-3 pixel."""
    plan = replace(PLAN, seeing_arcsec=seeing, moffat_beta=beta)
    sky = one_source(plan, PLAIN, *place, 13.0)
    image = render_scene(plan, PLAIN, sky, 0).astype(float)
    alpha = moffat_alpha(seeing / 0.3, beta)
    radius = 12.0 * alpha
    true = float(expected_sources(plan, PLAIN, sky, 0).flux_adu[0])
    assert true == pytest.approx(plan.exptime_s * 10 ** (-0.4 * (13.0 - plan.zero_point_mag)), rel=1e-12)
    flux, _, _ = sep.sum_circle(np.ascontiguousarray(image), [place[0]], [place[1]], [radius], subpix=0)
    assert flux[0] == pytest.approx(true * (1.0 - moffat_lost_fraction(radius, alpha, beta)), rel=1e-4)
    _, x, y = moments(image)
    assert (x, y) == pytest.approx(place, abs=1e-3)


@pytest.mark.parametrize("mag", [13.0, 18.0, 24.0])
def test_little_light_is_lost_beyond_the_stamp(mag):
    """Stamps hold 99.9 % of faint stars and 99.99 % of bright ones."""
    sky = one_source(PLAN, PLAIN, 127.2, 128.4, mag)
    drawn = render_scene(PLAN, PLAIN, sky, 0).sum(dtype=float)
    true = expected_sources(PLAN, PLAIN, sky, 0).flux_adu[0]
    limit = 1e-4 if mag == 13.0 else 1.01e-3
    assert 0.0 <= 1.0 - drawn / true < limit


def test_pixels_hold_the_integral_of_the_law():
    """Pixels of an undersampled elliptical star agree with brute 120 x 120 sampling to 2e-5 of the peak."""
    plan = replace(PLAN, seeing_arcsec=0.45, moffat_beta=2.7, ellipticity=0.3, position_angle_deg=35.0)
    sky = one_source(plan, PLAIN, 128.3, 127.6, 15.0)
    image = render_scene(plan, PLAIN, sky, 0)[118:138, 118:138].astype(float)
    source = expected_sources(plan, PLAIN, sky, 0)
    fine = (np.arange(20 * 120) + 0.5) / 120 - 0.5 + 118
    u, v = fine - source.x[0], (fine - source.y[0])[:, None]
    angle, alpha = math.radians(35.0), moffat_alpha(0.45 / 0.3, 2.7)
    major, minor = alpha / math.sqrt(0.7), alpha * math.sqrt(0.7)
    along, across = u * math.cos(angle) + v * math.sin(angle), -u * math.sin(angle) + v * math.cos(angle)
    law = 1.7 / (math.pi * alpha**2) * (1 + (along / major) ** 2 + (across / minor) ** 2) ** -2.7
    brute = source.flux_adu[0] * law.reshape(20, 120, 20, 120).mean(axis=(1, 3))
    assert np.abs(image - brute).max() < 2e-5 * brute.max()


@pytest.mark.parametrize("bulge", [False, True])
def test_galaxy_keeps_its_flux_and_place_and_lies_along_its_angle(bulge):
    """Total flux to 0.1 %, centroid to 0.01 pixel, major axis as the sky says."""
    plan = replace(PLAN, rotation_deg=20.0)
    sky = one_source(plan, PLAIN, 128.3, 126.8, 18.0, is_star=False, bulge=bulge, size=0.8, ratio=0.4, angle=65.0)
    image = render_scene(plan, PLAIN, sky, 0).astype(float)
    total, x0, y0 = moments(image)
    assert total == pytest.approx(expected_sources(plan, PLAIN, sky, 0).flux_adu[0], rel=1e-3)
    assert (x0, y0) == pytest.approx((128.3, 126.8), abs=0.01)
    y, x = np.mgrid[:256, :256]
    mxx, myy, mxy = ((image * a * b).sum() for a, b in ((x - x0, x - x0), (y - y0, y - y0), (x - x0, y - y0)))
    theta = 0.5 * math.atan2(2 * mxy, mxx - myy)
    step = np.array([-5.0, 5.0])
    ra, dec = camera_to_sky(plan, PLAIN, 0, x0 + step * math.cos(theta), y0 + step * math.sin(theta))
    east, north = (ra[1] - ra[0]) * math.cos(math.radians(2.0)), dec[1] - dec[0]
    assert math.degrees(math.atan2(east, north)) % 180.0 == pytest.approx(65.0, abs=0.5)


def test_sums_of_gaussians_follow_their_laws():
    """Half the light of the galaxies lies within the half-light radius; the Moffat sum follows the law."""
    for profile, tolerance in ((exponential_gaussians(), 0.01), (de_vaucouleurs_gaussians(), 0.05)):
        assert profile.fraction.sum() == pytest.approx(1.0)
        inside = np.sum(profile.fraction * (1 - np.exp(-0.5 / profile.sigma**2)))
        assert inside == pytest.approx(0.5, abs=tolerance)
    psf, r = moffat_gaussians(3.0), np.array([0.0, 0.5, 1.0, 2.0])
    sums = (np.exp(-0.5 * (r[:, None] / psf.sigma) ** 2) / (2 * np.pi * psf.sigma**2)) @ psf.fraction
    assert np.abs(sums - 2 / np.pi * (1 + r**2) ** -3.0).max() < 0.02 * 2 / np.pi


@pytest.mark.parametrize("sky_mag", [16.5, 20.9, 27.0])
def test_noise_is_photons_and_readout(sky_mag):
    """Mean and variance of an empty detector: sky, and (sky e- + read noise^2) / gain^2 + 1/12; 5 sigma of each."""
    camera = replace(PLAIN, gain_e_per_adu=(1.6,), bias_adu=200.0)
    plan = replace(PLAN, sky_mag_arcsec2=sky_mag)
    image = render_detector(plan, camera, empty_sky(), 0, np.random.default_rng(3)).adu.astype(float)
    level, n = measure_sky_adu(plan, camera), image.size
    variance = (level * 1.6 + camera.read_noise_e**2) / 1.6**2 + 1 / 12
    assert image.mean() - 200.0 == pytest.approx(level, abs=5 * math.sqrt(variance / n))
    assert image.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / n) + 0.002)


@pytest.mark.parametrize(("seeing", "beta"), [(0.7, 3.0), (1.1, 3.5)])
def test_stars_have_the_seeing_of_the_plan(seeing, beta):
    """A Moffat fit to a noisy bright star, integrated over pixels, gives the plan's FWHM within 1 %."""
    from scipy.optimize import least_squares

    plan = replace(PLAN, seeing_arcsec=seeing, moffat_beta=beta)
    sky = one_source(plan, PLAIN, 128.31, 127.64, 17.0)
    image = render_detector(plan, PLAIN, sky, 0, np.random.default_rng(5)).adu[108:149, 108:149].astype(float)
    fine = (np.arange(41 * 5) + 0.5) / 5 - 0.5 + 108

    def misfit(p):
        r2 = (fine - p[0]) ** 2 + ((fine - p[1]) ** 2)[:, None]
        return (p[2] * ((1 + r2 / p[3] ** 2) ** -p[4]).reshape(41, 5, 41, 5).mean(axis=(1, 3)) + p[5] - image).ravel()

    best = least_squares(misfit, [128, 128, image.max(), 3.0, 3.0, np.median(image)]).x
    assert 2 * best[3] * math.sqrt(2 ** (1 / best[4]) - 1) * 0.3 == pytest.approx(seeing, rel=0.01)
    assert best[:2] == pytest.approx([128.31, 127.64], abs=0.02)


def test_pixels_and_sky_are_inverse_on_every_detector():
    """There and back to 1e-6 pixel, over RA 0 and near the pole."""
    camera = CameraModel(n_x=3, n_y=2, detector_pix=(200, 300))
    x, y = np.meshgrid(np.linspace(-0.5, 299.5, 9), np.linspace(-0.5, 199.5, 7))
    for ra, dec in ((150.0, 2.0), (0.001, -35.0), (30.0, 89.9), (10.0, -90.0)):
        plan = replace(PLAN, ra_deg=ra, dec_deg=dec, dither_arcsec=(12.0, -7.0), rotation_deg=33.0)
        for detector in range(6):
            back = sky_to_camera(plan, camera, detector, *camera_to_sky(plan, camera, detector, x, y))
            assert np.abs(back[0] - x).max() < 1e-6
            assert np.abs(back[1] - y).max() < 1e-6


def test_coordinates_agree_with_a_plain_wcs_without_distortion():
    """With nominal detectors and no distortion the header's own WCS says the same to 1e-6 arcsec."""
    from astropy.io import fits
    from astropy.wcs import WCS

    from spica.steps.simulate.exposure import nominal_wcs_cards

    flat = {"radial_distortion_pix": 0.0, "tangential_distortion_pix": (0.0, 0.0)}
    camera = CameraModel(detector_rotation_deg=(0.0,) * 4, detector_offset_pix=((0.0, 0.0),) * 4, **flat)
    plan = replace(PLAN, dither_arcsec=(30.0, 11.0), rotation_deg=12.0)
    x, y = np.array([0.0, 511.0, 100.0]), np.array([0.0, 20.0, 511.0])
    for detector in range(4):
        wcs = WCS(fits.Header([fits.Card(*card) for card in nominal_wcs_cards(plan, camera, detector)]))
        theirs = wcs.all_pix2world(x, y, 0)
        ours = camera_to_sky(plan, camera, detector, x, y)
        assert np.abs(np.array(ours) - np.array(theirs)).max() * 3600 < 1e-6


def test_distortion_reaches_its_size_at_the_corner():
    """The stated pixels of radial distortion are the shift of the mosaic's corner."""
    camera = CameraModel(
        n_x=1, n_y=1, radial_distortion_pix=3.0, tangential_distortion_pix=(0.0, 0.0),
        detector_rotation_deg=(0.0,), detector_offset_pix=((0.0, 0.0),),
    )  # fmt: skip
    straight = replace(camera, radial_distortion_pix=1e-30)
    corner = camera_to_sky(PLAN, camera, 0, [511.5], [511.5])
    x, y = sky_to_camera(PLAN, straight, 0, *corner)
    assert math.hypot(x[0] - 511.5, y[0] - 511.5) == pytest.approx(3.0, rel=1e-4)


def test_detected_stars_lie_where_the_truth_says():
    """sep finds bright stars of a noisy detector at their true pixels: median offset below 0.01 pixel."""
    camera = CameraModel(n_bad_columns=0, hot_pixels_per_mpix=0.0)
    plan = replace(PLAN, dither_arcsec=(9.0, 5.0))
    sky = draw_sky(
        150.0, 2.0, 260.0, ("r",), np.random.default_rng(8), galaxies_per_arcmin2=0.0, star_mags=(17.0, 20.0)
    )
    detected = render_detector(plan, camera, sky, 3, np.random.default_rng(9))
    image = detected.adu.astype(float)
    background = sep.Background(image)
    found = sep.extract(image - background.back(), 20.0, err=background.globalrms)
    x, y, _ = sep.winpos(image - background.back(), found["x"], found["y"], np.full(len(found), 1.2))
    truth = detected.sources
    gap = np.hypot(truth.x[:, None] - truth.x, truth.y[:, None] - truth.y) + 1e3 * np.eye(len(truth.x))
    alone = gap.min(axis=1) > 25.0
    distance = np.hypot(x[:, None] - truth.x[alone], y[:, None] - truth.y[alone])
    nearest = distance.argmin(axis=0)
    dx, dy = x[nearest] - truth.x[alone], y[nearest] - truth.y[alone]
    assert alone.sum() > 20
    assert np.abs(np.median(dx)) < 0.01
    assert np.abs(np.median(dy)) < 0.01
    assert np.median(distance.min(axis=0)) < 0.03


def test_clouds_saturation_cosmics_trails_and_bad_columns_show():
    """Each mishap leaves its mark where the truth says, and nowhere else."""
    camera = CameraModel(n_x=1, n_y=1, detector_pix=(200, 240), bad_columns=((50,),), hot_pixels_per_mpix=100.0)
    sky = one_source(PLAN, camera, 150.0, 100.0, 12.0)
    clear = render_detector(PLAN, camera, sky, 0, np.random.default_rng(1))
    assert clear.adu.max() == 60000
    assert clear.n_saturated == (clear.adu == 60000).sum() > 10
    assert np.median(clear.adu[:, 50]) == pytest.approx(0.15 * measure_sky_adu(PLAN, camera), rel=0.05)
    hot_y, hot_x, _ = camera.hot_pixels(0)
    assert (clear.adu[hot_y, hot_x] > 1.3 * np.median(clear.adu)).all()
    struck = render_detector(replace(PLAN, cosmic_rate=3.0), camera, sky, 0, np.random.default_rng(1))
    changed = struck.adu.astype(int) - clear.adu > 200
    assert struck.n_cosmics > 3
    assert changed.any()
    assert not (changed & ~struck.cosmic_mask).any()
    trail = SatelliteTrail(angle_deg=30.0, offset_arcsec=3.0, adu_per_arcsec=8000.0)
    crossed = render_detector(replace(PLAN, trails=(trail,)), camera, empty_sky(), 0, np.random.default_rng(1))
    blank = render_detector(PLAN, camera, empty_sky(), 0, np.random.default_rng(1))
    extra = crossed.adu.astype(float) - blank.adu
    assert extra[:, 100].sum() == pytest.approx(8000.0 * 0.3 / math.cos(math.radians(30.0)), rel=0.05)
    assert crossed.trail_mask[np.unravel_index(extra.argmax(), extra.shape)]
    cloudy = expected_sources(replace(PLAN, transparency=0.35), camera, sky, 0).flux_adu
    assert cloudy / clear.sources.flux_adu == pytest.approx(0.35)


def test_defocus_keeps_flux_and_place_and_makes_a_ring():
    """An out-of-focus star is a ring: dark in the middle, total and centroid unchanged."""
    plan = replace(PLAN, defocus_arcsec=3.0, seeing_arcsec=0.6)
    sky = one_source(plan, PLAIN, 128.0, 127.0, 15.0)
    image = render_scene(plan, PLAIN, sky, 0).astype(float)
    total, x, y = moments(image)
    assert total == pytest.approx(expected_sources(plan, PLAIN, sky, 0).flux_adu[0], rel=1e-3)
    assert (x, y) == pytest.approx((128.0, 127.0), abs=5e-3)
    assert image[127, 128] < 0.5 * image[127, 128 + 7]


def test_bleeding_runs_along_the_column_and_keeps_charge():
    """What a saturated pixel cannot hold appears above and below it."""
    from spica.steps.simulate.kernels import bleed_columns

    charge = np.zeros((101, 5), dtype=np.float32)
    charge[50, 2] = 1000.0
    bleed_columns(charge, 100.0)
    assert charge.sum() == pytest.approx(1000.0)
    assert charge.max() == 100.0
    assert (charge[:, [0, 1, 3, 4]] == 0.0).all()
    assert np.flatnonzero(charge[:, 2]).mean() == pytest.approx(50.0)


def test_same_seed_same_detector_and_another_seed_another():
    """The pixels follow from the seed alone."""
    sky = one_source(PLAN, PLAIN, 100.0, 100.0, 16.0)
    first, second, third = (render_detector(PLAN, PLAIN, sky, 0, np.random.default_rng(seed)).adu for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != third).any()


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: CameraModel(detector_pix=(16, 512)), "detector_pix"),
        (lambda: CameraModel(n_x=100, n_y=100), "n_x"),
        (lambda: CameraModel(gain_e_per_adu=(1.0, 2.0)), "gain_e_per_adu"),
        (lambda: replace(PLAN, name="../up"), "name"),
        (lambda: replace(PLAN, filter_name="H"), "filter"),
        (lambda: replace(PLAN, moffat_beta=1.5), "moffat_beta"),
        (lambda: draw_sky(0.0, 0.0, 1e5, ("r",), np.random.default_rng(1)), "sources"),
    ],
)
def test_impossible_wishes_are_refused_by_name(build, word):
    with pytest.raises(RecipeError, match=word):
        build()

"""The joint solution recovers a simulated camera within its errors, agrees with astropy, and refuses what is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from spica.algorithms.astrometry import (
    AstrometryParameters,
    DetectorLayout,
    Ensemble,
    ExposureSources,
    InstrumentLayout,
    JudgementLimits,
    ReferenceStars,
    judge_solution,
    pixel_to_sky,
    sky_to_pixel,
    solve_astrometry,
    tpv_cards,
)
from spica.algorithms.neighbours import match_nearest
from spica.algorithms.skymap import angular_separation, tangent_deproject, tangent_project

SIZE, SCALE_DEG = 2048, 0.3 / 3600
CENTRE = np.full(2, (SIZE - 1) / 2)
NOISE_MAS = 20.0
FAST = AstrometryParameters(search_radius_arcsec=400.0)


class Camera:
    """Four detectors with gaps, small turns and a distortion of the whole field; the truth behind a simulation."""

    def __init__(self, rng, n_detectors=4, half_gap=30):
        self.layouts, self.turns, self.jumps = [], [], []
        for sx, sy in [(-1, -1), (1, -1), (-1, 1), (1, 1)][:n_detectors]:
            place = np.array([sx, sy]) * (SIZE / 2 + half_gap)
            cd = SCALE_DEG * np.array([[-1.0, 0.0], [0.0, 1.0]])
            self.layouts.append(DetectorLayout(SIZE, SIZE, *(CENTRE - place), cd))
            angle = np.radians(rng.normal(0, 0.05))
            self.turns.append(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))
            self.jumps.append(rng.normal(0, 2, 2))

    @staticmethod
    def distort(u):
        cubic = 0.02 * u * (u**2).sum(axis=-1, keepdims=True)
        return u + cubic + 3e-4 * np.stack([u[..., 0] * u[..., 1], u[..., 1] ** 2], axis=-1)

    def to_plane(self, detector, pixel):
        layout = self.layouts[detector]
        straight = (pixel - CENTRE - self.jumps[detector]) @ np.linalg.inv(self.turns[detector]).T + CENTRE
        return self.distort((straight - [layout.crpix_x_pix, layout.crpix_y_pix]) @ layout.cd_deg_per_pix.T)

    def to_pixel(self, detector, plane):
        layout, u = self.layouts[detector], plane.copy()
        for _ in range(25):
            u = u - (self.distort(u) - plane)
        straight = u @ np.linalg.inv(layout.cd_deg_per_pix).T + [layout.crpix_x_pix, layout.crpix_y_pix]
        return (straight - CENTRE) @ self.turns[detector].T + CENTRE + self.jumps[detector]


class Sky:
    """A simulated ensemble, its reference catalogue and the true position of any pixel."""

    def __init__(
        self, seed=1, ra=150.0, dec=2.0, n_exposures=5, n_stars=2400, outliers=0.0, off_arcmin=3.0, motion=0.0
    ):
        rng = np.random.default_rng(seed)
        self.camera, self.pointings, exposures = Camera(rng), [], []
        xi, eta = rng.uniform(-0.24, 0.24, (2, n_stars))
        mag = rng.uniform(15, 21.5, n_stars)
        pm = rng.normal(0, motion, (2, n_stars))
        for number in range(n_exposures):
            years = 10.0 + number
            moved = tangent_deproject(xi + pm[0] * years / 3.6e6, eta + pm[1] * years / 3.6e6, ra, dec)
            point = [float(v) for v in tangent_deproject(*rng.uniform(-0.03, 0.03, 2), ra, dec)]
            angle = np.radians(rng.normal(0, 0.1))
            attitude = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            attitude = attitude @ [[1 + rng.normal(0, 2e-4), rng.normal(0, 1e-4)], [0, 1]]
            self.pointings.append((*point, attitude))
            believed = [float(v) for v in tangent_deproject(*(rng.normal(0, off_arcmin / 85, 2)), *point)]
            exposures.append(self._observe(rng, number, believed, moved, mag, outliers, 2026.0 + number))
        self.ensemble = Ensemble((InstrumentLayout("cam", tuple(self.camera.layouts)),), tuple(exposures))
        noise = rng.normal(0, 0.6, (2, n_stars)) / 3.6e6
        at = tangent_deproject(xi + noise[0], eta + noise[1], ra, dec)
        keep = mag < 20
        self.reference = ReferenceStars(at[0][keep], at[1][keep], np.full(keep.sum(), 0.6), mag[keep], 2016.0,
                                        pm[0][keep], pm[1][keep], "simulated")  # fmt: skip

    def _observe(self, rng, number, believed, sky, mag, outliers, year):
        ra0, dec0, attitude = self.pointings[number]
        plane = np.column_stack(tangent_project(*sky, ra0, dec0)) @ np.linalg.inv(attitude).T
        columns = []
        for detector in range(len(self.camera.layouts)):
            pixel = self.camera.to_pixel(detector, plane)
            seen = np.flatnonzero(np.all((pixel > 0) & (pixel < SIZE - 1), axis=1))
            snr = np.minimum(10 * 10 ** (-0.4 * (mag[seen] - 22)), 1000.0)
            error = np.hypot(NOISE_MAS / 300, 1 / snr)
            pixel = pixel[seen] + rng.normal(size=(seen.size, 2)) * error[:, None]
            bad = rng.random(seen.size) < outliers
            pixel[bad] += rng.uniform(-4, 4, (bad.sum(), 2))
            flux = 10 ** (-0.4 * (mag[seen] - 25))
            columns.append((np.full(seen.size, detector), pixel[:, 0], pixel[:, 1], error, flux, flux / snr))
        joined = [np.concatenate(c) for c in zip(*columns, strict=True)]
        usable = np.ones(joined[0].size, dtype=bool)
        return ExposureSources(f"e{number}", "cam", *believed, year, *joined, usable)

    def errors_mas(self, solution):
        """Distance of solved from true positions on a grid of every detector, mas."""
        x, y = (a.ravel() for a in np.meshgrid(np.linspace(10, SIZE - 11, 9), np.linspace(10, SIZE - 11, 9)))
        found = []
        for one in solution.detectors:
            ra0, dec0, attitude = self.pointings[int(one.exposure[1:])]
            plane = self.camera.to_plane(one.detector, np.column_stack([x, y])) @ attitude.T
            true = tangent_deproject(plane[:, 0], plane[:, 1], ra0, dec0)
            found.append(angular_separation(*pixel_to_sky(one, x, y), *true) * 3.6e6)
        return np.array(found)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.fixture(scope="module")
def sky():
    return Sky()


@pytest.fixture(scope="module")
def solution(sky):
    return solve_astrometry(sky.ensemble, sky.reference, FAST)


def expected_mas(solution):
    """Field-averaged error: 2 axes, 6 + 20 numbers on the reference pairs of an exposure and of a detector."""
    n_exposure = solution.n_reference / len(solution.exposures)
    return NOISE_MAS * np.sqrt(2 * (3 / n_exposure + 10 / (solution.n_reference / 4)))


def test_truth_is_recovered_within_its_error(sky, solution):
    error = sky.errors_mas(solution)
    assert error.shape == (20, 81)
    assert rms(error) < 1.7 * expected_mas(solution)
    assert error.max() < 10 * expected_mas(solution)
    assert solution.internal_rms_mas == pytest.approx(NOISE_MAS, rel=0.1)
    assert solution.reference_rms_mas == pytest.approx(NOISE_MAS, rel=0.1)
    assert solution.chi2 / solution.n_degrees == pytest.approx(1.0, abs=0.08)
    assert {one.code for one in solution.exposure_outcomes} == {"used"}
    assert solution.degree_fallbacks == ()
    assert all(verdict.passed for verdict in judge_solution(solution))


def test_figures_of_exposures(sky, solution):
    for one, source, (ra, dec, _) in zip(solution.exposures, sky.ensemble.exposures, sky.pointings, strict=True):
        truly = float(angular_separation(ra, dec, source.ra_deg, source.dec_deg)) * 3600
        assert one.pointing_offset_arcsec == pytest.approx(truly, abs=2.5)
        assert abs(one.scale_change) < 2e-3
        assert abs(one.rotation_deg) < 0.5
        assert one.parity == 1
        assert one.n_reference > 200
        assert one.contrast > 10


def test_full_size_case_reaches_two_milliarcseconds():
    """Eight exposures, four detectors, some 4000 sources each, 3000 reference stars."""
    sky = Sky(seed=3, n_exposures=8, n_stars=6000)
    solution = solve_astrometry(sky.ensemble, sky.reference, FAST)
    assert rms(sky.errors_mas(solution)) < 2.0


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 30.0), (10.0, 89.97), (300.0, -90.0)])
def test_poles_and_ra_zero_are_ordinary(ra, dec):
    sky = Sky(ra=ra, dec=dec, n_exposures=3)
    solution = solve_astrometry(sky.ensemble, sky.reference, FAST)
    assert len(solution.exposures) == 3
    assert rms(sky.errors_mas(solution)) < 1.7 * expected_mas(solution)


@pytest.mark.parametrize("seed", range(10, 16))
def test_detectors_away_from_their_nominal_place_are_found(seed):
    """Two exposures only, detectors some pixels off: every detector joins at full degree, none is lost on the way."""
    sky = Sky(seed=seed, n_exposures=2)
    solution = solve_astrometry(sky.ensemble, sky.reference, FAST)
    assert solution.degree_fallbacks == ()
    assert {one.code for one in solution.exposure_outcomes} == {"used"}
    assert rms(sky.errors_mas(solution)) < 1.7 * expected_mas(solution)


def test_outliers_do_not_move_it():
    sky = Sky(outliers=0.1)
    solution = solve_astrometry(sky.ensemble, sky.reference, FAST)
    assert rms(sky.errors_mas(solution)) < 1.9 * expected_mas(solution)
    assert solution.internal_rms_mas == pytest.approx(NOISE_MAS, rel=0.12)


def test_order_changes_nothing(sky, solution):
    rng = np.random.default_rng(0)
    mixed = []
    for index in [3, 0, 4, 1, 2]:
        one = sky.ensemble.exposures[index]
        order = rng.permutation(one.x_pix.size)
        names = ("detector", "x_pix", "y_pix", "error_pix", "flux_adu", "flux_error_adu", "usable")
        mixed.append(replace(one, **{name: getattr(one, name)[order] for name in names}))
    stars = rng.permutation(sky.reference.mag.size)
    names = ("ra_deg", "dec_deg", "error_mas", "mag", "pm_ra_masyr", "pm_dec_masyr")
    reference = replace(sky.reference, **{name: getattr(sky.reference, name)[stars] for name in names})
    other = solve_astrometry(Ensemble(sky.ensemble.instruments, tuple(mixed)), reference, FAST)
    x = np.array([0.0, 1000.0, 2047.0])
    for one in solution.detectors:
        twin = other.detector_solution(one.exposure, one.detector)
        gap = angular_separation(*pixel_to_sky(one, x, x), *pixel_to_sky(twin, x, x)) * 3600
        assert gap.max() < 1e-6
    assert other.internal_rms_mas == pytest.approx(solution.internal_rms_mas, rel=1e-6)


def test_overlaps_improve_relative_precision():
    """With a sparse reference the difference between two exposures of the same star is better in a joint solution."""
    sky = Sky(n_exposures=4)
    sparse = replace(sky.reference, error_mas=np.full(sky.reference.mag.size, 0.6))
    keep = np.random.default_rng(5).random(sparse.mag.size) < 0.12
    names = ("ra_deg", "dec_deg", "error_mas", "mag", "pm_ra_masyr", "pm_dec_masyr")
    sparse = replace(sparse, **{name: getattr(sparse, name)[keep] for name in names})
    rules = replace(FAST, start="header", header_radius_arcsec=3.0, degree=1)
    near = []
    for one, (ra, dec, _) in zip(sky.ensemble.exposures, sky.pointings, strict=True):
        near.append(replace(one, ra_deg=ra, dec_deg=dec))
    near_sky = Ensemble(sky.ensemble.instruments, tuple(near))
    joint = solve_astrometry(near_sky, sparse, replace(rules, degree=3))
    single = [
        solve_astrometry(Ensemble(near_sky.instruments, (one,)), sparse, replace(rules, degree=3)) for one in near
    ]
    at = np.linspace(300, 1700, 8)

    def disagreement(wcs):
        """Shift between the true positions of a pixel on exposure 0 and on 1 against the solved ones, mas."""
        gap = []
        for detector in range(4):
            offset = []
            for number in (0, 1):
                ra0, dec0, attitude = sky.pointings[number]
                plane = sky.camera.to_plane(detector, np.column_stack([at, at])) @ attitude.T
                true = tangent_deproject(plane[:, 0], plane[:, 1], ra0, dec0)
                solved = pixel_to_sky(wcs(number, detector), at, at)
                offset.append(np.array(tangent_project(*solved, ra0, dec0)) - tangent_project(*true, ra0, dec0))
            gap.append(offset[0] - offset[1])
        return rms(gap) * 3.6e6

    together = disagreement(lambda number, detector: joint.detector_solution(f"e{number}", detector))
    alone = disagreement(lambda number, detector: single[number].detector_solution(f"e{number}", detector))
    assert together < 0.6 * alone


def test_proper_motion_is_applied():
    sky = Sky(seed=4, n_exposures=3, motion=30.0)
    moving = solve_astrometry(sky.ensemble, sky.reference, FAST)
    assert rms(sky.errors_mas(moving)) < 1.8 * expected_mas(moving)
    assert moving.internal_rms_mas < 1.5 * NOISE_MAS
    still = solve_astrometry(sky.ensemble, replace(sky.reference, pm_ra_masyr=None, pm_dec_masyr=None), FAST)
    assert still.reference_rms_mas > 5 * moving.reference_rms_mas
    assert moving.epoch_year == 2027.0


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_tpv_agrees_with_astropy_and_inverts(sky, degree):
    found = solve_astrometry(sky.ensemble, sky.reference, replace(FAST, degree=degree))
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-50, 2100, 7), np.linspace(-50, 2100, 7)))
    for one in found.detectors[:6]:
        header = fits.Header(tpv_cards(one))
        ours = pixel_to_sky(one, x, y)
        theirs = WCS(header).all_pix2world(x, y, 0)
        assert angular_separation(*ours, *theirs).max() * 3600 < 1e-6
        back = sky_to_pixel(one, *ours)
        np.testing.assert_allclose(back, (x, y), atol=1e-6)
    zero_based = dict(tpv_cards(found.detectors[0], one_based=False))
    assert header["CTYPE1"] == "RA---TPV"
    assert zero_based["CRPIX1"] == found.detectors[0].crpix_x_pix
    assert np.isnan(sky_to_pixel(one, (one.crval_ra_deg + 180) % 360, -one.crval_dec_deg)[0])


def test_wrong_reference_fails_with_its_cause(sky):
    other = Sky(seed=99).reference
    found = solve_astrometry(sky.ensemble, other, FAST)
    assert found.exposures == ()
    assert {one.code for one in found.exposure_outcomes} == {"no_match"}
    first = judge_solution(found)[0]
    assert not first.passed
    assert first.code == "reference_mismatch"
    assert "reference catalogue does not match (simulated" in first.text


def test_one_bad_exposure_is_left_out_and_the_others_go_on(sky, solution):
    rng = np.random.default_rng(8)
    bad = sky.ensemble.exposures[2]
    size = bad.x_pix.size
    scrambled = replace(bad, x_pix=rng.uniform(0, 2047, size), y_pix=rng.uniform(0, 2047, size))
    exposures = [scrambled if one is bad else one for one in sky.ensemble.exposures]
    found = solve_astrometry(Ensemble(sky.ensemble.instruments, tuple(exposures)), sky.reference, FAST)
    assert [one.outcome for one in found.exposure_outcomes] == ["used", "used", "left_out", "used", "used"]
    left = found.exposure_outcomes[2]
    assert left.code == "no_match"
    assert left.value > left.limit
    with pytest.raises(KeyError):
        found.detector_solution("e2", 0)
    assert rms(sky.errors_mas(found)) < 2 * expected_mas(found)


def test_exposure_beyond_the_reference_is_tied_by_overlaps(sky):
    far = sky.ensemble.exposures[4]
    shifted = replace(sky.reference)
    ra0, dec0, _ = sky.pointings[4]
    xi, _ = tangent_project(shifted.ra_deg, shifted.dec_deg, ra0, dec0)
    reach = {one.name: one for one in sky.ensemble.exposures}
    assert far.name in reach
    left_half = xi > 0.02
    names = ("ra_deg", "dec_deg", "error_mas", "mag", "pm_ra_masyr", "pm_dec_masyr")
    half = replace(sky.reference, **{name: getattr(sky.reference, name)[left_half] for name in names})
    only_right = replace(far, usable=far.usable & np.isin(far.detector, [1, 3]))
    ensemble = Ensemble(sky.ensemble.instruments, (*sky.ensemble.exposures[:4], only_right))
    found = solve_astrometry(ensemble, half, FAST)
    assert found.exposure_outcomes[4].code == "tied_by_overlaps"
    assert found.exposures[4].n_internal > 50
    mine = [k for k, one in enumerate(found.detectors) if one.exposure == "e4" and one.detector in (1, 3)]
    # extrapolated from half the field: hundreds of mas would mean a wrong tie
    assert rms(sky.errors_mas(found)[mine]) < 60


def test_degree_falls_where_stars_are_few_and_an_empty_detector_is_carried(sky):
    thin = []
    for one in sky.ensemble.exposures[:2]:
        keep = one.usable & (one.detector != 3)
        rows = np.flatnonzero(one.detector == 2)
        keep[rows[np.argsort(-one.flux_adu[rows])][13:]] = False
        thin.append(replace(one, usable=keep))
    found = solve_astrometry(Ensemble(sky.ensemble.instruments, tuple(thin)), sky.reference, FAST)
    assert [(one.detector, one.degree) for one in found.degree_fallbacks] == [(2, 1), (3, -1)]
    assert {one.code for one in found.exposure_outcomes} == {"degree_lowered"}
    assert len(found.detectors) == 8
    # the carried detector keeps its nominal place: its true turn (0.05 deg) and jump (2 px) stay unknown
    carried = [k for k, one in enumerate(found.detectors) if one.detector == 3]
    assert rms(sky.errors_mas(found)[carried]) < 5 * 300


def test_mirrored_rotated_start_and_other_choices(sky):
    mirrored = tuple(
        replace(one, cd_deg_per_pix=np.array([[0, SCALE_DEG], [SCALE_DEG, 0]]) @ np.diag([-1.0, 1.0]))
        for one in sky.camera.layouts[:1]
    )
    one_chip = [replace(one, usable=one.usable & (one.detector == 0)) for one in sky.ensemble.exposures[:3]]
    one_chip = [replace(one, detector=np.zeros_like(one.detector)) for one in one_chip]
    turned = Ensemble((InstrumentLayout("cam", mirrored),), tuple(one_chip))
    found = solve_astrometry(turned, sky.reference, replace(FAST, search_radius_arcsec=600.0))
    assert len(found.exposures) == 3
    assert {one.parity for one in found.exposures} == {-1}
    assert rms(sky.errors_mas(found)) < 10
    free = solve_astrometry(sky.ensemble, sky.reference, replace(FAST, share_distortion=False))
    similar = solve_astrometry(sky.ensemble, sky.reference, replace(FAST, exposure_transform="similarity"))
    shared = solve_astrometry(sky.ensemble, sky.reference, FAST)
    assert rms(sky.errors_mas(free)) > 1.3 * rms(sky.errors_mas(shared))
    assert rms(sky.errors_mas(free)) < 12
    # the simulated attitudes shear by 1e-4, 0.07 arcsec at the edge, which a similarity cannot follow
    assert rms(sky.errors_mas(similar)) < 150


def test_megacam_detector_against_sdss(test_data):
    folder = test_data / "megacam_d3_catalogue"
    seen = fits.getdata(folder / "v695833-e0-c000.xy.fits.gz", 1)
    stars = fits.getdata(folder / "refcat_sdss_d3.fits.gz", 1)
    x, y, flux = (np.array(seen[name], dtype=float) for name in ("Centroid_x", "Centroid_y", "base_PsfFlux_instFlux"))
    scale = 0.1846 / 3600
    layout = DetectorLayout(2048, 4612, 1023.5, 2305.5, np.diag([-scale, scale]))
    count, unknown = x.size, np.full(x.size, np.nan)
    exposure = ExposureSources("695833", "megacam", 215.59, 53.07, np.nan, np.zeros(count, dtype=int), x, y, unknown,
                               flux, np.sqrt(np.abs(flux)), np.ones(count, dtype=bool))  # fmt: skip
    ra, dec = stars["RA"].astype(float), stars["DEC"].astype(float)
    reference = ReferenceStars(ra, dec, np.full(ra.size, np.nan), stars["imag"].astype(float), name="SDSS")
    ensemble = Ensemble((InstrumentLayout("megacam", (layout,)),), (exposure,))
    found = solve_astrometry(ensemble, reference, AstrometryParameters(search_radius_arcsec=600.0))
    pairs = match_nearest(*pixel_to_sky(found.detectors[0], x, y), ra, dec, 0.6)
    assert count == 337
    assert pairs.index1.size >= 270
    assert rms(pairs.separation_arcsec) <= 0.185
    assert found.exposures[0].pixel_scale_arcsec == pytest.approx(0.1846, abs=0.0005)
    assert all(verdict.passed for verdict in judge_solution(found))
    strict = judge_solution(found, JudgementLimits(max_reference_rms_arcsec=0.05, max_reference_rms_pix=0.1))
    assert [one.code for one in strict if not one.passed] == ["reference_rms"]


def test_contradictions_are_refused(sky):
    first = sky.ensemble.exposures[0]
    with pytest.raises(ValueError, match="distinct names"):
        solve_astrometry(Ensemble(sky.ensemble.instruments, (first, first)), sky.reference)
    with pytest.raises(ValueError, match="degree"):
        solve_astrometry(sky.ensemble, sky.reference, AstrometryParameters(degree=5))
    with pytest.raises(ValueError, match="without a layout"):
        solve_astrometry(Ensemble((), (first,)), sky.reference)
    with pytest.raises(ValueError, match="differ in length"):
        solve_astrometry(Ensemble(sky.ensemble.instruments, (replace(first, x_pix=np.zeros(1)),)), sky.reference)

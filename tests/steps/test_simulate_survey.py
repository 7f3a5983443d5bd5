"""The simulated survey: its files, its mishaps, its truth and its reference stars."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from spica.files.checksum import sha256_file
from spica.files.verify import verify_file
from spica.model.errors import DataError, RecipeError
from spica.reference import read_reference
from spica.steps.simulate import (
    CameraModel,
    SurveyParameters,
    camera_to_sky,
    draw_sky,
    expected_sources,
    plan_survey,
    read_truth,
    simulate_exposure,
    simulate_survey,
)

SMALL = SurveyParameters(n_objects=2, n_exposures=2, detector_pix=(96, 128), n_x=2, n_y=1, seed=5)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A tiny survey, and the calls of its progress."""
    folder = tmp_path_factory.mktemp("survey")
    calls = []
    truth = simulate_survey(folder, SMALL, progress=lambda *call: calls.append(call))
    return folder, truth, calls


def test_every_file_is_there_and_whole_but_for_the_one_cut(survey):
    """Checksums hold, pixels are uint16 of the asked size, and the truncated file misses its end."""
    folder, truth, calls = survey
    assert [call[0] for call in calls] == list(range(1, 11))
    assert {path.stem for path in folder.glob("*.fits")} == {e.plan.name for e in truth.exposures}
    cut = [e for e in truth.exposures if e.plan.truncated_fraction is not None]
    whole = [e for e in truth.exposures if e.plan.truncated_fraction is None]
    assert (len(cut), len(whole)) == (1, 9)
    for exposure in whole:
        with warnings.catch_warnings(), fits.open(folder / exposure.file_name, checksum=True) as hdus:
            warnings.simplefilter("error")
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "CCD00", "CCD01"]
            assert all(hdu.data.shape == (96, 128) and hdu.data.dtype == np.uint16 for hdu in hdus[1:])
        assert sha256_file(folder / exposure.file_name) == exposure.sha256
    size = (folder / whole[0].file_name).stat().st_size
    assert (folder / cut[0].file_name).stat().st_size == int(0.6 * size)
    report = verify_file(folder / cut[0].file_name)
    assert "truncated" in " ".join(problem.code for problem in report.problems)


def test_headers_tell_the_plan_with_its_pointing_error(survey):
    """Header values are the plan's; the pointing is off by no more than asked; EXPTIME is missing where planned."""
    folder, truth, _ = survey
    for exposure in truth.exposures:
        plan = exposure.plan
        header = fits.getheader(folder / exposure.file_name, 0)
        assert (header["OBJECT"], header["FILTER"], header["RUNID"]) == (plan.object_name, plan.filter_name, "26BS01")
        assert header["MJD-OBS"] == plan.mjd
        assert header["INSTRUME"] == "SPICASIM"
        assert header["DATE-OBS"].startswith("2026-09-0")
        assert ("EXPTIME" in header) == (plan.missing_keyword is None)
        north = (header["DEC"] - exposure.true_dec_deg) * 3600.0
        east = (header["RA"] - exposure.true_ra_deg) * 3600.0 * np.cos(np.radians(exposure.true_dec_deg))
        assert 0.0 < np.hypot(north, east) <= 20.01
    assert sum(e.plan.missing_keyword == "EXPTIME" for e in truth.exposures) == 1


def test_mishaps_are_planned_in_the_asked_numbers():
    """Clouds, defocus, trails, cut files and missing keywords come as often as asked, whole groups stay complete."""
    parameters = replace(SMALL, n_exposures=6, n_cloudy=2, n_truncated=2)
    plans = plan_survey(parameters, np.random.default_rng(1))
    assert len(plans) == 2 * 2 * 6 + 3
    assert sum(p.transparency == 0.35 for p in plans) == 2
    assert sum(p.defocus_arcsec > 0 for p in plans) == 1
    assert sum(len(p.trails) for p in plans) == 1
    assert sum(p.truncated_fraction is not None for p in plans) == 2
    good = [p for p in plans if p.truncated_fraction is None and p.missing_keyword is None]
    groups = {(p.object_name, p.filter_name) for p in good}
    assert all(sum((p.object_name, p.filter_name) == g for p in good) == 6 for g in groups)
    assert [p.mjd for p in plans] == sorted(p.mjd for p in plans)
    assert len({p.name for p in plans}) == len(plans)


def test_truth_reads_back_as_it_was(survey):
    """Camera, sky and exposures come back equal, from the survey's folder and from the truth's."""
    folder, truth, _ = survey
    for place in (folder, folder / "truth"):
        back = read_truth(place)
        assert back.exposures == truth.exposures
        assert back.camera == truth.camera
        assert (back.sky.ra_deg == truth.sky.ra_deg).all()
        assert all((back.sky.mags[band] == truth.sky.mags[band]).all() for band in ("g", "r"))
        assert back.sky.epoch_yr == truth.sky.epoch_yr
    assert back.exposure("sim01000o").plan == truth.exposures[0].plan
    with pytest.raises(DataError, match="no exposure"):
        back.exposure("nothing")
    with pytest.raises(DataError, match="simulate it again"):
        read_truth(folder / "elsewhere")


def test_reference_stars_are_the_true_stars_moved_to_their_epoch(survey):
    """Positions at the survey's epoch agree with the truth by the stated errors, magnitudes likewise."""
    _, truth, _ = survey
    reference = read_reference(truth.reference_path)
    assert reference.mag_system == "AB"
    assert set(reference.epoch_yr) == {2016.0}
    seen = truth.sky.take(truth.sky.is_star & (truth.sky.mags["r"] <= 21.0))
    moved = reference.at_epoch(truth.sky.epoch_yr)
    assert len(moved) == len(seen) > 50
    east = (moved.ra_deg - seen.ra_deg) * np.cos(np.radians(seen.dec_deg)) * 3.6e6
    north = (moved.dec_deg - seen.dec_deg) * 3.6e6
    n = len(seen)
    for offset in (east, north):
        assert offset.std() == pytest.approx(0.6, rel=4 / np.sqrt(2 * n))
        assert abs(offset.mean()) < 4 * 0.6 / np.sqrt(n)
    assert (reference.ra_deg - seen.ra_deg).std() * 3.6e6 > 10.0
    assert (reference.mags["g"] - seen.mags["g"]).std() == pytest.approx(0.004, rel=4 / np.sqrt(2 * n))


def test_two_filters_have_two_zero_points(survey):
    """The zero point holds filter, airmass and transparency."""
    _, truth, _ = survey
    for exposure in truth.exposures:
        plan = exposure.plan
        zero, extinction = {"g": (26.2, 0.15), "r": (25.9, 0.10)}[plan.filter_name]
        expected = zero - extinction * plan.airmass + 2.5 * np.log10(plan.transparency)
        assert exposure.zero_point_mag == pytest.approx(expected, abs=1e-9)


def test_equal_seeds_give_equal_bytes_whatever_the_threads(tmp_path):
    """The whole survey is the same to the byte; another seed is another survey."""
    names = []
    for folder, parameters, threads in (("a", SMALL, 1), ("b", SMALL, 2), ("c", replace(SMALL, seed=6), 2)):
        simulate_survey(tmp_path / folder, replace(parameters, n_exposures=1, n_objects=1, filters=("r",),
                        n_cloudy=0, n_defocused=0, n_trailed=0), threads=threads)  # fmt: skip
        names.append({p.relative_to(tmp_path / folder): sha256_file(p) for p in (tmp_path / folder).rglob("*.fits")})
    assert names[0] == names[1]
    assert names[0].keys() == names[2].keys()
    assert all(names[0][key] != names[2][key] for key in names[0])


def test_fields_over_ra_zero_and_near_the_pole_are_full():
    """The density asked for is met there as well, on every detector."""
    camera = CameraModel(detector_pix=(256, 256))
    for k, (ra, dec) in enumerate(((359.999, 10.0), (30.0, 89.98), (0.0, -90.0))):
        sky = draw_sky(ra, dec, 1.2 * camera.corner_radius_arcsec, ("r",), np.random.default_rng(k))
        plan = replace(plan_survey(SMALL, np.random.default_rng(1))[0], filter_name="r", ra_deg=ra, dec_deg=dec)
        counts = [len(expected_sources(plan, camera, sky, d).ids) for d in range(4)]
        area = (256 * 0.3 / 60) ** 2
        assert sum(counts) == pytest.approx(4 * area * 23, abs=5 * np.sqrt(4 * area * 23))
        assert min(counts) > 10


def test_an_exposure_of_another_size_and_folder(tmp_path):
    """Any detector size; an existing file is replaced by the whole new one; nothing else is left behind."""
    camera = CameraModel(n_x=1, n_y=3, detector_pix=(64, 200))
    plan = replace(plan_survey(SMALL, np.random.default_rng(1))[0], filter_name="r")
    sky = draw_sky(plan.ra_deg, plan.dec_deg, 60.0, ("r",), np.random.default_rng(1))
    path = tmp_path / "x.fits"
    path.write_text("old")
    truth = simulate_exposure(path, plan, camera, sky, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["x.fits"]
    with fits.open(path) as hdus:
        assert [hdu.shape for hdu in hdus[1:]] == [(64, 200)] * 3
        corner = camera_to_sky(plan, camera, 0, [0.0], [0.0])
    assert np.isfinite(corner).all()
    assert truth.n_stars + truth.n_galaxies == sum(len(expected_sources(plan, camera, sky, d).ids) for d in range(3))


@pytest.mark.parametrize(
    "change",
    [
        {"n_objects": 0},
        {"filters": ()},
        {"filters": ("r", "r")},
        {"filters": ("Q",)},
        {"pointing_error_arcsec": 500.0},
        {"n_cloudy": 99},
        {"n_truncated": -1},
    ],
)
def test_impossible_surveys_are_refused(change):
    with pytest.raises(RecipeError):
        replace(SMALL, **change)

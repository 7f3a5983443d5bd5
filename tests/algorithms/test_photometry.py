"""Injected transparency comes back within its error, with and without a reference, whatever the order."""

from __future__ import annotations

import numpy as np
import pytest

from spica.algorithms.photometry import PhotometryParameters, solve_zero_points

ZERO = 25.0


def night(seed=1, n_exposures=8, n_stars=400, attenuation=None, offsets=(0.0,), noise=0.01):
    """Return columns of detections of stars seen by random subsets of exposures, and the true zero points."""
    rng = np.random.default_rng(seed)
    mag = rng.uniform(14, 18, n_stars)
    dim = rng.normal(0, 0.1, n_exposures) if attenuation is None else np.asarray(attenuation)
    time = rng.uniform(30, 300, n_exposures)
    exposure, star = (a.ravel() for a in np.meshgrid(np.arange(n_exposures), np.arange(n_stars), indexing="ij"))
    keep = rng.random(exposure.size) < 0.7
    exposure, star = exposure[keep], star[keep]
    detector = rng.integers(0, len(offsets), exposure.size)
    zero = ZERO - dim
    level = zero[exposure] + np.asarray(offsets)[detector] - mag[star] + rng.normal(0, noise, exposure.size)
    flux = 10 ** (0.4 * level) * time[exposure]
    reference = mag + rng.normal(0, 0.03, n_stars)
    columns = {
        "flux_adu": flux, "flux_error_adu": flux * noise / 1.0857, "exptime_s": time, "exposure": exposure,
        "star": star, "detector": detector,
    }  # fmt: skip
    return columns, zero, reference, mag


STRICT = PhotometryParameters(error_floor_mag=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_transparency_is_recovered_within_its_error(seed):
    columns, zero, reference, _ = night(seed)
    found = solve_zero_points(
        **columns, reference_mag=reference, reference_error_mag=np.full(400, 0.03), parameters=STRICT
    )
    assert np.all(np.abs(found.zero_point_mag - zero) < 4 * found.zero_point_error_mag)
    # the common level comes from 400 reference stars of 0.03 mag and is shared by all exposures
    assert np.median(found.zero_point_error_mag) == pytest.approx(0.03 / np.sqrt(400), rel=0.3)
    relative = found.relative_zero_point_mag - (zero - zero.mean())
    assert np.abs(relative).max() < 5 * 0.01 / np.sqrt(280)
    assert found.total_internal_rms_mag == pytest.approx(0.01, rel=0.15)
    assert found.total_reference_rms_mag == pytest.approx(np.hypot(0.03, 0.01), rel=0.15)
    assert {one.code for one in found.outcomes} == {"used"}


def test_fluxes_reach_the_target_zero_point():
    columns, _, reference, mag = night(2)
    found = solve_zero_points(**columns, reference_mag=reference)
    calibrated = 30.0 - 2.5 * np.log10(columns["flux_adu"] * found.flux_scale[columns["exposure"]])
    assert np.median(calibrated - mag[columns["star"]]) == pytest.approx(0.0, abs=0.006)
    np.testing.assert_allclose(found.star_mag, mag, atol=0.05)


def test_a_cloudy_exposure_shows_in_skyprobe():
    columns, _, reference, _ = night(3, attenuation=[0, 0, 0, 0, 0, 1.0, 0, 0])
    found = solve_zero_points(**columns, reference_mag=reference)
    assert found.skyprobe_mag[5] == pytest.approx(1.0, abs=0.01)
    assert np.abs(np.delete(found.skyprobe_mag, 5)).max() < 0.01
    against = solve_zero_points(
        **columns, reference_mag=reference, parameters=PhotometryParameters(nominal_zero_point_mag=25.2)
    )
    assert against.skyprobe_mag[5] == pytest.approx(1.2, abs=0.01)


def test_without_reference_only_relative():
    columns, zero, _, _ = night(4)
    found = solve_zero_points(**columns)
    assert np.isnan(found.zero_point_mag).all()
    assert not found.is_absolute
    assert found.relative_zero_point_mag.mean() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.relative_zero_point_mag, zero - zero.mean(), atol=0.004)
    assert {one.code for one in found.outcomes} == {"relative_only"}
    with_reference = solve_zero_points(**columns, reference_mag=night(4)[2])
    ratio = found.flux_scale / with_reference.flux_scale
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.002)


def test_order_of_detections_and_exposures_changes_nothing():
    columns, _, reference, _ = night(5)
    first = solve_zero_points(**columns, reference_mag=reference)
    rng = np.random.default_rng(0)
    order, turn = rng.permutation(columns["exposure"].size), rng.permutation(8)
    back = np.argsort(turn)
    mixed = {name: column[order] for name, column in columns.items() if name != "exptime_s"}
    mixed["exposure"] = back[mixed["exposure"]]
    second = solve_zero_points(**mixed, exptime_s=columns["exptime_s"][turn], reference_mag=reference)
    np.testing.assert_allclose(second.zero_point_mag, first.zero_point_mag[turn], rtol=0, atol=1e-9)


def test_outliers_and_variable_stars_do_not_move_it():
    columns, zero, reference, _ = night(6)
    rng = np.random.default_rng(1)
    bad = rng.random(columns["exposure"].size) < 0.08
    columns["flux_adu"] = columns["flux_adu"] * np.where(bad, rng.uniform(1.3, 3.0, bad.size), 1.0)
    swinging = columns["star"] < 10
    swing = 10 ** (0.4 * rng.normal(0, 0.5, bad.size))
    columns["flux_adu"] = np.where(swinging, columns["flux_adu"] * swing, columns["flux_adu"])
    reference[30:60] -= 1.0
    found = solve_zero_points(**columns, reference_mag=reference)
    assert np.abs(found.zero_point_mag - zero).max() < 0.012
    assert found.star_variable[:10].mean() > 0.7
    assert found.star_variable[10:].mean() < 0.02
    assert not found.reference_used[30:60].any()
    assert not found.used[bad & ~swinging].any()


def test_detector_offsets():
    columns, zero, reference, _ = night(7, offsets=(0.05, -0.02, -0.03))
    rules = PhotometryParameters(solve_detector_offsets=True)
    found = solve_zero_points(**columns, reference_mag=reference, parameters=rules)
    np.testing.assert_allclose(found.detector_offset_mag, [0.05, -0.02, -0.03], atol=0.003)
    np.testing.assert_allclose(found.zero_point_mag, zero, atol=0.008)
    without = solve_zero_points(**columns, reference_mag=reference)
    assert without.total_internal_rms_mag > 2 * found.total_internal_rms_mag


def test_airmass_extinction_is_taken_out():
    columns, zero, reference, _ = night(8, attenuation=np.zeros(8))
    airmass = np.linspace(1.0, 2.0, 8)
    columns["flux_adu"] = columns["flux_adu"] * 10 ** (-0.4 * 0.15 * (airmass - 1)[columns["exposure"]])
    rules = PhotometryParameters(extinction_mag_per_airmass=0.15)
    found = solve_zero_points(**columns, reference_mag=reference, airmass=airmass, parameters=rules)
    np.testing.assert_allclose(found.zero_point_mag, zero, atol=0.01)
    plain = solve_zero_points(**columns, reference_mag=reference, airmass=airmass)
    np.testing.assert_allclose(plain.zero_point_mag, zero - 0.15 * (airmass - 1), atol=0.01)


def test_unlinked_groups_and_empty_exposures_are_named():
    columns, zero, reference, _ = night(9)
    apart = columns["exposure"] >= 6
    columns["star"] = np.where(apart, columns["star"] + 400, columns["star"])
    columns["exptime_s"] = np.r_[columns["exptime_s"], 60.0]
    found = solve_zero_points(**columns, reference_mag=reference)
    assert [one.code for one in found.outcomes] == ["used"] * 6 + ["not_linked"] * 2 + ["too_few_stars"]
    np.testing.assert_array_equal(found.group, [0, 0, 0, 0, 0, 0, 1, 1, -1])
    assert np.isnan(found.zero_point_mag[6:]).all()
    assert np.isnan(found.flux_scale[6:]).all()
    np.testing.assert_allclose(np.diff(found.relative_zero_point_mag[6:8]), np.diff(zero[6:8]), atol=0.004)


def test_flagged_detections_are_not_used_and_bad_input_is_refused():
    columns, zero, reference, _ = night(10)
    flagged = columns["star"] < 150
    columns["flux_adu"] = np.where(flagged, columns["flux_adu"] * 0.5, columns["flux_adu"])
    found = solve_zero_points(**columns, usable=~flagged, reference_mag=reference)
    np.testing.assert_allclose(found.zero_point_mag, zero, atol=0.01)
    assert not found.used[flagged].any()
    columns["exptime_s"] = columns["exptime_s"] * np.r_[0.0, np.ones(7)]
    with pytest.raises(ValueError, match="positive exposure time"):
        solve_zero_points(**columns)
    with pytest.raises(ValueError, match="differ in length"):
        solve_zero_points([1.0], [0.1, 0.1], [1.0], [0], [0])


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_galaxies_among_the_reference_do_not_draw_the_zero_point(share):
    """One exposure whose sources are to a third galaxies up to 2 mag too faint: the stars' zero point, in its error."""
    rng = np.random.default_rng(11)
    mag, n = rng.uniform(15, 20, 120), 120
    lost = np.where(rng.random(n) < share, rng.uniform(0.3, 2.0, n), 0.0)
    flux = 10 ** (0.4 * (ZERO - mag - lost + rng.normal(0, 0.03, n)))
    found = solve_zero_points(
        flux,
        0.01 * flux,
        [1.0],
        np.zeros(n, int),
        np.arange(n),
        reference_mag=mag,
        reference_error_mag=np.full(n, 0.01),
    )
    assert found.zero_point_mag[0] == pytest.approx(ZERO, abs=0.03)
    assert found.zero_point_error_mag[0] < 0.02
    assert not found.reference_used[lost > 0.5].any()
    assert found.reference_used[lost == 0].mean() > 0.9

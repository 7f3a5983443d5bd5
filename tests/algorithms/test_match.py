"""A pattern is found whatever shift, rotation, scale and parity; a wrong catalogue is refused; real exposures solve."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from astropy.io import fits

from spica.algorithms.match import MatchParameters, NoMatchError, match_pattern, verify_pattern
from spica.algorithms.skymap import tangent_project

SCALE = 5.2


def field(seed, *, angle_deg=0.0, parity=-1, shift=(0.0, 0.0), scale=SCALE, n_false=700, n_bright_lost=0):
    """Return 850 detections on 650 x 500 px, sparse reference stars to 2 degrees, and the true matrix and offset."""
    rng = np.random.default_rng(seed)
    xi, eta = rng.uniform(-7200, 7200, (2, 1600))
    mag = 12.0 - rng.exponential(1.0, 1600)
    angle = np.radians(angle_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = scale * turn @ np.diag([float(parity), 1.0])
    offset = np.asarray(shift) - matrix @ [324.5, 249.5]
    xy = (np.column_stack([xi, eta]) - offset) @ np.linalg.inv(matrix).T
    inside = np.flatnonzero(np.all((xy > 0) & (xy < [649, 499]), axis=1))
    inside = inside[np.argsort(mag[inside])][n_bright_lost:]
    xy = np.concatenate([xy[inside] + rng.normal(0, 0.2, (inside.size, 2)), rng.uniform(0, [649, 499], (n_false, 2))])
    faint = 12.0 + rng.exponential(1.0, n_false)
    flux = 10 ** (-0.4 * (np.r_[mag[inside], faint] + rng.normal(0, 0.3, xy.shape[0])))
    return xy, flux, xi, eta, mag, matrix, offset, inside


def find(case, **options):
    xy, flux, xi, eta, mag = case[:5]
    return match_pattern(xy[:, 0], xy[:, 1], flux, xi, eta, mag, scale_arcsec_per_pix=SCALE, **options)


@pytest.mark.parametrize("parity", [1, -1])
@pytest.mark.parametrize(
    ("angle", "shift"), [(0, (0, 0)), (77.3, (1500, 900)), (181, (-1200, 1200)), (290, (0, -1790))]
)
def test_blind_match_recovers_the_transformation(parity, angle, shift):
    case = field(7, angle_deg=angle, parity=parity, shift=shift, scale=SCALE * 1.015)
    found = find(case)
    assert found.parity == parity
    corners = np.array([[0, 0], [649, 0], [0, 499], [649, 499]])
    gap = corners @ (found.matrix - case[5]).T + found.offset - case[6]
    # 0.2 px on some 60 stars: the corners of an affine fit are known to 0.2 * sqrt(10 / 60) px
    assert np.abs(gap).max() < 4 * 0.2 * SCALE * np.sqrt(10 / len(case[7]))
    assert found.n_matched >= 0.9 * len(case[7])
    assert found.false_alarm_probability < 1e-12
    assert found.rms_arcsec == pytest.approx(0.2 * SCALE, rel=0.3)
    assert abs((found.position_angle_deg - angle + 180) % 360 - 180) < 0.1
    true_pairs = case[7][found.pairs[found.pairs[:, 0] < len(case[7]), 0]]
    assert np.mean(true_pairs == found.pairs[found.pairs[:, 0] < len(case[7]), 1]) > 0.95


def test_lost_bright_stars_and_partial_overlap():
    assert find(field(8, angle_deg=40, n_bright_lost=25)).n_matched >= 20
    case = list(field(9, angle_deg=40, shift=(600, 0)))
    half = case[2] < 600
    case[2], case[3], case[4] = case[2][half], case[3][half], case[4][half]
    assert find(case).n_matched >= 15


def test_known_angle_and_parity_narrow_the_search():
    case = field(10, angle_deg=30, parity=-1, shift=(300, 300))
    assert find(case, position_angle_deg=31.0, position_angle_tolerance_deg=3.0, parity=-1).n_matched > 30
    with pytest.raises(NoMatchError):
        find(case, position_angle_deg=100.0, position_angle_tolerance_deg=3.0)
    with pytest.raises(NoMatchError):
        find(case, parity=1)


def test_permutation_changes_nothing():
    case = list(field(11, angle_deg=200, shift=(500, -900)))
    first = find(case)
    order, stars = np.random.default_rng(0).permutation(len(case[0])), np.random.default_rng(1).permutation(1600)
    mixed = [case[0][order], case[1][order], case[2][stars], case[3][stars], case[4][stars]]
    second = find(mixed)
    np.testing.assert_allclose(second.matrix, first.matrix, rtol=0, atol=1e-9)
    np.testing.assert_allclose(second.offset, first.offset, rtol=0, atol=1e-6)
    pairs = {tuple(pair) for pair in first.pairs.tolist()}
    assert {(int(order[i]), int(stars[j])) for i, j in second.pairs} == pairs


@pytest.mark.parametrize("seed", range(6))
def test_wrong_reference_is_refused_with_figures(seed):
    case, other = field(seed, angle_deg=50), field(seed + 100)
    with pytest.raises(NoMatchError, match="reference catalogue does not match") as refused:
        find([*case[:2], *other[2:5]])
    assert refused.value.false_alarm_probability > 1e-4
    assert refused.value.n_matched < refused.value.n_expected


def test_verification_of_a_believed_transformation():
    xy, flux, xi, eta, mag, matrix, offset, inside = field(12, angle_deg=10)
    given = {"matrix": matrix * 1.001, "offset": offset + 8.0, "start_tolerance_arcsec": 30.0}
    found = verify_pattern(xy[:, 0], xy[:, 1], flux, xi, eta, mag, **given)
    assert found.n_matched >= 0.9 * len(inside)
    given["offset"] = offset + 300.0
    with pytest.raises(NoMatchError):
        verify_pattern(xy[:, 0], xy[:, 1], flux, xi, eta, mag, **given)


def test_bad_arguments_and_unknown_values():
    case = list(field(13))
    with pytest.raises(ValueError, match="scale"):
        match_pattern([0], [0], [1], [0], [0], [1], scale_arcsec_per_pix=0.0)
    with pytest.raises(ValueError, match="parity"):
        find(case, parity=2)
    with pytest.raises(NoMatchError, match="too few"):
        match_pattern([0, 1], [0, 1], [1, 1], [0], [0], [1], scale_arcsec_per_pix=1.0)
    case[0] = np.vstack([case[0], [np.nan, 1.0]])
    case[1] = np.r_[case[1], 1.0]
    assert find(case, parameters=MatchParameters(n_verify=400)).n_matched > 30


def test_every_real_exposure_solves_blind(test_data):
    """48 mirrored exposures, pointing off by 3 to 26 arcmin, against Tycho-2: rms under 0.4 pixel per axis."""
    folder = test_data / "hatp32_microobservatory"
    stars = fits.getdata(folder / "refcat_tycho2.fits.gz")
    names = sorted(folder.glob("HATP*.FITS.gz"))
    assert len(names) == 48
    for name in names:
        with fits.open(name) as hdus:
            pixels = np.ascontiguousarray(hdus[0].data.astype(np.float64))
            ra, dec = float(hdus[0].header["RA"]), float(hdus[0].header["DEC"])
        sky = sep.Background(pixels)
        seen = sep.extract(pixels - sky.back(), 6 * sky.globalrms)
        xi, eta = tangent_project(stars["RA"], stars["DEC"], ra, dec)
        found = match_pattern(
            seen["x"], seen["y"], seen["flux"], xi * 3600, eta * 3600, stars["MAG_VT"], scale_arcsec_per_pix=SCALE
        )
        centre = found.matrix @ [324.5, 249.5] + found.offset
        assert found.parity == 1, name.name
        assert found.n_matched >= 33, name.name
        assert found.rms_arcsec < 0.4 * SCALE, name.name
        assert 2.5 < np.hypot(*centre) / 60 < 27, name.name
        assert found.scale_arcsec_per_pix == pytest.approx(5.164, abs=0.005), name.name

"""The sky of headers: TAN, SIP, TPV, SCAMP's TAN with PV, and the broken ones."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from spica.files.header import HeaderCards, cards_from_text, make_cards
from spica.files.scan import read_headers
from spica.files.wcs import (
    WcsError,
    find_wcs,
    footprint_polygon,
    from_fits_pixel,
    has_wcs,
    parity,
    pixel_scale_arcsec,
    read_wcs,
    tan_cards,
    to_fits_pixel,
    wcs_cards,
)

CD = np.array([[-0.2, 0.01], [0.01, 0.2]]) / 3600


def _cards(test_data, name):
    return cards_from_text((test_data / "broken/astropy_wcs" / name).read_bytes().decode("latin-1"))


@pytest.mark.parametrize("name", ["siponly.hdr", "tpvonly.hdr", "irac_sip.hdr", "2wcses.hdr", "sub-segfault.hdr"])
def test_readable_headers_agree_with_astropy_and_survive_being_written(test_data, name):
    cards = _cards(test_data, name)
    wcs = read_wcs(cards)
    x, y = np.meshgrid([0.0, 40, 90], [0.0, 50, 80])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = WCS(fits.Header.fromstring("".join(cards.cards))).celestial.all_pix2world(x, y, 0)
    np.testing.assert_allclose(wcs.all_pix2world(x, y, 0), theirs, atol=1e-10)
    again = read_wcs(wcs_cards(wcs))
    # to_header keeps 12 digits: below 0.01 mas
    np.testing.assert_allclose(again.all_pix2world(x, y, 0), theirs, atol=3e-9)


@pytest.mark.parametrize("name", ["zpn-hole.hdr", "nonstandard_units.hdr", "unit.hdr", "validate.fits"])
def test_unusable_headers_are_a_data_error_that_says_what_to_do(test_data, name):
    cards = _cards(test_data, name)
    with pytest.raises(WcsError, match="solve the exposure"):
        read_wcs(cards)
    assert find_wcs(cards) is None


def test_every_odd_header_ends_in_a_wcs_or_in_none(test_data):
    for path in sorted((test_data / "broken/astropy_wcs").iterdir()):
        wcs = find_wcs(cards_from_text(path.read_bytes().decode("latin-1")))
        if wcs is not None:
            assert pixel_scale_arcsec(wcs) > 0


@pytest.mark.parametrize(
    "change",
    [
        [("CD1_1", 0.0), ("CD1_2", 0.0)],
        [("CD1_1", "x")],
        [("CRVAL2", 95.0)],
        [("PV1_400", 1.0)],
        [("CTYPE1", "RA---SIP")],
    ],
)
def test_spoiled_cards_are_refused(change):
    good = tan_cards(10.0, 20.0, 100.0, 100.0, CD)
    read_wcs(good)
    with pytest.raises(WcsError):
        read_wcs(good.with_cards(make_cards([(key, value, "") for key, value in change]).cards))


def test_tan_cards_put_the_tangent_point_on_its_0_based_pixel():
    cards = tan_cards(150.0, 2.2, 31.25, 47.5, CD)
    wcs = read_wcs(cards)
    np.testing.assert_allclose(wcs.all_pix2world(31.25, 47.5, 0), (150.0, 2.2), atol=1e-12)
    assert cards["CRPIX1"] == 32.25
    assert pixel_scale_arcsec(wcs) == pytest.approx(np.hypot(0.2, 0.01), rel=1e-9)
    assert from_fits_pixel(to_fits_pixel(7.5)) == 7.5
    assert has_wcs(cards)
    assert not has_wcs(HeaderCards(()))


def test_parity_tells_a_mirrored_image():
    assert parity(read_wcs(tan_cards(10, 0, 0, 0, CD))) == 1
    assert parity(read_wcs(tan_cards(10, 0, 0, 0, CD * [[-1], [1]]))) == -1


def test_tpv_terms_follow_their_convention():
    pv1, pv2 = [0.0, 1.0, 0.0, 0.0, 0.3], [0.0, 1.0, 0.0, 0.0, 0.0, -0.2]
    cards = tan_cards(30.0, 0.0, 0.0, 0.0, CD, pv1, pv2)
    assert cards["CTYPE1"] == "RA---TPV"
    x, y = 1500.0, 900.0
    xi, eta = CD @ [x, y]
    # TPV: xi' = xi + PV1_4 xi^2, eta' = eta + PV2_5 eta xi (axis 2 swaps the arguments); both in degrees
    xi2, eta2 = xi + 0.3 * xi**2, eta - 0.2 * eta * xi
    plain = read_wcs(tan_cards(30.0, 0.0, 0.0, 0.0, np.eye(2)))
    np.testing.assert_allclose(read_wcs(cards).all_pix2world(x, y, 0), plain.all_pix2world(xi2, eta2, 0), atol=1e-10)
    scamp = HeaderCards(tuple(card.replace("TPV", "TAN") for card in cards.cards))
    np.testing.assert_allclose(read_wcs(scamp).all_pix2world(x, y, 0), plain.all_pix2world(xi2, eta2, 0), atol=1e-10)


def test_footprint_is_the_outer_edge_also_across_ra_zero():
    wcs = read_wcs(tan_cards(0.0, 0.0, 49.5, 49.5, np.diag([-1.0, 1.0]) / 3600))
    corners = footprint_polygon(wcs, (100, 100))
    assert corners.shape == (4, 2)
    half = 50 / 3600
    np.testing.assert_allclose((corners[:, 0] + 180) % 360 - 180, np.array([1, -1, -1, 1]) * half, atol=1e-7)
    np.testing.assert_allclose(corners[:, 1], np.array([-1, -1, 1, 1]) * half, atol=1e-7)
    assert footprint_polygon(wcs, (100, 100), 5).shape == (20, 2)


def test_real_tpv_cutouts_cover_the_sky_they_should(test_data):
    header = read_headers(test_data / "decam_10exp_256px/DEC-OBS04a.mini.fits.gz")[0]
    wcs = read_wcs(header)
    assert pixel_scale_arcsec(wcs) == pytest.approx(0.262, abs=0.005)
    assert footprint_polygon(wcs, (256, 256)).shape == (4, 2)

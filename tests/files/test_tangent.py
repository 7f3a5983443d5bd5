"""The plain tangent plane says what astropy says, to 1e-9 degree, or nothing at all."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spica.files.header import HeaderCards, cards_from_text, make_cards
from spica.files.scan import read_headers
from spica.files.tangent import TPV_POWERS, TangentWcs, tangent_wcs
from spica.files.wcs import (
    WcsError,
    footprint_polygon,
    has_wcs,
    pixel_scale_arcsec,
    place_on_sky,
    read_wcs,
    tan_cards,
    wcs_keyword_cards,
)

SHAPE = (4612, 2048)
TOLERANCE_DEG = 1e-9
"""4 micro-arcseconds: what is asked for; rounding of doubles is 1e-13."""


def _astropy_corners(cards: HeaderCards, shape: tuple[int, int]) -> np.ndarray:
    ny, nx = shape
    x, y = np.array([(0, 0), (nx, 0), (nx, ny), (0, ny)]).T - 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ra, dec = WCS(fits.Header.fromstring(cards.text)).celestial.all_pix2world(x, y, 0)
    return np.column_stack([ra % 360.0, dec])


def _apart(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    east = (ours[:, 0] - theirs[:, 0] + 180.0) % 360.0 - 180.0
    return float(
        max(np.max(np.abs(east * np.cos(np.radians(theirs[:, 1])))), np.max(np.abs(ours[:, 1] - theirs[:, 1])))
    )


def _sip_cards(terms: dict[str, float]) -> HeaderCards:
    plain = tan_cards(200.0, -40.0, 1000.0, 2000.0, np.array([[-7e-5, 1e-6], [1e-6, 7e-5]]))
    named = [("CTYPE1", "RA---TAN-SIP", ""), ("CTYPE2", "DEC--TAN-SIP", ""), ("A_ORDER", 3, ""), ("B_ORDER", 2, "")]
    return plain.with_cards(make_cards([*named, *((k, v, "") for k, v in terms.items())]).cards)


@settings(max_examples=150, deadline=None)
@given(
    st.floats(0.0, 360.0),
    st.floats(-89.9, 89.9),
    st.floats(-2e5, 2e5),
    st.floats(-2e5, 2e5),
    st.floats(1e-6, 1e-3),
    st.floats(0.0, 360.0),
    st.sampled_from([1.0, -1.0]),
    st.lists(st.floats(-0.02, 0.02), min_size=40, max_size=40),
    st.booleans(),
)
def test_tan_and_tpv_agree_with_astropy(ra, dec, x, y, scale, angle, parity, noise, distorted):
    c, s = np.cos(np.radians(angle)) * scale, np.sin(np.radians(angle)) * scale
    cd = np.array([[-parity * c, s], [parity * s, c]])
    pv = [0.3 * noise[0], 1.0 + noise[1], noise[2], 0.1 * noise[3], *noise[4:]]
    terms = (pv, [0.2 * noise[5], 1.0 - noise[2], *noise[7:33]]) if distorted else ((), ())
    reach = max(abs(x), abs(y), *SHAPE) * 2 * scale
    assume(reach < (2.0 if distorted else 60.0))
    cards = tan_cards(ra, dec, x, y, cd, *terms)
    plain = tangent_wcs(cards)
    assert plain is not None
    theirs = _astropy_corners(cards, SHAPE)
    assert _apart(plain.corners(SHAPE), theirs) < TOLERANCE_DEG
    assert plain.pixel_scale_arcsec == pytest.approx(scale * 3600, rel=1e-12)
    assert plain.sides_arcsec == pytest.approx((scale * 3600, scale * 3600), rel=1e-12)
    place = place_on_sky(cards, SHAPE)
    assert place.polygon_deg == plain.corners(SHAPE)
    assert all(0.0 <= corner[0] < 360.0 for corner in place.polygon_deg)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e-6, 1e-6), min_size=14, max_size=14))
def test_sip_agrees_with_astropy(noise):
    names = ["A_2_0", "A_1_1", "A_0_2", "A_3_0", "A_2_1", "A_1_2", "A_0_3", "B_2_0", "B_1_1", "B_0_2", "B_3_0", "A_4_0"]
    small = {
        name: v * (1e-4 if int(name[2]) + int(name[4]) > 2 else 1.0) for name, v in zip(names, noise, strict=False)
    }
    cards = _sip_cards(small | {"AP_ORDER": 2, "BP_ORDER": 2, "AP_1_1": noise[12], "A_DMAX": 3.0})
    plain = tangent_wcs(cards)
    assert plain is not None
    assert _apart(plain.corners(SHAPE), _astropy_corners(cards, SHAPE)) < TOLERANCE_DEG


@pytest.mark.parametrize(
    "change",
    [
        [("PC1_1", 0.8, ""), ("PC1_2", -0.6, ""), ("PC2_1", 0.6, ""), ("PC2_2", 0.8, ""), ("CDELT1", -2e-4, "")],
        [("CDELT1", -2e-4, ""), ("RADESYS", "GAPPT", ""), ("EQUINOX", 2008.5, ""), ("LATPOLE", 20.0, "")],
    ],
)
def test_matrices_by_cdelt_agree_with_astropy(change):
    base = tan_cards(30.0, 20.0, 100.0, 100.0, np.eye(2)).without(["CD1_1", "CD1_2", "CD2_1", "CD2_2"])
    cards = base.with_cards(make_cards([*change, ("CDELT2", 2e-4, "")]).cards)
    plain = tangent_wcs(cards)
    assert plain is not None
    assert _apart(plain.corners(SHAPE), _astropy_corners(cards, SHAPE)) < TOLERANCE_DEG


def test_cdelt_beside_cd_counts_as_little_as_for_astropy():
    cards = tan_cards(30.0, 20.0, 100.0, 100.0, np.diag([-1e-4, 1e-4]))
    cards = cards.with_cards(make_cards([("CDELT1", 7.0, ""), ("CDELT2", 7.0, "")]).cards)
    plain = tangent_wcs(cards)
    assert plain is not None
    assert _apart(plain.corners(SHAPE), _astropy_corners(cards, SHAPE)) < TOLERANCE_DEG


@pytest.mark.parametrize(
    "change",
    [
        [("CTYPE1", "DEC--TAN"), ("CTYPE2", "RA---TAN")],
        [("CTYPE1", "RA---SIN"), ("CTYPE2", "DEC--SIN")],
        [("CUNIT1", "arcsec")],
        [("LONPOLE", 0.0)],
        [("CROTA2", 10.0)],
        [("PC1_1", 1.0)],
        [("CRVAL1", "x")],
        [("CD1_1", True)],
        [("CRVAL2", 90.0)],
        [("CD1_1", 0.0), ("CD1_2", 0.0)],
        [("CD3_3", 1.0)],
        [("PV1_1", 1.0), ("PV2_1", 1.0), ("PV1_5", 0.01)],
        [("CTYPE1", "RA---TPV"), ("CTYPE2", "DEC--TPV"), ("PV1_1", 1.0)],
        [("CTYPE1", "RA---TPV"), ("CTYPE2", "DEC--TPV"), ("PV1_1", 1.0), ("PV2_1", 1.0), ("PV1_7", 1e3)],
        [("CTYPE1", "RA---TPV"), ("CTYPE2", "DEC--TPV"), ("PV1_1", 1.0), ("PV2_1", 1.0), ("PV1_40", 0.0)],
        [("A_ORDER", 2), ("B_ORDER", 2), ("A_2_0", 1e-6)],
        [("CTYPE1", "RA---TAN-SIP"), ("CTYPE2", "DEC--TAN-SIP"), ("A_ORDER", 2)],
        [("CTYPE1", "RA---TAN-SIP"), ("CTYPE2", "DEC--TAN-SIP"), ("A_ORDER", 2), ("B_ORDER", 2), ("A_0_0", 1.0)],
    ],
)
def test_what_is_not_plain_is_left_to_astropy(change):
    """And comes out of `place_on_sky` as astropy reads it, or with its error."""
    plain = tan_cards(10.0, 20.0, 100.0, 100.0, np.diag([-1e-4, 1e-4]))
    cards = wcs_keyword_cards(plain.with_cards(make_cards([(key, value, "") for key, value in change]).cards))
    assert tangent_wcs(plain) is not None
    assert tangent_wcs(cards) is None
    try:
        wcs = read_wcs(cards)
    except WcsError:
        with pytest.raises(WcsError):
            place_on_sky(cards, SHAPE)
    else:
        place = place_on_sky(cards, SHAPE)
        assert place.polygon_deg == tuple(map(tuple, footprint_polygon(wcs, SHAPE).tolist()))
        assert place.pixel_scale_arcsec == pixel_scale_arcsec(wcs)


def test_repeated_keywords_are_left_to_astropy():
    cards = tan_cards(10.0, 20.0, 100.0, 100.0, np.diag([-1e-4, 1e-4]))
    assert tangent_wcs(HeaderCards((*cards.cards, *make_cards([("CRVAL1", 11.0, "")]).cards))) is None


def test_no_odd_header_is_plain_where_astropy_refuses_it(test_data):
    """Real headers, broken ones among them: what is projected here agrees, what astropy refuses is never taken."""
    headers = [
        cards_from_text(path.read_bytes().decode("latin-1"))
        for path in sorted((test_data / "broken/astropy_wcs").iterdir())
    ]
    for path in sorted((test_data / "decam_10exp_256px").glob("*.fits.gz")):
        headers += read_headers(path)
    taken = 0
    for cards in map(wcs_keyword_cards, headers):
        plain = tangent_wcs(cards) if has_wcs(cards) else None
        if plain is not None:
            theirs = footprint_polygon(read_wcs(cards), (256, 256))
            assert _apart(plain.corners((256, 256)), theirs) < TOLERANCE_DEG
            taken += 1
    assert taken >= 10


def test_the_formula_of_the_docstring():
    """tan(a - a0) and tan d as printed, for a plane that touches at (50, -30)."""
    wcs = TangentWcs(0.0, 0.0, 50.0, -30.0, (1.0, 0.0, 0.0, 1.0))
    ra, dec = wcs.sky_of(2.0, -3.0)
    xi, eta, d0 = np.radians(2.0), np.radians(-3.0), np.radians(-30.0)
    along = np.cos(d0) - eta * np.sin(d0)
    assert np.tan(np.radians(ra - 50.0)) == pytest.approx(xi / along, rel=1e-12)
    assert np.tan(np.radians(dec)) == pytest.approx((np.sin(d0) + eta * np.cos(d0)) / np.hypot(xi, along), rel=1e-12)


def test_powers_of_tpv_are_those_of_the_convention():
    """Forty terms; the radial ones stand at 3, 11, 23 and 39."""
    assert len(TPV_POWERS) == 40
    assert [n for n, (_, _, r) in enumerate(TPV_POWERS) if r] == [3, 11, 23, 39]
    assert (TPV_POWERS[1], TPV_POWERS[2], TPV_POWERS[8], TPV_POWERS[16]) == ((1, 0, 0), (0, 1, 0), (2, 1, 0), (0, 4, 0))

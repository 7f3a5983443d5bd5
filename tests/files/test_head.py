"""External headers: read back by us and by astropy, and honoured by the real SWarp."""

import subprocess

import numpy as np
import pytest

from spica.files.head import HeadFacts, format_head, head_cards, parse_head, read_head, write_head
from spica.files.header import HeaderCards
from spica.files.mef import open_mef, write_image
from spica.files.wcs import read_wcs, tan_cards
from spica.model.errors import DataError

CD = np.diag([-0.3, 0.3]) / 3600
SWARP_OPTIONS = [
    "-SUBTRACT_BACK",
    "N",
    "-RESAMPLE",
    "Y",
    "-CENTER_TYPE",
    "MANUAL",
    "-CENTER",
    "180.0,10.0",
    "-IMAGE_SIZE",
    "200",
    "-PIXELSCALE_TYPE",
    "MANUAL",
    "-PIXEL_SCALE",
    "0.3",
    "-WRITE_XML",
    "N",
    "-VERBOSE_TYPE",
    "QUIET",
    "-NTHREADS",
    "1",
    "-RESAMPLING_TYPE",
    "NEAREST",
]
FACTS = HeadFacts(2.0, 30.0, (1e-6, 2e-6), (3e-6, 4e-6), 0.01, 0.02)


def _head(ra=180.0, dec=10.0, facts=FACTS, pv1=(0.0, 1.0, 0.0, 0.0, 1e-3), pv2=(0.0, 1.0)):
    return head_cards(tan_cards(ra, dec, 99.5, 99.5, CD, pv1, pv2), facts)


def test_several_headers_round_trip(tmp_path):
    headers = [_head(), _head(181.0)]
    write_head(tmp_path / "a.head", headers)
    found = read_head(tmp_path / "a.head")
    assert [dict(header) for header in found] == [dict(header) for header in headers]
    assert found[0]["FLXSCALE"] == 2.0
    assert found[0]["ASTRRMS2"] == 4e-6
    assert found[0]["PHOTIRMS"] == 0.01
    assert read_wcs(found[1]).wcs.crval[0] == 181.0
    assert parse_head(format_head(found)) == found


def test_what_scamp_writes_is_tolerated():
    text = (
        "HISTORY   Astrometric solution by SCAMP\nCOMMENT   (c) 2010 Universit\xe9\n"
        "EQUINOX =        2000.00000000 / Mean equinox\nCTYPE1  = 'RA---TAN'\nEND     \nCTYPE1  = 'DEC--TAN'\n"
    )
    found = parse_head(text)
    assert len(found) == 2
    assert found[0]["EQUINOX"] == 2000.0
    assert "\xe9" in found[0].cards[1]


def test_what_is_no_head_is_refused(tmp_path):
    (tmp_path / "empty.head").write_text("")
    with pytest.raises(DataError, match="no header cards"):
        read_head(tmp_path / "empty.head")
    with pytest.raises(DataError, match="cannot be read"):
        read_head(tmp_path / "none.head")


def test_hostile_text_stays_in_its_card(tmp_path):
    extra = HeaderCards(("COMMENT a\nEND\nCRVAL1  = 0".ljust(80),))
    write_head(tmp_path / "h.head", [HeaderCards((*extra.cards, *_head().cards))])
    lines = (tmp_path / "h.head").read_text().splitlines()
    assert lines.count("END") >= 1


def test_swarp_honours_a_written_head(tmp_path):
    data = np.zeros((200, 200), np.float32)
    data[80:83, 120:123] = 100.0
    write_image(tmp_path / "image.fits", data, tan_cards(20.0, -40.0, 0, 0, CD), checksum=False)
    write_head(tmp_path / "image.head", [_head(pv1=(), pv2=())])
    done = subprocess.run(
        ["SWarp", "image.fits", *SWARP_OPTIONS],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with open_mef(tmp_path / "coadd.fits") as mef:
        pixels, wcs = mef.read_pixels(0), read_wcs(mef.primary)
    y, x = np.argwhere(pixels > 100).mean(axis=0)
    ra, dec = wcs.all_pix2world(x, y, 0)
    ra0, dec0 = read_wcs(_head(pv1=(), pv2=())).all_pix2world(121.0, 81.0, 0)
    # half an output pixel of 0.3 arcsec
    assert abs(ra - ra0) * 3600 < 0.15
    assert abs(dec - dec0) * 3600 < 0.15
    # FLXSCALE 2 was applied
    assert pixels.max() == pytest.approx(200.0, rel=1e-3)

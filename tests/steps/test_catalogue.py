"""The catalogue of a stack: real sources at their true places and magnitudes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits


def test_stars_are_found_where_and_as_bright_as_they_are(chain: Any, step_bench: Any, lonely_stars: Any) -> None:
    ran = step_bench.run("catalogue", chain.made_inputs(), subject="image:9")
    assert ran.code == 0, ran.result.failure
    with fits.open(ran.path("catalogue")) as hdus:
        table = hdus["LDAC_OBJECTS"].data.copy()
    assert ran.record("catalogue")["n_sources"] == len(table) > 50
    assert table["NUMBER"].tolist() == list(range(1, len(table) + 1))
    ra, dec, mag = lonely_stars(20.0)
    found, distance, _ = SkyCoord(ra, dec, unit="deg").match_to_catalog_sky(
        SkyCoord(table["ALPHAWIN_J2000"], table["DELTAWIN_J2000"], unit="deg")
    )
    good = (distance.arcsec < 0.3) & (table["FLAGS"][found] == 0)
    assert good.sum() >= 10
    assert np.median(distance.mas[good]) < 15
    # The third aperture is that of 3.7 arcsec, in which the zero points were measured.
    off = table["MAG_APER"][found[good], 2] - mag[good]
    assert np.median(off) == pytest.approx(0.0, abs=0.01)
    assert 1.4826 * np.median(np.abs(off - np.median(off))) < 0.03


def test_nothing_above_the_threshold_is_a_clear_line(chain: Any, step_bench: Any) -> None:
    ran = step_bench.run(
        "catalogue",
        chain.made_inputs(),
        "catalogue.threshold_sigma=100",
        "catalogue.min_area_pix=1000",
        subject="image:9",
    )
    assert ran.code == 20
    assert "lower [catalogue] threshold_sigma" in ran.result.failure.text

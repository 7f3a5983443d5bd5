"""Single mode: a copy with the same pixels and the solved header, and what belongs to it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS


@pytest.fixture(scope="module")
def calibrated(chain: Any, step_bench: Any) -> Any:
    """Return the calibrated copy of the second exposure."""
    item = "image:2"
    inputs = [("exposure", item, chain.sky / f"{chain.name(item)}.fits")]
    inputs += [(r, item, chain.assessed.path(r, "file:2")) for r in ("facts", "weight", "catalogue")]
    inputs += [("head", item, chain.solved.path("head", item)), ("measures", None, chain.solved.path("measures"))]
    ran = step_bench.run("calibrate", inputs, subject="image:9", facts={"name": "copy"})
    assert ran.code == 0, ran.result.failure
    return ran


def test_pixels_stay_and_the_header_is_solved(chain: Any, calibrated: Any) -> None:
    record = next(r for r in chain.solved.result.records if r["type"] == "solution")
    solved = next(i for i in record["images"] if i["item"] == "image:2")
    with fits.open(calibrated.path("calibrated")) as new, fits.open(chain.sky / f"{chain.good[1]}.fits") as old:
        for a, b in zip(new[1:], old[1:], strict=True):
            np.testing.assert_array_equal(a.data, b.data)
        header = new[0].header
        assert header["MAGZPSEC"] == pytest.approx(solved["zero_point_mag"], abs=1e-6)
        assert header["MAGZEROP"] == pytest.approx(solved["zero_point_mag"] + 2.5 * math.log10(90.0), abs=1e-6)
        with warnings.catch_warnings(action="ignore"):
            corner = WCS(new[1].header).all_pix2world(-0.5, -0.5, 0)
    polygon = np.array(solved["detectors"][0]["polygon_deg"])
    assert np.min(np.hypot(polygon[:, 0] - corner[0], polygon[:, 1] - corner[1])) * 3600 < 0.01


def test_the_catalogue_has_magnitudes_and_places(chain: Any, calibrated: Any, lonely_stars: Any) -> None:
    ra, dec, mag = lonely_stars(19.0)
    off = []
    with fits.open(calibrated.path("catalogue")) as hdus:
        for hdu in (hdus[2], hdus[4]):
            t = hdu.data
            for a, d, m in zip(ra, dec, mag, strict=True):
                apart = np.hypot((t["ALPHAWIN_J2000"] - a) * np.cos(np.radians(d)), t["DELTAWIN_J2000"] - d) * 3600
                if apart.min() < 0.2:
                    off.append(t["MAG_APER"][np.argmin(apart), 1] - m)
    assert len(off) >= 5
    assert np.median(off) == pytest.approx(0.0, abs=0.02)


def test_an_exposure_that_was_not_solved_is_told(chain: Any, step_bench: Any) -> None:
    item = "image:8"
    inputs = [("exposure", item, chain.sky / f"{chain.good[0]}.fits"), ("facts", item, chain.facts("image:1"))]
    ran = step_bench.run("calibrate", [*inputs, ("measures", None, chain.solved.path("measures"))], subject="image:9")
    assert ran.code == 20
    assert "left this exposure out" in ran.result.failure.text

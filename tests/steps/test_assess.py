"""The first job of an exposure: every file has one outcome, the good their measures, the bad their reason."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from spica.files.mef import open_mef


def test_every_file_has_one_outcome_and_its_reason(chain: Any) -> None:
    outcomes = chain.assessed.whole()
    assert set(outcomes) == {f"file:{i}" for i in range(1, 7)}
    assert [outcomes[f"file:{i}"].outcome.value for i in range(1, 7)] == [
        "used", "used", "used", "left_out", "left_out", "ignored",
    ]  # fmt: skip
    codes = {outcomes[f"file:{i}"].reason.code for i in (4, 5)}
    assert codes == {"truncated", "missing_exposure_time"}
    assert outcomes["file:6"].reason.code == "no_image"


def test_the_bad_are_recorded_as_rejected_and_the_text_as_no_image(chain: Any) -> None:
    states = {r["item"]: r["state"] for r in chain.assessed.result.records if r["type"] == "exposure"}
    assert states == {**{f"file:{i}": "registered" for i in (1, 2, 3)}, "file:4": "rejected", "file:5": "rejected",
                      "file:6": None}  # fmt: skip
    missing = next(
        r for r in chain.assessed.result.records if r.get("reasons") and "exposure_time" in r["reasons"][0]["code"]
    )
    assert "EXPTIME" in missing["reasons"][0]["text"]


def test_measures_are_those_of_the_truth(chain: Any) -> None:
    for item in ("file:1", "file:2", "file:3"):
        record = chain.assessed.record("quality", item)
        truth = chain.truth.exposure(chain.good[int(item[-1]) - 1])
        assert [d["detector"] for d in record["detectors"]] == [0, 1]
        measures = record["measures"]
        assert measures["seeing_arcsec"] == pytest.approx(truth.plan.seeing_arcsec, rel=0.08)
        assert measures["background_adu"] == pytest.approx(truth.sky_adu, rel=0.03)
        assert measures["zero_point_mag"] is None


def test_a_grade_has_the_reasons_that_made_it(chain: Any, step_bench: Any) -> None:
    grade = chain.assessed.record("grade", "file:1")
    assert grade["grade"] in "ABCD"
    assert all(set(r) >= {"code", "text", "value", "limit"} for r in grade["reasons"])
    facts = json.loads(chain.facts("image:1").read_text())
    limits = {limit["measure"]: limit for limit in facts["grade_limits"]}
    measures = chain.assessed.record("quality", "file:1")["measures"]
    worst = "A"
    for name, limit in limits.items():
        value, high = measures[name], limit["high"]
        for letter in "abc":
            bound = limit[letter]
            if bound is None or (value <= bound if high else value >= bound):
                break
        else:
            letter = "d"
        worst = max(worst, letter.upper())
    assert grade["grade"] == worst


def test_weight_maps_come_back_as_they_were(chain: Any) -> None:
    path = chain.assessed.path("weight", "file:1")
    mef = open_mef(path)
    try:
        ours = [mef.read_pixels(h) for h in mef.images]
    finally:
        mef.close()
    with fits.open(path) as hdus:
        theirs = [h.data for h in hdus if h.data is not None]
    assert len(ours) == 2
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a >= 0).all()
        # Steps of a thousandth of the median weight of usable pixels.
        assert np.median(a[a > 0]) == pytest.approx(1000, rel=0.02)
    bad = chain.truth.camera.bad_columns[0][0]
    assert (ours[0][:, bad] == 0).mean() > 0.9


def test_catalogues_hold_the_columns_that_the_tools_read(chain: Any) -> None:
    with fits.open(chain.assessed.path("catalogue", "file:2")) as hdus:
        names = [h.name for h in hdus]
        assert names == ["PRIMARY", "LDAC_IMHEAD", "LDAC_OBJECTS", "LDAC_IMHEAD", "LDAC_OBJECTS"]
        wanted = {"NUMBER", "XWIN_IMAGE", "YWIN_IMAGE", "ERRAWIN_IMAGE", "ERRBWIN_IMAGE", "ERRTHETAWIN_IMAGE",
                  "FLUX_AUTO", "FLUXERR_AUTO", "FLUX_RADIUS", "FLAGS", "ELONGATION", "SNR_WIN"}  # fmt: skip
        columns = set(hdus[2].columns.names)
        assert wanted - columns <= {"SNR_WIN"}
        assert hdus[2].data["XWIN_IMAGE"].min() >= 0.5
        assert hdus[2].data["XWIN_IMAGE"].max() <= 384.5


def test_an_exposure_without_stars_fails_alone(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    source, flat = chain.sky / f"{chain.good[0]}.fits", tmp_path / "flat.fits"
    with fits.open(source) as hdus:
        for hdu in hdus[1:]:
            hdu.data = np.full_like(hdu.data, 200)
            hdu.header.pop("CHECKSUM", None)
            hdu.header.pop("DATASUM", None)
        hdus.writeto(flat)
    ran = step_bench.run("assess", [("exposure", "file:1", flat), ("exposure", "file:2", source)], min_inputs=0)
    assert ran.code == 0, ran.result.failure
    outcomes = ran.whole()
    assert outcomes["file:2"].outcome.value == "used"
    assert set(outcomes) == {"file:1", "file:2"}

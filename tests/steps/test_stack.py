"""The stack: fluxes at zero point 30, weights, strips, refusals."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from spica.files.mef import open_mef


def _image(path: Any) -> tuple[np.ndarray, fits.Header]:
    with fits.open(path) as hdus:
        hdu = next(h for h in hdus if h.data is not None)
        return np.asarray(hdu.data, float), hdu.header.copy()


def test_light_is_conserved_at_zero_point_30(chain: Any, lonely_stars: Any) -> None:
    """In the aperture of the zero points (3.7 arcsec) a star has the light of its true magnitude within 1 %."""
    data, header = _image(chain.stacked.path("stack"))
    weight, _ = _image(chain.stacked.path("weight"))
    with warnings.catch_warnings(action="ignore"):
        wcs = WCS(header)
    ra, dec, mag = lonely_stars(19.5)
    x, y = wcs.all_world2pix(ra, dec, 0)
    inside = (x > 25) & (y > 25) & (x < data.shape[1] - 26) & (y < data.shape[0] - 26)
    x, y, mag = x[inside], y[inside], mag[inside]
    bad, _, _ = sep.sum_circle(np.ascontiguousarray((weight <= 0).astype(float)), x, y, 15.0)
    light, _, _ = sep.sum_circle(np.ascontiguousarray(data), x, y, 1.85 / 0.3, subpix=0, bkgann=(14.0, 22.0))
    whole = (bad == 0) & (light > 0)
    ratio = light[whole] / 10 ** (-0.4 * (mag[whole] - 30.0))
    assert whole.sum() >= 8
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_the_header_and_the_record_say_what_was_made(chain: Any) -> None:
    _, header = _image(chain.stacked.path("stack"))
    record = chain.stacked.record("stack")
    assert (header["MAGZEROP"], header["MAGSYS"].strip(), header["NCOMBINE"]) == (30.0, "AB", 3)
    assert (header["NAXIS1"], header["NAXIS2"]) == (record["n_x"], record["n_y"])
    shares = [c["weight_fraction"] for c in record["contributions"]]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert {header[f"INP{i:05d}"].strip() for i in (1, 2, 3)} == set(chain.good)
    assert record["exptime_s"] == 270.0
    assert {o.outcome.value for o in chain.stacked.whole().values()} == {"used"}


def test_the_noise_is_what_the_weight_says(chain: Any) -> None:
    """Where three exposures meet, the scatter of sky pixels is 1/sqrt(weight), less what resampling correlates."""
    mef = open_mef(chain.stacked.path("stack"))
    data = mef.read_pixels(mef.images[0])
    mef.close()
    weight, _ = _image(chain.stacked.path("weight"))
    deep = weight > 0.8 * np.percentile(weight, 95)
    pull = (data * np.sqrt(weight))[deep]
    core = pull[np.abs(pull - np.median(pull)) < 4 * 1.4826 * np.median(np.abs(pull - np.median(pull)))]
    # Lanczos-3 at random sub-pixel shifts keeps 0.7 to 1.0 of the scatter of single pixels; wings of stars add to it.
    assert 0.65 < 1.4826 * np.median(np.abs(core - np.median(core))) < 1.25


def test_memory_does_not_change_the_stack(chain: Any, step_bench: Any) -> None:
    ran = step_bench.run(
        "stack", chain.stack_inputs(), "stack.memory_mb=64", facts=chain.stack_facts, subject="image:9"
    )
    assert ran.code == 0
    for role in ("stack", "weight"):
        np.testing.assert_array_equal(_image(ran.path(role))[0], _image(chain.stacked.path(role))[0])


def test_the_order_of_inputs_does_not_change_the_stack(chain: Any, step_bench: Any) -> None:
    ran = step_bench.run("stack", chain.stack_inputs(chain.items[::-1]), facts=chain.stack_facts, subject="image:9")
    assert ran.code == 0
    for role in ("stack", "weight"):
        new, old = _image(ran.path(role))[0], _image(chain.stacked.path(role))[0]
        np.testing.assert_allclose(new, old, rtol=2e-4, atol=2e-4 * np.abs(old).std())


def test_a_frame_too_large_is_refused_with_its_size(chain: Any, step_bench: Any) -> None:
    ran = step_bench.run(
        "stack", chain.stack_inputs(), "stack.max_frame_px=10000", facts=chain.stack_facts, subject="image:9"
    )
    record = chain.stacked.record("stack")
    assert ran.code == 21
    assert ran.result.failure.kind == "recipe"
    assert str(record["n_x"]) in ran.result.failure.text
    assert ran.result.products == ()


def test_too_few_inputs_fail_by_the_floor(chain: Any, step_bench: Any) -> None:
    ran = step_bench.run(
        "stack", chain.stack_inputs(("image:1",)), facts=chain.stack_facts, subject="image:9", min_inputs=2
    )
    assert ran.code == 20
    assert "1 of 1 inputs could be used, 2 are needed" in ran.result.failure.text


def test_one_that_was_not_solved_is_told(chain: Any, step_bench: Any) -> None:
    inputs = [i for i in chain.stack_inputs() if i[:2] != ("head", "image:2")]
    ran = step_bench.run("stack", inputs, facts=chain.stack_facts, subject="image:9")
    assert ran.code == 0
    outcomes = ran.whole()
    assert [outcomes[i].outcome.value for i in chain.items] == ["used", "left_out", "used"]
    assert outcomes["image:2"].reason.code == "not_solved"
    assert [c["item"] for c in ran.record("stack")["contributions"]] == ["image:1", "image:3"]


def test_a_circle_that_no_exposure_meets_is_a_clear_line(chain: Any, step_bench: Any) -> None:
    facts = {**chain.stack_facts, "circle": [chain.stacked.record("stack")["ra_deg"] + 5.0, 0.0, 0.005]}
    ran = step_bench.run("stack", chain.stack_inputs(), facts=facts, subject="image:9")
    assert ran.code == 20
    assert "no exposure meets the frame" in ran.result.failure.text

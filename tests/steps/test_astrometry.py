"""The solution of an ensemble: judged by its content; `.head` files that others read."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from spica.reference.catalogue import write_reference
from spica.reference.reading import read_reference


def test_every_exposure_is_solved_to_the_truth(chain: Any) -> None:
    assert {o.outcome.value for o in chain.solved.whole().values()} == {"used"}
    record = next(r for r in chain.solved.result.records if r["type"] == "solution")
    assert (record["mag_system"], record["mag_band"]) == ("AB", "r")
    for image in record["images"]:
        truth = chain.truth.exposure(chain.name(image["item"]))
        # Zero points are those of an aperture of 3.7 arcsec; a Moffat star (beta 3) has some light beyond it.
        alpha = truth.plan.seeing_arcsec / (2.0 * math.sqrt(2.0 ** (1.0 / truth.plan.moffat_beta) - 1.0))
        lost = (1.0 + (1.85 / alpha) ** 2) ** (1.0 - truth.plan.moffat_beta)
        expected = truth.zero_point_mag + 2.5 * math.log10(1.0 - lost)
        assert image["zero_point_mag"] == pytest.approx(expected, abs=0.015)
        scale = 10 ** (-0.4 * (image["zero_point_mag"] - 30.0)) / truth.plan.exptime_s
        assert image["flux_scale"] == pytest.approx(scale, rel=1e-6)


def _wcs_of_head(path: Any) -> list[WCS]:
    """Read a `.head` file as astropy reads headers."""
    found, cards = [], []
    for line in path.read_text(encoding="ascii").splitlines():
        if line.strip() == "END":
            with warnings.catch_warnings(action="ignore"):
                found.append(WCS(fits.Header.fromstring("\n".join(cards), sep="\n")))
            cards = []
        else:
            cards.append(line)
    return found


def test_heads_are_read_by_astropy_and_agree_with_the_footprints(chain: Any) -> None:
    record = next(r for r in chain.solved.result.records if r["type"] == "solution")
    for image in record["images"]:
        heads = _wcs_of_head(chain.solved.path("head", image["item"]))
        assert len(heads) == len(image["detectors"]) == 2
        for wcs, detector in zip(heads, image["detectors"], strict=True):
            corners = wcs.all_pix2world([[-0.5, -0.5], [383.5, -0.5], [383.5, 383.5], [-0.5, 383.5]], 0)
            polygon = np.array(detector["polygon_deg"])
            for ra, dec in corners:
                off = np.hypot((polygon[:, 0] - ra) * np.cos(np.radians(dec)), polygon[:, 1] - dec)
                assert off.min() * 3600 < 0.01


def test_positions_of_bright_stars_are_true(chain: Any, lonely_stars: Any) -> None:
    ra, dec, _ = lonely_stars(20.0)
    with fits.open(chain.assessed.path("catalogue", "file:1")) as hdus:
        tables = [hdus[2].data.copy(), hdus[4].data.copy()]
    off = []
    for wcs, table in zip(_wcs_of_head(chain.solved.path("head", "image:1")), tables, strict=True):
        found = wcs.all_pix2world(table["XWIN_IMAGE"] - 1.0, table["YWIN_IMAGE"] - 1.0, 0)
        for a, d in zip(ra, dec, strict=True):
            east = (found[0] - a) * np.cos(np.radians(d)) * 3.6e6
            north = (found[1] - d) * 3.6e6
            nearest = np.argmin(np.hypot(east, north))
            if np.hypot(east, north)[nearest] < 500:
                off.append((east[nearest], north[nearest]))
    assert len(off) >= 10
    # Centroids of stars of 17 to 20 mag in one exposure: some 3 to 12 mas an axis.
    assert 1.4826 * np.median(np.abs(off)) < 15


def _scattered(chain: Any, tmp_path: Any) -> Any:
    catalogue = read_reference(chain.truth.reference_path)
    rng = np.random.default_rng(3)
    n = len(catalogue.ra_deg)
    moved = dataclasses.replace(
        catalogue,
        ra_deg=catalogue.ra_deg + rng.uniform(-0.02, 0.02, n),
        dec_deg=catalogue.dec_deg + rng.uniform(-0.02, 0.02, n),
    )
    return write_reference(tmp_path / "wrong.fits", moved)


def test_a_wrong_reference_fails_with_its_cause(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    wrong = _scattered(chain, tmp_path)
    ran = step_bench.run("astrometry", chain.astrometry_inputs(wrong), subject="image:9")
    assert ran.code == 20
    assert "reference" in ran.result.failure.text
    assert "does not match" in ran.result.failure.text
    assert set(ran.whole()) == set(chain.items)
    assert {o.outcome.value for o in ran.whole().values()} == {"left_out"}


def test_no_reference_stars_is_a_clear_line(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    empty = tmp_path / "empty.fits"
    with fits.open(chain.truth.reference_path) as hdus:
        table = next(h for h in hdus if isinstance(h, fits.BinTableHDU))
        fits.HDUList([hdus[0], fits.BinTableHDU(table.data[:0], table.header)]).writeto(empty)
    ran = step_bench.run("astrometry", chain.astrometry_inputs(empty), subject="image:9")
    assert ran.code == 20, ran.result.failure
    assert "empty.fits holds no row" in ran.result.failure.text
    assert set(ran.whole()) <= set(chain.items)


def test_one_that_does_not_match_is_left_out_and_the_others_go_on(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    broken = tmp_path / "scattered.ldac"
    rng = np.random.default_rng(5)
    with fits.open(chain.assessed.path("catalogue", "file:2")) as hdus:
        for index in (2, 4):
            n = len(hdus[index].data)
            hdus[index].data["XWIN_IMAGE"] = rng.uniform(1, 384, n)
            hdus[index].data["YWIN_IMAGE"] = rng.uniform(1, 384, n)
        hdus.writeto(broken)
    inputs = [
        (role, item, broken if (role, item) == ("catalogue", "image:2") else path)
        for role, item, path in chain.astrometry_inputs()
    ]
    ran = step_bench.run("astrometry", inputs, subject="image:9")
    assert ran.code == 0, ran.result.failure
    outcomes = ran.whole()
    assert set(outcomes) == set(chain.items)
    assert [outcomes[i].outcome.value for i in chain.items] == ["used", "left_out", "used"]
    reason = outcomes["image:2"].reason
    assert reason.code
    assert reason.text
    assert not [p for p in ran.result.products if p.item == "image:2"]


def test_an_attenuated_exposure_is_left_out_by_the_recipe(chain: Any, step_bench: Any) -> None:
    record = next(r for r in chain.solved.result.records if r["type"] == "solution")
    attenuation = sorted((i["skyprobe_mag"], i["item"]) for i in record["images"])
    limit = max(0.01, 0.5 * (attenuation[-1][0] + attenuation[-2][0]))
    gone = {item for value, item in attenuation if value > limit}
    ran = step_bench.run(
        "astrometry", chain.astrometry_inputs(), f"photometry.max_skyprobe_mag={limit}", subject="image:9"
    )
    assert gone
    assert ran.code == 0, ran.result.failure
    assert {i for i, o in ran.whole().items() if o.outcome.value == "left_out"} == gone
    assert all(ran.whole()[i].reason.code == "attenuated" for i in gone)

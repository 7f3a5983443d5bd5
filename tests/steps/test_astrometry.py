"""The solution of an ensemble: judged by its content; `.head` files that others read."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from spica.files.head import read_head
from spica.files.header import make_cards
from spica.files.wcs import wcs_keyword_cards
from spica.reference.catalogue import write_reference
from spica.reference.reading import read_reference
from spica.steps.facts import read_sheet, write_sheet


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


def test_too_few_reference_stars_give_a_relative_zero_point(chain: Any, step_bench: Any) -> None:
    few = "photometry.min_reference=10000"
    ran = step_bench.run("astrometry", chain.astrometry_inputs(), few, subject="image:9")
    assert ran.code == 0, ran.result.failure
    record = next(r for r in ran.result.records if r["type"] == "solution")
    assert (record["mag_system"], record["mag_band"]) == (None, None)
    assert record["n_reference"] > 20, "positions still hold to the reference"


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


def _stated(
    chain: Any,
    folder: Path,
    shift_arcsec: dict[str, tuple[float, float]] | None = None,
    bare: tuple[str, ...] = (),
    old: tuple[str, ...] = (),
) -> dict[str, Path]:
    """Return facts sheets whose headers state the solved WCS, some moved by (east, north), some without any."""
    sheets = {}
    for item in chain.items:
        sheet = read_sheet(chain.facts(item))
        east, north = (shift_arcsec or {}).get(item, (0.0, 0.0))
        detectors = []
        for d, head in zip(sheet.detectors, read_head(chain.solved.path("head", item)), strict=True):
            cards = {c.keyword: c.value for c in wcs_keyword_cards(head).parsed()}
            cards["CRVAL2"] = float(str(cards["CRVAL2"])) + north / 3600.0
            cards["CRVAL1"] = float(str(cards["CRVAL1"])) + east / 3600.0 / np.cos(np.radians(cards["CRVAL2"]))
            cards |= {"RADESYS": "FK5", "EQUINOX": 1975.0} if item in old else {}
            stated = make_cards([(k, v, "") for k, v in cards.items()]).cards
            detectors.append(dataclasses.replace(d, wcs_cards=stated, has_header_wcs=item not in bare))
        sheets[item] = folder / f"facts-{item.partition(':')[2]}.json"
        write_sheet(sheets[item], dataclasses.replace(sheet, detectors=tuple(detectors)))
    return sheets


def _solution(ran: Any) -> dict[str, Any]:
    (found,) = [r for r in ran.result.records if r["type"] == "solution"]
    return dict(found)


def _from_headers(chain: Any, step_bench: Any, sheets: dict[str, Path], reference: Path | None = None) -> Any:
    """Run the step with `source = header`, with a reference or without."""
    inputs = [
        (role, item, sheets[item] if role == "facts" else path)
        for role, item, path in chain.astrometry_inputs(reference)
        if item in sheets or (role == "reference" and reference is not None)
    ]
    return step_bench.run("astrometry", inputs, "astrometry.source=header", subject="image:9")


def test_headers_are_taken_as_they_are_without_a_reference(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    sheets = _stated(chain, tmp_path)
    ran = _from_headers(chain, step_bench, sheets)
    assert ran.code == 0, ran.result.failure
    assert {o.outcome.value for o in ran.whole().values()} == {"used_with_warning"}
    assert {o.reason.code for o in ran.whole().values()} == {"relative_only"}
    record, solved = _solution(ran), _solution(chain.solved)
    assert (record["reference_name"], record["n_reference"], record["mag_system"]) == ("none", 0, None)
    assert record["reference_mas"] is None
    assert [w["code"] for w in record["warnings"]] == ["header_wcs"]
    # the same sources under the same WCS: clipping and radius differ a little from the solution that made it
    assert record["internal_mas"] == pytest.approx(solved["internal_mas"], rel=0.25)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 383, 7), np.linspace(0, 383, 7)))
    for item in chain.items:
        for ours, theirs in zip(*(_wcs_of_head(r.path("head", item)) for r in (ran, chain.solved)), strict=True):
            np.testing.assert_allclose(ours.all_world2pix(*theirs.all_pix2world(x, y, 0), 0), (x, y), atol=1e-3)
    absolute = {i["item"]: i["zero_point_mag"] for i in solved["images"]}
    middle = np.mean(list(absolute.values()))
    for image in record["images"]:
        assert image["zero_point_mag"] is None
        # relative zero points are those of common stars alone; the reference moved the solved ones by a few mmag
        assert image["relative_zero_point_mag"] == pytest.approx(absolute[image["item"]] - middle, abs=0.01)
        exptime = chain.truth.exposure(chain.name(image["item"])).plan.exptime_s
        scale = 10 ** (-0.4 * image["relative_zero_point_mag"]) / exptime
        assert image["flux_scale"] == pytest.approx(scale, rel=1e-6)
    assert "MAGZEROP" not in ran.path("head", "image:1").read_text()


def test_a_reference_measures_the_headers_and_gives_zero_points(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    ran = _from_headers(chain, step_bench, _stated(chain, tmp_path), chain.truth.reference_path)
    assert ran.code == 0, ran.result.failure
    record, solved = _solution(ran), _solution(chain.solved)
    assert record["mag_system"] == "AB"
    assert record["n_reference"] >= 0.8 * solved["n_reference"]
    assert record["reference_mas"] == pytest.approx(solved["reference_mas"], rel=0.3)
    expected = {i["item"]: i["zero_point_mag"] for i in solved["images"]}
    for image in record["images"]:
        assert image["zero_point_mag"] == pytest.approx(expected[image["item"]], abs=0.005)


@pytest.mark.parametrize(("east", "north", "says"), [(0.0, 3.0, 3.0), (-0.4, 0.3, 0.5), (40.0, 0.0, None)])
def test_a_header_that_the_others_contradict_is_left_out(
    chain: Any, step_bench: Any, tmp_path: Any, east: float, north: float, says: float | None
) -> None:
    ran = _from_headers(chain, step_bench, _stated(chain, tmp_path, {"image:2": (east, north)}))
    assert ran.code == 0, ran.result.failure
    outcomes = ran.whole()
    assert [outcomes[i].outcome.value for i in chain.items] == ["used_with_warning", "left_out", "used_with_warning"]
    reason = outcomes["image:2"].reason
    assert reason.code == "header_disagrees"
    assert "astrometry.source=solve" in reason.text
    if says is not None:
        assert reason.value == pytest.approx(says, abs=0.02)
        assert reason.value > reason.limit


def test_headers_that_disagree_fail_with_both_names(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    sheets = _stated(chain, tmp_path, {"image:2": (1.0, 1.0)})
    two = {i: sheets[i] for i in ("image:1", "image:2")}
    ran = _from_headers(chain, step_bench, two)
    assert ran.code == 20
    text = ran.result.failure.text
    assert "the headers disagree" in text
    assert all(chain.name(i) in text for i in two)
    assert " lie 1.4" in text
    # the reference tells which of the two is right
    ran = _from_headers(chain, step_bench, two, chain.truth.reference_path)
    assert ran.code == 0, ran.result.failure
    assert ran.whole()["image:1"].outcome.value == "used"
    assert ran.whole()["image:2"].reason.code == "header_disagrees"


def test_a_reference_that_the_headers_contradict_fails(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    sheets = _stated(chain, tmp_path, dict.fromkeys(chain.items, (2.0, 0.0)))
    ran = _from_headers(chain, step_bench, sheets, chain.truth.reference_path)
    assert ran.code == 20
    assert "the headers contradict the reference" in ran.result.failure.text
    assert re.search("lie (2.0|1.9)[0-9] arcsec", ran.result.failure.text)
    assert {o.reason.code for o in ran.whole().values()} == {"header_disagrees"}


def test_a_wcs_of_another_equinox_is_left_out(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    ran = _from_headers(chain, step_bench, _stated(chain, tmp_path, old=("image:1",)))
    assert ran.code == 0, ran.result.failure
    reason = ran.whole()["image:1"].reason
    assert (reason.code, reason.value) == ("old_equinox", "FK5 1975.0")


def test_what_states_no_wcs_is_left_out(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    ran = _from_headers(chain, step_bench, _stated(chain, tmp_path, bare=("image:3",)))
    assert ran.code == 0, ran.result.failure
    assert ran.whole()["image:3"].reason.code == "no_header_wcs"
    ran = _from_headers(chain, step_bench, _stated(chain, tmp_path, bare=chain.items))
    assert ran.code == 20
    assert "no header of 3 exposures" in ran.result.failure.text
    assert "astrometry.source=solve" in ran.result.failure.text


def test_an_exposure_alone_is_taken_and_said_to_be_unchecked(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    sheets = _stated(chain, tmp_path)
    ran = _from_headers(chain, step_bench, {"image:1": sheets["image:1"]})
    assert ran.code == 0, ran.result.failure
    record = _solution(ran)
    assert [w["code"] for w in record["warnings"]] == ["header_wcs", "unchecked"]
    (image,) = record["images"]
    assert (image["relative_zero_point_mag"], image["zero_point_mag"], record["internal_mas"]) == (0.0, None, None)
    exptime = chain.truth.exposure(chain.name("image:1")).plan.exptime_s
    assert image["flux_scale"] == pytest.approx(1.0 / exptime)


def test_a_header_that_is_turned_about_the_middle_is_left_out(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    """No offset of the whole gives it away: sources at the edges lie two pixels off."""
    sheets = _stated(chain, tmp_path)
    sheet = read_sheet(sheets["image:2"])
    detectors = []
    for d in sheet.detectors:
        cards = {c.keyword: c.value for c in d.cards.parsed()}
        turn = 2.0 / 384.0
        cd = np.array([[float(str(cards[f"CD{i}_{j}"])) for j in (1, 2)] for i in (1, 2)])
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ cd
        cards |= {f"CD{i + 1}_{j + 1}": float(turned[i, j]) for i in (0, 1) for j in (0, 1)}
        detectors.append(dataclasses.replace(d, wcs_cards=make_cards([(k, v, "") for k, v in cards.items()]).cards))
    write_sheet(sheets["image:2"], dataclasses.replace(sheet, detectors=tuple(detectors)))
    ran = _from_headers(chain, step_bench, sheets)
    assert ran.code == 0, ran.result.failure
    outcomes = ran.whole()
    assert [outcomes[i].outcome.value for i in chain.items] == ["used_with_warning", "left_out", "used_with_warning"]
    assert outcomes["image:2"].reason.code == "header_disagrees"

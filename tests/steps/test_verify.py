"""Verification: facts round trip, hostile headers, files that are none."""

from __future__ import annotations

from typing import Any

import pytest
from astropy.io import fits

from spica.files.header import HeaderCards, make_cards, unpack_headers
from spica.files.wcs import wcs_keyword_cards
from spica.instruments.registry import load_instruments, translate
from spica.steps.facts import make_sheet, read_sheet, write_sheet
from spica.steps.verify import judge_wcs


def test_facts_come_back_as_they_were(chain: Any, tmp_path: Any) -> None:
    sheet = read_sheet(chain.facts("image:1"))
    again = tmp_path / "facts.json"
    write_sheet(again, sheet)
    assert read_sheet(again) == sheet
    assert again.read_bytes() == chain.facts("image:1").read_bytes()
    plan = chain.truth.exposure(chain.good[0]).plan
    e = sheet.exposure
    assert (e.name, e.object, e.filter, e.exptime_s, e.run) == (chain.good[0], "D1", "r", 90.0, plan.run_id)
    assert [d.gain_e_per_adu for d in sheet.detectors] == list(chain.truth.camera.gain_e_per_adu)


def test_headers_are_kept_card_by_card(chain: Any) -> None:
    kept = unpack_headers(chain.assessed.path("headers", "file:1").read_bytes())
    with fits.open(chain.sky / f"{chain.good[0]}.fits") as hdus:
        assert len(kept) == len(hdus)
        for ours, theirs in zip(kept, hdus, strict=True):
            assert [c.rstrip() for c in ours.cards] == [c.image.rstrip() for c in theirs.header.cards]


def _changed(chain: Any, path: Any, **cards: Any) -> Any:
    with fits.open(chain.sky / f"{chain.good[0]}.fits") as hdus:
        for key, value in cards.items():
            for hdu in hdus:
                if value is None:
                    hdu.header.remove(key, ignore_missing=True)
                elif key in hdu.header or hdu is hdus[0]:
                    hdu.header[key] = value
        hdus.writeto(path, checksum=True)
    return path


@pytest.mark.parametrize("name", ["../../etc/cron", "$(touch harm)", "<script>x</script>", "; rm -rf *"])
def test_a_hostile_object_never_becomes_a_path(chain: Any, step_bench: Any, tmp_path: Any, name: str) -> None:
    path = _changed(chain, tmp_path / "odd.fits", OBJECT=name)
    ran = step_bench.run("assess", [("exposure", "file:1", path)], "quality.plots=false", min_inputs=0)
    assert ran.code == 0, ran.result.failure
    assert ran.record("exposure")["object"] == name
    assert {p.parent for p in ran.folder.rglob("*") if p.is_file()} <= {ran.folder, ran.folder / "work"}
    assert not list(ran.folder.rglob("harm"))


def test_an_object_is_named_by_the_alias_of_the_survey(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    path = _changed(chain, tmp_path / "odd.fits", OBJECT="NGC 224")
    ran = step_bench.run(
        "assess",
        [("exposure", "file:1", path)],
        "quality.plots=false",
        min_inputs=0,
        facts={"aliases": {"ngc 224": "M31"}},
    )
    record = ran.record("exposure")
    assert (record["object"], record["object_raw"]) == ("M31", "NGC 224")


@pytest.mark.parametrize(
    "content", [b"", b"SIMPLE  =", b"\x00" * 2880, b"SIMPLE  =                    T" + b" " * 9000]
)
def test_what_claims_to_be_fits_and_is_none_is_rejected(step_bench: Any, tmp_path: Any, content: bytes) -> None:
    path = tmp_path / "odd.fits"
    path.write_bytes(content)
    ran = step_bench.run("assess", [("exposure", "file:1", path)], min_inputs=0)
    assert ran.code == 0
    assert ran.whole()["file:1"].outcome.value == "left_out"
    assert ran.record("exposure")["state"] == "rejected"
    assert ran.whole()["file:1"].reason.text


# What the text headers of `broken/astropy_wcs` state, put on an image of 64 x 64: why it does not serve, where so.
WCS_OF = {
    "2wcses": "",
    "defunct_keywords": "",
    "invalid_header": "",
    "irac_sip": "",
    "locale": "",
    "nonstandard_units": "lacks CRVAL1 CRVAL2 CRPIX1 CRPIX2",
    "outside_sky": "outside the projected sky",
    "sip-broken": "",
    "siponly": "",
    "sub-segfault": "",
    "too_many_pv": "",
    "tpvonly": "",
    "unit": "",  # galactic axes: no celestial WCS is claimed in RA and Dec, the pointing serves
    "zpn-hole": "reference point is not on the sky",
}


def _with_facts(cards: HeaderCards) -> HeaderCards:
    facts = [("SIMPLE", True, ""), ("BITPIX", 16, ""), ("NAXIS", 2, ""), ("NAXIS1", 64, ""), ("NAXIS2", 64, "")]
    facts += [("OBJECT", "X", ""), ("EXPTIME", 60.0, ""), ("FILTER", "r", ""), ("DATE-OBS", "2020-01-02T03:04:05", "")]
    facts += [("INSTRUME", "CAM", ""), ("RA", 10.0, ""), ("DEC", 20.0, ""), ("PIXSCALE", 0.5, "")]
    return HeaderCards((*make_cards(facts).cards, *cards.cards))


def _judged(cards: HeaderCards) -> tuple[Any, Any]:
    registry = load_instruments(None)
    headers = (_with_facts(cards),)
    instrument = registry.recognise(headers, "x.fits")
    sheet = make_sheet("file:1", "x", translate(instrument, headers, "x.fits"), instrument)
    return sheet, judge_wcs(headers, sheet, instrument)


@pytest.mark.parametrize(("name", "why"), WCS_OF.items())
def test_a_wcs_that_cannot_be_read_is_told_and_passed_over(test_data: Any, name: str, why: str) -> None:
    raw = (test_data / f"broken/astropy_wcs/{name}.hdr").read_bytes()
    lines = raw.split(b"\n") if raw.count(b"\n") > 5 else [raw[i : i + 80] for i in range(0, len(raw), 80)]
    cards = HeaderCards(tuple(line.decode("latin-1").ljust(80)[:80] for line in lines))
    sheet, warnings = _judged(wcs_keyword_cards(cards))
    assert sheet.detectors[0].wcs_cards
    assert sheet.detectors[0].has_header_wcs == (not why and name != "unit")
    assert [w.code for w in warnings] == (["bad_wcs"] if why else [])
    assert why in "".join(w.text for w in warnings)
    assert all("\n" not in w.text for w in warnings)


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ({"CD1_1": 0.0, "CD2_2": 0.0}, "do not fit"),
        ({"CD1_1": 0.0}, "36 arcsec"),
        ({"CD1_1": "wide"}, "not a number"),
        ({"CRVAL2": 95.0}, ""),
        ({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, "cannot be read"),
        ({"CTYPE1": "RA---TAN", "CTYPE2": "RA---TAN"}, "cannot be read"),
        ({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_40": 1.0}, "beyond the 40 terms"),
        ({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2}, "cannot be read"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_one_bad_card_is_named(cards: dict[str, Any], why: str) -> None:
    good = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 32.0, "CRPIX2": 32.0}
    good |= {"CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4}
    assert _judged(make_cards([(k, v, "") for k, v in good.items()]))[1] == ()
    sheet, warnings = _judged(make_cards([(k, v, "") for k, v in (good | cards).items()]))
    assert sheet.detectors[0].wcs_cards
    if why:
        assert not sheet.detectors[0].has_header_wcs
        assert why in warnings[0].text
    else:
        assert len(warnings) == (0 if sheet.detectors[0].has_header_wcs else 1)


def _stale(chain: Any, path: Any) -> Any:
    """Write an exposure whose DATASUM was true of other pixels."""
    with fits.open(chain.sky / f"{chain.good[0]}.fits") as hdus:
        hdus.writeto(path, checksum=True)
    with fits.open(path, mode="update", checksum=False) as hdus:
        hdus[1].header["DATASUM"] = "12345"
    return path


@pytest.mark.parametrize(
    ("word", "outcome", "code"),
    [
        ("profile", "left_out", "bad_datasum"),
        ("require", "left_out", "bad_datasum"),
        ("warn", "used_with_warning", "bad_datasum"),
        ("ignore", "used", None),
    ],
)
def test_a_recipe_says_what_a_stale_checksum_is(
    chain: Any, step_bench: Any, tmp_path: Any, word: str, outcome: str, code: str | None
) -> None:
    path = _stale(chain, tmp_path / "stale.fits")
    ran = step_bench.run(
        "assess", [("exposure", "file:1", path)], "quality.plots=false", f"verify.checksums={word}", min_inputs=0
    )
    whole = ran.whole()["file:1"]
    assert whole.outcome.value == outcome
    assert (whole.reason.code if whole.reason else None) == code


def test_a_profile_may_say_it_too(chain: Any, step_bench: Any, tmp_path: Any) -> None:
    from spica.instruments import registry

    shipped = (registry._SHIPPED / "spicasim.toml").read_text()
    ran = step_bench.run(
        "assess",
        [("exposure", "file:1", _stale(chain, tmp_path / "stale.fits"))],
        "quality.plots=false",
        min_inputs=0,
        facts={"profiles": {"spicasim.toml": 'checksums = "warn"\n' + shipped}},
    )
    assert ran.whole()["file:1"].outcome.value == "used_with_warning"


def test_limits_of_the_workspace_hold(step_bench: Any, tmp_path: Any) -> None:
    path = tmp_path / "many.fits"
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU() for _ in range(5))]).writeto(path)
    ran = step_bench.run("assess", [("exposure", "file:1", path)], min_inputs=0, facts={"limits": {"max_hdus": 3}})
    assert ran.whole()["file:1"].reason.code == "too_many_hdus"


def test_an_ignored_file_of_a_camera_says_what_it_is(step_bench: Any, test_data: Any) -> None:
    """A map of the distortion bears all keywords of its camera, and is no exposure."""
    path = test_data / "hst_acs_wfc_reference/02c1450oj_d2i.fits.gz"
    ran = step_bench.run("assess", [("exposure", "file:1", path)], "quality.plots=false", min_inputs=0)
    assert ran.code == 0, ran.result.failure
    (outcome,) = ran.result.outcomes
    assert outcome.outcome == "ignored"
    assert outcome.reason.text.startswith("02c1450oj_d2i.fits.gz is no exposure, it is a distortion reference file")
    assert ran.record("exposure")["state"] is None

"""Verification: facts round trip, hostile headers, files that are none."""

from __future__ import annotations

from typing import Any

import pytest
from astropy.io import fits

from spica.files.header import unpack_headers
from spica.steps.facts import read_sheet, write_sheet


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

"""Intake by real processes: every file ends in a recorded outcome, and the users' files are left as they were."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from sqlalchemy import func, select

from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import JobRow
from spica.db.tables.product import ProductRow
from spica.model.image import FileKind

pytestmark = pytest.mark.walk

IMAGE_KEYS = {
    "id",
    "name",
    "kind",
    "instrument",
    "object",
    "filter",
    "filter_raw",
    "run",
    "night",
    "exptime_s",
    "mjd",
    "airmass",
    "ra_deg",
    "dec_deg",
    "n_detectors",
    "seeing_arcsec",
    "ellipticity",
    "background_adu",
    "noise_adu",
    "limiting_mag",
    "n_stars",
    "zero_point_mag",
    "mag_system",
    "skyprobe_mag",
    "grade",
    "grade_source",
    "state",
    "reason",
    "path",
}


def by_fault(walk: Any) -> dict[str, str]:
    """Return the names of the two bad exposures by their fault."""
    plans = [e.plan for e in walk.truth.exposures]
    return {
        "truncated": next(p.name for p in plans if p.truncated_fraction is not None),
        "missing": next(p.name for p in plans if p.missing_keyword),
    }


def test_every_file_ends_in_a_recorded_outcome(template: Any, walk: Any) -> None:
    images = {i["name"]: i for i in template.ingest.json["images"]}
    bad = by_fault(walk)
    assert len(images) == 8
    assert {n for n, i in images.items() if i["state"] == "rejected"} == set(bad.values())
    assert {i["state"] for n, i in images.items() if n not in bad.values()} == {"assessed"}
    (cut,) = images[bad["truncated"]]["reason"]
    assert cut["code"] == "truncated"
    (missing, *_) = images[bad["missing"]]["reason"]
    assert missing["code"] == "missing_exposure_time"
    assert "EXPTIME" in missing["text"]
    assert "[" in missing["text"]
    assert "=" in missing["text"], "the TOML lines that cure it are told"
    ignored = walk.rows(select(FileRow.name).where(FileRow.kind == FileKind.IGNORED))
    assert ignored == [("notes.txt",)]


def test_the_listing_of_images_keeps_its_contract(walk: Any) -> None:
    images = walk.spica("images", "--json").json
    assert [i["id"] for i in images] == sorted(i["id"] for i in images)
    assert all(set(i) >= IMAGE_KEYS for i in images)
    for image in images:
        if image["state"] == "rejected":
            assert image["seeing_arcsec"] is None
            assert image["grade"] is None
            assert set(image["reason"][0]) == {"code", "text", "value", "limit"}
            continue
        plan = walk.truth.exposure(image["name"]).plan
        assert image["path"].startswith(str(walk.folder))
        assert (image["filter"], image["object"], image["run"]) == (plan.filter_name, plan.object_name, plan.run_id)
        assert (image["exptime_s"], image["n_detectors"]) == (plan.exptime_s, 2)
        # Seeing is measured on pixels of 0.3 arcsec; the truth is that before the pixel.
        assert image["seeing_arcsec"] == pytest.approx(plan.seeing_arcsec, rel=0.08)
        assert image["airmass"] == pytest.approx(plan.airmass, abs=1e-3)
        assert image["grade"] in ("A", "B", "C", "D")
        assert image["grade_source"] == "machine"
        assert image["zero_point_mag"] is None
        assert image["night"] is not None
    rejected = walk.spica("images", "--json", "--rule", 'state = "rejected"').json
    assert {i["name"] for i in rejected} == set(by_fault(walk).values())


def test_incoming_files_are_left_as_they_were(template: Any, walk: Any) -> None:
    assert walk.incoming() == template.before


def _counts(walk: Any) -> dict[str, int]:
    return {
        t.__tablename__: walk.rows(select(func.count()).select_from(t))[0][0]
        for t in (ImageRow, JobRow, ProductRow, FileRow)
    }


def test_the_same_content_again_doubles_nothing_and_new_content_is_kept_apart(walk: Any) -> None:
    before = _counts(walk)
    said = walk.spica("ingest", "--wait", "--json").json
    assert (said["plan"], said["jobs"], said["known"]) == (None, [], 9)
    good = next(e.plan.name for e in walk.truth.exposures if e.plan.truncated_fraction is None)
    other = walk.folder / "incoming" / "elsewhere"
    other.mkdir()
    shutil.copy(walk.folder / "incoming" / f"{good}.fits", other / "copy.fits")
    assert walk.spica("ingest", other, "--wait", "--json").json["jobs"] == []
    assert _counts(walk) == before
    changed = other / f"{good}.fits"
    content = bytearray((walk.folder / "incoming" / f"{good}.fits").read_bytes())
    content[-4000] ^= 1
    changed.write_bytes(content)
    (image,) = walk.spica("ingest", changed, "--wait", "--json").json["images"]
    from spica.files.checksum import sha256_file

    assert image["name"] == f"{good}~{sha256_file(changed)[:8]}"
    listed = {i["name"]: i for i in walk.spica("images", "--json").json}
    assert {good, image["name"]} <= set(listed)
    assert listed[good]["path"] != listed[image["name"]]["path"]


def test_strict_turns_rejected_files_into_exit_3(walk: Any) -> None:
    bad = by_fault(walk)["truncated"]
    path = walk.folder / "incoming" / "again.fits"
    path.write_bytes((walk.folder / "incoming" / f"{bad}.fits").read_bytes()[:-100])
    said = walk.spica("ingest", path, "--wait", "--strict", code=3)
    assert "again" in said.out
    assert "1 rejected" in said.out

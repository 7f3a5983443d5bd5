"""Broken, odd and hostile files by real processes: each ends in one recorded outcome, and none stops the others."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from sqlalchemy import select

from spica.db.tables.file import FileRow
from spica.db.tables.job import JobRow, OutcomeRow
from spica.files.checksum import sha256_file
from spica.model.job import JobState

pytestmark = pytest.mark.walk

ONE_JOB = ("--set", "resources.batch=200", "--set", "quality.plots=false")
EDITED = "DEC-OBS04a.mini.fits.gz"  # its author resampled the pixels and left DATASUM; DECam's profile says `warn`


def _outcomes(walk: Any) -> dict[str, tuple[str, str | None, str | None]]:
    rows = walk.rows(
        select(FileRow.name, OutcomeRow.outcome, OutcomeRow.code, OutcomeRow.text)
        .join(FileRow, FileRow.id == OutcomeRow.file_id)
        .where(OutcomeRow.number.is_(None))
    )
    found = {name: (outcome.value, code, text) for name, outcome, code, text in rows}
    assert len(found) == len(rows), "a file has two outcomes"
    return found


def _hostile(folder: Path) -> list[str]:
    """Make files that no archive should hold; return the names of those that a job must judge."""
    head = fits.Header([("SIMPLE", True), ("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", 50000), ("NAXIS2", 40000)])
    raw = head.tostring().encode()
    made = {
        "huge.fits": raw.replace(b"50000", b"10**9"),
        "cut.fits": raw,
        "bomb.fits.gz": gzip.compress(raw) + gzip.compress(bytes(2**25), 9) * 34,
        "two\nlines.fits": raw + b"1",
        "quo'te\"; rm -rf $(x).fits": raw + b"2",
        "\u03b1\u2728 \u202egnp.fits": raw + b"3",
        "n" * 249 + ".fits": raw + b"4",
        "control.fits": raw[:400] + b"\x1b[2J\x07\r\nX".ljust(80) + raw[400:-80],
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    (folder / "link.fits").symlink_to(folder / "cut.fits")
    (folder / "loop.fits").symlink_to("loop.fits")
    (folder / "folder.fits").mkdir()
    os.mkfifo(folder / "pipe.fits")
    (folder / os.fsdecode(b"\xff\xfe.fits")).write_bytes(raw + b"5")
    return list(made)


def test_every_broken_file_ends_in_one_outcome(walk: Any, test_data: Path) -> None:
    folder = walk.folder / "odd"
    shutil.copytree(test_data / "broken", folder / "broken")
    shutil.copy(test_data / "decam_10exp_256px" / EDITED, folder)
    (folder / "hostile").mkdir()
    hostile = _hostile(folder / "hostile")
    files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
    before = {p: (sha256_file(p), p.stat().st_mtime_ns) for p in files}
    known = set(_outcomes(walk))

    said = walk.spica("ingest", folder, "--wait", *ONE_JOB, code=5)

    assert {p: (sha256_file(p), p.stat().st_mtime_ns) for p in files} == before
    assert all(s is JobState.SUCCEEDED for (s,) in walk.rows(select(JobRow.state)))
    outcomes = {k: v for k, v in _outcomes(walk).items() if k not in known}
    broken = {p.name for p in (folder / "broken").rglob("*") if p.is_file()}
    assert set(outcomes) == broken | set(hostile) | {EDITED}
    assert outcomes[EDITED][:2] == ("used_with_warning", "bad_datasum")
    assert all(text for _, _, text in outcomes.values())
    assert {outcomes[n][1] for n in hostile if n not in ("huge.fits", "bomb.fits.gz")} == {"truncated"}
    assert outcomes["huge.fits"][1] == "bad_keyword"
    assert outcomes["bomb.fits.gz"][1] == "too_large"
    for name, (outcome, code, text) in outcomes.items():
        if name.endswith((".hdr", ".yaml")):
            assert (outcome, code) == ("ignored", "no_image")
            assert "text" in (text or "")
    lsst = outcomes["lsst_afw_small_MI_corrupt_img.fits"]
    assert lsst[:2] == ("used_with_warning", "bad_wcs")
    assert "CRPIX1 CRPIX2" in (lsst[2] or "")
    assert "stray data" in (outcomes["lco_ldac_test_catalog_corrupt.fits.gz"][2] or "")
    (line,) = [line for line in said.err.splitlines() if line.startswith("spica:")]
    assert "not UTF-8; rename it" in line
    assert "link.fits is known as cut.fits" in said.out or "cut.fits is known as link.fits" in said.out
    assert "\x1b" not in said.out + said.err


def test_same_content_and_same_name_in_one_call(walk: Any) -> None:
    good = next(e.plan.name for e in walk.truth.exposures if e.plan.truncated_fraction is None)
    raw = (walk.folder / "incoming" / f"{good}.fits").read_bytes()[:-20_000]  # cut: judged at once, named as any other
    first, second, third = (walk.folder / "more" / name for name in ("a", "b", "c"))
    for folder in (first, second, third):
        folder.mkdir(parents=True)
    one, two = bytearray(raw), bytearray(raw)
    one[-4000] ^= 1
    two[-4001] ^= 1
    (first / "new.fits").write_bytes(one)
    (second / "new.fits").write_bytes(two)
    (third / "copy.fits").write_bytes(one)
    said = walk.spica("ingest", walk.folder / "more", "--wait", "--json", *ONE_JOB).json
    names = {i["name"]: i for i in said["images"]}
    shas = {sha256_file(p / "new.fits")[:8] for p in (first, second)}
    assert len(names) == 2
    assert "new" in names
    (apart,) = set(names) - {"new"}
    assert apart in {f"new~{sha}" for sha in shas}
    assert said["known_as"] == {str(third / "copy.fits"): "new.fits"}
    assert len({i["path"] for i in said["images"]}) == 2
    again = walk.spica("ingest", third).out
    assert "0 new files, 1 known already" in again
    assert "copy.fits is known as new.fits" in again

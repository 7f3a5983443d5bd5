"""Every real header translates to values that were read from it by eye, or is refused for a keyword that is named.

The tables `expected_*.tsv` were written by hand from the headers' cards; `-` stands for unknown. Columns: name of the
dump; `ok`, or the fact for which it is refused; instrument; frame type; raw object; filter; raw filter; run; night;
exposure time (s); MJD at mid-exposure; pointing (degrees); airmass; number of detectors; shape (nx,ny) of the first.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from spica.instruments.facts import ExposureFacts, MissingFactError
from spica.instruments.registry import load_instruments, translate

COLUMNS = ("name", "outcome", "instrument", "frame_type", "object", "filter", "filter_raw", "run", "night", "exptime_s")
COLUMNS += ("mjd", "ra_deg", "dec_deg", "airmass", "n_detectors", "shape")
FOLDER = Path(__file__).parent


def _rows() -> list[dict[str, str]]:
    rows = []
    for table in sorted(FOLDER.glob("expected_*.tsv")):
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                cells = line.split("\t")
                assert len(cells) == len(COLUMNS), f"{table.name}: {len(cells)} cells in {line[:60]!r}"
                rows.append(dict(zip(COLUMNS, (cell.strip() for cell in cells), strict=True)))
    return rows


ROWS = _rows()


@pytest.fixture(scope="module")
def registry():
    return load_instruments(plugin_folders=())


def _file_name(dump: str) -> str:
    """Return the name of the FITS file whose header was dumped."""
    return dump.rpartition("/")[2].rpartition("__")[2].removesuffix(".gz").removesuffix(".header")


def _number(text: str) -> float | None:
    return None if text == "-" else float(text)


def _check(facts: ExposureFacts, row: dict[str, str]) -> None:
    words = (facts.instrument, facts.frame_type, facts.object_raw or "-", facts.filter, facts.filter_raw or "-")
    assert words == (row["instrument"], row["frame_type"], row["object"], row["filter"], row["filter_raw"])
    assert (facts.run, facts.night, len(facts.detectors)) == (row["run"], row["night"], int(row["n_detectors"]))
    ny, nx = facts.detectors[0].shape
    assert f"{nx},{ny}" == row["shape"]
    assert facts.exptime_s == pytest.approx(float(row["exptime_s"]), abs=6e-4)
    assert facts.mjd == pytest.approx(float(row["mjd"]), abs=2e-5)
    assert facts.ra_deg == (None if row["ra_deg"] == "-" else pytest.approx(float(row["ra_deg"]), abs=2e-4))
    assert facts.dec_deg == (None if row["dec_deg"] == "-" else pytest.approx(float(row["dec_deg"]), abs=2e-4))
    airmass = _number(row["airmass"])
    assert facts.airmass == (None if airmass is None else pytest.approx(airmass, abs=2e-3))


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_a_real_header_says_what_a_reader_sees(registry, real_headers, row):
    headers = real_headers(row["name"])
    name = _file_name(row["name"])
    instrument = registry.recognise(headers, name)
    if row["outcome"] == "ok":
        _check(translate(instrument, headers, name), row)
        return
    with pytest.raises(MissingFactError) as caught:
        translate(instrument, headers, name)
    assert caught.value.fact == row["outcome"]
    assert caught.value.instrument == row["instrument"]
    assert str(caught.value).count("keywords = [") or "=" in caught.value.toml


def test_the_tables_speak_of_every_header(test_data):
    folder = test_data / "headers"
    there = {str(p.relative_to(folder)) for p in folder.rglob("*.gz") if "ZERO_PIXELS" not in p.name}
    assert {row["name"] for row in ROWS} == there

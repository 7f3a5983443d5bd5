"""Every broken file ends with a report, and the report names the right cause."""

import bz2
import gzip
import time
import zlib

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from spica.files.header import HeaderCards, make_cards
from spica.files.verify import FileLimits, verify_file

CAUSES = {
    "derived/HATP-32171220014212_truncated_at_60pct.FITS.gz": "truncated",
    "derived/HATP-32171220014212_empty.FITS": "empty",
    "derived/HATP-32171220014212_bitflip_bad_datasum.FITS.gz": "bad_datasum",
    "other/1038843o.fits.fz": "lfs_pointer",
    "other/2281792p.fits.fz": "text_dump",
    "astropy_io_fits/checksum_false.fits": "bad_datasum",
}
LEGAL = [
    "arange",
    "blank",
    "comp",
    "compressed_image",
    "double_ext",
    "fixed-1890",
    "scale",
    "test0",
    "test1",
    "o4sp040b0_raw",
    "random_groups",
]


def _codes(report):
    return {problem.code for problem in report.problems}


def test_every_broken_file_ends_with_a_report(test_data):
    paths = [path for path in sorted((test_data / "broken").rglob("*")) if path.is_file()]
    assert len(paths) > 50
    for path in paths:
        start = time.monotonic()
        report = verify_file(path)
        assert time.monotonic() - start < 5.0, path
        assert report.kind in {"image", "table", "text", "other"}
        for problem in report.problems:
            assert problem.code, path
            assert "\n" not in problem.text


@pytest.mark.parametrize(("name", "code"), CAUSES.items())
def test_the_cause_is_named(test_data, name, code):
    report = verify_file(test_data / "broken" / name)
    assert _codes(report) == {code}
    assert not report.ok


@pytest.mark.parametrize("name", LEGAL)
def test_legal_but_unusual_files_are_accepted(test_data, name):
    report = verify_file(test_data / f"broken/astropy_io_fits/{name}.fits")
    assert report.ok, report.problems


def test_compress_of_unix_is_read_through(test_data):
    report = verify_file(test_data / "broken/astropy_io_fits/lzw.fits.Z")
    assert report.ok
    assert report.compression == "compress"


def test_truncation_states_what_is_there_and_what_is_missing(test_data):
    problem = verify_file(test_data / "broken/derived/HATP-32171220014212_truncated_at_60pct.FITS.gz").problems[0]
    assert (problem.value, problem.limit) == (388224, 650000)


def test_files_that_claim_nothing_are_passed_over(tmp_path):
    (tmp_path / "notes.txt").write_text("seeing was good\n")
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 20)
    report = verify_file(tmp_path / "notes.txt")
    assert (report.kind, report.ok) == ("text", True)
    report = verify_file(tmp_path / "x.bin")
    assert (report.kind, report.ok) == ("other", True)
    (tmp_path / "page.fits").write_text("<!DOCTYPE HTML><html>404</html>")
    assert _codes(verify_file(tmp_path / "page.fits")) == {"html"}
    assert _codes(verify_file(tmp_path / "absent.fits")) == {"unreadable"}
    assert _codes(verify_file(tmp_path)) == {"unreadable"}


def test_the_real_exposures_are_images(test_data):
    for path in sorted((test_data / "hatp32_microobservatory").glob("HATP*"))[:4]:
        report = verify_file(path)
        assert report.ok
        assert report.kind == "image"
        assert report.hdus[0].shape == (500, 650)
    assert verify_file(test_data / "hatp32_microobservatory/refcat_tycho2.fits.gz").kind == "table"


def _primary(*cards):
    return make_cards([("SIMPLE", True, ""), ("BITPIX", 16, ""), *cards]).to_bytes()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (_primary(("NAXIS", 2, ""), ("NAXIS1", 2**31, ""), ("NAXIS2", 2**31, "")), "too_many_pixels"),
        (_primary(("NAXIS", 999, ""), *((f"NAXIS{i}", 9, "") for i in range(1, 1000))), "too_many_pixels"),
        (_primary(("NAXIS", 100000, "")), "bad_keyword"),
        (_primary(("NAXIS", 2, ""), ("NAXIS1", -5, ""), ("NAXIS2", 5, "")), "bad_keyword"),
        (_primary(("NAXIS", 2, ""), ("NAXIS1", "5", ""), ("NAXIS2", 5, "")), "bad_keyword"),
        (_primary(("NAXIS", 2, ""), ("NAXIS1", 5, "")), "bad_keyword"),
        (_primary(), "bad_keyword"),
        (b"SIMPLE  =                    T".ljust(2880), "no_end"),
        (b"SIMPLE  =                    T".ljust(28800), "no_end"),
    ],
)
def test_hostile_headers(tmp_path, raw, code):
    path = tmp_path / "h.fits"
    path.write_bytes(raw)
    assert _codes(verify_file(path)) == {code}


def test_limits_of_units_headers_and_unpacked_bytes(tmp_path):
    empty = make_cards([("SIMPLE", True, ""), ("BITPIX", 8, ""), ("NAXIS", 0, "")]).to_bytes()
    more = make_cards([("XTENSION", "IMAGE", ""), ("BITPIX", 8, ""), ("NAXIS", 0, "")]).to_bytes()
    path = tmp_path / "many.fits"
    path.write_bytes(empty + more * 50)
    assert verify_file(path).ok
    assert _codes(verify_file(path, FileLimits(max_hdus=20))) == {"too_many_hdus"}
    assert _codes(verify_file(path, FileLimits(max_header_bytes=28800))) == {"header_too_large"}
    image = make_cards(
        [("SIMPLE", True, ""), ("BITPIX", 8, ""), ("NAXIS", 2, ""), ("NAXIS1", 6000, ""), ("NAXIS2", 5000, "")]
    )
    (tmp_path / "bomb.fits.gz").write_bytes(gzip.compress(image.to_bytes() + b"\0" * 30_000_000))
    assert _codes(verify_file(tmp_path / "bomb.fits.gz", FileLimits(max_unpacked_bytes=1_000_000))) == {"too_large"}


def test_damaged_compression_is_named(tmp_path):
    rng = np.random.default_rng(2)
    fits.PrimaryHDU(rng.integers(0, 60000, (200, 200)).astype("i4")).writeto(tmp_path / "a.fits")
    raw = (tmp_path / "a.fits").read_bytes()
    for suffix, packed in (("gz", gzip.compress(raw)), ("bz2", bz2.compress(raw))):
        path = tmp_path / f"b.fits.{suffix}"
        path.write_bytes(packed)
        assert verify_file(path).ok
        path.write_bytes(packed[: len(packed) * 6 // 10])
        assert _codes(verify_file(path)) <= {"damaged_compression", "truncated"}
        assert not verify_file(path).ok
        spoiled = bytearray(packed)
        spoiled[len(packed) // 2] ^= 0x55
        path.write_bytes(bytes(spoiled))
        # a spoiled bzip2 block may unpack to noise before its sum is looked at
        assert _codes(verify_file(path)) in ({"damaged_compression"}, {"not_fits"})


def test_every_flipped_bit_under_a_checksum_is_found(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "c.fits"
    fits.PrimaryHDU(rng.normal(100, 5, (40, 40)).astype("f4")).writeto(path, checksum=True)
    raw = path.read_bytes()
    assert verify_file(path).ok
    for place in rng.integers(2880, 2880 + 6400, 20):
        spoiled = bytearray(raw)
        spoiled[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(spoiled))
        assert _codes(verify_file(path)) == {"bad_datasum"}
        assert verify_file(path, sums="warn").ok
        assert verify_file(path, sums="warn").warnings[0].code == "bad_datasum"
        assert not verify_file(path, sums="ignore").warnings
    spoiled = bytearray(raw).replace(b"conforms", b"conFORMS")
    path.write_bytes(bytes(spoiled))
    assert _codes(verify_file(path)) == {"bad_checksum"}


def test_missing_padding_and_trailing_bytes_only_warn(tmp_path):
    path = tmp_path / "p.fits"
    fits.PrimaryHDU(np.ones((30, 30), "f4")).writeto(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: 2880 + 3600])
    report = verify_file(path)
    assert report.ok
    assert [warning.code for warning in report.warnings] == ["no_padding"]
    path.write_bytes(raw + b"\0" * 500)
    assert [warning.code for warning in verify_file(path).warnings] == ["trailing_bytes"]
    path.write_bytes(raw[: 2880 + 3599])
    assert _codes(verify_file(path)) == {"truncated"}


@settings(max_examples=60, deadline=2000)
@given(st.data())
def test_random_damage_never_raises(tmp_path_factory, data):
    base = HeaderCards(make_cards([("SIMPLE", True, ""), ("BITPIX", -32, ""), ("NAXIS", 2, "")]).cards)
    cards = [
        *base.cards,
        *make_cards([("NAXIS1", 10, ""), ("NAXIS2", 10, ""), ("DATASUM", "0", "")]).cards,
    ]
    raw = bytearray(HeaderCards(tuple(cards)).to_bytes() + b"\0" * 2880)
    for _ in range(data.draw(st.integers(1, 30))):
        raw[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    packed = data.draw(st.sampled_from([bytes(raw), gzip.compress(bytes(raw)), zlib.compress(bytes(raw))]))
    path = tmp_path_factory.mktemp("damage") / "x.fits"
    path.write_bytes(packed)
    report = verify_file(path)
    assert report.problems or report.kind in {"image", "other", "table", "text"}

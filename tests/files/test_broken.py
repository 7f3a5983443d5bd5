"""The real files that are broken or look so, one by one: what each is, by hand, and that the legal ones are read."""

import bz2
import gzip
import hashlib
import io
import subprocess
import warnings

import numpy as np
import pytest
from astropy.io import fits

from spica.files.mef import open_mef
from spica.files.verify import verify_file

IMAGE, TABLE, TEXT, OTHER = "image", "table", "text", "other"
_IO, _WCS, _DERIVED = "astropy_io_fits", "astropy_wcs", "derived"
_HEADER = "a FITS header as text, without pixels"

# name: kind, codes of problems, codes of warnings, and why, as fitsverify, astropy and the eye found it.
EXPECTED = {
    f"{_IO}/arange.fits": (IMAGE, (), (), "a cube of int32"),
    f"{_IO}/ascii.fits": (TABLE, (), (), "an ASCII table"),
    f"{_IO}/ascii_i4-i20.fits": (TABLE, (), (), "an ASCII table of integers of many widths"),
    f"{_IO}/blank.fits": (IMAGE, (), (), "one 64-bit pixel that is undefined (BLANK)"),
    f"{_IO}/btable.fits": (TABLE, (), (), "a binary table"),
    f"{_IO}/chandra_time.fits": (TABLE, ("bad_datasum",), (), "events cut out of a table, DATASUM left as it was"),
    f"{_IO}/checksum.fits": (IMAGE, (), (), "right checksums on image and table"),
    f"{_IO}/checksum_false.fits": (IMAGE, ("bad_datasum", "bad_datasum"), (), "one digit of each DATASUM changed"),
    f"{_IO}/comp.fits": (IMAGE, (), (), "tile-compressed"),
    f"{_IO}/compressed_float_bzero.fits": (OTHER, (), (), "a tile-compressed row of 3 pixels: no image"),
    f"{_IO}/compressed_image.fits": (IMAGE, (), (), "tile-compressed, BZERO"),
    f"{_IO}/double_ext.fits": (IMAGE, (), (), "tile-compressed, EXTNAME twice"),
    f"{_IO}/fixed-1890.fits": (IMAGE, (), (), "PCOUNT and GCOUNT in a primary header, HIERARCH cards"),
    f"{_IO}/group.fits": (OTHER, (), (), "random groups"),
    f"{_IO}/group_invalid.fits": (OTHER, (), (), "GROUPS without data"),
    f"{_IO}/history_header.fits": (OTHER, (), (), "a header of HISTORY alone"),
    f"{_IO}/logical_null.fits": (TABLE, (), (), "undefined logical values"),
    f"{_IO}/lzw.fits.Z": (IMAGE, (), (), "packed by compress"),
    f"{_IO}/memtest.fits": (TABLE, ("bad_datasum",), (), "rows cut out, DATASUM left as it was"),
    f"{_IO}/o4sp040b0_raw.fits": (IMAGE, (), (), "ERR and DQ are constant: NAXIS 0 and PIXVALUE"),
    f"{_IO}/random_groups.fits": (OTHER, (), (), "random groups"),
    f"{_IO}/scale.fits": (IMAGE, (), (), "BSCALE and BZERO"),
    f"{_IO}/stddata.fits": (TABLE, (), (), "a binary and an ASCII table"),
    f"{_IO}/table.fits": (TABLE, (), (), "an ASCII table"),
    f"{_IO}/tb.fits": (TABLE, (), (), "logical column"),
    f"{_IO}/tdim.fits": (TABLE, (), (), "columns of many dimensions"),
    f"{_IO}/test0.fits": (IMAGE, (), (), "four images, no primary data"),
    f"{_IO}/test1.fits": (IMAGE, (), (), "four images, no primary data"),
    f"{_IO}/theap-gap.fits": (TABLE, (), (), "a gap before the heap"),
    f"{_IO}/variable_length_table.fits": (TABLE, (), (), "variable-length columns"),
    f"{_IO}/verify.fits": (OTHER, (), (), "NAXIS before BITPIX: wrong order, clear meaning, no data"),
    f"{_IO}/vla_logical_all_zero.fits": (TABLE, (), (), "variable-length logicals"),
    f"{_IO}/vla_logical_null.fits": (TABLE, (), (), "variable-length logicals"),
    f"{_IO}/vla_logical_pre_fix.fits": (
        TABLE,
        (),
        (),
        "logicals written as 0 and 1: the values are wrong, not the form",
    ),
    f"{_IO}/zerowidth.fits": (TABLE, (), (), "columns of no width"),
    f"{_WCS}/header_newlines.fits": (IMAGE, ("bad_checksum",), (), "data cut to one pixel; the second DATASUM fits"),
    f"{_WCS}/validate.fits": (OTHER, ("bad_checksum",), (), "data cut away under a CHECKSUM"),
    f"{_WCS}/2wcses.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/defunct_keywords.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/invalid_header.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/irac_sip.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/locale.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/nonstandard_units.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/outside_sky.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/sip-broken.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/siponly.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/sub-segfault.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/too_many_pv.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/tpvonly.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/unit.hdr": (TEXT, (), (), _HEADER),
    f"{_WCS}/zpn-hole.hdr": (TEXT, (), (), _HEADER),
    f"{_DERIVED}/HATP-32171220014212_bitflip_bad_datasum.FITS.gz": (IMAGE, ("bad_datasum",), (), "one bit flipped"),
    f"{_DERIVED}/HATP-32171220014212_empty.FITS": (OTHER, ("empty",), (), "no byte"),
    f"{_DERIVED}/HATP-32171220014212_truncated_at_60pct.FITS.gz": (OTHER, ("truncated",), (), "cut at 60 %"),
    "eso_midas/badMPE.fits": (IMAGE, (), (), "long texts by CONTINUE, 8-bit pixels"),
    "eso_midas/longstrn.fits": (TABLE, (), (), "long texts"),
    "eso_midas/nocdelt.fits": (IMAGE, (), (), "a cube without CDELT"),
    "other/1038843o.fits.fz": (TEXT, ("lfs_pointer",), (), "a Git LFS pointer"),
    "other/2281792p.fits.fz": (TEXT, ("text_dump",), (), _HEADER),
    "other/bad-megaprime.yaml": (TEXT, (), (), "plain text"),
    # A longer table was written here before: its last block still follows the 2058 whole rows.
    "other/lco_ldac_test_catalog_corrupt.fits.gz": (TABLE, (), ("stray_data",), "an old block behind the table"),
    # Structure and pixels are whole; its WCS lacks CRPIX: that is told at verification (tests/walk/test_broken.py).
    "other/lsst_afw_small_MI_corrupt_img.fits": (IMAGE, (), (), "CRPIX1 and CRPIX2 are missing"),
}
UNREADABLE = {"empty", "truncated"}


def _images():
    return [name for name, (kind, codes, _, _) in EXPECTED.items() if kind == IMAGE and not UNREADABLE & set(codes)]


def _unpacked(path):
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def _as_astropy_reads(path):
    """Return the path, or what gzip unpacks of a file of `compress`."""
    if path.suffix != ".Z":
        return path
    return io.BytesIO(subprocess.run(["gzip", "-dc", str(path)], capture_output=True, check=True).stdout)


def test_the_table_names_every_file(test_data):
    folder = test_data / "broken"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_is_what_it_is(test_data, name):
    path = test_data / "broken" / name
    kind, codes, warned, why = EXPECTED[name]
    before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
    report = verify_file(path)
    assert (report.kind, tuple(p.code for p in report.problems)) == (kind, codes), why
    assert tuple(w.code for w in report.warnings) == warned, why
    assert report.what
    if why == _HEADER or kind == TEXT:
        assert why in (report.what, "a Git LFS pointer", "plain text")
    for said in (*report.problems, *report.warnings):
        assert "\n" not in said.text
        assert ";" in said.text, "cause and cure"
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("name", _images())
def test_pixels_of_images_are_those_that_astropy_reads(test_data, name):
    path = test_data / "broken" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(_as_astropy_reads(path)) as units, open_mef(path) as mef:
            assert mef.images
            for image in mef.images:
                truth = np.asarray(units[image.index].data, dtype=np.float64)
                blank = units[image.index].header.get("BLANK")
                found = mef.read_pixels(image, dtype=np.float64)
                assert found.shape == truth.shape
                if blank is not None and np.isnan(found).any():
                    truth = np.where(np.isnan(found), np.nan, truth)
                np.testing.assert_allclose(found, truth, rtol=1e-7)


def test_an_undefined_pixel_is_nan(test_data):
    with open_mef(test_data / f"broken/{_IO}/blank.fits") as mef:
        assert np.isnan(mef.read_pixels(0)).all()


@pytest.mark.parametrize("name", [n for n, (kind, *_) in EXPECTED.items() if kind == TABLE])
def test_tables_are_found_as_astropy_finds_them(test_data, name):
    path = test_data / "broken" / name
    report = verify_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path) as units:
            for unit in report.hdus:
                is_table = isinstance(units[unit.index], fits.BinTableHDU | fits.TableHDU)
                assert is_table == (unit.kind == TABLE)
                if is_table and units[unit.index].data is not None:
                    assert len(units[unit.index].data) == report.headers[unit.index]["NAXIS2"]


def test_repeated_sums_fit_where_one_of_them_does(test_data):
    report = verify_file(test_data / f"broken/{_WCS}/header_newlines.fits")
    assert report.headers[0].all_values("DATASUM") == ("395763289", "         0")
    assert [p.code for p in report.problems] == ["bad_checksum"]


def test_a_bare_header_is_rejected_only_under_a_name_of_fits(test_data, tmp_path):
    for name in ("siponly.hdr", "outside_sky.hdr", "sip-broken.hdr"):
        raw = (test_data / "broken" / _WCS / name).read_bytes()
        for suffix, packed in (("", raw), (".gz", gzip.compress(raw)), (".bz2", bz2.compress(raw))):
            bare, claimed = tmp_path / f"a.head{suffix}", tmp_path / f"a.fits{suffix}"
            bare.write_bytes(packed)
            claimed.write_bytes(packed)
            assert (verify_file(bare).kind, verify_file(bare).ok) == (TEXT, True)
            assert {p.code for p in verify_file(claimed).problems} <= {"truncated", "no_end", "text_dump"}
            assert not verify_file(claimed).ok


def test_half_an_exposure_is_rejected_under_any_name(test_data, tmp_path):
    source = test_data / f"broken/{_DERIVED}/HATP-32171220014212_truncated_at_60pct.FITS.gz"
    path = tmp_path / "exposure.dat"
    path.write_bytes(_unpacked(source))
    assert [p.code for p in verify_file(path).problems] == ["truncated"]


class TestBytesBehindTheEnd:
    """What follows the last unit is judged by what it holds."""

    @pytest.fixture
    def whole(self, tmp_path):
        rng = np.random.default_rng(5)
        units = [fits.PrimaryHDU(), *(fits.ImageHDU(rng.integers(1, 99, (50, 61), "i2"), name=n) for n in "ABC")]
        path = tmp_path / "mef.fits"
        fits.HDUList(units).writeto(path)
        return path

    def _codes(self, path, raw):
        path.write_bytes(raw)
        report = verify_file(path)
        return [p.code for p in report.problems], [w.code for w in report.warnings]

    def test_fill_and_stray_bytes(self, whole):
        raw = whole.read_bytes()
        noise = np.random.default_rng(6).integers(0, 256, 5000, "u1").tobytes()
        assert self._codes(whole, raw + bytes(7000)) == ([], ["trailing_bytes"])
        assert self._codes(whole, raw + b" " * 100 + b"\x1a") == ([], ["trailing_bytes"])
        assert self._codes(whole, raw + noise) == ([], ["stray_data"])

    @pytest.mark.parametrize(
        "damage", [(b"XTENSION", b"XTENSIOM"), (b"XTENSION", b"\0\0\0\0\0\0\0\0"), (b"XT", b"\xff\n")]
    )
    def test_a_unit_with_a_damaged_start(self, whole, damage):
        raw = whole.read_bytes()
        at = raw.index(b"XTENSION", raw.index(b"XTENSION") + 2880)
        spoiled = raw[:at] + raw[at:].replace(*damage, 1)
        assert len(spoiled) == len(raw)
        assert self._codes(whole, spoiled) == (["damaged_extension"], [])

    def test_a_header_that_announces_too_little(self, whole):
        raw = whole.read_bytes()
        first = raw.index(b"NAXIS2  =", 2880)
        shorter = raw[:first] + raw[first:].replace(b"50 ", b"20 ", 1)
        assert self._codes(whole, shorter) == (["damaged_extension"], [])
        last = raw.rindex(b"NAXIS2  =")
        shorter = raw[:last] + raw[last:].replace(b"50 ", b"20 ", 1)
        assert self._codes(whole, shorter) == (["data_overflow"], [])


KINDS = (
    ("decam_cutouts_gaia/testcase9/calib/psfex-single/decam/CP/V4.8.2a/CP20131121/c4d_131122_030338_ooi_z_ls9/"
     "c4d_131122_030338_ooi_z_ls9-S21-psfex.fits.gz", "a PSF model of PSFEx"),
    ("decam_cutouts_gaia/testcase9/tycho2.kd.fits.gz", "a search tree over a catalogue"),
    ("decam_cutouts_gaia/testcase9/gaia/chunk-05571.fits.gz", "a catalogue of sources"),
    ("lco_catalogues/elp1m008-fl05-20160217-0218-e90_cat.fits.gz", "a catalogue of sources"),
    ("megacam_d3_catalogue/v695833-e0-c000.xy.fits.gz", "a catalogue of sources"),
    ("hst_acs_wfc_reference/qbu1641sj_idc.fits.gz", "a FITS table"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "what"), KINDS, ids=[what for _, what in KINDS])
def test_tables_are_called_by_what_they_are(test_data, name, what):
    report = verify_file(test_data / name)
    assert (report.kind, report.what, report.problems) == ("table", what, ())

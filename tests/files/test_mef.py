"""Pixels are those astropy reads; what we write, astropy verifies."""

import gzip
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spica.files.header import make_cards
from spica.files.mef import ImageToWrite, open_mef, write_image, write_mef
from spica.files.scan import scan_hdus
from spica.files.source import ByteSource, FileLimits
from spica.files.verify import verify_file
from spica.model.errors import DataError

CARDS = make_cards(
    [("OBJECT", "O'Brien", "x"), ("LONGS", "a" * 200 + "''b", ""), ("ESO DET X", 3.5, ""), ("BZERO", 7.0, "stale")]
)


def _same_as_astropy(path):
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_mef(path) as mef, fits.open(path) as hdus:
            for image in mef.images:
                expected = np.asarray(hdus[image.index].data, dtype=np.float64)
                # astropy scales to float32: its rounding is the tolerance
                found = mef.read_pixels(image, dtype=np.float64)
                np.testing.assert_allclose(found, expected, rtol=2e-7, equal_nan=True, err_msg=path.name)
                window = tuple(slice(n // 4, n // 4 + max(1, n // 3)) for n in image.shape)
                assert np.array_equal(mef.read_pixels(image, window, np.float64), found[window], equal_nan=True), (
                    path.name
                )
                count += 1
    return count


def test_real_images_read_as_astropy_reads_them(test_data):
    names = [
        "broken/astropy_io_fits/comp.fits",
        "broken/astropy_io_fits/blank.fits",
        "broken/astropy_io_fits/scale.fits",
        "broken/astropy_io_fits/test0.fits",
        "broken/astropy_io_fits/compressed_image.fits",
        "broken/astropy_io_fits/fixed-1890.fits",
        "broken/astropy_io_fits/o4sp040b0_raw.fits",
        "hst_acs_hrc_47tuc/j8bt06nyq_flt.fits.gz",
        "lco_sinistro_raw_mef/mef_raw_test_frame.fits.gz",
        "headers/latiss/AT_O_20220208_000142-R00S00_ZERO_PIXELS.fits.gz",
        "decam_10exp_256px/DEC-OBS04a.mini.fits.gz",
        "hatp32_microobservatory/HATP-32171220014212.FITS.gz",
    ]
    assert sum(_same_as_astropy(test_data / name) for name in names) > 30


@pytest.mark.parametrize("kind", ["f4", "f8", "i2", "i4", "u2", "u4", "u1", "i1", "?"])
@pytest.mark.parametrize("compress", [False, True])
def test_written_pixels_and_cards_come_back_exactly(tmp_path, kind, compress):
    rng = np.random.default_rng(1)
    data = rng.normal(60, 30, (31, 17)).clip(0, 120).astype(kind)
    path = tmp_path / "w.fits"
    write_mef(path, [ImageToWrite(data, CARDS, "A"), ImageToWrite(data[:9], CARDS, "B")], CARDS, compress=compress)
    report = verify_file(path)
    assert report.ok, report.problems
    assert not report.warnings
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            assert np.array_equal(np.asarray(hdus["A"].data, dtype=float), data.astype(float))
            assert hdus["B"].header["LONGS"] == "a" * 200 + "''b"
    with open_mef(path) as mef:
        assert [image.name for image in mef.images] == ["A", "B"]
        assert [image.shape for image in mef.images] == [(31, 17), (9, 17)]
        assert np.array_equal(mef.read_pixels("A", dtype=np.float64), data.astype(float))
        assert mef.primary["ESO DET X"] == 3.5
        assert mef.image("B").header["OBJECT"] == "O'Brien"


def test_a_single_image_keeps_nan_and_its_sky_cards(tmp_path):
    data = np.arange(20, dtype=np.float32).reshape(4, 5)
    data[1, 2] = np.nan
    write_image(tmp_path / "a.fits", data, make_cards([("CRVAL1", 10.123456789012345, "")]))
    with open_mef(tmp_path / "a.fits") as mef:
        assert np.array_equal(mef.read_pixels(0), data, equal_nan=True)
        assert mef.primary["CRVAL1"] == 10.123456789012345
        assert mef.read_pixels(0).dtype == np.float32


def test_quantised_compression_stays_within_a_fraction_of_the_noise(tmp_path):
    rng = np.random.default_rng(4)
    data = rng.normal(0, 10, (200, 300)).astype(np.float32)
    data[:20] = 0.0
    write_image(tmp_path / "q.fits.fz", data, compress=True, quantise_level=16)
    with open_mef(tmp_path / "q.fits.fz") as mef:
        found = mef.read_pixels(1)
    # a step is noise/16; dithered quantisation errs by at most half a step; the noise estimate itself is good to 10 %
    assert np.abs(found - data).max() < 10 / 16 * 0.55 * 1.2
    assert not found[:20].any()
    assert (tmp_path / "q.fits.fz").stat().st_size < 0.5 * data.nbytes


def test_blank_pixels_are_nan_and_integers_stay_exact(tmp_path):
    hdu = fits.PrimaryHDU(np.array([[1, -32768, 3]], "i2"))
    hdu.header["BLANK"] = -32768
    hdu.writeto(tmp_path / "b.fits")
    with open_mef(tmp_path / "b.fits") as mef:
        assert np.array_equal(mef.read_pixels(0, dtype=np.float32)[0], [1, np.nan, 3], equal_nan=True)
        assert mef.read_pixels(0, dtype=np.int32)[0, 1] == -32768
    exact = np.array([[2**31 - 1, -(2**31)]], "i4")
    write_image(tmp_path / "i.fits", exact)
    with open_mef(tmp_path / "i.fits") as mef:
        assert np.array_equal(mef.read_pixels(0, dtype=np.float64), exact)


def test_a_cube_gives_planes(tmp_path):
    cube = np.arange(2 * 20 * 30, dtype=np.float32).reshape(2, 20, 30)
    write_image(tmp_path / "c.fits", cube)
    with open_mef(tmp_path / "c.fits") as mef:
        assert mef.images[0].shape == (2, 20, 30)
        assert np.array_equal(mef.read_pixels(0, (1, slice(3, 8), slice(0, 30))), cube[1, 3:8])


def test_wrong_requests_say_what_there_is(tmp_path):
    write_image(tmp_path / "a.fits", np.ones((4, 5), np.float32))
    with open_mef(tmp_path / "a.fits") as mef:
        with pytest.raises(DataError, match="its images are: 0"):
            mef.read_pixels("SCI")
        with pytest.raises(DataError, match="leaves the axis"):
            mef.read_pixels(0, (slice(0, 9), slice(0, 2)))
        with pytest.raises(DataError, match="axes"):
            mef.read_pixels(0, (slice(0, 2),))
    (tmp_path / "cut.fits").write_bytes((tmp_path / "a.fits").read_bytes()[:2900])
    with pytest.raises(DataError, match="cut short"):
        open_mef(tmp_path / "cut.fits")
    with pytest.raises(ValueError, match="float32"):
        write_image(tmp_path / "z.fits", np.ones((2, 2), complex))


def test_spoiled_tiles_are_a_data_error(tmp_path):
    rng = np.random.default_rng(5)
    write_image(tmp_path / "t.fits", rng.integers(0, 9000, (64, 64)).astype("i4"), compress=True, checksum=False)
    with ByteSource(tmp_path / "t.fits", 10**9) as source:
        table = list(scan_hdus(source, FileLimits()))[1]
    raw = bytearray((tmp_path / "t.fits").read_bytes())
    raw[table.data_offset : table.data_offset + 64 * 8] = b"\x7f" * 512
    (tmp_path / "t.fits").write_bytes(bytes(raw))
    with open_mef(tmp_path / "t.fits") as mef, pytest.raises(DataError, match="fetch it again"):
        mef.read_pixels(1)


def test_gzip_is_unpacked_once_and_leaves_nothing(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    data = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    write_image(tmp_path / "g.fits", data)
    (tmp_path / "g.fits.gz").write_bytes(gzip.compress((tmp_path / "g.fits").read_bytes()))
    with open_mef(tmp_path / "g.fits.gz") as mef:
        assert np.array_equal(mef.read_pixels(0, (slice(50, 60), slice(0, 100))), data[50:60])
        assert not list((tmp_path / "tmp").iterdir())


def test_threads_read_tiles_of_one_file_without_disturbing_each_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    planes = [rng.integers(0, 30000, (128, 160)).astype(np.int16) for _ in range(4)]
    path = tmp_path / "tiles.fits.fz"
    write_mef(path, [ImageToWrite(plane, name=f"D{i}") for i, plane in enumerate(planes)], compress=True)
    for _ in range(15):
        with open_mef(path) as mef, ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda i, mef=mef: mef.read_pixels(f"D{i}"), range(4)))
        for plane, found in zip(planes, read, strict=True):
            np.testing.assert_array_equal(found, plane)


def test_images_are_written_one_by_one_with_right_sums(tmp_path):
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def images():
        nonlocal most
        for k in range(6):
            data = np.random.default_rng(k).normal(size=(50, 70)).astype(np.float32)
            alive.append(weakref.ref(data))
            most = max(most, sum(reference() is not None for reference in alive))
            yield ImageToWrite(data, make_cards([("ORDER", k, "")]), f"CCD{k}")
            del data

    path = tmp_path / "mosaic.fits"
    write_mef(path, images(), make_cards([("OBJECT", "D3", "")]))
    assert most <= 2, "the whole mosaic was held"
    with fits.open(path, checksum=True) as hdus:
        assert [h.verify_checksum() for h in hdus] == [1] * 7
        assert [h.verify_datasum() for h in hdus] == [1] * 7
        assert [h.header["ORDER"] for h in hdus[1:]] == list(range(6))
        np.testing.assert_array_equal(hdus[4].data, np.random.default_rng(3).normal(size=(50, 70)).astype(np.float32))


def test_a_mosaic_that_breaks_off_leaves_no_file(tmp_path):
    def images():
        yield ImageToWrite(np.zeros((20, 20), np.float32))
        raise ValueError("the second detector is gone")

    with pytest.raises(ValueError, match="second detector"):
        write_mef(tmp_path / "half.fits", images())
    assert list(tmp_path.iterdir()) == []

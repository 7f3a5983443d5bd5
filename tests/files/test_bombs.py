"""Files made to hurt: each ends in one line, within bounds of memory and time that a process of its own measures."""

import bz2
import gzip
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from spica.files.header import make_cards
from spica.files.mef import open_mef
from spica.files.verify import verify_file
from spica.model.errors import DataError

MAX_MB = 400
MAX_S = 15.0
PROBE = """
import json, sys, time
import numpy as np
import spica.files.mef
from spica.files.verify import verify_file
from spica.model.errors import DataError

def peak_mb():
    # ru_maxrss starts at what the parent process took, VmHWM at nothing
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

base, start = peak_mb(), time.process_time()
report = verify_file(sys.argv[1])
said = [[p.code, p.text] for p in report.problems]
read = ""
if sys.argv[2] == "pixels":
    try:
        with spica.files.mef.open_mef(sys.argv[1]) as mef:
            for image in mef.images:
                mef.read_pixels(image, tuple(slice(0, 1) for _ in image.shape))
    except DataError as error:
        read = str(error)
print(json.dumps([report.kind, said, read, peak_mb() - base, time.process_time() - start]))
"""


def _judge(path, pixels=False):
    """Verify a file in a process of its own; return kind, codes and what reading its pixels said."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path), "pixels" if pixels else "no"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kind, said, read, grown_mb, seconds = json.loads(done.stdout)
    assert grown_mb < MAX_MB
    assert seconds < MAX_S
    for _, text in said:
        assert "\n" not in text
        assert len(text) < 400
        assert ";" in text, f"no cure: {text}"
    return kind, [code for code, _ in said], read


def _header(*cards, primary=True, bitpix=16):
    first = ("SIMPLE", True, "") if primary else ("XTENSION", "IMAGE", "")
    return make_cards([first, ("BITPIX", bitpix, ""), *cards]).to_bytes()


def _axes(*lengths, prefix=""):
    return [(f"{prefix}NAXIS", len(lengths), ""), *((f"{prefix}NAXIS{i}", n, "") for i, n in enumerate(lengths, 1))]


def _lzw_of_zeros(total):
    """Pack zeros as `compress -b 16` does: every code is one byte longer than the one before."""
    out, buffer, bits, width, free, group, made, code, length = bytearray(b"\x1f\x9d\x90"), 0, 0, 9, 257, 0, 0, 0, 1
    while made < total:
        buffer |= code << bits
        bits, group, made = bits + width, group + 1, made + length
        if made > length and free < 65536:
            free += 1
            if free >= 1 << width and width < 16:
                bits, width, group = bits + (-group % 8) * width, width + 1, 0
        length = length + 1 if code < 65535 else length
        code = max(257, code + 1) if code < 65535 else code
        while bits >= 8:
            out.append(buffer & 255)
            buffer, bits = buffer >> 8, bits - 8
    return bytes(out) + bytes([buffer & 255])


class TestPackedBombs:
    """Small files that unpack to many gigabytes."""

    HEAD = _header(*_axes(50000, 50000))

    def test_gzip(self, tmp_path):
        path = tmp_path / "bomb.fits.gz"
        path.write_bytes(gzip.compress(self.HEAD) + gzip.compress(bytes(64 * 2**20), 9) * 75)
        assert path.stat().st_size < 6_000_000
        assert _judge(path)[:2] == ("other", ["too_large"])

    def test_bzip2(self, tmp_path):
        path = tmp_path / "bomb.fits.bz2"
        path.write_bytes(bz2.compress(self.HEAD) + bz2.compress(bytes(64 * 2**20)) * 75)
        assert path.stat().st_size < 100_000
        assert _judge(path)[:2] == ("other", ["too_large"])

    def test_compress(self, tmp_path):
        path = tmp_path / "bomb.fits.Z"
        packed = _lzw_of_zeros(3_000_000_000)
        assert len(packed) < 200_000
        path.write_bytes(packed)
        # zeros are no FITS file; what matters is that the tables stay small
        assert _judge(path)[:2] == ("other", ["not_fits"])

    def test_a_bomb_behind_the_last_unit_and_its_pixels(self, tmp_path, monkeypatch):
        monkeypatch.setattr("spica.files.source.FREE_BYTES", 2**25)
        path = tmp_path / "tail.fits.gz"
        path.write_bytes(gzip.compress(_header(("NAXIS", 0, ""))) + gzip.compress(bytes(64 * 2**20), 9))
        assert [p.code for p in verify_file(path).problems] == ["too_large"]
        path.write_bytes(gzip.compress(_header(*_axes(6000, 5000))) + gzip.compress(bytes(64 * 2**20), 9))
        with pytest.raises(DataError, match="unpack it yourself"):
            open_mef(path)

    def test_a_real_mask_of_zeros_is_no_bomb(self, tmp_path):
        path = tmp_path / "mask.fits.gz"
        fits.PrimaryHDU(np.zeros((5000, 20000), "u1")).writeto(path)
        assert path.stat().st_size * 500 < 10**8
        assert verify_file(path).ok


class TestSizes:
    """Headers that announce what no memory holds."""

    @pytest.mark.parametrize(
        ("raw", "code"),
        [
            (_header(*_axes(10**9, 10**9)), "too_many_pixels"),
            (_header(*_axes(*[2] * 999)), "too_many_pixels"),
            (_header(*_axes(*[1] * 998, 10**6)), "truncated"),
            (_header(*_axes(2**62, 4)), "too_many_pixels"),
            (_header(("NAXIS", 10**30, "")), "bad_keyword"),
            (_header(*_axes(-1, -1)), "bad_keyword"),
            (_header(("NAXIS", 2, ""), ("NAXIS1", 1.5, ""), ("NAXIS2", 2, "")), "bad_keyword"),
            (_header(("NAXIS", 2, ""), ("NAXIS1", "many", ""), ("NAXIS2", 2, "")), "bad_keyword"),
            (_header(("NAXIS", 2, ""), ("NAXIS1", True, ""), ("NAXIS2", 2, "")), "bad_keyword"),
            (_header(("NAXIS", -1, "")), "bad_keyword"),
            (_header(*_axes(10, 10), bitpix=17), "bad_keyword"),
            (_header(*_axes(10, 10), bitpix=-(10**40)), "bad_keyword"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_axes(self, tmp_path, raw, code):
        path = tmp_path / "axes.fits"
        path.write_bytes(raw + bytes(2880))
        report = verify_file(path)
        assert [p.code for p in report.problems] == [code]
        assert report.kind == "other"
        with pytest.raises(DataError, match="HDU 0"):
            open_mef(path)

    @pytest.mark.parametrize(("counts", "code"), [
        ((("PCOUNT", 10**12, ""), ("GCOUNT", 1, "")), "too_many_pixels"),
        ((("PCOUNT", 0, ""), ("GCOUNT", 10**15, "")), "too_many_pixels"),
        ((("PCOUNT", -3, ""), ("GCOUNT", 1, "")), "bad_keyword"),
        ((("PCOUNT", 0, ""), ("GCOUNT", "x", "")), "bad_keyword"),
    ])  # fmt: skip
    def test_pcount_and_gcount(self, tmp_path, counts, code):
        path = tmp_path / "counts.fits"
        path.write_bytes(_header(("NAXIS", 0, "")) + _header(*_axes(10, 10), *counts, primary=False) + bytes(2880))
        assert [p.code for p in verify_file(path).problems] == [code]

    def test_digits_without_end(self, tmp_path):
        path = tmp_path / "digits.fits"
        raw = _header(("NAXIS", 1, ""), ("NAXIS1", 7, ""))
        for value in ("9" * 70, "1E400", "1E30", "1.0D308", "NaN", "'", "T" * 70):
            card = f"NAXIS1  = {value}".ljust(80).encode()
            path.write_bytes(raw[:240] + card + raw[320:] + bytes(2880))
            (problem,) = verify_file(path).problems
            assert problem.code in {"bad_keyword", "too_many_pixels"}
            assert len(problem.text) < 300


def _write_tiles(path, claims, compression="RICE_1"):
    """Write a tile-compressed image of 64 x 64, then change its cards where they stand."""
    data = np.arange(4096, dtype="i4").reshape(64, 64)
    packed = fits.CompImageHDU(data, compression_type=compression, tile_shape=(16, 64))
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path, overwrite=True)
    raw = bytearray(path.read_bytes())
    for keyword, value in claims.items():
        at = raw.find(f"{keyword:8}= ".encode(), 2880)
        text = f"'{value}'" if isinstance(value, str) else f"{value:>20}"
        raw[at : at + 80] = f"{keyword:8}= {text}".ljust(80).encode()
    path.write_bytes(raw)


class TestTiles:
    """Tile-compressed tables that lie."""

    @pytest.mark.parametrize(
        "claims",
        [
            {"ZNAXIS1": 60000, "ZNAXIS2": 60000},
            {"ZNAXIS1": 60000, "ZNAXIS2": 60000, "ZTILE1": 60000, "ZTILE2": 15000},
            {"ZNAXIS1": 10000, "ZNAXIS2": 40000, "ZTILE1": 10000, "ZTILE2": 10000},
            {"ZTILE1": 2_000_000_000, "ZTILE2": 2},
            {"ZTILE1": 0},
            {"ZTILE2": -5},
            {"ZTILE1": "wide"},
            {"ZBITPIX": 99},
            {"ZCMPTYPE": "BOMB"},
            {"ZCMPTYPE": "PLIO_1"},
            {"ZCMPTYPE": "HCOMPRESS_1"},
            {"ZCMPTYPE": "GZIP_1"},
            {"ZVAL1": 0},
            {"ZVAL2": 1000},
            {"ZNAXIS": 3},
            {"TTYPE1": "NOTHING"},
        ],
        ids=str,
    )
    def test_lying_headers(self, tmp_path, claims):
        path = tmp_path / "lie.fits"
        _write_tiles(path, claims)
        kind, codes, read = _judge(path, pixels=True)
        assert codes or read, kind
        assert kind in {"image", "other"}
        assert "\n" not in read

    @pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
    def test_lying_descriptors(self, tmp_path, compression):
        rng = np.random.default_rng(4)
        path = tmp_path / "descriptors.fits"
        _write_tiles(path, {}, compression)
        with open_mef(path) as mef:
            place = mef._scans[1].data_offset
            size = mef._scans[1].data_bytes
        raw = path.read_bytes()
        refused = 0
        for length, start in ((2**31 - 1, 0), (-1, 0), (4, 2**31 - 1), (0, -5), (10**6, 10**6)):
            path.write_bytes(raw[:place] + struct.pack(">ii", length, start) + raw[place + 8 :])
            refused += _pixels_refused(path)
        assert refused >= 3
        for _ in range(60):
            spoiled = bytearray(raw)
            for at in rng.integers(place, place + size, 6):
                spoiled[at] = int(rng.integers(256))
            path.write_bytes(spoiled)
            _pixels_refused(path)

    @pytest.mark.parametrize("compression", ["GZIP_1", "GZIP_2"])
    def test_a_gzip_bomb_in_a_tile(self, tmp_path, compression):
        path = tmp_path / "tile_bomb.fits"
        data = np.random.default_rng(5).integers(0, 2**31, (1024, 1024), "i4")
        packed = fits.CompImageHDU(data, compression_type=compression, tile_shape=(1024, 1024))
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
        with open_mef(path) as mef:
            np.testing.assert_array_equal(mef.read_pixels(1, dtype=np.int32), data)
            place = mef._scans[1].data_offset
        raw = bytearray(path.read_bytes())
        length, start = struct.unpack(">ii", raw[place : place + 8])
        bomb = gzip.compress(bytes(2**30), 9)
        assert 10**6 < len(bomb) < length
        raw[place + 8 + start : place + 8 + start + len(bomb)] = bomb
        raw[place : place + 4] = struct.pack(">i", len(bomb))
        path.write_bytes(raw)
        kind, codes, read = _judge(path, pixels=True)
        assert (kind, codes) == ("image", [])
        assert "unpacks to more than its pixels" in read


def _pixels_refused(path):
    said = ""
    try:
        with open_mef(path) as mef:
            mef.read_pixels(1)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    return bool(said)


class TestHeaders:
    """Headers that never end, or hold what no card holds."""

    def test_continue_without_end(self, tmp_path):
        path = tmp_path / "continue.fits"
        raw = _header(("NAXIS", 0, ""))[: 3 * 80]
        card = b"LONG    = 'a&'".ljust(80)
        more = b"CONTINUE  'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb&'".ljust(80)
        path.write_bytes(raw + card + more * 2_000_000)
        assert _judge(path)[1] == ["header_too_large"]

    def test_continue_that_ends(self, tmp_path):
        path = tmp_path / "continue.fits"
        raw = _header(("NAXIS", 0, ""))[: 3 * 80] + b"LONG    = 'a&'".ljust(80)
        more = b"CONTINUE  'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb&'".ljust(80)
        whole = raw + more * 300_000 + b"END".ljust(80)
        path.write_bytes(whole + b" " * (-len(whole) % 2880))
        assert _judge(path)[:2] == ("other", [])

    def test_a_million_cards(self, tmp_path):
        path = tmp_path / "cards.fits"
        raw = _header(("NAXIS", 0, ""))[: 3 * 80]
        path.write_bytes(raw + b"".join(b"K%07d=                    1".ljust(84)[:80] % i for i in range(1_000_000)))
        assert _judge(path)[1] == ["header_too_large"]

    def test_no_end(self, tmp_path):
        path = tmp_path / "no_end.fits"
        path.write_bytes(_header(("NAXIS", 0, ""))[: 3 * 80] + b" " * 30_000_000)
        assert _judge(path)[1] == ["no_end"]

    def test_units_without_number(self, tmp_path):
        path = tmp_path / "units.fits"
        path.write_bytes(_header(("NAXIS", 0, "")) + _header(("NAXIS", 0, ""), primary=False) * 100_000)
        assert _judge(path)[1] == ["too_many_hdus"]

    def test_odd_cards_are_kept_and_told(self, tmp_path):
        path = tmp_path / "odd.fits"
        odd = [
            b"HIERARCH",
            b"HIERARCH =",
            b"HIERARCH HIERARCH HIERARCH A B C D E F G H I J K L M N O P = 1 = 2 / 3 / 4",
            b"HIERARCH " + b"X" * 71,
            b"HIERARCH a'b\"c;rm -rf $(x) = '<script>alert(1)</script>'",
            b"NUL\0\0\0\0\0=\0\0\0\0\0\0\0",
            bytes(range(80)),
            bytes(range(176, 256)),
            b"= = = = =",
            b"CONTINUE  'out of nowhere&'",
            b"OBJECT  = 'unclosed",
            b"OBJECT  = ''''''''''''''''''''''''''''''''''''''''''''''''''''''''''''''''''",
            b"COMPLEX = (1,2,3,,)",
            b"EXPTIME = 1e999999",
        ]
        cards = _header(("NAXIS", 0, ""))[: 3 * 80] + b"".join(card.ljust(80)[:80] for card in odd) + b"END".ljust(80)
        path.write_bytes(cards + b" " * (-len(cards) % 2880))
        report = verify_file(path)
        assert report.ok
        assert [w.code for w in report.warnings] == ["odd_bytes"]
        assert report.headers[0].to_bytes()[: len(cards) - 80] == cards[:-80]


class TestNames:
    """What is no regular file, and names that are none."""

    def test_links_pipes_folders_and_devices(self, tmp_path):
        (tmp_path / "whole.fits").write_bytes(_header(("NAXIS", 0, "")))
        (tmp_path / "link.fits").symlink_to("whole.fits")
        assert verify_file(tmp_path / "link.fits").ok
        (tmp_path / "loop.fits").symlink_to("loop.fits")
        (tmp_path / "lost.fits").symlink_to("nowhere.fits")
        os.mkfifo(tmp_path / "pipe.fits")
        (tmp_path / "folder.fits").mkdir()
        (tmp_path / "device.fits").symlink_to("/dev/zero")
        for name in ("loop", "lost", "pipe", "folder", "device"):
            assert _judge(tmp_path / f"{name}.fits")[:2] == ("other", ["unreadable"]), name

    @pytest.mark.parametrize(
        "name",
        [
            "new\nline.fits",
            "quo'te\".fits",
            "\u03b1 \u2728.fits",
            "-rf.fits",
            "%s{0}.fits",
            "a" * 240 + ".fits",
            b"\xff.fits",
        ],
    )
    def test_names(self, tmp_path, name):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(_header(*_axes(10, 10)))
        (problem,) = verify_file(path).problems
        assert problem.code == "truncated"
        assert "\n" not in problem.text

    def test_a_name_beyond_all_length(self, tmp_path):
        for name in ("b" * 4096 + ".fits", "../" * 1300 + "x.fits", "a\0b.fits"):
            (problem,) = verify_file(tmp_path / name).problems
            assert problem.code == "unreadable"
            assert "\n" not in problem.text

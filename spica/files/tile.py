"""What the header of a tile-compressed image may say before its tiles are handed to code that trusts it."""

from __future__ import annotations

import math
import re
import struct
import zlib
from itertools import count
from typing import BinaryIO

import numpy as np

from spica.files.header import HeaderCards
from spica.files.scan import axes_of
from spica.files.source import StructureError

MAX_TILE_PIXELS = 2**27
_FREE_PIXELS, _MAX_PIXELS_A_BYTE = 2**24, 10_000
_ALGORITHMS = frozenset({"RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS"})
_SHORT_TILE = 400_000
_FORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])")
_WIDTHS = {"L": 1, "X": 1, "B": 1, "A": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_DESCRIPTOR = re.compile(r"[01]?[PQ]([A-Z])")
_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")


def check_tiles(header: HeaderCards, hdu: int) -> None:
    """Check that the tiles of a compressed image agree with its axes, its rows and its algorithm.

    The rules are those of the FITS standard 4.0, section 10.1; a tile may hold `MAX_TILE_PIXELS` at most, and an image
    of large tiles no more than 10,000 pixels for each byte of its heap.

    Raises
    ------
    StructureError
        Code `bad_tiles`: code that unpacks such tiles reads or writes beyond its memory, or takes all there is.
    """
    axes = axes_of(header, hdu, "Z")
    tile = tuple(_whole(header, f"ZTILE{i}", n if i == 1 else 1, hdu, 1) for i, n in enumerate(axes, 1))
    algorithm = str(header.get("ZCMPTYPE", "")).strip()
    if algorithm not in _ALGORITHMS:
        raise _bad(hdu, f"ZCMPTYPE is {algorithm[:20]!r}, no algorithm of the FITS standard")
    if header.get("ZBITPIX") not in {8, 16, 32, 64, -32, -64}:
        raise _bad(hdu, f"ZBITPIX is {str(header.get('ZBITPIX'))[:20]}, no type of pixels")
    if algorithm.startswith("RICE"):
        _check_rice(header, hdu)
    _check_column(header, algorithm, hdu)
    _check_counts(header, axes, tile, hdu)


def _check_counts(header: HeaderCards, axes: tuple[int, ...], tile: tuple[int, ...], hdu: int) -> None:
    n_tiles = math.prod(-(-n // t) for n, t in zip(axes, tile, strict=True)) if axes else 0
    if header.get("NAXIS2") != n_tiles:
        raise _bad(hdu, f"its axes make {n_tiles:,} tiles, the table has {str(header.get('NAXIS2'))[:20]}", n_tiles)
    pixels = math.prod(min(n, t) for n, t in zip(axes, tile, strict=True))
    if pixels > MAX_TILE_PIXELS:
        raise _bad(hdu, f"a tile holds {pixels:,} pixels, at most {MAX_TILE_PIXELS:,} can be unpacked", pixels)
    heap = _whole(header, "PCOUNT", 0, hdu, 0)
    if pixels > _FREE_PIXELS and pixels * n_tiles > _MAX_PIXELS_A_BYTE * heap:
        raise _bad(hdu, f"{pixels * n_tiles:,} pixels are announced for {heap:,} packed bytes", pixels * n_tiles)


def _check_rice(header: HeaderCards, hdu: int) -> None:
    settings = {"BLOCKSIZE": 32, "BYTEPIX": 4}
    for i in count(1):
        name = header.get(f"ZNAME{i}")
        if name is None:
            break
        if str(name).strip() in settings:
            settings[str(name).strip()] = _whole(header, f"ZVAL{i}", 0, hdu, 1)
    if settings["BYTEPIX"] not in {1, 2, 4} or settings["BLOCKSIZE"] not in {16, 32}:
        text = f"BYTEPIX is {settings['BYTEPIX']} and BLOCKSIZE {settings['BLOCKSIZE']}"
        raise _bad(hdu, f"{text}; Rice knows 1, 2, 4 and 16, 32")


def _check_column(header: HeaderCards, algorithm: str, hdu: int) -> None:
    n_fields = _whole(header, "TFIELDS", 0, hdu, 0)
    found = ""
    for i in range(1, min(n_fields, 999) + 1):
        name = str(header.get(f"TTYPE{i}", "")).strip().upper()
        if name not in _COLUMNS:
            continue
        form = _DESCRIPTOR.match(str(header.get(f"TFORM{i}", "")).strip().upper())
        if form is None:
            raise _bad(hdu, f"TFORM{i} of {name} points to no heap")
        found = form.group(1) if name == _COLUMNS[0] else found
    if not found:
        raise _bad(hdu, "it has no column COMPRESSED_DATA")
    if algorithm == "PLIO_1" and found != "I":
        raise _bad(hdu, f"PLIO_1 packs 16-bit words, the column holds {found}")


def check_packed_tiles(stream: BinaryIO, header: HeaderCards, data_offset: int, hdu: int) -> None:
    """Check that tiles lie in the heap and unpack to no more than their pixels; call `check_tiles` before.

    gzip packs 1032 times at most, so short tiles are harmless; only those of more than 400 kB are unpacked, piece by
    piece, to be measured.

    Raises
    ------
    StructureError
        Code `bad_tiles`.
    """
    n_rows, width = int(str(header["NAXIS2"])), int(str(header["NAXIS1"]))
    heap = _whole(header, "THEAP", n_rows * width, hdu, 0)
    end = n_rows * width + _whole(header, "PCOUNT", 0, hdu, 0)
    stream.seek(data_offset)
    rows = np.frombuffer(stream.read(n_rows * width), np.uint8).reshape(n_rows, width)
    for start, kind in _descriptors(header, hdu):
        size = 8 if kind == "P" else 16
        if start + size > width or rows.size == 0:
            continue
        pairs = np.ascontiguousarray(rows[:, start : start + size]).view(">i4" if kind == "P" else ">i8").astype("i8")
        if ((pairs < 0) | (pairs > end)).any() or (heap + pairs.sum(axis=1) > end).any():
            raise _bad(hdu, "a tile lies outside the table's heap")
        if str(header["ZCMPTYPE"]).strip() == "HCOMPRESS_1":
            _check_hcompress(stream, pairs, data_offset + heap, _pixels_of_tiles(header, hdu), hdu)
            continue
        for length, place in pairs[pairs[:, 0] > _SHORT_TILE]:
            stream.seek(data_offset + heap + int(place))
            _measure(stream.read(int(length)), header, hdu)


def _pixels_of_tiles(header: HeaderCards, hdu: int) -> np.ndarray:
    """Return the pixels of every tile, those at the upper edges smaller, the first axis running fastest."""
    pixels = np.ones(1, np.int64)
    for i, n in enumerate(axes_of(header, hdu, "Z"), 1):
        tile = _whole(header, f"ZTILE{i}", n if i == 1 else 1, hdu, 1)
        lengths = np.minimum(tile, n - np.arange(0, n, tile))
        pixels = np.multiply.outer(lengths, pixels).ravel()
    return pixels


def _check_hcompress(stream: BinaryIO, pairs: np.ndarray, heap: int, pixels: np.ndarray, hdu: int) -> None:
    """Check the head of each H-compressed tile: magic number, its own axes, bit planes.

    Unpackers write as many pixels as the head says (White 1992; 2 bytes DD 99, axes as two 32-bit words, scale, sum in
    64 bits, three numbers of bit planes).
    """
    for (length, place), n_pixels in zip(pairs, pixels, strict=True):
        if length == 0:
            continue
        stream.seek(heap + int(place))
        head = stream.read(min(25, int(length)))
        whole = len(head) == 25 and head[:2] == b"\xdd\x99" and max(head[22:25]) <= 32
        x, y = struct.unpack(">ii", head[2:10]) if whole else (0, 0)
        if x < 1 or y < 1 or x * y != n_pixels:
            raise _bad(hdu, "the head of an H-compressed tile is damaged")


def _descriptors(header: HeaderCards, hdu: int) -> list[tuple[int, str]]:
    """Return where in a row the descriptors of packed columns stand, and whether they are P or Q."""
    found, start = [], 0
    for i in range(1, _whole(header, "TFIELDS", 0, hdu, 0) + 1):
        form = _FORM.match(str(header.get(f"TFORM{i}", "")).strip().upper())
        if form is None:
            raise _bad(hdu, f"TFORM{i} is unreadable")
        repeat = int(form.group(1)[:9] or 1)
        if str(header.get(f"TTYPE{i}", "")).strip().upper() in _COLUMNS[:2] and form.group(2) in "PQ":
            found.append((start, form.group(2)))
        start += repeat * _WIDTHS[form.group(2)]
    return found


def _measure(packed: bytes, header: HeaderCards, hdu: int) -> None:
    """Unpack a gzip tile and throw it away; refuse what passes 8 bytes a pixel of the largest tile."""
    axes = axes_of(header, hdu, "Z")
    tile = (_whole(header, f"ZTILE{i}", n if i == 1 else 1, hdu, 1) for i, n in enumerate(axes, 1))
    left = 8 * math.prod(min(n, t) for n, t in zip(axes, tile, strict=True))
    unpacker = zlib.decompressobj(wbits=47)
    while packed and not unpacker.eof:
        try:
            part = unpacker.decompress(packed, 2**20)
        except zlib.error as trouble:
            raise _bad(hdu, f"a tile is damaged ({trouble})") from trouble
        left -= len(part)
        if left < 0:
            raise _bad(hdu, "a tile unpacks to more than its pixels")
        packed = unpacker.unconsumed_tail


def _whole(header: HeaderCards, keyword: str, default: int, hdu: int, low: int) -> int:
    value = header.get(keyword, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**62:
        raise _bad(hdu, f"{keyword} is {str(value)[:20]}, a whole number of at least {low} is needed")
    return value


def _bad(hdu: int, text: str, value: float | None = None) -> StructureError:
    return StructureError("bad_tiles", f"HDU {hdu}: {text}; pack the image again or fetch it again", value)

"""Write FITS header units: cards as they are, data in strips, DATASUM and CHECKSUM of the standard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from spica.files.checksum import atomic_path
from spica.files.header import BLOCK_LENGTH, CardValue, HeaderCards, format_card, make_cards
from spica.files.scan import ones_sum, padded

_STRIP_BYTES = 32 * 1024 * 1024
_FORBIDDEN = frozenset(range(0x3A, 0x41)) | frozenset(range(0x5B, 0x61))
STRUCTURAL = frozenset(
    {"SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "EXTEND", "GROUPS", "BZERO", "BSCALE", "BLANK"}
    | {"CHECKSUM", "DATASUM", "TFIELDS", "THEAP", "ZIMAGE", "ZSIMPLE", "ZEXTEND", "ZTENSION", "ZBITPIX", "ZNAXIS"}
    | {"ZPCOUNT", "ZGCOUNT", "ZCMPTYPE", "ZQUANTIZ", "ZDITHER0", "ZBLANK", "ZHECKSUM", "ZDATASUM", "ZMASKCMP", "END"}
    | {f"{stem}{i}" for stem in ("NAXIS", "ZNAXIS", "ZTILE", "ZNAME", "ZVAL") for i in range(1, 10)}
)
_TABLE_STEMS = ("TTYPE", "TFORM", "TUNIT", "TDISP", "TDIM", "TNULL", "TSCAL", "TZERO", "TBCOL")


@dataclass(frozen=True)
class HduToWrite:
    """One header unit: its mandatory cards, free cards, and a function that yields the data bytes anew each call."""

    structure: HeaderCards
    cards: HeaderCards
    data: Callable[[], Iterator[bytes]]


def free_cards(cards: HeaderCards) -> HeaderCards:
    """Drop the cards that describe structure, scaling, compression and checksums; they belong to the data written."""
    tables = {k for k in cards if k.startswith(_TABLE_STEMS) and k.lstrip("TYPEFORMUNIDSLBCZ").isdigit()}
    return cards.without(STRUCTURAL | tables)


def array_bytes(data: np.ndarray) -> Iterator[bytes]:
    """Yield the big-endian bytes of an array in strips of bounded size."""
    flat = data.reshape(-1) if data.flags.c_contiguous else np.ascontiguousarray(data).reshape(-1)
    step = max(1, _STRIP_BYTES // max(1, data.itemsize))
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        yield part.astype(part.dtype.newbyteorder(">"), copy=False).tobytes()


def encode_checksum(total: int) -> str:
    """Encode the complement of a 32-bit sum as 16 characters (FITS standard 4.0, appendix J.2)."""
    value = ~total & 0xFFFFFFFF
    text = bytearray(16)
    for i in range(4):
        byte = value >> (24 - 8 * i) & 0xFF
        digits = [byte // 4 + byte % 4 + 0x30] + [byte // 4 + 0x30] * 3
        while any(d in _FORBIDDEN for d in digits):
            for j in (0, 2):
                if digits[j] in _FORBIDDEN or digits[j + 1] in _FORBIDDEN:
                    digits[j] += 1
                    digits[j + 1] -= 1
        for j in range(4):
            text[4 * j + i] = digits[j]
    return (text[-1:] + text[:-1]).decode("ascii")


def _summed_header(hdu: HduToWrite) -> bytes:
    """Return the header with DATASUM and CHECKSUM; goes through the data once."""
    total, length = 0, 0
    carry = b""
    for part in hdu.data():
        length += len(part)
        whole = carry + part
        cut = len(whole) // 4 * 4
        total, carry = ones_sum(whole[:cut], total), whole[cut:]
    if carry:
        total = ones_sum(carry, total)
    common = (*hdu.structure.cards, *hdu.cards.cards, *format_card("DATASUM", str(total), "data unit checksum"))
    blank = HeaderCards((*common, *format_card("CHECKSUM", "0" * 16, "HDU checksum"))).to_bytes()
    text = encode_checksum(ones_sum(blank, total))
    return HeaderCards((*common, *format_card("CHECKSUM", text, "HDU checksum"))).to_bytes()


def _write_hdu(stream: BinaryIO, hdu: HduToWrite, checksum: bool) -> None:
    plain = HeaderCards((*hdu.structure.cards, *hdu.cards.cards))
    stream.write(_summed_header(hdu) if checksum else plain.to_bytes())
    length = 0
    for part in hdu.data():
        stream.write(part)
        length += len(part)
    stream.write(b"\0" * (padded(length) - length))


def write_hdus(path: str | os.PathLike[str], hdus: Iterable[HduToWrite], checksum: bool = True) -> None:
    """Write header units to a file that appears whole or not at all; units may be made one by one as they are written.

    A unit is let go before the next is asked for, so that a generator holds the pixels of one at a time.
    """
    with atomic_path(path) as temporary, temporary.open("wb", buffering=BLOCK_LENGTH * 64) as stream:
        for hdu in hdus:
            _write_hdu(stream, hdu, checksum)
            del hdu


def image_hdu(data: np.ndarray | None, cards: HeaderCards, primary: bool, extend: bool, name: str = "") -> HduToWrite:
    """Describe an image header unit; uint16, uint32 and int8 get BZERO, booleans become bytes, float16 is widened.

    Raises ValueError for other types (complex, object).
    """
    items: list[tuple[str, CardValue, str]] = []
    first = ("SIMPLE", True, "FITS standard") if primary else ("XTENSION", "IMAGE", "image extension")
    stored, zero = (np.zeros(0, np.uint8), 0) if data is None else _storable(data)
    axes = () if data is None else stored.shape[::-1]
    bitpix = stored.dtype.itemsize * 8 * (-1 if stored.dtype.kind == "f" else 1)
    items += [first, ("BITPIX", bitpix, "bits of a pixel"), ("NAXIS", len(axes), "number of axes")]
    items += [(f"NAXIS{i}", int(n), "") for i, n in enumerate(axes, 1)]
    if not primary:
        items += [("PCOUNT", 0, ""), ("GCOUNT", 1, "")]
    elif extend:
        items.append(("EXTEND", True, "extensions may follow"))
    if zero:
        items += [("BSCALE", 1, ""), ("BZERO", zero, "offset of unsigned integers")]
    kept = free_cards(cards)
    if name:
        items.append(("EXTNAME", name, ""))
        kept = kept.without(["EXTNAME"])
    return HduToWrite(make_cards(items), kept, lambda: array_bytes(stored))


def _storable(data: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the array in a type FITS stores, and its BZERO."""
    kind, size = data.dtype.kind, data.dtype.itemsize
    if kind == "b":
        return data.astype(np.uint8), 0
    if kind == "u" and size in {2, 4}:
        zero = 1 << (8 * size - 1)
        return (data.astype(np.int64) - zero).astype(f"i{size}"), zero
    if kind == "i" and size == 1:
        return (data.astype(np.int16) + 128).astype(np.uint8), -128
    if kind == "f" and size == 2:
        return data.astype(np.float32), 0
    if kind in "iuf" and size <= 8 and not (kind == "u" and size == 8):
        return data, 0
    raise ValueError(f"pixels of type {data.dtype} cannot be written to FITS; convert them to float32 or int32")

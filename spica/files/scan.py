"""Walk through the blocks of a FITS file without touching its pixels: bounded, plain or compressed, never in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spica.files.header import BLOCK_LENGTH, CARD_LENGTH, CardValue, HeaderCards
from spica.files.source import CHUNK_BYTES, ByteSource, FileLimits, StructureError

_BITPIX = frozenset({8, 16, 32, 64, -32, -64})


@dataclass(frozen=True)
class HduScan:
    """One header unit as found on disk: offsets and sizes in (unpacked) bytes.

    `data_sum` and `hdu_sum` are 32-bit ones'-complement sums, None where no sum was asked for or none is stated.
    """

    index: int
    header: HeaderCards
    header_offset: int
    data_offset: int
    data_bytes: int
    data_sum: int | None
    hdu_sum: int | None

    @property
    def end_offset(self) -> int:
        """First byte behind the padded data."""
        return self.data_offset + padded(self.data_bytes)


def padded(count: int) -> int:
    """Bytes of whole 2880-byte blocks that hold `count` bytes."""
    return -(-count // BLOCK_LENGTH) * BLOCK_LENGTH


def ones_sum(data: bytes, start: int = 0) -> int:
    """32-bit ones'-complement sum of big-endian words (FITS standard 4.0, appendix J), zero-padded."""
    data = data + b"\0" * (-len(data) % 4)
    total = start + int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _integer(header: HeaderCards, keyword: str, default: int | None, low: int, hdu: int) -> int:
    value: CardValue = header.get(keyword, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        shown = "missing" if value is None else repr(value)[:40]
        raise StructureError(
            "bad_keyword",
            f"HDU {hdu}: {keyword} is {shown}, a whole number of at least {low} is needed; repair the header",
            shown,
            low,
        )
    return value


def axes_of(header: HeaderCards, hdu: int = 0, prefix: str = "") -> tuple[int, ...]:
    """Lengths of the axes NAXIS1, NAXIS2... (prefix "Z": of the image inside a tile-compressed table)."""
    n_axes = _integer(header, f"{prefix}NAXIS", None, 0, hdu)
    if n_axes > 999:
        raise StructureError("bad_keyword", f"HDU {hdu}: NAXIS is {n_axes}, at most 999 are possible", n_axes, 999)
    return tuple(_integer(header, f"{prefix}NAXIS{i}", None, 0, hdu) for i in range(1, n_axes + 1))


def is_compressed_image(header: HeaderCards) -> bool:
    """Whether the header is that of a tile-compressed image."""
    return header.get("ZIMAGE") is True and str(header.get("XTENSION", "")).strip() == "BINTABLE"


def image_shape(header: HeaderCards) -> tuple[int, ...] | None:
    """Shape [..., y, x] of the image of this header unit, tile-compressed or not; None where it holds no image.

    Raises StructureError where the axes are no whole numbers.
    """
    if is_compressed_image(header):
        axes = axes_of(header, prefix="Z")
    elif header.get("SIMPLE") is not None or str(header.get("XTENSION", "")).strip() in {"IMAGE", "IUEIMAGE"}:
        axes = axes_of(header)
        if header.get("GROUPS") is True and axes[:1] == (0,):
            return None
    else:
        return None
    return axes[::-1] if len(axes) >= 2 and all(axes) else None


def _shown(number: int) -> str:
    return f"{number:,}" if number < 10**18 else "more than 10^18"


def data_size(header: HeaderCards, index: int, limits: FileLimits) -> int:
    """Bytes of data this header announces, without padding; StructureError where a keyword is bad or too large."""
    bitpix = _integer(header, "BITPIX", None, -64, index)
    if bitpix not in _BITPIX:
        raise StructureError("bad_keyword", f"HDU {index}: BITPIX is {bitpix}; use 8, 16, 32, 64, -32 or -64", bitpix)
    axes = axes_of(header, index)
    if not axes:
        return 0
    groups = header.get("GROUPS") is True and axes[0] == 0
    plain_primary = index == 0 and not groups
    n_values = 1
    for length in axes[1:] if groups else axes:
        n_values *= length
    pcount = 0 if plain_primary else _integer(header, "PCOUNT", 0, 0, index)
    gcount = 1 if plain_primary else _integer(header, "GCOUNT", 1, 0, index)
    n_values = gcount * (pcount + n_values)
    n_pixels = n_values
    if is_compressed_image(header):
        n_pixels = 1
        for length in axes_of(header, index, "Z"):
            n_pixels *= length
    n_pixels = max(n_values, n_pixels)
    if n_pixels > limits.max_pixels:
        raise StructureError(
            "too_many_pixels",
            f"HDU {index} announces {_shown(n_pixels)} pixels, the limit is {limits.max_pixels:,}; "
            "raise max_pixels if the file is genuine",
            n_pixels,
            limits.max_pixels,
        )
    return n_values * abs(bitpix) // 8


def _find_end(block: bytes) -> int:
    """Index of the END card in a block, -1 where there is none."""
    start = block.find(b"END")
    while start >= 0:
        if start % CARD_LENGTH == 0 and block[start : start + CARD_LENGTH].rstrip(b" \0\r\n") == b"END":
            return start // CARD_LENGTH
        start = block.find(b"END", start + 1)
    return -1


def _read_header(source: ByteSource, first: bytes, index: int, room: int) -> bytes:
    """Return the raw blocks of a header up to and with that of END."""
    blocks: list[bytes] = []
    block = first
    while True:
        ends = _find_end(block) >= 0
        if len(block) < BLOCK_LENGTH and not ends:
            raise StructureError(
                "no_end", f"HDU {index}: the file ends inside the header, END is missing; fetch the file again", index
            )
        blocks.append(block)
        if len(blocks) * BLOCK_LENGTH > room:
            raise StructureError(
                "header_too_large",
                f"HDU {index}: the headers fill more than the {room:,} bytes left for them; "
                "raise max_header_bytes if the file is genuine",
                len(blocks) * BLOCK_LENGTH,
                room,
            )
        if ends:
            break
        block = source.read(BLOCK_LENGTH)
    return b"".join(blocks)


def split_cards(raw: bytes) -> HeaderCards:
    """Cut raw header blocks into cards; END stands in the last block and is dropped with what follows it."""
    text = raw.decode("latin-1")
    last_block = (len(raw) - 1) // BLOCK_LENGTH * BLOCK_LENGTH
    end = last_block + _find_end(raw[last_block:]) * CARD_LENGTH
    return HeaderCards.from_text(text[:end])


def _pass_data(source: ByteSource, size: int, want_sum: bool, index: int) -> int | None:
    """Move behind the data and its padding; return its ones'-complement sum where wanted."""
    total: int | None = None
    if want_sum:
        total, left = 0, padded(size)
        while left > 0:
            part = source.read(min(left, CHUNK_BYTES))
            if not part:
                break
            total = ones_sum(part, total)
            left -= len(part)
        found = padded(size) - left
    else:
        found = source.skip(padded(size))
    if found < size:
        raise StructureError(
            "truncated",
            f"HDU {index} is cut short: {found:,} of {size:,} data bytes are there; fetch the file again",
            found,
            size,
        )
    if found < padded(size):
        raise PaddingError(index, padded(size) - found)
    return total


class PaddingError(StructureError):
    """The last block of the file is not padded; the data are whole."""

    def __init__(self, index: int, missing: int) -> None:
        """Keep how many bytes of padding are missing."""
        super().__init__(
            "no_padding",
            f"HDU {index}: {missing:,} bytes of padding are missing at the end of the file; the pixels are whole",
            missing,
        )


def scan_hdus(source: ByteSource, limits: FileLimits, sums: bool = False) -> Iterator[HduScan]:
    """Yield the header units in order; with `sums` those that state DATASUM or CHECKSUM are summed (reads all data).

    Raises StructureError at the first break; what was yielded before it is sound. Bytes behind the last unit that are
    no extension end the walk with StructureError "trailing_bytes".
    """
    index, header_bytes = 0, 0
    while True:
        offset = source.position
        block = source.read(BLOCK_LENGTH)
        if not block and index:
            return
        check_start(block, index)
        if index >= limits.max_hdus:
            raise StructureError(
                "too_many_hdus",
                f"the file has more than {limits.max_hdus} header units; raise max_hdus if it is genuine",
                index + 1,
                limits.max_hdus,
            )
        raw = _read_header(source, block, index, limits.max_header_bytes - header_bytes)
        header_bytes += len(raw)
        header = split_cards(raw)
        size = data_size(header, index, limits)
        data_offset = source.position
        wanted = sums and ("DATASUM" in header or "CHECKSUM" in header)
        late: PaddingError | None = None
        total: int | None = None
        try:
            total = _pass_data(source, size, wanted, index)
        except PaddingError as trouble:
            late = trouble
        whole = None if total is None else ones_sum(raw, total)
        yield HduScan(index, header, offset, data_offset, size, total, whole)
        if late is not None:
            raise late
        index += 1


def check_start(block: bytes, index: int) -> None:
    """Raise StructureError where a block does not begin a header unit."""
    if index == 0 and not (block.startswith(b"SIMPLE") and block[6:9].strip() == b"="):
        raise StructureError("not_fits", "the file does not begin with SIMPLE; it is no FITS file", None)
    if index and not block.startswith(b"XTENSION"):
        raise StructureError(
            "trailing_bytes",
            f"behind HDU {index - 1} follow bytes that are no extension; they are ignored",
            len(block),
        )


def read_headers(path: str | os.PathLike[str], limits: FileLimits | None = None) -> tuple[HeaderCards, ...]:
    """Return the cards of every header unit of a FITS file, plain or compressed.

    Raises DataError where the file is broken before its last header; missing padding and trailing bytes are no matter.
    """
    chosen = limits or FileLimits()
    headers: list[HeaderCards] = []
    with ByteSource(path, chosen.max_unpacked_bytes) as source:
        try:
            headers.extend(scan.header for scan in scan_hdus(source, chosen))
        except StructureError as trouble:
            if trouble.code not in {"no_padding", "trailing_bytes"}:
                raise
    return tuple(headers)

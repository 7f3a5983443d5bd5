"""FITS_LDAC catalogues: for each detector its header (LDAC_IMHEAD) and its sources (LDAC_OBJECTS)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spica.files.header import CARD_LENGTH, NO_CARDS, CardValue, HeaderCards, cards_from_text, make_cards
from spica.files.scan import HduScan, image_shape, scan_hdus
from spica.files.source import ByteSource, FileLimits, StructureError
from spica.files.unit import HduToWrite, free_cards, write_hdus
from spica.model.errors import DataError

_FORM = re.compile(r"(\d*)([A-Z])")
_CODES = {"L": "?", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16"}
_LETTERS = {"b1": "L", "u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D", "c8": "C", "c16": "M"}
_MAX_TABLE_BYTES = 8 * 1024**3


@dataclass(frozen=True)
class LdacColumn:
    """Name, unit, display format and comment of a column."""

    name: str
    unit: str = ""
    display: str = ""
    comment: str = ""


@dataclass(frozen=True)
class LdacCatalogue:
    """Sources of one detector.

    Parameters
    ----------
    header : HeaderCards
        Header of the image the sources were measured on; empty where the file has none.
    table : ndarray
        Structured array, native byte order.
    columns : tuple of LdacColumn
        In the order of the table's fields.
    name : str
        EXTNAME of the objects table.
    """

    header: HeaderCards
    table: np.ndarray
    columns: tuple[LdacColumn, ...] = ()
    name: str = "LDAC_OBJECTS"


def _imhead_hdu(header: HeaderCards) -> HduToWrite:
    """Return the one-row table whose only cell holds the header as 80-character cards, END among them."""
    cards = (*_plain_header(header).cards, "END".ljust(CARD_LENGTH))
    raw = "".join(cards).encode("ascii", "replace")
    structure: list[tuple[str, CardValue, str]] = [
        *_table_start(len(raw), 1, 1),
        ("TTYPE1", "Field Header Card", ""),
        ("TFORM1", f"{len(raw)}A", ""),
        ("TDIM1", f"({CARD_LENGTH}, {len(cards)})", ""),
        ("EXTNAME", "LDAC_IMHEAD", "header of the image"),
    ]
    return HduToWrite(make_cards(structure), NO_CARDS, lambda: iter((raw,)))


def _plain_header(header: HeaderCards) -> HeaderCards:
    """Return the header as that of a plain primary image: SCAMP wants SIMPLE, BITPIX and the axes of the pixels."""
    if header.cards and header.cards[0].startswith("SIMPLE"):
        return header
    shape = image_shape(header) or _stated_shape(header)
    axes: list[tuple[str, CardValue, str]] = [(f"NAXIS{i}", n, "") for i, n in enumerate(shape[::-1], 1)]
    bitpix = header.get("ZBITPIX", header.get("BITPIX", -32))
    start: list[tuple[str, CardValue, str]] = [("SIMPLE", True, ""), ("BITPIX", bitpix, ""), ("NAXIS", len(shape), "")]
    return HeaderCards((*make_cards([*start, *axes]).cards, *free_cards(header).cards))


def _stated_shape(header: HeaderCards) -> tuple[int, ...]:
    """Return (NAXIS2, NAXIS1) of a header that says nothing else of its unit; () where they are missing."""
    nx, ny = header.get("NAXIS1"), header.get("NAXIS2")
    return (ny, nx) if isinstance(nx, int) and isinstance(ny, int) and "XTENSION" not in header else ()


def _table_start(width: int, rows: int, fields: int) -> list[tuple[str, CardValue, str]]:
    return [
        ("XTENSION", "BINTABLE", "binary table"),
        ("BITPIX", 8, ""),
        ("NAXIS", 2, ""),
        ("NAXIS1", width, "bytes of a row"),
        ("NAXIS2", rows, "rows"),
        ("PCOUNT", 0, ""),
        ("GCOUNT", 1, ""),
        ("TFIELDS", fields, "columns"),
    ]


def table_hdu(table: np.ndarray, columns: Sequence[LdacColumn], name: str) -> HduToWrite:
    """Describe a structured array as a binary table; ValueError where a field's type has no FITS form."""
    specs = {column.name: column for column in columns}
    packed: list[tuple[str, str, tuple[int, ...]]] = []
    items: list[tuple[str, CardValue, str]] = []
    for i, field in enumerate(table.dtype.names or (), 1):
        kind = table.dtype[field]
        base, shape = kind.base, kind.shape
        spec = specs.get(field, LdacColumn(field))
        count = int(np.prod(shape, dtype=int)) if shape else 1
        items.append((f"TTYPE{i}", field, spec.comment))
        form, stored, zero = _column_form(field, base, count)
        items.append((f"TFORM{i}", form, ""))
        packed.append((field, stored, shape))
        axes = (int(stored[1:]), *shape[::-1]) if form.endswith("A") and shape else shape[::-1]
        if len(axes) > 1:
            items.append((f"TDIM{i}", "({})".format(",".join(str(n) for n in axes)), ""))
        if zero:
            items += [(f"TSCAL{i}", 1, ""), (f"TZERO{i}", zero, "offset of unsigned integers")]
        if spec.unit:
            items.append((f"TUNIT{i}", spec.unit, ""))
        if spec.display:
            items.append((f"TDISP{i}", spec.display, ""))
    dtype = np.dtype([(f"f{i}", stored, shape) for i, (_, stored, shape) in enumerate(packed)])
    start = _table_start(dtype.itemsize, len(table), len(packed))
    cards = make_cards([*start, *items, ("EXTNAME", name, "")])

    def data() -> Iterator[bytes]:
        step = max(1, 16 * 1024 * 1024 // max(1, dtype.itemsize))
        for first in range(0, len(table), step):
            part = table[first : first + step]
            out = np.zeros(len(part), dtype)
            for i, (field, stored, _) in enumerate(packed):
                values = part[field]
                if values.dtype.kind == "u" and values.dtype.itemsize > 1:
                    values = values.astype(np.int64) - (1 << (8 * values.dtype.itemsize - 1))
                elif values.dtype.kind == "U":
                    values = np.char.encode(values, "ascii", "replace")
                out[f"f{i}"] = np.where(values, b"T", b"F") if stored == "S1" and values.dtype.kind == "b" else values
            yield out.tobytes()

    return HduToWrite(cards, NO_CARDS, data)


def _column_form(field: str, base: np.dtype, count: int) -> tuple[str, str, int]:
    """Return TFORM, the big-endian type stored, and TZERO of a column."""
    size = base.itemsize
    if base.kind == "b":
        return f"{count}L", "S1", 0
    if base.kind in "SU":
        length = size // 4 if base.kind == "U" else size
        return f"{count * max(1, length)}A", f"S{max(1, length)}", 0
    if base.kind == "u" and size in {2, 4}:
        return f"{count}{_LETTERS[f'i{size}']}", f">i{size}", 1 << (8 * size - 1)
    letter = _LETTERS.get(f"{base.kind}{size}")
    if letter is None:
        raise ValueError(f"the column {field!r} of type {base} has no form in a FITS table; convert it")
    return f"{count}{letter}", f">{base.kind}{size}" if size > 1 else f"{base.kind}{size}", 0


def write_ldac(path: str | os.PathLike[str], catalogues: Sequence[LdacCatalogue], checksum: bool = False) -> None:
    """Write catalogues, one LDAC_IMHEAD and one LDAC_OBJECTS a detector as source-extractor does, atomically.

    A header that is not that of a plain primary image (extension, tile-compressed) is written as one; SCAMP refuses
    any other.
    """
    primary = make_cards([("SIMPLE", True, "FITS standard"), ("BITPIX", 8, ""), ("NAXIS", 0, ""), ("EXTEND", True, "")])
    hdus = [HduToWrite(primary, NO_CARDS, lambda: iter(()))]
    for catalogue in catalogues:
        hdus += [_imhead_hdu(catalogue.header), table_hdu(catalogue.table, catalogue.columns, catalogue.name)]
    write_hdus(path, hdus, checksum)


def _dtype_of(header: HeaderCards) -> tuple[np.dtype, tuple[LdacColumn, ...]]:
    """Return the big-endian row type and the columns; variable-length columns keep their descriptors out."""
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    columns: list[LdacColumn] = []
    count = header.get("TFIELDS")
    for i in range(1, (count if isinstance(count, int) else 0) + 1):
        name = str(header.get(f"TTYPE{i}") or f"COL{i}").strip() or f"COL{i}"
        if name in {field[0] for field in fields}:
            name = f"{name}_{i}"
        form = _FORM.match(str(header.get(f"TFORM{i}", "")).strip().upper())
        if form is None:
            raise DataError(f"the table's TFORM{i} is unreadable; make the catalogue again")
        repeat = int(form.group(1)) if form.group(1) else 1
        fields.append((name, *_field_type(form.group(2), repeat, str(header.get(f"TDIM{i}") or ""))))
        texts = (header.get(f"{stem}{i}") for stem in ("TUNIT", "TDISP"))
        unit, display = (text.strip() if isinstance(text, str) else "" for text in texts)
        columns.append(
            LdacColumn(name, unit, display, header.card(f"TTYPE{i}").comment if f"TTYPE{i}" in header else "")
        )
    return np.dtype(fields), tuple(columns)


def _field_type(letter: str, repeat: int, dim: str) -> tuple[str, tuple[int, ...]]:
    if letter == "A":
        sizes = [int(n) for n in re.findall(r"\d+", dim)]
        if len(sizes) > 1 and int(np.prod(sizes)) == repeat:
            return f"S{sizes[0]}", tuple(sizes[:0:-1])
        return f"S{repeat}", ()
    if letter == "X":
        return "u1", (-(-repeat // 8),)
    if letter in {"P", "Q"}:
        return (">i4" if letter == "P" else ">i8"), (2 * repeat,)
    if letter not in _CODES:
        raise DataError(f"a table column of type {letter} is unknown; make the catalogue again")
    sizes = [int(n) for n in re.findall(r"\d+", dim)]
    if len(sizes) > 1 and int(np.prod(sizes)) == repeat:
        return _CODES[letter], tuple(sizes[::-1])
    return _CODES[letter], () if repeat == 1 else (repeat,)


def _read_table(scan: HduScan, raw: bytes) -> tuple[np.ndarray, tuple[LdacColumn, ...]]:
    """Turn the bytes of a binary table into a native structured array, TSCAL and TZERO applied."""
    dtype, columns = _dtype_of(scan.header)
    rows, width = scan.header.get("NAXIS2"), scan.header.get("NAXIS1")
    if width != dtype.itemsize or not isinstance(rows, int):
        raise DataError(
            f"HDU {scan.index}: columns of {dtype.itemsize} bytes a row, NAXIS1 says {width}; make the catalogue again"
        )
    stored = np.frombuffer(raw, dtype, count=rows) if dtype.itemsize else np.zeros(rows, dtype)
    parts = {}
    for i, column in enumerate(columns, 1):
        values = stored[column.name]
        if dtype[column.name].base.kind == "b":
            values = stored[column.name].view("u1") == ord("T")
        scale, zero = scan.header.get(f"TSCAL{i}", 1), scan.header.get(f"TZERO{i}", 0)
        if isinstance(scale, int | float) and isinstance(zero, int | float) and (scale != 1 or zero != 0):
            exact = scale == 1 and isinstance(zero, int) and values.dtype.kind in "iu"
            values = values.astype(np.int64) + zero if exact else values.astype(float) * scale + zero
        parts[column.name] = values
    out = np.empty(rows, [(name, v.dtype.newbyteorder("="), v.shape[1:]) for name, v in parts.items()])
    for name, values in parts.items():
        out[name] = values
    return out, columns


def _imhead_cards(table: np.ndarray) -> HeaderCards:
    """Return the header in the only cell of an LDAC_IMHEAD table."""
    if not len(table) or not table.dtype.names:
        return NO_CARDS
    cell = table[0][table.dtype.names[0]]
    raw = cell if isinstance(cell, bytes) else b"".join(card.ljust(CARD_LENGTH) for card in np.atleast_1d(cell).ravel())
    return cards_from_text(raw.decode("latin-1").replace("\0", " ").replace("\n", " "))


def read_tables(
    path: str | os.PathLike[str], limits: FileLimits | None = None
) -> Iterator[tuple[HeaderCards, np.ndarray, tuple[LdacColumn, ...]]]:
    """Yield header, structured array and columns of every binary table of a file, plain or gzip.

    Variable-length columns give their descriptors, not their content. Raises DataError where a table is broken or
    larger than the memory set aside for it (8 GiB).
    """
    chosen = limits or FileLimits()
    with ByteSource(path, chosen.max_unpacked_bytes) as walker, ByteSource(path, chosen.max_unpacked_bytes) as reader:
        try:
            for scan in scan_hdus(walker, chosen):
                if str(scan.header.get("XTENSION", "")).strip() != "BINTABLE":
                    continue
                if scan.data_bytes > _MAX_TABLE_BYTES:
                    raise DataError(f"HDU {scan.index}: a table of {scan.data_bytes:,} bytes is too large; split it")
                reader.skip(scan.data_offset - reader.position)
                table, columns = _read_table(scan, reader.read(scan.data_bytes))
                yield scan.header, table, columns
        except StructureError as trouble:
            if trouble.code not in {"no_padding", "trailing_bytes"}:
                raise


def read_ldac(path: str | os.PathLike[str], limits: FileLimits | None = None) -> tuple[LdacCatalogue, ...]:
    """Read every catalogue of a FITS_LDAC file, of source-extractor or of this house; a plain FITS table counts as one.

    A file without LDAC_IMHEAD may hold the image's header in its primary unit, as pipelines write it: then all its
    catalogues have that, without the cards that describe the unit itself.

    Raises DataError where the file holds no table or a broken one.
    """
    found: list[LdacCatalogue] = []
    header, has_imhead = NO_CARDS, False
    for cards, table, columns in read_tables(path, limits):
        name = str(cards.get("EXTNAME") or "").strip()
        if name.upper() == "LDAC_IMHEAD":
            header, has_imhead = _imhead_cards(table), True
            continue
        found.append(LdacCatalogue(header, table, columns, name))
        header = NO_CARDS
    if not found:
        raise DataError(f"{path} holds no catalogue; give a FITS_LDAC file")
    if not has_imhead:
        primary = _primary_facts(path, limits or FileLimits())
        found = [replace(catalogue, header=primary) for catalogue in found]
    return tuple(found)


def _primary_facts(path: str | os.PathLike[str], limits: FileLimits) -> HeaderCards:
    """Return what the primary header says beyond the form of its own unit."""
    with ByteSource(path, limits.max_unpacked_bytes) as source:
        first = next(iter(scan_hdus(source, limits)))
        return free_cards(first.header)

"""Judge the structure of a file before its pixels are touched."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spica.files.header import BLOCK_LENGTH, CARD_LENGTH, HeaderCards
from spica.files.scan import HduScan, image_shape, is_compressed_image, padded, scan_hdus
from spica.files.source import CHUNK_BYTES, ByteSource, FileLimits, StructureError
from spica.files.tile import check_tiles
from spica.model.errors import DataError

__all__ = ["CHECKSUM_CODES", "FileLimits", "FileReport", "HduSummary", "Problem", "SumRule", "verify_file"]

FileKind = Literal["image", "table", "text", "other"]
HduKind = Literal["image", "table", "empty", "other"]

_FITS_NAME = re.compile(r"\.(fits?|fts)(\.(gz|fz|bz2|z))?$", re.IGNORECASE)
_TEXT_BYTES = frozenset({7, 8, 9, 10, 12, 13, 27} | set(range(0x20, 0x100)) - {0x7F})
_CARD = re.compile(rb"[A-Z][A-Z0-9_-]{0,7} *= ")
_EXTENSION_CARD = re.compile(rb"XTENSION= *'|BITPIX  = +-?\d|NAXIS   = +\d")
_FILL = b"\0 \x1a"
CHECKSUM_CODES = frozenset({"bad_datasum", "bad_checksum"})


@dataclass(frozen=True)
class Problem:
    """One finding: a code, a line with cause and cure, the value found and the limit it breaks (None: no number)."""

    code: str
    text: str
    value: float | str | None = None
    limit: float | None = None


@dataclass(frozen=True)
class HduSummary:
    """One header unit: its kind, name (EXTNAME), shape [..., y, x] of an image, whether tile-compressed, data bytes."""

    index: int
    kind: HduKind
    name: str
    shape: tuple[int, ...] | None
    compressed: bool
    data_bytes: int


@dataclass(frozen=True)
class FileReport:
    """What `verify_file` found.

    `problems` make a file unusable, `warnings` do not. A file of kind text, table or other without problems holds no
    image and is passed over; `compression` is "", "gzip", "bzip2" or "compress"; `headers` are those read before the
    first problem; `what` says in words what the file is ("a table", "plain text"...).
    """

    kind: FileKind
    hdus: tuple[HduSummary, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    compression: str
    size_bytes: int
    headers: tuple[HeaderCards, ...]
    what: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing forbids using the file."""
        return not self.problems


SumRule = Literal["require", "warn", "ignore"]


def verify_file(
    path: str | os.PathLike[str], limits: FileLimits | None = None, sums: SumRule = "require"
) -> FileReport:
    """Check that a file is whole, honest FITS of bearable size; pixels are summed at most, never unpacked into memory.

    Parameters
    ----------
    path : path
        Any file. Plain, gzip, bzip2 and .Z are read through; .fz is FITS itself.
    limits : FileLimits
        What the file may claim.
    sums : {"require", "warn", "ignore"}
        What a stated DATASUM or CHECKSUM that does not match is: a problem, a warning, or not looked at (the first two
        read the data of the units that state one).

    Returns
    -------
    FileReport
        Always, whatever the file holds. A file that neither is FITS nor claims it by its name has kind text or other
        and no problem, nor has a bare header under another name; one whose name claims FITS has the problem `empty`,
        `lfs_pointer`, `html`, `text_dump` or `not_fits`. The other codes: `unreadable damaged_compression too_large
        bad_keyword too_many_pixels header_too_large no_end truncated too_many_hdus bad_datasum bad_checksum bad_table
        bad_tiles damaged_extension data_overflow`; as warnings `no_padding trailing_bytes stray_data odd_bytes`.
    """
    chosen = limits or FileLimits()
    path = Path(path)
    try:
        with ByteSource(path, chosen.max_unpacked_bytes) as source:
            if source.size == 0:
                empty = Problem("empty", "the file is empty; fetch it again", 0)
                return _report("other", _claim(path, empty), source, "an empty file")
            foreign = _sniff(path, chosen)
            if foreign is not None:
                kind, what, problem = foreign
                return _report(kind, _claim(path, problem), source, what)
            report = _walk(source, chosen, sums)
            return report if _claims_fits(path) else _forgive_bare_header(report, source)
    except StructureError as trouble:
        return FileReport("other", (), (_problem(trouble),), (), "", 0, (), "a damaged file")
    except DataError as trouble:
        return FileReport("other", (), (Problem("unreadable", str(trouble)),), (), "", 0, (), "an unreadable file")


def _problem(trouble: StructureError) -> Problem:
    return Problem(trouble.code, trouble.text, trouble.value, trouble.limit)


def _claims_fits(path: Path) -> bool:
    return _FITS_NAME.search(path.name) is not None


def _claim(path: Path, problem: Problem) -> tuple[Problem, ...]:
    """Keep the problem only where the name claims a FITS file."""
    return (problem,) if _claims_fits(path) else ()


def _report(kind: FileKind, problems: tuple[Problem, ...], source: ByteSource, what: str) -> FileReport:
    return FileReport(kind, (), problems, (), source.compression, source.size, (), what)


def _sniff(path: Path, limits: FileLimits) -> tuple[FileKind, str, Problem] | None:
    """Look at the first block; return kind, words and problem of what is not FITS, None for FITS."""
    with ByteSource(path, limits.max_unpacked_bytes) as source:
        head = source.read(BLOCK_LENGTH)
    is_text = bool(head) and all(byte in _TEXT_BYTES for byte in head)
    if head.startswith(b"version https://git-lfs"):
        pointer = Problem("lfs_pointer", "the file is a Git LFS pointer, not the data; run 'git lfs pull'")
        return "text", "a Git LFS pointer", pointer
    dump = Problem("text_dump", "the file is a header printed as text lines; fetch the FITS file itself")
    if head.startswith(b"SIMPLE") and head[6:9].strip() == b"=":
        line = head.find(b"\n")
        return ("text", _HEADER_TEXT, dump) if is_text and 0 <= line <= CARD_LENGTH else None
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        page = Problem("html", "the file is a web page, probably an error of the archive; fetch it again")
        return "text", "a web page", page
    if is_text and _CARD.match(head):
        return "text", _HEADER_TEXT, dump
    if is_text:
        return "text", "plain text", Problem("not_fits", "the file is plain text, not FITS; give a FITS file")
    other = Problem("not_fits", "the file does not begin with SIMPLE, it is no FITS file; give a FITS file")
    return "other", "no FITS file", other


_HEADER_TEXT = "a FITS header as text, without pixels"


def _forgive_bare_header(report: FileReport, source: ByteSource) -> FileReport:
    """Turn a primary header that ends with the file, under a name that is not that of a FITS file, into a text."""
    codes = {problem.code for problem in report.problems}
    bare = not report.hdus and codes in ({"truncated"}, {"no_end"}) and not report.problems[0].value
    if not bare or source.position > _MAX_BARE_HEADER:
        return report
    with ByteSource(source.path, _MAX_BARE_HEADER) as again:
        is_text = all(byte in _TEXT_BYTES for byte in again.read(_MAX_BARE_HEADER))
    return _report("text", (), source, _HEADER_TEXT) if is_text else report


_MAX_BARE_HEADER = 1000 * BLOCK_LENGTH


def _walk(source: ByteSource, limits: FileLimits, sums: SumRule) -> FileReport:
    """Scan all header units of a FITS file and collect what is wrong."""
    scans: list[HduScan] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    try:
        for scan in scan_hdus(source, limits, sums != "ignore"):
            scans.append(scan)
            (warnings if sums == "warn" else problems).extend(_judge_sums(scan))
            problems.extend(_judge_table(scan))
    except StructureError as trouble:
        if trouble.code == "trailing_bytes":
            tail = _judge_tail(source, scans[-1], limits)
            (problems if tail.code in {"damaged_extension", "data_overflow"} else warnings).append(tail)
        else:
            (warnings if trouble.code == "no_padding" else problems).append(_problem(trouble))
    summaries: list[HduSummary] = []
    for scan in scans:
        warnings.extend(_judge_bytes(scan))
        try:
            summaries.append(_summarise(scan))
        except StructureError as trouble:
            problems.append(_problem(trouble))
    kinds = {summary.kind for summary in summaries}
    kind: FileKind = "image" if "image" in kinds else "table" if "table" in kinds else "other"
    headers = tuple(scan.header for scan in scans)
    what = _words(kind, headers, bool(problems))
    return FileReport(
        kind, tuple(summaries), tuple(problems), tuple(warnings), source.compression, source.size, headers, what
    )


_POSITIONS = (
    {"ra", "dec"},
    {"alpha_j2000", "delta_j2000"},
    {"coord_ra", "coord_dec"},
    {"x_image", "y_image"},
    {"x", "y", "flux"},
)


def _table_words(headers: tuple[HeaderCards, ...]) -> str:
    """Say what the tables of a file are, by the names of units and columns that their writers use."""
    names = {str(header.get("EXTNAME") or "").strip().upper() for header in headers}
    columns = {str(value).strip().lower() for header in headers for value in _column_names(header)}
    if "PSF_DATA" in names or "polnaxis" in columns:
        return "a PSF model of PSFEx"
    if any(column.startswith("kdtree_") for column in columns):
        return "a search tree over a catalogue"
    if any(name.startswith("LDAC_") for name in names):
        return "an LDAC catalogue of sources"
    if any(pair <= columns for pair in _POSITIONS):
        return "a catalogue of sources"
    return "a FITS table"


def _column_names(header: HeaderCards) -> list[str]:
    n_fields = header.get("TFIELDS")
    count = min(n_fields, 999) if isinstance(n_fields, int) else 0
    return [name for i in range(1, count + 1) if isinstance(name := header.get(f"TTYPE{i}"), str)]


def _words(kind: FileKind, headers: tuple[HeaderCards, ...], broken: bool) -> str:
    """Say what a FITS file is."""
    if kind == "table":
        return _table_words(headers)
    if kind == "image":
        return "a FITS image"
    if any(header.get("GROUPS") is True and header.get("NAXIS1") == 0 for header in headers):
        return "a FITS file of random groups"
    if any(is_compressed_image(header) or header.get("NAXIS") == 1 for header in headers):
        return "a FITS file of one-dimensional data"
    return "a damaged FITS file" if broken else "a FITS header without data"


def _judge_tail(source: ByteSource, last: HduScan, limits: FileLimits) -> Problem:
    """Judge the bytes behind the last unit: fill, stray data, or what is left of units that do not begin where due."""
    announced = last.data_offset + last.data_bytes
    with ByteSource(source.path, limits.max_unpacked_bytes) as again:
        again.skip(announced)
        gap = again.read(padded(last.data_bytes) - last.data_bytes)
        count, is_fill, end, has_cards = 0, True, b"", False
        while part := again.read(CHUNK_BYTES):
            count += len(part)
            is_fill = is_fill and not part.strip(_FILL)
            has_cards = has_cards or _EXTENSION_CARD.search(end + part) is not None
            end = part[-CARD_LENGTH:]
    follow = f"behind HDU {last.index} follow {count:,} bytes"
    if has_cards:
        text = f"{follow} that hold an extension out of place or with a damaged start; fetch the file again"
        return Problem("damaged_extension", text, count)
    if is_fill:
        return Problem("trailing_bytes", f"{follow} of fill that are no extension; they are ignored", count)
    if gap.strip(_FILL):
        text = f"the data of HDU {last.index} run on beyond the {last.data_bytes:,} bytes that its header announces"
        return Problem("data_overflow", f"{text}; correct its axes or fetch the file again", count, last.data_bytes)
    text = f"{follow} of stray data that are no extension; they are ignored, compare the file with its source"
    return Problem("stray_data", text, count)


def _summarise(scan: HduScan) -> HduSummary:
    header = scan.header
    shape = image_shape(header)
    if is_compressed_image(header):
        check_tiles(header, scan.index)
    extension = str(header.get("XTENSION") or "").strip()
    kind: HduKind = "other"
    if shape is not None:
        kind = "image"
    elif extension in {"BINTABLE", "TABLE", "A3DTABLE"} and not is_compressed_image(header):
        kind = "table"
    elif scan.data_bytes == 0:
        kind = "empty"
    name = header.get("EXTNAME")
    return HduSummary(
        scan.index,
        kind,
        name.strip() if isinstance(name, str) else "",
        shape,
        is_compressed_image(header),
        scan.data_bytes,
    )


def _judge_sums(scan: HduScan) -> list[Problem]:
    """Compare stated with computed DATASUM (of repeated cards any may fit) and CHECKSUM; blank or zero says nothing."""
    found: list[Problem] = []
    stated = [] if scan.data_sum is None else _stated_sums(scan.header, scan.data_sum)
    if stated and scan.data_sum not in stated:
        found.append(
            Problem(
                "bad_datasum",
                f"HDU {scan.index}: the data do not match DATASUM (stated {stated[-1]}, found {scan.data_sum}); "
                "fetch the file again",
                scan.data_sum,
                float(stated[-1]),
            )
        )
    whole = scan.header.get("CHECKSUM")
    checked = isinstance(whole, str) and whole.strip("0 ") != ""
    if checked and not found and scan.hdu_sum is not None and scan.hdu_sum not in {0, 0xFFFFFFFF}:
        found.append(
            Problem(
                "bad_checksum",
                f"HDU {scan.index}: header and data do not match CHECKSUM; fetch the file again",
                scan.hdu_sum,
                float(0xFFFFFFFF),
            )
        )
    return found


def _stated_sums(header: HeaderCards, found: int) -> list[int]:
    """Return what DATASUM states; only where the first card does not fit are its repetitions looked for."""
    first = str(header.get("DATASUM", "")).strip()
    if first == str(found):
        return [found]
    texts = [str(value).strip() for value in header.all_values("DATASUM")] if "DATASUM" in header else []
    return [int(text) for text in texts if _SUM.fullmatch(text)]


_SUM = re.compile(r"[0-9]{1,10}")
_FORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])")
_WIDTHS = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}


def row_width(header: HeaderCards) -> int | None:
    """Bytes of one row by the TFORMn of a binary table; None where a TFORM is missing or unreadable."""
    n_fields = header.get("TFIELDS")
    if not isinstance(n_fields, int) or not 0 <= n_fields <= 999:
        return None
    width = 0
    for i in range(1, n_fields + 1):
        form = _FORM.match(str(header.get(f"TFORM{i}", "")).strip().upper())
        if form is None:
            return None
        repeat = int(form.group(1)[:12]) if form.group(1) else 1
        width += -(-repeat // 8) if form.group(2) == "X" else repeat * _WIDTHS[form.group(2)]
    return width


def _judge_table(scan: HduScan) -> list[Problem]:
    """Check that the columns of a binary table fill its rows."""
    if str(scan.header.get("XTENSION", "")).strip() != "BINTABLE":
        return []
    width, stated = row_width(scan.header), scan.header.get("NAXIS1")
    if width is None:
        return [Problem("bad_table", f"HDU {scan.index}: TFIELDS or a TFORM of the table is unreadable; make it again")]
    if width != stated:
        text = f"HDU {scan.index}: the table's columns fill {width} bytes a row, NAXIS1 says {stated}; make it again"
        return [Problem("bad_table", text, width, float(stated) if isinstance(stated, int) else None)]
    return []


def _judge_bytes(scan: HduScan) -> list[Problem]:
    """Warn of header characters outside printable ASCII."""
    odd = sum(not card.isascii() or not card.isprintable() for card in scan.header.cards)
    if not odd:
        return []
    text = f"HDU {scan.index}: {odd} cards hold characters outside printable ASCII; they are kept as they are"
    return [Problem("odd_bytes", text, odd)]

"""Judge the structure of a file before its pixels are touched."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spica.files.header import BLOCK_LENGTH, CARD_LENGTH, HeaderCards
from spica.files.scan import (
    ByteSource,
    FileLimits,
    HduScan,
    StructureError,
    image_shape,
    is_compressed_image,
    scan_hdus,
)
from spica.model.errors import DataError

__all__ = ["FileLimits", "FileReport", "HduSummary", "Problem", "verify_file"]

FileKind = Literal["image", "table", "text", "other"]
HduKind = Literal["image", "table", "empty", "other"]

_FITS_NAME = re.compile(r"\.(fits?|fts)(\.(gz|fz|bz2|z))?$", re.IGNORECASE)
_TEXT_BYTES = frozenset({7, 8, 9, 10, 12, 13, 27} | set(range(0x20, 0x100)) - {0x7F})
_HARMLESS = frozenset({"no_padding", "trailing_bytes"})


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
    first problem.
    """

    kind: FileKind
    hdus: tuple[HduSummary, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    compression: str
    size_bytes: int
    headers: tuple[HeaderCards, ...]

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
        and no problem; one whose name claims FITS has the problem `empty`, `lfs_pointer`, `html`, `text_dump` or
        `not_fits`. The other codes: `unreadable damaged_compression too_large bad_keyword too_many_pixels
        header_too_large no_end truncated too_many_hdus bad_datasum bad_checksum bad_table`; as warnings `no_padding
        trailing_bytes odd_bytes`.
    """
    chosen = limits or FileLimits()
    path = Path(path)
    try:
        with ByteSource(path, chosen.max_unpacked_bytes) as source:
            if source.size == 0:
                return _report("other", _claim(path, Problem("empty", "the file is empty; fetch it again", 0)), source)
            foreign = _sniff(path, chosen)
            if foreign is not None:
                kind, problem = foreign
                return _report(kind, _claim(path, problem), source)
            return _walk(source, chosen, sums)
    except StructureError as trouble:
        return FileReport("other", (), (_problem(trouble),), (), "", 0, ())
    except DataError as trouble:
        return FileReport("other", (), (Problem("unreadable", str(trouble)),), (), "", 0, ())


def _problem(trouble: StructureError) -> Problem:
    return Problem(trouble.code, trouble.text, trouble.value, trouble.limit)


def _claim(path: Path, problem: Problem) -> tuple[Problem, ...]:
    """Keep the problem only where the name claims a FITS file, or where the file is empty."""
    return (problem,) if _FITS_NAME.search(path.name) else ()


def _report(kind: FileKind, problems: tuple[Problem, ...], source: ByteSource) -> FileReport:
    return FileReport(kind, (), problems, (), source.compression, source.size, ())


def _sniff(path: Path, limits: FileLimits) -> tuple[FileKind, Problem] | None:
    """Look at the first block; return kind and problem of what is not FITS, None for FITS."""
    with ByteSource(path, limits.max_unpacked_bytes) as source:
        head = source.read(BLOCK_LENGTH)
    is_text = bool(head) and all(byte in _TEXT_BYTES for byte in head)
    if head.startswith(b"version https://git-lfs"):
        return "text", Problem("lfs_pointer", "the file is a Git LFS pointer, not the data; run 'git lfs pull'")
    if head.startswith(b"SIMPLE") and head[6:9].strip() == b"=":
        line = head.find(b"\n")
        if is_text and 0 <= line <= CARD_LENGTH:
            return "text", Problem(
                "text_dump", "the file is a header printed as text lines; fetch the FITS file itself"
            )
        return None
    start = head.lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "text", Problem("html", "the file is a web page, probably an error of the archive; fetch it again")
    if is_text:
        return "text", Problem("not_fits", "the file is plain text, not FITS; give a FITS file")
    return "other", Problem("not_fits", "the file does not begin with SIMPLE, it is no FITS file; give a FITS file")


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
        (warnings if trouble.code in _HARMLESS else problems).append(_problem(trouble))
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
    return FileReport(
        kind, tuple(summaries), tuple(problems), tuple(warnings), source.compression, source.size, headers
    )


def _summarise(scan: HduScan) -> HduSummary:
    header = scan.header
    shape = image_shape(header)
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
    """Compare stated with computed DATASUM and CHECKSUM; blank or all-zero statements say nothing."""
    found: list[Problem] = []
    stated = scan.header.get("DATASUM")
    text = str(stated).strip() if stated is not None else ""
    if scan.data_sum is not None and text.isdigit() and int(text) != scan.data_sum:
        found.append(
            Problem(
                "bad_datasum",
                f"HDU {scan.index}: the pixels do not match DATASUM (stated {text}, found {scan.data_sum}); "
                "fetch the file again",
                scan.data_sum,
                float(text),
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

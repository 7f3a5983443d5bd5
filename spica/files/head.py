"""External headers (`.head`, `.ahead`) in the card format that SCAMP writes and SWarp reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spica.files.checksum import write_atomic
from spica.files.header import CARD_LENGTH, NO_CARDS, CardValue, HeaderCards, make_cards
from spica.model.errors import DataError

MAX_HEAD_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class HeadFacts:
    """What a solution says of one detector beside its WCS; None leaves the keyword out.

    Parameters
    ----------
    flux_scale : float, optional
        FLXSCALE: SWarp multiplies the pixels by it.
    zero_point_mag : float, optional
        MAGZEROP: magnitude of 1 ADU/s (of the scaled flux where FLXSCALE is given).
    internal_rms_deg, reference_rms_deg : (float, float), optional
        ASTIRMS1/2 and ASTRRMS1/2: rms per axis of pairs between exposures and with the reference, degrees.
    internal_rms_mag, reference_rms_mag : float, optional
        PHOTIRMS and PHOTRRMS.
    instrument_group : int
        ASTINST and PHOTINST.
    """

    flux_scale: float | None = None
    zero_point_mag: float | None = None
    internal_rms_deg: tuple[float, float] | None = None
    reference_rms_deg: tuple[float, float] | None = None
    internal_rms_mag: float | None = None
    reference_rms_mag: float | None = None
    instrument_group: int = 1


def head_cards(wcs: HeaderCards, facts: HeadFacts, extra: HeaderCards = NO_CARDS) -> HeaderCards:
    """Return one header of a `.head` file: the WCS cards, the facts under SCAMP's keywords, and further cards."""
    items: list[tuple[str, CardValue, str]] = [
        ("FGROUPNO", 1, "field group"),
        ("ASTINST", facts.instrument_group, "astrometric instrument"),
    ]
    rms = (
        ("ASTIRMS", facts.internal_rms_deg, "internal rms, axis"),
        ("ASTRRMS", facts.reference_rms_deg, "rms to the reference, axis"),
    )
    for stem, pair, comment in rms:
        if pair is not None:
            items += [(f"{stem}{axis}", float(value), f"{comment} {axis} [deg]") for axis, value in enumerate(pair, 1)]
    single = (
        ("FLXSCALE", facts.flux_scale, "flux scale to apply"),
        ("MAGZEROP", facts.zero_point_mag, "magnitude zero point"),
        ("PHOTIRMS", facts.internal_rms_mag, "internal photometric rms [mag]"),
        ("PHOTRRMS", facts.reference_rms_mag, "photometric rms to the reference [mag]"),
    )
    items += [(keyword, float(value), comment) for keyword, value, comment in single if value is not None]
    items.append(("PHOTINST", facts.instrument_group, "photometric instrument"))
    return HeaderCards((*wcs.cards, *make_cards(items).cards, *extra.cards))


def format_head(headers: Sequence[HeaderCards]) -> str:
    """Return the text of an external header file: one card a line, each header ended by END."""
    lines: list[str] = []
    for header in headers:
        lines += [card.rstrip() for card in header.cards]
        lines.append("END")
    return "".join(f"{line}\n" for line in lines)


def write_head(path: str | os.PathLike[str], headers: Sequence[HeaderCards]) -> None:
    """Write a `.head` or `.ahead` file, one header for each detector in the order of the file's images, atomically."""
    text = "".join(c if c == "\n" or " " <= c <= "~" else "?" for c in format_head(headers))
    write_atomic(path, text.encode("ascii"))


def parse_head(text: str) -> tuple[HeaderCards, ...]:
    """Split the text of an external header file into its headers; the last END may be missing."""
    headers: list[HeaderCards] = []
    cards: list[str] = []
    for line in text.splitlines():
        if line[:8].strip().upper() == "END":
            headers.append(HeaderCards(tuple(cards)))
            cards = []
        elif line.strip():
            cards.append(line[:CARD_LENGTH].ljust(CARD_LENGTH))
    if cards:
        headers.append(HeaderCards(tuple(cards)))
    return tuple(headers)


def read_head(path: str | os.PathLike[str]) -> tuple[HeaderCards, ...]:
    """Read a `.head` or `.ahead` file; bytes outside ASCII (SCAMP's comments hold some) are kept as Latin-1.

    Raises DataError where the file cannot be read, is too large, or holds no header.
    """
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_HEAD_BYTES + 1)
    except OSError as trouble:
        raise DataError(f"{path} cannot be read ({trouble.strerror}); check that it is there") from trouble
    if len(raw) > MAX_HEAD_BYTES:
        raise DataError(f"{path} has more than {MAX_HEAD_BYTES} bytes; it is no external header")
    headers = parse_head(raw.decode("latin-1"))
    if not headers or not any(len(header) for header in headers):
        raise DataError(f"{path} holds no header cards; make the external header again")
    return headers

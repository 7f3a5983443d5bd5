"""Keywords of a header that sound like a fact, for people who write a profile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spica.files.header import HeaderCards
from spica.files.scan import image_shape
from spica.files.source import StructureError

MAX_HINTS = 4
MAX_VALUE = 24
HINTS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "object": re.compile(r"(?i)object|target|field name"),
        "exptime": re.compile(r"(?i)expos.*time|integration time|exptime|inttime|shutter.*time"),
        "filter": re.compile(r"(?i)filter"),
        "ra": re.compile(r"(?i)right asc|^ra|\bra\b"),
        "dec": re.compile(r"(?i)declination|^dec\b|\bdec\b"),
        "airmass": re.compile(r"(?i)airmass|sec\W*z\b|^(?!.*\b(sun|moon)).*altitude"),
        "run": re.compile(r"(?i)\brun\b|run ?id|program|proposal"),
        "time": re.compile(r"(?i)\but|\bdate|julian|mjd|start of (exp|obs)"),
        "longitude": re.compile(r"(?i)^(?!.*pole).*(longitud|\blong\b)"),
        "latitude": re.compile(r"(?i)^(?!.*pole).*(latitud|\blat\b)"),
        "scale": re.compile(r"(?i)arcsec.*/.*pix|pixel scale|plate scale"),
        "gain": re.compile(r"(?i)\bgain\b|e-?/adu|electrons.*/"),
        "read_noise": re.compile(r"(?i)read(out)?[- ]?noise|rdnoise"),
        "saturation": re.compile(r"(?i)saturat|linearity"),
    }
)
"""Of each fact, how its keyword or the comment behind it is worded."""


def plain_text(value: object) -> str:
    """Return header text on one line, without characters that TOML or a terminal would take for something else."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def image_units(headers: Sequence[HeaderCards]) -> list[HeaderCards]:
    """Return the headers of units that hold pixels; damaged ones are passed over."""
    found = []
    for header in headers:
        try:
            shape = image_shape(header)
        except StructureError:
            continue
        if shape is not None and min(shape) > 0:
            found.append(header)
    return found


def keywords_like(headers: Sequence[HeaderCards], fact: str, but: str = "") -> str:
    """Return keywords of the primary and the first image that sound like a fact, with their values; empty: none.

    Parameters
    ----------
    headers : sequence of HeaderCards
        Units of one exposure, primary first.
    fact : str
        A key of `HINTS`.
    but : str
        A keyword that is left out.
    """
    seen: dict[str, str] = {}
    for header in [*headers[:1], *image_units(headers)[:1]]:
        for card in header.parsed():
            stated = isinstance(card.value, int | float | str) and not isinstance(card.value, bool) and card.value != ""
            if stated and card.keyword != but and HINTS[fact].search(f"{card.keyword} {card.comment}"):
                seen.setdefault(card.keyword, f"{plain_text(card.keyword)} = {plain_text(card.value)[:MAX_VALUE]}")
    return "; ".join(list(seen.values())[:MAX_HINTS])

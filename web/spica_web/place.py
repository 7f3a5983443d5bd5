"""Directions as people write them: decimal degrees, sexagesimal, with units, galactic, names like J2144+5729."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_NUMBER = r"[0-9]{1,3}(?:\.[0-9]{0,12})?"
_DECIMAL = re.compile(rf"([+-]?{_NUMBER})d?[\s,]+([+-]?{_NUMBER})d?(?:[\s,]+([0-9]{{1,2}}(?:\.[0-9]{{0,9}})?)d?)?")
_GALACTIC = re.compile(
    rf"(?:gal(?:actic)?\.?\s*(?:l\s*=?\s*)?|l\s*=?\s*)([+-]?{_NUMBER})[\s,]+(?:b\s*=?\s*)?([+-]?{_NUMBER})",
    re.IGNORECASE,
)
_RA = (
    r"([0-9]{1,2})(?:\s*[h:]\s*|\s+)([0-9]{1,2}(?:\.[0-9]*)?)(?:(?:\s*[m:]\s*|\s+)([0-9]{1,2}(?:\.[0-9]*)?)\s*s?|\s*m)?"
)
_DEC = (
    r"([+-]?)([0-9]{1,2})(?:\s*[d:°]\s*|\s+)([0-9]{1,2}(?:\.[0-9]*)?)"
    r"""(?:(?:\s*[m:'′]\s*|\s+)([0-9]{1,2}(?:\.[0-9]*)?)\s*["s″]?|\s*[m'′])?"""
)
_SEXAGESIMAL = re.compile(rf"{_RA}[\s,]+{_DEC}")
_MIXED = re.compile(
    r"([0-9]{1,2})h(?:([0-9]{1,2}(?:\.[0-9]*)?)m(?:([0-9]{1,2}(?:\.[0-9]*)?)s)?)?[\s,]*"
    r"([+-]?)([0-9]{1,2}(?:\.[0-9]*)?)d(?:([0-9]{1,2}(?:\.[0-9]*)?)m(?:([0-9]{1,2}(?:\.[0-9]*)?)s)?)?",
    re.IGNORECASE,
)
_JNAME = re.compile(
    r"J\s*([0-9]{2})([0-9]{2})([0-9]{2}(?:\.[0-9]*)?)?([+-])([0-9]{2})([0-9]{2})([0-9]{2}(?:\.[0-9]*)?)?"
)
POLE_RA_DEG, POLE_DEC_DEG, NODE_DEG = 192.85948, 27.12825, 122.93192
"""Galactic pole in ICRS and galactic longitude of the celestial pole (Hipparcos catalogue, volume 1, 1.5.3)."""


@dataclass(frozen=True)
class Place:
    """A direction, ICRS degrees, and the radius that was written beside it (None: none)."""

    ra_deg: float
    dec_deg: float
    radius_deg: float | None = None


def read_place(words: str) -> Place | None:
    """Return the direction that words name, None where they name none.

    Decimal degrees (`324.7 57.5`, `324.7, 57.5, 0.5` with a radius), `21:44:00 +57:29:00`, `21 44 00 +57 29`,
    `21h44m -5d`, `l=98.1 b=4.2` or `gal 98.1 4.2`, `J214400+572900`.
    """
    text = words.strip().replace("−", "-").replace("º", "°")[:120]
    if found := _GALACTIC.fullmatch(text):
        return _checked(from_galactic(float(found[1]), float(found[2])))
    if found := _DECIMAL.fullmatch(text):
        return _checked((float(found[1]), float(found[2])), float(found[3]) if found[3] else None)
    if found := _JNAME.fullmatch(text) or _MIXED.fullmatch(text) or _SEXAGESIMAL.fullmatch(text):
        hours, degrees = _sixties(*found.group(1, 2, 3)), _sixties(*found.group(5, 6, 7))
        if hours is None or degrees is None or hours >= 24.0:
            return None
        return _checked((15.0 * hours, -degrees if found[4] == "-" else degrees))
    return None


def _sixties(whole: str, minutes: str | None, seconds: str | None) -> float | None:
    m, s = float(minutes or 0.0), float(seconds or 0.0)
    return None if m >= 60.0 or s >= 60.0 else float(whole) + m / 60.0 + s / 3600.0


def _checked(place: tuple[float, float], radius: float | None = None) -> Place | None:
    ra, dec = place
    fine = -360.0 < ra < 720.0 and abs(dec) <= 90.0 and (radius is None or 0.0 < radius <= 90.0)
    return Place(ra % 360.0, dec, radius) if fine else None


def from_galactic(l_deg: float, b_deg: float) -> tuple[float, float]:
    """Return ICRS right ascension and declination of galactic coordinates, degrees."""
    turn, b = math.radians(NODE_DEG - l_deg), math.radians(b_deg)
    pole = math.radians(POLE_DEC_DEG)
    sin_dec = math.sin(pole) * math.sin(b) + math.cos(pole) * math.cos(b) * math.cos(turn)
    y = math.cos(b) * math.sin(turn)
    x = math.cos(pole) * math.sin(b) - math.sin(pole) * math.cos(b) * math.cos(turn)
    ra = math.radians(POLE_RA_DEG) + math.atan2(y, x)
    return math.degrees(ra) % 360.0, math.degrees(math.asin(max(-1.0, min(1.0, sin_dec))))

"""Dates of headers as MJD, angles of headers as degrees, and the night of an exposure."""

from __future__ import annotations

import datetime
import math
import re
from bisect import bisect_right

MJD_EPOCH_ORDINAL = datetime.date(1858, 11, 17).toordinal()
# Midnights that a leap second came before: from July 1972 on, the last one known at the end of 2016.
_LEAP_SECONDS_MJD: tuple[int, ...] = (
    *(41499, 41683, 42048, 42413, 42778, 43144, 43509, 43874, 44239, 44786, 45151, 45516, 46247, 47161),
    *(47892, 48257, 48804, 49169, 49534, 50083, 50630, 51179, 53736, 54832, 56109, 57204, 57754),
)
_DATE = re.compile(
    r"\s*(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T\s]+(\d{1,2}:\d{1,2}(?::\d{1,2}(?:\.\d*)?)?)"
    r"\s*(Z|UTC?|[+-]\d{2}:?\d{2})?)?\s*\Z",
    re.IGNORECASE,
)
_BASIC_DATE = re.compile(r"\s*(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d(?:\.\d*)?)\s*\Z")
_OLD_DATE = re.compile(r"\s*(\d{1,2})/(\d{1,2})/(\d{2})\s*\Z")
_CLOCK = re.compile(r"\s*(\d{1,2}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?\s*\Z")
_SEXAGESIMAL = re.compile(
    r"\s*([+-]?)\s*(\d{1,3})[:\sdh]+(\d{1,2}(?:\.\d*)?)(?:[:\sm']+(\d{1,2}(?:\.\d*)?))?[s\"]?\s*\Z"
)


def parse_clock(text: str) -> float | None:
    """Return the fraction of a day of `hh:mm[:ss.sss]`, or of the clock in an ISO date-time; None where it is none."""
    whole = _DATE.match(text)
    found = _CLOCK.match(whole.group(4) or "" if whole else text)
    if found is None:
        return None
    hours, minutes, seconds = int(found.group(1)), int(found.group(2)), float(found.group(3) or 0.0)
    if hours > 24 or minutes > 59 or seconds > 61.0:
        return None
    return (hours * 3600 + minutes * 60 + seconds) / 86400.0


def parse_zone_days(text: str) -> float:
    """Return the offset of a zone suffix (`-0700`, `+01:00`, `Z`) in days, 0 where there is none."""
    whole = _DATE.match(text)
    zone = whole.group(5) if whole else None
    if not zone or zone[0] not in "+-":
        return 0.0
    digits = zone[1:].replace(":", "")
    days = (int(digits[:2]) * 60 + int(digits[2:])) / 1440.0
    return -days if zone[0] == "-" else days


def parse_day(text: str) -> int | None:
    """Return the whole MJD of the date in `YYYY-MM-DD...` or the old `DD/MM/YY`; None where it is none."""
    whole, old = _DATE.match(text), _OLD_DATE.match(text)
    if whole:
        year, month, day = (int(part) for part in whole.groups()[:3])
    elif old:
        day, month, year = (int(part) for part in old.groups())
        year += 1900
    else:
        return None
    try:
        return datetime.date(year, month, day).toordinal() - MJD_EPOCH_ORDINAL
    except ValueError:
        return None


def parse_iso_mjd(date: str, clock: str | None = None) -> float | None:
    """Return the MJD (UTC) of a date-time text, or of a date and a clock text; a zone suffix is honoured.

    Date-times may be written without separators (`20160818T042710`). None where no time of day is stated: a date alone
    does not say when.
    """
    date = _BASIC_DATE.sub(r"\1-\2-\3T\4:\5:\6", date)
    day, fraction = parse_day(date), parse_clock(clock if clock is not None else date)
    if day is None or fraction is None:
        return None
    return day + fraction - parse_zone_days(clock if clock is not None and _DATE.match(clock) else date)


def tai_minus_utc_s(mjd: float) -> float:
    """Return the seconds that atomic time is ahead of UTC at an MJD (IERS Bulletin C; 10 s before 1972)."""
    return 10.0 + bisect_right(_LEAP_SECONDS_MJD, mjd)


def night_of(mjd: float, longitude_deg: float) -> str:
    """Return the ISO date of the evening of the night, local mean noon to noon.

    The local mean time is mjd + longitude/360 (east positive); half a day earlier its date is that of the evening.
    """
    day = math.floor(mjd + longitude_deg / 360.0 - 0.5)
    return datetime.date.fromordinal(day + MJD_EPOCH_ORDINAL).isoformat()


def parse_sexagesimal(text: str) -> float | None:
    """Return `[+-]dd:mm[:ss.s]` (also with blanks) as a decimal number of its first unit; None where it is none."""
    found = _SEXAGESIMAL.match(text)
    if found is None:
        return None
    first, minutes, seconds = float(found.group(2)), float(found.group(3)), float(found.group(4) or 0.0)
    if minutes >= 60.0 or seconds > 60.0:
        return None
    value = first + minutes / 60.0 + seconds / 3600.0
    return -value if found.group(1) == "-" else value


def airmass_of(altitude_deg: float) -> float | None:
    """Return the airmass of an altitude in degrees, None at or below the horizon.

    X = 1 / sin(h + 244 / (165 + 47 h**1.1)), h in degrees (Pickering 2002, DIO 12, 20).
    """
    if not altitude_deg > 0:
        return None
    return 1.0 / math.sin(math.radians(altitude_deg + 244.0 / (165.0 + 47.0 * altitude_deg**1.1)))


def to_icrs(ra_deg: float, dec_deg: float, equinox: float) -> tuple[float, float]:
    """Bring a mean place of an equinox (FK4 before 1984, else FK5; astropy) to ICRS; that of 2000 is left as it is."""
    if abs(equinox - 2000.0) < 1e-3:
        return ra_deg, dec_deg
    from astropy.coordinates import FK4, FK5, SkyCoord  # noqa: PLC0415 - half a second, for few headers

    frame = FK4(equinox=f"B{equinox}") if equinox < 1984.0 else FK5(equinox=f"J{equinox}")
    place = SkyCoord(ra_deg, dec_deg, unit="deg", frame=frame).icrs
    return float(place.ra.deg), float(place.dec.deg)

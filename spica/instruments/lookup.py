"""Find facts in headers by a profile's sources, and bring them to the house's units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from spica.files.header import CardValue, HeaderCards
from spica.files.scan import image_shape
from spica.instruments.base import Condition, Conditions, FactSource, TimeRules
from spica.instruments.dates import airmass_of, parse_iso_mjd, parse_sexagesimal, tai_minus_utc_s
from spica.instruments.facts import PixelSection

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*\Z")
_FACTORS = {"": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0, "deg": 1.0, "hourangle": 15.0, "arcsec": 1.0}
_FACTORS |= {"auto_ra": 1.0, "deg_per_pixel": 3600.0, "altitude_deg": 1.0, "deg_west": -1.0}
_EQUINOX = re.compile(r"^\s*[JB](?=\d{4})")
_ANYWHERE = FactSource()
MJD_RANGE = (15020.0, 100000.0)


@dataclass(frozen=True)
class Found:
    """A value and who said it: a keyword, `profile` (literal) or `default`."""

    value: CardValue
    who_said: str


def last_value(header: HeaderCards, keyword: str) -> CardValue:
    """Return the value of a keyword; of EXTNAME the last, because tile compression puts its own before the camera's."""
    if keyword.upper() == "EXTNAME":
        values = header.all_values("EXTNAME")
        return values[-1] if values else None
    return header.get(keyword)


def search_order(headers: Sequence[HeaderCards], source: FactSource, hdu: int | None) -> list[HeaderCards]:
    """Return the headers to look into: a detector's own first; else the primary, then the first image's."""
    primary = headers[0]
    own = headers[hdu] if hdu is not None else None
    if source.where == "primary":
        return [primary]
    if own is None:
        own = next((header for header in headers[1:] if image_shape(header) is not None), None)
        chain = [primary, own]
    else:
        chain = [own, primary]
    if source.where == "hdu" and own is not None:
        chain = [own]
    return [header for header in chain if header is not None]


def find_value(headers: Sequence[HeaderCards], source: FactSource, hdu: int | None = None) -> Found | None:
    """Return the first stated value: the literal, a keyword's that is not blank, else the default."""
    if source.value is not None:
        return Found(source.value, "profile")
    for case in source.cases:
        if meets(case.conditions, headers, "", hdu):
            return Found(case.value, "profile")
    chain = search_order(headers, source, hdu)
    if source.bounds:
        return _find_bounds(chain, source.bounds)
    stated = (found for keyword in source.keywords if (found := _stated(chain, source, keyword)) is not None)
    if source.join is not None:
        parts = list(stated)
        text: CardValue = source.join.join(str(part.value) for part in parts)
        if source.values:
            text = source.values.get(str(text).casefold())
        if parts and text is not None:
            return Found(text, "+".join(part.who_said for part in parts))
    else:
        first = next(stated, None)
        if first is not None:
            return first
    return Found(source.default, "default") if source.default is not None else None


def _stated(chain: Sequence[HeaderCards], source: FactSource, keyword: str) -> Found | None:
    """Return what the first header that states a keyword says; blank and skipped values do not count."""
    for header in chain:
        value = last_value(header, keyword) if keyword in header else None
        if isinstance(value, str):
            value = _extracted(value.strip(), source.extract)
        if value is None or value == "" or (source.skip is not None and source.skip.search(str(value))):
            continue
        if source.values and source.join is None and (value := source.values.get(str(value).casefold())) is None:
            continue
        return Found(f"{source.prefix}{value}" if source.prefix else value, keyword.upper())
    return None


def _find_bounds(chain: Sequence[HeaderCards], keywords: tuple[str, ...]) -> Found | None:
    """Return the section that four keywords bound, as text `[x1:x2,y1:y2]`."""
    found = [_stated(chain, FactSource(), keyword) for keyword in keywords]
    numbers = [None if f is None else to_number(f.value, "") for f in found]
    if any(n is None or not n.is_integer() for n in numbers):
        return None
    x1, x2, y1, y2 = (int(n) for n in numbers if n is not None)
    return Found(f"[{x1}:{x2},{y1}:{y2}]", "+".join(keyword.upper() for keyword in keywords))


def _extracted(text: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return text
    found = pattern.search(text)
    return (found.group(1) if pattern.groups else found.group(0)) if found else ""


def to_number(value: CardValue, unit: str) -> float | None:
    """Bring a header value to the house's unit (s, degrees, arcsec, airmass); None where it is no finite number."""
    if isinstance(value, bool) or value is None or isinstance(value, complex):
        return None
    if isinstance(value, str):
        number = _number_of_text(value)
        if number is None:
            number = parse_sexagesimal(value)
            if number is not None and unit == "auto_ra":
                number *= 15.0
    else:
        number = float(value) if abs(value) < 1e300 else None
    if number is None or not math.isfinite(number):
        return None
    return airmass_of(number) if unit == "altitude_deg" else number * _FACTORS[unit]


def _number_of_text(text: str) -> float | None:
    try:
        return float(_EQUINOX.sub("", text))
    except ValueError:
        return None


def find_number(
    headers: Sequence[HeaderCards],
    source: FactSource,
    hdu: int | None = None,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[float, str] | None:
    """Return the first number within [low, high] and who said it; keywords whose value does not fit are passed over."""
    for candidate in _candidates(source):
        found = find_value(headers, candidate, hdu)
        unit = "" if found is not None and found.who_said in {"default", "profile"} else source.unit
        number = None if found is None else to_number(found.value, unit)
        for factor in source.times if number is not None else ():
            more = find_value(headers, FactSource((factor,), where=source.where), hdu)
            times = None if more is None else to_number(more.value, "")
            number = number * times if number is not None and times is not None and times > 0 else number
        if found is not None and number is not None and low <= number <= high:
            return number, found.who_said
    return None


def _candidates(source: FactSource) -> Iterator[FactSource]:
    """Yield the ways of a source one by one: cases, the literal or joined value or each keyword, the default."""
    if source.cases:
        yield FactSource(cases=source.cases)
    if source.value is not None or source.join is not None:
        yield replace(source, default=None)
    elif len(source.keywords) == 1 and source.default is None and not source.cases:
        yield source
    else:
        for keyword in source.keywords:
            yield _only(source, keyword)
    if source.value is None and source.default is not None:
        yield FactSource(default=source.default)


def _only(source: FactSource, keyword: str) -> FactSource:
    return replace(source, keywords=(keyword,), value=None, default=None, cases=())


def find_mjd(headers: Sequence[HeaderCards], rules: TimeRules) -> tuple[float, str] | None:
    """Return the stated instant as MJD (UTC) and the keywords that said it; dates before 1900 count as unknown."""
    for source in rules.sources:
        values = [find_value(headers, FactSource((keyword,), extract=source.extract)) for keyword in source.keywords]
        if any(found is None for found in values):
            continue
        if source.given and find_value(headers, FactSource((source.given,))) is None:
            continue
        parts = [found.value for found in values if found is not None]
        mjd: float | None
        if source.form == "iso":
            mjd = parse_iso_mjd(*(str(part) for part in parts))
        else:
            mjd = to_number(parts[0], "")
            mjd = mjd - 2400000.5 if mjd is not None and source.form == "jd" else mjd
        if mjd is not None:
            mjd -= rules.clock_ahead_hours / 24.0
            mjd = mjd - tai_minus_utc_s(mjd) / 86400.0 if _is_atomic(headers, rules) else mjd
            if MJD_RANGE[0] < mjd < MJD_RANGE[1]:
                return mjd, "+".join(keyword.upper() for keyword in source.keywords)
    return None


def _is_atomic(headers: Sequence[HeaderCards], rules: TimeRules) -> bool:
    """Whether the clock of the headers is that of atomic time."""
    if rules.scale != "header":
        return rules.scale == "tai"
    found = find_value(headers, FactSource(("TIMESYS",)))
    return found is not None and str(found.value).strip().upper() == "TAI"


def meets(conditions: Conditions, headers: Sequence[HeaderCards], file_name: str, hdu: int | None = None) -> bool:
    """Judge conditions on headers; for a detector its own header counts before the primary."""

    if conditions.is_empty:
        return True
    chain: list[HeaderCards] = []

    def holds(condition: Condition) -> bool:
        if condition.file_name:
            return condition.holds(file_name, bool(file_name))
        if not chain:
            chain.extend(search_order(headers, _ANYWHERE, hdu))
        for header in chain:
            if condition.keyword in header:
                return condition.holds(last_value(header, condition.keyword), True)
        return condition.holds(None, False)

    return (
        all(holds(condition) for condition in conditions.all)
        and (not conditions.any or any(holds(condition) for condition in conditions.any))
        and not any(holds(condition) for condition in conditions.none)
    )


def parse_section(text: CardValue) -> PixelSection | None:
    """Turn `[x1:x2,y1:y2]` (1-based, inclusive, either direction) into a section; None where it is none or empty."""
    found = _SECTION.match(text.strip()) if isinstance(text, str) else None
    if found is None:
        return None
    x1, x2, y1, y2 = (int(part) for part in found.groups())
    if min(x1, x2, y1, y2) < 1:
        return None
    return PixelSection(min(x1, x2) - 1, max(x1, x2), min(y1, y2) - 1, max(y1, y2), x2 < x1, y2 < y1)


def section_within(section: PixelSection | None, shape: tuple[int, int]) -> PixelSection | None:
    """Return the section where it lies in the image, None where it does not (the image was trimmed)."""
    if section is None or section.x_stop > shape[1] or section.y_stop > shape[0]:
        return None
    return section

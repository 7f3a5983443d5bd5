"""Headers to facts: one exposure and its detectors, by a profile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from spica.files.header import HeaderCards
from spica.files.slug import slug
from spica.instruments.base import FactSource, FrameType, Instrument
from spica.instruments.dates import night_of, to_icrs
from spica.instruments.detector import find_detectors
from spica.instruments.facts import DetectorFacts, ExposureFacts, FactExplanation, MissingFactError
from spica.instruments.lookup import find_mjd, find_number, find_value, meets
from spica.model.errors import DataError

_LINES = {
    "object": '[facts.object]\nkeywords = ["OBJECT"]',
    "exposure time": '[facts.exptime]\nkeywords = ["EXPTIME"]\nunit = "s"',
    "filter": '[facts.filter]\nkeywords = ["FILTER"]    # or: value = "clear"',
    "time": '[[time.sources]]\nform = "iso"    # or "mjd", "jd"\nkeywords = ["DATE-OBS"]    # or date and clock',
    "pointing": '[facts.ra]\nkeywords = ["RA"]\nunit = "hourangle"\n[facts.dec]\nkeywords = ["DEC"]\nunit = "deg"',
    "pixel scale": "pixel_scale_arcsec = 0.2    # at the top, before any table",
    "image": '[detectors]\nselect.all = [{ keyword = "EXTNAME", matches = "^CCD" }]',
}
_NO_SOURCE = FactSource()


def frame_type_of(instrument: Instrument, headers: Sequence[HeaderCards], file_name: str = "") -> FrameType:
    """Return the type of the first frame rule the headers meet, `science` where none does."""
    for rule in instrument.frame_rules:
        if not rule.conditions.is_empty and meets(rule.conditions, headers, file_name):
            return rule.frame_type
    return "science"


def canonical_filter(instrument: Instrument, raw: str) -> str:
    """Return the canonical name of a raw filter name: the profile's table, its patterns, its `other`, else a slug."""
    text = raw.strip()
    named = instrument.filters.names.get(text.casefold())
    if named is not None:
        return named
    for pattern in instrument.filters.patterns:
        found = pattern.matches.search(text)
        if found:
            return slug(found.expand(pattern.gives), "unknown")
    return instrument.filters.other or slug(text, "unknown")


def instrument_name(instrument: Instrument, headers: Sequence[HeaderCards]) -> str:
    """Return the instrument's name; of `generic` with the slug of INSTRUME (else of the telescope, else `unknown`)."""
    if instrument.name != "generic":
        return instrument.name
    found = find_value(headers, FactSource(("INSTRUME", "DETECTOR", "CAMERA", "TELESCOP")))
    return f"generic:{slug(str(found.value) if found else '', 'unknown').lower()}"


def _missing(
    instrument: Instrument, headers: Sequence[HeaderCards], fact: str, *sources: FactSource
) -> MissingFactError:
    keywords = tuple(dict.fromkeys(keyword for source in sources for keyword in source.keywords))
    return MissingFactError(fact, instrument_name(instrument, headers), keywords, _LINES[fact])


class _Reader:
    """Reads facts one after the other and remembers who said them."""

    def __init__(self, instrument: Instrument, headers: Sequence[HeaderCards]) -> None:
        self.instrument, self.headers = instrument, headers
        self.who_said: dict[str, str] = {}

    def text(self, fact: str) -> str:
        found = find_value(self.headers, self.instrument.facts.get(fact, _NO_SOURCE))
        if found is None:
            return ""
        self.who_said[fact] = found.who_said
        return str(found.value).strip()

    def number(self, fact: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        found = find_number(self.headers, self.instrument.facts.get(fact, _NO_SOURCE), None, low, high)
        if found is None:
            return None
        self.who_said[fact] = found[1]
        return found[0]

    def pointing(self) -> tuple[float, float] | None:
        """Return the pointing in degrees, ICRS; a stated equinox other than 2000 is brought to it."""
        ra, dec = self.number("ra", -360.0, 360.0), self.number("dec", -90.0, 90.0)
        if ra is None or dec is None:
            return None
        equinox = self.number("equinox", 1850.0, 2150.0)
        return (ra % 360.0, dec) if equinox is None else to_icrs(ra % 360.0, dec, equinox)

    def longitude(self) -> float:
        found = find_number(self.headers, self.instrument.longitude_deg, None, -360.0, 360.0)
        self.who_said["longitude"] = found[1] if found else "assumed 0"
        return found[0] if found else 0.0

    def mjd(self, exptime_s: float) -> tuple[float, float] | None:
        """Start and middle of the exposure; `elapsed`, if not shorter than it, is what passed from start to end."""
        found = find_mjd(self.headers, self.instrument.time)
        if found is None:
            return None
        self.who_said["mjd"] = found[1]
        elapsed = self.number("elapsed", exptime_s, 1e7)
        length = (exptime_s if elapsed is None else elapsed) / 86400.0
        start = found[0] - {"start": 0.0, "mid": length / 2.0, "end": length}[self.instrument.time.marks]
        return start, start + length / 2.0


def translate(instrument: Instrument, headers: Sequence[HeaderCards], file_name: str = "") -> ExposureFacts:
    """Read the facts of an exposure.

    Parameters
    ----------
    instrument : Instrument
        The profile, from `Registry.recognise`.
    headers : sequence of HeaderCards
        Cards of every header unit of the file, primary first (`read_headers`).
    file_name : str
        Name of the file, for profiles whose rules look at it.

    Raises
    ------
    MissingFactError
        Where a science frame lacks object, filter, exposure time, time, or position and scale, or any frame lacks its
        image, exposure time or time; the message names the keywords tried and the TOML lines to add.
    """
    if not headers:
        raise DataError("the file has no header; verify the file")
    reader = _Reader(instrument, headers)
    frame_type = frame_type_of(instrument, headers, file_name)
    science = frame_type == "science"
    facts = instrument.facts
    object_raw, filter_raw = reader.text("object"), reader.text("filter")
    if science and not object_raw:
        raise _missing(instrument, headers, "object", facts.get("object", _NO_SOURCE))
    if science and not filter_raw:
        raise _missing(instrument, headers, "filter", facts.get("filter", _NO_SOURCE))
    exptime = reader.number("exptime", 0.0, 1e7)
    if exptime is None or (science and exptime <= 0):
        raise _missing(instrument, headers, "exposure time", facts.get("exptime", _NO_SOURCE))
    times = reader.mjd(exptime)
    if times is None:
        raise _missing(instrument, headers, "time", *(FactSource(s.keywords) for s in instrument.time.sources))
    pointing = reader.pointing()
    detectors = find_detectors(instrument, headers, file_name, pointing, reader.who_said)
    if not detectors:
        raise _missing(instrument, headers, "image")
    if pointing is None:
        pointing = _centre_of(detectors)
        reader.who_said["ra"] = reader.who_said["dec"] = "header WCS"
    if science:
        _require_position(instrument, headers, detectors, pointing)
    night = night_of(times[0], reader.longitude())
    return ExposureFacts(
        object=object_raw or frame_type,
        object_raw=object_raw,
        filter=canonical_filter(instrument, filter_raw) if filter_raw else "none",
        filter_raw=filter_raw,
        run=reader.text("run") or night[:7],
        night=night,
        exptime_s=exptime,
        mjd=times[1],
        mjd_start=times[0],
        airmass=reader.number("airmass", 0.99, 40.0),
        ra_deg=pointing[0] if pointing else None,
        dec_deg=pointing[1] if pointing else None,
        instrument=instrument_name(instrument, headers),
        telescope=instrument.telescope or reader.text("telescope"),
        frame_type=frame_type,
        detectors=detectors,
        who_said=MappingProxyType(_completed(reader.who_said, instrument)),
    )


def _completed(who_said: dict[str, str], instrument: Instrument) -> Mapping[str, str]:
    return {"telescope": "profile"} | who_said | ({} if "run" in who_said else {"run": "month of the night"})


def _require_position(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    detectors: tuple[DetectorFacts, ...],
    pointing: tuple[float, float] | None,
) -> None:
    facts = instrument.facts
    if pointing is None:
        raise _missing(instrument, headers, "pointing", facts.get("ra", _NO_SOURCE), facts.get("dec", _NO_SOURCE))
    if any(detector.pixel_scale_arcsec is None for detector in detectors):
        raise _missing(instrument, headers, "pixel scale", instrument.detectors.facts.get("pixel_scale", _NO_SOURCE))


def _centre_of(detectors: tuple[DetectorFacts, ...]) -> tuple[float, float] | None:
    """Return the mean direction of all footprint corners; None without footprints."""
    corners = [corner for detector in detectors for corner in detector.footprint or ()]
    if not corners:
        return None
    x = sum(math.cos(math.radians(dec)) * math.cos(math.radians(ra)) for ra, dec in corners)
    y = sum(math.cos(math.radians(dec)) * math.sin(math.radians(ra)) for ra, dec in corners)
    z = sum(math.sin(math.radians(dec)) for _, dec in corners)
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def explain(instrument: Instrument, headers: Sequence[HeaderCards], file_name: str = "") -> tuple[FactExplanation, ...]:
    """Say for each fact of a file where it came from or what was looked for in vain; never raises for missing facts."""
    frame_type = frame_type_of(instrument, headers, file_name)
    science = frame_type == "science"
    rows = [
        FactExplanation("instrument", instrument_name(instrument, headers), instrument.source, (), True),
        FactExplanation("frame_type", frame_type, "profile", (), True),
    ]
    numbers = {"exptime": True, "elapsed": False, "ra": science, "dec": science, "equinox": False, "airmass": False}
    for fact, source in instrument.facts.items():
        if fact in numbers:
            number = find_number(headers, source)
            value, said = (None, "") if number is None else (f"{number[0]:.10g}", number[1])
            required = numbers[fact]
        else:
            text = find_value(headers, source)
            value, said = (None, "") if text is None else (str(text.value), text.who_said)
            required = science and fact in {"object", "filter"}
        rows.append(FactExplanation(fact, value, said, source.keywords, required))
    time = find_mjd(headers, instrument.time)
    tried = tuple("+".join(source.keywords) for source in instrument.time.sources)
    rows.append(FactExplanation("mjd", f"{time[0]:.8f}" if time else None, time[1] if time else "", tried, True))
    pointing_facts = [row.value for fact in ("ra", "dec") for row in rows if row.fact == fact]
    pointing = None
    if len(pointing_facts) == 2 and pointing_facts[0] is not None and pointing_facts[1] is not None:
        pointing = float(pointing_facts[0]), float(pointing_facts[1])
    said_of: dict[str, str] = {}
    detectors = find_detectors(instrument, headers, file_name, pointing, said_of)
    rows.append(FactExplanation("detectors", str(len(detectors)) if detectors else None, "images", (), True))
    for fact, source in instrument.detectors.facts.items():
        first = find_value(headers, source, detectors[0].hdu) if detectors else None
        text_value = None if first is None else str(first.value)
        rows.append(FactExplanation(f"detector.{fact}", text_value, said_of.get(fact, ""), source.keywords, False))
    return tuple(rows)

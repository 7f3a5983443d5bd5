"""Every key of a profile: what it holds, its default, its meaning; the parser and the manual are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from spica.instruments.base import FRAME_TYPES, MAP_KINDS

Kind = Literal["text", "number", "whole", "flag", "value", "keywords", "regex", "table", "tables"]

ANY_NAME = "NAME"
"""Key of tables whose keys are names that the profile gives (filters, detectors)."""

KIND_WORDS: Mapping[Kind, str] = MappingProxyType(
    {
        "text": "text",
        "number": "number",
        "whole": "whole number",
        "flag": "true or false",
        "value": "text, number, true or false",
        "keywords": "list of keywords",
        "regex": "regular expression",
        "table": "table",
        "tables": "list of tables",
    }
)

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "": "as the house counts: s, degrees, arcsec, electrons, ADU",
        "s": "seconds",
        "ms": "milliseconds",
        "min": "minutes of time",
        "deg": "degrees, also as sexagesimal text `-41:22:31`",
        "hourangle": "hours, also as sexagesimal text `08:06:23.4`",
        "auto_ra": "right ascension: sexagesimal text is hours, a plain number degrees",
        "arcsec": "arcseconds",
        "deg_per_pixel": "degrees, of a pixel scale",
        "altitude_deg": "altitude in degrees, turned into the airmass",
        "deg_west": "longitude in degrees, positive to the west",
    }
)


@dataclass(frozen=True)
class ProfileKey:
    """One key of a profile.

    Parameters
    ----------
    table : str
        Kind of table it stands in, a key of `TABLES`.
    key : str
        The key, or `NAME` where the profile chooses the names.
    kind : str
        What it holds, a key of `KIND_WORDS`.
    text : str
        Its meaning.
    default : str, int, float, bool or None
        What counts where it is left out; None: nothing.
    choices : tuple
        The values allowed; empty: all of the kind.
    holds : str
        Of a table or list of tables: their kind, a key of `TABLES`.
    needed : bool
        Whether it must be there.
    """

    table: str
    key: str
    kind: Kind
    text: str
    default: str | int | float | bool | None = None
    choices: tuple[str | int, ...] = ()
    holds: str = ""
    needed: bool = False


TABLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "top": ("Top of the file", "Before the first `[table]`."),
        "conditions": (
            "Conditions: `[recognise]` `[detectors.select]` `[detectors.processed]` `[detectors.maps.KIND]`",
            "They hold where all of `all`, one of `any` (where there are some) and none of `none` hold.",
        ),
        "condition": (
            "A condition: the rows of `all`, `any`, `none`",
            "One of `keyword` and `file_name`, and one of `equals`, `matches`, `exists`.",
        ),
        "observatory": ("`[observatory]`", "Decides to which night an exposure belongs. East and north are positive."),
        "source": (
            "Where a fact stands: `[facts.FACT]` `[detectors.FACT]` `[observatory.FACT]` `[detectors.group]`",
            "In this order: `value`, the first of `cases` that fits, `bounds`, `keywords`, `default`. "
            "A blank value counts as not stated.",
        ),
        "values": ("`[facts.FACT.values]`", "Words of the header to values; a word that is not here is not stated."),
        "case": ("`[[facts.FACT.cases]]`", "A value for headers that meet conditions."),
        "facts": ("`[facts]`", "Facts of the exposure; each is a table as above."),
        "time": ("`[time]`", "When the exposure was."),
        "time_source": ("`[[time.sources]]`", "Ways to read the time; the first that is there counts."),
        "frame": (
            "`[[frames]]`",
            "Types of frames; the first rule that holds counts, `science` where none does.",
        ),
        "ignored": (
            "`[[ignored]]`",
            "Files that hold images but no exposures; they are passed over, and the reason says what they are.",
        ),
        "filters": ("`[filters]`", "Raw filter names to canonical ones: names, then patterns, then `other`."),
        "filter_names": ("`[filters.names]`", "Raw name, without case, to canonical name."),
        "filter_pattern": ("`[[filters.patterns]]`", "The first that matches counts."),
        "detectors": ("`[detectors]`", "Which units of the file are detectors, and their facts."),
        "readout": (
            "`[[detectors.readouts]]`",
            "Amplifiers inside one unit, in order; they are put together without the gaps between them.",
        ),
        "maps": ("`[detectors.maps]`", "Units of the same file: of the detector's EXTVER, else in the same order."),
        "layout": ("`[layout]`", "Where detectors sit, for headers without a WCS."),
        "places": ("`[layout.detectors]`", "Nominal places by name of the detector."),
        "place": ("`[layout.detectors.NAME]`", "Centre of a detector from the pointing, at position angle 0."),
        "companion": ("`[[companions]]`", "Files beside an image that hold its maps, told by the names of both."),
        "grades": ("`[grades]`", "Limits by filter; those of `default` count where a filter has none."),
        "grade": ("`[grades.NAME]`", "The best grade whose limits all hold is proposed, else D."),
        "limits": ("`[grades.NAME.A]`", "Limits of a grade; what is left out is not asked."),
        "zero_points": ("`[zero_points_mag]`", "SkyProbe is measured against them."),
        "reference_bands": ("`[reference_bands]`", "Which band of the reference catalogue calibrates a filter."),
    }
)
"""Kinds of tables in the order of the manual: heading and a sentence."""

_TOP = (
    ProfileKey("top", "name", "text", "name of the instrument in rules, folders and pages", needed=True),
    ProfileKey("top", "telescope", "text", "name of the telescope; empty: `facts.telescope`", ""),
    ProfileKey("top", "title", "text", "a line for people", ""),
    ProfileKey("top", "priority", "whole", "of several profiles that fit the largest counts", 0),
    ProfileKey("top", "pixel_scale_arcsec", "number", "nominal scale of unbinned pixels; left out: of the header"),
    ProfileKey("top", "parity", "whole", "1: sky seen directly, -1: mirrored (headers without a WCS)", 1, (1, -1)),
    ProfileKey("top", "position_angle_deg", "number", "of +y, from north through east (headers without a WCS)", 0.0),
    ProfileKey("top", "pointing_accuracy_arcmin", "number", "the true centre lies within this of the header's", 3.0),
    ProfileKey(
        "top",
        "checksums",
        "text",
        "a stated CHECKSUM or DATASUM that does not match: `require` rejects the file, `warn` notes it",
        "require",
        ("require", "warn", "ignore"),
    ),
    ProfileKey("top", "dq_bits", "whole", "bits of a data-quality map that make a pixel unusable", 0xFFFFFFFF),
    ProfileKey("top", "recognise", "table", "what headers of this camera fulfil", holds="conditions"),
    ProfileKey("top", "observatory", "table", "where the telescope stands", holds="observatory"),
    ProfileKey("top", "facts", "table", "facts of the exposure", holds="facts"),
    ProfileKey("top", "time", "table", "when the exposure was", holds="time"),
    ProfileKey("top", "frames", "tables", "types of frames", holds="frame"),
    ProfileKey("top", "ignored", "tables", "files that are no exposures", holds="ignored"),
    ProfileKey("top", "filters", "table", "canonical names of filters", holds="filters"),
    ProfileKey("top", "detectors", "table", "units of the file, and their facts", holds="detectors"),
    ProfileKey("top", "layout", "table", "where detectors sit", holds="layout"),
    ProfileKey("top", "companions", "tables", "files beside an image", holds="companion"),
    ProfileKey("top", "grades", "table", "what grades ask for", holds="grades"),
    ProfileKey("top", "zero_points_mag", "table", "nominal zero points", holds="zero_points"),
    ProfileKey("top", "reference_bands", "table", "bands of the reference catalogue", holds="reference_bands"),
)


def _conditions(table: str) -> tuple[ProfileKey, ...]:
    """Return the three lists of conditions of a table."""
    words = {"all": "all of these hold", "any": "one of these holds", "none": "none of these holds"}
    return tuple(ProfileKey(table, key, "tables", text, holds="condition") for key, text in words.items())


_CONDITION = (
    ProfileKey("condition", "keyword", "text", "its value is judged", ""),
    ProfileKey("condition", "file_name", "flag", "the file's name is judged in place of a keyword", False),
    ProfileKey("condition", "equals", "value", "the value, texts without case and blanks around them"),
    ProfileKey("condition", "matches", "regex", "found anywhere in the value; `(?i)`: without case, `^`: at its begin"),
    ProfileKey("condition", "exists", "flag", "whether the keyword is there at all"),
)
_SOURCE = (
    ProfileKey("source", "keywords", "keywords", "in order of preference"),
    ProfileKey("source", "unit", "text", "unit of the keywords (see Units)", "", tuple(UNITS)),
    ProfileKey("source", "value", "value", "literal value, whatever the header says"),
    ProfileKey("source", "default", "value", "value where nothing states one"),
    ProfileKey(
        "source",
        "where",
        "text",
        "headers to look into: `any` is the detector's own, then the primary",
        "any",
        ("primary", "hdu", "any"),
    ),
    ProfileKey("source", "extract", "regex", "take this part of a text: its first group, else all it matches"),
    ProfileKey("source", "skip", "regex", "values it matches count as not stated: `(?i)^(open|clear)`, `^-9999`"),
    ProfileKey("source", "join", "text", "put the stated values of all keywords together with this text between"),
    ProfileKey("source", "times", "keywords", "keywords whose numbers multiply the number found: co-adds, planes"),
    ProfileKey("source", "bounds", "keywords", "four keywords: first and last column, first and last row of a section"),
    ProfileKey("source", "prefix", "text", "put before a text found", ""),
    ProfileKey("source", "values", "table", "words of the header to values", holds="values"),
    ProfileKey("source", "cases", "tables", "values by conditions", holds="case"),
)
_FACT_TEXTS = {
    "object": "field or target; needed for science",
    "exptime": "exposure time in s, of all that the pixels add up; needed",
    "elapsed": "s from start to end where that is longer than `exptime` (co-adds, pauses): sets mid-exposure",
    "filter": "raw filter name; needed for science",
    "ra": "right ascension of the pointing, degrees; without it the header's WCS",
    "dec": "declination of the pointing, degrees",
    "equinox": "equinox of `ra` and `dec`, brought to ICRS; left out: 2000",
    "airmass": "airmass",
    "run": "observing run, which masters and groups go by; left out: the month of the night",
    "telescope": "name of the telescope where the profile has none",
}
_DETECTOR_TEXTS = {
    "name": "name of the detector; left out: DET00, DET01, ...",
    "gain": "electrons per ADU",
    "read_noise": "electrons",
    "saturation": "ADU",
    "pixel_scale": "arcsec per pixel as binned; with `values`: of unbinned pixels",
    "binning": "`2`, `2 2`, `2,4`; multiplies nominal scales",
    "data_section": "pixels of the sky, `[x1:x2,y1:y2]` in FITS pixels of the unit",
    "overscan_section": "overscan that belongs to it",
    "target_section": "where its data lie in the detector (DETSEC), backwards where turned around; binning is seen",
}
_TIME = (
    ProfileKey("time", "sources", "tables", "ways to read the time", holds="time_source"),
    ProfileKey("time", "marks", "text", "which instant of the exposure is stated", "start", ("start", "mid", "end")),
    ProfileKey("time", "clock_ahead_hours", "number", "hours the clock of the header is ahead of UTC", 0.0),
    ProfileKey(
        "time",
        "scale",
        "text",
        "scale of that clock; `header`: TAI where TIMESYS says so, else UTC",
        "utc",
        ("utc", "tai", "header"),
    ),
    ProfileKey("time_source", "form", "text", "a date, or days", "iso", ("iso", "mjd", "jd")),
    ProfileKey(
        "time_source", "keywords", "keywords", "one keyword, or one for the date and one for the clock", needed=True
    ),
    ProfileKey("time_source", "given", "text", "counts only where this keyword is stated", ""),
    ProfileKey("time_source", "extract", "regex", "part of the text: its first group, else all it matches"),
)
_FRAMES_AND_FILTERS = (
    ProfileKey("frame", "type", "text", "what frames that meet the conditions are", "science", FRAME_TYPES),
    *_conditions("frame"),
    ProfileKey("ignored", "what", "text", "what such files are, with its article", needed=True),
    *_conditions("ignored"),
    ProfileKey("filters", "names", "table", "raw names to canonical ones", holds="filter_names"),
    ProfileKey("filters", "patterns", "tables", "patterns of raw names", holds="filter_pattern"),
    ProfileKey(
        "filters", "other", "text", "canonical name of all others; left out: the raw name without odd characters"
    ),
    ProfileKey("filter_names", ANY_NAME, "text", "canonical name"),
    ProfileKey("filter_pattern", "matches", "regex", "found in the raw name", needed=True),
    ProfileKey("filter_pattern", "gives", "text", "canonical name, with groups as `\\1`", needed=True),
)
_DETECTORS = (
    ProfileKey("detectors", "select", "table", "units that are detectors; empty: all", holds="conditions"),
    ProfileKey("detectors", "min_side_pix", "whole", "smaller units are no detectors", 16),
    ProfileKey(
        "detectors",
        "amplifiers",
        "text",
        "each unit is a detector, or units are amplifiers put together by `target_section`",
        "whole",
        ("whole", "assemble"),
    ),
    ProfileKey(
        "detectors", "group", "table", "units that agree in it form one detector; empty: all do", holds="source"
    ),
    ProfileKey("detectors", "readouts", "tables", "amplifiers inside one unit", holds="readout"),
    ProfileKey(
        "detectors", "processed", "table", "detrended frames: read-outs and overscan count no more", holds="conditions"
    ),
    ProfileKey("detectors", "maps", "table", "units that hold weight, error or data quality", holds="maps"),
    ProfileKey(
        "detectors", "planes", "text", "what a cube is reduced to", "refuse", ("refuse", "first", "mean", "sum")
    ),
    ProfileKey("detectors", "use_wcs", "flag", "whether the header's WCS is a first guess", True),
    *(ProfileKey("detectors", fact, "table", text, holds="source") for fact, text in _DETECTOR_TEXTS.items()),
    *(
        ProfileKey("readout", fact, "table", _DETECTOR_TEXTS[fact], holds="source")
        for fact in ("name", "gain", "read_noise", "data_section", "overscan_section", "target_section")
    ),
    *(ProfileKey("maps", kind, "table", f"units that are {kind} maps", holds="conditions") for kind in MAP_KINDS),
)
_PLACES = (
    ProfileKey("layout", "section_keyword", "text", "keyword of a detector's section in the mosaic, as DETSEC", ""),
    ProfileKey("layout", "size_keyword", "text", "keyword of the mosaic's size, as DETSIZE", ""),
    ProfileKey("layout", "detectors", "table", "places by name", holds="places"),
    ProfileKey("places", ANY_NAME, "table", "place of a detector", holds="place"),
    ProfileKey("place", "xi_arcsec", "number", "to the east", needed=True),
    ProfileKey("place", "eta_arcsec", "number", "to the north", needed=True),
    ProfileKey("place", "rotation_deg", "number", "own rotation, from north through east", 0.0),
    ProfileKey("companion", "kind", "text", "what the file holds", "weight", MAP_KINDS),
    ProfileKey("companion", "image", "regex", "matches the image's file name", needed=True),
    ProfileKey("companion", "file", "text", "the companion's file name, with groups of `image` as `\\1`", needed=True),
)
_QUALITY = (
    ProfileKey("grades", ANY_NAME, "table", "a canonical filter, or `default`", holds="grade"),
    *(ProfileKey("grade", grade, "table", f"what grade {grade} asks for", holds="limits") for grade in "ABC"),
    ProfileKey("limits", "seeing_arcsec", "number", "at most"),
    ProfileKey("limits", "ellipticity", "number", "at most"),
    ProfileKey("limits", "background_adu", "number", "at most"),
    ProfileKey("limits", "limiting_mag", "number", "at least"),
    ProfileKey("limits", "n_stars", "whole", "at least"),
    ProfileKey("zero_points", ANY_NAME, "number", "magnitude of 1 ADU/s in that canonical filter"),
    ProfileKey("reference_bands", ANY_NAME, "text", "band of that canonical filter; left out: the filter's name"),
)

PROFILE_KEYS: tuple[ProfileKey, ...] = (
    *_TOP,
    *_conditions("conditions"),
    *_CONDITION,
    ProfileKey("observatory", "longitude", "table", "degrees, east positive; left out: 0", holds="source"),
    ProfileKey("observatory", "latitude", "table", "degrees, north positive", holds="source"),
    *_SOURCE,
    ProfileKey("values", ANY_NAME, "value", "the value, in the house's unit"),
    *_conditions("case"),
    ProfileKey("case", "value", "value", "the value", needed=True),
    *(ProfileKey("facts", fact, "table", text, holds="source") for fact, text in _FACT_TEXTS.items()),
    *_TIME,
    *_FRAMES_AND_FILTERS,
    *_DETECTORS,
    *_PLACES,
    *_QUALITY,
)
"""Every key of every table."""

_BY_TABLE: dict[str, dict[str, ProfileKey]] = {name: {} for name in TABLES}
for _key in PROFILE_KEYS:
    _BY_TABLE[_key.table][_key.key] = _key


def keys_of(table: str) -> Mapping[str, ProfileKey]:
    """Return the keys of a kind of table by name."""
    return _BY_TABLE[table]


def facts_of(table: str) -> tuple[str, ...]:
    """Return the keys of a table that are facts with a source of their own, in order."""
    kept = (key for key in keys_of(table).values() if key.holds == "source")
    return tuple(key.key for key in kept if key.key != "group")

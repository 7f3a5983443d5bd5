"""What a camera is, as its profile describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from spica.files.header import CardValue

FrameType = Literal["science", "flat", "dark", "bias", "other"]
PositionSource = Literal["header_wcs", "pointing"]
Where = Literal["primary", "hdu", "any"]
ChecksumRule = Literal["require", "warn", "ignore"]
MapKind = Literal["weight", "error", "dq"]
Planes = Literal["refuse", "first", "mean", "sum"]

MAP_KINDS: tuple[MapKind, ...] = ("weight", "error", "dq")
FRAME_TYPES: tuple[FrameType, ...] = ("science", "flat", "dark", "bias", "other")
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Condition:
    """A test of one header value (or of the file name): exists, equals (text without case), matches (regex)."""

    keyword: str = ""
    file_name: bool = False
    equals: CardValue = None
    matches: re.Pattern[str] | None = None
    exists: bool | None = None

    def holds(self, value: CardValue, present: bool) -> bool:
        """Judge a value."""
        if self.exists is not None:
            return present == self.exists
        if not present:
            return False
        if self.matches is not None:
            return self.matches.search(str(value).strip()) is not None
        if isinstance(value, str) or isinstance(self.equals, str):
            return str(value).strip().casefold() == str(self.equals).strip().casefold()
        return value == self.equals


@dataclass(frozen=True)
class Conditions:
    """All of `all`, at least one of `any` (where there are some), none of `none`."""

    all: tuple[Condition, ...] = ()
    any: tuple[Condition, ...] = ()
    none: tuple[Condition, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return not (self.all or self.any or self.none)


@dataclass(frozen=True)
class Case:
    """A literal value for headers that meet the conditions."""

    conditions: Conditions
    value: CardValue


@dataclass(frozen=True)
class FactSource:
    """Where a fact stands: keywords in order of preference, their unit, a literal value, a default, a part by regex.

    The value of the first of `cases` whose conditions hold counts before the keywords.

    Values that `skip` matches count as not stated. With `join` the stated values of all keywords are put together with
    that text between. `times` names keywords whose numbers multiply the number found (co-added frames). `bounds` names
    four keywords that hold the first and last column and row of a section. `prefix` is put before a text found.
    `values` translates what is stated (without case; a text that is not in it counts as not stated).
    """

    keywords: tuple[str, ...] = ()
    unit: str = ""
    value: CardValue = None
    default: CardValue = None
    where: Where = "any"
    extract: re.Pattern[str] | None = None
    skip: re.Pattern[str] | None = None
    join: str | None = None
    times: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    prefix: str = ""
    cases: tuple[Case, ...] = ()
    values: Mapping[str, CardValue] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class TimeSource:
    """One way to read the time: form `iso` (date-time, or date and clock keyword), `mjd` or `jd`.

    It counts only where the keyword `given` is stated; `extract` takes a part of the text.
    """

    form: Literal["iso", "mjd", "jd"]
    keywords: tuple[str, ...]
    given: str = ""
    extract: re.Pattern[str] | None = None


@dataclass(frozen=True)
class TimeRules:
    """Ways to read the time in order; hours of the stated clock ahead of UTC; what instant is stated.

    `scale` is that of the stated clock; `header`: atomic time where TIMESYS says TAI, else UTC.
    """

    sources: tuple[TimeSource, ...] = ()
    clock_ahead_hours: float = 0.0
    marks: Literal["start", "mid", "end"] = "start"
    scale: Literal["utc", "tai", "header"] = "utc"


@dataclass(frozen=True)
class FrameRule:
    """Headers that meet the conditions are of this frame type."""

    frame_type: FrameType
    conditions: Conditions


@dataclass(frozen=True)
class IgnoreRule:
    """Files whose headers meet the conditions are no exposures; `what` says what they are."""

    what: str
    conditions: Conditions


@dataclass(frozen=True)
class FilterPattern:
    """A raw filter name that matches gets the canonical name `gives` (regex groups as `\\1`)."""

    matches: re.Pattern[str]
    gives: str


@dataclass(frozen=True)
class FilterRules:
    """Raw filter names to canonical ones: a table (without case), then patterns; else `other` (None: the slug)."""

    names: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    patterns: tuple[FilterPattern, ...] = ()
    other: str | None = None


@dataclass(frozen=True)
class DetectorRules:
    """Which header units are detectors, and where their facts stand.

    `amplifiers` is `whole` (each unit a detector) or `assemble` (units whose `group` fact agrees form one detector, all
    of them where no group is named). `readouts` are amplifiers inside one unit, each with its own sections and gain;
    they are put together without the gaps between them. Both may be stated: a unit that is alone in its group is then
    read by its read-outs. Headers that meet `processed` belong to detrended frames: their overscan was subtracted and
    their gains made equal before, so that read-outs and overscans do not count any more. `maps` are units of the same
    file that hold a detector's weight, error or data quality: of the same EXTVER, else in the same order. `planes` says
    what a cube is reduced to. `use_wcs` says whether a header WCS is trusted as first guess.
    """

    select: Conditions = Conditions()
    amplifiers: Literal["whole", "assemble"] = "whole"
    group: FactSource = FactSource()
    readouts: tuple[Mapping[str, FactSource], ...] = ()
    processed: Conditions = Conditions()
    maps: Mapping[str, Conditions] = field(default_factory=lambda: MappingProxyType({}))
    planes: Planes = "refuse"
    facts: Mapping[str, FactSource] = field(default_factory=lambda: MappingProxyType({}))
    use_wcs: bool = True
    min_side_pix: int = 16


@dataclass(frozen=True)
class DetectorPlace:
    """Nominal centre of a detector on the tangent plane of the pointing, at position angle 0, and its own rotation."""

    xi_arcsec: float
    eta_arcsec: float
    rotation_deg: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Nominal places by detector name; `section_keyword` and `size_keyword` give them from DETSEC within DETSIZE."""

    detectors: Mapping[str, DetectorPlace] = field(default_factory=lambda: MappingProxyType({}))
    section_keyword: str = ""
    size_keyword: str = ""


@dataclass(frozen=True)
class CompanionRule:
    """A file beside an image that holds its weight, error or data quality, told by the names of both.

    `image` matches the image's file name; `file` is the companion's, with the groups of `image` as `\\1`.
    """

    kind: MapKind
    image: re.Pattern[str]
    file: str

    def name_for(self, image_name: str) -> str | None:
        """Return the companion's file name for an image, None where the rule does not speak of that image."""
        found = self.image.search(image_name)
        return found.expand(self.file) if found else None


@dataclass(frozen=True)
class GradeLimits:
    """What a grade asks for: at most seeing, ellipticity, background; at least depth and stars. None: not asked."""

    seeing_arcsec: float | None = None
    ellipticity: float | None = None
    background_adu: float | None = None
    limiting_mag: float | None = None
    n_stars: int | None = None


@dataclass(frozen=True)
class Instrument:
    """A camera as its profile describes it.

    Parameters
    ----------
    name, telescope, title : str
        Name of the instrument (`megaprime`), of the telescope, and a line for people.
    recognise : Conditions
        What headers of this camera fulfil; `file_name` conditions look at the file's name.
    priority : int
        Of several profiles that fit the largest counts.
    pixel_scale_arcsec, parity, position_angle_deg, pointing_accuracy_arcmin
        Nominal scale (None: of the header); +1 sky seen directly, -1 mirrored; angle of +y from north through east;
        radius within which the true centre lies.
    longitude_deg, latitude_deg : FactSource
        East and north positive.
    checksums : {"require", "warn", "ignore"}
        What a stated CHECKSUM or DATASUM that does not match is.
    ignored : tuple of IgnoreRule
        Files of this camera that hold images, but no exposures.
    companions : tuple of CompanionRule
        Files beside an image that hold its maps.
    dq_bits : int
        Bits of a data-quality map that make a pixel unusable.
    source : str
        File the profile was read from, for messages.
    """

    name: str
    telescope: str
    title: str
    recognise: Conditions
    facts: Mapping[str, FactSource]
    time: TimeRules
    frame_rules: tuple[FrameRule, ...]
    filters: FilterRules
    detectors: DetectorRules
    layout: Layout
    longitude_deg: FactSource
    latitude_deg: FactSource
    priority: int = 0
    pixel_scale_arcsec: float | None = None
    parity: int = 1
    position_angle_deg: float = 0.0
    pointing_accuracy_arcmin: float = 3.0
    grades: Mapping[str, Mapping[str, GradeLimits]] = field(default_factory=lambda: MappingProxyType({}))
    zero_points_mag: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    reference_bands: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    checksums: ChecksumRule = "require"
    companions: tuple[CompanionRule, ...] = ()
    ignored: tuple[IgnoreRule, ...] = ()
    dq_bits: int = 0xFFFFFFFF
    source: str = ""

    def grade_limits(self, filter_name: str) -> Mapping[str, GradeLimits]:
        """Return the limits of grades A, B, C in a filter: the filter's own where stated, else the default's."""
        default, own = self.grades.get("default", {}), self.grades.get(filter_name, {})
        return MappingProxyType({grade: own.get(grade, default.get(grade, GradeLimits())) for grade in "ABC"})

    def zero_point_mag(self, filter_name: str) -> float | None:
        """Return the nominal zero point (magnitude of 1 ADU/s), None where the profile has none."""
        return self.zero_points_mag.get(filter_name)

    def reference_band(self, filter_name: str) -> str:
        """Return the reference catalogue's band that calibrates a filter; the filter's name where none is stated."""
        return self.reference_bands.get(filter_name, filter_name)

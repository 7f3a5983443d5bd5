"""Read a camera's TOML profile; every slip is named with file, table and key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

from spica.instruments.base import (
    FRAME_TYPES,
    MAP_KINDS,
    Case,
    CompanionRule,
    Condition,
    Conditions,
    DetectorPlace,
    DetectorRules,
    FactSource,
    FilterPattern,
    FilterRules,
    FrameRule,
    GradeLimits,
    Instrument,
    Layout,
    TimeRules,
    TimeSource,
)
from spica.model.errors import RecipeError

EXPOSURE_FACTS = ("object", "exptime", "elapsed", "filter", "ra", "dec", "equinox", "airmass", "run", "telescope")
READOUT_FACTS = ("name", "gain", "read_noise", "data_section", "overscan_section", "target_section")
DETECTOR_FACTS = (
    "name",
    "gain",
    "read_noise",
    "saturation",
    "pixel_scale",
    "binning",
    "data_section",
    "overscan_section",
    "target_section",
)
UNITS = ("", "s", "ms", "min", "deg", "hourangle", "auto_ra", "arcsec", "deg_per_pixel", "altitude_deg", "deg_west")
MAX_PROFILE_BYTES = 1024 * 1024
_NUMBER = (int, float)


class _Table:
    """One TOML table under its name, which gives out checked values and refuses keys nobody asked for."""

    def __init__(self, source: str, name: str, content: Any) -> None:
        self.source, self.name = source, name
        if not isinstance(content, dict):
            self.fail("", "must be a table")
        self.content: dict[str, Any] = content
        self.asked: set[str] = set()

    def fail(self, key: str, reason: str) -> NoReturn:
        place = f"table [{self.name}]" if self.name else "top level"
        where = f"{self.source}, {place}" + (f", key '{key}'" if key else "")
        raise RecipeError(f"{where}: {reason}; edit the profile", file=self.source, table=self.name, key=key)

    def get(self, key: str, kinds: tuple[type, ...], default: Any = None, needed: bool = False) -> Any:
        self.asked.add(key)
        if key not in self.content:
            if needed:
                self.fail(key, "is missing")
            return default
        value = self.content[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fail(key, f"is {value!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")
        return value

    def text(self, key: str, default: str = "", needed: bool = False) -> str:
        return cast(str, self.get(key, (str,), default, needed))

    def number(self, key: str, default: float | None = None) -> float | None:
        value = self.get(key, _NUMBER, default)
        return None if value is None else float(value)

    def choice(self, key: str, options: tuple[str, ...], default: str) -> str:
        value = self.text(key, default)
        if value not in options:
            self.fail(key, f"is {value!r}, use one of {', '.join(repr(option) for option in options)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.get(key, (list,), [])
        if not all(isinstance(value, str) and value.strip() for value in values):
            self.fail(key, "must be a list of words")
        return tuple(values)

    def pattern(self, key: str) -> re.Pattern[str] | None:
        text = self.get(key, (str,))
        if text is None:
            return None
        try:
            return re.compile(text)
        except re.error as trouble:
            self.fail(key, f"is no regular expression ({trouble})")

    def table(self, key: str) -> _Table:
        return _Table(self.source, f"{self.name}.{key}".strip("."), self.get(key, (dict,), {}))

    def tables(self, key: str) -> list[_Table]:
        rows = self.get(key, (list,), [])
        return [_Table(self.source, f"{self.name}.{key}[{i}]".strip("."), row) for i, row in enumerate(rows)]

    def done(self) -> None:
        for key in self.content:
            if key not in self.asked:
                self.fail(key, f"is not known here; known are {', '.join(sorted(self.asked))}")


def _conditions(table: _Table) -> Conditions:
    parts = {key: tuple(_condition(row) for row in table.tables(key)) for key in ("all", "any", "none")}
    table.done()
    return Conditions(**parts)


def _condition(table: _Table) -> Condition:
    keyword, file_name = table.text("keyword"), bool(table.get("file_name", (bool,), False))
    equals = table.get("equals", (str, int, float, bool))
    condition = Condition(keyword, file_name, equals, table.pattern("matches"), table.get("exists", (bool,)))
    table.done()
    if bool(keyword) == file_name:
        table.fail("keyword", "name a keyword, or set file_name = true")
    if sum(part is not None for part in (equals, condition.matches, condition.exists)) != 1:
        table.fail("equals", "give exactly one of equals, matches, exists")
    return condition


def _source(table: _Table) -> FactSource:
    source = FactSource(
        keywords=table.texts("keywords"),
        unit=table.choice("unit", UNITS, ""),
        value=table.get("value", (str, int, float, bool)),
        default=table.get("default", (str, int, float, bool)),
        where=cast(Any, table.choice("where", ("primary", "hdu", "any"), "any")),
        extract=table.pattern("extract"),
        skip=table.pattern("skip"),
        join=table.get("join", (str,)),
        times=table.texts("times"),
        bounds=table.texts("bounds"),
        cases=_cases(table),
        prefix=table.text("prefix"),
        values=_values(table.table("values")),
    )
    table.done()
    if source.bounds and len(source.bounds) != 4:
        table.fail("bounds", "name four keywords: first and last column, first and last row")
    return source


def _values(table: _Table) -> Mapping[str, str | int | float | bool]:
    found = {key.strip().casefold(): table.get(key, (str, int, float, bool)) for key in list(table.content)}
    return MappingProxyType(found)


def _cases(table: _Table) -> tuple[Case, ...]:
    cases = []
    for row in table.tables("cases"):
        parts = {key: tuple(_condition(part) for part in row.tables(key)) for key in ("all", "any", "none")}
        cases.append(Case(Conditions(**parts), row.get("value", (str, int, float, bool), needed=True)))
        row.done()
    return tuple(cases)


def _sources(table: _Table, names: tuple[str, ...]) -> Mapping[str, FactSource]:
    found = {name: _source(table.table(name)) for name in names if name in table.content}
    table.asked.update(names)
    table.done()
    return MappingProxyType(found)


def _time(table: _Table) -> TimeRules:
    sources = []
    for row in table.tables("sources"):
        form = row.choice("form", ("iso", "mjd", "jd"), "iso")
        keywords = row.texts("keywords")
        if not 1 <= len(keywords) <= 2:
            row.fail("keywords", "name one keyword, or a date and a clock keyword")
        sources.append(TimeSource(cast(Any, form), keywords, row.text("given"), row.pattern("extract")))
        row.done()
    marks = table.choice("marks", ("start", "mid", "end"), "start")
    scale = table.choice("scale", ("utc", "tai", "header"), "utc")
    rules = TimeRules(tuple(sources), table.number("clock_ahead_hours", 0.0) or 0.0, cast(Any, marks), cast(Any, scale))
    table.done()
    return rules


def _filters(table: _Table) -> FilterRules:
    names = table.table("names")
    for key in names.content:
        names.text(key)
    patterns = []
    for row in table.tables("patterns"):
        pattern = row.pattern("matches")
        if pattern is None:
            row.fail("matches", "is missing")
        patterns.append(FilterPattern(pattern, row.text("gives", needed=True)))
        row.done()
    rules = FilterRules(
        MappingProxyType({key.strip().casefold(): value for key, value in names.content.items()}),
        tuple(patterns),
        table.get("other", (str,)),
    )
    table.done()
    return rules


def _frame_rules(top: _Table) -> tuple[FrameRule, ...]:
    rules = []
    for row in top.tables("frames"):
        frame_type = row.choice("type", FRAME_TYPES, "science")
        parts = {key: tuple(_condition(part) for part in row.tables(key)) for key in ("all", "any", "none")}
        row.done()
        rules.append(FrameRule(cast(Any, frame_type), Conditions(**parts)))
    return tuple(rules)


def _detectors(table: _Table) -> DetectorRules:
    rules = DetectorRules(
        select=_conditions(table.table("select")),
        amplifiers=cast(Any, table.choice("amplifiers", ("whole", "assemble"), "whole")),
        group=_source(table.table("group")),
        readouts=tuple(_sources(row, READOUT_FACTS) for row in table.tables("readouts")),
        processed=_conditions(table.table("processed")),
        maps=_maps(table.table("maps")),
        planes=cast(Any, table.choice("planes", ("refuse", "first", "mean", "sum"), "refuse")),
        facts=MappingProxyType({n: _source(table.table(n)) for n in DETECTOR_FACTS if n in table.content}),
        use_wcs=bool(table.get("use_wcs", (bool,), True)),
        min_side_pix=int(table.get("min_side_pix", (int,), 16)),
    )
    table.asked.update(DETECTOR_FACTS)
    table.done()
    return rules


def _maps(table: _Table) -> Mapping[str, Conditions]:
    found: dict[str, Conditions] = {k: _conditions(table.table(k)) for k in MAP_KINDS if k in table.content}
    table.asked.update(MAP_KINDS)
    table.done()
    return MappingProxyType(found)


def _companions(top: _Table) -> tuple[CompanionRule, ...]:
    rules = []
    for row in top.tables("companions"):
        kind, image = row.choice("kind", MAP_KINDS, "weight"), row.pattern("image")
        if image is None:
            row.fail("image", "is missing")
        rules.append(CompanionRule(cast(Any, kind), image, row.text("file", needed=True)))
        row.done()
    return tuple(rules)


def _layout(table: _Table) -> Layout:
    places = table.table("detectors")
    found = {}
    for name in places.content:
        row = places.table(name)
        xi, eta = row.number("xi_arcsec"), row.number("eta_arcsec")
        if xi is None or eta is None:
            row.fail("xi_arcsec", "give xi_arcsec and eta_arcsec")
        found[name] = DetectorPlace(xi, eta, row.number("rotation_deg", 0.0) or 0.0)
        row.done()
    layout = Layout(MappingProxyType(found), table.text("section_keyword"), table.text("size_keyword"))
    table.done()
    return layout


def _grades(table: _Table) -> Mapping[str, Mapping[str, GradeLimits]]:
    found = {}
    for filter_name in table.content:
        of_filter = table.table(filter_name)
        limits = {}
        for grade in of_filter.content:
            if grade not in {"A", "B", "C"}:
                of_filter.fail(grade, "is no grade, use A, B or C")
            row = of_filter.table(grade)
            n_stars = row.get("n_stars", (int,))
            values = {
                key: row.number(key) for key in ("seeing_arcsec", "ellipticity", "background_adu", "limiting_mag")
            }
            limits[grade] = GradeLimits(**values, n_stars=n_stars)
            row.done()
        found[filter_name] = MappingProxyType(limits)
    return MappingProxyType(found)


def _by_filter(table: _Table, kinds: tuple[type, ...]) -> Mapping[str, Any]:
    return MappingProxyType({key: table.get(key, kinds) for key in list(table.content)})


def parse_profile(text: str, source: str) -> Instrument:
    """Turn the text of a profile into an `Instrument`; RecipeError names file, table and key of the first slip."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as trouble:
        raise RecipeError(f"{source} is no valid TOML ({trouble}); edit the profile", file=source) from trouble
    top = _Table(source, "", content)
    observatory = top.table("observatory")
    parity = top.get("parity", (int,), 1)
    if parity not in {1, -1}:
        top.fail("parity", f"is {parity}, use 1 (sky seen directly) or -1 (mirrored)")
    scale = top.number("pixel_scale_arcsec")
    if scale is not None and not scale > 0:
        top.fail("pixel_scale_arcsec", "must be positive")
    instrument = Instrument(
        name=top.text("name", needed=True),
        telescope=top.text("telescope"),
        title=top.text("title"),
        recognise=_conditions(top.table("recognise")),
        facts=_sources(top.table("facts"), EXPOSURE_FACTS),
        time=_time(top.table("time")),
        frame_rules=_frame_rules(top),
        filters=_filters(top.table("filters")),
        detectors=_detectors(top.table("detectors")),
        layout=_layout(top.table("layout")),
        longitude_deg=_source(observatory.table("longitude")),
        latitude_deg=_source(observatory.table("latitude")),
        priority=int(top.get("priority", (int,), 0)),
        pixel_scale_arcsec=scale,
        parity=parity,
        position_angle_deg=top.number("position_angle_deg", 0.0) or 0.0,
        pointing_accuracy_arcmin=top.number("pointing_accuracy_arcmin", 3.0) or 3.0,
        grades=_grades(top.table("grades")),
        zero_points_mag=_by_filter(top.table("zero_points_mag"), _NUMBER),
        reference_bands=_by_filter(top.table("reference_bands"), (str,)),
        checksums=cast(Any, top.choice("checksums", ("require", "warn", "ignore"), "require")),
        companions=_companions(top),
        dq_bits=int(top.get("dq_bits", (int,), 0xFFFFFFFF)),
        source=source,
    )
    observatory.done()
    top.done()
    return instrument


def read_profile(path: str | os.PathLike[str]) -> Instrument:
    """Read one profile file; RecipeError where it is missing, not UTF-8, or has a slip."""
    path = Path(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_PROFILE_BYTES)
        return parse_profile(raw.decode("utf-8"), path.name)
    except OSError as trouble:
        raise RecipeError(f"the profile {path} cannot be read ({trouble.strerror}); check its folder") from trouble
    except UnicodeDecodeError as trouble:
        raise RecipeError(f"{path.name} is not UTF-8 text ({trouble.reason}); save it as UTF-8") from trouble

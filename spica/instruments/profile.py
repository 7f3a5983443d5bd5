"""Read a camera's TOML profile; every slip is named with file, table and key."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from spica.instruments.base import (
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
    IgnoreRule,
    Instrument,
    Layout,
    TimeRules,
    TimeSource,
)
from spica.instruments.keys import ANY_NAME, Kind, facts_of, keys_of
from spica.model.errors import RecipeError

MAX_PROFILE_BYTES = 1024 * 1024
_TYPES: Mapping[Kind, tuple[type, ...]] = MappingProxyType(
    {
        "text": (str,),
        "number": (int, float),
        "whole": (int,),
        "flag": (bool,),
        "value": (str, int, float, bool),
        "keywords": (list,),
        "regex": (str,),
        "table": (dict,),
        "tables": (list,),
    }
)


class _Table:
    """One TOML table of a kind, under its name: gives out checked values, and refuses keys that its kind has not."""

    def __init__(self, source: str, name: str, kind: str, content: Any) -> None:
        self.source, self.name, self.keys = source, name, keys_of(kind)
        if not isinstance(content, dict):
            self.fail("", "must be a table")
        self.content: dict[str, Any] = content
        for key in content:
            if key not in self.keys and ANY_NAME not in self.keys:
                self.fail(key, f"is not known here; known are {', '.join(sorted(self.keys))}")

    def fail(self, key: str, reason: str) -> NoReturn:
        place = f"table [{self.name}]" if self.name else "top level"
        where = f"{self.source}, {place}" + (f", key '{key}'" if key else "")
        raise RecipeError(f"{where}: {reason}; edit the profile", file=self.source, table=self.name, key=key)

    def get(self, key: str) -> Any:
        """Return the value of a key as its kind says: checked, patterns compiled; where it is not there the default."""
        declared = self.keys[key if key in self.keys else ANY_NAME]
        if key not in self.content:
            if declared.needed:
                self.fail(key, "is missing")
            return () if declared.kind == "keywords" else declared.default
        value: Any = self.content[key]
        kinds = _TYPES[declared.kind]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.fail(key, f"is {value!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")
        if declared.choices and value not in declared.choices:
            self.fail(key, f"is {value!r}, use one of {', '.join(repr(choice) for choice in declared.choices)}")
        return self._read(declared.kind, key, value)

    def _read(self, kind: Kind, key: str, value: Any) -> Any:
        if kind == "keywords":
            return self._words(key, value)
        if kind == "regex":
            return self._pattern(key, value)
        return float(value) if kind == "number" else value

    def _words(self, key: str, values: list[Any]) -> tuple[str, ...]:
        if not all(isinstance(value, str) and value.strip() for value in values):
            self.fail(key, "must be a list of words")
        return tuple(values)

    def _pattern(self, key: str, text: str) -> re.Pattern[str]:
        try:
            return re.compile(text)
        except re.error as trouble:
            self.fail(key, f"is no regular expression ({trouble})")

    def _holds(self, key: str) -> str:
        return self.keys[key if key in self.keys else ANY_NAME].holds

    def table(self, key: str) -> _Table:
        content = self.get(key)
        return _Table(
            self.source, f"{self.name}.{key}".strip("."), self._holds(key), {} if content is None else content
        )

    def tables(self, key: str) -> list[_Table]:
        rows = self.get(key) or []
        kind = self._holds(key)
        return [_Table(self.source, f"{self.name}.{key}[{i}]".strip("."), kind, row) for i, row in enumerate(rows)]

    def named(self) -> Mapping[str, Any]:
        """Return the values of a table whose keys are names."""
        return MappingProxyType({key: self.get(key) for key in self.content})


def _conditions(table: _Table) -> Conditions:
    return Conditions(**{key: tuple(_condition(row) for row in table.tables(key)) for key in ("all", "any", "none")})


def _condition(table: _Table) -> Condition:
    parts = {key: table.get(key) for key in ("keyword", "file_name", "equals", "matches", "exists")}
    if bool(parts["keyword"]) == parts["file_name"]:
        table.fail("keyword", "name a keyword, or set file_name = true")
    if sum(parts[key] is not None for key in ("equals", "matches", "exists")) != 1:
        table.fail("equals", "give exactly one of equals, matches, exists")
    return Condition(**parts)


def _source(table: _Table) -> FactSource:
    plain = ("keywords", "unit", "value", "default", "where", "extract", "skip", "join", "times", "bounds", "prefix")
    source = FactSource(
        **{key: table.get(key) for key in plain},
        cases=tuple(Case(_conditions(row), row.get("value")) for row in table.tables("cases")),
        values=_without_case(table.table("values")),
    )
    if source.bounds and len(source.bounds) != 4:
        table.fail("bounds", "name four keywords: first and last column, first and last row")
    return source


def _without_case(table: _Table) -> Mapping[str, Any]:
    return MappingProxyType({key.strip().casefold(): value for key, value in table.named().items()})


def _sources(table: _Table, names: tuple[str, ...]) -> Mapping[str, FactSource]:
    return MappingProxyType({name: _source(table.table(name)) for name in names if name in table.content})


def _time(table: _Table) -> TimeRules:
    sources = []
    for row in table.tables("sources"):
        parts = {key: row.get(key) for key in ("form", "keywords", "given", "extract")}
        if not 1 <= len(parts["keywords"]) <= 2:
            row.fail("keywords", "name one keyword, or a date and a clock keyword")
        sources.append(TimeSource(**parts))
    return TimeRules(tuple(sources), **{key: table.get(key) for key in ("clock_ahead_hours", "marks", "scale")})


def _filters(table: _Table) -> FilterRules:
    patterns = tuple(FilterPattern(row.get("matches"), row.get("gives")) for row in table.tables("patterns"))
    return FilterRules(_without_case(table.table("names")), patterns, table.get("other"))


def _detectors(table: _Table) -> DetectorRules:
    maps = table.table("maps")
    return DetectorRules(
        select=_conditions(table.table("select")),
        group=_source(table.table("group")),
        readouts=tuple(_sources(row, facts_of("readout")) for row in table.tables("readouts")),
        processed=_conditions(table.table("processed")),
        maps=MappingProxyType({kind: _conditions(maps.table(kind)) for kind in MAP_KINDS if kind in maps.content}),
        facts=_sources(table, facts_of("detectors")),
        **{key: table.get(key) for key in ("amplifiers", "planes", "use_wcs", "min_side_pix")},
    )


def _layout(table: _Table) -> Layout:
    places = table.table("detectors")
    found = {}
    for name in places.content:
        row = places.table(name)
        if not {"xi_arcsec", "eta_arcsec"} <= row.content.keys():
            row.fail("xi_arcsec", "give xi_arcsec and eta_arcsec")
        found[name] = DetectorPlace(row.get("xi_arcsec"), row.get("eta_arcsec"), row.get("rotation_deg"))
    return Layout(MappingProxyType(found), table.get("section_keyword"), table.get("size_keyword"))


def _grades(table: _Table) -> Mapping[str, Mapping[str, GradeLimits]]:
    found = {}
    for filter_name in table.content:
        of_filter = table.table(filter_name)
        rows = {grade: of_filter.table(grade) for grade in of_filter.content}
        limits = {grade: GradeLimits(**{key: row.get(key) for key in row.keys}) for grade, row in rows.items()}
        found[filter_name] = MappingProxyType(limits)
    return MappingProxyType(found)


def parse_profile(text: str, source: str) -> Instrument:
    """Turn the text of a profile into an `Instrument`; RecipeError names file, table and key of the first slip."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as trouble:
        raise RecipeError(f"{source} is no valid TOML ({trouble}); edit the profile", file=source) from trouble
    top = _Table(source, "", "top", content)
    for key in ("pixel_scale_arcsec", "pointing_accuracy_arcmin"):
        value = top.get(key)
        if value is not None and not value > 0:
            top.fail(key, "must be positive")
    observatory = top.table("observatory")
    plain = (key.key for key in keys_of("top").values() if not key.holds)
    return Instrument(
        **{key: top.get(key) for key in plain},
        recognise=_conditions(top.table("recognise")),
        facts=_sources(top.table("facts"), facts_of("facts")),
        time=_time(top.table("time")),
        frame_rules=tuple(FrameRule(row.get("type"), _conditions(row)) for row in top.tables("frames")),
        ignored=tuple(IgnoreRule(row.get("what"), _conditions(row)) for row in top.tables("ignored")),
        filters=_filters(top.table("filters")),
        detectors=_detectors(top.table("detectors")),
        layout=_layout(top.table("layout")),
        longitude_deg=_source(observatory.table("longitude")),
        latitude_deg=_source(observatory.table("latitude")),
        grades=_grades(top.table("grades")),
        zero_points_mag=top.table("zero_points_mag").named(),
        reference_bands=top.table("reference_bands").named(),
        companions=tuple(
            CompanionRule(row.get("kind"), row.get("image"), row.get("file")) for row in top.tables("companions")
        ),
        source=source,
    )


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

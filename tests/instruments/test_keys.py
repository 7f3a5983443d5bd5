"""The table of keys and the parser are of one mind: every key is read as its kind, and no other is taken."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest

from spica.instruments.keys import (
    ANY_NAME,
    KIND_WORDS,
    PROFILE_KEYS,
    TABLES,
    UNITS,
    ProfileKey,
    facts_of,
    keys_of,
)
from spica.instruments.lookup import to_number
from spica.instruments.profile import parse_profile
from spica.model.errors import RecipeError

CONDITION = {"keyword": "A", "exists": True}
CONDITIONS: dict[str, dict[str, Any]] = {
    "keyword": {"keyword": "B"},
    "file_name": {"keyword": None, "file_name": True},
    "equals": {"exists": None, "equals": 4},
    "matches": {"exists": None, "matches": "a+"},
    "exists": {"exists": False},
}
"""Changes of that condition by which each of its keys shows."""
SOURCE = {"keywords": ["A"]}
LEAST: dict[str, dict[str, Any]] = {
    "top": {"name": "x"},
    "condition": CONDITION,
    "source": SOURCE,
    "case": {"value": 1},
    "time_source": {"keywords": ["A"]},
    "filter_pattern": {"matches": "a", "gives": "b"},
    "place": {"xi_arcsec": 1.0, "eta_arcsec": 2.0},
    "companion": {"image": "a", "file": "b"},
    "ignored": {"what": "a mask"},
}
"""The least that a table of each kind must hold."""
PLACES: dict[str, tuple[str | int, ...]] = {
    "top": (),
    "conditions": ("recognise",),
    "condition": ("recognise", "all", 0),
    "observatory": ("observatory",),
    "source": ("facts", "object"),
    "values": ("facts", "object", "values"),
    "case": ("facts", "object", "cases", 0),
    "facts": ("facts",),
    "time": ("time",),
    "time_source": ("time", "sources", 0),
    "frame": ("frames", 0),
    "ignored": ("ignored", 0),
    "filters": ("filters",),
    "filter_names": ("filters", "names"),
    "filter_pattern": ("filters", "patterns", 0),
    "detectors": ("detectors",),
    "readout": ("detectors", "readouts", 0),
    "maps": ("detectors", "maps"),
    "layout": ("layout",),
    "places": ("layout", "detectors"),
    "place": ("layout", "detectors", "c"),
    "companion": ("companions", 0),
    "grades": ("grades",),
    "grade": ("grades", "r"),
    "limits": ("grades", "r", "A"),
    "zero_points": ("zero_points_mag",),
    "reference_bands": ("reference_bands",),
}
"""Where a table of each kind stands."""
GOOD: dict[str, Any] = {
    "text": "word",
    "number": 2.5,
    "whole": 3,
    "flag": True,
    "value": 4,
    "keywords": ["K", "L"],
    "regex": "a+",
    "table": {},
    "tables": [],
}
BAD: dict[str, Any] = {
    "text": 1,
    "number": "one",
    "whole": 1.5,
    "flag": 1,
    "value": [1],
    "keywords": [1],
    "regex": "(",
    "table": 1,
    "tables": {},
}


def _toml(value: Any) -> str:
    """Return a value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return "[" + ", ".join(map(_toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def _parse(content: dict[str, Any]):
    return parse_profile("\n".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in content.items()), "x.toml")


def _profile(table: str, changes: dict[str, Any], without: str = "") -> dict[str, Any]:
    """Return a profile with the least of a table of a kind, changed."""
    content = copy.deepcopy(LEAST["top"])
    at: Any = content
    kind = "top"
    for step in PLACES[table]:
        if isinstance(step, int):
            at.append({})
            at = at[0]
            continue
        declared = keys_of(kind).get(step) or keys_of(kind)[ANY_NAME]
        kind = declared.holds
        at[step] = [] if declared.kind == "tables" else {}
        at = at[step]
        if declared.kind == "table":
            at.update(copy.deepcopy(LEAST.get(kind, {})))
    if kind != "top":
        at.update(copy.deepcopy(LEAST.get(kind, {})))
    assert kind == table
    at.update(changes)
    at.pop(without, None)
    return content


def _name(key: ProfileKey) -> str:
    return "r" if key.key == ANY_NAME and key.table != "places" else "c" if key.key == ANY_NAME else key.key


def _value(key: ProfileKey) -> dict[str, Any]:
    """Return a good value of a key other than its default, with what it asks for besides."""
    if key.holds:
        least = copy.deepcopy(LEAST.get(key.holds, {}))
        if key.holds in {"conditions", "frame"}:
            least = {"all": [CONDITION]} | ({"type": "flat"} if key.holds == "frame" else {})
        inner = next((k for k in keys_of(key.holds).values() if not k.holds), None)
        if not least and inner is not None:
            least = _value(inner)
        if not least:
            least = _value(next(iter(keys_of(key.holds).values())))
        return {_name(key): least if key.kind == "table" else [least]}
    if key.table == "condition":
        return CONDITIONS[key.key]
    if key.key == "bounds":
        return {"bounds": ["A", "B", "C", "D"]}
    other = [choice for choice in key.choices if choice != key.default]
    good = not key.default if key.kind == "flag" else GOOD[key.kind]
    return {_name(key): other[0] if other else good}


def _without_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _without_none(v) for k, v in content.items() if v is not None}
    return [_without_none(v) for v in content] if isinstance(content, list) else content


@pytest.mark.parametrize("key", PROFILE_KEYS, ids=lambda k: f"{k.table}.{k.key}")
def test_each_key_is_read_as_its_kind_and_makes_a_difference(key):
    changes = _value(key)
    told = _parse(_without_none(_profile(key.table, changes)))
    without = _parse(_profile(key.table, {}, "" if key.needed or key.table == "condition" else key.key))
    assert told != without
    with pytest.raises(RecipeError) as caught:
        _parse(_without_none(_profile(key.table, {**changes, _name(key): BAD[key.kind]})))
    assert caught.value.values["key"] in {_name(key), ""}


@pytest.mark.parametrize("table", TABLES)
def test_an_unknown_key_is_refused_with_those_that_are_known(table):
    if ANY_NAME in keys_of(table):
        assert set(keys_of(table)) == {ANY_NAME}
        return
    with pytest.raises(RecipeError, match="is not known here") as caught:
        _parse(_profile(table, {"odd": 1}))
    assert caught.value.values["key"] == "odd"
    assert ", ".join(sorted(keys_of(table))) in str(caught.value)


@pytest.mark.parametrize("key", [k for k in PROFILE_KEYS if k.choices], ids=lambda k: f"{k.table}.{k.key}")
def test_choices_are_all_taken_and_no_others(key):
    for choice in key.choices:
        _parse(_profile(key.table, {key.key: choice}))
    wrong = 7 if isinstance(key.choices[0], int) else "odd"
    with pytest.raises(RecipeError, match="use one of") as caught:
        _parse(_profile(key.table, {key.key: wrong}))
    assert all(repr(choice) in str(caught.value) for choice in key.choices)


@pytest.mark.parametrize("key", [k for k in PROFILE_KEYS if k.needed], ids=lambda k: f"{k.table}.{k.key}")
def test_needed_keys_are_asked_for(key):
    with pytest.raises(RecipeError, match=r"is missing|give xi_arcsec and eta_arcsec"):
        _parse(_profile(key.table, {}, key.key))


def test_defaults_are_those_of_the_instrument():
    camera = _parse({"name": "x"})
    fields = {f.name: f.default for f in dataclasses.fields(camera) if f.default is not dataclasses.MISSING}
    stated = {k.key: k.default for k in keys_of("top").values() if not k.holds and not k.needed}
    assert {k: v for k, v in fields.items() if k in stated} == {k: v for k, v in stated.items() if k in fields}
    assert (camera.time.marks, camera.detectors.planes, camera.detectors.min_side_pix) == ("start", "refuse", 16)


def test_every_unit_is_understood_and_every_key_has_its_words():
    assert all(to_number(30.0, unit) is not None for unit in UNITS)
    assert all(UNITS.values())
    assert all(k.text and k.kind in KIND_WORDS and (not k.holds or k.holds in TABLES) for k in PROFILE_KEYS)
    assert len({(k.table, k.key) for k in PROFILE_KEYS}) == len(PROFILE_KEYS)
    assert {k.holds for k in PROFILE_KEYS if k.holds} | {"top"} == set(TABLES)
    assert "group" not in facts_of("detectors")
    assert facts_of("detectors")[:2] == ("name", "gain")


def test_a_radius_without_size_is_refused():
    with pytest.raises(RecipeError, match="must be positive"):
        _parse({"name": "x", "pointing_accuracy_arcmin": 0})

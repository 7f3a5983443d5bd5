"""Frozen dataclasses to JSON and back: the one codec of requests, inputs, results and contracts.

Strict on the way in: an unknown or missing key, or a value of another type, is a `DataError` that names the
place. NaN and infinities become null: unknown has one spelling.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Hashable
from typing import Any, TypeVar

from spica.model.errors import DataError

T = TypeVar("T")


_AS_IT_IS = frozenset({str, int, bool, type(None)})


@functools.cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


def to_json(value: Any) -> Any:
    """Return plain lists, dicts, numbers and strings for a dataclass (recursively); NaN becomes None."""
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [v if type(v) in _AS_IT_IS else to_json(v) for v in value]
    if dataclasses.is_dataclass(kind):
        return {n: v if type(v := getattr(value, n)) in _AS_IT_IS else to_json(v) for n in _names(kind)}
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    return _number(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool | int | str):
        return value
    number = float(value)  # float and numpy scalars
    return number if math.isfinite(number) else None


_FORM = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces; equal values give equal text."""
    return _FORM.encode(to_json(value))


def canonical_sha256(value: Any) -> str:
    """Return the SHA-256 (hexadecimal) of the canonical JSON text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_json(cls: type[T], data: Any, where: str = "") -> T:
    """Build a dataclass from plain JSON data.

    Raises
    ------
    DataError
        Where a key is missing or unknown, or a value has another type; the message names the place.
    """
    place = where or cls.__name__
    if not isinstance(data, dict):
        raise DataError(f"{place}: an object was expected, found {type(data).__name__}; write the file again")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise DataError(f"{place}: unknown key {unknown[0]!r}; it was written by another version of Spica")
    hints = _hints(typing.cast(Hashable, cls))
    values = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{place}.{name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise DataError(f"{place}: key {name!r} is missing; write the file again")
    return cls(**values)


def _value(hint: Any, data: Any, place: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _union(hint, data, place)
    if origin in (tuple, list):
        return _sequence(hint, data, place)
    if origin is dict:
        if not isinstance(data, dict):
            raise _mismatch(place, "an object", data)
        inner = typing.get_args(hint)[1]
        return {k: _value(inner, v, f"{place}.{k}") for k, v in data.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), data, place)
    return _scalar(hint, data, place)


def _union(hint: Any, data: Any, place: str) -> Any:
    members = typing.get_args(hint)
    if data is None and type(None) in members:
        return None
    problem = None
    for member in (m for m in members if m is not type(None)):
        try:
            return _value(member, data, place)
        except DataError as error:
            problem = problem or error
    raise problem or _mismatch(place, "null", data)


def _sequence(hint: Any, data: Any, place: str) -> Any:
    if not isinstance(data, list | tuple):
        raise _mismatch(place, "a list", data)
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        if len(data) != len(inner):
            raise _mismatch(place, f"a list of {len(inner)}", data)
        return tuple(_value(h, v, f"{place}[{i}]") for i, (h, v) in enumerate(zip(inner, data, strict=True)))
    items = [_value(inner[0], v, f"{place}[{i}]") for i, v in enumerate(data)]
    return tuple(items) if typing.get_origin(hint) is tuple else items


def _scalar(hint: Any, data: Any, place: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(data)
        except ValueError:
            raise _mismatch(place, "one of " + " ".join(str(m.value) for m in hint), data) from None
    if hint is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not math.isfinite(data):
            raise _mismatch(place, "a finite number or null", data)
        return float(data)
    if hint is int and isinstance(data, bool):
        raise _mismatch(place, "int", data)
    if isinstance(hint, type) and isinstance(data, hint):
        return data
    raise _mismatch(place, getattr(hint, "__name__", str(hint)), data)


def _mismatch(place: str, expected: str, data: Any) -> DataError:
    return DataError(f"{place}: {expected} was expected, found {str(data)[:60]!r}; write the file again")

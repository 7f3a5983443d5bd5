"""The meaning of a rule: true, false or unknown for one image, and why not."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date
from typing import Any

from spica.model.errors import RecipeError
from spica.model.selection.fields import FIELDS, Candidate, Field, FieldKind, compared, known_value, like
from spica.model.selection.rule import (
    And,
    Between,
    Compare,
    InList,
    IsKnown,
    Leaf,
    Like,
    Not,
    OneOf,
    Or,
    Rule,
    Within,
    fields_of,
    format_rule,
    leaves,
)

Truth = bool | None
"""True, False, or None where an unknown value leaves it open."""

Lists = Mapping[str, AbstractSet[str]]
"""Names of images by the name of the list that holds them."""

NO_LISTS: Lists = {}

ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Clause:
    """The part of a rule that kept an image out.

    `text` is the clause, `value` what it saw ("unknown" where it was), `unknown` whether that left it open rather
    than false, `subject` the field, empty where there are several.
    """

    text: str
    value: str
    unknown: bool
    subject: str = ""

    @property
    def sentence(self) -> str:
        """The reason in words: `skyprobe unknown`, or `seeing < 0.8: 0.97`."""
        if self.unknown and self.subject:
            return f"{self.subject} unknown"
        return f"{self.text}: {self.value}"


def evaluate(rule: Rule, candidate: Candidate, lists: Lists = NO_LISTS) -> Truth:
    """Return whether a rule holds for an image: True, False, or None (unknown); only True takes it.

    A comparison with an unknown value is unknown; `and`, `or`, `not` follow Kleene's logic, as SQL does. Tags and
    lists are always known.

    Raises
    ------
    RecipeError
        The rule asks for a list that is not in `lists`.
    """
    match rule:
        case And(rules):
            return _all([evaluate(r, candidate, lists) for r in rules])
        case Or(rules):
            return _negated(_all([_negated(evaluate(r, candidate, lists)) for r in rules]))
        case Not(inner):
            return _negated(evaluate(inner, candidate, lists))
        case leaf:
            return _leaf_truth(leaf, candidate, lists)


def _all(truths: list[Truth]) -> Truth:
    if False in truths:
        return False
    return None if None in truths else True


def _negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def _leaf_truth(leaf: Leaf, candidate: Candidate, lists: Lists) -> Truth:
    match leaf:
        case Within():
            return _is_within(candidate, leaf)
        case InList(name):
            return candidate.name in named_list(lists, name)
        case IsKnown(name, known):
            return _is_known(candidate, FIELDS[name]) is known
    field = FIELDS[leaf.field]
    if field.kind is FieldKind.TAG:
        return _tag_truth(leaf, candidate.tags)
    value = known_value(candidate, field)
    return None if value is None else _value_truth(leaf, field, value)


def _is_within(candidate: Candidate, circle: Within) -> Truth:
    if candidate.ra_deg is None or candidate.dec_deg is None:
        return None
    return haversine(candidate.ra_deg, candidate.dec_deg, circle.ra_deg, circle.dec_deg) <= limit_of(circle)


def named_list(lists: Lists, name: str) -> AbstractSet[str]:
    """Return a list by name; RecipeError where the caller has none."""
    if name not in lists:
        raise RecipeError(f"rule asks for list {name!r}, which was not given; name an existing file", word=name)
    return lists[name]


def _is_known(candidate: Candidate, field: Field) -> bool:
    if field.kind is FieldKind.TAG:
        return bool(candidate.tags)
    return known_value(candidate, field) is not None


def _value_truth(leaf: Compare | Between | OneOf | Like, field: Field, value: Any) -> bool:
    match leaf:
        case Compare(_, sign, literal):
            return ORDERS[sign](value, compared(field, literal))
        case Between(_, low, high):
            return bool(compared(field, low) <= value <= compared(field, high))
        case OneOf(_, literals):
            return any(value == compared(field, literal) for literal in literals)
        case Like(_, pattern):
            return like(value, str(compared(field, pattern)))


def _tag_truth(leaf: Compare | Between | OneOf | Like, tags: AbstractSet[str]) -> bool:
    match leaf:
        case Compare(_, sign, literal):
            return (literal in tags) is (sign == "=")
        case OneOf(_, literals):
            return any(literal in tags for literal in literals)
        case Like(_, pattern):
            return any(like(tag, pattern) for tag in tags)
        case Between():
            raise RecipeError("tags have no order; write tag = or tag in or tag like")


def distance_deg(candidate: Candidate, ra_deg: float, dec_deg: float) -> float | None:
    """Return the great-circle distance of an image's centre to a direction in degrees, None where unknown."""
    if candidate.ra_deg is None or candidate.dec_deg is None:
        return None
    square = haversine(candidate.ra_deg, candidate.dec_deg, ra_deg, dec_deg)
    return math.degrees(2.0 * math.asin(min(1.0, math.sqrt(square))))


def haversine(ra1_deg: float, dec1_deg: float, ra2_deg: float, dec2_deg: float) -> float:
    """Return sin^2(d / 2) of the great-circle distance d between two directions; exact for small angles."""
    first, second = math.radians(dec1_deg), math.radians(dec2_deg)
    half_dec = math.sin((first - second) / 2.0)
    half_ra = math.sin(math.radians(ra1_deg - ra2_deg) / 2.0)
    return half_dec * half_dec + math.cos(first) * math.cos(second) * half_ra * half_ra


def limit_of(circle: Within) -> float:
    """Return the largest `haversine` within a circle; beyond all where the circle is the whole sky."""
    return 2.0 if circle.radius_deg >= 180.0 else math.sin(math.radians(circle.radius_deg) / 2.0) ** 2


def explain(rule: Rule, candidate: Candidate, lists: Lists = NO_LISTS) -> Clause | None:
    """Return the first clause that kept an image out, with the value it saw; None where the rule takes the image.

    Of an `and` it is the first part that is not true, of an `or` the whole with the values of all its parts.
    """
    truth = evaluate(rule, candidate, lists)
    if truth is True:
        return None
    match rule:
        case And(rules):
            return _first(rules, candidate, lists)
        case Not(Not(inner)):
            return explain(inner, candidate, lists)
        case Not(Or(rules)):
            return _first(tuple(Not(r) for r in rules), candidate, lists)
    seen = _seen(rule, candidate)
    if len(seen) == 1:
        ((subject, value),) = seen.items()
        return Clause(format_rule(rule), value, truth is None, subject)
    return Clause(format_rule(rule), ", ".join(f"{k} {v}" for k, v in seen.items()), truth is None)


def _first(rules: tuple[Rule, ...], candidate: Candidate, lists: Lists) -> Clause | None:
    for inner in rules:
        clause = explain(inner, candidate, lists)
        if clause is not None:
            return clause
    return None


def _seen(rule: Rule, candidate: Candidate) -> dict[str, str]:
    """Return the values that the fields of a rule had, as text."""
    circles = [leaf for leaf in leaves(rule) if isinstance(leaf, Within)]
    return {name: _shown(name, candidate, circles) for name in fields_of(rule)}


def _shown(name: str, candidate: Candidate, circles: list[Within]) -> str:
    if name == "image":
        return candidate.name
    if name == "within":
        return " ".join(dict.fromkeys(_shown_distance(candidate, c) for c in circles))
    field = FIELDS[name]
    if field.kind is FieldKind.TAG:
        return " ".join(sorted(candidate.tags)) or "none"
    return "unknown" if known_value(candidate, field) is None else _shown_value(candidate, field)


def _shown_value(candidate: Candidate, field: Field) -> str:
    value = getattr(candidate, field.attribute)
    if field.name == "object":
        return candidate.object or str(value)
    if isinstance(value, float):
        return f"{value:.10g}" if field.name in ("mjd", "date", "ra", "dec") else f"{value:.6g}"
    return value.isoformat() if isinstance(value, date) else str(value)


def _shown_distance(candidate: Candidate, circle: Within) -> str:
    distance = distance_deg(candidate, circle.ra_deg, circle.dec_deg)
    return "unknown" if distance is None else f"{distance:.4g} deg"

"""The tree of a rule, and its text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from spica.model.selection.fields import FIELDS, FieldKind, Literal


@dataclass(frozen=True)
class Compare:
    """`field = value`, or with != < <= > >=."""

    field: str
    operator: str
    value: Literal


@dataclass(frozen=True)
class Between:
    """`field between low and high`; both bounds belong to it."""

    field: str
    low: Literal
    high: Literal


@dataclass(frozen=True)
class OneOf:
    """`field in (value, ...)`."""

    field: str
    values: tuple[Literal, ...]


@dataclass(frozen=True)
class Like:
    """`field like "pattern"`, with * and ?."""

    field: str
    pattern: str


@dataclass(frozen=True)
class IsKnown:
    """`field is known`, or `field is unknown`; never unknown itself."""

    field: str
    known: bool


@dataclass(frozen=True)
class Within:
    """`within(ra, dec, radius)`, all in degrees: the centre of the image is not farther than the radius."""

    ra_deg: float
    dec_deg: float
    radius_deg: float


@dataclass(frozen=True)
class InList:
    """`image in list("name")`: the image's name is in a list that the caller provides under that name."""

    name: str


@dataclass(frozen=True)
class Not:
    """`not rule`; unknown stays unknown."""

    rule: Rule


@dataclass(frozen=True)
class And:
    """All of two or more."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Or:
    """Any of two or more."""

    rules: tuple[Rule, ...]


Leaf = Compare | Between | OneOf | Like | IsKnown | Within | InList
Rule = Leaf | Not | And | Or


def format_rule(rule: Rule) -> str:
    """Return the text of a rule in its one spelling; `parse_rule` gives the same tree back."""
    match rule:
        case And(rules):
            return " and ".join(_inside(r, (And, Or)) for r in rules)
        case Or(rules):
            return " or ".join(_inside(r, (Or,)) for r in rules)
        case Not(Between() | OneOf() | Like() | InList() as leaf):
            return _leaf(leaf, "not ")
        case Not(inner):
            return "not " + _inside(inner, (And, Or))
        case leaf:
            return _leaf(leaf, "")


def _inside(rule: Rule, wrapped: tuple[type, ...]) -> str:
    text = format_rule(rule)
    return f"({text})" if isinstance(rule, wrapped) else text


def _leaf(leaf: Leaf, negation: str) -> str:
    match leaf:
        case Compare(field, operator, value):
            text = f"{field} {operator} {format_literal(field, value)}"
        case Between(field, low, high):
            text = f"{field} {negation}between {format_literal(field, low)} and {format_literal(field, high)}"
        case OneOf(field, values):
            text = f"{field} {negation}in ({', '.join(format_literal(field, v) for v in values)})"
        case Like(field, pattern):
            text = f"{field} {negation}like {quoted(pattern)}"
        case IsKnown(field, known):
            text = f"{field} is {'known' if known else 'unknown'}"
        case Within(ra, dec, radius):
            text = f"within({_number(ra)}, {_number(dec)}, {_number(radius)})"
        case InList(name):
            text = f"image {negation}in list({quoted(name)})"
    return text


def format_literal(field: str, value: Literal) -> str:
    """Return a value as a rule spells it."""
    if isinstance(value, date):
        return quoted(value.isoformat())
    if isinstance(value, str):
        return value if FIELDS[field].kind is FieldKind.CHOICE else quoted(value)
    return _number(value)


def quoted(text: str) -> str:
    """Return a text in double quotes, those inside doubled."""
    return '"' + text.replace('"', '""') + '"'


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def leaves(rule: Rule) -> Iterator[Leaf]:
    """Yield the comparisons of a rule from left to right."""
    match rule:
        case And(rules) | Or(rules):
            for inner in rules:
                yield from leaves(inner)
        case Not(inner):
            yield from leaves(inner)
        case leaf:
            yield leaf


def fields_of(rule: Rule) -> tuple[str, ...]:
    """Return the fields that a rule reads, each once, in order; `image` for a list, `within` for a circle."""
    found: dict[str, None] = {}
    for leaf in leaves(rule):
        found[_subject(leaf)] = None
    return tuple(found)


def _subject(leaf: Leaf) -> str:
    match leaf:
        case Within():
            return "within"
        case InList():
            return "image"
        case other:
            return other.field


def list_names(rule: Rule) -> tuple[str, ...]:
    """Return the names of the lists that a rule asks for, each once, in order."""
    return tuple(dict.fromkeys(leaf.name for leaf in leaves(rule) if isinstance(leaf, InList)))


def rule_sha256(rule: Rule) -> str:
    """Return the SHA-256 (hexadecimal) of the rule's one spelling."""
    return hashlib.sha256(format_rule(rule).encode()).hexdigest()

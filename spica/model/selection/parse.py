"""Reads the text of a rule: tokens, then recursive descent; nothing is ever executed."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from datetime import date
from typing import NoReturn

from spica.model.errors import RecipeError
from spica.model.selection.fields import FIELDS, Field, FieldKind, Literal
from spica.model.selection.rule import (
    And,
    Between,
    Compare,
    InList,
    IsKnown,
    Like,
    Not,
    OneOf,
    Or,
    Rule,
    Within,
    quoted,
)

DEFAULT_RULE = "grade in (A, B, C)"
"""The rule where none is given."""

MAX_LENGTH = 10_000
MAX_DEPTH = 50
MAX_VALUES = 1000
MAX_LIST = 1_000_000
COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
KEYWORDS = ("and", "or", "not", "in", "between", "is", "known", "unknown", "like", "within", "image", "list")

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])"
    r"|(?P<text>\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*')"
    r"|(?P<word>[^\W\d]\w*)"
    r"|(?P<mark><=|>=|!=|[<>=(),])"
)
_CHUNK = re.compile(r"[^\s(),]+|.", re.DOTALL)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SUFFIX = re.compile(r"(\.fits|\.fit|\.fts)?(\.fz|\.gz|\.bz2|\.z)?$", re.IGNORECASE)


class RuleError(RecipeError):
    """The rule cannot be read; the message names column and word."""

    def __init__(self, message: str, column: int, word: str, suggestion: str | None = None) -> None:
        """Keep where (column from 1), the word, and the nearest known one."""
        super().__init__(f"rule, column {column}: {message}", column=column, word=word, suggestion=suggestion)
        self.column = column
        self.word = word
        self.suggestion = suggestion


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int

    @property
    def key(self) -> str:
        """Words in lower case; `"and"` in quotes is not a word."""
        return self.text.lower() if self.kind == "word" else self.text if self.kind == "mark" else ""


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Fields, operators and values are described in `fields`; words may be in any case, texts stand in quotes (a quote
    inside is doubled), dates are quoted YYYY-MM-DD, angles are degrees.

    Raises
    ------
    RuleError
        Column (from 1), the word, the nearest known word where there is one, and what to write instead. Also where
        the rule is longer than 10 000 characters, deeper than 50, or a list within it longer than 1000 values.
    """
    if len(text) > MAX_LENGTH:
        raise RuleError(
            f"the rule has {len(text)} characters, {MAX_LENGTH} are allowed; use image in list(...)", MAX_LENGTH + 1, ""
        )
    parser = _Parser(_tokens(text), len(text) + 1)
    return parser.whole()


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            _unreadable(text, at)
        kind, content = match.lastgroup or "", match.group()
        if kind == "text":
            tokens.append(_Token(kind, _unquoted(content, at + 1), at + 1))
        elif kind != "space":
            tokens.append(_Token(kind, content, at + 1))
        at = match.end()
    return tokens


def _unreadable(text: str, at: int) -> NoReturn:
    chunk = _CHUNK.match(text, at)
    word = chunk.group() if chunk else text[at]
    if word[0] in "\"'":
        raise RuleError(f"the text is not closed; add {word[0]} where it ends", at + 1, word)
    if word[0].isdigit():
        raise RuleError(f"{word!r} is no number; a text stands in quotes: {quoted(word)}", at + 1, word)
    cure = {"&": "and", "|": "or", "!": "not"}.get(word[0])
    hint = f"write {cure}" if cure else "take it away, or put the text in quotes"
    raise RuleError(f"{word[:20]!r} is no word of a rule; {hint}", at + 1, word)


def _unquoted(content: str, column: int) -> str:
    text = content[1:-1].replace(content[0] * 2, content[0])
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise RuleError("the text holds a control character; take it away", column, text)
    return text


class _Parser:
    """Recursive descent over the tokens of one rule."""

    def __init__(self, tokens: list[_Token], end: int) -> None:
        self.tokens = tokens
        self.end = _Token("end", "", end)
        self.at = 0
        self.depth = 0

    def whole(self) -> Rule:
        if not self.tokens:
            raise RuleError(f"the rule is empty; write for example {DEFAULT_RULE}", 1, "")
        rule = self.alternatives()
        if self.here.kind != "end":
            self.fail("and, or, or the end of the rule was expected")
        return rule

    @property
    def here(self) -> _Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else self.end

    def take(self) -> _Token:
        token = self.here
        self.at += 1
        return token

    def accept(self, key: str) -> bool:
        if self.here.key == key:
            self.at += 1
            return True
        return False

    def expect(self, key: str, where: str) -> None:
        if not self.accept(key):
            self.fail(f"{key!r} was expected {where}")

    def fail(self, message: str) -> NoReturn:
        token = self.here
        found = "the rule ends" if token.kind == "end" else f"found {token.text[:40]!r}"
        raise RuleError(f"{message}, {found}; correct the rule there", token.column, token.text)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            token = self.here
            raise RuleError(f"the rule is nested deeper than {MAX_DEPTH}; write it flatter", token.column, token.text)

    def alternatives(self) -> Rule:
        rules = [self.conjunction()]
        while self.accept("or"):
            rules.append(self.conjunction())
        return rules[0] if len(rules) == 1 else Or(tuple(rules))

    def conjunction(self) -> Rule:
        rules = [self.single()]
        while self.accept("and"):
            rules.append(self.single())
        return rules[0] if len(rules) == 1 else And(tuple(rules))

    def single(self) -> Rule:
        self.deeper()
        if self.accept("not"):
            rule: Rule = Not(self.single())
        elif self.accept("("):
            rule = self.alternatives()
            self.expect(")", "to close the parenthesis")
        elif self.accept("within"):
            rule = self.within()
        elif self.accept("image"):
            rule = self.in_list()
        else:
            rule = self.predicate()
        self.depth -= 1
        return rule

    def within(self) -> Rule:
        self.expect("(", "after within: within(ra, dec, radius) in degrees")
        ra = self.angle("ra", 0.0, 360.0)
        self.expect(",", "after the right ascension")
        dec = self.angle("dec", -90.0, 90.0)
        self.expect(",", "after the declination")
        radius = self.angle("radius", 0.0, 180.0)
        self.expect(")", "after the radius")
        return Within(ra, dec, radius)

    def angle(self, name: str, low: float, high: float) -> float:
        token = self.here
        value = self.number(f"{name} in degrees")
        if not low <= value <= high:
            raise RuleError(
                f"{name} {token.text} is out of range; give {low:g} to {high:g} degrees", token.column, token.text
            )
        return value

    def in_list(self) -> Rule:
        negated = self.accept("not")
        self.expect("in", 'after image: image in list("file")')
        self.expect("list", 'after in: image in list("file")')
        self.expect("(", "after list")
        if self.here.kind != "text" or not self.here.text:
            self.fail("the name of a list in quotes was expected")
        rule = InList(self.take().text)
        self.expect(")", "after the name of the list")
        return Not(rule) if negated else rule

    def field(self) -> Field:
        token = self.here
        if token.kind != "word":
            self.fail("a field was expected")
        if token.key not in FIELDS:
            near = difflib.get_close_matches(token.key, FIELDS, 1)
            if token.key in KEYWORDS:
                self.fail("a field was expected")
            hint = f"did you mean {near[0]!r}?" if near else "known: " + " ".join(FIELDS)
            raise RuleError(
                f"unknown field {token.text[:40]!r}; {hint}", token.column, token.text, near[0] if near else None
            )
        self.at += 1
        return FIELDS[token.key]

    def predicate(self) -> Rule:
        field = self.field()
        negated = self.accept("not")
        token = self.here
        if token.key not in field.operators or (negated and token.key not in ("in", "between", "like")):
            self.no_operator(field, token, negated)
        self.at += 1
        if token.key in COMPARISONS:
            return Compare(field.name, token.key, self.literal(field))
        if token.key == "is":
            return self.known(field)
        rule = {"in": self.one_of, "between": self.between, "like": self.like}[token.key](field)
        return Not(rule) if negated else rule

    def no_operator(self, field: Field, token: _Token, negated: bool) -> NoReturn:
        every = ("=", "!=", "<", "<=", ">", ">=", "in", "between", "like", "is")
        known = [o for o in field.operators if not negated or o in ("in", "between", "like")]
        if token.key in every:
            best = f"grade has no order in rules, write grade in ({', '.join(field.choices[:2])})"
            cure = best if field.name == "grade" else "write one of " + " ".join(known)
            what = f"{'not ' if negated else ''}{token.key}"
            raise RuleError(f"{field.name} knows no {what!r}; {cure}", token.column, token.text)
        self.fail(f"after {field.name!r} one of {' '.join(known)} was expected")

    def known(self, field: Field) -> Rule:
        negated = self.accept("not")
        if self.here.key not in ("known", "unknown"):
            self.fail("known or unknown was expected after is")
        return IsKnown(field.name, (self.take().key == "known") is not negated)

    def one_of(self, field: Field) -> Rule:
        if self.here.key == "list":
            self.fail('a list holds images, write image in list("file"); "(" was expected')
        self.expect("(", "after in")
        values = [self.literal(field)]
        while self.accept(","):
            values.append(self.literal(field))
            if len(values) > MAX_VALUES:
                token = self.here
                raise RuleError(f"more than {MAX_VALUES} values; use image in list(...)", token.column, token.text)
        self.expect(")", "after the values")
        return OneOf(field.name, tuple(values))

    def between(self, field: Field) -> Rule:
        token = self.here
        low = self.literal(field)
        self.expect("and", "after the lower bound")
        high = self.literal(field)
        if low > high:  # type: ignore[operator]
            raise RuleError("the lower bound is above the upper one; swap them", token.column, token.text)
        return Between(field.name, low, high)

    def like(self, field: Field) -> Rule:
        if self.here.kind != "text":
            self.fail(f'a pattern in quotes was expected, as in {field.name} like "ab*"')
        return Like(field.name, self.take().text)

    def literal(self, field: Field) -> Literal:
        match field.kind:
            case FieldKind.NUMBER:
                return self.number(f"a number ({field.unit})" if field.unit != "-" else "a number")
            case FieldKind.CHOICE:
                return self.choice(field)
            case FieldKind.DATE:
                return self.date(field)
            case _:
                return self.text(field)

    def number(self, what: str) -> float:
        if self.here.kind != "number":
            self.fail(f"{what} was expected")
        token = self.take()
        value = float(token.text)
        if not math.isfinite(value):
            raise RuleError(f"{token.text[:40]} is too large; write a smaller number", token.column, token.text)
        return value + 0.0  # one zero: -0.0 becomes 0.0

    def choice(self, field: Field) -> str:
        token = self.here
        if token.kind not in ("word", "text"):
            self.fail(f"{field.name} is one of {' '.join(field.choices)}")
        by_key = {c.lower(): c for c in field.choices}
        if token.text.lower() not in by_key:
            near = difflib.get_close_matches(token.text.lower(), by_key, 1)
            hint = f"did you mean {by_key[near[0]]!r}?" if near else "known: " + " ".join(field.choices)
            raise RuleError(
                f"unknown {field.name} {token.text[:40]!r}; {hint}",
                token.column,
                token.text,
                by_key[near[0]] if near else None,
            )
        self.at += 1
        return by_key[token.text.lower()]

    def date(self, field: Field) -> date:
        token = self.here
        try:
            if token.kind != "text" or not _DATE.fullmatch(token.text):
                raise ValueError
            value = date.fromisoformat(token.text)
        except ValueError:
            raise RuleError(
                f"{field.name} is compared with a date in quotes; write for example {field.name} = "
                f'"2006-05-01", found {token.text[:40]!r}',
                token.column,
                token.text,
            ) from None
        self.at += 1
        return value

    def text(self, field: Field) -> str:
        token = self.here
        if token.kind in ("word", "number"):
            raise RuleError(
                f"a text stands in quotes; write {field.name} = {quoted(token.text[:40])}", token.column, token.text
            )
        if token.kind != "text":
            self.fail(f"a text in quotes was expected for {field.name}")
        self.at += 1
        return token.text


def parse_list(text: str) -> frozenset[str]:
    """Read a list of images: one a line, a name or a file name; folders, suffixes and a checksum after a comma drop.

    Empty lines and lines that begin with `#` do not count.

    Raises
    ------
    RecipeError
        The list holds more than a million lines.
    """
    names = set()
    for number, line in enumerate(text.splitlines()):
        if number >= MAX_LIST:
            raise RecipeError(f"the list of images has more than {MAX_LIST} lines; split it")
        entry = line.partition(",")[0].strip()
        if entry and not entry.startswith("#"):
            names.add(_SUFFIX.sub("", entry.replace("\\", "/").rpartition("/")[2], count=1))
    return frozenset(names)

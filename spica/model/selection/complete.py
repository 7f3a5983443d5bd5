"""Completion of a rule while it is written: what may stand at the cursor, with what each word means.

The text before the cursor is read by the tokeniser of `parse`, but nothing in it is refused: what cannot be read is
passed over, so that the end of a half-written rule still gets its words.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spica.model.selection.fields import FIELDS, Field, FieldKind
from spica.model.selection.parse import _TOKEN, COMPARISONS, MAX_LENGTH
from spica.model.selection.rule import quoted

Known = Mapping[str, Sequence[str]]
"""Values that the caller knows, by field; under `LIST` the names of lists."""

LIST = "list"
MAX_SUGGESTIONS = 40
MEANINGS = {
    "=": "is",
    "!=": "is not",
    "<": "smaller than",
    "<=": "at most",
    ">": "larger than",
    ">=": "at least",
    "in": "any of the values in ( )",
    "between": "from ... and ..., both included",
    "like": 'a pattern in quotes: * any characters, ? one, as "74*"',
    "is": "known or unknown",
    "not": "turns what follows round; unknown stays unknown",
    "and": "both must hold",
    "or": "either is enough",
    "known": "there is a value",
    "unknown": "there is no value",
    "(": "begins a group",
    ")": "ends the group",
    ",": "a further value",
    "within(": "within(ra, dec, radius) in degrees: the centre lies in the circle",
    "image in list(": "the image stands in a list of names",
    "list(": "a list of names",
}
GRADES = {"A": "the best", "B": "good", "C": "usable", "D": "not to be used"}


@dataclass(frozen=True)
class Suggestion:
    """One word that may stand at the cursor: its text, what kind of word it is, and what it means.

    `kind` is `field`, `operator`, `value` or `keyword`.
    """

    text: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class Completion:
    """What may replace the text from `start` to `end` (0-based, the cursor); `hint` says what is expected there."""

    start: int
    end: int
    hint: str
    suggestions: tuple[Suggestion, ...]


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, open (a text that is not closed), word, mark, other
    text: str
    start: int
    end: int

    @property
    def key(self) -> str:
        return self.text.lower() if self.kind in ("word", "mark") else ""


@dataclass(frozen=True)
class _State:
    """What the words read so far lead to: `expect` is one of the keys of `_HINTS`."""

    expect: str = "operand"
    field: Field | None = None
    negated: bool = False
    depth: int = 0


_HINTS = {
    "operand": "a field, not, ( or within(",
    "operator": "what to compare {name} with",
    "value": "a value of {name}{unit}",
    "is": "known or unknown",
    "open": "( before the values",
    "in value": "a value of {name}{unit}",
    "in next": ", or )",
    "low": "the lower bound of {name}{unit}",
    "between": "and, then the upper bound",
    "high": "the upper bound of {name}{unit}",
    "like": "a pattern in quotes",
    "after": "and, or, or the end",
    "angles": "ra, dec, radius in degrees, then )",
    "image": 'in list("name")',
    "image in": 'list("name")',
    "list": "(",
    "list name": "the name of a list in quotes",
    "list end": ")",
}


def complete_rule(text: str, cursor: int | None = None, known: Known | None = None) -> Completion:
    """Return what may stand at the cursor of a rule.

    Parameters
    ----------
    text : str
        The rule, finished or not; only what stands before the cursor counts.
    cursor : int, optional
        0-based position between characters; by default the end.
    known : mapping, optional
        Values by field name (filters, objects, runs, tags ...), and under `list` the names of lists.

    Returns
    -------
    Completion
        At most `MAX_SUGGESTIONS` words, those that begin as the word at the cursor first, then those that hold it,
        then fields that are spelled nearly so; empty where a number of the person's own is due.
    """
    end = len(text) if cursor is None else max(0, min(cursor, len(text)))
    if end > MAX_LENGTH:
        return Completion(end, end, f"a rule has at most {MAX_LENGTH} characters", ())
    tokens = _tolerant_tokens(text[:end])
    last = tokens[-1] if tokens else None
    word = last if last is not None and last.end == end and last.kind in ("word", "open", "number") else None
    state = _State()
    for token in tokens if word is None else tokens[:-1]:
        state = _step(state, token)
    start = end if word is None else word.start
    prefix = "" if word is None else word.text[1:] if word.kind == "open" else word.text
    found = _offers(state, known or {}, in_text=word is not None and word.kind == "open")
    return Completion(start, end, _hint(state), tuple(_fitting(found, prefix)[:MAX_SUGGESTIONS]))


def _tolerant_tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "\"'":
                tokens.append(_Token("open", text[at:], at, len(text)))
                break
            tokens.append(_Token("other", text[at], at, at + 1))
            at += 1
            continue
        if match.lastgroup != "space":
            tokens.append(_Token(match.lastgroup or "", match.group(), at, match.end()))
        at = match.end()
    return tokens


# What the words read so far lead to -----------------------------------------------------------------------------------


def _step(state: _State, token: _Token) -> _State:
    if token.key in ("and", "or") and not (state.expect in ("between", "low") and token.key == "and"):
        return _State(depth=state.depth)
    match state.expect:
        case "operand":
            return _after_operand(state, token)
        case "operator":
            return _after_operator(state, token)
        case "image" | "image in" | "list" | "list name" | "list end" | "angles":
            return _after_named(state, token)
        case "after":
            deeper = max(0, state.depth - 1) if token.key == ")" else state.depth
            return replace(state, depth=deeper)
        case expect:
            return _after_value(state, expect, token)


def _after_operand(state: _State, token: _Token) -> _State:
    if token.key == "not":
        return state
    if token.key == "(":
        return replace(state, depth=state.depth + 1)
    if token.key == "within":
        return replace(state, expect="angles")
    if token.key == "image":
        return replace(state, expect="image")
    if token.kind == "word":
        return _State("operator", FIELDS.get(token.key), False, state.depth)
    return state


def _after_operator(state: _State, token: _Token) -> _State:
    if token.key == "not":
        return replace(state, negated=True)
    if token.key in COMPARISONS:
        return replace(state, expect="value")
    following = {"in": "open", "between": "low", "like": "like", "is": "is"}
    return replace(state, expect=following.get(token.key, "operator"))


def _after_named(state: _State, token: _Token) -> _State:
    """Go on within `image in list("name")` and within( )."""
    if state.expect == "angles":
        return replace(state, expect="after") if token.key == ")" else state
    if token.key == "not":
        return state
    steps = {"image": "image in", "image in": "list", "list": "list name", "list name": "list end"}
    return replace(state, expect=steps.get(state.expect, "after"))


def _after_value(state: _State, expect: str, token: _Token) -> _State:
    if expect == "is" and token.key == "not":
        return state
    if expect in ("in value", "in next") and token.key in (",", ")"):
        return replace(state, expect="in value" if token.key == "," else "after")
    following = {"open": "in value", "in value": "in next", "low": "between", "between": "high"}
    return replace(state, expect=following.get(expect, "after"))


# What may stand there -------------------------------------------------------------------------------------------------


def _offers(state: _State, known: Known, *, in_text: bool) -> list[Suggestion]:
    match state.expect:
        case "operand":
            found = [] if in_text else _operands()
        case "operator":
            found = _operators(state)
        case "value" | "in value" | "low" | "high":
            found = _values(state.field, known)
        case "list name":
            found = [Suggestion(quoted(v), "value", "a list") for v in known.get(LIST, ())]
        case "after":
            found = _words("and", "or", *([")"] if state.depth else []))
        case expect:
            found = _fixed(expect)
    return found


def _fixed(expect: str) -> list[Suggestion]:
    """Return the words of places where only one or two may stand."""
    words = {
        "is": ("known", "unknown"),
        "open": ("(",),
        "in next": (",", ")"),
        "between": ("and",),
        "image": ("in", "not"),
        "image in": ("list(",),
        "list": ("(",),
        "list end": (")",),
    }
    return _words(*words.get(expect, ()))


def _words(*texts: str) -> list[Suggestion]:
    return [Suggestion(t, "keyword", MEANINGS[t]) for t in texts]


def _operands() -> list[Suggestion]:
    fields = [Suggestion(f.name, "field", _meaning(f)) for f in FIELDS.values()]
    return fields + _words("within(", "image in list(", "not", "(")


def _meaning(field: Field) -> str:
    unit = f", {field.unit}" if field.unit != "-" else ""
    return f"{field.text}{unit}"


def _operators(state: _State) -> list[Suggestion]:
    every = state.field.operators if state.field else ("=", "!=", "<", "<=", ">", ">=", "in", "between", "like", "is")
    names = [o for o in every if not state.negated or o in ("in", "between", "like")]
    found = [Suggestion(o, "operator", MEANINGS[o]) for o in names]
    turned = {"in", "between", "like"} & set(names)
    return found if state.negated or not turned else found + _words("not")


def _values(field: Field | None, known: Known) -> list[Suggestion]:
    if field is None:
        return []
    if field.kind is FieldKind.CHOICE:
        return [Suggestion(c, "value", GRADES.get(c, field.text)) for c in field.choices]
    plain = field.kind is FieldKind.NUMBER
    return [Suggestion(v if plain else quoted(v), "value", field.name) for v in known.get(field.name, ())]


def _fitting(found: list[Suggestion], prefix: str) -> list[Suggestion]:
    """Return what begins as the word at the cursor, then what holds it, then fields spelled nearly so."""
    if not prefix:
        return found
    low = prefix.lower()
    begin = [s for s in found if s.text.strip('"').lower().startswith(low)]
    hold = [s for s in found if s not in begin and len(low) > 1 and low in s.text.lower()]
    fields = {s.text: s for s in found if s.kind == "field" and s not in begin and s not in hold}
    near = difflib.get_close_matches(low, fields, 3, 0.7) if not begin else []
    return begin + hold + [fields[n] for n in near]


def _hint(state: _State) -> str:
    field = state.field
    unit = f", {field.unit}" if field is not None and field.unit != "-" else ""
    example = ', as "2006-05-01"' if field is not None and field.kind is FieldKind.DATE else ""
    name = field.name if field is not None else "the field"
    return _HINTS[state.expect].format(name=name, unit=unit + example)

"""Rules over the columns of a snapshot: the meaning of `spica.model.selection.evaluate`, all images at once.

Truth is -1 false, 0 unknown, 1 true within this module, so that Kleene's `and` is the minimum, `or` the maximum and
`not` the sign (Kleene 1952, strong three-valued logic). Words are judged once each and spread by their codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spica.db.snapshot.columns import (
    DAY_ZERO,
    FRAMES,
    GRADES,
    KINDS,
    STATES,
    UNKNOWN_DAY,
    Array,
    ImageColumns,
    Mask,
    Rows,
    Snapshot,
)
from spica.model.errors import RecipeError
from spica.model.image import FrameType, ImageKind, ImageState
from spica.model.selection import (
    FIELDS,
    And,
    Between,
    Compare,
    Field,
    FieldKind,
    InList,
    IsKnown,
    Like,
    Lists,
    Not,
    OneOf,
    Or,
    Rule,
    Within,
    format_rule,
    like,
)
from spica.model.selection.evaluate import NO_LISTS, ORDERS, haversine, limit_of, named_list
from spica.model.selection.fields import compared
from spica.model.selection.rule import Leaf

Truth = NDArray[np.int8]
_RESULT = np.array([-1, 1, 0], dtype=np.int8)  # by truth 0, 1, -1
_CHOICES: dict[str, tuple[tuple[str, ...], int]] = {
    "grade": (tuple(g.value for g in GRADES), 1),
    "kind": (tuple(k.value for k in KINDS), 0),
    "state": (tuple(s.value for s in STATES), 0),
}
"""Words of each choice, and the code of the first."""


def judge_rows(
    snapshot: Snapshot, rule: Rule, rows: Rows | None = None, *, lists: Lists = NO_LISTS
) -> NDArray[np.int8]:
    """Return what a rule says of images: 1 true, 0 false, -1 unknown; of all, or of some rows.

    Raises
    ------
    RecipeError
        The rule asks for a list that is not in `lists`.
    """
    return _RESULT[_truth(snapshot, rule, rows, lists)]


def taken(snapshot: Snapshot, rule: Rule | None, *, lists: Lists = NO_LISTS) -> Mask:
    """Return the science exposures that a rule takes: usable ones for which it is true; None takes all usable ones."""
    found: Mask = exposures(snapshot) & snapshot.images.usable
    if rule is not None:
        found &= _truth(snapshot, rule, None, lists) == 1
    return found


def exposures(snapshot: Snapshot) -> Mask:
    """Return which images are exposures of the sky: what rules choose from."""
    kind, frame = snapshot.images.kind, snapshot.images.frame

    def compute() -> Mask:
        found: Mask = (kind == KINDS.index(ImageKind.EXPOSURE)) & (frame == FRAMES.index(FrameType.SCIENCE))
        return found

    return snapshot.cache.get("exposures", (kind, frame), compute)


def _truth(snapshot: Snapshot, rule: Rule, rows: Rows | None, lists: Lists) -> Truth:
    match rule:
        case And(rules):
            return _folded(np.minimum, [_truth(snapshot, r, rows, lists) for r in rules])
        case Or(rules):
            return _folded(np.maximum, [_truth(snapshot, r, rows, lists) for r in rules])
        case Not(inner):
            return np.negative(_truth(snapshot, inner, rows, lists))
        case leaf:
            return _leaf(snapshot, leaf, rows, lists)


def _folded(operation: Callable[[Truth, Truth], Truth], truths: Sequence[Truth]) -> Truth:
    found = truths[0]
    for truth in truths[1:]:
        found = operation(found, truth)
    return found


def _leaf(snapshot: Snapshot, leaf: Leaf, rows: Rows | None, lists: Lists) -> Truth:
    images = snapshot.images
    if isinstance(leaf, InList):
        return _listed(images, rows, named_list(lists, leaf.name))
    if isinstance(leaf, Within):
        sources: tuple[Array, ...] = (images.ra, images.dec)
        return _cached(snapshot, leaf, sources, rows, lambda parts: _within(leaf, *parts))
    field = FIELDS[leaf.field]
    if field.kind is FieldKind.TAG:
        found = _tagged(images, leaf)
        return found if rows is None else found[rows]
    source = images.mjd if field.name == "date" else images.column(field.name)
    return _cached(snapshot, leaf, (source,), rows, lambda parts: _compared(images, leaf, field, parts[0]))


def _cached(
    snapshot: Snapshot,
    leaf: Leaf,
    sources: tuple[Array, ...],
    rows: Rows | None,
    compute: Callable[[tuple[Array, ...]], Truth],
) -> Truth:
    """Judge a leaf over all rows once for as long as its columns stay the same, over some rows at once."""
    if rows is not None:
        return compute(tuple(s[rows] for s in sources))
    return snapshot.cache.get(("leaf", leaf), sources, lambda: compute(sources))


# Leaves ---------------------------------------------------------------------------------------------------------------


def _of_bool(is_true: Mask) -> Truth:
    return np.where(is_true, np.int8(1), np.int8(-1))


def _compared(images: ImageColumns, leaf: Leaf, field: Field, values: Array) -> Truth:
    if field.name == "name":
        return _named(leaf, field, values)
    if field.kind is FieldKind.TEXT:
        return _worded(leaf, field, images.words[field.name], values)
    if field.kind is FieldKind.CHOICE:
        words, first = _CHOICES[field.name]
        return _worded(leaf, field, words, values - np.int8(first))
    if field.name == "night":
        return _measured(leaf, field, values, values == UNKNOWN_DAY)
    if field.name == "date":
        values = np.floor(values)
    return _measured(leaf, field, values, np.isnan(values))


def _measured(leaf: Leaf, field: Field, values: Array, unknown: Mask) -> Truth:
    if isinstance(leaf, IsKnown):
        return _of_bool(unknown != leaf.known)
    found = _of_bool(_holds(leaf, field, values))
    found[unknown] = 0
    return found


def _holds(leaf: Leaf, field: Field, values: Array) -> Mask:
    found: Mask
    match leaf:
        case Compare(_, sign, literal):
            found = np.asarray(ORDERS[sign](values, _bound(field, literal)))
        case Between(_, low, high):
            found = (values >= _bound(field, low)) & (values <= _bound(field, high))
        case OneOf(_, literals):
            found = np.isin(values, [_bound(field, literal) for literal in literals])
        case _:
            raise RecipeError(f"{format_rule(leaf)}: {field.name} has no such comparison; write another")
    return found


def _bound(field: Field, literal: Any) -> Any:
    plain = compared(field, literal)
    return (plain - DAY_ZERO).days if isinstance(plain, date) else plain


def _worded(leaf: Leaf, field: Field, words: Sequence[str], codes: Array) -> Truth:
    """Judge each word once; unknown, code -1, reads the last place of the table."""
    table = np.empty(len(words) + 1, dtype=np.int8)
    table[:-1] = [1 if _word_holds(leaf, field, word) else -1 for word in words]
    table[-1] = _of_bool(np.array(not leaf.known)) if isinstance(leaf, IsKnown) else 0
    return table[codes]


def _word_holds(leaf: Leaf, field: Field, word: str) -> bool:
    match leaf:
        case IsKnown(_, known):
            return known
        case Compare(_, sign, literal):
            return ORDERS[sign](word, compared(field, literal))
        case Between(_, low, high):
            return bool(compared(field, low) <= word <= compared(field, high))  # type: ignore[operator]
        case OneOf(_, literals):
            return any(word == compared(field, literal) for literal in literals)
        case Like(_, pattern):
            return like(word, str(compared(field, pattern)))
        case _:
            raise RecipeError(f"{format_rule(leaf)}: {field.name} has no such comparison; write another")


def _named(leaf: Leaf, field: Field, names: Array) -> Truth:
    """Judge names, which are all different: by whole columns, patterns by their fixed start first."""
    match leaf:
        case IsKnown(_, known):
            return _of_bool(np.full(len(names), known))
        case Like(_, pattern):
            return _of_bool(_like_names(names, pattern))
        case OneOf(_, literals):
            found = np.zeros(len(names), dtype=bool)
            for literal in literals:
                found |= names == str(literal)
            return _of_bool(found)
        case _:
            return _of_bool(_holds(leaf, field, names))


def _like_names(names: Array, pattern: str) -> Mask:
    start = re.split(r"[*?]", pattern, maxsplit=1)[0]
    rest = pattern[len(start) :]
    found: Mask = names == start if not rest else np.strings.startswith(names, start)
    if set(rest) <= {"*"}:
        return found
    fits = _pattern_of(pattern)
    some = np.flatnonzero(found)
    found[some] = [fits.fullmatch(name) is not None for name in names[some].tolist()]
    return found


def _pattern_of(pattern: str) -> re.Pattern[str]:
    """Return a pattern with * and ? as an expression that never goes back before a star that was passed.

    The leftmost fit of each piece between stars is as good as any other, so each is atomic but the last.
    """
    pieces = ["".join("." if c == "?" else re.escape(c) for c in piece) for piece in pattern.split("*")]
    if len(pieces) == 1:
        return re.compile(pieces[0], re.DOTALL)
    middle = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1])
    return re.compile(f"{pieces[0]}{middle}.*{pieces[-1]}", re.DOTALL)


def _listed(images: ImageColumns, rows: Rows | None, names: Any) -> Truth:
    column = images.name if rows is None else images.name[rows]
    return _of_bool(np.fromiter((name in names for name in column.tolist()), dtype=bool, count=len(column)))


def _tagged(images: ImageColumns, leaf: Leaf) -> Truth:
    found = np.zeros(len(images), dtype=bool)
    for tag, rows in images.tags.items():
        if _tag_counts(leaf, tag):
            found[rows] = True
    negative = (isinstance(leaf, IsKnown) and not leaf.known) or (isinstance(leaf, Compare) and leaf.operator != "=")
    return _of_bool(~found if negative else found)


def _tag_counts(leaf: Leaf, tag: str) -> bool:
    match leaf:
        case IsKnown():
            return True
        case Compare(_, _, literal):
            return tag == literal
        case OneOf(_, literals):
            return tag in literals
        case Like(_, pattern):
            return like(tag, pattern)
        case _:
            raise RecipeError("tags have no order; write tag = or tag in or tag like")


def _within(circle: Within, ra_deg: Array, dec_deg: Array) -> Truth:
    """Judge by `haversine`; what lies at the very edge is judged one by one, where numpy may round otherwise."""
    first, second = np.radians(dec_deg), np.radians(circle.dec_deg)
    half_dec, half_ra = np.sin((first - second) / 2.0), np.sin(np.radians(ra_deg - circle.ra_deg) / 2.0)
    square = half_dec * half_dec + np.cos(first) * np.cos(second) * half_ra * half_ra
    limit = limit_of(circle)
    found = _of_bool(square <= limit)
    for row in np.flatnonzero(np.abs(square - limit) <= 1e-13 * (limit + square) + 1e-300):
        exact = haversine(float(ra_deg[row]), float(dec_deg[row]), circle.ra_deg, circle.dec_deg)
        found[row] = 1 if exact <= limit else -1
    found[np.isnan(square)] = 0
    return found


# Why not --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FailedClause:
    """A clause and how many images it kept out, `n_unknown` of them because a value is unknown."""

    text: str
    n: int
    n_unknown: int


def failed_clauses(
    snapshot: Snapshot, rule: Rule, rows: Rows, *, usable: bool = False, lists: Lists = NO_LISTS
) -> list[FailedClause]:
    """Return by which clause images were kept out, as `explain` names it, the most frequent first.

    `usable` True asks first, as plans do, whether an image is rejected or without quality.
    """
    counts: dict[str, list[int]] = {}

    def keep_out(text: str, n: int, n_unknown: int) -> None:
        if n:
            count = counts.setdefault(text, [0, 0])
            count[0] += n
            count[1] += n_unknown

    if usable:
        images = snapshot.images
        rejected = images.state[rows] == STATES.index(ImageState.REJECTED)
        unmeasured = ~rejected & ~images.usable[rows]
        keep_out("state != rejected", int(rejected.sum()), 0)
        keep_out("quality is known", int(unmeasured.sum()), int(unmeasured.sum()))
        rows = rows[~rejected & ~unmeasured]
    _keep_out(snapshot, rule, rows, lists, keep_out)
    found = [FailedClause(text, *count) for text, count in counts.items()]
    return sorted(found, key=lambda f: (-f.n, f.text))


def first_failed(snapshot: Snapshot, rule: Rule, rows: Rows, *, lists: Lists = NO_LISTS) -> list[tuple[str, int]]:
    """Return the clause that kept images out, as `explain` names it, and how many; the most frequent first."""
    return [(f.text, f.n) for f in failed_clauses(snapshot, rule, rows, lists=lists)]


def _keep_out(
    snapshot: Snapshot, rule: Rule, rows: Rows, lists: Lists, keep_out: Callable[[str, int, int], None]
) -> Rows:
    """Count what each clause of a rule keeps out of some rows; return the rows that the rule takes."""
    match rule:
        case And(rules):
            return _in_turn(snapshot, rules, rows, lists, keep_out)
        case Not(Not(inner)):
            return _keep_out(snapshot, inner, rows, lists, keep_out)
        case Not(Or(rules)):
            return _in_turn(snapshot, tuple(Not(r) for r in rules), rows, lists, keep_out)
    truth = _truth(snapshot, rule, rows, lists)
    keep_out(format_rule(rule), int(np.count_nonzero(truth != 1)), int(np.count_nonzero(truth == 0)))
    left: Rows = rows[truth == 1]
    return left


def _in_turn(
    snapshot: Snapshot,
    rules: Sequence[Rule],
    rows: Rows,
    lists: Lists,
    keep_out: Callable[[str, int, int], None],
) -> Rows:
    for inner in rules:
        rows = _keep_out(snapshot, inner, rows, lists, keep_out)
    return rows

"""What a rule takes of the survey, counted from the snapshot: counts, predicted stacks, spreads.

Numbers of the snapshot are for looking at; whatever is planned is judged again by the database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.predict import group_codes, predict_stack, predict_stacks
from spica.db.snapshot import ImageColumns, Snapshot, exposures, judge_rows
from spica.db.snapshot.spread import Ranking, ranking
from spica.model.image import normalise_object
from spica.model.selection import FIELDS, Between, Compare, FieldKind, OneOf, Rule
from spica.model.selection.rule import leaves

Rows = NDArray[np.int64]
MAX_GROUPS = 12
BINS = 32
SHARES = (25, 50, 85)
ALWAYS = ("seeing", "limiting_mag", "airmass", "background")
MAX_FIELDS = 9
MAX_FACETS = 500
DAY_ZERO = date(1970, 1, 1)


@dataclass(frozen=True)
class Bounds:
    """What bounds the candidates of a rule; empty words do not."""

    object: str = ""
    filter: str = ""
    night: str = ""


@dataclass(frozen=True)
class Group:
    """One predicted stack: what belongs together, and what it will be like; None is unknown."""

    object: str | None
    instrument: str | None
    filter: str | None
    n: int
    exptime_s: float
    seeing_arcsec: float | None
    limiting_mag: float | None
    n_seeing: int
    n_depth: int


@dataclass(frozen=True)
class Share:
    """The seeing (arcsec) that so many per cent of what is in do not exceed."""

    percent: int
    seeing_arcsec: float


@dataclass(frozen=True)
class Tally:
    """What a rule takes: counts, exposure time, and the stacks that survey mode would make of it.

    `unknown` counts candidates that an unknown value leaves out, `unusable` those that are rejected or not assessed.
    `largest` is the stack with most exposures; all that is in where nothing can be grouped.
    """

    candidates: int
    taken: int
    unknown: int
    unusable: int
    exptime_s: float
    n_groups: int
    groups: tuple[Group, ...]
    largest: Group
    best: tuple[Share, ...]
    age_s: float

    @property
    def out(self) -> int:
        """How many candidates are out."""
        return self.candidates - self.taken


@dataclass(frozen=True)
class Split:
    """Rows of the snapshot: all candidates, those in, those out, by id; `bounds` are those of the candidates."""

    bounds: Bounds
    candidates: Rows
    taken: Rows
    out: Rows
    unknown: int
    unusable: int


def part(snapshot: Snapshot, rule: Rule, bounds: Bounds, aliases: Mapping[str, str] | None = None) -> Split:
    """Part the candidates by a rule.

    Raises
    ------
    RecipeError
        The rule asks for a list; lists lie in files of a command line's host.
    """
    images = snapshot.images

    def compute() -> tuple[NDArray[np.bool_], Rows]:
        mask = candidate_mask(snapshot, bounds, aliases)
        return mask, np.flatnonzero(mask)

    mask, rows = snapshot.cache.get(("rules.rows", bounds), candidate_sources(snapshot), compute)
    if 2 * rows.size > len(images):  # whole columns are judged once and kept
        truth = judge_rows(snapshot, rule)
        able = mask & images.usable
        inside = able & (truth == 1)
        n_able, unknown = int(np.count_nonzero(able)), int(np.count_nonzero(able & (truth < 0)))
        taken, out = np.flatnonzero(inside), np.flatnonzero(mask & ~inside)
    else:
        truth, able = judge_rows(snapshot, rule, rows), images.usable[rows]
        inside = able & (truth == 1)
        n_able, unknown = int(np.count_nonzero(able)), int(np.count_nonzero(able & (truth < 0)))
        taken, out = rows[inside], rows[~inside]
    return Split(bounds, rows, taken, out, unknown, int(rows.size) - n_able)


def candidate_mask(snapshot: Snapshot, bounds: Bounds, aliases: Mapping[str, str] | None = None) -> NDArray[np.bool_]:
    """Return which images are candidates: exposures of science within the bounds."""
    images = snapshot.images
    mask = exposures(snapshot)
    if bounds.object:
        mask = mask & (images.object == images.code("object", normalise_object(bounds.object, dict(aliases or {}))))
    if bounds.filter:
        mask = mask & (images.filter == images.code("filter", bounds.filter))
    day = _day(bounds.night)
    return mask if day is None else mask & (images.night == day)


def _day(text: str) -> int | None:
    try:
        return (date.fromisoformat(text) - DAY_ZERO).days
    except ValueError:
        return None


def tally(snapshot: Snapshot, split: Split) -> Tally:
    """Count what is in, and predict its stacks."""
    images, taken = snapshot.images, split.taken
    exptime, seeing, depth = images.exptime[taken], images.seeing[taken], images.limiting_mag[taken]
    codes = (images.object, images.instrument, images.filter)
    groups = snapshot.cache.get("rules.groups", codes, lambda: group_codes(*codes))
    found = predict_stacks(groups.label[taken], groups.n, exptime, seeing, depth)
    n_groups = int(np.count_nonzero(found.n))
    largest = np.argsort(-found.n, kind="stable")[: min(MAX_GROUPS, n_groups)]
    shown = []
    for g in largest.tolist():
        row = int(groups.first[g])
        shown.append(
            Group(
                images.word("object_name", row),
                images.word("instrument", row),
                images.word("filter", row),
                int(found.n[g]),
                float(found.exptime_s[g]),
                known(found.seeing_arcsec[g]),
                known(found.limiting_mag[g]),
                int(found.n_seeing[g]),
                int(found.n_depth[g]),
            )
        )
    return Tally(
        candidates=int(split.candidates.size),
        taken=int(taken.size),
        unknown=split.unknown,
        unusable=split.unusable,
        exptime_s=float(np.nansum(exptime)),
        n_groups=n_groups,
        groups=tuple(shown),
        largest=shown[0] if shown else whole_of(exptime, seeing, depth),
        best=_shares(ranking(snapshot, "seeing"), taken),
        age_s=snapshot.age_s,
    )


def whole_of(
    exptime_s: NDArray[np.float64], seeing_arcsec: NDArray[np.float64], limiting_mag: NDArray[np.float64]
) -> Group:
    """Return the prediction for all exposures as if they were one stack."""
    p = predict_stack(exptime_s, seeing_arcsec, limiting_mag)
    return Group(
        None,
        None,
        None,
        int(p.n[0]),
        float(p.exptime_s[0]),
        known(p.seeing_arcsec[0]),
        known(p.limiting_mag[0]),
        int(p.n_seeing[0]),
        int(p.n_depth[0]),
    )


def known(value: float) -> float | None:
    """Return a number, None where it is unknown."""
    return float(value) if math.isfinite(value) else None


def _shares(seeing: Ranking, taken: Rows) -> tuple[Share, ...]:
    places = seeing.places(taken)
    if places.size < 4:
        return ()
    ranks = [min(places.size, math.ceil(p / 100 * places.size)) - 1 for p in SHARES]
    return tuple(Share(p, float(seeing.values[places[r]])) for p, r in zip(SHARES, ranks, strict=True))


# Spreads --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A number that the rule compares a field with, and how."""

    operator: str
    value: float


@dataclass(frozen=True)
class FieldSpread:
    """How one field is spread: counts of all candidates and of those in, between `low` and `high`."""

    field: str
    text: str
    unit: str
    low: float
    high: float
    candidates: tuple[int, ...]
    taken: tuple[int, ...]
    median: float | None
    median_taken: float | None
    cuts: tuple[Cut, ...]


def cuts_of(rule: Rule) -> dict[str, tuple[Cut, ...]]:
    """Return the numbers that a rule compares each field of numbers with, in the order of the rule."""
    found: dict[str, list[Cut]] = {}
    for leaf in leaves(rule):
        match leaf:
            case Compare(name, operator, value) if FIELDS[name].kind is FieldKind.NUMBER:
                found.setdefault(name, []).append(Cut(operator, float(str(value))))
            case Between(name, low, high) if FIELDS[name].kind is FieldKind.NUMBER:
                found.setdefault(name, []).extend((Cut(">=", float(str(low))), Cut("<=", float(str(high)))))
            case OneOf(name, values) if FIELDS[name].kind is FieldKind.NUMBER:
                found.setdefault(name, []).extend(Cut("=", float(str(v))) for v in values[:20])
    return {name: tuple(dict.fromkeys(cuts)) for name, cuts in found.items()}


def spreads(snapshot: Snapshot, rule: Rule, split: Split) -> list[FieldSpread]:
    """Return the spreads of the fields that the rule compares with numbers, and of seeing, depth, airmass, background.

    A field that fewer than two candidates know is left out.
    """
    cuts = cuts_of(rule)
    names = list(dict.fromkeys([*cuts, *ALWAYS]))[:MAX_FIELDS]
    made = (_spread(snapshot, name, split, cuts.get(name, ())) for name in names)
    return [m for m in made if m is not None]


def _spread(snapshot: Snapshot, name: str, split: Split, cuts: tuple[Cut, ...]) -> FieldSpread | None:
    ranked, all_places = ranking(snapshot, name), _candidate_places(snapshot, name, split)
    values, n = ranked.values, all_places.size
    if n < 2:
        return None
    p01, median, p99 = (float(values[all_places[round(p * (n - 1))]]) for p in (0.01, 0.5, 0.99))
    low, high = _range(p01, p99, cuts)
    edges = np.searchsorted(values, np.linspace(low, high, BINS + 1))
    inside = ranked.places(split.taken)
    field = FIELDS[name]
    return FieldSpread(
        field=name,
        text=field.text,
        unit="" if field.unit == "-" else field.unit,
        low=low,
        high=high,
        candidates=tuple(np.diff(np.searchsorted(all_places, edges)).tolist()),
        taken=tuple(np.diff(np.searchsorted(inside, edges)).tolist()),
        median=median,
        median_taken=_median(values, inside),
        cuts=cuts,
    )


def _median(values: NDArray[np.float64], places: Rows) -> float | None:
    """Return the median of the values at some places, both ascending."""
    n = places.size
    return float(values[places[(n - 1) // 2]] + values[places[n // 2]]) / 2.0 if n else None


def _candidate_places(snapshot: Snapshot, name: str, split: Split) -> Rows:
    """Return where the candidates stand in the ranking of a field; kept until a column changes."""
    ranked = ranking(snapshot, name)
    sources = candidate_sources(snapshot, snapshot.images.column(name))
    key = ("rules.places", name, split.bounds)
    return snapshot.cache.get(key, sources, lambda: ranked.places(split.candidates))


def candidate_sources(snapshot: Snapshot, *columns: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the columns that say which images are candidates, and further ones."""
    i = snapshot.images
    return (i.kind, i.frame, i.object, i.filter, i.night, *columns)


def _range(low: float, high: float, cuts: tuple[Cut, ...]) -> tuple[float, float]:
    """Return the range drawn: the bulk, widened to show cuts that are not far off."""
    reach = (high - low) or max(abs(low) * 0.1, 0.1)
    near = [c.value for c in cuts if low - reach <= c.value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.03 * (high - low) or 0.05 * max(abs(low), 1.0)
    return low - margin, high + margin


# What the lists can be narrowed to ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choices:
    """Objects, filters and newest nights of exposures."""

    objects: tuple[str, ...]
    filters: tuple[str, ...]
    nights: tuple[date, ...]


def choices(snapshot: Snapshot) -> Choices:
    """Return what the candidates can be narrowed to; kept until one of the columns changes."""
    images = snapshot.images
    sources = (images.kind, images.frame, images.object_name, images.filter, images.night)
    return snapshot.cache.get("rules.choices", sources, lambda: _choices(snapshot))


def _choices(snapshot: Snapshot) -> Choices:
    images = snapshot.images
    mask = exposures(snapshot)
    nights = images.night[mask]
    nights = nights[nights > np.iinfo(np.int32).min]
    days: list[int] = []
    if nights.size:
        first = int(nights.min())
        days = (np.flatnonzero(np.bincount(nights.astype(np.int64) - first)) + first).tolist()
    return Choices(
        tuple(sorted(_used(images, "object_name", mask), key=str.casefold)[:MAX_FACETS]),
        tuple(sorted(_used(images, "filter", mask))),
        tuple(date.fromordinal(DAY_ZERO.toordinal() + d) for d in reversed(days[-400:])),
    )


def _used(images: ImageColumns, column: str, mask: NDArray[np.bool_]) -> list[str]:
    """Return the words of a column that some row of the mask bears."""
    codes = getattr(images, column)[mask]
    counts = np.bincount(codes[codes >= 0], minlength=len(images.words[column]))
    return [images.words[column][c] for c in np.flatnonzero(counts)]


def known_words(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return the values that completion offers, by field."""
    images = snapshot.images
    found = choices(snapshot)
    nights = [n.isoformat() for n in found.nights[:40]]
    sources = (images.kind, images.frame, images.run, images.instrument)

    def others() -> tuple[list[str], list[str]]:
        mask = exposures(snapshot)
        return sorted(_used(images, "run", mask), reverse=True)[:200], sorted(_used(images, "instrument", mask))

    runs, instruments = snapshot.cache.get("rules.words", sources, others)
    return {
        "object": list(found.objects),
        "filter": list(found.filters),
        "run": runs,
        "instrument": instruments,
        "tag": sorted(images.tags)[:200],
        "night": nights,
        "date": nights,
    }

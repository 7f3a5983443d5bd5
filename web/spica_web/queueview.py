"""What the grading room counts and draws from: its queue in order, how far it has come, how measures are spread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spica.db.queue import QueueBounds, QueueKind, QueueOrder, QueueView, view_queue
from spica.db.snapshot import UNKNOWN_DAY, Snapshot, exposures, spread
from spica.db.snapshot.columns import DAY_ZERO
from spica.model.errors import RecipeError
from spica.model.image import normalise_object
from spica.model.selection import parse_rule
from spica_web.deps import Site

MAX_OBJECTS, MAX_FILTERS, MAX_NIGHTS = 500, 60, 400
FEWEST = 3
"""Fewer values than this have no distribution."""
MEASURED = {
    "seeing_arcsec": "seeing",
    "ellipticity": "ellipticity",
    "limiting_mag": "limiting_mag",
    "zero_point_mag": "zero_point",
    "skyprobe_mag": "skyprobe",
    "background_adu": "background",
    "noise_adu": "noise",
    "n_stars": "n_stars",
}
"""Column of the snapshot of each measure."""


class QueueWords(BaseModel):
    """The words that name a queue; empty ones do not narrow it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str = Field(default="", max_length=10_000)
    object: str = Field(default="", max_length=200)
    filter: str = Field(default="", max_length=200)
    night: str = Field(default="", max_length=200)
    kind: QueueKind = QueueKind.UNGRADED
    order: QueueOrder = QueueOrder.OLDEST


@dataclass(frozen=True)
class Choices:
    """What a queue can be narrowed to."""

    objects: tuple[str, ...]
    filters: tuple[str, ...]
    nights: tuple[date, ...]


@dataclass(frozen=True)
class MeasureSpread:
    """How one measure is spread over the exposures of a filter: counts of even bins from `low` to `high`."""

    low: float
    high: float
    n: int
    counts: tuple[int, ...]


def bounds_of(site: Site, words: QueueWords) -> QueueBounds:
    """Return what a queue is narrowed to; a night that is none is left out.

    Raises
    ------
    RecipeError
        The rule cannot be read.
    """
    if "\0" in words.rule:
        raise RecipeError("the rule holds a character that is none; take it out")
    key = normalise_object(words.object, site.workspace.object_aliases) if words.object else None
    try:
        night = date.fromisoformat(words.night)
    except ValueError:
        night = None
    return QueueBounds(parse_rule(words.rule) if words.rule else None, key, words.filter or None, night)


def view_of(site: Site, words: QueueWords, person_id: int, since: datetime) -> QueueView:
    """Return a queue as it stands."""
    return view_queue(site.snapshot(), bounds_of(site, words), words.kind, words.order, person_id, since)


def choices_of(site: Site) -> Choices:
    """Return what queues can be narrowed to: objects and filters by name, the newest nights first."""
    snapshot = site.snapshot()
    images = snapshot.images

    def compute() -> Choices:
        mask = exposures(snapshot)
        objects, filters = (
            tuple(sorted((images.words[name][c] for c in np.unique(codes[codes >= 0])), key=str.casefold))
            for name, codes in (("object_name", images.object_name[mask]), ("filter", images.filter[mask]))
        )
        nights = np.unique(images.night[mask])[::-1][:MAX_NIGHTS]
        shown = tuple(date.fromordinal(int(d) + DAY_ZERO.toordinal()) for d in nights if d != UNKNOWN_DAY)
        return Choices(objects[:MAX_OBJECTS], filters[:MAX_FILTERS], shown)

    return snapshot.cache.get("queue choices", (images.object_name, images.filter, images.night), compute)


def spreads_of(site: Site, filters: Iterable[str | None]) -> dict[str, dict[str, MeasureSpread]]:
    """Return the spread of each measure over the exposures of each filter; unknown filters have none."""
    snapshot = site.snapshot()
    return {name: _spread_of(snapshot, name) for name in sorted(f for f in filters if f)}


def _spread_of(snapshot: Snapshot, name: str) -> dict[str, MeasureSpread]:
    images = snapshot.images

    def compute() -> dict[str, MeasureSpread]:
        mask = exposures(snapshot) & images.usable & (images.filter == images.code("filter", name))
        found = {measure: spread(snapshot, mask, column) for measure, column in MEASURED.items()}
        return {m: MeasureSpread(s.low, s.high, s.n, s.counts) for m, s in found.items() if s.n >= FEWEST}

    sources = (images.filter, images.usable, *(images.column(c) for c in MEASURED.values()))
    return snapshot.cache.get(("queue spread", name), sources, compute)

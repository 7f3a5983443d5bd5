"""What the pages of grades share: what they are narrowed to, and figures that are measured once for all who look."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from urllib.parse import urlencode

import numpy as np

from spica.db.agreement import Bins, GradingFigures, Narrow, count_nights, measure_grading
from spica.db.engine import Database
from spica.db.snapshot import UNKNOWN_DAY, Snapshot, exposures
from spica.model.image import normalise_object

MAX_CHOICES = 400
KEPT = 32
CHEAP_S = 0.05
REST = 20.0
"""Figures that took t seconds to measure are measured again after 20 t at the earliest, unless they are cheap."""
MAX_REST_S = 60.0


@dataclass(frozen=True)
class GradesQuery:
    """What the address narrows a page of grades to. Empty words do not."""

    object: str = ""
    filter: str = ""
    run: str = ""
    night: str = ""

    @property
    def active(self) -> bool:
        """Whether anything narrows it."""
        return any(dataclasses.astuple(self))

    def link(self, **changes: Any) -> str:
        """Return the query string after some changes; further words are added."""
        values = {**dataclasses.asdict(self), **changes}
        kept = {k: v for k, v in values.items() if v not in ("", None)}
        return f"?{urlencode(kept)}" if kept else "?"

    def narrow(self, aliases: Mapping[str, str]) -> Narrow:
        """Return which exposures are meant; a night that is no date narrows nothing."""
        try:
            night = date.fromisoformat(self.night) if self.night else None
        except ValueError:
            night = None
        key = normalise_object(self.object, dict(aliases)) or "" if self.object else ""
        return Narrow(key, self.filter, self.run, night)


def read_grades_query(words: Mapping[str, str]) -> GradesQuery:
    """Return what an address narrows to."""
    names = [f.name for f in dataclasses.fields(GradesQuery)]
    return GradesQuery(*(words.get(name, "").strip()[:200].replace("\0", "") for name in names))


@dataclass(frozen=True)
class GradesFacets:
    """What there is to narrow by; of very many the newest nights, the first words."""

    objects: tuple[str, ...]
    filters: tuple[str, ...]
    runs: tuple[str, ...]
    nights: tuple[str, ...]


def facets_of(snapshot: Snapshot) -> GradesFacets:
    """Return the objects, filters, runs and nights of the exposures."""
    images = snapshot.images

    def compute() -> GradesFacets:
        among = exposures(snapshot)
        words = []
        for name in ("object_name", "filter", "run"):
            codes = np.unique(getattr(images, name)[among])
            words.append(tuple(sorted(images.words[name][c] for c in codes if c >= 0))[:MAX_CHOICES])
        days = np.unique(images.night[among])[::-1][:MAX_CHOICES]
        nights = tuple(str(np.datetime64(int(d), "D")) for d in days if d != UNKNOWN_DAY)
        return GradesFacets(words[0], words[1], words[2], nights)

    sources = (images.kind, images.frame, images.object_name, images.filter, images.run, images.night)
    return snapshot.cache.get("grades facets", sources, compute)


@dataclass(frozen=True)
class Measured:
    """What takes long to measure: who graded what, and the nights."""

    figures: GradingFigures
    nights: Bins | None


@dataclass
class _Kept:
    measured: Measured
    version: int
    made_s: float
    cost_s: float


@dataclass
class FigureKeeper:
    """Figures of one survey: always today's where they are cheap, else measured aside while the last ones serve."""

    kept: OrderedDict[Narrow, _Kept] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    asides: set[Narrow] = field(default_factory=set)

    def get(self, snapshot: Snapshot, narrow: Narrow) -> Measured:
        """Return the figures of some exposures: those of the snapshot, or a little older where they take long."""
        found = self.kept.get(narrow)
        if found is None or (found.cost_s < CHEAP_S and found.version != snapshot.version):
            with self.lock:
                return self._measure(snapshot, narrow)
        if not self._serves(found, snapshot) and narrow not in self.asides:
            self.asides.add(narrow)
            threading.Thread(target=self._aside, args=(snapshot, narrow), name="spica-web-figures", daemon=True).start()
        return found.measured

    def _aside(self, snapshot: Snapshot, narrow: Narrow) -> None:
        try:
            with self.lock:
                self._measure(snapshot, narrow)
        finally:
            self.asides.discard(narrow)

    def _measure(self, snapshot: Snapshot, narrow: Narrow) -> Measured:
        found = self.kept.get(narrow)
        if found is not None and found.version >= snapshot.version:
            return found.measured
        begin = time.perf_counter()
        rows = narrow.rows(snapshot)
        measured = Measured(measure_grading(snapshot, rows), count_nights(snapshot, rows))
        end = time.perf_counter()
        self.kept[narrow] = _Kept(measured, snapshot.version, end, end - begin)
        self.kept.move_to_end(narrow)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return measured

    def _serves(self, kept: _Kept, snapshot: Snapshot) -> bool:
        rest_s = min(MAX_REST_S, REST * kept.cost_s)
        return kept.version == snapshot.version or time.perf_counter() - kept.made_s < rest_s


_KEEPERS: weakref.WeakKeyDictionary[Database, FigureKeeper] = weakref.WeakKeyDictionary()


def figures_of(database: Database, snapshot: Snapshot, narrow: Narrow) -> Measured:
    """Return the figures of grading of a survey, measured for whoever asks first."""
    return _KEEPERS.setdefault(database, FigureKeeper()).get(snapshot, narrow)

"""Whether lists of sky positions show the same sources at the same places, and which of them to believe.

Two lists are laid over each other where both should see; the offsets of all pairs within reach pile up at the true
one (own derivation: counts in a circle about the densest offset against the Poisson chance of as many anywhere).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.special import gammainc

from spica.algorithms.skymap import angular_separation, polygon_contains, sky_centroid, tangent_project

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_SOURCES = 300
MIN_COMMON = 3
MIN_EXPECTED = 10
"""With so many sources on either side lists that show no common offset contradict each other."""
MAX_CHANCE = 1e-3
N_PARTNERS = 12
DEPTH_MARGIN = 3
"""Lists are cut to so many times the number of the shorter one: their depths, and what they saturate, may differ."""


@dataclass(frozen=True)
class SourceList:
    """Sources of an exposure: positions (N,) in degrees, brightness (N,), and the (K, 2) corners of its detectors.

    `is_reference`: a list that covers everything, and is believed.
    """

    name: str
    ra_deg: Floats
    dec_deg: Floats
    brightness: Floats
    polygons_deg: tuple[Floats, ...] = ()
    is_reference: bool = False


@dataclass(frozen=True)
class Offset:
    """Positions of list `second` minus those of `first`; NaN where no offset stands out. `n_expected` sources of the
    poorer list lie where both see; `n_common` coincide under the offset.
    """

    first: int
    second: int
    n_expected: int
    n_common: int
    east_arcsec: float
    north_arcsec: float

    @property
    def size_arcsec(self) -> float:
        """Return the length of the offset, NaN where none stands out."""
        return float(np.hypot(self.east_arcsec, self.north_arcsec))

    def agrees(self, limit_arcsec: float) -> bool | None:
        """Tell whether the lists agree within a limit; None where there are too few sources to say."""
        if np.isfinite(self.size_arcsec):
            return self.size_arcsec <= limit_arcsec
        return False if self.n_expected >= MIN_EXPECTED else None


@dataclass(frozen=True)
class Dissent:
    """An exposure that is not believed: the offset that speaks against it, and against which list."""

    index: int
    against: int
    offset: Offset


@dataclass(frozen=True)
class Agreement:
    """What came of the comparison.

    `dissents` are the exposures outvoted by a larger group or the reference; `tie` is an offset between groups of which
    neither can be preferred (None: there is none); `checked` names the lists that agree with any other.
    """

    offsets: tuple[Offset, ...]
    dissents: tuple[Dissent, ...]
    tie: Offset | None
    checked: frozenset[str]


def compare_lists(lists: Sequence[SourceList], reach_arcsec: float, width_arcsec: float) -> tuple[Offset, ...]:
    """Measure the offsets between every list and its nearest neighbours, and all references.

    Parameters
    ----------
    reach_arcsec : largest offset looked for.
    width_arcsec : radius of the circle in which offsets count as the same.
    """
    return tuple(_offset(lists, i, j, reach_arcsec, width_arcsec) for i, j in _neighbours(lists))


def _neighbours(lists: Sequence[SourceList]) -> list[tuple[int, int]]:
    seen = [i for i, one in enumerate(lists) if one.polygons_deg]
    centres = {i: sky_centroid(*np.concatenate(lists[i].polygons_deg).T) for i in seen}
    pairs = set()
    ra, dec = (np.array([centres[i][k] for i in seen]) for k in (0, 1))
    for k, i in enumerate(seen):
        apart = angular_separation(ra, dec, ra[k], dec[k])
        apart[k] = np.inf
        for near in np.argsort(apart, kind="stable")[:N_PARTNERS]:
            if np.isfinite(apart[near]):
                pairs.add((min(i, seen[near]), max(i, seen[near])))
        pairs |= {(i, j) for j, other in enumerate(lists) if other.is_reference}
    return sorted(pairs)


def _inside(one: SourceList, other: SourceList) -> Bools:
    """Tell which sources of a list lie where the other sees."""
    good = np.isfinite(one.ra_deg) & np.isfinite(one.dec_deg)
    if other.is_reference:
        return good
    inside = np.zeros(good.size, dtype=bool)
    for polygon in other.polygons_deg:
        inside[good] |= polygon_contains(polygon, one.ra_deg[good], one.dec_deg[good])
    return inside


def _offset(lists: Sequence[SourceList], i: int, j: int, reach: float, width: float) -> Offset:
    pair = (lists[i], lists[j])
    rows = [np.flatnonzero(_inside(pair[0], pair[1])), np.flatnonzero(_inside(pair[1], pair[0]))]
    expected = min(r.size for r in rows)
    most = min(DEPTH_MARGIN * expected, MAX_SOURCES)
    rows = [r[np.argsort(-one.brightness[r], kind="stable")[:most]] for r, one in zip(rows, pair, strict=True)]
    nothing = Offset(i, j, expected, 0, float("nan"), float("nan"))
    if expected < MIN_COMMON:
        return nothing
    ra, dec = sky_centroid(pair[0].ra_deg[rows[0]], pair[0].dec_deg[rows[0]])
    flat = [
        3600.0 * np.stack(tangent_project(one.ra_deg[r], one.dec_deg[r], ra, dec), axis=1)
        for one, r in zip(pair, rows, strict=True)
    ]
    gap = flat[1][None, :, :] - flat[0][:, None, :]
    first, second = np.nonzero(np.hypot(gap[..., 0], gap[..., 1]) <= reach)
    near = gap[first, second]
    if len(near) < MIN_COMMON:
        return nothing
    counts = cKDTree(near).query_ball_point(near, width, return_length=True)
    place = near[int(np.argmax(counts))]
    members = np.hypot(*(near - place).T) <= width
    for _ in range(3):
        place = np.median(near[members], axis=0)
        members = np.hypot(*(near - place).T) <= width
        if not members.any():
            return nothing
    common = min(np.unique(first[members]).size, np.unique(second[members]).size)
    rate = (len(near) - common) * (width / reach) ** 2
    if common < MIN_COMMON or len(near) * chance_of_many(common, rate) > MAX_CHANCE:
        return nothing
    return Offset(i, j, expected, common, float(place[0]), float(place[1]))


def chance_of_many(n: int, rate: float) -> float:
    """Return the chance of `n` or more events (n >= 1) of a Poisson process that expects `rate`.

    P(N >= n) is the regularised lower incomplete gamma function P(n, rate) (Abramowitz & Stegun 1964, 26.4.21).
    """
    return float(gammainc(n, rate))


def judge_offsets(lists: Sequence[SourceList], offsets: Sequence[Offset], limits_arcsec: Sequence[float]) -> Agreement:
    """Part the lists into those that agree and those outvoted.

    Groups are chains of lists that agree. Where two groups contradict each other the one with the reference is
    believed, else the one with more exposures; of equal ones neither.

    Parameters
    ----------
    limits_arcsec : of each offset, in their order: lists further apart contradict each other.
    """
    says = [o.agrees(limit) for o, limit in zip(offsets, limits_arcsec, strict=True)]
    linked = [o for o, said in zip(offsets, says, strict=True) if said]
    ends = (np.array([o.first for o in linked], int), np.array([o.second for o in linked], int))
    graph = coo_array((np.ones(len(linked)), ends), shape=(len(lists), len(lists)))
    group = connected_components(graph, directed=False)[1]
    held = [(any(one.is_reference for one, g in zip(lists, group, strict=True) if g == k), int((group == k).sum()))
            for k in range(int(group.max(initial=-1)) + 1)]  # fmt: skip
    checked = frozenset(lists[k].name for k in np.unique(np.concatenate(ends)).tolist())
    lost: dict[int, Dissent] = {}
    ties: list[Offset] = []
    for o, said in zip(offsets, says, strict=True):
        mine, theirs = int(group[o.first]), int(group[o.second])
        if said is not False or mine == theirs:
            continue
        if held[mine] == held[theirs]:
            ties.append(o)
            continue
        loser, winner = (o.first, o.second) if held[mine] < held[theirs] else (o.second, o.first)
        for k in np.flatnonzero(group == group[loser]).tolist():
            lost.setdefault(k, Dissent(k, winner, o))
    open_ties = [o for o in ties if o.first not in lost and o.second not in lost]
    return Agreement(tuple(offsets), tuple(lost[k] for k in sorted(lost)), open_ties[0] if open_ties else None, checked)

"""Which exposures overlap: footprints of many detectors at once, and their connected groups.

Two exposures overlap where a detector of one shares area with a detector of the other (separating-axis theorem on
great circles, as `spica.algorithms.skymap.polygons_overlap`, here for all pairs of detectors at once). Dense fields are
joined through nearest neighbours first, so that the number of exact tests grows with the exposures, not their pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError, cKDTree

from spica.algorithms.skymap import sky_angles, tangent_basis, unit_vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Polygons = Sequence[Sequence[tuple[float, float]]]

NEIGHBOURS = 9
MARGIN = 1e-12
TOUCH = 1e-15
BLOCK = 64


class FootprintMap:
    """Footprints of n exposures as arrays over their p detectors, polygons padded to k corners.

    `vertices`, `normals` (p, k, 3) unit vectors, normals inward; `centres` (p, 3), `reach` (p,) the chord from centre
    to the farthest corner; `first` (n + 1,) where the detectors of an exposure begin; `centre` (n, 3), `radius` (n,)
    the same for whole exposures. An exposure without any usable polygon has `usable` False.
    """

    def __init__(self, footprints: Sequence[Polygons]) -> None:
        """Take corners (ra, dec) in degrees; polygons without area or with unknown corners do not count."""
        owner, corners = _padded(footprints)
        vertices = unit_vectors(corners[..., 0], corners[..., 1])
        normals, good = _inward(vertices)
        self.vertices, self.normals = vertices[good], normals[good]
        owner = owner[good]
        counts = np.bincount(owner, minlength=len(footprints))
        self.first: Ints = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.usable: Bools = counts > 0
        self.centres = _directions(self.vertices.mean(axis=1))
        self.reach = np.linalg.norm(self.vertices - self.centres[:, None], axis=2).max(axis=1, initial=0.0)
        total = np.zeros((len(footprints), 3))
        np.add.at(total, owner, self.centres)
        self.centre = _directions(total)
        self.radius: Floats = np.zeros(len(footprints))
        away = np.linalg.norm(self.centres - self.centre[owner], axis=1) + self.reach
        np.maximum.at(self.radius, owner, away)

    def polygons(self, exposure: int) -> slice:
        """Return the range of an exposure's detectors."""
        return slice(int(self.first[exposure]), int(self.first[exposure + 1]))

    def overlap(self, one: int, other: int) -> bool:
        """Tell whether two exposures share some area."""
        a, b = self.polygons(one), self.polygons(other)
        apart = np.linalg.norm(self.centres[a, None] - self.centres[None, b], axis=2)
        near_a, near_b = np.nonzero(apart <= self.reach[a, None] + self.reach[None, b] + MARGIN)
        order = np.argsort(apart[near_a, near_b], kind="stable")
        near_a, near_b = near_a[order] + a.start, near_b[order] + b.start
        return any(
            bool(np.any(self._share(near_a[i : i + BLOCK], near_b[i : i + BLOCK])))
            for i in range(0, near_a.size, BLOCK)
        )

    def _share(self, first: Ints, second: Ints) -> Bools:
        """Tell for pairs of detectors whether they share area."""
        shared: Bools = np.einsum("pi,pi->p", self.centres[first], self.centres[second]) > 0.0
        for a, b in ((first, second), (second, first)):
            sides = np.einsum("pki,pli->pkl", self.normals[a], self.vertices[b])
            shared &= ~np.any(np.all(sides <= TOUCH, axis=2), axis=1)
        return shared

    def first_share(self, first: Ints, second: Ints) -> Bools:
        """Tell for pairs of usable exposures whether their first detectors share area."""
        return self._share(self.first[first], self.first[second])

    def overlapping(self, target: int, others: Ints) -> Ints:
        """Return those of the others that overlap a target, in their order."""
        apart = np.linalg.norm(self.centre[others] - self.centre[target], axis=1)
        others = others[apart <= self.radius[others] + self.radius[target] + MARGIN]
        sure = self.first_share(np.full(others.size, target), others)
        sure[~sure] = self._hold_a_centre(target, others[~sure])
        found = [bool(s) or self.overlap(target, int(o)) for s, o in zip(sure, others, strict=True)]
        return others[np.array(found, dtype=bool)] if found else others[:0]

    def _hold_a_centre(self, target: int, others: Ints) -> Bools:
        """Tell for others whether the centre of their first or middle detector lies well inside one of the target."""
        if others.size == 0:
            return np.zeros(0, dtype=bool)
        probes = np.stack([self.first[others], (self.first[others] + self.first[others + 1]) // 2])
        normals = self.normals[self.polygons(target)]
        sides = np.einsum("dki,pni->pndk", normals, self.centres[probes])
        ahead = np.einsum("di,pni->pnd", self.centres[self.polygons(target)], self.centres[probes]) > 0.0
        inside: Bools = np.any(np.all(sides > 1e-9, axis=3) & ahead, axis=(0, 2))
        return inside


def _padded(footprints: Sequence[Polygons]) -> tuple[Ints, Floats]:
    """Return the exposure of each polygon, and corners (p, k, 2), the last corner repeated."""
    pairs = [(i, polygon) for i, polygons in enumerate(footprints) for polygon in polygons if len(polygon) >= 3]
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 3, 2))
    most = max(len(polygon) for _, polygon in pairs)
    corners = [list(polygon) + [polygon[-1]] * (most - len(polygon)) for _, polygon in pairs]
    owner, known = np.array([i for i, _ in pairs], dtype=np.int64), np.array(corners, dtype=np.float64)
    finite = np.all(np.isfinite(known), axis=(1, 2))
    return owner[finite], known[finite]


def _directions(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0.0, length, 1.0)


def _inward(vertices: Floats) -> tuple[Floats, Bools]:
    """Return inward unit normals of the sides (one without length takes that of another), and which polygons count."""
    normals = np.cross(vertices, np.roll(vertices, -1, axis=1))
    turn = np.einsum("pki,pi->p", normals, vertices.mean(axis=1))
    normals = np.where(turn[:, None, None] < 0.0, -normals, normals)
    length = np.linalg.norm(normals, axis=2)
    real = length > TOUCH
    good: Bools = (real.sum(axis=1) >= 3) & (np.abs(turn) > 0.0)
    normals = normals / np.where(real, length, 1.0)[..., None]
    instead = np.take_along_axis(normals, real.argmax(axis=1)[:, None, None], axis=1)
    return np.where(real[..., None], normals, instead), good


class Joiner:
    """Joins exposures into groups (union-find, paths halved)."""

    def __init__(self, count: int) -> None:
        """Begin with every exposure alone."""
        self.parent = list(range(count))

    def root(self, item: int) -> int:
        """Return the exposure that stands for a group."""
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        """Make one group of two; the smaller index stands for it."""
        a, b = sorted((self.root(one), self.root(other)))
        self.parent[b] = a

    def labels(self) -> Ints:
        """Return the root of each exposure."""
        return np.array([self.root(i) for i in range(len(self.parent))], dtype=np.int64)


def connected_labels(sky: FootprintMap, exposures: Ints) -> Ints:
    """Label exposures (all usable) by connected group, 0, 1, ... in the order of the first of each."""
    joiner = Joiner(exposures.size)
    _join_neighbours(sky, exposures, joiner)
    labels = joiner.labels()
    groups = [Group(sky, exposures[labels == root], int(root)) for root in np.unique(labels)]
    if len(groups) > 1:
        for a, b in _near_groups(groups):
            one, other = groups[a], groups[b]
            if joiner.root(one.root) != joiner.root(other.root) and _touch(sky, one, other):
                joiner.join(one.root, other.root)
    inverse: Ints = np.unique(joiner.labels(), return_inverse=True)[1].astype(np.int64)
    return inverse


def _join_neighbours(sky: FootprintMap, exposures: Ints, joiner: Joiner) -> None:
    """Join each exposure to its nearest ones where they overlap; most are sure by their first detectors alone."""
    count = min(NEIGHBOURS, exposures.size)
    if count < 2:
        return
    centre, radius = sky.centre[exposures], sky.radius[exposures]
    apart, nearest = cKDTree(centre).query(centre, k=count)
    possible = apart <= radius[:, None] + radius[nearest] + MARGIN
    for rank in range(count):
        labels = joiner.labels()
        pairs = np.flatnonzero(possible[:, rank] & (labels != labels[nearest[:, rank]]))
        others = nearest[pairs, rank]
        sure = sky.first_share(exposures[pairs], exposures[others])
        for i, j, known in zip(pairs.tolist(), others.tolist(), sure.tolist(), strict=True):
            if joiner.root(i) != joiner.root(j) and (known or sky.overlap(int(exposures[i]), int(exposures[j]))):
                joiner.join(i, j)


@dataclass(frozen=True)
class Hull:
    """Convex hull on the sphere: corners and inward normals of its sides, both (h, 3)."""

    vertices: Floats
    normals: Floats


class Group:
    """Exposures already known to be connected, the circle (as chord) and the hull around them."""

    def __init__(self, sky: FootprintMap, exposures: Ints, root: int) -> None:
        """Take the exposures of a group; `root` stands for it in the joiner."""
        self.sky, self.exposures, self.root = sky, exposures, root
        self.centre: Floats = _directions(sky.centre[exposures].mean(axis=0))
        self.reach = float((np.linalg.norm(sky.centre[exposures] - self.centre, axis=1) + sky.radius[exposures]).max())

    @functools.cached_property
    def hull(self) -> Hull | None:
        """Hull of all corners; None where the group spans too much of the sky.

        The gnomonic projection keeps great circles straight: the hull in the tangent plane is the hull on the sphere.
        """
        vertices = np.concatenate([self.sky.vertices[self.sky.polygons(e)] for e in self.exposures.tolist()])
        ra, dec = sky_angles(self.centre)
        basis = tangent_basis(float(ra), float(dec))
        plane = vertices.reshape(-1, 3) @ basis.T
        if float(plane[:, 2].min()) < 0.2:
            return None
        try:
            hull = ConvexHull(plane[:, :2] / plane[:, 2:])
        except QhullError:
            return None
        # the side a x + b y + c = 0 of the plane is the great circle of the normal (a, b, c)
        return Hull(plane[hull.vertices] @ basis, -_directions(hull.equations @ basis))


def _near_groups(groups: list[Group]) -> Iterator[tuple[int, int]]:
    """Yield pairs of groups whose circles meet, the nearest first."""
    centre = np.array([g.centre for g in groups])
    reach = np.array([g.reach for g in groups])
    limit = 4.0 * float(np.median(reach))
    small = np.flatnonzero(reach <= limit)
    pairs = [small[cKDTree(centre[small]).query_pairs(2.0 * limit + MARGIN, output_type="ndarray")]]
    for large in np.flatnonzero(reach > limit):
        others = np.flatnonzero((reach <= limit) | (np.arange(reach.size) < large))
        pairs.append(np.stack([np.full(others.size, large), others], axis=1))
    found = np.concatenate(pairs)
    apart = np.linalg.norm(centre[found[:, 0]] - centre[found[:, 1]], axis=1)
    near = apart <= reach[found[:, 0]] + reach[found[:, 1]] + MARGIN
    yield from found[near][np.argsort(apart[near], kind="stable")].tolist()


def _touch(sky: FootprintMap, first: Group, second: Group) -> bool:
    """Tell whether any exposure of one group overlaps any of another."""
    one, other = _facing(sky, first, second), _facing(sky, second, first)
    if one.size == 0 or other.size == 0:
        return False
    tree = cKDTree(sky.centre[other])
    largest = float(sky.radius[other].max())
    apart, _ = tree.query(sky.centre[one])
    for i in np.argsort(apart, kind="stable").tolist():
        exposure = int(one[i])
        if apart[i] > sky.radius[exposure] + largest + MARGIN:
            continue
        near = np.asarray(tree.query_ball_point(sky.centre[exposure], sky.radius[exposure] + largest + MARGIN))
        order = np.argsort(np.linalg.norm(sky.centre[other[near]] - sky.centre[exposure], axis=1), kind="stable")
        if any(sky.overlap(exposure, int(o)) for o in other[near[order]]):
            return True
    return False


def _facing(sky: FootprintMap, group: Group, other: Group) -> Ints:
    """Return the exposures of a group that reach into the circle and the hull of another."""
    apart = np.linalg.norm(sky.centre[group.exposures] - other.centre, axis=1)
    kept: Ints = group.exposures[apart <= sky.radius[group.exposures] + other.reach + MARGIN]
    hull = other.hull
    if hull is None or kept.size == 0:
        return kept
    if group.hull is not None and _outside(group.hull.vertices, hull.normals):
        return np.zeros(0, dtype=np.int64)
    inside = [not _outside(sky.vertices[sky.polygons(e)].reshape(-1, 3), hull.normals) for e in kept.tolist()]
    facing: Ints = kept[np.array(inside, dtype=bool)]
    return facing


def _outside(vertices: Floats, normals: Floats) -> bool:
    """Tell whether one side leaves all corners outside."""
    return bool(np.any(np.max(vertices @ normals.T, axis=0) <= TOUCH))

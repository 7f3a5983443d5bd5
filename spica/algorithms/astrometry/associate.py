"""Which detections and reference stars are the same star: connected groups of sky positions within a radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Stars:
    """Associations: `star` (N,) of each detection or -1; `reference` (S,) row of the catalogue or -1."""

    star: Ints
    reference: Ints


def associate_stars(vectors: Floats, exposure: Ints, reference: Floats, radius_rad: float) -> Stars:
    """Group detections (N, 3) of all exposures and reference stars (R, 3) that lie within a radius of each other.

    A group counts as a star when it holds at least two members, at most one of each exposure and at most one
    reference star: what is ambiguous at this radius is left for a smaller one.
    """
    n_detections = vectors.shape[0]
    points = np.concatenate([vectors, reference])
    owner = np.concatenate([exposure, np.full(reference.shape[0], -1, dtype=np.int64)])
    links = cKDTree(points).query_pairs(2.0 * np.sin(radius_rad / 2.0), output_type="ndarray")
    graph = coo_array(
        (np.ones(links.shape[0], dtype=np.int8), (links[:, 0], links[:, 1])), shape=(points.shape[0],) * 2
    )
    n_groups, label = connected_components(graph, directed=False)
    size = np.bincount(label, minlength=n_groups)
    n_owners = int(owner.max()) + 2 if owner.size else 1
    distinct = np.unique(label.astype(np.int64) * n_owners + owner + 1) // n_owners
    good = (size >= 2) & (np.bincount(distinct, minlength=n_groups) == size)
    number = np.where(good, np.cumsum(good) - 1, -1)
    member = number[label]
    of_reference = np.full(int(good.sum()), -1, dtype=np.int64)
    rows = np.flatnonzero(member[n_detections:] >= 0)
    of_reference[member[n_detections + rows]] = rows
    return Stars(member[:n_detections].astype(np.int64), of_reference)

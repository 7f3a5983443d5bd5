"""Nearest neighbours between two lists of positions on the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from spica.algorithms.skymap import ARCSEC_PER_RAD, unit_vectors, vector_separation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SkyMatches:
    """Pairs of mutual nearest neighbours of two lists, in the order of the first list."""

    index1: Ints
    index2: Ints
    separation_arcsec: Floats


def match_nearest(
    ra1_deg: ArrayLike, dec1_deg: ArrayLike, ra2_deg: ArrayLike, dec2_deg: ArrayLike, radius_arcsec: float
) -> SkyMatches:
    """Match two lists: pairs that are each other's nearest neighbour within a radius.

    Non-finite positions match nothing. A KD tree over unit vectors, so poles and right ascension 0 are ordinary.
    """
    first = unit_vectors(np.ravel(ra1_deg), np.ravel(dec1_deg))
    second = unit_vectors(np.ravel(ra2_deg), np.ravel(dec2_deg))
    keep1 = np.flatnonzero(np.all(np.isfinite(first), axis=1))
    keep2 = np.flatnonzero(np.all(np.isfinite(second), axis=1))
    none = np.zeros(0, dtype=np.int64)
    if keep1.size == 0 or keep2.size == 0:
        return SkyMatches(none, none, np.zeros(0))
    first, second = first[keep1], second[keep2]
    _, to_second = cKDTree(second).query(first)
    _, to_first = cKDTree(first).query(second)
    separation = vector_separation(first, second[to_second]) * ARCSEC_PER_RAD
    mutual = (to_first[to_second] == np.arange(keep1.size)) & (separation <= radius_arcsec)
    return SkyMatches(keep1[mutual], keep2[to_second[mutual]], separation[mutual])

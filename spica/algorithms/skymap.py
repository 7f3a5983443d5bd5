"""Geometry of the celestial sphere: tangent planes, separations, nearest neighbours, footprints and their groups.

Everything runs on unit vectors, so right ascension 0 and the poles need no special case. Footprints are convex
polygons whose sides are great circles, given as arrays (n, 2) of right ascension and declination in degrees, in
either sense of rotation, smaller than a hemisphere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ARCSEC_PER_RAD = float(np.degrees(1.0) * 3600.0)


def unit_vectors(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Floats:
    """Return unit vectors (..., 3) of directions in degrees."""
    ra = np.radians(np.asarray(ra_deg, dtype=np.float64))
    dec = np.radians(np.asarray(dec_deg, dtype=np.float64))
    cos_dec = np.cos(dec)
    return np.stack(np.broadcast_arrays(cos_dec * np.cos(ra), cos_dec * np.sin(ra), np.sin(dec)), axis=-1)


def sky_angles(vectors: Floats) -> tuple[Floats, Floats]:
    """Return right ascension [0, 360) and declination in degrees of vectors (..., 3) of any length."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    ra = np.degrees(np.arctan2(y, x)) % 360.0
    ra = np.where(ra >= 360.0, 0.0, ra)
    return ra, np.degrees(np.arctan2(z, np.hypot(x, y)))


def tangent_basis(ra_deg: ArrayLike, dec_deg: ArrayLike) -> Floats:
    """Return (..., 3, 3): the rows are the unit vectors east, north and outward at a direction.

    At a pole right ascension still defines east, as it does for the CRVAL of a FITS header.
    """
    ra = np.radians(np.asarray(ra_deg, dtype=np.float64))
    dec = np.radians(np.asarray(dec_deg, dtype=np.float64))
    zero = np.zeros(np.broadcast(ra, dec).shape)
    sin_ra, cos_ra, sin_dec, cos_dec = np.sin(ra), np.cos(ra), np.sin(dec), np.cos(dec)
    east = np.stack([-sin_ra + zero, cos_ra + zero, zero], axis=-1)
    north = np.stack([-sin_dec * cos_ra, -sin_dec * sin_ra, cos_dec + zero], axis=-1)
    outward = np.stack([cos_dec * cos_ra, cos_dec * sin_ra, sin_dec + zero], axis=-1)
    return np.stack([east, north, outward], axis=-2)


def tangent_project(ra_deg: ArrayLike, dec_deg: ArrayLike, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Project directions on the plane tangent at (ra0, dec0) (gnomonic projection, FITS TAN).

    Returns
    -------
    xi_deg, eta_deg : float64 arrays, degrees on the plane; xi grows to the east, eta to the north. NaN where the
        direction is 90 degrees or more from the tangent point.
    """
    plane = unit_vectors(ra_deg, dec_deg) @ tangent_basis(ra0_deg, dec0_deg).T
    depth = np.where(plane[..., 2] > 0.0, plane[..., 2], np.nan)
    return np.degrees(plane[..., 0] / depth), np.degrees(plane[..., 1] / depth)


def tangent_deproject(xi_deg: ArrayLike, eta_deg: ArrayLike, ra0_deg: float, dec0_deg: float) -> tuple[Floats, Floats]:
    """Return right ascension and declination in degrees of points of a tangent plane; inverse of `tangent_project`."""
    xi = np.radians(np.asarray(xi_deg, dtype=np.float64))
    eta = np.radians(np.asarray(eta_deg, dtype=np.float64))
    plane = np.stack(np.broadcast_arrays(xi, eta, np.ones_like(xi)), axis=-1)
    return sky_angles(plane @ tangent_basis(ra0_deg, dec0_deg))


def angular_separation(ra1_deg: ArrayLike, dec1_deg: ArrayLike, ra2_deg: ArrayLike, dec2_deg: ArrayLike) -> Floats:
    """Return the separation in degrees, exact from micro-arcseconds to 180 degrees (arctangent form)."""
    first, second = unit_vectors(ra1_deg, dec1_deg), unit_vectors(ra2_deg, dec2_deg)
    return np.degrees(vector_separation(first, second))


def vector_separation(first: Floats, second: Floats) -> Floats:
    """Return the angle in radians between unit vectors (..., 3)."""
    chord = np.linalg.norm(first - second, axis=-1)
    return 2.0 * np.arctan2(chord, np.linalg.norm(first + second, axis=-1))


def sky_centroid(ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[float, float]:
    """Return the robust centre of directions in degrees: their geometric median on the sphere.

    Weiszfeld's iteration on unit vectors started at the mean vector. Up to half the points may lie anywhere.

    Raises
    ------
    ValueError
        No finite point, or points that cancel out over the sphere.
    """
    vectors = unit_vectors(np.ravel(ra_deg), np.ravel(dec_deg))
    vectors = vectors[np.all(np.isfinite(vectors), axis=-1)]
    if vectors.shape[0] == 0:
        raise ValueError("no finite position to take the centre of; give at least one")
    centre = _normalised_mean(vectors, np.ones(vectors.shape[0]))
    for _ in range(200):
        distance = np.maximum(np.linalg.norm(vectors - centre, axis=-1), 1e-9)
        moved = _normalised_mean(vectors, 1.0 / distance)
        step, centre = float(np.linalg.norm(moved - centre)), moved
        if step < 1e-12:
            break
    ra, dec = sky_angles(centre)
    return float(ra), float(dec)


def _normalised_mean(vectors: Floats, weight: Floats) -> Floats:
    total = (vectors * weight[:, None]).sum(axis=0) / weight.sum()
    length = float(np.linalg.norm(total))
    if length < 1e-9:
        raise ValueError("the positions cancel out over the sphere and have no centre; split them into fields")
    return total / length


def _polygon(polygon_deg: ArrayLike) -> tuple[Floats, Floats]:
    """Return vertices (n, 3) turned counter-clockwise and the inward normals (n, 3) of the sides."""
    corners = np.asarray(polygon_deg, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or corners.shape[0] < 3 or not np.all(np.isfinite(corners)):
        raise ValueError("a footprint is an array (n >= 3, 2) of finite RA, Dec in degrees")
    vertices = unit_vectors(corners[:, 0], corners[:, 1])
    normals = np.cross(vertices, np.roll(vertices, -1, axis=0))
    if float((normals @ vertices.mean(axis=0)).sum()) < 0.0:
        vertices = vertices[::-1]
        normals = np.cross(vertices, np.roll(vertices, -1, axis=0))
    length = np.linalg.norm(normals, axis=1)
    distinct = length > 1e-15
    if int(distinct.sum()) < 3:
        raise ValueError("a footprint needs three distinct corners")
    return vertices[distinct], normals[distinct] / length[distinct, None]


def polygon_contains(polygon_deg: ArrayLike, ra_deg: ArrayLike, dec_deg: ArrayLike) -> Bools:
    """Tell which directions lie in a convex footprint; its border belongs to it."""
    _, normals = _polygon(polygon_deg)
    inside: Bools = np.all(unit_vectors(ra_deg, dec_deg) @ normals.T >= -1e-15, axis=-1)
    return inside


def polygons_overlap(first_deg: ArrayLike, second_deg: ArrayLike) -> bool:
    """Tell whether two convex footprints share some area.

    Separating-axis theorem: gnomonic projection keeps great circles straight, so two convex polygons of one
    hemisphere are apart if and only if a side of one has the whole other outside.
    """
    return _oriented_overlap(_polygon(first_deg), _polygon(second_deg))


def _oriented_overlap(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> bool:
    if float(first[0].mean(axis=0) @ second[0].mean(axis=0)) <= 0.0:
        return False
    for (_, normals), (vertices, _) in ((first, second), (second, first)):
        if bool(np.any(np.all(vertices @ normals.T <= 1e-15, axis=0))):
            return False
    return True


def polygon_meets_circle(polygon_deg: ArrayLike, ra_deg: float, dec_deg: float, radius_deg: float) -> bool:
    """Tell whether a convex footprint and a small circle of the sphere share a point."""
    vertices, normals = _polygon(polygon_deg)
    centre = unit_vectors(ra_deg, dec_deg)
    if bool(np.all(normals @ centre >= 0.0)):
        return True
    ends = np.roll(vertices, -1, axis=0)
    to_corner = vector_separation(vertices, centre[None, :])
    after = np.einsum("ij,ij->i", np.cross(normals, vertices), np.broadcast_to(centre, vertices.shape)) > 0.0
    before = np.einsum("ij,ij->i", np.cross(normals, ends), np.broadcast_to(centre, vertices.shape)) < 0.0
    to_side = np.where(after & before, np.abs(np.arcsin(np.clip(normals @ centre, -1.0, 1.0))), np.inf)
    return bool(np.degrees(min(to_corner.min(), to_side.min())) <= radius_deg)

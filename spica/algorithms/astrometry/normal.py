"""One Gauss-Newton step of the joint solution, star positions eliminated.

With J the derivative of a detection's position in its star's tangent plane, w its weight, and d_s the unknown
position of star s, minimise sum w |r + J p - d_s|^2 + w_ref |r_ref - d_s|^2. Setting d_s to its optimum leaves
N = sum w J'J - sum_s (sum w J)'(sum w J) / W_s, the Schur complement; with the residuals taken about the weighted
mean of every star the right-hand side is -sum w J'r (own derivation; a reference star is a detection without J).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from spica.algorithms.astrometry.associate import Stars
from spica.algorithms.astrometry.model import Observations, State, focal_positions, recentre, sky_vectors
from spica.algorithms.skymap import sky_angles, tangent_basis

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_BLOCK_NUMBERS = 8_000_000
RIDGE = 1e-13
MAX_IDLE = 1e-11
LINEAR_MAPS = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]],
                        [[0.0, 1.0], [1.0, 0.0]]])  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Inverse variances, rad^-2: of detections (N,) and of each star's reference (S,); 0 where absent or clipped."""

    detection: Floats
    reference: Floats


@dataclass(frozen=True)
class ReferencePlaces:
    """Reference stars on the sphere: unit vectors (R, 3), sigma (R,) rad, proper motion (R, 2) rad/yr, time lags.

    `lag_year` (E,) is each exposure's date minus that of the positions.
    """

    vectors: Floats
    sigma_rad: Floats
    motion: Floats
    lag_year: Floats


@dataclass(frozen=True)
class Residuals:
    """Positions in the tangent planes (east, north) of the stars' weighted means, radians.

    `detection` (N, 2), NaN where the detection belongs to no star; `reference` (S, 2), NaN without one; `basis`
    (S, 3, 3); `total` (S,) summed weights.
    """

    detection: Floats
    reference: Floats
    basis: Floats
    total: Floats


@dataclass(frozen=True)
class FreeParameters:
    """What may change: kind of each exposure (6, 4, 2 or 0 parameters) and degree of each chip (-1: kept)."""

    exposure: Ints
    chip_degree: Ints
    chip_group: Ints
    exposure_group: Ints


def star_residuals(
    observations: Observations, state: State, stars: Stars, weights: Weights, places: ReferencePlaces
) -> tuple[Residuals, Floats, Floats]:
    """Return residuals about the stars' weighted means, and the focal positions and vector lengths behind them."""
    focal = focal_positions(observations, state.polynomial)
    vectors, length = sky_vectors(observations, state, focal)
    member = np.flatnonzero(stars.star >= 0)
    star = stars.star[member]
    known = np.flatnonzero(stars.reference >= 0)
    moved = vectors[member] - _motion(observations, stars, places, member)
    count = stars.reference.size
    mean = np.empty((count, 3))
    for axis in range(3):
        mean[:, axis] = np.bincount(star, weights.detection[member] * moved[:, axis], minlength=count)
    mean[known] += weights.reference[known, None] * places.vectors[stars.reference[known]]
    total = np.bincount(star, weights.detection[member], minlength=count) + weights.reference
    empty = total <= 0.0
    first = np.zeros((count, 3))
    first[star[::-1]] = moved[::-1]
    mean[empty] = first[empty]
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    basis = tangent_basis(*sky_angles(mean))
    detection = np.full((observations.exposure.size, 2), np.nan)
    detection[member] = _flatten(basis[star], moved)
    reference = np.full((count, 2), np.nan)
    reference[known] = _flatten(basis[known], places.vectors[stars.reference[known]])
    return Residuals(detection, reference, basis, total), focal, length


def _flatten(basis: Floats, vectors: Floats) -> Floats:
    plane = np.einsum("nij,nj->ni", basis, vectors)
    return plane[:, :2] / plane[:, 2:]


def _motion(observations: Observations, stars: Stars, places: ReferencePlaces, member: Ints) -> Floats:
    """Return the displacement (n, 3) by proper motion between the common date and each detection's."""
    row = stars.reference[stars.star[member]]
    lag = places.lag_year[observations.exposure[member]]
    moving = np.flatnonzero((row >= 0) & (lag != 0.0))
    shift = np.zeros((member.size, 3))
    if moving.size:
        rows = row[moving]
        plane = places.motion[rows] * lag[moving, None]
        basis = tangent_basis(*sky_angles(places.vectors[rows]))
        shift[moving] = np.einsum("ni,nij->nj", plane, basis[:, :2])
    return shift


def gauss_newton_step(
    observations: Observations, state: State, stars: Stars, weights: Weights, places: ReferencePlaces,
    free: FreeParameters,
) -> State:  # fmt: skip
    """Return the state after one step; exposures and coefficients that are not free stay."""
    residuals, focal, length = star_residuals(observations, state, stars, weights, places)
    normal, right = _normal_equations(observations, state, stars, weights, residuals, focal, length)
    change = _solve(normal, right, state, free)
    n_exposures = state.attitude.shape[0]
    of_exposure = change[: 6 * n_exposures].reshape(n_exposures, 6)
    polynomial = state.polynomial + change[6 * n_exposures :].reshape(state.polynomial.shape)
    basis, attitude = state.basis.copy(), state.attitude + of_exposure[:, :4].reshape(-1, 2, 2)
    for exposure in range(n_exposures):
        if free.exposure[exposure] > 0:
            basis[exposure], attitude[exposure] = recentre(
                state, exposure, attitude[exposure], of_exposure[exposure, 4:]
            )
    return replace(state, basis=basis, attitude=attitude, polynomial=polynomial)


def _normal_equations(
    observations: Observations, state: State, stars: Stars, weights: Weights, residuals: Residuals, focal: Floats,
    length: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    n_exposures, n_terms = state.attitude.shape[0], state.polynomial.shape[1]
    size = 6 * n_exposures + 2 * n_terms * state.polynomial.shape[0]
    n_stars = stars.reference.size
    normal, right = np.zeros((size, size)), np.zeros(size)
    chunk = max(1, MAX_BLOCK_NUMBERS // (2 * size))
    active = [np.flatnonzero(weights.detection[a:b] > 0.0) + a for _, _, a, b in observations.blocks]
    active = [rows[np.argsort(stars.star[rows], kind="stable")] for rows in active]
    for first in range(0, n_stars, chunk):
        last = min(first + chunk, n_stars)
        sums = np.zeros((last - first, 2, size))
        for (exposure, chip, _, _), every in zip(observations.blocks, active, strict=True):
            low, high = np.searchsorted(stars.star[every], (first, last))
            rows = every[low:high]
            if rows.size == 0:
                continue
            slope = _derivatives(observations, state, residuals.basis[stars.star[rows]], focal, length, exposure, rows)
            at_e = slice(6 * exposure, 6 * exposure + 6)
            at_c = slice(6 * n_exposures + 2 * n_terms * chip, 6 * n_exposures + 2 * n_terms * (chip + 1))
            weighted = slope * weights.detection[rows, None, None]
            sums[stars.star[rows] - first, :, at_e] += weighted[:, :, :6]
            sums[stars.star[rows] - first, :, at_c] += weighted[:, :, 6:]
            flat, heavy = slope.reshape(-1, slope.shape[2]), weighted.reshape(-1, slope.shape[2])
            block, force = heavy.T @ flat, heavy.T @ residuals.detection[rows].reshape(-1)
            normal[at_e, at_e] += block[:6, :6]
            normal[at_e, at_c] += block[:6, 6:]
            normal[at_c, at_e] += block[6:, :6]
            normal[at_c, at_c] += block[6:, 6:]
            right[at_e] -= force[:6]
            right[at_c] -= force[6:]
        total = residuals.total[first:last]
        sums *= np.sqrt(np.where(total > 0.0, 1.0 / np.where(total > 0.0, total, 1.0), 0.0))[:, None, None]
        flat_sums = sums.reshape(-1, size)
        normal -= flat_sums.T @ flat_sums
    return normal, right


def _derivatives(
    observations: Observations, state: State, star_basis: Floats, focal: Floats, length: Floats, exposure: int,
    rows: Ints,
) -> Floats:  # fmt: skip
    """Return d(position in the star's plane) / d(A00 A01 A10 A11 t0 t1 c_m0 c_m1 ...), (n, 2, 6 + 2 M)."""
    turn = np.einsum("nri,ai->nra", star_basis[:, :2], state.basis[exposure, :2]) / length[rows, None, None]
    place, terms = focal[rows], observations.terms[rows]
    slope = np.empty((rows.size, 2, 6 + 2 * terms.shape[1]))
    slope[:, :, 0:2] = turn[:, :, :1] * place[:, None, :]
    slope[:, :, 2:4] = turn[:, :, 1:] * place[:, None, :]
    slope[:, :, 4:6] = turn
    seen = turn @ state.attitude[exposure]
    slope[:, :, 6:] = (terms[:, None, :, None] * seen[:, :, None, :]).reshape(rows.size, 2, -1)
    return slope


def _solve(normal: Floats, right: Floats, state: State, free: FreeParameters) -> Floats:
    """Solve for the free parameters, columns scaled, changes without effect on any position held at nought."""
    expand = _expansion(state, free)
    reduced = expand.T @ normal @ expand
    usable = np.diag(reduced) > 0.0
    root = np.sqrt(np.where(usable, np.diag(reduced), 1.0))
    reduced = reduced / root[:, None] / root[None, :]
    idle = expand.T @ _idle_changes(state, free) / (expand**2).sum(axis=0)[:, None] * root[:, None]
    idle = np.linalg.qr(idle)[0]
    idle = idle[:, np.einsum("pk,pq,qk->k", idle, reduced, idle) < MAX_IDLE]
    reduced += idle @ idle.T
    reduced[np.diag_indices_from(reduced)] += np.where(usable, RIDGE, 1.0)
    answer = cho_solve(cho_factor(reduced, lower=True), (expand.T @ right) / root)
    return expand @ (answer / root)


def _expansion(state: State, free: FreeParameters) -> Floats:
    """Return the matrix from free parameters to all: similarity ties 4 numbers to 2, low degrees drop columns."""
    n_exposures, (n_chips, n_terms, _) = state.attitude.shape[0], state.polynomial.shape
    size = 6 * n_exposures + 2 * n_terms * n_chips
    columns: list[Floats] = []

    def unit(index: int) -> Floats:
        column = np.zeros(size)
        column[index] = 1.0
        return column

    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    for exposure in range(n_exposures):
        at, kind = 6 * exposure, int(free.exposure[exposure])
        if kind == 6:
            columns += [unit(at + k) for k in range(4)]
        elif kind == 4:
            for matrix in (state.attitude[exposure], turn @ state.attitude[exposure]):
                column = np.zeros(size)
                column[at : at + 4] = matrix.ravel()
                columns.append(column)
        if kind > 0:
            columns += [unit(at + 4), unit(at + 5)]
    for chip in range(n_chips):
        degree = int(free.chip_degree[chip])
        used = (degree + 1) * (degree + 2) if degree >= 0 else 0
        at = 6 * n_exposures + 2 * n_terms * chip
        columns += [unit(at + k) for k in range(used)]
    return np.stack(columns, axis=1) if columns else np.zeros((size, 0))


def _idle_changes(state: State, free: FreeParameters) -> Floats:
    """Return columns that change no position: per instrument a shift g and a linear map G of the focal plane.

    A (1 + G) with (1 - G) D, and t + A g with D - g, predict the same; a fallback may forbid some of them.
    """
    n_exposures, (n_chips, n_terms, _) = state.attitude.shape[0], state.polynomial.shape
    columns = []
    for group in np.unique(free.chip_group):
        chips = np.flatnonzero((free.chip_group == group) & (free.chip_degree >= 0))
        exposures = np.flatnonzero((free.exposure_group == group) & (free.exposure > 0))
        for shift in np.eye(2):
            of_exposure, of_chip = np.zeros((n_exposures, 6)), np.zeros((n_chips, n_terms, 2))
            of_exposure[exposures, 4:] = state.attitude[exposures] @ shift
            of_chip[chips, 0] = -shift
            columns.append(np.concatenate([of_exposure.ravel(), of_chip.ravel()]))
        for linear in LINEAR_MAPS:
            of_exposure, of_chip = np.zeros((n_exposures, 6)), np.zeros((n_chips, n_terms, 2))
            of_exposure[exposures, :4] = (state.attitude[exposures] @ linear).reshape(-1, 4)
            of_chip[chips] = -state.polynomial[chips] @ linear.T
            columns.append(np.concatenate([of_exposure.ravel(), of_chip.ravel()]))
    return np.stack(columns, axis=1)

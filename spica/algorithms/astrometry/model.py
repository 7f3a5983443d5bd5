"""State of the ensemble's model and the sky positions it predicts.

A detection of exposure e on chip k stands on the plane tangent at the exposure's centre at xi = A_e D_k(q), where D_k
is a polynomial of normalised pixels shared by all exposures of the instrument. The pointing lives in the tangent
basis (rows east, north, centre), so poles and RA 0 are ordinary; a step's shift is moved into it at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry.ensemble import (
    AstrometryParameters,
    DetectorLayout,
    Ensemble,
    ExposureSources,
)
from spica.algorithms.astrometry.tpv import monomials
from spica.algorithms.skymap import sky_angles, tangent_basis

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chip:
    """A detector of an instrument in the solution: its layout and the scaling of its polynomial."""

    instrument: str
    detector: int
    layout: DetectorLayout
    centre: tuple[float, float]
    half_size_pix: float
    scale_rad: float
    nominal: Floats


@dataclass(frozen=True)
class Observations:
    """Detections that take part, sorted by (exposure, chip); `blocks` are (exposure, chip, start, stop)."""

    exposure: Ints
    chip: Ints
    source: Ints
    x_pix: Floats
    y_pix: Floats
    terms: Floats
    sigma_rad: Floats
    snr: Floats
    flux: Floats
    blocks: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True)
class State:
    """Tangent bases (E, 3, 3), attitudes A (E, 2, 2), polynomials (K, M, 2) in radians."""

    basis: Floats
    attitude: Floats
    polynomial: Floats


def chip_key(ensemble: Ensemble, index: int, parameters: AstrometryParameters) -> str:
    """Return the name under which an exposure shares its distortion."""
    exposure = ensemble.exposures[index]
    return exposure.instrument if parameters.share_distortion else f"{exposure.instrument}#{index}"


def build_chips(ensemble: Ensemble, parameters: AstrometryParameters) -> tuple[list[Chip], dict[tuple[str, int], int]]:
    """List the chips of all instruments in use, with nominal coefficients (3, 2) in radians."""
    layouts = {one.name: one for one in ensemble.instruments}
    chips: list[Chip] = []
    where: dict[tuple[str, int], int] = {}
    for index, exposure in enumerate(ensemble.exposures):
        key = chip_key(ensemble, index, parameters)
        if exposure.instrument not in layouts:
            raise ValueError(f"exposure {exposure.name} names instrument {exposure.instrument!r} without a layout")
        for number, layout in enumerate(layouts[exposure.instrument].detectors):
            if (key, number) not in where:
                where[(key, number)] = len(chips)
                chips.append(_chip(exposure.instrument, number, layout))
    return chips, where


def _chip(instrument: str, number: int, layout: DetectorLayout) -> Chip:
    cd = np.radians(np.asarray(layout.cd_deg_per_pix, dtype=np.float64))
    determinant = abs(float(np.linalg.det(cd)))
    if layout.width_pix < 1 or layout.height_pix < 1 or not determinant > 0.0:
        raise ValueError(f"layout of {instrument} detector {number} has no size or no scale; correct the profile")
    centre = ((layout.width_pix - 1) / 2.0, (layout.height_pix - 1) / 2.0)
    half = float(np.hypot(layout.width_pix, layout.height_pix)) / 2.0
    constant = cd @ (np.array(centre) - np.array([layout.crpix_x_pix, layout.crpix_y_pix]))
    nominal = np.stack([constant, cd[:, 0] * half, cd[:, 1] * half])
    return Chip(instrument, number, layout, centre, half, float(np.sqrt(determinant)), nominal)


def build_observations(
    ensemble: Ensemble, chips: list[Chip], where: dict[tuple[str, int], int], parameters: AstrometryParameters
) -> Observations:
    """Select usable detections (the brightest of every detector) and evaluate the polynomial terms (N, M)."""
    parts: list[tuple[int, int, Ints]] = []
    for index, exposure in enumerate(ensemble.exposures):
        key = chip_key(ensemble, index, parameters)
        chosen = _usable(exposure, parameters)
        for number in np.unique(exposure.detector[chosen]):
            chip = where.get((key, int(number)))
            if chip is None:
                raise ValueError(f"exposure {exposure.name} has sources on detector {number}, which the layout lacks")
            rows = chosen[exposure.detector[chosen] == number]
            order = np.lexsort((exposure.y_pix[rows], exposure.x_pix[rows], -exposure.flux_adu[rows]))
            parts.append((index, chip, rows[order][: parameters.max_sources_per_detector]))
    return _gather(ensemble, chips, parts, parameters)


def observations_to_match(
    ensemble: Ensemble, chips: list[Chip], parameters: AstrometryParameters, usable: Observations
) -> Observations:
    """Return the detections that serve the pattern match: the usable ones unless some exposure names others."""
    if all(one.matchable is None for one in ensemble.exposures):
        return usable
    exposures = [one if one.matchable is None else replace(one, usable=one.matchable) for one in ensemble.exposures]
    wide = replace(ensemble, exposures=tuple(exposures))
    return build_observations(wide, chips, build_chips(wide, parameters)[1], parameters)


def _usable(exposure: ExposureSources, parameters: AstrometryParameters) -> Ints:
    with np.errstate(all="ignore"):
        snr = np.where(exposure.flux_error_adu > 0.0, exposure.flux_adu / exposure.flux_error_adu, 0.0)
    finite = np.isfinite(exposure.x_pix) & np.isfinite(exposure.y_pix) & np.isfinite(exposure.flux_adu)
    return np.flatnonzero(finite & exposure.usable & (exposure.flux_adu > 0.0) & (snr >= parameters.min_snr))


def _gather(
    ensemble: Ensemble, chips: list[Chip], parts: list[tuple[int, int, Ints]], parameters: AstrometryParameters
) -> Observations:
    columns: list[list[Floats]] = [[] for _ in range(6)]
    blocks: list[tuple[int, int, int, int]] = []
    at = 0
    for index, chip_index, rows in sorted(parts, key=lambda part: part[:2]):
        exposure, chip = ensemble.exposures[index], chips[chip_index]
        error = exposure.error_pix[rows]
        error = np.where(np.isfinite(error) & (error > 0.0), error, parameters.default_error_pix)
        sigma = np.hypot(error * chip.scale_rad, np.radians(parameters.position_floor_mas / 3.6e6))
        snr = exposure.flux_adu[rows] / exposure.flux_error_adu[rows]
        values = (exposure.x_pix[rows], exposure.y_pix[rows], sigma, snr, exposure.flux_adu[rows], rows)
        for column, value in zip(columns, values, strict=True):
            column.append(np.asarray(value, dtype=np.float64))
        blocks.append((index, chip_index, at, at + rows.size))
        at += rows.size
    x, y, sigma, snr, flux, source = (np.concatenate(column) if column else np.zeros(0) for column in columns)
    length = [stop - start for _, _, start, stop in blocks]
    exposure_of = np.repeat(np.array([b[0] for b in blocks], dtype=np.int64), length)
    chip_of = np.repeat(np.array([b[1] for b in blocks], dtype=np.int64), length)
    terms = polynomial_terms(chips, chip_of, x, y, parameters.degree)
    return Observations(exposure_of, chip_of, source.astype(np.int64), x, y, terms, sigma, snr, flux, tuple(blocks))


def polynomial_terms(chips: list[Chip], chip_of: Ints, x_pix: Floats, y_pix: Floats, degree: int) -> Floats:
    """Return the monomials (N, M) of normalised pixels."""
    centre = np.array([chip.centre for chip in chips]).reshape(-1, 2)
    half = np.array([chip.half_size_pix for chip in chips])
    p = (x_pix - centre[chip_of, 0]) / half[chip_of]
    q = (y_pix - centre[chip_of, 1]) / half[chip_of]
    return np.stack([p**i * q**j for i, j in monomials(degree)], axis=1)


def nominal_state(ensemble: Ensemble, chips: list[Chip], degree: int) -> State:
    """Return the state of believed pointings and nominal layouts."""
    count = len(ensemble.exposures)
    basis = np.array([tangent_basis(e.ra_deg, e.dec_deg) for e in ensemble.exposures]).reshape(count, 3, 3)
    polynomial = np.zeros((len(chips), len(monomials(degree)), 2))
    for index, chip in enumerate(chips):
        polynomial[index, :3] = chip.nominal
    return State(basis, np.tile(np.eye(2), (count, 1, 1)), polynomial)


def focal_positions(observations: Observations, polynomial: Floats) -> Floats:
    """Return D_k(q) of every observation, (N, 2) radians."""
    focal = np.empty((observations.exposure.size, 2))
    for _, chip, start, stop in observations.blocks:
        focal[start:stop] = observations.terms[start:stop] @ polynomial[chip]
    return focal


def sky_vectors(observations: Observations, state: State, focal: Floats) -> tuple[Floats, Floats]:
    """Return predicted unit vectors (N, 3) and the lengths (N,) before normalisation."""
    vectors = np.empty((observations.exposure.size, 3))
    for exposure, _, start, stop in observations.blocks:
        plane = focal[start:stop] @ state.attitude[exposure].T
        vectors[start:stop] = plane @ state.basis[exposure, :2] + state.basis[exposure, 2]
    length = np.linalg.norm(vectors, axis=1)
    return vectors / length[:, None], length


def recentre(state: State, exposure: int, matrix: Floats, shift_rad: Floats) -> tuple[Floats, Floats]:
    """Move the tangent point to focal-plane origin: return basis (3, 3) and attitude (2, 2) of one exposure.

    `matrix`, `shift_rad` map focal plane to the present tangent plane. The new attitude is the derivative of the new
    projection at its centre, so convergence of the meridians, large at a pole, is followed exactly.
    """
    old = state.basis[exposure]
    direction = old[2] + shift_rad @ old[:2]
    length = float(np.linalg.norm(direction))
    direction = direction / length
    ra, dec = sky_angles(direction)
    new = tangent_basis(float(ra), float(dec))
    slope = (new[:2] @ old[:2].T) / length
    return new, slope @ matrix


def with_start(state: State, exposure: int, matrix: Floats, shift_rad: Floats) -> State:
    """Return the state with one exposure's transformation replaced and its tangent point moved."""
    basis, attitude = state.basis.copy(), state.attitude.copy()
    basis[exposure], attitude[exposure] = recentre(state, exposure, matrix, shift_rad)
    return replace(state, basis=basis, attitude=attitude)

"""Where the solution starts: every exposure's pattern matched with the reference, or with exposures already placed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry.ensemble import AstrometryParameters, Ensemble, ExposureOutcome, ReferenceStars
from spica.algorithms.astrometry.model import Chip, Observations, State, focal_positions, sky_vectors, with_start
from spica.algorithms.match import NoMatchError, PatternMatch, match_pattern, verify_pattern
from spica.algorithms.skymap import ARCSEC_PER_RAD

Floats = NDArray[np.float64]

MIN_TO_TIE = 12


@dataclass(frozen=True)
class Start:
    """First state; the match of each exposure (None: left out), whether it is tied by overlaps only, outcomes."""

    state: State
    matches: tuple[PatternMatch | None, ...]
    tied: tuple[bool, ...]
    failures: tuple[ExposureOutcome | None, ...]


def find_start(
    ensemble: Ensemble, chips: list[Chip], observations: Observations, nominal: State, vectors: Floats,
    reference: ReferenceStars, parameters: AstrometryParameters,
) -> Start:  # fmt: skip
    """Match every exposure with the reference, then those that fail with the sources of those that did not."""
    focal = focal_positions(observations, nominal.polynomial) * ARCSEC_PER_RAD
    pixel = [chip.scale_rad * ARCSEC_PER_RAD for chip in chips]
    state, count = nominal, len(ensemble.exposures)
    matches: list[PatternMatch | None] = [None] * count
    failures: list[ExposureOutcome | None] = [None] * count
    for index in range(count):
        found = _match_one(observations, pixel, nominal, focal, index, vectors, reference.mag, parameters)
        if isinstance(found, PatternMatch):
            matches[index] = found
            state = with_start(state, index, found.matrix, found.offset / ARCSEC_PER_RAD)
        else:
            failures[index] = _failure(ensemble.exposures[index].name, found, parameters)
    tied = [False] * count
    placed = np.array([one is not None for one in matches])
    if placed.any() and not placed.all():
        seen, mag = _placed_sources(observations, state, placed)
        for index in np.flatnonzero(~placed).tolist():
            found = _match_one(observations, pixel, nominal, focal, index, seen, mag, parameters)
            if isinstance(found, PatternMatch) and found.n_matched >= MIN_TO_TIE:
                matches[index], tied[index], failures[index] = found, True, None
                state = with_start(state, index, found.matrix, found.offset / ARCSEC_PER_RAD)
    return Start(state, tuple(matches), tuple(tied), tuple(failures))


def _match_one(
    observations: Observations, pixel_arcsec: list[float], nominal: State, focal: Floats, index: int,
    vectors: Floats, mag: Floats, parameters: AstrometryParameters,
) -> PatternMatch | NoMatchError:  # fmt: skip
    rows = np.flatnonzero(observations.exposure == index)
    plane = vectors @ nominal.basis[index].T
    with np.errstate(all="ignore"):
        sky = np.where(plane[:, 2:] > 0.1, plane[:, :2] / plane[:, 2:], np.nan) * ARCSEC_PER_RAD
    lists = (focal[rows, 0], focal[rows, 1], observations.flux[rows], sky[:, 0], sky[:, 1], mag)
    pixel = pixel_arcsec[int(observations.chip[rows[0]])] if rows.size else 1.0
    rules = replace(
        parameters.match,
        min_tolerance_pix=parameters.match.min_tolerance_pix * pixel,
        max_tolerance_pix=parameters.match.max_tolerance_pix * pixel,
    )
    try:
        if parameters.start == "header":
            return verify_pattern(
                *lists, matrix=np.eye(2), offset=np.zeros(2),
                start_tolerance_arcsec=parameters.header_radius_arcsec, parameters=rules,
            )  # fmt: skip
        return match_pattern(
            *lists, scale_arcsec_per_pix=1.0, scale_tolerance=parameters.scale_tolerance,
            position_angle_deg=parameters.position_angle_deg,
            position_angle_tolerance_deg=parameters.position_angle_tolerance_deg, parity=parameters.parity,
            search_radius_arcsec=parameters.search_radius_arcsec, origin_pix=(0.0, 0.0), parameters=rules,
        )  # fmt: skip
    except NoMatchError as failure:
        return failure


def _placed_sources(observations: Observations, state: State, placed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return positions and instrumental magnitudes of the placed exposure that saw most sources, then the others.

    Sources of later exposures within 3 arcsec of a listed one are left out, so that each star is there once.
    """
    vectors, _ = sky_vectors(observations, state, focal_positions(observations, state.polynomial))
    rows = np.flatnonzero(placed[observations.exposure])
    cell = np.round(vectors[rows] * (ARCSEC_PER_RAD / 3.0)).astype(np.int64)
    order = np.lexsort((-observations.flux[rows], cell[:, 2], cell[:, 1], cell[:, 0]))
    fresh = np.r_[True, np.any(np.diff(cell[order], axis=0) != 0, axis=1)]
    rows = rows[order[fresh]]
    return vectors[rows], -2.5 * np.log10(observations.flux[rows])


def _failure(name: str, error: NoMatchError, parameters: AstrometryParameters) -> ExposureOutcome:
    few = str(error).startswith("too few")
    if few:
        return ExposureOutcome(name, "left_out", "too_few_stars", str(error), float(error.n_expected),
                               float(parameters.match.min_matched))  # fmt: skip
    return ExposureOutcome(name, "left_out", "no_match", str(error), error.false_alarm_probability,
                           parameters.match.max_false_alarm)  # fmt: skip


def absorb_start(state: State, matches: tuple[PatternMatch | None, ...], groups: NDArray[np.int64],
                 chip_group: NDArray[np.int64], names: list[str], *, similarity: bool) -> State:  # fmt: skip
    """Move the surest exposure's attitude of each instrument into its polynomials, which learn rotation and parity.

    With `similarity` the remaining attitudes are reduced to rotation and scale.
    """
    attitude, polynomial = state.attitude.copy(), state.polynomial.copy()
    for group in np.unique(groups):
        members = [(one.false_alarm_probability, -one.n_matched, names[i], i)
                   for i, one in enumerate(matches) if one is not None and groups[i] == group]  # fmt: skip
        if not members:
            continue
        matrix = attitude[min(members)[3]].copy()
        for chip in np.flatnonzero(chip_group == group):
            polynomial[chip] = polynomial[chip] @ matrix.T
        for index in np.flatnonzero(groups == group):
            left = attitude[index] @ np.linalg.inv(matrix)
            cosine, sine = (left[0, 0] + left[1, 1]) / 2.0, (left[1, 0] - left[0, 1]) / 2.0
            attitude[index] = np.array([[cosine, -sine], [sine, cosine]]) if similarity else left
    return replace(state, attitude=attitude, polynomial=polynomial)

"""Where the solution starts: every exposure's pattern matched with the reference, or with exposures already placed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry.ensemble import AstrometryParameters, Ensemble, ExposureOutcome, ReferenceStars
from spica.algorithms.astrometry.model import Chip, Observations, State, focal_positions, sky_vectors, with_start
from spica.algorithms.match import MatchParameters, NoMatchError, PatternMatch, match_pattern, verify_pattern
from spica.algorithms.skymap import ARCSEC_PER_RAD

Floats = NDArray[np.float64]

MIN_TO_TIE = 12
ENOUGH_REFUSALS = 6
"""After so many exposures in vain, and none matched, the others are searched with their brightest sources only."""
HINT_ANGLE_DEG, HINT_SCALE = 3.0, 0.005
"""How far exposures of one instrument are expected to differ in position angle and relative scale."""


@dataclass(frozen=True)
class Start:
    """First state; the match of each exposure (None: left out), whether it is tied by overlaps only, outcomes."""

    state: State
    matches: tuple[PatternMatch | None, ...]
    tied: tuple[bool, ...]
    failures: tuple[ExposureOutcome | None, ...]


@dataclass(frozen=True)
class _Search:
    """What every match needs: sources on the nominal focal planes (arcsec), pixel scales, the rules."""

    ensemble: Ensemble
    observations: Observations
    pixel_arcsec: list[float]
    nominal: State
    focal: Floats
    parameters: AstrometryParameters


def find_start(
    ensemble: Ensemble, chips: list[Chip], observations: Observations, nominal: State, vectors: Floats,
    reference: ReferenceStars, parameters: AstrometryParameters,
) -> Start:  # fmt: skip
    """Match every exposure with the reference, then those that fail with the sources of those that did not.

    Exposures with most sources come first. What is found tells the others of the instrument their parity, position
    angle and scale, which makes their search a hundred times shorter; where that fails, all is searched.
    """
    focal = focal_positions(observations, nominal.polynomial) * ARCSEC_PER_RAD
    pixel = [chip.scale_rad * ARCSEC_PER_RAD for chip in chips]
    search = _Search(ensemble, observations, pixel, nominal, focal, parameters)
    matches, errors = _match_all(search, vectors, reference.mag)
    state = nominal
    for index, one in enumerate(matches):
        if one is not None:
            state = with_start(state, index, one.matrix, one.offset / ARCSEC_PER_RAD)
    failures = [None if e is None else _failure(ensemble.exposures[i].name, e, parameters)
                for i, e in enumerate(errors)]  # fmt: skip
    tied = [False] * len(matches)
    placed = np.array([one is not None for one in matches])
    if placed.any() and not placed.all():
        seen, mag = _placed_sources(observations, state, placed)
        hints = _hints(ensemble, matches)
        for index in np.flatnonzero(~placed).tolist():
            found = _match_hinted(search, index, seen, mag, hints)
            if isinstance(found, PatternMatch) and found.n_matched >= MIN_TO_TIE:
                matches[index], tied[index], failures[index] = found, True, None
                state = with_start(state, index, found.matrix, found.offset / ARCSEC_PER_RAD)
    return Start(state, tuple(matches), tuple(tied), tuple(failures))


def _match_all(
    search: _Search, vectors: Floats, mag: Floats
) -> tuple[list[PatternMatch | None], list[NoMatchError | None]]:
    """Match every exposure with the reference; those that failed before the first success are tried with its hint."""
    names = [exposure.name for exposure in search.ensemble.exposures]
    number = np.bincount(search.observations.exposure, minlength=len(names))
    order = sorted(range(len(names)), key=lambda i: (-int(number[i]), names[i]))
    matches: list[PatternMatch | None] = [None] * len(names)
    errors: list[NoMatchError | None] = [None] * len(names)
    hints: dict[str, PatternMatch] = {}
    early: list[int] = []
    for index in order:
        unhinted = search.ensemble.exposures[index].instrument not in hints
        brief = not hints and len(early) >= ENOUGH_REFUSALS
        found = _match_hinted(search, index, vectors, mag, hints, brief=brief)
        if isinstance(found, PatternMatch):
            matches[index] = found
            hints.setdefault(search.ensemble.exposures[index].instrument, found)
        else:
            errors[index] = found
            early += [index] if unhinted else []
    for index in early:
        if search.ensemble.exposures[index].instrument in hints or (hints and index in early[ENOUGH_REFUSALS:]):
            again = _match_hinted(search, index, vectors, mag, hints)
            if isinstance(again, PatternMatch):
                matches[index], errors[index] = again, None
    return matches, errors


def _hints(ensemble: Ensemble, matches: list[PatternMatch | None]) -> dict[str, PatternMatch]:
    """Return the surest match of each instrument."""
    hints: dict[str, PatternMatch] = {}
    found = [(one.false_alarm_probability, exposure.name, exposure.instrument, one)
             for exposure, one in zip(ensemble.exposures, matches, strict=True) if one is not None]  # fmt: skip
    for _, _, instrument, one in sorted(found, key=lambda entry: entry[:3]):
        hints.setdefault(instrument, one)
    return hints


def _match_hinted(
    search: _Search, index: int, vectors: Floats, mag: Floats, hints: dict[str, PatternMatch], *, brief: bool = False
) -> PatternMatch | NoMatchError:
    """Match near the orientation of the instrument's other exposures, else anywhere (`brief`: brightest alone)."""
    hint = hints.get(search.ensemble.exposures[index].instrument)
    if hint is not None and search.parameters.start != "header":
        found = _match_one(search, index, vectors, mag, search.parameters.match, hint)
        if isinstance(found, PatternMatch):
            return found
    rules = search.parameters.match
    if brief:
        rules = replace(rules, brightest=rules.brightest[:1])
    return _match_one(search, index, vectors, mag, rules, None)


def _match_one(
    search: _Search, index: int, vectors: Floats, mag: Floats, rules: MatchParameters, hint: PatternMatch | None
) -> PatternMatch | NoMatchError:
    observations, parameters, nominal = search.observations, search.parameters, search.nominal
    rows = np.flatnonzero(observations.exposure == index)
    plane = vectors @ nominal.basis[index].T
    with np.errstate(all="ignore"):
        sky = np.where(plane[:, 2:] > 0.1, plane[:, :2] / plane[:, 2:], np.nan) * ARCSEC_PER_RAD
    lists = (search.focal[rows, 0], search.focal[rows, 1], observations.flux[rows], sky[:, 0], sky[:, 1], mag)
    pixel = search.pixel_arcsec[int(observations.chip[rows[0]])] if rows.size else 1.0
    rules = replace(
        rules,
        min_tolerance_pix=rules.min_tolerance_pix * pixel,
        max_tolerance_pix=rules.max_tolerance_pix * pixel,
    )
    try:
        if parameters.start == "header":
            return verify_pattern(
                *lists, matrix=np.eye(2), offset=np.zeros(2),
                start_tolerance_arcsec=parameters.header_radius_arcsec, parameters=rules,
            )  # fmt: skip
        if hint is not None:
            return match_pattern(
                *lists, scale_arcsec_per_pix=hint.scale_arcsec_per_pix, scale_tolerance=HINT_SCALE,
                position_angle_deg=hint.position_angle_deg, position_angle_tolerance_deg=HINT_ANGLE_DEG,
                parity=hint.parity, search_radius_arcsec=parameters.search_radius_arcsec, origin_pix=(0.0, 0.0),
                parameters=rules,
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

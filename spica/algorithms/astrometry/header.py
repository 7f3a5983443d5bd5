"""World coordinates that a header states, as polynomials of our own that TPV can hold; measured as our own solutions.

A WCS is sampled on a grid of the detector, and its positions, projected on a tangent plane, are fitted by a polynomial
of the pixels (own derivation). With the tangent point of a TAN, SIP or TPV header the plane's coordinates are
polynomials already and the fit is exact to rounding up to degree 4; anything else is as good as `error_pix` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry.ensemble import (
    AstrometryParameters,
    AstrometrySolution,
    DetectorLayout,
    Ensemble,
    ReferenceStars,
)
from spica.algorithms.astrometry.measures import Solved, summarise
from spica.algorithms.astrometry.model import State
from spica.algorithms.astrometry.normal import FreeParameters
from spica.algorithms.astrometry.solve import Problem, Scales, associate, clip_detections, rescale, set_up, weigh
from spica.algorithms.astrometry.start import Start
from spica.algorithms.astrometry.tpv import MAX_DEGREE, monomials
from spica.algorithms.skymap import ARCSEC_PER_RAD, sky_angles, tangent_basis, tangent_project, unit_vectors

Floats = NDArray[np.float64]
PixelToSky = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""From 0-based pixels (N,), (N,) to right ascension and declination in degrees."""

FIT_POINTS, CHECK_POINTS = 15, 22
FINE_PIX = 1e-4
"""A lower degree that is as good as this is taken."""
N_TURNS = 4


@dataclass(frozen=True)
class StatedDetector:
    """A detector's WCS on the plane tangent at its exposure's tangent point.

    `terms` (M, 2), radians, are xi and eta on `monomials(MAX_DEGREE)` of the normalised pixels; those above `degree`
    are 0. `error_pix` is the largest distance from the header's positions on a grid that was not fitted.
    """

    terms: Floats
    degree: int
    error_pix: float


@dataclass(frozen=True)
class StatedExposure:
    """The WCS of an exposure: tangent point in degrees, one `StatedDetector` a detector, in the layout's order."""

    ra_deg: float
    dec_deg: float
    detectors: tuple[StatedDetector, ...]

    @property
    def error_pix(self) -> float:
        """Return how far the worst position lies from the header's, pixels."""
        return max(d.error_pix for d in self.detectors)


def fit_stated(
    skies: tuple[PixelToSky, ...], layouts: tuple[DetectorLayout, ...], tangents: tuple[tuple[float, float], ...]
) -> StatedExposure:
    """Return the WCS of an exposure's detectors as polynomials about the tangent point that holds them best.

    Parameters
    ----------
    skies, layouts : the detectors' WCS and sizes.
    tangents : (ra, dec) in degrees; the first is taken where it is good to `FINE_PIX`. The centre of the detectors is
        tried last.

    Raises
    ------
    ValueError
        No tangent point sees all detectors within 60 degrees: this is no image of a part of the sky.
    """
    best: StatedExposure | None = None
    for ra, dec in (*tangents, _centre(skies, layouts)):
        if not _in_sight(skies, layouts, ra, dec):
            continue
        found = tuple(_fit(sky, layout, ra, dec) for sky, layout in zip(skies, layouts, strict=True))
        one = StatedExposure(ra, dec, found)
        if best is None or one.error_pix < best.error_pix:
            best = one
        if best.error_pix <= FINE_PIX:
            break
    if best is None:
        raise ValueError("the WCS of the detectors shows no part of the sky; solve the exposure without it")
    return best


def _grid(layout: DetectorLayout, count: int) -> tuple[Floats, Floats]:
    """Return the pixels of a grid from edge to edge, flat."""
    x, y = np.linspace(-0.5, layout.width_pix - 0.5, count), np.linspace(-0.5, layout.height_pix - 0.5, count)
    return tuple(axis.ravel() for axis in np.meshgrid(x, y))  # type: ignore[return-value]


def _centre(skies: tuple[PixelToSky, ...], layouts: tuple[DetectorLayout, ...]) -> tuple[float, float]:
    """Return the direction of the mean of the detectors' centres."""
    total = np.zeros(3)
    for sky, layout in zip(skies, layouts, strict=True):
        ra, dec = sky(np.array([0.5 * (layout.width_pix - 1)]), np.array([0.5 * (layout.height_pix - 1)]))
        total += np.nan_to_num(unit_vectors(ra, dec)[0])
    ra_deg, dec_deg = sky_angles(total / max(float(np.linalg.norm(total)), 1e-12))
    return float(ra_deg), float(dec_deg)


def _in_sight(skies: tuple[PixelToSky, ...], layouts: tuple[DetectorLayout, ...], ra: float, dec: float) -> bool:
    for sky, layout in zip(skies, layouts, strict=True):
        depth = unit_vectors(*sky(*_grid(layout, 3))) @ tangent_basis(ra, dec)[2]
        if not np.all(depth > 0.5):
            return False
    return True


def _terms(layout: DetectorLayout, x: Floats, y: Floats) -> Floats:
    """Return the monomials (N, M) of the pixels as the solution's chips normalise them."""
    half = float(np.hypot(layout.width_pix, layout.height_pix)) / 2.0
    p, q = (x - (layout.width_pix - 1) / 2.0) / half, (y - (layout.height_pix - 1) / 2.0) / half
    return np.stack([p**i * q**j for i, j in monomials(MAX_DEGREE)], axis=1)


def _fit(sky: PixelToSky, layout: DetectorLayout, ra: float, dec: float) -> StatedDetector:
    """Fit the lowest degree that is good to `FINE_PIX`, else the best there is."""
    parts = []
    for count in (FIT_POINTS, CHECK_POINTS):
        x, y = _grid(layout, count)
        plane = np.radians(np.stack(tangent_project(*sky(x, y), ra, dec), axis=1))
        parts.append((_terms(layout, x, y), plane))
    (design, wanted), (check, truth) = parts
    half = float(np.hypot(layout.width_pix, layout.height_pix)) / 2.0
    best = StatedDetector(np.zeros((check.shape[1], 2)), 0, float("inf"))
    for degree in range(1, MAX_DEGREE + 1):
        size = len(monomials(degree))
        terms = np.zeros_like(best.terms)
        terms[:size] = np.linalg.lstsq(design[:, :size], wanted, rcond=None)[0]
        pixel = float(np.sqrt(abs(np.linalg.det(terms[1:3])))) / half
        miss = float(np.hypot(*(check @ terms - truth).T).max())
        error = miss / pixel if pixel > 0.0 else float("inf")
        if error < best.error_pix:
            best = StatedDetector(terms, degree, error)
        if error <= FINE_PIX:
            break
    return best


def measure_stated(
    ensemble: Ensemble,
    stated: Mapping[str, StatedExposure],
    reference: ReferenceStars,
    parameters: AstrometryParameters,
    radius_arcsec: float,
) -> AstrometrySolution:
    """Return the headers' WCS as a solution, and how well sources coincide under them; nothing is moved.

    Parameters
    ----------
    ensemble, reference : as of `solve_astrometry`; the reference may be empty.
    stated : by exposure.
    parameters : floors, selection and clipping of sources; degree and sharing are those of the headers.
    radius_arcsec : within which sources are the same star.

    Returns
    -------
    AstrometrySolution
        Contrast and false alarm of its measures are NaN: no pattern was matched. Its pointings are those given.
    """
    degree = max(d.degree for one in ensemble.exposures for d in stated[one.name].detectors)
    choices = replace(parameters, degree=max(degree, 1), share_distortion=False)
    problem = set_up(ensemble, reference, choices)
    state = _state(problem, stated)
    alive = np.ones(len(ensemble.exposures), dtype=bool)
    radius, scales = radius_arcsec / ARCSEC_PER_RAD, Scales(1.0, 0.0)
    stars = associate(problem, state, alive, radius)
    weights = weigh(problem, stars, alive, scales)
    for _ in range(N_TURNS):
        scales = rescale(problem, state, stars, weights, scales)
        weights = clip_detections(problem, state, stars, weigh(problem, stars, alive, scales))
    none = tuple(None for _ in ensemble.exposures)
    free = FreeParameters(np.zeros(alive.size, dtype=np.int64), np.full(len(problem.chips), choices.degree),
                          problem.chip_group, problem.exposure_group)  # fmt: skip
    solved = Solved(
        ensemble, problem.chips, problem.observations, problem.places, choices,
        Start(state, none, tuple(False for _ in none), none), state, stars, weights, free, tuple(alive.tolist()), none,
        (), scales.factor, scales.extra_rad, radius, problem.chip_group, problem.exposure_group,
    )  # fmt: skip
    found = summarise(solved, reference)
    return replace(found, exposures=tuple(
        replace(m, contrast=float("nan"), false_alarm_probability=float("nan"), ra_deg=one.ra_deg, dec_deg=one.dec_deg,
                pointing_offset_arcsec=0.0)
        for m, one in zip(found.exposures, ensemble.exposures, strict=True)
    ))  # fmt: skip


def _state(problem: Problem, stated: Mapping[str, StatedExposure]) -> State:
    """Return the state that stands for the headers: each exposure has chips of its own."""
    exposures = [stated[one.name] for one in problem.ensemble.exposures]
    size = len(monomials(problem.parameters.degree))
    polynomial = np.zeros((len(problem.chips), size, 2))
    for index, exposure in enumerate(exposures):
        for chip in np.flatnonzero(problem.chip_group == problem.exposure_group[index]):
            polynomial[chip] = exposure.detectors[problem.chips[chip].detector].terms[:size]
    basis = np.array([tangent_basis(e.ra_deg, e.dec_deg) for e in exposures]).reshape(len(exposures), 3, 3)
    return State(basis, np.tile(np.eye(2), (len(exposures), 1, 1)), polynomial)

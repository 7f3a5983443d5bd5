"""How a solution starts and what holds it: coarse pixels, few and poor reference stars, hundreds of overlaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spica.algorithms.astrometry import (
    AstrometryParameters,
    AstrometrySolution,
    DetectorLayout,
    Ensemble,
    ExposureSources,
    InstrumentLayout,
    ReferenceStars,
    pixel_to_sky,
    solve_astrometry,
    start,
)
from spica.algorithms.skymap import angular_separation, tangent_deproject, tangent_project

WIDTH, HEIGHT, SCALE = 650, 500, 5.164
CENTRE = (324.5, 249.5)
CHOICES = AstrometryParameters(search_radius_arcsec=2700.0, position_floor_mas=50.0)


class Drift:
    """A night of a small camera whose pointing drifts by 24 arcmin, mirrored, with a distortion no cubic follows."""

    def __init__(self, n_exposures: int = 24, seed: int = 4, beyond_cubic_arcsec: float = 0.4) -> None:
        rng = np.random.default_rng(seed)
        self.beyond = beyond_cubic_arcsec
        self.points = [tangent_deproject(0.4 * k / n_exposures, -0.1 * k / n_exposures, 31.2, 46.75)
                       for k in range(n_exposures)]  # fmt: skip
        xi, eta = rng.uniform(-1.0, 1.0, (2, 4800))
        mag = np.sort(rng.uniform(8.0, 15.0, xi.size))
        self.sky = tangent_deproject(xi, eta, 31.2, 46.75)
        self.bright = mag < 8.4
        exposures = tuple(self._observe(rng, k, mag) for k in range(n_exposures))
        cd = SCALE / 3600.0 * np.diag([-1.0, 1.0])
        layout = InstrumentLayout("small", (DetectorLayout(WIDTH, HEIGHT, *CENTRE, cd),))
        self.ensemble = Ensemble((layout,), exposures)
        noise = rng.normal(0.0, 0.35, (2, int(self.bright.sum()))) / 3600.0
        at = tangent_deproject(xi[self.bright] + noise[0], eta[self.bright] + noise[1], 31.2, 46.75)
        unknown = np.full(at[0].size, np.nan)
        self.reference = ReferenceStars(at[0], at[1], unknown, mag[self.bright], name="coarse")

    def to_pixel(self, ra: Any, dec: Any, number: int) -> np.ndarray:
        """Return pixels (n, 2) of sky positions on one exposure; the inverse of the truth, exactly."""
        plane = np.column_stack(tangent_project(ra, dec, *self.points[number])) * 3600.0 / SCALE
        u = plane * [-1.0, -1.0] / 400.0
        radius = np.sum(u**2, axis=1, keepdims=True)
        wave = np.sin(7.0 * u[:, ::-1]) * radius
        return plane * [-1.0, -1.0] + 1.5 * u * radius + self.beyond / SCALE * wave + np.array(CENTRE)

    def _observe(self, rng: np.random.Generator, number: int, mag: np.ndarray) -> ExposureSources:
        pixel = self.to_pixel(*self.sky, number)
        seen = np.flatnonzero(np.all((pixel > 0) & (pixel < [WIDTH - 1, HEIGHT - 1]), axis=1))
        error = np.full(seen.size, 0.1 / SCALE)
        pixel = pixel[seen] + rng.normal(0.0, 0.1 / SCALE, (seen.size, 2))
        flux = 10 ** (-0.4 * (mag[seen] - 20.0))
        usable = np.ones(seen.size, dtype=bool)
        return ExposureSources(f"e{number:02d}", "small", 31.2, 46.75, np.nan, np.zeros(seen.size, dtype=np.int64),
                               pixel[:, 0], pixel[:, 1], error, flux, flux / 100.0, usable)  # fmt: skip

    def errors_arcsec(self, found: AstrometrySolution) -> np.ndarray:
        """Return distances of solved from true positions of the stars in the inner field of every exposure."""
        away = []
        for one in found.detectors:
            pixel = self.to_pixel(*self.sky, int(one.exposure[1:]))
            inner = np.all(np.abs(pixel - CENTRE) < [290, 220], axis=1)
            ra, dec = pixel_to_sky(one, pixel[inner, 0], pixel[inner, 1])
            away.append(angular_separation(ra, dec, self.sky[0][inner], self.sky[1][inner]) * 3600.0)
        return np.concatenate(away)


@pytest.fixture(scope="module")
def drift() -> Drift:
    return Drift()


def test_overlaps_do_not_warp_the_sky(drift: Drift) -> None:
    """A systematic error of a tenth of a pixel moves the solution by as much, not by a hundred pixels."""
    found = solve_astrometry(drift.ensemble, drift.reference, CHOICES)
    assert len(found.exposures) == 24
    assert all(one.n_reference >= 20 for one in found.exposures)
    error = drift.errors_arcsec(found)
    # 0.35 arcsec in 100 reference stars for 12 numbers of the whole sky, and the distortion left out
    assert np.median(error) < 0.35
    assert error.max() < 1.6
    assert found.reference_rms_mas == pytest.approx(350.0, rel=0.35)


def test_an_exact_camera_is_found_better_than_its_reference(drift: Drift) -> None:
    exact = Drift(beyond_cubic_arcsec=0.0)
    found = solve_astrometry(exact.ensemble, exact.reference, CHOICES)
    assert np.median(exact.errors_arcsec(found)) < 0.2
    assert found.internal_rms_mas == pytest.approx(100.0, rel=0.2)


def test_patterns_are_recognised_by_sources_that_may_not_solve() -> None:
    """Seven of ten bright stars blended: the pattern of the clean ones is poor, the solution theirs all the same."""
    drift, rng = Drift(beyond_cubic_arcsec=0.0), np.random.default_rng(2)
    thinned, told = [], []
    for one in drift.ensemble.exposures[:6]:
        clean = (one.flux_adu < np.percentile(one.flux_adu, 90)) | (rng.random(one.x_pix.size) < 0.3)
        thinned.append(replace(one, usable=clean))
        told.append(replace(one, usable=clean, matchable=np.ones(clean.size, dtype=bool)))
    alone = solve_astrometry(replace(drift.ensemble, exposures=tuple(thinned)), drift.reference, CHOICES)
    assert sum(one.tied_by_overlaps or one.n_matched < 15 for one in alone.exposures) >= len(alone.exposures) - 1
    found = solve_astrometry(replace(drift.ensemble, exposures=tuple(told)), drift.reference, CHOICES)
    assert len(found.exposures) == 6
    assert not any(one.tied_by_overlaps for one in found.exposures)
    for name in found.reference_pairs.exposure.tolist(), found.internal_pairs.exposure.tolist():
        assert set(name) <= set(range(6))
    used = found.reference_pairs
    assert all(thinned[e].usable[s] for e, s in zip(used.exposure, used.source, strict=True))


def test_the_order_of_exposures_changes_nothing(drift: Drift) -> None:
    few = replace(drift.ensemble, exposures=drift.ensemble.exposures[::4])
    back = replace(few, exposures=few.exposures[::-1])
    first, second = (solve_astrometry(e, drift.reference, CHOICES) for e in (few, back))
    for one in first.exposures:
        other = next(m for m in second.exposures if m.exposure == one.exposure)
        assert (one.ra_deg, one.dec_deg) == pytest.approx((other.ra_deg, other.dec_deg), abs=1e-7)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Record of every search how many stages it may take, and whether it has a hint."""
    calls: list[tuple[int, bool]] = []
    search: Callable[..., Any] = start.match_pattern

    def counted(*lists: Any, **options: Any) -> Any:
        calls.append((len(options["parameters"].brightest), options["position_angle_deg"] is not None))
        return search(*lists, **options)

    monkeypatch.setattr(start, "match_pattern", counted)
    return calls


def test_one_full_search_an_instrument(drift: Drift, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _counted(monkeypatch)
    solve_astrometry(drift.ensemble, drift.reference, CHOICES)
    assert [hinted for _, hinted in calls] == [False] + [True] * 23


def test_a_refused_catalogue_is_refused_soon(drift: Drift, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six exposures are searched to the end, the others by their brightest sources only."""
    rng = np.random.default_rng(9)
    reference = drift.reference
    wrong = replace(reference, ra_deg=reference.ra_deg[rng.permutation(reference.ra_deg.size)])
    calls = _counted(monkeypatch)
    found = solve_astrometry(drift.ensemble, wrong, CHOICES)
    assert {one.code for one in found.exposure_outcomes} == {"no_match"}
    assert sorted(stages for stages, _ in calls) == [1] * 18 + [3] * 6


def test_an_exposure_turned_against_the_others_is_found_too(drift: Drift) -> None:
    """The hint of the others does not hold it; the full search does."""
    one = drift.ensemble.exposures[3]
    turned = replace(one, x_pix=WIDTH - 1.0 - one.x_pix, y_pix=HEIGHT - 1.0 - one.y_pix)
    exposures = (*drift.ensemble.exposures[:3], turned, *drift.ensemble.exposures[4:8])
    choices = replace(CHOICES, share_distortion=False, degree=1)
    found = solve_astrometry(replace(drift.ensemble, exposures=exposures), drift.reference, choices)
    angles = [m.rotation_deg % 360.0 for m in found.exposures]
    assert len(found.exposures) == 8
    assert abs((angles[3] - angles[0]) % 360.0 - 180.0) < 0.5

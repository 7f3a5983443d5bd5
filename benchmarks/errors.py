"""Errors against the truth of the simulation: positions, aperture magnitudes, and Kron magnitudes side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.survey import FILTER
from spica.algorithms.neighbours import match_nearest
from spica.files.catalogue import read_catalogue
from spica.scheduling.truth import MATCH_ARCSEC, clipped_rms, isolated, star_residuals
from spica.steps.simulate import SurveyTruth

MAG_EDGES = (16.5, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0)
UNRELIABLE_FLAGS = 4 | 8 | 16
POSITION_GOAL_MAS, MAG_GOAL_MMAG = 2.0, 5.0


@dataclass(frozen=True)
class StackErrors:
    """Errors of isolated stars of 16.5 to 20 mag; positions without any correction, magnitudes about their median."""

    n_stars: int
    position_rms_mas: float
    position_offset_mas: float
    mag_rms_mmag: float
    mag_offset_mmag: float


@dataclass(frozen=True)
class KronBin:
    """MAG_AUTO less the true magnitude in one bin, mmag: median and robust scatter of either program, same sources."""

    kind: str
    low: float
    high: float
    n: int
    native_median: float
    native_scatter: float
    astromatic_median: float
    astromatic_scatter: float


def mean_epoch(truth: SurveyTruth, shares: Mapping[str, float]) -> float:
    """Return the epoch of a stack: the mean of its exposures by their share of the weight, Julian years."""
    epochs = [truth.exposure(name).plan.epoch_yr for name in shares]
    return float(np.average(epochs, weights=list(shares.values())))


def measure_stack(catalogue: Path, truth: SurveyTruth, epoch_yr: float) -> StackErrors:
    """Compare the stars of a stack's catalogue with truth."""
    d_ra, d_dec, d_mag = star_residuals(read_catalogue(catalogue), truth, FILTER, epoch_yr)
    middle = float(np.median(d_mag)) if len(d_mag) else np.nan
    return StackErrors(
        n_stars=len(d_mag),
        position_rms_mas=float(np.sqrt(0.5 * (clipped_rms(d_ra) ** 2 + clipped_rms(d_dec) ** 2))),
        position_offset_mas=float(np.hypot(np.median(d_ra), np.median(d_dec))) if len(d_ra) else np.nan,
        mag_rms_mmag=1000.0 * clipped_rms(d_mag - middle),
        mag_offset_mmag=1000.0 * middle,
    )


def compare_kron(native: Path, astromatic: Path, truth: SurveyTruth, epoch_yr: float) -> list[KronBin]:
    """Compare MAG_AUTO of two catalogues of one image with truth, on the isolated sources that both measured."""
    ra, dec = truth.sky.positions_at(epoch_yr)
    mag, is_star = truth.sky.mags[FILTER], truth.sky.is_star
    wanted = np.flatnonzero(isolated(ra, dec, mag) & (mag < MAG_EDGES[-1]))
    errors = [_kron_errors(read_catalogue(path), ra[wanted], dec[wanted], mag[wanted]) for path in (native, astromatic)]
    both = np.isfinite(errors[0]) & np.isfinite(errors[1])
    bins = []
    for kind, of_kind in (("stars", is_star[wanted]), ("galaxies", ~is_star[wanted])):
        for low, high in pairwise(MAG_EDGES):
            here = both & of_kind & (mag[wanted] >= low) & (mag[wanted] < high)
            if here.sum() >= 5:
                numbers = [f(1000.0 * e[here]) for e in errors for f in (np.median, robust_scatter)]
                bins.append(KronBin(kind, low, high, int(here.sum()), *(float(v) for v in numbers)))
    return bins


def robust_scatter(values: NDArray[np.float64]) -> float:
    """Return 1.4826 times the median distance from the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _kron_errors(
    table: NDArray[np.void], ra: NDArray[np.float64], dec: NDArray[np.float64], mag: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return MAG_AUTO less truth for each true source, NaN where it was not measured well."""
    clean = table[((table["FLAGS"] & UNRELIABLE_FLAGS) == 0) & (table["MAG_AUTO"] < 90)]
    found = match_nearest(ra, dec, clean["ALPHAWIN_J2000"], clean["DELTAWIN_J2000"], MATCH_ARCSEC)
    out = np.full(len(mag), np.nan)
    out[found.index1] = clean["MAG_AUTO"][found.index2] - mag[found.index1]
    return out

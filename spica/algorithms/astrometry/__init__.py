"""Joint astrometric solution of an ensemble: pointing and attitude of each exposure, distortion of each detector."""

from spica.algorithms.astrometry.ensemble import (
    AstrometryParameters,
    AstrometrySolution,
    DegreeFallback,
    DetectorLayout,
    Ensemble,
    ExposureMeasures,
    ExposureOutcome,
    ExposureSources,
    InstrumentLayout,
    Pairs,
    ReferenceStars,
)
from spica.algorithms.astrometry.solve import solve_astrometry
from spica.algorithms.astrometry.tpv import DetectorSolution, pixel_to_sky, sky_to_pixel, tpv_cards
from spica.algorithms.astrometry.verdict import JudgementLimits, Verdict, judge_solution

__all__ = [
    "AstrometryParameters",
    "AstrometrySolution",
    "DegreeFallback",
    "DetectorLayout",
    "DetectorSolution",
    "Ensemble",
    "ExposureMeasures",
    "ExposureOutcome",
    "ExposureSources",
    "InstrumentLayout",
    "JudgementLimits",
    "Pairs",
    "ReferenceStars",
    "Verdict",
    "judge_solution",
    "pixel_to_sky",
    "sky_to_pixel",
    "solve_astrometry",
    "tpv_cards",
]

"""A verdict on a solution from what it contains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spica.algorithms.astrometry.ensemble import AstrometrySolution, ExposureMeasures


@dataclass(frozen=True)
class JudgementLimits:
    """Limits of an acceptable solution; NaN switches a check off.

    RMS limits are per axis; of the limit in arcsec and the one in pixels the larger counts, so that a camera of
    coarse pixels is not held to the seeing of a fine one.
    """

    max_false_alarm: float = 1e-6
    min_contrast: float = 3.0
    min_reference_stars: int = 6
    max_reference_rms_arcsec: float = 0.5
    max_internal_rms_arcsec: float = 0.2
    max_reference_rms_pix: float = 0.4
    max_internal_rms_pix: float = 0.2
    max_shear: float = 0.03
    max_scale_change: float = 0.02
    max_scale_spread: float = 0.002
    max_reduced_chi2: float = 5.0
    min_solved_fraction: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """One check: what was judged, the figure, its limit, whether it passed; `exposure` is None for the ensemble."""

    code: str
    text: str
    value: float
    limit: float
    passed: bool
    exposure: str | None = None


def judge_solution(solution: AstrometrySolution, limits: JudgementLimits | None = None) -> tuple[Verdict, ...]:
    """Return every check of a solution, the failed ones first; the solution is good when all passed."""
    rules = limits or JudgementLimits()
    checks = _judge_matches(solution, rules)
    if solution.exposures:
        checks += _judge_ensemble(solution, rules)
        for measures in solution.exposures:
            checks += _judge_exposure(measures, rules)
    return tuple(sorted(checks, key=lambda check: check.passed))


def _at_most(code: str, text: str, value: float, limit: float, exposure: str | None = None) -> Verdict:
    return Verdict(code, text, value, limit, bool(np.isnan(limit) or np.isnan(value) or value <= limit), exposure)


def _at_least(code: str, text: str, value: float, limit: float, exposure: str | None = None) -> Verdict:
    return Verdict(code, text, value, limit, bool(np.isnan(limit) or value >= limit), exposure)


def _larger(first: float, second: float) -> float:
    """Return the larger limit; NaN where the first, which switches the check off, is NaN."""
    return float("nan") if np.isnan(first) else float(np.nanmax([first, second]))


def _judge_matches(solution: AstrometrySolution, rules: JudgementLimits) -> list[Verdict]:
    n_asked, n_solved = len(solution.exposure_outcomes), len(solution.exposures)
    if n_solved == 0:
        unmatched = [one for one in solution.exposure_outcomes if one.code == "no_match"]
        if unmatched:
            best = min(unmatched, key=lambda one: one.value)
            text = (
                f"reference catalogue does not match ({solution.reference_name}: none of {n_asked} exposures; best, "
                f"{best.exposure}, is chance with probability {best.value:.1e}); take another reference catalogue or "
                f"correct the pointing"
            )
            return [Verdict("reference_mismatch", text, best.value, rules.max_false_alarm, False)]
        text = f"no exposure of {n_asked} has enough stars; lower min_snr or take a deeper reference catalogue"
        return [Verdict("no_exposure", text, 0.0, 1.0, False)]
    fraction = n_solved / n_asked
    return [_at_least("solved_fraction", "fraction of exposures solved", fraction, rules.min_solved_fraction)]


def _judge_ensemble(solution: AstrometrySolution, rules: JudgementLimits) -> list[Verdict]:
    scale = np.array([one.pixel_scale_arcsec for one in solution.exposures])
    pixel = float(np.median(scale))
    spread = float(np.max(np.abs(scale / np.median(scale) - 1.0)))
    reduced = solution.chi2 / solution.n_degrees if solution.n_degrees > 0 else float("nan")
    return [
        _at_most("reference_rms", "rms to the reference catalogue per axis, arcsec", solution.reference_rms_mas / 1e3,
                 _larger(rules.max_reference_rms_arcsec, rules.max_reference_rms_pix * pixel)),
        _at_most("internal_rms", "rms between exposures per axis, arcsec", solution.internal_rms_mas / 1e3,
                 _larger(rules.max_internal_rms_arcsec, rules.max_internal_rms_pix * pixel)),
        _at_most("reduced_chi2", "chi2 per degree of freedom", reduced, rules.max_reduced_chi2),
        _at_most("exposure_disagreement", "largest difference of an exposure's pixel scale from the median, relative",
                 spread, rules.max_scale_spread),
    ]  # fmt: skip


def _judge_exposure(one: ExposureMeasures, rules: JudgementLimits) -> list[Verdict]:
    name = one.exposure
    checks = [
        _at_most("false_alarm", "probability that the pattern match is chance", one.false_alarm_probability,
                 rules.max_false_alarm, name),
        _at_least("contrast", "contrast of the pattern match", one.contrast, rules.min_contrast, name),
        _at_most("shear", "ratio of the axes minus 1", one.shear, rules.max_shear, name),
        _at_most("scale_change", "pixel scale against the nominal, relative", abs(one.scale_change),
                 rules.max_scale_change, name),
    ]  # fmt: skip
    if not one.tied_by_overlaps:
        checks.append(
            _at_least("reference_stars", "reference stars matched", one.n_reference, rules.min_reference_stars, name)
        )
    return checks

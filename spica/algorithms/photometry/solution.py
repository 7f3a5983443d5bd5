"""What enters and what leaves the zero point solution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class PhotometryParameters:
    """Choices of the zero point solution.

    `extinction_mag_per_airmass` 0 leaves extinction inside each zero point (then `airmass` has no effect).
    `nominal_zero_point_mag` NaN measures SkyProbe against the upper envelope of the ensemble: the
    `envelope_percentile` of its zero points. `max_error_mag` leaves out faint detections.
    """

    target_zero_point_mag: float = 30.0
    nominal_zero_point_mag: float = float("nan")
    envelope_percentile: float = 90.0
    solve_detector_offsets: bool = False
    extinction_mag_per_airmass: float = 0.0
    error_floor_mag: float = 0.005
    reference_error_floor_mag: float = 0.01
    default_reference_error_mag: float = 0.05
    max_error_mag: float = 0.1
    clip_sigma: float = 3.5
    n_clips: int = 12
    variable_sigma: float = 5.0
    min_stars: int = 3


@dataclass(frozen=True)
class ZeroPointOutcome:
    """What became of an exposure: `used`, `used_with_warning` or `left_out`; code, reason, figure and limit."""

    exposure: int
    outcome: str
    code: str
    reason: str
    value: float
    limit: float


@dataclass(frozen=True)
class ZeroPointSolution:
    """Zero points per exposure (E,), mag of 1 ADU/s; NaN where left out.

    Attributes
    ----------
    zero_point_mag, zero_point_error_mag : absolute where a reference holds the exposure's group, else NaN.
    relative_zero_point_mag : zero point minus the mean of its linked group; known without a reference too.
    flux_scale : factor that brings ADU of the exposure to ADU per second at the target zero point. With an absolute
        zero point; from relative zero points (the group's mean is the target) when the ensemble has no reference.
    skyprobe_mag : attenuation, nominal minus found zero point, positive under cloud.
    detector_offset_mag : (D,) added to magnitudes of a detector, mean 0; 0 unless solved.
    internal_rms_mag, reference_rms_mag, n_stars, n_reference : per exposure; `total_*` of the ensemble.
    group : (E,) linked group of each exposure, -1 without stars; `outcomes` one per exposure.
    star_mag (S,) calibrated magnitude (relative without reference), NaN unknown; `star_variable` left out as variable.
    residual_mag (N,) detection minus its star, NaN where not comparable; `used` (N,) whether it had weight.
    reference_residual_mag (S,) star minus reference; `reference_used` (S,).
    error_factor, reference_extra_mag : corrections of the given errors, as in the astrometric solution.
    """

    zero_point_mag: Floats
    zero_point_error_mag: Floats
    relative_zero_point_mag: Floats
    flux_scale: Floats
    skyprobe_mag: Floats
    detector_offset_mag: Floats
    internal_rms_mag: Floats
    reference_rms_mag: Floats
    n_stars: Ints
    n_reference: Ints
    total_internal_rms_mag: float
    total_reference_rms_mag: float
    group: Ints
    outcomes: tuple[ZeroPointOutcome, ...]
    star_mag: Floats
    star_variable: Bools
    residual_mag: Floats
    used: Bools
    reference_residual_mag: Floats
    reference_used: Bools
    error_factor: float
    reference_extra_mag: float
    is_absolute: bool

"""From raw frames to detrended ones: overscan, bias, dark, flat, fringes, and the masters these need."""

from spica.algorithms.detrend.combine import (
    FrameLevels,
    MasterFrame,
    NoUsableFrameError,
    RefusedFrame,
    combine_bias,
    combine_dark,
    combine_flat,
    combine_fringe,
    measure_levels,
    mosaic_norm,
)
from spica.algorithms.detrend.correct import Detrended, Rows, detrend_image, find_bad_pixels, propagate_variance
from spica.algorithms.detrend.fringe import FringeScale, measure_fringe_scale, subtract_fringe
from spica.algorithms.detrend.overscan import Overscan, OverscanMethod, measure_overscan, subtract_overscan

__all__ = [
    "Detrended",
    "FrameLevels",
    "FringeScale",
    "MasterFrame",
    "NoUsableFrameError",
    "Overscan",
    "OverscanMethod",
    "RefusedFrame",
    "Rows",
    "combine_bias",
    "combine_dark",
    "combine_flat",
    "combine_fringe",
    "detrend_image",
    "find_bad_pixels",
    "measure_fringe_scale",
    "measure_levels",
    "measure_overscan",
    "mosaic_norm",
    "propagate_variance",
    "subtract_fringe",
    "subtract_overscan",
]

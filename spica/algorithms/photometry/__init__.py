"""Photometric zero points of an ensemble: relative from common stars, absolute from reference magnitudes, in one solve.

A star of magnitude m on exposure e and detector d has m = -2.5 log10(flux / exptime) + zp_e + c_d - k (X_e - X_0).
Star magnitudes are unknown and eliminated: with weights w they take the optimum of their detections and of the
reference, which leaves normal equations of the size of the exposures (the same algebra as `astrometry`; own
derivation after the global photometric solutions of SCAMP and ubercal, Padmanabhan et al. 2008, ApJ 674, 1217).
"""

from spica.algorithms.photometry.solution import PhotometryParameters, ZeroPointOutcome, ZeroPointSolution
from spica.algorithms.photometry.solve import solve_zero_points

__all__ = ["PhotometryParameters", "ZeroPointOutcome", "ZeroPointSolution", "solve_zero_points"]

"""Match the pattern of detections of an exposure with reference stars when pointing, rotation and parity are unknown.

Method (own derivation). The scale is known to a few per cent, so for each trial parity, scale and rotation the only
unknown left is a shift: every (detection, reference) pair votes for one, in cells as wide as the step of the trials
moves a star at the edge of the field. Right pairs pile up in one cell, chance pairs spread over all. The best piles
are refined by nearest neighbours in shrinking radii, and the one least likely to be chance is judged by the binomial
probability of so many coincidences times the number of trials.
"""

from spica.algorithms.match.lists import MatchParameters, NoMatchError, PatternMatch
from spica.algorithms.match.pattern import match_pattern, verify_pattern

__all__ = ["MatchParameters", "NoMatchError", "PatternMatch", "match_pattern", "verify_pattern"]

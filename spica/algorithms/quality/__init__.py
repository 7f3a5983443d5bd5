"""The quality of one detector, of one stack, and of a mosaic."""

from spica.algorithms.quality.assess import assess_detector
from spica.algorithms.quality.exposure import ExposureQuality, aggregate_quality
from spica.algorithms.quality.measures import STACK_PARAMETERS, DetectorQuality, QualityParameters

__all__ = [
    "STACK_PARAMETERS",
    "DetectorQuality",
    "ExposureQuality",
    "QualityParameters",
    "aggregate_quality",
    "assess_detector",
]

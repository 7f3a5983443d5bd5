"""The engine of the real tools: source-extractor, SCAMP and SWarp, their results in the shape of our own."""

from spica.steps.astromatic import assess, astrometry, catalogue, stack
from spica.steps.base import Engine

ENGINE = Engine("astromatic", steps=(assess.STEP, astrometry.STEP, stack.STEP, catalogue.STEP))

__all__ = ["ENGINE"]

"""Joint astrometric and photometric solution of an association, by our own kernels."""

from spica.steps.astrometry.solve import NATIVE

__all__ = ["NATIVE"]

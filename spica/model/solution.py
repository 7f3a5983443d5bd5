"""Astrometric and photometric solution of an association, as the harvest records it."""

from __future__ import annotations

from dataclasses import dataclass

from spica.model.job import Reason


@dataclass(frozen=True)
class SolvedDetector:
    """Footprint of one detector by the solution: (ra, dec) corners in degrees."""

    detector: int
    polygon_deg: tuple[tuple[float, float], ...]
    pixel_scale_arcsec: float


@dataclass(frozen=True)
class SolvedImage:
    """What the solution says of one exposure; rms per axis of clipped pairs with S/N above 50."""

    item: str
    ra_deg: float
    dec_deg: float
    n_reference: int
    internal_mas: float | None
    reference_mas: float | None
    pointing_offset_arcsec: float
    rotation_deg: float
    contrast: float | None
    zero_point_mag: float | None
    zero_point_error_mag: float | None
    relative_zero_point_mag: float | None
    skyprobe_mag: float | None
    flux_scale: float
    n_photometric: int
    detectors: tuple[SolvedDetector, ...] = ()


@dataclass(frozen=True)
class SolutionRecord:
    """Solution of the ensemble, its statistics and its verdict (empty `problems`: it holds).

    `aperture_arcsec` is the diameter in which fluxes were brought to the reference's magnitudes; None: Kron apertures.
    """

    reference_name: str
    n_reference: int
    internal_mas: float | None
    reference_mas: float | None
    internal_mag: float | None
    reference_mag: float | None
    mag_system: str | None
    mag_band: str | None
    images: tuple[SolvedImage, ...]
    problems: tuple[Reason, ...] = ()
    warnings: tuple[Reason, ...] = ()
    aperture_arcsec: float | None = None
    type: str = "solution"

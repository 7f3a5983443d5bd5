"""Quality measures of an image and of its detectors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectorMeasures:
    """Measures of one detector (`detector` its index), or of a whole image (`detector` None).

    Units ride in the names; `ellipticity` is 1 - b/a of the stars, `limiting_mag` 5 sigma in an aperture of 2 arcsec
    diameter, the fractions are of all pixels. None is unknown.
    """

    detector: int | None = None
    seeing_arcsec: float | None = None
    fwhm_pix: float | None = None
    ellipticity: float | None = None
    position_angle_deg: float | None = None
    moffat_beta: float | None = None
    psf_chi2: float | None = None
    background_adu: float | None = None
    noise_adu: float | None = None
    limiting_mag: float | None = None
    limiting_flux_adu: float | None = None
    n_sources: int | None = None
    n_stars: int | None = None
    saturated_fraction: float | None = None
    cosmic_fraction: float | None = None
    masked_fraction: float | None = None
    n_trails: int | None = None
    zero_point_mag: float | None = None
    skyprobe_mag: float | None = None


@dataclass(frozen=True)
class QualityRecord:
    """Quality of one image as the harvest records it: the image's measures and those of its detectors."""

    item: str
    measures: DetectorMeasures
    detectors: tuple[DetectorMeasures, ...]
    type: str = "quality"

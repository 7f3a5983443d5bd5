"""One exposure from its detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spica.algorithms.quality.measures import DetectorQuality


@dataclass(frozen=True, slots=True)
class ExposureQuality:
    """Measures of a mosaic: medians over the detectors that know a value, sums of counts, means of fractions.

    NaN (None for limiting_mag) where no detector knows. `seeing_rms_arcsec` is the standard deviation of the detectors'
    seeing.
    """

    n_detectors: int
    background_adu: float
    noise_adu: float
    fwhm_pix: float
    seeing_arcsec: float
    seeing_rms_arcsec: float
    ellipticity: float
    position_angle_deg: float
    moffat_beta: float
    psf_chi2: float
    n_sources: int
    n_stars: int
    n_trails: int
    saturated_fraction: float
    cosmic_fraction: float
    masked_fraction: float
    limiting_flux_adu: float
    limiting_mag: float | None


def aggregate_quality(detectors: Sequence[DetectorQuality]) -> ExposureQuality:
    """Join the detectors of one exposure.

    The position angle is that of the mean direction in 2 theta over detectors, weighted by ellipticity.

    Raises
    ------
    ValueError
        When there is no detector.
    """
    if not detectors:
        raise ValueError("no detector to aggregate; pass those that were assessed")
    seeing = np.sort([d.seeing_arcsec for d in detectors if math.isfinite(d.seeing_arcsec)])
    magnitudes = [d.limiting_mag for d in detectors if d.limiting_mag is not None]
    return ExposureQuality(
        n_detectors=len(detectors),
        background_adu=_known_median([d.background_adu for d in detectors]),
        noise_adu=_known_median([d.noise_adu for d in detectors]),
        fwhm_pix=_known_median([d.fwhm_pix for d in detectors]),
        seeing_arcsec=_known_median(list(seeing)),
        seeing_rms_arcsec=float(seeing.std()) if seeing.size else float("nan"),
        ellipticity=_known_median([d.ellipticity for d in detectors]),
        position_angle_deg=_mean_angle(detectors),
        moffat_beta=_known_median([d.moffat_beta for d in detectors]),
        psf_chi2=_known_median([d.psf_chi2 for d in detectors]),
        n_sources=sum(d.n_sources for d in detectors),
        n_stars=sum(d.n_stars for d in detectors),
        n_trails=sum(d.n_trails for d in detectors),
        saturated_fraction=math.fsum(d.saturated_fraction for d in detectors) / len(detectors),
        cosmic_fraction=math.fsum(d.cosmic_fraction for d in detectors) / len(detectors),
        masked_fraction=math.fsum(d.masked_fraction for d in detectors) / len(detectors),
        limiting_flux_adu=_known_median([d.limiting_flux_adu for d in detectors]),
        limiting_mag=float(np.median(magnitudes)) if magnitudes else None,
    )


def _known_median(values: list[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.median(known)) if known else float("nan")


def _mean_angle(detectors: Sequence[DetectorQuality]) -> float:
    pairs = [
        (d.ellipticity, math.radians(2.0 * d.position_angle_deg)) for d in detectors if math.isfinite(d.ellipticity)
    ]
    if not pairs:
        return float("nan")
    return 0.5 * math.degrees(
        math.atan2(math.fsum(e * math.sin(t) for e, t in pairs), math.fsum(e * math.cos(t) for e, t in pairs))
    )

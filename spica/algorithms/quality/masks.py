"""Saturation, bad columns, cosmic rays and trails of one detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.cosmics import detect_cosmics
from spica.algorithms.quality.measures import QualityParameters
from spica.algorithms.weight import Trail, detect_trails, find_bad_columns, saturation_mask


@dataclass(frozen=True, slots=True)
class DetectorMasks:
    """What is wrong with which pixel."""

    unusable: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    cosmics: NDArray[np.bool_]
    bad_columns: NDArray[np.bool_]
    trail: NDArray[np.bool_]
    trails: tuple[Trail, ...]

    def for_detection(self) -> NDArray[np.bool_]:
        """Saturated pixels stay: they are the cores of stars."""
        return self.unusable | self.cosmics | self.bad_columns | self.trail


def find_masks(
    image: NDArray[np.float32],
    residual: NDArray[np.float32],
    unusable: NDArray[np.bool_],
    noise: float | NDArray,
    gain_e_per_adu: float | None,
    saturation_adu: float | None,
    level_adu: float,
    p: QualityParameters,
) -> DetectorMasks:
    """Saturation, bad columns, cosmic rays, trails, in the order in which they disturb each other."""
    none = np.zeros(image.shape, dtype=bool)
    saturated = none if saturation_adu is None else saturation_mask(image, saturation_adu, p.saturation_grow_pix)
    if not np.nanmax(noise) > 0:
        return DetectorMasks(unusable, saturated, none, none, none, ())
    columns, cosmics, trail = none, none, none
    trails: tuple[Trail, ...] = ()
    if p.bad_columns:
        columns = find_bad_columns(residual, noise, mask=unusable | saturated, sigma=p.bad_column_sigma)
    blocked = unusable | columns
    if p.cosmics:
        cosmics = detect_cosmics(
            residual,
            noise,
            sigma=p.cosmic_sigma,
            contrast=p.cosmic_contrast,
            psf_fwhm_pix=p.cosmic_psf_fwhm_pix,
            saturation_adu=saturation_adu,
            mask=blocked,
            gain_e_per_adu=gain_e_per_adu,
            background_adu=level_adu,
        )
    if p.trails:
        trail, trails = detect_trails(
            residual, noise, mask=blocked | cosmics, saturated=saturated, threshold_sigma=p.trail_sigma
        )
    return DetectorMasks(unusable, saturated, cosmics, columns, trail, trails)

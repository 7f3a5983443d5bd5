"""Parameters and results of assessing one detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.background import Background
from spica.algorithms.psf import PsfMeasures
from spica.algorithms.weight import Trail


@dataclass(frozen=True, slots=True)
class QualityParameters:
    """Parameters of `assess_detector`; the defaults suit sky-noise limited exposures sampled at 2 to 8 pixels FWHM."""

    mesh_pix: int = 64
    filter_meshes: int = 3
    threshold_sigma: float = 1.5
    min_area_pix: int = 5
    deblend_levels: int = 32
    deblend_contrast: float = 0.005
    apertures_arcsec: tuple[float, ...] = (2.0, 4.0, 8.0)
    max_sources: int = 200_000
    star_min_snr: float = 20.0
    star_max_ellipticity: float = 0.5
    psf_max_stars: int = 200
    psf_model_error: float = 0.02
    psf_pixel_integrated: bool = True
    cosmics: bool = True
    cosmic_sigma: float = 5.0
    cosmic_contrast: float = 5.0
    cosmic_psf_fwhm_pix: float = 2.0
    bad_columns: bool = True
    bad_column_sigma: float = 8.0
    trails: bool = True
    trail_sigma: float = 8.0
    saturation_grow_pix: int = 1
    edge_pix: int = 0
    min_flat: float = 0.1
    empirical_noise: bool = False
    empirical_apertures: int = 1000
    noise_from_map: bool = False

    def __post_init__(self) -> None:
        """Refuse what no step could use."""
        if not self.apertures_arcsec or min(self.apertures_arcsec) <= 0:
            raise ValueError(f"apertures_arcsec={self.apertures_arcsec}: give at least one positive diameter")


STACK_PARAMETERS = QualityParameters(cosmics=False, bad_columns=False, trails=False, empirical_noise=True)


@dataclass(frozen=True, slots=True)
class DetectorQuality:
    """Measures and products of one detector or stack; NaN where unknown.

    Attributes
    ----------
    background_adu, noise_adu : float
        Sky level and rms of one pixel.
    fwhm_pix, seeing_arcsec, fwhm_rms_pix, ellipticity, position_angle_deg, moffat_beta, psf_chi2 : float
        Of the point spread function, see PsfMeasures.
    n_sources, n_stars, n_trails : int
        Sources detected, stars that entered the PSF, satellite trails.
    saturated_fraction, cosmic_fraction, masked_fraction : float
        Shares of all pixels: saturated; hit by cosmic rays; of weight 0 for any reason.
    limiting_flux_adu : float
        Five times the noise of an aperture of 2 arcsec diameter, sky only, no aperture correction.
    limiting_mag : float or None
        zero_point_mag - 2.5 log10(limiting_flux_adu / exptime_s); None without a zero point or limit.
    sources : structured ndarray
        `source_dtype` plus the field `star` (bool); apertures as in the parameters.
    weight : ndarray of float32, shape (ny, nx)
        Relative inverse variance, 0 unusable.
    background : Background
    cosmics, bad_columns, trail_mask : ndarray of bool, shape (ny, nx)
    trails : tuple of Trail
    psf : PsfMeasures
        With the table of single stars.
    """

    background_adu: float
    noise_adu: float
    fwhm_pix: float
    seeing_arcsec: float
    fwhm_rms_pix: float
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
    sources: NDArray
    weight: NDArray[np.float32]
    background: Background
    cosmics: NDArray[np.bool_]
    bad_columns: NDArray[np.bool_]
    trail_mask: NDArray[np.bool_]
    trails: tuple[Trail, ...]
    psf: PsfMeasures

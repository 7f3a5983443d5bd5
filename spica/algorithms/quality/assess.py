"""All measures of one detector, or of one stack, in one pass."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.aperture import aperture_noise
from spica.algorithms.background import Background, measure_background
from spica.algorithms.detect import detect_sources
from spica.algorithms.psf import PsfMeasures, measure_psf, select_stars
from spica.algorithms.quality.masks import DetectorMasks, find_masks
from spica.algorithms.quality.measures import DetectorQuality, QualityParameters
from spica.algorithms.robust import bad_mask, native_image
from spica.algorithms.weight import make_weight

LIMITING_SIGMA = 5.0
LIMITING_APERTURE_ARCSEC = 2.0


def assess_detector(
    data: ArrayLike,
    *,
    exptime_s: float,
    gain_e_per_adu: float | None,
    read_noise_e: float | None,
    saturation_adu: float | None,
    pixel_scale_arcsec: float,
    mask: NDArray | None = None,
    bad_pixels: NDArray | None = None,
    flat: NDArray | None = None,
    weight: NDArray | None = None,
    zero_point_mag: float | None = None,
    parameters: QualityParameters | None = None,
    rng: np.random.Generator | None = None,
) -> DetectorQuality:
    """Measure everything about one detector, or about one stack (with its weight and STACK_PARAMETERS).

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Calibrated image in ADU, sky not subtracted (subtracted is fine too).
    exptime_s : float
        For limiting_mag.
    gain_e_per_adu : float or None
        Effective gain; None or 0 leaves the photon noise of sources out.
    read_noise_e : float or None
        Floor of the pixel noise where the sky is measured as constant (0 rms); else the measured rms holds.
    saturation_adu : float or None
        None: nothing is known to be saturated.
    pixel_scale_arcsec : float
        Arcsec per pixel.
    mask, bad_pixels : ndarray, optional
        Non-zero where unusable.
    flat : ndarray, optional
        The flat the image was divided by; enters the weight.
    weight : ndarray, optional
        Relative inverse variance of a stack; 0 is unusable. It is scaled to the measured noise and returned in place of
        one of our own making, with what was found unusable set to 0.
    zero_point_mag : float, optional
        Magnitude of 1 ADU/s.
    parameters : QualityParameters, optional
    rng : numpy.random.Generator, optional
        Places the empty apertures; needed with `empirical_noise`.

    Raises
    ------
    ValueError
        When exptime_s or pixel_scale_arcsec is not positive, shapes do not agree, or rng is missing.
    """
    p = parameters or QualityParameters()
    if not exptime_s > 0 or not pixel_scale_arcsec > 0:
        raise ValueError(
            f"exptime_s={exptime_s} and pixel_scale_arcsec={pixel_scale_arcsec} must be positive; correct the header"
        )
    if p.empirical_noise and rng is None:
        raise ValueError("empirical_noise needs rng; pass numpy.random.default_rng(seed)")
    image = native_image(data)
    unusable = bad_mask(image, mask, bad_pixels, None if weight is None else ~(np.asarray(weight) > 0))
    background = measure_background(image, unusable, p.mesh_pix, p.filter_meshes)
    level = background.level_map()
    residual = image - level
    noise = _pixel_noise(background, weight, gain_e_per_adu, read_noise_e, p)
    masks = find_masks(image, residual, unusable, noise, gain_e_per_adu, saturation_adu, background.level_adu, p)
    blocked = masks.for_detection()
    sources = detect_sources(
        residual,
        noise,
        mask=blocked,
        threshold_sigma=p.threshold_sigma,
        min_area_pix=p.min_area_pix,
        deblend_levels=p.deblend_levels,
        deblend_contrast=p.deblend_contrast,
        apertures_pix=tuple(d / pixel_scale_arcsec for d in p.apertures_arcsec),
        gain_e_per_adu=gain_e_per_adu,
        saturation_adu=saturation_adu,
        background_adu=level,
        max_sources=p.max_sources,
    )
    stars = select_stars(sources, min_snr=p.star_min_snr, max_ellipticity=p.star_max_ellipticity)
    psf = measure_psf(
        residual,
        noise,
        sources,
        stars,
        saturation_adu=saturation_adu,
        background_adu=background.level_adu if math.isfinite(background.level_adu) else 0.0,
        mask=blocked,
        gain_e_per_adu=gain_e_per_adu,
        max_stars=p.psf_max_stars,
        model_error=p.psf_model_error,
        pixel_integrated=p.psf_pixel_integrated,
    )
    final = _final_weight(image.shape, background, weight, flat, masks, p)
    limit = LIMITING_SIGMA * _aperture_sigma(residual, noise, final, sources, psf, pixel_scale_arcsec, p, rng)
    return _gather(
        background,
        _typical(noise, final),
        psf,
        sources,
        stars,
        final,
        masks,
        limit,
        exptime_s,
        pixel_scale_arcsec,
        zero_point_mag,
    )


def _pixel_noise(
    background: Background,
    weight: NDArray | None,
    gain_e_per_adu: float | None,
    read_noise_e: float | None,
    p: QualityParameters,
) -> float | NDArray[np.float32]:
    """One rms for the image, or a map: of the mesh when asked for, of the weight (scaled to the mesh) when given."""
    floor = read_noise_e / gain_e_per_adu if read_noise_e and gain_e_per_adu else 0.0
    if not math.isfinite(background.noise_adu):
        return 0.0
    if weight is None:
        return np.maximum(background.noise_map(), floor) if p.noise_from_map else background.noise_adu or floor
    good = np.asarray(weight) > 0
    relative = 1.0 / np.sqrt(np.where(good, weight, 1.0).astype(np.float32))
    ratio = (background.noise_map() / relative)[good]
    scale = float(np.median(ratio[:: max(1, ratio.size // 500_000)])) if ratio.size else 0.0
    return np.where(good, np.float32(scale or floor) * relative, np.float32(0.0))


def _final_weight(
    shape: tuple[int, int],
    background: Background,
    weight: NDArray | None,
    flat: NDArray | None,
    masks: DetectorMasks,
    p: QualityParameters,
) -> NDArray[np.float32]:
    """Our own weight for an exposure; the given one, holes added, for a stack."""
    if weight is not None:
        return np.where(masks.for_detection(), np.float32(0.0), np.asarray(weight, dtype=np.float32))
    noise = background.noise_map()
    if background.noise_adu == 0.0:
        noise = np.ones_like(noise)
    return make_weight(
        shape,
        noise_map=noise,
        flat=flat,
        bad_pixels=masks.unusable,
        saturated=masks.saturated,
        cosmic=masks.cosmics,
        masks=(masks.bad_columns, masks.trail),
        edge_pix=p.edge_pix,
        min_flat=p.min_flat,
    )


def _typical(noise: float | NDArray, weight: NDArray[np.float32]) -> float:
    """Median of the noise over usable pixels; NaN without any."""
    if np.ndim(noise) == 0:
        return float(noise) if (weight > 0).any() else float("nan")
    values = np.asarray(noise)[weight > 0]
    return float(np.median(values[:: max(1, values.size // 500_000)])) if values.size else float("nan")


def _aperture_sigma(
    residual: NDArray[np.float32],
    noise: float | NDArray,
    weight: NDArray[np.float32],
    sources: NDArray,
    psf: PsfMeasures,
    pixel_scale_arcsec: float,
    p: QualityParameters,
    rng: np.random.Generator | None,
) -> float:
    """Noise of the limiting aperture: from independent pixels, or from empty apertures where pixels are correlated."""
    diameter = LIMITING_APERTURE_ARCSEC / pixel_scale_arcsec
    if p.empirical_noise and rng is not None:
        occupied = (weight <= 0) | _near_sources(residual.shape, sources)
        measured = aperture_noise(_even_noise(residual, weight), occupied, diameter, p.empirical_apertures, rng)
        if math.isfinite(measured):
            return measured
    return _typical(noise, weight) * math.sqrt(math.pi) * 0.5 * diameter


def _even_noise(residual: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image with the noise that it has at its median weight everywhere.

    Empty apertures lie where sources are few, which in a stack of dithered exposures is where it is shallow.
    """
    usable = weight > 0
    if not usable.any():
        return residual
    typical = np.float32(np.median(weight[usable]))
    return residual * np.sqrt(np.where(usable, weight, np.float32(0.0)) / typical)


def _near_sources(shape: tuple[int, int], sources: NDArray) -> NDArray[np.bool_]:
    """Boxes of the sources, widened by half their size and two pixels."""
    out = np.zeros(shape, dtype=bool)
    for source in sources:
        grow = 2 + int(source["x_max"] - source["x_min"] + source["y_max"] - source["y_min"]) // 4
        rows = slice(max(source["y_min"] - grow, 0), source["y_max"] + grow + 1)
        out[rows, max(source["x_min"] - grow, 0) : source["x_max"] + grow + 1] = True
    return out


def _gather(
    background: Background,
    noise_adu: float,
    psf: PsfMeasures,
    sources: NDArray,
    stars: NDArray[np.bool_],
    weight: NDArray[np.float32],
    masks: DetectorMasks,
    limit: float,
    exptime_s: float,
    pixel_scale_arcsec: float,
    zero_point_mag: float | None,
) -> DetectorQuality:
    table = np.zeros(sources.size, dtype=np.dtype([*sources.dtype.descr, ("star", np.bool_)]))
    for name in sources.dtype.names or ():
        table[name] = sources[name]
    table["star"] = stars
    limiting_mag = None
    if zero_point_mag is not None and limit > 0:
        limiting_mag = zero_point_mag - 2.5 * math.log10(limit / exptime_s)
    return DetectorQuality(
        background_adu=background.level_adu,
        noise_adu=noise_adu,
        fwhm_pix=psf.fwhm_pix,
        seeing_arcsec=psf.fwhm_pix * pixel_scale_arcsec,
        fwhm_rms_pix=psf.fwhm_rms_pix,
        ellipticity=psf.ellipticity,
        position_angle_deg=psf.position_angle_deg,
        moffat_beta=psf.beta,
        psf_chi2=psf.chi2,
        n_sources=int(sources.size),
        n_stars=psf.n_stars,
        n_trails=len(masks.trails),
        saturated_fraction=float(masks.saturated.mean()),
        cosmic_fraction=float(masks.cosmics.mean()),
        masked_fraction=float(1.0 - np.count_nonzero(weight) / weight.size),
        limiting_flux_adu=limit,
        limiting_mag=limiting_mag,
        sources=table,
        weight=weight,
        background=background,
        cosmics=masks.cosmics,
        bad_columns=masks.bad_columns,
        trail_mask=masks.trail,
        trails=masks.trails,
        psf=psf,
    )

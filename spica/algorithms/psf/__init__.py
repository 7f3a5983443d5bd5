"""Point sources and the shape of the point spread function.

Stars are picked on their locus of half-light radius; each gets an elliptical Moffat (Moffat 1969) by
Levenberg-Marquardt, with one exponent for the image. The model is integrated over pixels, so that the width is that of
the light before the detector samples it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.aperture import FLAG_BLENDED, FLAG_CROWDED, FLAG_SATURATED, FLAG_TRUNCATED
from spica.algorithms.psf.moffat import MAX_STAMP_HALF_PIX, MIN_BETA, fit_stars
from spica.algorithms.robust import bad_mask, clipped_statistics, mad_rms, native_image, weighted_median

STAR_DTYPE = np.dtype(
    [(name, np.float64) for name in ("x", "y", "fwhm_pix", "ellipticity", "theta_deg", "beta", "chi2", "flux_adu")]
    + [("source", np.int64)]
)
MIN_HALF_LIGHT_PIX = 0.75  # below it no optics: a hot pixel or a cosmic ray
_ENOUGH_ISOLATED = 20  # with so many, stars with neighbours in their aperture are not fitted
_SNR_OF_HALF_WEIGHT = 100.0  # above it stars differ by more than their noise
_BETA_STARS = 40  # stars with a free exponent, from whose median the shared one comes


@dataclass(frozen=True, slots=True)
class PsfMeasures:
    """The point spread function of one image; NaN and no star where none could be fitted.

    Attributes
    ----------
    fwhm_pix : float
        Median FWHM, sqrt(major x minor), pixels; here and in the shape stars count with 1 / (1 + (100 / S/N)^2).
    fwhm_rms_pix : float
        1.4826 MAD of the FWHM over stars.
    ellipticity : float
        1 - b/a of the median shape; the mean of noise directions cancels in it.
    position_angle_deg : float
        Of the major axis, counter-clockwise from +x, in (-90, 90].
    beta : float
        Moffat exponent shared by the stars.
    chi2 : float
        Median reduced chi^2; about 1 for a Moffat, large for a defocused or doubled image.
    n_stars : int
        Stars that entered the medians.
    stars : ndarray, shape (n_stars,), dtype STAR_DTYPE
        Per-star shapes; `source` is the row in the source table.
    """

    fwhm_pix: float
    fwhm_rms_pix: float
    ellipticity: float
    position_angle_deg: float
    beta: float
    chi2: float
    n_stars: int
    stars: NDArray


def select_stars(
    sources: NDArray,
    *,
    min_snr: float = 20.0,
    max_ellipticity: float = 0.5,
    min_half_light_pix: float = MIN_HALF_LIGHT_PIX,
    width_sigmas: float = 3.0,
) -> NDArray[np.bool_]:
    """Return True for the point sources of a table made by `detect_sources`.

    The locus is the mode of ln(flux_radius) over clean bright sources (kernel density, weight ln S/N, so that
    the many faint galaxies do not carry it), its width 1.4826 MAD inside 15 %, held between 3 and 12 %; fainter sources
    get the width their S/N adds. Own derivation.

    Parameters
    ----------
    sources : structured ndarray, shape (n,)
        Fields flags, flux_auto, fluxerr_auto, flux_radius, ellipticity, snr_win.
    min_snr : float
        Least windowed S/N.
    max_ellipticity : float
        Above it a source is no star, even in an image with trailed stars of 0.4.
    min_half_light_pix : float
        Smaller ones are hot pixels and cosmic rays.
    width_sigmas : float
        Half width of the locus.
    """
    unfit = FLAG_BLENDED | FLAG_SATURATED | FLAG_TRUNCATED
    radius = sources["flux_radius"]
    candidate = (
        ((sources["flags"] & unfit) == 0)
        & (sources["snr_win"] > min_snr)
        & (sources["flux_auto"] > 0)
        & (radius > min_half_light_pix)
        & (sources["ellipticity"] < max_ellipticity)
    )
    if not candidate.any():
        return np.zeros(sources.size, dtype=bool)
    log_radius = np.log(np.where(candidate, radius, 1.0))
    snr = np.where(candidate, np.maximum(sources["snr_win"], 1.0), 1.0)
    mode = _locus_mode(log_radius[candidate], np.log(np.minimum(snr[candidate], 1e3)))
    width = 0.05
    for _ in range(5):
        near = candidate & (np.abs(log_radius - mode) < 0.15)
        if not near.any():
            break
        width = min(max(mad_rms(log_radius[near] - mode), 0.03), 0.12)
        inside = candidate & (np.abs(log_radius - mode) < 2.0 * width)
        if inside.any():
            mode = float(np.median(log_radius[inside]))
    return candidate & (np.abs(log_radius - mode) < width_sigmas * np.hypot(width, 0.7 / snr))


def _locus_mode(log_radius: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Peak of a weighted kernel density; of peaks within a tenth of the highest the one of smallest radius."""
    bandwidth = max(0.04, 0.3 * mad_rms(log_radius) * log_radius.size**-0.2)
    grid = np.arange(log_radius.min() - bandwidth, log_radius.max() + 2 * bandwidth, 0.25 * bandwidth)
    grid = np.linspace(grid[0], grid[-1], min(grid.size, 2000))
    counts, edges = np.histogram(log_radius, bins=grid.size, range=(grid[0], grid[-1]), weights=weight)
    step = (grid[-1] - grid[0]) / grid.size
    reach = math.ceil(4 * bandwidth / step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / bandwidth) ** 2)
    density = np.convolve(counts, kernel, mode="full")[reach : reach + grid.size]
    centre = 0.5 * (edges[1:] + edges[:-1])
    padded = np.concatenate([[0.0], density, [0.0]])
    peaks = np.flatnonzero((density >= padded[:-2]) & (density > padded[2:]) & (density > 0.9 * density.max()))
    return float(centre[peaks[0] if peaks.size else int(np.argmax(density))])


def measure_psf(
    data: ArrayLike,
    noise: float | NDArray,
    sources: NDArray,
    stars: NDArray[np.bool_],
    *,
    saturation_adu: float | None = None,
    background_adu: float = 0.0,
    mask: NDArray | None = None,
    gain_e_per_adu: float | None = None,
    max_stars: int = 200,
    model_error: float = 0.02,
    pixel_integrated: bool = True,
) -> PsfMeasures:
    """Fit the point spread function to the stars of a sky-subtracted image.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Image in ADU with the background subtracted.
    noise : float or ndarray
        Rms of the sky in ADU.
    sources : structured ndarray
        Table of `detect_sources`; neighbours in it are kept out of a star's pixels.
    stars : ndarray of bool
        Which of them to fit, as from `select_stars`.
    saturation_adu, background_adu : float
        Pixels with data + background at or above saturation are left out.
    mask : ndarray, optional
        Non-zero where a pixel is not to be used.
    gain_e_per_adu : float, optional
        Adds photon noise to the weights.
    max_stars : int
        The brightest in flux_max are fitted, those without neighbours alone where they are at least twenty.
    model_error : float
        Relative error added to the weights: no real star is a Moffat to better than some per cent.
    pixel_integrated : bool
        False fits the model sampled at pixel centres: the width as it appears on the detector.

    Raises
    ------
    ValueError
        When shapes do not agree or stars has another length than sources.
    """
    image = native_image(data)
    if stars.shape != sources.shape:
        raise ValueError(f"stars of size {stars.size} for {sources.size} sources; mark the stars of the same table")
    ceiling = np.inf if saturation_adu is None else saturation_adu - background_adu
    bad = bad_mask(image, mask)
    sigma = np.atleast_2d(np.asarray(noise, dtype=np.float32))
    chosen = np.flatnonzero(stars)
    isolated = chosen[(sources["flags"][chosen] & FLAG_CROWDED) == 0]
    chosen = isolated if isolated.size >= _ENOUGH_ISOLATED else chosen
    chosen = chosen[np.argsort(-sources["flux_max"][chosen], kind="stable")][:max_stars]
    if chosen.size == 0 or not np.nanmax(sigma) > 0:
        return _no_psf()
    positions = np.stack([sources["x_win"], sources["y_win"], sources["flux_auto"]], axis=1)
    half_light = float(np.median(sources["flux_radius"][chosen]))
    half = int(min(max(math.ceil(4.5 * half_light), 4), MAX_STAMP_HALF_PIX))
    inverse_gain = 1.0 / gain_e_per_adu if gain_e_per_adu else 0.0
    common = (image, bad, sigma, positions, half, half_light, ceiling, inverse_gain, model_error, pixel_integrated)
    free = fit_stars(chosen[:_BETA_STARS], 0.0, *common)
    beta = _shared_beta(free)
    snr = np.maximum(sources["snr_win"][chosen], 1.0)
    return _summarise(chosen, fit_stars(chosen, beta, *common), beta, 1.0 / (1.0 + (_SNR_OF_HALF_WEIGHT / snr) ** 2))


def _no_psf() -> PsfMeasures:
    nan = float("nan")
    return PsfMeasures(nan, nan, nan, nan, nan, nan, 0, np.empty(0, dtype=STAR_DTYPE))


def _shared_beta(fits: NDArray[np.float64]) -> float:
    """Median exponent of the fits that came to rest inside the limits; 3, a usual seeing disc, where none did."""
    beta = fits[:, 7]
    good = (fits[:, 8] > 0) & (beta > 1.01 * MIN_BETA)
    return float(np.median(beta[good])) if good.any() else 3.0


def _summarise(chosen: NDArray, fits: NDArray[np.float64], beta: float, weight: NDArray) -> PsfMeasures:
    """Shapes from the quadratic forms; weighted medians over those stars that are no outliers in width or chi^2."""
    converged = fits[:, 8] > 0
    fits, chosen, weight = fits[converged], chosen[converged], weight[converged]
    if chosen.size == 0:
        return _no_psf()
    stars = np.zeros(chosen.size, dtype=STAR_DTYPE)
    stars["x"], stars["y"], stars["source"] = fits[:, 1], fits[:, 2], chosen
    stars["beta"], stars["chi2"] = fits[:, 7], fits[:, 9]
    stars["fwhm_pix"], stars["ellipticity"], stars["theta_deg"] = _shape(fits[:, 3], fits[:, 4], fits[:, 5], beta)
    determinant = fits[:, 3] * fits[:, 4] - fits[:, 5] ** 2
    stars["flux_adu"] = fits[:, 0] * np.pi / ((beta - 1.0) * np.sqrt(determinant))
    width = clipped_statistics(stars["fwhm_pix"], kappa=4.0)
    kept = np.abs(stars["fwhm_pix"] - width.median) <= 4.0 * max(width.rms, 0.02 * width.median)
    kept &= stars["chi2"] <= 10.0 * max(float(np.median(stars["chi2"])), 1.0)
    if not kept.any():
        return _no_psf()
    stars, fits, weight = stars[kept], fits[kept], weight[kept]
    inverse = np.array([fits[:, 4], fits[:, 3], -fits[:, 5]]) / determinant[kept]
    mean = np.array([weighted_median(row, weight) for row in inverse / (inverse[0] + inverse[1])])
    form = mean / (mean[0] * mean[1] - mean[2] ** 2)
    _, ellipticity, theta = _shape(form[1:2], form[0:1], -form[2:3], beta)
    return PsfMeasures(
        fwhm_pix=weighted_median(stars["fwhm_pix"], weight),
        fwhm_rms_pix=mad_rms(stars["fwhm_pix"]),
        ellipticity=float(ellipticity[0]),
        position_angle_deg=float(theta[0]),
        beta=beta,
        chi2=float(np.median(stars["chi2"])),
        n_stars=int(stars.size),
        stars=stars,
    )


def _shape(qxx: NDArray, qyy: NDArray, qxy: NDArray, beta: float) -> tuple[NDArray, NDArray, NDArray]:
    """FWHM (geometric mean of both axes), 1 - b/a and angle of the form qxx x^2 + 2 qxy x y + qyy y^2 = 1."""
    mean, difference = 0.5 * (qxx + qyy), np.hypot(0.5 * (qxx - qyy), qxy)
    low, high = np.maximum(mean - difference, 1e-300), mean + difference
    radius = math.sqrt(2.0 ** (1.0 / beta) - 1.0)
    theta = 0.5 * np.degrees(np.arctan2(-2.0 * qxy, -(qxx - qyy)))
    return 2.0 * radius / (low * high) ** 0.25, 1.0 - np.sqrt(low / high), theta

"""Detection of sources and their catalogue, as SExtractor makes it.

sep finds and deblends (Bertin & Arnouts 1996, section 4); the kernels of `aperture` measure. Where sep and SExtractor
differ in measuring (treatment of neighbours, growth curve, errors of windowed positions), SExtractor is followed.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray

from spica.algorithms import aperture
from spica.algorithms.robust import bad_mask, native_image

DEFAULT_KERNEL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], dtype=np.float32)
KRON_FACTOR, KRON_MINIMUM = 2.5, 3.5
PIXEL_STACK = 2_000_000  # pixels of objects being grown at one time; about 80 MB in sep while it runs
SUB_OBJECTS = 16_384

# sep keeps these for the whole process: set once, here, before any thread can run
sep.set_extract_pixstack(PIXEL_STACK)
sep.set_sub_object_limit(SUB_OBJECTS)

_SCALARS = (
    "x",
    "y",
    "x_win",
    "y_win",
    "errx2_win",
    "erry2_win",
    "errxy_win",
    "flux_auto",
    "fluxerr_auto",
    "kron_radius",
    "flux_radius",
    "fwhm_pix",
    "a_pix",
    "b_pix",
    "theta_deg",
    "elongation",
    "ellipticity",
    "flux_max",
    "background_adu",
    "snr_win",
)
_INTEGERS = ("number", "npix", "flags", "x_min", "x_max", "y_min", "y_max")


class DetectionOverflowError(ValueError):
    """More signal above the threshold than the bounded buffers hold: no sky image, or a background not subtracted."""


def source_dtype(n_apertures: int) -> np.dtype:
    """Return the dtype of a source table.

    Fields (positions 0-based in pixels, fluxes in ADU, angles counter-clockwise from +x towards +y in degrees):

    number (from 1); x, y isophotal barycentre; x_win, y_win Gaussian-windowed centre; errx2_win, erry2_win, errxy_win
    its covariance in pix^2 (NaN where the window failed and the barycentre stands in); flux_auto, fluxerr_auto in the
    Kron ellipse; kron_radius in units of a_pix, b_pix; flux_aper, fluxerr_aper of shape (n_apertures,); flux_radius
    of half flux_auto (0 where flux_auto is not positive); fwhm_pix of a Gaussian through the core (NaN where it has
    too few pixels); a_pix, b_pix, theta_deg rms ellipse; elongation a/b; ellipticity 1 - b/a; flux_max highest pixel;
    background_adu under it; snr_win; npix; x_min ... y_max inclusive box; flags.

    Flags: 1 neighbours or bad pixels take a tenth of the aperture, 2 blended, 4 saturated, 8 cut by the image border,
    16 an aperture reaches beyond the border.
    """
    fields: list[tuple] = [(name, np.int32) for name in _INTEGERS] + [(name, np.float64) for name in _SCALARS]
    fields += [("flux_aper", np.float64, (n_apertures,)), ("fluxerr_aper", np.float64, (n_apertures,))]
    return np.dtype(fields)


def detect_sources(
    data: ArrayLike,
    noise: float | NDArray,
    *,
    mask: NDArray | None = None,
    weight: NDArray | None = None,
    threshold_sigma: float = 1.5,
    min_area_pix: int = 5,
    kernel: NDArray | None = DEFAULT_KERNEL,
    deblend_levels: int = 32,
    deblend_contrast: float = 0.005,
    clean: bool = True,
    apertures_pix: tuple[float, ...] = (5.0,),
    gain_e_per_adu: float | None = None,
    saturation_adu: float | None = None,
    background_adu: float | NDArray = 0.0,
    max_sources: int = 200_000,
) -> NDArray:
    """Detect and measure sources.

    Parameters
    ----------
    data : array_like, shape (ny, nx)
        Image in ADU with the background subtracted; NaN counts as masked.
    noise : float or ndarray, shape (ny, nx)
        Rms of the sky in ADU.
    mask, weight : ndarray, shape (ny, nx), optional
        Not used are pixels where the mask is non-zero or the weight is not positive.
    threshold_sigma, min_area_pix, kernel, deblend_levels, deblend_contrast, clean
        As DETECT_THRESH, DETECT_MINAREA, FILTER, DEBLEND_NTHRESH, DEBLEND_MINCONT and CLEAN of SExtractor. The
        threshold applies to the filtered image and is not lowered for the filter's smoothing. None: no filter.
    apertures_pix : tuple of float
        Diameters of the circular apertures.
    gain_e_per_adu : float, optional
        For the photon noise of sources in errors; None or 0 leaves it out.
    saturation_adu : float, optional
        Level, sky included, from which a pixel is saturated.
    background_adu : float or ndarray, shape (ny, nx)
        The level that was subtracted; used for saturation and for the column of this name.
    max_sources : int
        Of more detections the brightest are kept.

    Returns
    -------
    ndarray, shape (n,)
        Structured, `source_dtype(len(apertures_pix))`, in order of detection; empty where nothing stands out.

    Raises
    ------
    DetectionOverflowError
        When the detector's buffers overflow.
    ValueError
        When shapes do not agree or a parameter cannot be used.
    """
    image = native_image(data)
    bad = bad_mask(image, mask, None if weight is None else ~(np.asarray(weight) > 0))
    noise_map, noiseless = _noise_array(noise, image.shape)
    bad |= noiseless
    if not threshold_sigma > 0 or any(not d > 0 for d in apertures_pix):
        raise ValueError("threshold_sigma and every aperture diameter must be positive; 1.5 and 5 pixels are usual")
    if bad.all() or not (noise_map > 0).any():
        return np.empty(0, dtype=source_dtype(len(apertures_pix)))
    if bad.any():  # at 0 no pixel is detected, which is all that sep's own mask would do
        image = np.where(bad, np.float32(0.0), image)
    with _OverflowNamed():
        found, segments = sep.extract(
            image,
            threshold_sigma if noise_map.size > 1 else threshold_sigma * float(noise_map[0, 0]),
            err=noise_map if noise_map.size > 1 else None,
            minarea=min_area_pix,
            filter_kernel=kernel,
            filter_type="conv",
            deblend_nthresh=deblend_levels,
            deblend_cont=deblend_contrast,
            clean=clean,
            segmentation_map=True,
        )
    found, segments = _brightest(found, segments, max_sources)
    shapes = np.stack([found[k] for k in ("x", "y", "cxx", "cyy", "cxy", "a", "peak")], axis=1).astype(np.float64)
    boxes = np.stack([found[k] for k in ("xmin", "xmax", "ymin", "ymax")], axis=1).astype(np.int64)
    radii = 0.5 * np.asarray(apertures_pix, dtype=np.float64)
    inverse_gain = 1.0 / gain_e_per_adu if gain_e_per_adu else 0.0
    table, fluxes = aperture.measure_sources(
        image, bad, segments, shapes, boxes, radii, noise_map, inverse_gain, KRON_FACTOR, KRON_MINIMUM
    )
    return _assemble(found, table, fluxes, _levels_under(background_adu, found, image.shape), saturation_adu)


class _OverflowNamed:
    """Turns the bare Exception of sep into a named error; every other class passes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception:
            raise DetectionOverflowError(
                f"detection overflowed ({value}); raise threshold_sigma or use a smaller background mesh"
            ) from value


def _noise_array(noise: float | NDArray, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the noise as a float32 map, of shape (1, 1) for one value, and where it is unusable: there the median."""
    array = np.atleast_2d(np.asarray(noise, dtype=np.float32))
    if array.shape not in {(1, 1), shape}:
        raise ValueError(f"noise of shape {array.shape} on image of shape {shape}; give one value or one per pixel")
    if array.size == 1:
        usable = array if np.isfinite(array[0, 0]) else np.zeros((1, 1), dtype=np.float32)
        return usable, np.zeros(shape, dtype=np.bool_)
    good = (array > 0) & np.isfinite(array)
    typical = np.float32(np.median(array[good])) if good.any() else np.float32(0.0)
    return np.ascontiguousarray(np.where(good, array, typical)), ~good


def _brightest(found: NDArray, segments: NDArray[np.int32], limit: int) -> tuple[NDArray, NDArray[np.int32]]:
    """Keep the brightest sources in their order; the pixels of the others stay owned, by numbers nobody has."""
    if found.size <= limit:
        return found, segments
    kept = np.sort(np.argsort(-found["flux"], kind="stable")[:limit])
    number = np.arange(found.size + 1, dtype=np.int32) + np.int32(found.size)
    number[0] = 0
    number[kept + 1] = np.arange(1, limit + 1, dtype=np.int32)
    return found[kept], number[segments]


def _levels_under(background_adu: float | NDArray, found: NDArray, shape: tuple[int, int]) -> NDArray[np.float64]:
    level = np.asarray(background_adu)
    if level.ndim == 0:
        return np.full(found.size, float(level))
    if level.shape != shape:
        raise ValueError(f"background of shape {level.shape} on image of shape {shape}; give one value or a map")
    return np.asarray(level[found["ypeak"], found["xpeak"]], dtype=np.float64)


def _assemble(
    found: NDArray, table: NDArray, fluxes: NDArray, levels: NDArray, saturation_adu: float | None
) -> NDArray:
    """Bring sep's detections and our measures into one table."""
    out = np.zeros(found.size, dtype=source_dtype(fluxes.shape[1]))
    out["number"] = np.arange(1, found.size + 1)
    direct = {"x": "x", "y": "y", "a_pix": "a", "b_pix": "b", "flux_max": "peak", "npix": "npix"}
    boxes = {"x_min": "xmin", "x_max": "xmax", "y_min": "ymin", "y_max": "ymax"}
    for name, source in (direct | boxes).items():
        out[name] = found[source]
    columns = {
        "x_win": aperture.X_WIN,
        "y_win": aperture.Y_WIN,
        "errx2_win": aperture.ERR_X2,
        "erry2_win": aperture.ERR_Y2,
        "errxy_win": aperture.ERR_XY,
        "snr_win": aperture.SNR_WIN,
        "flux_auto": aperture.FLUX,
        "fluxerr_auto": aperture.FLUX_ERR,
        "kron_radius": aperture.KRON,
        "flux_radius": aperture.HALF_LIGHT,
        "fwhm_pix": aperture.FWHM,
    }
    for name, column in columns.items():
        out[name] = table[:, column]
    out["flux_aper"], out["fluxerr_aper"] = fluxes[..., 0], fluxes[..., 1]
    out["theta_deg"] = np.degrees(found["theta"])
    out["elongation"] = found["a"] / found["b"]
    out["ellipticity"] = 1.0 - found["b"] / found["a"]
    out["background_adu"] = levels
    out["flags"] = table[:, aperture.FLAGS].astype(np.int32)
    out["flags"] |= np.where(found["flag"] & sep.OBJ_MERGED, aperture.FLAG_BLENDED, 0).astype(np.int32)
    out["flags"] |= np.where(found["flag"] & sep.OBJ_TRUNC, aperture.FLAG_TRUNCATED, 0).astype(np.int32)
    if saturation_adu is not None:
        full = found["peak"] + levels >= saturation_adu
        out["flags"] |= np.where(full, aperture.FLAG_SATURATED, 0).astype(np.int32)
    return out

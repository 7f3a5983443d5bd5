"""The output grid of a stack: a tangent-plane frame chosen around footprints, a circle, or copied from a given WCS.

A frame has north up and east to the left, square pixels, and 0-based pixel coordinates (centre of the first pixel at
(0, 0)). All choices are made with unit vectors, so right ascension 0 and the poles need no special care.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS, FITSFixedWarning
from numpy.typing import ArrayLike, NDArray

DEFAULT_MAX_PIXELS = 2_000_000_000
"""Largest number of pixels of a frame unless told otherwise (8 GB of float32)."""
_MAX_HALF_ANGLE_DEG = 80.0
_BORDER_PIX = 1.0

FloatArray = NDArray[np.float64]


class FrameTooLargeError(ValueError):
    """The frame would hold more pixels than allowed.

    Attributes
    ----------
    nx, ny : int
        Size the frame would have, in pixels.
    limit : int
        Largest number of pixels allowed.
    """

    def __init__(self, nx: int, ny: int, limit: int) -> None:
        self.nx, self.ny, self.limit = nx, ny, limit
        super().__init__(
            f"the output frame would be {nx} x {ny} pixels = {nx * ny}, more than the limit of {limit}: "
            "choose a larger pixel scale, a smaller area or fewer images, or raise the limit"
        )


@dataclass(frozen=True)
class Frame:
    """Output grid: gnomonic (TAN) projection, position angle 0, east to the left, square pixels.

    Attributes
    ----------
    ra0_deg, dec0_deg : float
        Tangent point.
    crpix_x_pix, crpix_y_pix : float
        0-based pixel of the tangent point.
    pixel_scale_arcsec : float
        Side of a pixel at the tangent point.
    shape : tuple of int
        (ny, nx).
    reference_header : str
        Empty for the grid above. Else the FITS header text of the WCS that defines the grid in place of it
        (see `frame_from_wcs`); the other attributes then describe that grid at its centre.
    """

    ra0_deg: float
    dec0_deg: float
    crpix_x_pix: float
    crpix_y_pix: float
    pixel_scale_arcsec: float
    shape: tuple[int, int]
    reference_header: str = ""

    def __post_init__(self) -> None:
        numbers = (self.ra0_deg, self.dec0_deg, self.crpix_x_pix, self.crpix_y_pix, self.pixel_scale_arcsec)
        if not all(math.isfinite(v) for v in numbers) or self.pixel_scale_arcsec <= 0 or abs(self.dec0_deg) > 90:
            raise ValueError(f"frame geometry {numbers} is not usable: give finite values and a positive pixel scale")
        if min(self.shape) < 1:
            raise ValueError(f"frame shape {self.shape} holds no pixel: give a size of at least 1 x 1")

    @property
    def pixel_area_arcsec2(self) -> float:
        """Area of a pixel at the tangent point, arcsec^2."""
        return self.pixel_scale_arcsec**2

    def to_wcs(self) -> WCS:
        """Return the astropy WCS of the grid, `array_shape` set."""
        if self.reference_header:
            wcs = _wcs_of_text(self.reference_header)
        else:
            wcs = WCS(naxis=2)
            wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
            wcs.wcs.cunit = ["deg", "deg"]
            wcs.wcs.crval = [self.ra0_deg, self.dec0_deg]
            wcs.wcs.crpix = [self.crpix_x_pix + 1.0, self.crpix_y_pix + 1.0]
            scale_deg = self.pixel_scale_arcsec / 3600.0
            wcs.wcs.cd = [[-scale_deg, 0.0], [0.0, scale_deg]]
            wcs.wcs.lonpole = 180.0
            wcs.wcs.radesys = "ICRS"
            wcs.wcs.set()
        wcs.array_shape = self.shape
        return wcs

    def pixel_to_sky(self, x_pix: ArrayLike, y_pix: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return right ascension in [0, 360) and declination, degrees, of 0-based pixels."""
        x, y = np.broadcast_arrays(np.asarray(x_pix, float), np.asarray(y_pix, float))
        if self.reference_header:
            ra, dec = self.to_wcs().all_pix2world(x.ravel(), y.ravel(), 0)
            return np.asarray(ra).reshape(x.shape) % 360.0, np.asarray(dec).reshape(x.shape)
        scale = math.radians(self.pixel_scale_arcsec / 3600.0)
        xi, eta = -(x - self.crpix_x_pix) * scale, (y - self.crpix_y_pix) * scale
        return _plane_to_sky(xi, eta, self.ra0_deg, self.dec0_deg)

    def sky_to_pixel(self, ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return 0-based pixels of sky positions; NaN on the far hemisphere or where the position is NaN."""
        ra, dec = np.broadcast_arrays(np.asarray(ra_deg, float), np.asarray(dec_deg, float))
        if self.reference_header:
            x, y = self.to_wcs().all_world2pix(ra.ravel(), dec.ravel(), 0, quiet=True)
            return np.asarray(x).reshape(ra.shape), np.asarray(y).reshape(ra.shape)
        scale = math.radians(self.pixel_scale_arcsec / 3600.0)
        xi, eta = _sky_to_plane(ra, dec, self.ra0_deg, self.dec0_deg)
        return self.crpix_x_pix - xi / scale, self.crpix_y_pix + eta / scale

    def corners(self) -> FloatArray:
        """Return the outer corners, shape (4, 2), columns ra and dec in degrees, in order around the frame."""
        ny, nx = self.shape
        ra, dec = self.pixel_to_sky([-0.5, nx - 0.5, nx - 0.5, -0.5], [-0.5, -0.5, ny - 0.5, ny - 0.5])
        return np.stack([ra, dec], axis=1)


def choose_frame(
    footprints: Sequence[ArrayLike],
    pixel_scale_arcsec: float | None = None,
    *,
    input_scales_arcsec: Sequence[float] = (),
    center_deg: tuple[float, float] | None = None,
    size_pix: tuple[int, int] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Frame:
    """Choose the frame that holds all footprints.

    Parameters
    ----------
    footprints : sequence of (n, 2) arrays
        Polygons, columns ra and dec in degrees. Great-circle edges are straight in the gnomonic plane, so the vertices
        alone bound them.
    pixel_scale_arcsec : float, optional
        Side of an output pixel; None takes the median of `input_scales_arcsec`.
    input_scales_arcsec : sequence of float
        Pixel scales of the inputs, used where no scale is given.
    center_deg : (ra, dec), optional
        Tangent point and centre of the frame; None takes the centre of the box around all footprints.
    size_pix : (nx, ny), optional
        Size; None takes the smallest symmetric box around all footprints with one pixel of border.
    max_pixels : int
        Largest number of pixels.

    Raises
    ------
    FrameTooLargeError
        The frame would exceed `max_pixels`; checked before any pixel is allocated.
    ValueError
        No footprint where one is needed, no scale, or footprints wider than a hemisphere.
    """
    scale_arcsec = _median_scale(input_scales_arcsec) if pixel_scale_arcsec is None else float(pixel_scale_arcsec)
    if not (math.isfinite(scale_arcsec) and scale_arcsec > 0):
        raise ValueError(f"pixel scale {scale_arcsec} arcsec is not usable: give a positive pixel_scale_arcsec")
    if center_deg is None or size_pix is None:
        vertices = _vertices(footprints)
        center_deg = center_deg if center_deg is not None else _center_of_box(vertices)
        if size_pix is None:
            size_pix = _size_around(vertices, center_deg, math.radians(scale_arcsec / 3600.0), max_pixels)
    return _centered_frame(center_deg, scale_arcsec, size_pix, max_pixels)


def frame_for_circle(
    ra_deg: float, dec_deg: float, radius_deg: float, pixel_scale_arcsec: float, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Frame:
    """Return the frame that is the box of a circle on the sky.

    In the gnomonic plane about its centre a circle of radius r is a circle of radius tan(r).

    Raises
    ------
    FrameTooLargeError
        The frame would exceed `max_pixels`.
    ValueError
        The radius is not in (0, 80] degrees or the scale is not positive.
    """
    if not 0.0 < radius_deg <= _MAX_HALF_ANGLE_DEG:
        raise ValueError(f"radius {radius_deg} deg is outside (0, {_MAX_HALF_ANGLE_DEG:g}]: give a smaller circle")
    if not (math.isfinite(pixel_scale_arcsec) and pixel_scale_arcsec > 0):
        raise ValueError(f"pixel scale {pixel_scale_arcsec} arcsec is not usable: give a positive value")
    half_pix = math.tan(math.radians(radius_deg)) / math.radians(pixel_scale_arcsec / 3600.0)
    n = max(1, math.ceil(2.0 * half_pix))
    return _centered_frame((ra_deg, dec_deg), pixel_scale_arcsec, (n, n), max_pixels)


def frame_from_wcs(wcs: WCS, shape: tuple[int, int], max_pixels: int = DEFAULT_MAX_PIXELS) -> Frame:
    """Return the frame identical to the grid of a reference image, whatever its projection, rotation or distortion.

    Raises
    ------
    FrameTooLargeError
        The grid exceeds `max_pixels`.
    ValueError
        The WCS is not two-dimensional and celestial, or holds lookup tables that header text cannot carry.
    """
    if wcs.naxis != 2 or not wcs.has_celestial:
        raise ValueError("the reference WCS is not a two-dimensional sky WCS: choose another reference image")
    ny, nx = int(shape[0]), int(shape[1])
    if nx * ny > max_pixels:
        raise FrameTooLargeError(nx, ny, max_pixels)
    text = wcs.to_header_string(relax=True)
    x = np.array([0.0, nx - 1.0, 0.0, nx - 1.0, (nx - 1) / 2])
    y = np.array([0.0, 0.0, ny - 1.0, ny - 1.0, (ny - 1) / 2])
    given, kept = wcs.all_pix2world(x, y, 0), _wcs_of_text(text).all_pix2world(x, y, 0)
    if not np.allclose(given, kept, rtol=0.0, atol=1e-9):
        raise ValueError("the reference WCS cannot be kept as header text (lookup tables?): give one without them")
    ra, dec = float(given[0][4]), float(given[1][4])
    rx, ry = wcs.all_pix2world(
        (nx - 1) / 2 + np.array([0.5, -0.5, 0, 0]), (ny - 1) / 2 + np.array([0, 0, 0.5, -0.5]), 0
    )
    xi, eta = _sky_to_plane(np.asarray(rx), np.asarray(ry), ra, dec)
    area = abs((xi[0] - xi[1]) * (eta[2] - eta[3]) - (xi[2] - xi[3]) * (eta[0] - eta[1]))
    scale_arcsec = math.degrees(math.sqrt(area)) * 3600.0
    return Frame(ra % 360.0, dec, (nx - 1) / 2, (ny - 1) / 2, scale_arcsec, (ny, nx), text)


def _wcs_of_text(text: str) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(text)


def _centered_frame(
    center_deg: tuple[float, float], scale_arcsec: float, size_pix: tuple[int, int], max_pixels: int
) -> Frame:
    nx, ny = int(size_pix[0]), int(size_pix[1])
    if nx * ny > max_pixels:
        raise FrameTooLargeError(nx, ny, max_pixels)
    ra, dec = float(center_deg[0]) % 360.0, float(center_deg[1])
    return Frame(ra, dec, (nx - 1) / 2.0, (ny - 1) / 2.0, float(scale_arcsec), (ny, nx))


def _median_scale(scales_arcsec: Sequence[float]) -> float:
    scales = np.asarray(scales_arcsec, float)
    if scales.size == 0 or not np.all(np.isfinite(scales) & (scales > 0)):
        raise ValueError("no usable pixel scale: give pixel_scale_arcsec, or positive input_scales_arcsec")
    return float(np.median(scales))


def _vertices(footprints: Sequence[ArrayLike]) -> FloatArray:
    polygons = [np.asarray(f, float) for f in footprints]
    if not polygons or any(p.ndim != 2 or p.shape[1] != 2 or len(p) == 0 for p in polygons):
        raise ValueError("a frame needs at least one footprint of shape (n, 2): give footprints, or center and size")
    vertices = np.concatenate(polygons)
    if not np.all(np.isfinite(vertices)) or np.any(np.abs(vertices[:, 1]) > 90):
        raise ValueError("a footprint holds positions that are not on the sky: leave that image out")
    return vertices


def _center_of_box(vertices: FloatArray) -> tuple[float, float]:
    """Centre of the gnomonic box: start at the mean unit vector, move the tangent point to the middle of the box."""
    mean = _unit_vectors(vertices[:, 0], vertices[:, 1]).mean(axis=1)
    if np.hypot(np.hypot(mean[0], mean[1]), mean[2]) < 1e-6:
        raise ValueError("the footprints have no common centre: give center_deg, or stack separate areas apart")
    ra, dec = math.degrees(math.atan2(mean[1], mean[0])), math.degrees(math.atan2(mean[2], math.hypot(*mean[:2])))
    for _ in range(12):
        xi, eta = _plane_checked(vertices, (ra, dec))
        middle = _plane_to_sky(np.array((xi.min() + xi.max()) / 2), np.array((eta.min() + eta.max()) / 2), ra, dec)
        ra, dec = float(middle[0]), float(middle[1])
    return ra % 360.0, dec


def _size_around(
    vertices: FloatArray, center_deg: tuple[float, float], scale_rad: float, max_pixels: int
) -> tuple[int, int]:
    xi, eta = _plane_checked(vertices, center_deg)
    half_x, half_y = np.abs(xi).max() / scale_rad, np.abs(eta).max() / scale_rad
    return math.ceil(2 * (half_x + _BORDER_PIX)), math.ceil(2 * (half_y + _BORDER_PIX))


def _plane_checked(vertices: FloatArray, center_deg: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    xi, eta = _sky_to_plane(vertices[:, 0], vertices[:, 1], center_deg[0], center_deg[1])
    radius = np.hypot(xi, eta)
    if not np.all(radius <= math.tan(math.radians(_MAX_HALF_ANGLE_DEG))):
        raise ValueError("the footprints are too far apart for one tangent plane: stack separate areas apart")
    return xi, eta


def _unit_vectors(ra_deg: FloatArray, dec_deg: FloatArray) -> FloatArray:
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def _sky_to_plane(ra_deg: FloatArray, dec_deg: FloatArray, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Gnomonic projection (Calabretta & Greisen 2002, section 5.1.3): xi to the east, eta to the north, radians."""
    d_ra, dec, dec0_rad = np.radians(ra_deg - ra0), np.radians(dec_deg), math.radians(dec0)
    sin0, cos0 = math.sin(dec0_rad), math.cos(dec0_rad)
    east = np.cos(dec) * np.sin(d_ra)
    north = np.sin(dec) * cos0 - np.cos(dec) * sin0 * np.cos(d_ra)
    depth = np.sin(dec) * sin0 + np.cos(dec) * cos0 * np.cos(d_ra)
    depth = np.where(depth > 1e-9, depth, np.nan)
    return east / depth, north / depth


def _plane_to_sky(xi: FloatArray, eta: FloatArray, ra0: float, dec0: float) -> tuple[FloatArray, FloatArray]:
    """Inverse of `_sky_to_plane`; right ascension in [0, 360)."""
    dec0_rad = math.radians(dec0)
    sin0, cos0 = math.sin(dec0_rad), math.cos(dec0_rad)
    outward, up = cos0 - eta * sin0, sin0 + eta * cos0
    ra = ra0 + np.degrees(np.arctan2(xi, outward))
    dec = np.degrees(np.arctan2(up, np.hypot(xi, outward)))
    return ra % 360.0, dec

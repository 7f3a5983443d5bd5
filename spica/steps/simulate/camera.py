"""The simulated camera `spicasim`: detectors in the focal plane, distortion, and the way from pixel to sky and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.model.errors import RecipeError
from spica.steps.simulate.plan import ExposurePlan

Floats: TypeAlias = NDArray[np.float64]

MAX_SIDE_PIX = 16384
MAX_DETECTORS = 256


@dataclass(frozen=True)
class CameraModel:
    """A mosaic of `n_x` by `n_y` equal detectors; detector k stands in column `k % n_x` and row `k // n_x`.

    A tuple left empty is drawn once from `geometry_seed`; the same seed is the same camera.

    Attributes
    ----------
    n_x, n_y : detectors along x and y.
    detector_pix : (ny, nx) pixels of each detector.
    pixel_scale_arcsec : arcsec per pixel on the optical axis.
    gap_arcsec : between neighbouring detectors.
    gain_e_per_adu : per detector. Images are flat-fielded: a star gives the same ADU on every detector and the gain
        only says how many electrons made them.
    read_noise_e, saturation_adu, bias_adu : electrons; ADU where pixels clip; ADU added to every pixel.
    radial_distortion_pix : outward shift at the corner of the mosaic, growing with the cube of the radius.
    tangential_distortion_pix : the two decentring terms (Brown 1966), size at the corner, growing with the square.
    detector_rotation_deg, detector_offset_pix : how each detector really lies against the nominal grid.
    n_bad_columns : dead columns per detector (they respond by 15 %); `bad_columns` states them explicitly.
    hot_pixels_per_mpix : fixed pixels of strong dark current.
    bleed : let charge above saturation run along the column.
    geometry_seed : seed of everything above that is drawn.
    """

    n_x: int = 2
    n_y: int = 2
    detector_pix: tuple[int, int] = (512, 512)
    pixel_scale_arcsec: float = 0.3
    gap_arcsec: float = 5.0
    gain_e_per_adu: tuple[float, ...] = ()
    read_noise_e: float = 4.0
    saturation_adu: float = 60000.0
    bias_adu: float = 0.0
    radial_distortion_pix: float = 3.0
    tangential_distortion_pix: tuple[float, float] = (0.5, -0.4)
    detector_rotation_deg: tuple[float, ...] = ()
    detector_offset_pix: tuple[tuple[float, float], ...] = ()
    n_bad_columns: int = 1
    bad_columns: tuple[tuple[int, ...], ...] = ()
    hot_pixels_per_mpix: float = 20.0
    bleed: bool = False
    geometry_seed: int = 20

    def __post_init__(self) -> None:
        """Check the sizes and draw what was left empty.

        Raises
        ------
        RecipeError : a size or a length of a tuple does not fit; the message names it.
        """
        ny, nx = self.detector_pix
        n = self.n_detectors
        if not (self.n_x >= 1 and self.n_y >= 1 and n <= MAX_DETECTORS):
            raise RecipeError(f"n_x x n_y = {self.n_x} x {self.n_y}; give 1 to {MAX_DETECTORS} detectors")
        if not (32 <= ny <= MAX_SIDE_PIX and 32 <= nx <= MAX_SIDE_PIX):
            raise RecipeError(f"detector_pix = {self.detector_pix}; give 32 to {MAX_SIDE_PIX} pixels a side")
        if not (self.pixel_scale_arcsec > 0 and 0 < self.saturation_adu <= 65535 and self.read_noise_e >= 0):
            raise RecipeError(
                "pixel_scale_arcsec > 0, saturation_adu in (0, 65535], read_noise_e >= 0; change the camera"
            )
        rng = np.random.default_rng([self.geometry_seed, 1])
        gains = tuple(float(g) for g in np.round(rng.uniform(1.45, 1.75, n), 3))
        turns = tuple(float(t) for t in np.round(rng.normal(0.0, 0.1, n), 4))
        shifts = tuple((float(a), float(b)) for a, b in np.round(rng.normal(0.0, 2.0, (n, 2)), 3))
        columns = tuple(tuple(int(c) for c in rng.integers(2, nx - 2, self.n_bad_columns)) for _ in range(n))
        for name, drawn in (
            ("gain_e_per_adu", gains),
            ("detector_rotation_deg", turns),
            ("detector_offset_pix", shifts),
            ("bad_columns", columns),
        ):
            given = getattr(self, name)
            object.__setattr__(self, name, given or drawn)
            if len(getattr(self, name)) != n:
                raise RecipeError(f"{name} has {len(given)} entries for {n} detectors; give one for each or none")
        if min(self.gain_e_per_adu) <= 0:
            raise RecipeError("gain_e_per_adu must be positive; change the camera")

    @property
    def n_detectors(self) -> int:
        """Return the number of detectors."""
        return self.n_x * self.n_y

    @property
    def corner_radius_arcsec(self) -> float:
        """Return the distance of the mosaic's corner from the optical axis."""
        ny, nx = self.detector_pix
        width = self.n_x * nx * self.pixel_scale_arcsec + (self.n_x - 1) * self.gap_arcsec
        height = self.n_y * ny * self.pixel_scale_arcsec + (self.n_y - 1) * self.gap_arcsec
        return 0.5 * math.hypot(width, height)

    def nominal_centre_arcsec(self, detector: int) -> tuple[float, float]:
        """Return the nominal focal-plane place (x, y) of a detector's centre, arcsec from the optical axis."""
        ny, nx = self.detector_pix
        column, row = detector % self.n_x, detector // self.n_x
        step_x = nx * self.pixel_scale_arcsec + self.gap_arcsec
        step_y = ny * self.pixel_scale_arcsec + self.gap_arcsec
        return (column - 0.5 * (self.n_x - 1)) * step_x, (row - 0.5 * (self.n_y - 1)) * step_y

    def hot_pixels(self, detector: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Return (y, x, electrons per second) of a detector's hot pixels; fixed by the geometry seed."""
        ny, nx = self.detector_pix
        rng = np.random.default_rng([self.geometry_seed, 2, detector])
        n = int(rng.poisson(self.hot_pixels_per_mpix * ny * nx / 1e6))
        return rng.integers(0, ny, n), rng.integers(0, nx, n), rng.lognormal(math.log(60.0), 0.7, n)


def pixel_to_focal(camera: CameraModel, detector: int, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Turn pixels into true focal-plane places before distortion.

    Parameters
    ----------
    camera, detector : the camera and the number of the detector.
    x, y : 0-based pixels, any shape.

    Returns
    -------
    (fx, fy) : arcsec along the camera's axes.
    """
    ny, nx = camera.detector_pix
    cx, cy = camera.nominal_centre_arcsec(detector)
    ox, oy = camera.detector_offset_pix[detector]
    turn = math.radians(camera.detector_rotation_deg[detector])
    dx = np.asarray(x, dtype=np.float64) - 0.5 * (nx - 1)
    dy = np.asarray(y, dtype=np.float64) - 0.5 * (ny - 1)
    scale = camera.pixel_scale_arcsec
    fx = cx + scale * (ox + math.cos(turn) * dx - math.sin(turn) * dy)
    fy = cy + scale * (oy + math.sin(turn) * dx + math.cos(turn) * dy)
    return fx, fy


def focal_to_pixel(camera: CameraModel, detector: int, fx: Floats, fy: Floats) -> tuple[Floats, Floats]:
    """Invert `pixel_to_focal`: focal-plane arcsec to 0-based pixels."""
    ny, nx = camera.detector_pix
    cx, cy = camera.nominal_centre_arcsec(detector)
    ox, oy = camera.detector_offset_pix[detector]
    turn = math.radians(camera.detector_rotation_deg[detector])
    dx = (fx - cx) / camera.pixel_scale_arcsec - ox
    dy = (fy - cy) / camera.pixel_scale_arcsec - oy
    x = math.cos(turn) * dx + math.sin(turn) * dy + 0.5 * (nx - 1)
    y = -math.sin(turn) * dx + math.cos(turn) * dy + 0.5 * (ny - 1)
    return x, y


def distort(camera: CameraModel, fx: Floats, fy: Floats) -> tuple[Floats, Floats]:
    """Turn focal-plane places into tangent-plane places, both in arcsec along the camera's axes.

    With u = f / R, R the mosaic's corner radius and s the pixel scale:
    du = s * (k * u * |u|^2 + p1 * (|u|^2 + 2 ux^2) + 2 p2 ux uy) in x, likewise with p1, p2 swapped in y.

    Source: D. C. Brown 1966, Photogrammetric Engineering 32, 444 (radial and decentring terms).
    """
    radius = camera.corner_radius_arcsec
    ux, uy = fx / radius, fy / radius
    r2 = ux * ux + uy * uy
    p1, p2 = camera.tangential_distortion_pix
    k = camera.radial_distortion_pix
    tx = fx + camera.pixel_scale_arcsec * (k * ux * r2 + p1 * (r2 + 2 * ux * ux) + 2 * p2 * ux * uy)
    ty = fy + camera.pixel_scale_arcsec * (k * uy * r2 + p2 * (r2 + 2 * uy * uy) + 2 * p1 * ux * uy)
    return tx, ty


def undistort(camera: CameraModel, tx: Floats, ty: Floats) -> tuple[Floats, Floats]:
    """Invert `distort` by fixed-point iteration, to 1e-9 arcsec inside the mosaic.

    Points far outside (beyond twice the corner radius) come back NaN: the polynomial means nothing there.
    """
    far = np.hypot(tx, ty) > 2.0 * camera.corner_radius_arcsec
    tx, ty = np.where(far, np.nan, tx), np.where(far, np.nan, ty)
    fx, fy = tx.copy(), ty.copy()
    for _ in range(60):
        gx, gy = distort(camera, fx, fy)
        ex, ey = tx - gx, ty - gy
        fx, fy = fx + ex, fy + ey
        worst = float(np.max(np.abs(np.nan_to_num(np.concatenate([ex.ravel(), ey.ravel()]))), initial=0.0))
        if worst < 1e-10:
            break
    return fx, fy


def camera_to_sky(
    plan: ExposurePlan, camera: CameraModel, detector: int, x: ArrayLike, y: ArrayLike
) -> tuple[Floats, Floats]:
    """Turn pixels of one detector into true sky positions.

    Parameters
    ----------
    plan, camera, detector : exposure, camera and number of the detector.
    x, y : 0-based pixels, any shape; the centre of the first pixel is (0, 0).

    Returns
    -------
    (ra_deg, dec_deg) : float64 of that shape, RA in [0, 360).

    Source: gnomonic projection, Calabretta & Greisen 2002, A&A 395, 1077; distortion as in `distort`.
    """
    tx, ty = distort(camera, *pixel_to_focal(camera, detector, x, y))
    turn = math.radians(plan.rotation_deg)
    xi = np.radians((-tx * math.cos(turn) + ty * math.sin(turn)) / 3600.0)
    eta = np.radians((tx * math.sin(turn) + ty * math.cos(turn)) / 3600.0)
    ra0, dec0 = (math.radians(value) for value in plan.true_pointing_deg)
    below = math.cos(dec0) - eta * math.sin(dec0)
    ra = np.degrees(ra0 + np.arctan2(xi, below)) % 360.0
    dec = np.degrees(np.arctan2(math.sin(dec0) + eta * math.cos(dec0), np.hypot(xi, below)))
    return ra, dec


def sky_to_camera(
    plan: ExposurePlan, camera: CameraModel, detector: int, ra_deg: ArrayLike, dec_deg: ArrayLike
) -> tuple[Floats, Floats]:
    """Invert `camera_to_sky`: sky positions to 0-based pixels; NaN for positions far from the field.

    Parameters
    ----------
    plan, camera, detector : exposure, camera and number of the detector.
    ra_deg, dec_deg : positions, any shape.

    Returns
    -------
    (x, y) : float64 pixels of that shape, right to 1e-6 pixel and better inside the mosaic.
    """
    ra0, dec0 = (math.radians(value) for value in plan.true_pointing_deg)
    ra = np.radians(np.asarray(ra_deg, dtype=np.float64)) - ra0
    dec = np.radians(np.asarray(dec_deg, dtype=np.float64))
    depth = math.sin(dec0) * np.sin(dec) + math.cos(dec0) * np.cos(dec) * np.cos(ra)
    depth = np.where(depth > 0.1, depth, np.nan)
    xi = np.degrees(np.cos(dec) * np.sin(ra) / depth) * 3600.0
    eta = np.degrees((math.cos(dec0) * np.sin(dec) - math.sin(dec0) * np.cos(dec) * np.cos(ra)) / depth) * 3600.0
    turn = math.radians(plan.rotation_deg)
    tx = -xi * math.cos(turn) + eta * math.sin(turn)
    ty = xi * math.sin(turn) + eta * math.cos(turn)
    return focal_to_pixel(camera, detector, *undistort(camera, tx, ty))

"""Light on one detector: stars, galaxies, sky, trails, cosmic rays, noise, and what the electronics make of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from spica.steps.simulate import kernels
from spica.steps.simulate.camera import CameraModel, focal_to_pixel, sky_to_camera
from spica.steps.simulate.plan import ExposurePlan, SatelliteTrail, find_filter
from spica.steps.simulate.profiles import (
    GaussianSum,
    de_vaucouleurs_gaussians,
    exponential_gaussians,
    moffat_alpha,
    moffat_gaussians,
)
from spica.steps.simulate.sky import SkyModel

Floats: TypeAlias = NDArray[np.float64]

FAINT_LOSS = 1e-3
BRIGHT_LOSS = 1e-5


@dataclass(frozen=True)
class DetectorSources:
    """Sources whose centres fall on a detector or within `margin` of it, arrays of one length.

    Attributes
    ----------
    ids : int64, of the sky model.
    x, y : float64, true 0-based pixels.
    flux_adu : float64, true total flux (analytical, out to infinity) in ADU of the whole exposure.
    is_star : bool.
    """

    ids: NDArray[np.int64]
    x: Floats
    y: Floats
    flux_adu: Floats
    is_star: NDArray[np.bool_]


@dataclass(frozen=True)
class DetectorImage:
    """What one detector recorded, and what is true of it.

    Attributes
    ----------
    adu : uint16 (ny, nx).
    cosmic_mask, trail_mask : bool (ny, nx), pixels a cosmic ray crossed or a trail brightened.
    sources : the true sources.
    n_cosmics : number of cosmic rays.
    n_saturated : pixels at the saturation level.
    """

    adu: NDArray[np.uint16]
    cosmic_mask: NDArray[np.bool_]
    trail_mask: NDArray[np.bool_]
    sources: DetectorSources
    n_cosmics: int
    n_saturated: int


def measure_sky_adu(plan: ExposurePlan, camera: CameraModel) -> float:
    """Return the true sky level at the optical axis, ADU per pixel of the whole exposure, bias not included."""
    model = find_filter(plan.filter_name)
    sky_mag = model.sky_mag_arcsec2 if plan.sky_mag_arcsec2 is None else plan.sky_mag_arcsec2
    return 10.0 ** (-0.4 * (sky_mag - model.zero_point_mag)) * camera.pixel_scale_arcsec**2 * plan.exptime_s


def expected_sources(
    plan: ExposurePlan, camera: CameraModel, sky: SkyModel, detector: int, margin_pix: float = 0.0
) -> DetectorSources:
    """Return the true pixels and fluxes of the sources on one detector.

    Parameters
    ----------
    plan, camera, sky : what is simulated.
    detector : number of the detector.
    margin_pix : also those this far beyond the edges.
    """
    found, x, y, flux = _select(plan, camera, sky, detector, margin_pix)
    return DetectorSources(found.ids, x, y, flux, found.is_star)


def render_scene(plan: ExposurePlan, camera: CameraModel, sky: SkyModel, detector: int) -> NDArray[np.float32]:
    """Return the mean light of stars and galaxies on one detector, free of noise and without sky.

    Returns
    -------
    float32 (ny, nx), ADU of the whole exposure. The total of a star is the analytical flux of its Moffat law out to
    infinity; what is not drawn beyond its stamp is at most 0.1 % for faint stars and 0.001 % for bright ones.
    """
    ny, nx = camera.detector_pix
    scale = camera.pixel_scale_arcsec
    pad = math.ceil(plan.defocus_arcsec / scale) + 1 if plan.defocus_arcsec > 0 else 0
    alpha = moffat_alpha(plan.seeing_arcsec / scale, plan.moffat_beta)
    margin = pad + min(40.0 * alpha + 10.0 / scale, 400.0)
    found, x, y, flux = _select(plan, camera, sky, detector, margin)
    image = np.zeros((ny + 2 * pad, nx + 2 * pad), dtype=np.float32)
    star = found.is_star
    noise = math.sqrt(measure_sky_adu(plan, camera) / camera.gain_e_per_adu[detector] + 1.0)
    _add_stars(image, x[star] + pad, y[star] + pad, flux[star], plan, alpha, noise)
    _add_galaxies(image, x + pad, y + pad, flux, found, plan, camera, detector, alpha)
    if pad:
        ring = make_ring(plan.defocus_arcsec / scale)
        image = oaconvolve(image, ring, mode="same")[pad : pad + ny, pad : pad + nx].astype(np.float32)
    return image


def make_ring(outer_pix: float) -> NDArray[np.float32]:
    """Return the out-of-focus image of a point: a ring from 0.4 to 1 times `outer_pix`, float32, odd sides, sum 1.

    Pixels on the edges are shared out by 8 x 8 sub-pixels; the ring is symmetric, so centroids stay where they are.
    """
    half = math.ceil(outer_pix + 0.5)
    fine = (np.arange((2 * half + 1) * 8) + 0.5) / 8.0 - half - 0.5
    r2 = fine[:, None] ** 2 + fine**2
    inside = (r2 <= outer_pix**2) & (r2 >= (0.4 * outer_pix) ** 2)
    ring = inside.reshape(2 * half + 1, 8, 2 * half + 1, 8).sum(axis=(1, 3)).astype(np.float64)
    return (ring / ring.sum()).astype(np.float32)


def render_detector(
    plan: ExposurePlan, camera: CameraModel, sky: SkyModel, detector: int, rng: np.random.Generator
) -> DetectorImage:
    """Expose one detector.

    Parameters
    ----------
    plan, camera, sky : what is simulated.
    detector : number of the detector.
    rng : source of randomness; the same state gives the same bits.

    Returns
    -------
    The recorded image with its truth. Variance of an empty pixel: (sky e- + read noise^2) / gain^2 + 1/12 ADU^2.
    """
    ny, nx = camera.detector_pix
    gain = camera.gain_e_per_adu[detector]
    image = render_scene(plan, camera, sky, detector)
    image += _sky_plane(plan, camera, detector)
    trail_mask = np.zeros((ny, nx), dtype=np.bool_)
    for trail in plan.trails:
        trail_mask |= _draw_trail(image, trail, plan, camera, detector)
    image *= gain
    hot_y, hot_x, hot_rate = camera.hot_pixels(detector)
    np.add.at(image, (hot_y, hot_x), (hot_rate * plan.exptime_s).astype(np.float32))
    image[:, list(camera.bad_columns[detector])] *= 0.15
    _expose(image, rng)
    cosmic_mask, n_cosmics = _strike_cosmics(image, plan, rng)
    if camera.bleed:
        kernels.bleed_columns(image, camera.saturation_adu * gain)
    adu = np.empty((ny, nx), dtype=np.uint16)
    normal = rng.standard_normal((ny, nx), dtype=np.float32)
    top = math.floor(camera.saturation_adu)
    kernels.digitise(image, normal, camera.read_noise_e, gain, camera.bias_adu, float(top), adu)
    sources = expected_sources(plan, camera, sky, detector)
    return DetectorImage(adu, cosmic_mask, trail_mask, sources, n_cosmics, int(np.count_nonzero(adu >= top)))


def _select(
    plan: ExposurePlan, camera: CameraModel, sky: SkyModel, detector: int, margin: float
) -> tuple[SkyModel, Floats, Floats, Floats]:
    """Return the sources near a detector with their pixels and total fluxes in ADU."""
    ny, nx = camera.detector_pix
    reach = 1.3 * camera.corner_radius_arcsec + margin * camera.pixel_scale_arcsec + 60.0
    near = sky.within(*plan.true_pointing_deg, reach / 3600.0)
    x, y = sky_to_camera(plan, camera, detector, *near.positions_at(plan.epoch_yr))
    low = -0.5 - margin
    on = (x >= low) & (x <= nx - 1 - low) & (y >= low) & (y <= ny - 1 - low)
    found = near.take(on)
    flux = plan.exptime_s * 10.0 ** (-0.4 * (found.mags[plan.filter_name] - plan.zero_point_mag))
    return found, x[on], y[on], flux


def _ellipse(variance_major: Floats, axis_ratio: Floats, angle: Floats) -> tuple[Floats, Floats, Floats]:
    """Return covariances (xx, xy, yy) of ellipses from the major variance, b/a and angle (rad from +x)."""
    minor = variance_major * axis_ratio**2
    cos, sin = np.cos(angle), np.sin(angle)
    return (
        variance_major * cos**2 + minor * sin**2,
        (variance_major - minor) * cos * sin,
        variance_major * sin**2 + minor * cos**2,
    )


def _add_stars(
    image: NDArray[np.float32], x: Floats, y: Floats, flux: Floats, plan: ExposurePlan, alpha: float, noise: float
) -> None:
    """Add Moffat stars; a stamp ends where its light is below 2 % of the sky noise, within the two limits of loss."""
    beta, ratio = plan.moffat_beta, 1.0 - plan.ellipticity
    least = alpha * math.sqrt(FAINT_LOSS ** (1.0 / (1.0 - beta)) - 1.0)
    most = alpha * math.sqrt(BRIGHT_LOSS ** (1.0 / (1.0 - beta)) - 1.0)
    peak = flux * (beta - 1.0) / (math.pi * alpha**2)
    radius = np.clip(alpha * (peak / (0.02 * noise)) ** (0.5 / beta), least, most) / math.sqrt(ratio)
    one = np.array([alpha**2 / ratio])
    vxx, vxy, vyy = _ellipse(one, np.array([ratio]), np.array([math.radians(plan.position_angle_deg)]))
    det = float(vxx[0] * vyy[0] - vxy[0] ** 2)
    shape = (float(vyy[0]) / det, -2.0 * float(vxy[0]) / det, float(vxx[0]) / det)
    order = 3 if alpha * math.sqrt(ratio) > 2.0 else (4 if alpha * math.sqrt(ratio) > 1.2 else 6)
    kernels.add_moffats(image, x, y, flux, radius, alpha, beta, shape, order, kernels.NODES, kernels.WEIGHTS)


def _add_galaxies(
    image: NDArray[np.float32],
    x: Floats,
    y: Floats,
    flux: Floats,
    found: SkyModel,
    plan: ExposurePlan,
    camera: CameraModel,
    detector: int,
    alpha: float,
) -> None:
    """Add galaxies: their Gaussians, each widened by each Gaussian of the seeing and by the pixel."""
    ratio = 1.0 - plan.ellipticity
    seeing = moffat_gaussians(plan.moffat_beta)
    angle = np.radians(np.full(len(seeing.sigma), plan.position_angle_deg))
    psf = _ellipse((seeing.sigma * alpha) ** 2 / ratio, np.full(len(seeing.sigma), ratio), angle)
    turn = plan.rotation_deg + camera.detector_rotation_deg[detector]
    for is_bulge, profile in ((False, exponential_gaussians()), (True, de_vaucouleurs_gaussians())):
        which = ~found.is_star & (found.is_de_vaucouleurs == is_bulge)
        if not which.any():
            continue
        size = found.half_light_arcsec[which] / camera.pixel_scale_arcsec
        towards = np.radians(90.0 + found.position_angle_deg[which] - turn)
        light = _cross(profile, size, found.axis_ratio[which], towards, seeing, psf)
        share, vxx, vxy, vyy = light
        n = share.shape[1]
        kernels.add_gaussians(
            image,
            np.repeat(x[which], n),
            np.repeat(y[which], n),
            np.repeat(flux[which], n) * share.ravel(),
            vxx.ravel(),
            vxy.ravel(),
            vyy.ravel(),
        )


def _cross(
    profile: GaussianSum,
    size: Floats,
    axis_ratio: Floats,
    angle: Floats,
    seeing: GaussianSum,
    psf: tuple[Floats, Floats, Floats],
) -> tuple[Floats, Floats, Floats, Floats]:
    """Convolve every Gaussian of a galaxy with every one of the seeing: shares and covariances, each (n, k * m)."""
    n = len(size)
    variance = (size[:, None] * profile.sigma) ** 2
    own = _ellipse(variance, axis_ratio[:, None], angle[:, None])
    parts = [(mine[:, :, None] + theirs[None, None, :]).reshape(n, -1) for mine, theirs in zip(own, psf, strict=True)]
    share = np.broadcast_to((profile.fraction[:, None] * seeing.fraction).ravel(), parts[0].shape)
    return share, parts[0] + 1.0 / 12.0, parts[1], parts[2] + 1.0 / 12.0


def _sky_plane(plan: ExposurePlan, camera: CameraModel, detector: int) -> NDArray[np.float32]:
    """Return the sky in ADU with its gradient over the mosaic, float32 (ny, nx)."""
    ny, nx = camera.detector_pix
    cx, cy = camera.nominal_centre_arcsec(detector)
    radius = camera.corner_radius_arcsec
    gx, gy = plan.sky_gradient
    fx = (cx + (np.arange(nx) - 0.5 * (nx - 1)) * camera.pixel_scale_arcsec) / radius
    fy = (cy + (np.arange(ny) - 0.5 * (ny - 1)) * camera.pixel_scale_arcsec) / radius
    level = measure_sky_adu(plan, camera)
    return (level * (1.0 + gy * fy[:, None] + gx * fx)).astype(np.float32)


def _draw_trail(
    image: NDArray[np.float32], trail: SatelliteTrail, plan: ExposurePlan, camera: CameraModel, detector: int
) -> NDArray[np.bool_]:
    """Add a trail's light to the image (ADU) and return its mask."""
    angle = math.radians(trail.angle_deg)
    foot = np.array([-math.sin(angle), math.cos(angle)]) * trail.offset_arcsec
    x, y = focal_to_pixel(camera, detector, foot[:1], foot[1:])
    turned = angle - math.radians(camera.detector_rotation_deg[detector])
    scale = camera.pixel_scale_arcsec
    alpha = moffat_alpha(plan.seeing_arcsec / scale, plan.moffat_beta) + plan.defocus_arcsec / scale
    bright = trail.adu_per_arcsec * scale
    mask: NDArray[np.bool_] = kernels.add_trail(
        image, float(x[0]), float(y[0]), math.cos(turned), math.sin(turned), bright, alpha, plan.moffat_beta
    )
    return mask


def _expose(electrons: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Turn mean electrons into a Poisson draw, in place: exact below 50 electrons, else as in `draw_photons`."""
    low = electrons <= 50.0
    few = rng.poisson(np.maximum(electrons[low], 0.0)) if low.any() else None
    kernels.draw_photons(electrons, rng.standard_normal(electrons.shape, dtype=np.float32), 0.0)
    if few is not None:
        electrons[low] = few


def _strike_cosmics(
    electrons: NDArray[np.float32], plan: ExposurePlan, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], int]:
    """Add cosmic rays to the electrons in place; return the mask of the pixels they crossed and their number."""
    ny, nx = electrons.shape
    mask = np.zeros((ny, nx), dtype=np.bool_)
    n = int(rng.poisson(plan.cosmic_rate * plan.exptime_s * ny * nx / 1e6))
    if n:
        x, y = rng.uniform(-0.5, nx - 0.5, n), rng.uniform(-0.5, ny - 0.5, n)
        angle, length = rng.uniform(0.0, 2.0 * math.pi, n), 1.0 + rng.exponential(6.0, n)
        kernels.add_tracks(electrons, mask, x, y, angle, length, rng.lognormal(math.log(1500.0), 0.6, n))
    return mask, n

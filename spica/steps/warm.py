"""Compiles the numeric kernels by running them on a small image; the caches serve every later process."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS

from spica.algorithms.detrend import (
    combine_bias,
    combine_flat,
    detrend_image,
    find_bad_pixels,
    measure_fringe_scale,
    measure_overscan,
    subtract_overscan,
)
from spica.algorithms.frame import choose_frame
from spica.algorithms.match import match_pattern
from spica.algorithms.quality import STACK_PARAMETERS, assess_detector
from spica.algorithms.resample import pixel_map_from_wcs
from spica.algorithms.stack import Method, StackInput, combine_frames, sum_contributions
from spica.files.wcs import footprint_polygon
from spica.steps.simulate import CameraModel, ExposurePlan, SatelliteTrail, draw_sky, render_detector

SIDE_PIX, N_STARS = 192, 60


def warm_kernels() -> None:
    """Run detrending, quality, matching, resampling, combination and simulation once on a made-up field of stars."""
    rng = np.random.default_rng(1)
    data = _field(rng)
    _detrend(data, rng)
    _match(rng)
    _simulate(rng)
    holed = data.copy()
    holed[SIDE_PIX // 4, SIDE_PIX // 3] = np.nan
    for weight, parameters in ((None, None), (np.ones_like(data), STACK_PARAMETERS)):
        assess_detector(
            holed,
            exptime_s=1.0,
            gain_e_per_adu=1.5,
            read_noise_e=4.0,
            saturation_adu=6e4,
            pixel_scale_arcsec=0.3,
            weight=weight,
            parameters=parameters,
            rng=rng,
        )
    wcs = _wcs()
    frame = choose_frame([footprint_polygon(wcs, data.shape)], 0.3)
    methods: tuple[Method, ...] = ("clipped", "weighted", "median")
    for method in methods:
        given = [StackInput(data, np.ones_like(data), pixel_map_from_wcs(wcs, data.shape, frame)) for _ in range(3)]
        sum_contributions(combine_frames(given, frame, method))


def _detrend(data: np.ndarray, rng: np.random.Generator) -> None:
    shape = data.shape
    raw = [(1000.0 + rng.normal(0.0, 3.0, shape)).astype(np.float32) for _ in range(3)]
    bias = combine_bias(raw).data
    flat = combine_flat([r + np.float32(9000.0) for r in raw], bias).data
    subtract_overscan(data.copy(), measure_overscan(raw[0][:, :16]))
    bad = find_bad_pixels(flat, bias=bias)
    for pixels in (data, data.astype(">i2")):
        detrend_image(pixels, bias=bias, dark=bias * np.float32(0.0), exptime_s=1.0, flat=flat, bad_pixels=bad)
    pattern = np.sin(np.arange(shape[1], dtype=np.float32) / 9.0)[None, :].repeat(shape[0], 0)
    measure_fringe_scale(data, pattern)


def _match(rng: np.random.Generator) -> None:
    (x, y), mag = rng.uniform(0.0, SIDE_PIX, (2, N_STARS)), rng.uniform(12.0, 18.0, N_STARS)
    match_pattern(
        x, y, 10.0 ** (-0.4 * mag), -0.3 * x, 0.3 * y, mag,
        scale_arcsec_per_pix=0.3, position_angle_deg=0.0, search_radius_arcsec=60.0,
    )  # fmt: skip


def _simulate(rng: np.random.Generator) -> None:
    """Render a detector with all that one may show: sources, a trail, cosmic rays, a star that bleeds."""
    camera = CameraModel(n_x=1, n_y=1, detector_pix=(SIDE_PIX, SIDE_PIX), bleed=True)
    trail = SatelliteTrail(angle_deg=30.0, offset_arcsec=0.0, adu_per_arcsec=2e3)
    plan = ExposurePlan("warm", "W", "r", 10.0, 20.0, cosmic_rate=5.0, trails=(trail,))
    render_detector(plan, camera, draw_sky(10.0, 20.0, 30.0, ("r",), rng), 0, rng)


def _field(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:SIDE_PIX, 0:SIDE_PIX]
    data = rng.normal(300.0, 8.0, (SIDE_PIX, SIDE_PIX))
    for x0, y0, flux in zip(*rng.uniform(12, SIDE_PIX - 12, (2, N_STARS)), rng.uniform(2e3, 6e4, N_STARS), strict=True):
        data += flux / 25.0 * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 4.0)
    data[::40, ::37] += 5e3
    data[np.abs(0.6 * (x - SIDE_PIX / 2) - 0.8 * (y - SIDE_PIX / 2)) < 1.5] += 200.0  # the trail of a satellite
    return data.astype(np.float32)


def _wcs() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 20.0]
    wcs.wcs.crpix = [SIDE_PIX / 2, SIDE_PIX / 2]
    wcs.wcs.cd = np.array([[-0.3, 0.01], [0.01, 0.3]]) / 3600.0
    return wcs

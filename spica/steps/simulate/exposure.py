"""Writes one simulated exposure as a multi-extension FITS file, and breaks it where the plan says so."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits

from spica.files.checksum import atomic_path, sha256_file
from spica.steps.simulate.camera import CameraModel
from spica.steps.simulate.plan import ExposurePlan
from spica.steps.simulate.render import DetectorImage, measure_sky_adu, render_detector
from spica.steps.simulate.sky import SkyModel

SITE_LONGITUDE_DEG = -155.47
SITE_LATITUDE_DEG = 19.82


@dataclass(frozen=True)
class ExposureTruth:
    """What is true of one written exposure.

    Attributes
    ----------
    plan : what was asked.
    file_name : name of the file in the survey's folder.
    zero_point_mag : AB magnitude of 1 ADU/s, airmass and transparency included.
    sky_adu : sky at the optical axis, ADU per pixel.
    true_ra_deg, true_dec_deg : optical axis.
    n_stars, n_galaxies : sources whose centres fall on a detector.
    n_cosmics, n_trails, n_saturated : cosmic rays, trails, saturated pixels over all detectors.
    sha256 : of the file as it lies on disk.
    """

    plan: ExposurePlan
    file_name: str
    zero_point_mag: float
    sky_adu: float
    true_ra_deg: float
    true_dec_deg: float
    n_stars: int
    n_galaxies: int
    n_cosmics: int
    n_trails: int
    n_saturated: int
    sha256: str


def simulate_exposure(
    path: str | os.PathLike[str],
    plan: ExposurePlan,
    camera: CameraModel,
    sky: SkyModel,
    rng: np.random.Generator | np.random.SeedSequence | int,
    *,
    threads: int = 2,
) -> ExposureTruth:
    """Simulate one exposure and write it.

    Parameters
    ----------
    path : file to write (`.fits`); replaced in one step when whole.
    plan, camera, sky : what is simulated.
    rng : source of randomness; each detector draws from its own child, so that the number of threads changes nothing.
    threads : detectors rendered at the same time.

    Returns
    -------
    What is true of the exposure. The file is uint16 (BZERO 32768) with checksums; its header holds the pointing with
    its error, and per detector the nominal TAN WCS without distortion, rotation and offset of the detector.
    """
    if not isinstance(rng, np.random.Generator):
        rng = np.random.default_rng(rng)
    children = rng.spawn(camera.n_detectors)
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        images = list(pool.map(lambda k: render_detector(plan, camera, sky, k, children[k]), range(camera.n_detectors)))
    path = Path(path)
    _write(path, plan, camera, images)
    return _tell(path, plan, camera, images)


def nominal_wcs_cards(plan: ExposurePlan, camera: CameraModel, detector: int) -> list[tuple[str, object, str]]:
    """Return the header's own WCS of a detector: plain TAN about the header pointing, FITS pixels from 1."""
    ny, nx = camera.detector_pix
    cx, cy = camera.nominal_centre_arcsec(detector)
    scale = camera.pixel_scale_arcsec
    step, turn = scale / 3600.0, math.radians(plan.rotation_deg)
    ra, dec = plan.header_pointing_deg
    return [
        ("RADESYS", "ICRS", "reference system"),
        ("CTYPE1", "RA---TAN", "gnomonic, no distortion"),
        ("CTYPE2", "DEC--TAN", "gnomonic, no distortion"),
        ("CUNIT1", "deg", ""),
        ("CUNIT2", "deg", ""),
        ("CRVAL1", ra, "[deg] pointing as the telescope tells it"),
        ("CRVAL2", dec, "[deg] pointing as the telescope tells it"),
        ("CRPIX1", 0.5 * (nx + 1) - cx / scale, "nominal place of the axis"),
        ("CRPIX2", 0.5 * (ny + 1) - cy / scale, "nominal place of the axis"),
        ("CD1_1", -step * math.cos(turn), "[deg/pix]"),
        ("CD1_2", step * math.sin(turn), "[deg/pix]"),
        ("CD2_1", step * math.sin(turn), "[deg/pix]"),
        ("CD2_2", step * math.cos(turn), "[deg/pix]"),
    ]


def _primary_header(plan: ExposurePlan, camera: CameraModel) -> fits.Header:
    """Return the primary header."""
    start = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=plan.mjd)
    ra, dec = plan.header_pointing_deg
    header = fits.Header()
    for key, value, comment in (
        ("OBJECT", plan.object_name, "field"),
        ("OBSTYPE", "OBJECT", "kind of exposure"),
        ("FILTER", plan.filter_name, "filter"),
        ("EXPTIME", plan.exptime_s, "[s] shutter open"),
        ("MJD-OBS", plan.mjd, "[d] start of exposure, UTC"),
        ("DATE-OBS", start.strftime("%Y-%m-%dT%H:%M:%S.") + f"{start.microsecond // 1000:03d}", "start, UTC"),
        ("TIMESYS", "UTC", "time scale"),
        ("AIRMASS", plan.airmass, "at start"),
        ("RUNID", plan.run_id, "observing run"),
        ("RA", ra, "[deg] telescope pointing"),
        ("DEC", dec, "[deg] telescope pointing"),
        ("RADESYS", "ICRS", "reference system"),
        ("ROTANGLE", plan.rotation_deg, "[deg] position angle of +y"),
        ("INSTRUME", "SPICASIM", "camera"),
        ("DETECTOR", "SPICASIM", "mosaic"),
        ("TELESCOP", "SPICA simulated 3.6m", "telescope"),
        ("OBSERVAT", "SIMULATED", "observatory"),
        ("LONGITUD", SITE_LONGITUDE_DEG, "[deg] site, east positive"),
        ("LATITUDE", SITE_LATITUDE_DEG, "[deg] site"),
        ("PIXSCALE", camera.pixel_scale_arcsec, "[arcsec/pix] nominal"),
        ("NDETECT", camera.n_detectors, "detectors in this file"),
        ("ORIGIN", "spica simulate", "simulated, not observed"),
    ):
        if key != plan.missing_keyword:
            header[key] = (value, comment)
    return header


def _write(path: Path, plan: ExposurePlan, camera: CameraModel, images: Sequence[DetectorImage]) -> None:
    """Write the file beside its place, cut it where the plan says so, and rename it."""
    hdus = [fits.PrimaryHDU(header=_primary_header(plan, camera))]
    for k, image in enumerate(images):
        header = fits.Header()
        header["EXTNAME"] = (f"CCD{k:02d}", "detector")
        header["GAIN"] = (camera.gain_e_per_adu[k], "[e/ADU]")
        header["RDNOISE"] = (camera.read_noise_e, "[e] read noise")
        header["SATURATE"] = (camera.saturation_adu, "[ADU] pixels clip here")
        header["BUNIT"] = ("adu", "")
        for key, value, comment in nominal_wcs_cards(plan, camera, k):
            header[key] = (value, comment)
        hdus.append(fits.ImageHDU(data=image.adu, header=header))
    whole = fits.HDUList(hdus)
    whole.update_extend()
    for hdu in whole:
        hdu.add_checksum(when="of the simulation")
    with atomic_path(path) as temporary:
        whole.writeto(temporary, overwrite=True)
        if plan.truncated_fraction is not None:
            os.truncate(temporary, int(temporary.stat().st_size * plan.truncated_fraction))


def _tell(path: Path, plan: ExposurePlan, camera: CameraModel, images: Sequence[DetectorImage]) -> ExposureTruth:
    """Gather the truth of a written exposure."""
    ra, dec = plan.true_pointing_deg
    return ExposureTruth(
        plan=plan,
        file_name=path.name,
        zero_point_mag=plan.zero_point_mag,
        sky_adu=measure_sky_adu(plan, camera),
        true_ra_deg=ra,
        true_dec_deg=dec,
        n_stars=sum(int(image.sources.is_star.sum()) for image in images),
        n_galaxies=sum(int((~image.sources.is_star).sum()) for image in images),
        n_cosmics=sum(image.n_cosmics for image in images),
        n_trails=len(plan.trails),
        n_saturated=sum(image.n_saturated for image in images),
        sha256=sha256_file(path),
    )

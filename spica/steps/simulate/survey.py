"""Plans and writes a whole simulated survey: fields, filters, dithers, weather and mishaps, with its truth."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from spica.model.errors import RecipeError
from spica.reference.catalogue import write_reference
from spica.steps.simulate.camera import CameraModel
from spica.steps.simulate.exposure import simulate_exposure
from spica.steps.simulate.plan import ExposurePlan, SatelliteTrail, find_filter
from spica.steps.simulate.sky import SkyModel, draw_sky, join_skies
from spica.steps.simulate.truth import REFERENCE_FILE, SurveyTruth, make_reference, write_truth

Progress: TypeAlias = Callable[[int, int, str], None]

# Name, RA and Dec in degrees; the fifth straddles RA 0, the sixth lies near the pole.
FIELDS: tuple[tuple[str, float, float], ...] = (
    ("D1", 36.50, -4.50),
    ("D4", 333.88, -17.73),
    ("D2", 150.12, 2.21),
    ("D3", 214.99, 52.68),
    ("R0", 359.995, 10.20),
    ("P1", 30.0, 89.0),
)


@dataclass(frozen=True)
class SurveyParameters:
    """What a simulated survey shall be.

    Attributes
    ----------
    n_objects, filters, n_exposures : fields; filters; exposures of each field in each filter.
    n_x, n_y, detector_pix, pixel_scale_arcsec, gap_arcsec : the camera.
    stars_per_arcmin2, galaxies_per_arcmin2 : density of the sky.
    exptime_s, dither_arcsec : None dithers by the gap plus 6 % of a detector.
    pointing_error_arcsec : header pointings are off by up to this much.
    seeing_arcsec, airmass, transparency : (least, most).
    proper_motion_masyr : rms per axis of the stars' motions.
    n_cloudy, n_defocused, n_trailed : exposures of the above spoilt by clouds (transparency 0.35), focus, a trail.
    n_truncated, n_missing_keyword : further exposures whose file is cut, or whose header lacks EXPTIME.
    n_nights, first_mjd, run_id : nights the exposures are shared over; start of the first; RUNID.
    cosmic_rate : cosmic rays per second and 10^6 pixels.
    bleed : let saturated charge run along columns.
    reference_epoch_yr, reference_faint_mag : of the reference catalogue.
    seed : everything random follows from it.
    """

    n_objects: int = 2
    filters: tuple[str, ...] = ("g", "r")
    n_exposures: int = 6
    n_x: int = 2
    n_y: int = 2
    detector_pix: tuple[int, int] = (512, 512)
    pixel_scale_arcsec: float = 0.3
    gap_arcsec: float = 5.0
    stars_per_arcmin2: float = 15.0
    galaxies_per_arcmin2: float = 8.0
    exptime_s: float = 90.0
    dither_arcsec: float | None = None
    pointing_error_arcsec: float = 20.0
    seeing_arcsec: tuple[float, float] = (0.65, 1.05)
    airmass: tuple[float, float] = (1.0, 1.6)
    transparency: tuple[float, float] = (0.93, 1.0)
    proper_motion_masyr: float = 3.0
    n_cloudy: int = 1
    n_defocused: int = 1
    n_trailed: int = 1
    n_truncated: int = 1
    n_missing_keyword: int = 1
    n_nights: int = 2
    first_mjd: float = 61290.25
    run_id: str = "26BS01"
    cosmic_rate: float = 0.1
    bleed: bool = False
    reference_epoch_yr: float = 2016.0
    reference_faint_mag: float = 21.0
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises
        ------
        RecipeError : the message names the parameter.
        """
        for name, least, most in (
            ("n_objects", 1, 500),
            ("n_exposures", 1, 1000),
            ("n_nights", 1, 365),
            ("pointing_error_arcsec", 0, 180),
            ("seed", 0, 2**63),
        ):
            if not least <= getattr(self, name) <= most:
                raise RecipeError(f"{name} = {getattr(self, name)}; give {least} to {most}")
        if not self.filters or len(set(self.filters)) != len(self.filters):
            raise RecipeError(f"filters = {self.filters}; name each filter once, at least one")
        for name in self.filters:
            find_filter(name)
        for name in ("n_cloudy", "n_defocused", "n_trailed", "n_truncated", "n_missing_keyword"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} = {getattr(self, name)}; give 0 or more")
        spoilt = self.n_cloudy + self.n_defocused + self.n_trailed
        if spoilt > self.n_objects * len(self.filters) * self.n_exposures:
            raise RecipeError(f"{spoilt} spoilt exposures are more than all; lower n_cloudy, n_defocused or n_trailed")

    def camera(self) -> CameraModel:
        """Return the camera of this survey."""
        return CameraModel(
            n_x=self.n_x,
            n_y=self.n_y,
            detector_pix=self.detector_pix,
            pixel_scale_arcsec=self.pixel_scale_arcsec,
            gap_arcsec=self.gap_arcsec,
            bleed=self.bleed,
            geometry_seed=self.seed,
        )


def simulate_survey(
    folder: str | os.PathLike[str],
    parameters: SurveyParameters,
    *,
    truth_folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    threads: int = 2,
) -> SurveyTruth:
    """Simulate a survey: exposures into a folder, their truth and a reference catalogue beside them.

    Parameters
    ----------
    folder : gets `<name>.fits` of every exposure.
    parameters : what to simulate; equal parameters give equal bytes.
    truth_folder : gets the truth and `reference.fits`; None takes `<folder>/truth`.
    progress : called as progress(done, total, name) after each exposure.
    threads : detectors rendered at the same time.
    """
    folder = Path(folder)
    truth_place = folder / "truth" if truth_folder is None else Path(truth_folder)
    folder.mkdir(parents=True, exist_ok=True)
    truth_place.mkdir(parents=True, exist_ok=True)
    camera = parameters.camera()
    sky_seed, plan_seed, reference_seed, pixel_seed = np.random.SeedSequence(parameters.seed).spawn(4)
    sky = draw_survey_sky(parameters, camera, np.random.default_rng(sky_seed))
    plans = plan_survey(parameters, np.random.default_rng(plan_seed))
    reference = make_reference(
        sky,
        np.random.default_rng(reference_seed),
        epoch_yr=parameters.reference_epoch_yr,
        faint_mag=parameters.reference_faint_mag,
    )
    reference_path = write_reference(truth_place / REFERENCE_FILE, reference)
    exposures = []
    for done, (plan, seed) in enumerate(zip(plans, pixel_seed.spawn(len(plans)), strict=True), start=1):
        exposures.append(simulate_exposure(folder / f"{plan.name}.fits", plan, camera, sky, seed, threads=threads))
        if progress is not None:
            progress(done, len(plans), plan.name)
    truth = SurveyTruth(truth_place, parameters.seed, camera, sky, tuple(exposures), reference_path)
    write_truth(truth)
    return truth


def draw_survey_sky(parameters: SurveyParameters, camera: CameraModel, rng: np.random.Generator) -> SkyModel:
    """Draw the sky of every field, wide enough for dithers and pointing errors."""
    reach = camera.corner_radius_arcsec + _dither(parameters) + parameters.pointing_error_arcsec + 20.0
    epoch = 2000.0 + (parameters.first_mjd - 51544.5) / 365.25
    parts: list[SkyModel] = []
    first_id = 1
    for _, ra, dec in survey_fields(parameters.n_objects):
        part = draw_sky(
            ra,
            dec,
            reach,
            parameters.filters,
            rng,
            stars_per_arcmin2=parameters.stars_per_arcmin2,
            galaxies_per_arcmin2=parameters.galaxies_per_arcmin2,
            proper_motion_masyr=parameters.proper_motion_masyr,
            epoch_yr=epoch,
            first_id=first_id,
        )
        first_id += len(part)
        parts.append(part)
    return join_skies(parts)


def survey_fields(n: int) -> list[tuple[str, float, float]]:
    """Return (name, ra_deg, dec_deg) of the first `n` fields; after `FIELDS` they follow a golden spiral."""
    more = [
        (f"F{k:03d}", (k * 137.50776) % 360.0, math.degrees(math.asin(-0.95 + 1.9 * (k % 97) / 97.0)))
        for k in range(1, n - len(FIELDS) + 1)
    ]
    return [*FIELDS[:n], *more]


def plan_survey(parameters: SurveyParameters, rng: np.random.Generator) -> list[ExposurePlan]:
    """Plan every exposure in order of time; filters take turns so that every night has them all."""
    fields = survey_fields(parameters.n_objects)
    slots = [
        (name, ra, dec, band, n)
        for n in range(parameters.n_exposures)
        for name, ra, dec in fields
        for band in parameters.filters
    ]
    n_extra = parameters.n_truncated + parameters.n_missing_keyword
    slots += [(*fields[k % len(fields)], parameters.filters[0], parameters.n_exposures + k) for k in range(n_extra)]
    n_good = len(slots) - n_extra
    per_night = math.ceil(len(slots) / parameters.n_nights)
    plans = []
    for k, (name, ra, dec, band, n) in enumerate(slots):
        night, turn = divmod(k, per_night)
        slot_mjd = parameters.first_mjd + night + turn * (parameters.exptime_s + 40.0) / 86400.0
        plan = _plan_one(parameters, rng, f"sim{1000 + k:05d}o", slot_mjd)
        plan = replace(plan, object_name=name, filter_name=band, ra_deg=ra, dec_deg=dec)
        plans.append(replace(plan, dither_arcsec=_dither_step(parameters, rng, n)))
    spoilt = rng.permutation(n_good)[: parameters.n_cloudy + parameters.n_defocused + parameters.n_trailed]
    for rank, k in enumerate(spoilt):
        plans[k] = _spoil(plans[k], parameters, rank, rng)
    for rank in range(n_extra):
        k = n_good + rank
        cut = rank < parameters.n_truncated
        plans[k] = replace(plans[k], truncated_fraction=0.6) if cut else replace(plans[k], missing_keyword="EXPTIME")
    return plans


def _plan_one(parameters: SurveyParameters, rng: np.random.Generator, name: str, mjd: float) -> ExposurePlan:
    """Draw the weather and the pointing error of one exposure; field and filter are filled in by the caller."""
    error, towards = parameters.pointing_error_arcsec * math.sqrt(rng.random()), rng.uniform(0.0, 2.0 * math.pi)
    low, high = parameters.seeing_arcsec
    return ExposurePlan(
        name=name,
        object_name="D1",
        filter_name=parameters.filters[0],
        ra_deg=0.0,
        dec_deg=0.0,
        pointing_error_arcsec=(error * math.cos(towards), error * math.sin(towards)),
        exptime_s=parameters.exptime_s,
        mjd=round(mjd, 8),
        airmass=round(float(rng.uniform(*parameters.airmass)), 3),
        seeing_arcsec=round(low + (high - low) * float(rng.beta(1.6, 2.5)), 4),
        ellipticity=round(float(rng.uniform(0.0, 0.06)), 4),
        position_angle_deg=round(float(rng.uniform(0.0, 180.0)), 2),
        transparency=round(float(rng.uniform(*parameters.transparency)), 4),
        cosmic_rate=parameters.cosmic_rate,
        run_id=parameters.run_id,
    )


def _dither(parameters: SurveyParameters) -> float:
    """Return the half width of the dither pattern in arcsec."""
    if parameters.dither_arcsec is not None:
        return parameters.dither_arcsec
    return parameters.gap_arcsec + 0.06 * parameters.pixel_scale_arcsec * max(parameters.detector_pix)


def _dither_step(parameters: SurveyParameters, rng: np.random.Generator, n: int) -> tuple[float, float]:
    """Return the n-th step of the dither pattern: a ring in golden angles, shaken by sub-pixels."""
    size = _dither(parameters) * (0.35 + 0.65 * ((n * 0.61803) % 1.0)) if n else 0.0
    angle = math.radians(137.50776 * n)
    east, north = rng.uniform(-1.0, 1.0, 2) * parameters.pixel_scale_arcsec
    return size * math.cos(angle) + float(east), size * math.sin(angle) + float(north)


def _spoil(plan: ExposurePlan, parameters: SurveyParameters, rank: int, rng: np.random.Generator) -> ExposurePlan:
    """Spoil an exposure: the first ranks by clouds, the next by focus, the last by a trail."""
    if rank < parameters.n_cloudy:
        return replace(plan, transparency=0.35)
    if rank < parameters.n_cloudy + parameters.n_defocused:
        return replace(plan, defocus_arcsec=round(float(rng.uniform(1.6, 2.2)), 3))
    corner = 0.25 * parameters.pixel_scale_arcsec * max(parameters.detector_pix)
    trail = SatelliteTrail(
        angle_deg=round(float(rng.uniform(10.0, 80.0)), 2),
        offset_arcsec=round(float(rng.uniform(-corner, corner)), 2),
        adu_per_arcsec=round(float(rng.uniform(6000.0, 12000.0)), 1),
    )
    return replace(plan, trails=(trail,))

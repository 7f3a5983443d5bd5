"""What is true of a simulated survey, written beside it and read again; and the reference stars it knows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from spica.files.checksum import atomic_path, write_atomic
from spica.model.errors import DataError
from spica.model.record import from_json, to_json
from spica.reference.catalogue import ReferenceCatalogue, make_catalogue
from spica.steps.simulate.camera import CameraModel
from spica.steps.simulate.exposure import ExposureTruth
from spica.steps.simulate.sky import SkyModel

SURVEY_FILE, OBJECTS_FILE, EXPOSURES_FILE, REFERENCE_FILE = (
    "survey.json",
    "objects.fits",
    "exposures.ecsv",
    "reference.fits",
)


@dataclass(frozen=True)
class SurveyTruth:
    """What is true of a simulated survey.

    Attributes
    ----------
    folder : where the truth lies: `survey.json`, `objects.fits`, `exposures.ecsv`, `reference.fits`.
    seed : seed of the survey.
    camera, sky : the camera and every source.
    exposures : truth of each exposure, in order of time.
    reference_path : the reference catalogue that belongs to this sky.
    """

    folder: Path
    seed: int
    camera: CameraModel
    sky: SkyModel
    exposures: tuple[ExposureTruth, ...]
    reference_path: Path

    def exposure(self, name: str) -> ExposureTruth:
        """Return the truth of the exposure of this name.

        Raises
        ------
        DataError : the survey has no such exposure.
        """
        for exposure in self.exposures:
            if exposure.plan.name == name:
                return exposure
        raise DataError(f"the simulated survey has no exposure {name!r}; see {EXPOSURES_FILE} in its truth folder")


@dataclass(frozen=True)
class _Record:
    """The part of the truth that is JSON."""

    seed: int
    epoch_yr: float
    camera: CameraModel
    exposures: tuple[ExposureTruth, ...]


def make_reference(
    sky: SkyModel,
    rng: np.random.Generator,
    *,
    epoch_yr: float = 2016.0,
    bright_mag: float = 12.0,
    faint_mag: float = 21.0,
    position_error_mas: float = 0.6,
    mag_error: float = 0.004,
) -> ReferenceCatalogue:
    """Observe the stars of a sky as an all-sky astrometric mission would.

    Parameters
    ----------
    sky : the true sky; stars only are seen.
    rng : source of randomness.
    epoch_yr : epoch of the catalogue; stars are moved there by their true motion, which is given without error.
    bright_mag, faint_mag : limits in the first of the bands r, g, or whatever comes first.
    position_error_mas, mag_error : 1 sigma of the Gaussian errors, the same for every star.

    Returns
    -------
    Catalogue in AB, in the sky's own bands, sorted as the sky is.
    """
    limit = next((sky.mags[band] for band in ("r", "g") if band in sky.mags), next(iter(sky.mags.values())))
    seen = sky.take(sky.is_star & (limit >= bright_mag) & (limit <= faint_mag))
    n = len(seen)
    ra, dec = seen.positions_at(epoch_yr)
    east, north = rng.normal(0.0, position_error_mas / 3.6e6, (2, n))
    ra = ra + east / np.maximum(np.cos(np.radians(dec)), 1e-9)
    return make_catalogue(
        ra,
        np.clip(dec + north, -90.0, 90.0),
        err_ra_mas=position_error_mas,
        err_dec_mas=position_error_mas,
        pm_ra_masyr=seen.pm_ra_masyr,
        pm_dec_masyr=seen.pm_dec_masyr,
        epoch_yr=epoch_yr,
        mags={band: mag + rng.normal(0.0, mag_error, n) for band, mag in seen.mags.items()},
        mag_errors=dict.fromkeys(seen.mags, mag_error),
        mag_system="AB",
        source="spicasim",
    )


def write_truth(truth: SurveyTruth) -> None:
    """Write `survey.json`, `objects.fits` and `exposures.ecsv` into the truth's folder, each in one step."""
    truth.folder.mkdir(parents=True, exist_ok=True)
    record = _Record(truth.seed, truth.sky.epoch_yr, truth.camera, truth.exposures)
    write_atomic(truth.folder / SURVEY_FILE, json.dumps(to_json(record), indent=1).encode())
    with atomic_path(truth.folder / OBJECTS_FILE) as temporary:
        fits.HDUList([fits.PrimaryHDU(), _objects_table(truth.sky)]).writeto(temporary, overwrite=True)
    with atomic_path(truth.folder / EXPOSURES_FILE) as temporary:
        _exposures_table(truth).write(temporary, format="ascii.ecsv", overwrite=True)


def read_truth(folder: str | os.PathLike[str]) -> SurveyTruth:
    """Read the truth of a simulated survey.

    Parameters
    ----------
    folder : the truth folder, or the survey's folder that holds it as `truth/`.

    Raises
    ------
    DataError : there is no truth, or it is damaged.
    """
    place = Path(folder)
    if not (place / SURVEY_FILE).is_file():
        place = place / "truth"
    try:
        text = (place / SURVEY_FILE).read_text()
        record = from_json(_Record, json.loads(text))
        with fits.open(place / OBJECTS_FILE, memmap=False) as hdus:
            sky = _sky_from_table(hdus["OBJECTS"], record.epoch_yr)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"no truth of a simulated survey in {folder} ({error}); simulate it again") from error
    return SurveyTruth(place, record.seed, record.camera, sky, record.exposures, place / REFERENCE_FILE)


def _objects_table(sky: SkyModel) -> fits.BinTableHDU:
    """Return the sources as a FITS table."""
    plain = (
        ("ID", "1K", "", sky.ids),
        ("RA", "1D", "deg", sky.ra_deg),
        ("DEC", "1D", "deg", sky.dec_deg),
        ("PMRA", "1D", "mas/yr", sky.pm_ra_masyr),
        ("PMDEC", "1D", "mas/yr", sky.pm_dec_masyr),
        ("IS_STAR", "1L", "", sky.is_star),
        ("R_HALF", "1D", "arcsec", sky.half_light_arcsec),
        ("AXIS_RATIO", "1D", "", sky.axis_ratio),
        ("PA", "1D", "deg", sky.position_angle_deg),
        ("IS_DEVAUC", "1L", "", sky.is_de_vaucouleurs),
        *((f"MAG_{band}", "1D", "mag", values) for band, values in sky.mags.items()),
    )
    columns = [fits.Column(name, form, unit=unit or None, array=values) for name, form, unit, values in plain]
    hdu = fits.BinTableHDU.from_columns(columns, name="OBJECTS")
    hdu.header["EPOCH"] = (sky.epoch_yr, "[yr] Julian epoch of the positions")
    hdu.header["MAGSYS"] = "AB"
    return hdu


def _sky_from_table(hdu: fits.BinTableHDU, epoch_yr: float) -> SkyModel:
    """Return the sources of a FITS table written by `_objects_table`."""
    data = hdu.data

    def column(name: str) -> np.ndarray:
        return np.array(data[name], dtype=data[name].dtype.newbyteorder("="))

    bands = [name.removeprefix("MAG_") for name in hdu.columns.names if name.startswith("MAG_")]
    return SkyModel(
        column("ID"),
        column("RA"),
        column("DEC"),
        column("PMRA"),
        column("PMDEC"),
        epoch_yr,
        column("IS_STAR"),
        column("R_HALF"),
        column("AXIS_RATIO"),
        column("PA"),
        column("IS_DEVAUC"),
        {band: column(f"MAG_{band}") for band in bands},
    )


def _exposures_table(truth: SurveyTruth) -> Table:
    """Return the exposures as a table for people: one row each, units in the names, empty text for nothing."""
    rows = []
    for item in truth.exposures:
        plan = item.plan
        header_ra, header_dec = plan.header_pointing_deg
        rows.append(
            {
                "name": plan.name,
                "file_name": item.file_name,
                "object": plan.object_name,
                "filter": plan.filter_name,
                "mjd": plan.mjd,
                "exptime_s": plan.exptime_s,
                "airmass": plan.airmass,
                "seeing_arcsec": plan.seeing_arcsec,
                "ellipticity": plan.ellipticity,
                "transparency": plan.transparency,
                "zero_point_mag": item.zero_point_mag,
                "sky_adu": item.sky_adu,
                "true_ra_deg": item.true_ra_deg,
                "true_dec_deg": item.true_dec_deg,
                "header_ra_deg": header_ra,
                "header_dec_deg": header_dec,
                "rotation_deg": plan.rotation_deg,
                "defocus_arcsec": plan.defocus_arcsec,
                "n_trails": item.n_trails,
                "n_cosmics": item.n_cosmics,
                "n_saturated": item.n_saturated,
                "n_stars": item.n_stars,
                "n_galaxies": item.n_galaxies,
                "is_truncated": plan.truncated_fraction is not None,
                "missing_keyword": plan.missing_keyword or "",
                "sha256": item.sha256,
            }
        )
    return Table(rows)

"""The same work by the real tools, as plain calls: source-extractor, SCAMP, SWarp, source-extractor on the stack."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import Command, Cost, run_stage

EXPOSURE_COLUMNS = (
    "NUMBER XWIN_IMAGE YWIN_IMAGE ERRAWIN_IMAGE ERRBWIN_IMAGE ERRTHETAWIN_IMAGE FLUX_AUTO FLUXERR_AUTO FLUX_APER(3) "
    "FLUXERR_APER(3) FLUX_RADIUS FWHM_IMAGE ELONGATION SNR_WIN FLAGS"
)
STACK_COLUMNS = (
    "NUMBER X_IMAGE Y_IMAGE XWIN_IMAGE YWIN_IMAGE ALPHAWIN_J2000 DELTAWIN_J2000 ERRAWIN_IMAGE ERRBWIN_IMAGE "
    "ERRTHETAWIN_IMAGE FLUX_AUTO FLUXERR_AUTO MAG_AUTO MAGERR_AUTO KRON_RADIUS MAG_APER(4) MAGERR_APER(4) FLUX_RADIUS "
    "FWHM_IMAGE A_IMAGE B_IMAGE THETA_IMAGE ELONGATION SNR_WIN BACKGROUND FLAGS"
)
DEFAULT_CONV = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"
EXPOSURE_APERTURES_ARCSEC, STACK_APERTURES_ARCSEC = (2.0, 3.7, 5.0), (1.0, 2.0, 3.7, 5.0)
ZERO_POINT_MAG = 30.0


def find_tool(*names: str) -> str:
    """Return the path of the first of these programs.

    Raises
    ------
    RuntimeError : none is installed.
    """
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise RuntimeError(f"{names[0]} is not on PATH; apt-get install source-extractor scamp swarp")
    return found


def _options(values: Mapping[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"-{name}", str(value))]


def _pixels(apertures_arcsec: Sequence[float], scale_arcsec: float) -> str:
    return ",".join(f"{a / scale_arcsec:.4f}" for a in apertures_arcsec)


def _write_tables(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exposure.param").write_text("\n".join(EXPOSURE_COLUMNS.split()) + "\n")
    (folder / "stack.param").write_text("\n".join(STACK_COLUMNS.split()) + "\n")
    (folder / "default.conv").write_text(DEFAULT_CONV)


def _extraction(folder: Path, columns: str, catalogue: str, apertures: str) -> dict[str, object]:
    """Return the options of source-extractor that all its runs share; thresholds are those of the native chain."""
    return {
        "CATALOG_NAME": folder / catalogue,
        "CATALOG_TYPE": "FITS_LDAC",
        "PARAMETERS_NAME": folder / columns,
        "FILTER": "Y",
        "FILTER_NAME": folder / "default.conv",
        "DETECT_THRESH": 1.5,
        "ANALYSIS_THRESH": 1.5,
        "DETECT_MINAREA": 5,
        "PHOT_APERTURES": apertures,
        "SATUR_KEY": "SATURATE",
        "GAIN_KEY": "GAIN",
        "NTHREADS": 1,
        "VERBOSE_TYPE": "QUIET",
        "WRITE_XML": "N",
    }


def extract(folder: Path, exposures: Sequence[Path], scale_arcsec: float, slots: int) -> Cost:
    """Catalogue every exposure, `slots` processes at a time; links to the exposures come beside the catalogues."""
    _write_tables(folder)
    commands = []
    for path in exposures:
        link = folder / path.name
        if not link.is_symlink():
            link.symlink_to(path)
        options = _extraction(
            folder, "exposure.param", f"{path.stem}.ldac", _pixels(EXPOSURE_APERTURES_ARCSEC, scale_arcsec)
        )
        arguments = [find_tool("source-extractor", "sex"), path.name, "-c", "/dev/null", *_options(options)]
        commands.append(Command(arguments, folder, folder / f"{path.stem}.extract.log"))
    return run_stage(commands, slots)


def solve(folder: Path, exposures: Sequence[Path], reference: Path, threads: int) -> Cost:
    """Solve all catalogues together against the reference (FITS_LDAC)."""
    options = {
        "ASTREF_CATALOG": "FILE",
        "ASTREFCAT_NAME": reference,
        "ASTREFCENT_KEYS": "X_WORLD,Y_WORLD",
        "ASTREFERR_KEYS": "ERRA_WORLD,ERRB_WORLD",
        "ASTREFMAG_KEY": "MAG",
        "ASTREFMAGERR_KEY": "MAGERR",
        "ASTREFOBSDATE_KEY": "OBSDATE",
        "MOSAIC_TYPE": "FIX_FOCALPLANE",
        "STABILITY_TYPE": "INSTRUMENT",
        "MATCH_RESOL": 0.5,
        "CROSSID_RADIUS": 1.5,
        "DISTORT_DEGREES": 3,
        "CHECKPLOT_TYPE": "NONE",
        "CHECKPLOT_DEV": "NULL",
        "WRITE_XML": "N",
        "NTHREADS": threads,
        "VERBOSE_TYPE": "QUIET",
    }
    catalogues = [f"{path.stem}.ldac" for path in exposures]
    arguments = [find_tool("scamp"), *catalogues, "-c", "/dev/null", *_options(options)]
    return run_stage([Command(arguments, folder, folder / "solve.log")])


def stack(folder: Path, exposures: Sequence[Path], scale_arcsec: float, threads: int) -> Cost:
    """Resample by Lanczos-3 and combine with clipping, the background of each detector subtracted."""
    scratch = folder / "resampled"
    scratch.mkdir(exist_ok=True)
    options = {
        "IMAGEOUT_NAME": "stack.fits",
        "WEIGHTOUT_NAME": "stack.weight.fits",
        "WEIGHT_TYPE": "BACKGROUND",
        "RESAMPLE_DIR": scratch,
        "RESAMPLING_TYPE": "LANCZOS3",
        "COMBINE_TYPE": "CLIPPED",
        "CLIP_SIGMA": 4.0,
        "CLIP_AMPFRAC": 0.3,
        "SUBTRACT_BACK": "Y",
        "BACK_SIZE": 128,
        "PIXELSCALE_TYPE": "MANUAL",
        "PIXEL_SCALE": scale_arcsec,
        "PROJECTION_TYPE": "TAN",
        "GAIN_KEYWORD": "GAIN",
        "SATLEV_KEYWORD": "SATURATE",
        "COPY_KEYWORDS": "OBJECT,FILTER,EXPTIME",
        "WRITE_XML": "N",
        "NTHREADS": threads,
        "VERBOSE_TYPE": "QUIET",
    }
    arguments = [find_tool("SWarp", "swarp"), *(p.name for p in exposures), "-c", "/dev/null", *_options(options)]
    return run_stage([Command(arguments, folder, folder / "stack.log")])


def catalogue(folder: Path, image: Path, weight: Path, scale_arcsec: float, name: str = "stack.ldac") -> Cost:
    """Catalogue a stack with its weight map."""
    _write_tables(folder)
    options = _extraction(folder, "stack.param", name, _pixels(STACK_APERTURES_ARCSEC, scale_arcsec))
    options |= {
        "WEIGHT_TYPE": "MAP_WEIGHT",
        "WEIGHT_IMAGE": weight,
        "BACK_SIZE": 128,
        "MAG_ZEROPOINT": ZERO_POINT_MAG,
    }
    arguments = [find_tool("source-extractor", "sex"), str(image), "-c", "/dev/null", *_options(options)]
    return run_stage([Command(arguments, folder, folder / f"{name}.log")])

"""source-extractor: what it is given, its command line, and its catalogue in the house's fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spica.astromatic.tools import (
    SOURCE_EXTRACTOR,
    Options,
    check_exit,
    command_line,
    find_line,
    loop_lines,
    write_config,
)
from spica.astromatic.votable import read_report
from spica.files.catalogue import from_sextractor
from spica.files.header import HeaderCards, make_cards
from spica.files.ldac import read_ldac
from spica.files.mef import write_image
from spica.model.errors import DataError

COLUMNS = (
    *("NUMBER", "X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE"),
    *("ERRX2WIN_IMAGE", "ERRY2WIN_IMAGE", "ERRXYWIN_IMAGE", "FLUX_AUTO", "FLUXERR_AUTO"),
    *("FLUX_RADIUS", "FWHM_IMAGE", "A_IMAGE", "B_IMAGE", "THETA_IMAGE", "ELONGATION", "ELLIPTICITY", "FLUX_MAX"),
    *("BACKGROUND", "FLAGS", "SNR_WIN", "KRON_RADIUS"),
)
KERNEL = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"
NO_SATURATION_ADU = 1e30
KERNEL_FILE = "extract.conv"
LIST_FILE = "images.list"


@dataclass(frozen=True)
class Extraction:
    """What the recipe says of an extraction."""

    threshold_sigma: float
    min_area_pix: int
    mesh_pix: int
    deblend_levels: int = 32
    deblend_contrast: float = 0.005


def extract_lines(rules: Extraction, time_limit_s: int) -> tuple[str, ...]:
    """Return the lines of a script that extract every image of the list, each with its weight and configuration."""
    options: Options = (
        ("CATALOG_NAME", "extract-%n.ldac"),
        ("WEIGHT_IMAGE", "image-%n.weight.fits"),
        ("XML_NAME", "extract-%n.xml"),
        ("PARAMETERS_NAME", "extract-%n.param"),
        ("DETECT_THRESH", rules.threshold_sigma),
        ("ANALYSIS_THRESH", rules.threshold_sigma),
        ("DETECT_MINAREA", rules.min_area_pix),
        ("DEBLEND_NTHRESH", rules.deblend_levels),
        ("DEBLEND_MINCONT", rules.deblend_contrast),
        ("BACK_SIZE", rules.mesh_pix),
    )
    files = ("image-%n.fits", "-c", "extract-%n.conf")
    line = command_line(SOURCE_EXTRACTOR, files, options, "extract-%n", time_limit_s)
    return find_line(SOURCE_EXTRACTOR), *loop_lines(LIST_FILE, line)


def write_image_inputs(
    folder: Path,
    number: str,
    data: NDArray[np.float32],
    weight: NDArray[np.float32],
    gain_e_per_adu: float | None,
    saturation_adu: float | None,
    apertures_pix: Sequence[float],
) -> None:
    """Write image, weight, configuration and list of columns for one extraction below `folder`.

    The headers hold gain and saturation alone, so that nothing of the exposure's own header can matter. `weight` is
    relative inverse variance; pixels that are not finite get weight 0. Both arrays have shape (ny, nx).
    """
    good = np.isfinite(data)
    cards = make_cards(
        [
            ("GAIN", gain_e_per_adu or 0.0, "[electron/ADU] 0: unknown"),
            ("SATURATE", saturation_adu or NO_SATURATION_ADU, "[ADU]"),
        ]
    )
    write_image(folder / f"image-{number}.fits", np.where(good, data, np.float32(0.0)), cards, checksum=False)
    write_weight(folder / f"image-{number}.weight.fits", np.where(good, weight, np.float32(0.0)))
    columns = [*COLUMNS, f"FLUX_APER({len(apertures_pix)})", f"FLUXERR_APER({len(apertures_pix)})"]
    (folder / f"extract-{number}.param").write_text("\n".join(columns) + "\n", encoding="ascii")
    (folder / KERNEL_FILE).write_text(KERNEL, encoding="ascii")
    write_config(
        folder / f"extract-{number}.conf",
        (
            ("CATALOG_TYPE", "FITS_LDAC"),
            ("FILTER", True),
            ("FILTER_NAME", KERNEL_FILE),
            ("PHOT_APERTURES", tuple(float(a) for a in apertures_pix)),
            ("PHOT_AUTOPARAMS", (2.5, 3.5)),
            ("WEIGHT_TYPE", "MAP_WEIGHT"),
            ("WEIGHT_GAIN", False),
            ("GAIN_KEY", "GAIN"),
            ("SATUR_KEY", "SATURATE"),
            ("BACK_FILTERSIZE", 3),
            ("BACKPHOTO_TYPE", "GLOBAL"),
            ("HEADER_SUFFIX", ".nohead"),
            ("WRITE_XML", True),
            ("XSL_URL", "none"),
            ("VERBOSE_TYPE", "QUIET"),
        ),
    )


def write_list(folder: Path, numbers: Sequence[str]) -> None:
    """Write the numbers of the images to extract, one a line."""
    (folder / LIST_FILE).write_text("".join(f"{n}\n" for n in numbers), encoding="ascii")


def write_weight(path: Path, weight: NDArray[np.float32]) -> None:
    """Write a weight map as a plain image: no tool of this family reads tile-compressed weights."""
    write_image(path, weight, HeaderCards(()), checksum=False)


def read_sources(folder: Path, number: str, n_apertures: int, what: str) -> NDArray[np.void]:
    """Return the sources of one extraction, judged by its report, in the fields of `spica.files.catalogue`.

    Raises
    ------
    DataError
        A background that is not a number, a report and a catalogue that disagree, no catalogue.
    """
    check_exit(SOURCE_EXTRACTOR, folder, f"extract-{number}", what)
    judge_extraction(folder / f"extract-{number}.xml", what)
    path = folder / f"extract-{number}.ldac"
    if not path.is_file():
        raise DataError(f"source-extractor wrote no catalogue of {what}; look at the job's log")
    catalogues = read_ldac(path)
    if len(catalogues) != 1:
        raise DataError(f"the catalogue of {what} has {len(catalogues)} images; extract it again")
    table = _with_vectors(catalogues[0].table, n_apertures)
    sources = from_sextractor(table)
    sources["fwhm_pix"] = np.where(sources["fwhm_pix"] > 0, sources["fwhm_pix"], np.nan)
    return sources


def _with_vectors(table: NDArray[np.void], n_apertures: int) -> NDArray[np.void]:
    """Return the table with aperture fluxes as vectors, one aperture too; DataError where columns are missing."""
    wanted = {*COLUMNS, "FLUX_APER", "FLUXERR_APER"}
    names = table.dtype.names or ()
    missing = wanted - set(names)
    if missing:
        raise DataError(f"the catalogue lacks {' '.join(sorted(missing))}; use source-extractor 2.25 or newer")
    vectors = ("FLUX_APER", "FLUXERR_APER")
    shapes = [(n, table.dtype[n].base, (n_apertures,) if n in vectors else table.dtype[n].shape) for n in names]
    out = np.empty(len(table), shapes)
    for name in names:
        out[name] = table[name].reshape(len(table), n_apertures) if name in vectors else table[name]
    return out


def judge_extraction(path: Path, what: str) -> None:
    """Raise where source-extractor's own report shows that its catalogue is worth nothing.

    Raises
    ------
    DataError
        The background or its rms is not a number or not positive: then it finds nothing and still ends with 0.
    """
    extensions = read_report(path, "source-extractor").table("Extension_Data")
    if len(extensions.rows) != 1:
        raise DataError(f"source-extractor measured {len(extensions.rows)} images of {what}; extract it again")
    level, noise = extensions.number(0, "Background_Mean"), extensions.number(0, "Background_StDev")
    if not np.isfinite(level) or not np.isfinite(noise) or noise <= 0:
        raise DataError(
            f"source-extractor measured background {level:g} with rms {noise:g} ADU on {what}; look at the image, mask "
            "its bad part or leave it out"
        )

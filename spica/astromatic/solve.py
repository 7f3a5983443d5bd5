"""SCAMP: what it is given, its command line, and its `.head` files as solutions of detectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.astrometry import DetectorSolution, pixel_to_sky
from spica.algorithms.astrometry.tpv import PV_COUNT, PV_POWERS, linear_and_polynomial, monomials
from spica.algorithms.skymap import tangent_project
from spica.astromatic.tools import SCAMP, Options, command_line, find_line, write_config
from spica.files.catalogue import to_sextractor
from spica.files.head import read_head
from spica.files.header import HeaderCards, make_cards
from spica.files.ldac import LdacCatalogue, write_ldac
from spica.model.errors import DataError

REFERENCE_FILE, CONFIG_FILE, LIST_FILE = "reference.ldac", "scamp.conf", "catalogues.list"
KEPT_FILE = "kept.list"
STEM, AGAIN_STEM, REFINE_STEM = "scamp", "scamp-again", "scamp-refine"
COLUMNS = (
    *("XWIN_IMAGE", "YWIN_IMAGE", "ERRAWIN_IMAGE", "ERRBWIN_IMAGE", "ERRTHETAWIN_IMAGE"),
    *("FLUX_AUTO", "FLUXERR_AUTO", "FLUX_RADIUS", "ELONGATION", "SNR_WIN", "FLAGS"),
)
PLOTS = ("FGROUPS", "DISTORTION", "ASTR_REFERROR2D", "ASTR_INTERROR2D")
PLOT_STEMS = ("scamp_fields", "scamp_distortion", "scamp_reference", "scamp_internal")
HIGH_SNR = 50.0
BASE_RESOLUTION_ARCSEC = 0.5
REFINE_RADIUS_ARCSEC = 0.2
MAX_CORRELATION_PIX = 4096
PLPLOT_DRIVERS = ("/usr/lib", "/usr/local/lib", "/usr/lib64")


@dataclass(frozen=True)
class SolveRules:
    """What the recipe says of the solution."""

    degree: int
    share_distortion: bool
    match_radius_arcsec: float
    min_snr: float
    min_reference: int
    threads: int


@dataclass(frozen=True)
class Search:
    """What is known only from the exposures.

    `radius_arcmin` is how far pointings may be wrong, `position_floor_arcsec` the floor of centroid errors;
    `use_flagged` lets blended and saturated sources into the fit.
    """

    radius_arcmin: float
    pixel_scale_arcsec: float
    position_floor_arcsec: float
    use_flagged: bool


@dataclass(frozen=True)
class DetectorInput:
    """One detector as SCAMP sees it: size, first guess of its WCS (FITS pixels), and its usable sources."""

    n_x: int
    n_y: int
    wcs: HeaderCards
    sources: NDArray[np.void]


@dataclass(frozen=True)
class ExposureInput:
    """One exposure as SCAMP sees it; `group` numbers the cameras, whose exposures share a distortion."""

    group: int
    exptime_s: float | None
    airmass: float | None
    mjd: float | None
    detectors: tuple[DetectorInput, ...]


def scamp_lines(rules: SolveRules, time_limit_s: int) -> tuple[str, ...]:
    """Return the lines of a script that solve the ensemble: find the patterns, keep what matches, refine.

    The first run finds the patterns and a solution, which its wide radius lets wrong pairs into (up to 30 mas at the
    edges of crowded detectors). Where exposures do not match it is made again without them. The last run starts from
    there and pairs within a narrow radius (`write_scamp_config`).
    """
    common: Options = (
        ("ASTREF_CATALOG", "FILE"),
        ("ASTREFCAT_NAME", REFERENCE_FILE),
        ("ASTREFCENT_KEYS", ("X_WORLD", "Y_WORLD")),
        ("ASTREFERR_KEYS", ("ERRA_WORLD", "ERRB_WORLD")),
        ("ASTREFMAG_KEY", "MAG"),
        ("ASTREFMAGERR_KEY", "MAGERR"),
        ("ASTREFOBSDATE_KEY", "OBSDATE"),
        ("STABILITY_TYPE", "INSTRUMENT" if rules.share_distortion else "EXPOSURE"),
        ("DISTORT_DEGREES", rules.degree),
        ("SN_THRESHOLDS", (rules.min_snr, max(HIGH_SNR, rules.min_snr))),
        ("ASTRACCURACY_TYPE", "SIGMA-ARCSEC"),
        ("PIXSCALE_MAXERR", 1.05),
        ("NTHREADS", rules.threads),
    )
    find: Options = (
        ("MATCH", True),
        ("MOSAIC_TYPE", "FIX_FOCALPLANE"),
        ("CROSSID_RADIUS", rules.match_radius_arcsec),
        ("AHEADER_SUFFIX", ".none"),
        ("HEADER_SUFFIX", ".ahead"),
        ("CHECKPLOT_DEV", "NULL"),
        ("CHECKPLOT_TYPE", "NONE"),
    )
    refine: Options = (
        ("MATCH", False),
        ("MOSAIC_TYPE", "UNCHANGED"),
        ("AHEADER_SUFFIX", ".ahead"),
        ("HEADER_SUFFIX", ".head"),
    )
    first, again, last = (
        command_line(
            SCAMP, (f"@{names}", "-c", CONFIG_FILE), (*common, *options, ("XML_NAME", f"{stem}.xml")), stem, limit
        )
        for names, options, stem, limit in (
            (LIST_FILE, find, STEM, time_limit_s),
            (KEPT_FILE, find, AGAIN_STEM, time_limit_s),
            (KEPT_FILE, refine, REFINE_STEM, time_limit_s),
        )
    )
    keep = f'"$SPICA_PYTHON" -m spica.astromatic.keep {STEM}.xml {LIST_FILE} {KEPT_FILE} {rules.min_reference:d}'
    return (
        find_line(SCAMP),
        first,
        keep,
        f"if [ -s {KEPT_FILE} ] && ! cmp -s {LIST_FILE} {KEPT_FILE}; then\n  {again}\nfi",
        f"if [ -s {KEPT_FILE} ]; then\n  {last}\nfi",
    )


def exposure_stem(index: int) -> str:
    """Return the name of an exposure's files, without suffix."""
    return f"exposure-{index + 1:04d}"


def write_exposures(folder: Path, exposures: Sequence[ExposureInput]) -> None:
    """Write one catalogue an exposure and their list; headers hold the WCS guess, date, airmass and exposure time."""
    names = []
    for index, one in enumerate(exposures):
        name = f"{exposure_stem(index)}.ldac"
        write_ldac(folder / name, [_catalogue(one, d) for d in one.detectors])
        names.append(name)
    (folder / LIST_FILE).write_text("\n".join(names) + "\n", encoding="ascii")


def _catalogue(exposure: ExposureInput, detector: DetectorInput) -> LdacCatalogue:
    facts = make_cards(
        [
            ("NAXIS", 2, ""),
            ("NAXIS1", detector.n_x, ""),
            ("NAXIS2", detector.n_y, ""),
            ("EXPTIME", exposure.exptime_s or 1.0, "[s]"),
            ("AIRMASS", exposure.airmass or 1.0, ""),
            *([("MJD-OBS", exposure.mjd, "middle [day]")] if exposure.mjd is not None else []),
            ("ASTGROUP", f"A{exposure.group}", "camera"),
            ("PHOGROUP", "P1", "filter"),
        ]
    )
    table = to_sextractor(_finite(detector.sources))
    kept = table.table[list(COLUMNS)]
    packed = np.empty(len(kept), [(name, kept.dtype[name]) for name in COLUMNS])
    for name in COLUMNS:
        packed[name] = kept[name]
    columns = tuple(c for name in COLUMNS for c in table.columns if c.name == name)
    return LdacCatalogue(facts.with_cards(detector.wcs.cards), packed, columns)


def _finite(sources: NDArray[np.void]) -> NDArray[np.void]:
    """Return the sources whose position, errors and flux are numbers; SCAMP knows no NaN."""
    good = np.ones(len(sources), bool)
    for name in ("x_win", "y_win", "errx2_win", "erry2_win", "errxy_win", "flux_auto", "fluxerr_auto"):
        good &= np.isfinite(sources[name])
    good &= (sources["errx2_win"] > 0) & (sources["erry2_win"] > 0) & (sources["fluxerr_auto"] > 0)
    chosen = sources[good].copy()
    for name in ("flux_radius", "elongation", "snr_win"):
        chosen[name] = np.nan_to_num(chosen[name], nan=1.0)
    return chosen


def write_scamp_config(folder: Path, search: Search, plots: bool) -> None:
    """Write what is known only from the exposures: the search, its resolution, and the plots of the second run.

    The correlation image of the search has 2 radius / resolution pixels a side, which is kept to a few thousand.
    """
    base = max(BASE_RESOLUTION_ARCSEC, search.pixel_scale_arcsec)
    resolution = max(base, 120.0 * search.radius_arcmin / MAX_CORRELATION_PIX)
    fit_mask = "0x00f8" if search.use_flagged else "0x00fe"
    drawn = plots and can_plot()
    drawing: Options = (
        ("CHECKPLOT_DEV", "PNG" if drawn else "NULL"),
        ("CHECKPLOT_TYPE", PLOTS if drawn else "NONE"),
        ("CHECKPLOT_NAME", PLOT_STEMS if drawn else "none"),
        ("CHECKPLOT_ANTIALIAS", False),
    )
    write_config(
        folder / CONFIG_FILE,
        (
            ("CROSSID_RADIUS", round(max(REFINE_RADIUS_ARCSEC, search.pixel_scale_arcsec), 4)),
            ("POSITION_MAXERR", round(search.radius_arcmin, 4)),
            ("POSANGLE_MAXERR", 5.0),
            ("MATCH_RESOL", round(resolution, 4)),
            ("MATCH_FLIPPED", False),
            ("ASTRINSTRU_KEY", "ASTGROUP"),
            ("PHOTINSTRU_KEY", "PHOGROUP"),
            ("SOLVE_PHOTOM", True),
            ("FLAGS_MASK", "0x00f8"),
            ("ASTR_FLAGSMASK", fit_mask),
            ("PHOT_FLAGSMASK", fit_mask),
            ("ASTR_ACCURACY", round(search.position_floor_arcsec, 6)),
            ("ELLIPTICITY_MAX", 0.5),
            ("AHEADER_GLOBAL", "global.none"),
            ("WRITE_XML", True),
            ("XSL_URL", "none"),
            ("VERBOSE_TYPE", "QUIET"),
            *drawing,
        ),
    )


def can_plot() -> bool:
    """Tell whether PLplot's PNG driver is here; without it SCAMP aborts where it is asked for plots."""
    found = (path for root in PLPLOT_DRIVERS for path in Path(root).glob("**/plplot*/drivers*/cairo.so"))
    return next(found, None) is not None


def found_plots(folder: Path) -> list[Path]:
    """Return the plots that were made, in order."""
    return [p for stem in PLOT_STEMS for p in sorted(folder.glob(f"{stem}_*.png"))]


def read_solutions(
    path: Path, exposure: str, instrument: str, shapes: Sequence[tuple[int, int]]
) -> tuple[DetectorSolution, ...]:
    """Read one `.head` file of SCAMP as solutions, one a detector.

    Parameters
    ----------
    path : Path
        The file.
    exposure, instrument : str
        Names in the solutions.
    shapes : sequence of (ny, nx)
        Of the detectors.

    Raises
    ------
    DataError
        The file is missing, holds another number of headers, or one of them is no TAN with PV terms.
    """
    headers = read_head(path)
    if len(headers) != len(shapes):
        raise DataError(f"scamp solved {len(headers)} detectors of {len(shapes)}; look at {path.name}")
    return tuple(
        _solution(h, exposure, instrument, i, shape) for i, (h, shape) in enumerate(zip(headers, shapes, strict=True))
    )


def _solution(
    header: HeaderCards, exposure: str, instrument: str, detector: int, shape: tuple[int, int]
) -> DetectorSolution:
    kinds = tuple(str(header.get(f"CTYPE{i}", "")).strip() for i in (1, 2))
    if kinds not in (("RA---TAN", "DEC--TAN"), ("RA---TPV", "DEC--TPV")):
        raise DataError(f"scamp wrote axes {' '.join(kinds)} where TAN or TPV is known; look at the .head file")
    solution = DetectorSolution(
        exposure=exposure,
        instrument=instrument,
        detector=detector,
        width_pix=shape[1],
        height_pix=shape[0],
        crval_ra_deg=_number(header, "CRVAL1"),
        crval_dec_deg=_number(header, "CRVAL2"),
        crpix_x_pix=_number(header, "CRPIX1") - 1.0,
        crpix_y_pix=_number(header, "CRPIX2") - 1.0,
        cd_deg_per_pix=np.array([[_number(header, f"CD{i}_{j}") for j in (1, 2)] for i in (1, 2)]),
        pv1=_terms(header, 1),
        pv2=_terms(header, 2),
    )
    return centred(solution)


def centred(solution: DetectorSolution) -> DetectorSolution:
    """Return the same map with its linear part tangent at the detector's centre, as our own solutions are written.

    SCAMP's linear part is that at its reference pixel, often off the detector, so that its CD matrix would not tell
    the detector's pixel scale. The map is a polynomial of the pixels; its coefficients follow from a grid, exactly.
    """
    powers = [PV_POWERS[k] for k in PV_POWERS if solution.pv1[k] != 0.0 or solution.pv2[k] != 0.0]
    degree = max(1, *(i + j for i, j in powers))
    centre = (0.5 * (solution.width_pix - 1), 0.5 * (solution.height_pix - 1))
    half = 0.5 * max(solution.width_pix, solution.height_pix)
    qx, qy = (axis.ravel() for axis in np.meshgrid(np.linspace(-1.0, 1.0, 9), np.linspace(-1.0, 1.0, 9)))
    ra, dec = pixel_to_sky(solution, centre[0] + half * qx, centre[1] + half * qy)
    plane = np.stack(tangent_project(ra, dec, solution.crval_ra_deg, solution.crval_dec_deg), axis=1)
    design = np.stack([qx**i * qy**j for i, j in monomials(degree)], axis=1)
    terms = np.asarray(np.linalg.lstsq(design, plane, rcond=None)[0], np.float64)
    cd, crpix, pv1, pv2 = linear_and_polynomial(terms, degree, centre, half)
    return replace(solution, cd_deg_per_pix=cd, crpix_x_pix=crpix[0], crpix_y_pix=crpix[1], pv1=pv1, pv2=pv2)


def _number(header: HeaderCards, keyword: str) -> float:
    value = header.get(keyword)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"scamp wrote {keyword} = {value!r}; look at its report and the .head file")
    return float(value)


def _terms(header: HeaderCards, axis: int) -> NDArray[np.float64]:
    """Return the PV coefficients of an axis; one that is not written is 0, the linear one 1."""
    terms = np.zeros(PV_COUNT)
    terms[1] = 1.0
    for keyword in header:
        stem, _, number = keyword.partition("_")
        if stem != f"PV{axis}" or not number.isdigit():
            continue
        value = _number(header, keyword)
        if int(number) in PV_POWERS:
            terms[int(number)] = value
        elif value != 0.0:
            raise DataError(f"scamp wrote the term {keyword}, which is not known here; lower distortion_degree")
    return terms

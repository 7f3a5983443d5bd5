"""Detections of the house (0-based pixels, lower-case fields) as SExtractor columns (1-based) and back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spica.files.ldac import LdacColumn, read_ldac
from spica.model.errors import DataError

MAG_UNKNOWN = 99.0
_LN10_FACTOR = 2.5 / np.log(10.0)


@dataclass(frozen=True)
class _Pair:
    """A house field, its SExtractor column, stored type, unit, display, offset of pixel positions, and comment."""

    field: str
    column: str
    kind: str
    unit: str
    display: str
    comment: str
    offset: float = 0.0


_PAIRS = (
    _Pair("number", "NUMBER", "i4", "", "I10", "Running object number"),
    _Pair("x", "X_IMAGE", "f8", "pixel", "F11.4", "Object position along x", 1.0),
    _Pair("y", "Y_IMAGE", "f8", "pixel", "F11.4", "Object position along y", 1.0),
    _Pair("x_win", "XWIN_IMAGE", "f8", "pixel", "F11.4", "Windowed position estimate along x", 1.0),
    _Pair("y_win", "YWIN_IMAGE", "f8", "pixel", "F11.4", "Windowed position estimate along y", 1.0),
    _Pair("errx2_win", "ERRX2WIN_IMAGE", "f8", "pixel**2", "E18.10", "Variance of windowed position along x"),
    _Pair("erry2_win", "ERRY2WIN_IMAGE", "f8", "pixel**2", "E18.10", "Variance of windowed position along y"),
    _Pair("errxy_win", "ERRXYWIN_IMAGE", "f8", "pixel**2", "E18.10", "Covariance of windowed position"),
    _Pair("flux_auto", "FLUX_AUTO", "f4", "count", "G12.7", "Flux within a Kron-like elliptical aperture"),
    _Pair("fluxerr_auto", "FLUXERR_AUTO", "f4", "count", "G12.7", "RMS error for AUTO flux"),
    _Pair("flux_aper", "FLUX_APER", "f4", "count", "G12.7", "Flux within fixed circular apertures"),
    _Pair("fluxerr_aper", "FLUXERR_APER", "f4", "count", "G12.7", "RMS error for aperture fluxes"),
    _Pair("flux_radius", "FLUX_RADIUS", "f4", "pixel", "F10.3", "Half-light radius"),
    _Pair("fwhm_pix", "FWHM_IMAGE", "f4", "pixel", "F8.2", "FWHM"),
    _Pair("a_pix", "A_IMAGE", "f4", "pixel", "F9.3", "Profile RMS along major axis"),
    _Pair("b_pix", "B_IMAGE", "f4", "pixel", "F9.3", "Profile RMS along minor axis"),
    _Pair("theta_deg", "THETA_IMAGE", "f4", "deg", "F6.2", "Position angle, counterclockwise from x"),
    _Pair("elongation", "ELONGATION", "f4", "", "F8.3", "A_IMAGE/B_IMAGE"),
    _Pair("ellipticity", "ELLIPTICITY", "f4", "", "F8.3", "1 - B_IMAGE/A_IMAGE"),
    _Pair("flux_max", "FLUX_MAX", "f4", "count", "G12.7", "Peak flux above background"),
    _Pair("background_adu", "BACKGROUND", "f4", "count", "G12.7", "Background at centroid position"),
    _Pair("flags", "FLAGS", "i2", "", "I3", "Extraction flags"),
    _Pair("snr_win", "SNR_WIN", "f4", "", "G10.4", "Gaussian-weighted SNR"),
    _Pair("kron_radius", "KRON_RADIUS", "f4", "", "F5.2", "Kron radius in units of A or B"),
)
_AXES = ("x2", "y2", "xy")
_MAGNITUDES = (("AUTO", "flux_auto", "fluxerr_auto"), ("APER", "flux_aper", "fluxerr_aper"))


@dataclass(frozen=True)
class SextractorTable:
    """A structured array with SExtractor column names and its column descriptions, ready for `LdacCatalogue`."""

    table: np.ndarray
    columns: tuple[LdacColumn, ...]


def error_ellipse(
    var_x: np.ndarray, var_y: np.ndarray, cov_xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return semi-axes a >= b and the angle in degrees (from x to y, -90 to 90) of position covariances.

    a**2, b**2 = (var_x + var_y) / 2 +- sqrt(((var_x - var_y) / 2)**2 + cov_xy**2) and
    theta = atan2(2 cov_xy, var_x - var_y) / 2: the eigenvalues and the first eigenvector of the 2x2 matrix (own
    derivation). Variances below zero count as zero.
    """
    middle = (var_x + var_y) / 2.0
    root = np.hypot((var_x - var_y) / 2.0, cov_xy)
    theta = np.degrees(np.arctan2(2.0 * cov_xy, var_x - var_y)) / 2.0
    return np.sqrt(np.maximum(middle + root, 0.0)), np.sqrt(np.maximum(middle - root, 0.0)), theta


def flux_to_mag(flux: np.ndarray, flux_error: np.ndarray, zero_point_mag: float) -> tuple[np.ndarray, np.ndarray]:
    """Return magnitudes zero_point_mag - 2.5 log10(flux) and their errors; 99 where the flux is not positive."""
    good = np.isfinite(flux) & (flux > 0)
    safe = np.where(good, flux, 1.0)
    mag = np.where(good, zero_point_mag - 2.5 * np.log10(safe), MAG_UNKNOWN)
    return mag, np.where(good, _LN10_FACTOR * flux_error / safe, MAG_UNKNOWN)


def to_sextractor(
    detections: np.ndarray,
    zero_point_mag: float = 0.0,
    ra_deg: np.ndarray | None = None,
    dec_deg: np.ndarray | None = None,
) -> SextractorTable:
    """Write detections under SExtractor names, positions 1-based.

    Parameters
    ----------
    detections : ndarray
        Structured array of `spica.algorithms.detect`; fields it lacks are left out, aperture fluxes may be vectors.
    zero_point_mag : float
        Magnitude of flux 1 in the unit of the fluxes.
    ra_deg, dec_deg : ndarray, optional
        Sky positions of the windowed centres: ALPHAWIN_J2000 and DELTAWIN_J2000.

    Returns
    -------
    SextractorTable
        With ERRAWIN, ERRBWIN, ERRTHETAWIN_IMAGE from the covariances; MAG and MAGERR of AUTO and APER, 99
        where the flux is not positive.
    """
    names = set(detections.dtype.names or ())
    parts: list[tuple[LdacColumn, np.ndarray]] = []
    for pair in _PAIRS:
        if pair.field in names:
            column = LdacColumn(pair.column, pair.unit, pair.display, pair.comment)
            parts.append((column, (detections[pair.field] + pair.offset).astype(pair.kind)))
    if {"errx2_win", "erry2_win", "errxy_win"} <= names:
        parts += _ellipse_columns(detections)
    for suffix, flux, error in _MAGNITUDES:
        if {flux, error} <= names:
            mag, mag_error = flux_to_mag(detections[flux], detections[error], zero_point_mag)
            parts.append((LdacColumn(f"MAG_{suffix}", "mag", "F8.4", "Magnitude"), mag.astype("f4")))
            parts.append(
                (LdacColumn(f"MAGERR_{suffix}", "mag", "F8.4", "RMS error of magnitude"), mag_error.astype("f4"))
            )
    if ra_deg is not None and dec_deg is not None:
        parts.append((LdacColumn("ALPHAWIN_J2000", "deg", "F11.7", "Right ascension"), np.asarray(ra_deg, "f8")))
        parts.append((LdacColumn("DELTAWIN_J2000", "deg", "F11.7", "Declination"), np.asarray(dec_deg, "f8")))
    table = np.empty(len(detections), [(column.name, values.dtype, values.shape[1:]) for column, values in parts])
    for column, values in parts:
        table[column.name] = values
    return SextractorTable(table, tuple(column for column, _ in parts))


def _ellipse_columns(detections: np.ndarray) -> list[tuple[LdacColumn, np.ndarray]]:
    a, b, theta = error_ellipse(detections["errx2_win"], detections["erry2_win"], detections["errxy_win"])
    return [
        (LdacColumn("ERRAWIN_IMAGE", "pixel", "F9.5", "RMS windowed position error along major axis"), a.astype("f4")),
        (LdacColumn("ERRBWIN_IMAGE", "pixel", "F9.5", "RMS windowed position error along minor axis"), b.astype("f4")),
        (LdacColumn("ERRTHETAWIN_IMAGE", "deg", "F6.2", "Windowed error ellipse angle"), theta.astype("f4")),
    ]


def from_sextractor(table: np.ndarray) -> np.ndarray:
    """Read a SExtractor table into the house's fields, positions 0-based.

    Windowed positions and their variances fall back on plain ones (the other way round for positions too); covariances
    missing as such are made from ERRAWIN, ERRBWIN, ERRTHETAWIN_IMAGE; apertures in columns of their own (FLUX_APER1,
    FLUX_APER2 ...) become one vector; elongation and ellipticity are made of one another. Fields without a source are
    NaN (0 for integers, 1, 2, 3... for `number`).
    Raises DataError where the table has no positions.
    """
    names = set(table.dtype.names or ())
    aliases = {"x": ("X_IMAGE", "XWIN_IMAGE"), "y": ("Y_IMAGE", "YWIN_IMAGE")}
    aliases |= {"x_win": ("XWIN_IMAGE", "X_IMAGE"), "y_win": ("YWIN_IMAGE", "Y_IMAGE")}
    aliases |= {f"err{axes}_win": (f"ERR{axes.upper()}WIN_IMAGE", f"ERR{axes.upper()}_IMAGE") for axes in _AXES}
    if not any(name in names for name in aliases["x"]) or not any(name in names for name in aliases["y"]):
        raise DataError("the catalogue has no pixel positions; let it hold XWIN_IMAGE and YWIN_IMAGE")
    parts: dict[str, np.ndarray] = {}
    for pair in _PAIRS:
        column = next((name for name in aliases.get(pair.field, (pair.column,)) if name in names), None)
        kind = pair.kind if pair.kind.startswith("i") else "f8"
        if column is not None:
            parts[pair.field] = (table[column] - pair.offset).astype(kind)
        elif pair.column in ("FLUX_APER", "FLUXERR_APER") and f"{pair.column}1" in names:
            parts[pair.field] = _numbered(table, pair.column)
        elif pair.field == "number":
            parts[pair.field] = np.arange(1, len(table) + 1, dtype=kind)
        else:
            parts[pair.field] = np.full(len(table), 0 if kind.startswith("i") else np.nan, kind)
    if {"ERRAWIN_IMAGE", "ERRBWIN_IMAGE", "ERRTHETAWIN_IMAGE"} <= names and "ERRX2WIN_IMAGE" not in names:
        a2, b2 = table["ERRAWIN_IMAGE"].astype(float) ** 2, table["ERRBWIN_IMAGE"].astype(float) ** 2
        angle = np.radians(table["ERRTHETAWIN_IMAGE"].astype(float))
        cos, sin = np.cos(angle), np.sin(angle)
        parts["errx2_win"], parts["erry2_win"] = a2 * cos**2 + b2 * sin**2, a2 * sin**2 + b2 * cos**2
        parts["errxy_win"] = (a2 - b2) * sin * cos
    if "ELONGATION" not in names and "ELLIPTICITY" in names:
        parts["elongation"] = 1.0 / np.maximum(1.0 - parts["ellipticity"], 1e-6)
    elif "ELLIPTICITY" not in names and "ELONGATION" in names:
        parts["ellipticity"] = 1.0 - 1.0 / np.maximum(parts["elongation"], 1.0)
    out = np.empty(len(table), [(name, values.dtype, values.shape[1:]) for name, values in parts.items()])
    for name, values in parts.items():
        out[name] = values
    return out


def _numbered(table: np.ndarray, stem: str) -> np.ndarray:
    """Join the columns stem1, stem2 ... as far as they go; shape (rows, columns)."""
    names: list[str] = []
    while f"{stem}{len(names) + 1}" in (table.dtype.names or ()):
        names.append(f"{stem}{len(names) + 1}")
    return np.stack([table[name].astype("f8") for name in names], axis=1)


def read_catalogue(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the one table of a stack's FITS_LDAC catalogue, SExtractor's names as they are.

    Raises DataError where the file holds no table, or more than one.
    """
    tables = read_ldac(path)
    if len(tables) != 1:
        raise DataError(f"{Path(path).name} holds {len(tables)} tables where one is expected; name a stack's catalogue")
    return tables[0].table

"""Reads reference catalogues whoever wrote them: columns are found by their usual names, or named by the caller."""

from __future__ import annotations

import io
import os
import re
import warnings
import xml.sax.handler
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeAlias

import defusedxml.sax
import numpy as np
from astropy import units
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from defusedxml.common import DefusedXmlException
from numpy.typing import NDArray

from spica.files.source import ByteSource
from spica.model.errors import DataError, RecipeError
from spica.reference.catalogue import ReferenceCatalogue, make_catalogue

Floats: TypeAlias = NDArray[np.float64]

MAX_BYTES = 8 * 1024**3
MAX_ROWS = 50_000_000

# Usual names in order of preference, compared without regard to case; the unit counts where the file states none.
_DEG_RA = ("RA", "RA_DEG", "RADEG", "RA_ICRS", "RAJ2000", "_RAJ2000", "RAMEAN", "RA_MEAN", "ALPHA_J2000", "X_WORLD")
_DEG_DEC = (
    "DEC",
    "DEC_DEG",
    "DEDEG",
    "DE_ICRS",
    "DEJ2000",
    "_DEJ2000",
    "DECMEAN",
    "DEC_MEAN",
    "DELTA_J2000",
    "Y_WORLD",
)
_CANDIDATES: dict[str, tuple[tuple[str, str], ...]] = {
    "ra": (*((name, "deg") for name in (*_DEG_RA, "ALPHAWIN_J2000")), ("COORD_RA", "rad")),
    "dec": (*((name, "deg") for name in (*_DEG_DEC, "DELTAWIN_J2000")), ("COORD_DEC", "rad")),
    "err_ra": (
        ("ERR_RA", "mas"),
        ("ERR_RA_MAS", "mas"),
        ("RA_ERROR", "mas"),
        ("E_RA_ICRS", "mas"),
        ("E_RAJ2000", "mas"),
        ("RAMEANERR", "arcsec"),
        ("ERRA_WORLD", "deg"),
    ),
    "err_dec": (
        ("ERR_DEC", "mas"),
        ("ERR_DEC_MAS", "mas"),
        ("DEC_ERROR", "mas"),
        ("E_DE_ICRS", "mas"),
        ("E_DEJ2000", "mas"),
        ("DECMEANERR", "arcsec"),
        ("ERRB_WORLD", "deg"),
    ),
    "pm_ra": (("PMRA", "mas/yr"), ("PM_RA", "mas/yr"), ("PMRA_MASYR", "mas/yr"), ("PM_RA_MASYR", "mas/yr")),
    "pm_dec": (
        ("PMDEC", "mas/yr"),
        ("PMDE", "mas/yr"),
        ("PM_DEC", "mas/yr"),
        ("PMDEC_MASYR", "mas/yr"),
        ("PM_DEC_MASYR", "mas/yr"),
    ),
    "epoch": (("EPOCH", "yr"), ("REF_EPOCH", "yr"), ("EPOCH_YR", "yr"), ("OBSDATE", "yr")),
}
_GAIA = {"PHOT_G_MEAN_MAG": "G", "PHOT_BP_MEAN_MAG": "BP", "PHOT_RP_MEAN_MAG": "RP"}
_BAND = re.compile(r"(?:PSF|MODEL)?MAG_(?!ERR)(?P<after>\w+)|(?P<before>\w+?)_?(?:MEANPSF|PSF|MEAN)?MAG", re.IGNORECASE)
_ERROR_NAMES = (
    "MAGERR_{0}",
    "MAG_ERR_{0}",
    "E_MAG_{0}",
    "PSFMAGERR_{0}",
    "{0}MAG_ERR",
    "{0}MAGERR",
    "{0}_MAGERR",
    "{0}_MAG_ERR",
    "E_{0}MAG",
    "{0}MEANPSFMAGERR",
)


@dataclass(frozen=True)
class ColumnChoice:
    """Columns named by the caller; what is None or empty is found by its usual names.

    Attributes
    ----------
    ra, dec, err_ra, err_dec, pm_ra, pm_dec, epoch : names of columns.
    bands : band -> column of magnitudes; where given, no other band is read.
    band_errors : band -> column of magnitude errors.
    """

    ra: str | None = None
    dec: str | None = None
    err_ra: str | None = None
    err_dec: str | None = None
    pm_ra: str | None = None
    pm_dec: str | None = None
    epoch: str | None = None
    bands: Mapping[str, str] = field(default_factory=dict)
    band_errors: Mapping[str, str] = field(default_factory=dict)


def read_reference(
    path: str | os.PathLike[str],
    *,
    columns: ColumnChoice | None = None,
    mag_system: str | None = None,
    epoch_yr: float | None = None,
    source: str | None = None,
    extension: str | int | None = None,
) -> ReferenceCatalogue:
    """Read a reference catalogue from FITS (also LDAC), VOTable, ECSV or CSV, plain or gzip or bzip2.

    Parameters
    ----------
    path : the file.
    columns : columns to take instead of those found by their usual names.
    mag_system : "AB", "Vega", ...; None takes the file's word (MAGSYS), Vega for Gaia and Tycho columns, else unknown.
    epoch_yr : epoch of the positions where the file states none (column, REFEPOCH or EPOCH in the header).
    source : name of the catalogue; None takes CATNAME or CATALOG of the header, else the file's name.
    extension : name or number of the FITS table; None takes LDAC_OBJECTS, else the first table with positions.

    Returns
    -------
    Rows with impossible positions are left out. Magnitudes of 90 and beyond (either sign) are unknown (NaN). Positions
    are taken as ICRS. Units are the columns' own where stated.

    Raises
    ------
    RecipeError : the columns do not say which is which; the message lists those there are and what to say.
    DataError : the file is damaged, too large, no table, or holds no usable row.
    """
    path = Path(path)
    choice = columns or ColumnChoice()
    table = _read_table(path, extension, choice)
    return interpret_table(table, path.name, choice=choice, mag_system=mag_system, epoch_yr=epoch_yr, source=source)


def interpret_table(
    table: Table,
    name: str,
    *,
    choice: ColumnChoice,
    mag_system: str | None = None,
    epoch_yr: float | None = None,
    source: str | None = None,
) -> ReferenceCatalogue:
    """Turn a table into a catalogue; parameters and errors as `read_reference`, `name` is what messages call it."""
    if len(table) > MAX_ROWS:
        raise DataError(f"{name} holds {len(table)} rows, more than {MAX_ROWS}; cut it into regions")
    meta = {str(key).upper(): value for key, value in table.meta.items()}
    ra, dec = (_position(table, choice, word, name) for word in ("ra", "dec"))
    good = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90.0)
    if not good.any():
        raise DataError(f"{name} holds no row with a possible position; name other columns for ra and dec")
    stated = meta.get("REFEPOCH", meta.get("EPOCH", epoch_yr))
    epoch = _measure(table, choice, "epoch", "yr", name)
    fallback = float(stated) if isinstance(stated, int | float) else np.nan
    mags, errors, guessed = _bands(table, choice, meta, name)
    system = mag_system or str(meta.get("MAGSYS") or "").strip() or guessed
    return make_catalogue(
        ra[good],
        dec[good],
        err_ra_mas=_measure(table, choice, "err_ra", "mas", name)[good],
        err_dec_mas=_measure(table, choice, "err_dec", "mas", name)[good],
        pm_ra_masyr=_measure(table, choice, "pm_ra", "mas/yr", name)[good],
        pm_dec_masyr=_measure(table, choice, "pm_dec", "mas/yr", name)[good],
        epoch_yr=np.where(np.isfinite(epoch), epoch, fallback)[good],
        mags={band: values[good] for band, values in mags.items()},
        mag_errors={band: values[good] for band, values in errors.items()},
        mag_system=system or None,
        source=source or str(meta.get("CATNAME") or meta.get("CATALOG") or name.partition(".")[0]).strip(),
    )


def _read_table(path: Path, extension: str | int | None, choice: ColumnChoice) -> Table:
    """Read the file's bytes within the limit and the table in them."""
    with ByteSource(path, MAX_BYTES) as source:
        content = source.read(MAX_BYTES + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if content.startswith(b"SIMPLE  ="):
                return _read_fits(path, content, extension, choice)
            if b"<VOTABLE" in content[:4096]:
                defusedxml.sax.parseString(content, xml.sax.handler.ContentHandler())
                return Table.read(io.BytesIO(content), format="votable")
            text = content.decode("utf-8")
            kind = "ascii.ecsv" if text.startswith("# %ECSV") else "ascii.csv"
            return Table.read(text.splitlines(), format=kind)
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            xml.sax.SAXException,
            DefusedXmlException,
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"{path.name} is no readable table ({reason}); give a FITS table, LDAC, VOTable, ECSV or CSV"
            ) from error


def _read_fits(path: Path, content: bytes, extension: str | int | None, choice: ColumnChoice) -> Table:
    """Return the wanted FITS table: the one named, LDAC_OBJECTS, or the first with positions."""
    with fits.open(io.BytesIO(content)) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if extension is not None:
            tables = [hdus[extension]]
        named = [hdu for hdu in tables if hdu.name == "LDAC_OBJECTS"]
        placed = [hdu for hdu in tables if _named(hdu.columns.names, choice.ra, "ra")]
        for hdu in (*named, *placed, *tables[:1]):
            return Table.read(hdu)
    raise DataError(f"{path.name} holds no table; give a FITS table, LDAC, VOTable, ECSV or CSV")


def _named(names: Sequence[str], wanted: str | None, word: str) -> tuple[str, str] | None:
    """Return (column, unit where none is stated) for a word, or None."""
    known = {name.upper(): name for name in names}
    for candidate, unit in ((wanted, _CANDIDATES[word][0][1]),) if wanted else _CANDIDATES[word]:
        if candidate.upper() in known:
            return known[candidate.upper()], unit
    return None


def _position(table: Table, choice: ColumnChoice, word: str, label: str) -> Floats:
    """Return a coordinate in degrees."""
    if _named(table.colnames, getattr(choice, word), word) is None:
        wanted = getattr(choice, word)
        missing = f"no column {wanted!r}" if wanted else f"no column that looks like {word}"
        words = ", ".join(f.name for f in fields(ColumnChoice))
        raise RecipeError(
            f"{label} has {missing}; it has {', '.join(table.colnames[:60])}; name the column for {word!r} "
            f"(words: {words})"
        )
    return _measure(table, choice, word, "deg", label)


def _measure(table: Table, choice: ColumnChoice, word: str, unit: str, label: str) -> Floats:
    """Return a column in the unit asked for, NaN for all rows where there is none."""
    found = _named(table.colnames, getattr(choice, word), word)
    if found is None:
        if getattr(choice, word):
            raise RecipeError(
                f"{label} has no column {getattr(choice, word)!r} for {word!r}; it has "
                f"{', '.join(table.colnames[:60])}; name one of these"
            )
        return np.full(len(table), np.nan)
    values = _numbers(table[found[0]], found[0], label)
    try:
        factor = (table[found[0]].unit or units.Unit(found[1])).to(units.Unit(unit))
    except (units.UnitConversionError, AttributeError) as error:
        raise RecipeError(
            f"{label}: column {found[0]} for {word!r} is in {table[found[0]].unit}, not to be turned into {unit}; "
            "name another column"
        ) from error
    return values * float(factor)


def _numbers(column: Column | MaskedColumn, name: str, label: str) -> Floats:
    """Return a column as float64, masked entries NaN."""
    if column.ndim != 1 or column.dtype.kind not in "fiu":
        raise RecipeError(
            f"{label}: column {name} does not hold one number a row (it is {column.dtype}); name a column of "
            "numbers, positions in degrees"
        )
    if isinstance(column, MaskedColumn):
        return np.asarray(column.astype(np.float64).filled(np.nan), dtype=np.float64)
    return np.asarray(column, dtype=np.float64)


def _bands(
    table: Table, choice: ColumnChoice, meta: Mapping[str, object], label: str
) -> tuple[dict[str, Floats], dict[str, Floats], str]:
    """Return magnitudes and their errors per band, and the system the names speak of ("" where they do not)."""
    known = {name.upper(): name for name in table.colnames}
    chosen = dict(choice.bands) or _own_bands(meta) or _guess_bands(table)
    mags: dict[str, Floats] = {}
    errors: dict[str, Floats] = {}
    for band, name in chosen.items():
        if name.upper() not in known:
            raise RecipeError(
                f"{label} has no column {name!r} for band {band!r}; it has {', '.join(table.colnames[:60])}; name "
                "one of these"
            )
        mags[band] = _plausible(_numbers(table[known[name.upper()]], name, label))
        stem = name.upper().removeprefix("MAG_") if name.upper().startswith("MAG_") else band.upper()
        tries = [choice.band_errors[band]] if band in choice.band_errors else [e.format(stem) for e in _ERROR_NAMES]
        tries += ["MAGERR"] if name.upper() == "MAG" else []
        error = next((known[t.upper()] for t in tries if t.upper() in known), None)
        if error is None and band in choice.band_errors:
            raise RecipeError(f"{label} has no column {tries[0]!r} for the error of {band!r}; name another")
        unknown = np.full(len(table), np.nan)
        errors[band] = unknown if error is None else _plausible(_numbers(table[error], error, label))
    of_gaia = any(name.upper() in _GAIA for name in chosen.values())
    of_tycho = not choice.bands and bool({"VT", "BT"} & set(chosen))
    return mags, errors, "Vega" if of_gaia or of_tycho else ""


def _own_bands(meta: Mapping[str, object]) -> dict[str, str]:
    """Return band -> column as Spica's own header keywords MAGBANDn and MAGCOLn tell."""
    return {
        str(meta[f"MAGBAND{n}"]): f"MAG_{meta[f'MAGCOL{n}']}"
        for n in range(1, 100)
        if f"MAGBAND{n}" in meta and f"MAGCOL{n}" in meta
    }


def _guess_bands(table: Table) -> dict[str, str]:
    """Return band -> column for columns whose names look like magnitudes; errors and vectors are left aside."""
    found: dict[str, str] = {}
    for name in table.colnames:
        column = table[name]
        if column.ndim != 1 or column.dtype.kind != "f":
            continue
        match = _BAND.fullmatch(name)
        band = _GAIA.get(name.upper(), match and (match["after"] or match["before"]))
        if name.upper() == "MAG":
            band = "MAG"
        if band and not re.match(r"E_|ERR|E_MAG", name, re.IGNORECASE) and not band.upper().endswith("ERR"):
            found.setdefault(band, name)
    return found


def _plausible(values: Floats) -> Floats:
    """Return magnitudes with the fillers of catalogues (99, -999 and their like) as NaN."""
    return np.where(np.abs(values) < 90.0, values, np.nan)

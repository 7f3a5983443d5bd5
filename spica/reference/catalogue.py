"""Reference stars: one form for every catalogue, whatever the columns were called in the file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from spica.files.checksum import atomic_path
from spica.model.errors import DataError

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceCatalogue:
    """Stars of known position and brightness, arrays of one length n (float64).

    Attributes
    ----------
    ra_deg, dec_deg : ICRS positions at `epoch_yr`.
    err_ra_mas, err_dec_mas : 1 sigma (RA times cos dec), NaN where unknown.
    pm_ra_masyr, pm_dec_masyr : proper motion (RA times cos dec), NaN where unknown.
    epoch_yr : Julian epoch of each position, NaN where unknown.
    mags, mag_errors : band -> magnitudes, NaN where unknown; both have the same bands.
    mag_system : "AB", "Vega" or another word; None where the file does not say.
    source : name of the catalogue.
    """

    ra_deg: Floats
    dec_deg: Floats
    err_ra_mas: Floats
    err_dec_mas: Floats
    pm_ra_masyr: Floats
    pm_dec_masyr: Floats
    epoch_yr: Floats
    mags: Mapping[str, Floats] = field(default_factory=dict)
    mag_errors: Mapping[str, Floats] = field(default_factory=dict)
    mag_system: str | None = None
    source: str = "unnamed"

    def __post_init__(self) -> None:
        """Check that all arrays have one length.

        Raises
        ------
        DataError : lengths differ, or a band has magnitudes without an error column.
        """
        lengths = {len(values) for values in (*self._columns(), *self.mags.values(), *self.mag_errors.values())}
        if len(lengths) != 1 or set(self.mags) != set(self.mag_errors):
            raise DataError(
                f"reference catalogue {self.source!r}: columns of lengths {sorted(lengths)}, bands {sorted(self.mags)} "
                f"and errors {sorted(self.mag_errors)} do not fit; give every column for every star"
            )

    def _columns(self) -> tuple[Floats, ...]:
        return (
            self.ra_deg,
            self.dec_deg,
            self.err_ra_mas,
            self.err_dec_mas,
            self.pm_ra_masyr,
            self.pm_dec_masyr,
            self.epoch_yr,
        )

    def __len__(self) -> int:
        """Return the number of stars."""
        return len(self.ra_deg)

    @property
    def bands(self) -> tuple[str, ...]:
        """Return the names of the bands."""
        return tuple(self.mags)

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> ReferenceCatalogue:
        """Return the stars of an index or mask, in its order."""
        return replace(
            self,
            ra_deg=self.ra_deg[index],
            dec_deg=self.dec_deg[index],
            err_ra_mas=self.err_ra_mas[index],
            err_dec_mas=self.err_dec_mas[index],
            pm_ra_masyr=self.pm_ra_masyr[index],
            pm_dec_masyr=self.pm_dec_masyr[index],
            epoch_yr=self.epoch_yr[index],
            mags={band: values[index] for band, values in self.mags.items()},
            mag_errors={band: values[index] for band, values in self.mag_errors.items()},
        )

    def cone(self, ra_deg: float, dec_deg: float, radius_deg: float) -> ReferenceCatalogue:
        """Return the stars within `radius_deg` (0 to 180) of a position; right at RA 0 and the poles."""
        return self.take(separation_deg(self.ra_deg, self.dec_deg, ra_deg, dec_deg) <= radius_deg)

    def box(self, ra_deg: tuple[float, float], dec_deg: tuple[float, float]) -> ReferenceCatalogue:
        """Return the stars in a box eastwards from ra[0] to ra[1]; (359, 1) goes through 0, (0, 360) is all round."""
        width = 360.0 if ra_deg[1] - ra_deg[0] >= 360.0 else (ra_deg[1] - ra_deg[0]) % 360.0
        inside = (self.ra_deg - ra_deg[0]) % 360.0 <= width
        return self.take(inside & (self.dec_deg >= dec_deg[0]) & (self.dec_deg <= dec_deg[1]))

    def at_epoch(self, epoch_yr: float) -> ReferenceCatalogue:
        """Return the catalogue with positions moved along straight lines on the sphere to an epoch.

        Stars of unknown motion or unknown epoch stay where they are; the epoch of the latter stays NaN.

        Source: own derivation; the unit vector r + t (pm_ra p + pm_dec q), p and q the local east and north, is
        normalised again, which is right at the poles as well.
        """
        years = np.nan_to_num(epoch_yr - self.epoch_yr)
        east = np.radians(np.nan_to_num(self.pm_ra_masyr) * years / 3.6e6)
        north = np.radians(np.nan_to_num(self.pm_dec_masyr) * years / 3.6e6)
        dec = np.radians(self.dec_deg)
        out, up = np.cos(dec) - north * np.sin(dec), np.sin(dec) + north * np.cos(dec)
        ra = (self.ra_deg + np.degrees(np.arctan2(east, out))) % 360.0
        moved = np.degrees(np.arctan2(up, np.hypot(out, east)))
        epoch = np.where(np.isfinite(self.epoch_yr), epoch_yr, np.nan)
        return replace(self, ra_deg=ra, dec_deg=moved, epoch_yr=epoch)

    def to_ldac(self, path: str | os.PathLike[str], band: str | None = None, epoch_yr: float | None = None) -> Path:
        """Write a FITS_LDAC file that SCAMP takes as `-ASTREFCAT_NAME`.

        Parameters
        ----------
        path : file to write.
        band : magnitudes to give; None takes the first band.
        epoch_yr : move the stars to this epoch first; None leaves them.

        Returns
        -------
        The path. Columns X_WORLD, Y_WORLD (deg), ERRA_WORLD, ERRB_WORLD (deg; 100 mas where unknown), MAG, MAGERR
        (99 where unknown: SCAMP knows no NaN), OBSDATE (yr; 2000 where unknown).

        Raises
        ------
        DataError : no such band, no star.
        """
        stars = self if epoch_yr is None else self.at_epoch(epoch_yr)
        if len(stars) == 0:
            raise DataError(f"reference catalogue {self.source!r} has no star to write; choose a wider region")
        mag, error = stars.band(band)
        nothing = np.full(len(stars), 100.0)
        err_ra = np.where(np.isfinite(stars.err_ra_mas), stars.err_ra_mas, nothing)
        err_dec = np.where(np.isfinite(stars.err_dec_mas), stars.err_dec_mas, nothing)
        date = np.where(np.isfinite(stars.epoch_yr), stars.epoch_yr, 2000.0)
        columns = [
            fits.Column("X_WORLD", "1D", unit="deg", array=stars.ra_deg),
            fits.Column("Y_WORLD", "1D", unit="deg", array=stars.dec_deg),
            fits.Column("ERRA_WORLD", "1E", unit="deg", array=np.maximum(err_ra, err_dec) / 3.6e6),
            fits.Column("ERRB_WORLD", "1E", unit="deg", array=np.minimum(err_ra, err_dec) / 3.6e6),
            fits.Column("MAG", "1E", unit="mag", array=np.nan_to_num(mag, nan=99.0)),
            fits.Column("MAGERR", "1E", unit="mag", array=np.nan_to_num(error, nan=99.0)),
            fits.Column("OBSDATE", "1D", unit="yr", array=date),
        ]
        return _write_ldac(Path(path), columns)

    def band(self, band: str | None) -> tuple[Floats, Floats]:
        """Return (magnitudes, errors) of a band; None takes the first, all NaN where there is no band at all.

        Raises
        ------
        DataError : the catalogue has no such band; the message lists those it has.
        """
        if band is None:
            unknown = np.full(len(self), np.nan)
            return next(zip(self.mags.values(), self.mag_errors.values(), strict=True), (unknown, unknown))
        if band not in self.mags:
            known = ", ".join(self.mags) or "none"
            raise DataError(f"reference catalogue {self.source!r} has no band {band!r} (it has {known}); take one")
        return self.mags[band], self.mag_errors[band]


def make_catalogue(
    ra_deg: ArrayLike,
    dec_deg: ArrayLike,
    *,
    err_ra_mas: ArrayLike | None = None,
    err_dec_mas: ArrayLike | None = None,
    pm_ra_masyr: ArrayLike | None = None,
    pm_dec_masyr: ArrayLike | None = None,
    epoch_yr: ArrayLike | None = None,
    mags: Mapping[str, ArrayLike] | None = None,
    mag_errors: Mapping[str, ArrayLike] | None = None,
    mag_system: str | None = None,
    source: str = "unnamed",
) -> ReferenceCatalogue:
    """Build a catalogue from arrays or single values; what is None becomes NaN for every star.

    Raises
    ------
    DataError : a declination beyond 90 degrees, positions that are not finite, lengths that differ.
    """
    ra = np.atleast_1d(np.asarray(ra_deg, dtype=np.float64)) % 360.0
    dec = np.atleast_1d(np.asarray(dec_deg, dtype=np.float64))
    if not (np.isfinite(ra).all() and np.isfinite(dec).all() and (np.abs(dec) <= 90.0).all()):
        raise DataError(f"reference catalogue {source!r} holds impossible positions; leave those rows out")

    def full(values: ArrayLike | None) -> Floats:
        array = np.asarray(np.nan if values is None else values, dtype=np.float64)
        return np.full(len(ra), float(array)) if array.ndim == 0 else array

    bands = {band: full(values) for band, values in (mags or {}).items()}
    errors = {band: full((mag_errors or {}).get(band)) for band in bands}
    return ReferenceCatalogue(
        ra,
        dec,
        full(err_ra_mas),
        full(err_dec_mas),
        full(pm_ra_masyr),
        full(pm_dec_masyr),
        full(epoch_yr),
        bands,
        errors,
        mag_system,
        source,
    )


def separation_deg(ra_deg: Floats, dec_deg: Floats, ra0_deg: float, dec0_deg: float) -> Floats:
    """Return great-circle distances in degrees: 2 asin(chord / 2), good from micro-arcseconds to 180 degrees."""
    dec, dec0 = np.radians(dec_deg), math.radians(dec0_deg)
    half_ra = 0.5 * np.radians(ra_deg - ra0_deg)
    a = np.sin(0.5 * (dec - dec0)) ** 2 + np.cos(dec) * math.cos(dec0) * np.sin(half_ra) ** 2
    distance: Floats = np.degrees(2.0 * np.arcsin(np.sqrt(np.clip(a, 0.0, 1.0))))
    return distance


def reference_hdu(catalogue: ReferenceCatalogue) -> fits.BinTableHDU:
    """Return the catalogue as the table Spica itself writes and reads.

    Columns RA, DEC (deg), ERR_RA, ERR_DEC (mas), PMRA, PMDEC (mas/yr), EPOCH (yr), and per band n (from 1) MAG_<band>
    and MAGERR_<band> (mag); header keywords MAGSYS, CATNAME, and MAGBANDn, MAGCOLn, which keep "g" and "G" apart.
    """
    columns = [
        fits.Column("RA", "1D", unit="deg", array=catalogue.ra_deg),
        fits.Column("DEC", "1D", unit="deg", array=catalogue.dec_deg),
        fits.Column("ERR_RA", "1E", unit="mas", array=catalogue.err_ra_mas),
        fits.Column("ERR_DEC", "1E", unit="mas", array=catalogue.err_dec_mas),
        fits.Column("PMRA", "1D", unit="mas/yr", array=catalogue.pm_ra_masyr),
        fits.Column("PMDEC", "1D", unit="mas/yr", array=catalogue.pm_dec_masyr),
        fits.Column("EPOCH", "1D", unit="yr", array=catalogue.epoch_yr),
    ]
    cards: list[tuple[str, str]] = [("CATNAME", catalogue.source), ("RADESYS", "ICRS")]
    if catalogue.mag_system is not None:
        cards.append(("MAGSYS", catalogue.mag_system))
    names = _band_columns(catalogue.bands)
    for n, (band, name) in enumerate(zip(catalogue.bands, names, strict=True), start=1):
        columns.append(fits.Column(f"MAG_{name}", "1E", unit="mag", array=catalogue.mags[band]))
        columns.append(fits.Column(f"MAGERR_{name}", "1E", unit="mag", array=catalogue.mag_errors[band]))
        cards += [(f"MAGBAND{n}", band), (f"MAGCOL{n}", name)]
    hdu = fits.BinTableHDU.from_columns(columns, name="REFERENCE")
    for key, value in cards:
        hdu.header[key] = value
    return hdu


def write_reference(path: str | os.PathLike[str], catalogue: ReferenceCatalogue) -> Path:
    """Write a catalogue as the FITS table of `reference_hdu`, in one step; the same stars give the same bytes.

    Returns
    -------
    The path.
    """
    path = Path(path)
    whole = fits.HDUList([fits.PrimaryHDU(), reference_hdu(catalogue)])
    write_whole(path, whole)
    return path


def write_whole(path: Path, hdus: fits.HDUList) -> None:
    """Write FITS with checksums beside its place and rename it, so that a reader never sees half a file."""
    hdus.update_extend()
    for hdu in hdus:
        hdu.add_checksum(when="reference catalogue")
    with atomic_path(path) as temporary:
        hdus.writeto(temporary, overwrite=True)


def _band_columns(bands: Sequence[str]) -> list[str]:
    """Return names for the columns of bands, unique though FITS does not tell capitals from small letters."""
    names: list[str] = []
    for band in bands:
        clean = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in band) or "X"
        name, n = clean, 2
        while name.upper() in {other.upper() for other in names}:
            name, n = f"{clean}_{n}", n + 1
        names.append(name)
    return names


def _write_ldac(path: Path, columns: list[fits.Column]) -> Path:
    """Write columns as LDAC_OBJECTS after an LDAC_IMHEAD that holds a small header."""
    cards = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("RADESYS", "ICRS")]).tostring(padding=False)
    text = (cards.removesuffix("END".ljust(80)) + "END".ljust(80)).encode("ascii")
    lines = np.array([[text[k : k + 80] for k in range(0, len(text), 80)]], dtype="S80")
    head = fits.Column("Field Header Card", f"{len(text)}A", array=lines, dim=f"(80, {len(text) // 80})")
    imhead = fits.BinTableHDU.from_columns([head], name="LDAC_IMHEAD")
    objects = fits.BinTableHDU.from_columns(columns, name="LDAC_OBJECTS")
    with atomic_path(path) as temporary:
        fits.HDUList([fits.PrimaryHDU(), imhead, objects]).writeto(temporary, overwrite=True)
    return path

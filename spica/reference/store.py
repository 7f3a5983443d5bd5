"""The local store of reference catalogues: normalised, indexed on the sky, answered without a network."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import hpgeom
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from spica.files.checksum import sha256_file, write_atomic
from spica.files.slug import slug
from spica.model.errors import ConflictError, DataError, RecipeError
from spica.model.record import from_json, to_json
from spica.reference.catalogue import ReferenceCatalogue, make_catalogue, reference_hdu, write_whole
from spica.reference.reading import ColumnChoice, read_reference

Indices: TypeAlias = NDArray[np.int64]

_COVERED = 0.5
_UNKNOWN_ERROR_MAS = 100.0
_FLOOR_MAS = 5.0
_FINE_ORDER = 12


@dataclass(frozen=True)
class StoredCatalogue:
    """One catalogue of the store, as its JSON file keeps it.

    Attributes
    ----------
    name : slug, unique in the store; `<name>.fits` and `<name>.json` belong to it.
    source : name the catalogue gave itself.
    sha256 : of the normalised FITS file.
    n_sources, bands, mag_system, epoch_yr : what it holds (median epoch; None unknown).
    position_error_mas : median of the stated errors, both axes; None unknown.
    order : HEALPix order (nested) of `pixels` and `counts`: where there are stars, and how many.
    index_order : HEALPix order by which the rows are sorted.
    """

    name: str
    source: str
    sha256: str
    n_sources: int
    bands: tuple[str, ...]
    mag_system: str | None
    epoch_yr: float | None
    position_error_mas: float | None
    order: int
    index_order: int
    pixels: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Coverage:
    """How well a catalogue covers a cone.

    Attributes
    ----------
    name : of the catalogue.
    fraction : share of the cone's HEALPix pixels that hold stars, 0 to 1.
    n_sources : stars in those pixels, an estimate of those in the cone (larger for a small one).
    """

    name: str
    fraction: float
    n_sources: int


@dataclass
class _Open:
    """A catalogue opened for cones: rows on disk, the sorted pixels and where each begins."""

    rows: np.ndarray
    pixels: Indices
    starts: Indices
    bands: dict[str, str]


@dataclass
class ReferenceStore:
    """Catalogues in one folder; safe for many readers and one writer at a time per name.

    Attributes
    ----------
    folder : of the store; made when the first catalogue is added.
    """

    folder: Path
    _open: dict[str, _Open] = field(default_factory=dict, repr=False)
    _known: dict[Path, tuple[tuple[int, int], StoredCatalogue]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Take any path."""
        self.folder = Path(self.folder)

    def add(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        columns: ColumnChoice | None = None,
        mag_system: str | None = None,
        epoch_yr: float | None = None,
        source: str | None = None,
        extension: str | int | None = None,
        replace_existing: bool = False,
    ) -> StoredCatalogue:
        """Read a catalogue file by `read_reference` and keep it; the file itself is not touched.

        Raises
        ------
        ConflictError : a different catalogue of this name is there and `replace_existing` is false.
        RecipeError, DataError : as `read_reference`.
        """
        catalogue = read_reference(
            path, columns=columns, mag_system=mag_system, epoch_yr=epoch_yr, source=source, extension=extension
        )
        return self.keep(catalogue, name or slug(catalogue.source), replace_existing=replace_existing)

    def keep(self, catalogue: ReferenceCatalogue, name: str, *, replace_existing: bool = False) -> StoredCatalogue:
        """Keep a catalogue that is in memory; the same stars under the same name are kept once.

        Raises
        ------
        DataError : the catalogue is empty.
        RecipeError : the name is no slug.
        ConflictError : a different catalogue of this name is there and `replace_existing` is false.
        """
        if slug(name) != name:
            raise RecipeError(f"{name!r} cannot name a catalogue; use letters, digits, '.', '_', '+' and '-'")
        if len(catalogue) == 0:
            raise DataError(f"reference catalogue {name} holds no star; give another file")
        self.folder.mkdir(parents=True, exist_ok=True)
        catalogue, index, index_order = _sort_by_pixel(catalogue)
        hdu = reference_hdu(catalogue)
        hdu.header["HPXORDER"] = (index_order, "rows sorted by nested HEALPix of this order")
        final = self.folder / f"{name}.fits"
        before = {known.name: known for known in self.list()}.get(name)
        fresh = self.folder / f".{name}.new"
        write_whole(fresh, fits.HDUList([fits.PrimaryHDU(), hdu, index]))
        try:
            digest = sha256_file(fresh)
            if before is not None and before.sha256 != digest and not replace_existing:
                raise ConflictError(
                    f"the store already holds another catalogue {name!r} ({before.n_sources} stars); "
                    "choose another name or replace it"
                )
            stored = _describe(catalogue, name, digest, index_order)
            os.replace(fresh, final)
        finally:
            fresh.unlink(missing_ok=True)
        write_atomic(self.folder / f"{name}.json", json.dumps(to_json(stored)).encode())
        self._open.pop(name, None)
        return stored

    def list(self) -> tuple[StoredCatalogue, ...]:
        """Return what the store holds, by name; nothing where the folder is not there.

        Raises
        ------
        DataError : an index file is damaged.
        """
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_ino)
                if self._known.get(path, (None,))[0] != stamp:
                    self._known[path] = (stamp, from_json(StoredCatalogue, json.loads(path.read_text())))
                    self._open.pop(path.stem, None)
                found.append(self._known[path][1])
            except json.JSONDecodeError as error:
                raise DataError(f"{path.name} in the reference store is damaged; add its catalogue again") from error
        return tuple(found)

    def covers(self, ra_deg: float, dec_deg: float, radius_deg: float) -> tuple[Coverage, ...]:
        """Return every catalogue with stars in a cone, the best first.

        Best is: more than half of the cone covered before less; then the larger n / (error^2 + 5^2 mas^2), the weight
        the stars give to a solution whose other errors are 5 mas; an unknown error counts as 100 mas.
        """
        ranked = []
        for stored in self.list():
            coverage = _cover(stored, ra_deg, dec_deg, radius_deg)
            if coverage.n_sources:
                error = _UNKNOWN_ERROR_MAS if stored.position_error_mas is None else stored.position_error_mas
                weight = coverage.n_sources / (error**2 + _FLOOR_MAS**2)
                ranked.append((coverage.fraction < _COVERED, -weight, coverage.name, coverage))
        return tuple(entry[-1] for entry in sorted(ranked))

    def cone(
        self, ra_deg: float, dec_deg: float, radius_deg: float, band: str | None = None, name: str | None = None
    ) -> ReferenceCatalogue:
        """Return the reference stars of a cone from the best catalogue that has any, or from the one named.

        Parameters
        ----------
        ra_deg, dec_deg, radius_deg : the cone.
        band : only stars with a known magnitude in this band, from a catalogue that has it.
        name : of the catalogue to take; None takes the best of `covers`.

        Returns
        -------
        Stars whose `source` is the catalogue's name in the store.

        Raises
        ------
        RecipeError : no catalogue of that name.
        DataError : no reference stars there; the message says how to add some.
        """
        known = {stored.name: stored for stored in self.list()}
        if name is not None and name not in known:
            held = ", ".join(known) or "none"
            raise RecipeError(f"no reference catalogue {name!r} in the store (it holds {held}); add it or name another")
        tries = [name] if name is not None else [c.name for c in self.covers(ra_deg, dec_deg, radius_deg)]
        for one in tries:
            if band is not None and band not in known[one].bands:
                continue
            stars = self._read_cone(known[one], ra_deg, dec_deg, radius_deg)
            if band is not None:
                stars = stars.take(np.isfinite(stars.mags[band]))
            if len(stars):
                return stars
        where = f"within {radius_deg:.3f} deg of RA {ra_deg:.4f} Dec {dec_deg:+.4f}"
        what = f" with band {band}" if band is not None else ""
        which = f" in {name}" if name is not None else ""
        held = "; ".join(f"{s.name} ({s.n_sources} stars, bands {' '.join(s.bands) or 'none'})" for s in known.values())
        raise DataError(
            f"no reference stars{what}{which} {where}; the store holds {held or 'nothing'}; "
            "add with: spica reference add FILE"
        )

    def _read_cone(self, stored: StoredCatalogue, ra: float, dec: float, radius: float) -> ReferenceCatalogue:
        """Read the rows of the pixels a cone touches and keep those inside."""
        opened = self._open.get(stored.name) or _open_rows(self.folder / f"{stored.name}.fits", stored)
        self._open[stored.name] = opened
        low, high = _row_ranges(opened, stored.index_order, ra, dec, radius)
        parts = [opened.rows[a:b] for a, b in zip(low, high, strict=True)]
        rows = np.concatenate(parts) if parts else opened.rows[:0]
        stars = make_catalogue(
            rows["RA"],
            rows["DEC"],
            err_ra_mas=rows["ERR_RA"],
            err_dec_mas=rows["ERR_DEC"],
            pm_ra_masyr=rows["PMRA"],
            pm_dec_masyr=rows["PMDEC"],
            epoch_yr=rows["EPOCH"],
            mags={band: rows[f"MAG_{column}"] for band, column in opened.bands.items()},
            mag_errors={band: rows[f"MAGERR_{column}"] for band, column in opened.bands.items()},
            mag_system=stored.mag_system,
            source=stored.name,
        )
        return stars.cone(ra, dec, radius)


def _sort_by_pixel(catalogue: ReferenceCatalogue) -> tuple[ReferenceCatalogue, fits.BinTableHDU, int]:
    """Sort the stars by nested HEALPix; return them, the table of first rows, and the order.

    The order is the finest at which the occupied pixels hold 50 stars on average, so that the index stays small.
    """
    fine = _fine_pixels(catalogue)
    rows = np.lexsort((catalogue.ra_deg, fine))
    catalogue = catalogue.take(rows)
    order, pixels, starts = _count_pixels(fine[rows], _FINE_ORDER, 50, len(catalogue))
    columns = [fits.Column("PIXEL", "1K", array=pixels), fits.Column("START", "1K", array=starts)]
    return catalogue, fits.BinTableHDU.from_columns(columns, name="HPXINDEX"), order


def _fine_pixels(catalogue: ReferenceCatalogue) -> Indices:
    """Return each star's nested pixel of the finest order used."""
    pixels: Indices = hpgeom.angle_to_pixel(2**_FINE_ORDER, catalogue.ra_deg, catalogue.dec_deg, nest=True)
    return pixels


def _count_pixels(fine: Indices, finest: int, per_pixel: int, most: int) -> tuple[int, Indices, Indices]:
    """Return (order, occupied pixels, first row of each) of sorted stars.

    The order is the finest up to `finest` at which pixels hold `per_pixel` stars on average and are `most` at most.
    """
    for order in range(finest, 1, -1):
        coarse = fine >> (2 * (_FINE_ORDER - order))
        starts = np.flatnonzero(np.concatenate([[True], coarse[1:] != coarse[:-1]]))
        if order == 2 or (len(starts) * per_pixel <= len(fine) and len(starts) <= most):
            break
    return order, coarse[starts], starts


def _describe(catalogue: ReferenceCatalogue, name: str, digest: str, index_order: int) -> StoredCatalogue:
    """Return the store's record of a sorted catalogue; its coverage has at most 4096 pixels of 20 stars on average."""
    order, pixels, starts = _count_pixels(_fine_pixels(catalogue), 9, 20, 4096)
    counts = np.diff(np.append(starts, len(catalogue)))
    errors = np.concatenate([catalogue.err_ra_mas, catalogue.err_dec_mas])
    errors, epochs = errors[np.isfinite(errors)], catalogue.epoch_yr[np.isfinite(catalogue.epoch_yr)]
    return StoredCatalogue(
        name=name,
        source=catalogue.source,
        sha256=digest,
        n_sources=len(catalogue),
        bands=catalogue.bands,
        mag_system=catalogue.mag_system,
        epoch_yr=float(np.median(epochs)) if len(epochs) else None,
        position_error_mas=float(np.median(errors)) if len(errors) else None,
        order=order,
        index_order=index_order,
        pixels=tuple(int(p) for p in pixels),
        counts=tuple(int(c) for c in counts),
    )


def _cover(stored: StoredCatalogue, ra: float, dec: float, radius: float) -> Coverage:
    """Measure how much of a cone a catalogue covers."""
    touched = _cone_pixels(stored.order, ra, dec, radius)
    held = np.isin(touched, np.array(stored.pixels, dtype=np.int64), assume_unique=True)
    n = int(np.array(stored.counts)[np.isin(np.array(stored.pixels), touched, assume_unique=True)].sum())
    return Coverage(stored.name, float(held.mean()), n)


def _cone_pixels(order: int, ra: float, dec: float, radius: float) -> Indices:
    """Return every nested pixel a cone touches.

    Raises
    ------
    RecipeError : the cone is impossible.
    """
    if not (math.isfinite(ra) and -90.0 <= dec <= 90.0 and 0.0 < radius <= 180.0):
        raise RecipeError(f"no cone: RA {ra}, Dec {dec}, radius {radius} deg; give -90 to 90 and a radius up to 180")
    if radius >= 90.0:
        return np.arange(12 * 4**order, dtype=np.int64)
    pixels = hpgeom.query_circle(2**order, ra % 360.0, dec, radius, inclusive=True, nest=True)
    return np.unique(np.asarray(pixels, dtype=np.int64))


def _row_ranges(opened: _Open, order: int, ra: float, dec: float, radius: float) -> tuple[Indices, Indices]:
    """Return (first, end) of the runs of rows in a cone's pixels; pixels side by side become one run."""
    pixels = _cone_pixels(order, ra, dec, radius)
    where = np.flatnonzero(np.isin(opened.pixels, pixels, assume_unique=True))
    ends = np.append(opened.starts[1:], len(opened.rows))
    breaks = np.flatnonzero(np.diff(where) > 1)
    first = where[np.concatenate([[0], breaks + 1])] if len(where) else where
    last = where[np.append(breaks, len(where) - 1)] if len(where) else where
    return opened.starts[first], ends[last]


def _open_rows(path: Path, stored: StoredCatalogue) -> _Open:
    """Open a normalised catalogue without reading its rows.

    Raises
    ------
    DataError : the file is missing, damaged or not the one the record speaks of.
    """
    try:
        with fits.open(path, memmap=True) as hdus:
            table, index = hdus["REFERENCE"], hdus["HPXINDEX"]
            header = table.header
            n, offset = int(header["NAXIS2"]), int(table.fileinfo()["datLoc"])
            pixels, starts = (np.array(index.data[name], dtype=np.int64) for name in ("PIXEL", "START"))
            kind = table.columns.dtype.newbyteorder(">")
            bands = {header[f"MAGBAND{k + 1}"]: header[f"MAGCOL{k + 1}"] for k in range(len(stored.bands))}
        rows = np.memmap(path, dtype=kind, mode="r", offset=offset, shape=(n,))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path.name} in the reference store cannot be read ({error}); add it again") from error
    if n != stored.n_sources:
        raise DataError(f"{path.name} in the reference store holds {n} stars, not {stored.n_sources}; add it again")
    return _Open(rows, pixels, starts, bands)

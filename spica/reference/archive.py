"""Reference stars from the archives, by astroquery (an optional extra): fetched once, then kept in the local store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TypeAlias

import numpy as np
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table

from spica.model.errors import DataError, RecipeError, TransientError
from spica.reference.catalogue import ReferenceCatalogue
from spica.reference.reading import ColumnChoice, interpret_table

MAX_RADIUS_DEG = 5.0


@dataclass(frozen=True)
class Archive:
    """One catalogue of VizieR: its name there, its columns (words), and what they mean."""

    name: str
    vizier: str
    columns: str
    choice: ColumnChoice
    mag_system: str
    epoch_yr: float


ARCHIVES: tuple[Archive, ...] = (
    Archive(
        "gaia",
        "I/355/gaiadr3",
        "RA_ICRS DE_ICRS e_RA_ICRS e_DE_ICRS pmRA pmDE Gmag e_Gmag BPmag e_BPmag RPmag e_RPmag",
        ColumnChoice(bands={"G": "Gmag", "BP": "BPmag", "RP": "RPmag"}),
        "Vega",
        2016.0,
    ),
    Archive(
        "ps1",
        "II/349/ps1",
        "RAJ2000 DEJ2000 e_RAJ2000 e_DEJ2000 gmag e_gmag rmag e_rmag imag e_imag zmag e_zmag",
        ColumnChoice(bands={"g": "gmag", "r": "rmag", "i": "imag", "z": "zmag"}),
        "AB",
        2012.5,
    ),
)

Query: TypeAlias = Callable[[Archive, float, float, float], Table | None]


def fetch_reference(
    ra_deg: float, dec_deg: float, radius_deg: float, catalogue: str = "gaia", *, query: Query | None = None
) -> ReferenceCatalogue:
    """Fetch the stars of a cone from an archive.

    Parameters
    ----------
    ra_deg, dec_deg, radius_deg : the cone, at most 5 degrees.
    catalogue : "gaia" or "ps1".
    query : asks the archive as query(archive, ra, dec, radius) and returns its table, None or an empty one where the
        archive answers that it has nothing; None asks VizieR by astroquery.

    Raises
    ------
    RecipeError : unknown catalogue, impossible cone, astroquery not installed.
    TransientError : the archive was not reached or broke off; nothing is known about the field.
    DataError : the archive answered that it has no star there.
    """
    archive = next((known for known in ARCHIVES if known.name == catalogue), None)
    if archive is None:
        raise RecipeError(f"no archive {catalogue!r}; choose from {', '.join(known.name for known in ARCHIVES)}")
    if not (math.isfinite(ra_deg) and -90.0 <= dec_deg <= 90.0 and 0.0 < radius_deg <= MAX_RADIUS_DEG):
        raise RecipeError(
            f"no cone: RA {ra_deg}, Dec {dec_deg}, radius {radius_deg}; radius up to {MAX_RADIUS_DEG} deg"
        )
    ask = _ask_vizier if query is None else query
    try:
        table = ask(archive, ra_deg, dec_deg, radius_deg)
    except (OSError, TimeoutError, EOFError) as error:
        raise TransientError(
            f"the archive of {catalogue} was not reached ({type(error).__name__}: {str(error)[:120]}); try again "
            "later, or add a file: spica reference add FILE"
        ) from error
    if table is None or len(table) == 0:
        raise DataError(
            f"the archive answered: {catalogue} has no star within {radius_deg:.3f} deg of RA {ra_deg:.4f} Dec "
            f"{dec_deg:+.4f}; choose another catalogue or a wider radius"
        )
    table.meta = {}
    stars = interpret_table(
        table,
        f"answer of {catalogue}",
        choice=archive.choice,
        mag_system=archive.mag_system,
        epoch_yr=archive.epoch_yr,
        source=archive.name,
    )
    return stars.take(np.argsort(stars.dec_deg, kind="stable"))


def _ask_vizier(archive: Archive, ra_deg: float, dec_deg: float, radius_deg: float) -> Table | None:
    """Ask VizieR for a cone; OSError where it cannot be reached."""
    try:
        vizier, trouble = import_module("astroquery.vizier"), import_module("astroquery.exceptions")
    except ImportError as error:
        raise RecipeError(
            "fetching needs astroquery; install it (pip install astroquery), or add a file: spica reference add FILE"
        ) from error
    service = vizier.Vizier(columns=archive.columns.split(), row_limit=-1, catalog=archive.vizier)
    try:
        tables = service.query_region(
            SkyCoord(ra_deg, dec_deg, unit="deg"), radius=radius_deg * units.deg, catalog=archive.vizier
        )
    except (trouble.RemoteServiceError, trouble.TimeoutError) as error:
        raise OSError(str(error)) from error
    return tables[0] if len(tables) else None

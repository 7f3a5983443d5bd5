"""Catalogues of stacks: rows by COPY, cones by HEALPix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import psycopg
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.sky import centre_keys
from spica.db.tables.product import SourceRow
from spica.files.catalogue import read_catalogue
from spica.model.errors import DataError
from spica.model.product import CatalogueRecord

COLUMNS = (
    *("image_id", "number", "healpix", "ra_deg", "dec_deg", "x_pix", "y_pix"),
    *("mag_auto", "magerr_auto", "mag_aper", "magerr_aper", "flux_radius_pix", "fwhm_pix", "elongation", "flags"),
)


def record_catalogue(session: Session, record: CatalogueRecord, context: HarvestContext) -> None:
    """Copy the rows of a catalogue file into the database, in the harvest's transaction."""
    image_id = context.need_image(record.item)
    product = context.product(record.product, record.item)
    if product is None:
        raise DataError(f"result names the catalogue {record.product!r} but holds no such product; run the job again")
    table = read_catalogue(product.path)
    if len(table) != record.n_sources:
        raise DataError(f"catalogue holds {len(table)} sources, {record.n_sources} were announced; run the job again")
    session.execute(delete(SourceRow).where(SourceRow.image_id == image_id))
    connection = cast(psycopg.Connection[Any], session.connection().connection.driver_connection)
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY source ({', '.join(COLUMNS)}) FROM STDIN") as copy,  # constant names only
    ):
        for row in _rows(image_id, table):
            copy.write_row(row)


def _rows(image_id: int, table: np.ndarray) -> Iterator[tuple[object, ...]]:
    keys = centre_keys(table["ALPHAWIN_J2000"], table["DELTAWIN_J2000"])
    for key, row in zip(keys.tolist(), table, strict=True):
        yield (
            image_id,
            int(row["NUMBER"]),
            key,
            float(row["ALPHAWIN_J2000"]),
            float(row["DELTAWIN_J2000"]),
            float(row["XWIN_IMAGE"]) - 1.0,
            float(row["YWIN_IMAGE"]) - 1.0,
            _known(row["MAG_AUTO"]),
            _known(row["MAGERR_AUTO"]),
            [_known(v) for v in np.atleast_1d(row["MAG_APER"])],
            [_known(v) for v in np.atleast_1d(row["MAGERR_APER"])],
            _known(row["FLUX_RADIUS"]),
            _known(row["FWHM_IMAGE"]),
            _known(row["ELONGATION"]),
            int(row["FLAGS"]),
        )


def _known(value: Any) -> float | None:
    """Return a finite number, None for NaN and SExtractor's 99."""
    number = float(value)
    return number if math.isfinite(number) and abs(number) < 98.0 else None


def sources_of(session: Session, image_id: int, limit: int, offset: int = 0) -> list[SourceRow]:
    """Return sources of a stack, brightest first."""
    query = select(SourceRow).where(SourceRow.image_id == image_id)
    return list(session.scalars(query.order_by(SourceRow.mag_auto.nulls_last()).limit(limit).offset(offset)))

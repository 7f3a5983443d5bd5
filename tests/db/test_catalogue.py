"""Catalogues go into the database by COPY, all rows or none, and again without doubling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.algorithms.detect import detect_sources
from spica.db.catalogue import record_catalogue, sources_of
from spica.db.context import PlacedProduct
from spica.db.tables.product import SourceRow
from spica.files.catalogue import read_catalogue, to_sextractor
from spica.files.header import NO_CARDS
from spica.files.ldac import LdacCatalogue, write_ldac
from spica.model.errors import DataError
from spica.model.product import CatalogueRecord


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Return a catalogue of real detections on a drawn field, with one magnitude that cannot be known."""
    rng = np.random.default_rng(4)
    yy, xx = np.indices((128, 128))
    data = rng.normal(0, 1.0, (128, 128)).astype(np.float32)
    for x, y, f in rng.uniform((8, 8, 200), (120, 120, 3000), (20, 3)):
        data += (f / (2 * np.pi * 2.25) * np.exp(-0.5 * ((xx - x) ** 2 + (yy - y) ** 2) / 2.25)).astype(np.float32)
    sources = detect_sources(data, 1.0, apertures_pix=(4.0, 8.0))
    assert len(sources) > 10
    sources["flux_auto"][3] = -5.0
    table = to_sextractor(sources, 30.0, 10.0 + sources["x_win"] * 1e-4, sources["y_win"] * 1e-4)
    path = tmp_path / "stack.ldac"
    write_ldac(path, [LdacCatalogue(NO_CARDS, table.table, table.columns)])
    return path


def _placed(world: Any, session: Session, context: Any, path: Path, image_id: int) -> None:
    ref = world.file(session, name=path.name)
    context.products = (PlacedProduct("catalogue", f"image:{image_id}", None, ref.id, path),)


def test_rows_are_those_of_the_file_and_doing_it_again_doubles_nothing(
    world: Any, session: Session, catalogue: Path
) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    _placed(world, session, context, catalogue, image_id)
    table = read_catalogue(catalogue)
    for _ in range(2):
        record_catalogue(session, CatalogueRecord(f"image:{image_id}", len(table)), context)
    rows = session.scalars(select(SourceRow).where(SourceRow.image_id == image_id).order_by(SourceRow.number)).all()
    assert [r.number for r in rows] == table["NUMBER"].tolist()
    np.testing.assert_allclose([r.ra_deg for r in rows], table["ALPHAWIN_J2000"], rtol=0, atol=1e-12)
    np.testing.assert_allclose([r.x_pix for r in rows], table["XWIN_IMAGE"] - 1.0, atol=1e-6)
    assert rows[3].mag_auto is None, "an unknown magnitude is no number"
    assert all(len(r.mag_aper) == 2 for r in rows)
    brightest = sources_of(session, image_id, 3)
    mags = [r.mag_auto for r in brightest]
    assert mags == sorted(mags)
    assert mags[0] == min(r.mag_auto for r in rows if r.mag_auto is not None)


def test_another_number_than_announced_is_refused(world: Any, session: Session, catalogue: Path) -> None:
    context = world.attempt(session)
    image_id = world.exposure(session, context, "exp1")
    _placed(world, session, context, catalogue, image_id)
    with pytest.raises(DataError, match="99999 were announced"):
        record_catalogue(session, CatalogueRecord(f"image:{image_id}", 99999), context)
    context.products = ()
    with pytest.raises(DataError, match="holds no such product"):
        record_catalogue(session, CatalogueRecord(f"image:{image_id}", 1), context)
    assert session.scalars(select(SourceRow)).all() == []

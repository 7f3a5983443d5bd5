"""The store of reference catalogues: the right stars, from the right catalogue, or a plain word."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spica.model.errors import ConflictError, DataError, RecipeError
from spica.reference import ReferenceStore, make_catalogue, write_reference


def patch(ra, dec, n, seed=1, radius=0.5, error=0.5, bands=("g",), source="patch"):
    """`n` stars within a square of half side `radius` degrees."""
    rng = np.random.default_rng(seed)
    decs = np.clip(dec + rng.uniform(-radius, radius, n), -90, 90)
    ras = ra + rng.uniform(-radius, radius, n) / max(np.cos(np.radians(dec)), 0.01)
    mags = {band: rng.uniform(12, 20, n) for band in bands}
    return make_catalogue(ras, decs, err_ra_mas=error, err_dec_mas=error, epoch_yr=2016.0, mags=mags, source=source)


def all_sky(n=20000, seed=9):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    return make_catalogue(ra, dec, err_ra_mas=50.0, err_dec_mas=50.0, mags={"VT": rng.uniform(5, 12, n)}, source="sky")


@pytest.mark.parametrize(
    "cone", [(0.0, 0.0, 3.0), (359.9, -45.0, 5.0), (77.0, 89.9, 4.0), (0.0, -90.0, 3.0), (10.0, 10.0, 120.0)]
)
def test_a_cone_of_the_store_is_the_cone_of_the_catalogue(tmp_path, cone):
    """The index changes nothing: the same stars with all their values, at RA 0, the poles, and for huge cones."""
    catalogue = all_sky()
    store = ReferenceStore(tmp_path / "reference")
    store.keep(catalogue, "sky")
    found, expected = ReferenceStore(tmp_path / "reference").cone(*cone), catalogue.cone(*cone)
    assert len(found) == len(expected) > 5
    one, other = np.lexsort((found.dec_deg, found.ra_deg)), np.lexsort((expected.dec_deg, expected.ra_deg))
    np.testing.assert_array_equal(found.ra_deg[one], expected.ra_deg[other])
    np.testing.assert_allclose(found.mags["VT"][one], expected.mags["VT"][other], rtol=1e-6)
    assert found.source == "sky"


def test_the_better_catalogue_answers_and_a_named_one_wins(tmp_path):
    """More and better stars first; more than half covered before less; the name overrules; the answer says which."""
    store = ReferenceStore(tmp_path)
    store.keep(all_sky(), "sky")
    store.keep(patch(150.0, 2.0, 3000, bands=("g", "r")), "deep")
    store.keep(patch(150.0, 2.0, 3000, seed=2, error=80.0), "rough")
    assert store.cone(150.0, 2.0, 0.3).source == "deep"
    assert store.cone(150.0, 2.0, 0.3, band="r").source == "deep"
    assert store.cone(150.0, 2.0, 0.3, name="rough").source == "rough"
    assert store.cone(10.0, 2.0, 3.0).source == "sky"
    assert [c.name for c in store.covers(150.0, 2.0, 0.3)] == ["deep", "rough", "sky"]
    assert store.covers(150.0, 2.0, 0.3)[0].fraction == 1.0
    wide = store.covers(150.0, 2.0, 10.0)
    assert wide[0].name == "sky"
    assert next(c for c in wide if c.name == "deep").fraction < 0.1


def test_nothing_there_is_said_with_the_cure(tmp_path):
    """An empty store, an uncovered field and a missing band each give one sentence with the command."""
    store = ReferenceStore(tmp_path / "none")
    with pytest.raises(DataError, match="holds nothing; add with: spica reference add FILE"):
        store.cone(1.0, 2.0, 0.5)
    assert store.list() == ()
    store.keep(patch(150.0, 2.0, 500), "deep")
    with pytest.raises(DataError, match=r"no reference stars within 0.500 deg of RA 10.0000 .*deep \(500 stars"):
        store.cone(10.0, 2.0, 0.5)
    with pytest.raises(DataError, match="with band z"):
        store.cone(150.0, 2.0, 0.3, band="z")
    with pytest.raises(RecipeError, match="no reference catalogue 'gaia'"):
        store.cone(150.0, 2.0, 0.3, name="gaia")
    with pytest.raises(RecipeError, match="no cone"):
        store.cone(150.0, 95.0, 0.3)


def test_adding_copies_and_keeps_the_same_once(tmp_path):
    """The user's file stays as it is; the same again is no conflict; another under the same name is, unless asked."""
    source = write_reference(tmp_path / "mine.fits", patch(10.0, 0.0, 100, source="My Stars!"))
    before = source.read_bytes()
    store = ReferenceStore(tmp_path / "reference")
    stored = store.add(source)
    assert source.read_bytes() == before
    assert (stored.name, stored.source, stored.n_sources, stored.bands) == ("My_Stars", "My Stars!", 100, ("g",))
    assert (stored.epoch_yr, stored.position_error_mas) == (2016.0, 0.5)
    assert store.add(source) == stored
    assert len(store.list()) == 1
    other = write_reference(tmp_path / "other.fits", patch(10.0, 0.0, 50, seed=4))
    with pytest.raises(ConflictError, match="choose another name"):
        store.add(other, "My_Stars")
    assert store.cone(10.0, 0.0, 1.0).source == "My_Stars"
    assert store.add(other, "My_Stars", replace_existing=True).n_sources == 50
    assert len(store.cone(10.0, 0.0, 2.0)) == 50
    with pytest.raises(RecipeError, match="cannot name"):
        store.add(other, "../up")
    assert sorted(p.name for p in store.folder.iterdir()) == ["My_Stars.fits", "My_Stars.json"]


def test_another_store_object_sees_what_was_replaced(tmp_path):
    """A long-lived reader notices a replacement by another process."""
    reader, writer = ReferenceStore(tmp_path), ReferenceStore(tmp_path)
    writer.keep(patch(10.0, 0.0, 100), "a")
    assert len(reader.cone(10.0, 0.0, 2.0)) == 100
    writer.keep(patch(10.0, 0.0, 70, seed=3), "a", replace_existing=True)
    assert len(reader.cone(10.0, 0.0, 2.0)) == 70


def test_damage_is_named(tmp_path):
    """Broken index, missing rows, wrong rows: a sentence that says to add the catalogue again."""
    store = ReferenceStore(tmp_path)
    store.keep(patch(10.0, 0.0, 100), "a")
    (tmp_path / "a.fits").write_bytes(b"")
    with pytest.raises(DataError, match="add it again"):
        ReferenceStore(tmp_path).cone(10.0, 0.0, 0.5)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        ReferenceStore(tmp_path).list()


def test_a_cone_in_a_million_stars_touches_few_rows(tmp_path):
    """The index leads to few rows: well under 1 % of a million for one square degree, and coverage stays small."""
    from spica.reference import store as room

    store = ReferenceStore(tmp_path)
    stored = store.keep(all_sky(1_000_000, seed=5), "sky")
    assert len(stored.pixels) <= 4096
    assert (tmp_path / "sky.json").stat().st_size < 100_000
    assert json.loads((tmp_path / "sky.json").read_text())["n_sources"] == 1_000_000
    opened = room._open_rows(tmp_path / "sky.fits", stored)
    low, high = room._row_ranges(opened, stored.index_order, 200.0, 30.0, 0.5)
    assert 0 < (high - low).sum() < 5000
    assert len(store.cone(200.0, 30.0, 0.5)) > 3

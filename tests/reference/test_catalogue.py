"""Reference catalogues: whatever the columns are called, their motions, regions and LDAC form."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from astropy.time import Time

from spica.model.errors import DataError, RecipeError
from spica.reference import ColumnChoice, make_catalogue, read_reference, write_reference


def some(n=200, seed=1, **values):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    defaults = {
        "err_ra_mas": 0.5,
        "err_dec_mas": 0.7,
        "pm_ra_masyr": rng.normal(0, 50, n),
        "pm_dec_masyr": rng.normal(0, 50, n),
        "epoch_yr": 2016.0,
        "mags": {"g": rng.uniform(12, 20, n), "G": rng.uniform(12, 20, n)},
        "mag_errors": {"g": 0.01},
        "mag_system": "AB",
        "source": "some stars",
    }
    return make_catalogue(ra, dec, **(defaults | values))


def test_written_and_read_is_the_same(tmp_path):
    """Round trip of everything, with bands that differ only in capitals; equal stars give equal bytes."""
    catalogue = some()
    back = read_reference(write_reference(tmp_path / "a.fits", catalogue))
    for name in ("ra_deg", "dec_deg", "pm_ra_masyr", "pm_dec_masyr", "epoch_yr"):
        np.testing.assert_array_equal(getattr(back, name), getattr(catalogue, name))
    np.testing.assert_allclose(back.err_dec_mas, 0.7, rtol=1e-6)
    assert back.bands == ("g", "G")
    np.testing.assert_allclose(back.mags["g"], catalogue.mags["g"], rtol=1e-6)
    np.testing.assert_allclose(back.mags["G"], catalogue.mags["G"], rtol=1e-6)
    assert np.isnan(back.mag_errors["G"]).all()
    assert (back.mag_system, back.source) == ("AB", "some stars")
    write_reference(tmp_path / "b.fits", catalogue)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_tycho_sdss_gaia_and_matched_tables_are_understood(test_data):
    """Real tables of four makers give positions, bands, epochs and motions without a word from the caller."""
    tycho = read_reference(test_data / "hatp32_microobservatory/refcat_tycho2.fits.gz")
    assert (len(tycho), tycho.bands, tycho.mag_system, tycho.source) == (856, ("VT",), "Vega", "Tycho-2")
    assert set(tycho.epoch_yr) == {2000.0}
    sdss = read_reference(test_data / "megacam_d3_catalogue/refcat_sdss_d3.fits.gz", mag_system="AB")
    assert (len(sdss), sdss.bands, sdss.mag_system) == (15083, ("u", "g", "r", "i", "z"), "AB")
    assert sdss.mag_errors["i"][0] == pytest.approx(0.16715574)
    assert np.isnan(sdss.epoch_yr).all()
    gaia = read_reference(test_data / "decam_cutouts_gaia/testcase6/gaia/chunk-03687.fits.gz")
    assert (gaia.bands, gaia.mag_system) == (("G", "BP", "RP"), "Vega")
    assert set(gaia.epoch_yr) == {2015.5}
    assert np.nanmedian(gaia.err_ra_mas) < 5.0
    lco = read_reference(test_data / "lco_catalogues/cpt1m012-fa06-20200113-0102-matched-cat.fits.gz")
    assert set(lco.bands) == {"g", "r", "i", "z"}
    assert lco.pm_dec_masyr[0] == pytest.approx(-38.58)
    assert lco.mag_errors["g"][0] == pytest.approx(0.013)


@pytest.mark.parametrize("kind", ["csv", "ecsv", "vot", "fits", "csv.gz"])
def test_all_formats_and_units_give_the_same(tmp_path, kind):
    """CSV, ECSV, VOTable and FITS; units of the columns are honoured where the format has them."""
    table = Table({"RAJ2000": [10.0, 359.5], "DEJ2000": [-5.0, 89.0], "gmag": [15.5, 99.0], "e_gmag": [0.01, 0.2]})
    expected_error = 3.0
    table["e_RAJ2000"] = [3.0, 3.0]
    if not kind.startswith("csv"):
        table["e_RAJ2000"] = np.array([0.003, 0.003])
        table["e_RAJ2000"].unit = units.arcsec
        table["RAJ2000"] = np.radians([10.0, 359.5])
        table["RAJ2000"].unit = units.rad
    path = tmp_path / f"stars.{kind}"
    form = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "vot": "votable", "fits": "fits", "csv.gz": "ascii.csv"}[kind]
    table.write(tmp_path / "plain", format=form)
    content = (tmp_path / "plain").read_bytes()
    path.write_bytes(gzip.compress(content) if kind == "csv.gz" else content)
    read = read_reference(path, epoch_yr=2000.0)
    np.testing.assert_allclose(read.ra_deg, [10.0, 359.5], rtol=1e-12)
    np.testing.assert_allclose(read.err_ra_mas, expected_error)
    assert read.bands == ("g",)
    assert read.mags["g"][0] == 15.5
    assert np.isnan(read.mags["g"][1])
    np.testing.assert_allclose(read.mag_errors["g"], [0.01, 0.2])
    assert (read.epoch_yr == 2000.0).all()


def test_the_caller_may_name_columns_and_bad_rows_go(tmp_path):
    """Overrides win; rows without a possible position are left out; masked values are unknown."""
    table = Table({"lon": [1.0, 2.0, np.nan, 4.0], "lat": [1.0, 95.0, 3.0, -4.0], "mymag": [10.0, 11.0, 12.0, 13.0]})
    table["em"] = MaskedColumn([0.1, 0.2, 0.3, 0.4], mask=[False, False, False, True])
    table.write(tmp_path / "t.ecsv", format="ascii.ecsv")
    choice = ColumnChoice(ra="LON", dec="lat", bands={"V": "mymag"}, band_errors={"V": "em"})
    read = read_reference(tmp_path / "t.ecsv", columns=choice, mag_system="Vega", source="mine")
    np.testing.assert_array_equal(read.ra_deg, [1.0, 4.0])
    np.testing.assert_array_equal(read.mags["V"], [10.0, 13.0])
    assert read.mag_errors["V"][0] == 0.1
    assert np.isnan(read.mag_errors["V"][1])
    assert read.source == "mine"


def test_what_is_not_understood_is_said(tmp_path):
    """Missing columns list those there are; text positions, damaged files and XML entities are refused."""
    Table({"a": [1.0], "b": [2.0]}).write(tmp_path / "ab.csv", format="ascii.csv")
    with pytest.raises(RecipeError, match=r"it has a, b; name the column for 'ra'"):
        read_reference(tmp_path / "ab.csv")
    with pytest.raises(RecipeError, match="no column 'c' for band 'V'"):
        read_reference(tmp_path / "ab.csv", columns=ColumnChoice(ra="a", dec="b", bands={"V": "c"}))
    Table({"ra": ["10:00:00"], "dec": ["-5:00:00"]}).write(tmp_path / "hms.csv", format="ascii.csv")
    with pytest.raises(RecipeError, match="in degrees"):
        read_reference(tmp_path / "hms.csv")
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  =   T".ljust(2880))
    with pytest.raises(DataError, match="broken"):
        read_reference(tmp_path / "broken.fits")
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><VOTABLE><INFO name="x" value="&a;"/></VOTABLE>'
    (tmp_path / "bomb.vot").write_text(bomb)
    with pytest.raises(DataError, match=r"bomb\.vot"):
        read_reference(tmp_path / "bomb.vot")
    with pytest.raises(DataError, match=r"absent\.fits"):
        read_reference(tmp_path / "absent.fits")
    with pytest.raises(DataError, match="impossible positions"):
        make_catalogue([0.0], [91.0])
    with pytest.raises(DataError, match="lengths"):
        make_catalogue([0.0, 1.0], [0.0, 1.0], err_ra_mas=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.99, 10.0), (200.0, 89.95), (0.0, -90.0), (120.0, 45.0)])
def test_cones_agree_with_astropy(centre):
    """The cone is astropy's cone, at RA 0 and the poles as well."""
    catalogue = some(20000, seed=2)
    inside = catalogue.cone(*centre, 6.0)
    other = SkyCoord(*centre, unit="deg").separation(SkyCoord(catalogue.ra_deg, catalogue.dec_deg, unit="deg"))
    assert len(inside) == (other.deg <= 6.0).sum() > 10


def test_boxes_go_through_ra_zero():
    """A box from 350 to 10 holds both sides and nothing else."""
    catalogue = some(5000, seed=3)
    box = catalogue.box((350.0, 10.0), (-30.0, 30.0))
    expected = ((catalogue.ra_deg >= 350) | (catalogue.ra_deg <= 10)) & (np.abs(catalogue.dec_deg) <= 30)
    assert len(box) == expected.sum() > 20
    assert len(catalogue.box((0.0, 360.0), (-90.0, 90.0))) == 5000


def test_motion_agrees_with_astropy_near_the_pole_too():
    """Positions moved by 30 years agree with astropy's to 0.1 mas; unknown motion or epoch stays."""
    catalogue = some(300, seed=4)
    catalogue = catalogue.take(np.abs(catalogue.dec_deg) < 89.9)
    moved = catalogue.at_epoch(2046.0)
    theirs = SkyCoord(
        catalogue.ra_deg * units.deg, catalogue.dec_deg * units.deg, distance=10 * units.kpc,
        pm_ra_cosdec=catalogue.pm_ra_masyr * units.mas / units.yr,
        pm_dec=catalogue.pm_dec_masyr * units.mas / units.yr, obstime=Time(2016.0, format="jyear"),
    ).apply_space_motion(Time(2046.0, format="jyear"))  # fmt: skip
    gap = theirs.separation(SkyCoord(moved.ra_deg, moved.dec_deg, unit="deg")).mas
    assert gap.max() < 0.1
    assert np.hypot(catalogue.pm_ra_masyr, catalogue.pm_dec_masyr).max() * 30 > 1000
    still = some(5, pm_ra_masyr=np.nan).at_epoch(2046.0)
    np.testing.assert_allclose(still.ra_deg, some(5, pm_ra_masyr=np.nan).ra_deg, atol=1e-5)
    unknown = some(5, epoch_yr=None).at_epoch(2046.0)
    np.testing.assert_allclose(unknown.ra_deg, some(5).ra_deg, atol=1e-12)
    assert np.isnan(unknown.epoch_yr).all()


def test_ldac_has_scamps_columns(tmp_path):
    """Columns, units and fillers are those SCAMP needs."""
    catalogue = some(10, mags={"g": np.array([np.nan, *range(11, 20)])}, mag_errors={"g": 0.02})
    path = catalogue.to_ldac(tmp_path / "ref.ldac", band="g", epoch_yr=2026.0)
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "LDAC_IMHEAD", "LDAC_OBJECTS"]
        data = hdus[2].data
        assert list(data.names) == ["X_WORLD", "Y_WORLD", "ERRA_WORLD", "ERRB_WORLD", "MAG", "MAGERR", "OBSDATE"]
        np.testing.assert_array_equal(data["X_WORLD"], catalogue.at_epoch(2026.0).ra_deg)
        np.testing.assert_allclose(data["ERRA_WORLD"], 0.7 / 3.6e6, rtol=1e-6)
        assert data["MAG"][0] == 99.0
        assert (data["OBSDATE"] == 2026.0).all()
    back = read_reference(path)
    np.testing.assert_allclose(back.err_ra_mas, 0.7, rtol=1e-6)
    with pytest.raises(DataError, match="no band 'z'"):
        catalogue.to_ldac(tmp_path / "z.ldac", band="z")
    with pytest.raises(DataError, match="no star"):
        catalogue.take(np.zeros(10, dtype=bool)).to_ldac(tmp_path / "none.ldac")

"""LDAC catalogues: ours read by astropy and SCAMP, source-extractor's read by us."""

import subprocess
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from scipy.spatial import cKDTree

from spica.files.catalogue import error_ellipse, flux_to_mag, from_sextractor, to_sextractor
from spica.files.head import read_head
from spica.files.header import HeaderCards, make_cards
from spica.files.ldac import LdacCatalogue, LdacColumn, read_ldac, write_ldac
from spica.files.mef import write_image
from spica.files.verify import verify_file
from spica.files.wcs import read_wcs, tan_cards
from spica.model.errors import DataError

CD = np.diag([-0.3, 0.3]) / 3600
PARAMETERS = [
    "NUMBER",
    "X_IMAGE",
    "Y_IMAGE",
    "XWIN_IMAGE",
    "YWIN_IMAGE",
    "ERRAWIN_IMAGE",
    "ERRBWIN_IMAGE",
    "ERRTHETAWIN_IMAGE",
    "ERRX2WIN_IMAGE",
    "ERRY2WIN_IMAGE",
    "ERRXYWIN_IMAGE",
    "FLUX_AUTO",
    "FLUXERR_AUTO",
    "FLUX_APER(2)",
    "FLUXERR_APER(2)",
    "FLUX_RADIUS",
    "FWHM_IMAGE",
    "A_IMAGE",
    "B_IMAGE",
    "THETA_IMAGE",
    "ELONGATION",
    "ELLIPTICITY",
    "FLUX_MAX",
    "BACKGROUND",
    "FLAGS",
    "SNR_WIN",
    "KRON_RADIUS",
    "MAG_AUTO",
    "MAGERR_AUTO",
]
REALS = [
    "x",
    "y",
    "x_win",
    "y_win",
    "errx2_win",
    "erry2_win",
    "errxy_win",
    "flux_auto",
    "fluxerr_auto",
    "flux_radius",
    "fwhm_pix",
    "a_pix",
    "b_pix",
    "theta_deg",
    "elongation",
    "ellipticity",
    "flux_max",
    "background_adu",
    "snr_win",
    "kron_radius",
]

SEX_OPTIONS = [
    "-CATALOG_TYPE",
    "FITS_LDAC",
    "-CATALOG_NAME",
    "se.ldac",
    "-FILTER",
    "N",
    "-PHOT_APERTURES",
    "6,10",
    "-VERBOSE_TYPE",
    "QUIET",
    "-STARNNW_NAME",
    "/usr/share/source-extractor/default.nnw",
]
SCAMP_OPTIONS = [
    "-ASTREF_CATALOG",
    "FILE",
    "-ASTREFCAT_NAME",
    "ref.ldac",
    "-ASTREFCENT_KEYS",
    "X_WORLD,Y_WORLD",
    "-ASTREFERR_KEYS",
    "ERRA_WORLD,ERRB_WORLD",
    "-ASTREFMAG_KEY",
    "MAG",
    "-ASTREFMAGERR_KEY",
    "MAGERR",
    "-ASTREFOBSDATE_KEY",
    "OBSDATE",
    "-DISTORT_DEGREES",
    "1",
    "-CROSSID_RADIUS",
    "2",
    "-CHECKPLOT_TYPE",
    "NONE",
    "-VERBOSE_TYPE",
    "QUIET",
    "-WRITE_XML",
    "N",
    "-NTHREADS",
    "1",
    "-SOLVE_PHOTOM",
    "N",
    "-POSITION_MAXERR",
    "0.2",
]


def _detections(rng, n=200, size=1000.0):
    """Return the house's array with plausible values."""
    dtype = [
        ("number", "i4"),
        *((name, "f8") for name in REALS),
        ("flux_aper", "f8", (3,)),
        ("fluxerr_aper", "f8", (3,)),
    ]
    out = np.zeros(n, [*dtype, ("flags", "i2")])
    out["number"] = np.arange(1, n + 1)
    for name in REALS:
        out[name] = rng.uniform(0.5, 2.0, n)
    out["x"] = out["x_win"] = rng.uniform(0, size, n)
    out["y"] = out["y_win"] = rng.uniform(0, size, n)
    out["errx2_win"], out["erry2_win"], out["errxy_win"] = 1e-4, 2e-4, 5e-5
    out["flux_auto"] = 10 ** rng.uniform(3, 5, n)
    out["fluxerr_auto"] = out["flux_auto"] / 200
    out["flux_aper"], out["fluxerr_aper"] = out["flux_auto"][:, None] * [0.5, 0.8, 0.9], 3.0
    out["elongation"], out["flux_radius"], out["snr_win"] = 1.05, 1.8, 200.0
    return out


def test_every_column_type_round_trips_and_astropy_agrees(tmp_path):
    rng = np.random.default_rng(1)
    types = [
        "?",
        "u1",
        "i2",
        "i4",
        "i8",
        "u2",
        "u4",
        "f4",
        "f8",
        "c16",
        "S7",
        ("f4", (3,)),
        ("i4", (2, 3)),
        ("S4", (2,)),
    ]
    table = np.zeros(5, [(f"c{i}", *(t if isinstance(t, tuple) else (t,))) for i, t in enumerate(types)])
    for name in table.dtype.names:
        column = table[name]
        column[...] = (
            rng.choice([b"ab", b"xyz"], column.shape) if column.dtype.kind == "S" else rng.integers(0, 2, column.shape)
        )
    table["c5"][0], table["c6"][0] = 65535, 2**32 - 1
    header = make_cards([("OBJECT", "M 31", "name"), ("CRVAL1", 10.5, "")])
    columns = (LdacColumn("c7", "mag", "F8.4", "a comment"),)
    path = tmp_path / "t.ldac"
    write_ldac(path, [LdacCatalogue(header, table, columns), LdacCatalogue(header, table[:0])], checksum=True)
    assert verify_file(path).ok
    found = read_ldac(path)
    assert len(found) == 2
    assert dict(header).items() <= dict(found[0].header).items()
    assert len(found[1].table) == 0
    assert found[0].columns[7] == columns[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = Table.read(path, hdu=2)
    for name in table.dtype.names:
        assert np.array_equal(found[0].table[name], table[name]), name
        if table[name].dtype.kind == "S":
            assert np.array_equal(np.asarray(theirs[name]).astype(table[name].dtype), table[name]), name
        else:
            assert np.array_equal(np.asarray(theirs[name]), table[name]), name


def test_house_fields_round_trip_through_sextractor_names(tmp_path):
    detections = _detections(np.random.default_rng(2))
    made = to_sextractor(detections, 25.0)
    write_ldac(tmp_path / "a.ldac", [LdacCatalogue(HeaderCards(()), made.table, made.columns)])
    table = read_ldac(tmp_path / "a.ldac")[0].table
    assert np.array_equal(table["XWIN_IMAGE"], detections["x_win"] + 1)
    assert table["FLUX_APER"].shape == (200, 3)
    assert np.allclose(table["MAG_AUTO"], 25 - 2.5 * np.log10(detections["flux_auto"]), atol=1e-5)
    back = from_sextractor(table)
    for name in detections.dtype.names:
        # fluxes and shapes are stored as float32; positions and covariances as float64 (x + 1 - 1 rounds)
        np.testing.assert_allclose(back[name], detections[name], rtol=1e-6, atol=1e-12, err_msg=name)


def test_error_ellipse_is_that_of_the_eigenvalues():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(50, 2, 2))
    matrix = root @ root.transpose(0, 2, 1)
    a, b, theta = error_ellipse(matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1])
    values, vectors = np.linalg.eigh(matrix)
    np.testing.assert_allclose(np.column_stack([b, a]) ** 2, values, rtol=1e-8, atol=1e-12)
    along = np.column_stack([np.cos(np.radians(theta)), np.sin(np.radians(theta))])
    np.testing.assert_allclose(np.abs((along * vectors[:, :, 1]).sum(axis=1)), 1.0, atol=1e-9)
    slim = to_sextractor(_detections(rng)).table
    again = from_sextractor(slim[[n for n in slim.dtype.names if not n.startswith(("ERRX", "ERRY"))]])
    np.testing.assert_allclose(again["errxy_win"], 5e-5, rtol=1e-4)


def test_no_flux_has_no_magnitude():
    mag, error = flux_to_mag(np.array([-1.0, 0.0, np.nan, 100.0]), np.full(4, 1.0), 30.0)
    assert mag.tolist() == [99.0, 99.0, 99.0, 25.0]
    assert error[3] == pytest.approx(0.010857, abs=1e-6)


def test_catalogues_without_positions_or_tables_are_refused(tmp_path, test_data):
    with pytest.raises(DataError, match="XWIN_IMAGE"):
        from_sextractor(np.zeros(3, [("FLUX", "f4")]))
    write_image(tmp_path / "i.fits", np.ones((20, 20), np.float32))
    with pytest.raises(DataError, match="no catalogue"):
        read_ldac(tmp_path / "i.fits")
    found = read_ldac(test_data / "lco_catalogues/cpt1m012-fa06-20200113-0102-matched-cat.fits.gz")
    assert sum(len(catalogue.table) for catalogue in found) == 2752


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """Stars drawn on an image and what source-extractor finds: folder, true positions, LDAC path."""
    folder = tmp_path_factory.mktemp("sex")
    rng = np.random.default_rng(4)
    size, n = 512, 120
    x, y = rng.uniform(15, size - 15, n), rng.uniform(15, size - 15, n)
    image = rng.normal(500, 5, (size, size))
    for x0, y0, flux in zip(x, y, 10 ** rng.uniform(3.8, 5, n), strict=True):
        i, j = int(x0), int(y0)
        yy, xx = np.mgrid[j - 12 : j + 13, i - 12 : i + 13]
        image[j - 12 : j + 13, i - 12 : i + 13] += (
            flux / (2 * np.pi * 1.5**2) * np.exp(-((xx - x0) ** 2 + (yy - y0) ** 2) / (2 * 1.5**2))
        )
    cards = HeaderCards((*tan_cards(150.0, 20.0, 255.5, 255.5, CD).cards, *make_cards([("EXPTIME", 30.0, "")]).cards))
    write_image(folder / "image.fits", image.astype(np.float32), cards, checksum=False)
    (folder / "p.param").write_text("\n".join(PARAMETERS) + "\n")
    subprocess.run(
        ["source-extractor", "image.fits", *SEX_OPTIONS, "-PARAMETERS_NAME", str(folder / "p.param")],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
    return folder, np.column_stack([x, y])


def test_the_ldac_of_source_extractor_reads_back(extracted):
    folder, truth = extracted
    (catalogue,) = read_ldac(folder / "se.ldac")
    assert catalogue.header["EXPTIME"] == 30.0
    assert read_wcs(catalogue.header).wcs.crval[0] == 150.0
    with fits.open(folder / "se.ldac") as hdus:
        theirs = hdus[2].data
        for name in catalogue.table.dtype.names:
            assert np.array_equal(catalogue.table[name], theirs[name]), name
    found = from_sextractor(catalogue.table)
    distance, _ = cKDTree(truth).query(np.column_stack([found["x_win"], found["y_win"]]))
    # 0-based: a 1-pixel slip would show as 1.4; S/N above 100 gives 0.02 px, blends are outside the median
    assert np.median(distance) < 0.05
    # our error ellipse from its covariances is its own ellipse
    a, b, _ = error_ellipse(found["errx2_win"], found["erry2_win"], found["errxy_win"])
    np.testing.assert_allclose(a, catalogue.table["ERRAWIN_IMAGE"], rtol=1e-3)
    np.testing.assert_allclose(b, catalogue.table["ERRBWIN_IMAGE"], rtol=1e-3)


def test_scamp_solves_with_our_catalogues(tmp_path):
    """Two shifted exposures and a reference, all written by us: SCAMP must find the true tangent point."""
    rng = np.random.default_rng(5)
    true = read_wcs(tan_cards(150.0, 20.0, 511.5, 511.5, CD))
    stars = rng.uniform(-100, 1124, (700, 2))
    flux = 10 ** rng.uniform(3, 5, len(stars))
    ra, dec = true.all_pix2world(stars[:, 0], stars[:, 1], 0)
    reference = np.zeros(
        len(ra), [(n, "f8") for n in ("X_WORLD", "Y_WORLD", "ERRA_WORLD", "ERRB_WORLD", "MAG", "MAGERR", "OBSDATE")]
    )
    reference["X_WORLD"], reference["Y_WORLD"], reference["OBSDATE"] = ra, dec, 2016.0
    reference["ERRA_WORLD"] = reference["ERRB_WORLD"] = 1e-6
    reference["MAG"], reference["MAGERR"] = 25 - 2.5 * np.log10(flux), 0.01
    units = [LdacColumn(n, "deg") for n in ("X_WORLD", "Y_WORLD", "ERRA_WORLD", "ERRB_WORLD")]
    axes = [("NAXIS", 2, ""), ("NAXIS1", 1024, ""), ("NAXIS2", 1024, "")]
    head = make_cards([("XTENSION", "IMAGE", ""), ("BITPIX", -32, ""), *axes])
    write_ldac(tmp_path / "ref.ldac", [LdacCatalogue(head, reference, tuple(units))])
    names = []
    for k, (dx, dy) in enumerate([(0.0, 0.0), (40.0, -30.0)]):
        wcs = tan_cards(150.0, 20.0, 511.5 + dx, 511.5 + dy, CD)
        x, y = read_wcs(wcs).all_world2pix(ra, dec, 0)
        inside = (x > 5) & (x < 1019) & (y > 5) & (y < 1019)
        detections = _detections(rng, int(inside.sum()))
        for name, position in (("x", x), ("y", y)):
            detections[name] = detections[f"{name}_win"] = position[inside] + rng.normal(0, 0.01, inside.sum())
        detections["flux_auto"], detections["fluxerr_auto"] = flux[inside], flux[inside] / 200
        # the header errs by 3 arcsec, as a telescope does
        told = tan_cards(150.0 + 3 / 3600, 20.0 - 3 / 3600, 511.5 + dx, 511.5 + dy, CD)
        facts = [("EXPTIME", 30.0, ""), ("FILTER", "r", ""), ("AIRMASS", 1.1, ""), ("MJD-OBS", 58000.0 + k, "")]
        cards = HeaderCards((*head.cards, *told.cards, *make_cards(facts).cards))
        made = to_sextractor(detections)
        names.append(f"e{k}.ldac")
        write_ldac(tmp_path / names[-1], [LdacCatalogue(cards, made.table, made.columns)])
    done = subprocess.run(
        ["scamp", *names, *SCAMP_OPTIONS],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (solved,) = read_head(tmp_path / "e0.head")
    sky = np.array(read_wcs(solved).all_pix2world(511.5, 511.5, 0))
    offset = (sky - [150.0, 20.0]) * [np.cos(np.radians(20.0)), 1.0] * 3600
    # 3 mas noise a star and 400 stars: a fit offset below 1 mas; a slip of one pixel would be 300 mas
    assert np.abs(offset).max() < 0.003


def test_a_list_of_lco_with_its_header_in_the_primary_unit(test_data):
    """Numbered apertures become one vector, plain variances stand in for windowed ones, the primary's facts stay."""
    path = test_data / "lco_catalogues" / "elp1m008-fl05-20160217-0218-e90_cat.fits.gz"
    (catalogue,) = read_ldac(path)
    with fits.open(path) as hdus:
        given, primary = Table(hdus[1].data), hdus[0].header.copy()
    assert len(catalogue.table) == len(given) == 319
    assert catalogue.header.get("OBJECT") == primary["OBJECT"] == "2016 CV246"
    assert catalogue.header.get("EXPTIME") == primary["EXPTIME"]
    assert "NAXIS" not in catalogue.header
    house = from_sextractor(catalogue.table)
    assert house["flux_aper"].shape == house["fluxerr_aper"].shape == (319, 4)
    for k in range(4):
        np.testing.assert_array_equal(house["flux_aper"][:, k], np.asarray(given[f"FLUX_APER{k + 1}"], float))
    np.testing.assert_allclose(house["x_win"], np.asarray(given["X_IMAGE"], float) - 1.0)
    np.testing.assert_array_equal(house["errx2_win"], given["ERRX2_IMAGE"])
    assert np.isnan(house["errxy_win"]).all()
    np.testing.assert_allclose(house["elongation"], given["A_IMAGE"] / given["B_IMAGE"], rtol=1e-4)
    np.testing.assert_array_equal(house["flags"], given["FLAGS"])


def test_the_list_of_banzai_is_read_column_by_column(test_data):
    """A plain table of 47 columns in lower case: read as it is, and refused where SExtractor's names are needed."""
    path = test_data / "lco_catalogues" / "cpt1m012-fa06-20200113-0102-matched-cat.fits.gz"
    (catalogue,) = read_ldac(path)
    given = Table.read(path, hdu=1)
    assert catalogue.table.dtype.names == tuple(given.colnames)
    for name in given.colnames:
        np.testing.assert_array_equal(catalogue.table[name], np.asarray(given[name]))
    with pytest.raises(DataError, match="no pixel positions"):
        from_sextractor(catalogue.table)

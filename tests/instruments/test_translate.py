"""Headers of real and simulated cameras become facts."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
from astropy.time import Time

from spica.files.head import parse_head
from spica.files.header import HeaderCards, make_cards
from spica.files.scan import read_headers
from spica.files.wcs import parity, pixel_scale_arcsec, read_wcs, tan_cards
from spica.instruments.facts import MissingFactError
from spica.instruments.profile import parse_profile
from spica.instruments.registry import explain, load_instruments, translate
from spica.instruments.translate import frame_type_of

CD = np.diag([-0.3, 0.3]) / 3600


@pytest.fixture(scope="module")
def registry():
    return load_instruments(plugin_folders=())


def _simulated(wcs=True, **changes):
    """Return the headers of a 2 x 2 exposure of the simulated camera."""
    values = {
        "INSTRUME": "SPICASIM",
        "OBJECT": " D1 ",
        "FILTER": "r",
        "EXPTIME": 120.0,
        "MJD-OBS": 60000.25,
        "DATE-OBS": "2023-02-25T06:00:00",
        "AIRMASS": 1.2,
        "RUNID": "26A",
        "RA": 30.0,
        "DEC": -5.0,
        "OBSTYPE": "OBJECT",
        "DETSIZE": "[1:1048,1:1048]",
    } | changes
    primary = make_cards(
        [("SIMPLE", True, ""), ("BITPIX", 8, ""), ("NAXIS", 0, "")]
        + [(key.replace("_", "-"), value, "") for key, value in values.items() if value is not None]
    )
    headers = [primary]
    for k in range(4):
        x, y = 536 * (k % 2), 536 * (k // 2)
        items = [
            ("XTENSION", "IMAGE", ""),
            ("BITPIX", -32, ""),
            ("NAXIS", 2, ""),
            ("NAXIS1", 512, ""),
            ("NAXIS2", 512, ""),
        ]
        items += [("EXTNAME", f"CCD{k:02d}", ""), ("GAIN", 1.6, ""), ("RDNOISE", 4.0, ""), ("SATURATE", 60000, "")]
        items.append(("DETSEC", f"[{x + 1}:{x + 512},{y + 1}:{y + 512}]", ""))
        sky = tan_cards(30.0, -5.0, 523.5 - x, 523.5 - y, CD).cards if wcs else ()
        headers.append(HeaderCards((*make_cards(items).cards, *sky)))
    return headers


def _text_headers(test_data, name):
    raw = gzip.decompress((test_data / "headers/cfht" / name).read_bytes())
    return parse_head(raw.decode("latin-1"))


def test_the_simulated_camera(registry):
    headers = _simulated()
    facts = translate(registry.recognise(headers), headers)
    assert (facts.object, facts.filter, facts.run, facts.instrument) == ("D1", "r", "26A", "spicasim")
    assert facts.mjd_start == 60000.25
    assert facts.mjd == pytest.approx(60000.25 + 60 / 86400, abs=1e-10)
    assert facts.night == "2023-02-24"
    assert (facts.ra_deg, facts.dec_deg, facts.airmass, facts.exptime_s) == (30.0, -5.0, 1.2, 120.0)
    assert [d.name for d in facts.detectors] == ["CCD00", "CCD01", "CCD02", "CCD03"]
    assert [d.hdu for d in facts.detectors] == [1, 2, 3, 4]
    assert all(d.position_source == "header_wcs" and d.has_header_wcs for d in facts.detectors)
    assert facts.detectors[0].gain_e_per_adu == 1.6
    assert facts.who_said["filter"] == "FILTER"
    assert facts.who_said["gain"] == "GAIN"


def test_the_nominal_layout_stands_in_for_a_missing_wcs(registry):
    with_wcs = translate(registry.get("spicasim"), _simulated())
    without = translate(registry.get("spicasim"), _simulated(wcs=False))
    for told, nominal in zip(with_wcs.detectors, without.detectors, strict=True):
        assert nominal.position_source == "pointing"
        assert nominal.pixel_scale_arcsec == 0.3
        # the simulated layout is the nominal one: the same corners to a hundredth of a pixel
        np.testing.assert_allclose(nominal.footprint, told.footprint, atol=0.01 * 0.3 / 3600)


@pytest.mark.parametrize(
    ("changes", "fact", "keyword"),
    [
        ({"OBJECT": None}, "object", "OBJECT"),
        ({"FILTER": ""}, "filter", "FILTER"),
        ({"EXPTIME": "long"}, "exposure time", "EXPTIME"),
        ({"EXPTIME": 0.0}, "exposure time", "EXPTIME"),
        ({"MJD-OBS": None, "DATE-OBS": "2023-02-25"}, "time", "MJD-OBS"),
    ],
)
def test_a_missing_fact_names_the_keywords_and_the_lines_to_add(registry, changes, fact, keyword):
    headers = _simulated(**changes)
    with pytest.raises(MissingFactError) as caught:
        translate(registry.recognise(headers), headers)
    assert caught.value.fact == fact
    assert keyword in caught.value.keywords
    assert keyword in str(caught.value)
    assert "keywords = [" in caught.value.toml


def test_position_and_scale_are_required_of_science_frames_only(registry):
    headers = _simulated(wcs=False, RA=None)
    with pytest.raises(MissingFactError, match="no pointing"):
        translate(registry.get("spicasim"), headers)
    flat = translate(registry.get("spicasim"), _simulated(wcs=False, RA=None, OBJECT=None, OBSTYPE="FLAT"))
    assert (flat.frame_type, flat.object, flat.ra_deg) == ("flat", "flat", None)
    assert flat.detectors[0].footprint is None
    headers = _simulated(INSTRUME="NEWCAM", wcs=False)
    with pytest.raises(MissingFactError, match="pixel_scale_arcsec"):
        translate(registry.recognise(headers), headers)
    # with a WCS the pointing may be missing: the middle of the footprints is it
    facts = translate(registry.get("spicasim"), _simulated(RA=None))
    assert (facts.ra_deg, facts.dec_deg) == pytest.approx((30.0, -5.0), abs=1e-4)
    assert facts.who_said["ra"] == "header WCS"


def test_a_camera_without_profile_is_read_by_generic(registry):
    headers = _simulated(INSTRUME="New Cam/1")
    facts = translate(registry.recognise(headers), headers)
    assert facts.instrument == "generic:new_cam_1"
    assert len(facts.detectors) == 4
    headers = _simulated(INSTRUME="newcam", RA="02:00:00", DEC="-05:00:00", **{"MJD-OBS": None})
    facts = translate(registry.recognise(headers), headers)
    assert facts.ra_deg == pytest.approx(30.0)
    assert facts.mjd_start == pytest.approx(60000.25, abs=1e-9)


def test_microobservatory_times_are_ut_to_the_millisecond(registry, test_data):
    paths = sorted((test_data / "hatp32_microobservatory").glob("HATP*.gz"))
    assert len(paths) == 48
    starts = []
    for path in paths:
        headers = read_headers(path)
        facts = translate(registry.recognise(headers, path.name), headers, path.name)
        assert facts.instrument == "microobservatory"
        assert facts.night == "2017-12-19"
        assert (facts.object, facts.filter, facts.exptime_s) == ("HATP-32", "clear", 60.0)
        # the header's own MJD-OBS has three decimals: a grid of 0.001 day, rounded or cut
        assert abs(facts.mjd_start - headers[0]["MJD-OBS"]) < 0.001
        starts.append(facts.mjd_start)
        # file names hold the UT of the start as yymmddhhmmss
        stamp = path.name[7:19]
        named = f"20{stamp[:2]}-{stamp[2:4]}-{stamp[4:6]}T{stamp[6:8]}:{stamp[8:10]}:{stamp[10:12]}"
        assert abs(Time(named).mjd - facts.mjd_start) < 2 / 86400
    assert starts == sorted(starts)
    detector = facts.detectors[0]
    assert detector.gain_e_per_adu is None
    assert detector.position_source == "pointing"
    wcs = read_wcs(detector.wcs)
    assert parity(wcs) == registry.get("microobservatory").parity == -1
    assert pixel_scale_arcsec(wcs) == pytest.approx(5.21)
    assert 1.0 < facts.airmass < 2.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("multi_plane__mega__1257365p.fits.header.gz", ("science", "MM1842_3", "i", "10Bm03", "2010-11-02", 36)),
        ("single_plane__mega__2463796o.fits.header.gz", ("science", "2I", "r", "19Bm03", "2019-12-03", 40)),
        ("multi_plane__mega__979412o.fits.header.gz", ("science", "UrsaMajII_4", "r", "08Am03", "2008-03-29", 36)),
        ("single_plane__mega__676000o.fits.header.gz", ("science", "45 West", "clear", "2002-12", "2002-12-11", 36)),
        ("single_plane__mega__2463854b.fits.header.gz", ("bias", "Zenith", "CaHK", "19Bm03", "2019-12-03", 40)),
        ("multi_plane__mega__1927963f.fits.header.gz", ("flat", "Flats", "gri", "16Am03", "2016-05-10", 40)),
    ],
)
def test_megaprime(registry, test_data, name, expected):
    headers = _text_headers(test_data, name)
    facts = translate(registry.recognise(headers, name), headers, name)
    assert facts.instrument == "megaprime"
    found = (facts.frame_type, facts.object, facts.filter, facts.run, facts.night, len(facts.detectors))
    assert found == expected
    assert facts.detectors[0].pixel_scale_arcsec == pytest.approx(0.186, abs=0.003)


@pytest.mark.parametrize(
    ("name", "units", "overscans"),
    [
        ("single_plane__mega__676000o.fits.header.gz", 2, {(1024, 1056)}),
        ("single_plane__mega__688231o.fits.header.gz", 2, {(1024, 1056)}),
        ("multi_plane__mega__979412o.fits.header.gz", 1, {(0, 32), (2080, 2112)}),
    ],
)
def test_both_amplifiers_of_a_megacam_ccd_cover_it_once(registry, test_data, name, units, overscans):
    """In units of their own (DETSEC with the overscan, and one row too long, too) or side by side in one unit."""
    headers = _text_headers(test_data, name)
    facts = translate(registry.get("megaprime"), headers, name)
    assert [d.name for d in facts.detectors] == [f"ccd{k:02d}" for k in range(36)]
    for detector in facts.detectors:
        assert detector.shape == (4612, 2048)
        assert len({a.hdu for a in detector.amplifiers}) == units
        spans = sorted((a.target_section.x_start, a.target_section.x_stop) for a in detector.amplifiers)
        assert spans == [(0, 1024), (1024, 2048)]
        assert {(a.overscan_section.x_start, a.overscan_section.x_stop) for a in detector.amplifiers} == overscans
    gains = {a.name[-1]: a.gain_e_per_adu for a in facts.detectors[0].amplifiers}
    assert sorted(gains.values()) == [1.54, 1.63]
    assert facts.detectors[0].gain_e_per_adu == pytest.approx(1.585)
    if units == 2:  # the upper row is read upside down, amplifier a (the second unit) from the right
        turned = [(a.target_section.flip_x, a.target_section.flip_y) for a in facts.detectors[0].amplifiers]
        assert turned == [(False, True), (True, True)]


def test_processed_frames_have_neither_read_outs_nor_overscan(registry, test_data):
    for letter, n_amplifiers in (("o", 2), ("p", 0)):
        headers = _text_headers(test_data, f"multi_plane__mega__979412{letter}.fits.header.gz")
        for detector in translate(registry.get("megaprime"), headers).detectors:
            assert len(detector.amplifiers) == n_amplifiers
            assert detector.overscan_section is None
            assert detector.shape == (4612, 2048)
            assert (detector.data_section is None) == (letter == "o")


def test_amplifiers_lie_where_their_whole_ccd_lies(registry, test_data):
    """Nominal places of CCDs put together of two units: those of the WCS of a later raw frame, relative to pointing."""
    found = []
    for name in ("single_plane__mega__688231o.fits.header.gz", "multi_plane__mega__979412o.fits.header.gz"):
        facts = translate(registry.get("megaprime"), _text_headers(test_data, name), name)
        axis = read_wcs(tan_cards(facts.ra_deg, facts.dec_deg, 0.0, 0.0, np.diag([-1.0, 1.0]) / 3600))
        corners = [axis.all_world2pix(np.array(d.footprint), 0).mean(axis=0) for d in facts.detectors]
        found.append(np.array(corners))
    # the plate scale is nominal, the gaps are those of DETSEC: some arcsec at the edge of a degree; half a CCD is 190
    assert np.abs(found[0] - found[1]).max() < 60


def test_cubes_of_wircam_are_sums_with_the_exposure_of_all_planes(registry, test_data):
    headers = _text_headers(test_data, "multi_plane__wircam__840066o.fits.header.gz")
    facts = translate(registry.recognise(headers), headers)
    assert facts.exptime_s == pytest.approx(4 * 19.9783)
    assert {(d.planes, d.saturation_adu) for d in facts.detectors} == {("sum", 24000.0)}
    headers = _text_headers(test_data, "multi_plane__wircam__2281792o.fits.header.gz")
    facts = translate(registry.recognise(headers), headers)
    assert facts.exptime_s == 20.0
    assert {(d.planes, d.saturation_adu) for d in facts.detectors} == {("", 65535.0)}


def test_the_layout_from_detsec_is_that_of_the_header_wcs(registry, test_data):
    """MegaCam: the nominal places agree with Elixir's WCS to the gaps DETSEC leaves out (13 arcsec of 1 degree)."""
    headers = _text_headers(test_data, "multi_plane__mega__1257365p.fits.header.gz")
    text = registry.get("megaprime")
    nominal = parse_profile(
        'name = "m"\npixel_scale_arcsec = 0.187\n[layout]\nsection_keyword = "DETSEC"\n'
        'size_keyword = "DETSIZE"\n[detectors]\nuse_wcs = false\n',
        "m.toml",
    )
    nominal = replace(text, layout=nominal.layout, detectors=replace(text.detectors, use_wcs=False))
    told, guessed = translate(text, headers), translate(nominal, headers)
    offsets = []
    for one, other in zip(told.detectors, guessed.detectors, strict=True):
        a, b = np.mean(one.footprint, axis=0), np.mean(other.footprint, axis=0)
        offsets.append((a - b) * [np.cos(np.radians(59.5)), 1.0] * 3600)
    assert np.abs(np.array(offsets)).max() < 120


def test_amplifiers_are_assembled_by_their_sections(registry, test_data):
    path = test_data / "lco_sinistro_raw_mef/mef_raw_test_frame.fits.gz"
    headers = read_headers(path)
    profile = parse_profile(
        'name = "sinistro"\npixel_scale_arcsec = 0.389\n'
        '[recognise]\nall = [{ keyword = "INSTRUME", matches = "^fa" }]\n'
        '[facts]\nobject.keywords = ["OBJECT"]\nexptime.keywords = ["EXPTIME"]\nfilter.keywords = ["FILTER"]\n'
        'ra = { keywords = ["RA"], unit = "hourangle" }\ndec = { keywords = ["DEC"], unit = "deg" }\n'
        '[time]\nsources = [{ form = "iso", keywords = ["DATE-OBS"] }]\n'
        '[detectors]\namplifiers = "assemble"\nname.value = "sinistro"\n'
        'data_section.keywords = ["DATASEC"]\noverscan_section.keywords = ["BIASSEC"]\n'
        'target_section.keywords = ["DETSEC"]\ngain.keywords = ["GAIN"]\n',
        "sinistro.toml",
    )
    facts = translate(profile, headers)
    (detector,) = facts.detectors
    assert len(detector.amplifiers) == 4
    assert detector.shape == (1024, 1024)
    covered = np.zeros(detector.shape, int)
    for amplifier in detector.amplifiers:
        assert amplifier.data_section is not None
        covered[amplifier.target_section.slices] += 1
        height, width = (s.stop - s.start for s in amplifier.target_section.slices)
        assert (height, width) == tuple(s.stop - s.start for s in amplifier.data_section.slices)
    assert (covered == 1).all()


def test_explain_says_where_facts_came_from_even_where_some_are_missing(registry):
    headers = _simulated(OBJECT=None)
    rows = {row.fact: row for row in explain(registry.get("spicasim"), headers)}
    assert rows["object"].value is None
    assert rows["object"].required
    assert rows["object"].candidates == ("OBJECT",)
    assert (rows["mjd"].value, rows["mjd"].who_said) == ("60000.25000000", "MJD-OBS")
    assert rows["detectors"].value == "4"
    assert rows["detector.gain"].who_said == "GAIN"


def test_units_conditions_and_hierarch_of_a_written_profile(registry):
    profile = parse_profile(
        'name = "vlt"\nparity = -1\nposition_angle_deg = 90.0\npixel_scale_arcsec = 1.0\n'
        "[observatory.longitude]\nvalue = -70.0\n"
        '[facts]\nobject.keywords = ["ESO OBS TARG NAME"]\nexptime = { keywords = ["EXPMS"], unit = "ms" }\n'
        'filter = { keywords = ["ESO INS FILT1 NAME"], extract = "^([A-Z])_" }\n'
        'ra = { keywords = ["RA"], unit = "hourangle" }\ndec = { keywords = ["DEC"], unit = "deg" }\n'
        '[time]\nmarks = "mid"\nclock_ahead_hours = -4\n'
        'sources = [{ form = "iso", keywords = ["DATE-LOC", "TIME-LOC"] }]\n'
        '[[frames]]\ntype = "other"\nall = [{ file_name = true, matches = "test" }]\n'
        '[layout.detectors.main]\nxi_arcsec = 100.0\neta_arcsec = 0.0\n[detectors]\nname.value = "main"\n',
        "vlt.toml",
    )
    header = make_cards(
        [
            ("SIMPLE", True, ""),
            ("BITPIX", 16, ""),
            ("NAXIS", 2, ""),
            ("NAXIS1", 101, ""),
            ("NAXIS2", 101, ""),
            ("ESO OBS TARG NAME", "M 83", ""),
            ("EXPMS", 1500, ""),
            ("ESO INS FILT1 NAME", "R_SPECIAL", ""),
            ("RA", "10:00:00", ""),
            ("DEC", "+00:00:00", ""),
            ("DATE-LOC", "2024-05-01", ""),
            ("TIME-LOC", "20:00:00", ""),
        ]
    )
    facts = translate(profile, [header], "night.fits")
    assert (facts.object, facts.filter, facts.exptime_s) == ("M 83", "R", 1.5)
    assert facts.mjd == pytest.approx(Time("2024-05-02T00:00:00").mjd)
    assert facts.mjd_start == pytest.approx(facts.mjd - 0.75 / 86400)
    assert facts.ra_deg == pytest.approx(150.0)
    assert translate(profile, [header], "test.fits").frame_type == "other"
    wcs = read_wcs(facts.detectors[0].wcs)
    assert parity(wcs) == -1
    # +y points east at position angle 90; the field turned by 90 degrees moves the detector from east to south
    ra, dec = wcs.all_pix2world(50, 50, 0)
    assert (ra, dec) == pytest.approx((150.0, -100 / 3600), abs=1e-6)
    ra_up, _ = wcs.all_pix2world(50, 51, 0)
    assert (ra_up - ra) * 3600 == pytest.approx(1.0, abs=1e-3)


def _near_infrared(changes=()):
    """Return a profile with a table of scales, and headers of three summed frames of 4 s each."""
    profile = parse_profile(
        'name = "nir"\n[facts]\nobject.keywords = ["OBJECT"]\nexptime = { keywords = ["ONSKY"], unit = "s" }\n'
        'elapsed = { keywords = ["EXPTIME"], times = ["COADDS"] }\nfilter.value = "J"\n'
        'ra.keywords = ["RA"]\ndec.keywords = ["DEC"]\n[time]\nsources = [{ form = "mjd", keywords = ["MJD-OBS"] }]\n'
        '[detectors]\nbinning.keywords = ["CCDSUM"]\n'
        'pixel_scale = { keywords = ["OPTICS", "CAMERA"], values = { F6 = 0.1, f32 = 0.02 } }\n'
        'read_noise = { keywords = ["LNRS", "NDAVGS"], join = "x", values = { 1x16 = 35.0 } }\n',
        "nir.toml",
    )
    values = {
        "SIMPLE": True,
        "BITPIX": 16,
        "NAXIS": 2,
        "NAXIS1": 100,
        "NAXIS2": 100,
        "OBJECT": "M 83",
        "ONSKY": 2.0,
        "EXPTIME": 4.0,
        "COADDS": 3,
        "RA": 204.0,
        "DEC": -29.0,
        "MJD-OBS": 60000.0,
        "OPTICS": "unheard of",
        "CAMERA": "f6",
        "CCDSUM": "2 2",
        "LNRS": 1,
        "NDAVGS": 16,
    } | dict(changes)
    return profile, make_cards([(key, value, "") for key, value in values.items()])


def test_a_table_of_values_translates_what_is_stated():
    """Scales of a table are those of unbinned pixels; texts that are not in the table count as not stated."""
    profile, header = _near_infrared()
    (detector,) = translate(profile, [header]).detectors
    assert detector.pixel_scale_arcsec == pytest.approx(0.2)
    assert detector.read_noise_e == 35.0
    profile, header = _near_infrared({"NDAVGS": 15, "CAMERA": "f32"})
    (detector,) = translate(profile, [header]).detectors
    assert detector.pixel_scale_arcsec == pytest.approx(0.04)
    assert detector.read_noise_e is None
    with pytest.raises(MissingFactError, match="pixel scale"):
        translate(profile, [_near_infrared({"CAMERA": "f7"})[1]])


def test_the_middle_is_half_of_what_passed_between_start_and_end():
    profile, header = _near_infrared()
    facts = translate(profile, [header])
    assert facts.exptime_s == 2.0
    assert facts.mjd == pytest.approx(60000.0 + 6.0 / 86400, abs=1e-10)
    facts = translate(profile, [_near_infrared({"EXPTIME": 0.1})[1]])  # shorter than the exposure: it is passed over
    assert facts.mjd == pytest.approx(60000.0 + 1.0 / 86400, abs=1e-10)


@pytest.mark.parametrize(
    ("cd", "source"),
    [
        ((-5.5e-5, 1e-7, -1e-8, 5.5e-5), "header_wcs"),
        ((-5.5e-5, 0.0, 0.0, 2.2e-4), "header_wcs"),  # binned 1 x 4
        ((-5.5e-55, 1e-7, -1e-8, 5.5e-5), "pointing"),  # a damaged exponent, as an archive holds it
        ((1.0, 0.0, 0.0, 1.7), "pointing"),  # a unit matrix that nobody filled
    ],
)
def test_a_wcs_of_impossible_pixels_is_not_trusted(cd, source):
    keys = ("CD1_1", "CD1_2", "CD2_1", "CD2_2")
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 204.0, "CRVAL2": -29.0, "CRPIX1": 50.0, "CRPIX2": 50.0}
    profile, header = _near_infrared(sky | dict(zip(keys, cd, strict=True)))
    (detector,) = translate(profile, [header]).detectors
    assert detector.position_source == source
    assert 0.1 < detector.pixel_scale_arcsec < 0.5


@pytest.mark.parametrize("text", ["x" * 68, "T", "-1e999", "[1:2,3:4]", "99:99:99", "2023-99-99T99:99:99"])
def test_hostile_values_end_in_facts_or_in_a_missing_fact(registry, text):
    for keyword in ("OBJECT", "FILTER", "EXPTIME", "MJD-OBS", "DATE-OBS", "RA", "DEC", "AIRMASS", "RUNID", "DETSIZE"):
        headers = _simulated(wcs=False, **{keyword: text})
        try:
            exptime = translate(registry.recognise(headers), headers).exptime_s
        except MissingFactError:
            exptime = 120.0
        assert exptime > 0


def test_a_frame_rule_without_conditions_never_holds():
    profile = parse_profile('name = "x"\n[[frames]]\ntype = "flat"\n', "x.toml")
    assert frame_type_of(profile, _simulated()) == "science"

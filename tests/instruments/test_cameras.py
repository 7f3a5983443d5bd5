"""Real FITS files of cameras, not only their headers, against values read from their cards by hand.

Sections are 0-based and half open as (x_start, x_stop, y_start, y_stop); companions are looked for beside the image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time

from spica.files.header import HeaderCards, make_cards
from spica.files.scan import read_headers
from spica.files.wcs import parity, pixel_scale_arcsec, read_wcs
from spica.instruments.base import Instrument
from spica.instruments.dates import parse_iso_mjd, tai_minus_utc_s
from spica.instruments.facts import AmplifierFacts, ExposureFacts, MissingFactError, PixelSection
from spica.instruments.profile import parse_profile
from spica.instruments.registry import Registry, load_instruments, translate

CP6 = "decam_cutouts_gaia/testcase6/images/decam/CP/V4.8.2a"
CP9 = "decam_cutouts_gaia/testcase9/images/decam/CP/V4.8.2a"
HRC, WFC, DECAM10 = "hst_acs_hrc_47tuc", "hst_acs_wfc_reference", "decam_10exp_256px"
HEX2, HEX3 = "DES survey hex 100+37 tiling 2", "DES survey hex 100+37 tiling 3"
G, R = "g DECam SDSS c0001 4720.0 1520.0", "r DECam SDSS c0002 6415.0 1480.0"
I, Z = "i DECam SDSS c0003 7835.0 1470.0", "z DECam SDSS c0004 9260.0 1520.0"  # noqa: E741 - the filter's name
SINISTRO = "lco_sinistro_raw_mef/mef_raw_test_frame.fits.gz"
LATISS = "headers/latiss/AT_O_20220208_000142-R00S00_ZERO_PIXELS.fits.gz"


class Expected(NamedTuple):
    """What a reader of the cards says of a file; `shape` is (ny, nx) after trimming, `gain` the detector's."""

    path: str
    instrument: str
    frame_type: str
    object: str
    filter: str
    filter_raw: str
    run: str
    night: str
    exptime_s: float
    mjd: float
    pointing: tuple[float, float]
    airmass: float | None
    n_detectors: int
    shape: tuple[int, int]
    gain: float | None


def _decam(path, name, filter_name, raw, run, night, exptime, mjd, at, airmass, shape, gain):
    return Expected(
        path, "decam", "science", name, filter_name, raw, run, night, exptime, mjd, at, airmass, 1, shape, gain
    )


def _resampled(letter, night, mjd, at, airmass, gain):
    path = f"{DECAM10}/DEC-OBS{letter}.mini.fits.gz"
    run = night[:7]
    return _decam(path, "unnamed", "i", I, run, night, 330.0, mjd, at, airmass, (256, 256), gain)


def _hrc(name, filter_name, night, exptime, mjd, at, gain):
    path = f"{HRC}/{name}.fits.gz"
    raw = filter_name
    values = ("NGC104", filter_name, raw, "9019", night, exptime, mjd, at, None, 1, (1024, 1024), gain)
    return Expected(path, "acs_hrc", "science", *values)


def _hatp(name, mjd, airmass):
    at = (31.312099, 46.769087)
    values = ("HATP-32", "clear", "Clear", "2017-12", "2017-12-19", 60.0, mjd, at, airmass, 1, (500, 650), None)
    return Expected(f"hatp32_microobservatory/{name}", "microobservatory", "science", *values)


# fmt: off
FILES = [
    # DATE-OBS, UTSTART and UTSTOP agree: 01:55:17.144; MJD-OBS is 4.4 s early
    Expected(SINISTRO, "sinistro", "science", "2021 SO2", "w", "w", "LCO2021B-002", "2021-10-07", 94.975,
             59495 + (6917.144 + 94.975 / 2) / 86400, (287.3248292, 59.4939306), 1.1598, 1, (1024, 1024), 6.295),
    # TAI is 37 s ahead; 20 s of exposure
    Expected(LATISS, "latiss", "other", "HD  49790", "g", "SDSSg", "CWFS", "2022-02-08", 20.0,
             59619.0415977562 - 37 / 86400 + 10 / 86400, (102.2778496, -26.0634903), 1.0482, 1, (4000, 4072), None),
    _hrc("j8bt05njq_raw", "F555W", "2002-04-13", 60.0, 52377.76187078, (6.034709, -72.0876116), 2.0),
    _hrc("j8bt06nyq_flt", "F606W", "2002-04-13", 60.0, 52377.86172041, (6.0271483, -72.0835111), 1.0),
    _hrc("j8bt06nyq_flt_updatewcs_sip", "F606W", "2002-04-13", 60.0, 52377.86172041, (6.0271483, -72.0835111), 1.0),
    _hrc("j8bt06o6q_raw", "F606W", "2002-04-13", 60.0, 52377.89390781, (6.0138171, -72.0858360), 2.0),
    _hrc("j8bt09jcq_raw", "F330W", "2002-04-12", 66.0, 52377.19069031, (6.0233692, -72.0814608), 2.0),
    _decam(f"{CP6}/CP20150109/c4d_150110_053718_ooi_z_ls9.S4.fits.gz", "DECaLS_7513_z", "z", Z, "2014B-0404",
           "2015-01-09", 150.0, 57032.23281101, (110.2263292, 23.7859439), 1.74, (100, 100), 3.872514),
    _decam(f"{CP6}/CP20171112/c4d_171113_061941_ooi_r_ls9.S4.fits.gz", "DECaLS_7513_r", "r", R, "2014B-0404",
           "2017-11-12", 88.0, 58070.26418782, (110.2239917, 23.7851100), 2.19, (100, 101), 3.894251),
    _decam(f"{CP6}/CP20181103/c4d_181104_072440_ooi_g_ls9.S4.fits.gz", "DECaLS_7513_g", "g", G, "2014B-0404",
           "2018-11-03", 140.0, 58426.30961085, (110.2259542, 23.7856661), 1.98, (100, 101), 4.046181),
    _decam(f"{CP6}/CP20181213/c4d_181214_050844_ooi_g_ls9.S9.fits.gz", "DECaLS_39257_g", "g", G, "2014B-0404",
           "2018-12-13", 200.0, 58466.21556156, (110.8652833, 23.7390269), 1.88, (101, 101), 4.023576),
    _decam(f"{CP6}/CP20181214/c4d_181215_045000_ooi_z_ls9.S9.fits.gz", "DECaLS_39257_z", "z", Z, "2014B-0404",
           "2018-12-14", 88.0, 58467.20190889, (110.8665, 23.7375269), 1.95, (101, 101), 3.954968),
    _decam(f"{CP6}/CP20181214/c4d_181215_051332_ooi_r_ls9.S9.fits.gz", "DECaLS_39257_r", "r", R, "2014B-0404",
           "2018-12-14", 60.0, 58467.21808983, (110.8667833, 23.7371661), 1.84, (101, 101), 3.793314),
    _decam(f"{CP9}/CP20131121/c4d_131122_030338_ooi_z_ls9.S21.fits.gz", HEX3, "z", Z, "2012B-0001",
           "2013-11-21", 90.0, 56618.12804749, (9.4553708, 2.8290000), 1.34, (101, 101), 4.295041),
    _decam(f"{CP9}/CP20141028/c4d_141029_043225_ooi_g_ls9.N26.fits.gz", HEX2, "g", G, "2012B-0001",
           "2014-10-28", 90.0, 56959.18808143, (9.2290792, 4.1310281), 1.34, (101, 101), 3.719709),
    _decam(f"{CP9}/CP20141028/c4d_141029_043420_ooi_r_ls9.N26.fits.gz", HEX2, "r", R, "2012B-0001",
           "2014-10-28", 90.0, 56959.18944455, (9.2290792, 4.1309439), 1.34, (100, 101), 3.730283),
    # DATE-OBS of all ten is that of 04a; the weight map's name has the start of each: 05:24:09 and 165 s for 04b
    _resampled("04a", "2018-08-03", 58334.39324766, (316.8366250, -65.9661667), 1.65, 3.984047),
    _resampled("04b", "2018-08-03", 58334.22701389, (316.8347083, -65.9673056), 1.23, 3.984047),
    _resampled("04c", "2018-08-03", 58334.24776620, (316.8349583, -65.9672778), 1.25, 3.984047),
    _resampled("04d", "2018-08-03", 58334.33089120, (316.8376667, -65.9662778), 1.39, 3.984047),
    _resampled("04e", "2018-08-03", 58334.35165509, (316.8407500, -65.9657778), 1.46, 3.984047),
    _resampled("18a", "2016-08-17", 57618.18744213, (316.8425417, -65.9671389), 1.23, 4.1505),
    _resampled("18b", "2016-08-17", 57618.08336806, (316.8423750, -65.9644167), 1.32, 4.1505),
    _resampled("18c", "2016-08-17", 57618.12488426, (316.8402083, -65.9665278), 1.25, 4.1505),
    _resampled("18d", "2016-08-17", 57618.22891204, (316.8354167, -65.9650833), 1.27, 4.1505),
    _resampled("18e", "2016-08-17", 57618.28349537, (316.8317500, -65.9653889), 1.37, 4.1505),
    _hatp("HATP-32171220013343.FITS.gz", 58107.06543191, 1.126),
    _hatp("HATP-32171220083612.FITS.gz", 58107.35881971, 1.904),
]
# fmt: on

Read = Callable[[str], tuple[Instrument, ExposureFacts]]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_instruments(plugin_folders=())


@pytest.fixture
def read(registry: Registry, test_data: Path) -> Read:
    """Return a reader of the facts of a file of the test data."""

    def facts(path: str) -> tuple[Instrument, ExposureFacts]:
        headers, name = read_headers(test_data / path), Path(path).name
        instrument = registry.recognise(headers, name)
        return instrument, translate(instrument, headers, name)

    return facts


def _bounds(section: PixelSection | None) -> tuple[int, int, int, int] | None:
    return None if section is None else (section.x_start, section.x_stop, section.y_start, section.y_stop)


def _flips(section: PixelSection | None) -> tuple[bool, bool]:
    assert section is not None
    return section.flip_x, section.flip_y


def _tiles(amplifiers: tuple[AmplifierFacts, ...], shape: tuple[int, int]) -> bool:
    """Whether the targets cover the detector once and have the sizes of the data they take."""
    covered = np.zeros(shape, int)
    for amplifier in amplifiers:
        assert amplifier.data_section is not None
        assert amplifier.target_section is not None
        covered[amplifier.target_section.slices] += 1
        sizes = [tuple(s.stop - s.start for s in a.slices) for a in (amplifier.data_section, amplifier.target_section)]
        assert sizes[0] == sizes[1]
    return bool((covered == 1).all())


@pytest.mark.parametrize("row", FILES, ids=[Path(row.path).name for row in FILES])
def test_a_file_says_what_a_reader_of_its_cards_sees(read, row):
    _, facts = read(row.path)
    words = (facts.instrument, facts.frame_type, facts.object_raw, facts.filter, facts.filter_raw)
    assert words == row[1:6]
    assert (facts.run, facts.night, facts.exptime_s) == (row.run, row.night, row.exptime_s)
    assert facts.mjd == pytest.approx(row.mjd, abs=2e-6)
    assert (facts.ra_deg, facts.dec_deg) == pytest.approx(row.pointing, abs=2e-6)
    assert facts.airmass == (None if row.airmass is None else pytest.approx(row.airmass, abs=2e-3))
    assert len(facts.detectors) == row.n_detectors
    detector = facts.detectors[0]
    assert detector.shape == row.shape
    assert detector.gain_e_per_adu == (None if row.gain is None else pytest.approx(row.gain, abs=1e-6))


def test_sinistro_turns_three_of_four_amplifiers(read):
    (detector,) = read(SINISTRO)[1].detectors
    amplifiers = detector.amplifiers
    assert [a.hdu for a in amplifiers] == [1, 2, 3, 4]
    assert {_bounds(a.data_section) for a in amplifiers} == {(0, 512, 0, 512)}
    assert {_bounds(a.overscan_section) for a in amplifiers} == {(519, 540, 0, 512)}
    targets = [(0, 512, 512, 1024), (0, 512, 0, 512), (512, 1024, 0, 512), (512, 1024, 512, 1024)]
    assert [_bounds(a.target_section) for a in amplifiers] == targets
    assert [_flips(a.target_section) for a in amplifiers] == [
        (False, True),
        (False, False),
        (True, False),
        (True, True),
    ]
    assert [a.gain_e_per_adu for a in amplifiers] == [6.42, 6.23, 6.27, 6.26]
    assert {a.read_noise_e for a in amplifiers} == {7.0}
    assert _tiles(amplifiers, detector.shape)
    assert (detector.saturation_adu, detector.maps) == (40000.0, ())
    # the primary's nominal WCS: 0.778 arcsec, east to the left, the target in the middle
    assert detector.position_source == "pointing"
    wcs = read_wcs(detector.wcs)
    assert (parity(wcs), pixel_scale_arcsec(wcs)) == (1, pytest.approx(0.778))
    assert wcs.all_pix2world(511.5, 511.5, 0) == pytest.approx([287.3248292, 59.4939306], abs=1e-6)


def test_the_sky_goes_on_across_the_amplifiers_of_sinistro(read, test_data):
    """Stars lie on both sides of a border, so that its two lines of pixels agree where the amplifiers are turned right.

    Lines beside each other within one amplifier correlate at 0.78; lines that are no neighbours below 0.12.
    """
    (detector,) = read(SINISTRO)[1].detectors
    image = np.zeros(detector.shape)
    for amplifier in detector.amplifiers:
        pixels = fits.getdata(test_data / SINISTRO, amplifier.hdu).astype(float)
        level = np.median(pixels[amplifier.overscan_section.slices])
        part = (pixels[amplifier.data_section.slices] - level) * amplifier.gain_e_per_adu / detector.gain_e_per_adu
        flips = [axis for axis, turned in enumerate(_flips(amplifier.target_section)[::-1]) if turned]
        image[amplifier.target_section.slices] = np.flip(part, flips)
    for half in (slice(0, 512), slice(512, 1024)):
        for one, other in ((image[half, 511], image[half, 512]), (image[511, half], image[512, half])):
            clipped = [np.clip(line - np.median(line), -200, 200) for line in (one, other)]
            assert np.corrcoef(clipped)[0, 1] > 0.25


def test_latiss_takes_sixteen_amplifiers_without_their_prescan(read):
    (detector,) = read(LATISS)[1].detectors
    amplifiers = detector.amplifiers
    assert [a.name for a in amplifiers[:2]] == ["Segment10", "Segment11"]
    assert [a.hdu for a in amplifiers] == list(range(1, 17))
    assert {a.shape for a in amplifiers} == {(2048, 576)}
    # 576 columns: 3 of prescan, 509 of sky, 64 of overscan; the first and last two of the overscan are left out
    assert {_bounds(a.data_section) for a in amplifiers} == {(3, 512, 0, 2000)}
    assert {_bounds(a.overscan_section) for a in amplifiers} == {(514, 574, 0, 2000)}
    targets = {a.name: (_bounds(a.target_section), _flips(a.target_section)) for a in amplifiers}
    assert targets["Segment10"] == ((0, 509, 0, 2000), (True, False))
    assert targets["Segment17"] == ((3563, 4072, 0, 2000), (True, False))
    assert targets["Segment07"] == ((3563, 4072, 2000, 4000), (True, True))
    assert targets["Segment00"] == ((0, 509, 2000, 4000), (True, True))
    assert _tiles(amplifiers, detector.shape)
    assert detector.position_source == "pointing"


@pytest.mark.parametrize(
    ("change", "frame_type"),
    [
        ({"IMGTYPE": "OBJECT"}, "science"),
        ({"IMGTYPE": "OBJECT", "GRATING": "ronchi170lpmm"}, "other"),
        ({"IMGTYPE": "BIAS"}, "bias"),
        ({"IMGTYPE": "FLAT"}, "flat"),
    ],
)
def test_latiss_is_a_camera_only_without_its_grating(registry, test_data, change, frame_type):
    primary, *rest = read_headers(test_data / LATISS)
    changed = _changed(primary, **change)
    assert translate(registry.get("latiss"), [changed, *rest]).frame_type == frame_type


def _changed(header: HeaderCards, **values: str) -> HeaderCards:
    return header.without(values).with_cards(make_cards([(key, value, "") for key, value in values.items()]).cards)


def test_a_raw_frame_of_acs_is_trimmed_and_has_no_maps(read, test_data):
    (detector,) = read(f"{HRC}/j8bt05njq_raw.fits.gz")[1].detectors
    assert _bounds(detector.data_section) == (19, 1043, 0, 1024)
    assert _bounds(detector.overscan_section) == (1044, 1062, 0, 1024)
    assert (detector.maps, detector.amplifiers, detector.read_noise_e) == ((), (), None)
    assert detector.saturation_adu == 65535.0
    # the levels of the columns and rows say the same: 1134 of overscan, more of sky
    pixels = fits.getdata(test_data / f"{HRC}/j8bt05njq_raw.fits.gz", 1).astype(float)
    columns, rows = np.median(pixels[:1024], axis=0), np.median(pixels[:, 19:1043], axis=1)
    assert (columns[[17, 18, 1043, 1061]] == 1134).all()
    assert (columns[[19, 20, 1041, 1042]] > 1140).all()
    assert rows[1023] > 1140
    assert rows[1024] == 1134
    overscan = pixels[detector.overscan_section.slices]
    assert np.abs(np.median(overscan, axis=0) - 1134).max() <= 1
    # CRPIX 531, 512 of the raw frame lies at 512, 512 of the trimmed one
    assert detector.position_source == "header_wcs"
    wcs = read_wcs(detector.wcs)
    assert wcs.all_pix2world(511.0, 511.0, 0) == pytest.approx([6.034709017, -72.087611553], abs=1e-8)


@pytest.mark.parametrize("name", ["j8bt06nyq_flt", "j8bt06nyq_flt_updatewcs_sip"])
def test_a_flat_fielded_frame_of_acs_has_its_errors_and_quality_beside_it(read, name):
    instrument, facts = read(f"{HRC}/{name}.fits.gz")
    (detector,) = facts.detectors
    assert (detector.data_section, detector.overscan_section, detector.amplifiers) == (None, None, ())
    assert [(m.kind, m.hdu) for m in detector.maps] == [("error", 2), ("dq", 3)]
    assert (detector.read_noise_e, detector.saturation_adu) == (4.71, 155000.0)
    assert instrument.dq_bits == 31743
    assert not instrument.dq_bits & 1024


def test_the_wide_field_channel_is_two_chips(registry, test_data):
    primary, *rest = read_headers(test_data / f"{WFC}/j94f05bgq_flt_ZERO_PIXELS.fits.gz")
    instrument = registry.recognise([primary, *rest], "j94f05bgq_flt.fits")
    assert instrument.name == "acs_wfc"
    with pytest.raises(MissingFactError) as caught:  # this copy lost TARGNAME
        translate(instrument, [primary, *rest])
    assert (caught.value.fact, caught.value.keywords) == ("object", ("TARGNAME",))
    facts = translate(instrument, [_changed(primary, TARGNAME="NGC104"), *rest], "j94f05bgq_flt.fits")
    assert (facts.object, facts.filter, facts.night, facts.frame_type) == ("NGC104", "F606W", "2005-03-06", "science")
    assert facts.mjd == pytest.approx(53436.28571938 + 200 / 86400, abs=1e-9)
    assert (facts.ra_deg, facts.dec_deg) == pytest.approx((5.655, -72.07055556))
    described = [(d.name, d.hdu, d.shape, d.gain_e_per_adu) for d in facts.detectors]
    assert described == [("chip2", 1, (2048, 4096), 1.0), ("chip1", 4, (2048, 4096), 1.0)]
    # its ERR and DQ were cut to 2 x 2 pixels: no maps of chips of 4096 x 2048
    assert [d.maps for d in facts.detectors] == [(), ()]
    # sqrt |det CD| of either chip
    assert [d.pixel_scale_arcsec for d in facts.detectors] == pytest.approx([0.050024, 0.048854], abs=1e-6)


def test_a_raw_frame_of_the_wide_field_channel_closes_two_amplifiers_a_chip(registry, test_data):
    headers = list(read_headers(test_data / f"{WFC}/j94f05bgq_flt_ZERO_PIXELS.fits.gz"))
    headers[0] = _changed(headers[0], TARGNAME="NGC104")
    for hdu in (1, 4):
        kept = headers[hdu].without(["NAXIS1", "NAXIS2", "BUNIT"])
        sized = make_cards([("NAXIS1", 4144, ""), ("NAXIS2", 2068, ""), ("BUNIT", "COUNTS", "")]).cards
        headers[hdu] = HeaderCards((*kept.cards[:3], *sized, *kept.cards[3:]))
    chip2, chip1 = translate(registry.get("acs_wfc"), headers).detectors
    assert chip2.shape == chip1.shape == (2048, 4096)
    assert [_bounds(a.data_section) for a in chip2.amplifiers] == [(24, 2072, 0, 2048), (2072, 4120, 0, 2048)]
    assert [_bounds(a.data_section) for a in chip1.amplifiers] == [(24, 2072, 20, 2068), (2072, 4120, 20, 2068)]
    assert [_bounds(a.overscan_section) for a in chip1.amplifiers] == [(16, 24, 20, 2068), (4120, 4128, 20, 2068)]
    assert [_bounds(a.target_section) for a in chip1.amplifiers] == [(0, 2048, 0, 2048), (2048, 4096, 0, 2048)]
    assert chip1.saturation_adu == 65535.0


def test_a_file_of_single_pixels_is_refused(registry, test_data):
    headers = read_headers(test_data / f"{WFC}/j94f05bgq_flt_lookup_tables.fits.gz")
    with pytest.raises(MissingFactError) as caught:
        translate(registry.recognise(headers), headers)
    assert caught.value.fact == "image"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # camera, data and overscan of the amplifiers, their places, gains
        (
            "decam.yaml.gz",
            [
                ("A", (1080, 2104, 50, 4146), (2104, 2154, 50, 4146), (1024, 2048, 0, 4096), 4.59347726229),
                ("B", (56, 1080, 50, 4146), (6, 56, 50, 4146), (0, 1024, 0, 4096), 4.4014084507),
            ],
        ),
        (
            "hsc.yaml.gz",
            [
                ("1", (8, 520, 49, 4225), (520, 536, 49, 4225), (0, 512, 0, 4176), 3.53),
                ("2", (552, 1064, 49, 4225), (536, 552, 49, 4225), (512, 1024, 0, 4176), 3.48),
                ("3", (1080, 1592, 49, 4225), (1592, 1608, 49, 4225), (1024, 1536, 0, 4176), 3.67),
                ("4", (1624, 2136, 49, 4225), (1608, 1624, 49, 4225), (1536, 2048, 0, 4176), 3.48),
            ],
        ),
    ],
)
def test_read_outs_of_one_unit_close_up(registry, real_headers, name, expected):
    headers = real_headers(f"astro_metadata_translator/fitsheader-{name}")
    (detector,) = translate(registry.recognise(headers), headers).detectors
    found = [
        (a.name, _bounds(a.data_section), _bounds(a.overscan_section), _bounds(a.target_section), a.gain_e_per_adu)
        for a in detector.amplifiers
    ]
    assert found == expected
    assert not any(any(_flips(a.target_section)) for a in detector.amplifiers)
    assert _tiles(detector.amplifiers, detector.shape)


def test_the_layout_of_decam_agrees_with_its_wcs(registry, real_headers):
    headers = real_headers("astro_metadata_translator/fitsheader-decam.yaml.gz")
    instrument = registry.get("decam")
    told = translate(instrument, headers).detectors[0]
    blind = [_changed(headers[0], CTYPE1="X", CTYPE2="Y")]
    guessed = translate(instrument, blind).detectors[0]
    assert (told.position_source, guessed.position_source) == ("header_wcs", "pointing")
    for place in (told, guessed):
        assert parity(read_wcs(place.wcs)) == -1
    # DETSEC leaves the gaps between the CCDs out: 2 arcmin at the edge of the field
    offsets = np.subtract(told.footprint, guessed.footprint) * 60.0
    assert np.abs(offsets).max() < instrument.pointing_accuracy_arcmin
    # the corners go round the same way, so that the axes are turned alike
    sides = [np.diff(np.asarray(place.footprint), axis=0) for place in (told, guessed)]
    np.testing.assert_allclose(sides[0], sides[1], atol=30.0 / 3600)


DECAM_IMAGES = [row.path for row in FILES if "_ooi_" in row.path]


@pytest.mark.parametrize("path", DECAM_IMAGES, ids=[Path(path).name for path in DECAM_IMAGES])
def test_companions_of_decam_lie_beside_the_image_and_are_no_science(read, test_data, path):
    instrument, facts = read(path)
    image = test_data / path
    beside = {rule.kind: rule.name_for(image.name) for rule in instrument.companions}
    assert beside == {"weight": image.name.replace("_ooi_", "_oow_"), "dq": image.name.replace("_ooi_", "_ood_")}
    for name in beside.values():
        assert (image.parent / name).is_file()
        _, companion = read(str(Path(path).parent / name))
        assert (companion.instrument, companion.frame_type) == ("decam", "other")
        assert companion.mjd == facts.mjd
        assert [rule.name_for(name) for rule in instrument.companions] == [None, None]
    # the sums of the frame it was cut from still stand in the header
    assert instrument.checksums == "warn"


def test_the_author_s_stacks_are_no_exposures(read):
    for name in ("Stack-DEC-OBS04", "Stack-DEC-OBS18"):
        assert read(f"{DECAM10}/author_stack/{name}.fits.gz")[1].frame_type == "other"


@pytest.mark.parametrize(
    ("image", "weights"),
    [
        ("m31.fits", {"m31.weight.fits", "m31.weight.fits.fz", "m31.weight.fits.gz"}),
        ("m31.fits.gz", {"m31.weight.fits", "m31.weight.fits.fz", "m31.weight.fits.gz"}),
        ("m31.fits.fz", {"m31.weight.fits", "m31.weight.fits.fz", "m31.weight.fits.gz"}),
        ("night.2.fit", {"night.2.weight.fit", "night.2.weight.fit.fz", "night.2.weight.fit.gz"}),
        ("m31.weight.fits", set()),
        ("m31.weight.fits.fz", set()),
        ("notes.txt", set()),
    ],
)
def test_a_weight_map_lies_beside_the_image_of_any_camera(registry, image, weights):
    rules = registry.get("generic").companions
    assert {rule.kind for rule in rules} == {"weight"}
    named = [name for rule in rules if (name := rule.name_for(image)) is not None]
    assert len(named) == len(set(named))
    assert set(named) == weights


@pytest.mark.parametrize(
    ("file_name", "frame_type"),
    [
        ("m31.fits", "science"),
        ("weighty.fits", "science"),
        ("m31.weight.fits", "other"),
        ("m31.weight.fits.fz", "other"),
        ("m31_dq.fits.gz", "other"),
        ("m31.rms.fits", "other"),
    ],
)
def test_a_companion_of_any_camera_is_no_science(registry, file_name, frame_type):
    items = [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 64), ("NAXIS2", 64), ("INSTRUME", "newcam")]
    items += [("OBJECT", "M 31"), ("EXPTIME", 30.0), ("MJD-OBS", 60000.0), ("FILTER", "r"), ("RA", 10.7), ("DEC", 41.3)]
    header = make_cards([(key, value, "") for key, value in [*items, ("PIXSCALE", 0.5)]])
    assert translate(registry.recognise([header], file_name), [header], file_name).frame_type == frame_type


def test_cases_count_before_keywords_and_give_text_and_numbers(registry):
    profile = parse_profile(
        'name = "c"\npixel_scale_arcsec = 1.0\n[facts]\nobject.keywords = ["OBJECT"]\n'
        'exptime.keywords = ["EXPTIME"]\nfilter.value = "r"\nra.keywords = ["RA"]\ndec.keywords = ["DEC"]\n'
        '[time]\nsources = [{ form = "mjd", keywords = ["MJD-OBS"] }]\n'
        "[detectors.gain]\nkeywords = ['GAIN']\n"
        "cases = [{ all = [{ keyword = 'BUNIT', equals = 'electron' }], value = 1.0 }]\n"
        "[detectors.data_section]\n"
        "cases = [{ any = [{ keyword = 'NAXIS1', equals = 70 }], value = '[5:68,1:64]' }]\n",
        "c.toml",
    )

    def detector(unit: str, width: int):
        items = [("SIMPLE", True), ("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", width), ("NAXIS2", 64), ("OBJECT", "M 1")]
        items += [("EXPTIME", 1.0), ("MJD-OBS", 60000.0), ("RA", 83.6), ("DEC", 22.0), ("GAIN", 2.5), ("BUNIT", unit)]
        return translate(profile, [make_cards([(key, value, "") for key, value in items])]).detectors[0]

    assert (detector("electron", 70).gain_e_per_adu, detector("adu", 70).gain_e_per_adu) == (1.0, 2.5)
    assert (detector("adu", 70).shape, detector("adu", 64).shape) == ((64, 64), (64, 64))
    assert _bounds(detector("adu", 70).data_section) == (4, 68, 0, 64)
    assert detector("adu", 64).data_section is None


def test_atomic_time_is_brought_to_utc(registry, real_headers):
    headers = real_headers("astro_metadata_translator/fitsheader-sdss-fpC-006377-g4-0399.yaml.gz")
    facts = translate(registry.recognise(headers), headers)
    # the first row was read at TAI; light fell on it the 53.9 s before, on the last of 1489 rows until 39 s later
    first_row = 4665448882.73 / 86400 - 33 / 86400
    assert -53.9 / 2 < (facts.mjd - first_row) * 86400 < 39.2 - 53.9 / 2
    assert (facts.mjd - first_row) * 86400 == pytest.approx(((1489 - 1) / 2 / 2048 - 0.5) * 53.907456, abs=0.01)
    assert facts.mjd - facts.mjd_start == pytest.approx(53.907456 / 2 / 86400, abs=1e-9)


def test_leap_seconds_are_those_of_the_iers():
    for mjd in np.arange(41317.25, 60900.0, 30.5):
        time = Time(mjd, format="mjd", scale="utc")
        assert tai_minus_utc_s(mjd) == round((time.tai.mjd - mjd) * 86400)
    assert tai_minus_utc_s(57753.9) + 1.0 == tai_minus_utc_s(57754.0) == 37.0


def test_a_date_without_separators_is_a_date():
    assert parse_iso_mjd("20160818T042710") == parse_iso_mjd("2016-08-18T04:27:10")
    assert parse_iso_mjd("20161318T042710") is None
    assert parse_iso_mjd("20160818T04271") is None

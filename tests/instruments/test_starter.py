"""A starter profile reads the header it was made from as `generic` does, whatever camera wrote it."""

from __future__ import annotations

import re

import pytest

from spica.cli import main as door
from spica.files.dump import read_header_dump
from spica.files.header import make_cards
from spica.files.scan import read_headers
from spica.files.workspace import init_workspace
from spica.instruments.detector import find_detectors
from spica.instruments.facts import MissingFactError
from spica.instruments.lookup import meets
from spica.instruments.profile import parse_profile
from spica.instruments.registry import load_instruments, translate
from spica.instruments.starter import starter_profile
from spica.instruments.translate import frame_type_of
from spica.model.errors import DataError

DUMPS = (
    "cfht/multi_plane__wircam__2281792p.fits.header.gz",
    "cfht/multi_plane__mega__1927963p.fits.header.gz",
    "gemini/F2__S20150101S0261.fits.header.gz",
    "gemini/GSAOI__S20140113S0167.fits.header.gz",
    "gemini/NIRI__N20100620S0126.fits.header.gz",
    "astro_metadata_translator/fitsheader-suprimecam-CORR40535770.yaml.gz",
)
WHEELS = {"gemini/NIRI__N20100620S0126.fits.header.gz": "Jsort_G0209+Jgrism_G5202", DUMPS[3]: "Z_G1101"}
"""What several filter wheels hold."""


@pytest.fixture(scope="module")
def generic():
    return load_instruments(plugin_folders=()).get("generic")


@pytest.mark.parametrize("name", DUMPS)
def test_a_starter_reads_its_own_header_as_generic_does(real_headers, generic, name):
    headers = real_headers(name)
    text = starter_profile(generic, headers, "mycam")
    ours = parse_profile(text, "mycam.toml")
    told, known = translate(ours, headers), translate(generic, headers)
    assert told.instrument == "mycam"
    for fact in ("object", "exptime_s", "ra_deg", "dec_deg", "airmass"):
        assert getattr(told, fact) == getattr(known, fact), fact
    assert [d.shape for d in told.detectors] == [d.shape for d in known.detectors]
    assert told.filter_raw == WHEELS.get(name, known.filter_raw)
    if told.mjd != known.mjd:
        assert re.search(r"# CHECK: \S+ is [\d.]+ s (later|earlier)", text)


def test_every_real_header_gets_a_profile_that_parses(test_data, generic):
    """Whatever the header: two hundred of them, spectra, masks, guide cubes and damaged ones among them."""
    dumps = sorted((test_data / "headers").rglob("*.fits.header.gz"))
    assert len(dumps) > 150
    for path in dumps:
        headers = read_header_dump(path)
        camera = parse_profile(starter_profile(generic, headers), path.name)
        assert meets(camera.recognise, headers, ""), path.name


def test_a_rounded_mjd_gives_way_to_date_and_clock(real_headers, generic):
    headers = real_headers("gemini/F2__S20150101S0261.fits.header.gz")
    text = starter_profile(generic, headers)
    told = translate(parse_profile(text, "f2.toml"), headers)
    assert told.who_said["mjd"] == "DATE-OBS+UTSTART"
    assert told.mjd_start == pytest.approx(57023 + (4 * 3600 + 4 * 60 + 30.494) / 86400, abs=1e-8)
    assert "# CHECK: MJD-OBS is 2542.01 s later" in text
    assert "perhaps GEMPRGID = GS-2014B-Q-60" in text
    assert "# read_noise.value = ...    # MISSING: RDNOISE says 0.0" in text


def test_spectra_of_a_camera_that_took_an_image_are_no_science(real_headers, generic):
    ours = parse_profile(starter_profile(generic, real_headers("gemini/F2__S20150101S0261.fits.header.gz")), "f2.toml")
    kinds = {
        "F2__S20150622S0011": "other",  # through a mask, with a grism
        "F2__S20150103S0144": "dark",
        "F2__S20150113S0186": "flat",
        "F2__S20150625S0077": "other",  # the flat of a spectrum
        "F2__S20150213S0110": "science",
    }
    for name, kind in kinds.items():
        assert frame_type_of(ours, real_headers(f"gemini/{name}.fits.header.gz")) == kind, name


def test_amplifiers_as_units_are_put_together(test_data, generic):
    headers = read_headers(test_data / "lco_sinistro_raw_mef/mef_raw_test_frame.fits.gz")
    (detector,) = translate(parse_profile(starter_profile(generic, headers), "lco.toml"), headers).detectors
    assert detector.shape == (1024, 1024)
    assert [a.gain_e_per_adu for a in detector.amplifiers] == [6.42, 6.23, 6.27, 6.26]
    corners = {(a.target_section.x_start, a.target_section.y_start) for a in detector.amplifiers}
    assert corners == {(0, 0), (512, 0), (0, 512), (512, 512)}
    assert all(a.overscan_section is not None for a in detector.amplifiers)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([{"EXTNAME": "A", "CCDNAME": "c1"}, {"EXTNAME": "A", "CCDNAME": "c2"}], ("whole", "CCDNAME", 2)),
        ([{"EXTNAME": "A", "CCDNAME": "c1"}, {"EXTNAME": "B", "CCDNAME": "c1"}], ("assemble", "CCDNAME", 1)),
        ([{"EXTNAME": "A1"}, {"EXTNAME": "A2"}], ("whole", "EXTNAME", 2)),
        ([{"EXTNAME": "A"}, {"EXTNAME": "A"}], ("assemble", None, 1)),
    ],
    ids=("two chips", "two amplifiers of a chip", "two names", "one name"),
)
def test_units_of_one_chip_are_amplifiers(generic, words, expected):
    primary = make_cards([("SIMPLE", True, ""), ("BITPIX", 8, ""), ("NAXIS", 0, ""), ("INSTRUME", "x", "")])
    image = [("XTENSION", "IMAGE", ""), ("BITPIX", 16, ""), ("NAXIS", 2, ""), ("NAXIS1", 50, ""), ("NAXIS2", 40, "")]
    units = [
        make_cards(
            [*image, *((k, v, "") for k, v in word.items()), ("DETSEC", f"[{1 + 50 * i}:{50 + 50 * i},1:40]", "")]
        )
        for i, word in enumerate(words)
    ]
    rules = parse_profile(starter_profile(generic, [primary, *units]), "x.toml")
    name = rules.detectors.facts.get("name")
    found = find_detectors(rules, [primary, *units], "", None, {})
    assert (rules.detectors.amplifiers, name and name.keywords[0], len(found)) == expected


def test_the_scale_of_binned_pixels_is_brought_to_unbinned_ones(real_headers, generic):
    headers = real_headers("gemini/GMOS__N20100104S0208.fits.header.gz")
    text = starter_profile(generic, headers)
    assert "unbinned (CCDSUM says 2 2)" in text
    assert parse_profile(text, "gmos.toml").pixel_scale_arcsec == pytest.approx(0.0727, rel=0.01)


def test_what_is_missing_is_marked_and_the_profile_says_so_when_used(generic):
    image = [("SIMPLE", True, ""), ("BITPIX", 16, ""), ("NAXIS", 2, ""), ("NAXIS1", 100, ""), ("NAXIS2", 100, "")]
    bare = make_cards(
        [*image, ("INSTRUME", 'a "quoted\\ name', ""), ("EXPTIME", 10.0, ""), ("BELICHT", 3, "exposure time")]
    )
    text = starter_profile(generic, [bare])
    profile = parse_profile(text, "bare.toml")
    assert text.splitlines()[0].startswith(f"# {text.count('MISSING') - 1} lines are marked MISSING")
    assert sum("MISSING" in line for line in text.splitlines()) >= 11
    assert profile.recognise.all[0].equals == 'a "quoted\\ name'
    assert profile.pixel_scale_arcsec is None
    with pytest.raises(MissingFactError, match="no object"):
        translate(profile, [bare])


def test_keywords_that_sound_like_a_missing_fact_are_named(generic):
    image = [("SIMPLE", True, ""), ("BITPIX", 16, ""), ("NAXIS", 2, ""), ("NAXIS1", 100, ""), ("NAXIS2", 100, "")]
    odd = make_cards([*image, ("BELICHT", 3.5, "Exposure time [s]"), ("GUCKNACH", "M 31", "name of the target")])
    text = starter_profile(generic, [odd])
    assert re.search(r"# exptime = .*MISSING.*perhaps BELICHT = 3.5", text)
    assert re.search(r"# object = .*MISSING.*perhaps GUCKNACH = M 31", text)


def test_a_file_without_pixels_makes_no_profile(tmp_path, capsys):
    (tmp_path / "table.header").write_text("SIMPLE  =                    T\nNAXIS   =                    0\n")
    with pytest.raises(SystemExit) as ended:
        door.main(["camera", "new", str(tmp_path / "table.header")])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (DataError.door_code, "")
    assert "holds no image" in told.err


def test_a_new_profile_may_be_printed_into_the_folder_of_profiles(tmp_path, test_data, monkeypatch, capsys):
    """A shell makes the empty file before the command runs; it must not be in the way."""
    folder = init_workspace(tmp_path / "survey").folder
    (folder / "instruments" / "mycam.toml").write_text("")
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        door.main(["camera", "new", str(test_data / "headers/gemini/F2__S20150101S0261.fits.header.gz")])
    assert ended.value.code == 0
    assert parse_profile(capsys.readouterr().out, "mycam.toml").name == "f2"

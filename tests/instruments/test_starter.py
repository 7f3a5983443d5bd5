"""A starter profile reads the header it was made from as `generic` does, whatever camera wrote it."""

from __future__ import annotations

import pytest

from spica.files.header import make_cards
from spica.instruments.facts import MissingFactError
from spica.instruments.profile import parse_profile
from spica.instruments.registry import load_instruments, translate
from spica.instruments.starter import starter_profile

DUMPS = (
    "cfht/multi_plane__wircam__2281792p.fits.header.gz",
    "cfht/multi_plane__mega__1927963p.fits.header.gz",
    "gemini/F2__S20150101S0261.fits.header.gz",
    "gemini/GSAOI__S20140113S0167.fits.header.gz",
    "gemini/NIRI__N20100620S0126.fits.header.gz",
    "astro_metadata_translator/fitsheader-suprimecam-CORR40535770.yaml.gz",
)


@pytest.fixture(scope="module")
def generic():
    return load_instruments(plugin_folders=()).get("generic")


@pytest.mark.parametrize("name", DUMPS)
def test_a_starter_reads_its_own_header_as_generic_does(real_headers, generic, name):
    headers = real_headers(name)
    ours = parse_profile(starter_profile(generic, headers, "mycam"), "mycam.toml")
    told, known = translate(ours, headers), translate(generic, headers)
    assert told.instrument == "mycam"
    for fact in ("object", "filter_raw", "exptime_s", "mjd", "ra_deg", "dec_deg", "airmass"):
        assert getattr(told, fact) == getattr(known, fact), fact
    assert [d.shape for d in told.detectors] == [d.shape for d in known.detectors]


def test_what_is_missing_is_marked_and_the_profile_says_so_when_used(generic):
    image = [("SIMPLE", True, ""), ("BITPIX", 16, ""), ("NAXIS", 2, ""), ("NAXIS1", 100, ""), ("NAXIS2", 100, "")]
    bare = make_cards([*image, ("INSTRUME", 'a "quoted\\ name', ""), ("EXPTIME", 10.0, "")])
    text = starter_profile(generic, [bare])
    assert text.count("MISSING") >= 6
    profile = parse_profile(text, "bare.toml")
    assert profile.recognise.all[0].equals == 'a "quoted\\ name'
    with pytest.raises(MissingFactError, match="no object"):
        translate(profile, [bare])

"""Gemini's cameras: what the tables of expected values do not say of detectors and positions."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from spica.files.wcs import parity, read_wcs
from spica.instruments.registry import load_instruments, translate


@pytest.fixture(scope="module")
def registry():
    return load_instruments(plugin_folders=())


@pytest.fixture
def read(registry, real_headers):
    def _read(name):
        headers = real_headers(f"gemini/{name}.fits.header.gz")
        return translate(registry.recognise(headers), headers)

    return _read


def _places(facts):
    """Return the centres of the detectors relative to the pointing, in units of the detectors' own width, sorted."""
    centre = SkyCoord(facts.ra_deg, facts.dec_deg, unit="deg")
    found = []
    for detector in facts.detectors:
        sky = SkyCoord(np.array(detector.footprint), unit="deg").cartesian.mean()
        dx, dy = centre.spherical_offsets_to(SkyCoord(sky, representation_type="cartesian"))
        width = detector.shape[1] * detector.pixel_scale_arcsec
        found.append((float(dx.arcsec) / width, float(dy.arcsec) / width))
    return np.array(sorted(found))


@pytest.mark.parametrize(
    ("name", "n_amplifiers", "gain"),
    [
        ("GMOS__N20030107S0163", 1, 2.04),
        ("GMOS__N20150216S0142", 2, 2.09),  # (2.04 + 2.14) / 2
        ("GMOS__N20150929S0013", 2, 2.09),
        ("GMOS__N20220915S0113", 4, 1.96),  # (2.01 + 1.95 + 1.97 + 1.91) / 4
    ],
)
def test_the_ccds_of_gmos_are_covered_once_by_their_amplifiers(read, name, n_amplifiers, gain):
    facts = read(name)
    assert len(facts.detectors) == 3
    assert facts.detectors[0].gain_e_per_adu == pytest.approx(gain, abs=1e-3)
    for detector in facts.detectors:
        covered = np.zeros(detector.shape, int)
        for a in detector.amplifiers:
            covered[a.target_section.slices] += 1
            assert a.overscan_section.x_stop - a.overscan_section.x_start == 32
        assert len(detector.amplifiers) == (n_amplifiers if n_amplifiers > 1 else 0)
        if n_amplifiers == 1:  # read as one unit
            assert detector.overscan_section.x_stop - detector.overscan_section.x_start == 32
            assert tuple(s.stop - s.start for s in detector.data_section.slices) == detector.shape
        else:
            assert (covered == 1).all()


@pytest.mark.parametrize("name", ["GMOS__N20100104S0210", "GMOS__N20150216S0142"])
def test_the_ccds_of_gmos_lie_side_by_side_on_the_sky(read, name):
    """A CCD's width and a gap of 2 % of it apart, the middle one at the pointing; the images are mirrored."""
    facts = read(name)
    places = _places(facts)
    assert np.hypot(*np.diff(places, axis=0).T) == pytest.approx([1.02, 1.02], abs=0.006)
    assert np.hypot(*places[1]) < 0.06
    assert {parity(read_wcs(d.wcs)) for d in facts.detectors} == {-1}


def test_the_arrays_of_gsaoi_make_a_square(read):
    facts = read("GSAOI__S20130126S0134")
    assert [d.name for d in facts.detectors] == ["G1", "G2", "G3", "G4"]
    assert [round(d.gain_e_per_adu, 3) for d in facts.detectors] == [2.434, 2.01, 2.411, 2.644]
    places = _places(facts)
    assert np.ptp(places, axis=0) == pytest.approx((1.1, 1.1), abs=0.05)


def test_regions_of_interest_are_detectors_of_their_own(read):
    """Three regions of 2 x 3 amplifiers; the last is 397 rows high."""
    facts = read("GMOS__N20150217S0380")
    assert [d.shape for d in facts.detectors] == [(250, 2048)] * 6 + [(397, 2048)] * 3
    assert len({d.name for d in facts.detectors}) == 9


def test_reads_of_one_array_are_not_taken_for_detectors(read):
    (detector,) = read("CIRPASS__2003jun30_3507").detectors
    assert (detector.hdu, detector.gain_e_per_adu, detector.read_noise_e) == (2, 3.083, 18.0)


def test_niri_knows_its_camera_its_reads_and_its_summed_frames(read):
    facts = read("NIRI__N20030912S0301")  # no WCS, f/6, 30 frames of 16 averages
    (detector,) = facts.detectors
    assert (detector.position_source, detector.pixel_scale_arcsec) == ("pointing", 0.1171)
    assert (detector.read_noise_e, detector.gain_e_per_adu) == (35.0, 12.3)
    assert detector.saturation_adu == pytest.approx(30 * 16260.0)
    (detector,) = read("NIRI__N20030325S0098").detectors  # exponents of its WCS are damaged
    assert (detector.position_source, detector.pixel_scale_arcsec) == ("pointing", 0.1171)
    (detector,) = read("NIRI__N20090918S0386").detectors  # f/32
    assert detector.position_source == "header_wcs"
    assert detector.pixel_scale_arcsec == pytest.approx(0.0219, rel=0.01)


@pytest.mark.parametrize(("name", "noise"), [("F2__S20150101S0261", 11.7), ("F2__S20171226S0358", 5.0)])
def test_the_noise_of_flamingos2_follows_from_its_read_mode(read, name, noise):
    (detector,) = read(name).detectors
    assert (detector.read_noise_e, detector.planes) == (noise, "first")


def test_the_channels_of_nici_are_mirrored_against_each_other(read):
    facts = read("NICI__S20100102S0035")
    assert [(d.name, parity(read_wcs(d.wcs))) for d in facts.detectors] == [("RED", 1), ("BLUE", -1)]
    assert np.ptp(_places(facts), axis=0).max() < 0.2

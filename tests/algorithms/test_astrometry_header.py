"""WCS of headers as polynomials of our own, and exposures that agree or do not."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from spica.algorithms.astrometry import (
    AstrometryParameters,
    DetectorLayout,
    Ensemble,
    ExposureSources,
    InstrumentLayout,
    ReferenceStars,
    tpv_cards,
)
from spica.algorithms.astrometry.agreement import Offset, SourceList, chance_of_many, compare_lists, judge_offsets
from spica.algorithms.astrometry.header import fit_stated, measure_stated

Floats = NDArray[np.float64]
SCALE = 0.25
NX, NY = 1024, 2048
LAYOUT = DetectorLayout(NX, NY, 0.0, 0.0, np.eye(2))


def _wcs(kind: str, ra: float, dec: float, crpix: tuple[float, float] = (-900.0, 2500.0), **terms: float) -> WCS:
    header = fits.Header()
    suffix = "-SIP" if "A_ORDER" in terms else ""
    header["CTYPE1"], header["CTYPE2"] = f"RA---{kind}{suffix}", f"DEC--{kind}{suffix}"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = crpix
    turn = np.radians(27.0)
    cd = SCALE / 3600.0 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for i in (1, 2):
        for j in (1, 2):
            header[f"CD{i}_{j}"] = cd[i - 1, j - 1]
    for key, value in terms.items():
        header[key] = value
    return WCS(header)


def _sky(wcs: WCS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    ra, dec = wcs.all_pix2world(x, y, 0)
    return np.asarray(ra), np.asarray(dec)


SIP3 = {"A_ORDER": 3, "B_ORDER": 3, "A_2_0": 3e-7, "A_1_1": -2e-7, "A_0_3": 4e-11, "B_0_2": 5e-7, "B_2_1": 3e-11}
TPV = {"PV1_0": 1e-4, "PV1_1": 1.004, "PV1_2": -3e-4, "PV1_4": -7e-3, "PV1_7": 1e-2, "PV1_10": 2e-3,
       "PV2_1": 1.002, "PV2_2": 2e-4, "PV2_5": 3e-3, "PV2_8": -6e-3}  # fmt: skip
RADIAL = {"PV1_1": 1.0, "PV1_11": 0.1, "PV2_1": 1.0, "PV2_11": 0.1}


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.0, -66.0), (30.0, 89.8)])
@pytest.mark.parametrize(("kind", "terms", "degree"), [("TAN", {}, 1), ("TAN", SIP3, 3), ("TPV", TPV, 3)])
def test_polynomials_of_the_tangent_plane_are_carried_exactly(
    kind: str, terms: dict[str, float], degree: int, ra: float, dec: float
) -> None:
    sky = partial(_sky, _wcs(kind, ra, dec, **terms))
    stated = fit_stated((sky,), (LAYOUT,), ((ra, dec),))
    assert (stated.ra_deg, stated.dec_deg) == (ra, dec)
    assert stated.detectors[0].degree <= degree
    assert stated.error_pix < 1e-4
    _check_written({"only": stated}, sky, 1e-4)


@pytest.mark.parametrize(("kind", "terms"), [("ZEA", {}), ("STG", {}), ("TPV", RADIAL)])
def test_other_projections_and_radial_terms_are_held_to_a_hundredth_of_a_pixel(
    kind: str, terms: dict[str, float]
) -> None:
    sky = partial(_sky, _wcs(kind, 150.0, 2.0, **terms))
    stated = fit_stated((sky,), (LAYOUT,), ())
    assert stated.error_pix < 0.01
    _check_written({"only": stated}, sky, 0.01)


def test_what_cannot_be_held_is_told() -> None:
    bent = {"A_ORDER": 6, "B_ORDER": 6, "A_6_0": 3e-18, "B_2_0": 0.0}
    stated = fit_stated((partial(_sky, _wcs("TAN", 150.0, 2.0, **bent)),), (LAYOUT,), ((150.0, 2.0),))
    assert 0.01 < stated.error_pix < 10.0


def _check_written(stated: dict[str, Any], sky: Any, tolerance: float) -> None:
    """Write the cards of the solution, read them by astropy, and go from its sky back to the header's pixels."""
    ensemble, _ = _ensemble(("only",), np.zeros(1), 1)
    found = measure_stated(ensemble, stated, NO_STARS, AstrometryParameters(), 1.0)
    ours = WCS(fits.Header(tpv_cards(found.detector_solution("only", 0))))
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-0.5, NX - 0.5, 9), np.linspace(-0.5, NY - 0.5, 9)))
    back = ours.all_world2pix(*sky(x, y), 0, tolerance=1e-6)
    np.testing.assert_allclose(back, (x, y), atol=tolerance)


NO_STARS = ReferenceStars(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), name="none")


def _ensemble(names: tuple[str, ...], scatter_pix: Floats, n_stars: int, seed: int = 5) -> tuple[Ensemble, WCS]:
    """Return exposures of the same stars under one WCS, each star scattered."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, NX - 20, n_stars), rng.uniform(20, NY - 20, n_stars)
    exposures = []
    for name, scatter in zip(names, np.broadcast_to(scatter_pix, len(names)), strict=True):
        exposures.append(
            ExposureSources(
                name,
                "camera",
                150.0,
                2.0,
                float("nan"),
                np.zeros(n_stars, np.int64),
                x + rng.normal(0, 1, n_stars) * scatter,
                y + rng.normal(0, 1, n_stars) * scatter,
                np.full(n_stars, 0.02),
                np.full(n_stars, 1e4),
                np.full(n_stars, 100.0),
                np.ones(n_stars, bool),
            )
        )
    layout = DetectorLayout(NX, NY, 0.0, 0.0, np.eye(2) * SCALE / 3600.0)
    return Ensemble((InstrumentLayout("camera", (layout,)),), tuple(exposures)), _wcs("TPV", 150.0, 2.0, **TPV)


def test_the_rms_between_exposures_is_the_scatter_of_one_position() -> None:
    names = ("a", "b", "c", "d")
    ensemble, wcs = _ensemble(names, np.full(4, 0.08), 400)
    stated = fit_stated((partial(_sky, wcs),), (LAYOUT,), ((150.0, 2.0),))
    found = measure_stated(ensemble, dict.fromkeys(names, stated), NO_STARS, AstrometryParameters(), 2.0 * SCALE)
    assert found.internal_rms_mas == pytest.approx(0.08 * SCALE * 1e3, rel=0.06)
    assert (found.n_reference, np.isnan(found.reference_rms_mas)) == (0, True)
    # and against stars at rest, the same scatter
    x, y = ensemble.exposures[0].x_pix, ensemble.exposures[0].y_pix
    ra, dec = _sky(wcs, x, y)
    stars = ReferenceStars(ra, dec, np.full(ra.size, 1.0), np.full(ra.size, 15.0), name="rest")
    held = measure_stated(ensemble, dict.fromkeys(names, stated), stars, AstrometryParameters(), 2.0 * SCALE)
    assert held.n_reference > 3.5 * ra.size
    assert held.reference_rms_mas == pytest.approx(np.sqrt(6.0 / 4.0) * 0.08 * SCALE * 1e3, rel=0.1)


def _lists(offsets_arcsec: list[tuple[float, float]], seed: int = 3, n: int = 60) -> list[SourceList]:
    """Return lists that share four sources of five, the whole list moved by (east, north)."""
    rng = np.random.default_rng(seed)
    ra, dec = 150.0 + rng.uniform(-0.02, 0.02, n), 40.0 + rng.uniform(-0.02, 0.02, n)
    corners = np.array([(149.97, 39.97), (150.03, 39.97), (150.03, 40.03), (149.97, 40.03)])
    found = []
    for k, (east, north) in enumerate(offsets_arcsec):
        own = rng.uniform(size=n) < 0.2
        a = np.where(own, 150.0 + rng.uniform(-0.02, 0.02, n), ra) + rng.normal(0, 0.02 / 3600, n)
        d = np.where(own, 40.0 + rng.uniform(-0.02, 0.02, n), dec) + rng.normal(0, 0.02 / 3600, n)
        a, d = a + east / 3600.0 / np.cos(np.radians(40.0)), d + north / 3600.0
        found.append(SourceList(f"e{k}", a, d, rng.pareto(1.0, n), (corners,)))
    return found


def _judge(lists: list[SourceList]) -> Any:
    offsets = compare_lists(lists, 10.0, 0.25)
    return judge_offsets(lists, offsets, [0.15] * len(offsets))


@pytest.mark.parametrize(("east", "north"), [(0.0, 0.0), (0.4, -0.3), (-6.0, 5.0)])
def test_an_offset_is_recovered(east: float, north: float) -> None:
    (offset,) = compare_lists(_lists([(0.0, 0.0), (east, north)]), 10.0, 0.25)
    assert (offset.east_arcsec, offset.north_arcsec) == pytest.approx((east, north), abs=0.02)
    assert offset.n_common > 0.5 * offset.n_expected
    assert offset.agrees(0.15) is bool(np.hypot(east, north) < 0.15)


def test_lists_without_anything_in_common_show_no_offset_and_contradict() -> None:
    for seed in range(20):
        first, second = _lists([(0.0, 0.0)], seed)[0], _lists([(0.0, 0.0)], seed + 100)[0]
        (offset,) = compare_lists([first, second], 10.0, 0.25)
        assert np.isnan(offset.size_arcsec), seed
        assert offset.agrees(0.15) is False
    assert Offset(0, 1, 5, 0, float("nan"), float("nan")).agrees(0.15) is None, "five sources say nothing"


def test_the_many_outvote_the_few_whatever_their_order() -> None:
    moved = [(0.0, 0.0), (0.0, 0.0), (3.0, 0.0), (0.0, 0.0), (3.0, 0.0)]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [2, 4, 3, 1, 0]):
        lists = _lists(moved)
        said = _judge([lists[k] for k in order])
        assert {order[d.index] for d in said.dissents} == {2, 4}
        assert said.tie is None
        assert said.checked == {one.name for one in lists}


def test_equals_are_a_tie_that_a_reference_breaks() -> None:
    first, second, rest = _lists([(0.0, 0.0), (2.0, 0.0), (2.0, 0.0)])
    said = _judge([first, second])
    assert not said.dissents
    assert said.tie is not None
    assert said.tie.size_arcsec == pytest.approx(2.0, abs=0.02)
    stars = SourceList("stars", rest.ra_deg, rest.dec_deg, rest.brightness, is_reference=True)
    said = _judge([first, second, stars])
    assert [d.index for d in said.dissents] == [0]
    assert said.tie is None


def test_exposures_apart_on_the_sky_are_neither_checked_nor_blamed() -> None:
    first, second = _lists([(0.0, 0.0), (0.0, 0.0)])
    far = SourceList("far", second.ra_deg + 1.0, second.dec_deg, second.brightness,
                     tuple(p + np.array([1.0, 0.0]) for p in second.polygons_deg))  # fmt: skip
    said = _judge([first, far])
    assert (said.dissents, said.tie, said.checked) == ((), None, frozenset())


@pytest.mark.parametrize(("n", "rate"), [(1, 1e-6), (3, 0.4), (7, 6.5), (40, 21.0)])
def test_the_chance_of_many_is_one_less_the_chance_of_few(n: int, rate: float) -> None:
    few = math.fsum(math.exp(k * math.log(rate) - rate - math.lgamma(k + 1)) for k in range(n))
    assert chance_of_many(n, rate) == pytest.approx(1.0 - few, rel=1e-9, abs=1e-15)

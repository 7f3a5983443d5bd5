"""Drawings: projections against astropy, strips and graphs as well-formed SVG."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from astropy.wcs import WCS

from spica.db.pages.listing import BINS, Distribution
from spica.db.pages.survey import SkyShape
from spica_web.draw.graph import GraphNode, draw_graph
from spica_web.draw.sky import LARGE, Tangent, draw_sky, mollweide
from spica_web.draw.strip import WIDTH, Limits, draw_strip


def shape(number: int, ra: float, dec: float, name: str = "f") -> SkyShape:
    square = tuple((ra + i, dec + j) for i, j in ((-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1)))
    return SkyShape(number, name, "field", "exposure", "assessed", "A", ra, dec, 0.15, (square,))


def test_the_tangent_plane_is_that_of_astropy() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [359.9, 57.5]
    wcs.wcs.cdelt = [-1.0, 1.0]
    wcs.wcs.crpix = [1.0, 1.0]
    to = Tangent((359.9, 57.5), LARGE)
    for ra, dec in ((0.2, 57.9), (358.0, 56.0), (359.9, 57.5)):
        x, y = wcs.wcs_world2pix(ra, dec, 0)
        px, py = to.point((ra, dec)) or (math.nan, math.nan)
        assert (px, -py) == pytest.approx((float(x), float(y)), abs=1e-9)
        assert to.inverse(px, py)[1] == pytest.approx(dec)
        assert (to.inverse(px, py)[0] - ra) % 360.0 == pytest.approx(0.0, abs=1e-9) or (
            to.inverse(px, py)[0] - ra
        ) % 360.0 == pytest.approx(360.0)


def test_mollweide_is_that_of_astropy_and_keeps_areas() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---MOL", "DEC--MOL"]
    wcs.wcs.cdelt = [1.0, 1.0]
    for lon, lat in ((0.0, 0.0), (120.0, 45.0), (-170.0, -80.0), (10.0, 90.0)):
        x, y = wcs.wcs_world2pix(lon, lat, 0)
        own = mollweide(lon, lat)
        degree = math.pi / 180.0
        assert own == pytest.approx(((float(x) + 1) * degree, (float(y) + 1) * degree), abs=1e-4)
    lat = np.radians(np.linspace(-90, 90, 2001))
    half_width = [mollweide(180.0, math.degrees(v))[0] for v in lat]
    height = [mollweide(0.0, math.degrees(v))[1] for v in lat]
    assert np.trapezoid(np.array(half_width) * 2, height) == pytest.approx(4 * math.pi, rel=1e-3)


def test_fields_become_plots_also_across_ra_zero_and_at_the_pole() -> None:
    near = [shape(1, 359.98, 10.0), shape(2, 0.05, 10.0)]
    assert len(draw_sky(near)) == 1
    assert [c.title for c in draw_sky([*near, shape(3, 180.0, -40.0)])] == ["Whole sky", "field", "field"]
    for shapes in (near, [shape(1, 10.0, 89.95), shape(2, 190.0, 89.95)], [shape(1, 0.0, 0.0), shape(2, 180.0, 0.0)]):
        for chart in draw_sky(shapes):
            root = ElementTree.fromstring(str(chart.svg))
            assert len(root.findall(".//a")) in (1, 2)
            for circle in root.iter("circle"):
                assert 0 <= float(circle.get("cx", "nan")) <= LARGE.width
    assert draw_sky([]) == []


def test_names_in_drawings_are_escaped() -> None:
    chart = draw_sky([shape(1, 10.0, 10.0, '<script>"&')])[0]
    assert "<script>" not in str(chart.svg)
    ElementTree.fromstring(str(chart.svg))
    graph = draw_graph([GraphNode(1, "<b>", "READY", "<i>&")], [])
    assert "<b>" not in str(graph)
    ElementTree.fromstring(str(graph))


def spread(low: float = 0.0, high: float = 1.0) -> Distribution:
    counts = (1, *(range(BINS)), 2)
    return Distribution("seeing_arcsec", low, high, sum(counts), counts, 0.5)


@pytest.mark.parametrize("value", [0.5, -100.0, 100.0, None, math.nan])
def test_the_tick_stays_on_the_strip(value: float | None) -> None:
    svg = str(draw_strip(spread(), value, Limits(0.3, 0.6, None, high=True)))
    root = ElementTree.fromstring(svg)
    ticks = [p for p in root.iter("path") if p.get("class") == "tick"]
    assert len(ticks) == (0 if value is None or math.isnan(value) else 1)
    for tick in ticks:
        assert 0 <= float(tick.get("d", "M0").split()[0][1:]) <= WIDTH
    assert "nan" not in svg


def test_bands_stand_in_the_order_of_the_grades() -> None:
    for high, order in ((True, ["gA", "gB", "gD"]), (False, ["gD", "gB", "gA"])):
        limits = Limits(0.3, 0.6, None, high=True) if high else Limits(0.6, 0.3, None, high=False)
        root = ElementTree.fromstring(str(draw_strip(spread(), 0.5, limits)))
        bands = sorted((float(r.get("x", "0")), r.get("class", "").split()[1]) for r in root.iter("rect"))
        assert [name for _, name in bands] == order


def test_an_unknown_measure_has_no_strip() -> None:
    assert draw_strip(None, 1.0) == ""


def test_the_graph_leads_from_left_to_right() -> None:
    nodes = [GraphNode(i, "stack", "READY", "") for i in (1, 2, 3, 4)]
    root = ElementTree.fromstring(
        str(draw_graph(nodes, [(1, 2, "needs"), (2, 3, "needs"), (2, 4, "after"), (1, 3, "needs"), (99, 4, "needs")]))
    )
    x = {a.get("href", ""): float(a.find("rect").get("x", "0")) for a in root.iter("a")}  # type: ignore[union-attr]
    assert x["/jobs/1"] < x["/jobs/2"] < x["/jobs/3"] == x["/jobs/4"]
    assert len(list(root.iter("path"))) == 3  # 1 -> 3 is said by 1 -> 2 -> 3
    assert draw_graph([GraphNode(i, f"kind {i}", "READY", "") for i in range(1, 200)], []) == ""
    (folded,) = ElementTree.fromstring(str(draw_graph([GraphNode(i, "a", "READY", "") for i in range(1, 200)], [])))
    assert folded[0].text == "199 ready"

"""Layout of detectors in a mosaic, and regions carried between the mosaic and its detectors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from spica.files.mosaic import (
    MAX_SIDE_PIX,
    DetectorGeometry,
    DetectorPlace,
    MosaicLayout,
    MosaicRegion,
    check_region,
    clip_polygon,
    plan_layout,
    polygon_area,
    read_geometry,
    single_layout,
    to_detectors,
    to_mosaic,
)
from spica.files.wcs import tan_cards
from spica.model.errors import DataError
from spica.model.mark import MarkRegion, MarkShape

SCALE = 0.3
CIRCLE, POLYGON = MarkShape.CIRCLE, MarkShape.POLYGON
FOUR = MosaicLayout(
    220, 160, tuple(DetectorPlace(i, f"ccd{i}", 120 * (i % 2), 90 * (i // 2), 100, 70) for i in range(4))
)


def geometry(index: int, x: float, y: float, n_x: int = 100, n_y: int = 70, turned: bool = False) -> DetectorGeometry:
    """Return a detector whose first pixel is (x, y) of a mosaic centred on (0, 0) of the sky's plane."""
    cd = np.array([[-SCALE, 0.0], [0.0, SCALE]]) / 3600.0 * (-1.0 if turned else 1.0)
    cards = tan_cards(150.0, 2.0, -x, -y, cd).cards
    return DetectorGeometry(index, index + 1, f"ccd{index}", n_x, n_y, SCALE, cards)


def test_detectors_stand_where_their_wcs_says() -> None:
    given = [geometry(0, -110, -80), geometry(1, 10, -80), geometry(2, -110, 10), geometry(3, 10, 10)]
    layout = plan_layout(given, 150.0, 2.0)
    assert [(p.number, p.name, p.x, p.y, p.n_x, p.n_y) for p in layout.places] == [
        (0, "ccd0", 0, 0, 100, 70),
        (1, "ccd1", 120, 0, 100, 70),
        (2, "ccd2", 0, 90, 100, 70),
        (3, "ccd3", 120, 90, 100, 70),
    ]
    assert (layout.width, layout.height) == (220, 160)
    assert layout.places == FOUR.places


def test_a_pointing_elsewhere_moves_nothing() -> None:
    given = [geometry(0, -110, -80), geometry(1, 10, -80)]
    here, there = plan_layout(given, 150.0, 2.0), plan_layout(given, 150.02, 1.98)
    assert here == there


@pytest.mark.parametrize(("ra", "dec", "wild"), [(None, None, False), (150.0, 2.0, True)])
def test_without_a_known_sky_detectors_do_not_hide_each_other(ra: float | None, dec: float | None, wild: bool) -> None:
    far = geometry(1, 10, 10, turned=False)
    cards = tan_cards(150.0, 2.0, 1e7, 0.0, np.array([[-SCALE, 0.0], [0.0, SCALE]]) / 3600.0).cards
    odd = DetectorGeometry(1, 2, "x", 100, 70, SCALE, cards if wild else ())
    layout = plan_layout([geometry(0, 0, 0), odd, DetectorGeometry(2, 3, "y", 90, 60, None, far.wcs_cards)], ra, dec)
    seen = np.zeros((layout.height, layout.width), int)
    for p in layout.places:
        seen[p.y : p.y + p.n_y, p.x : p.x + p.n_x] += 1
    assert max(layout.width, layout.height) <= MAX_SIDE_PIX
    assert seen.max() == 1


def test_one_detector_is_its_own_mosaic() -> None:
    assert plan_layout([geometry(0, 33, 44)], 150.0, 2.0) == single_layout(100, 70, "ccd0")
    with pytest.raises(DataError, match="no mosaic"):
        plan_layout([], 1.0, 1.0)


def sheet(**changes: Any) -> dict[str, Any]:
    one = geometry(0, -110, -80)
    names = ("index", "hdu", "name", "n_x", "n_y", "pixel_scale_arcsec")
    detector = {name: getattr(one, name) for name in names} | {"wcs_cards": list(one.wcs_cards), "planes": ""}
    detector |= {"data": {"x_start": 32, "x_stop": 132, "y_start": 4, "y_stop": 74}, "overscan": None, "amplifiers": []}
    return {"exposure": {"ra_deg": 150.0, "dec_deg": 2.0}, "detectors": [{**detector, **changes}], "more": 1}


def test_the_geometry_of_a_facts_sheet() -> None:
    found = read_geometry(json.dumps(sheet()).encode())
    (d,) = found.detectors
    assert (d.n_x, d.n_y, d.x_start, d.y_start, d.raw, d.hdu) == (100, 70, 32, 4, False, 1)
    assert d.wcs_cards == geometry(0, -110, -80).wcs_cards
    assert found.layout() == single_layout(100, 70, "ccd0")
    assert read_geometry(json.dumps(sheet(planes="fowler")).encode()).detectors[0].raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name": "744100p"}',
        "[" * 100_000,
        json.dumps(sheet(n_x=10**9)),
        json.dumps(sheet(n_y=-1)),
        json.dumps(sheet(n_x="100")),
        json.dumps(sheet(hdu=-1)),
        json.dumps(sheet(data={"x_start": -4})),
        json.dumps(sheet(data=[1])),
        json.dumps({**sheet(), "detectors": 3}),
        json.dumps({**sheet(), "exposure": {"ra_deg": "x", "dec_deg": 1}}),
    ],
)
def test_facts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        read_geometry(text.encode())


# Regions --------------------------------------------------------------------------------------------------------------


def test_a_circle_lies_on_each_detector_it_touches() -> None:
    both = to_detectors(FOUR, MosaicRegion(CIRCLE, (110.0,), (35.0,), 12.0))
    assert [(r.detector, r.x_pix, r.y_pix, r.radius_pix) for r in both] == [
        (0, (110.0,), (35.0,), 12.0),
        (1, (-10.0,), (35.0,), 12.0),
    ]
    assert to_detectors(FOUR, MosaicRegion(CIRCLE, (110.0,), (35.0,), 9.4)) == []  # between them
    corner = MosaicRegion(CIRCLE, (110.0,), (80.0,), math.hypot(10.5, 10.5) + 0.01)
    assert [r.detector for r in to_detectors(FOUR, corner)] == [0, 1, 2, 3]
    nearly = MosaicRegion(CIRCLE, (110.0,), (80.0,), math.hypot(9.5, 9.5))
    assert [r.detector for r in to_detectors(FOUR, nearly)] == []


def test_areas_of_a_polygon_add_up_to_what_lies_on_detectors() -> None:
    rng = np.random.default_rng(8)
    for _ in range(40):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radius = rng.uniform(20, 90)
        x, y = 110 + radius * np.cos(angles), 80 + radius * np.sin(angles)
        regions = to_detectors(FOUR, MosaicRegion(POLYGON, tuple(x), tuple(y)))
        found = sum(abs(polygon_area(list(zip(r.x_pix, r.y_pix, strict=True)))) for r in regions)
        assert found == pytest.approx(area_on_detectors(x, y), abs=1e-6 + 0.003 * radius**2)
        for r in regions:
            assert (min(r.x_pix), min(r.y_pix)) >= (-0.5, -0.5)
            assert max(r.x_pix) <= 99.5
            assert max(r.y_pix) <= 69.5


def area_on_detectors(x: np.ndarray, y: np.ndarray) -> float:
    """Count points of a fine grid inside the polygon (even-odd rule) and on a detector."""
    step = 0.25
    px, py = np.meshgrid(np.arange(-0.5 + step / 2, 219.5, step), np.arange(-0.5 + step / 2, 159.5, step))
    inside = np.zeros(px.shape, bool)
    for x1, y1, x2, y2 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        if y1 != y2:
            inside ^= ((y1 > py) != (y2 > py)) & (px < x1 + (py - y1) * (x2 - x1) / (y2 - y1))
    on = ((px < 99.5) | (px > 119.5)) & ((py < 69.5) | (py > 89.5))
    return float((inside & on).sum()) * step**2


def test_a_polygon_within_one_detector_comes_back_as_it_was() -> None:
    region = MosaicRegion(POLYGON, (130.0, 180.5, 150.25), (10.0, 20.0, 60.125))
    (part,) = to_detectors(FOUR, region)
    assert part == MarkRegion(1, POLYGON, (10.0, 60.5, 30.25), (10.0, 20.0, 60.125))
    assert to_mosaic(FOUR, part) == region


def test_a_polygon_around_all_is_cut_to_the_outer_edges_of_the_pixels() -> None:
    parts = to_detectors(FOUR, MosaicRegion(POLYGON, (-50.0, 300.0, 300.0, -50.0), (-50.0, -50.0, 300.0, 300.0)))
    assert [p.detector for p in parts] == [0, 1, 2, 3]
    assert sorted(set(zip(parts[3].x_pix, parts[3].y_pix, strict=True))) == [
        (-0.5, -0.5),
        (-0.5, 69.5),
        (99.5, -0.5),
        (99.5, 69.5),
    ]


def test_cutting_does_not_depend_on_the_first_corner_or_the_sense() -> None:
    corners = [(-20.0, 5.0), (40.0, -30.0), (130.0, 40.0), (50.0, 90.0), (30.0, 20.0)]
    box = (-0.5, 99.5, -0.5, 69.5)
    area = polygon_area(clip_polygon(corners, box))
    for i in range(5):
        assert polygon_area(clip_polygon(corners[i:] + corners[:i], box)) == pytest.approx(area)
    assert polygon_area(clip_polygon(corners[::-1], box)) == pytest.approx(-area)


def test_a_circle_round_trips_and_an_unknown_detector_is_told() -> None:
    region = MosaicRegion(CIRCLE, (200.0,), (100.0,), 5.0)
    (part,) = to_detectors(FOUR, region)
    assert (part.detector, part.x_pix, part.y_pix) == (3, (80.0,), (10.0,))
    assert to_mosaic(FOUR, part) == region
    with pytest.raises(DataError, match="no detector 9; its detectors are 0 1 2 3"):
        to_mosaic(FOUR, MarkRegion(9, CIRCLE, (1.0,), (1.0,), 2.0))


@pytest.mark.parametrize(
    "region",
    [
        MosaicRegion(CIRCLE, (1.0,), (1.0,)),
        MosaicRegion(CIRCLE, (1.0,), (1.0,), 0.0),
        MosaicRegion(CIRCLE, (1.0, 2.0), (1.0, 2.0), 3.0),
        MosaicRegion(CIRCLE, (math.nan,), (1.0,), 3.0),
        MosaicRegion(CIRCLE, (1.0,), (1.0,), math.inf),
        MosaicRegion(CIRCLE, (1e300,), (1.0,), 3.0),
        MosaicRegion(POLYGON, (1.0, 2.0), (1.0, 2.0)),
        MosaicRegion(POLYGON, (1.0, 2.0, 3.0), (1.0, 2.0)),
        MosaicRegion(POLYGON, (1.0, 2.0, 3.0), (1.0, 2.0, 9.0), 4.0),
        MosaicRegion(POLYGON, tuple(map(float, range(1001))), tuple(map(float, range(1001)))),
    ],
)
def test_what_is_no_region_is_refused(region: MosaicRegion) -> None:
    with pytest.raises(DataError, match="draw it again"):
        check_region(region)

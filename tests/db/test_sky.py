"""Places on the sky: ranges cover what they must, circles find exactly the footprints they meet, poles included."""

from __future__ import annotations

import itertools
from typing import Any

import hpgeom
import numpy as np
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from spica.algorithms.skymap import angular_separation, polygon_meets_circle, tangent_deproject
from spica.db.sky import (
    MAX_RANGES,
    centre_key,
    centre_keys,
    covering_ranges,
    images_in_circle,
    radius_around,
    write_footprint,
)
from spica.db.tables.image import DetectorRow, ImageRow, SkyRangeRow
from spica.model.association import Circle
from spica.model.errors import DataError
from spica.model.image import ImageKind, ImageState

Polygon = tuple[tuple[float, float], ...]
PLACES = [(0.0, 0.0), (359.95, -41.0), (45.0, 90.0), (200.0, -89.8), (123.4, 41.8), (315.0, 0.0)]


def box(ra: float, dec: float, size: float, turn_deg: float = 20.0, dx: float = 0.0, dy: float = 0.0) -> Polygon:
    """Square on the tangent plane of (ra, dec), moved by (dx, dy) in its own units, degrees."""
    x, y = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]).T * size
    angle = np.radians(turn_deg)
    x, y = x * np.cos(angle) - y * np.sin(angle) + dx, x * np.sin(angle) + y * np.cos(angle) + dy
    return tuple((float(a), float(b)) for a, b in zip(*tangent_deproject(x, y, ra, dec), strict=True))


def covered(ranges: list[tuple[int, int]], ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    keys = centre_keys(ra, dec)
    return np.any([(keys >= low) & (keys < high) for low, high in ranges], axis=0)


def test_keys_are_order_29_nested_and_know_turns() -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 500), np.degrees(np.arcsin(rng.uniform(-1, 1, 500)))
    keys = centre_keys(ra, dec)
    assert keys.dtype == np.int64
    back = hpgeom.pixel_to_angle(1 << 29, keys, nest=True)
    assert np.max(angular_separation(ra, dec, *back)) * 3600 < 1e-3  # a cell of order 29 is 0.4 mas wide
    assert np.array_equal(keys >> 2 * 24, hpgeom.angle_to_pixel(1 << 5, ra, dec, nest=True))
    assert centre_key(ra[0], dec[0]) == keys[0]
    assert centre_key(-10.0, 5.0) == centre_key(350.0, 5.0) == centre_key(710.0, 5.0)
    assert centre_key(-1e-20, 5.0) == centre_key(0.0, 5.0)
    assert centre_keys(ra.astype(">f8"), dec.astype(">f8")).tolist() == keys.tolist()
    assert centre_key(0.0, 90.0) >= 0
    assert centre_keys([], []).size == 0


@pytest.mark.parametrize(("ra", "dec"), [(float("nan"), 0.0), (0.0, float("nan")), (float("inf"), 0.0), (0.0, 90.1)])
def test_what_is_no_direction_has_no_key(ra: float, dec: float) -> None:
    with pytest.raises(DataError, match="look at the coordinates"):
        centre_key(ra, dec)


@pytest.mark.parametrize(("ra", "dec"), PLACES)
@pytest.mark.parametrize("size", [1e-4, 0.02, 1.0, 7.0, 60.0])
def test_ranges_cover_polygons_and_circles_and_not_much_more(ra: float, dec: float, size: float) -> None:
    rng = np.random.default_rng(7)
    inside = rng.uniform(-0.5, 0.5, (2000, 2)) * size
    angle = np.radians(20.0)
    x = inside[:, 0] * np.cos(angle) - inside[:, 1] * np.sin(angle)
    y = inside[:, 0] * np.sin(angle) + inside[:, 1] * np.cos(angle)
    points = tangent_deproject(x, y, ra, dec)
    polygon = box(ra, dec, size)
    radius = radius_around(ra, dec, [polygon])
    for ranges in (
        covering_ranges([polygon]),
        covering_ranges([polygon[::-1]]),
        covering_ranges(Circle(ra, dec, radius)),
    ):
        assert 0 < len(ranges) <= MAX_RANGES
        assert np.all(covered(ranges, *points))
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges))
        area = sum(high - low for low, high in ranges) / (12 * 4**29) * 41253.0
        assert area < 4.0 * np.pi * radius**2 + 1e-6


def test_each_range_is_one_cell() -> None:
    for low, high in covering_ranges([box(10.0, 20.0, 3.0), box(13.0, 20.0, 1.0)]):
        shift = (high - low).bit_length() - 1
        assert high - low == 1 << shift
        assert shift % 2 == 0
        assert low % (high - low) == 0


def test_many_detectors_share_the_ranges() -> None:
    polygons = [box(200.0, 47.0, 0.15, 0.0, 0.16 * (k % 6), 0.16 * (k // 6)) for k in range(36)]
    ranges = covering_ranges(polygons)
    assert len(ranges) <= MAX_RANGES
    for polygon in polygons:
        assert np.all(covered(ranges, *np.array(polygon).T))


def test_shapes_that_are_odd_are_covered_all_the_same() -> None:
    bow_tie = ((10.0, 10.0), (11.0, 11.0), (11.0, 10.0), (10.0, 11.0))
    dart = ((10.0, 10.0), (12.0, 10.0), (10.5, 10.5), (10.0, 12.0))
    point = ((10.0, 10.0),) * 4
    for shape in (bow_tie, dart, point):
        ranges = covering_ranges([shape])
        assert len(ranges) <= MAX_RANGES
        assert np.all(covered(ranges, *np.array(shape).T))
    assert covering_ranges(Circle(0.0, 0.0, 180.0)) == [(k << 58, (k + 1) << 58) for k in range(12)]
    assert covered(covering_ranges(Circle(10.0, 90.0, 0.0)), np.array([10.0]), np.array([90.0])).all()


@pytest.mark.parametrize(
    "shape",
    [
        Circle(float("nan"), 0.0, 1.0),
        Circle(0.0, 0.0, -1.0),
        Circle(0.0, 91.0, 1.0),
        [((1.0, 2.0), (3.0, 4.0))],
        [((1.0, 2.0), (3.0, 4.0), (5.0, float("nan")))],
        [((1.0, 2.0), (3.0, 4.0), (5.0, 95.0))],
    ],
)
def test_what_is_no_shape_is_refused(shape: object) -> None:
    with pytest.raises(DataError, match=r"(look at|give) "):
        covering_ranges(shape)  # type: ignore[arg-type]


# In the database ----------------------------------------------------------------------------------------------------


def add_image(
    session: Session, image_id: int, polygons: list[Polygon], centre: tuple[float | None, float | None] = (None, None),
    kind: ImageKind = ImageKind.EXPOSURE,
) -> None:  # fmt: skip
    row = ImageRow(
        id=image_id, name=f"i{image_id}", kind=kind, state=ImageState.ASSESSED, ra_deg=centre[0], dec_deg=centre[1]
    )
    session.add(row)
    session.flush()
    for number, polygon in enumerate(polygons):
        ra, dec = [p[0] for p in polygon], [p[1] for p in polygon]
        session.add(
            DetectorRow(
                image_id=image_id, number=number, hdu=number, name=str(number), n_x=1, n_y=1, polygon_ra_deg=ra,
                polygon_dec_deg=dec,
            )
        )  # fmt: skip
    session.flush()
    write_footprint(session, image_id, polygons)


def test_circles_find_exactly_the_footprints_they_meet(session: Session) -> None:
    rng = np.random.default_rng(11)
    images: dict[int, list[Polygon]] = {}
    for k in range(80):
        ra, dec = PLACES[rng.integers(len(PLACES))]
        dx, dy = rng.normal(0.0, 2.0, 2)
        size = rng.choice((0.05, 0.3, 1.0, 3.0))
        shapes = [box(ra, dec, size, rng.uniform(0, 90), dx + 1.1 * size * i, dy) for i in range(rng.integers(1, 4))]
        images[k + 1] = shapes
        centre = tuple(map(float, np.array(shapes[0][0]))) if k % 5 else (None, None)
        add_image(session, k + 1, shapes, centre)  # type: ignore[arg-type]
    found_any = 0
    for _ in range(40):
        ra, dec = PLACES[rng.integers(len(PLACES))]
        x, y = tangent_deproject(rng.normal(0, 1.5), rng.normal(0, 1.5), ra, dec)
        circle = Circle(float(x), float(y), float(rng.choice((0.0, 0.01, 0.3, 2.0, 20.0, 120.0))))
        expected = [
            k
            for k, shapes in images.items()
            if any(polygon_meets_circle(s, circle.ra_deg, circle.dec_deg, circle.radius_deg) for s in shapes)
        ]
        assert images_in_circle(session, circle) == expected
        found_any += 0 < len(expected) < len(images)
    assert found_any > 20


def test_only_the_kind_asked_for_is_found(session: Session) -> None:
    here = box(10.0, 20.0, 1.0)
    add_image(session, 1, [here], (10.0, 20.0))
    add_image(session, 2, [here], (10.0, 20.0), ImageKind.STACK)
    add_image(session, 3, [], (10.0, 20.0))
    assert images_in_circle(session, Circle(10.0, 20.0, 0.1)) == [1]
    assert images_in_circle(session, Circle(10.0, 20.0, 0.1), ImageKind.STACK) == [2]


def test_a_new_footprint_takes_the_place_of_the_old(session: Session) -> None:
    old, new = box(10.0, 20.0, 1.0, 0.0), box(40.0, 20.0, 2.0, 0.0)
    add_image(session, 1, [old], (10.0, 20.0))
    first = session.get_one(ImageRow, 1)
    session.refresh(first)
    assert first.radius_deg == pytest.approx(np.sqrt(0.5), rel=1e-3)
    detector = session.scalars(select(DetectorRow)).one()
    detector.polygon_ra_deg, detector.polygon_dec_deg = [p[0] for p in new], [p[1] for p in new]
    first.ra_deg = 40.0
    session.flush()
    write_footprint(session, 1, [new])
    session.refresh(first)
    assert first.radius_deg == pytest.approx(np.sqrt(2.0), rel=1e-3)
    assert images_in_circle(session, Circle(10.0, 20.0, 1.0)) == []
    assert images_in_circle(session, Circle(40.0, 20.0, 1.0)) == [1]
    write_footprint(session, 1, [])
    assert session.scalar(select(func.count()).select_from(SkyRangeRow)) == 0
    session.refresh(first)
    assert first.radius_deg is None


def test_a_cone_can_use_the_index(session: Session) -> None:
    """Both parts of the statement reach the ranges by index: with sequential scans off, none is left in the plan."""
    for k, (ra, dec) in enumerate(PLACES):
        add_image(session, k + 1, [box(ra, dec, 1.0)], (ra, dec))
    statements: list[tuple[str, Any]] = []
    connection = session.connection()
    event.listen(connection, "before_cursor_execute", lambda *a: statements.append((a[2], a[3])))
    assert images_in_circle(session, Circle(123.0, 41.8, 1.0)) == [5]
    statement, parameters = statements[0]
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
    assert plan.count("ix_sky_range_low") >= 2
    assert "Seq Scan on sky_range" not in plan

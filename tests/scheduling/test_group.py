"""Grouping: laws of each mode, and brute force over all pairs as the independent truth."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from spica.algorithms.skymap import polygons_overlap, tangent_deproject
from spica.model.association import Circle, Member, Mode, Split
from spica.model.selection import Candidate
from spica.scheduling.group import group_area, group_single, group_survey, members_of
from spica.scheduling.group.overlap import FootprintMap, connected_labels

SQUARE = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
Polygon = tuple[tuple[float, float], ...]


def box(ra: float, dec: float, size: float = 1.0, turn_deg: float = 0.0, dx: float = 0.0, dy: float = 0.0) -> Polygon:
    """Square on the tangent plane of (ra, dec), moved by (dx, dy) and turned; sizes in degrees."""
    angle = np.radians(turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    x, y = ((SQUARE * size + (dx, dy)) @ turn.T).T
    return tuple((float(a), float(b)) for a, b in zip(*tangent_deproject(x, y, ra, dec), strict=True))


def member(image_id: int, *polygons: Polygon, key: str = "m51", filter_name: str = "r", **more: str | None) -> Member:
    values: dict[str, str | None] = {"run": "06AM01", "night": "2006-05-01"} | more
    return Member(image_id, f"7441{image_id:02d}p", key, "megacam", filter_name, polygons_deg=polygons, **values)  # type: ignore[arg-type]


def ids(grouping: object) -> list[tuple[int, ...]]:
    return [a.image_ids for a in grouping.associations]  # type: ignore[attr-defined]


def test_two_fields_of_one_name_are_two_groups_and_a_chain_is_one() -> None:
    chain = [member(i, box(200.0 + 0.7 * i, 0.0), key="test") for i in range(1, 5)]
    far = [member(i, box(20.0, 10.0), key="test") for i in (9, 10)]
    grouping = group_survey(far + chain)
    assert ids(grouping) == [(1, 2, 3, 4), (9, 10)]
    assert [a.group for a in grouping.associations] == [1, 2]
    assert {a.mode for a in grouping.associations} == {Mode.SURVEY}
    assert [a.group for a in group_survey(chain).associations] == [0]
    without_link = group_survey([m for m in chain if m.image_id != 2])
    assert ids(without_link) == [(1,), (3, 4)]


def test_cameras_filters_and_objects_stay_apart() -> None:
    here = box(10.0, 10.0)
    other_camera = replace(member(4, here), instrument="wircam")
    members = [member(1, here), member(2, here, filter_name="g"), member(3, here, key="ic1396"), other_camera]
    grouping = group_survey(members)
    assert ids(grouping) == [(3,), (2,), (1,), (4,)]
    assert [(a.object_key, a.instrument, a.filter) for a in grouping.associations] == [
        ("ic1396", "megacam", "r"),
        ("m51", "megacam", "g"),
        ("m51", "megacam", "r"),
        ("m51", "wircam", "r"),
    ]


def test_a_field_has_one_number_in_all_filters() -> None:
    first, second = box(10.0, 10.0), box(50.0, 10.0)
    members = [member(1, first), member(2, second), member(3, second, filter_name="g")]
    found = {(a.filter, a.group): a.image_ids for a in group_survey(members).associations}
    assert found == {("r", 1): (1,), ("r", 2): (2,), ("g", 2): (3,)}


def test_parts_that_only_another_filter_connects_are_separate_and_numbered_apart() -> None:
    left, middle, right = (box(100.0 + 0.8 * i, 0.0) for i in range(3))
    members = [member(1, left), member(2, right), member(3, middle, filter_name="g"), member(4, box(120.0, 0.0))]
    found = {(a.filter, a.group): a.image_ids for a in group_survey(members).associations}
    assert found == {("r", 1): (1,), ("r", 3): (2,), ("r", 2): (4,), ("g", 1): (3,)}


def test_split_by_run_and_night() -> None:
    here = box(10.0, 10.0)
    members = [
        member(1, here),
        member(2, here, run="06AM02", night="2006-06-01"),
        member(3, here, run="06AM02", night="2006-06-02"),
        member(4, here, run=None, night=None),
    ]
    assert ids(group_survey(members)) == [(1, 2, 3, 4)]
    by_run = group_survey(members, Split.RUN)
    assert [(a.run, a.night, a.image_ids) for a in by_run.associations] == [
        (None, None, (4,)),
        ("06AM01", None, (1,)),
        ("06AM02", None, (2, 3)),
    ]
    by_night = group_survey(members, Split.NIGHT)
    assert [(a.night, a.image_ids) for a in by_night.associations] == [
        (None, (4,)),
        ("2006-05-01", (1,)),
        ("2006-06-01", (2,)),
        ("2006-06-02", (3,)),
    ]
    area = group_area(members, Circle(10.0, 10.0, 0.1), Split.RUN)
    assert [(a.run, a.image_ids) for a in area.associations] == [(None, (4,)), ("06AM01", (1,)), ("06AM02", (2, 3))]


def test_what_cannot_be_grouped_is_left_out_with_a_reason() -> None:
    here = box(10.0, 10.0)
    flat = ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    unknown = ((float("nan"), 1.0), (2.0, 1.0), (2.0, 2.0))
    members = [member(1, here), member(2), member(3, flat), member(4, unknown), member(5, here, key="")]
    grouping = group_survey(members)
    assert ids(grouping) == [(1,)]
    assert [(u.image_id, u.reason.code) for u in grouping.left_out] == [
        (2, "footprint_unknown"),
        (3, "footprint_unknown"),
        (4, "footprint_unknown"),
        (5, "object_unknown"),
    ]
    area = group_area([*members, member(6, box(40.0, 0.0))], Circle(10.0, 10.0, 0.2))
    assert ids(area) == [(1, 5)]
    assert {u.image_id: u.reason.code for u in area.left_out} == dict.fromkeys((2, 3, 4), "footprint_unknown") | {
        6: "outside_circle"
    }
    single = group_single([1, 2], members)
    assert ids(single) == [(1, 5)]
    assert [u.image_id for u in single.left_out] == [2]
    assert group_survey([]).associations == group_area([], Circle(0, 0, 1)).associations == ()


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.9, -30.0), (123.0, 90.0), (0.0, -89.9)])
def test_right_ascension_zero_and_poles_are_ordinary(ra: float, dec: float) -> None:
    touching = [member(i, box(ra, dec, 1.0, 30.0, dx=0.9 * i)) for i in range(3)]
    apart = member(7, box(ra, dec, 1.0, 30.0, dx=-1.2))
    assert ids(group_survey([*touching, apart])) == [(0, 1, 2), (7,)]
    assert ids(group_area([*touching, apart], Circle(ra, dec, 0.45))) == [(0, 1)]
    assert ids(group_area([*touching, apart], Circle(ra, dec, 0.3))) == [(0,)]
    single = group_single([0, 1, 7], [*touching, apart])
    assert ids(single) == [(0, 1), (0, 1, 2), (7,)]
    assert [a.target_id for a in single.associations] == [0, 1, 7]


def test_area_takes_what_meets_the_circle_whatever_its_object() -> None:
    circle = Circle(10.0, 10.0, 5.0)
    members = [member(1, box(10, 10)), member(2, box(10, 14.9), key="x"), member(3, box(10, 15.6), key="")]
    grouping = group_area(members, circle)
    assert ids(grouping) == [(1, 2)]
    assert grouping.associations[0].circle == circle
    assert grouping.associations[0].object_key == ""
    assert [u.image_id for u in grouping.left_out] == [3]


def test_chip_gaps_count_as_sky_that_is_not_covered() -> None:
    mosaic = member(1, box(10, 10, 0.4, dx=-0.3), box(10, 10, 0.4, dx=0.3))
    in_gap = member(2, box(10, 10, 0.15))
    assert ids(group_survey([mosaic, in_gap])) == [(1,), (2,)]
    assert ids(group_single([2], [mosaic, in_gap])) == [(2,)]
    assert ids(group_survey([mosaic, member(2, box(10, 10, 0.25))])) == [(1, 2)]


def test_targets_must_be_members() -> None:
    with pytest.raises(ValueError, match="target 5"):
        group_single([5], [member(1, box(0, 0))])


def test_candidates_become_members() -> None:
    known = Candidate(1, "a", object_key="m51", instrument="megacam", filter="r", night=date(2006, 5, 1))
    members, left_out = members_of([known, replace(known, image_id=2, filter=None), replace(known, instrument=None)])
    assert [(m.image_id, m.object_key, m.night) for m in members] == [(1, "m51", "2006-05-01")]
    assert [(u.image_id, u.reason.code) for u in left_out] == [(2, "filter_unknown"), (1, "instrument_unknown")]


def random_footprints(rng: np.random.Generator, count: int) -> list[tuple[Polygon, ...]]:
    """Exposures of one to three detectors with three to five corners, anywhere, mostly near others."""
    fields = rng.uniform((0, -90), (360, 90), (4, 2))
    fields[0] = (359.9, 89.5)
    found = []
    for _ in range(count):
        ra, dec = fields[rng.integers(4)]
        dx, dy = rng.normal(0.0, 1.6, 2)
        polygons = []
        for k in range(rng.integers(1, 4)):
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6)))[:: rng.choice((-1, 1))]
            radius = rng.uniform(0.1, 0.5)
            x, y = dx + 0.8 * k + radius * np.cos(angles), dy + radius * np.sin(angles)
            polygons.append(tuple((float(a), float(b)) for a, b in zip(*tangent_deproject(x, y, ra, dec), strict=True)))
        found.append(tuple(polygons))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_groups_agree_with_all_pairs(seed: int) -> None:
    footprints = random_footprints(np.random.default_rng(seed), 45)
    sky = FootprintMap(footprints)
    count = len(footprints)
    meet = np.eye(count, dtype=bool)
    for i in range(count):
        for j in range(i):
            meet[i, j] = meet[j, i] = any(polygons_overlap(a, b) for a in footprints[i] for b in footprints[j])
    assert 0 < (meet.sum() - count) < count * count / 4
    for i in range(count):
        assert sky.overlapping(i, np.arange(count)).tolist() == np.flatnonzero(meet[i]).tolist()
    reach = meet.copy()
    for _ in range(7):
        reach = reach @ reach
    expected = np.unique(reach.argmax(axis=1), return_inverse=True)[1]
    assert connected_labels(sky, np.arange(count)).tolist() == expected.tolist()
    assert expected.max() > 2


def test_order_of_members_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    members = [member(i, *p) for i, p in enumerate(random_footprints(rng, 60))]
    shuffled = [members[i] for i in rng.permutation(60)]
    assert group_survey(shuffled) == group_survey(members)
    circle = Circle(359.0, 89.0, 2.0)
    assert group_area(shuffled, circle) == group_area(members, circle)
    assert group_single(range(60), shuffled) == group_single(range(60), members)


def test_thousands_of_exposures_group_in_seconds() -> None:
    """Two dense fields side by side that do not touch, and a chain of tiles; the bound is ten times what it takes."""
    rng = np.random.default_rng(3)
    dithers = rng.uniform(-0.04, 0.04, (2000, 2))
    members = []
    for i, (dx, dy) in enumerate(dithers.tolist()):
        field = i % 4
        centre = {0: 0.0, 1: 1.1, 2: 40.0, 3: 40.95}[field]
        members.append(member(i, box(180.0 + centre, 0.0, 1.0, 0.0, dx, dy)))
    begin = time.perf_counter()
    grouping = group_survey(members)
    seconds = time.perf_counter() - begin
    assert [len(a.image_ids) for a in grouping.associations] == [500, 500, 1000]
    assert seconds < 5.0, f"{seconds:.2f} s"

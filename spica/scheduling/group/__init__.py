"""Grouping: exposures into associations by the mode of a plan; pure, nothing is read or written."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from spica.algorithms.skymap import polygon_meets_circle, unit_vectors
from spica.model.association import Association, Circle, Member, Mode, Split
from spica.model.job import Reason
from spica.model.selection import Candidate
from spica.scheduling.group.overlap import MARGIN, FootprintMap, connected_labels

__all__ = ["Grouping", "Ungrouped", "group_area", "group_single", "group_survey", "members_of"]

NO_FOOTPRINT = Reason("footprint_unknown", "footprint unknown; give its position in the header or by a profile")
NO_OBJECT = Reason("object_unknown", "object unknown; stack it by area")
NO_FILTER = Reason("filter_unknown", "filter unknown; name it in the header or by a profile")
NO_INSTRUMENT = Reason("instrument_unknown", "instrument unknown; add a profile")
OUTSIDE = Reason("outside_circle", "no detector meets the circle")


@dataclass(frozen=True)
class Ungrouped:
    """An exposure that belongs to no association, and why."""

    image_id: int
    name: str
    reason: Reason


@dataclass(frozen=True)
class Grouping:
    """Associations in order, and the exposures that belong to none."""

    associations: tuple[Association, ...]
    left_out: tuple[Ungrouped, ...]


def members_of(candidates: Iterable[Candidate]) -> tuple[tuple[Member, ...], tuple[Ungrouped, ...]]:
    """Return candidates as grouping sees them, and those whose instrument or filter is unknown."""
    members, left_out = [], []
    for c in candidates:
        if c.instrument is None or c.filter is None:
            left_out.append(Ungrouped(c.image_id, c.name, NO_INSTRUMENT if c.instrument is None else NO_FILTER))
            continue
        night = None if c.night is None else c.night.isoformat()
        members.append(
            Member(c.image_id, c.name, c.object_key or "", c.instrument, c.filter, c.run, night, c.polygons_deg)
        )
    return tuple(members), tuple(left_out)


def group_survey(members: Sequence[Member], split: Split = Split.NONE) -> Grouping:
    """Group exposures of one object, camera and filter that overlap, directly or through others.

    `split` separates runs or nights first. Fields of one object that do not touch count from 1 in the order of their
    smallest image id, over all cameras and filters, so that field 2 is the same place in each of them; where parts of
    one field are connected only through another camera, filter, run or night, the further parts count on after the
    last field. An object with one field has group 0.
    """
    members = sorted(members, key=lambda m: m.image_id)
    sky = FootprintMap([m.polygons_deg for m in members])
    left_out = [_ungrouped(m, NO_OBJECT) for m in members if not m.object_key]
    left_out += [
        _ungrouped(m, NO_FOOTPRINT) for m, known in zip(members, sky.usable, strict=True) if m.object_key and not known
    ]
    objects: dict[str, list[int]] = defaultdict(list)
    for i, m in enumerate(members):
        if m.object_key and sky.usable[i]:
            objects[m.object_key].append(i)
    found = [a for key in sorted(objects) for a in _object_groups(members, sky, objects[key], split)]
    return Grouping(tuple(found), tuple(sorted(left_out, key=lambda u: u.image_id)))


def _object_groups(
    members: Sequence[Member], sky: FootprintMap, indices: list[int], split: Split
) -> Iterable[Association]:
    """Yield the associations of one object."""
    fields = connected_labels(sky, np.array(indices, dtype=np.int64))
    field_of = dict(zip(indices, fields.tolist(), strict=True))
    n_fields = max(field_of.values()) + 1
    for key, inside in sorted(_by_key(members, indices, split).items(), key=lambda item: _sortable(item[0])):
        labels = fields if inside == indices else connected_labels(sky, np.array(inside, dtype=np.int64))
        parts = [[inside[k] for k in np.flatnonzero(labels == label)] for label in range(int(labels.max()) + 1)]
        taken: set[int] = set()
        more = n_fields
        numbered = []
        for part in parts:
            number = field_of[part[0]] + 1
            if number in taken:
                more += 1
                number = more
            taken.add(number)
            numbered.append((number, part))
        single = n_fields == 1 and len(parts) == 1
        for number, part in sorted(numbered):
            instrument, filter_name, run, night = key
            yield Association(
                Mode.SURVEY,
                members[part[0]].object_key,
                instrument,
                filter_name,
                tuple(members[i].image_id for i in part),
                0 if single else number,
                run,
                night,
            )


Key = tuple[str, str, str | None, str | None]


def _by_key(members: Sequence[Member], indices: Iterable[int], split: Split) -> dict[Key, list[int]]:
    """Return indices by camera, filter and, where they are split, run or night (None: not split, or unknown)."""
    found: dict[Key, list[int]] = defaultdict(list)
    for i in indices:
        m = members[i]
        run = m.run if split is Split.RUN else None
        night = m.night if split is Split.NIGHT else None
        found[m.instrument, m.filter, run, night].append(i)
    return found


def _sortable(key: Key) -> tuple[str, ...]:
    return tuple(part or "" for part in key)


def _ungrouped(member: Member, reason: Reason) -> Ungrouped:
    return Ungrouped(member.image_id, member.name, reason)


def group_area(members: Sequence[Member], circle: Circle, split: Split = Split.NONE) -> Grouping:
    """Group exposures that meet a circle by camera and filter, and by run or night where they are split.

    Whatever their object: the associations have an empty `object_key`.
    """
    members = sorted(members, key=lambda m: m.image_id)
    sky = FootprintMap([m.polygons_deg for m in members])
    left_out, inside = [], []
    centre = unit_vectors(circle.ra_deg, circle.dec_deg)
    apart = _angle_deg(np.linalg.norm(sky.centre - centre, axis=1))
    radius = _angle_deg(sky.radius)
    for i, m in enumerate(members):
        if not sky.usable[i]:
            left_out.append(_ungrouped(m, NO_FOOTPRINT))
        elif apart[i] + radius[i] <= circle.radius_deg or (
            apart[i] - radius[i] <= circle.radius_deg + 1e-9 and _meets(m, circle)
        ):
            inside.append(i)
        else:
            left_out.append(_ungrouped(m, OUTSIDE))
    groups = sorted(_by_key(members, inside, split).items(), key=lambda item: _sortable(item[0]))
    found = [
        Association(Mode.AREA, "", i, f, tuple(members[k].image_id for k in ids), 0, run, night, circle)
        for (i, f, run, night), ids in groups
    ]
    return Grouping(tuple(found), tuple(left_out))


def _angle_deg(chord: np.ndarray) -> np.ndarray:
    return np.degrees(2.0 * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0)))


def _meets(member: Member, circle: Circle) -> bool:
    for polygon in member.polygons_deg:
        if len(polygon) >= 3 and all(math.isfinite(x) and math.isfinite(y) for x, y in polygon):
            try:
                if polygon_meets_circle(np.asarray(polygon), circle.ra_deg, circle.dec_deg, circle.radius_deg):
                    return True
            except ValueError:  # a polygon without area
                continue
    return False


def group_single(targets: Collection[int], members: Sequence[Member]) -> Grouping:
    """Give each target an association of its own: all members of its camera and filter that overlap it, and itself.

    `targets` are image ids of members; the associations stand in their order.

    Raises
    ------
    ValueError
        A target is not among the members.
    """
    by_id = {m.image_id: i for i, m in enumerate(members)}
    unknown = [t for t in targets if t not in by_id]
    if unknown:
        raise ValueError(f"target {unknown[0]} is not among the members; give the exposures it is chosen from")
    sky = FootprintMap([m.polygons_deg for m in members])
    trees = _camera_trees(members, sky)
    found, left_out = [], []
    for target in targets:
        i = by_id[target]
        m = members[i]
        if not sky.usable[i]:
            left_out.append(_ungrouped(m, NO_FOOTPRINT))
            continue
        tree, inside, largest = trees[m.instrument, m.filter]
        near = tree.query_ball_point(sky.centre[i], sky.radius[i] + largest + MARGIN, return_sorted=True)
        overlapping = sky.overlapping(i, inside[np.asarray(near, dtype=np.int64)])
        ids = sorted({members[k].image_id for k in overlapping.tolist()} | {target})
        found.append(Association(Mode.SINGLE, m.object_key, m.instrument, m.filter, tuple(ids), target_id=m.image_id))
    return Grouping(tuple(found), tuple(left_out))


def _camera_trees(
    members: Sequence[Member], sky: FootprintMap
) -> dict[tuple[str, str], tuple[cKDTree, np.ndarray, float]]:
    """Return by camera and filter a tree of centres, the members in it, and the largest radius."""
    usable = np.flatnonzero(sky.usable).tolist()
    trees = {}
    for (instrument, filter_name, _, _), indices in _by_key(members, usable, Split.NONE).items():
        inside = np.array(indices, dtype=np.int64)
        trees[instrument, filter_name] = (cKDTree(sky.centre[inside]), inside, float(sky.radius[inside].max()))
    return trees

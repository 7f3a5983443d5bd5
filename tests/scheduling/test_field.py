"""The reference stars of an association: cut around all its footprints, pinned by content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spica.algorithms.skymap import angular_separation
from spica.model.errors import TransientError
from spica.model.recipe import read_recipe
from spica.reference.reading import read_reference
from spica.scheduling.field import enclosing_circle, find_reference, search_radius_deg


class Candidate:
    """What the field must know of a candidate."""

    def __init__(self, ra: float, dec: float, half: float = 0.05) -> None:
        self.instrument = "spicasim"
        width = half / np.cos(np.radians(dec))
        self.polygons_deg = (
            tuple(((ra + x * width) % 360.0, dec + y * half) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))),
        )


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.01, 10.0), (359.99, -60.0), (30.0, 88.5)])
def test_the_circle_holds_every_corner_and_little_more(ra: float, dec: float) -> None:
    members = [Candidate(ra, dec), Candidate((ra + 0.04) % 360.0, dec + 0.03)]
    centre_ra, centre_dec, radius = enclosing_circle(members)
    corners = np.array([c for m in members for p in m.polygons_deg for c in p])
    distances = angular_separation(corners[:, 0], corners[:, 1], centre_ra, centre_dec)
    assert distances.max() <= radius + 1e-9
    assert radius < 0.15


def test_the_cut_holds_all_stars_of_the_circle_and_is_the_same_file_again(field_world: Any) -> None:
    recipe = read_recipe([], ["astrometry.search_radius_arcmin=6"])
    members = [Candidate(150.0, 2.0)]
    place = find_reference(field_world.workspace, recipe, members)
    again = find_reference(field_world.workspace, recipe, members)
    assert again == place
    path = field_world.workspace.roots["data"] / place.relative_path
    stars = read_reference(path)
    whole = read_reference(next(field_world.workspace.reference_folder.glob("*.fits")))
    near = angular_separation(whole.ra_deg, whole.dec_deg, place.ra_deg, place.dec_deg) <= place.radius_deg
    assert place.radius_deg == pytest.approx(enclosing_circle(members)[2] + 0.1)
    assert len(stars.ra_deg) >= near.sum() > 50
    assert place.sha256[:8] in path.name
    assert [p.name for p in path.parent.iterdir()] == [path.name], "nothing temporary is left"


def test_the_pointing_error_comes_from_the_recipe_or_the_camera(field_world: Any) -> None:
    members = [Candidate(150.0, 2.0)]
    assert search_radius_deg(
        field_world.workspace, read_recipe([], ["astrometry.search_radius_arcmin=9"]), members
    ) == (pytest.approx(0.15))
    own = search_radius_deg(field_world.workspace, read_recipe([], []), members)
    assert 0 < own < 1
    members[0].instrument = "generic:UNKNOWN"
    assert 0 < search_radius_deg(field_world.workspace, read_recipe([], []), members) < 1


def test_a_field_without_stars_says_how_to_add_them(field_world: Any) -> None:
    with pytest.raises(TransientError, match="spica reference"):
        find_reference(field_world.workspace, read_recipe([], []), [Candidate(10.0, -40.0)])


def test_a_field_without_stars_names_the_headers_too(field_world: Any) -> None:
    with pytest.raises(TransientError, match=r"astrometry\.source=header where the headers hold a calibrated WCS"):
        find_reference(field_world.workspace, read_recipe([], []), [Candidate(10.0, -40.0)])


def test_positions_of_headers_need_no_reference_and_take_one_that_is_there(field_world: Any) -> None:
    workspace, recipe = field_world.workspace, read_recipe([], ["astrometry.source=header"])
    bare = find_reference(workspace, recipe, [Candidate(10.0, -40.0)])
    assert (bare.ra_deg, bare.dec_deg) == pytest.approx((10.0, -40.0), abs=1e-3)
    assert bare.relative_path is None
    with field_world.database.begin() as session:
        assert bare.know(session, workspace) is None
    covered = find_reference(workspace, recipe, [Candidate(150.0, 2.0)])
    assert covered.relative_path is not None
    assert (workspace.roots["data"] / covered.relative_path).is_file()


def test_a_reference_asked_for_by_name_must_cover_the_field_whatever_the_headers_say(field_world: Any) -> None:
    recipe = read_recipe([], ["astrometry.source=header", "astrometry.reference=stars"])
    with pytest.raises(TransientError, match="no reference stars in stars"):
        find_reference(field_world.workspace, recipe, [Candidate(10.0, -40.0)])


def test_a_damaged_reference_is_not_taken_for_none(field_world: Any) -> None:
    (path,) = field_world.workspace.reference_folder.glob("*.fits")
    path.write_bytes(b"damaged")
    recipe = read_recipe([], ["astrometry.source=header"])
    with pytest.raises(TransientError, match="cannot be read"):
        find_reference(field_world.workspace, recipe, [Candidate(150.0, 2.0)])

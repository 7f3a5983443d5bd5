"""Survey pages: what is counted is what plain loops count; the sky, nights, runs and objects."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, timedelta
from typing import Any

import hpgeom
import numpy as np
import pytest

from spica.algorithms.skymap import angular_separation
from spica.db.pages.night import list_nights, list_objects, list_runs, missing_names
from spica.db.pages.skycell import centre_cells, order_of_view, shown_rows, sky_cells
from spica.db.pages.survey import read_flow, short_fields
from spica.db.pages.tally import medians
from spica_web.deps import Site
from spica_web.kept import Shelf


def test_numbers_of_the_lists_are_those_of_the_exposures(survey: Any, visitor: Any, site: Site) -> None:
    client = visitor.become(survey.tokens["vera"])
    listed = client.get("/api/images").json()
    images = site.snapshot().images
    for entry in list_nights(images):
        own = [e for e in listed if e["night"] == entry.night.isoformat()]
        assert entry.n == len(own)
        assert entry.grades[:4] == tuple(sum(e["grade"] == g for e in own) for g in "ABCD")
        assert entry.exptime_s == sum(e["exptime_s"] for e in own)
        assert entry.seeing_arcsec == pytest.approx(np.median([e["seeing_arcsec"] for e in own]))
        assert {f.filter: f.n for f in entry.filters} == {
            f: sum(e["filter"] == f for e in own) for f in {e["filter"] for e in own}
        }
    for one in list_objects(images):
        own = [
            e for e in listed if e["object"] == one.object and e["filter"] == one.filter and e["state"] != "rejected"
        ]
        if own:
            depths = [e["limiting_mag"] for e in own if e["grade"] != "D"]
            assert one.depth_mag == pytest.approx(1.25 * math.log10(sum(10 ** (0.8 * m) for m in depths)))
    assert [(r.run, r.n, r.nights) for r in list_runs(images)] == [("06BQ12", 9, 4)]
    flow = read_flow(images)
    assert (flow.total.arrived, flow.total.rejected, flow.total.verified) == (10, 1, 9)
    assert flow.total.stacked == 2  # of three calibrated, one was left out
    assert flow.night == date(2006, 12, 15)
    assert flow.stacks["delivered"] == 1


def test_medians_are_those_of_numpy() -> None:
    rng = np.random.default_rng(2)
    group, values = rng.integers(0, 9, 500), rng.normal(size=500)
    values[rng.random(500) < 0.2] = np.nan
    group[group == 4] = 3
    found = medians(group, values, 9)
    for g in range(9):
        own = values[(group == g) & np.isfinite(values)]
        assert math.isnan(found[g]) if not len(own) else found[g] == pytest.approx(np.median(own))


def test_cells_hold_each_exposure_where_it_lies(survey: Any, site: Site) -> None:
    images = site.snapshot().images
    rows = shown_rows(images, None)
    keys = centre_cells(images)
    coarse = sky_cells(images, keys, rows, 4)
    expected = np.unique(hpgeom.angle_to_pixel(16, images.ra[rows], images.dec[rows], nest=True), return_counts=True)
    assert (coarse.pixel.tolist(), coarse.n.tolist()) == (expected[0].tolist(), expected[1].tolist())
    assert coarse.exptime_s.sum() == images.exptime[rows].sum()
    fine = sky_cells(images, keys, rows, 11)
    ra, dec = hpgeom.pixel_to_angle(1 << 11, fine.pixel, nest=True)
    for a, d, n in zip(ra, dec, fine.n, strict=True):
        apart = angular_separation(images.ra[rows], images.dec[rows], a, d)
        near, far = (apart < 0.8 * images.radius[rows] - 0.04).sum(), (apart < 0.8 * images.radius[rows] + 0.04).sum()
        assert near <= n <= far
    assert order_of_view(180) < order_of_view(10) < order_of_view(0.5)


def test_gaps_of_running_numbers() -> None:
    assert missing_names(["744123p", "744125p", "744126b"]) == [[["744124p", "744124b"]]]
    assert missing_names(["a001", "a002", "b007"]) == []
    assert missing_names(["20061214T031207", "20061214T041500"]) == []
    assert missing_names(["x1", "x900"]) == []
    assert missing_names(["bias", "flat~0123abcd"]) == []


def test_pages_say_what_is_there_and_what_is_not(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    night = client.get("/nights/2006-12-12").text
    assert 'class="nightline"' in night
    assert "744104p" in night
    assert 'id="gaps"' not in night  # other nights bear the numbers between
    assert client.get("/nights/2001-01-01").status_code == 404
    assert client.get("/nights/%3Cscript%3E").status_code == 404
    for address in (
        "/nights?sort=-n",
        "/runs?sort=run",
        "/objects?sort=depth_mag&filter=r",
        "/sky?filter=r&what=seeing",
    ):
        assert client.get(address).status_code == 200
    assert "No night matches" in client.get("/nights?q=1999").text
    assert client.get("/sky/cells.json?ra=inf").status_code == 400
    cells = client.get("/sky/cells.json?filter=r").json()
    assert sum(cells["n"]) == cells["exposures"] == 6
    text = client.get("/sky/moc?format=text&filter=r").text
    assert text.startswith(("8/", "9/", "10/"))


def test_a_dear_value_rests_and_a_cheap_one_is_always_new() -> None:
    now = [0.0]
    shelf = Shelf(lambda: now[0])
    made = []

    def make(cost: float) -> Any:
        def work() -> int:
            now[0] += cost
            made.append(cost)
            return len(made)

        return work

    assert [shelf.get("cheap", v, make(0.001)) for v in (1, 1, 2)] == [1, 1, 2]
    assert shelf.get("dear", 1, make(1.0)) == 3
    now[0] += 5.0
    assert shelf.get("dear", 2, make(1.0)) == 3  # rests for 50 s


def test_fields_are_short_of_their_own_median(database: Any, survey: Any, site: Site) -> None:
    """Against counting by hand, on nights drawn at random."""
    images = site.snapshot().images
    rng = np.random.default_rng(3)
    n = len(images.id)
    many = 60
    rows = rng.integers(0, n, n * many)
    mask = (images.kind[rows] == 0) & (images.frame[rows] == 0) & (images.object[rows] >= 0)
    drawn = dataclasses.replace(
        images,
        **{
            f.name: getattr(images, f.name)[rows]
            for f in dataclasses.fields(images)
            if isinstance(getattr(images, f.name), np.ndarray)
        },
    )
    nights = rng.choice(np.arange(100, 105), n * many, p=[0.3, 0.06, 0.2, 0.24, 0.2]).astype(np.int32)
    drawn = dataclasses.replace(drawn, night=nights)
    night = date(1970, 1, 1) + timedelta(days=101)
    wanted = []
    for pair in {(int(o), int(f)) for o, f in zip(drawn.object[mask], drawn.filter[mask], strict=True)}:
        own = drawn.night[mask & (drawn.object == pair[0]) & (drawn.filter == pair[1])].tolist()
        others = [own.count(d) for d in set(own) if d != 101]
        if len(others) >= 3 and 0 < own.count(101) * 2 < int(np.median(others)):
            wanted.append((own.count(101), int(np.median(others)), images.words["filter"][pair[1]]))
    found = short_fields(drawn, night)
    assert sorted((f.n, f.usual, f.filter) for f in found) == sorted(wanted) != []

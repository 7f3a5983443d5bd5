"""The find box: names, places, numbers; one hit is gone to; suggestions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from spica.db.pages.find import NameIndex, find_inside
from spica_web.place import from_galactic, read_place


@pytest.mark.parametrize(
    ("words", "ra", "dec"),
    [
        ("324.7 57.5", 324.7, 57.5),
        ("-10.5, -3", 349.5, -3.0),
        ("21:44:00 +57:29:00", 326.0, 57.4833333),
        ("21 44 00 -00 29 30", 326.0, -0.4916667),
        ("21h44m -5d", 326.0, -5.0),
        ("J214400+572900", 326.0, 57.4833333),
    ],
)
def test_places_are_read(words: str, ra: float, dec: float) -> None:
    place = read_place(words)
    assert place is not None
    assert (place.ra_deg, place.dec_deg) == pytest.approx((ra, dec), abs=1e-6)


@pytest.mark.parametrize(
    "words", ["744123p", "12", "2006-12-14", "25:00:00 1:00:00", "1:61:00 2:00:00", "10 95", "job 3", "IC 1396"]
)
def test_other_words_are_no_places(words: str) -> None:
    assert read_place(words) is None


def test_galactic_places_are_those_of_astropy() -> None:
    rng = np.random.default_rng(1)
    for lon, lat in zip(rng.uniform(0, 360, 30), rng.uniform(-90, 90, 30), strict=True):
        there = SkyCoord(l=lon, b=lat, unit="deg", frame="galactic").icrs
        ra, dec = from_galactic(lon, lat)
        assert SkyCoord(ra, dec, unit="deg").separation(there).arcsec < 0.1
    assert read_place("l=98.1 b=4.2") is not None


def test_names_are_found_inside() -> None:
    index = NameIndex("\nalpha\nbeta\nalphabet", np.array([1, 7, 12]))
    assert find_inside(index, "BET", 9) == [1, 2]
    assert find_inside(index, "alpha", 1) == [0]
    assert find_inside(index, "zz", 9) == []


def test_find_goes_or_lists(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    goes = {
        "744101p": f"/images/{survey.exposures[1]}",
        "744101P": f"/images/{survey.exposures[1]}",
        "job 3": "/jobs/3",
        "#3": "/jobs/3",
        "IC1396-r-1": f"/stacks/{survey.stack}",
        "2006-12-13": "/nights/2006-12-13",
        "06BQ12": "/exposures?rule=run%20%3D%20%2206BQ12%22",
        "ngc-6822": None,
    }
    for words, address in goes.items():
        reply = client.get("/find", params={"q": words})
        if address is not None:
            assert (reply.status_code, reply.headers.get("location")) == (303, address), words
    listed = client.get("/find", params={"q": "7441"})
    assert listed.status_code == 200
    assert "744104p" in listed.text
    here = client.get("/find", params={"q": "324.75 57.49"}).text
    assert "Exposures here" in here
    assert f"/stacks/{survey.stack}" in here
    assert "No footprint contains" in client.get("/find", params={"q": "10 -80"}).text
    assert "Nothing begins with" in client.get("/find", params={"q": "zzzz"}).text
    for hostile in ("%", "_", "\\", "'", "<b>", "a" * 500):
        assert client.get("/find", params={"q": hostile}).status_code in (200, 303)


def test_suggestions_are_few_and_lead_somewhere(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    found = client.get("/api/find", params={"q": "1396"}).json()
    titles = {g["title"]: g for g in found["groups"]}
    assert {"Names", "Objects"} <= set(titles)
    for group in found["groups"]:
        assert 0 < len(group["hits"]) <= 5
        for hit in group["hits"]:
            assert client.get(hit["link"]).status_code in (200, 303)
    assert client.get("/api/find", params={"q": ""}).json()["groups"] == []

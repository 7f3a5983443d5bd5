"""Region files of DS9: what is written is read back, astropy agrees on the sky, and hostile files are refused."""

from __future__ import annotations

import time

import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from spica.files.regions import MAX_BYTES, Region, format_regions, read_regions
from spica.model.errors import DataError
from spica.model.mark import MarkShape

PIXEL = st.floats(-500, 12000).map(lambda v: round(v, 3))
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    if draw(st.booleans()):
        radius = round(draw(st.floats(0.01, 900)), 3)
        return Region(MarkShape.CIRCLE, (draw(PIXEL),), (draw(PIXEL),), radius, text=draw(TEXT))
    n = draw(st.integers(3, 12))
    corners = st.lists(PIXEL, min_size=n, max_size=n).map(tuple)
    return Region(MarkShape.POLYGON, draw(corners), draw(corners), text=draw(TEXT))


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.lists(regions(), max_size=6))
def test_what_is_written_is_read(given_regions: list[Region]) -> None:
    back = read_regions(format_regions(given_regions, "marks of 744123p"))
    assert len(back) == len(given_regions)
    for old, new in zip(given_regions, back, strict=True):
        assert new.shape is old.shape
        assert new.x == pytest.approx(old.x, abs=1e-6)
        assert new.y == pytest.approx(old.y, abs=1e-6)
        assert new.radius == (None if old.radius is None else pytest.approx(old.radius, abs=1e-6))
        assert not new.sky


def test_pixels_are_written_from_1() -> None:
    text = format_regions([Region(MarkShape.CIRCLE, (0.0,), (9.5,), 4.0, text="ghost {of} a star")])
    assert text.splitlines()[0] == "# Region file format: DS9 version 4.1"
    assert text.splitlines()[-2:] == ["image", "circle(1.000,10.500,4.000) # text={ghost  of  a star}"]


def test_sky_regions_hold_a_thousandth_of_an_arcsecond() -> None:
    circle = Region(MarkShape.CIRCLE, (324.75123456,), (-57.49876543,), 12.5 / 3600, True, "x")
    polygon = Region(MarkShape.POLYGON, (359.999, 0.001, 0.0), (89.1, 89.1, 89.2), None, True)
    pixels = Region(MarkShape.CIRCLE, (5.0,), (6.0,), 2.0)
    back = read_regions(format_regions([circle, polygon, pixels]))
    assert [r.sky for r in back] == [True, True, False]
    assert (back[0].x[0], back[0].y[0]) == pytest.approx((circle.x[0], circle.y[0]), abs=1e-8)
    assert back[0].radius == pytest.approx(12.5 / 3600, abs=1e-7)
    assert back[1].x == pytest.approx(polygon.x, abs=1e-8)


def test_sexagesimal_positions_are_those_of_astropy() -> None:
    text = "fk5\ncircle(21:39:00.30,-00:29:24.0,30\")\ncircle(09:00:01,+57:29:24.5,2')\ncircle(10.5,20.25,0.01d)\n"
    found = read_regions(text)
    truth = SkyCoord(["21h39m0.3s", "9h0m1s"], ["-0d29m24s", "57d29m24.5s"])
    for region, place in zip(found, truth, strict=False):
        assert region.x[0] == pytest.approx(place.ra.deg, rel=1e-12)
        assert region.y[0] == pytest.approx(place.dec.deg, rel=1e-12)
    assert [r.radius for r in found] == pytest.approx([30 / 3600, 2 / 60, 0.01])


def test_a_file_as_ds9_saves_it() -> None:
    """Attributes, several on a line, plain words, boxes, what marks no pixels, a system on the line of its region."""
    text = (
        "# Region file format: DS9 version 4.1\n"
        'global color=green dashlist=8 3 width=1 font="helvetica 10 normal roman" select=1\n'
        "image\n"
        "circle(100.5,200,20) # color=red text={a ghost}\n"
        'box(50,60,20,10,90) # text="turned"\n'
        "polygon(1,1,10,1,10,10,1,10);circle(5,5,2)\n"
        "# text(10,10) text={only words}\n"
        "point(7,7) # point=x\n"
        "circle 30 40 5\n"
        "image;circle(8,9,1)\n"
    )
    found = read_regions(text)
    assert [r.shape.value for r in found] == ["circle", "polygon", "polygon", "circle", "circle", "circle"]
    assert (found[0].x, found[0].y, found[0].radius, found[0].text) == ((99.5,), (199.0,), 20.0, "a ghost")
    assert (min(found[1].x), max(found[1].x)) == pytest.approx((44.0, 54.0)), "turned by 90 degrees it is 10 wide"
    assert (min(found[1].y), max(found[1].y)) == pytest.approx((49.0, 69.0))
    assert found[4].x == (29.0,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("circle(1,2,3)", "no coordinates"),
        ("physical\ncircle(1,2,3)", "physical coordinates"),
        ("galactic\ncircle(1,2,3)", "galactic coordinates"),
        ("image\n-circle(1,2,3)", "excludes"),
        ("image\nellipse(1,2,3,4,5)", "shape ellipse"),
        ("image\ncircle(1,2)", "of 2 numbers"),
        ("image\ncircle(1,2,0)", "radius 0"),
        ("image\npolygon(1,2,3,4)", "of 4 numbers"),
        ("image\npolygon(1,2,3,4,5,6,7)", "of 7 numbers"),
        ("image\ncircle(1,nan,3)", "no number"),
        ("image\ncircle(1,1e999,3)", "too large"),
        ("image\ncircle(0x10,1,3)", "no number"),
        ("icrs\ncircle(1:2,1,3)", "no position"),
        ("image\ncircle(__import__('os'),1,3)", "cannot be read"),
        ("image\ncircle(1,2,3", "cannot be read"),
        ("\x00\x01\x02binary", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=r"line \d of the region file") as error:
        read_regions(text)
    assert said in str(error.value)


def test_files_are_bounded_in_size_and_time() -> None:
    for text, said in (
        ("image\n" + "circle(1,2,3)\n" * 1001, "regions"),
        ("image\npolygon(" + ",".join(["1"] * 4000) + ")", "corners"),
        ("x" * (MAX_BYTES + 1), "bytes"),
        ("image\ncircle " + "1 " * 400_000, "line 2"),
        ("image\n" + "(" * 400_000, "line 2"),
        ("image\ncircle(" + "9" * 40_000 + ",1,1)", "no number"),
        ("image\n" + "circle" * 100_000 + "(1,2,3)", "line 2"),
    ):
        start = time.process_time()
        with pytest.raises(DataError, match=said):
            read_regions(text)
        assert time.process_time() - start < 2.0

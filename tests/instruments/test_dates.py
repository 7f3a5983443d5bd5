"""Times and angles of headers."""

import pytest
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from spica.instruments.dates import airmass_of, night_of, parse_day, parse_iso_mjd, parse_sexagesimal


@pytest.mark.parametrize(
    ("date", "clock", "mjd"),
    [
        ("2017-12-20T01:42:12.368-0000", None, "2017-12-20T01:42:12.368"),
        ("2017-12-19T18:42:12.368-0700", None, "2017-12-20T01:42:12.368"),
        ("2002-12-12T8:55:18.29", None, "2002-12-12T08:55:18.290"),
        ("2002-12-12", "8:55:18.29", "2002-12-12T08:55:18.290"),
        ("2010/11/03 04:37:54Z", None, "2010-11-03T04:37:54"),
        ("12/04/98", "23:00:00", "1998-04-12T23:00:00"),
        ("2020-02-29T24:00:00", None, "2020-03-01T00:00:00"),
        ("2021-01-01T00:30+01:00", None, "2020-12-31T23:30:00"),
    ],
)
def test_dates_agree_with_astropy(date, clock, mjd):
    # a double holds an MJD to 1 microsecond
    assert parse_iso_mjd(date, clock) == pytest.approx(Time(mjd).mjd, abs=2e-11)


@pytest.mark.parametrize("date", ["2017-12-20", "yesterday", "", "2017-13-01T00:00:00", "2017-01-01T25:00:00"])
def test_a_date_without_a_time_does_not_say_when(date):
    assert parse_iso_mjd(date) is None


@given(st.text(max_size=30), st.one_of(st.none(), st.text(max_size=30)))
def test_no_text_makes_the_parsers_fail(date, clock):
    parse_iso_mjd(date, clock)
    parse_day(date)
    parse_sexagesimal(date)


def test_nights_run_from_local_noon_to_noon():
    hawaii, start = -155.47, Time("2010-11-03T04:37:54").mjd
    assert night_of(start, hawaii) == "2010-11-02"
    noon = Time("2010-11-03T12:00:00").mjd + 155.47 / 360
    assert night_of(noon - 1e-4, hawaii) == "2010-11-02"
    assert night_of(noon + 1e-4, hawaii) == "2010-11-03"
    assert night_of(Time("2010-11-03T02:00:00").mjd, 0.0) == "2010-11-02"


def test_sexagesimal_and_airmass():
    assert parse_sexagesimal("-00:30:00") == -0.5
    assert parse_sexagesimal(" +12 30 36.0") == pytest.approx(12.51)
    assert parse_sexagesimal("05h34m31.97s") == pytest.approx(5.5755472222)
    assert parse_sexagesimal("12:61:00") is None
    assert airmass_of(90.0) == pytest.approx(1.0, abs=1e-4)
    assert airmass_of(30.0) == pytest.approx(1.995, abs=0.003)
    assert airmass_of(-1.0) is None

"""Cards: parsing as astropy parses, formatting as the standard wants, and a round trip to the byte."""

import gzip
import math
import warnings

import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from spica.files.head import parse_head
from spica.files.header import (
    HeaderCards,
    cards_from_text,
    format_card,
    make_cards,
    pack_headers,
    parse_card,
    unpack_headers,
)
from spica.files.scan import read_headers
from spica.model.errors import DataError

LATIN = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=80).map(lambda text: text.ljust(80))


@given(st.lists(st.lists(LATIN, max_size=8), max_size=4))
def test_packed_headers_round_trip_card_by_card(raw):
    headers = tuple(HeaderCards(tuple(cards)) for cards in raw)
    assert unpack_headers(pack_headers(headers)) == headers


@given(st.binary(max_size=300))
def test_damaged_packed_headers_are_refused(noise):
    with pytest.raises(DataError):
        unpack_headers(noise)


def test_a_packed_header_that_unpacks_too_far_is_refused():
    packed = pack_headers([HeaderCards(("COMMENT".ljust(80),) * 100_000)])
    assert len(packed) < 100_000
    with pytest.raises(DataError, match="larger"):
        unpack_headers(packed, max_bytes=1_000_000)


@given(LATIN)
def test_no_card_makes_the_parser_fail(card):
    parse_card(card)
    header = HeaderCards((card, "CONTINUE  'x&'".ljust(80), card))
    for keyword in header:
        assert header[keyword] == header.card(keyword).value


@given(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
        st.none(),
    ),
    st.sampled_from(["KEY", "A-B_9", "ESO DET CHIP1 GAIN"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60),
)
def test_a_formatted_value_is_read_back_by_us_and_by_astropy(value, keyword, comment):
    cards = format_card(keyword, value, comment)
    assert all(len(card) == 80 for card in cards)
    ours = HeaderCards(cards)[keyword]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = fits.Header.fromstring("".join(cards))[keyword]
    expected = value.rstrip(" ") if isinstance(value, str) else value
    assert ours == expected
    assert type(ours) is type(expected)
    if value is None:
        assert theirs is None or isinstance(theirs, fits.card.Undefined)
    else:
        assert theirs == expected


def test_what_fits_cannot_hold_becomes_undefined():
    assert HeaderCards(format_card("X", math.nan))["X"] is None
    assert HeaderCards(format_card("X", "a\nb\0é"))["X"] == "a?b??"
    with pytest.raises(ValueError, match="shorter"):
        format_card("A VERY LONG KEYWORD " * 4, 1.5)


@pytest.mark.parametrize(
    ("card", "value", "comment"),
    [
        ("A       = 1.5D3 / x", 1500.0, "x"),
        ("A       =  T", True, ""),
        ("A       = 'it''s / fine' / note", "it's / fine", "note"),
        ("A       = (1.0, -2)", 1 - 2j, ""),
        ("A       =", None, ""),
        ("A       = not a number", "not a number", ""),
        ("A       = 060.00 / free", 60.0, "free"),
        ("HIERARCH ESO INS FILT NAME = 'V' / f", "V", "f"),
        ("COMMENT = no value", None, "= no value"),
    ],
)
def test_values_of_fixed_and_free_format(card, value, comment):
    found = parse_card(card.ljust(80))
    assert found.value == value
    assert found.comment == comment


def test_lookup_of_repeated_long_and_hierarch_keywords():
    header = make_cards(
        [("OBJECT", "first", ""), ("ESO TEL NAME", "VLT", ""), ("LONG", "a'b" * 60, ""), ("OBJECT", "second", "")]
    )
    assert header["object"] == "first"
    assert header.all_values("OBJECT") == ("first", "second")
    assert header["HIERARCH ESO TEL NAME"] == header["eso tel name"] == "VLT"
    assert header["LONG"] == "a'b" * 60
    assert "LONG" not in header.without(["LONG"])
    assert not any(card.startswith("CONTINUE") for card in header.without(["LONG"]).cards)
    assert header.with_cards(format_card("LONG", 3))["LONG"] == 3


def test_a_real_mosaic_header_reads_as_astropy_reads_it(test_data):
    text = gzip.decompress((test_data / "headers/cfht/multi_plane__mega__1257365p.fits.header.gz").read_bytes()).decode(
        "latin-1"
    )
    headers = parse_head(text)
    assert len(headers) == 37
    assert unpack_headers(pack_headers(headers)) == headers
    assert len(pack_headers(headers)) < 0.03 * len(text)
    for header in headers[:3]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = fits.Header.fromstring("".join(header.cards))
            for keyword in header:
                expected = theirs[keyword]
                if not isinstance(expected, fits.card.Undefined):
                    assert header[keyword] == expected, keyword


def test_headers_of_files_are_byte_for_byte_those_of_the_file(test_data):
    path = test_data / "broken/astropy_io_fits/test0.fits"
    raw = path.read_bytes()
    headers = read_headers(path)
    with fits.open(path) as hdus:
        assert len(headers) == len(hdus)
    assert raw.startswith("".join(headers[0].cards).encode("latin-1"))
    assert all("".join(header.cards).encode("latin-1") in raw for header in headers)


def test_cards_from_lines_and_from_one_run_agree():
    header = make_cards([("A", 1, ""), ("B", "x", "")])
    assert cards_from_text("\n".join(card.rstrip() for card in header.cards) + "\nEND\njunk") == header
    assert cards_from_text("".join(header.cards) + "END".ljust(80) + "JUNK") == header

"""Cards: parsing as astropy parses, formatting as the standard wants, and a round trip to the byte."""

import copy
import gzip
import lzma
import math
import pickle
import struct
import warnings
import zlib

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


TEXTS = st.lists(LATIN, max_size=8).map("".join)
HOSTILE = st.sampled_from(
    [
        "OBJECT  = 'a&'",
        "CONTINUE  'b&'",
        "continue  'c'",
        "object  = 2",
        "HIERARCH ESO X = 3",
        "HIERARCH = 4",
        "COMMENT x",
    ]
).map(lambda text: text.ljust(80))


@given(st.one_of(TEXTS, st.lists(st.one_of(HOSTILE, LATIN), max_size=8).map("".join)))
def test_cards_of_one_run_of_text_are_those_of_a_tuple(text):
    """What is cut, indexed and parsed only when asked for says the same as cards that came one by one."""
    cards = tuple(text[start : start + 80] for start in range(0, len(text), 80))
    lazy, eager = HeaderCards.from_text(text), HeaderCards(cards)
    assert list(lazy) == list(eager)
    assert len(lazy) == len(eager)
    for keyword in [*eager, "OBJECT", "object", "ESO X", "COMMENT", "CONTINUE", "NOT THERE"]:
        assert (keyword in lazy) == (keyword in eager)
        assert lazy.all_values(keyword) == eager.all_values(keyword)
        assert lazy.get(keyword, "none") == eager.get(keyword, "none")
    assert list(lazy.parsed()) == list(eager.parsed())
    assert lazy.to_bytes() == eager.to_bytes()
    assert lazy.without(["OBJECT"]) == eager.without(["OBJECT"])
    assert HeaderCards.from_text(text) == eager
    assert hash(HeaderCards.from_text(text)) == hash(eager)
    assert pickle.loads(pickle.dumps(HeaderCards.from_text(text))) == eager
    assert copy.deepcopy(lazy) == eager


def test_headers_that_share_their_keywords_do_not_share_their_values():
    """The index of keywords is kept from header to header; each keeps values and repetitions of its own."""
    one, other = (
        HeaderCards.from_text(make_cards([("EXTNAME", "tile", ""), ("GAIN", g, ""), ("EXTNAME", n, "")]).text)
        for g, n in ((1.5, "ccd00"), (2.5, "ccd01"))
    )
    assert (one["GAIN"], other["GAIN"]) == (1.5, 2.5)
    assert one.all_values("extname") == ("tile", "ccd00")
    assert other.all_values("extname") == ("tile", "ccd01")
    longer = HeaderCards((*one.cards, *format_card("GAIN", 9.0), *format_card("NEW", 1)))
    assert (longer["GAIN"], longer["NEW"], "NEW" in one) == (1.5, 1, False)


def test_text_that_is_cut_short_is_refused():
    with pytest.raises(ValueError, match="80 characters"):
        HeaderCards.from_text("OBJECT  = 1")
    with pytest.raises(ValueError, match="80 characters"):
        pack_headers([HeaderCards(("OBJECT  = 1",))])


def test_headers_packed_by_older_versions_are_read():
    """Rows packed by LZMA alone stay readable, whatever their length; short headers are packed by zlib today."""
    header = make_cards([("OBJECT", "M31", ""), ("EXPTIME", 90.0, "s")])
    raw = struct.pack(">II", 1, len(header.cards)) + header.text.encode("latin-1")
    assert unpack_headers(b"SPH1" + lzma.compress(raw, preset=1)) == (header,)
    packed = pack_headers([header])
    assert packed[:4] == b"SPH2"
    assert unpack_headers(packed) == (header,)
    assert pack_headers([header] * 500)[:4] == b"SPH1"
    for cut in (packed[:-1], packed + b"x", b"SPH3" + packed[4:], b"SPH2" + zlib.compress(raw[:-1])):
        with pytest.raises(DataError, match="read the header again"):
            unpack_headers(cut)
    with pytest.raises(DataError, match="larger"):
        unpack_headers(b"SPH2" + zlib.compress(bytes(3_000_000)), max_bytes=1_000_000)

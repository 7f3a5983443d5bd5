"""Header text never becomes a dangerous path."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spica.files.slug import short_name, slug

SAFE = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+-]*\Z")


@given(st.text(max_size=200), st.integers(1, 80))
def test_any_text_gives_a_safe_name_that_is_its_own_slug(text, length):
    name = slug(text, max_length=length)
    assert SAFE.match(name)
    assert len(name) <= length
    assert name not in {".", ".."}
    assert slug(name, max_length=length) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NGC 104", "NGC_104"),
        ("../../etc/passwd", "etc_passwd"),
        ("-rf", "rf"),
        (".hidden", "hidden"),
        ("D3;rm -rf ~\n", "D3_rm_-rf"),
        ("Étoile é", "Etoile_e"),
        ("", "unnamed"),
        ("///", "unnamed"),
        ("r.MP9601", "r.MP9601"),
        ("星", "unnamed"),
    ],
)
def test_known_texts(text, name):
    assert slug(text) == name


def test_a_bad_default_is_refused():
    with pytest.raises(ValueError, match="safe"):
        slug("", default="../x")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("incoming/744123p.fits.fz", "744123p"),
        ("HATP-32.FITS.gz", "HATP-32"),
        ("a.fit", "a"),
        ("b.fts.Z", "b"),
        ("c.d.fits.bz2", "c.d"),
        ("/x/y.fz", "y"),
        ("plain", "plain"),
        (".fits", ".fits"),
    ],
)
def test_short_name(path, name):
    assert short_name(path) == name

"""Manifests hold any text, in XML and in JSON, and find what changed on disk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spica.files.manifest import (
    Fact,
    LineageStep,
    Manifest,
    ManifestFile,
    ManifestItem,
    check_files,
    describe_file,
    manifest_from_json,
    manifest_from_xml,
    manifest_to_json,
    manifest_to_xml,
    read_manifest,
    write_manifest,
)
from spica.model.errors import DataError

TEXT = st.text(max_size=20)
HOSTILE = "</fact><!-- ]]> & \" ' \\u0041 \\ \x00\x07\r\n\t\ufffe"
FACTS = st.lists(
    st.builds(
        Fact,
        TEXT,
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
        TEXT,
    ),
    max_size=3,
).map(tuple)
ITEMS = st.lists(st.builds(ManifestItem, TEXT, TEXT, TEXT, TEXT, FACTS), max_size=2).map(tuple)
MANIFESTS = st.builds(
    Manifest,
    TEXT,
    TEXT,
    TEXT,
    FACTS,
    ITEMS,
    ITEMS,
    st.lists(st.builds(ManifestFile, TEXT, TEXT, TEXT, st.integers(0, 2**60)), max_size=2).map(tuple),
    st.lists(st.builds(LineageStep, TEXT, st.one_of(st.none(), st.integers()), TEXT, TEXT, TEXT), max_size=2).map(
        tuple
    ),
)


@settings(max_examples=60, deadline=None)
@given(MANIFESTS)
def test_both_forms_round_trip(manifest):
    assert manifest_from_xml(manifest_to_xml(manifest)) == manifest
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


def test_hostile_text_is_only_text():
    manifest = Manifest(HOSTILE, "stack", "2026-01-01T00:00:00Z", (Fact(HOSTILE, HOSTILE),))
    assert manifest_from_xml(manifest_to_xml(manifest)) == manifest
    assert manifest_to_xml(manifest).count(b"<fact ") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_unknown(value):
    manifest = Manifest("n", "k", "t", (Fact("f", value),))
    for found in (manifest_from_xml(manifest_to_xml(manifest)), manifest_from_json(manifest_to_json(manifest))):
        assert found.facts[0].value is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<manifest/>",
        b'<!DOCTYPE x [<!ENTITY a "b">]><manifest format="spica-manifest-1">&a;</manifest>',
        b"{}",
        b"[" * 10_000,
    ],
)
def test_foreign_content_is_refused(content):
    with pytest.raises(DataError, match="fetch it again"):
        manifest_from_xml(content)
    with pytest.raises(DataError, match="fetch it again"):
        manifest_from_json(content)


def test_files_on_disk_are_described_and_checked(tmp_path):
    (tmp_path / "stack.fits").write_bytes(b"pixels")
    files = (describe_file(tmp_path / "stack.fits", "stack"), ManifestFile("../out", "x", "0", 1))
    xml, twin = write_manifest(tmp_path, Manifest("s", "stack", "t", files=files))
    assert read_manifest(xml) == read_manifest(twin)
    assert check_files(read_manifest(xml), tmp_path) == ("../out is missing; deliver it again",)
    (tmp_path / "stack.fits").write_bytes(b"pixelz")
    assert "differs" in check_files(read_manifest(xml), tmp_path)[0]
    with pytest.raises(DataError):
        read_manifest(tmp_path / "none.xml")

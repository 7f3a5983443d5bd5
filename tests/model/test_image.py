"""Images: normal names of objects, and records that go through JSON unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spica.model.harvest import RECORDS, read_record
from spica.model.image import (
    DetectorRecord,
    ExposureRecord,
    FrameType,
    ImageState,
    PositionSource,
    normalise_object,
)
from spica.model.job import Reason
from spica.model.record import from_json, to_json


@pytest.mark.parametrize("text", ["IC 1396-A", "ic1396_a", " Ic_13 96--A ", "IC\t1396 A"])
def test_case_spaces_and_dashes_do_not_count(text: str) -> None:
    assert normalise_object(text) == "ic1396a"


@given(st.text())
def test_normal_names_stay_as_they_are(text: str) -> None:
    key = normalise_object(text)
    assert not set(key) & set(" \t\n_-")
    assert normalise_object(normalise_object(key)) == normalise_object(key)


def test_aliases_are_normal_names_too() -> None:
    aliases = {"Whirlpool Galaxy": "M 51", "NGC_5194": "m51"}
    assert normalise_object("whirlpool-galaxy", aliases) == "m51"
    assert normalise_object("ngc 5194", aliases) == "m51"
    assert normalise_object("M-51", aliases) == "m51"
    assert normalise_object("M 52", aliases) == "m52"


EXPOSURE = ExposureRecord(
    item="file:3",
    name="744123p",
    state=ImageState.REGISTERED,
    reasons=(Reason("old_header", "header is old", 2.0, None),),
    frame_type=FrameType.SCIENCE,
    object="M 51",
    mjd=53856.25,
    position_source=PositionSource.HEADER_WCS,
    detectors=(
        DetectorRecord(0, 1, "ccd00", 2048, 4612, 1.6, polygon_deg=((1.0, 2.0), (1.5, 2.0), (1.5, 2.5))),
        DetectorRecord(1, 2, "ccd01", 2048, 4612),
    ),
)


def test_records_through_json_and_back() -> None:
    assert from_json(ExposureRecord, to_json(EXPOSURE)) == EXPOSURE
    assert read_record(to_json(EXPOSURE)) == EXPOSURE
    ignored = ExposureRecord("file:4", "notes", None)
    assert read_record(to_json(ignored)) == ignored


def test_every_record_names_its_type() -> None:
    for name, cls in RECORDS.items():
        assert cls.__dataclass_fields__["type"].default == name

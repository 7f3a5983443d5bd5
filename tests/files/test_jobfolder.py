"""A job's folder: the agreed places, whole files, and clear words for damaged ones."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from spica.files import jobfolder
from spica.model.errors import DataError
from spica.model.job import (
    ExitCode,
    FileRef,
    Input,
    Inputs,
    ItemOutcome,
    Outcome,
    Reason,
    Request,
    ResolvedInput,
    Result,
)
from spica.model.record import canonical

REQUEST = Request("stack", "native", {"stack": {"combine": "clipped"}}, "0" * 64, inputs=(Input("exposure", job=3),))
INPUTS = Inputs(
    42,
    1,
    "7",
    (ResolvedInput("exposure", "image:3", None, FileRef(3, "a" * 64, "x.fits", 10), "/data/x.fits"),),
    (ItemOutcome("image:4", Outcome.LEFT_OUT, 2, Reason("few_stars", "too few stars", 3.0, 10.0)),),
)
RESULT = Result(42, 1, "7", "stack", "native", "0.1", ExitCode.DONE, measures={"n": 3})


def test_places() -> None:
    """As agreed between the floors; every job has its own place, and folders stay short."""
    root = Path("jobs")
    assert jobfolder.job_folder(root, 42) == Path("jobs/00/04/000042")
    assert jobfolder.attempt_folder(root, 42, 2) == Path("jobs/00/04/000042/attempt-2")
    assert jobfolder.job_folder(root, 1_234_567) == Path("jobs/1234/56/1234567")
    folders = [jobfolder.job_folder(root, n) for n in range(1, 20_001)]
    assert len(set(folders)) == 20_000
    crowd: dict[Path, set[Path]] = {}
    for folder in folders:
        crowd.setdefault(folder.parent, set()).add(folder)
        crowd.setdefault(folder.parent.parent, set()).add(folder.parent)
    assert max(len(entries) for entries in crowd.values()) <= 100


@pytest.mark.parametrize(("job", "number"), [(0, 1), (-3, 1), (1, 0)])
def test_no_such_number(job: int, number: int) -> None:
    """Numbers count from one."""
    with pytest.raises(ValueError, match="is no number"):
        jobfolder.attempt_folder(Path("jobs"), job, number)


def test_written_is_read(tmp_path: Path) -> None:
    """Request, inputs and result come back equal."""
    attempt = jobfolder.attempt_folder(tmp_path, 42, 1)
    jobfolder.write_job(attempt.parent, "#!/bin/sh\nexit 0\n", canonical(REQUEST))
    jobfolder.write_inputs(attempt, INPUTS)
    assert jobfolder.read_request(attempt) == REQUEST
    assert jobfolder.read_inputs(attempt) == INPUTS
    assert jobfolder.read_result(attempt) is None
    jobfolder.write_result(attempt, RESULT)
    assert jobfolder.read_result(attempt) == RESULT
    assert [p.name for p in attempt.iterdir() if p.name.startswith(".")] == []
    assert os.access(attempt.parent / "run.sh", os.X_OK)


def test_job_is_written_once(tmp_path: Path) -> None:
    """Files that are right are left alone, changed ones are put right."""
    script = tmp_path / "run.sh"
    jobfolder.write_job(tmp_path, "one\n", "{}")
    before = script.stat().st_ino
    jobfolder.write_job(tmp_path, "one\n", "{}")
    assert script.stat().st_ino == before
    script.write_text("tampered\n")
    jobfolder.write_job(tmp_path, "one\n", "{}")
    assert script.read_text() == "one\n"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"job": 1}', "\x00", "{} {}"])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    """Half files, other shapes and other versions are named, never a bare traceback."""
    (tmp_path / "result.json").write_text(text)
    (tmp_path / "inputs.json").write_text(text)
    for read in (jobfolder.read_result, jobfolder.read_inputs):
        with pytest.raises(DataError, match=r"\.json"):
            read(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """Not UTF-8 is not JSON."""
    (tmp_path / "result.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="is no JSON"):
        jobfolder.read_result(tmp_path)


def test_missing_and_unknown(tmp_path: Path) -> None:
    """A missing request says so, and a key of another version is named."""
    with pytest.raises(DataError, match="cannot be read"):
        jobfolder.read_request(tmp_path / "attempt-1")
    data = json.loads(canonical(replace(RESULT, job=43)))
    (tmp_path / "result.json").write_text(json.dumps({**data, "surprise": 1}))
    with pytest.raises(DataError, match="surprise"):
        jobfolder.read_result(tmp_path)


def test_absurd_size_is_not_read(tmp_path: Path) -> None:
    """A file beyond all measure is refused by its size, before memory is taken."""
    with (tmp_path / "result.json").open("wb") as stream:
        stream.truncate(jobfolder.MAX_JSON_BYTES + 1)
    with pytest.raises(DataError, match="bytes, more than"):
        jobfolder.read_result(tmp_path)

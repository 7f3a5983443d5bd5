"""A job's folder on disk: where its parts lie, and reading and writing them.

    jobs/00/04/000042/run.sh  request.json
                      attempt-1/inputs.json  log.txt  result.json  products...

The database holds the truth; these files are copies that any node can write again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from spica.files.checksum import write_atomic
from spica.model.errors import DataError
from spica.model.job import Inputs, Request, Result
from spica.model.record import canonical, from_json

T = TypeVar("T")

SCRIPT = "run.sh"
REQUEST = "request.json"
INPUTS = "inputs.json"
RESULT = "result.json"
LOG = "log.txt"
MAX_JSON_BYTES = 256 * 1024 * 1024


def job_folder(jobs_root: Path, job_id: int) -> Path:
    """Return the folder of a job: below its thousands and its tens, so that no folder grows long."""
    if job_id < 1:
        raise ValueError(f"{job_id} is no number of a job")
    return jobs_root / f"{job_id // 1000:02d}" / f"{job_id // 10 % 100:02d}" / f"{job_id:06d}"


def attempt_folder(jobs_root: Path, job_id: int, number: int) -> Path:
    """Return the folder of an attempt, counted from 1."""
    if number < 1:
        raise ValueError(f"{number} is no number of an attempt")
    return job_folder(jobs_root, job_id) / f"attempt-{number}"


def write_job(folder: Path, script: str, request: str) -> None:
    """Write `run.sh` and `request.json` as the database holds them; files that are the same already are left."""
    for name, text in ((REQUEST, request), (SCRIPT, script)):
        path = folder / name
        content = text.encode()
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    (folder / SCRIPT).chmod(0o755)


def write_inputs(attempt: Path, inputs: Inputs) -> None:
    """Write `inputs.json` of an attempt."""
    write_atomic(attempt / INPUTS, canonical(inputs).encode() + b"\n")


def write_result(attempt: Path, result: Result) -> None:
    """Write `result.json`: the last thing that a step does."""
    write_atomic(attempt / RESULT, canonical(result).encode() + b"\n")


def read_request(attempt: Path) -> Request:
    """Read the request of an attempt's job; DataError where it is missing or no request."""
    return _read(attempt.parent / REQUEST, Request)


def read_inputs(attempt: Path) -> Inputs:
    """Read `inputs.json`; DataError where it is missing or no inputs."""
    return _read(attempt / INPUTS, Inputs)


def read_result(attempt: Path) -> Result | None:
    """Read `result.json`; None where the step wrote none, DataError where it is no result."""
    if not (attempt / RESULT).exists():
        return None
    return _read(attempt / RESULT, Result)


def _read(path: Path, kind: type[T]) -> T:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(f"{path} has {size} bytes, more than {MAX_JSON_BYTES}; look at what wrote it")
        return from_json(kind, json.loads(path.read_text(encoding="utf-8")), str(path))
    except OSError as trouble:
        raise DataError(f"{path} cannot be read ({trouble.strerror}); submit the job again") from trouble
    except ValueError as trouble:
        raise DataError(f"{path} is no JSON ({trouble}); submit the job again") from trouble

"""`spica ingest --watch` as a process, with writers that are processes: one job a file, of its final content."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from spica.db.tables.file import FileRow
from spica.db.tables.job import JobEventRow, JobRow
from spica.files.checksum import sha256_file

pytestmark = pytest.mark.walk

TRICKLE = """
import sys, time
raw = open(sys.argv[1], "rb").read()[:-100]
with open(sys.argv[2], "wb", buffering=0) as stream:
    for i in range(30):
        stream.write(raw[len(raw) * i // 30 : len(raw) * (i + 1) // 30])
        time.sleep(0.1)
"""


def _wait(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def test_a_file_that_trickles_in_is_one_job_of_its_final_content(walk: Any) -> None:
    known = {i for (i,) in walk.rows(select(JobRow.id))}
    log = walk.folder / "watch.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "spica.cli.main", "--workspace", str(walk.folder), "ingest", "--watch"],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    walk.processes.append(process)
    _wait(lambda: "watching " in log.read_text())
    source = walk.folder / "incoming" / f"{walk.truth.exposures[0].plan.name}.fits"
    path = walk.folder / "incoming" / "slow.fits"
    writer = subprocess.Popen([sys.executable, "-c", TRICKLE, str(source), str(path)])

    def new_jobs() -> list[int]:
        return [i for (i,) in walk.rows(select(JobRow.id)) if i not in known]

    while writer.poll() is None:
        assert new_jobs() == []
        time.sleep(0.1)
    closed_s = path.stat().st_mtime
    _wait(lambda: bool(new_jobs()))
    (job,) = new_jobs()
    ((created,),) = walk.rows(select(JobEventRow.at).where(JobEventRow.job_id == job).order_by(JobEventRow.id).limit(1))
    assert created.timestamp() >= closed_s  # how soon: tests/scheduling/test_watch.py
    names = dict(walk.rows(select(FileRow.name, FileRow.sha256).where(FileRow.name == "slow.fits")))
    assert names == {"slow.fits": sha256_file(path)}
    time.sleep(1.0)
    assert len(new_jobs()) == 1

    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0
    said = log.read_text()
    assert "Traceback" not in said
    assert re.search(r"^watch ended: 1 new files in 1 jobs, \d+ known already, 0 not read$", said, re.MULTILINE), said

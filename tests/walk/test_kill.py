"""The survey with its daemons and steps killed ends in the undisturbed state: nothing lost, nothing doubled."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlalchemy import func, select

from spica.db.tables.file import FileRow
from spica.db.tables.image import ImageRow
from spica.db.tables.job import AttemptRow, JobRow, OutcomeRow
from spica.db.tables.product import DeliveryRow, ProductRow, SourceRow, StackInputRow
from spica.db.tables.quality import GradeRow, QualityRow, SolutionRow
from spica.files.checksum import sha256_file
from spica.files.jobfolder import attempt_folder
from spica.files.manifest import check_files, read_manifest
from spica.model.job import AttemptState

pytestmark = pytest.mark.walk

LEAN = ("--set", "deliver.pdf=false", "--set", "quality.plots=false")
SCHEDULE = ("schedule", "survey", "--filter", "r", "--json", *LEAN)


def _counts(walk: Any) -> dict[str, int]:
    tables = (ImageRow, JobRow, ProductRow, SourceRow, QualityRow, GradeRow, SolutionRow, DeliveryRow, StackInputRow)
    return {t.__tablename__: walk.rows(select(func.count()).select_from(t))[0][0] for t in tables}


def _end_state(walk: Any) -> dict[str, Any]:
    """Return what a walk came to, without what names attempts and times."""
    outcomes = (
        select(JobRow.kind, OutcomeRow.image_id, OutcomeRow.number, OutcomeRow.outcome, OutcomeRow.code)
        .join(AttemptRow, AttemptRow.id == OutcomeRow.attempt_id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state == AttemptState.SUCCEEDED)
    )
    products = select(JobRow.kind, ProductRow.role, ProductRow.image_id).join(JobRow, JobRow.id == ProductRow.job_id)
    return {
        "counts": _counts(walk),
        "states": walk.rows(select(ImageRow.name, ImageRow.kind, ImageRow.state).order_by(ImageRow.id)),
        "jobs": walk.rows(select(JobRow.id, JobRow.kind, JobRow.state).order_by(JobRow.id)),
        "outcomes": sorted(map(str, walk.rows(outcomes))),
        "products": sorted(map(str, walk.rows(products))),
    }


def _catalogue(walk: Any) -> np.ndarray:
    (stack,) = walk.spica("stacks", "--json").json
    with fits.open(stack["catalogue_path"]) as hdus:
        table = hdus["LDAC_OBJECTS"].data
        return np.column_stack([table[c] for c in ("NUMBER", "ALPHAWIN_J2000", "DELTAWIN_J2000", "MAG_AUTO", "FLAGS")])


@pytest.fixture(scope="module")
def undisturbed(copy_template: Callable[[], Any]) -> Any:
    """Return the end state of a survey that nobody disturbed, and its catalogue."""
    walk = copy_template()
    try:
        walk.spica(*SCHEDULE)
        assert walk.drain() == 0, walk.log()
        return _end_state(walk), _catalogue(walk)
    finally:
        walk.close()
        shutil.rmtree(walk.folder, ignore_errors=True)


def _expect_undisturbed(walk: Any, undisturbed: Any) -> None:
    state, catalogue = undisturbed
    found = _end_state(walk)
    for key, value in state.items():
        assert found[key] == value, key
    np.testing.assert_array_equal(_catalogue(walk), catalogue)
    attempts = walk.rows(
        select(AttemptRow.job_id, func.count())
        .where(AttemptRow.state == AttemptState.SUCCEEDED)
        .group_by(AttemptRow.job_id)
    )
    assert {n for _, n in attempts} == {1}
    (stack,) = walk.spica("stacks", "--json").json
    folder = Path(stack["delivered_path"])
    assert check_files(read_manifest(folder / "manifest.xml"), folder) == ()
    leftovers = [p for p in (*folder.parent.iterdir(), *(walk.folder / "data").rglob("*")) if ".part" in p.name]
    assert leftovers == []
    placed = [p for p in (walk.folder / "data").rglob("*") if p.is_file()]
    known = {s for (s,) in walk.rows(select(FileRow.sha256))}
    assert {sha256_file(p) for p in placed} <= known, "a file in data/ that no row knows"


def _all_ended(walk: Any) -> bool:
    return all(s.name == "SUCCEEDED" for (s,) in walk.rows(select(JobRow.state)))


def test_a_daemon_killed_at_every_point_of_every_job(walk: Any, undisturbed: Any) -> None:
    walk.spica(*SCHEDULE)
    for point in ("before_claim", "after_claim", "during_step", "after_result"):
        assert walk.drain("--slots", "1", kill_at=point) == -signal.SIGKILL, f"{point}: {walk.log()}"
    kills = 0
    for point in cycle(("harvest_before_commit", "harvest_after_commit")):
        code = walk.drain("--slots", "1", kill_at=point)
        if code == 0:
            break
        assert code == -signal.SIGKILL, walk.log()
        kills += 1
        assert kills < 20
    # Each of the five jobs is harvested once and dies after it; most die before it as well.
    assert kills >= 8
    assert _all_ended(walk), walk.errors()
    _expect_undisturbed(walk, undisturbed)


def test_the_step_killed_while_it_stacks_and_then_the_daemon_with_it(walk: Any, undisturbed: Any) -> None:
    said = walk.spica(*SCHEDULE).json
    stack_job = said["plans"][0]["jobs"][1]
    daemon = walk.start("--drain", "--slots", "1")
    _kill_step(walk, stack_job, 1)
    group = _wait_for_step(walk, stack_job, 2)
    daemon.kill()
    daemon.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    assert walk.drain("--slots", "1") == 0, walk.log()
    assert _all_ended(walk), walk.errors()
    attempts = walk.rows(
        select(AttemptRow.number, AttemptRow.state).where(AttemptRow.job_id == stack_job).order_by(AttemptRow.number)
    )
    assert [n for n, _ in attempts] == [1, 2, 3]
    assert all(s.name in ("ABORTED", "LOST") for _, s in attempts[:2])
    assert attempts[2][1].name == "SUCCEEDED"
    _expect_undisturbed(walk, undisturbed)


def _wait_for_step(walk: Any, job: int, attempt: int) -> int:
    """Wait until a step's process is in its work; return its process group."""
    folder = attempt_folder(walk.folder / "jobs", job, attempt)
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        log, note = folder / "log.txt", folder / "process"
        if note.exists() and log.exists() and b"progress" in log.read_bytes():
            with contextlib.suppress(ValueError):
                return int(note.read_text())
        time.sleep(0.005)
    raise AssertionError(f"job {job} attempt {attempt} does not start: {walk.log()}")


def _kill_step(walk: Any, job: int, attempt: int) -> None:
    os.killpg(_wait_for_step(walk, job, attempt), signal.SIGKILL)

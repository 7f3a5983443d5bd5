"""Intake: what is found, what is left aside, what is known, and one transaction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from spica.db.tables.file import FileRow, LocationRow
from spica.db.tables.job import JobRow, PlanRow
from spica.model.errors import TransientError
from spica.model.recipe import read_recipe
from spica.scheduling import intake
from spica.scheduling.intake import find_files, take_in

RECIPE = read_recipe([], ["resources.batch=2"])


@pytest.fixture
def incoming(workspace: Any) -> Path:
    """Return the incoming folder with five files, one of them twice, and what is to be left aside."""
    folder: Path = workspace.roots["incoming"]
    (folder / "night1").mkdir()
    for i in range(4):
        (folder / "night1" / f"exp{i}.fits").write_bytes(b"content %d" % i)
    (folder / "copy.fits").write_bytes(b"content 0")
    for name in (".hidden.fits", "exp9.fits.part", "exp8.tmp", "exp7.fits~"):
        (folder / name).write_bytes(b"unfinished")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "old.fits").write_bytes(b"old")
    return folder


def test_unfinished_and_hidden_files_are_left_aside(incoming: Path) -> None:
    found = [p.relative_to(incoming).as_posix() for p in find_files([incoming, incoming / "night1"])]
    assert found == ["copy.fits", *(f"night1/exp{i}.fits" for i in range(4))]
    with pytest.raises(TransientError, match="does not exist"):
        find_files([incoming / "nowhere"])


def test_a_link_that_leads_nowhere_and_a_pipe_are_left_aside(incoming: Path) -> None:
    (incoming / "gone.fits").symlink_to(incoming / "nothing")
    os.mkfifo(incoming / "pipe.fits")
    assert len(find_files([incoming])) == 5


def test_content_counts_not_names(database: Any, workspace: Any, incoming: Path) -> None:
    report = take_in(database, workspace, [incoming], RECIPE)
    assert (len(report.new), len(report.known), len(report.jobs)) == (4, 1, 2)
    again = take_in(database, workspace, [incoming], RECIPE)
    assert (again.new, len(again.known), again.jobs, again.plan_id) == ([], 5, [], None)
    with database.read() as session:
        counts = [session.scalar(select(func.count()).select_from(t)) for t in (FileRow, LocationRow, JobRow, PlanRow)]
    assert counts == [4, 5, 2, 1]


def test_a_failure_leaves_nothing_half_written(
    database: Any, workspace: Any, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("the power went")

    monkeypatch.setattr(intake, "submit_jobs", fail)
    with pytest.raises(RuntimeError):
        take_in(database, workspace, [incoming], RECIPE)
    with database.read() as session:
        counts = [session.scalar(select(func.count()).select_from(t)) for t in (FileRow, LocationRow, JobRow, PlanRow)]
    assert counts == [0, 0, 0, 0]

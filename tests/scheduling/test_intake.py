"""Intake: what is found, what is left aside, what is known, and one transaction."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from sqlalchemy import func, select

from spica.db.node import Beat, beat, know_node
from spica.db.placement_choice import move_group
from spica.db.tables.file import FileRow, LocationRow, NodeRow, PlacementRow
from spica.db.tables.job import JobRow, PlanRow
from spica.model.errors import TransientError
from spica.model.image import FileKind
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


def _night(workspace: Any, *kinds: str) -> Path:
    """Write files of one DECam exposure that share their stem: image `i`, weight `w`, quality `d`."""
    folder: Path = workspace.roots["incoming"] / "decam"
    folder.mkdir(exist_ok=True)
    for kind in kinds:
        (folder / f"c4d_141029_043225_oo{kind}_g_ls9.fits").write_bytes(f"pixels of {kind}".encode())
    return folder


def _inputs(database: Any) -> list[tuple[str, str, str]]:
    with database.read() as session:
        requests = [json.loads(text) for text in session.scalars(select(JobRow.request).order_by(JobRow.id))]
    return [(i["role"], i["item"], i["file"]["name"][18:21]) for r in requests for i in r["inputs"]]


def test_maps_go_with_their_image(database: Any, workspace: Any) -> None:
    folder = _night(workspace, "i", "w", "d")
    (folder / "c4d_141029_050000_ooi_g_ls9.fits").write_bytes(b"an image without maps")
    report = take_in(database, workspace, [folder], RECIPE)
    assert (len(report.new), len(report.known), len(report.maps), report.late) == (2, 0, 2, [])
    found = _inputs(database)
    (item,) = {i for role, i, _ in found if role == "weight_map"}
    assert sorted(i for i in found if i[1] == item) == [
        ("dq_map", item, "ood"), ("exposure", item, "ooi"), ("weight_map", item, "oow")]  # fmt: skip
    assert sorted(role for role, _, _ in found) == ["dq_map", "exposure", "exposure", "weight_map"]
    with database.read() as session:
        kinds = dict(session.execute(select(FileRow.name, FileRow.kind)).all())
        places = session.scalar(select(func.count()).select_from(LocationRow))
    assert kinds["c4d_141029_043225_oow_g_ls9.fits"] == FileKind.CALIBRATION
    assert places == 4
    again = take_in(database, workspace, [folder], RECIPE)
    assert (again.new, len(again.known), again.maps, again.late, again.jobs) == ([], 4, [], [], [])


def test_maps_beside_a_named_image_come_along(database: Any, workspace: Any) -> None:
    folder = _night(workspace, "i", "w")
    report = take_in(database, workspace, [folder / "c4d_141029_043225_ooi_g_ls9.fits"], RECIPE)
    assert [p.name for p in report.maps] == ["c4d_141029_043225_oow_g_ls9.fits"]
    assert [role for role, _, _ in _inputs(database)] == ["exposure", "weight_map"]


def test_a_map_that_comes_later_stays_a_file_of_its_own(database: Any, workspace: Any) -> None:
    folder = _night(workspace, "i")
    take_in(database, workspace, [folder], RECIPE)
    _night(workspace, "w")
    report = take_in(database, workspace, [folder], RECIPE)
    assert [p.name[18:21] for p in report.new] == ["oow"]
    assert [(m.name[18:21], i.name[18:21]) for m, i in report.late] == [("oow", "ooi")]
    assert report.maps == []
    assert [role for role, _, _ in _inputs(database)] == ["exposure", "exposure"]


def test_names_are_maps_only_where_their_image_is(database: Any, workspace: Any) -> None:
    folder = _night(workspace, "w", "d")
    report = take_in(database, workspace, [folder], RECIPE)
    assert (len(report.new), report.maps, report.late) == (2, [], [])


# Placement ------------------------------------------------------------------------------------------------------------


def _exposures(workspace: Any, *groups: tuple[str, str]) -> Path:
    """Write exposures of the simulated camera as headers with few pixels: one of each run and filter."""
    folder: Path = workspace.roots["incoming"] / "placed"
    folder.mkdir(exist_ok=True)
    for i, (run, name) in enumerate(groups):
        hdu = fits.PrimaryHDU()
        words = {"INSTRUME": "SPICASIM", "OBJECT": "D2", "EXPTIME": 90.0, "FILTER": name, "RUNID": run, "RA": 150.0}
        hdu.header.update(
            words | {"DEC": 2.0 + i, "AIRMASS": 1.1, "MJD-OBS": 61290.3, "DATE-OBS": "2026-09-06T07:12:00"}
        )
        sensor = fits.ImageHDU(np.full((20, 20), i, dtype=np.int16), name="CCD00")
        sensor.header.update({"PIXSCALE": 0.3, "GAIN": 1.5})
        fits.HDUList([hdu, sensor]).writeto(folder / f"e{i}.fits")
    return folder


def _bound(database: Any) -> dict[str, tuple[str | None, list[str] | None]]:
    """Return node and group of each file by the jobs that assess them."""
    with database.read() as session:
        query = select(JobRow.request, NodeRow.name).outerjoin(NodeRow, NodeRow.id == JobRow.node_id)
        rows = [(json.loads(r), node) for r, node in session.execute(query)]
    return {i["file"]["name"]: (node, r["facts"].get("group")) for r, node in rows for i in r["inputs"]}


def test_exposures_go_where_their_run_and_filter_go(database: Any, workspace: Any) -> None:
    """One job holds one group; a file that is no FITS may go anywhere; what comes later follows its group."""
    with database.begin() as session:
        own, big = know_node(session, workspace.node), know_node(session, "big")
        for node, free in ((own, 10**12), (big, 2 * 10**12)):
            beat(session, node, Beat(2, 0, disk_free_bytes=free))
        session.add(PlacementRow(run="26B", filter="", node_id=own))
    folder = _exposures(workspace, ("26A", "r"), ("26B", "r"), ("26A", "r"), ("26A", "i"))
    (folder / "words.fits").write_bytes(b"no FITS at all")
    report = take_in(database, workspace, [folder], RECIPE)
    assert len(report.jobs) == 4
    found = _bound(database)
    assert found == {
        "e0.fits": ("big", ["26A", "r"]),
        "e1.fits": (workspace.node, ["26B", "r"]),
        "e2.fits": ("big", ["26A", "r"]),
        "e3.fits": ("big", ["26A", "i"]),
        "words.fits": (None, None),
    }
    with database.begin() as session:
        beat(session, big, Beat(2, 0, disk_free_bytes=10**10))  # nearly full, but the group stays together
        assert move_group(session, "26A", "i", own).jobs != ()
    assert _bound(database)["e3.fits"][0] == workspace.node


def test_with_one_node_no_job_is_bound(database: Any, workspace: Any) -> None:
    with database.begin() as session:
        beat(session, know_node(session, workspace.node), Beat(2, 0, disk_free_bytes=10**12))
    folder = _exposures(workspace, ("26A", "r"), ("26B", "i"))
    assert len(take_in(database, workspace, [folder], RECIPE).jobs) == 1  # one batch of both
    assert set(_bound(database).values()) == {(None, None)}

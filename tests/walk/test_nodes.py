"""Two daemons with their own names and data roots drain one survey; every product can be had on every node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from spica.db.tables.file import FileRow, LocationRow, NodeRow
from spica.db.tables.job import AttemptRow, JobRow
from spica.db.tables.product import ProductRow
from spica.files.checksum import sha256_file
from spica.files.jobfolder import attempt_folder, read_inputs

pytestmark = pytest.mark.walk


def test_two_nodes_drain_one_survey(walk: Any) -> None:
    lean = ("--set", "deliver.pdf=false", "--set", "quality.plots=false")
    said = walk.spica("schedule", "survey", "--json", *lean).json
    other = walk.folder.parent / f"{walk.folder.name}-other-data"
    first = walk.start("--drain", "--slots", "1")
    second = walk.start("--drain", "--slots", "1", "--node", "second", "--data", str(other))
    assert (first.wait(180), second.wait(180)) == (0, 0), walk.log()
    states = walk.rows(select(JobRow.id, JobRow.state))
    assert {s.name for _, s in states} == {"SUCCEEDED"}, walk.errors()
    jobs = [j for p in said["plans"] for j in p["jobs"]]
    ran = dict(
        walk.rows(
            select(AttemptRow.job_id, NodeRow.name)
            .join(NodeRow, NodeRow.id == AttemptRow.node_id)
            .where(AttemptRow.job_id.in_(jobs))
        )
    )
    assert set(ran.values()) == {walk.workspace.node, "second"}, "one node did everything"
    _expect_products_reachable(walk, other)
    _expect_inputs_on_own_disk(walk, ran, other)
    for stack in walk.spica("stacks", "--json").json:
        assert stack["state"] == "delivered"
        for key in ("path", "weight_path", "catalogue_path", "delivered_path"):
            assert Path(stack[key]).exists(), (key, stack["name"])


def _expect_products_reachable(walk: Any, other: Path) -> None:
    """Every product of every job lies where the database says, whole."""
    roots = {"second": {**walk.workspace.roots, "data": other}, walk.workspace.node: walk.workspace.roots}
    query = (
        select(FileRow.sha256, NodeRow.name, LocationRow.root, LocationRow.relative_path)
        .join(ProductRow, ProductRow.file_id == FileRow.id)
        .join(LocationRow, LocationRow.file_id == FileRow.id)
        .join(NodeRow, NodeRow.id == LocationRow.node_id)
    )
    places = set(walk.rows(query))
    products = {s for (s,) in walk.rows(select(FileRow.sha256).join(ProductRow, ProductRow.file_id == FileRow.id))}
    assert {place[0] for place in places} == products
    for sha256, node, root, relative in places:
        assert sha256_file(roots[node][root] / relative) == sha256


def _expect_inputs_on_own_disk(walk: Any, ran: dict[int, str], other: Path) -> None:
    """What a job of the second node read lay on the second node's disk: exposures and products were fetched there."""
    fetched = 0
    for job, node in ran.items():
        if node != "second":
            continue
        for given in read_inputs(attempt_folder(walk.folder / "jobs", job, 1)).inputs:
            assert Path(given.path).is_relative_to(other), given.path
            assert sha256_file(Path(given.path)) == given.file.sha256
            fetched += 1
    assert fetched > 0

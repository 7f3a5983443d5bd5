"""Inputs: own places, the neighbour's disk, the file service, and what was left out upstream."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from spica.db import job as jobs
from spica.db.engine import Database
from spica.db.file import know_file, know_location, locations
from spica.db.node import Beat, beat, know_node
from spica.db.tables.file import LocationRow
from spica.files.workspace import Workspace
from spica.model.errors import TransientError
from spica.model.image import FileKind
from spica.model.job import FileRef, Input, Request
from spica.model.node import LocationState
from spica_daemon.inputs import resolve_inputs
from spica_daemon.naming import stable_name
from spica_daemon.serve import FileService

CONTENT = b"pixels" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TOKEN = "a-long-token"


def put(database: Database, workspace: Workspace, path: Path) -> FileRef:
    """Know the content at a place of a node."""
    root, relative = workspace.locate(path)
    with database.begin() as session:
        file_id = know_file(session, SHA256, len(CONTENT), FileKind.EXPOSURE, "a.fits")
        know_location(session, file_id, know_node(session, workspace.node), root, relative)
    return FileRef(file_id, SHA256, "a.fits", len(CONTENT))


def ask(database: Database, workspace: Workspace, ref: FileRef) -> Path:
    request = Request("test", "test", {}, "0" * 64, (Input("exposure", "file:1", ref),))
    with database.begin() as session:
        node_id = know_node(session, workspace.node)
    (found,) = resolve_inputs(database, workspace, node_id, request).inputs
    assert (found.role, found.item, found.file) == ("exposure", "file:1", ref)
    return Path(found.path)


@pytest.fixture
def peer(workspace: Workspace, tmp_path: Path) -> Workspace:
    return workspace.as_node("n2", tmp_path / "two")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FileService]:
    kept = tmp_path / "far.fits"
    kept.write_bytes(CONTENT)
    service = FileService({SHA256: kept}.get, TOKEN, "127.0.0.1", 0)
    service.start()
    yield service
    service.close()


def far(database: Database, service: FileService, token: str = TOKEN) -> FileRef:
    """Know the content on a node of another host that serves it."""
    with database.begin() as session:
        file_id = know_file(session, SHA256, len(CONTENT), FileKind.EXPOSURE, "a.fits")
        node_id = know_node(session, "far")
        know_location(session, file_id, node_id, "data", "a.fits")
        beat(session, node_id, Beat(slots=1, busy=0, address=f"127.0.0.1:{service.port}", token=token))
    return FileRef(file_id, SHA256, "a.fits", len(CONTENT))


def test_a_file_of_this_node_is_read_where_it_lies(database: Database, workspace: Workspace) -> None:
    path = workspace.roots["incoming"] / "a.fits"
    path.write_bytes(CONTENT)
    assert ask(database, workspace, put(database, workspace, path)) == path


def test_a_file_of_a_neighbour_is_copied_once(database: Database, workspace: Workspace, peer: Workspace) -> None:
    path = workspace.roots["data"] / "a.fits"
    path.write_bytes(CONTENT)
    ref = put(database, workspace, path)
    workspace.save_roots()
    copy = ask(database, peer, ref)
    assert copy.read_bytes() == CONTENT
    assert copy.is_relative_to(peer.roots["data"])
    path.unlink()
    assert ask(database, peer, ref) == copy
    assert [p.name for p in copy.parent.iterdir()] == [stable_name("a.fits", SHA256)]


def test_a_file_of_another_host_comes_by_its_file_service(
    database: Database, workspace: Workspace, service: FileService
) -> None:
    copy = ask(database, workspace, far(database, service))
    assert copy.read_bytes() == CONTENT


def test_other_bytes_are_never_taken(
    database: Database, workspace: Workspace, service: FileService, tmp_path: Path
) -> None:
    ref = far(database, service)
    (tmp_path / "far.fits").write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(TransientError, match="other bytes"):
        ask(database, workspace, ref)
    assert not list(workspace.roots["data"].rglob("*.*"))


def test_a_wrong_token_or_an_unknown_content_gives_nothing(
    database: Database, workspace: Workspace, service: FileService
) -> None:
    with pytest.raises(TransientError, match="401"):
        ask(database, workspace, far(database, service, "wrong"))
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)
    for path, status in ((f"/files/{'0' * 64}", 404), ("/files/../../etc/passwd", 404), (f"/files/{SHA256}", 200)):
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status


def test_a_file_that_is_nowhere_is_noted_and_waited_for(database: Database, workspace: Workspace) -> None:
    path = workspace.roots["incoming"] / "a.fits"
    path.write_bytes(CONTENT)
    ref = put(database, workspace, path)
    path.unlink()
    with pytest.raises(TransientError, match=r"a\.fits .* cannot be had now"):
        ask(database, workspace, ref)
    with database.begin() as session:
        assert [p.state for p in locations(session, ref.id)] == [LocationState.MISSING]
        session.execute(update(LocationRow).values(state=LocationState.PRESENT))
    path.write_bytes(CONTENT)
    assert ask(database, workspace, ref) == path


def test_items_of_a_failed_job_are_left_out_with_its_words(database: Database, workspace: Workspace) -> None:
    ref = FileRef(3, SHA256, "a.fits", 1)
    request = Request("assess", "test", {}, "0" * 64, (Input("exposure", "file:3", ref),))
    with database.begin() as session:
        node_id = know_node(session, workspace.node)
        job_id = jobs.reserve_job_ids(session, 1)[0]
        jobs.create_jobs(session, None, [jobs.NewJob(job_id, "assess", "test", request, "")])
        jobs.cancel(session, job_id, why="wrong field")
    asked = Request("stack", "test", {}, "0" * 64, (Input("catalogue", job=job_id, product="catalogue"),))
    found = resolve_inputs(database, workspace, node_id, asked)
    assert found.inputs == ()
    (left,) = found.left_out
    assert (left.item, left.reason.code) == ("file:3", "upstream_failed")
    assert "wrong field" in left.reason.text


def test_names_hold_the_hash_and_the_whole_suffix() -> None:
    assert stable_name("744123p.weight.fits.fz", "0123456789") == "744123p.weight-01234567.fits.fz"
    assert stable_name("../../etc/passwd", "0123456789") == "passwd-01234567"
    assert stable_name("stack.ldac", "0123456789") == "stack-01234567.ldac"
    assert stable_name("x", "0123456789") == "x-01234567"


def test_what_was_left_out_upstream_does_not_come(bench) -> None:  # type: ignore[no-untyped-def]
    with bench.database.begin() as session:
        ids = [know_file(session, f"{i}" * 64, 1, FileKind.EXPOSURE, f"{i}.fits") for i in range(2)]
    reason = {"code": "no_stars", "text": "no stars", "value": None, "limit": None}
    outcomes = [
        {"item": f"file:{ids[0]}", "outcome": "left_out", "detector": None, "reason": reason},
        {"item": f"file:{ids[1]}", "outcome": "used", "detector": None, "reason": None},
    ]
    job_id = bench.add(outcomes=outcomes)
    bench.drain()
    request = Request("test", "test", {}, "0" * 64, (Input("table", job=job_id, product="measures"),))
    with bench.database.begin() as session:
        node_id = know_node(session, "n1")
        assert session.scalars(select(LocationRow.root).where(LocationRow.root == "data")).all() == ["data"]
    found = resolve_inputs(bench.database, bench.workspace, node_id, request)
    assert [i.role for i in found.inputs] == ["table"]
    assert [(o.item, o.reason.text) for o in found.left_out] == [(f"file:{ids[0]}", "no stars")]

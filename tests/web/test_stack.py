"""Stacks in the browser: their list, page, catalogue and delivery."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from spica.db.engine import Database
from spica.db.person import read_audit
from spica.db.tables.product import DeliveryRow, SourceRow
from spica.files.checksum import sha256_file
from spica.files.manifest import Manifest, describe_file, write_manifest
from spica.files.workspace import Workspace
from spica.model.product import DeliveryState


@pytest.fixture
def delivered(database: Database, survey: Any, workspace: Workspace) -> Path:
    """Return the folder of the delivered stack with two files and the manifest that was recorded."""
    with database.begin() as session:
        row = session.scalars(select(DeliveryRow)).one()
        folder = workspace.roots["outgoing"] / row.folder
        folder.mkdir(parents=True)
        for name in ("a.fits", "b.fits"):
            (folder / name).write_bytes(name.encode() * 1000)
        files = tuple(describe_file(folder / name, "stack") for name in ("a.fits", "b.fits"))
        _, twin = write_manifest(folder, Manifest("s", "stack", "2026-01-01T00:00:00Z", files=files))
        row.manifest_sha256 = sha256_file(twin)
    return folder


def state_of(database: Database) -> tuple[DeliveryState, str | None]:
    with database.read() as session:
        row = session.scalars(select(DeliveryRow)).one()
        return row.state, row.fault


def check(client: Any, database: Database, survey: Any) -> tuple[DeliveryState, str | None]:
    """Ask for a check by the page's own button, and return what it ends in."""
    with database.read() as session:
        row = session.scalars(select(DeliveryRow)).one()
        before = row.checked_at
    reply = client.post(f"/deliveries/{row.id}/check")
    assert reply.status_code == 303
    assert reply.headers["location"] == f"/stacks/{survey.stack}#delivery"
    for _ in range(200):
        with database.read() as session:
            if session.scalars(select(DeliveryRow)).one().checked_at != before:
                break
        time.sleep(0.02)
    return state_of(database)


def test_a_delivery_is_checked_found_damaged_and_mended(
    database: Database, survey: Any, visitor: Any, delivered: Path
) -> None:
    client = visitor.become(survey.tokens["oscar"])
    assert check(client, database, survey) == (DeliveryState.VERIFIED, None)
    whole = (delivered / "b.fits").read_bytes()
    (delivered / "b.fits").write_bytes(whole[:-1] + b"!")
    state, fault = check(client, database, survey)
    assert state is DeliveryState.DAMAGED
    assert fault == "b.fits differs from the manifest; deliver it again"
    assert "differs from the manifest" in client.get(f"/stacks/{survey.stack}").text
    with database.read() as session:
        number = session.scalars(select(DeliveryRow.id)).one()
    assert client.post(f"/deliveries/{number}/accept").status_code == 409
    (delivered / "b.fits").write_bytes(whole)
    assert check(client, database, survey) == (DeliveryState.VERIFIED, None)
    assert client.post(f"/deliveries/{number}/accept").status_code == 303
    assert check(client, database, survey) == (DeliveryState.ACCEPTED, None)
    with database.read() as session:
        verbs = [a.verb for a in read_audit(session, f"delivery:{number}")]
    assert sorted(verbs) == ["accept"] + ["check"] * 4 + ["checked"] * 4


def test_another_manifest_is_no_delivery(database: Database, survey: Any, visitor: Any, delivered: Path) -> None:
    client = visitor.become(survey.tokens["oscar"])
    text = json.loads((delivered / "manifest.json").read_text())
    (delivered / "manifest.json").write_text(json.dumps({**text, "files": []}))
    state, fault = check(client, database, survey)
    assert state is DeliveryState.DAMAGED
    assert fault is not None
    assert "is not the one that was delivered" in fault


def test_a_delivery_elsewhere_is_told(database: Database, survey: Any, visitor: Any) -> None:
    from spica.db.tables.file import NodeRow

    with database.begin() as session:
        row = session.scalars(select(DeliveryRow)).one()
        row.node_id = session.scalars(select(NodeRow.id).where(NodeRow.name == "ocs2")).one()
        number = row.id
    reply = visitor.become(survey.tokens["oscar"]).post(f"/deliveries/{number}/check")
    assert reply.status_code == 503
    assert "lies on ocs2" in reply.text
    assert state_of(database)[0] is DeliveryState.VERIFIED
    assert visitor.client.post("/deliveries/99999/check").status_code == 409


def test_the_catalogue_is_narrowed_and_ordered(database: Database, survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    whole = client.get(f"/stacks/{survey.stack}/catalogue")
    assert whole.status_code == 200
    assert "140" in whole.text
    assert whole.text.count('<tr><td class="n"><a') == 140
    assert whole.text.count("<svg") >= 2  # number counts and sizes
    bright = client.get(f"/stacks/{survey.stack}/catalogue?mag_max=16&sort=-mag_auto").text
    with database.read() as session:
        mags = list(session.scalars(select(SourceRow.mag_auto).where(SourceRow.image_id == survey.stack)))
    wanted = sorted((m for m in mags if m is not None and m <= 16.0), reverse=True)
    assert bright.count('<tr><td class="n"><a') == len(wanted) > 5
    places = [bright.index(f'<td class="n">{m:.3f}</td>') for m in wanted]
    assert places == sorted(places)
    none = client.get(f"/stacks/{survey.stack}/catalogue?mag_min=99").text
    assert "No source is within these bounds" in none
    odd = client.get(f"/stacks/{survey.stack}/catalogue?mag_min=nan&sort=;drop&number=1e9&page=0")
    assert odd.status_code == 200
    assert odd.text.count('<tr><td class="n"><a') == 140
    assert client.get("/stacks/99999/catalogue").status_code == 404
    assert "No catalogue" in client.get(f"/stacks/{survey.planned}/catalogue").text


def test_number_counts_hold_every_source(database: Database, survey: Any) -> None:
    from spica.db.pages.catalogue import count_magnitudes, read_size_plane

    with database.begin() as session:
        for row in session.scalars(select(SourceRow).where(SourceRow.number <= 30)):
            row.flags, row.flux_radius_pix = 4, 1.0 + row.number / 10
        session.flush()
        bins = count_magnitudes(session, survey.stack)
        assert sum(b.n for b in bins) == 140
        assert sum(b.n_clean for b in bins) == 110
        assert [b.mag for b in bins] == sorted({(15.0 + i / 20) // 0.5 * 0.5 for i in range(140)})
        plane = read_size_plane(session, survey.stack)
    assert plane is not None
    assert 130 <= sum(c.n for c in plane.cells) <= 140  # the outermost percent lies outside
    assert all(plane.mag[0] <= c.mag <= plane.mag[1] for c in plane.cells)


def test_stacks_are_narrowed_and_ordered(survey: Any, visitor: Any) -> None:
    client = visitor.become(survey.tokens["vera"])
    assert "IC1396-r-1" in client.get("/stacks?object=ic_1396&filter=r").text
    assert "No stack matches" in client.get("/stacks?object=ic_1396&filter=i").text
    up, down = (client.get(f"/stacks?sort={s}").text for s in ("name", "-name"))
    assert up.index("IC1396-r-1</a>") < up.index("NGC6822-r-1</a>")
    assert down.index("IC1396-r-1</a>") > down.index("NGC6822-r-1</a>")
    assert client.get("/stacks?sort=evil&state=evil&kind=evil").status_code == 200

"""Nodes: known once, alive by the database's clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.node import Beat, beat, drain_node, find_node, know_node, list_nodes, stop_node
from spica.model.errors import UsageError
from spica.model.node import NodeState

SAID = Beat(slots=4, busy=1, disk_free_bytes=10**13, load=0.5, address="127.0.0.1:9001", token="secret")


def test_known_once(session: Session) -> None:
    """The same name is the same node; the host is noted when it is told, and kept when it is not."""
    node_id = know_node(session, "n1")
    assert know_node(session, "n1") == node_id
    assert know_node(session, "n1", "alpha") == node_id
    assert know_node(session, "n1") == node_id
    assert know_node(session, "n2", "beta") != node_id
    assert [(n.name, n.host, n.state, n.alive) for n in list_nodes(session)] == [
        ("n1", "alpha", NodeState.STOPPED, False),
        ("n2", "beta", NodeState.STOPPED, False),
    ]
    assert find_node(session, "n3") is None


def test_alive_then_silent(session: Session) -> None:
    """Alive with its heartbeat, silent 30 s after it by the database's clock, alive again with the next."""
    node_id = know_node(session, "n1", "alpha")
    beat(session, node_id, SAID)
    (node,) = list_nodes(session)
    assert node.alive
    assert not node.silent
    assert node.silence_s is not None
    assert 0 <= node.silence_s < 5
    assert (node.slots, node.busy, node.disk_free_bytes, node.load) == (4, 1, 10**13, 0.5)
    assert "secret" not in repr(node) + repr(SAID)
    for age, silent in ((29, False), (31, True)):
        session.execute(text(f"UPDATE node SET seen_at = clock_timestamp() - interval '{age} s'"))
        (node,) = list_nodes(session)
        assert (node.silent, node.alive) == (silent, not silent)
    beat(session, node_id, SAID)
    assert list_nodes(session)[0].alive


def test_drained_and_stopped(session: Session) -> None:
    """A draining node is alive; a stopped one is neither alive nor silent, and serves nothing."""
    node_id = know_node(session, "n1")
    beat(session, node_id, SAID)
    drain_node(session, node_id)
    node = find_node(session, "n1")
    assert node is not None
    assert (node.state, node.alive) == (NodeState.DRAINING, True)
    stop_node(session, node_id)
    node = find_node(session, "n1")
    assert node is not None
    assert (node.state, node.alive, node.silent, node.busy, node.address) == (NodeState.STOPPED, False, False, 0, None)
    session.execute(text("UPDATE node SET seen_at = clock_timestamp() - interval '1 day'"))
    assert not list_nodes(session)[0].silent


def test_unknown_node(session: Session) -> None:
    """A heartbeat of a node that was removed says what to do."""
    with pytest.raises(UsageError, match="start its daemon again"):
        beat(session, 99, SAID)


def test_listeners_hear_changes_only(database: Database) -> None:
    """Heartbeats that say the same wake nobody; a change, and the first, do."""
    with database.begin() as session:
        node_id = know_node(session, "n1")
    with database.listen() as listener:
        heard = []
        for said in (SAID, SAID, replace(SAID, load=3.0), replace(SAID, busy=2), replace(SAID, busy=2)):
            with database.begin() as session:
                beat(session, node_id, said)
            heard.append(listener.wait(0.2))
        assert heard == [[f"node:{node_id}"], [], [], [f"node:{node_id}"], []]

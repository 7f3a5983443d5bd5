"""Nodes: known once, alive by the database's clock."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from spica.db.engine import Database
from spica.db.node import (
    Beat,
    beat,
    drain_node,
    find_node,
    know_node,
    list_nodes,
    need_node,
    resume_node,
    stop_node,
)
from spica.db.person import add_person, read_audit
from spica.model.errors import UsageError
from spica.model.node import NodeState
from spica.model.person import PersonRole

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


def test_stopped(session: Session) -> None:
    """A node whose daemon ends is alive; a stopped one is neither alive nor silent, and serves nothing."""
    node_id = know_node(session, "n1")
    beat(session, node_id, replace(SAID, state=NodeState.DRAINING))
    assert need_node(session, "n1").alive
    stop_node(session, node_id)
    node = need_node(session, "n1")
    assert (node.state, node.alive, node.silent, node.busy, node.address) == (NodeState.STOPPED, False, False, 0, None)
    session.execute(text("UPDATE node SET seen_at = clock_timestamp() - interval '1 day'"))
    assert not list_nodes(session)[0].silent


def test_drained_until_resumed(session: Session) -> None:
    """Who, why and when are kept through heartbeats and restarts; the newest word counts; each act is on record."""
    ada = add_person(session, "ada", PersonRole.OPERATOR)
    node_id = know_node(session, "n1", "alpha")
    beat(session, node_id, SAID)
    assert need_node(session, "n1").takes_jobs
    drain_node(session, node_id, "  a disk is swapped \n", ada)
    stop_node(session, node_id)
    assert know_node(session, "n1", "beta") == node_id
    beat(session, node_id, SAID)
    node = need_node(session, "n1")
    assert node.drain is not None
    assert (node.alive, node.takes_jobs, node.drain.person, node.drain.why) == (True, False, "ada", "a disk is swapped")
    assert abs((datetime.now(UTC) - node.drain.at).total_seconds()) < 60
    drain_node(session, node_id, "and its fan")
    (node,) = list_nodes(session)
    assert node.drain is not None
    assert re.fullmatch(r"by the command line since \d{4}-\d\d-\d\d \d\d:\d\d UTC: and its fan", node.drain.words)
    assert resume_node(session, node_id, ada)
    assert not resume_node(session, node_id, ada)
    assert need_node(session, "n1").takes_jobs
    said = [(a.person, a.verb, a.subject, a.detail) for a in reversed(read_audit(session))]
    assert [s for s in said if s[1] in ("drain", "resume")] == [
        ("ada", "drain", f"node:{node_id}", "n1: a disk is swapped"),
        (None, "drain", f"node:{node_id}", "n1: and its fan"),
        ("ada", "resume", f"node:{node_id}", "n1"),
    ]


@pytest.mark.parametrize("why", ["", " \n\t"])
def test_a_drain_needs_a_reason(session: Session, why: str) -> None:
    node_id = know_node(session, "n1")
    with pytest.raises(UsageError, match="say why"):
        drain_node(session, node_id, why)
    assert need_node(session, "n1").drain is None


def test_the_database_keeps_a_drain_whole(session: Session) -> None:
    know_node(session, "n1")
    for half in ("drained_at = now()", "drained_why = 'x'"):
        with pytest.raises(IntegrityError, match="drained_for_a_reason"), session.begin_nested():
            session.execute(text(f"UPDATE node SET {half}"))


def test_unknown_node(session: Session) -> None:
    """A heartbeat of a node that was removed says what to do."""
    with pytest.raises(UsageError, match="start its daemon again"):
        beat(session, 99, SAID)
    for act in (lambda: drain_node(session, 99, "x"), lambda: resume_node(session, 99)):
        with pytest.raises(UsageError, match="no node 99; see spica nodes"):
            act()
    with pytest.raises(UsageError, match="no node is called 'n9'; see spica nodes"):
        need_node(session, "n9")


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
        for act in (lambda s: drain_node(s, node_id, "x"), lambda s: resume_node(s, node_id)):
            with database.begin() as session:
                act(session)
            assert listener.wait(2.0) == [f"node:{node_id}"]

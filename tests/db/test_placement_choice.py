"""Where groups of incoming exposures go: what a person chose, else by free disk once and for all; moves."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.node import Beat, beat, drain_node, know_node, resume_node, stop_node
from spica.db.pages.node import read_group_sizes, read_held, read_mishaps, read_waiting_for
from spica.db.placement_choice import (
    Group,
    choose_node,
    choose_nodes,
    forget_group,
    list_placements,
    move_group,
    move_waiting,
)
from spica.db.tables.file import PlacementRow
from spica.db.tables.job import JobRow
from spica.db.tables.person import AuditRow
from spica.model.errors import UsageError
from spica.model.job import Request
from spica.model.node import NodeState

TB = 10**12


def node(session: Session, name: str, free: int | None = TB) -> int:
    """Return a node that lives and has so much disk."""
    node_id = know_node(session, name)
    beat(session, node_id, Beat(2, 0, disk_free_bytes=free))
    return node_id


def silent(session: Session, node_id: int, seconds: float) -> None:
    session.execute(
        text("UPDATE node SET seen_at = clock_timestamp() - make_interval(secs => :s) WHERE id = :n"),
        {"s": seconds, "n": node_id},
    )


def place(session: Session, run: str, filter_name: str, node_id: int, chosen: bool = True) -> None:
    session.add(PlacementRow(run=run, filter=filter_name, node_id=node_id, chosen=chosen))
    session.flush()


def recorded(session: Session) -> dict[tuple[str, str], tuple[str, bool]]:
    return {(p.run, p.filter): (p.node, p.chosen) for p in list_placements(session)}


def assess(session: Session, node_id: int | None, group: Group | None = None) -> int:
    """Make a job that assesses, bound to a node."""
    (job_id,) = jobs.reserve_job_ids(session, 1)
    facts: dict[str, Any] = {} if group is None else {"group": [group.run, group.filter]}
    request = Request("assess", "native", {}, "0" * 64, facts=facts)
    jobs.create_jobs(session, None, [jobs.NewJob(job_id, "assess", "native", request, "#!/bin/sh\n", node_id=node_id)])
    return job_id


def bound(session: Session) -> dict[int, int | None]:
    return {row[0]: row[1] for row in session.execute(select(JobRow.id, JobRow.node_id))}


def test_one_node_needs_no_placement(session: Session) -> None:
    node(session, "n1")
    place(session, "", "", know_node(session, "n1"))
    assert choose_node(session, "26A", "r") is None
    node(session, "n2")
    assert choose_node(session, "26A", "r") == know_node(session, "n1")


def test_the_narrowest_word_counts(session: Session) -> None:
    a, b, c, d, e = (node(session, f"n{i}") for i in range(5))
    place(session, "", "", a)
    assert choose_node(session, "26A", "r") == a
    place(session, "", "r", b)
    assert choose_node(session, "26A", "r") == b
    place(session, "26A", "", c)
    assert choose_node(session, "26A", "r") == c
    place(session, "26A", "r", d)
    assert choose_node(session, "26A", "r") == d
    assert [choose_node(session, *g) for g in (("26A", "i"), ("26B", "r"), ("26B", "i"))] == [c, b, a]
    assert e not in {choose_node(session, "26A", "r")}
    assert len(recorded(session)) == 4


def test_a_new_group_goes_where_disk_is_and_stays(session: Session) -> None:
    small, big = node(session, "small", TB), node(session, "big", 2 * TB)
    assert choose_node(session, "26A", "r") == big
    beat(session, big, Beat(2, 0, disk_free_bytes=TB // 2))  # fuller now than the other
    assert choose_node(session, "26A", "r") == big
    assert choose_node(session, "26A", "i") == small
    assert recorded(session) == {("26A", "r"): ("big", False), ("26A", "i"): ("small", False)}


def test_of_equals_the_lower_id(session: Session) -> None:
    first, _ = node(session, "z"), node(session, "a")
    assert choose_node(session, "26A", "r") == first


@pytest.mark.parametrize("kind", ["stopped", "ending", "drained", "silent", "full", "unknown disk"])
def test_an_unfit_node_is_never_chosen(session: Session, kind: str) -> None:
    good, bad = node(session, "good", 5 * 10**9), node(session, "bad", TB)
    place(session, "26A", "r", bad)
    place(session, "26A", "i", bad, chosen=False)
    assert choose_node(session, "26A", "r") == bad
    match kind:
        case "stopped":
            stop_node(session, bad)
        case "ending":
            beat(session, bad, Beat(2, 0, state=NodeState.DRAINING, disk_free_bytes=TB))
        case "drained":
            drain_node(session, bad, "its disk is swapped")
        case "silent":
            silent(session, bad, 601)
        case _:
            beat(session, bad, Beat(2, 0, disk_free_bytes=None if kind == "unknown disk" else 10**6))
    assert [choose_node(session, "26A", f) for f in ("r", "i", "z")] == [good] * 3
    # a person's word stays on record for the day the node is back; Spica's own is decided anew
    assert recorded(session) == {
        ("26A", "r"): ("bad", True),
        ("26A", "i"): ("good", False),
        ("26A", "z"): ("good", False),
    }


def test_a_short_silence_moves_no_group_and_begins_none(session: Session) -> None:
    other, late = node(session, "other", 5 * 10**9), node(session, "late", TB)
    assert choose_node(session, "26A", "r") == late
    silent(session, late, 300)
    assert choose_node(session, "26A", "r") == late
    assert choose_node(session, "26A", "i") == other


def test_without_any_fit_node_any_may_take_it(session: Session) -> None:
    for name in ("n1", "n2"):
        know_node(session, name)
    assert choose_node(session, "26A", "r") is None
    assert recorded(session) == {}


def test_unknown_run_or_filter_begins_no_group(session: Session) -> None:
    a, _ = node(session, "n1"), node(session, "n2")
    assert choose_nodes(session, [Group("", "r"), Group("26A", ""), Group("", "")]) == [None, None, None]
    assert recorded(session) == {}
    place(session, "", "", a)
    assert choose_node(session, None, "r") == a


def test_a_move_takes_the_jobs_that_have_not_begun(session: Session) -> None:
    a, b = node(session, "n1"), node(session, "n2")
    r, i = Group("26A", "r"), Group("26A", "i")
    place(session, *("26A", "r"), a, chosen=False)
    running = assess(session, a, r)
    jobs.claim(session, a, 60.0)
    ready, other, free, held = (
        assess(session, a, r),
        assess(session, a, i),
        assess(session, None),
        assess(session, a, r),
    )
    jobs.hold(session, held)
    assert move_group(session, "26A", "r", b).jobs == (ready, held)
    assert bound(session) == {running: a, ready: b, other: a, free: None, held: b}
    assert recorded(session) == {("26A", "r"): ("n2", True)}
    assert choose_node(session, "26A", "r") == b
    assert move_group(session, "26A", "", b).jobs == (other,)  # every filter of the run
    said = session.scalars(select(AuditRow).order_by(AuditRow.id)).all()
    assert [row.verb for row in said][-2:] == ["place", "place"]


def test_a_hostile_run_is_a_word(session: Session) -> None:
    a, b = node(session, "n1"), node(session, "n2")
    name = "26\"A' OR 1=1 --"
    mine, other = assess(session, a, Group(name, "r")), assess(session, a, Group("26A", "r"))
    assert move_group(session, name, "r", b).jobs == (mine,)
    assert bound(session)[other] == a


def test_a_group_goes_to_no_node_that_is_unknown_or_stopped(session: Session) -> None:
    a = node(session, "n1")
    stop_node(session, a)
    with pytest.raises(UsageError, match="stopped"):
        move_group(session, "26A", "r", a)
    with pytest.raises(UsageError, match="no node 999"):
        move_group(session, "26A", "r", 999)
    with pytest.raises(UsageError, match="stopped"):
        move_waiting(session, a, a)


def test_nothing_is_sent_to_a_drained_node(session: Session) -> None:
    a, b = node(session, "n1"), node(session, "n2")
    drain_node(session, a, "its fan is loud")
    for act in (lambda: move_group(session, "26A", "r", a), lambda: move_waiting(session, b, a)):
        with pytest.raises(UsageError, match=r"n1 is drained \(its fan is loud\); resume it, or choose another"):
            act()
    resume_node(session, a)
    assert move_group(session, "26A", "r", a).jobs == ()
    drain_node(session, a, "again")
    drain_node(session, b, "both")
    assert choose_node(session, "26B", "z") is None  # nothing is recorded of a group that nobody can take
    assert ("26B", "z") not in recorded(session)


def test_what_waits_for_a_silent_node_is_moved(session: Session) -> None:
    dead, good = node(session, "dead"), node(session, "good")
    place(session, "26A", "r", dead, chosen=False)
    place(session, "26A", "i", dead, chosen=True)
    first, second = assess(session, dead), assess(session, dead)
    silent(session, dead, 700)
    (waits,) = read_waiting_for(session)
    assert (waits.node_id, waits.n, waits.first_job) == (dead, 2, first)
    assert jobs.claim(session, good, 60.0) is None  # nobody else may
    assert move_waiting(session, dead, good).jobs == (first, second)
    assert recorded(session) == {("26A", "r"): ("good", False), ("26A", "i"): ("dead", True)}
    claimed = jobs.claim(session, good, 60.0)
    assert claimed is not None
    assert claimed.job_id == first
    assert move_waiting(session, good, None).jobs == (second,)
    assert bound(session)[second] is None
    assert read_waiting_for(session) == []


def test_a_group_is_forgotten(session: Session) -> None:
    a, b = node(session, "n1", TB), node(session, "n2", 2 * TB)
    place(session, "26A", "r", a)
    assert forget_group(session, "26A", "r")
    assert not forget_group(session, "26A", "r")
    assert choose_node(session, "26A", "r") == b


def test_the_page_counts_what_nodes_hold_and_suffered(world: Any) -> None:
    with world.database.begin() as session:
        context = world.attempt(session)
        for i in range(3):
            world.exposure(session, context, f"e{i}", bare=True)
        world.exposure(session, context, "e9", bare=True, filter="i")
        fence = jobs.live_attempts(session, context.node_id)[0].fence
        end = jobs.AttemptEnd(20, 1.0, None, "data", "no stars; look")
        jobs.fail(session, context.attempt_id, fence, end)
        know_node(session, "second")
    with world.database.read() as session:
        assert [(h.files, h.about) for h in read_held(session)] == [(4, False), (0, False)]
        (bad,) = read_mishaps(session)
        assert (bad.node_id, bad.job_id, bad.state, bad.kind) == (context.node_id, context.job_id, "FAILED", "data")
        sizes = read_group_sizes(session, [("26BS01", "r"), ("26BS01", "i"), ("26BS01", ""), ("none", "r")])
        assert {(s.run, s.filter): (s.exposures, s.more, s.size_bytes) for s in sizes} == {
            ("26BS01", "r"): (3, False, 3 * 2880),
            ("26BS01", "i"): (1, False, 2880),
            ("none", "r"): (0, False, None),
        }

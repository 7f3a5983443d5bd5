"""Why a job that has not begun waits, as far as that is for its node: in words that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from spica.db.node import Node, list_nodes
from spica.db.tables.job import JobRow
from spica.model.job import JobState
from spica.model.node import NodeState

_NOT_BEGUN = (JobState.READY, JobState.WAITING, JobState.HELD)


@dataclass(frozen=True)
class NodeWait:
    """What a job says of the node it waits for: `node` alone may run it, None: any may; `stuck`: that takes none."""

    node: str | None
    words: str
    stuck: bool


def explain_wait(session: Session, job: JobRow) -> NodeWait | None:
    """Return what a job waits for among the nodes: one statement; None where it has begun, or any node may take it."""
    if job.state not in _NOT_BEGUN:
        return None
    nodes = list_nodes(session)
    if job.node_id is not None:
        return _bound(next(n for n in nodes if n.id == job.node_id))
    return _free(nodes) if job.state is JobState.READY else None


def _bound(node: Node) -> NodeWait:
    words = f"Only node {node.name} may run it: its run and filter go there."
    if node.drain is not None:
        what = f"That node is drained {node.drain.words}. The job waits until {node.name} is resumed"
        cure = f"spica nodes --resume {node.name}"
    elif node.state is NodeState.STOPPED:
        what, cure = "That node has stopped. The job waits until its daemon is started", "spica daemon there"
    elif node.silent:
        what, cure = "That node is silent. The job waits until it is heard of again", "look whether its host is up"
    else:
        return NodeWait(node.name, words, False)
    return NodeWait(node.name, f"{words} {what} ({cure}), or what waits for it is moved to another node.", True)


def _free(nodes: Sequence[Node]) -> NodeWait | None:
    drained = [n for n in nodes if n.alive and n.drain is not None]
    if any(n.takes_jobs for n in nodes) or not drained:
        return None
    said = "; ".join(f"{n.name} {n.drain.words}" for n in drained if n.drain is not None)
    words = f"Every node that works is drained: {said}. The job waits until one is resumed (spica nodes --resume NAME)."
    return NodeWait(None, words, True)

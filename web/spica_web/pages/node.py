"""The nodes of the cluster: whether they live, take jobs, what they do and hold, and which exposures go to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from spica.db.node import Node, drain_node, list_nodes, resume_node
from spica.db.overview import list_nodes as list_node_entries
from spica.db.pages.job import LiveAttempt, read_live
from spica.db.pages.node import (
    GroupSize,
    Held,
    Mishap,
    WaitingFor,
    read_group_sizes,
    read_held,
    read_mishaps,
    read_waiting_for,
)
from spica.db.placement_choice import (
    LONG_SILENT_S,
    Placement,
    forget_group,
    list_placements,
    move_group,
    move_waiting,
)
from spica.model.node import NodeState
from spica_web.deps import Operator, Viewer, site_of
from spica_web.render import Page, render
from spica_web.tables import table_response, wanted_form
from spica_web.tables_of import NODES

router = APIRouter()
SHOWN = 100
Word = Annotated[str, Form(max_length=200)]
NodeId = Annotated[int, Form(ge=1, le=2**62)]
Why = Annotated[str, Form(max_length=1000)]


@dataclass(frozen=True)
class NodeLine:
    """One node with what it does, holds, suffered, and what waits for it; `stuck`: it will not take that soon."""

    node: Node
    running: list[LiveAttempt]
    mishaps: list[Mishap]
    held: Held | None
    waiting: WaitingFor | None
    stuck: bool


@dataclass(frozen=True)
class GroupLine:
    """Where a group goes, whether that node is alive or drained, and the size of the group where it was counted."""

    place: Placement
    size: GroupSize | None
    alive: bool
    drained: bool


@dataclass(frozen=True)
class NodesPage(Page):
    """Nodes and what runs on them, and where groups of exposures go."""

    template: ClassVar[str] = "nodes.html"
    title: str
    nav: str
    lines: list[NodeLine]
    alive: int
    drained: int
    taking: int
    most_free: int
    groups: list[GroupLine]
    folder: str
    moved: str


@router.get("/nodes", response_class=HTMLResponse)
def nodes_page(request: Request, person: Viewer, moved: int | None = None) -> Response:
    """Show every node with its last heartbeat, whether it takes jobs, and where groups of exposures go."""
    site, form = site_of(request), wanted_form(request)
    with site.read() as session:
        nodes = list_nodes(session)
        if form is not None:
            return table_response(request, NODES, form, list_node_entries(session), len(nodes))
        lines = node_lines(
            nodes, read_live(session), read_mishaps(session), read_held(session), read_waiting_for(session)
        )
        placements = list_placements(session, SHOWN)
        sizes = {(s.run, s.filter): s for s in read_group_sizes(session, [(p.run, p.filter) for p in placements])}
    living, drained = {n.id for n in nodes if n.alive}, {n.id for n in nodes if n.drain is not None}
    page = NodesPage(
        title="Nodes",
        nav="nodes",
        lines=lines,
        alive=len(living),
        drained=len(drained),
        taking=len(living - drained),
        most_free=max((n.disk_free_bytes or 0 for n in nodes), default=0),
        groups=[
            GroupLine(p, sizes.get((p.run, p.filter)), p.node_id in living, p.node_id in drained) for p in placements
        ],
        folder=str(site.workspace.folder),
        moved="" if moved is None else f"{moved} waiting {'job goes' if moved == 1 else 'jobs go'} there now.",
    )
    return render(request, page)


def node_lines(
    nodes: tuple[Node, ...],
    running: list[LiveAttempt],
    mishaps: list[Mishap],
    held: list[Held],
    waiting: list[WaitingFor],
) -> list[NodeLine]:
    """Return a line for each node; what waits for one that is drained, stopped, or silent for ten minutes is stuck."""
    holds, waits = {h.node_id: h for h in held}, {w.node_id: w for w in waiting}
    return [
        NodeLine(
            n,
            [a for a in running if a.node_id == n.id],
            [m for m in mishaps if m.node_id == n.id],
            holds.get(n.id),
            waits.get(n.id),
            n.id in waits and (n.drain is not None or is_away(n)),
        )
        for n in nodes
    ]


def is_away(node: Node) -> bool:
    """Whether a node will not come for what waits for it: it stopped, or was not heard of for ten minutes."""
    return node.state is NodeState.STOPPED or node.silence_s is None or node.silence_s > LONG_SILENT_S


@router.post("/nodes/place")
def place_group(request: Request, person: Operator, node: NodeId, run: Word = "", filter: Word = "") -> Response:
    """Let the exposures of a run and filter (empty: of every one) go to a node, with what waits to be assessed."""
    with site_of(request).database.begin() as session:
        moved = move_group(session, run.replace("\0", ""), filter.replace("\0", ""), node, person.id)
    return RedirectResponse(f"/nodes?moved={len(moved.jobs)}", status_code=303)


@router.post("/nodes/forget")
def forget_placement(request: Request, person: Operator, run: Word = "", filter: Word = "") -> Response:
    """Forget where a group goes: its next exposures are placed anew."""
    with site_of(request).database.begin() as session:
        forget_group(session, run, filter, person.id)
    return RedirectResponse("/nodes", status_code=303)


@router.post("/nodes/{node_id}/drain")
def drain(request: Request, person: Operator, node_id: int, why: Why = "") -> Response:
    """Let a node take no new jobs until it is resumed; running jobs end."""
    with site_of(request).database.begin() as session:
        drain_node(session, node_id, why.replace("\0", ""), person.id)
    return RedirectResponse("/nodes", status_code=303)


@router.post("/nodes/{node_id}/resume")
def resume(request: Request, person: Operator, node_id: int) -> Response:
    """Let a drained node take jobs again."""
    with site_of(request).database.begin() as session:
        resume_node(session, node_id, person.id)
    return RedirectResponse("/nodes", status_code=303)


@router.post("/nodes/{node_id}/move")
def move_jobs(
    request: Request, person: Operator, node_id: int, to: Annotated[int | None, Form(ge=1, le=2**62)] = None
) -> Response:
    """Let what waits for a node go to another one, or to any."""
    with site_of(request).database.begin() as session:
        moved = move_waiting(session, node_id, to, person.id)
    return RedirectResponse(f"/nodes?moved={len(moved.jobs)}", status_code=303)

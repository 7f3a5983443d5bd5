"""The nodes of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from spica.db.node import Node, list_nodes
from spica.db.pages.job import LiveAttempt, read_live
from spica_web.deps import Viewer, site_of
from spica_web.render import Page, render

router = APIRouter()


@dataclass(frozen=True)
class NodesPage(Page):
    """Nodes and what runs on them."""

    template: ClassVar[str] = "nodes.html"
    title: str
    nav: str
    nodes: tuple[Node, ...]
    running: list[LiveAttempt]
    folder: str


@router.get("/nodes", response_class=HTMLResponse)
def nodes_page(request: Request, person: Viewer) -> HTMLResponse:
    """Show every node with its last heartbeat."""
    site = site_of(request)
    with site.read() as session:
        page = NodesPage("Nodes", "nodes", list_nodes(session), read_live(session), str(site.workspace.folder))
    return render(request, page)

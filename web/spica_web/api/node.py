"""Nodes as JSON."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from spica.db.overview import list_nodes
from spica.model.overview import NodeEntry
from spica_web.api.answer import answer
from spica_web.deps import Viewer, site_of

router = APIRouter(prefix="/api", tags=["nodes"])


@router.get("/nodes", response_model=list[NodeEntry])
def nodes(request: Request, person: Viewer) -> JSONResponse:
    """List all nodes by id, with who drained them and why, and the runs and filters that go to each."""
    with site_of(request).read() as session:
        return answer(list_nodes(session, placed=True))

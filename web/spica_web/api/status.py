"""How the survey stands, as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from spica.db.overview import count_states, list_nodes
from spica_web.api.answer import answer
from spica_web.deps import Visitor, site_of
from spica_web.public import is_guest

router = APIRouter(prefix="/api", tags=["status"])


@dataclass(frozen=True)
class Status:
    """As `spica status --json`: images by kind and state, jobs by state, the nodes that are alive.

    Visitors without a name are not told the folder and the nodes.
    """

    survey: str
    workspace: str | None
    nodes_alive: list[str]
    exposure: dict[str, int]
    stack: dict[str, int]
    calibrated: dict[str, int]
    job: dict[str, int]


@router.get("/status", response_model=Status)
def status(request: Request, person: Visitor) -> JSONResponse:
    """Return how the survey stands."""
    site = site_of(request)
    with site.read() as session:
        counts = count_states(session)
        alive = [n.name for n in list_nodes(session) if n.alive]
    if is_guest(person):
        return answer(Status(site.workspace.survey, None, [], **counts))
    return answer(Status(site.workspace.survey, str(site.workspace.folder), alive, **counts))

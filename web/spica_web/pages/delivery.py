"""Deliveries: checked again on demand, and accepted by the archive."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from spica.db.delivery import accept_delivery
from spica.db.person import audit
from spica.scheduling.delivered import find_delivered
from spica_web.checks import DeliveryChecks
from spica_web.deps import Operator, site_of

router = APIRouter()


def checks_of(request: Request) -> DeliveryChecks:
    """Return the checks of this server, begun at the first need."""
    checks: DeliveryChecks | None = getattr(request.app.state, "checks", None)
    if checks is None:
        checks = request.app.state.checks = DeliveryChecks(site_of(request).database)
    return checks


@router.post("/deliveries/{delivery_id}/check")
def check_again(request: Request, person: Operator, delivery_id: int) -> Response:
    """Read every file of a delivery beside the pages; the page of the stack shows the end."""
    site, checks = site_of(request), checks_of(request)
    with site.database.begin() as session:
        folder = find_delivered(session, site.workspace, delivery_id)
        audit(session, person.id, "check", f"delivery:{delivery_id}", folder.path.name)
    checks.begin(folder, person.id)
    return RedirectResponse(f"/stacks/{folder.image_id}#delivery", status_code=303)


@router.post("/deliveries/{delivery_id}/accept")
def accept(request: Request, person: Operator, delivery_id: int) -> Response:
    """Say that the archive took a delivery."""
    with site_of(request).database.begin() as session:
        row = accept_delivery(session, delivery_id)
        audit(session, person.id, "accept", f"delivery:{delivery_id}", row.folder)
        image_id = row.image_id
    return RedirectResponse(f"/stacks/{image_id}#delivery", status_code=303)

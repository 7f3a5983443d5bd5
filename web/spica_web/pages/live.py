"""What keeps open pages fresh."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from spica_web.deps import Viewer, site_of
from spica_web.events import stream_events

router = APIRouter()


@router.get("/events")
async def events(request: Request, person: Viewer) -> StreamingResponse:
    """Stream the ids of what changes: `job:17`, `image:3`, `node:1`; `resync` where some may have been missed."""
    stream = stream_events(site_of(request).hub)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

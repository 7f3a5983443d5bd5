"""How the API answers: the rows of `spica.model.overview`, spelled as the command line spells them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse

from spica.model.record import to_json

MAX_ROWS = 1000
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="rows at most")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="rows to leave out first")]


def answer(value: Any, total: int | None = None) -> JSONResponse:
    """Return a value as JSON; of a list, `X-Total-Count` says how many rows there are without the limit."""
    headers = {} if total is None else {"X-Total-Count": str(total)}
    return JSONResponse(to_json(value), headers=headers)

"""How the API answers: the rows of `spica.model.overview`, spelled as the command line spells them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse

from spica.db.person import Person
from spica.files.workspace import Workspace
from spica.model.record import to_json
from spica_web.public import is_guest, without_places

MAX_ROWS = 1000
Limit = Annotated[int, Query(ge=1, le=MAX_ROWS, description="rows at most")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="rows to leave out first")]


def answer(value: Any, total: int | None = None) -> JSONResponse:
    """Return a value as JSON; of a list, `X-Total-Count` says how many rows there are without the limit."""
    headers = {} if total is None else {"X-Total-Count": str(total)}
    return JSONResponse(to_json(value), headers=headers)


def answer_to(person: Person, workspace: Workspace, value: Any, total: int | None = None) -> JSONResponse:
    """Return a value as JSON, for visitors without a name with no folder of any node in its words."""
    if not is_guest(person):
        return answer(value, total)
    words = without_places(workspace, json.dumps(to_json(value), ensure_ascii=False))
    return answer(json.loads(words), total)

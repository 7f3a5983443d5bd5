"""What the preparation of a step hands to its end: what it has said already, by a file below `work/`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spica.files.checksum import write_atomic
from spica.model.job import ItemOutcome, ProductRef, Request
from spica.model.product import Role
from spica.model.record import canonical, from_json
from spica.steps.base import StepContext, recipe_of

CARRIED = "prepared.json"


@dataclass(frozen=True)
class Plane:
    """One image given to a tool: its number in the file names, the item and the detector it is of."""

    number: str
    item: str
    detector: int
    member: int = 0
    flux_scale: float = 1.0
    gain_e_per_adu: float | None = None
    saturation_adu: float | None = None


@dataclass(frozen=True)
class Carried:
    """Products, outcomes and records of the preparation, and the images in the order they were given."""

    products: tuple[ProductRef, ...]
    outcomes: tuple[ItemOutcome, ...]
    records: tuple[dict[str, Any], ...]
    planes: tuple[Plane, ...]


def hand_over(context: StepContext, planes: tuple[Plane, ...]) -> None:
    """Write what the end of the step must know."""
    carried = Carried(tuple(context.products), tuple(context.outcomes), tuple(context.records), planes)
    write_atomic(context.work(CARRIED), canonical(carried).encode())


def take_over(context: StepContext) -> tuple[Plane, ...]:
    """Put what the preparation said into the context, in place of what is there; return the images given."""
    path = context.work(CARRIED)
    carried = from_json(Carried, json.loads(path.read_text(encoding="utf-8")), path.name)
    context.products[:] = carried.products
    context.outcomes[:] = carried.outcomes
    context.records[:] = carried.records
    return carried.planes


def time_limit_s(request: Request) -> int:
    """Return the seconds a tool may take: nine tenths of the job's, so that the end of the step still judges it."""
    return max(1, recipe_of(request).resources.time_limit_s * 9 // 10)


def add_report(context: StepContext, path: Path, name: str, item: str | None = None) -> None:
    """Announce a tool's XML report as a product, copied to the attempt folder under a name."""
    target = context.folder / name
    write_atomic(target, path.read_bytes())
    context.add_product(Role.TOOL_XML, target, item=item)


def delete_images(folder: Path, *patterns: str) -> None:
    """Delete the large temporary images of a step that succeeded."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()

"""What every step has: its seat, its context, and the outcome of every item.

A step reads `request.json` and `inputs.json`, writes only below its attempt folder, and last of all `result.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from spica.files.checksum import sha256_file
from spica.model.errors import DataError, RecipeError
from spica.model.job import (
    Inputs,
    ItemOutcome,
    Outcome,
    ProductRef,
    Reason,
    Request,
    ResolvedInput,
)
from spica.model.recipe import Recipe, build_recipe, section_names
from spica.model.record import to_json

STEP_GROUP = "spica.steps"
ENGINE_GROUP = "spica.engines"
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".xml": "application/xml",
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".txt": "text/plain",
    ".head": "text/plain",
    ".fits": "application/fits",
    ".fz": "application/fits",
    ".ldac": "application/fits",
}


@dataclass
class StepContext:
    """One attempt as a step sees it; collects products, outcomes, records and measures."""

    folder: Path
    request: Request
    inputs: Inputs
    recipe: Recipe
    products: list[ProductRef] = field(default_factory=list)
    outcomes: list[ItemOutcome] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)

    def of_role(self, role: str, item: str | None = None) -> list[ResolvedInput]:
        """Return the inputs of a role (and item) in the order of the request."""
        return [i for i in self.inputs.inputs if i.role == role and item in (None, i.item)]

    def path_of(self, role: str, item: str | None = None) -> Path:
        """Return the path of the only input of a role (and item)."""
        found = self.of_role(role, item)
        if len(found) != 1:
            what = f"{role} of {item}" if item else role
            raise DataError(f"{len(found)} inputs {what} where one is needed; look at inputs.json of this attempt")
        return Path(found[0].path)

    def items(self, role: str) -> list[str]:
        """Return the items that have an input of this role, in the order of the request."""
        return list(dict.fromkeys(i.item for i in self.inputs.inputs if i.role == role and i.item))

    def subject(self) -> str:
        """Return the item that this job makes or judges."""
        if self.request.subject is None:
            raise DataError("the request names no subject; plan the job again")
        return self.request.subject

    def work(self, name: str) -> Path:
        """Return a path for a file that is no product, below `work/`."""
        folder = self.folder / "work"
        folder.mkdir(exist_ok=True)
        return folder / name

    def add_product(
        self, role: str, path: Path, *, item: str | None = None, detector: int | None = None, small: bool | None = None
    ) -> None:
        """Announce a whole file below the attempt folder; pictures and JSON are small unless told otherwise."""
        media = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
        if small is None:
            small = media.startswith(("image/", "text/")) or media in ("application/json", "application/pdf")
        self.products.append(
            ProductRef(
                role=role,
                path=path.relative_to(self.folder).as_posix(),
                sha256=sha256_file(path),
                size=path.stat().st_size,
                name=path.name,
                item=item,
                detector=detector,
                small=small,
                media_type=media,
            )
        )

    def used(self, item: str, warning: Reason | None = None) -> None:
        """Say that an item was used, with a warning where there is one."""
        outcome = Outcome.USED if warning is None else Outcome.USED_WITH_WARNING
        self.outcomes.append(ItemOutcome(item, outcome, reason=warning))

    def left_out(self, item: str, reason: Reason, detector: int | None = None) -> None:
        """Say that an item, or one detector of it, was left out, and why."""
        self.outcomes.append(ItemOutcome(item, Outcome.LEFT_OUT, detector, reason))

    def ignored(self, item: str, reason: Reason) -> None:
        """Say that an item holds nothing for this step."""
        self.outcomes.append(ItemOutcome(item, Outcome.IGNORED, reason=reason))

    def record(self, record: object) -> None:
        """Add one record for the harvest."""
        self.records.append(to_json(record))

    def progress(self, done: int, total: int, words: str = "") -> None:
        """Tell those who wait how far this is."""
        sys.stdout.write(f"progress {done}/{total} {words}\n")
        sys.stdout.flush()

    def check_floor(self) -> None:
        """Raise where fewer items were used than the recipe demands."""
        whole = {o.item: o for o in self.outcomes if o.detector is None}
        used = sum(o.outcome in (Outcome.USED, Outcome.USED_WITH_WARNING) for o in whole.values())
        total = len(whole)
        if used < self.request.min_inputs or used < self.request.min_fraction * total:
            causes = sorted({o.reason.text for o in whole.values() if o.reason and o.outcome is Outcome.LEFT_OUT})
            why = ": " + "; ".join(causes[:3]) if causes else ""
            raise DataError(f"{used} of {total} inputs could be used, {self.request.min_inputs} are needed{why}")


@dataclass(frozen=True)
class Needs:
    """What an engine asks of its inputs: whole MEF files or one file a detector, and columns of the catalogue."""

    layout: str = "mef"
    catalogue_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of one engine.

    `run` does all of it. A step around outside tools has `prepare` (writes their inputs), `tool_lines` (the lines of
    the script that run them, below `work/`), and `finish` (judges what they made).
    """

    kind: str
    run: Callable[[StepContext], None] | None = None
    prepare: Callable[[StepContext], None] | None = None
    finish: Callable[[StepContext], None] | None = None
    tool_lines: Callable[[Request], tuple[str, ...]] | None = None
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Engine:
    """Another way to do some steps; those it does not name are done natively."""

    name: str
    steps: tuple[Step, ...]

    def step(self, kind: str) -> Step | None:
        """Return this engine's step of a kind, or None."""
        return next((s for s in self.steps if s.kind == kind), None)


def find_step(kind: str, engine: str) -> Step:
    """Return the step of a kind by an engine; an engine without it leaves it to the native one.

    Raises
    ------
    RecipeError
        Where the engine or the kind is unknown.
    """
    if engine != "native":
        found = _load(ENGINE_GROUP, engine, "engine")
        step = found.step(kind)
        if step is not None:
            return step
    return _load(STEP_GROUP, kind, "step")


def _load(group: str, name: str, noun: str) -> Any:
    points = entry_points(group=group)
    if name not in points.names:
        known: Iterable[str] = sorted(points.names)
        raise RecipeError(f"no {noun} is called {name!r}; known: {' '.join(known)}", word=name)
    return points[name].load()


def recipe_of(request: Request) -> Recipe:
    """Return the frozen recipe of a request."""
    known = {k: v for k, v in request.recipe.items() if k in section_names()}
    return build_recipe(str(request.recipe.get("name", "frozen")), known)

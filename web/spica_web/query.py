"""The address bar is the state: what a list of images is narrowed to, its order and its page."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement

from spica.db.cone import compile_near
from spica.db.pages.listing import Place
from spica.db.selection import COLUMNS
from spica.db.snapshot import (
    DAY_ZERO,
    GRADES,
    KINDS,
    SOURCES,
    STATES,
    ImageColumns,
    Snapshot,
    judge_rows,
    row_place,
)
from spica.db.tables.image import ImageRow, MeasureRow
from spica.model.errors import RecipeError
from spica.model.grade import Grade, GradeSource
from spica.model.image import ImageKind, ImageState, normalise_object
from spica.model.selection import Lists, RuleError, parse_rule
from spica.model.selection.evaluate import NO_LISTS

Condition = ColumnElement[bool]
E = TypeVar("E", bound=enum.Enum)
PAGE_SIZE = 50
MAX_PAGE = 100_000
UNGRADED = "none"
SORTS: dict[str, Any] = {
    **{name: COLUMNS[name] for name in COLUMNS if name not in ("date", "kind")},
    "id": ImageRow.id,
    "object": ImageRow.object,
}


@dataclass(frozen=True)
class RuleFault:
    """What is wrong in the text of a rule: the text before the word, the word, and after it; why, and what to write."""

    before: str
    word: str
    after: str
    message: str
    suggestion: str


@dataclass(frozen=True)
class ImageQuery:
    """What a list of exposures shows. Empty words do not narrow it."""

    rule: str = ""
    object: str = ""
    filter: str = ""
    night: str = ""
    state: str = ""
    grade: str = ""
    sort: str = ""
    page: int = 1

    @property
    def active(self) -> bool:
        """Whether anything narrows the list."""
        return any((self.rule, self.object, self.filter, self.night, self.state, self.grade))

    def link(self, **changes: Any) -> str:
        """Return the query string after some changes; a change of anything but the page goes back to page 1."""
        if changes and "page" not in changes:
            changes["page"] = 1
        values = dataclasses.asdict(dataclasses.replace(self, **changes))
        kept = {k: v for k, v in values.items() if v not in ("", None) and not (k == "page" and v == 1)}
        return f"?{urlencode(kept)}" if kept else ""

    def sorted_by(self, column: str) -> str:
        """Return the query string of a click on a heading: ascending, then descending, then none."""
        turn = {column: f"-{column}", f"-{column}": ""}
        return self.link(sort=turn.get(self.sort, column)) or "?"

    def direction(self, column: str) -> str:
        """Return `ascending`, `descending` or nothing for a heading."""
        return {column: "ascending", f"-{column}": "descending"}.get(self.sort, "")

    def mask(
        self, snapshot: Snapshot, aliases: dict[str, str] | None = None, *, lists: Lists = NO_LISTS
    ) -> NDArray[np.bool_]:
        """Return which images of a snapshot the list shows: exposures that meet all that narrows it.

        Raises
        ------
        RuleError
            The rule cannot be read.
        RecipeError
            The rule asks for a list that is not in `lists`.
        """
        images = snapshot.images
        found: NDArray[np.bool_] = images.kind == KINDS.index(ImageKind.EXPOSURE)
        if self.rule:
            found &= judge_rows(snapshot, parse_rule(self.rule), lists=lists) == 1
        if self.object:
            found &= images.object == images.code("object", normalise_object(self.object, aliases))
        if self.filter:
            found &= images.filter == images.code("filter", self.filter)
        night = _day(self.night)
        if night is not None:
            found &= images.night == (night - DAY_ZERO).days
        state = choice(ImageState, self.state)
        if state is not None:
            found &= images.state == STATES.index(state)
        self._narrow_grade(images, found)
        return found

    def _narrow_grade(self, images: ImageColumns, found: NDArray[np.bool_]) -> None:
        source, grade = choice(GradeSource, self.grade), choice(Grade, self.grade)
        if self.grade == UNGRADED:
            found &= images.grade == 0
        elif source is not None:
            found &= images.grade_source == SOURCES.index(source) + 1
        elif grade is not None:
            found &= images.grade == GRADES.index(grade) + 1

    def rows(self, snapshot: Snapshot, aliases: dict[str, str] | None = None) -> NDArray[np.int64]:
        """Return the rows of a snapshot that the list shows, by ascending id; see `mask`."""
        found: NDArray[np.int64] = np.flatnonzero(self.mask(snapshot, aliases))
        return found

    def conditions(self, aliases: dict[str, str] | None = None) -> list[Condition]:
        """Return the conditions; RuleError where the rule cannot be read."""
        found: list[Condition] = [compile_near(parse_rule(self.rule))] if self.rule else []
        if self.object:
            found.append(ImageRow.object_key == normalise_object(self.object, aliases))
        if self.filter:
            found.append(ImageRow.filter == self.filter)
        night = _day(self.night)
        if night is not None:
            found.append(ImageRow.night == night)
        state = choice(ImageState, self.state)
        if state is not None:
            found.append(ImageRow.state == state)
        return found + self._grade_conditions()

    def _grade_conditions(self) -> list[Condition]:
        if self.grade == UNGRADED:
            return [MeasureRow.grade.is_(None)]
        source, grade = choice(GradeSource, self.grade), choice(Grade, self.grade)
        if source is not None:
            return [MeasureRow.grade_source == source]
        return [] if grade is None else [MeasureRow.grade == grade]

    def order(self) -> list[Any]:
        """Return the order, unknown values last whichever way it goes."""
        name, down = self.sort.removeprefix("-"), self.sort.startswith("-")
        if name not in SORTS:
            return []
        column = SORTS[name]
        return [column.desc().nulls_last() if down else column.asc().nulls_last()]


def place_in(
    snapshot: Snapshot, query: ImageQuery, image_id: int, aliases: dict[str, str] | None = None
) -> Place | None:
    """Return the neighbours of an image in a list, its position and the length of the list; None: not in it.

    Raises
    ------
    RuleError
        The rule cannot be read.
    """
    images = snapshot.images
    (row,) = images.row_of([image_id]).tolist()
    place = None if row < 0 else row_place(snapshot, query.rows(snapshot, aliases), query.sort, row)
    if place is None:
        return None
    before = None if place.previous is None else int(images.id[place.previous])
    after = None if place.next is None else int(images.id[place.next])
    return Place(before, after, place.position, place.total)


def read_query(words: Mapping[str, str]) -> ImageQuery:
    """Return the query of an address; words that mean nothing are dropped."""
    page = words.get("page", "1")
    number = int(page) if page.isascii() and page.isdigit() and len(page) < 7 else 1
    texts = {
        f.name: words.get(f.name, "").strip()[:10_000].replace("\0", "")
        for f in dataclasses.fields(ImageQuery)
        if f.name != "page"
    }
    return ImageQuery(**texts, page=min(max(1, number), MAX_PAGE))


def fault_of(rule: str, trouble: RecipeError) -> RuleFault:
    """Return where a rule is wrong, for the mark under the word."""
    column = trouble.column if isinstance(trouble, RuleError) else 1
    word = trouble.word if isinstance(trouble, RuleError) else rule
    suggestion = (trouble.suggestion if isinstance(trouble, RuleError) else None) or ""
    start = min(max(column - 1, 0), len(rule))
    length = len(word) if rule[start : start + len(word)] == word and word else 1
    message = str(trouble).partition(": ")[2] or str(trouble)
    return RuleFault(rule[:start], rule[start : start + length], rule[start + length :], message, suggestion)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def choice(kind: type[E], word: str) -> E | None:
    """Return the member that a word of an address names, None where it names none."""
    return kind(word) if word in {m.value for m in kind} else None


@dataclass(frozen=True)
class Paging:
    """Where a list stands: page from 1, rows from and to, of how many."""

    page: int
    size: int
    total: int

    @property
    def first(self) -> int:
        """Number of the first row shown, from 1."""
        return min((self.page - 1) * self.size + 1, self.total)

    @property
    def last(self) -> int:
        """Number of the last row shown."""
        return min(self.page * self.size, self.total)

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(1, -(-self.total // self.size))


def read_page(words: Mapping[str, str]) -> int:
    """Return the page number of an address, 1 where it is none."""
    text = words.get("page", "1")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else 1

"""What visitors without a name may see of a survey that is public: no people, no logs, no places of files."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime

from spica.db.pages.image import GradeEntry
from spica.db.person import Person
from spica.files.workspace import Workspace
from spica.model.overview import ImageEntry, StackEntry
from spica.model.person import PersonRole

GUEST = Person(0, "visitor", PersonRole.VIEWER, False, datetime(1970, 1, 1, tzinfo=UTC), None)
"""A visitor without a name; no row of the database has this id."""
PICTURES = frozenset({"image/png", "image/jpeg"})
"""Files that visitors may see: the pictures of pages."""
SOMEBODY = "a person"


def is_guest(person: Person) -> bool:
    """Whether this is a visitor without a name."""
    return person.id == GUEST.id


def shown_image(person: Person, row: ImageEntry) -> ImageEntry:
    """Return an image as a person may see it: for visitors without where its file lies."""
    return dataclasses.replace(row, path=None) if is_guest(person) else row


def shown_stack(person: Person, row: StackEntry) -> StackEntry:
    """Return a stack as a person may see it: for visitors without where its files lie."""
    if not is_guest(person):
        return row
    return dataclasses.replace(row, path=None, weight_path=None, catalogue_path=None, delivered_path=None)


def shown_grades(person: Person, grades: list[GradeEntry]) -> list[GradeEntry]:
    """Return the history of grades as a person may see it: for visitors without names."""
    if not is_guest(person):
        return grades
    return [dataclasses.replace(g, person=None if g.person is None else SOMEBODY) for g in grades]


def without_places(workspace: Workspace, text: str) -> str:
    """Return a page or answer in which no folder of any node is told, wherever a message may have named one."""
    roots = [workspace.roots]
    roots += [workspace.peer_roots(file.stem) or {} for file in (workspace.folder / "nodes").glob("*.json")]
    folders = {str(folder) for table in roots for folder in table.values()} | {str(workspace.folder)}
    words = "|".join(re.escape(f) for f in sorted(folders, key=len, reverse=True) if f != "/")
    return re.sub(rf"(?<![\w/.])(?:{words})(?!\w)(?:/[^\s<>\"';,]*)?", "…", text)

"""Tags: free words on images, with a colour that people choose for each."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Select, Text, bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from spica.db.engine import notify
from spica.db.grade import RESYNC
from spica.db.tables.image import ImageRow, TagRow, TagStyleRow
from spica.model.errors import UsageError

COLOURS = ("grey", "blue", "teal", "green", "amber", "orange", "red", "violet")
"""Names of the tokens that the pages colour tags with; the first is that of a tag without a choice."""
MAX_WORD = 40
TOLD_ONE_BY_ONE = 200
"""Images of one act that are named one by one to those who wait; of more, all are told to look again."""


@dataclass(frozen=True)
class TagEntry:
    """A tag with its colour, and on how many images it is (0 where that was not counted)."""

    name: str
    colour: str
    count: int = 0


def check_word(name: str) -> str:
    """Return a tag without blanks around it.

    Raises
    ------
    UsageError
        It has no character, more than 40, one that cannot be printed, or a quote or backslash, which rules cannot say.
    """
    word = " ".join(name.split(" ")).strip()
    if not 1 <= len(word) <= MAX_WORD:
        raise UsageError(f"a tag has 1 to {MAX_WORD} characters; write a short word")
    if not word.isprintable() or any(c in word for c in '"\\'):
        raise UsageError("a tag has no quotes, backslashes or control characters; write a plain word")
    return word


def tag_images(session: Session, image_ids: Sequence[int], name: str, person_id: int | None = None) -> int:
    """Put a tag on images; return on how many it was not before.

    Raises
    ------
    UsageError
        The word will not do.
    """
    word = check_word(name)
    made = 0
    for part in _parts(sorted(set(image_ids))):
        rows = select(ImageRow.id).where(ImageRow.id.in_(part)).subquery()
        given = select(rows.c.id, literal(word, Text()), literal(person_id, BigInteger()))
        statement = upsert(TagRow).from_select(["image_id", "name", "person_id"], given).on_conflict_do_nothing()
        ids = list(session.scalars(statement.returning(TagRow.image_id)))
        made += len(ids)
        _tell(session, ids)
    return made


def untag_images(session: Session, image_ids: Sequence[int], name: str) -> int:
    """Take a tag off images; return from how many."""
    gone = 0
    for part in _parts(sorted(set(image_ids))):
        statement = delete(TagRow).where(TagRow.image_id.in_(part), TagRow.name == name).returning(TagRow.image_id)
        ids = list(session.scalars(statement))
        gone += len(ids)
        _tell(session, ids)
    return gone


def _parts(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[i : i + 10_000] for i in range(0, len(ids), 10_000)]


def _tell(session: Session, ids: Sequence[int]) -> None:
    if len(ids) > TOLD_ONE_BY_ONE:
        notify(session, RESYNC)
        return
    for image_id in ids:
        notify(session, f"image:{image_id}")


def set_colour(session: Session, name: str, colour: str) -> None:
    """Choose the colour of a tag.

    Raises
    ------
    UsageError
        The colour is none of `COLOURS`, or no image bears the tag.
    """
    if colour not in COLOURS:
        raise UsageError(f"no tag colour is called {colour!r}; choose one of: {' '.join(COLOURS)}")
    if session.scalar(select(TagRow.name).where(TagRow.name == name).limit(1)) is None:
        raise UsageError(f"no image bears the tag {name!r}; see the list of tags")
    statement = upsert(TagStyleRow).values(name=name, colour=colour)
    session.execute(statement.on_conflict_do_update(index_elements=[TagStyleRow.name], set_={"colour": colour}))


@functools.cache
def _tags_said() -> Select[str, str]:
    return (
        select(TagRow.name, TagStyleRow.colour)
        .outerjoin(TagStyleRow, TagStyleRow.name == TagRow.name)
        .where(TagRow.image_id == bindparam("image"))
        .order_by(TagRow.name)
    )


def tags_of(session: Session, image_id: int) -> list[TagEntry]:
    """Return the tags of an image by word: one statement."""
    rows = session.execute(_tags_said(), {"image": image_id})
    return [TagEntry(name, colour or COLOURS[0]) for name, colour in rows]


def list_tags(session: Session, limit: int = 500) -> list[TagEntry]:
    """Return all tags with the number of images that bear them, commonest first: one statement over the index."""
    count = func.count(TagRow.image_id)
    query = (
        select(TagRow.name, TagStyleRow.colour, count)
        .outerjoin(TagStyleRow, TagStyleRow.name == TagRow.name)
        .group_by(TagRow.name, TagStyleRow.colour)
        .order_by(count.desc(), TagRow.name)
        .limit(limit)
    )
    return [TagEntry(name, colour or COLOURS[0], n) for name, colour, n in session.execute(query)]


def known_tags(session: Session, limit: int = 200) -> list[TagEntry]:
    """Return words to offer, those that have a colour first; read from the small table of styles alone."""
    query = select(TagStyleRow.name, TagStyleRow.colour).order_by(TagStyleRow.name).limit(limit)
    return [TagEntry(name, colour) for name, colour in session.execute(query)]

"""Claims: who has which image of a queue before the eyes, so that two graders never get the same one."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, ColumnElement, any_, delete, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from spica.db.engine import CHANNEL
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import GradeClaimRow

Condition = ColumnElement[bool]
LEASE_S = 300.0
PAGES = (64, 512, 2048)
"""Candidates judged in one statement: few first, since most are free; then more, and more again to the end."""
MAX_CANDIDATES = 20_000
LOCK = 0x5350_4943_4101
"""Key of the advisory lock under which claims are made: they come one after the other, each in milliseconds."""


def claim_images(
    session: Session,
    person_id: int,
    candidate_ids: Sequence[int],
    n: int,
    *,
    where: Sequence[Condition] = (),
    lease_s: float = LEASE_S,
) -> list[int]:
    """Claim up to `n` candidates in their order that nobody else holds and that meet the conditions now.

    Parameters
    ----------
    candidate_ids : image ids, first come first; those after the first 20,000 are not looked at.
    where : conditions over `image` LEFT JOIN `measure`, judged at this moment (`belongs` and `QueueBounds.conditions`).
    lease_s : how long the claims last unless they are renewed, s, by the clock of the database.

    Returns
    -------
    list[int] : claimed ids in the order of the candidates; shorter than `n` where no more are free.
    """
    found: list[int] = []
    ids = list(dict.fromkeys(candidate_ids[:MAX_CANDIDATES]))
    if n <= 0 or not ids:
        return found
    session.execute(select(func.pg_advisory_xact_lock(LOCK)))
    start = turn = 0
    while start < len(ids) and len(found) < n:
        size = PAGES[min(turn, len(PAGES) - 1)]
        found += _claim_page(session, person_id, ids[start : start + size], n - len(found), where, lease_s)
        start, turn = start + size, turn + 1
    _tell(session, found)
    return found


def _claim_page(
    session: Session, person_id: int, ids: list[int], n: int, where: Sequence[Condition], lease_s: float
) -> list[int]:
    asked = func.unnest(literal(ids, ARRAY(BigInteger))).table_valued("id", with_ordinality="place")
    listed = asked.render_derived(name="asked")
    now = func.clock_timestamp()
    free = or_(GradeClaimRow.image_id.is_(None), GradeClaimRow.until < now, GradeClaimRow.person_id == person_id)
    chosen = (
        select(listed.c.id, listed.c.place)
        .join(ImageRow, ImageRow.id == listed.c.id)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .outerjoin(GradeClaimRow, GradeClaimRow.image_id == ImageRow.id)
        .where(free, *where)
        .order_by(listed.c.place)
        .limit(n)
        .cte("chosen")
    )
    until = now + func.make_interval(0, 0, 0, 0, 0, 0, lease_s)
    rows = select(chosen.c.id, literal(person_id, BigInteger), until).order_by(chosen.c.id)
    making = insert(GradeClaimRow).from_select(["image_id", "person_id", "until"], rows)
    held = making.on_conflict_do_update(
        index_elements=["image_id"],
        set_={"person_id": making.excluded.person_id, "until": making.excluded.until},
        where=or_(GradeClaimRow.until < now, GradeClaimRow.person_id == making.excluded.person_id),
    ).returning(GradeClaimRow.image_id)
    got = set(session.scalars(held))
    return [i for i in ids if i in got]


def renew_claims(session: Session, person_id: int, image_ids: Sequence[int], lease_s: float = LEASE_S) -> list[int]:
    """Hold a person's claims for longer; return the ids of those that are still that person's, in their order.

    A claim that ran out and that nobody else has taken is renewed too.
    """
    if not image_ids:
        return []
    of = GradeClaimRow.image_id == any_(literal(list(image_ids), ARRAY(BigInteger)))
    until = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, lease_s)
    held = update(GradeClaimRow).where(of, GradeClaimRow.person_id == person_id).values(until=until)
    kept = set(session.scalars(held.returning(GradeClaimRow.image_id)))
    return [i for i in image_ids if i in kept]


def release_claims(session: Session, person_id: int, image_ids: Sequence[int] | None = None) -> int:
    """Give up claims of a person, all of them where no ids are named; return how many there were."""
    gone = delete(GradeClaimRow).where(GradeClaimRow.person_id == person_id)
    if image_ids is not None:
        gone = gone.where(GradeClaimRow.image_id == any_(literal(list(image_ids), ARRAY(BigInteger))))
    ids = list(session.scalars(gone.returning(GradeClaimRow.image_id)))
    _tell(session, ids)
    return len(ids)


def end_claim(session: Session, image_id: int) -> None:
    """End the claim of an image, whoever has it: it is graded."""
    gone = delete(GradeClaimRow).where(GradeClaimRow.image_id == image_id)
    _tell(session, list(session.scalars(gone.returning(GradeClaimRow.image_id))))


def claimed_by(session: Session, image_id: int) -> int | None:
    """Return the id of the person who holds an image now, None where nobody does."""
    query = select(GradeClaimRow.person_id).where(
        GradeClaimRow.image_id == image_id, GradeClaimRow.until >= func.clock_timestamp()
    )
    return session.scalar(query)


def _tell(session: Session, image_ids: Sequence[int]) -> None:
    """Notify of changed claims, `claim:ID` each: one statement."""
    if image_ids:
        said = text("SELECT pg_notify(:channel, 'claim:' || i) FROM unnest(CAST(:ids AS bigint[])) AS i")
        session.execute(said, {"channel": CHANNEL, "ids": list(image_ids)})

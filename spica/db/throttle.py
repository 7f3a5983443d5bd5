"""The brake on guessing passwords: failed tries by name and by address, kept where all web processes see them.

A try is counted before its password is looked at and taken back where it fits, so that tries at the same moment, by
several processes too, cannot go past the count. Time is the database's. Names and addresses are kept as SHA-256: a
password typed into the wrong box is not kept.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from spica.db.tables.person import LoginTryRow

FREE_BY_NAME = 4
"""Failures of one name that are not waited for."""
FREE_BY_ADDRESS = 12
"""Failures from one address that are not waited for: several people may share one."""
FIRST_S = 5.0
LONGEST_S = 900.0
FORGET_S = 3600.0
"""After so long without a try the count begins anew."""


def delay_s(failed: int, free: int) -> float:
    """Return how long to wait after so many failures: not at first, then 5 s, and twice as long each time up to 900."""
    over = failed - free
    return 0.0 if over <= 0 else min(LONGEST_S, FIRST_S * 2.0 ** min(over - 1, 30))


def begin_try(session: Session, name: str, address: str) -> int:
    """Count a try of a name from an address; 0 where the password may be looked at, else the seconds to wait.

    A try that must wait is not counted. The transaction must be committed before the password is looked at.
    """
    free = _keys(name, address)
    ordered = sorted(free)
    rows = [{"key_sha256": key, "n_failed": 0} for key in ordered]
    session.execute(insert(LoginTryRow).values(rows).on_conflict_do_nothing())
    now = func.clock_timestamp()
    found = session.execute(
        select(
            LoginTryRow.key_sha256,
            LoginTryRow.n_failed,
            func.extract("epoch", LoginTryRow.open_at - now).label("wait_s"),
            func.extract("epoch", now - LoginTryRow.tried_at).label("quiet_s"),
        )
        .where(LoginTryRow.key_sha256.in_(ordered))
        .order_by(LoginTryRow.key_sha256)
        .with_for_update()
    ).all()
    wait_s = max(float(row.wait_s) for row in found)
    if wait_s > 0:
        return math.ceil(wait_s)
    for row in found:
        failed = (0 if float(row.quiet_s) > FORGET_S else row.n_failed) + 1
        opens = func.clock_timestamp() + timedelta(seconds=delay_s(failed, free[row.key_sha256]))
        session.execute(
            update(LoginTryRow)
            .where(LoginTryRow.key_sha256 == row.key_sha256)
            .values(n_failed=failed, tried_at=func.clock_timestamp(), open_at=opens)
        )
    return 0


def end_try(session: Session, name: str, address: str) -> None:
    """Take back the last try, which was good: the name begins anew, the address is one failure better.

    So nobody frees an address for guessing others' passwords by entering with an own one in between.
    """
    by_name, by_address = _key("name", name), _key("from", network_of(address))
    session.execute(delete(LoginTryRow).where(LoginTryRow.key_sha256 == by_name))
    session.execute(
        update(LoginTryRow)
        .where(LoginTryRow.key_sha256 == by_address)
        .values(n_failed=func.greatest(LoginTryRow.n_failed - 1, 0), open_at=func.clock_timestamp())
    )


def forget_old_tries(session: Session) -> int:
    """Remove what counts no more; return how many."""
    over = func.clock_timestamp() - timedelta(seconds=FORGET_S + LONGEST_S)
    gone = delete(LoginTryRow).where(LoginTryRow.tried_at < over).returning(LoginTryRow.key_sha256)
    return len(session.execute(gone).all())


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv6 host has its /64 to itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Address(int(found) >> 64 << 64))
    return str(found)


def _keys(name: str, address: str) -> dict[str, int]:
    return {_key("name", name): FREE_BY_NAME, _key("from", network_of(address)): FREE_BY_ADDRESS}


def _key(kind: str, word: str) -> str:
    return hashlib.sha256(f"{kind}:{word}".encode()).hexdigest()

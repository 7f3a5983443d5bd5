"""Passwords: argon2id with the parameters of RFC 9106's second choice; hashes of scrypt that are older still fit.

A hash says how it was made, so that the parameters may be raised later: whoever enters with a hash that is behind gets
a new one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from spica.model.errors import UsageError

MIN_PASSWORD = 8
MAX_PASSWORD = 1024
HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
"""Argon2id, 3 passes over 64 MiB in 4 lanes, 16 bytes of salt, 32 of hash: RFC 9106, section 4, second option."""
ARGON2 = "argon2id"
SCRYPT = "scrypt"
NOBODY = {
    ARGON2: "$argon2id$v=19$m=65536,t=3,p=4$c3BpY2Egbm8gb25lIGF0IA$" + base64.b64encode(bytes(32)).decode().rstrip("="),
    SCRYPT: "scrypt$32768$8$3$c3BpY2Egbm8gb25lIGF0IGFsbA==$" + base64.b64encode(bytes(32)).decode(),
}
"""Hashes that no password is known to fit: checked in the place of a person's where there is none."""
_SCRYPT_LIMIT = 256 * 1024 * 1024


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password; UsageError where it is too short or absurdly long."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise UsageError(f"a password needs {MIN_PASSWORD} to {MAX_PASSWORD} characters; choose another")
    return HASHER.hash(password)


def kind_of(hashed: str) -> str:
    """Return by what a hash was made: `argon2id`, `scrypt`, else nothing."""
    if hashed.startswith(f"${ARGON2}$"):
        return ARGON2
    return SCRYPT if hashed.startswith(f"{SCRYPT}$") else ""


def verify_password(password: str, hashed: str) -> bool:
    """Whether a password gives this hash; False also where the hash is none of ours."""
    kind = kind_of(hashed)
    if not kind or len(password) > MAX_PASSWORD:
        return False
    return _fits_scrypt(password, hashed) if kind == SCRYPT else _fits_argon2(password, hashed)


def verify_one_of(password: str, hashed: str | None, kinds: Iterable[str]) -> bool:
    """Whether a password gives a hash, at the cost of one check of each kind whoever is asked for.

    `hashed` None: there is no such person, or no password; it then takes as long, and is False.
    """
    own = "" if hashed is None else kind_of(hashed)
    fits = [verify_password(password, hashed if kind == own and hashed else NOBODY[kind]) for kind in sorted(kinds)]
    return bool(own) and any(fits)


def is_behind(hashed: str) -> bool:
    """Whether a hash was made otherwise than new ones are."""
    return kind_of(hashed) != ARGON2 or HASHER.check_needs_rehash(hashed)


def _fits_argon2(password: str, hashed: str) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def _fits_scrypt(password: str, hashed: str) -> bool:
    """Whether a password gives `scrypt$n$r$p$salt$hash`."""
    _, *words = hashed.split("$")
    if len(words) != 5:
        return False
    try:
        n, r, p = (int(word) for word in words[:3])
        salt, expected = (base64.b64decode(word, validate=True) for word in words[3:])
        derived = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=_SCRYPT_LIMIT, dklen=32)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(derived, expected)

"""Header text as file and folder names, and the short name of a file."""

from __future__ import annotations

import os
import re
import unicodedata

_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_SUFFIX = re.compile(r"\.(fits?|fts)(\.(gz|fz|bz2|z))?$|\.(gz|fz|bz2|z)$", re.IGNORECASE)


def slug(text: str, default: str = "unnamed", max_length: int = 64) -> str:
    """Turn any text into a safe name of a file or folder.

    The result holds only `A-Z a-z 0-9 . _ + -`, begins with neither `.` nor `-`, has 1 to `max_length` characters and
    is never `.` or `..`; accents are dropped, every other run of characters becomes one `_`. A slug is its own slug.
    Raises ValueError where `default` itself is no slug or `max_length` is below 1.
    """
    if max_length < 1:
        raise ValueError("a name needs at least one character; give max_length 1 or more")
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    name = _UNSAFE.sub("_", plain.strip()).strip("_").lstrip(".-_")[:max_length].rstrip("._")
    if name:
        return name
    if _UNSAFE.search(default) or default[:1] in {"", ".", "-", "_"} or default[-1] in "._":
        raise ValueError(f"the default name {default!r} is no safe name; use letters and digits")
    return default[:max_length].rstrip("._")


def short_name(path: str | os.PathLike[str]) -> str:
    """Return the file name without `.fits .fit .fts` and a compression suffix (`.gz .fz .bz2 .Z`), in any case."""
    name = os.path.basename(os.fspath(path))
    return _SUFFIX.sub("", name) or name

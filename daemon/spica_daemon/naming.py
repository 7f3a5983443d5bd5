"""Where files stay below a node's roots: names that hold the first 8 characters of their content's hash."""

from __future__ import annotations

import os

from spica.files.slug import short_name, slug


def stable_name(name: str, sha256: str) -> str:
    """Return `<stem>-<sha8><suffix>` for a file's own name; both parts are slugs.

    >>> stable_name("744123p.weight.fits.fz", "0123456789abcdef")
    '744123p.weight-01234567.fits.fz'
    """
    name = os.path.basename(name)
    stem = short_name(name)
    suffix = name[len(stem) :]
    if not suffix:
        stem, suffix = os.path.splitext(stem)
    return f"{slug(stem, default='file')}-{sha256[:8]}{_plain(suffix)}"


def product_place(instrument: str | None, kind: str, name: str, sha256: str) -> str:
    """Return the path of a product below the root `data`."""
    return (
        f"{slug(instrument, 'products') if instrument else 'products'}/{slug(kind, 'step')}/{stable_name(name, sha256)}"
    )


def exposure_place(instrument: str | None, run: str | None, filter_: str | None, name: str, sha256: str) -> str:
    """Return the path of an exposure below the root `data`: by instrument, run and filter."""
    folders = (
        slug(instrument, "unknown") if instrument else "unknown",
        slug(run, "norun") if run else "norun",
        slug(filter_, "nofilter") if filter_ else "nofilter",
    )
    return "/".join((*folders, stable_name(name, sha256)))


def copy_place(name: str, sha256: str) -> str:
    """Return the path below the root `data` of a file fetched from another node."""
    return f"copies/{sha256[:2]}/{stable_name(name, sha256)}"


def _plain(suffix: str) -> str:
    return "".join(c for c in suffix if c.isascii() and (c.isalnum() or c == "."))[:20]

"""Floor 2b: the local store of reference catalogues."""

from __future__ import annotations

from spica.reference.catalogue import ReferenceCatalogue, make_catalogue, write_reference
from spica.reference.reading import ColumnChoice, read_reference
from spica.reference.store import Coverage, ReferenceStore, StoredCatalogue

__all__ = [
    "ColumnChoice",
    "Coverage",
    "ReferenceCatalogue",
    "ReferenceStore",
    "StoredCatalogue",
    "make_catalogue",
    "read_reference",
    "write_reference",
]

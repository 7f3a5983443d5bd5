"""The field of an association and the reference stars in it, pinned as a file before the plan is made."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from spica.algorithms.skymap import angular_separation, sky_centroid
from spica.db.file import know_file, know_location
from spica.db.node import know_node
from spica.files.checksum import place_file, sha256_file
from spica.files.slug import slug
from spica.files.workspace import Workspace
from spica.instruments.registry import load_instruments
from spica.model.errors import DataError, RecipeError, TransientError
from spica.model.image import FileKind
from spica.model.job import FileRef
from spica.model.recipe import Recipe
from spica.model.selection import Candidate
from spica.reference.catalogue import write_reference
from spica.reference.store import ReferenceStore

DEFAULT_ACCURACY_ARCMIN = 3.0
NO_STARS = "no reference stars"
"""So begins what the store says of a field without any; a damaged catalogue says something else."""
WITHOUT_REFERENCE = "--set astrometry.source=header where the headers hold a calibrated WCS"


@dataclass(frozen=True)
class Field:
    """Centre and radius of an association, and the file of reference stars below the data root (None: without)."""

    ra_deg: float
    dec_deg: float
    radius_deg: float
    relative_path: str | None = None
    sha256: str = ""
    size: int = 0

    def know(self, session: Session, workspace: Workspace) -> FileRef | None:
        """Register the reference file and where it lies; return it as an input, None where there is none."""
        if self.relative_path is None:
            return None
        name = Path(self.relative_path).name
        file_id = know_file(session, self.sha256, self.size, FileKind.REFERENCE, name)
        know_location(session, file_id, know_node(session, workspace.node), "data", self.relative_path)
        return FileRef(file_id, self.sha256, name, self.size)


def find_reference(workspace: Workspace, recipe: Recipe, members: Sequence[Candidate]) -> Field:
    """Cut the reference stars of a field out of the local store.

    Where positions come from the headers and the recipe names no catalogue, a field without stars has no reference.

    Raises
    ------
    TransientError
        Where no catalogue of the store covers the field; the message says how to add one.
    """
    ra, dec, radius = enclosing_circle(members)
    radius += search_radius_deg(workspace, recipe, members)
    store = ReferenceStore(workspace.reference_folder)
    from_header = recipe.astrometry.source == "header"
    try:
        catalogue = store.cone(ra, dec, radius, name=recipe.astrometry.reference or None)
    except DataError as error:
        if from_header and not recipe.astrometry.reference and str(error).startswith(NO_STARS):
            return Field(ra, dec, radius)
        other = "" if from_header else f", or {WITHOUT_REFERENCE}"
        raise TransientError(f"{error}{other}") from error
    with tempfile.TemporaryDirectory(dir=workspace.roots["data"], prefix=".reference-") as folder:
        made = write_reference(Path(folder) / "reference.fits", catalogue)
        sha256, size = sha256_file(made), made.stat().st_size
        relative = f"reference/{slug(catalogue.source)}-{sha256[:8]}.fits"
        target = workspace.place("data", relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        place_file(made, target)
    return Field(ra, dec, radius, relative, sha256, size)


def enclosing_circle(members: Sequence[Candidate]) -> tuple[float, float, float]:
    """Return centre and radius (degrees) of a circle around all corners of the members' footprints."""
    corners = np.array([corner for m in members for polygon in m.polygons_deg for corner in polygon])
    ra, dec = sky_centroid(corners[:, 0], corners[:, 1])
    radius = float(np.max(angular_separation(corners[:, 0], corners[:, 1], ra, dec)))
    return ra, dec, radius


def search_radius_deg(workspace: Workspace, recipe: Recipe, members: Sequence[Candidate]) -> float:
    """Return how far the true pointing may lie from the header's, degrees."""
    if recipe.astrometry.search_radius_arcmin > 0:
        return recipe.astrometry.search_radius_arcmin / 60.0
    registry = load_instruments(workspace.instruments_folder)
    accuracy = []
    for name in {str(m.instrument).partition(":")[0] for m in members}:
        try:
            accuracy.append(registry.get(name).pointing_accuracy_arcmin)
        except RecipeError:
            accuracy.append(DEFAULT_ACCURACY_ARCMIN)
    return max(accuracy) / 60.0

"""A world with a reference catalogue over its field, so that wishes can be scheduled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spica.reference.catalogue import make_catalogue, write_reference
from spica.reference.store import ReferenceStore


@pytest.fixture
def field_world(world: Any, tmp_path: Any) -> Any:
    """Return a world with reference stars around RA 150, Dec 2 in its workspace's store."""
    rng = np.random.default_rng(8)
    catalogue = make_catalogue(
        rng.uniform(149.4, 150.6, 3000),
        rng.uniform(1.4, 2.6, 3000),
        err_ra_mas=1.0,
        err_dec_mas=1.0,
        epoch_yr=2016.0,
        mags={"r": rng.uniform(14, 20, 3000)},
        mag_errors={"r": 0.01},
        mag_system="AB",
        source="stars",
    )
    path = write_reference(tmp_path / "stars.fits", catalogue)
    ReferenceStore(world.workspace.reference_folder).add(path, "stars")
    return world

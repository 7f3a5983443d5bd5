"""From raw pixels to images of the sky, and the maps and masters that say what each pixel is worth."""

from __future__ import annotations

from spica.steps.prepare.exposure import Prepared, prepare_exposure
from spica.steps.prepare.maps import Weighting, WeightSources, open_weighting
from spica.steps.prepare.masters import MasterShelf, OpenMaster, find_unit, read_master
from spica.steps.prepare.readout import AmplifierLevel, RawImage, assemble_detector, read_raw

__all__ = [
    "AmplifierLevel",
    "MasterShelf",
    "OpenMaster",
    "Prepared",
    "RawImage",
    "WeightSources",
    "Weighting",
    "assemble_detector",
    "find_unit",
    "open_weighting",
    "prepare_exposure",
    "read_master",
    "read_raw",
]

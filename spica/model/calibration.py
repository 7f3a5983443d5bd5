"""Master calibrations: what they are, where they hold, and which exposure used them."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class MasterKind(enum.StrEnum):
    """What a master calibration corrects; its value is also the role of the file among a job's inputs."""

    BIAS = "bias"
    DARK = "dark"
    FLAT = "flat"
    FRINGE = "fringe"
    BAD_PIXELS = "bad_pixels"


@dataclass(frozen=True)
class Validity:
    """Where a master holds: camera, and where stated filter, run and nights (ISO dates, both included)."""

    instrument: str
    filter: str | None = None
    run: str | None = None
    first_night: str | None = None
    last_night: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What an exposure asks of its masters; `night` is an ISO date."""

    instrument: str
    filter: str | None
    run: str | None
    night: str | None
    mjd: float | None
    exptime_s: float | None = None


@dataclass(frozen=True)
class MasterRecord:
    """A master calibration that a step made, as the harvest registers it: the product of the file name `product`.

    `mjd` is the mean of its frames; `exptime_s` that of the frames of a dark (None: its pixels are counts per second);
    `n_inputs` the frames used; `product_hash` says of which frames and by which recipe.
    """

    product: str
    kind: MasterKind
    validity: Validity
    mjd: float | None = None
    exptime_s: float | None = None
    n_inputs: int = 0
    product_hash: str | None = None
    type: str = "master"


@dataclass(frozen=True)
class CalibrationUse:
    """An exposure was corrected with a master, or weighted by it; `scale` is the amplitude of a fringe pattern."""

    item: str
    kind: MasterKind
    sha256: str
    corrected: bool
    scale: float | None = None
    type: str = "calibration_use"

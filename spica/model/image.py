"""Images: exposures, stacks and calibrated copies share one root row."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from spica.model.job import Reason


class ImageKind(enum.StrEnum):
    """What an image is."""

    EXPOSURE = "exposure"
    STACK = "stack"
    CALIBRATED = "calibrated"


class ImageState(enum.StrEnum):
    """How far an image has come; the first five for exposures, the rest for stacks and calibrated copies."""

    REGISTERED = "registered"
    ASSESSED = "assessed"
    CALIBRATED = "calibrated"
    REJECTED = "rejected"
    FAILED = "failed"
    PLANNED = "planned"
    RUNNING = "running"
    MADE = "made"
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"


class PositionSource(enum.StrEnum):
    """Where the footprint comes from; a solution replaces what the header says."""

    SOLUTION = "solution"
    HEADER_WCS = "header_wcs"
    POINTING = "pointing"


class FrameType(enum.StrEnum):
    """What the shutter saw."""

    SCIENCE = "science"
    FLAT = "flat"
    DARK = "dark"
    BIAS = "bias"
    OTHER = "other"


class FileKind(enum.StrEnum):
    """What a file holds."""

    EXPOSURE = "exposure"
    CALIBRATION = "calibration"
    REFERENCE = "reference"
    PRODUCT = "product"
    IGNORED = "ignored"


@dataclass(frozen=True)
class DetectorRecord:
    """One sensor of an exposure. `polygon_deg` is the footprint as (ra, dec) corners, or None where unknown."""

    index: int
    hdu: int
    name: str
    n_x: int
    n_y: int
    gain_e_per_adu: float | None = None
    read_noise_e: float | None = None
    saturation_adu: float | None = None
    pixel_scale_arcsec: float | None = None
    polygon_deg: tuple[tuple[float, float], ...] | None = None
    position_source: PositionSource | None = None


@dataclass(frozen=True)
class ExposureRecord:
    """What verification makes of one file: the facts of an exposure, or why it is rejected or ignored.

    Headers are kept as compressed text in the product `headers` of the same item.
    """

    item: str
    name: str
    state: ImageState | None
    reasons: tuple[Reason, ...] = ()
    frame_type: FrameType = FrameType.SCIENCE
    instrument: str | None = None
    telescope: str | None = None
    object: str | None = None
    object_raw: str | None = None
    filter: str | None = None
    filter_raw: str | None = None
    run: str | None = None
    night: str | None = None
    exptime_s: float | None = None
    mjd: float | None = None
    airmass: float | None = None
    ra_deg: float | None = None
    dec_deg: float | None = None
    position_source: PositionSource | None = None
    detectors: tuple[DetectorRecord, ...] = ()
    type: str = "exposure"


_SPLIT = re.compile(r"[\s_\-]+")


def normalise_object(text: str, aliases: dict[str, str] | None = None) -> str:
    """Return the key of an object name: case, spaces, `_` and `-` do not count; then the alias table.

    >>> normalise_object("IC 1396-A") == normalise_object("ic1396_a")
    True
    """
    key = _SPLIT.sub("", text).casefold()
    table = {_SPLIT.sub("", a).casefold(): _SPLIT.sub("", b).casefold() for a, b in (aliases or {}).items()}
    return table.get(key, key)

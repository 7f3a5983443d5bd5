"""What steps make: roles of products, and the records of stacks, catalogues and deliveries."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from spica.model.job import Reason
from spica.model.solution import SolvedDetector


class Role(enum.StrEnum):
    """Seat of a file among the inputs or products of a job."""

    EXPOSURE = "exposure"
    FACTS = "facts"
    HEADERS = "headers"
    WEIGHT = "weight"
    CATALOGUE = "catalogue"
    PREVIEW = "preview"
    MOSAIC = "mosaic"
    PLOT = "plot"
    REFERENCE = "reference"
    HEAD = "head"
    STACK = "stack"
    CALIBRATED = "calibrated"
    DETRENDED = "detrended"
    BIAS = "bias"
    DARK = "dark"
    FLAT = "flat"
    FRINGE = "fringe"
    BAD_PIXELS = "bad_pixels"
    WEIGHT_MAP = "weight_map"
    ERROR_MAP = "error_map"
    DQ_MAP = "dq_map"
    MEASURES = "measures"
    QUALITY = "quality"
    SOLUTION = "solution"
    MANIFEST = "manifest"
    DELIVERED = "delivered"
    REPORT = "report"
    TOOL_XML = "tool_xml"


MAP_ROLES = {"weight": Role.WEIGHT_MAP, "error": Role.ERROR_MAP, "dq": Role.DQ_MAP}
"""Seats of the maps beside an image, by the kinds that profiles name."""


@dataclass(frozen=True)
class Contribution:
    """What one exposure gave to a stack: share of the weight, pixels clipped, scale applied, marks honoured (ids)."""

    item: str
    weight_fraction: float
    clipped_fraction: float
    flux_scale: float
    exptime_s: float
    background_adu: float | None = None
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class StackRecord:
    """A stack, or a calibrated copy, as the harvest records it. `mjd` is the weighted mean of mid-exposures."""

    item: str
    kind: str
    n_inputs: int
    exptime_s: float
    mjd: float
    n_x: int
    n_y: int
    pixel_scale_arcsec: float
    ra_deg: float
    dec_deg: float
    zero_point_mag: float | None
    mag_system: str | None
    mag_band: str | None
    gain_e_per_adu: float | None
    saturation_adu: float | None
    contributions: tuple[Contribution, ...]
    footprint: tuple[SolvedDetector, ...]
    combine: str = ""
    type: str = "stack"


@dataclass(frozen=True)
class CatalogueRecord:
    """A catalogue whose rows go to the database by COPY; the rows are read from the product named by role."""

    item: str
    n_sources: int
    product: str = "catalogue"
    type: str = "catalogue"


@dataclass(frozen=True)
class DeliveredFile:
    """One file of a delivery: path relative to the folder of the delivery."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class DeliveryRecord:
    """A delivery prepared below `outgoing/`; the harvest verifies what lies there before it says so."""

    item: str
    folder: str
    manifest_sha256: str
    files: tuple[DeliveredFile, ...]
    type: str = "delivery"


class DeliveryState(enum.StrEnum):
    """How far a delivery has come."""

    PREPARED = "prepared"
    SENT = "sent"
    VERIFIED = "verified"
    ACCEPTED = "accepted"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class ImageStateRecord:
    """An image's new state with reasons, where no other record says it (an exposure that could not be solved)."""

    item: str
    state: str
    reasons: tuple[Reason, ...] = ()
    type: str = "image_state"

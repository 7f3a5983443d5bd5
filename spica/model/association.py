"""Associations: which exposures are solved and combined together."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Mode(enum.StrEnum):
    """How exposures are chosen; `ingest` marks the plan of incoming files, `master` that of calibration frames."""

    INGEST = "ingest"
    MASTER = "master"
    SINGLE = "single"
    SURVEY = "survey"
    AREA = "area"


class Split(enum.StrEnum):
    """Whether an association is split further."""

    NONE = "none"
    RUN = "run"
    NIGHT = "night"


@dataclass(frozen=True)
class Circle:
    """A circle on the sky, in degrees."""

    ra_deg: float
    dec_deg: float
    radius_deg: float


@dataclass(frozen=True)
class Member:
    """What grouping must know of an exposure; `polygons_deg` are the footprints of its detectors."""

    image_id: int
    name: str
    object_key: str
    instrument: str
    filter: str
    run: str | None
    night: str | None
    polygons_deg: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Association:
    """Exposures that belong together. `group` counts disconnected fields of one object from 1, 0 where only one."""

    mode: Mode
    object_key: str
    instrument: str
    filter: str
    image_ids: tuple[int, ...]
    group: int = 0
    run: str | None = None
    night: str | None = None
    circle: Circle | None = None
    target_id: int | None = None

"""Rows of the listings: the JSON contract of images, stacks, jobs and nodes. Unknown is null."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from spica.model.job import Reason
from spica.model.node import Drain


@dataclass(frozen=True)
class ImageEntry:
    """One image as `spica images --json` and `/api/images` give it."""

    id: int
    name: str
    kind: str
    instrument: str | None
    object: str | None
    filter: str | None
    filter_raw: str | None
    run: str | None
    night: str | None
    exptime_s: float | None
    mjd: float | None
    airmass: float | None
    ra_deg: float | None
    dec_deg: float | None
    n_detectors: int
    seeing_arcsec: float | None
    ellipticity: float | None
    background_adu: float | None
    noise_adu: float | None
    limiting_mag: float | None
    n_stars: int | None
    zero_point_mag: float | None
    mag_system: str | None
    skyprobe_mag: float | None
    grade: str | None
    grade_source: str | None
    state: str
    reason: tuple[Reason, ...]
    path: str | None
    position_source: str | None
    frame_type: str


@dataclass(frozen=True)
class AstrometrySummary:
    """Astrometry of a stack's solution; rms per axis."""

    internal_mas: float | None
    reference_mas: float | None
    n_reference: int | None


@dataclass(frozen=True)
class PhotometrySummary:
    """Photometry of a stack's solution."""

    internal_mag: float | None
    reference_mag: float | None


@dataclass(frozen=True)
class StackEntry:
    """One stack or calibrated copy as `spica stacks --json` and `/api/stacks` give it."""

    id: int
    name: str
    kind: str
    mode: str
    object: str | None
    filter: str | None
    path: str | None
    weight_path: str | None
    catalogue_path: str | None
    n_inputs: int | None
    exptime_s: float | None
    seeing_arcsec: float | None
    limiting_mag: float | None
    zero_point_mag: float | None
    mag_system: str | None
    astrometry: AstrometrySummary
    photometry: PhotometrySummary
    grade: str | None
    grade_source: str | None
    state: str
    delivered_path: str | None
    stale: bool
    plan: int | None
    ra_deg: float | None
    dec_deg: float | None


@dataclass(frozen=True)
class JobEntry:
    """One job as `spica jobs --json` and `/api/jobs` give it."""

    id: int
    kind: str
    state: str
    attempts: int
    node: str | None
    exit_code: int | None
    error: str | None
    script: str
    log: str | None
    seconds: float | None
    plan: int | None
    label: str
    engine: str
    error_kind: str | None
    image: int | None


@dataclass(frozen=True)
class PlacementEntry:
    """A run and filter (`every`: every one) whose exposures go to a node, and since when.

    `chosen`: by `person` (null: at the command line); else by free disk when the group first came.
    """

    run: str
    filter: str
    chosen: bool
    person: str | None
    since: str


@dataclass(frozen=True)
class NodeEntry:
    """One node as `spica nodes --json` and `/api/nodes` give it.

    `drained_at` null: it is not drained; `drained_by` null where it is: by the command line.
    """

    id: int
    name: str
    host: str | None
    state: str
    alive: bool
    slots: int
    busy: int
    seen_at: str | None
    disk_free_bytes: int | None
    load: float | None
    drained_at: str | None
    drained_by: str | None
    drained_why: str | None
    placements: tuple[PlacementEntry, ...]

    @property
    def drained(self) -> str | None:
        """By whom, since when and why it is drained; None where it is not."""
        if self.drained_at is None:
            return None
        return Drain(datetime.fromisoformat(self.drained_at), self.drained_by, self.drained_why or "").words

    @property
    def takes_jobs(self) -> bool:
        """Whether new jobs begin on it."""
        return self.alive and self.drained_at is None

"""The exposures of a small survey as rows and files: pictures, quality, grades, a file that was rejected."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.context import HarvestContext, PlacedProduct
from spica.db.file import know_file, know_location, store_content
from spica.db.node import Beat, beat, know_node
from spica.db.product import record_outcomes, record_product
from spica.db.record import record_all
from spica.files.header import make_cards, pack_headers
from spica.files.jobfolder import LOG, attempt_folder
from spica.files.preview import make_preview, png_bytes
from spica.files.workspace import Workspace
from spica.instruments.registry import load_instruments
from spica.model.grade import GradeLimits, GradeRecord, grade_by_limits
from spica.model.image import (
    DetectorRecord,
    ExposureRecord,
    FileKind,
    ImageState,
    PositionSource,
)
from spica.model.job import EdgeKind, ItemOutcome, Outcome, ProductRef, Reason, Request
from spica.model.quality import DetectorMeasures, QualityRecord
from spica.model.recipe import Recipe
from spica.model.record import to_json

FIELDS = (("IC 1396", 324.75, 57.49, "r"), ("IC 1396", 324.75, 57.49, "i"), ("NGC 6822", 296.24, -14.80, "r"))
SCALE_ARCSEC = 0.3
SIDE_PIX = 1000


@dataclass
class Survey:
    """What the sample holds, by id."""

    exposures: list[int] = field(default_factory=list)
    rejected: int = 0
    stack: int = 0
    planned: int = 0
    plan: int = 0
    jobs: dict[str, int] = field(default_factory=dict)
    people: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    png: int = 0
    fits: int = 0


def sky_picture(rng: np.random.Generator, side: int, seeing: float, trail: bool = False) -> bytes:
    """Return a PNG of a mosaic of four detectors with stars, galaxies and noise."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    data = rng.normal(300.0, 6.0, (side, side)).astype(np.float32) + 20.0 * np.hypot(x / side - 0.4, y / side - 0.6)
    for _ in range(max(30, side * side // 2200)):
        cx, cy, flux = rng.uniform(0, side), rng.uniform(0, side), 90.0 * rng.pareto(0.9)
        sigma = seeing * side / 1000 * 1.3 + (rng.exponential(1.2) if rng.random() < 0.3 else 0.0)
        r = math.ceil(6 * sigma)
        x0, x1, y0, y1 = max(0, int(cx) - r), min(side, int(cx) + r), max(0, int(cy) - r), min(side, int(cy) + r)
        spot = np.exp(-((x[y0:y1, x0:x1] - cx) ** 2 + (y[y0:y1, x0:x1] - cy) ** 2) / (2 * sigma**2))
        data[y0:y1, x0:x1] += min(flux, 60000.0) / sigma**2 * spot
    if trail:
        data += 60.0 * np.exp(-((y - 0.3 * x - side * 0.4) ** 2) / 4.0)
    gap = max(2, side // 120)
    data[side // 2 - gap : side // 2 + gap] = np.nan
    data[:, side // 2 - gap : side // 2 + gap] = np.nan
    return png_bytes(make_preview(data, max_size_pix=side))


def corners(
    ra: float, dec: float, half_deg: float, off: tuple[float, float] = (0.0, 0.0)
) -> tuple[tuple[float, float], ...]:
    """Return a square footprint."""
    c = math.cos(math.radians(dec))
    ra0, dec0 = ra + off[0] / c, dec + off[1]
    return tuple((ra0 + i * half_deg / c, dec0 + j * half_deg) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1)))


def say_alive(session: Session, node: int) -> None:
    """Beat once for the node of the sample."""
    beat(session, node, Beat(slots=4, busy=1, disk_free_bytes=812_000_000_000, load=1.37))


class Builder:
    """Writes the sample by the functions that the daemon uses, job by job."""

    def __init__(self, session: Session, workspace: Workspace, rng: np.random.Generator, side: int) -> None:
        """Begin on an empty database."""
        self.session, self.workspace, self.rng, self.side = session, workspace, rng, side
        self.node = know_node(session, workspace.node, "ocs1")
        say_alive(session, self.node)
        know_node(session, "ocs2", "ocs2")
        self.made = Survey()
        self.recipe = Recipe()
        self.limits = exposure_limits()
        self.pictures = [sky_picture(rng, side, s, s > 1.1) for s in (0.7, 0.9, 1.4)]

    def file(self, name: str, content: bytes, kind: FileKind = FileKind.PRODUCT) -> tuple[int, str]:
        """Return id and hash of a new file."""
        sha = hashlib.sha256(content).hexdigest()
        return know_file(self.session, sha, len(content), kind, name), sha

    def request(self, kind: str, label: str) -> Request:
        """Return what a job is asked."""
        return Request(kind, "native", to_json(self.recipe), self.recipe.sha256(), label=label)

    def job(
        self, plan: int | None, kind: str, label: str, parents: tuple[int, ...] = (), image: int | None = None
    ) -> int:
        """Create a job."""
        number = jobs.reserve_job_ids(self.session, 1)[0]
        script = f'#!/bin/sh\n# {label}\nset -eu\ncd "$1"\nexec "$SPICA_PYTHON" -m spica.steps run --attempt "$1"\n'
        new = jobs.NewJob(
            number,
            kind,
            "native",
            self.request(kind, label),
            script,
            label,
            dict.fromkeys(parents, EdgeKind.NEEDS),
            image,
            priority=10,
            tries=4,
        )
        jobs.create_jobs(self.session, plan, [new])
        return number

    def start(self, job: int, log: str = "") -> tuple[jobs.Claimed, HarvestContext]:
        """Let the node claim this very job, and write its log."""
        from sqlalchemy import update

        from spica.db.tables.job import JobRow

        self.session.execute(update(JobRow).where(JobRow.id == job).values(priority=1000))
        claimed = jobs.claim(self.session, self.node, 600.0)
        assert claimed is not None
        assert claimed.job_id == job
        jobs.mark_started(self.session, claimed.attempt_id, claimed.fence, 4711, 1.0)
        folder = attempt_folder(self.workspace.roots["jobs"], job, claimed.number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).write_text(log or f"step {claimed.kind} begins\nprogress 1/1 done\n")
        return claimed, HarvestContext(claimed.attempt_id, job, claimed.plan_id, self.node)

    def succeed(self, claimed: jobs.Claimed, seconds: float) -> None:
        """End a job well."""
        end = jobs.AttemptEnd(0, seconds, 412.0, log_tail="done\n")
        jobs.succeed(self.session, claimed.attempt_id, claimed.fence, end)

    def product(self, context: HarvestContext, role: str, name: str, content: bytes, item: str, media: str) -> int:
        """Keep a product of an attempt; small ones centrally."""
        file_id, sha = self.file(name, content)
        small = media.startswith(("image/", "application/json", "text/"))
        if small:
            store_content(self.session, file_id, media, content)
        place = f"products/{context.job_id}/{name}"
        know_location(self.session, file_id, context.node_id, "data", place)
        path = self.workspace.roots["data"] / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        record_product(
            self.session, ProductRef(role, name, sha, len(content), name, item, None, small, media), file_id, context
        )
        return file_id

    # Exposures --------------------------------------------------------------------------------------------------------

    def expose(self, plan: int, number: int, where: tuple[str, float, float, str]) -> int:
        """Take in one exposure with quality, machine grade, picture and plot."""
        name, night = f"{744100 + number}p", 12 + number % 4
        object_name, ra0, dec0, filter_name = where
        ra, dec = ra0 + self.rng.normal(0, 0.03), dec0 + self.rng.normal(0, 0.03)
        file_id, _ = self.file(f"{name}.fits.fz", name.encode() * 300, FileKind.EXPOSURE)
        place = f"spicasim/06BQ12/{filter_name}/{name}.fits.fz"
        know_location(self.session, file_id, self.node, "data", place)
        path = self.workspace.place("data", place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 300)
        item = f"file:{file_id}"
        job = self.job(plan, "assess", f"assess {name}")
        claimed, context = self.start(job)
        header = make_cards(
            [("SIMPLE", True, "standard FITS"), ("OBJECT", object_name, "name of the field"), ("EXPTIME", 300.0, "s")]
        )
        packed = self.workspace.folder / f"{name}.headers"
        packed.write_bytes(pack_headers([header] + [make_cards([("EXTNAME", f"ccd{i:02d}", "")]) for i in range(4)]))
        context = dataclasses.replace(context, products=(PlacedProduct("headers", item, None, file_id, packed),))
        record_all(self.session, [self._exposure(item, name, night, where, (ra, dec)), *self._assessed(item)], context)
        image = context.images[item]
        picture = self.pictures[number % 3]
        preview = self.product(context, "preview", f"{name}.png", picture, item, "image/png")
        self.made.png = preview
        facts = f'{{"name": "{name}"}}'.encode()
        self.product(context, "facts", f"{name}.facts.json", facts, item, "application/json")
        self.product(context, "plot", f"{name}.quality.png", self.pictures[(number + 1) % 3], item, "image/png")
        self.made.fits = self.product(
            context, "weight", f"{name}.weight.fits.fz", b"W" * 40000 + name.encode(), item, "application/octet-stream"
        )
        self.product(
            context, "catalogue", f"{name}.ldac", b"C" * 9000 + name.encode(), item, "application/octet-stream"
        )
        record_outcomes(self.session, [ItemOutcome(item, Outcome.USED)], context)
        self.succeed(claimed, float(self.rng.uniform(8, 30)))
        self.made.exposures.append(image)
        return image

    def _exposure(
        self, item: str, name: str, night: int, where: tuple[str, float, float, str], centre: tuple[float, float]
    ) -> ExposureRecord:
        half = SIDE_PIX * SCALE_ARCSEC / 3600 / 2
        detectors = tuple(
            DetectorRecord(
                i,
                i + 1,
                f"ccd{i:02d}",
                SIDE_PIX,
                SIDE_PIX,
                1.62,
                4.1,
                65000.0,
                SCALE_ARCSEC,
                corners(*centre, half * 0.98, ((i % 2 - 0.5) * 2.04 * half, (i // 2 - 0.5) * 2.04 * half)),
                PositionSource.HEADER_WCS,
            )
            for i in range(4)
        )
        return ExposureRecord(
            item,
            name,
            ImageState.REGISTERED,
            instrument="spicasim",
            telescope="Simulated 1 m",
            object=where[0],
            object_raw=where[0],
            filter=where[3],
            filter_raw=f"{where[3]}.MP9601",
            run="06BQ12",
            night=f"2006-12-{night:02d}",
            exptime_s=300.0,
            mjd=54080.2 + night + self.rng.uniform(0, 0.4),
            airmass=float(self.rng.uniform(1.02, 1.7)),
            ra_deg=centre[0],
            dec_deg=centre[1],
            position_source=PositionSource.HEADER_WCS,
            detectors=detectors,
        )

    def _assessed(self, item: str) -> list[QualityRecord | GradeRecord]:
        rng = self.rng
        seeing = float(0.55 + rng.gamma(3.0, 0.14))
        measures = DetectorMeasures(
            None,
            seeing,
            seeing / SCALE_ARCSEC,
            float(abs(rng.normal(0.045, 0.02))),
            34.0,
            3.1,
            1.04,
            float(rng.normal(310, 25)),
            float(rng.normal(6.2, 0.3)),
            float(24.6 - 0.9 * (seeing - 0.7) + rng.normal(0, 0.08)),
            1310.0,
            5200,
            int(rng.integers(380, 700)),
            0.0004,
            0.0011,
            0.0123,
            int(rng.random() < 0.2),
        )
        parts = tuple(
            dataclasses.replace(measures, detector=i, seeing_arcsec=seeing + float(rng.normal(0, 0.02)))
            for i in range(4)
        )
        values: dict[str, float | None] = {limit.measure: getattr(measures, limit.measure) for limit in self.limits}
        machine = grade_by_limits(values, self.limits)
        return [QualityRecord(item, measures, parts), GradeRecord(item, machine.grade, machine.reasons)]

    def reject(self, plan: int) -> int:
        """Take in a file that is cut off."""
        file_id, _ = self.file("744099p.fits.fz", b"cut", FileKind.EXPOSURE)
        claimed, context = self.start(self.job(plan, "assess", "assess 744099p"))
        reason = Reason("truncated", "the file ends after 12 of 36 extensions; fetch it again", 12, 36)
        record_all(
            self.session, [ExposureRecord(f"file:{file_id}", "744099p", ImageState.REJECTED, (reason,))], context
        )
        record_outcomes(self.session, [ItemOutcome(f"file:{file_id}", Outcome.LEFT_OUT, None, reason)], context)
        self.succeed(claimed, 1.2)
        return context.images[f"file:{file_id}"]


def exposure_limits() -> tuple[GradeLimits, ...]:
    """Return the limits of the simulated camera."""
    by_grade = load_instruments().get("spicasim").grade_limits("r")
    high = {"seeing_arcsec": True, "ellipticity": True, "background_adu": True, "limiting_mag": False, "n_stars": False}
    found = []
    for measure, is_high in high.items():
        a, b, c = (getattr(by_grade[g], measure) for g in "ABC")
        if any(v is not None for v in (a, b, c)):
            found.append(GradeLimits(measure, a, b, c, is_high))
    return tuple(found) or (
        GradeLimits("seeing_arcsec", 0.9, 1.1, 1.4),
        GradeLimits("limiting_mag", 24.4, 24.2, 23.8, high=False),
    )

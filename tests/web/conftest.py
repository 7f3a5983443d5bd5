"""A small survey as rows: two fields, a rejected file, a delivered stack, a failed one, jobs in every state."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.context import HarvestContext, PlacedProduct
from spica.db.engine import Database
from spica.db.file import know_file, know_location, store_content
from spica.db.image import plan_image
from spica.db.node import Beat, beat, know_node
from spica.db.person import add_person, make_session
from spica.db.plan import add_plan, know_recipe
from spica.db.product import record_outcomes, record_product
from spica.db.record import record_all
from spica.db.selection import judge, record_selection
from spica.db.tables.image import ImageRow
from spica.db.tables.product import SourceRow
from spica.files.header import make_cards, pack_headers
from spica.files.jobfolder import LOG, attempt_folder
from spica.files.preview import make_preview, png_bytes
from spica.files.workspace import Workspace, init_workspace, read_workspace
from spica.instruments.registry import load_instruments
from spica.model.association import Association, Mode
from spica.model.grade import GradeLimits, GradeRecord, grade_by_limits
from spica.model.image import (
    DetectorRecord,
    ExposureRecord,
    FileKind,
    ImageKind,
    ImageState,
    PositionSource,
)
from spica.model.job import EdgeKind, ItemOutcome, Outcome, ProductRef, Reason, Request
from spica.model.person import PersonRole
from spica.model.product import Contribution, DeliveredFile, DeliveryRecord, StackRecord
from spica.model.quality import DetectorMeasures, QualityRecord
from spica.model.recipe import Recipe
from spica.model.record import to_json
from spica.model.selection import parse_rule
from spica.model.solution import SolutionRecord, SolvedDetector, SolvedImage
from spica_web.app import make_app
from spica_web.deps import Site

ROOT = Path(__file__).resolve().parents[2]
FIELDS = (("IC 1396", 324.75, 57.49, "r"), ("IC 1396", 324.75, 57.49, "i"), ("NGC 6822", 296.24, -14.80, "r"))
SCALE_ARCSEC = 0.3
SIDE_PIX = 1000
ORIGIN = "http://testserver"


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

    # Stacks -----------------------------------------------------------------------------------------------------------

    def plan_stack(
        self, name: str, where: tuple[str, float, float, str], rule: str
    ) -> tuple[int, int, list[int], list[int]]:
        """Judge, plan, and make the jobs of a stack; return plan, stack, chosen exposures, and the jobs."""
        key = where[0].replace(" ", "").lower()
        condition = [ImageRow.object_key == key, ImageRow.filter == where[3]]
        judged = judge(self.session, parse_rule(rule), condition)
        ids = [c.image_id for c in judged.chosen]
        association = Association(Mode.SURVEY, key, "spicasim", where[3], tuple(ids))
        recipe = know_recipe(self.session, self.recipe)
        selection = record_selection(self.session, judged, self.made.people.get("ada"))
        plan = add_plan(
            self.session,
            mode=Mode.SURVEY,
            label=name,
            association=association,
            recipe_id=recipe,
            selection_id=selection,
            product_hash=hashlib.sha256(name.encode()).hexdigest(),
            person_id=self.made.people.get("ada"),
        )
        stack = plan_image(
            self.session,
            kind=ImageKind.STACK,
            name=name,
            mode=Mode.SURVEY,
            plan_id=plan,
            like=ids,
            centre_deg=(where[1], where[2]),
        )
        made: list[int] = []
        for kind, needs in (
            ("astrometry", ()),
            ("stack", (0,)),
            ("quality", (1,)),
            ("catalogue", (1,)),
            ("deliver", (0, 1, 2, 3)),
        ):
            label = {"astrometry": "solve", "quality": "judge"}.get(kind, kind) + f" {name}"
            made.append(self.job(plan, kind, label, tuple(made[i] for i in needs), stack))
        return plan, stack, ids, made

    def solve(self, job: int, ids: list[int]) -> None:
        """Record a solution that holds; the last exposure is left out."""
        claimed, context = self.start(job, "match 744101p: 61 of 80\nprogress 2/3 solve\nresiduals 18.1 mas\n")
        rng = self.rng
        solved = tuple(
            SolvedImage(
                f"image:{i}",
                324.75,
                57.49,
                int(rng.integers(30, 80)),
                float(rng.normal(9, 1)),
                float(rng.normal(24, 3)),
                float(rng.uniform(1, 9)),
                0.08,
                9.4,
                float(rng.normal(26.21, 0.03)),
                0.006,
                float(rng.normal(0, 0.02)),
                float(abs(rng.normal(0.03, 0.03))),
                float(rng.normal(1, 0.02)),
                44,
            )
            for i in ids
        )
        record = SolutionRecord("gaia-dr3", 612, 9.2, 23.8, 0.0042, 0.021, "AB", "r", solved)
        record_all(self.session, [record], context)
        self.product(context, "plot", f"residuals-{job}.png", self.pictures[1], f"image:{ids[0]}", "image/png")
        outcomes = [ItemOutcome(f"image:{i}", Outcome.USED) for i in ids[:-1]]
        few = Reason("few_reference", "too few reference stars: 4 of 6 needed; add a deeper reference catalogue", 4, 6)
        record_outcomes(
            self.session, [*outcomes, ItemOutcome(f"image:{ids[-1]}", Outcome.LEFT_OUT, None, few)], context
        )
        self.succeed(claimed, 41.0)

    def stack(self, job: int, stack: int, ids: list[int], name: str) -> None:
        """Record a stack with its picture and file."""
        claimed, context = self.start(job)
        item = f"image:{stack}"
        content = b"S" * 60000 + name.encode()
        fits = self.product(context, "stack", f"{name}.fits", content, item, "application/octet-stream")
        self.product(
            context, "weight", f"{name}.weight.fits.fz", b"w" * 30000 + name.encode(), item, "application/octet-stream"
        )
        self.product(context, "preview", f"{name}.png", sky_picture(self.rng, self.side, 0.7), item, "image/png")
        context = dataclasses.replace(context, products=(PlacedProduct("stack", item, None, fits, Path("/dev/null")),))
        share = 1.0 / (len(ids) - 1)
        gave = tuple(Contribution(f"image:{i}", share, 0.0004, 1.0, 300.0) for i in ids[:-1])
        half = 0.1
        record = StackRecord(
            item,
            "stack",
            len(ids) - 1,
            300.0 * (len(ids) - 1),
            54093.412,
            2310,
            2290,
            0.3,
            324.75,
            57.49,
            30.0,
            "AB",
            "r",
            14.2,
            60100.0,
            gave,
            (SolvedDetector(0, corners(324.75, 57.49, half), 0.3),),
            "clipped, 4.0 sigma",
        )
        record_all(self.session, [record], context)
        record_outcomes(self.session, [ItemOutcome(f"image:{i}", Outcome.USED) for i in ids[:-1]], context)
        self.succeed(claimed, 63.0)

    def finish(self, made: list[int], stack: int, name: str) -> None:
        """Judge, catalogue and deliver a stack."""
        item = f"image:{stack}"
        claimed, context = self.start(made[2])
        measures = DetectorMeasures(
            None, 0.74, 2.47, 0.031, 12.0, 3.3, 1.1, 0.02, 1.9, 26.31, 21.0, 18220, 1910, 0.0, 0.0, 0.031, 0, 30.0
        )
        record_all(
            self.session, [QualityRecord(item, measures, ()), GradeRecord(item, grade_by_limits({}, ()).grade)], context
        )
        facts = f'{{"name": "{name}"}}'.encode()
        self.product(context, "facts", f"{name}.facts.json", facts, item, "application/json")
        self.product(context, "plot", f"{name}.quality.png", sky_picture(self.rng, self.side, 1.0), item, "image/png")
        self.succeed(claimed, 12.0)
        claimed, context = self.start(made[3])
        self.product(
            context, "catalogue", f"{name}.ldac", b"L" * 20000 + name.encode(), item, "application/octet-stream"
        )
        self.session.add_all(
            SourceRow(
                image_id=stack,
                number=i + 1,
                healpix=i,
                ra_deg=324.7 + i / 1e4,
                dec_deg=57.4 + i / 2e4,
                x_pix=10.0 * i,
                y_pix=7.5 * i,
                mag_auto=15.0 + i / 20,
                magerr_auto=0.001 + i / 1e4,
                mag_aper=[16.0, 15.5],
                magerr_aper=[0.01, 0.01],
                flux_radius_pix=1.6,
                fwhm_pix=2.5,
                elongation=1.04,
                flags=0,
            )
            for i in range(140)
        )
        self.succeed(claimed, 9.0)
        claimed, context = self.start(made[4])
        self.product(
            context, "manifest", f"{name}.manifest.json", b'{"format": "spica-manifest/1"}', item, "application/json"
        )
        delivered = DeliveryRecord(item, name, "c" * 64, (DeliveredFile(f"{name}.fits", "a" * 64, 10),))
        record_all(self.session, [delivered], context)
        self.succeed(claimed, 2.0)

    def fail_some(self) -> None:
        """Leave jobs in the other states: failed for two causes, pruned, held, ready, running, cancelled."""
        plan, stack, _, made = self.plan_stack("NGC6822-r-1", FIELDS[2], "grade in (A, B, C, D)")
        claimed, _ = self.start(made[0], "match 744103p: 3 of 6\n")
        text = "too few reference stars: 3 of 6 needed in 744103p; add a deeper reference catalogue"
        end = jobs.AttemptEnd(20, 14.2, 300.0, "data", text, "match 744103p: 3 of 6\n")
        jobs.fail(self.session, claimed.attempt_id, claimed.fence, end)
        found = {"failed": made[0], "pruned": made[1]}
        for i in range(3):
            claimed, _ = self.start(self.job(None, "assess", f"assess 74460{i}p"))
            end = jobs.AttemptEnd(75, 1.0, None, "transient", f"no space left on /data{i}; free some, then retry")
            jobs.fail(self.session, claimed.attempt_id, claimed.fence, end)
        found["running"] = self.job(None, "assess", "assess 744700p")
        self.start(
            found["running"], "read 744700p.fits.fz\n" + "".join(f"progress {i}/36 ccd{i:02d}\n" for i in range(20))
        )
        found["held"] = self.job(None, "assess", "assess 744701p")
        jobs.hold(self.session, found["held"], why="wait for the new flat")
        found["ready"] = self.job(None, "assess", "assess 744702p")
        found["cancelled"] = self.job(None, "assess", "assess 744703p")
        jobs.cancel(self.session, found["cancelled"], why="wrong field")
        self.made.jobs |= found
        self.made.planned = stack
        assert plan


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


def fill_survey(session: Session, workspace: Workspace, n: int = 9, side: int = 96, seed: int = 7) -> Survey:
    """Write the sample and return its ids."""
    builder = Builder(session, workspace, np.random.default_rng(seed), side)
    made = builder.made
    for role in PersonRole:
        name = {"viewer": "vera", "grader": "greta", "operator": "oscar", "admin": "ada"}[role.value]
        made.people[name] = add_person(session, name, role)
        made.tokens[name] = make_session(session, made.people[name])
    plan = add_plan(session, mode=Mode.INGEST, label=f"{n + 1} files", recipe_id=know_recipe(session, builder.recipe))
    for i in range(n):
        builder.expose(plan, i, FIELDS[i % 3])
    made.rejected = builder.reject(plan)
    made.plan, made.stack, ids, chain = builder.plan_stack(
        "IC1396-r-1", FIELDS[0], "grade in (A, B, C, D) and ellipticity < 0.07"
    )
    builder.solve(chain[0], ids)
    builder.stack(chain[1], made.stack, ids, "IC1396-r-1")
    builder.finish(chain, made.stack, "IC1396-r-1")
    made.jobs |= {"solved": chain[0], "delivered": chain[4]}
    builder.fail_some()
    return made


TEMPLATE = "spica_web_sample"
expect.set_options(timeout=20_000)  # pages are waited for, however busy the machine is


@dataclass
class Sample:
    """The sample as it was written once: its ids, and the workspace whose files are copied."""

    made: Survey
    workspace: Workspace


@pytest.fixture(scope="session")
def sample(make_template: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Write the sample once, to a database that others are copies of."""
    folder = init_workspace(tmp_path_factory.mktemp("sample") / "survey").folder
    config = folder / "spica.toml"
    config.write_text('node = "n1"\n' + config.read_text())
    workspace = read_workspace(folder)
    with Database(make_template(TEMPLATE)) as database, database.begin() as session:
        made = fill_survey(session, workspace)
    return Sample(made, workspace)


@pytest.fixture
def database(request: pytest.FixtureRequest, make_database: Callable[..., Database]) -> Database:
    """Return a database of this test alone: a copy of the sample where the test asks for it, else without rows."""
    if "survey" not in request.fixturenames:
        return make_database()
    request.getfixturevalue("sample")
    return make_database(TEMPLATE)


@pytest.fixture
def survey(database: Database, workspace: Workspace, sample: Sample) -> Survey:
    """Return the sample, in the database and the folders of this test; its node has just been heard of."""
    for name, root in sample.workspace.roots.items():
        shutil.copytree(root, workspace.roots[name], dirs_exist_ok=True)
    with database.begin() as session:
        say_alive(session, know_node(session, workspace.node, "ocs1"))
    return copy.deepcopy(sample.made)


@pytest.fixture
def app(database: Database, workspace: Workspace) -> FastAPI:
    """Return the application of this test; it answers to the name of the test client."""
    from spica_web.guard import hosts_for

    return make_app(workspace, database, hosts_for("127.0.0.1", ["testserver"]))


@pytest.fixture
def site(app: FastAPI) -> Site:
    """Return the site of the application."""
    found: Site = app.state.site
    return found


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Return a client without a session."""
    with TestClient(app, follow_redirects=False, headers={"accept": "text/html"}) as made:
        yield made


class Visitor:
    """Somebody with a session: a client whose requests bear cookie and origin as a browser's do."""

    def __init__(self, client: TestClient, site: Site) -> None:
        """Nobody yet."""
        self.client, self.site = client, site

    def become(self, token: str) -> TestClient:
        """Enter with a session token."""
        self.client.cookies.clear()
        self.client.cookies.set(self.site.cookie, token)
        self.client.headers["origin"] = ORIGIN
        return self.client


@pytest.fixture
def visitor(client: TestClient, site: Site) -> Visitor:
    """Return somebody who may become anybody of the sample."""
    return Visitor(client, site)


# In a browser ---------------------------------------------------------------------------------------------------------

CHROMIUM = os.environ.get("SPICA_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture
def server(workspace: Workspace, survey: Survey) -> Iterator[str]:
    """Return the address that a server process of the sample prints, with its one-time token."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
    words = [sys.executable, "-m", "spica_web", "--workspace", str(workspace.folder), "--port", "0"]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{20,}", line), line
    yield line
    process.terminate()
    assert process.wait(15) is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return Chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


def watch_faults(page: Page) -> list[str]:
    """Return a list that will hold what goes wrong on a page: faults of script and of policy."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    return faults


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """Return a page that has entered by the printed address; a fault of script or policy fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    faults = watch_faults(opened)
    opened.goto(server)
    expect(opened).to_have_url(re.compile(r"^http://127\.0\.0\.1:\d+/$"))
    yield opened
    context.close()
    assert faults == []

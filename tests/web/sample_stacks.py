"""The rest of the small survey: a delivered stack, a failed one, jobs in every state, people."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from spica.db import job as jobs
from spica.db.context import PlacedProduct
from spica.db.image import plan_image
from spica.db.person import add_person, make_session
from spica.db.plan import add_plan, know_recipe
from spica.db.product import record_outcomes
from spica.db.record import record_all
from spica.db.selection import judge, record_selection
from spica.db.tables.image import ImageRow
from spica.db.tables.product import SourceRow
from spica.files.workspace import Workspace
from spica.model.association import Association, Mode
from spica.model.grade import GradeRecord, grade_by_limits
from spica.model.image import (
    ImageKind,
)
from spica.model.job import ItemOutcome, Outcome, Reason
from spica.model.person import PersonRole
from spica.model.product import Contribution, DeliveredFile, DeliveryRecord, StackRecord
from spica.model.quality import DetectorMeasures, QualityRecord
from spica.model.selection import parse_rule
from spica.model.solution import SolutionRecord, SolvedDetector, SolvedImage

from .sample import FIELDS, Builder, Survey, corners, sky_picture


class StackBuilder(Builder):
    """Adds stacks and their jobs to the exposures."""

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


def fill_survey(session: Session, workspace: Workspace, n: int = 9, side: int = 96, seed: int = 7) -> Survey:
    """Write the sample and return its ids."""
    builder = StackBuilder(session, workspace, np.random.default_rng(seed), side)
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

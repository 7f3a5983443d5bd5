"""Steps run in this process by their own runner, on exposures of a tiny simulated survey."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from spica.files.checksum import sha256_file
from spica.files.jobfolder import attempt_folder, read_result, write_inputs, write_job
from spica.model.job import FileRef, Inputs, ItemOutcome, Request, ResolvedInput, Result
from spica.model.recipe import read_recipe
from spica.model.record import canonical, to_json
from spica.steps import __main__ as runner
from spica.steps.simulate import SurveyParameters, SurveyTruth, simulate_survey

TINY = SurveyParameters(
    n_objects=1,
    filters=("r",),
    n_exposures=3,
    n_x=2,
    n_y=1,
    detector_pix=(384, 384),
    stars_per_arcmin2=22.0,
    galaxies_per_arcmin2=3.0,
    seeing_arcsec=(0.7, 0.9),
    pointing_error_arcsec=8.0,
    n_cloudy=0,
    n_defocused=0,
    n_trailed=0,
    n_truncated=1,
    n_missing_keyword=1,
    seed=11,
)


@dataclass
class Ran:
    """One attempt at a step: how it ended and what it left."""

    code: int
    folder: Path
    result: Result

    def path(self, role: str, item: str | None = None) -> Path:
        """Return the path of the only product of a role (and item)."""
        (found,) = [p for p in self.result.products if p.role == role and item in (None, p.item)]
        return self.folder / found.path

    def record(self, kind: str, item: str | None = None) -> dict[str, Any]:
        """Return the only record of a type (and item)."""
        (found,) = [r for r in self.result.records if r["type"] == kind and item in (None, r["item"])]
        return found

    def whole(self) -> dict[str, ItemOutcome]:
        """Return the outcome of each item as a whole; there may be one only."""
        outcomes = [o for o in self.result.outcomes if o.detector is None]
        by_item = {o.item: o for o in outcomes}
        assert len(by_item) == len(outcomes), f"an item has two outcomes: {outcomes}"
        return by_item


@dataclass
class Bench:
    """Runs steps below one folder."""

    folder: Path
    numbers: Any = field(default_factory=lambda: count(1))

    def run(
        self,
        kind: str,
        inputs: Iterable[tuple[str, str | None, Path]],
        *settings: str,
        facts: dict[str, Any] | None = None,
        subject: str | None = None,
        min_inputs: int = 1,
        min_fraction: float = 0.0,
        engine: str = "native",
        left_out: tuple[ItemOutcome, ...] = (),
    ) -> Ran:
        """Run one step as the script of its job does; inputs are role, item and path."""
        recipe = read_recipe([], list(settings))
        resolved = tuple(
            ResolvedInput(role, item, None, FileRef(i, sha256_file(p), p.name, p.stat().st_size), str(p))
            for i, (role, item, p) in enumerate(inputs, 1)
        )
        request = Request(
            kind=kind,
            engine=engine,
            recipe=to_json(recipe),
            recipe_sha256=recipe.sha256(),
            subject=subject,
            label=f"{kind} of a test",
            facts=facts or {},
            min_inputs=min_inputs,
            min_fraction=min_fraction,
        )
        job = next(self.numbers)
        folder = attempt_folder(self.folder, job, 1)
        folder.mkdir(parents=True)
        write_job(folder.parent, "#!/bin/sh\n", canonical(request))
        write_inputs(folder, Inputs(job, 1, f"fence-{job}", resolved, left_out))
        code = runner.main(["run", "--attempt", str(folder)])
        result = read_result(folder)
        assert result is not None, "a step ends with a result, whatever happens"
        return Ran(code, folder, result)


@dataclass(frozen=True)
class Chain:
    """The steps run once after each other: what every test may look at, and nobody changes."""

    truth: SurveyTruth
    sky: Path
    good: tuple[str, ...]
    assessed: Ran
    solved: Ran
    stacked: Ran

    def facts(self, item: str) -> Path:
        return self.assessed.path("facts", file_item(item))

    def astrometry_inputs(self, reference: Path | None = None) -> list[tuple[str, str | None, Path]]:
        """Return inputs of a solution of all good exposures."""
        rows: list[tuple[str, str | None, Path]] = []
        for item in self.items:
            rows += [(r, item, self.assessed.path(r, file_item(item))) for r in ("facts", "catalogue")]
        return [*rows, ("reference", None, reference or self.truth.reference_path)]

    def stack_inputs(self, items: tuple[str, ...] | None = None) -> list[tuple[str, str | None, Path]]:
        """Return inputs of a stack of some exposures, by default all that were solved."""
        rows: list[tuple[str, str | None, Path]] = []
        for item in items or self.items:
            rows.append(("exposure", item, self.sky / f"{self.name(item)}.fits"))
            rows += [(r, item, self.assessed.path(r, file_item(item))) for r in ("facts", "weight")]
            rows.append(("head", item, self.solved.path("head", item)))
        return [*rows, ("measures", None, self.solved.path("measures"))]

    @property
    def items(self) -> tuple[str, ...]:
        """Return the good exposures as later steps call them."""
        return tuple(f"image:{i}" for i in range(1, len(self.good) + 1))

    def name(self, item: str) -> str:
        return self.good[int(item.partition(":")[2]) - 1]

    @property
    def stack_facts(self) -> dict[str, Any]:
        """Return what a plan tells the stack step."""
        seeing = {i: self.assessed.record("quality", file_item(i))["measures"]["seeing_arcsec"] for i in self.items}
        return {"name": "tiny_r", "seeing_arcsec": seeing, "circle": None}

    def made_inputs(self) -> list[tuple[str, str | None, Path]]:
        """Return inputs of the steps after the stack."""
        return [(r, "image:9", self.stacked.path(r)) for r in ("stack", "weight", "measures")]


def file_item(item: str) -> str:
    """Return the item of the file from which an image of this bench came."""
    return item.replace("image", "file")


@pytest.fixture(scope="session")
def step_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return a bench for steps."""
    return Bench(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="session")
def chain(step_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Return the chain assess, astrometry, stack, run once on three good and two bad exposures and one text."""
    sky = tmp_path_factory.mktemp("sky")
    truth = simulate_survey(sky, TINY)
    plans = [e.plan for e in truth.exposures]
    good = tuple(p.name for p in plans if p.truncated_fraction is None and p.missing_keyword is None)
    bad = tuple(p.name for p in plans if p.name not in good)
    (sky / "notes.txt").write_text("clouds\n")
    paths = [*(sky / f"{n}.fits" for n in (*good, *sorted(bad))), sky / "notes.txt"]
    assessed = step_bench.run("assess", [("exposure", f"file:{i}", p) for i, p in enumerate(paths, 1)], min_inputs=0)
    assert assessed.code == 0, assessed.result.failure
    half = Chain(truth, sky, good, assessed, assessed, assessed)
    solved = step_bench.run("astrometry", half.astrometry_inputs(), subject="image:9")
    assert solved.code == 0, solved.result.failure
    half = Chain(truth, sky, good, assessed, solved, solved)
    stacked = step_bench.run("stack", half.stack_inputs(), facts=half.stack_facts, subject="image:9")
    assert stacked.code == 0, stacked.result.failure
    return Chain(truth, sky, good, assessed, solved, stacked)


@pytest.fixture(scope="session")
def lonely_stars(chain: Chain) -> Callable[[float], tuple[Any, Any, Any]]:
    """Return a finder of true stars brighter than a magnitude with nothing comparable within 7 arcsec."""
    import numpy as np
    from astropy import units
    from astropy.coordinates import SkyCoord

    def find(faintest: float) -> tuple[Any, Any, Any]:
        sky = chain.truth.sky
        ra, dec = sky.positions_at(chain.truth.exposures[0].plan.epoch_yr)
        mag = sky.mags["r"]
        place = SkyCoord(ra, dec, unit="deg")
        one, other, _, _ = place.search_around_sky(place, 7.0 * units.arcsec)
        disturbed = np.zeros(len(ra), bool)
        disturbed[one[(one != other) & (mag[other] < mag[one] + 4)]] = True
        good = sky.is_star & (mag > 17) & (mag < faintest) & ~disturbed
        return ra[good], dec[good], mag[good]

    return find

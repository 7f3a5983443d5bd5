"""`python -m benchmarks`: simulate, run both chains beside each other, compare with truth, write `results.md`.

`python -m benchmarks intake` measures the intake of exposures instead (`intake.py`), `pages` the web pages with a large
survey and twenty people (`pages.py`), `cone` rules within circles on ten million exposures (`cone.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import astromatic_chain, cone, intake, pages
from benchmarks.errors import compare_kron, mean_epoch, measure_stack
from benchmarks.kernels import KernelCost
from benchmarks.measure import Cost
from benchmarks.native_chain import (
    Job,
    find_jobs,
    prepare_workspace,
    product,
    replay,
    run_whole,
    shares,
    step_environment,
)
from benchmarks.report import Measured, section_of, write_report, write_section
from benchmarks.survey import FILTER, Size, make_survey
from spica.files.workspace import kernel_cache
from spica.model.job import JobKind
from spica.reference.reading import read_reference
from spica.steps.simulate import SurveyTruth

RESULTS = Path(__file__).with_name("results.md")
SECTIONS = ("Intake", "Pages", "Cones")
"""Parts of the page that other benchmarks write."""


def measure(folder: Path, size: Size, rounds: int = 1, slots: int = 2, kernels: bool = True) -> Measured:
    """Run everything in a folder and return what was measured."""
    folder = folder.resolve()
    truth, exposures = make_survey(folder, size)
    epoch = truth.exposures[len(truth.exposures) // 2].plan.epoch_yr
    reference = read_reference(truth.reference_path).to_ldac(folder / "reference.ldac", band=FILTER, epoch_yr=epoch)
    rival: dict[str, list[Cost]] = {}
    native: dict[str, list[Cost]] = {}
    whole: dict[str, list[Cost]] = {"ingest": [], "schedule": []}
    jobs: list[Job] = []
    for turn in range(rounds):
        workspace = prepare_workspace(folder / f"workspace-{turn}", truth.reference_path, slots)
        for name, cost in zip(whole, run_whole(workspace, folder / "incoming", slots), strict=True):
            whole[name].append(cost)
        jobs = find_jobs(workspace)
        _stage_by_stage(folder, turn, truth, exposures, reference, jobs, slots, rival, native)
    return _judge(folder, size, slots, truth, rival, native, whole, jobs, kernels)


def _stage_by_stage(
    folder: Path,
    turn: int,
    truth: SurveyTruth,
    exposures: Sequence[Path],
    reference: Path,
    jobs: Sequence[Job],
    slots: int,
    rival: dict[str, list[Cost]],
    native: dict[str, list[Cost]],
) -> None:
    """Run each stage of either chain, one right after the other, so that both see the same machine."""
    room, scale = folder / "astromatic", truth.camera.pixel_scale_arcsec
    steps: dict[str, tuple[str | None, Callable[[], Cost] | None]] = {
        JobKind.ASSESS: ("extract", lambda: astromatic_chain.extract(room, exposures, scale, slots)),
        JobKind.ASTROMETRY: ("solve", lambda: astromatic_chain.solve(room, exposures, reference, slots)),
        JobKind.STACK: ("stack", lambda: astromatic_chain.stack(room, exposures, scale, slots)),
        JobKind.CATALOGUE: (
            "catalogue",
            lambda: astromatic_chain.catalogue(room, room / "stack.fits", room / "stack.weight.fits", scale),
        ),
        JobKind.QUALITY: (None, None),
        JobKind.DELIVER: (None, None),
    }
    for kind, (name, action) in steps.items():
        if name is not None and action is not None:
            rival.setdefault(name, []).append(action())
        mine = [j for j in jobs if j.kind == kind]
        threads = 1 if kind == JobKind.ASSESS else slots
        environment = step_environment(kernel_cache(folder / "cache"), threads)
        native.setdefault(str(kind), []).append(replay(mine, folder / f"replay-{turn}", environment, slots))
        print(f"{kind}: native {native[str(kind)][-1]}, AstrOmatic {rival[name][-1] if name else '-'}", flush=True)


def _judge(
    folder: Path,
    size: Size,
    slots: int,
    truth: SurveyTruth,
    rival: dict[str, list[Cost]],
    native: dict[str, list[Cost]],
    whole: dict[str, list[Cost]],
    jobs: list[Job],
    kernels: bool,
) -> Measured:
    """Compare both stacks with truth, and both catalogues of the native stack."""
    room, scale = folder / "astromatic", truth.camera.pixel_scale_arcsec
    image, weight = product(jobs, JobKind.STACK, "stack"), product(jobs, JobKind.STACK, "weight")
    ours = product(jobs, JobKind.CATALOGUE, "catalogue")
    astromatic_chain.catalogue(room, image, weight, scale, "native-stack.ldac")
    native_epoch = mean_epoch(truth, {name: share for name, (share, _) in shares(jobs).items()})
    plain_epoch = mean_epoch(truth, {e.plan.name: 1.0 for e in truth.exposures})
    stacks = {
        "native": measure_stack(ours, truth, native_epoch),
        "native stack, source-extractor's catalogue": measure_stack(room / "native-stack.ldac", truth, native_epoch),
        "AstrOmatic": measure_stack(room / "stack.ldac", truth, plain_epoch),
    }
    kron = compare_kron(ours, room / "native-stack.ldac", truth, native_epoch)
    costs = _kernels(folder, jobs[0].folder.parents[3], image) if kernels else []
    return Measured(size, slots, rival, native, whole, jobs, stacks, kron, costs)


def _kernels(folder: Path, workspace: Path, image: Path) -> list[KernelCost]:
    environment = step_environment(kernel_cache(folder / "cache"), 1)
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels", str(folder), str(workspace), str(image)],
        env={**os.environ, **environment, "PYTHONPATH": str(RESULTS.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise RuntimeError(f"the kernels could not be timed:\n{run.stderr[-2000:]}")
    return [KernelCost(**k) for k in json.loads(run.stdout)]


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the page, or with `intake` first its section alone; return 0."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["intake"]:
        return intake.main(words[1:])
    if words[:1] == ["pages"]:
        return pages.main(words[1:])
    if words[:1] == ["cone"]:
        return cone.main(words[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--exposures", type=int, default=8)
    parser.add_argument("--grid", type=int, default=2, help="detectors along a side")
    parser.add_argument("--detector", type=int, default=2048, help="side of a detector, pixels")
    parser.add_argument("--stars", type=float, default=12.0, help="stars an arcmin²")
    parser.add_argument("--rounds", type=int, default=1, help="repeat; the cheapest run of each stage counts")
    parser.add_argument("--slots", type=int, default=2, help="processes or threads at a time, of both chains")
    parser.add_argument("--folder", type=Path, help="keep everything there; by default a temporary folder")
    parser.add_argument("--output", type=Path, default=RESULTS, help="page to write")
    options = parser.parse_args(words)
    size = Size(options.exposures, options.grid, options.detector, options.stars)
    with tempfile.TemporaryDirectory(prefix="spica-bench-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        page = write_report(measure(folder, size, options.rounds, options.slots))
    before = options.output.read_text(encoding="utf-8") if options.output.is_file() else ""
    options.output.write_text(page.rstrip() + "\n", encoding="utf-8")
    for heading in SECTIONS:
        kept = section_of(before, heading)
        if kept:
            write_section(options.output, heading, kept)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

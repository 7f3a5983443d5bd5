"""The native chain twice over: whole, through the command line; and step by step, each job as a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Command, Cost, run_stage
from spica.files.jobfolder import INPUTS, REQUEST, attempt_folder, job_folder, read_result
from spica.model.job import JobKind, Result

STAGES = (JobKind.ASSESS, JobKind.ASTROMETRY, JobKind.STACK, JobKind.QUALITY, JobKind.CATALOGUE, JobKind.DELIVER)


@dataclass(frozen=True)
class Job:
    """One job that the command line ran."""

    number: int
    kind: str
    folder: Path
    result: Result


def step_environment(cache: Path, threads: int) -> dict[str, str]:
    """Return the variables that a daemon sets for a step."""
    counts = {f"{tool}_NUM_THREADS": str(threads) for tool in ("OMP", "NUMBA", "OPENBLAS", "MKL")}
    return {**counts, "NUMBA_CACHE_DIR": str(cache)}


def _spica(workspace: Path, words: Sequence[str], name: str) -> Cost:
    arguments = [sys.executable, "-m", "spica.cli.main", *words]
    return run_stage([Command(arguments, workspace, workspace.with_name(f"{workspace.name}-{name}.log"))])


def prepare_workspace(folder: Path, reference: Path, slots: int) -> Path:
    """Make an empty workspace with its reference catalogue, and compile the kernels where they are not yet."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _spica(folder, ["init", str(folder)], "init")
    config = folder / "spica.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("# slots = 0", f"slots = {slots}"), encoding="utf-8")
    _spica(folder, ["warm"], "warm")
    _spica(folder, ["reference", "add", str(reference)], "reference")
    return folder


def run_whole(workspace: Path, incoming: Path, threads: int) -> tuple[Cost, Cost]:
    """Ingest and schedule as a user does; return the cost of each, the daemon and its steps included."""
    ingest = _spica(workspace, ["ingest", str(incoming), "--wait"], "ingest")
    wanted = ["schedule", "survey", "--wait", "--set", f"resources.threads={threads}"]
    return ingest, _spica(workspace, wanted, "schedule")


def find_jobs(workspace: Path) -> list[Job]:
    """Return the jobs of a workspace in order, with the result of their first attempt."""
    root, jobs, number = workspace / "jobs", [], 1
    while job_folder(root, number).is_dir():
        attempt = attempt_folder(root, number, 1)
        result = read_result(attempt)
        if result is None or not result.done:
            raise RuntimeError(f"job {number} has no whole result; look at its log in {attempt}")
        jobs.append(Job(number, result.kind, job_folder(root, number), result))
        number += 1
    return jobs


def replay(jobs: Sequence[Job], folder: Path, environment: Mapping[str, str], slots: int) -> Cost:
    """Run jobs of one kind again from their frozen requests and inputs, `slots` processes at a time."""
    commands = []
    for job in jobs:
        attempt = folder / f"{job.number:06d}" / "attempt-1"
        if attempt.parent.exists():
            shutil.rmtree(attempt.parent)
        attempt.mkdir(parents=True)
        shutil.copy(job.folder / REQUEST, attempt.parent / REQUEST)
        shutil.copy(job.folder / "attempt-1" / INPUTS, attempt / INPUTS)
        arguments = [sys.executable, "-m", "spica.steps", "run", "--attempt", str(attempt)]
        commands.append(Command(arguments, attempt, attempt / "log.txt", environment))
    return run_stage(commands, slots)


def product(jobs: Sequence[Job], kind: str, role: str) -> Path:
    """Return the only product of a role of the only job of a kind."""
    job = next(j for j in jobs if j.kind == kind)
    found = [p for p in job.result.products if p.role == role]
    if len(found) != 1:
        raise RuntimeError(f"job {job.number} made {len(found)} products {role}; look at its log in {job.folder}")
    return job.folder / "attempt-1" / found[0].path


def shares(jobs: Sequence[Job]) -> dict[str, tuple[float, float]]:
    """Return share of weight and flux scale of each exposure in the stack, by name."""
    measures = json.loads(product(jobs, JobKind.STACK, "measures").read_text(encoding="utf-8"))
    request = json.loads((next(j for j in jobs if j.kind == JobKind.STACK).folder / REQUEST).read_text("utf-8"))
    names = {
        i["item"]: Path(i["file"]["name"]).stem
        for i in request["inputs"]
        if i["role"] == "exposure" and i.get("file") is not None
    }
    given = measures["record"]["contributions"]
    return {names[c["item"]]: (c["weight_fraction"], c["flux_scale"]) for c in given}

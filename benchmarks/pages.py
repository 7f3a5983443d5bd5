"""`python -m benchmarks pages`: how long the pages take with a large survey and twenty people at once.

A survey of rows (`survey_rows.py`) in an embedded PostgreSQL, the web server as a process of its own, and visitors
that look at lists, images and stacks, grade from the queue and try rules, each with a second of thought. Times are
taken at the visitors' end, from the first byte sent to the last one read, on the cores that server, database and
visitors share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil
from sqlalchemy import text

from benchmarks.report import write_section
from benchmarks.survey_rows import Numbers, analyse, fill_rows
from benchmarks.visitors import Habit, Tally, Visitor, visit
from spica.db.engine import Database, open_database
from spica.db.person import add_person, find_person, make_session
from spica.db.schema import migrate
from spica.files.workspace import Workspace, init_workspace, read_workspace
from spica.model.errors import SpicaError
from spica.model.person import PersonRole
from spica_web.session import cookie_name

RESULTS = Path(__file__).with_name("results.md")
ROOT = Path(__file__).resolve().parents[1]
GOALS_MS = {"rule preview": 150.0, "rule spreads": 500.0}
PAGE_GOAL_MS = 50.0
RULES = (
    "grade in (A, B) and seeing < {cut:.2f}",
    'filter = "r" and airmass < 1.5 and seeing < {cut:.2f}',
    "limiting_mag > 24 and ellipticity < 0.1 and seeing between 0.4 and {cut:.2f}",
    "skyprobe is unknown or skyprobe < 0.1 and seeing < {cut:.2f}",
)
SORTS = ("", "-mjd", "seeing", "-limiting_mag")


@dataclass(frozen=True)
class Ids:
    """What the visitors may ask for."""

    images: tuple[int, int]
    stacks: tuple[int, ...]
    jobs: int


def read_ids(database: Database) -> Ids:
    """Return the range of exposures, some stacks, and the newest job."""
    with database.read() as session:
        low, high = session.execute(text("SELECT min(id), max(id) FROM image WHERE kind = 'exposure'")).one()
        stacks = session.scalars(text("SELECT id FROM image WHERE kind = 'stack' ORDER BY id DESC LIMIT 2000")).all()
        jobs = session.scalar(text("SELECT max(id) FROM job"))
    return Ids((low, high), tuple(stacks), jobs or 0)


def make_habits(ids: Ids) -> tuple[Habit, ...]:
    """Return what people do: the queue most of all, then images and lists."""

    def rule(v: Visitor) -> str:
        return quote(v.rng.choice(RULES).format(cut=v.rng.uniform(0.6, 1.4)))

    async def exposures(v: Visitor) -> None:
        await v.get("exposures", f"/exposures?sort={v.rng.choice(SORTS)}&page={v.rng.randint(1, 5)}")

    async def by_rule(v: Visitor) -> None:
        await v.get("exposures by rule", f"/exposures?rule={rule(v)}&sort={v.rng.choice(SORTS)}")

    async def image(v: Visitor) -> None:
        await v.get("image", f"/images/{v.rng.randint(*ids.images)}")

    async def stacks(v: Visitor) -> None:
        await v.get("stacks", f"/stacks?page={v.rng.randint(1, 20)}")

    async def stack(v: Visitor) -> None:
        await v.get("stack", f"/stacks/{v.rng.choice(ids.stacks)}")

    async def jobs(v: Visitor) -> None:
        await v.get("jobs", f"/jobs?before={v.rng.randint(1000, ids.jobs)}")

    async def job_states(v: Visitor) -> None:
        await v.get("jobs of a state", f"/jobs?state={v.rng.choice(('FAILED', 'READY', 'SUCCEEDED'))}")

    async def queue(v: Visitor) -> None:
        words = {"rule": v.rng.choice(RULES[:2]).format(cut=1.2), "kind": "ungraded"}
        found = (await v.post("queue: next", "/api/queue/next", {"queue": words, "n": 4, "have": []})).json()
        for item in found.get("items", [])[:2]:
            await asyncio.sleep(v.rng.uniform(0.5, 1.5))
            given = {"image_id": item["id"], "grade": v.rng.choice("ABCD"), "seconds": 1.0}
            await v.post("queue: grade", "/api/queue/grade", given)

    async def preview(v: Visitor) -> None:
        asked = rule(v)
        await v.get("rule preview", f"/api/rules/preview?rule={asked}")
        await v.get("rule spreads", f"/api/rules/spreads?rule={asked}")

    async def home(v: Visitor) -> None:
        await v.get("survey", "/")

    async def nights(v: Visitor) -> None:
        await v.get("nights", "/nights")

    async def grades(v: Visitor) -> None:
        await v.get("grades", "/grades")

    async def find(v: Visitor) -> None:
        await v.get("find", f"/find?q={v.rng.randint(100, 999)}")

    return (
        *(queue, queue, queue, image, image, exposures, by_rule, stacks, stack, jobs, job_states, preview),
        *(home, nights, grades, find),
    )


@contextmanager
def running_server(workspace: Workspace) -> Iterator[tuple[int, psutil.Process]]:
    """Start the web server, give its port and process, and end it."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
    words = [sys.executable, "-m", "spica_web", "--workspace", str(workspace.folder), "--port", "0"]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        if found is None:
            raise RuntimeError("the web server did not start; run python -m spica_web by hand")
        yield int(found[1]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def make_people(database: Database, n: int) -> list[str]:
    """Return session tokens of n operators."""
    tokens = []
    with database.begin() as session:
        for i in range(n):
            known = find_person(session, f"visitor{i}")
            person = known.id if known is not None else add_person(session, f"visitor{i}", PersonRole.OPERATOR)
            tokens.append(make_session(session, person))
    return tokens


async def wait_for_snapshot(visitor: Visitor) -> float:
    """Return how long the server takes to read the survey, s."""
    begun = time.monotonic()
    while (await visitor.get("waiting", "/exposures")).status != 200:
        await asyncio.sleep(0.5)
    return time.monotonic() - begun


async def measure_pages(
    database: Database, workspace: Workspace, users: int, seconds: float
) -> tuple[Tally, float, float]:
    """Return times by page, how long the first reading took (s), and the server's memory (MB)."""
    tally, tokens, habits = Tally(), make_people(database, users), make_habits(read_ids(database))
    with running_server(workspace) as (port, process):
        cookie = cookie_name(workspace)
        visitors = [Visitor("127.0.0.1", port, f"{cookie}={t}", i, tally) for i, t in enumerate(tokens)]
        loading = await wait_for_snapshot(visitors[0])
        await visit(visitors, habits, min(20.0, seconds), 1.0)  # caches fill, statements are planned
        tally.seconds.clear()
        tally.failed.clear()
        await visit(visitors, habits, seconds, 1.0)
        return tally, loading, process.memory_info().rss / 1e6


def report(numbers: Numbers, users: int, tally: Tally, loading: float, memory: float) -> str:
    """Return the section of the results."""
    lines = [
        "",
        f"{numbers.exposures:,} exposures, {numbers.stacks:,} stacks, {numbers.grades:,} grades, "
        f"{numbers.jobs:,} jobs; {users} people with a second of thought; server, database and visitors on "
        f"{os.cpu_count()} cores. The server read the survey in {loading:.0f} s and holds {memory:.0f} MB.",
        "",
        "| page | n | median ms | p95 ms | goal ms | longest ms | kB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(tally.seconds):
        goal = GOALS_MS.get(name, PAGE_GOAL_MS)
        p95 = tally.percentile(name, 0.95)
        lines.append(
            f"| {name} | {len(tally.seconds[name])} | {tally.percentile(name, 0.5):.0f} | {p95:.0f} | "
            f"{goal:.0f}: {'met' if p95 <= goal else 'missed'} | {tally.percentile(name, 1.0):.0f} | "
            f"{tally.sizes[name] / 1000:.0f} |"
        )
    if tally.failed:
        lines += ["", f"{len(tally.failed)} answers were no success, the first: `{tally.failed[0][:200]}`"]
    return "\n".join(lines) + "\n"


def fill(workspace: Workspace, numbers: Numbers, seed: int) -> None:
    """Make the survey where it is not there yet."""
    with open_database(workspace, check_schema=False) as database:
        migrate(database)
        with database.read() as session:
            there = session.scalar(text("SELECT EXISTS (SELECT 1 FROM image)"))
        if there:
            return
        with database.begin() as session:
            fill_rows(session, numbers, seed)
        analyse(database)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write the section; return 0, or 1 where an answer was no success."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pages", description=__doc__)
    for name in ("exposures", "stacks", "grades", "jobs", "nights"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Numbers, name))
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--workspace", type=Path, help="keep the survey there; filled where it is empty")
    parser.add_argument("--output", type=Path, default=RESULTS, help="page to write the section to")
    given = parser.parse_args(words)
    numbers = Numbers(given.exposures, given.stacks, given.grades, given.jobs, given.nights)
    with tempfile.TemporaryDirectory(prefix="spica-pages-") as scratch:
        folder = given.workspace or Path(scratch)
        workspace = init_workspace(folder) if not (folder / "spica.toml").exists() else read_workspace(folder)
        fill(workspace, numbers, 1)
        with open_database(workspace) as database:
            try:
                found = asyncio.run(measure_pages(database, workspace, given.users, given.seconds))
            except SpicaError as trouble:
                raise SystemExit(str(trouble)) from trouble
    section = report(numbers, given.users, *found)
    write_section(given.output, "Pages", section)
    print(section)
    return 1 if found[0].failed else 0


if __name__ == "__main__":
    sys.exit(main())

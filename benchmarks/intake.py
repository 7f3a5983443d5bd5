"""`python -m benchmarks intake`: exposures a second from file to database row, and verification, on one core.

Each exposure goes through what intake does in one process: header cards from the file, the instrument among all
profiles, facts, the facts sheet and its JSON, packed headers, and rows in a batched transaction as the harvest writes
them. Beside it, on the same files in the same run: `astropy.io.fits.open` with every header parsed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from astropy.io import fits
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.headers import make_large, make_mosaics, make_singles
from benchmarks.report import write_section
from benchmarks.sums import Summed, measure_sums
from spica.db import job as jobs
from spica.db.context import HarvestContext, PlacedProduct
from spica.db.embedded import start_server
from spica.db.engine import Database
from spica.db.file import know_file
from spica.db.node import know_node
from spica.db.record import record_all
from spica.db.schema import migrate
from spica.files.header import pack_headers
from spica.files.scan import read_headers
from spica.instruments.registry import Registry, load_instruments, translate
from spica.model.harvest import Record
from spica.model.image import FileKind
from spica.model.job import Request
from spica.model.product import Role
from spica.model.record import canonical
from spica.steps.facts import make_sheet

RESULTS = Path(__file__).with_name("results.md")
STAGES = (
    *("read headers", "recognise", "translate", "facts sheet", "canonical JSON", "pack headers"),
    *("write packed headers", "database rows"),
)
BATCH = 50
"""Exposures of one transaction."""
GOALS = {"single": 300.0, "mosaic": 5.0}


@dataclass
class Intake:
    """CPU seconds of each stage over all exposures of one kind; `server_s` is that of the database server."""

    kind: str
    exposures: int
    header_bytes: int
    packed_bytes: int = 0
    json_bytes: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    server_s: float = 0.0
    wall_s: float = 0.0
    peer_s: float = 0.0
    floor_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        """Return the CPU seconds of this process and the server together."""
        return sum(self.stages.values()) + self.server_s

    @property
    def per_second(self) -> float:
        """Return exposures a second of one core that does nothing else."""
        return self.exposures / self.cpu_s


class _Clock:
    """Adds the CPU time since the last call to a stage, and the wall time to the whole."""

    def __init__(self, measured: Intake) -> None:
        self.measured, self.cpu, self.wall = measured, 0.0, 0.0

    def start(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def __call__(self, stage: str) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.measured.stages[stage] += cpu - self.cpu
        self.measured.wall_s += wall - self.wall
        self.start()


@contextmanager
def one_core() -> Iterator[int]:
    """Keep this process, and all that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    core = max(before)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def survey(folder: Path) -> Iterator[Database]:
    """Give the database of a fresh survey on a server of its own, with fsync as in service."""
    with tempfile.TemporaryDirectory(prefix="sp-", dir="/tmp") as short:
        Path(short).chmod(0o711)
        server = start_server(Path(short) / "db", Path(short) / "run" / "s", grace_s=0.1)
        try:
            with Database(server.url) as database:
                migrate(database)
                yield database
        finally:
            server.stop()


def _claimed(database: Database) -> HarvestContext:
    """Make one running attempt for the harvest to write for."""
    with database.begin() as session:
        (job_id,) = jobs.reserve_job_ids(session, 1)
        request = Request("assess", "native", {}, "0" * 64)
        jobs.create_jobs(session, None, [jobs.NewJob(job_id, "assess", "native", request, "#!/bin/sh\n", "assess")])
        node_id = know_node(session, "bench")
        claimed = jobs.claim(session, node_id, 3600.0)
        assert claimed is not None
        return HarvestContext(claimed.attempt_id, job_id, None, node_id)


def _known(database: Database, kind: str, paths: Sequence[Path]) -> list[int]:
    """Make the file rows that intake makes when it finds the files."""
    with database.begin() as session:
        return [
            know_file(session, hashlib.sha256(f"{kind} {p.name}".encode()).hexdigest(), 2880, FileKind.EXPOSURE, p.name)
            for p in paths
        ]


def _backend(session: Session) -> psutil.Process:
    return psutil.Process(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def _cpu(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def take_in(
    database: Database, registry: Registry, kind: str, paths: Sequence[Path], folder: Path, batch: int = BATCH
) -> Intake:
    """Translate and register exposures, `batch` a transaction; return what each stage cost."""
    claimed, ids = _claimed(database), _known(database, kind, paths)
    measured = Intake(kind, len(paths), sum(len(h.to_bytes()) for p in paths for h in read_headers(p)))
    clock = _Clock(measured)
    for start in range(0, len(paths), batch):
        records: list[Record] = []
        products: list[PlacedProduct] = []
        for number, path in zip(ids[start : start + batch], paths[start : start + batch], strict=True):
            clock.start()
            item = f"file:{number}"
            headers = read_headers(path)
            clock("read headers")
            instrument = registry.recognise(headers, path.name)
            clock("recognise")
            facts = translate(instrument, headers, path.name)
            clock("translate")
            sheet = make_sheet(item, f"{kind}-{path.stem}", facts, instrument)
            clock("facts sheet")
            measured.json_bytes += len(canonical(sheet).encode())
            clock("canonical JSON")
            packed = pack_headers(headers)
            measured.packed_bytes += len(packed)
            place = folder / f"{path.stem}.headers"
            clock("pack headers")
            place.write_bytes(packed)
            clock("write packed headers")
            records.append(sheet.exposure)
            products.append(PlacedProduct(Role.HEADERS, item, None, number, place))
        context = HarvestContext(claimed.attempt_id, claimed.job_id, None, claimed.node_id, tuple(products))
        with database.begin() as session:
            server = _backend(session)
            before = _cpu(server)
            clock.start()
            record_all(session, records, context)
            session.commit()
            clock("database rows")
            measured.server_s += _cpu(server) - before
    measured.floor_s, measured.peer_s = _floor(paths), _astropy(paths)
    return measured


def _floor(paths: Sequence[Path]) -> float:
    """Return the CPU seconds that reading the header bytes alone takes, at the offsets where they lie."""
    spans = []
    for path in paths:
        with fits.open(path) as units:
            spans.append([(int(h._header_offset), int(h._data_offset - h._header_offset)) for h in units])
    began = time.process_time()
    for path, parts in zip(paths, spans, strict=True):
        descriptor = os.open(path, os.O_RDONLY)
        for offset, length in parts:
            os.pread(descriptor, length, offset)
        os.close(descriptor)
    return time.process_time() - began


def _astropy(paths: Sequence[Path]) -> float:
    """Return the CPU seconds that astropy takes to open the files and parse every card of every header."""
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            with fits.open(path, disable_image_compression=True) as units:
                for unit in units:
                    for card in unit.header.cards:
                        try:
                            _ = card.value
                        except fits.VerifyError:
                            continue
    return time.process_time() - began


def best(rounds: Sequence[Intake]) -> Intake:
    """Return the round that took least; other work on the machine only adds."""
    return min(rounds, key=lambda r: r.cpu_s)


def write_page(intakes: Sequence[Intake], summed: Summed, profiles: int) -> str:
    """Return the section of the page of results."""
    lines = [
        "",
        f"One core for this process and its database server, {profiles} profiles, {BATCH} exposures a transaction. "
        "`single`: one header unit (MicroObservatory, DECam cut-outs); `mosaic`: 41 units with the headers of "
        "MegaPrime, data as holes. CPU milliseconds an exposure, the cheapest round; by the clock other work on the "
        "machine and the wait for the disk at each commit count too. The floor is reading the header bytes alone.",
        "",
        "| stage | " + " | ".join(f"{i.kind} ms" for i in intakes) + " |",
        "| --- |" + " ---: |" * len(intakes),
    ]
    rows: list[tuple[str, list[str]]] = [
        (stage, [f"{1000 * i.stages[stage] / i.exposures:.2f}" for i in intakes]) for stage in STAGES
    ]
    rows += [
        ("database server", [f"{1000 * i.server_s / i.exposures:.2f}" for i in intakes]),
        ("**whole**", [f"{1000 * i.cpu_s / i.exposures:.2f}" for i in intakes]),
        ("**exposures a second of one core**", [f"{i.per_second:.0f} ({_verdict(i)})" for i in intakes]),
        ("exposures a second by the clock", [f"{i.exposures / i.wall_s:.0f}" for i in intakes]),
        ("astropy, all headers parsed", [f"{1000 * i.peer_s / i.exposures:.2f}" for i in intakes]),
        ("ratio whole / astropy", [f"{i.cpu_s / i.peer_s:.2f}" for i in intakes]),
        ("floor: header bytes read", [f"{1000 * i.floor_s / i.exposures:.3f}" for i in intakes]),
        ("kB of headers, packed, JSON", [_sizes(i) for i in intakes]),
    ]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows]
    return "\n".join([*lines, "", *summed.lines()])


def _verdict(i: Intake) -> str:
    return f"goal {GOALS[i.kind]:g}: {'met' if i.per_second >= GOALS[i.kind] else 'missed'}"


def _sizes(i: Intake) -> str:
    n = 1000 * i.exposures
    return f"{i.header_bytes / n:.1f}, {i.packed_bytes / n:.1f}, {i.json_bytes / n:.1f}"


def measure(folder: Path, singles: int, mosaics: int, detectors: int, rounds: int) -> tuple[list[Intake], Summed, int]:
    """Make the files and measure everything on one core; return both intakes, the sums, and the count of profiles."""
    registry = load_instruments(plugin_folders=())
    kinds = {"single": make_singles(folder, singles), "mosaic": make_mosaics(folder, mosaics)}
    large = make_large(folder / "large.fits", detectors)
    with one_core():
        with survey(folder) as database:  # what this process does for the first time is not counted
            for kind, paths in kinds.items():
                take_in(database, registry, kind, paths[:2], folder)
        found = []
        for kind, paths in kinds.items():
            turns = []
            for _ in range(rounds):
                with survey(folder) as database:
                    turns.append(take_in(database, registry, kind, paths, folder))
            found.append(best(turns))
        return found, measure_sums(large, rounds), len(registry.instruments)


def main(arguments: list[str] | None = None) -> int:
    """Measure and write the section; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks intake", description=__doc__)
    parser.add_argument("--singles", type=int, default=600, help="exposures of one header unit")
    parser.add_argument("--mosaics", type=int, default=30, help="exposures of 41 header units")
    parser.add_argument("--detectors", type=int, default=8, help="detectors of the file that is verified")
    parser.add_argument("--rounds", type=int, default=3, help="repeat; the cheapest run counts")
    parser.add_argument("--output", type=Path, default=RESULTS, help="page that gets the section")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="spica-intake-") as scratch:
        found, summed, profiles = measure(
            Path(scratch), options.singles, options.mosaics, options.detectors, options.rounds
        )
    page = write_page(found, summed, profiles)
    write_section(options.output, "Intake", page)
    print(page)
    return 0

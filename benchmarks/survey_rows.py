"""A survey of rows without pixels, as large as wanted: what the pages and their snapshot are measured on.

    python -m benchmarks.survey_rows URL [--exposures N] [--stacks N] [--grades N] [--jobs N] [--seed N] [--measure]

The schema must be there and empty, and the role must be a superuser (foreign keys are not checked while rows are made).
The same numbers and seed make the same survey. `--measure` then measures the snapshot on it and prints a table.
"""

from __future__ import annotations

import argparse
import functools
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import hpgeom
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from spica.db.engine import Database, copy_rows
from spica.db.snapshot import (
    Changes,
    first_failed,
    judge_rows,
    load_snapshot,
    ordered,
    refresh_snapshot,
    row_place,
    spread,
)
from spica.db.snapshot import exposures as sky_exposures
from spica.model.errors import ConflictError
from spica.model.selection import parse_rule

FILTERS = ("u", "g", "r", "i", "z")
N_FIELDS = 200
N_GRADERS = 12
GROUPS = N_FIELDS * len(FILTERS)
INPUTS = 20
CHAIN = ("astrometry", "stack", "quality", "catalogue", "deliver")
RADIUS_DEG = 0.7
ORDER, COARSE = 29, 6
RULES = (
    "seeing < 0.9",
    "grade in (A, B) and seeing < 0.8 and airmass < 1.6",
    'filter = "r" and not (ellipticity > 0.08 or background > 1500)',
    "within(180, 20, 15) and limiting_mag > 24",
    'name like "1*7p" and night between "2026-01-10" and "2026-02-01"',
)


@dataclass(frozen=True)
class Numbers:
    """How much of everything; grades hold one of the machine for each assessed exposure, the rest is of people."""

    exposures: int = 1_000_000
    stacks: int = 20_000
    grades: int = 3_000_000
    jobs: int = 2_000_000
    nights: int = 60


def fill_rows(session: Session, numbers: Numbers, seed: int) -> None:
    """Fill the empty tables of a survey.

    Raises
    ------
    ConflictError
        The survey is not empty.
    """
    if session.scalar(text("SELECT EXISTS (SELECT 1 FROM image) OR EXISTS (SELECT 1 FROM job)")):
        raise ConflictError("the survey is not empty; give the URL of a fresh database")
    session.execute(text("SET LOCAL session_replication_role = replica"))
    session.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
    session.execute(text("SET LOCAL work_mem = '256MB'"))
    session.execute(text("SELECT setseed(:seed)"), {"seed": seed % 1000 / 1000.0})
    _copy_sky(session, numbers, np.random.default_rng(seed))
    values = {
        "n": numbers.exposures, "s": numbers.stacks, "g": numbers.grades, "j": numbers.jobs, "nights": numbers.nights,
        "groups": GROUPS, "filters": list(FILTERS), "n_filters": len(FILTERS), "graders": N_GRADERS,
        "rounds": max(1, -(-numbers.exposures // GROUPS)), "inputs": INPUTS, "radius": RADIUS_DEG,
        "chain": list(CHAIN), "n_chain": len(CHAIN),
    }  # fmt: skip
    for statement in STATEMENTS:
        session.execute(text(statement), values)


def analyse(database: Database) -> None:
    """Let the planner of the database know the tables."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _copy_sky(session: Session, numbers: Numbers, rng: np.random.Generator) -> None:
    """Write where each exposure points, and the coarse cells that it touches."""
    n = numbers.exposures
    ra0 = rng.uniform(0.0, 360.0, N_FIELDS)
    dec0 = np.degrees(np.arcsin(rng.uniform(math.sin(math.radians(-30)), math.sin(math.radians(70)), N_FIELDS)))
    field = np.arange(n) % GROUPS // len(FILTERS)
    dec = dec0[field] + rng.normal(0.0, 0.02, n)
    ra = (ra0[field] + rng.normal(0.0, 0.02, n) / np.cos(np.radians(dec))) % 360.0
    keys = _pixels(ORDER, ra, dec)
    session.execute(text("CREATE TEMP TABLE place (id bigint, ra float8, dec float8, healpix bigint) ON COMMIT DROP"))
    ids = np.arange(1, n + 1)
    rows = zip(ids.tolist(), ra.tolist(), dec.tolist(), keys.tolist(), strict=True)
    copy_rows(session, "place", ("id", "ra", "dec", "healpix"), rows)
    cells = np.unique(np.concatenate([np.stack((ids, c), axis=1) for c in _corner_cells(ra, dec)]), axis=0)
    width = 1 << 2 * (ORDER - COARSE)
    low = cells[:, 1] * width
    ranges = zip(cells[:, 0].tolist(), low.tolist(), (low + width).tolist(), strict=True)
    copy_rows(session, "sky_range", ("image_id", "low", "high"), ranges)


def _corner_cells(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    half = RADIUS_DEG / math.sqrt(2.0)
    for x, y in ((-half, -half), (half, -half), (half, half), (-half, half)):
        yield _pixels(COARSE, (ra + x / np.cos(np.radians(dec))) % 360.0, np.clip(dec + y, -90.0, 90.0))


def _pixels(order: int, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(hpgeom.angle_to_pixel(1 << order, ra, dec, nest=True, lonlat=True), dtype=np.int64)


_NORMAL = "sqrt(-2 * ln(1 - random())) * cos(6.283185307 * random())"
STATEMENTS = (
    "INSERT INTO node (id, name, host, slots) VALUES (1, 'n1', 'n1', 8)",
    "INSERT INTO person (id, name, role) SELECT k, 'grader' || k, 'grader' FROM generate_series(1, :graders) k",
    "INSERT INTO recipe (id, sha256, name, parameters) VALUES (1, repeat('0', 64), 'standard', '{}')",
    # 1 intake plan a thousand exposures, then a plan a stack
    """INSERT INTO plan (id, mode, label, recipe_id, created_at)
    SELECT k, 'ingest', 'intake ' || k, 1, timestamptz '2026-01-01' + k * interval '1 hour'
    FROM generate_series(1, :n / 1000 + 1) k""",
    """INSERT INTO plan (id, mode, label, object_key, instrument, filter, recipe_id, created_at)
    SELECT :n / 1000 + 1 + k, 'survey',
        concat('field', g / :n_filters, '-', (CAST(:filters AS text[]))[1 + g % :n_filters], '-', k),
        'field' || g / :n_filters, 'spicasim', (CAST(:filters AS text[]))[1 + g % :n_filters], 1,
        timestamptz '2026-03-01' + k * interval '1 minute'
    FROM generate_series(1, :s) k, LATERAL (SELECT (k - 1) % :groups AS g) AS of""",
    # what was measured, and what the machine thinks of it
    f"""CREATE TEMP TABLE drawn ON COMMIT DROP AS
    SELECT k AS id, (k - 1) % :groups AS g, (k - 1) / :groups AS turn, random() AS luck,
        0.6 * exp(0.3 * {_NORMAL}) AS seeing, abs(0.04 + 0.02 * {_NORMAL}) AS ellipticity,
        600 * exp(0.4 * {_NORMAL}) AS background, 24.3 + 0.4 * {_NORMAL} AS depth, 26.1 + 0.1 * {_NORMAL} AS zero_point,
        1 + 0.9 * random() ^ 2 AS airmass, abs(0.05 * {_NORMAL}) AS skyprobe, (200 + 2000 * random() ^ 2)::int AS stars
    FROM generate_series(1, :n) k""",
    """INSERT INTO job (id, plan_id, kind, engine, label, image_id, state, request, request_sha256, script,
        script_sha256, time_limit_s, memory_mb, memory_cap_mb, tries, created_at, ended_at)
    SELECT k, 1 + (k - 1) / 1000, 'assess', 'native', 'assess ' || 1000000 + k || 'p', k,
        CASE WHEN d.luck < 0.05 THEN 'READY' WHEN d.luck < 0.055 THEN 'FAILED' ELSE 'SUCCEEDED' END::job_state,
        '{}', repeat('0', 64), '#!/bin/sh', repeat('0', 64), 600, 1000, 8000, 3,
        timestamptz '2026-01-01' + k * interval '5 seconds', timestamptz '2026-01-01' + k * interval '6 seconds'
    FROM generate_series(1, least(:n, :j)) k JOIN drawn d ON d.id = k ORDER BY k""",
    """INSERT INTO job (id, plan_id, kind, engine, label, image_id, state, request, request_sha256, script,
        script_sha256, time_limit_s, memory_mb, memory_cap_mb, tries, created_at, error_kind, error_text)
    SELECT k, :n / 1000 + 2 + (k / :n_chain) % greatest(:s, 1), (CAST(:chain AS text[]))[1 + k % :n_chain], 'native',
        'chain ' || k,
        :n + 1 + (k / :n_chain) % greatest(:s, 1),
        CASE WHEN luck < 0.001 THEN 'RUNNING' WHEN luck < 0.01 THEN 'READY' WHEN luck < 0.03 THEN 'WAITING'
        WHEN luck < 0.04 THEN 'FAILED' WHEN luck < 0.05 THEN 'PRUNED' ELSE 'SUCCEEDED' END::job_state,
        '{}', repeat('0', 64), '#!/bin/sh', repeat('0', 64), 600, 1000, 8000, 3,
        timestamptz '2026-03-01' + k * interval '2 seconds',
        CASE WHEN luck BETWEEN 0.03 AND 0.04 THEN 'data' END,
        CASE WHEN luck BETWEEN 0.03 AND 0.04 THEN 'too few reference stars: 7 of 20 needed; add a catalogue' END
    FROM (SELECT k, random() AS luck FROM generate_series(:n + 1, :j) k) AS of ORDER BY k""",
    """INSERT INTO attempt (id, job_id, number, node_id, state, lease_until, memory_mb, started_at, ended_at, seconds)
    SELECT id, id, 1, 1, CASE state WHEN 'SUCCEEDED' THEN 'SUCCEEDED' WHEN 'RUNNING' THEN 'RUNNING' ELSE 'FAILED'
        END::attempt_state, created_at, 1000, created_at, ended_at, 12
    FROM job WHERE state IN ('SUCCEEDED', 'FAILED', 'RUNNING') ORDER BY id""",
    """INSERT INTO quality (id, image_id, attempt_id, created_at, seeing_arcsec, ellipticity, background_adu, noise_adu,
        limiting_mag, n_stars, zero_point_mag, skyprobe_mag)
    SELECT id, id, id, timestamptz '2026-01-01' + id * interval '5 seconds', seeing, ellipticity, background,
        sqrt(background), depth, stars, zero_point, skyprobe
    FROM drawn WHERE luck >= 0.05 ORDER BY id""",
    """INSERT INTO grade (id, image_id, source, grade, quality_id, attempt_id, created_at)
    SELECT id, id, 'machine', CASE WHEN seeing < 0.55 THEN 'A' WHEN seeing < 0.75 THEN 'B' WHEN seeing < 1 THEN 'C'
        ELSE 'D' END::grade_letter, id, id, timestamptz '2026-01-01' + id * interval '5 seconds'
    FROM drawn WHERE luck >= 0.05 ORDER BY id""",
    # people look at some exposures more often than at others, and agree with the machine more often than not
    """INSERT INTO grade (id, image_id, source, grade, person_id, quality_id, created_at, withdrawn_at, blind, seconds)
    SELECT :n + k, d.id, 'human', CASE WHEN u < 0.15 THEN 'D' WHEN d.seeing < 0.55 THEN 'A' WHEN d.seeing < 0.75
        THEN 'B' WHEN d.seeing < 1 THEN 'C' ELSE 'D' END::grade_letter, 1 + floor(v * :graders)::int, d.id,
        timestamptz '2026-01-02' + k * interval '2 seconds',
        CASE WHEN w < 0.02 THEN timestamptz '2026-05-01' END, w > 0.9, CASE WHEN w < 0.7 THEN 2 + 20 * u END
    FROM (SELECT k, 1 + floor(random() ^ 1.5 * :n)::bigint AS image, random() AS u, random() AS v, random() AS w
        FROM generate_series(1, :g - (SELECT count(*) FROM grade)) k) AS of
    JOIN drawn d ON d.id = of.image WHERE d.luck >= 0.05 ORDER BY k""",
    """CREATE TEMP TABLE counts ON COMMIT DROP AS
    SELECT DISTINCT ON (image_id) image_id, id, grade, source FROM grade WHERE withdrawn_at IS NULL
    ORDER BY image_id, source DESC, id DESC""",
    """INSERT INTO measure (image_id, seeing_arcsec, ellipticity, background_adu, noise_adu, limiting_mag, n_stars,
        zero_point_mag, skyprobe_mag, grade, grade_source)
    SELECT d.id, CASE WHEN ok THEN seeing END, CASE WHEN ok THEN ellipticity END, CASE WHEN ok THEN background END,
        CASE WHEN ok THEN sqrt(background) END, CASE WHEN ok THEN depth END, CASE WHEN ok THEN stars END,
        CASE WHEN ok THEN zero_point END, CASE WHEN ok AND luck < 0.8 THEN skyprobe END, c.grade, c.source
    FROM drawn d CROSS JOIN LATERAL (SELECT luck >= 0.05 AS ok) AS of LEFT JOIN counts c ON c.image_id = d.id
    ORDER BY d.id""",
    """INSERT INTO file (id, sha256, size, kind, name)
    SELECT id, lpad(to_hex(id), 64, '0'), 64000000, 'exposure', 1000000 + id || 'p.fits.fz' FROM drawn ORDER BY id""",
    """INSERT INTO image (id, kind, state, name, file_id, plan_id, frame_type, instrument, telescope, object,
        object_raw, object_key, filter, filter_raw, run, night, exptime_s, mjd, airmass, ra_deg, dec_deg, radius_deg,
        healpix,
        position_source, n_detectors, mag_system, quality_id, grade_id, solution_id, created_at)
    SELECT d.id, 'exposure', CASE WHEN luck < 0.05 THEN 'registered' WHEN luck < 0.07 THEN 'rejected'
        WHEN taken THEN 'calibrated' ELSE 'assessed' END::image_state, 1000000 + d.id || 'p', d.id,
        1 + (d.id - 1) / 1000,
        CASE WHEN luck > 0.99 THEN 'flat' ELSE 'science' END::frame_type, 'spicasim', 'Simulated 1 m',
        'Field ' || d.g / :n_filters, 'Field ' || d.g / :n_filters, 'field' || d.g / :n_filters,
        (CAST(:filters AS text[]))[1 + d.g % :n_filters], (CAST(:filters AS text[]))[1 + d.g % :n_filters],
        '26A' || lpad((day / 7 + 1)::text, 2, '0'),
        date '2026-01-01' + day, (ARRAY[60, 120, 300, 600])[1 + d.id % 4], 61041.9 + day + 0.4 * (d.id % 997) / 997.0,
        airmass, p.ra, p.dec, :radius, p.healpix, 'header_wcs', 1, 'AB',
        CASE WHEN luck >= 0.05 THEN d.id END, c.id,
        CASE WHEN taken THEN 1 + d.g + :groups * (d.turn / :inputs) END,
        timestamptz '2026-01-01' + d.id * interval '5 seconds'
    FROM drawn d JOIN place p ON p.id = d.id LEFT JOIN counts c ON c.image_id = d.id,
    LATERAL (SELECT (d.turn * :nights / :rounds)::int AS day,
        luck >= 0.07 AND d.g + :groups * (d.turn / :inputs) < :s AS taken) AS of ORDER BY d.id""",
    """INSERT INTO detector (image_id, number, hdu, name, n_x, n_y, pixel_scale_arcsec, polygon_ra_deg, polygon_dec_deg)
    SELECT id, 0, 1, 'ccd00', 8000, 8000, 0.45,
        ARRAY[ra - w, ra + w, ra + w, ra - w], ARRAY[dec - 0.49, dec - 0.49, dec + 0.49, dec + 0.49]
    FROM place, LATERAL (SELECT 0.49 / cos(radians(dec)) AS w) AS of ORDER BY id""",
    """INSERT INTO image (id, kind, state, name, plan_id, instrument, telescope, object, object_raw, object_key, filter,
        filter_raw, exptime_s, ra_deg, dec_deg, radius_deg, healpix, position_source, n_detectors, mag_system)
    SELECT :n + k, 'stack', CASE WHEN k % 25 = 0 THEN 'planned' WHEN k % 3 = 0 THEN 'made' ELSE 'delivered'
        END::image_state, 'stack-' || k, :n / 1000 + 1 + k, 'spicasim', 'Simulated 1 m', 'Field ' || g / :n_filters,
        'Field ' || g / :n_filters, 'field' || g / :n_filters, (CAST(:filters AS text[]))[1 + g % :n_filters],
        (CAST(:filters AS text[]))[1 + g % :n_filters], 270 * :inputs,
        p.ra, p.dec, :radius, p.healpix, 'solution', 1, 'AB'
    FROM generate_series(1, :s) k, LATERAL (SELECT (k - 1) % :groups AS g) AS of JOIN place p ON p.id = 1 + g
    ORDER BY k""",
    """INSERT INTO measure (image_id, seeing_arcsec, ellipticity, limiting_mag, zero_point_mag, n_stars)
    SELECT :n + k, 0.5 + 0.4 * random(), 0.03 + 0.02 * random(), 25.5 + 0.5 * random(), 30, 2000
    FROM generate_series(1, :s) k""",
    """INSERT INTO stack (image_id, mode, n_inputs, n_x, n_y, pixel_scale_arcsec, zero_point_mag)
    SELECT :n + k, 'survey', :inputs, 9000, 9000, 0.45, 30 FROM generate_series(1, :s) k""",
    """INSERT INTO stack_input (stack_id, image_id, outcome, code, text, weight_fraction)
    SELECT :n + k, i.id, CASE WHEN planned THEN NULL WHEN i.id % 19 = 0 THEN 'left_out' ELSE 'used'
        END::item_outcome, CASE WHEN NOT planned AND i.id % 19 = 0 THEN 'few_stars' END,
        CASE WHEN NOT planned AND i.id % 19 = 0 THEN '4 of 6 stars needed' END, 1.0 / :inputs
    FROM generate_series(1, :s) k, LATERAL (SELECT k % 25 = 0 AS planned, (k - 1) % :groups AS g,
        (k - 1) / :groups AS turn) AS of, generate_series(0, :inputs - 1) m,
    LATERAL (SELECT 1 + g + :groups * (turn * :inputs + m) AS id) AS i WHERE i.id <= :n""",
    """INSERT INTO solution (id, attempt_id, plan_id, reference_name, n_reference, holds)
    SELECT k, k, :n / 1000 + 1 + k, 'gaia', 400, true FROM generate_series(1, :s) k""",
    """INSERT INTO tag (image_id, name) SELECT id, (ARRAY['deep', 'moon', 'trail', 'check'])[1 + id % 4]
    FROM drawn WHERE luck > 0.99""",
    *(
        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT greatest(max(id), 1) FROM {table}))"
        for table in (
            "node",
            "file",
            "person",
            "recipe",
            "plan",
            "job",
            "attempt",
            "quality",
            "grade",
            "image",
            "solution",
        )
    ),
)


# Measuring ------------------------------------------------------------------------------------------------------------


def timed(what: str, act: Callable[[], object], rounds: int = 3) -> object:
    """Print the median time of an act, ms, and return its last result."""
    spent = []
    result: object = None
    for _ in range(rounds):
        start = time.perf_counter()
        result = act()
        spent.append(time.perf_counter() - start)
    print(f"{what:52s} {1000 * sorted(spent)[len(spent) // 2]:10.2f} ms")
    return result


def resident_mb() -> float:
    """Return the peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def measure(database: Database) -> None:
    """Measure the snapshot on a survey that was filled before."""
    before = resident_mb()
    start = time.perf_counter()
    with database.read() as session:
        snapshot = load_snapshot(session)
    print(f"{'load':52s} {time.perf_counter() - start:10.2f} s")
    print(f"{'peak memory of the load':52s} {resident_mb() - before:10.0f} MB")
    sky = np.flatnonzero(sky_exposures(snapshot))
    for words in RULES:
        judge = functools.partial(judge_rows, snapshot, parse_rule(words))
        timed(f"judge (cold) {words}"[:52], judge, 1)
        timed("judge (again)", judge)
    rule = parse_rule(RULES[1])
    timed("first failed clause", lambda: first_failed(snapshot, rule, sky))
    timed("spread of seeing", lambda: spread(snapshot, sky, "seeing"))
    for sort in ("", "seeing", "-night", "object", "name"):
        for offset in (0, len(sky) // 2):
            page = functools.partial(ordered, snapshot, sky, sort, offset, 100)
            timed(f"page ordered by {sort or 'id'} at {offset}", page)
    timed("neighbours by seeing", lambda: row_place(snapshot, sky, "seeing", int(sky[len(sky) // 3])))
    for n in (1, 1000):
        _measure_refresh(database, n)


def _measure_refresh(database: Database, n: int) -> None:
    with database.read() as session:
        snapshot = load_snapshot(session)
    ids = list(range(1, n + 1))
    with database.begin() as session:
        change = "UPDATE measure SET seeing_arcsec = seeing_arcsec + 0.001, grade = 'B' WHERE image_id = ANY(:ids)"
        session.execute(text(change), {"ids": ids})

    def refresh() -> object:
        with database.read() as session:
            return refresh_snapshot(session, snapshot, Changes(images=set(ids)))

    timed(f"refresh of {n} changed images", refresh)


def main(words: Sequence[str] | None = None) -> None:
    """Fill, and measure where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    for name in ("exposures", "stacks", "grades", "jobs", "nights"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Numbers, name))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--filled", action="store_true", help="the rows are there already; only measure")
    given = parser.parse_args(words)
    numbers = Numbers(given.exposures, given.stacks, given.grades, given.jobs, given.nights)
    with Database(given.url) as database:
        if not given.filled:
            start = time.perf_counter()
            with database.begin() as session:
                fill_rows(session, numbers, given.seed)
            analyse(database)
            print(f"{'filled in':52s} {time.perf_counter() - start:10.1f} s")
        if given.measure or given.filled:
            measure(database)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.cone`: cones and points on the sky in a survey of millions of exposures.

Fills a scratch PostgreSQL of Spica's own schema with narrow rows (image, measure, one cell of `sky_range` each), spread
over the sky at random, and measures rules with `within` by the index of centres, and what contains a point by the
ranges of footprints. Constraints and other indexes of the tables are dropped for the filling.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.report import write_section
from spica.db.cone import ids_in_cone
from spica.db.embedded import start_server
from spica.db.engine import Database, copy_rows
from spica.db.schema import migrate
from spica.db.sky import centre_keys, images_near
from spica.model.association import Circle
from spica.model.image import ImageKind
from spica.model.selection import And, Within, parse_rule

RESULTS = Path(__file__).with_name("results.md")
RULE = "seeing < 0.9 and grade in (A, B)"
PLACES = 200_000
"""Different places; each is taken by many exposures, as fields are, shifted by dithers of the key's lower bits."""
FIELD_ORDER = 6
DITHER = 1 << 2 * (29 - 9)
"""Dithers spread within a cell of order 9, 7 arcmin."""


@dataclass(frozen=True)
class Times:
    """Milliseconds of many questions, and how many rows they gave."""

    p50_ms: float
    p95_ms: float
    longest_ms: float
    rows: float


def fill(database: Database, n: int, seed: int = 1) -> float:
    """Write n exposures and return how long it took, s."""
    start = time.perf_counter()
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0.0, 360.0, PLACES), np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, PLACES)))
    keys = centre_keys(ra, dec)
    with database.begin() as session:
        for table in ("measure", "sky_range", "image"):
            _bare(session, table)
        session.execute(text("CREATE TABLE place (i int, ra float8, dec float8, healpix int8)"))
        copy_rows(
            session, "place", ("i", "ra", "dec", "healpix"), zip(range(PLACES), ra, dec, keys.tolist(), strict=True)
        )
        for statement in _statements(n):
            session.execute(text(statement))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("image", "measure", "sky_range"):
            connection.execute(text(f"VACUUM ANALYZE {table}"))
    return time.perf_counter() - start


def _bare(session: Session, table: str) -> None:
    """Take indexes, keys and the log of changes from a table."""
    find = "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:t AS regclass) AND contype = 'f'"
    for name in session.scalars(text(find), {"t": table}).all():
        session.execute(text(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"'))
    keys = "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:t AS regclass) AND contype IN ('p', 'u')"
    for name in session.scalars(text(keys), {"t": table}).all():
        session.execute(text(f'ALTER TABLE {table} DROP CONSTRAINT "{name}" CASCADE'))
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = :t"
    for name in session.scalars(text(indexes), {"t": table}).all():
        session.execute(text(f'DROP INDEX "{name}"'))


def _statements(n: int) -> tuple[str, ...]:
    cell = 1 << 2 * (29 - FIELD_ORDER)
    return (
        "SELECT setseed(0.5)",
        "INSERT INTO image (id, kind, state, name, frame_type, filter, ra_deg, dec_deg, radius_deg, healpix,"
        " n_detectors)"
        " SELECT g, 'exposure', 'assessed', g::text || 'p', 'science', (ARRAY['u','g','r','i','z'])[1 + g % 5],"
        f" ra, dec, 0.7, healpix - healpix % {DITHER} + (random() * {DITHER - 1})::int8, 36"
        f" FROM generate_series(1, {n}) g JOIN place ON place.i = (g::int8 * 7919 % {PLACES})",
        "INSERT INTO measure (image_id, seeing_arcsec, grade, grade_source)"
        " SELECT g, 0.5 + random(), (ARRAY['A','B','C','D'])[1 + (random() * 3.999)::int % 4]::grade_letter, 'machine'"
        f" FROM generate_series(1, {n}) g",
        f"INSERT INTO sky_range (id, image_id, low, high) SELECT id, id, healpix - healpix % {cell},"
        f" healpix - healpix % {cell} + {cell} FROM image",
        "ALTER TABLE image ADD PRIMARY KEY (id)",
        "ALTER TABLE measure ADD PRIMARY KEY (image_id)",
        "CREATE INDEX ix_image_healpix ON image (healpix)",
        "CREATE INDEX ix_sky_range_low ON sky_range (low, high)",
    )


def measure(database: Database, ask: Callable[[Session, float, float], int], count: int, seed: int) -> Times:
    """Return the times of questions at random places."""
    rng = np.random.default_rng(seed)
    took, rows = [], []
    with database.read() as session:
        for _ in range(count):
            ra, dec = rng.uniform(0.0, 360.0), math.degrees(math.asin(rng.uniform(-1.0, 1.0)))
            start = time.perf_counter()
            rows.append(ask(session, ra, dec))
            took.append(1000.0 * (time.perf_counter() - start))
    low, high = np.percentile(took, [50, 95])
    return Times(float(low), float(high), max(took), float(np.mean(rows)))


def cone(radius_deg: float) -> Callable[[Session, float, float], int]:
    """Return the question for the exposures of the rule whose centre is within a radius."""
    rule = parse_rule(RULE)
    assert isinstance(rule, And)

    def ask(session: Session, ra: float, dec: float) -> int:
        return len(ids_in_cone(session, And((Within(ra, dec, radius_deg), *rule.rules))))

    return ask


def point(session: Session, ra: float, dec: float) -> int:
    """Return how many exposures have a covering cell at a point."""
    return len(images_near(session, Circle(ra, dec, 1e-6), ImageKind.EXPOSURE, 10_000))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, measure, print and write the section; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="exposures")
    parser.add_argument("--count", type=int, default=200, help="questions of each kind")
    parser.add_argument("--folder", type=Path, default=None, help="where the scratch database goes")
    parser.add_argument("--output", type=Path, default=RESULTS, help="page to write the section to")
    words = parser.parse_args(arguments)
    lines: list[str] = []
    with tempfile.TemporaryDirectory(dir=words.folder, prefix="cone-") as name:
        server = start_server(Path(name) / "db", Path(name) / "run", fsync=False)
        with Database(server.url, server) as database:
            migrate(database)
            print(f"{words.rows:,} exposures written in {fill(database, words.rows):.0f} s", flush=True)
            questions = {f"rule in a cone of {r} deg": cone(r) for r in (0.2, 0.5, 1.0)} | {"at a point": point}
            for label, ask in questions.items():
                measure(database, ask, 20, 1)
                t = measure(database, ask, words.count, 2)
                lines.append(f"| {label} | {t.p50_ms:.1f} | {t.p95_ms:.1f} | {t.longest_ms:.1f} | {t.rows:.0f} |")
                print(lines[-1], flush=True)
    head = (
        f"\n{words.rows:,} exposures; the rule `{RULE}` within circles at {words.count} random "
        "places of the survey, one connection; the goal is 20 ms.\n\n"
        "| question | median ms | p95 ms | longest ms | rows |\n| --- | ---: | ---: | ---: | ---: |\n"
    )
    write_section(words.output, "Cones", head + "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

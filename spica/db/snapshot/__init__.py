"""The survey as columns in memory: a cache for pages that count and order, refreshed by change events, never the truth.

`SnapshotKeeper` keeps it; `judge_rows` is the meaning of `spica.model.selection.evaluate` over all images at once.
"""

from spica.db.snapshot.columns import (
    DAY_ZERO,
    FRAMES,
    GRADES,
    JOB_STATES,
    KINDS,
    SOURCES,
    STATES,
    UNKNOWN_DAY,
    GradeColumns,
    ImageColumns,
    JobColumns,
    Snapshot,
)
from spica.db.snapshot.judge import FailedClause, exposures, failed_clauses, first_failed, judge_rows, taken
from spica.db.snapshot.keeper import SnapshotKeeper
from spica.db.snapshot.load import load_snapshot
from spica.db.snapshot.refresh import Changes, refresh_snapshot
from spica.db.snapshot.spread import RowPlace, Spread, ordered, row_place, spread

__all__ = [
    "DAY_ZERO",
    "FRAMES",
    "GRADES",
    "JOB_STATES",
    "KINDS",
    "SOURCES",
    "STATES",
    "UNKNOWN_DAY",
    "Changes",
    "FailedClause",
    "GradeColumns",
    "ImageColumns",
    "JobColumns",
    "RowPlace",
    "Snapshot",
    "SnapshotKeeper",
    "Spread",
    "exposures",
    "failed_clauses",
    "first_failed",
    "judge_rows",
    "load_snapshot",
    "ordered",
    "refresh_snapshot",
    "row_place",
    "spread",
    "taken",
]

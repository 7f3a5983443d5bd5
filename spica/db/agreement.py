"""Figures of grading from the snapshot: how far it is, who graded what and when, who agrees with whom, where not."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.algorithms.agreement import (
    Agreement,
    PairTables,
    count_classes,
    judge_tables,
    measure_agreement,
    newest_rows,
    pair_tables,
)
from spica.db.snapshot import Snapshot, exposures
from spica.db.tables.person import PersonRow
from spica.db.tables.quality import GradeRow
from spica.model.grade import Grade, GradeSource

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]

MACHINE, HUMAN = 1, 2
"""Codes of the source in the snapshot's columns."""
COMMAND_LINE = 0
"""Who grades on the command line: one grader."""
MAX_BINS = 100
DAY_S = 86_400.0
STEPS_DAYS = (1, 7, 28, 91, 364)
UNKNOWN_NIGHT = int(np.iinfo(np.int32).min)


@dataclass(frozen=True)
class Narrow:
    """Which exposures are looked at; empty words and None do not narrow. `object` is the key that groups."""

    object: str = ""
    filter: str = ""
    run: str = ""
    night: date | None = None

    def rows(self, snapshot: Snapshot) -> Mask:
        """Return the science exposures that can be graded (not rejected, quality known) of these words."""
        images = snapshot.images
        found: Mask = exposures(snapshot) & images.usable
        for name in ("object", "filter", "run"):
            word = getattr(self, name)
            if word:
                found = found & (getattr(images, name) == images.code(name, word))
        if self.night is not None:
            found = found & (images.night == self.night.toordinal() - date(1970, 1, 1).toordinal())
        return found


@dataclass(frozen=True)
class GradeCounts:
    """Exposures by the grade that counts, A to D, and without any."""

    human: tuple[int, int, int, int]
    machine: tuple[int, int, int, int]
    none: int

    @property
    def n_human(self) -> int:
        """Return how many a person graded."""
        return sum(self.human)

    @property
    def n_machine(self) -> int:
        """Return how many the machine alone graded."""
        return sum(self.machine)

    @property
    def total(self) -> int:
        """Return how many there are."""
        return self.n_human + self.n_machine + self.none


@dataclass(frozen=True)
class Bins:
    """Counts in time: `rows[k]` are the counts of the bin that begins `step_days` k days after `start`."""

    start: date
    step_days: int
    rows: tuple[tuple[int, ...], ...]

    @property
    def highest(self) -> int:
        """Return the largest sum of a bin."""
        return max((sum(row) for row in self.rows), default=0)


@dataclass(frozen=True)
class GraderFigures:
    """One grader: `machine` and `counts` compare the own newest grade of each image with the machine's and with the
    grade that counts; `seconds` is the mean over the grades given in the queue, None where none was.
    """

    person_id: int
    n_given: int
    n_images: int
    seconds: float | None
    machine: Agreement
    counts: Agreement
    last_at: datetime
    days: tuple[int, ...]


@dataclass(frozen=True)
class PairFigures:
    """Two graders on the images that both graded; `blind`: where the later of both grades was given blind."""

    first: int
    second: int
    blind: bool
    agreement: Agreement


@dataclass(frozen=True)
class GradingFigures:
    """All about who graded; `table` has the machine's newest grade in rows, the human grade that counts in columns."""

    taken_at: datetime
    table: tuple[tuple[int, ...], ...]
    machine: Agreement
    graders: tuple[GraderFigures, ...]
    pairs: tuple[PairFigures, ...]
    days: Bins | None


def count_grades(snapshot: Snapshot, rows: Mask) -> GradeCounts:
    """Return how many of some exposures have which grade."""
    images = snapshot.images
    code = images.grade_source[rows].astype(np.int64) * 5 + images.grade[rows]
    counts = np.bincount(code, minlength=15).reshape(3, 5)
    human, machine = (tuple(int(v) for v in counts[source, 1:]) for source in (HUMAN, MACHINE))
    return GradeCounts(human, machine, int(rows.sum()) - sum(human) - sum(machine))  # type: ignore[arg-type]


def count_nights(snapshot: Snapshot, rows: Mask) -> Bins | None:
    """Return exposures by night of observation: A to D and without grade; None where no night is known."""
    nights, grade = snapshot.images.night[rows], snapshot.images.grade[rows].astype(np.int64)
    known = nights != UNKNOWN_NIGHT
    return _bins(nights[known].astype(np.int64), (grade[known] + 4) % 5, 5)


def measure_grading(snapshot: Snapshot, rows: Mask) -> GradingFigures:
    """Measure who graded some exposures, when, and who agrees with whom; standing grades only."""
    grades, images = snapshot.grades, snapshot.images
    among = np.append(rows, False)  # grades of no image known: row -1
    given = np.flatnonzero((grades.source == HUMAN) & ~grades.withdrawn & among[grades.row])
    person_of = grades.person[given].astype(np.int64)
    people, judge = np.unique(person_of, return_inverse=True)
    newest = newest_rows(grades.row[given], judge)
    at = given[newest]
    thing, letter = grades.row[at], grades.grade[at].astype(np.int64) - 1
    machine, counts = (
        judge_tables(judge[newest], letter, column[thing].astype(np.int64) - 1, len(people))
        for column in (images.machine, images.grade)
    )
    pairs = pair_tables(thing, judge[newest], letter, at, grades.blind[at])
    day = np.floor(grades.created[given] / DAY_S).astype(np.int64)
    days = _bins(day, grades.grade[given].astype(np.int64) - 1, 4)
    by_person = _bins(day, judge, len(people))
    both = rows & (images.grade_source == HUMAN) & (images.machine > 0)
    table = count_classes(images.machine[both].astype(np.int64) - 1, images.grade[both].astype(np.int64) - 1)
    return GradingFigures(
        snapshot.taken_at,
        tuple(tuple(int(v) for v in row) for row in table),
        measure_agreement(table),
        _graders(snapshot, given, judge, people, (machine, counts), by_person),
        _pairs(pairs, people),
        days,
    )


def _pairs(found: PairTables, people: Ints) -> tuple[PairFigures, ...]:
    """Return the pairs of graders, those with most in common first."""
    pairs = [
        PairFigures(int(people[a]), int(people[b]), bool(blind), measure_agreement(table))
        for a, b, blind, table in zip(found.first, found.second, found.blind, found.tables, strict=True)
    ]
    return tuple(sorted(pairs, key=lambda p: (-p.agreement.n, p.first, p.second, p.blind)))


def _graders(
    snapshot: Snapshot, given: Ints, judge: Ints, people: Ints, tables: tuple[Ints, Ints], bins: Bins | None
) -> tuple[GraderFigures, ...]:
    """Return the graders, busiest first."""
    n = len(people)
    n_given = np.bincount(judge, minlength=n)
    seconds = snapshot.grades.seconds[given].astype(np.float64)
    timed = np.isfinite(seconds)
    n_timed = np.bincount(judge[timed], minlength=n)
    total_s = np.bincount(judge[timed], weights=seconds[timed], minlength=n)
    last = np.full(n, -math.inf)
    np.maximum.at(last, judge, snapshot.grades.created[given])
    n_images = tables[1].sum(axis=(1, 2))
    found = [
        GraderFigures(
            int(people[i]),
            int(n_given[i]),
            int(n_images[i]),
            float(total_s[i] / n_timed[i]) if n_timed[i] else None,
            measure_agreement(tables[0][i]),
            measure_agreement(tables[1][i]),
            datetime.fromtimestamp(float(last[i]), UTC),
            tuple(row[i] for row in bins.rows) if bins is not None else (),
        )
        for i in range(n)
    ]
    return tuple(sorted(found, key=lambda g: (-g.n_given, g.person_id)))


def _bins(days: Ints, kind: Ints, n_kinds: int) -> Bins | None:
    """Count kinds in bins of days, weeks or longer, so that at most about `MAX_BINS` come out."""
    if not len(days):
        return None
    first, last = int(days.min()), int(days.max())
    step = next((s for s in STEPS_DAYS if (last - first) // s < MAX_BINS), -(-(last - first + 1) // MAX_BINS))
    n_bins = (last - first) // step + 1
    counts = np.bincount((days - first) // step * n_kinds + kind, minlength=n_bins * n_kinds).reshape(n_bins, n_kinds)
    start = date.fromordinal(date(1970, 1, 1).toordinal() + first)
    return Bins(start, step, tuple(tuple(int(v) for v in row) for row in counts))


# Where they disagree --------------------------------------------------------------------------------------------------


class Disagreement(enum.StrEnum):
    """Who differs: the person whose grade counts from the machine, or people among each other."""

    MACHINE = "machine"
    PEOPLE = "people"


def find_disagreements(
    snapshot: Snapshot, rows: Mask, kind: Disagreement, machine: Grade | None = None, human: Grade | None = None
) -> Ints:
    """Return the rows of images where they disagree: the farthest apart first, then the newest.

    Parameters
    ----------
    machine, human : only where the machine gave this and the human grade that counts is that; None: any. Where both
        are the same letter, what agrees is returned.
    """
    images = snapshot.images
    if kind is Disagreement.PEOPLE:
        found = rows & images.split
    else:
        found = rows & (images.grade_source == HUMAN) & (images.machine > 0)
        if machine is None or machine != human:
            found &= images.grade != images.machine
    for column, letter in ((images.machine, machine), (images.grade, human)):
        if letter is not None:
            found &= column == list(Grade).index(letter) + 1
    at = np.flatnonzero(found)[::-1]
    if kind is Disagreement.PEOPLE:
        return at
    apart = np.abs(images.grade[at] - images.machine[at])
    return np.concatenate([at[apart == distance] for distance in (3, 2, 1, 0)])


@dataclass(frozen=True)
class StandingGrade:
    """One person's newest standing grade of an image."""

    grade_id: int
    grade: Grade
    person_id: int
    person: str | None
    comment: str | None
    created_at: datetime
    blind: bool


def read_standing(session: Session, image_ids: Sequence[int]) -> dict[int, list[StandingGrade]]:
    """Return the newest standing human grade of each person on some images, newest first: one statement by index."""
    columns = [GradeRow.image_id, GradeRow.id, GradeRow.grade, GradeRow.person_id, PersonRow.name, GradeRow.comment]
    query = (
        select(*columns, GradeRow.created_at, GradeRow.blind)
        .outerjoin(PersonRow, PersonRow.id == GradeRow.person_id)
        .where(GradeRow.image_id == any_(literal(list(image_ids), ARRAY(BigInteger))))
        .where(GradeRow.source == GradeSource.HUMAN, GradeRow.withdrawn_at.is_(None))
        .order_by(GradeRow.id.desc())
    )
    found: dict[int, dict[int, StandingGrade]] = {i: {} for i in image_ids}
    row: Any
    for row in session.execute(query):
        image_id, grade_id, letter, person_id, name, comment, at, blind = row
        who = person_id or COMMAND_LINE
        found[image_id].setdefault(who, StandingGrade(grade_id, letter, who, name, comment, at, blind))
    return {image_id: list(by_person.values()) for image_id, by_person in found.items()}


def read_names(session: Session) -> dict[int, str]:
    """Return the names of all people by id, and of the command line."""
    rows = session.execute(select(PersonRow.id, PersonRow.name))
    return {COMMAND_LINE: "command line"} | {row.id: row.name for row in rows}

"""The report of grades: exposures with what counts, who said what, when and why; read by index, some at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, any_, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from spica.db.agreement import StandingGrade, read_standing
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.person import PersonRow
from spica.db.tables.quality import GradeReasonRow, GradeRow
from spica.model.grade import GradeSource

COLUMNS: tuple[ColumnElement[Any] | Any, ...] = (
    *(ImageRow.id, ImageRow.name, ImageRow.object, ImageRow.filter, ImageRow.run, ImageRow.night, ImageRow.exptime_s),
    *(ImageRow.airmass, MeasureRow.seeing_arcsec, MeasureRow.ellipticity, MeasureRow.background_adu),
    *(MeasureRow.limiting_mag, MeasureRow.n_stars, MeasureRow.skyprobe_mag, MeasureRow.grade),
    *(MeasureRow.grade_source, PersonRow.name, GradeRow.created_at, GradeRow.comment),
)


@dataclass(frozen=True)
class ReportLine:
    """One exposure: facts, the grade that counts with who gave it, the machine's with its reasons, all people's."""

    id: int
    name: str
    object: str | None
    filter: str | None
    run: str | None
    night: date | None
    exptime_s: float | None
    airmass: float | None
    seeing_arcsec: float | None
    ellipticity: float | None
    background_adu: float | None
    limiting_mag: float | None
    n_stars: int | None
    skyprobe_mag: float | None
    grade: str | None
    grade_source: str | None
    graded_by: str | None
    graded_at: datetime | None
    comment: str | None
    machine: str | None
    reasons: tuple[str, ...]
    grades: tuple[StandingGrade, ...]


NAMES = tuple(f.name for f in dataclasses.fields(ReportLine))[: len(COLUMNS)]


def read_report(session: Session, image_ids: Sequence[int]) -> list[ReportLine]:
    """Return the lines of some exposures, in the order of their ids given: four statements."""
    wanted = any_(literal(list(image_ids), ARRAY(BigInteger)))
    query = (
        select(*COLUMNS)
        .select_from(ImageRow)
        .outerjoin(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .outerjoin(GradeRow, GradeRow.id == ImageRow.grade_id)
        .outerjoin(PersonRow, PersonRow.id == GradeRow.person_id)
        .where(ImageRow.id == wanted)
    )
    standing, machine = read_standing(session, image_ids), _machine(session, image_ids)
    found: dict[int, ReportLine] = {}
    row: Any
    for row in session.execute(query):
        values = list(row)
        if values[15] is GradeSource.HUMAN:
            values[16] = values[16] or "command line"
        letter, reasons = machine.get(values[0], (None, ()))
        facts: dict[str, Any] = dict(zip(NAMES, values, strict=True))
        facts |= {"machine": letter, "reasons": reasons, "grades": tuple(standing[values[0]])}
        found[values[0]] = ReportLine(**facts)
    return [found[i] for i in image_ids if i in found]


def _machine(session: Session, image_ids: Sequence[int]) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Return the machine's newest grade of some images with its reasons."""
    query = (
        select(GradeRow.image_id, GradeRow.id, GradeRow.grade)
        .where(GradeRow.image_id == any_(literal(list(image_ids), ARRAY(BigInteger))))
        .where(GradeRow.source == GradeSource.MACHINE)
        .order_by(GradeRow.id)
    )
    newest = {image_id: (grade_id, letter) for image_id, grade_id, letter in session.execute(query)}
    ids = [grade_id for grade_id, _ in newest.values()]
    texts: dict[int, list[str]] = {i: [] for i in ids}
    said = select(GradeReasonRow.grade_id, GradeReasonRow.text).order_by(GradeReasonRow.id)
    for grade_id, words in session.execute(
        said.where(GradeReasonRow.grade_id == any_(literal(ids, ARRAY(BigInteger))))
    ):
        texts[grade_id].append(words)
    return {image_id: (letter.value, tuple(texts[i])) for image_id, (i, letter) in newest.items()}

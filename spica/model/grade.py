"""Grades: A B C D; machine and human apart, never overwritten."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from spica.model.job import Reason

COMMENTS = (
    "Poor seeing (>1.2)",
    "Astrometric keyword problem: some CCDs off",
    "D3-i rejection",
    "Galaxy counts below expectations",
    "Galaxy counts above expectations",
    "Some CCDs missing",
    "Some half-CCDs missing",
    "Defocus?",
    "PSF/Object image doubled",
    "Diffuse light contamination",
    "Unusual PSF anisotropy pattern",
    "Elongated image",
    "Unusual rh-mag. diagram",
    "Unusual background image",
    "Telescope lost guiding?",
)
"""The classic comments of the CFHT surveys' graders, offered beside free text."""


class Grade(enum.StrEnum):
    """A best, D worst."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"


class GradeSource(enum.StrEnum):
    """Who judged."""

    MACHINE = "machine"
    HUMAN = "human"


@dataclass(frozen=True)
class GradeLimits:
    """Limits of one measure for grades A, B and C; beyond the last is D. None: the measure does not count.

    `high` True where large values are bad (seeing), False where small ones are (limiting magnitude, stars).
    """

    measure: str
    a: float | None
    b: float | None
    c: float | None
    high: bool = True


@dataclass(frozen=True)
class MachineGrade:
    """A proposed grade with its reasons; the worst limit broken decides."""

    grade: Grade
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class GradeRecord:
    """A machine's grade of one image as the harvest records it."""

    item: str
    grade: Grade
    reasons: tuple[Reason, ...] = ()
    type: str = "grade"


def grade_by_limits(measures: dict[str, float | None], limits: tuple[GradeLimits, ...]) -> MachineGrade:
    """Propose a grade: each measure falls in the first band whose limit it keeps; the worst band counts.

    A measure that is unknown where a limit exists costs one grade (B at best) and says so.

    Parameters
    ----------
    measures : values by name, None where unknown.
    limits : bands by measure; the unit is that of the measure.

    Returns
    -------
    MachineGrade : reasons name each measure outside band A, the value, and the limit it broke.
    """
    worst, reasons = Grade.A, []
    for limit in limits:
        value = measures.get(limit.measure)
        band, broken = _band(value, limit)
        if band is not Grade.A:
            reasons.append(_reason(limit, value, band, broken))
        worst = max(worst, band)
    return MachineGrade(worst, tuple(reasons))


def _band(value: float | None, limit: GradeLimits) -> tuple[Grade, float | None]:
    if value is None:
        return Grade.B, None
    broken: float | None = None
    for grade, bound in ((Grade.A, limit.a), (Grade.B, limit.b), (Grade.C, limit.c)):
        if bound is None:
            continue
        if value <= bound if limit.high else value >= bound:
            return grade, broken
        broken = bound
    return (Grade.D, broken) if broken is not None else (Grade.A, None)


def _reason(limit: GradeLimits, value: float | None, band: Grade, broken: float | None) -> Reason:
    if value is None:
        return Reason(f"{limit.measure}_unknown", f"{limit.measure} unknown", None, limit.a)
    sign = ">" if limit.high else "<"
    return Reason(
        f"{limit.measure}_{'high' if limit.high else 'low'}",
        f"{limit.measure} {value:.4g} {sign} {broken:.4g}: {band.value}",
        value,
        broken,
    )

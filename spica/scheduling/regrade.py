"""Machine grades anew by today's limits; human grades stand."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from spica.db.grade import add_grade
from spica.db.selection import compile_rule
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import GradeRow
from spica.files.workspace import Workspace
from spica.instruments.registry import Registry, load_instruments
from spica.model.errors import RecipeError
from spica.model.grade import GradeLimits, GradeSource, grade_by_limits
from spica.model.image import ImageKind
from spica.model.selection import parse_rule
from spica.steps.facts import grade_limits


def regrade(session: Session, workspace: Workspace, rule: str | None) -> tuple[int, int]:
    """Judge assessed exposures (of a rule) again; return how many machine grades changed, and how many were judged."""
    registry = load_instruments(workspace.instruments_folder)
    query = (
        select(ImageRow, MeasureRow)
        .join(MeasureRow, MeasureRow.image_id == ImageRow.id)
        .where(ImageRow.kind == ImageKind.EXPOSURE, ImageRow.quality_id.is_not(None))
        .order_by(ImageRow.id)
    )
    if rule is not None:
        query = query.where(compile_rule(parse_rule(rule)))
    rows = [(i, m) for i, m in session.execute(query)]
    changed = 0
    for image, measures in rows:
        limits = _limits(registry, image)
        found = grade_by_limits({limit.measure: getattr(measures, limit.measure) for limit in limits}, limits)
        if found.grade != _last_machine_grade(session, image.id):
            add_grade(session, image.id, GradeSource.MACHINE, found.grade, reasons=found.reasons)
            changed += 1
    return changed, len(rows)


def _limits(registry: Registry, image: ImageRow) -> tuple[GradeLimits, ...]:
    name = (image.instrument or "generic").partition(":")[0]
    try:
        return grade_limits(registry.get(name), image.filter or "")
    except RecipeError:
        return ()


def _last_machine_grade(session: Session, image_id: int) -> str | None:
    query = (
        select(GradeRow.grade)
        .where(GradeRow.image_id == image_id, GradeRow.source == GradeSource.MACHINE)
        .order_by(GradeRow.id.desc())
        .limit(1)
    )
    return session.scalar(query)

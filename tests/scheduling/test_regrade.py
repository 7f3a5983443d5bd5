"""Machine grades anew by today's limits: history grows only where a grade changes, people's grades stand."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from spica.db.grade import add_grade
from spica.db.tables.image import MeasureRow
from spica.db.tables.quality import GradeRow
from spica.model.grade import Grade, GradeSource
from spica.scheduling.regrade import regrade


def test_only_changes_are_written_and_people_stand(world: Any) -> None:
    with world.database.begin() as session:
        context = world.attempt(session)
        good = world.exposure(session, context, "good", seeing_arcsec=0.5, n_stars=500)
        awful = world.exposure(session, context, "awful", seeing_arcsec=9.0)
        judged = world.exposure(session, context, "judged", seeing_arcsec=9.0)
        add_grade(session, judged, GradeSource.HUMAN, Grade.B)
    with world.database.begin() as session:
        before = session.scalar(select(func.count()).select_from(GradeRow))
        changed, total = regrade(session, world.workspace, None)
        assert total == 3
        assert session.scalar(select(func.count()).select_from(GradeRow)) == before + changed
        assert changed >= 2
        assert session.get_one(MeasureRow, awful).grade is Grade.D
        row = session.get_one(MeasureRow, judged)
        assert (row.grade, row.grade_source) == (Grade.B, GradeSource.HUMAN)
        assert session.get_one(MeasureRow, good).grade_source is GradeSource.MACHINE
    with world.database.begin() as session:
        assert regrade(session, world.workspace, None) == (0, 3)
        assert regrade(session, world.workspace, "seeing > 5")[1] == 2

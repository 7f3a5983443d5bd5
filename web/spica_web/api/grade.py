"""Grades given and taken back by programs."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from spica.db.grade import add_grade, withdraw_grade
from spica.db.overview import list_images
from spica.db.pages.image import read_grades
from spica.db.person import audit
from spica.db.tables.image import ImageRow
from spica.model.errors import ConflictError
from spica.model.grade import Grade, GradeSource
from spica.model.overview import ImageEntry
from spica_web.api.answer import answer
from spica_web.api.image import need_image
from spica_web.deps import Grader, site_of
from spica_web.pages.image import own_grade

router = APIRouter(prefix="/api", tags=["grades"])


class NewGrade(BaseModel):
    """A grade and what was seen."""

    grade: Grade
    comment: str | None = Field(None, max_length=2000)


@router.post("/images/{image}/grade", response_model=ImageEntry)
def give_grade(request: Request, person: Grader, image: str, given: NewGrade) -> JSONResponse:
    """Give an image (name or id) a grade; return the image as it is then."""
    site = site_of(request)
    said = (given.comment or "").strip().replace("\0", "") or None
    with site.database.begin() as session:
        row = need_image(session, image)
        add_grade(session, row.id, GradeSource.HUMAN, given.grade, person_id=person.id, comment=said)
        audit(session, person.id, "grade", f"image:{row.id}", f"{given.grade.value} {said or ''}".strip())
    with site.read() as session:
        return answer(list_images(session, site.workspace, [ImageRow.id == row.id], kind=None)[0])


@router.post("/images/{image}/withdraw", response_model=ImageEntry)
def take_back(request: Request, person: Grader, image: str) -> JSONResponse:
    """Take back the newest standing grade of this person; return the image as it is then."""
    site = site_of(request)
    with site.database.begin() as session:
        row = need_image(session, image)
        mine = own_grade(read_grades(session, row.id), person)
        if mine is None:
            raise ConflictError(f"you have no standing grade on {row.name}; see the history of its grades")
        withdraw_grade(session, mine, person.id)
        audit(session, person.id, "withdraw_grade", f"image:{row.id}", str(mine))
    with site.read() as session:
        return answer(list_images(session, site.workspace, [ImageRow.id == row.id], kind=None)[0])

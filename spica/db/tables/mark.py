"""Marks: places on the pixels of an image that no stack may use."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ARRAY, CheckConstraint, Float, ForeignKey, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, instant, key, stamp
from spica.model.mark import MarkShape


class MarkRow(Base):
    """One circle or polygon that a person drew on an image."""

    __tablename__ = "mark"
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), index=True, comment="on which image"
    )
    comment: Mapped[str | None] = mapped_column(Text, comment="what is wrong there")
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: the command line")
    created_at: Mapped[datetime] = stamp("when")
    withdrawn_at: Mapped[datetime | None] = instant("when it was taken back")
    withdrawn_by_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who took it back")


class MarkRegionRow(Base):
    """The part of a mark that lies on one detector, in pixels of that detector from 0."""

    __tablename__ = "mark_region"
    __table_args__ = (
        CheckConstraint("cardinality(x_pix) = cardinality(y_pix)", "as_many_y_as_x"),
        CheckConstraint("(shape = 'circle') = (radius_pix IS NOT NULL)", "circle_has_radius"),
    )
    id: Mapped[int] = key()
    mark_id: Mapped[int] = mapped_column(
        ForeignKey("mark.id", ondelete="CASCADE"), index=True, comment="part of which mark"
    )
    number: Mapped[int] = mapped_column(SmallInteger, comment="index of the detector, from 0")
    shape: Mapped[MarkShape] = mapped_column(enum_type(MarkShape, "mark_shape"), comment="circle or polygon")
    x_pix: Mapped[list[float]] = mapped_column(ARRAY(Float), comment="columns of centre or corners, pixel from 0")
    y_pix: Mapped[list[float]] = mapped_column(ARRAY(Float), comment="rows of centre or corners, pixel from 0")
    radius_pix: Mapped[float | None] = mapped_column(Float, comment="radius of a circle, pixel")

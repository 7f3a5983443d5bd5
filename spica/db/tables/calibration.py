"""Master calibrations, where they hold, and which exposures used them."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import Boolean, CheckConstraint, Date, Float, ForeignKey, Index, Integer, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, instant, key, stamp
from spica.model.calibration import MasterKind

MASTER_KIND = enum_type(MasterKind, "master_kind")


class CalibrationRow(Base):
    """A master calibration and where it holds."""

    __tablename__ = "calibration"
    __table_args__ = (
        Index("ix_calibration_find", "kind", "instrument", "filter", "run"),
        UniqueConstraint("file_id", "kind"),
        CheckConstraint("first_night <= last_night", "nights_ordered"),
    )
    id: Mapped[int] = key()
    file_id: Mapped[int] = mapped_column(ForeignKey("file.id"), comment="which file")
    kind: Mapped[MasterKind] = mapped_column(MASTER_KIND, comment="what it corrects")
    instrument: Mapped[str] = mapped_column(Text, comment="instrument")
    filter: Mapped[str | None] = mapped_column(Text, comment="filter, canonical; NULL: any")
    run: Mapped[str | None] = mapped_column(Text, comment="run; NULL: any")
    first_night: Mapped[date | None] = mapped_column(Date, comment="first night it holds for; NULL: always")
    last_night: Mapped[date | None] = mapped_column(Date, comment="last night it holds for; NULL: for ever")
    mjd: Mapped[float | None] = mapped_column(Float, comment="mean of its frames, MJD UTC, day")
    exptime_s: Mapped[float | None] = mapped_column(Float, comment="exposure time of the frames of a dark, s")
    n_inputs: Mapped[int] = mapped_column(Integer, server_default="0", comment="frames combined; 0: came as it is")
    product_hash: Mapped[str | None] = mapped_column(Text, index=True, comment="hash of its frames and recipe")
    attempt_id: Mapped[int | None] = mapped_column(
        ForeignKey("attempt.id"), index=True, comment="attempt that made it; NULL: came from outside"
    )
    created_at: Mapped[datetime] = stamp("when it was registered", server_default=text("now()"))
    withdrawn_at: Mapped[datetime | None] = instant("when it was withdrawn; it is used no more")


class CalibrationUseRow(Base):
    """A master that an assessment of an exposure used."""

    __tablename__ = "calibration_use"
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="which exposure"
    )
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), primary_key=True, comment="in which attempt")
    calibration_id: Mapped[int] = mapped_column(
        ForeignKey("calibration.id"), primary_key=True, index=True, comment="which master"
    )
    corrected: Mapped[bool] = mapped_column(Boolean, comment="whether pixels were corrected; false: weighted only")
    scale: Mapped[float | None] = mapped_column(Float, comment="amplitude of a fringe pattern, ADU")

"""History of quality, grades and solutions: rows, never overwritten."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, instant, key, stamp
from spica.db.tables.image import GRADE, GRADE_SOURCE
from spica.model.grade import Grade, GradeSource


class QualityRow(Base):
    """One assessment of an image (`number` NULL) or of one of its detectors within it."""

    __tablename__ = "quality"
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), index=True, comment="of which image"
    )
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), index=True, comment="attempt that measured")
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("quality.id", ondelete="CASCADE"),
        index=True,
        comment="assessment of the whole image; NULL: this is it",
    )
    number: Mapped[int | None] = mapped_column(SmallInteger, comment="index of the detector; NULL: the whole image")
    created_at: Mapped[datetime] = stamp("when it was recorded")
    seeing_arcsec: Mapped[float | None] = mapped_column(Float, comment="FWHM of a Moffat fit to stars, arcsec")
    fwhm_pix: Mapped[float | None] = mapped_column(Float, comment="the same, pixel")
    ellipticity: Mapped[float | None] = mapped_column(Float, comment="1 - b/a of stars")
    position_angle_deg: Mapped[float | None] = mapped_column(
        Float, comment="position angle of the ellipticity, degree from +x to +y"
    )
    moffat_beta: Mapped[float | None] = mapped_column(Float, comment="Moffat exponent")
    psf_chi2: Mapped[float | None] = mapped_column(Float, comment="reduced chi square of the PSF fit")
    background_adu: Mapped[float | None] = mapped_column(Float, comment="sky background, ADU")
    noise_adu: Mapped[float | None] = mapped_column(Float, comment="background noise of a pixel, ADU")
    limiting_mag: Mapped[float | None] = mapped_column(
        Float, comment="5 sigma in an aperture of 2 arcsec diameter, mag"
    )
    limiting_flux_adu: Mapped[float | None] = mapped_column(Float, comment="the same as a flux, ADU")
    n_sources: Mapped[int | None] = mapped_column(Integer, comment="sources")
    n_stars: Mapped[int | None] = mapped_column(Integer, comment="stars accepted for the PSF")
    saturated_fraction: Mapped[float | None] = mapped_column(Float, comment="fraction of pixels saturated")
    cosmic_fraction: Mapped[float | None] = mapped_column(Float, comment="fraction of pixels hit by cosmic rays")
    masked_fraction: Mapped[float | None] = mapped_column(Float, comment="fraction of pixels of zero weight")
    n_trails: Mapped[int | None] = mapped_column(Integer, comment="satellite trails")
    zero_point_mag: Mapped[float | None] = mapped_column(Float, comment="zero point it was measured with, mag")
    skyprobe_mag: Mapped[float | None] = mapped_column(Float, comment="attenuation of the sky, mag")


class GradeRow(Base):
    """One judgement of one image."""

    __tablename__ = "grade"
    __table_args__ = (CheckConstraint("source = 'machine' OR attempt_id IS NULL", "human_without_attempt"),)
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), index=True, comment="of which image"
    )
    source: Mapped[GradeSource] = mapped_column(GRADE_SOURCE, comment="machine or human")
    grade: Mapped[Grade] = mapped_column(GRADE, comment="letter")
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: machine or command line")
    comment: Mapped[str | None] = mapped_column(Text, comment="what the grader said")
    quality_id: Mapped[int | None] = mapped_column(ForeignKey("quality.id"), comment="quality that was judged")
    attempt_id: Mapped[int | None] = mapped_column(
        ForeignKey("attempt.id"), comment="attempt of a machine grade; NULL: regrade or human"
    )
    created_at: Mapped[datetime] = stamp("when")
    withdrawn_at: Mapped[datetime | None] = instant("when it was taken back")
    bulk_id: Mapped[int | None] = mapped_column(
        ForeignKey("bulk_grade.id"), index=True, comment="act that graded many at once; NULL: one by one"
    )
    blind: Mapped[bool] = mapped_column(
        Boolean, server_default=text("false"), comment="given without seeing other grades"
    )
    seconds: Mapped[float | None] = mapped_column(
        REAL, comment="how long the image stood before the grader, s; NULL: not in the queue"
    )


class BulkGradeRow(Base):
    """One grade given to all images that a rule took at one moment."""

    __tablename__ = "bulk_grade"
    id: Mapped[int] = key()
    rule: Mapped[str] = mapped_column(Text, comment="text of the rule")
    grade: Mapped[Grade] = mapped_column(GRADE, comment="letter")
    comment: Mapped[str | None] = mapped_column(Text, comment="what the grader said")
    n_images: Mapped[int] = mapped_column(Integer, comment="images graded")
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: the command line")
    created_at: Mapped[datetime] = stamp("when")
    withdrawn_at: Mapped[datetime | None] = instant("when it was taken back")


class GradeClaimRow(Base):
    """An image that a grader's queue holds for a while, so that two graders of one queue do not meet."""

    __tablename__ = "grade_claim"
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="which image"
    )
    person_id: Mapped[int] = mapped_column(
        ForeignKey("person.id", ondelete="CASCADE"), index=True, comment="who has it before the eyes"
    )
    until: Mapped[datetime] = stamp("held until", server_default=None)


class GradeReasonRow(Base):
    """One reason of a machine grade."""

    __tablename__ = "grade_reason"
    id: Mapped[int] = key()
    grade_id: Mapped[int] = mapped_column(
        ForeignKey("grade.id", ondelete="CASCADE"), index=True, comment="of which grade"
    )
    code: Mapped[str] = mapped_column(Text, comment="stable code")
    text: Mapped[str] = mapped_column(Text, comment="sentence")
    value: Mapped[str | None] = mapped_column(Text, comment="value judged")
    limit: Mapped[str | None] = mapped_column(Text, comment="limit it broke")


class SolutionRow(Base):
    """One joint solution of an association."""

    __tablename__ = "solution"
    id: Mapped[int] = key()
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), unique=True, comment="attempt that solved")
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("plan.id"), index=True, comment="of which plan")
    reference_name: Mapped[str] = mapped_column(Text, comment="reference catalogue")
    n_reference: Mapped[int] = mapped_column(Integer, comment="reference stars matched")
    internal_mas: Mapped[float | None] = mapped_column(Float, comment="rms per axis between exposures, mas")
    reference_mas: Mapped[float | None] = mapped_column(Float, comment="rms per axis to the reference, mas")
    internal_mag: Mapped[float | None] = mapped_column(Float, comment="rms between exposures, mag")
    reference_mag: Mapped[float | None] = mapped_column(Float, comment="rms to the reference, mag")
    mag_system: Mapped[str | None] = mapped_column(Text, comment="magnitude system; NULL: relative only")
    mag_band: Mapped[str | None] = mapped_column(Text, comment="band of the reference")
    holds: Mapped[bool] = mapped_column(Boolean, comment="whether the verdict is good")
    created_at: Mapped[datetime] = stamp("when it was recorded")


class SolutionImageRow(Base):
    """What a solution says of one exposure."""

    __tablename__ = "solution_image"
    __table_args__ = (UniqueConstraint("solution_id", "image_id"),)
    id: Mapped[int] = key()
    solution_id: Mapped[int] = mapped_column(ForeignKey("solution.id", ondelete="CASCADE"), comment="of which solution")
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), index=True, comment="of which image"
    )
    n_reference: Mapped[int] = mapped_column(Integer, comment="reference stars matched")
    n_photometric: Mapped[int] = mapped_column(Integer, comment="stars of its zero point")
    internal_mas: Mapped[float | None] = mapped_column(Float, comment="rms per axis to other exposures, mas")
    reference_mas: Mapped[float | None] = mapped_column(Float, comment="rms per axis to the reference, mas")
    pointing_offset_arcsec: Mapped[float | None] = mapped_column(
        Float, comment="solved centre from the header's, arcsec"
    )
    rotation_deg: Mapped[float | None] = mapped_column(Float, comment="position angle of +y, degree")
    contrast: Mapped[float | None] = mapped_column(Float, comment="contrast of the match")
    zero_point_mag: Mapped[float | None] = mapped_column(
        Float, comment="magnitude of 1 ADU/s, mag; NULL: relative only"
    )
    zero_point_error_mag: Mapped[float | None] = mapped_column(Float, comment="its error, mag")
    relative_zero_point_mag: Mapped[float | None] = mapped_column(
        Float, comment="zero point relative to the ensemble, mag"
    )
    skyprobe_mag: Mapped[float | None] = mapped_column(Float, comment="attenuation of the sky, mag")
    flux_scale: Mapped[float] = mapped_column(Float, comment="factor from ADU to ADU of the stack")

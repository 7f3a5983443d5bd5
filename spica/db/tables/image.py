"""Images, their detectors, headers, places on the sky, and the narrow row of selectable measures."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Date,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, key, stamp
from spica.model.grade import Grade, GradeSource
from spica.model.image import FrameType, ImageKind, ImageState, PositionSource

GRADE = enum_type(Grade, "grade_letter")
GRADE_SOURCE = enum_type(GradeSource, "grade_source")
POSITION_SOURCE = enum_type(PositionSource, "position_source")


class ImageRow(Base):
    """Root row of exposures, stacks and calibrated copies."""

    __tablename__ = "image"
    __table_args__ = (
        Index("ix_image_association", "kind", "object_key", "instrument", "filter"),
        Index("ix_image_healpix", "healpix"),
        Index("ix_image_state", "kind", "state", "id"),
        Index("ix_image_group", "run", "filter"),
        Index("ix_image_lower_name", text("lower(name) text_pattern_ops")),
        CheckConstraint("exptime_s >= 0", "exptime_positive"),
        CheckConstraint("dec_deg BETWEEN -90 AND 90", "dec_range"),
    )
    id: Mapped[int] = key()
    kind: Mapped[ImageKind] = mapped_column(
        enum_type(ImageKind, "image_kind"), comment="exposure, stack or calibrated copy"
    )
    state: Mapped[ImageState] = mapped_column(enum_type(ImageState, "image_state"), comment="how far it has come")
    name: Mapped[str] = mapped_column(
        Text, unique=True, comment="file name without suffixes, ~sha8 added where not unique"
    )
    file_id: Mapped[int | None] = mapped_column(
        ForeignKey("file.id"), unique=True, comment="its pixels; NULL: not made yet"
    )
    plan_id: Mapped[int | None] = mapped_column(
        ForeignKey("plan.id"), index=True, comment="plan that makes or took it in"
    )
    frame_type: Mapped[FrameType] = mapped_column(
        enum_type(FrameType, "frame_type"), server_default="science", comment="what the shutter saw"
    )
    instrument: Mapped[str | None] = mapped_column(Text, comment="name of the instrument's profile")
    telescope: Mapped[str | None] = mapped_column(Text, comment="telescope, as the header says")
    object: Mapped[str | None] = mapped_column(Text, comment="object, cleaned")
    object_raw: Mapped[str | None] = mapped_column(Text, comment="object, as the header says")
    object_key: Mapped[str | None] = mapped_column(Text, comment="object, normalised; what groups exposures")
    filter: Mapped[str | None] = mapped_column(Text, comment="filter, canonical")
    filter_raw: Mapped[str | None] = mapped_column(Text, comment="filter, as the header says")
    run: Mapped[str | None] = mapped_column(Text, comment="observing run")
    night: Mapped[date | None] = mapped_column(Date, comment="local noon to noon of the observatory")
    exptime_s: Mapped[float | None] = mapped_column(Float, comment="exposure time, s")
    mjd: Mapped[float | None] = mapped_column(Float, index=True, comment="middle of the exposure, MJD UTC, day")
    airmass: Mapped[float | None] = mapped_column(Float, comment="airmass")
    ra_deg: Mapped[float | None] = mapped_column(Float, comment="right ascension of the centre, ICRS, degree")
    dec_deg: Mapped[float | None] = mapped_column(Float, comment="declination of the centre, ICRS, degree")
    radius_deg: Mapped[float | None] = mapped_column(
        Float, comment="circle around the centre that holds the footprint, degree"
    )
    healpix: Mapped[int | None] = mapped_column(BigInteger, comment="HEALPix of the centre, order 29, nested")
    position_source: Mapped[PositionSource | None] = mapped_column(
        POSITION_SOURCE, comment="where the footprint comes from"
    )
    n_detectors: Mapped[int] = mapped_column(Integer, server_default="0", comment="detectors")
    mag_system: Mapped[str | None] = mapped_column(Text, comment="magnitude system of its zero point")
    quality_id: Mapped[int | None] = mapped_column(
        ForeignKey("quality.id", use_alter=True), comment="quality that counts"
    )
    grade_id: Mapped[int | None] = mapped_column(ForeignKey("grade.id", use_alter=True), comment="grade that counts")
    solution_id: Mapped[int | None] = mapped_column(
        ForeignKey("solution.id", use_alter=True), comment="solution that counts"
    )
    created_at: Mapped[datetime] = stamp("when it was registered or planned")


class MeasureRow(Base):
    """What rules may compare, one narrow row an image; written with the rows it repeats."""

    __tablename__ = "measure"
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="of which image"
    )
    seeing_arcsec: Mapped[float | None] = mapped_column(Float, comment="FWHM of stars, median over detectors, arcsec")
    ellipticity: Mapped[float | None] = mapped_column(Float, comment="1 - b/a of stars, median over detectors")
    background_adu: Mapped[float | None] = mapped_column(Float, comment="sky background, ADU")
    noise_adu: Mapped[float | None] = mapped_column(Float, comment="background noise of a pixel, ADU")
    limiting_mag: Mapped[float | None] = mapped_column(
        Float, comment="5 sigma in an aperture of 2 arcsec diameter, mag"
    )
    n_stars: Mapped[int | None] = mapped_column(Integer, comment="stars accepted for the PSF")
    zero_point_mag: Mapped[float | None] = mapped_column(
        Float, comment="magnitude of 1 ADU/s (of 1 ADU in a stack), mag"
    )
    skyprobe_mag: Mapped[float | None] = mapped_column(Float, comment="attenuation of the sky, mag")
    grade: Mapped[Grade | None] = mapped_column(GRADE, comment="letter of the grade that counts")
    grade_source: Mapped[GradeSource | None] = mapped_column(GRADE_SOURCE, comment="who gave the grade that counts")


class DetectorRow(Base):
    """One sensor of an image, one extension; a stack has one."""

    __tablename__ = "detector"
    __table_args__ = (UniqueConstraint("image_id", "number"),)
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), comment="of which image")
    number: Mapped[int] = mapped_column(SmallInteger, comment="index of the detector, from 0")
    hdu: Mapped[int] = mapped_column(SmallInteger, comment="HDU in the file, from 0")
    name: Mapped[str] = mapped_column(Text, comment="name of the detector")
    n_x: Mapped[int] = mapped_column(Integer, comment="columns, pixel")
    n_y: Mapped[int] = mapped_column(Integer, comment="rows, pixel")
    gain_e_per_adu: Mapped[float | None] = mapped_column(Float, comment="gain, electron/ADU")
    read_noise_e: Mapped[float | None] = mapped_column(Float, comment="read noise, electron")
    saturation_adu: Mapped[float | None] = mapped_column(Float, comment="saturation level, ADU")
    pixel_scale_arcsec: Mapped[float | None] = mapped_column(Float, comment="pixel scale, arcsec/pixel")
    polygon_ra_deg: Mapped[list[float] | None] = mapped_column(ARRAY(Float), comment="corners, right ascension, degree")
    polygon_dec_deg: Mapped[list[float] | None] = mapped_column(ARRAY(Float), comment="corners, declination, degree")


class SkyRangeRow(Base):
    """HEALPix ranges (order 29, nested, end exclusive) that cover the footprint of an image."""

    __tablename__ = "sky_range"
    __table_args__ = (Index("ix_sky_range_low", "low", "high"),)
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), index=True, comment="of which image"
    )
    low: Mapped[int] = mapped_column(BigInteger, comment="first HEALPix index, order 29")
    high: Mapped[int] = mapped_column(BigInteger, comment="index after the last, order 29")


class HeaderRow(Base):
    """Whole headers of an image's file, compressed text that gives back each card."""

    __tablename__ = "header"
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="of which image"
    )
    cards: Mapped[bytes] = mapped_column(LargeBinary, comment="headers of all HDUs as spica.files.header packs them")


class ImageReasonRow(Base):
    """Why an image is in its state."""

    __tablename__ = "image_reason"
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), index=True, comment="of which image"
    )
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempt.id"), comment="attempt that said so")
    code: Mapped[str] = mapped_column(Text, comment="stable code")
    text: Mapped[str] = mapped_column(Text, comment="sentence")
    value: Mapped[str | None] = mapped_column(Text, comment="value judged")
    limit: Mapped[str | None] = mapped_column(Text, comment="limit it broke")
    at: Mapped[datetime] = stamp("when")


class TagRow(Base):
    """A free word on an image."""

    __tablename__ = "tag"
    __table_args__ = (Index("ix_tag_name", "name", "image_id"),)
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="of which image"
    )
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="the word")
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), comment="who; NULL: the command line")
    created_at: Mapped[datetime] = stamp("when")


class TagStyleRow(Base):
    """The colour of a tag."""

    __tablename__ = "tag_style"
    name: Mapped[str] = mapped_column(Text, primary_key=True, comment="the word")
    colour: Mapped[str] = mapped_column(Text, comment="one of the pages' tag colours")

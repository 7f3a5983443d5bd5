"""Products, stacks and their inputs, catalogues and deliveries."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, Float, ForeignKey, Index, Integer, SmallInteger, Text
from sqlalchemy.dialects.postgresql import REAL
from sqlalchemy.orm import Mapped, mapped_column

from spica.db.tables.base import Base, enum_type, key, stamp
from spica.model.association import Mode
from spica.model.job import Outcome
from spica.model.product import DeliveryState


class ProductRow(Base):
    """A file that an attempt made."""

    __tablename__ = "product"
    __table_args__ = (Index("ix_product_image", "image_id", "role"),)
    id: Mapped[int] = key()
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True, comment="by which job")
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), index=True, comment="by which attempt")
    role: Mapped[str] = mapped_column(Text, comment="seat among the products")
    name: Mapped[str] = mapped_column(Text, comment="name for people")
    image_id: Mapped[int | None] = mapped_column(ForeignKey("image.id"), comment="of which image")
    number: Mapped[int | None] = mapped_column(SmallInteger, comment="index of the detector; NULL: all")
    file_id: Mapped[int] = mapped_column(ForeignKey("file.id"), index=True, comment="which file")
    created_at: Mapped[datetime] = stamp("when it was harvested")


class StackRow(Base):
    """Facts of a stack or calibrated copy beyond its image row."""

    __tablename__ = "stack"
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="its image row"
    )
    mode: Mapped[Mode] = mapped_column(enum_type(Mode, "plan_mode"), comment="how its exposures were chosen")
    attempt_id: Mapped[int | None] = mapped_column(
        ForeignKey("attempt.id"), comment="attempt that made it; NULL: planned"
    )
    n_inputs: Mapped[int | None] = mapped_column(Integer, comment="exposures combined")
    n_x: Mapped[int | None] = mapped_column(Integer, comment="columns, pixel")
    n_y: Mapped[int | None] = mapped_column(Integer, comment="rows, pixel")
    pixel_scale_arcsec: Mapped[float | None] = mapped_column(Float, comment="pixel scale, arcsec/pixel")
    zero_point_mag: Mapped[float | None] = mapped_column(Float, comment="magnitude of 1 ADU, mag; NULL: relative only")
    mag_band: Mapped[str | None] = mapped_column(Text, comment="band of the reference")
    gain_e_per_adu: Mapped[float | None] = mapped_column(Float, comment="effective gain, electron/ADU")
    saturation_adu: Mapped[float | None] = mapped_column(Float, comment="lowest saturation of the inputs in its ADU")
    combine: Mapped[str | None] = mapped_column(Text, comment="how pixels were combined")
    superseded_by_id: Mapped[int | None] = mapped_column(
        ForeignKey("image.id"), comment="newer stack of the same association"
    )


class StackInputRow(Base):
    """One exposure of a stack: planned, then what became of it."""

    __tablename__ = "stack_input"
    stack_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="of which stack"
    )
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id"), primary_key=True, index=True, comment="which exposure"
    )
    outcome: Mapped[Outcome | None] = mapped_column(enum_type(Outcome, "item_outcome"), comment="NULL: not made yet")
    code: Mapped[str | None] = mapped_column(Text, comment="reason code where left out")
    text: Mapped[str | None] = mapped_column(Text, comment="reason where left out")
    weight_fraction: Mapped[float | None] = mapped_column(Float, comment="share of the total weight")
    clipped_fraction: Mapped[float | None] = mapped_column(Float, comment="fraction of its pixels clipped")
    flux_scale: Mapped[float | None] = mapped_column(Float, comment="factor from ADU to ADU of the stack")


class SourceRow(Base):
    """One source of a stack's catalogue."""

    __tablename__ = "source"
    __table_args__ = (Index("ix_source_healpix", "healpix"),)
    image_id: Mapped[int] = mapped_column(
        ForeignKey("image.id", ondelete="CASCADE"), primary_key=True, comment="of which image"
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True, comment="number in the catalogue")
    healpix: Mapped[int] = mapped_column(BigInteger, comment="HEALPix of the position, order 29, nested")
    ra_deg: Mapped[float] = mapped_column(Float, comment="windowed right ascension, degree")
    dec_deg: Mapped[float] = mapped_column(Float, comment="windowed declination, degree")
    x_pix: Mapped[float] = mapped_column(REAL, comment="windowed column, pixel from 0")
    y_pix: Mapped[float] = mapped_column(REAL, comment="windowed row, pixel from 0")
    mag_auto: Mapped[float | None] = mapped_column(REAL, comment="Kron-like magnitude, mag")
    magerr_auto: Mapped[float | None] = mapped_column(REAL, comment="its error, mag")
    mag_aper: Mapped[list[float | None] | None] = mapped_column(
        ARRAY(REAL), comment="aperture magnitudes in the recipe's order, mag"
    )
    magerr_aper: Mapped[list[float | None] | None] = mapped_column(ARRAY(REAL), comment="their errors, mag")
    flux_radius_pix: Mapped[float | None] = mapped_column(REAL, comment="half-light radius, pixel")
    fwhm_pix: Mapped[float | None] = mapped_column(REAL, comment="FWHM, pixel")
    elongation: Mapped[float | None] = mapped_column(REAL, comment="a/b")
    flags: Mapped[int] = mapped_column(SmallInteger, comment="SExtractor's extraction flags")


class DeliveryRow(Base):
    """One delivery of one stack."""

    __tablename__ = "delivery"
    id: Mapped[int] = key()
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), index=True, comment="what is delivered")
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempt.id"), unique=True, comment="attempt that delivered")
    node_id: Mapped[int] = mapped_column(ForeignKey("node.id"), comment="on which node")
    folder: Mapped[str] = mapped_column(Text, comment="folder below the node's root `outgoing`")
    manifest_sha256: Mapped[str] = mapped_column(Text, comment="hash of manifest.json")
    state: Mapped[DeliveryState] = mapped_column(
        enum_type(DeliveryState, "delivery_state"), comment="how far it has come"
    )
    created_at: Mapped[datetime] = stamp("when it was prepared")
    fault: Mapped[str | None] = mapped_column(Text, comment="what the last check found wrong; NULL: nothing")
    checked_at: Mapped[datetime | None] = stamp("when its files were last checked", server_default=None, nullable=True)

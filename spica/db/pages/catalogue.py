"""The catalogue of a stack as its page shows it: narrowed, ordered, paged, and spread over magnitude and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Float, and_, cast, func, select
from sqlalchemy.orm import Session

from spica.db.tables.product import SourceRow

SORTS = ("number", "ra_deg", "dec_deg", "mag_auto", "magerr_auto", "fwhm_pix", "flux_radius_pix", "elongation", "flags")
MAG_STEP = 0.5
"""Width of a bin of the number counts, mag."""
MAG_CELLS, SIZE_CELLS = 80, 60


@dataclass(frozen=True)
class SourceBounds:
    """What a catalogue is narrowed to; None does not narrow. `clean`: no flag at all."""

    mag_min: float | None = None
    mag_max: float | None = None
    fwhm_max_pix: float | None = None
    elongation_max: float | None = None
    clean: bool = False
    number: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the conditions."""
        s = SourceRow
        found: list[ColumnElement[bool]] = [s.flags == 0] if self.clean else []
        for column, low, high in (
            (s.mag_auto, self.mag_min, self.mag_max),
            (s.fwhm_pix, None, self.fwhm_max_pix),
            (s.elongation, None, self.elongation_max),
            (s.number, self.number, self.number),
        ):
            found += [column >= low] if low is not None else []
            found += [column <= high] if high is not None else []
        return found


@dataclass(frozen=True)
class MagBin:
    """Sources between `mag` and `mag + MAG_STEP`: all, and those without a flag."""

    mag: float
    n: int
    n_clean: int


@dataclass(frozen=True)
class SizeCell:
    """Sources in one cell of the plane of magnitude and half-light radius; `mag`, `radius_pix` are its lower corner."""

    mag: float
    radius_pix: float
    n: int


@dataclass(frozen=True)
class SizePlane:
    """Half-light radius against magnitude as counts in cells; the classic plane that parts stars from galaxies."""

    mag: tuple[float, float]
    radius_pix: tuple[float, float]
    cells: tuple[SizeCell, ...]


def count_matching(session: Session, image_id: int, bounds: SourceBounds) -> tuple[int, int]:
    """Return how many sources of a stack are within the bounds, and how many there are: one statement."""
    met = func.count().filter(and_(True, *bounds.conditions()))
    n, total = session.execute(select(met, func.count()).where(SourceRow.image_id == image_id)).one()
    return n, total


def list_sources(
    session: Session, image_id: int, bounds: SourceBounds, sort: str, limit: int, offset: int = 0
) -> list[SourceRow]:
    """Return sources in an order (`mag_auto`, `-mag_auto`), unknown values last: one statement."""
    name, down = sort.removeprefix("-"), sort.startswith("-")
    column = getattr(SourceRow, name if name in SORTS else "mag_auto")
    order = column.desc().nulls_last() if down else column.asc().nulls_last()
    query = select(SourceRow).where(SourceRow.image_id == image_id, *bounds.conditions())
    return list(session.scalars(query.order_by(order, SourceRow.number).limit(limit).offset(offset)))


def count_magnitudes(session: Session, image_id: int) -> list[MagBin]:
    """Return the number counts of a catalogue, bright first: one statement."""
    step = func.floor(SourceRow.mag_auto / MAG_STEP)
    query = (
        select(step, func.count(), func.count().filter(SourceRow.flags == 0))
        .where(SourceRow.image_id == image_id, SourceRow.mag_auto.is_not(None))
        .group_by(step)
        .order_by(step)
    )
    return [MagBin(float(b) * MAG_STEP, n, clean) for b, n, clean in session.execute(query)]


def read_size_plane(session: Session, image_id: int) -> SizePlane | None:
    """Return half-light radius against magnitude, percentiles 0.5 to 99.5 of both; None for a handful of sources.

    Two statements.
    """
    mag, radius = cast(SourceRow.mag_auto, Float), cast(SourceRow.flux_radius_pix, Float)
    of: Sequence[ColumnElement[bool]] = (
        SourceRow.image_id == image_id,
        SourceRow.mag_auto.is_not(None),
        SourceRow.flux_radius_pix.is_not(None),
    )
    ends = [func.percentile_cont(p).within_group(v) for v in (mag, radius) for p in (0.005, 0.995)]
    m0, m1, r0, r1 = session.execute(select(*ends).where(*of)).one()
    if m0 is None or not (m1 > m0 and r1 > r0):
        return None
    x = func.width_bucket(mag, m0, m1, MAG_CELLS)
    y = func.width_bucket(radius, r0, r1, SIZE_CELLS)
    query = select(x, y, func.count()).where(*of, mag.between(m0, m1), radius.between(r0, r1)).group_by(x, y)
    dx, dy = (m1 - m0) / MAG_CELLS, (r1 - r0) / SIZE_CELLS
    cells = [
        SizeCell(m0 + (min(i, MAG_CELLS) - 1) * dx, r0 + (min(j, SIZE_CELLS) - 1) * dy, n)
        for i, j, n in session.execute(query)
    ]
    return SizePlane((m0, m1), (r0, r1), tuple(cells))

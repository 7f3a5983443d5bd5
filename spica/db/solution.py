"""Solutions of ensembles: history rows, better footprints, and the zero points that count."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from spica.db.context import HarvestContext
from spica.db.engine import notify
from spica.db.image import replace_footprint
from spica.db.tables.image import ImageRow, MeasureRow
from spica.db.tables.quality import QualityRow, SolutionImageRow, SolutionRow
from spica.model.image import ImageState, PositionSource
from spica.model.solution import SolutionRecord, SolvedImage


def record_solution(session: Session, record: SolutionRecord, context: HarvestContext) -> None:
    """Keep a solution; where it holds, its exposures are calibrated, placed by it, and take its zero points."""
    row = SolutionRow(
        attempt_id=context.attempt_id,
        plan_id=context.plan_id,
        reference_name=record.reference_name,
        n_reference=record.n_reference,
        internal_mas=record.internal_mas,
        reference_mas=record.reference_mas,
        internal_mag=record.internal_mag,
        reference_mag=record.reference_mag,
        mag_system=record.mag_system,
        mag_band=record.mag_band,
        holds=not record.problems,
    )
    session.add(row)
    session.flush()
    for solved in sorted(record.images, key=lambda s: s.item):
        image_id = context.need_image(solved.item)
        session.add(_image_row(row.id, image_id, solved))
        if row.holds:
            _apply(session, image_id, row, solved)
    session.flush()


def _image_row(solution_id: int, image_id: int, s: SolvedImage) -> SolutionImageRow:
    return SolutionImageRow(
        solution_id=solution_id,
        image_id=image_id,
        n_reference=s.n_reference,
        n_photometric=s.n_photometric,
        internal_mas=s.internal_mas,
        reference_mas=s.reference_mas,
        pointing_offset_arcsec=s.pointing_offset_arcsec,
        rotation_deg=s.rotation_deg,
        contrast=s.contrast,
        zero_point_mag=s.zero_point_mag,
        zero_point_error_mag=s.zero_point_error_mag,
        relative_zero_point_mag=s.relative_zero_point_mag,
        skyprobe_mag=s.skyprobe_mag,
        flux_scale=s.flux_scale,
    )


def _apply(session: Session, image_id: int, solution: SolutionRow, s: SolvedImage) -> None:
    if s.detectors:
        polygons = {d.detector: d.polygon_deg for d in s.detectors}
        replace_footprint(session, image_id, polygons, (s.ra_deg, s.dec_deg), PositionSource.SOLUTION)
    image = session.get_one(ImageRow, image_id)
    image.solution_id = solution.id
    image.mag_system = solution.mag_system
    image.state = ImageState.CALIBRATED
    values: dict[str, Any] = {"zero_point_mag": s.zero_point_mag, "skyprobe_mag": s.skyprobe_mag}
    flux = session.scalar(select(QualityRow.limiting_flux_adu).where(QualityRow.id == image.quality_id))
    if s.zero_point_mag is not None and flux and image.exptime_s:
        rate = flux / image.exptime_s
        values["limiting_mag"] = s.zero_point_mag - 2.5 * func.log(rate)
    session.execute(update(MeasureRow).where(MeasureRow.image_id == image_id).values(**values))
    notify(session, f"image:{image_id}")

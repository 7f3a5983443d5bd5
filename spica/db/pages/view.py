"""What the viewer needs of an image: its newest pictures and files, its detectors, its neighbour to blink with."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from spica.db.tables.file import ContentRow, FileRow
from spica.db.tables.image import DetectorRow, ImageRow
from spica.db.tables.job import PlanRow
from spica.db.tables.product import ProductRow, SourceRow, StackInputRow, StackRow
from spica.db.tables.quality import QualityRow
from spica.model.image import ImageKind
from spica.model.product import Role

ROLES = (Role.MOSAIC, Role.PREVIEW, Role.FACTS, Role.DETRENDED, Role.WEIGHT, Role.CATALOGUE)
PICTURE_TYPES = ("image/png", "image/jpeg")


@dataclass(frozen=True)
class ViewFile:
    """A file by its content; `attempt_id` made it (0: none), `media_type` is that of its central copy."""

    id: int
    sha256: str
    size: int
    name: str
    attempt_id: int = 0
    media_type: str | None = None


@dataclass(frozen=True)
class ViewDetector:
    """A detector's place on the sky: its corners in order of its pixels; and the FWHM of its stars, NULL unknown."""

    number: int
    name: str
    n_x: int
    n_y: int
    ra_deg: tuple[float, ...]
    dec_deg: tuple[float, ...]
    fwhm_pix: float | None


@dataclass(frozen=True)
class ViewRows:
    """All that the pages' viewer reads of one image; `facts` of a calibrated copy are those of its exposure."""

    image: ImageRow
    n_x: int | None
    n_y: int | None
    mosaic: ViewFile | None
    preview: ViewFile | None
    facts: ViewFile | None
    pixels: ViewFile | None
    weight: ViewFile | None
    catalogue: ViewFile | None
    detectors: tuple[ViewDetector, ...]
    blink: int | None


def read_view(session: Session, image: ImageRow) -> ViewRows:
    """Return what the viewer needs: six statements at most."""
    products = _newest(session, image.id)
    facts, pixels = products.get(Role.FACTS), _own_file(session, image)
    stack = session.get(StackRow, image.id) if image.kind is not ImageKind.EXPOSURE else None
    if image.kind is ImageKind.CALIBRATED:
        facts = _facts_of_input(session, image.id)
    elif image.kind is ImageKind.EXPOSURE:
        detrended = products.get(Role.DETRENDED)
        if detrended is not None and facts is not None and detrended.attempt_id == facts.attempt_id:
            pixels = detrended
    return ViewRows(
        image=image,
        n_x=stack.n_x if stack else None,
        n_y=stack.n_y if stack else None,
        mosaic=products.get(Role.MOSAIC),
        preview=products.get(Role.PREVIEW),
        facts=facts,
        pixels=pixels,
        weight=products.get(Role.WEIGHT),
        catalogue=products.get(Role.CATALOGUE),
        detectors=_detectors(session, image),
        blink=_neighbour(session, image),
    )


_FILE = (FileRow.id, FileRow.sha256, FileRow.size, FileRow.name)


def _newest(session: Session, image_id: int) -> dict[str, ViewFile]:
    """Return the newest product of each role; pictures and facts only where a central copy is kept."""
    query = (
        select(ProductRow.role, *_FILE, ProductRow.attempt_id, ContentRow.media_type)
        .join(FileRow, FileRow.id == ProductRow.file_id)
        .outerjoin(ContentRow, ContentRow.file_id == FileRow.id)
        .where(ProductRow.image_id == image_id, ProductRow.role.in_(ROLES), ProductRow.number.is_(None))
        .order_by(ProductRow.attempt_id.desc(), ProductRow.id.desc())
        .limit(1000)
    )
    wanted: dict[str, tuple[str, ...]] = {
        Role.MOSAIC: ("image/jpeg",),
        Role.PREVIEW: PICTURE_TYPES,
        Role.FACTS: ("application/json",),
    }
    found: dict[str, ViewFile] = {}
    for role, file_id, sha256, size, name, attempt, media in session.execute(query):
        one = ViewFile(file_id, sha256, size, name, attempt, media)
        if role not in wanted or (one.media_type or "") in wanted[role]:
            found.setdefault(role, one)
    return found


def _own_file(session: Session, image: ImageRow) -> ViewFile | None:
    if image.file_id is None:
        return None
    row = session.execute(select(*_FILE).where(FileRow.id == image.file_id)).one_or_none()
    return None if row is None else ViewFile(*row)


def _facts_of_input(session: Session, image_id: int) -> ViewFile | None:
    given = session.scalar(select(StackInputRow.image_id).where(StackInputRow.stack_id == image_id).limit(1))
    return None if given is None else _newest(session, given).get(Role.FACTS)


def _detectors(session: Session, image: ImageRow) -> tuple[ViewDetector, ...]:
    of = (QualityRow.parent_id == image.quality_id) & (QualityRow.number == DetectorRow.number)
    query = (
        select(DetectorRow, QualityRow.fwhm_pix)
        .outerjoin(QualityRow, of)
        .where(DetectorRow.image_id == image.id)
        .order_by(DetectorRow.number)
        .limit(1000)
    )
    return tuple(
        ViewDetector(
            d.number, d.name, d.n_x, d.n_y, tuple(d.polygon_ra_deg or ()), tuple(d.polygon_dec_deg or ()), fwhm
        )
        for d, fwhm in session.execute(query)
    )


def _neighbour(session: Session, image: ImageRow) -> int | None:
    """Return what to blink with: of an exposure the one before it of its object and filter, of a stack its elder."""
    if image.kind is not ImageKind.EXPOSURE:
        plan = select(PlanRow.supersedes_id).where(PlanRow.id == image.plan_id).scalar_subquery()
        older = select(ImageRow.id).where(ImageRow.plan_id == plan, ImageRow.kind == image.kind)
        return session.scalar(older.order_by(ImageRow.id.desc()).limit(1))
    if image.object_key is None or image.filter is None:
        return None
    same = [getattr(ImageRow, n) == getattr(image, n) for n in ("kind", "object_key", "instrument", "filter")]
    number = ImageRow.id + 0  # by the index of the association, never along all images by their ids
    before = func.max(number).filter(number < image.id)
    after = func.min(number).filter(number > image.id)
    near = session.execute(select(before, after).where(*same)).one()
    return near[0] if near[0] is not None else near[1]


@dataclass(frozen=True)
class SourcePlace:
    """A source of a stack's catalogue."""

    x_pix: float
    y_pix: float
    mag: float | None
    fwhm_pix: float | None
    flags: int


def brightest_sources(session: Session, image_id: int, limit: int) -> list[SourcePlace]:
    """Return the brightest sources of a stack's catalogue, those without a magnitude last."""
    query = (
        select(SourceRow.x_pix, SourceRow.y_pix, SourceRow.mag_auto, SourceRow.fwhm_pix, SourceRow.flags)
        .where(SourceRow.image_id == image_id)
        .order_by(SourceRow.mag_auto.asc().nulls_last(), SourceRow.number)
        .limit(limit)
    )
    return [SourcePlace(*row) for row in session.execute(query)]

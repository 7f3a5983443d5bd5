"""Tables of the survey; `Base.metadata` holds them all once this package is imported."""

from spica.db.tables import calibration, file, image, job, mark, person, product, quality, rule
from spica.db.tables.base import Base

__all__ = ["Base", "calibration", "file", "image", "job", "mark", "person", "product", "quality", "rule"]

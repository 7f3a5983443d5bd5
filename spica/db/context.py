"""What the recording functions know of the attempt they record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spica.model.errors import DataError
from spica.model.job import item_id


@dataclass(frozen=True)
class PlacedProduct:
    """A product that lies where it stays: its file row, and its path on this node."""

    role: str
    item: str | None
    detector: int | None
    file_id: int
    path: Path
    name: str = ""


@dataclass
class HarvestContext:
    """The attempt that is harvested, its products, and the image each of its items has become."""

    attempt_id: int
    job_id: int
    plan_id: int | None
    node_id: int
    products: tuple[PlacedProduct, ...] = ()
    images: dict[str, int] = field(default_factory=dict)

    def image_of(self, item: str | None) -> int | None:
        """Return the image row of an item (`image:N` names it, `file:N` once its record was written), or None."""
        if item is None:
            return None
        noun, number = item_id(item)
        return number if noun == "image" else self.images.get(item)

    def need_image(self, item: str) -> int:
        """Return the image row of an item, which must exist."""
        image_id = self.image_of(item)
        if image_id is None:
            raise DataError(f"result speaks of {item}, which has no image; the step must record the exposure first")
        return image_id

    def product(self, role: str, item: str | None = None) -> PlacedProduct | None:
        """Return the first product of a role (and item), or None."""
        return next((p for p in self.products if p.role == role and item in (None, p.item)), None)

"""Pixels of an exposure's detectors as calibrated sky images, read whole or by rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spica.files.mef import ImageHdu, MefFile, open_mef
from spica.model.errors import DataError
from spica.steps.facts import DetectorSheet, FactsSheet

WEIGHT_STEP = 1.0 / 1000.0
"""Weight maps are stored as 16-bit integers in steps of a thousandth of their median."""
STRIP_ROWS = 32


@dataclass(frozen=True)
class LazyPixels:
    """Pixels of one detector that are read from the file when rows are asked for; float32, shape (ny, nx)."""

    mef: MefFile
    hdu: ImageHdu
    sheet: DetectorSheet | None = None
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Return (ny, nx)."""
        if self.sheet is not None:
            return self.sheet.n_y, self.sheet.n_x
        return self.hdu.shape[-2], self.hdu.shape[-1]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Return rows, or a (rows, columns) window."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        top, bottom, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1])
        if bottom <= top or right <= left:
            return np.empty((max(0, bottom - top), max(0, right - left)), np.float32)
        data = self._window(top, bottom, left, right)
        return data if self.factor == 1.0 else data * np.float32(self.factor)

    def _window(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.float32]:
        part = self.sheet.data if self.sheet is not None else None
        y0, x0 = (part.y_start, part.x_start) if part is not None else (0, 0)
        return self.mef.read_pixels(self.hdu, (slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)))

    def whole(self) -> NDArray[np.float32]:
        """Return all pixels."""
        return self[0 : self.shape[0]]


@contextmanager
def open_exposure(path: Path, sheet: FactsSheet) -> Iterator[list[LazyPixels]]:
    """Open the detectors of an exposure in the order of its sheet.

    Raises DataError where a detector is raw: its sky image is in the file that the assessment prepared.
    """
    raw = [d.name for d in sheet.detectors if d.is_raw]
    if raw:
        raise DataError(f"detector {raw[0]} of {path.name} is raw; open the detrended file of its assessment instead")
    mef = open_mef(path)
    try:
        yield [LazyPixels(mef, mef.image(d.hdu), d) for d in sheet.detectors]
    finally:
        mef.close()


@contextmanager
def open_weight(path: Path) -> Iterator[list[LazyPixels]]:
    """Open the maps of a weight file in the order of the detectors; their median is 1."""
    mef = open_mef(path)
    try:
        yield [LazyPixels(mef, hdu, None, WEIGHT_STEP) for hdu in mef.images]
    finally:
        mef.close()


def pack_weight(weight: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return a weight map as 16-bit integers; what is usable stays above 0."""
    packed = np.empty(weight.shape, np.int16)
    for start in range(0, weight.shape[0], STRIP_ROWS):  # strips that stay in the processor's cache
        part = weight[start : start + STRIP_ROWS]
        steps = np.clip(np.rint(part / WEIGHT_STEP), 1, 32767)
        packed[start : start + STRIP_ROWS] = np.where(part > 0, steps, 0)
    return packed

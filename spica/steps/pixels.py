"""Pixels of an exposure's detectors as calibrated sky images, read whole or by rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.region import RegionMask, rasterise_circle, rasterise_polygon
from spica.files.mef import ImageHdu, MefFile, open_mef
from spica.model.errors import DataError
from spica.model.mark import MarkRegion, MarkShape
from spica.steps.facts import DetectorSheet, FactsSheet

WEIGHT_STEP = 1.0 / 1000.0
"""Weight maps are stored as 16-bit integers in steps of a thousandth of their median."""
STRIP_ROWS = 32


@dataclass(frozen=True)
class LazyPixels:
    """Pixels of one detector that are read from the file when rows are asked for; float32, shape (ny, nx).

    Pixels inside `marks` are read as 0.
    """

    mef: MefFile
    hdu: ImageHdu
    sheet: DetectorSheet | None = None
    factor: float = 1.0
    marks: tuple[RegionMask, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Return (ny, nx)."""
        if self.sheet is not None:
            return self.sheet.n_y, self.sheet.n_x
        return self.hdu.shape[-2], self.hdu.shape[-1]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Return rows, or a (rows, columns) window."""
        top, bottom, left, right = _bounds(key, self.shape)
        if bottom <= top or right <= left:
            return np.empty((max(0, bottom - top), max(0, right - left)), np.float32)
        data = self._window(top, bottom, left, right)
        if self.factor != 1.0:
            data = data * np.float32(self.factor)
        elif self.marks:
            data = data.copy()
        for mark in self.marks:
            mark.clear(data, top, left)
        return data

    def _window(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.float32]:
        part = self.sheet.data if self.sheet is not None else None
        y0, x0 = (part.y_start, part.x_start) if part is not None else (0, 0)
        return self.mef.read_pixels(self.hdu, (slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)))

    def whole(self) -> NDArray[np.float32]:
        """Return all pixels."""
        return self[0 : self.shape[0]]


def _bounds(key: Any, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of a slice of rows, or of a pair of slices."""
    rows, columns = key if isinstance(key, tuple) else (key, slice(None))
    top, bottom, _ = rows.indices(shape[0])
    left, right, _ = columns.indices(shape[1])
    return top, bottom, left, right


@dataclass(frozen=True)
class EvenWeight:
    """The weight of a detector without a map: one value but for the pixels inside `marks`, which are 0."""

    shape: tuple[int, int]
    value: float
    marks: tuple[RegionMask, ...] = ()

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Return rows, or a (rows, columns) window."""
        top, bottom, left, right = _bounds(key, self.shape)
        data = np.full((max(0, bottom - top), max(0, right - left)), self.value, np.float32)
        for mark in self.marks:
            mark.clear(data, top, left)
        return data


def rasterise_marks(
    regions: Sequence[MarkRegion], shapes: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[RegionMask, ...]]:
    """Return by detector the masks of the regions on it; `shapes` are (ny, nx) of the detectors, others are left out.

    Raises
    ------
    DataError
        A region that cannot be drawn.
    """
    found: dict[int, tuple[RegionMask, ...]] = {}
    for region in regions:
        shape = shapes.get(region.detector)
        mask = None if shape is None else _mask_of(region, shape)
        if mask is not None:
            found[region.detector] = (*found.get(region.detector, ()), mask)
    return found


def _mask_of(region: MarkRegion, shape: tuple[int, int]) -> RegionMask | None:
    try:
        if region.shape is MarkShape.CIRCLE:
            return rasterise_circle(region.x_pix[0], region.y_pix[0], region.radius_pix or 0.0, shape)
        return rasterise_polygon(region.x_pix, region.y_pix, shape)
    except (ValueError, IndexError) as error:
        raise DataError(f"a mark on detector {region.detector} cannot be drawn ({error}); take it back") from error


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
    """Open the maps of a weight file in the order of the detectors; their median is 1. No mark is in them yet."""
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

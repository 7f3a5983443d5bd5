"""Square tiles of a mosaic at any of its binnings, read from the FITS file: what is decoded once is kept, in bounds."""

from __future__ import annotations

import enum
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from spica.files.mef import ImageHdu, MefFile, open_mef
from spica.files.mosaic import DetectorPlace
from spica.files.source import FileLimits
from spica.model.errors import DataError

TILE_PIX = 256
MAX_LEVEL = 7
STRIP_PIXELS = 4 * 1024 * 1024
MAX_PACKED_TILE_PIXELS = 2**25
LIMITS = FileLimits(max_hdus=1000, max_pixels=2_000_000_000, max_unpacked_bytes=8 * 1024**3)
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Reading(enum.Enum):
    """What a file's pixels are: values; values where 0 is no pixel; weights, of which 0 is masked."""

    VALUES = "values"
    STACK = "stack"
    WEIGHT = "weight"


class Kept(Generic[K, V]):
    """The newest results of slow work, bounded by their weight; each is made once, however many threads ask for it."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        """Begin empty; the one asked for last is kept even where it alone weighs more than `limit`."""
        self._limit, self._weigh = limit, weigh
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._making: dict[K, Future[V]] = {}
        self._lock = threading.Lock()
        self.total = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return what is kept, or make it; where making fails all who wait are told, and the next tries again."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
            waiting = self._making.get(key)
            own: Future[V] = Future()
            if waiting is None:
                self._making[key] = own
        if waiting is not None:
            return waiting.result()
        try:
            value = make()
        except BaseException as trouble:
            with self._lock:
                del self._making[key]
            own.set_exception(trouble)
            raise
        with self._lock:
            del self._making[key]
            self._keep(key, value)
        own.set_result(value)
        return value

    def find(self, key: K) -> V | None:
        """Return what is kept, None where nothing is."""
        with self._lock:
            found = self._kept.get(key)
        return None if found is None else found[0]

    def _keep(self, key: K, value: V) -> None:
        weight = self._weigh(value)
        self._kept[key] = (value, weight)
        self.total += weight
        while self.total > self._limit and len(self._kept) > 1:
            _, (_, old) = self._kept.popitem(last=False)
            self.total -= old


@dataclass(frozen=True)
class DetectorPixels:
    """A detector's place in the mosaic, and where its pixels begin in which unit of the file."""

    place: DetectorPlace
    hdu: int
    x_start: int = 0
    y_start: int = 0


@dataclass(frozen=True)
class ImagePixels:
    """A file whose detectors make a mosaic; `key` names its content."""

    path: Path
    key: str
    detectors: tuple[DetectorPixels, ...]
    reading: Reading = Reading.VALUES


@dataclass(frozen=True)
class _Cells:
    """Sums and counts of known pixels in the blocks of a binning, from the block (x, y) of the mosaic on."""

    x: int
    y: int
    total: NDArray[np.float32]
    count: NDArray[np.uint16]


class _OpenFile:
    """A file that closes when the last who reads it lets it go."""

    def __init__(self, path: Path) -> None:
        self.mef: MefFile = open_mef(path, LIMITS)

    def __del__(self) -> None:
        mef = getattr(self, "mef", None)
        if mef is not None:
            mef.close()


def _cells_bytes(cells: _Cells) -> int:
    return int(cells.total.nbytes + cells.count.nbytes)


class PixelStore:
    """Decoded strips of detectors, their block sums, and open files: all bounded, safe among threads."""

    def __init__(self, strip_bytes: int = 320 * 2**20, cell_bytes: int = 96 * 2**20, at_once: int = 2) -> None:
        """Begin empty; `at_once` strips are decoded in one moment."""
        self.strips: Kept[tuple[str, int, int, Reading], NDArray[np.float32]] = Kept(strip_bytes, lambda a: a.nbytes)
        self.cells: Kept[tuple[object, ...], _Cells] = Kept(cell_bytes, _cells_bytes)
        self.files: Kept[tuple[str, str], _OpenFile] = Kept(12, lambda _: 1)
        self._decoding = threading.BoundedSemaphore(at_once)

    def strip(self, image: ImagePixels, detector: DetectorPixels, order: int) -> NDArray[np.float32]:
        """Return the rows `order * strip_rows` and on of a detector."""
        key = (image.key, detector.hdu, order, image.reading)
        return self.strips.get(key, lambda: self._decode(image, detector, order))

    def _decode(self, image: ImagePixels, detector: DetectorPixels, order: int) -> NDArray[np.float32]:
        with self._decoding:
            opened = self.files.get((image.key, str(image.path)), lambda: _OpenFile(image.path))
            unit = opened.mef.image(detector.hdu)
            _check_unit(unit, detector, image.path.name)
            rows = strip_rows(detector.place)
            first, last = order * rows, min((order + 1) * rows, detector.place.n_y)
            y0, x0 = detector.y_start, detector.x_start
            section = (slice(y0 + first, y0 + last), slice(x0, x0 + detector.place.n_x))
            pixels: NDArray[np.float32] = opened.mef.read_pixels(unit, section)
        if image.reading is Reading.WEIGHT:
            return np.where(pixels > 0, np.float32(0), np.float32(1))
        if image.reading is Reading.STACK:
            pixels[pixels == 0] = np.nan
        return pixels


def strip_rows(place: DetectorPlace) -> int:
    """Return how many rows of a detector are decoded together."""
    return max(1, min(place.n_y, STRIP_PIXELS // place.n_x))


def _check_unit(unit: ImageHdu, detector: DetectorPixels, name: str) -> None:
    place = detector.place
    fits = len(unit.shape) == 2 and (
        detector.y_start + place.n_y <= unit.shape[0] and detector.x_start + place.n_x <= unit.shape[1]
    )
    if not fits:
        raise DataError(f"{name} HDU {unit.index} is smaller than the facts of its image say; assess the image again")
    if unit.compressed:
        tile = [unit.header.get(f"ZTILE{i}", n if i == 1 else 1) for i, n in enumerate(unit.shape[::-1], 1)]
        if math.prod(int(n) for n in tile if isinstance(n, int)) > MAX_PACKED_TILE_PIXELS:
            raise DataError(f"{name} HDU {unit.index} is packed in tiles too large to look at; pack it by rows")


def levels_for(width: int, height: int, factor: int) -> int:
    """Return the coarsest level of tiles: the last whose pixel (2^level) is finer than one of a picture of `factor`."""
    finest = max(0, math.ceil(math.log2(max(1, factor))) - 1)
    needed = max(0, math.ceil(math.log2(max(width, height) / TILE_PIX)))
    return min(finest, needed, MAX_LEVEL)


def read_tile(store: PixelStore, image: ImagePixels, level: int, column: int, row: int) -> NDArray[np.float32]:
    """Return a tile of a mosaic: means over blocks of 2^level pixels.

    Parameters
    ----------
    level, column, row : int
        The tile holds the pixels from (column, row) * 256 * 2^level of the mosaic, counted from its lower left.

    Returns
    -------
    float32 ndarray, shape (256, 256)
        ADU, y upwards; NaN where there is no known pixel. Of overlapping detectors the later one is seen at level 0.

    Raises
    ------
    DataError
        Where the file cannot be read, or has another form than its image.
    """
    if not (0 <= level <= MAX_LEVEL and 0 <= column < 2**24 and 0 <= row < 2**24):
        raise DataError(f"there is no tile {level}/{column}/{row}; the levels are 0 to {MAX_LEVEL}")
    return _full(store, image, column, row) if level == 0 else _binned(store, image, level, column, row)


def _full(store: PixelStore, image: ImagePixels, column: int, row: int) -> NDArray[np.float32]:
    out = np.full((TILE_PIX, TILE_PIX), np.nan, np.float32)
    left, bottom = column * TILE_PIX, row * TILE_PIX
    for detector in image.detectors:
        p = detector.place
        x0, x1 = max(left, p.x), min(left + TILE_PIX, p.x + p.n_x)
        y0, y1 = max(bottom, p.y), min(bottom + TILE_PIX, p.y + p.n_y)
        rows = strip_rows(p)
        for order in range((y0 - p.y) // rows, -(-(y1 - p.y) // rows)) if x0 < x1 and y0 < y1 else ():
            strip = store.strip(image, detector, order)
            base = p.y + order * rows
            a, b = max(y0, base), min(y1, base + len(strip))
            out[a - bottom : b - bottom, x0 - left : x1 - left] = strip[a - base : b - base, x0 - p.x : x1 - p.x]
    return out


def _binned(store: PixelStore, image: ImagePixels, level: int, column: int, row: int) -> NDArray[np.float32]:
    total = np.zeros((TILE_PIX, TILE_PIX), np.float32)
    count = np.zeros((TILE_PIX, TILE_PIX), np.float32)
    left, bottom, side = column * TILE_PIX, row * TILE_PIX, TILE_PIX << level
    for detector in image.detectors:
        p = detector.place
        if p.x >= (column + 1) * side or p.x + p.n_x <= column * side:
            continue
        rows = strip_rows(p)
        first, last = max(row * side - p.y, 0), min((row + 1) * side - p.y, p.n_y)
        for order in range(first // rows, -(-last // rows)) if first < last else ():
            cells = _cells(store, image, detector, order, level)
            ny, nx = cells.total.shape
            x0, x1 = max(left, cells.x), min(left + TILE_PIX, cells.x + nx)
            y0, y1 = max(bottom, cells.y), min(bottom + TILE_PIX, cells.y + ny)
            if x0 >= x1 or y0 >= y1:
                continue
            here = slice(y0 - bottom, y1 - bottom), slice(x0 - left, x1 - left)
            there = slice(y0 - cells.y, y1 - cells.y), slice(x0 - cells.x, x1 - cells.x)
            total[here] += cells.total[there]
            count[here] += cells.count[there]
    mean = np.full_like(total, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _cells(store: PixelStore, image: ImagePixels, detector: DetectorPixels, order: int, level: int) -> _Cells:
    """Return the block sums of a strip; blocks are those of the mosaic, so that neighbours share them."""
    place = detector.place
    key = (image.key, image.reading, detector.hdu, place.x, place.y, order, level)
    return store.cells.get(key, lambda: _sum_blocks(store.strip(image, detector, order), place, order, level))


def _sum_blocks(strip: NDArray[np.float32], place: DetectorPlace, order: int, level: int) -> _Cells:
    base, size = place.y + order * strip_rows(place), 1 << level
    rows, columns = _starts(base, strip.shape[0], size), _starts(place.x, strip.shape[1], size)
    known = np.isfinite(strip)
    total = np.add.reduceat(np.where(known, strip, np.float32(0)), rows, axis=0, dtype=np.float64)
    count = np.add.reduceat(known, rows, axis=0, dtype=np.uint16)
    total, count = np.add.reduceat(total, columns, axis=1), np.add.reduceat(count, columns, axis=1, dtype=np.uint16)
    return _Cells(place.x >> level, base >> level, total.astype(np.float32), count)


def _starts(first: int, length: int, size: int) -> NDArray[np.int64]:
    """Return where blocks of the mosaic begin in a run of its pixels."""
    inner = np.arange(-first % size, length, size)
    return inner if inner.size and inner[0] == 0 else np.concatenate([[0], inner])

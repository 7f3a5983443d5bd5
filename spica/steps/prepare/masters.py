"""Master calibrations of a job: opened once, the part of each detector found and cut to its image of the sky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.detrend import Rows, measure_overscan
from spica.files.header import HeaderCards
from spica.files.mef import ImageHdu, MefFile, open_mef
from spica.model.calibration import MasterKind
from spica.model.errors import DataError
from spica.model.job import ResolvedInput
from spica.steps.base import StepContext
from spica.steps.facts import AmplifierSheet, DetectorSheet
from spica.steps.pixels import LazyPixels
from spica.steps.prepare.readout import cut, place_parts, readouts_of

BAND_ROWS, BANDS = 16, 9
"""A flat's level is looked at in so many bands of rows, spread evenly."""
NORMAL = 0.02
"""A flat within this of the median 1 is taken as it is."""
ADDED = (MasterKind.BIAS, MasterKind.DARK)
"""Kinds in ADU, to which overscan and gain of a raw unit belong."""


def find_unit(there: MefFile, raw: MefFile, hdu: int, name: str, order: int, count: int) -> ImageHdu | None:
    """Find the unit of another file that belongs to a detector.

    By EXTNAME equal to the detector's name; else by EXTNAME and EXTVER of the exposure's unit; else by that EXTNAME
    where both files have it once; else by order where the file has as many images as there are detectors.

    Parameters
    ----------
    there, raw : MefFile
        The file looked into, and the exposure.
    hdu, name, order, count
        Unit of the detector in the exposure, its name and place there, and the number of detectors.
    """
    named = [i for i in there.images if name and i.name.casefold() == name.casefold()]
    if len(named) == 1:
        return named[0]
    unit = raw.image(hdu)
    alike = [i for i in there.images if unit.name and i.name.casefold() == unit.name.casefold()]
    exact = [i for i in alike if _version(i.header) == _version(unit.header)]
    if len(exact) == 1:
        return exact[0]
    alone = sum(i.name.casefold() == unit.name.casefold() for i in raw.images) == 1
    if len(alike) == 1 and alone:
        return alike[0]
    return there.images[order] if len(there.images) == count and order < count else None


def _version(header: HeaderCards) -> int:
    value = header.get("EXTVER")
    return value if isinstance(value, int) and not isinstance(value, bool) else 1


def read_master(path: Path, kind: MasterKind, sheet: DetectorSheet) -> NDArray[np.float32]:
    """Return the pixels of a master for one detector, found by name, else by place; scaled as `OpenMaster.rows`.

    Raises DataError where the file has no part for it, or one of another shape than the detector's image.
    """
    with open_mef(path) as mef:
        named = [i for i in mef.images if i.name.casefold() == sheet.name.casefold()]
        unit = named[0] if len(named) == 1 else next(iter(mef.images[sheet.index : sheet.index + 1]), None)
        master = OpenMaster(kind, path.name, "", mef)
        if unit is None or unit.shape != (sheet.n_y, sheet.n_x):
            raise master.misfit(sheet, None if unit is None else unit.shape, (sheet.n_y, sheet.n_x))
        return mef.read_pixels(unit) * np.float32(master.factor)


@dataclass
class OpenMaster:
    """A master calibration file, open, with its name and hash."""

    kind: MasterKind
    name: str
    sha256: str
    mef: MefFile
    _level: float | None = None

    @property
    def label(self) -> str:
        """Return name and first figures of the hash."""
        return f"{self.name} (sha256 {self.sha256[:8]})"

    def rows(self, raw: MefFile, detectors: tuple[DetectorSheet, ...], order: int) -> Rows:
        """Return the master of a detector, shape of its image of the sky, in memory only where it must be cut.

        Bias in ADU, dark in ADU per second, flat of median 1 over the mosaic, fringe pattern as it is, bad pixels
        non-zero. A master of the raw unit's shape is cut by the exposure's sections and assembled; of bias and dark
        the amplifiers lose what their overscan says and get the gains made equal, as the exposure does.

        Raises
        ------
        DataError
            Where the file has no part for the detector, or one of another shape; both shapes are named.
        """
        detector = detectors[order]
        spread = len({a.hdu for a in readouts_of(detector)}) > 1
        if spread and len(self.mef.images) == sum(len(readouts_of(d)) for d in detectors) != len(detectors):
            return self._assembled(raw, detectors, order) * np.float32(self.factor)
        unit = find_unit(self.mef, raw, detector.hdu, detector.name, order, len(detectors))
        if unit is None:
            names = ", ".join(i.name or str(i.index) for i in self.mef.images[:12])
            raise DataError(
                f"{self.kind.value} {self.name} has no extension for detector {detector.name} (it has "
                f"{names or 'no images'}); make it of this camera's frames"
            )
        if unit.shape == (detector.n_y, detector.n_x):
            return LazyPixels(self.mef, unit, None, self.factor)
        return self._cut(raw, detector, unit) * np.float32(self.factor)

    def _assembled(self, raw: MefFile, detectors: tuple[DetectorSheet, ...], order: int) -> NDArray[np.float32]:
        """Put a master of one extension an amplifier together."""
        hdus = [a.hdu for d in detectors for a in readouts_of(d)]

        def unit_of(amplifier: AmplifierSheet) -> NDArray[np.float32]:
            place = hdus.index(amplifier.hdu)
            unit = find_unit(self.mef, raw, amplifier.hdu, amplifier.name, place, len(hdus))
            expected = raw.image(amplifier.hdu).shape[-2:]
            if unit is None or unit.shape != expected:
                raise self.misfit(detectors[order], None if unit is None else unit.shape, expected)
            return self.mef.read_pixels(unit)

        return self._placed(detectors[order], unit_of)

    def _cut(self, raw: MefFile, detector: DetectorSheet, unit: ImageHdu) -> NDArray[np.float32]:
        amplifiers = readouts_of(detector)
        expected = raw.image(detector.hdu).shape[-2:]
        if unit.shape != expected or len({a.hdu for a in amplifiers}) > 1:
            raise self.misfit(detector, unit.shape, expected)
        whole = self.mef.read_pixels(unit)
        return self._placed(detector, lambda _: whole)

    def _placed(
        self, detector: DetectorSheet, unit_of: Callable[[AmplifierSheet], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        def part_of(amplifier: AmplifierSheet) -> NDArray[np.float32]:
            unit = unit_of(amplifier)
            part = cut(unit, amplifier.data)
            if self.kind not in ADDED:
                return part
            level = 0.0
            if amplifier.overscan is not None:
                level = float(measure_overscan(cut(unit, amplifier.overscan), 1, "constant").level[0])
            known = amplifier.gain_e_per_adu, detector.gain_e_per_adu
            return (part - np.float32(level)) * np.float32(known[0] / known[1] if known[0] and known[1] else 1.0)

        return place_parts(detector, np.float32, np.nan, part_of)

    def misfit(self, detector: DetectorSheet, found: tuple[int, ...] | None, raw: tuple[int, ...]) -> DataError:
        """Return the error that names the shapes: found, of the detector's image, of its raw unit."""
        words = [" x ".join(str(n) for n in s[::-1]) if s else "no" for s in (found, (detector.n_y, detector.n_x), raw)]
        return DataError(
            f"{self.kind.value} {self.name} has {words[0]} pixels for detector {detector.name}, whose image "
            f"has {words[1]} (raw unit {words[2]}); make it of this camera's frames"
        )

    @property
    def factor(self) -> float:
        """Return what the pixels are multiplied by: darks to a second, flats to the median 1."""
        if self.kind is MasterKind.DARK:
            return 1.0 / self.exptime_s
        if self.kind is MasterKind.FLAT and abs(self.level - 1.0) > NORMAL:
            return 1.0 / self.level
        return 1.0

    @property
    def exptime_s(self) -> float:
        """Return the EXPTIME of the master's header, 1 where it states none."""
        for header in (self.mef.primary, *(i.header for i in self.mef.images[:1])):
            value = header.get("EXPTIME")
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                return float(value)
        return 1.0

    @property
    def level(self) -> float:
        """Return the median over the mosaic: of the medians of its extensions, looked at in some bands of rows."""
        if self._level is None:
            medians = [m for m in (_median(self.mef, i) for i in self.mef.images) if m > 0]
            if not medians:
                raise DataError(f"flat {self.name} holds no positive pixel; make it again")
            self._level = float(np.median(medians))
        return self._level


def _median(mef: MefFile, image: ImageHdu) -> float:
    """Return the median of positive pixels in some bands of rows, 0 without any."""
    ny, nx = image.shape[-2:]
    lead = (0,) * (len(image.shape) - 2)
    found = []
    middles = (np.arange(BANDS) + 0.5) / BANDS * ny
    for start in np.unique(np.clip(middles - BAND_ROWS // 2, 0, max(0, ny - BAND_ROWS)).astype(int)):
        rows = slice(int(start), int(min(ny, start + BAND_ROWS)))
        band = mef.read_pixels(image, (*lead, rows, slice(0, nx)))
        found.append(band[np.isfinite(band) & (band > 0)])
    values = np.concatenate(found)
    return float(np.median(values)) if values.size else 0.0


class MasterShelf:
    """The masters of one attempt; those that several exposures share are opened once."""

    def __init__(self) -> None:
        """Begin empty."""
        self._open: dict[str, OpenMaster] = {}

    def __enter__(self) -> MasterShelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for master in self._open.values():
            master.mef.close()
        self._open.clear()

    def of(self, context: StepContext, item: str) -> dict[MasterKind, OpenMaster]:
        """Return the masters that the job gives an exposure, by kind.

        Raises
        ------
        DataError
            Where there are two of a kind, or one cannot be opened.
        """
        found: dict[MasterKind, OpenMaster] = {}
        for kind in MasterKind:
            given = context.of_role(kind.value, item)
            if len(given) > 1:
                names = ", ".join(g.file.name for g in given)
                raise DataError(f"{len(given)} masters of kind {kind.value} ({names}); give one")
            if given:
                found[kind] = self._opened(kind, given[0])
        return found

    def _opened(self, kind: MasterKind, given: ResolvedInput) -> OpenMaster:
        key = f"{kind.value} {given.file.sha256}"
        if key not in self._open:
            self._open[key] = OpenMaster(kind, given.file.name, given.file.sha256, open_mef(Path(given.path)))
        return self._open[key]

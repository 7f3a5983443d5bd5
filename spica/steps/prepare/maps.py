"""Maps beside an image: weight, error and data quality, of the exposure's own file or of companion files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spica.files.mef import ImageHdu, MefFile, open_mef
from spica.model.calibration import MasterKind
from spica.model.errors import DataError
from spica.model.product import MAP_ROLES
from spica.steps.base import StepContext
from spica.steps.facts import DetectorSheet, FactsSheet
from spica.steps.prepare.masters import OpenMaster, find_unit
from spica.steps.prepare.readout import cut, place_parts, readouts_of
from spica.steps.verify import limits_of

WEIGHING = (MasterKind.FLAT, MasterKind.BAD_PIXELS)
"""Masters that enter the weight whether or not the pixels are corrected."""


@dataclass(frozen=True, eq=False)
class Weighting:
    """What is known of the pixels of a detector before they are looked at.

    Attributes
    ----------
    weight : ndarray of float32, shape (ny, nx), or None
        Relative inverse variance by the maps, 0 unusable; None: none is given.
    bad_pixels : ndarray of bool, shape (ny, nx), or None
        Unusable by data quality or bad-pixel map.
    flat : ndarray of float32, shape (ny, nx), or None
        The flat of the exposure.
    """

    weight: NDArray[np.float32] | None = None
    bad_pixels: NDArray[np.bool_] | None = None
    flat: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class _Map:
    """One unit with a map of a detector, and the file it is in."""

    kind: str
    mef: MefFile
    unit: ImageHdu


@dataclass(eq=False)
class WeightSources:
    """All maps and masters that weigh the detectors of one exposure; `of` reads those of one detector."""

    sheet: FactsSheet
    raw: MefFile
    masters: dict[MasterKind, OpenMaster]
    companions: dict[str, list[tuple[str, MefFile]]] = field(default_factory=dict)

    def of(self, order: int) -> Weighting:
        """Return what is known of a detector's pixels.

        A weight map counts before an error map, a companion before a unit of the same file; data-quality maps add up.

        Raises
        ------
        DataError
            Where a companion or master has no part for the detector, or one of another shape.
        """
        detector = self.sheet.detectors[order]
        maps = [*self._companions(order), *self._own(detector)]
        bad = self._bad_pixels(order, [m for m in maps if m.kind == "dq"])
        return Weighting(self._weight(detector, maps), bad, self._master(MasterKind.FLAT, order))

    def _own(self, detector: DetectorSheet) -> Iterator[_Map]:
        for own in detector.maps:
            yield _Map(own.kind, self.raw, self.raw.image(own.hdu))

    def _companions(self, order: int) -> Iterator[_Map]:
        detector, count = self.sheet.detectors[order], len(self.sheet.detectors)
        for kind, files in self.companions.items():
            for name, mef in files:
                unit = find_unit(mef, self.raw, detector.hdu, detector.name, order, count)
                if unit is None:
                    raise DataError(
                        f"{kind} map {name} has no extension for detector {detector.name}; give the map that belongs "
                        "to this image"
                    )
                yield _Map(kind, mef, unit)

    def _weight(self, detector: DetectorSheet, maps: list[_Map]) -> NDArray[np.float32] | None:
        given = next((m for m in maps if m.kind == "weight"), None)
        if given is not None:
            weight = self._fitted(detector, given, np.float32)
            return np.where(np.isfinite(weight) & (weight > 0), weight, np.float32(0.0))
        given = next((m for m in maps if m.kind == "error"), None)
        if given is None:
            return None
        error = self._fitted(detector, given, np.float32)
        good = np.isfinite(error) & (error > 0)
        inverse = np.divide(np.float32(1.0), error, out=np.zeros_like(error), where=good)
        return np.asarray(inverse * inverse, np.float32)

    def _bad_pixels(self, order: int, maps: list[_Map]) -> NDArray[np.bool_] | None:
        bad: NDArray[np.bool_] | None = None
        for given in maps:
            flags = self._fitted(self.sheet.detectors[order], given, np.int64)
            hit = (flags & self.sheet.dq_bits) != 0
            bad = hit if bad is None else bad | hit
        master = self._master(MasterKind.BAD_PIXELS, order)
        if master is not None:
            hit = master != 0
            bad = hit if bad is None else bad | hit
        return bad

    def _master(self, kind: MasterKind, order: int) -> NDArray[np.float32] | None:
        master = self.masters.get(kind)
        if master is None:
            return None
        detectors = self.sheet.detectors
        return np.asarray(master.rows(self.raw, detectors, order)[0 : detectors[order].n_y], np.float32)

    def _fitted(self, detector: DetectorSheet, given: _Map, dtype: DTypeLike) -> NDArray:
        """Return a map as pixels of the sky; one of the raw unit's shape is cut by the exposure's sections."""
        if given.unit.shape == (detector.n_y, detector.n_x):
            return given.mef.read_pixels(given.unit, dtype=dtype)
        expected = self.raw.image(detector.hdu).shape[-2:]
        if given.unit.shape != expected or len({a.hdu for a in readouts_of(detector)}) > 1:
            found, sky, unit = (
                " x ".join(str(n) for n in s[::-1]) for s in (given.unit.shape, (detector.n_y, detector.n_x), expected)
            )
            raise DataError(
                f"{given.kind} map {given.mef.path.name} has {found} pixels for detector {detector.name}, whose image "
                f"has {sky} (raw unit {unit}); give the map that belongs to this image"
            )
        whole = given.mef.read_pixels(given.unit, dtype=dtype)
        return place_parts(detector, dtype, 0.0, lambda amplifier: cut(whole, amplifier.data))


@contextmanager
def open_weighting(
    context: StepContext, item: str, path: Path, sheet: FactsSheet, masters: dict[MasterKind, OpenMaster]
) -> Iterator[Callable[[int], Weighting]]:
    """Open the maps of an exposure; give what returns the weighting of a detector by its place.

    `path` and `sheet` are those of the file as it came in. Where nothing is known of the pixels no file is opened.
    """
    given = {kind: context.of_role(role, item) for kind, role in MAP_ROLES.items()}
    weighing = {kind: master for kind, master in masters.items() if kind in WEIGHING}
    if not (weighing or any(given.values()) or any(d.maps for d in sheet.detectors)):
        yield lambda order: Weighting()
        return
    with ExitStack() as stack:
        companions = {
            kind: [(one.file.name, stack.enter_context(open_mef(Path(one.path)))) for one in files]
            for kind, files in given.items()
        }
        raw = stack.enter_context(open_mef(path, limits_of(context)))
        yield WeightSources(sheet, raw, weighing, companions).of

"""One detector as it was read out: planes reduced, overscan subtracted, amplifiers side by side with equal gains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spica.algorithms.detrend import measure_overscan, subtract_overscan
from spica.files.mef import MefFile, open_mef
from spica.model.errors import DataError
from spica.steps.facts import AmplifierSheet, DetectorSheet, FactsSheet, Section

MAX_SPREAD = 4
"""A detector has at most so many times the pixels that its amplifiers read."""


@dataclass(frozen=True)
class AmplifierLevel:
    """What one amplifier read: median overscan and its rms in ADU (None: no overscan), gain, and factor applied."""

    name: str
    overscan_adu: float | None
    noise_adu: float | None
    gain_e_per_adu: float | None
    factor: float


@dataclass(frozen=True, eq=False)
class RawImage:
    """A detector assembled from its read-outs.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        ADU at the detector's mean gain, overscan subtracted; NaN where no amplifier reads. Pixels that were saturated
        are at `saturation_adu` at least.
    saturated : ndarray of bool, shape (ny, nx)
        Pixels at or above the stated level in any plane.
    gain_e_per_adu, read_noise_e, saturation_adu : float or None
        Of `data`; the read noise is that of the header, else measured in the overscan.
    levels : tuple of AmplifierLevel
        In the order of the amplifiers; one for a detector with a single read-out.
    n_planes : int
        Planes that were reduced; 1 for plain images and for the first of a cube.
    n_summed : int
        Planes whose sum the data are: a bias was added so many times.
    """

    data: NDArray[np.float32]
    saturated: NDArray[np.bool_]
    gain_e_per_adu: float | None
    read_noise_e: float | None
    saturation_adu: float | None
    levels: tuple[AmplifierLevel, ...]
    n_planes: int
    n_summed: int


def readouts_of(detector: DetectorSheet) -> tuple[AmplifierSheet, ...]:
    """Return the amplifiers of a detector; one that covers all of it where there is a single read-out."""
    if detector.amplifiers:
        return detector.amplifiers
    part = detector.data
    if part is not None:
        part = Section(part.x_start, part.x_stop, part.y_start, part.y_stop)
    whole = Section(0, detector.n_x, 0, detector.n_y)
    return (
        AmplifierSheet(
            detector.hdu, part, detector.overscan, whole, detector.gain_e_per_adu, detector.read_noise_e, detector.name
        ),
    )


def read_raw(path: Path, sheet: FactsSheet, index: int) -> NDArray[np.float32]:
    """Return one detector of an exposure in ADU, shape (ny, nx), overscan subtracted and assembled as its sheet says.

    `index` is the detector's place in the sheet. For frames that become masters: nothing else is done.
    """
    with open_mef(path) as mef:
        return assemble_detector(mef, sheet.detectors[index]).data


def assemble_detector(mef: MefFile, detector: DetectorSheet) -> RawImage:
    """Read one detector of a raw exposure as an image of the sky.

    Of each amplifier the level of its overscan is subtracted line by line, and its counts are multiplied by its gain
    over the mean gain of the detector (an unknown gain: by 1). Memory: the result and one header unit.

    Raises
    ------
    DataError
        Where a section does not fit, a cube has no rule, or an overscan holds nothing.
    """
    state = _Reading(mef, detector)
    data = place_parts(detector, np.float32, np.nan, state.part)
    saturated = state.saturated()
    n, summed = state.n_planes, state.n_planes if detector.planes == "sum" else 1
    gain = detector.gain_e_per_adu
    if gain is not None and detector.planes == "mean":
        gain *= n
    level = state.saturation()
    if level is not None:
        np.maximum(data, np.float32(level), out=data, where=saturated)
    return RawImage(data, saturated, gain, state.read_noise(gain), level, tuple(state.levels), n, summed)


def place_parts(
    detector: DetectorSheet, dtype: DTypeLike, fill: float, part_of: Callable[[AmplifierSheet], NDArray]
) -> NDArray:
    """Put what `part_of` returns of each amplifier, shape of its data section, to its place in the detector.

    Raises DataError where a part does not fit its place, or where the places lie too far apart to be one detector.
    """
    amplifiers = readouts_of(detector)
    covered = sum((t.x_stop - t.x_start) * (t.y_stop - t.y_start) for a in amplifiers if (t := a.target) is not None)
    if covered and detector.n_y * detector.n_x > MAX_SPREAD * covered:
        raise DataError(
            f"detector {detector.name} would have {_words((detector.n_y, detector.n_x))} pixels, of which its "
            "amplifiers read few; correct target_section in the profile"
        )
    out = np.full((detector.n_y, detector.n_x), fill, dtype)
    for amplifier in amplifiers:
        target = amplifier.target
        if target is None:
            raise DataError(
                f"amplifier {amplifier.name or amplifier.hdu} has no place in its detector; add target_section to the "
                "profile"
            )
        part = _turned(part_of(amplifier), amplifier.data, target)
        place = out[target.y_start : target.y_stop, target.x_start : target.x_stop]
        if part.shape != place.shape:
            raise DataError(
                f"detector {detector.name}: {_words(part.shape)} pixels for a place of {_words(place.shape)}; correct "
                "data_section and target_section in the profile"
            )
        place[...] = part
    return out


def cut(unit: NDArray, section: Section | None) -> NDArray:
    """Return a section of a header unit's pixels, not turned; all of them where there is none."""
    if section is None:
        return unit
    return unit[section.y_start : section.y_stop, section.x_start : section.x_stop]


def _turned(part: NDArray, data: Section | None, target: Section) -> NDArray:
    flip_y = target.flip_y != (data is not None and data.flip_y)
    flip_x = target.flip_x != (data is not None and data.flip_x)
    return part[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape[::-1])


class _Reading:
    """Reads the units of one detector one after the other and remembers what was measured on the way."""

    def __init__(self, mef: MefFile, detector: DetectorSheet) -> None:
        self.mef, self.detector = mef, detector
        self.levels: list[AmplifierLevel] = []
        self.n_planes = 1
        self._hdu = -1
        self._unit: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._full: dict[int, NDArray[np.bool_]] = {}

    def part(self, amplifier: AmplifierSheet) -> NDArray[np.float32]:
        """Return the data section of an amplifier less its overscan, its gain made equal."""
        unit = self._read(amplifier.hdu)
        data = cut(unit, amplifier.data)
        known = amplifier.gain_e_per_adu, self.detector.gain_e_per_adu
        factor = known[0] / known[1] if known[0] and known[1] else 1.0
        level, noise = None, None
        part = data.astype(np.float32, copy=True)
        if amplifier.overscan is not None:
            level, noise = self._subtract_overscan(unit, amplifier, part)
        if factor != 1.0:
            part *= np.float32(factor)
        self.levels.append(AmplifierLevel(amplifier.name, level, noise, amplifier.gain_e_per_adu, factor))
        return part

    def saturated(self) -> NDArray[np.bool_]:
        """Return which pixels of the detector were saturated; after `part` of all amplifiers."""
        if not self._full:
            return np.zeros((self.detector.n_y, self.detector.n_x), np.bool_)
        return place_parts(self.detector, np.bool_, False, self._saturated_part)

    def _saturated_part(self, amplifier: AmplifierSheet) -> NDArray[np.bool_]:
        full = self._full.get(amplifier.hdu)
        if full is None:
            full = np.broadcast_to(np.bool_(False), self.mef.image(amplifier.hdu).shape[-2:])
        return cut(full, amplifier.data)

    def saturation(self) -> float | None:
        """Return the level of saturation of the image: the lowest of the amplifiers, less overscan, gains equal."""
        stated = self.detector.saturation_adu
        if stated is None:
            return None
        n = self.n_planes if self.detector.planes == "sum" else 1
        return min((n * stated - (a.overscan_adu or 0.0)) * a.factor for a in self.levels)

    def read_noise(self, gain_e_per_adu: float | None) -> float | None:
        """Return the read noise in electrons: the header's, else that of the overscans."""
        if self.detector.read_noise_e is not None:
            return self.detector.read_noise_e * math.sqrt(self.n_planes)
        measured = [a.noise_adu * a.factor for a in self.levels if a.noise_adu]
        return float(np.mean(measured)) * gain_e_per_adu if measured and gain_e_per_adu else None

    def _subtract_overscan(
        self, unit: NDArray[np.float32], amplifier: AmplifierSheet, part: NDArray[np.float32]
    ) -> tuple[float, float]:
        """Subtract the level in place: by rows where the strip runs beside the data, by columns above or below."""
        data = amplifier.data or Section(0, unit.shape[1], 0, unit.shape[0])
        strip = amplifier.overscan
        assert strip is not None
        try:
            if strip.y_start <= data.y_start and strip.y_stop >= data.y_stop:
                lines = unit[data.y_start : data.y_stop, strip.x_start : strip.x_stop]
                found = measure_overscan(lines, 1, "lines")
                subtract_overscan(part, found, out=part)
            elif strip.x_start <= data.x_start and strip.x_stop >= data.x_stop:
                lines = unit[strip.y_start : strip.y_stop, data.x_start : data.x_stop]
                found = measure_overscan(lines, 0, "lines")
                subtract_overscan(part, found, out=part)
            else:
                found = measure_overscan(cut(unit, strip), 1, "constant")
                part -= found.level[0]
        except ValueError as error:
            raise DataError(f"detector {self.detector.name}, amplifier {amplifier.name}: {error}") from error
        noise = found.read_noise_adu
        return float(np.median(found.level)), noise if math.isfinite(noise) else 0.0

    def _read(self, hdu: int) -> NDArray[np.float32]:
        """Return the pixels of a unit, its planes reduced; the last one is kept."""
        if hdu != self._hdu:
            self._unit = np.zeros((0, 0), np.float32)
            self._unit = self._reduced(hdu)
            self._hdu = hdu
        return self._unit

    def _reduced(self, hdu: int) -> NDArray[np.float32]:
        image = self.mef.image(hdu)
        planes = list(product(*(range(n) for n in image.shape[:-2])))
        if len(planes) == 1 or self.detector.planes == "first":
            return self._seen(hdu, self.mef.read_pixels(image, _plane(planes[0])))
        if self.detector.planes not in ("sum", "mean"):
            raise DataError(
                f"detector {self.detector.name} is a cube of {len(planes)} planes; say planes = 'first', 'mean' or "
                "'sum' in the profile"
            )
        total = self._seen(hdu, self.mef.read_pixels(image, _plane(planes[0])))
        for place in planes[1:]:
            total += self._seen(hdu, self.mef.read_pixels(image, _plane(place)))
        self.n_planes = len(planes)
        if self.detector.planes == "mean":
            total /= np.float32(len(planes))
        return total

    def _seen(self, hdu: int, plane: NDArray[np.float32]) -> NDArray[np.float32]:
        """Note which pixels of a plane are saturated."""
        level = self.detector.saturation_adu
        if level is not None and np.nanmax(plane, initial=-np.inf) >= level:
            full = plane >= np.float32(level)
            known = self._full.get(hdu)
            self._full[hdu] = full if known is None else known | full
        return plane


def _plane(place: tuple[int, ...]) -> tuple[slice | int, ...]:
    """Return the section of one plane; plain images have no leading axes."""
    return (*place, slice(None), slice(None))

"""A raw exposure becomes a plain multi-extension file of sky images, detector by detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.detrend import Rows, detrend_image, measure_fringe_scale, subtract_fringe
from spica.algorithms.detrend.fringe import FringeError
from spica.files.header import CardValue, HeaderCards, make_cards
from spica.files.mef import ImageToWrite, MefFile, open_mef, write_mef
from spica.model.calibration import CalibrationUse, MasterKind
from spica.model.errors import DataError
from spica.model.product import Role
from spica.steps.base import StepContext
from spica.steps.facts import DetectorSheet, FactsSheet, write_sheet
from spica.steps.prepare.maps import WEIGHING
from spica.steps.prepare.masters import MasterShelf, OpenMaster
from spica.steps.prepare.readout import RawImage, assemble_detector
from spica.steps.verify import Verified, limits_of

CARDS = {
    MasterKind.BIAS: "BIASMAST",
    MasterKind.DARK: "DARKMAST",
    MasterKind.FLAT: "FLATMAST",
    MasterKind.FRINGE: "FRNGMAST",
    MasterKind.BAD_PIXELS: "BPIXMAST",
}


@dataclass(frozen=True)
class Prepared:
    """An exposure ready to be assessed: its sky images, the file as it came in, and its masters."""

    verified: Verified
    raw: Verified
    masters: dict[MasterKind, OpenMaster] = field(default_factory=dict)


def prepare_exposure(context: StepContext, verified: Verified, shelf: MasterShelf) -> Prepared:
    """Turn a raw exposure into sky images where that is needed; else leave it as it is.

    It is where a detector has overscan, amplifiers or planes, or where the recipe asks to detrend and the job has
    masters for it. Then the product `detrended` is written and the facts sheet of the exposure describes that file.

    Raises
    ------
    DataError
        Where a section, a cube or a master does not fit; the exposure is to be left out.
    """
    masters = shelf.of(context, verified.item)
    used = masters if context.recipe.quality.detrend else {}
    result = verified
    scale = None
    if used or any(d.is_raw for d in verified.sheet.detectors):
        path = context.folder / f"{verified.stem}.detrended.fits"
        with open_mef(verified.path, limits_of(context)) as raw:
            work = _Preparation(verified.sheet, raw, used)
            write_mef(path, work.images(), _primary(context, verified))
        context.add_product(Role.DETRENDED, path, item=verified.item)
        sheet = replace(verified.sheet, detectors=tuple(work.done))
        _replace_facts(context, verified, sheet)
        result = replace(verified, path=path, sheet=sheet)
        scale = work.fringe_scale
    for kind, master in masters.items():
        if kind in used or kind in WEIGHING:
            fringes = kind is MasterKind.FRINGE
            corrected = kind in used and not (fringes and scale is None)
            record = CalibrationUse(verified.item, kind, master.sha256, corrected, scale if fringes else None)
            context.record(record)
    return Prepared(result, verified, masters)


def _replace_facts(context: StepContext, verified: Verified, sheet: FactsSheet) -> None:
    """Write the facts sheet anew: later steps read the prepared file by it."""
    path = context.folder / f"{verified.stem}.facts.json"
    write_sheet(path, sheet)
    context.products[:] = [p for p in context.products if (p.role, p.item) != (Role.FACTS, verified.item)]
    context.add_product(Role.FACTS, path, item=verified.item)


def _primary(context: StepContext, verified: Verified) -> HeaderCards:
    """Return the primary header: the facts of the exposure and the file it was made of."""
    given = next(i for i in context.of_role(Role.EXPOSURE) if i.item == verified.item)
    return make_cards(
        [
            *_exposure_cards(verified.sheet),
            ("RAWFILE", given.file.name, "file this was made of"),
            ("RAWSHA", given.file.sha256, "its SHA-256"),
        ]
    )


def _exposure_cards(sheet: FactsSheet) -> list[tuple[str, CardValue, str]]:
    e = sheet.exposure
    return [
        ("OBJECT", e.object, "object"),
        ("FILTER", e.filter, "filter"),
        ("INSTRUME", e.instrument, "instrument"),
        ("TELESCOP", e.telescope, "telescope"),
        ("EXPTIME", e.exptime_s, "[s]"),
        ("MJD-OBS", e.mjd, "[day] middle of the exposure, UTC"),
        ("AIRMASS", e.airmass, ""),
    ]


class _Preparation:
    """Makes the images of one exposure one after the other; `done` gains the sheet of each."""

    def __init__(self, sheet: FactsSheet, raw: MefFile, masters: dict[MasterKind, OpenMaster]) -> None:
        self.sheet, self.raw, self.masters = sheet, raw, masters
        self.done: list[DetectorSheet] = []
        self._scales: list[float] = []

    @property
    def fringe_scale(self) -> float | None:
        """Return the median amplitude of the fringes over the detectors, None where none was measured."""
        return float(np.median(self._scales)) if self._scales else None

    def images(self) -> Iterator[ImageToWrite]:
        """Yield one image a detector; the next is made when the last has been written."""
        for order in range(len(self.sheet.detectors)):
            yield self._image(order)

    def _image(self, order: int) -> ImageToWrite:
        detector = self.sheet.detectors[order]
        image = assemble_detector(self.raw, detector)
        lost = self._correct(image, order)
        fringes = self._defringe(image, order)
        saturation = image.saturation_adu
        if saturation is not None:
            saturation -= lost
            np.maximum(image.data, np.float32(saturation), out=image.data, where=image.saturated)
        done = replace(
            detector,
            hdu=order + 1,
            gain_e_per_adu=image.gain_e_per_adu,
            read_noise_e=image.read_noise_e,
            saturation_adu=saturation,
            data=None,
            overscan=None,
            amplifiers=(),
            maps=(),
            planes="",
        )
        self.done.append(done)
        return ImageToWrite(image.data, self._cards(detector, done, image, fringes), detector.name)

    def _rows(self, kind: MasterKind, order: int) -> Rows | None:
        master = self.masters.get(kind)
        return None if master is None else master.rows(self.raw, self.sheet.detectors, order)

    def _correct(self, image: RawImage, order: int) -> float:
        """Apply bias, dark, flat and bad pixels in place; return the counts that bias and dark took of a pixel."""
        kinds = (MasterKind.BIAS, MasterKind.DARK, MasterKind.FLAT, MasterKind.BAD_PIXELS)
        bias, dark, flat, bad = (self._rows(kind, order) for kind in kinds)
        if bias is None and dark is None and flat is None and bad is None:
            return 0.0
        time = self.sheet.exposure.exptime_s
        if dark is not None and time is None:
            raise DataError("a dark needs the exposure time, and the header has none; add exptime to the profile")
        if bias is not None and image.n_summed > 1:
            bias = np.asarray(bias[0 : bias.shape[0]]) * np.float32(image.n_summed)
        detrend_image(
            image.data,
            bias=bias,
            dark=dark,
            exptime_s=None if dark is None else time,
            flat=flat,
            bad_pixels=bad,
            out=image.data,
        )
        return _typical(bias) + _typical(dark) * float(time or 0.0)

    def _defringe(self, image: RawImage, order: int) -> tuple[float, float] | None:
        """Subtract the fringe pattern in place; return its amplitude and error, None where it cannot be measured."""
        rows = self._rows(MasterKind.FRINGE, order)
        if rows is None:
            return None
        pattern = np.asarray(rows[0 : rows.shape[0]], np.float32)
        try:
            found = measure_fringe_scale(image.data, pattern, mask=image.saturated)
        except FringeError:
            return None
        scale = max(found.scale, 0.0)
        subtract_fringe(image.data, np.nan_to_num(pattern, copy=False), scale, out=image.data)
        self._scales.append(scale)
        return scale, found.error

    def _cards(
        self, raw: DetectorSheet, done: DetectorSheet, image: RawImage, fringes: tuple[float, float] | None
    ) -> HeaderCards:
        """Return the header of one image: facts, coordinates, and what was done."""
        origin = "of the header" if raw.read_noise_e is not None else "measured in the overscan"
        items: list[tuple[str, CardValue, str]] = [
            *_exposure_cards(self.sheet),
            ("BUNIT", "ADU", ""),
            ("GAIN", done.gain_e_per_adu, "[electron/ADU]"),
            ("RDNOISE", done.read_noise_e, f"[electron] {origin}"),
            ("SATURATE", done.saturation_adu, "[ADU]"),
            *_level_cards(image),
            *((CARDS[kind], master.label, f"master {kind.value}") for kind, master in self.masters.items()),
        ]
        if fringes is not None:
            items += [("FRNGSCAL", fringes[0], "amplitude of the fringes"), ("FRNGERR", fringes[1], "its error")]
        items += [("HISTORY", line, "") for line in self._history(raw, image, fringes)]
        return make_cards(items).with_cards(raw.cards.cards)

    def _history(self, raw: DetectorSheet, image: RawImage, fringes: tuple[float, float] | None) -> list[str]:
        lines = []
        if raw.planes:
            lines.append(f"{image.n_planes} planes of a cube: {raw.planes}")
        if any(level.overscan_adu is not None for level in image.levels):
            lines.append("overscan subtracted line by line")
        if len(image.levels) > 1:
            gain = f" at {raw.gain_e_per_adu:.4g} electron/ADU" if raw.gain_e_per_adu else ""
            lines.append(f"{len(image.levels)} amplifiers assembled, gains made equal{gain}")
        verbs = {
            MasterKind.BIAS: "bias subtracted",
            MasterKind.DARK: f"dark of {self.sheet.exposure.exptime_s} s subtracted",
            MasterKind.FLAT: "divided by the flat",
            MasterKind.BAD_PIXELS: "bad pixels set to NaN",
        }
        lines += [f"{verbs[kind]}: {master.label}" for kind, master in self.masters.items() if kind in verbs]
        if MasterKind.FRINGE in self.masters:
            label = self.masters[MasterKind.FRINGE].label
            lines.append(f"fringes {'could not be measured' if fringes is None else 'subtracted'}: {label}")
        return lines


def _level_cards(image: RawImage) -> Iterator[tuple[str, CardValue, str]]:
    """Yield overscan, its rms and the gain of every amplifier."""
    for number, level in enumerate(image.levels, 1):
        name = f" {level.name}" if level.name else ""
        if level.overscan_adu is not None:
            yield f"OVSLEV{number}", level.overscan_adu, f"[ADU] overscan of amplifier{name}"
            yield f"OVSRMS{number}", level.noise_adu, "[ADU] rms of its pixels"
        if len(image.levels) > 1:
            yield f"AMPGAI{number}", level.gain_e_per_adu, f"[electron/ADU] gain of amplifier{name}"


def _typical(rows: Rows | None) -> float:
    """Return the median of some rows of a master, 0 without one."""
    if rows is None:
        return 0.0
    picked: list[NDArray] = [
        np.asarray(rows[y : y + 1]) for y in np.unique(np.linspace(0, rows.shape[0] - 1, 24).astype(int))
    ]
    values = np.concatenate(picked)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else 0.0

"""Combines raw calibration frames to a master: bias, dark, flat (with its bad-pixel map) or fringe pattern."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spica.algorithms.detrend import (
    MasterFrame,
    NoUsableFrameError,
    combine_bias,
    combine_dark,
    combine_flat,
    combine_fringe,
    find_bad_pixels,
    measure_levels,
    mosaic_norm,
)
from spica.files.header import NO_CARDS, CardValue, HeaderCards, make_cards
from spica.files.mef import ImageToWrite, write_mef
from spica.model.calibration import MasterKind, MasterRecord, Validity
from spica.model.errors import DataError
from spica.model.job import JobKind, Reason, ResolvedInput
from spica.model.product import Role
from spica.model.record import from_json
from spica.steps.base import Step, StepContext
from spica.steps.facts import DetectorSheet, FactsSheet, read_sheet
from spica.steps.pixels import open_weight
from spica.steps.prepare import read_master, read_raw

SOURCE_SIGMA, SOURCE_RIM_PIX = 4.0, 4
"""What stands out by so much is a source, with a rim around it: no fringe."""
SATURATION_ADU = 65535.0


@dataclass(frozen=True)
class RawFrame:
    """One raw frame that goes into a master."""

    item: str
    name: str
    path: Path
    sheet: FactsSheet
    weight: Path | None

    @property
    def exptime_s(self) -> float:
        """Return the exposure time, 0 where it is unknown."""
        return float(self.sheet.exposure.exptime_s or 0.0)


@dataclass(frozen=True)
class Detector:
    """The frames of one detector, unpacked to scratch files that are read by rows, and what corrects them."""

    sheet: DetectorSheet
    frames: Sequence[NDArray[np.float32]]
    bias: NDArray[np.float32] | None
    dark: NDArray[np.float32] | None


def run(context: StepContext) -> None:
    """Combine detector by detector; frames that do not fit or are refused are left out with the reason."""
    kind = MasterKind(str(context.request.facts["kind"]))
    frames = _alike(context, [_raw_frame(context, given) for given in context.of_role(Role.EXPOSURE)])
    if kind is MasterKind.DARK:
        frames = _timed(context, frames)
    if not frames:
        context.check_floor()
        raise DataError("no frame is left to combine; look at the outcomes of this job")
    norm = _mosaic_norm(context, frames) if kind is MasterKind.FLAT else None
    made: list[MasterFrame | NoUsableFrameError] = []
    sheets = frames[0].sheet.detectors
    for i, sheet in enumerate(sheets):
        context.progress(i, len(sheets), sheet.name)
        with _unpacked(context, frames, i) as detector:
            try:
                made.append(_combine(context, kind, detector, frames, norm))
            except NoUsableFrameError as error:
                made.append(error)
    context.progress(len(sheets), len(sheets), "")
    n_used = _judge_frames(context, frames, sheets, made)
    context.check_floor()
    masters = [
        m if isinstance(m, MasterFrame) else _empty(d, len(frames), m) for m, d in zip(made, sheets, strict=True)
    ]
    _write(context, kind, frames, sheets, masters, n_used)


def _empty(sheet: DetectorSheet, n_frames: int, error: NoUsableFrameError) -> MasterFrame:
    """Return the master of a detector for which no frame is usable: no pixel has a value."""
    nothing = np.full((sheet.n_y, sheet.n_x), np.nan, np.float32)
    n_used = np.zeros(nothing.shape, np.uint16)
    levels, n_clipped = np.full(n_frames, np.nan), np.zeros(n_frames, np.int64)
    return MasterFrame(nothing, nothing, n_used, levels, n_clipped, 1.0, error.refused)


def _raw_frame(context: StepContext, given: ResolvedInput) -> RawFrame:
    item = str(given.item)
    sheet = read_sheet(context.path_of(Role.FACTS, item))
    weights = context.of_role(Role.WEIGHT, item)
    return RawFrame(item, given.file.name, Path(given.path), sheet, Path(weights[0].path) if weights else None)


def _alike(context: StepContext, frames: Sequence[RawFrame]) -> list[RawFrame]:
    """Return the frames whose detectors are those of most frames; the others are left out."""
    shapes = [tuple((d.name, d.n_y, d.n_x) for d in f.sheet.detectors) for f in frames]
    usual = max(set(shapes), key=lambda s: (shapes.count(s), s)) if shapes else ()
    kept = []
    for frame, shape in zip(frames, shapes, strict=True):
        if shape == usual:
            kept.append(frame)
        else:
            text = f"{frame.name} has other detectors than most frames: {_words(shape)}, not {_words(usual)}"
            context.left_out(frame.item, Reason("other_detectors", text))
    return kept


def _words(shape: Sequence[tuple[str, int, int]]) -> str:
    """Return the number of detectors with name and size of the first."""
    name, n_y, n_x = shape[0] if shape else ("", 0, 0)
    return f"{len(shape)} ({name or '-'} {n_x} x {n_y} ...)"


def _timed(context: StepContext, frames: Sequence[RawFrame]) -> list[RawFrame]:
    """Return the frames that have an exposure time; the others are left out: a dark is per second."""
    kept = []
    for frame in frames:
        if frame.exptime_s > 0:
            kept.append(frame)
        else:
            text = f"{frame.name} has an exposure time of {frame.exptime_s:g} s; as a dark it must have one above 0"
            context.left_out(frame.item, Reason("no_time", text, frame.exptime_s, 0.0))
    return kept


@contextmanager
def _unpacked(context: StepContext, frames: Sequence[RawFrame], index: int) -> Iterator[Detector]:
    """Unpack one detector of every frame, overscan subtracted, to scratch files; they go when it is done."""
    paths: list[Path] = []
    try:
        for k, frame in enumerate(frames):
            path = context.work(f"frame-{k}.npy")
            paths.append(path)
            np.save(path, _pixels(context, frame, index))
        maps = [np.load(path, mmap_mode="r") for path in paths]
        sheet = frames[0].sheet.detectors[index]
        yield Detector(sheet, maps, _master(context, Role.BIAS, sheet), _master(context, Role.DARK, sheet))
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _pixels(context: StepContext, frame: RawFrame, index: int) -> NDArray[np.float32]:
    """Return one detector of a frame; of a science frame the fringes relative to its sky, sources unusable."""
    pixels = read_raw(frame.path, frame.sheet, index)
    if context.request.facts["kind"] != MasterKind.FRINGE.value:
        return pixels
    return _over_sky(pixels, frame, index, context.recipe.quality.mesh_pix)


def _over_sky(pixels: NDArray[np.float32], frame: RawFrame, index: int, mesh_pix: int) -> NDArray[np.float32]:
    """Return (frame - sky) / sky with sources and unusable pixels NaN; the sky is smoother than fringes are."""
    from scipy.ndimage import binary_dilation

    from spica.algorithms.background import measure_background

    background = measure_background(pixels, mesh_pix=4 * mesh_pix)
    level = background.level_map()
    over = pixels - level
    over[binary_dilation(over > SOURCE_SIGMA * background.noise_map(), iterations=SOURCE_RIM_PIX)] = np.nan
    if frame.weight is not None:
        with open_weight(frame.weight) as weights:
            over[weights[index].whole() <= 0] = np.nan
    return over / level


def _master(context: StepContext, role: Role, sheet: DetectorSheet) -> NDArray[np.float32] | None:
    """Return the pixels of a master that corrects the frames, None where none was given."""
    given = context.of_role(role)
    return read_master(Path(given[0].path), MasterKind(role.value), sheet) if given else None


def _mosaic_norm(context: StepContext, frames: Sequence[RawFrame]) -> NDArray[np.float64] | None:
    """Return the level of each frame over its mosaic, None for cameras of one detector."""
    n_detectors = len(frames[0].sheet.detectors)
    if n_detectors == 1:
        return None
    levels = []
    for i in range(n_detectors):
        with _unpacked(context, frames, i) as d:
            levels.append(measure_levels(d.frames, d.bias, d.dark, _times(frames, d.dark)).level)
    return mosaic_norm(levels)


def _times(frames: Sequence[RawFrame], dark: NDArray[np.float32] | None) -> list[float] | None:
    return None if dark is None else [f.exptime_s for f in frames]


def _combine(
    context: StepContext,
    kind: MasterKind,
    detector: Detector,
    frames: Sequence[RawFrame],
    norm: NDArray[np.float64] | None,
) -> MasterFrame:
    r = context.recipe.master
    if kind is MasterKind.BIAS:
        return combine_bias(detector.frames, kappa=r.clip_sigma)
    if kind is MasterKind.DARK:
        times = [f.exptime_s for f in frames]
        return combine_dark(detector.frames, times, detector.bias, kappa=r.clip_sigma)
    if kind is MasterKind.FRINGE:
        return combine_fringe(detector.frames, kappa=r.clip_sigma)
    most = r.max_level_fraction * (detector.sheet.saturation_adu or SATURATION_ADU)
    return combine_flat(
        detector.frames,
        detector.bias,
        detector.dark,
        _times(frames, detector.dark),
        norm=norm,
        level_bounds_adu=(r.min_level_adu, most),
        kappa=r.clip_sigma,
    )


def _judge_frames(
    context: StepContext,
    frames: Sequence[RawFrame],
    sheets: Sequence[DetectorSheet],
    made: Sequence[MasterFrame | NoUsableFrameError],
) -> int:
    """Say of every frame whether it was used, wholly or without some detectors; return how many were used.

    A detector that no frame can serve counts against none of them, unless there is no other.
    """
    alive = [i for i, m in enumerate(made) if isinstance(m, MasterFrame)] or list(range(len(made)))
    refused: dict[int, list[tuple[int, str]]] = {}
    for i in alive:
        for r in made[i].refused:
            refused.setdefault(r.index, []).append((i, r.reason))
    for k, frame in enumerate(frames):
        told = [(i, f"{frame.name}, detector {sheets[i].name}: {why}") for i, why in refused.get(k, [])]
        if told and len(told) == len(alive):
            context.left_out(frame.item, Reason("level", told[0][1]))
            continue
        for i, text in told:
            context.left_out(frame.item, Reason("level", text), sheets[i].index)
        context.used(frame.item, Reason("level", told[0][1]) if told else None)
    return sum(len(refused.get(k, [])) < len(alive) for k in range(len(frames)))


def _write(
    context: StepContext,
    kind: MasterKind,
    frames: Sequence[RawFrame],
    sheets: Sequence[DetectorSheet],
    made: Sequence[MasterFrame],
    n_used: int,
) -> None:
    """Write the master, with a flat its bad-pixel map, and record them."""
    name = str(context.request.facts["name"])
    primary = _cards(context, kind, frames, n_used)
    images = [ImageToWrite(m.data, _detector_cards(d, m), d.name) for m, d in zip(made, sheets, strict=True)]
    _keep(context, kind, f"{name}.fits", images, primary, frames, n_used)
    if kind is MasterKind.FLAT and context.recipe.master.bad_pixels:
        maps = [_bad_pixels(context, m, d) for m, d in zip(made, sheets, strict=True)]
        images = [ImageToWrite(m.astype(np.uint8), NO_CARDS, d.name) for m, d in zip(maps, sheets, strict=True)]
        name = name.replace("flat_", "bad_pixels_", 1)
        _keep(context, MasterKind.BAD_PIXELS, f"{name}.fits.fz", images, primary, frames, n_used)


def _bad_pixels(context: StepContext, flat: MasterFrame, sheet: DetectorSheet) -> NDArray[np.bool_]:
    if not np.isfinite(flat.data).any():
        return np.ones(flat.data.shape, np.bool_)
    return find_bad_pixels(flat.data, dark=_master(context, Role.DARK, sheet), bias=_master(context, Role.BIAS, sheet))


def _keep(
    context: StepContext,
    kind: MasterKind,
    file_name: str,
    images: Sequence[ImageToWrite],
    primary: HeaderCards,
    frames: Sequence[RawFrame],
    n_used: int,
) -> None:
    path = context.folder / file_name
    write_mef(path, images, primary, compress=path.suffix == ".fz")
    context.add_product(kind.value, path, small=False)
    times = {f.exptime_s for f in frames}
    context.record(
        MasterRecord(
            product=path.name,
            kind=kind,
            validity=from_json(Validity, context.request.facts["validity"], "validity"),
            mjd=_mean_mjd(frames),
            exptime_s=times.pop() if kind is MasterKind.DARK and len(times) == 1 else None,
            n_inputs=n_used,
            product_hash=_hash_for(context, kind),
        )
    )


def _hash_for(context: StepContext, kind: MasterKind) -> str | None:
    """Return what tells that this very master was made; a bad-pixel map rides with its flat."""
    return str(context.request.facts["key"]) if kind.value == context.request.facts["kind"] else None


def _mean_mjd(frames: Sequence[RawFrame]) -> float | None:
    known = [f.sheet.exposure.mjd for f in frames if f.sheet.exposure.mjd is not None]
    return sum(known) / len(known) if known else None


def _cards(context: StepContext, kind: MasterKind, frames: Sequence[RawFrame], n_used: int) -> HeaderCards:
    e = frames[0].sheet.exposure
    times = {f.exptime_s for f in frames}
    items: list[tuple[str, CardValue, str]] = [
        ("OBSTYPE", f"MASTER {kind.value.upper()}", "master calibration"),
        ("INSTRUME", e.instrument, "camera"),
        ("FILTER", e.filter, "filter"),
        ("RUNID", e.run, "run"),
        ("MJD-OBS", _mean_mjd(frames), "[day] mean of the frames"),
        ("NCOMBINE", n_used, "frames combined"),
    ]
    if kind is MasterKind.DARK:
        items.append(("BUNIT", "adu/s", "dark current"))
    if len(times) == 1:
        items.append(("FRAMETIM", times.pop(), "[s] exposure time of the frames"))
    masters = [given for role in (Role.BIAS, Role.DARK) for given in context.of_role(role)]
    items += [("HISTORY", f"corrected by {g.file.name} {g.file.sha256[:8]}", "") for g in masters]
    items += [("HISTORY", f"frame {f.name}", "") for f in frames]
    return make_cards(items)


def _detector_cards(sheet: DetectorSheet, master: MasterFrame) -> HeaderCards:
    n_clipped = int(master.n_clipped.sum())
    values = master.data[np.isfinite(master.data)]
    return make_cards(
        [
            ("GAIN", sheet.gain_e_per_adu, "[electron/ADU]"),
            ("MEDIAN", float(np.median(values)) if values.size else None, "median"),
            ("NCLIPPED", n_clipped, "values clipped"),
            ("NORM", master.norm, "divided by"),
        ]
    )


NATIVE = Step(kind=JobKind.MASTER, run=run)

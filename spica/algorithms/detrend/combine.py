"""Masters from raw calibration frames: levels in a first pass, then clipped means strip by strip in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.detrend.clipping import TILE_ROWS, combine_tiles, order_tables
from spica.algorithms.detrend.correct import Rows, correct_rows, mask_rows, read_rows, spread_bands
from spica.algorithms.robust import mad_rms

DEFAULT_MEMORY_LIMIT_BYTES = 1 << 28
Region = tuple[slice, slice]

_NO_MAP = np.zeros((0, 0), np.float32)


class NoUsableFrameError(ValueError):
    """No frame is left to combine (attribute `refused`, a tuple of `RefusedFrame`)."""

    def __init__(self, refused: tuple[RefusedFrame, ...]) -> None:
        self.refused = refused
        reasons = "; ".join(f"frame {r.index}: {r.reason}" for r in refused[:5]) or "none was given"
        super().__init__(f"no usable frame ({reasons}); give other frames or wider bounds")


@dataclass(frozen=True, slots=True)
class RefusedFrame:
    """A frame that was left out as a whole: its place in the sequence, its level, and why."""

    index: int
    level: float
    reason: str


@dataclass(frozen=True, eq=False)
class FrameLevels:
    """Median and pixel noise (from differences of neighbours) of frames, float64, shape (n,); NaN without pixels."""

    level: NDArray[np.float64]
    noise: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MasterFrame:
    """Combination of calibration frames.

    Attributes
    ----------
    data : ndarray of float32, shape (ny, nx)
        ADU (bias), ADU per second (dark), relative sensitivity (flat), relative to the sky (fringe); NaN = no value.
    sigma : ndarray of float32, shape (ny, nx)
        Standard error of `data` from the scatter over frames; from the noise of the 32 x 64 pixels around where one
        value is left; NaN where there is no value, or one frame only.
    n_used : ndarray of uint16, shape (ny, nx)
        Values used.
    levels : ndarray of float64, shape (n,)
        Level of every frame given, in the unit of the frames less their bias (darks: per second).
    n_clipped : ndarray of int64, shape (n,)
        Pixels of each frame that were clipped.
    norm : float
        What the clipped mean was divided by.
    refused : tuple of RefusedFrame
        Frames left out as a whole.
    """

    data: NDArray[np.float32]
    sigma: NDArray[np.float32]
    n_used: NDArray[np.uint16]
    levels: NDArray[np.float64]
    n_clipped: NDArray[np.int64]
    norm: float
    refused: tuple[RefusedFrame, ...]

    @property
    def scatter(self) -> NDArray[np.float32]:
        """Return the rms over frames of each pixel, sigma sqrt(n_used): input of `find_bad_pixels`."""
        return self.sigma * np.sqrt(self.n_used, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class _Frames:
    """Frames and what each needs: factor (frame - offset - bias - time dark); `noise` is relative between frames."""

    frames: Sequence[Rows]
    bias: Rows | None = None
    dark: Rows | None = None
    masks: Sequence[Rows] | None = None
    exptime_s: NDArray | None = None
    factor: NDArray | None = None
    offset: NDArray | None = None
    noise: NDArray | None = None

    def read(self, k: int, rows: slice, out: NDArray[np.float32]) -> None:
        """Write the corrected rows of frame k."""
        raw = read_rows(self.frames[k], rows)
        correct_rows(
            raw,
            np.full(len(raw) if self.offset is not None else 0, 0.0 if self.offset is None else self.offset[k], "f4"),
            False,
            _NO_MAP if self.bias is None else read_rows(self.bias, rows),
            _NO_MAP if self.dark is None else read_rows(self.dark, rows),
            np.float32(0.0 if self.exptime_s is None else self.exptime_s[k]),
            _NO_MAP,
            np.float32(0.0),
            mask_rows(None if self.masks is None else self.masks[k], rows),
            np.float32(1.0 if self.factor is None else self.factor[k]),
            out,
            np.zeros(3, np.int64),
        )


def combine_bias(
    frames: Sequence[Rows],
    *,
    kappa: float = 3.0,
    max_offset_sigma: float = 5.0,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> MasterFrame:
    """Return the master bias: the clipped mean of frames whose overscan is subtracted (or that never had one).

    A value is clipped where it departs from the median of its pixel by more than `kappa` sqrt(1 + pi / (2 m))
    noises, m being the number of values and the root there for the noise of the median. The noise is the larger of
    the typical scatter over frames in the 32 x 64 pixels around (median of sample variances, corrected for their
    number) and, from five values on, the pixel's own, first from quartiles, then from the values kept, until
    nothing changes: few frames do not clip by chance, and unsteady pixels keep their values. Where the middle two
    of an even number differ by more than sqrt(2) kappa noises the lower is the median: of two frames the one
    without the cosmic ray. Own derivation.

    Parameters
    ----------
    frames : sequence of arrays or Rows, shape (ny, nx)
        ADU; NaN = unusable.
    max_offset_sigma : float
        Frames whose level departs from the median level by more of their pixel noise are refused: their offset would
        hide behind the clipping.
    memory_limit_bytes : int
        Bound of the strips held at a time, beside the master.

    Raises
    ------
    NoUsableFrameError
        No frame is left.
    ValueError
        Frames of different shapes, or a limit below one tile of 32 rows.
    """
    given = _checked(_Frames(frames))
    levels = _levels(given, None)
    return _combine(given, levels.level, _refuse_offsets(levels, max_offset_sigma), kappa, memory_limit_bytes)


def combine_dark(
    frames: Sequence[Rows],
    exptimes_s: ArrayLike,
    bias: Rows | None = None,
    *,
    kappa: float = 3.0,
    max_offset_sigma: float = 5.0,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> MasterFrame:
    """Return the master dark in ADU per second: the clipped mean of (frame - bias) / exposure time.

    Frames are weighted by the square of their times, as read noise asks; where times differ much the noisy median lets
    faint cosmic rays pass. Else as `combine_bias`; `exptimes_s` holds a time above 0 for each frame.
    """
    times = np.asarray(exptimes_s, np.float64)
    given = _checked(_Frames(frames, bias))
    if times.shape != (len(frames),) or not (times > 0).all():
        raise ValueError(f"exposure times {times}; give one above 0 s for each of the {len(frames)} frames")
    given = replace(given, factor=1.0 / times, noise=1.0 / times)
    levels = _levels(given, None)
    return _combine(given, levels.level, _refuse_offsets(levels, max_offset_sigma), kappa, memory_limit_bytes)


def combine_flat(
    frames: Sequence[Rows],
    bias: Rows | None = None,
    dark: Rows | None = None,
    exptimes_s: ArrayLike | None = None,
    *,
    norm: ArrayLike | None = None,
    level_bounds_adu: tuple[float, float] = (1000.0, 45_000.0),
    region: Region | None = None,
    kappa: float = 3.0,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> MasterFrame:
    """Return the master flat: the clipped mean of frames scaled to one level, stars on the twilight sky clipped.

    Frames are weighted by their levels, as photon noise asks. Clipping as in `combine_bias`.

    Parameters
    ----------
    frames, bias, dark : arrays or Rows
        Raw frames less overscan, master bias, master dark per second (needs `exptimes_s`).
    norm : array_like, shape (n,), optional
        Level of each frame over all detectors of the mosaic. The median over frames of level / norm is then the level
        of this master, and the relative sensitivity of detectors is kept. The caller gets it from two passes:
        `mosaic_norm([measure_levels(frames of a detector, ...).level for each detector])`. Without it the master has
        the median 1.
    level_bounds_adu : tuple of float
        Frames with a level outside are refused: dark below, near saturation above.
    region : tuple of slice, optional
        Rows and columns in which levels are measured; the central half of both axes where it is not given.

    Raises
    ------
    NoUsableFrameError, ValueError
        As `combine_bias`; lengths that differ, a dark without times.
    """
    given = _checked(_Frames(frames, bias, dark, exptime_s=_times(exptimes_s, len(frames), dark)))
    common = None if norm is None else np.asarray(norm, np.float64)
    if common is not None and common.shape != (len(frames),):
        raise ValueError(f"norm of shape {common.shape} for {len(frames)} frames; give the level of each frame")
    level = _levels(given, region).level
    low, high = level_bounds_adu
    refused = tuple(
        RefusedFrame(k, float(v), f"level {v:.0f} ADU outside {low:.0f} .. {high:.0f}")
        for k, v in enumerate(level)
        if not low <= v <= high
    )
    safe = np.where(level > 0, level, np.nan)
    given = replace(given, factor=1.0 / safe, noise=1.0 / np.sqrt(safe))
    master = _combine(given, level, refused, kappa, memory_limit_bytes)
    if common is None:
        return _divided(master, float(np.nanmedian(master.data)))
    used = np.setdiff1d(np.arange(len(frames)), [r.index for r in refused])
    return _divided(master, 1.0 / float(np.median((level / common)[used])))


def combine_fringe(
    frames: Sequence[Rows],
    masks: Sequence[Rows] | None = None,
    *,
    min_used: int = 2,
    kappa: float = 3.0,
    memory_limit_bytes: int = DEFAULT_MEMORY_LIMIT_BYTES,
) -> MasterFrame:
    """Return the fringe pattern relative to the sky, with the median 0.

    Parameters
    ----------
    frames : sequence of arrays or Rows
        (detrended frame - background) / background of dithered exposures; their medians are subtracted, and the noise
        of each sets its weight. Clipping as in `combine_bias`.
    masks : sequence of arrays or Rows, optional
        Non-zero where there are sources.
    min_used : int
        Pixels seen less often are NaN.

    Raises
    ------
    NoUsableFrameError, ValueError
        As `combine_bias`.
    """
    given = _checked(_Frames(frames, masks=masks))
    levels = _levels(given, (slice(None), slice(None)))
    refused = tuple(
        RefusedFrame(k, float(v), "no usable pixel, or no noise")
        for k, (v, noise) in enumerate(zip(levels.level, levels.noise, strict=True))
        if not (math.isfinite(v) and noise > 0)
    )
    given = replace(given, offset=levels.level, noise=levels.noise)
    master = _combine(given, levels.level, refused, kappa, memory_limit_bytes)
    seldom = master.n_used < min_used
    master.data[seldom], master.sigma[seldom] = np.nan, np.nan
    if not seldom.all():
        np.subtract(master.data, np.nanmedian(master.data), out=master.data)
    return master


def measure_levels(
    frames: Sequence[Rows],
    bias: Rows | None = None,
    dark: Rows | None = None,
    exptimes_s: ArrayLike | None = None,
    region: Region | None = None,
) -> FrameLevels:
    """Return the levels of frames less bias and dark, as `combine_flat` measures them; parameters as there.

    At most 64 rows of the region are read of each frame.
    """
    times = _times(exptimes_s, len(frames), dark)
    return _levels(_checked(_Frames(frames, bias, dark, exptime_s=times)), region)


def mosaic_norm(levels: ArrayLike) -> NDArray[np.float64]:
    """Return the level of each frame over a mosaic, shape (n_frames,), from levels of shape (n_detectors, n_frames).

    The median over detectors (of those with a level), so that one dead or drifting detector does not move it.

    Raises
    ------
    ValueError
        When the levels have not two axes.
    """
    table = np.asarray(levels, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"levels of shape {table.shape}; give a row for each detector, a column for each frame")
    seen = np.isfinite(table).any(axis=0)
    norm = np.full(table.shape[1], np.nan)
    norm[seen] = np.nanmedian(table[:, seen], axis=0)
    return norm


def _checked(given: _Frames) -> _Frames:
    if not given.frames:
        raise NoUsableFrameError(())
    shape = tuple(given.frames[0].shape)
    if given.masks is not None and len(given.masks) != len(given.frames):
        raise ValueError(f"{len(given.masks)} masks for {len(given.frames)} frames; give one each")
    for array in (*given.frames, *(given.masks or ()), given.bias, given.dark):
        if array is not None and (len(shape) != 2 or tuple(array.shape) != shape):
            raise ValueError(f"shape {tuple(array.shape)} beside a frame of shape {shape}; cut all to one detector")
    return given


def _times(exptimes_s: ArrayLike | None, n: int, dark: Rows | None) -> NDArray | None:
    if dark is None:
        return None
    times = np.full(n, np.nan) if exptimes_s is None else np.asarray(exptimes_s, np.float64)
    if times.shape != (n,) or not (times >= 0).all():
        raise ValueError(f"a dark needs the exposure times of all {n} frames, got {exptimes_s!r}; give seconds")
    return times


def _levels(given: _Frames, region: Region | None) -> FrameLevels:
    """Median and noise of up to 64 rows spread over the region of each frame, as corrected."""
    ny, nx = given.frames[0].shape
    y, x = region or (slice(ny // 4, ny - ny // 4), slice(nx // 4, nx - nx // 4))
    top, bottom, _ = y.indices(ny)
    level, noise = np.empty(len(given.frames)), np.empty(len(given.frames))
    for k in range(len(given.frames)):
        lines = []
        for rows in spread_bands(top, bottom):
            lines.append(np.empty((rows.stop - rows.start, nx), np.float32))
            given.read(k, rows, lines[-1])
        part = np.concatenate(lines)[:, x].astype(np.float64)
        seen = part[np.isfinite(part)]
        level[k] = np.median(seen) if seen.size else np.nan
        noise[k] = mad_rms(np.diff(part, axis=1)) / math.sqrt(2.0)
    return FrameLevels(level, noise)


def _refuse_offsets(levels: FrameLevels, max_offset_sigma: float) -> tuple[RefusedFrame, ...]:
    """Frames whose level is off the (lower) median level by too much of their pixel noise."""
    known = np.sort(levels.level[np.isfinite(levels.level)])
    if not known.size:
        return tuple(RefusedFrame(k, math.nan, "no usable pixel") for k in range(levels.level.size))
    middle = known[(known.size - 1) // 2]
    refused = []
    for k, (level, noise) in enumerate(zip(levels.level, levels.noise, strict=True)):
        if not abs(level - middle) <= max_offset_sigma * max(noise, np.finfo(float).tiny):
            reason = (
                f"level {level:.4g} off the median level {middle:.4g} by more than {max_offset_sigma:g} pixel noises"
            )
            refused.append(RefusedFrame(k, float(level), reason if math.isfinite(level) else "no usable pixel"))
    return tuple(refused)


def _combine(
    given: _Frames, levels: NDArray, refused: tuple[RefusedFrame, ...], kappa: float, memory_limit_bytes: int
) -> MasterFrame:
    """Clipped weighted mean of the frames that are not refused."""
    left_out = {r.index for r in refused}
    relative = np.ones(len(given.frames)) if given.noise is None else given.noise
    used = sorted({*range(len(given.frames))} - left_out, key=lambda k: (relative[k], levels[k]))  # one order of sums
    if not used:
        raise NoUsableFrameError(refused)
    noise = relative[used] / np.median(relative[used])
    ny, nx = given.frames[0].shape
    row_bytes = nx * (4 * len(used) + 24)
    height = min(memory_limit_bytes // row_bytes // TILE_ROWS * TILE_ROWS, -(-ny // TILE_ROWS) * TILE_ROWS)
    if height < TILE_ROWS or not kappa > 0:
        raise ValueError(
            f"kappa {kappa}, memory limit {memory_limit_bytes} bytes of the {TILE_ROWS * row_bytes} that 32 rows need: "
            "give a positive kappa, raise the limit, or combine fewer frames"
        )
    mean, error = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    n_used, n_clipped = np.zeros((ny, nx), np.uint16), np.zeros(len(given.frames), np.int64)
    cube, tally = np.empty((len(used), min(ny, height), nx), np.float32), np.zeros(len(used), np.int64)
    quartiles, chi2 = order_tables(len(used))
    for top in range(0, ny, height):
        rows = slice(top, min(ny, top + height))
        part = cube[:, : rows.stop - top]
        for k, index in enumerate(used):
            given.read(index, rows, part[k])
        combine_tiles(part, noise, kappa, quartiles, chi2, mean[rows], error[rows], n_used[rows], tally)
    n_clipped[used] = tally
    return MasterFrame(mean, error, n_used, levels, n_clipped, 1.0, refused)


def _divided(master: MasterFrame, norm: float) -> MasterFrame:
    """Divide data and errors by the norm, in place."""
    np.divide(master.data, np.float32(norm), out=master.data)
    np.divide(master.sigma, np.float32(abs(norm)), out=master.sigma)
    return replace(master, norm=norm)

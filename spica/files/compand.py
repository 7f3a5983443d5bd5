"""Pictures of eight bits whose stretch is chosen later: companding, and mosaics of it as JPEG.

The value of a pixel p (ADU) of a picture with the level L (the sky) and the noise sigma of a full pixel is

    v = 16 + round(239 * (asinh((p - L) / s) - a0) / (a1 - a0)),   s = sigma / 4,   a0 = asinh(-20),   a1 = asinh(2e5)

within 16..255: from 5 sigma below the level to 50,000 sigma above it. Linear within sigma / 4 of the level, where the
sky of binned pictures lies, and logarithmic beyond: the step is 7.0 % of |p - L| there. 0 is no pixel; the values up
to 8 count as none too, since JPEG rings at the edges of detectors. `expand` is the inverse: within `SHARE` of
max(sigma, |p - L|) of p, where p lies in the range and no JPEG came between (own derivation: half a step in asinh,
times the slope sqrt(s^2 + (p - L)^2)).
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from spica.files.checksum import write_atomic
from spica.model.errors import DataError

FORMAT = "spica-mosaic/1"
SOFTENING = 1.0 / 4.0
LOW, HIGH = math.asinh(-20.0), math.asinh(2e5)
FIRST, NO_PIXEL = 16, 8
"""The value of the lowest pixel, and the largest value that counts as no pixel."""
SHARE = 0.04
"""Error of `expand` after `compand` at most, as a share of max(sigma, |p - level|)."""
QUALITY = 92
"""Of JPEG: it adds about 0.1 sigma to the sky of full pixels, 0.03 sigma to that of a picture, a fifth to peaks."""
MAX_SIDE_PIX = 8192
_MAX_COMMENT_BYTES = 4096
_SAMPLE = 60_000
_STEP = (HIGH - LOW) / (255 - FIRST)
_TABLE = np.sinh(LOW + _STEP * (np.arange(256) - FIRST))
_TABLE[: NO_PIXEL + 1] = np.nan


@dataclass(frozen=True)
class Companding:
    """What turns the values of a picture back into ADU: the level of the sky, and the noise of a full pixel."""

    level: float
    sigma: float

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by."""
        if not (math.isfinite(self.level) and math.isfinite(self.sigma) and self.sigma > 0):
            raise DataError(f"level {self.level} and noise {self.sigma} give no picture; measure the sky again")


@dataclass(frozen=True)
class MosaicPicture:
    """A companded picture, uint8 [y, x] with y upwards; its pixel is `factor` full pixels, of which there are
    `width` x `height`."""

    values: NDArray[np.uint8]
    companding: Companding
    factor: int
    width: int
    height: int


def compand(values: ArrayLike, level: float, sigma: float) -> NDArray[np.uint8]:
    """Return pixels (ADU) as 16..255 by the formula above, of the same shape; what is not finite is 0."""
    known = Companding(level, sigma)
    pixels = np.asarray(values, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        places = np.arcsinh((pixels - np.float32(known.level)) / np.float32(known.sigma * SOFTENING))
        places = np.rint((places - np.float32(LOW)) / np.float32(_STEP)) + np.float32(FIRST)
        return np.where(np.isfinite(pixels), np.clip(places, FIRST, 255), 0).astype(np.uint8)


def expand(values: ArrayLike, level: float, sigma: float) -> NDArray[np.float32]:
    """Return the pixels (ADU) of companded values 0..255; NaN where there is no pixel."""
    known = Companding(level, sigma)
    table = (known.level + known.sigma * SOFTENING * _TABLE).astype(np.float32)
    return table[np.asarray(values, np.uint8)]


def measure_noise(data: NDArray[np.floating]) -> float:
    """Return the noise of a pixel from a sample: 1.4826 times the median deviation from the median; NaN where unknown.

    Stars and a gradient of the sky smaller than the noise hardly raise it.
    """
    flat = data.reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return math.nan
    noise = 1.4826 * float(np.median(np.abs(sample - np.median(sample))))
    return noise if noise > 0 else math.nan


def make_mosaic(
    reduced: NDArray[np.float32], factor: int, size: tuple[int, int], sigma_adu: float | None = None
) -> MosaicPicture:
    """Return the companded picture of a mosaic.

    Parameters
    ----------
    reduced : float32 ndarray, shape (ny, nx)
        Block means (ADU), y upwards, NaN where there is no pixel.
    factor : int
        Full pixels on a side of a block.
    size : (int, int)
        Full pixels of the mosaic: (width, height).
    sigma_adu : float, optional
        Noise of a full pixel; that of the blocks where it is absent or unknown.
    """
    known = reduced[np.isfinite(reduced)]
    level = float(np.median(known)) if known.size else 0.0
    sigma = (
        sigma_adu if sigma_adu is not None and math.isfinite(sigma_adu) and sigma_adu > 0 else measure_noise(reduced)
    )
    companding = Companding(level, sigma if math.isfinite(sigma) else 1.0)
    return MosaicPicture(compand(reduced, level, companding.sigma), companding, factor, *size)


def grey_jpeg(values: NDArray[np.uint8], comment: bytes = b"") -> bytes:
    """Return a picture [y, x], y upwards, as a grey JPEG for a screen."""
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(values[::-1]))
    picture.save(stream, "JPEG", quality=QUALITY, **({"comment": comment} if comment else {}))
    return stream.getvalue()


def mosaic_bytes(picture: MosaicPicture) -> bytes:
    """Return a mosaic as JPEG; what turns it back into ADU stands in its comment."""
    if max(picture.values.shape) > MAX_SIDE_PIX:
        raise DataError(f"a mosaic may have {MAX_SIDE_PIX} pixels a side; bin it more")
    facts = {
        "format": FORMAT,
        "level_adu": picture.companding.level,
        "sigma_adu": picture.companding.sigma,
        "softening": SOFTENING,
        "low": LOW,
        "high": HIGH,
        "first": FIRST,
        "factor": picture.factor,
        "width": picture.width,
        "height": picture.height,
    }
    return grey_jpeg(picture.values, json.dumps(facts, separators=(",", ":")).encode())


def write_mosaic(path: str | os.PathLike[str], picture: MosaicPicture) -> None:
    """Write a mosaic as JPEG, atomically."""
    write_atomic(path, mosaic_bytes(picture))


def read_mosaic(content: bytes) -> MosaicPicture:
    """Read a mosaic; DataError where it is none, or larger than a picture of a page may be."""
    image, facts = _open(content)
    try:
        values = np.asarray(image)[::-1]
    except (OSError, ValueError, SyntaxError) as trouble:
        raise DataError(f"the mosaic cannot be unpacked ({trouble}); make it again by retrying its job") from trouble
    return MosaicPicture(values, *facts)


def read_mosaic_facts(content: bytes) -> MosaicPicture:
    """Read what stands in the comment of a mosaic, without its pixels (`values` is empty, of the picture's shape 0)."""
    _, facts = _open(content)
    return MosaicPicture(np.zeros((0, 0), np.uint8), *facts)


def _open(content: bytes) -> tuple[Image.Image, tuple[Companding, int, int, int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(content), formats=["JPEG"])
        except (OSError, ValueError, SyntaxError, Warning, Image.DecompressionBombError) as trouble:
            raise DataError("the mosaic is no JPEG; make it again by retrying its job") from trouble
    if max(image.size) > MAX_SIDE_PIX or image.mode != "L":
        raise DataError(f"a mosaic is grey and has {MAX_SIDE_PIX} pixels a side at most; make it again")
    comment = image.info.get("comment", b"")
    try:
        if len(comment) > _MAX_COMMENT_BYTES:
            raise ValueError("too long")
        facts = json.loads(comment)
        if facts["format"] != FORMAT:
            raise ValueError("another format")
        numbers = [facts[name] for name in ("softening", "low", "high", "first")]
        if not np.allclose(numbers, [SOFTENING, LOW, HIGH, FIRST]):
            raise ValueError("other constants")
        factor, width, height = (int(facts[name]) for name in ("factor", "width", "height"))
        companding = Companding(float(facts["level_adu"]), float(facts["sigma_adu"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as trouble:
        raise DataError("the comment of the mosaic is not Spica's; make it again by retrying its job") from trouble
    covered = 0 < factor < 2**20 and all(
        0 < full < 2**24 and shown <= full // factor + 3
        for full, shown in zip((width, height), image.size, strict=True)
    )
    if not covered:
        raise DataError("the mosaic is larger than what it shows; make it again by retrying its job")
    return image, (companding, factor, width, height)

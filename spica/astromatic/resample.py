"""SWarp: what it is given, its command line, and what each image gave to the stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spica.astromatic.tools import SWARP, Options, command_line
from spica.files.head import write_head
from spica.files.header import HeaderCards, make_cards
from spica.files.mef import open_mef, write_image
from spica.model.errors import DataError

IMAGE_FILE, WEIGHT_FILE, FRAME_FILE = "swarp.fits", "swarp.weight.fits", "swarp.head"
LIST_FILE, CONFIG_FILE, XML_FILE, STEM, CLIP_FILE = "planes.list", "swarp.conf", "swarp.xml", "swarp", "clipped.log"
COMBINE = {"weighted": "WEIGHTED", "median": "MEDIAN", "clipped": "CLIPPED"}
KERNELS = {"lanczos3": "LANCZOS3", "lanczos2": "LANCZOS2", "bilinear": "BILINEAR", "nearest": "NEAREST"}
INFINITE_GAIN = 1e9
NO_SATURATION_ADU = 1e30


@dataclass(frozen=True)
class CombineRules:
    """What the recipe says of the stack."""

    combine: str
    kernel: str
    subtract_background: bool
    background_mesh_pix: int
    clip_sigma: float
    clip_fraction: float
    memory_mb: int
    threads: int


@dataclass(frozen=True)
class PlaneInput:
    """One detector of one exposure: pixels and inverse variance (ny, nx), solved WCS, flux scale, gain, saturation."""

    data: NDArray[np.float32]
    weight: NDArray[np.float32]
    wcs: HeaderCards
    flux_scale: float
    gain_e_per_adu: float | None
    saturation_adu: float | None


def swarp_line(rules: CombineRules, time_limit_s: int) -> str:
    """Return the line of a script that resamples and combines."""
    options: Options = (
        ("IMAGEOUT_NAME", IMAGE_FILE),
        ("WEIGHTOUT_NAME", WEIGHT_FILE),
        ("HEADER_SUFFIX", ".head"),
        ("WEIGHT_TYPE", "MAP_WEIGHT"),
        ("WEIGHT_SUFFIX", ".weight.fits"),
        ("RESCALE_WEIGHTS", False),
        ("COMBINE", True),
        ("COMBINE_TYPE", COMBINE[rules.combine]),
        ("CLIP_SIGMA", rules.clip_sigma),
        ("CLIP_AMPFRAC", rules.clip_fraction),
        ("CLIP_WRITELOG", rules.combine == "clipped"),
        ("CLIP_LOGNAME", CLIP_FILE),
        ("RESAMPLE", True),
        ("RESAMPLING_TYPE", KERNELS[rules.kernel]),
        ("FSCALASTRO_TYPE", "VARIABLE"),
        ("FSCALE_KEYWORD", "FLXSCALE"),
        ("SUBTRACT_BACK", rules.subtract_background),
        ("BACK_SIZE", rules.background_mesh_pix),
        ("GAIN_KEYWORD", "GAIN"),
        ("SATLEV_KEYWORD", "SATURATE"),
        ("COMBINE_BUFSIZE", rules.memory_mb),
        ("MEM_MAX", rules.memory_mb),
        ("DELETE_TMPFILES", False),
        ("NTHREADS", rules.threads),
        ("WRITE_XML", True),
        ("XML_NAME", XML_FILE),
        ("XSL_URL", "none"),
        ("VERBOSE_TYPE", "QUIET"),
    )
    return command_line(SWARP, (f"@{LIST_FILE}", "-c", CONFIG_FILE), options, STEM, time_limit_s)


def plane_stem(index: int) -> str:
    """Return the name of a plane's files, without suffix."""
    return f"plane-{index + 1:05d}"


def write_plane(folder: Path, index: int, plane: PlaneInput) -> None:
    """Write one detector with its weight and its `.head`; nothing of the exposure's own header comes along."""
    stem = plane_stem(index)
    good = np.isfinite(plane.data) & np.isfinite(plane.weight) & (plane.weight > 0)
    write_image(folder / f"{stem}.fits", np.where(np.isfinite(plane.data), plane.data, np.float32(0.0)), checksum=False)
    write_image(folder / f"{stem}.weight.fits", np.where(good, plane.weight, np.float32(0.0)), checksum=False)
    facts = make_cards(
        [
            ("FLXSCALE", plane.flux_scale, "flux scale to apply"),
            ("GAIN", plane.gain_e_per_adu or INFINITE_GAIN, "[electron/ADU]"),
            ("SATURATE", plane.saturation_adu or NO_SATURATION_ADU, "[ADU]"),
        ]
    )
    write_head(folder / f"{stem}.head", [HeaderCards((*plane.wcs.cards, *facts.cards))])


def write_frame(folder: Path, frame: HeaderCards, shape: tuple[int, int], n_planes: int) -> None:
    """Write the output grid (its WCS and (ny, nx)), the list of planes, and an empty configuration."""
    size = make_cards([("NAXIS", 2, ""), ("NAXIS1", shape[1], ""), ("NAXIS2", shape[0], "")])
    write_head(folder / FRAME_FILE, [HeaderCards((*size.cards, *frame.cards))])
    names = [f"{plane_stem(i)}.fits" for i in range(n_planes)]
    (folder / LIST_FILE).write_text("\n".join(names) + "\n", encoding="ascii")
    (folder / CONFIG_FILE).write_text("# every option stands in run.sh\n", encoding="ascii")


def read_stack(folder: Path, shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the stack and its weight, 0 where there is no data.

    Raises
    ------
    DataError
        A file is missing or has another size than the frame, or no pixel has weight.
    """
    image, weight = _read(folder / IMAGE_FILE, shape), _read(folder / WEIGHT_FILE, shape)
    used = np.isfinite(image) & np.isfinite(weight) & (weight > 0)
    if not used.any():
        raise DataError("the stack holds no pixel with weight; look at the footprints and weight maps")
    return np.where(used, image, np.float32(0.0)), np.where(used, weight, np.float32(0.0))


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    if not path.is_file():
        raise DataError(f"SWarp wrote no {path.name}; look at the job's log")
    with open_mef(path) as mef:
        image = mef.images[0]
        if tuple(image.shape) != shape:
            raise DataError(
                f"SWarp made a stack of {image.shape} pixels where {shape} were asked; look at {FRAME_FILE}"
            )
        return np.asarray(mef.read_pixels(image), np.float32)


def plane_weights(folder: Path, n_planes: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of weights and the number of pixels with weight of each plane, resampled.

    Raises
    ------
    DataError
        A resampled weight is missing: SWarp left that plane out without a word.
    """
    sums, counts = np.zeros(n_planes), np.zeros(n_planes, np.int64)
    for i in range(n_planes):
        found = sorted(folder.glob(f"{plane_stem(i)}*.resamp.weight.fits"))
        if len(found) != 1:
            raise DataError(
                f"SWarp resampled {plane_stem(i)} to {len(found)} files instead of 1; look at the job's log"
            )
        with open_mef(found[0]) as mef:
            weight = mef.read_pixels(mef.images[0])
        used = np.isfinite(weight) & (weight > 0)
        sums[i], counts[i] = float(weight[used].sum(dtype=np.float64)), int(used.sum())
    return sums, counts


def count_clipped(folder: Path, n_planes: int) -> NDArray[np.int64]:
    """Return the number of pixels clipped of each plane, from SWarp's log; zeros where there is none."""
    counts = np.zeros(n_planes, np.int64)
    path = folder / CLIP_FILE
    if not path.is_file():
        return counts
    with path.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            word = line.split(maxsplit=1)[:1]
            if word and word[0].isdigit() and int(word[0]) < n_planes:
                counts[int(word[0])] += 1
    return counts


def delete_planes(folder: Path, names: Sequence[str] = ("plane-*", "swarp*.fits")) -> None:
    """Delete the large files of a stack that is made."""
    for pattern in names:
        for path in folder.glob(pattern):
            path.unlink()

"""CPU seconds of the single kernels on one thread, in a process of its own: where the time of the chain goes.

`python -m benchmarks.kernels FOLDER WORKSPACE STACK`: the folder of the survey, the workspace it was ingested into, the
image of the stack. Prints one JSON list.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from spica.algorithms.background import measure_background
from spica.algorithms.cosmics import detect_cosmics
from spica.algorithms.detect import detect_sources
from spica.algorithms.frame import choose_frame
from spica.algorithms.psf import measure_psf, select_stars
from spica.algorithms.quality import QualityParameters, assess_detector
from spica.algorithms.resample import pixel_map_from_wcs, resample
from spica.algorithms.stack import combine_clipped
from spica.algorithms.weight import detect_trails, find_bad_columns
from spica.files.checksum import sha256_file
from spica.files.head import read_head
from spica.files.header import NO_CARDS
from spica.files.mef import ImageToWrite, open_mef, write_image, write_mef
from spica.files.preview import Tile, make_preview, reduce_blocks, row_strips
from spica.files.wcs import footprint_polygon, read_wcs
from spica.plots.quality import draw_quality
from spica.steps.facts import read_sheet
from spica.steps.pixels import open_exposure, open_weight, pack_weight
from spica.steps.quality import make_panel

T = TypeVar("T")
IMPORTS = "astropy.io.fits, astropy.wcs, numba, scipy.spatial, sep, spica.steps.assess"


@dataclass(frozen=True)
class KernelCost:
    """Cost of one kernel: CPU seconds for the pixels it was given, and how often a survey of one stack needs it."""

    name: str
    cpu_s: float
    megapixels: float
    megabytes: float


def timed(action: Callable[[], T], repeat: int = 2) -> tuple[T, float]:
    """Return what an action gives and its least CPU seconds."""
    seconds = []
    for _ in range(repeat):
        started = time.process_time()
        value = action()
        seconds.append(time.process_time() - started)
    return value, min(seconds)


def import_cost() -> float:
    """Return the CPU seconds of starting Python and importing what a step needs."""

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {IMPORTS}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def detector_kernels(folder: Path, workspace: Path) -> list[KernelCost]:
    """Time what is done to one detector of one exposure."""

    sheets = sorted((workspace / "jobs").rglob("*.facts.json"))
    sheet = read_sheet(sheets[0])
    path = folder / "incoming" / f"{sheet.exposure.name}.fits"
    d = sheet.detectors[0]
    costs: list[KernelCost] = []
    mpix, nbytes = d.n_x * d.n_y / 1e6, 4 * d.n_x * d.n_y / 1e6

    def note(name: str, action: Callable[[], T], repeat: int = 2) -> T:
        value, seconds = timed(action, repeat)
        costs.append(KernelCost(name, seconds, mpix, nbytes))
        return value

    with open_exposure(path, sheet) as detectors:
        image = note("read pixels", detectors[0].whole)
    note("copy pixels in memory (floor)", image.copy, 5)
    note("sha256 of the file, a detector's share", lambda: sha256_file(path))
    costs[-1] = dataclasses.replace(costs[-1], cpu_s=costs[-1].cpu_s / len(sheet.detectors))
    background = note("background mesh", lambda: measure_background(image))
    level = note("background map", background.level_map)
    residual, noise = image - level, background.noise_adu
    gain, full = d.gain_e_per_adu, d.saturation_adu
    columns = note("bad columns", lambda: find_bad_columns(residual, noise))
    cosmics = note(
        "cosmic rays",
        lambda: detect_cosmics(residual, noise, gain_e_per_adu=gain, background_adu=background.level_adu),
    )
    note("satellite trails", lambda: detect_trails(residual, noise, mask=columns | cosmics))
    blocked = columns | cosmics
    scale = d.pixel_scale_arcsec or 1.0
    apertures = tuple(a / scale for a in (2.0, 3.7, 5.0))
    sources = note(
        "detect and measure sources",
        lambda: detect_sources(
            residual, noise, mask=blocked, apertures_pix=apertures, gain_e_per_adu=gain, saturation_adu=full,
            background_adu=level,
        ),
    )  # fmt: skip
    stars = select_stars(sources)
    note(
        "point spread function",
        lambda: measure_psf(residual, noise, sources, stars, mask=blocked, gain_e_per_adu=gain, saturation_adu=full),
    )
    quality = note(
        "assess, all of the above but reading",
        lambda: assess_detector(
            image, exptime_s=90.0, gain_e_per_adu=gain, read_noise_e=d.read_noise_e, saturation_adu=full,
            pixel_scale_arcsec=scale, parameters=QualityParameters(),
        ),
        1,
    )  # fmt: skip
    out = workspace / "kernels"
    out.mkdir(exist_ok=True)
    packed = note("pack weight", lambda: pack_weight(quality.weight))
    note(
        "write weight, compressed", lambda: write_mef(out / "w.fits.fz", [ImageToWrite(packed, d.cards)], compress=True)
    )
    with open_weight(out / "w.fits.fz") as weights:
        note("read weight, compressed", weights[0].whole)
    note("preview", lambda: make_preview([Tile(reduce_blocks(row_strips(image, 4), 4), 0, 0)], 1100, 4))
    panels = [make_panel(quality, scale, (0.0, 0.0))] * len(sheet.detectors)
    note("quality plots, a detector's share", lambda: draw_quality(out / "q.png", panels, "kernel", "mag"))
    costs[-1] = dataclasses.replace(costs[-1], cpu_s=costs[-1].cpu_s / len(sheet.detectors))
    return costs


def stack_kernels(workspace: Path, stack: Path) -> list[KernelCost]:
    """Time resampling, combination and writing on frames like those of the stack."""

    head = sorted((workspace / "jobs").rglob("*.head"))[0]
    wcs = read_wcs(read_head(head)[0])
    mef = open_mef(stack)
    shape = mef.images[0].shape
    side = min(2048, *shape)
    image = mef.read_pixels(mef.images[0])
    mef.close()
    rng = np.random.default_rng(1)
    data = rng.normal(0.0, 10.0, (side, side)).astype(np.float32)
    weight = np.full_like(data, 0.01)
    frame = choose_frame([footprint_polygon(wcs, data.shape)], 0.3)
    costs = []
    pixel_map, seconds = timed(lambda: pixel_map_from_wcs(wcs, data.shape, frame))
    costs.append(KernelCost("map pixels", seconds, side * side / 1e6, 4e-6 * side * side))
    _, seconds = timed(lambda: resample(data, weight, pixel_map))
    costs.append(KernelCost("resample image and weight, Lanczos-3", seconds, side * side / 1e6, 8e-6 * side * side))
    rows = max(8, 256 * 1024 * 1024 // (64 * side) // 64)
    cube = rng.normal(0.0, 1.0, (8, rows, side)).astype(np.float32)
    weights = np.ones_like(cube)
    _, seconds = timed(lambda: combine_clipped(cube, weights))
    costs.append(KernelCost("combine 8 planes with clipping", seconds, cube.size / 1e6, 8e-6 * cube.size))
    out = workspace / "kernels" / "s.fits"
    _, seconds = timed(lambda: write_image(out, image, NO_CARDS))
    costs.append(KernelCost("write the stack", seconds, image.size / 1e6, 4e-6 * image.size))
    _, seconds = timed(lambda: sha256_file(out))
    costs.append(KernelCost("sha256 of the stack", seconds, image.size / 1e6, 4e-6 * image.size))
    return costs


def main() -> None:
    """Print the costs as JSON."""
    folder, workspace, stack = (Path(a) for a in sys.argv[1:4])
    costs = [*detector_kernels(folder, workspace), *stack_kernels(workspace, stack)]
    costs.append(KernelCost("start Python and import", import_cost(), 0.0, 0.0))
    json.dump([dataclasses.asdict(c) for c in costs], sys.stdout)


if __name__ == "__main__":
    main()

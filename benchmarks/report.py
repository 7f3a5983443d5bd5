"""The page of results: ratios, memory and errors, in Markdown."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.errors import MAG_GOAL_MMAG, POSITION_GOAL_MAS, KronBin, StackErrors
from benchmarks.kernels import KernelCost
from benchmarks.measure import Cost, cheapest, total
from benchmarks.native_chain import Job
from benchmarks.survey import Size

MEMORY_GOAL_MB = 1024.0
STAGES = (("extract", "assess"), ("solve", "astrometry"), ("stack", "stack"), ("catalogue", "catalogue"))
"""Stages of the AstrOmatic chain, and the step of the native chain that does the same and more."""
ONLY_NATIVE = ("quality", "deliver")


@dataclass(frozen=True)
class Measured:
    """Everything that one run of the benchmark measured; costs have one entry a round."""

    size: Size
    slots: int
    astromatic: Mapping[str, Sequence[Cost]]
    native: Mapping[str, Sequence[Cost]]
    whole: Mapping[str, Sequence[Cost]]
    jobs: Sequence[Job]
    stacks: Mapping[str, StackErrors]
    kron: Sequence[KronBin]
    kernels: Sequence[KernelCost]


def write_report(m: Measured) -> str:
    """Return the page."""
    return "\n".join([*_head(m), *_stages(m), *_errors(m), *_kron(m), *_jobs(m), *_kernels(m)]) + "\n"


def write_section(page: Path, heading: str, content: str) -> None:
    """Put a section (`## heading`) at the end of a page, in the place of an older one; the rest stays as it is."""
    old = page.read_text(encoding="utf-8") if page.is_file() else "# Results\n"
    rest = without_section(old, heading)
    page.write_text(f"{rest.rstrip()}\n\n## {heading}\n{content.rstrip()}\n", encoding="utf-8")


def without_section(page: str, heading: str) -> str:
    """Return a page without one of its sections."""
    return re.sub(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", "", page, flags=re.MULTILINE | re.DOTALL)


def section_of(page: str, heading: str) -> str:
    """Return what stands under a heading of a page; empty where it has none."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(headings) - 1)
    return ["| " + " | ".join(line) + " |" for line in (headings, rule, *rows)] + [""]


def _head(m: Measured) -> list[str]:
    s = m.size
    rounds = len(m.whole["ingest"])
    return [
        "# Results",
        "",
        f"{s.exposures} simulated exposures of {s.grid} x {s.grid} detectors of {s.detector} x {s.detector} pixels "
        f"({s.megapixels:.1f} Mpix), {s.stars_per_arcmin2:g} stars an arcmin², one field, one filter, seed {s.seed}. "
        f"Both chains on the same files in the same run, stage beside stage, {m.slots} processes or threads at a time, "
        f"{rounds} round(s), the cheapest counts; kernels compiled before, compile time excluded. "
        f"Python {platform.python_version()}, numpy {version('numpy')}, numba {version('numba')}, "
        f"{platform.machine()}. "
        "Other work on the machine raises wall seconds most, and CPU seconds too where threads wait by spinning.",
        "",
    ]


def _row(name: str, ours: Cost, theirs: Cost | None) -> list[str]:
    if theirs is None:
        return [name, f"{ours.wall_s:.1f}", "-", "-", f"{ours.cpu_s:.1f}", "-", "-", f"{ours.peak_mb:.0f}", "-"]
    return [
        name,
        f"{ours.wall_s:.1f}",
        f"{theirs.wall_s:.1f}",
        f"{ours.wall_s / theirs.wall_s:.2f}",
        f"{ours.cpu_s:.1f}",
        f"{theirs.cpu_s:.1f}",
        f"{ours.cpu_s / theirs.cpu_s:.2f}",
        f"{ours.peak_mb:.0f}",
        f"{theirs.peak_mb:.0f}",
    ]


def _stages(m: Measured) -> list[str]:
    theirs = {name: cheapest(c) for name, c in m.astromatic.items()}
    ours = {name: cheapest(c) for name, c in m.native.items()}
    rows = [_row(f"{b} / {a}", ours[b], theirs[a]) for a, b in STAGES]
    rows += [_row(f"{name} / -", ours[name], None) for name in ONLY_NATIVE]
    rows.append(_row("**the same four stages**", total([ours[b] for _, b in STAGES]), total(list(theirs.values()))))
    rows.append(_row("**all steps**", total(list(ours.values())), total(list(theirs.values()))))
    whole = total([cheapest(c) for c in m.whole.values()])
    rows.append(_row("**whole, `spica ingest` and `schedule`**", whole, total(list(theirs.values()))))
    headings = (
        "stage: native / AstrOmatic",
        "wall s",
        "wall s",
        "ratio",
        "CPU s",
        "CPU s",
        "ratio",
        "peak MB",
        "peak MB",
    )
    text = (
        "The native column stands first, then AstrOmatic's, then their ratio (below 1: native is faster). `assess` "
        "also verifies, finds cosmic rays, trails and bad columns, fits the point spread function, writes weight maps, "
        "previews and plots; `quality` and `deliver` have no counterpart. The whole includes daemon, intake "
        "and harvest; the CPU seconds of the database server are not in it."
    )
    peak = ours["stack"].peak_mb
    verdict = "met" if peak <= MEMORY_GOAL_MB else "missed"
    goal = f"Peak memory of the native stack step: {peak:.0f} MB (goal {MEMORY_GOAL_MB:.0f} MB: {verdict})."
    return ["## Time and memory", "", text, "", *_table(headings, rows), goal, ""]


def _errors(m: Measured) -> list[str]:
    rows = []
    for name, e in m.stacks.items():
        position = "met" if e.position_rms_mas <= POSITION_GOAL_MAS else "missed"
        mag = "met" if e.mag_rms_mmag <= MAG_GOAL_MMAG else "missed"
        rows.append(
            [
                name,
                str(e.n_stars),
                f"{e.position_rms_mas:.2f} ({position})",
                f"{e.position_offset_mas:.2f}",
                f"{e.mag_rms_mmag:.2f} ({mag})",
                f"{e.mag_offset_mmag:+.1f}",
            ]
        )
    headings = ("stack and its catalogue", "stars", "position rms mas", "offset mas", "mag rms mmag", "zero point mmag")
    text = (
        f"Isolated stars of 16.5 to 20 mag on the stacks, MAG_APER of 3.7 arcsec; rms per axis. Goals: "
        f"{POSITION_GOAL_MAS:g} mas and {MAG_GOAL_MMAG:g} mmag. SCAMP's flux scale is relative, so only the scatter of "
        "AstrOmatic's magnitudes counts."
    )
    return ["## Errors against truth", "", text, "", *_table(headings, rows)]


def _kron(m: Measured) -> list[str]:
    rows = [
        [
            f"{b.kind} {b.low:g} to {b.high:g}",
            str(b.n),
            f"{b.native_median:+.1f}",
            f"{b.astromatic_median:+.1f}",
            f"{b.native_scatter:.1f}",
            f"{b.astromatic_scatter:.1f}",
        ]
        for b in m.kron
    ]
    headings = ("mag", "n", "native median", "SExtractor median", "native scatter", "SExtractor scatter")
    text = (
        "MAG_AUTO less the true magnitude, mmag, on the native stack by both programs, isolated sources both measured."
    )
    return ["## MAG_AUTO", "", text, "", *_table(headings, rows)]


def _jobs(m: Measured) -> list[str]:
    rows = [[f"{j.number} {j.kind}", f"{j.result.seconds:.1f}", f"{j.result.peak_memory_mb or 0:.0f}"] for j in m.jobs]
    text = "As the jobs of the whole chain told in their `result.json`."
    return ["## Jobs", "", text, "", *_table(("job", "wall s", "peak MB"), rows)]


def _kernels(m: Measured) -> list[str]:
    floor = next((k for k in m.kernels if k.name.startswith("copy")), None)
    rows = []
    for k in m.kernels:
        if not k.megapixels:
            rows.append([k.name, f"{1000 * k.cpu_s:.0f}", "-", "-"])
            continue
        per_pixel = 1000.0 * k.cpu_s / k.megapixels
        copies = "-" if floor is None else f"{per_pixel * floor.megapixels / (1000.0 * floor.cpu_s):.0f}"
        rows.append([k.name, f"{1000 * k.cpu_s:.1f}", f"{per_pixel:.1f}", copies])
    headings = ("kernel, one thread", "CPU ms", "ns a pixel", "copies of the pixels")
    text = (
        "CPU time on one detector (resampling: one plane; combination: a cube of eight; writing: the stack). The last "
        "column is the time in units of copying the same pixels in memory, the floor of all that reads and writes them."
    )
    return ["## Kernels", "", text, "", *_table(headings, rows)]

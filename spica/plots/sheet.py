"""The quality sheet of a delivery: picture, facts and inputs on one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spica.plots.figure import figure

MAX_LINES = 46


@dataclass(frozen=True)
class SheetFacts:
    """What the sheet shows: lines of (name, value, unit), inputs of (name, share of weight, fraction clipped)."""

    title: str
    lines: tuple[tuple[str, str, str], ...]
    inputs: tuple[tuple[str, float, float], ...]
    preview: Path | None


def draw_sheet(path: Path, facts: SheetFacts) -> None:
    """Draw the sheet as PNG or PDF, by the suffix of `path`."""
    with figure(path, 11.0, 7.6, facts.title) as fig:
        left, right = fig.subplots(1, 2, width_ratios=(1.35, 1.0))
        fig.subplots_adjust(left=0.02, right=0.99, bottom=0.03, top=0.94, wspace=0.04)
        left.axis("off")
        if facts.preview is not None:
            from matplotlib.image import imread

            left.imshow(imread(facts.preview), cmap="gray", origin="upper", interpolation="nearest")
        right.axis("off")
        rows = [(n, f"{v} {u}".strip()) for n, v, u in facts.lines][:MAX_LINES]
        rows += [("", "")]
        rows += [(n[:30], f"{100 * w:.1f} % weight, {100 * c:.2f} % clipped") for n, w, c in facts.inputs]
        if len(rows) > 2 * MAX_LINES:
            rows = [*rows[: 2 * MAX_LINES - 1], ("…", f"{len(rows) - 2 * MAX_LINES + 1} more in manifest.json")]
        step = 1.0 / max(len(rows), MAX_LINES)
        for i, (name, value) in enumerate(rows):
            y = 1.0 - (i + 0.5) * step
            right.text(0.0, y, name, fontsize=7, va="center", color="#9aa7bb", parse_math=False)
            right.text(0.42, y, value[:60], fontsize=7, va="center", parse_math=False)

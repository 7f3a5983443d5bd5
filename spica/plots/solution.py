"""Residuals of a solution: positions to the reference and between exposures, zero points, sky attenuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spica.plots.figure import figure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ResidualPanel:
    """Residuals image minus reference (or image minus mean of images): in mas, with field position."""

    d_ra_mas: Floats
    d_dec_mas: Floats
    x_deg: Floats
    y_deg: Floats


@dataclass(frozen=True)
class ZeroPointPanel:
    """One exposure: name, zero point (NaN unknown), its error, attenuation (NaN unknown)."""

    name: str
    zero_point_mag: float
    error_mag: float
    skyprobe_mag: float


def draw_solution(
    path: Path, reference: ResidualPanel, internal: ResidualPanel, zero_points: Sequence[ZeroPointPanel], title: str
) -> None:
    """Draw the residual panels of one solution into one picture."""
    with figure(path, 11.0, 7.0, title) as fig:
        axes = fig.subplots(2, 3)
        _draw_cloud(axes[0, 0], reference, "to the reference")
        _draw_cloud(axes[0, 1], internal, "between exposures")
        _draw_field(axes[0, 2], reference)
        _draw_histogram(axes[1, 0], reference, internal)
        _draw_zero_points(axes[1, 1], zero_points)
        _draw_attenuation(axes[1, 2], zero_points)


def _draw_cloud(axis: Any, panel: ResidualPanel, title: str) -> None:
    x, y = panel.d_ra_mas, panel.d_dec_mas
    axis.plot(x, y, ".", ms=2, alpha=0.6)
    if x.size:
        limit = 5.0 * max(float(np.median(np.abs(x))), float(np.median(np.abs(y))), 1e-3)
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit))
        axis.set_title(f"{title}: {x.size} pairs")
    else:
        axis.set_title(f"{title}: no pairs")
    axis.axhline(0, color="#56637a", lw=0.8)
    axis.axvline(0, color="#56637a", lw=0.8)
    axis.set(xlabel="Δα cos δ (mas)", ylabel="Δδ (mas)", aspect="equal")


def _draw_field(axis: Any, panel: ResidualPanel) -> None:
    if panel.x_deg.size:
        size = np.hypot(panel.d_ra_mas, panel.d_dec_mas)
        axis.quiver(panel.x_deg, panel.y_deg, panel.d_ra_mas, panel.d_dec_mas, size, cmap="viridis", width=0.003)
        axis.invert_xaxis()
    axis.set(title="residual vectors over the field", xlabel="ξ (deg)", ylabel="η (deg)", aspect="equal")


def _draw_histogram(axis: Any, reference: ResidualPanel, internal: ResidualPanel) -> None:
    for panel, name in ((reference, "reference"), (internal, "internal")):
        both = np.concatenate([panel.d_ra_mas, panel.d_dec_mas])
        if both.size:
            limit = 5.0 * max(float(np.median(np.abs(both))), 1e-3)
            axis.hist(both, bins=60, range=(-limit, limit), histtype="step", density=True, label=name)
    axis.set(title="residuals per axis", xlabel="mas", ylabel="density")
    if axis.get_legend_handles_labels()[0]:
        axis.legend()


def _draw_zero_points(axis: Any, zero_points: Sequence[ZeroPointPanel]) -> None:
    index = np.arange(len(zero_points))
    axis.errorbar(
        index,
        [z.zero_point_mag for z in zero_points],
        [z.error_mag for z in zero_points],
        fmt="o",
        ms=4,
        color="#5aa9ff",
    )
    axis.set(title="zero point of each exposure", xlabel="exposure in order of time", ylabel="mag of 1 ADU/s")


def _draw_attenuation(axis: Any, zero_points: Sequence[ZeroPointPanel]) -> None:
    index = np.arange(len(zero_points))
    axis.bar(index, np.nan_to_num([z.skyprobe_mag for z in zero_points]), color="#f2b84b")
    axis.set(title="attenuation of the sky", xlabel="exposure in order of time", ylabel="mag")

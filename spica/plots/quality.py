"""Diagnostic panels of one image: PSF map, ellipticity, background, half-light radius against magnitude, counts."""

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
class DetectorPanel:
    """What the panels show of one detector; positions in arcsec in the frame of the mosaic.

    `mag` is instrumental or calibrated (NaN where the flux is not positive), `extent_arcsec` left, right, bottom, top.
    """

    star_x_arcsec: Floats
    star_y_arcsec: Floats
    star_fwhm_arcsec: Floats
    star_ellipticity: Floats
    star_theta_deg: Floats
    mag: Floats
    radius_arcsec: Floats
    is_star: NDArray[np.bool_]
    background_adu: Floats
    extent_arcsec: tuple[float, float, float, float]


def draw_quality(path: Path, panels: Sequence[DetectorPanel], title: str, mag_label: str) -> None:
    """Draw all panels of one image into one picture."""
    with figure(path, 11.0, 6.4, title) as fig:
        axes = fig.subplots(2, 3)
        _draw_psf(fig, axes[0, 0], panels)
        _draw_whiskers(axes[0, 1], panels)
        _draw_background(fig, axes[0, 2], panels)
        _draw_sizes(axes[1, 0], panels, mag_label)
        _draw_histogram(axes[1, 1], panels)
        _draw_counts(axes[1, 2], panels, mag_label)


def _all(panels: Sequence[DetectorPanel], name: str) -> Any:
    return np.concatenate([getattr(p, name) for p in panels]) if panels else np.empty(0)


def _frame(axis: Any, panels: Sequence[DetectorPanel], title: str) -> None:
    from matplotlib.patches import Rectangle

    for p in panels:
        left, right, bottom, top = p.extent_arcsec
        axis.add_patch(Rectangle((left, bottom), right - left, top - bottom, fill=False, ec="#56637a", lw=0.8))
    if panels:
        bounds = np.array([p.extent_arcsec for p in panels])
        axis.set_xlim(bounds[:, :2].min(), bounds[:, :2].max())
        axis.set_ylim(bounds[:, 2:].min(), bounds[:, 2:].max())
    axis.set_aspect("equal")
    axis.grid(False)
    axis.set(title=title, xlabel="x (arcsec)", ylabel="y (arcsec)")


def _draw_psf(fig: Any, axis: Any, panels: Sequence[DetectorPanel]) -> None:
    x, y, fwhm = _all(panels, "star_x_arcsec"), _all(panels, "star_y_arcsec"), _all(panels, "star_fwhm_arcsec")
    _frame(axis, panels, "PSF map: FWHM of stars")
    if x.size:
        low, high = np.percentile(fwhm, [5, 95])
        dots = axis.scatter(x, y, c=fwhm, s=12, vmin=low, vmax=max(high, low * 1.02 + 1e-6))
        fig.colorbar(dots, ax=axis, label="FWHM (arcsec)")


def _draw_whiskers(axis: Any, panels: Sequence[DetectorPanel]) -> None:
    from matplotlib.collections import LineCollection

    x, y = _all(panels, "star_x_arcsec"), _all(panels, "star_y_arcsec")
    e, theta = _all(panels, "star_ellipticity"), np.radians(_all(panels, "star_theta_deg"))
    _frame(axis, panels, "ellipticity whiskers (bar: 0.1)")
    if x.size:
        bounds = np.array([p.extent_arcsec for p in panels])
        unit = 0.12 * float(np.ptp(bounds[:, :2])) / 0.1
        dx, dy = 0.5 * unit * e * np.cos(theta) * 0.4, 0.5 * unit * e * np.sin(theta) * 0.4
        ends = np.stack([np.column_stack([x - dx, y - dy]), np.column_stack([x + dx, y + dy])], axis=1)
        axis.add_collection(
            LineCollection(list(ends), colors="#5aa9ff", linewidths=0.8, capstyle="projecting", zorder=2)
        )
        left, bottom = bounds[:, 0].min(), bounds[:, 2].min()
        axis.plot([left, left + 0.1 * unit * 0.4], [bottom, bottom], color="#f2b84b", lw=3)


def _draw_background(fig: Any, axis: Any, panels: Sequence[DetectorPanel]) -> None:
    _frame(axis, panels, "sky background")
    if not panels:
        return
    values = np.concatenate([p.background_adu.ravel() for p in panels])
    low, high = np.nanpercentile(values, [2, 98])
    shown = None
    for p in panels:
        shown = axis.imshow(p.background_adu, extent=p.extent_arcsec, vmin=low, vmax=max(high, low + 1e-3), zorder=0)
    bounds = np.array([p.extent_arcsec for p in panels])
    axis.set_xlim(bounds[:, :2].min(), bounds[:, :2].max())
    axis.set_ylim(bounds[:, 2:].min(), bounds[:, 2:].max())
    fig.colorbar(shown, ax=axis, label="ADU")


def _draw_sizes(axis: Any, panels: Sequence[DetectorPanel], mag_label: str) -> None:
    mag, radius, star = _all(panels, "mag"), _all(panels, "radius_arcsec"), _all(panels, "is_star").astype(bool)
    axis.plot(mag[~star], radius[~star], ".", color="#7786a0", ms=2, label="all")
    axis.plot(mag[star], radius[star], ".", color="#5aa9ff", ms=3, label="stars of the PSF")
    good = np.isfinite(mag) & np.isfinite(radius) & (radius > 0)
    if good.any():
        axis.set_ylim(0, 3.5 * float(np.median(radius[star & good] if (star & good).any() else radius[good])))
    axis.set(title="half-light radius against magnitude", xlabel=mag_label, ylabel="r½ (arcsec)")
    axis.legend(loc="upper left")


def _draw_histogram(axis: Any, panels: Sequence[DetectorPanel]) -> None:
    fwhm = _all(panels, "star_fwhm_arcsec")
    if fwhm.size:
        median = float(np.median(fwhm))
        axis.hist(fwhm, bins=30, range=(0.6 * median, 1.6 * median), color="#5aa9ff")
        axis.axvline(median, color="#f2b84b", lw=1.2)
    axis.set(title="FWHM of stars, median marked", xlabel="FWHM (arcsec)", ylabel="stars")


def _plain(value: float, _: object) -> str:
    """Return a tick's number as people write it."""
    return f"{value:g}"


def _draw_counts(axis: Any, panels: Sequence[DetectorPanel], mag_label: str) -> None:
    mag, star = _all(panels, "mag"), _all(panels, "is_star").astype(bool)
    mag, star = mag[np.isfinite(mag)], star[np.isfinite(mag)]
    if mag.size:
        edges = np.arange(np.floor(mag.min()), np.ceil(mag.max()) + 0.5, 0.5)
        axis.hist(mag, bins=edges, histtype="step", color="#c9d3e3", label="all")
        axis.hist(mag[star], bins=edges, histtype="step", color="#5aa9ff", label="stars of the PSF")
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(_plain)
        axis.yaxis.set_minor_formatter("")
        axis.legend(loc="upper left")
    axis.set(title="counts", xlabel=mag_label, ylabel="sources in 0.5 mag")

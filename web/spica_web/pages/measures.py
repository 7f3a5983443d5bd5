"""Measures as the pages place them: value, unit, meaning, and where it stands in the survey."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from spica.db.pages.listing import Distribution
from spica.db.tables.image import MeasureRow
from spica.instruments.registry import Registry
from spica.model.errors import RecipeError
from spica_web.draw.strip import Limits, draw_strip
from spica_web.words import fixed

LOW_IS_BAD = frozenset({"limiting_mag", "n_stars", "zero_point_mag"})


@dataclass(frozen=True)
class MeasureLine:
    """One measure of an image: its value as text, and the strip; `note` says how much of the survey is smaller."""

    name: str
    label: str
    value: str
    unit: str
    text: str
    note: str
    strip: Markup


@dataclass(frozen=True)
class _Kind:
    label: str
    unit: str
    digits: int
    text: str


KINDS = {
    "seeing_arcsec": _Kind("seeing", "arcsec", 2, "FWHM of a Moffat fit to stars, median over detectors"),
    "ellipticity": _Kind("ellipticity", "", 3, "1 − b/a of stars, median over detectors"),
    "limiting_mag": _Kind("depth", "mag", 2, "limiting magnitude: 5 sigma in an aperture of 2 arcsec diameter"),
    "zero_point_mag": _Kind("zero point", "mag", 3, "magnitude of 1 ADU/s (of 1 ADU in a stack)"),
    "skyprobe_mag": _Kind("SkyProbe", "mag", 3, "attenuation of the sky, against the best of the solution"),
    "background_adu": _Kind("background", "ADU", 1, "sky background, median over detectors"),
    "noise_adu": _Kind("noise", "ADU", 2, "background noise of a pixel"),
    "n_stars": _Kind("stars", "", 0, "stars accepted for the PSF, all detectors"),
}


def measure_lines(
    row: MeasureRow | None, spreads: Mapping[str, Distribution], limits: Mapping[str, Limits]
) -> list[MeasureLine]:
    """Return the measures of an image in the order of `KINDS`."""
    lines = []
    for name, kind in KINDS.items():
        value = getattr(row, name) if row is not None else None
        spread = spreads.get(name)
        strip = draw_strip(spread, value, limits.get(name))
        lines.append(
            MeasureLine(name, kind.label, fixed(value, kind.digits), kind.unit, kind.text, _note(spread), strip)
        )
    return lines


def _note(spread: Distribution | None) -> str:
    if spread is None or spread.below is None:
        return ""
    return f"{100.0 * spread.below:.0f} % of {spread.n} have less"


def grade_limits(registry: Registry, instrument: str | None, filter_name: str | None) -> dict[str, Limits]:
    """Return the limits of grades of a camera in a filter; empty where its profile is not known here."""
    if instrument is None:
        return {}
    try:
        by_grade = registry.get(instrument).grade_limits(filter_name or "")
    except RecipeError:
        return {}
    found = {}
    for name in ("seeing_arcsec", "ellipticity", "background_adu", "limiting_mag", "n_stars"):
        a, b, c = (getattr(by_grade[letter], name) for letter in "ABC")
        if any(v is not None for v in (a, b, c)):
            found[name] = Limits(a, b, c, high=name not in LOW_IS_BAD)
    return found

"""Where a detector looks: its header's WCS, or a nominal one from pointing and layout, and its footprint."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spica.files.header import HeaderCards, make_cards
from spica.files.wcs import SkyPlace, WcsError, place_on_sky, tan_cards, wcs_keyword_cards
from spica.instruments.base import DetectorPlace, FactSource, Instrument, PositionSource
from spica.instruments.facts import PixelSection
from spica.instruments.lookup import find_number, find_value, parse_section, section_within

_NO_SOURCE = FactSource()
_SCALE_RATIO = 16.0


class FactReader:
    """Reads the facts of one header unit and remembers who said them first."""

    def __init__(
        self, sources: Mapping[str, FactSource], headers: Sequence[HeaderCards], who_said: dict[str, str]
    ) -> None:
        """Keep where facts stand, and the book of who said them."""
        self.sources, self.headers, self.who_said = sources, headers, who_said

    def number(self, fact: str, hdu: int, low: float, high: float) -> float | None:
        """Return the first number within the bounds."""
        found = find_number(self.headers, self.sources.get(fact, _NO_SOURCE), hdu, low, high)
        if found is None:
            return None
        self.who_said.setdefault(fact, found[1])
        return found[0]

    def text(self, fact: str, hdu: int) -> str:
        """Return the text of a fact, empty where nothing says it."""
        found = find_value(self.headers, self.sources.get(fact, _NO_SOURCE), hdu)
        if found is None:
            return ""
        self.who_said.setdefault(fact, found.who_said)
        return str(found.value).strip()

    def source_of(self, fact: str, hdu: int) -> str:
        """Return who says a fact, empty where nothing does."""
        found = find_value(self.headers, self.sources.get(fact, _NO_SOURCE), hdu)
        return "" if found is None else found.who_said

    def section(self, fact: str, hdu: int, shape: tuple[int, int] | None) -> PixelSection | None:
        """Return a section within a shape (None: unbounded)."""
        section = parse_section(self.text(fact, hdu))
        return section if shape is None else section_within(section, shape)

    def binning(self, hdu: int) -> float:
        """Return the geometric mean of the binning factors (`2`, `2 2`, `2,4`, `[2,2]`), 1 where nothing says."""
        numbers = [int(n) for n in re.findall(r"\d+", self.text("binning", hdu)[:40])]
        kept = [n for n in numbers[:2] if 1 <= n <= 64]
        return math.prod(kept) ** (1.0 / len(kept)) if kept else 1.0


@dataclass(frozen=True)
class Position:
    """WCS cards (None: nothing is known), who gave them, the pixel scale, and the corners (RA, Dec) in degrees."""

    wcs: HeaderCards | None
    source: PositionSource | None
    scale_arcsec: float | None
    footprint: tuple[tuple[float, float], ...] | None = None


def place_detector(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: FactReader,
    hdu: int,
    name: str,
    shape: tuple[int, int],
    pointing: tuple[float, float] | None,
    origin: tuple[int, int] | None = (0, 0),
    hdus: Sequence[int] = (),
) -> Position:
    """Place a detector of shape (ny, nx): by the header's WCS where that is sound, else by the pointing.

    `origin` is the (x, y) of the unit's pixel that becomes the detector's first; None where the unit's pixels are
    turned in the detector, so that its WCS cannot serve. `hdus` are the units that form it where they are several.
    """
    if instrument.detectors.use_wcs and origin is not None:
        try:
            cards = shifted_wcs(wcs_keyword_cards(headers[hdu]), *origin)
            place = place_on_sky(cards, shape)
            _check_scale(place, _stated_scale(instrument, facts, hdu))
            facts.who_said.setdefault("pixel_scale", "header WCS")
            return Position(cards, "header_wcs", place.pixel_scale_arcsec, place.polygon_deg)
        except WcsError:
            pass
    scale = _stated_scale(instrument, facts, hdu)
    if scale is not None:
        facts.who_said.setdefault("pixel_scale", facts.source_of("pixel_scale", hdu) or "profile")
    if scale is None or pointing is None:
        return Position(None, None, scale)
    nominal = _place(instrument, headers, hdus or (hdu,), name, scale, shape)
    cards = nominal_wcs(instrument, pointing, nominal, shape, scale)
    return Position(cards, "pointing", scale, _footprint(cards, shape))


def _stated_scale(instrument: Instrument, facts: FactReader, hdu: int) -> float | None:
    """Return the scale of header or profile; one of the profile or of a table of its own is that of unbinned pixels."""
    source = facts.sources.get("pixel_scale", _NO_SOURCE)
    found = find_number(facts.headers, source, hdu, 1e-4, 1e4)
    if found is not None:
        return found[0] * (facts.binning(hdu) if source.values else 1.0)
    nominal = instrument.pixel_scale_arcsec
    return None if nominal is None else nominal * facts.binning(hdu)


def _check_scale(place: SkyPlace, stated_arcsec: float | None) -> None:
    """Refuse a WCS with pixels of no camera: sides, or scales of WCS and header, of a ratio beyond 16.

    Damaged exponents (1E-55 for 1E-05) and rows of a unit matrix pass every other test; binning stays below that.
    """
    x_side, y_side = place.sides_arcsec
    ratios = [x_side / y_side] + ([place.pixel_scale_arcsec / stated_arcsec] if stated_arcsec else [])
    if any(not 1.0 / _SCALE_RATIO < ratio < _SCALE_RATIO for ratio in ratios):
        raise WcsError("the header's CD matrix is of no camera's pixels; solve the exposure without its header WCS")


def shifted_wcs(cards: HeaderCards, x: int, y: int) -> HeaderCards:
    """Return WCS cards for an image whose first pixel was (x, y), 0-based, of the one that they describe."""
    if (x, y) == (0, 0) or "CRPIX1" not in cards or "CRPIX2" not in cards:
        return cards
    moved = []
    for keyword, by in (("CRPIX1", x), ("CRPIX2", y)):
        value = cards[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float):
            return cards
        moved.append((keyword, float(value) - by, ""))
    return cards.without(["CRPIX1", "CRPIX2"]).with_cards(make_cards(moved).cards)


def _place(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    hdus: Sequence[int],
    name: str,
    scale: float,
    shape: tuple[int, int],
) -> DetectorPlace:
    """Return the nominal place of a detector: by name, by DETSEC within DETSIZE, else the centre of the field.

    Of a detector of several units the sections of all count; put together it lies as the mosaic does.
    """
    layout = instrument.layout
    if name in layout.detectors:
        return layout.detectors[name]
    if layout.section_keyword and layout.size_keyword:
        section = _around([parse_section(_text(headers, layout.section_keyword, hdu)) for hdu in hdus])
        size = parse_section(_text(headers, layout.size_keyword, hdus[0]))
        if section is not None and size is not None:
            bin_x = max(1, round((section.x_stop - section.x_start) / shape[1]))
            bin_y = max(1, round((section.y_stop - section.y_start) / shape[0]))
            dx = (section.x_start + section.x_stop - size.x_start - size.x_stop) / 2.0 / bin_x
            dy = (section.y_start + section.y_stop - size.y_start - size.y_stop) / 2.0 / bin_y
            turned = 180.0 if section.flip_x and section.flip_y else 0.0
            return DetectorPlace(-instrument.parity * dx * scale, dy * scale, turned)
    return DetectorPlace(0.0, 0.0)


def _around(sections: Sequence[PixelSection | None]) -> PixelSection | None:
    """Return the smallest section around all; None where one is not stated. A single one keeps its flips."""
    known = [section for section in sections if section is not None]
    if len(known) < len(sections):
        return None
    if len(known) == 1:
        return known[0]
    return PixelSection(
        min(s.x_start for s in known),
        max(s.x_stop for s in known),
        min(s.y_start for s in known),
        max(s.y_stop for s in known),
    )


def _text(headers: Sequence[HeaderCards], keyword: str, hdu: int) -> str:
    found = find_value(headers, FactSource((keyword,)), hdu)
    return "" if found is None else str(found.value)


def nominal_wcs(
    instrument: Instrument,
    pointing: tuple[float, float],
    place: DetectorPlace,
    shape: tuple[int, int],
    scale_arcsec: float,
) -> HeaderCards:
    """Return a tangent-plane WCS from pointing, layout, scale, parity and position angle.

    With position angle p (of +y, from north through east) and parity s the matrix is
    scale * [[-s cos p, sin p], [s sin p, cos p]]: its columns are the directions of +x and +y in (xi, eta) (own
    derivation). The tangent point's pixel is the image centre minus the inverse of that matrix times the detector's
    offset.
    """
    field = math.radians(instrument.position_angle_deg)
    xi = place.xi_arcsec * math.cos(field) + place.eta_arcsec * math.sin(field)
    eta = -place.xi_arcsec * math.sin(field) + place.eta_arcsec * math.cos(field)
    angle = math.radians(instrument.position_angle_deg + place.rotation_deg)
    s = instrument.parity
    cd = (
        np.array([[-s * math.cos(angle), math.sin(angle)], [s * math.sin(angle), math.cos(angle)]])
        * scale_arcsec
        / 3600.0
    )
    offset = np.linalg.solve(cd, np.array([xi, eta]) / 3600.0)
    x, y = (shape[1] - 1) / 2.0 - offset[0], (shape[0] - 1) / 2.0 - offset[1]
    return tan_cards(pointing[0], pointing[1], x, y, cd)


def _footprint(wcs: HeaderCards, shape: tuple[int, int]) -> tuple[tuple[float, float], ...] | None:
    try:
        return place_on_sky(wcs, shape).polygon_deg
    except WcsError:
        return None

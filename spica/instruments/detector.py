"""The detectors of an exposure: their units, sections, nominal places and footprints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spica.files.header import HeaderCards
from spica.files.scan import StructureError, image_shape
from spica.files.wcs import WcsError, footprint_polygon, pixel_scale_arcsec, read_wcs, tan_cards, wcs_keyword_cards
from spica.instruments.base import (
    AmplifierFacts,
    DetectorFacts,
    DetectorPlace,
    FactSource,
    Instrument,
    PixelSection,
    PositionSource,
)
from spica.instruments.lookup import find_number, find_value, meets, parse_section, section_within

_NO_SOURCE = FactSource()


class _Facts:
    """Reads the facts of one header unit and remembers who said them first."""

    def __init__(self, instrument: Instrument, headers: Sequence[HeaderCards], who_said: dict[str, str]) -> None:
        self.sources, self.headers, self.who_said = instrument.detectors.facts, headers, who_said

    def number(self, fact: str, hdu: int, low: float, high: float) -> float | None:
        found = find_number(self.headers, self.sources.get(fact, _NO_SOURCE), hdu, low, high)
        if found is None:
            return None
        self.who_said.setdefault(fact, found[1])
        return found[0]

    def text(self, fact: str, hdu: int) -> str:
        found = find_value(self.headers, self.sources.get(fact, _NO_SOURCE), hdu)
        if found is None:
            return ""
        self.who_said.setdefault(fact, found.who_said)
        return str(found.value).strip()

    def section(self, fact: str, hdu: int, shape: tuple[int, int] | None) -> PixelSection | None:
        section = parse_section(self.text(fact, hdu))
        return section if shape is None else section_within(section, shape)


def _units(instrument: Instrument, headers: Sequence[HeaderCards], file_name: str) -> list[tuple[int, tuple[int, int]]]:
    """Return index and (ny, nx) of every header unit that is a detector or an amplifier."""
    found: list[tuple[int, tuple[int, int]]] = []
    for hdu, header in enumerate(headers):
        try:
            shape = image_shape(header)
        except StructureError:
            continue
        if shape is None or min(shape[-2:]) < instrument.detectors.min_side_pix:
            continue
        if instrument.detectors.select.is_empty or meets(instrument.detectors.select, headers, file_name, hdu):
            found.append((hdu, (shape[-2], shape[-1])))
    return found


def find_detectors(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    file_name: str,
    pointing: tuple[float, float] | None,
    who_said: dict[str, str],
) -> tuple[DetectorFacts, ...]:
    """Return the detectors in the order of their header units; `who_said` gains where their facts came from."""
    facts = _Facts(instrument, headers, who_said)
    units = _units(instrument, headers, file_name)
    if instrument.detectors.amplifiers == "whole":
        return tuple(
            _whole(instrument, headers, facts, index, hdu, shape, pointing) for index, (hdu, shape) in enumerate(units)
        )
    groups: dict[str, list[AmplifierFacts]] = {}
    for hdu, shape in units:
        key = find_value(headers, instrument.detectors.group, hdu)
        groups.setdefault(str(key.value).strip() if key else "", []).append(_amplifier(facts, hdu, shape))
    return tuple(
        _assembled(instrument, headers, facts, index, name, tuple(group), pointing)
        for index, (name, group) in enumerate(groups.items())
    )


def _name(facts: _Facts, hdu: int, index: int) -> str:
    return facts.text("name", hdu) or f"DET{index:02d}"


def _amplifier(facts: _Facts, hdu: int, shape: tuple[int, int]) -> AmplifierFacts:
    data = facts.section("data_section", hdu, shape)
    return AmplifierFacts(
        hdu=hdu,
        name=facts.text("name", hdu),
        shape=shape,
        data_section=data,
        overscan_section=facts.section("overscan_section", hdu, shape),
        target_section=_binned(facts.section("target_section", hdu, None), data, shape),
        gain_e_per_adu=facts.number("gain", hdu, 1e-6, 1e6),
        read_noise_e=facts.number("read_noise", hdu, 0.0, 1e6),
    )


def _binned(target: PixelSection | None, data: PixelSection | None, shape: tuple[int, int]) -> PixelSection | None:
    """Return the target section in binned pixels: headers count it unbinned, so it is a whole multiple of the data."""
    if target is None:
        return None
    nx = data.x_stop - data.x_start if data else shape[1]
    ny = data.y_stop - data.y_start if data else shape[0]
    fx, fy = (target.x_stop - target.x_start) / nx, (target.y_stop - target.y_start) / ny
    if not (fx.is_integer() and fy.is_integer()):
        return None
    x, y = target.x_start // int(fx), target.y_start // int(fy)
    return PixelSection(x, x + nx, y, y + ny, target.flip_x, target.flip_y)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _assembled(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: _Facts,
    index: int,
    name: str,
    amplifiers: tuple[AmplifierFacts, ...],
    pointing: tuple[float, float] | None,
) -> DetectorFacts:
    """Describe a detector made of amplifiers; target sections are moved so that they begin at (0, 0)."""
    targets = [amplifier.target_section for amplifier in amplifiers]
    known = [target for target in targets if target is not None]
    first = amplifiers[0]
    shape = first.shape
    if len(known) == len(targets):
        x0, y0 = min(target.x_start for target in known), min(target.y_start for target in known)
        shape = max(target.y_stop for target in known) - y0, max(target.x_stop for target in known) - x0
        amplifiers = tuple(_moved(amplifier, x0, y0) for amplifier in amplifiers)
    wcs, source, scale = _position(
        instrument, headers, facts, index, first.hdu, name, shape, pointing, use_header=False
    )
    return DetectorFacts(
        index=index,
        hdu=first.hdu,
        name=name or _name(facts, first.hdu, index),
        shape=shape,
        gain_e_per_adu=_mean([amplifier.gain_e_per_adu for amplifier in amplifiers]),
        read_noise_e=_mean([amplifier.read_noise_e for amplifier in amplifiers]),
        saturation_adu=facts.number("saturation", first.hdu, 1.0, 1e12),
        pixel_scale_arcsec=scale,
        has_header_wcs=False,
        position_source=source,
        wcs=wcs,
        footprint=_footprint(wcs, shape),
        amplifiers=amplifiers,
    )


def _moved(amplifier: AmplifierFacts, x0: int, y0: int) -> AmplifierFacts:
    target = amplifier.target_section
    if target is None:
        return amplifier
    x, y = (target.x_start - x0, target.x_stop - x0), (target.y_start - y0, target.y_stop - y0)
    return replace(amplifier, target_section=PixelSection(*x, *y, target.flip_x, target.flip_y))


def _whole(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: _Facts,
    index: int,
    hdu: int,
    shape: tuple[int, int],
    pointing: tuple[float, float] | None,
) -> DetectorFacts:
    name = _name(facts, hdu, index)
    wcs, source, scale = _position(
        instrument, headers, facts, index, hdu, name, shape, pointing, use_header=instrument.detectors.use_wcs
    )
    return DetectorFacts(
        index=index,
        hdu=hdu,
        name=name,
        shape=shape,
        gain_e_per_adu=facts.number("gain", hdu, 1e-6, 1e6),
        read_noise_e=facts.number("read_noise", hdu, 0.0, 1e6),
        saturation_adu=facts.number("saturation", hdu, 1.0, 1e12),
        pixel_scale_arcsec=scale,
        has_header_wcs=source == "header_wcs",
        position_source=source,
        wcs=wcs,
        footprint=_footprint(wcs, shape),
        data_section=facts.section("data_section", hdu, shape),
        overscan_section=facts.section("overscan_section", hdu, shape),
    )


def _position(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: _Facts,
    index: int,
    hdu: int,
    name: str,
    shape: tuple[int, int],
    pointing: tuple[float, float] | None,
    use_header: bool,
) -> tuple[HeaderCards | None, PositionSource | None, float | None]:
    """Return WCS cards, who gave them, and the pixel scale: of the header where it is sound, else from the pointing."""
    if use_header:
        try:
            wcs = read_wcs(headers[hdu])
            footprint_polygon(wcs, shape)
            facts.who_said.setdefault("pixel_scale", "header WCS")
            return wcs_keyword_cards(headers[hdu]), "header_wcs", pixel_scale_arcsec(wcs)
        except WcsError:
            pass
    scale = facts.number("pixel_scale", hdu, 1e-4, 1e4)
    if scale is None and instrument.pixel_scale_arcsec is not None:
        scale = instrument.pixel_scale_arcsec
        facts.who_said.setdefault("pixel_scale", "profile")
    if scale is None or pointing is None:
        return None, None, scale
    place = _place(instrument, headers, hdu, name, scale, shape)
    return nominal_wcs(instrument, pointing, place, shape, scale), "pointing", scale


def _place(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    hdu: int,
    name: str,
    scale: float,
    shape: tuple[int, int],
) -> DetectorPlace:
    """Return the nominal place of a detector: by name, by DETSEC within DETSIZE, else the centre of the field."""
    layout = instrument.layout
    if name in layout.detectors:
        return layout.detectors[name]
    if layout.section_keyword and layout.size_keyword:
        section = parse_section(_text(headers, layout.section_keyword, hdu))
        size = parse_section(_text(headers, layout.size_keyword, hdu))
        if section is not None and size is not None:
            bin_x = max(1, round((section.x_stop - section.x_start) / shape[1]))
            bin_y = max(1, round((section.y_stop - section.y_start) / shape[0]))
            dx = (section.x_start + section.x_stop - size.x_start - size.x_stop) / 2.0 / bin_x
            dy = (section.y_start + section.y_stop - size.y_start - size.y_stop) / 2.0 / bin_y
            turned = 180.0 if section.flip_x and section.flip_y else 0.0
            return DetectorPlace(-instrument.parity * dx * scale, dy * scale, turned)
    return DetectorPlace(0.0, 0.0)


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


def _footprint(wcs: HeaderCards | None, shape: tuple[int, int]) -> tuple[tuple[float, float], ...] | None:
    if wcs is None:
        return None
    try:
        corners = footprint_polygon(read_wcs(wcs), shape)
    except WcsError:
        return None
    return tuple((float(ra), float(dec)) for ra, dec in corners)

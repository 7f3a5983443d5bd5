"""The detectors of an exposure: their units, amplifiers, sections and maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

from spica.files.header import HeaderCards
from spica.files.scan import image_shape
from spica.files.source import StructureError
from spica.instruments.base import MAP_KINDS, Instrument
from spica.instruments.facts import AmplifierFacts, DetectorFacts, MapFacts, PixelSection
from spica.instruments.lookup import find_value, last_value, meets
from spica.instruments.position import FactReader, place_detector

Pointing = tuple[float, float] | None


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


def _of_processed(instrument: Instrument) -> Instrument:
    """Return the instrument as detrended frames show it: one image a detector, no overscan to subtract."""
    rules = instrument.detectors
    facts = {name: source for name, source in rules.facts.items() if name != "overscan_section"}
    return replace(instrument, detectors=replace(rules, readouts=(), facts=MappingProxyType(facts)))


def find_detectors(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    file_name: str,
    pointing: Pointing,
    who_said: dict[str, str],
) -> tuple[DetectorFacts, ...]:
    """Return the detectors in the order of their header units; `who_said` gains where their facts came from."""
    if not instrument.detectors.processed.is_empty and meets(instrument.detectors.processed, headers, file_name):
        instrument = _of_processed(instrument)
    facts = FactReader(instrument.detectors.facts, headers, who_said)
    units = _units(instrument, headers, file_name)
    if instrument.detectors.amplifiers == "assemble":
        found = _assembled_detectors(instrument, headers, facts, units, pointing)
    else:
        found = [
            _whole(instrument, headers, facts, index, hdu, shape, pointing) for index, (hdu, shape) in enumerate(units)
        ]
    return _with_maps(instrument, headers, file_name, found)


def _assembled_detectors(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: FactReader,
    units: Sequence[tuple[int, tuple[int, int]]],
    pointing: Pointing,
) -> list[DetectorFacts]:
    """Return detectors made of the units whose group agrees; one alone in its group is read by its read-outs."""
    groups: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    for hdu, shape in units:
        key = find_value(headers, instrument.detectors.group, hdu)
        unnamed = f"\0{hdu}" if instrument.detectors.group.keywords else ""
        groups.setdefault(str(key.value).strip() if key else unnamed, []).append((hdu, shape))
    found = []
    for index, (key_text, group) in enumerate(groups.items()):
        name = key_text.partition("\0")[0]
        if len(group) == 1 and (instrument.detectors.readouts or not instrument.detectors.processed.is_empty):
            found.append(_whole(instrument, headers, facts, index, *group[0], pointing, name))
        else:
            amplifiers = tuple(_amplifier(facts, hdu, shape) for hdu, shape in group)
            targets = [a.target_section for a in amplifiers if a.target_section is not None]
            if len(targets) == len(amplifiers) and any(_counts_overscan(facts, a) for a in amplifiers):
                amplifiers = _closed_up(amplifiers, targets)
            found.append(_assembled(instrument, headers, facts, index, name, amplifiers, pointing))
    return found


def _with_maps(
    instrument: Instrument, headers: Sequence[HeaderCards], file_name: str, detectors: Sequence[DetectorFacts]
) -> tuple[DetectorFacts, ...]:
    """Add the maps that the same file holds for each detector: of its EXTVER where both state one, else in order.

    A map of another shape than the detector's unit is none of it.
    """
    maps: dict[int, list[MapFacts]] = {}
    for kind in MAP_KINDS:
        conditions = instrument.detectors.maps.get(kind)
        if conditions is None:
            continue
        units = [h for h in range(len(headers)) if _is_image(headers[h]) and meets(conditions, headers, file_name, h)]
        versions = {last_value(headers[hdu], "EXTVER"): hdu for hdu in reversed(units)}
        for order, detector in enumerate(detectors):
            version = last_value(headers[detector.hdu], "EXTVER")
            hdu = versions.get(version) if version is not None else units[order] if order < len(units) else None
            if hdu is not None and image_shape(headers[hdu]) == image_shape(headers[detector.hdu]):
                maps.setdefault(detector.index, []).append(MapFacts(kind, hdu))
    return tuple(replace(d, maps=tuple(maps.get(d.index, ()))) for d in detectors)


def _is_image(header: HeaderCards) -> bool:
    try:
        return image_shape(header) is not None
    except StructureError:
        return False


def _name(facts: FactReader, hdu: int, index: int) -> str:
    return facts.text("name", hdu) or f"DET{index:02d}"


def _amplifier(facts: FactReader, hdu: int, shape: tuple[int, int]) -> AmplifierFacts:
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
    """Return the target section of the data in binned pixels.

    Headers count it unbinned: it is a whole multiple of the data, or of the whole unit where the overscan is counted
    too. A slip below one hundredth of its length is forgiven.
    """
    if target is None:
        return None
    columns = (data.x_start, data.x_stop) if data is not None else (0, shape[1])
    rows = (data.y_start, data.y_stop) if data is not None else (0, shape[0])
    x, nx, fx = _binned_span(target.x_start, target.x_stop, target.flip_x, shape[1], columns)
    y, ny, fy = _binned_span(target.y_start, target.y_stop, target.flip_y, shape[0], rows)
    if fx == 0 or fy == 0:
        return None
    return PixelSection(x, x + nx, y, y + ny, target.flip_x, target.flip_y)


def _binned_span(start: int, stop: int, flipped: bool, side: int, data: tuple[int, int]) -> tuple[int, int, int]:
    """Return start and length of one axis of a target section in binned pixels, and the binning (0: none fits)."""
    first, last = data
    length, n = stop - start, last - first
    if length % n != 0 and length % side == 0:
        binning = length // side
        return start // binning + (side - last if flipped else first), n, binning
    binning = max(1, round(length / n))
    return start // binning, n, binning if abs(length - binning * n) <= 0.01 * length else 0


def _counts_overscan(facts: FactReader, amplifier: AmplifierFacts) -> bool:
    """Say whether the stated target section is that of the whole unit, overscan and all."""
    target, data = facts.section("target_section", amplifier.hdu, None), amplifier.data_section
    if target is None or data is None:
        return False
    sides = (
        (target.x_stop - target.x_start, data.x_stop - data.x_start, amplifier.shape[1]),
        (target.y_stop - target.y_start, data.y_stop - data.y_start, amplifier.shape[0]),
    )
    return any(length % n != 0 and length % side == 0 for length, n, side in sides)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _assembled(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: FactReader,
    index: int,
    name: str,
    amplifiers: tuple[AmplifierFacts, ...],
    pointing: Pointing,
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
    name = name or _name(facts, first.hdu, index)
    hdus = tuple(dict.fromkeys(amplifier.hdu for amplifier in amplifiers))
    origin = _origin(amplifiers[0])  # as it lies now, moved
    place = place_detector(instrument, headers, facts, first.hdu, name, shape, pointing, origin, hdus)
    return DetectorFacts(
        index=index,
        hdu=first.hdu,
        name=name,
        shape=shape,
        gain_e_per_adu=_mean([amplifier.gain_e_per_adu for amplifier in amplifiers]),
        read_noise_e=_mean([amplifier.read_noise_e for amplifier in amplifiers]),
        saturation_adu=facts.number("saturation", first.hdu, 1.0, 1e12),
        pixel_scale_arcsec=place.scale_arcsec,
        has_header_wcs=place.source == "header_wcs",
        position_source=place.source,
        wcs=place.wcs,
        footprint=place.footprint,
        amplifiers=amplifiers,
    )


def _origin(amplifier: AmplifierFacts) -> tuple[int, int] | None:
    """Return the unit's pixel that becomes the detector's (0, 0), None where the amplifier is turned around."""
    target, data = amplifier.target_section, amplifier.data_section
    if target is None or target.flip_x or target.flip_y or (data is not None and (data.flip_x or data.flip_y)):
        return None
    x, y = (data.x_start, data.y_start) if data is not None else (0, 0)
    return x - target.x_start, y - target.y_start


def _moved(amplifier: AmplifierFacts, x0: int, y0: int) -> AmplifierFacts:
    target = amplifier.target_section
    if target is None:
        return amplifier
    x, y = (target.x_start - x0, target.x_stop - x0), (target.y_start - y0, target.y_stop - y0)
    return replace(amplifier, target_section=PixelSection(*x, *y, target.flip_x, target.flip_y))


def _whole(
    instrument: Instrument,
    headers: Sequence[HeaderCards],
    facts: FactReader,
    index: int,
    hdu: int,
    shape: tuple[int, int],
    pointing: Pointing,
    name: str = "",
) -> DetectorFacts:
    """Describe a detector that is one unit, trimmed to its data section, put together from its read-outs."""
    name = name or _name(facts, hdu, index)
    amplifiers = _readouts(instrument, facts, hdu, shape)
    if amplifiers:
        found = _assembled(instrument, headers, facts, index, name, amplifiers, pointing)
    else:
        data = facts.section("data_section", hdu, shape)
        sky = shape if data is None else (data.y_stop - data.y_start, data.x_stop - data.x_start)
        origin = (0, 0) if data is None else (data.x_start, data.y_start)
        place = place_detector(instrument, headers, facts, hdu, name, sky, pointing, origin)
        found = DetectorFacts(
            index=index,
            hdu=hdu,
            name=name,
            shape=sky,
            gain_e_per_adu=facts.number("gain", hdu, 1e-6, 1e6),
            read_noise_e=facts.number("read_noise", hdu, 0.0, 1e6),
            saturation_adu=facts.number("saturation", hdu, 1.0, 1e12),
            pixel_scale_arcsec=place.scale_arcsec,
            has_header_wcs=place.source == "header_wcs",
            position_source=place.source,
            wcs=place.wcs,
            footprint=place.footprint,
            data_section=None if sky == shape else data,
            overscan_section=facts.section("overscan_section", hdu, shape),
        )
    full = image_shape(headers[hdu]) or ()
    return replace(found, planes=instrument.detectors.planes if len(full) > 2 else "")


def _readouts(
    instrument: Instrument, facts: FactReader, hdu: int, shape: tuple[int, int]
) -> tuple[AmplifierFacts, ...]:
    """Return the amplifiers inside one unit; none where the header does not state the data section of each."""
    found = []
    for order, sources in enumerate(instrument.detectors.readouts):
        own = FactReader(sources, facts.headers, facts.who_said)
        data = own.section("data_section", hdu, shape)
        if data is None:
            return ()
        found.append(
            AmplifierFacts(
                hdu=hdu,
                name=own.text("name", hdu) or f"{order}",
                shape=shape,
                data_section=data,
                overscan_section=own.section("overscan_section", hdu, shape),
                target_section=_binned(own.section("target_section", hdu, None), data, shape),
                gain_e_per_adu=own.number("gain", hdu, 1e-6, 1e6),
                read_noise_e=own.number("read_noise", hdu, 0.0, 1e6),
            )
        )
    if all(amplifier.target_section is not None for amplifier in found):
        return tuple(found)
    sections = [a.data_section for a in found if a.data_section is not None]
    return _closed_up(found, [replace(section, flip_x=False, flip_y=False) for section in sections])


def _closed_up(amplifiers: Sequence[AmplifierFacts], sections: Sequence[PixelSection]) -> tuple[AmplifierFacts, ...]:
    """Place amplifiers beside each other in the order of their sections, the gaps between these left out."""
    x_at = _without_gaps([(s.x_start, s.x_stop) for s in sections])
    y_at = _without_gaps([(s.y_start, s.y_stop) for s in sections])
    placed = []
    for amplifier, s in zip(amplifiers, sections, strict=True):
        x, y = x_at[s.x_start], y_at[s.y_start]
        target = replace(s, x_start=x, x_stop=x + s.x_stop - s.x_start, y_start=y, y_stop=y + s.y_stop - s.y_start)
        placed.append(replace(amplifier, target_section=target))
    return tuple(placed)


def _without_gaps(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return for the start of each span where it comes to lie when the spans follow each other without gaps."""
    ordered = sorted(dict(spans).items())
    at = {start: 0 for start, _ in ordered[:1]}
    for (start, stop), (following, _) in pairwise(ordered):
        at[following] = at[start] + stop - start
    return at

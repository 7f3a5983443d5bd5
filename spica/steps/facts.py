"""The facts sheet of an exposure: what verification learnt, for every later step; `facts.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from spica.files.checksum import write_atomic
from spica.files.header import HeaderCards
from spica.instruments.base import Instrument
from spica.instruments.facts import AmplifierFacts, DetectorFacts, ExposureFacts, PixelSection
from spica.model.grade import GradeLimits
from spica.model.image import DetectorRecord, ExposureRecord, FrameType, ImageState, PositionSource
from spica.model.record import canonical, from_json

HIGH_IS_BAD = {
    "seeing_arcsec": True,
    "ellipticity": True,
    "background_adu": True,
    "limiting_mag": False,
    "n_stars": False,
}


DETECTION_APERTURES_ARCSEC = (2.0, 3.7, 5.0)
WIDE_APERTURE_PIX = 8.0


def detection_apertures(pixel_scale_arcsec: float) -> tuple[float, ...]:
    """Return the aperture diameters (arcsec) measured on exposures; the widest suits coarse pixels too."""
    return (*DETECTION_APERTURES_ARCSEC, max(8.0, WIDE_APERTURE_PIX * pixel_scale_arcsec))


@dataclass(frozen=True)
class Section:
    """Part of an image, 0-based, half open; flips say that an axis is read backwards."""

    x_start: int
    x_stop: int
    y_start: int
    y_stop: int
    flip_x: bool = False
    flip_y: bool = False


@dataclass(frozen=True)
class AmplifierSheet:
    """One read-out of a detector: where its data and overscan lie, and where it belongs in the detector."""

    hdu: int
    data: Section | None
    overscan: Section | None
    target: Section | None
    gain_e_per_adu: float | None
    read_noise_e: float | None = None
    name: str = ""


@dataclass(frozen=True)
class MapSheet:
    """A unit of the exposure's own file that holds a map of a detector; kind `weight`, `error` or `dq`."""

    kind: str
    hdu: int


@dataclass(frozen=True)
class DetectorSheet:
    """One detector: how to read its pixels, and the first guess of its WCS as header cards (FITS pixels).

    Of a prepared exposure `hdu` is the unit of the detrended file, and there are no sections, amplifiers, planes or
    maps any more.
    """

    index: int
    hdu: int
    name: str
    n_x: int
    n_y: int
    gain_e_per_adu: float | None
    read_noise_e: float | None
    saturation_adu: float | None
    pixel_scale_arcsec: float | None
    has_header_wcs: bool
    wcs_cards: tuple[str, ...]
    data: Section | None
    overscan: Section | None
    amplifiers: tuple[AmplifierSheet, ...]
    maps: tuple[MapSheet, ...] = ()
    planes: str = ""

    @property
    def is_raw(self) -> bool:
        """Whether its pixels are no image of the sky yet: overscan, amplifiers or planes are still in them."""
        return bool(self.overscan or self.amplifiers or self.planes)

    @property
    def cards(self) -> HeaderCards:
        """Return the WCS cards."""
        return HeaderCards(self.wcs_cards)


@dataclass(frozen=True)
class FactsSheet:
    """All that later steps must know of an exposure beyond its pixels."""

    exposure: ExposureRecord
    detectors: tuple[DetectorSheet, ...]
    parity: int
    position_angle_deg: float
    search_radius_arcmin: float
    nominal_zero_point_mag: float | None
    reference_band: str | None
    grade_limits: tuple[GradeLimits, ...]
    dq_bits: int = 0xFFFFFFFF


def make_sheet(item: str, name: str, facts: ExposureFacts, instrument: Instrument) -> FactsSheet:
    """Build the sheet from what the instrument's profile made of the headers."""
    filter_name = facts.filter
    return FactsSheet(
        exposure=_exposure_record(item, name, facts),
        detectors=tuple(_detector_sheet(d) for d in facts.detectors),
        parity=instrument.parity,
        position_angle_deg=instrument.position_angle_deg,
        search_radius_arcmin=instrument.pointing_accuracy_arcmin,
        nominal_zero_point_mag=instrument.zero_point_mag(filter_name),
        reference_band=instrument.reference_band(filter_name),
        grade_limits=grade_limits(instrument, filter_name),
        dq_bits=instrument.dq_bits,
    )


def _exposure_record(item: str, name: str, facts: ExposureFacts) -> ExposureRecord:
    detectors = tuple(_detector_record(d) for d in facts.detectors)
    sources = {d.position_source for d in detectors if d.position_source}
    return ExposureRecord(
        item=item,
        name=name,
        state=ImageState.REGISTERED,
        frame_type=FrameType(facts.frame_type),
        instrument=facts.instrument,
        telescope=facts.telescope,
        object=facts.object,
        object_raw=facts.object_raw,
        filter=facts.filter,
        filter_raw=facts.filter_raw,
        run=facts.run or None,
        night=facts.night or None,
        exptime_s=facts.exptime_s,
        mjd=facts.mjd,
        airmass=facts.airmass,
        ra_deg=facts.ra_deg,
        dec_deg=facts.dec_deg,
        position_source=sources.pop() if len(sources) == 1 else None,
        detectors=detectors,
    )


def _detector_record(d: DetectorFacts) -> DetectorRecord:
    return DetectorRecord(
        index=d.index,
        hdu=d.hdu,
        name=d.name,
        n_x=d.shape[1],
        n_y=d.shape[0],
        gain_e_per_adu=d.gain_e_per_adu,
        read_noise_e=d.read_noise_e,
        saturation_adu=d.saturation_adu,
        pixel_scale_arcsec=d.pixel_scale_arcsec,
        polygon_deg=d.footprint,
        position_source=PositionSource(d.position_source) if d.position_source else None,
    )


def _section(s: PixelSection | None) -> Section | None:
    return None if s is None else Section(s.x_start, s.x_stop, s.y_start, s.y_stop, s.flip_x, s.flip_y)


def _amplifier(a: AmplifierFacts) -> AmplifierSheet:
    return AmplifierSheet(
        hdu=a.hdu,
        data=_section(a.data_section),
        overscan=_section(a.overscan_section),
        target=_section(a.target_section),
        gain_e_per_adu=a.gain_e_per_adu,
        read_noise_e=a.read_noise_e,
        name=a.name,
    )


def _detector_sheet(d: DetectorFacts) -> DetectorSheet:
    d = _single(d)
    return DetectorSheet(
        index=d.index,
        hdu=d.hdu,
        name=d.name,
        n_x=d.shape[1],
        n_y=d.shape[0],
        gain_e_per_adu=d.gain_e_per_adu,
        read_noise_e=d.read_noise_e,
        saturation_adu=d.saturation_adu,
        pixel_scale_arcsec=d.pixel_scale_arcsec,
        has_header_wcs=d.has_header_wcs,
        wcs_cards=d.wcs.cards if d.wcs is not None else (),
        data=_section(d.data_section),
        overscan=_section(d.overscan_section),
        amplifiers=tuple(_amplifier(a) for a in d.amplifiers),
        maps=tuple(MapSheet(m.kind, m.hdu) for m in d.maps),
        planes=d.planes,
    )


def _single(d: DetectorFacts) -> DetectorFacts:
    """Return a detector of one amplifier that only needs a section cut as the plain detector it is."""
    if len(d.amplifiers) != 1:
        return d
    (only,) = d.amplifiers
    part, target = only.data_section, only.target_section
    turned = [s for s in (part, target) if s is not None and (s.flip_x or s.flip_y)]
    if only.overscan_section is not None or turned:
        return d
    if part is not None and (part.y_stop - part.y_start, part.x_stop - part.x_start) != d.shape:
        part = None
    return replace(d, data_section=None if only.shape == d.shape else part, amplifiers=())


def grade_limits(instrument: Instrument, filter_name: str) -> tuple[GradeLimits, ...]:
    """Return the limits of a filter as bands by measure."""
    by_grade = instrument.grade_limits(filter_name)
    limits = []
    for measure, high in HIGH_IS_BAD.items():
        a, b, c = (getattr(by_grade[g], measure) for g in "ABC")
        if any(v is not None for v in (a, b, c)):
            a, b, c = (None if v is None else float(v) for v in (a, b, c))
            limits.append(GradeLimits(measure, a, b, c, high))
    return tuple(limits)


def write_sheet(path: Path, sheet: FactsSheet) -> None:
    """Write `facts.json` whole."""
    write_atomic(path, canonical(sheet).encode())


def read_sheet(path: Path) -> FactsSheet:
    """Read `facts.json`."""
    return from_json(FactsSheet, json.loads(path.read_text(encoding="utf-8")), path.name)

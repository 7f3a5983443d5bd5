"""The facts sheet of an exposure: what verification learnt, for every later step; `facts.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from spica.files.checksum import write_atomic
from spica.files.header import HeaderCards
from spica.instruments.base import AmplifierFacts, DetectorFacts, ExposureFacts, Instrument, PixelSection
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


@dataclass(frozen=True)
class DetectorSheet:
    """One detector: how to read its pixels, and the first guess of its WCS as header cards (FITS pixels)."""

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
        a.hdu, _section(a.data_section), _section(a.overscan_section), _section(a.target_section), a.gain_e_per_adu
    )


def _detector_sheet(d: DetectorFacts) -> DetectorSheet:
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
    )


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

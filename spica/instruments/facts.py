"""What the headers say of an exposure (`ExposureFacts`), its detectors and their amplifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spica.files.header import HeaderCards
from spica.instruments.base import FrameType, MapKind, PositionSource
from spica.model.errors import DataError


@dataclass(frozen=True)
class PixelSection:
    """Part of an image, 0-based and half open; flips say that the header counts an axis backwards."""

    x_start: int
    x_stop: int
    y_start: int
    y_stop: int
    flip_x: bool = False
    flip_y: bool = False

    @property
    def slices(self) -> tuple[slice, slice]:
        """The section as [y, x] slices."""
        return slice(self.y_start, self.y_stop), slice(self.x_start, self.x_stop)


@dataclass(frozen=True)
class AmplifierFacts:
    """One read-out of a detector: header unit, data and overscan in it, place of the data in the detector."""

    hdu: int
    name: str
    shape: tuple[int, int]
    data_section: PixelSection | None
    overscan_section: PixelSection | None
    target_section: PixelSection | None
    gain_e_per_adu: float | None
    read_noise_e: float | None


@dataclass(frozen=True)
class MapFacts:
    """A unit of the same file that holds a map of a detector."""

    kind: MapKind
    hdu: int


@dataclass(frozen=True)
class DetectorFacts:
    """One detector of an exposure.

    Parameters
    ----------
    index : int
        Place in the exposure, from 0.
    hdu : int
        Header unit (of an assembled detector the first amplifier's).
    shape : (int, int)
        (ny, nx) of the sky pixels: of the data section where there is one, of a detector of amplifiers once assembled.
    gain_e_per_adu, read_noise_e, saturation_adu : float or None
        None where nothing says.
    pixel_scale_arcsec : float or None
        Of the header WCS, the header, or the profile.
    wcs : HeaderCards or None
        WCS cards: the header's, or a nominal TAN from pointing and layout, as `position_source` says.
    footprint : tuple of (ra, dec) or None
        Corners in degrees, not closed; None where the position is unknown.
    data_section, overscan_section : PixelSection or None
        None: the whole image is sky, there is no overscan.
    amplifiers : tuple of AmplifierFacts
        What to assemble; empty for detectors that are one unit with at most one overscan.
    maps : tuple of MapFacts
        Maps of this detector in the same file.
    planes : {"", "first", "mean", "sum"}
        How the planes of a cube become one image; empty for plain images.
    """

    index: int
    hdu: int
    name: str
    shape: tuple[int, int]
    gain_e_per_adu: float | None
    read_noise_e: float | None
    saturation_adu: float | None
    pixel_scale_arcsec: float | None
    has_header_wcs: bool
    position_source: PositionSource | None
    wcs: HeaderCards | None
    footprint: tuple[tuple[float, float], ...] | None
    data_section: PixelSection | None = None
    overscan_section: PixelSection | None = None
    amplifiers: tuple[AmplifierFacts, ...] = ()
    maps: tuple[MapFacts, ...] = ()
    planes: str = ""


@dataclass(frozen=True)
class ExposureFacts:
    """What the headers say of one exposure, in the house's units.

    `object` is the raw name without surrounding blanks, or the frame type where there is none (the scheduler normalises
    it); `mjd` is mid-exposure, UTC; `night` the ISO date of the evening; `ra_deg`, `dec_deg` the pointing (None for
    calibration frames without one); `who_said` names for each fact the keyword, `profile` or `default` it came from.
    """

    object: str
    object_raw: str
    filter: str
    filter_raw: str
    run: str
    night: str
    exptime_s: float
    mjd: float
    mjd_start: float
    airmass: float | None
    ra_deg: float | None
    dec_deg: float | None
    instrument: str
    telescope: str
    frame_type: FrameType
    detectors: tuple[DetectorFacts, ...]
    who_said: Mapping[str, str]


@dataclass(frozen=True)
class FactExplanation:
    """For one fact: the value found (None: missing), who said it, and the keywords that were looked for."""

    fact: str
    value: str | None
    who_said: str
    candidates: tuple[str, ...]
    required: bool


class MissingFactError(DataError):
    """A required fact stands in none of the headers; add its keyword to the instrument's profile."""

    def __init__(self, fact: str, instrument: str, keywords: tuple[str, ...], toml: str) -> None:
        """Name the fact, the keywords tried and the lines to add."""
        self.fact, self.instrument, self.keywords, self.toml = fact, instrument, keywords, toml
        tried = f"none of {', '.join(keywords)} gives it" if keywords else "the profile names no keyword for it"
        super().__init__(
            f"no {fact} for instrument {instrument}: {tried}; put its keyword into the profile, for example:\n{toml}",
            fact=fact,
            keywords=keywords,
        )

"""What one simulated exposure is asked to be: pointing, filter, sky, seeing, and what goes wrong with it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from spica.model.errors import RecipeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")


@dataclass(frozen=True)
class FilterModel:
    """One filter in front of the simulated camera.

    Attributes
    ----------
    name : canonical name, also the header's FILTER.
    zero_point_mag : AB magnitude that gives 1 ADU/s above the atmosphere (airmass 0, transparency 1).
    extinction_mag : magnitudes lost per unit of airmass.
    sky_mag_arcsec2 : dark sky as it reaches the camera, AB mag per square arcsec; turned to ADU by `zero_point_mag`.
    colour_slope : magnitude in this filter = r + slope * (g - r) of an object.
    """

    name: str
    zero_point_mag: float
    extinction_mag: float
    sky_mag_arcsec2: float
    colour_slope: float


FILTERS: tuple[FilterModel, ...] = (
    FilterModel("u", 24.80, 0.38, 22.4, 2.30),
    FilterModel("g", 26.20, 0.15, 21.8, 1.00),
    FilterModel("r", 25.90, 0.10, 20.9, 0.00),
    FilterModel("i", 25.60, 0.05, 19.9, -0.45),
    FilterModel("z", 24.70, 0.04, 18.8, -0.65),
)


def find_filter(name: str) -> FilterModel:
    """Return the simulated filter of this name.

    Raises
    ------
    RecipeError : the camera has no such filter; the message lists those it has.
    """
    for known in FILTERS:
        if known.name == name:
            return known
    raise RecipeError(f"the simulated camera has no filter {name!r}; choose from {', '.join(f.name for f in FILTERS)}")


@dataclass(frozen=True)
class SatelliteTrail:
    """A straight trail over the whole focal plane.

    Attributes
    ----------
    angle_deg : direction in the focal plane, from +x towards +y.
    offset_arcsec : signed distance of the line from the optical axis.
    adu_per_arcsec : light along the trail, ADU per arcsec of length; across it has the seeing's width.
    """

    angle_deg: float
    offset_arcsec: float
    adu_per_arcsec: float


@dataclass(frozen=True)
class ExposurePlan:
    """One exposure to simulate.

    Attributes
    ----------
    name : file name without `.fits`.
    object_name, filter_name, run_id : header values OBJECT, FILTER, RUNID.
    ra_deg, dec_deg : centre of the object's field.
    dither_arcsec : (east, north) offset of the true pointing from that centre.
    pointing_error_arcsec : (east, north), header pointing minus true pointing.
    rotation_deg : position angle of the camera's +y axis, north through east.
    exptime_s, mjd, airmass : MJD is that of the start, UTC.
    seeing_arcsec : FWHM of a star (geometric mean of the axes) without defocus and before the pixel.
    moffat_beta : wing exponent, > 2; `ellipticity` is 1 - b/a at `position_angle_deg` from +x towards +y.
    transparency : fraction of light let through beside the airmass term; 0.35 is a cloudy exposure.
    sky_mag_arcsec2 : None takes the filter's dark sky; `sky_gradient` is (x, y) relative change centre to edge.
    defocus_arcsec : outer radius of the out-of-focus ring, 0 is in focus.
    cosmic_rate : cosmic rays per second and 10^6 pixels.
    trails : satellite trails.
    truncated_fraction : keep only this fraction of the file's bytes; None keeps all.
    missing_keyword : name of a primary header keyword left out, e.g. "EXPTIME"; None leaves none out.
    """

    name: str
    object_name: str
    filter_name: str
    ra_deg: float
    dec_deg: float
    dither_arcsec: tuple[float, float] = (0.0, 0.0)
    pointing_error_arcsec: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0
    exptime_s: float = 90.0
    mjd: float = 61000.3
    airmass: float = 1.1
    seeing_arcsec: float = 0.8
    moffat_beta: float = 3.0
    ellipticity: float = 0.0
    position_angle_deg: float = 0.0
    transparency: float = 1.0
    sky_mag_arcsec2: float | None = None
    sky_gradient: tuple[float, float] = (0.01, -0.015)
    defocus_arcsec: float = 0.0
    cosmic_rate: float = 0.1
    trails: tuple[SatelliteTrail, ...] = field(default=())
    truncated_fraction: float | None = None
    missing_keyword: str | None = None
    run_id: str = "26BS01"

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises
        ------
        RecipeError : a value is out of its range; the message names it.
        """
        checks = (
            ("name", _NAME.fullmatch(self.name) is not None, "letters, digits, '_', '-' and '.'"),
            ("object_name", self.object_name.isascii() and self.object_name.isprintable(), "printable ASCII"),
            ("dec_deg", -90.0 <= self.dec_deg <= 90.0, "-90 to 90"),
            ("ra_deg", math.isfinite(self.ra_deg), "a number"),
            ("exptime_s", 0.0 < self.exptime_s <= 1e5, "above 0 s"),
            ("airmass", 1.0 <= self.airmass <= 40.0, "1 or more"),
            ("seeing_arcsec", 0.0 < self.seeing_arcsec <= 30.0, "0 to 30 arcsec"),
            ("moffat_beta", self.moffat_beta > 2.0, "above 2"),
            ("ellipticity", 0.0 <= self.ellipticity < 0.9, "0 to 0.9"),
            ("transparency", 1e-6 <= self.transparency <= 1.5, "1e-6 to 1.5"),
            ("defocus_arcsec", 0.0 <= self.defocus_arcsec <= 60.0, "0 to 60 arcsec"),
            ("truncated_fraction", self.truncated_fraction is None or 0.0 <= self.truncated_fraction < 1.0, "0 to 1"),
        )
        for word, good, wanted in checks:
            if not good:
                raise RecipeError(f"exposure plan: {word} = {getattr(self, word)!r} cannot be simulated; give {wanted}")
        find_filter(self.filter_name)

    @property
    def true_pointing_deg(self) -> tuple[float, float]:
        """Return (ra, dec) of the optical axis in degrees: field centre plus dither."""
        return offset_position(self.ra_deg, self.dec_deg, *self.dither_arcsec)

    @property
    def header_pointing_deg(self) -> tuple[float, float]:
        """Return (ra, dec) in degrees as the header tells them: true pointing plus pointing error."""
        return offset_position(*self.true_pointing_deg, *self.pointing_error_arcsec)

    @property
    def zero_point_mag(self) -> float:
        """Return the AB magnitude of 1 ADU/s in this exposure, airmass and transparency included."""
        model = find_filter(self.filter_name)
        return model.zero_point_mag - model.extinction_mag * self.airmass + 2.5 * math.log10(self.transparency)

    @property
    def epoch_yr(self) -> float:
        """Return the Julian epoch of the start in years."""
        return 2000.0 + (self.mjd - 51544.5) / 365.25


def offset_position(ra_deg: float, dec_deg: float, east_arcsec: float, north_arcsec: float) -> tuple[float, float]:
    """Move a position by an offset in its tangent plane.

    Parameters
    ----------
    ra_deg, dec_deg : position, degrees.
    east_arcsec, north_arcsec : tangent-plane offset, arcsec.

    Returns
    -------
    (ra_deg, dec_deg) : degrees, RA in [0, 360).

    Source: inverse gnomonic projection, Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3.
    """
    xi, eta = math.radians(east_arcsec / 3600.0), math.radians(north_arcsec / 3600.0)
    dec0 = math.radians(dec_deg)
    below = math.cos(dec0) - eta * math.sin(dec0)
    ra = math.radians(ra_deg) + math.atan2(xi, below)
    dec = math.atan2(math.sin(dec0) + eta * math.cos(dec0), math.hypot(xi, below))
    return math.degrees(ra) % 360.0, math.degrees(dec)

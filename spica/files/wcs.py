"""World coordinates from header cards and back: TAN, SIP, TPV, and TAN with PV terms as SCAMP writes it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from spica.files.header import CardValue, HeaderCards, cards_from_text, make_cards
from spica.files.tangent import tangent_wcs
from spica.model.errors import DataError

if TYPE_CHECKING:  # importing astropy.wcs takes longer than most commands that never need it
    from astropy.io import fits
    from astropy.wcs import WCS

_WCS_KEYWORD = re.compile(
    r"(WCSAXES|CTYPE\d|CUNIT\d|CRVAL\d|CRPIX\d|CDELT\d|CROTA\d|CD\d_\d|PC\d+_\d+|PC\d{6}|PV\d_\d+|PS\d_\d+"
    r"|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH|[AB]P?_\d_\d|[AB]P?_ORDER|[AB]_DMAX)\Z"
)
_LINEAR = re.compile(r"(CD\d_\d|PC\d+_\d+|CDELT\d|CRPIX\d|CRVAL\d)\Z")
_MAX_PV = 39


class WcsError(DataError):
    """The header's world coordinates cannot be used; solve the exposure without them."""


def wcs_keyword_cards(cards: HeaderCards) -> HeaderCards:
    """Return only the cards of the primary world coordinate system, without look-up tables and alternates."""
    return make_cards([(c.keyword, c.value, "") for c in cards.parsed(_is_wcs_keyword) if c.value is not None])


@lru_cache(maxsize=4096)
def _is_wcs_keyword(keyword: str) -> bool:
    return _WCS_KEYWORD.match(keyword) is not None


def has_wcs(cards: HeaderCards) -> bool:
    """Whether the header states equatorial axes and reference values; says nothing about their quality."""
    first = str(cards.get("CTYPE1") or "").strip().upper()
    return first[:3] in {"RA", "RA-", "DEC"} and all(k in cards for k in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"))


def _checked_header(cards: HeaderCards) -> fits.Header:
    """Copy the WCS cards to an astropy header; WcsError where a number is none or there are too many PV terms."""
    from astropy.io import fits  # noqa: PLC0415

    header = fits.Header()
    for card in wcs_keyword_cards(cards).parsed():
        value = card.value
        if _LINEAR.match(card.keyword) and (isinstance(value, bool | str | complex) or not np.isfinite(value or 0)):
            raise WcsError(f"{card.keyword} is {value!r}, not a number; solve the exposure without its header WCS")
        if card.keyword.startswith("PV") and int(card.keyword.partition("_")[2]) > _MAX_PV:
            raise WcsError(f"{card.keyword} is beyond the {_MAX_PV + 1} terms of TPV; solve the exposure anew")
        header[card.keyword] = value
    return header


def read_wcs(cards: HeaderCards) -> WCS:
    """Return the celestial WCS (two axes) of a header.

    TAN, SIP, TPV and `RA---TAN` with PV terms (SCAMP) are understood as astropy understands them; distortion look-up
    tables are left out. The astropy object is 0-based with `all_pix2world(x, y, 0)`.

    Raises
    ------
    WcsError
        Where the header has no celestial WCS, its matrix cannot be inverted, its terms contradict each other, or the
        reference point does not come back from the sky within 0.1 pixel.
    """
    from astropy.io.fits import VerifyError  # noqa: PLC0415
    from astropy.wcs import WCS  # noqa: PLC0415

    if not has_wcs(cards):
        raise WcsError("the header has no celestial WCS (CTYPE1, CRVAL, CRPIX); solve the exposure from its pointing")
    header = _checked_header(cards)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wcs = WCS(header, fix=True).celestial
            _check_round_trip(wcs)
    except WcsError:
        raise
    except (ValueError, KeyError, TypeError, MemoryError, IndexError, ArithmeticError, RuntimeError) as trouble:
        reason = " ".join(str(trouble).split())[:160] or type(trouble).__name__
        raise WcsError(f"the header's WCS cannot be read ({reason}); solve the exposure without it") from trouble
    except VerifyError as trouble:
        raise WcsError(f"the header's WCS cards are invalid ({trouble}); repair the header") from trouble
    return wcs


def _check_round_trip(wcs: WCS) -> None:
    scale = np.asarray(wcs.pixel_scale_matrix)
    if scale.shape != (2, 2) or not np.isfinite(scale).all() or abs(np.linalg.det(scale)) < 1e-24:
        raise WcsError("the header's CD matrix cannot be inverted; solve the exposure without its header WCS")
    x0, y0 = np.asarray(wcs.wcs.crpix, float) - 1.0
    ra, dec = wcs.all_pix2world(x0, y0, 0)
    if not (np.isfinite(ra) and np.isfinite(dec) and -90.0 <= float(dec) <= 90.0):
        raise WcsError("the header's reference point is not on the sky; solve the exposure without its header WCS")
    x1, y1 = wcs.all_world2pix(ra, dec, 0)
    if not max(abs(float(x1) - x0), abs(float(y1) - y0)) < 0.1:
        raise WcsError("the header's distortion does not invert at its reference point; solve the exposure anew")


def find_wcs(cards: HeaderCards) -> WCS | None:
    """Return the celestial WCS, or None where the header has none or a broken one."""
    try:
        return read_wcs(cards)
    except WcsError:
        return None


def pixel_scale_arcsec(wcs: WCS) -> float:
    """Return the pixel scale at the reference point, the square root of the pixel's area, in arcsec."""
    return float(np.sqrt(abs(np.linalg.det(np.asarray(wcs.pixel_scale_matrix))))) * 3600.0


def parity(wcs: WCS) -> int:
    """Return +1 where the sky is seen directly (north up, east left), -1 where the image is mirrored."""
    matrix = np.asarray(wcs.pixel_scale_matrix)
    swapped = int(wcs.wcs.lng) == 1
    return 1 if (np.linalg.det(matrix) < 0) != swapped else -1


def footprint_polygon(wcs: WCS, shape: tuple[int, int], points_per_side: int = 1) -> np.ndarray:
    """Return the sky polygon of the outer pixel edges.

    Parameters
    ----------
    wcs : WCS
        Celestial WCS.
    shape : (int, int)
        (ny, nx) of the image.
    points_per_side : int
        Points a side; more than 1 where the distortion bends the edges.

    Returns
    -------
    ndarray, shape (4 * points_per_side, 2)
        RA in [0, 360) and Dec in degrees, in the order of the pixels (0,0), (nx,0), (nx,ny), (0,ny), not closed. A
        polygon across RA 0 jumps from near 360 to near 0.

    Raises
    ------
    WcsError
        Where an edge point is not on the sky.
    """
    ny, nx = shape
    t = np.arange(points_per_side) / points_per_side
    zero, one = np.zeros_like(t), np.ones_like(t)
    x = np.concatenate([t, one, 1 - t, zero]) * nx - 0.5
    y = np.concatenate([zero, t, one, 1 - t]) * ny - 0.5
    sky = np.column_stack(sky_of_pixels(wcs, x, y))
    if not np.isfinite(sky).all():
        raise WcsError("an edge of the image lies outside the projected sky; solve the exposure without its header WCS")
    return sky


@dataclass(frozen=True)
class SkyPlace:
    """Where an image lies: (RA, Dec) of its outer corners, as `footprint_polygon`; pixel scale, and both its sides."""

    polygon_deg: tuple[tuple[float, float], ...]
    pixel_scale_arcsec: float
    sides_arcsec: tuple[float, float]


def place_on_sky(cards: HeaderCards, shape: tuple[int, int]) -> SkyPlace:
    """Return the place of an image (ny, nx) with these WCS cards (`wcs_keyword_cards`), 0.05 ms where they are plain.

    Raises
    ------
    WcsError
        As `read_wcs` and `footprint_polygon`, which look at all that is not plain.
    """
    plain = tangent_wcs(cards)
    if plain is not None:
        return SkyPlace(plain.corners(shape), plain.pixel_scale_arcsec, plain.sides_arcsec)
    wcs = read_wcs(cards)
    corners = footprint_polygon(wcs, shape)
    x_side, y_side = np.hypot(*np.asarray(wcs.pixel_scale_matrix, dtype=float)) * 3600.0
    polygon = tuple((float(ra), float(dec)) for ra, dec in corners)
    return SkyPlace(polygon, pixel_scale_arcsec(wcs), (float(x_side), float(y_side)))


def sky_of_pixels(wcs: WCS, x_pix: ArrayLike, y_pix: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension (0 to 360) and declination in degrees of 0-based pixels, whichever axis comes first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = wcs.all_pix2world(x_pix, y_pix, 0)
    ra, dec = (second, first) if int(wcs.wcs.lng) == 1 else (first, second)
    return np.asarray(ra, float) % 360.0, np.asarray(dec, float)


def wcs_cards(wcs: WCS) -> HeaderCards:
    """Return header cards of a WCS (SIP and TPV terms included), as astropy writes them, 1-based as FITS wants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = wcs.to_header(relax=True).tostring(sep="", endcard=False, padding=False)
    return cards_from_text(text).without(["DATE-OBS", "MJD-OBS", "MJDREF", "MJDREFI", "MJDREFF", "DATEREF"])


def tan_cards(
    ra_deg: float,
    dec_deg: float,
    x_pix: float,
    y_pix: float,
    cd_deg: np.ndarray,
    pv1: Sequence[float] = (),
    pv2: Sequence[float] = (),
) -> HeaderCards:
    """Return the cards of a tangent-plane WCS; with PV terms `RA---TPV`, else `RA---TAN`.

    Parameters
    ----------
    ra_deg, dec_deg : float
        Tangent point, degrees, ICRS.
    x_pix, y_pix : float
        Its 0-based pixel (written 1-based).
    cd_deg : ndarray, shape (2, 2)
        Degrees a pixel: [[dxi/dx, dxi/dy], [deta/dx, deta/dy]], xi to the east.
    pv1, pv2 : sequence of float
        PV1_0... and PV2_0... of the TPV convention; terms that are exactly 0 are left out, except the first three.
    """
    kind = "TPV" if len(pv1) or len(pv2) else "TAN"
    items: list[tuple[str, CardValue, str]] = [
        ("EQUINOX", 2000.0, "mean equinox"),
        ("RADESYS", "ICRS", "astrometric system"),
        ("CTYPE1", f"RA---{kind}", "projection of axis 1"),
        ("CTYPE2", f"DEC--{kind}", "projection of axis 2"),
        ("CUNIT1", "deg", "unit of axis 1"),
        ("CUNIT2", "deg", "unit of axis 2"),
        ("CRVAL1", float(ra_deg), "RA of the reference point"),
        ("CRVAL2", float(dec_deg), "Dec of the reference point"),
        ("CRPIX1", to_fits_pixel(float(x_pix)), "reference pixel on axis 1"),
        ("CRPIX2", to_fits_pixel(float(y_pix)), "reference pixel on axis 2"),
    ]
    items += [(f"CD{i + 1}_{j + 1}", float(cd_deg[i][j]), "degrees a pixel") for i in range(2) for j in range(2)]
    for axis, terms in ((1, pv1), (2, pv2)):
        items += [
            (f"PV{axis}_{k}", float(term), "projection distortion")
            for k, term in enumerate(terms)
            if term != 0 or k < 3
        ]
    return make_cards(items)


def to_fits_pixel(position_pix: float) -> float:
    """Turn a 0-based pixel position into the 1-based one of FITS."""
    return position_pix + 1.0


def from_fits_pixel(position_pix: float) -> float:
    """Turn a 1-based pixel position of FITS into the 0-based one of the house."""
    return position_pix - 1.0

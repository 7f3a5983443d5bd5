"""Tangent-plane coordinates in a few lines of arithmetic: TAN, TPV and SIP as nearly every camera writes them.

Reading one header through astropy takes milliseconds, and a mosaic has forty. What is plain enough is projected here;
whatever is unusual is left to `spica.files.wcs.read_wcs`, and so are all judgements on broken headers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from spica.files.header import CardValue, HeaderCards

_POINT = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
_CD = ("CD1_1", "CD1_2", "CD2_1", "CD2_2")
_PC = ("PC1_1", "PC1_2", "PC2_1", "PC2_2")
_CDELT = ("CDELT1", "CDELT2")
_LINEAR = frozenset(_POINT + _CD + _PC + _CDELT)
_KINDS = {("RA---TAN", "DEC--TAN"): "TAN", ("RA---TPV", "DEC--TPV"): "TPV", ("RA---TAN-SIP", "DEC--TAN-SIP"): "SIP"}
_HARMLESS = frozenset({"WCSAXES", "CTYPE1", "CTYPE2", "CUNIT1", "CUNIT2", "LONPOLE", "LATPOLE"})
_FRAMES = frozenset({"RADESYS", "RADECSYS", "EQUINOX", "EPOCH"})
_PV = re.compile(r"PV([12])_(\d\d?)\Z")
_SIP = re.compile(r"([AB])(P?)_(\d)_(\d)\Z")
_SIP_WORD = re.compile(r"[AB](P?_ORDER|_DMAX)\Z")

Term = tuple[int, int, int, float]
"""A term c * x**i * y**j * r**k as (i, j, k, c)."""


def _tpv_powers() -> tuple[tuple[int, int, int], ...]:
    """Return the powers of (x, y, r) of the terms PVi_0 ... PVi_39 of axis 1; axis 2 swaps x and y."""
    powers = [(0, 0, 0)]
    for order in range(1, 8):
        powers += [(order - j, j, 0) for j in range(order + 1)]
        if order % 2:
            powers.append((0, 0, order))
    return tuple(powers)


TPV_POWERS = _tpv_powers()


@dataclass(frozen=True)
class TangentWcs:
    """A tangent-plane projection with polynomial distortion.

    Parameters
    ----------
    x_pix, y_pix : float
        0-based pixel of the reference point.
    ra_deg, dec_deg : float
        The reference point, in the frame that the header names.
    cd_deg : tuple of float
        CD1_1, CD1_2, CD2_1, CD2_2, degrees a pixel.
    sip_x, sip_y : tuple of Term
        SIP: pixels added to the offsets from the reference pixel.
    tpv_xi, tpv_eta : tuple of Term
        TPV: projected coordinates (degrees) as polynomials of the linear ones; empty: none.
    """

    x_pix: float
    y_pix: float
    ra_deg: float
    dec_deg: float
    cd_deg: tuple[float, float, float, float]
    sip_x: tuple[Term, ...] = ()
    sip_y: tuple[Term, ...] = ()
    tpv_xi: tuple[Term, ...] = ()
    tpv_eta: tuple[Term, ...] = ()

    @property
    def pixel_scale_arcsec(self) -> float:
        """Square root of the pixel's area at the reference point, arcsec."""
        a, b, c, d = self.cd_deg
        return math.sqrt(abs(a * d - b * c)) * 3600.0

    @property
    def sides_arcsec(self) -> tuple[float, float]:
        """Steps on the sky of one pixel along x and along y at the reference point, arcsec."""
        a, b, c, d = self.cd_deg
        return math.hypot(a, c) * 3600.0, math.hypot(b, d) * 3600.0

    def sky_of(self, x_pix: float, y_pix: float) -> tuple[float, float]:
        """Return RA in [0, 360) and Dec, degrees, of a 0-based pixel position.

        With (xi, eta) on the plane that touches the sphere at (a0, d0): tan(a - a0) = xi / (cos d0 - eta sin d0) and
        tan d = (sin d0 + eta cos d0) / hypot(xi, cos d0 - eta sin d0) (own derivation: the unit vector of the point).
        """
        u, v = x_pix - self.x_pix, y_pix - self.y_pix
        if self.sip_x or self.sip_y:
            u, v = u + _sum(self.sip_x, u, v), v + _sum(self.sip_y, u, v)
        a, b, c, d = self.cd_deg
        xi, eta = a * u + b * v, c * u + d * v
        if self.tpv_xi:
            xi, eta = _sum(self.tpv_xi, xi, eta), _sum(self.tpv_eta, xi, eta)
        xi, eta = math.radians(xi), math.radians(eta)
        sin0, cos0 = math.sin(math.radians(self.dec_deg)), math.cos(math.radians(self.dec_deg))
        along = cos0 - eta * sin0
        ra = (self.ra_deg + math.degrees(math.atan2(xi, along))) % 360.0
        dec = math.degrees(math.atan2(sin0 + eta * cos0, math.hypot(xi, along)))
        return (0.0 if ra >= 360.0 else ra), dec

    def corners(self, shape: tuple[int, int]) -> tuple[tuple[float, float], ...]:
        """Return (RA, Dec) of the outer corners of an image (ny, nx): pixels (0,0), (nx,0), (nx,ny), (0,ny)."""
        top, right = shape[0] - 0.5, shape[1] - 0.5
        return tuple(self.sky_of(x, y) for x, y in ((-0.5, -0.5), (right, -0.5), (right, top), (-0.5, top)))


def _sum(terms: tuple[Term, ...], x: float, y: float) -> float:
    total = 0.0
    for i, j, k, c in terms:
        total += c * math.hypot(x, y) ** k if k else c * x**i * y**j
    return total


def tangent_wcs(cards: HeaderCards) -> TangentWcs | None:
    """Return the projection that WCS cards (`wcs_keyword_cards`) describe; None where astropy has to look at them.

    None for another projection or axis order, units other than degrees, rotation by CROTA, turned poles, repeated
    keywords, values that are no numbers, singular matrices, distortions that shift the reference point or are large,
    and any keyword not known here. TAN with PV terms is left to astropy too.
    """
    values = dict(cards)
    kind = _KINDS.get((_text(values, "CTYPE1"), _text(values, "CTYPE2")))
    if kind is None or len(values) != len(cards.text) // 80 or not _plain(values):
        return None
    others = values.keys() - _HARMLESS - _FRAMES - _LINEAR
    numbers = {key: _number(value) for key, value in values.items() if key in others or key in _LINEAR}
    matrix = _matrix(numbers)
    if matrix is None or not all(math.isfinite(number) for number in numbers.values()):
        return None
    ra, dec, x, y = (numbers[key] for key in _POINT)
    a, b, c, d = matrix
    size = a * a + b * b + c * c + d * d
    if not abs(ra) <= 720.0 or not abs(dec) < 89.999999 or not 1e-18 < size < 1.0 or abs(a * d - b * c) < 1e-3 * size:
        return None
    linear = (x - 1.0, y - 1.0, ra, dec, matrix)
    if kind == "TAN":
        return None if others else TangentWcs(*linear)
    terms = {key: numbers[key] for key in others}
    found = _tpv_terms(terms) if kind == "TPV" else _sip_terms(terms)
    if found is None:
        return None
    return TangentWcs(*linear, (), (), *found) if kind == "TPV" else TangentWcs(*linear, *found)


def _matrix(numbers: Mapping[str, float]) -> tuple[float, float, float, float] | None:
    """Return the CD matrix, where there is none that of PC and CDELT; None where both or neither stand there."""
    if any(key in numbers for key in _CD):
        a, b, c, d = (numbers.get(key, 0.0) for key in _CD)
        return None if any(key in numbers for key in _PC) else (a, b, c, d)
    if not all(key in numbers for key in _CDELT):
        return None
    a, b, c, d = (numbers.get(key, unit) for key, unit in zip(_PC, (1.0, 0.0, 0.0, 1.0), strict=True))
    return numbers["CDELT1"] * a, numbers["CDELT1"] * b, numbers["CDELT2"] * c, numbers["CDELT2"] * d


def _text(values: Mapping[str, CardValue], keyword: str) -> str:
    value = values.get(keyword)
    return value.strip() if isinstance(value, str) else ""


def _number(value: CardValue) -> float:
    """Return a number as a float, NaN for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _plain(values: Mapping[str, CardValue]) -> bool:
    """Whether the reference point is there, and units, poles and frame are as everybody writes them."""
    return (
        all(key in values for key in _POINT)
        and all(_text(values, key) == "deg" for key in ("CUNIT1", "CUNIT2") if key in values)
        and values.get("WCSAXES", 2) == 2
        and _number(values.get("LONPOLE", 180.0)) == 180.0
        and abs(_number(values.get("LATPOLE", 0.0))) <= 90.0
        and all(math.isfinite(_number(values[key])) for key in ("EQUINOX", "EPOCH") if key in values)
        and all(isinstance(values[key], str) for key in ("RADESYS", "RADECSYS") if key in values)
    )


def _tpv_terms(terms: Mapping[str, float]) -> tuple[tuple[Term, ...], tuple[Term, ...]] | None:
    """Return the terms of both axes; None where they are not a small change of the plane."""
    axes: tuple[list[Term], list[Term]] = ([], [])
    if not {"PV1_1", "PV2_1"} <= terms.keys():
        return None
    for keyword, value in terms.items():
        found = _PV.match(keyword)
        if found is None or int(found.group(2)) >= len(TPV_POWERS):
            return None
        axis, number = int(found.group(1)) - 1, int(found.group(2))
        i, j, k = TPV_POWERS[number]
        size = abs(value - 1.0 if number == 1 else value)
        if size * 0.1 ** (i + j + k) > 0.02:
            return None
        if value:
            axes[axis].append((i, j, k, value) if axis == 0 else (j, i, k, value))
    return tuple(axes[0]), tuple(axes[1])


def _sip_terms(terms: Mapping[str, float]) -> tuple[tuple[Term, ...], tuple[Term, ...]] | None:
    """Return the forward terms of both axes; None where orders are missing or the reference pixel is moved."""
    orders = {letter: terms.get(f"{letter}_ORDER", math.nan) for letter in "AB"}
    if not all(order in range(1, 10) for order in orders.values()) or ("AP_ORDER" in terms) != ("BP_ORDER" in terms):
        return None
    axes: dict[str, list[Term]] = {"A": [], "B": []}
    for keyword, value in terms.items():
        found = _SIP.match(keyword)
        if found is None:
            if _SIP_WORD.match(keyword) is None:
                return None
            continue
        letter, inverse, i, j = found.group(1), found.group(2), int(found.group(3)), int(found.group(4))
        if inverse or i + j > orders[letter]:
            continue
        if i + j < 2 and value:
            return None
        axes[letter].append((i, j, 0, value))
    return tuple(axes["A"]), tuple(axes["B"])

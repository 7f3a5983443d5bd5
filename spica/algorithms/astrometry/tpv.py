"""The TPV convention: a linear map, a polynomial of the tangent plane, a gnomonic projection.

xi = PV1_0 + PV1_1 x + PV1_2 y + PV1_3 r + PV1_4 x^2 + ... with (x, y) = CD (pixel - CRPIX), and eta the same with x
and y exchanged (Calabretta et al. 2004 draft; the TPV registration of 2012). Radial terms are not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spica.algorithms.skymap import tangent_deproject, tangent_project

Floats = NDArray[np.float64]

PV_COUNT = 17
PV_POWERS: dict[int, tuple[int, int]] = {
    0: (0, 0), 1: (1, 0), 2: (0, 1), 4: (2, 0), 5: (1, 1), 6: (0, 2), 7: (3, 0), 8: (2, 1), 9: (1, 2), 10: (0, 3),
    12: (4, 0), 13: (3, 1), 14: (2, 2), 15: (1, 3), 16: (0, 4),
}  # fmt: skip
MAX_DEGREE = 4


@dataclass(frozen=True)
class DetectorSolution:
    """World coordinates of one detector of one exposure.

    `crpix_*_pix` is 0-based (a FITS header holds it plus 1); `pv1`, `pv2` are (17,) float64, index = PV number,
    degrees; numbers 3 and 11 (radial) are 0.
    """

    exposure: str
    instrument: str
    detector: int
    width_pix: int
    height_pix: int
    crval_ra_deg: float
    crval_dec_deg: float
    crpix_x_pix: float
    crpix_y_pix: float
    cd_deg_per_pix: Floats
    pv1: Floats
    pv2: Floats


def monomials(degree: int) -> list[tuple[int, int]]:
    """Return the powers (i, j) of x^i y^j up to a degree, constants first, then by order."""
    return [(order - j, j) for order in range(degree + 1) for j in range(order + 1)]


def _plane(solution: DetectorSolution, x: Floats, y: Floats, slope: bool) -> tuple[Floats, Floats, Floats]:
    """Return xi, eta and, if asked, their Jacobian (..., 2, 2) with respect to (x, y) of the linear map."""
    xi, eta = np.zeros_like(x), np.zeros_like(x)
    jacobian = np.zeros((*x.shape, 2, 2)) if slope else np.zeros(0)
    for index, (i, j) in PV_POWERS.items():
        a, b = float(solution.pv1[index]), float(solution.pv2[index])
        if a == 0.0 and b == 0.0:
            continue
        xi += a * x**i * y**j
        eta += b * y**i * x**j
        if slope:
            jacobian[..., 0, 0] += a * i * x ** max(i - 1, 0) * y**j
            jacobian[..., 0, 1] += a * j * x**i * y ** max(j - 1, 0)
            jacobian[..., 1, 0] += b * j * y**i * x ** max(j - 1, 0)
            jacobian[..., 1, 1] += b * i * y ** max(i - 1, 0) * x**j
    return xi, eta, jacobian


def pixel_to_sky(solution: DetectorSolution, x_pix: ArrayLike, y_pix: ArrayLike) -> tuple[Floats, Floats]:
    """Return right ascension and declination in degrees of 0-based pixel positions."""
    dx = np.asarray(x_pix, dtype=np.float64) - solution.crpix_x_pix
    dy = np.asarray(y_pix, dtype=np.float64) - solution.crpix_y_pix
    cd = solution.cd_deg_per_pix
    xi, eta, _ = _plane(solution, cd[0, 0] * dx + cd[0, 1] * dy, cd[1, 0] * dx + cd[1, 1] * dy, False)
    return tangent_deproject(xi, eta, solution.crval_ra_deg, solution.crval_dec_deg)


def sky_to_pixel(solution: DetectorSolution, ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[Floats, Floats]:
    """Return 0-based pixel positions of directions (Newton's method on the polynomial).

    NaN where the direction is on the far hemisphere or the polynomial cannot be inverted there.
    """
    xi, eta = tangent_project(ra_deg, dec_deg, solution.crval_ra_deg, solution.crval_dec_deg)
    xi, eta = np.asarray(xi), np.asarray(eta)
    linear = np.array([[solution.pv1[1], solution.pv1[2]], [solution.pv2[2], solution.pv2[1]]])
    start = np.linalg.solve(linear, np.stack([xi - solution.pv1[0], eta - solution.pv2[0]]).reshape(2, -1))
    x, y = start[0].reshape(xi.shape).copy(), start[1].reshape(xi.shape).copy()
    miss = np.full(xi.shape, np.inf)
    for _ in range(20):
        with np.errstate(all="ignore"):
            at_xi, at_eta, slope = _plane(solution, x, y, True)
            r_xi, r_eta = xi - at_xi, eta - at_eta
            determinant = slope[..., 0, 0] * slope[..., 1, 1] - slope[..., 0, 1] * slope[..., 1, 0]
            x = x + (slope[..., 1, 1] * r_xi - slope[..., 0, 1] * r_eta) / determinant
            y = y + (slope[..., 0, 0] * r_eta - slope[..., 1, 0] * r_xi) / determinant
            miss = np.hypot(r_xi, r_eta)
        if not np.any(miss > 1e-14):
            break
    good = miss < 1e-9
    inverse = np.linalg.inv(solution.cd_deg_per_pix)
    px = inverse[0, 0] * x + inverse[0, 1] * y + solution.crpix_x_pix
    py = inverse[1, 0] * x + inverse[1, 1] * y + solution.crpix_y_pix
    return np.where(good, px, np.nan), np.where(good, py, np.nan)


def tpv_cards(solution: DetectorSolution, *, one_based: bool = True) -> list[tuple[str, str | float]]:
    """Return the header cards of a solution.

    `one_based` True (a FITS header) adds 1 to CRPIX; False leaves it 0-based for a writer that adds it itself.
    Every PV of degree 0 and 1 is written, the rest where it is not 0.
    """
    shift = 1.0 if one_based else 0.0
    cd = solution.cd_deg_per_pix
    cards: list[tuple[str, str | float]] = [
        ("EQUINOX", 2000.0), ("RADESYS", "ICRS"), ("CTYPE1", "RA---TPV"), ("CTYPE2", "DEC--TPV"),
        ("CUNIT1", "deg"), ("CUNIT2", "deg"),
        ("CRVAL1", solution.crval_ra_deg), ("CRVAL2", solution.crval_dec_deg),
        ("CRPIX1", solution.crpix_x_pix + shift), ("CRPIX2", solution.crpix_y_pix + shift),
        ("CD1_1", float(cd[0, 0])), ("CD1_2", float(cd[0, 1])),
        ("CD2_1", float(cd[1, 0])), ("CD2_2", float(cd[1, 1])),
    ]  # fmt: skip
    for axis, values in ((1, solution.pv1), (2, solution.pv2)):
        for index in PV_POWERS:
            if index <= 2 or values[index] != 0.0:
                cards.append((f"PV{axis}_{index}", float(values[index])))
    return cards


def linear_and_polynomial(
    coefficients_deg: Floats, degree: int, centre_pix: tuple[float, float], half_size_pix: float
) -> tuple[Floats, tuple[float, float], Floats, Floats]:
    """Rewrite a polynomial of pixels as CD, CRPIX (0-based) and PV coefficients, exactly.

    Parameters
    ----------
    coefficients_deg : (n_terms, 2) of xi, eta on `monomials(degree)` in q = (pixel - centre) / half size.

    The linear map is tangent to the polynomial at the centre, x = L (pixel - crpix) with x(centre) = xi(centre), so
    q = L^-1 (x - xi0) / s is linear in x and substitution gives the polynomial in x (own derivation).
    """
    if degree > MAX_DEGREE:
        raise ValueError(f"degree {degree} exceeds {MAX_DEGREE}, the highest written as TPV; ask for a lower one")
    middle = coefficients_deg[0]
    linear = np.array([[coefficients_deg[1, 0], coefficients_deg[2, 0]],
                       [coefficients_deg[1, 1], coefficients_deg[2, 1]]]) / half_size_pix  # fmt: skip
    inverse = np.linalg.inv(linear)
    crpix = np.asarray(centre_pix) - inverse @ middle
    slope = inverse / half_size_pix
    constant = -slope @ middle
    size = degree + 1
    powers = {(0, 0): _unit(size)}
    plane = np.zeros((2, size, size))
    for term, (i, j) in enumerate(monomials(degree)):
        if (i, j) != (0, 0):
            low, axis = ((i - 1, j), 0) if i else ((i, j - 1), 1)
            powers[(i, j)] = _times_line(powers[low], constant[axis], slope[axis])
        plane += coefficients_deg[term][:, None, None] * powers[(i, j)]
    pv1, pv2 = np.zeros(PV_COUNT), np.zeros(PV_COUNT)
    for index, (i, j) in PV_POWERS.items():
        if i + j <= degree:
            pv1[index], pv2[index] = plane[0, i, j], plane[1, j, i]
    return linear, (float(crpix[0]), float(crpix[1])), pv1, pv2


def _unit(size: int) -> Floats:
    one = np.zeros((size, size))
    one[0, 0] = 1.0
    return one


def _times_line(polynomial: Floats, constant: float, slope: Floats) -> Floats:
    """Multiply a polynomial (power of x, power of y) by constant + slope . (x, y); the top orders never overflow."""
    product = constant * polynomial
    product[1:, :] += slope[0] * polynomial[:-1, :]
    product[:, 1:] += slope[1] * polynomial[:, :-1]
    return product

"""SCAMP's headers as solutions of detectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spica.algorithms.astrometry import DetectorSolution, pixel_to_sky, tpv_cards
from spica.astromatic.solve import centred, read_solutions
from spica.files.head import write_head
from spica.files.header import make_cards
from spica.files.wcs import read_wcs
from spica.model.errors import DataError

PV1, PV2 = np.zeros(17), np.zeros(17)
PV1[[0, 1, 2, 4, 5, 7, 9]] = 1e-4, 1.001, -0.002, 0.07, 0.03, 4.5, -2.0
PV2[[0, 1, 2, 4, 6, 8, 10]] = -2e-5, 0.999, 0.003, -0.17, -0.03, 1.5, 3.0
SCAMP_LIKE = DetectorSolution(
    "e", "i", 0, 320, 400, 359.99, -45.0, 900.0, -700.0, np.array([[-8.3e-5, 1e-7], [1e-7, 8.4e-5]]), PV1, PV2
)


def _cards(solution, kind="TAN"):
    items = [(k, f"{v[:5]}{kind}" if k.startswith("CTYPE") else v, "") for k, v in tpv_cards(solution)]
    return make_cards([*items, ("FLXSCALE", 3.0, ""), ("MAGZEROP", 9.0, "")])


def test_a_head_of_scamp_is_read_as_astropy_reads_it(tmp_path):
    """`RA---TAN` with PV terms: the same sky as astropy's to a micro-arcsecond, straddling right ascension 0."""
    write_head(tmp_path / "a.head", [_cards(SCAMP_LIKE)])
    (solution,) = read_solutions(tmp_path / "a.head", "e", "i", [(400, 320)])
    x, y = np.meshgrid(np.linspace(0, 319, 6), np.linspace(0, 399, 6))
    ra, dec = pixel_to_sky(solution, x, y)
    ra0, dec0 = read_wcs(_cards(SCAMP_LIKE)).all_pix2world(x, y, 0)
    assert np.abs((ra - ra0 + 180) % 360 - 180).max() < 1e-9
    assert np.abs(dec - dec0).max() < 1e-9


def test_the_linear_part_tells_the_pixel_scale_of_the_detector():
    """Centred: the same map, its CD matrix the derivative at the centre, by differences."""
    new = centred(SCAMP_LIKE)
    x, y = np.array([159.5, 160.5, 159.5]), np.array([199.5, 199.5, 200.5])
    ra, dec = pixel_to_sky(new, x, y)
    assert np.allclose(np.stack((ra, dec)), np.stack(pixel_to_sky(SCAMP_LIKE, x, y)), rtol=0, atol=1e-11)
    area = np.linalg.det([[(ra[1] - ra[0]) * np.cos(np.radians(dec[0])), (ra[2] - ra[0]) * np.cos(np.radians(dec[0]))],
                          [dec[1] - dec[0], dec[2] - dec[0]]])  # fmt: skip
    assert np.linalg.det(new.cd_deg_per_pix) == pytest.approx(area, rel=1e-3)
    assert abs(np.linalg.det(SCAMP_LIKE.cd_deg_per_pix) / area - 1) > 0.005


def test_heads_that_cannot_be_meant_are_refused(tmp_path):
    """Too few detectors, another projection, a coefficient that is no number, an unknown radial term."""
    path = tmp_path / "a.head"
    write_head(path, [_cards(SCAMP_LIKE)])
    with pytest.raises(DataError, match="1 detectors of 2"):
        read_solutions(path, "e", "i", [(400, 320)] * 2)
    write_head(path, [_cards(SCAMP_LIKE, "ZEA")])
    with pytest.raises(DataError, match="where TAN or TPV"):
        read_solutions(path, "e", "i", [(400, 320)])
    write_head(path, [_cards(SCAMP_LIKE).without(["CRVAL1"])])
    with pytest.raises(DataError, match="CRVAL1 = None"):
        read_solutions(path, "e", "i", [(400, 320)])
    radial = make_cards([("PV1_3", 0.1, "")])
    write_head(path, [_cards(replace(SCAMP_LIKE)).with_cards(radial.cards)])
    with pytest.raises(DataError, match="PV1_3"):
        read_solutions(path, "e", "i", [(400, 320)])

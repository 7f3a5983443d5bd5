"""Fetching from archives: an answer, an empty answer and no answer look different."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from astropy.table import Table

from spica.model.errors import DataError, RecipeError, TransientError
from spica.reference.archive import fetch_reference

# Two stars in the form VizieR gives Gaia DR3.
RECORDED = Table(
    {
        "RA_ICRS": [56.75, 56.76],
        "DE_ICRS": [24.12, 24.11],
        "e_RA_ICRS": [0.031, 0.04],
        "e_DE_ICRS": [0.02, 0.03],
        "pmRA": [20.1, np.nan],
        "pmDE": [-45.3, np.nan],
        "Gmag": [11.2, 18.4],
        "e_Gmag": [0.002, 0.004],
        "BPmag": [11.5, 18.9],
        "e_BPmag": [0.003, 0.02],
        "RPmag": [10.7, 17.8],
        "e_RPmag": [0.003, 0.01],
    },
    units={"RA_ICRS": "deg", "DE_ICRS": "deg", "e_RA_ICRS": "mas", "e_DE_ICRS": "mas"},
)


def test_an_answer_becomes_a_catalogue():
    """Bands, system, epoch and units are those of the archive; rows come by declination."""
    asked = []

    def query(archive, *cone):
        asked.append((archive.vizier, cone))
        return RECORDED

    stars = fetch_reference(56.75, 24.12, 0.2, query=query)
    assert asked == [("I/355/gaiadr3", (56.75, 24.12, 0.2))]
    assert (stars.bands, stars.mag_system, stars.source) == (("G", "BP", "RP"), "Vega", "gaia")
    np.testing.assert_array_equal(stars.dec_deg, [24.11, 24.12])
    np.testing.assert_array_equal(stars.err_ra_mas, [0.04, 0.031])
    assert (stars.epoch_yr == 2016.0).all()
    assert stars.mag_errors["G"][1] == 0.002


@pytest.mark.parametrize("nothing", [None, RECORDED[:0]])
def test_nothing_there_is_an_answer(nothing):
    with pytest.raises(DataError, match="archive answered: gaia has no star"):
        fetch_reference(1.0, 2.0, 0.1, query=lambda *_: nothing)


@pytest.mark.parametrize("trouble", [ConnectionError("no route"), TimeoutError("60 s"), EOFError("cut")])
def test_no_answer_says_try_again(trouble):
    def query(*_):
        raise trouble

    with pytest.raises(TransientError, match=r"not reached .* try again later, or add a file"):
        fetch_reference(1.0, 2.0, 0.1, query=query)


def test_impossible_questions_are_refused_before_asking():
    with pytest.raises(RecipeError, match="choose from gaia, ps1"):
        fetch_reference(1.0, 2.0, 0.1, catalogue="usno")
    with pytest.raises(RecipeError, match="radius up to 5"):
        fetch_reference(1.0, 2.0, 50.0)


def test_without_astroquery_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "astroquery.vizier", None)
    with pytest.raises(RecipeError, match="install it"):
        fetch_reference(1.0, 2.0, 0.1)

"""The comparison with truth: numbers that a person can check by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from spica.scheduling.truth import clipped_rms, isolated, true_limit, true_seeing


def test_clipped_rms_of_a_gaussian_with_outliers() -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(0, 2.0, 4000), np.full(40, 300.0)])
    assert clipped_rms(values) == pytest.approx(2.0, rel=0.04)
    assert math.isnan(clipped_rms(np.empty(0)))


def test_isolated_means_no_comparable_neighbour() -> None:
    step = 3.0 / 3600.0
    ra = np.array([10.0, 10.0 + step, 10.5, 10.5 + step, 11.0])
    dec = np.zeros(5)
    mag = np.array([18.0, 19.0, 18.0, 23.5, 17.0])
    assert isolated(ra, dec, mag).tolist() == [False, False, True, False, True]


def test_seeing_of_a_stack_lies_between_its_inputs_and_leans_to_the_heavier() -> None:
    def mixed(*shares: float) -> float:
        plans = [SimpleNamespace(seeing_arcsec=s, moffat_beta=3.0) for s in (0.6, 1.0)]
        return true_seeing([(SimpleNamespace(plan=p), w, 1.0) for p, w in zip(plans, shares, strict=True)])

    assert mixed(1.0, 0.0) == pytest.approx(0.6, rel=1e-3)
    assert mixed(0.0, 1.0) == pytest.approx(1.0, rel=1e-3)
    assert 0.6 < mixed(0.75, 0.25) < mixed(0.5, 0.5) < mixed(0.25, 0.75) < 1.0


def test_four_equal_exposures_reach_three_quarters_of_a_magnitude_deeper() -> None:
    camera = SimpleNamespace(gain_e_per_adu=(1.5,), read_noise_e=4.0, pixel_scale_arcsec=0.3)
    plan = SimpleNamespace(exptime_s=90.0)
    exposure = SimpleNamespace(plan=plan, sky_adu=400.0, zero_point_mag=25.5)
    truth = SimpleNamespace(camera=camera)
    one, four = (true_limit([(exposure, 1.0, 1.0)] * n, truth) for n in (1, 4))
    assert four - one == pytest.approx(2.5 * math.log10(2.0))
    noise = math.sqrt(400.0 / 1.5 + (4.0 / 1.5) ** 2) * math.sqrt(math.pi * (1.0 / 0.3) ** 2)
    assert one == pytest.approx(25.5 - 2.5 * math.log10(5 * noise / 90.0))

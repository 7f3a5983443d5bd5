"""Predicted stacks: laws of depth and seeing, and what combining simulated exposures really gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spica.algorithms.frame import Frame
from spica.algorithms.predict import group_codes, predict_stack, predict_stacks
from spica.algorithms.resample import pixel_map_from_wcs
from spica.algorithms.stack import StackInput, combine_frames


def test_depth_grows_by_1_25_log_n_of_equal_exposures() -> None:
    for n in (1, 4, 100):
        found = predict_stack([300.0] * n, [0.8] * n, [24.0] * n)
        assert found.limiting_mag[0] == pytest.approx(24.0 + 1.25 * math.log10(n), abs=1e-9)
        assert found.seeing_arcsec[0] == pytest.approx(0.8, abs=1e-12)
        assert (found.n[0], found.exptime_s[0]) == (n, 300.0 * n)


def test_the_formula_of_the_docstring() -> None:
    depth, seeing = np.array([24.0, 23.1, 24.9]), np.array([0.7, 1.2, 0.9])
    found = predict_stack([60.0, 60.0, 60.0], seeing, depth)
    weight = 10.0 ** (0.8 * depth)
    assert found.limiting_mag[0] == pytest.approx(1.25 * math.log10(weight.sum()), abs=1e-9)
    assert found.seeing_arcsec[0] ** 2 == pytest.approx((weight * seeing**2).sum() / weight.sum(), rel=1e-12)


def test_one_long_exposure_is_worth_its_parts() -> None:
    """Four exposures of t have the depth of one of 4 t: the sky's variance in flux per second goes as 1 / t."""
    sigma_a_second = 7.0

    def depth(exptime_s: float) -> float:
        return -2.5 * math.log10(5.0 * sigma_a_second / math.sqrt(exptime_s))

    parts = predict_stack([100.0] * 4, [0.8] * 4, [depth(100.0)] * 4)
    assert parts.limiting_mag[0] == pytest.approx(depth(400.0), abs=1e-9)


def test_the_order_changes_nothing_and_groups_are_apart() -> None:
    rng = np.random.default_rng(3)
    n, groups = 400, 7
    label = rng.integers(-1, groups, n)
    columns = [rng.uniform(30, 600, n), rng.uniform(0.5, 1.5, n), rng.uniform(22, 25, n)]
    columns[1][::9] = np.nan
    columns[2][::7] = np.nan
    found = predict_stacks(label, groups, *columns)
    order = rng.permutation(n)
    again = predict_stacks(label[order], groups, *(c[order] for c in columns))
    np.testing.assert_allclose(found.seeing_arcsec, again.seeing_arcsec, rtol=1e-12)
    np.testing.assert_allclose(found.limiting_mag, again.limiting_mag, rtol=1e-12)
    for g in range(groups):
        alone = predict_stack(*(c[label == g] for c in columns))
        for name in ("n", "exptime_s", "seeing_arcsec", "limiting_mag", "n_seeing", "n_depth"):
            np.testing.assert_allclose(getattr(found, name)[g], getattr(alone, name)[0], rtol=1e-12)


def test_unknown_measures_are_counted_and_add_no_depth() -> None:
    found = predict_stack([100.0, 100.0, 300.0], [0.8, 1.0, np.nan], [24.0, np.nan, np.nan])
    assert (found.n_seeing[0], found.n_depth[0]) == (2, 1)
    assert found.limiting_mag[0] == pytest.approx(24.0)
    assert found.seeing_arcsec[0] == pytest.approx(math.sqrt((0.8**2 + 1.0**2) / 2))  # as long, so as heavy
    nothing = predict_stack([np.nan], [np.nan], [np.nan])
    assert math.isnan(nothing.seeing_arcsec[0])
    assert math.isnan(nothing.limiting_mag[0])
    assert nothing.exptime_s[0] == 0.0


def test_a_shallow_exposure_spoils_the_seeing_little() -> None:
    sharp, blurred = (
        predict_stack([60.0] * 2, [0.6, 2.0], [25.0, 22.0]),
        predict_stack([60.0] * 2, [0.6, 2.0], [24.0] * 2),
    )
    assert sharp.seeing_arcsec[0] < 0.62
    assert blurred.seeing_arcsec[0] == pytest.approx(math.sqrt((0.36 + 4.0) / 2))


@pytest.mark.parametrize("scale", [1, 100_000])
def test_groups_of_codes(scale: int) -> None:
    """The same whether codes are counted in a table or sorted."""
    objects, filters = np.array([2, 0, 2, -1, 0, 2]) * scale, np.array([1, 1, 1, 1, 0, 3]) * scale
    objects[3] = -1
    found = group_codes(objects, filters)
    assert found.n == 4
    assert found.label[3] == -1
    assert found.label[0] == found.label[2] != found.label[5]
    assert len({found.label[i] for i in (0, 1, 4, 5)}) == 4
    assert all(found.label[row] == g for g, row in enumerate(found.first))


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        group_codes([1, 2], [1])
    with pytest.raises(ValueError, match="not below"):
        predict_stacks([2], 2, [1.0], [1.0], [1.0])
    assert group_codes([]).n == 0


def test_the_combination_gives_the_predicted_depth_and_seeing() -> None:
    """Combine exposures of different noise, scale and seeing with the weights of the stack step; measure the stack."""
    rng = np.random.default_rng(11)
    side, scale = 160, 0.2
    frame = Frame(150.0, 2.0, (side - 1) / 2, (side - 1) / 2, scale, (side, side))
    pixel_map = pixel_map_from_wcs(frame.to_wcs(), frame.shape, frame)
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    fwhm = np.array([0.8, 1.0, 1.5, 1.1])
    noise = np.array([4.0, 6.0, 5.0, 9.0])
    scales = np.array([1.0, 0.8, 1.6, 1.1])
    given = []
    for f, sigma, s in zip(fwhm, noise, scales, strict=True):
        width = f / scale / 2.3548
        star = 2e6 / s * np.exp(-(x**2 + y**2) / (2 * width**2)) / (2 * math.pi * width**2)
        data = (star + rng.normal(0, sigma, star.shape)).astype(np.float32)
        weight = np.full(data.shape, 1.0 / sigma**2, np.float32)
        given.append(StackInput(data=data, weight=weight, pixel_map=pixel_map, flux_scale=float(s)))
    image = np.zeros(frame.shape)
    for strip in combine_frames(given, frame, "weighted", kernel="nearest"):
        image[strip.rows] = strip.image
    empty = np.hypot(x, y) > 40
    area = math.pi * (1.0 / scale) ** 2
    depth = -2.5 * np.log10(5 * math.sqrt(area) * noise * scales)
    found = predict_stack([1.0] * 4, fwhm, depth)
    measured = -2.5 * math.log10(5 * math.sqrt(area) * float(image[empty].std()))
    assert found.limiting_mag[0] == pytest.approx(measured, abs=0.02)  # 20 000 pixels know a noise to 0.5 per cent
    star = np.where(np.hypot(x, y) < 30, image, 0.0)
    moment = float((star * x**2).sum() / star.sum())
    assert found.seeing_arcsec[0] == pytest.approx(2.3548 * math.sqrt(moment) * scale, rel=0.01)

"""Robust statistics: laws, and truth on Gaussian samples with outliers."""

from __future__ import annotations

import numpy as np
import pytest

from spica.algorithms.robust import (
    bad_mask,
    clipped_statistics,
    mad_rms,
    mode_estimate,
    native_image,
    weighted_median,
)


def test_outliers_do_not_move_the_clipped_statistics() -> None:
    rng = np.random.default_rng(1)
    clean = rng.normal(50.0, 4.0, 20_000)
    dirty = np.concatenate([clean, np.full(1000, 1e6), [np.nan, np.inf]])
    found = clipped_statistics(dirty)
    assert found.median == pytest.approx(50.0, abs=0.25)  # a twentieth of values on one side moves it 0.06 rms
    assert found.mean == pytest.approx(50.0, abs=0.15)
    assert found.rms == pytest.approx(4.0 * 0.986, rel=0.02)  # a Gaussian cut at 3 sigma has 0.986 of its rms
    assert 19_800 < found.n_used <= 20_000


def test_scale_and_order_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_t(3, 3001)
    one, other = clipped_statistics(values), clipped_statistics(10.0 * rng.permutation(values) + 7.0)
    assert other.median == pytest.approx(10.0 * one.median + 7.0)
    assert other.rms == pytest.approx(10.0 * one.rms)
    assert other.n_used == one.n_used
    assert mad_rms(3.0 * values - 1.0) == pytest.approx(3.0 * mad_rms(values))


def test_unknown_is_nan_and_constants_have_no_scatter() -> None:
    empty = clipped_statistics([np.nan, np.inf])
    assert np.isnan([empty.mean, empty.median, empty.rms]).all()
    assert empty.n_used == 0
    assert np.isnan(mad_rms([]))
    flat = clipped_statistics(np.full(9, 3.0))
    assert (flat.mean, flat.median, flat.rms, flat.n_used) == (3.0, 3.0, 0.0, 9)


def test_a_mostly_constant_sample_is_not_emptied() -> None:
    values = np.array([1.0] * 8 + [5.0, 9.0])
    assert clipped_statistics(values).n_used >= 8


def test_mad_rms_is_the_rms_of_a_gaussian() -> None:
    assert mad_rms(np.random.default_rng(3).normal(0, 2.0, 200_000)) == pytest.approx(2.0, rel=0.01)


def test_weighted_median_equals_the_median_of_repeated_values() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        values, counts = rng.normal(size=9), rng.integers(0, 5, 9)
        if counts.sum():
            assert weighted_median(values, counts) == pytest.approx(np.median(np.repeat(values, counts)))
    assert np.isnan(weighted_median([1.0, np.nan], [0.0, 1.0]))


def test_mode_formula_as_printed_and_its_limit() -> None:
    assert mode_estimate(10.2, 10.0, 1.0) == pytest.approx(2.5 * 10.0 - 1.5 * 10.2)
    assert mode_estimate(10.4, 10.0, 1.0) == 10.0
    assert mode_estimate(1.0, 1.0, 0.0) == 1.0


@pytest.mark.parametrize("kind", [">f4", ">i2", "<u2", "f8"])
def test_every_dtype_and_stride_enters(kind: str) -> None:
    source = np.arange(48).reshape(6, 8).astype(kind)
    image = native_image(source[::2, ::-2])
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, np.arange(48).reshape(6, 8)[::2, ::-2])


def test_native_image_is_not_copied_and_wrong_shapes_are_refused() -> None:
    image = np.zeros((4, 5), dtype=np.float32)
    assert native_image(image) is image
    for wrong in (np.zeros(5), np.zeros((0, 4)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="one detector"):
            native_image(wrong)
    with pytest.raises(ValueError, match="cut both"):
        bad_mask(image, np.zeros((5, 4)))
    with pytest.raises(ValueError, match="usual values"):
        clipped_statistics([1.0], kappa=0.0)


def test_bad_mask_joins_not_finite_and_marks() -> None:
    image = np.array([[np.nan, 1.0], [np.inf, 2.0]], dtype=np.float32)
    np.testing.assert_array_equal(bad_mask(image, None, np.array([[0, 7], [0, 0]])), [[True, True], [True, False]])
